//! The output head with its loss, by chunks of rows, so that the logits of the whole batch are never stored.

use smallmind_kernels::FormatKind;
use smallmind_kernels::elementwise::copy;
use smallmind_kernels::loss::{cross_entropy, cross_entropy_backward};
use smallmind_kernels::matmul::{Layout, ROW_GRANULE, Update, quantized_words};
use smallmind_kernels::soft_cap::{soft_cap_backward, soft_cap_in_place};
use smallmind_simd::Isa;

use crate::access::{Chunk, View};
use crate::graph::Node;
use crate::lower::linear::{Factor, PackedProduct, Product};
use crate::lower::{Lowering, OWN_ROWS};
use crate::step::Workers;
use crate::{ParamId, Rows};

/// The most bytes of a chunk's logits: they should stay in the cache from their product to their gradients.
const CHUNK_BYTES: usize = 4 << 20;
/// The fewest rows of a chunk: for each chunk the whole weight of the head is read.
const MIN_CHUNK_ROWS: usize = 128;

/// Rows of a chunk for a vocabulary.
pub(super) fn chunk_rows(vocab: usize, tokens: usize) -> usize {
    (CHUNK_BYTES / 4 / vocab.max(1)).max(MIN_CHUNK_ROWS).next_multiple_of(ROW_GRANULE).min(tokens).max(1)
}

/// Rows and columns of the temporary memory of a loss: the logits of a chunk; after them the same, where a gradient
/// needs them capped; and after these the chunk's rows in bytes if the weight has a format of blocks.
pub(super) fn temporary(
    [vocab, d_model]: [usize; 2],
    tokens: usize,
    has_blocks: bool,
    keeps_capped: bool,
) -> (usize, usize) {
    let rows = chunk_rows(vocab, tokens);
    let of_bytes = if has_blocks { (rows * quantized_words(d_model)).div_ceil(vocab.max(1)) } else { 0 };
    let of_logits = if keeps_capped { 2 * rows } else { rows };
    (of_logits + of_bytes, vocab)
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The loss alone, for evaluation.
    Loss,
    /// The loss and its gradients, for training.
    LossAndGradient,
}

/// What a loss reads and writes, besides the weights, for one chunk.
#[derive(Clone, Copy)]
struct Views {
    x: View,
    /// The rows of `x` in bytes, if the weight has a format of blocks; they are stored after the logits.
    quantized: Option<View>,
    weight_grad: View,
    logits: View,
    /// The capped logits, for their gradients.
    capped: Option<View>,
    loss: View,
    dx: Option<View>,
}

impl<I: Isa> Lowering<'_, I> {
    /// For each chunk of rows: `logits = x·Wᵀ`, capped if there is a cap; the loss and, in place, `d logits = scale·(softmax − onehot)`; then `dx
    /// = d logits·W` and `dW += d logitsᵀ·x`.
    pub(super) fn linear_cross_entropy(&mut self, node: &Node, weight: ParamId, cap: Option<f32>, mode: Mode) {
        let Some(room) = self.placed.temporaries[self.at.index()] else {
            unreachable!("the planner gives every loss its logits")
        };
        let max = chunk_rows(room.cols, self.limits.tokens);
        let logits = View { rows: Rows::Fixed(max), ..room };
        let x = self.view(node.inputs[0]);
        let has_blocks = self.packed(weight).is_some_and(|format| format.kind() == FormatKind::Blocks);
        let behind = |chunks: usize| room.offset + chunks * max * room.cols;
        let keeps_capped = cap.is_some() && mode == Mode::LossAndGradient;
        let capped = keeps_capped.then_some(View { offset: behind(1), ..logits });
        let quantized = has_blocks.then_some(View {
            offset: behind(if keeps_capped { 2 } else { 1 }),
            cols: quantized_words(x.cols),
            ..logits
        });
        for first in (0..self.limits.tokens).step_by(max) {
            let part = |view| self.chunk(view, Chunk { first, max });
            let views = Views {
                x: part(x),
                quantized: quantized.map(part),
                weight_grad: self.grad(weight),
                logits: part(logits),
                capped: capped.map(part),
                loss: part(self.view(node.outputs[0])),
                dx: node.outputs.get(1).map(|v| part(self.view(*v))),
            };
            self.logits(&views, weight);
            cap.into_iter().for_each(|cap| self.cap_logits(&views, cap));
            self.cross_entropy(&views, mode);
            cap.into_iter().for_each(|cap| self.cap_gradients(&views, cap));
            if let (Mode::LossAndGradient, Some(dx)) = (mode, views.dx) {
                self.loss_gradients(&views, weight, dx);
            }
        }
    }

    fn logits(&mut self, views: &Views, weight: ParamId) {
        let &Views { x, quantized, logits: c, .. } = views;
        if self.is_packed(weight) {
            return self.packed_product(PackedProduct { x, quantized, weight, c, bias: None, residual: None });
        }
        self.product(Product {
            a: Factor { view: x, layout: Layout::Normal },
            b: Factor { view: self.param(weight), layout: Layout::Transposed },
            c,
            update: Update::Overwrite,
            bias: None,
            residual: None,
        });
    }

    /// Caps the logits in their place, and keeps them where gradients need them.
    fn cap_logits(&mut self, views: &Views, cap: f32) {
        let isa = self.isa;
        let logits = self.write(views.logits, OWN_ROWS);
        let capped = views.capped.map(|capped| self.write(capped, OWN_ROWS));
        self.push(Workers::All, 0, move |w| {
            let mut logits = w.own_mut(logits);
            soft_cap_in_place(isa, cap, logits.reborrow());
            if let Some(capped) = capped {
                copy(isa, logits.as_mat(), w.own_mut(capped));
            }
        });
    }

    /// Makes the gradients of the capped logits those of the logits, if there are gradients.
    fn cap_gradients(&mut self, views: &Views, cap: f32) {
        let Some(capped) = views.capped else { return };
        let isa = self.isa;
        let capped = self.read(capped, OWN_ROWS);
        let logits = self.write(views.logits, OWN_ROWS);
        self.push(Workers::All, 0, move |w| soft_cap_backward(isa, cap, w.own(capped), w.own_mut(logits)));
    }

    fn cross_entropy(&mut self, views: &Views, mode: Mode) {
        let isa = self.isa;
        let logits = self.write(views.logits, OWN_ROWS);
        let loss = self.write(views.loss, OWN_ROWS);
        self.push(Workers::All, 0, move |w| {
            let targets = &w.batch().targets()[w.own_rows(loss)];
            let (logits, losses) = (w.own_mut(logits), w.own_mut(loss));
            match mode {
                Mode::Loss => cross_entropy(isa, logits.as_mat(), targets, losses),
                Mode::LossAndGradient => cross_entropy_backward(isa, logits, targets, w.scalars().loss_scale, losses),
            }
        });
    }

    fn loss_gradients(&mut self, views: &Views, weight: ParamId, dx: View) {
        self.product(Product {
            a: Factor { view: views.logits, layout: Layout::Normal },
            b: Factor { view: self.param(weight), layout: Layout::Normal },
            c: dx,
            update: Update::Overwrite,
            bias: None,
            residual: None,
        });
        self.product(Product {
            a: Factor { view: views.logits, layout: Layout::Transposed },
            b: Factor { view: views.x, layout: Layout::Normal },
            c: views.weight_grad,
            update: Update::Accumulate,
            bias: None,
            residual: None,
        });
    }
}
