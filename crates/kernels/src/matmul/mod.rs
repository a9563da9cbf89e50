//! Matrix products: `C = [C +] scale · op(A) · op(B) [+ bias] [+ residual]`, where `op(X)` is `X` or `Xᵀ`.
//!
//! All products of `f32` go through [`gemm`]; the layout of B decides which kernels multiply it:
//!
//! | [`RightFactor`] | B | kernels |
//! |---|---|---|
//! | `Operand` | a matrix or its transpose | tiles; B is packed a panel at a time (`nest`, `tile`) |
//! | `Rounded` | a matrix or its transpose | the same, of `bf16`: A and B are rounded as they are packed |
//! | `Streamed` | the rows of a weight, for few rows of A | sums across lanes; each row is read once (`gemv`) |
//! | `Packed`, `f32` or 16-bit floats | strips | tiles; B is read in place, or turned into words a panel at a time; `one_row` |
//! | `Packed`, blocks | strips | dot products of bytes; A is quantized (`block_dots`) |
//!
//! The loops around tiles follow Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008);
//! `nest` opens with their pseudo-code.
//!
//! **Words.** A *tile* is the part of C that one call of a micro-kernel computes. A *panel* is a block of B as wide as
//! a tile, or a block of A as high as some tiles, with its vectors in the order in which tiles read them. A *strip* is
//! a part of B, one vector wide, that was packed in advance. A *word* is 32 bits of a factor: one `f32` or two `bf16`.
//!
//! **Order of sums.** In a product by tiles an element of C is a chain of multiply-adds in rising depth, interrupted
//! only between blocks of the depth, which depend only on k. So any window of C, by rows or by columns, has the same
//! bits as in the whole, with packed factors or not, in any layout. Streamed rows are summed in another order, which
//! doesn't depend on the window either. So the choice between both orders is made once for a product, not for each
//! window: see [`KernelChoice`].
//!
//! **Reading order**: `operand`, `gemv`, `partition`, `arithmetic`, `tile`, `pack`, `arch`, `tables`, `strips`,
//! `half_strips`, `nest`, `one_row`, `quantized`, `block_strips`, `packed`, `float_products`, `byte_sums`,
//! `block_panels`, `block_dots`, this file. Each uses only files before it.
#![allow(unsafe_code)]

mod arch;
mod arithmetic;
mod block_dots;
mod block_panels;
mod block_strips;
mod byte_sums;
mod float_products;
mod gemv;
mod half_strips;
mod nest;
mod one_row;
mod operand;
mod pack;
mod packed;
mod partition;
mod quantized;
mod strips;
mod tables;
mod tile;

pub use float_products::{are_bf16_pairs, has_bf16_dots, rounds_to_bf16};
pub use gemv::GEMV_MAX_ROWS;
#[doc(hidden)]
pub use nest::GemmSizes;
pub use operand::{Epilogue, Layout, Operand, Update};
pub(crate) use packed::transpose_rows;
pub use packed::{PackedWeight, pack_rows, pack_weight, pack_weight_as, pack_weight_scratch_len, packed_len};
pub use partition::{COL_GRANULE, KernelChoice, Partition, ROW_GRANULE};
pub use quantized::{quantize_rows, quantized_words};

use std::ops::Range;

use arithmetic::{Bf16Gemm, F32Gemm};
use half::bf16;
use nest::{Block, LeftFactor, PanelSource};
use smallmind_simd::{Bf16Dot, Int8Dot, Isa, WithBf16, WithInt8};
use tables::HasKernels;

use crate::compiled::compiled;
use crate::format::FormatKind;
use crate::{Mat, MatMut};

