//! What a model computes, feature by feature, and its sizes.
//!
//! Nothing here says which published family a model belongs to: that is a matter of files, see [`Family`].

use smallmind_graph::op::{Gelu, Heads, RopeScaling};

mod error;
mod family;
mod fields;
mod gpt2;
mod json;
mod keys;
mod llama;
mod rope;

pub use error::ConfigError;
pub use family::Family;
pub(crate) use fields::Fields;
pub use json::UnknownKeys;
pub use keys::{KeyRule, Supported, config_keys};

/// How the model knows where in its sequence a token stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// A learned vector of `d_model` features for each of the `context` positions, added to the token's embedding.
    Learned,
    /// Rotary positions: queries and keys are rotated by angles that grow with the position; Su et al., "RoFormer" (2021).
    Rope(RopeConfig),
}

impl Positions {
    /// The rotation, where positions are rotary.
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
    /// The base of the frequencies: pair `i` of a head turns by `theta^(-2i / head_dim)` a token. Positive.
    pub theta: f64,
    /// How frequencies are stretched for longer contexts.
    pub scaling: Option<RopeScaling>,
}

impl Default for RopeConfig {
    /// The base 10,000 of Su et al. (2021), not stretched.
    fn default() -> Self {
        Self { theta: 10_000.0, scaling: None }
    }
}

/// How rows are normalized: before attention, before the MLP, and before the output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// To mean 0 and variance 1, then scaled: Ba et al., "Layer Normalization" (2016).
    LayerNorm {
        /// Whether a learned shift is added.
        bias: bool,
    },
    /// To mean square 1, then scaled: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
    RmsNorm,
}

/// Which linear layers of a block add a bias.
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

/// The MLP of a block, with `d_ff` features inside: its activation, and whether it is gated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// `down(gelu(up(x)))`: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016).
    Gelu(Gelu),
    /// `down(silu(gate(x)) * up(x))`: Shazeer, "GLU Variants Improve Transformer" (2020).
    SwiGlu,
}

impl Mlp {
    /// Its matrices, each with `d_model · d_ff` elements: up and down, and gate where it is gated.
    pub fn matrices(self) -> usize {
        match self {
            Mlp::Gelu(_) => 2,
            Mlp::SwiGlu => 3,
        }
    }
}

/// Whether the output head has weights of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// It is the table of token embeddings.
    Tied,
    /// It is another matrix.
    Untied,
}

/// Probabilities of dropping, for training; each in `[0, 1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DropoutConfig {
    /// Of elements of the embeddings.
    pub embedding: f32,
    /// Of attention weights.
    pub attention: f32,
    /// Of elements of what attention and MLP add to the residual stream.
    pub residual: f32,
}

/// A decoder: its sizes, and what it computes.
///
/// Every model is one trunk of blocks on a residual stream, `x + attention(norm(x))`, then `x + mlp(norm(x))`. The fields below say how each
/// part is made. A new model is written as its difference to [`ModelConfig::default`].
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Tokens of the longest sequence.
    pub context: usize,
    /// Features of the residual stream.
    pub d_model: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Features of a head; even where positions are rotary.
    pub head_dim: usize,
    /// Features inside the MLP.
    pub d_ff: usize,
    /// How the model knows positions.
    pub positions: Positions,
    /// What each score of a query and a key is multiplied by; `None` for 1/√head_dim. Positive.
    pub attention_scale: Option<f32>,
    /// How rows are normalized.
    pub norm: NormKind,
    /// Added to the variance or mean square of a norm, in `(0, 1)`.
    pub norm_eps: f32,
    /// The activation and the gate of the MLP.
    pub mlp: Mlp,
    /// Which linear layers add a bias.
    pub biases: Biases,
    /// Whether the output head has weights of its own.
    pub head: Head,
    /// What training drops.
    pub dropout: DropoutConfig,
    /// Standard deviation of initial matrices; those that add to the residual stream get it divided by √(2·layers).
    pub init_std: f32,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end one.
    pub eos: Vec<u32>,
}

impl Default for ModelConfig {
    /// The features that most models of today share, for a `..` in a literal: rope, RMSNorm, SwiGLU, no biases, no dropout, a head of its
    /// own. All sizes are 0 and must be set: [`ModelConfig::check`] refuses 0.
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

/// Beyond these no model is known, and products of them could overflow.
const MAX_DIMENSION: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 10;
const MAX_PARAMETERS: f64 = (1u64 << 42) as f64;

impl ModelConfig {
    /// The heads of a block's attention.
    pub(crate) fn attention_heads(&self) -> Heads {
        let heads = Heads::new(self.heads, self.kv_heads, self.head_dim);
        Heads { scale: self.attention_scale.unwrap_or(heads.scale), ..heads }
    }

    /// Floating-point operations that training does for a token: three times those of the forward, whose matrix products take two for
    /// each weight, and two for each pair of query and visible key, in scores and in outputs.
    pub fn training_flops_per_token(&self, context: usize) -> f64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mlp = self.mlp.matrices() * self.d_ff;
        let weights = self.layers * self.d_model * (2 * q + 2 * kv + mlp) + self.vocab_size * self.d_model;
        let attention = self.layers * 2 * q * (context + 1) / 2;
        6.0 * (weights as f64 + attention as f64)
    }

    /// Elements of all matrices, nearly all of the parameters.
    fn matrix_elements(&self) -> f64 {
        let [d, q, kv] = [self.d_model, self.heads * self.head_dim, self.kv_heads * self.head_dim].map(|n| n as f64);
        let positions = if self.positions == Positions::Learned { self.context as f64 } else { 0.0 };
        let tables = if self.head == Head::Tied { 1.0 } else { 2.0 };
        let block = d * (2.0 * q + 2.0 * kv + self.mlp.matrices() as f64 * self.d_ff as f64);
        d * (self.vocab_size as f64 * tables + positions) + self.layers as f64 * block
    }

    /// Checks that the numbers make a model.
    ///
    /// # Errors
    /// The first field that doesn't, by the name that it has in a run's configuration.
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
