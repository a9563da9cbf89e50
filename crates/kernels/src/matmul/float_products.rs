//! Products with packed weights in floats, and products of operands that are rounded to `bf16`.
//!
//! Weights in `f32` and `f16` are multiplied in `f32`. Those in `bf16` are multiplied by the CPU's dot products of
//! `bf16`, if it has them and rows are whole pairs: the rows of A are rounded to `bf16`, to nearest, ties to even, and
//! products are added up in `f32`. An element of the output is one chain of dot products, so its bits depend on neither
//! the window nor the number of rows.
#![allow(unsafe_code)]

use half::bf16;
use smallmind_simd::{Bf16Dot, Isa, IsaKind, WithBf16, WithIsa};

use super::arithmetic::{Bf16Gemm, F32Gemm};
use super::nest::{self, Block, LeftFactor, PanelSource};
use super::one_row::Reading;
use super::operand::{Epilogue, Layout, Operand};
use super::packed::PackedWeight;
use super::tables::{HasKernels, Kernels};
use super::tile::Tile;
use crate::format::{FormatKind, HalfKind};
use crate::{Format, Mat, MatMut};

/// Rows of A that are rounded at a time take at most this many words, 2 MiB, or are those of one tile. All of them
/// share what is read of the weight.
const ROUNDED_WORDS: usize = 512 * 1024;

/// `C = [C +] scale · op(A) · Wᵀ [+ bias] [+ residual]` with a weight in floats, packed for the token's lanes. The
/// shapes agree, and neither side of C is zero.
pub(super) struct Product<'a> {
    pub a: Operand<'a>,
    pub w: PackedWeight<'a>,
    pub c: MatMut<'a>,
    pub epilogue: Epilogue<'a>,
    pub scratch: &'a mut [f32],
}

/// Whether rows of `k` elements in `format` are whole pairs of `bf16`: products with them round the rows of A to `bf16`
/// and use the CPU's dot products, if it has them.
pub fn are_bf16_pairs(format: Format, k: usize) -> bool {
    format == Format::Bf16 && k.is_multiple_of(2)
}

/// Whether products with a packed weight in `format`, with rows of `k`, round the rows of A to `bf16` on this CPU.
pub fn rounds_to_bf16(isa: IsaKind, format: Format, k: usize) -> bool {
    are_bf16_pairs(format, k) && has_bf16_dots(isa)
}

/// Whether this CPU has the instruction set, and dot products of `bf16` with it.
pub fn has_bf16_dots(isa: IsaKind) -> bool {
    struct Detect;
    impl WithIsa for Detect {
        type Output = bool;
        fn call<I: Isa>(self, isa: I) -> bool {
            isa.with_bf16(Self).is_ok()
        }
    }
    impl<I: Isa> WithBf16<I> for Detect {
        type Output = ();
        fn call<D: Bf16Dot<Isa = I>>(self, _dot: D) {}
    }
    isa.with(Detect) == Ok(true)
}

/// Elements of scratch for any product of at most these sizes.
pub(super) fn scratch_len<I: Isa>(isa: I, m: usize, n: usize, k: usize) -> usize {
    struct Len(usize, usize, usize);
    impl<I: Isa> WithBf16<I> for Len {
        type Output = usize;
        fn call<D: Bf16Dot<Isa = I>>(self, dot: D) -> usize {
            bf16_scratch_len(dot, self.0, self.1, self.2)
        }
    }
    let f32_len = nest::scratch_len(F32Gemm::<I>::kernels(), m, n, k);
    isa.with_bf16(Len(m, n, k)).map_or(f32_len, |len| len.max(f32_len))
}

/// [`scratch_len`] for products of `bf16`.
pub(super) fn bf16_scratch_len<D: Bf16Dot>(_dot: D, m: usize, n: usize, k: usize) -> usize {
    let (kernels, words) = (Bf16Gemm::<D>::kernels(), k.div_ceil(2));
    (m * words).min(ROUNDED_WORDS.max(kernels.rows() * words)) + nest::scratch_len(kernels, m, n, k)
}

