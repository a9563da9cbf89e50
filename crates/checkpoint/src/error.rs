//! What can be wrong with a file, as values.
//!
//! Every message says which file, where in it (tensor, field, byte), why that is refused, and what to do.
//! [`CheckpointError`] holds the path, the `…Fault` enums hold the reason. Text that comes out of a file is quoted and
//! shortened before it is shown, so that a hostile file can neither flood a terminal nor send it control characters.

use std::io;
use std::path::{Path, PathBuf};

use crate::message::{advice, describe, did_you_mean, quote};
use crate::{Dtype, GgufFault, GgufPlace, TensorFormat};

/// Why a file or a folder could not be read, checked or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused an operation.
    #[error("{path}: could not {action}: {source}{}", advice(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A required file or folder is missing, or is of another kind.
    #[error("{path}: {what}")]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What is expected there and how to get it.
        what: &'static str,
    },
    /// The header of a safetensors file can't be accepted.
    #[error("{path}: safetensors header, byte {offset}: {fault}")]
    Header {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes; for a fault of the JSON the place where the parser stopped.
        offset: u64,
        /// What is wrong.
        fault: HeaderFault,
    },
    /// A GGUF file can't be accepted or read.
    #[error("{path}: GGUF, byte {offset}, {place}: {fault}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// Which field, key or tensor.
        place: Box<GgufPlace>,
        /// What is wrong.
        fault: GgufFault,
    },
    /// One tensor can't be accepted or read.
    #[error("{path}: tensor {}: {fault}", quote(tensor))]
    Tensor {
        /// The file, or the folder where the weights are sharded.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong.
        fault: TensorFault,
    },
    /// A JSON file can't be accepted.
    #[error("{path}: line {line}, column {column}: {fault}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Column in bytes, counted from 1.
        column: usize,
        /// What is wrong.
        fault: JsonFault,
    },
    /// The index of sharded weights can't be accepted.
    #[error("{path}: {fault}")]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        fault: IndexFault,
    },
    /// A file differs from what the folder's manifest says about it.
    #[error("{path}: {fault}; this checkpoint is damaged: use an earlier one or copy it again")]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// How it differs.
        fault: DamageFault,
    },
    /// A tensor or a file name was handed to a writer that can't store it.
    #[error("can't store {}: {fault}", quote(name))]
    Unwritable {
        /// The tensor's or the file's name.
        name: String,
        /// What is wrong.
        fault: WriteFault,
    },
}