/// The right factor `[k, n]` of a product, in one of its layouts.
#[derive(Clone, Copy)]
pub enum RightFactor<'a> {
    /// A matrix or its transpose.
    Operand(Operand<'a>),
    /// A matrix or its transpose. Both factors are rounded to `bf16`, to nearest, ties to even, and multiplied by the
    /// CPU's dot products, see [`Bf16Dot::dot`]; if it has none, they are multiplied as they are, in `f32`.
    Rounded(Operand<'a>),
    /// The transpose of a weight `[n, k]` whose rows are each read once, for an A in normal layout of at most
    /// [`GEMV_MAX_ROWS`] rows. Faster than tiles, with another order of sums.
    Streamed(Mat<'a>),
    /// A packed weight. For `bf16`, A's rows may be rounded, see [`rounds_to_bf16`]. For a format of blocks, A must be
    /// the output of [`quantize_rows`], in normal layout: `[m, quantized_words(k)]`.
    Packed(PackedWeight<'a>),
}

impl<'a> From<Operand<'a>> for RightFactor<'a> {
    fn from(operand: Operand<'a>) -> Self {
        Self::Operand(operand)
    }
}

impl<'a> From<PackedWeight<'a>> for RightFactor<'a> {
    fn from(weight: PackedWeight<'a>) -> Self {
        Self::Packed(weight)
    }
}

impl RightFactor<'_> {
    /// Number of columns, `n`.
    fn cols(self) -> usize {
        match self {
            Self::Operand(b) | Self::Rounded(b) => b.cols(),
            Self::Streamed(w) => w.rows(),
            Self::Packed(b) => b.cols(),
        }
    }

    /// Columns that A must have: `k`, or the words of `k` quantized elements.
    fn a_cols(self) -> usize {
        match self {
            Self::Operand(b) | Self::Rounded(b) => b.rows(),
            Self::Streamed(w) => w.cols(),
            Self::Packed(b) if b.format().kind() == FormatKind::Blocks => quantized_words(b.rows()),
            Self::Packed(b) => b.rows(),
        }
    }

    /// A window of columns.
    ///
    /// # Panics
    /// If it leaves the factor or cuts a strip.
    #[must_use]
    pub fn cols_range(self, range: Range<usize>) -> Self {
        match self {
            Self::Operand(b) => Self::Operand(b.cols_range(range)),
            Self::Rounded(b) => Self::Rounded(b.cols_range(range)),
            Self::Streamed(w) => Self::Streamed(w.rows_range(range)),
            Self::Packed(b) => Self::Packed(b.cols_range(range)),
        }
    }
}

/// Elements of scratch that suffice for [`gemm`] at `[m, k] · [k, n]`, for any right factor and any layouts. Monotone
/// in `m`, `n` and `k`, so that it suffices for every smaller product. Streamed rows and blocks need none.
pub fn gemm_scratch_len<I: Isa>(isa: I, m: usize, n: usize, k: usize) -> usize {
    float_products::scratch_len(isa, m, n, k)
}

/// The sizes in which [`gemm`] computes, for tests.
#[doc(hidden)]
pub fn gemm_sizes<I: Isa>(_isa: I) -> GemmSizes {
    GemmSizes::of(F32Gemm::<I>::kernels())
}

/// `C = [C +] scale · op(A) · B [+ bias] [+ residual]`.
///
/// `op(A)` is `[m, k]`, B is `[k, n]`, `c` is `[m, n]`; for `k = 0` the product is zero. `scratch` holds at least
/// [`gemm_scratch_len`] elements, of any values and alignment. A window of `c`, computed with the same window of A's
/// rows or B's columns and of the epilogue, has the same bits as in the whole; see the [module](self) on the order of
/// sums.
///
/// # Panics
/// If the shapes disagree, `scratch` is too short, a weight was packed for other lanes, or A isn't what [`RightFactor`]
/// demands.
#[inline]
pub fn gemm<'a, I: Isa>(
    isa: I,
    a: Operand,
    b: impl Into<RightFactor<'a>>,
    c: MatMut,
    epilogue: Epilogue,
    scratch: &mut [f32],
) {
    let b = b.into();
    compiled!(
        isa: I,
        multiply(a: Operand, b: RightFactor, c: MatMut, epilogue: Epilogue, scratch: &mut [f32])
    );
}

fn multiply<I: Isa>(isa: I, a: Operand, b: RightFactor, c: MatMut, epilogue: Epilogue, scratch: &mut [f32]) {
    check([a.rows(), a.cols()], [b.a_cols(), b.cols()], &c, &epilogue);
    if c.rows() == 0 || c.cols() == 0 {
        return;
    }
    match b {
        RightFactor::Operand(b) => {
            let product = Block { a: LeftFactor::Operand(a), b: PanelSource::Operand(b), c, epilogue };
            nest::run(F32Gemm(isa), product, scratch);
        }
        RightFactor::Rounded(b) => {
            float_products::multiply_rounded(isa, float_products::RoundedProduct { a, b, c, epilogue, scratch });
        }
        RightFactor::Streamed(w) => {
            assert!(a.layout == Layout::Normal, "a transposed A times streamed rows");
            gemv::gemv(isa, a.mat, w, c, &epilogue);
        }
        RightFactor::Packed(b) => {
            assert!(b.lanes() == I::LANES, "strips of {} columns, vectors of {}", b.lanes(), I::LANES);
            if b.format().kind() == FormatKind::Blocks {
                assert!(a.layout == Layout::Normal, "quantized rows are transposed");
                isa.with_int8(block_dots::Product { x: a.mat, w: b, c, epilogue });
            } else {
                float_products::multiply(isa, float_products::Product { a, w: b, c, epilogue, scratch });
            }
        }
    }
}

/// [`gemm_scratch_len`] for [`gemm_bf16`].
pub fn gemm_bf16_scratch_len<D: Bf16Dot>(_dot: D, m: usize, n: usize, k: usize) -> usize {
    nest::scratch_len(Bf16Gemm::<D>::kernels(), m, n, k)
}

