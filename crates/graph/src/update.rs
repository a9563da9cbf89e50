//! The graph of an optimizer's step.

use crate::graph::{Graph, GraphBuilder, Phase};
use crate::op::{AdamWSpec, Op};
use crate::{GraphError, Params};

/// The name among a graph's results of the norm of all gradients and of the factor that clips them, `[1, 2]`.
pub const CLIP: &str = "clip";

/// The graph that clips the gathered gradients to a global norm of `max_norm` (infinite for no clipping), applies AdamW
/// to all of `params` and zeroes the gradients.
///
/// # Errors
/// A `max_norm` that is negative or not a number.
pub fn update_graph(params: Params, spec: AdamWSpec, max_norm: f64) -> Result<Graph, GraphError> {
    let mut b = GraphBuilder::with_params(params);
    b.set_phase(Phase::Update);
    b.scope("update", |b| {
        let squares = b.value_of(Op::GradSquares, &[])?;
        let clip = b.value_of(Op::ClipFactor { max_norm }, &[squares])?;
        b.apply(Op::AdamW(spec), &[clip])?;
        b.result(CLIP, clip);
        Ok::<(), GraphError>(())
    })?;
    Ok(b.finish())
}
