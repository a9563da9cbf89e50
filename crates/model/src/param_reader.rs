//! Reading the parameters of a model from the tensors of its files.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use smallmind_checkpoint::{CheckpointError, Dtype, TensorFault, TensorFormat, TensorSource};
use smallmind_graph::op::Op;
use smallmind_graph::{Graph, ParamId, ParamSpec, ParamStore, Params, RowsMut, Storage};
use smallmind_kernels::Format;
use smallmind_kernels::matmul::COL_GRANULE;
use smallmind_simd::IsaKind;

use crate::tensor_names::{Orientation, TensorNames, TensorSlot};
use crate::{ModelConfig, ModelError, ModelFiles};

/// Bytes of a tensor that are read at once: they stay in a second-level cache until they are stored.
const PIECE: usize = 1 << 18;

/// Reads parameters from the tensors of files. The tensors are there, in the shapes that the model needs.
pub(crate) struct ParamReader<'f> {
    file: &'f dyn TensorSource,
    names: TensorNames<'f>,
    /// Columns and tensors of each parameter.
    params: Vec<(usize, Vec<TensorSlot>)>,
}

/// Rows of a parameter that are adjacent in a tensor too, or that are whole heads of it.
struct Piece<'r> {
    /// The rows of the parameter.
    rows: Range<usize>,
    slot: &'r TensorSlot,
    /// The first row of the tensor.
    from: usize,
}

