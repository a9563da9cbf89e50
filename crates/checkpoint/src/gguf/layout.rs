//! Whether the tensors that a header describes lie end to end in their file.
//!
//! Each begins where the one before it ends, padded to the alignment. The format's own library asks for the same; so
//! a damaged size or offset shows, whichever tensor it belongs to. The order of the descriptions is free.

use std::path::Path;

use super::header::GgufTensor;
use super::{GgufFault, GgufPlace};
use crate::CheckpointError;

/// Where data may lie in a file.
#[derive(Clone, Copy)]
pub(super) struct DataRegion {
    /// Byte behind the last description.
    pub header_end: u64,
    /// A power of two.
    pub alignment: u64,
    /// Bytes of the file.
    pub file_len: u64,
}

impl DataRegion {
    /// The first byte of data: offsets count from here.
    fn start(&self) -> u64 {
        self.header_end.next_multiple_of(self.alignment)
    }
}

/// Checks where the tensors lie and makes their offsets count from the beginning of the file.
pub(super) fn place(path: &Path, tensors: &mut [GgufTensor], region: DataRegion) -> Result<(), CheckpointError> {
    check_names(path, tensors)?;
    let start = region.start();
    let available = region.file_len.saturating_sub(start);
    for tensor in tensors.iter() {
        // What overflows is behind any file too.
        let end = tensor.offset.saturating_add(tensor.bytes);
        if end > available {
            return Err(fault(path, tensor, GgufFault::DataBeyondFile { end, available }));
        }
    }
    let mut order: Vec<&GgufTensor> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| (tensor.offset, tensor.described_at));
    let mut previous_end = 0;
    for tensor in order {
        let begin = tensor.offset;
        if begin != previous_end {
            return Err(fault(
                path,
                tensor,
                match begin > previous_end {
                    true => GgufFault::Hole { begin, previous_end },
                    false => GgufFault::Overlap { begin, previous_end },
                },
            ));
        }
        // No overflow: the end is in the file, whose length is an `i64`.
        previous_end = (begin + tensor.bytes).next_multiple_of(region.alignment);
    }
    let data_end = start + previous_end;
    if region.file_len > data_end {
        let fault = GgufFault::TrailingBytes { count: region.file_len - data_end };
        return Err(CheckpointError::gguf(path, data_end, GgufPlace::End, fault));
    }
    tensors.iter_mut().for_each(|tensor| tensor.offset += start);
    Ok(())
}

/// Refuses two tensors of one name.
fn check_names(path: &Path, tensors: &[GgufTensor]) -> Result<(), CheckpointError> {
    let mut order: Vec<&GgufTensor> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| (tensor.name.as_str(), tensor.described_at));
    for pair in order.windows(2) {
        if pair[0].name == pair[1].name {
            return Err(duplicate(path, pair[1], path, pair[0]));
        }
    }
    Ok(())
}

/// The error for two tensors of one name, in one file or two.
pub(super) fn duplicate(path: &Path, tensor: &GgufTensor, first_path: &Path, first: &GgufTensor) -> CheckpointError {
    let file = first_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let place = GgufPlace::Tensor { name: tensor.name.clone(), field: "name" };
    let fault = GgufFault::DuplicateTensor { file, first: first.described_at };
    CheckpointError::gguf(path, tensor.described_at, place, fault)
}

fn fault(path: &Path, tensor: &GgufTensor, fault: GgufFault) -> CheckpointError {
    let place = GgufPlace::Tensor { name: tensor.name.clone(), field: "offset" };
    // The offset is the last field of a description: behind name, number of dimensions, dimensions and type.
    let before = 8 + tensor.name.len() + 4 + 8 * tensor.shape.len() + 4;
    CheckpointError::gguf(path, tensor.described_at + before as u64, place, fault)
}
