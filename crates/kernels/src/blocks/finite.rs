//! Numbers that are not finite, in rows as they are stored.
//!
//! A block has such a number only if a scale of it is infinite, NaN or, in `MXFP4`, very large. So the scales tell the
//! blocks to look at; no other is unpacked.

use half::{bf16, f16};

use super::SUPER_BLOCK;
use crate::format::{Block, Format};

/// The exponent of an infinite or NaN `f16`, in its upper byte.
const EXPONENT: u8 = 0x7c;
/// The least `e` of an `MXFP4` block whose greatest code stands for more than [`f32::MAX`].
const LARGE_MXFP4: u8 = 253;

impl Format {
    /// The first element of stored rows that is not finite, and its value. `bytes` are whole blocks.
    pub fn first_non_finite(self, bytes: &[u8]) -> Option<(usize, f32)> {
        match self {
            Self::F32 => first(bytes, |x| !f32::from_le_bytes(x).is_finite(), f32::from_le_bytes),
            Self::F16 => first(bytes, |x| !f16::from_le_bytes(x).is_finite(), |x| f16::from_le_bytes(x).to_f32()),
            Self::Bf16 => first(bytes, |x| !bf16::from_le_bytes(x).is_finite(), |x| bf16::from_le_bytes(x).to_f32()),
            Self::Q8_0 | Self::Q4_0 | Self::Q5_0 | Self::Iq4Nl | Self::Iq4Xs => self.in_blocks(bytes, is_special::<1>),
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => {
                self.in_blocks(bytes, |block| is_special::<1>(block) || is_special::<3>(block))
            }
            Self::Q2K => self.in_blocks(bytes, |block| is_special::<81>(block) || is_special::<83>(block)),
            Self::Q3K => self.in_blocks(bytes, is_special::<109>),
            Self::Q6K => self.in_blocks(bytes, is_special::<209>),
            Self::Mxfp4 => self.in_blocks(bytes, |block| block[0] >= LARGE_MXFP4),
        }
    }

    /// The first element that is not finite, in the blocks that `may_be_wrong`.
    fn in_blocks(self, bytes: &[u8], may_be_wrong: impl Fn(&[u8]) -> bool) -> Option<(usize, f32)> {
        let Block { elements, bytes: size } = self.block();
        let mut values = [0.0; SUPER_BLOCK];
        let values = &mut values[..elements];
        let blocks = bytes.chunks_exact(size).enumerate();
        blocks.filter(|(_, block)| may_be_wrong(block)).find_map(|(i, block)| {
            self.unpack(block, values);
            let at = values.iter().position(|x| !x.is_finite())?;
            Some((i * elements + at, values[at]))
        })
    }
}

/// The first number that is wrong, and its value.
fn first<const BYTES: usize>(
    bytes: &[u8],
    is_wrong: impl Fn([u8; BYTES]) -> bool,
    value: impl Fn([u8; BYTES]) -> f32,
) -> Option<(usize, f32)> {
    /// Numbers that are looked at whatever they are, which vectors can do.
    const TOGETHER: usize = 64;
    bytes.as_chunks().0.chunks(TOGETHER).enumerate().find_map(|(i, numbers)| {
        if !numbers.iter().fold(false, |any, x| any | is_wrong(*x)) {
            return None;
        }
        let at = numbers.iter().position(|x| is_wrong(*x))?;
        Some((i * TOGETHER + at, value(numbers[at])))
    })
}

/// Whether the `f16` whose upper byte is `UPPER` is infinite or NaN.
fn is_special<const UPPER: usize>(block: &[u8]) -> bool {
    block[UPPER] & EXPONENT == EXPONENT
}
