//! Blocks of queries through gemm, forward and backward.

use std::ops::Range;

use smallmind_simd::Isa;

use super::columns::{Columns, GradientTerms, exp_columns, gradient_columns, mask_columns};
use super::single::{dots, weighted_sum};
use super::{HeadDropout, QUERY_BLOCK, Scoring, score_stride};
use crate::compiled::compiled;
use crate::matmul::{Epilogue, Operand, Update, gemm};
use crate::softmax::{exp_row, scale_row};
use crate::{Mat, MatMut};

/// The arguments of [`attention_forward_head`]: one query head of one sequence, all its queries or adjacent ones.
pub struct AttentionForward<'a> {
    /// The queries `[len, head_dim]`.
    pub q: Mat<'a>,
    /// The keys of the head's group `[past + len, head_dim]`.
    pub k: Mat<'a>,
    /// The values of the head's group `[past + len, head_dim]`.
    pub v: Mat<'a>,
    /// How many positions precede the first query.
    pub past: usize,
    /// How queries score keys.
    pub scoring: Scoring,
    /// Dropout of the probabilities.
    pub dropout: Option<HeadDropout>,
    /// Receives the output `[len, head_dim]`.
    pub out: MatMut<'a>,
    /// Receives the log-sum-exp of each query's scaled scores, `[len, 1]`.
    pub lse: Option<MatMut<'a>>,
}

/// The arguments of [`attention_backward_group`]: one key/value head of one whole sequence and its group of query
/// heads.
pub struct AttentionBackward<'a> {
    /// The queries `[len, group * head_dim]`, head by head.
    pub q: Mat<'a>,
    /// The keys `[len, head_dim]`.
    pub k: Mat<'a>,
    /// The values `[len, head_dim]`.
    pub v: Mat<'a>,
    /// The output of the forward, `[len, group * head_dim]`.
    pub out: Mat<'a>,
    /// The gradient of the output, `[len, group * head_dim]`.
    pub dout: Mat<'a>,
    /// The log-sum-exp kept by the forward, `[len, group]`.
    pub lse: Mat<'a>,
    /// How queries score keys.
    pub scoring: Scoring,
    /// The forward's dropout, of the group's first head.
    pub dropout: Option<HeadDropout>,
    /// Receives the gradient of the queries, `[len, group * head_dim]`.
    pub dq: MatMut<'a>,
    /// Receives the gradient of the keys, summed over the group, `[len, head_dim]`.
    pub dk: MatMut<'a>,
    /// Receives the gradient of the values, summed over the group, `[len, head_dim]`.
    pub dv: MatMut<'a>,
}

/// The output of one query head: `O = (P ∘ M)·V` with `P = softmax(scale · Q·Kᵀ)` over the visible keys; see the
/// [module](super).
///
/// What the output and the scratch hold before is never read. The scratch holds
/// [`super::attention_forward_scratch_len`] elements. If it is aligned to 64 bytes, rows of scores begin on cache
/// lines.
///
/// # Panics
/// If shapes disagree or the scratch is too short.
#[inline]
pub fn attention_forward_head<I: Isa>(isa: I, call: AttentionForward, scratch: &mut [f32]) {
    compiled!(isa: I, forward_head(call: AttentionForward, scratch: &mut [f32]));
}

fn forward_head<I: Isa>(isa: I, call: AttentionForward, scratch: &mut [f32]) {
    let AttentionForward { q, k, v, past, scoring, dropout, mut out, mut lse } = call;
    let (len, head_dim) = (q.rows(), q.cols());
    assert_eq!((k.rows(), k.cols()), (past + len, head_dim), "a key for each position up to the last query");
    assert_eq!((v.rows(), v.cols()), (past + len, head_dim), "a value for each key");
    assert_eq!((out.rows(), out.cols()), (len, head_dim), "an output row for each query");
    assert!(lse.as_ref().is_none_or(|l| (l.rows(), l.cols()) == (len, 1)), "a log-sum-exp for each query");
    for rows in blocks(len) {
        let seen = scoring.first_key(past + rows.start)..past + rows.end;
        let block = Queries {
            q: q.rows_range(rows.clone()),
            k: k.rows_range(seen.clone()),
            v: v.rows_range(seen.clone()),
            scoring,
            dropout,
            first: rows.start,
            first_key: seen.start,
        };
        let out = out.reborrow().rows_range(rows.clone());
        let lse = lse.as_mut().map(|lse| lse.reborrow().rows_range(rows.clone()));
        if rows.len() == 1 {
            attend_single(isa, block, out, lse, scratch)
        } else {
            attend_query_block(isa, block, out, lse, scratch)
        }
    }
}

/// The blocks of `len` queries, in order.
fn blocks(len: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..len.div_ceil(QUERY_BLOCK)).map(move |b| b * QUERY_BLOCK..len.min((b + 1) * QUERY_BLOCK))
}

