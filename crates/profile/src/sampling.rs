//! Samples of a workload, alternately with the profiler and without it, and the phase of a report that is made from
//! them.
//!
//! The profiler knows neither models nor training: the crates that do implement [`Workload`] for them.
//!
//! ```
//! use smallmind_graph::{
//!     Batch, Bindings, Buffer, Decay, Executor, Graph, GraphBuilder, GraphError, Init, Limits, Op, ParamSpec, Plan,
//!     PlanOptions, Pool, Probe, Scalars, Workload, op::Index,
//! };
//! use smallmind_profile::report::PhaseKind;
//! use smallmind_profile::sampling::{Instruments, PerRepeat, RoofMeter, SampleCount, Sampled};
//! use smallmind_simd::IsaKind;
//!
//! /// Looks three tokens up.
//! struct Lookup {
//!     graph: Graph,
//!     table: Buffer,
//!     executor: Executor,
//!     pool: Pool,
//!     batch: Batch,
//! }
//!
//! impl Lookup {
//!     fn new(graph: Graph, threads: usize) -> Result<Self, GraphError> {
//!         let limits = Limits { tokens: 3, outputs: 0, spans: 1, context: 3, pages: 0 };
//!         let plan = Plan::new(graph.clone(), PlanOptions::flat(limits, threads, IsaKind::Scalar))?;
//!         let table = Buffer::zeroed(graph.params().layout().len())?;
//!         let mut batch = Batch::default();
//!         batch.push(&[1, 2, 3], 0);
//!         Ok(Self { graph, table, executor: Executor::new(plan)?, pool: Pool::new(threads)?, batch })
//!     }
//! }
//!
//! impl Workload for Lookup {
//!     type Error = GraphError;
//!
//!     fn about(&self) -> String {
//!         "three tokens".to_owned()
//!     }
//!     fn tokens(&self) -> usize {
//!         3
//!     }
//!     fn plans(&self) -> Vec<(&'static str, &Plan)> {
//!         vec![("lookup", self.executor.plan())]
//!     }
//!     fn start(&mut self, _samples: usize) -> Result<Vec<Vec<Batch>>, GraphError> {
//!         Ok(vec![vec![self.batch.clone()]])
//!     }
//!     fn prepare(&mut self) -> Result<(), GraphError> {
//!         Ok(())
//!     }
//!     fn sample<P: Probe>(&mut self, probes: &[P]) -> Result<(), GraphError> {
//!         let Self { table, executor, pool, batch, .. } = self;
//!         executor.run(pool, batch, &Scalars::default(), Bindings::inference(table), &probes[0])
//!     }
//!     fn with_threads(&self, threads: usize) -> Result<Self, GraphError> {
//!         Self::new(self.graph.clone(), threads)
//!     }
//! }
//!
//! let mut b = GraphBuilder::new();
//! let spec = ParamSpec { name: String::new(), rows: 16, cols: 8, init: Init::Constant(1.0), decay: Decay::No };
//! let table = b.param("table", spec)?;
//! let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
//! b.result("x", x);
//! let mut lookup = Lookup::new(b.finish(), 1)?;
//!
//! let mut instruments = Instruments::open(IsaKind::Scalar, None)?;
//! let mut roofs = RoofMeter::new(1, IsaKind::Scalar)?;
//! let count = SampleCount { repeats: 2, per_repeat: PerRepeat::Exactly(10) };
//! let sampled = Sampled::take(&mut lookup, count, &mut instruments, &mut roofs)?;
//! let phase = sampled.phase(PhaseKind::Prefill, &lookup, roofs.table(), None);
//! assert_eq!((phase.samples.count + phase.samples.left_out, phase.samples.repeats.len()), (20, 2));
//! assert_eq!((phase.operations.len(), &phase.operations[0].id.operation[..]), (1, "embedding"));
//! assert_eq!(phase.machine.speeds.len(), 2);
//! # Ok::<(), GraphError>(())
//! ```

use std::time::Instant;

