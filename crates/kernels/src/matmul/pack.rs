//! Packing: copies of a block of a factor, in the order in which the micro-kernels read it.
//!
//! ```text
//! panel [depth, width]      p = 0: columns 0, 1, … width−1      width: whole vectors, zeros beyond the last column
//!                           p = 1: columns 0, 1, … width−1
//!                           …
//! ```
//!
//! A factor whose rows run along the panel's rows is copied ([`CopyFn`]). A factor whose rows run along the depth is
//! transposed ([`TransposeFn`]); `arch` has the same function with transposes in registers.
#![allow(unsafe_code)]

use half::bf16;
use smallmind_simd::Isa;

use super::arithmetic::{Arithmetic, Gathered};
use crate::Mat;

/// Bytes of a word.
pub(super) const WORD: usize = 4;

/// A matrix whose rows run along the depth, as rows of words.
#[derive(Clone, Copy)]
pub(super) struct WordRows {
    /// The first word; need not be aligned.
    pub start: *const u8,
    /// Number of rows.
    pub rows: usize,
    /// Bytes from row to row.
    pub stride: usize,
    /// Bytes of a row, a multiple of the size of an element. If it isn't a multiple of the size of a word, the last
    /// word lacks an element.
    pub bytes: usize,
}

impl WordRows {
    /// The rows of `mat`.
    pub fn of<T>(mat: Mat<T>) -> Self {
        let size = size_of::<T>();
        Self { start: mat.as_ptr().cast(), rows: mat.rows(), stride: mat.stride() * size, bytes: mat.cols() * size }
    }

    /// Words of a row.
    pub fn depth(&self) -> usize {
        self.bytes.div_ceil(WORD)
    }

    /// Word `p` of row `j`; zeros for bytes that it lacks.
    ///
    /// # Safety
    /// It must be one of the words, and the rows must be valid for reads.
    unsafe fn word(&self, j: usize, p: usize) -> f32 {
        debug_assert!(j < self.rows && p < self.depth(), "word {p} of row {j} of {} rows", self.rows);
        let len = (self.bytes - p * WORD).min(WORD);
        let mut bytes = [0; WORD];
        // SAFETY: row j is readable, and `len` bytes from word p on end within it.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(j * self.stride + p * WORD), bytes.as_mut_ptr(), len) };
        f32::from_ne_bytes(bytes)
    }
}

/// Packs rows of words into a panel `[depth, width]`, where `width` is the number of rows rounded up to whole vectors.
///
/// # Safety
/// The rows must be valid for reads, `panel` for writes of `depth * width` words.
pub(super) type TransposeFn<I> = unsafe fn(I, rows: WordRows, panel: *mut f32, width: usize);

/// Packs `mat` `[depth in elements, cols]` into panels, one after another. All have the function's width but the last,
/// which has the columns that are left, rounded up to whole vectors.
///
/// # Safety
/// `panels` must be valid for writes of the depth in words times `cols` rounded up to whole vectors.
pub(super) type CopyFn<P, T> = unsafe fn(P, mat: Mat<T>, panels: *mut f32);

/// Packs the rows of `mat`, rounded to `bf16`, as a [`TransposeFn`] packs rows of words.
///
/// # Safety
/// `panel` must be valid for writes of `width` words, the number of rows rounded up to whole vectors, for each pair of
/// columns.
pub(super) type RoundTransposeFn<P> = unsafe fn(P, mat: Mat, panel: *mut f32, width: usize);

/// Steps that are copied into all panels before the next steps: reads run along whole rows, and writes still fill
/// several adjacent lines.
const STEPS_AT_A_TIME: usize = 4;

/// [`TransposeFn`] in portable code.
///
/// # Safety
/// As [`TransposeFn`].
pub(super) unsafe fn transpose<I: Isa>(_isa: I, rows: WordRows, panel: *mut f32, width: usize) {
    // SAFETY: the rows are readable and the panel is writable, which is all that the function demands.
    unsafe { transpose_part(rows, panel, width, 0) }
}