/// Up to [`QUERY_BLOCK`] queries and the keys that they see: from the first that the first query sees to the last that
/// the last query does.
#[derive(Clone, Copy)]
struct Queries<'a> {
    /// `[rows, head_dim]`.
    q: Mat<'a>,
    /// `[limit, head_dim]`; the last key that row `r` of `q` sees is number `limit - rows + r`.
    k: Mat<'a>,
    /// `[limit, head_dim]`.
    v: Mat<'a>,
    scoring: Scoring,
    dropout: Option<HeadDropout>,
    /// The first query's row in the call; dropout needs it.
    first: usize,
    /// The first key's position in the sequence.
    first_key: usize,
}

/// The output `[1, head_dim]` and log-sum-exp `[1, 1]` of a block of one query: nothing is packed.
fn attend_single<I: Isa>(isa: I, block: Queries, mut out: MatMut, mut lse: Option<MatMut>, scratch: &mut [f32]) {
    let keys = block.k.rows();
    let mut scores = MatMut::new(scratch, 1, keys);
    isa.vectorize(
        #[inline(always)]
        || {
            dots(isa, block.q.row(0), block.k, scores.row_mut(0));
            let scale = block.scoring.cap_scores(isa, scores.row_mut(0));
            let total = exp_row(isa, scores.row_mut(0), scale);
            if let Some(lse) = &mut lse {
                lse.row_mut(0)[0] = total.log_sum_exp();
            }
            if let Some(dropout) = block.dropout {
                for (key, score) in scores.row_mut(0).iter_mut().enumerate() {
                    *score *= dropout.mask(block.first, block.first_key + key);
                }
            }
            weighted_sum(isa, scores.as_mat().row(0), block.v, out.row_mut(0));
            scale_row(isa, out.row_mut(0), 1.0 / total.sum);
        },
    );
}

fn attend_query_block<I: Isa>(isa: I, block: Queries, mut out: MatMut, mut lse: Option<MatMut>, scratch: &mut [f32]) {
    let columns = block.columns();
    let Columns { limit, queries, stride, .. } = columns;
    let (scores, rest) = scratch.split_at_mut(limit * stride);
    let product = MatMut::with_stride(scores, limit, queries, stride);
    gemm(isa, Operand::normal(block.k), Operand::transposed(block.q), product, Epilogue::default(), rest);
    let totals = isa.vectorize(
        #[inline(always)]
        || exp_columns(isa, columns, scores),
    );
    if let Some(lse) = &mut lse {
        (0..queries).for_each(|r| lse.row_mut(r)[0] = totals.log_sum_exp(r));
    }
    if let Some(dropout) = block.dropout {
        isa.vectorize(
            #[inline(always)]
            || mask_columns(isa, columns, dropout, block.first, scores),
        );
    }
    let weights = Operand::transposed(Mat::with_stride(scores, limit, queries, stride));
    gemm(isa, weights, Operand::normal(block.v), out.reborrow(), Epilogue::default(), rest);
    isa.vectorize(
        #[inline(always)]
        || {
            for (r, sum) in totals.sum[..queries].iter().enumerate() {
                scale_row(isa, out.row_mut(r), 1.0 / sum);
            }
        },
    );
}

impl Queries<'_> {
    /// The shape of the block's transposed scores.
    fn columns(&self) -> Columns {
        let queries = self.q.rows();
        let limit = self.k.rows();
        Columns {
            limit,
            queries,
            stride: score_stride(queries),
            window: self.scoring.window.map_or(limit, |window| window.min(limit)),
            first_key: self.first_key,
            scoring: self.scoring,
        }
    }
}

/// The gradients of a group of query heads and their shared key/value head, from `dout`; see the [module](super).
///
/// `dq`, `dk` and `dv` are overwritten. What they and the scratch hold before is never read. The scratch holds
/// [`super::attention_backward_scratch_len`] elements. If it is aligned to 64 bytes, rows of scores begin on cache
/// lines.
///
/// # Panics
/// If shapes disagree or the scratch is too short.
#[inline]
pub fn attention_backward_group<I: Isa>(isa: I, call: AttentionBackward, scratch: &mut [f32]) {
    compiled!(isa: I, backward_group(call: AttentionBackward, scratch: &mut [f32]));
}

