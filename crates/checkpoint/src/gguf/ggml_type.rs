//! The types that a tensor of a GGUF file may have: their numbers, names and blocks.
//!
//! Source: `ggml.h` and `ggml-common.h` of the project ggml. A row of a tensor is a whole number of blocks; a block
//! holds so many elements in so many bytes. The table holds every number that exists, whether this program computes
//! with it or not, so that a type that isn't supported is refused by its name.

use std::fmt;

use crate::Dtype;

/// The type of a tensor in a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the format; the table below says what each is")]
#[expect(non_camel_case_types, reason = "the names are those of the format")]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    Iq2Xxs,
    Iq2Xs,
    Iq3Xxs,
    Iq1S,
    Iq4Nl,
    Iq3S,
    Iq2S,
    Iq4Xs,
    I8,
    I16,
    I32,
    I64,
    F64,
    Iq1M,
    Bf16,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
    Q1_0,
    Q2_0,
}

use GgmlType::*;

/// What the table says of a type.
struct Row {
    ggml_type: GgmlType,
    number: u32,
    name: &'static str,
    elements: usize,
    bytes: usize,
}

const fn row(ggml_type: GgmlType, number: u32, name: &'static str, elements: usize, bytes: usize) -> Row {
    Row { ggml_type, number, name, elements, bytes }
}

/// Type, number in the file, name, elements of a block, bytes of a block; in the order of the enum.
const TABLE: [Row; 35] = [
    row(F32, 0, "f32", 1, 4),
    row(F16, 1, "f16", 1, 2),
    row(Q4_0, 2, "q4_0", 32, 18),
    row(Q4_1, 3, "q4_1", 32, 20),
    row(Q5_0, 6, "q5_0", 32, 22),
    row(Q5_1, 7, "q5_1", 32, 24),
    row(Q8_0, 8, "q8_0", 32, 34),
    row(Q8_1, 9, "q8_1", 32, 36),
    row(Q2_K, 10, "q2_k", 256, 84),
    row(Q3_K, 11, "q3_k", 256, 110),
    row(Q4_K, 12, "q4_k", 256, 144),
    row(Q5_K, 13, "q5_k", 256, 176),
    row(Q6_K, 14, "q6_k", 256, 210),
    row(Q8_K, 15, "q8_k", 256, 292),
    row(Iq2Xxs, 16, "iq2_xxs", 256, 66),
    row(Iq2Xs, 17, "iq2_xs", 256, 74),
    row(Iq3Xxs, 18, "iq3_xxs", 256, 98),
    row(Iq1S, 19, "iq1_s", 256, 50),
    row(Iq4Nl, 20, "iq4_nl", 32, 18),
    row(Iq3S, 21, "iq3_s", 256, 110),
    row(Iq2S, 22, "iq2_s", 256, 82),
    row(Iq4Xs, 23, "iq4_xs", 256, 136),
    row(I8, 24, "i8", 1, 1),
    row(I16, 25, "i16", 1, 2),
    row(I32, 26, "i32", 1, 4),
    row(I64, 27, "i64", 1, 8),
    row(F64, 28, "f64", 1, 8),
    row(Iq1M, 29, "iq1_m", 256, 56),
    row(Bf16, 30, "bf16", 1, 2),
    row(Tq1_0, 34, "tq1_0", 256, 54),
    row(Tq2_0, 35, "tq2_0", 256, 66),
    row(Mxfp4, 39, "mxfp4", 32, 17),
    row(Nvfp4, 40, "nvfp4", 64, 36),
    row(Q1_0, 41, "q1_0", 128, 18),
    row(Q2_0, 42, "q2_0", 64, 18),
];

/// Numbers that older files may hold and no program reads any more. The blocks of the last six were interleaved for
/// one kind of processor.
const REMOVED: [(u32, &str); 8] = [
    (4, "q4_2"),
    (5, "q4_3"),
    (31, "q4_0_4_4"),
    (32, "q4_0_4_8"),
    (33, "q4_0_8_8"),
    (36, "iq4_nl_4_4"),
    (37, "iq4_nl_4_8"),
    (38, "iq4_nl_8_8"),
];

impl GgmlType {
    /// All types, in the order of their numbers.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        TABLE.iter().map(|row| row.ggml_type)
    }

    /// The type of that number in a file; `None` where there is none or it was removed.
    pub fn from_number(number: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.number == number).map(|row| row.ggml_type)
    }

    /// The type of that name (`q4_k`, in upper or lower case).
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| row.ggml_type)
    }

    /// The name of a number that was in use once and was removed from the format.
    pub(crate) fn removed(number: u32) -> Option<&'static str> {
        REMOVED.iter().find(|row| row.0 == number).map(|row| row.1)
    }

    /// The number in a file.
    pub fn number(self) -> u32 {
        TABLE[self as usize].number
    }

    /// The name, in lower case.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].name
    }

    /// Elements of a block; 1 for plain numbers.
    pub fn block_elements(self) -> usize {
        TABLE[self as usize].elements
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        TABLE[self as usize].bytes
    }

    /// Bytes of so many elements, or `None` where they are no whole number of blocks or the product overflows.
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        let block = self.block_elements() as u64;
        if !elements.is_multiple_of(block) {
            return None;
        }
        (elements / block).checked_mul(self.block_bytes() as u64)
    }

    /// The element type of a type of plain numbers; `None` for one of blocks.
    pub fn dtype(self) -> Option<Dtype> {
        match self {
            F32 => Some(Dtype::F32),
            F16 => Some(Dtype::F16),
            Bf16 => Some(Dtype::Bf16),
            F64 => Some(Dtype::F64),
            I8 => Some(Dtype::I8),
            I16 => Some(Dtype::I16),
            I32 => Some(Dtype::I32),
            I64 => Some(Dtype::I64),
            _ => None,
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lies_in_the_order_of_the_enum() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.ggml_type as usize, at);
            assert_eq!(GgmlType::from_number(row.number), Some(row.ggml_type));
            assert_eq!(GgmlType::from_name(&row.name.to_uppercase()), Some(row.ggml_type));
            assert!(at == 0 || TABLE[at - 1].number < row.number);
        }
    }

    #[test]
    fn every_number_up_to_the_last_is_a_type_or_was_one() {
        for number in 0..=42 {
            assert!(GgmlType::from_number(number).is_some() != GgmlType::removed(number).is_some(), "{number}");
        }
        assert!(GgmlType::from_number(43).is_none() && GgmlType::removed(43).is_none());
    }

    #[test]
    fn plain_numbers_are_as_wide_as_their_dtype() {
        for ggml_type in GgmlType::all() {
            match ggml_type.dtype() {
                Some(dtype) => assert_eq!((ggml_type.block_elements(), ggml_type.block_bytes()), (1, dtype.size())),
                None => assert!(ggml_type.block_elements() > 1),
            }
        }
        assert_eq!(Q4_K.bytes_of(512), Some(288));
        assert_eq!(Q4_K.bytes_of(255), None);
        assert_eq!(F32.bytes_of(u64::MAX / 2), None);
    }
}
