//! One safetensors file, open for reading.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::convert::{first_non_finite, read_floats};
use crate::error::{CheckpointError, HeaderFault, TensorFault};
use crate::header::{Header, LENGTH_BYTES, MAX_HEADER_BYTES, parse_header};
use crate::positioned::{PositionedFile, ReadAt, open_file};
use crate::{Dtype, did_you_mean};

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, never empty.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Dimensions, the slowest first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Position of the data in the file, in bytes.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: u64,
}

impl TensorInfo {
    /// The product of the dimensions.
    pub fn elements(&self) -> usize {
        // The header check has made sure that the file has `bytes` bytes, so the quotient is a possible count. If it
        // does not fit `usize` on this machine, no buffer for the tensor exists either.
        usize::try_from(self.bytes / self.dtype.size() as u64).unwrap_or(usize::MAX)
    }
}

/// A safetensors file whose header has been checked in full.
///
/// Data is read on demand from the tensor's position, by any number of threads at once; nothing is mapped or kept. A
/// file that is truncated while it is open gives [`TensorFault::CutShort`].
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: PositionedFile,
    header: Header,
}

impl TensorFile {
    /// Opens a file and checks its header against its size.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let (file, len) = open_file(path, "not a file; name a .safetensors file")?;
        let json = read_header(path, &file, len)?;
        let data_bytes = len - LENGTH_BYTES - json.len() as u64;
        let header = parse_header(path, &json, data_bytes)?;
        Ok(Self { path: path.to_path_buf(), file, header })
    }

    /// The path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.header.tensors.iter()
    }

    /// The metadata; empty if the file has none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The tensor of that name; the error names the nearest one.
    pub fn info(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.find(name).ok_or_else(|| {
            not_found(&self.path, name, self.tensors().len(), self.tensors().map(|info| info.name.as_str()))
        })
    }

    /// The stored bytes of a tensor, little endian.
    pub fn read_bytes(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let info = self.info(name)?;
        let len = usize::try_from(info.bytes).unwrap_or(usize::MAX);
        let mut out = Vec::new();
        // The header check has made sure that the file has the data; memory for it may still be lacking.
        if out.try_reserve_exact(len).is_err() {
            return Err(CheckpointError::io(&self.path, "get memory for a tensor of")(
                io::ErrorKind::OutOfMemory.into(),
            ));
        }
        out.resize(len, 0);
        self.read_at(info, &mut out, 0)?;
        Ok(out)
    }

    /// Reads a floating-point tensor into `out`, row-major, converted to `f32`.
    ///
    /// `out` has as many elements as the tensor. `F32` is read in place; `F16` and `BF16` convert exactly, `F64`
    /// rounds.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        let info = self.info(name)?;
        if !info.dtype.is_float() {
            return Err(self.fault(info, TensorFault::WrongDtype { found: info.dtype.into(), wanted: "f32" }));
        }
        self.check_length(info, out.len())?;
        read_floats(info.dtype, out, |bytes, at| self.read_at(info, bytes, at))
    }

    /// As [`read_f32`](Self::read_f32); refuses NaN and infinities, and names the first.
    pub fn read_finite_f32(&self, name: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        self.read_f32(name, out)?;
        match first_non_finite(out) {
            None => Ok(()),
            Some(index) => {
                Err(CheckpointError::tensor(&self.path, name, TensorFault::NotFinite { index, value: out[index] }))
            }
        }
    }

    /// Reads a tensor of `I64` into `out`, which has as many elements.
    pub fn read_i64(&self, name: &str, out: &mut [i64]) -> Result<(), CheckpointError> {
        let info = self.info(name)?;
        if info.dtype != Dtype::I64 {
            return Err(self.fault(info, TensorFault::WrongDtype { found: info.dtype.into(), wanted: "i64" }));
        }
        self.check_length(info, out.len())?;
        self.read_at(info, bytemuck::cast_slice_mut(out), 0)?;
        out.iter_mut().for_each(|value| *value = i64::from_le(*value));
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        let tensors = &self.header.tensors;
        tensors.binary_search_by(|info| info.name.as_str().cmp(name)).ok().map(|at| &tensors[at])
    }

    fn fault(&self, info: &TensorInfo, fault: TensorFault) -> CheckpointError {
        CheckpointError::tensor(&self.path, &info.name, fault)
    }

    fn check_length(&self, info: &TensorInfo, wanted: usize) -> Result<(), CheckpointError> {
        let elements = info.elements();
        if elements == wanted {
            return Ok(());
        }
        let shape = format!("{:?}", info.shape);
        Err(self.fault(info, TensorFault::WrongLength { shape, elements, wanted }))
    }

    /// Fills `out` from byte `at` of a tensor's data on.
    pub(crate) fn read_at(&self, info: &TensorInfo, out: &mut [u8], at: u64) -> Result<(), CheckpointError> {
        self.file.read_exact_at(out, info.offset + at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.fault(info, TensorFault::CutShort { end: info.offset + info.bytes }),
            _ => CheckpointError::io(&self.path, "read")(error),
        })
    }
}

