//! What an operation moves and computes, told apart by what the bytes are.

use serde::{Deserialize, Serialize};
use smallmind_graph::{Batch, Graph, Node, Op, Order, ParamId, Plan, Storage, cost};
use smallmind_kernels::Format;

/// Floating-point operations and bytes; the bytes are those that [`cost`](fn@cost) counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Floating-point operations.
    pub flops: f64,
    /// Exponentials, which are not among `flops`: of softmaxes and sigmoids.
    #[serde(default)]
    pub exponentials: f64,
    /// Bytes of parameters, their gradients and moments.
    pub weights: f64,
    /// Bytes read from the key-value cache.
    pub kv_read: f64,
    /// Bytes written to it.
    pub kv_write: f64,
    /// Bytes of values.
    pub activations: f64,
}

impl Traffic {
    /// All bytes.
    pub fn bytes(&self) -> f64 {
        self.weights + self.kv_read + self.kv_write + self.activations
    }

    /// Each times `factor`.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self {
            flops: self.flops * factor,
            exponentials: self.exponentials * factor,
            weights: self.weights * factor,
            kv_read: self.kv_read * factor,
            kv_write: self.kv_write * factor,
            activations: self.activations * factor,
        }
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.exponentials += other.exponentials;
        self.weights += other.weights;
        self.kv_read += other.kv_read;
        self.kv_write += other.kv_write;
        self.activations += other.activations;
    }
}

/// Bytes of an element.
const F32: f64 = 4.0;

/// The work of `node` on `batch`, with parameters that lie as `storage` says, or else in `f32`.
pub fn traffic(graph: &Graph, node: &Node, batch: &Batch, storage: Option<&Storage>) -> Traffic {
    let all = cost(graph, node, batch, storage);
    let bytes = all.bytes_read + all.bytes_written;
    let size = |v: &smallmind_graph::ValueId| {
        let shape = graph.shape(*v);
        (shape.rows.resolve(batch.len(), batch.outputs().len()) * shape.cols) as f64 * F32
    };
    let inputs = || node.inputs.iter().map(size).sum::<f64>();
    let outputs = || node.outputs.iter().map(size).sum::<f64>();
    let elements = |id: ParamId| graph.params().get(id).map_or(0.0, |p| p.len() as f64);
    let param = |id: ParamId| storage.map_or_else(|| elements(id), |storage| storage.get(id).words as f64) * F32;
    let params = || node.op.params().into_iter().map(param).sum::<f64>();
    let (weights, kv_read, kv_write) = match node.op {
        Op::Embedding { table, .. } => (outputs() / F32 * param(table) / elements(table).max(1.0), 0.0, 0.0),
        Op::EmbeddingGrad { .. } => (2.0 * inputs(), 0.0, 0.0),
        Op::Norm(_)
        | Op::AddNorm(_)
        | Op::Linear { .. }
        | Op::LinearGradInput { .. }
        | Op::LinearCrossEntropy { .. } => (params(), 0.0, 0.0),
        Op::LinearGradWeight { .. } | Op::BiasGrad { .. } => (2.0 * params(), 0.0, 0.0),
        Op::NormGrad(_) | Op::LinearCrossEntropyGrad { .. } => (3.0 * params(), 0.0, 0.0),
        Op::CacheAppend { .. } => (0.0, 0.0, all.bytes_written),
        // Its queries are as large as its output; what else it reads is cache.
        Op::CachedAttention { .. } => (0.0, all.bytes_read - all.bytes_written, 0.0),
        Op::GradSquares => (bytes - outputs(), 0.0, 0.0),
        Op::AdamW(_) => (bytes - inputs(), 0.0, 0.0),
        Op::Add
        | Op::Dropout(_)
        | Op::Rope { .. }
        | Op::Gelu(_)
        | Op::GeluGrad(_)
        | Op::SwiGlu
        | Op::SwiGluGrad
        | Op::Attention { .. }
        | Op::AttentionGrad { .. }
        | Op::SelectRows
        | Op::ClipFactor { .. } => (0.0, 0.0, 0.0),
    };
    let exponentials = exponentials(graph, node, batch);
    Traffic {
        flops: all.flops,
        exponentials,
        weights,
        kv_read,
        kv_write,
        activations: bytes - weights - kv_read - kv_write,
    }
}

