//! Softmax over the keys that a causal query may see. The softmax of the loss is fused with the cross-entropy, in
//! [`loss`](crate::loss).

use smallmind_simd::{Isa, math};

use crate::compiled::compiled;
use crate::{MatMut, row_ops};

/// Turns scores into probabilities, row by row: `P = softmax(scale · S)` over the columns that the row may see, 0 in
/// the others.
///
/// Row `r` of `scores` `[rows, cols]` sees its first `past + r + 1` columns; the others are not read. `lse` `[rows]`,
/// if given, receives `log Σ exp(scale · s)`, from which a backward recomputes `P` without the maximum of the scores
/// (Dao et al. 2022, "FlashAttention", section 3.1).
///
/// The maximum of a row is subtracted before `exp`, so that all finite scores give finite probabilities. A NaN or
/// `+inf` among the visible scores makes the row NaN.
///
/// # Panics
/// If a row would see more than `cols` columns, or `lse` is shorter than `rows`.
pub fn causal_softmax<I: Isa>(isa: I, scores: MatMut, past: usize, scale: f32, lse: Option<&mut [f32]>) {
    fn body<I: Isa>(isa: I, mut scores: MatMut, past: usize, scale: f32, mut lse: Option<&mut [f32]>) {
        let (rows, cols) = (scores.rows(), scores.cols());
        assert!(rows == 0 || past + rows <= cols, "the last of {rows} rows sees {} of {cols} columns", past + rows);
        assert!(lse.as_ref().is_none_or(|lse| lse.len() >= rows), "a log-sum-exp for each of {rows} rows");
        isa.vectorize(
            #[inline(always)]
            || {
                for r in 0..rows {
                    let (seen, unseen) = scores.row_mut(r).split_at_mut(past + r + 1);
                    let total = exp_row(isa, seen, scale);
                    scale_row(isa, seen, 1.0 / total.sum);
                    unseen.fill(0.0);
                    if let Some(lse) = lse.as_deref_mut() {
                        lse[r] = total.log_sum_exp();
                    }
                }
            },
        );
    }
    compiled!(isa: I, body(scores: MatMut, past: usize, scale: f32, lse: Option<&mut [f32]>));
}

/// The maximum that [`exp_row`] has subtracted, and the sum by which the row must still be divided.
#[derive(Clone, Copy)]
pub(crate) struct RowTotal {
    /// `max(scale · s)`, or the lowest finite number if all scores are `-inf`.
    pub max: f32,
    /// `Σ exp(scale · s − max)`.
    pub sum: f32,
}

impl RowTotal {
    /// `log Σ exp(scale · s)`.
    #[inline(always)]
    pub fn log_sum_exp(self) -> f32 {
        self.max + self.sum.ln()
    }
}

/// Overwrites `row` with `exp(scale · s − max)`, not divided by the sum: attention divides the `head_dim` columns of
/// its output instead of the `context` columns of a row.
///
/// A row with only `-inf` becomes zeros, which add nothing to a sum over several rows.
#[inline(always)]
pub(crate) fn exp_row<I: Isa>(isa: I, row: &mut [f32], scale: f32) -> RowTotal {
    let factor = isa.splat(scale);
    // A NaN doesn't count for the maximum; it gets into the sum through the exponential.
    let max = row_ops::max(
        isa,
        row,
        #[inline(always)]
        |s| isa.mul(s, factor),
    );
    let max = max.max(f32::MIN);
    let shift = isa.splat(-max);
    let mut sum = isa.zero();
    let mut vectors = row.chunks_exact_mut(I::LANES);
    for x in &mut vectors {
        let e = math::exp(isa, isa.mul_add(isa.load(x), factor, shift));
        isa.store(e, x);
        sum = isa.add(sum, e);
    }
    let tail = vectors.into_remainder();
    if !tail.is_empty() {
        let e = math::exp(isa, isa.mul_add(isa.load_partial(tail), factor, shift));
        isa.store_partial(e, tail);
        let live = isa.lt(isa.zero(), row_ops::live_lanes(isa, tail.len()));
        sum = isa.add(sum, isa.select(live, e, isa.zero()));
    }
    RowTotal { max, sum: isa.sum(sum) }
}

