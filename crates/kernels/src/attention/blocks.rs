//! Blocks of queries through gemm, forward and backward.

use std::ops::Range;

use smallmind_simd::{Isa, math};

use super::single::{attend_single, dot};
use super::{HeadDropout, QUERY_BLOCK, score_stride};
use crate::matmul::{Epilogue, Operand, Update, gemm};
use crate::softmax::{exp_row, multiply_row, scale_row};
use crate::{Mat, MatMut};

/// The arguments of [`attention_forward_head`]: one query head of one sequence, or a run of its queries.
pub struct AttentionForward<'a> {
    /// The queries `[len, head_dim]`.
    pub q: Mat<'a>,
    /// The keys of the head's group `[past + len, head_dim]`.
    pub k: Mat<'a>,
    /// The values of the head's group `[past + len, head_dim]`.
    pub v: Mat<'a>,
    /// How many positions precede the first query.
    pub past: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Dropout of the probabilities.
    pub dropout: Option<HeadDropout>,
    /// Receives the output `[len, head_dim]`.
    pub out: MatMut<'a>,
    /// Receives the log-sum-exp of each query's scaled scores, `[len, 1]`.
    pub lse: Option<MatMut<'a>>,
}

/// The arguments of [`attention_backward_group`]: one key/value head of one whole sequence and its group of query heads.
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
    /// What scores are multiplied by.
    pub scale: f32,
    /// The forward's dropout, of the group's first head.
    pub dropout: Option<HeadDropout>,
    /// Receives the gradient of the queries, `[len, group * head_dim]`.
    pub dq: MatMut<'a>,
    /// Receives the gradient of the keys, summed over the group, `[len, head_dim]`.
    pub dk: MatMut<'a>,
    /// Receives the gradient of the values, summed over the group, `[len, head_dim]`.
    pub dv: MatMut<'a>,
}

/// The output of one query head: `O = (P ∘ M)·V` with `P = softmax(scale · Q·Kᵀ)` over the visible keys; see the [module](super).
///
/// What the output and the scratch hold before is never read. The scratch holds [`super::attention_forward_scratch_len`] elements; with 64-byte
/// alignment rows of scores lie on cache lines.
///
/// # Panics
/// If shapes disagree or the scratch is too short.
pub fn attention_forward_head<I: Isa>(isa: I, call: AttentionForward, scratch: &mut [f32]) {
    let AttentionForward { q, k, v, past, scale, dropout, mut out, mut lse } = call;
    let (len, head_dim) = (q.rows(), q.cols());
    assert_eq!((k.rows(), k.cols()), (past + len, head_dim), "a key for each position up to the last query");
    assert_eq!((v.rows(), v.cols()), (past + len, head_dim), "a value for each key");
    assert_eq!((out.rows(), out.cols()), (len, head_dim), "an output row for each query");
    assert!(lse.as_ref().is_none_or(|l| (l.rows(), l.cols()) == (len, 1)), "a log-sum-exp for each query");
    for rows in blocks(len) {
        let limit = past + rows.end;
        let block = Queries {
            q: q.rows_range(rows.clone()),
            k: k.rows_range(0..limit),
            v: v.rows_range(0..limit),
            scale,
            dropout,
            first: rows.start,
        };
        let out = out.reborrow().rows_range(rows.clone());
        let lse = lse.as_mut().map(|lse| lse.reborrow().rows_range(rows.clone()));
        if rows.len() == 1 {
            attend_single(isa, block, out, lse, scratch)
        } else {
            attend_block(isa, block, out, lse, scratch)
        }
    }
}

/// The blocks of `len` queries, in order.
fn blocks(len: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..len.div_ceil(QUERY_BLOCK)).map(move |b| b * QUERY_BLOCK..len.min((b + 1) * QUERY_BLOCK))
}

/// Up to [`QUERY_BLOCK`] queries and what the last of them sees.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    /// `[rows, head_dim]`.
    pub q: Mat<'a>,
    /// `[limit, head_dim]`; row `r` of `q` sees `limit - rows + r + 1` of them.
    pub k: Mat<'a>,
    /// `[limit, head_dim]`.
    pub v: Mat<'a>,
    pub scale: f32,
    pub dropout: Option<HeadDropout>,
    /// The first query's row in the call, which dropout counts from.
    pub first: usize,
}

