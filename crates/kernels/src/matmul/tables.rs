//! The micro-kernels of each arithmetic and instruction set: a [`Kernels`] for each, with the sizes that the loops
//! around them need.
//!
//! The loops call through these tables, so that crates which call [`gemm`](super::gemm) don't compile the micro-kernels
//! again.
//!
//! `max_depth` is a constant, not derived from the caches of the CPU: it decides the order of sums, and the results of
//! an instruction set must not depend on the machine.
#![allow(unsafe_code)]

use std::any::Any;

use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512, Avx512Bf16};
use smallmind_simd::{Bf16Dot, Isa, Scalar};

use super::arithmetic::{Arithmetic, Bf16Gemm, F32Gemm};
use super::one_row::{OneRowFn, one_row};
use super::pack::{self, CopyFn, RoundTransposeFn, TransposeFn};
use super::tile::{Adjacent, AlongColumns, AlongRows, InHalfStrips, InStrips, KernelFn, kernel};
use crate::compiled::table_of;
use crate::format::HalfKind;

/// The micro-kernels for a number of rows, by the vectors of a panel of B, less one.
type ByVectors<P> = &'static [KernelFn<P>];

/// The micro-kernels for one way of walking through A, by the rows of the tile, less one.
pub(super) struct WalkKernels<P: Arithmetic> {
    /// For a B that is a panel, or in normal layout.
    pub plain: &'static [ByVectors<P>],
    /// As `plain`, but only for the most rows; these pack B as they read it. None if the arithmetic can't read an
    /// unpacked B.
    pub packing: Option<ByVectors<P>>,
    /// For a B in strips; none if the arithmetic has no strips.
    pub strips: Option<&'static [ByVectors<P>]>,
}

/// The micro-kernels that read strips of 16-bit floats, by the rows of the tile, less one.
pub(super) type HalfKernels<P> = [ByVectors<P>];

/// The micro-kernels of an arithmetic, and the sizes of the panels and blocks that feed them.
pub(super) struct Kernels<P: Arithmetic> {
    /// Vectors in a full panel of B.
    pub vectors: usize,
    /// Vectors in a full panel of A.
    pub a_vectors: usize,
    /// The most words of depth that are added up before an element of C is written.
    pub max_depth: usize,
    /// The most words of a block of A, which is multiplied by all panels of B. Fitted to a second-level cache of 1 MiB:
    /// a block may fill two thirds of it, and leaves the rest to a panel of B and the tiles of C.
    pub max_block: usize,
    /// For a B in strips of [`HalfKind::F16`] and of [`HalfKind::Bf16`] and an A in normal layout; none if the
    /// arithmetic has no such strips.
    pub half: [Option<&'static HalfKernels<P>>; 2],
    /// For one row and a B in strips of `f32`, of [`HalfKind::F16`] and of [`HalfKind::Bf16`]; none as for `half`.
    pub one_row: [Option<OneRowFn<P>>; 3],
    /// For an A in normal layout.
    pub along_rows: WalkKernels<P>,
    /// For an A that is transposed or packed.
    pub along_columns: WalkKernels<P>,
    /// Packs a panel of B from an operand in normal layout.
    pub copy: CopyFn<P, P::Element>,
    /// Packs all panels of A from a transposed operand.
    pub copy_a: CopyFn<P, P::Element>,
    /// Packs a panel of B from a transposed operand, or one of A from an operand in normal layout.
    pub transpose: TransposeFn<P::Isa>,
    /// For operands of `f32` that are rounded to `bf16`; none if the arithmetic is that of `f32`.
    pub rounding: Option<RoundingPackers<P>>,
}

/// Packers as those of [`Kernels`] that round.
pub(super) struct RoundingPackers<P: Arithmetic> {
    /// As [`Kernels::copy`].
    pub copy: CopyFn<P, f32>,
    /// As [`Kernels::copy_a`].
    pub copy_a: CopyFn<P, f32>,
    /// As [`Kernels::transpose`].
    pub transpose: RoundTransposeFn<P>,
}

impl<P: Arithmetic> Kernels<P> {
    /// The most rows of a tile.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.along_rows.plain.len()
    }

    /// The packers that round.
    ///
    /// # Panics
    /// If the arithmetic is that of `f32`: its operands are not rounded.
    pub fn rounding(&self) -> &RoundingPackers<P> {
        self.rounding.as_ref().expect("only products of `bf16` round their operands")
    }

    /// The kernels that read strips of 16-bit floats.
    ///
    /// # Panics
    /// If the arithmetic has none: products of `bf16` do not get strips of `f16`.
    pub fn of_half(&self, kind: HalfKind) -> &'static HalfKernels<P> {
        let [f16, bf16] = self.half;
        let kernels = if kind == HalfKind::F16 { f16 } else { bf16 };
        kernels.expect("products get strips that they have kernels for")
    }

    /// Columns of a full panel of B.
    #[inline(always)]
    pub fn width(&self) -> usize {
        self.vectors * P::Isa::LANES
    }

    /// Rows of a full panel of A: those of several tiles, one below the other.
    #[inline(always)]
    pub fn a_panel(&self) -> usize {
        self.a_vectors * P::Isa::LANES
    }
}

