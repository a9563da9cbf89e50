//! Strips: blocks of as many rows as a vector has lanes, side by side, so that one load gives codes of all lanes.
//!
//! ```text
//! a strip of LANES rows of k elements:
//!   [k / 32][VECTORS][LANES][4] bytes          codes: for each 32 elements the vectors that hold them
//!   [k / E] times                              scales: for each block of E elements
//!     [HALVES][LANES] f16                        its floats
//!     [INTEGERS][LANES] i8                       its small integers
//! ```
//!
//! Codes and scales are moved from the blocks of a file, never changed; only the places of their bits differ, and some
//! integers lie in whole bytes or without an offset. A weight of one element takes, in bits:
//!
//! | format | file | strip | vectors | halves, integers of a block |
//! |---|---|---|---|---|
//! | `Q8_0` | 8.5 | 8.5 | 8 | scale |
//! | `Q4_0`, `IQ4_NL` | 4.5 | 4.5 | 4 | scale |
//! | `Q4_1` | 5 | 5 | 4 | scale, minimum |
//! | `Q5_0` | 5.5 | 5.5 | 4 + 1 | scale |
//! | `Q5_1` | 6 | 6 | 4 + 1 | scale, minimum |
//! | `MXFP4` | 4.25 | 4.25 | 4 | an exponent |
//! | `Q2_K` | 2.625 | 2.625 | 2 | 2 scales, 16 pairs of 4 bits |
//! | `Q3_K` | 3.4375 | 3.5625 | 2 + 1 | scale, 16 scales |
//! | `Q4_K` | 4.5 | 4.625 | 4 | 2 scales, 8 scales, 8 minima |
//! | `Q5_K` | 5.5 | 5.625 | 4 + 1 | 2 scales, 8 scales, 8 minima |
//! | `Q6_K` | 6.5625 | 6.5625 | 4 + 2 | scale, 16 scales |
//! | `IQ4_XS` | 4.25 | 4.3125 | 4 | scale, 8 scales |
//!
//! **Quads.** The dot product of bytes adds up four adjacent products. The codes of the elements `4q .. 4q + 4` are
//! quad `q` of a group of 32; a lane of a vector holds parts of quads, byte for byte.
//!
//! **Planes.** The bits of a code are divided into planes of 8, 4, 2 or 1 bits, the lowest bits in the first plane. A
//! plane of `b` bits has `b` vectors: the bits of quad `q` are bits `b · ⌊q / b⌋` and above in vector `q mod b`. So a
//! quad comes out of each plane by one shift and one mask.

use half::f16;
use smallmind_simd::{Int8Dot, Isa};

use super::SUPER_BLOCK;
use crate::format::{Block, Format};

/// Elements of a group: those that the same vectors hold. Activations have one scale for each.
pub const GROUP: usize = 32;
/// Quads of a group.
pub const QUADS: usize = GROUP / 4;
/// The most vectors of a group.
pub const MOST_VECTORS: usize = 8;
/// The most integers of a block.
pub const MOST_INTEGERS: usize = 16;

/// The parts of a block that strips hold. What a format lacks is not used.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// A code for each element, without a sign.
    pub codes: [u8; SUPER_BLOCK],
    /// Floats.
    pub halves: [f16; 2],
    /// Small integers.
    pub integers: [i8; MOST_INTEGERS],
}

impl Parts {
    /// Codes, and nothing else yet.
    #[inline(always)]
    pub fn of_codes(codes: &[u8]) -> Self {
        let mut all = [0; SUPER_BLOCK];
        all[..codes.len()].copy_from_slice(codes);
        Self { codes: all, halves: [f16::ZERO; 2], integers: [0; MOST_INTEGERS] }
    }

    /// The codes of a block.
    pub fn codes<const N: usize>(&self) -> [u8; N] {
        std::array::from_fn(|i| self.codes[i])
    }
}

