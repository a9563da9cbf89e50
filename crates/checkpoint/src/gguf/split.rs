//! Models in several files: which files belong together, and whether they say so of each other.
//!
//! The files are called `NAME-00001-of-00003.gguf` and so on. Each says `split.no` (from 0), `split.count` and
//! `split.tensors.count`, the number of tensors of all; the first alone holds the metadata of the model.

use std::path::{Path, PathBuf};

use super::GgufFault;
use super::metadata::GgufMetadata;
use crate::{CheckpointError, MAX_SHARDS, MAX_TENSORS};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";
/// Each file has an alignment of its own.
const ALIGNMENT: &str = "general.alignment";

/// What the first file says of all.
pub(super) struct Expected {
    /// Path of the first file, without the ending that counts.
    stem: PathBuf,
    /// Number of files, at least 2.
    pub parts: u64,
    /// Number of tensors in all files.
    tensors: u64,
}

/// What the file at `path`, which has so many tensors, says of the others, or `None` where it is the only one.
pub(super) fn first_part(
    path: &Path,
    metadata: &GgufMetadata,
    own_tensors: u64,
) -> Result<Option<Expected>, CheckpointError> {
    let parts: u64 = metadata.value(COUNT)?.unwrap_or(1);
    // A file that was merged from several may say 0.
    if parts <= 1 {
        for (key, expected) in [(NUMBER, 0), (TENSORS, own_tensors)] {
            if let Some(found) = metadata.value(key)?.filter(|found| *found != expected) {
                return Err(metadata.fault(key, GgufFault::OnlyPart { found, expected }));
            }
        }
        return Ok(None);
    }
    if parts > MAX_SHARDS as u64 {
        let fault = GgufFault::OverLimit { what: "files", found: parts, limit: MAX_SHARDS as u64 };
        return Err(metadata.fault(COUNT, fault));
    }
    let number: u64 = metadata.required(NUMBER)?;
    let own = ending(number, parts);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(stem) = name.strip_suffix(&own) else {
        let number = number.saturating_add(1);
        return Err(metadata.fault(NUMBER, GgufFault::PartName { number, count: parts, ending: own }));
    };
    if number != 0 {
        let first = format!("{stem}{}", ending(0, parts));
        return Err(metadata.fault(NUMBER, GgufFault::NotFirstPart { number: number + 1, count: parts, first }));
    }
    let tensors: u64 = metadata.required(TENSORS)?;
    if tensors > MAX_TENSORS as u64 {
        let fault = GgufFault::OverLimit { what: "tensors", found: tensors, limit: MAX_TENSORS as u64 };
        return Err(metadata.fault(TENSORS, fault));
    }
    Ok(Some(Expected { stem: path.with_file_name(stem), parts, tensors }))
}

impl Expected {
    /// The path of a part, counted from 0, which has to be there.
    pub fn path_of(&self, number: u64, first: &GgufMetadata) -> Result<PathBuf, CheckpointError> {
        let mut path = self.stem.clone().into_os_string();
        path.push(ending(number, self.parts));
        let path = PathBuf::from(path);
        if !path.exists() {
            let missing = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(first.fault(COUNT, GgufFault::MissingPart { missing, count: self.parts }));
        }
        Ok(path)
    }

    /// Checks what a part says of itself and of all. What it says of the model must be what the first part says.
    pub fn check(&self, number: u64, part: &GgufMetadata, first: &GgufMetadata) -> Result<(), CheckpointError> {
        for (key, expected) in [(NUMBER, number), (COUNT, self.parts), (TENSORS, self.tensors)] {
            let found: u64 = part.required(key)?;
            if found != expected {
                return Err(part.fault(key, GgufFault::PartMismatch { found, expected }));
            }
        }
        let of_itself = |key: &str| [NUMBER, COUNT, TENSORS, ALIGNMENT].contains(&key);
        let mut of_model = part.iter().filter(|(key, _)| !of_itself(key));
        match of_model.find(|(key, value)| first.get(key) != Some(value)) {
            Some((key, _)) => Err(part.fault(key, GgufFault::PartMetadata)),
            None => Ok(()),
        }
    }

    /// Checks the number of tensors that all parts hold.
    pub fn check_tensors(&self, found: u64, first: &GgufMetadata) -> Result<(), CheckpointError> {
        if found != self.tensors {
            return Err(first.fault(TENSORS, GgufFault::PartTensors { found, expected: self.tensors }));
        }
        Ok(())
    }
}

/// How the name of a part, counted from 0, ends.
fn ending(number: u64, parts: u64) -> String {
    format!("-{:05}-of-{parts:05}.gguf", number.saturating_add(1))
}
