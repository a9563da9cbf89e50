//! Writing a GGUF file (version 3) from borrowed values.
//!
//! The header follows from names, types and shapes alone; then the data streams through one small buffer, so the weights
//! are never in memory twice. Tensors lie in the order in which they were added, which is the order of their
//! descriptions: readers ask for that.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use bytemuck::Pod;

use super::header::{ALIGNMENT_KEY, MAGIC, is_alignment};
use super::limits::*;
use super::value::{GgufArray, GgufStrings, GgufValue};
use super::{GgmlType, GgufFault};
use crate::convert::ChunkBuffer;
use crate::error::{CheckpointError, WriteFault};
use crate::message::quote;
use crate::write::write_data;
use crate::{MAX_TENSORS, TensorData, write_file_atomic};

/// The version that is written.
const VERSION: u32 = 3;

/// Values of a tensor and how they are stored, in row-major order.
#[derive(Clone, Copy)]
pub enum GgufData<'a> {
    /// `f32`, stored bit for bit.
    F32(&'a [f32]),
    /// `f32`, stored as half precision; a finite value too large for it fails the writing.
    F16(&'a [f32]),
    /// `f32`, stored as `bf16`, rounded to nearest; a finite value that would round to infinity fails the writing.
    Bf16(&'a [f32]),
    /// Bytes as they are to stand in the file.
    Stored(GgmlType, &'a [u8]),
    /// Bytes that are made while the file is written: as many as shape and type take, or the writing fails.
    Streamed(GgmlType, &'a dyn Fn(&mut dyn Write) -> io::Result<()>),
}

impl GgufData<'_> {
    /// The type in the file.
    pub fn ggml_type(&self) -> GgmlType {
        match *self {
            Self::F32(_) => GgmlType::F32,
            Self::F16(_) => GgmlType::F16,
            Self::Bf16(_) => GgmlType::Bf16,
            Self::Stored(ggml_type, _) | Self::Streamed(ggml_type, _) => ggml_type,
        }
    }

    /// Bytes in the file, where they are known without the shape.
    fn bytes(&self) -> Option<u64> {
        match self {
            Self::F32(values) | Self::F16(values) | Self::Bf16(values) => {
                self.ggml_type().bytes_of(values.len() as u64)
            }
            Self::Stored(_, bytes) => Some(bytes.len() as u64),
            Self::Streamed(..) => None,
        }
    }
}

impl fmt::Debug for GgufData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GgufData({}, {:?} bytes)", self.ggml_type(), self.bytes())
    }
}

#[derive(Debug)]
struct Tensor<'a> {
    name: String,
    shape: Vec<usize>,
    data: GgufData<'a>,
    /// Bytes in the file, without padding.
    bytes: u64,
}

/// A GGUF file in the making: it borrows the values until [`write_to`](Self::write_to).
///
/// Whatever it accepts, [`GgufFile`](crate::GgufFile) reads back.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use smallmind_checkpoint::{GgufData, GgufFile, GgufValue, GgufWriter, TensorSource};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("tiny.gguf");
/// let norm = [1.0f32; 8];
/// let mut writer = GgufWriter::new();
/// writer.set("general.architecture", GgufValue::String("llama".into()))?;
/// writer.add("output_norm.weight", &[8], GgufData::F32(&norm))?;
/// writer.write_file(&path)?;
///
/// let file = GgufFile::open(&path)?;
/// assert_eq!(file.metadata().required::<&str>("general.architecture")?, "llama");
/// let mut read = [0.0; 8];
/// file.read_f32("output_norm.weight", &mut read)?;
/// assert_eq!(read, norm);
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct GgufWriter<'a> {
    metadata: Vec<(String, GgufValue)>,
    /// Where each key stands in `metadata`.
    keys: HashMap<String, usize>,
    tensors: Vec<Tensor<'a>>,
    names: BTreeSet<String>,
}

