//! The key-value cache: appending to its pages, and attention over them.
//!
//! Both are divided into units of unequal cost, dealt to the workers round robin. So what a worker writes is neither
//! its own rows nor its own columns.
#![allow(unsafe_code)]

use std::ops::Range;

use smallmind_kernels::attention::{
    BlockQueries, CacheFormat, KEY_BLOCK, PAGE, PageMut, Pages, QUERY_BLOCK, Scoring, append_to_page, attend_block,
    attend_block_scratch_len, fold, fold_end, page_len, partial_cols,
};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::Isa;

use crate::access::{Read, Sharing, Space, View, Write};
use crate::frame::Worker;
use crate::graph::Node;
use crate::lower::attention::RoundRobin;
use crate::lower::{COL_GRANULE, Lowering, SHARED_ELEMENTS};
use crate::op::{Heads, Op};
use crate::step::Workers;
use crate::{Batch, Limits, Rows, Span};

/// The most query rows that are worked on at once: few enough for their scores to stay in the second-level cache.
const UNIT_ROWS: usize = 96;

/// The most tokens of a span that workers divide by blocks of keys as well. Longer spans make enough units for all
/// workers by themselves.
const SHORT_SPAN: usize = 32;

/// A layer of the cache, `[pages · kv_heads, page_len(format, head_dim)]`: page after page, a row for each key/value head.
#[derive(Clone, Copy)]
struct Layer {
    view: View,
    heads: Heads,
    format: CacheFormat,
}

impl Layer {
    /// The row of a head in a page.
    fn row(&self, page: u32, kv_head: usize) -> usize {
        page as usize * self.heads.kv_heads + kv_head
    }
}

/// Tokens of a span that are worked on at once.
fn unit_tokens(heads: Heads) -> usize {
    (UNIT_ROWS / heads.group()).clamp(1, QUERY_BLOCK)
}

/// Columns of the partial result of a block of keys for a head, rounded up to whole cache lines.
fn padded_partial_cols(head_dim: usize) -> usize {
    partial_cols(head_dim).next_multiple_of(COL_GRANULE)
}

/// Rows and columns of the partial results of the spans that are divided by blocks of keys: a row for each token and
/// each head, the blocks side by side. None if one block holds all keys.
pub(super) fn partials(heads: Heads, limits: &Limits) -> Option<(usize, usize)> {
    let all = limits.context.div_ceil(KEY_BLOCK);
    // The windows of a span's queries together begin and end anywhere in a block.
    let in_window = |window: usize| window.saturating_add(SHORT_SPAN).div_ceil(KEY_BLOCK) + 1;
    let blocks = heads.window.map_or(all, |window| in_window(window).min(all));
    let cols = blocks.saturating_mul(padded_partial_cols(heads.head_dim));
    (limits.context > KEY_BLOCK).then(|| (partial_tokens(limits).saturating_mul(heads.heads), cols))
}

/// The most tokens of a batch in spans that are divided by blocks of keys.
fn partial_tokens(limits: &Limits) -> usize {
    limits.tokens.min(limits.spans.max(SHORT_SPAN))
}

/// The spans of a batch. Those that are cut over keys come with the number of their first token's partials, of which
/// there is room for `room` tokens.
fn spans(batch: &Batch, heads: Heads, room: usize) -> impl Iterator<Item = (&Span, Option<usize>)> {
    let mut used = 0;
    batch.spans().iter().map(move |span| {
        let is_divided = span_blocks(span, heads).len() > 1 && span.len <= SHORT_SPAN.min(room - used);
        let first = used;
        used += if is_divided { span.len } else { 0 };
        (span, is_divided.then_some(first))
    })
}

/// The blocks of keys that some token of a span sees.
fn span_blocks(span: &Span, heads: Heads) -> Range<usize> {
    let first = heads.scoring().first_key(span.past) / KEY_BLOCK;
    first..(span.past + span.len).div_ceil(KEY_BLOCK)
}

