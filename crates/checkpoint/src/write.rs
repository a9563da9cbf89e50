//! Writing a safetensors file from borrowed values.
//!
//! The header is made first, from names, types and shapes; then the data streams through one small buffer. So the
//! weights are never in memory twice, whatever type they are stored as. Tensors are in the order that the format's own
//! library uses (widest element first, then by name) and the header is padded with spaces to eight bytes, so every
//! tensor is aligned to its element.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::Dtype;
use crate::convert::{CHUNK, ChunkBuffer};
use crate::error::{CheckpointError, WriteFault};
use crate::header::{
    MAX_HEADER_BYTES, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_STRING_BYTES, MAX_TENSORS, METADATA,
};
use crate::message::quote;

/// Values to be stored and how.
#[derive(Debug, Clone, Copy)]
pub enum TensorData<'a> {
    /// `f32`, stored bit for bit, NaN and infinities included.
    F32(&'a [f32]),
    /// `f32` of a matrix of so many rows whose elements are blocks of numbers, stored bit for bit as its transpose: the
    /// file holds the blocks `[cols, rows]`. With blocks of one number it is the transpose of a matrix of numbers.
    F32Transposed {
        /// The blocks `[rows, cols]`.
        values: &'a [f32],
        /// Rows in memory.
        rows: usize,
        /// Numbers of a block, above 0.
        block: usize,
    },
    /// `f32`, stored as half precision; writing fails if a finite value is too large for it.
    F16(&'a [f32]),
    /// `f32`, stored as `BF16`, rounded to nearest; writing fails if a finite value would round to infinity.
    Bf16(&'a [f32]),
    /// Bytes.
    U8(&'a [u8]),
    /// 64-bit integers.
    I64(&'a [i64]),
}

impl TensorData<'_> {
    /// The type in the file.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) | Self::F32Transposed { .. } => Dtype::F32,
            Self::F16(_) => Dtype::F16,
            Self::Bf16(_) => Dtype::Bf16,
            Self::U8(_) => Dtype::U8,
            Self::I64(_) => Dtype::I64,
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) | Self::F16(values) | Self::Bf16(values) | Self::F32Transposed { values, .. } => {
                values.len()
            }
            Self::U8(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A safetensors file under construction: it borrows the values until [`write_to`](Self::write_to).
///
/// [`TensorFile`](crate::TensorFile) can read all that it accepts.
#[derive(Debug)]
pub struct TensorWriter<'a> {
    tensors: BTreeMap<String, (Vec<usize>, TensorData<'a>)>,
    metadata: BTreeMap<String, String>,
}

impl Default for TensorWriter<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> TensorWriter<'a> {
    /// A file without tensors and with the metadata `{"format": "pt"}`, which other tools look for.
    pub fn new() -> Self {
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        Self { tensors: BTreeMap::new(), metadata }
    }

    /// Adds a tensor; `data` holds its elements in row-major order.
    pub fn add(&mut self, name: &str, shape: &[usize], data: TensorData<'a>) -> Result<&mut Self, CheckpointError> {
        if let Some(fault) = self.refusal(name, shape, data) {
            return Err(CheckpointError::Unwritable { name: name.to_owned(), fault });
        }
        self.tensors.insert(name.to_owned(), (shape.to_vec(), data));
        Ok(self)
    }

    /// Sets a metadata key; a key set before gets the new value.
    pub fn set_metadata(&mut self, key: &str, value: &str) -> Result<&mut Self, CheckpointError> {
        let others = self.metadata.iter().filter(|(other, _)| *other != key);
        let bytes = key.len() + value.len() + others.map(|(key, value)| key.len() + value.len()).sum::<usize>();
        // A byte may take six when it is escaped in JSON; the string limit counts six for each.
        let limit = if bytes > MAX_METADATA_BYTES {
            Some(("bytes of metadata", MAX_METADATA_BYTES))
        } else if key.len().max(value.len()) > MAX_STRING_BYTES / 6 {
            Some(("bytes in one metadata text", MAX_STRING_BYTES / 6))
        } else if self.metadata.len() == MAX_TENSORS && !self.metadata.contains_key(key) {
            Some(("metadata keys", MAX_TENSORS))
        } else {
            None
        };
        if let Some((what, limit)) = limit {
            let fault = WriteFault::OverLimit { what, limit };
            return Err(CheckpointError::Unwritable { name: key.to_owned(), fault });
        }
        self.metadata.insert(key.to_owned(), value.to_owned());
        Ok(self)
    }

    fn refusal(&self, name: &str, shape: &[usize], data: TensorData<'a>) -> Option<WriteFault> {
        let over = |what, limit| Some(WriteFault::OverLimit { what, limit });
        if name.is_empty() {
            return Some(WriteFault::EmptyName);
        }
        if name.len() > MAX_NAME_BYTES {
            return Some(WriteFault::LongName);
        }
        if name == METADATA {
            return Some(WriteFault::Reserved);
        }
        if self.tensors.contains_key(name) {
            return Some(WriteFault::Taken);
        }
        if shape.len() > MAX_RANK {
            return over("dimensions", MAX_RANK);
        }
        if self.tensors.len() == MAX_TENSORS {
            return over("tensors", MAX_TENSORS);
        }
        // The reader refuses dimensions whose product overflows when zeros are left out, so they are refused here too.
        let nonzero = shape.iter().filter(|&&dim| dim != 0);
        let product = nonzero.copied().try_fold(data.dtype().size(), usize::checked_mul);
        let elements = if shape.contains(&0) { 0 } else { product.unwrap_or(0) / data.dtype().size() };
        let turned = match data {
            TensorData::F32Transposed { rows, block: 1, .. } => shape.len() == 2 && shape[1] == rows,
            TensorData::F32Transposed { values, rows, block } => {
                let row = rows.checked_mul(block).filter(|row| *row > 0);
                row.is_some_and(|row| values.len().is_multiple_of(row))
            }
            _ => true,
        };
        if product.is_none() || elements != data.len() || !turned {
            return Some(WriteFault::SizeMismatch { shape: format!("{shape:?}"), found: data.len() });
        }
        None
    }

    /// Writes the whole file; the writer is not flushed or synced.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut order: Vec<_> = self.tensors.iter().collect();
        // A stable sort: names stay in order within a size.
        order.sort_by_key(|(_, (_, data))| std::cmp::Reverse(data.dtype().size()));
        let json = self.header(&order)?;
        if json.len() as u64 > MAX_HEADER_BYTES {
            let text = format!("the names of the tensors make a header of {} bytes, over the limit", json.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        out.write_all(&(json.len() as u64).to_le_bytes())?;
        out.write_all(&json)?;
        let mut buffer = ChunkBuffer::new();
        for (name, (_, data)) in order {
            write_data(name, *data, &mut buffer, out)?;
        }
        Ok(())
    }

    fn header(&self, order: &[(&String, &(Vec<usize>, TensorData<'a>))]) -> io::Result<Vec<u8>> {
        let mut json = Vec::with_capacity(128 * (1 + order.len()));
        write!(json, "{{\"{METADATA}\":")?;
        serde_json::to_writer(&mut json, &self.metadata)?;
        let mut begin = 0u64;
        for (name, (shape, data)) in order {
            let end = begin + data.len() as u64 * data.dtype().size() as u64;
            json.push(b',');
            serde_json::to_writer(&mut json, name)?;
            write!(json, ":{{\"dtype\":\"{}\",\"shape\":", data.dtype())?;
            serde_json::to_writer(&mut json, shape)?;
            write!(json, ",\"data_offsets\":[{begin},{end}]}}")?;
            begin = end;
        }
        json.push(b'}');
        json.resize(json.len().next_multiple_of(8), b' ');
        Ok(json)
    }
}

/// Writes the values of a tensor as they stand in a file.
pub(crate) fn write_data(
    name: &str,
    data: TensorData<'_>,
    buffer: &mut ChunkBuffer,
    out: &mut dyn Write,
) -> io::Result<()> {
    let native = cfg!(target_endian = "little");
    match data {
        TensorData::U8(values) => out.write_all(values),
        TensorData::I64(values) if native => out.write_all(bytemuck::cast_slice(values)),
        TensorData::I64(values) => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
        TensorData::F32(values) if native => out.write_all(bytemuck::cast_slice(values)),
        TensorData::F32(values) => {
            values.chunks(CHUNK).try_for_each(|part| out.write_all(buffer.encode(Dtype::F32, part)))
        }
        TensorData::F32Transposed { values, rows, block: 1 } => write_transposed(values, rows, buffer, out),
        TensorData::F32Transposed { values, rows, block } => write_blocks(values, rows, block, buffer, out),
        TensorData::F16(values) | TensorData::Bf16(values) => {
            let dtype = data.dtype();
            for (chunk, part) in values.chunks(CHUNK).enumerate() {
                if let Some(at) = part.iter().position(|value| value.is_finite() && value.abs() >= overflow_from(dtype))
                {
                    let (index, value) = (chunk * CHUNK + at, part[at]);
                    let name = quote(name);
                    let text = format!("tensor {name}: element {index} is {value}, too large for {dtype}; store F32");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                out.write_all(buffer.encode(dtype, part))?;
            }
            Ok(())
        }
    }
}

/// Writes the matrix `values` of `rows` rows column by column, in pieces of a bounded size.
fn write_transposed(values: &[f32], rows: usize, buffer: &mut ChunkBuffer, out: &mut dyn Write) -> io::Result<()> {
    /// On the stack.
    const PART: usize = 1024;
    let cols = values.len().checked_div(rows).unwrap_or(0);
    let mut part = [0.0; PART];
    for first in (0..values.len()).step_by(PART) {
        let part = &mut part[..(values.len() - first).min(PART)];
        for (place, at) in part.iter_mut().zip(first..) {
            *place = values[at % rows * cols + at / rows];
        }
        out.write_all(buffer.encode(Dtype::F32, part))?;
    }
    Ok(())
}

/// Writes the matrix `values` of `rows` rows of blocks column by column.
fn write_blocks(
    values: &[f32],
    rows: usize,
    block: usize,
    buffer: &mut ChunkBuffer,
    out: &mut dyn Write,
) -> io::Result<()> {
    let cols = values.len() / (rows * block);
    for i in 0..rows * cols {
        let at = (i % rows * cols + i / rows) * block;
        for part in values[at..at + block].chunks(CHUNK) {
            out.write_all(buffer.encode(Dtype::F32, part))?;
        }
    }
    Ok(())
}

/// The smallest magnitude that rounds to infinity: half a step above the largest value of the type.
fn overflow_from(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => 65520.0,
        Dtype::Bf16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    }
}
