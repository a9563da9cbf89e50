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
//! There is one kernel, generic over the token of dot products, the format and the number of rows:
//!
//! ```text
//! for each block
//!   for each group of 32 elements
//!     for each half of the group                   (a sub-block is a group or a half of one)
//!       for each quad of the half
//!         w[V] = the quad of V strips              unpacked once for all rows
//!         for r in rows: dots[r][V] += w[V] · x[r, quad]
//!       at the end of a sub-block: sums[r][V] += scales · dots[r][V] − drops · sum of x
//! C[rows, V vectors] = epilogue(sums)
//! ```
#![allow(unsafe_code)]

use std::any::Any;
use std::marker::PhantomData;
use std::ptr::null;

use half::f16;
#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512, Avx512Vnni};
use smallmind_simd::{CacheLevel, Int8Dot, Isa, Scalar, WithInt8, prefetch};

use super::block_strips::strip_words;
use super::operand::Epilogue;
use super::packed::PackedWeight;
use super::quantized::{MOST_ACTIVATION, RowLayout, quantized_words};
use super::tile::{Tile, write};
use crate::blocks::strip::{GROUP, QUADS, Strip, scale_bytes, vectors};
use crate::blocks::{Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::format::FormatKind;
use crate::{Format, Mat, MatMut};

/// Strips of a tile, side by side.
const STRIPS: usize = 2;
/// Bytes of a cache line.
const LINE: usize = 64;

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
        let Self { x, w, mut c, epilogue } = self;
        let (m, n, k) = (c.rows(), c.cols(), w.rows());
        debug_assert_eq!((x.rows(), x.cols(), w.cols()), (m, quantized_words(k), n), "shapes that agree");
        debug_assert!(w.lanes() == I::LANES && w.format().kind() == FormatKind::Blocks, "strips of blocks");
        let (kernels, width) = (kernels_of::<D>(w.format()), STRIPS * I::LANES);
        let strip = strip_words(w.format(), I::LANES, k);
        for start in (0..n).step_by(width) {
            let columns = start..(start + width).min(n);
            // Where there is no second strip, the first is computed twice and written once.
            let last = columns.len().div_ceil(I::LANES) - 1;
            let strips = std::array::from_fn(|v| {
                w.words().as_ptr().wrapping_add((start / I::LANES + v.min(last)) * strip).cast::<u8>()
            });
            let c = c.reborrow().cols_range(columns.clone());
            let base = Tile::<f32>::of_output(&c, &epilogue.window(&(0..m), &columns), 0);
            let mut first = 0;
            while first < m {
                let fitting = kernels.by_rows.iter().find(|(rows, _)| *rows <= m - first);
                let (rows, kernel) = *fitting.expect("there is a kernel for one row");
                let factors = Factors { x: x.as_ptr().wrapping_add(first * x.stride()), stride: x.stride(), strips, k };
                let tile = base.at_rows(&(first..first + rows), null(), 0);
                // SAFETY: the rows are those of `x`, each of `quantized_words(k)` words; the strips are some of those
                // from column `start` on, which `w`, of n columns, has. The tile's pointers are those of matrices cut
                // to these rows and columns.
                unsafe { kernel(dot, &factors, &tile) };
                first += rows;
            }
        }
    }
}

/// The factors of a tile.
struct Factors {
    /// The first row of quantized activations, in words.
    x: *const f32,
    /// Words from row to row.
    stride: usize,
    /// The strips of the tile's columns.
    strips: [*const u8; STRIPS],
    /// Depth in elements, whole blocks.
    k: usize,
}

/// A micro-kernel of some number of rows.
///
/// # Safety
/// The kernel's rows of activations and the strips must be valid for reads over the depth, the tile's pointers as for
/// [`KernelFn`](super::tile::KernelFn).
type KernelFn<D> = unsafe fn(D, &Factors, &Tile<f32>);