/// The columns of the partials of a block of keys.
fn partial_range(span: &Span, heads: Heads, block: usize) -> Range<usize> {
    let start = (block - span_blocks(span, heads).start) * padded_partial_cols(heads.head_dim);
    start..start + partial_cols(heads.head_dim)
}

/// The rows of the partials of some tokens of a span, of which the first token's partials are number `first`.
fn partial_rows(heads: Heads, span: &Span, first: usize, tokens: Range<usize>, kv_head: usize) -> Range<usize> {
    let start = first * heads.heads + kv_head * span.len * heads.group();
    start + tokens.start * heads.group()..start + tokens.end * heads.group()
}

/// Attention over a layer of the cache.
#[derive(Clone, Copy)]
struct Attend<I: Isa> {
    isa: I,
    layer: Layer,
    qkv: Read,
    cache: Read,
    out: Write,
    /// The partial results of blocks of keys, and for how many tokens there is memory.
    partials: Option<(Write, usize)>,
}

/// Adjacent tokens of a span, for the query heads that share a key/value head.
struct Unit<'a> {
    span: &'a Span,
    /// Tokens, counted within the span.
    tokens: Range<usize>,
    kv_head: usize,
}

impl Unit<'_> {
    /// The rows of the batch.
    fn rows(&self) -> Range<usize> {
        self.span.start + self.tokens.start..self.span.start + self.tokens.end
    }

    /// The position of its first token.
    fn position(&self) -> usize {
        self.span.past + self.tokens.start
    }

    /// The blocks of keys that some token of it sees.
    fn blocks(&self, scoring: Scoring) -> Range<usize> {
        scoring.first_key(self.position()) / KEY_BLOCK..(self.span.past + self.tokens.end).div_ceil(KEY_BLOCK)
    }

    /// How many of its tokens see a key before `key`, which is above 0.
    fn seeing_before(&self, key: usize, scoring: Scoring) -> usize {
        scoring.first_behind(key).saturating_sub(self.position()).min(self.tokens.len())
    }
}

impl<I: Isa> Lowering<'_, I> {
    fn cache_layer(&self, layer: usize, heads: Heads) -> Layer {
        let Some(shape) = self.cache else { unreachable!("the planner gives every plan with cached layers a cache") };
        let (rows, cols) = (shape.pages * heads.kv_heads, page_len(shape.format, heads.head_dim));
        let view = View::new(Space::Cache, shape.offset(layer), Rows::Fixed(rows), cols);
        Layer { view, heads, format: shape.format }
    }

    /// Workers share the pages of spans by heads, not by tokens: in a page the keys of adjacent tokens are interleaved.
    pub(super) fn cache_append(&mut self, node: &Node, layer: usize, heads: Heads) {
        let (isa, layer) = (self.isa, self.cache_layer(layer, heads));
        let few = self.limits.tokens * 2 * heads.qkv_cols() < SHARED_ELEMENTS;
        // Worker 0 alone rotates the keys of few tokens, and then can append them without a barrier.
        let is_rotated = self
            .graph
            .nodes
            .iter()
            .any(|other| matches!(other.op, Op::Rope { .. }) && other.outputs.contains(&node.inputs[0]));
        let workers = if few && is_rotated { Workers::First } else { Workers::All };
        let qkv = self.read(self.view(node.inputs[0]), Sharing::Unpartitioned);
        let cache = self.write(layer.view, Sharing::Unpartitioned);
        self.push(workers, 0, move |w| {
            let (qkv, mut units) = (w.all(qkv), RoundRobin::new(w.part()));
            for span in w.batch().spans().iter().filter(|span| span.len > 0) {
                let end = span.past + span.len;
                for index in span.past / PAGE..end.div_ceil(PAGE) {
                    let places = span.past.max(index * PAGE)..end.min((index + 1) * PAGE);
                    let rows = span.start + places.start - span.past..span.start + places.end - span.past;
                    for kv_head in (0..heads.kv_heads).filter(|_| units.next()) {
                        let row = layer.row(w.batch().pages(span)[index], kv_head);
                        // SAFETY: each page and head is one worker's unit, and is taken once: no two spans of a batch
                        // write the same page, and no span writes a page twice (`Batch::check`).
                        let mut page = unsafe { w.window_mut(cache, row..row + 1, 0..layer.view.cols) };
                        let of = |cols| qkv.rows_range(rows.clone()).cols_range(cols);
                        let (keys, values) = (of(heads.k(kv_head)), of(heads.v(kv_head)));
                        let page = PageMut { format: layer.format, words: page.row_mut(0) };
                        append_to_page(isa, page, places.start % PAGE, keys, values);
                    }
                }
            }
        });
    }

    /// Spans are divided by tokens and key/value heads. Short spans over several blocks of keys are divided by these
    /// blocks too, and a second step folds their partial results. A query gets the same bits either way.
    pub(super) fn cached_attention(&mut self, node: &Node, layer: usize, heads: Heads) {
        let (isa, layer) = (self.isa, self.cache_layer(layer, heads));
        let partials = self.placed.temporaries[self.at.index()];
        let room = partial_tokens(&self.limits);
        let attend = Attend {
            isa,
            layer,
            qkv: self.read(self.view(node.inputs[0]), Sharing::Unpartitioned),
            cache: self.read(layer.view, Sharing::Unpartitioned),
            out: self.write(self.view(node.outputs[0]), Sharing::Unpartitioned),
            partials: partials.map(|view| (self.write(view, Sharing::Unpartitioned), room)),
        };
        let rows = unit_tokens(heads).min(self.limits.tokens) * heads.group();
        let scratch = rows * (heads.head_dim + 2 * partial_cols(heads.head_dim))
            + attend_block_scratch_len(isa, layer.format, rows, heads.head_dim);
        self.push(Workers::All, scratch, move |w| attend.run(w, w.scratch()));

        if let Some(partials) = partials {
            let partials = self.read(partials, Sharing::Unpartitioned);
            let out = self.write(self.view(node.outputs[0]), Sharing::Unpartitioned);
            let scratch = partial_cols(heads.head_dim);
            self.push(Workers::All, scratch, move |w| fold_partials(isa, (heads, room), w, partials, out));
        }
    }
}

