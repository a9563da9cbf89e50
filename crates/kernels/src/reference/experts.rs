//! Mixtures of experts: the reference of [`crate::experts`].

use crate::experts::Routing;
use crate::matmul::Layout;

use super::{Matrix, activation, matmul};

/// The experts that a token with these logits uses and their weights, the largest first; among equal ones the first.
pub fn choices(logits: &[f64], routing: Routing) -> Vec<(usize, f64)> {
    let mut order: Vec<usize> = (0..routing.experts).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let chosen = &order[..routing.per_token];
    let exp = |expert: &usize| (logits[*expert] - logits[order[0]]).exp();
    let sum: f64 = if routing.sums_to_one { chosen.iter().map(exp).sum() } else { order.iter().map(exp).sum() };
    chosen.iter().map(|expert| (*expert, exp(expert) / sum)).collect()
}

/// The sum of the outputs of each token's experts: `x` `[tokens, d]`, `logits` `[tokens, experts]`, `gate_up` `[experts ·
/// 2 d_ff, d]`, `down` `[experts · d, d_ff]`. And what the downs are multiplied with: `[tokens, per_token · d_ff]`, the
/// input of the expert of the largest logit first.
pub fn experts(x: &Matrix, logits: &Matrix, gate_up: &Matrix, down: &Matrix, routing: Routing) -> [Matrix; 2] {
    let of_expert = |weights: &Matrix, expert: usize| {
        let rows = weights.rows / routing.experts;
        weights.rows_range(expert * rows..(expert + 1) * rows)
    };
    let mut out = Matrix::zeros(x.rows, x.cols);
    let mut active = Matrix::zeros(x.rows, routing.per_token * down.cols);
    for t in 0..x.rows {
        let parts = active.row_mut(t).chunks_exact_mut(down.cols);
        for ((expert, weight), active) in choices(logits.row(t), routing).into_iter().zip(parts) {
            let times = |x: &Matrix, w: &Matrix| matmul::matmul(x, Layout::Normal, w, Layout::Transposed);
            let hidden = activation::swiglu(&times(&x.rows_range(t..t + 1), &of_expert(gate_up, expert)));
            let y = times(&hidden, &of_expert(down, expert));
            active.copy_from_slice(&hidden.data);
            out.row_mut(t).iter_mut().zip(&y.data).for_each(|(sum, y)| *sum += weight * y);
        }
    }
    [out, active]
}
