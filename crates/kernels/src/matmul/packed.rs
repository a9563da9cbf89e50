//! Weights that lie in the order in which the micro-kernels read them, so that no product packs them.
//!
//! The rows of a weight `[n, k]` are the columns of the factor that it is. As many of them as a vector has lanes form a *strip* `[k, lanes]`
//! at the place where they lay, and rows that fill no strip stay rows: packing needs no second copy, and a strip is read from end to end,
//! by products of one row as of many.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use smallmind_simd::Isa;

use super::arithmetic::{Arithmetic, Single};
use super::nest::{self, Right, epilogue_of};
use super::pack::WordRows;
use super::tile::{LINE, Tile, UNROLL};
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
        assert!(data.len() >= n * k, "a weight [{n}, {k}] in {} elements", data.len());
        Self { data: &data[..n * k], n, k, lanes: I::LANES }
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
    assert!(weight.len() == n * k, "a weight [{n}, {k}] in {} elements", weight.len());
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
        let strips = Strips::new(isa, b.cols_range(columns.clone()));
        let (c, epilogue) = (c.reborrow().cols_range(columns.clone()), epilogue_of(&epilogue, &(0..m), &columns));
        nest::run(Single(isa), a, Right::Strips(strips), c, epilogue, scratch);
    }
    if whole < n {
        let rest = Operand::transposed(Mat::new(&b.data[whole * k..], n - whole, k));
        let (c, epilogue) = (c.cols_range(whole..n), epilogue_of(&epilogue, &(0..m), &(whole..n)));
        nest::run(Single(isa), a, Right::Operand(rest), c, epilogue, scratch);
    }
}

/// Whole strips, as the loops over a product reach them.
pub(super) struct Strips<'a, T> {
    /// The first word of the window.
    pub start: *const T,
    /// Elements from strip to strip.
    pub strip: usize,
    borrow: PhantomData<&'a [T]>,
}

// Not derived, which would ask it of the elements too.
impl<T> Clone for Strips<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Strips<'_, T> {}

impl<'a> Strips<'a, f32> {
    /// The strips of a weight that has no other columns.
    fn new<I: Isa>(_isa: I, weight: PackedWeight<'a>) -> Self {
        debug_assert!(weight.n.is_multiple_of(I::LANES));
        Self { start: weight.data.as_ptr(), strip: I::LANES * weight.k, borrow: PhantomData }
    }
}

impl<T> Strips<'_, T> {
    /// The window from a step in depth and a column on with which a strip begins.
    pub fn window(self, lanes: usize, depth: usize, column: usize) -> Self {
        Self { start: self.start.wrapping_add(column / lanes * self.strip + depth * lanes), ..self }
    }
}

/// How many elements ahead of their use the strips are asked for that pass by one tile: far enough for the latency of memory.
const AHEAD: usize = 512;

/// The most rows of which a core overlaps so many steps that it needs nobody to ask ahead for it.
const FEW_ROWS: usize = 4;

/// What the tiles of a panel ask for while they multiply: the next panel, each of them a part of it, since together they take the time that memory needs.
/// A lone tile asks for its own strips a little ahead.
pub(super) struct Ahead<T> {
    /// Where in the first strip the next tile begins to ask.
    next: *const T,
    /// Lines of each strip that a tile asks for with every [`UNROLL`] steps.
    lines: usize,
    /// Lines of each strip nobody has asked for.
    left: usize,
}

impl<T> Ahead<T> {
    /// For the tiles of `m` rows one below another, of which `first` is the top one, `vectors` wide.
    pub fn new(m: usize, rows: usize, first: &Tile<T>, vectors: usize) -> Self {
        let tiles = m.div_ceil(rows);
        let distance = if tiles == 1 { AHEAD } else { vectors * first.b_vector };
        let lines = if m <= FEW_ROWS { 0 } else { UNROLL.div_ceil(tiles) };
        Self { next: first.b.wrapping_add(distance), lines, left: if lines == 0 { 0 } else { first.k } }
    }

    /// `tile` with what it is to ask for.
    pub fn next(&mut self, tile: &Tile<T>) -> Tile<T> {
        if self.left == 0 {
            return *tile;
        }
        let ahead = Tile { ahead: self.next, ahead_lines: self.lines, ..*tile };
        let lines = tile.k / UNROLL * self.lines;
        self.next = self.next.wrapping_add(lines * LINE);
        self.left = self.left.saturating_sub(lines.max(1));
        ahead
    }
}
