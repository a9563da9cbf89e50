//! The models in the caches and in folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Caches, INCOMPLETE, MODELS, Repository, files_of, missing_of_folder, read_reference};
use crate::error::HubError;
use crate::llama_cache::{self, IN_PROGRESS};
use crate::name::{DEFAULT_REVISION, PREFIX, is_commit};
use crate::select::{CONFIG_FILE, Gguf, Selection, ggufs, select};

/// How deep the folders of a user are looked into.
const MAX_DEPTH: usize = 4;

/// The folder of a run's checkpoints, and the beginning of their names.
const CHECKPOINTS: &str = "checkpoints";
const STEP: &str = "step-";

/// What the caches or folders hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The models, in the order of their names.
    pub models: Vec<Found>,
    /// Downloads that were interrupted, or are under way.
    pub unfinished: Vec<Unfinished>,
}

/// A model that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What to type to use it: a name that begins with `hf:`, or a path.
    pub name: String,
    /// Its folder, or its GGUF file (the first one of several).
    pub path: PathBuf,
    /// How it is stored.
    pub kind: Kind,
    /// Bytes of its files.
    pub bytes: u64,
    /// The first file that is missing, if one is.
    pub missing: Option<String>,
}

/// How a model is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder of safetensors.
    Safetensors,
    /// A GGUF file, or several; the format in its name.
    Gguf(Option<String>),
}

/// A download that was interrupted, or is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The repository's name, which begins with `hf:`; or a path.
    pub name: String,
    /// Bytes that are there.
    pub bytes: u64,
}

/// Lists the models in the caches.
///
/// # Errors
/// A folder that can't be read.
pub fn list_caches(caches: &Caches) -> Result<Listing, HubError> {
    let mut listing = Listing::default();
    list_hugging_face(&caches.hugging_face, &mut listing)?;
    list_llama_cpp(&caches.llama_cpp, &mut listing)?;
    listing.models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

/// Lists the models in a folder and the folders in it. Checkpoints of a run are not listed by themselves: without a
/// model of its own the run stands for the newest one.
///
/// # Errors
/// A folder that can't be read.
pub fn list_folder(folder: &Path) -> Result<Listing, HubError> {
    let mut models = Vec::new();
    let mut open = vec![(folder.to_path_buf(), 0)];
    while let Some((dir, depth)) = open.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(HubError::io(&dir, "read")(error)),
            // A folder of somebody else's.
            Err(_) => continue,
        };
        let (mut files, mut below) = (vec![], vec![]);
        for entry in entries.filter_map(Result::ok) {
            let Ok(name) = entry.file_name().into_string() else { continue };
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => files.push(name),
                // Links to folders could lead in circles.
                Ok(_) if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !name.starts_with('.') => {
                    below.push((entry.path(), depth + 1));
                }
                _ => {}
            }
        }
        files.sort();
        let name = |choice: Option<&str>| match choice {
            Some(file) => dir.join(file).display().to_string(),
            None => dir.display().to_string(),
        };
        let mut found = found_in(&dir, &files, &name);
        let checkpoints = dir.join(CHECKPOINTS);
        let newest = folders(&checkpoints).unwrap_or_default().into_iter().rfind(|folder| folder.starts_with(STEP));
        if let Some(newest) = newest {
            below.retain(|(folder, _)| *folder != checkpoints);
            let newest = checkpoints.join(newest);
            if !found.iter().any(|found| found.kind == Kind::Safetensors) {
                found.extend(found_in(&newest, &files_of(&newest).unwrap_or_default(), &name));
            }
        }
        models.extend(found);
        if depth < MAX_DEPTH {
            open.extend(below);
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Listing { models, unfinished: vec![] })
}

/// The models among the files of a folder. `name` makes the name of a GGUF file, or of the folder.
fn found_in(dir: &Path, files: &[String], name: &dyn Fn(Option<&str>) -> String) -> Vec<Found> {
    let size = |file: &String| fs::metadata(dir.join(file)).map_or(0, |metadata| metadata.len());
    let mut found = Vec::new();
    let has_config = files.iter().any(|file| file == CONFIG_FILE);
    if let (true, Ok(Selection::Folder { weights, .. })) = (has_config, select(files, None)) {
        let stored = files.iter().filter(|file| file.ends_with(".safetensors") && !file.contains('/'));
        found.push(Found {
            name: name(None),
            path: dir.to_path_buf(),
            kind: Kind::Safetensors,
            bytes: stored.map(size).sum(),
            // An index that can't be read is as bad as none.
            missing: missing_of_folder(dir, &weights).unwrap_or(Some(weights)),
        });
    }
    found.extend(ggufs(files).into_iter().map(|gguf| Found {
        name: name(Some(&gguf.parts[0])),
        path: dir.join(&gguf.parts[0]),
        bytes: gguf.parts.iter().map(size).sum(),
        missing: gguf.missing(),
        kind: Kind::Gguf(gguf.format),
    }));
    found
}

