//! The graphs of a model, one for each purpose, built from its features.

mod decoder;

use smallmind_graph::{Graph, GraphBuilder, GraphError, Op, Params, fuse, grad};

use crate::{Head, ModelConfig};
use decoder::{Decoder, matrix, scaled};

/// The purpose of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Loss of whole sequences, with the dropout of the configuration.
    Training,
    /// Loss of whole sequences.
    Evaluation,
    /// Logits of whole sequences.
    Logits,
    /// Logits of whole sequences; the inputs of all weights of experts are values of the graph.
    Importance,
    /// Logits of sequences that continue a key-value cache.
    Generation,
}

/// Name of the result with the loss of each token, `[tokens, 1]`.
pub const LOSS: &str = "loss";
/// Name of the result with the logits, `[outputs, vocab]`.
pub const LOGITS: &str = "logits";

/// The graph of a model for a purpose, fused. All graphs of a configuration declare the same parameters with the same
/// ids.
///
/// # Errors
/// The configuration breaks a shape rule.
pub fn graph(config: &ModelConfig, purpose: Purpose) -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::new();
    let trunk = Decoder { config, purpose }.trunk(&mut b)?;
    let weight = match config.head {
        Head::Tied => trunk.embedding,
        Head::Untied => {
            b.scope("head", |b| b.param("weight", matrix(config.vocab_size, config.d_model, config.init_std)))?
        }
    };
    // Logits are scaled by what they are products of, which has fewer elements.
    let scale = config.logit_divisor.map(|divisor| 1.0 / divisor);
    b.scope("head", |b| match purpose {
        Purpose::Training | Purpose::Evaluation => {
            let hidden = scaled(b, scale, trunk.hidden)?;
            let loss = b.value_of(Op::LinearCrossEntropy { weight, cap: config.logit_softcap }, &[hidden])?;
            b.result(LOSS, loss);
            Ok(())
        }
        Purpose::Logits | Purpose::Importance | Purpose::Generation => {
            let rows = b.value_of(Op::SelectRows, &[trunk.hidden])?;
            let rows = scaled(b, scale, rows)?;
            let mut logits = b.value_of(Op::Linear { weight, bias: None }, &[rows])?;
            if let Some(cap) = config.logit_softcap {
                logits = b.value_of(Op::SoftCap { cap }, &[logits])?;
            }
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
