//! Where a model comes from: a run folder, a Hugging Face folder, a GGUF file, or a name on the hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use smallmind::checkpoint::{CONFIG_FILE, GgufFile, ModelFolder, TOKENIZER_FILE};
use smallmind::graph::{ParamSpec, Precision, Storage};
use smallmind::kernels::Format;
use smallmind::kernels::attention::CacheFormat;
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{
    ConfigError, LoadOptions, Model, ModelConfig, ModelError, ModelFiles, PackedModel, Purpose, SessionOptions,
    UnknownKeys, UnusedTensors, architecture, is_gguf, is_gguf_name,
};
use smallmind::simd::IsaKind;
use smallmind::train::{is_run, latest_checkpoint};

use super::failure::{bad_file, usage};
use super::settings::{MODEL_VARIABLE, of_model};
use super::{hub, no_model, note};

/// `-m`.
#[derive(Debug, Args)]
pub struct ModelArg {
    /// The model: a run folder, a Hugging Face folder, a GGUF file, or hf:OWNER/NAME for one that `pull` or another
    /// tool has downloaded
    #[arg(short, long, env = MODEL_VARIABLE, value_name = "MODEL")]
    pub model: PathBuf,
    #[command(flatten)]
    pub allowed: Allowed,
}

/// `--weights`.
#[derive(Clone, Copy, Debug, Args)]
pub struct WeightsArg {
    /// The format of weights in memory [default: each as in the files]. Those of linear layers and embeddings are
    /// converted when they have been read; f16 and bf16 take half of f32's bytes, q8_0 about a quarter, q4_0 about a
    /// seventh, and texts differ a little, the more the fewer bits there are
    #[arg(long, value_name = "FORMAT", value_parser = format_parser(), ignore_case = true)]
    pub weights: Option<Format>,
}

/// `--kv`.
#[derive(Clone, Copy, Debug, Args)]
pub struct CacheArg {
    /// The format of the key-value cache: of what attention keeps of each token. f16 takes half of f32's bytes, q8_0
    /// about a quarter, q4_0 about a seventh, and texts differ a little, the more the fewer bits there are
    #[arg(long = "kv", value_name = "FORMAT", value_parser = cache_format_parser(), ignore_case = true,
          default_value = CACHE_FORMAT.name())]
    pub cache_format: CacheFormat,
}

impl CacheArg {
    /// The sizes of a session with such a cache, for one sequence of up to `context` tokens.
    pub fn single(self, context: usize, threads: usize) -> SessionOptions {
        SessionOptions { cache_format: self.cache_format, ..SessionOptions::single(context, threads) }
    }
}

/// The default of `--kv`: the smallest format whose KL divergence from `F32` stays far below 10⁻⁴ a token. That of
/// `Q8_0` came near it on models of the quick start, and grew as they were trained longer.
const CACHE_FORMAT: CacheFormat = CacheFormat::F16;

pub(super) fn cache_format_parser() -> impl TypedValueParser<Value = CacheFormat> {
    let names = PossibleValuesParser::new(CacheFormat::ALL.map(CacheFormat::name));
    names.try_map(|name| CacheFormat::from_name(&name.to_lowercase()).ok_or("there is no such format"))
}

pub(super) fn format_parser() -> impl TypedValueParser<Value = Format> {
    let names = PossibleValuesParser::new(Format::ALL.map(Format::name));
    names.try_map(|name| Format::from_name(&name.to_lowercase()).ok_or("there is no such format"))
}

pub(super) fn precision_parser() -> impl TypedValueParser<Value = Precision> {
    let names = PossibleValuesParser::new(Precision::ALL.map(Precision::name));
    names.try_map(|name| Precision::from_name(&name.to_lowercase()).ok_or("there is no such precision"))
}

/// Refuses a `--precision` that this CPU lacks.
pub fn check_precision(precision: Precision, isa: IsaKind) -> anyhow::Result<()> {
    if precision.is_available(isa) {
        return Ok(());
    }
    let name = precision.name();
    Err(usage(format!("--precision {name}: this CPU has no dot products of {name} with the instruction set {isa}")))
}

