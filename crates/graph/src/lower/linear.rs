//! Matrix products: linear layers and their gradients.

use std::ops::Range;

use smallmind_kernels::matmul::{
    Cut, Epilogue, Layout, Operand, PackedWeight, ROW_GRANULE, Route, Update, gemm, gemm_packed,
    gemm_packed_scratch_len, gemm_q8, gemm_scratch_len, gemv_nt, quantize_rows,
};
use smallmind_kernels::{Format, Part};
use smallmind_simd::Isa;

use crate::arena::{Access, Frame, Sharing, View};
use crate::graph::Node;
use crate::lower::{Lowering, SHARED_ELEMENTS};
use crate::plan::Workers;
use crate::{ParamId, Rows};

/// A run of the batch's rows: `max` of them from `first` on, or fewer where the batch ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) first: usize,
    pub(super) max: usize,
}

impl Chunk {
    /// The rows of the batch in a run of `tokens`.
    pub(super) fn batch_rows(self, tokens: usize) -> Range<usize> {
        self.first.min(tokens)..(self.first + self.max).min(tokens)
    }

    /// The rows of a view that hold them: a temporary holds one chunk at a time, at its top.
    pub(super) fn rows_of(self, view: &View, tokens: usize) -> Range<usize> {
        let rows = self.batch_rows(tokens);
        match view.rows {
            Rows::Fixed(_) => 0..rows.len(),
            Rows::Tokens | Rows::Outputs => rows,
        }
    }
}

/// A factor of a product: a view, or a chunk of its rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor {
    pub(super) view: View,
    pub(super) layout: Layout,
    pub(super) chunk: Option<Chunk>,
}

impl Factor {
    pub(super) fn new(view: View, layout: Layout) -> Self {
        Self { view, layout, chunk: None }
    }

    fn operand<'f>(&self, frame: &'f Frame<'_>) -> Operand<'f> {
        let mat = frame.mat(&self.view);
        let mat = match self.chunk {
            Some(chunk) => mat.rows_range(chunk.rows_of(&self.view, frame.batch.len())),
            None => mat,
        };
        Operand { mat, layout: self.layout }
    }
}

/// A product to be computed by all workers: `c = [c +] op(a)·op(b) [+ bias] [+ residual]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) a: Factor,
    pub(super) b: Factor,
    pub(super) c: View,
    pub(super) c_chunk: Option<Chunk>,
    pub(super) update: Update,
    pub(super) bias: Option<View>,
    pub(super) residual: Option<View>,
}

impl Product {
    /// The rows of the output in a run.
    fn output_rows(&self, frame: &Frame<'_>) -> Range<usize> {
        match self.c_chunk {
            Some(chunk) => chunk.rows_of(&self.c, frame.batch.len()),
            None => 0..frame.rows(&self.c),
        }
    }

    /// What is added to a window of the output.
    fn epilogue<'f>(&self, frame: &'f Frame<'_>, rows: &Range<usize>, cols: &Range<usize>) -> Epilogue<'f> {
        let residual = |r| frame.mat(r).rows_range(rows.clone()).cols_range(cols.clone());
        Epilogue {
            scale: 1.0,
            update: self.update,
            bias: self.bias.as_ref().map(|b| &frame.slice(b)[cols.clone()]),
            residual: self.residual.as_ref().map(residual),
        }
    }
}

/// A packed parameter.
pub(super) fn packed_weight<'f, I: Isa>(isa: I, frame: &Frame<'f>, view: &View, format: Format) -> PackedWeight<'f> {
    PackedWeight::new(isa, format, frame.param_memory(view), frame.rows(view), view.cols)
}

