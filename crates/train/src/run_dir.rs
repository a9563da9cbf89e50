//! The folder of a run: its lock, what a new run would replace, and how it does so.
//!
//! ```text
//! new run:  make the folder ─► lock it ─► check what it holds ─► write the run into .tmp-new-run
//!           ─► rename .tmp-new-run to .next-run
//!           ─► for each name of a run: move RUN/name to .tmp-old-run, then .next-run/name to RUN
//!           ─► remove .next-run, then .tmp-old-run
//! ```
//!
//! The folder itself is never renamed or removed, so it may be a link, a mount point or the current folder. Its content
//! does not change before the new run has its first checkpoint. A process that is killed before the rename to
//! `.next-run` has changed nothing; one that is killed later leaves a replacement that the next [`RunDir::open`] or
//! [`RunDir::claim`] completes. If the system refuses a rename, the renames before it are undone.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use smallmind_checkpoint::{
    CONFIG_FILE, Disk, FileSystem, GENERATION_FILE, TOKENIZER_FILE, WEIGHTS_FILE, clean_stale, is_same_file,
};
use smallmind_model::chat::TOKENIZER_CONFIG_FILE;

use crate::TrainError;
use crate::data::is_shard_name;
use crate::prepare::DATA_FOLDER;
use crate::run_files::{CHECKPOINTS, CONFIG_COPY, CSV_FILE, LOG_FILE};

const LOCK_FILE: &str = "train.lock";
/// Folder that the new run is written into.
const STAGING: &str = ".tmp-new-run";
/// Folder of the complete new run while its files are moved to their places.
const NEXT: &str = ".next-run";
/// Beginning of the name of a folder for an old run that is being removed; a number follows if earlier ones could not
/// be removed.
const OLD: &str = ".tmp-old-run";

/// The names, except hidden ones, that a run writes into its folder.
const RUN_NAMES: [&str; 10] = [
    CHECKPOINTS,
    DATA_FOLDER,
    CONFIG_FILE,
    WEIGHTS_FILE,
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    GENERATION_FILE,
    CONFIG_COPY,
    LOG_FILE,
    CSV_FILE,
];

/// The names among them that not every new run has when it is published. Those in its folder are an old run's.
const NOT_IN_EACH: [&str; 4] = [CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_CONFIG_FILE, GENERATION_FILE];

/// Attempts to lock a file that another process removes at the same time.
const TRIES: usize = 100;

/// What a claim does about a run or a model in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// The claim is refused.
    Refuse,
    /// The new run replaces it as soon as it has its first checkpoint.
    Replace,
}

/// What a folder holds that a new run would replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A run.
    Run,
    /// A model without checkpoints.
    Model,
    /// Files with names that a run writes.
    Files(Vec<String>),
}

/// The claimed folder of a run: until this is dropped, no other training writes there, if the file system has locks.
///
/// If it is dropped before [`publish`](Self::publish), the folder is as before the claim.
pub struct RunDir {
    path: PathBuf,
    file_system: Arc<dyn FileSystem>,
    /// Keeps other training runs out until it is closed.
    lock: Lock,
    /// What the claim made.
    made: Made,
    /// What a new run will replace.
    replaces: Option<Found>,
    /// Where the new run is.
    stage: Stage,
    /// Keeps a new run from being published once it is set.
    stop: Option<&'static AtomicBool>,
}

/// The lock on the folder of a run.
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
    /// The staging folder does not exist yet.
    Claimed,
    /// The new run is being written into the staging folder.
    Staged,
    /// The run is in its folder.
    Published,
}

/// A rename that was done.
struct Move {
    from: PathBuf,
    to: PathBuf,
}

/// What a claim made, and removes unless the run is published.
#[derive(Debug, Default)]
struct Made {
    /// New folders, the innermost first.
    folders: Vec<PathBuf>,
    /// Whether the claim made the lock file.
    lock: bool,
}

