//! Packed weights: weights stored in the order in which the micro-kernels read them, so that products need not pack
//! them.
//!
//! ```text
//! a weight [n, k], row by row         packed, in `f32`: a strip in the place of every LANES rows
//!
//! row 0          ─────────            strip 0 [k, LANES]:  rows 0 … LANES−1 of column 0, then of column 1, …
//! row 1          ─────────
//! …                                   strip 1 [k, LANES]:  rows LANES … 2·LANES−1
//! row 2·LANES    ─────────            row 2·LANES          rows that fill no strip stay as they are
//! ```
//!
//! As a factor, the weight is transposed: its rows are the factor's columns. A strip is one vector wide, not as wide as
//! a tile: so products of one row and of many rows read the same memory from end to end, and `f32` can be packed in
//! place. In other formats the last strip is padded, and the weight is written to new memory.
#![allow(unsafe_code)]

use std::ops::Range;

use smallmind_simd::Isa;

use super::arithmetic::F32Gemm;
use super::block_strips;
use super::half_strips::{self, HalfStrips};
use super::operand::Operand;
use super::pack::WordRows;
use super::partition::COL_GRANULE;
use super::strips::Strips;
use super::tables::HasKernels;
use crate::format::{FormatKind, HalfKind};
use crate::{Format, Mat};

/// A weight `[n, k]` that [`pack_weight`] or [`pack_weight_as`] has packed, as the factor `[k, n]` of a product.
#[derive(Clone, Copy)]
pub struct PackedWeight<'a> {
    /// The strips, one after another; in `f32` followed by the rows that don't fill a strip.
    words: &'a [f32],
    format: Format,
    /// Columns of the factor.
    n: usize,
    /// Rows of the factor.
    k: usize,
    /// Columns of a strip.
    lanes: usize,
    beyond_caches: bool,
}

/// Words of a weight `[n, k]` packed in `format`; `None` if its rows are not whole blocks, or if it is larger than
/// memory can be.
pub fn packed_len<I: Isa>(_isa: I, format: Format, n: usize, k: usize) -> Option<usize> {
    // The bytes must not overflow with the padding of the last strip either.
    n.checked_next_multiple_of(I::LANES)?.checked_mul(k)?.checked_mul(4)?;
    match format.kind() {
        FormatKind::Single => Some(n * k),
        FormatKind::Half(_) | FormatKind::Blocks if !format.divides(k) => None,
        FormatKind::Half(_) | FormatKind::Blocks => Some(n.div_ceil(I::LANES) * strip_words(format, I::LANES, k)),
    }
}

/// Words of a strip `[k, lanes]`.
fn strip_words(format: Format, lanes: usize, k: usize) -> usize {
    match format.kind() {
        FormatKind::Single => lanes * k,
        FormatKind::Half(_) => lanes * k / 2,
        FormatKind::Blocks => block_strips::strip_words(format, lanes, k),
    }
}

impl<'a> PackedWeight<'a> {
    /// The weight `[n, k]` at the front of `words`, packed for `I` in `format`.
    ///
    /// # Panics
    /// If `words` is too short, or rows of `k` are not whole blocks.
    #[inline(always)]
    pub fn new<I: Isa>(isa: I, format: Format, words: &'a [f32], n: usize, k: usize) -> Self {
        const { assert!(COL_GRANULE.is_multiple_of(I::LANES), "a partition by columns cuts no strip") };
        let len = packed_len(isa, format, n, k).filter(|len| *len <= words.len());
        let Some(len) = len else { panic!("a weight [{n}, {k}] in {format} in {} words", words.len()) };
        Self { words: &words[..len], format, n, k, lanes: I::LANES, beyond_caches: false }
    }

    /// The same weight, which is read from memory, not from a cache, if `yes`: products with one row prefetch it. The
    /// result doesn't depend on it.
    #[must_use]
    #[inline(always)]
    pub fn beyond_caches(self, yes: bool) -> Self {
        Self { beyond_caches: yes, ..self }
    }

    /// Whether it is read from memory.
    pub(super) fn is_beyond_caches(self) -> bool {
        self.beyond_caches
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

    /// Its strips, and in `f32` the rows after them.
    pub(super) fn words(self) -> &'a [f32] {
        self.words
    }

    /// A window of the factor's columns.
    ///
    /// # Panics
    /// If it leaves the factor, or begins or ends within a strip.
    #[inline(always)]
    pub fn cols_range(self, range: Range<usize>) -> Self {
        let whole = |j: usize| j.is_multiple_of(self.lanes) || j == self.n;
        assert!(range.start <= range.end && range.end <= self.n, "columns {range:?} of a weight with {}", self.n);
        assert!(whole(range.start) && whole(range.end), "columns {range:?} cut a strip of {}", self.lanes);
        let words = match self.format.kind() {
            FormatKind::Single => range.start * self.k..range.end * self.k,
            FormatKind::Half(_) | FormatKind::Blocks => {
                let strip = strip_words(self.format, self.lanes, self.k);
                range.start.div_ceil(self.lanes) * strip..range.end.div_ceil(self.lanes) * strip
            }
        };
        Self { words: &self.words[words], n: range.len(), ..self }
    }

