//! `Q5_K`: 256 codes of 5 bits; a scale and a minimum of 6 bits for every 32.
//!
//! ```text
//! byte  0 .. 2    d      f16
//!       2 .. 4    dmin   f16
//!       4 .. 16   eight scales and eight minima of 6 bits, as `bits::read_six_bits` draws them
//!      16 .. 48   bit k of byte b is bit 4 of the code of element 32k + b
//!      48 .. 176  four quarters of 64 elements, 32 bytes each: bits 3 .. 0 of the code of element b of the
//!                 quarter in bits 3 .. 0 of byte b, of element 32 + b in bits 7 .. 4
//!
//! xᵢ = (d · scaleⱼ) · codeᵢ − dmin · minimumⱼ        j = i / 32
//! ```
//!
//! Packed as `Q4_K` is, with the same weights.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::affine::{Lines, Storage};
use super::bits::{Fields, FieldsMut, join, read_six_bits, split, widen, write_six_bits};
use super::q4_k::scales;
use super::search::{Integers, inverse};
use super::strip::{Parts, Strip, five_bits};
use super::{Block, Format, Importance, Layout, SUPER_BLOCK};

const BLOCK: Block = Format::Q5K.block();

const SUBS: usize = 8;
const STORAGE: Storage = Storage { codes: 31.0, steps: 63.0, reach: 1 };

/// A block of `Q5_K`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Q5K {
    /// The scale of the scales.
    pub d: f16,
    /// The scale of the minima.
    pub dmin: f16,
    /// A scale for every 32 elements, below 64.
    pub scales: [u8; SUBS],
    /// What is subtracted from every 32 elements, below 64.
    pub mins: [u8; SUBS],
    /// Below 32.
    pub codes: [u8; SUPER_BLOCK],
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Q5K {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        let (d, dmin) = (fields.f16(), fields.f16());
        let (scales, mins) = read_six_bits(&fields.bytes());
        let (mut codes, mut bits) = ([0; SUPER_BLOCK], [0; SUPER_BLOCK]);
        split::<1>(&fields.bytes::<32>(), &mut bits);
        for (bytes, codes) in fields.bytes::<128>().chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
            split::<4>(bytes, codes);
        }
        codes.iter_mut().zip(bits).for_each(|(code, bit)| *code |= bit << 4);
        Self { d, dmin, scales, mins, codes }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let (mut upper, mut lower) = ([0; 32], [0; 128]);
        join::<1>(&self.codes.map(|code| code >> 4), &mut upper);
        for (bytes, codes) in lower.chunks_exact_mut(32).zip(self.codes.chunks_exact(64)) {
            join::<4>(codes, bytes);
        }
        let mut fields = FieldsMut(bytes);
        fields.f16(self.d);
        fields.f16(self.dmin);
        fields.bytes(&write_six_bits(&self.scales, &self.mins));
        fields.bytes(&upper);
        fields.bytes(&lower);
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let (d, dmin) = (widen(self.d), widen(self.dmin));
        for (j, (out, codes)) in out.chunks_exact_mut(32).zip(self.codes.chunks_exact(32)).enumerate() {
            let (scale, min) = (d * f32::from(self.scales[j]), dmin * f32::from(self.mins[j]));
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * f32::from(*code) - min;
            }
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], importance: Option<Importance<'_, SUPER_BLOCK>>) -> Self {
        let (block, lines) = scales(x, importance, STORAGE);
        let Lines { d, dmin, steps, falls, lines } = lines;
        let codes = Integers { low: 0.0, high: STORAGE.codes };
        let code = |i: usize| codes.code((block.x[i] + lines[i / 32].drop) * inverse(lines[i / 32].scale));
        Self {
            d,
            dmin,
            scales: steps.map(|step| step as u8),
            mins: falls.map(|fall| fall as u8),
            codes: std::array::from_fn(code),
        }
    }
}

impl Strip for Q5K {
    const FORMAT: Format = Format::Q5K;
    const PLANES: &'static [usize] = &[4, 1];
    const HALVES: usize = 2;
    const INTEGERS: usize = 2 * SUBS;
    const HAS_DROP: bool = true;

    #[inline(always)]
    fn parts(&self) -> Parts {
        let mut integers = [0; 16];
        for j in 0..SUBS {
            (integers[j], integers[SUBS + j]) = (self.scales[j] as i8, self.mins[j] as i8);
        }
        Parts { halves: [self.d, self.dmin], integers, ..Parts::of_codes(&self.codes) }
    }

    #[inline(always)]
    fn of_parts(parts: &Parts) -> Self {
        Self {
            d: parts.halves[0],
            dmin: parts.halves[1],
            scales: std::array::from_fn(|j| parts.integers[j] as u8),
            mins: std::array::from_fn(|j| parts.integers[SUBS + j] as u8),
            codes: parts.codes(),
        }
    }

    #[inline(always)]
    fn quad<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
        five_bits(dot, vector, q)
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], integer: impl Fn(usize) -> I::I32, sub: usize) -> [I::F32; 2] {
        let (scale, min) = (isa.to_f32(integer(sub)), isa.to_f32(integer(SUBS + sub)));
        [isa.mul(halves[0], scale), isa.mul(halves[1], min)]
    }
}