/// What is ignored in a model's files.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Allowed {
    /// Pass over keys of the configuration that are not known: they may change what the model computes
    #[arg(long)]
    allow_unknown_keys: bool,
    /// Pass over tensors that the configuration has no use for
    #[arg(long)]
    allow_unused: bool,
}

impl Allowed {
    /// For [`ModelFiles::configs`].
    pub fn unknown_keys(self) -> UnknownKeys {
        if self.allow_unknown_keys { UnknownKeys::Allow } else { UnknownKeys::Refuse }
    }

    pub fn load_options(self) -> LoadOptions {
        let unused_tensors = if self.allow_unused { UnusedTensors::Allow } else { UnusedTensors::Refuse };
        LoadOptions { unknown_keys: self.unknown_keys(), unused_tensors }
    }

    /// Reads the weights of open files; notes what is ignored.
    pub fn load(self, files: &ModelFiles) -> anyhow::Result<Model> {
        let model = Model::from_files(files, self.load_options()).map_err(with_flag)?;
        self.note(files, model.config())?;
        Ok(model)
    }

    /// Reads the weights of open files, packed in a format; notes what is ignored, and which weights are in another
    /// format.
    pub fn load_packed(self, files: &ModelFiles, isa: IsaKind, weights: Option<Format>) -> anyhow::Result<PackedModel> {
        let model = PackedModel::from_files(files, self.load_options(), isa, weights).map_err(with_flag)?;
        self.note(files, model.config())?;
        note_fallback(model.config(), isa, weights)?;
        Ok(model)
    }

    /// Notes what is ignored, and an output head in the weights that `config.json` doesn't have. `config` was read from
    /// `files`.
    pub fn note(self, files: &ModelFiles, config: &ModelConfig) -> anyhow::Result<()> {
        if files.has_second_head(config)? {
            note!(
                "note: lm_head.weight differs from the token embeddings, although `tie_word_embeddings` in \
                 {CONFIG_FILE} makes them one: it is used as the output head, as in transformers"
            );
        }
        if self.allow_unknown_keys {
            let place = if matches!(files, ModelFiles::Folder(_)) { CONFIG_FILE } else { "the metadata" };
            note_passed_over(&format!("unknown keys of {place}"), &files.unknown_keys()?);
        }
        if self.allow_unused {
            note_passed_over("tensors without use", &smallmind::model::unused_tensors(config, files)?);
        }
        Ok(())
    }
}

/// Notes which weights of a model are in other formats because their rows are not whole blocks of the format that was
/// asked for.
pub fn note_fallback(config: &ModelConfig, isa: IsaKind, asked: Option<Format>) -> anyhow::Result<()> {
    let Some(asked) = asked else { return Ok(()) };
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
        // The model that can't be written in another form is in a file.
        ModelError::Config(ConfigError::NotStorable { .. }) => "",
        _ => return error.into(),
    };
    bad_file(format!("{error}{way}"))
}

impl ModelArg {
    /// A folder that this program made: nothing in it is ignored.
    pub fn own(model: &Path) -> Self {
        Self { model: model.to_owned(), allowed: Allowed::default() }
    }

    /// Reads weights, packed in a format, and tokenizer.
    pub fn open_packed(&self, isa: IsaKind, weights: Option<Format>) -> anyhow::Result<(PackedModel, Arc<Tokenizer>)> {
        let read = || {
            let files = open_files(&self.model)?;
            let tokenizer = tokenizer_in(&self.model, &files)?;
            let model = self.allowed.load_packed(&files, isa, weights)?;
            check_vocabulary(&tokenizer, model.config())?;
            Ok((model, Arc::new(tokenizer)))
        };
        read().map_err(|error| of_model(&self.model, error))
    }
}

