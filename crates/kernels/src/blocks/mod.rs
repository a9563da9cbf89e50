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
//! [`BlockFormat::pack`] quantizes a row. Without weights of importance, `F16`, `BF16`, `Q8_0`, `Q4_0`, `Q4_1`, `Q5_0`,
//! `Q5_1` and `MXFP4` are bit-equal with the Python package `gguf`. The k-quants, `IQ4_NL` and `IQ4_XS` choose scales
//! by a weighted least-squares search (`search`, `symmetric`, `affine`) with GGML's weights for the squared errors;
//! their sum is lower than that of GGML's blocks, but for single blocks and for what the rounding of scales leaves.
//! With weights of importance `Q4_0`, `Q4_1`, `Q5_0` and `Q5_1` are searched for too.
//!
//! **What the caller refuses.** NaN, infinities and magnitudes over [`BlockFormat::largest`] have no meaning in a
//! format that has scales: they are packed into some block, without a panic, and the elements of that block are lost.
//!
//! ```
//! use smallmind_kernels::blocks::BlockFormat;
//!
//! let row: Vec<f32> = (0..256).map(|i| (i as f32).sin()).collect();
//! let format = BlockFormat::Q4K;
//! let mut bytes = vec![0; format.row_bytes(row.len()).expect("256 elements are one block")];
//! format.pack(&row, None, &mut bytes);
//!
//! let mut back = vec![0.0; 256];
//! format.unpack(&bytes, &mut back);
//! assert!(row.iter().zip(&back).all(|(x, y)| (x - y).abs() < 0.1));
//! ```
//!
//! This module is *not* about products with packed weights; those are [`matmul`](crate::matmul)'s.

mod affine;
mod bits;
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
mod symmetric;

use std::fmt;

use half::{bf16, f16};

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

/// Elements of a super-block: of the k-quants and of `IQ4_XS`.
pub const SUPER_BLOCK: usize = 256;

/// A format of blocks, by GGML's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 32-bit IEEE floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper half of an `f32`.
    Bf16,
    /// 32 signed bytes and a scale.
    Q8_0,
    /// 32 codes of 4 bits and a scale.
    Q4_0,
    /// 32 codes of 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 codes of 5 bits and a scale.
    Q5_0,
    /// 32 codes of 5 bits, a scale and a minimum.
    Q5_1,
    /// 256 codes of 2 bits, scales and minima of 4 bits for every 16.
    Q2K,
    /// 256 codes of 3 bits, scales of 6 bits for every 16.
    Q3K,
    /// 256 codes of 4 bits, scales and minima of 6 bits for every 32.
    Q4K,
    /// 256 codes of 5 bits, scales and minima of 6 bits for every 32.
    Q5K,
    /// 256 codes of 6 bits, scales of 8 bits for every 16.
    Q6K,
    /// 32 codes of 4 bits into a table of 16 values, and a scale.
    Iq4Nl,
    /// 256 codes of 4 bits into the same table, scales of 6 bits for every 32.
    Iq4Xs,
    /// 32 floats of 4 bits and a scale that is a power of two (OCP Microscaling Formats 1.0).
    Mxfp4,
}

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

/// Calls a function that is generic over a layout, `f::<BYTES, ELEMENTS, Layout>(arguments)`, with that of a format.
macro_rules! with_layout {
    ($format:expr, $f:ident($($argument:expr),*)) => {
        match $format {
            BlockFormat::F32 => $f::<_, _, F32Element>($($argument),*),
            BlockFormat::F16 => $f::<_, _, F16Element>($($argument),*),
            BlockFormat::Bf16 => $f::<_, _, Bf16Element>($($argument),*),
            BlockFormat::Q8_0 => $f::<_, _, Q8_0>($($argument),*),
            BlockFormat::Q4_0 => $f::<_, _, Q4_0>($($argument),*),
            BlockFormat::Q4_1 => $f::<_, _, Q4_1>($($argument),*),
            BlockFormat::Q5_0 => $f::<_, _, Q5_0>($($argument),*),
            BlockFormat::Q5_1 => $f::<_, _, Q5_1>($($argument),*),
            BlockFormat::Q2K => $f::<_, _, Q2K>($($argument),*),
            BlockFormat::Q3K => $f::<_, _, Q3K>($($argument),*),
            BlockFormat::Q4K => $f::<_, _, Q4K>($($argument),*),
            BlockFormat::Q5K => $f::<_, _, Q5K>($($argument),*),
            BlockFormat::Q6K => $f::<_, _, Q6K>($($argument),*),
            BlockFormat::Iq4Nl => $f::<_, _, Iq4Nl>($($argument),*),
            BlockFormat::Iq4Xs => $f::<_, _, Iq4Xs>($($argument),*),
            BlockFormat::Mxfp4 => $f::<_, _, Mxfp4>($($argument),*),
        }
    };
}

