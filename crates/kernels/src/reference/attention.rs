//! Causal attention with grouped heads, one sequence at a time.

use super::Matrix;
use crate::attention::{AttentionShape, Scoring};

/// The gradients of [`causal_attention`].
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradients {
    /// Gradient of the queries, `[len, heads * head_dim]`.
    pub dq: Matrix,
    /// Gradient of the keys, `[past + len, kv_heads * head_dim]`.
    pub dk: Matrix,
    /// Gradient of the values, `[past + len, kv_heads * head_dim]`.
    pub dv: Matrix,
}

/// `O = (P ∘ M)·V` with `P = softmax(scale · Q·Kᵀ)` over the keys that a query may see, for each query head: Vaswani et
/// al. 2017, "Attention Is All You Need", section 3.2. With a soft cap, `cap · tanh(scale · Q·Kᵀ / cap)` stands for
/// `scale · Q·Kᵀ`.
///
/// Query `r` stands at position `past + r` of its sequence and sees the keys `0..=past + r`, with a sliding window the
/// last `window` of these. Query head `h` reads the key/value head `h / (heads / kv_heads)`. `M` is the mask of
/// `shape.dropout`, all ones without it.
///
/// `q` is `[len, heads * head_dim]`, `k` and `v` are `[past + len, kv_heads * head_dim]`. Returns `out` `[len, heads *
/// head_dim]` and the log-sum-exp of the scaled scores, `[len, heads]`.
pub fn causal_attention(q: &Matrix, k: &Matrix, v: &Matrix, shape: &AttentionShape, past: usize) -> (Matrix, Matrix) {
    check(q, k, v, shape, past);
    let hd = shape.head_dim;
    let mut out = Matrix::zeros(q.rows, q.cols);
    let mut lse = Matrix::zeros(q.rows, shape.heads);
    for head in 0..shape.heads {
        let kv = head / shape.group() * hd;
        for row in 0..q.rows {
            let Softmax { first, p, log_sum_exp, .. } = softmax(q, k, shape, Place { head, row, past });
            *lse.at_mut(row, head) = log_sum_exp;
            for (key, p) in (first..).zip(p) {
                let weight = p * mask(shape, head, row, key);
                for c in 0..hd {
                    *out.at_mut(row, head * hd + c) += weight * v.at(key, kv + c);
                }
            }
        }
    }
    (out, lse)
}

/// The gradients of [`causal_attention`] with respect to `q`, `k` and `v`, given `dout` `[len, heads * head_dim]`.
///
/// For each query head, `i` a query and `j` a key that it sees:
///
/// ```text
/// dV_j  = Σ_i P_ij·M_ij·dO_i          dP_ij = M_ij·(dO_i·V_j)        dS_ij = T_ij·P_ij·(dP_ij − Σ_l P_il·dP_il)
/// dQ_i  = scale·Σ_j dS_ij·K_j         dK_j  = scale·Σ_i dS_ij·Q_i    T_ij = 1 − tanh²(scale·Q_i·K_j / cap), or 1
/// ```
pub fn causal_attention_backward(
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    dout: &Matrix,
    shape: &AttentionShape,
) -> AttentionGradients {
    assert!(k.rows >= q.rows, "{} keys for {} queries", k.rows, q.rows);
    let past = k.rows - q.rows;
    check(q, k, v, shape, past);
    assert_eq!((dout.rows, dout.cols), (q.rows, q.cols), "the gradient has the shape of the output");
    let hd = shape.head_dim;
    let mut grads = AttentionGradients {
        dq: Matrix::zeros(q.rows, q.cols),
        dk: Matrix::zeros(k.rows, k.cols),
        dv: Matrix::zeros(v.rows, v.cols),
    };
    let scale = f64::from(shape.scoring.scale);
    for head in 0..shape.heads {
        let (qc, kv) = (head * hd, head / shape.group() * hd);
        for row in 0..q.rows {
            let Softmax { first, p, slopes, .. } = softmax(q, k, shape, Place { head, row, past });
            let d_p: Vec<f64> = (first..first + p.len())
                .map(|key| mask(shape, head, row, key) * dot(&dout.row(row)[qc..qc + hd], &v.row(key)[kv..kv + hd]))
                .collect();
            let delta = dot(&p, &d_p);
            for (i, key) in (first..first + p.len()).enumerate() {
                let ds = scale * slopes[i] * p[i] * (d_p[i] - delta);
                let weight = p[i] * mask(shape, head, row, key);
                for c in 0..hd {
                    *grads.dq.at_mut(row, qc + c) += ds * k.at(key, kv + c);
                    *grads.dk.at_mut(key, kv + c) += ds * q.at(row, qc + c);
                    *grads.dv.at_mut(key, kv + c) += weight * dout.at(row, qc + c);
                }
            }
        }
    }
    grads
}

