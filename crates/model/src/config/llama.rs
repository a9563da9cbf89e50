//! The `config.json` of a LLaMA or Qwen2.

use serde_json::{Value, json};

use super::json::{activation_name, short};
use super::{ConfigError, DropoutConfig, Family, Fields, ModelConfig, Positions, rope, windows};

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
    // The default's norm and MLP are those of the family.
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
        attention_windows: windows::read(f, family, layers)?,
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

/// The keys that no other family has, or that mean something else there.
pub(super) fn write(c: &ModelConfig, family: Family) -> Value {
    let rope = c.positions.rope().unwrap_or_default();
    let mut all = json!({
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
    });
    if let (Value::Object(all), Value::Object(windows)) = (&mut all, windows::write(&c.attention_windows, c.layers)) {
        all.extend(windows);
    }
    all
}
