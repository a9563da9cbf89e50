//! The `config.json` of the families that name their keys as LLaMA does.

use serde_json::{Map, Value, json};
use smallmind_graph::op::{Gelu, RopeScaling};

use super::error::kind;
use super::json::{activation_name, short};
use super::rope::{self, RopeKeys};
use super::{
    AttentionWindows, Biases, ConfigError, DropoutConfig, Family, Fields, Mlp, ModelConfig, NormKind, Positions,
    Residual, RopeConfig, experts, gemma, windows,
};

/// The names of fields in [`ModelConfig::check`], each with its key.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("context", "max_position_embeddings"),
    ("d_model", "hidden_size"),
    ("layers", "num_hidden_layers"),
    ("heads", "num_attention_heads"),
    ("kv_heads", "num_key_value_heads"),
    ("d_ff", "intermediate_size"),
    ("attention_windows", "sliding_window"),
    ("norm_eps", "rms_norm_eps"),
    ("rope_dim", "partial_rotary_factor"),
    ("attention_scale", "attention_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("logit_divisor", "logits_scaling"),
    ("init_std", "initializer_range"),
    ("dropout (embedding)", "embd_pdrop"),
    ("dropout (attention)", "attention_dropout"),
    ("dropout (residual)", "resid_pdrop"),
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
];

/// The names of a StableLM 2, as far as they are others.
pub(super) const STABLELM_NAMES: &[(&str, &str)] = &[("norm_eps", "layer_norm_eps")];

pub(super) fn read(f: &Fields<'_>, family: Family) -> Result<ModelConfig, ConfigError> {
    let (d_model, heads) = (f.size("hidden_size")?, f.size("num_attention_heads")?);
    let head_dim = match f.optional("head_dim", Fields::as_size)? {
        Some(dim) => dim,
        None if family == Family::Qwen3 && !f.is_null("head_dim") => 128,
        None if family.is_gemma() && !f.is_null("head_dim") => 256,
        None if heads > 0 && d_model.is_multiple_of(heads) => d_model / heads,
        None => return Err(ConfigError::heads_must_divide(heads, d_model)),
    };
    let mlp = mlp(f, family)?;
    let (layers, context) = (f.size("num_hidden_layers")?, f.size("max_position_embeddings")?);
    let attention_windows = windows::read(f, family, layers, context)?;
    let dropout = DropoutConfig {
        embedding: f.number("embd_pdrop", 0.0)? as f32,
        attention: f.number("attention_dropout", 0.0)? as f32,
        residual: f.number("resid_pdrop", 0.0)? as f32,
    };
    let config = ModelConfig {
        vocab_size: f.size("vocab_size")?,
        context,
        d_model,
        layers,
        heads,
        kv_heads: kv_heads(f, family, heads)?,
        head_dim,
        d_ff: experts::width(f, family)?,
        experts: experts::read(f, family)?,
        positions: positions(f, family, [layers, context, head_dim], &attention_windows)?,
        attention_windows,
        norm: family.norm(),
        norm_eps: norm_eps(f, family)?,
        norm_placement: family.norm_placement(),
        qk_norm: family.qk_norm(),
        head: f.head(family == Family::SmolLm3 || family.is_gemma())?,
        biases: biases(f, family)?,
        dropout,
        init_std: f.number("initializer_range", 0.02)? as f32,
        bos: f.optional("bos_token_id", Fields::as_id)?,
        eos: f.ids("eos_token_id")?,
        mlp,
        embedding_scale: family.is_gemma().then(|| (d_model as f32).sqrt()),
        ..ModelConfig::default()
    };
    match family {
        Family::Granite | Family::GraniteMoe => with_multipliers(f, config),
        Family::Gemma2 | Family::Gemma3 => gemma::with_own_keys(f, family, config),
        Family::StableLm if f.flag("use_parallel_residual", false)? => {
            Ok(ModelConfig { residual: Residual::Parallel { shared_norm: true }, ..config })
        }
        _ => Ok(config),
    }
}

/// Key and value heads. Without a key some families have a number of their own, all others as many as query heads.
fn kv_heads(f: &Fields<'_>, family: Family, heads: usize) -> Result<usize, ConfigError> {
    const KEY: &str = "num_key_value_heads";
    let default = match family {
        Family::Mistral | Family::Mixtral => 8,
        Family::Qwen3Moe | Family::SmolLm3 | Family::Gemma2 | Family::Gemma3 => 4,
        Family::Gemma => 16,
        Family::Qwen3 | Family::StableLm => 32,
        _ => heads,
    };
    let given = f.optional(KEY, Fields::as_size)?;
    Ok(given.unwrap_or(if f.is_null(KEY) { heads } else { default }))
}

