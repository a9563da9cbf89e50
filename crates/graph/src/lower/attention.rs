//! Attention: the only operations, with rope, that know of spans.

use std::ops::Range;

use smallmind_kernels::attention::{
    AttentionBackward, AttentionForward, HeadDropout, QUERY_BLOCK, attention_backward_group,
    attention_backward_scratch_len, attention_forward_head, attention_forward_scratch_len,
};
use smallmind_kernels::elementwise::copy;
use smallmind_kernels::{Mat, Part};
use smallmind_simd::Isa;

use crate::arena::{Frame, Sharing, Space, View};
use crate::graph::Node;
use crate::lower::{Lowering, ROW_GRANULE};
use crate::op::{DropoutSpec, Heads};
use crate::plan::Workers;
use crate::{Rows, Span};

impl Heads {
    fn q(self, head: usize) -> Range<usize> {
        head * self.head_dim..(head + 1) * self.head_dim
    }

    fn k(self, kv_head: usize) -> Range<usize> {
        let start = self.q_cols() + kv_head * self.head_dim;
        start..start + self.head_dim
    }

    fn v(self, kv_head: usize) -> Range<usize> {
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

/// Calls `work` for this worker's share of (span, block of queries, head), dealt out in turn since later blocks cost more.
fn for_each_block(spans: &[Span], heads: usize, part: Part, mut work: impl FnMut(&Span, Range<usize>, usize)) {
    let mut unit = 0;
    for span in spans {
        for start in (0..span.len).step_by(QUERY_BLOCK) {
            let queries = start..(start + QUERY_BLOCK).min(span.len);
            for head in 0..heads {
                if unit % part.count == part.index {
                    work(span, queries.clone(), head);
                }
                unit += 1;
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
            for_each_block(frame.batch.spans(), heads.heads, part, |span, queries, head| {
                let rows = span.start + queries.start..span.start + queries.end;
                let kv = span.start..rows.end;
                let kv_head = head / heads.group();
                let call = AttentionForward {
                    q: qkv.rows_range(rows.clone()).cols_range(heads.q(head)),
                    k: qkv.rows_range(kv.clone()).cols_range(heads.k(kv_head)),
                    v: qkv.rows_range(kv).cols_range(heads.v(kv_head)),
                    past: queries.start,
                    scale: heads.scale(),
                    dropout: heads.dropout(dropout, frame, head, rows.start),
                    out: frame.mat_mut(&out, rows.clone(), heads.q(head)),
                    lse: Some(frame.mat_mut(&lse, rows, head..head + 1)),
                };
                attention_forward_head(isa, call, frame.scratch(part.index));
            });
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
                    scale: heads.scale(),
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

    /// A layer of the cache: a row for each slot and position, keys then values.
    fn cache_view(&self, layer: usize) -> (View, usize) {
        let Some(shape) = self.cache else { unreachable!("the planner gives every plan with cached layers a cache") };
        let (rows, cols) = (shape.rows(), shape.cols());
        (View { space: Space::Cache, offset: layer * rows * cols, rows: Rows::Fixed(rows), cols }, shape.context)
    }

    pub(super) fn cache_append(&mut self, node: &Node, layer: usize, heads: Heads) {
        let (isa, qkv) = (self.isa, self.view(node.inputs[0]));
        let (cache, context) = self.cache_view(layer);
        let own = Sharing::OwnRows { first: 0, max: self.max_rows(&qkv) };
        let accesses = vec![self.access(qkv, own, false), self.access(cache, Sharing::Mixed, true)];
        let kv = heads.q_cols()..heads.qkv_cols();
        let run = move |frame: &Frame<'_>, part: Part| {
            let own = part.range(frame.batch.len(), ROW_GRANULE);
            for span in frame.batch.spans() {
                let rows = span.start.max(own.start)..(span.start + span.len).min(own.end);
                if rows.is_empty() {
                    continue;
                }
                let first = span.slot * context + span.past + (rows.start - span.start);
                let to = frame.mat_mut(&cache, first..first + rows.len(), 0..cache.cols);
                copy(isa, frame.mat(&qkv).rows_range(rows).cols_range(kv.clone()), to);
            }
        };
        self.push(Workers::All, accesses, 0, Box::new(run));
    }

    pub(super) fn cached_attention(&mut self, node: &Node, layer: usize, heads: Heads) {
        let isa = self.isa;
        let (qkv, out) = (self.view(node.inputs[0]), self.view(node.outputs[0]));
        let (cache, context) = self.cache_view(layer);
        let len = context.min(self.limits.tokens);
        let scratch = attention_forward_scratch_len(isa, len, context, heads.head_dim);
        let accesses = vec![
            self.access(qkv, Sharing::Mixed, false),
            self.access(cache, Sharing::Mixed, false),
            self.access(out, Sharing::Mixed, true),
        ];
        let run = move |frame: &Frame<'_>, part: Part| {
            let (qkv, cache): (Mat<'_>, Mat<'_>) = (frame.mat(&qkv), frame.mat(&cache));
            for_each_block(frame.batch.spans(), heads.heads, part, |span, queries, head| {
                let rows = span.start + queries.start..span.start + queries.end;
                let first = span.slot * context;
                let seen = cache.rows_range(first..first + span.past + queries.end);
                // The cache holds keys and values without the queries before them.
                let kv_head = head / heads.group();
                let cols = |range: Range<usize>| range.start - heads.q_cols()..range.end - heads.q_cols();
                let call = AttentionForward {
                    q: qkv.rows_range(rows.clone()).cols_range(heads.q(head)),
                    k: seen.cols_range(cols(heads.k(kv_head))),
                    v: seen.cols_range(cols(heads.v(kv_head))),
                    past: span.past + queries.start,
                    scale: heads.scale(),
                    dropout: None,
                    out: frame.mat_mut(&out, rows, heads.q(head)),
                    lse: None,
                };
                attention_forward_head(isa, call, frame.scratch(part.index));
            });
        };
        self.push(Workers::All, accesses, scratch, Box::new(run));
    }
}
