//! The folder of a run: who may write there, what would be lost by it, and how a new run takes the place of an old one.
//!
//! ```text
//! new run:  make the folder ─► lock it ─► look what is in it ─► write the run into .tmp-new-run ─► rename that to .next-run
//!           ─► for each name of a run: RUN/name to .tmp-old-run, .next-run/name to RUN ─► remove .next-run, then .tmp-old-run
//! ```
//!
//! The folder itself is never renamed or removed, so it may be a link, a mount point or the current folder. What was in it stays as it
//! was until the new run has its first checkpoint. A process that ends before the rename to `.next-run` changes nothing; one that ends
//! after it leaves a replacement that the next [`RunDir::open`] or [`RunDir::claim`] completes. If a rename is refused, those before it are
//! taken back.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smallmind_checkpoint::{CONFIG_FILE, Disk, FileSystem, TOKENIZER_FILE, WEIGHTS_FILE, clean_stale};

use crate::TrainError;
use crate::data::is_shard_name;
use crate::prepare::DATA_FOLDER;
use crate::run_files::{CHECKPOINTS, CONFIG_COPY, CSV_FILE, LOG_FILE};

const LOCK_FILE: &str = "train.lock";
/// The new run while it is being written.
const STAGING: &str = ".tmp-new-run";
/// The new run, complete, on its way into the folder.
const NEXT: &str = ".next-run";
/// What the name of the folder for an old run on its way out begins with; a number follows where that can't be removed.
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
pub struct RunDir {
    path: PathBuf,
    file_system: Arc<dyn FileSystem>,
    /// Keeps other trainings out until it is closed.
    lock: Lock,
    /// What was made for it.
    made: Made,
    /// What a new run will replace.
    replaces: Option<Found>,
    /// How far the new run has come.
    stage: Stage,
}

/// The file of a lock.
#[derive(Debug)]
enum Lock {
    Locked {
        _file: File,
    },
    /// The file system has no locks.
    Impossible,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The staging folder is not there yet.
    Claimed,
    /// The new run is being written into the staging folder.
    Staged,
    /// It is in its place, or was there before.
    Published,
}

