//! Reading the parameters of a model from the tensors of its files.

use smallmind_checkpoint::{CheckpointError, Dtype, TensorFault, TensorFormat, TensorSource};
use smallmind_graph::{Graph, ParamId, ParamSpec, ParamStore, Params, Storage};
use smallmind_kernels::Format;
use smallmind_kernels::matmul::COL_GRANULE;
use smallmind_simd::IsaKind;

use crate::tensor_names::{Orientation, TensorNames, TensorSlot};
use crate::{ModelConfig, ModelError, ModelFiles};

/// Bytes of a tensor that are read at once.
const PIECE: usize = 1 << 20;

/// Reads parameters from the tensors of files. The tensors are there, in the shapes that the model needs.
pub(crate) struct ParamReader<'f> {
    file: &'f dyn TensorSource,
    names: TensorNames<'f>,
    /// Columns and tensors of each parameter.
    params: Vec<(usize, Vec<TensorSlot>)>,
    /// A tensor as it lies in the file, where its elements must be put in another order.
    in_file: Vec<f32>,
    /// Stored rows, as they lie in the file and as they lie in the parameter.
    rows: [Vec<u8>; 2],
}

impl<'f> ParamReader<'f> {
    pub(crate) fn new(files: &'f ModelFiles, config: &'f ModelConfig, params: &Params) -> Result<Self, ModelError> {
        let (file, names) = (files.weights(), files.names(config)?);
        let mut of_params: Vec<_> = params.iter().map(|(_, spec)| (spec.cols, vec![])).collect();
        for slot in names.slots() {
            if let Some(id) = params.find(&slot.param) {
                of_params[id.index()].1.push(slot);
            }
        }
        Ok(Self { file, names, params: of_params, in_file: vec![], rows: [vec![], vec![]] })
    }

