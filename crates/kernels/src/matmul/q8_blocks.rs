//! Weights in blocks of bytes ([`Format::Q8_0`]) and activations quantized to bytes: how both are stored. Their
//! products are in `q8`.
//!
//! ```text
//! a quantized row of k elements:   [k / 32][8] words of 4 bytes, then k / 32 scales (f32),
//!                                  then k / 32 sums that products begin with (i32)
//! a strip of LANES rows:           [k / 32][8][LANES][4] bytes, then [k / 32][LANES] scales (f16)
//! ```
//!
//! A strip takes 34 bytes for 32 elements, like GGML's blocks. Rows that pad the last strip are zeros.
//!
//! **Order of bytes.** The dot product of bytes adds up four adjacent products. Which four elements these are does not
//! matter as long as both factors agree. Word `q` of a block holds its elements `q`, `q + 8`, `q + 16` and `q + 24`, so
//! that activations can be quantized by whole vectors.
//!
//! **Signs.** The dot product multiplies unsigned by signed bytes. Weights are stored as `w + 128`; the sum begins with
//! `-128 · Σ_i x`, which quantizing computes.
#![allow(unsafe_code)]

use half::f16;
use smallmind_simd::Isa;

use crate::{Format, Mat, MatMut};

/// Elements of a block.
pub(super) const BLOCK: usize = Format::Q8_0.block().elements;
/// Words of a block: each holds the four bytes of a dot product.
pub(super) const QUADS: usize = BLOCK / 4;
/// Added to a byte of a weight to make it unsigned.
const SHIFT: i32 = 128;
/// The largest magnitude of a quantized element.
const MOST: f32 = 127.0;

/// Words of a row of `k` quantized elements: its bytes, then a scale for each block, then for each block the number
/// with which its sum begins.
pub fn quantized_words(k: usize) -> usize {
    k / 4 + 2 * (k / BLOCK)
}

/// Quantizes the rows of `x` `[tokens, k]` into `out` `[tokens, quantized_words(k)]`, the left factor of products with
/// [`Format::Q8_0`].
///
/// In each block the greatest magnitude becomes 127 or -127, the other elements are rounded to nearest, ties to even.
/// If an element of a block is not finite, the block's scale is NaN, and so is every product with it.
///
/// # Panics
/// If the shapes disagree or `k` is not a multiple of 32.
pub fn quantize_rows<I: Isa>(isa: I, x: Mat, mut out: MatMut) {
    let (tokens, k) = (x.rows(), x.cols());
    assert!(k.is_multiple_of(BLOCK), "rows of {k} elements are not whole blocks of {BLOCK}");
    assert_eq!((out.rows(), out.cols()), (tokens, quantized_words(k)), "quantized rows of [{tokens}, {k}]");
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..tokens {
                let (bytes, rest) = out.row_mut(r).split_at_mut(k / 4);
                let (scales, starts) = rest.split_at_mut(k / BLOCK);
                let blocks = x.row(r).chunks_exact(BLOCK).zip(bytes.chunks_exact_mut(QUADS));
                for ((block, words), (scale, start)) in blocks.zip(scales.iter_mut().zip(starts)) {
                    (*scale, *start) = quantize_block(isa, block, words);
                }
            }
        },
    );
}

/// Quantizes a block into its words; returns its scale and the bits of the number with which its sum begins.
#[inline(always)]
fn quantize_block<I: Isa>(isa: I, block: &[f32], words: &mut [f32]) -> (f32, f32) {
    const { assert!(I::LANES >= QUADS) };
    // Eight elements of each quarter; lanes beyond are zero.
    let quarter = |j: usize| isa.load_partial(&block[j * QUADS..(j + 1) * QUADS]);
    let parts = [quarter(0), quarter(1), quarter(2), quarter(3)];
    let (mut most, mut poison) = (isa.zero(), isa.zero());
    for x in parts {
        most = isa.max(isa.abs(x), most);
        // Adds 0 for every finite number, NaN for the others.
        poison = isa.mul_add(x, isa.zero(), poison);
    }
    let scale = isa.max_lane(most) / MOST + isa.sum(poison);
    let inverse = isa.splat(if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 });
    let (mut word, mut sum) = (isa.splat_i32(0), isa.splat_i32(0));
    let low = isa.splat_i32(0xff);
    for x in parts.into_iter().rev() {
        let byte = isa.to_i32(isa.mul(x, inverse));
        sum = isa.add_i32(sum, byte);
        word = isa.or_i32(isa.shl_i32::<8>(word), isa.and_i32(byte, low));
    }
    isa.store_partial(isa.from_bits(word), words);
    // Exact: a whole number of magnitude at most 32 · 127. If the scale is NaN, this number does not matter.
    let sum = isa.sum(isa.to_f32(sum)) as i32;
    (scale, f32::from_bits((-SHIFT).wrapping_mul(sum) as u32))
}

