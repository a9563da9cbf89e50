//! `smallmind quickstart`: from nothing to a model that tells stories, in about a minute.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use smallmind::model::{Finish as TextFinish, Generator, Session, SessionOptions};
use smallmind::profile::{Recorder, Summary as Profile};
use smallmind::simd::IsaKind;
use smallmind::train::{Event, Existing, Finish, RunDir, Source, TrainError, Trainer, prepare, quickstart};

use super::failure::{Failure, Outcome, usage};
use super::generate::{Generated, Sink, generate};
use super::models::ModelArg;
use super::progress::Reporter;
use super::settings::Settings;
use super::{hints, interrupt, note, output, train, units};

/// The name of the run's folder.
const FOLDER: &str = "smallmind-quickstart";
/// Stories told at the end.
const STORIES: u64 = 3;

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
    #[arg(long, default_value_t = 62, value_name = "SECONDS", conflicts_with = "steps",
          value_parser = units::within::<u32>(1..=86_400))]
    seconds: u32,
    /// Train exactly this many steps instead
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
        let mut dir = self.folder()?;
        let out = dir.path().to_owned();
        let stop = interrupt::watch(train::STOPPING)?;
        dir.stop_with(stop);
        let mut reporter = Reporter::new(settings, stop);
        reporter.say(&format!("a small model learns to tell stories; its folder is {}", out.display()));

        let mut trainer = self.begin(dir, started, settings, &mut reporter)?;
        let recorder = Recorder::new(trainer.learner().gradient_plan());
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

    /// The folder of `--out`, or the first of `smallmind-quickstart`, `smallmind-quickstart-2` … that is free.
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
                // Another quick start took it in the meantime.
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
        reporter: &mut Reporter,
    ) -> anyhow::Result<Trainer> {
        let isa = settings.isa()?;
        let seed = settings.seed_overlay()?;
        let config = quickstart::config(seed.as_slice())?;
        let source = Source::Stories { seed: config.train.seed, bytes: self.text };
        let prepared = prepare(&dir.staging(), &config, source, &mut |progress| reporter.prepare(progress))?;
        let steps = match self.steps {
            Some(steps) => steps,
            None => {
                let step = quickstart::seconds_of_a_step(&config, &prepared, settings.threads(), isa)?;
                quickstart::steps_within(Duration::from_secs(self.seconds.into()), started.elapsed(), step)
            }
        };
        let config = quickstart::of_steps(config, steps);
        train::unless_stopped(dir, |dir| Trainer::create(dir, config, prepared, settings.threads(), isa))
    }
}

/// The profile of the forward and backward runs.
fn profile(trainer: &Trainer, recorder: &Recorder) -> Profile {
    let batch = trainer.batch();
    let runs = usize::try_from(trainer.learner().steps()).unwrap_or(usize::MAX);
    Profile::new(trainer.learner().gradient_plan(), batch, recorder, runs)
}

/// Generates the stories.
fn tell_stories(run: &Path, seed: u64, settings: &Settings, isa: IsaKind, stop: &AtomicBool) -> Outcome {
    let (model, tokenizer) = ModelArg::own(run).open_packed(isa, None)?;
    let context = model.config().context;
    let session = Session::new(Arc::new(model), SessionOptions::single(context, settings.threads()))?;
    let mut generator = Generator::new(session, tokenizer)?;
    if !settings.is_json() {
        note!("\nstories from the model, word by word:\n");
    }
    let check = |generated: &Generated| -> Outcome {
        if generated.generation.finish != TextFinish::Interrupted {
            return Ok(());
        }
        Err(Failure::Interrupted(format!("interrupted; the model is in {}", run.display())).into())
    };
    for story in 0..STORIES {
        let options = quickstart::story_options(seed.wrapping_add(story));
        if settings.is_json() {
            let generated = generate(&mut generator, &[], &options, Sink::Keep, stop)?;
            output::event(json!({
                "event": "story",
                "text": generated.text,
                "tokens": generated.generation.tokens,
                "tokens_per_second": generated.decode_rate(),
            }))?;
            check(&generated)?;
            continue;
        }
        if story > 0 {
            output::print("\n")?;
        }
        let generated = generate(&mut generator, &[], &options, Sink::Print { echo: "" }, stop)?;
        if !generated.ends_line {
            output::print("\n")?;
        }
        check(&generated)?;
    }
    Ok(())
}

/// Hints at the next commands.
fn next(run: &Path) {
    let (program, run) = (hints::program(), hints::quoted(run));
    note!("\nnext:");
    note!("  {program} generate -m {run} -p \"Once upon a time\"    continue a text of your own");
    note!("  {program} train --data FILE --out my-run               learn from your own text");
    note!("  {program} inspect {run}                what the model is made of");
    note!("  {program} --help                                       everything else");
}
