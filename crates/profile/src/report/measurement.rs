//! From recorded times, costs and roofs to a phase of the report.

use std::ops::Range;

use smallmind_graph::{Batch, Node, Placement, Plan, Span};
use smallmind_kernels::Format;

use super::operation::{Kind, OperationId, OperationRoof, OperationTime, traffic_in};
use super::phase::{
    Arena, ArenaValue, Breakdown, Counted, Latency, MachineState, Outlook, Rate, SampleStats, Slice, TimeSplit,
};
use super::{Bound, Operation, Phase, PhaseKind, RoofTable, advice};
use crate::sampling::Samples;
use crate::statistics::{mean, median, quantile, spread};
use crate::traffic::{Traffic, kernel, shape, weight_formats};
use crate::{Class, Recorder, RunTimes};

/// The runs of one plan within a sample.
pub struct PlanRuns<'a> {
    /// What the plan is for.
    pub name: &'a str,
    /// The plan.
    pub plan: &'a Plan,
    /// What recorded the plan's runs, those of all samples.
    pub recorder: &'a Recorder,
    /// The batches of a sample's runs, in order.
    pub batches: &'a [Batch],
}

/// What was measured of an activity: samples taken alternately with the profiler and without it.
pub struct Measurement<'a> {
    /// What was measured.
    pub kind: PhaseKind,
    /// What one sample is, in words.
    pub about: String,
    /// Tokens of a sample.
    pub tokens: f64,
    /// Number of repeats that the samples are divided into; it divides the number of samples.
    pub repeats: usize,
    /// The plans that ran.
    pub plans: Vec<PlanRuns<'a>>,
    /// The samples.
    pub samples: &'a Samples,
    /// Other lengths of context, each with its seconds per token.
    pub drift: Vec<(usize, f64)>,
    /// Other numbers of threads, each with its seconds per token.
    pub threads: Vec<(usize, f64)>,
    /// Seconds by name, see [`Breakdown::stages`]. For prefill: the stages before the first token, which are not part
    /// of a sample.
    pub stages: Vec<(String, f64)>,
    /// A barrier, measured right after the samples: nanoseconds; 0 if it wasn't measured.
    pub barrier_ns: f64,
}

/// A sample that takes more than this many times the median shared its CPUs with another program.
const DISTURBED_RATIO: f64 = 1.5;
/// The quantile of a repeat's samples that represents the repeat.
const REPEAT_QUANTILE: f64 = 0.1;
/// The most samples that a report lists.
const LISTED: usize = 2000;
/// An operation that waits for more than this share of its time is bound by waiting.
const WAITING: f64 = 0.5;
/// A short operation that reaches less than this share of its roof is bound by latency.
const FAR: f64 = 0.35;
/// A call is short if it takes no longer than this many barriers.
const SHORT_BARRIERS: f64 = 20.0;
/// The least nanoseconds that a barrier counts as: with one worker it is measured as next to nothing.
const LEAST_BARRIER: f64 = 100.0;

