//! `Q6_K`: 256 codes of 6 bits; a scale of 8 bits for every 16.
//!
//! ```text
//! byte  0 .. 128  two halves of 128 elements, 64 bytes each: bits 3 .. 0 of the code of element b of the
//!                 half in bits 3 .. 0 of byte b, of element 64 + b in bits 7 .. 4
//!     128 .. 192  two halves, 32 bytes each: bits 2k + 1 .. 2k of byte b hold bits 5 .. 4 of the code of
//!                 element 32k + b of the half
//!     192 .. 208  scale ⱼ   i8
//!     208 .. 210  d         f16
//!
//! xᵢ = (d · scaleⱼ) · (codeᵢ − 32)        j = i / 16
//! ```
//!
//! Packed by the search of `symmetric`. Weights of the squared errors are `x²`, or the importance; both are GGML's.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::bits::{Fields, FieldsMut, join, split, widen};
use super::search::{Integers, Scaled, floored, inverse};
use super::strip::{Parts, Strip, no_drop, six_bits};
use super::symmetric::{Scales, Storage, search};
use super::{Block, Format, Importance, Layout, SUPER_BLOCK};

const BLOCK: Block = Format::Q6K.block();

const SUBS: usize = 16;
const INTEGERS: Integers = Integers { low: -32.0, high: 31.0 };
const STORAGE: Storage = Storage { steps: Integers { low: -128.0, high: 127.0 }, reach: 2 };

/// A block of `Q6_K`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Q6K {
    /// The scale of the scales.
    pub d: f16,
    /// A scale for every 16 elements.
    pub scales: [i8; SUBS],
    /// The elements over their scale, plus 32: below 64.
    pub codes: [u8; SUPER_BLOCK],
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Q6K {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        let (lower, upper) = (fields.bytes::<128>(), fields.bytes::<64>());
        let (mut codes, mut bits) = ([0; SUPER_BLOCK], [0; SUPER_BLOCK]);
        for (bytes, codes) in lower.chunks_exact(64).zip(codes.chunks_exact_mut(128)) {
            split::<4>(bytes, codes);
        }
        for (bytes, bits) in upper.chunks_exact(32).zip(bits.chunks_exact_mut(128)) {
            split::<2>(bytes, bits);
        }
        codes.iter_mut().zip(bits).for_each(|(code, bits)| *code |= bits << 4);
        let scales = fields.bytes::<16>().map(|byte| byte as i8);
        Self { d: fields.f16(), scales, codes }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let (mut lower, mut upper) = ([0; 128], [0; 64]);
        for (bytes, codes) in lower.chunks_exact_mut(64).zip(self.codes.chunks_exact(128)) {
            join::<4>(codes, bytes);
        }
        let bits = self.codes.map(|code| code >> 4);
        for (bytes, bits) in upper.chunks_exact_mut(32).zip(bits.chunks_exact(128)) {
            join::<2>(bits, bytes);
        }
        let mut fields = FieldsMut(bytes);
        fields.bytes(&lower);
        fields.bytes(&upper);
        fields.bytes(&self.scales.map(|scale| scale as u8));
        fields.f16(self.d);
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let d = widen(self.d);
        for (j, (out, codes)) in out.chunks_exact_mut(16).zip(self.codes.chunks_exact(16)).enumerate() {
            let scale = d * f32::from(self.scales[j]);
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * (f32::from(*code) - 32.0);
            }
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], importance: Option<Importance<'_, SUPER_BLOCK>>) -> Self {
        let block = Scaled::new(x);
        let w = match importance {
            Some(importance) => floored(importance.weights),
            None => block.x.map(|x| x * x),
        };
        let Scales { d, steps, effective } = search::<SUPER_BLOCK, SUBS, 16>(&block, &w, INTEGERS, STORAGE);
        Self {
            d,
            scales: steps.map(|step| step as i8),
            codes: std::array::from_fn(|i| INTEGERS.code(block.x[i] * inverse(effective[i / 16]))),
        }
    }
}

impl Strip for Q6K {
    const FORMAT: Format = Format::Q6K;
    const PLANES: &'static [usize] = &[4, 2];
    const HALVES: usize = 1;
    const INTEGERS: usize = SUBS;
    const SUB: usize = 16;
    const OFFSET: i32 = 32;

    #[inline(always)]
    fn parts(&self) -> Parts {
        Parts { halves: [self.d, f16::ZERO], integers: self.scales, ..Parts::of_codes(&self.codes) }
    }

    #[inline(always)]
    fn of_parts(parts: &Parts) -> Self {
        Self { d: parts.halves[0], scales: parts.integers, codes: parts.codes() }
    }

    #[inline(always)]
    fn quad<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
        six_bits(dot, vector, q)
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], integer: impl Fn(usize) -> I::I32, sub: usize) -> [I::F32; 2] {
        no_drop(isa, isa.mul(halves[0], isa.to_f32(integer(sub))))
    }
}
