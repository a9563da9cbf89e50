//! The operations: about thirty kinds, each the size of a transformer's own vocabulary.
//!
//! Every operation states here its output shapes ([`Op::outputs`]) and, in `cost.rs`, its cost. There is no `_ =>` arm over
//! [`Op`] in this crate: a new operation does not compile until each place has an answer for it.

pub use smallmind_kernels::activation::Gelu;
pub use smallmind_kernels::rope::{Direction, RopeScaling};

use smallmind_kernels::dropout::DropoutKey;

use crate::{GraphError, ParamId, Rows, Scalars, Shape, ShapeContext};

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
}

/// Rotary position embedding: how angles come from positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    /// Features in a head, even.
    pub head_dim: usize,
    /// The base of the frequencies.
    pub theta: f64,
    /// Stretching of the frequencies for longer contexts.
    pub scaling: Option<RopeScaling>,
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
    /// What each score, the product of a query and a key, is multiplied by before the softmax. Finite.
    pub scale: f32,
}

impl Heads {
    /// Heads whose scores are multiplied by 1/√head_dim (Vaswani et al., "Attention Is All You Need", 2017).
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() }
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

    /// How many query heads share a key head.
    pub fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Dropout: each element is zeroed with `probability`, the others divided by `1 - probability`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutSpec {
    /// Of being dropped, in `[0, 1)`.
    pub probability: f32,
    /// Tells the masks of one graph's dropouts apart.
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
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Weight decay of parameters marked [`crate::Decay::Yes`].
    pub weight_decay: f64,
}

/// An operation. `[x] → [y]` lists value inputs and outputs; `tokens` is the only symbolic dimension (`outputs` are chosen tokens).
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
    /// `[x] → [y]`; its own backward.
    Dropout(DropoutSpec),
    /// `[x] → [y, stats]`.
    Norm(Norm),
    /// `[x, r] → [sum, y, stats]`: `sum = x + r`, `y = norm(sum)`.
    AddNorm(Norm),
    /// `[dy, x, stats] or [dy, x, stats, add] → [dx (+ add)]`, accumulates into the gradients of scale and shift.
    NormGrad(Norm),
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
    /// `[x] → [y]`: rotates the first `heads` heads of every row, copies the other columns.
    Rope {
        /// The angles.
        rope: RopeSpec,
        /// How many heads are rotated.
        heads: usize,
        /// Backward rotates the other way.
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
    /// `[q | k | v] → [out [tokens, heads·head_dim], lse [tokens, heads]]`: causal, within each span.
    Attention {
        /// How the columns divide.
        heads: Heads,
        /// On the attention weights.
        dropout: Option<DropoutSpec>,
    },
    /// `[dout, q | k | v, out, lse] → [dq | dk | dv]`.
    AttentionGrad {
        /// How the columns divide.
        heads: Heads,
        /// On the attention weights.
        dropout: Option<DropoutSpec>,
    },
    /// `[q | k | v] → []`: writes keys and values into the cache at each span's slot and positions.
    CacheAppend {
        /// Which layer of the cache.
        layer: usize,
        /// How the columns divide.
        heads: Heads,
    },
    /// `[q | k | v] → [out]`: causal attention of the queries over the cache, past and present.
    CachedAttention {
        /// Which layer of the cache.
        layer: usize,
        /// How the columns divide.
        heads: Heads,
    },
    /// `[x [tokens, d]] → [y [outputs, d]]`: the rows that the batch asks for.
    SelectRows,
    /// `[x [tokens, d]] → [loss [tokens, 1]]`: cross-entropy of the targets under `softmax(x·Wᵀ)`, by chunks of rows.
    LinearCrossEntropy {
        /// The output head, `[vocab, d]`.
        weight: ParamId,
    },
    /// `[x] → [loss, dx]`, accumulates the head's gradient; gradients carry the run's loss scale.
    LinearCrossEntropyGrad {
        /// The output head, `[vocab, d]`.
        weight: ParamId,
    },
    /// `[] → [partial sums [blocks, 1]]`: squares of all gradients, by blocks of fixed size.
    GradSquares,
    /// `[partial sums] → [norm | factor [1, 2]]`: the global norm, and what gradients are multiplied by so that it is at most `max_norm`.
    ClipFactor {
        /// The greatest norm allowed; infinite for no clipping.
        max_norm: f64,
    },
    /// `[norm | factor] → []`: updates all parameters and zeroes their gradients; does nothing where the norm is not finite.
    AdamW(AdamWSpec),
}