/// Checks that a model has an entry for every token of its tokenizer.
pub fn check_vocabulary(tokenizer: &Tokenizer, config: &ModelConfig) -> Result<(), ModelError> {
    let (tokenizer, model) = (tokenizer.vocab_size(), config.vocab_size);
    if tokenizer > model { Err(ModelError::Vocabulary { tokenizer, model }) } else { Ok(()) }
}

/// Opens a model's files: configuration and headers, without the weights. For a run without a model, its latest
/// checkpoint, with a note.
pub fn open_files(path: &Path) -> anyhow::Result<ModelFiles> {
    let files = find_files(path)?;
    let resolved = &*hub::resolve(path)?;
    if files.path() != resolved {
        note!("note: {} has no model of its own yet; its latest checkpoint is used", resolved.display());
    }
    Ok(files)
}

/// As [`open_files`], without a note.
pub fn find_files(path: &Path) -> anyhow::Result<ModelFiles> {
    let path = &*hub::resolve(path)?;
    no_model::check(path)?;
    if is_gguf(path) || path.join(CONFIG_FILE).exists() || !is_run(path) {
        let files = ModelFiles::open(path)?;
        no_model::check_gguf(&files)?;
        return Ok(files);
    }
    let Some(checkpoint) = latest_checkpoint(path)? else {
        return Err(bad_file(format!(
            "{}: the run ended before its first checkpoint: there is no model in it",
            path.display()
        )));
    };
    Ok(ModelFolder::open(checkpoint)?.into())
}

/// The tokenizer of a model at `path`, whose files are open.
pub fn tokenizer_in(path: &Path, files: &ModelFiles) -> anyhow::Result<Tokenizer> {
    match files {
        // A run has one tokenizer for all its checkpoints.
        ModelFiles::Folder(_) => tokenizer_of(path),
        ModelFiles::Gguf(file) if tokenizer_model(file).is_none() => {
            Err(ModelError::NoTokenizerInGguf(path.to_owned()).into())
        }
        ModelFiles::Gguf(file) => {
            let tokenizer = Tokenizer::from_gguf(file.metadata())
                .map_err(|error| anyhow::Error::from(ModelError::from(error)).context(path.display().to_string()))?;
            note_not_applied(path, &tokenizer);
            Ok(tokenizer)
        }
    }
}

/// The kind of a GGUF file's tokenizer, if it has one.
pub fn tokenizer_model(file: &GgufFile) -> Option<&str> {
    let model = file.metadata().value::<&str>("tokenizer.ggml.model").ok().flatten();
    model.filter(|model| !["none", "no_vocab"].contains(model))
}

/// The tokenizer of a model folder, of a GGUF file, or of a `tokenizer.json`.
pub fn tokenizer_of(path: &Path) -> anyhow::Result<Tokenizer> {
    let path = &*hub::resolve(path)?;
    if is_gguf(path) && path.exists() {
        return tokenizer_in(path, &ModelFiles::open(path)?);
    }
    if path.is_file() {
        return read_tokenizer(path);
    }
    let file = path.join(TOKENIZER_FILE);
    no_model::check_there(path, "folder or file", "name a model or a tokenizer.json")?;
    if !file.exists() {
        return Err(ModelError::NoTokenizer(path.to_owned()).into());
    }
    read_tokenizer(&file)
}

/// Reads a `tokenizer.json` or a GGUF file; notes what in it is not applied.
pub fn read_tokenizer(file: &Path) -> anyhow::Result<Tokenizer> {
    let tokenizer = Tokenizer::from_file(file)?;
    note_not_applied(file, &tokenizer);
    Ok(tokenizer)
}

fn note_not_applied(file: &Path, tokenizer: &Tokenizer) {
    if let Some(why) = tokenizer.not_applied() {
        note!("note: {}: {why}", file.display());
    }
}

/// Refuses a GGUF file where a folder is written.
pub fn refuse_gguf(path: &Path) -> anyhow::Result<()> {
    if !is_gguf_name(path) {
        return Ok(());
    }
    let path = path.display();
    Err(usage(format!("{path}: a folder is written; convert writes GGUF files")))
}
