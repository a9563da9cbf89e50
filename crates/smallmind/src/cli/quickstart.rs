//! `smallmind quickstart`: from nothing to a model that tells stories, in about a minute.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use smallmind::graph::{Batch, NoProbe};
use smallmind::model::sampler::SamplerConfig;
use smallmind::model::{Finish as TextFinish, GenerateOptions, Generator, Model, Session, SessionOptions};
use smallmind::profile::{Recorder, Summary as Profile};
use smallmind::simd::IsaKind;
use smallmind::train::{
    Batches, Draw, Event, Existing, Finish, Learner, Prepared, RunDir, Source, TrainConfig, TrainError, Trainer,
    Windows, prepare,
};

use super::failure::{Failure, Outcome, usage};
use super::generate::{Sink, tell};
use super::models::ModelArg;
use super::progress::Reporter;
use super::settings::Settings;
use super::{hints, interrupt, note, output, train, units};

/// The preset that is trained, and the folder's name.
const PRESET: &str = "quickstart";
const FOLDER: &str = "smallmind-quickstart";
/// How many steps are timed at most, and for how long, to know how many fit into the time.
const TIMED_STEPS: usize = 60;
const TIMING: Duration = Duration::from_secs(2);
/// The share of the time that is trained at least, however long the preparations took.
const LEAST_TRAINING: f64 = 0.5;
/// How many steps a training has at least and at most.
const STEPS: std::ops::RangeInclusive<u64> = 20..=50_000;
/// Stories told at the end, and the most tokens of each.
const STORIES: u64 = 3;
const STORY_TOKENS: usize = 320;

/// Options of `quickstart`.
#[derive(Debug, Args)]
pub struct Quickstart {
    /// The folder of the run [default: smallmind-quickstart, with a number where that exists]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Replace the run or the model in FOLDER
    #[arg(long, requires = "out")]
    overwrite: bool,
    /// How long to write text, learn a vocabulary and train
    #[arg(long, default_value_t = 62, value_name = "SECONDS", value_parser = units::within::<u32>(1..=86_400))]
    seconds: u32,
    /// Train exactly so many steps instead
    #[arg(long, value_name = "N", value_parser = units::within::<u64>(1..))]
    steps: Option<u64>,
    /// How much text to write for it; the default is about what two CPUs get through in a minute
    #[arg(long, default_value_t = 10 << 20, value_name = "BYTES", value_parser = units::whole)]
    text: usize,
}

impl Quickstart {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let started = Instant::now();
        let isa = settings.isa()?;
        let dir = self.folder()?;
        let out = dir.path().to_owned();
        let stop = interrupt::watch(train::STOPPING)?;
        let mut reporter = Reporter::new(settings, stop);
        reporter.say(&format!("a small model learns to tell stories; its folder is {}", out.display()));

        let mut trainer = self.begin(dir, started, settings, isa, (&mut reporter, stop))?;
        let recorder = Recorder::new(trainer.learner().plans().0);
        let summary = trainer.run_probed(stop, &mut |event: &Event| reporter.event(event), &recorder)?;
        if summary.finish == Finish::Interrupted {
            reporter.finish()?;
            return Err(train::interrupted(&summary, &out));
        }
        reporter.say(&format!("\n{}", train::describe(&summary, &out).trim_end()));
        reporter.say(&format!(
            "\nwhere the time of a step's forward and backward went:\n\n{}",
            profile(&trainer, &recorder)
        ));
        reporter.finish()?;
        tell_stories(&out, trainer.config().train.seed, settings, isa, stop)?;
        next(&out);
        Ok(())
    }

    /// The folder asked for, or the first of `smallmind-quickstart`, `smallmind-quickstart-2` … that is free.
    fn folder(&self) -> anyhow::Result<RunDir> {
        if let Some(out) = &self.out {
            let existing = if self.overwrite { Existing::Replace } else { Existing::Refuse };
            return Ok(RunDir::claim(out, existing)?);
        }
        for i in 1..10_000 {
            let path = PathBuf::from(if i == 1 { FOLDER.to_owned() } else { format!("{FOLDER}-{i}") });
            if path.symlink_metadata().is_ok() {
                continue;
            }
            match RunDir::claim(&path, Existing::Refuse) {
                // Another quick start has just taken it.
                Err(TrainError::Busy(_) | TrainError::Exists { .. }) => {}
                claimed => return Ok(claimed?),
            }
        }
        Err(usage(format!("there are too many folders {FOLDER}-…; name one with --out")))
    }

    /// Text, vocabulary, number of steps, trainer.
    fn begin(
        &self,
        dir: RunDir,
        started: Instant,
        settings: &Settings,
        isa: IsaKind,
        (reporter, stop): (&mut Reporter, &AtomicBool),
    ) -> anyhow::Result<Trainer> {
        let seed = settings.seed_overlay()?;
        let mut config = TrainConfig::with_overlays(Some(PRESET), seed.as_slice())?;
        // The built-in stories are documents, which the files that the preset may be used with are not.
        config.data.windows = Windows::Documents;
        let source = Source::Stories { seed: config.train.seed, bytes: self.text };
        let prepared = prepare(&dir.staging(), &config, source, &mut |progress| reporter.prepare(progress))?;
        let steps = match self.steps {
            Some(steps) => steps,
            None => {
                let step = seconds_of_a_step(&config, &prepared, settings.threads(), isa)?;
                let seconds = f64::from(self.seconds);
                let left = (seconds - started.elapsed().as_secs_f64()).max(LEAST_TRAINING * seconds);
                ((left / step) as u64).clamp(*STEPS.start(), *STEPS.end())
            }
        };
        interrupt::check_before_training(stop)?;
        config.train.steps = steps;
        config.train.warmup = config.train.warmup.min(steps / 10);
        config.eval.interval = (steps / 4).max(1);
        config.eval.batches = config.eval.batches.min(5);
        config.checkpoint.interval = (steps / 4).max(1);
        config.log.interval = (steps / 200).max(1);
        Ok(Trainer::create(dir, config, prepared, settings.threads(), isa)?)
    }
}