/// A rename that was done.
struct Move {
    from: PathBuf,
    to: PathBuf,
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
        check_path(path)?;
        let mut made = Made::default();
        let lock = make_and_lock(path, &mut made).inspect_err(|_| remove_empty(&made.folders))?;
        let used_before = !made.lock;
        let mut dir = Self::new(path, lock, made, Stage::Claimed);
        dir.complete()?;
        dir.replaces = look(path)?;
        if let Some(found) = dir.replaces.clone().filter(|_| existing == Existing::Refuse) {
            return Err(TrainError::Exists { path: path.to_owned(), found });
        }
        if used_before {
            dir.clean()?;
        }
        let staging = dir.staging();
        match fs::create_dir(&staging) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(TrainError::Foreign { path: path.to_owned(), name: STAGING.to_owned() });
            }
            made => made.map_err(write_error(&staging))?,
        }
        dir.stage = Stage::Staged;
        Ok(dir)
    }

    /// Locks the folder of a run that is to be resumed. Completes a replacement that was interrupted.
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
        let dir = Self::new(path, lock, made, Stage::Published);
        dir.complete()?;
        dir.clean()?;
        Ok(dir)
    }

    fn new(path: &Path, lock: Lock, made: Made, stage: Stage) -> Self {
        Self { path: path.to_owned(), file_system: Arc::new(Disk), lock, made, replaces: None, stage }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the new run will replace.
    pub fn replaces(&self) -> Option<&Found> {
        self.replaces.as_ref()
    }

    /// Whether other trainings are kept out: false where the file system has no locks.
    pub fn is_locked(&self) -> bool {
        matches!(self.lock, Lock::Locked { .. })
    }

    /// Where the files of a new run are written until it is published.
    pub fn staging(&self) -> PathBuf {
        self.path.join(STAGING)
    }

    /// Puts the run that was written into [`staging`](Self::staging) in its place, and removes what it replaces. Returns the reason why some of
    /// that could not be removed; it is hidden then.
    ///
    /// # Errors
    /// A run or a model that somebody put there since the claim. A system that refuses a rename; then the old run is back in its place.
    pub fn publish(&mut self) -> Result<Option<TrainError>, TrainError> {
        if self.replaces.is_none()
            && let Some(found) = look(&self.path)?
        {
            return Err(TrainError::Exists { path: self.path.clone(), found });
        }
        let (staging, next) = (self.staging(), self.path.join(NEXT));
        self.file_system.sync_folder(&staging).map_err(write_error(&staging))?;
        self.file_system.rename(&staging, &next).map_err(write_error(&next))?;
        let mut moves = Vec::new();
        let moved = self.file_system.sync_folder(&self.path).map_err(write_error(&self.path));
        if let Err(error) = moved.and_then(|()| self.move_in(&mut moves)) {
            self.take_back(&moves);
            return Err(error);
        }
        self.stage = Stage::Published;
        Ok(self.remove_old().err())
    }

    /// Takes back what [`move_in`](Self::move_in) has done, after an error that matters more than one in here.
    fn take_back(&self, moves: &[Move]) {
        for Move { from, to } in moves.iter().rev() {
            if self.file_system.rename(to, from).is_err() {
                // Neither the old run nor the new one is whole: `.next-run` stays, and the next claim tries to complete the replacement.
                return;
            }
        }
        let _ = self.file_system.rename(&self.path.join(NEXT), &self.staging());
        let _ = self.file_system.sync_folder(&self.path);
    }

    /// Moves what is in `.next-run` to its names, and what these names held before out; `moves` receives each rename. Can be done again after
    /// it was interrupted at any point.
    fn move_in(&self, moves: &mut Vec<Move>) -> Result<(), TrainError> {
        let (next, old) = (self.path.join(NEXT), self.make_old()?);
        let mut rename = |from: &Path, to: &Path| {
            self.file_system.rename(from, to).map_err(write_error(to))?;
            moves.push(Move { from: from.to_owned(), to: to.to_owned() });
            Ok::<(), TrainError>(())
        };
        // Without anything left to arrive, a model that is there is the new run's.
        let done = NAMES.iter().all(|name| next.join(name).symlink_metadata().is_err());
        for name in NAMES.into_iter().filter(|_| !done) {
            let (from, to) = (next.join(name), self.path.join(name));
            let arrives = from.symlink_metadata().is_ok();
            // The new run has no model of its own yet: one that is there is the old run's.
            let leaves = arrives || matches!(name, CONFIG_FILE | WEIGHTS_FILE);
            if leaves && to.symlink_metadata().is_ok() {
                rename(&to, &old.join(name))?;
            }
            if arrives {
                rename(&from, &to)?;
            }
        }
        self.file_system.sync_folder(&self.path).map_err(write_error(&self.path))
    }

    /// An empty folder for the old run.
    fn make_old(&self) -> Result<PathBuf, TrainError> {
        let mut old = self.path.join(OLD);
        for count in 1.. {
            match self.file_system.create_folder(&old) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    old = self.path.join(format!("{OLD}-{count}"));
                }
                made => {
                    made.map_err(write_error(&old))?;
                    break;
                }
            }
        }
        Ok(old)
    }

    /// Removes what replacements have left.
    fn remove_old(&self) -> Result<(), TrainError> {
        let left = names_in(&self.path)?;
        let left = left.iter().filter(|name| *name == NEXT || name.strip_prefix(OLD).is_some_and(is_old_suffix));
        let remove = |path: PathBuf| self.file_system.remove_folder(&path).map_err(write_error(&path));
        left.map(|name| remove(self.path.join(name))).fold(Ok(()), Result::and)
    }

    /// Completes a replacement in which a process was ended.
    fn complete(&self) -> Result<(), TrainError> {
        if self.path.join(NEXT).is_dir() && self.path.join(LOCK_FILE).exists() && !self.made.lock {
            self.move_in(&mut Vec::new())?;
        }
        Ok(())
    }

    /// Removes what a process that was ended left here. Only for a folder that a training has used.
    fn clean(&self) -> Result<(), TrainError> {
        remove_tree(&self.staging())?;
        // Who published the run was told of what could not be removed.
        let _ = self.remove_old();
        clean_stale(&self.path)?;
        Ok(())
    }
}

impl fmt::Debug for RunDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunDir").field("path", &self.path).field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.stage == Stage::Staged {
            // What can't be removed is hidden, and removed by the next claim.
            let _ = fs::remove_dir_all(self.staging());
        }
        if self.stage != Stage::Published && self.made.lock {
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
fn check_path(path: &Path) -> Result<(), TrainError> {
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
fn make_and_lock(run: &Path, made: &mut Made) -> Result<Lock, TrainError> {
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
            Ok(()) => return Ok(Lock::Locked { _file: file }),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => return Ok(Lock::Impossible),
            Err(TryLockError::Error(error)) => return Err(write_error(&path)(error)),
            Err(TryLockError::WouldBlock) => return Err(TrainError::Busy(run.to_owned())),
        }
    }
    Err(TrainError::Busy(run.to_owned()))
}

/// Whether a lock failed since the file system has none.
fn has_no_locks(error: &io::Error) -> bool {
    // "No locks available", what a network file system without a lock service answers.
    const ENOLCK: i32 = 37;
    error.kind() == io::ErrorKind::Unsupported || cfg!(target_os = "linux") && error.raw_os_error() == Some(ENOLCK)
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

/// What follows [`OLD`] in the name of a folder for an old run.
fn is_old_suffix(suffix: &str) -> bool {
    suffix.is_empty() || suffix.strip_prefix('-').is_some_and(|count| count.parse::<u32>().is_ok())
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
