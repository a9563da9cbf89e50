//! What `profile train` trains: a run, a preset on a text, or a preset on built-in stories or random tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use smallmind::graph::Precision;
use smallmind::model::{Model, preset};
use smallmind::simd::IsaKind;
use smallmind::train::data::Dataset;
use smallmind::train::{BatchShape, RunDir, RunParts, Source, StepSettings, Stepper, TrainConfig, Windows, prepare};
use tempfile::TempDir;

use super::super::failure::usage;
use super::super::reads::Reads;
use super::super::settings::Settings;
use super::super::{models, note, units};
use super::subject::{self, PRESET, SEED, name_of};

/// Bytes of the built-in stories: enough to train the vocabulary, and more than a profile draws.
const STORIES: usize = 2 << 20;
/// The least number of random tokens.
const RANDOM: usize = 1 << 18;
/// The longest sequences of a preset's step by default.
const LONG: usize = 1024;

/// `-m`, `--preset`, `--data` and the sizes of a step.
#[derive(Debug, Args)]
pub struct TrainingArg {
    /// A run of `smallmind train`: its own model, settings and text
    #[arg(short, long, value_name = "RUN", conflicts_with_all = ["preset", "data"])]
    model: Option<PathBuf>,
    /// The preset whose shape and settings are trained, from random weights [default: quickstart]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Text files to train on [default: the built-in stories for quickstart, random tokens for others]
    #[arg(long, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Sequences in a micro-batch [default: the run's or the preset's]
    #[arg(long, value_name = "N", value_parser = units::within::<u32>(1..=4096))]
    batch: Option<u32>,
    /// Tokens of a sequence [default: the run's or the preset's]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// The format in which the factors of products are multiplied [default: the run's or the preset's]
    #[arg(long, value_name = "FORMAT", value_parser = models::precision_parser(), ignore_case = true)]
    precision: Option<Precision>,
}

/// A training run that is ready for its steps.
pub struct Training {
    /// Draws and does the steps.
    pub stepper: Stepper,
    /// Its settings.
    pub config: TrainConfig,
    /// Name of the run's folder or of the preset.
    pub name: String,
    /// What it is trained on, in words.
    pub text: &'static str,
    /// `tokenizer.json`, if there is one.
    pub tokenizer: Vec<u8>,
    /// A folder for checkpoints, removed when this is dropped.
    pub folder: TempDir,
}

/// The parts of a training run, before its steps are planned.
struct Found {
    model: Model,
    config: TrainConfig,
    data: Arc<Dataset>,
    end: Option<u32>,
    tokenizer: Vec<u8>,
    text: &'static str,
}

impl TrainingArg {
    /// The text files, and those of the run.
    pub fn reads(&self) -> anyhow::Result<Reads> {
        let reads = Reads::nothing().and(&self.data);
        let Some(run) = &self.model else { return Ok(reads) };
        let reads = reads.and(RunDir::replaceable(run));
        match models::find_files(run) {
            Ok(files) => reads.and_open_model(run, &files),
            // `open` refuses it.
            Err(_) => Ok(reads),
        }
    }

    /// Reads or makes all that steps need. `out`: the folder of the report, if there is one.
    pub fn open(
        &self,
        settings: &Settings,
        out: Option<&Path>,
        (threads, isa): (usize, IsaKind),
    ) -> anyhow::Result<Training> {
        self.precision.map_or(Ok(()), |precision| models::check_precision(precision, isa))?;
        let folder = folder_beside(self.model.as_deref().or(out))?;
        let (name, found) = match &self.model {
            Some(run) => (name_of(run), of_run(run)?),
            None => {
                let name = self.preset.as_deref().unwrap_or(PRESET);
                (name.to_owned(), self.of_preset(name, folder.path(), settings)?)
            }
        };
        let steps = self.steps(&found, settings)?;
        let Found { model, config, data, end, tokenizer, text } = found;
        let stepper = Stepper::new(model, steps, (data, end), threads, isa)?;
        Ok(Training { stepper, config, name, text, tokenizer, folder })
    }

