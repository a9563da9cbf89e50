//! `Q8_0`: 32 signed bytes and a scale.
//!
//! ```text
//! byte  0 .. 2    d        f16
//!       2 .. 34   code ᵢ   i8, −127 to 127
//!
//! xᵢ = d · codeᵢ
//! ```
//!
//! Packed as GGML's reference does: `d` is the greatest magnitude over 127, codes are rounded half away from zero with
//! `d` as it is before it is rounded to `f16`. The error is at most `(1/254 + 2⁻¹¹)` of the block's greatest magnitude
//! while `d` is a normal `f16`.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::bits::{Fields, FieldsMut, widen};
use super::search::inverse;
use super::strip::{Parts, Strip, no_drop};
use super::{Block, Format, Importance, Layout};

const BLOCK: Block = Format::Q8_0.block();

/// A block of `Q8_0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Q8_0 {
    /// The scale.
    pub d: f16,
    /// The elements over the scale.
    pub codes: [i8; 32],
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Q8_0 {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        Self { d: fields.f16(), codes: bytemuck::cast(fields.bytes::<32>()) }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let mut fields = FieldsMut(bytes);
        fields.f16(self.d);
        fields.bytes(&self.codes.map(|code| code as u8));
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let d = widen(self.d);
        for (out, code) in out.iter_mut().zip(self.codes) {
            *out = f32::from(code) * d;
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], _importance: Option<Importance<'_, 32>>) -> Self {
        let d = x.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0;
        let inverse = inverse(d);
        Self { d: f16::from_f32(d), codes: x.map(|x| (x * inverse).round() as i8) }
    }
}

impl Strip for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const PLANES: &'static [usize] = &[8];
    const HALVES: usize = 1;
    const INTEGERS: usize = 0;
    const OFFSET: i32 = 128;

    #[inline(always)]
    fn parts(&self) -> Parts {
        let quads: [u32; 8] = bytemuck::cast(self.codes);
        let codes: [u8; 32] = bytemuck::cast(quads.map(|quad| quad ^ 0x8080_8080));
        Parts { halves: [self.d, f16::ZERO], ..Parts::of_codes(&codes) }
    }

    #[inline(always)]
    fn of_parts(parts: &Parts) -> Self {
        Self { d: parts.halves[0], codes: parts.codes().map(|byte: u8| (byte ^ 0x80) as i8) }
    }

    #[inline(always)]
    fn quad<D: Int8Dot>(_dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
        vector(q)
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], _integer: impl Fn(usize) -> I::I32, _sub: usize) -> [I::F32; 2] {
        no_drop(isa, halves[0])
    }
}