/// What is wrong with the header of a safetensors file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// Fewer than the eight bytes of the header's length.
    #[error(
        "the file has {len} bytes, a safetensors file starts with 8 bytes of header length{}",
        describe(looks_like)
    )]
    TooShort {
        /// Bytes in the file.
        len: u64,
        /// What the file seems to be instead.
        looks_like: Option<&'static str>,
    },
    /// The header would end beyond the file.
    #[error(
        "the header claims {declared} bytes, only {available} follow: the file is cut short or no safetensors file{}",
        describe(looks_like)
    )]
    BeyondFile {
        /// Length in the first eight bytes.
        declared: u64,
        /// Bytes after these.
        available: u64,
        /// What the file seems to be instead.
        looks_like: Option<&'static str>,
    },
    /// The header is longer than [`MAX_HEADER_BYTES`](crate::MAX_HEADER_BYTES).
    #[error("the header claims {declared} bytes, at most {limit} are accepted", limit = crate::MAX_HEADER_BYTES)]
    TooLong {
        /// Length in the first eight bytes.
        declared: u64,
    },
    /// The first byte of the header is not `{`.
    #[error("the header starts with byte {found:#04x}, not with '{{': no safetensors file")]
    NoBrace {
        /// The byte found.
        found: u8,
    },
    /// The header is not UTF-8.
    #[error("the header is not UTF-8")]
    NotUtf8,
    /// Not JSON, or JSON of another form than the format's.
    #[error("the header is not the expected JSON: {0}")]
    Json(String),
    /// A string over [`MAX_STRING_BYTES`](crate::MAX_STRING_BYTES).
    #[error("a string of more than {limit} bytes", limit = crate::MAX_STRING_BYTES)]
    LongString,
    /// More than [`MAX_TENSORS`](crate::MAX_TENSORS) tensors.
    #[error(
        "more than {limit} tensors; no model has as many, the file is not to be trusted",
        limit = crate::MAX_TENSORS
    )]
    TooManyTensors,
    /// A tensor without a name.
    #[error("a tensor with an empty name")]
    EmptyName,
    /// A name over [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES).
    #[error("the tensor name {} is longer than {limit} bytes", quote(.0), limit = crate::MAX_NAME_BYTES)]
    LongName(String),
    /// Two tensors of one name.
    #[error("tensor {} stands in the header twice; which one is meant is undefined, write the file again", quote(.0))]
    DuplicateTensor(String),
    /// A metadata key, or `__metadata__` itself, twice.
    #[error("metadata key {} stands in the header twice", quote(.0))]
    DuplicateMetadata(String),
    /// Metadata over [`MAX_METADATA_BYTES`](crate::MAX_METADATA_BYTES), or too many keys.
    #[error(
        "more than {limit} bytes or {keys} keys of metadata",
        limit = crate::MAX_METADATA_BYTES, keys = crate::MAX_TENSORS
    )]
    LongMetadata,
    /// A field of a tensor twice.
    #[error("tensor {}: field `{field}` stands twice", quote(tensor))]
    DuplicateField {
        /// The tensor.
        tensor: String,
        /// The field.
        field: &'static str,
    },
    /// A field that the format does not have.
    #[error("tensor {}: unknown field {}, expected dtype, shape and data_offsets", quote(tensor), quote(field))]
    UnknownField {
        /// The tensor.
        tensor: String,
        /// The field.
        field: String,
    },
    /// A tensor without its type, shape or place.
    #[error("tensor {}: field `{field}` is missing", quote(tensor))]
    MissingField {
        /// The tensor.
        tensor: String,
        /// The field.
        field: &'static str,
    },
    /// A dimension or an offset that is not an integer from 0 to 2⁶⁴ − 1.
    #[error("tensor {}: field `{field}` holds {found}, not an integer from 0 to 2^64 - 1", quote(tensor))]
    BadNumber {
        /// The tensor.
        tensor: String,
        /// The field.
        field: &'static str,
        /// What the file has there.
        found: String,
    },
    /// An element type that is not known.
    #[error("tensor {}: unknown dtype {}; known are {}", quote(tensor), quote(dtype), Dtype::names())]
    UnknownDtype {
        /// The tensor.
        tensor: String,
        /// The name in the file.
        dtype: String,
    },
    /// More than [`MAX_RANK`](crate::MAX_RANK) dimensions.
    #[error("tensor {}: more than {limit} dimensions", quote(.0), limit = crate::MAX_RANK)]
    TooManyDimensions(String),
    /// `data_offsets` is not a pair.
    #[error("tensor {}: data_offsets has to hold exactly two numbers, begin and end", quote(.0))]
    NotAPair(String),
    /// Bytes after the last tensor.
    #[error("{count} bytes follow the last tensor and belong to none; write the file again")]
    TrailingBytes {
        /// How many.
        count: u64,
    },
}

