//! Matrix products: linear layers and their gradients.

use smallmind_kernels::Format;
use smallmind_kernels::matmul::{
    Epilogue, KernelChoice, Layout, Operand, PackedWeight, Partition, RightFactor, Update, gemm, gemm_scratch_len,
    quantize_rows,
};
use smallmind_simd::Isa;

use crate::ParamId;
use crate::access::{Read, Sharing, View, Write};
use crate::frame::Worker;
use crate::graph::Node;
use crate::lower::{Lowering, OWN_COLS, OWN_ROWS, SHARED_ELEMENTS};
use crate::step::Workers;

/// A factor of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor {
    pub(super) view: View,
    pub(super) layout: Layout,
}

/// A product to be computed by all workers: `c = [c +] op(a)·op(b) [+ bias] [+ residual]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) a: Factor,
    pub(super) b: Factor,
    pub(super) c: View,
    pub(super) update: Update,
    pub(super) bias: Option<View>,
    pub(super) residual: Option<View>,
}

/// The accesses of a product's step.
#[derive(Clone, Copy)]
struct Operands {
    a: Read,
    /// Whether `a` is partitioned as the output is.
    a_is_own: bool,
    b: Read,
    c: Write,
    layouts: (Layout, Layout),
    update: Update,
    bias: Option<Read>,
    residual: Option<Read>,
}

impl Operands {
    /// The left factor of this worker's window of the output.
    fn a<'w>(&self, w: &'w Worker<'_>) -> Operand<'w> {
        let layout = self.layouts.0;
        match layout {
            Layout::Normal if self.a_is_own => Operand { mat: w.own(self.a), layout },
            Layout::Normal => Operand { mat: w.all(self.a), layout },
            Layout::Transposed => Operand { mat: w.all(self.a), layout }.rows_range(w.own_rows(self.c)),
        }
    }

    /// The right factor of this worker's window of the output.
    fn b<'w>(&self, w: &'w Worker<'_>) -> Operand<'w> {
        Operand { mat: w.all(self.b), layout: self.layouts.1 }.cols_range(w.own_cols(self.c))
    }

    /// What is added to this worker's window of the output.
    fn epilogue<'w>(&self, w: &'w Worker<'_>) -> Epilogue<'w> {
        Epilogue {
            scale: 1.0,
            update: self.update,
            bias: self.bias.map(|bias| &w.all(bias).row(0)[w.own_cols(self.c)]),
            residual: self.residual.map(|residual| w.own(residual)),
        }
    }
}

/// A packed parameter.
pub(super) fn packed_weight<'w, I: Isa>(isa: I, w: &Worker<'w>, weight: Read, format: Format) -> PackedWeight<'w> {
    let (memory, [rows, cols]) = w.param(weight);
    PackedWeight::new(isa, format, memory, rows, cols)
}

