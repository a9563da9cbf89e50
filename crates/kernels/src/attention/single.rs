//! Products of attention with few rows: a query, or the heads of a group, against keys and values as rows.
//!
//! 1. Keys and values stream through once for all heads of the group: a tile of heads and keys, or of heads and columns, keeps its sums in
//!    registers.
//! 2. A group of more heads than a tile takes a few keys at a time, which stay in the first level of cache from tile to tile.
//! 3. Each score and each column is summed in an order of its own, whatever the tile: the heads beside it change no bit.

use smallmind_simd::{CacheLevel, Isa, prefetch};

use crate::{Mat, MatMut};

/// Keys that all heads of a group are worked on with before the next: of 64 columns, 8 kilobytes.
const KEYS: usize = 32;

/// How many elements ahead of their use keys and values are asked for, where rows are adjacent: beyond the page, at which the CPU's own
/// prefetching ends.
const AHEAD: usize = 2048;

/// The most heads of a tile.
const HEADS: usize = 4;

/// Sums that find room in the registers, beside what they are made from.
#[inline(always)]
const fn sums<I: Isa>() -> usize {
    if I::LANES == 16 { 16 } else { 8 }
}

/// `scores = q·kᵀ`: `q` `[heads, head_dim]`, `k` `[keys, head_dim]`, `scores` `[heads, keys]`.
#[inline(always)]
pub(super) fn dots<I: Isa>(isa: I, q: Mat, k: Mat, mut scores: MatMut) {
    for first in (0..k.rows()).step_by(KEYS) {
        let keys = first..(first + KEYS).min(k.rows());
        let k = k.rows_range(keys.clone());
        let mut head = 0;
        while head < q.rows() {
            let heads = head..(head + HEADS).min(q.rows());
            let (q, scores) = (q.rows_range(heads.clone()), scores.reborrow().rows_range(heads.clone()));
            let scores = scores.cols_range(keys.clone());
            match heads.len() {
                1 => dots_of_heads::<I, 1, 8>(isa, q, k, scores),
                2 => dots_of_heads::<I, 2, 4>(isa, q, k, scores),
                3 if sums::<I>() >= 12 => dots_of_heads::<I, 3, 4>(isa, q, k, scores),
                3 => dots_of_heads::<I, 3, 2>(isa, q, k, scores),
                _ if sums::<I>() >= 16 => dots_of_heads::<I, 4, 4>(isa, q, k, scores),
                _ => dots_of_heads::<I, 4, 2>(isa, q, k, scores),
            }
            head = heads.end;
        }
    }
}

/// [`dots`] of `H` heads, `N` keys at a time.
#[inline(always)]
fn dots_of_heads<I: Isa, const H: usize, const N: usize>(isa: I, q: Mat, k: Mat, mut scores: MatMut) {
    let whole = k.rows() / N * N;
    for key in (0..whole).step_by(N) {
        dot_tile::<I, H, N>(isa, q, k, key, &mut scores);
    }
    for key in whole..k.rows() {
        dot_tile::<I, H, 1>(isa, q, k, key, &mut scores);
    }
}

/// The `N` rows from `first` on.
#[inline(always)]
fn rows<'a, const N: usize>(mat: Mat<'a>, first: usize) -> [&'a [f32]; N] {
    let mut rows: [&[f32]; N] = [&[]; N];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = mat.row(first + i);
    }
    rows
}

/// `sums[i] += x · vectors[i]`.
#[inline(always)]
fn multiply_add<I: Isa, const N: usize>(isa: I, x: I::F32, vectors: &[I::F32; N], sums: &mut [I::F32; N]) {
    for (sum, &vector) in sums.iter_mut().zip(vectors) {
        *sum = isa.mul_add(x, vector, *sum);
    }
}

/// [`dots`] of `H` heads and the `N` keys from `key` on.
///
/// Lane `l` of a sum adds up the products `l`, `l + LANES`, … in rising order, then the lanes are added.
#[inline(always)]
fn dot_tile<I: Isa, const H: usize, const N: usize>(isa: I, q: Mat, k: Mat, key: usize, scores: &mut MatMut) {
    let (q, k) = (rows::<H>(q, 0), rows::<N>(k, key));
    let len = q[0].len();
    let whole = len / I::LANES * I::LANES;
    let mut sums = [[isa.zero(); N]; H];
    for c in (0..whole).step_by(I::LANES) {
        let mut keys = [isa.zero(); N];
        for (vector, k) in keys.iter_mut().zip(k) {
            prefetch(k.as_ptr().wrapping_add(c + AHEAD), CacheLevel::Second);
            *vector = isa.load(&k[c..]);
        }
        for (sums, q) in sums.iter_mut().zip(q) {
            multiply_add(isa, isa.load(&q[c..]), &keys, sums);
        }
    }
    if whole < len {
        let mut keys = [isa.zero(); N];
        for (vector, k) in keys.iter_mut().zip(k) {
            *vector = isa.load_partial(&k[whole..len]);
        }
        for (sums, q) in sums.iter_mut().zip(q) {
            multiply_add(isa, isa.load_partial(&q[whole..len]), &keys, sums);
        }
    }
    for (h, sums) in sums.iter().enumerate() {
        for (score, sum) in scores.row_mut(h)[key..key + N].iter_mut().zip(sums) {
            *score = isa.sum(*sum);
        }
    }
}

