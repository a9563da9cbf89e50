//! Packing: the elements of a factor, laid out in the order in which the micro-kernels read them.
#![allow(unsafe_code)]

use smallmind_simd::Isa;

use crate::Mat;

/// Packs `op(B)` `[depth, cols]`, `cols` at most `width`, into a panel `[depth, width]`; zeros in the columns beyond.
///
/// # Safety
/// `panel` must be writable over `depth * width` elements; `width` is `cols` rounded up to whole vectors.
pub(super) type TransposeFn<I> = unsafe fn(I, mat: Mat, panel: *mut f32, width: usize);

/// Packs `op(B) = mat` `[depth, cols]` into panels of as many whole vectors as a tile is wide, one behind another; zeros in the columns
/// beyond.
///
/// # Safety
/// `panels` must be writable over `depth * cols` elements, `cols` rounded up to whole vectors.
pub(super) type CopyFn<I> = unsafe fn(I, mat: Mat, panels: *mut f32);

/// Rows that are copied into all panels before the next ones: reads run along rows, writes still fill several lines in a go.
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
                unsafe {
                    *panel.add(p * width + j) = if j < cols { *mat.as_ptr().add(j * mat.stride() + p) } else { 0.0 }
                };
            }
        }
        first = last;
    }
}

/// [`CopyFn`] into panels of `V` vectors.
///
/// # Safety
/// As [`CopyFn`].
pub(super) unsafe fn copy<I: Isa, const V: usize>(isa: I, mat: Mat, panels: *mut f32) {
    isa.vectorize(
        #[inline(always)]
        || {
            let (depth, width) = (mat.rows(), V * I::LANES);
            let whole = mat.cols() - mat.cols() % width;
            let grouped = depth - depth % ROWS_AT_A_TIME;
            // SAFETY: the rows of the matrix are readable and panels up to `whole` columns writable, in steps below the depth.
            unsafe {
                for p in (0..grouped).step_by(ROWS_AT_A_TIME) {
                    copy_steps::<I, V, ROWS_AT_A_TIME>(isa, mat, p, panels);
                }
                for p in grouped..depth {
                    copy_steps::<I, V, 1>(isa, mat, p, panels);
                }
            }
            let rest = mat.cols_range(whole..mat.cols());
            let width = rest.cols().next_multiple_of(I::LANES);
            for j in (0..rest.cols()).step_by(I::LANES) {
                let len = (rest.cols() - j).min(I::LANES);
                for p in 0..depth {
                    // SAFETY: `len` elements of row p from column j on; the last panel starts behind depth * whole elements, and
                    // j + LANES is at most its width.
                    unsafe {
                        let row = std::slice::from_raw_parts(rest.as_ptr().add(p * rest.stride() + j), len);
                        isa.store_ptr(isa.load_partial(row), panels.add(depth * whole + p * width + j));
                    }
                }
            }
        },
    );
}

/// Steps `p..p + R` in depth of every full panel.
///
/// # Safety
/// These must be rows of `mat`, and the panels writable there.
#[inline(always)]
unsafe fn copy_steps<I: Isa, const V: usize, const R: usize>(isa: I, mat: Mat, p: usize, panels: *mut f32) {
    let width = V * I::LANES;
    for panel in 0..mat.cols() / width {
        for r in p..p + R {
            for v in 0..V {
                // SAFETY: column panel * width + v * LANES of row r, with a whole vector before the end of the row; the same place of
                // the panel.
                unsafe {
                    let x = isa.load_ptr(mat.as_ptr().add(r * mat.stride() + panel * width + v * I::LANES));
                    isa.store_ptr(x, panels.add(panel * width * mat.rows() + r * width + v * I::LANES));
                }
            }
        }
    }
}
