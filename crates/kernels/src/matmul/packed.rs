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
use super::half_strips::{self, HalfStrips};
use super::nest::{self, Block, Right, epilogue_of};
use super::pack::WordRows;
use super::strips::Strips;
use super::{Epilogue, Operand, q8};
use crate::{Format, Mat, MatMut};

/// A weight `[n, k]` that [`pack_weight`] or [`pack_weight_as`] has laid out, as the factor `[k, n]` of a product.
#[derive(Clone, Copy)]
pub struct PackedWeight<'a> {
    /// Strips, one behind another, and of `f32` then the other rows.
    words: &'a [f32],
    format: Format,
    /// Columns of the factor.
    n: usize,
    /// The first row of the factor in the stored depth; 0 but for windows of rows.
    first: usize,
    /// Depth of the factor.
    k: usize,
    /// Depth as it is stored: at least `first + k`.
    stored: usize,
    /// Columns of a strip.
    lanes: usize,
}

/// Words that a weight `[n, k]` takes when it is packed in `format`; `None` if its rows are not whole blocks, or for more than memory holds.
pub fn packed_len<I: Isa>(_isa: I, format: Format, n: usize, k: usize) -> Option<usize> {
    // With room to count the bytes of a strip.
    n.checked_next_multiple_of(I::LANES)?.checked_mul(k)?.checked_mul(4)?;
    match format {
        Format::F32 => Some(n * k),
        _ if !format.divides(k) => None,
        _ => Some(n.div_ceil(I::LANES) * strip_words(format, I::LANES, k)),
    }
}

/// Words of a strip.
fn strip_words(format: Format, lanes: usize, k: usize) -> usize {
    match format {
        Format::F32 => lanes * k,
        Format::F16 | Format::Bf16 => lanes * k / 2,
        Format::Q8_0 => q8::strip_words(lanes, k),
    }
}

impl<'a> PackedWeight<'a> {
    /// The weight `[n, k]` at the front of `words`, packed for `I` in `format`.
    ///
    /// # Panics
    /// If `words` is too short, or rows of `k` are not whole blocks.
    #[inline(always)]
    pub fn new<I: Isa>(isa: I, format: Format, words: &'a [f32], n: usize, k: usize) -> Self {
        const { assert!(COL_GRANULE.is_multiple_of(I::LANES), "workers' columns cut no strip") };
        let len = packed_len(isa, format, n, k).filter(|len| *len <= words.len());
        let Some(len) = len else { panic!("a weight [{n}, {k}] in {format} in {} words", words.len()) };
        Self { words: &words[..len], format, n, first: 0, k, stored: k, lanes: I::LANES }
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

    /// The format of its elements.
    #[inline(always)]
    pub fn format(self) -> Format {
        self.format
    }

    /// Columns of a strip.
    pub(super) fn lanes(self) -> usize {
        self.lanes
    }

    /// Its memory.
    pub(super) fn words(self) -> &'a [f32] {
        self.words
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
        let words = match self.format {
            Format::F32 => range.start * self.stored..range.end * self.stored,
            format => {
                let strip = strip_words(format, self.lanes, self.stored);
                range.start.div_ceil(self.lanes) * strip..range.end.div_ceil(self.lanes) * strip
            }
        };
        Self { words: &self.words[words], n: range.len(), ..self }
    }

    /// A window of rows of the factor, for instance those of a cache that are filled. Its product has the bits of a product with these rows
    /// alone: blocks of the depth begin at the window's first row.
    ///
    /// # Panics
    /// If it leaves the factor; in any format but [`Format::F32`].
    #[inline(always)]
    pub fn rows_range(self, range: Range<usize>) -> Self {
        assert!(self.format == Format::F32, "rows of a weight in {}", self.format);
        assert!(range.start <= range.end && range.end <= self.k, "rows {range:?} of a weight with {}", self.k);
        Self { first: self.first + range.start, k: range.len(), ..self }
    }

    /// Copies a column of the factor, a row of the weight, to `out` `[k]`.
    ///
    /// # Panics
    /// If it has no such column or `out` is of another length.
    pub fn copy_column(self, j: usize, out: &mut [f32]) {
        assert!(j < self.n && out.len() == self.k, "column {j} of {} to {} elements", self.n, out.len());
        match self.format {
            Format::F32 => self.copy_f32(j, out),
            Format::F16 | Format::Bf16 => self.halves().copy_column(j, out),
            Format::Q8_0 => q8::copy_column(self.words, self.lanes, self.k, j, out),
        }
    }