use smallmind_graph::{Batch, GraphError, NoProbe, Plan, Pool, Workload, available_threads};
use smallmind_simd::IsaKind;

use crate::report::measurement::{Measurement, PlanRuns};
use crate::report::trace::Trace;
use crate::report::{Phase, PhaseKind, RoofTable};
use crate::roofs::Effort;
use crate::statistics::median;
use crate::{AllocationCounter, Counters, Events, MachineSpeed, Recorder, Roofs, SpeedProbe};

/// Seconds that the extra samples for the event counters should take together.
const EVENT_SECONDS: f64 = 0.2;
/// Seconds that all samples of a phase should take together, with the profiler and without it.
const PHASE_SECONDS: f64 = 2.0;
/// The most samples of a repeat.
const MAX_SAMPLES: usize = 2000;
/// The most seconds that [`seconds_of_sample`] takes, unless three samples take longer.
const ESTIMATE_SECONDS: f64 = 0.3;
/// The most samples of [`seconds_of_sample`].
const ESTIMATE_SAMPLES: usize = 64;

/// How much is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleCount {
    /// Number of repeats, at least 1. How much they differ shows how certain the figures are.
    pub repeats: usize,
    /// Samples in each repeat.
    pub per_repeat: PerRepeat,
}

/// How many samples a repeat has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerRepeat {
    /// This many samples.
    Exactly(usize),
    /// As many as fit, if all repeats together take about two seconds.
    Fit {
        /// The fewest samples, even if they take longer.
        least: usize,
        /// The most samples, even if more would fit.
        most: usize,
    },
}

impl SampleCount {
    /// Samples of all repeats together, if one takes `seconds`.
    fn samples(&self, seconds: f64) -> usize {
        let repeats = self.repeats.max(1);
        repeats
            * match self.per_repeat {
                PerRepeat::Exactly(samples) => samples.max(1),
                PerRepeat::Fit { least, most } => {
                    let fit = PHASE_SECONDS / (2.0 * repeats as f64 * seconds.max(1e-9));
                    (fit as usize).max(least).min(most.min(MAX_SAMPLES)).max(1)
                }
            }
    }
}

/// Functions that read how much a program has allocated.
#[derive(Clone, Copy, Debug)]
pub struct AllocationCounters {
    /// Calls of the allocator by all threads so far.
    pub calls: fn() -> u64,
    /// What the calling thread has allocated so far.
    pub of_this_thread: AllocationCounter,
}

/// What is measured besides the times of samples.
pub struct Instruments {
    counters: Counters,
    speed: SpeedProbe,
    allocations: Option<AllocationCounters>,
}

impl Instruments {
    /// Opens the instruments. The system's counters count only threads that are started later.
    ///
    /// # Errors
    /// Too little memory, or an instruction set that this CPU lacks.
    pub fn open(isa: IsaKind, allocations: Option<AllocationCounters>) -> Result<Self, GraphError> {
        Ok(Self { counters: Counters::open(), speed: SpeedProbe::new(isa)?, allocations })
    }
}

/// Measures the roofs at the beginning of a profile and after each phase, and keeps the best of all: a roof that is
/// measured while another program has a CPU is too low.
pub struct RoofMeter {
    pool: Pool,
    isa: IsaKind,
    table: RoofTable,
}

impl RoofMeter {
    /// Measures the roofs for the first time.
    ///
    /// # Errors
    /// Too little memory, or an instruction set that this CPU lacks.
    pub fn new(threads: usize, isa: IsaKind) -> Result<Self, GraphError> {
        let mut pool = Pool::new(threads)?;
        let table = RoofTable::from(&Roofs::measure(&mut pool, isa, Effort::QUICK)?);
        Ok(Self { pool, isa, table })
    }

    /// Measures the roofs again; returns the nanoseconds that a barrier takes now.
    ///
    /// # Errors
    /// Too little memory.
    pub fn measure_again(&mut self) -> Result<f64, GraphError> {
        let now = RoofTable::from(&Roofs::measure(&mut self.pool, self.isa, Effort::QUICK)?);
        self.table.raise(&now);
        Ok(now.barrier_ns)
    }

