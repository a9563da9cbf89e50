//! GGML's block formats as data: how each lies in bytes, and how rows of `f32` are unpacked from it and packed into it.
//!
//! A row of a weight is stored in **blocks**: a fixed number of adjacent elements in a fixed number of bytes. Most
//! formats store small integers, the **codes**, and scales that turn them back into numbers. Two generations differ in
//! their scales:
//!
//! * 32 elements with one scale in `f16` (`Q8_0`, `Q4_0`, `Q5_0`, `IQ4_NL`; `MXFP4` with a power of two), or with a
//!   scale and a minimum (`Q4_1`, `Q5_1`);
//! * super-blocks of 256 elements (`Q2_K` to `Q6_K`, `IQ4_XS`), cut into sub-blocks of 16 or 32, each with a scale (and
//!   a minimum) that is itself a small integer times a scale of the super-block in `f16`.
//!
//! The layouts are bit-compatible with GGML's (`ggml-common.h`), so that bytes of a GGUF file are read where they lie.
//! All numbers are little-endian. Each module draws the layout of its format and implements [`Layout`] for it; its
//! `f64` twin stands in [`reference::blocks`](crate::reference::blocks).
//!
//! # Packing
//!
//! [`Format::pack`] quantizes a row. Without weights of importance, `F16`, `BF16`, `Q8_0`, `Q4_0`, `Q4_1`, `Q5_0`,
//! `Q5_1` and `MXFP4` are bit-equal with the Python package `gguf`. The k-quants, `IQ4_NL` and `IQ4_XS` choose scales
//! by a weighted least-squares search (`search`, `symmetric`, `affine`) with GGML's weights for the squared errors;
//! their sum is lower than that of GGML's blocks, but for single blocks and for what the rounding of scales leaves.
//! With weights of importance `Q4_0`, `Q4_1`, `Q5_0` and `Q5_1` are searched for too.
//!
//! **What the caller refuses.** NaN, infinities and magnitudes over [`Format::largest`] have no meaning in a
//! format that has scales: they are packed into some block, without a panic, and the elements of that block are lost.
//!
//! ```
//! use smallmind_kernels::Format;
//!
//! let row: Vec<f32> = (0..256).map(|i| (i as f32).sin()).collect();
//! let format = Format::Q4K;
//! let mut bytes = vec![0; format.row_bytes(row.len()).expect("256 elements are one block")];
//! format.pack(&row, None, &mut bytes);
//!
//! let mut back = vec![0.0; 256];
//! format.unpack(&bytes, &mut back);
//! assert!(row.iter().zip(&back).all(|(x, y)| (x - y).abs() < 0.1));
//! ```
//!
//! # Strips
//!
//! For products, the blocks of several rows lie side by side: `strip` draws that and holds the trait `Strip`, which
//! each format's module implements. The products themselves are [`matmul`](crate::matmul)'s.

mod affine;
mod bits;
mod finite;
mod floats;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
pub(crate) mod strip;
mod symmetric;

pub use self::floats::{Bf16Element, F16Element, F32Element};
pub use self::iq4_nl::{IQ4_VALUES, Iq4Nl};
pub use self::iq4_xs::Iq4Xs;
pub use self::mxfp4::{MXFP4_VALUES, Mxfp4};
pub use self::q2_k::Q2K;
pub use self::q3_k::Q3K;
pub use self::q4_0::Q4_0;
pub use self::q4_1::Q4_1;
pub use self::q4_k::Q4K;
pub use self::q5_0::Q5_0;
pub use self::q5_1::Q5_1;
pub use self::q5_k::Q5K;
pub use self::q6_k::Q6K;
pub use self::q8_0::Q8_0;
pub use crate::format::Block;
use crate::format::Format;

/// Elements of a super-block: of the k-quants and of `IQ4_XS`.
pub const SUPER_BLOCK: usize = 256;

/// What a block of a format holds, in `BYTES` bytes for `ELEMENTS` elements: integers and scales as they are stored,
/// one field for each kind.
pub trait Layout<const BYTES: usize, const ELEMENTS: usize>: Sized {
    /// The block in `bytes`. Every pattern of bytes is a block.
    fn read(bytes: &[u8; BYTES]) -> Self;

