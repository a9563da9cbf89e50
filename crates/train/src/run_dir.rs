//! The folder of a run: who may write there, what would be lost by it, and how a new run takes the place of an old one.
//!
//! ```text
//! new run:  make the folder ─► lock it ─► look what is in it ─► write the run into .tmp-new-run ─► rename that to .next-run
//!           ─► for each name of a run: RUN/name to .tmp-old-run, .next-run/name to RUN ─► remove .tmp-old-run
//! ```
//!
//! The folder itself is never renamed or removed, so it may be a link, a mount point or the current folder. What was in it stays as it
//! was until the new run has its first checkpoint. A process that ends before the rename to `.next-run` changes nothing; one that ends
//! after it leaves a replacement that the next [`RunDir::open`] or [`RunDir::claim`] completes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use smallmind_checkpoint::{CONFIG_FILE, Disk, Storage, TOKENIZER_FILE, WEIGHTS_FILE, clean_stale};

use crate::TrainError;
use crate::data::is_shard_name;
use crate::prepare::DATA_FOLDER;
use crate::run_folder::{CHECKPOINTS, CONFIG_COPY, CSV_FILE, LOG_FILE};

const LOCK_FILE: &str = "train.lock";
/// The new run while it is being written.
const STAGING: &str = ".tmp-new-run";
/// The new run, complete, on its way into the folder.
const NEXT: &str = ".next-run";
/// The old run on its way out.
const OLD: &str = ".tmp-old-run";

/// All names that a run writes into its folder, hidden ones apart.
const NAMES: [&str; 8] =
    [CHECKPOINTS, DATA_FOLDER, CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, CONFIG_COPY, LOG_FILE, CSV_FILE];

/// How often a lock is tried again whose file another process has just removed.
const TRIES: usize = 100;

/// What becomes of a run or a model that is in the folder already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the claim is refused.
    Refuse,
    /// The new run replaces it, once that has its first checkpoint.
    Replace,
}

/// What a folder holds that a new run would replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A run of an earlier training.
    Run,
    /// A model without checkpoints.
    Model,
    /// Files with names that a run writes.
    Files(Vec<String>),
}

/// A folder that this process alone may write a run into, until this is dropped.
///
/// Dropped before [`publish`](Self::publish), it leaves the folder as it was before the claim.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Keeps other trainings out until it is closed.
    _lock: File,
    /// What was made for it.
    made: Made,
    /// What a new run will replace.
    replaces: Option<Found>,
    /// Whether the run is in its place.
    published: bool,
}

/// What a claim made.
#[derive(Debug, Default)]
struct Made {
    /// Folders, the innermost first.
    folders: Vec<PathBuf>,
    /// Whether the file of the lock is new.
    lock: bool,
}

impl RunDir {
    /// Claims `path` for a new run: makes the folder if need be, locks it, and looks what is in it. Completes a replacement that was
    /// interrupted; nothing else that was there is changed.
    ///
    /// # Errors
    /// A training at work there; a run, a model or other files in it; a file, a link to nothing, or a folder that can't be written.
    pub fn claim(path: &Path, existing: Existing) -> Result<Self, TrainError> {
        check_place(path)?;
        let mut made = Made::default();
        let lock = make_and_lock(path, &mut made).inspect_err(|_| remove_empty(&made.folders))?;
        let used_before = !made.lock;
        let mut dir = Self { path: path.to_owned(), _lock: lock, made, replaces: None, published: false };
        dir.complete()?;
        dir.replaces = look(path)?;
        if let Some(found) = dir.replaces.clone().filter(|_| existing == Existing::Refuse) {
            return Err(TrainError::Exists { path: path.to_owned(), found });
        }
        if used_before {
            dir.clean()?;
        }
        let staging = dir.staging();
        fs::create_dir(&staging).map_err(write_error(&staging))?;
        Ok(dir)
    }

