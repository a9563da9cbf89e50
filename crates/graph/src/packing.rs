//! Parameters laid out for inference: the weights of products lie as the products read them.

use smallmind_kernels::matmul::{pack_weight, pack_weight_scratch_len};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::op::Op;
use crate::{Buffer, Graph, GraphError, ParamId};

/// Which parameters of a graph are packed, where they lie, and for which instruction set: the weights of its linear layers that nothing else
/// reads but embeddings, of which rows can be had from a packed table too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    isa: IsaKind,
    /// Each packed parameter, where it begins, its rows and columns.
    weights: Vec<(ParamId, usize, [usize; 2])>,
}

impl Packing {
    /// The packing of the parameters of `graph` for `isa`.
    pub fn of(graph: &Graph, isa: IsaKind) -> Self {
        let (params, layout) = (graph.params(), graph.params().layout());
        let (mut multiplied, mut read_otherwise) = (vec![false; params.len()], vec![false; params.len()]);
        for node in graph.nodes() {
            let looks_up = matches!(node.op, Op::Embedding { .. });
            for id in node.op.params() {
                let multiplies = matches!(node.op, Op::Linear { weight, .. } if weight == id);
                multiplied[id.index()] |= multiplies;
                read_otherwise[id.index()] |= !multiplies && !looks_up;
            }
        }
        let packed = params.iter().filter(|(id, _)| multiplied[id.index()] && !read_otherwise[id.index()]);
        let weights = packed.map(|(id, spec)| (id, layout.offset(id), [spec.rows, spec.cols])).collect();
        Self { isa, weights }
    }

    /// The instruction set.
    pub fn isa(&self) -> IsaKind {
        self.isa
    }

    /// Whether the parameter is packed.
    pub fn holds(&self, id: ParamId) -> bool {
        self.weights.iter().any(|(packed, ..)| *packed == id)
    }

    /// In words, for errors: what lies how.
    pub(crate) fn words(packing: Option<&Self>) -> String {
        let Some(packing) = packing else { return "in rows".to_owned() };
        let elements: usize = packing.weights.iter().map(|(.., [rows, cols])| rows * cols).sum();
        let (weights, isa) = (packing.weights.len(), packing.isa.name());
        format!("of which {weights} with {elements} elements are packed for {isa}")
    }
}

/// The parameters of a graph, packed: what a [`crate::Plan::packed`] runs on.
///
/// Each lies where [`crate::Layout`] says, in as many elements, so that packing takes no memory but, meanwhile, one strip's.
#[derive(Debug)]
pub struct PackedParams {
    values: Buffer,
    packing: Packing,
}

impl PackedParams {
    /// Packs `values`, laid out as the parameters of `graph` are.
    ///
    /// # Errors
    /// Values of another size; an instruction set that this CPU lacks; no memory for a strip.
    pub fn new(graph: &Graph, isa: IsaKind, values: Buffer) -> Result<Self, GraphError> {
        let (layout, packing) = (graph.params().layout(), Packing::of(graph, isa));
        if values.len() != layout.len() {
            return Err(GraphError::ParamsLen { need: layout.len(), got: values.len() });
        }
        let mut params = Self { values, packing };
        params.pack()?;
        Ok(params)
    }

    /// Replaces all values by those of `rows`, laid out as the graph's parameters are.
    ///
    /// # Errors
    /// Values of another size, and then nothing has changed; no memory for a strip.
    pub fn set(&mut self, rows: &[f32]) -> Result<(), GraphError> {
        if rows.len() != self.values.len() {
            return Err(GraphError::ParamsLen { need: self.values.len(), got: rows.len() });
        }
        self.values.copy_from_slice(rows);
        self.pack()
    }

    fn pack(&mut self) -> Result<(), GraphError> {
        let Self { values, packing } = self;
        packing.isa.with(Pack { values, packing })?
    }

    /// How they are packed.
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// All elements, as plans read them.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }
}

struct Pack<'a> {
    values: &'a mut [f32],
    packing: &'a Packing,
}

impl WithIsa for Pack<'_> {
    type Output = Result<(), GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { values, packing } = self;
        let deepest = packing.weights.iter().map(|(.., [_, k])| *k).max().unwrap_or(0);
        let mut scratch = Buffer::zeroed(pack_weight_scratch_len(isa, deepest))?;
        for &(_, start, [n, k]) in &packing.weights {
            pack_weight(isa, &mut values[start..start + n * k], n, k, &mut scratch);
        }
        Ok(())
    }
}
