//! The key-value cache: how it lies in memory, appending to it, and attention over it.
#![allow(unsafe_code)]

use std::ops::Range;

use smallmind_kernels::attention::{
    AttentionDecodeBlock, AttentionDecodeCombine, AttentionForward, DECODE_BLOCK, attention_decode_block,
    attention_decode_combine, attention_decode_scratch_len, attention_forward_head, attention_forward_scratch_len,
};
use smallmind_kernels::elementwise::copy;
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::Isa;

use crate::access::{Read, Sharing, Space, View, Write};
use crate::frame::Worker;
use crate::graph::Node;
use crate::lower::attention::RoundRobin;
use crate::lower::{COL_GRANULE, Lowering, OWN_ROWS};
use crate::op::Heads;
use crate::step::Workers;
use crate::{Limits, Rows, Span};

/// A layer of the cache `[slots · parts · context, head_dim]`: the parts of a slot are the keys of each head, then the
/// values of each. So what a head reads of a sequence is adjacent: with all heads side by side, every key of a wide
/// model would lie in a page of its own.
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
    fn read<'a>(&self, cache: Mat<'a>, slot: usize, kv_head: usize, positions: Range<usize>) -> (Mat<'a>, Mat<'a>) {
        let part = |part| cache.rows_range(self.rows(slot, part, positions.clone()));
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

/// Rows and columns of what all blocks of keys give: a row for each sequence of one token and each head, side by side
/// the blocks. None where one block holds all keys.
pub(super) fn partials(heads: Heads, limits: &Limits) -> Option<(usize, usize)> {
    let sequences = limits.spans.min(limits.tokens);
    let cols = key_blocks(limits.context).saturating_mul(partial_cols(heads.head_dim));
    (limits.context > DECODE_BLOCK).then(|| (sequences.saturating_mul(heads.heads), cols))
}

/// Attention over a layer of the cache.
#[derive(Clone, Copy)]
struct Attend<I: Isa> {
    isa: I,
    layer: Layer,
    qkv: Read,
    cache: Read,
    out: Write,
    /// What blocks of keys give, where a sequence can have several.
    partials: Option<Write>,
}

impl<I: Isa> Lowering<'_, I> {
    fn cache_layer(&self, layer: usize, heads: Heads) -> Layer {
        let Some(shape) = self.cache else { unreachable!("the planner gives every plan with cached layers a cache") };
        let (rows, cols) = (shape.slots * 2 * heads.kv_heads * shape.context, heads.head_dim);
        let view = View::new(Space::Cache, shape.offset(layer), Rows::Fixed(rows), cols);
        Layer { view, context: shape.context, heads }
    }

    pub(super) fn cache_append(&mut self, node: &Node, layer: usize, heads: Heads) {
        let isa = self.isa;
        let layer = self.cache_layer(layer, heads);
        let qkv = self.read(self.view(node.inputs[0]), OWN_ROWS);
        let cache = self.write(layer.view, Sharing::Unpartitioned);
        self.push(Workers::All, 0, move |w| {
            let (own, rows_of_own) = (w.own_rows(qkv), w.own(qkv));
            for span in w.batch().spans() {
                let rows = span.start.max(own.start)..(span.start + span.len).min(own.end);
                if rows.is_empty() {
                    continue;
                }
                let first = span.past + (rows.start - span.start);
                let kv = rows_of_own.rows_range(rows.start - own.start..rows.end - own.start);
                let kv = kv.cols_range(heads.q_cols()..heads.qkv_cols());
                for part in 0..2 * heads.kv_heads {
                    let to = layer.rows(span.slot, part, first..first + kv.rows());
                    let cols = part * heads.head_dim..(part + 1) * heads.head_dim;
                    // SAFETY: each token is in one worker's own rows, and has rows of the cache of its own: the spans
                    // of a batch have different slots (`Batch::check`), and the tokens of a span different positions.
                    let to = unsafe { w.window_mut(cache, to, 0..heads.head_dim) };
                    copy(isa, kv.cols_range(cols), to);
                }
            }
        });
    }

    /// Sequences of several tokens go by blocks of queries. Those of one token go by blocks of keys, and where a
    /// sequence can have several, a second step adds up what they give.
    pub(super) fn cached_attention(&mut self, node: &Node, layer: usize, heads: Heads) {
        let (isa, layer) = (self.isa, self.cache_layer(layer, heads));
        let partials = self.placed.temporaries[self.at.index()];
        let attend = Attend {
            isa,
            layer,
            qkv: self.read(self.view(node.inputs[0]), Sharing::Unpartitioned),
            cache: self.read(layer.view, Sharing::Unpartitioned),
            out: self.write(self.view(node.outputs[0]), Sharing::Unpartitioned),
            partials: partials.map(|p| self.write(p, Sharing::Unpartitioned)),
        };
        self.push(Workers::All, self.cached_attention_scratch_len(heads), move |w| {
            let (mut units, scratch) = (RoundRobin::new(w.part()), w.scratch());
            attend.queries(w, &mut units, scratch);
            attend.keys(w, &mut units, scratch);
        });

        if let Some(partials) = partials {
            let partials = self.read(partials, Sharing::Unpartitioned);
            let out = self.write(self.view(node.outputs[0]), Sharing::Unpartitioned);
            self.push(Workers::All, 0, move |w| combine_all(isa, heads, w, partials, out));
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
fn single<'a>(w: &Worker<'a>) -> impl Iterator<Item = &'a Span> {
    w.batch().spans().iter().filter(|s| s.len == 1)
}

/// A block of keys, for one sequence of one token and the query heads that share a key/value head.
struct Unit<'a> {
    span: &'a Span,
    kv_head: usize,
    keys: Range<usize>,
}