impl Queries<'_> {
    /// How many keys row `r` sees.
    #[inline(always)]
    fn seen(&self, r: usize) -> usize {
        self.k.rows() - self.q.rows() + r + 1
    }
}

fn attend_block<I: Isa>(isa: I, block: Queries, mut out: MatMut, mut lse: Option<MatMut>, scratch: &mut [f32]) {
    let (rows, limit) = (block.q.rows(), block.k.rows());
    let stride = score_stride(limit);
    let (scores, rest) = scratch.split_at_mut(rows * stride);
    let (mask, rest) = rest.split_at_mut(stride);
    let mut scores = MatMut::with_stride(scores, rows, limit, stride);
    gemm(isa, Operand::normal(block.q), Operand::transposed(block.k), scores.reborrow(), Epilogue::default(), rest);
    let mut sums = [0.0; QUERY_BLOCK];
    isa.vectorize(
        #[inline(always)]
        || {
            for (r, sum) in sums[..rows].iter_mut().enumerate() {
                let (seen, unseen) = scores.row_mut(r).split_at_mut(block.seen(r));
                let total = exp_row(isa, seen, block.scale);
                unseen.fill(0.0);
                *sum = total.sum;
                if let Some(lse) = &mut lse {
                    lse.row_mut(r)[0] = total.log_sum_exp();
                }
                if let Some(dropout) = block.dropout {
                    let mask = &mut mask[..seen.len()];
                    dropout.mask_row(isa, block.first + r, mask);
                    multiply_row(isa, seen, mask);
                }
            }
        },
    );
    gemm(isa, Operand::normal(scores.as_mat()), Operand::normal(block.v), out.reborrow(), Epilogue::default(), rest);
    isa.vectorize(
        #[inline(always)]
        || {
            for (r, sum) in sums[..rows].iter().enumerate() {
                scale_row(isa, out.row_mut(r), 1.0 / sum);
            }
        },
    );
}

