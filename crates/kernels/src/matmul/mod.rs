//! Matrix products: packed where it pays, cache-blocked, register-tiled.
//!
//! `C = [C +] scale · op(A) · op(B) [+ bias] [+ residual]`, where `op(X)` is `X` or `Xᵀ`. The loops follow Goto and van de Geijn,
//! "Anatomy of high-performance matrix multiplication" (2008):
//!
//! ```text
//! for depth pc, at most max_depth at a time (a function of k alone)
//!   for rows ic of C, as many as a block of A may have
//!     A[ic, pc], packed or where it lies                  (1: stays in the second-level cache)
//!     for columns jr of C, a panel at a time
//!       B[pc, jr] as a panel                              (2: between the two caches)
//!       for rows ir of the block, a tile at a time
//!         C[ir, jr] += A[ir, pc] · B[pc, jr]              (3: one micro-kernel call, sums in registers)
//! ```
//!
//! 1. The micro-kernel broadcasts single elements of A, so it takes A in either layout. A is packed only where it is read often and lies so
//!    scattered that caches and address translation suffer; packing fetches the next rows while it transposes these.
//! 2. The vectors of a panel are adjacent in the order in which they are read. B in normal layout is packed by the first tile, which
//!    reads it where it lies and stores what it reads beside its multiply-adds; a transposed B is transposed in registers.
//!    Weights that don't change are packed once and for all, by [`pack_weight`]: [`gemm_packed`] reads them where they lie.
//! 3. There is one micro-kernel for each number of rows and vectors, so no row is computed in vain, and the epilogue is part of it. It asks
//!    for its tile of C before it begins to multiply.
//!
//! **Order of sums.** An element of C is a chain of multiply-adds in rising depth, broken only between blocks
//! whose depths follow from k alone, whatever the size of C and wherever the element lies. So any window of C, by rows or by columns, comes out bit-equal to the same part of the whole.
//! For the same reason [`gemm`] never chooses a path by the number of rows or columns: [`gemv_nt`], whose sums run in another order, is
//! the caller's choice, made once for the whole problem.
#![allow(unsafe_code)]

mod arch;
mod arithmetic;
mod cut;
mod gemv;
mod half_strips;
mod nest;
mod pack;
mod packed;
mod q8;
mod strips;
mod tables;
#[cfg(test)]
mod tests;
mod tile;

pub(crate) use arch::prefetch_early;
pub use cut::{COL_GRANULE, Cut, ROW_GRANULE, Route};
pub use gemv::{GEMV_MAX_ROWS, gemv_nt};
pub use packed::{
    PackedWeight, gemm_packed, gemm_packed_scratch_len, pack_weight, pack_weight_as, pack_weight_scratch_len,
    packed_len,
};
pub use q8::{gemm_q8, quantize_rows, quantize_weight, quantized_words};

use arithmetic::{Arithmetic, Pairs, Single};
use half::bf16;
use nest::{Block, Right};
use smallmind_simd::{Bf16Dot, Isa};

use crate::{Mat, MatMut};

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As it enters the product.
    Normal,
    /// As the transpose of what enters the product.
    Transposed,
}

/// What becomes of the earlier contents of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Update {
    /// They are never read.
    #[default]
    Overwrite,
    /// The product is added to them.
    Accumulate,
}

/// `op(mat)`: a factor of a product.
pub struct Operand<'a, T = f32> {
    /// The elements as they lie in memory.
    pub mat: Mat<'a, T>,
    /// Whether the factor is the matrix or its transpose.
    pub layout: Layout,
}

// Not derived, which would ask it of the elements too.
impl<T> Clone for Operand<'_, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Operand<'_, T> {}

impl<'a, T> Operand<'a, T> {
    /// The matrix itself.
    #[inline(always)]
    pub fn normal(mat: Mat<'a, T>) -> Self {
        Self { mat, layout: Layout::Normal }
    }

    /// The transpose of the matrix.
    #[inline(always)]
    pub fn transposed(mat: Mat<'a, T>) -> Self {
        Self { mat, layout: Layout::Transposed }
    }

    /// Rows of the factor.
    #[inline(always)]
    pub fn rows(self) -> usize {
        match self.layout {
            Layout::Normal => self.mat.rows(),
            Layout::Transposed => self.mat.cols(),
        }
    }

    /// Columns of the factor.
    #[inline(always)]
    pub fn cols(self) -> usize {
        match self.layout {
            Layout::Normal => self.mat.cols(),
            Layout::Transposed => self.mat.rows(),
        }
    }
}

