//! The key-value cache: appending to its pages, and attention over them.

use std::ops::Range;

use smallmind_kernels::attention::{
    BlockQueries, KEY_BLOCK, PAGE, QUERY_BLOCK, append_to_page, attend_block, attend_block_scratch_len, fold, fold_end,
    page_len, partial_cols,
};
use smallmind_kernels::{Mat, MatMut, Part};
use smallmind_simd::Isa;

use crate::arena::{Frame, Sharing, Space, View};
use crate::graph::Node;
use crate::lower::attention::Deal;
use crate::lower::{COL_GRANULE, Lowering, SHARED_ELEMENTS};
use crate::op::Heads;
use crate::plan::{Limits, Workers};
use crate::{Rows, Span};

/// The most query rows that are worked on at once: few enough for their scores to stay in the second-level cache.
const UNIT_ROWS: usize = 96;

/// The most tokens of a span that is cut over keys as well: fewer than make units enough for all workers by themselves.
const SHORT_SPAN: usize = 32;

/// A layer of the cache: page after page, in each the keys and the values of one head after the other.
#[derive(Clone, Copy)]
struct Layer {
    view: View,
    heads: Heads,
}

impl Layer {
    /// The elements of a head in a page.
    fn page(&self, page: u32, kv_head: usize) -> Range<usize> {
        let len = page_len(self.heads.head_dim);
        let start = (page as usize * self.heads.kv_heads + kv_head) * len;
        start..start + len
    }
}

/// Tokens of a span that are worked on at once.
fn unit_tokens(heads: Heads) -> usize {
    (UNIT_ROWS / heads.group()).clamp(1, QUERY_BLOCK)
}

/// Columns of what a block of keys gives for a head: whole cache lines.
fn padded_partial_cols(head_dim: usize) -> usize {
    partial_cols(head_dim).next_multiple_of(COL_GRANULE)
}

/// Rows and columns of what blocks of keys give for the spans that are cut over keys: a row for each token and each head, side by side the
/// blocks. None where one block holds all keys.
pub(super) fn partials(heads: Heads, limits: &Limits) -> Option<(usize, usize)> {
    let cols = limits.context.div_ceil(KEY_BLOCK).saturating_mul(padded_partial_cols(heads.head_dim));
    (limits.context > KEY_BLOCK).then(|| (partial_tokens(limits).saturating_mul(heads.heads), cols))
}

/// Tokens of a batch that can be cut over keys.
fn partial_tokens(limits: &Limits) -> usize {
    limits.tokens.min(limits.spans.max(SHORT_SPAN))
}

/// Attention over a layer of the cache.
#[derive(Clone, Copy)]
struct Attend<I: Isa> {
    isa: I,
    qkv: View,
    layer: Layer,
    out: View,
    /// What blocks of keys give, and for how many tokens there is room.
    partials: Option<(View, usize)>,
}

/// Adjacent tokens of a span, for the query heads that share a key/value head.
struct Unit<'a> {
    span: &'a Span,
    /// Tokens, counted within the span.
    tokens: Range<usize>,
    kv_head: usize,
}

