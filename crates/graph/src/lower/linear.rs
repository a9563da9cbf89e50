//! Matrix products: linear layers and their gradients.

use std::ops::Range;

use smallmind_kernels::matmul::{
    Epilogue, KernelChoice, Layout, Operand, PackedWeight, Partition, RightFactor, Update, gemm, gemm_scratch_len,
    quantize_rows,
};
use smallmind_kernels::{Format, FormatKind};
use smallmind_simd::Isa;

use crate::access::{Read, Sharing, Space, View, Write};
use crate::frame::Worker;
use crate::graph::Node;
use crate::lower::{Lowering, OWN_COLS, OWN_ROWS, SHARED_ELEMENTS};
use crate::step::Workers;
use crate::{ParamId, Precision, Rows, Segment};

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
    /// Whether a worker reads only its own rows of `a`.
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

/// A packed segment of a weight.
pub(super) fn packed_weight<'w, I: Isa>(isa: I, w: &Worker<'w>, weight: Read, format: Format) -> PackedWeight<'w> {
    let (memory, [rows, cols]) = w.stored(weight);
    PackedWeight::new(isa, format, memory, rows, cols).beyond_caches(w.stored_beyond_caches())
}

/// Whether one of the segments has a format of blocks.
pub(super) fn has_blocks(segments: &[Segment]) -> bool {
    segments.iter().any(|segment| segment.format.kind() == FormatKind::Blocks)
}

/// A product with a packed weight: `c = x·Wᵀ [+ bias] [+ residual]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedProduct {
    pub(super) x: View,
    /// Memory for the rows of `x` in bytes, if the weight has a format of blocks.
    pub(super) quantized: Option<View>,
    pub(super) weight: ParamId,
    pub(super) c: View,
    pub(super) bias: Option<View>,
    pub(super) residual: Option<View>,
}

/// The accesses of a step that multiplies by a packed weight.
struct PackedOperands {
    /// The rows of floats, unless all segments have formats of blocks.
    x: Option<Read>,
    /// The rows in bytes, if some segment has a format of blocks.
    quantized: Option<Read>,
    /// Whether a worker reads only its own rows of `x`.
    x_is_own: bool,
    /// For each segment: its rows, which are columns of the output, its words and its format.
    segments: Vec<(Range<usize>, Read, Format)>,
    c: Write,
    bias: Option<Read>,
    residual: Option<Read>,
}

impl PackedOperands {
    /// Computes this worker's window of the output, the columns of one segment after another.
    fn multiply<I: Isa>(&self, isa: I, w: &Worker<'_>) {
        let own = w.own_cols(self.c);
        let (mut c, scratch) = (w.own_mut(self.c), w.scratch());
        let epilogue = Epilogue {
            scale: 1.0,
            update: Update::Overwrite,
            bias: self.bias.map(|bias| &w.all(bias).row(0)[own.clone()]),
            residual: self.residual.map(|residual| w.own(residual)),
        };
        let rows = 0..c.rows();
        for (of_segment, weight, format) in &self.segments {
            let (start, end) = (own.start.max(of_segment.start), own.end.min(of_segment.end));
            if start >= end {
                continue;
            }
            let x = if format.kind() == FormatKind::Blocks { self.quantized } else { self.x };
            let Some(x) = x else { unreachable!("the step declares the rows that its segments read") };
            let x = if self.x_is_own { w.own(x) } else { w.all(x) };
            let weight = packed_weight(isa, w, *weight, *format);
            let weight = weight.cols_range(start - of_segment.start..end - of_segment.start);
            let columns = start - own.start..end - own.start;
            let (c, epilogue) = (c.reborrow().cols_range(columns.clone()), epilogue.window(&rows, &columns));
            gemm(isa, Operand::normal(x), weight, c, epilogue, scratch);
        }
    }
}

