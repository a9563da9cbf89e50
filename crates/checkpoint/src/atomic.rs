//! Files and folders that appear whole or not at all.
//!
//! ```text
//! file:    write and sync .tmp-new-NAME…            ─► rename to NAME ─► sync the parent
//! folder:  write and sync its files, manifest last  ─► sync the folder ─► [NAME to .tmp-old-NAME…]
//!          ─► rename to NAME ─► sync the parent
//! ```
//!
//! A process that is killed in between leaves names that start with `.tmp-`. [`clean_stale`] removes them, and puts an
//! old folder back if its successor had not yet taken its place. [`clean_stale_files_of`] removes the temporary files of
//! one file and may run beside other writers; [`clean_stale`] may not.
//!
//! A file is locked from its creation until it has its name, so that other processes know that it is being written.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::error::{CheckpointError, WriteFault};
use crate::file_system::{Disk, FileSystem, SystemFile};
use crate::manifest::{FileRecord, MANIFEST_FILE, Manifest, hex, is_plain_name};

/// Beginning of temporary names.
const TEMPORARY: &str = ".tmp-";
/// A file or folder being written.
const NEW: &str = ".tmp-new-";
/// A folder whose successor is about to take its name.
const OLD: &str = ".tmp-old-";
/// A folder being removed.
const REMOVED: &str = ".tmp-del-";

/// Bytes of the write buffer; larger writes bypass it.
const BUFFER: usize = 64 << 10;

/// Writes a file that appears under its name complete and synced, or not at all.
///
/// An earlier file of that name stays unchanged until then, and also if anything fails. A symbolic link of that name is
/// replaced, not followed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let path = dir.path().join("state.json");
/// smallmind_checkpoint::write_file_atomic(&path, |out| out.write_all(b"{}"))?;
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// # Ok(()) }
/// ```
pub fn write_file_atomic(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), CheckpointError> {
    write_file_atomic_on(&Disk, path.as_ref(), write)
}

/// [`write_file_atomic`] on any [`FileSystem`].
pub fn write_file_atomic_on(
    file_system: &dyn FileSystem,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), CheckpointError> {
    let mut file = PendingFile::create_on(file_system, path)?;
    file.fill(write)?;
    file.publish(Earlier::Replace)
}

/// A file that appears under its name with [`publish`](Self::publish). If it is dropped before, it leaves nothing.
pub struct PendingFile<'a> {
    file_system: &'a dyn FileSystem,
    path: PathBuf,
    parent: PathBuf,
    staging: PathBuf,
    /// Open, and so locked, until the file has its name.
    file: Box<dyn SystemFile>,
    filled: bool,
    published: bool,
}

/// What happens to an existing file of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// It is replaced; the new file has its permissions.
    Replace,
    /// It stays, and the new file is refused.
    Keep,
}

impl PendingFile<'static> {
    /// Makes a temporary file next to `path`.
    ///
    /// # Errors
    /// The folder does not exist or can't be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        Self::create_on(&Disk, path.as_ref())
    }
}

impl<'a> PendingFile<'a> {
    /// [`create`](PendingFile::create) on any [`FileSystem`].
    ///
    /// # Errors
    /// As [`create`](PendingFile::create).
    pub fn create_on(file_system: &'a dyn FileSystem, path: &Path) -> Result<Self, CheckpointError> {
        let (parent, name) = split(path)?;
        let (staging, file) = create_unique(|| temporary(&parent, NEW, name), |path| file_system.create_file(path))
            .map_err(CheckpointError::io(path, "create a temporary file in its folder"))?;
        let path = path.to_path_buf();
        Ok(Self { file_system, path, parent, staging, file, filled: false, published: false })
    }

    /// The temporary file.
    pub fn temporary(&self) -> &Path {
        &self.staging
    }

