//! What is profiled: a model from a folder, or a preset's shape with random weights.

use std::path::{Path, PathBuf};

use clap::Args;
use smallmind::kernels::Format;
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{Model, ModelConfig, PackedModel, preset};
use smallmind::profile::report::Subject;
use smallmind::simd::IsaKind;

use super::super::failure::usage;
use super::super::machine::Machine;
use super::super::models::{self, note_fallback};
use super::super::reads::Reads;
use super::super::settings::{MODEL_VARIABLE, Settings, of_model, variable};

/// The default seed of random weights and tokens.
pub const SEED: u64 = 1337;
/// The preset that is profiled by default.
pub const PRESET: &str = "quickstart";

/// `-m` or `--preset`.
#[derive(Debug, Args)]
pub struct SubjectArg {
    /// The model: a run folder, a Hugging Face folder, a GGUF file, or hf:OWNER/NAME
    #[arg(short, long, value_name = "MODEL", conflicts_with = "preset")]
    model: Option<PathBuf>,
    /// The shape of a preset with random weights [default: quickstart]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    #[command(flatten)]
    allowed: models::Allowed,
}

/// A model with its name and its tokenizer.
pub struct Opened {
    /// The model.
    pub model: PackedModel,
    /// The name of its folder or preset.
    pub name: String,
    /// Its tokenizer, or why there is none; only a prompt needs it.
    pub tokenizer: anyhow::Result<Tokenizer>,
}

impl SubjectArg {
    /// The folder of the model, if one is named.
    fn folder(&self) -> Option<PathBuf> {
        let named = || variable(MODEL_VARIABLE).filter(|_| self.preset.is_none()).map(PathBuf::from);
        self.model.clone().or_else(named)
    }

    /// Whether the weights are random.
    pub fn is_preset(&self) -> bool {
        self.folder().is_none()
    }

    /// The files of the model, if it has any.
    pub fn reads(&self) -> anyhow::Result<Reads> {
        let Some(folder) = self.folder() else { return Ok(Reads::nothing()) };
        let files = models::find_files(&folder).map_err(|error| of_model(&folder, error))?;
        Reads::nothing().and_open_model(&folder, &files)
    }

    /// Reads the model, or makes one with random weights; packs it in a format.
    pub fn open(&self, settings: &Settings, isa: IsaKind, weights: Option<Format>) -> anyhow::Result<Opened> {
        let Some(folder) = self.folder() else {
            let name = self.preset.as_deref().unwrap_or(PRESET);
            let config = preset::find(name)?.config();
            let model =
                Model::random(config, settings.seed.unwrap_or(SEED))?.pack_as(isa, weights.unwrap_or(Format::F32))?;
            note_fallback(model.config(), isa, weights)?;
            let tokenizer = Err(usage("--prompt is for a model with a tokenizer: name one with -m"));
            return Ok(Opened { model, name: name.to_owned(), tokenizer });
        };
        let model = models::open_files(&folder).and_then(|open| self.allowed.load_packed(&open, isa, weights));
        let model = model.map_err(|error| of_model(&folder, error))?;
        Ok(Opened { model, name: name_of(&folder), tokenizer: models::tokenizer_of(&folder) })
    }
}

/// The name of a folder.
pub fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// What ran where, for the report, without the parameters ([`Subject::with_parameters`]).
pub fn subject(verb: &str, name: String, c: &ModelConfig, (threads, isa): (usize, IsaKind)) -> Subject {
    Subject {
        verb: verb.to_owned(),
        model: name,
        shape: shape(c),
        parameters: 0,
        format: String::new(),
        bits_per_weight: 0.0,
        cache_format: None,
        threads,
        isa: isa.name().to_owned(),
        cpu: Machine::read().cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn shape(c: &ModelConfig) -> String {
    format!("{} layers of width {}, {}/{} heads, vocabulary {}", c.layers, c.d_model, c.heads, c.kv_heads, c.vocab_size)
}

/// `asked` if it is within 1 to `limit`; else wrong usage of the flag `what`.
pub fn at_most(what: &str, asked: usize, limit: usize) -> anyhow::Result<usize> {
    if (1..=limit).contains(&asked) {
        return Ok(asked);
    }
    Err(usage(format!("--{what} {asked}: this model takes 1 to {limit}")))
}
