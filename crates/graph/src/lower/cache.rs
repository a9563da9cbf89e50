//! The key-value cache: how it lies in memory, appending to it, and attention over it.

use std::ops::Range;

use smallmind_kernels::attention::{
    AttentionDecodeBlock, AttentionDecodeCombine, AttentionForward, DECODE_BLOCK, attention_decode_block,
    attention_decode_combine, attention_decode_scratch_len, attention_forward_head, attention_forward_scratch_len,
};
use smallmind_kernels::elementwise::copy;
use smallmind_kernels::{Mat, MatMut, Part};
use smallmind_simd::Isa;

use crate::arena::{Frame, Sharing, Space, View};
use crate::graph::Node;
use crate::lower::attention::Deal;
use crate::lower::{COL_GRANULE, Lowering, ROW_GRANULE};
use crate::op::Heads;
use crate::plan::{Limits, Workers};
use crate::{Rows, Span};

/// A layer of the cache `[slots · parts · context, head_dim]`: the parts of a slot are the keys of each head, then the values of each. So what
/// a head reads of a sequence is adjacent: with all heads side by side, every key of a wide model would lie in a page of its own.
#[derive(Clone, Copy)]
struct Layer {
    view: View,
    context: usize,
    heads: Heads,
}

impl Layer {
    /// The rows of `positions` of a part of a slot.
    fn rows(&self, slot: usize, part: usize, positions: Range<usize>) -> Range<usize> {
        let first = (slot * 2 * self.heads.kv_heads + part) * self.context;
        first + positions.start..first + positions.end
    }

    /// The keys and the values of a head at `positions` of a slot, `[positions, head_dim]` each.
    fn read<'a>(
        &self,
        frame: &'a Frame<'_>,
        slot: usize,
        kv_head: usize,
        positions: Range<usize>,
    ) -> (Mat<'a>, Mat<'a>) {
        let part = |part| frame.mat(&self.view).rows_range(self.rows(slot, part, positions.clone()));
        (part(kv_head), part(self.heads.kv_heads + kv_head))
    }
}

/// Columns of what a block of keys gives for a head: the output, the maximum and the sum; whole cache lines.
fn partial_cols(head_dim: usize) -> usize {
    (head_dim + 2).next_multiple_of(COL_GRANULE)
}

/// Blocks of keys of a sequence, at most.
fn key_blocks(context: usize) -> usize {
    context.div_ceil(DECODE_BLOCK)
}

/// Rows and columns of what all blocks of keys give: a row for each sequence of one token and each head, side by side the blocks. None where
/// one block holds all keys.
pub(super) fn partials(heads: Heads, limits: &Limits) -> Option<(usize, usize)> {
    let sequences = limits.spans.min(limits.tokens);
    let cols = key_blocks(limits.context).saturating_mul(partial_cols(heads.head_dim));
    (limits.context > DECODE_BLOCK).then(|| (sequences.saturating_mul(heads.heads), cols))
}

/// Attention over a layer of the cache.
#[derive(Clone, Copy)]
struct Attend<I: Isa> {
    isa: I,
    qkv: View,
    layer: Layer,
    out: View,
}