    /// Writes the content and syncs it, once.
    ///
    /// # Errors
    /// A disk that is full or fails.
    pub fn fill(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CheckpointError> {
        let filled = if std::mem::replace(&mut self.filled, true) {
            Err(io::Error::other("it is written already"))
        } else {
            fill(&mut *self.file, write)
        };
        filled.map(drop).map_err(CheckpointError::io(&self.path, "write"))
    }

    /// Moves the file to its name.
    ///
    /// # Errors
    /// The disk fails, or there is a file that is to be kept. An existing file is unchanged.
    pub fn publish(mut self, earlier: Earlier) -> Result<(), CheckpointError> {
        let moved = match earlier {
            Earlier::Replace => {
                if let Ok(there) = self.path.symlink_metadata()
                    && there.is_file()
                {
                    // An error is ignored: the permissions matter less than the content.
                    let _ = std::fs::set_permissions(&self.staging, there.permissions());
                }
                self.file_system.rename(&self.staging, &self.path)
            }
            Earlier::Keep => self.file_system.rename_new(&self.staging, &self.path),
        };
        moved.map_err(CheckpointError::io(&self.path, "move the new content to"))?;
        self.published = true;
        self.file_system.sync_folder(&self.parent).map_err(CheckpointError::io(&self.parent, "sync the folder"))
    }
}

impl Drop for PendingFile<'_> {
    fn drop(&mut self) {
        if !self.published {
            // Errors are ignored: `clean_stale` removes the file later.
            let _ = self.file_system.remove_file(&self.staging);
        }
    }
}

impl std::fmt::Debug for PendingFile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingFile").field("path", &self.path).finish()
    }
}

/// A folder that appears under its name with [`publish`](Self::publish). If it is dropped before, it leaves nothing.
pub struct AtomicFolder {
    file_system: Arc<dyn FileSystem>,
    target: PathBuf,
    parent: PathBuf,
    staging: PathBuf,
    manifest: Manifest,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Every file that was begun is complete.
    Whole,
    /// A file could not be written.
    Broken,
    /// The folder is under its name.
    Published,
}

impl AtomicFolder {
    /// Begins a folder that will be called `target`; its parent must exist.
    pub fn create(target: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        Self::create_on(Arc::new(Disk), target.as_ref())
    }

    /// [`create`](Self::create) on any [`FileSystem`].
    pub fn create_on(file_system: Arc<dyn FileSystem>, target: &Path) -> Result<Self, CheckpointError> {
        let (parent, name) = split(target)?;
        let (staging, ()) = create_unique(|| temporary(&parent, NEW, name), |path| file_system.create_folder(path))
            .map_err(CheckpointError::io(target, "create a temporary folder beside it"))?;
        let target = target.to_path_buf();
        Ok(Self { file_system, target, parent, staging, manifest: Manifest::default(), state: State::Whole })
    }

    /// Adds a file; it is written and synced when this returns.
    ///
    /// After a failed write the folder can't be published any more.
    pub fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CheckpointError> {
        let fault = if name == MANIFEST_FILE {
            Some(WriteFault::Reserved)
        } else if !is_plain_name(name) || name.starts_with(TEMPORARY) {
            Some(WriteFault::NotPlain)
        } else if self.manifest.files.contains_key(name) {
            Some(WriteFault::Taken)
        } else {
            None
        };
        if let Some(fault) = fault {
            return Err(CheckpointError::Unwritable { name: name.to_owned(), fault });
        }
        let record = self.write_synced(name, write).inspect_err(|_| self.state = State::Broken)?;
        self.manifest.files.insert(name.to_owned(), record);
        Ok(())
    }