    fn copy_f32(self, j: usize, out: &mut [f32]) {
        let (strip, column) = (j / self.lanes, j % self.lanes);
        if strip < self.n / self.lanes {
            let steps = self.words[strip * self.lanes * self.stored..].chunks_exact(self.lanes).skip(self.first);
            steps.zip(out).for_each(|(step, x)| *x = step[column]);
        } else {
            out.copy_from_slice(&self.words[j * self.stored + self.first..][..self.k]);
        }
    }

    /// The strips of a window that holds nothing but strips.
    fn strips<I: Isa>(self, isa: I) -> Strips<'a, f32> {
        let stored = Strips::new(isa, self.words, self.stored, self.n);
        stored.window::<Single<I>>(&(self.first..self.first + self.k), &(0..self.n))
    }

    /// The rows of the weight that fill no strip, from column `from` of the factor on.
    fn rest(self, from: usize) -> Operand<'a> {
        let rows = Mat::new(&self.words[from * self.stored..], self.n - from, self.stored);
        Operand::transposed(rows.cols_range(self.first..self.first + self.k))
    }

    fn halves(self) -> HalfStrips<'a> {
        HalfStrips::new(self.words, self.format, self.lanes, self.k, self.n)
    }
}

/// Writes the rows of `weight` `[n, k]` to `words` as [`gemm_packed`], or [`super::gemm_q8`], reads them in `format`. Elements are rounded to
/// nearest even; for [`Format::Q8_0`] see [`super::quantize_weight`].
///
/// # Panics
/// If `words` has another length than [`packed_len`]; for [`Format::F32`], which [`pack_weight`] packs in its place.
pub fn pack_weight_as<I: Isa>(isa: I, format: Format, weight: Mat, words: &mut [f32]) {
    match format {
        Format::F32 => panic!("a weight in f32 is packed in its place"),
        Format::F16 | Format::Bf16 => half_strips::pack(isa, format, weight, words),
        Format::Q8_0 => q8::pack(isa, weight, words),
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

/// Elements of scratch that [`gemm_packed`] asks for with `m` rows and depth `k` of a weight in `format`: monotone in both.
pub fn gemm_packed_scratch_len<I: Isa>(_isa: I, format: Format, m: usize, k: usize) -> usize {
    match format {
        Format::F16 | Format::Bf16 => nest::half_scratch_len(Single::<I>::kernels(), m, k),
        Format::F32 | Format::Q8_0 => nest::scratch_len(Single::<I>::kernels(), m, I::LANES, k),
    }
}

/// [`super::gemm`] with a packed B in [`Format::F32`], [`Format::F16`] or [`Format::Bf16`].
///
/// An element gets the bits that [`super::gemm`] would give it with the weights as they are stored, whatever the number of rows: so few rows need
/// no kernel of their own, and windows by rows or by strips may be computed apart. `scratch` holds at least [`gemm_packed_scratch_len`] elements.
///
/// # Panics
/// As [`super::gemm`]; for [`Format::Q8_0`], whose products are [`super::gemm_q8`]'s.
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
    if m == 0 || n == 0 {
        return;
    }
    let kernels = Single::<I>::kernels();
    // Rows of a single tile pass by a panel in all its depth, so that strips are read from end to end; those of more
    // tiles go a block of the depth at a time, for which they stay in the cache.
    let passes_once = m <= kernels.rows() && k > kernels.max_depth;
    let whole = if b.format == Format::F32 { n - n % I::LANES } else { n };
    let most = if passes_once { kernels.width() } else { whole.max(1) };
    for start in (0..whole).step_by(most) {
        let columns = start..(start + most).min(whole);
        let window = b.cols_range(columns.clone());
        let strips = match b.format {
            Format::F32 => Right::Strips(window.strips(isa)),
            Format::F16 | Format::Bf16 => Right::Half(window.halves()),
            Format::Q8_0 => panic!("a weight in q8_0 is multiplied by quantized rows"),
        };
        let (c, epilogue) = (c.reborrow().cols_range(columns.clone()), epilogue_of(&epilogue, &(0..m), &columns));
        nest::run(Single(isa), Block { a, b: strips, c, epilogue }, scratch);
    }
    if whole < n {
        let rest = b.rest(whole);
        let (c, epilogue) = (c.cols_range(whole..n), epilogue_of(&epilogue, &(0..m), &(whole..n)));
        nest::run(Single(isa), Block { a, b: Right::Operand(rest), c, epilogue }, scratch);
    }
}
