//! What a model computes, feature by feature, and its sizes.
//!
//! Nothing here says which published family a model belongs to: only files depend on that, see [`Family`].

use smallmind_graph::op::{Gelu, Heads, RopeScaling};

mod check;
mod error;
mod experts;
mod family;
mod fields;
mod gemma;
pub(crate) mod gguf;
mod gpt2;
mod gpt_neox;
mod json;
mod keys;
mod llama;
mod rope;
mod windows;

pub use error::ConfigError;
pub use family::Family;
pub(crate) use fields::Fields;
pub(crate) use gguf::ROPE_TENSORS;
pub use json::UnknownKeys;
pub use keys::{KeyRule, Supported, config_keys};
pub use windows::AttentionWindows;

/// How the model encodes positions of tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A learned embedding of each position, `[context, d_model]`, is added to that of the token.
    Learned,
    /// Rotary positions: queries and keys are rotated by angles that grow with the position; Su et al., "RoFormer"
    /// (2021).
    Rope(RopeConfig),
    /// The rotation of each layer by itself; `None` for a layer that knows of no positions but the causal mask.
    RopeByLayer(Vec<Option<RopeConfig>>),
}

impl Positions {
    /// The rotation, if positions are rotary and all layers have the same.
    pub fn rope(&self) -> Option<&RopeConfig> {
        match self {
            Positions::Rope(rope) => Some(rope),
            Positions::Learned | Positions::RopeByLayer(_) => None,
        }
    }

    /// The rotation of a layer, if it has one.
    pub fn rope_of(&self, layer: usize) -> Option<&RopeConfig> {
        match self {
            Positions::Learned => None,
            Positions::Rope(rope) => Some(rope),
            Positions::RopeByLayer(layers) => layers.get(layer)?.as_ref(),
        }
    }
}

/// The angles of rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies: pair `i` of a head turns by `theta^(-2i / dim)` per token. Above 0.
    pub theta: f64,
    /// Features of a head that are rotated, from the first on: even, at most `head_dim`; `None` for all of them.
    pub dim: Option<usize>,
    /// How frequencies are scaled for longer contexts; `None` for not at all.
    pub scaling: Option<RopeScaling>,
}

impl Default for RopeConfig {
    /// The base 10,000 of Su et al. (2021), all features, not scaled.
    fn default() -> Self {
        Self { theta: 10_000.0, dim: None, scaling: None }
    }
}

/// The kind of all norms but those of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Normalizes to mean 0 and variance 1, then scales: Ba et al., "Layer Normalization" (2016).
    LayerNorm {
        /// Whether a learned shift is added.
        bias: bool,
    },
    /// Normalizes to mean square 1, then scales: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
    RmsNorm,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the MLP: `x + f(norm(x))`.
    Before,
    /// After them, before the addition: `x + norm(f(x))`, as in OLMo 2.
    After,
    /// Both: `x + norm(f(norm(x)))`, as in Gemma 2 and 3.
    BeforeAndAfter,
}

impl NormPlacement {
    /// Whether there is a norm before attention and before the MLP.
    pub fn is_before(self) -> bool {
        matches!(self, Self::Before | Self::BeforeAndAfter)
    }

    /// Whether there is a norm after attention and after the MLP.
    pub fn is_after(self) -> bool {
        matches!(self, Self::After | Self::BeforeAndAfter)
    }
}

/// What the RMSNorm of queries and keys is taken over. It stands before the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself; all query heads share a scale of `head_dim` elements, and so do key heads.
    Heads,
    /// All queries of a token together, and all keys.
    Rows,
}

/// How attention and MLP of a block are added to the residual stream `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// First `x = x + attention(norm(x))`, then `x = x + mlp(norm(x))`.
    Sequential,
    /// `x = x + attention(norm(x)) + mlp(norm'(x))`: Wang and Komatsuzaki, "GPT-J-6B" (2021).
    Parallel {
        /// Whether both read the same norm, so that the block has only one.
        shared_norm: bool,
    },
}