/// Words of a strip of `lanes` rows of `k` elements.
pub(super) fn strip_words(lanes: usize, k: usize) -> usize {
    lanes * k / BLOCK * Format::Q8_0.block().bytes / 4
}

/// Quantizes the rows of a weight `[n, k]` ([`quantize_weight`]) and writes them as strips.
///
/// # Panics
/// If `words` has another length than [`super::packed_len`], or `k` is not a multiple of 32.
pub(super) fn pack<I: Isa>(_isa: I, weight: Mat, words: &mut [f32]) {
    let (n, k, lanes) = (weight.rows(), weight.cols(), I::LANES);
    assert!(k.is_multiple_of(BLOCK), "rows of {k} elements are not whole blocks of {BLOCK}");
    assert!(words.len() == n.div_ceil(lanes) * strip_words(lanes, k), "a weight [{n}, {k}] in {} words", words.len());
    if k == 0 {
        return;
    }
    for (s, strip) in words.chunks_exact_mut(strip_words(lanes, k)).enumerate() {
        // SAFETY: the bytes are those of the borrowed words, and every pattern of bytes is valid for both types.
        let bytes = unsafe { std::slice::from_raw_parts_mut(strip.as_mut_ptr().cast::<u8>(), strip.len() * 4) };
        let (quads, scales) = bytes.split_at_mut(lanes * k);
        for b in 0..k / BLOCK {
            for lane in 0..lanes {
                let row = s * lanes + lane;
                let block = if row < n { &weight.row(row)[b * BLOCK..(b + 1) * BLOCK] } else { &[0.0; BLOCK] };
                let (scale, values) = quantize_weight(block);
                scales[2 * (b * lanes + lane)..][..2].copy_from_slice(&scale.to_ne_bytes());
                for (i, value) in values.into_iter().enumerate() {
                    let (q, j) = (i % QUADS, i / QUADS);
                    quads[((b * QUADS + q) * lanes + lane) * 4 + j] = (i32::from(value) + SHIFT) as u8;
                }
            }
        }
    }
}

/// Quantizes a block of a weight as GGML's reference does: the scale is the greatest magnitude divided by 127, rounded
/// to `f16` only when it is stored; elements are rounded to nearest, half away from zero.
pub fn quantize_weight(block: &[f32]) -> (f16, [i8; BLOCK]) {
    let most = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = most / MOST;
    let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    let mut values = [0; BLOCK];
    values.iter_mut().zip(block).for_each(|(value, x)| *value = (x * inverse).round() as i8);
    (f16::from_f32(scale), values)
}

/// Copies column `j` of a packed weight, dequantized, to `out` `[k]`.
pub(super) fn copy_column(words: &[f32], lanes: usize, k: usize, j: usize, out: &mut [f32]) {
    let strip = &words[j / lanes * strip_words(lanes, k)..][..strip_words(lanes, k)];
    let lane = j % lanes;
    // SAFETY: the bytes are those of the borrowed words, and every pattern of bytes is valid for `u8`.
    let bytes = unsafe { std::slice::from_raw_parts(strip.as_ptr().cast::<u8>(), strip.len() * 4) };
    let (quads, scales) = bytes.split_at(lanes * k);
    for (b, block) in out.chunks_exact_mut(BLOCK).enumerate() {
        let at = 2 * (b * lanes + lane);
        let scale = f16::from_ne_bytes([scales[at], scales[at + 1]]).to_f32();
        for (i, x) in block.iter_mut().enumerate() {
            let byte = quads[((b * QUADS + i % QUADS) * lanes + lane) * 4 + i / QUADS];
            *x = scale * (i32::from(byte) - SHIFT) as f32;
        }
    }
}
