//! `Q4_1`: 32 codes of 4 bits, a scale and a minimum.
//!
//! ```text
//! byte  0 .. 2    d         f16
//!       2 .. 4    m         f16
//!       4 .. 20   code ᵢ in bits 3 .. 0 of byte i, code ᵢ₊₁₆ in bits 7 .. 4
//!
//! xᵢ = d · codeᵢ + m
//! ```
//!
//! Without importance it is packed as the Python package `gguf` does: `m` is the least element, `d` the distance of the
//! greatest one over 15, codes are `⌊(x − m)/d + ½⌋` with `m` and `d` as they are before they are rounded to `f16`. The
//! error is at most `d/2`, plus `2⁻¹¹` of the magnitudes of `15 · d` and `m` while they are normal `f16`. With
//! importance scale and minimum are searched for.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::affine::{Line, Minimum, fit};
use super::bits::{Fields, FieldsMut, join, split, widen};
use super::search::{Integers, Scaled, inverse, weights};
use super::strip::{Parts, Strip, four_bits};
use super::{Block, Format, Importance, Layout};

const BLOCK: Block = Format::Q4_1.block();

/// The codes.
const CODES: Integers = Integers { low: 0.0, high: 15.0 };

/// A block of `Q4_1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Q4_1 {
    /// The scale.
    pub d: f16,
    /// The value of code 0.
    pub m: f16,
    /// The elements less the minimum, over the scale: at most 15.
    pub codes: [u8; 32],
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Q4_1 {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        let (d, m) = (fields.f16(), fields.f16());
        let mut codes = [0; 32];
        split::<4>(&fields.bytes::<16>(), &mut codes);
        Self { d, m, codes }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let mut lower = [0; 16];
        join::<4>(&self.codes, &mut lower);
        let mut fields = FieldsMut(bytes);
        fields.f16(self.d);
        fields.f16(self.m);
        fields.bytes(&lower);
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let (d, m) = (widen(self.d), widen(self.m));
        for (out, code) in out.iter_mut().zip(self.codes) {
            *out = d * f32::from(code) + m;
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], importance: Option<Importance<'_, 32>>) -> Self {
        let Some(importance) = importance else {
            let (least, most) = x.iter().fold((f32::MAX, f32::MIN), |(least, most), x| (least.min(*x), most.max(*x)));
            let d = (most - least) / 15.0;
            let inverse = inverse(d);
            let codes = x.map(|x| (((x - least) * inverse + 0.5) as u8).min(15));
            return Self { d: f16::from_f32(d), m: f16::from_f32(least), codes };
        };
        let scaled = Scaled::new(x);
        let weights = weights(importance.weights, scaled.rms(importance.row_rms), &scaled.x);
        let round = |line: Line| Line { scale: scaled.round(line.scale).1, drop: scaled.round(line.drop).1 };
        let line = fit(&scaled.x, &weights, (CODES.high, Minimum::Any), round);
        let ((d, step), (m, least)) = (scaled.round(line.scale), scaled.round(-line.drop));
        let inverse = inverse(step);
        Self { d, m, codes: scaled.x.map(|x| CODES.code((x - least) * inverse)) }
    }
}

impl Strip for Q4_1 {
    const FORMAT: Format = Format::Q4_1;
    const PLANES: &'static [usize] = &[4];
    const HALVES: usize = 2;
    const INTEGERS: usize = 0;
    const HAS_DROP: bool = true;

    #[inline(always)]
    fn parts(&self) -> Parts {
        Parts { halves: [self.d, self.m], ..Parts::of_codes(&self.codes) }
    }

    #[inline(always)]
    fn of_parts(parts: &Parts) -> Self {
        Self { d: parts.halves[0], m: parts.halves[1], codes: parts.codes() }
    }

    #[inline(always)]
    fn quad<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
        four_bits(dot, vector, q)
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], _integer: impl Fn(usize) -> I::I32, _sub: usize) -> [I::F32; 2] {
        [halves[0], isa.neg(halves[1])]
    }
}