fn list_hugging_face(cache: &Path, listing: &mut Listing) -> Result<(), HubError> {
    for folder in folders(cache)? {
        let Some(repository) = folder.strip_prefix(MODELS).map(|name| name.replacen("--", "/", 1)) else { continue };
        let place = Repository::new(cache, &repository);
        let mut revisions: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let refs = place.dir.join("refs");
        for revision in files_of(&refs)?.into_iter().filter(|name| !name.ends_with(".tmp")) {
            if let Some(commit) = read_reference(&refs.join(&revision))? {
                revisions.entry(commit).or_default().push(revision);
            }
        }
        for commit in folders(&place.dir.join("snapshots"))?.into_iter().filter(|name| is_commit(name)) {
            let names = revisions.get(&commit);
            let revision = match names {
                Some(names) if names.iter().any(|name| name == DEFAULT_REVISION) => String::new(),
                Some(names) => format!("@{}", names[0]),
                None => format!("@{commit}"),
            };
            let snapshot = place.snapshot(&commit);
            let files = files_of(&snapshot)?;
            let all = ggufs(&files);
            let name = |file: Option<&str>| match file {
                Some(file) => format!("{PREFIX}{repository}{revision}:{}", shortest(&all, file)),
                None => format!("{PREFIX}{repository}{revision}"),
            };
            listing.models.extend(found_in(&snapshot, &files, &name));
        }
        let begun = files_of(&place.dir.join("blobs"))?.into_iter().filter(|name| name.ends_with(INCOMPLETE));
        let size = |name: String| fs::metadata(place.dir.join("blobs").join(name)).map_or(0, |file| file.len());
        let bytes: u64 = begun.map(size).sum();
        if bytes > 0 {
            listing.unfinished.push(Unfinished { name: format!("{PREFIX}{repository}"), bytes });
        }
    }
    Ok(())
}

/// The format of a GGUF file if no other has the same one, else its name.
fn shortest<'a>(all: &'a [Gguf], file: &'a str) -> &'a str {
    let format = all.iter().find(|gguf| gguf.parts[0] == file).and_then(|gguf| gguf.format.as_deref());
    match format {
        Some(format) if all.iter().filter(|gguf| gguf.format.as_deref() == Some(format)).count() == 1 => format,
        _ => file,
    }
}

fn list_llama_cpp(cache: &Path, listing: &mut Listing) -> Result<(), HubError> {
    let names = llama_cache::all_names(cache)?;
    let repositories = llama_cache::repositories(&names);
    let size = |name: &str| fs::metadata(cache.join(name)).map_or(0, |file| file.len());
    for gguf in ggufs(&names) {
        let first = &gguf.parts[0];
        let repository = repositories.iter().find(|repository| first.starts_with(&llama_cache::prefix_of(repository)));
        let name = match repository {
            Some(repository) => {
                let file = &first[llama_cache::prefix_of(repository).len()..];
                format!("{PREFIX}{repository}:{file}")
            }
            None => cache.join(first).display().to_string(),
        };
        listing.models.push(Found {
            name,
            path: cache.join(first),
            bytes: gguf.parts.iter().map(|part| size(part)).sum(),
            missing: gguf.missing(),
            kind: Kind::Gguf(gguf.format),
        });
    }
    for name in names.iter().filter(|name| name.ends_with(IN_PROGRESS)) {
        listing.unfinished.push(Unfinished { name: cache.join(name).display().to_string(), bytes: size(name) });
    }
    Ok(())
}

/// The names of the folders in a folder, sorted; none if it is not there.
fn folders(dir: &Path) -> Result<Vec<String>, HubError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        Err(error) => return Err(HubError::io(dir, "read")(error)),
    };
    let is_folder = |entry: &fs::DirEntry| entry.path().is_dir();
    let names =
        entries.filter_map(Result::ok).filter(is_folder).filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_a_user_are_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        };
        for name in [
            "run/config.json",
            "run/model.safetensors",
            "run/checkpoints/step-01/config.json",
            "run/checkpoints/step-01/model.safetensors",
            "new/checkpoints/step-09/config.json",
            "new/checkpoints/step-09/model.safetensors",
            "new/checkpoints/step-10/config.json",
            "new/checkpoints/step-10/model.safetensors",
            ".tmp-new-1-m.gguf",
            "half/config.json",
            "half/model.safetensors.index.json",
            "a-Q8_0.gguf",
            "deep/b/m-00001-of-00002.gguf",
            ".hidden/c.gguf",
            "1/2/3/4/5/far.gguf",
            "text.txt",
            "only/config.json",
        ] {
            write(name);
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink("..", dir.path().join("deep/circle")).unwrap();
        let models = list_folder(dir.path()).unwrap().models;
        let name = |model: &Found| model.path.strip_prefix(dir.path()).unwrap().display().to_string();
        let found: Vec<_> = models.iter().map(|model| (name(model), model.missing.as_deref())).collect();
        let expected = [
            ("a-Q8_0.gguf", None),
            ("deep/b/m-00001-of-00002.gguf", Some("m-00002-of-00002.gguf")),
            ("half", Some("model.safetensors.index.json")),
            ("new/checkpoints/step-10", None),
            ("run", None),
        ];
        assert_eq!(found, expected.map(|(name, missing)| (name.to_owned(), missing)));
        let run = dir.path().join("new").display().to_string();
        assert!(models.iter().all(|model| model.name == model.path.display().to_string() || model.name == run));
        assert!(models.iter().any(|model| model.name == run));
        assert!(list_folder(&dir.path().join("none")).is_err());
        assert!(list_folder(&dir.path().join("text.txt")).is_err());
    }
}