/// How many rows of A are rounded at a time.
fn rounded_rows<P: HasKernels>(kernels: &Kernels<P>, k: usize) -> usize {
    let tile = kernels.rows();
    (ROUNDED_WORDS / k.div_ceil(2).max(1) / tile).max(1) * tile
}

/// Computes a product, by dot products of `bf16` where the format and the CPU allow it.
pub(super) fn multiply<I: Isa>(isa: I, product: Product) {
    let rest = if are_bf16_pairs(product.w.format(), product.w.rows()) { isa.with_bf16(product) } else { Err(product) };
    let Err(Product { a, w, mut c, epilogue, scratch }) = rest else { return };
    let (m, n) = (c.rows(), c.cols());
    // Rows that fill no strip stay rows in `f32`.
    let in_strips = if w.format().kind() == FormatKind::Single { n - n % I::LANES } else { n };
    let (of_strips, rest) = (0..in_strips, in_strips..n);
    let window = (c.reborrow().cols_range(of_strips.clone()), epilogue.window(&(0..m), &of_strips));
    multiply_by_panels(F32Gemm(isa), a, w.cols_range(of_strips), window, scratch, |w| match w.format().kind() {
        FormatKind::Single => PanelSource::Strips(w.strips(isa)),
        FormatKind::Half(kind) => PanelSource::Half(w.half_strips(kind)),
        FormatKind::Blocks => unreachable!("blocks have kernels of their own"),
    });
    if !rest.is_empty() {
        let (c, epilogue) = (c.cols_range(rest.clone()), epilogue.window(&(0..m), &rest));
        let b = PanelSource::Operand(w.rest(in_strips));
        nest::run(F32Gemm(isa), Block { a: LeftFactor::Operand(a), b, c, epilogue }, scratch);
    }
}

impl<I: Isa> WithBf16<I> for Product<'_> {
    type Output = ();

    fn call<D: Bf16Dot<Isa = I>>(self, dot: D) {
        let Product { a, w, mut c, epilogue, scratch } = self;
        let (m, n, k) = (a.rows(), c.cols(), a.cols());
        let at_once = rounded_rows(Bf16Gemm::<D>::kernels(), k);
        let (words, scratch) = scratch.split_at_mut(m.min(at_once) * k / 2);
        // SAFETY: the elements are those of the borrowed words, and every pattern of bits is valid for both types.
        let rounded = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<bf16>(), 2 * words.len()) };
        for start in (0..m).step_by(at_once) {
            let rows = start..(start + at_once).min(m);
            let rounded = &mut rounded[..rows.len() * k];
            round_rows(dot, a.rows_range(rows.clone()), rounded);
            let a = Operand::normal(Mat::new(rounded, rows.len(), k));
            let (c, epilogue) = (c.reborrow().rows_range(rows.clone()), epilogue.window(&rows, &(0..n)));
            multiply_by_panels(Bf16Gemm(dot), a, w, (c, epilogue), scratch, |w| {
                PanelSource::Half(w.half_strips(HalfKind::Bf16))
            });
        }
    }
}

/// `C = [C +] scale · op(A) · op(B) [+ bias] [+ residual]` with both factors rounded to `bf16`. The shapes agree, and
/// neither side of C is zero.
pub(super) struct RoundedProduct<'a> {
    pub a: Operand<'a>,
    pub b: Operand<'a>,
    pub c: MatMut<'a>,
    pub epilogue: Epilogue<'a>,
    pub scratch: &'a mut [f32],
}

impl<I: Isa> WithBf16<I> for RoundedProduct<'_> {
    type Output = ();

    fn call<D: Bf16Dot<Isa = I>>(self, dot: D) {
        let Self { a, b, c, epilogue, scratch } = self;
        let product = Block { a: LeftFactor::Rounded(a), b: PanelSource::Rounded(b), c, epilogue };
        nest::run(Bf16Gemm(dot), product, scratch);
    }
}