impl<I: Isa> Lowering<'_, I> {
    fn cache_layer(&self, layer: usize, heads: Heads) -> Layer {
        let Some(shape) = self.cache else { unreachable!("the planner gives every plan with cached layers a cache") };
        let (rows, cols) = (shape.pages * heads.kv_heads * 2 * PAGE, heads.head_dim);
        let view = View { space: Space::Cache, offset: shape.offset(layer), rows: Rows::Fixed(rows), cols };
        Layer { view, heads }
    }

    /// Workers share the pages of spans by heads: tokens of one page lie in the same vectors.
    pub(super) fn cache_append(&mut self, node: &Node, layer: usize, heads: Heads) {
        let qkv = self.view(node.inputs[0]);
        let layer = self.cache_layer(layer, heads);
        let few = self.limits.tokens * 2 * heads.kv_cols() < SHARED_ELEMENTS;
        let (workers, sharing) = if few { (Workers::First, Sharing::First) } else { (Workers::All, Sharing::Mixed) };
        let accesses = vec![self.access(qkv, sharing, false), self.access(layer.view, sharing, true)];
        let run = move |frame: &Frame<'_>, part: Part| {
            let (qkv, mut deal) = (frame.mat(&qkv), Deal::new(part));
            for span in frame.batch.spans() {
                let end = span.past + span.len;
                for index in span.past / PAGE..end.div_ceil(PAGE) {
                    let places = span.past.max(index * PAGE)..end.min((index + 1) * PAGE);
                    let rows = span.start + places.start - span.past..span.start + places.end - span.past;
                    for kv_head in (0..heads.kv_heads).filter(|_| deal.next()) {
                        let page = layer.page(frame.batch.pages(span)[index], kv_head);
                        let page = frame.slice_mut(&layer.view, page);
                        let of = |cols| qkv.rows_range(rows.clone()).cols_range(cols);
                        append_to_page(page, places.start % PAGE, of(heads.k(kv_head)), of(heads.v(kv_head)));
                    }
                }
            }
        };
        self.push(workers, accesses, 0, Box::new(run));
    }

    /// Short spans over several blocks of keys are cut over the blocks too, and a second step adds up what these give. All others are cut
    /// over their tokens and the key/value heads. A query gets the same bits either way.
    pub(super) fn cached_attention(&mut self, node: &Node, layer: usize, heads: Heads) {
        let partials = self.placed.temporaries[self.at.index()];
        let attend = Attend {
            isa: self.isa,
            qkv: self.view(node.inputs[0]),
            layer: self.cache_layer(layer, heads),
            out: self.view(node.outputs[0]),
            partials: partials.map(|view| (view, partial_tokens(&self.limits))),
        };
        let mut accesses = vec![
            self.access(attend.qkv, Sharing::Mixed, false),
            self.access(attend.layer.view, Sharing::Mixed, false),
            self.access(attend.out, Sharing::Mixed, true),
        ];
        accesses.extend(partials.map(|p| self.access(p, Sharing::Mixed, true)));
        let rows = unit_tokens(heads).min(self.limits.tokens) * heads.group();
        let scratch = rows * (heads.head_dim + 2 * padded_partial_cols(heads.head_dim))
            + attend_block_scratch_len(self.isa, rows, heads.head_dim);
        let run = move |frame: &Frame<'_>, part: Part| attend.run(frame, part, frame.scratch(part.index));
        self.push(Workers::All, accesses, scratch, Box::new(run));

        if let Some(partials) = partials {
            let accesses =
                vec![self.access(partials, Sharing::Mixed, false), self.access(attend.out, Sharing::Mixed, true)];
            let scratch = partial_cols(heads.head_dim);
            let run = move |frame: &Frame<'_>, part: Part| attend.fold_partials(frame, part, frame.scratch(part.index));
            self.push(Workers::All, accesses, scratch, Box::new(run));
        }
    }
}