/// Packs the steps `from..` of a panel, word by word.
///
/// # Safety
/// As [`TransposeFn`].
pub(super) unsafe fn transpose_part(rows: WordRows, panel: *mut f32, width: usize, from: usize) {
    const BLOCK: usize = 8;
    let depth = rows.depth();
    let mut first = from;
    while first < depth {
        let last = (first + BLOCK).min(depth);
        for j in 0..width {
            for p in first..last {
                // SAFETY: p < depth and j < width, so that the word lies in the panel; only words of existing rows are
                // read.
                unsafe { *panel.add(p * width + j) = if j < rows.rows { rows.word(j, p) } else { 0.0 } };
            }
        }
        first = last;
    }
}

/// [`CopyFn`] into panels of `V` vectors.
///
/// # Safety
/// As [`CopyFn`].
pub(super) unsafe fn copy<P: Arithmetic, T: Gathered<P>, const V: usize>(arithmetic: P, mat: Mat<T>, panels: *mut f32) {
    arithmetic.vectorize(
        #[inline(always)]
        || {
            let lanes = P::Isa::LANES;
            let (depth, width) = (mat.rows().div_ceil(P::STEP), V * lanes);
            let whole = mat.cols() - mat.cols() % width;
            // If the depth isn't a multiple of the elements of a word, the last step lacks a row.
            let full = mat.rows() / P::STEP;
            let grouped = full - full % STEPS_AT_A_TIME;
            // SAFETY: steps below `full` have all their rows in the matrix; the caller keeps the panels writable over
            // the depth.
            unsafe {
                for p in (0..grouped).step_by(STEPS_AT_A_TIME) {
                    copy_steps::<P, T, V, STEPS_AT_A_TIME>(arithmetic, mat, p, panels);
                }
                for p in grouped..full {
                    copy_steps::<P, T, V, 1>(arithmetic, mat, p, panels);
                }
            }
            let edge = mat.cols_range(whole..mat.cols());
            // SAFETY: the last panel starts after depth * whole words, and the caller keeps it writable.
            unsafe {
                copy_edge(arithmetic, edge, 0..depth, panels.add(depth * whole), edge.cols().next_multiple_of(lanes))
            };
            for panel in 0..whole / width {
                let columns = mat.cols_range(panel * width..(panel + 1) * width);
                // SAFETY: the panel lies before the last one, so that the caller keeps it writable over its width.
                unsafe { copy_edge(arithmetic, columns, full..depth, panels.add(panel * width * depth), width) };
            }
        },
    );
}

/// Copies steps `p..p + R` of every full panel.
///
/// # Safety
/// `mat` must have all rows of these steps, and the panels must be valid for writes over them.
#[inline(always)]
unsafe fn copy_steps<P: Arithmetic, T: Gathered<P>, const V: usize, const R: usize>(
    arithmetic: P,
    mat: Mat<T>,
    p: usize,
    panels: *mut f32,
) {
    let (depth, width) = (mat.rows().div_ceil(P::STEP), V * P::Isa::LANES);
    for panel in 0..mat.cols() / width {
        for r in p..p + R {
            for v in 0..V {
                let column = panel * width + v * P::Isa::LANES;
                // SAFETY: the vector ends within the rows of step r, and its place within row r of the panel.
                unsafe {
                    let words =
                        T::gather(arithmetic, mat.as_ptr().add(r * P::STEP * mat.stride() + column), mat.stride());
                    arithmetic.store(words, panels.add(panel * width * depth + r * width + v * P::Isa::LANES).cast());
                }
            }
        }
    }
}

/// Copies `steps` of a panel of `width` columns; writes zeros for rows and columns that `mat` lacks.
///
/// # Safety
/// The panel must be valid for writes over these steps.
#[inline(always)]
unsafe fn copy_edge<P: Arithmetic, T: Gathered<P>>(
    arithmetic: P,
    mat: Mat<T>,
    steps: std::ops::Range<usize>,
    panel: *mut f32,
    width: usize,
) {
    for j in (0..mat.cols()).step_by(P::Isa::LANES) {
        let cols = (mat.cols() - j).min(P::Isa::LANES);
        for p in steps.clone() {
            let rows = (mat.rows() - p * P::STEP).min(P::STEP);
            // SAFETY: `mat` has `rows` rows of step p and `cols` columns from j on; j + LANES is at most the width.
            unsafe {
                let at = mat.as_ptr().add(p * P::STEP * mat.stride() + j);
                let words = T::gather_part(arithmetic, at, mat.stride(), rows, cols);
                arithmetic.store(words, panel.add(p * width + j).cast());
            }
        }
    }
}