/// Computes a product by dot products of `bf16` if the CPU has them, else in `f32`.
pub(super) fn multiply_rounded<I: Isa>(isa: I, product: RoundedProduct) {
    let Err(RoundedProduct { a, b, c, epilogue, scratch }) = isa.with_bf16(product) else { return };
    let product = Block { a: LeftFactor::Operand(a), b: PanelSource::Operand(b), c, epilogue };
    nest::run(F32Gemm(isa), product, scratch);
}

/// Writes `op(A)` row by row, rounded.
fn round_rows<D: Bf16Dot>(dot: D, a: Operand, out: &mut [bf16]) {
    let (isa, k) = (dot.isa(), a.cols());
    dot.vectorize(
        #[inline(always)]
        || {
            for (r, out) in out.chunks_exact_mut(k.max(1)).enumerate() {
                if a.layout == Layout::Transposed {
                    out.iter_mut().enumerate().for_each(|(p, x)| *x = bf16::from_f32(a.mat.row(p)[r]));
                    continue;
                }
                let (mut vectors, mut to) = (a.mat.row(r).chunks_exact(D::Isa::LANES), out);
                for x in vectors.by_ref() {
                    let (now, later) = to.split_at_mut(D::Isa::LANES);
                    isa.store_bf16(isa.load(x), now);
                    to = later;
                }
                to.iter_mut().zip(vectors.remainder()).for_each(|(to, x)| *to = bf16::from_f32(*x));
            }
        },
    );
}

/// Multiplies `a` by a weight in whole strips: `strips` are those of a window of it.
fn multiply_by_panels<'a, P: HasKernels>(
    arithmetic: P,
    a: Operand<P::Element>,
    w: PackedWeight<'a>,
    (mut c, epilogue): (MatMut, Epilogue),
    scratch: &mut [f32],
    strips: impl Fn(PackedWeight<'a>) -> PanelSource<'a, P::Element>,
) {
    let (m, n, kernels) = (c.rows(), c.cols(), P::kernels());
    if m == 1 && a.layout == Layout::Normal && n > 0 {
        let reading = Reading { max_depth: kernels.max_depth, beyond_caches: w.is_beyond_caches() };
        let tile = Tile::of_output(&c, &epilogue, w.rows() / P::STEP).at_rows(&(0..1), a.mat.as_ptr(), 0);
        return multiply_row(arithmetic, kernels, strips(w), tile, reading);
    }
    // A single tile multiplies a panel over its whole depth before the next panel, so that strips are read from end to
    // end. Several tiles multiply all panels over one block of the depth before the next, so that the block of A stays
    // in the cache.
    let panel_by_panel = m <= kernels.rows() && w.rows() > kernels.max_depth * P::STEP;
    let at_once = if panel_by_panel { kernels.width() } else { n.max(1) };
    for start in (0..n).step_by(at_once) {
        let columns = start..(start + at_once).min(n);
        let b = strips(w.cols_range(columns.clone()));
        let (c, epilogue) = (c.reborrow().cols_range(columns.clone()), epilogue.window(&(0..m), &columns));
        nest::run(arithmetic, Block { a: LeftFactor::Operand(a), b, c, epilogue }, scratch);
    }
}

/// Multiplies one row, the A of the tile, by all strips.
fn multiply_row<P: HasKernels>(
    arithmetic: P,
    kernels: &Kernels<P>,
    strips: PanelSource<P::Element>,
    tile: Tile<P::Element>,
    reading: Reading,
) {
    let [of_f32, of_f16, of_bf16] = kernels.one_row;
    let (kernel, tile) = match strips {
        PanelSource::Strips(strips) => (of_f32, strips.tile(tile)),
        PanelSource::Half(strips) if strips.kind() == HalfKind::F16 => (of_f16, strips.tile::<P>(tile)),
        PanelSource::Half(strips) => (of_bf16, strips.tile::<P>(tile)),
        PanelSource::Operand(_) | PanelSource::Rounded(_) => unreachable!("a weight in strips"),
    };
    let kernel = kernel.expect("products get strips that they have kernels for");
    // SAFETY: the row has as many words as the tile is deep; the strips are those of the tile's columns, whole; its
    // pointers are those of matrices with one row of these columns.
    unsafe { kernel(arithmetic, &tile, reading) };
}
