//! What a model computes, feature by feature, and its sizes.
//!
//! Nothing here says which published family a model belongs to: only files depend on that, see [`Family`].

use smallmind_graph::op::{Gelu, Heads, RopeScaling};

mod error;
mod family;
mod fields;
mod gpt2;
mod json;
mod keys;
mod llama;
mod rope;
mod windows;

pub use error::ConfigError;
pub use family::Family;
pub(crate) use fields::Fields;
pub use json::UnknownKeys;
pub use keys::{KeyRule, Supported, config_keys};
pub use windows::AttentionWindows;

/// How the model encodes positions of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// A learned embedding of each position, `[context, d_model]`, is added to that of the token.
    Learned,
    /// Rotary positions: queries and keys are rotated by angles that grow with the position; Su et al., "RoFormer"
    /// (2021).
    Rope(RopeConfig),
}

impl Positions {
    /// The rotation, if positions are rotary.
    pub fn rope(self) -> Option<RopeConfig> {
        match self {
            Positions::Learned => None,
            Positions::Rope(rope) => Some(rope),
        }
    }
}

/// The angles of rotary positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies: pair `i` of a head turns by `theta^(-2i / head_dim)` per token. Above 0.
    pub theta: f64,
    /// How frequencies are scaled for longer contexts; `None` if they aren't.
    pub scaling: Option<RopeScaling>,
}

impl Default for RopeConfig {
    /// The base 10,000 of Su et al. (2021), not scaled.
    fn default() -> Self {
        Self { theta: 10_000.0, scaling: None }
    }
}

/// The norm before attention, before the MLP, and before the output head.
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
}

impl Mlp {
    /// Number of matrices of `d_model · d_ff` elements: up and down, and gate if there is one.
    pub fn matrices(self) -> usize {
        match self {
            Mlp::Gelu(_) => 2,
            Mlp::SwiGlu => 3,
        }
    }
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
    /// Width of the MLP.
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
    /// The activation and the gate of the MLP.
    pub mlp: Mlp,
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
            mlp: Mlp::SwiGlu,
            biases: Biases::NONE,
            head: Head::Untied,
            dropout: DropoutConfig::default(),
            init_std: 0.02,
            bos: None,
            eos: vec![],
        }
    }
}

/// The largest value of a size, so that products of sizes don't overflow. No known model exceeds it.
const MAX_DIMENSION: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 10;
const MAX_PARAMETERS: f64 = (1u64 << 42) as f64;

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
        let mlp = self.mlp.matrices() * self.d_ff;
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
        let block = d * (2.0 * q + 2.0 * kv + self.mlp.matrices() as f64 * self.d_ff as f64);
        d * (self.vocab_size as f64 * tables + positions) + self.layers as f64 * block
    }

    /// Checks that the sizes and numbers make a valid model.
    ///
    /// # Errors
    /// The first field with a wrong value, by its name in [`ModelConfig`].
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        if let Some(rope) = self.positions.rope() {
            if !self.head_dim.is_multiple_of(2) {
                return Err(ConfigError::invalid("head_dim", self.head_dim, "rotary positions need an even number"));
            }
            if !(rope.theta > 0.0 && rope.theta.is_finite()) {
                return Err(ConfigError::invalid("rope_theta", rope.theta, "it must be finite and positive"));
            }
        }
        if let Some(scale) = self.attention_scale.filter(|scale| !(*scale > 0.0 && scale.is_finite())) {
            return Err(ConfigError::invalid("attention_scale", scale, "it must be finite and positive"));
        }
        self.attention_windows.check()?;
        if let Some(cap) = self.attention_softcap.filter(|cap| !(*cap > 0.0 && cap.is_finite())) {
            return Err(ConfigError::invalid("attention_softcap", cap, "it must be finite and positive"));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(ConfigError::invalid("norm_eps", self.norm_eps, "it must lie between 0 and 1"));
        }
        if !(self.init_std >= 0.0 && self.init_std.is_finite()) {
            return Err(ConfigError::invalid("init_std", self.init_std, "it must be finite and not negative"));
        }
        let d = &self.dropout;
        for (key, p) in [("embedding", d.embedding), ("attention", d.attention), ("residual", d.residual)] {
            if !(0.0..1.0).contains(&p) {
                return Err(ConfigError::invalid(&format!("dropout ({key})"), p, "it must lie in [0, 1)"));
            }
        }
        for (key, id) in self.bos.iter().map(|id| ("bos", id)).chain(self.eos.iter().map(|id| ("eos", id))) {
            if *id as usize >= self.vocab_size {
                let why = format!("the vocabulary has {} tokens", self.vocab_size);
                return Err(ConfigError::invalid(key, id, why));
            }
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        for (key, n) in [
            ("vocab_size", self.vocab_size),
            ("context", self.context),
            ("d_model", self.d_model),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("d_ff", self.d_ff),
        ] {
            if n == 0 || n > MAX_DIMENSION {
                return Err(ConfigError::invalid(key, n, format!("it must lie between 1 and {MAX_DIMENSION}")));
            }
        }
        if self.layers > MAX_LAYERS {
            return Err(ConfigError::invalid("layers", self.layers, format!("it must lie between 1 and {MAX_LAYERS}")));
        }
        let parameters = self.matrix_elements();
        if parameters > MAX_PARAMETERS {
            let why = format!("with it the model has {parameters:.1e} parameters, more than any that is known");
            return Err(ConfigError::invalid("d_model", self.d_model, why));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let why = format!("it must divide the number of query heads, {}", self.heads);
            return Err(ConfigError::invalid("kv_heads", self.kv_heads, why));
        }
        Ok(())
    }
}
