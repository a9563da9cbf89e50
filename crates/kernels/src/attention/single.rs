//! Products of one query with keys and values in rows. Nothing is packed: keys and values are read once.
//!
//! The order in which a score or a column is added up does not depend on what else is computed.

use smallmind_simd::{CacheLevel, Isa, prefetch};

use crate::Mat;

/// Keys whose scores are added up at the same time.
const KEYS: usize = 8;

/// Prefetch distance in elements, if rows are adjacent. It is longer than a memory page, at whose end the CPU's own
/// prefetching stops.
const PREFETCH_DISTANCE: usize = 2048;

/// `scores = K·q`: `q` `[head_dim]`, `k` `[keys, head_dim]`, `scores` `[keys]`.
#[inline(always)]
pub(super) fn dots<I: Isa>(isa: I, q: &[f32], k: Mat, scores: &mut [f32]) {
    let whole = k.rows() / KEYS * KEYS;
    for key in (0..whole).step_by(KEYS) {
        dots_of_keys::<I, KEYS>(isa, q, k, key, scores);
    }
    for key in whole..k.rows() {
        dots_of_keys::<I, 1>(isa, q, k, key, scores);
    }
}

/// [`dots`] of the `N` keys from `key` on.
///
/// Lane `l` of a sum adds up the products `l`, `l + LANES`, … in rising order, then the lanes are added.
#[inline(always)]
fn dots_of_keys<I: Isa, const N: usize>(isa: I, q: &[f32], k: Mat, key: usize, scores: &mut [f32]) {
    let mut keys: [&[f32]; N] = [&[]; N];
    for (i, row) in keys.iter_mut().enumerate() {
        *row = k.row(key + i);
    }
    let whole = q.len() / I::LANES * I::LANES;
    let mut sums = [isa.zero(); N];
    for c in (0..whole).step_by(I::LANES) {
        let x = isa.load(&q[c..]);
        for (sum, key) in sums.iter_mut().zip(keys) {
            prefetch(key.as_ptr().wrapping_add(c + PREFETCH_DISTANCE), CacheLevel::Second);
            *sum = isa.mul_add(x, isa.load(&key[c..]), *sum);
        }
    }
    if whole < q.len() {
        let x = isa.load_partial(&q[whole..]);
        for (sum, key) in sums.iter_mut().zip(keys) {
            *sum = isa.mul_add(x, isa.load_partial(&key[whole..]), *sum);
        }
    }
    for (score, sum) in scores[key..key + N].iter_mut().zip(sums) {
        *score = isa.sum(sum);
    }
}

/// `out = weights·V`: `weights` `[keys]`, `v` `[keys, head_dim]`, `out` `[head_dim]`.
#[inline(always)]
pub(super) fn weighted_sum<I: Isa>(isa: I, weights: &[f32], v: Mat, out: &mut [f32]) {
    let mut at = 0;
    while at < out.len() {
        at += match (out.len() - at) / I::LANES {
            8.. => sum_vectors::<I, 8>(isa, weights, v, out, at),
            4.. => sum_vectors::<I, 4>(isa, weights, v, out, at),
            2.. => sum_vectors::<I, 2>(isa, weights, v, out, at),
            1 => sum_vectors::<I, 1>(isa, weights, v, out, at),
            0 => sum_last_columns(isa, weights, v, out, at),
        };
    }
}

/// Computes `N` vectors of columns from column `at` on, whose sums stay in registers. Returns the number of columns.
#[inline(always)]
fn sum_vectors<I: Isa, const N: usize>(isa: I, weights: &[f32], v: Mat, out: &mut [f32], at: usize) -> usize {
    let width = N * I::LANES;
    let mut sums = [isa.zero(); N];
    for (key, &weight) in weights.iter().enumerate() {
        let (x, row) = (isa.splat(weight), &v.row(key)[at..at + width]);
        for (i, sum) in sums.iter_mut().enumerate() {
            let values = &row[i * I::LANES..];
            prefetch(values.as_ptr().wrapping_add(PREFETCH_DISTANCE), CacheLevel::Second);
            *sum = isa.mul_add(x, isa.load(values), *sum);
        }
    }
    for (sum, to) in sums.iter().zip(out[at..at + width].chunks_exact_mut(I::LANES)) {
        isa.store(*sum, to);
    }
    width
}

/// Computes the last columns, fewer than a vector. Returns their number.
#[inline(always)]
fn sum_last_columns<I: Isa>(isa: I, weights: &[f32], v: Mat, out: &mut [f32], at: usize) -> usize {
    let mut sum = isa.zero();
    for (key, &weight) in weights.iter().enumerate() {
        sum = isa.mul_add(isa.splat(weight), isa.load_partial(&v.row(key)[at..]), sum);
    }
    isa.store_partial(sum, &mut out[at..]);
    out.len() - at
}