    /// Copies a column of the factor, which is a row of the weight, to `out` `[k]`.
    ///
    /// # Panics
    /// If there is no such column or `out` has another length.
    pub fn copy_column(self, j: usize, out: &mut [f32]) {
        assert!(j < self.n && out.len() == self.k, "column {j} of {} to {} elements", self.n, out.len());
        match self.format.kind() {
            FormatKind::Single => self.copy_f32(j, out),
            FormatKind::Half(kind) => self.half_strips(kind).copy_column(j, out),
            FormatKind::Blocks => block_strips::copy_row(self.format, self.words, self.lanes, j, out),
        }
    }

    fn copy_f32(self, j: usize, out: &mut [f32]) {
        let (strip, column) = (j / self.lanes, j % self.lanes);
        if strip < self.n / self.lanes {
            let steps = self.words[strip * self.lanes * self.k..].chunks_exact(self.lanes);
            steps.zip(out).for_each(|(step, x)| *x = step[column]);
        } else {
            out.copy_from_slice(&self.words[j * self.k..][..self.k]);
        }
    }

    /// The strips of a factor in `f32` whose columns are whole strips.
    ///
    /// # Panics
    /// If they aren't.
    pub(super) fn strips<I: Isa>(self, isa: I) -> Strips<'a> {
        Strips::new(isa, self.words, self.k, self.n)
    }

    /// The columns of a factor in `f32` from `from` on, which are stored as rows of the weight.
    pub(super) fn rest(self, from: usize) -> Operand<'a> {
        debug_assert!(from >= self.n - self.n % self.lanes, "column {from} lies in a strip");
        Operand::transposed(Mat::new(&self.words[from * self.k..], self.n - from, self.k))
    }

    /// The strips of a factor in 16-bit floats.
    pub(super) fn half_strips(self, kind: HalfKind) -> HalfStrips<'a> {
        debug_assert_eq!(self.format.kind(), FormatKind::Half(kind));
        HalfStrips::new(self.words, kind, self.lanes, self.k, self.n)
    }
}

/// Packs the rows of `weight` `[n, k]` into `words` in `format`. Floats of 16 bits are rounded to nearest even, blocks
/// are those of [`Format::pack`].
///
/// # Panics
/// If `words` has another length than [`packed_len`]; for [`Format::F32`], which [`pack_weight`] packs in place.
pub fn pack_weight_as<I: Isa>(isa: I, format: Format, weight: Mat, words: &mut [f32]) {
    match format.kind() {
        FormatKind::Single => panic!("a weight in f32 is packed in place"),
        FormatKind::Half(kind) => half_strips::pack(isa, kind, weight, words),
        FormatKind::Blocks => block_strips::pack(format, I::LANES, weight, words),
    }
}

/// Writes rows of a weight `[n, k]` that is packed in `format` into `words`, from row `first` on: their blocks are in
/// `bytes`, as GGML lays them out, and are moved without a change. Rows may come in any order and any number at a time;
/// `words` must be zeros before the first.
///
/// # Panics
/// If `words` has another length than [`packed_len`], the rows leave the weight, or `bytes` are not whole rows.
pub fn pack_rows<I: Isa>(_isa: I, format: Format, [n, k]: [usize; 2], words: &mut [f32], first: usize, bytes: &[u8]) {
    let lanes = I::LANES;
    match format.kind() {
        FormatKind::Blocks => block_strips::pack_bytes(format, lanes, [n, k], words, first, bytes),
        FormatKind::Single => {
            assert!(words.len() == n * k, "a weight [{n}, {k}] in {} words", words.len());
            let rows = checked_rows::<4>([n, k], first, bytes);
            // The rows behind the last whole strip lie one after the other.
            let in_strips = rows.len().min((n - n % lanes).saturating_sub(first) * k);
            let (in_strips, rest) = rows.split_at(in_strips);
            write_strips(lanes, k, words, first, in_strips, f32::from_le_bytes);
            let start = first * k + in_strips.len();
            let rest = words[start..].iter_mut().zip(rest);
            rest.for_each(|(word, bytes)| *word = f32::from_le_bytes(*bytes));
        }
        FormatKind::Half(_) => {
            let len = n.next_multiple_of(lanes) * k / 2;
            assert!(words.len() == len, "a weight [{n}, {k}] in {} words", words.len());
            let rows = checked_rows::<2>([n, k], first, bytes);
            // SAFETY: the elements are those of the borrowed words, and every pattern of bits is valid for both types.
            let elements = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u16>(), 2 * len) };
            write_strips(lanes, k, elements, first, rows, u16::from_le_bytes);
        }
    }
}

