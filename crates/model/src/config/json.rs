//! Hugging Face's `config.json`: reading it strictly, and writing it.

use serde_json::{Map, Value, json};
use smallmind_graph::op::Gelu;

use super::{ConfigError, Family, Fields, Head, Mlp, ModelConfig, experts, gemma, gpt_neox, gpt2, keys, llama};

/// What happens to unknown keys of a `config.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownKeys {
    /// They are an error: they may change what the model computes.
    #[default]
    Refuse,
    /// They are ignored.
    Allow,
}

impl ConfigError {
    /// The same error with the field's key in the family's `config.json`.
    fn in_terms_of(mut self, family: Family) -> Self {
        let names: &[&[_]] = match family {
            Family::Gpt2 => &[gpt2::NAMES],
            Family::GptNeoX => &[gpt_neox::NAMES],
            Family::StableLm => &[llama::STABLELM_NAMES, llama::NAMES],
            Family::Qwen3Moe => &[experts::WIDTH, experts::COUNT, experts::NAMES, llama::NAMES],
            Family::Olmoe => &[experts::COUNT, experts::NAMES, llama::NAMES],
            Family::GraniteMoe | Family::Mixtral => &[experts::LOCAL_COUNT, experts::NAMES, llama::NAMES],
            Family::Gemma2 | Family::Gemma3 => &[gemma::NAMES, llama::NAMES],
            _ => &[llama::NAMES],
        };
        if let Self::Invalid { key, .. } = &mut self
            && let Some((_, name)) = names.iter().copied().flatten().find(|(field, _)| field == key)
        {
            *key = (*name).to_owned();
        }
        self
    }
}

impl ModelConfig {
    /// Reads Hugging Face's `config.json`. Every key must be known, as others may change what the model computes.
    ///
    /// # Errors
    /// An unknown key; a field that is missing, has the wrong type, or has an impossible or unsupported value.
    pub fn from_json(value: &Value) -> Result<Self, ConfigError> {
        Self::from_json_with(value, UnknownKeys::Refuse)
    }

    /// [`ModelConfig::from_json`] that ignores unknown keys if `unknown` says so.
    ///
    /// # Errors
    /// As [`ModelConfig::from_json`].
    pub fn from_json_with(value: &Value, unknown: UnknownKeys) -> Result<Self, ConfigError> {
        let fields = Fields::top_level(value)?;
        let family = family(&fields)?;
        let unknown_keys = keys::check(fields.map, family)?;
        if unknown == UnknownKeys::Refuse && !unknown_keys.is_empty() {
            return Err(ConfigError::Unknown { path: None, keys: unknown_keys });
        }
        let read = match family {
            Family::Gpt2 => gpt2::read(&fields),
            Family::GptNeoX => gpt_neox::read(&fields),
            _ => llama::read(&fields, family),
        };
        let checked = read.and_then(|config| config.check().map(|()| config));
        checked.map_err(|error| error.in_terms_of(family))
    }

    /// The paths of the unknown keys of a `config.json`, which [`UnknownKeys::Allow`] ignores.
    ///
    /// # Errors
    /// A missing or unsupported `model_type`, or an unsupported value of a known key.
    pub fn unknown_keys(value: &Value) -> Result<Vec<String>, ConfigError> {
        let fields = Fields::top_level(value)?;
        keys::check(fields.map, family(&fields)?)
    }

    /// The content of `config.json`, for [`ModelConfig::from_json`] and other tools.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`] if no `model_type` can express the model.
    pub fn to_json(&self) -> Result<Value, ConfigError> {
        let family = Family::of(self)?;
        let eos = match self.eos[..] {
            [] => Value::Null,
            [one] => json!(one),
            _ => json!(self.eos),
        };
        let common = json!({
            "model_type": family.name(),
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": self.head == Head::Tied,
            "initializer_range": short(self.init_std),
            "torch_dtype": "float32",
            "bos_token_id": self.bos,
            "eos_token_id": eos,
        });
        let own = match family {
            Family::Gpt2 => gpt2::write(self),
            Family::GptNeoX => gpt_neox::write(self),
            _ => llama::write(self, family),
        };
        let mut all = Map::new();
        for part in [common, own] {
            if let Value::Object(part) = part {
                all.extend(part);
            }
        }
        Ok(Value::Object(all))
    }
}

/// An `f32` as the shortest decimal that gives the same `f32` when it is read.
pub(super) fn short(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// transformers' name for the activation.
pub(super) fn activation_name(mlp: Mlp) -> &'static str {
    match mlp {
        Mlp::Gelu(Gelu::Exact) | Mlp::GeGlu(Gelu::Exact) => "gelu",
        Mlp::Gelu(Gelu::Tanh) => "gelu_new",
        Mlp::GeGlu(Gelu::Tanh) => "gelu_pytorch_tanh",
        Mlp::SwiGlu => "silu",
    }
}

fn family(fields: &Fields<'_>) -> Result<Family, ConfigError> {
    let name = fields.str("model_type")?;
    let unsupported = || ConfigError::invalid("model_type", name, format!("SmallMind runs {}", Family::names()));
    Family::from_name(name).ok_or_else(unsupported)
}
