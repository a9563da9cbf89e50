//! The last few checkpoints of a run, side by side.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::atomic::{AtomicFolder, clean_stale, remove_folder};
use crate::error::CheckpointError;
use crate::file_system::{Disk, FileSystem};
use crate::manifest::{Manifest, verify_folder, verify_sizes};

/// Digits of a step in a folder's name, so that names sort as steps do.
const DIGITS: usize = 8;

/// Checkpoints in the folders `PREFIX00000100`, `PREFIX00000200`, … of one folder, the oldest removed as new ones
/// appear.
#[derive(Clone)]
pub struct Rolling {
    dir: PathBuf,
    prefix: String,
    keep: NonZeroUsize,
    file_system: Arc<dyn FileSystem>,
}

/// A checkpoint that was published.
#[derive(Debug)]
#[must_use = "`not_removed` tells of old checkpoints that fill the disk"]
pub struct Published {
    /// Folder of the checkpoint.
    pub path: PathBuf,
    /// Manifest of the folder.
    pub manifest: Manifest,
    /// The error if an old checkpoint could not be removed. The new one is published in any case.
    pub not_removed: Option<CheckpointError>,
}

/// The result of [`Rolling::latest_valid`].
#[derive(Debug)]
#[must_use]
pub struct Latest {
    /// The newest checkpoint that is whole.
    pub checkpoint: Option<ValidCheckpoint>,
    /// Newer checkpoints that are damaged, the newest first, with their errors.
    pub damaged: Vec<(PathBuf, CheckpointError)>,
}

/// A checkpoint whose every file agrees with its manifest.
#[derive(Debug, Clone)]
pub struct ValidCheckpoint {
    /// The step it was published at.
    pub step: u64,
    /// Folder of the checkpoint.
    pub path: PathBuf,
    /// Manifest of the folder.
    pub manifest: Manifest,
}

impl Rolling {
    /// The checkpoints in `dir` whose names begin with `prefix` (`"step-"`). Publishing keeps the newest `keep`.
    ///
    /// Nothing is read or created yet. With `keep` = 1 there is no earlier checkpoint to fall back to if the one is
    /// damaged.
    pub fn new(dir: impl AsRef<Path>, prefix: &str, keep: NonZeroUsize) -> Self {
        Self::on(Arc::new(Disk), dir, prefix, keep)
    }

    /// [`new`](Self::new) on any [`FileSystem`].
    pub fn on(file_system: Arc<dyn FileSystem>, dir: impl AsRef<Path>, prefix: &str, keep: NonZeroUsize) -> Self {
        Self { dir: dir.as_ref().to_path_buf(), prefix: prefix.to_owned(), keep, file_system }
    }

    /// The folder that holds the checkpoints.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of the checkpoint of a step, whether it exists or not.
    pub fn path_of(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{}{step:0DIGITS$}", self.prefix))
    }

    /// The steps of all checkpoints, whole or not, ascending; empty if the folder does not exist.
    pub fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        let mut steps = Vec::new();
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(steps),
            Err(error) => return Err(CheckpointError::io(&self.dir, "list the folder")(error)),
        };
        for entry in entries {
            let name = entry.map_err(CheckpointError::io(&self.dir, "list the folder"))?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix(&self.prefix));
            let Some(step) = digits.and_then(|digits| digits.parse().ok()) else { continue };
            // Only names that this type writes: `step-00000001`, not `step-1`.
            if self.path_of(step).file_name() == Some(&name) {
                steps.push(step);
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest checkpoint whose checksums are all correct, and the errors of newer ones.
    ///
    /// It only reads, so it may run while another process trains. If there is no such checkpoint but `damaged` is not
    /// empty, don't start a new run in the folder: a user may be able to rescue a checkpoint.
    pub fn latest_valid(&self) -> Result<Latest, CheckpointError> {
        let mut damaged = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            let path = self.path_of(step);
            match verify_folder(&path) {
                Ok(manifest) => {
                    return Ok(Latest { checkpoint: Some(ValidCheckpoint { step, path, manifest }), damaged });
                }
                Err(error) => damaged.push((path, error)),
            }
        }
        Ok(Latest { checkpoint: None, damaged })
    }

    /// Removes what a killed process left: [`clean_stale`]. The process that publishes calls it once before.
    pub fn clean(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        if self.dir.is_dir() { clean_stale(&self.dir) } else { Ok(Vec::new()) }
    }

    /// Publishes the checkpoint of a step, written by `write`, then removes the oldest beyond the number to keep.
    ///
    /// A checkpoint of the same step is replaced. After an error the earlier checkpoints are as they were.
    pub fn publish(
        &self,
        step: u64,
        write: impl FnOnce(&mut AtomicFolder) -> Result<(), CheckpointError>,
    ) -> Result<Published, CheckpointError> {
        self.ensure_dir()?;
        let path = self.path_of(step);
        let mut folder = AtomicFolder::create_on(Arc::clone(&self.file_system), &path)?;
        write(&mut folder)?;
        let manifest = folder.publish()?;
        let not_removed = self.prune(step).err();
        Ok(Published { path, manifest, not_removed })
    }

    /// Removes the checkpoint of a step.
    pub fn remove(&self, step: u64) -> Result<(), CheckpointError> {
        remove_folder(&*self.file_system, &self.path_of(step))
    }

    fn ensure_dir(&self) -> Result<(), CheckpointError> {
        if self.dir.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.dir).map_err(CheckpointError::io(&self.dir, "create the folder"))?;
        // The folder's name must survive a power cut, as well as its content.
        match self.dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                self.file_system.sync_folder(parent).map_err(CheckpointError::io(parent, "sync the folder"))
            }
            _ => Ok(()),
        }
    }

    /// Removes all but the newest checkpoints. Checkpoints with missing files or wrong sizes don't count as kept.
    ///
    /// The checkpoint of step `published` is kept in any case.
    fn prune(&self, published: u64) -> Result<(), CheckpointError> {
        let mut kept = 0;
        for step in self.steps()?.into_iter().rev() {
            let path = self.path_of(step);
            if step == published || kept < self.keep.get() {
                kept += usize::from(verify_sizes(&path).is_ok());
            } else {
                remove_folder(&*self.file_system, &path)?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Rolling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rolling")
            .field("dir", &self.dir)
            .field("prefix", &self.prefix)
            .field("keep", &self.keep)
            .finish()
    }
}
