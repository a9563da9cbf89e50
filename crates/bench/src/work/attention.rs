//! Attention: of a whole sequence, and of one token over a cache.

use std::ops::Range;

use smallmind_graph::op::Heads;
use smallmind_graph::{GraphError, Op};
use smallmind_kernels::attention::{AttentionShape, Scoring};
use smallmind_kernels::reference::{Matrix, attention};

use super::engine::{Engine, OneOp};
use super::values::Values;
use super::{Found, Target, Wrong, sampled};
use crate::case::{Attention as Shape, Pass};

/// Up to this many pairs of a query and a key, over all heads, everything is checked.
const ALL_CHECKED: usize = 1 << 17;
/// Queries and heads of a longer sequence whose outputs a check looks at.
const QUERIES: usize = 6;
const HEADS: usize = 3;
/// The gradients of this many last queries, and of as many last keys, are checked: only these queries see these keys.
const TAIL: usize = 64;

/// The kernels' error bound of the output and the log-sum-exps, as a fraction of the greatest magnitude or of 1.
const OUTPUT: f64 = 4e-6;
/// The kernels' error bound of gradients, likewise.
const GRADIENT: f64 = 1e-5;

/// The heads of a case, and their columns of queries, keys and values.
#[derive(Clone, Copy)]
struct Columns {
    heads: Heads,
    qkv: Values,
}

impl Columns {
    fn group(self) -> usize {
        self.heads.heads / self.heads.kv_heads
    }

    fn of(self, part: usize) -> Range<usize> {
        part * self.heads.head_dim..(part + 1) * self.heads.head_dim
    }

    /// Queries, keys and values of a query head, `[rows, head_dim]` each.
    fn head(self, head: usize, queries: Range<usize>, keys: Range<usize>) -> [Matrix; 3] {
        let kv_head = self.heads.heads + head / self.group();
        let (k, v) = (self.of(kv_head), self.of(kv_head + self.heads.kv_heads));
        [self.qkv.matrix(queries, self.of(head)), self.qkv.matrix(keys.clone(), k), self.qkv.matrix(keys, v)]
    }

    /// The shape of a single head, for the reference.
    fn one(self) -> AttentionShape {
        let Heads { head_dim, scale, cap, window, .. } = self.heads;
        let scoring = Scoring { scale, cap, window };
        AttentionShape { heads: 1, kv_heads: 1, head_dim, scoring, dropout: None }
    }
}

/// Attention of a whole sequence, or its gradient.
pub(super) fn sequence(shape: Shape, on: Target) -> Result<Engine, GraphError> {
    let Shape { heads, kv_heads, len, head_dim, pass, .. } = shape;
    let heads = Heads::new(heads, kv_heads, head_dim);
    let mut op = OneOp::new(len);
    let (qkv, values) = op.input(1, 1.0, heads.qkv_cols())?;
    let columns = Columns { heads, qkv: values };
    let forward = Op::Attention { heads, dropout: None };
    match pass {
        Pass::Forward => {
            let outputs = op.timed(forward, &[qkv])?;
            op.result("out", outputs[0]);
            op.result("lse", outputs[1]);
            op.ready(None, on, Box::new(move |found| compare_forward(columns, len, found)))
        }
        Pass::Backward => {
            let outputs = op.before(forward, &[qkv])?;
            let (dout, gradient) = op.input(3, 0.5, heads.q_cols())?;
            let inputs = [dout, qkv, outputs[0], outputs[1]];
            let dqkv = op.timed(Op::AttentionGrad { heads, dropout: None }, &inputs)?;
            op.result("dqkv", dqkv[0]);
            op.ready(None, on, Box::new(move |found| compare_backward(columns, len, gradient, found)))
        }
    }
}

/// An error unless `found` has the elements of `want` in output `which`, from row and column `at` on.
fn close(
    found: &Found<'_>,
    which: usize,
    (row, col): (usize, usize),
    want: &Matrix,
    relative: f64,
) -> Result<(), Wrong> {
    let bound = relative * want.data.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
    for r in 0..want.rows {
        for c in 0..want.cols {
            found.close(which, (row + r, col + c), want.at(r, c), bound)?;
        }
    }
    Ok(())
}

