//! The operations: about thirty kinds, each as large as a term in the description of a transformer.
//!
//! Each operation states its facts once ([`Op::info`]): name, parameters, effects, shape rule and cost. How it is
//! differentiated, lowered and interpreted is said in `grad.rs`, `lower/` and `interpret.rs`. No match over [`Op`] in
//! this crate has a `_ =>` arm, so a new operation does not compile until each of these places handles it.

mod forward;
mod gradient;
mod info;
mod update;

pub(crate) use info::Operands;
pub use info::{Bytes, Cost, Effects, Info};

pub use smallmind_kernels::activation::Gelu;
pub use smallmind_kernels::experts::Routing;
pub use smallmind_kernels::rope::{Direction, Llama3Scaling, LongRopeScaling, RopeScaling, YarnScaling};

use smallmind_kernels::attention::Scoring;
use smallmind_kernels::dropout::DropoutKey;
use smallmind_kernels::rope::RopeTable;

use crate::{ParamId, Scalars};

/// Which integers of the batch index a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// The token ids.
    Tokens,
    /// The positions within each sequence.
    Positions,
}

/// The two normalisations and their parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// LayerNorm (Ba et al., 2016), with an optional bias.
    Layer {
        /// Scale, `[1, d]`.
        weight: ParamId,
        /// Shift, `[1, d]`.
        bias: Option<ParamId>,
        /// Added to the variance.
        eps: f32,
    },
    /// RMSNorm (Zhang and Sennrich, 2019).
    Rms {
        /// Scale, `[1, d]`.
        weight: ParamId,
        /// Added to the mean square.
        eps: f32,
    },
}

impl Norm {
    /// Columns of the statistics kept for the backward: mean and 1/σ, or 1/rms.
    pub fn stats_cols(self) -> usize {
        match self {
            Norm::Layer { .. } => 2,
            Norm::Rms { .. } => 1,
        }
    }

    /// The scale.
    pub fn weight(self) -> ParamId {
        match self {
            Norm::Layer { weight, .. } | Norm::Rms { weight, .. } => weight,
        }
    }

    /// The shift, if there is one.
    pub fn bias(self) -> Option<ParamId> {
        match self {
            Norm::Layer { bias, .. } => bias,
            Norm::Rms { .. } => None,
        }
    }

    /// The scale, then the shift if there is one.
    pub(crate) fn params(self) -> impl Iterator<Item = ParamId> {
        std::iter::once(self.weight()).chain(self.bias())
    }
}

/// The norm of queries and keys, which are divided into groups of as many columns as their scale has elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// Scale of queries, `[1, columns of a group]`.
    pub q: ParamId,
    /// Scale of keys, `[1, columns of a group]`.
    pub k: ParamId,
    /// Groups of queries.
    pub q_groups: usize,
    /// Groups of keys.
    pub k_groups: usize,
    /// Added to the mean square of a group.
    pub eps: f32,
}

impl QkNorm {
    /// Columns that are normalised, where the scales have `q` and `k` elements.
    pub(crate) fn cols(self, q: usize, k: usize) -> usize {
        self.q_groups * q + self.k_groups * k
    }
}

/// Rotary position embedding: how angles come from positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Features in a head.
    pub head_dim: usize,
    /// Features that are rotated, from a head's first on; even, at most `head_dim`.
    pub dim: usize,
    /// The base of the frequencies.
    pub theta: f64,
    /// How frequencies are scaled for longer contexts; none if they aren't.
    pub scaling: Option<RopeScaling>,
}

impl RopeSpec {
    /// All features of a head, with plain frequencies.
    pub fn new(head_dim: usize, theta: f64) -> Self {
        Self { head_dim, dim: head_dim, theta, scaling: None }
    }

    /// The angles of the positions `0..positions`.
    pub(crate) fn table(&self, positions: usize) -> RopeTable {
        RopeTable::partial(self.head_dim, self.dim, self.theta, self.scaling.as_ref(), positions)
    }
}

/// The heads of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Features in a head.
    pub head_dim: usize,
    /// Factor of each score (the product of a query and a key) before the softmax. Finite.
    pub scale: f32,
    /// Soft cap of scaled scores, finite and above 0: `cap · tanh(s / cap)` stands for `s`.
    pub cap: Option<f32>,
    /// Sliding window: a query sees the key at its own position and the `window − 1` before it. At least 1; `None` for all
    /// keys before it.
    pub window: Option<usize>,
}

