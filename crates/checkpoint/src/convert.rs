//! Stored elements to `f32` and back, a chunk at a time.
//!
//! Files are little endian. Conversions to `f32` are exact for `F16` and `BF16` and round to nearest for `F64`; those
//! from `f32` round to nearest, ties to even.

use half::bf16;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::Dtype;

/// Elements that are converted at once: they fit into the first-level cache together with their result.
pub(crate) const CHUNK: usize = 4096;

/// Memory for one chunk of stored elements, aligned for the widest type.
pub(crate) struct ChunkBuffer(Vec<u64>);

impl ChunkBuffer {
    pub fn new() -> Self {
        Self(vec![0; CHUNK])
    }

    /// The first `bytes` bytes, at most eight times [`CHUNK`].
    pub fn bytes(&mut self, bytes: usize) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..bytes]
    }

    /// Converts the first `out.len()` stored elements; [`Dtype::is_float`] must hold for their type.
    pub fn decode(&mut self, dtype: Dtype, out: &mut [f32]) {
        let n = out.len();
        match dtype {
            Dtype::F16 => {
                let halves = native_u16(&mut self.0, n);
                bytemuck::cast_slice::<u16, f16>(halves).convert_to_f32_slice(out);
            }
            Dtype::Bf16 => {
                for (value, &bits) in out.iter_mut().zip(native_u16(&mut self.0, n).iter()) {
                    *value = f32::from_bits(u32::from(bits) << 16);
                }
            }
            Dtype::F64 => {
                for (value, &bits) in out.iter_mut().zip(&self.0) {
                    *value = f64::from_bits(u64::from_le(bits)) as f32;
                }
            }
            _ => {
                let words: &[u32] = bytemuck::cast_slice(&self.0);
                for (value, &bits) in out.iter_mut().zip(words) {
                    *value = f32::from_bits(u32::from_le(bits));
                }
            }
        }
    }

    /// Stores `values` (at most [`CHUNK`]) as `dtype`, one of `F16`, `BF16` and `F32`, and returns the bytes.
    pub fn encode(&mut self, dtype: Dtype, values: &[f32]) -> &[u8] {
        let n = values.len();
        match dtype {
            Dtype::F16 => {
                let halves = &mut bytemuck::cast_slice_mut::<u64, f16>(&mut self.0)[..n];
                halves.convert_from_f32_slice(values);
                native_u16(&mut self.0, n);
            }
            Dtype::Bf16 => {
                let halves = &mut bytemuck::cast_slice_mut::<u64, u16>(&mut self.0)[..n];
                for (bits, &value) in halves.iter_mut().zip(values) {
                    *bits = bf16::from_f32(value).to_bits().to_le();
                }
            }
            _ => {
                let words = &mut bytemuck::cast_slice_mut::<u64, u32>(&mut self.0)[..n];
                for (bits, &value) in words.iter_mut().zip(values) {
                    *bits = value.to_bits().to_le();
                }
            }
        }
        self.bytes(n * dtype.size())
    }
}

/// The first `n` 16-bit elements, with their bytes swapped if this machine is big endian (to and from the file alike).
fn native_u16(buffer: &mut [u64], n: usize) -> &mut [u16] {
    let halves = &mut bytemuck::cast_slice_mut::<u64, u16>(buffer)[..n];
    if cfg!(target_endian = "big") {
        halves.iter_mut().for_each(|bits| *bits = bits.swap_bytes());
    }
    halves
}

/// Fills `out` with elements of a type for which [`Dtype::is_float`] holds. `read` fills a buffer with the stored bytes
/// from so many bytes behind the first element on.
pub(crate) fn read_floats<E>(
    dtype: Dtype,
    out: &mut [f32],
    mut read: impl FnMut(&mut [u8], u64) -> Result<(), E>,
) -> Result<(), E> {
    if dtype == Dtype::F32 && cfg!(target_endian = "little") {
        return read(bytemuck::cast_slice_mut(out), 0);
    }
    let mut buffer = ChunkBuffer::new();
    let mut at = 0;
    for part in out.chunks_mut(CHUNK) {
        let bytes = part.len() * dtype.size();
        read(buffer.bytes(bytes), at)?;
        buffer.decode(dtype, part);
        at += bytes as u64;
    }
    Ok(())
}

