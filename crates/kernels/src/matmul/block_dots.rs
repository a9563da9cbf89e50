//! Products with weights in blocks: dot products of bytes, with exact sums in `i32`.
//!
//! ```text
//! y[r, j] = Σ over sub-blocks s of 16 or 32 elements:
//!             scale_x[r, s] · scale_w[j, s] · Σ_i x[r, i] · w[j, i]      bytes, the sum exact
//!           − scale_x[r, s] · Σ_i x[r, i] · drop_w[j, s]                 in formats with minima
//! ```
//!
//! The sub-blocks of an element are added in rising order, each by one multiply-add for the first term and one for the
//! second, so the bits do not depend on windows and numbers of rows. For the layout of weights see `blocks/strip.rs`,
//! for that of activations `quantized`.
//!
//! Many rows are multiplied by way of panels: see `block_panels`. For few rows there is one kernel, generic over the
//! token of dot products, the format and the numbers of rows and of strips, which unpacks weights in registers:
//!
//! ```text
//! for each block
//!   for each group of 32 elements
//!     for each half of the group                   (a sub-block is a group or a half of one)
//!       for each pair of quads of the half
//!         w[V] = the pair of V strips, unpacked
//!         for r in rows: dots[r][V] += w[V] · x[r, pair]
//!       at the end of a sub-block: sums[r][V] += scales · dots[r][V] − drops · sum of x
//! C[rows, V vectors] = epilogue(sums)
//! ```
#![allow(unsafe_code)]

use std::any::Any;
use std::marker::PhantomData;
use std::ptr::null;

#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512, Avx512Vnni};
use smallmind_simd::{Int8Dot, Isa, Scalar, WithInt8};

use super::block_panels::{Panel, PanelKernels, STRIPS, Strips, fits_16_bits, line};
use super::block_strips::strip_words;
use super::byte_sums::{Adder, In16Bits, In32Bits};
use super::operand::Epilogue;
use super::packed::PackedWeight;
use super::quantized::{RowLayout, quantized_words};
use super::tile::{Tile, write};
use crate::blocks::strip::{GROUP, QUADS, Strip};
use crate::blocks::{Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::format::FormatKind;
use crate::{Format, Mat, MatMut};

/// Rows of the micro-kernel for few rows, where vectors have registers for them.
const FEW: usize = 4;
/// Strips of a tile of a single row. Each is a stream of memory: two are read more slowly (Zen 4: by 2 to 15 %).
const ONE_ROW_STRIPS: usize = 4;
/// The fewest rows that are multiplied by way of panels.
const PANEL_ROWS: usize = 16;

/// `C = [C +] scale · X · Wᵀ [+ bias] [+ residual]`: `x` `[m, quantized_words(k)]` from
/// [`quantize_rows`](super::quantize_rows), `w` in a format of blocks, packed for `I`. The shapes agree; neither `m`
/// nor `n` is zero.
pub(super) struct Product<'a> {
    pub x: Mat<'a>,
    pub w: PackedWeight<'a>,
    pub c: MatMut<'a>,
    pub epilogue: Epilogue<'a>,
}

impl<I: Isa> WithInt8<I> for Product<'_> {
    type Output = ();

    fn call<D: Int8Dot<Isa = I>>(self, dot: D) {
        let Self { x, w, c, .. } = &self;
        let (m, n, k) = (c.rows(), c.cols(), w.rows());
        debug_assert_eq!((x.rows(), x.cols(), w.cols()), (m, quantized_words(k), n), "shapes that agree");
        debug_assert!(w.lanes() == I::LANES && w.format().kind() == FormatKind::Blocks, "strips of blocks");
        let kernels = kernels_of::<D>(w.format());
        // A product without depth has no panel.
        let has_panels = m >= PANEL_ROWS && k > 0;
        if m == 1 {
            self.one_row(dot, kernels);
        } else if !has_panels {
            self.tiles::<STRIPS>(I::LANES, |x, strips, c, epilogue| {
                let (base, mut first) = (Tile::<f32>::of_output(&c, epilogue, 0), 0);
                while first < m {
                    let fitting = kernels.by_rows.iter().find(|(rows, _)| *rows <= m - first);
                    let (rows, kernel) = *fitting.expect("there is a kernel for one row");
                    let factors =
                        Factors { x: x.as_ptr().wrapping_add(first * x.stride()), stride: x.stride(), strips };
                    let tile = base.at_rows(&(first..first + rows), null(), 0);
                    // SAFETY: the rows are those of `x`, each of `quantized_words(k)` words; the strips are those of
                    // the tile, in this format and packed for `I`. The tile's pointers are those of matrices cut to
                    // these rows and as wide as the tile.
                    unsafe { kernel(dot, &factors, &tile) };
                    first += rows;
                }
            });
        } else {
            let mut panel = Panel::new(dot);
            self.tiles::<STRIPS>(I::LANES, |x, strips, c, epilogue| {
                let x = (x.as_ptr(), x.stride());
                // SAFETY: the rows are those of `x`, each of `quantized_words(k)` words; the strips are those of the
                // tile, in this format and packed for `I`.
                unsafe { kernels.panels.multiply(dot, x, &strips, (c, epilogue), &mut panel) };
            });
        }
    }
}

