//! The work of an operation: what it computes, and the bytes that it moves by what they are.

use serde::{Deserialize, Serialize};
use smallmind_graph::op::Heads;
use smallmind_graph::{Batch, Graph, Node, Op, Order, ParamId, Plan, Storage, ValueId, cost};
use smallmind_kernels::Format;

/// Floating-point operations and bytes. The bytes add up to those of [`cost`](fn@cost).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Floating-point operations.
    pub flops: f64,
    /// Exponentials of softmaxes and sigmoids, which are not counted in `flops`.
    #[serde(default)]
    pub exponentials: f64,
    /// Bytes of parameters, their gradients and moments.
    pub weights: f64,
    /// Bytes read from the key-value cache.
    pub kv_read: f64,
    /// Bytes written to the key-value cache.
    pub kv_write: f64,
    /// Bytes of values.
    pub activations: f64,
}

impl Traffic {
    /// All bytes.
    pub fn bytes(&self) -> f64 {
        self.weights + self.kv_read + self.kv_write + self.activations
    }

    /// All fields multiplied by `factor`.
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

/// The work of `node` on `batch`. `storage`: how the parameters are stored; none for flat `f32`.
pub fn traffic(graph: &Graph, node: &Node, batch: &Batch, storage: Option<&Storage>) -> Traffic {
    let all = cost(graph, node, batch, storage);
    let bytes = all.bytes_read + all.bytes_written;
    let rows = |v: &ValueId| graph.shape(*v).rows.resolve(batch.len(), batch.outputs().len());
    let size = |v: &ValueId| (rows(v) * graph.shape(*v).cols) as f64;
    let inputs = || node.inputs.iter().map(size).sum::<f64>();
    let outputs = || node.outputs.iter().map(size).sum::<f64>();
    let elements = |id: ParamId| graph.params().get(id).map_or(0.0, |p| p.len() as f64);
    let param = |id: ParamId| storage.map_or_else(|| elements(id), |storage| storage.get(id).words as f64) * F32;
    let params = || node.op.params().into_iter().map(param).sum::<f64>();
    // One for each head and pair of a query and a key that it sees.
    let of_attention = |heads: Heads| {
        let pairs = batch.spans().iter().map(|s| s.len * s.past + s.len * (s.len + 1) / 2).sum::<usize>();
        (pairs * heads.heads) as f64
    };
    let of_loss = |head: ParamId| {
        let rows = node.inputs.first().map_or(0, rows);
        graph.params().get(head).map_or(0.0, |table| (rows * table.rows) as f64)
    };
    let moved = |weights: f64| Traffic { weights, ..Traffic::default() };
    let part = match node.op {
        Op::Embedding { table, .. } => moved(outputs() * param(table) / elements(table).max(1.0)),
        Op::EmbeddingGrad { .. } => moved(2.0 * inputs() * F32),
        Op::Norm(_) | Op::AddNorm(_) | Op::Linear { .. } | Op::LinearGradInput { .. } => moved(params()),
        Op::LinearGradWeight { .. } | Op::BiasGrad { .. } => moved(2.0 * params()),
        Op::NormGrad(_) => moved(3.0 * params()),
        Op::LinearCrossEntropy { weight } => Traffic { exponentials: of_loss(weight), ..moved(params()) },
        Op::LinearCrossEntropyGrad { weight } => Traffic { exponentials: of_loss(weight), ..moved(3.0 * params()) },
        Op::CacheAppend { .. } => Traffic { kv_write: all.bytes_written, ..Traffic::default() },
        Op::CachedAttention { heads, .. } => Traffic {
            exponentials: of_attention(heads),
            // It reads the cache and its queries, which are as large as its output.
            kv_read: all.bytes_read - all.bytes_written,
            ..Traffic::default()
        },
        Op::Attention { heads, .. } | Op::AttentionGrad { heads, .. } => {
            Traffic { exponentials: of_attention(heads), ..Traffic::default() }
        }
        Op::SwiGlu => Traffic { exponentials: outputs(), ..Traffic::default() },
        // The gradients of gate and input, each as large as the sigmoid.
        Op::SwiGluGrad => Traffic { exponentials: outputs() / 2.0, ..Traffic::default() },
        Op::GradSquares => moved(bytes - outputs() * F32),
        Op::AdamW(_) => moved(bytes - inputs() * F32),
        // A GELU is a polynomial in pieces, whose operations are counted as such.
        Op::Add | Op::Dropout(_) | Op::Rope { .. } | Op::Gelu(_) | Op::GeluGrad(_) => Traffic::default(),
        Op::SelectRows | Op::ClipFactor { .. } => Traffic::default(),
    };
    let activations = bytes - part.weights - part.kv_read - part.kv_write;
    Traffic { flops: all.flops, activations, ..part }
}

/// The format of an operation's weight, which is its first parameter; none for an operation without parameters.
pub fn weight_format(plan: &Plan, node: &Node) -> Option<Format> {
    let first = node.op.params().into_iter().next()?;
    Some(plan.storage().map_or(Format::F32, |storage| storage.get(first).format))
}

/// What computes an operation: its name, and for products the kernel that shape and storage select.
pub fn kernel(plan: &Plan, node: &Node, batch: &Batch) -> String {
    use smallmind_kernels::matmul::{Layout, Route, Update};
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
    match Route::choose(layouts, Update::Overwrite, [rows, weight.rows, weight.cols]) {
        Route::FewRows => format!("{name} (gemv)"),
        Route::Tiles(_) => format!("{name} (gemm)"),
    }
}

/// Rows and columns of the first input and output: `64x128 → 64x384`.
pub fn shape(graph: &Graph, node: &Node, batch: &Batch) -> String {
    let one = |v: &ValueId| {
        let shape = graph.shape(*v);
        format!("{}x{}", shape.rows.resolve(batch.len(), batch.outputs().len()), shape.cols)
    };
    let list = |all: &[ValueId]| all.first().map_or_else(|| "·".to_owned(), one);
    let seen = if matches!(node.op, Op::CachedAttention { .. }) {
        let most = batch.spans().iter().map(|s| s.past + s.len).max().unwrap_or(0);
        format!(" over {most}")
    } else {
        String::new()
    };
    format!("{} → {}{seen}", list(&node.inputs), list(&node.outputs))
}
