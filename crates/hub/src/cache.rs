//! The cache of Hugging Face's tools on disk.
//!
//! ```text
//! CACHE/models--OWNER--NAME/refs/REVISION            the commit of a branch or tag
//!                           snapshots/COMMIT/FILE    a link to ../../blobs/ETAG, or a copy
//!                           blobs/ETAG               the content
//!                           blobs/ETAG.incomplete    the beginning of a content that is being downloaded
//! CACHE/.locks/models--OWNER--NAME/ETAG.lock         locked while that content is downloaded
//! ```
//!
//! An ETAG is the content's SHA-256 if the hub stores the file in LFS, else the id of the file's blob in git.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{HubError, quote};
use crate::name::{ModelName, check_file, is_commit};
use crate::select::{CONFIG_FILE, INDEX_FILE, Selection, select};
use crate::{SelectionFault, llama_cache};

/// The beginning of the names of folders of models.
pub(crate) const MODELS: &str = "models--";
/// How deep the folders of a snapshot are looked into.
const MAX_DEPTH: usize = 8;
/// The most files of a snapshot that are looked at.
const MAX_FILES: usize = 100_000;
/// The longest index of weights, in bytes.
pub(crate) const MAX_INDEX_BYTES: u64 = 16 << 20;
/// The most files of a model's weights.
pub(crate) const MAX_SHARDS: usize = 512;

/// The folders in which tools keep the models that they have downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caches {
    /// The cache of Hugging Face's tools: `~/.cache/huggingface/hub`.
    pub hugging_face: PathBuf,
    /// The cache of earlier versions of llama.cpp: `~/.cache/llama.cpp`.
    pub llama_cpp: PathBuf,
}

impl Caches {
    /// The path of a model: its folder, or its GGUF file (the first one of several).
    ///
    /// # Errors
    /// A model that is in no cache, or whose files are incomplete; several that would do.
    pub fn find(&self, name: &ModelName) -> Result<PathBuf, HubError> {
        let repository = Repository::new(&self.hugging_face, name.repository());
        let in_hugging_face = match repository.commit(name.revision())? {
            Some(commit) => find_in_snapshot(&repository.snapshot(&commit), name),
            None => Err(absent(name, vec![repository.dir.clone(), self.llama_cpp.clone()])),
        };
        match in_hugging_face {
            Ok(path) => Ok(path),
            Err(error) => Ok(llama_cache::find(&self.llama_cpp, name)?.ok_or(error)?),
        }
    }
}

fn absent(name: &ModelName, searched: Vec<PathBuf>) -> HubError {
    HubError::Absent { name: name.to_string(), searched }
}

fn find_in_snapshot(snapshot: &Path, name: &ModelName) -> Result<PathBuf, HubError> {
    let incomplete = |missing| HubError::Incomplete { name: name.to_string(), path: snapshot.to_path_buf(), missing };
    let files = files_of(snapshot)?;
    match select(&files, name.choice()) {
        Ok(Selection::Gguf(parts)) => Ok(snapshot.join(&parts[0])),
        Ok(Selection::Folder { weights, .. }) => match missing_of_folder(snapshot, &weights)? {
            Some(missing) => Err(incomplete(missing)),
            None => Ok(snapshot.to_path_buf()),
        },
        Err(SelectionFault::MissingPart(part)) => Err(incomplete(part)),
        Err(SelectionFault::NoSuch(..) | SelectionFault::NoWeights(_)) => {
            Err(absent(name, vec![snapshot.to_path_buf()]))
        }
        Err(fault) => Err(HubError::Selection { name: name.to_string(), fault }),
    }
}

/// The first file that a folder of safetensors lacks. `weights` is the file of weights or of their index.
pub(crate) fn missing_of_folder(folder: &Path, weights: &str) -> Result<Option<String>, HubError> {
    let is_missing = |name: &String| !folder.join(name).is_file();
    let mut needed = vec![CONFIG_FILE.to_owned(), weights.to_owned()];
    if weights == INDEX_FILE && !is_missing(&needed[1]) {
        needed.extend(shards(&folder.join(INDEX_FILE))?);
    }
    Ok(needed.into_iter().find(is_missing))
}

