//! Weights that lie in the order in which the micro-kernels read them, so that no product packs them.
//!
//! The rows of a weight `[n, k]` are the columns of the factor that it is. As many of them as a vector has lanes form a *strip* `[k, lanes]`
//! at the place where they lay, and rows that fill no strip stay rows: packing needs no second copy, and a strip is read from end to end,
//! by products of one row as of many.
#![allow(unsafe_code)]

use std::ops::Range;

use smallmind_simd::Isa;

use super::arithmetic::{Arithmetic, Single};
use super::cut::COL_GRANULE;
use super::nest::{self, Block, Right, epilogue_of};
use super::pack::WordRows;
use super::strips::Strips;
use super::{Epilogue, Operand};
use crate::{Mat, MatMut};

/// A weight `[n, k]` that [`pack_weight`] has laid out, as the factor `[k, n]` of a product.
#[derive(Clone, Copy)]
pub struct PackedWeight<'a> {
    /// Strips, one behind another, and then the other rows.
    data: &'a [f32],
    /// Columns of the factor.
    n: usize,
    /// Depth of the factor.
    k: usize,
    /// Columns of a strip.
    lanes: usize,
}

impl<'a> PackedWeight<'a> {
    /// The weight `[n, k]` at the front of `data`, packed for `I`.
    ///
    /// # Panics
    /// If `data` is too short.
    #[inline(always)]
    pub fn new<I: Isa>(_isa: I, data: &'a [f32], n: usize, k: usize) -> Self {
        const { assert!(COL_GRANULE.is_multiple_of(I::LANES), "workers' columns cut no strip") };
        let len = n.checked_mul(k).filter(|len| *len <= data.len());
        let Some(len) = len else { panic!("a weight [{n}, {k}] in {} elements", data.len()) };
        Self { data: &data[..len], n, k, lanes: I::LANES }
    }

    /// Columns of the factor.
    #[inline(always)]
    pub fn cols(self) -> usize {
        self.n
    }

    /// Depth of the factor.
    #[inline(always)]
    pub fn rows(self) -> usize {
        self.k
    }

    /// A window of columns.
    ///
    /// # Panics
    /// If it leaves the factor, or if it begins or ends within a strip.
    #[inline(always)]
    pub fn cols_range(self, range: Range<usize>) -> Self {
        let whole = |j: usize| j.is_multiple_of(self.lanes) || j == self.n;
        assert!(range.start <= range.end && range.end <= self.n, "columns {range:?} of a weight with {}", self.n);
        assert!(whole(range.start) && whole(range.end), "columns {range:?} cut a strip of {}", self.lanes);
        Self { data: &self.data[range.start * self.k..range.end * self.k], n: range.len(), ..self }
    }

    /// Copies a column of the factor, a row of the weight, to `out` `[k]`.
    ///
    /// # Panics
    /// If it has no such column or `out` is of another length.
    pub fn copy_column(self, j: usize, out: &mut [f32]) {
        assert!(j < self.n && out.len() == self.k, "column {j} of {} to {} elements", self.n, out.len());
        let (strip, column) = (j / self.lanes, j % self.lanes);
        if strip < self.n / self.lanes {
            let steps = self.data[strip * self.lanes * self.k..][..self.lanes * self.k].chunks_exact(self.lanes);
            steps.zip(out).for_each(|(step, x)| *x = step[column]);
        } else {
            out.copy_from_slice(&self.data[j * self.k..][..self.k]);
        }
    }
}

/// Elements of scratch that [`pack_weight`] asks for.
pub fn pack_weight_scratch_len<I: Isa>(_isa: I, k: usize) -> usize {
    I::LANES * k
}

/// Lays a weight `[n, k]`, row by row in `weight`, out for [`gemm_packed`], in its place.
///
/// # Panics
/// If `weight` is not of that size, or if `scratch` has fewer than [`pack_weight_scratch_len`] elements.
pub fn pack_weight<I: Isa>(isa: I, weight: &mut [f32], n: usize, k: usize, scratch: &mut [f32]) {
    assert!(n.checked_mul(k) == Some(weight.len()), "a weight [{n}, {k}] in {} elements", weight.len());
    let scratch = &mut scratch[..I::LANES * k];
    if k == 0 {
        return;
    }
    for strip in weight.chunks_exact_mut(I::LANES * k) {
        let rows = WordRows::of(Mat::new(strip, I::LANES, k));
        // SAFETY: the rows are those of the strip, and the scratch holds a panel [k, LANES].
        unsafe { (Single::<I>::kernels().transpose)(isa, rows, scratch.as_mut_ptr(), I::LANES) };
        strip.copy_from_slice(scratch);
    }
}

/// Elements of scratch that [`gemm_packed`] asks for with `m` rows and depth `k`: monotone in both.
pub fn gemm_packed_scratch_len<I: Isa>(_isa: I, m: usize, k: usize) -> usize {
    nest::scratch_len(Single::<I>::kernels(), m, I::LANES, k)
}

/// [`super::gemm`] with a packed B.
///
/// An element gets the bits that [`super::gemm`] would give it, whatever the number of rows: so few rows need no kernel of their own, and
/// windows by rows or by strips may be computed apart. `scratch` holds at least [`gemm_packed_scratch_len`] elements.
///
/// # Panics
/// As [`super::gemm`].
pub fn gemm_packed<I: Isa>(
    isa: I,
    a: Operand,
    b: PackedWeight,
    mut c: MatMut,
    epilogue: Epilogue,
    scratch: &mut [f32],
) {
    let (m, n, k) = (c.rows(), c.cols(), a.cols());
    assert!(a.rows() == m, "A has {} rows, C has {m}", a.rows());
    assert!(b.rows() == k, "A has {k} columns, B has {} rows", b.rows());
    assert!(b.cols() == n, "B has {} columns, C has {n}", b.cols());
    assert!(b.lanes == I::LANES, "strips of {} columns, vectors of {}", b.lanes, I::LANES);
    epilogue.check(m, n);
    if m == 0 {
        return;
    }
    let kernels = Single::<I>::kernels();
    // Rows of a single tile pass by a panel in all its depth, so that strips are read from end to end; those of more
    // tiles go a block of the depth at a time, for which they stay in the cache.
    let passes_once = m <= kernels.rows() && k > kernels.max_depth;
    let whole = n - n % I::LANES;
    let most = if passes_once { kernels.width() } else { whole.max(1) };
    for start in (0..whole).step_by(most) {
        let columns = start..(start + most).min(whole);
        let strips = Strips::new(isa, b.cols_range(columns.clone()).data, k, columns.len());
        let (c, epilogue) = (c.reborrow().cols_range(columns.clone()), epilogue_of(&epilogue, &(0..m), &columns));
        nest::run(Single(isa), Block { a, b: Right::Strips(strips), c, epilogue }, scratch);
    }
    if whole < n {
        let rest = Operand::transposed(Mat::new(&b.data[whole * k..], n - whole, k));
        let (c, epilogue) = (c.cols_range(whole..n), epilogue_of(&epilogue, &(0..m), &(whole..n)));
        nest::run(Single(isa), Block { a, b: Right::Operand(rest), c, epilogue }, scratch);
    }
}
