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
//! **Pages.** A page of a key/value head holds the keys of [`PAGE`] tokens as `[head_dim, PAGE]`, then their values as
//! `[PAGE, head_dim]`. So in both products the rows of the right factor are adjacent, and nothing is transposed.

use std::ops::Range;

use smallmind_simd::{Isa, math};

use super::Scoring;
use super::few::{self, FEW_DEPTH, FEW_ROWS};

use crate::compiled::compiled;
use crate::matmul::{Epilogue, Operand, Update, gemm, gemm_scratch_len, transpose_rows};
use crate::softmax::exp_row;
use crate::{Mat, MatMut};

/// Keys of a page of the cache: a multiple of the lanes of every instruction set.
pub const PAGE: usize = 64;

/// Keys of a block, whose scores are computed before any is used: a multiple of [`PAGE`].
///
/// Fitted to heads of 64 columns: shorter blocks, of less than a quarter of a megabyte, cost more per key; with longer
/// blocks, a few thousand keys are too few blocks for all workers.
pub const KEY_BLOCK: usize = 512;

const _: () = assert!(KEY_BLOCK.is_multiple_of(PAGE));

/// Elements of a page of one key/value head: keys, then values.
pub fn page_len(head_dim: usize) -> usize {
    2 * PAGE * head_dim
}

/// Writes `keys` `[n, head_dim]` to the places `first..first + n` of a page of one key/value head, and `values` `[n,
/// head_dim]` likewise. What the places behind them hold is lost.
///
/// # Panics
/// If `page` has another length than [`page_len`], if shapes disagree, or if the page has no such places.
pub fn append_to_page<I: Isa>(isa: I, page: &mut [f32], first: usize, keys: Mat, values: Mat) {
    fn body<I: Isa>(isa: I, page: &mut [f32], first: usize, keys: Mat, values: Mat) {
        let (n, head_dim) = (keys.rows(), keys.cols());
        assert_eq!(page.len(), page_len(head_dim), "a page for heads of {head_dim} columns");
        assert_eq!((values.rows(), values.cols()), (n, head_dim), "a value for each key");
        assert!(first + n <= PAGE, "places {first}..{} of a page of {PAGE}", first + n);
        let (key_page, value_page) = page.split_at_mut(PAGE * head_dim);
        if first == 0 && n > 1 {
            // No token has the places behind these.
            transpose_rows(isa, keys, key_page, PAGE);
        } else {
            for i in 0..n {
                for (row, &x) in key_page.chunks_exact_mut(PAGE).zip(keys.row(i)) {
                    row[first + i] = x;
                }
            }
        }
        for i in 0..n {
            value_page[(first + i) * head_dim..][..head_dim].copy_from_slice(values.row(i));
        }
    }
    compiled!(isa: I, body(page: &mut [f32], first: usize, keys: Mat, values: Mat));
}

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
pub fn attend_block_scratch_len<I: Isa>(isa: I, rows: usize, head_dim: usize) -> usize {
    rows * SCORE_STRIDE + gemm_scratch_len(isa, rows, PAGE, head_dim).max(gemm_scratch_len(isa, rows, head_dim, PAGE))
}

/// Writes the partial results of block `block` of the keys for all rows of `queries` to `partials` `[rows,
/// partial_cols(head_dim)]`; see the [module](super).
///
/// `page` gives the page that holds the keys from `PAGE · i` on, for each `i` from the first to the last that a row
/// sees. `scratch` holds at least [`attend_block_scratch_len`] elements. What `partials` and the scratch hold before is
/// never read; places of pages that no row sees change no result.
///
/// # Panics
/// If shapes disagree, a page has another length than [`page_len`], or the scratch is too short.
#[inline]
pub fn attend_block<'p, I: Isa>(
    isa: I,
    queries: BlockQueries,
    block: usize,
    page: impl Fn(usize) -> &'p [f32],
    partials: MatMut,
    scratch: &mut [f32],
) {
    let page: Pages = &page;
    compiled!(
        isa: I,
        attend(queries: BlockQueries, block: usize, page: Pages, partials: MatMut, scratch: &mut [f32])
    );
}

/// The pages of a key-value cache, by their number.
type Pages<'a, 'p> = &'a dyn Fn(usize) -> &'p [f32];

fn attend<'p, I: Isa>(
    isa: I,
    queries: BlockQueries,
    block: usize,
    page: Pages<'_, 'p>,
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
    let mut scores = MatMut::new(scores, rows, SCORE_STRIDE);
    let (mut out, mut stats) = partials.split_at_col(head_dim);
    let page = |i: usize| -> (&'p [f32], &'p [f32]) {
        let page = page(block * (KEY_BLOCK / PAGE) + first_page + i);
        assert_eq!(page.len(), page_len(head_dim), "a page for heads of {head_dim} columns");
        page.split_at(PAGE * head_dim)
    };
    if rows <= FEW_ROWS && head_dim <= FEW_DEPTH {
        few::scores(isa, q, keys, |i| page(i).0, scores.reborrow());
    } else {
        for (i, first) in (0..keys).step_by(PAGE).enumerate() {
            let n = (keys - first).min(PAGE).next_multiple_of(I::LANES);
            let k = Operand::normal(Mat::new(page(i).0, head_dim, PAGE).cols_range(0..n));
            let scores = scores.reborrow().cols_range(first..first + n);
            gemm(isa, Operand::normal(q), k, scores, Epilogue::default(), scratch);
        }
    }
    isa.vectorize(
        #[inline(always)]
        || {
            for row in 0..rows {
                let seen = queries.seen(row, block);
                let [start, end] = [seen.start, seen.end].map(|key| key.saturating_sub(first_page * PAGE).min(keys));
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
    if keys == 0 {
        (0..rows).for_each(|row| out.row_mut(row).fill(0.0));
    }
    let scores = scores.as_mat();
    if rows <= FEW_ROWS {
        return few::outputs(isa, scores, keys, |i| page(i).1, out);
    }
    for (i, first) in (0..keys).step_by(PAGE).enumerate() {
        let n = (keys - first).min(PAGE);
        let v = Operand::normal(Mat::new(page(i).1, PAGE, head_dim).rows_range(0..n));
        let update = if i == 0 { Update::Overwrite } else { Update::Accumulate };
        let weights = Operand::normal(scores.cols_range(first..first + n));
        gemm(isa, weights, v, out.reborrow(), Epilogue { update, ..Epilogue::default() }, scratch);
    }
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
