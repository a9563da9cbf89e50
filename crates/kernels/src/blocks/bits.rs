//! Fields of a block and the bits of its bytes, both ways.

use half::f16;

/// Reads the fields of a block in the order in which they lie. Blocks have fixed sizes, so the compiler checks away
/// that a field lies within its block.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes.
    #[inline]
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk::<N>().expect("a field lies within its block");
        self.0 = rest;
        *field
    }

    /// The next two bytes as a float.
    #[inline]
    pub fn f16(&mut self) -> f16 {
        f16::from_le_bytes(self.bytes())
    }
}

/// Writes the fields of a block in the order in which they lie.
pub struct FieldsMut<'a>(pub &'a mut [u8]);

impl FieldsMut<'_> {
    /// Writes the next `N` bytes.
    #[inline]
    pub fn bytes<const N: usize>(&mut self, bytes: &[u8; N]) {
        let (field, rest) =
            std::mem::take(&mut self.0).split_first_chunk_mut::<N>().expect("a field lies within its block");
        *field = *bytes;
        self.0 = rest;
    }

    /// Writes a float as the next two bytes.
    #[inline]
    pub fn f16(&mut self, x: f16) {
        self.bytes(&x.to_le_bytes());
    }
}

/// The `f32` of the same value, without a branch. (`half` asks at every call what the CPU can do.)
#[inline]
pub fn widen(x: f16) -> f32 {
    /// Exponents of `f32` are 112 greater for the same value.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(x.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    // Exact for subnormal numbers too: `magnitude` is then a subnormal `f32`.
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let special = magnitude | 0x7f80_0000;
    let magnitude = if bits & 0x7c00 == 0x7c00 { special } else { finite };
    f32::from_bits((bits & 0x8000) << 16 | magnitude)
}

/// Cuts bytes, a multiple of 4, into planes of fields of `BITS` bits: field `k` of byte `j` goes to
/// `out[k · bytes + j]`.
#[inline]
pub fn split<const BITS: u32>(bytes: &[u8], out: &mut [u8]) {
    // Four bytes at once.
    let mask = ((1 << BITS) - 1) * 0x0101_0101;
    for (k, plane) in out.chunks_exact_mut(bytes.len()).enumerate() {
        for (out, word) in plane.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0) {
            *out = ((u32::from_le_bytes(*word) >> (BITS * k as u32)) & mask).to_le_bytes();
        }
    }
}

/// The inverse of [`split`]: the low `BITS` bits of the codes become the fields of `bytes`.
#[inline]
pub fn join<const BITS: u32>(codes: &[u8], bytes: &mut [u8]) {
    bytes.fill(0);
    for (k, plane) in codes.chunks_exact(bytes.len()).enumerate() {
        for (byte, code) in bytes.iter_mut().zip(plane) {
            *byte |= (code & ((1 << BITS) - 1)) << (BITS * k as u32);
        }
    }
}

/// The bits of a word, the lowest first.
#[inline]
pub fn spread(word: u32) -> [u8; 32] {
    let mut bits = [0; 32];
    for (i, bits) in bits.as_chunks_mut().0.iter_mut().enumerate() {
        // The product has bit j of the four in bit 8 · j; no two of its terms share a bit.
        *bits = ((((word >> (4 * i)) & 15) * 0x0020_4081) & 0x0101_0101).to_le_bytes();
    }
    bits
}

/// The word with the lowest bits of `codes` shifted right by `shift`, the first one lowest: inverse of [`spread`].
#[inline]
pub fn gather(codes: &[u8; 32], shift: u32) -> u32 {
    codes.iter().enumerate().fold(0, |word, (i, code)| word | u32::from((code >> shift) & 1) << i)
}

/// The scales and minima of `Q4_K` and `Q5_K`, eight numbers of 6 bits each.
///
/// ```text
/// byte      7 6   5 4 3 2 1 0
/// 0 ..  3   s⁺ⱼ   sⱼ              j = byte; s⁺ the upper two bits of scale j + 4
/// 4 ..  7   m⁺ⱼ   mⱼ              j = byte − 4; m⁺ the upper two bits of minimum j + 4
/// 8 .. 11   m (7 .. 4)  s (3 .. 0)   the lower four bits of minimum and scale j + 4, j = byte − 8
/// ```
#[inline]
pub fn read_six_bits(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (s, m, low) = (bytes[j], bytes[j + 4], bytes[j + 8]);
        scales[j] = s & 63;
        mins[j] = m & 63;
        scales[j + 4] = (low & 15) | (s >> 6) << 4;
        mins[j + 4] = (low >> 4) | (m >> 6) << 4;
    }
    (scales, mins)
}

/// The inverse of [`read_six_bits`]. The numbers are below 64.
#[inline]
pub fn write_six_bits(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for j in 0..4 {
        bytes[j] = scales[j] | (scales[j + 4] >> 4) << 6;
        bytes[j + 4] = mins[j] | (mins[j + 4] >> 4) << 6;
        bytes[j + 8] = (scales[j + 4] & 15) | (mins[j + 4] & 15) << 4;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (widen(f16::from_bits(bits)), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:#06x}: {got}, {want}");
        }
    }
}
