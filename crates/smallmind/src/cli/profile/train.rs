//! `smallmind profile train`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use smallmind::graph::{Batch, NoProbe, Plan, Probe, available_threads};
use smallmind::profile::report::join::{Measurement, Part};
use smallmind::profile::report::trace::Trace;
use smallmind::profile::report::{Checkpointing, Phase, Report};
use smallmind::profile::statistics::median;
use smallmind::profile::{Counters, Pulse, Recorder, SystemCounters};
use smallmind::train::{Stepper, TrainConfig, TrainError};

use super::super::failure::{self, Failure, Outcome};
use super::super::settings::Settings;
use super::super::{interrupt, note, units};
use super::generate::phase_of;
use super::interleave::{Count, Profiler, Watched, interleave, samples_of_a_repeat, seconds_of};
use super::subject::{self, Ceiling};
use super::training::{Training, TrainingArg};
use super::written::Written;
use crate::allocations;

/// A rate that changes weights little, so that all samples train the same model.
const RATE: f64 = 1e-5;
/// Checkpoints that are timed at most.
const CHECKPOINTS: usize = 5;
/// Seconds of checkpoints after which no other one is timed.
const ENOUGH: f64 = 1.0;

/// Options of `profile train`.
#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    training: TrainingArg,
    /// Repeats, whose differences tell how sure the figures are
    #[arg(short, long, default_value_t = 16, value_name = "N", value_parser = units::within::<u16>(1..=100))]
    runs: u16,
    /// Steps in each repeat [default: what fits into about two seconds]
    #[arg(short = 'n', long, value_name = "N", value_parser = units::within::<u32>(1..=10_000))]
    steps: Option<u32>,
    #[command(flatten)]
    written: Written,
}

/// Steps that are sampled.
struct Bench {
    stepper: Stepper,
    /// Samples that were begun: each step is sampled twice, with the profiler and without.
    begun: u64,
    /// Seconds of drawing batches, by sample.
    drawing: Vec<f64>,
    /// Set by Ctrl-C.
    stop: &'static AtomicBool,
}

impl Train {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let (isa, threads) = (settings.isa()?, settings.threads());
        let places = self.written.claim()?;
        let stop = interrupt::watch("stopping without a report (Ctrl-C again ends at once)")?;
        // Before there are workers, so that these are counted too.
        let mut watched = Watched { counters: Counters::open(), pulse: Pulse::new(isa)? };
        let training = self.training.open(settings, self.written.folder(), (threads, isa))?;
        let Training { stepper, config, name, text, tokenizer, folder } = training;
        let about = format!("{} of {text}", sizes(&stepper));
        note!("profiling steps of {name}: {about}, on {threads} threads");
        let model = stepper.learner().model();
        let subject =
            subject::subject("train", name, model.config(), &subject::Stored::of(model.params(), None), (threads, isa));
        self.written.check_baseline(&subject, &[("step", &about)])?;
        let mut roofs = Ceiling::new(threads, isa)?;
        let counters = SystemCounters::read();
        let mut trace = self.written.trace();
        let steps = self.steps.map(|n| n as usize);
        let mut bench = Bench { stepper, begun: 0, drawing: vec![], stop };
        let mut phase =
            bench.step((usize::from(self.runs), steps), about, (&mut roofs, &mut watched), trace.as_mut())?;
        // What has been measured is told, whether the disk takes checkpoints or not.
        match bench.checkpointing(folder.path(), &config, &tokenizer) {
            Ok(checkpoint) => {
                phase.stages.push(("checkpoint".to_owned(), checkpoint.seconds / checkpoint.interval as f64));
                phase.checkpoint = Some(checkpoint);
            }
            Err(error) => note!("warning: checkpoints can't be timed: {}", failure::message(&error.into())),
        }
        bench.go_on()?;
        let report = Report::new(subject, roofs.table().clone(), counters.since(), vec![phase]);
        self.written.write(places, report, trace.as_ref(), settings)
    }
}

/// A step's size in words.
fn sizes(stepper: &Stepper) -> String {
    let settings = stepper.settings();
    let each = format!("{} sequences of {} tokens", settings.shape.sequences, settings.shape.context);
    if settings.micro_batches == 1 { each } else { format!("{} micro-batches, {each} each,", settings.micro_batches) }
}