/// Multiplies `row` by `factor`.
#[inline(always)]
pub(crate) fn scale_row<I: Isa>(isa: I, row: &mut [f32], factor: f32) {
    let factor = isa.splat(factor);
    row_ops::update(
        isa,
        [],
        row,
        #[inline(always)]
        |v, []| isa.mul(v, factor),
    );
}

#[cfg(test)]
mod tests {
    use smallmind_simd::{IsaKind, WithIsa};

    use super::*;

    /// Scores `[rows, cols]` between -4 and 4, with NaN where a row may not read.
    fn scores(rows: usize, cols: usize, past: usize) -> Vec<f32> {
        let score =
            |i: usize| if i % cols > past + i / cols { f32::NAN } else { (i * 7919 % 801) as f32 / 100.0 - 4.0 };
        (0..rows * cols).map(score).collect()
    }

    struct AgainstF64 {
        rows: usize,
        cols: usize,
        past: usize,
        scale: f32,
    }

    impl WithIsa for AgainstF64 {
        type Output = ();

        fn call<I: Isa>(self, isa: I) {
            let Self { rows, cols, past, scale } = self;
            let s = scores(rows, cols, past);
            let mut p = s.clone();
            let mut lse = vec![f32::NAN; rows];
            causal_softmax(isa, MatMut::new(&mut p, rows, cols), past, scale, Some(&mut lse));
            for r in 0..rows {
                let seen: Vec<f64> =
                    s[r * cols..][..past + r + 1].iter().map(|&s| f64::from(s) * f64::from(scale)).collect();
                let sum: f64 = seen.iter().map(|s| s.exp()).sum();
                assert!((f64::from(lse[r]) - sum.ln()).abs() < 4e-6, "{isa:?} lse of row {r} of {rows} x {cols}");
                for c in 0..cols {
                    let want = seen.get(c).map_or(0.0, |s| s.exp() / sum);
                    let got = f64::from(p[r * cols + c]);
                    assert!(
                        (got - want).abs() <= 4e-6 * want,
                        "{isa:?} ({r}, {c}) of {rows} x {cols}: {got} for {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn agrees_with_f64_and_reads_visible_scores_only() {
        for kind in IsaKind::available() {
            for (rows, past) in [(0, 0), (1, 0), (2, 0), (3, 5), (17, 0), (17, 48), (65, 0), (5, 127)] {
                for spare in [0, 1, 9] {
                    for scale in [1.0, 0.25, -0.5] {
                        kind.with(AgainstF64 { rows, cols: past + rows + spare, past, scale }).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn agrees_with_f64_at_random_shapes() {
        let below = |i: usize, n: usize| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % n;
        for i in 0..10_000 {
            let (rows, past, spare) = (below(i, 9), below(i + 1_000_003, 70), below(i + 5_000_011, 5));
            for kind in IsaKind::available() {
                kind.with(AgainstF64 { rows, cols: past + rows + spare, past, scale: 0.25 }).unwrap();
            }
        }
    }

    struct Extremes;

    impl WithIsa for Extremes {
        type Output = ();

        fn call<I: Isa>(self, isa: I) {
            let mut row = [1e4, -1e4, 1e4, -3e38, 0.0];
            causal_softmax(isa, MatMut::new(&mut row, 1, 5), 4, 1.0, None);
            assert_eq!(row, [0.5, 0.0, 0.5, 0.0, 0.0], "{isa:?}");
            let mut lse = [f32::NAN];
            let mut row = [f32::NEG_INFINITY, -1e4];
            causal_softmax(isa, MatMut::new(&mut row, 1, 2), 1, 1.0, Some(&mut lse));
            assert_eq!((row, lse), ([0.0, 1.0], [-1e4]), "{isa:?}");
            for bad in [f32::NAN, f32::INFINITY] {
                let mut row = [1.0; 40];
                row[33] = bad;
                causal_softmax(isa, MatMut::new(&mut row, 1, 40), 39, 1.0, None);
                assert!(row.iter().all(|p| p.is_nan()), "{isa:?} hides a {bad}: {row:?}");
            }
        }
    }

    #[test]
    fn extremes_stay_finite_and_non_finite_scores_show() {
        for kind in IsaKind::available() {
            kind.with(Extremes).unwrap();
        }
    }
}
