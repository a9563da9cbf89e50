//! Fuzz targets for the files that SmallMind reads. See `README.md`.

mod targets;

use std::path::Path;
use std::sync::LazyLock;

pub use targets::*;
use tempfile::TempDir;

/// Files in memory, where the system offers that.
static FOLDER: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder for files"));

/// Calls a target with the folder of this process.
pub fn run(target: fn(&[u8], &Path), input: &[u8]) {
    target(input, FOLDER.path());
}