impl<I: Isa> Lowering<'_, I> {
    fn cache_layer(&self, layer: usize, heads: Heads) -> Layer {
        let Some(shape) = self.cache else { unreachable!("the planner gives every plan with cached layers a cache") };
        let (rows, cols) = (shape.slots * 2 * heads.kv_heads * shape.context, heads.head_dim);
        let view = View { space: Space::Cache, offset: shape.offset(layer), rows: Rows::Fixed(rows), cols };
        Layer { view, context: shape.context, heads }
    }

    pub(super) fn cache_append(&mut self, node: &Node, layer: usize, heads: Heads) {
        let (isa, qkv) = (self.isa, self.view(node.inputs[0]));
        let layer = self.cache_layer(layer, heads);
        let own = Sharing::OwnRows { first: 0, max: self.max_rows(&qkv), granule: ROW_GRANULE };
        let accesses = vec![self.access(qkv, own, false), self.access(layer.view, Sharing::Mixed, true)];
        let run = move |frame: &Frame<'_>, part: Part| {
            let own = part.range(frame.batch.len(), ROW_GRANULE);
            for span in frame.batch.spans() {
                let rows = span.start.max(own.start)..(span.start + span.len).min(own.end);
                if rows.is_empty() {
                    continue;
                }
                let first = span.past + (rows.start - span.start);
                let kv = frame.mat(&qkv).rows_range(rows).cols_range(heads.q_cols()..heads.qkv_cols());
                for part in 0..2 * heads.kv_heads {
                    let to = layer.rows(span.slot, part, first..first + kv.rows());
                    let cols = part * heads.head_dim..(part + 1) * heads.head_dim;
                    copy(isa, kv.cols_range(cols), frame.mat_mut(&layer.view, to, 0..heads.head_dim));
                }
            }
        };
        self.push(Workers::All, accesses, 0, Box::new(run));
    }

    /// Sequences of several tokens go by blocks of queries. Those of one token go by blocks of keys, and where a sequence can have several, a
    /// second step adds up what they give.
    pub(super) fn cached_attention(&mut self, node: &Node, layer: usize, heads: Heads) {
        let attend = Attend {
            isa: self.isa,
            qkv: self.view(node.inputs[0]),
            layer: self.cache_layer(layer, heads),
            out: self.view(node.outputs[0]),
        };
        let partials = self.placed.temporaries[self.at.index()];
        let mut accesses = vec![
            self.access(attend.qkv, Sharing::Mixed, false),
            self.access(attend.layer.view, Sharing::Mixed, false),
            self.access(attend.out, Sharing::Mixed, true),
        ];
        accesses.extend(partials.map(|p| self.access(p, Sharing::Mixed, true)));
        let run = move |frame: &Frame<'_>, part: Part| {
            let (mut deal, scratch) = (Deal::new(part), frame.scratch(part.index));
            attend.queries(frame, &mut deal, scratch);
            attend.keys(frame, &mut deal, partials, scratch);
        };
        self.push(Workers::All, accesses, self.cached_attention_scratch_len(heads), Box::new(run));

        if let Some(partials) = partials {
            let accesses =
                vec![self.access(partials, Sharing::Mixed, false), self.access(attend.out, Sharing::Mixed, true)];
            let run = move |frame: &Frame<'_>, part: Part| attend.combine_all(frame, part, partials);
            self.push(Workers::All, accesses, 0, Box::new(run));
        }
    }

    fn cached_attention_scratch_len(&self, heads: Heads) -> usize {
        let Limits { tokens, context, .. } = self.limits;
        let keys = context.min(DECODE_BLOCK);
        let partials = heads.group() * partial_cols(heads.head_dim);
        let single = partials + attention_decode_scratch_len(heads.group(), keys);
        match context.min(tokens) {
            0..2 => single,
            len => single.max(attention_forward_scratch_len(self.isa, len, context, heads.head_dim)),
        }
    }
}

/// The sequences of one token, in order.
fn single<'a>(frame: &Frame<'a>) -> impl Iterator<Item = &'a Span> {
    frame.batch.spans().iter().filter(|s| s.len == 1)
}

/// A block of keys, for one sequence of one token and the query heads that share a key/value head.
struct Unit<'a> {
    span: &'a Span,
    kv_head: usize,
    keys: Range<usize>,
}