impl<I: Isa> Lowering<'_, I> {
    pub(super) fn linear(&mut self, node: &Node, weight: ParamId, bias: Option<ParamId>) {
        let product = Product {
            a: Factor::new(self.view(node.inputs[0]), Layout::Normal),
            b: Factor::new(self.param(weight), Layout::Transposed),
            c: self.view(node.outputs[0]),
            c_chunk: None,
            update: Update::Overwrite,
            bias: bias.map(|b| self.vector(self.param(b))),
            residual: node.inputs.get(1).map(|r| self.view(*r)),
        };
        let temporary = self.placed.temporaries[self.at.index()];
        match self.packed(weight) {
            Some(format) => {
                let rows_of_x = |view| Factor::new(View { rows: product.a.view.rows, ..view }, Layout::Normal);
                self.packed_product(product, format, temporary.map(rows_of_x));
            }
            None => self.product(product),
        }
    }

    pub(super) fn linear_grad_input(&mut self, node: &Node, weight: ParamId) {
        let product = Product {
            a: Factor::new(self.view(node.inputs[0]), Layout::Normal),
            b: Factor::new(self.param(weight), Layout::Normal),
            c: self.view(node.outputs[0]),
            c_chunk: None,
            update: Update::Overwrite,
            bias: None,
            residual: node.inputs.get(1).map(|r| self.view(*r)),
        };
        self.product(product);
    }

    pub(super) fn linear_grad_weight(&mut self, node: &Node, weight: ParamId) {
        let product = Product {
            a: Factor::new(self.view(node.inputs[0]), Layout::Transposed),
            b: Factor::new(self.view(node.inputs[1]), Layout::Normal),
            c: self.grad(weight),
            c_chunk: None,
            update: Update::Accumulate,
            bias: None,
            residual: None,
        };
        self.product(product);
    }

    /// One step for a product. Few rows against the rows of a weight stream the weight once; the others go by tiles.
    pub(super) fn product(&mut self, p: Product) {
        let (m, n) = (p.c_chunk.map_or(self.max_rows(&p.c), |c| c.max), p.c.cols);
        let k = match p.a.layout {
            Layout::Normal => p.a.view.cols,
            Layout::Transposed => p.a.chunk.map_or(self.max_rows(&p.a.view), |c| c.max),
        };
        let cut = match Route::choose((p.a.layout, p.b.layout), p.update, [m, n, k]) {
            Route::FewRows => return self.few_rows_product(p),
            Route::Tiles(cut) => cut,
        };
        let isa = self.isa;
        let scratch = gemm_scratch_len(isa, m, n, k);
        let accesses = self.product_accesses(&p, cut);
        self.push(
            Workers::All,
            accesses,
            scratch,
            Box::new(move |frame, part| {
                let (a, b) = (p.a.operand(frame), p.b.operand(frame));
                let rows = p.output_rows(frame);
                let (own_rows, own_cols) = cut.window(rows.len(), n, part);
                let c = frame.mat_mut(&p.c, rows.start + own_rows.start..rows.start + own_rows.end, own_cols.clone());
                let epilogue = p.epilogue(frame, &own_rows, &own_cols);
                let (a, b) = (a.rows_range(own_rows), b.cols_range(own_cols));
                gemm(isa, a, b, c, epilogue, frame.scratch(part.index));
            }),
        );
    }

    /// A product with a parameter that is packed in `format`, of few rows as of many. `quantized`: room for the rows of x in bytes, where the
    /// format asks for them.
    pub(super) fn packed_product(&mut self, p: Product, format: Format, quantized: Option<Factor>) {
        let (isa, n, k) = (self.isa, p.c.cols, p.a.view.cols);
        let m = p.c_chunk.map_or(self.max_rows(&p.c), |c| c.max);
        let cut = Cut::choose_packed(m, n, k);
        let p = match quantized {
            Some(quantized) => {
                self.quantize(p.a, quantized);
                Product { a: quantized, ..p }
            }
            None => p,
        };
        let scratch = if quantized.is_some() { 0 } else { gemm_packed_scratch_len(isa, format, m, k) };
        let accesses = self.product_accesses(&p, cut);
        self.push(
            Workers::All,
            accesses,
            scratch,
            Box::new(move |frame, part| {
                let rows = p.output_rows(frame);
                let (own_rows, own_cols) = cut.window(rows.len(), n, part);
                let c = frame.mat_mut(&p.c, rows.start + own_rows.start..rows.start + own_rows.end, own_cols.clone());
                let epilogue = p.epilogue(frame, &own_rows, &own_cols);
                let a = p.a.operand(frame).rows_range(own_rows);
                let b = packed_weight(isa, frame, &p.b.view, format).cols_range(own_cols);
                match format {
                    Format::Q8_0 => gemm_q8(isa, a.mat, b, c, epilogue),
                    Format::F32 | Format::F16 | Format::Bf16 => {
                        gemm_packed(isa, a, b, c, epilogue, frame.scratch(part.index));
                    }
                }
            }),
        );
    }

    /// Quantizes the rows of x, each worker its own.
    fn quantize(&mut self, x: Factor, quantized: Factor) {
        let isa = self.isa;
        let rows = x.chunk.map_or(self.max_rows(&x.view), |c| c.max);
        let (workers, sharing) = if rows * x.view.cols < SHARED_ELEMENTS {
            (Workers::First, Sharing::First)
        } else {
            let first = x.chunk.map_or(0, |c| c.first);
            (Workers::All, Sharing::OwnRows { first, max: rows, granule: ROW_GRANULE })
        };
        let accesses = vec![
            self.chunk_access(x.view, x.chunk, sharing, false),
            self.chunk_access(quantized.view, quantized.chunk, sharing, true),
        ];
        self.push(
            workers,
            accesses,
            0,
            Box::new(move |frame, part| {
                let x = x.operand(frame).mat;
                let own = part.range(x.rows(), ROW_GRANULE);
                let first = quantized.chunk.map_or(0, |c| c.rows_of(&quantized.view, frame.batch.len()).start);
                let out = frame.mat_mut(&quantized.view, first + own.start..first + own.end, 0..quantized.view.cols);
                quantize_rows(isa, x.rows_range(own), out);
            }),
        );
    }

    /// `y = x·Wᵀ` for a few rows of x, each worker with its own rows of W.
    fn few_rows_product(&mut self, p: Product) {
        let isa = self.isa;
        let cut = Route::FewRows.cut();
        let accesses = self.product_accesses(&p, cut);
        self.push(
            Workers::All,
            accesses,
            0,
            Box::new(move |frame: &Frame<'_>, part: Part| {
                let (x, w) = (p.a.operand(frame).mat, p.b.operand(frame).mat);
                let rows = p.output_rows(frame);
                let (_, cols) = cut.window(rows.len(), p.c.cols, part);
                let epilogue = p.epilogue(frame, &(0..rows.len()), &cols);
                let out = frame.mat_mut(&p.c, rows, cols.clone());
                gemv_nt(isa, x, w.rows_range(cols), out, epilogue);
            }),
        );
    }

    /// What a product touches. Under a cut by rows, a worker reads its own rows of A and of the residual.
    fn product_accesses(&self, p: &Product, cut: Cut) -> Vec<Access> {
        let rows = p.c_chunk.map_or(self.max_rows(&p.c), |c| c.max);
        let first = p.c_chunk.map_or(0, |c| c.first);
        let own = Sharing::OwnRows { first, max: rows, granule: ROW_GRANULE };
        let by_rows = if cut == Cut::Rows { own } else { Sharing::Mixed };
        let a_sharing = if p.a.layout == Layout::Normal { by_rows } else { Sharing::Mixed };
        let mut accesses = vec![
            self.chunk_access(p.a.view, p.a.chunk, a_sharing, false),
            self.chunk_access(p.b.view, p.b.chunk, Sharing::Mixed, false),
            self.chunk_access(p.c, p.c_chunk, by_rows, true),
        ];
        accesses.extend(p.bias.map(|v| self.access(v, Sharing::Mixed, false)));
        accesses.extend(p.residual.map(|v| self.access(v, by_rows, false)));
        accesses
    }

    /// The access to a chunk of a view's rows.
    pub(super) fn chunk_access(&self, view: View, chunk: Option<Chunk>, sharing: Sharing, writes: bool) -> Access {
        let whole = self.access(view, sharing, writes);
        match chunk {
            None => whole,
            Some(chunk) => {
                let rows = chunk.rows_of(&view, self.limits.tokens);
                let offset = view.offset + rows.start * view.cols;
                Access { view: View { offset, ..view }, len: rows.len() * view.cols, ..whole }
            }
        }
    }

    pub(super) fn bias_grad(&mut self, node: &Node, bias: ParamId) {
        let (isa, dy, bias) = (self.isa, self.view(node.inputs[0]), self.vector(self.grad(bias)));
        self.columnwise(&[dy], dy.cols, &[bias], move |frame, cols| {
            let sums = frame.slice_mut(&bias, cols.clone());
            smallmind_kernels::elementwise::column_sum(isa, frame.mat(&dy).cols_range(cols), sums);
        });
    }
}