    /// The best of all measurements so far.
    pub fn table(&self) -> &RoofTable {
        &self.table
    }
}

/// Samples taken alternately with the profiler and without it.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Seconds of each sample with the profiler, in order.
    pub on: Vec<f64>,
    /// Seconds of each sample without it, in order.
    pub off: Vec<f64>,
    /// Calls of the allocator in a sample without the profiler; none if they aren't counted.
    pub allocations: Option<f64>,
    /// Events in a sample without the profiler.
    pub events: Events,
    /// The machine's speed before each repeat.
    pub speeds: Vec<MachineSpeed>,
}

impl Samples {
    /// Takes `count` pairs of samples in `repeats` repeats; pairs alternate in which sample comes first. More samples
    /// follow for the event counters, so that reading these doesn't disturb the times.
    fn take<W: Workload>(
        workload: &mut W,
        (count, repeats): (usize, usize),
        recorders: &[Recorder],
        instruments: &mut Instruments,
    ) -> Result<Self, W::Error> {
        let list = || Vec::with_capacity(count);
        let mut samples = Self { on: list(), off: list(), speeds: Vec::with_capacity(repeats), ..Self::default() };
        let off = no_probes(workload);
        let mut calls = 0;
        for pair in 0..count {
            if pair.is_multiple_of((count / repeats.max(1)).max(1)) && samples.speeds.len() < repeats {
                samples.speeds.push(instruments.speed.measure());
            }
            let order = if pair % 2 == 0 { [Some(recorders), None] } else { [None, Some(recorders)] };
            for recorders in order {
                workload.prepare()?;
                let before = instruments.allocations.map(|counters| (counters.calls)());
                let begin = Instant::now();
                match recorders {
                    Some(recorders) => workload.sample(recorders)?,
                    None => workload.sample(&off)?,
                }
                let seconds = begin.elapsed().as_secs_f64();
                if recorders.is_some() {
                    samples.on.push(seconds);
                } else {
                    samples.off.push(seconds);
                    let now = instruments.allocations.map(|counters| (counters.calls)());
                    calls += now.zip(before).map_or(0, |(now, before)| now - before);
                }
            }
        }
        samples.allocations = instruments.allocations.map(|_| calls as f64 / count.max(1) as f64);
        let before = instruments.counters.read();
        if before != Events::default() {
            let more = ((EVENT_SECONDS / median(&samples.off).max(1e-9)) as usize).clamp(1, count.max(1));
            for _ in 0..more {
                workload.prepare()?;
                workload.sample(&off)?;
            }
            samples.events = instruments.counters.read().since(before).per(more as f64);
        }
        Ok(samples)
    }
}

/// A [`NoProbe`] for each plan of a workload.
fn no_probes<W: Workload>(workload: &W) -> Vec<NoProbe> {
    workload.plans().iter().map(|_| NoProbe).collect()
}

/// Seconds of a sample: the median of a few, after one that warms up.
///
/// # Errors
/// Runs that fail.
pub fn seconds_of_sample<W: Workload>(workload: &mut W) -> Result<f64, W::Error> {
    let off = no_probes(workload);
    workload.prepare()?;
    workload.sample(&off)?;
    let mut all = Vec::with_capacity(ESTIMATE_SAMPLES);
    let started = Instant::now();
    while all.len() < 3 || (all.len() < ESTIMATE_SAMPLES && started.elapsed().as_secs_f64() < ESTIMATE_SECONDS) {
        workload.prepare()?;
        let begin = Instant::now();
        workload.sample(&off)?;
        all.push(begin.elapsed().as_secs_f64());
    }
    Ok(median(&all))
}

/// What a phase of a report is made from, except the plans and the roofs.
pub struct Sampled {
    about: String,
    tokens: f64,
    repeats: usize,
    recorders: Vec<Recorder>,
    batches: Vec<Vec<Batch>>,
    samples: Samples,
    barrier_ns: f64,
    threads: Vec<(usize, f64)>,
}

