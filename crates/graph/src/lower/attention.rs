//! Attention of whole sequences, forward and backward.
//!
//! It is divided into units of unequal cost, dealt to the workers round robin. So what a worker writes is neither its
//! own rows nor its own columns.
#![allow(unsafe_code)]

use std::ops::Range;

use smallmind_kernels::Part;
use smallmind_kernels::attention::{
    AttentionBackward, AttentionForward, HeadDropout, QUERY_BLOCK, attention_backward_group,
    attention_backward_scratch_len, attention_forward_head, attention_forward_scratch_len,
};
use smallmind_simd::Isa;

use crate::access::Sharing;
use crate::frame::Worker;
use crate::graph::Node;
use crate::lower::Lowering;
use crate::op::{DropoutSpec, Heads};
use crate::step::Workers;

impl Heads {
    pub(super) fn q(self, head: usize) -> Range<usize> {
        head * self.head_dim..(head + 1) * self.head_dim
    }

    pub(super) fn k(self, kv_head: usize) -> Range<usize> {
        let start = self.q_cols() + kv_head * self.head_dim;
        start..start + self.head_dim
    }

    pub(super) fn v(self, kv_head: usize) -> Range<usize> {
        let start = self.q_cols() + self.kv_cols() + kv_head * self.head_dim;
        start..start + self.head_dim
    }

    fn dropout(self, spec: Option<DropoutSpec>, w: &Worker<'_>, head: usize, first_row: usize) -> Option<HeadDropout> {
        let key = |d: DropoutSpec| d.key(w.scalars());
        spec.map(|d| HeadDropout { key: key(d), p: d.probability, heads: self.heads, head, first_row })
    }
}

/// Deals units of work to the workers back and forth (0, 1, 2, 2, 1, 0, 0, …): if no unit costs less than the one
/// before, all workers get about the same work.
pub(super) struct RoundRobin {
    unit: usize,
    part: Part,
}

impl RoundRobin {
    pub(super) fn new(part: Part) -> Self {
        Self { unit: 0, part }
    }

    /// Whether the next unit is this worker's.
    pub(super) fn next(&mut self) -> bool {
        let (round, place) = (self.unit / self.part.count, self.unit % self.part.count);
        self.unit += 1;
        self.part.index == if round.is_multiple_of(2) { place } else { self.part.count - 1 - place }
    }

    /// Calls `work` for this worker's pairs of a block of the `len` queries and a head. Later blocks cost more.
    pub(super) fn blocks(&mut self, len: usize, heads: usize, mut work: impl FnMut(Range<usize>, usize)) {
        for start in (0..len).step_by(QUERY_BLOCK) {
            for head in (0..heads).filter(|_| self.next()) {
                work(start..(start + QUERY_BLOCK).min(len), head);
            }
        }
    }
}

impl<I: Isa> Lowering<'_, I> {
    pub(super) fn attention(&mut self, node: &Node, heads: Heads, dropout: Option<DropoutSpec>) {
        let isa = self.isa;
        let context = self.limits.context.min(self.limits.tokens);
        let scratch = attention_forward_scratch_len(isa, context, context, heads.head_dim);
        let qkv = self.read(self.view(node.inputs[0]), Sharing::Unpartitioned);
        let [out, lse] = [0, 1].map(|i| self.write(self.view(node.outputs[i]), Sharing::Unpartitioned));
        self.push(Workers::All, scratch, move |w| {
            let (qkv, scratch) = (w.all(qkv), w.scratch());
            let mut units = RoundRobin::new(w.part());
            for span in w.batch().spans() {
                units.blocks(span.len, heads.heads, |queries, head| {
                    let rows = span.start + queries.start..span.start + queries.end;
                    let kv = span.start..rows.end;
                    let kv_head = head / heads.group();
                    // SAFETY: a block of queries of a head is one unit, which one worker takes once; units have
                    // different rows or columns, as spans don't overlap.
                    let write = |to, cols| unsafe { w.window_mut(to, rows.clone(), cols) };
                    let call = AttentionForward {
                        q: qkv.rows_range(rows.clone()).cols_range(heads.q(head)),
                        k: qkv.rows_range(kv.clone()).cols_range(heads.k(kv_head)),
                        v: qkv.rows_range(kv).cols_range(heads.v(kv_head)),
                        past: queries.start,
                        scoring: heads.scoring(),
                        dropout: heads.dropout(dropout, w, head, rows.start),
                        out: write(out, heads.q(head)),
                        lse: Some(write(lse, head..head + 1)),
                    };
                    attention_forward_head(isa, call, scratch);
                });
            }
        });
    }

    pub(super) fn attention_grad(&mut self, node: &Node, heads: Heads, dropout: Option<DropoutSpec>) {
        let isa = self.isa;
        let context = self.limits.context.min(self.limits.tokens);
        let scratch = attention_backward_scratch_len(isa, context, heads.head_dim);
        let inputs = [0, 1, 2, 3].map(|i| self.read(self.view(node.inputs[i]), Sharing::Unpartitioned));
        let dqkv = self.write(self.view(node.outputs[0]), Sharing::Unpartitioned);
        let group = heads.group();
        self.push(Workers::All, scratch, move |w| {
            let ([dout, qkv, out, lse], scratch) = (inputs.map(|input| w.all(input)), w.scratch());
            let spans = w.batch().spans();
            for unit in w.part().interleaved(spans.len() * heads.kv_heads) {
                let (span, kv_head) = (&spans[unit / heads.kv_heads], unit % heads.kv_heads);
                let q_cols = heads.q(kv_head * group).start..heads.q((kv_head + 1) * group - 1).end;
                // SAFETY: a key/value head of a span with its query heads is one unit, which one worker takes once;
                // units have different rows or columns, as spans don't overlap, and so have the queries, keys and
                // values of a unit.
                let write = |cols| unsafe { w.window_mut(dqkv, span.rows(), cols) };
                let call = AttentionBackward {
                    q: qkv.rows_range(span.rows()).cols_range(q_cols.clone()),
                    k: qkv.rows_range(span.rows()).cols_range(heads.k(kv_head)),
                    v: qkv.rows_range(span.rows()).cols_range(heads.v(kv_head)),
                    out: out.rows_range(span.rows()).cols_range(q_cols.clone()),
                    dout: dout.rows_range(span.rows()).cols_range(q_cols.clone()),
                    lse: lse.rows_range(span.rows()).cols_range(kv_head * group..(kv_head + 1) * group),
                    scoring: heads.scoring(),
                    dropout: heads.dropout(dropout, w, kv_head * group, span.start),
                    dq: write(q_cols),
                    dk: write(heads.k(kv_head)),
                    dv: write(heads.v(kv_head)),
                };
                attention_backward_group(isa, call, scratch);
            }
        });
    }
}
