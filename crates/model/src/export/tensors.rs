//! The tensors of a GGUF file that is written: where each comes from, and its bytes.

use std::cell::RefCell;
use std::io::{self, Write};

use smallmind_checkpoint::{CheckpointError, TensorFault, TensorFormat, TensorSource};
use smallmind_graph::{ParamId, Params};

use super::{ExportOptions, PlannedTensor, stored};
use crate::config::gguf::{LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS, divisors};
use crate::param_reader::{ParamReader, read_rows};
use crate::tensor_names::{FileKind, TensorNames, TensorSlot};
use crate::{Family, ModelConfig, ModelError, ModelFiles, architecture};
use smallmind_graph::op::RopeScaling;

/// Elements that are converted at once.
const PIECE: usize = 1 << 22;

/// Where a tensor comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A tensor of the same name and order in a GGUF file.
    Same { name: String, shape: Vec<usize> },
    /// Rows of a parameter.
    Slot(TensorSlot),
    /// Numbers that the configuration determines.
    Values { name: String, values: Vec<f32> },
}

impl Origin {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Same { name, .. } | Self::Values { name, .. } => name,
            Self::Slot(slot) => &slot.name,
        }
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        match self {
            Self::Same { shape, .. } => shape.clone(),
            Self::Slot(slot) => slot.shape.clone(),
            Self::Values { values, .. } => vec![values.len()],
        }
    }

    /// The format of the source's tensor.
    pub(super) fn stored_in(&self, files: &ModelFiles) -> Option<TensorFormat> {
        match self {
            Self::Same { name, .. } => files.weights().find(name).map(|tensor| tensor.format),
            Self::Slot(_) | Self::Values { .. } => None,
        }
    }
}

/// The tensors of the file for the model in `files`.
pub(super) fn origins(files: &ModelFiles, config: &ModelConfig, family: Family) -> Vec<Origin> {
    if let ModelFiles::Gguf(file) = files {
        let same = |tensor: smallmind_checkpoint::StoredTensor<'_>| Origin::Same {
            name: tensor.name.to_owned(),
            shape: tensor.shape.to_vec(),
        };
        return TensorSource::tensors(file).map(same).collect();
    }
    let names = TensorNames::of_family(config, family, FileKind::Gguf);
    let zeros = names.zeros().into_iter().map(|zero| Origin::Values { name: zero.name, values: vec![0.0; zero.len] });
    factors(config).into_iter().chain(names.slots().into_iter().map(Origin::Slot)).chain(zeros).collect()
}

/// The divisors of rotary frequencies that a file holds as tensors.
fn factors(config: &ModelConfig) -> Vec<Origin> {
    let Some(rope) = (0..config.layers).find_map(|layer| config.positions.rope_of(layer)) else { return vec![] };
    let values = |name: &str, values: Vec<f64>| Origin::Values {
        name: name.to_owned(),
        values: values.into_iter().map(|factor| factor as f32).collect(),
    };
    match &rope.scaling {
        Some(scaling @ RopeScaling::Llama3(_)) => {
            let dim = rope.dim.unwrap_or(config.head_dim);
            vec![values(ROPE_FACTORS, divisors(scaling, dim, rope.theta, config.context))]
        }
        Some(RopeScaling::LongRope(long)) => {
            vec![values(LONG_FACTORS, long.long.clone()), values(SHORT_FACTORS, long.short.clone())]
        }
        _ => vec![],
    }
}

/// Reads, converts and writes the tensors of a file, one after the other.
pub(super) struct Tensors<'a> {
    files: &'a ModelFiles,
    params: Params,
    options: &'a ExportOptions<'a>,
    progress: &'a (dyn Fn(u64) + Sync),
    state: RefCell<State<'a>>,
}