impl Measurement<'_> {
    /// Indices of the samples that nothing disturbed.
    pub fn quiet(seconds: &[f64]) -> Vec<usize> {
        let limit = DISTURBED_RATIO * median(seconds);
        (0..seconds.len()).filter(|i| seconds[*i] <= limit).collect()
    }

    /// The phase of the report.
    pub fn phase(&self, roofs: &RoofTable) -> Phase {
        let quiet = Self::quiet(&self.samples.on);
        let runs = self.run_times();
        let mut phase = Phase {
            kind: self.kind,
            about: self.about.clone(),
            samples: self.sample_stats(&quiet),
            rate: self.rate(&quiet),
            time: TimeSplit::default(),
            counted: Counted {
                allocations: self.samples.allocations.map(|calls| calls / self.tokens),
                events: self.samples.events.per(self.tokens),
            },
            traffic: Traffic::default(),
            operations: self.rows(roofs),
            outlook: Outlook::default(),
            breakdown: Breakdown { drift: self.drift.clone(), stages: self.stages.clone(), checkpoint: None },
            machine: MachineState { barrier_ns: self.barrier_ns, speeds: self.samples.speeds.clone() },
            arenas: self.plans.iter().map(arena).collect(),
            timeline: vec![],
        };
        phase.time = self.time_split(&phase.rate, &quiet, &runs);
        self.fill_times(&mut phase, &quiet, &runs);
        finish(&mut phase, roofs);
        let threads = self.plans.first().map_or(1, |runs| runs.plan.threads());
        phase.outlook.what_ifs = advice::what_ifs(&phase, roofs, &self.threads, threads);
        phase.outlook.roadmap = advice::roadmap(&phase);
        let away = |i: usize| (self.samples.on[i] - phase.rate.profiled_seconds * self.tokens).abs();
        let middle = quiet.iter().min_by(|a, b| away(**a).total_cmp(&away(**b)));
        phase.timeline = middle.map(|i| self.slices(*i, &phase.operations)).unwrap_or_default();
        phase
    }

    fn sample_stats(&self, quiet: &[usize]) -> SampleStats {
        let repeats = self.by_repeat(|i| self.samples.off[i] / self.tokens);
        SampleStats {
            tokens: self.tokens,
            count: quiet.len(),
            left_out: self.samples.on.len() - quiet.len(),
            noise: spread(&repeats) / mean(&repeats),
            repeats,
            latency: latency(&self.samples.off),
        }
    }

    /// The rate. Its ceiling is filled in later, from the operations.
    fn rate(&self, quiet: &[usize]) -> Rate {
        let a_token =
            |all: &[f64], kept: &[usize]| mean(&kept.iter().map(|i| all[*i]).collect::<Vec<_>>()) / self.tokens;
        let seconds = a_token(&self.samples.off, &Self::quiet(&self.samples.off));
        let profiled_seconds = a_token(&self.samples.on, quiet);
        Rate { seconds, tokens_per_second: 1.0 / seconds, profiled_seconds, ceiling: 0.0, share_of_ceiling: 0.0 }
    }

    /// The split of time; `waiting` is filled in later, from the operations.
    fn time_split(&self, rate: &Rate, quiet: &[usize], runs: &[(Vec<RunTimes>, usize)]) -> TimeSplit {
        let (mut inside, mut walls) = (0.0, 0.0);
        for run in quiet.iter().flat_map(|i| runs.iter().flat_map(move |(times, per)| &times[i * per..(i + 1) * per])) {
            inside += run.inside();
            walls += run.wall;
        }
        let per_token = 1.0 / (quiet.len().max(1) as f64 * self.tokens);
        let ratios: Vec<f64> = self.samples.on.iter().zip(&self.samples.off).map(|(on, off)| on / off).collect();
        TimeSplit {
            coverage: inside * per_token / rate.profiled_seconds,
            overhead: median(&ratios) - 1.0,
            entering: (walls - inside) * per_token,
            between: rate.profiled_seconds - walls * per_token,
            waiting: 0.0,
        }
    }

    /// The times of each plan's runs, and its number of runs in a sample.
    fn run_times(&self) -> Vec<(Vec<RunTimes>, usize)> {
        self.plans.iter().map(|runs| (RunTimes::of(runs.plan, runs.recorder), runs.batches.len())).collect()
    }

    /// The 10 % quantile of each repeat's samples.
    ///
    /// On a machine that others use too, the means of repeats differ by several percent, and so do medians if a whole
    /// repeat is disturbed. The 10 % quantiles differ by less than a percent, so that two reports can be compared.
    fn by_repeat(&self, value: impl Fn(usize) -> f64) -> Vec<f64> {
        let samples = self.samples.on.len();
        let size = (samples / self.repeats.max(1)).max(1);
        let repeat = |r: usize| (r * size..((r + 1) * size).min(samples)).map(&value).collect::<Vec<_>>();
        (0..self.repeats).map(repeat).filter(|all| !all.is_empty()).map(|all| quantile(&all, REPEAT_QUANTILE)).collect()
    }

    /// The operations with their work, still without times.
    fn rows(&self, roofs: &RoofTable) -> Vec<Operation> {
        let mut rows: Vec<Operation> = vec![];
        for runs in &self.plans {
            for node in runs.plan.graph().nodes() {
                let id = OperationId::of(node);
                let at = rows.iter().position(|row| row.id == id).unwrap_or_else(|| {
                    rows.push(row(id, runs, node, roofs));
                    rows.len() - 1
                });
                let row = &mut rows[at];
                // Several plans may have the node, and several of its kind may have one path.
                if row.time.members.iter().all(|(path, _)| *path != node.path) {
                    row.time.members.push((node.path.clone(), 0.0));
                }
                for batch in runs.batches {
                    row.calls += 1.0 / self.tokens;
                    row.traffic += runs.traffic(node, batch).times(1.0 / self.tokens);
                }
            }
        }
        rows
    }

    /// Adds the times of the samples `quiet` to the operations.
    fn fill_times(&self, phase: &mut Phase, quiet: &[usize], runs: &[(Vec<RunTimes>, usize)]) {
        let samples = self.samples.on.len();
        let owners = self.owners(&phase.operations);
        let mut by_sample = vec![vec![0.0; samples]; phase.operations.len()];
        let mut slowest = vec![0.0; phase.operations.len()];
        let scale = 1.0 / (quiet.len().max(1) as f64 * self.tokens);
        for ((times, per), (of_plan, owners)) in runs.iter().zip(self.plans.iter().zip(&owners)) {
            for (step, one) in of_plan.plan.steps().iter().enumerate() {
                let (row, member) = owners[one.node().index()];
                let operation = &mut phase.operations[row];
                for (sample, kept) in (0..samples).map(|i| (i, quiet.binary_search(&i).is_ok())) {
                    for run in &times[sample * per..(sample + 1) * per] {
                        let seconds = run.work[step] + run.wait[step];
                        by_sample[row][sample] += seconds / self.tokens;
                        if !kept {
                            continue;
                        }
                        operation.time.seconds += seconds * scale;
                        operation.time.wait += run.wait[step] * scale;
                        operation.time.members[member].1 += seconds * scale;
                        slowest[row] += run.slowest[step] * scale;
                    }
                }
                if let Some(allocated) = of_plan.recorder.allocated(step) {
                    let all = samples.max(1) as f64 * self.tokens;
                    let (calls, bytes) = operation.allocations.get_or_insert((0.0, 0.0));
                    *calls += allocated.calls as f64 / all;
                    *bytes += allocated.bytes as f64 / all;
                }
            }
        }
        for ((operation, samples), slowest) in phase.operations.iter_mut().zip(&by_sample).zip(&slowest) {
            let time = &mut operation.time;
            time.repeats = self.by_repeat(|i| samples[i]);
            time.imbalance = slowest / (time.seconds - time.wait).max(f64::MIN_POSITIVE);
        }
    }

    /// For each plan and node: the index of its operation, and its index among that operation's members.
    fn owners(&self, operations: &[Operation]) -> Vec<Vec<(usize, usize)>> {
        let owner = |node: &Node| {
            let id = OperationId::of(node);
            let row = operations.iter().position(|o| o.id == id).unwrap_or(0);
            let members = &operations[row].time.members;
            (row, members.iter().position(|(path, _)| *path == node.path).unwrap_or(0))
        };
        self.plans.iter().map(|runs| runs.plan.graph().nodes().iter().map(owner).collect()).collect()
    }

    /// Seconds that each recorded sample spends at work in each of the phase's `operations`: `[samples][operations]`.
    pub fn work_by_sample(&self, operations: &[Operation]) -> Vec<Vec<f64>> {
        let mut work = vec![vec![0.0; operations.len()]; self.samples.on.len()];
        let owners = self.owners(operations);
        for ((times, per), (of_plan, owners)) in self.run_times().iter().zip(self.plans.iter().zip(owners)) {
            for (run, times) in times.iter().enumerate() {
                for (step, seconds) in of_plan.plan.steps().iter().zip(&times.work) {
                    work[run / per][owners[step.node().index()].0] += seconds;
                }
            }
        }
        work
    }

    /// What each worker did when in one sample; `operations` are those of the phase.
    pub fn slices(&self, sample: usize, operations: &[Operation]) -> Vec<Slice> {
        let owners = self.owners(operations);
        let begins = self.plans.iter().filter_map(|p| p.runs_of(sample).next().map(|run| p.recorder.span(run).0));
        let origin = begins.fold(f64::MAX, f64::min);
        let mut slices = vec![];
        for (of_plan, owners) in self.plans.iter().zip(&owners) {
            for run in of_plan.runs_of(sample) {
                for worker in 0..of_plan.plan.threads() {
                    run_slices(of_plan, owners, run, worker, origin, &mut slices);
                }
            }
        }
        slices
    }
}

