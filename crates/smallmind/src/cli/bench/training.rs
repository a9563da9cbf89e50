//! `smallmind bench train`: steps of training.

use std::path::{Path, PathBuf};

use clap::Args;
use smallmind::bench::TrainingBench;
use smallmind::graph::Precision;
use smallmind::model::{Model, ModelConfig, preset, random_tokens};
use smallmind::profile::report::RoofTable;
use smallmind::train::{BatchShape, TrainConfig};

use super::table_output::TableOutput;
use crate::cli::failure::{Outcome, bad_file, usage};
use crate::cli::machine::Machine;
use crate::cli::models::{Allowed, check_precision, open_files, precision_parser};
use crate::cli::profile::{PRESET, SEED};
use crate::cli::settings::{Settings, of_model};
use crate::cli::{input, output, units};

/// Random tokens to train on.
const RANDOM: usize = 1 << 18;

/// Options of `bench train`.
#[derive(Debug, Args)]
pub(super) struct Training {
    /// The model with which training begins: a run folder, a Hugging Face folder, a GGUF file, or hf:OWNER/NAME
    #[arg(short, long, value_name = "MODEL", conflicts_with = "preset")]
    model: Option<PathBuf>,
    /// The preset whose shape and settings are trained, from random weights [default: quickstart]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    #[command(flatten)]
    allowed: Allowed,
    /// Sequences of a step [default: the preset's]
    #[arg(long, value_name = "N", value_parser = units::within::<u32>(1..=4096))]
    batch: Option<u32>,
    /// Tokens of a sequence [default: the model's context, at most 1024]
    #[arg(long, value_name = "N", value_parser = units::within::<u32>(1..=65_536))]
    context: Option<u32>,
    /// The format in which the factors of products are multiplied; their sums and all else are in f32
    #[arg(long, value_name = "FORMAT", value_parser = precision_parser(), ignore_case = true,
          default_value = Precision::F32.name())]
    precision: Precision,
    /// Timed steps
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = units::within::<u32>(1..=1_000_000))]
    steps: u32,
    /// Steps before the timed ones
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = units::within::<u32>(0..=1_000_000))]
    warmup: u32,
    /// The learning rate, the same in all steps [default: the preset's]
    #[arg(long, value_name = "X", value_parser = rate)]
    lr: Option<f64>,
    /// Tokens to train on, one after the other: two bytes each, little-endian, as nanoGPT's train.bin [default: random]
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Train with the dropout of the preset or of the model's files [default: without any]
    #[arg(long)]
    dropout: bool,
    #[command(flatten)]
    output: TableOutput,
}

/// A learning rate.
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "it must be a number, 0 or more".to_owned())
}

impl Training {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let seed = settings.seed.unwrap_or(SEED);
        let name = self.preset.as_deref().unwrap_or(PRESET);
        let config = TrainConfig::with_overlays(self.model.is_none().then_some(name), &[])?;
        let (name, mut model) = match &self.model {
            Some(path) => (path.display().to_string(), self.load(path).map_err(|error| of_model(path, error))?),
            None => (name.to_owned(), Model::random(preset::find(name)?.config(), seed)?),
        };
        if !self.dropout {
            model.set_dropout(Default::default());
        }
        let shape = self.shape(model.config(), &config)?;
        let tokens = self.read_tokens(model.config(), seed)?;
        let (isa, threads) = (settings.isa()?, settings.threads());
        check_precision(self.precision, isa)?;
        let bench = TrainingBench {
            name,
            shape,
            warmup: self.warmup as usize,
            steps: self.steps as usize,
            optimizer: config.optimizer(),
            precision: self.precision,
            learning_rate: self.lr.unwrap_or(config.train.lr),
            seed,
            threads,
            isa,
            cpu: Machine::read().cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut writer = self.output.writer(settings);
        output::print(&writer.row(&bench.run(model, &tokens, &RoofTable::measure(threads, isa)?)?))?;
        output::print(writer.end())
    }

    fn load(&self, path: &Path) -> anyhow::Result<Model> {
        self.allowed.load(&open_files(path)?)
    }

    fn shape(&self, model: &ModelConfig, config: &TrainConfig) -> anyhow::Result<BatchShape> {
        let context = self.context.map_or(model.context.min(1024), |n| n as usize);
        if context > model.context {
            let max = model.context;
            return Err(usage(format!("--context {context}: the model's context is {max} tokens, which is the most")));
        }
        Ok(BatchShape { sequences: self.batch.map_or(config.train.batch, |n| n as usize), context })
    }

    /// The tokens of the file, or random ones.
    fn read_tokens(&self, model: &ModelConfig, seed: u64) -> anyhow::Result<Vec<u32>> {
        let Some(path) = &self.tokens else { return Ok(random_tokens(RANDOM, model.vocab_size, seed)) };
        let tokens = input::tokens(path)?;
        match tokens.iter().position(|&token| token as usize >= model.vocab_size) {
            Some(at) => {
                let (token, vocabulary) = (tokens[at], model.vocab_size);
                let problem = format!("token {at} is {token}, beyond the model's vocabulary of {vocabulary}");
                Err(bad_file(format!("{}: {problem}", path.display())))
            }
            None => Ok(tokens),
        }
    }
}
