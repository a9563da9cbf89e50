//! Where a model comes from: a run folder or a Hugging Face folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use smallmind::checkpoint::{CONFIG_FILE, ModelFolder, TOKENIZER_FILE};
use smallmind::graph::{ParamSpec, Storage};
use smallmind::kernels::Format;
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{
    ConfigError, LoadOptions, Model, ModelConfig, ModelError, PackedModel, Purpose, UnknownKeys, UnusedTensors,
    architecture,
};
use smallmind::simd::IsaKind;
use smallmind::train::{is_run, latest_checkpoint};

use super::failure::{bad_file, usage};
use super::note;
use super::settings::{MODEL_VARIABLE, of_model};

/// `-m`.
#[derive(Debug, Args)]
pub struct ModelArg {
    /// The model: a run folder or a Hugging Face folder
    #[arg(short, long, env = MODEL_VARIABLE, value_name = "FOLDER")]
    pub model: PathBuf,
    #[command(flatten)]
    pub allowed: Allowed,
}

/// `--weights`.
#[derive(Clone, Copy, Debug, Args)]
pub struct WeightsArg {
    /// The format of weights in memory. Those of linear layers and embeddings are converted when they have been read;
    /// f16 and bf16 take half of f32's bytes, q8_0 about a quarter, q4_0 about a seventh, and texts differ a little,
    /// the more the fewer bits there are
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = format_parser())]
    pub weights: Format,
}

pub(super) fn format_parser() -> impl TypedValueParser<Value = Format> {
    let names = PossibleValuesParser::new(Format::ALL.map(Format::name));
    names.try_map(|name| Format::from_name(&name).ok_or("there is no such format"))
}

/// What is ignored in a model's files.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Allowed {
    /// Pass over keys of config.json that are not known: they may change what the model computes
    #[arg(long)]
    allow_unknown_keys: bool,
    /// Pass over tensors that config.json has no use for
    #[arg(long)]
    allow_unused: bool,
}

impl Allowed {
    /// For [`ModelConfig::from_folder`].
    pub fn unknown_keys(self) -> UnknownKeys {
        if self.allow_unknown_keys { UnknownKeys::Allow } else { UnknownKeys::Refuse }
    }

    fn load_options(self) -> LoadOptions {
        let unused_tensors = if self.allow_unused { UnusedTensors::Allow } else { UnusedTensors::Refuse };
        LoadOptions { unknown_keys: self.unknown_keys(), unused_tensors }
    }

    /// Reads the weights of an open folder; notes what is ignored.
    pub fn load(self, folder: &ModelFolder) -> anyhow::Result<Model> {
        let model = Model::from_folder(folder, self.load_options()).map_err(with_flag)?;
        self.note(folder, model.config())?;
        Ok(model)
    }

    /// Reads the weights of an open folder, packed in a format; notes what is ignored, and which weights are in another
    /// format.
    pub fn load_packed(self, folder: &ModelFolder, isa: IsaKind, weights: Format) -> anyhow::Result<PackedModel> {
        let model = PackedModel::from_folder(folder, self.load_options(), isa, weights).map_err(with_flag)?;
        self.note(folder, model.config())?;
        note_fallback(model.config(), isa, weights)?;
        Ok(model)
    }

    /// Notes what is ignored, and an output head in the weights that `config.json` doesn't have. `config` was read from
    /// `folder`.
    pub fn note(self, folder: &ModelFolder, config: &ModelConfig) -> anyhow::Result<()> {
        if ModelConfig::from_json_with(folder.config(), self.unknown_keys())?.head != config.head {
            note!(
                "note: lm_head.weight differs from the token embeddings, although `tie_word_embeddings` in \
                 {CONFIG_FILE} makes them one: it is used as the output head, as in transformers"
            );
        }
        if self.allow_unknown_keys {
            let keys = ModelConfig::unknown_keys(folder.config())?;
            note_passed_over(&format!("unknown keys of {CONFIG_FILE}"), &keys);
        }
        if self.allow_unused {
            let names = smallmind::model::unused_tensors(config, folder.weights())?;
            note_passed_over("tensors without use", &names);
        }
        Ok(())
    }
}

/// Notes which weights of a model are in other formats because their rows are not whole blocks of the format that was
/// asked for.
pub fn note_fallback(config: &ModelConfig, isa: IsaKind, asked: Format) -> anyhow::Result<()> {
    let graph = architecture::graph(config, Purpose::Generation)?;
    let storage = Storage::of(&graph, isa, asked)?;
    for format in Format::ALL.into_iter().filter(|format| *format != asked) {
        let is_other = |id| storage.get(id).is_packed() && storage.get(id).formats() == [format];
        let others = graph.params().iter().filter(|(id, _)| is_other(*id));
        let name = |(_, spec): (_, &ParamSpec)| format!("{} [{}, {}]", spec.name, spec.rows, spec.cols);
        let names: Vec<String> = others.map(name).collect();
        if !names.is_empty() {
            let (count, few) = (names.len(), few(&names));
            note!("note: {count} weights are in {format}, as their rows are not whole blocks of {asked}: {few}");
        }
    }
    Ok(())
}

