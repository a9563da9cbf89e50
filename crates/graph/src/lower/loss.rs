//! The output head with its loss, by chunks of rows: logits of the whole batch are never stored.

use smallmind_kernels::loss::{cross_entropy, cross_entropy_backward};
use smallmind_kernels::matmul::{Layout, Update, quantized_words};
use smallmind_kernels::{Format, FormatKind, Part};
use smallmind_simd::Isa;

use crate::arena::{Frame, Sharing, View};
use crate::graph::Node;
use crate::lower::linear::{Chunk, Factor, Product};
use crate::lower::{Lowering, ROW_GRANULE};
use crate::plan::Workers;
use crate::{ParamId, Rows};

/// Bytes of logits that a chunk may take: they should stay in the cache between their product, their softmax and their gradients.
const CHUNK_BYTES: usize = 4 << 20;
/// Rows below which a chunk's products run over the head's weight too often.
const MIN_CHUNK_ROWS: usize = 128;

/// Rows of a chunk for a vocabulary.
pub(super) fn chunk_rows(vocab: usize, tokens: usize) -> usize {
    (CHUNK_BYTES / 4 / vocab.max(1)).max(MIN_CHUNK_ROWS).next_multiple_of(ROW_GRANULE).min(tokens).max(1)
}

/// Rows and columns of the temporary of a loss: the logits of a chunk, and behind them its quantized rows if the weight's format has blocks.
pub(super) fn room(vocab: usize, d_model: usize, tokens: usize, has_blocks: bool) -> (usize, usize) {
    let rows = chunk_rows(vocab, tokens);
    let of_bytes = if has_blocks { (rows * quantized_words(d_model)).div_ceil(vocab.max(1)) } else { 0 };
    (rows + of_bytes, vocab)
}

/// What the loss is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Evaluation.
    Loss,
    /// Training.
    LossAndGradient,
}

/// The memories of a loss.
#[derive(Clone, Copy)]
struct Views {
    x: View,
    /// Behind the logits: a chunk of x in bytes, where the weight's format asks for them.
    quantized: View,
    weight: View,
    weight_grad: View,
    logits: View,
    loss: View,
    dx: Option<View>,
}

impl<I: Isa> Lowering<'_, I> {
    /// For each chunk of rows: `logits = x·Wᵀ`; the loss and, in place, `d logits = scale·(softmax − onehot)`; then `dx = d logits·W`
    /// and `dW += d logitsᵀ·x`.
    pub(super) fn linear_cross_entropy(&mut self, node: &Node, weight: ParamId, mode: Mode) {
        let Some(room) = self.placed.temporaries[self.at.index()] else {
            unreachable!("the planner gives every loss its logits")
        };
        let max = chunk_rows(room.cols, self.limits.tokens);
        let logits = View { rows: Rows::Fixed(max), ..room };
        let x = self.view(node.inputs[0]);
        let views = Views {
            x,
            quantized: View { offset: room.offset + max * room.cols, cols: quantized_words(x.cols), ..logits },
            weight: self.param(weight),
            weight_grad: self.grad(weight),
            logits,
            loss: self.view(node.outputs[0]),
            dx: node.outputs.get(1).map(|v| self.view(*v)),
        };
        for first in (0..self.limits.tokens).step_by(max) {
            let chunk = Chunk { first, max };
            self.logits(&views, chunk, self.packed(weight));
            self.cross_entropy(&views, chunk, mode);
            if let (Mode::LossAndGradient, Some(dx)) = (mode, views.dx) {
                self.loss_gradients(&views, dx, chunk);
            }
        }
    }

    fn logits(&mut self, views: &Views, chunk: Chunk, packed: Option<Format>) {
        let product = Product {
            a: Factor { view: views.x, layout: Layout::Normal, chunk: Some(chunk) },
            b: Factor::new(views.weight, Layout::Transposed),
            c: views.logits,
            c_chunk: Some(chunk),
            update: Update::Overwrite,
            bias: None,
            residual: None,
        };
        let quantized = Factor { view: views.quantized, layout: Layout::Normal, chunk: Some(chunk) };
        match packed {
            Some(format) => {
                self.packed_product(product, format, (format.kind() == FormatKind::Blocks).then_some(quantized))
            }
            None => self.product(product),
        }
    }

    fn cross_entropy(&mut self, views: &Views, chunk: Chunk, mode: Mode) {
        let (isa, logits, loss) = (self.isa, views.logits, views.loss);
        let sharing = Sharing::OwnRows { first: chunk.first, max: chunk.max, granule: ROW_GRANULE };
        let accesses = vec![
            self.chunk_access(logits, Some(chunk), sharing, true),
            self.chunk_access(loss, Some(chunk), sharing, true),
        ];
        let run = move |frame: &Frame<'_>, part: Part| {
            let all = chunk.batch_rows(frame.batch.len());
            let own = part.range(all.len(), ROW_GRANULE);
            let rows = all.start + own.start..all.start + own.end;
            let targets = &frame.batch.targets()[rows.clone()];
            let losses = frame.mat_mut(&loss, rows, 0..1);
            let mut logits = frame.mat_mut(&logits, own, 0..logits.cols);
            match mode {
                Mode::Loss => cross_entropy(isa, logits.reborrow().as_mat(), targets, losses),
                Mode::LossAndGradient => {
                    cross_entropy_backward(isa, logits, targets, frame.scalars.loss_scale, losses);
                }
            }
        };
        self.push(Workers::All, accesses, 0, Box::new(run));
    }

    fn loss_gradients(&mut self, views: &Views, dx: View, chunk: Chunk) {
        self.product(Product {
            a: Factor { view: views.logits, layout: Layout::Normal, chunk: Some(chunk) },
            b: Factor::new(views.weight, Layout::Normal),
            c: dx,
            c_chunk: Some(chunk),
            update: Update::Overwrite,
            bias: None,
            residual: None,
        });
        self.product(Product {
            a: Factor { view: views.logits, layout: Layout::Transposed, chunk: Some(chunk) },
            b: Factor { view: views.x, layout: Layout::Normal, chunk: Some(chunk) },
            c: views.weight_grad,
            c_chunk: None,
            update: Update::Accumulate,
            bias: None,
            residual: None,
        });
    }
}