/// [`gemm_sizes`] for [`gemm_bf16`].
#[doc(hidden)]
pub fn gemm_bf16_sizes<D: Bf16Dot>(_dot: D) -> GemmSizes {
    GemmSizes::of(Bf16Gemm::<D>::kernels())
}

/// [`gemm`] of operands in `bf16`, with sums, output, bias and residual in `f32`.
///
/// Products are exact, and two at a time are added to a sum: see [`Bf16Dot::dot`] for the roundings. As with [`gemm`],
/// a window has the same bits as in the whole. `scratch` holds at least [`gemm_bf16_scratch_len`] elements.
///
/// # Panics
/// If the shapes disagree or `scratch` is too short.
pub fn gemm_bf16<D: Bf16Dot>(
    dot: D,
    a: Operand<bf16>,
    b: Operand<bf16>,
    c: MatMut,
    epilogue: Epilogue,
    scratch: &mut [f32],
) {
    check([a.rows(), a.cols()], [b.rows(), b.cols()], &c, &epilogue);
    if c.rows() > 0 && c.cols() > 0 {
        let product = Block { a: LeftFactor::Operand(a), b: PanelSource::Operand(b), c, epilogue };
        nest::run(Bf16Gemm(dot), product, scratch);
    }
}

/// [`gemm`] of the quantized rows `x` and a weight in blocks, with the byte products of `dot` instead of the best that
/// the CPU has: for tests.
///
/// # Panics
/// If the shapes disagree, the weight is not in blocks or was packed for other lanes.
#[doc(hidden)]
pub fn gemm_int8<D: Int8Dot>(dot: D, x: Mat, w: PackedWeight, c: MatMut, epilogue: Epilogue) {
    assert!(w.format().kind() == FormatKind::Blocks, "a weight in {}, which has no blocks", w.format());
    check([x.rows(), x.cols()], [RightFactor::Packed(w).a_cols(), w.cols()], &c, &epilogue);
    assert!(w.lanes() == D::Isa::LANES, "strips of {} columns, vectors of {}", w.lanes(), D::Isa::LANES);
    if c.rows() > 0 && c.cols() > 0 {
        block_dots::Product { x, w, c, epilogue }.call(dot);
    }
}

/// [`gemm`] of a weight in [`Format::Bf16`](crate::Format::Bf16) with the dot products of `dot` instead of the best
/// that the CPU has: for tests. `scratch` holds at least [`gemm_packed_bf16_scratch_len`] elements.
///
/// # Panics
/// If the shapes disagree, the weight is not in `bf16`, its rows are not pairs, or it was packed for other lanes.
#[doc(hidden)]
pub fn gemm_packed_bf16<D: Bf16Dot>(
    dot: D,
    a: Operand,
    w: PackedWeight,
    c: MatMut,
    epilogue: Epilogue,
    scratch: &mut [f32],
) {
    check([a.rows(), a.cols()], [w.rows(), w.cols()], &c, &epilogue);
    assert!(w.lanes() == D::Isa::LANES, "strips of {} columns, vectors of {}", w.lanes(), D::Isa::LANES);
    assert!(are_bf16_pairs(w.format(), w.rows()), "a weight in {} with rows of {}", w.format(), w.rows());
    if c.rows() > 0 && c.cols() > 0 {
        float_products::Product { a, w, c, epilogue, scratch }.call(dot);
    }
}

/// [`gemm`] of a [`RightFactor::Rounded`] with the dot products of `dot` instead of the best that the CPU has: for tests.
/// `scratch` holds at least [`gemm_bf16_scratch_len`] elements.
///
/// # Panics
/// If the shapes disagree or `scratch` is too short.
#[doc(hidden)]
pub fn gemm_rounded<D: Bf16Dot>(dot: D, a: Operand, b: Operand, c: MatMut, epilogue: Epilogue, scratch: &mut [f32]) {
    check([a.rows(), a.cols()], [b.rows(), b.cols()], &c, &epilogue);
    if c.rows() > 0 && c.cols() > 0 {
        float_products::RoundedProduct { a, b, c, epilogue, scratch }.call(dot);
    }
}

/// Elements of scratch for [`gemm_packed_bf16`].
#[doc(hidden)]
pub fn gemm_packed_bf16_scratch_len<D: Bf16Dot>(dot: D, m: usize, n: usize, k: usize) -> usize {
    float_products::bf16_scratch_len(dot, m, n, k)
}

/// Asserts that the shapes of A, B, C and the epilogue agree; B's rows are given in the unit of A's columns.
fn check(a: [usize; 2], b: [usize; 2], c: &MatMut, epilogue: &Epilogue) {
    let (m, n) = (c.rows(), c.cols());
    assert!(a[0] == m, "A has {} rows, C has {m}", a[0]);
    assert!(b[0] == a[1], "A has {} columns, B has {} rows", a[1], b[0]);
    assert!(b[1] == n, "B has {} columns, C has {n}", b[1]);
    epilogue.check(m, n);
}
