//! A mixture of experts.
//!
//! ```text
//! choices = route(logits)                            worker 0
//! rows    = x of each slot's token                   by rows
//! hidden  = rows_e · gate_up_eᵀ of each expert e     by columns: each worker reads its part of all weights once
//! active  = swiglu(hidden)                           by rows; copied, if it is kept
//! rows    = active_e · down_eᵀ of each expert e      by columns
//! y       = Σ weight · rows of a token's slots       by rows
//! ```
//!
//! A *slot* is one of the `tokens · per_token` pairs of a token and its expert, ordered by expert. Every sum is taken in
//! an order that depends on the token alone, so neither threads nor the other tokens of a batch change a bit.

use smallmind_kernels::experts::{Choices, combine, index, route};
use smallmind_kernels::matmul::{
    Epilogue, Operand, PackedWeight, RightFactor, gemm, gemm_scratch_len, quantize_rows, quantized_words,
};
use smallmind_kernels::{Format, FormatKind, activation};
use smallmind_simd::Isa;

use crate::access::{Extent, Read, Sharing, Space, View, Write};
use crate::frame::Worker;
use crate::graph::{Graph, Node};
use crate::lower::{Lowering, OWN_COLS, OWN_ROWS};
use crate::op::Experts;
use crate::place::ALIGN;
use crate::step::Workers;
use crate::{ParamId, Rows, Storage};

/// Sizes of a mixture for the largest batch.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: usize,
    experts: usize,
    per_token: usize,
    d_model: usize,
    d_ff: usize,
    /// Columns of rows in bytes, of the wider of the inputs whose weights have a format of blocks.
    words: usize,
}

impl Sizes {
    fn of(graph: &Graph, op: Experts, tokens: usize, storage: Option<&Storage>) -> Self {
        let spec = |id| graph.params().get(id).map_or([0; 2], |spec| [spec.rows, spec.cols]);
        let words = |id: ParamId| {
            let is_blocks = storage.is_some_and(|storage| super::linear::has_blocks(&storage.get(id).segments));
            if is_blocks { quantized_words(spec(id)[1]) } else { 0 }
        };
        Self {
            tokens,
            experts: op.routing.experts,
            per_token: op.routing.per_token,
            d_model: spec(op.gate_up)[1],
            d_ff: spec(op.down)[1],
            words: words(op.gate_up).max(words(op.down)),
        }
    }

    fn slots(self) -> usize {
        self.tokens * self.per_token
    }

    /// Rows and columns of the parts of the temporary memory, in order.
    fn parts(self) -> [(usize, usize); 8] {
        let (tokens, slots) = (self.tokens, self.slots());
        [
            (tokens, self.per_token),
            (tokens, self.per_token),
            (slots, 1),
            (1, self.experts),
            (slots, self.d_model),
            (slots, 2 * self.d_ff),
            (slots, self.d_ff),
            (slots, self.words),
        ]
    }
}

/// Rows and columns of the temporary memory of a mixture.
pub(super) fn temporary(graph: &Graph, op: Experts, tokens: usize, storage: Option<&Storage>) -> (usize, usize) {
    let parts = Sizes::of(graph, op, tokens, storage).parts();
    let len = |(rows, cols): (usize, usize)| rows.saturating_mul(cols).saturating_add(ALIGN);
    (1, parts.into_iter().map(len).fold(0, usize::saturating_add))
}

/// The parts of the temporary memory.
#[derive(Clone, Copy)]
struct Memory {
    weights: View,
    slots: View,
    tokens: View,
    ends: View,
    /// Inputs of the experts, then their outputs.
    rows: View,
    hidden: View,
    active: View,
    quantized: View,
}

impl Memory {
    fn new(whole: View, sizes: Sizes) -> Self {
        let mut offset = whole.offset;
        let per_token = sizes.per_token;
        // For each token so many rows; none for a fixed number of rows.
        let times = [1, 1, per_token, 0, per_token, per_token, per_token, per_token];
        let mut parts = sizes.parts().into_iter().zip(times);
        let mut next = || {
            let ((rows, cols), times) = parts.next().unwrap_or_default();
            let view = View::new(whole.space, offset, Rows::Fixed(rows), cols);
            offset += (rows * cols).next_multiple_of(ALIGN);
            match times {
                0 => view,
                _ => View { extent: Extent::Times { of: Rows::Tokens, times }, ..view },
            }
        };
        Self {
            weights: next(),
            slots: next(),
            tokens: next(),
            ends: next(),
            rows: next(),
            hidden: next(),
            active: next(),
            quantized: next(),
        }
    }
}

/// The weights of all experts, which a step reads.
#[derive(Clone, Copy)]
enum Weights {
    /// In rows of `f32`.
    Rows(Read),
    /// Each expert packed by itself; the first of them is declared.
    Packed(Read, Format),
}

/// A step that multiplies the rows of each expert by its weights.
struct ExpertProduct {
    x: Read,
    ends: Read,
    weights: Weights,
    /// Rows of an expert's weights.
    rows: usize,
    c: Write,
}

impl ExpertProduct {
    fn multiply<I: Isa>(&self, isa: I, w: &Worker<'_>) {
        let own = w.own_cols(self.c);
        let (x, ends, mut c, scratch) = (w.all(self.x), w.all(self.ends), w.own_mut(self.c), w.scratch());
        let mut start = 0;
        for (expert, end) in ends.row(0).iter().map(|end| index(*end)).enumerate() {
            let slots = start..end;
            start = end;
            if slots.is_empty() || own.is_empty() {
                continue;
            }
            let weight: RightFactor<'_> = match self.weights {
                Weights::Rows(all) => {
                    let of_expert = w.all(all).rows_range(expert * self.rows..(expert + 1) * self.rows);
                    Operand::transposed(of_expert).into()
                }
                Weights::Packed(first, format) => {
                    let (memory, cols) = w.stored_after(first, expert);
                    let weight = PackedWeight::new(isa, format, memory, self.rows, cols);
                    weight.beyond_caches(w.stored_beyond_caches()).into()
                }
            };
            let (x, c) = (Operand::normal(x.rows_range(slots.clone())), c.reborrow().rows_range(slots));
            gemm(isa, x, weight.cols_range(own.clone()), c, Epilogue::default(), scratch);
        }
    }
}

