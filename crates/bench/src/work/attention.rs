//! Attention of one sequence: the forward shared out by blocks of queries and heads, the backward by heads of keys.

use std::ops::Range;

use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::attention::{
    AttentionBackward, AttentionForward, AttentionShape, QUERY_BLOCK, attention_backward_group,
    attention_backward_scratch_len, attention_forward_head, attention_forward_scratch_len,
};
use smallmind_kernels::reference::{Matrix, attention};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Share, Work, Wrong, noisy_within, parts, run_once, sampled, split_cols, split_rows};
use crate::case::{Attention as Shape, Pass};

/// Queries whose outputs a check looks at.
const SAMPLES: usize = 6;
/// Queries at the end, with as many keys, whose gradients a check looks at: only they see those keys.
const TAIL: usize = 64;

/// The memory of an attention: `qkv` is `[len, (heads + 2·kv_heads)·head_dim]`.
pub(super) struct Attention {
    shape: Shape,
    qkv: Buffer,
    out: Buffer,
    lse: Buffer,
    dout: Buffer,
    dqkv: Buffer,
    scratch: Vec<Buffer>,
}

/// Columns of a row of queries, keys and values.
#[derive(Clone, Copy)]
struct Columns {
    q: usize,
    kv: usize,
    head_dim: usize,
}

impl Columns {
    fn of(shape: &Shape) -> Self {
        Self { q: shape.heads * shape.head_dim, kv: shape.kv_heads * shape.head_dim, head_dim: shape.head_dim }
    }

    fn all(self) -> usize {
        self.q + 2 * self.kv
    }

    fn head(self, head: usize) -> Range<usize> {
        head * self.head_dim..(head + 1) * self.head_dim
    }
}