impl<I: Isa> Attend<I> {
    /// The spans of the batch, each with the first of its tokens' partials where it is cut over keys.
    fn spans<'f>(&self, frame: &Frame<'f>) -> impl Iterator<Item = (&'f Span, Option<(View, usize)>)> + use<'f, I> {
        let (partials, mut used) = (self.partials, 0);
        frame.batch.spans().iter().map(move |span| {
            let (view, room) = match partials {
                Some(partials) if span.past + span.len > KEY_BLOCK => partials,
                _ => return (span, None),
            };
            if span.len > SHORT_SPAN.min(room - used) {
                return (span, None);
            }
            used += span.len;
            (span, Some((view, used - span.len)))
        })
    }

    fn run(&self, frame: &Frame<'_>, part: Part, scratch: &mut [f32]) {
        let (heads, mut deal) = (self.layer.heads, Deal::new(part));
        for (span, partials) in self.spans(frame) {
            let step = unit_tokens(heads);
            for first in (0..span.len).step_by(step) {
                let tokens = first..(first + step).min(span.len);
                let unit = |kv_head| Unit { span, tokens: tokens.clone(), kv_head };
                match partials {
                    None => {
                        for kv_head in (0..heads.kv_heads).filter(|_| deal.next()) {
                            self.all_blocks(frame, unit(kv_head), scratch);
                        }
                    }
                    Some((view, row)) => {
                        for block in 0..(span.past + tokens.end).div_ceil(KEY_BLOCK) {
                            for kv_head in (0..heads.kv_heads).filter(|_| deal.next()) {
                                let rows = self.partial_rows(span, row, tokens.clone(), kv_head);
                                let first = block * padded_partial_cols(heads.head_dim);
                                let cols = first..first + partial_cols(heads.head_dim);
                                let to = frame.mat_mut(&view, rows, cols);
                                self.block(frame, &unit(kv_head), block, to, scratch);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The rows of the partials of a span, of which the tokens before it take `row`.
    fn partial_rows(&self, span: &Span, row: usize, tokens: Range<usize>, kv_head: usize) -> Range<usize> {
        let heads = self.layer.heads;
        let first = row * heads.heads + kv_head * span.len * heads.group();
        first + tokens.start * heads.group()..first + tokens.end * heads.group()
    }

    /// The output of a unit.
    fn all_blocks(&self, frame: &Frame<'_>, unit: Unit<'_>, scratch: &mut [f32]) {
        let heads = self.layer.heads;
        let (rows, cols) = (unit.tokens.len() * heads.group(), partial_cols(heads.head_dim));
        let (state, scratch) = scratch.split_at_mut(rows * cols);
        let (partials, scratch) = scratch.split_at_mut(rows * cols);
        let mut state = MatMut::new(state, rows, cols);
        self.block(frame, &unit, 0, state.reborrow(), scratch);
        for block in 1..(unit.span.past + unit.tokens.end).div_ceil(KEY_BLOCK) {
            self.block(frame, &unit, block, MatMut::new(partials, rows, cols), scratch);
            fold(self.isa, state.reborrow(), Mat::new(partials, rows, cols));
        }
        let out_rows = unit.span.start + unit.tokens.start..unit.span.start + unit.tokens.end;
        let out_cols = self.group_cols(unit.kv_head);
        let mut out = frame.mat_mut(&self.out, out_rows, out_cols);
        for row in 0..rows {
            let (token, head) = (row / heads.group(), row % heads.group());
            let out = &mut out.row_mut(token)[head * heads.head_dim..][..heads.head_dim];
            fold_end(self.isa, state.row_mut(row), out);
        }
    }

    /// The columns of the query heads that share a key/value head.
    fn group_cols(&self, kv_head: usize) -> Range<usize> {
        let heads = self.layer.heads;
        heads.q(kv_head * heads.group()).start..heads.q((kv_head + 1) * heads.group() - 1).end
    }

    /// What one block of keys gives for a unit.
    fn block(&self, frame: &Frame<'_>, unit: &Unit<'_>, block: usize, to: MatMut<'_>, scratch: &mut [f32]) {
        let heads = self.layer.heads;
        let (group, head_dim, tokens) = (heads.group(), heads.head_dim, unit.tokens.len());
        let rows = unit.span.start + unit.tokens.start..unit.span.start + unit.tokens.end;
        let qkv = frame.mat(&self.qkv).rows_range(rows).cols_range(self.group_cols(unit.kv_head));
        let (copy, scratch) = scratch.split_at_mut(tokens * group * head_dim);
        let q = match (tokens, group) {
            (1, _) => Mat::new(qkv.row(0), group, head_dim),
            (_, 1) => qkv,
            _ => {
                copy.chunks_exact_mut(group * head_dim).enumerate().for_each(|(i, to)| to.copy_from_slice(qkv.row(i)));
                Mat::new(copy, tokens * group, head_dim)
            }
        };
        let queries = BlockQueries { q, group, past: unit.span.past + unit.tokens.start, scale: heads.scale };
        let (memory, pages) = (frame.slice(&self.layer.view), frame.batch.pages(unit.span));
        let page = |i: usize| &memory[self.layer.page(pages[i], unit.kv_head)];
        attend_block(self.isa, queries, block, page, to, scratch);
    }

    /// The outputs of the spans that are cut over keys.
    fn fold_partials(&self, frame: &Frame<'_>, part: Part, scratch: &mut [f32]) {
        let (heads, mut deal) = (self.layer.heads, Deal::new(part));
        let (cols, padded) = (partial_cols(heads.head_dim), padded_partial_cols(heads.head_dim));
        let state = &mut scratch[..cols];
        for (span, partials) in self.spans(frame) {
            let Some((view, row)) = partials else { continue };
            for token in 0..span.len {
                for head in (0..heads.heads).filter(|_| deal.next()) {
                    let kv_head = head / heads.group();
                    let rows = self.partial_rows(span, row, token..token + 1, kv_head);
                    let partials = frame.mat(&view).row(rows.start + head % heads.group());
                    state.copy_from_slice(&partials[..cols]);
                    for block in 1..(span.past + token + 1).div_ceil(KEY_BLOCK) {
                        let partial = Mat::new(&partials[block * padded..], 1, cols);
                        fold(self.isa, MatMut::new(state, 1, cols), partial);
                    }
                    let row = span.start + token;
                    let mut out = frame.mat_mut(&self.out, row..row + 1, heads.q(head));
                    fold_end(self.isa, state, out.row_mut(0));
                }
            }
        }
    }
}