/// What is wrong with one tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorFault {
    /// Its data ends before it begins.
    #[error("data_offsets run backwards, from {begin} to {end}")]
    Reversed {
        /// First byte, counted from the end of the header.
        begin: u64,
        /// One past its last byte.
        end: u64,
    },
    /// The product of its element size and its dimensions other than 0 overflows.
    #[error("the size of shape {shape} overflows; no file can hold it")]
    Overflow {
        /// The shape.
        shape: String,
    },
    /// Shape and data disagree.
    #[error("shape {shape} of {dtype} takes {expected} bytes, data_offsets give {found}")]
    SizeMismatch {
        /// The shape.
        shape: String,
        /// The element type.
        dtype: Dtype,
        /// Bytes by shape and type.
        expected: u64,
        /// Bytes by the offsets.
        found: u64,
    },
    /// Its data ends beyond the file.
    #[error("its data ends at byte {end} of {available}: the file is cut short, copy or download it again")]
    BeyondFile {
        /// One past its last byte, counted from the end of the header.
        end: u64,
        /// Bytes of data in the file.
        available: u64,
    },
    /// Before its data are bytes that belong to no tensor.
    #[error(
        "its data begins at byte {begin}, the tensor before it ends at {previous_end}: the bytes between belong to none"
    )]
    Hole {
        /// First byte, counted from the end of the header.
        begin: u64,
        /// One past the last byte of the data before it.
        previous_end: u64,
    },
    /// Its data overlaps another tensor's.
    #[error("its data begins at byte {begin}, but the tensor before it ends at {previous_end}: they overlap")]
    Overlap {
        /// First byte, counted from the end of the header.
        begin: u64,
        /// One past the last byte of the data before it.
        previous_end: u64,
    },
    /// There is no tensor of that name.
    #[error("there is no such tensor among the {count}{}", did_you_mean(suggestion))]
    NotFound {
        /// How many tensors there are.
        count: usize,
        /// The nearest name.
        suggestion: Option<String>,
    },
    /// The buffer to read into has another length than the tensor.
    #[error("shape {shape} has {elements} elements, {wanted} are wanted: the file belongs to a model of another shape")]
    WrongLength {
        /// The shape.
        shape: String,
        /// Elements in the file.
        elements: usize,
        /// Elements of the buffer.
        wanted: usize,
    },
    /// The type has no conversion to the one wanted.
    #[error("dtype {found} can't be read as {wanted}")]
    WrongDtype {
        /// The type in the file.
        found: TensorFormat,
        /// What it should be.
        wanted: &'static str,
    },
    /// Bytes or rows behind the tensor's last are asked for.
    #[error("{unit} up to {end} are asked for, it has {available}")]
    OutsideTensor {
        /// `bytes` or `rows`.
        unit: &'static str,
        /// Behind the last one asked for.
        end: u64,
        /// How many there are.
        available: u64,
    },
    /// The buffer to read rows into holds no whole number of them.
    #[error("rows have {row} elements, a buffer of {wanted} holds no whole number of them")]
    PartialRows {
        /// Elements of a row.
        row: usize,
        /// Elements of the buffer.
        wanted: usize,
    },
    /// A value is NaN or infinite.
    #[error("element {index} is {value}: the weights are damaged or come from a run that diverged")]
    NotFinite {
        /// Index of the first such element in row-major order.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The file ended while the tensor was read.
    #[error("the file was cut short after it had been opened: its data no longer reaches byte {end} of the file")]
    CutShort {
        /// Where the data ended when the file was opened.
        end: u64,
    },
}

/// What is wrong with a JSON file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonFault {
    /// Over [`MAX_JSON_BYTES`](crate::MAX_JSON_BYTES).
    #[error("the file has {len} bytes, at most {limit} are accepted", limit = crate::MAX_JSON_BYTES)]
    TooLarge {
        /// Bytes in the file.
        len: u64,
    },
    /// Not UTF-8.
    #[error("not UTF-8 (at byte {offset} of the file)")]
    NotUtf8 {
        /// Position of the first byte that is not UTF-8.
        offset: usize,
    },
    /// Not JSON.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// A key twice in one object.
    #[error("key {} stands twice in one object; remove one", quote(.0))]
    DuplicateKey(String),
    /// Too many values: in memory they would take far more than the file.
    #[error("holds more values than any such file needs")]
    TooManyValues,
    /// A value of the wrong kind.
    #[error("{field} has to be {expected}")]
    WrongKind {
        /// Which value.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
}