/// The error for a name that is not among `count` names.
pub(crate) fn not_found<'a>(
    path: &Path,
    name: &str,
    count: usize,
    names: impl Iterator<Item = &'a str>,
) -> CheckpointError {
    let suggestion = did_you_mean(name, names).map(str::to_owned);
    CheckpointError::tensor(path, name, TensorFault::NotFound { count, suggestion })
}

/// Reads the JSON of the header of a file of `len` bytes.
fn read_header(path: &Path, file: &PositionedFile, len: u64) -> Result<Vec<u8>, CheckpointError> {
    let refuse = |fault| Err(CheckpointError::Header { path: path.to_path_buf(), offset: 0, fault });
    let read =
        |out: &mut [u8], at| file.read_exact_at(out, at).map_err(CheckpointError::io(path, "read the header of"));

    let mut start = [0; 16];
    let known = usize::try_from(len).unwrap_or(usize::MAX).min(start.len());
    read(&mut start[..known], 0)?;
    let looks_like = other_format(&start[..known]);
    let Some((length, _)) = start[..known].split_first_chunk::<8>() else {
        return refuse(HeaderFault::TooShort { len, looks_like });
    };
    let declared = u64::from_le_bytes(*length);
    let available = len - LENGTH_BYTES;
    if declared > available {
        return refuse(HeaderFault::BeyondFile { declared, available, looks_like });
    }
    if declared > MAX_HEADER_BYTES {
        return refuse(HeaderFault::TooLong { declared });
    }
    // Not truncated: the limit is far below any `usize`.
    let mut json = vec![0; declared as usize];
    read(&mut json, LENGTH_BYTES)?;
    Ok(json)
}

/// What a file that is not of the format wanted seems to be, by its first bytes.
pub(crate) fn other_format(start: &[u8]) -> Option<&'static str> {
    const OLD_GGML: &str = "a GGML file from before GGUF; convert the model again";
    const KNOWN: [(&[u8], &str); 11] = [
        (b"GGUF", "a GGUF file"),
        (b"FUGG", "a GGUF file with its bytes swapped"),
        (b"lmgg", OLD_GGML),
        (b"fmgg", OLD_GGML),
        (b"tjgg", OLD_GGML),
        (b"PK\x03\x04", "a zip archive or a PyTorch checkpoint; convert it to safetensors"),
        (b"\x80\x02", "a Python pickle; convert it to safetensors"),
        (b"version https://", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
        (b"<", "a web page; the download went wrong"),
        (b"\x1f\x8b", "a gzip archive; unpack it"),
        (b"{", "JSON without the length before it"),
    ];
    let known = KNOWN.iter().find(|(magic, _)| start.starts_with(magic)).map(|&(_, what)| what);
    known.or_else(|| (start.get(8) == Some(&b'{')).then_some("a safetensors file"))
}
