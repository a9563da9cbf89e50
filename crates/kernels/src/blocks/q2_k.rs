//! `Q2_K`: 256 codes of 2 bits; a scale and a minimum of 4 bits for every 16.
//!
//! ```text
//! byte  0 .. 16   scale ⱼ in bits 3 .. 0 of byte j, minimum ⱼ in bits 7 .. 4
//!      16 .. 80   two halves of 128 elements, 32 bytes each: bits 2k + 1 .. 2k of byte b hold the
//!                 code of element 32k + b of the half
//!      80 .. 82   d      f16
//!      82 .. 84   dmin   f16
//!
//! xᵢ = (d · scaleⱼ) · codeᵢ − dmin · minimumⱼ        j = i / 16
//! ```
//!
//! Packed by the search of `affine`. Weights of the squared errors are `|x|`, or with importance
//! `importance · √(σ² + x²)`, σ² being the super-block's mean square; both are GGML's. (GGML sums magnitudes of errors
//! instead of squares where there is no importance.) `|x|` counts as at least 0.02 of the root of the sub-block's mean
//! square: a zero without a weight could become anything.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::affine::{Lines, Storage, search};
use super::bits::{Fields, FieldsMut, join, split, widen};
use super::search::{Integers, Scaled, inverse, rms, weights};
use super::strip::{Parts, Strip, two_bits};
use super::{Block, Format, Importance, Layout, SUPER_BLOCK};

const BLOCK: Block = Format::Q2K.block();

const SUBS: usize = 16;
const STORAGE: Storage = Storage { codes: 3.0, steps: 15.0, reach: 2 };

/// A block of `Q2_K`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Q2K {
    /// The scale of the scales.
    pub d: f16,
    /// The scale of the minima.
    pub dmin: f16,
    /// A scale for every 16 elements, below 16.
    pub scales: [u8; SUBS],
    /// What is subtracted from every 16 elements, below 16.
    pub mins: [u8; SUBS],
    /// Below 4.
    pub codes: [u8; SUPER_BLOCK],
}

impl Layout<{ BLOCK.bytes }, { BLOCK.elements }> for Q2K {
    #[inline]
    fn read(bytes: &[u8; BLOCK.bytes]) -> Self {
        let mut fields = Fields(bytes);
        let (pairs, packed) = (fields.bytes::<16>(), fields.bytes::<64>());
        let mut codes = [0; SUPER_BLOCK];
        for (bytes, codes) in packed.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
            split::<2>(bytes, codes);
        }
        let (d, dmin) = (fields.f16(), fields.f16());
        Self { d, dmin, scales: pairs.map(|pair| pair & 15), mins: pairs.map(|pair| pair >> 4), codes }
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; BLOCK.bytes]) {
        let mut packed = [0; 64];
        for (bytes, codes) in packed.chunks_exact_mut(32).zip(self.codes.chunks_exact(128)) {
            join::<2>(codes, bytes);
        }
        let mut fields = FieldsMut(bytes);
        fields.bytes::<16>(&std::array::from_fn(|j| self.scales[j] | self.mins[j] << 4));
        fields.bytes(&packed);
        fields.f16(self.d);
        fields.f16(self.dmin);
    }

    #[inline]
    fn values(&self, out: &mut [f32; BLOCK.elements]) {
        let (d, dmin) = (widen(self.d), widen(self.dmin));
        for (j, (out, codes)) in out.chunks_exact_mut(16).zip(self.codes.chunks_exact(16)).enumerate() {
            let (scale, min) = (d * f32::from(self.scales[j]), dmin * f32::from(self.mins[j]));
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * f32::from(*code) - min;
            }
        }
    }

    fn quantize(x: &[f32; BLOCK.elements], importance: Option<Importance<'_, SUPER_BLOCK>>) -> Self {
        let block = Scaled::new(x);
        let w = match importance {
            Some(importance) => weights(importance.weights, rms(&block.x), &block.x),
            None => {
                let mut w = block.x.map(f32::abs);
                for sub in w.chunks_exact_mut(16) {
                    let least = 0.02 * rms(sub);
                    sub.iter_mut().for_each(|w| *w = w.max(least));
                }
                w
            }
        };
        let Lines { d, dmin, steps, falls, lines } = search::<SUPER_BLOCK, SUBS, 16>(&block, &w, STORAGE);
        let codes = Integers { low: 0.0, high: STORAGE.codes };
        let code = |i: usize| codes.code((block.x[i] + lines[i / 16].drop) * inverse(lines[i / 16].scale));
        Self {
            d,
            dmin,
            scales: steps.map(|step| step as u8),
            mins: falls.map(|fall| fall as u8),
            codes: std::array::from_fn(code),
        }
    }
}

impl Strip for Q2K {
    const FORMAT: Format = Format::Q2K;
    const PLANES: &'static [usize] = &[2];
    const HALVES: usize = 2;
    const INTEGERS: usize = SUBS;
    const SUB: usize = 16;
    const HAS_DROP: bool = true;

    #[inline(always)]
    fn parts(&self) -> Parts {
        let integers = std::array::from_fn(|j| (self.scales[j] | self.mins[j] << 4) as i8);
        Parts { halves: [self.d, self.dmin], integers, ..Parts::of_codes(&self.codes) }
    }

    #[inline(always)]
    fn of_parts(parts: &Parts) -> Self {
        Self {
            d: parts.halves[0],
            dmin: parts.halves[1],
            scales: parts.integers.map(|pair| pair as u8 & 15),
            mins: parts.integers.map(|pair| pair as u8 >> 4),
            codes: parts.codes(),
        }
    }

    #[inline(always)]
    fn quad<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
        two_bits(dot, vector, q)
    }

    #[inline(always)]
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], integer: impl Fn(usize) -> I::I32, sub: usize) -> [I::F32; 2] {
        let (pair, four_bits) = (integer(sub), isa.splat_i32(15));
        let (scale, min) = (isa.and_i32(pair, four_bits), isa.and_i32(isa.shr_i32::<4>(pair), four_bits));
        [isa.mul(halves[0], isa.to_f32(scale)), isa.mul(halves[1], isa.to_f32(min))]
    }
}