impl RunDir {
    /// Claims `path` for a new run: makes the folder if it is missing, locks it and checks what it holds. Completes an
    /// interrupted replacement and changes nothing else.
    ///
    /// # Errors
    /// Another training run locks the folder; it holds a run, a model or other files; the path is a file, a link to
    /// nothing, or can't be written.
    pub fn claim(path: &Path, existing: Existing) -> Result<Self, TrainError> {
        check_path(path)?;
        let mut made = Made::default();
        let lock = make_and_lock(path, &mut made).inspect_err(|_| remove_empty(&made.folders))?;
        let used_before = !made.lock;
        let mut dir = Self::new(path, lock, made, Stage::Claimed);
        dir.complete()?;
        dir.replaces = find_replaced(path)?;
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

    /// Locks the folder of a run to resume it. Completes an interrupted replacement.
    ///
    /// # Errors
    /// There is no run; another training run locks the folder; it can't be written.
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
        Self { path: path.to_owned(), file_system: Arc::new(Disk), lock, made, replaces: None, stage, stop: None }
    }

    /// The folder of the run.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files and folders in `path` that a new run may replace, whether they are there or not.
    pub fn replaceable(path: &Path) -> Vec<PathBuf> {
        RUN_NAMES.iter().map(|name| path.join(name)).collect()
    }

    /// Has [`publish`](Self::publish) refuse the run once `stop` is set.
    pub fn stop_with(&mut self, stop: &'static AtomicBool) {
        self.stop = Some(stop);
    }

    /// What the new run will replace; `None` for nothing.
    pub fn replaces(&self) -> Option<&Found> {
        self.replaces.as_ref()
    }

    /// Whether a lock keeps other training runs out; false if the file system has no locks.
    pub fn is_locked(&self) -> bool {
        matches!(self.lock, Lock::Locked { .. })
    }

    /// The folder that a new run is written into before it is published.
    pub fn staging(&self) -> PathBuf {
        self.path.join(STAGING)
    }

    /// Moves the run from [`staging`](Self::staging) into its folder and removes what it replaces. Returns an error if
    /// part of the old run could not be removed; that part stays in a hidden folder.
    ///
    /// # Errors
    /// There is a run or a model in the folder that was not there at the claim, or the system refuses a rename. Then
    /// the folder is as before. [`TrainError::Stopped`].
    pub fn publish(&mut self) -> Result<Option<TrainError>, TrainError> {
        if self.stop.is_some_and(|stop| stop.load(Ordering::SeqCst)) {
            return Err(TrainError::Stopped);
        }
        if self.replaces.is_none()
            && let Some(found) = find_replaced(&self.path)?
        {
            return Err(TrainError::Exists { path: self.path.clone(), found });
        }
        let (staging, next) = (self.staging(), self.path.join(NEXT));
        self.file_system.sync_folder(&staging).map_err(write_error(&staging))?;
        self.file_system.rename(&staging, &next).map_err(write_error(&next))?;
        let mut moves = Vec::new();
        let moved = self.file_system.sync_folder(&self.path).map_err(write_error(&self.path));
        if let Err(error) = moved.and_then(|()| self.move_in(&mut moves)) {
            self.undo(&moves);
            return Err(error);
        }
        self.stage = Stage::Published;
        Ok(self.remove_old().err())
    }

    /// Undoes the renames of [`move_in`](Self::move_in). Its own errors are not reported, only the error that made it
    /// necessary.
    fn undo(&self, moves: &[Move]) {
        for Move { from, to } in moves.iter().rev() {
            if self.file_system.rename(to, from).is_err() {
                // Neither run is whole: `.next-run` stays, and the next claim tries to complete the replacement.
                return;
            }
        }
        let _ = self.file_system.rename(&self.path.join(NEXT), &self.staging());
        let _ = self.file_system.sync_folder(&self.path);
    }

    /// Moves the files of the old run out and those in `.next-run` in; `moves` receives each rename. After an
    /// interruption at any point it can be repeated.
    fn move_in(&self, moves: &mut Vec<Move>) -> Result<(), TrainError> {
        let (next, old) = (self.path.join(NEXT), self.make_old()?);
        let mut rename = |from: &Path, to: &Path| {
            self.file_system.rename(from, to).map_err(write_error(to))?;
            moves.push(Move { from: from.to_owned(), to: to.to_owned() });
            Ok::<(), TrainError>(())
        };
        // If `.next-run` is empty, all is moved: a model in the folder is the new run's and must stay.
        let done = RUN_NAMES.iter().all(|name| next.join(name).symlink_metadata().is_err());
        for name in RUN_NAMES.into_iter().filter(|_| !done) {
            let (from, to) = (next.join(name), self.path.join(name));
            let arrives = from.symlink_metadata().is_ok();
            let leaves = arrives || NOT_IN_EACH.contains(&name);
            if leaves && to.symlink_metadata().is_ok() {
                rename(&to, &old.join(name))?;
            }
            if arrives {
                rename(&from, &to)?;
            }
        }
        self.file_system.sync_folder(&self.path).map_err(write_error(&self.path))
    }

