//! The value of a single element of each block format, from its place in the bytes.

use half::{bf16, f16};

use crate::Format;
use crate::blocks::{IQ4_VALUES, MXFP4_VALUES};

/// The values of a row of blocks.
///
/// # Panics
/// If `bytes` are not whole blocks of the format.
pub fn unpacked(format: Format, bytes: &[u8]) -> Vec<f64> {
    let block = format.block();
    assert!(bytes.len().is_multiple_of(block.bytes), "{} bytes in {format}", bytes.len());
    let elements = |bytes| (0..block.elements).map(move |i| element(format, bytes, i));
    bytes.chunks(block.bytes).flat_map(elements).collect()
}

/// The value of element `i` of a block.
pub fn element(format: Format, block: &[u8], i: usize) -> f64 {
    // A field of `bits` bits of a byte.
    let field = |byte: usize, shift: usize, bits: u32| f64::from(u32::from(block[byte]) >> shift & ((1 << bits) - 1));
    let float = |byte: usize| f16::from_le_bytes([block[byte], block[byte + 1]]).to_f64();
    let signed = |byte: usize| f64::from(block[byte] as i8);
    // Element `i` of 32 in the nibbles of 16 bytes.
    let nibble = |start: usize, i: usize| field(start + i % 16, i / 16 * 4, 4);
    match format {
        Format::F32 => f64::from(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
        Format::F16 => float(0),
        Format::Bf16 => bf16::from_le_bytes([block[0], block[1]]).to_f64(),
        Format::Q8_0 => float(0) * signed(2 + i),
        Format::Q4_0 => float(0) * (nibble(2, i) - 8.0),
        Format::Q4_1 => float(0) * nibble(4, i) + float(2),
        Format::Q5_0 => float(0) * (nibble(6, i) + 16.0 * field(2 + i / 8, i % 8, 1) - 16.0),
        Format::Q5_1 => float(0) * (nibble(8, i) + 16.0 * field(4 + i / 8, i % 8, 1)) + float(2),
        Format::Q2K => {
            let (scale, min) = (field(i / 16, 0, 4), field(i / 16, 4, 4));
            float(80) * scale * two_bits(field, 16, i) - float(82) * min
        }
        Format::Q3K => {
            let j = i / 16;
            let scale = field(96 + j % 8, j / 8 * 4, 4) + 16.0 * field(104 + j % 4, j / 4 * 2, 2);
            let code = two_bits(field, 32, i) + 4.0 * field(i % 32, i / 32, 1);
            float(108) * (scale - 32.0) * (code - 4.0)
        }
        Format::Q4K => {
            let (scale, min) = six_bits(field, 4, i / 32);
            float(0) * scale * field(16 + i / 64 * 32 + i % 32, i / 32 % 2 * 4, 4) - float(2) * min
        }
        Format::Q5K => {
            let (scale, min) = six_bits(field, 4, i / 32);
            let code = field(48 + i / 64 * 32 + i % 32, i / 32 % 2 * 4, 4) + 16.0 * field(16 + i % 32, i / 32, 1);
            float(0) * scale * code - float(2) * min
        }
        Format::Q6K => {
            let lower = field(i / 128 * 64 + i % 64, i / 64 % 2 * 4, 4);
            let code = lower + 16.0 * two_bits(field, 128, i);
            float(208) * signed(192 + i / 16) * (code - 32.0)
        }
        Format::Iq4Nl => float(0) * f64::from(IQ4_VALUES[nibble(2, i) as usize]),
        Format::Iq4Xs => {
            let j = i / 32;
            let scale = field(4 + j / 2, j % 2 * 4, 4) + 16.0 * field(2 + j / 4, j % 4 * 2, 2);
            float(0) * (scale - 32.0) * f64::from(IQ4_VALUES[nibble(8 + 16 * j, i % 32) as usize])
        }
        Format::Mxfp4 => 2.0_f64.powi(i32::from(block[0]) - 128) * f64::from(MXFP4_VALUES[nibble(1, i) as usize]),
    }
}

/// Element `i` of 256 in fields of two bits: two halves of 32 bytes, each with four planes of 32 elements.
fn two_bits(field: impl Fn(usize, usize, u32) -> f64, start: usize, i: usize) -> f64 {
    field(start + i / 128 * 32 + i % 32, i / 32 % 4 * 2, 2)
}

/// Scale and minimum `j` of the eight in the 12 bytes from `start` on.
fn six_bits(field: impl Fn(usize, usize, u32) -> f64, start: usize, j: usize) -> (f64, f64) {
    if j < 4 {
        (field(start + j, 0, 6), field(start + 4 + j, 0, 6))
    } else {
        let (scale, min) = (field(start + 4 + j, 0, 4), field(start + 4 + j, 4, 4));
        (scale + 16.0 * field(start + j - 4, 6, 2), min + 16.0 * field(start + j, 6, 2))
    }
}