fn backward_group<I: Isa>(isa: I, mut call: AttentionBackward, scratch: &mut [f32]) {
    let group = check_backward(&call);
    let (len, head_dim) = (call.k.rows(), call.k.cols());
    let of_last_block = blocks(len).next_back().map_or(0, |rows| call.scoring.first_key(rows.start));
    for key in 0..of_last_block {
        call.dk.row_mut(key).fill(0.0);
        call.dv.row_mut(key).fill(0.0);
    }
    let mut update = Update::Overwrite;
    for head in 0..group {
        let columns = head * head_dim..(head + 1) * head_dim;
        let (q, out, dout) = (
            call.q.cols_range(columns.clone()),
            call.out.cols_range(columns.clone()),
            call.dout.cols_range(columns.clone()),
        );
        for rows in blocks(len).rev() {
            let seen = call.scoring.first_key(rows.start)..rows.end;
            let queries = Queries {
                q: q.rows_range(rows.clone()),
                k: call.k.rows_range(seen.clone()),
                v: call.v.rows_range(seen.clone()),
                scoring: call.scoring,
                dropout: call.dropout.map(|d| d.for_head_after(head)),
                first: rows.start,
                first_key: seen.start,
            };
            let block = BackwardBlock {
                queries,
                out: out.rows_range(rows.clone()),
                dout: dout.rows_range(rows.clone()),
                lse: call.lse.rows_range(rows.clone()).cols_range(head..head + 1),
                dq: call.dq.reborrow().rows_range(rows).cols_range(columns.clone()),
                dk: call.dk.reborrow().rows_range(seen.clone()),
                dv: call.dv.reborrow().rows_range(seen),
                update,
            };
            backward_block(isa, block, scratch);
            update = Update::Accumulate;
        }
    }
}

/// `a·b`, of one length.
#[inline(always)]
fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
    let (mut a, mut b) = (a.chunks_exact(I::LANES), b.chunks_exact(I::LANES));
    let mut sum = isa.zero();
    for (a, b) in (&mut a).zip(&mut b) {
        sum = isa.mul_add(isa.load(a), isa.load(b), sum);
    }
    isa.sum(isa.mul_add(isa.load_partial(a.remainder()), isa.load_partial(b.remainder()), sum))
}

/// Asserts that the shapes agree; returns the number of query heads.
fn check_backward(call: &AttentionBackward) -> usize {
    let (len, head_dim, group) = (call.k.rows(), call.k.cols(), call.lse.cols());
    let keys = (len, head_dim);
    let queries = (len, group * head_dim);
    assert!(group > 0, "a group of no query heads leaves the gradients of its keys undefined");
    assert_eq!((call.v.rows(), call.v.cols()), keys, "a value for each key");
    assert_eq!((call.dk.rows(), call.dk.cols()), keys, "a gradient for each key");
    assert_eq!((call.dv.rows(), call.dv.cols()), keys, "a gradient for each value");
    assert_eq!((call.q.rows(), call.q.cols()), queries, "a query for each position and head");
    assert_eq!((call.out.rows(), call.out.cols()), queries, "an output for each query");
    assert_eq!((call.dout.rows(), call.dout.cols()), queries, "a gradient for each output");
    assert_eq!((call.dq.rows(), call.dq.cols()), queries, "a gradient for each query");
    assert_eq!(call.lse.rows(), len, "a log-sum-exp for each position");
    group
}

/// The arguments of [`backward_block`].
struct BackwardBlock<'a> {
    queries: Queries<'a>,
    /// `[rows, head_dim]`.
    out: Mat<'a>,
    /// `[rows, head_dim]`.
    dout: Mat<'a>,
    /// `[rows, 1]`.
    lse: Mat<'a>,
    /// `[rows, head_dim]`.
    dq: MatMut<'a>,
    /// `[limit, head_dim]`.
    dk: MatMut<'a>,
    /// `[limit, head_dim]`.
    dv: MatMut<'a>,
    /// Whether `dk` and `dv` already hold the sum over earlier blocks.
    update: Update,
}

fn backward_block<I: Isa>(isa: I, block: BackwardBlock, scratch: &mut [f32]) {
    let BackwardBlock { queries: block, out, dout, lse, dq, dk, dv, update } = block;
    let columns = block.columns();
    let Columns { limit, queries, stride, .. } = columns;
    let (scores, rest) = scratch.split_at_mut(limit * stride);
    let (grads, rest) = rest.split_at_mut(limit * stride);
    for (keys, rows, product) in [(block.k, block.q, &mut *scores), (block.v, dout, &mut *grads)] {
        let product = MatMut::with_stride(product, limit, queries, stride);
        gemm(isa, Operand::normal(keys), Operand::transposed(rows), product, Epilogue::default(), rest);
    }
    let mut terms = GradientTerms { lse: [0.0; QUERY_BLOCK], delta: [0.0; QUERY_BLOCK] };
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..queries {
                terms.lse[r] = lse.row(r)[0];
                terms.delta[r] = dot(isa, dout.row(r), out.row(r));
            }
            if let Some(dropout) = block.dropout {
                mask_columns(isa, columns, dropout, block.first, grads);
            }
            gradient_columns(isa, columns, scores, grads, &terms);
            if let Some(dropout) = block.dropout {
                mask_columns(isa, columns, dropout, block.first, scores);
            }
        },
    );
    let sum = Epilogue { update, ..Epilogue::default() };
    let (p, ds) = (Mat::with_stride(scores, limit, queries, stride), Mat::with_stride(grads, limit, queries, stride));
    gemm(isa, Operand::transposed(ds), Operand::normal(block.k), dq, Epilogue::default(), rest);
    gemm(isa, Operand::normal(ds), Operand::normal(block.q), dk, sum, rest);
    gemm(isa, Operand::normal(p), Operand::normal(dout), dv, sum, rest);
}
