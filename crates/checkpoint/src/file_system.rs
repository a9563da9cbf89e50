//! The few operations that publishing a file needs, behind a trait, so that tests can make each of them fail.
//!
//! Reading is not part of it: published files are read with ordinary calls.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Where files are published. [`Disk`] is the real one.
pub trait FileSystem: Send + Sync {
    /// Creates a file that must not exist yet.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn SystemFile>>;
    /// Creates a folder that must not exist yet, inside one that does.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a folder (names created, renamed, removed) survive a loss of power.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or a folder within its parent, in one step; a file replaces one of that name, a folder does not.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file to a name that must be free; `AlreadyExists` if it is not.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match fs::hard_link(from, to) {
            Ok(()) => self.remove_file(from),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // The file system has no hard links.
            Err(_) if to.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => self.rename(from, to),
        }
    }
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all that it holds.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
}

/// Whether two paths or handles with these metadata are of one file on the disk; `None` where the system doesn't say.
#[cfg(unix)]
pub fn is_same_file(a: &Metadata, b: &Metadata) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    Some((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// Whether two paths or handles with these metadata are of one file on the disk; `None` where the system doesn't say.
#[cfg(not(unix))]
pub fn is_same_file(_a: &Metadata, _b: &Metadata) -> Option<bool> {
    None
}

/// A file being written.
pub trait SystemFile: Write + Send {
    /// Makes all that was written survive a loss of power.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl FileSystem for Disk {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn SystemFile>> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        // Tells other processes that the file is being written. Not every file system has locks.
        let _ = file.try_lock();
        Ok(Box::new(file))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    #[cfg(unix)]
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        match File::open(path)?.sync_all() {
            // Some network and FUSE file systems can't sync a folder; nothing more can be done there.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            result => result,
        }
    }

    #[cfg(not(unix))]
    fn sync_folder(&self, _path: &Path) -> io::Result<()> {
        // A folder can't be opened as a file here; the system writes its entries by itself.
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
}

impl SystemFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
