//! Packing by transposing blocks of 8 × 8 in registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use smallmind_simd::{Avx2, CacheLevel, prefetch};

use super::super::pack::{WORD, WordRows, transpose_part};

/// Rows and columns of a block.
const BLOCK: usize = 8;

/// [`TransposeFn`](super::super::pack::TransposeFn) by blocks in registers.
///
/// # Safety
/// As [`TransposeFn`](super::super::pack::TransposeFn).
pub(in crate::matmul) unsafe fn transpose(_isa: Avx2, rows: WordRows, panel: *mut f32, width: usize) {
    // SAFETY: the token proves that the CPU has AVX2; the caller keeps the rows readable and the panel writable.
    unsafe { transpose_blocks(rows, panel, width) }
}

/// # Safety
/// As [`transpose`].
#[target_feature(enable = "avx2")]
unsafe fn transpose_blocks(all: WordRows, panel: *mut f32, width: usize) {
    let whole = all.bytes / (BLOCK * WORD) * BLOCK;
    for p in (0..whole).step_by(BLOCK) {
        for j in (0..width).step_by(BLOCK) {
            let from = all.start.wrapping_add(j * all.stride + p * WORD);
            let to = panel.wrapping_add(p * width + j);
            let rows = all.rows.saturating_sub(j);
            // SAFETY: from row j and word p on, `rows` rows of a block's words are readable; columns j..j + BLOCK end
            // within the width, a multiple of BLOCK, of the panel, which the caller keeps writable.
            unsafe {
                if rows >= BLOCK {
                    whole_block(from, all.stride, to, width);
                } else {
                    edge_block(rows, from, all.stride, to, width);
                }
            }
        }
    }
    // SAFETY: the caller keeps the rows readable and the panel writable.
    unsafe { transpose_part(all, panel, width, whole) };
}

/// Transposes a block of 8 × 8 words, and prefetches the block at its place in the next panel, `width` rows on.
///
/// # Safety
/// `from` must be valid for reads, `to` for writes, of 8 rows of 8 words, `stride` bytes and `width` words apart.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn whole_block(from: *const u8, stride: usize, to: *mut f32, width: usize) {
    let mut block = [_mm256_setzero_ps(); BLOCK];
    for (i, row) in block.iter_mut().enumerate() {
        // SAFETY: row i of the block, which the caller keeps readable.
        *row = unsafe { _mm256_loadu_ps(from.add(i * stride).cast()) };
        prefetch(from.wrapping_add((i + width) * stride), CacheLevel::Second);
    }
    for (i, column) in transpose_block(block).into_iter().enumerate() {
        // SAFETY: row i of the panel's block, which the caller keeps writable.
        unsafe { _mm256_storeu_ps(to.add(i * width), column) };
    }
}

/// Transposes a block of fewer rows; writes zeros for the missing ones.
///
/// # Safety
/// As [`whole_block`], but `from` for reads of `rows` rows only.
#[target_feature(enable = "avx2")]
unsafe fn edge_block(rows: usize, from: *const u8, stride: usize, to: *mut f32, width: usize) {
    let mut block = [_mm256_setzero_ps(); BLOCK];
    for (i, row) in block.iter_mut().enumerate().take(rows) {
        // SAFETY: row i of the block, which the caller keeps readable.
        *row = unsafe { _mm256_loadu_ps(from.add(i * stride).cast()) };
    }
    for (i, column) in transpose_block(block).into_iter().enumerate() {
        // SAFETY: row i of the panel's block, which the caller keeps writable.
        unsafe { _mm256_storeu_ps(to.add(i * width), column) };
    }
}

/// The transpose of 8 rows of 8 words.
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
