//! Formats in which weights are stored.

use std::fmt;

use half::{bf16, f16};

/// How the elements of a weight are stored. All arithmetic on them is in `f32`, or in bytes with sums in `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32-bit IEEE floats.
    F32,
    /// 16-bit IEEE floats: 11 bits of significand, magnitudes from 6·10⁻⁸ to 65,504.
    F16,
    /// The upper half of an `f32`: 8 bits of significand, the magnitudes of `f32`.
    Bf16,
    /// Blocks of 32 elements along a row, as GGML's `Q8_0`: a scale in `f16` and 32 signed bytes; an element is `scale
    /// · byte`.
    Q8_0,
}

/// What the elements of a format are, and so how products read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FormatKind {
    /// `f32`, multiplied as they are.
    Single,
    /// Floats of 16 bits, widened to `f32` on their way into the multiply-adds.
    Half(HalfKind),
    /// Blocks of bytes, multiplied with rows that [`quantize_rows`](crate::matmul::quantize_rows) has quantized.
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
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0];

    /// The name in command lines and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// What the elements are and how products read them.
    pub const fn kind(self) -> FormatKind {
        match self {
            Self::F32 => FormatKind::Single,
            Self::F16 => FormatKind::Half(HalfKind::F16),
            Self::Bf16 => FormatKind::Half(HalfKind::Bf16),
            Self::Q8_0 => FormatKind::Blocks,
        }
    }

    /// The fewest adjacent elements of a row that are stored as a unit.
    pub const fn block(self) -> Block {
        match self {
            Self::F32 => Block { elements: 1, bytes: 4 },
            Self::F16 | Self::Bf16 => Block { elements: 1, bytes: 2 },
            Self::Q8_0 => Block { elements: 32, bytes: 34 },
        }
    }

    /// The largest magnitude of an element of a weight in this format.
    pub fn largest(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            Self::F16 => f16::MAX.to_f32(),
            Self::Bf16 => bf16::MAX.to_f32(),
            Self::Q8_0 => 127.0 * f16::MAX.to_f32(),
        }
    }

    /// Whether rows of `cols` elements are whole blocks.
    pub fn divides(self, cols: usize) -> bool {
        cols.is_multiple_of(self.block().elements)
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