impl PlanRuns<'_> {
    /// The work of a node on a batch.
    fn traffic(&self, node: &Node, batch: &Batch) -> Traffic {
        traffic_in(self.plan, node, batch)
    }

    /// The indices of the runs of a sample.
    fn runs_of(&self, sample: usize) -> Range<usize> {
        let (first, per) = (self.recorder.kept().start, self.batches.len());
        first + sample * per..first + (sample + 1) * per
    }
}

/// A new operation whose first member is `node`, still without work and times.
fn row(id: OperationId, runs: &PlanRuns<'_>, node: &Node, roofs: &RoofTable) -> Operation {
    let none = Batch::default();
    let batch = largest(runs.batches).unwrap_or(&none);
    let formats: Vec<&str> = weight_formats(runs.plan, node).into_iter().map(Format::name).collect();
    Operation {
        rank: 0,
        id,
        kind: Kind {
            class: Class::of(&node.op),
            kernel: kernel(runs.plan, node, batch),
            weights: (!formats.is_empty()).then(|| formats.join(" and ")),
            cache: node.op.info().effects.cache.then(|| runs.plan.cache_format().to_string()),
            shape: shape(runs.plan.graph(), node, batch),
        },
        calls: 0.0,
        traffic: Traffic::default(),
        time: OperationTime { imbalance: 1.0, ..OperationTime::default() },
        roof: OperationRoof::of(runs.plan, node, batch, roofs),
        allocations: None,
    }
}

