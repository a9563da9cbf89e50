//! Softmax cross-entropy: the twin of [`crate::loss`].

use super::Matrix;
use crate::loss::IGNORE;

/// `log Σ exp(logits) − logits[target]` of each row of `logits` `[rows, vocab]`: `[rows]`; zero where the target is
/// [`IGNORE`].
pub fn cross_entropy(logits: &Matrix, targets: &[u32]) -> Vec<f64> {
    assert_eq!(logits.rows, targets.len(), "one target for each row");
    let loss = |(r, &target): (usize, &u32)| {
        if target == IGNORE {
            return 0.0;
        }
        let row = logits.row(r);
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
        sum.ln() + (max - row[target as usize])
    };
    targets.iter().enumerate().map(loss).collect()
}

/// `scale · (softmax(logits) − onehot(target))`, `[rows, vocab]`; zero in the rows whose target is [`IGNORE`].
pub fn cross_entropy_backward(logits: &Matrix, targets: &[u32], scale: f64) -> Matrix {
    assert_eq!(logits.rows, targets.len(), "one target for each row");
    let mut grad = Matrix::zeros(logits.rows, logits.cols);
    for (r, &target) in targets.iter().enumerate().filter(|(_, target)| **target != IGNORE) {
        let max = logits.row(r).iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.row(r).iter().map(|x| (x - max).exp()).sum();
        for c in 0..logits.cols {
            let onehot = if c == target as usize { 1.0 } else { 0.0 };
            *grad.at_mut(r, c) = scale * ((logits.at(r, c) - max).exp() / sum - onehot);
        }
    }
    grad
}