/// Memory of a thread that stores rows.
#[derive(Default)]
struct Scratch {
    /// Rows as they lie in the file.
    in_file: Vec<u8>,
    /// The same rows in the order of the parameter.
    in_param: Vec<u8>,
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
        Ok(Self { file, names, params: of_params })
    }

    /// Reads the parameter `id` to `to`.
    pub(crate) fn read(&self, id: ParamId, to: &mut [f32]) -> Result<(), ModelError> {
        let (cols, slots) = &self.params[id.index()];
        let mut in_file = vec![];
        for slot in slots {
            let name = self.names.stored(&slot.name, self.file);
            let to = &mut to[slot.elements(*cols)];
            if slot.orientation == Orientation::Same {
                read_numbers(self.file, name, to)?;
                continue;
            }
            in_file.resize(slot.len_in_file(), 0.0);
            read_numbers(self.file, name, &mut in_file)?;
            slot.to_param(&in_file, to);
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
            // The experts of a layer have one format.
            let has_one = parts.len() == 1 || !is_of_experts(graph, &spec.name);
            if can_be_split && has_one { parts } else { vec![(spec.rows, Format::F16)] }
        };
        Ok(Storage::by_rows(graph, isa, formats)?)
    }

    /// The format of a tensor in the file.
    fn format(&self, slot: &TensorSlot) -> Option<Format> {
        stored_format(self.file.find(self.names.stored(&slot.name, self.file))?.format)
    }

    /// Stores all parameters, on up to `threads` threads.
    pub(crate) fn store_all(&self, store: &mut ParamStore, threads: usize) -> Result<(), ModelError> {
        let pieces: Vec<_> = (0..self.params.len()).map(|index| self.pieces(index)).collect();
        let starts = |id: ParamId| pieces[id.index()].iter().map(|piece| piece.rows.start).collect();
        in_order(store.divide(starts), threads, |mut rows: RowsMut<'_>, scratch: &mut Scratch| {
            let pieces = &pieces[rows.id().index()];
            if pieces.is_empty() {
                return self.store_values(rows);
            }
            let all = rows.rows();
            let mut own = pieces.iter().filter(|piece| all.contains(&piece.rows.start));
            own.try_for_each(|piece| self.store_piece(piece, &mut rows, scratch))
        })
    }

    /// How a parameter is read if its rows are stored as rows in the files; nothing if any aren't. In rising order.
    fn pieces(&self, index: usize) -> Vec<Piece<'_>> {
        let (_, slots) = &self.params[index];
        let has_rows = |slot: &TensorSlot| {
            let in_rows = matches!(
                slot.orientation,
                Orientation::Same | Orientation::Interleaved { .. } | Orientation::Half { .. }
            );
            in_rows && slot.shape.len() > 1 && self.format(slot).is_some()
        };
        if !slots.iter().all(has_rows) {
            return vec![];
        }
        let mut pieces: Vec<_> = slots.iter().flat_map(|slot| self.pieces_of(slot)).collect();
        pieces.sort_by_key(|piece| piece.rows.start);
        pieces
    }

    fn pieces_of<'r>(&self, slot: &'r TensorSlot) -> impl Iterator<Item = Piece<'r>> {
        let (cols, outer) = slot.shape.split_last().map_or((1, &[][..]), |(cols, outer)| (*cols, outer));
        let rows: usize = outer.iter().product();
        let row = self.format(slot).and_then(|format| format.row_bytes(cols)).unwrap_or(0);
        // Pieces begin with a strip of packed memory, and with a head where rows change their places within heads.
        let head = match slot.orientation {
            Orientation::Interleaved { heads } => rows / heads,
            _ => 1,
        };
        let unit = (1..=COL_GRANULE).map(|n| n * head).find(|rows| rows.is_multiple_of(COL_GRANULE)).unwrap_or(head);
        let piece = (PIECE / row.max(1)).max(1).next_multiple_of(unit.max(1));
        // Rows that are adjacent in the parameter too, how far the next ones are, and where the first are.
        let (adjacent, stride, start) = match slot.orientation {
            Orientation::Half { experts, half } => (rows / experts, 2 * (rows / experts), half * (rows / experts)),
            _ => (rows, rows, 0),
        };
        let firsts = move |i| (0..adjacent).step_by(piece).map(move |first| (i, first));
        (0..rows / adjacent.max(1)).flat_map(firsts).map(move |(i, first)| {
            let to = slot.part.start + i * stride + start;
            Piece { rows: to + first..to + (first + piece).min(adjacent), slot, from: i * adjacent + first }
        })
    }

    /// Stores the rows of a parameter that are stored as rows in the files.
    fn store_piece(&self, piece: &Piece<'_>, to: &mut RowsMut<'_>, scratch: &mut Scratch) -> Result<(), ModelError> {
        let Piece { rows, slot, from } = piece;
        let name = self.names.stored(&slot.name, self.file);
        let (format, row) = format_of_rows(self.file, name)?;
        let Scratch { in_file, in_param } = scratch;
        in_file.resize(rows.len() * row, 0);
        self.file.read_at(name, (from * row) as u64, in_file)?;
        if let Some((index, value)) = format.first_non_finite(in_file) {
            let fault = TensorFault::NotFinite { index: from * to.spec().cols + index, value };
            return Err(CheckpointError::tensor(self.file.path(), name, fault).into());
        }
        let mut bytes = &*in_file;
        if let Orientation::Interleaved { heads } = slot.orientation {
            in_param.resize(bytes.len(), 0);
            let head = slot.part.len() / heads * row;
            let heads = bytes.chunks_exact(head).zip(in_param.chunks_exact_mut(head));
            heads.for_each(|(from, to)| pairs_apart(from, row, to));
            bytes = in_param;
        }
        Ok(to.set(rows.clone(), format, bytes)?)
    }

    /// Stores a whole parameter whose elements are read as `f32`.
    fn store_values(&self, mut to: RowsMut<'_>) -> Result<(), ModelError> {
        let mut values = vec![0.0; to.spec().len()];
        self.read(to.id(), &mut values)?;
        Ok(to.set(to.rows(), Format::F32, bytemuck::cast_slice(&values))?)
    }
}

/// Does `work` for all items on up to `threads` threads, which take them in order. If it fails for several, the error is
/// that of the first one.
fn in_order<T: Send, S: Default>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T, &mut S) -> Result<(), ModelError> + Sync,
) -> Result<(), ModelError> {
    let queue = Mutex::new((items.into_iter().enumerate(), None::<(usize, ModelError)>));
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let run = || {
        let mut scratch = S::default();
        loop {
            let Some((index, item)) = lock().0.next() else { return };
            if let Err(error) = work(item, &mut scratch) {
                let (rest, first) = &mut *lock();
                rest.by_ref().for_each(drop);
                if first.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                    *first = Some((index, error));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where no thread can be started, those that run do all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, run);
        }
        run();
    });
    queue.into_inner().unwrap_or_else(PoisonError::into_inner).1.map_or(Ok(()), |(_, error)| Err(error))
}

/// Whether a mixture of experts reads a parameter.
fn is_of_experts(graph: &Graph, param: &str) -> bool {
    let id = graph.params().find(param);
    graph
        .nodes()
        .iter()
        .any(|node| matches!(node.op, Op::Experts(_)) && id.is_some_and(|id| node.op.params().contains(&id)))
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
