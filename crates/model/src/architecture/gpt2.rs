//! GPT-2: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), pre-norm, learned positions.
//! <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>

use smallmind_graph::op::{Index, Norm};
use smallmind_graph::{GraphBuilder, GraphError, Op, ParamId, ValueId};

use super::{Orientation, Purpose, TensorSlot, Trunk, ZeroTensor, attention, dropout, matrix, residual_matrix, vector};
use crate::{Biases, ModelConfig};

/// The model up to and including the last norm.
pub(super) fn trunk(b: &mut GraphBuilder, c: &ModelConfig, purpose: Purpose) -> Result<Trunk, GraphError> {
    let (embedding, mut x) = b.scope("embed", |b| {
        let table = b.param("tokens.weight", matrix(c, c.vocab_size, c.d_model))?;
        let positions = b.param("positions.weight", matrix(c, c.context, c.d_model))?;
        let t = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
        let p = b.value_of(Op::Embedding { table: positions, index: Index::Positions }, &[])?;
        let sum = b.value_of(Op::Add, &[t, p])?;
        Ok::<_, GraphError>((table, dropout(b, purpose, c.dropout.embedding, sum)?))
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
        let qkv = b.scope("qkv", |b| linear(b, c, y, matrix(c, 3 * c.d_model, c.d_model)))?;
        let a = attention(b, c, purpose, layer, qkv)?;
        let out = b.scope("out", |b| linear(b, c, a, residual_matrix(c, c.d_model, c.d_model)))?;
        dropout(b, purpose, c.dropout.residual, out)
    })?;
    let x = b.scope("attn", |b| b.value_of(Op::Add, &[x, attended]))?;
    let fed = b.scope("mlp", |b| {
        let y = b.scope("norm", |b| norm(b, c, x))?;
        let up = b.scope("up", |b| linear(b, c, y, matrix(c, c.d_ff, c.d_model)))?;
        let a = b.value_of(Op::Gelu(c.gelu), &[up])?;
        let down = b.scope("down", |b| linear(b, c, a, residual_matrix(c, c.d_model, c.d_ff)))?;
        dropout(b, purpose, c.dropout.residual, down)
    })?;
    b.scope("mlp", |b| b.value_of(Op::Add, &[x, fed]))
}

fn bias(b: &mut GraphBuilder, c: &ModelConfig, len: usize) -> Result<Option<ParamId>, GraphError> {
    match c.biases {
        Biases::Present => b.param("bias", vector(len, 0.0)).map(Some),
        Biases::Absent => Ok(None),
    }
}

fn norm(b: &mut GraphBuilder, c: &ModelConfig, x: ValueId) -> Result<ValueId, GraphError> {
    let weight = b.param("weight", vector(c.d_model, 1.0))?;
    let bias = bias(b, c, c.d_model)?;
    b.value_of(Op::Norm(Norm::Layer { weight, bias, eps: c.norm_eps }), &[x])
}

fn linear(
    b: &mut GraphBuilder,
    c: &ModelConfig,
    x: ValueId,
    spec: smallmind_graph::ParamSpec,
) -> Result<ValueId, GraphError> {
    let rows = spec.rows;
    let weight = b.param("weight", spec)?;
    let bias = bias(b, c, rows)?;
    b.value_of(Op::Linear { weight, bias }, &[x])
}

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

/// Hugging Face's names; its linear layers are `[in, out]`.
pub(super) fn tensor_slots(c: &ModelConfig) -> Vec<TensorSlot> {
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
    if c.biases == Biases::Present {
        let biases = biases(c).into_iter().map(|(file, param, len)| TensorSlot::vector(name(&file), param, len));
        slots.extend(biases);
    }
    slots
}

/// File name, parameter name and length of every bias.
fn biases(c: &ModelConfig) -> Vec<(String, String, usize)> {
    let mut all = vec![("ln_f.bias".to_owned(), "norm.bias".to_owned(), c.d_model)];
    for layer in 0..c.layers {
        for (file, param, rows, _) in parts(c) {
            all.push((format!("h.{layer}.{file}.bias"), format!("blocks.{layer}.{param}.bias"), rows));
        }
    }
    all
}

/// Other tools know no GPT-2 without biases: to them it is one whose biases are zero.
pub(super) fn zero_tensors(c: &ModelConfig) -> Vec<ZeroTensor> {
    match c.biases {
        Biases::Present => vec![],
        Biases::Absent => {
            let zero = |(file, _, len)| ZeroTensor { name: format!("transformer.{file}"), len };
            biases(c).into_iter().map(zero).collect()
        }
    }
}
