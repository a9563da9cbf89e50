//! What is measured: a kernel with its shape, and the least work that it takes.

use std::fmt;

use serde_json::{Value, json};
use smallmind_kernels::activation::Gelu;
use smallmind_kernels::matmul::{Layout, are_bf16_pairs};
use smallmind_kernels::{Format, FormatKind};
use smallmind_profile::Roofs;

/// The direction of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Computes the result.
    Forward,
    /// Computes the gradients of inputs and parameters.
    Backward,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
        })
    }
}

/// The kind of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// LayerNorm with a bias.
    Layer,
    /// RMSNorm.
    Rms,
}

/// A product `C[m, n] = op(A)·op(B)`, the inner dimension `k`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// The layout of A.
    pub a: Layout,
    /// The layout of B.
    pub b: Layout,
    /// Rows of the output.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
    /// Whether the product is added to the output.
    pub accumulate: bool,
}

impl Product {
    /// `A·B`.
    pub fn nn(m: usize, n: usize, k: usize) -> Self {
        Self { a: Layout::Normal, b: Layout::Normal, m, n, k, accumulate: false }
    }

    /// `A·Bᵀ`: a linear layer of `n` outputs.
    pub fn nt(m: usize, n: usize, k: usize) -> Self {
        Self { b: Layout::Transposed, ..Self::nn(m, n, k) }
    }

    /// `Aᵀ·B`: with `accumulate`, the gradient of a linear layer's weights.
    pub fn tn(m: usize, n: usize, k: usize) -> Self {
        Self { a: Layout::Transposed, ..Self::nn(m, n, k) }
    }

    fn layouts(&self) -> &'static str {
        match (self.a, self.b) {
            (Layout::Normal, Layout::Normal) => "nn",
            (Layout::Normal, Layout::Transposed) => "nt",
            (Layout::Transposed, Layout::Normal) => "tn",
            (Layout::Transposed, Layout::Transposed) => "tt",
        }
    }
}

/// Causal attention: `len` queries at the end of `context` keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Number of queries.
    pub len: usize,
    /// Number of keys.
    pub context: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Output, or gradients of queries, keys and values.
    pub pass: Pass,
}

/// A kernel and its shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Problem {
    /// A product of matrices.
    Matmul(Product),
    /// A product `x·Wᵀ` whose weight is packed for products in advance, as a session does.
    PackedMatmul {
        /// Rows of x.
        m: usize,
        /// Rows of W.
        n: usize,
        /// Terms of a sum.
        k: usize,
    },
    /// One row times the transpose of a matrix too large for the caches.
    Gemv {
        /// Rows of the matrix.
        n: usize,
        /// Its columns.
        k: usize,
    },
    /// Causal attention of one sequence.
    Attention(Attention),
    /// A norm over the features of each row.
    Norm {
        /// LayerNorm or RMSNorm.
        kind: NormKind,
        /// Tokens.
        rows: usize,
        /// Features.
        cols: usize,
        /// Output, or gradients of input and parameters.
        pass: Pass,
    },
    /// GELU, element by element.
    Gelu {
        /// Number of elements.
        elements: usize,
        /// Exact or by tanh.
        kind: Gelu,
        /// Output or gradient.
        pass: Pass,
    },
    /// SwiGLU of each row, from `2 · cols` columns to `cols`.
    SwiGlu {
        /// Tokens.
        rows: usize,
        /// Columns of the output.
        cols: usize,
        /// Output or gradient.
        pass: Pass,
    },
    /// Softmax of whole rows.
    Softmax {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
    },
    /// Rotary position embedding.
    Rope {
        /// Tokens.
        rows: usize,
        /// Heads of a row.
        heads: usize,
        /// Columns of a head.
        head_dim: usize,
    },
    /// Looks up rows of a table, or adds their gradients to it.
    Embedding {
        /// Tokens.
        rows: usize,
        /// Rows of the table.
        vocab: usize,
        /// Columns.
        cols: usize,
        /// The rows, or the table's gradient.
        pass: Pass,
    },
    /// Softmax cross-entropy on logits.
    CrossEntropy {
        /// Tokens.
        rows: usize,
        /// Classes.
        vocab: usize,
        /// Losses, or losses and gradients.
        pass: Pass,
    },
    /// One step of AdamW.
    AdamW {
        /// Number of parameters.
        elements: usize,
    },
    /// The sum of the squares of all gradients, in blocks.
    SumOfSquares {
        /// Number of elements.
        elements: usize,
    },
}