impl Product<'_> {
    /// The product of a single row.
    fn one_row<D: Int8Dot>(self, dot: D, kernels: &Kernels<D>) {
        let (lanes, [_, (_, narrow)]) = (<D::Isa as Isa>::LANES, kernels.by_rows);
        self.tiles::<ONE_ROW_STRIPS>(lanes, |x, strips, c, epilogue| {
            let (x, stride) = (x.as_ptr(), x.stride());
            let tile = Tile::<f32>::of_output(&c, epilogue, 0).at_rows(&(0..1), null(), 0);
            // SAFETY: the row has `quantized_words(k)` words; the strips are those of the tile, in this format and
            // packed for the token. The tile's pointers are those of matrices with one row, as wide as the tile.
            unsafe {
                if c.cols() <= STRIPS * lanes {
                    let Strips { at: [first, second, ..], k } = strips;
                    narrow(dot, &Factors { x, stride, strips: Strips { at: [first, second], k } }, &tile);
                } else {
                    (kernels.one_row)(dot, &Factors { x, stride, strips }, &tile);
                }
            }
        });
    }

    /// Calls `multiply` for each tile: with the activations, the tile's strips, and its window of C and the epilogue.
    #[inline(always)]
    fn tiles<const V: usize>(self, lanes: usize, mut multiply: impl FnMut(Mat, Strips<V>, MatMut, &Epilogue)) {
        let Self { x, w, mut c, epilogue } = self;
        let (n, k, width) = (c.cols(), w.rows(), V * lanes);
        let (strip, rows) = (strip_words(w.format(), lanes, k), 0..c.rows());
        for start in (0..n).step_by(width) {
            let columns = start..(start + width).min(n);
            // Where there are fewer strips, the last is computed several times and written once.
            let last = columns.len().div_ceil(lanes) - 1;
            let at =
                std::array::from_fn(|v| w.words().as_ptr().wrapping_add((start / lanes + v.min(last)) * strip).cast());
            let epilogue = epilogue.window(&rows, &columns);
            multiply(x, Strips { at, k }, c.reborrow().cols_range(columns), &epilogue);
        }
    }
}

/// The factors of a tile of `V` strips.
struct Factors<const V: usize> {
    /// The first row of quantized activations, in words.
    x: *const f32,
    /// Words from row to row.
    stride: usize,
    strips: Strips<V>,
}

/// A micro-kernel of some number of rows and of `V` strips.
///
/// # Safety
/// The kernel's rows of activations and the strips must be valid for reads over the depth, the tile's pointers as for
/// [`KernelFn`](super::tile::KernelFn).
type KernelFn<D, const V: usize> = unsafe fn(D, &Factors<V>, &Tile<f32>);

/// The micro-kernel of `R` rows.
///
/// # Safety
/// As [`KernelFn`].
unsafe fn kernel<D: Int8Dot, S: Strip, const R: usize, const V: usize>(dot: D, factors: &Factors<V>, tile: &Tile<f32>) {
    dot.vectorize(
        #[inline(always)]
        || {
            // SAFETY: factors and tile are valid for R rows, which is all that both functions demand.
            unsafe {
                let sums = multiply::<D, S, R, V>(dot, factors);
                write(dot.isa(), tile, &sums);
            }
        },
    );
}

/// The sums of a tile: a vector for each row and strip.
type Sums<D, const R: usize, const V: usize> = [[<<D as Int8Dot>::Isa as Isa>::F32; V]; R];

/// The sums of a tile over all blocks.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
unsafe fn multiply<D: Int8Dot, S: Strip, const R: usize, const V: usize>(
    dot: D,
    factors: &Factors<V>,
) -> Sums<D, R, V> {
    let (isa, strips) = (dot.isa(), &factors.strips);
    let lanes = <D::Isa as Isa>::LANES;
    let (groups, per_block) = (strips.k / GROUP, S::FORMAT.block().elements / GROUP);
    let mut sums = [[isa.zero(); V]; R];
    for block in 0..groups / per_block {
        // SAFETY: the block is one of the strips'.
        let (scales, halves) = unsafe { strips.block::<_, S>(isa, block) };
        let of_block = OfBlock { scales, halves };
        for in_block in 0..per_block {
            let number = block * per_block + in_block;
            // One row reads each weight once, so that it waits for memory.
            if R == 1 {
                strips.prefetch_ahead::<S>(number, lanes);
                strips.prefetch_scales::<S>(scales, block, in_block, lanes);
            }
            let row = RowLayout::of(strips.k);
            let group = Group { dot, factors, row, number, in_block, of_block: &of_block, format: PhantomData::<S> };
            // SAFETY: the group is one of the depth's, and the scales are those of its block.
            unsafe { group.multiply(&mut sums) };
        }
    }
    sums
}

