//! `IQ4_XS`: 256 codes of 4 bits into the table of `IQ4_NL`; a scale of 6 bits for every 32.
//!
//! ```text
//! byte  0 .. 2    d   f16
//!       2 .. 4    bits 5 .. 4 of scale ⱼ are bits 2j + 1 .. 2j of this u16
//!       4 .. 8    bits 3 .. 0 of scale ₂ⱼ in bits 3 .. 0 of byte j, of scale ₂ⱼ₊₁ in bits 7 .. 4
//!       8 .. 136  eight sub-blocks of 32 elements, 16 bytes each: the code of element b of the sub-block in
//!                 bits 3 .. 0 of byte b, of element 16 + b in bits 7 .. 4
//!
//! xᵢ = (d · (scaleⱼ − 32)) · IQ4_VALUES[codeᵢ]        j = i / 32
//! ```
//!
//! Packed by the search of `symmetric`, with the weights of `IQ4_NL`; σ² is twice the super-block's mean square.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::bits::{Fields, FieldsMut, join, split, widen};
use super::iq4_nl::{IQ4_VALUES, LOOKUP, TABLE};
use super::search::{Integers, Scaled, inverse, rms, weights};
use super::strip::{Parts, Strip, four_bits, no_drop};
use super::symmetric::{Scales, Storage, search};
use super::{Block, Format, Importance, Layout, SUPER_BLOCK};

const BLOCK: Block = Format::Iq4Xs.block();

const SUBS: usize = 8;
const STORAGE: Storage = Storage { steps: Integers { low: -32.0, high: 31.0 }, reach: 2 };

/// A block of `IQ4_XS`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Iq4Xs {
    /// The scale of the scales.
    pub d: f16,
    /// A scale for every 32 elements, plus 32: below 64.
    pub scales: [u8; SUBS],
    /// Indices into [`IQ4_VALUES`].
    pub codes: [u8; SUPER_BLOCK],
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Iq4Xs {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        let d = fields.f16();
        let upper = u16::from_le_bytes(fields.bytes());
        let lower = fields.bytes::<4>();
        let scales = std::array::from_fn(|j| {
            let low = (lower[j / 2] >> (4 * (j % 2))) & 15;
            low | ((upper >> (2 * j)) as u8 & 3) << 4
        });
        let mut codes = [0; SUPER_BLOCK];
        for (bytes, codes) in fields.bytes::<128>().chunks_exact(16).zip(codes.chunks_exact_mut(32)) {
            split::<4>(bytes, codes);
        }
        Self { d, scales, codes }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let upper = (0..SUBS).fold(0, |word, j| word | u16::from(self.scales[j] >> 4) << (2 * j));
        let lower: [u8; 4] = std::array::from_fn(|j| self.scales[2 * j] & 15 | self.scales[2 * j + 1] << 4);
        let mut packed = [0; 128];
        for (bytes, codes) in packed.chunks_exact_mut(16).zip(self.codes.chunks_exact(32)) {
            join::<4>(codes, bytes);
        }
        let mut fields = FieldsMut(bytes);
        fields.f16(self.d);
        fields.bytes(&upper.to_le_bytes());
        fields.bytes(&lower);
        fields.bytes(&packed);
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let d = widen(self.d);
        for (j, (out, codes)) in out.chunks_exact_mut(32).zip(self.codes.chunks_exact(32)).enumerate() {
            let scale = d * (f32::from(self.scales[j]) - 32.0);
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * f32::from(IQ4_VALUES[usize::from(code & 15)]);
            }
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], importance: Option<Importance<'_, SUPER_BLOCK>>) -> Self {
        let block = Scaled::new(x);
        let w = match importance {
            Some(importance) => weights(importance.weights, rms(&block.x) * 2.0_f32.sqrt(), &block.x),
            None => block.x.map(|x| x * x),
        };
        let Scales { d, steps, effective } = search::<SUPER_BLOCK, SUBS, 32>(&block, &w, TABLE, STORAGE);
        Self {
            d,
            scales: steps.map(|step| (step + 32.0) as u8),
            codes: std::array::from_fn(|i| TABLE.code(block.x[i] * inverse(effective[i / 32]))),
        }
    }
}

impl Strip for Iq4Xs {
    const FORMAT: Format = Format::Iq4Xs;
    const PLANES: &'static [usize] = &[4];
    const HALVES: usize = 1;
    const INTEGERS: usize = SUBS;
    const OFFSET: i32 = 128;
    const MOST: u8 = u8::MAX;

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
        dot.lookup_bytes(&LOOKUP, four_bits(dot, vector, q))
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], integer: impl Fn(usize) -> I::I32, sub: usize) -> [I::F32; 2] {
        no_drop(isa, isa.mul(halves[0], isa.to_f32(integer(sub))))
    }
}
