//! How parameters lie in memory where they are only read: each in a format of its own, in rows or packed for the
//! kernels.
//!
//! What is trained (weights, gradients, moments) lies in one flat buffer of `f32` instead, as [`crate::FlatLayout`]
//! says.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use smallmind_kernels::matmul::{pack_weight, pack_weight_as, pack_weight_scratch_len, packed_len};
use smallmind_kernels::{Format, Mat};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::error::StorageUse;
use crate::op::{Index, Op};
use crate::{Buffer, FlatLayout, Graph, GraphError, ParamId, ParamSpec, Params};

/// The order in which the elements of a parameter lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Row by row.
    Rows,
    /// Packed in panels, as the products of the storage's instruction set read them.
    Packed,
}

/// How the elements of one parameter lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamLayout {
    /// The format of its elements.
    pub format: Format,
    /// Their order.
    pub order: Order,
    /// Its rows and columns.
    pub shape: [usize; 2],
    /// Bytes that it takes, a multiple of 4.
    pub bytes: usize,
}

impl ParamLayout {
    /// Elements of a [`Buffer`] that it takes.
    fn buffer_len(&self) -> usize {
        self.bytes / 4
    }
}

/// How each parameter of a graph lies in a [`ParamStore`]. A [`crate::Plan`] that is made for it reads them so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    isa: IsaKind,
    params: Vec<ParamLayout>,
}

impl Storage {
    /// How the parameters of `graph` lie for products on `isa`:
    ///
    /// * A weight that only linear layers, losses and embeddings of tokens read is packed, in the format `weights`.
    /// * A table that only embeddings of tokens read is packed too, unless `weights` is F32.
    /// * A packed parameter whose rows are not whole blocks of `weights` is in F16 instead.
    /// * All others (norms, biases, position embeddings) lie in rows of `f32`.
    ///
    /// # Errors
    /// An instruction set that this CPU lacks; a parameter beyond memory.
    pub fn of(graph: &Graph, isa: IsaKind, weights: Format) -> Result<Self, GraphError> {
        isa.with(Choose { graph, isa, weights })?
    }

    /// Checks that `graph` can run on parameters that lie so: they have the shapes of its own, and packed ones are read
    /// by linear layers, losses and embeddings of tokens only.
    ///
    /// # Errors
    /// [`GraphError::Storage`].
    pub(crate) fn check(&self, graph: &Graph, isa: IsaKind) -> Result<(), GraphError> {
        let refuse = |need: String| Err(GraphError::Storage { doing: StorageUse::Plan, need, got: self.to_string() });
        if self.isa != isa {
            return refuse(format!("packed for {}", isa.name()));
        }
        if !self.fits(graph.params()) {
            return refuse("of its own, of other shapes".to_owned());
        }
        for node in graph.nodes() {
            for id in node.op.params() {
                let reads_packed = multiplies(&node.op, id) || looks_up(&node.op);
                if self.get(id).order == Order::Packed && !reads_packed {
                    return refuse(format!("of `{}` in rows", node.path));
                }
            }
        }
        Ok(())
    }

    fn check_fits(&self, params: &Params) -> Result<(), GraphError> {
        if self.fits(params) {
            return Ok(());
        }
        let (doing, got) = (StorageUse::Store, "of another graph".to_owned());
        Err(GraphError::Storage { doing, need: self.to_string(), got })
    }

    /// Whether parameters have the shapes of those that it was made for.
    fn fits(&self, params: &Params) -> bool {
        params.iter().map(|(_, spec)| [spec.rows, spec.cols]).eq(self.params.iter().map(|layout| layout.shape))
    }

    /// The instruction set.
    pub fn isa(&self) -> IsaKind {
        self.isa
    }

    /// How a parameter lies.
    pub fn get(&self, id: ParamId) -> ParamLayout {
        self.params[id.index()]
    }

    /// Whether all parameters are `f32`.
    pub fn is_f32(&self) -> bool {
        self.params.iter().all(|layout| layout.format == Format::F32)
    }

    /// Bytes of all parameters.
    pub fn bytes(&self) -> usize {
        self.params.iter().map(|layout| layout.bytes).sum()
    }