/// [`RoundTransposeFn`] in portable code.
///
/// # Safety
/// As [`RoundTransposeFn`].
pub(super) unsafe fn round_transpose<P: Arithmetic>(_arithmetic: P, mat: Mat, panel: *mut f32, width: usize) {
    let rounded = |j: usize, p: usize| {
        let x = if j < mat.rows() { mat.row(j).get(p).copied() } else { None };
        u32::from(x.map_or(0, |x| bf16::from_f32(x).to_bits()))
    };
    for p in 0..mat.cols().div_ceil(2) {
        for j in 0..width {
            let word = f32::from_bits(rounded(j, 2 * p) | rounded(j, 2 * p + 1) << 16);
            // SAFETY: p is below the number of pairs of columns and j below the width, so that the caller keeps the word
            // writable.
            unsafe { panel.add(p * width + j).write(word) };
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use smallmind_simd::{Bf16Dot, Scalar};

    use super::super::arithmetic::Bf16Gemm;
    use super::*;

    /// Compares with the definition, at every depth and number of rows that a panel may have.
    pub fn check_transpose<I: Isa>(isa: I, transpose: TransposeFn<I>) {
        const UNTOUCHED: f32 = -7.5e20;
        for depth in 0..40 {
            for rows in 1..=3 * I::LANES {
                // Rows begin anywhere, and what lies between them is no number.
                let (offset, stride) = (rows % 5, depth + depth % 4);
                let element = |i: usize| if i % stride.max(1) < depth { i as f32 + 0.5 } else { f32::NAN };
                let mut source = vec![f32::NAN; offset];
                source.extend((0..rows * stride).map(element));
                let source = Mat::with_stride(&source[offset..], rows, depth, stride);
                let width = rows.next_multiple_of(I::LANES);
                let mut panel = vec![UNTOUCHED; depth * width + 1];
                // SAFETY: the panel holds depth * width elements, and width is a multiple of the lanes.
                unsafe { transpose(isa, WordRows::of(source), panel.as_mut_ptr(), width) };
                let places = (0..depth * width).map(|i| (i / width, i % width));
                let expected = places.map(|(p, j)| if j < rows { source.row(j)[p] } else { 0.0 });
                assert!(panel.into_iter().eq(expected.chain([UNTOUCHED])), "{} [{rows}, {depth}]", I::KIND);
            }
        }
    }

    /// Compares with the definition, at every depth and number of rows that a panel may have.
    pub fn check_round_transpose<D: Bf16Dot>(dot: D, transpose: RoundTransposeFn<Bf16Gemm<D>>) {
        let lanes = D::Isa::LANES;
        for depth in 0..70 {
            for rows in 1..=3 * lanes {
                let (offset, stride) = (rows % 5, depth + depth % 4);
                let element = |i: usize| if i % stride.max(1) < depth { (i as f32 + 0.5).sin() } else { f32::NAN };
                let mut source = vec![f32::NAN; offset];
                source.extend((0..rows * stride).map(element));
                let source = Mat::with_stride(&source[offset..], rows, depth, stride);
                let (width, words) = (rows.next_multiple_of(lanes), depth.div_ceil(2));
                let mut panel = vec![f32::from_bits(7); words * width + 1];
                // SAFETY: the panel holds a row of `width` words for each pair of columns.
                unsafe { transpose(Bf16Gemm(dot), source, panel.as_mut_ptr(), width) };
                let at = |j: usize, p: usize| if j < rows && p < depth { source.row(j)[p] } else { 0.0 };
                let word = |p: usize, j: usize| {
                    let [low, high] = [2 * p, 2 * p + 1].map(|p| u32::from(bf16::from_f32(at(j, p)).to_bits()));
                    low | high << 16
                };
                let expected = (0..words * width).map(|i| word(i / width, i % width)).chain([7]);
                assert!(panel.into_iter().map(f32::to_bits).eq(expected), "{dot:?} [{rows}, {depth}]");
            }
        }
    }

    #[test]
    fn rows_are_transposed() {
        check_transpose(Scalar::new(), transpose);
        check_round_transpose(Scalar::new(), round_transpose);
    }
}
