//! What an operation costs: floating-point operations and bytes, counted from shapes.

use crate::graph::{Graph, Node};
use crate::op::{Heads, Op};
use crate::{Batch, ParamId, Storage, ValueId};

/// The work of one operation on one batch. Bytes are those of operands, each counted once: what must pass at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations; an exponential or a root counts as one.
    pub flops: f64,
    /// Of values, parameters, gradients and cache read.
    pub bytes_read: f64,
    /// Of values, parameters, gradients and cache written.
    pub bytes_written: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
    }
}

/// Bytes of an element.
const F32: f64 = 4.0;

/// Counts for one node.
struct Count<'a> {
    graph: &'a Graph,
    node: &'a Node,
    batch: &'a Batch,
    storage: Option<&'a Storage>,
}

impl Count<'_> {
    fn rows(&self, value: ValueId) -> f64 {
        self.graph.shape(value).rows.resolve(self.batch.len(), self.batch.outputs().len()) as f64
    }

    fn size(&self, value: ValueId) -> f64 {
        self.rows(value) * self.graph.shape(value).cols as f64
    }

    fn inputs(&self) -> f64 {
        self.node.inputs.iter().map(|v| self.size(*v)).sum()
    }

    fn outputs(&self) -> f64 {
        self.node.outputs.iter().map(|v| self.size(*v)).sum()
    }

    fn param(&self, id: ParamId) -> f64 {
        self.graph.params().get(id).map_or(0.0, |p| p.len() as f64)
    }

    /// Words of four bytes that a parameter takes.
    fn param_words(&self, id: ParamId) -> f64 {
        self.storage.map_or_else(|| self.param(id), |storage| storage.get(id).words as f64)
    }

    /// Words of all parameters of the operation.
    fn params(&self) -> f64 {
        self.node.op.params().into_iter().map(|id| self.param_words(id)).sum()
    }

    /// Pairs of a query and a key that it sees, over all spans.
    fn pairs(&self) -> f64 {
        let of_span = |len: f64, past: f64| len * past + len * (len + 1.0) / 2.0;
        self.batch.spans().iter().map(|s| of_span(s.len as f64, s.past as f64)).sum()
    }

    /// Floating-point operations of `products` matrix products over all pairs of query and key.
    fn attention(&self, heads: Heads, products: f64) -> f64 {
        self.pairs() * heads.heads as f64 * (products * 2.0 * heads.head_dim as f64 + 4.0)
    }

    /// An operation that reads its inputs and `read` more elements, writes its outputs and `written` more.
    fn cost(&self, flops: f64, read: f64, written: f64) -> Cost {
        Cost { flops, bytes_read: (self.inputs() + read) * F32, bytes_written: (self.outputs() + written) * F32 }
    }
}