/// The exponentials that `node` can't do without on `batch`.
fn exponentials(graph: &Graph, node: &Node, batch: &Batch) -> f64 {
    let size = |v: &smallmind_graph::ValueId| {
        let shape = graph.shape(*v);
        (shape.rows.resolve(batch.len(), batch.outputs().len()) * shape.cols) as f64
    };
    let outputs = || node.outputs.iter().map(size).sum::<f64>();
    match node.op {
        Op::SwiGlu => outputs(),
        // The gradients of gate and input, each as large as the sigmoid.
        Op::SwiGluGrad => outputs() / 2.0,
        // One for each pair of a query and a key that it sees.
        Op::Attention { heads, .. } | Op::AttentionGrad { heads, .. } | Op::CachedAttention { heads, .. } => {
            let pairs = batch.spans().iter().map(|s| s.len * s.past + s.len * (s.len + 1) / 2).sum::<usize>();
            (pairs * heads.heads) as f64
        }
        Op::LinearCrossEntropy { weight } | Op::LinearCrossEntropyGrad { weight } => {
            let rows = node.inputs.first().map_or(0, |v| {
                graph.shape(*v).rows.resolve(batch.len(), batch.outputs().len())
            });
            graph.params().get(weight).map_or(0.0, |table| (rows * table.rows) as f64)
        }
        Op::Embedding { .. }
        | Op::EmbeddingGrad { .. }
        | Op::Add
        | Op::Dropout(_)
        | Op::Norm(_)
        | Op::AddNorm(_)
        | Op::NormGrad(_)
        | Op::Linear { .. }
        | Op::LinearGradInput { .. }
        | Op::LinearGradWeight { .. }
        | Op::BiasGrad { .. }
        | Op::Rope { .. }
        // A polynomial in pieces: its operations are counted as such.
        | Op::Gelu(_)
        | Op::GeluGrad(_)
        | Op::CacheAppend { .. }
        | Op::SelectRows
        | Op::GradSquares
        | Op::ClipFactor { .. }
        | Op::AdamW(_) => 0.0,
    }
}

/// The format of the parameters that an operation reads: that of the first, which is its weight; none for an operation without any.
pub fn weight_format(plan: &Plan, node: &Node) -> Option<Format> {
    let first = node.op.params().into_iter().next()?;
    Some(plan.storage().map_or(Format::F32, |storage| storage.get(first).format))
}

/// What computes the operation, in words: its name, and for products the kernel that its shape and its weights lead to.
pub fn kernel(plan: &Plan, node: &Node, batch: &Batch) -> String {
    use smallmind_kernels::matmul::{KernelChoice, Layout, Update};
    let name = node.op.name();
    let Op::Linear { weight, .. } = node.op else { return name.to_owned() };
    if let Some(stored) = plan.storage().map(|storage| storage.get(weight)).filter(|s| s.order == Order::Strips) {
        return match stored.format {
            Format::F32 => format!("{name} (packed)"),
            format => format!("{name} (packed {format})"),
        };
    }
    let graph = plan.graph();
    let (Some(weight), Some(input)) = (graph.params().get(weight), node.inputs.first()) else { return name.to_owned() };
    let rows = graph.shape(*input).rows.resolve(batch.len(), batch.outputs().len());
    let layouts = (Layout::Normal, Layout::Transposed);
    match KernelChoice::choose(layouts, Update::Overwrite, [rows, weight.rows, weight.cols]) {
        KernelChoice::Gemv => format!("{name} (gemv)"),
        KernelChoice::Gemm(_) => format!("{name} (gemm)"),
    }
}

/// Rows and columns of what goes in and comes out: `64x128 → 64x384`.
pub fn shape(graph: &Graph, node: &Node, batch: &Batch) -> String {
    let one = |v: &smallmind_graph::ValueId| {
        let shape = graph.shape(*v);
        format!("{}x{}", shape.rows.resolve(batch.len(), batch.outputs().len()), shape.cols)
    };
    let list = |all: &[smallmind_graph::ValueId]| all.first().map_or_else(|| "·".to_owned(), one);
    let seen = match node.op {
        Op::CachedAttention { .. } => {
            let most = batch.spans().iter().map(|s| s.past + s.len).max().unwrap_or(0);
            format!(" over {most}")
        }
        Op::Embedding { .. }
        | Op::EmbeddingGrad { .. }
        | Op::Add
        | Op::Dropout(_)
        | Op::Norm(_)
        | Op::AddNorm(_)
        | Op::NormGrad(_)
        | Op::Linear { .. }
        | Op::LinearGradInput { .. }
        | Op::LinearGradWeight { .. }
        | Op::BiasGrad { .. }
        | Op::Rope { .. }
        | Op::Gelu(_)
        | Op::GeluGrad(_)
        | Op::SwiGlu
        | Op::SwiGluGrad
        | Op::Attention { .. }
        | Op::AttentionGrad { .. }
        | Op::CacheAppend { .. }
        | Op::SelectRows
        | Op::LinearCrossEntropy { .. }
        | Op::LinearCrossEntropyGrad { .. }
        | Op::GradSquares
        | Op::ClipFactor { .. }
        | Op::AdamW(_) => String::new(),
    };
    format!("{} → {}{seen}", list(&node.inputs), list(&node.outputs))
}
