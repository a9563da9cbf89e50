//! `MXFP4`: 32 floats of 4 bits and a scale that is a power of two (OCP Microscaling Formats 1.0: E2M1 and E8M0).
//!
//! ```text
//! byte  0         e         u8
//!       1 .. 17   code ᵢ in bits 3 .. 0 of byte i, code ᵢ₊₁₆ in bits 7 .. 4
//!                 a code: bit 3 sign, bits 2 .. 1 exponent, bit 0 significand
//!
//! xᵢ = 2^(e − 128) · MXFP4_VALUES[codeᵢ]        the values are those of E2M1 doubled, the exponent is one less
//! ```
//!
//! Packed as the Python package `gguf` does: `e` is `⌊log₂ of the greatest magnitude⌋ + 125`, so that this magnitude is
//! between 4 and 8 in units of E2M1; each code is that of the nearest value, the first of two that are equally near.
//! The error is at most a quarter of the block's greatest magnitude: where it is 8 in these units, and 6 is stored.
//! Blocks below 2⁻¹²⁵ get `e = 0`.

use smallmind_simd::{Int8Dot, Isa};

use super::bits::{Fields, FieldsMut, join, split};
use super::strip::{Parts, Strip, four_bits, no_drop, shifted};
use super::{Block, Format, Importance, Layout};

const BLOCK: Block = Format::Mxfp4.block();

/// What the codes stand for: twice the value of an E2M1. Negative zero is zero, as in GGML.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// [`MXFP4_VALUES`], plus 12.
const LOOKUP: [u8; 16] = shifted(&MXFP4_VALUES, 12);

/// A block of `MXFP4`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mxfp4 {
    /// The exponent of the scale, plus 128.
    pub e: u8,
    /// Indices into [`MXFP4_VALUES`].
    pub codes: [u8; 32],
}

impl Mxfp4 {
    /// The scale, `2^(e − 128)`.
    #[inline]
    pub fn scale(e: u8) -> f32 {
        // The two least ones are subnormal.
        f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
    }
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Mxfp4 {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        let [e] = fields.bytes();
        let mut codes = [0; 32];
        split::<4>(&fields.bytes::<16>(), &mut codes);
        Self { e, codes }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let mut packed = [0; 16];
        join::<4>(&self.codes, &mut packed);
        let mut fields = FieldsMut(bytes);
        fields.bytes(&[self.e]);
        fields.bytes(&packed);
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let scale = Self::scale(self.e);
        for (out, code) in out.iter_mut().zip(self.codes) {
            *out = scale * f32::from(MXFP4_VALUES[usize::from(code & 15)]);
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], _importance: Option<Importance<'_, 32>>) -> Self {
        let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        // The logarithm is rounded to `f32` as in `gguf`: just below a power of two it is that of the power.
        let log2 = f64::from(most).log2() as f32;
        // A conversion from floats saturates: zeros get 0.
        let e = (log2.floor() + 125.0) as u8;
        let scale = Self::scale(e);
        let nearest = |x: f32| {
            let mut best = (f32::INFINITY, 0);
            for (code, value) in MXFP4_VALUES.into_iter().enumerate() {
                let error = (scale * f32::from(value) - x).abs();
                if error < best.0 {
                    best = (error, code as u8);
                }
            }
            best.1
        };
        Self { e, codes: x.map(nearest) }
    }
}

impl Strip for Mxfp4 {
    const FORMAT: Format = Format::Mxfp4;
    const PLANES: &'static [usize] = &[4];
    const HALVES: usize = 0;
    const INTEGERS: usize = 1;
    const OFFSET: i32 = 12;
    const MOST: u8 = 24;

    #[inline(always)]
    fn parts(&self) -> Parts {
        let mut parts = Parts::of_codes(&self.codes);
        parts.integers[0] = self.e as i8;
        parts
    }

    #[inline(always)]
    fn of_parts(parts: &Parts) -> Self {
        Self { e: parts.integers[0] as u8, codes: parts.codes() }
    }

    #[inline(always)]
    fn quad<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
        dot.lookup_bytes(&LOOKUP, four_bits(dot, vector, q))
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, _halves: [I::F32; 2], integer: impl Fn(usize) -> I::I32, _sub: usize) -> [I::F32; 2] {
        let e = isa.to_f32(isa.and_i32(integer(0), isa.splat_i32(0xff)));
        no_drop(isa, isa.mul_pow2(isa.splat(1.0), isa.sub(e, isa.splat(128.0))))
    }
}