fn compare_forward(columns: Columns, len: usize, found: &Found<'_>) -> Result<(), Wrong> {
    let heads = columns.heads.heads;
    let all = len * len * heads <= ALL_CHECKED;
    for row in sampled(len, if all { len } else { QUERIES }) {
        for head in sampled(heads, if all { heads } else { HEADS }) {
            let [q, k, v] = columns.head(head, row..row + 1, 0..row + 1);
            let (out, lse) = attention::causal_attention(&q, &k, &v, &columns.one(), row);
            close(found, 0, (row, columns.of(head).start), &out, OUTPUT)?;
            close(found, 1, (row, head), &lse, OUTPUT)?;
        }
    }
    Ok(())
}

/// The gradients of the last queries, keys and values.
fn compare_backward(columns: Columns, len: usize, dout: Values, found: &Found<'_>) -> Result<(), Wrong> {
    let Heads { heads, kv_heads, head_dim, .. } = columns.heads;
    let all = len * len * heads <= ALL_CHECKED;
    let tail = if all { 0 } else { len.saturating_sub(TAIL) }..len;
    for kv_head in sampled(kv_heads, if all { kv_heads } else { 2 }) {
        let (mut dk, mut dv) = (Matrix::zeros(tail.len(), head_dim), Matrix::zeros(tail.len(), head_dim));
        for head in kv_head * columns.group()..(kv_head + 1) * columns.group() {
            let [q, k, v] = columns.head(head, tail.clone(), 0..len);
            let dout = dout.matrix(tail.clone(), columns.of(head));
            let grads = attention::causal_attention_backward(&q, &k, &v, &dout, &columns.one());
            close(found, 0, (tail.start, columns.of(head).start), &grads.dq, GRADIENT)?;
            for (sum, grad) in [(&mut dk, &grads.dk), (&mut dv, &grads.dv)] {
                let tail = &grad.data[tail.start * head_dim..];
                sum.data.iter_mut().zip(tail).for_each(|(sum, x)| *sum += x);
            }
        }
        close(found, 0, (tail.start, columns.of(heads + kv_head).start), &dk, GRADIENT)?;
        close(found, 0, (tail.start, columns.of(heads + kv_heads + kv_head).start), &dv, GRADIENT)?;
    }
    Ok(())
}

/// Attention of one token over a cache, in which the keys of a head are adjacent, and so are its values.
pub(super) fn decode(shape: Shape, on: Target) -> Result<Engine, GraphError> {
    let Shape { heads, kv_heads, context, head_dim, .. } = shape;
    let heads = Heads::new(heads, kv_heads, head_dim);
    let cache = Values::new(2, 1.0, 2 * kv_heads * context, head_dim);
    let mut op = OneOp::cached(context - 1, cache);
    let (qkv, values) = op.input(1, 1.0, heads.qkv_cols())?;
    let out = op.timed(Op::CachedAttention { layer: 0, heads }, &[qkv])?;
    op.result("out", out[0]);
    let columns = Columns { heads, qkv: values };
    op.ready(None, on, Box::new(move |found| compare_decode(columns, cache, context, found)))
}

fn compare_decode(columns: Columns, cache: Values, context: usize, found: &Found<'_>) -> Result<(), Wrong> {
    let Heads { heads, kv_heads, head_dim, .. } = columns.heads;
    for head in sampled(heads, if context * heads <= ALL_CHECKED { heads } else { HEADS }) {
        let kv_head = head / columns.group();
        let cached = |part: usize| cache.matrix(part * context..(part + 1) * context, 0..head_dim);
        let (q, k, v) = (columns.qkv.matrix(0..1, columns.of(head)), cached(kv_head), cached(kv_heads + kv_head));
        let out = attention::causal_attention(&q, &k, &v, &columns.one(), context - 1).0;
        close(found, 0, (0, columns.of(head).start), &out, OUTPUT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use super::*;
    use crate::case::Problem;

    #[test]
    fn attention_of_sequences_holds() {
        for (heads, kv_heads) in [(2, 2), (4, 2)] {
            for context in [1, 5, 64, 70, 150] {
                let shape = Shape { heads, kv_heads, len: context, context, head_dim: 16, pass: Pass::Forward };
                holds(Problem::Attention(shape));
                holds(Problem::Attention(Shape { pass: Pass::Backward, ..shape }));
            }
        }
    }

    #[test]
    fn attention_of_one_token_holds() {
        for (heads, kv_heads, context) in [(1, 1, 2), (4, 2, 40), (6, 2, 513), (4, 4, 1100)] {
            let pass = Pass::Forward;
            holds(Problem::Attention(Shape { heads, kv_heads, head_dim: 24, len: 1, context, pass }));
        }
    }
}
