//! Reading a model from its files.

use std::path::Path;
use std::sync::Arc;

use smallmind_checkpoint::TensorSource;
use smallmind_graph::{ParamStore, Storage};
use smallmind_kernels::Format;
use smallmind_simd::IsaKind;

use crate::architecture::{self, Purpose};
use crate::param_reader::ParamReader;
use crate::tensor_names::TensorNames;
use crate::unused::unused_tensors;
use crate::{GenerationConfig, Model, ModelConfig, ModelError, ModelFiles, PackedModel, UnknownKeys};

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
    /// Checks that the safetensors `file` has every tensor of the model, in its shape.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape; [`ConfigError::NotStorable`](crate::ConfigError::NotStorable).
    pub fn check_tensors(&self, file: &dyn TensorSource) -> Result<(), ModelError> {
        check_tensors(&TensorNames::in_file(self, file)?, file)
    }
}

fn check_tensors(names: &TensorNames<'_>, file: &dyn TensorSource) -> Result<(), ModelError> {
    for slot in names.slots() {
        let name = names.stored(&slot.name, file);
        let tensor = file.tensor(name)?;
        if tensor.shape != slot.shape {
            return Err(ModelError::TensorShape {
                path: file.path().to_owned(),
                name: name.to_owned(),
                got: tensor.shape.to_vec(),
                expected: slot.shape,
            });
        }
    }
    Ok(())
}

impl Model {
    /// Reads a GGUF file, or the model in a Hugging Face folder: `config.json`, `generation_config.json` if there is
    /// one, and `model.safetensors` or its shards.
    ///
    /// # Errors
    /// Files that are missing, damaged, or don't fit each other; unknown keys and unused tensors, unless
    /// [`LoadOptions`] allow them; weights that are not finite.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        Self::from_files(&ModelFiles::open(path)?, LoadOptions::default())
    }

    /// [`Model::load`] from open files.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_files(files: &ModelFiles, options: LoadOptions) -> Result<Self, ModelError> {
        let (config, generation) = checked_configs(files, options)?;
        let mut model = Self::zeroed(config.clone())?;
        let reader = ParamReader::new(files, &config, model.params())?;
        model.fill(|id, to| reader.read(id, to))?;
        model.set_generation(generation);
        Ok(model)
    }
}

impl PackedModel {
    /// The model in open files, packed for `isa`: in the format `weights` as [`Model::pack_as`] packs it, or, with
    /// `None`, each weight in the format of its file.
    ///
    /// Rows of blocks are moved from the file to their place without a change of a code or a scale. A part of a
    /// parameter that is a tensor of its own keeps its format. Where it can't, because its rows are not a multiple of
    /// 16 or because an embedding reads it too, the whole parameter is stored in F16.
    ///
    /// All threads that the process may use read and pack. Besides the packed model each has memory for a piece of a
    /// tensor, or for a parameter in `f32` where the elements of a file must be put in another order.
    ///
    /// # Errors
    /// As [`Model::load`] and [`Model::pack_as`].
    pub fn from_files(
        files: &ModelFiles,
        options: LoadOptions,
        isa: IsaKind,
        weights: Option<Format>,
    ) -> Result<Self, ModelError> {
        let (config, generation) = checked_configs(files, options)?;
        config.check()?;
        let graph = Arc::new(architecture::graph(&config, Purpose::Generation)?);
        let reader = ParamReader::new(files, &config, graph.params())?;
        let storage = match weights {
            Some(format) => Storage::of(&graph, isa, format)?,
            None => reader.storage(&graph, isa)?,
        };
        let threads = smallmind_graph::available_threads();
        let mut store = ParamStore::zeroed(graph.params(), Arc::new(storage))?;
        reader.store_all(&mut store, threads)?;
        Ok(Self::new(config, generation, graph, store))
    }
}

/// The configurations in a model's files, whose weights have all tensors that the model needs, in their shapes.
pub(crate) fn checked_configs(
    files: &ModelFiles,
    options: LoadOptions,
) -> Result<(ModelConfig, GenerationConfig), ModelError> {
    let (config, generation) = files.configs(options.unknown_keys)?;
    // Checked before anything is allocated: a configuration may claim terabytes.
    check_tensors(&files.names(&config)?, files.weights())?;
    if options.unused_tensors == UnusedTensors::Refuse {
        let names = unused_tensors(&config, files)?;
        if !names.is_empty() {
            return Err(ModelError::UnusedTensors { path: files.weights().path().to_owned(), names });
        }
    }
    Ok((config, generation))
}