    /// Moves the folder to its name in place of an earlier one; returns its manifest.
    ///
    /// After an error the complete earlier folder or the complete new one is under the name.
    pub fn publish(mut self) -> Result<Manifest, CheckpointError> {
        if self.state == State::Broken {
            let error = io::Error::other("an earlier write into it failed");
            return Err(CheckpointError::io(&self.target, "publish the folder")(error));
        }
        let text = self.manifest.to_text();
        self.write_synced(MANIFEST_FILE, |out| out.write_all(text.as_bytes()))?;
        self.file_system.sync_folder(&self.staging).map_err(CheckpointError::io(&self.staging, "sync the folder"))?;

        let replaced = if self.target.symlink_metadata().is_ok() { Some(self.set_old_aside()?) } else { None };
        if let Err(error) = self.file_system.rename(&self.staging, &self.target) {
            if let Some(old) = &replaced {
                // If this fails too, `clean_stale` puts it back later.
                let _ = self.file_system.rename(old, &self.target);
            }
            return Err(CheckpointError::io(&self.target, "move the new folder to")(error));
        }
        self.state = State::Published;
        self.file_system.sync_folder(&self.parent).map_err(CheckpointError::io(&self.parent, "sync the folder"))?;
        if let Some(old) = replaced {
            // The new folder is published; `clean_stale` removes what is left of the old one.
            let _ = self.file_system.remove_folder(&old);
        }
        Ok(std::mem::take(&mut self.manifest))
    }

    fn set_old_aside(&self) -> Result<PathBuf, CheckpointError> {
        let (_, name) = split(&self.target)?;
        let (old, ()) = create_unique(
            || temporary(&self.parent, OLD, name),
            |path| rename_free(&*self.file_system, &self.target, path),
        )
        .map_err(CheckpointError::io(&self.target, "set the earlier folder aside"))?;
        Ok(old)
    }

    fn write_synced(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<FileRecord, CheckpointError> {
        // Errors name the file as it would have been called, not its temporary name.
        let shown = self.target.join(name);
        let file = self.file_system.create_file(&self.staging.join(name));
        file.and_then(|mut file| fill(&mut *file, write)).map_err(CheckpointError::io(&shown, "write"))
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        if self.state != State::Published {
            let _ = self.file_system.remove_folder(&self.staging);
        }
    }
}

impl std::fmt::Debug for AtomicFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtomicFolder").field("target", &self.target).field("files", &self.manifest.files).finish()
    }
}

