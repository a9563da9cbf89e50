//! The cache of llama.cpp before it took that of Hugging Face's tools: GGUF files in one folder.
//!
//! A file is named `OWNER_NAME_FILE.gguf`, with `_` for each `/`. `manifest=OWNER=NAME=TAG.json` says that a repository
//! was asked for; a file that is being downloaded ends with `.downloadInProgress`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::HubError;
use crate::name::{Choice, DEFAULT_REVISION, ModelName, is_gguf};
use crate::select::{Selection, select};

/// The end of the names of files that are being downloaded.
pub(crate) const IN_PROGRESS: &str = ".downloadInProgress";
/// The most files that are looked at.
const MAX_FILES: usize = 100_000;

/// The path of a model; the first file of several.
pub(crate) fn find(cache: &Path, name: &ModelName) -> Result<Option<PathBuf>, HubError> {
    if name.has_revision() && name.revision() != DEFAULT_REVISION {
        return Ok(None);
    }
    let prefix = prefix_of(name.repository());
    let files: Vec<String> =
        names(cache)?.into_iter().filter_map(|file| file.strip_prefix(&prefix).map(str::to_owned)).collect();
    let choice = name.choice().map(|choice| match choice {
        Choice::File(file) => Choice::File(file.replace('/', "_")),
        Choice::Format(format) => Choice::Format(format.clone()),
    });
    match select(&files, choice.as_ref()) {
        Ok(Selection::Gguf(parts)) => Ok(Some(cache.join(format!("{prefix}{}", parts[0])))),
        _ => Ok(None),
    }
}

/// How the names of a repository's files begin.
pub(crate) fn prefix_of(repository: &str) -> String {
    format!("{}_", repository.replace('/', "_"))
}

/// The names of the GGUF files in the folder, sorted.
pub(crate) fn names(cache: &Path) -> Result<Vec<String>, HubError> {
    Ok(all_names(cache)?.into_iter().filter(|name| is_gguf(name)).collect())
}

/// The names of all files in the folder, sorted; none if there is no such folder.
pub(crate) fn all_names(cache: &Path) -> Result<Vec<String>, HubError> {
    let entries = match fs::read_dir(cache) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        Err(error) => return Err(HubError::io(cache, "read")(error)),
    };
    let is_file = |entry: &fs::DirEntry| fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file());
    let files = entries.take(MAX_FILES).filter_map(Result::ok).filter(is_file);
    let mut names: Vec<String> = files.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// The repositories that the manifests in the folder name.
pub(crate) fn repositories(names: &[String]) -> Vec<String> {
    let repository = |name: &String| {
        let mut parts = name.strip_prefix("manifest=")?.strip_suffix(".json")?.split('=');
        let (owner, name, _tag) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then(|| format!("{owner}/{name}"))
    };
    let mut found: Vec<String> = names.iter().filter_map(repository).collect();
    found.dedup();
    found
}
