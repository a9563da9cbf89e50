//! The graph of an optimizer's step, and its scalars, which the executor and the interpreter share.

use smallmind_kernels::optimizer::AdamW;

use crate::graph::{Graph, GraphBuilder, Phase};
use crate::op::{AdamWSpec, Op};
use crate::params::Decay;
use crate::{GraphError, Params, Scalars};

/// Name of the result with the norm of all gradients and the factor that clips them, `[1, 2]`.
pub const CLIP: &str = "clip";

/// The graph that clips the accumulated gradients to a global norm of `max_norm` (infinite for no clipping), applies
/// AdamW to all of `params` and zeroes the gradients.
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

/// The factor for gradients of the global norm `norm`, as in PyTorch's `clip_grad_norm_`: `min(1, max_norm / (norm +
/// 1e-6))`.
pub(crate) fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

impl AdamWSpec {
    /// The scalars of AdamW in a run, for parameters with or without decay. Gradients are multiplied by `grad_scale`.
    pub(crate) fn step(&self, scalars: &Scalars, decay: Decay, grad_scale: f64) -> AdamW {
        let step = scalars.step.clamp(1, i32::MAX as u64) as i32;
        AdamW {
            lr: scalars.learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: if decay == Decay::Yes { self.weight_decay } else { 0.0 },
            grad_scale,
            bias_correction1: 1.0 - self.beta1.powi(step),
            bias_correction2: 1.0 - self.beta2.powi(step),
        }
    }
}