    fn of_preset(&self, name: &str, folder: &Path, settings: &Settings) -> anyhow::Result<Found> {
        let mut config = TrainConfig::with_overlays(Some(name), &[])?;
        config.train.seed = settings.seed.unwrap_or(SEED);
        let source = match (self.data.is_empty(), name == PRESET) {
            (false, _) => Source::Files(&self.data),
            (true, true) => {
                config.data.windows = Windows::Documents;
                Source::Stories { seed: config.train.seed, bytes: STORIES }
            }
            (true, false) => return random_tokens(name, config),
        };
        let text = if self.data.is_empty() { "the built-in stories" } else { "a text" };
        let prepared = prepare(folder, &config, source, &mut |_| {})?;
        let model = Model::random(config.model_config(prepared.tokenizer.vocab_size())?, config.train.seed)?;
        let (end, tokenizer) = (prepared.tokenizer.eos(), prepared.tokenizer.to_json()?.into_bytes());
        Ok(Found { model, config, data: prepared.train, end, tokenizer, text })
    }

    /// The settings of a step, with the sizes from the flags.
    fn steps(&self, found: &Found, settings: &Settings) -> anyhow::Result<StepSettings> {
        let mut steps = StepSettings::of(&found.config)?;
        let longest = found.model.config().context;
        let usual = if self.model.is_some() { longest } else { longest.min(LONG) };
        let context = subject::at_most("context", self.context.unwrap_or(usual), longest)?;
        let sequences = self.batch.map_or(steps.shape.sequences, |n| n as usize);
        steps.seed = settings.seed.unwrap_or(steps.seed);
        steps.precision = self.precision.unwrap_or(steps.precision);
        let steps = steps.over(BatchShape { sequences, context }, found.config.train.total_tokens);
        steps.map_err(|error| usage(error.to_string()))
    }
}

/// A temporary folder on the disk of `neighbour`, or of the current folder. The system's temporary folder may be in
/// memory, where a checkpoint takes no time: it is used, with a note, only if the disk takes no files.
fn folder_beside(neighbour: Option<&Path>) -> anyhow::Result<TempDir> {
    let mut named = tempfile::Builder::new();
    named.prefix("smallmind-profile-");
    let place = match neighbour {
        // Links are followed to the disk of the files. A folder that doesn't exist yet will be made on the disk of its
        // nearest parent.
        Some(path) => {
            let whole = path.canonicalize().or_else(|_| std::path::absolute(path))?;
            whole.ancestors().skip(1).find(|above| above.is_dir()).unwrap_or(&whole).to_owned()
        }
        None => std::env::current_dir()?,
    };
    named.tempdir_in(&place).or_else(|error| {
        let folder = named.tempdir()?;
        let temporary = folder.path().parent().unwrap_or(folder.path());
        let (place, temporary) = (place.display(), temporary.display());
        note!("note: {place} takes no files, so that checkpoints are timed in {temporary}: {error}");
        Ok(folder)
    })
}

fn of_run(run: &Path) -> anyhow::Result<Found> {
    let RunParts { model, config, prepared, warnings } = RunParts::open(run)?;
    warnings.iter().for_each(|warning| note!("warning: {warning}"));
    let (end, tokenizer) = (prepared.tokenizer.eos(), prepared.tokenizer.to_json()?.into_bytes());
    Ok(Found { model, config, data: prepared.train, end, tokenizer, text: "the run's text" })
}

/// A preset with its own vocabulary and random tokens. The time of a step doesn't depend on the tokens.
fn random_tokens(name: &str, config: TrainConfig) -> anyhow::Result<Found> {
    let shape = preset::find(name)?.config();
    let seed = config.train.seed;
    let count = RANDOM.max(2 * config.train.batch * shape.context);
    let tokens = smallmind::model::random_tokens(count, shape.vocab_size, seed);
    let vocabulary = u32::try_from(shape.vocab_size).unwrap_or(u32::MAX);
    let data = Arc::new(Dataset::from_tokens(&tokens, vocabulary, 0)?);
    let model = Model::random(shape, seed)?;
    Ok(Found { model, config, data, end: None, tokenizer: vec![], text: "random tokens" })
}