impl Heads {
    /// Heads without cap and window whose scores are multiplied by 1/√head_dim (Vaswani et al., "Attention Is All You Need", 2017).
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), cap: None, window: None }
    }

    /// How the kernels score keys.
    pub(crate) fn scoring(self) -> Scoring {
        Scoring { scale: self.scale, cap: self.cap, window: self.window }
    }

    /// Columns of the queries.
    pub fn q_cols(self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of the keys, and of the values.
    pub fn kv_cols(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Columns of queries, keys and values side by side.
    pub fn qkv_cols(self) -> usize {
        self.q_cols() + 2 * self.kv_cols()
    }

    /// Query heads for each key head.
    pub fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// A mixture of experts, each of them an MLP with a gate: `down(silu(gate(x)) * up(x))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// For each expert its gate and below it its up, `[experts · 2 d_ff, d]`.
    pub gate_up: ParamId,
    /// For each expert its down, `[experts · d, d_ff]`.
    pub down: ParamId,
    /// How tokens choose experts.
    pub routing: Routing,
    /// Whether what the downs are multiplied with is an output, too.
    pub keeps_active: bool,
}

/// Dropout: each element is zeroed with `probability`, the others divided by `1 - probability`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutSpec {
    /// The probability that an element is zeroed, in `[0, 1)`.
    pub probability: f32,
    /// Differs between the dropouts of a graph, so that their masks differ.
    pub salt: u32,
}

impl DropoutSpec {
    /// The key of its random numbers in a run.
    pub(crate) fn key(&self, scalars: &Scalars) -> DropoutKey {
        DropoutKey { seed: scalars.dropout_seed, step: scalars.dropout_step, salt: self.salt }
    }
}

/// AdamW's constants (Loshchilov and Hutter, 2019); learning rate and step number are inputs of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSpec {
    /// β₁: decay of the mean of gradients, in `[0, 1)`.
    pub beta1: f64,
    /// β₂: decay of the mean of squared gradients, in `[0, 1)`.
    pub beta2: f64,
    /// ε: added to the root of the mean of squares.
    pub eps: f64,
    /// λ: weight decay of the parameters marked [`crate::Decay::Yes`].
    pub weight_decay: f64,
}

/// An operation. `[x] → [y]` lists its inputs and outputs. Two dimensions are symbolic: `tokens`, and `outputs`, the
/// tokens whose rows the batch asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `[] → [y [tokens, d]]`: rows of a table.
    Embedding {
        /// `[entries, d]`.
        table: ParamId,
        /// What selects the rows.
        index: Index,
    },
    /// `[dy] → []`, accumulates into the table's gradient.
    EmbeddingGrad {
        /// The table.
        table: ParamId,
        /// What selected the rows.
        index: Index,
    },
    /// `[a, b] → [a + b]`.
    Add,
    /// `[x] → [factor · x]`; its own backward.
    Scale {
        /// The factor, finite.
        factor: f32,
    },
    /// `[x] → [y]`; its own backward.
    Dropout(DropoutSpec),
    /// `[x] → [y, stats]`.
    Norm(Norm),
    /// `[x, r] → [sum, y, stats]`: `sum = x + r`, `y = norm(sum)`.
    AddNorm(Norm),
    /// `[dy, x, stats] or [dy, x, stats, add] → [dx (+ add)]`, accumulates into the gradients of scale and shift.
    NormGrad(Norm),
    /// `[q | k | rest] → [y, stats]`: RMSNorm of each group of queries and of keys; the rest is copied.
    QkNorm(QkNorm),
    /// `[dy, q | k | rest, stats] → [dx]`, accumulates into the gradients of both scales.
    QkNormGrad(QkNorm),
    /// `[x] or [x, residual] → [x·Wᵀ (+ bias) (+ residual)]`.
    Linear {
        /// `[out, in]`.
        weight: ParamId,
        /// `[1, out]`.
        bias: Option<ParamId>,
    },
    /// `[dy] or [dy, add] → [dy·W (+ add)]`.
    LinearGradInput {
        /// `[out, in]`.
        weight: ParamId,
    },
    /// `[dy, x] → []`, accumulates `dyᵀ·x`.
    LinearGradWeight {
        /// `[out, in]`.
        weight: ParamId,
    },
    /// `[dy] → []`, accumulates the sum over rows.
    BiasGrad {
        /// `[1, out]`.
        bias: ParamId,
    },
    /// `[x] → [y]`: rotates features of the first `heads` heads of every row, copies all others.
    Rope {
        /// How angles follow from positions.
        rope: RopeSpec,
        /// How many heads are rotated.
        heads: usize,
        /// Backward rotates by the negative angles.
        direction: Direction,
    },
    /// `[x] → [y]`.
    Gelu(Gelu),
    /// `[x, dy] → [dx]`.
    GeluGrad(Gelu),
    /// `[gate | up [tokens, 2f]] → [silu(gate) * up [tokens, f]]`.
    SwiGlu,
    /// `[gate | up, dy] → [d gate | d up]`.
    SwiGluGrad,
    /// `[gate | up [tokens, 2f]] → [gelu(gate) * up [tokens, f]]`.
    GeGlu(Gelu),
    /// `[gate | up, dy] → [d gate | d up]`.
    GeGluGrad(Gelu),
    /// `[x [tokens, d], logits [tokens, experts]] → [y [tokens, d]]`: the weighted sum of the outputs of each token's
    /// experts; then, if it is kept, `active [tokens, per_token · d_ff]`: the inputs of the downs of a token's experts, that
    /// of the largest logit first. It has no gradient.
    Experts(Experts),
    /// `[q | k | v] → [out [tokens, heads·head_dim], lse [tokens, heads]]`: causal, within each span.
    Attention {
        /// How the columns are divided into heads.
        heads: Heads,
        /// Dropout of the attention weights.
        dropout: Option<DropoutSpec>,
    },
    /// `[dout, q | k | v, out, lse] → [dq | dk | dv]`.
    AttentionGrad {
        /// How the columns are divided into heads.
        heads: Heads,
        /// Dropout of the attention weights.
        dropout: Option<DropoutSpec>,
    },
    /// `[q | k | v] → []`: writes keys and values into the cache, at the positions of each span's tokens in its pages.
    CacheAppend {
        /// Which layer of the cache.
        layer: usize,
        /// How the columns are divided into heads.
        heads: Heads,
    },
    /// `[q | k | v] → [out]`: causal attention of the queries over the cache, past and present.
    CachedAttention {
        /// Which layer of the cache.
        layer: usize,
        /// How the columns are divided into heads.
        heads: Heads,
    },
    /// `[x [tokens, d]] → [y [outputs, d]]`: the rows that the batch asks for.
    SelectRows,
    /// `[x] → [cap · tanh(x / cap)]`. It has no gradient: a loss caps its logits itself.
    SoftCap {
        /// Finite, above 0.
        cap: f32,
    },
    /// `[x [tokens, d]] → [loss [tokens, 1]]`: cross-entropy of the targets under `softmax(x·Wᵀ)`, by chunks of rows.
    LinearCrossEntropy {
        /// The output head, `[vocab, d]`.
        weight: ParamId,
        /// Soft cap of the logits.
        cap: Option<f32>,
    },
    /// `[x] → [loss, dx]`, accumulates the head's gradient; gradients carry the run's loss scale.
    LinearCrossEntropyGrad {
        /// The output head, `[vocab, d]`.
        weight: ParamId,
        /// Soft cap of the logits.
        cap: Option<f32>,
    },
    /// `[] → [partial sums [blocks, 1]]`: squares of all gradients, by blocks of fixed size.
    GradSquares,
    /// `[partial sums] → [norm | factor [1, 2]]`: the norm of all gradients, and the factor, at most 1, that reduces it
    /// to `max_norm`.
    ClipFactor {
        /// The greatest norm allowed; infinite for no clipping.
        max_norm: f64,
    },
    /// `[norm | factor] → []`: updates all parameters and zeroes their gradients; does nothing if the norm is not
    /// finite.
    AdamW(AdamWSpec),
}