/// A query: its head, its row in `q`, and how many keys precede row 0.
struct Place {
    head: usize,
    row: usize,
    past: usize,
}

/// What a query makes of the keys that it sees.
struct Softmax {
    /// The first of them.
    first: usize,
    /// Their probabilities.
    p: Vec<f64>,
    /// The derivatives of their scores by `scale · q·k`.
    slopes: Vec<f64>,
    /// The log-sum-exp of their scores.
    log_sum_exp: f64,
}

fn softmax(q: &Matrix, k: &Matrix, shape: &AttentionShape, place: Place) -> Softmax {
    let hd = shape.head_dim;
    let (qc, kv) = (place.head * hd, place.head / shape.group() * hd);
    let query = &q.row(place.row)[qc..qc + hd];
    let position = place.past + place.row;
    let Scoring { scale, cap, window } = shape.scoring;
    let sees = |key: &usize| window.is_none_or(|window| key.saturating_add(window) > position);
    let seen: Vec<usize> = (0..=position).filter(sees).collect();
    let score = |key: &usize| {
        let s = f64::from(scale) * dot(query, &k.row(*key)[kv..kv + hd]);
        cap.map_or((s, 1.0), |cap| {
            let tanh = (s / f64::from(cap)).tanh();
            (f64::from(cap) * tanh, 1.0 - tanh * tanh)
        })
    };
    let (scores, slopes): (Vec<f64>, Vec<f64>) = seen.iter().map(score).unzip();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    let p = scores.iter().map(|s| (s - max).exp() / sum).collect();
    Softmax { first: seen[0], p, slopes, log_sum_exp: max + sum.ln() }
}