/// The gradients of a group of query heads and their shared key/value head, from `dout`; see the [module](super).
///
/// `dq`, `dk` and `dv` are overwritten. What they and the scratch hold before is never read. The scratch holds
/// [`super::attention_backward_scratch_len`] elements; with 64-byte alignment rows of scores lie on cache lines.
///
/// # Panics
/// If shapes disagree or the scratch is too short.
pub fn attention_backward_group<I: Isa>(isa: I, mut call: AttentionBackward, scratch: &mut [f32]) {
    let group = check_backward(&call);
    let (len, head_dim) = (call.k.rows(), call.k.cols());
    let mut update = Update::Overwrite;
    for head in 0..group {
        let columns = head * head_dim..(head + 1) * head_dim;
        let (q, out, dout) = (
            call.q.cols_range(columns.clone()),
            call.out.cols_range(columns.clone()),
            call.dout.cols_range(columns.clone()),
        );
        for rows in blocks(len).rev() {
            let seen = 0..rows.end;
            let queries = Queries {
                q: q.rows_range(rows.clone()),
                k: call.k.rows_range(seen.clone()),
                v: call.v.rows_range(seen.clone()),
                scale: call.scale,
                dropout: call.dropout.map(|d| d.head_offset(head)),
                first: rows.start,
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

/// Asserts that the shapes agree; gives the number of query heads.
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

/// What [`backward_block`] works on.
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
    let BackwardBlock { queries, out, dout, lse, dq, dk, dv, update } = block;
    let (rows, limit) = (queries.q.rows(), queries.k.rows());
    let stride = score_stride(limit);
    let (scores, rest) = scratch.split_at_mut(rows * stride);
    let (d_scores, rest) = rest.split_at_mut(rows * stride);
    let (mask, rest) = rest.split_at_mut(stride);
    let mut scores = MatMut::with_stride(scores, rows, limit, stride);
    let mut d_scores = MatMut::with_stride(d_scores, rows, limit, stride);
    gemm(isa, Operand::normal(queries.q), Operand::transposed(queries.k), scores.reborrow(), Epilogue::default(), rest);
    gemm(isa, Operand::normal(dout), Operand::transposed(queries.v), d_scores.reborrow(), Epilogue::default(), rest);
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..rows {
                let seen = queries.seen(r);
                let (p, unseen) = scores.row_mut(r).split_at_mut(seen);
                unseen.fill(0.0);
                let (ds, unseen) = d_scores.row_mut(r).split_at_mut(seen);
                unseen.fill(0.0);
                let terms =
                    RowTerms { lse: lse.row(r)[0], delta: dot(isa, dout.row(r), out.row(r)), scale: queries.scale };
                match queries.dropout {
                    None => gradient_row(isa, p, ds, terms),
                    Some(dropout) => {
                        let mask = &mut mask[..seen];
                        dropout.mask_row(isa, queries.first + r, mask);
                        masked_gradient_row(isa, p, ds, mask, terms);
                    }
                }
            }
        },
    );
    let sum = Epilogue { update, ..Epilogue::default() };
    let (p, ds) = (scores.as_mat(), d_scores.as_mat());
    gemm(isa, Operand::normal(ds), Operand::normal(queries.k), dq, Epilogue::default(), rest);
    gemm(isa, Operand::transposed(ds), Operand::normal(queries.q), dk, sum, rest);
    gemm(isa, Operand::transposed(p), Operand::normal(dout), dv, sum, rest);
}

/// What the gradient of one query's scores needs besides the row itself.
#[derive(Clone, Copy)]
struct RowTerms {
    lse: f32,
    /// `D = dO·O`.
    delta: f32,
    scale: f32,
}

impl RowTerms {
    /// `P = exp(scale·S − lse)` and `dS = scale·P ∘ (dP − D)`, for a vector of `S` and `dP`.
    #[inline(always)]
    fn gradient<I: Isa>(self, isa: I, s: I::F32, dp: I::F32) -> (I::F32, I::F32) {
        let p = math::exp(isa, isa.mul_add(s, isa.splat(self.scale), isa.splat(-self.lse)));
        (p, isa.mul(isa.mul(p, isa.splat(self.scale)), isa.sub(dp, isa.splat(self.delta))))
    }

    /// The same with dropout: gives `P ∘ M` and the `dS` of `dP = M ∘ G`.
    #[inline(always)]
    fn masked_gradient<I: Isa>(self, isa: I, s: I::F32, g: I::F32, m: I::F32) -> (I::F32, I::F32) {
        let (p, ds) = self.gradient(isa, s, isa.mul(m, g));
        (isa.mul(p, m), ds)
    }
}

/// `S` becomes `P`, and `dP = dO·Vᵀ` becomes `dS`.
#[inline(always)]
fn gradient_row<I: Isa>(isa: I, scores: &mut [f32], grads: &mut [f32], terms: RowTerms) {
    let mut s = scores.chunks_exact_mut(I::LANES);
    let mut g = grads.chunks_exact_mut(I::LANES);
    for (s, g) in (&mut s).zip(&mut g) {
        let (p, ds) = terms.gradient(isa, isa.load(s), isa.load(g));
        isa.store(p, s);
        isa.store(ds, g);
    }
    let (s, g) = (s.into_remainder(), g.into_remainder());
    let (p, ds) = terms.gradient(isa, isa.load_partial(s), isa.load_partial(g));
    isa.store_partial(p, s);
    isa.store_partial(ds, g);
}

/// `S` becomes `P ∘ M`, and `G = dO·Vᵀ` becomes `dS`.
#[inline(always)]
fn masked_gradient_row<I: Isa>(isa: I, scores: &mut [f32], grads: &mut [f32], mask: &[f32], terms: RowTerms) {
    let mut s = scores.chunks_exact_mut(I::LANES);
    let mut g = grads.chunks_exact_mut(I::LANES);
    let mut m = mask.chunks_exact(I::LANES);
    for ((s, g), m) in (&mut s).zip(&mut g).zip(&mut m) {
        let (p, ds) = terms.masked_gradient(isa, isa.load(s), isa.load(g), isa.load(m));
        isa.store(p, s);
        isa.store(ds, g);
    }
    let (s, g, m) = (s.into_remainder(), g.into_remainder(), m.remainder());
    let (p, ds) = terms.masked_gradient(isa, isa.load_partial(s), isa.load_partial(g), isa.load_partial(m));
    isa.store_partial(p, s);
    isa.store_partial(ds, g);
}