/// The least work of a kernel. The bytes of each operand are counted once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Floating-point operations; an exponential or a root counts as one.
    pub flops: f64,
    /// Bytes read.
    pub read: f64,
    /// Bytes written.
    pub written: f64,
    /// Whether the memory that is written is also the memory that is read.
    pub in_place: bool,
}

/// Bytes of an `f32`.
const F32: f64 = 4.0;

impl Problem {
    /// The kernel's name.
    pub fn kernel(&self) -> &'static str {
        match self {
            Self::Matmul(_) | Self::PackedMatmul { .. } => "matmul",
            Self::Gemv { .. } => "gemv",
            Self::Attention(_) => "attention",
            Self::Norm { kind: NormKind::Layer, .. } => "layer_norm",
            Self::Norm { kind: NormKind::Rms, .. } => "rms_norm",
            Self::Gelu { .. } => "gelu",
            Self::SwiGlu { .. } => "swiglu",
            Self::Softmax { .. } => "softmax",
            Self::Rope { .. } => "rope",
            Self::Embedding { .. } => "embedding",
            Self::CrossEntropy { .. } => "cross_entropy",
            Self::AdamW { .. } => "adamw",
            Self::SumOfSquares { .. } => "sum_of_squares",
        }
    }

    /// The shape in one word or a few.
    pub fn shape(&self) -> String {
        match *self {
            Self::Matmul(p) => {
                let plus = if p.accumulate { "+" } else { "" };
                format!("{}{plus} {}x{}x{}", p.layouts(), p.m, p.n, p.k)
            }
            Self::PackedMatmul { m, n, k } => format!("packed {m}x{n}x{k}"),
            Self::Gemv { n, k } => format!("{n}x{k}"),
            Self::Attention(a) => {
                format!("{} {}/{} heads {}x{}x{}", a.pass, a.heads, a.kv_heads, a.len, a.context, a.head_dim)
            }
            Self::Norm { rows, cols, pass, .. }
            | Self::SwiGlu { rows, cols, pass }
            | Self::CrossEntropy { rows, vocab: cols, pass } => format!("{pass} {rows}x{cols}"),
            Self::Gelu { elements, kind, pass } => format!("{pass} {} {elements}", gelu_name(kind)),
            Self::Softmax { rows, cols } => format!("{rows}x{cols}"),
            Self::Rope { rows, heads, head_dim } => format!("{rows}x{heads}x{head_dim}"),
            Self::Embedding { rows, vocab, cols, pass } => format!("{pass} {rows}x{cols} of {vocab}"),
            Self::AdamW { elements } | Self::SumOfSquares { elements } => elements.to_string(),
        }
    }

    /// The shape in the words of the rivals' protocol.
    pub fn params(&self) -> Value {
        match *self {
            Self::Matmul(p) => {
                json!({ "layout": p.layouts(), "m": p.m, "n": p.n, "k": p.k, "accumulate": p.accumulate })
            }
            Self::PackedMatmul { m, n, k } => Self::Matmul(Product::nt(m, n, k)).params(),
            Self::Gemv { n, k } => Self::Matmul(Product::nt(1, n, k)).params(),
            Self::Attention(a) => json!({
                "heads": a.heads, "kv_heads": a.kv_heads, "len": a.len, "context": a.context, "head_dim": a.head_dim,
                "causal": true, "direction": a.pass.to_string(),
            }),
            Self::Norm { rows, cols, pass, .. } | Self::SwiGlu { rows, cols, pass } => {
                json!({ "rows": rows, "cols": cols, "direction": pass.to_string() })
            }
            Self::Gelu { elements, kind, pass } => {
                json!({ "elements": elements, "kind": gelu_name(kind), "direction": pass.to_string() })
            }
            Self::Softmax { rows, cols } => json!({ "rows": rows, "cols": cols }),
            Self::Rope { rows, heads, head_dim } => json!({ "rows": rows, "heads": heads, "head_dim": head_dim }),
            Self::Embedding { rows, vocab, cols, pass } => {
                json!({ "rows": rows, "vocab": vocab, "cols": cols, "direction": pass.to_string() })
            }
            Self::CrossEntropy { rows, vocab, pass } => {
                json!({ "rows": rows, "vocab": vocab, "direction": pass.to_string() })
            }
            Self::AdamW { elements } | Self::SumOfSquares { elements } => json!({ "elements": elements }),
        }
    }

    /// The least work that it takes, in `f32`.
    pub fn cost(&self) -> Cost {
        let cost = |flops, read, written| Cost { flops, read: read * F32, written: written * F32, in_place: false };
        let backward = |pass| pass == Pass::Backward;
        match *self {
            Self::Matmul(p) => {
                let [m, n, k] = [p.m, p.n, p.k].map(|x| x as f64);
                let old = if p.accumulate { m * n } else { 0.0 };
                cost(2.0 * m * n * k, m * k + k * n + old, m * n)
            }
            Self::PackedMatmul { m, n, k } => Self::Matmul(Product::nt(m, n, k)).cost(),
            Self::Gemv { n, k } => Self::Matmul(Product::nt(1, n, k)).cost(),
            Self::Attention(a) => attention_cost(a, cost),
            Self::Norm { rows, cols, pass, .. } => {
                let all = (rows * cols) as f64;
                if backward(pass) { cost(16.0 * all, 2.0 * all, all) } else { cost(7.0 * all, all, all) }
            }
            Self::Gelu { elements, pass, .. } => {
                let all = elements as f64;
                if backward(pass) { cost(20.0 * all, 2.0 * all, all) } else { cost(12.0 * all, all, all) }
            }
            Self::SwiGlu { rows, cols, pass } => {
                let all = (rows * cols) as f64;
                if backward(pass) { cost(10.0 * all, 3.0 * all, 2.0 * all) } else { cost(5.0 * all, 2.0 * all, all) }
            }
            Self::Softmax { rows, cols } => {
                let all = (rows * cols) as f64;
                Cost { in_place: true, ..cost(4.0 * all, all, all) }
            }
            Self::Rope { rows, heads, head_dim } => {
                let all = (rows * heads * head_dim) as f64;
                cost(3.0 * all, all, all)
            }
            Self::Embedding { rows, cols, pass, .. } => {
                let all = (rows * cols) as f64;
                if backward(pass) { cost(all, 2.0 * all, all) } else { cost(0.0, all, all) }
            }
            Self::CrossEntropy { rows, vocab, pass } => {
                let all = (rows * vocab) as f64;
                let written = if backward(pass) { all } else { 0.0 };
                Cost { in_place: backward(pass), ..cost(if backward(pass) { 6.0 } else { 4.0 } * all, all, written) }
            }
            Self::AdamW { elements } => {
                let all = elements as f64;
                Cost { in_place: true, ..cost(14.0 * all, 4.0 * all, 4.0 * all) }
            }
            Self::SumOfSquares { elements } => cost(2.0 * elements as f64, elements as f64, 0.0),
        }
    }
}

