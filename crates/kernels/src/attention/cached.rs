//! Attention over a key-value cache in pages: queries against one block of keys, and the fold over blocks.
//!
//! The [module](super) has the pseudo-code. This is the forward of Dao et al. 2022, "FlashAttention", algorithm 1, with
//! blocks of keys that may also be computed separately (Dao et al. 2023, "Flash-Decoding for long-context inference").
//!
//! **Order of sums.** Blocks begin at multiples of [`KEY_BLOCK`] and pages at multiples of [`PAGE`], whatever the
//! queries of a call. The order in which an element of a product is added up follows from its depth alone, and a key
//! that a row doesn't see adds an exact zero if its value is finite, as it is for a key of a later query of the same
//! call. So a query gets the same bits alone and together with other queries, and whether one worker does all or
//! several compute the blocks and one folds them. Few rows have kernels of their own, without the loops around the
//! micro-kernels; these add up in the same order.
//!
//! **Windows.** Pages before the window of a call's first query are not read, and its fold begins with the first block
//! that a row sees. A row whose window begins later than the call's first page adds exact zeros for the pages between.
//!
//! **Formats.** In both products the rows of the right factor are adjacent, as pages hold them, and nothing is
//! transposed. Few rows read pages in place, each vector widened on its way into the multiply-adds; for more rows a page
//! is widened into scratch once. Either way an element is the same chain of multiply-adds of the widened numbers.

use std::ops::Range;

use smallmind_simd::{CacheLevel, Isa, math, prefetch};

use super::Scoring;
use super::few::{self, FEW_DEPTH, FEW_ROWS, LINE};
use super::page::{CacheFormat, PAGE, page_len};
use super::widen::{Bytes, Halves, Nibbles, PageFormat, Singles};

use crate::compiled::compiled;
use crate::matmul::{Epilogue, Operand, Update, gemm, gemm_scratch_len};
use crate::softmax::exp_row;
use crate::{Mat, MatMut};

/// Keys of a block, whose scores are computed before any is used: a multiple of [`PAGE`].
///
/// Fitted to heads of 64 columns: shorter blocks, of less than a quarter of a megabyte, cost more per key; with longer
/// blocks, a few thousand keys are too few blocks for all workers.
pub const KEY_BLOCK: usize = 512;

const _: () = assert!(KEY_BLOCK.is_multiple_of(PAGE));

/// Queries of adjacent tokens against a block of keys, `[tokens · group, head_dim]`: row `t · group + h` is token `t`
/// and head `h` of the group.
#[derive(Clone, Copy)]
pub struct BlockQueries<'a> {
    /// The queries.
    pub q: Mat<'a>,
    /// How many query heads share the key/value head; each token has as many rows.
    pub group: usize,
    /// The position of the first token in its sequence.
    pub past: usize,
    /// How queries score keys.
    pub scoring: Scoring,
}

impl BlockQueries<'_> {
    /// The keys of `block` that the row sees, counted within the block.
    #[inline(always)]
    fn seen(&self, row: usize, block: usize) -> Range<usize> {
        let position = self.past + row / self.group;
        let in_block = |key: usize| key.saturating_sub(block * KEY_BLOCK).min(KEY_BLOCK);
        in_block(self.scoring.first_key(position))..in_block(position + 1)
    }
}

/// Columns of the partial result of a block of keys for a row: `O_j`, not yet divided by the sum, then `m_j` and `l_j`.
pub fn partial_cols(head_dim: usize) -> usize {
    head_dim + 2
}

/// Elements between rows of scores: not a power of two, with which the elements of a column would fall into few sets of
/// a cache.
const SCORE_STRIDE: usize = KEY_BLOCK + 16;

/// Elements of scratch that [`attend_block`] needs; monotone in `rows` and in `head_dim`.
pub fn attend_block_scratch_len<I: Isa>(isa: I, format: CacheFormat, rows: usize, head_dim: usize) -> usize {
    let gemm = gemm_scratch_len(isa, rows, PAGE, head_dim).max(gemm_scratch_len(isa, rows, head_dim, PAGE));
    rows * SCORE_STRIDE + widened_len(format, head_dim) + gemm
}

/// Elements of the keys, or the values, of a page that is widened into scratch.
fn widened_len(format: CacheFormat, head_dim: usize) -> usize {
    if format == CacheFormat::F32 { 0 } else { PAGE * head_dim }
}

/// Writes the partial results of block `block` of the keys for all rows of `queries` to `partials` `[rows,
/// partial_cols(head_dim)]`; see the [module](super).
///
/// `pages` has each page from the first to the last that a row sees. `scratch` holds at least
/// [`attend_block_scratch_len`] elements. What `partials` and the scratch hold before is never read; places of pages that
/// no row sees change no result.
///
/// # Panics
/// If shapes disagree, a page has another length than [`page_len`], or the scratch is too short.
#[inline]
pub fn attend_block<I: Isa>(
    isa: I,
    queries: BlockQueries,
    block: usize,
    pages: Pages,
    partials: MatMut,
    scratch: &mut [f32],
) {
    compiled!(
        isa: I,
        attend(queries: BlockQueries, block: usize, pages: Pages, partials: MatMut, scratch: &mut [f32])
    );
}