impl Bench {
    /// Ends the profile where Ctrl-C asks for that.
    fn go_on(&self) -> Outcome {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted("interrupted".to_owned()).into());
        }
        Ok(())
    }

    /// What the trainer does in a step, unless Ctrl-C comes first; gives the seconds of drawing.
    fn one<P: Probe>(&mut self, step: u64, gradient: &P, update: &P) -> anyhow::Result<f64> {
        self.go_on()?;
        let mut drawing = 0.0;
        for micro_batch in 0..self.stepper.settings().micro_batches {
            let begin = Instant::now();
            self.stepper.draw(step, micro_batch)?;
            drawing += begin.elapsed().as_secs_f64();
            self.stepper.accumulate(step, micro_batch, gradient)?;
        }
        self.stepper.update(RATE, update)?;
        Ok(drawing)
    }

    fn step_seconds(&mut self) -> anyhow::Result<f64> {
        let mut step = 0;
        seconds_of(|| {
            self.one(step, &NoProbe, &NoProbe)?;
            step += 1;
            Ok(())
        })
    }

    fn step(
        &mut self,
        (repeats, steps): (usize, Option<usize>),
        about: String,
        (roofs, watched): (&mut Ceiling, &mut Watched),
        trace: Option<&mut Trace>,
    ) -> anyhow::Result<Phase> {
        let once = self.step_seconds()?;
        let count = repeats * steps.unwrap_or_else(|| samples_of_a_repeat(once, repeats, 1));
        let (micro_batches, tokens) = (self.stepper.settings().micro_batches, self.stepper.settings().tokens());
        let batches = self.middle_batches(count as u64)?;
        self.drawing.reserve(2 * count);
        let (gradient, update) = (self.stepper.learner().gradient_plan(), self.stepper.learner().update_plan());
        let recorder = |plan: &Plan, runs| Recorder::keeping(plan, runs).counting(Some(allocations::of_this_thread));
        let recorders = (recorder(gradient, count * micro_batches), recorder(update, count));
        let begin = |bench: &mut Self| {
            bench.begun += 1;
            Ok(())
        };
        let samples = interleave(Count { samples: count, repeats }, watched, self, begin, |bench, profiler| {
            let step = (bench.begun - 1) / 2;
            let drawing = match profiler {
                Profiler::On => bench.one(step, &recorders.0, &recorders.1)?,
                Profiler::Off => bench.one(step, &NoProbe, &NoProbe)?,
            };
            bench.drawing.push(drawing);
            Ok(())
        })?;
        let barrier_ns = roofs.again()?;
        let threads = self.other_threads()?;
        let (gradient, update) = (self.stepper.learner().gradient_plan(), self.stepper.learner().update_plan());
        let none = [Batch::default()];
        let parts = vec![
            Part { name: "forward and backward", plan: gradient, recorder: &recorders.0, batches: &batches },
            Part { name: "update", plan: update, recorder: &recorders.1, batches: &none },
        ];
        let measured = Measurement {
            name: "step",
            about,
            tokens: tokens as f64,
            repeats,
            parts,
            on: samples.on,
            off: samples.off,
            allocations: Some(samples.allocations),
            drift: vec![],
            threads,
            stages: vec![],
            events: samples.events,
            beats: samples.beats,
        };
        let mut phase = phase_of(&measured, roofs.table(), barrier_ns, trace);
        phase.stages = phase.passes();
        phase.stages.insert(0, ("data".to_owned(), median(&self.drawing)));
        Ok(phase)
    }

    /// What checkpoints cost that are written into the folder `run`, each in the place of the one before.
    fn checkpointing(&self, run: &Path, config: &TrainConfig, tokenizer: &[u8]) -> Result<Checkpointing, TrainError> {
        let mut seconds = Vec::with_capacity(CHECKPOINTS);
        while seconds.len() < CHECKPOINTS && seconds.iter().sum::<f64>() < ENOUGH && self.go_on().is_ok() {
            let timed = self.stepper.time_checkpoint(run, seconds.len() as u64, config, tokenizer)?;
            seconds.push(timed.seconds);
            if let Some(warning) = timed.warning {
                note!("warning: {warning}");
            }
        }
        let (interval, all) = (config.checkpoint.interval, config.train.steps);
        Ok(Checkpointing {
            seconds: median(&seconds),
            bytes: (3 * 4 * self.stepper.learner().model().params().elements()) as f64,
            // Where none stands on the way, one stands at the end.
            interval: if interval == 0 { all } else { interval.min(all) },
        })
    }

    /// The micro-batches of the step that has as many pairs of a token and one before it as half of the first `count` steps exceed: where
    /// windows are documents, that differs from step to step. Drawing all of them also makes room for the largest.
    fn middle_batches(&mut self, count: u64) -> anyhow::Result<Vec<Batch>> {
        let micro_batches = self.stepper.settings().micro_batches;
        let mut pairs = Vec::with_capacity(count as usize);
        for step in 0..count {
            self.go_on()?;
            let mut sum = 0;
            for micro_batch in 0..micro_batches {
                self.stepper.draw(step, micro_batch)?;
                sum += self.stepper.batch().spans().iter().map(|span| span.len * span.len).sum::<usize>();
            }
            pairs.push((sum, step));
        }
        pairs.sort_unstable();
        let step = pairs.get(pairs.len() / 2).map_or(0, |(_, step)| *step);
        let mut batches = Vec::with_capacity(micro_batches);
        for micro_batch in 0..micro_batches {
            self.stepper.draw(step, micro_batch)?;
            batches.push(self.stepper.batch().clone());
        }
        Ok(batches)
    }

    /// Seconds a token with one thread less and one more, where there are CPUs for them.
    fn other_threads(&self) -> anyhow::Result<Vec<(usize, f64)>> {
        let (now, tokens) = (self.stepper.learner().gradient_plan().threads(), self.stepper.settings().tokens());
        let mut found = vec![];
        for n in [now.saturating_sub(1), now + 1].into_iter().filter(|n| (1..=available_threads()).contains(n)) {
            let mut other = Self { stepper: self.stepper.with_threads(n)?, begun: 0, drawing: vec![], stop: self.stop };
            found.push((n, other.step_seconds()? / tokens as f64));
        }
        Ok(found)
    }
}
