//! The `config.json` of a GPT-2.

use serde_json::{Value, json};
use smallmind_graph::op::Gelu;

use super::json::{activation_name, short};
use super::{Biases, ConfigError, DropoutConfig, Fields, Mlp, ModelConfig, NormKind, Positions};

/// The names of fields in [`ModelConfig::check`], each with its key.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("context", "n_positions"),
    ("d_model", "n_embd"),
    ("layers", "n_layer"),
    ("heads", "n_head"),
    ("d_ff", "n_inner"),
    ("norm_eps", "layer_norm_epsilon"),
    ("init_std", "initializer_range"),
    ("dropout (embedding)", "embd_pdrop"),
    ("dropout (attention)", "attn_pdrop"),
    ("dropout (residual)", "resid_pdrop"),
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
];

pub(super) fn read(f: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let (d_model, heads) = (f.size("n_embd")?, f.size("n_head")?);
    if heads == 0 || !d_model.is_multiple_of(heads) {
        return Err(ConfigError::heads_must_divide(heads, d_model));
    }
    let gelu = match f.or("activation_function", Fields::as_str, "gelu_new")? {
        "gelu" => Gelu::Exact,
        "gelu_new" | "gelu_pytorch_tanh" => Gelu::Tanh,
        other => return Err(ConfigError::invalid("activation_function", other, "gelu and gelu_new are supported")),
    };
    Ok(ModelConfig {
        vocab_size: f.size("vocab_size")?,
        context: f.size("n_positions")?,
        d_model,
        layers: f.size("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: d_model / heads,
        d_ff: f.optional("n_inner", Fields::as_size)?.unwrap_or(d_model.saturating_mul(4)),
        positions: Positions::Learned,
        norm_eps: f.number("layer_norm_epsilon", 1e-5)? as f32,
        head: f.head(true)?,
        norm: NormKind::LayerNorm { bias: f.flag("bias", true)? },
        biases: if f.flag("bias", true)? { Biases::ALL } else { Biases::NONE },
        mlp: Mlp::Gelu(gelu),
        dropout: DropoutConfig {
            embedding: f.number("embd_pdrop", 0.1)? as f32,
            attention: f.number("attn_pdrop", 0.1)? as f32,
            residual: f.number("resid_pdrop", 0.1)? as f32,
        },
        init_std: f.number("initializer_range", 0.02)? as f32,
        bos: f.optional("bos_token_id", Fields::as_id)?,
        eos: f.ids("eos_token_id")?,
        ..ModelConfig::default()
    })
}

/// The keys that only this family has, or that mean something else in others.
pub(super) fn write(c: &ModelConfig) -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": c.context,
        "n_embd": c.d_model,
        "n_layer": c.layers,
        "n_head": c.heads,
        "n_inner": c.d_ff,
        "activation_function": activation_name(c.mlp),
        "layer_norm_epsilon": short(c.norm_eps),
        "bias": c.biases == Biases::ALL,
        "embd_pdrop": short(c.dropout.embedding),
        "attn_pdrop": short(c.dropout.attention),
        "resid_pdrop": short(c.dropout.residual),
    })
}
