//! The header of a GGUF file, read strictly.
//!
//! ```text
//! "GGUF"  version: u32  tensors: u64  entries: u64
//! entries ×  key: string   value type: u32   value
//! tensors ×  name: string  dimensions: u32   their sizes: u64 each, the fastest first   type: u32   offset: u64
//! padding to the alignment
//! data of all tensors, each padded to the alignment
//! ```
//!
//! All numbers are little endian; a string is its length (`u64`) and so many bytes of UTF-8; an array is the type of
//! its elements (`u32`), their number (`u64`) and the elements. Offsets count from the beginning of the data.
//!
//! Source: the GGUF specification of the project ggml. Versions 2 and 3 differ in nothing that is read here.

use std::path::Path;

use super::cursor::Cursor;
use super::limits::*;
use super::metadata::{Entry, GgufMetadata};
use super::value::{GgufArray, GgufValue, GgufValueType};
use super::{GgmlType, GgufFault, GgufPlace, layout};
use crate::CheckpointError;
use crate::file::other_format;
use crate::positioned::ReadAt;

/// The first bytes of a file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// The key that says how tensor data is aligned.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
/// The fewest bytes of a metadata entry: a key of one letter, a type, a value of one byte.
const LEAST_ENTRY: u64 = 8 + 1 + 4 + 1;
/// The fewest bytes of a tensor's description: a name of one letter, no dimensions, type and offset.
const LEAST_TENSOR: u64 = 8 + 1 + 4 + 4 + 8;

type Result<T> = std::result::Result<T, CheckpointError>;

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Name, never empty.
    pub name: String,
    /// Type of the elements, or of the blocks that hold them.
    pub ggml_type: GgmlType,
    /// Dimensions, the slowest first (the file has them the other way round), none of them 0; empty for a scalar.
    pub shape: Vec<usize>,
    /// Position of the data in the file, in bytes.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: u64,
    /// Position of the description in the file, in bytes.
    pub described_at: u64,
}

/// A checked header.
#[derive(Debug, Clone)]
pub struct GgufHeader {
    /// 2 or 3.
    pub version: u32,
    /// The metadata.
    pub metadata: GgufMetadata,
    /// What offsets of tensors are multiples of, in bytes: a power of two.
    pub alignment: u32,
    /// The tensors, in the order of the file.
    pub tensors: Vec<GgufTensor>,
}

/// Reads and checks the header of a GGUF file whose whole content is `file`.
///
/// `path` only names the file in errors.
///
/// # Errors
/// [`CheckpointError::Gguf`] for all that is wrong with the header, and for tensors that don't lie end to end in the
/// file.
pub fn parse_gguf_header(path: &Path, file: &[u8]) -> Result<GgufHeader> {
    read_header(path, &file, file.len() as u64)
}

/// Reads and checks the header of a file of `len` bytes.
pub(super) fn read_header(path: &Path, source: &dyn ReadAt, len: u64) -> Result<GgufHeader> {
    let mut cursor = Cursor::new(path, source, len);
    let version = read_version(&mut cursor)?;
    let tensors = read_count(&mut cursor, "tensor_count", LEAST_TENSOR, crate::MAX_TENSORS as u64)?;
    let entries = read_count(&mut cursor, "metadata_kv_count", LEAST_ENTRY, MAX_GGUF_KEYS)?;
    let metadata = read_metadata(&mut cursor, path, entries)?;
    let alignment = alignment(&metadata)?;

    let mut placed = Vec::with_capacity(tensors);
    for number in 0..tensors {
        placed.push(read_tensor(&mut cursor, number as u64, alignment)?);
    }
    let header_end = cursor.position();
    layout::place(path, &mut placed, layout::DataRegion { header_end, alignment: alignment.into(), file_len: len })?;
    Ok(GgufHeader { version, metadata, alignment, tensors: placed })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let mut start = [0; 16];
    let first = cursor.peek()?;
    let known = first.len().min(start.len());
    start[..known].copy_from_slice(&first[..known]);
    let found: [u8; 4] = cursor.number::<u32>()?.to_le_bytes();
    if found != MAGIC {
        let looks_like = other_format(&start[..known]);
        return Err(cursor.fault_at(0, GgufFault::BadMagic { found, looks_like }));
    }
    cursor.place = GgufPlace::Field("version");
    let at = cursor.position();
    let fault = match cursor.number::<u32>()? {
        version @ (2 | 3) => return Ok(version),
        1 => GgufFault::FirstVersion,
        version if version != 0 && version & 0xffff == 0 => GgufFault::BigEndian(version.swap_bytes()),
        version => GgufFault::Version(version),
    };
    Err(cursor.fault_at(at, fault))
}

