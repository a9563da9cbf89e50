//! Attention of whole sequences, forward and backward.

use std::ops::Range;

use smallmind_kernels::Part;
use smallmind_kernels::attention::{
    AttentionBackward, AttentionForward, HeadDropout, QUERY_BLOCK, attention_backward_group,
    attention_backward_scratch_len, attention_forward_head, attention_forward_scratch_len,
};
use smallmind_simd::Isa;

use crate::arena::{Frame, Sharing, View};
use crate::graph::Node;
use crate::lower::Lowering;
use crate::op::{DropoutSpec, Heads};
use crate::plan::Workers;

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

    fn dropout(
        self,
        spec: Option<DropoutSpec>,
        frame: &Frame<'_>,
        head: usize,
        first_row: usize,
    ) -> Option<HeadDropout> {
        let key = |d: DropoutSpec| d.key(frame.scalars);
        spec.map(|d| HeadDropout { key: key(d), p: d.probability, heads: self.heads, head, first_row })
    }
}

/// Deals units of work out to the workers, one after the other: for units that differ in cost.
pub(super) struct Deal {
    unit: usize,
    part: Part,
}

impl Deal {
    pub(super) fn new(part: Part) -> Self {
        Self { unit: 0, part }
    }

    /// Whether the next unit is this worker's.
    pub(super) fn next(&mut self) -> bool {
        let own = self.unit % self.part.count == self.part.index;
        self.unit += 1;
        own
    }

    /// Calls `work` for this worker's share of the blocks of `len` queries and the heads; later blocks cost more.
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
        let (qkv, out, lse) = (self.view(node.inputs[0]), self.view(node.outputs[0]), self.view(node.outputs[1]));
        let context = self.limits.context.min(self.limits.tokens);
        let scratch = attention_forward_scratch_len(isa, context, context, heads.head_dim);
        let accesses = vec![
            self.access(qkv, Sharing::Mixed, false),
            self.access(out, Sharing::Mixed, true),
            self.access(lse, Sharing::Mixed, true),
        ];
        let run = move |frame: &Frame<'_>, part: Part| {
            let qkv = frame.mat(&qkv);
            let mut deal = Deal::new(part);
            for span in frame.batch.spans() {
                deal.blocks(span.len, heads.heads, |queries, head| {
                    let rows = span.start + queries.start..span.start + queries.end;
                    let kv = span.start..rows.end;
                    let kv_head = head / heads.group();
                    let call = AttentionForward {
                        q: qkv.rows_range(rows.clone()).cols_range(heads.q(head)),
                        k: qkv.rows_range(kv.clone()).cols_range(heads.k(kv_head)),
                        v: qkv.rows_range(kv).cols_range(heads.v(kv_head)),
                        past: queries.start,
                        scale: heads.scale,
                        dropout: heads.dropout(dropout, frame, head, rows.start),
                        out: frame.mat_mut(&out, rows.clone(), heads.q(head)),
                        lse: Some(frame.mat_mut(&lse, rows, head..head + 1)),
                    };
                    attention_forward_head(isa, call, frame.scratch(part.index));
                });
            }
        };
        self.push(Workers::All, accesses, scratch, Box::new(run));
    }

    pub(super) fn attention_grad(&mut self, node: &Node, heads: Heads, dropout: Option<DropoutSpec>) {
        let isa = self.isa;
        let [dout, qkv, out, lse] = [0, 1, 2, 3].map(|i| self.view(node.inputs[i]));
        let dqkv = self.view(node.outputs[0]);
        let context = self.limits.context.min(self.limits.tokens);
        let scratch = attention_backward_scratch_len(isa, context, heads.head_dim);
        let mut accesses: Vec<_> =
            [dout, qkv, out, lse].iter().map(|v| self.access(*v, Sharing::Mixed, false)).collect();
        accesses.push(self.access(dqkv, Sharing::Mixed, true));
        let group = heads.group();
        let run = move |frame: &Frame<'_>, part: Part| {
            let spans = frame.batch.spans();
            for unit in part.interleaved(spans.len() * heads.kv_heads) {
                let (span, kv_head) = (&spans[unit / heads.kv_heads], unit % heads.kv_heads);
                let q_cols = heads.q(kv_head * group).start..heads.q((kv_head + 1) * group - 1).end;
                let read = |view: &View, cols: Range<usize>| frame.mat(view).rows_range(span.rows()).cols_range(cols);
                let write = |cols| frame.mat_mut(&dqkv, span.rows(), cols);
                let call = AttentionBackward {
                    q: read(&qkv, q_cols.clone()),
                    k: read(&qkv, heads.k(kv_head)),
                    v: read(&qkv, heads.v(kv_head)),
                    out: read(&out, q_cols.clone()),
                    dout: read(&dout, q_cols.clone()),
                    lse: read(&lse, kv_head * group..(kv_head + 1) * group),
                    scale: heads.scale,
                    dropout: heads.dropout(dropout, frame, kv_head * group, span.start),
                    dq: write(q_cols),
                    dk: write(heads.k(kv_head)),
                    dv: write(heads.v(kv_head)),
                };
                attention_backward_group(isa, call, frame.scratch(part.index));
            }
        };
        self.push(Workers::All, accesses, scratch, Box::new(run));
    }
}
