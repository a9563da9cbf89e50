//! The files of a model: a folder in the layout of Hugging Face, or a GGUF file.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use smallmind_checkpoint::{
    CONFIG_FILE, GENERATION_FILE, GgufFile, INDEX_FILE, ModelFolder, TOKENIZER_FILE, TensorFile, TensorSource,
};
use smallmind_graph::{Graph, Storage};
use smallmind_kernels::Format;
use smallmind_simd::IsaKind;

use crate::chat::{MORE_TEMPLATES, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE};
use crate::config::{self, UnknownKeys};
use crate::param_reader::ParamReader;
use crate::tensor_names::{FileKind, TensorNames};
use crate::unused::has_second_head;
use crate::{ConfigError, Family, GenerationConfig, Head, ModelConfig, ModelError};

/// The files of a model, open: all headers are checked, no weight is read.
#[derive(Debug)]
pub enum ModelFiles {
    /// A folder in the layout of Hugging Face.
    Folder(ModelFolder),
    /// A GGUF file, or several that belong together.
    Gguf(GgufFile),
}

impl ModelFiles {
    /// Opens a folder, or a GGUF file, see [`is_gguf`].
    ///
    /// # Errors
    /// Those of [`ModelFolder::open`] and [`GgufFile::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        if is_gguf(path) { Ok(Self::Gguf(GgufFile::open(path)?)) } else { Ok(Self::Folder(ModelFolder::open(path)?)) }
    }

    /// The folder or the file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder.dir(),
            Self::Gguf(file) => file.path(),
        }
    }

    /// The weights.
    pub fn weights(&self) -> &dyn TensorSource {
        match self {
            Self::Folder(folder) => folder.weights(),
            Self::Gguf(file) => file,
        }
    }

    /// All files of the model that are there: those that hold weights, and in a folder its [`companions`].
    pub fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Folder(folder) => {
                let weights = folder.weights().shards().iter().map(|shard| shard.path().to_owned());
                weights.chain(companions(folder.dir())).collect()
            }
            Self::Gguf(file) => file.parts().map(Path::to_owned).collect(),
        }
    }

    /// How many files hold weights.
    pub fn weight_files(&self) -> usize {
        match self {
            Self::Folder(folder) => folder.weights().shards().len(),
            Self::Gguf(file) => file.parts().len(),
        }
    }

    /// The names of all tensors in the files, including those that an index leaves out, since other programs read them.
    pub(crate) fn tensor_names(&self) -> Vec<&str> {
        match self {
            Self::Folder(folder) => {
                folder.weights().shards().iter().flat_map(TensorFile::tensors).map(|info| info.name.as_str()).collect()
            }
            Self::Gguf(file) => file.tensors().map(|tensor| tensor.name.as_str()).collect(),
        }
    }

    /// The configuration, and what the files say about generating text.
    ///
    /// In a folder the tokens that begin and end a text come from `generation_config.json` if that names them. If
    /// `tie_word_embeddings` is set, but the weights hold an `lm_head.weight` that differs from the embeddings, the
    /// head is untied, as in transformers 5.
    ///
    /// # Errors
    /// Those of [`ModelConfig::from_json`] and [`GenerationConfig::from_json`]; an architecture or metadata of a GGUF
    /// file that isn't supported; files that can't be read. Each names the file.
    pub fn configs(&self, unknown: UnknownKeys) -> Result<(ModelConfig, GenerationConfig), ModelError> {
        match self {
            Self::Folder(folder) => folder_configs(folder, unknown),
            Self::Gguf(file) => config::gguf::read(file, unknown),
        }
    }

    /// Whether the weights have an output head that `config.json` doesn't have: `config`, which was read from these
    /// files, is untied for it.
    ///
    /// # Errors
    /// Those of [`ModelFiles::configs`].
    pub fn has_second_head(&self, config: &ModelConfig) -> Result<bool, ModelError> {
        match self {
            Self::Folder(folder) => {
                let stated = ModelConfig::from_json_with(folder.config(), UnknownKeys::Allow)?;
                Ok(stated.head == Head::Tied && config.head == Head::Untied)
            }
            Self::Gguf(_) => Ok(false),
        }
    }

    /// The keys of the configuration that are not known.
    ///
    /// # Errors
    /// Those of [`ModelFiles::configs`].
    pub fn unknown_keys(&self) -> Result<Vec<String>, ModelError> {
        match self {
            Self::Folder(folder) => Ok(ModelConfig::unknown_keys(folder.config())?),
            Self::Gguf(file) => config::gguf::unknown_keys(file),
        }
    }

    /// How the parameters of a graph of a model of `config`, which was read from these files, lie for products on
    /// `isa`: in a format, or, with `None`, each weight in that of its file. See [`PackedModel::from_files`](crate::PackedModel::from_files).
    ///
    /// # Errors
    /// As [`Storage::by_rows`].
    pub fn storage(
        &self,
        config: &ModelConfig,
        graph: &Graph,
        isa: IsaKind,
        weights: Option<Format>,
    ) -> Result<Storage, ModelError> {
        match weights {
            Some(format) => Ok(Storage::of(graph, isa, format)?),
            None => ParamReader::new(self, config, graph.params())?.storage(graph, isa),
        }
    }

    /// The names of the tensors of a model of `config`, which was read from these files.
    pub(crate) fn names<'c>(&self, config: &'c ModelConfig) -> Result<TensorNames<'c>, ModelError> {
        match self {
            Self::Folder(folder) => Ok(TensorNames::in_file(config, folder.weights())?),
            Self::Gguf(_) => self.names_in(config, FileKind::Gguf),
        }
    }

    /// The family in whose words a model of `config`, which was read from these files, is stated.
    pub(crate) fn family(&self, config: &ModelConfig) -> Result<Family, ModelError> {
        match self {
            Self::Folder(_) => Ok(Family::of(config)?),
            Self::Gguf(file) => config::gguf::family(file),
        }
    }

    /// The names that the tensors of a model of `config`, which was read from these files, have in files of a kind.
    pub(crate) fn names_in<'c>(&self, config: &'c ModelConfig, kind: FileKind) -> Result<TensorNames<'c>, ModelError> {
        let family = self.family(config)?;
        Ok(TensorNames::of_family(config, family, kind))
    }
}