/// The micro-kernel of `R` rows.
///
/// # Safety
/// As [`KernelFn`].
unsafe fn kernel<D: Int8Dot, S: Strip, const R: usize>(dot: D, factors: &Factors, tile: &Tile<f32>) {
    dot.vectorize(
        #[inline(always)]
        || {
            // SAFETY: factors and tile are valid for R rows, which is all that both functions demand.
            unsafe {
                let sums = multiply::<D, S, R>(dot, factors);
                write(dot.isa(), tile, &sums);
            }
        },
    );
}

/// The sums of a tile: a vector for each row and strip.
type Sums<D, const R: usize> = [[<<D as Int8Dot>::Isa as Isa>::F32; STRIPS]; R];
/// How the products of a sub-block are added up. What is taken from the bytes of weights besides is
/// [`SHIFT`](Self::SHIFT).
trait Adder<D: Int8Dot> {
    type Sum: Copy;
    const SHIFT: i32;
    /// The sum of no products, to be added to `start`.
    fn begin(dot: D, start: <D::Isa as Isa>::I32) -> Self::Sum;
    fn add(dot: D, sum: Self::Sum, w: D::Bytes, x: D::Bytes) -> Self::Sum;
    /// `start`, which the sum began with, and the products.
    fn end(dot: D, sum: Self::Sum, start: <D::Isa as Isa>::I32) -> <D::Isa as Isa>::I32;
}

/// For bytes so small that the products of a sub-block can be added in 16 bits.
struct Few;
/// For bytes below 128.
struct Below128;
/// For all bytes.
struct EveryByte;

impl<D: Int8Dot> Adder<D> for Few {
    type Sum = D::Few;
    const SHIFT: i32 = 0;

    #[inline(always)]
    fn begin(dot: D, start: <D::Isa as Isa>::I32) -> D::Few {
        dot.few(start)
    }

    #[inline(always)]
    fn add(dot: D, sum: D::Few, w: D::Bytes, x: D::Bytes) -> D::Few {
        dot.dot_few(sum, w, x)
    }

    #[inline(always)]
    fn end(dot: D, sum: D::Few, start: <D::Isa as Isa>::I32) -> <D::Isa as Isa>::I32 {
        dot.sum_few(sum, start)
    }
}

impl<D: Int8Dot> Adder<D> for Below128 {
    type Sum = <D::Isa as Isa>::I32;
    const SHIFT: i32 = 0;

    #[inline(always)]
    fn begin(_dot: D, start: Self::Sum) -> Self::Sum {
        start
    }

    #[inline(always)]
    fn add(dot: D, sum: Self::Sum, w: D::Bytes, x: D::Bytes) -> Self::Sum {
        dot.dot_below_128(sum, w, x)
    }

    #[inline(always)]
    fn end(_dot: D, sum: Self::Sum, _start: Self::Sum) -> Self::Sum {
        sum
    }
}

impl<D: Int8Dot> Adder<D> for EveryByte {
    type Sum = <D::Isa as Isa>::I32;
    const SHIFT: i32 = D::SHIFT;

    #[inline(always)]
    fn begin(_dot: D, start: Self::Sum) -> Self::Sum {
        start
    }

    #[inline(always)]
    fn add(dot: D, sum: Self::Sum, w: D::Bytes, x: D::Bytes) -> Self::Sum {
        dot.dot_shifted(sum, w, x)
    }

    #[inline(always)]
    fn end(_dot: D, sum: Self::Sum, _start: Self::Sum) -> Self::Sum {
        sum
    }
}

