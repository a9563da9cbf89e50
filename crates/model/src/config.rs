//! The shape of a model, as Hugging Face's `config.json` states it.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;
use smallmind_graph::op::{Gelu, RopeScaling};

mod json;
mod keys;
mod rope;

pub(crate) use json::Fields;
pub use keys::{KeyRule, Supported, config_keys};

/// The families of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Learned positions, LayerNorm, GELU: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
    Gpt2,
    /// Rotary positions, RMSNorm, SwiGLU, grouped heads: Touvron et al., "LLaMA" (2023).
    Llama,
    /// LLaMA with biases on queries, keys and values: Yang et al., "Qwen2 Technical Report" (2024).
    Qwen2,
}

impl Family {
    /// The `model_type` of `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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

/// Whether linear layers (and LayerNorms) of a GPT-2 have biases; published ones have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Biases {
    /// They have.
    Present,
    /// They have none.
    Absent,
}

/// Probabilities of dropping, for training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DropoutConfig {
    /// Of elements of the embeddings.
    pub embedding: f32,
    /// Of attention weights.
    pub attention: f32,
    /// Of elements of what attention and feed-forward add to the residual stream.
    pub residual: f32,
}

/// Rotary positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies.
    pub theta: f64,
    /// Stretching for longer contexts.
    pub scaling: Option<RopeScaling>,
}

/// The shape of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which architecture.
    pub family: Family,
    /// Token ids.
    pub vocab_size: usize,
    /// The longest sequence.
    pub context: usize,
    /// Features of the residual stream.
    pub d_model: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Features inside the feed-forward.
    pub d_ff: usize,
    /// Added to variances.
    pub norm_eps: f32,
    /// Whether the output head has weights of its own.
    pub head: Head,
    /// Of a GPT-2.
    pub biases: Biases,
    /// Of a GPT-2.
    pub gelu: Gelu,
    /// Of a LLaMA or Qwen2.
    pub rope: RopeConfig,
    /// For training.
    pub dropout: DropoutConfig,
    /// Standard deviation of initial weights.
    pub init_std: f32,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end one.
    pub eos: Vec<u32>,
}

/// What happens to keys of a `config.json` that are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownKeys {
    /// They are an error: they may change what the model computes.
    #[default]
    Refuse,
    /// They are passed over.
    Allow,
}

/// A configuration that makes no model.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A field is missing.
    #[error("{}`{key}` is missing", file(.path))]
    Missing {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// The field.
        key: String,
    },
    /// A field has the wrong type.
    #[error("{}`{key}` must be {expected}, not {got}", file(.path))]
    Type {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// The field.
        key: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// A field has an impossible or unsupported value.
    #[error("{}`{key}` = {got}: {why}", file(.path))]
    Invalid {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// The field.
        key: String,
        /// Its value.
        got: String,
        /// What is wrong with it, and what would do.
        why: String,
    },
    /// Keys that are not known.
    #[error(
        "{}{} not known and may change what the model computes; take {} out of the file, or allow unknown keys",
        file(.path), listed(.keys), if .keys.len() == 1 { "it" } else { "them" }
    )]
    Unknown {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// Their paths in the file; there is at least one.
        keys: Vec<String>,
    },
}

/// The first few of some keys, as the beginning of a sentence.
fn listed(keys: &[String]) -> String {
    const SHOWN: usize = 5;
    let short = |key: &String| format!("`{}`", key.chars().take(MAX_SHOWN).collect::<String>());
    let shown = keys.iter().take(SHOWN).map(short).collect::<Vec<_>>().join(", ");
    match keys.len() {
        1 => format!("the key {shown} is"),
        n if n > SHOWN => format!("{n} keys ({shown}, …) are"),
        _ => format!("the keys {shown} are"),
    }
}

fn file(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default()
}

