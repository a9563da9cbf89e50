//! Reading a model from a folder.

use std::path::Path;

use smallmind_checkpoint::{CONFIG_FILE, GENERATION_FILE, ModelFolder, WeightFiles};

use crate::model::transpose;
use crate::tensor_names::{Orientation, TensorNames};
use crate::unused::{has_second_head, unused_tensors};
use crate::{ConfigError, GenerationConfig, Head, Model, ModelConfig, ModelError, UnknownKeys};

/// What is passed over when a model is read. The default refuses everything that could make it another model than was meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Keys of `config.json` that are not known.
    pub unknown_keys: UnknownKeys,
    /// Tensors of the weights that the configuration has no use for.
    pub unused_tensors: UnusedTensors,
}

/// What happens to tensors that a configuration has no use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnusedTensors {
    /// They are an error: the model computes something else than the one that they belong to.
    #[default]
    Refuse,
    /// They are passed over.
    Allow,
}

impl ModelConfig {
    /// The shape of the model in a folder. Tokens that `generation_config.json` names as the first and the last of a text take the place
    /// of those in `config.json`. Where `tie_word_embeddings` makes the output head and the token embeddings one, but the weights hold an
    /// `lm_head.weight` that differs from the embeddings, the model is an untied one, as in transformers 5.
    ///
    /// # Errors
    /// As [`ModelConfig::from_json`], files that can't be read, and those of [`GenerationConfig::from_json`]; each names the file.
    pub fn from_folder(folder: &ModelFolder, unknown: UnknownKeys) -> Result<Self, ModelError> {
        Ok(read_configs(folder, unknown)?.0)
    }
}

impl ModelConfig {
    /// Whether `file` has every tensor of such a model, in its shape.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape; [`ConfigError::NotStorable`].
    pub fn check_tensors(&self, file: &WeightFiles) -> Result<(), ModelError> {
        let names = TensorNames::of(self)?;
        for slot in names.slots() {
            let name = names.stored(&slot.name, file);
            let info = file.info(name)?;
            if info.shape != slot.shape {
                return Err(ModelError::TensorShape {
                    path: file.path().to_owned(),
                    name: name.to_owned(),
                    got: info.shape.clone(),
                    expected: slot.shape,
                });
            }
        }
        Ok(())
    }
}

fn read_configs(folder: &ModelFolder, unknown: UnknownKeys) -> Result<(ModelConfig, GenerationConfig), ModelError> {
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

impl Model {
    /// Reads the model in a Hugging Face folder: `config.json`, `generation_config.json` where it is there, and `model.safetensors` (or
    /// its shards).
    ///
    /// # Errors
    /// Files that are missing, damaged, or don't fit each other; keys and tensors that [`LoadOptions`] could pass over; weights that are
    /// not finite.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, ModelError> {
        Self::from_folder(&ModelFolder::open(dir)?, LoadOptions::default())
    }

    /// [`Model::load`] of a folder that is open already.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_folder(folder: &ModelFolder, options: LoadOptions) -> Result<Self, ModelError> {
        let (config, generation) = read_configs(folder, options.unknown_keys)?;
        // Before anything is allocated: a small file may come with a configuration that promises terabytes.
        config.check_tensors(folder.weights())?;
        if options.unused_tensors == UnusedTensors::Refuse {
            refuse_unused(&config, folder.weights())?;
        }
        let mut model = Self::zeroed(config)?;
        model.read(folder.weights())?;
        model.set_generation(generation);
        Ok(model)
    }

    /// Reads every parameter from `file`, whose shapes [`ModelConfig::check_tensors`] has found right.
    fn read(&mut self, file: &WeightFiles) -> Result<(), ModelError> {
        let mut transposed = Vec::new();
        let config = self.config().clone();
        let names = TensorNames::of(&config)?;
        for slot in names.slots() {
            let name = names.stored(&slot.name, file);
            let to = self.slot_mut(&slot);
            match slot.orientation {
                Orientation::Same => file.read_finite_f32(name, to)?,
                Orientation::Transposed => {
                    transposed.resize(to.len(), 0.0);
                    file.read_finite_f32(name, &mut transposed)?;
                    transpose(&transposed, slot.shape[0], slot.shape[1], to);
                }
            }
        }
        Ok(())
    }
}

fn refuse_unused(config: &ModelConfig, file: &WeightFiles) -> Result<(), ModelError> {
    let names = unused_tensors(config, file)?;
    let path = file.path().to_owned();
    if names.is_empty() { Ok(()) } else { Err(ModelError::UnusedTensors { path, names }) }
}