/// A number of entries, at most `limit`.
fn read_count(cursor: &mut Cursor<'_>, field: &'static str, least: u64, limit: u64) -> Result<usize> {
    cursor.place = GgufPlace::Field(field);
    let at = cursor.position();
    let count = cursor.count(least)?;
    if count as u64 > limit {
        let what = if field == "tensor_count" { "tensors" } else { "metadata entries" };
        return Err(cursor.fault_at(at, GgufFault::OverLimit { what, found: count as u64, limit }));
    }
    Ok(count)
}

fn read_metadata(cursor: &mut Cursor<'_>, path: &Path, count: usize) -> Result<GgufMetadata> {
    let mut entries = Vec::with_capacity(count);
    let mut nested = 0;
    for number in 0..count {
        let offset = cursor.position();
        cursor.place = GgufPlace::KeyNumber(number as u64);
        let key = cursor.name(MAX_GGUF_KEY_BYTES)?;
        cursor.place = GgufPlace::Key(key.clone());
        let value = match read_value_type(cursor)? {
            GgufValueType::U8 => GgufValue::U8(cursor.number()?),
            GgufValueType::I8 => GgufValue::I8(cursor.number()?),
            GgufValueType::U16 => GgufValue::U16(cursor.number()?),
            GgufValueType::I16 => GgufValue::I16(cursor.number()?),
            GgufValueType::U32 => GgufValue::U32(cursor.number()?),
            GgufValueType::I32 => GgufValue::I32(cursor.number()?),
            GgufValueType::F32 => GgufValue::F32(cursor.number()?),
            GgufValueType::Bool => GgufValue::Bool(cursor.bool()?),
            GgufValueType::String => GgufValue::String(cursor.string()?),
            GgufValueType::Array => GgufValue::Array(read_array(cursor, 1, &mut nested)?),
            GgufValueType::U64 => GgufValue::U64(cursor.number()?),
            GgufValueType::I64 => GgufValue::I64(cursor.number()?),
            GgufValueType::F64 => GgufValue::F64(cursor.number()?),
        };
        entries.push(Entry { key, offset, value });
    }
    GgufMetadata::new(path, entries)
}

fn read_value_type(cursor: &mut Cursor<'_>) -> Result<GgufValueType> {
    let at = cursor.position();
    let number = cursor.number()?;
    GgufValueType::from_number(number).ok_or_else(|| cursor.fault_at(at, GgufFault::UnknownValueType(number)))
}

/// An array at so many levels; `nested` counts the arrays that stand in others.
fn read_array(cursor: &mut Cursor<'_>, depth: usize, nested: &mut u64) -> Result<GgufArray> {
    let at = cursor.position();
    if depth > MAX_GGUF_ARRAY_DEPTH {
        return Err(cursor.fault_at(at, GgufFault::TooDeep));
    }
    let element = read_value_type(cursor)?;
    let count = cursor.count(least_bytes(element))?;
    Ok(match element {
        GgufValueType::U8 => GgufArray::U8(cursor.numbers(count)?),
        GgufValueType::I8 => GgufArray::I8(cursor.numbers(count)?),
        GgufValueType::U16 => GgufArray::U16(cursor.numbers(count)?),
        GgufValueType::I16 => GgufArray::I16(cursor.numbers(count)?),
        GgufValueType::U32 => GgufArray::U32(cursor.numbers(count)?),
        GgufValueType::I32 => GgufArray::I32(cursor.numbers(count)?),
        GgufValueType::F32 => GgufArray::F32(cursor.numbers(count)?),
        GgufValueType::Bool => GgufArray::Bool(cursor.bools(count)?),
        GgufValueType::String => GgufArray::Strings(cursor.strings(count)?),
        GgufValueType::Array => {
            *nested += count as u64;
            if *nested > MAX_GGUF_NESTED_ARRAYS {
                let fault =
                    GgufFault::OverLimit { what: "nested arrays", found: *nested, limit: MAX_GGUF_NESTED_ARRAYS };
                return Err(cursor.fault_at(at, fault));
            }
            GgufArray::Arrays((0..count).map(|_| read_array(cursor, depth + 1, nested)).collect::<Result<_>>()?)
        }
        GgufValueType::U64 => GgufArray::U64(cursor.numbers(count)?),
        GgufValueType::I64 => GgufArray::I64(cursor.numbers(count)?),
        GgufValueType::F64 => GgufArray::F64(cursor.numbers(count)?),
    })
}

