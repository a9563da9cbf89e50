//! Whether the tensors that a header describes fit their file.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{CheckpointError, HeaderFault, TensorFault};
use crate::{Dtype, TensorInfo};

/// A tensor as its header describes it, unchecked. Offsets count from the end of the header.
pub(crate) struct Placed {
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub begin: u64,
    pub end: u64,
}

/// Checks that the tensors cover the `data_bytes` bytes from `data_start` on without gap or overlap; returns them
/// sorted by name.
pub(crate) fn check_layout(
    path: &Path,
    placed: BTreeMap<String, Placed>,
    data_start: u64,
    data_bytes: u64,
) -> Result<Vec<TensorInfo>, CheckpointError> {
    let mut tensors = Vec::with_capacity(placed.len());
    for (name, tensor) in placed {
        check_size(&tensor, data_bytes).map_err(|fault| CheckpointError::tensor(path, &name, fault))?;
        // Only a tensor without elements, or a file too large for this machine, has a dimension beyond `usize`.
        let dims: Result<Vec<usize>, _> = tensor.shape.iter().map(|&dim| usize::try_from(dim)).collect();
        let Ok(shape) = dims else {
            let fault = TensorFault::Overflow { shape: format!("{:?}", tensor.shape) };
            return Err(CheckpointError::tensor(path, &name, fault));
        };
        tensors.push(TensorInfo {
            name,
            dtype: tensor.dtype,
            shape,
            offset: data_start + tensor.begin,
            bytes: tensor.end - tensor.begin,
        });
    }

    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by_key(|&index| {
        let tensor = &tensors[index as usize];
        (tensor.offset, tensor.bytes)
    });
    let mut previous_end = 0;
    for &index in &order {
        let tensor = &tensors[index as usize];
        let begin = tensor.offset - data_start;
        if begin != previous_end {
            let fault = match begin > previous_end {
                true => TensorFault::Hole { begin, previous_end },
                false => TensorFault::Overlap { begin, previous_end },
            };
            return Err(CheckpointError::tensor(path, &tensor.name, fault));
        }
        previous_end = begin + tensor.bytes;
    }
    if previous_end < data_bytes {
        return Err(CheckpointError::Header {
            path: path.to_path_buf(),
            offset: data_start + previous_end,
            fault: HeaderFault::TrailingBytes { count: data_bytes - previous_end },
        });
    }
    Ok(tensors)
}

/// Checks one tensor by itself: offsets in order and in the file, and as many bytes as its shape takes.
fn check_size(tensor: &Placed, data_bytes: u64) -> Result<(), TensorFault> {
    let &Placed { dtype, ref shape, begin, end } = tensor;
    if begin > end {
        return Err(TensorFault::Reversed { begin, end });
    }
    let Some(expected) = byte_size(shape, dtype) else {
        return Err(TensorFault::Overflow { shape: format!("{shape:?}") });
    };
    if expected != end - begin {
        return Err(TensorFault::SizeMismatch { shape: format!("{shape:?}"), dtype, expected, found: end - begin });
    }
    if end > data_bytes {
        return Err(TensorFault::BeyondFile { end, available: data_bytes });
    }
    Ok(())
}

/// Bytes of a tensor; `None` if the product without zeros overflows.
///
/// A zero would hide that the other dimensions overflow. Later code may multiply them in another order.
fn byte_size(shape: &[u64], dtype: Dtype) -> Option<u64> {
    let nonzero = shape.iter().filter(|&&dim| dim != 0);
    let bytes = nonzero.copied().try_fold(dtype.size() as u64, u64::checked_mul)?;
    Some(if shape.contains(&0) { 0 } else { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_overflow_behind_a_zero_too() {
        assert_eq!(byte_size(&[], Dtype::F64), Some(8));
        assert_eq!(byte_size(&[3, 5], Dtype::Bf16), Some(30));
        assert_eq!(byte_size(&[3, 0, 5], Dtype::F32), Some(0));
        assert_eq!(byte_size(&[u64::MAX], Dtype::U8), Some(u64::MAX));
        assert_eq!(byte_size(&[u64::MAX], Dtype::U16), None);
        assert_eq!(byte_size(&[0, u64::MAX, u64::MAX], Dtype::U8), None);
        assert_eq!(byte_size(&[u64::MAX, 0, 2], Dtype::U8), None);
    }
}
