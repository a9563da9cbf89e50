//! What can be wrong with a GGUF file, and where.

use std::fmt;

use super::limits::*;
use super::{GgmlType, GgufValueType};
use crate::message::{describe, did_you_mean, quote};

/// Where in a GGUF file something is wrong, beside the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GgufPlace {
    /// A field of the file's beginning.
    Field(&'static str),
    /// The name of a metadata entry, counted from 0.
    KeyNumber(u64),
    /// A metadata entry.
    Key(String),
    /// The name of a tensor, counted from 0.
    TensorNumber(u64),
    /// A field of a tensor.
    Tensor {
        /// The tensor's name.
        name: String,
        /// The field: `dimensions`, `shape`, `type`, `offset` or `data`.
        field: &'static str,
    },
    /// Behind the last tensor.
    End,
}

impl fmt::Display for GgufPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, "field `{name}`"),
            Self::KeyNumber(number) => write!(f, "name of metadata entry {number}"),
            Self::Key(key) => write!(f, "metadata key {}", quote(key)),
            Self::TensorNumber(number) => write!(f, "name of tensor {number}"),
            Self::Tensor { name, field } => write!(f, "tensor {}, field `{field}`", quote(name)),
            Self::End => f.write_str("end of the file"),
        }
    }
}

/// What is wrong with a GGUF file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufFault {
    /// The first four bytes are not `GGUF`.
    #[error(
        "this is not a GGUF file: it starts with {}, not with \"GGUF\"{}",
        quote(&String::from_utf8_lossy(found)), describe(looks_like)
    )]
    BadMagic {
        /// The bytes found.
        found: [u8; 4],
        /// What the file seems to be instead.
        looks_like: Option<&'static str>,
    },
    /// Version 1, whose lengths have 32 bits.
    #[error("version 1 is not read, versions 2 and 3 are; convert the model again with a current converter")]
    FirstVersion,
    /// All numbers are byte-swapped.
    #[error("the file is big endian (version {0} byte-swapped), little endian is read; convert the model again for it")]
    BigEndian(u32),
    /// Any other version.
    #[error("version {0} is unknown, versions 2 and 3 are read; a newer program may know it")]
    Version(u32),
    /// A field or a value would end behind the file.
    #[error(
        "{needed} bytes are needed, only {left} are left: the file is cut short or damaged, copy or download it again"
    )]
    BeyondFile {
        /// Bytes of the field or value.
        needed: u64,
        /// Bytes from there to the end of the file.
        left: u64,
    },
    /// More entries than the bytes behind could hold.
    #[error("{count} entries of at least {least} bytes are claimed, only {left} bytes are left")]
    CountBeyondFile {
        /// Entries claimed.
        count: u64,
        /// The fewest bytes of an entry.
        least: u64,
        /// Bytes from there to the end of the file.
        left: u64,
    },
    /// More of something than any model has.
    #[error("{found} {what}, at most {limit} are accepted")]
    OverLimit {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// Metadata and tensor descriptions over [`MAX_GGUF_HEADER_BYTES`](crate::MAX_GGUF_HEADER_BYTES).
    #[error("metadata and descriptions of tensors take more than {MAX_GGUF_HEADER_BYTES} bytes")]
    LongHeader,
    /// A key or a tensor without a name.
    #[error("the name is empty")]
    EmptyName,
    /// A name over [`MAX_GGUF_KEY_BYTES`](crate::MAX_GGUF_KEY_BYTES) or
    /// [`MAX_GGUF_NAME_BYTES`](crate::MAX_GGUF_NAME_BYTES).
    #[error("the name has {found} bytes, at most {limit} are allowed")]
    LongName {
        /// Bytes of the name.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("the text is not UTF-8 from its byte {valid_up_to} on")]
    NotUtf8 {
        /// Bytes of the text before the first that is not.
        valid_up_to: usize,
    },
    /// A metadata key twice.
    #[error("the key stands in the file twice, first at byte {first}; which one is meant is undefined")]
    DuplicateKey {
        /// Where the first entry begins.
        first: u64,
    },
    /// Two tensors of one name.
    #[error("two tensors have this name, the first is described at byte {first} of {file}", file = quote(file))]
    DuplicateTensor {
        /// The file of the first.
        file: String,
        /// Where it is described there.
        first: u64,
    },
    /// A value of a kind that doesn't exist.
    #[error("value type {0} does not exist; known are 0 (u8) to 12 (f64)")]
    UnknownValueType(u32),
    /// Arrays in arrays in arrays.
    #[error("arrays nested deeper than {MAX_GGUF_ARRAY_DEPTH} levels")]
    TooDeep,
    /// A truth value other than 0 or 1.
    #[error("a bool holds {0}, allowed are 0 and 1")]
    BadBool(u8),
    /// A value of another kind than wanted.
    #[error("the value is of type {found}, {wanted} is wanted")]
    WrongType {
        /// The kind in the file.
        found: String,
        /// What is wanted.
        wanted: &'static str,
    },
    /// A number that the wanted type can't hold.
    #[error("the value {value} does not fit {wanted}{}", at_index(index))]
    OutOfRange {
        /// The number.
        value: String,
        /// The type wanted.
        wanted: &'static str,
        /// Its index, in an array.
        index: Option<u32>,
    },
    /// A value that has the right type and makes no sense, or that is not supported.
    #[error("the value is {got}: {why}")]
    Invalid {
        /// The value.
        got: String,
        /// What is wrong with it, and which values are possible.
        why: String,
    },
    /// A key that is needed and not there.
    #[error("the key is missing{}", did_you_mean(suggestion))]
    MissingKey {
        /// The nearest key.
        suggestion: Option<String>,
    },
    /// An alignment that is no power of two, or out of range.
    #[error("the alignment is {0}; it has to be a power of two from 8 to {MAX_GGUF_ALIGNMENT}")]
    Alignment(u32),
    /// More than [`MAX_GGUF_RANK`](crate::MAX_GGUF_RANK) dimensions.
    #[error("{0} dimensions, at most {MAX_GGUF_RANK} are allowed")]
    TooManyDimensions(u32),
    /// A dimension of zero.
    #[error("dimension {index} is 0; every dimension has to be 1 or more")]
    ZeroDimension {
        /// Which one, counted from 0 as they stand in the file.
        index: usize,
    },
    /// The product of the dimensions, or the bytes, overflow.
    #[error("the size of shape {shape} overflows; no file can hold it")]
    Overflow {
        /// The shape, the slowest dimension first.
        shape: String,
    },
    /// A tensor type that doesn't exist.
    #[error("tensor type {0} does not exist here; known are 0 (f32) to 42 (q2_0)")]
    UnknownTensorType(u32),
    /// A tensor type that was removed from the format.
    #[error("tensor type {number} ({name}) was removed from the format; quantize the model again")]
    RemovedTensorType {
        /// The number.
        number: u32,
        /// Its name when it was in use.
        name: &'static str,
    },
    /// A row that is no whole number of blocks.
    #[error("a row of {row} elements is no whole number of blocks of {ggml_type}, which hold {}", .ggml_type.block_elements())]
    PartialBlock {
        /// Elements of a row.
        row: u64,
        /// The tensor's type.
        ggml_type: GgmlType,
    },
    /// Data at a place that is no multiple of the alignment.
    #[error("the data begins at {begin}, which is no multiple of the file's alignment {alignment}")]
    Misaligned {
        /// First byte, counted from the beginning of the data.
        begin: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Data that ends behind the file.
    #[error("its data ends at byte {end} of {available}: the file is cut short, copy or download it again")]
    DataBeyondFile {
        /// Byte behind the last one, counted from the beginning of the data.
        end: u64,
        /// Bytes of data in the file.
        available: u64,
    },
    /// Bytes that belong to no tensor stand before its data.
    #[error(
        "its data begins at byte {begin}, the tensor before it and its padding end at {previous_end}: the bytes between belong to none"
    )]
    Hole {
        /// First byte, counted from the beginning of the data.
        begin: u64,
        /// The first byte that is free, counted alike.
        previous_end: u64,
    },
    /// Its data lies over another tensor's.
    #[error(
        "its data begins at byte {begin}, but the tensor before it and its padding end at {previous_end}: they overlap"
    )]
    Overlap {
        /// First byte, counted from the beginning of the data.
        begin: u64,
        /// The first byte that is free, counted alike.
        previous_end: u64,
    },
    /// Bytes behind the last tensor and its padding.
    #[error("{count} bytes follow the last tensor and belong to none")]
    TrailingBytes {
        /// How many.
        count: u64,
    },
    /// The file ended while it was read.
    #[error("the file was cut short after it had been opened: it no longer reaches byte {end}")]
    CutShort {
        /// Where the part that was read ends in the file.
        end: u64,
    },
    /// A part of a model in several files other than the first was opened.
    #[error("this is part {number} of {count}; open the first, {first}", first = quote(first))]
    NotFirstPart {
        /// Its number, counted from 1.
        number: u64,
        /// How many there are.
        count: u64,
        /// The file name of the first.
        first: String,
    },
    /// A part is not there.
    #[error("the model has {count} parts; {} is missing, download it again", quote(missing))]
    MissingPart {
        /// The file name of the part.
        missing: String,
        /// How many there are.
        count: u64,
    },
    /// The file name is not that of the part that the metadata names.
    #[error("the metadata says part {number} of {count}, so the file name has to end with {ending}")]
    PartName {
        /// Its number, counted from 1.
        number: u64,
        /// How many there are.
        count: u64,
        /// How the name has to end.
        ending: String,
    },
    /// A part says something else than the first part.
    #[error("the value is {found}, by the first part it has to be {expected}: the files belong to different models")]
    PartMismatch {
        /// What stands there.
        found: u64,
        /// What the first part asks for.
        expected: u64,
    },
    /// A part has metadata of the model that the first part lacks or has with another value.
    #[error("the first part says something else or nothing: the files belong to different models")]
    PartMetadata,
    /// A file that is no part of several says that it is one.
    #[error(
        "the value is {found}, in a file that is not one of several (split.count) it has to be {expected}: the file is \
         damaged, or its name or metadata was changed"
    )]
    OnlyPart {
        /// What stands there.
        found: u64,
        /// What has to stand there.
        expected: u64,
    },
    /// The parts hold more or fewer tensors than the metadata says.
    #[error("the parts hold {found} tensors, the metadata says {expected}: the files belong to different models")]
    PartTensors {
        /// Tensors of all parts.
        found: u64,
        /// What the metadata says.
        expected: u64,
    },
}

impl GgufFault {
    /// The fault of a value of kind `found` where `wanted` is needed.
    pub(super) fn wrong_type(found: GgufValueType, wanted: &'static str) -> Self {
        Self::WrongType { found: found.name().to_owned(), wanted }
    }
}

fn at_index(index: &Option<u32>) -> String {
    index.map_or(String::new(), |index| format!(" (element {index} of the array)"))
}
