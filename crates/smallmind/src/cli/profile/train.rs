//! `smallmind profile train`.

use clap::Args;
use smallmind::graph::{Batch, NoProbe, Pool, available_threads};
use smallmind::model::{Model, ModelConfig, preset};
use smallmind::profile::report::join::{Measurement, Part};
use smallmind::profile::report::trace::Trace;
use smallmind::profile::report::{Phase, Report, RoofTable};
use smallmind::profile::roofs::Effort;
use smallmind::profile::{Recorder, Roofs, SystemCounters};
use smallmind::simd::IsaKind;
use smallmind::train::{BatchShape, Learner, TrainConfig};

use super::super::failure::{Outcome, usage};
use super::super::note;
use super::super::settings::Settings;
use super::generate::phase_of;
use super::interleave::{Profiler, interleave, samples_of_a_repeat, seconds_of};
use super::subject::{self, PRESET, SEED};
use super::written::Written;
use crate::allocations;

/// A rate that changes weights little, so that all samples train the same model.
const RATE: f64 = 1e-5;

/// Options of `profile train`.
#[derive(Debug, Args)]
pub struct Train {
    /// The preset whose shape and settings are trained, from random weights on random tokens
    #[arg(long, default_value = PRESET, value_name = "NAME")]
    preset: String,
    /// Sequences in a step [default: the preset's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
    /// Tokens of a sequence [default: the preset's]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Repeats, whose differences tell how sure the figures are
    #[arg(short, long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    runs: u16,
    /// Steps in each repeat [default: what fits into about two seconds]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: Option<u32>,
    #[command(flatten)]
    written: Written,
}

/// What a step needs.
struct Bench {
    learner: Learner,
    config: TrainConfig,
    shape: BatchShape,
    model: ModelConfig,
    batch: Batch,
    seed: u64,
}

impl Train {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let (isa, threads) = (settings.isa()?, settings.threads());
        self.written.check()?;
        let model = preset::find(&self.preset)?.config();
        let config = TrainConfig::layered(Some(&self.preset), &[])?;
        let sequences = self.batch.map_or(config.train.batch, |n| n as usize);
        let context = subject::at_most("context", self.context.unwrap_or(model.context.min(1024)), model.context)?;
        if sequences.saturating_mul(context) > 1 << 20 {
            return Err(usage(format!("{sequences} sequences of {context} tokens are more than a step should have")));
        }
        let shape = BatchShape { sequences, context };
        let mut bench = Bench::new(config, model, shape, threads, isa, settings.seed.unwrap_or(SEED))?;
        note!("profiling steps of {}: {sequences} sequences of {context} tokens, on {threads} threads", self.preset);
        let roofs = RoofTable::from(&Roofs::measure(&mut Pool::new(threads)?, isa, Effort::QUICK)?);
        let counters = SystemCounters::read();
        let subject = subject::subject("train", self.preset.clone(), bench.learner.model(), threads, isa);
        let mut trace = self.written.trace();
        let steps = self.steps.map(|n| n as usize);
        let phase = bench.step(usize::from(self.runs), steps, &roofs, trace.as_mut())?;
        let report = Report::new(subject, roofs, counters.since(), vec![phase]);
        self.written.write(report, trace.as_ref(), settings)
    }
}

impl Bench {
    fn new(
        config: TrainConfig,
        model: ModelConfig,
        shape: BatchShape,
        threads: usize,
        isa: IsaKind,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let weights = Model::random(model.clone(), seed)?;
        let learner = Learner::new(weights, shape, config.optimizer(), threads, isa)?;
        let tokens = subject::tokens(shape.tokens() + 1, model.vocab_size, seed);
        let mut batch = Batch::default();
        for first in (0..shape.tokens()).step_by(shape.context) {
            let window = &tokens[first..=first + shape.context];
            batch.push_with_targets(&window[..shape.context], &window[1..]);
        }
        Ok(Self { learner, config, shape, model, batch, seed })
    }

    fn step_seconds(&mut self) -> anyhow::Result<f64> {
        seconds_of(|| {
            self.learner.accumulate(&self.batch, self.shape.tokens(), (self.seed, 0), &NoProbe)?;
            self.learner.update(RATE, &NoProbe)?;
            Ok(())
        })
    }

    fn step(
        &mut self,
        repeats: usize,
        steps: Option<usize>,
        roofs: &RoofTable,
        trace: Option<&mut Trace>,
    ) -> anyhow::Result<Phase> {
        let once = self.step_seconds()?;
        let count = repeats * steps.unwrap_or_else(|| samples_of_a_repeat(once, repeats, 1));
        let (gradient, update) = self.learner.plans();
        let recorder = |plan| Recorder::keeping(plan, count).counting(Some(allocations::of_this_thread));
        let recorders = (recorder(gradient), recorder(update));
        let tokens = self.shape.tokens();
        let samples = interleave(
            count,
            self,
            |_| Ok(()),
            |bench, profiler| {
                let dropout = (bench.seed, 0);
                match profiler {
                    Profiler::On => {
                        bench.learner.accumulate(&bench.batch, tokens, dropout, &recorders.0)?;
                        bench.learner.update(RATE, &recorders.1)?;
                    }
                    Profiler::Off => {
                        bench.learner.accumulate(&bench.batch, tokens, dropout, &NoProbe)?;
                        bench.learner.update(RATE, &NoProbe)?;
                    }
                }
                Ok(())
            },
        )?;
        let threads = self.other_threads()?;
        let (gradient, update) = self.learner.plans();
        let none = [Batch::default()];
        let gradients = std::slice::from_ref(&self.batch);
        let parts = vec![
            Part { name: "forward and backward", plan: gradient, recorder: &recorders.0, batches: gradients },
            Part { name: "update", plan: update, recorder: &recorders.1, batches: &none },
        ];
        let about = format!("{} sequences of {} tokens", self.shape.sequences, self.shape.context);
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
        };
        let mut phase = phase_of(&measured, roofs, trace);
        phase.stages = phase.passes();
        Ok(phase)
    }

    /// Seconds a token with one thread less and one more, where there are CPUs for them.
    fn other_threads(&self) -> anyhow::Result<Vec<(usize, f64)>> {
        let (now, isa) = (self.learner.plans().0.threads(), self.learner.plans().0.isa());
        let mut found = vec![];
        for n in [now.saturating_sub(1), now + 1].into_iter().filter(|n| (1..=available_threads()).contains(n)) {
            let mut other = Self::new(self.config.clone(), self.model.clone(), self.shape, n, isa, self.seed)?;
            found.push((n, other.step_seconds()? / self.shape.tokens() as f64));
        }
        Ok(found)
    }
}