impl<I: Isa> Attend<I> {
    /// Computes this worker's units of all spans.
    fn run(&self, w: &Worker<'_>, scratch: &mut [f32]) {
        let (heads, mut units) = (self.layer.heads, RoundRobin::new(w.part()));
        for (span, first) in spans(w.batch(), heads, self.partials.map_or(0, |(_, room)| room)) {
            for start in (0..span.len).step_by(unit_tokens(heads)) {
                let tokens = start..(start + unit_tokens(heads)).min(span.len);
                let unit = |kv_head| Unit { span, tokens: tokens.clone(), kv_head };
                match (first, self.partials) {
                    (Some(first), Some((partials, _))) => {
                        for block in unit(0).blocks(heads.scoring()) {
                            for kv_head in (0..heads.kv_heads).filter(|_| units.next()) {
                                let rows = partial_rows(heads, span, first, tokens.clone(), kv_head);
                                let cols = partial_range(span, heads, block);
                                // SAFETY: these tokens, this head and this block of keys are one worker's unit, with
                                // rows and columns of its own.
                                let to = unsafe { w.window_mut(partials, rows, cols) };
                                self.block(w, &unit(kv_head), block, to, scratch);
                            }
                        }
                    }
                    _ => {
                        for kv_head in (0..heads.kv_heads).filter(|_| units.next()) {
                            self.all_blocks(w, &unit(kv_head), scratch);
                        }
                    }
                }
            }
        }
    }