impl BlockFormat {
    /// Every format.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Mxfp4,
    ];

    /// GGML's name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Iq4Nl => "iq4_nl",
            Self::Iq4Xs => "iq4_xs",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The number of the format in GGUF files (`ggml_type`).
    pub const fn ggml_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Iq4Nl => 20,
            Self::Iq4Xs => 23,
            Self::Bf16 => 30,
            Self::Mxfp4 => 39,
        }
    }

    /// The format with that number in GGUF files.
    pub fn from_ggml_type(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.ggml_type() == number)
    }

    /// Elements and bytes of a block.
    pub const fn block(self) -> Block {
        match self {
            Self::F32 => floats::F32_BLOCK,
            Self::F16 => floats::F16_BLOCK,
            Self::Bf16 => floats::BF16_BLOCK,
            Self::Q8_0 => q8_0::BLOCK,
            Self::Q4_0 => q4_0::BLOCK,
            Self::Q4_1 => q4_1::BLOCK,
            Self::Q5_0 => q5_0::BLOCK,
            Self::Q5_1 => q5_1::BLOCK,
            Self::Q2K => q2_k::BLOCK,
            Self::Q3K => q3_k::BLOCK,
            Self::Q4K => q4_k::BLOCK,
            Self::Q5K => q5_k::BLOCK,
            Self::Q6K => q6_k::BLOCK,
            Self::Iq4Nl => iq4_nl::BLOCK,
            Self::Iq4Xs => iq4_xs::BLOCK,
            Self::Mxfp4 => mxfp4::BLOCK,
        }
    }

    /// Bytes of a row of `elements` elements; `None` if they are not whole blocks, or the bytes are more than a `usize`
    /// counts.
    pub const fn row_bytes(self, elements: usize) -> Option<usize> {
        let block = self.block();
        if elements.is_multiple_of(block.elements) {
            (elements / block.elements).checked_mul(block.bytes)
        } else {
            None
        }
    }

    /// The largest magnitude of which every block can be packed. Above it a scale in `f16` overflows.
    pub fn largest(self) -> f32 {
        let scale = f16::MAX.to_f32();
        match self {
            Self::F32 => f32::MAX,
            Self::F16 => scale,
            Self::Bf16 => bf16::MAX.to_f32(),
            Self::Q8_0 => 127.0 * scale,
            Self::Q4_0 => 8.0 * scale,
            Self::Q5_0 => 16.0 * scale,
            // The minimum is an `f16`, and so is the difference of maximum and minimum over the greatest code.
            Self::Q4_1 | Self::Q5_1 => scale,
            // The greatest code times the greatest scale; for a minimum, the greatest multiple of its scale.
            Self::Q2K => 15.0 * scale,
            Self::Q3K => 4.0 * 32.0 * scale,
            Self::Q4K | Self::Q5K => 63.0 * scale,
            Self::Q6K => 32.0 * 128.0 * scale,
            Self::Iq4Nl => 127.0 * scale,
            Self::Iq4Xs => 127.0 * 32.0 * scale,
            Self::Mxfp4 => f32::MAX,
        }
    }

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

    fn check(self, elements: usize, bytes: usize) {
        assert_eq!(self.row_bytes(elements), Some(bytes), "{elements} elements of {self} in {bytes} bytes");
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
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
mod tests;