/// Removes what a killed process left in `dir`: names that start with `.tmp-new-`, `.tmp-old-` or `.tmp-del-`.
///
/// A folder that was moved away for a successor is put back if there is no successor. Returns the names that were
/// removed or put back. Only the process that writes into `dir` may call this, before it writes.
pub fn clean_stale(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>, CheckpointError> {
    let dir = dir.as_ref();
    let mut cleaned = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(CheckpointError::io(dir, "list the folder"))? {
        let entry = entry.map_err(CheckpointError::io(dir, "list the folder"))?;
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Some((kind, process, original)) = parse_temporary(&name) else { continue };
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if kind == NEW && !is_folder && process != std::process::id() && is_running(process) {
            // A file that another program is about to move to its name.
            continue;
        }
        let home = dir.join(original);
        let result = if kind == OLD && home.symlink_metadata().is_err() {
            Disk.rename(&path, &home)
        } else if is_folder {
            Disk.remove_folder(&path)
        } else {
            Disk.remove_file(&path)
        };
        result.map_err(CheckpointError::io(&path, "clean up"))?;
        cleaned.push(path);
    }
    if !cleaned.is_empty() {
        Disk.sync_folder(dir).map_err(CheckpointError::io(dir, "sync the folder"))?;
    }
    Ok(cleaned)
}

/// Removes the temporary files that killed processes left while they wrote a file `path`: beside it, regular, named
/// `.tmp-new-PROCESS.COUNT-NAME`, of a process that has ended, and locked by nobody. Returns how many it removed.
///
/// Unlike [`clean_stale`] this may be called while other processes write into the folder. Where the system doesn't show
/// its processes, or the file system has no locks, nothing is removed.
pub fn clean_stale_files_of(path: impl AsRef<Path>) -> usize {
    let Ok((parent, name)) = split(path.as_ref()) else { return 0 };
    let Ok(entries) = std::fs::read_dir(parent) else { return 0 };
    let is_stale = |entry: &std::fs::DirEntry| {
        let file_name = entry.file_name();
        let Some((NEW, process, original)) = file_name.to_str().and_then(parse_temporary) else { return false };
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        is_file && OsStr::new(original) == name && !is_running(process) && is_unlocked(&entry.path())
    };
    let stale = entries.filter_map(Result::ok).filter(is_stale);
    stale.filter(|entry| Disk.remove_file(&entry.path()).is_ok()).count()
}

/// Whether certainly no process holds the lock of a file that is being written: one on another machine, or in another
/// container, is not among the processes that the system shows. False if the file can't be opened or locked.
fn is_unlocked(path: &Path) -> bool {
    // A network file system locks only a file that is open for writing.
    OpenOptions::new().append(true).open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Removes a folder so that it is never seen incomplete under its name.
pub(crate) fn remove_folder(file_system: &dyn FileSystem, path: &Path) -> Result<(), CheckpointError> {
    let (parent, name) = split(path)?;
    let (doomed, ()) =
        create_unique(|| temporary(&parent, REMOVED, name), |doomed| rename_free(file_system, path, doomed))
            .map_err(CheckpointError::io(path, "remove"))?;
    file_system.remove_folder(&doomed).map_err(CheckpointError::io(path, "remove"))
}

/// Calls `write` with a buffered writer that hashes what passes, then syncs the file.
fn fill(file: &mut dyn SystemFile, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<FileRecord> {
    let mut out = BufWriter::with_capacity(BUFFER, Hashed { file, hasher: Sha256::new(), bytes: 0 });
    let written = write(&mut out);
    // The buffer is taken apart even after an error, so that a failed file is not flushed again on drop.
    let flushed = written.and_then(|()| out.flush());
    let (hashed, _) = out.into_parts();
    flushed?;
    hashed.file.sync()?;
    Ok(FileRecord { bytes: hashed.bytes, sha256: hex(hashed.hasher) })
}

/// Counts and hashes what passes to a file.
struct Hashed<'a> {
    file: &'a mut dyn SystemFile,
    hasher: Sha256,
    bytes: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = self.file.write(data)?;
        self.hasher.update(&data[..taken]);
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The folder around a path and the name in it.
fn split(path: &Path) -> Result<(PathBuf, &OsStr), CheckpointError> {
    let Some(name) = path.file_name() else {
        let fault = WriteFault::NotPlain;
        return Err(CheckpointError::Unwritable { name: path.display().to_string(), fault });
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((parent.to_path_buf(), name))
}

/// A temporary name `.tmp-KIND-PROCESS.COUNT-NAME`, different at each call in this process.
fn temporary(parent: &Path, kind: &str, name: &OsStr) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut temporary = std::ffi::OsString::from(format!("{kind}{}.{count}-", std::process::id()));
    temporary.push(name);
    parent.join(temporary)
}

/// Whether a process may be running; true if the system doesn't show processes. One that has ended is shown as a zombie
/// until its parent asks for its exit code, which the first process of a container may never do.
fn is_running(process: u32) -> bool {
    let processes = Path::new("/proc");
    let shown = processes.join(process.to_string());
    if processes.join("self").exists() && !shown.exists() {
        return false;
    }
    let stat = std::fs::read_to_string(shown.join("stat")).unwrap_or_default();
    // PID (NAME) STATE …, where the name may have any characters.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X'))
}

/// The kind, the process and the original name of a temporary name.
fn parse_temporary(name: &str) -> Option<(&'static str, u32, &str)> {
    let kind = [NEW, OLD, REMOVED].into_iter().find(|kind| name.starts_with(kind))?;
    let (unique, original) = name[kind.len()..].split_once('-')?;
    let (process, count) = unique.split_once('.')?;
    // A number that can't be a process id counts as an ended process.
    let id = process.parse().unwrap_or(u32::MAX);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(process) && digits(count) && is_plain_name(original)).then_some((kind, id, original))
}

/// Calls `create` with new names until one is free: an earlier process of the same id may have left some behind.
fn create_unique<T>(name: impl Fn() -> PathBuf, create: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
    loop {
        let path = name();
        match create(&path) {
            Ok(created) => return Ok((path, created)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Renames a folder to a name that must be free; else `AlreadyExists`.
fn rename_free(file_system: &dyn FileSystem, from: &Path, to: &Path) -> io::Result<()> {
    if to.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    file_system.rename(from, to)
}