/// The scales of a block in each strip of a tile.
struct OfBlock<F, const V: usize> {
    /// Where they begin.
    scales: [*const u8; V],
    /// Their floats.
    halves: [[F; 2]; V],
}

/// A group of 32 elements of the depth.
struct Group<'a, D: Int8Dot, S, const V: usize> {
    dot: D,
    factors: &'a Factors<V>,
    row: RowLayout,
    /// Its number in the depth.
    number: usize,
    /// Its number in its block.
    in_block: usize,
    of_block: &'a OfBlock<<D::Isa as Isa>::F32, V>,
    format: PhantomData<S>,
}

/// # Safety
/// For all functions: as [`KernelFn`]; the group is one of the depth's, and `of_block` has the scales of its block.
impl<D: Int8Dot, S: Strip, const V: usize> Group<'_, D, S, V> {
    /// Whether a sub-block is half a group.
    const IS_HALVED: bool = S::SUB < GROUP;

    /// Adds the products of the group to the sums.
    #[inline(always)]
    unsafe fn multiply<const R: usize>(&self, sums: &mut Sums<D, R, V>) {
        // SAFETY: as the caller guarantees.
        unsafe {
            if const { fits_16_bits::<S>() } {
                self.multiply_with::<In16Bits, R>(sums);
            } else if const { S::MOST < 64 } {
                self.multiply_with::<In32Bits<true>, R>(sums);
            } else {
                self.multiply_with::<In32Bits<false>, R>(sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply_with<A: Adder<D>, const R: usize>(&self, sums: &mut Sums<D, R, V>) {
        // The pairs are called one by one: which shifts unpack one must be known when this is compiled.
        // SAFETY: as the caller guarantees.
        unsafe {
            let mut dots = self.start::<A, R>(0);
            self.pair::<A, R>(0, &mut dots);
            self.pair::<A, R>(1, &mut dots);
            if Self::IS_HALVED {
                self.finish::<A, R>(0, &dots, sums);
                dots = self.start::<A, R>(1);
            }
            self.pair::<A, R>(2, &mut dots);
            self.pair::<A, R>(3, &mut dots);
            self.finish::<A, R>(1, &dots, sums);
        }
    }

    /// Word `at` of row `r` of the activations.
    #[inline(always)]
    unsafe fn word(&self, r: usize, at: usize) -> f32 {
        // SAFETY: the rows are readable, as the caller guarantees.
        unsafe { *self.factors.x.add(r * self.factors.stride + at) }
    }

    /// The sum of the bytes of row `r` in the sub-block that has this half of the group, or in the group if that is a
    /// sub-block.
    #[inline(always)]
    unsafe fn sum_x(&self, r: usize, half: usize) -> i32 {
        let at =
            if Self::IS_HALVED { self.row.half_sums + 2 * self.number + half } else { self.row.sums + self.number };
        // SAFETY: a row has the sums that `row` describes.
        unsafe { self.word(r, at) }.to_bits() as i32
    }

    /// What the sum of row `r` in a sub-block begins with: it takes the weights' offset back, as far as the adder does
    /// not.
    #[inline(always)]
    unsafe fn offset<A: Adder<D>>(&self, r: usize, half: usize) -> <D::Isa as Isa>::I32 {
        let offset = const { S::OFFSET - A::SHIFT };
        // SAFETY: as the caller guarantees.
        let sum_x = if offset == 0 { 0 } else { unsafe { self.sum_x(r, half) } };
        self.dot.isa().splat_i32(sum_x.wrapping_mul(-offset))
    }

    /// The sums of a sub-block without products.
    #[inline(always)]
    unsafe fn start<A: Adder<D>, const R: usize>(&self, half: usize) -> [[A::Sum; V]; R] {
        // SAFETY: as the caller guarantees.
        std::array::from_fn(
            #[inline(always)]
            |r| [A::begin(self.dot, unsafe { self.offset::<A>(r, half) }); V],
        )
    }

    /// Adds the products of a pair of quads.
    #[inline(always)]
    unsafe fn pair<A: Adder<D>, const R: usize>(&self, pair: usize, dots: &mut [[A::Sum; V]; R]) {
        let (dot, factors) = (self.dot, self.factors);
        let mut w = [[dot.splat_quad(0); 2]; V];
        for (v, w) in w.iter_mut().enumerate() {
            // SAFETY: the group is one of the strips'.
            *w = unsafe { factors.strips.pair::<D, S, A>(dot, v, self.number, pair) };
        }
        for (r, dots) in dots.iter_mut().enumerate() {
            // SAFETY: a row begins with the quads of all groups.
            let x = unsafe {
                let quad = factors.x.add(r * factors.stride + self.number * QUADS + 2 * pair).cast::<u8>();
                [dot.splat_quad_ptr(quad), dot.splat_quad_ptr(quad.add(4))]
            };
            for (sum, &w) in dots.iter_mut().zip(&w) {
                *sum = A::add(dot, *sum, w, x);
            }
        }
    }

    /// Adds a sub-block to the sums, scaled.
    #[inline(always)]
    unsafe fn finish<A: Adder<D>, const R: usize>(
        &self,
        half: usize,
        dots: &[[A::Sum; V]; R],
        sums: &mut Sums<D, R, V>,
    ) {
        let isa = self.dot.isa();
        let sub = if Self::IS_HALVED { 2 * self.in_block + half } else { self.in_block };
        for v in 0..V {
            // SAFETY: these are the scales of the block.
            let [scale_w, drop] = unsafe { line::<_, S>(isa, self.of_block.scales[v], self.of_block.halves[v], sub) };
            for r in 0..R {
                // SAFETY: a row has the scales and sums that `row` describes.
                let (scale_x, sum_x, offset) = unsafe {
                    (self.word(r, self.row.scales + self.number), self.sum_x(r, half), self.offset::<A>(r, half))
                };
                let dots = isa.to_f32(A::end(self.dot, dots[r][v], offset));
                sums[r][v] = isa.mul_add(dots, isa.mul(scale_w, isa.splat(scale_x)), sums[r][v]);
                if S::HAS_DROP {
                    sums[r][v] = isa.neg_mul_add(isa.splat(scale_x * sum_x as f32), drop, sums[r][v]);
                }
            }
        }
    }
}

/// The kernels of a format.
struct Kernels<D: Int8Dot> {
    format: Format,
    /// Rows and the kernel for them, the most rows first; the last one is for a single row.
    by_rows: [(usize, KernelFn<D, STRIPS>); 2],
    /// The kernel for a single row of an output that is wide enough.
    one_row: KernelFn<D, ONE_ROW_STRIPS>,
    panels: PanelKernels<D>,
}

impl<D: Int8Dot> Kernels<D> {
    /// The kernels for up to `most` rows at once.
    const fn of<S: Strip>(most: usize) -> Self {
        let one = (1, kernel::<D, S, 1, STRIPS> as KernelFn<D, STRIPS>);
        let few = if most < FEW { one } else { (FEW, kernel::<D, S, FEW, STRIPS> as KernelFn<D, STRIPS>) };
        let one_row = kernel::<D, S, 1, ONE_ROW_STRIPS>;
        Self { format: S::FORMAT, by_rows: [few, one], one_row, panels: PanelKernels::of::<S>(most) }
    }

    const fn all(most: usize) -> [Self; 13] {
        [
            Self::of::<Q8_0>(most),
            Self::of::<Q4_0>(most),
            Self::of::<Q4_1>(most),
            Self::of::<Q5_0>(most),
            Self::of::<Q5_1>(most),
            Self::of::<Q2K>(most),
            Self::of::<Q3K>(most),
            Self::of::<Q4K>(most),
            Self::of::<Q5K>(most),
            Self::of::<Q6K>(most),
            Self::of::<Iq4Nl>(most),
            Self::of::<Iq4Xs>(most),
            Self::of::<Mxfp4>(most),
        ]
    }
}

type Tables<D> = [Kernels<D>; 13];

// Each table comes from a function that is never inlined; see `crate::compiled`.

// Without vectors several rows at once are much code.
#[inline(never)]
fn scalar() -> &'static Tables<Scalar> {
    const { &Kernels::all(1) }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx2() -> &'static Tables<Avx2> {
    const { &Kernels::all(4) }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx512() -> &'static Tables<Avx512> {
    const { &Kernels::all(8) }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx512_vnni() -> &'static Tables<Avx512Vnni> {
    const { &Kernels::all(8) }
}

/// The kernels of `D` for a format.
#[inline(always)]
fn kernels_of<D: Int8Dot>(format: Format) -> &'static Kernels<D> {
    let tables: &[&'static dyn Any] = &[
        scalar(),
        #[cfg(target_arch = "x86_64")]
        avx2(),
        #[cfg(target_arch = "x86_64")]
        avx512(),
        #[cfg(target_arch = "x86_64")]
        avx512_vnni(),
    ];
    let of_token = tables.iter().find_map(|table| table.downcast_ref::<Tables<D>>());
    let kernels = of_token.expect("each token has a table");
    kernels.iter().find(|kernels| kernels.format == format).expect("each format of blocks has kernels")
}
