//! `config.json` as Hugging Face has it: reading it strictly, and writing it.

use serde_json::{Map, Value, json};
use smallmind_graph::op::Gelu;

use super::{
    Biases, ConfigError, DropoutConfig, Family, Head, ModelConfig, RopeConfig, UnknownKeys, heads_must_divide, keys,
    kind, rope,
};

/// The names of [`ModelConfig::check`] and those that `config.json` has for the same: of a GPT-2, and of the LLaMA family.
const FILE_KEYS: &[[&str; 3]] = &[
    ["context", "n_positions", "max_position_embeddings"],
    ["d_model", "n_embd", "hidden_size"],
    ["layers", "n_layer", "num_hidden_layers"],
    ["heads", "n_head", "num_attention_heads"],
    ["kv_heads", "", "num_key_value_heads"],
    ["d_ff", "n_inner", "intermediate_size"],
    ["norm_eps", "layer_norm_epsilon", "rms_norm_eps"],
    ["init_std", "initializer_range", "initializer_range"],
    ["dropout (embedding)", "embd_pdrop", "embd_pdrop"],
    ["dropout (attention)", "attn_pdrop", "attention_dropout"],
    ["dropout (residual)", "resid_pdrop", "resid_pdrop"],
    ["bos", "bos_token_id", "bos_token_id"],
    ["eos", "eos_token_id", "eos_token_id"],
];

impl ConfigError {
    /// The same error by the name that `config.json` has for the field.
    fn in_terms_of(mut self, family: Family) -> Self {
        if let Self::Invalid { key, .. } = &mut self {
            let name = FILE_KEYS.iter().find(|names| names[0] == key);
            let column = if family == Family::Gpt2 { 1 } else { 2 };
            if let Some(names) = name.filter(|names| !names[column].is_empty()) {
                *key = names[column].to_owned();
            }
        }
        self
    }
}

impl ModelConfig {
    /// Reads what Hugging Face's `config.json` holds. Every key must be known: one that isn't may change what the model computes.
    ///
    /// # Errors
    /// A key that is not known; a field that is missing, of the wrong type, or of a value that makes no model or that SmallMind does
    /// not run.
    pub fn from_json(value: &Value) -> Result<Self, ConfigError> {
        Self::from_json_with(value, UnknownKeys::Refuse)
    }

    /// [`ModelConfig::from_json`], which may pass over keys that are not known.
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
            Family::Gpt2 => gpt2(&fields),
            Family::Llama | Family::Qwen2 => llama(&fields, family),
        };
        let checked = read.and_then(|config| config.check().map(|()| config));
        checked.map_err(|error| error.in_terms_of(family))
    }

    /// The keys of a `config.json` that are not known, by their paths: those that [`UnknownKeys::Allow`] passes over.
    ///
    /// # Errors
    /// A `model_type` that is missing or not supported, or a known key with a value that is not.
    pub fn unknown_keys(value: &Value) -> Result<Vec<String>, ConfigError> {
        let fields = Fields::top_level(value)?;
        keys::check(fields.map, family(&fields)?)
    }

    /// The `config.json` that [`ModelConfig::from_json`] reads, and other tools too.
    pub fn to_json(&self) -> Value {
        let eos = match self.eos[..] {
            [] => Value::Null,
            [one] => json!(one),
            _ => json!(self.eos),
        };
        let common = json!({
            "model_type": self.family.name(),
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": self.head == Head::Tied,
            "initializer_range": short(self.init_std),
            "torch_dtype": "float32",
            "bos_token_id": self.bos,
            "eos_token_id": eos,
        });
        let own = match self.family {
            Family::Gpt2 => json!({
                "architectures": ["GPT2LMHeadModel"],
                "n_positions": self.context,
                "n_embd": self.d_model,
                "n_layer": self.layers,
                "n_head": self.heads,
                "n_inner": self.d_ff,
                "activation_function": match self.gelu { Gelu::Exact => "gelu", Gelu::Tanh => "gelu_new" },
                "layer_norm_epsilon": short(self.norm_eps),
                "bias": self.biases == Biases::Present,
                "embd_pdrop": short(self.dropout.embedding),
                "attn_pdrop": short(self.dropout.attention),
                "resid_pdrop": short(self.dropout.residual),
            }),
            Family::Llama | Family::Qwen2 => json!({
                "architectures": [if self.family == Family::Llama { "LlamaForCausalLM" } else { "Qwen2ForCausalLM" }],
                "max_position_embeddings": self.context,
                "hidden_size": self.d_model,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "head_dim": self.head_dim,
                "intermediate_size": self.d_ff,
                "hidden_act": "silu",
                "rms_norm_eps": short(self.norm_eps),
                "rope_theta": self.rope.theta,
                "rope_scaling": self.rope.scaling.map(|s| json!({
                    "rope_type": "llama3",
                    "factor": s.factor,
                    "low_freq_factor": s.low_freq_factor,
                    "high_freq_factor": s.high_freq_factor,
                    "original_max_position_embeddings": s.original_max_position,
                })),
                "attention_dropout": short(self.dropout.attention),
                // Others know neither; without them a training that goes on would drop less than before.
                "embd_pdrop": short(self.dropout.embedding),
                "resid_pdrop": short(self.dropout.residual),
            }),
        };
        let mut all = Map::new();
        for part in [common, own] {
            if let Value::Object(part) = part {
                all.extend(part);
            }
        }
        Value::Object(all)
    }
}

