//! Parameters laid out for inference: the weights of products lie as the products read them.

use std::fmt;

use smallmind_kernels::matmul::{pack_weight, pack_weight_scratch_len};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::op::Op;
use crate::{Buffer, Graph, GraphError, ParamId};

/// Which parameters of a graph are packed, and for which instruction set: the weights of its linear layers that nothing else reads but
/// embeddings, of which rows can be had from a packed table too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    isa: IsaKind,
    /// By parameter.
    packed: Vec<bool>,
}

impl Packing {
    /// The packing of the parameters of `graph` for `isa`.
    pub fn of(graph: &Graph, isa: IsaKind) -> Self {
        let params = graph.params().len();
        let (mut multiplied, mut read_otherwise) = (vec![false; params], vec![false; params]);
        for node in graph.nodes() {
            let looks_up = matches!(node.op, Op::Embedding { .. });
            for id in node.op.params() {
                let multiplies = matches!(node.op, Op::Linear { weight, .. } if weight == id);
                multiplied[id.index()] |= multiplies;
                read_otherwise[id.index()] |= !multiplies && !looks_up;
            }
        }
        let packed =
            multiplied.into_iter().zip(read_otherwise).map(|(multiplied, other)| multiplied && !other).collect();
        Self { isa, packed }
    }

    /// The instruction set.
    pub fn isa(&self) -> IsaKind {
        self.isa
    }

    /// Whether the parameter is packed.
    pub fn holds(&self, id: ParamId) -> bool {
        self.packed.get(id.index()).copied().unwrap_or(false)
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packed = self.packed.iter().filter(|packed| **packed).count();
        write!(f, "of which {packed} are packed for {}", self.isa.name())
    }
}

/// The parameters of a graph, packed: what a [`crate::Plan::packed`] runs on.
///
/// Each lies where [`crate::Layout`] says, in as many elements, so that packing takes no memory.
#[derive(Debug)]
pub struct PackedParams {
    values: Buffer,
    packing: Packing,
    /// Where each packed parameter begins, and its shape.
    weights: Vec<(usize, [usize; 2])>,
}

impl PackedParams {
    /// Packs `values`, laid out as the parameters of `graph` are.
    ///
    /// # Errors
    /// Values of another size; an instruction set that this CPU lacks.
    pub fn new(graph: &Graph, isa: IsaKind, values: Buffer) -> Result<Self, GraphError> {
        let (layout, packing) = (graph.params().layout(), Packing::of(graph, isa));
        if values.len() != layout.len() {
            return Err(GraphError::Binding { what: "parameters", need: layout.len(), got: values.len() });
        }
        let packed = graph.params().iter().filter(|(id, _)| packing.holds(*id));
        let weights = packed.map(|(id, spec)| (layout.offset(id), [spec.rows, spec.cols])).collect();
        let mut params = Self { values, packing, weights };
        params.pack()?;
        Ok(params)
    }

    /// Replaces all values by those of `rows`, laid out as the graph's parameters are.
    ///
    /// # Errors
    /// Values of another size.
    pub fn set(&mut self, rows: &[f32]) -> Result<(), GraphError> {
        if rows.len() != self.values.len() {
            return Err(GraphError::Binding { what: "parameters", need: self.values.len(), got: rows.len() });
        }
        self.values.copy_from_slice(rows);
        self.pack()
    }

    fn pack(&mut self) -> Result<(), GraphError> {
        self.packing.isa.with(Pack { values: &mut self.values, weights: &self.weights })?;
        Ok(())
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
    weights: &'a [(usize, [usize; 2])],
}

impl WithIsa for Pack<'_> {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let deepest = self.weights.iter().map(|(_, [_, k])| *k).max().unwrap_or(0);
        let mut scratch = vec![0.0; pack_weight_scratch_len(isa, deepest)];
        for &(start, [n, k]) in self.weights {
            pack_weight(isa, &mut self.values[start..start + n * k], n, k, &mut scratch);
        }
    }
}
