//! The `config.json` of a LLaMA or Qwen2.

use serde_json::{Value, json};

use super::error::kind;
use super::json::{activation_name, short};
use super::{ConfigError, DropoutConfig, Family, Fields, ModelConfig, Positions, rope};

/// The names of fields in [`ModelConfig::check`], each with its key.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("context", "max_position_embeddings"),
    ("d_model", "hidden_size"),
    ("layers", "num_hidden_layers"),
    ("heads", "num_attention_heads"),
    ("kv_heads", "num_key_value_heads"),
    ("d_ff", "intermediate_size"),
    ("norm_eps", "rms_norm_eps"),
    ("init_std", "initializer_range"),
    ("dropout (embedding)", "embd_pdrop"),
    ("dropout (attention)", "attention_dropout"),
    ("dropout (residual)", "resid_pdrop"),
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
];

pub(super) fn read(f: &Fields<'_>, family: Family) -> Result<ModelConfig, ConfigError> {
    let (d_model, heads) = (f.size("hidden_size")?, f.size("num_attention_heads")?);
    let head_dim = match f.optional("head_dim", Fields::as_size)? {
        Some(dim) => dim,
        None if heads > 0 && d_model.is_multiple_of(heads) => d_model / heads,
        None => return Err(ConfigError::heads_must_divide(heads, d_model)),
    };
    let act = f.or("hidden_act", Fields::as_str, "silu")?;
    if act != "silu" {
        return Err(ConfigError::invalid("hidden_act", act, "only silu is supported"));
    }
    let layers = f.size("num_hidden_layers")?;
    full_attention(f, layers)?;
    // The default has the norm and the MLP of the family.
    Ok(ModelConfig {
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
        biases: family.rotary_biases(),
        positions: Positions::Rope(rope::read(f)?),
        dropout: DropoutConfig {
            embedding: f.number("embd_pdrop", 0.0)? as f32,
            attention: f.number("attention_dropout", 0.0)? as f32,
            residual: f.number("resid_pdrop", 0.0)? as f32,
        },
        init_std: f.number("initializer_range", 0.02)? as f32,
        bos: f.optional("bos_token_id", Fields::as_id)?,
        eos: f.ids("eos_token_id")?,
        ..ModelConfig::default()
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
        return Err(ConfigError::invalid(KEY, f.shown(KEY), why));
    }
    Ok(())
}

/// The keys that only these families have, or that mean something else in others.
pub(super) fn write(c: &ModelConfig, family: Family) -> Value {
    let rope = c.positions.rope().unwrap_or_default();
    json!({
        "architectures": [if family == Family::Qwen2 { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" }],
        "max_position_embeddings": c.context,
        "hidden_size": c.d_model,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.d_ff,
        "hidden_act": activation_name(c.mlp),
        "rms_norm_eps": short(c.norm_eps),
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling.map(|s| json!({
            "rope_type": "llama3",
            "factor": s.factor,
            "low_freq_factor": s.low_freq_factor,
            "high_freq_factor": s.high_freq_factor,
            "original_max_position_embeddings": s.original_max_position,
        })),
        "attention_dropout": short(c.dropout.attention),
        // Only SmallMind reads it: a resumed run continues with the same dropout.
        "embd_pdrop": short(c.dropout.embedding),
        "resid_pdrop": short(c.dropout.residual),
    })
}