/// An `f32` as the shortest decimal that reads back as it.
fn short(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

fn family(fields: &Fields<'_>) -> Result<Family, ConfigError> {
    match fields.str("model_type")? {
        "gpt2" => Ok(Family::Gpt2),
        "llama" => Ok(Family::Llama),
        "qwen2" => Ok(Family::Qwen2),
        other => Err(ConfigError::invalid("model_type", other, "SmallMind runs gpt2, llama and qwen2")),
    }
}

fn gpt2(f: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let (d_model, heads) = (f.size("n_embd")?, f.size("n_head")?);
    if heads == 0 || !d_model.is_multiple_of(heads) {
        return Err(heads_must_divide(heads, d_model));
    }
    let gelu = match f.or("activation_function", Fields::as_str, "gelu_new")? {
        "gelu" => Gelu::Exact,
        "gelu_new" | "gelu_pytorch_tanh" => Gelu::Tanh,
        other => return Err(ConfigError::invalid("activation_function", other, "gelu and gelu_new are supported")),
    };
    Ok(ModelConfig {
        family: Family::Gpt2,
        vocab_size: f.size("vocab_size")?,
        context: f.size("n_positions")?,
        d_model,
        layers: f.size("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: d_model / heads,
        d_ff: f.optional("n_inner", Fields::as_size)?.unwrap_or(d_model.saturating_mul(4)),
        norm_eps: f.number("layer_norm_epsilon", 1e-5)? as f32,
        head: f.head(true)?,
        biases: if f.flag("bias", true)? { Biases::Present } else { Biases::Absent },
        gelu,
        rope: RopeConfig { theta: rope::THETA, scaling: None },
        dropout: DropoutConfig {
            embedding: f.number("embd_pdrop", 0.1)? as f32,
            attention: f.number("attn_pdrop", 0.1)? as f32,
            residual: f.number("resid_pdrop", 0.1)? as f32,
        },
        init_std: f.number("initializer_range", 0.02)? as f32,
        bos: f.optional("bos_token_id", Fields::as_id)?,
        eos: f.ids("eos_token_id")?,
    })
}

fn llama(f: &Fields<'_>, family: Family) -> Result<ModelConfig, ConfigError> {
    let (d_model, heads) = (f.size("hidden_size")?, f.size("num_attention_heads")?);
    let head_dim = match f.optional("head_dim", Fields::as_size)? {
        Some(dim) => dim,
        None if heads > 0 && d_model.is_multiple_of(heads) => d_model / heads,
        None => return Err(heads_must_divide(heads, d_model)),
    };
    let act = f.or("hidden_act", Fields::as_str, "silu")?;
    if act != "silu" {
        return Err(ConfigError::invalid("hidden_act", act, "only silu is supported"));
    }
    let layers = f.size("num_hidden_layers")?;
    full_attention(f, layers)?;
    Ok(ModelConfig {
        family,
        vocab_size: f.size("vocab_size")?,
        context: f.size("max_position_embeddings")?,
        d_model,
        layers,
        heads,
        kv_heads: f.optional("num_key_value_heads", Fields::as_size)?.unwrap_or(heads),
        head_dim,
        d_ff: f.size("intermediate_size")?,
        norm_eps: f.number("rms_norm_eps", 1e-6)? as f32,
        head: f.head(false)?,
        biases: Biases::Absent,
        gelu: Gelu::Exact,
        rope: rope::read(f)?,
        dropout: DropoutConfig {
            embedding: f.number("embd_pdrop", 0.0)? as f32,
            attention: f.number("attention_dropout", 0.0)? as f32,
            residual: f.number("resid_pdrop", 0.0)? as f32,
        },
        init_std: f.number("initializer_range", 0.02)? as f32,
        bos: f.optional("bos_token_id", Fields::as_id)?,
        eos: f.ids("eos_token_id")?,
    })
}

/// Newer files name the kind of attention of each layer.
fn full_attention(f: &Fields<'_>, layers: usize) -> Result<(), ConfigError> {
    const KEY: &str = "layer_types";
    let Some(list) = f.optional(KEY, |value| value.as_array().ok_or("an array"))? else { return Ok(()) };
    for kind_of_layer in list {
        // The second is the older name.
        if !["full_attention", "attention"].iter().any(|known| kind_of_layer == known) {
            return Err(ConfigError::invalid(KEY, kind(kind_of_layer), "only layers of full_attention are supported"));
        }
    }
    if list.len() != layers {
        let why = format!("it must name the attention of each of the {layers} layers");
        return Err(ConfigError::invalid(KEY, kind(f.map.get(KEY).unwrap_or(&Value::Null)), why));
    }
    Ok(())
}

/// The fields of a JSON object.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// The key of the object within the file, with a dot behind it; empty for the file's own.
    of: &'static str,
}

type Reader<'a, T> = fn(&'a Value) -> Result<T, &'static str>;