/// The fewest bytes of a value of that kind.
fn least_bytes(value_type: GgufValueType) -> u64 {
    match value_type {
        GgufValueType::U8 | GgufValueType::I8 | GgufValueType::Bool => 1,
        GgufValueType::U16 | GgufValueType::I16 => 2,
        GgufValueType::U32 | GgufValueType::I32 | GgufValueType::F32 => 4,
        GgufValueType::U64 | GgufValueType::I64 | GgufValueType::F64 | GgufValueType::String => 8,
        // Type and number of the elements.
        GgufValueType::Array => 12,
    }
}

/// The alignment that the metadata asks for.
fn alignment(metadata: &GgufMetadata) -> Result<u32> {
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => return Ok(DEFAULT_GGUF_ALIGNMENT),
        Some(GgufValue::U32(alignment)) => *alignment,
        Some(other) => {
            return Err(metadata.fault(ALIGNMENT_KEY, GgufFault::wrong_type(other.value_type(), "u32")));
        }
    };
    if !is_alignment(alignment) {
        return Err(metadata.fault(ALIGNMENT_KEY, GgufFault::Alignment(alignment)));
    }
    Ok(alignment)
}

/// Whether a file may have this alignment.
pub(super) fn is_alignment(alignment: u32) -> bool {
    alignment.is_power_of_two() && (8..=MAX_GGUF_ALIGNMENT).contains(&alignment)
}

/// One tensor's description. Its `offset` counts from the beginning of the data yet.
fn read_tensor(cursor: &mut Cursor<'_>, number: u64, alignment: u32) -> Result<GgufTensor> {
    let described_at = cursor.position();
    cursor.place = GgufPlace::TensorNumber(number);
    let name = cursor.name(MAX_GGUF_NAME_BYTES)?;
    let field = |field| GgufPlace::Tensor { name: name.clone(), field };

    cursor.place = field("dimensions");
    let at = cursor.position();
    let rank: u32 = cursor.number()?;
    if rank > MAX_GGUF_RANK {
        return Err(cursor.fault_at(at, GgufFault::TooManyDimensions(rank)));
    }
    cursor.place = field("shape");
    let shape_at = cursor.position();
    let mut sizes: Vec<u64> = cursor.numbers(rank as usize)?;
    if let Some(index) = sizes.iter().position(|&size| size == 0) {
        return Err(cursor.fault_at(shape_at + 8 * index as u64, GgufFault::ZeroDimension { index }));
    }
    let row = sizes.first().copied().unwrap_or(1);
    sizes.reverse();

    cursor.place = field("type");
    let at = cursor.position();
    let ggml_type = tensor_type(cursor.number()?).map_err(|fault| cursor.fault_at(at, fault))?;
    if !row.is_multiple_of(ggml_type.block_elements() as u64) {
        return Err(cursor.fault_at(at, GgufFault::PartialBlock { row, ggml_type }));
    }
    let elements = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
    let bytes = elements.and_then(|elements| ggml_type.bytes_of(elements));
    let shape: Option<Vec<usize>> = sizes.iter().map(|&size| usize::try_from(size).ok()).collect();
    let (Some(bytes), Some(shape)) = (bytes, shape) else {
        cursor.place = field("shape");
        return Err(cursor.fault_at(shape_at, GgufFault::Overflow { shape: format!("{sizes:?}") }));
    };

    cursor.place = field("offset");
    let at = cursor.position();
    let offset: u64 = cursor.number()?;
    let alignment = u64::from(alignment);
    if !offset.is_multiple_of(alignment) {
        return Err(cursor.fault_at(at, GgufFault::Misaligned { begin: offset, alignment }));
    }
    Ok(GgufTensor { name, ggml_type, shape, offset, bytes, described_at })
}

fn tensor_type(number: u32) -> std::result::Result<GgmlType, GgufFault> {
    GgmlType::from_number(number).ok_or(match GgmlType::removed(number) {
        Some(name) => GgufFault::RemovedTensorType { number, name },
        None => GgufFault::UnknownTensorType(number),
    })
}