    /// Bytes of the parameters in each format that occurs.
    pub fn bytes_by_format(&self) -> Vec<(Format, usize)> {
        let of = |format| self.params.iter().filter(|layout| layout.format == format).map(|layout| layout.bytes).sum();
        Format::ALL.into_iter().map(|format| (format, of(format))).filter(|(_, bytes)| *bytes > 0).collect()
    }
}

impl fmt::Display for Storage {
    /// Such as `121 packed for avx512, 61 in rows; 140544 bytes in f32, 269119488 bytes in bf16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packed = self.params.iter().filter(|layout| layout.order == Order::Packed).count();
        write!(f, "{packed} packed for {}, {} in rows", self.isa.name(), self.params.len() - packed)?;
        let mut separator = "; ";
        for (format, bytes) in self.bytes_by_format() {
            write!(f, "{separator}{bytes} bytes in {format}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Whether an operation multiplies rows by the parameter, and reads nothing else of it.
fn multiplies(op: &Op, id: ParamId) -> bool {
    matches!(*op, Op::Linear { weight, .. } | Op::LinearCrossEntropy { weight } if weight == id)
}

/// Whether an operation looks up the rows of tokens.
fn looks_up(op: &Op) -> bool {
    matches!(op, Op::Embedding { index: Index::Tokens, .. })
}

struct Choose<'a> {
    graph: &'a Graph,
    isa: IsaKind,
    weights: Format,
}

impl WithIsa for Choose<'_> {
    type Output = Result<Storage, GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let params = self.graph.params();
        let (mut multiplied, mut looked_up) = (vec![false; params.len()], vec![false; params.len()]);
        let mut read_otherwise = vec![false; params.len()];
        for node in self.graph.nodes() {
            for id in node.op.params() {
                let multiplies = multiplies(&node.op, id);
                let looks_up = looks_up(&node.op);
                multiplied[id.index()] |= multiplies;
                looked_up[id.index()] |= looks_up;
                read_otherwise[id.index()] |= !multiplies && !looks_up;
            }
        }
        let layout = |(id, spec): (ParamId, &ParamSpec)| -> Result<ParamLayout, GraphError> {
            let (i, shape) = (id.index(), [spec.rows, spec.cols]);
            let narrow = self.weights != Format::F32 && looked_up[i];
            if read_otherwise[i] || !(multiplied[i] || narrow) {
                return Ok(ParamLayout { format: Format::F32, order: Order::Rows, shape, bytes: spec.len() * 4 });
            }
            let format = if self.weights.divides(spec.cols) { self.weights } else { Format::F16 };
            let too_large = GraphError::OutOfMemory { bytes: usize::MAX };
            let len = packed_len(isa, format, spec.rows, spec.cols).ok_or(too_large)?;
            Ok(ParamLayout { format, order: Order::Packed, shape, bytes: len * 4 })
        };
        Ok(Storage { isa: self.isa, params: params.iter().map(layout).collect::<Result<_, GraphError>>()? })
    }
}

/// The values of a graph's parameters as a [`Storage`] lays them out. A [`crate::Plan`] that is made for the storage
/// runs on them.
#[derive(Debug)]
pub struct ParamStore {
    params: Params,
    storage: Arc<Storage>,
    /// Memory of all parameters, or of one each.
    buffers: Vec<Buffer>,
    /// Where each parameter lies: the number of the buffer, and the range within it.
    places: Vec<(usize, Range<usize>)>,
}

impl ParamStore {
    /// Stores `values`, which are laid out flat as `params` are. If all formats are F32, the buffer is kept and its
    /// parameters are packed in place, with scratch memory for one panel. Otherwise each parameter is converted into a
    /// buffer of its own, and `values` is freed.
    ///
    /// # Errors
    /// Values of another size; a storage for other parameters; an instruction set that this CPU lacks; too little
    /// memory.
    pub fn new(params: &Params, storage: Arc<Storage>, values: Buffer) -> Result<Self, GraphError> {
        let layout = params.layout();
        check_len(&layout, values.len())?;
        if !storage.is_f32() {
            return Self::of_rows(params, storage, &values);
        }
        storage.check_fits(params)?;
        let places = params.iter().map(|(id, spec)| (0, layout.offset(id)..layout.offset(id) + spec.len())).collect();
        let mut store = Self { places, params: params.clone(), buffers: vec![values], storage };
        store.pack()?;
        Ok(store)
    }