impl<I: Isa> Lowering<'_, I> {
    pub(super) fn linear(&mut self, node: &Node, weight: ParamId, bias: Option<ParamId>) {
        let product = Product {
            a: Factor { view: self.view(node.inputs[0]), layout: Layout::Normal },
            b: Factor { view: self.param(weight), layout: Layout::Transposed },
            c: self.view(node.outputs[0]),
            update: Update::Overwrite,
            bias: bias.map(|b| self.vector(self.param(b))),
            residual: node.inputs.get(1).map(|r| self.view(*r)),
        };
        match self.packed(weight) {
            Some(format) => {
                let temporary = self.placed.temporaries[self.at.index()];
                let quantized = temporary.map(|view| View { rows: product.a.view.rows, ..view });
                self.packed_product(product, format, quantized);
            }
            None => self.product(product),
        }
    }

    pub(super) fn linear_grad_input(&mut self, node: &Node, weight: ParamId) {
        self.product(Product {
            a: Factor { view: self.view(node.inputs[0]), layout: Layout::Normal },
            b: Factor { view: self.param(weight), layout: Layout::Normal },
            c: self.view(node.outputs[0]),
            update: Update::Overwrite,
            bias: None,
            residual: node.inputs.get(1).map(|r| self.view(*r)),
        });
    }

    pub(super) fn linear_grad_weight(&mut self, node: &Node, weight: ParamId) {
        self.product(Product {
            a: Factor { view: self.view(node.inputs[0]), layout: Layout::Transposed },
            b: Factor { view: self.view(node.inputs[1]), layout: Layout::Normal },
            c: self.grad(weight),
            update: Update::Accumulate,
            bias: None,
            residual: None,
        });
    }

    /// One step for a product. Few rows times the rows of a weight read the weight once; all others go by tiles.
    pub(super) fn product(&mut self, p: Product) {
        let (isa, m, n) = (self.isa, self.max_rows(&p.c), p.c.cols);
        let k = match p.a.layout {
            Layout::Normal => p.a.view.cols,
            Layout::Transposed => self.max_rows(&p.a.view),
        };
        let choice = KernelChoice::choose((p.a.layout, p.b.layout), p.update, [m, n, k]);
        let operands = self.operands(&p, choice.partition());
        match choice {
            KernelChoice::Gemv => self.push(Workers::All, 0, move |w| {
                let (x, weight) = (operands.a(w), RightFactor::Streamed(operands.b(w).mat));
                gemm(isa, x, weight, w.own_mut(operands.c), operands.epilogue(w), &mut []);
            }),
            KernelChoice::Gemm(_) => self.push(Workers::All, gemm_scratch_len(isa, m, n, k), move |w| {
                let (a, b) = (operands.a(w), operands.b(w));
                gemm(isa, a, b, w.own_mut(operands.c), operands.epilogue(w), w.scratch());
            }),
        }
    }

    /// A product with a parameter that is packed in `format`, of few rows as of many. `quantized` is the memory for the
    /// rows of x in bytes, where the format wants them.
    pub(super) fn packed_product(&mut self, p: Product, format: Format, quantized: Option<View>) {
        let (isa, m, n, k) = (self.isa, self.max_rows(&p.c), p.c.cols, p.a.view.cols);
        let p = match quantized {
            Some(quantized) => {
                self.quantize(p.a.view, quantized);
                Product { a: Factor { view: quantized, ..p.a }, ..p }
            }
            None => p,
        };
        let operands = self.operands(&p, Partition::choose_packed(m, n, k));
        let scratch = if quantized.is_some() { 0 } else { gemm_scratch_len(isa, m, n, k) };
        self.push(Workers::All, scratch, move |w| {
            let b = packed_weight(isa, w, operands.b, format).cols_range(w.own_cols(operands.c));
            gemm(isa, operands.a(w), b, w.own_mut(operands.c), operands.epilogue(w), w.scratch());
        });
    }

    /// Quantizes the rows of x, each worker its own.
    fn quantize(&mut self, x: View, quantized: View) {
        let isa = self.isa;
        let is_small = self.max_rows(&x) * x.cols < SHARED_ELEMENTS;
        let x = self.read(x, OWN_ROWS);
        let quantized = self.write(quantized, OWN_ROWS);
        let workers = if is_small { Workers::First } else { Workers::All };
        self.push(workers, 0, move |w| quantize_rows(isa, w.own(x), w.own_mut(quantized)));
    }

    /// Declares what a product touches. If it is cut by rows, a worker reads its own rows of A and of the residual.
    fn operands(&mut self, p: &Product, partition: Partition) -> Operands {
        let own = match partition {
            Partition::Rows => OWN_ROWS,
            Partition::Columns => OWN_COLS,
        };
        let a_is_own = partition == Partition::Rows && p.a.layout == Layout::Normal;
        Operands {
            a: self.read(p.a.view, if a_is_own { own } else { Sharing::Unpartitioned }),
            a_is_own,
            b: self.read(p.b.view, Sharing::Unpartitioned),
            c: self.write(p.c, own),
            layouts: (p.a.layout, p.b.layout),
            update: p.update,
            bias: p.bias.map(|bias| self.read(bias, Sharing::Unpartitioned)),
            residual: p.residual.map(|residual| self.read(residual, own)),
        }
    }
}