/// The pages of a sequence for one key/value head.
#[derive(Clone, Copy)]
pub struct Pages<'a, 'p> {
    /// How keys and values are stored.
    pub format: CacheFormat,
    /// The page that holds the keys from `PAGE · i` on.
    pub page: &'a dyn Fn(usize) -> &'p [f32],
}

fn attend<I: Isa>(isa: I, queries: BlockQueries, block: usize, pages: Pages, partials: MatMut, scratch: &mut [f32]) {
    match pages.format {
        CacheFormat::F32 => attend_in::<I, Singles>(isa, queries, block, pages, partials, scratch),
        CacheFormat::F16 => attend_in::<I, Halves>(isa, queries, block, pages, partials, scratch),
        CacheFormat::Q8_0 => attend_in::<I, Bytes>(isa, queries, block, pages, partials, scratch),
        CacheFormat::Q4_0 => attend_in::<I, Nibbles>(isa, queries, block, pages, partials, scratch),
    }
}

/// [`attend_block`] over pages in the format `F`.
fn attend_in<I: Isa, F: PageFormat>(
    isa: I,
    queries: BlockQueries,
    block: usize,
    Pages { format, page }: Pages,
    partials: MatMut,
    scratch: &mut [f32],
) {
    let q = queries.q;
    let (rows, head_dim) = (q.rows(), q.cols());
    assert!(rows > 0 && rows.is_multiple_of(queries.group), "{rows} rows for groups of {}", queries.group);
    assert_eq!((partials.rows(), partials.cols()), (rows, partial_cols(head_dim)), "a row for each query");
    // Keys are counted from the first page that a row sees.
    let first_page = queries.seen(0, block).start / PAGE;
    let keys = queries.seen(rows - 1, block).end.saturating_sub(first_page * PAGE);
    let (scores, scratch) = scratch.split_at_mut(rows * SCORE_STRIDE);
    let (wide, scratch) = scratch.split_at_mut(widened_len(format, head_dim));
    let mut scores = MatMut::new(scores, rows, SCORE_STRIDE);
    let (mut out, stats) = partials.split_at_col(head_dim);
    let words = |i: usize| page(block * (KEY_BLOCK / PAGE) + first_page + i);
    let page = |i: usize| {
        let page = words(i);
        assert_eq!(page.len(), page_len(format, head_dim), "a page in {format} for heads of {head_dim} columns");
        F::split(page, head_dim)
    };
    if rows <= FEW_ROWS && head_dim <= FEW_DEPTH {
        let count = keys.div_ceil(PAGE);
        (0..AHEAD.min(count)).for_each(|i| prefetch_keys(words(i)));
        // The keys of a later page, and the values of this one.
        let ahead = |i: usize| [words((i + AHEAD).min(count - 1)).as_ptr(), words(i)[words(i).len() / 2..].as_ptr()];
        few::scores::<I, F>(isa, q, keys, (|i| page(i)[0], ahead), scores.reborrow());
    } else {
        for (i, first) in (0..keys).step_by(PAGE).enumerate() {
            let n = (keys - first).min(PAGE).next_multiple_of(I::LANES);
            let k = Mat::new(F::wide_keys(isa, page(i)[0], wide), head_dim, PAGE).cols_range(0..n);
            let scores = scores.reborrow().cols_range(first..first + n);
            gemm(isa, Operand::normal(q), Operand::normal(k), scores, Epilogue::default(), scratch);
        }
    }
    exponentials(isa, queries, block, (first_page * PAGE, keys), scores.reborrow(), stats);
    if keys == 0 {
        (0..rows).for_each(|row| out.row_mut(row).fill(0.0));
    }
    let scores = scores.as_mat();
    if rows <= FEW_ROWS {
        return few::outputs::<I, F>(isa, scores, keys, |i| page(i)[1], out);
    }
    for (i, first) in (0..keys).step_by(PAGE).enumerate() {
        let n = (keys - first).min(PAGE);
        let v = Mat::new(F::wide_values(isa, page(i)[1], [n, head_dim], wide), n, head_dim);
        let update = if i == 0 { Update::Overwrite } else { Update::Accumulate };
        let weights = Operand::normal(scores.cols_range(first..first + n));
        gemm(isa, weights, Operand::normal(v), out.reborrow(), Epilogue { update, ..Epilogue::default() }, scratch);
    }
}

/// How many pages ahead of their use keys are prefetched.
const AHEAD: usize = 2;

