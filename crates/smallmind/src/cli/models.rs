//! Where a model comes from: a run folder or a Hugging Face folder.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use smallmind::checkpoint::{CONFIG_FILE, ModelFolder, Rolling, TOKENIZER_FILE};
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{Model, ModelError};
use smallmind::train::is_run;

use super::failure::{bad_file, usage};
use super::note;
use super::settings::{MODEL_VARIABLE, of_model};

/// `-m`.
#[derive(Debug, Args)]
pub struct ModelArg {
    /// The model: a run folder or a Hugging Face folder
    #[arg(short, long, env = MODEL_VARIABLE, value_name = "FOLDER")]
    pub model: PathBuf,
}

impl ModelArg {
    /// Reads weights and tokenizer.
    pub fn open(&self) -> anyhow::Result<(Model, Arc<Tokenizer>)> {
        self.read().map_err(|error| of_model(&self.model, error))
    }

    fn read(&self) -> anyhow::Result<(Model, Arc<Tokenizer>)> {
        let folder = open_folder(&self.model)?;
        let tokenizer = tokenizer_of(&self.model)?;
        let model = Model::from_folder(&folder)?;
        if tokenizer.vocab_size() > model.config().vocab_size {
            let (tokenizer, model) = (tokenizer.vocab_size(), model.config().vocab_size);
            return Err(ModelError::Vocabulary { tokenizer, model }.into());
        }
        Ok((model, Arc::new(tokenizer)))
    }
}

/// Opens a model folder: configuration and headers, not yet the weights. A run that has no model yet has checkpoints.
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
    let checkpoints = Rolling::new(path.join("checkpoints"), "step-", NonZeroUsize::MIN);
    let Some(checkpoint) = checkpoints.latest_valid()?.checkpoint else {
        return Err(bad_file(format!(
            "{}: the run ended before its first checkpoint: there is no model in it",
            path.display()
        )));
    };
    note!("note: {} has no model of its own yet; its latest checkpoint is used", path.display());
    Ok(ModelFolder::open(checkpoint.path)?)
}

/// The tokenizer of a model folder, or a `tokenizer.json` by itself.
pub fn tokenizer_of(path: &Path) -> anyhow::Result<Tokenizer> {
    refuse_gguf(path)?;
    if path.is_file() {
        return Ok(Tokenizer::from_file(path)?);
    }
    let file = path.join(TOKENIZER_FILE);
    if !path.exists() {
        return Err(bad_file(format!("{}: there is no such folder or file", path.display())));
    }
    if !file.exists() {
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
