//! The header of a safetensors file, read strictly.
//!
//! ```text
//! [ n: u64, little endian ][ n bytes of JSON, space-padded ][ data of all tensors, end to end ]
//! {"__metadata__": {"format": "pt"}, "wte.weight": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]}, …}
//! ```
//!
//! Offsets count from the end of the JSON. The format demands that they cover the data without gap or overlap. In
//! addition this reader refuses what makes a file ambiguous or expensive: a name or a key twice, an empty name, a
//! product of dimensions that overflows when zeros are left out, and sizes over the limits below. With the limits the
//! parser takes less than 64 MiB of memory besides the header's bytes.
//!
//! Not here: files, which [`TensorFile`](crate::TensorFile) reads.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{CheckpointError, HeaderFault};
use crate::layout::{Placed, check_layout};
use crate::text::json_problem;
use crate::{Dtype, TensorInfo};

/// The longest header accepted, in bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The most tensors in one file.
pub const MAX_TENSORS: usize = 65_536;
/// The longest tensor name, in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// The most dimensions of a tensor.
pub const MAX_RANK: usize = 16;
/// The most bytes of keys and values of metadata.
pub const MAX_METADATA_BYTES: usize = 8 << 20;
/// The longest string of the header, in bytes.
pub const MAX_STRING_BYTES: usize = 4 << 20;

/// Bytes of the number before the header, which is its length.
pub(crate) const LENGTH_BYTES: u64 = 8;
/// The key of the metadata.
pub(crate) const METADATA: &str = "__metadata__";

/// A checked header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The tensors, in the order of their names.
    pub tensors: Vec<TensorInfo>,
    /// The metadata; empty if the file has none.
    pub metadata: BTreeMap<String, String>,
}

/// Reads and checks the header `json` of a file with `data_bytes` bytes after the header.
///
/// `path` only names the file in errors.
pub fn parse_header(path: &Path, json: &[u8], data_bytes: u64) -> Result<Header, CheckpointError> {
    let fault_at = |at: usize, fault| CheckpointError::Header {
        path: path.to_path_buf(),
        offset: LENGTH_BYTES + at as u64,
        fault,
    };
    match json.first() {
        Some(b'{') => {}
        Some(&found) => return Err(fault_at(0, HeaderFault::NoBrace { found })),
        None => return Err(fault_at(0, HeaderFault::Json("it is empty".into()))),
    }
    if let Err(error) = std::str::from_utf8(json) {
        return Err(fault_at(error.valid_up_to(), HeaderFault::NotUtf8));
    }
    if let Some(at) = find_long_string(json) {
        return Err(fault_at(at, HeaderFault::LongString));
    }

    let mut fault = None;
    let mut parser = serde_json::Deserializer::from_slice(json);
    let parsed = HeaderSeed { fault: &mut fault }.deserialize(&mut parser).and_then(|raw| parser.end().map(|()| raw));
    let raw = parsed.map_err(|error| {
        let at = byte_offset(json, error.line(), error.column());
        fault_at(at, fault.unwrap_or_else(|| HeaderFault::Json(without_place(&error))))
    })?;

    let data_start = LENGTH_BYTES + json.len() as u64;
    let tensors = check_layout(path, raw.tensors, data_start, data_bytes)?;
    Ok(Header { tensors, metadata: raw.metadata })
}

/// Where the first string longer than [`MAX_STRING_BYTES`] begins.
///
/// The JSON parser unescapes a string into a buffer of its own, so lengths are bounded before it runs.
fn find_long_string(json: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < json.len() {
        if json[at] != b'"' {
            at += 1;
            continue;
        }
        let start = at;
        at += 1;
        while at < json.len() && json[at] != b'"' {
            at += if json[at] == b'\\' { 2 } else { 1 };
        }
        if at - start > MAX_STRING_BYTES {
            return Some(start);
        }
        at += 1;
    }
    None
}

/// The byte of `text` at a line and a column as `serde_json` counts them.
fn byte_offset(text: &[u8], line: usize, column: usize) -> usize {
    let mut newlines = text.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at + 1);
    let start = if line < 2 { 0 } else { newlines.nth(line - 2).unwrap_or(text.len()) };
    (start + column.saturating_sub(1)).min(text.len())
}

/// The text of a parser's error without its line and column, which the caller reports in its own way.
pub(crate) fn without_place(error: &serde_json::Error) -> String {
    let text = json_problem(error);
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].to_owned()
}

struct RawHeader {
    tensors: BTreeMap<String, Placed>,
    metadata: BTreeMap<String, String>,
}

/// Stores `found` for the caller of the parser, and returns an error that ends the parsing.
fn stop<E: de::Error>(fault: &mut Option<HeaderFault>, found: HeaderFault) -> E {
    let error = E::custom(&found);
    *fault = Some(found);
    error
}