    /// Reads the parameter `id` to `to`.
    pub(crate) fn read(&mut self, id: ParamId, to: &mut [f32]) -> Result<(), ModelError> {
        let Self { file, names, params, in_file, .. } = self;
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

    /// How the parameters of `graph` lie if each weight keeps the format of its file.
    pub(crate) fn storage(&self, graph: &Graph, isa: IsaKind) -> Result<Storage, ModelError> {
        let formats = |spec: &ParamSpec| {
            let slots = graph.params().find(&spec.name).map_or(&[][..], |id| &self.params[id.index()].1);
            let mut parts: Vec<(usize, Format)> = Vec::new();
            for slot in slots {
                let format = self.format(slot).unwrap_or(Format::F32);
                if let Orientation::Half { half, .. } = slot.orientation {
                    // All experts have one format.
                    let other = parts.first().map_or(format, |(_, first)| *first);
                    let both = if half == 0 || other == format { format } else { Format::F16 };
                    parts = vec![(spec.rows, both)];
                    continue;
                }
                match parts.last_mut() {
                    Some((rows, last)) if *last == format => *rows += slot.part.len(),
                    _ => parts.push((slot.part.len(), format)),
                }
            }
            // Segments begin at multiples of so many rows.
            let is_whole = |(rows, _): &(usize, Format)| rows.is_multiple_of(COL_GRANULE);
            let can_be_split = parts.split_last().is_some_and(|(_, first)| first.iter().all(is_whole));
            if can_be_split { parts } else { vec![(spec.rows, Format::F16)] }
        };
        Ok(Storage::by_rows(graph, isa, formats)?)
    }

    /// The format of a tensor in the file.
    fn format(&self, slot: &TensorSlot) -> Option<Format> {
        stored_format(self.file.find(self.names.stored(&slot.name, self.file))?.format)
    }

    /// Stores the parameter `id`.
    pub(crate) fn store(&mut self, id: ParamId, spec: &ParamSpec, store: &mut ParamStore) -> Result<(), ModelError> {
        let has_rows = |slot: &TensorSlot| {
            let in_rows = matches!(
                slot.orientation,
                Orientation::Same | Orientation::Interleaved { .. } | Orientation::Half { .. }
            );
            in_rows && slot.shape.len() > 1 && self.format(slot).is_some()
        };
        if self.params[id.index()].1.iter().all(has_rows) {
            let slots = self.params[id.index()].1.clone();
            return slots.iter().try_for_each(|slot| self.store_rows(id, slot, store));
        }
        let mut values = vec![0.0; spec.len()];
        self.read(id, &mut values)?;
        Ok(store.set_blocks(id, 0..spec.rows, Format::F32, bytemuck::cast_slice(&values))?)
    }

    /// Stores the rows of a parameter that are a tensor of the file, a piece at a time.
    fn store_rows(&mut self, id: ParamId, slot: &TensorSlot, store: &mut ParamStore) -> Result<(), ModelError> {
        let name = self.names.stored(&slot.name, self.file);
        let tensor = self.file.tensor(name)?;
        let (rows, cols) = (tensor.rows(), tensor.row_elements());
        let (format, row) = format_of_rows(self.file, name)?;
        // Pieces of whole heads, where rows change their places within these.
        let head = match slot.orientation {
            Orientation::Interleaved { heads } => rows / heads,
            _ => COL_GRANULE,
        };
        let piece = (PIECE / row.max(1)).max(1).next_multiple_of(head.max(1));
        // Rows that are adjacent in the parameter too, how far the next ones are, and where the first are.
        let (unit, stride, start) = match slot.orientation {
            Orientation::Half { experts, half } => (rows / experts, 2 * (rows / experts), half * (rows / experts)),
            _ => (rows, rows, 0),
        };
        let [in_file, in_param] = &mut self.rows;
        for (i, first) in (0..rows / unit.max(1)).flat_map(|i| (0..unit).step_by(piece).map(move |first| (i, first))) {
            let in_unit = first..(first + piece).min(unit);
            let from = i * unit + first;
            in_file.resize(in_unit.len() * row, 0);
            self.file.read_at(name, (from * row) as u64, in_file)?;
            if let Some((index, value)) = format.first_non_finite(in_file) {
                let fault = TensorFault::NotFinite { index: from * cols + index, value };
                return Err(CheckpointError::tensor(self.file.path(), name, fault).into());
            }
            let mut bytes = &*in_file;
            if let Orientation::Interleaved { .. } = slot.orientation {
                in_param.resize(bytes.len(), 0);
                let heads = bytes.chunks_exact(head * row).zip(in_param.chunks_exact_mut(head * row));
                heads.for_each(|(from, to)| pairs_apart(from, row, to));
                bytes = in_param;
            }
            let to = slot.part.start + i * stride + start;
            store.set_blocks(id, to + in_unit.start..to + in_unit.end, format, bytes)?;
        }
        Ok(())
    }
}

/// Moves the rows of a head, each of `row` bytes, of which two that belong together are adjacent: first the first rows
/// of all pairs, then the second ones.
fn pairs_apart(from: &[u8], row: usize, to: &mut [u8]) {
    let half = from.len() / row / 2;
    for (i, pair) in from.chunks_exact(2 * row).enumerate() {
        let (first, second) = pair.split_at(row);
        to[i * row..][..row].copy_from_slice(first);
        to[(half + i) * row..][..row].copy_from_slice(second);
    }
}

/// The format of a stored tensor, if its numbers can be read.
pub(crate) fn stored_format(format: TensorFormat) -> Option<Format> {
    match format {
        TensorFormat::Plain(Dtype::F32) => Some(Format::F32),
        TensorFormat::Plain(Dtype::F16) => Some(Format::F16),
        TensorFormat::Plain(Dtype::Bf16) => Some(Format::Bf16),
        TensorFormat::Plain(_) => None,
        TensorFormat::Blocks(ggml_type) => Format::from_ggml_type(ggml_type.number()),
    }
}

/// The format of a tensor, and the bytes of a row.
fn format_of_rows(file: &dyn TensorSource, name: &str) -> Result<(Format, usize), ModelError> {
    let tensor = file.tensor(name)?;
    let format =
        stored_format(tensor.format).and_then(|format| Some((format, format.row_bytes(tensor.row_elements())?)));
    format.ok_or_else(|| ModelError::TensorFormat {
        path: file.path().to_owned(),
        name: name.to_owned(),
        format: tensor.format.to_string(),
    })
}

/// Reads a whole tensor of floats or of blocks, converted to `f32`; refuses numbers that are not finite.
fn read_numbers(file: &dyn TensorSource, name: &str, to: &mut [f32]) -> Result<(), ModelError> {
    assert_eq!(to.len(), file.tensor(name)?.elements(), "the elements of the tensor {name}");
    read_rows(file, name, 0, to)
}

/// Reads as many rows as fill `to`, from `first` on, of a tensor of floats or of blocks, converted to `f32`; refuses
/// numbers that are not finite.
pub(crate) fn read_rows(file: &dyn TensorSource, name: &str, first: usize, to: &mut [f32]) -> Result<(), ModelError> {
    let tensor = file.tensor(name)?;
    let row = tensor.row_elements();
    if let TensorFormat::Plain(_) = tensor.format {
        file.read_rows_f32(name, first, to)?;
    } else {
        let (format, row_bytes) = format_of_rows(file, name)?;
        let rows = (PIECE / row_bytes.max(1)).max(1);
        let mut bytes = vec![0; rows * row_bytes];
        for (i, to) in to.chunks_mut((rows * row).max(1)).enumerate() {
            let bytes = &mut bytes[..to.len() / row * row_bytes];
            file.read_at(name, ((first + i * rows) * row_bytes) as u64, bytes)?;
            format.unpack(bytes, to);
        }
    }
    match to.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(index) => {
            let fault = TensorFault::NotFinite { index: first * row + index, value: to[index] };
            Err(CheckpointError::tensor(file.path(), name, fault).into())
        }
    }
}