/// A format in strips. An element is `scale · (byte − OFFSET) − drop`, where the byte is what [`quad`](Self::quad)
/// makes of its code; scale and drop are the same for all elements of a sub-block.
pub trait Strip: Copy + 'static {
    /// The format.
    const FORMAT: Format;
    /// Bits of a code in each plane.
    const PLANES: &'static [usize];
    /// Floats of a block.
    const HALVES: usize;
    /// Small integers of a block.
    const INTEGERS: usize;
    /// Elements of a sub-block: 16 or 32.
    const SUB: usize = GROUP;
    /// What a byte is more than the number that it stands for.
    const OFFSET: i32 = 0;
    /// Whether drops may be other than 0.
    const HAS_DROP: bool = false;
    /// The greatest byte.
    const MOST: u8 = (0xff >> (8 - bits(Self::PLANES))) as u8;

    /// The parts of a block.
    fn parts(&self) -> Parts;

    /// The inverse of [`parts`](Self::parts).
    fn of_parts(parts: &Parts) -> Self;

    /// Quad `q` of all lanes; `vector` reads the vectors of the group.
    fn quad<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes;

    /// Scale and drop of sub-block `sub` for all lanes; `integer` reads the block's integers, with their sign. In the
    /// arithmetic of [`Layout::values`](super::Layout::values), rounding by rounding.
    fn line<I: Isa>(isa: I, halves: [I::F32; 2], integer: impl Fn(usize) -> I::I32, sub: usize) -> [I::F32; 2];
}

/// Bits of a code.
const fn bits(planes: &[usize]) -> usize {
    let (mut sum, mut i) = (0, 0);
    while i < planes.len() {
        sum += planes[i];
        i += 1;
    }
    sum
}

/// Vectors that hold the codes of a group: one for each bit of a code.
pub const fn vectors<S: Strip>() -> usize {
    bits(S::PLANES)
}

/// Bytes of a block's scales, for each lane.
pub const fn scale_bytes<S: Strip>() -> usize {
    2 * S::HALVES + S::INTEGERS
}

/// The block of a format in strips, its scales included.
pub const fn packed_block<S: Strip>() -> Block {
    let elements = S::FORMAT.block().elements;
    Block { elements, bytes: elements / GROUP * vectors::<S>() * 4 + scale_bytes::<S>() }
}

/// The words of a lane in the vectors of a group with these codes.
#[inline(always)]
pub fn pack_group<S: Strip>(codes: &[u8; GROUP]) -> [u32; MOST_VECTORS] {
    let quads: [u32; QUADS] = std::array::from_fn(
        #[inline(always)]
        |q| u32::from_le_bytes([codes[4 * q], codes[4 * q + 1], codes[4 * q + 2], codes[4 * q + 3]]),
    );
    let mut words = [0; MOST_VECTORS];
    let (mut first, mut low) = (0, 0);
    for &bits in S::PLANES {
        let words = &mut words[first..];
        match bits {
            8 => pack_plane::<8>(&quads, low, words),
            4 => pack_plane::<4>(&quads, low, words),
            2 => pack_plane::<2>(&quads, low, words),
            _ => pack_plane::<1>(&quads, low, words),
        }
        (first, low) = (first + bits, low + bits);
    }
    words
}

/// The inverse of [`pack_group`].
#[inline(always)]
pub fn unpack_group<S: Strip>(words: &[u32; MOST_VECTORS]) -> [u8; GROUP] {
    let mut quads = [0; QUADS];
    let (mut first, mut low) = (0, 0);
    for &bits in S::PLANES {
        let words = &words[first..];
        match bits {
            8 => unpack_plane::<8>(words, low, &mut quads),
            4 => unpack_plane::<4>(words, low, &mut quads),
            2 => unpack_plane::<2>(words, low, &mut quads),
            _ => unpack_plane::<1>(words, low, &mut quads),
        }
        (first, low) = (first + bits, low + bits);
    }
    let bytes = quads.map(u32::to_le_bytes);
    std::array::from_fn(|i| bytes[i / 4][i % 4])
}

/// The lowest `BITS` bits of four bytes.
const fn lowest<const BITS: usize>() -> u32 {
    ((1 << BITS) - 1) * 0x0101_0101
}

