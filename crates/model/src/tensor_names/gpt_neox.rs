//! The tensors of a GPT-NeoX; queries, keys and values are one matrix in which each head has its own three parts.

use super::{Orientation, TensorSlot};
use crate::ModelConfig;

/// The parts of a block: file name, parameter name, rows and columns of the weight, whether there is a bias; norms have
/// no columns.
fn parts(c: &ModelConfig) -> [(&'static str, &'static str, usize, usize, bool); 6] {
    let d = c.d_model;
    [
        ("input_layernorm", "attn.norm", d, 0, true),
        ("attention.query_key_value", "attn.qkv", 3 * d, d, c.biases.qkv),
        ("attention.dense", "attn.out", d, d, c.biases.attn_out),
        ("post_attention_layernorm", "mlp.norm", d, 0, true),
        ("mlp.dense_h_to_4h", "mlp.up", c.d_ff, d, c.biases.mlp),
        ("mlp.dense_4h_to_h", "mlp.down", d, c.d_ff, c.biases.mlp),
    ]
}

pub(super) fn slots(c: &ModelConfig) -> Vec<TensorSlot> {
    let name = |s: &str| format!("gpt_neox.{s}");
    let mut slots = vec![
        TensorSlot::matrix(name("embed_in.weight"), "embed.tokens.weight".into(), c.vocab_size, c.d_model),
        TensorSlot::vector(name("final_layer_norm.weight"), "norm.weight".into(), c.d_model),
        TensorSlot::vector(name("final_layer_norm.bias"), "norm.bias".into(), c.d_model),
    ];
    for layer in 0..c.layers {
        for (file, param, rows, cols, has_bias) in parts(c) {
            let (name, param) = (name(&format!("layers.{layer}.{file}")), format!("blocks.{layer}.{param}"));
            let (weight, bias) = (format!("{param}.weight"), format!("{param}.bias"));
            let of_heads = |slot: TensorSlot| match file {
                "attention.query_key_value" => {
                    TensorSlot { orientation: Orientation::Heads { heads: c.heads }, ..slot }
                }
                _ => slot,
            };
            slots.push(of_heads(match cols {
                0 => TensorSlot::vector(format!("{name}.weight"), weight, rows),
                _ => TensorSlot::matrix(format!("{name}.weight"), weight, rows, cols),
            }));
            if has_bias {
                slots.push(of_heads(TensorSlot::vector(format!("{name}.bias"), bias, rows)));
            }
        }
    }
    slots
}
