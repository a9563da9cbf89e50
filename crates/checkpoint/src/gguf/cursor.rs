//! Reading a header from front to back, in chunks, with every size checked before it is used.
//!
//! The cursor knows what is being read ([`GgufPlace`]), so each error says it. Nothing is allocated for a number of
//! bytes or of entries before the file is known to hold as many.

use std::io;
use std::path::Path;

use bytemuck::{Pod, Zeroable};

use super::limits::MAX_GGUF_HEADER_BYTES;
use super::value::GgufStrings;
use super::{GgufFault, GgufPlace};
use crate::CheckpointError;
use crate::positioned::ReadAt;

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

type Result<T> = std::result::Result<T, CheckpointError>;

/// Numbers that lie in a file as they do in memory, but for the byte order.
pub(super) trait Number: Pod + Zeroable {
    /// The number whose bytes are those of `self` in the order of the file, which is little endian.
    fn in_native_order(self) -> Self;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            fn in_native_order(self) -> Self {
                Self::from_le_bytes(bytemuck::cast(self))
            }
        }
    )*};
}
numbers!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);

pub(super) struct Cursor<'f> {
    path: &'f Path,
    source: &'f dyn ReadAt,
    /// Bytes of the file.
    len: u64,
    /// Where the next byte is read.
    position: u64,
    /// What is being read, for errors.
    pub place: GgufPlace,
    /// Bytes of the file from `chunk_start` on.
    chunk: Vec<u8>,
    chunk_start: u64,
}