impl<I: Isa> Lowering<'_, I> {
    pub(super) fn experts(&mut self, node: &Node, op: Experts) {
        let isa = self.isa;
        let sizes = Sizes::of(self.graph, op, self.limits.tokens, self.storage);
        let whole = self.placed.temporaries[self.at.index()];
        let memory = Memory::new(whole.unwrap_or_else(|| unreachable!("experts have temporary memory")), sizes);
        self.route(node, op, memory);
        // The inputs of each expert side by side.
        let x = self.read(self.view(node.inputs[0]), Sharing::Unpartitioned);
        let tokens = self.read(memory.tokens, Sharing::Unpartitioned);
        let rows = self.write(memory.rows, OWN_ROWS);
        self.push(Workers::All, 0, move |w| {
            let (x, tokens) = (w.all(x), w.all(tokens));
            let (own, mut rows) = (w.own_rows(rows), w.own_mut(rows));
            for (i, slot) in own.enumerate() {
                rows.row_mut(i).copy_from_slice(x.row(index(tokens.row(slot)[0])));
            }
        });
        self.expert_product(op.gate_up, 2 * sizes.d_ff, memory, [memory.rows, memory.hidden]);
        let hidden = self.read(memory.hidden, OWN_ROWS);
        let active = self.write(memory.active, OWN_ROWS);
        self.push_rows(move |w| activation::swiglu(isa, w.own(hidden), w.own_mut(active)));
        if op.keeps_active {
            self.keep_active(node, sizes.d_ff, memory);
        }
        self.expert_product(op.down, sizes.d_model, memory, [memory.active, memory.rows]);
        let [weights, slots] = [memory.weights, memory.slots].map(|view| self.read(view, OWN_ROWS));
        let rows = self.read(memory.rows, Sharing::Unpartitioned);
        let y = self.write(self.view(node.outputs[0]), OWN_ROWS);
        self.push(Workers::All, 0, move |w| {
            combine(isa, w.own(weights), w.own(slots), w.all(rows), w.own_mut(y));
        });
    }

    /// A step that copies the inputs of the downs into the rows of their tokens.
    fn keep_active(&mut self, node: &Node, d_ff: usize, memory: Memory) {
        let active = self.read(memory.active, Sharing::Unpartitioned);
        let slots = self.read(memory.slots, OWN_ROWS);
        let kept = self.write(self.view(node.outputs[1]), OWN_ROWS);
        self.push(Workers::All, 0, move |w| {
            let (active, slots, mut kept) = (w.all(active), w.own(slots), w.own_mut(kept));
            for t in 0..slots.rows() {
                let parts = kept.row_mut(t).chunks_exact_mut(d_ff);
                slots.row(t).iter().zip(parts).for_each(|(slot, part)| part.copy_from_slice(active.row(index(*slot))));
            }
        });
    }

    /// A step in which worker 0 chooses the experts of all tokens.
    fn route(&mut self, node: &Node, op: Experts, memory: Memory) {
        let logits = self.read(self.view(node.inputs[1]), Sharing::First);
        let parts = [memory.weights, memory.slots, memory.tokens, memory.ends];
        let [weights, slots, tokens, ends] = parts.map(|view| self.write(view, Sharing::First));
        self.push(Workers::First, 0, move |w| {
            let choices = Choices {
                weights: w.own_mut(weights),
                slots: w.own_mut(slots),
                tokens: w.own_mut(tokens),
                ends: w.own_mut(ends),
            };
            route(op.routing, w.own(logits), choices);
        });
    }

    /// The product of each expert's rows of `x` and its weight of `n` rows. If the weight has blocks, a step before
    /// quantizes the rows.
    fn expert_product(&mut self, weight: ParamId, n: usize, memory: Memory, [x, c]: [View; 2]) {
        let isa = self.isa;
        let scratch = gemm_scratch_len(isa, self.max_rows(&c), n, x.cols);
        let format = self.packed(weight);
        let x = match format {
            Some(format) if format.kind() == FormatKind::Blocks => {
                let quantized = View { cols: quantized_words(x.cols), ..memory.quantized };
                let x = self.read(x, OWN_ROWS);
                let to = self.write(quantized, OWN_ROWS);
                self.push(Workers::All, 0, move |w| quantize_rows(isa, w.own(x), w.own_mut(to)));
                quantized
            }
            _ => x,
        };
        let weights = match (format, self.storage) {
            (Some(format), Some(storage)) => {
                let first = Space::Stored(storage.numbers(weight).start as u32);
                let flat = self.flat_param(Space::FlatParams, weight);
                let view = View { space: first, offset: 0, rows: Rows::Fixed(n), ..flat };
                Weights::Packed(self.read(view, Sharing::Unpartitioned), format)
            }
            _ => Weights::Rows(self.read(self.param(weight), Sharing::Unpartitioned)),
        };
        let x = self.read(x, Sharing::Unpartitioned);
        let ends = self.read(memory.ends, Sharing::Unpartitioned);
        let c = self.write(c, OWN_COLS);
        let product = ExpertProduct { x, ends, weights, rows: n, c };
        self.push(Workers::All, scratch, move |w| product.multiply(isa, w));
    }
}
