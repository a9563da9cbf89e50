//! Matrix products: packed, cache-blocked, register-tiled.
//!
//! `C = [C +] scale · op(A) · op(B) [+ bias] [+ residual]`, where `op(X)` is `X` or `Xᵀ`. The loops follow Goto and van de Geijn,
//! "Anatomy of high-performance matrix multiplication" (2008), with the roles of A and B exchanged:
//!
//! ```text
//! for columns jc of C, NC at a time
//!   for depth pc, KC at a time (a function of k alone)
//!     pack B[pc, jc] into panels of NR columns           (1: stays in the second-level cache)
//!     for rows ic of C, at most MR at a time
//!       A[ic, pc], mostly read where it lies              (2: stays in the first-level cache)
//!       for panels jr of B
//!         C[ic, jr] += A[ic, pc] · B[pc, jr]              (3: one micro-kernel call, sums in registers)
//! ```
//!
//! 1. Packing makes the vectors of B adjacent in the order in which they are read, zero-padded to whole vectors.
//! 2. The micro-kernel broadcasts single elements of A, so it takes A in either layout; packed is only a transposed A whose rows would
//!    push each other out of the caches.
//! 3. There is one micro-kernel for each number of rows, so no row is computed in vain, and the epilogue is part of it.
//!
//! **Order of sums.** An element of C is a chain of multiply-adds in rising depth, broken only between blocks
//! whose depths follow from k alone, whatever the size of C and wherever the element lies. So any window of C, by rows or by columns, comes out bit-equal to the same part of the whole.
//! For the same reason [`gemm`] never chooses a path by the number of rows or columns: [`gemv_nt`], whose sums run in another order, is
//! the caller's choice, made once for the whole problem.
#![allow(unsafe_code)]

mod arch;
mod gemv;
mod nest;
mod pack;
#[cfg(test)]
mod tests;
mod tile;

pub use gemv::{GEMV_MAX_ROWS, gemv_nt};

use smallmind_simd::Isa;

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
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// The elements as they lie in memory.
    pub mat: Mat<'a>,
    /// Whether the factor is the matrix or its transpose.
    pub layout: Layout,
}

impl<'a> Operand<'a> {
    /// The matrix itself.
    #[inline(always)]
    pub fn normal(mat: Mat<'a>) -> Self {
        Self { mat, layout: Layout::Normal }
    }

    /// The transpose of the matrix.
    #[inline(always)]
    pub fn transposed(mat: Mat<'a>) -> Self {
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
pub struct Gemm<'a> {
    /// `op(A)`, `[m, k]`.
    pub a: Operand<'a>,
    /// `op(B)`, `[k, n]`.
    pub b: Operand<'a>,
    /// The output, `[m, n]`.
    pub c: MatMut<'a>,
    /// What happens to the product on its way there.
    pub epilogue: Epilogue<'a>,
}

/// Elements of scratch that [`gemm`] asks for at `[m, k] · [k, n]`: an upper bound in both layouts of both factors, monotone in each of
/// `m`, `n`, `k`, so that it also covers every smaller problem.
pub fn gemm_scratch_len<I: Isa>(_isa: I, m: usize, n: usize, k: usize) -> usize {
    nest::scratch_len(tile::kernels::<I>(), m, n, k)
}

/// `C = [C +] scale · op(A) · op(B) [+ bias] [+ residual]`.
///
/// `op(A)` is `[m, k]`, `op(B)` is `[k, n]`, `c` is `[m, n]`; for `k = 0` the product is zero. `scratch` holds at least
/// [`gemm_scratch_len`] elements, whatever their values and alignment. See the module on the order of sums: a window of `c` (with the
/// same window of A's rows or B's columns, of the bias and the residual) gets the bits that the whole would.
///
/// A window of columns is the cheaper cut: B is packed once in all, while windows of rows pack it once each.
///
/// # Panics
/// If the shapes disagree or `scratch` is too short.
pub fn gemm<I: Isa>(isa: I, a: Operand, b: Operand, c: MatMut, epilogue: Epilogue, scratch: &mut [f32]) {
    let (m, n, k) = (c.rows(), c.cols(), a.cols());
    assert!(a.rows() == m, "A has {} rows, C has {m}", a.rows());
    assert!(b.rows() == k, "A has {k} columns, B has {} rows", b.rows());
    assert!(b.cols() == n, "B has {} columns, C has {n}", b.cols());
    epilogue.check(m, n);
    if m == 0 || n == 0 {
        return;
    }
    nest::run(isa, Gemm { a, b, c, epilogue }, scratch);
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
