//! Packing by transposing blocks of 16 × 16 in registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use smallmind_simd::{Avx512, Avx512Bf16, CacheLevel, prefetch};

use super::super::arithmetic::Bf16Gemm;
use super::super::pack::{WORD, WordRows};
use crate::Mat;

/// Rows and columns of a block.
const BLOCK: usize = 16;

/// [`TransposeFn`](super::super::pack::TransposeFn) by blocks in registers.
///
/// # Safety
/// As [`TransposeFn`](super::super::pack::TransposeFn).
pub(in crate::matmul) unsafe fn transpose(_isa: Avx512, rows: WordRows, panel: *mut f32, width: usize) {
    // SAFETY: the token proves that the CPU has AVX-512; the caller keeps the rows readable and the panel writable.
    unsafe { transpose_blocks(rows, panel, width) }
}

/// # Safety
/// As [`transpose`].
#[target_feature(enable = "avx512f")]
unsafe fn transpose_blocks(all: WordRows, panel: *mut f32, width: usize) {
    for p in (0..all.depth()).step_by(BLOCK) {
        for j in (0..width).step_by(BLOCK) {
            let from = all.start.wrapping_add(j * all.stride + p * WORD);
            let to = panel.wrapping_add(p * width + j);
            let (rows, bytes) = (all.rows.saturating_sub(j), all.bytes - p * WORD);
            // SAFETY: from row j and word p on, `rows` rows of `bytes` bytes are readable; columns j..j + BLOCK end
            // within the width, a multiple of BLOCK, of the panel, which the caller keeps writable.
            unsafe {
                if rows >= BLOCK && bytes >= BLOCK * WORD {
                    whole_block(from, all.stride, to, width);
                } else {
                    edge_block([rows.min(BLOCK), bytes.min(BLOCK * WORD)], from, all.stride, to, width);
                }
            }
        }
    }
}

/// Transposes a block of 16 × 16 words, and prefetches the block at its place in the next panel, `width` rows on.
///
/// # Safety
/// `from` must be valid for reads, `to` for writes, of 16 rows of 16 words, `stride` bytes and `width` words apart.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn whole_block(from: *const u8, stride: usize, to: *mut f32, width: usize) {
    let mut block = [_mm512_setzero_ps(); BLOCK];
    for (i, row) in block.iter_mut().enumerate() {
        // SAFETY: row i of the block, which the caller keeps readable.
        *row = unsafe { _mm512_loadu_ps(from.add(i * stride).cast()) };
        prefetch(from.wrapping_add((i + width) * stride), CacheLevel::Second);
    }
    for (i, &column) in transpose_block(block).iter().enumerate() {
        // SAFETY: row i of the panel's block, which the caller keeps writable.
        unsafe { _mm512_storeu_ps(to.add(i * width), column) };
    }
}

/// Transposes a block of fewer rows or words; writes zeros for missing rows and for the bytes that the last word lacks.
///
/// # Safety
/// `from` must be valid for reads of `rows` rows of `bytes` bytes, `to` for writes of a row of 16 words for each word
/// of these bytes. `bytes` must be even, at least 2 and at most 64.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn edge_block([rows, bytes]: [usize; 2], from: *const u8, stride: usize, to: *mut f32, width: usize) {
    debug_assert!(bytes.is_multiple_of(2) && (2..=BLOCK * WORD).contains(&bytes), "{bytes} bytes");
    let mask = u32::MAX >> (32 - bytes / 2);
    let mut block = [_mm512_setzero_ps(); BLOCK];
    for (i, row) in block.iter_mut().enumerate().take(rows) {
        // SAFETY: i < rows; the caller keeps `bytes` bytes of each row readable, and the mask leaves out the others.
        *row = _mm512_castsi512_ps(unsafe { _mm512_maskz_loadu_epi16(mask, from.add(i * stride).cast()) });
    }
    for (i, &column) in transpose_block(block).iter().enumerate().take(bytes.div_ceil(WORD)) {
        // SAFETY: row i of the panel's block, which the caller keeps writable.
        unsafe { _mm512_storeu_ps(to.add(i * width), column) };
    }
}