/// The sums of a tile over all blocks.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
unsafe fn multiply<D: Int8Dot, S: Strip, const R: usize>(dot: D, factors: &Factors) -> Sums<D, R> {
    let isa = dot.isa();
    let lanes = <D::Isa as Isa>::LANES;
    let (groups, per_block) = (factors.k / GROUP, S::FORMAT.block().elements / GROUP);
    let mut sums = [[isa.zero(); STRIPS]; R];
    // One row reads each weight once, so that it waits for memory. Where the next strip begins the prefetchers of the
    // CPU begin anew; the strips of the next tile follow those of this one.
    let next = STRIPS * strip_words(S::FORMAT, lanes, factors.k) * size_of::<f32>();
    for block in 0..groups / per_block {
        let mut scales = factors.strips;
        let mut halves = [[isa.zero(); 2]; STRIPS];
        for (scales, halves) in scales.iter_mut().zip(&mut halves) {
            // SAFETY: a strip has the codes of all groups, then the scales of all blocks. The scales of a block begin
            // with HALVES floats for each lane, at an even address.
            unsafe {
                *scales = scales.add((groups * vectors::<S>() * 4 + block * scale_bytes::<S>()) * lanes);
                for (i, half) in halves[..S::HALVES].iter_mut().enumerate() {
                    let floats = std::slice::from_raw_parts(scales.cast::<f16>().add(i * lanes), lanes);
                    *half = isa.load_f16(floats);
                }
            }
        }
        let of_block = OfBlock { scales, halves };
        for in_block in 0..per_block {
            let number = block * per_block + in_block;
            if R == 1 {
                prefetch_group::<S>(&factors.strips, next, number, lanes);
                scales.iter().for_each(|scales| prefetch(scales.wrapping_add(next), CacheLevel::Second));
            }
            let row = RowLayout::of(factors.k);
            let group = Group { dot, factors, row, number, in_block, of_block: &of_block, format: PhantomData::<S> };
            // SAFETY: the group is one of the depth's, and the scales are those of its block.
            unsafe { group.multiply(&mut sums) };
        }
    }
    sums
}

/// Prefetches a group of each strip, `next` bytes behind.
#[inline(always)]
fn prefetch_group<S: Strip>(strips: &[*const u8; STRIPS], next: usize, number: usize, lanes: usize) {
    let bytes = vectors::<S>() * 4 * lanes;
    for strip in strips {
        for at in (0..bytes).step_by(LINE) {
            prefetch(strip.wrapping_add(next + number * bytes + at), CacheLevel::Second);
        }
    }
}

/// The scales of a block in each strip of a tile.
struct OfBlock<F> {
    /// Where they begin.
    scales: [*const u8; STRIPS],
    /// Their floats.
    halves: [[F; 2]; STRIPS],
}

/// A group of 32 elements of the depth.
struct Group<'a, D: Int8Dot, S> {
    dot: D,
    factors: &'a Factors,
    row: RowLayout,
    /// Its number in the depth.
    number: usize,
    /// Its number in its block.
    in_block: usize,
    of_block: &'a OfBlock<<D::Isa as Isa>::F32>,
    format: PhantomData<S>,
}

