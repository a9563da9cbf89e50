//! Where a model comes from: a run folder or a Hugging Face folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use smallmind::checkpoint::{ModelFolder, TOKENIZER_FILE};
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{Model, ModelError};

use super::failure::usage;

/// `-m`.
#[derive(Debug, Args)]
pub struct ModelArg {
    /// The model: a run folder or a Hugging Face folder
    #[arg(short, long, env = "SMALLMIND_MODEL", value_name = "FOLDER")]
    pub model: PathBuf,
}

impl ModelArg {
    /// Reads weights and tokenizer.
    pub fn open(&self) -> anyhow::Result<(Arc<Model>, Arc<Tokenizer>)> {
        let folder = open_folder(&self.model)?;
        let tokenizer = tokenizer_of(&self.model)?;
        let model = Model::from_folder(&folder)?;
        if tokenizer.vocab_size() > model.config().vocab_size {
            let (tokenizer, model) = (tokenizer.vocab_size(), model.config().vocab_size);
            return Err(ModelError::Vocabulary { tokenizer, model }.into());
        }
        Ok((Arc::new(model), Arc::new(tokenizer)))
    }
}

/// Opens a model folder: configuration and headers, not yet the weights.
pub fn open_folder(path: &Path) -> anyhow::Result<ModelFolder> {
    refuse_gguf(path)?;
    Ok(ModelFolder::open(path)?)
}

/// The tokenizer of a model folder, or a `tokenizer.json` by itself.
pub fn tokenizer_of(path: &Path) -> anyhow::Result<Tokenizer> {
    refuse_gguf(path)?;
    if path.is_file() {
        return Ok(Tokenizer::from_file(path)?);
    }
    let file = path.join(TOKENIZER_FILE);
    if path.is_dir() && !file.exists() {
        return Err(ModelError::NoTokenizer(path.to_owned()).into());
    }
    Ok(Tokenizer::from_file(file)?)
}

/// GGUF files are for llama.cpp; this program does not read or write them.
pub fn refuse_gguf(path: &Path) -> anyhow::Result<()> {
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if !is_gguf {
        return Ok(());
    }
    let path = path.display();
    Err(usage(format!("{path}: GGUF files are not supported; name a folder with config.json and model.safetensors")))
}