fn mask(shape: &AttentionShape, head: usize, row: usize, key: usize) -> f64 {
    shape.head_dropout(head).map_or(1.0, |d| f64::from(d.mask(row, key)))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn check(q: &Matrix, k: &Matrix, v: &Matrix, shape: &AttentionShape, past: usize) {
    shape.check();
    assert_eq!(q.cols, shape.heads * shape.head_dim, "columns of the queries");
    assert_eq!(k.cols, shape.kv_heads * shape.head_dim, "columns of the keys");
    assert_eq!((k.rows, k.cols), (v.rows, v.cols), "keys and values have one shape");
    assert_eq!(k.rows, past + q.rows, "keys: those of the past and one a query");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::AttentionDropout;
    use crate::dropout::DropoutKey;

    /// Numbers in `[-1, 1)` without a pattern.
    fn matrix(rows: usize, cols: usize, seed: u64) -> Matrix {
        let noise = |r: usize, c: usize| {
            let mixed = (seed << 40 | (r as u64) << 20 | c as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        Matrix::from_fn(rows, cols, noise)
    }

    fn shapes() -> Vec<AttentionShape> {
        let dropout = AttentionDropout { key: DropoutKey { seed: 7, step: 3, salt: 5 }, p: 0.4, first_row: 3 };
        let heads = [(1, 1, 3), (2, 2, 2), (4, 2, 3), (4, 1, 1)];
        let plain = Scoring::new(0.75);
        let both = Scoring { cap: Some(0.8), window: Some(2), ..plain };
        let scorings = [plain, Scoring { cap: both.cap, ..plain }, Scoring { window: both.window, ..plain }, both];
        let of = |(heads, kv_heads, head_dim), scoring, dropout| AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scoring,
            dropout,
        };
        let of_heads = |h| scorings.into_iter().flat_map(move |s| [of(h, s, None), of(h, s, Some(dropout))]);
        heads.into_iter().flat_map(of_heads).collect()
    }

    #[test]
    fn uniform_scores_give_the_mean_of_the_visible_values() {
        let (q, k) = (Matrix::zeros(2, 2), Matrix::zeros(4, 1));
        let v = Matrix::new(4, 1, vec![1.0, 2.0, 6.0, 11.0]);
        // A window of one key sees the query's own position.
        for (window, means, keys) in [
            (None, [3.0, 5.0], [3.0f64, 4.0]),
            (Some(4), [3.0, 5.0], [3.0, 4.0]),
            (Some(3), [3.0, 19.0 / 3.0], [3.0, 3.0]),
            (Some(2), [4.0, 8.5], [2.0, 2.0]),
            (Some(1), [6.0, 11.0], [1.0, 1.0]),
        ] {
            let scoring = Scoring { window, ..Scoring::new(1.0) };
            let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 1, scoring, dropout: None };
            let (out, lse) = causal_attention(&q, &k, &v, &shape, 2);
            for (row, (mean, keys)) in means.into_iter().zip(keys).enumerate() {
                assert!(out.row(row).iter().all(|x| (x - mean).abs() < 1e-14), "{window:?}: {out:?}");
                assert!(lse.row(row).iter().all(|lse| (lse - keys.ln()).abs() < 1e-15), "{window:?}: {lse:?}");
            }
        }
    }

    #[test]
    fn scores_are_capped() {
        let shape = |cap| AttentionShape {
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            scoring: Scoring { cap, ..Scoring::new(0.5) },
            dropout: None,
        };
        let (q, k) = (Matrix::new(1, 1, vec![2.0]), Matrix::new(2, 1, vec![-1.5, 40.0]));
        let lse = |cap| causal_attention(&q, &k, &k, &shape(cap), 1).1.data[0];
        assert_eq!(lse(None), 40.0);
        let want = ((3.0 * (-0.5f64).tanh()).exp() + 3.0f64.exp()).ln();
        assert!((lse(Some(3.0)) - want).abs() < 1e-10, "{} for {want}", lse(Some(3.0)));
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        const STEP: f64 = 1e-5;
        for shape in shapes() {
            for (len, past) in [(1, 0), (4, 0), (3, 2)] {
                let inputs = [
                    matrix(len, shape.heads * shape.head_dim, 1),
                    matrix(past + len, shape.kv_heads * shape.head_dim, 2),
                    matrix(past + len, shape.kv_heads * shape.head_dim, 3),
                ];
                let dout = matrix(len, shape.heads * shape.head_dim, 4);
                let loss = |[q, k, v]: &[Matrix; 3]| dot(&causal_attention(q, k, v, &shape, past).0.data, &dout.data);
                let grads = causal_attention_backward(&inputs[0], &inputs[1], &inputs[2], &dout, &shape);
                for (which, grad) in [&grads.dq, &grads.dk, &grads.dv].into_iter().enumerate() {
                    for i in 0..grad.data.len() {
                        let at = |step: f64| {
                            let mut moved = inputs.clone();
                            moved[which].data[i] += step;
                            loss(&moved)
                        };
                        let want = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                        let got = grad.data[i];
                        assert!(
                            (got - want).abs() < 1e-8,
                            "{shape:?} len {len} past {past}: {which}[{i}] {got} for {want}"
                        );
                    }
                }
            }
        }
    }
}