/// The elements of rows of a weight `[n, k]` from row `first` on, which are whole rows of it.
fn checked_rows<const BYTES: usize>([n, k]: [usize; 2], first: usize, bytes: &[u8]) -> &[[u8; BYTES]] {
    let (elements, rest) = bytes.as_chunks::<BYTES>();
    let rows = elements.len() / k.max(1);
    assert!(rest.is_empty() && rows * k == elements.len(), "{} bytes are not whole rows of {k}", bytes.len());
    assert!(first <= n && rows <= n - first, "{rows} rows from {first} on of {n}");
    elements
}

/// Writes the elements of rows from row `first` on into strips.
fn write_strips<T, const BYTES: usize>(
    lanes: usize,
    k: usize,
    strips: &mut [T],
    first: usize,
    rows: &[[u8; BYTES]],
    read: impl Fn([u8; BYTES]) -> T,
) {
    /// Columns of a strip that are written row by row, so that they stay in the first-level cache.
    const COLUMNS: usize = 32;
    /// Rows of a whole strip that are written together.
    const TOGETHER: usize = 4;
    let end = first + rows.len() / k.max(1);
    let mut start = first;
    while start < end {
        let stop = end.min((start / lanes + 1) * lanes);
        let strip = &mut strips[start / lanes * lanes * k..][..lanes * k];
        for (c, columns) in strip.chunks_mut(COLUMNS * lanes).enumerate() {
            let count = columns.len() / lanes;
            let of_row = |row: usize| &rows[(row - first) * k + c * COLUMNS..][..count];
            let mut row = start;
            while start.is_multiple_of(lanes) && row + TOGETHER <= stop {
                let elements: [&[[u8; BYTES]]; TOGETHER] = std::array::from_fn(|i| of_row(row + i));
                for (i, column) in columns.chunks_exact_mut(lanes).enumerate() {
                    let (places, _) = column[row - start..].split_first_chunk_mut().expect("a strip has whole fours");
                    *places = elements.map(|elements| read(elements[i]));
                }
                row += TOGETHER;
            }
            for row in row..stop {
                let elements = of_row(row);
                let places = columns[row % lanes..].iter_mut().step_by(lanes);
                places.zip(elements).for_each(|(place, bytes)| *place = read(*bytes));
            }
        }
        start = stop;
    }
}

/// Elements of scratch that [`pack_weight`] needs.
pub fn pack_weight_scratch_len<I: Isa>(_isa: I, k: usize) -> usize {
    I::LANES * k
}

/// Packs a weight `[n, k]`, stored row by row in `weight`, in [`Format::F32`] and in place.
///
/// # Panics
/// If `weight` has another size, or `scratch` fewer than [`pack_weight_scratch_len`] elements.
pub fn pack_weight<I: Isa>(isa: I, weight: &mut [f32], n: usize, k: usize, scratch: &mut [f32]) {
    assert!(n.checked_mul(k) == Some(weight.len()), "a weight [{n}, {k}] in {} elements", weight.len());
    let scratch = &mut scratch[..I::LANES * k];
    if k == 0 {
        return;
    }
    for strip in weight.chunks_exact_mut(I::LANES * k) {
        let rows = WordRows::of(Mat::new(strip, I::LANES, k));
        // SAFETY: the rows are borrowed, and the scratch has k · LANES elements, as many as the panel [k, LANES].
        unsafe { (F32Gemm::<I>::kernels().transpose)(isa, rows, scratch.as_mut_ptr(), I::LANES) };
        strip.copy_from_slice(scratch);
    }
}

/// `out` `[k, width]` = the rows of `mat` `[n, k]` transposed, and zeros behind their `n` columns.
///
/// # Panics
/// If `out` has another size, `width` is less than `n`, or no whole number of vectors.
pub(crate) fn transpose_rows<I: Isa>(isa: I, mat: Mat, out: &mut [f32], width: usize) {
    assert!(mat.rows() <= width && width.is_multiple_of(I::LANES), "{} rows in a width of {width}", mat.rows());
    assert!(mat.cols().checked_mul(width) == Some(out.len()), "{} columns of {width} in {}", mat.cols(), out.len());
    // SAFETY: the rows are borrowed, and `out` has as many words as the panel [k, width].
    unsafe { (F32Gemm::<I>::kernels().transpose)(isa, WordRows::of(mat), out.as_mut_ptr(), width) };
}
