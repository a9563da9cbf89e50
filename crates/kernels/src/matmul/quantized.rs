//! Rows of activations in bytes: the left factor of products with weights in blocks.
//!
//! ```text
//! a row of k elements, in words of 4 bytes:
//!   [k / 32][32] i8      the bytes
//!   [k / 32] f32         the scale of each group of 32 elements
//!   [k / 32] i32         the sum of the bytes of each group
//!   [k / 32][2] i32      the sums of both halves of each group
//! ```
//!
//! An element is about `scale · byte`. Scales have the significant bits of an `f16`, as in GGML's `Q8_0`: products with
//! formats that GGML multiplies with `Q8_0` differ from GGML's by the order of sums only. Weights are multiplied as
//! unsigned bytes, which are greater than the numbers that they stand for by a constant; the sums of activations take
//! that back. So they do for the minima of weights.
#![allow(unsafe_code)]

use smallmind_simd::Isa;

use crate::blocks::strip::GROUP;
use crate::compiled::compiled;
use crate::{Mat, MatMut};

/// The greatest magnitude of a quantized element.
pub(super) const MOST_ACTIVATION: usize = 127;
const MOST: f32 = MOST_ACTIVATION as f32;

/// Where the parts of a row of quantized elements begin, in words. The bytes are first.
#[derive(Clone, Copy)]
pub(super) struct RowLayout {
    /// The scales.
    pub scales: usize,
    /// The sums of groups.
    pub sums: usize,
    /// The sums of the halves of groups.
    pub half_sums: usize,
}

impl RowLayout {
    /// The parts of a row of `k` elements.
    #[inline(always)]
    pub const fn of(k: usize) -> Self {
        let (scales, groups) = (k / 4, k / GROUP);
        Self { scales, sums: scales + groups, half_sums: scales + 2 * groups }
    }
}

/// Words of a row of `k` quantized elements.
pub fn quantized_words(k: usize) -> usize {
    RowLayout::of(k).half_sums + 2 * (k / GROUP)
}

/// Quantizes the rows of `x` `[tokens, k]` into `out` `[tokens, quantized_words(k)]`, the left factor of products with
/// weights in blocks.
///
/// In each group of 32 elements the greatest magnitude becomes 127 or -127, the other elements are rounded to nearest,
/// ties to even; then the scale is rounded to 11 significant bits. If an element of a group is not finite, the group's
/// scale is NaN, and so is every product with it.
///
/// # Panics
/// If the shapes disagree or `k` is not a multiple of 32.
pub fn quantize_rows<I: Isa>(isa: I, x: Mat, out: MatMut) {
    fn body<I: Isa>(isa: I, x: Mat, mut out: MatMut) {
        let (tokens, k) = (x.rows(), x.cols());
        assert!(k.is_multiple_of(GROUP), "rows of {k} elements are not whole groups of {GROUP}");
        assert_eq!((out.rows(), out.cols()), (tokens, quantized_words(k)), "quantized rows of [{tokens}, {k}]");
        isa.vectorize(
            #[inline(always)]
            || {
                for r in 0..tokens {
                    let (words, rest) = out.row_mut(r).split_at_mut(k / 4);
                    let (scales, rest) = rest.split_at_mut(k / GROUP);
                    let (sums, half_sums) = rest.split_at_mut(k / GROUP);
                    // SAFETY: the bytes are those of the borrowed words, and every pattern of bytes is valid for both
                    // types.
                    let bytes = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<i8>(), k) };
                    let groups = x.row(r).as_chunks::<GROUP>().0.iter().zip(bytes.as_chunks_mut::<GROUP>().0);
                    let of_groups = scales.iter_mut().zip(sums).zip(half_sums.as_chunks_mut::<2>().0);
                    for ((group, bytes), ((scale, sum), halves)) in groups.zip(of_groups) {
                        let (of_group, of_halves) = quantize_group(isa, group, bytes);
                        *scale = of_group;
                        *sum = f32::from_bits(of_halves[0].wrapping_add(of_halves[1]) as u32);
                        *halves = of_halves.map(|sum| f32::from_bits(sum as u32));
                    }
                }
            },
        );
    }
    compiled!(isa: I, body(x: Mat, out: MatMut));
}

/// Quantizes a group into bytes; returns its scale and the sums of both halves, which do not matter if the scale is
/// NaN.
#[inline(always)]
fn quantize_group<I: Isa>(isa: I, group: &[f32; GROUP], bytes: &mut [i8; GROUP]) -> (f32, [i32; 2]) {
    const { assert!((GROUP / 2).is_multiple_of(I::LANES)) };
    let (mut most, mut poison) = (isa.zero(), isa.zero());
    for x in group.chunks_exact(I::LANES) {
        let x = isa.load(x);
        most = isa.max(isa.abs(x), most);
        // Adds 0 for every finite number, NaN for the others.
        poison = isa.mul_add(x, isa.zero(), poison);
    }
    let (most, poison) = (isa.max_lane(most), isa.sum(poison));
    let exact = most / MOST + poison;
    let inverse = isa.splat(if exact >= f32::MIN_POSITIVE { MOST / most } else { 0.0 });
    let mut sums = [0; 2];
    let halves = group.chunks_exact(GROUP / 2).zip(bytes.chunks_exact_mut(GROUP / 2));
    for ((x, bytes), sum) in halves.zip(&mut sums) {
        let mut of_lanes = isa.splat_i32(0);
        for (x, bytes) in x.chunks_exact(I::LANES).zip(bytes.chunks_exact_mut(I::LANES)) {
            let byte = isa.to_i32(isa.mul(isa.load(x), inverse));
            of_lanes = isa.add_i32(of_lanes, byte);
            isa.store_i8(byte, bytes);
        }
        // Exact: a whole number of magnitude at most 16 · 127.
        *sum = isa.sum(isa.to_f32(of_lanes)) as i32;
    }
    (with_f16_bits(most / MOST) + poison, sums)
}

/// The nearest number with the 11 significant bits of an `f16`, ties to even, whatever its magnitude. `x` is not NaN.
#[inline(always)]
fn with_f16_bits(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
}