/// The linear layers of a block that add a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// The projections to queries, keys and values.
    pub qkv: bool,
    /// The projection of the attention's output.
    pub attn_out: bool,
    /// All linear layers of the MLP.
    pub mlp: bool,
}

impl Biases {
    /// No layer.
    pub const NONE: Self = Self { qkv: false, attn_out: false, mlp: false };
    /// The projections to queries, keys and values alone.
    pub const QKV: Self = Self { qkv: true, ..Self::NONE };
    /// Every layer of a block.
    pub const ALL: Self = Self { qkv: true, attn_out: true, mlp: true };
}

/// The activation and the gate of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// `down(gelu(up(x)))`: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016).
    Gelu(Gelu),
    /// `down(silu(gate(x)) * up(x))`: Shazeer, "GLU Variants Improve Transformer" (2020).
    SwiGlu,
    /// `down(gelu(gate(x)) * up(x))`: Shazeer, "GLU Variants Improve Transformer" (2020).
    GeGlu(Gelu),
}

impl Mlp {
    /// Number of matrices of `d_model · d_ff` elements: up and down, and gate if there is one.
    pub fn matrices(self) -> usize {
        match self {
            Mlp::Gelu(_) => 2,
            Mlp::SwiGlu | Mlp::GeGlu(_) => 3,
        }
    }
}

/// The experts of which each MLP is made: Jiang et al., "Mixtral of Experts" (2024). A linear layer, the router, gives
/// each of them a score for a token; the token uses those of the largest scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// How many experts there are.
    pub count: usize,
    /// How many of them a token uses, at most all.
    pub per_token: usize,
    /// Whether the weights of a token's experts sum to 1; otherwise they are those of the softmax over all experts.
    pub sums_to_one: bool,
}

/// The weights of the output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The table of token embeddings.
    Tied,
    /// A separate matrix.
    Untied,
}

/// Dropout probabilities in training, each in `[0, 1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DropoutConfig {
    /// Probability for elements of the embeddings.
    pub embedding: f32,
    /// Probability for attention weights.
    pub attention: f32,
    /// Probability for elements that attention and MLP add to the residual stream.
    pub residual: f32,
}

/// A decoder: its sizes, and what it computes.
///
/// Every model is a trunk of blocks on a residual stream: `x + attention(norm(x))`, then `x + mlp(norm(x))`. The fields
/// say how each part is made. A new model is written as its differences from [`ModelConfig::default`].
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// The most tokens of a sequence.
    pub context: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of a head; even if positions are rotary.
    pub head_dim: usize,
    /// Width of the MLP, or of each of its experts.
    pub d_ff: usize,
    /// How positions are encoded.
    pub positions: Positions,
    /// Factor of the scores of queries and keys, above 0; `None` for 1/√head_dim.
    pub attention_scale: Option<f32>,
    /// The layers that attend in a sliding window.
    pub attention_windows: AttentionWindows,
    /// Soft cap of scores, above 0: `cap · tanh(s / cap)` stands for a scaled score `s` (Gemma Team, "Gemma 2", 2024).
    /// `None` for none.
    pub attention_softcap: Option<f32>,
    /// The kind of norm.
    pub norm: NormKind,
    /// ε, which norms add to the variance or mean square, in `(0, 1)`.
    pub norm_eps: f32,
    /// Where the norms of a block stand.
    pub norm_placement: NormPlacement,
    /// The norm of queries and keys; `None` for none.
    pub qk_norm: Option<QkNorm>,
    /// How attention and MLP are added to the residual stream.
    pub residual: Residual,
    /// Factor of what attention and MLP add to the residual stream, finite; `None` for 1.
    pub residual_scale: Option<f32>,
    /// Factor of the embeddings of tokens, finite; `None` for 1.
    pub embedding_scale: Option<f32>,
    /// Divisor of the logits, above 0; `None` for 1.
    pub logit_divisor: Option<f32>,
    /// Soft cap of the logits, above 0: `cap · tanh(l / cap)` stands for a logit `l` (Gemma Team, "Gemma 2", 2024).
    /// `None` for none.
    pub logit_softcap: Option<f32>,
    /// The activation and the gate of the MLP.
    pub mlp: Mlp,
    /// The experts of each MLP; `None` for an MLP that all tokens use. Models with experts can't be trained.
    pub experts: Option<ExpertsConfig>,
    /// The linear layers that add a bias.
    pub biases: Biases,
    /// The weights of the output head.
    pub head: Head,
    /// Dropout in training.
    pub dropout: DropoutConfig,
    /// Standard deviation of initial matrices; divided by √(2·layers) for those that add to the residual stream.
    pub init_std: f32,
    /// Token that begins a text, if there is one.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

