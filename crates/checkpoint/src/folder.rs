//! A model in the layout of Hugging Face: a folder with `config.json`, `tokenizer.json` and safetensors.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::WeightFiles;
use crate::error::{CheckpointError, JsonFault};
use crate::json::read_json;

/// The model's shape.
pub const CONFIG_FILE: &str = "config.json";
/// How text is generated; it may be absent.
pub const GENERATION_FILE: &str = "generation_config.json";
/// The tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Weights in one file.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The index of weights in several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// A model folder: its config parsed, its weights open, every header checked.
///
/// The config's fields and the tokenizer are not interpreted here.
#[derive(Debug)]
pub struct ModelFolder {
    dir: PathBuf,
    config: Value,
    generation_config: Option<Value>,
    tokenizer: Option<PathBuf>,
    weights: WeightFiles,
}

impl ModelFolder {
    /// Opens a folder that holds `config.json` and either `model.safetensors` or `model.safetensors.index.json`.
    ///
    /// If there are both kinds of weights, the single file is used, as by other tools.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let dir = dir.as_ref();
        let missing = |path: PathBuf, what| Err(CheckpointError::Missing { path, what });
        let kind = std::fs::metadata(dir).map_err(CheckpointError::io(dir, "open the model folder"))?;
        if !kind.is_dir() {
            return missing(dir.to_path_buf(), "not a folder; name the folder that holds config.json");
        }
        let config = dir.join(CONFIG_FILE);
        if !config.is_file() {
            return missing(
                config,
                "not there; a model folder holds config.json, tokenizer.json and model.safetensors",
            );
        }
        let config = read_config(&config)?;
        let generation = Some(dir.join(GENERATION_FILE)).filter(|path| path.exists());
        let generation_config = generation.map(read_config).transpose()?;
        let tokenizer = Some(dir.join(TOKENIZER_FILE)).filter(|path| path.is_file());

        let (single, index) = (dir.join(WEIGHTS_FILE), dir.join(INDEX_FILE));
        let weights = if single.is_file() {
            WeightFiles::open_file(single)?
        } else if index.is_file() {
            WeightFiles::open_index(index)?
        } else if dir.join("pytorch_model.bin").is_file() {
            return missing(single, "not there, only pytorch_model.bin, which is not read; convert it to safetensors");
        } else {
            return missing(single, "not there, nor model.safetensors.index.json; the folder holds no weights");
        };
        Ok(Self { dir: dir.to_path_buf(), config, generation_config, tokenizer, weights })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The content of `config.json`, an object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The content of `generation_config.json`, an object, if there is one.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// The path of `tokenizer.json`, if there is one.
    pub fn tokenizer(&self) -> Option<&Path> {
        self.tokenizer.as_deref()
    }

    /// The weights.
    pub fn weights(&self) -> &WeightFiles {
        &self.weights
    }
}

/// Reads a `config.json`: JSON within the limits of [`read_json`], with an object on top.
pub fn read_config(path: impl AsRef<Path>) -> Result<Value, CheckpointError> {
    let path = path.as_ref();
    let config = read_json(path)?;
    if config.is_object() {
        return Ok(config);
    }
    let fault = JsonFault::WrongKind { field: "the config", expected: "an object" };
    Err(CheckpointError::Json { path: path.to_path_buf(), line: 1, column: 1, fault })
}