impl<'a> GgufWriter<'a> {
    /// A file without metadata and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a metadata key; a key set before gets the new value and keeps its place.
    ///
    /// `general.alignment`, an `u32`, also aligns the data; without it that is aligned to
    /// [`DEFAULT_GGUF_ALIGNMENT`](crate::DEFAULT_GGUF_ALIGNMENT).
    ///
    /// # Errors
    /// An empty or long key, arrays nested too deep, too many entries, an alignment that a file can't have.
    pub fn set(&mut self, key: &str, value: GgufValue) -> Result<&mut Self, CheckpointError> {
        if let Some(fault) = self.key_refusal(key, &value) {
            return Err(unwritable(key, WriteFault::Gguf(fault)));
        }
        match self.keys.get(key) {
            Some(&at) => self.metadata[at].1 = value,
            None => {
                self.keys.insert(key.to_owned(), self.metadata.len());
                self.metadata.push((key.to_owned(), value));
            }
        }
        Ok(self)
    }

    fn key_refusal(&self, key: &str, value: &GgufValue) -> Option<GgufFault> {
        if key.is_empty() {
            return Some(GgufFault::EmptyName);
        }
        let (found, limit) = (key.len() as u64, MAX_GGUF_KEY_BYTES);
        if found > limit {
            return Some(GgufFault::LongName { found, limit });
        }
        let found = self.metadata.len() as u64 + 1;
        if found > MAX_GGUF_KEYS && !self.keys.contains_key(key) {
            return Some(GgufFault::OverLimit { what: "metadata entries", found, limit: MAX_GGUF_KEYS });
        }
        if key == ALIGNMENT_KEY {
            match value {
                GgufValue::U32(alignment) if is_alignment(*alignment) => {}
                GgufValue::U32(alignment) => return Some(GgufFault::Alignment(*alignment)),
                other => return Some(GgufFault::wrong_type(other.value_type(), "u32")),
            }
        }
        let others = self.metadata.iter().filter(|(other, _)| other != key).map(|(_, value)| nested(value));
        let found = others.sum::<u64>() + nested(value);
        if found > MAX_GGUF_NESTED_ARRAYS {
            return Some(GgufFault::OverLimit { what: "nested arrays", found, limit: MAX_GGUF_NESTED_ARRAYS });
        }
        matches!(value, GgufValue::Array(array) if depth(array) > MAX_GGUF_ARRAY_DEPTH).then_some(GgufFault::TooDeep)
    }