/// An arithmetic that has micro-kernels.
pub(super) trait HasKernels: Arithmetic {
    /// Its micro-kernels.
    fn kernels() -> &'static Kernels<Self>;
}

/// Kernels with the given numbers of rows and, for each, of vectors.
macro_rules! instances {
    ($arithmetic:ty, $walk:ty, $source:ty, [$($rows:literal)*], $vectors:tt) => {
        &[$(instances!(row $arithmetic, $walk, $source, $rows, $vectors)),*]
    };
    (row $arithmetic:ty, $walk:ty, $source:ty, $rows:literal, [$($vectors:literal)*]) => {
        &[$(kernel::<$arithmetic, $walk, $source, $rows, $vectors>),*]
    };
}

/// The kernels of `f32` for a walk, with the given numbers of rows, the last of which is `most`, and of vectors.
macro_rules! f32_kernels {
    ($isa:ty, $walk:ty, $rows:tt, $most:literal, $vectors:tt) => {
        WalkKernels {
            plain: instances!(F32Gemm<$isa>, $walk, Adjacent<false>, $rows, $vectors),
            packing: Some(instances!(row F32Gemm<$isa>, $walk, Adjacent<true>, $most, $vectors)),
            strips: Some(instances!(F32Gemm<$isa>, $walk, InStrips, $rows, $vectors)),
        }
    };
}

/// The kernels that read strips of 16-bit floats, with the given numbers of rows and of vectors.
macro_rules! half_kernels {
    (of $arithmetic:ty, $element:ty, $half:ty, $rows:tt, $vectors:tt) => {
        Some(instances!($arithmetic, AlongRows<$element>, InHalfStrips<$half>, $rows, $vectors))
    };
    ($isa:ty, $rows:tt, $vectors:tt) => {
        [
            half_kernels!(of F32Gemm<$isa>, f32, f16, $rows, $vectors),
            half_kernels!(of F32Gemm<$isa>, f32, bf16, $rows, $vectors),
        ]
    };
}

/// The kernels of `f32` for one row, with this many strips at a time.
macro_rules! one_row_kernels {
    ($isa:ty, $strips:literal) => {
        [
            Some(one_row::<F32Gemm<$isa>, InStrips, $strips>),
            Some(one_row::<F32Gemm<$isa>, InHalfStrips<f16>, $strips>),
            Some(one_row::<F32Gemm<$isa>, InHalfStrips<bf16>, $strips>),
        ]
    };
}

/// The kernels of `bf16` for a walk, with the given numbers of rows and of vectors.
macro_rules! bf16_kernels {
    ($dot:ty, $walk:ty, $rows:tt, $vectors:tt) => {
        WalkKernels {
            plain: instances!(Bf16Gemm<$dot>, $walk, Adjacent<false>, $rows, $vectors),
            packing: None,
            strips: None,
        }
    };
}

// A vector of eight lanes takes two of the sixteen registers of SSE2: 6 sums, 1 vector of B, 1 of A. On NEON it takes
// two of thirty-two.
const SCALAR: Kernels<F32Gemm<Scalar>> = Kernels {
    vectors: 1,
    a_vectors: 3,
    max_depth: 256,
    max_block: 160 * 1024,
    half: half_kernels!(Scalar, [1 2 3 4 5 6], [1]),
    one_row: one_row_kernels!(Scalar, 1),
    along_rows: f32_kernels!(Scalar, AlongRows<f32>, [1 2 3 4 5 6], 6, [1]),
    along_columns: f32_kernels!(Scalar, AlongColumns<f32>, [1 2 3 4 5 6], 6, [1]),
    copy: pack::copy::<_, _, 1>,
    copy_a: pack::copy::<_, _, 3>,
    transpose: pack::transpose,
    rounding: None,
};

// Sixteen registers: 6 × 2 sums, 2 vectors of B, 1 of A.
#[cfg(target_arch = "x86_64")]
const AVX2: Kernels<F32Gemm<Avx2>> = Kernels {
    vectors: 2,
    a_vectors: 3,
    max_depth: 384,
    max_block: 160 * 1024,
    half: half_kernels!(Avx2, [1 2 3 4 5 6], [1 2]),
    one_row: one_row_kernels!(Avx2, 4),
    along_rows: f32_kernels!(Avx2, AlongRows<f32>, [1 2 3 4 5 6], 6, [1 2]),
    along_columns: f32_kernels!(Avx2, AlongColumns<f32>, [1 2 3 4 5 6], 6, [1 2]),
    copy: pack::copy::<_, _, 2>,
    copy_a: pack::copy::<_, _, 3>,
    transpose: super::arch::avx2::transpose,
    rounding: None,
};