    /// Makes an empty folder for the old run.
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

    /// Removes the folders that replacements leave.
    fn remove_old(&self) -> Result<(), TrainError> {
        let left = names_in(&self.path)?;
        let left = left.iter().filter(|name| *name == NEXT || name.strip_prefix(OLD).is_some_and(is_old_suffix));
        let remove = |path: PathBuf| self.file_system.remove_folder(&path).map_err(write_error(&path));
        left.map(|name| remove(self.path.join(name))).fold(Ok(()), Result::and)
    }

    /// Completes a replacement that was interrupted.
    fn complete(&self) -> Result<(), TrainError> {
        if self.path.join(NEXT).is_dir() && self.path.join(LOCK_FILE).exists() && !self.made.lock {
            self.move_in(&mut Vec::new())?;
        }
        Ok(())
    }

    /// Removes what a killed process left. Only for a folder that a training run has used.
    fn clean(&self) -> Result<(), TrainError> {
        remove_tree(&self.staging())?;
        // The `publish` that could not remove an old run has reported that.
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
            // The next claim removes what can't be removed here.
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

/// Refuses paths that can't be a folder before any folder is made.
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

/// Makes the folder and locks it, if its file system has locks. `made` receives what was made.
fn make_and_lock(run: &Path, made: &mut Made) -> Result<Lock, TrainError> {
    let path = run.join(LOCK_FILE);
    for _ in 0..TRIES {
        make_folder(run, &mut made.folders)?;
        // A link could lead elsewhere, and opening a pipe would wait.
        if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
            let why = format!("its {LOCK_FILE} is not a regular file; remove that first");
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
        match lock_soon(&file) {
            // Another process removed this file, so its lock would have no effect.
            Ok(()) if !is_file_at(&file, &path) => {}
            Ok(()) => return Ok(Lock::Locked { _file: file }),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => return Ok(Lock::Impossible),
            Err(TryLockError::Error(error)) => return Err(write_error(&path)(error)),
            Err(TryLockError::WouldBlock) => return Err(TrainError::Busy(run.to_owned())),
        }
    }
    Err(TrainError::Busy(run.to_owned()))
}

/// Locks a file, or finds for a tenth of a second that it is locked: a process that is just being started holds the
/// locks of the one that starts it, until it runs its own program.
fn lock_soon(file: &File) -> Result<(), TryLockError> {
    for _ in 0..20 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
    file.try_lock()
}

/// Whether locking failed because the file system has no locks.
fn has_no_locks(error: &io::Error) -> bool {
    // "No locks available": the answer of a network file system without a lock service.
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

/// Whether `path` still names the open file.
fn is_file_at(file: &File, path: &Path) -> bool {
    let is_same = file.metadata().and_then(|open| Ok(is_same_file(&open, &path.metadata()?)));
    // Where the system doesn't say, open files can't be removed.
    is_same.is_ok_and(|same| same.unwrap_or(true))
}

/// Removes those of these folders that are empty, the innermost first.
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

/// What a new run would replace in the folder; hidden files and `lost+found` don't count.
///
/// # Errors
/// [`TrainError::Foreign`] for a file that no run writes.
fn find_replaced(path: &Path) -> Result<Option<Found>, TrainError> {
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
    if let Some(name) = names.iter().find(|name| !RUN_NAMES.contains(&name.as_str())) {
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

/// Whether `suffix` can follow [`OLD`] in the name of a folder for an old run.
fn is_old_suffix(suffix: &str) -> bool {
    suffix.is_empty() || suffix.strip_prefix('-').is_some_and(|count| count.parse::<u32>().is_ok())
}

/// The names in a folder, sorted.
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
