//! The micro-kernels of each arithmetic and instruction set, listed once in tables that the loop nest calls through, so that crates which use
//! [`super::gemm`] don't compile them again.
#![allow(unsafe_code)]

use std::any::Any;

use half::{bf16, f16};
#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512, Avx512Bf16, Avx512Vnni};
use smallmind_simd::{Bf16Dot, Int8Dot, Isa, IsaKind, Scalar};

use super::arithmetic::{Arithmetic, Pairs, Single};
use super::half_strips::DIRECT_ROWS;
use super::pack::{self, CopyFn, TransposeFn};
use super::q8::{self, Q8_STRIPS, Q8KernelFn};
use super::tile::{Adjacent, AlongColumns, AlongRows, InHalfStrips, InStrips, KernelFn, kernel};
use crate::Format;

/// The micro-kernels for a way of walking through A, by their rows and vectors, each less one.
pub(super) struct WalkKernels<P: Arithmetic> {
    /// They read a panel of B, or a B in normal layout where it lies.
    pub plain: &'static [[KernelFn<P>; 3]],
    /// Those of the most rows, packing B as they read it; none where B can't be read unpacked.
    pub packing: Option<&'static [KernelFn<P>; 3]>,
    /// They read strips of B; none where there are no strips.
    pub strips: Option<&'static [[KernelFn<P>; 3]]>,
}

/// The micro-kernels of an instruction set, and what must be known to feed them.
pub(super) struct Kernels<P: Arithmetic> {
    /// Vectors in a full panel of B.
    pub vectors: usize,
    /// Vectors in a full panel of A.
    pub a_vectors: usize,
    /// Most words in depth between two visits of an element of C.
    pub max_depth: usize,
    /// Most words of a block of A that all panels of B pass by: fitted to a second-level cache of 1 MiB, of which it may fill two thirds
    /// beside a panel of B and the passing tiles of C.
    pub max_block: usize,
    /// They read a B in strips of 16-bit elements where it lies, for an A in normal layout of at most [`DIRECT_ROWS`] rows: `f16`, then
    /// `bf16`; none where the arithmetic has no such factors.
    pub half: Option<[&'static [[KernelFn<P>; 3]; DIRECT_ROWS]; 2]>,
    /// For an A in normal layout.
    pub along_rows: WalkKernels<P>,
    /// For an A that is transposed or packed.
    pub along_columns: WalkKernels<P>,
    /// Packs a panel of B from an operand in normal layout.
    pub copy: CopyFn<P>,
    /// Packs all panels of A from a transposed operand.
    pub copy_a: CopyFn<P>,
    /// Packs a panel of B from a transposed operand, or one of A from an operand in normal layout.
    pub transpose: TransposeFn<P::Isa>,
}

impl<P: Arithmetic> Kernels<P> {
    /// Most rows of a tile.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.along_rows.plain.len()
    }

    /// The kernels that read a B in this format where it lies.
    ///
    /// # Panics
    /// If there are none.
    pub fn of_half(&self, format: Format) -> &'static [[KernelFn<P>; 3]; DIRECT_ROWS] {
        match (format, self.half) {
            (Format::F16, Some([f16, _])) => f16,
            (Format::Bf16, Some([_, bf16])) => bf16,
            _ => unreachable!("no product of these factors reads {format}"),
        }
    }

    /// Columns of a full panel of B.
    #[inline(always)]
    pub fn width(&self) -> usize {
        self.vectors * P::Isa::LANES
    }

    /// Rows of a full panel of A: some tiles' one below another.
    #[inline(always)]
    pub fn a_panel(&self) -> usize {
        self.a_vectors * P::Isa::LANES
    }
}

/// The kernels of an arithmetic with 1, 2, … rows, each one, two and three vectors wide.
macro_rules! instances {
    ($arithmetic:ty, $walk:ty, $source:ty, $($rows:literal)*) => {
        &[$(instances!(row $arithmetic, $walk, $source, $rows)),*]
    };
    (row $arithmetic:ty, $walk:ty, $source:ty, $rows:literal) => {
        [
            kernel::<$arithmetic, $walk, $source, $rows, 1>,
            kernel::<$arithmetic, $walk, $source, $rows, 2>,
            kernel::<$arithmetic, $walk, $source, $rows, 3>,
        ]
    };
}