/// `range`, moved on.
fn shifted(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

impl Attention {
    pub(super) fn new(shape: Shape) -> Result<Self, GraphError> {
        let columns = Columns::of(&shape);
        let Shape { len, .. } = shape;
        let backward = shape.pass == Pass::Backward;
        let mut work = Self {
            shape,
            qkv: noisy_within(1.0, 1, len * columns.all())?,
            out: Buffer::zeroed(len * columns.q)?,
            lse: Buffer::zeroed(len * shape.heads)?,
            dout: noisy_within(0.5, 3, if backward { len * columns.q } else { 0 })?,
            dqkv: Buffer::zeroed(if backward { len * columns.all() } else { 0 })?,
            scratch: vec![],
        };
        if backward {
            // The backward needs what the forward kept.
            run_once(work.forward(IsaKind::best(), 1)?, 1)?;
        }
        Ok(work)
    }

    fn forward(&mut self, isa: IsaKind, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        isa.with(Forward { work: self, threads })?
    }

    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// Queries, keys and values of a query head, `[rows, head_dim]` each, as the reference takes them.
    fn head(&self, head: usize, queries: Range<usize>, keys: Range<usize>) -> [Matrix; 3] {
        let columns = Columns::of(&self.shape);
        let take = |data: &[f32], width: usize, rows: Range<usize>, cols: Range<usize>| {
            Matrix::from_fn(rows.len(), cols.len(), |r, c| f64::from(data[(rows.start + r) * width + cols.start + c]))
        };
        let q = take(&self.qkv, columns.all(), queries, columns.head(head));
        let own = shifted(columns.head(head / self.group()), columns.q);
        let k = take(&self.qkv, columns.all(), keys.clone(), own.clone());
        let v = take(&self.qkv, columns.all(), keys, shifted(own, columns.kv));
        [q, k, v]
    }

    fn one_head(&self) -> AttentionShape {
        let Shape { head_dim, .. } = self.shape;
        AttentionShape { heads: 1, kv_heads: 1, head_dim, scale: self.scale(), dropout: None }
    }

    fn check_forward(&self) -> Result<(), Wrong> {
        Wrong::unless_finite("the output", &self.out)?;
        let Shape { heads, len, head_dim, .. } = self.shape;
        for row in sampled(len, SAMPLES) {
            for head in sampled(heads, 3) {
                let [q, k, v] = self.head(head, row..row + 1, 0..row + 1);
                let want = attention::causal_attention(&q, &k, &v, &self.one_head(), row).0;
                for c in 0..head_dim {
                    let got = self.out[row * heads * head_dim + head * head_dim + c];
                    Wrong::unless_close(|| format!("query {row}, head {head}, column {c}"), got, want.at(0, c), 1e-5)?;
                }
            }
        }
        Ok(())
    }

    /// The gradients of the last queries, keys and values of the first group of heads.
    fn check_backward(&self) -> Result<(), Wrong> {
        Wrong::unless_finite("the gradient", &self.dqkv)?;
        let Shape { len, head_dim, heads, .. } = self.shape;
        let columns = Columns::of(&self.shape);
        let tail = len.saturating_sub(TAIL)..len;
        let (mut dk, mut dv) = (Matrix::zeros(tail.len(), head_dim), Matrix::zeros(tail.len(), head_dim));
        let close = |what: &str, row: usize, col: usize, want: f64| {
            let got = self.dqkv[row * columns.all() + col];
            Wrong::unless_close(|| format!("{what}[{row}, {col}]"), got, want, 2e-5 * (1.0 + want.abs()))
        };
        for head in 0..self.group() {
            let [q, k, v] = self.head(head, tail.clone(), 0..len);
            let dout = Matrix::from_fn(tail.len(), head_dim, |r, c| {
                f64::from(self.dout[(tail.start + r) * heads * head_dim + head * head_dim + c])
            });
            let grads = attention::causal_attention_backward(&q, &k, &v, &dout, &self.one_head());
            for (r, row) in tail.clone().enumerate() {
                for c in 0..head_dim {
                    close("dq", row, head * head_dim + c, grads.dq.at(r, c))?;
                    *dk.at_mut(r, c) += grads.dk.at(row, c);
                    *dv.at_mut(r, c) += grads.dv.at(row, c);
                }
            }
        }
        for (r, row) in tail.enumerate() {
            for c in 0..head_dim {
                close("dk", row, columns.q + c, dk.at(r, c))?;
                close("dv", row, columns.q + columns.kv + c, dv.at(r, c))?;
            }
        }
        Ok(())
    }
}

impl Work for Attention {
    fn reset(&mut self) {
        match self.shape.pass {
            Pass::Forward => self.out.fill(f32::NAN),
            Pass::Backward => self.dqkv.fill(f32::NAN),
        }
    }

    fn shares(&mut self, isa: IsaKind, _: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        match self.shape.pass {
            Pass::Forward => self.forward(isa, threads),
            Pass::Backward => isa.with(Backward { work: self, threads })?,
        }
    }

    fn check(&self) -> Result<(), Wrong> {
        match self.shape.pass {
            Pass::Forward => self.check_forward(),
            Pass::Backward => self.check_backward(),
        }
    }
}

/// Scratch of `len` elements for each of `threads` workers.
fn scratch(buffers: &mut Vec<Buffer>, threads: usize, len: usize) -> Result<&mut [Buffer], GraphError> {
    if buffers.len() < threads || buffers.iter().any(|buffer| buffer.len() < len) {
        buffers.clear();
        for _ in 0..threads {
            buffers.push(Buffer::zeroed(len)?);
        }
    }
    Ok(&mut buffers[..threads])
}

/// Deals `units` out to the workers in turn, as the engine does since later ones cost more.
fn dealt<T>(units: impl IntoIterator<Item = T>, threads: usize) -> Vec<Vec<T>> {
    let mut hands: Vec<Vec<T>> = parts(threads).map(|_| vec![]).collect();
    for (i, unit) in units.into_iter().enumerate() {
        hands[i % threads].push(unit);
    }
    hands
}

struct Forward<'a> {
    work: &'a mut Attention,
    threads: usize,
}

/// A block of queries of one head.
struct Block<'a> {
    q: Mat<'a>,
    k: Mat<'a>,
    v: Mat<'a>,
    past: usize,
    out: MatMut<'a>,
    lse: MatMut<'a>,
}

impl<'a> WithIsa for Forward<'a> {
    type Output = Result<Vec<Share<'a>>, GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { work, threads } = self;
        let Shape { heads, len, head_dim, .. } = work.shape;
        let (columns, scale, group) = (Columns::of(&work.shape), work.scale(), work.group());
        let need = attention_forward_scratch_len(isa, len, len, head_dim);
        let Attention { qkv, out, lse, scratch: buffers, .. } = work;
        let buffers = scratch(buffers, threads, need)?;
        let qkv = Mat::new(qkv, len, columns.all());
        let blocks: Vec<Range<usize>> =
            (0..len).step_by(QUERY_BLOCK).map(|start| start..(start + QUERY_BLOCK).min(len)).collect();
        let of_heads = |width: usize| -> Vec<Range<usize>> { (0..heads).map(|h| h * width..(h + 1) * width).collect() };
        let outs = split_rows(MatMut::new(out, len, columns.q), &blocks);
        let outs = outs.into_iter().flat_map(|rows| split_cols(rows, &of_heads(head_dim)));
        let lses = split_rows(MatMut::new(lse, len, heads), &blocks);
        let lses = lses.into_iter().flat_map(|rows| split_cols(rows, &of_heads(1)));
        let units = blocks.iter().flat_map(|rows| (0..heads).map(move |head| (rows.clone(), head)));
        let block = |(((rows, head), out), lse): (((Range<usize>, usize), MatMut<'a>), MatMut<'a>)| {
            let (past, seen) = (rows.start, qkv.rows_range(0..rows.end));
            let own = shifted(columns.head(head / group), columns.q);
            Block {
                q: qkv.rows_range(rows).cols_range(columns.head(head)),
                k: seen.cols_range(own.clone()),
                v: seen.cols_range(shifted(own, columns.kv)),
                past,
                out,
                lse,
            }
        };
        let hands = dealt(units.zip(outs).zip(lses).map(block), threads);
        let share = |(mut hand, scratch): (Vec<Block<'a>>, &'a mut Buffer)| -> Share<'a> {
            Box::new(move |_| {
                for block in &mut hand {
                    let Block { q, k, v, past, .. } = *block;
                    let (out, lse) = (block.out.reborrow(), Some(block.lse.reborrow()));
                    let call = AttentionForward { q, k, v, past, scale, dropout: None, out, lse };
                    attention_forward_head(isa, call, scratch);
                }
            })
        };
        Ok(hands.into_iter().zip(buffers).map(share).collect())
    }
}