fn attention_cost(a: Attention, cost: impl Fn(f64, f64, f64) -> Cost) -> Cost {
    let past = (a.context - a.len) as f64;
    let (len, context) = (a.len as f64, a.context as f64);
    let pairs = len * past + len * (len + 1.0) / 2.0;
    let (q, kv) = (len * (a.heads * a.head_dim) as f64, 2.0 * context * (a.kv_heads * a.head_dim) as f64);
    let flops = |products: f64| pairs * a.heads as f64 * (2.0 * products * a.head_dim as f64 + 4.0);
    match a.pass {
        Pass::Forward => cost(flops(2.0), q + kv, q),
        // Read are queries, keys, values, the output and its gradient; written are the gradients of queries, keys and
        // values.
        Pass::Backward => cost(flops(5.0), 3.0 * q + kv, q + kv),
    }
}

fn gelu_name(kind: Gelu) -> &'static str {
    match kind {
        Gelu::Exact => "exact",
        Gelu::Tanh => "tanh",
    }
}

/// A problem to be measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The kernel and its shape.
    pub problem: Problem,
    /// The format of a packed weight, or of everything that a kernel without one reads. Results are `f32`.
    pub format: Format,
    /// Words that filters find it by, such as a preset's name or a layer's path.
    pub tags: Vec<String>,
}