/// What happens to a product on its way into the output.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Multiplies the product, not what is added to it.
    pub scale: f32,
    /// Whether the output is replaced or added to.
    pub update: Update,
    /// Added to every row, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Added element by element, `[m, n]`.
    pub residual: Option<Mat<'a>>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { scale: 1.0, update: Update::Overwrite, bias: None, residual: None }
    }
}

impl Epilogue<'_> {
    /// Adds the product to the output.
    pub const ACCUMULATE: Epilogue<'static> =
        Epilogue { scale: 1.0, update: Update::Accumulate, bias: None, residual: None };

    fn check(&self, m: usize, n: usize) {
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), n, "a bias for {} columns on an output of {n}", bias.len());
        }
        if let Some(residual) = self.residual {
            let (rows, cols) = (residual.rows(), residual.cols());
            assert!((rows, cols) == (m, n), "a residual [{rows}, {cols}] on an output [{m}, {n}]");
        }
    }
}

/// One product among those of [`batched_gemm`].
pub struct Gemm<'a, T = f32> {
    /// `op(A)`, `[m, k]`.
    pub a: Operand<'a, T>,
    /// `op(B)`, `[k, n]`.
    pub b: Operand<'a, T>,
    /// The output, `[m, n]`.
    pub c: MatMut<'a>,
    /// What happens to the product on its way there.
    pub epilogue: Epilogue<'a>,
}

/// Elements of scratch that [`gemm`] asks for at `[m, k] · [k, n]`: an upper bound in both layouts of both factors, monotone in each of
/// `m`, `n`, `k`, so that it also covers every smaller problem.
pub fn gemm_scratch_len<I: Isa>(_isa: I, m: usize, n: usize, k: usize) -> usize {
    nest::scratch_len(Single::<I>::kernels(), m, n, k)
}

/// [`gemm_scratch_len`] for [`gemm_bf16`].
pub fn gemm_bf16_scratch_len<D: Bf16Dot>(_dot: D, m: usize, n: usize, k: usize) -> usize {
    nest::scratch_len(Pairs::<D>::kernels(), m, n, k)
}

/// `C = [C +] scale · op(A) · op(B) [+ bias] [+ residual]`.
///
/// `op(A)` is `[m, k]`, `op(B)` is `[k, n]`, `c` is `[m, n]`; for `k = 0` the product is zero. `scratch` holds at least
/// [`gemm_scratch_len`] elements, whatever their values and alignment. See the module on the order of sums: a window of `c` (with the
/// same window of A's rows or B's columns, of the bias and the residual) gets the bits that the whole would.
///
/// # Panics
/// If the shapes disagree or `scratch` is too short.
pub fn gemm<I: Isa>(isa: I, a: Operand, b: Operand, c: MatMut, epilogue: Epilogue, scratch: &mut [f32]) {
    product(Single(isa), Gemm { a, b, c, epilogue }, scratch);
}

/// [`gemm`] of factors in `bf16`, with sums, output, bias and residual in `f32`.
///
/// Products are exact, two of them join a sum at a time: see [`Bf16Dot::dot`] for the roundings. Windows get the bits of the whole, as
/// there. `scratch` holds at least [`gemm_bf16_scratch_len`] elements.
///
/// # Panics
/// As [`gemm`].
pub fn gemm_bf16<D: Bf16Dot>(
    dot: D,
    a: Operand<bf16>,
    b: Operand<bf16>,
    c: MatMut,
    epilogue: Epilogue,
    scratch: &mut [f32],
) {
    product(Pairs(dot), Gemm { a, b, c, epilogue }, scratch);
}

fn product<P: Arithmetic>(arithmetic: P, problem: Gemm<P::Element>, scratch: &mut [f32]) {
    let Gemm { a, b, c, epilogue } = problem;
    let (m, n, k) = (c.rows(), c.cols(), a.cols());
    assert!(a.rows() == m, "A has {} rows, C has {m}", a.rows());
    assert!(b.rows() == k, "A has {k} columns, B has {} rows", b.rows());
    assert!(b.cols() == n, "B has {} columns, C has {n}", b.cols());
    epilogue.check(m, n);
    if m > 0 && n > 0 {
        nest::run(arithmetic, Block { a, b: Right::Operand(b), c, epilogue }, scratch);
    }
}

/// [`gemm`] for each of `problems`, in their order; `scratch` covers the largest.
///
/// # Panics
/// As [`gemm`].
pub fn batched_gemm<'a, I: Isa>(isa: I, problems: impl Iterator<Item = Gemm<'a>>, scratch: &mut [f32]) {
    for Gemm { a, b, c, epilogue } in problems {
        gemm(isa, a, b, c, epilogue, scratch);
    }
}