impl<'f> Cursor<'f> {
    pub fn new(path: &'f Path, source: &'f dyn ReadAt, len: u64) -> Self {
        let place = GgufPlace::Field("magic");
        Self { path, source, len, position: 0, place, chunk: Vec::new(), chunk_start: 0 }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// An error about what is being read, at byte `offset`.
    pub fn fault_at(&self, offset: u64, fault: GgufFault) -> CheckpointError {
        CheckpointError::gguf(self.path, offset, self.place.clone(), fault)
    }

    /// Refuses bytes that the file doesn't have or that make the header too long.
    fn need(&self, bytes: u64) -> Result<()> {
        let left = self.len - self.position;
        if bytes > left {
            return Err(self.fault_at(self.position, GgufFault::BeyondFile { needed: bytes, left }));
        }
        if bytes > MAX_GGUF_HEADER_BYTES.saturating_sub(self.position) {
            return Err(self.fault_at(self.position, GgufFault::LongHeader));
        }
        Ok(())
    }

    /// A number of entries of at least `least` bytes each that follow, checked against the bytes that are left.
    pub fn count(&mut self, least: u64) -> Result<usize> {
        let at = self.position;
        let count: u64 = self.number()?;
        let left = self.len - self.position;
        match count.checked_mul(least) {
            Some(bytes) if bytes <= left => {
                self.need(bytes)?;
                // Not truncated: the header's limit is below any `usize`.
                Ok(count as usize)
            }
            _ => Err(self.fault_at(at, GgufFault::CountBeyondFile { count, least, left })),
        }
    }

    /// The first bytes, without moving; fewer where the file has fewer.
    pub fn peek(&mut self) -> Result<&[u8]> {
        self.refill()?;
        Ok(&self.chunk)
    }

    pub fn number<N: Number>(&mut self) -> Result<N> {
        let mut number = N::zeroed();
        self.read(bytemuck::bytes_of_mut(&mut number))?;
        Ok(number.in_native_order())
    }

    /// `count` numbers.
    pub fn numbers<N: Number>(&mut self, count: usize) -> Result<Vec<N>> {
        self.need((count as u64).saturating_mul(size_of::<N>() as u64))?;
        let mut numbers = vec![N::zeroed(); count];
        self.read(bytemuck::cast_slice_mut(&mut numbers))?;
        if cfg!(target_endian = "big") {
            numbers.iter_mut().for_each(|number| *number = number.in_native_order());
        }
        Ok(numbers)
    }

    pub fn bool(&mut self) -> Result<bool> {
        let at = self.position;
        match self.number::<u8>()? {
            byte @ (0 | 1) => Ok(byte == 1),
            byte => Err(self.fault_at(at, GgufFault::BadBool(byte))),
        }
    }

    pub fn bools(&mut self, count: usize) -> Result<Vec<bool>> {
        let at = self.position;
        let bytes: Vec<u8> = self.numbers(count)?;
        if let Some(index) = bytes.iter().position(|&byte| byte > 1) {
            return Err(self.fault_at(at + index as u64, GgufFault::BadBool(bytes[index])));
        }
        Ok(bytes.into_iter().map(|byte| byte == 1).collect())
    }

    /// The length of a text, which follows it.
    fn text_len(&mut self) -> Result<usize> {
        let len: u64 = self.number()?;
        self.need(len)?;
        // Not truncated: the header's limit is below any `usize`.
        Ok(len as usize)
    }

    /// A text with its length before it.
    pub fn string(&mut self) -> Result<String> {
        let len = self.text_len()?;
        let at = self.position;
        let bytes = self.numbers(len)?;
        String::from_utf8(bytes)
            .map_err(|error| self.fault_at(at, GgufFault::NotUtf8 { valid_up_to: error.utf8_error().valid_up_to() }))
    }

    /// The name of a key or of a tensor, of 1 to `limit` bytes.
    pub fn name(&mut self, limit: u64) -> Result<String> {
        let at = self.position;
        let len: u64 = self.number()?;
        if len == 0 {
            return Err(self.fault_at(at, GgufFault::EmptyName));
        }
        if len > limit {
            return Err(self.fault_at(at, GgufFault::LongName { found: len, limit }));
        }
        self.position = at;
        self.string()
    }

    /// `count` texts, end to end.
    ///
    /// Two passes: the first adds up the lengths, so that the buffer is allocated once and in its right size.
    pub fn strings(&mut self, count: usize) -> Result<GgufStrings> {
        let start = self.position;
        let mut total = 0;
        for _ in 0..count {
            let len = self.text_len()?;
            total += len;
            self.position += len as u64;
        }
        self.position = start;
        let mut text = vec![0; total];
        let mut ends = Vec::with_capacity(count);
        let mut end = 0;
        for _ in 0..count {
            let len = self.text_len()?;
            let at = self.position;
            // The file may have changed since the first pass; then the lengths may no longer fit the buffer.
            let Some(out) = text.get_mut(end..).and_then(|rest| rest.get_mut(..len)) else {
                return Err(self.fault_at(at, GgufFault::CutShort { end: self.len }));
            };
            self.read(out)?;
            if let Err(error) = std::str::from_utf8(out) {
                return Err(self.fault_at(at, GgufFault::NotUtf8 { valid_up_to: error.valid_up_to() }));
            }
            end += len;
            ends.push(end);
        }
        // Each text is UTF-8 by itself, so the whole is; checked once more rather than trusted.
        let text = String::from_utf8(text).map_err(|error| {
            self.fault_at(start, GgufFault::NotUtf8 { valid_up_to: error.utf8_error().valid_up_to() })
        })?;
        Ok(GgufStrings::from_parts(text, ends))
    }

    /// Fills `out` with the next bytes.
    fn read(&mut self, mut out: &mut [u8]) -> Result<()> {
        self.need(out.len() as u64)?;
        loop {
            let chunk = self.chunk_from_position();
            let n = chunk.len().min(out.len());
            out[..n].copy_from_slice(&chunk[..n]);
            self.position += n as u64;
            out = &mut out[n..];
            if out.is_empty() {
                return Ok(());
            }
            if out.len() >= CHUNK {
                self.source.read_exact_at(out, self.position).map_err(|error| self.io(error, out.len()))?;
                self.position += out.len() as u64;
                return Ok(());
            }
            self.refill()?;
        }
    }

    fn chunk_from_position(&self) -> &[u8] {
        let from = self.position.checked_sub(self.chunk_start).and_then(|from| usize::try_from(from).ok());
        from.and_then(|from| self.chunk.get(from..)).unwrap_or(&[])
    }

    /// Reads the chunk that begins at the position.
    fn refill(&mut self) -> Result<()> {
        let bytes = (self.len - self.position).min(CHUNK as u64) as usize;
        self.chunk.resize(bytes, 0);
        self.chunk_start = self.position;
        let result = self.source.read_exact_at(&mut self.chunk, self.position);
        result.map_err(|error| self.io(error, bytes))
    }

    fn io(&self, error: io::Error, bytes: usize) -> CheckpointError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                self.fault_at(self.position, GgufFault::CutShort { end: self.position + bytes as u64 })
            }
            _ => CheckpointError::io(self.path, "read the header of")(error),
        }
    }
}