fn note_passed_over(what: &str, names: &[String]) {
    if !names.is_empty() {
        note!("note: passed over {what}: {}", few(names));
    }
}

/// The first few of some names from a file, and how many more there are.
pub fn few(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(|name| name.escape_debug().take(80).collect::<String>());
    let shown = shown.collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// The error, with the option that makes this program ignore its cause.
pub fn with_flag(error: ModelError) -> anyhow::Error {
    let way = match &error {
        ModelError::Config(ConfigError::Unknown { .. }) => " with --allow-unknown-keys",
        ModelError::UnusedTensors { .. } => "; --allow-unused loads it without them",
        _ => return error.into(),
    };
    bad_file(format!("{error}{way}"))
}

impl ModelArg {
    /// A folder that this program made: nothing in it is ignored.
    pub fn own(model: &Path) -> Self {
        Self { model: model.to_owned(), allowed: Allowed::default() }
    }

    /// Reads weights and tokenizer.
    pub fn open(&self) -> anyhow::Result<(Model, Arc<Tokenizer>)> {
        self.read(|folder| self.allowed.load(folder), Model::config)
    }

    /// Reads weights, packed in a format, and tokenizer.
    pub fn open_packed(&self, isa: IsaKind, weights: Format) -> anyhow::Result<(PackedModel, Arc<Tokenizer>)> {
        self.read(|folder| self.allowed.load_packed(folder, isa, weights), PackedModel::config)
    }

    fn read<M>(
        &self,
        load: impl Fn(&ModelFolder) -> anyhow::Result<M>,
        config: impl Fn(&M) -> &ModelConfig,
    ) -> anyhow::Result<(M, Arc<Tokenizer>)> {
        let read = || {
            let folder = open_folder(&self.model)?;
            let tokenizer = tokenizer_of(&self.model)?;
            let model = load(&folder)?;
            let (of_tokenizer, of_model) = (tokenizer.vocab_size(), config(&model).vocab_size);
            if of_tokenizer > of_model {
                return Err(ModelError::Vocabulary { tokenizer: of_tokenizer, model: of_model }.into());
            }
            Ok((model, Arc::new(tokenizer)))
        };
        read().map_err(|error| of_model(&self.model, error))
    }
}

/// Opens a model folder: configuration and headers, without the weights. For a run without a model, its latest
/// checkpoint.
pub fn open_folder(path: &Path) -> anyhow::Result<ModelFolder> {
    refuse_gguf(path)?;
    if !path.exists() {
        let path = path.display();
        return Err(bad_file(format!(
            "{path}: there is no such folder; name one with config.json and model.safetensors"
        )));
    }
    if path.join(CONFIG_FILE).exists() || !is_run(path) {
        return Ok(ModelFolder::open(path)?);
    }
    let Some(checkpoint) = latest_checkpoint(path)? else {
        return Err(bad_file(format!(
            "{}: the run ended before its first checkpoint: there is no model in it",
            path.display()
        )));
    };
    note!("note: {} has no model of its own yet; its latest checkpoint is used", path.display());
    Ok(ModelFolder::open(checkpoint)?)
}

/// The tokenizer of a model folder, or of a `tokenizer.json`.
pub fn tokenizer_of(path: &Path) -> anyhow::Result<Tokenizer> {
    refuse_gguf(path)?;
    if path.is_file() {
        return read_tokenizer(path);
    }
    let file = path.join(TOKENIZER_FILE);
    if !path.exists() {
        return Err(bad_file(format!("{}: there is no such folder or file", path.display())));
    }
    if !file.exists() {
        return Err(ModelError::NoTokenizer(path.to_owned()).into());
    }
    read_tokenizer(&file)
}

/// Reads a `tokenizer.json`; notes what in it is not applied.
pub fn read_tokenizer(file: &Path) -> anyhow::Result<Tokenizer> {
    let tokenizer = Tokenizer::from_file(file)?;
    if let Some(why) = tokenizer.not_applied() {
        note!("note: {}: {why}", file.display());
    }
    Ok(tokenizer)
}

/// Refuses GGUF files, which this program does not read or write.
pub fn refuse_gguf(path: &Path) -> anyhow::Result<()> {
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if !is_gguf {
        return Ok(());
    }
    let path = path.display();
    Err(usage(format!("{path}: GGUF files are not supported; name a folder with config.json and model.safetensors")))
}