fn mlp(f: &Fields<'_>, family: Family) -> Result<Mlp, ConfigError> {
    const TANH: &str = "gelu_pytorch_tanh";
    if !family.is_gemma() {
        let act = f.or("hidden_act", Fields::as_str, "silu")?;
        let wrong = || ConfigError::invalid("hidden_act", act, "only silu is supported");
        return if act == "silu" { Ok(Mlp::SwiGlu) } else { Err(wrong()) };
    }
    // The first published files say `gelu` and mean the other form; newer ones add a second key.
    for (key, supported) in [("hidden_act", &["gelu", TANH][..]), ("hidden_activation", &[TANH][..])] {
        if let Some(act) = f.optional(key, Fields::as_str)?.filter(|act| !supported.contains(act)) {
            return Err(ConfigError::invalid(key, act, format!("only {TANH} is supported")));
        }
    }
    Ok(Mlp::GeGlu(Gelu::Tanh))
}

fn norm_eps(f: &Fields<'_>, family: Family) -> Result<f32, ConfigError> {
    let (key, default) = match family {
        Family::StableLm => ("layer_norm_eps", 1e-5),
        Family::Olmo2 | Family::Phi3 | Family::Olmoe | Family::Mixtral => ("rms_norm_eps", 1e-5),
        _ => ("rms_norm_eps", 1e-6),
    };
    Ok(f.number(key, default)? as f32)
}

fn biases(f: &Fields<'_>, family: Family) -> Result<Biases, ConfigError> {
    let flag = |key, is_read: bool| if is_read { f.flag(key, false) } else { Ok(false) };
    if family == Family::StableLm {
        return Ok(Biases { qkv: f.flag("use_qkv_bias", false)?, ..Biases::NONE });
    }
    if family == Family::Qwen2 {
        return Ok(Biases::QKV);
    }
    let attention = flag("attention_bias", family.states_attention_bias())?;
    Ok(Biases { qkv: attention, attn_out: attention, mlp: flag("mlp_bias", family.states_mlp_bias())? })
}

fn positions(
    f: &Fields<'_>,
    family: Family,
    [layers, context, head_dim]: [usize; 3],
    windows: &AttentionWindows,
) -> Result<Positions, ConfigError> {
    let keys = RopeKeys {
        family,
        theta: "rope_theta",
        default_theta: match family {
            Family::SmolLm3 => 2e6,
            Family::Gemma3 | Family::Mixtral => 1e6,
            _ => RopeConfig::default().theta,
        },
        partial: match family {
            Family::StableLm => Some(("partial_rotary_factor", 0.25)),
            Family::Phi3 => Some(("partial_rotary_factor", 1.0)),
            _ => None,
        },
        head_dim,
        context,
        original: match family {
            Family::Phi3 => Some(f.or("original_max_position_embeddings", Fields::as_size, 4096)?),
            _ => None,
        },
    };
    if family == Family::Gemma3 {
        return gemma::positions(f, &keys, layers, windows);
    }
    let rope = rope::read(f, &keys)?;
    if family != Family::SmolLm3 {
        return Ok(Positions::Rope(rope));
    }
    let rotated = rotated_layers(f, layers)?;
    if rotated.iter().all(|rotated| *rotated) {
        return Ok(Positions::Rope(rope));
    }
    Ok(Positions::RopeByLayer(rotated.into_iter().map(|rotated| rotated.then(|| rope.clone())).collect()))
}