    /// Writes the output of a unit.
    fn all_blocks(&self, w: &Worker<'_>, unit: &Unit<'_>, scratch: &mut [f32]) {
        let Heads { head_dim, .. } = self.layer.heads;
        let group = self.layer.heads.group();
        let (rows, cols) = (unit.tokens.len() * group, partial_cols(head_dim));
        let (state, scratch) = scratch.split_at_mut(rows * cols);
        let (partials, scratch) = scratch.split_at_mut(rows * cols);
        let mut state = MatMut::new(state, rows, cols);
        let scoring = self.layer.heads.scoring();
        let mut blocks = unit.blocks(scoring);
        blocks.next().into_iter().for_each(|first| self.block(w, unit, first, state.reborrow(), scratch));
        for block in blocks {
            self.block(w, unit, block, MatMut::new(partials, rows, cols), scratch);
            // Tokens whose windows begin with this block begin their fold with it.
            let begun = unit.seeing_before(block * KEY_BLOCK, scoring) * group;
            let beginning = unit.seeing_before((block + 1) * KEY_BLOCK, scoring) * group;
            fold(self.isa, state.reborrow().rows_range(0..begun), Mat::new(partials, begun, cols));
            for row in begun..beginning {
                state.row_mut(row).copy_from_slice(&partials[row * cols..(row + 1) * cols]);
            }
        }
        // SAFETY: these tokens and heads are one worker's unit, with rows and columns of its own, and are taken once.
        let out = unsafe { w.window_mut(self.out, unit.rows(), self.group_cols(unit.kv_head)) };
        fold_end(self.isa, state.as_mat(), out);
    }

    /// The columns of the query heads that share a key/value head.
    fn group_cols(&self, kv_head: usize) -> Range<usize> {
        let heads = self.layer.heads;
        heads.q(kv_head * heads.group()).start..heads.q((kv_head + 1) * heads.group() - 1).end
    }

    /// Writes the partial result of one block of keys for a unit to `to`.
    fn block(&self, w: &Worker<'_>, unit: &Unit<'_>, block: usize, to: MatMut<'_>, scratch: &mut [f32]) {
        let heads = self.layer.heads;
        let (group, head_dim, tokens) = (heads.group(), heads.head_dim, unit.tokens.len());
        let qkv = w.all(self.qkv).rows_range(unit.rows()).cols_range(self.group_cols(unit.kv_head));
        let (copy, scratch) = scratch.split_at_mut(tokens * group * head_dim);
        let q = match (tokens, group) {
            (1, _) => Mat::new(qkv.row(0), group, head_dim),
            (_, 1) => qkv,
            _ => {
                copy.chunks_exact_mut(group * head_dim).enumerate().for_each(|(i, to)| to.copy_from_slice(qkv.row(i)));
                Mat::new(copy, tokens * group, head_dim)
            }
        };
        let queries = BlockQueries { q, group, past: unit.position(), scoring: heads.scoring() };
        let (cache, pages) = (w.all(self.cache), w.batch().pages(unit.span));
        let page = |i: usize| cache.row(self.layer.row(pages[i], unit.kv_head));
        let pages = Pages { format: self.layer.format, page: &page };
        attend_block(self.isa, queries, block, pages, to, scratch);
    }
}

/// Writes the outputs of the spans that are divided by blocks of keys.
fn fold_partials<I: Isa>(isa: I, (heads, room): (Heads, usize), w: &Worker<'_>, partials: Read, out: Write) {
    let (mut units, partials) = (RoundRobin::new(w.part()), w.all(partials));
    let cols = partial_cols(heads.head_dim);
    let state = &mut w.scratch()[..cols];
    for (span, first) in spans(w.batch(), heads, room) {
        let Some(first) = first else { continue };
        for token in 0..span.len {
            for head in (0..heads.heads).filter(|_| units.next()) {
                let rows = partial_rows(heads, span, first, token..token + 1, head / heads.group());
                let row = partials.row(rows.start + head % heads.group());
                let unit = Unit { span, tokens: token..token + 1, kv_head: head / heads.group() };
                let mut blocks = unit.blocks(heads.scoring()).map(|block| &row[partial_range(span, heads, block)]);
                blocks.next().into_iter().for_each(|first| state.copy_from_slice(first));
                blocks.for_each(|partial| fold(isa, MatMut::new(state, 1, cols), Mat::new(partial, 1, cols)));
                let row = span.start + token;
                // SAFETY: this token and head are one worker's unit, with columns of its own.
                let out = unsafe { w.window_mut(out, row..row + 1, heads.q(head)) };
                fold_end(isa, Mat::new(state, 1, cols), out);
            }
        }
    }
}
