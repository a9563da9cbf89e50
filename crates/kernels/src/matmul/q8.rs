//! Products with weights in blocks of bytes: dot products of bytes, with exact sums in `i32`.
//!
//! ```text
//! y[r, j] = Σ over blocks b of 32 elements:  scale_x[r, b] · scale_w[j, b] · Σ_i x[r, 32 b + i] · w[j, 32 b + i]
//!                                            rounded to f32                  bytes, exact
//! ```
//!
//! The blocks of an element are added in rising order, each by one multiply-add, so the bits do not depend on windows
//! and numbers of rows. For the order of bytes and their signs see `q8_blocks`.
#![allow(unsafe_code)]

use std::any::Any;
use std::ptr::null;

use half::f16;
#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512, Avx512Vnni};
use smallmind_simd::{Int8Dot, Isa, Scalar, WithInt8};

use super::operand::Epilogue;
use super::packed::PackedWeight;
use super::q8_blocks::{BLOCK, QUADS, quantized_words, strip_words};
use super::tile::{Tile, write};
use crate::format::FormatKind;
use crate::{Mat, MatMut};

/// The most rows of a tile.
const ROWS: usize = 4;
/// The most strips of a tile, side by side.
const STRIPS: usize = 2;

/// `C = [C +] scale · X · Wᵀ [+ bias] [+ residual]`: `x` `[m, quantized_words(k)]` from
/// [`quantize_rows`](super::quantize_rows), `w` in blocks of bytes, packed for `I`. The shapes agree; neither `m` nor
/// `n` is zero.
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
        debug_assert!(w.lanes() == I::LANES && w.format().kind() == FormatKind::Blocks, "strips of bytes");
        let (kernels, width) = (kernels_of::<D>(), STRIPS * I::LANES);
        for start in (0..n).step_by(width) {
            let columns = start..(start + width).min(n);
            let strips = std::array::from_fn(|v| {
                let first = (start / I::LANES + v) * strip_words(I::LANES, k);
                let quads = w.words().as_ptr().wrapping_add(first).cast::<u8>();
                Strip { quads, scales: quads.wrapping_add(I::LANES * k).cast() }
            });
            let c = c.reborrow().cols_range(columns.clone());
            let base = Tile::<f32>::of_output(&c, &epilogue.window(&(0..m), &columns), 0);
            let vectors = columns.len().div_ceil(I::LANES);
            for first in (0..m).step_by(ROWS) {
                let rows = first..(first + ROWS).min(m);
                let factors = Factors { x: x.as_ptr().wrapping_add(first * x.stride()), stride: x.stride(), strips, k };
                let tile = base.at_rows(&rows, null(), 0);
                // SAFETY: the rows are those of `x`, each of `quantized_words(k)` words; the strips are the first
                // `vectors` ones from column `start` on, which `w`, of n columns, has. The tile's pointers are those of
                // matrices cut to these rows and columns.
                unsafe { kernels[rows.len() - 1][vectors - 1](dot, &factors, &tile) };
            }
        }
    }
}

/// The address of a strip's bytes and of its scales.
#[derive(Clone, Copy)]
struct Strip {
    quads: *const u8,
    scales: *const f16,
}

/// The factors of a tile.
struct Factors {
    /// The first row of quantized activations, in words.
    x: *const f32,
    /// Words from row to row.
    stride: usize,
    /// The strips of the tile's columns; a kernel of fewer strips reads the first ones only.
    strips: [Strip; STRIPS],
    /// Depth in elements.
    k: usize,
}

/// A micro-kernel of some number of rows and strips.
///
/// # Safety
/// The kernel's rows of activations and its strips must be valid for reads over the depth, the tile's pointers as for
/// [`KernelFn`](super::tile::KernelFn).
type KernelFn<D> = unsafe fn(D, &Factors, &Tile<f32>);