/// Whether each layer of a SmolLM3 has a rotation.
fn rotated_layers(f: &Fields<'_>, layers: usize) -> Result<Vec<bool>, ConfigError> {
    const KEY: &str = "no_rope_layers";
    let interval = f.or("no_rope_layer_interval", Fields::as_size, 4)?;
    if interval == 0 {
        return Err(ConfigError::invalid("no_rope_layer_interval", interval, "it must be positive"));
    }
    let Some(list) = f.optional(KEY, |value| value.as_array().ok_or("an array"))? else {
        super::check::layers(layers)?;
        return Ok((0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect());
    };
    if list.len() != layers {
        let why = format!("it must say of each of the {layers} layers whether it has rope");
        return Err(ConfigError::invalid(KEY, f.shown(KEY), why));
    }
    let flag = |value: &Value| match value.as_u64() {
        Some(flag @ (0 | 1)) => Ok(flag == 1),
        _ => Err(ConfigError::invalid(KEY, kind(value), "for each layer it says 1 for rope, or 0")),
    };
    list.iter().map(flag).collect()
}

fn with_multipliers(f: &Fields<'_>, config: ModelConfig) -> Result<ModelConfig, ConfigError> {
    // 1 is no multiplier; only attention has another factor without one.
    let factor = |key| Ok::<_, ConfigError>(Some(f.number(key, 1.0)? as f32).filter(|factor| *factor != 1.0));
    Ok(ModelConfig {
        attention_scale: Some(f.number("attention_multiplier", 1.0)? as f32),
        residual_scale: factor("residual_multiplier")?,
        embedding_scale: factor("embedding_multiplier")?,
        logit_divisor: factor("logits_scaling")?,
        ..config
    })
}

/// The keys that not all families have, or that mean something else there.
pub(super) fn write(c: &ModelConfig, family: Family) -> Value {
    let rope = gemma::global(c).cloned().unwrap_or_default();
    let all = json!({
        "architectures": [class(family)],
        "max_position_embeddings": c.context,
        "hidden_size": c.d_model,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "intermediate_size": c.d_ff,
        "hidden_act": activation_name(c.mlp),
        "rope_theta": rope.theta,
        "rope_scaling": rope::write(rope.scaling.as_ref()),
        "attention_dropout": short(c.dropout.attention),
        // Only SmallMind reads it: a resumed run continues with the same dropout.
        "embd_pdrop": short(c.dropout.embedding),
        "resid_pdrop": short(c.dropout.residual),
    });
    let mut map = all.as_object().cloned().unwrap_or_default();
    let eps = if c.norm == NormKind::RmsNorm { "rms_norm_eps" } else { "layer_norm_eps" };
    map.insert(eps.to_owned(), json!(short(c.norm_eps)));
    if !matches!(family, Family::StableLm | Family::Olmoe) {
        map.insert("head_dim".to_owned(), json!(c.head_dim));
    }
    if family.states_attention_bias() && c.biases.qkv {
        map.insert("attention_bias".to_owned(), json!(true));
    }
    if family.states_mlp_bias() && c.biases.mlp {
        map.insert("mlp_bias".to_owned(), json!(true));
    }
    map.extend(windows::write(c, family));
    map.extend(experts::write(c, family));
    map.extend(own(c, family, &rope));
    Value::Object(map)
}

/// The keys that only `family` has.
fn own(c: &ModelConfig, family: Family, rope: &RopeConfig) -> Map<String, Value> {
    let original = rope.scaling.as_ref().and_then(RopeScaling::original_max_position);
    // The padding token that transformers takes by default for SmolLM3 and Phi-3 is past the end of small vocabularies.
    let own = match family {
        Family::Granite | Family::GraniteMoe => json!({
            "attention_multiplier": short(c.attention_heads().scale),
            "residual_multiplier": short(c.residual_scale.unwrap_or(1.0)),
            "embedding_multiplier": short(c.embedding_scale.unwrap_or(1.0)),
            "logits_scaling": short(c.logit_divisor.unwrap_or(1.0)),
        }),
        Family::SmolLm3 => json!({
            "pad_token_id": null,
            "no_rope_layers":
                (0..c.layers).map(|layer| u8::from(c.positions.rope_of(layer).is_some())).collect::<Vec<_>>(),
        }),
        Family::StableLm => json!({
            "partial_rotary_factor": rope::part(rope, c.head_dim),
            "use_qkv_bias": c.biases.qkv,
            "use_parallel_residual": c.residual != Residual::Sequential,
        }),
        Family::Phi3 => json!({
            "partial_rotary_factor": rope::part(rope, c.head_dim),
            "original_max_position_embeddings": original.unwrap_or(c.context),
            "pad_token_id": null,
        }),
        Family::Gemma2 | Family::Gemma3 => return gemma::write(c, family),
        _ => json!({}),
    };
    own.as_object().cloned().unwrap_or_default()
}

/// transformers' name of the model.
fn class(family: Family) -> &'static str {
    match family {
        Family::Gpt2 => "GPT2LMHeadModel",
        Family::GptNeoX => "GPTNeoXForCausalLM",
        Family::Llama => "LlamaForCausalLM",
        Family::Mistral => "MistralForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Olmo2 => "Olmo2ForCausalLM",
        Family::Granite => "GraniteForCausalLM",
        Family::SmolLm3 => "SmolLM3ForCausalLM",
        Family::StableLm => "StableLmForCausalLM",
        Family::Phi3 => "Phi3ForCausalLM",
        Family::Gemma => "GemmaForCausalLM",
        Family::Qwen3Moe => "Qwen3MoeForCausalLM",
        Family::Olmoe => "OlmoeForCausalLM",
        Family::GraniteMoe => "GraniteMoeForCausalLM",
        Family::Mixtral => "MixtralForCausalLM",
        Family::Gemma2 => "Gemma2ForCausalLM",
        Family::Gemma3 => "Gemma3ForCausalLM",
    }
}
