//! The architectures: for each a builder of its graph and a map of its weights' names.

mod gpt2;
mod llama;

use std::ops::Range;

use smallmind_graph::op::{DropoutSpec, Heads};
use smallmind_graph::{
    Decay, Graph, GraphBuilder, GraphError, Init, Op, ParamId, ParamSpec, Params, ValueId, fuse, grad,
};

use crate::{Family, Head, ModelConfig};

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Loss of whole sequences, with dropout where the configuration has it.
    Training,
    /// Loss of whole sequences.
    Evaluation,
    /// Logits of whole sequences.
    Logits,
    /// Logits of sequences that go on from a key-value cache.
    Generation,
}

/// The name of the loss of each token among a graph's results: `[tokens, 1]`.
pub const LOSS: &str = "loss";
/// The name of the logits among a graph's results: `[outputs, vocab]`.
pub const LOGITS: &str = "logits";

/// The graph of a model for a purpose, fused. All graphs of one configuration declare the same parameters under the same ids.
///
/// # Errors
/// Configurations that break a shape rule.
pub fn graph(config: &ModelConfig, purpose: Purpose) -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let trunk = match config.family {
        Family::Gpt2 => gpt2::trunk(&mut b, config, purpose)?,
        Family::Llama | Family::Qwen2 => llama::trunk(&mut b, config, purpose)?,
    };
    let weight = match config.head {
        Head::Tied => trunk.embedding,
        Head::Untied => b.scope("head", |b| b.param("weight", matrix(config, config.vocab_size, config.d_model)))?,
    };
    b.scope("head", |b| match purpose {
        Purpose::Training | Purpose::Evaluation => {
            let loss = b.value_of(Op::LinearCrossEntropy { weight }, &[trunk.hidden])?;
            b.result(LOSS, loss);
            Ok(())
        }
        Purpose::Logits | Purpose::Generation => {
            let rows = b.value_of(Op::SelectRows, &[trunk.hidden])?;
            let logits = b.value_of(Op::Linear { weight, bias: None }, &[rows])?;
            b.result(LOGITS, logits);
            Ok::<(), GraphError>(())
        }
    })?;
    let graph = b.finish();
    Ok(fuse(&if purpose == Purpose::Training { grad(&graph, LOSS)? } else { graph }))
}

/// The parameters that all graphs of a configuration share.
///
/// # Errors
/// As [`graph`].
pub fn params(config: &ModelConfig) -> Result<Params, GraphError> {
    Ok(graph(config, Purpose::Logits)?.params().clone())
}

/// What an architecture's builder gives: the hidden states `[tokens, d_model]` after the last norm, and the table of token embeddings.
struct Trunk {
    hidden: ValueId,
    embedding: ParamId,
}

fn matrix(config: &ModelConfig, rows: usize, cols: usize) -> ParamSpec {
    let init = Init::Normal { std: config.init_std };
    ParamSpec { name: String::new(), rows, cols, init, decay: Decay::Yes }
}

/// A matrix whose output is added to the residual stream: started smaller, by the number of such additions (Radford et al., 2019).
fn residual_matrix(config: &ModelConfig, rows: usize, cols: usize) -> ParamSpec {
    let std = config.init_std / (2.0 * config.layers as f32).sqrt();
    ParamSpec { init: Init::Normal { std }, ..matrix(config, rows, cols) }
}

fn vector(len: usize, value: f32) -> ParamSpec {
    ParamSpec { name: String::new(), rows: 1, cols: len, init: Init::Constant(value), decay: Decay::No }
}

fn heads(config: &ModelConfig) -> Heads {
    Heads::new(config.heads, config.kv_heads, config.head_dim)
}

/// Dropout of `x`, where training has it.
fn dropout(b: &mut GraphBuilder, purpose: Purpose, probability: f32, x: ValueId) -> Result<ValueId, GraphError> {
    match dropout_spec(b, purpose, probability) {
        Some(spec) => b.value_of(Op::Dropout(spec), &[x]),
        None => Ok(x),
    }
}

fn dropout_spec(b: &mut GraphBuilder, purpose: Purpose, probability: f32) -> Option<DropoutSpec> {
    (purpose == Purpose::Training && probability > 0.0).then(|| DropoutSpec { probability, salt: b.salt() })
}

/// Attention of `qkv` within the batch's sequences, or over the cache.
fn attention(
    b: &mut GraphBuilder,
    config: &ModelConfig,
    purpose: Purpose,
    layer: usize,
    qkv: ValueId,
) -> Result<ValueId, GraphError> {
    let heads = heads(config);
    if purpose == Purpose::Generation {
        b.apply(Op::CacheAppend { layer, heads }, &[qkv])?;
        return b.value_of(Op::CachedAttention { layer, heads }, &[qkv]);
    }
    let dropout = dropout_spec(b, purpose, config.dropout.attention);
    b.value_of(Op::Attention { heads, dropout }, &[qkv])
}

/// How a tensor of a file lies relative to the parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Orientation {
    /// `[out, in]`, as the parameter.
    Same,
    /// `[in, out]`.
    Transposed,
}

/// A tensor of a Hugging Face file and the rows of a parameter that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSlot {
    /// Its name in the file.
    pub(crate) name: String,
    /// The parameter's name.
    pub(crate) param: String,
    /// The parameter's rows, or its columns where it is a vector.
    pub(crate) part: Range<usize>,
    /// How it lies.
    pub(crate) orientation: Orientation,
    /// Its shape in the file.
    pub(crate) shape: Vec<usize>,
}

impl TensorSlot {
    /// A tensor that is a whole matrix parameter.
    fn matrix(name: String, param: String, rows: usize, cols: usize) -> Self {
        Self { name, param, part: 0..rows, orientation: Orientation::Same, shape: vec![rows, cols] }
    }

    /// A tensor that is a whole vector parameter.
    fn vector(name: String, param: String, len: usize) -> Self {
        Self { name, param, part: 0..len, orientation: Orientation::Same, shape: vec![len] }
    }
}

/// Tensors that a file must have beside those of the parameters to be complete for other tools: all zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZeroTensor {
    pub(crate) name: String,
    pub(crate) len: usize,
}

/// Where each parameter stands in a Hugging Face file.
pub(crate) fn tensor_slots(config: &ModelConfig) -> Vec<TensorSlot> {
    let mut slots = match config.family {
        Family::Gpt2 => gpt2::tensor_slots(config),
        Family::Llama | Family::Qwen2 => llama::tensor_slots(config),
    };
    if config.head == Head::Untied {
        slots.push(TensorSlot::matrix(
            "lm_head.weight".into(),
            "head.weight".into(),
            config.vocab_size,
            config.d_model,
        ));
    }
    slots
}

/// Zero tensors to write so that other tools read the file as SmallMind does.
pub(crate) fn zero_tensors(config: &ModelConfig) -> Vec<ZeroTensor> {
    match config.family {
        Family::Gpt2 => gpt2::zero_tensors(config),
        Family::Llama | Family::Qwen2 => vec![],
    }
}

/// The file's name for the table of token embeddings.
pub(crate) fn embedding_name(config: &ModelConfig) -> &'static str {
    match config.family {
        Family::Gpt2 => "transformer.wte.weight",
        Family::Llama | Family::Qwen2 => "model.embed_tokens.weight",
    }
}

/// The prefix that files may lack: published GPT-2 weights come without it.
pub(crate) fn optional_prefix(config: &ModelConfig) -> &'static str {
    match config.family {
        Family::Gpt2 => "transformer.",
        Family::Llama | Family::Qwen2 => "model.",
    }
}
