//! The rounding of each format.

use half::{bf16, f16};

use crate::Format;

/// The values of a row of a weight that is stored in `format`.
///
/// # Panics
/// If the row is not whole blocks of the format.
pub fn stored(format: Format, row: &[f32]) -> Vec<f64> {
    assert!(format.divides(row.len()), "a row of {} elements in {format}", row.len());
    match format {
        Format::F32 => row.iter().map(|x| f64::from(*x)).collect(),
        Format::F16 => row.iter().map(|x| f16::from_f32(*x).to_f64()).collect(),
        Format::Bf16 => row.iter().map(|x| bf16::from_f32(*x).to_f64()).collect(),
        Format::Q8_0 => blocks(row, |scale| f16::from_f32(scale).to_f64(), f32::round),
    }
}

/// The values of a row of activations that is quantized for a product with a weight in blocks of bytes.
pub fn quantized(row: &[f32]) -> Vec<f64> {
    blocks(row, f64::from, f32::round_ties_even)
}

/// Blocks of 32 elements, each `scale · byte`; the greatest magnitude becomes 127.
fn blocks(row: &[f32], scale_of: impl Fn(f32) -> f64, round: impl Fn(f32) -> f32) -> Vec<f64> {
    let block = |block: &[f32]| {
        let scale = block.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0;
        let inverse = if scale < f32::MIN_POSITIVE { 0.0 } else { 1.0 / scale };
        block.iter().map(|x| scale_of(scale) * f64::from(round(x * inverse))).collect::<Vec<f64>>()
    };
    row.chunks(32).flat_map(block).collect()
}
