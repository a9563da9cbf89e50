//! The `config.json` of a GPT-NeoX, such as Pythia.

use serde_json::{Value, json};
use smallmind_graph::op::Gelu;

use super::json::{activation_name, short};
use super::rope::{self, RopeKeys};
use super::{
    Biases, ConfigError, DropoutConfig, Family, Fields, Mlp, ModelConfig, NormKind, Positions, Residual, RopeConfig,
};

/// The names of [`ModelConfig::check`] and the keys that hold the same.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("context", "max_position_embeddings"),
    ("d_model", "hidden_size"),
    ("layers", "num_hidden_layers"),
    ("heads", "num_attention_heads"),
    ("d_ff", "intermediate_size"),
    ("norm_eps", "layer_norm_eps"),
    ("rope_theta", "rotary_emb_base"),
    ("rope_dim", "rotary_pct"),
    ("init_std", "initializer_range"),
    ("dropout (embedding)", "embd_pdrop"),
    ("dropout (attention)", "attention_dropout"),
    ("dropout (residual)", "resid_pdrop"),
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
];

pub(super) fn read(f: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let (d_model, heads) = (f.size("hidden_size")?, f.size("num_attention_heads")?);
    if heads == 0 || !d_model.is_multiple_of(heads) {
        return Err(ConfigError::heads_must_divide(heads, d_model));
    }
    let gelu = match f.or("hidden_act", Fields::as_str, "gelu")? {
        "gelu" => Gelu::Exact,
        "gelu_new" | "gelu_pytorch_tanh" => Gelu::Tanh,
        other => return Err(ConfigError::invalid("hidden_act", other, "gelu and gelu_new are supported")),
    };
    let (head_dim, context) = (d_model / heads, f.size("max_position_embeddings")?);
    let keys = RopeKeys {
        family: Family::GptNeoX,
        theta: "rotary_emb_base",
        default_theta: RopeConfig::default().theta,
        partial: Some(("rotary_pct", 0.25)),
        head_dim,
        context,
        original: None,
    };
    let attention = f.flag("attention_bias", true)?;
    let hidden_dropout = f.number("hidden_dropout", 0.0)?;
    let parallel = f.flag("use_parallel_residual", true)?;
    Ok(ModelConfig {
        vocab_size: f.size("vocab_size")?,
        context,
        d_model,
        layers: f.size("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim,
        d_ff: f.size("intermediate_size")?,
        positions: Positions::Rope(rope::read(f, &keys)?),
        norm: NormKind::LayerNorm { bias: true },
        norm_eps: f.number("layer_norm_eps", 1e-5)? as f32,
        residual: if parallel { Residual::Parallel { shared_norm: false } } else { Residual::Sequential },
        mlp: Mlp::Gelu(gelu),
        biases: Biases { qkv: attention, attn_out: attention, mlp: true },
        head: f.head(false)?,
        dropout: DropoutConfig {
            embedding: f.number("embd_pdrop", hidden_dropout)? as f32,
            attention: f.number("attention_dropout", 0.0)? as f32,
            residual: f.number("resid_pdrop", hidden_dropout)? as f32,
        },
        init_std: f.number("initializer_range", 0.02)? as f32,
        bos: f.optional("bos_token_id", Fields::as_id)?,
        eos: f.ids("eos_token_id")?,
        ..ModelConfig::default()
    })
}

/// The keys that not all families have, or that mean something else there.
pub(super) fn write(c: &ModelConfig) -> Value {
    let rope = c.positions.rope().cloned().unwrap_or_default();
    json!({
        "architectures": ["GPTNeoXForCausalLM"],
        "max_position_embeddings": c.context,
        "hidden_size": c.d_model,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "intermediate_size": c.d_ff,
        "hidden_act": activation_name(c.mlp),
        "layer_norm_eps": short(c.norm_eps),
        "rotary_emb_base": rope.theta,
        "rotary_pct": rope::part(&rope, c.head_dim),
        "rope_scaling": rope::write(rope.scaling.as_ref()),
        "use_parallel_residual": c.residual != Residual::Sequential,
        "attention_bias": c.biases.qkv,
        "attention_dropout": short(c.dropout.attention),
        "hidden_dropout": short(c.dropout.residual),
        // For SmallMind only: a resumed training drops as much as before.
        "embd_pdrop": short(c.dropout.embedding),
        "resid_pdrop": short(c.dropout.residual),
    })
}
