//! The optimizer's step and the sum of squares before it.

use smallmind_graph::op::AdamWSpec;
use smallmind_graph::{GraphError, Op};
use smallmind_kernels::optimizer::{AdamW, SUM_BLOCK};
use smallmind_kernels::reference::optimizer as reference;

use super::engine::{Engine, OneOp, SCALARS, Writes, second_moment};
use super::values::Values;
use super::{ALL_CHECKED, EPSILON, Found, Target, Wrong, sampled};

/// With such betas the moments don't become subnormal, however many steps without gradient are timed.
const SPEC: AdamWSpec = AdamWSpec { beta1: 0.99, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

/// AdamW on one parameter. The first step clips gradients to about half. Later steps see zeros, since a step zeroes the
/// gradients.
pub(super) fn adamw(elements: usize, on: Target) -> Result<Engine, GraphError> {
    let mut op = OneOp::new(0).writing(Writes::Parameters);
    let values = Values::new(1, 0.5, 1, elements);
    let max_norm = 0.5 * (elements as f64 / 12.0).sqrt();
    let param = op.param(values)?;
    let squares = op.before(Op::GradSquares, &[])?;
    let clip = op.before(Op::ClipFactor { max_norm }, &squares)?;
    op.timed(Op::AdamW(SPEC), &clip)?;
    op.updated("parameter", ["m", "v"], param);
    op.gradient("gradient", param);
    op.ready(None, on, Box::new(move |found| compare_step(values, max_norm, found)))
}

fn compare_step(values: Values, max_norm: f64, found: &Found<'_>) -> Result<(), Wrong> {
    let gradients = values.other(1);
    let squares: f64 = (0..values.cols).map(|i| gradients.wide(0, i).powi(2)).sum();
    let config = AdamW {
        lr: SCALARS.learning_rate,
        beta1: SPEC.beta1,
        beta2: SPEC.beta2,
        eps: SPEC.eps,
        weight_decay: SPEC.weight_decay,
        grad_scale: (max_norm / (squares.sqrt() + 1e-6)).min(1.0),
        bias_correction1: 1.0,
        bias_correction2: 1.0,
    };
    for i in sampled(values.cols, ALL_CHECKED) {
        let [mut p, mut g, mut m] = [values, gradients, values.other(2)].map(|values| [values.wide(0, i)]);
        let mut v = [f64::from(second_moment(values.other(3).at(0, i)))];
        let gradient = g[0].abs().max(m[0].abs());
        reference::adamw(&config, &mut p, &mut g, &mut m, &mut v);
        let bounds = [1e-6 * (p[0].abs() + config.lr), 1e-6 * gradient, 2e-6 * v[0], 0.0];
        for (which, (want, bound)) in [p, m, v, g].into_iter().zip(bounds).enumerate() {
            found.close(which, (0, i), want[0], bound)?;
        }
    }
    Ok(())
}

/// The squares of all gradients, summed in blocks.
pub(super) fn sum_of_squares(elements: usize, on: Target) -> Result<Engine, GraphError> {
    let mut op = OneOp::new(0).writing(Writes::Gradients);
    let values = Values::new(1, 0.5, 1, elements);
    op.param(values)?;
    let sums = op.timed(Op::GradSquares, &[])?;
    op.result("sums", sums[0]);
    op.ready(None, on, Box::new(move |found| compare_sums(values.other(1), found)))
}

fn compare_sums(gradients: Values, found: &Found<'_>) -> Result<(), Wrong> {
    for block in 0..gradients.cols.div_ceil(SUM_BLOCK) {
        let elements = block * SUM_BLOCK..((block + 1) * SUM_BLOCK).min(gradients.cols);
        let want = reference::sum_of_squares(&gradients.matrix(0..1, elements).data);
        // Sums are in double precision and rounded once, at the end.
        found.close(0, (block, 0), want, EPSILON * want)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use crate::case::Problem;

    #[test]
    fn steps_and_sums_hold() {
        for elements in [1, 100, 5000, 20_000] {
            holds(Problem::AdamW { elements });
            holds(Problem::SumOfSquares { elements });
        }
    }
}
