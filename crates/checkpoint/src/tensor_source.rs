//! What files of weights have in common, whatever their format: named tensors of stored bytes.

use std::fmt;
use std::io;
use std::path::Path;

use crate::convert::{first_non_finite, read_floats};
use crate::error::{CheckpointError, TensorFault};
use crate::file::not_found;
use crate::{Dtype, GgmlType};

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorFormat {
    /// Each by itself.
    Plain(Dtype),
    /// In blocks of a quantized type, each of which lies in one row.
    Blocks(GgmlType),
}

impl TensorFormat {
    /// The element type whose numbers convert to `f32` one by one.
    fn float(self) -> Option<Dtype> {
        match self {
            Self::Plain(dtype) if dtype.is_float() => Some(dtype),
            _ => None,
        }
    }

    /// Whether each element is a floating-point number by itself.
    pub fn is_float(self) -> bool {
        self.float().is_some()
    }
}

impl From<Dtype> for TensorFormat {
    fn from(dtype: Dtype) -> Self {
        Self::Plain(dtype)
    }
}

impl From<GgmlType> for TensorFormat {
    /// Types of plain numbers are the same in all files.
    fn from(ggml_type: GgmlType) -> Self {
        ggml_type.dtype().map_or(Self::Blocks(ggml_type), Self::Plain)
    }
}

impl fmt::Display for TensorFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => dtype.fmt(f),
            Self::Blocks(ggml_type) => ggml_type.fmt(f),
        }
    }
}

/// A tensor of a [`TensorSource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredTensor<'s> {
    /// Name, never empty.
    pub name: &'s str,
    /// Dimensions, the slowest first; empty for a scalar.
    pub shape: &'s [usize],
    /// How the elements are stored.
    pub format: TensorFormat,
    /// Bytes of data.
    pub bytes: u64,
}

impl StoredTensor<'_> {
    /// Elements of a row: the last dimension, 1 for a scalar.
    pub fn row_elements(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows: the product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        // Saturating for a tensor without elements, whose other dimensions may be of any size.
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().fold(1, |rows, &size| rows.saturating_mul(size)))
    }

    /// The product of the dimensions.
    pub fn elements(&self) -> usize {
        self.rows().saturating_mul(self.row_elements())
    }
}

/// Files of named tensors: [`WeightFiles`](crate::WeightFiles) or a [`GgufFile`](crate::GgufFile).
///
/// Any number of threads may read at once; nothing is mapped or kept. A file that is cut short while it is open is an
/// error.
pub trait TensorSource: Send + Sync {
    /// The path by which the files were opened.
    fn path(&self) -> &Path;

    /// The tensors: those of safetensors in the order of their names, those of a GGUF file in the order of the file.
    fn tensors(&self) -> Box<dyn ExactSizeIterator<Item = StoredTensor<'_>> + '_>;

    /// The tensor of that name.
    fn find(&self, name: &str) -> Option<StoredTensor<'_>>;

    /// Fills `out` with the stored bytes of a tensor, from its byte `at` on.
    ///
    /// # Errors
    /// An unknown name; bytes that the tensor doesn't have; a file that was cut short.
    fn read_at(&self, name: &str, at: u64, out: &mut [u8]) -> Result<(), CheckpointError>;

    /// Whether there is a tensor of that name.
    fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// An unknown name; the error has the nearest one.
    fn tensor(&self, name: &str) -> Result<StoredTensor<'_>, CheckpointError> {
        self.find(name)
            .ok_or_else(|| not_found(self.path(), name, self.tensors().len(), self.tensors().map(|tensor| tensor.name)))
    }

    /// All stored bytes of a tensor.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at); too little memory.
    fn read_bytes(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let tensor = self.tensor(name)?;
        let len = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
        let mut out = Vec::new();
        // The header check has found the data inside the file; memory for it may still be lacking.
        if out.try_reserve_exact(len).is_err() {
            let error = io::ErrorKind::OutOfMemory.into();
            return Err(CheckpointError::io(self.path(), "get memory for a tensor of")(error));
        }
        out.resize(len, 0);
        self.read_at(name, 0, &mut out)?;
        Ok(out)
    }

    /// Reads rows of a floating-point tensor from `first` on, as many as fill `out`, converted to `f32`.
    ///
    /// `F16` and `BF16` convert exactly, `F64` rounds.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at); a type that is no plain floating point; a buffer that holds no whole number of
    /// rows.
    fn read_rows_f32(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let tensor = self.tensor(name)?;
        let refuse = |fault| Err(CheckpointError::tensor(self.path(), name, fault));
        let Some(dtype) = tensor.format.float() else {
            return refuse(TensorFault::WrongDtype { found: tensor.format, wanted: "f32" });
        };
        let row = tensor.row_elements();
        if row == 0 || !out.len().is_multiple_of(row) {
            if out.is_empty() {
                return Ok(());
            }
            return refuse(TensorFault::PartialRows { row, wanted: out.len() });
        }
        let end = first.saturating_add(out.len() / row);
        if end > tensor.rows() {
            let (end, available) = (end as u64, tensor.rows() as u64);
            return refuse(TensorFault::OutsideTensor { unit: "rows", end, available });
        }
        let start = first as u64 * row as u64 * dtype.size() as u64;
        read_floats(dtype, out, |bytes, at| self.read_at(name, start + at, bytes))
    }

    /// Reads a whole floating-point tensor, row-major, converted to `f32`; `out` has as many elements as it.
    ///
    /// # Errors
    /// As [`read_rows_f32`](Self::read_rows_f32); a buffer of another length than the tensor.
    fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        let tensor = self.tensor(name)?;
        let (elements, wanted) = (tensor.elements(), out.len());
        if elements != wanted {
            let fault = TensorFault::WrongLength { shape: format!("{:?}", tensor.shape), elements, wanted };
            return Err(CheckpointError::tensor(self.path(), name, fault));
        }
        self.read_rows_f32(name, 0, out)
    }

    /// As [`read_f32`](Self::read_f32); refuses NaN and infinities, and names the first.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32), and [`TensorFault::NotFinite`].
    fn read_finite_f32(&self, name: &str, out: &mut [f32]) -> Result<(), CheckpointError> {
        self.read_f32(name, out)?;
        match first_non_finite(out) {
            None => Ok(()),
            Some(index) => {
                let fault = TensorFault::NotFinite { index, value: out[index] };
                Err(CheckpointError::tensor(self.path(), name, fault))
            }
        }
    }
}

/// Refuses bytes behind the end of a tensor.
pub(crate) fn check_inside(path: &Path, tensor: &StoredTensor<'_>, at: u64, len: usize) -> Result<(), CheckpointError> {
    let end = at.saturating_add(len as u64);
    if end <= tensor.bytes {
        return Ok(());
    }
    let fault = TensorFault::OutsideTensor { unit: "bytes", end, available: tensor.bytes };
    Err(CheckpointError::tensor(path, tensor.name, fault))
}
