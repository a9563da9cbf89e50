//! `Q3_K`: 256 codes of 3 bits; a scale of 6 bits for every 16.
//!
//! ```text
//! byte  0 .. 32   bit k of byte b is bit 2 of the code of element 32k + b
//!      32 .. 96   two halves of 128 elements, 32 bytes each: bits 2k + 1 .. 2k of byte b hold bits
//!                 1 .. 0 of the code of element 32k + b of the half
//!      96 .. 104  bits 3 .. 0 of scale ⱼ in bits 3 .. 0 of byte j, of scale ⱼ₊₈ in bits 7 .. 4
//!     104 .. 108  bits 5 .. 4 of scale ⱼ in bits 2(j / 4) + 1 .. 2(j / 4) of byte j mod 4
//!     108 .. 110  d   f16
//!
//! xᵢ = (d · (scaleⱼ − 32)) · (codeᵢ − 4)        j = i / 16
//! ```
//!
//! Packed by the search of `symmetric`. Weights of the squared errors are `x²`, or with importance
//! `importance · √(σ² + x²)`, σ² being twice the super-block's mean square; both are GGML's.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::bits::{Fields, FieldsMut, join, split, widen};
use super::search::{Integers, Scaled, inverse, rms, weights};
use super::strip::{Parts, Strip, no_drop, three_bits};
use super::symmetric::{Scales, Storage, search};
use super::{Block, Format, Importance, Layout, SUPER_BLOCK};

const BLOCK: Block = Format::Q3K.block();

const SUBS: usize = 16;
const INTEGERS: Integers = Integers { low: -4.0, high: 3.0 };
const STORAGE: Storage = Storage { steps: Integers { low: -32.0, high: 31.0 }, reach: 2 };

/// A block of `Q3_K`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Q3K {
    /// The scale of the scales.
    pub d: f16,
    /// A scale for every 16 elements, plus 32: below 64.
    pub scales: [u8; SUBS],
    /// The elements over their scale, plus 4: below 8.
    pub codes: [u8; SUPER_BLOCK],
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Q3K {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        let (upper, lower) = (fields.bytes::<32>(), fields.bytes::<64>());
        let (mut codes, mut bits) = ([0; SUPER_BLOCK], [0; SUPER_BLOCK]);
        split::<1>(&upper, &mut bits);
        for (bytes, codes) in lower.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
            split::<2>(bytes, codes);
        }
        codes.iter_mut().zip(bits).for_each(|(code, bit)| *code |= bit << 2);
        let (mut scales, mut upper) = ([0; SUBS], [0; SUBS]);
        split::<4>(&fields.bytes::<8>(), &mut scales);
        split::<2>(&fields.bytes::<4>(), &mut upper);
        scales.iter_mut().zip(upper).for_each(|(scale, bits)| *scale |= bits << 4);
        Self { d: fields.f16(), scales, codes }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let (mut upper, mut lower) = ([0; 32], [0; 64]);
        join::<1>(&self.codes.map(|code| code >> 2), &mut upper);
        for (bytes, codes) in lower.chunks_exact_mut(32).zip(self.codes.chunks_exact(128)) {
            join::<2>(codes, bytes);
        }
        let (mut lower_scales, mut upper_scales) = ([0; 8], [0; 4]);
        join::<4>(&self.scales, &mut lower_scales);
        join::<2>(&self.scales.map(|scale| scale >> 4), &mut upper_scales);
        let mut fields = FieldsMut(bytes);
        fields.bytes(&upper);
        fields.bytes(&lower);
        fields.bytes(&lower_scales);
        fields.bytes(&upper_scales);
        fields.f16(self.d);
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let d = widen(self.d);
        for (j, (out, codes)) in out.chunks_exact_mut(16).zip(self.codes.chunks_exact(16)).enumerate() {
            let scale = d * (f32::from(self.scales[j]) - 32.0);
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * (f32::from(*code) - 4.0);
            }
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], importance: Option<Importance<'_, SUPER_BLOCK>>) -> Self {
        let block = Scaled::new(x);
        let w = match importance {
            Some(importance) => weights(importance.weights, rms(&block.x) * 2.0_f32.sqrt(), &block.x),
            None => block.x.map(|x| x * x),
        };
        let Scales { d, steps, effective } = search::<SUPER_BLOCK, SUBS, 16>(&block, &w, INTEGERS, STORAGE);
        Self {
            d,
            scales: steps.map(|step| (step + 32.0) as u8),
            codes: std::array::from_fn(|i| INTEGERS.code(block.x[i] * inverse(effective[i / 16]))),
        }
    }
}

impl Strip for Q3K {
    const FORMAT: Format = Format::Q3K;
    const PLANES: &'static [usize] = &[2, 1];
    const HALVES: usize = 1;
    const INTEGERS: usize = SUBS;
    const SUB: usize = 16;
    const OFFSET: i32 = 4;

    #[inline(always)]
    fn parts(&self) -> Parts {
        let mut integers = [0; 16];
        integers.iter_mut().zip(self.scales).for_each(|(integer, scale)| *integer = scale as i8 - 32);
        Parts { halves: [self.d, f16::ZERO], integers, ..Parts::of_codes(&self.codes) }
    }

    #[inline(always)]
    fn of_parts(parts: &Parts) -> Self {
        let scales = std::array::from_fn(|j| (parts.integers[j] + 32) as u8);
        Self { d: parts.halves[0], scales, codes: parts.codes() }
    }

    #[inline(always)]
    fn quad<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
        three_bits(dot, vector, q)
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], integer: impl Fn(usize) -> I::I32, sub: usize) -> [I::F32; 2] {
        no_drop(isa, isa.mul(halves[0], isa.to_f32(integer(sub))))
    }
}