/// The micro-kernel of `R` rows and `V` strips.
///
/// # Safety
/// As [`KernelFn`].
unsafe fn kernel<D: Int8Dot, const R: usize, const V: usize>(dot: D, factors: &Factors, tile: &Tile<f32>) {
    dot.vectorize(
        #[inline(always)]
        || {
            // SAFETY: factors and tile are valid for R rows and V strips, which is all that both functions demand.
            unsafe {
                let sums = multiply::<D, R, V>(dot, factors);
                write(dot.isa(), tile, &sums);
            }
        },
    );
}

/// The sums of a tile over all blocks.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
unsafe fn multiply<D: Int8Dot, const R: usize, const V: usize>(dot: D, f: &Factors) -> [[<D::Isa as Isa>::F32; V]; R] {
    let isa = dot.isa();
    let lanes = <D::Isa as Isa>::LANES;
    let mut sums = [[isa.zero(); V]; R];
    for b in 0..f.k / BLOCK {
        // SAFETY: a row has k bytes, then k / 32 scales, then as many integers; a strip has `lanes` times k bytes and k
        // / 32 scales. All are readable, and block b lies within them.
        unsafe {
            let word = |r: usize, at: usize| f.x.add(r * f.stride + at);
            let mut dots = [[isa.splat_i32(0); V]; R];
            for (r, dots) in dots.iter_mut().enumerate() {
                *dots = [isa.splat_i32((*word(r, f.k / 4 + f.k / BLOCK + b)).to_bits() as i32); V];
            }
            for q in b * QUADS..(b + 1) * QUADS {
                let mut w = [dot.splat_quad(0); V];
                for (v, w) in w.iter_mut().enumerate() {
                    *w = dot.load_bytes(f.strips[v].quads.add(q * lanes * 4));
                }
                for (r, dots) in dots.iter_mut().enumerate() {
                    let x = dot.splat_quad_ptr(word(r, q).cast());
                    for (sum, &w) in dots.iter_mut().zip(&w) {
                        *sum = dot.dot(*sum, w, x);
                    }
                }
            }
            for v in 0..V {
                let scales = std::slice::from_raw_parts(f.strips[v].scales.add(b * lanes), lanes);
                let scales = isa.load_f16(scales);
                for r in 0..R {
                    let scale = isa.mul(scales, isa.splat(*word(r, f.k / 4 + b)));
                    sums[r][v] = isa.mul_add(isa.to_f32(dots[r][v]), scale, sums[r][v]);
                }
            }
        }
    }
    sums
}

/// The micro-kernels of a token; the indices are the tile's rows and strips, each less one.
type Kernels<D> = [[KernelFn<D>; STRIPS]; ROWS];

/// The kernels of a token, with the given numbers of rows.
macro_rules! kernels {
    ($dot:ty, $($rows:literal)*) => {
        [$([kernel::<$dot, $rows, 1>, kernel::<$dot, $rows, 2>]),*]
    };
}

static SCALAR: Kernels<Scalar> = kernels!(Scalar, 1 2 3 4);
#[cfg(target_arch = "x86_64")]
static AVX2: Kernels<Avx2> = kernels!(Avx2, 1 2 3 4);
#[cfg(target_arch = "x86_64")]
static AVX512: Kernels<Avx512> = kernels!(Avx512, 1 2 3 4);
#[cfg(target_arch = "x86_64")]
static AVX512_VNNI: Kernels<Avx512Vnni> = kernels!(Avx512Vnni, 1 2 3 4);

/// The kernels of `D`.
#[inline(always)]
fn kernels_of<D: Int8Dot>() -> &'static Kernels<D> {
    let tables: &[&'static dyn Any] = &[
        &SCALAR,
        #[cfg(target_arch = "x86_64")]
        &AVX2,
        #[cfg(target_arch = "x86_64")]
        &AVX512,
        #[cfg(target_arch = "x86_64")]
        &AVX512_VNNI,
    ];
    tables.iter().find_map(|table| table.downcast_ref()).expect("each token has a table")
}