    /// Locks a folder with a run in it, which is gone on with. Completes a replacement that was interrupted.
    ///
    /// # Errors
    /// No run; a training at work there; a folder that can't be written.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        if !path.is_dir() {
            let why = if path.exists() { "it is a file" } else { "there is no such folder" };
            return Err(TrainError::NoRun { path: path.to_owned(), why: why.into() });
        }
        if !path.join(CHECKPOINTS).is_dir() && !path.join(NEXT).is_dir() {
            let why = "it has no folder `checkpoints`".into();
            return Err(TrainError::NoRun { path: path.to_owned(), why });
        }
        let mut made = Made::default();
        let lock = make_and_lock(path, &mut made)?;
        let dir = Self { path: path.to_owned(), _lock: lock, made, replaces: None, published: true };
        dir.complete()?;
        dir.clean()?;
        Ok(dir)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the new run will replace.
    pub fn replaces(&self) -> Option<&Found> {
        self.replaces.as_ref()
    }

    /// Where the files of a new run are written until it is published.
    pub fn staging(&self) -> PathBuf {
        self.path.join(STAGING)
    }

    /// Puts the run that was written into [`staging`](Self::staging) in its place; what it replaces is removed.
    ///
    /// # Errors
    /// A run or a model that somebody put there since the claim. A system that refuses; then the old run is back in its place.
    pub fn publish(&mut self) -> Result<(), TrainError> {
        if self.replaces.is_none()
            && let Some(found) = look(&self.path)?
        {
            return Err(TrainError::Exists { path: self.path.clone(), found });
        }
        let (staging, next) = (self.staging(), self.path.join(NEXT));
        Disk.sync_folder(&staging).map_err(write_error(&staging))?;
        Disk.rename(&staging, &next).map_err(write_error(&next))?;
        self.published = true;
        Disk.sync_folder(&self.path).map_err(write_error(&self.path))?;
        self.move_in().inspect_err(|_| self.move_out())
    }

    /// Takes back what [`move_in`](Self::move_in) has done so far, after an error that matters more than one in here.
    fn move_out(&self) {
        let (next, old) = (self.path.join(NEXT), self.path.join(OLD));
        for name in NAMES {
            let (new, here, before) = (next.join(name), self.path.join(name), old.join(name));
            let is_new = new.symlink_metadata().is_err() && !matches!(name, CONFIG_FILE | WEIGHTS_FILE);
            if is_new && here.symlink_metadata().is_ok() {
                let _ = Disk.rename(&here, &new);
            }
            if before.symlink_metadata().is_ok() {
                let _ = Disk.rename(&before, &here);
            }
        }
        // Empty, if all came back.
        if fs::remove_dir(&old).is_ok() {
            let _ = fs::remove_dir_all(&next);
        }
    }

    /// Moves what is in `.next-run` to its names, and what these names held before out. Can be done again after it was interrupted at any point.
    fn move_in(&self) -> Result<(), TrainError> {
        let (next, old) = (self.path.join(NEXT), self.path.join(OLD));
        remove_tree(&old)?;
        fs::create_dir(&old).map_err(write_error(&old))?;
        for name in NAMES {
            let (from, to) = (next.join(name), self.path.join(name));
            let arrives = from.symlink_metadata().is_ok();
            // The new run has no model of its own yet: one that is there is the old run's.
            let leaves = arrives || matches!(name, CONFIG_FILE | WEIGHTS_FILE);
            if leaves && to.symlink_metadata().is_ok() {
                Disk.rename(&to, &old.join(name)).map_err(write_error(&to))?;
            }
            if arrives {
                Disk.rename(&from, &to).map_err(write_error(&to))?;
            }
        }
        Disk.sync_folder(&self.path).map_err(write_error(&self.path))?;
        remove_tree(&next)?;
        remove_tree(&old)
    }

    /// Completes a replacement in which a process was ended.
    fn complete(&self) -> Result<(), TrainError> {
        if self.path.join(NEXT).is_dir() && self.path.join(LOCK_FILE).exists() && !self.made.lock {
            self.move_in()?;
        }
        Ok(())
    }

    /// Removes what a process that was ended left here. Only for a folder that a training has used.
    fn clean(&self) -> Result<(), TrainError> {
        remove_tree(&self.staging())?;
        remove_tree(&self.path.join(OLD))?;
        clean_stale(&self.path)?;
        Ok(())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // What can't be removed is hidden, and removed by the next claim.
        let _ = fs::remove_dir_all(self.staging());
        if self.made.lock {
            let _ = fs::remove_file(self.path.join(LOCK_FILE));
            remove_empty(&self.made.folders);
        }
    }
}

/// Whether `path` holds a run.
pub fn is_run(path: &Path) -> bool {
    path.join(CHECKPOINTS).is_dir()
}

/// Refuses what can't be a folder, before anything is made.
fn check_place(path: &Path) -> Result<(), TrainError> {
    let refuse = |why: String| Err(TrainError::NoFolder { path: path.to_owned(), why });
    if path.as_os_str().is_empty() {
        return refuse("the name is empty".into());
    }
    match (path.symlink_metadata(), path.metadata()) {
        (Ok(link), Err(_)) if link.is_symlink() => {
            let target = fs::read_link(path).unwrap_or_default();
            refuse(format!(
                "it is a link to {}, which is not there; make that folder, or remove the link",
                target.display()
            ))
        }
        (_, Ok(there)) if !there.is_dir() => refuse("it is a file".into()),
        _ => Ok(()),
    }
}