/// The batch that represents all batches of a sample: the one with most tokens; among these the one with most pairs of
/// a token and a token that it sees; among these the last, which has outputs. (All chunks of a prompt but the last are
/// equally long; micro-batches of documents have equally many tokens, but other spans.)
fn largest(batches: &[Batch]) -> Option<&Batch> {
    let seen = |span: &Span| span.len * (2 * span.past + span.len);
    batches.iter().max_by_key(|batch| (batch.len(), batch.spans().iter().map(seen).sum::<usize>()))
}

/// Fills in shares, roofs, bounds, gains and ranks, which follow from times and work.
fn finish(phase: &mut Phase, roofs: &RoofTable) {
    let total = phase.rate.profiled_seconds;
    let short = SHORT_BARRIERS * roofs.barrier_ns.max(LEAST_BARRIER) * 1e-9;
    let mut at_roof = 0.0;
    for operation in &mut phase.operations {
        let (memory, compute) = operation.roof.bounds(&operation.traffic);
        let least = memory.max(compute);
        at_roof += least;
        operation.roof.seconds = least;
        operation.time.share = operation.time.seconds / total;
        operation.roof.share = least / operation.time.seconds.max(f64::MIN_POSITIVE);
        operation.roof.gain = 1.0 / (total - operation.saved_at_roof()).max(f64::MIN_POSITIVE) - 1.0 / total;
        operation.roof.bound = if operation.time.wait > WAITING * operation.time.seconds {
            Bound::Waiting
        } else if operation.roof.share < FAR && operation.call_seconds() < short {
            Bound::Latency
        } else if memory >= compute {
            Bound::Memory
        } else {
            Bound::Compute
        };
        phase.traffic += operation.traffic;
        phase.time.waiting += operation.time.wait;
    }
    phase.operations.sort_by(|a, b| b.roof.gain.total_cmp(&a.roof.gain));
    let mut cumulative = 0.0;
    for (i, operation) in phase.operations.iter_mut().enumerate() {
        operation.rank = i + 1;
        cumulative += operation.time.share;
        operation.time.cumulative = cumulative;
    }
    phase.rate.ceiling = 1.0 / at_roof.max(f64::MIN_POSITIVE);
    phase.rate.share_of_ceiling = phase.rate.tokens_per_second / phase.rate.ceiling;
}