/// The kernels of `f32` for a walk, of 1, 2, … rows and, packing, of the most.
macro_rules! single_kernels {
    ($isa:ty, $walk:ty, [$($rows:literal)*], $most:literal) => {
        WalkKernels {
            plain: instances!(Single<$isa>, $walk, Adjacent<false>, $($rows)*),
            packing: Some(&instances!(row Single<$isa>, $walk, Adjacent<true>, $most)),
            strips: Some(instances!(Single<$isa>, $walk, InStrips, $($rows)*)),
        }
    };
}

/// The kernels of `f32` that read a B in elements of 16 bits.
macro_rules! half_kernels {
    ($isa:ty) => {
        Some([
            instances!(Single<$isa>, AlongRows<f32>, InHalfStrips<f16>, 1 2 3 4),
            instances!(Single<$isa>, AlongRows<f32>, InHalfStrips<bf16>, 1 2 3 4),
        ])
    };
}

/// The kernels of `bf16` for a walk.
macro_rules! pair_kernels {
    ($dot:ty, $walk:ty, [$($rows:literal)*]) => {
        WalkKernels { plain: instances!(Pairs<$dot>, $walk, Adjacent<false>, $($rows)*), packing: None, strips: None }
    };
}

// Eight lanes are two registers of the sixteen of SSE2 or four of NEON's: 12 sums, 2 of B, 1 of A and a product.
static SCALAR: Kernels<Single<Scalar>> = Kernels {
    vectors: 1,
    a_vectors: 3,
    max_depth: 256,
    max_block: 160 * 1024,
    half: half_kernels!(Scalar),
    along_rows: single_kernels!(Scalar, AlongRows<f32>, [1 2 3 4 5 6], 6),
    along_columns: single_kernels!(Scalar, AlongColumns<f32>, [1 2 3 4 5 6], 6),
    copy: pack::copy::<_, 1>,
    copy_a: pack::copy::<_, 3>,
    transpose: pack::transpose,
};

// Sixteen registers: 12 sums, 2 of B, 1 of A.
#[cfg(target_arch = "x86_64")]
static AVX2: Kernels<Single<Avx2>> = Kernels {
    vectors: 2,
    a_vectors: 3,
    max_depth: 384,
    max_block: 160 * 1024,
    half: half_kernels!(Avx2),
    along_rows: single_kernels!(Avx2, AlongRows<f32>, [1 2 3 4 5 6], 6),
    along_columns: single_kernels!(Avx2, AlongColumns<f32>, [1 2 3 4 5 6], 6),
    copy: pack::copy::<_, 2>,
    copy_a: pack::copy::<_, 3>,
    transpose: super::arch::avx2::transpose,
};

// Thirty-two registers: 24 sums, 3 of B, 1 of A. A wide tile loads little of A, whose elements must be broadcast.
#[cfg(target_arch = "x86_64")]
static AVX512: Kernels<Single<Avx512>> = Kernels {
    vectors: 3,
    a_vectors: 1,
    max_depth: 384,
    max_block: 160 * 1024,
    half: half_kernels!(Avx512),
    along_rows: single_kernels!(Avx512, AlongRows<f32>, [1 2 3 4 5 6 7 8], 8),
    along_columns: single_kernels!(Avx512, AlongColumns<f32>, [1 2 3 4 5 6 7 8], 8),
    copy: pack::copy::<_, 3>,
    copy_a: pack::copy::<_, 1>,
    transpose: super::arch::avx512::transpose,
};

// The twin that runs everywhere, as the tests want it.
static SCALAR_PAIRS: Kernels<Pairs<Scalar>> = Kernels {
    vectors: 1,
    a_vectors: 3,
    max_depth: 256,
    max_block: 160 * 1024,
    half: None,
    along_rows: pair_kernels!(Scalar, AlongRows<bf16>, [1 2 3 4 5 6]),
    along_columns: pair_kernels!(Scalar, AlongColumns<bf16>, [1 2 3 4 5 6]),
    copy: pack::copy::<_, 1>,
    copy_a: pack::copy::<_, 3>,
    transpose: pack::transpose,
};

