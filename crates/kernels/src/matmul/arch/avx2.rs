//! Packing by transposing blocks of 8 × 8 in registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use smallmind_simd::Avx2;

use super::super::pack::transpose_part;
use crate::Mat;

/// Rows and columns of a block.
const BLOCK: usize = 8;

/// [`super::super::pack::TransposeFn`] by blocks in registers.
///
/// # Safety
/// As there.
pub(in crate::matmul) unsafe fn transpose(_isa: Avx2, mat: Mat, panel: *mut f32, width: usize) {
    // SAFETY: the token proves that the CPU has AVX2; the rest is the caller's guarantee.
    unsafe { transpose_blocks(mat, panel, width) }
}

/// # Safety
/// As [`transpose`].
#[target_feature(enable = "avx2")]
unsafe fn transpose_blocks(mat: Mat, panel: *mut f32, width: usize) {
    let (cols, depth) = (mat.rows(), mat.cols());
    let whole = depth - depth % BLOCK;
    for p in (0..whole).step_by(BLOCK) {
        for j in (0..width).step_by(BLOCK) {
            let rows = cols.saturating_sub(j).min(BLOCK);
            let start = mat.as_ptr().wrapping_add(j * mat.stride() + p);
            let mut block = [_mm256_setzero_ps(); BLOCK];
            for (i, row) in block.iter_mut().enumerate().take(rows) {
                // SAFETY: i < rows, so this is row j + i of the matrix; p + BLOCK ≤ depth.
                *row = unsafe { _mm256_loadu_ps(start.add(i * mat.stride())) };
            }
            for (i, column) in transpose_block(block).into_iter().enumerate() {
                // SAFETY: step p + i < depth, columns j..j + BLOCK of at most width, within the panel by the caller's guarantee.
                unsafe { _mm256_storeu_ps(panel.add((p + i) * width + j), column) };
            }
        }
    }
    // SAFETY: the caller's guarantee.
    unsafe { transpose_part(mat, panel, width, whole) };
}

/// The transpose of 8 rows of 8.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose_block(r: [__m256; BLOCK]) -> [__m256; BLOCK] {
    // t[4g + q] holds, in each 128-bit lane l, column 4l + q of rows 4g..4g + 4.
    let mut t = [_mm256_setzero_ps(); BLOCK];
    for g in 0..2 {
        let low = [_mm256_unpacklo_ps(r[4 * g], r[4 * g + 1]), _mm256_unpacklo_ps(r[4 * g + 2], r[4 * g + 3])];
        let high = [_mm256_unpackhi_ps(r[4 * g], r[4 * g + 1]), _mm256_unpackhi_ps(r[4 * g + 2], r[4 * g + 3])];
        t[4 * g] = _mm256_shuffle_ps::<0x44>(low[0], low[1]);
        t[4 * g + 1] = _mm256_shuffle_ps::<0xee>(low[0], low[1]);
        t[4 * g + 2] = _mm256_shuffle_ps::<0x44>(high[0], high[1]);
        t[4 * g + 3] = _mm256_shuffle_ps::<0xee>(high[0], high[1]);
    }
    let mut columns = [_mm256_setzero_ps(); BLOCK];
    for q in 0..4 {
        columns[q] = _mm256_permute2f128_ps::<0x20>(t[q], t[4 + q]);
        columns[4 + q] = _mm256_permute2f128_ps::<0x31>(t[q], t[4 + q]);
    }
    columns
}
