//! Reading a model from a folder.

use std::path::Path;
use std::sync::Arc;

use smallmind_checkpoint::{CONFIG_FILE, GENERATION_FILE, ModelFolder, WeightFiles};
use smallmind_graph::{ParamId, ParamStore, Params, Storage};
use smallmind_kernels::Format;
use smallmind_simd::IsaKind;

use crate::architecture::{self, Purpose};
use crate::tensor_names::{Orientation, TensorNames, TensorSlot};
use crate::unused::{has_second_head, unused_tensors};
use crate::{ConfigError, GenerationConfig, Head, Model, ModelConfig, ModelError, PackedModel, UnknownKeys};

/// What is ignored when a model is read. By default nothing is that could change what the model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Keys of `config.json` that are not known.
    pub unknown_keys: UnknownKeys,
    /// Tensors of the weights that the configuration has no use for.
    pub unused_tensors: UnusedTensors,
}

/// What happens to tensors that the configuration has no use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnusedTensors {
    /// They are an error: they belong to a model that computes something else.
    #[default]
    Refuse,
    /// They are ignored.
    Allow,
}

impl ModelConfig {
    /// The configuration of the model in a folder.
    ///
    /// The tokens that begin and end a text come from `generation_config.json` if that names them. If
    /// `tie_word_embeddings` is set, but the weights hold an `lm_head.weight` that differs from the embeddings, the
    /// head is untied, as in transformers 5.
    ///
    /// # Errors
    /// Those of [`ModelConfig::from_json`] and [`GenerationConfig::from_json`], and files that can't be read; each
    /// names the file.
    pub fn from_folder(folder: &ModelFolder, unknown: UnknownKeys) -> Result<Self, ModelError> {
        Ok(read_configs(folder, unknown)?.0)
    }
}

impl ModelConfig {
    /// Checks that `file` has every tensor of the model, in its shape.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape; [`ConfigError::NotStorable`].
    pub fn check_tensors(&self, file: &WeightFiles) -> Result<(), ModelError> {
        let names = TensorNames::in_file(self, file)?;
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
    /// Reads the model in a Hugging Face folder: `config.json`, `generation_config.json` if there is one, and
    /// `model.safetensors` or its shards.
    ///
    /// # Errors
    /// Files that are missing, damaged, or don't fit each other; unknown keys and unused tensors, unless
    /// [`LoadOptions`] allow them; weights that are not finite.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, ModelError> {
        Self::from_folder(&ModelFolder::open(dir)?, LoadOptions::default())
    }

    /// [`Model::load`] from an open folder.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_folder(folder: &ModelFolder, options: LoadOptions) -> Result<Self, ModelError> {
        let (config, generation) = checked_configs(folder, options)?;
        let mut model = Self::zeroed(config.clone())?;
        let mut reader = ParamReader::new(&config, folder.weights(), model.params())?;
        model.fill(|id, to| reader.read(id, to))?;
        model.set_generation(generation);
        Ok(model)
    }
}

impl PackedModel {
    /// The model in an open folder, packed for `isa` in the format `weights` as [`Model::pack_as`] packs it. Parameters
    /// are read and converted one after the other: besides the packed model there is memory for the largest in `f32`.
    ///
    /// # Errors
    /// As [`Model::load`] and [`Model::pack_as`].
    pub fn from_folder(
        folder: &ModelFolder,
        options: LoadOptions,
        isa: IsaKind,
        weights: Format,
    ) -> Result<Self, ModelError> {
        let (config, generation) = checked_configs(folder, options)?;
        config.check()?;
        let graph = Arc::new(architecture::graph(&config, Purpose::Generation)?);
        let storage = Arc::new(Storage::of(&graph, isa, weights)?);
        let mut reader = ParamReader::new(&config, folder.weights(), graph.params())?;
        let store = ParamStore::read(graph.params(), storage, |id, to| reader.read(id, to))?;
        Ok(Self::new(config, generation, graph, store))
    }
}

/// The configurations of a folder, whose weights have all tensors that the model needs, in their shapes.
fn checked_configs(folder: &ModelFolder, options: LoadOptions) -> Result<(ModelConfig, GenerationConfig), ModelError> {
    let (config, generation) = read_configs(folder, options.unknown_keys)?;
    // Checked before anything is allocated: a configuration may claim terabytes.
    config.check_tensors(folder.weights())?;
    if options.unused_tensors == UnusedTensors::Refuse {
        refuse_unused(&config, folder.weights())?;
    }
    Ok((config, generation))
}

/// Reads parameters from the tensors of a file whose shapes [`ModelConfig::check_tensors`] has checked.
struct ParamReader<'f> {
    file: &'f WeightFiles,
    names: TensorNames<'f>,
    /// Columns and tensors of each parameter.
    params: Vec<(usize, Vec<TensorSlot>)>,
    /// A tensor as it lies in the file, where its elements must be put in another order.
    in_file: Vec<f32>,
}

impl<'f> ParamReader<'f> {
    fn new(config: &'f ModelConfig, file: &'f WeightFiles, params: &Params) -> Result<Self, ModelError> {
        let names = TensorNames::in_file(config, file)?;
        let mut of_params: Vec<_> = params.iter().map(|(_, spec)| (spec.cols, vec![])).collect();
        for slot in names.slots() {
            if let Some(id) = params.find(&slot.param) {
                of_params[id.index()].1.push(slot);
            }
        }
        Ok(Self { file, names, params: of_params, in_file: vec![] })
    }

    /// Reads the parameter `id` to `to`.
    fn read(&mut self, id: ParamId, to: &mut [f32]) -> Result<(), ModelError> {
        let Self { file, names, params, in_file } = self;
        let (cols, slots) = &params[id.index()];
        for slot in slots {
            let name = names.stored(&slot.name, file);
            let to = &mut to[slot.elements(*cols)];
            if slot.orientation == Orientation::Same {
                file.read_finite_f32(name, to)?;
                continue;
            }
            in_file.resize(to.len(), 0.0);
            file.read_finite_f32(name, in_file)?;
            slot.to_param(in_file, to);
        }
        Ok(())
    }
}

fn refuse_unused(config: &ModelConfig, file: &WeightFiles) -> Result<(), ModelError> {
    let names = unused_tensors(config, file)?;
    let path = file.path().to_owned();
    if names.is_empty() { Ok(()) } else { Err(ModelError::UnusedTensors { path, names }) }
}