impl Op {
    /// The facts of the operation.
    pub fn info(&self) -> Info {
        match *self {
            Op::Embedding { table, .. } => forward::embedding(table),
            Op::EmbeddingGrad { table, .. } => gradient::embedding_grad(table),
            Op::Add => forward::add(),
            Op::Scale { .. } => forward::scale(),
            Op::Dropout(spec) => forward::dropout(spec),
            Op::Norm(norm) => forward::norm(norm),
            Op::AddNorm(norm) => forward::add_norm(norm),
            Op::NormGrad(norm) => gradient::norm_grad(norm),
            Op::QkNorm(norm) => forward::qk_norm(norm),
            Op::QkNormGrad(norm) => gradient::qk_norm_grad(norm),
            Op::Linear { weight, bias } => forward::linear(weight, bias),
            Op::LinearGradInput { weight } => gradient::linear_grad_input(weight),
            Op::LinearGradWeight { weight } => gradient::linear_grad_weight(weight),
            Op::BiasGrad { bias } => gradient::bias_grad(bias),
            Op::Rope { ref rope, heads, direction } => forward::rope(rope, heads, direction),
            Op::Gelu(_) => forward::gelu(),
            Op::GeluGrad(_) => gradient::gelu_grad(),
            Op::SwiGlu => forward::swiglu(),
            Op::SwiGluGrad => gradient::swiglu_grad(),
            Op::GeGlu(_) => forward::geglu(),
            Op::GeGluGrad(_) => gradient::geglu_grad(),
            Op::Experts(experts) => forward::experts(experts),
            Op::Attention { heads, dropout } => forward::attention(heads, dropout),
            Op::AttentionGrad { heads, dropout } => gradient::attention_grad(heads, dropout),
            Op::CacheAppend { heads, .. } => forward::cache_append(heads),
            Op::CachedAttention { heads, .. } => forward::cached_attention(heads),
            Op::SelectRows => forward::select_rows(),
            Op::SoftCap { .. } => forward::soft_cap(),
            Op::LinearCrossEntropy { weight, cap } => forward::linear_cross_entropy(weight, cap),
            Op::LinearCrossEntropyGrad { weight, cap } => gradient::linear_cross_entropy_grad(weight, cap),
            Op::GradSquares => update::grad_squares(),
            Op::ClipFactor { max_norm } => update::clip_factor(max_norm),
            Op::AdamW(_) => update::adamw(),
        }
    }

    /// [`Info::name`].
    pub fn name(&self) -> &'static str {
        self.info().name
    }

    /// The parameters that it reads, or whose gradients it writes.
    pub fn params(&self) -> Vec<ParamId> {
        self.info().params
    }

    /// The memory besides values that it reads or writes.
    pub fn effects(&self) -> Effects {
        self.info().effects
    }
}