/// # Safety
/// For all functions: as [`KernelFn`]; the group is one of the depth's, and `of_block` has the scales of its block.
impl<D: Int8Dot, S: Strip> Group<'_, D, S> {
    /// Whether a sub-block is half a group.
    const IS_HALVED: bool = S::SUB < GROUP;

    /// Adds the products of the group to the sums.
    #[inline(always)]
    unsafe fn multiply<const R: usize>(&self, sums: &mut Sums<D, R>) {
        // SAFETY: as the caller guarantees.
        unsafe {
            if const { S::MOST as usize * MOST_ACTIVATION * 2 * S::SUB / 4 <= i16::MAX as usize } {
                self.multiply_with::<Few, R>(sums);
            } else if const { S::MOST < 128 } {
                self.multiply_with::<Below128, R>(sums);
            } else {
                self.multiply_with::<EveryByte, R>(sums);
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply_with<A: Adder<D>, const R: usize>(&self, sums: &mut Sums<D, R>) {
        // The quads are called one by one: which shifts unpack one must be known when this is compiled.
        // SAFETY: as the caller guarantees.
        unsafe {
            let mut dots = self.start::<A, R>(0);
            self.quad::<A, R>(0, &mut dots);
            self.quad::<A, R>(1, &mut dots);
            self.quad::<A, R>(2, &mut dots);
            self.quad::<A, R>(3, &mut dots);
            if Self::IS_HALVED {
                self.finish::<A, R>(0, &dots, sums);
                dots = self.start::<A, R>(1);
            }
            self.quad::<A, R>(4, &mut dots);
            self.quad::<A, R>(5, &mut dots);
            self.quad::<A, R>(6, &mut dots);
            self.quad::<A, R>(7, &mut dots);
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
        // SAFETY: a row has the sums that `row` describes.
        let [all, first] =
            unsafe { [self.word(r, self.row.sums + self.number), self.word(r, self.row.first_sums + self.number)] };
        let [all, first] = [all.to_bits() as i32, first.to_bits() as i32];
        match (Self::IS_HALVED, half) {
            (false, _) => all,
            (true, 0) => first,
            (true, _) => all.wrapping_sub(first),
        }
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
    unsafe fn start<A: Adder<D>, const R: usize>(&self, half: usize) -> [[A::Sum; STRIPS]; R] {
        // SAFETY: as the caller guarantees.
        std::array::from_fn(
            #[inline(always)]
            |r| [A::begin(self.dot, unsafe { self.offset::<A>(r, half) }); STRIPS],
        )
    }

    /// Adds the products of a quad.
    #[inline(always)]
    unsafe fn quad<A: Adder<D>, const R: usize>(&self, q: usize, dots: &mut [[A::Sum; STRIPS]; R]) {
        let (dot, bytes) = (self.dot, 4 * <D::Isa as Isa>::LANES);
        let mut w = [dot.splat_quad(0); STRIPS];
        for (w, strip) in w.iter_mut().zip(self.factors.strips) {
            *w = S::quad(
                dot,
                #[inline(always)]
                // SAFETY: a strip has as many vectors of each group.
                |v| unsafe { dot.load_bytes(strip.add((self.number * vectors::<S>() + v) * bytes)) },
                q,
            );
        }
        for (r, dots) in dots.iter_mut().enumerate() {
            // SAFETY: a row begins with the quads of all groups.
            let x = unsafe {
                dot.splat_quad_ptr(self.factors.x.add(r * self.factors.stride + self.number * QUADS + q).cast())
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
        dots: &[[A::Sum; STRIPS]; R],
        sums: &mut Sums<D, R>,
    ) {
        let (isa, lanes) = (self.dot.isa(), <D::Isa as Isa>::LANES);
        let sub = if Self::IS_HALVED { 2 * self.in_block + half } else { self.in_block };
        for v in 0..STRIPS {
            let scales = self.of_block.scales[v];
            let [scale_w, drop] = S::line(
                isa,
                self.of_block.halves[v],
                #[inline(always)]
                // SAFETY: the scales of a block have INTEGERS integers for each lane, after their floats.
                |i| unsafe {
                    isa.load_i8(std::slice::from_raw_parts(scales.add((2 * S::HALVES + i) * lanes).cast(), lanes))
                },
                sub,
            );
            for r in 0..R {
                // SAFETY: a row has the scales and sums that `row` describes.
                let (scale_x, sum_x, offset) = unsafe {
                    (self.word(r, self.row.scales + self.number), self.sum_x(r, half), self.offset::<A>(r, half))
                };
                let dots = isa.to_f32(A::end(self.dot, dots[r][v], offset));
                let scale = isa.mul(scale_w, isa.splat(scale_x));
                sums[r][v] = isa.mul_add(dots, scale, sums[r][v]);
                if S::HAS_DROP {
                    sums[r][v] = isa.neg_mul_add(isa.splat(scale_x * sum_x as f32), drop, sums[r][v]);
                }
            }
        }
    }
}

/// The micro-kernels of a format.
struct Kernels<D> {
    format: Format,
    /// Rows and the kernel for them, the most rows first.
    by_rows: [(usize, KernelFn<D>); 3],
}

impl<D: Int8Dot> Kernels<D> {
    /// The kernels for up to `most` rows.
    const fn of<S: Strip>(most: usize) -> Self {
        let one = (1, kernel::<D, S, 1> as KernelFn<D>);
        let two = if most < 2 { one } else { (2, kernel::<D, S, 2> as KernelFn<D>) };
        let four = if most < 4 { two } else { (4, kernel::<D, S, 4> as KernelFn<D>) };
        Self { format: S::FORMAT, by_rows: [four, two, one] }
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
    const { &Kernels::all(4) }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx512_vnni() -> &'static Tables<Avx512Vnni> {
    const { &Kernels::all(4) }
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