    /// [`ParamStore::new`] with a copy of `rows`, laid out flat as `params` are.
    ///
    /// # Errors
    /// As [`ParamStore::new`].
    pub fn of_rows(params: &Params, storage: Arc<Storage>, rows: &[f32]) -> Result<Self, GraphError> {
        check_len(&params.layout(), rows.len())?;
        if storage.is_f32() {
            let mut copy = Buffer::zeroed(rows.len())?;
            copy.copy_from_slice(rows);
            return Self::new(params, storage, copy);
        }
        storage.check_fits(params)?;
        let buffers =
            storage.params.iter().map(|layout| Buffer::zeroed(layout.buffer_len())).collect::<Result<_, _>>()?;
        let places = storage.params.iter().enumerate().map(|(i, layout)| (i, 0..layout.buffer_len())).collect();
        let mut store = Self { places, params: params.clone(), buffers, storage };
        store.convert(rows)?;
        Ok(store)
    }

    /// Replaces all values by those of `rows`, laid out flat as the parameters are.
    ///
    /// # Errors
    /// Values of another size, or that a format can't hold; then nothing has changed. Too little memory for scratch.
    pub fn set(&mut self, rows: &[f32]) -> Result<(), GraphError> {
        check_len(&self.params.layout(), rows.len())?;
        match &mut self.buffers[..] {
            [all] if self.storage.is_f32() => {
                all.copy_from_slice(rows);
                self.pack()
            }
            _ => self.convert(rows),
        }
    }

    /// How the parameters lie.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The memory of the parameter with this number, in its own format and order.
    #[inline(always)]
    pub(crate) fn memory(&self, param: usize) -> &[f32] {
        let (buffer, range) = &self.places[param];
        &self.buffers[*buffer][range.clone()]
    }

    /// Packs rows of `f32` in their places.
    fn pack(&mut self) -> Result<(), GraphError> {
        self.storage.isa.with(Pack(self))?
    }

    /// Fills the memory of each parameter from flat rows.
    fn convert(&mut self, rows: &[f32]) -> Result<(), GraphError> {
        self.storage.isa.with(Convert { store: self, rows })?
    }
}

fn check_len(layout: &FlatLayout, got: usize) -> Result<(), GraphError> {
    let need = layout.len();
    if got == need { Ok(()) } else { Err(GraphError::ParamsLen { need, got }) }
}

struct Pack<'a>(&'a mut ParamStore);

impl WithIsa for Pack<'_> {
    type Output = Result<(), GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let ParamStore { params, storage, buffers, places } = self.0;
        let deepest = params.iter().map(|(_, spec)| spec.cols).max().unwrap_or(0);
        let mut scratch = Buffer::zeroed(pack_weight_scratch_len(isa, deepest))?;
        for ((id, spec), (buffer, range)) in params.iter().zip(places) {
            if storage.get(id).order == Order::Packed {
                pack_weight(isa, &mut buffers[*buffer][range.clone()], spec.rows, spec.cols, &mut scratch);
            }
        }
        Ok(())
    }
}

struct Convert<'a> {
    store: &'a mut ParamStore,
    rows: &'a [f32],
}

impl WithIsa for Convert<'_> {
    type Output = Result<(), GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { store: ParamStore { params, storage, buffers, .. }, rows } = self;
        let layout = params.layout();
        for (id, spec) in params.iter() {
            let (rows, format) = (&rows[layout.offset(id)..][..spec.len()], storage.get(id).format);
            let beyond = |x: &f32| x.is_nan() || x.abs() > format.largest();
            if let Some(at) = rows.iter().position(beyond).filter(|_| format != Format::F32) {
                let (param, value) = (spec.name.clone(), rows[at]);
                return Err(GraphError::Range { param, at, value, format });
            }
        }
        for ((id, spec), memory) in params.iter().zip(buffers) {
            let rows = &rows[layout.offset(id)..][..spec.len()];
            match storage.get(id).format {
                Format::F32 => memory.copy_from_slice(rows),
                format => pack_weight_as(isa, format, Mat::new(rows, spec.rows, spec.cols), memory),
            }
        }
        Ok(())
    }
}