    /// Writes the bytes that [`read`](Self::read) reads back.
    fn write(&self, bytes: &mut [u8; BYTES]);

    /// The numbers that the block stands for, in the arithmetic of GGML: each product and each sum rounded to `f32`.
    fn values(&self, out: &mut [f32; ELEMENTS]);

    /// Quantizes a block.
    fn quantize(x: &[f32; ELEMENTS], importance: Option<Importance<'_, ELEMENTS>>) -> Self;
}

/// How much the squared errors of a block's elements count.
#[derive(Clone, Copy, Debug)]
pub struct Importance<'a, const ELEMENTS: usize> {
    /// A weight for each element, from 0.
    pub weights: &'a [f32; ELEMENTS],
    /// Root of the mean square of the row that the block belongs to.
    pub row_rms: f32,
}

/// Calls a function that is generic over a layout of blocks with scales, `f::<BYTES, ELEMENTS, Layout>(arguments)`,
/// with that of a format; for other formats it evaluates `others`.
macro_rules! with_strip {
    ($format:expr, $f:ident($($argument:expr),*), $others:expr) => {
        match $format {
            $crate::Format::Q8_0 => $f::<_, _, $crate::blocks::Q8_0>($($argument),*),
            $crate::Format::Q4_0 => $f::<_, _, $crate::blocks::Q4_0>($($argument),*),
            $crate::Format::Q4_1 => $f::<_, _, $crate::blocks::Q4_1>($($argument),*),
            $crate::Format::Q5_0 => $f::<_, _, $crate::blocks::Q5_0>($($argument),*),
            $crate::Format::Q5_1 => $f::<_, _, $crate::blocks::Q5_1>($($argument),*),
            $crate::Format::Q2K => $f::<_, _, $crate::blocks::Q2K>($($argument),*),
            $crate::Format::Q3K => $f::<_, _, $crate::blocks::Q3K>($($argument),*),
            $crate::Format::Q4K => $f::<_, _, $crate::blocks::Q4K>($($argument),*),
            $crate::Format::Q5K => $f::<_, _, $crate::blocks::Q5K>($($argument),*),
            $crate::Format::Q6K => $f::<_, _, $crate::blocks::Q6K>($($argument),*),
            $crate::Format::Iq4Nl => $f::<_, _, $crate::blocks::Iq4Nl>($($argument),*),
            $crate::Format::Iq4Xs => $f::<_, _, $crate::blocks::Iq4Xs>($($argument),*),
            $crate::Format::Mxfp4 => $f::<_, _, $crate::blocks::Mxfp4>($($argument),*),
            $crate::Format::F32 | $crate::Format::F16 | $crate::Format::Bf16 => $others,
        }
    };
}
pub(crate) use with_strip;

/// Calls a function that is generic over a layout, `f::<BYTES, ELEMENTS, Layout>(arguments)`, with that of a format.
macro_rules! with_layout {
    ($format:expr, $f:ident($($argument:expr),*)) => {
        with_strip!(
            $format,
            $f($($argument),*),
            match $format {
                Format::F16 => $f::<_, _, F16Element>($($argument),*),
                Format::Bf16 => $f::<_, _, Bf16Element>($($argument),*),
                _ => $f::<_, _, F32Element>($($argument),*),
            }
        )
    };
}

impl Format {
    /// The largest root of the relative squared error, `√(Σ (x − unpacked)² / Σ x²)`, that the tests allow on rows of
    /// normally distributed elements, 4096 long and of a standard deviation between 10⁻² and 10². They also require at
    /// least 0.9 of it, so the number says what to expect. Heavier tails cost more in the formats with few scales.
    pub const fn normal_error(self) -> f32 {
        match self {
            Self::F32 => 0.0,
            Self::F16 => 2.2e-4,
            Self::Bf16 => 1.75e-3,
            Self::Q8_0 => 5.7e-3,
            Self::Q4_0 => 0.092,
            Self::Q4_1 => 0.083,
            Self::Q5_0 => 0.045,
            Self::Q5_1 => 0.041,
            Self::Q2K => 0.30,
            Self::Q3K => 0.16,
            Self::Q4K => 0.075,
            Self::Q5K => 0.037,
            Self::Q6K => 0.018,
            Self::Iq4Nl => 0.08,
            Self::Iq4Xs => 0.08,
            Self::Mxfp4 => 0.122,
        }
    }