/// The cost of `node` on `batch`, with parameters that lie as `storage` says, or else in `f32`.
pub fn cost(graph: &Graph, node: &Node, batch: &Batch, storage: Option<&Storage>) -> Cost {
    let c = Count { graph, node, batch, storage };
    let first_input = || node.inputs.first().map_or(0.0, |v| c.size(*v));
    let rows = || node.inputs.first().map_or(0.0, |v| c.rows(*v));
    match node.op {
        Op::Embedding { table, .. } => {
            let words_of_element = c.param_words(table) / c.param(table).max(1.0);
            c.cost(0.0, c.outputs() * words_of_element, 0.0)
        }
        Op::EmbeddingGrad { .. } => c.cost(c.inputs(), c.inputs(), c.inputs()),
        Op::Add => c.cost(c.outputs(), 0.0, 0.0),
        Op::Dropout(_) => c.cost(2.0 * c.outputs(), 0.0, 0.0),
        Op::Norm(_) => c.cost(7.0 * first_input(), c.params(), 0.0),
        Op::AddNorm(_) => c.cost(8.0 * first_input(), c.params(), 0.0),
        // The parameters are read to scale, and their gradients to be added to.
        Op::NormGrad(_) => c.cost(13.0 * first_input(), 2.0 * c.params(), c.params()),
        Op::Linear { weight, .. } => c.cost(2.0 * rows() * c.param(weight) + c.outputs(), c.params(), 0.0),
        Op::LinearGradInput { weight } => c.cost(2.0 * rows() * c.param(weight), c.params(), 0.0),
        Op::LinearGradWeight { weight } => c.cost(2.0 * rows() * c.param(weight), c.params(), c.params()),
        Op::BiasGrad { .. } => c.cost(c.inputs(), c.params(), c.params()),
        Op::Rope { rope, heads, .. } => {
            let turned = rows() * (heads * rope.head_dim) as f64;
            c.cost(3.0 * turned, rows() * rope.head_dim as f64, 0.0)
        }
        Op::Gelu(_) => c.cost(12.0 * c.outputs(), 0.0, 0.0),
        Op::GeluGrad(_) => c.cost(20.0 * c.outputs(), 0.0, 0.0),
        Op::SwiGlu => c.cost(5.0 * c.outputs(), 0.0, 0.0),
        Op::SwiGluGrad => c.cost(5.0 * c.outputs(), 0.0, 0.0),
        Op::Attention { heads, .. } => c.cost(c.attention(heads, 2.0), 0.0, 0.0),
        Op::AttentionGrad { heads, .. } => c.cost(c.attention(heads, 5.0), 0.0, 0.0),
        Op::CacheAppend { heads, .. } => {
            let kv = rows() * (2 * heads.kv_cols()) as f64;
            Cost { flops: 0.0, bytes_read: kv * F32, bytes_written: kv * F32 }
        }
        Op::CachedAttention { heads, .. } => {
            let seen: usize = batch.spans().iter().map(|s| s.past + s.len).sum();
            let queries = rows() * heads.q_cols() as f64;
            let kv = (seen * 2 * heads.kv_cols()) as f64;
            Cost { flops: c.attention(heads, 2.0), bytes_read: (queries + kv) * F32, bytes_written: queries * F32 }
        }
        Op::SelectRows => Cost { flops: 0.0, bytes_read: c.outputs() * F32, bytes_written: c.outputs() * F32 },
        Op::LinearCrossEntropy { weight } => {
            let logits = rows() * c.graph.params().get(weight).map_or(0.0, |p| p.rows as f64);
            c.cost(2.0 * rows() * c.param(weight) + 4.0 * logits, c.params(), 0.0)
        }
        Op::LinearCrossEntropyGrad { weight } => {
            let logits = rows() * c.graph.params().get(weight).map_or(0.0, |p| p.rows as f64);
            c.cost(6.0 * rows() * c.param(weight) + 6.0 * logits, 2.0 * c.params(), c.params())
        }
        Op::GradSquares => {
            let all = graph.params().layout().len() as f64;
            c.cost(2.0 * all, all, 0.0)
        }
        Op::ClipFactor { .. } => c.cost(c.inputs(), 0.0, 0.0),
        Op::AdamW(_) => {
            let all = graph.params().layout().len() as f64;
            c.cost(14.0 * all, 4.0 * all, 4.0 * all)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decay, GraphBuilder, Init, ParamSpec};

    #[test]
    fn a_linear_layer_costs_two_operations_a_weight_and_token() {
        let mut b = GraphBuilder::new();
        let spec =
            |rows, cols| ParamSpec { name: String::new(), rows, cols, init: Init::Constant(0.0), decay: Decay::No };
        let table = b.param("t", spec(10, 8)).unwrap();
        let weight = b.param("w", spec(6, 8)).unwrap();
        let x = b.value_of(Op::Embedding { table, index: crate::op::Index::Tokens }, &[]).unwrap();
        b.value_of(Op::Linear { weight, bias: None }, &[x]).unwrap();
        let graph = b.finish();
        let mut batch = Batch::default();
        batch.push(&[1, 2, 3], 0);
        let found = cost(&graph, &graph.nodes()[1], &batch, None);
        assert_eq!(found.flops, 2.0 * 3.0 * 48.0 + 18.0);
        assert_eq!((found.bytes_read, found.bytes_written), (4.0 * (24.0 + 48.0), 4.0 * 18.0));
    }
}