impl Sampled {
    /// Samples `workload`, then measures the roofs again and the workload on one thread fewer and on one more.
    ///
    /// # Errors
    /// Runs that fail; too little memory.
    pub fn take<W: Workload>(
        workload: &mut W,
        count: SampleCount,
        instruments: &mut Instruments,
        roofs: &mut RoofMeter,
    ) -> Result<Self, W::Error> {
        let samples = count.samples(seconds_of_sample(workload)?);
        let batches = workload.start(samples)?;
        let counter = instruments.allocations.map(|counters| counters.of_this_thread);
        let recorder = |((_, plan), batches): ((&str, &Plan), &Vec<Batch>)| {
            Recorder::keeping(plan, samples * batches.len()).counting(counter)
        };
        let recorders: Vec<Recorder> = workload.plans().into_iter().zip(&batches).map(recorder).collect();
        let samples = Samples::take(workload, (samples, count.repeats), &recorders, instruments)?;
        let barrier_ns = roofs.measure_again()?;
        let threads = on_other_threads(workload)?;
        let (about, tokens, repeats) = (workload.about(), workload.tokens() as f64, count.repeats);
        Ok(Self { about, tokens, repeats, recorders, batches, samples, barrier_ns, threads })
    }

    /// The measurement; `workload` is the one that was sampled.
    pub fn measurement<'a, W: Workload>(&'a self, kind: PhaseKind, workload: &'a W) -> Measurement<'a> {
        let all = workload.plans().into_iter().zip(self.recorders.iter().zip(&self.batches));
        let plans = all.map(|((name, plan), (recorder, batches))| PlanRuns { name, plan, recorder, batches });
        Measurement {
            kind,
            about: self.about.clone(),
            tokens: self.tokens,
            repeats: self.repeats,
            plans: plans.collect(),
            samples: &self.samples,
            drift: vec![],
            threads: self.threads.clone(),
            stages: vec![],
            barrier_ns: self.barrier_ns,
        }
    }

    /// The phase of the report. Its samples are added to `trace`, if there is one.
    pub fn phase<W: Workload>(
        &self,
        kind: PhaseKind,
        workload: &W,
        roofs: &RoofTable,
        trace: Option<&mut Trace>,
    ) -> Phase {
        let measured = self.measurement(kind, workload);
        let phase = measured.phase(roofs);
        if let Some(trace) = trace {
            trace.add(&measured, &phase);
        }
        phase
    }
}

/// Numbers of threads, each with its seconds per token: one thread fewer and one more, if there are CPUs for them.
fn on_other_threads<W: Workload>(workload: &W) -> Result<Vec<(usize, f64)>, W::Error> {
    let Some(now) = workload.plans().first().map(|(_, plan)| plan.threads()) else { return Ok(vec![]) };
    let others = [now.saturating_sub(1), now + 1].into_iter().filter(|n| (1..=available_threads()).contains(n));
    let one = |threads| {
        let mut other = workload.with_threads(threads)?;
        Ok((threads, seconds_of_sample(&mut other)? / other.tokens() as f64))
    };
    others.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_fit_into_the_time_within_their_bounds() {
        let samples = |repeats, per_repeat, seconds| SampleCount { repeats, per_repeat }.samples(seconds);
        let fit = |least, most| PerRepeat::Fit { least, most };
        assert_eq!(samples(4, PerRepeat::Exactly(3), 1.0), 12);
        assert_eq!(samples(4, fit(1, usize::MAX), 0.1), 4 * 2, "2 s for 4 repeats of both kinds of samples");
        assert_eq!(samples(4, fit(8, usize::MAX), 10.0), 4 * 8);
        assert_eq!(samples(4, fit(1, 5), 1e-6), 4 * 5);
        assert_eq!(samples(4, fit(1, usize::MAX), 1e-9), 4 * MAX_SAMPLES);
        assert_eq!((samples(0, PerRepeat::Exactly(0), 0.0), samples(1, fit(8, 2), 1.0)), (1, 2));
    }
}