impl<I: Isa> Attend<I> {
    /// Sequences of several tokens.
    fn queries(&self, frame: &Frame<'_>, deal: &mut Deal, scratch: &mut [f32]) {
        let (qkv, heads) = (frame.mat(&self.qkv), self.layer.heads);
        for span in frame.batch.spans().iter().filter(|s| s.len > 1) {
            deal.blocks(span.len, heads.heads, |queries, head| {
                let rows = span.start + queries.start..span.start + queries.end;
                let (k, v) = self.layer.read(frame, span.slot, head / heads.group(), 0..span.past + queries.end);
                let call = AttentionForward {
                    q: qkv.rows_range(rows.clone()).cols_range(heads.q(head)),
                    k,
                    v,
                    past: span.past + queries.start,
                    scale: heads.scale,
                    dropout: None,
                    out: frame.mat_mut(&self.out, rows, heads.q(head)),
                    lse: None,
                };
                attention_forward_head(self.isa, call, scratch);
            });
        }
    }

    /// Sequences of one token, into `partials`, or where there are none into the output.
    fn keys(&self, frame: &Frame<'_>, deal: &mut Deal, partials: Option<View>, scratch: &mut [f32]) {
        let heads = self.layer.heads;
        let (group, cols) = (heads.group(), partial_cols(heads.head_dim));
        for (i, span) in single(frame).enumerate() {
            for (block, first) in (0..=span.past).step_by(DECODE_BLOCK).enumerate() {
                for kv_head in (0..heads.kv_heads).filter(|_| deal.next()) {
                    let unit = Unit { span, kv_head, keys: first..(first + DECODE_BLOCK).min(span.past + 1) };
                    if let Some(partials) = partials {
                        let row = i * heads.heads + kv_head * group;
                        let to = frame.mat_mut(&partials, row..row + group, block * cols..(block + 1) * cols);
                        self.block(frame, unit, to, scratch);
                    } else {
                        let (partial, scratch) = scratch.split_at_mut(group * cols);
                        self.block(frame, unit, MatMut::new(partial, group, cols), scratch);
                        for (i, partial) in partial.chunks(cols).enumerate() {
                            self.combine(frame, span, kv_head * group + i, Mat::new(partial, 1, cols));
                        }
                    }
                }
            }
        }
    }

    /// What one block of keys gives: for each head of the group a row of `to`.
    fn block(&self, frame: &Frame<'_>, unit: Unit<'_>, to: MatMut<'_>, scratch: &mut [f32]) {
        let Unit { span, kv_head, keys } = unit;
        let heads = self.layer.heads;
        let group = heads.group();
        let q = &frame.mat(&self.qkv).row(span.start)[heads.q(kv_head * group).start..];
        let (k, v) = self.layer.read(frame, span.slot, kv_head, keys);
        let (out, stats) = to.split_at_col(heads.head_dim);
        let call = AttentionDecodeBlock {
            q: Mat::new(q, group, heads.head_dim),
            k,
            v,
            scale: heads.scale,
            out,
            stats: stats.cols_range(0..2),
        };
        attention_decode_block(self.isa, call, scratch);
    }

    /// The output of a head from a row for each block of keys.
    fn combine(&self, frame: &Frame<'_>, span: &Span, head: usize, blocks: Mat<'_>) {
        let Heads { head_dim, .. } = self.layer.heads;
        let mut out = frame.mat_mut(&self.out, span.rows(), self.layer.heads.q(head));
        let call = AttentionDecodeCombine {
            partials: blocks.cols_range(0..head_dim),
            stats: blocks.cols_range(head_dim..head_dim + 2),
            out: out.row_mut(0),
        };
        attention_decode_combine(self.isa, call);
    }

    /// [`Attend::combine`] of all heads, where sequences have several blocks.
    fn combine_all(&self, frame: &Frame<'_>, part: Part, partials: View) {
        let heads = self.layer.heads;
        let mut deal = Deal::new(part);
        for (i, span) in single(frame).enumerate() {
            for head in (0..heads.heads).filter(|_| deal.next()) {
                let blocks = frame.mat(&partials).row(i * heads.heads + head);
                let blocks = Mat::new(blocks, key_blocks(span.past + 1), partial_cols(heads.head_dim));
                self.combine(frame, span, head, blocks);
            }
        }
    }
}
