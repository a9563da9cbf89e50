//! LayerNorm and RMSNorm: the twin of [`crate::norm`].

use super::Matrix;

/// Divisor for a mean over features; 1 for an empty row, so that its mean is zero.
fn count(x: &Matrix) -> f64 {
    x.cols.max(1) as f64
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Mean and `1 / √(variance + eps)` of each row of `x`: `[rows, 2]`.
fn layer_norm_stats(x: &Matrix, eps: f64) -> Matrix {
    let mut stats = Matrix::zeros(x.rows, 2);
    for r in 0..x.rows {
        let mean = x.row(r).iter().sum::<f64>() / count(x);
        let variance = x.row(r).iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count(x);
        stats.row_mut(r).copy_from_slice(&[mean, 1.0 / (variance + eps).sqrt()]);
    }
    stats
}

/// `1 / √(mean of squares + eps)` of each row of `x`: `[rows, 1]`.
fn rms_norm_stats(x: &Matrix, eps: f64) -> Matrix {
    Matrix::from_fn(x.rows, 1, |r, _| 1.0 / (dot(x.row(r), x.row(r)) / count(x) + eps).sqrt())
}

/// `x̂ · weight + bias` of `x` `[tokens, d_model]`, with `x̂ = (x − mean) · rstd`, and the statistics `[tokens, 2]`:
/// mean, rstd.
pub fn layer_norm(x: &Matrix, weight: &[f64], bias: Option<&[f64]>, eps: f64) -> (Matrix, Matrix) {
    let stats = layer_norm_stats(x, eps);
    let y = Matrix::from_fn(x.rows, x.cols, |r, c| {
        let normalised = (x.at(r, c) - stats.at(r, 0)) * stats.at(r, 1);
        normalised * weight[c] + bias.map_or(0.0, |bias| bias[c])
    });
    (y, stats)
}

/// The gradients of [`layer_norm`]: of `x` `[tokens, d_model]`, of the weight `[d_model]` and of the bias `[d_model]`.
pub fn layer_norm_backward(dy: &Matrix, x: &Matrix, weight: &[f64], eps: f64) -> (Matrix, Vec<f64>, Vec<f64>) {
    let stats = layer_norm_stats(x, eps);
    let mut dx = Matrix::zeros(x.rows, x.cols);
    let (mut dweight, mut dbias) = (vec![0.0; x.cols], vec![0.0; x.cols]);
    for r in 0..x.rows {
        let (mean, rstd) = (stats.at(r, 0), stats.at(r, 1));
        let normalised: Vec<f64> = x.row(r).iter().map(|x| (x - mean) * rstd).collect();
        let g: Vec<f64> = dy.row(r).iter().zip(weight).map(|(dy, weight)| dy * weight).collect();
        let (mean_g, mean_gx) = (g.iter().sum::<f64>() / count(x), dot(&g, &normalised) / count(x));
        for c in 0..x.cols {
            *dx.at_mut(r, c) = rstd * (g[c] - mean_g - normalised[c] * mean_gx);
            dweight[c] += dy.at(r, c) * normalised[c];
            dbias[c] += dy.at(r, c);
        }
    }
    (dx, dweight, dbias)
}

/// `x · rstd · weight` of `x` `[tokens, d_model]`, and the statistic `[tokens, 1]`: rstd.
pub fn rms_norm(x: &Matrix, weight: &[f64], eps: f64) -> (Matrix, Matrix) {
    let stats = rms_norm_stats(x, eps);
    (Matrix::from_fn(x.rows, x.cols, |r, c| x.at(r, c) * stats.at(r, 0) * weight[c]), stats)
}

/// The gradients of [`rms_norm`]: of `x` `[tokens, d_model]` and of the weight `[d_model]`.
pub fn rms_norm_backward(dy: &Matrix, x: &Matrix, weight: &[f64], eps: f64) -> (Matrix, Vec<f64>) {
    let stats = rms_norm_stats(x, eps);
    let mut dx = Matrix::zeros(x.rows, x.cols);
    let mut dweight = vec![0.0; x.cols];
    for r in 0..x.rows {
        let rstd = stats.at(r, 0);
        let normalised: Vec<f64> = x.row(r).iter().map(|x| x * rstd).collect();
        let g: Vec<f64> = dy.row(r).iter().zip(weight).map(|(dy, weight)| dy * weight).collect();
        let mean_gx = dot(&g, &normalised) / count(x);
        for c in 0..x.cols {
            *dx.at_mut(r, c) = rstd * (g[c] - normalised[c] * mean_gx);
            dweight[c] += dy.at(r, c) * normalised[c];
        }
    }
    (dx, dweight)
}

/// The groups of columns of [`crate::qk_norm`]: first column, and the weight of its kind.
fn qk_groups<'w>(q: &'w [f64], k: &'w [f64], groups: [usize; 2]) -> Vec<(usize, &'w [f64])> {
    let queries = (0..groups[0]).map(|group| (group * q.len(), q));
    let keys = (0..groups[1]).map(|group| (groups[0] * q.len() + group * k.len(), k));
    queries.chain(keys).collect()
}

/// [`rms_norm`] of each group of columns of `x` `[rows, width]`: `groups` are the numbers of groups of queries, with the
/// weight `q`, and of keys, with the weight `k`; all other columns are copied. The second value holds the statistic of
/// each row and group.
pub fn qk_norm(x: &Matrix, q: &[f64], k: &[f64], groups: [usize; 2], eps: f64) -> (Matrix, Matrix) {
    let (mut y, mut stats) = (x.clone(), Matrix::zeros(x.rows, groups[0] + groups[1]));
    for (group, (start, weight)) in qk_groups(q, k, groups).into_iter().enumerate() {
        let (part, stat) = rms_norm(&x.columns(start..start + weight.len()), weight, eps);
        y.set_columns(start, &part);
        stats.set_columns(group, &stat);
    }
    (y, stats)
}

/// The gradients of [`qk_norm`]: of `x` `[rows, width]`, of the weight of queries and of that of keys.
pub fn qk_norm_backward(
    dy: &Matrix,
    x: &Matrix,
    q: &[f64],
    k: &[f64],
    groups: [usize; 2],
    eps: f64,
) -> (Matrix, Vec<f64>, Vec<f64>) {
    let (mut dx, mut dq, mut dk) = (dy.clone(), vec![0.0; q.len()], vec![0.0; k.len()]);
    for (group, (start, weight)) in qk_groups(q, k, groups).into_iter().enumerate() {
        let columns = start..start + weight.len();
        let (part, dweight) = rms_norm_backward(&dy.columns(columns.clone()), &x.columns(columns), weight, eps);
        dx.set_columns(start, &part);
        let total = if group < groups[0] { &mut dq } else { &mut dk };
        total.iter_mut().zip(dweight).for_each(|(total, d)| *total += d);
    }
    (dx, dq, dk)
}
