//! The temporary files of outputs, which a signal removes when it ends the program.
//!
//! A verb without an orderly end of its own calls [`super::interrupt::end_on_signal`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use smallmind::checkpoint::{CheckpointError, PendingFile};

/// What is on the disk of this program's outputs.
#[derive(Debug, Default)]
struct Outputs {
    /// Temporary files, and folders that were made for them.
    parts: Vec<PathBuf>,
    /// What has been published.
    written: Vec<PathBuf>,
}

static OUTPUTS: Mutex<Outputs> = Mutex::new(Outputs { parts: vec![], written: vec![] });

fn outputs() -> MutexGuard<'static, Outputs> {
    OUTPUTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins a file, and lists its temporary file.
///
/// # Errors
/// As [`PendingFile::create`].
pub fn begin(path: &Path) -> Result<PendingFile<'static>, CheckpointError> {
    // The lock is held over both, so that no signal comes in between.
    let mut outputs = outputs();
    let file = PendingFile::create(path)?;
    outputs.parts.push(file.temporary().to_owned());
    Ok(file)
}

/// Lists a folder that is about to be made. Removed after a signal if it is empty.
pub fn list_folder(path: &Path) {
    outputs().parts.push(path.to_owned());
}

/// Runs `publish`, which gives files their names; `written` is what the user knows them by. A signal waits for it.
///
/// # Errors
/// Those of `publish`.
pub fn publish<T, E>(written: &Path, publish: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let mut outputs = outputs();
    let published = publish();
    if published.is_ok() {
        outputs.parts.retain(|part| part.exists());
        outputs.written.push(written.to_owned());
    }
    published
}

/// Removes what is not published, and calls `then` with the names of what is. Nothing is begun or published meanwhile.
pub fn remove_all(then: impl FnOnce(&[PathBuf])) {
    let mut outputs = outputs();
    for part in outputs.parts.drain(..).rev() {
        // Errors are ignored: the next run to the same name removes a file that is left.
        let _ = if part.is_dir() { fs::remove_dir(&part) } else { fs::remove_file(&part) };
    }
    then(&outputs.written);
}
