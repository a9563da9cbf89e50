//! The work of an operation: what it computes, and the bytes that it moves, by kind.

use serde::{Deserialize, Serialize};
use smallmind_graph::{Batch, Graph, Node, Op, Plan, Storage, ValueId, cost};
use smallmind_kernels::Format;
use smallmind_kernels::attention::CacheFormat;

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

/// The work of `node` on `batch`, with parameters in the formats of `storage`, or else in `f32`, and a key-value cache in
/// `cache_format`.
pub fn traffic(
    graph: &Graph,
    node: &Node,
    batch: &Batch,
    storage: Option<&Storage>,
    cache_format: CacheFormat,
) -> Traffic {
    let cost = cost(graph, node, batch, storage, cache_format);
    Traffic {
        flops: cost.flops,
        exponentials: cost.exponentials,
        weights: cost.weights.all(),
        kv_read: cost.cache.read,
        kv_write: cost.cache.written,
        activations: cost.values.all(),
    }
}

/// The formats of an operation's weight, which is its first parameter; none for an operation without parameters.
pub fn weight_formats(plan: &Plan, node: &Node) -> Vec<Format> {
    let Some(first) = node.op.params().into_iter().next() else { return vec![] };
    plan.storage().map_or(vec![Format::F32], |storage| storage.get(first).formats())
}

/// The kernel of an operation in words: its name, and for products the kernel that shape and storage select.
pub fn kernel(plan: &Plan, node: &Node, batch: &Batch) -> String {
    use smallmind_kernels::matmul::{KernelChoice, Layout, Update};
    let name = node.op.name();
    let Op::Linear { weight, .. } = node.op else { return name.to_owned() };
    if let Some(stored) = plan.storage().map(|storage| storage.get(weight)).filter(|layout| layout.is_packed()) {
        let formats: Vec<&str> = stored.formats().into_iter().map(Format::name).collect();
        return match stored.is_f32() {
            true => format!("{name} (packed)"),
            false => format!("{name} (packed {})", formats.join(" and ")),
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
