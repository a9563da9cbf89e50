//! `F32`, `F16` and `BF16`: blocks of one element, a float.
//!
//! ```text
//! F32    bit 31 sign   30 .. 23 exponent   22 .. 0 significand
//! F16    bit 15 sign   14 .. 10 exponent    9 .. 0 significand
//! BF16   bit 15 sign   14 ..  7 exponent    6 .. 0 significand     the upper half of an F32
//! ```
//!
//! Floats are rounded to nearest, ties to even, when they are packed. `F16` overflows to infinity from 65,520 on.

use half::{bf16, f16};

use super::bits::widen;
use super::{Block, Format, Importance, Layout};

const F32_BLOCK: Block = Format::F32.block();
const F16_BLOCK: Block = Format::F16.block();
const BF16_BLOCK: Block = Format::Bf16.block();

/// An element of `F32`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct F32Element(pub f32);

/// An element of `F16`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct F16Element(pub f16);

/// An element of `BF16`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bf16Element(pub bf16);

impl Layout<{ F32_BLOCK.bytes }, { F32_BLOCK.elements }> for F32Element {
    #[inline]
    fn read(bytes: &[u8; 4]) -> Self {
        Self(f32::from_le_bytes(*bytes))
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; 4]) {
        *bytes = self.0.to_le_bytes();
    }

    #[inline]
    fn values(&self, out: &mut [f32; 1]) {
        out[0] = self.0;
    }

    #[inline]
    fn quantize(x: &[f32; 1], _importance: Option<Importance<'_, 1>>) -> Self {
        Self(x[0])
    }
}

impl Layout<{ F16_BLOCK.bytes }, { F16_BLOCK.elements }> for F16Element {
    #[inline]
    fn read(bytes: &[u8; 2]) -> Self {
        Self(f16::from_le_bytes(*bytes))
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; 2]) {
        *bytes = self.0.to_le_bytes();
    }

    #[inline]
    fn values(&self, out: &mut [f32; 1]) {
        out[0] = widen(self.0);
    }

    #[inline]
    fn quantize(x: &[f32; 1], _importance: Option<Importance<'_, 1>>) -> Self {
        Self(f16::from_f32(x[0]))
    }
}

impl Layout<{ BF16_BLOCK.bytes }, { BF16_BLOCK.elements }> for Bf16Element {
    #[inline]
    fn read(bytes: &[u8; 2]) -> Self {
        Self(bf16::from_le_bytes(*bytes))
    }

    #[inline]
    fn write(&self, bytes: &mut [u8; 2]) {
        *bytes = self.0.to_le_bytes();
    }

    #[inline]
    fn values(&self, out: &mut [f32; 1]) {
        out[0] = f32::from_bits(u32::from(self.0.to_bits()) << 16);
    }

    #[inline]
    fn quantize(x: &[f32; 1], _importance: Option<Importance<'_, 1>>) -> Self {
        Self(bf16::from_f32(x[0]))
    }
}