#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// The files of weights that an index names.
pub(crate) fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let wrong = |why: String| HubError::Answer { url: index.display().to_string(), why };
    let mut text = Vec::new();
    let file = File::open(index).map_err(HubError::io(index, "open"))?;
    file.take(MAX_INDEX_BYTES + 1).read_to_end(&mut text).map_err(HubError::io(index, "read"))?;
    if text.len() as u64 > MAX_INDEX_BYTES {
        return Err(wrong(format!("the index has more than {MAX_INDEX_BYTES} bytes")));
    }
    let index: Index = serde_json::from_slice(&text).map_err(|error| wrong(format!("no index of weights: {error}")))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(wrong(format!("the index names {} files, 1 to {MAX_SHARDS} are allowed", names.len())));
    }
    for name in &names {
        check_file(name).map_err(|why| wrong(format!("file name {}: {why}", quote(name))))?;
        if !name.ends_with(".safetensors") {
            return Err(wrong(format!("{} is no file of safetensors", quote(name))));
        }
    }
    Ok(names)
}

/// A repository in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    /// Its folder.
    pub dir: PathBuf,
    locks: PathBuf,
}

impl Repository {
    /// The repository `owner/name` in a cache.
    pub fn new(cache: &Path, repository: &str) -> Self {
        let folder = format!("{MODELS}{}", repository.replace('/', "--"));
        Self { dir: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    /// Where the content of an ETag is.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.dir.join("blobs").join(etag)
    }

    /// Where the beginning of a content is while it is downloaded.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.dir.join("blobs").join(format!("{etag}{INCOMPLETE}"))
    }

    /// The file whose lock says that a content is being downloaded.
    pub fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// The file that holds the commit of a branch or tag.
    pub fn reference(&self, revision: &str) -> PathBuf {
        self.dir.join("refs").join(revision)
    }

    /// The commit of a branch, a tag, or of itself, if it is known here.
    pub fn commit(&self, revision: &str) -> Result<Option<String>, HubError> {
        if let Some(commit) = read_reference(&self.reference(revision))? {
            return Ok(Some(commit));
        }
        let is_here = is_commit(revision) && self.snapshot(revision).is_dir();
        Ok(is_here.then(|| revision.to_owned()))
    }
}

/// The end of the names of incomplete contents.
pub(crate) const INCOMPLETE: &str = ".incomplete";

/// The commit in a file below `refs`. What is no commit is as if the file were not there.
pub(crate) fn read_reference(path: &Path) -> Result<Option<String>, HubError> {
    let mut text = String::new();
    match File::open(path) {
        // A folder: branches can be named `a/b`.
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => {
            let read = file.take(64).read_to_string(&mut text);
            Ok(read.ok().map(|_| text.trim().to_owned()).filter(|commit| is_commit(commit)))
        }
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(HubError::io(path, "open")(error)),
    }
}

/// The names of the files below a folder, with `/` between folders, sorted. Links to nothing are left out.
pub(crate) fn files_of(folder: &Path) -> Result<Vec<String>, HubError> {
    let mut names = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), String::new(), 0)];
    while let Some((dir, prefix, depth)) = folders.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(HubError::io(&dir, "read")(error)),
        };
        for entry in entries.take(MAX_FILES) {
            let entry = entry.map_err(HubError::io(&dir, "read"))?;
            // A name that isn't UTF-8 is not from the hub.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            let name = format!("{prefix}{name}");
            if metadata.is_file() && names.len() < MAX_FILES {
                names.push(name);
            } else if metadata.is_dir() && depth < MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push((entry.path(), format!("{name}/"), depth + 1));
            }
        }
    }
    names.sort();
    Ok(names)
}