/// Makes the folder and locks it, where its file system has locks. `made` receives what is new.
fn make_and_lock(run: &Path, made: &mut Made) -> Result<File, TrainError> {
    let path = run.join(LOCK_FILE);
    for _ in 0..TRIES {
        make_folder(run, &mut made.folders)?;
        // A link could lead elsewhere, and a pipe would be waited for.
        if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
            let why = format!("its {LOCK_FILE} is no file; remove it");
            return Err(TrainError::NoFolder { path: run.to_owned(), why });
        }
        let new = OpenOptions::new().create_new(true).append(true).open(&path);
        made.lock = new.is_ok();
        let opened = match new {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => OpenOptions::new().append(true).open(&path),
            opened => opened,
        };
        let file = match opened {
            Ok(file) => file,
            // Another process made the folder, failed, and has just removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(write_error(&path)(error)),
        };
        match file.try_lock() {
            // The other process removed the file that is locked here: no third one would see this lock.
            Ok(()) if !is_file_at(&file, &path) => {}
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
            Err(TryLockError::WouldBlock) => return Err(TrainError::Busy(run.to_owned())),
        }
    }
    Err(TrainError::Busy(run.to_owned()))
}

fn make_folder(run: &Path, made: &mut Vec<PathBuf>) -> Result<(), TrainError> {
    for folder in run.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        if !made.iter().any(|known| known == folder) {
            made.push(folder.to_owned());
        }
    }
    fs::create_dir_all(run).map_err(|source| TrainError::MakeFolder { path: run.to_owned(), source })
}

/// Whether an open file is the one under `path`.
#[cfg(unix)]
fn is_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().and_then(|open| Ok(same(open, path.metadata()?))).unwrap_or(false)
}

#[cfg(not(unix))]
fn is_file_at(_file: &File, path: &Path) -> bool {
    // A file that is open can't be removed there.
    path.exists()
}

/// Removes folders that were made for nothing, the innermost first; one with something in it stays.
fn remove_empty(made: &[PathBuf]) {
    for folder in made {
        let _ = fs::remove_dir(folder);
    }
}

fn remove_tree(path: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(path)(error)),
        _ => Ok(()),
    }
}

/// What a new run would replace. Hidden files and a file system's own folder are nobody's work.
///
/// # Errors
/// Something that is not a run's, which would get mixed with it.
fn look(path: &Path) -> Result<Option<Found>, TrainError> {
    let mut names = names_in(path)?;
    names.retain(|name| !name.starts_with('.') && name != LOCK_FILE && name != "lost+found");
    let foreign = |name: String| Err(TrainError::Foreign { path: path.to_owned(), name });
    for (folder, own) in [(DATA_FOLDER, is_shard_name as fn(&str) -> bool), (CHECKPOINTS, is_checkpoint_name)] {
        if !names.iter().any(|name| name == folder) {
            continue;
        }
        let inside = path.join(folder);
        if !inside.is_dir() {
            return foreign(folder.to_owned());
        }
        if let Some(name) = names_in(&inside)?.into_iter().find(|name| !own(name)) {
            return foreign(format!("{folder}/{name}"));
        }
    }
    let has = |name: &str| names.iter().any(|there| there == name);
    let checkpoints = path.join(CHECKPOINTS);
    if has(CONFIG_COPY) || (has(CHECKPOINTS) && !names_in(&checkpoints)?.is_empty()) {
        return Ok(Some(Found::Run));
    }
    if let Some(name) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        return foreign(name.clone());
    }
    if has(WEIGHTS_FILE) || has(CONFIG_FILE) {
        return Ok(Some(Found::Model));
    }
    Ok(if names.is_empty() { None } else { Some(Found::Files(names)) })
}

fn is_checkpoint_name(name: &str) -> bool {
    let is_step = |digits: &str| digits.len() >= 8 && digits.bytes().all(|digit| digit.is_ascii_digit());
    name.strip_prefix("step-").is_some_and(is_step) || name.starts_with(".tmp-")
}

/// The names in a folder, in order.
fn names_in(folder: &Path) -> Result<Vec<String>, TrainError> {
    let read = || -> io::Result<Vec<String>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = read().map_err(|source| TrainError::Read { path: folder.to_owned(), source })?;
    names.sort_unstable();
    Ok(names)
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> TrainError {
    let path = path.to_owned();
    move |source| TrainError::Write { path, source }
}

#[cfg(test)]
mod tests;