/// The mutable memory beside values that an operation touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Reads or writes gradients.
    pub gradients: bool,
    /// Writes parameters and optimizer moments.
    pub parameters: bool,
    /// Reads or writes the key-value cache.
    pub cache: bool,
}

impl Effects {
    /// The effects of two operations.
    pub(crate) fn union(self, other: Self) -> Self {
        Self {
            gradients: self.gradients || other.gradients,
            parameters: self.parameters || other.parameters,
            cache: self.cache || other.cache,
        }
    }
}

impl Op {
    /// The dropout that it is or that it holds.
    pub(crate) fn dropout(&self) -> Option<DropoutSpec> {
        if let Self::Dropout(dropout) = self {
            Some(*dropout)
        } else if let Self::Attention { dropout, .. } | Self::AttentionGrad { dropout, .. } = self {
            *dropout
        } else {
            None
        }
    }

    /// The name in dumps and profiles.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embedding { .. } => "embedding",
            Op::EmbeddingGrad { .. } => "embedding_grad",
            Op::Add => "add",
            Op::Dropout(_) => "dropout",
            Op::Norm(Norm::Layer { .. }) => "layer_norm",
            Op::Norm(Norm::Rms { .. }) => "rms_norm",
            Op::AddNorm(Norm::Layer { .. }) => "add_layer_norm",
            Op::AddNorm(Norm::Rms { .. }) => "add_rms_norm",
            Op::NormGrad(Norm::Layer { .. }) => "layer_norm_grad",
            Op::NormGrad(Norm::Rms { .. }) => "rms_norm_grad",
            Op::Linear { .. } => "linear",
            Op::LinearGradInput { .. } => "linear_grad_input",
            Op::LinearGradWeight { .. } => "linear_grad_weight",
            Op::BiasGrad { .. } => "bias_grad",
            Op::Rope { direction: Direction::Forward, .. } => "rope",
            Op::Rope { direction: Direction::Backward, .. } => "rope_grad",
            Op::Gelu(_) => "gelu",
            Op::GeluGrad(_) => "gelu_grad",
            Op::SwiGlu => "swiglu",
            Op::SwiGluGrad => "swiglu_grad",
            Op::Attention { .. } => "attention",
            Op::AttentionGrad { .. } => "attention_grad",
            Op::CacheAppend { .. } => "cache_append",
            Op::CachedAttention { .. } => "cached_attention",
            Op::SelectRows => "select_rows",
            Op::LinearCrossEntropy { .. } => "linear_cross_entropy",
            Op::LinearCrossEntropyGrad { .. } => "linear_cross_entropy_grad",
            Op::GradSquares => "grad_squares",
            Op::ClipFactor { .. } => "clip_factor",
            Op::AdamW(_) => "adamw",
        }
    }

    /// The parameters that the operation reads or whose gradient it writes.
    pub fn params(&self) -> Vec<ParamId> {
        match *self {
            Op::Embedding { table, .. } | Op::EmbeddingGrad { table, .. } => vec![table],
            Op::Norm(n) | Op::AddNorm(n) | Op::NormGrad(n) => std::iter::once(n.weight()).chain(n.bias()).collect(),
            Op::Linear { weight, bias } => std::iter::once(weight).chain(bias).collect(),
            Op::LinearGradInput { weight }
            | Op::LinearGradWeight { weight }
            | Op::LinearCrossEntropy { weight }
            | Op::LinearCrossEntropyGrad { weight } => vec![weight],
            Op::BiasGrad { bias } => vec![bias],
            Op::Add
            | Op::Dropout(_)
            | Op::Rope { .. }
            | Op::Gelu(_)
            | Op::GeluGrad(_)
            | Op::SwiGlu
            | Op::SwiGluGrad
            | Op::Attention { .. }
            | Op::AttentionGrad { .. }
            | Op::CacheAppend { .. }
            | Op::CachedAttention { .. }
            | Op::SelectRows
            | Op::GradSquares
            | Op::ClipFactor { .. }
            | Op::AdamW(_) => vec![],
        }
    }

    /// What it touches beside its values: an operation with effects is never dead code.
    pub fn effects(&self) -> Effects {
        let gradients = Effects { gradients: true, ..Effects::default() };
        let cache = Effects { cache: true, ..Effects::default() };
        match self {
            Op::EmbeddingGrad { .. }
            | Op::NormGrad(_)
            | Op::LinearGradWeight { .. }
            | Op::BiasGrad { .. }
            | Op::LinearCrossEntropyGrad { .. }
            | Op::GradSquares => gradients,
            Op::AdamW(_) => Effects { gradients: true, parameters: true, cache: false },
            Op::CacheAppend { .. } | Op::CachedAttention { .. } => cache,
            Op::Embedding { .. }
            | Op::Add
            | Op::Dropout(_)
            | Op::Norm(_)
            | Op::AddNorm(_)
            | Op::Linear { .. }
            | Op::LinearGradInput { .. }
            | Op::Rope { .. }
            | Op::Gelu(_)
            | Op::GeluGrad(_)
            | Op::SwiGlu
            | Op::SwiGluGrad
            | Op::Attention { .. }
            | Op::AttentionGrad { .. }
            | Op::SelectRows
            | Op::LinearCrossEntropy { .. }
            | Op::ClipFactor { .. } => Effects::default(),
        }
    }

    /// The shape rule: shapes of the outputs from those of the inputs.
    ///
    /// # Errors
    /// Inputs of the wrong number or shape, or parameters that don't fit them.
    pub fn outputs(&self, cx: &ShapeContext<'_>) -> Result<Vec<Shape>, GraphError> {
        match *self {
            Op::Embedding { table, .. } => {
                cx.arity(0..=0)?;
                Ok(vec![Shape::tokens(cx.param(table)?.cols)])
            }
            Op::EmbeddingGrad { table, .. } => {
                cx.arity(1..=1)?;
                cx.expect(0, Shape::tokens(cx.param(table)?.cols))?;
                Ok(vec![])
            }
            Op::Add => {
                cx.arity(2..=2)?;
                cx.same(0, 1)?;
                Ok(vec![cx.shape(0)])
            }
            Op::Dropout(spec) => {
                cx.arity(1..=1)?;
                cx.probability(Some(spec))?;
                Ok(vec![cx.shape(0)])
            }
            Op::Norm(norm) => {
                cx.arity(1..=1)?;
                let x = cx.shape(0);
                cx.norm_params(norm, x.cols)?;
                Ok(vec![x, Shape { cols: norm.stats_cols(), ..x }])
            }
            Op::AddNorm(norm) => {
                cx.arity(2..=2)?;
                cx.same(0, 1)?;
                let x = cx.shape(0);
                cx.norm_params(norm, x.cols)?;
                Ok(vec![x, x, Shape { cols: norm.stats_cols(), ..x }])
            }
            Op::NormGrad(norm) => {
                cx.arity(3..=4)?;
                cx.norm_grad_inputs(norm)?;
                if cx.len() == 4 {
                    cx.same(0, 3)?;
                }
                Ok(vec![cx.shape(0)])
            }
            Op::Linear { weight, bias } => {
                cx.arity(1..=2)?;
                let (x, w) = (cx.shape(0), cx.param(weight)?);
                cx.require(x.cols == w.cols, "a linear layer's input has as many columns as its weight")?;
                if let Some(bias) = bias {
                    cx.require(cx.param(bias)?.len() == w.rows, "a bias is as long as its weight has rows")?;
                }
                let y = Shape { cols: w.rows, ..x };
                if cx.len() == 2 {
                    cx.expect(1, y)?;
                }
                Ok(vec![y])
            }
            Op::LinearGradInput { weight } => {
                cx.arity(1..=2)?;
                let (dy, w) = (cx.shape(0), cx.param(weight)?);
                cx.require(dy.cols == w.rows, "an output gradient has as many columns as the weight has rows")?;
                let dx = Shape { cols: w.cols, ..dy };
                if cx.len() == 2 {
                    cx.expect(1, dx)?;
                }
                Ok(vec![dx])
            }
            Op::LinearGradWeight { weight } => {
                cx.arity(2..=2)?;
                let (dy, x, w) = (cx.shape(0), cx.shape(1), cx.param(weight)?);
                cx.require(dy.rows == x.rows, "both factors of a weight gradient have the same rows")?;
                cx.require(dy.cols == w.rows && x.cols == w.cols, "a weight gradient has the weight's shape")?;
                Ok(vec![])
            }
            Op::BiasGrad { bias } => {
                cx.arity(1..=1)?;
                cx.require(cx.shape(0).cols == cx.param(bias)?.len(), "a bias gradient has the bias's length")?;
                Ok(vec![])
            }
            Op::Rope { rope, heads, .. } => {
                cx.arity(1..=1)?;
                cx.expect_tokens(0)?;
                cx.require(rope.head_dim.is_multiple_of(2) && rope.head_dim > 0, "rope needs an even head dimension")?;
                cx.require(heads * rope.head_dim <= cx.shape(0).cols, "the rotated heads fit in a row")?;
                Ok(vec![cx.shape(0)])
            }
            Op::Gelu(_) => {
                cx.arity(1..=1)?;
                Ok(vec![cx.shape(0)])
            }
            Op::GeluGrad(_) => {
                cx.arity(2..=2)?;
                cx.same(0, 1)?;
                Ok(vec![cx.shape(0)])
            }
            Op::SwiGlu => {
                cx.arity(1..=1)?;
                let x = cx.shape(0);
                cx.require(x.cols.is_multiple_of(2), "gate and up are equally wide")?;
                Ok(vec![Shape { cols: x.cols / 2, ..x }])
            }
            Op::SwiGluGrad => {
                cx.arity(2..=2)?;
                let x = cx.shape(0);
                cx.expect(1, Shape { cols: x.cols / 2, ..x })?;
                Ok(vec![x])
            }
            Op::Attention { heads, dropout } => {
                cx.arity(1..=1)?;
                cx.qkv(0, heads)?;
                cx.probability(dropout)?;
                Ok(vec![Shape::tokens(heads.q_cols()), Shape::tokens(heads.heads)])
            }
            Op::AttentionGrad { heads, .. } => {
                cx.arity(4..=4)?;
                cx.qkv(1, heads)?;
                cx.expect(0, Shape::tokens(heads.q_cols()))?;
                cx.expect(2, Shape::tokens(heads.q_cols()))?;
                cx.expect(3, Shape::tokens(heads.heads))?;
                Ok(vec![cx.shape(1)])
            }
            Op::CacheAppend { heads, .. } => {
                cx.arity(1..=1)?;
                cx.qkv(0, heads)?;
                Ok(vec![])
            }
            Op::CachedAttention { heads, .. } => {
                cx.arity(1..=1)?;
                cx.qkv(0, heads)?;
                Ok(vec![Shape::tokens(heads.q_cols())])
            }
            Op::SelectRows => {
                cx.arity(1..=1)?;
                cx.expect_tokens(0)?;
                Ok(vec![Shape { rows: Rows::Outputs, cols: cx.shape(0).cols }])
            }
            Op::LinearCrossEntropy { weight } => {
                cx.arity(1..=1)?;
                cx.expect(0, Shape::tokens(cx.param(weight)?.cols))?;
                Ok(vec![Shape::tokens(1)])
            }
            Op::LinearCrossEntropyGrad { weight } => {
                cx.arity(1..=1)?;
                cx.expect(0, Shape::tokens(cx.param(weight)?.cols))?;
                Ok(vec![Shape::tokens(1), cx.shape(0)])
            }
            Op::GradSquares => {
                cx.arity(0..=0)?;
                Ok(vec![Shape { rows: Rows::Fixed(cx.square_blocks()), cols: 1 }])
            }
            Op::ClipFactor { max_norm } => {
                cx.arity(1..=1)?;
                cx.require(max_norm >= 0.0, "the greatest norm allowed is a number of at least 0")?;
                Ok(vec![Shape { rows: Rows::Fixed(1), cols: 2 }])
            }
            Op::AdamW(_) => {
                cx.arity(1..=1)?;
                cx.expect(0, Shape { rows: Rows::Fixed(1), cols: 2 })?;
                Ok(vec![])
            }
        }
    }
}