/// Where the time of the training's forward and backward passes went.
fn profile(trainer: &Trainer, recorder: &Recorder) -> Profile {
    let batch = trainer.batch();
    let runs = usize::try_from(trainer.learner().steps()).unwrap_or(usize::MAX);
    Profile::new(trainer.learner().plans().0, batch, recorder, runs)
}

/// The seconds of a step: some are timed on a learner that is thrown away.
fn seconds_of_a_step(
    config: &TrainConfig,
    prepared: &Prepared,
    threads: usize,
    isa: IsaKind,
) -> Result<f64, TrainError> {
    let shape = config.batch_shape()?;
    let model = Model::random(config.model_config(prepared.tokenizer.vocab_size())?, config.train.seed)?;
    let mut learner = Learner::new(model, shape, config.optimizer(), threads, isa)?;
    let mut batches = Batches::new(config.data.windows, &prepared.train, prepared.tokenizer.eos(), shape)?;
    let mut batch = Batch::default();
    let mut laps = Vec::with_capacity(TIMED_STEPS);
    let started = Instant::now();
    for step in 0..TIMED_STEPS {
        let lap = Instant::now();
        let draw = Draw { seed: config.train.seed, step: step as u64, first_row: 0 };
        batches.fill(&prepared.train, draw, &mut batch)?;
        learner.accumulate(&batch, shape.tokens(), (config.train.seed, step as u32), &NoProbe)?;
        learner.update(0.0, &NoProbe)?;
        laps.push(lap.elapsed().as_secs_f64());
        // The first step touches all memory for the first time.
        if started.elapsed() >= TIMING && laps.len() > 1 {
            break;
        }
    }
    let rest = &mut laps[1..];
    rest.sort_by(f64::total_cmp);
    // A neighbour on the machine who is busy for a moment would shorten the training: the fast quarter tells what it will mostly be.
    Ok(rest[rest.len() / 4].max(1e-9))
}

/// Lets the model tell its stories.
fn tell_stories(run: &Path, seed: u64, settings: &Settings, isa: IsaKind, stop: &AtomicBool) -> Outcome {
    let (model, tokenizer) = ModelArg::own(run).open()?;
    let context = model.config().context;
    let model = Arc::new(model.pack(isa)?);
    let session = Session::new(model, SessionOptions::single(context, settings.threads()))?;
    let mut generator = Generator::new(session, tokenizer)?;
    if !settings.is_json() {
        note!("\nstories from the model, word by word:\n");
    }
    for story in 0..STORIES {
        let sampler = SamplerConfig {
            temperature: 0.6,
            top_k: 40,
            min_p: 0.2,
            seed: seed.wrapping_add(story),
            ..SamplerConfig::default()
        };
        let options = GenerateOptions { max_tokens: STORY_TOKENS, sampler, stops: vec![] };
        // An empty prompt stands for the token that ended the story before.
        if settings.is_json() {
            let told = tell(&mut generator, &[], &options, Sink::Keep, stop)?;
            output::event(
                json!({ "event": "story", "text": told.text, "tokens": told.generation.tokens, "tokens_per_second": told.decode_rate() }),
            )?;
            continue;
        }
        if story > 0 {
            output::print("\n")?;
        }
        let told = tell(&mut generator, &[], &options, Sink::Print { echo: "" }, stop)?;
        if !told.ends_line {
            output::print("\n")?;
        }
        if told.generation.finish == TextFinish::Interrupted {
            return Err(Failure::Interrupted(format!("interrupted; the model is in {}", run.display())).into());
        }
    }
    Ok(())
}

/// What to type next.
fn next(run: &Path) {
    let (program, run) = (hints::program(), hints::quoted(run));
    note!("\nnext:");
    note!("  {program} generate -m {run} -p \"Once upon a time\"    continue a text of your own");
    note!("  {program} train --data FILE --out my-run               learn from your own text");
    note!("  {program} inspect {run}                what the model is made of");
    note!("  {program} --help                                       everything else");
}