/// What is wrong with `model.safetensors.index.json`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// No object `weight_map`.
    #[error("`weight_map` is missing or is not an object of tensor names and file names")]
    NoWeightMap,
    /// A `weight_map` without entries.
    #[error("`weight_map` names no tensor")]
    Empty,
    /// A tensor without a name.
    #[error("`weight_map` holds an empty tensor name")]
    EmptyName,
    /// The file of a tensor is not given as text.
    #[error("`weight_map`: the file of tensor {} is not a string", quote(.0))]
    ShardNotText(String),
    /// A file name that could lead out of the folder.
    #[error(
        "`weight_map`: tensor {} points to {}, which is not a plain path inside the folder",
        quote(tensor),
        quote(shard)
    )]
    UnsafeShard {
        /// The tensor.
        tensor: String,
        /// The file name given.
        shard: String,
    },
    /// More files than [`MAX_SHARDS`](crate::MAX_SHARDS).
    #[error("`weight_map` names more than {limit} files", limit = crate::MAX_SHARDS)]
    TooManyShards,
    /// More than [`MAX_TENSORS`](crate::MAX_TENSORS) tensors.
    #[error("`weight_map` names more than {limit} tensors", limit = crate::MAX_TENSORS)]
    TooManyTensors,
    /// A file that is not there.
    #[error("the weights are incomplete: {} is missing; download it again", quote(.0))]
    MissingShard(String),
    /// A tensor stands in two files, with different contents.
    #[error("tensor {} stands in {} and in {}, and they differ", quote(tensor), quote(first), quote(second))]
    TwoContents {
        /// The tensor.
        tensor: String,
        /// The file that the index names for it.
        first: String,
        /// The other one.
        second: String,
    },
    /// A tensor is missing in the file that the index names for it.
    #[error("tensor {} is not in {}: index and weights belong to different models", quote(tensor), quote(shard))]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The file that should hold it.
        shard: String,
    },
}

/// How a file differs from its entry in a manifest.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DamageFault {
    /// It is not there.
    #[error("the file is missing")]
    Missing,
    /// It is longer or shorter.
    #[error("the file has {found} bytes, the manifest says {expected}")]
    Size {
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// Its content differs.
    #[error("the SHA-256 of the content is not the manifest's")]
    Checksum,
    /// The manifest itself can't be understood.
    #[error("the manifest is not valid: {0}")]
    Manifest(String),
}

/// Why a writer refuses a tensor or a file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteFault {
    /// The empty name.
    #[error("the name is empty")]
    EmptyName,
    /// A name over [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES).
    #[error("the name is longer than {limit} bytes", limit = crate::MAX_NAME_BYTES)]
    LongName,
    /// A name that the format keeps for itself.
    #[error("the name is reserved")]
    Reserved,
    /// A file name with a folder in it, or one that starts with `.tmp-`.
    #[error("the name has to be a plain file name")]
    NotPlain,
    /// The name was used before.
    #[error("the name is taken")]
    Taken,
    /// More or fewer elements than the shape says.
    #[error("shape {shape} does not have {found} elements")]
    SizeMismatch {
        /// The shape.
        shape: String,
        /// Elements handed over.
        found: usize,
    },
    /// More bytes or fewer than shape and type take.
    #[error("shape {shape} of {format} takes {expected} bytes, {found} were handed over")]
    WrongBytes {
        /// The shape.
        shape: String,
        /// The type.
        format: TensorFormat,
        /// Bytes by shape and type.
        expected: u64,
        /// Bytes handed over.
        found: u64,
    },
    /// What no GGUF file can hold.
    #[error("{0}")]
    Gguf(GgufFault),
    /// More dimensions or tensors, or more text, than the reader accepts.
    #[error("over the limit of {limit} {what}")]
    OverLimit {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl CheckpointError {
    /// An operating system's error on `path`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> CheckpointError {
        let path = path.to_path_buf();
        move |source| CheckpointError::Io { path, action, source }
    }

    /// An error about one tensor of `path`.
    pub fn tensor(path: &Path, tensor: &str, fault: TensorFault) -> Self {
        CheckpointError::Tensor { path: path.to_path_buf(), tensor: tensor.to_owned(), fault }
    }

    /// An error about a GGUF file.
    pub(crate) fn gguf(path: &Path, offset: u64, place: GgufPlace, fault: GgufFault) -> Self {
        CheckpointError::Gguf { path: path.to_path_buf(), offset, place: Box::new(place), fault }
    }

    /// Whether the cause is the content of a file, not the system or the caller.
    ///
    /// The command line ends with the code for "bad model or data file" then.
    pub fn is_bad_file(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Unwritable { .. } => false,
            Self::Missing { .. }
            | Self::Header { .. }
            | Self::Gguf { .. }
            | Self::Tensor { .. }
            | Self::Json { .. }
            | Self::Index { .. }
            | Self::Damaged { .. } => true,
        }
    }
}