struct State<'a> {
    reader: ParamReader<'a>,
    /// The parameter that was read last, of which the next tensor may be another part.
    latest: Option<ParamId>,
    values: Vec<f32>,
    /// Elements written.
    done: u64,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(
        files: &'a ModelFiles,
        config: &'a ModelConfig,
        options: &'a ExportOptions<'a>,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Result<Self, ModelError> {
        let params = architecture::params(config)?;
        let reader = ParamReader::new(files, config, &params)?;
        let state = RefCell::new(State { reader, latest: None, values: vec![], done: 0 });
        Ok(Self { files, params, options, progress, state })
    }

    /// Writes the bytes of a tensor.
    pub(super) fn write(&self, planned: &PlannedTensor, origin: &Origin, out: &mut dyn Write) -> io::Result<()> {
        let result = match origin {
            Origin::Same { name, .. } if planned.from == Some(stored(planned.to)) => self.copy(name, out),
            Origin::Same { name, .. } => self.convert_rows(planned, name, out),
            Origin::Slot(slot) => self.convert_slot(planned, slot, out),
            Origin::Values { values, .. } => self.convert(planned, 0, values, out),
        };
        result.map_err(|error| match error {
            ModelError::Write(error) => error,
            error => io::Error::other(error),
        })
    }

    /// Copies a tensor as it lies, some rows at a time, which must be finite.
    fn copy(&self, name: &str, out: &mut dyn Write) -> Result<(), ModelError> {
        let file = self.files.weights();
        let tensor = file.tensor(name)?;
        let (rows, cols) = (tensor.rows(), tensor.row_elements().max(1));
        let row_bytes = tensor.bytes as usize / rows.max(1);
        let at_once = (PIECE / cols).max(1);
        let (mut values, mut bytes) = (vec![], vec![]);
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            values.resize(count * cols, 0.0);
            read_rows(file, name, first, &mut values)?;
            bytes.resize(count * row_bytes, 0);
            file.read_at(name, (first * row_bytes) as u64, &mut bytes)?;
            out.write_all(&bytes).map_err(ModelError::Write)?;
            self.count(values.len());
        }
        Ok(())
    }

    /// Converts a tensor of the source, some rows at a time.
    fn convert_rows(&self, planned: &PlannedTensor, name: &str, out: &mut dyn Write) -> Result<(), ModelError> {
        let file = self.files.weights();
        let tensor = file.tensor(name)?;
        let cols = tensor.row_elements().max(1);
        let piece = (PIECE / cols).max(1);
        let mut values = Vec::new();
        for first in (0..tensor.rows()).step_by(piece) {
            values.resize(piece.min(tensor.rows() - first) * cols, 0.0);
            read_rows(file, name, first, &mut values)?;
            self.convert(planned, first, &values, out)?;
        }
        Ok(())
    }

    fn convert_slot(&self, planned: &PlannedTensor, slot: &TensorSlot, out: &mut dyn Write) -> Result<(), ModelError> {
        let Some((id, spec)) = self.params.find(&slot.param).and_then(|id| Some((id, self.params.get(id)?))) else {
            unreachable!("the graph declares no parameter `{}`, which the names of tensors refer to", slot.param)
        };
        let mut state = self.state.borrow_mut();
        let State { reader, latest, values, .. } = &mut *state;
        if *latest != Some(id) {
            *latest = None;
            values.clear();
            values.resize(spec.len(), 0.0);
            reader.read(id, values)?;
            *latest = Some(id);
        }
        let of_slot = &values[slot.elements(spec.cols)];
        let mut in_file = vec![0.0; slot.len_in_file()];
        slot.to_file(of_slot, &mut in_file);
        drop(state);
        self.convert(planned, 0, &in_file, out)
    }

    /// Writes whole rows in the tensor's format, of which `first` is the first.
    fn convert(
        &self,
        planned: &PlannedTensor,
        first: usize,
        values: &[f32],
        out: &mut dyn Write,
    ) -> Result<(), ModelError> {
        let cols = planned.shape.last().copied().unwrap_or(1).max(1);
        let importance = self.options.importance.and_then(|matrix| matrix.of(planned));
        let of_row = |row: usize| importance?.of_row(row);
        let rows = (PIECE / cols).max(1);
        for (i, piece) in values.chunks(rows * cols).enumerate() {
            let of_piece = |row: usize| of_row(first + i * rows + row);
            let bytes = pack(planned, piece, cols, &of_piece, self.options.threads)
                .map_err(|(index, value)| self.beyond(planned, (first + i * rows) * cols + index, value))?;
            out.write_all(&bytes).map_err(ModelError::Write)?;
            self.count(piece.len());
        }
        Ok(())
    }

    fn beyond(&self, planned: &PlannedTensor, index: usize, value: f32) -> ModelError {
        let path = self.files.weights().path();
        if value.is_finite() {
            let (tensor, format) = (planned.name.clone(), planned.to);
            return ModelError::BeyondFormat { path: path.to_owned(), tensor, value, format };
        }
        CheckpointError::tensor(path, &planned.name, TensorFault::NotFinite { index, value }).into()
    }

    fn count(&self, elements: usize) {
        let mut state = self.state.borrow_mut();
        state.done += elements as u64;
        (self.progress)(state.done);
    }
}

/// The bytes of whole rows of `cols` elements, packed by several threads; or the index and value of an element that the
/// format can't hold. `importance` is that of the columns of a row.
fn pack<'m>(
    planned: &PlannedTensor,
    values: &[f32],
    cols: usize,
    importance: &(dyn Fn(usize) -> Option<&'m [f32]> + Sync),
    threads: usize,
) -> Result<Vec<u8>, (usize, f32)> {
    let (format, rows) = (planned.to, values.len() / cols);
    let beyond = |x: &f32| !x.is_finite() || x.abs() > format.largest();
    if let Some(index) = values.iter().position(beyond) {
        return Err((index, values[index]));
    }
    let row_bytes = format.row_bytes(cols).unwrap_or(0);
    let mut bytes = vec![0; rows * row_bytes];
    if row_bytes == 0 {
        return Ok(bytes);
    }
    let of_thread = rows.div_ceil(threads.max(1)).max(1);
    let parts = values.chunks(of_thread * cols).zip(bytes.chunks_mut(of_thread * row_bytes));
    let rows_of = |first: usize, values: &[f32], bytes: &mut [u8]| {
        let rows = values.chunks_exact(cols).zip(bytes.chunks_exact_mut(row_bytes));
        (first..).zip(rows).for_each(|(row, (values, bytes))| format.pack(values, importance(row), bytes));
    };
    std::thread::scope(|scope| {
        for (i, (values, bytes)) in parts.enumerate() {
            scope.spawn(move || rows_of(i * of_thread, values, bytes));
        }
    });
    Ok(bytes)
}
