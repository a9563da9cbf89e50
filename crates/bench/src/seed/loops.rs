//! The arithmetic of a transformer in plain loops, optimized only by the compiler.
//!
//! Loops use indices on purpose: this is how such code is usually written first.
#![allow(clippy::needless_range_loop)]

use smallmind_kernels::activation::Gelu;
use smallmind_kernels::matmul::{Layout, Operand};
use smallmind_kernels::{Mat, MatMut};

use super::tensors::Tensors;

/// `c = a·b (+ bias)` by three loops: a sum for each element.
pub(super) fn product(a: Operand, b: Operand, bias: Option<&[f32]>, mut c: MatMut) {
    for i in 0..c.rows() {
        let row = a.mat.row(i);
        for j in 0..c.cols() {
            let mut sum = 0.0;
            match b.layout {
                Layout::Transposed => {
                    let column = b.mat.row(j);
                    for k in 0..row.len() {
                        sum += row[k] * column[k];
                    }
                }
                Layout::Normal => {
                    for (k, x) in row.iter().enumerate() {
                        sum += x * b.mat.row(k)[j];
                    }
                }
            }
            c.row_mut(i)[j] = sum + bias.map_or(0.0, |bias| bias[j]);
        }
    }
}

/// `sum = a + b`.
pub(super) fn add(a: &[f32], b: &[f32], sum: &mut [f32]) {
    for i in 0..sum.len() {
        sum[i] = a[i] + b[i];
    }
}

/// LayerNorm of the rows of `x`, each as long as `weight`.
pub(super) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let n = weight.len();
    for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
        let mean = x.iter().sum::<f32>() / n as f32;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n as f32;
        let rstd = 1.0 / (variance + eps).sqrt();
        for i in 0..n {
            y[i] = (x[i] - mean) * rstd * weight[i] + bias[i];
        }
    }
}

/// GELU of each element.
pub(super) fn gelu(kind: Gelu, x: &[f32], y: &mut [f32]) {
    for (x, y) in x.iter().zip(y) {
        *y = match kind {
            Gelu::Exact => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Gelu::Tanh => {
                let u = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + u.tanh())
            }
        };
    }
}

/// The error function within 2e-7: Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 7.1.26.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * x.abs());
    let sum = t * (0.2548296 + t * (-0.28449672 + t * (1.4214138 + t * (-1.4531521 + t * 1.0614054))));
    (1.0 - sum * (-x * x).exp()).copysign(x)
}

/// `scores[i, j] = q_i·k_j` for all pairs, including those with `j > i`.
pub(super) fn pair_scores(q: Mat, k: Mat, scores: &mut [f32]) {
    for i in 0..q.rows() {
        for j in 0..k.rows() {
            let mut sum = 0.0;
            for c in 0..q.cols() {
                sum += q.row(i)[c] * k.row(j)[c];
            }
            scores[i * k.rows() + j] = sum;
        }
    }
}

/// `out[i] = Σ_j p[i, j]·v_j`, token by token.
pub(super) fn pair_sums(p: &[f32], v: Mat, mut out: MatMut) {
    for i in 0..out.rows() {
        for c in 0..out.cols() {
            let mut sum = 0.0;
            for j in 0..v.rows() {
                sum += p[i * v.rows() + j] * v.row(j)[c];
            }
            out.row_mut(i)[c] = sum;
        }
    }
}

/// `softmax(scale·s)` of square scores, where a row sees the columns up to its own. Each pass goes over all scores and
/// makes a new value.
pub(super) fn unfused_softmax(tensors: &mut Tensors, scores: Vec<f32>, tokens: usize, scale: f32) -> Vec<f32> {
    let n = scores.len();
    let mut scaled = tensors.take(n);
    for i in 0..n {
        scaled[i] = scores[i] * scale;
    }
    tensors.give(scores);
    let mut masked = tensors.take(n);
    for i in 0..n {
        masked[i] = if i % tokens > i / tokens { f32::NEG_INFINITY } else { scaled[i] };
    }
    tensors.give(scaled);
    let mut maxima = tensors.take(tokens);
    for (max, row) in maxima.iter_mut().zip(masked.chunks_exact(tokens)) {
        *max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    }
    let mut exponentials = tensors.take(n);
    for i in 0..n {
        exponentials[i] = (masked[i] - maxima[i / tokens]).exp();
    }
    tensors.give(masked);
    tensors.give(maxima);
    let mut sums = tensors.take(tokens);
    for (sum, row) in sums.iter_mut().zip(exponentials.chunks_exact(tokens)) {
        *sum = row.iter().sum();
    }
    let mut probabilities = tensors.take(n);
    for i in 0..n {
        probabilities[i] = exponentials[i] / sums[i / tokens];
    }
    tensors.give(exponentials);
    tensors.give(sums);
    probabilities
}

/// `softmax(scale·s)` in place, only over the columns that a row sees.
pub(super) fn causal_softmax(scores: &mut [f32], tokens: usize, scale: f32) {
    for (i, row) in scores.chunks_exact_mut(tokens).enumerate() {
        let (seen, unseen) = row.split_at_mut(i + 1);
        let max = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for s in seen.iter_mut() {
            *s = (scale * (*s - max)).exp();
            sum += *s;
        }
        seen.iter_mut().for_each(|p| *p /= sum);
        unseen.fill(0.0);
    }
}