struct Backward<'a> {
    work: &'a mut Attention,
    threads: usize,
}

/// A head of keys with its query heads.
struct Group<'a> {
    q: Mat<'a>,
    k: Mat<'a>,
    v: Mat<'a>,
    out: Mat<'a>,
    dout: Mat<'a>,
    lse: Mat<'a>,
    dq: MatMut<'a>,
    dk: MatMut<'a>,
    dv: MatMut<'a>,
}

impl<'a> WithIsa for Backward<'a> {
    type Output = Result<Vec<Share<'a>>, GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { work, threads } = self;
        let Shape { heads, kv_heads, len, head_dim, .. } = work.shape;
        let (columns, scale, group) = (Columns::of(&work.shape), work.scale(), work.group());
        let need = attention_backward_scratch_len(isa, len, head_dim);
        let Attention { qkv, out, lse, dout, dqkv, scratch: buffers, .. } = work;
        let buffers = scratch(buffers, threads, need)?;
        let (qkv, lse) = (Mat::new(qkv, len, columns.all()), Mat::new(lse, len, heads));
        let (out, dout) = (Mat::new(out, len, columns.q), Mat::new(dout, len, columns.q));
        let (dq, dkv) = MatMut::new(dqkv, len, columns.all()).split_at_col(columns.q);
        let (dk, dv) = dkv.split_at_col(columns.kv);
        let of_groups =
            |width: usize| -> Vec<Range<usize>> { (0..kv_heads).map(|g| g * width..(g + 1) * width).collect() };
        let (dq, dk, dv) = (
            split_cols(dq, &of_groups(group * head_dim)),
            split_cols(dk, &of_groups(head_dim)),
            split_cols(dv, &of_groups(head_dim)),
        );
        let unit = |(((g, dq), dk), dv): (((usize, MatMut<'a>), MatMut<'a>), MatMut<'a>)| {
            let queries = g * group * head_dim..(g + 1) * group * head_dim;
            let keys = shifted(columns.head(g), columns.q);
            Group {
                q: qkv.cols_range(queries.clone()),
                k: qkv.cols_range(keys.clone()),
                v: qkv.cols_range(shifted(keys, columns.kv)),
                out: out.cols_range(queries.clone()),
                dout: dout.cols_range(queries),
                lse: lse.cols_range(g * group..(g + 1) * group),
                dq,
                dk,
                dv,
            }
        };
        let hands = dealt((0..kv_heads).zip(dq).zip(dk).zip(dv).map(unit), threads);
        let share = |(mut hand, scratch): (Vec<Group<'a>>, &'a mut Buffer)| -> Share<'a> {
            Box::new(move |_| {
                for unit in &mut hand {
                    let Group { q, k, v, out, dout, lse, .. } = *unit;
                    let (dq, dk, dv) = (unit.dq.reborrow(), unit.dk.reborrow(), unit.dv.reborrow());
                    let call = AttentionBackward { q, k, v, out, dout, lse, scale, dropout: None, dq, dk, dv };
                    attention_backward_group(isa, call, scratch);
                }
            })
        };
        Ok(hands.into_iter().zip(buffers).map(share).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use super::*;
    use crate::case::Problem;

    #[test]
    fn attention_holds() {
        for (heads, kv_heads) in [(2, 2), (4, 2)] {
            for context in [1, 5, 64, 70, 150] {
                let shape = Shape { heads, kv_heads, len: context, context, head_dim: 16, pass: Pass::Forward };
                holds(Problem::Attention(shape));
                holds(Problem::Attention(Shape { pass: Pass::Backward, ..shape }));
            }
        }
    }
}
