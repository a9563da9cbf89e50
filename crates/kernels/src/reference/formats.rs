//! The rounding of each format.

use half::{bf16, f16};

use crate::Format;
use crate::attention::CacheFormat;

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
        _ => {
            let block = format.block();
            let mut bytes = vec![0; row.len() / block.elements * block.bytes];
            format.pack(row, None, &mut bytes);
            super::blocks::unpacked(format, &bytes)
        }
    }
}

/// The values of a row of activations that is quantized for a product with a weight in a format of blocks: groups of 32
/// elements, each `scale · byte`; the greatest magnitude becomes 127, and the scale has 11 significant bits.
pub fn quantized(row: &[f32]) -> Vec<f64> {
    let group = |group: &[f32]| {
        let most = group.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let scale = most / 127.0;
        if scale < f32::MIN_POSITIVE {
            return vec![0.0; group.len()];
        }
        let inverse = 127.0 / most;
        let last_bit = f64::from(scale).log2().floor().exp2() / 1024.0;
        let scale = (f64::from(scale) / last_bit).round_ties_even() * last_bit;
        group.iter().map(|x| scale * f64::from((x * inverse).round_ties_even())).collect::<Vec<f64>>()
    };
    row.chunks(32).flat_map(group).collect()
}

/// The key or the value of a token in a head, as a key-value cache in `format` holds it; NaN where it can't hold a
/// number. The last block of 32 elements may be shorter.
pub fn cached(format: CacheFormat, row: &[f32]) -> Vec<f64> {
    let elements = format.format().block().elements;
    let block = |block: &[f32]| {
        let mut whole = block.to_vec();
        whole.resize(elements, 0.0);
        let mut values = stored(format.format(), &whole);
        let is_held =
            format == CacheFormat::F32 || block.iter().all(|x| x.is_finite()) && values.iter().all(|x| x.is_finite());
        values.truncate(block.len());
        if is_held { values } else { vec![f64::NAN; block.len()] }
    };
    row.chunks(elements).flat_map(block).collect()
}
