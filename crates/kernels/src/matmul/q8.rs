//! Products with weights in blocks of bytes ([`Format::Q8_0`]): activations are quantized to bytes too, and dot products of bytes have exact sums
//! in `i32`.
//!
//! ```text
//! y[r, j] = Σ over blocks b of 32 elements:  scale_x[r, b] · scale_w[j, b] · Σ_i x[r, 32 b + i] · w[j, 32 b + i]
//!                                            rounded to f32                  bytes, exact
//! ```
//!
//! The blocks of an element are added in rising order, each by one multiply-add, whatever window is computed: few rows get the bits that many
//! would, on any number of threads.
//!
//! **Order of bytes.** The dot product of bytes adds four adjacent ones. Which four elements these are does not matter as long as both factors
//! agree: word `q` of a block holds its elements `q`, `q + 8`, `q + 16` and `q + 24`, so that activations are quantized by whole vectors.
//!
//! **Signs.** It multiplies unsigned by signed bytes. Weights are stored as `w + 128`; the sum begins with `-128 · Σ_i x`, which quantizing
//! computes.
//!
//! A strip of the weight, as many rows as a vector has lanes, is `[blocks, 8, lanes, 4]` bytes and behind them `[blocks, lanes]` scales in `f16`:
//! 34 bytes for 32 elements, as in GGML's blocks. Rows that fill no strip are filled up with zeros.
#![allow(unsafe_code)]

use half::f16;
use smallmind_simd::{Int8Dot, Isa, WithInt8};

use super::nest::base_tile;
use super::tables::Q8_ROWS;
use super::tile::{Tile, write};
use super::{Epilogue, PackedWeight};
use crate::{Format, Mat, MatMut};

/// Elements of a block.
const BLOCK: usize = 32;
/// Words of a block: dot products of four bytes.
const QUADS: usize = BLOCK / 4;
/// What is added to a byte of a weight to make it unsigned.
const SHIFT: i32 = 128;
/// The greatest byte that quantizing gives.
const MOST: f32 = 127.0;

/// Words that a row of `k` quantized activations takes: bytes, then a scale for each block, then what each block's sum begins with.
pub fn quantized_words(k: usize) -> usize {
    k / 4 + 2 * (k / BLOCK)
}

/// Quantizes the rows of `x` `[tokens, k]`: `out` is `[tokens, quantized_words(k)]`. In each block the greatest magnitude becomes 127 or -127,
/// the others are rounded to nearest, ties to even. If an element of a block is not finite, the block's scale is NaN, and so is every product
/// with it.
///
/// # Panics
/// If the shapes disagree or `k` is no multiple of 32.
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

