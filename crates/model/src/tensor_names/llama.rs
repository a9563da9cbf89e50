//! The tensors of the families that name them as LLaMA does; queries, keys and values, and gate and up, are matrices of
//! their own, or one each.

use super::TensorSlot;
use super::experts::ExpertNames;
use crate::{ModelConfig, NormKind, NormPlacement, QkNorm, Residual};

/// How the projections lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Projections {
    /// Queries, keys, values, gate and up by themselves.
    Apart,
    /// `qkv_proj` and `gate_up_proj`, their parts one below the other as in the parameters.
    Fused,
}

/// File name, parameter, its first row, rows, columns, bias.
type Projection = (&'static str, &'static str, usize, usize, usize, bool);

fn projections(c: &ModelConfig, lie: Projections) -> Vec<Projection> {
    let (q, kv) = (c.attention_heads().q_cols(), c.attention_heads().kv_cols());
    let (d, ff, biases) = (c.d_model, c.d_ff, c.biases);
    let apart = [
        ("self_attn.q_proj", "attn.qkv", 0, q, d, biases.qkv),
        ("self_attn.k_proj", "attn.qkv", q, kv, d, biases.qkv),
        ("self_attn.v_proj", "attn.qkv", q + kv, kv, d, biases.qkv),
        ("mlp.gate_proj", "mlp.gate_up", 0, ff, d, biases.mlp),
        ("mlp.up_proj", "mlp.gate_up", ff, ff, d, biases.mlp),
    ];
    let fused = [
        ("self_attn.qkv_proj", "attn.qkv", 0, q + 2 * kv, d, biases.qkv),
        ("mlp.gate_up_proj", "mlp.gate_up", 0, 2 * ff, d, biases.mlp),
    ];
    let both = [
        ("self_attn.o_proj", "attn.out", 0, d, q, biases.attn_out),
        ("mlp.down_proj", "mlp.down", 0, d, ff, biases.mlp),
    ];
    let without_mlp = |p: &Projection| c.experts.is_none() || !p.0.starts_with("mlp.");
    let both = both.into_iter().filter(without_mlp);
    let apart = apart.into_iter().filter(without_mlp);
    match lie {
        Projections::Apart => apart.chain(both).collect(),
        Projections::Fused => fused.into_iter().chain(both).collect(),
    }
}

/// File name and parameter of the norms of a block.
fn norms(c: &ModelConfig) -> Vec<(&'static str, &'static str)> {
    let all = match c.norm_placement {
        NormPlacement::Before => vec![("input_layernorm", "attn.norm"), ("post_attention_layernorm", "mlp.norm")],
        NormPlacement::After => {
            vec![("post_attention_layernorm", "attn.post_norm"), ("post_feedforward_layernorm", "mlp.post_norm")]
        }
        NormPlacement::BeforeAndAfter => vec![
            ("input_layernorm", "attn.norm"),
            ("post_attention_layernorm", "attn.post_norm"),
            ("pre_feedforward_layernorm", "mlp.norm"),
            ("post_feedforward_layernorm", "mlp.post_norm"),
        ],
    };
    let shared = c.residual == Residual::Parallel { shared_norm: true };
    all.into_iter().filter(|(_, param)| !(shared && *param == "mlp.norm")).collect()
}

/// Weight and, if there is one, bias of a norm of the residual stream.
fn norm(c: &ModelConfig, file: &str, param: &str) -> impl Iterator<Item = TensorSlot> + use<> {
    let bias = c.norm == NormKind::LayerNorm { bias: true };
    let slot = |kind, d| TensorSlot::vector(format!("{file}.{kind}"), format!("{param}.{kind}"), d);
    [Some(slot("weight", c.d_model)), bias.then(|| slot("bias", c.d_model))].into_iter().flatten()
}

pub(super) fn slots(c: &ModelConfig, lie: Projections, experts: Option<ExpertNames>) -> Vec<TensorSlot> {
    let mut slots = vec![TensorSlot::matrix(
        "model.embed_tokens.weight".into(),
        "embed.tokens.weight".into(),
        c.vocab_size,
        c.d_model,
    )];
    slots.extend(norm(c, "model.norm", "norm"));
    for layer in 0..c.layers {
        let name = |s: &str| format!("model.layers.{layer}.{s}");
        let param = |s: &str| format!("blocks.{layer}.{s}");
        for (file, target, first, rows, cols, bias) in projections(c, lie) {
            let (file_weight, weight) = (name(&format!("{file}.weight")), param(&format!("{target}.weight")));
            let part = first..first + rows;
            slots.push(TensorSlot { part: part.clone(), ..TensorSlot::matrix(file_weight, weight, rows, cols) });
            if bias {
                let (file_bias, bias) = (name(&format!("{file}.bias")), param(&format!("{target}.bias")));
                slots.push(TensorSlot { part, ..TensorSlot::vector(file_bias, bias, rows) });
            }
        }
        if let Some(of_experts) = experts.filter(|_| c.experts.is_some()) {
            slots.extend(of_experts.slots(c, &name, &param));
        }
        if let Some(kind) = c.qk_norm {
            let (q, kv) = (c.attention_heads().q_cols(), c.attention_heads().kv_cols());
            let [q, k] = if kind == QkNorm::Heads { [c.head_dim; 2] } else { [q, kv] };
            for (file, target, len) in [("q_norm", "q_norm", q), ("k_norm", "k_norm", k)] {
                let (file, target) = (format!("self_attn.{file}.weight"), format!("attn.{target}.weight"));
                slots.push(TensorSlot::vector(name(&file), param(&target), len));
            }
        }
        for (file, target) in norms(c) {
            slots.extend(norm(c, &name(file), &param(target)));
        }
    }
    slots
}