impl<I: Isa> Attend<I> {
    /// Sequences of several tokens.
    fn queries(&self, w: &Worker<'_>, units: &mut RoundRobin, scratch: &mut [f32]) {
        let (qkv, cache, heads) = (w.all(self.qkv), w.all(self.cache), self.layer.heads);
        for span in w.batch().spans().iter().filter(|s| s.len > 1) {
            units.blocks(span.len, heads.heads, |queries, head| {
                let rows = span.start + queries.start..span.start + queries.end;
                let (k, v) = self.layer.read(cache, span.slot, head / heads.group(), 0..span.past + queries.end);
                let call = AttentionForward {
                    q: qkv.rows_range(rows.clone()).cols_range(heads.q(head)),
                    k,
                    v,
                    past: span.past + queries.start,
                    scale: heads.scale,
                    dropout: None,
                    // SAFETY: a block of queries of a head is one unit, which one worker takes once; units have
                    // different rows or columns, as spans don't overlap, and those of one token have rows of their own.
                    out: unsafe { w.window_mut(self.out, rows, heads.q(head)) },
                    lse: None,
                };
                attention_forward_head(self.isa, call, scratch);
            });
        }
    }

    /// Sequences of one token, into `partials`, or where there are none into the output.
    fn keys(&self, w: &Worker<'_>, units: &mut RoundRobin, scratch: &mut [f32]) {
        let heads = self.layer.heads;
        let (group, cols) = (heads.group(), partial_cols(heads.head_dim));
        for (i, span) in single(w).enumerate() {
            for (block, first) in (0..=span.past).step_by(DECODE_BLOCK).enumerate() {
                for kv_head in (0..heads.kv_heads).filter(|_| units.next()) {
                    let unit = Unit { span, kv_head, keys: first..(first + DECODE_BLOCK).min(span.past + 1) };
                    if let Some(partials) = self.partials {
                        let row = i * heads.heads + kv_head * group;
                        let cols = block * cols..(block + 1) * cols;
                        // SAFETY: a block of keys of a key/value head of a sequence is one unit, which one worker takes
                        // once; it has columns of its own among the blocks, and rows of its own among the sequences and
                        // heads.
                        let to = unsafe { w.window_mut(partials, row..row + group, cols) };
                        self.block(w, unit, to, scratch);
                    } else {
                        let (partial, scratch) = scratch.split_at_mut(group * cols);
                        self.block(w, unit, MatMut::new(partial, group, cols), scratch);
                        for (i, partial) in partial.chunks(cols).enumerate() {
                            let head = kv_head * group + i;
                            // SAFETY: without partial sums a sequence has one block of keys, so that its unit alone
                            // writes the heads of the group, one after the other.
                            let out = unsafe { w.window_mut(self.out, span.rows(), heads.q(head)) };
                            combine(self.isa, heads, Mat::new(partial, 1, cols), out);
                        }
                    }
                }
            }
        }
    }

    /// What one block of keys gives: for each head of the group a row of `to`.
    fn block(&self, w: &Worker<'_>, unit: Unit<'_>, to: MatMut<'_>, scratch: &mut [f32]) {
        let Unit { span, kv_head, keys } = unit;
        let heads = self.layer.heads;
        let group = heads.group();
        let q = &w.all(self.qkv).row(span.start)[heads.q(kv_head * group).start..];
        let (k, v) = self.layer.read(w.all(self.cache), span.slot, kv_head, keys);
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
}

/// The output of a head from a row for each block of keys.
fn combine<I: Isa>(isa: I, heads: Heads, blocks: Mat<'_>, mut out: MatMut<'_>) {
    let Heads { head_dim, .. } = heads;
    let call = AttentionDecodeCombine {
        partials: blocks.cols_range(0..head_dim),
        stats: blocks.cols_range(head_dim..head_dim + 2),
        out: out.row_mut(0),
    };
    attention_decode_combine(isa, call);
}

/// [`combine`] of all heads, where sequences have several blocks.
fn combine_all<I: Isa>(isa: I, heads: Heads, w: &Worker<'_>, partials: Read, out: Write) {
    let mut units = RoundRobin::new(w.part());
    let partials = w.all(partials);
    for (i, span) in single(w).enumerate() {
        for head in (0..heads.heads).filter(|_| units.next()) {
            let blocks = partials.row(i * heads.heads + head);
            let blocks = Mat::new(blocks, key_blocks(span.past + 1), partial_cols(heads.head_dim));
            // SAFETY: a head of a sequence is one unit, which one worker takes once.
            let out = unsafe { w.window_mut(out, span.rows(), heads.q(head)) };
            combine(isa, heads, blocks, out);
        }
    }
}