impl Case {
    /// Another problem in the same format.
    pub(crate) fn with(&self, problem: Problem) -> Self {
        Self { problem, ..self.clone() }
    }

    /// The least work that it takes.
    pub fn cost(&self) -> Cost {
        let mut cost = self.problem.cost();
        let block = self.format.packed_block();
        let bytes = block.bytes as f64 / block.elements as f64;
        let (narrow, wide) = match self.problem {
            Problem::Matmul(Product { m, n, accumulate, .. }) => {
                let added = if accumulate { F32 * (m * n) as f64 } else { 0.0 };
                (cost.read - added, added)
            }
            Problem::PackedMatmul { m, k, .. } => (cost.read - F32 * (m * k) as f64, F32 * (m * k) as f64),
            _ => return cost,
        };
        cost.read = narrow / F32 * bytes + wide;
        cost
    }

    /// The roof of its arithmetic, in 1e9 operations per second. Packed weights in `f16` are widened and
    /// multiplied in `f32`; those in `bf16`, if their rows are whole pairs, by the dot product of the CPU, if it has
    /// one; those in formats of blocks as bytes.
    pub(crate) fn peak(&self, roofs: &Roofs) -> f64 {
        let narrow = match (self.format, self.problem) {
            (Format::Bf16, Problem::Matmul(_)) => roofs.bf16_gflops,
            (Format::Bf16, Problem::PackedMatmul { k, .. }) if are_bf16_pairs(self.format, k) => roofs.bf16_gflops,
            (format, _) if format.kind() == FormatKind::Blocks => roofs.int8_gops,
            _ => None,
        };
        narrow.unwrap_or(roofs.f32_gflops)
    }

    /// Whether the case meets every filter. A filter is a list of words separated by commas; it is met if one of them
    /// occurs in the kernel's name, the shape or a tag.
    pub fn matches(&self, filters: &[String]) -> bool {
        let text =
            format!("{}/{} {} {}", self.problem.kernel(), self.format, self.problem.shape(), self.tags.join(" "));
        filters.iter().all(|filter| filter.split(',').any(|word| text.contains(word.trim())))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.problem.kernel(), self.format, self.problem.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_all_met_by_one_of_their_words() {
        let case = Case {
            problem: Problem::Matmul(Product::nt(8, 768, 3072)),
            format: Format::F32,
            tags: vec!["gpt2-124m".into(), "mlp.down".into()],
        };
        let matches = |filters: &[&str]| case.matches(&filters.iter().map(|f| f.to_string()).collect::<Vec<_>>());
        assert!(matches(&[]) && matches(&["matmul", "gpt2-124m"]) && matches(&["rope,mlp.down"]));
        assert!(matches(&["matmul/f32"]) && matches(&["8x768x3072"]));
        assert!(!matches(&["matmul", "seed-deep"]) && !matches(&["bf16"]));
    }

    #[test]
    fn costs_are_counted_from_shapes() {
        let product = Problem::Matmul(Product { accumulate: true, ..Product::tn(2, 3, 5) }).cost();
        let narrow = Case {
            problem: Problem::Matmul(Product { accumulate: true, ..Product::tn(2, 3, 5) }),
            format: Format::Bf16,
            tags: vec![],
        };
        assert_eq!(narrow.cost().read, 2.0 * (10.0 + 15.0) + 4.0 * 6.0);
        for (format, bytes) in [(Format::F32, 256.0), (Format::F16, 128.0), (Format::Bf16, 128.0), (Format::Q8_0, 68.0)]
        {
            let packed = Case { problem: Problem::PackedMatmul { m: 3, n: 2, k: 32 }, format, tags: vec![] };
            assert_eq!(packed.cost().read, 4.0 * 96.0 + bytes, "{format}");
        }
        assert_eq!(product, Cost { flops: 60.0, read: 4.0 * (10.0 + 15.0 + 6.0), written: 24.0, in_place: false });
        let decode = Attention { heads: 4, kv_heads: 2, len: 1, context: 10, head_dim: 8, pass: Pass::Forward };
        let cost = Problem::Attention(decode).cost();
        assert_eq!((cost.flops, cost.read, cost.written), (10.0 * 4.0 * 36.0, 4.0 * (32.0 + 320.0), 128.0));
        assert_eq!(Problem::AdamW { elements: 10 }.cost().read, 160.0);
    }
}
