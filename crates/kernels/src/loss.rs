//! Softmax cross-entropy on logits, forward and backward.
//!
//! ```text
//! loss   = log Σ_c exp(l_c) − l_target = log Σ_c exp(l_c − max l) + (max l − l_target)
//! dloss/dl_c = softmax(l)_c − [c = target]
//! ```
//!
//! Subtracting the maximum does not change the loss and keeps every exponential at most 1, so losses and gradients are
//! finite for all logits up to ±1e30. The rows of a call may be a chunk of the batch's `[tokens, vocab]`, so that not
//! all logits must exist at the same time.

use smallmind_simd::{Isa, math};

use crate::compiled::compiled;
use crate::{Mat, MatMut, row_ops};

/// The target of a row that is ignored: its loss and gradient are zero.
pub const IGNORE: u32 = u32::MAX;

/// Writes the loss of each row of `logits` `[rows, vocab]` to `losses` `[rows, 1]`: zero if the target is [`IGNORE`].
///
/// The absolute error is at most `(16 + vocab / 32 + loss) · ε`.
///
/// # Panics
/// If shapes disagree or a target is neither below `vocab` nor [`IGNORE`]. Callers check targets from outside first.
pub fn cross_entropy<I: Isa>(isa: I, logits: Mat, targets: &[u32], losses: MatMut) {
    fn body<I: Isa>(isa: I, logits: Mat, targets: &[u32], mut losses: MatMut) {
        check_shapes(logits, targets, losses.as_mat());
        isa.vectorize(
            #[inline(always)]
            || {
                for (r, &target) in targets.iter().enumerate() {
                    losses.row_mut(r)[0] = if target == IGNORE { 0.0 } else { row_loss(isa, logits.row(r), target) };
                }
            },
        );
    }
    compiled!(isa: I, body(logits: Mat, targets: &[u32], losses: MatMut));
}

/// Writes the losses as [`cross_entropy`], and overwrites `logits` `[rows, vocab]` with their gradient, `scale ·
/// (softmax(logits) − onehot(target))`, or zeros in rows whose target is [`IGNORE`].
///
/// The error of a gradient is at most `(16 + vocab / 32) · ε · scale`.
///
/// # Panics
/// As [`cross_entropy`].
pub fn cross_entropy_backward<I: Isa>(isa: I, logits: MatMut, targets: &[u32], scale: f32, losses: MatMut) {
    fn body<I: Isa>(isa: I, mut logits: MatMut, targets: &[u32], scale: f32, mut losses: MatMut) {
        check_shapes(logits.as_mat(), targets, losses.as_mat());
        isa.vectorize(
            #[inline(always)]
            || {
                for (r, &target) in targets.iter().enumerate() {
                    let row = logits.row_mut(r);
                    losses.row_mut(r)[0] = if target == IGNORE {
                        row.fill(0.0);
                        0.0
                    } else {
                        row_backward(isa, row, target, scale)
                    };
                }
            },
        );
    }
    compiled!(isa: I, body(logits: MatMut, targets: &[u32], scale: f32, losses: MatMut));
}

fn check_shapes(logits: Mat, targets: &[u32], losses: Mat) {
    assert_eq!(logits.rows(), targets.len(), "one target for each row of logits");
    assert_eq!((losses.rows(), losses.cols()), (targets.len(), 1), "one loss for each row of logits");
    for &target in targets {
        assert!(target == IGNORE || (target as usize) < logits.cols(), "target {target} of {} classes", logits.cols());
    }
}

/// `log sum + max − logit`, in `f64`.
#[inline(always)]
fn loss(sum: f32, max: f32, logit: f32) -> f32 {
    (f64::from(sum).ln() + (f64::from(max) - f64::from(logit))) as f32
}

#[inline(always)]
fn row_loss<I: Isa>(isa: I, row: &[f32], target: u32) -> f32 {
    let max = row_ops::max(isa, row, |v| v);
    let shift = isa.splat(max);
    let [sum] = row_ops::sums(
        isa,
        [row],
        [],
        #[inline(always)]
        |[sum], [v], live| [isa.mul_add(exp_shifted(isa, v, shift, live), live, sum)],
    );
    loss(isa.sum(sum), max, row[target as usize])
}

/// Overwrites a row of logits with their gradient and returns its loss.
#[inline(always)]
fn row_backward<I: Isa>(isa: I, row: &mut [f32], target: u32, scale: f32) -> f32 {
    let max = row_ops::max(isa, row, |v| v);
    let logit = row[target as usize];
    let shift = isa.splat(max);
    let sum = row_ops::update_and_sum(
        isa,
        row,
        #[inline(always)]
        |v, live| exp_shifted(isa, v, shift, live),
    );
    let sum = isa.sum(sum);
    let factor = isa.splat(scale / sum);
    row_ops::update(
        isa,
        [],
        row,
        #[inline(always)]
        |v, []| isa.mul(v, factor),
    );
    row[target as usize] -= scale;
    loss(sum, max, logit)
}

/// `exp(v − shift)`, but `exp(0)` in lanes that aren't live: these hold zeros, and `exp(0 − shift)` could overflow.
#[inline(always)]
fn exp_shifted<I: Isa>(isa: I, v: I::F32, shift: I::F32, live: I::F32) -> I::F32 {
    math::exp(isa, isa.neg_mul_add(shift, live, v))
}
