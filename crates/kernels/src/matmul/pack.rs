//! Packing: the words of a factor, laid out in the order in which the micro-kernels read them.
#![allow(unsafe_code)]

use smallmind_simd::Isa;

use super::arithmetic::Arithmetic;
use crate::Mat;

/// Bytes of a word.
pub(super) const WORD: usize = 4;

/// The rows of a matrix as words: those of a factor whose rows run along the depth.
#[derive(Clone, Copy)]
pub(super) struct WordRows {
    /// The first word, at any address.
    pub start: *const u8,
    /// How many rows.
    pub rows: usize,
    /// Bytes from row to row.
    pub stride: usize,
    /// Bytes of a row: a multiple of the element's size, of which the last word may lack one.
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

    /// Word `p` of row `j`, its missing bytes zero.
    ///
    /// # Safety
    /// It must be a word of the rows, and these readable.
    unsafe fn word(&self, j: usize, p: usize) -> f32 {
        let len = (self.bytes - p * WORD).min(WORD);
        let mut bytes = [0; WORD];
        // SAFETY: `len` bytes of row j from word p on, within the row.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(j * self.stride + p * WORD), bytes.as_mut_ptr(), len) };
        f32::from_ne_bytes(bytes)
    }
}

/// Packs rows of words into a panel `[depth, width]`, `width` being their number rounded up to whole vectors; zeros in the columns beyond.
///
/// # Safety
/// The rows must be readable, and `panel` writable over `depth * width` words.
pub(super) type TransposeFn<I> = unsafe fn(I, rows: WordRows, panel: *mut f32, width: usize);

/// Packs `mat` `[depth in elements, cols]` into panels of as many whole vectors as asked for, one behind another; zeros in the columns beyond.
///
/// # Safety
/// `panels` must be writable over the depth in words times `cols` rounded up to whole vectors.
pub(super) type CopyFn<P> = unsafe fn(P, mat: Mat<<P as Arithmetic>::Element>, panels: *mut f32);

/// Steps that are copied into all panels before the next ones: reads run along rows, writes still fill several lines in a go.
const STEPS_AT_A_TIME: usize = 4;

/// [`TransposeFn`] in portable code.
///
/// # Safety
/// As [`TransposeFn`].
pub(super) unsafe fn transpose<I: Isa>(_isa: I, rows: WordRows, panel: *mut f32, width: usize) {
    // SAFETY: the caller's guarantee, for all rows and columns of the panel.
    unsafe { transpose_part(rows, panel, width, 0) }
}

/// Words `from..` in depth of a panel, word by word.
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
                // SAFETY: p < depth and j < width, within the panel by the caller's guarantee; words are read of rows there are.
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
pub(super) unsafe fn copy<P: Arithmetic, const V: usize>(arithmetic: P, mat: Mat<P::Element>, panels: *mut f32) {
    arithmetic.vectorize(
        #[inline(always)]
        || {
            let lanes = P::Isa::LANES;
            let (depth, width) = (mat.rows().div_ceil(P::STEP), V * lanes);
            let whole = mat.cols() - mat.cols() % width;
            // The last step may lack a row.
            let full = mat.rows() / P::STEP;
            let grouped = full - full % STEPS_AT_A_TIME;
            // SAFETY: the rows of the matrix are readable and panels up to `whole` columns writable, in steps below the depth.
            unsafe {
                for p in (0..grouped).step_by(STEPS_AT_A_TIME) {
                    copy_steps::<P, V, STEPS_AT_A_TIME>(arithmetic, mat, p, panels);
                }
                for p in grouped..full {
                    copy_steps::<P, V, 1>(arithmetic, mat, p, panels);
                }
            }
            let edge = mat.cols_range(whole..mat.cols());
            // SAFETY: the last panel starts behind depth * whole words.
            unsafe {
                copy_edge(arithmetic, edge, 0..depth, panels.add(depth * whole), edge.cols().next_multiple_of(lanes))
            };
            for panel in 0..whole / width {
                let columns = mat.cols_range(panel * width..(panel + 1) * width);
                // SAFETY: a whole panel.
                unsafe { copy_edge(arithmetic, columns, full..depth, panels.add(panel * width * depth), width) };
            }
        },
    );
}

/// Steps `p..p + R` in depth of every full panel; each has all its rows.
///
/// # Safety
/// These must be rows of `mat`, and the panels writable there.
#[inline(always)]
unsafe fn copy_steps<P: Arithmetic, const V: usize, const R: usize>(
    arithmetic: P,
    mat: Mat<P::Element>,
    p: usize,
    panels: *mut f32,
) {
    let (depth, width) = (mat.rows().div_ceil(P::STEP), V * P::Isa::LANES);
    for panel in 0..mat.cols() / width {
        for r in p..p + R {
            for v in 0..V {
                let column = panel * width + v * P::Isa::LANES;
                // SAFETY: a whole vector of columns before the end of the rows of step r; the same place of the panel.
                unsafe {
                    let words = arithmetic.gather(mat.as_ptr().add(r * P::STEP * mat.stride() + column), mat.stride());
                    arithmetic.store(words, panels.add(panel * width * depth + r * width + v * P::Isa::LANES).cast());
                }
            }
        }
    }
}

/// The given steps of a panel of `width`, whose rows and columns may end before it does.
///
/// # Safety
/// The panel must be writable over these steps.
#[inline(always)]
unsafe fn copy_edge<P: Arithmetic>(
    arithmetic: P,
    mat: Mat<P::Element>,
    steps: std::ops::Range<usize>,
    panel: *mut f32,
    width: usize,
) {
    for j in (0..mat.cols()).step_by(P::Isa::LANES) {
        let cols = (mat.cols() - j).min(P::Isa::LANES);
        for p in steps.clone() {
            let rows = (mat.rows() - p * P::STEP).min(P::STEP);
            // SAFETY: `rows` rows of step p and `cols` columns from j on are there; j + LANES is at most the width.
            unsafe {
                let at = mat.as_ptr().add(p * P::STEP * mat.stride() + j);
                let words = arithmetic.gather_part(at, mat.stride(), rows, cols);
                arithmetic.store(words, panel.add(p * width + j).cast());
            }
        }
    }
}