// Thirty-two registers: 8 × 3 sums, 3 vectors of B, 1 of A. A wide tile loads fewer words of A, each of which must be
// broadcast.
#[cfg(target_arch = "x86_64")]
const AVX512: Kernels<F32Gemm<Avx512>> = Kernels {
    vectors: 3,
    a_vectors: 1,
    max_depth: 384,
    max_block: 160 * 1024,
    half: half_kernels!(Avx512, [1 2 3 4 5 6 7 8], [1 2 3]),
    one_row: one_row_kernels!(Avx512, 4),
    along_rows: f32_kernels!(Avx512, AlongRows<f32>, [1 2 3 4 5 6 7 8], 8, [1 2 3]),
    along_columns: f32_kernels!(Avx512, AlongColumns<f32>, [1 2 3 4 5 6 7 8], 8, [1 2 3]),
    copy: pack::copy::<_, _, 3>,
    copy_a: pack::copy::<_, _, 1>,
    transpose: super::arch::avx512::transpose,
    rounding: None,
};

// The kernels of the scalar token, which run on every CPU, for tests.
const SCALAR_BF16: Kernels<Bf16Gemm<Scalar>> = Kernels {
    vectors: 1,
    a_vectors: 3,
    max_depth: 256,
    max_block: 160 * 1024,
    half: [None, half_kernels!(of Bf16Gemm<Scalar>, bf16, bf16, [1 2 3 4 5 6], [1])],
    one_row: [None, None, Some(one_row::<Bf16Gemm<Scalar>, InHalfStrips<bf16>, 1>)],
    along_rows: bf16_kernels!(Scalar, AlongRows<bf16>, [1 2 3 4 5 6], [1]),
    along_columns: bf16_kernels!(Scalar, AlongColumns<bf16>, [1 2 3 4 5 6], [1]),
    copy: pack::copy::<_, _, 1>,
    copy_a: pack::copy::<_, _, 3>,
    transpose: pack::transpose,
    rounding: Some(RoundingPackers {
        copy: pack::copy::<_, _, 1>,
        copy_a: pack::copy::<_, _, 3>,
        transpose: pack::round_transpose,
    }),
};

// The registers are used as in `AVX512`.
#[cfg(target_arch = "x86_64")]
const AVX512_BF16: Kernels<Bf16Gemm<Avx512Bf16>> = Kernels {
    vectors: 3,
    a_vectors: 1,
    max_depth: 384,
    max_block: 160 * 1024,
    half: [None, half_kernels!(of Bf16Gemm<Avx512Bf16>, bf16, bf16, [1 2 3 4 5 6 7 8], [1 2 3])],
    one_row: [None, None, Some(one_row::<Bf16Gemm<Avx512Bf16>, InHalfStrips<bf16>, 4>)],
    along_rows: bf16_kernels!(Avx512Bf16, AlongRows<bf16>, [1 2 3 4 5 6 7 8], [1 2 3]),
    along_columns: bf16_kernels!(Avx512Bf16, AlongColumns<bf16>, [1 2 3 4 5 6 7 8], [1 2 3]),
    copy: pack::copy::<_, _, 3>,
    copy_a: pack::copy::<_, _, 1>,
    transpose: super::arch::avx512::transpose,
    rounding: Some(RoundingPackers {
        copy: pack::copy::<_, _, 3>,
        copy_a: pack::copy::<_, _, 1>,
        transpose: super::arch::avx512::round_transpose,
    }),
};

// Each table comes from a function that is never inlined; see `crate::compiled`.

#[inline(never)]
fn scalar() -> &'static Kernels<F32Gemm<Scalar>> {
    &SCALAR
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx2() -> &'static Kernels<F32Gemm<Avx2>> {
    &AVX2
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx512() -> &'static Kernels<F32Gemm<Avx512>> {
    &AVX512
}

#[inline(never)]
fn scalar_bf16() -> &'static Kernels<Bf16Gemm<Scalar>> {
    &SCALAR_BF16
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx512_bf16() -> &'static Kernels<Bf16Gemm<Avx512Bf16>> {
    &AVX512_BF16
}

impl<I: Isa> HasKernels for F32Gemm<I> {
    #[inline(always)]
    fn kernels() -> &'static Kernels<Self> {
        table_of!(I, scalar, avx2, avx512)
    }
}

impl<D: Bf16Dot> HasKernels for Bf16Gemm<D> {
    #[inline(always)]
    fn kernels() -> &'static Kernels<Self> {
        let tables: &[&'static dyn Any] = &[
            scalar_bf16(),
            #[cfg(target_arch = "x86_64")]
            avx512_bf16(),
        ];
        tables.iter().find_map(|table| table.downcast_ref()).expect("each token has a table")
    }
}
