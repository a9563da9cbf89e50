//! The tensors of a GPT-2; its linear layers are `[in, out]`.

use super::{Orientation, TensorSlot, ZeroTensor};
use crate::{Biases, ModelConfig};

/// The parts of a block: file name, parameter name, rows and columns of the weight; norms have no columns.
fn parts(c: &ModelConfig) -> [(&'static str, &'static str, usize, usize); 6] {
    [
        ("ln_1", "attn.norm", c.d_model, 0),
        ("attn.c_attn", "attn.qkv", 3 * c.d_model, c.d_model),
        ("attn.c_proj", "attn.out", c.d_model, c.d_model),
        ("ln_2", "mlp.norm", c.d_model, 0),
        ("mlp.c_fc", "mlp.up", c.d_ff, c.d_model),
        ("mlp.c_proj", "mlp.down", c.d_model, c.d_ff),
    ]
}

pub(super) fn slots(c: &ModelConfig) -> Vec<TensorSlot> {
    let name = |s: &str| format!("transformer.{s}");
    let mut slots = vec![
        TensorSlot::matrix(name("wte.weight"), "embed.tokens.weight".into(), c.vocab_size, c.d_model),
        TensorSlot::matrix(name("wpe.weight"), "embed.positions.weight".into(), c.context, c.d_model),
        TensorSlot::vector(name("ln_f.weight"), "norm.weight".into(), c.d_model),
    ];
    for layer in 0..c.layers {
        for (file, param, rows, cols) in parts(c) {
            let (name, param) = (name(&format!("h.{layer}.{file}.weight")), format!("blocks.{layer}.{param}.weight"));
            slots.push(match cols {
                0 => TensorSlot::vector(name, param, rows),
                _ => TensorSlot {
                    orientation: Orientation::Transposed,
                    shape: vec![cols, rows],
                    ..TensorSlot::matrix(name, param, rows, cols)
                },
            });
        }
    }
    if c.biases == Biases::ALL {
        let biases = biases(c).into_iter().map(|(file, param, len)| TensorSlot::vector(name(&file), param, len));
        slots.extend(biases);
    }
    slots
}

/// File name, parameter name and length of every bias that a GPT-2 can have.
fn biases(c: &ModelConfig) -> Vec<(String, String, usize)> {
    let mut all = vec![("ln_f.bias".to_owned(), "norm.bias".to_owned(), c.d_model)];
    for layer in 0..c.layers {
        for (file, param, rows, _) in parts(c) {
            all.push((format!("h.{layer}.{file}.bias"), format!("blocks.{layer}.{param}.bias"), rows));
        }
    }
    all
}

/// Biases of zeros for a GPT-2 without biases: other tools require them.
pub(super) fn zeros(c: &ModelConfig) -> Vec<ZeroTensor> {
    if c.biases == Biases::ALL {
        return vec![];
    }
    let zero = |(file, _, len)| ZeroTensor { name: format!("transformer.{file}"), len };
    biases(c).into_iter().map(zero).collect()
}
