//! `IQ4_NL`: 32 codes of 4 bits into a table of 16 values, and a scale.
//!
//! ```text
//! byte  0 .. 2    d   f16
//!       2 .. 18   code ᵢ in bits 3 .. 0 of byte i, code ᵢ₊₁₆ in bits 7 .. 4
//!
//! xᵢ = d · IQ4_VALUES[codeᵢ]
//! ```
//!
//! The values lie closer around zero, as the elements of most weights do. Packed by the search of `search`. Weights of
//! the squared errors are `x²`, or with importance `importance · √(σ² + x²)`, σ² being twice the block's mean square;
//! both are GGML's.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::bits::{Fields, FieldsMut, join, split, widen};
use super::search::{Scaled, Table, fit_rounded, inverse, rms, weights};
use super::strip::{Parts, Strip, four_bits, no_drop, shifted};
use super::{Block, Format, Importance, Layout};

const BLOCK: Block = Format::Iq4Nl.block();

/// What the codes of `IQ4_NL` and `IQ4_XS` stand for, before the scale.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) const TABLE: Table = Table(&IQ4_VALUES);

/// [`IQ4_VALUES`], plus 128.
pub(super) const LOOKUP: [u8; 16] = shifted(&IQ4_VALUES, 128);

/// A block of `IQ4_NL`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Iq4Nl {
    /// The scale.
    pub d: f16,
    /// Indices into [`IQ4_VALUES`].
    pub codes: [u8; 32],
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Iq4Nl {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        let d = fields.f16();
        let mut codes = [0; 32];
        split::<4>(&fields.bytes::<16>(), &mut codes);
        Self { d, codes }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let mut packed = [0; 16];
        join::<4>(&self.codes, &mut packed);
        let mut fields = FieldsMut(bytes);
        fields.f16(self.d);
        fields.bytes(&packed);
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let d = widen(self.d);
        for (out, code) in out.iter_mut().zip(self.codes) {
            *out = d * f32::from(IQ4_VALUES[usize::from(code & 15)]);
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], importance: Option<Importance<'_, 32>>) -> Self {
        let block = Scaled::new(x);
        let w = match importance {
            Some(importance) => weights(importance.weights, rms(&block.x) * 2.0_f32.sqrt(), &block.x),
            None => block.x.map(|x| x * x),
        };
        let (d, step) = fit_rounded(&block, &w, TABLE);
        let inverse = inverse(step);
        Self { d, codes: block.x.map(|x| TABLE.code(x * inverse)) }
    }
}

impl Strip for Iq4Nl {
    const FORMAT: Format = Format::Iq4Nl;
    const PLANES: &'static [usize] = &[4];
    const HALVES: usize = 1;
    const INTEGERS: usize = 0;
    const OFFSET: i32 = 128;
    const MOST: u8 = u8::MAX;

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
        dot.lookup_bytes(&LOOKUP, four_bits(dot, vector, q))
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], _integer: impl Fn(usize) -> I::I32, _sub: usize) -> [I::F32; 2] {
        no_drop(isa, halves[0])
    }
}
