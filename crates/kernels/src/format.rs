//! Formats in which weights are stored.

use std::fmt;

use half::{bf16, f16};

/// How the elements of a weight are stored, by GGML's name. All arithmetic on them is in `f32`, or in bytes with sums
/// in `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit IEEE floats.
    F32,
    /// 16-bit IEEE floats: 11 bits of significand, magnitudes from 6·10⁻⁸ to 65,504.
    F16,
    /// The upper half of an `f32`: 8 bits of significand, the magnitudes of `f32`.
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

/// What the elements of a format are, and so how products read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FormatKind {
    /// `f32`, multiplied as they are.
    Single,
    /// Floats of 16 bits, widened to `f32` on their way into the multiply-adds.
    Half(HalfKind),
    /// Blocks of codes with scales, multiplied with rows that [`quantize_rows`](crate::matmul::quantize_rows) has
    /// quantized.
    Blocks,
}

/// The formats of 16-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HalfKind {
    /// [`Format::F16`].
    F16,
    /// [`Format::Bf16`].
    Bf16,
}

/// The fewest adjacent elements of a row that a format stores as a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Elements along the row.
    pub elements: usize,
    /// Bytes of these elements.
    pub bytes: usize,
}

impl Format {
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

    /// The name in command lines and reports: GGML's, in lower case.
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

    /// What the elements are and how products read them.
    pub const fn kind(self) -> FormatKind {
        match self {
            Self::F32 => FormatKind::Single,
            Self::F16 => FormatKind::Half(HalfKind::F16),
            Self::Bf16 => FormatKind::Half(HalfKind::Bf16),
            _ => FormatKind::Blocks,
        }
    }

    /// The fewest adjacent elements of a row that are stored as a unit: the bytes are those of scales (and minima),
    /// then those of codes. How they lie is drawn in the module of each format in [`blocks`](crate::blocks).
    pub const fn block(self) -> Block {
        let (elements, bytes) = match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 2 + 32),
            Self::Q4_0 | Self::Iq4Nl => (32, 2 + 16),
            Self::Q4_1 => (32, 2 + 2 + 16),
            Self::Q5_0 => (32, 2 + 4 + 16),
            Self::Q5_1 => (32, 2 + 2 + 4 + 16),
            Self::Mxfp4 => (32, 1 + 16),
            Self::Q2K => (256, 2 + 2 + 16 + 64),
            Self::Q3K => (256, 2 + 12 + 32 + 64),
            Self::Q4K => (256, 2 + 2 + 12 + 128),
            Self::Q5K => (256, 2 + 2 + 12 + 32 + 128),
            Self::Q6K => (256, 2 + 16 + 64 + 128),
            Self::Iq4Xs => (256, 2 + 2 + 4 + 128),
        };
        Block { elements, bytes }
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

    /// Whether rows of `cols` elements are whole blocks.
    pub const fn divides(self, cols: usize) -> bool {
        cols.is_multiple_of(self.block().elements)
    }

    /// The format in which rows of `cols` elements are stored where this one is asked for: this one if they are whole
    /// blocks. Otherwise, as in llama.cpp's quantizer, a format of blocks of 32 elements takes the place of one of 256,
    /// with about as many bits or more; and F16 that of all others.
    pub fn for_rows_of(self, cols: usize) -> Self {
        let smaller = match self {
            _ if self.divides(cols) => return self,
            Self::Q2K | Self::Q3K | Self::Iq4Xs => Self::Iq4Nl,
            Self::Q4K => Self::Q5_0,
            Self::Q5K => Self::Q5_1,
            Self::Q6K => Self::Q8_0,
            _ => Self::F16,
        };
        if smaller.divides(cols) { smaller } else { Self::F16 }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_names() {
        for format in Format::ALL {
            assert_eq!(Format::from_name(format.name()), Some(format));
        }
        assert_eq!(Format::from_name("q9"), None);
        assert!(Format::Q8_0.divides(64) && !Format::Q8_0.divides(48) && Format::Bf16.divides(7));
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_smaller_blocks_or_none() {
        assert_eq!(Format::Q4K.for_rows_of(512), Format::Q4K);
        assert_eq!(Format::Q4K.for_rows_of(576), Format::Q5_0);
        assert_eq!(Format::Q6K.for_rows_of(96), Format::Q8_0);
        assert_eq!(Format::Iq4Xs.for_rows_of(32), Format::Iq4Nl);
        for format in Format::ALL {
            let bits = |format: Format| format.block().bytes as f64 / format.block().elements as f64;
            assert!(bits(format.for_rows_of(96)) >= bits(format), "{format}");
            let kept = format.block().elements == 1;
            assert_eq!(format.for_rows_of(60), if kept { format } else { Format::F16 });
        }
    }

    #[test]
    fn a_format_that_is_multiplied_element_by_element_has_no_blocks() {
        for format in Format::ALL {
            let bytes = match format.kind() {
                FormatKind::Single => Some(4),
                FormatKind::Half(_) => Some(2),
                FormatKind::Blocks => None,
            };
            let single = Some(format.block()).filter(|block| block.elements == 1).map(|block| block.bytes);
            assert_eq!(single, bytes, "{format}");
        }
    }
}