/// `out = weights·v`: `weights` `[heads, keys]`, `v` `[keys, head_dim]`, `out` `[heads, head_dim]`.
#[inline(always)]
pub(super) fn weighted_sums<I: Isa>(isa: I, weights: Mat, v: Mat, mut out: MatMut) {
    let group = weights.rows();
    for head in 0..group {
        out.row_mut(head).fill(0.0);
    }
    // A tile that takes all heads may as well take all keys.
    let keys = if group <= HEADS { v.rows().max(1) } else { KEYS };
    for first in (0..v.rows()).step_by(keys) {
        let keys = first..(first + keys).min(v.rows());
        let v = v.rows_range(keys.clone());
        for head in (0..group).step_by(HEADS) {
            let heads = head..(head + HEADS).min(group);
            let weights = weights.rows_range(heads.clone()).cols_range(keys.clone());
            let out = out.reborrow().rows_range(heads.clone());
            match heads.len() {
                1 => add_strips::<I, 1>(isa, weights, v, out),
                2 => add_strips::<I, 2>(isa, weights, v, out),
                3 => add_strips::<I, 3>(isa, weights, v, out),
                _ => add_strips::<I, HEADS>(isa, weights, v, out),
            }
        }
    }
}

/// `out += weights·v` for `H` heads, by strips of columns whose sums stay in registers over all keys.
#[inline(always)]
fn add_strips<I: Isa, const H: usize>(isa: I, weights: Mat, v: Mat, mut out: MatMut) {
    let mut at = 0;
    while at < out.cols() {
        at += match (out.cols() - at) / I::LANES {
            8.. if 8 * H <= sums::<I>() => add_strip::<I, H, 8>(isa, weights, v, &mut out, at),
            4.. if 4 * H <= sums::<I>() => add_strip::<I, H, 4>(isa, weights, v, &mut out, at),
            2.. => add_strip::<I, H, 2>(isa, weights, v, &mut out, at),
            1 => add_strip::<I, H, 1>(isa, weights, v, &mut out, at),
            0 => add_last_strip::<I, H>(isa, weights, v, &mut out, at),
        };
    }
}

/// The `N` vectors of columns from column `at` on. Gives how many columns that is.
#[inline(always)]
fn add_strip<I: Isa, const H: usize, const N: usize>(
    isa: I,
    weights: Mat,
    v: Mat,
    out: &mut MatMut,
    at: usize,
) -> usize {
    let width = N * I::LANES;
    let weights = rows::<H>(weights, 0);
    let mut sums = [[isa.zero(); N]; H];
    for (h, sums) in sums.iter_mut().enumerate() {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = isa.load(&out.row(h)[at + i * I::LANES..]);
        }
    }
    for key in 0..v.rows() {
        let row = &v.row(key)[at..at + width];
        let mut values = [isa.zero(); N];
        for (i, vector) in values.iter_mut().enumerate() {
            let row = &row[i * I::LANES..];
            prefetch(row.as_ptr().wrapping_add(AHEAD), CacheLevel::Second);
            *vector = isa.load(row);
        }
        for (sums, weights) in sums.iter_mut().zip(weights) {
            multiply_add(isa, isa.splat(weights[key]), &values, sums);
        }
    }
    for (h, sums) in sums.iter().enumerate() {
        for (i, sum) in sums.iter().enumerate() {
            isa.store(*sum, &mut out.row_mut(h)[at + i * I::LANES..]);
        }
    }
    width
}

/// The last columns, fewer than a vector.
#[inline(always)]
fn add_last_strip<I: Isa, const H: usize>(isa: I, weights: Mat, v: Mat, out: &mut MatMut, at: usize) -> usize {
    let mut sums = [isa.zero(); H];
    for (h, sum) in sums.iter_mut().enumerate() {
        *sum = isa.load_partial(&out.row(h)[at..]);
    }
    for key in 0..v.rows() {
        let row = isa.load_partial(&v.row(key)[at..]);
        for (h, sum) in sums.iter_mut().enumerate() {
            *sum = isa.mul_add(isa.splat(weights.row(h)[key]), row, *sum);
        }
    }
    for (h, sum) in sums.iter().enumerate() {
        isa.store_partial(*sum, &mut out.row_mut(h)[at..]);
    }
    out.cols() - at
}