    /// Unpacks the blocks of a row, or of several rows that follow each other.
    ///
    /// # Panics
    /// If `out` is not whole blocks, or `bytes` is not as long as [`row_bytes`](Self::row_bytes) says.
    pub fn unpack(self, bytes: &[u8], out: &mut [f32]) {
        self.check(out.len(), bytes.len());
        with_layout!(self, unpack(bytes, out));
    }

    /// Packs a row. `importance` holds a weight from 0 for the squared error of each element, as an importance matrix
    /// has; without it the format's own weights count. `F32`, `F16`, `BF16`, `Q8_0` and `MXFP4` know no weights. A row
    /// is packed by itself, so rows can be shared among threads.
    ///
    /// # Panics
    /// If `row` is not whole blocks, `bytes` is not as long as [`row_bytes`](Self::row_bytes) says, or `importance` has
    /// another length than `row`.
    pub fn pack(self, row: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
        self.check(row.len(), bytes.len());
        if let Some(importance) = importance {
            assert_eq!(importance.len(), row.len(), "weights of importance for a row of {} elements", row.len());
        }
        with_layout!(self, pack(row, importance, bytes));
    }

    /// Elements of a row and their bytes where a weight is packed in strips, without what pads the last strip.
    pub fn packed_block(self) -> Block {
        fn of_strip<const BYTES: usize, const ELEMENTS: usize, S: strip::Strip + Layout<BYTES, ELEMENTS>>() -> Block {
            strip::packed_block::<S>()
        }
        with_strip!(self, of_strip(), self.block())
    }

    fn check(self, elements: usize, bytes: usize) {
        assert_eq!(self.row_bytes(elements), Some(bytes), "{elements} elements of {self} in {bytes} bytes");
    }
}

fn unpack<const BYTES: usize, const ELEMENTS: usize, L: Layout<BYTES, ELEMENTS>>(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<ELEMENTS>().0) {
        L::read(bytes).values(out);
    }
}

fn pack<const BYTES: usize, const ELEMENTS: usize, L: Layout<BYTES, ELEMENTS>>(
    row: &[f32],
    importance: Option<&[f32]>,
    bytes: &mut [u8],
) {
    let weights = importance.map(|weights| (weights.as_chunks::<ELEMENTS>().0, rms(row)));
    for (b, (x, bytes)) in row.as_chunks::<ELEMENTS>().0.iter().zip(bytes.as_chunks_mut::<BYTES>().0).enumerate() {
        let importance = weights.map(|(weights, row_rms)| Importance { weights: &weights[b], row_rms });
        L::quantize(x, importance).write(bytes);
    }
}

/// Root of the mean square.
fn rms(x: &[f32]) -> f32 {
    let sum: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    (sum / x.len().max(1) as f64).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of every value, in an order without a pattern; scales' infinities and NaN among them.
    #[test]
    fn every_block_is_written_as_it_was_read() {
        fn again<const BYTES: usize, const ELEMENTS: usize, L: Layout<BYTES, ELEMENTS>>(bytes: &[u8]) -> Vec<u8> {
            let write = |bytes| {
                let mut out = [0xa5; BYTES];
                L::read(bytes).write(&mut out);
                out
            };
            bytes.as_chunks::<BYTES>().0.iter().flat_map(write).collect()
        }
        for format in Format::ALL {
            let len = 500 * format.block().bytes;
            let bytes: Vec<u8> =
                (1..=len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
            assert_eq!(with_layout!(format, again(&bytes)), bytes, "{format}");
        }
    }
}
