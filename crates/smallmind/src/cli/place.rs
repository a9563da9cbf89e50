//! The folder of a new run: which folders may become one, and how an old run makes room for it.
//!
//! Only names that a run writes are ever removed, whatever else lies beside them; and an old run only once the new one has begun.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use smallmind::checkpoint::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE};

use super::failure::usage;
use super::note;

const CHECKPOINTS: &str = "checkpoints";
const DATA: &str = "data";
const FILES: [&str; 7] =
    [CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, "train.toml", "log.jsonl", "log.csv", "train.lock"];
/// What names of files begin with that were being written when a process ended.
const UNFINISHED: &str = ".tmp-";

/// What a folder is to a training that wants to begin in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Empty, or not there.
    Free,
    /// What a training left that ended before its first checkpoint: nothing of worth.
    Leftover,
    /// A run.
    Run,
}

/// What is at `path`.
///
/// # Errors
/// A file, a folder with something else in it, or one that can't be read.
pub fn look(path: &Path) -> anyhow::Result<Place> {
    let name = path.display();
    if !path.exists() {
        return Ok(Place::Free);
    }
    if !path.is_dir() {
        return Err(usage(format!("{name}: this is a file; name a folder for the run")));
    }
    let checkpoints = path.join(CHECKPOINTS);
    if checkpoints.is_dir() && entries(&checkpoints)?.iter().any(|entry| entry.starts_with("step-")) {
        return Ok(Place::Run);
    }
    let entries = entries(path)?;
    for entry in &entries {
        let foreign = match entry.as_str() {
            DATA => self::entries(&path.join(DATA))?.into_iter().find(|inner| !is_shard(inner)),
            CHECKPOINTS => None,
            other => (!is_own_file(other)).then(|| other.to_owned()),
        };
        if let Some(foreign) = foreign {
            return Err(usage(format!(
                "{name}: there is something else in it ({foreign}); choose a folder for the run alone"
            )));
        }
    }
    Ok(if entries.is_empty() { Place::Free } else { Place::Leftover })
}

/// The folder of a run that is about to begin.
#[derive(Debug)]
pub struct Room {
    path: PathBuf,
    /// Where what was there has been moved to.
    aside: Option<PathBuf>,
}

impl Room {
    /// Moves what is at `path`, if anything, out of the way.
    ///
    /// # Errors
    /// A system that refuses.
    pub fn make(path: &Path) -> anyhow::Result<Self> {
        let mut aside = None;
        if path.exists() {
            let name = path.canonicalize()?;
            let mut free =
                (0..).map(|i| name.with_file_name(format!("{}.old-{i}", file_name(&name)))).filter(|p| !p.exists());
            let to = free.next().unwrap_or_else(|| name.with_extension("old"));
            fs::rename(&name, &to).with_context(|| format!("{}: can't be moved out of the way", path.display()))?;
            aside = Some(to);
        }
        Ok(Self { path: path.to_owned(), aside })
    }

    /// Removes the old if the new has begun; else removes the new and puts the old back.
    pub fn settle<T, E>(self, begun: Result<T, E>) -> Result<T, E> {
        let unwanted = if begun.is_ok() { self.aside.as_deref() } else { Some(self.path.as_path()) };
        if let Some(Err(error)) = unwanted.map(clear) {
            note!("warning: {error:#}");
        }
        match &self.aside {
            Some(aside) if begun.is_err() => {
                if let Err(error) = fs::rename(aside, &self.path) {
                    note!("warning: {}: can't be moved back: {error}", aside.display());
                }
            }
            Some(aside) if aside.exists() => {
                note!("note: other files that were in the folder are now in {}", aside.display())
            }
            _ => {}
        }
        begun
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Removes what a run wrote into `path`, and the folder if nothing else is in it.
///
/// # Errors
/// What can't be removed.
fn clear(path: &Path) -> anyhow::Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    remove_where(&path.join(DATA), is_shard)?;
    remove_where(&path.join(CHECKPOINTS), |name| name.starts_with("step-") || name.starts_with(UNFINISHED))?;
    remove_where(path, is_own_file)
}

/// Removes the entries of a folder whose names are `own`, then the folder if it is empty.
fn remove_where(folder: &Path, own: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for name in entries(folder)?.into_iter().filter(|name| own(name)) {
        let path = folder.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("{}: can't be removed", path.display()))?;
    }
    // Refused while something else is in it, which is what is wanted.
    let _ = fs::remove_dir(folder);
    Ok(())
}

fn is_own_file(name: &str) -> bool {
    FILES.contains(&name) || name.starts_with(UNFINISHED)
}

/// The names that token shards and their manifest have, also while they are being written.
fn is_shard(name: &str) -> bool {
    name.starts_with("manifest.json")
        || ["train-", "validation-"].iter().any(|part| name.starts_with(part) && name.ends_with(".bin"))
}

/// The names in a folder, in order.
fn entries(folder: &Path) -> anyhow::Result<Vec<String>> {
    let read = || -> std::io::Result<Vec<String>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = read().with_context(|| format!("{}: can't be read", folder.display()))?;
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn runs_leftovers_and_other_folders_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        assert_eq!(look(&run).unwrap(), Place::Free);
        fs::create_dir(&run).unwrap();
        assert_eq!(look(&run).unwrap(), Place::Free);
        write(&run, &["tokenizer.json", "data/train-00000.bin", ".tmp-new-1-config.json"]);
        assert_eq!(look(&run).unwrap(), Place::Leftover);
        fs::create_dir(run.join("checkpoints")).unwrap();
        assert_eq!(look(&run).unwrap(), Place::Leftover);
        write(&run, &["checkpoints/step-00000001/config.json"]);
        assert_eq!(look(&run).unwrap(), Place::Run);
        assert!(look(&run.join("tokenizer.json")).is_err());
    }

    #[test]
    fn a_folder_with_other_files_is_refused_and_they_survive() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["data/my-corpus.txt", "notes.txt"] {
            let run = dir.path().join(name.replace('/', "-"));
            write(&run, &["tokenizer.json", "data/manifest.json", name]);
            let message = look(&run).unwrap_err().to_string();
            assert!(message.contains("something else"), "{message}");
            clear(&run).unwrap();
            assert!(run.join(name).exists());
            assert!(!run.join("tokenizer.json").exists() && !run.join("data/manifest.json").exists());
        }
    }

    #[test]
    fn an_old_run_goes_only_when_the_new_one_has_begun() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        write(&run, &["train.toml", "checkpoints/step-00000001/config.json"]);
        let room = Room::make(&run).unwrap();
        assert!(!run.exists());
        write(&run, &["tokenizer.json", "data/train-00000.bin"]);
        assert_eq!(room.settle(Err::<(), _>("no")), Err("no"));
        assert_eq!(look(&run).unwrap(), Place::Run);
        assert_eq!(entries(&run).unwrap(), ["checkpoints", "train.toml"]);

        let room = Room::make(&run).unwrap();
        write(&run, &["config.json"]);
        assert_eq!(room.settle(Ok::<_, ()>(7)), Ok(7));
        assert_eq!(entries(&run).unwrap(), ["config.json"]);
        assert_eq!(entries(dir.path()).unwrap(), ["run"]);
    }

    #[test]
    fn a_cleared_run_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        write(&run, &["train.toml", "log.csv", "data/validation-00000.bin", "checkpoints/step-00000001/config.json"]);
        clear(&run).unwrap();
        assert!(!run.exists());
        clear(&run).unwrap();
    }
}