impl ConfigError {
    pub(crate) fn invalid(key: &str, got: impl fmt::Display, why: impl Into<String>) -> Self {
        // A value from a file may be of any length.
        let got = got.to_string().chars().take(MAX_SHOWN).collect();
        Self::Invalid { path: None, key: key.to_owned(), got, why: why.into() }
    }

    /// The same error, saying in which file.
    pub fn in_file(mut self, file: impl Into<PathBuf>) -> Self {
        match &mut self {
            Self::Missing { path, .. }
            | Self::Type { path, .. }
            | Self::Invalid { path, .. }
            | Self::Unknown { path, .. } => *path = Some(file.into()),
        }
        self
    }
}

/// A JSON value as a message shows it.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("\"{}\"", s.chars().take(MAX_SHOWN).collect::<String>()),
        Value::Array(a) => format!("an array of {}", a.len()),
        Value::Object(_) => "an object".into(),
    }
}

/// Characters of a value that a message repeats.
const MAX_SHOWN: usize = 40;

/// Beyond these no model is known, and products of them could overflow.
const MAX_DIMENSION: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 10;
const MAX_PARAMETERS: f64 = (1u64 << 42) as f64;

impl ModelConfig {
    /// Floating-point operations that training does for a token: three times those of the forward, whose matrix products take two for
    /// each weight, and two for each pair of query and visible key, in scores and in outputs.
    pub fn training_flops_per_token(&self, context: usize) -> f64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let ff = match self.family {
            Family::Gpt2 => 2 * self.d_ff,
            Family::Llama | Family::Qwen2 => 3 * self.d_ff,
        };
        let weights = self.layers * self.d_model * (2 * q + 2 * kv + ff) + self.vocab_size * self.d_model;
        let attention = self.layers * 2 * q * (context + 1) / 2;
        6.0 * (weights as f64 + attention as f64)
    }

    /// Checks that the numbers make a model.
    ///
    /// # Errors
    /// The first field that doesn't, by the name that it has in a run's configuration.
    pub fn check(&self) -> Result<(), ConfigError> {
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
        if self.family == Family::Gpt2 && self.heads * self.head_dim != self.d_model {
            return Err(heads_must_divide(self.heads, self.d_model));
        }
        if self.family == Family::Gpt2 && self.kv_heads != self.heads {
            let why = format!("a GPT-2 has as many key heads as query heads, {}", self.heads);
            return Err(ConfigError::invalid("kv_heads", self.kv_heads, why));
        }
        if self.family != Family::Gpt2 && !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::invalid("head_dim", self.head_dim, "rotary positions need an even number"));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(ConfigError::invalid("norm_eps", self.norm_eps, "it must lie between 0 and 1"));
        }
        if !(self.init_std >= 0.0 && self.init_std.is_finite()) {
            return Err(ConfigError::invalid("init_std", self.init_std, "it must be finite and not negative"));
        }
        if !(self.rope.theta > 0.0 && self.rope.theta.is_finite()) {
            return Err(ConfigError::invalid("rope_theta", self.rope.theta, "it must be finite and positive"));
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
}

impl ModelConfig {
    /// Elements of all matrices, nearly all of the parameters.
    fn matrix_elements(&self) -> f64 {
        let [d, q, kv] = [self.d_model, self.heads * self.head_dim, self.kv_heads * self.head_dim].map(|n| n as f64);
        let (positions, ff) = match self.family {
            Family::Gpt2 => (self.context, 2.0),
            Family::Llama | Family::Qwen2 => (0, 3.0),
        };
        let heads = if self.head == Head::Tied { 1.0 } else { 2.0 };
        let block = d * (2.0 * q + 2.0 * kv + ff * self.d_ff as f64);
        d * (self.vocab_size as f64 * heads + positions as f64) + self.layers as f64 * block
    }
}

/// The error for a width that heads don't divide.
pub(crate) fn heads_must_divide(heads: usize, d_model: usize) -> ConfigError {
    ConfigError::invalid("heads", heads, format!("the heads must divide the width {d_model} evenly"))
}