/// Prefetches the keys of a page.
fn prefetch_keys(words: &[f32]) {
    words[..words.len() / 2].chunks(LINE).for_each(|line| prefetch(line.as_ptr(), CacheLevel::Second));
}

/// Turns the scores of the `keys` keys of a block from its key `first` on into exponentials, row by row: 0 for those
/// that a row doesn't see. `stats` `[rows, 2]` gets their maxima and sums.
fn exponentials<I: Isa>(
    isa: I,
    queries: BlockQueries,
    block: usize,
    (first, keys): (usize, usize),
    mut scores: MatMut,
    mut stats: MatMut,
) {
    isa.vectorize(
        #[inline(always)]
        || {
            for row in 0..scores.rows() {
                let seen = queries.seen(row, block);
                let [start, end] = [seen.start, seen.end].map(|key| key.saturating_sub(first).min(keys));
                let (seen, later) = scores.row_mut(row)[..keys].split_at_mut(end);
                let (earlier, seen) = seen.split_at_mut(start.min(end));
                let scale = queries.scoring.cap_scores(isa, seen);
                let total = exp_row(isa, seen, scale);
                stats.row_mut(row).copy_from_slice(&[total.max, total.sum]);
                earlier.fill(0.0);
                later.fill(0.0);
            }
        },
    );
}

/// Adds what a block of keys gave, `partials`, to what the blocks before it did, `state`, row by row. Both are `[rows,
/// partial_cols(head_dim)]`, and the fold begins with what the first block gave of which the row sees a key.
///
/// # Panics
/// If shapes disagree.
pub fn fold<I: Isa>(isa: I, state: MatMut, partials: Mat) {
    fn body<I: Isa>(isa: I, mut state: MatMut, partials: Mat) {
        let (rows, cols) = (state.rows(), state.cols());
        assert_eq!((partials.rows(), partials.cols()), (rows, cols), "partials of the fold's shape");
        isa.vectorize(
            #[inline(always)]
            || (0..rows).for_each(|row| fold_row(isa, state.row_mut(row), partials.row(row))),
        );
    }
    compiled!(isa: I, body(state: MatMut, partials: Mat));
}

#[inline(always)]
fn fold_row<I: Isa>(isa: I, state: &mut [f32], partial: &[f32]) {
    let head_dim = partial.len() - 2;
    let (out, stats) = state.split_at_mut(head_dim);
    let (of_block, stats_of_block) = partial.split_at(head_dim);
    let [max, sum, block_max, block_sum] = [stats[0], stats[1], stats_of_block[0], stats_of_block[1]];
    let new_max = max.max(block_max);
    let keep = math::exp(isa, isa.splat(max - new_max));
    let weight = math::exp(isa, isa.splat(block_max - new_max));
    let add = |old, new| isa.mul_add(weight, new, isa.mul(keep, old));
    let mut vectors = out.chunks_exact_mut(I::LANES);
    let mut of_vectors = of_block.chunks_exact(I::LANES);
    for (x, y) in vectors.by_ref().zip(of_vectors.by_ref()) {
        isa.store(add(isa.load(x), isa.load(y)), x);
    }
    let (x, y) = (vectors.into_remainder(), of_vectors.remainder());
    isa.store_partial(add(isa.load_partial(x), isa.load_partial(y)), x);
    stats[0] = new_max;
    isa.store_partial(add(isa.splat(sum), isa.splat(block_sum)), &mut stats[1..]);
}

/// The outputs of a complete fold `state` `[tokens · group, partial_cols(head_dim)]`, to `out` `[tokens, group ·
/// head_dim]`.
///
/// # Panics
/// If shapes disagree.
pub fn fold_end<I: Isa>(isa: I, state: Mat, out: MatMut) {
    fn body<I: Isa>(isa: I, state: Mat, mut out: MatMut) {
        let head_dim = state.cols() - 2;
        let group = state.rows() / out.rows().max(1);
        assert!(state.rows() == out.rows() * group && out.cols() == group * head_dim, "a fold as wide as its output");
        isa.vectorize(
            #[inline(always)]
            || {
                for token in 0..out.rows() {
                    for head in 0..group {
                        let (of_head, stats) = state.row(token * group + head).split_at(head_dim);
                        let factor = isa.splat(1.0 / stats[1]);
                        let mut to = out.row_mut(token)[head * head_dim..][..head_dim].chunks_exact_mut(I::LANES);
                        let mut from = of_head.chunks_exact(I::LANES);
                        for (x, to) in from.by_ref().zip(to.by_ref()) {
                            isa.store(isa.mul(isa.load(x), factor), to);
                        }
                        isa.store_partial(isa.mul(isa.load_partial(from.remainder()), factor), to.into_remainder());
                    }
                }
            },
        );
    }
    compiled!(isa: I, body(state: Mat, out: MatMut));
}