fn latency(samples: &[f64]) -> Latency {
    let at = |q| quantile(samples, q);
    let all = samples.iter().copied().step_by(samples.len().div_ceil(LISTED).max(1)).collect();
    Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0), all }
}

fn arena(runs: &PlanRuns<'_>) -> Arena {
    let nodes = runs.plan.graph().nodes();
    let value = |placement: &Placement| ArenaValue {
        path: nodes.get(placement.alive.start).map_or_else(String::new, |n| format!("{} {}", n.path, n.op.name())),
        offset: 4 * placement.elements.start as u64,
        bytes: 4 * placement.elements.len() as u64,
        from: placement.alive.start,
        to: placement.alive.end,
    };
    Arena {
        plan: runs.name.to_owned(),
        bytes: runs.plan.arena_bytes() as u64,
        unplanned_bytes: runs.plan.unplanned_bytes() as u64,
        nodes: nodes.len(),
        values: runs.plan.placements().iter().map(value).collect(),
    }
}

/// Adds what `worker` did in a run: its steps, and waiting between them.
fn run_slices(
    runs: &PlanRuns<'_>,
    owners: &[(usize, usize)],
    run: usize,
    worker: usize,
    origin: f64,
    slices: &mut Vec<Slice>,
) {
    let (begin, end) = runs.recorder.span(run);
    let seconds = |from: f64, to: f64| (to - from).max(0.0);
    let wait = |from: f64, to: f64| Slice {
        worker,
        operation: None,
        path: String::new(),
        begin: seconds(origin, from),
        seconds: seconds(from, to),
    };
    let mut at = begin;
    for (index, step) in runs.plan.steps().iter().enumerate() {
        let Some((from, to)) = runs.recorder.times(run, worker, index) else { continue };
        if from > at {
            slices.push(wait(at, from));
        }
        slices.push(Slice {
            worker,
            operation: Some(owners[step.node().index()].0),
            path: runs.plan.graph().nodes()[step.node().index()].path.clone(),
            begin: seconds(origin, from),
            seconds: seconds(from, to),
        });
        at = to;
    }
    if end > at {
        slices.push(wait(at, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_batch_stands_for_all() {
        let of = |spans: &[usize]| {
            let mut batch = Batch::default();
            spans.iter().for_each(|len| batch.push(&vec![0; *len], 0));
            batch
        };
        let micro_batches = [of(&[4, 4]), of(&[1, 7]), of(&[5, 3])];
        assert_eq!(largest(&micro_batches).unwrap().spans()[1].len, 7, "as many tokens, most pairs");
        let chunks = [of(&[8]), of(&[3])];
        assert_eq!(largest(&chunks).unwrap().len(), 8);
        let mut equal = [of(&[8]), of(&[8])];
        equal[1].want_last();
        assert_eq!(largest(&equal).unwrap().outputs().len(), 1, "the last of equal ones");
        assert!(largest(&[]).is_none());
    }
}
