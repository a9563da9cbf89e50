//! LLaMA: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023), <https://arxiv.org/abs/2302.13971>; and
//! Qwen2, which adds biases to queries, keys and values: Yang et al. (2024), <https://arxiv.org/abs/2407.10671>.

use smallmind_graph::op::{Direction, Index, Norm, RopeSpec};
use smallmind_graph::{GraphBuilder, GraphError, Op, ParamSpec, ValueId};

use super::{Purpose, TensorSlot, Trunk, attention, dropout, heads, matrix, residual_matrix, vector};
use crate::{Family, ModelConfig};

/// The model up to and including the last norm.
pub(super) fn trunk(b: &mut GraphBuilder, c: &ModelConfig, purpose: Purpose) -> Result<Trunk, GraphError> {
    let (embedding, mut x) = b.scope("embed", |b| {
        let table = b.param("tokens.weight", matrix(c, c.vocab_size, c.d_model))?;
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
        Ok::<_, GraphError>((table, dropout(b, purpose, c.dropout.embedding, x)?))
    })?;
    for layer in 0..c.layers {
        x = b.scope(format!("blocks.{layer}"), |b| block(b, c, purpose, layer, x))?;
    }
    let hidden = b.scope("norm", |b| norm(b, c, x))?;
    Ok(Trunk { hidden, embedding })
}

fn block(
    b: &mut GraphBuilder,
    c: &ModelConfig,
    purpose: Purpose,
    layer: usize,
    x: ValueId,
) -> Result<ValueId, GraphError> {
    let attended = b.scope("attn", |b| {
        let y = b.scope("norm", |b| norm(b, c, x))?;
        let qkv = b.scope("qkv", |b| {
            let cols = heads(c).qkv_cols();
            let weight = b.param("weight", matrix(c, cols, c.d_model))?;
            let bias = match c.family {
                Family::Qwen2 => Some(b.param("bias", vector(cols, 0.0))?),
                Family::Llama | Family::Gpt2 => None,
            };
            b.value_of(Op::Linear { weight, bias }, &[y])
        })?;
        let rope = RopeSpec { head_dim: c.head_dim, theta: c.rope.theta, scaling: c.rope.scaling };
        let turn = Op::Rope { rope, heads: c.heads + c.kv_heads, direction: Direction::Forward };
        let qkv = b.value_of(turn, &[qkv])?;
        let a = attention(b, c, purpose, layer, qkv)?;
        let out = b.scope("out", |b| linear(b, a, residual_matrix(c, c.d_model, heads(c).q_cols())))?;
        dropout(b, purpose, c.dropout.residual, out)
    })?;
    let x = b.scope("attn", |b| b.value_of(Op::Add, &[x, attended]))?;
    let fed = b.scope("mlp", |b| {
        let y = b.scope("norm", |b| norm(b, c, x))?;
        let gate_up = b.scope("gate_up", |b| linear(b, y, matrix(c, 2 * c.d_ff, c.d_model)))?;
        let a = b.value_of(Op::SwiGlu, &[gate_up])?;
        let down = b.scope("down", |b| linear(b, a, residual_matrix(c, c.d_model, c.d_ff)))?;
        dropout(b, purpose, c.dropout.residual, down)
    })?;
    b.scope("mlp", |b| b.value_of(Op::Add, &[x, fed]))
}

fn norm(b: &mut GraphBuilder, c: &ModelConfig, x: ValueId) -> Result<ValueId, GraphError> {
    let weight = b.param("weight", vector(c.d_model, 1.0))?;
    b.value_of(Op::Norm(Norm::Rms { weight, eps: c.norm_eps }), &[x])
}

fn linear(b: &mut GraphBuilder, x: ValueId, spec: ParamSpec) -> Result<ValueId, GraphError> {
    let weight = b.param("weight", spec)?;
    b.value_of(Op::Linear { weight, bias: None }, &[x])
}

/// Hugging Face's names; its queries, keys and values, and its gate and up, are matrices of their own.
pub(super) fn tensor_slots(c: &ModelConfig) -> Vec<TensorSlot> {
    let mut slots = vec![
        TensorSlot::matrix("model.embed_tokens.weight".into(), "embed.tokens.weight".into(), c.vocab_size, c.d_model),
        TensorSlot::vector("model.norm.weight".into(), "norm.weight".into(), c.d_model),
    ];
    let (q, kv) = (heads(c).q_cols(), heads(c).kv_cols());
    for layer in 0..c.layers {
        let name = |s: &str| format!("model.layers.{layer}.{s}");
        let param = |s: &str| format!("blocks.{layer}.{s}");
        // File name, parameter, its first row, rows, columns.
        for (file, target, first, rows, cols) in [
            ("self_attn.q_proj", "attn.qkv", 0, q, c.d_model),
            ("self_attn.k_proj", "attn.qkv", q, kv, c.d_model),
            ("self_attn.v_proj", "attn.qkv", q + kv, kv, c.d_model),
            ("self_attn.o_proj", "attn.out", 0, c.d_model, q),
            ("mlp.gate_proj", "mlp.gate_up", 0, c.d_ff, c.d_model),
            ("mlp.up_proj", "mlp.gate_up", c.d_ff, c.d_ff, c.d_model),
            ("mlp.down_proj", "mlp.down", 0, c.d_model, c.d_ff),
        ] {
            let (file_weight, weight) = (name(&format!("{file}.weight")), param(&format!("{target}.weight")));
            let part = first..first + rows;
            slots.push(TensorSlot { part: part.clone(), ..TensorSlot::matrix(file_weight, weight, rows, cols) });
            if c.family == Family::Qwen2 && target == "attn.qkv" {
                let (file_bias, bias) = (name(&format!("{file}.bias")), param("attn.qkv.bias"));
                slots.push(TensorSlot { part, ..TensorSlot::vector(file_bias, bias, rows) });
            }
        }
        for (file, target) in [("input_layernorm", "attn.norm"), ("post_attention_layernorm", "mlp.norm")] {
            let (file, target) = (name(&format!("{file}.weight")), param(&format!("{target}.weight")));
            slots.push(TensorSlot::vector(file, target, c.d_model));
        }
    }
    slots
}
