//! The families of published models: which features their files can express.

use std::fmt;

use smallmind_graph::op::{Gelu, Heads};

use super::{AttentionWindows, Biases, ConfigError, Mlp, ModelConfig, NormKind, Positions};

/// A family of models with the same keys of `config.json` and names of tensors. It says how files are read and written;
/// [`ModelConfig`] says what a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Radford et al., "Language Models are Unsupervised Multitask Learners" (2019):
    /// <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>.
    Gpt2,
    /// Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023):
    /// <https://arxiv.org/abs/2302.13971>.
    Llama,
    /// Yang et al., "Qwen2 Technical Report" (2024): <https://arxiv.org/abs/2407.10671>.
    Qwen2,
}

/// A field of [`ModelConfig`] that a family's files can't express.
struct Mismatch {
    key: &'static str,
    got: String,
    takes: String,
}

impl Family {
    /// All families. If several can express a model, the first is chosen.
    pub const ALL: [Family; 3] = [Family::Gpt2, Family::Llama, Family::Qwen2];

    /// The `model_type` of `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
        }
    }

    /// The family of a `model_type`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// The family whose files can express `config`.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`] if there is none.
    pub(crate) fn of(config: &ModelConfig) -> Result<Self, ConfigError> {
        let mismatches = Self::ALL.map(|family| (family, family.mismatches(config)));
        if let Some((family, _)) = mismatches.iter().find(|(_, mismatches)| mismatches.is_empty()) {
            return Ok(*family);
        }
        let nearest = mismatches.into_iter().min_by_key(|(_, mismatches)| mismatches.len());
        let Some((family, Some(Mismatch { key, got, takes }))) = nearest.map(|(f, m)| (f, m.into_iter().next())) else {
            unreachable!("there are families, and each that states the model has been returned")
        };
        Err(ConfigError::NotStorable { key, got, model_type: family.name(), takes })
    }

    /// The fields of `config` that this family's files can't express. The code names all fields, so that a new field
    /// does not compile until it is handled here.
    fn mismatches(self, config: &ModelConfig) -> Vec<Mismatch> {
        #[rustfmt::skip]
        let &ModelConfig {
            positions, attention_scale, ref attention_windows, attention_softcap, norm, mlp, biases, d_model, heads, kv_heads, head_dim,
            // Every family can state these.
            vocab_size: _, context: _, layers: _, d_ff: _, norm_eps: _, head: _, dropout: _, init_std: _, bos: _, eos: _,
        } = config;
        let mut all = Vec::new();
        let mut takes = |holds: bool, key, got: &dyn fmt::Debug, takes: &str| {
            if !holds {
                all.push(Mismatch { key, got: format!("{got:?}"), takes: takes.to_owned() });
            }
        };
        let usual = Heads::new(heads, kv_heads, head_dim).scale;
        takes(attention_scale.unwrap_or(usual) == usual, "attention_scale", &attention_scale, "None, for 1/√head_dim");
        takes(attention_softcap.is_none(), "attention_softcap", &attention_softcap, "None");
        let can_be_local = self == Family::Qwen2 || *attention_windows == AttentionWindows::None;
        takes(can_be_local, "attention_windows", attention_windows, "None");
        match self {
            Family::Gpt2 => {
                takes(matches!(norm, NormKind::LayerNorm { .. }), "norm", &norm, "LayerNorm");
                takes(positions == Positions::Learned, "positions", &positions, "Learned");
                takes(matches!(mlp, Mlp::Gelu(_)), "mlp", &mlp, "Gelu");
                let shift = norm == NormKind::LayerNorm { bias: true };
                let own = if shift { Biases::ALL } else { Biases::NONE };
                takes(biases == own, "biases", &biases, "all of them or none, that of norms included");
                takes(kv_heads == heads, "kv_heads", &kv_heads, &format!("as many as query heads, {heads}"));
                let width = format!("d_model / heads, {d_model} / {heads}");
                takes(heads.checked_mul(head_dim) == Some(d_model), "head_dim", &head_dim, &width);
            }
            Family::Llama | Family::Qwen2 => {
                takes(norm == NormKind::RmsNorm, "norm", &norm, "RmsNorm");
                takes(positions.rope().is_some(), "positions", &positions, "Rope");
                takes(mlp == Mlp::SwiGlu, "mlp", &mlp, "SwiGlu");
                takes(biases == self.rotary_biases(), "biases", &biases, &format!("{:?}", self.rotary_biases()));
            }
        }
        all
    }

    /// The biases of a family with rotary positions.
    pub(super) fn rotary_biases(self) -> Biases {
        if self == Family::Qwen2 { Biases::QKV } else { Biases::NONE }
    }

    /// `config` with the features of this family. Sizes, and features that the family can express, stay as they are.
    pub fn applied_to(self, config: ModelConfig) -> ModelConfig {
        let mut config = ModelConfig { attention_scale: None, attention_softcap: None, ..config };
        if self != Family::Qwen2 {
            config.attention_windows = AttentionWindows::None;
        }
        match self {
            Family::Gpt2 => {
                let shift = config.norm == NormKind::LayerNorm { bias: true } && config.biases == Biases::ALL;
                ModelConfig {
                    positions: Positions::Learned,
                    norm: NormKind::LayerNorm { bias: shift },
                    mlp: Mlp::Gelu(match config.mlp {
                        Mlp::Gelu(kind) => kind,
                        Mlp::SwiGlu => Gelu::Exact,
                    }),
                    biases: if shift { Biases::ALL } else { Biases::NONE },
                    ..config
                }
            }
            Family::Llama | Family::Qwen2 => ModelConfig {
                positions: Positions::Rope(config.positions.rope().unwrap_or_default()),
                norm: NormKind::RmsNorm,
                mlp: Mlp::SwiGlu,
                biases: self.rotary_biases(),
                ..config
            },
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ModelConfig {
    /// The `model_type` of this model in `config.json`.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`] if none can.
    pub fn model_type(&self) -> Result<&'static str, ConfigError> {
        Ok(Family::of(self)?.name())
    }
}