struct HeaderSeed<'f> {
    fault: &'f mut Option<HeaderFault>,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = RawHeader;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawHeader, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if metadata.is_some() {
                    return Err(stop(self.fault, HeaderFault::DuplicateMetadata(name)));
                }
                metadata = Some(map.next_value_seed(MetadataSeed { fault: self.fault })?);
                continue;
            }
            if name.is_empty() {
                return Err(stop(self.fault, HeaderFault::EmptyName));
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(stop(self.fault, HeaderFault::LongName(name)));
            }
            if tensors.contains_key(&name) {
                return Err(stop(self.fault, HeaderFault::DuplicateTensor(name)));
            }
            if tensors.len() == MAX_TENSORS {
                return Err(stop(self.fault, HeaderFault::TooManyTensors));
            }
            let placed = map.next_value_seed(TensorSeed { fault: self.fault, name: &name })?;
            tensors.insert(name, placed);
        }
        Ok(RawHeader { tensors, metadata: metadata.unwrap_or_default() })
    }
}

struct MetadataSeed<'f> {
    fault: &'f mut Option<HeaderFault>,
}

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = BTreeMap<String, String>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts as metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut metadata = BTreeMap::new();
        let mut bytes = 0;
        while let Some(key) = map.next_key::<String>()? {
            if metadata.contains_key(&key) {
                return Err(stop(self.fault, HeaderFault::DuplicateMetadata(key)));
            }
            let value: String = map.next_value()?;
            bytes += key.len() + value.len();
            if bytes > MAX_METADATA_BYTES || metadata.len() == MAX_TENSORS {
                return Err(stop(self.fault, HeaderFault::LongMetadata));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }
}

struct TensorSeed<'f, 'n> {
    fault: &'f mut Option<HeaderFault>,
    name: &'n str,
}

impl<'de> DeserializeSeed<'de> for TensorSeed<'_, '_> {
    type Value = Placed;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Placed, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed<'_, '_> {
    type Value = Placed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Placed, A::Error> {
        let Self { fault, name } = self;
        let tensor = || name.to_owned();
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(field) = map.next_key::<String>()? {
            let twice = match field.as_str() {
                "dtype" => {
                    let text: String = map.next_value()?;
                    let Some(known) = Dtype::from_name(&text) else {
                        return Err(stop(fault, HeaderFault::UnknownDtype { tensor: tensor(), dtype: text }));
                    };
                    dtype.replace(known).map(|_| "dtype")
                }
                "shape" => {
                    let numbers = NumbersSeed { fault, name, field: "shape", limit: MAX_RANK };
                    shape.replace(map.next_value_seed(numbers)?).map(|_| "shape")
                }
                "data_offsets" => {
                    let numbers = NumbersSeed { fault, name, field: "data_offsets", limit: 2 };
                    let &[begin, end] = map.next_value_seed(numbers)?.as_slice() else {
                        return Err(stop(fault, HeaderFault::NotAPair(tensor())));
                    };
                    offsets.replace((begin, end)).map(|_| "data_offsets")
                }
                _ => return Err(stop(fault, HeaderFault::UnknownField { tensor: tensor(), field })),
            };
            if let Some(field) = twice {
                return Err(stop(fault, HeaderFault::DuplicateField { tensor: tensor(), field }));
            }
        }
        let missing = |field| HeaderFault::MissingField { tensor: tensor(), field };
        let Some(dtype) = dtype else { return Err(stop(fault, missing("dtype"))) };
        let Some(shape) = shape else { return Err(stop(fault, missing("shape"))) };
        let Some((begin, end)) = offsets else { return Err(stop(fault, missing("data_offsets"))) };
        Ok(Placed { dtype, shape, begin, end })
    }
}

struct NumbersSeed<'f, 'n> {
    fault: &'f mut Option<HeaderFault>,
    name: &'n str,
    field: &'static str,
    limit: usize,
}

impl<'de> DeserializeSeed<'de> for NumbersSeed<'_, '_> {
    type Value = Vec<u64>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u64>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for NumbersSeed<'_, '_> {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of integers as {}", self.field)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) =
            seq.next_element_seed(NumberSeed { fault: self.fault, name: self.name, field: self.field })?
        {
            if numbers.len() == self.limit {
                let name = self.name.to_owned();
                let pair = self.field == "data_offsets";
                let found = if pair { HeaderFault::NotAPair(name) } else { HeaderFault::TooManyDimensions(name) };
                return Err(stop(self.fault, found));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}

struct NumberSeed<'f, 'n> {
    fault: &'f mut Option<HeaderFault>,
    name: &'n str,
    field: &'static str,
}

impl NumberSeed<'_, '_> {
    fn refuse<E: de::Error>(self, found: impl fmt::Display) -> E {
        let (tensor, field, found) = (self.name.to_owned(), self.field, found.to_string());
        stop(self.fault, HeaderFault::BadNumber { tensor, field, found })
    }
}

impl<'de> DeserializeSeed<'de> for NumberSeed<'_, '_> {
    type Value = u64;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_u64(self)
    }
}

impl Visitor<'_> for NumberSeed<'_, '_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an integer in {}", self.field)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        Err(self.refuse(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<u64, E> {
        // Integers beyond 64 bits arrive here too.
        Err(self.refuse(value))
    }
}
