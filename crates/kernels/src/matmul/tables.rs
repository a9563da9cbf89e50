//! The micro-kernels of each arithmetic and instruction set, listed once in tables that the loop nest calls through, so that crates which use
//! [`super::gemm`] don't compile them again.
#![allow(unsafe_code)]

use std::any::Any;

use half::bf16;
#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512, Avx512Bf16};
use smallmind_simd::{Bf16Dot, Isa, IsaKind, Scalar};

use super::arithmetic::{Arithmetic, Pairs, Single};
use super::pack::{self, CopyFn, TransposeFn};
use super::tile::{AlongColumns, AlongRows, KernelFn, kernel};

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
    /// `[rows - 1][vectors - 1]`, A in normal layout.
    pub along_rows: &'static [[KernelFn<P>; 3]],
    /// `[rows - 1][vectors - 1]`, A transposed or packed.
    pub along_columns: &'static [[KernelFn<P>; 3]],
    /// `[vectors - 1]`, for the most rows, A in normal layout; they pack B as they read it. None where B can't be read unpacked.
    pub along_rows_packing: Option<&'static [KernelFn<P>; 3]>,
    /// The same, A transposed or packed.
    pub along_columns_packing: Option<&'static [KernelFn<P>; 3]>,
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
        self.along_rows.len()
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
    ($arithmetic:ty, $walk:ty, $($rows:literal)*) => {
        &[$([
            kernel::<$arithmetic, $walk, $rows, 1, false>,
            kernel::<$arithmetic, $walk, $rows, 2, false>,
            kernel::<$arithmetic, $walk, $rows, 3, false>,
        ]),*]
    };
}

/// The packing kernels of an arithmetic with the most rows, one, two and three vectors wide.
macro_rules! packing_instances {
    ($arithmetic:ty, $walk:ty, $rows:literal) => {
        Some(&[
            kernel::<$arithmetic, $walk, $rows, 1, true>,
            kernel::<$arithmetic, $walk, $rows, 2, true>,
            kernel::<$arithmetic, $walk, $rows, 3, true>,
        ])
    };
}

// Eight lanes are two registers of the sixteen of SSE2 or four of NEON's: 12 sums, 2 of B, 1 of A and a product.
static SCALAR: Kernels<Single<Scalar>> = Kernels {
    vectors: 1,
    a_vectors: 3,
    max_depth: 256,
    max_block: 160 * 1024,
    along_rows: instances!(Single<Scalar>, AlongRows<f32>, 1 2 3 4 5 6),
    along_columns: instances!(Single<Scalar>, AlongColumns<f32>, 1 2 3 4 5 6),
    along_rows_packing: packing_instances!(Single<Scalar>, AlongRows<f32>, 6),
    along_columns_packing: packing_instances!(Single<Scalar>, AlongColumns<f32>, 6),
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
    along_rows: instances!(Single<Avx2>, AlongRows<f32>, 1 2 3 4 5 6),
    along_columns: instances!(Single<Avx2>, AlongColumns<f32>, 1 2 3 4 5 6),
    along_rows_packing: packing_instances!(Single<Avx2>, AlongRows<f32>, 6),
    along_columns_packing: packing_instances!(Single<Avx2>, AlongColumns<f32>, 6),
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
    along_rows: instances!(Single<Avx512>, AlongRows<f32>, 1 2 3 4 5 6 7 8),
    along_columns: instances!(Single<Avx512>, AlongColumns<f32>, 1 2 3 4 5 6 7 8),
    along_rows_packing: packing_instances!(Single<Avx512>, AlongRows<f32>, 8),
    along_columns_packing: packing_instances!(Single<Avx512>, AlongColumns<f32>, 8),
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
    along_rows: instances!(Pairs<Scalar>, AlongRows<bf16>, 1 2 3 4 5 6),
    along_columns: instances!(Pairs<Scalar>, AlongColumns<bf16>, 1 2 3 4 5 6),
    along_rows_packing: None,
    along_columns_packing: None,
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
    along_rows: instances!(Pairs<Avx512Bf16>, AlongRows<bf16>, 1 2 3 4 5 6 7 8),
    along_columns: instances!(Pairs<Avx512Bf16>, AlongColumns<bf16>, 1 2 3 4 5 6 7 8),
    along_rows_packing: None,
    along_columns_packing: None,
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
