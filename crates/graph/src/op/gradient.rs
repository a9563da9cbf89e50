//! The facts of the operations of a backward pass.

use crate::op::info::{Bytes, Cost, Effects, Info, Operands, Shapes};
use crate::op::{DropoutSpec, Heads, Norm, QkNorm};
use crate::{GraphError, ParamId, Shape};

pub(super) fn embedding_grad(table: ParamId) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.expect(0, Shape::tokens(s.param(table)?.cols))?;
        Ok(vec![])
    };
    Info::new("embedding_grad", shapes).params([table]).effects(Effects::GRADIENTS).cost(|o| {
        let rows = o.input_elements();
        Cost { weights: Bytes::of_elements(rows, rows), ..o.pass_over(rows) }
    })
}

pub(super) fn norm_grad(norm: Norm) -> Info {
    let name = match norm {
        Norm::Layer { .. } => "layer_norm_grad",
        Norm::Rms { .. } => "rms_norm_grad",
    };
    let shapes = move |s: &Shapes<'_>| {
        s.arity(3..=4)?;
        s.same(0, 1)?;
        s.norm_params(norm, s.shape(0).cols)?;
        s.expect(2, Shape { cols: norm.stats_cols(), ..s.shape(0) })?;
        if s.len() == 4 {
            s.same(0, 3)?;
        }
        Ok(vec![s.shape(0)])
    };
    // The parameters are read for scaling; their gradients are read and written, to add to them.
    let cost = |o: &Operands<'_>| Cost { weights: o.param_passes(2.0, 1.0), ..o.pass_over(13.0 * o.first_elements()) };
    Info::new(name, shapes).params(norm.params()).effects(Effects::GRADIENTS).takes_addend(3).cost(cost)
}

pub(super) fn qk_norm_grad(norm: QkNorm) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(3..=3)?;
        s.same(0, 1)?;
        s.expect(2, s.qk_stats(norm, s.shape(0))?)?;
        Ok(vec![s.shape(0)])
    };
    let cost = |o: &Operands<'_>| Cost { weights: o.param_passes(2.0, 1.0), ..o.pass_over(13.0 * o.first_elements()) };
    Info::new("qk_norm_grad", shapes).params([norm.q, norm.k]).effects(Effects::GRADIENTS).cost(cost)
}

pub(super) fn linear_grad_input(weight: ParamId) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=2)?;
        let (dy, w) = (s.shape(0), s.param(weight)?);
        s.require(dy.cols == w.rows, "an output gradient has as many columns as the weight has rows")?;
        let dx = Shape { cols: w.cols, ..dy };
        if s.len() == 2 {
            s.expect(1, dx)?;
        }
        Ok(vec![dx])
    };
    let cost = move |o: &Operands<'_>| Cost {
        weights: o.param_passes(1.0, 0.0),
        ..o.pass_over(2.0 * o.rows() * o.param_elements(weight))
    };
    Info::new("linear_grad_input", shapes).params([weight]).takes_addend(1).cost(cost)
}

pub(super) fn linear_grad_weight(weight: ParamId) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(2..=2)?;
        let (dy, x, w) = (s.shape(0), s.shape(1), s.param(weight)?);
        s.require(dy.rows == x.rows, "both factors of a weight gradient have the same rows")?;
        s.require(dy.cols == w.rows && x.cols == w.cols, "a weight gradient has the weight's shape")?;
        Ok(vec![])
    };
    let cost = move |o: &Operands<'_>| Cost {
        weights: o.param_passes(1.0, 1.0),
        ..o.pass_over(2.0 * o.rows() * o.param_elements(weight))
    };
    Info::new("linear_grad_weight", shapes).params([weight]).effects(Effects::GRADIENTS).cost(cost)
}

pub(super) fn bias_grad(bias: ParamId) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.require(s.shape(0).cols == s.param(bias)?.len(), "a bias gradient has the bias's length")?;
        Ok(vec![])
    };
    let cost = |o: &Operands<'_>| Cost { weights: o.param_passes(1.0, 1.0), ..o.pass_over(o.input_elements()) };
    Info::new("bias_grad", shapes).params([bias]).effects(Effects::GRADIENTS).cost(cost)
}

pub(super) fn gelu_grad() -> Info {
    let shapes = |s: &Shapes<'_>| {
        s.arity(2..=2)?;
        s.same(0, 1)?;
        Ok(vec![s.shape(0)])
    };
    Info::new("gelu_grad", shapes).cost(|o| o.pass_over(20.0 * o.output_elements()))
}

/// The shape rule of the gradient of a gated activation.
fn gated_grad(s: &Shapes<'_>) -> Result<Vec<Shape>, GraphError> {
    s.arity(2..=2)?;
    let x = s.shape(0);
    s.expect(1, Shape { cols: x.cols / 2, ..x })?;
    Ok(vec![x])
}

pub(super) fn geglu_grad() -> Info {
    Info::new("geglu_grad", gated_grad).cost(|o| o.pass_over(17.0 * o.output_elements()))
}

pub(super) fn swiglu_grad() -> Info {
    Info::new("swiglu_grad", gated_grad).cost(|o| {
        // One sigmoid for a gate's and an input's gradient.
        Cost { exponentials: o.output_elements() / 2.0, ..o.pass_over(5.0 * o.output_elements()) }
    })
}

pub(super) fn attention_grad(heads: Heads, dropout: Option<DropoutSpec>) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(4..=4)?;
        s.qkv(1, heads)?;
        s.expect(0, Shape::tokens(heads.q_cols()))?;
        s.expect(2, Shape::tokens(heads.q_cols()))?;
        s.expect(3, Shape::tokens(heads.heads))?;
        Ok(vec![s.shape(1)])
    };
    Info::new("attention_grad", shapes).dropout(dropout).cost(move |o| o.attention(heads, 5.0))
}

pub(super) fn linear_cross_entropy_grad(weight: ParamId, cap: Option<f32>) -> Info {
    let shapes = move |s: &Shapes<'_>| {
        s.arity(1..=1)?;
        s.expect(0, Shape::tokens(s.param(weight)?.cols))?;
        Ok(vec![Shape::tokens(1), s.shape(0)])
    };
    let cost = move |o: &Operands<'_>| {
        let capped = if cap.is_some() { 1.0 } else { 0.0 };
        let flops = 6.0 * o.rows() * o.param_elements(weight) + (6.0 + 11.0 * capped) * o.logits(weight);
        Cost {
            exponentials: (1.0 + capped) * o.logits(weight),
            weights: o.param_passes(2.0, 1.0),
            ..o.pass_over(flops)
        }
    };
    Info::new("linear_cross_entropy_grad", shapes).params([weight]).effects(Effects::GRADIENTS).cost(cost)
}