/// [`RoundTransposeFn`](super::super::pack::RoundTransposeFn) by blocks in registers.
///
/// # Safety
/// As [`RoundTransposeFn`](super::super::pack::RoundTransposeFn).
pub(in crate::matmul) unsafe fn round_transpose(_: Bf16Gemm<Avx512Bf16>, mat: Mat, panel: *mut f32, width: usize) {
    // SAFETY: the token proves that the CPU has AVX-512 with BF16; the caller keeps the panel writable.
    unsafe { round_transpose_blocks(mat, panel, width) }
}

/// # Safety
/// As [`round_transpose`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn round_transpose_blocks(mat: Mat, panel: *mut f32, width: usize) {
    for p in (0..mat.cols()).step_by(2 * BLOCK) {
        for j in (0..width).step_by(BLOCK) {
            let from = mat.as_ptr().wrapping_add(j * mat.stride() + p);
            let (rows, cols) = (mat.rows().saturating_sub(j).min(BLOCK), (mat.cols() - p).min(2 * BLOCK));
            // Bit i: whether element i of a row is one of the matrix.
            let mask = u32::MAX >> (32 - cols);
            let mut block = [_mm512_setzero_ps(); BLOCK];
            for (i, row) in block.iter_mut().enumerate().take(rows) {
                let at = from.wrapping_add(i * mat.stride());
                prefetch(from.wrapping_add((i + width) * mat.stride()), CacheLevel::Second);
                // SAFETY: the row is one of the matrix, which is borrowed, and the mask leaves out what lies behind it.
                let [low, high] = unsafe {
                    [
                        _mm512_maskz_loadu_ps(mask as u16, at),
                        _mm512_maskz_loadu_ps((mask >> BLOCK) as u16, at.wrapping_add(BLOCK)),
                    ]
                };
                // SAFETY: both are 512 bits without invalid patterns.
                *row = unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)) };
            }
            let to = panel.wrapping_add(p / 2 * width + j);
            for (i, &column) in transpose_block(block).iter().enumerate().take(cols.div_ceil(2)) {
                // SAFETY: columns j..j + BLOCK end within the width, a multiple of BLOCK, of a row of the panel for a pair
                // of columns, which the caller keeps writable.
                unsafe { _mm512_storeu_ps(to.add(i * width), column) };
            }
        }
    }
}

/// The transpose of 16 rows of 16 words in four rounds. Each round exchanges halves of blocks, which double in size
/// from round to round.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose_block(r: [__m512; BLOCK]) -> [__m512; BLOCK] {
    // t[4g + q] holds, in each 128-bit lane l, column 4l + q of rows 4g..4g + 4.
    let mut t = [_mm512_setzero_ps(); BLOCK];
    for g in 0..4 {
        let low = [_mm512_unpacklo_ps(r[4 * g], r[4 * g + 1]), _mm512_unpacklo_ps(r[4 * g + 2], r[4 * g + 3])];
        let high = [_mm512_unpackhi_ps(r[4 * g], r[4 * g + 1]), _mm512_unpackhi_ps(r[4 * g + 2], r[4 * g + 3])];
        t[4 * g] = _mm512_shuffle_ps::<0x44>(low[0], low[1]);
        t[4 * g + 1] = _mm512_shuffle_ps::<0xee>(low[0], low[1]);
        t[4 * g + 2] = _mm512_shuffle_ps::<0x44>(high[0], high[1]);
        t[4 * g + 3] = _mm512_shuffle_ps::<0xee>(high[0], high[1]);
    }
    // A transpose of 4 × 4 lanes of 128 bits for each q.
    let mut columns = [_mm512_setzero_ps(); BLOCK];
    for q in 0..4 {
        let even = [_mm512_shuffle_f32x4::<0x88>(t[q], t[4 + q]), _mm512_shuffle_f32x4::<0x88>(t[8 + q], t[12 + q])];
        let odd = [_mm512_shuffle_f32x4::<0xdd>(t[q], t[4 + q]), _mm512_shuffle_f32x4::<0xdd>(t[8 + q], t[12 + q])];
        columns[q] = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
        columns[8 + q] = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
        columns[4 + q] = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
        columns[12 + q] = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
    }
    columns
}
