//! The tensors of a LLaMA or Qwen2; its queries, keys and values are separate matrices, and so are its gate and up.

use super::TensorSlot;
use crate::ModelConfig;

pub(super) fn slots(c: &ModelConfig) -> Vec<TensorSlot> {
    let mut slots = vec![
        TensorSlot::matrix("model.embed_tokens.weight".into(), "embed.tokens.weight".into(), c.vocab_size, c.d_model),
        TensorSlot::vector("model.norm.weight".into(), "norm.weight".into(), c.d_model),
    ];
    let (q, kv) = (c.attention_heads().q_cols(), c.attention_heads().kv_cols());
    for layer in 0..c.layers {
        let name = |s: &str| format!("model.layers.{layer}.{s}");
        let param = |s: &str| format!("blocks.{layer}.{s}");
        // File name, parameter, its first row, rows, columns, bias.
        for (file, target, first, rows, cols, bias) in [
            ("self_attn.q_proj", "attn.qkv", 0, q, c.d_model, c.biases.qkv),
            ("self_attn.k_proj", "attn.qkv", q, kv, c.d_model, c.biases.qkv),
            ("self_attn.v_proj", "attn.qkv", q + kv, kv, c.d_model, c.biases.qkv),
            ("self_attn.o_proj", "attn.out", 0, c.d_model, q, c.biases.attn_out),
            ("mlp.gate_proj", "mlp.gate_up", 0, c.d_ff, c.d_model, c.biases.mlp),
            ("mlp.up_proj", "mlp.gate_up", c.d_ff, c.d_ff, c.d_model, c.biases.mlp),
            ("mlp.down_proj", "mlp.down", 0, c.d_model, c.d_ff, c.biases.mlp),
        ] {
            let (file_weight, weight) = (name(&format!("{file}.weight")), param(&format!("{target}.weight")));
            let part = first..first + rows;
            slots.push(TensorSlot { part: part.clone(), ..TensorSlot::matrix(file_weight, weight, rows, cols) });
            if bias {
                let (file_bias, bias) = (name(&format!("{file}.bias")), param(&format!("{target}.bias")));
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
