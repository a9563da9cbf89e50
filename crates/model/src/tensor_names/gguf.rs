//! The tensors of GGUF files, by the names that llama.cpp gives them (`gguf-py/gguf/constants.py`). All architectures
//! name the same part alike, so the features of the model say which there are.

use super::experts::ExpertNames;
use super::{Orientation, TensorSlot, ZeroTensor, gpt2};
use crate::{Family, Head, Mlp, ModelConfig, NormKind, NormPlacement, Positions, QkNorm, Residual};

pub(super) const EMBEDDING: &str = "token_embd.weight";
pub(super) const OUTPUT_HEAD: &str = "output.weight";

/// A linear layer: name in the file, parameter, its first row, rows, columns, whether it has a bias, order.
struct Projection {
    file: &'static str,
    param: &'static str,
    first: usize,
    rows: usize,
    cols: usize,
    bias: bool,
    orientation: Orientation,
}

fn projections(c: &ModelConfig, family: Family) -> Vec<Projection> {
    let (q, kv) = (c.attention_heads().q_cols(), c.attention_heads().kv_cols());
    let (d, ff, biases) = (c.d_model, c.d_ff, c.biases);
    let of = |file, param, first, rows, cols, bias| Projection {
        file,
        param,
        first,
        rows,
        cols,
        bias,
        orientation: Orientation::Same,
    };
    let pairs = |heads| if family.is_interleaved() { Orientation::Interleaved { heads } } else { Orientation::Same };
    let mut all = if matches!(family, Family::Gpt2 | Family::GptNeoX | Family::Phi3) {
        vec![of("attn_qkv", "attn.qkv", 0, q + 2 * kv, d, biases.qkv)]
    } else {
        vec![
            Projection { orientation: pairs(c.heads), ..of("attn_q", "attn.qkv", 0, q, d, biases.qkv) },
            Projection { orientation: pairs(c.kv_heads), ..of("attn_k", "attn.qkv", q, kv, d, biases.qkv) },
            of("attn_v", "attn.qkv", q + kv, kv, d, biases.qkv),
        ]
    };
    all.push(of("attn_output", "attn.out", 0, d, q, biases.attn_out));
    if c.experts.is_some() {
        return all;
    }
    match c.mlp {
        Mlp::Gelu(_) => all.push(of("ffn_up", "mlp.up", 0, ff, d, biases.mlp)),
        Mlp::SwiGlu | Mlp::GeGlu(_) if family == Family::Phi3 => {
            all.push(of("ffn_up", "mlp.gate_up", 0, 2 * ff, d, biases.mlp));
        }
        Mlp::SwiGlu | Mlp::GeGlu(_) => {
            all.push(of("ffn_gate", "mlp.gate_up", 0, ff, d, biases.mlp));
            all.push(of("ffn_up", "mlp.gate_up", ff, ff, d, biases.mlp));
        }
    }
    all.push(of("ffn_down", "mlp.down", 0, d, ff, biases.mlp));
    all
}

/// File name and parameter of the norms of a block.
fn norms(c: &ModelConfig) -> Vec<(&'static str, &'static str)> {
    let before = [("attn_norm", "attn.norm"), ("ffn_norm", "mlp.norm")];
    let after = [("post_attention_norm", "attn.post_norm"), ("post_ffw_norm", "mlp.post_norm")];
    let shared = c.residual == Residual::Parallel { shared_norm: true };
    let all = match c.norm_placement {
        NormPlacement::Before => before.to_vec(),
        NormPlacement::After => after.to_vec(),
        NormPlacement::BeforeAndAfter => [before, after].concat(),
    };
    all.into_iter().filter(|(_, param)| !(shared && *param == "mlp.norm")).collect()
}

/// Weight and, if there is one, bias of a norm of the residual stream.
fn norm(c: &ModelConfig, file: &str, param: &str) -> impl Iterator<Item = TensorSlot> + use<> {
    let bias = c.norm == NormKind::LayerNorm { bias: true };
    let slot = |kind, d| TensorSlot::vector(format!("{file}.{kind}"), format!("{param}.{kind}"), d);
    [Some(slot("weight", c.d_model)), bias.then(|| slot("bias", c.d_model))].into_iter().flatten()
}

pub(super) fn slots(c: &ModelConfig, family: Family) -> Vec<TensorSlot> {
    let mut slots = vec![TensorSlot::matrix(EMBEDDING.into(), "embed.tokens.weight".into(), c.vocab_size, c.d_model)];
    if c.positions == Positions::Learned {
        let (name, param) = ("position_embd.weight".into(), "embed.positions.weight".into());
        slots.push(TensorSlot::matrix(name, param, c.context, c.d_model));
    }
    slots.extend(norm(c, "output_norm", "norm"));
    for layer in 0..c.layers {
        let name = |s: &str| format!("blk.{layer}.{s}");
        let param = |s: &str| format!("blocks.{layer}.{s}");
        for (file, target) in norms(c) {
            slots.extend(norm(c, &name(file), &param(target)));
        }
        for p in projections(c, family) {
            let (weight, part) = (format!("{}.weight", p.param), p.first..p.first + p.rows);
            let matrix = TensorSlot::matrix(name(&format!("{}.weight", p.file)), param(&weight), p.rows, p.cols);
            slots.push(TensorSlot { part: part.clone(), orientation: p.orientation, ..matrix });
            if p.bias {
                let (file, bias) = (name(&format!("{}.bias", p.file)), param(&format!("{}.bias", p.param)));
                let vector = TensorSlot::vector(file, bias, p.rows);
                slots.push(TensorSlot { part, orientation: p.orientation, ..vector });
            }
        }
        if c.experts.is_some() {
            slots.extend(ExpertNames::Gguf.slots(c, &name, &param));
        }
        if let Some(kind) = c.qk_norm {
            let (q, kv) = (c.attention_heads().q_cols(), c.attention_heads().kv_cols());
            let [q, k] = if kind == QkNorm::Heads { [c.head_dim; 2] } else { [q, kv] };
            for (file, target, len) in [("attn_q_norm", "q_norm", q), ("attn_k_norm", "k_norm", k)] {
                let (file, target) = (format!("{file}.weight"), format!("attn.{target}.weight"));
                slots.push(TensorSlot::vector(name(&file), param(&target), len));
            }
        }
    }
    if c.head == Head::Untied {
        slots.push(TensorSlot::matrix(OUTPUT_HEAD.into(), "head.weight".into(), c.vocab_size, c.d_model));
    }
    slots
}

/// Biases of zeros for a GPT-2 without biases: other tools require them.
pub(super) fn zeros(c: &ModelConfig) -> Vec<ZeroTensor> {
    const PARTS: [(&str, &str); 6] = [
        ("ln_1", "attn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("ln_2", "ffn_norm"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ];
    let named = |zero: ZeroTensor| {
        let bare = zero.name.trim_start_matches("transformer.").trim_end_matches(".bias");
        let name = match bare.strip_prefix("h.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => {
                let part = PARTS.iter().find(|(from, _)| *from == part).map_or(part, |(_, to)| *to);
                format!("blk.{layer}.{part}.bias")
            }
            None => "output_norm.bias".to_owned(),
        };
        ZeroTensor { name, ..zero }
    };
    gpt2::zeros(c).into_iter().map(named).collect()
}