impl From<ModelFolder> for ModelFiles {
    fn from(folder: ModelFolder) -> Self {
        Self::Folder(folder)
    }
}

/// Whether a path is that of a GGUF file: no folder, and either its name ends in `.gguf` or it is a file that begins as
/// a GGUF file does.
pub fn is_gguf(path: &Path) -> bool {
    !path.is_dir() && (is_gguf_name(path) || path.is_file() && begins_as_gguf(path))
}

/// Whether a name ends in `.gguf`.
pub fn is_gguf_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Whether the first four bytes of a file are those of a GGUF file.
fn begins_as_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"GGUF"
}

/// The files of a model folder besides the weights, those that are there: configuration, tokenizer, chat templates, and
/// the index of the weights.
pub fn companions(folder: &Path) -> Vec<PathBuf> {
    let names = [CONFIG_FILE, GENERATION_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, TEMPLATE_FILE, INDEX_FILE];
    let files = names.iter().map(|name| folder.join(name));
    let templates = fs::read_dir(folder.join(MORE_TEMPLATES)).into_iter().flatten();
    files.chain(templates.filter_map(|entry| Some(entry.ok()?.path()))).filter(|path| path.is_file()).collect()
}

fn folder_configs(folder: &ModelFolder, unknown: UnknownKeys) -> Result<(ModelConfig, GenerationConfig), ModelError> {
    let in_file = |file: &'static str| move |error: ConfigError| error.in_file(folder.dir().join(file));
    let mut config = ModelConfig::from_json_with(folder.config(), unknown).map_err(in_file(CONFIG_FILE))?;
    let generation = match folder.generation_config() {
        Some(value) => GenerationConfig::from_json(value, config.vocab_size).map_err(in_file(GENERATION_FILE))?,
        None => GenerationConfig::default(),
    };
    config.bos = generation.bos.or(config.bos);
    if !generation.eos.is_empty() {
        config.eos.clone_from(&generation.eos);
    }
    if has_second_head(&config, folder.weights())? {
        config.head = Head::Untied;
    }
    Ok((config, generation))
}
