//! Values of metadata, as they lie in a GGUF file and in memory.
//!
//! An array lies compactly: a vector of its own element type, and for texts one buffer with the ends of each. So no
//! array takes more memory than it takes bytes in the file.

use std::fmt;

/// Kinds of metadata values, by their numbers in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgufValueType {
    /// Unsigned, 8 bits.
    U8 = 0,
    /// Signed, 8 bits.
    I8 = 1,
    /// Unsigned, 16 bits.
    U16 = 2,
    /// Signed, 16 bits.
    I16 = 3,
    /// Unsigned, 32 bits.
    U32 = 4,
    /// Signed, 32 bits.
    I32 = 5,
    /// IEEE 754 single precision.
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// UTF-8, its length before it.
    String = 8,
    /// Values of one kind, kind and number before them.
    Array = 9,
    /// Unsigned, 64 bits.
    U64 = 10,
    /// Signed, 64 bits.
    I64 = 11,
    /// IEEE 754 double precision.
    F64 = 12,
}

/// Every kind with its name, in the order of the numbers.
const TYPES: [(GgufValueType, &str); 13] = [
    (GgufValueType::U8, "u8"),
    (GgufValueType::I8, "i8"),
    (GgufValueType::U16, "u16"),
    (GgufValueType::I16, "i16"),
    (GgufValueType::U32, "u32"),
    (GgufValueType::I32, "i32"),
    (GgufValueType::F32, "f32"),
    (GgufValueType::Bool, "bool"),
    (GgufValueType::String, "string"),
    (GgufValueType::Array, "array"),
    (GgufValueType::U64, "u64"),
    (GgufValueType::I64, "i64"),
    (GgufValueType::F64, "f64"),
];

impl GgufValueType {
    /// The kind of that number in a file.
    pub fn from_number(number: u32) -> Option<Self> {
        TYPES.get(usize::try_from(number).ok()?).map(|row| row.0)
    }

    /// The number in a file.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The name, as the format's documents use it.
    pub fn name(self) -> &'static str {
        TYPES[self as usize].1
    }
}

impl fmt::Display for GgufValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value of metadata.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are those of GgufValueType")]
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(GgufArray),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of metadata.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are those of GgufValueType")]
pub enum GgufArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Strings(GgufStrings),
    Arrays(Vec<GgufArray>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl GgufValue {
    /// The kind of the value.
    pub fn value_type(&self) -> GgufValueType {
        match self {
            Self::U8(_) => GgufValueType::U8,
            Self::I8(_) => GgufValueType::I8,
            Self::U16(_) => GgufValueType::U16,
            Self::I16(_) => GgufValueType::I16,
            Self::U32(_) => GgufValueType::U32,
            Self::I32(_) => GgufValueType::I32,
            Self::F32(_) => GgufValueType::F32,
            Self::Bool(_) => GgufValueType::Bool,
            Self::String(_) => GgufValueType::String,
            Self::Array(_) => GgufValueType::Array,
            Self::U64(_) => GgufValueType::U64,
            Self::I64(_) => GgufValueType::I64,
            Self::F64(_) => GgufValueType::F64,
        }
    }

    /// The kind in words, with that of the elements: `u32`, `array of string`.
    pub fn describe(&self) -> String {
        match self {
            Self::Array(array) => format!("array of {}", array.element_type()),
            _ => self.value_type().name().to_owned(),
        }
    }
}

impl GgufArray {
    /// The kind of the elements.
    pub fn element_type(&self) -> GgufValueType {
        match self {
            Self::U8(_) => GgufValueType::U8,
            Self::I8(_) => GgufValueType::I8,
            Self::U16(_) => GgufValueType::U16,
            Self::I16(_) => GgufValueType::I16,
            Self::U32(_) => GgufValueType::U32,
            Self::I32(_) => GgufValueType::I32,
            Self::F32(_) => GgufValueType::F32,
            Self::Bool(_) => GgufValueType::Bool,
            Self::Strings(_) => GgufValueType::String,
            Self::Arrays(_) => GgufValueType::Array,
            Self::U64(_) => GgufValueType::U64,
            Self::I64(_) => GgufValueType::I64,
            Self::F64(_) => GgufValueType::F64,
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Strings(values) => values.len(),
            Self::Arrays(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Texts end to end in one buffer.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct GgufStrings {
    text: String,
    /// Where each text ends in `text`.
    ends: Vec<usize>,
}

impl GgufStrings {
    /// From a buffer and the ends in it, which are on borders of characters and do not fall.
    pub(super) fn from_parts(text: String, ends: Vec<usize>) -> Self {
        Self { text, ends }
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text of that index.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start..end)
    }

    /// The texts in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }
}

impl<S: AsRef<str>> FromIterator<S> for GgufStrings {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Self {
        let mut strings = Self::default();
        for text in texts {
            strings.text.push_str(text.as_ref());
            strings.ends.push(strings.text.len());
        }
        strings
    }
}

impl fmt::Debug for GgufStrings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_lie_in_the_order_of_their_numbers() {
        for (number, (value_type, name)) in TYPES.into_iter().enumerate() {
            assert_eq!(GgufValueType::from_number(number as u32), Some(value_type));
            assert_eq!((value_type.number() as usize, value_type.name()), (number, name));
        }
        assert_eq!(GgufValueType::from_number(13), None);
    }

    #[test]
    fn texts_lie_end_to_end() {
        let texts = ["", "one", "zwölf", "", "x"];
        let strings: GgufStrings = texts.iter().collect();
        assert_eq!(strings.iter().collect::<Vec<_>>(), texts);
        assert_eq!((strings.get(2), strings.get(5)), (Some("zwölf"), None));
    }
}
