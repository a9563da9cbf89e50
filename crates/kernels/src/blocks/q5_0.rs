//! `Q5_0`: 32 codes of 5 bits and a scale.
//!
//! ```text
//! byte  0 .. 2    d         f16
//!       2 .. 6    bit 4 of code ᵢ is bit i of this u32
//!       6 .. 22   bits 3 .. 0 of code ᵢ in bits 3 .. 0 of byte i, of code ᵢ₊₁₆ in bits 7 .. 4
//!
//! xᵢ = d · (codeᵢ − 16)
//! ```
//!
//! Without importance it is packed as the Python package `gguf` does: the element of greatest magnitude becomes code 0
//! (−16 · d, so `d` has the opposite sign), codes are `⌊x/d + 16.5⌋`, the sum rounded once, with `d` as it is before it
//! is rounded to `f16`. The error is at most about `|d|`: 1/16 of the block's greatest magnitude, at a magnitude equal
//! to it and of the other sign. With importance the scale is searched for.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::bits::{Fields, FieldsMut, gather, join, split, spread, widen};
use super::search::{Integers, Scaled, fit_rounded, inverse, most_extreme, weights};
use super::strip::{Parts, Strip, five_bits, no_drop};
use super::{Block, Format, Importance, Layout};

const BLOCK: Block = Format::Q5_0.block();

/// The integers that codes stand for.
const INTEGERS: Integers = Integers { low: -16.0, high: 15.0 };

/// A block of `Q5_0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Q5_0 {
    /// The scale.
    pub d: f16,
    /// The elements over the scale, plus 16: below 32.
    pub codes: [u8; 32],
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Q5_0 {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        let d = fields.f16();
        let upper = spread(u32::from_le_bytes(fields.bytes()));
        let mut codes = [0; 32];
        split::<4>(&fields.bytes::<16>(), &mut codes);
        codes.iter_mut().zip(upper).for_each(|(code, bit)| *code |= bit << 4);
        Self { d, codes }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let mut lower = [0; 16];
        join::<4>(&self.codes, &mut lower);
        let mut fields = FieldsMut(bytes);
        fields.f16(self.d);
        fields.bytes(&gather(&self.codes, 4).to_le_bytes());
        fields.bytes(&lower);
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let d = widen(self.d);
        for (out, code) in out.iter_mut().zip(self.codes) {
            *out = (f32::from(code) - 16.0) * d;
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], importance: Option<Importance<'_, 32>>) -> Self {
        let Some(importance) = importance else {
            let d = most_extreme(x) / -16.0;
            let inverse = f64::from(inverse(d));
            // The product is exact in `f64`, as in a fused multiply-add.
            let codes = x.map(|x| ((f64::from(x) * inverse + 16.5) as f32 as u8).min(31));
            return Self { d: f16::from_f32(d), codes };
        };
        let scaled = Scaled::new(x);
        let weights = weights(importance.weights, scaled.rms(importance.row_rms), &scaled.x);
        let (d, step) = fit_rounded(&scaled, &weights, INTEGERS);
        let inverse = inverse(step);
        Self { d, codes: scaled.x.map(|x| INTEGERS.code(x * inverse)) }
    }
}

impl Strip for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    const PLANES: &'static [usize] = &[4, 1];
    const HALVES: usize = 1;
    const INTEGERS: usize = 0;
    const OFFSET: i32 = 16;

    #[inline(always)]
    fn parts(&self) -> Parts {
        Parts { halves: [self.d, f16::ZERO], ..Parts::of_codes(&self.codes) }
    }

    #[inline(always)]
    fn of_parts(parts: &Parts) -> Self {
        Self { d: parts.halves[0], codes: parts.codes() }
    }

    #[inline(always)]
    fn quad<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
        five_bits(dot, vector, q)
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], _integer: impl Fn(usize) -> I::I32, _sub: usize) -> [I::F32; 2] {
        no_drop(isa, halves[0])
    }
}
