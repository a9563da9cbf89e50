//! One query against many keys: keys and values stream through the cores once, nothing is packed.

use smallmind_simd::Isa;

use super::blocks::Queries;
use crate::softmax::exp_row;
use crate::{Mat, MatMut};

/// The output `[1, head_dim]` and log-sum-exp `[1, 1]` of a block of one query.
pub(super) fn attend_single<I: Isa>(
    isa: I,
    block: Queries,
    mut out: MatMut,
    mut lse: Option<MatMut>,
    scratch: &mut [f32],
) {
    let keys = block.k.rows();
    let scores = &mut scratch[..keys];
    isa.vectorize(
        #[inline(always)]
        || {
            dots(isa, block.q.row(0), block.k, scores);
            let total = exp_row(isa, scores, block.scale);
            if let Some(lse) = &mut lse {
                lse.row_mut(0)[0] = total.log_sum_exp();
            }
            if let Some(dropout) = block.dropout {
                for (key, score) in scores.iter_mut().enumerate() {
                    *score *= dropout.mask(block.first, key);
                }
            }
            weighted_sum(isa, scores, block.v, 1.0 / total.sum, out.row_mut(0));
        },
    );
}

/// `out[j] = q·K_j` for each row of `k` `[keys, head_dim]`; `q` `[head_dim]`, `out` `[keys]`.
#[inline(always)]
fn dots<I: Isa>(isa: I, q: &[f32], k: Mat, out: &mut [f32]) {
    let mut quads = out.chunks_exact_mut(4);
    let mut key = 0;
    for quad in &mut quads {
        quad.copy_from_slice(&dot4(isa, q, [k.row(key), k.row(key + 1), k.row(key + 2), k.row(key + 3)]));
        key += 4;
    }
    for (i, out) in quads.into_remainder().iter_mut().enumerate() {
        *out = dot(isa, q, k.row(key + i));
    }
}

/// The products of `q` with four rows of its length: four independent sums hide the latency of the fused multiply-add. Each adds in the order of
/// [`dot`].
#[inline(always)]
fn dot4<I: Isa>(isa: I, q: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    let whole = q.len() / I::LANES * I::LANES;
    let mut sums = [isa.zero(); 4];
    for c in (0..whole).step_by(I::LANES) {
        let x = isa.load(&q[c..]);
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum = isa.mul_add(x, isa.load(&row[c..]), *sum);
        }
    }
    if whole < q.len() {
        let x = isa.load_partial(&q[whole..]);
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum = isa.mul_add(x, isa.load_partial(&row[whole..q.len()]), *sum);
        }
    }
    [isa.sum(sums[0]), isa.sum(sums[1]), isa.sum(sums[2]), isa.sum(sums[3])]
}

/// `a·b`, of one length.
#[inline(always)]
pub(super) fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
    let (mut a, mut b) = (a.chunks_exact(I::LANES), b.chunks_exact(I::LANES));
    let mut sum = isa.zero();
    for (a, b) in (&mut a).zip(&mut b) {
        sum = isa.mul_add(isa.load(a), isa.load(b), sum);
    }
    isa.sum(isa.mul_add(isa.load_partial(a.remainder()), isa.load_partial(b.remainder()), sum))
}

/// `out = factor · Σ_j weights[j]·V_j`; `weights` `[keys]`, `v` `[keys, head_dim]`, `out` `[head_dim]`.
///
/// The columns are taken in strips whose sums stay in registers over all keys: eight vectors wide, or what is left.
#[inline(always)]
fn weighted_sum<I: Isa>(isa: I, weights: &[f32], v: Mat, factor: f32, out: &mut [f32]) {
    let mut at = 0;
    while at < out.len() {
        at += match (out.len() - at) / I::LANES {
            8.. => strip::<I, 8>(isa, weights, v, factor, &mut out[at..], at),
            4..8 => strip::<I, 4>(isa, weights, v, factor, &mut out[at..], at),
            2..4 => strip::<I, 2>(isa, weights, v, factor, &mut out[at..], at),
            1 => strip::<I, 1>(isa, weights, v, factor, &mut out[at..], at),
            0 => last_strip(isa, weights, v, factor, &mut out[at..], at),
        };
    }
}

/// `N` vectors of the output, those from column `at` of `v` on, to the front of `out`. Gives how many columns that is.
#[inline(always)]
fn strip<I: Isa, const N: usize>(isa: I, weights: &[f32], v: Mat, factor: f32, out: &mut [f32], at: usize) -> usize {
    let width = N * I::LANES;
    let mut sums = [isa.zero(); N];
    for (key, &weight) in weights.iter().enumerate() {
        let (weight, row) = (isa.splat(weight), &v.row(key)[at..at + width]);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = isa.mul_add(weight, isa.load(&row[i * I::LANES..]), *sum);
        }
    }
    for (i, sum) in sums.iter().enumerate() {
        isa.store(isa.mul(*sum, isa.splat(factor)), &mut out[i * I::LANES..]);
    }
    width
}

/// The same for the last columns, fewer than a vector.
#[inline(always)]
fn last_strip<I: Isa>(isa: I, weights: &[f32], v: Mat, factor: f32, out: &mut [f32], at: usize) -> usize {
    let mut sum = isa.zero();
    for (key, &weight) in weights.iter().enumerate() {
        sum = isa.mul_add(isa.splat(weight), isa.load_partial(&v.row(key)[at..]), sum);
    }
    isa.store_partial(isa.mul(sum, isa.splat(factor)), out);
    out.len()
}
