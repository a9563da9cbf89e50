//! Reading a model from its files.

use std::path::Path;
use std::sync::Arc;

use smallmind_checkpoint::{CheckpointError, GgmlType, TensorFault, TensorFormat, TensorSource};
use smallmind_graph::{ParamId, ParamStore, Params, Storage};
use smallmind_kernels::Format;
use smallmind_kernels::blocks::BlockFormat;
use smallmind_simd::IsaKind;

use crate::architecture::{self, Purpose};
use crate::tensor_names::{Orientation, TensorNames, TensorSlot};
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
        let mut reader = ParamReader::new(files, &config, model.params())?;
        model.fill(|id, to| reader.read(id, to))?;
        model.set_generation(generation);
        Ok(model)
    }
}

impl PackedModel {
    /// The model in open files, packed for `isa` in the format `weights` as [`Model::pack_as`] packs it. Parameters
    /// are read and converted one after the other: besides the packed model there is memory for the largest in `f32`.
    ///
    /// # Errors
    /// As [`Model::load`] and [`Model::pack_as`].
    pub fn from_files(
        files: &ModelFiles,
        options: LoadOptions,
        isa: IsaKind,
        weights: Format,
    ) -> Result<Self, ModelError> {
        let (config, generation) = checked_configs(files, options)?;
        config.check()?;
        let graph = Arc::new(architecture::graph(&config, Purpose::Generation)?);
        let storage = Arc::new(Storage::of(&graph, isa, weights)?);
        let mut reader = ParamReader::new(files, &config, graph.params())?;
        let store = ParamStore::read(graph.params(), storage, |id, to| reader.read(id, to))?;
        Ok(Self::new(config, generation, graph, store))
    }
}

/// The configurations in a model's files, whose weights have all tensors that the model needs, in their shapes.
fn checked_configs(files: &ModelFiles, options: LoadOptions) -> Result<(ModelConfig, GenerationConfig), ModelError> {
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

/// Reads parameters from the tensors of a file whose shapes [`checked_configs`] has checked.
struct ParamReader<'f> {
    file: &'f dyn TensorSource,
    names: TensorNames<'f>,
    /// Columns and tensors of each parameter.
    params: Vec<(usize, Vec<TensorSlot>)>,
    /// A tensor as it lies in the file, where its elements must be put in another order.
    in_file: Vec<f32>,
}

impl<'f> ParamReader<'f> {
    fn new(files: &'f ModelFiles, config: &'f ModelConfig, params: &Params) -> Result<Self, ModelError> {
        let (file, names) = (files.weights(), files.names(config)?);
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
            let name = names.stored(&slot.name, *file);
            let to = &mut to[slot.elements(*cols)];
            if slot.orientation == Orientation::Same {
                read_numbers(*file, name, to)?;
                continue;
            }
            in_file.resize(slot.len_in_file(), 0.0);
            read_numbers(*file, name, in_file)?;
            slot.to_param(in_file, to);
        }
        Ok(())
    }
}

/// Bytes of blocks that are read at once.
const CHUNK: usize = 1 << 20;

/// Reads a whole tensor of floats or of blocks, converted to `f32`; refuses numbers that are not finite.
fn read_numbers(file: &dyn TensorSource, name: &str, to: &mut [f32]) -> Result<(), ModelError> {
    let tensor = file.tensor(name)?;
    let TensorFormat::Blocks(ggml_type) = tensor.format else { return Ok(file.read_finite_f32(name, to)?) };
    let row = tensor.row_elements();
    let Some((format, row_bytes)) = block_format(ggml_type).and_then(|format| Some((format, format.row_bytes(row)?)))
    else {
        return Err(ModelError::TensorFormat {
            path: file.path().to_owned(),
            name: name.to_owned(),
            format: ggml_type.name(),
        });
    };
    if to.len() != tensor.elements() {
        // The error of a buffer of another length.
        return Ok(file.read_f32(name, to)?);
    }
    let rows = (CHUNK / row_bytes.max(1)).max(1);
    let mut bytes = vec![0; rows * row_bytes];
    for (i, to) in to.chunks_mut((rows * row).max(1)).enumerate() {
        let bytes = &mut bytes[..to.len() / row * row_bytes];
        file.read_at(name, (i * rows * row_bytes) as u64, bytes)?;
        let each = bytes.chunks_exact(row_bytes).zip(to.chunks_exact_mut(row));
        each.for_each(|(bytes, to)| format.unpack(bytes, to));
        if let Some(index) = to.iter().position(|x| !x.is_finite()) {
            let fault = TensorFault::NotFinite { index: i * rows * row + index, value: to[index] };
            return Err(CheckpointError::tensor(file.path(), name, fault).into());
        }
    }
    Ok(())
}

/// The format with the blocks of a type.
fn block_format(ggml_type: GgmlType) -> Option<BlockFormat> {
    Some(match ggml_type {
        GgmlType::Q8_0 => BlockFormat::Q8_0,
        GgmlType::Q4_0 => BlockFormat::Q4_0,
        GgmlType::Q4_1 => BlockFormat::Q4_1,
        GgmlType::Q5_0 => BlockFormat::Q5_0,
        GgmlType::Q5_1 => BlockFormat::Q5_1,
        GgmlType::Q2_K => BlockFormat::Q2K,
        GgmlType::Q3_K => BlockFormat::Q3K,
        GgmlType::Q4_K => BlockFormat::Q4K,
        GgmlType::Q5_K => BlockFormat::Q5K,
        GgmlType::Q6_K => BlockFormat::Q6K,
        GgmlType::Iq4Nl => BlockFormat::Iq4Nl,
        GgmlType::Iq4Xs => BlockFormat::Iq4Xs,
        GgmlType::Mxfp4 => BlockFormat::Mxfp4,
        _ => return None,
    })
}