impl Default for ModelConfig {
    /// The features that most models share: rope, RMSNorm, SwiGLU, no biases, no dropout, an untied head. All sizes are
    /// 0 and must be set: [`ModelConfig::check`] refuses 0.
    fn default() -> Self {
        Self {
            vocab_size: 0,
            context: 0,
            d_model: 0,
            layers: 0,
            heads: 0,
            kv_heads: 0,
            head_dim: 0,
            d_ff: 0,
            positions: Positions::Rope(RopeConfig::default()),
            attention_scale: None,
            attention_windows: AttentionWindows::None,
            attention_softcap: None,
            norm: NormKind::RmsNorm,
            norm_eps: 1e-5,
            norm_placement: NormPlacement::Before,
            qk_norm: None,
            residual: Residual::Sequential,
            residual_scale: None,
            embedding_scale: None,
            logit_divisor: None,
            logit_softcap: None,
            mlp: Mlp::SwiGlu,
            experts: None,
            biases: Biases::NONE,
            head: Head::Untied,
            dropout: DropoutConfig::default(),
            init_std: 0.02,
            bos: None,
            eos: vec![],
        }
    }
}

impl ModelConfig {
    /// The heads of a block's attention, without a window.
    pub(crate) fn attention_heads(&self) -> Heads {
        let heads = Heads::new(self.heads, self.kv_heads, self.head_dim);
        Heads { scale: self.attention_scale.unwrap_or(heads.scale), cap: self.attention_softcap, ..heads }
    }

    /// Floating-point operations of training per token: three times those of the forward. The forward takes two
    /// operations for each weight of a matrix. For each pair of a query and a visible key it takes two per feature,
    /// once for scores and once for outputs.
    pub fn training_flops_per_token(&self, context: usize) -> f64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (used, experts) = self.experts.map_or((1, 0), |experts| (experts.per_token, experts.count));
        let mlp = self.mlp.matrices() * self.d_ff * used + experts;
        let weights = self.layers * self.d_model * (2 * q + 2 * kv + mlp) + self.vocab_size * self.d_model;
        // The average query of a layer sees as many keys.
        let seen = |layer| {
            let window = self.attention_windows.of(layer).map_or(context, |window| window.min(context)) as f64;
            window - window * (window - 1.0) / (2.0 * context as f64)
        };
        let attention = 2.0 * q as f64 * (0..self.layers).map(seen).sum::<f64>();
        6.0 * (weights as f64 + attention)
    }

    /// Number of elements of all matrices; these are nearly all parameters.
    fn matrix_elements(&self) -> f64 {
        let [d, q, kv] = [self.d_model, self.heads * self.head_dim, self.kv_heads * self.head_dim].map(|n| n as f64);
        let positions = if self.positions == Positions::Learned { self.context as f64 } else { 0.0 };
        let tables = if self.head == Head::Tied { 1.0 } else { 2.0 };
        let (mlps, router) = self.experts.map_or((1, 0), |experts| (experts.count, experts.count));
        let mlp = self.mlp.matrices() as f64 * self.d_ff as f64 * mlps as f64 + router as f64;
        let block = d * (2.0 * q + 2.0 * kv + mlp);
        d * (self.vocab_size as f64 * tables + positions) + self.layers as f64 * block
    }
}