/// Writes the `BITS` bits from bit `low` on of each byte of the quads into `BITS` words of a plane.
#[inline(always)]
fn pack_plane<const BITS: usize>(quads: &[u32; QUADS], low: usize, words: &mut [u32]) {
    let words = &mut words[..BITS];
    for (q, quad) in quads.iter().enumerate() {
        words[q % BITS] |= ((quad >> low) & const { lowest::<BITS>() }) << (q / BITS * BITS);
    }
}

/// The inverse of [`pack_plane`].
#[inline(always)]
fn unpack_plane<const BITS: usize>(words: &[u32], low: usize, quads: &mut [u32; QUADS]) {
    let words = &words[..BITS];
    for (q, quad) in quads.iter_mut().enumerate() {
        *quad |= ((words[q % BITS] >> (q / BITS * BITS)) & const { lowest::<BITS>() }) << low;
    }
}

/// Quad `q` of a plane of 4 bits that begins with vector 0.
#[inline(always)]
pub fn four_bits<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
    if q < 4 { dot.shr_and::<0, 0x0f>(vector(q)) } else { dot.shr_and::<4, 0x0f>(vector(q - 4)) }
}

/// Quad `q` of a plane of 2 bits that begins with vector 0.
#[inline(always)]
pub fn two_bits<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
    let v = vector(q % 2);
    match q / 2 {
        0 => dot.shr_and::<0, 0x03>(v),
        1 => dot.shr_and::<2, 0x03>(v),
        2 => dot.shr_and::<4, 0x03>(v),
        _ => dot.shr_and::<6, 0x03>(v),
    }
}

/// Quad `q` of planes of 2 bits and 1 bit.
#[inline(always)]
pub fn three_bits<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
    let (low, v) = (two_bits(dot, &vector, q), vector(2));
    let high = match q {
        0 => dot.shl_and::<2, 0x04>(v),
        1 => dot.shl_and::<1, 0x04>(v),
        2 => dot.shl_and::<0, 0x04>(v),
        3 => dot.shr_and::<1, 0x04>(v),
        4 => dot.shr_and::<2, 0x04>(v),
        5 => dot.shr_and::<3, 0x04>(v),
        6 => dot.shr_and::<4, 0x04>(v),
        _ => dot.shr_and::<5, 0x04>(v),
    };
    dot.or_bytes(low, high)
}

/// Quad `q` of planes of 4 bits and 1 bit.
#[inline(always)]
pub fn five_bits<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
    let (low, v) = (four_bits(dot, &vector, q), vector(4));
    let high = match q {
        0 => dot.shl_and::<4, 0x10>(v),
        1 => dot.shl_and::<3, 0x10>(v),
        2 => dot.shl_and::<2, 0x10>(v),
        3 => dot.shl_and::<1, 0x10>(v),
        4 => dot.shl_and::<0, 0x10>(v),
        5 => dot.shr_and::<1, 0x10>(v),
        6 => dot.shr_and::<2, 0x10>(v),
        _ => dot.shr_and::<3, 0x10>(v),
    };
    dot.or_bytes(low, high)
}

/// Quad `q` of planes of 4 bits and 2 bits.
#[inline(always)]
pub fn six_bits<D: Int8Dot>(dot: D, vector: impl Fn(usize) -> D::Bytes, q: usize) -> D::Bytes {
    let (low, v) = (four_bits(dot, &vector, q), vector(4 + q % 2));
    let high = match q / 2 {
        0 => dot.shl_and::<4, 0x30>(v),
        1 => dot.shl_and::<2, 0x30>(v),
        2 => dot.shl_and::<0, 0x30>(v),
        _ => dot.shr_and::<2, 0x30>(v),
    };
    dot.or_bytes(low, high)
}

/// The table of unsigned bytes with which codes of 4 bits are looked up: `values + offset`.
pub const fn shifted(values: &[i8; 16], offset: i32) -> [u8; 16] {
    let (mut table, mut i) = ([0; 16], 0);
    while i < 16 {
        let byte = values[i] as i32 + offset;
        assert!(byte >= 0 && byte < 256, "a value beyond a byte");
        table[i] = byte as u8;
        i += 1;
    }
    table
}

/// The drop of a format that has none.
#[inline(always)]
pub fn no_drop<I: Isa>(isa: I, scale: I::F32) -> [I::F32; 2] {
    [scale, isa.zero()]
}