// As `AVX512`.
#[cfg(target_arch = "x86_64")]
static AVX512_PAIRS: Kernels<Pairs<Avx512Bf16>> = Kernels {
    vectors: 3,
    a_vectors: 1,
    max_depth: 384,
    max_block: 160 * 1024,
    half: None,
    along_rows: pair_kernels!(Avx512Bf16, AlongRows<bf16>, [1 2 3 4 5 6 7 8]),
    along_columns: pair_kernels!(Avx512Bf16, AlongColumns<bf16>, [1 2 3 4 5 6 7 8]),
    copy: pack::copy::<_, 3>,
    copy_a: pack::copy::<_, 1>,
    transpose: super::arch::avx512::transpose,
};

/// The kernels for `f32` of `I`.
///
/// # Panics
/// Never for the instruction sets of `smallmind-simd`.
#[inline(always)]
pub(super) fn single<I: Isa>() -> &'static Kernels<Single<I>> {
    let table: &'static dyn Any = match I::KIND {
        IsaKind::Scalar => &SCALAR,
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx2 => &AVX2,
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx512 => &AVX512,
        #[cfg(not(target_arch = "x86_64"))]
        IsaKind::Avx2 | IsaKind::Avx512 => &SCALAR,
    };
    table.downcast_ref().expect("each instruction set has one token")
}

/// The kernels for `bf16` of `D`.
///
/// # Panics
/// Never for the tokens of `smallmind-simd`.
#[inline(always)]
pub(super) fn pairs<D: Bf16Dot>() -> &'static Kernels<Pairs<D>> {
    let tables: &[&'static dyn Any] = &[
        &SCALAR_PAIRS,
        #[cfg(target_arch = "x86_64")]
        &AVX512_PAIRS,
    ];
    tables.iter().find_map(|table| table.downcast_ref()).expect("each token has a table")
}

/// The most rows of a tile of a product with [`Format::Q8_0`].
pub(super) const Q8_ROWS: usize = 4;

/// The micro-kernels of such products, by their rows and strips, each less one.
pub(super) type Q8Kernels<D> = [[Q8KernelFn<D>; Q8_STRIPS]; Q8_ROWS];

/// The kernels of a token.
macro_rules! q8_kernels {
    ($dot:ty, $($rows:literal)*) => {
        [$([q8::kernel::<$dot, $rows, 1>, q8::kernel::<$dot, $rows, 2>]),*]
    };
}

static SCALAR_Q8: Q8Kernels<Scalar> = q8_kernels!(Scalar, 1 2 3 4);
#[cfg(target_arch = "x86_64")]
static AVX2_Q8: Q8Kernels<Avx2> = q8_kernels!(Avx2, 1 2 3 4);
#[cfg(target_arch = "x86_64")]
static AVX512_Q8: Q8Kernels<Avx512> = q8_kernels!(Avx512, 1 2 3 4);
#[cfg(target_arch = "x86_64")]
static AVX512_VNNI_Q8: Q8Kernels<Avx512Vnni> = q8_kernels!(Avx512Vnni, 1 2 3 4);

/// The kernels for bytes of `D`.
///
/// # Panics
/// Never for the tokens of `smallmind-simd`.
#[inline(always)]
pub(super) fn q8<D: Int8Dot>() -> &'static Q8Kernels<D> {
    let tables: &[&'static dyn Any] = &[
        &SCALAR_Q8,
        #[cfg(target_arch = "x86_64")]
        &AVX2_Q8,
        #[cfg(target_arch = "x86_64")]
        &AVX512_Q8,
        #[cfg(target_arch = "x86_64")]
        &AVX512_VNNI_Q8,
    ];
    tables.iter().find_map(|table| table.downcast_ref()).expect("each token has a table")
}
