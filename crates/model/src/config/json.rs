//! `config.json` as Hugging Face has it: reading it strictly, and writing it.

use serde_json::{Map, Value, json};
use smallmind_graph::op::{Gelu, RopeScaling};

use super::{Biases, ConfigError, DropoutConfig, Family, Head, MAX_SHOWN, ModelConfig, RopeConfig, heads_must_divide};

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
    /// Reads what Hugging Face's `config.json` holds.
    ///
    /// # Errors
    /// A field that is missing, of the wrong type, or of a value that makes no model or that SmallMind does not run.
    pub fn from_json(value: &Value) -> Result<Self, ConfigError> {
        let Value::Object(map) = value else {
            return Err(ConfigError::invalid("config", kind(value), "a model's configuration is a JSON object"));
        };
        let fields = Fields { map };
        let (family, read) = match fields.str("model_type")? {
            "gpt2" => (Family::Gpt2, gpt2(&fields)),
            "llama" => (Family::Llama, llama(&fields, Family::Llama)),
            "qwen2" => (Family::Qwen2, llama(&fields, Family::Qwen2)),
            other => {
                return Err(ConfigError::invalid("model_type", other, "SmallMind runs gpt2, llama and qwen2"));
            }
        };
        let checked = read.and_then(|config| config.check().map(|()| config));
        checked.map_err(|error| error.in_terms_of(family))
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

fn gpt2(f: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let (d_model, heads) = (f.size("n_embd")?, f.size("n_head")?);
    if heads == 0 || !d_model.is_multiple_of(heads) {
        return Err(heads_must_divide(heads, d_model));
    }
    let gelu = match f.optional("activation_function", Fields::as_str)?.unwrap_or("gelu_new") {
        "gelu" => Gelu::Exact,
        "gelu_new" | "gelu_pytorch_tanh" => Gelu::Tanh,
        other => return Err(ConfigError::invalid("activation_function", other, "gelu and gelu_new are supported")),
    };
    for (key, usual) in [("scale_attn_by_inverse_layer_idx", false), ("scale_attn_weights", true)] {
        if f.flag(key, usual)? != usual {
            return Err(ConfigError::invalid(key, !usual, "only the scale 1/√head_dim is supported"));
        }
    }
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
        rope: RopeConfig { theta: 10_000.0, scaling: None },
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
    let act = f.optional("hidden_act", Fields::as_str)?.unwrap_or("silu");
    if act != "silu" {
        return Err(ConfigError::invalid("hidden_act", act, "only silu is supported"));
    }
    for (key, usual) in [("attention_bias", false), ("mlp_bias", false), ("use_sliding_window", false)] {
        if f.flag(key, usual)? != usual {
            return Err(ConfigError::invalid(key, !usual, "such a model is not supported"));
        }
    }
    Ok(ModelConfig {
        family,
        vocab_size: f.size("vocab_size")?,
        context: f.size("max_position_embeddings")?,
        d_model,
        layers: f.size("num_hidden_layers")?,
        heads,
        kv_heads: f.optional("num_key_value_heads", Fields::as_size)?.unwrap_or(heads),
        head_dim,
        d_ff: f.size("intermediate_size")?,
        norm_eps: f.number("rms_norm_eps", 1e-6)? as f32,
        head: f.head(false)?,
        biases: Biases::Absent,
        gelu: Gelu::Exact,
        rope: rope(f)?,
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

/// Older files hold `rope_theta` and `rope_scaling`, newer ones `rope_parameters` with both in it.
fn rope(f: &Fields<'_>) -> Result<RopeConfig, ConfigError> {
    let parameters = f.optional("rope_parameters", Fields::as_object)?;
    let scaling = parameters.or(f.optional("rope_scaling", Fields::as_object)?);
    let inner = parameters.map(|map| Fields { map });
    let inner_theta = inner.as_ref().map(|p| p.number("rope_theta", f64::NAN)).transpose()?.filter(|t| !t.is_nan());
    let theta = inner_theta.map_or_else(|| f.number("rope_theta", 10_000.0), Ok)?;
    let Some(map) = scaling else { return Ok(RopeConfig { theta, scaling: None }) };
    let s = Fields { map };
    let old_name = s.optional("type", Fields::as_str)?;
    match s.optional("rope_type", Fields::as_str)?.or(old_name).unwrap_or("default") {
        "default" => Ok(RopeConfig { theta, scaling: None }),
        "llama3" => {
            let scaling = RopeScaling {
                factor: s.positive("factor")?,
                low_freq_factor: s.positive("low_freq_factor")?,
                high_freq_factor: s.positive("high_freq_factor")?,
                original_max_position: s.size("original_max_position_embeddings")?,
            };
            if scaling.high_freq_factor <= scaling.low_freq_factor || scaling.original_max_position == 0 {
                let got = scaling.high_freq_factor;
                return Err(ConfigError::invalid("high_freq_factor", got, "it must exceed low_freq_factor"));
            }
            Ok(RopeConfig { theta, scaling: Some(scaling) })
        }
        other => Err(ConfigError::invalid("rope_scaling", other, "default and llama3 are supported")),
    }
}

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

/// The fields of a JSON object; `null` is as good as absent.
struct Fields<'a> {
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn optional<T>(&self, key: &str, read: fn(&'a Value) -> Result<T, &'static str>) -> Result<Option<T>, ConfigError> {
        let wrong =
            |value: &Value, expected| ConfigError::Type { path: None, key: key.to_owned(), expected, got: kind(value) };
        self.get(key).map(|value| read(value).map_err(|expected| wrong(value, expected))).transpose()
    }

    fn required<T>(&self, key: &str, read: fn(&'a Value) -> Result<T, &'static str>) -> Result<T, ConfigError> {
        self.optional(key, read)?.ok_or_else(|| ConfigError::Missing { path: None, key: key.to_owned() })
    }

    fn as_str(value: &'a Value) -> Result<&'a str, &'static str> {
        value.as_str().ok_or("a string")
    }

    fn as_size(value: &'a Value) -> Result<usize, &'static str> {
        value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or("a whole number, not negative")
    }

    fn as_id(value: &'a Value) -> Result<u32, &'static str> {
        value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or("a token id")
    }

    fn as_number(value: &'a Value) -> Result<f64, &'static str> {
        value.as_f64().filter(|x| x.is_finite()).ok_or("a number")
    }

    fn as_flag(value: &'a Value) -> Result<bool, &'static str> {
        value.as_bool().ok_or("true or false")
    }

    fn as_object(value: &'a Value) -> Result<&'a Map<String, Value>, &'static str> {
        value.as_object().ok_or("an object")
    }

    fn str(&self, key: &str) -> Result<&'a str, ConfigError> {
        self.required(key, Self::as_str)
    }

    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.required(key, Self::as_size)
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.optional(key, Self::as_number)?.unwrap_or(default))
    }

    fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        let x = self.required(key, Self::as_number)?;
        if x > 0.0 { Ok(x) } else { Err(ConfigError::invalid(key, x, "it must be positive")) }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.optional(key, Self::as_flag)?.unwrap_or(default))
    }

    fn head(&self, tied: bool) -> Result<Head, ConfigError> {
        Ok(if self.flag("tie_word_embeddings", tied)? { Head::Tied } else { Head::Untied })
    }

    /// One id or a list of them.
    fn ids(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        match self.get(key) {
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
