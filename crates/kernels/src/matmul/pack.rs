//! Packing: the elements of a factor, laid out in the order in which the micro-kernels read them.
#![allow(unsafe_code)]

use smallmind_simd::Isa;

use crate::Mat;

/// Packs `op(B)` `[depth, cols]`, `cols` at most `width`, into a panel `[depth, width]`; zeros in the columns beyond.
///
/// # Safety
/// `panel` must be writable over `depth * width` elements; `width` is `cols` rounded up to whole vectors.
pub(super) type PackFn<I> = unsafe fn(I, mat: Mat, panel: *mut f32, width: usize);

/// [`PackFn`] in portable code.
///
/// # Safety
/// As [`PackFn`].
pub(super) unsafe fn transpose<I: Isa>(_isa: I, mat: Mat, panel: *mut f32, width: usize) {
    // SAFETY: the caller's guarantee, for all rows and columns of the panel.
    unsafe { transpose_part(mat, panel, width, 0) }
}

/// Steps `from..` in depth of a panel, element by element.
///
/// # Safety
/// As [`PackFn`].
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

/// Packs `mat` `[depth, cols]`, `cols` at most `width`, into a panel `[depth, width]`; zeros in the columns beyond.
///
/// # Safety
/// `panel` must be writable over `depth * width` elements; `width` is `cols` rounded up to whole vectors.
pub(super) unsafe fn copy<I: Isa>(isa: I, mat: Mat, panel: *mut f32, width: usize) {
    isa.vectorize(
        #[inline(always)]
        || {
            let (depth, cols) = (mat.rows(), mat.cols());
            for j in (0..cols).step_by(I::LANES) {
                let rest = cols - j;
                for p in 0..depth {
                    // SAFETY: row p of the matrix from column j < cols on, row p of the panel from j on, with room for a vector.
                    unsafe {
                        let (src, dst) = (mat.as_ptr().add(p * mat.stride() + j), panel.add(p * width + j));
                        let x = if rest >= I::LANES { isa.load_ptr(src) } else { isa.load_partial(std::slice::from_raw_parts(src, rest)) };
                        isa.store_ptr(x, dst);
                    }
                }
            }
        },
    );
}