/// The index of the first element that is NaN or infinite.
pub(crate) fn first_non_finite(values: &[f32]) -> Option<usize> {
    for (chunk, part) in values.chunks(CHUNK).enumerate() {
        // A loop without an early exit is vectorized; the exact index is searched only in a chunk that has one.
        let all_finite = part.iter().fold(true, |finite, value| finite & value.is_finite());
        if !all_finite {
            return part.iter().position(|value| !value.is_finite()).map(|at| chunk * CHUNK + at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half precision by its definition: sign · 2^(e − 15) · (1 + m/1024), denormals without the one.
    fn f16_by_definition(bits: u16) -> f32 {
        let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
        let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
        let magnitude = match exponent {
            0 => mantissa * 2f64.powi(-24),
            31 if mantissa == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1.0 + mantissa / 1024.0) * 2f64.powi(exponent - 15),
        };
        (sign * magnitude) as f32
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn every_f16_and_bf16_decodes_by_definition_and_comes_back() {
        let mut buffer = ChunkBuffer::new();
        for start in (0..=u16::MAX).step_by(CHUNK) {
            let bits: Vec<u16> = (start..=start + (CHUNK as u16 - 1)).collect();
            let stored: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            for dtype in [Dtype::F16, Dtype::Bf16] {
                let mut out = vec![f32::NAN; bits.len()];
                buffer.bytes(stored.len()).copy_from_slice(&stored);
                buffer.decode(dtype, &mut out);
                for (&bits, &value) in bits.iter().zip(&out) {
                    let expected = match dtype {
                        Dtype::F16 => f16_by_definition(bits),
                        _ => f32::from_bits(u32::from(bits) << 16),
                    };
                    assert!(same(value, expected), "{dtype} {bits:#06x}: {value} is not {expected}");
                }
                let again = buffer.encode(dtype, &out).to_vec();
                for (i, value) in out.iter().enumerate().filter(|(_, value)| !value.is_nan()) {
                    assert_eq!(again[2 * i..2 * i + 2], stored[2 * i..2 * i + 2], "{dtype} {value}");
                }
            }
        }
    }

    #[test]
    fn f32_and_f64_decode_exactly_and_f64_rounds() {
        let mut buffer = ChunkBuffer::new();
        let values = [0.0f32, -0.0, 1.5, f32::MIN_POSITIVE / 8.0, f32::MAX, f32::NEG_INFINITY];
        let mut out = [f32::NAN; 6];
        let stored: Vec<u8> = values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
        buffer.bytes(stored.len()).copy_from_slice(&stored);
        buffer.decode(Dtype::F64, &mut out);
        assert_eq!(out.map(f32::to_bits), values.map(f32::to_bits));

        out.fill(f32::NAN);
        buffer.encode(Dtype::F32, &values);
        buffer.decode(Dtype::F32, &mut out);
        assert_eq!(out.map(f32::to_bits), values.map(f32::to_bits));

        buffer.bytes(16).copy_from_slice(&[0.1f64.to_le_bytes(), 1e300f64.to_le_bytes()].concat());
        buffer.decode(Dtype::F64, &mut out[..2]);
        assert_eq!(out[..2], [0.1f32, f32::INFINITY]);
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let mut buffer = ChunkBuffer::new();
        for (value, bits) in [(0x3f80_8000u32, 0x3f80u16), (0x3f81_8000, 0x3f82), (0x3f80_8001, 0x3f81)] {
            assert_eq!(buffer.encode(Dtype::Bf16, &[f32::from_bits(value)]), bits.to_le_bytes());
        }
    }

    #[test]
    fn the_first_non_finite_element_is_found_anywhere() {
        for len in [0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let mut values = vec![1.0f32; len];
            assert_eq!(first_non_finite(&values), None);
            for at in [0, len / 2, len.saturating_sub(1)] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    if at < len {
                        values[at] = bad;
                        assert_eq!(first_non_finite(&values), Some(at));
                        values[at] = 1.0;
                    }
                }
            }
        }
    }
}