impl<I: Isa> Lowering<'_, I> {
    pub(super) fn linear(&mut self, node: &Node, weight: ParamId, bias: Option<ParamId>) {
        let (x, c) = (self.view(node.inputs[0]), self.view(node.outputs[0]));
        let bias = bias.map(|b| self.vector(self.param(b)));
        let residual = node.inputs.get(1).map(|r| self.view(*r));
        if self.is_packed(weight) {
            let temporary = self.placed.temporaries[self.at.index()];
            let quantized = temporary.map(|view| View { rows: x.rows, ..view });
            return self.packed_product(PackedProduct { x, quantized, weight, c, bias, residual });
        }
        let a = Factor { view: x, layout: Layout::Normal };
        let b = Factor { view: self.param(weight), layout: Layout::Transposed };
        self.product(Product { a, b, c, update: Update::Overwrite, bias, residual });
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

    /// One step for a product. If `a` has few rows and `b` is a weight in `f32`, its rows are streamed; all other products
    /// use tiles.
    pub(super) fn product(&mut self, p: Product) {
        let (isa, m, n) = (self.isa, self.max_rows(&p.c), p.c.cols);
        let k = match p.a.layout {
            Layout::Normal => p.a.view.cols,
            Layout::Transposed => self.max_rows(&p.a.view),
        };
        let choice = match self.precision {
            Precision::F32 => KernelChoice::choose((p.a.layout, p.b.layout), p.update, [m, n, k]),
            Precision::Bf16 => KernelChoice::Gemm(Partition::choose(m, n)),
        };
        let operands = self.operands(&p, choice.partition());
        match choice {
            KernelChoice::Gemv => self.push(Workers::All, 0, move |w| {
                let (x, weight) = (operands.a(w), RightFactor::Streamed(operands.b(w).mat));
                gemm(isa, x, weight, w.own_mut(operands.c), operands.epilogue(w), &mut []);
            }),
            KernelChoice::Gemm(_) => {
                let precision = self.precision;
                self.push(Workers::All, gemm_scratch_len(isa, m, n, k), move |w| {
                    let b = match precision {
                        Precision::F32 => RightFactor::Operand(operands.b(w)),
                        Precision::Bf16 => RightFactor::Rounded(operands.b(w)),
                    };
                    gemm(isa, operands.a(w), b, w.own_mut(operands.c), operands.epilogue(w), w.scratch());
                });
            }
        }
    }

    /// A product with a packed weight. If the weight has blocks, a step before quantizes the rows of `x`.
    pub(super) fn packed_product(&mut self, p: PackedProduct) {
        let (isa, m, n, k) = (self.isa, self.max_rows(&p.c), p.c.cols, p.x.cols);
        let Some(storage) = self.storage else { unreachable!("a packed weight lies in a store") };
        let segments = &storage.get(p.weight).segments;
        let all_blocks = segments.iter().all(|segment| segment.format.kind() == FormatKind::Blocks);
        if let Some(quantized) = p.quantized {
            self.quantize(p.x, quantized);
        }
        let (own, x_is_own) = match Partition::choose_packed(m, n, k) {
            Partition::Rows => (OWN_ROWS, true),
            Partition::Columns => (OWN_COLS, false),
        };
        let of_x = if x_is_own { own } else { Sharing::Unpartitioned };
        let flat = self.flat_param(Space::FlatParams, p.weight);
        let mut declare = |(number, segment): (usize, &Segment)| {
            let rows = Rows::Fixed(segment.rows.len());
            let view = View { space: Space::Stored(number as u32), offset: 0, rows, ..flat };
            (segment.rows.clone(), self.read(view, Sharing::Unpartitioned), segment.format)
        };
        let segments = storage.numbers(p.weight).zip(segments).map(&mut declare).collect();
        let operands = PackedOperands {
            x: (!all_blocks).then(|| self.read(p.x, of_x)),
            quantized: p.quantized.map(|quantized| self.read(quantized, of_x)),
            x_is_own,
            segments,
            c: self.write(p.c, own),
            bias: p.bias.map(|bias| self.read(bias, Sharing::Unpartitioned)),
            residual: p.residual.map(|residual| self.read(residual, own)),
        };
        let scratch = if all_blocks { 0 } else { gemm_scratch_len(isa, m, n, k) };
        self.push(Workers::All, scratch, move |w| operands.multiply(isa, w));
    }

    /// A step in which each worker quantizes its own rows of `x`.
    fn quantize(&mut self, x: View, quantized: View) {
        let isa = self.isa;
        let is_small = self.max_rows(&x) * x.cols < SHARED_ELEMENTS;
        let x = self.read(x, OWN_ROWS);
        let quantized = self.write(quantized, OWN_ROWS);
        let workers = if is_small { Workers::First } else { Workers::All };
        self.push(workers, 0, move |w| quantize_rows(isa, w.own(x), w.own_mut(quantized)));
    }

    /// Declares what a product touches. If it is partitioned by rows, a worker reads only its own rows of A and of the
    /// residual.
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