    /// Adds a tensor; its shape has the slowest dimension first.
    ///
    /// # Errors
    /// An empty, long or taken name; more dimensions than a file can have, or an empty one; rows that are no whole
    /// number of blocks; more or less data than the shape takes.
    pub fn add(&mut self, name: &str, shape: &[usize], data: GgufData<'a>) -> Result<&mut Self, CheckpointError> {
        let bytes = self.checked_bytes(name, shape, data).map_err(|fault| unwritable(name, fault))?;
        self.names.insert(name.to_owned());
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), data, bytes });
        Ok(self)
    }

    /// The bytes of a tensor in the file, if it can be stored.
    fn checked_bytes(&self, name: &str, shape: &[usize], data: GgufData<'a>) -> Result<u64, WriteFault> {
        let (found, limit) = (name.len() as u64, MAX_GGUF_NAME_BYTES);
        if found == 0 {
            return Err(WriteFault::EmptyName);
        }
        if found > limit {
            return Err(WriteFault::Gguf(GgufFault::LongName { found, limit }));
        }
        if self.names.contains(name) {
            return Err(WriteFault::Taken);
        }
        if shape.len() > MAX_GGUF_RANK as usize {
            return Err(WriteFault::OverLimit { what: "dimensions", limit: MAX_GGUF_RANK as usize });
        }
        if self.tensors.len() == MAX_TENSORS {
            return Err(WriteFault::OverLimit { what: "tensors", limit: MAX_TENSORS });
        }
        if let Some(index) = shape.iter().rev().position(|&size| size == 0) {
            return Err(WriteFault::Gguf(GgufFault::ZeroDimension { index }));
        }
        let ggml_type = data.ggml_type();
        let row = shape.last().copied().unwrap_or(1) as u64;
        if !row.is_multiple_of(ggml_type.block_elements() as u64) {
            return Err(WriteFault::Gguf(GgufFault::PartialBlock { row, ggml_type }));
        }
        let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size as u64));
        let overflow = || WriteFault::Gguf(GgufFault::Overflow { shape: format!("{shape:?}") });
        let expected = elements.and_then(|elements| ggml_type.bytes_of(elements)).ok_or_else(overflow)?;
        match data.bytes() {
            Some(found) if found != expected => {
                Err(WriteFault::WrongBytes { shape: format!("{shape:?}"), format: ggml_type.into(), expected, found })
            }
            _ => Ok(expected),
        }
    }

    /// Writes the file through [`write_file_atomic`]: it appears whole or not at all.
    ///
    /// # Errors
    /// Those of [`write_to`](Self::write_to) and of the file system.
    pub fn write_file(&self, path: impl AsRef<Path>) -> Result<(), CheckpointError> {
        write_file_atomic(path, |out| self.write_to(out))
    }

    /// Writes the whole file; the writer is not flushed or synced.
    ///
    /// # Errors
    /// `InvalidData` for a header over [`MAX_GGUF_HEADER_BYTES`](crate::MAX_GGUF_HEADER_BYTES), for a value that is too
    /// large for the type it is to be stored as, and for streamed data of another length than the tensor; those of
    /// `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let alignment = u64::from(self.alignment());
        let mut header = Counted { out, written: 0, limit: MAX_GGUF_HEADER_BYTES, what: "header" };
        self.write_header(&mut header, alignment)?;
        let written = header.written;
        if !self.tensors.is_empty() {
            pad(written, alignment, out)?;
        }
        let mut buffer = ChunkBuffer::new();
        for Tensor { name, data, bytes, .. } in &self.tensors {
            match *data {
                GgufData::F32(values) => write_data(name, TensorData::F32(values), &mut buffer, out)?,
                GgufData::F16(values) => write_data(name, TensorData::F16(values), &mut buffer, out)?,
                GgufData::Bf16(values) => write_data(name, TensorData::Bf16(values), &mut buffer, out)?,
                GgufData::Stored(_, stored) => out.write_all(stored)?,
                GgufData::Streamed(_, write) => {
                    let mut counted = Counted { out, written: 0, limit: *bytes, what: "tensor's data" };
                    write(&mut counted)?;
                    let written = counted.written;
                    if written != *bytes {
                        return Err(invalid(format!("tensor {}: {written} bytes of {bytes} were made", quote(name))));
                    }
                }
            }
            pad(*bytes, alignment, out)?;
        }
        Ok(())
    }

    fn alignment(&self) -> u32 {
        match self.keys.get(ALIGNMENT_KEY).map(|&at| &self.metadata[at].1) {
            Some(GgufValue::U32(alignment)) => *alignment,
            _ => DEFAULT_GGUF_ALIGNMENT,
        }
    }

    fn write_header(&self, out: &mut dyn Write, alignment: u64) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        write_len(self.tensors.len(), out)?;
        write_len(self.metadata.len(), out)?;
        for (key, value) in &self.metadata {
            write_text(key, out)?;
            out.write_all(&value.value_type().number().to_le_bytes())?;
            write_value(value, out)?;
        }
        let mut offset = 0u64;
        for Tensor { name, shape, data, bytes } in &self.tensors {
            write_text(name, out)?;
            // Not truncated: there are at most four dimensions.
            out.write_all(&(shape.len() as u32).to_le_bytes())?;
            shape.iter().rev().try_for_each(|&size| write_len(size, out))?;
            out.write_all(&data.ggml_type().number().to_le_bytes())?;
            out.write_all(&offset.to_le_bytes())?;
            let end = offset.checked_add(*bytes).and_then(|end| end.checked_next_multiple_of(alignment));
            offset = end.ok_or_else(|| invalid("the sizes of the tensors overflow".to_owned()))?;
        }
        Ok(())
    }
}

