//! A GGUF model open for reading: one file, or several that belong together.

use std::io;
use std::path::{Path, PathBuf};

use super::header::{GgufTensor, read_header};
use super::metadata::GgufMetadata;
use super::{GgufFault, GgufHeader, GgufPlace, layout, split};
use crate::error::CheckpointError;
use crate::file::not_found;
use crate::positioned::{PositionedFile, ReadAt, open_file};
use crate::tensor_source::check_inside;
use crate::{StoredTensor, TensorSource};

/// A GGUF model whose headers have been checked in full.
///
/// Data is read through [`TensorSource`].
#[derive(Debug)]
pub struct GgufFile {
    version: u32,
    metadata: GgufMetadata,
    parts: Vec<Part>,
    /// The part and the description of each tensor, in the order of the files.
    tensors: Vec<(usize, GgufTensor)>,
    /// Indices of the tensors, in the order of their names.
    by_name: Vec<u32>,
}

/// One of the files.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: PositionedFile,
}

impl GgufFile {
    /// Opens a file, or the first of several (`NAME-00001-of-00003.gguf`) with the others, which lie beside it.
    ///
    /// # Errors
    /// All that is wrong with a header; tensors that don't lie end to end; parts that are missing or of another model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let (part, header) = open_part(path)?;
        let GgufHeader { version, metadata, tensors, .. } = header;
        let mut parts = vec![part];
        let mut all: Vec<_> = tensors.into_iter().map(|tensor| (0, tensor)).collect();
        if let Some(expected) = split::first_part(path, &metadata, all.len() as u64)? {
            for number in 1..expected.parts {
                let path = expected.path_of(number, &metadata)?;
                let (part, header) = open_part(&path)?;
                expected.check(number, &header.metadata, &metadata)?;
                all.extend(header.tensors.into_iter().map(|tensor| (parts.len(), tensor)));
                parts.push(part);
            }
            expected.check_tensors(all.len() as u64, &metadata)?;
        }
        let by_name = by_name(&parts, &all)?;
        Ok(Self { version, metadata, parts, tensors: all, by_name })
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The metadata; that of the first of several files.
    pub fn metadata(&self) -> &GgufMetadata {
        &self.metadata
    }

    /// The paths of the files, the first one first.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The tensors, in the order of the files.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &GgufTensor> {
        self.tensors.iter().map(|(_, tensor)| tensor)
    }

    fn entry(&self, name: &str) -> Option<&(usize, GgufTensor)> {
        let tensor = |index: u32| &self.tensors[index as usize];
        let at = self.by_name.binary_search_by(|&index| tensor(index).1.name.as_str().cmp(name)).ok()?;
        Some(tensor(self.by_name[at]))
    }
}

impl TensorSource for GgufFile {
    fn path(&self) -> &Path {
        // There is at least one part.
        &self.parts[0].path
    }

    fn tensors(&self) -> Box<dyn ExactSizeIterator<Item = StoredTensor<'_>> + '_> {
        Box::new(self.tensors().map(stored))
    }

    fn find(&self, name: &str) -> Option<StoredTensor<'_>> {
        self.entry(name).map(|(_, tensor)| stored(tensor))
    }

    fn read_at(&self, name: &str, at: u64, out: &mut [u8]) -> Result<(), CheckpointError> {
        let Some((part, tensor)) = self.entry(name) else {
            let names = self.tensors().map(|tensor| tensor.name.as_str());
            return Err(not_found(self.path(), name, self.tensors.len(), names));
        };
        let part = &self.parts[*part];
        check_inside(&part.path, &stored(tensor), at, out.len())?;
        part.file.read_exact_at(out, tensor.offset + at).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let place = GgufPlace::Tensor { name: tensor.name.clone(), field: "data" };
                let fault = GgufFault::CutShort { end: tensor.offset + tensor.bytes };
                CheckpointError::gguf(&part.path, tensor.offset + at, place, fault)
            }
            _ => CheckpointError::io(&part.path, "read")(error),
        })
    }
}

fn stored(tensor: &GgufTensor) -> StoredTensor<'_> {
    StoredTensor { name: &tensor.name, shape: &tensor.shape, format: tensor.ggml_type.into(), bytes: tensor.bytes }
}

fn open_part(path: &Path) -> Result<(Part, GgufHeader), CheckpointError> {
    let (file, len) = open_file(path, "not a file; name a .gguf file")?;
    let header = read_header(path, &file, len)?;
    Ok((Part { path: path.to_path_buf(), file }, header))
}

/// The order of the names; a name in two parts is an error.
fn by_name(parts: &[Part], tensors: &[(usize, GgufTensor)]) -> Result<Vec<u32>, CheckpointError> {
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by_key(|&index| (tensors[index as usize].1.name.as_str(), index));
    for pair in order.windows(2) {
        let [(first_part, first), (part, tensor)] = [pair[0], pair[1]].map(|index| &tensors[index as usize]);
        if first.name == tensor.name {
            return Err(layout::duplicate(&parts[*part].path, tensor, &parts[*first_part].path, first));
        }
    }
    Ok(order)
}