/// Quantizes a block into its words; its scale, and the bits of what its sum begins with.
#[inline(always)]
fn quantize_block<I: Isa>(isa: I, block: &[f32], words: &mut [f32]) -> (f32, f32) {
    const { assert!(I::LANES >= QUADS) };
    // Eight lanes of each quarter: a vector may have more.
    let quarter = |j: usize| isa.load_partial(&block[j * QUADS..(j + 1) * QUADS]);
    let parts = [quarter(0), quarter(1), quarter(2), quarter(3)];
    let (mut most, mut poison) = (isa.zero(), isa.zero());
    for x in parts {
        most = isa.max(isa.abs(x), most);
        // Zero for every finite number, and not a number for the others.
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
    // Exact: a whole number of magnitude at most 32 · 127. Meaningless where the scale is NaN.
    let sum = isa.sum(isa.to_f32(sum)) as i32;
    (scale, f32::from_bits((-SHIFT).wrapping_mul(sum) as u32))
}

/// Words of a strip of `lanes` rows of `k` elements.
pub(super) fn strip_words(lanes: usize, k: usize) -> usize {
    lanes * k / BLOCK * Format::Q8_0.block().bytes / 4
}

/// Quantizes the rows of a weight `[n, k]` as GGML does and writes them as strips.
///
/// # Panics
/// If `words` are not as many as [`super::packed_len`] says or `k` is no multiple of 32.
pub(super) fn pack<I: Isa>(_isa: I, weight: Mat, words: &mut [f32]) {
    let (n, k, lanes) = (weight.rows(), weight.cols(), I::LANES);
    assert!(k.is_multiple_of(BLOCK), "rows of {k} elements are not whole blocks of {BLOCK}");
    assert!(words.len() == n.div_ceil(lanes) * strip_words(lanes, k), "a weight [{n}, {k}] in {} words", words.len());
    if k == 0 {
        return;
    }
    for (s, strip) in words.chunks_exact_mut(strip_words(lanes, k)).enumerate() {
        // SAFETY: `f32` has no bits that bytes could not have, and no byte pattern is invalid for `f32`.
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

/// A block of a weight, quantized as GGML's reference does: the scale is the greatest magnitude over 127, rounded to `f16` only when it is stored,
/// and elements are rounded half away from zero.
pub fn quantize_weight(block: &[f32]) -> (f16, [i8; BLOCK]) {
    let most = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = most / MOST;
    let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    let mut values = [0; BLOCK];
    values.iter_mut().zip(block).for_each(|(value, x)| *value = (x * inverse).round() as i8);
    (f16::from_f32(scale), values)
}

/// A strip's parts.
#[derive(Clone, Copy)]
struct Strip {
    quads: *const u8,
    scales: *const f16,
}

/// Copies column `j` of a packed weight, dequantized, to `out` `[k]`.
pub(super) fn copy_column(words: &[f32], lanes: usize, k: usize, j: usize, out: &mut [f32]) {
    let strip = &words[j / lanes * strip_words(lanes, k)..][..strip_words(lanes, k)];
    let lane = j % lanes;
    // SAFETY: as in `pack`.
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

/// `C = [C +] scale · X · Wᵀ [+ bias] [+ residual]` with `x` `[m, quantized_words(k)]` from [`quantize_rows`] and `w` packed as [`Format::Q8_0`].
///
/// # Panics
/// If the shapes disagree or the weight has another format.
pub fn gemm_q8<I: Isa>(isa: I, x: Mat, w: PackedWeight, c: MatMut, epilogue: Epilogue) {
    let (m, n, k) = (c.rows(), c.cols(), w.rows());
    assert!(w.format() == Format::Q8_0, "a weight in {}", w.format());
    assert!(w.lanes() == I::LANES, "strips of {} columns, vectors of {}", w.lanes(), I::LANES);
    assert!(x.rows() == m, "X has {} rows, C has {m}", x.rows());
    assert!(x.cols() == quantized_words(k), "X has {} words, W has {k} columns", x.cols());
    assert!(w.cols() == n, "W has {} rows, C has {n} columns", w.cols());
    epilogue.check(m, n);
    if m > 0 && n > 0 {
        isa.with_int8(Product { x, w, c, epilogue });
    }
}

/// What [`gemm_q8`] does with a token for the dot products.
struct Product<'a> {
    x: Mat<'a>,
    w: PackedWeight<'a>,
    c: MatMut<'a>,
    epilogue: Epilogue<'a>,
}

impl<I: Isa> WithInt8<I> for Product<'_> {
    type Output = ();

    fn call<D: Int8Dot<Isa = I>>(self, dot: D) {
        let Self { x, w, mut c, epilogue } = self;
        let (m, n, k) = (c.rows(), c.cols(), w.rows());
        let (kernels, width) = (super::tables::q8::<D>(), Q8_STRIPS * I::LANES);
        let words = w.words();
        for start in (0..n).step_by(width) {
            let columns = start..(start + width).min(n);
            let strips = std::array::from_fn(|v| {
                let first = (start / I::LANES + v) * strip_words(I::LANES, k);
                let quads = words.as_ptr().wrapping_add(first).cast::<u8>();
                Strip { quads, scales: quads.wrapping_add(I::LANES * k).cast() }
            });
            let c = c.reborrow().cols_range(columns.clone());
            let epilogue = super::nest::epilogue_of(&epilogue, &(0..m), &columns);
            let base = base_tile::<f32>(&c, &epilogue, 0);
            let vectors = columns.len().div_ceil(I::LANES);
            for first in (0..m).step_by(Q8_ROWS) {
                let rows = first..(first + Q8_ROWS).min(m);
                let factor = Factors { x: x.as_ptr().wrapping_add(first * x.stride()), stride: x.stride(), strips, k };
                let tile = base.at_rows(&rows, std::ptr::null(), 0);
                // SAFETY: the rows and strips of the factors are those of `x` and `w`, whose sizes `gemm_q8` and `PackedWeight` have
                // checked; the tile's pointers are those of matrices cut to these rows and columns.
                unsafe { kernels[rows.len() - 1][vectors - 1](dot, &factor, &tile) };
            }
        }
    }
}

/// Strips that a tile reads side by side.
pub(super) const Q8_STRIPS: usize = 2;

/// What a tile multiplies.
pub(super) struct Factors {
    /// The first row of quantized activations, in words.
    x: *const f32,
    /// Words from row to row.
    stride: usize,
    /// Those of its columns; of fewer columns the last is not read.
    strips: [Strip; Q8_STRIPS],
    /// Depth in elements.
    k: usize,
}

/// A micro-kernel.
///
/// # Safety
/// The rows of activations and the strips must be readable over the depth; the tile's pointers as for [`super::tile::KernelFn`].
pub(super) type Q8KernelFn<D> = unsafe fn(D, &Factors, &Tile<f32>);

/// The micro-kernel of `R` rows and `V` strips.
///
/// # Safety
/// As [`Q8KernelFn`].
pub(super) unsafe fn kernel<D: Int8Dot, const R: usize, const V: usize>(dot: D, factors: &Factors, tile: &Tile<f32>) {
    dot.vectorize(
        #[inline(always)]
        || {
            // SAFETY: the caller's guarantee, handed on.
            unsafe {
                let sums = multiply::<D, R, V>(dot, factors);
                write(dot.isa(), tile, &sums);
            }
        },
    );
}

/// The sums of a tile over all blocks.
///
/// # Safety
/// As [`Q8KernelFn`].
#[inline(always)]
unsafe fn multiply<D: Int8Dot, const R: usize, const V: usize>(dot: D, f: &Factors) -> [[<D::Isa as Isa>::F32; V]; R] {
    let isa = dot.isa();
    let lanes = D::LANES;
    let mut sums = [[isa.zero(); V]; R];
    for b in 0..f.k / BLOCK {
        // SAFETY: block b of each row and strip lies within them, by the caller's guarantee: a row has k bytes, then k / 32 scales, then as many
        // integers; a strip has `lanes` such rows of bytes and of scales.
        unsafe {
            let word = |r: usize, at: usize| f.x.add(r * f.stride + at);
            let mut dots = [[dot.zero(); V]; R];
            for (r, dots) in dots.iter_mut().enumerate() {
                *dots = [isa.splat_i32((*word(r, f.k / 4 + f.k / BLOCK + b)).to_bits() as i32); V];
            }
            for q in b * QUADS..(b + 1) * QUADS {
                let mut w = [dot.splat_quad(0); V];
                for (v, w) in w.iter_mut().enumerate() {
                    *w = dot.load_bytes(f.strips[v].quads.add(q * lanes * 4));
                }
                for (r, dots) in dots.iter_mut().enumerate() {
                    let x = dot.splat_quad_ptr(word(r, q).cast());
                    for (sum, &w) in dots.iter_mut().zip(&w) {
                        *sum = dot.dot(*sum, w, x);
                    }
                }
            }
            for v in 0..V {
                let scales = std::slice::from_raw_parts(f.strips[v].scales.add(b * lanes), lanes);
                let scales = isa.load_f16(scales);
                for r in 0..R {
                    let scale = isa.mul(scales, isa.splat(*word(r, f.k / 4 + b)));
                    sums[r][v] = isa.mul_add(isa.to_f32(dots[r][v]), scale, sums[r][v]);
                }
            }
        }
    }
    sums
}