fn unwritable(name: &str, fault: WriteFault) -> CheckpointError {
    CheckpointError::Unwritable { name: name.to_owned(), fault }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Levels of arrays, this one counted.
fn depth(array: &GgufArray) -> usize {
    match array {
        GgufArray::Arrays(arrays) => 1 + arrays.iter().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

/// Arrays that stand inside other arrays.
fn nested(value: &GgufValue) -> u64 {
    fn inside(array: &GgufArray) -> u64 {
        match array {
            GgufArray::Arrays(arrays) => arrays.len() as u64 + arrays.iter().map(inside).sum::<u64>(),
            _ => 0,
        }
    }
    match value {
        GgufValue::Array(array) => inside(array),
        _ => 0,
    }
}

/// A writer that counts, and refuses more bytes than `limit`.
struct Counted<'w> {
    out: &'w mut dyn Write,
    written: u64,
    limit: u64,
    /// What is written, for errors.
    what: &'static str,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.limit - self.written {
            return Err(invalid(format!("the {} takes more than {} bytes", self.what, self.limit)));
        }
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Zeros from `len` bytes to the next multiple of the alignment.
fn pad(len: u64, alignment: u64, out: &mut dyn Write) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut left = (len.wrapping_neg() & (alignment - 1)) as usize;
    while left > 0 {
        let n = left.min(ZEROS.len());
        out.write_all(&ZEROS[..n])?;
        left -= n;
    }
    Ok(())
}

fn write_len(len: usize, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&(len as u64).to_le_bytes())
}

fn write_text(text: &str, out: &mut dyn Write) -> io::Result<()> {
    write_len(text.len(), out)?;
    out.write_all(text.as_bytes())
}

fn write_value(value: &GgufValue, out: &mut dyn Write) -> io::Result<()> {
    match value {
        GgufValue::U8(number) => out.write_all(&number.to_le_bytes()),
        GgufValue::I8(number) => out.write_all(&number.to_le_bytes()),
        GgufValue::U16(number) => out.write_all(&number.to_le_bytes()),
        GgufValue::I16(number) => out.write_all(&number.to_le_bytes()),
        GgufValue::U32(number) => out.write_all(&number.to_le_bytes()),
        GgufValue::I32(number) => out.write_all(&number.to_le_bytes()),
        GgufValue::F32(number) => out.write_all(&number.to_le_bytes()),
        GgufValue::Bool(truth) => out.write_all(&[u8::from(*truth)]),
        GgufValue::String(text) => write_text(text, out),
        GgufValue::Array(array) => write_array(array, out),
        GgufValue::U64(number) => out.write_all(&number.to_le_bytes()),
        GgufValue::I64(number) => out.write_all(&number.to_le_bytes()),
        GgufValue::F64(number) => out.write_all(&number.to_le_bytes()),
    }
}

fn write_array(array: &GgufArray, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&array.element_type().number().to_le_bytes())?;
    write_len(array.len(), out)?;
    match array {
        GgufArray::U8(numbers) => out.write_all(numbers),
        GgufArray::I8(numbers) => write_numbers(numbers, i8::to_le_bytes, out),
        GgufArray::U16(numbers) => write_numbers(numbers, u16::to_le_bytes, out),
        GgufArray::I16(numbers) => write_numbers(numbers, i16::to_le_bytes, out),
        GgufArray::U32(numbers) => write_numbers(numbers, u32::to_le_bytes, out),
        GgufArray::I32(numbers) => write_numbers(numbers, i32::to_le_bytes, out),
        GgufArray::F32(numbers) => write_numbers(numbers, f32::to_le_bytes, out),
        GgufArray::Bool(truths) => truths.iter().try_for_each(|&truth| out.write_all(&[u8::from(truth)])),
        GgufArray::Strings(strings) => write_texts(strings, out),
        GgufArray::Arrays(arrays) => arrays.iter().try_for_each(|array| write_array(array, out)),
        GgufArray::U64(numbers) => write_numbers(numbers, u64::to_le_bytes, out),
        GgufArray::I64(numbers) => write_numbers(numbers, i64::to_le_bytes, out),
        GgufArray::F64(numbers) => write_numbers(numbers, f64::to_le_bytes, out),
    }
}

fn write_texts(strings: &GgufStrings, out: &mut dyn Write) -> io::Result<()> {
    strings.iter().try_for_each(|text| write_text(text, out))
}

fn write_numbers<N: Pod, const BYTES: usize>(
    numbers: &[N],
    to_le_bytes: fn(N) -> [u8; BYTES],
    out: &mut dyn Write,
) -> io::Result<()> {
    if cfg!(target_endian = "little") {
        return out.write_all(bytemuck::cast_slice(numbers));
    }
    numbers.iter().try_for_each(|&number| out.write_all(&to_le_bytes(number)))
}