impl<'a> Fields<'a> {
    /// Those of a whole file.
    pub(crate) fn top_level(value: &'a Value) -> Result<Self, ConfigError> {
        match value {
            Value::Object(map) => Ok(Self { map, of: "" }),
            _ => Err(ConfigError::invalid("config", kind(value), "a model's configuration is a JSON object")),
        }
    }

    /// Whether the field is set: `null` is as good as absent.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The names of the fields that are set.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str())
    }

    /// A field's name as the file's reader finds it.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.of)
    }

    /// A field's value as a message shows it.
    pub(super) fn shown(&self, key: &str) -> String {
        kind(self.map.get(key).unwrap_or(&Value::Null))
    }

    /// The object under `key`, which is `rope_scaling` or `rope_parameters`.
    pub(super) fn object(&self, key: &'static str) -> Result<Option<Fields<'a>>, ConfigError> {
        let of = if key == "rope_scaling" { "rope_scaling." } else { "rope_parameters." };
        Ok(self.optional(key, Self::as_object)?.map(|map| Fields { map, of }))
    }

    fn read<T>(&self, key: &str, value: &'a Value, read: Reader<'a, T>) -> Result<T, ConfigError> {
        let wrong = |expected| ConfigError::Type { path: None, key: self.path(key), expected, got: kind(value) };
        read(value).map_err(wrong)
    }

    /// A field that may be absent or `null`.
    pub(crate) fn optional<T>(&self, key: &str, read: Reader<'a, T>) -> Result<Option<T>, ConfigError> {
        self.map.get(key).filter(|value| !value.is_null()).map(|value| self.read(key, value, read)).transpose()
    }

    /// A field that may be absent, but not `null`: then `default` holds.
    fn or<T>(&self, key: &str, read: Reader<'a, T>, default: T) -> Result<T, ConfigError> {
        self.map.get(key).map_or(Ok(default), |value| self.read(key, value, read))
    }

    fn required<T>(&self, key: &str, read: Reader<'a, T>) -> Result<T, ConfigError> {
        self.optional(key, read)?.ok_or_else(|| ConfigError::Missing { path: None, key: self.path(key) })
    }

    pub(super) fn as_str(value: &'a Value) -> Result<&'a str, &'static str> {
        value.as_str().ok_or("a string")
    }

    pub(crate) fn as_size(value: &'a Value) -> Result<usize, &'static str> {
        value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or("a whole number, not negative")
    }

    pub(crate) fn as_id(value: &'a Value) -> Result<u32, &'static str> {
        value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("a token id")
    }

    pub(crate) fn as_number(value: &'a Value) -> Result<f64, &'static str> {
        value.as_f64().filter(|x| x.is_finite()).ok_or("a number")
    }

    pub(crate) fn as_flag(value: &'a Value) -> Result<bool, &'static str> {
        value.as_bool().ok_or("true or false")
    }

    fn as_object(value: &'a Value) -> Result<&'a Map<String, Value>, &'static str> {
        value.as_object().ok_or("an object")
    }

    fn str(&self, key: &str) -> Result<&'a str, ConfigError> {
        self.required(key, Self::as_str)
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.required(key, Self::as_size)
    }

    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        self.or(key, Self::as_number, default)
    }

    pub(super) fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        let x = self.required(key, Self::as_number)?;
        if x > 0.0 { Ok(x) } else { Err(ConfigError::invalid(&self.path(key), x, "it must be positive")) }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        self.or(key, Self::as_flag, default)
    }

    fn head(&self, tied: bool) -> Result<Head, ConfigError> {
        Ok(if self.flag("tie_word_embeddings", tied)? { Head::Tied } else { Head::Untied })
    }

    /// One id or a list of them.
    pub(crate) fn ids(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        match self.map.get(key) {
            Some(Value::Array(list)) => {
                let id = |v| Self::as_id(v).map_err(|expected| (v, expected));
                list.iter().map(id).collect::<Result<_, _>>().map_err(|(v, expected)| ConfigError::Type {
                    path: None,
                    key: key.to_owned(),
                    expected,
                    got: kind(v),
                })
            }
            _ => Ok(self.optional(key, Self::as_id)?.into_iter().collect()),
        }
    }
}
