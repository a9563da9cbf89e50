//! Packing: the elements of a factor, laid out in the order in which the micro-kernels read them.
#![allow(unsafe_code)]

use smallmind_simd::Isa;

use crate::Mat;

/// Packs `op(B)[p, j] = mat[j, p]`, `mat` `[cols, depth]` with `cols` at most `width`, into a panel `[depth, width]` at `panel`, zeros in
/// the columns beyond.
///
/// # Safety
/// `panel` must be writable over `depth * width` elements; `width` is a multiple of the lanes.
pub(super) type TransposeFn<I> = unsafe fn(I, mat: Mat, panel: *mut f32, width: usize);

/// Rows of B that are copied into all panels before the next ones: they share pages and first-level cache.
const ROWS_AT_A_TIME: usize = 4;

/// [`TransposeFn`] in portable code.
///
/// # Safety
/// As [`TransposeFn`].
pub(super) unsafe fn transpose<I: Isa>(_isa: I, mat: Mat, panel: *mut f32, width: usize) {
    // SAFETY: the caller's guarantee, for all rows and columns of the panel.
    unsafe { transpose_part(mat, panel, width, 0) }
}

/// Steps `from..` in depth of a panel, element by element.
///
/// # Safety
/// As [`TransposeFn`].
pub(super) unsafe fn transpose_part(mat: Mat, panel: *mut f32, width: usize, from: usize) {
    const BLOCK: usize = 8;
    let (cols, depth) = (mat.rows(), mat.cols());
    let mut first = from;
    while first < depth {
        let last = (first + BLOCK).min(depth);
        for j in 0..width {
            for p in first..last {
                // SAFETY: p < depth and j < width, within the panel by the caller's guarantee; the element of mat is read only for
                // j < cols, within the matrix.
                unsafe { *panel.add(p * width + j) = if j < cols { *mat.as_ptr().add(j * mat.stride() + p) } else { 0.0 } };
            }
        }
        first = last;
    }
}

/// Packs `mat` `[depth, cols]` into panels `[depth, width]`, the last one only as many whole vectors wide as it needs, zeros in the
/// columns beyond `cols`.
///
/// # Safety
/// `panels` must be writable over `depth * cols` elements, `cols` rounded up to whole vectors; `width` is a multiple of the lanes.
pub(super) unsafe fn pack_b<I: Isa>(isa: I, mat: Mat, panels: *mut f32, width: usize) {
    isa.vectorize(
        #[inline(always)]
        || {
            let (depth, cols) = (mat.rows(), mat.cols());
            for first in (0..depth).step_by(ROWS_AT_A_TIME) {
                for j in (0..cols).step_by(width) {
                    let here = (cols - j).min(width).next_multiple_of(I::LANES);
                    for p in first..(first + ROWS_AT_A_TIME).min(depth) {
                        // SAFETY: panels before this one hold depth * j elements, rows before this one p * here.
                        unsafe { copy(isa, mat.row(p), j, panels.add(j * depth + p * here), here) };
                    }
                }
            }
        },
    );
}

/// Copies `row[from..]` to `dst` up to `width` elements, zeros where the row ends before.
///
/// # Safety
/// `dst` must be writable over `width` elements, a multiple of the lanes; `from` is at most the row's length.
#[inline(always)]
unsafe fn copy<I: Isa>(isa: I, row: &[f32], from: usize, dst: *mut f32, width: usize) {
    for v in (0..width).step_by(I::LANES) {
        let rest = &row[(from + v).min(row.len())..];
        let x = if rest.len() >= I::LANES { isa.load(rest) } else { isa.load_partial(rest) };
        // SAFETY: v + LANES ≤ width.
        unsafe { isa.store_ptr(x, dst.add(v)) };
    }
}
