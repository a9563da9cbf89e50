//! The files that a verb reads. What it writes never takes the place of one of them, not even with `--overwrite`.

use std::fs;
use std::path::{Path, PathBuf};

use smallmind::checkpoint::is_same_file;
use smallmind::model::{ModelFiles, companions};

use super::failure::{Outcome, usage};
use super::hub;
use super::input::STDIN;

/// Files that a verb reads.
#[derive(Clone, Debug, Default)]
pub struct Reads(Vec<PathBuf>);

impl Reads {
    /// No files.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// These too; `-` is standard input.
    pub fn and<P: AsRef<Path>>(mut self, files: impl IntoIterator<Item = P>) -> Self {
        let files = files.into_iter().map(|file| file.as_ref().to_owned());
        self.0.extend(files.filter(|file| file.as_os_str() != STDIN));
        self
    }

    /// All files of the model at `path`, which are open.
    ///
    /// # Errors
    /// A name on the hub that is not in the caches.
    pub fn and_open_model(self, path: &Path, files: &ModelFiles) -> anyhow::Result<Self> {
        // The tokenizer of a run that only has checkpoints lies beside these.
        Ok(self.and(files.paths()).and(companions(&hub::resolve(path)?)))
    }

    /// The file that would be lost if `out` were replaced: `out` itself, by any name, or one in that folder.
    pub fn within(&self, out: &Path) -> Option<&Path> {
        let target = out.canonicalize().ok()?;
        let is_lost = |file: &Path| {
            let real = file.canonicalize();
            real.is_ok_and(|real| real.is_file() && real.starts_with(&target)) || is_linked(file, &target)
        };
        self.0.iter().map(PathBuf::as_path).find(|file| is_lost(file))
    }

    /// Refuses to write the file `out` if it is one of these.
    ///
    /// # Errors
    /// Wrong usage.
    pub fn check(&self, out: &Path) -> Outcome {
        if out.is_file() && self.within(out).is_some() {
            return Err(usage(format!("{}: this file is read for the new one; choose another name", out.display())));
        }
        Ok(())
    }
}

/// Whether two paths are links to one file on the disk.
fn is_linked(a: &Path, b: &Path) -> bool {
    let of = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file);
    of(a).zip(of(b)).is_some_and(|(a, b)| is_same_file(&a, &b).unwrap_or(false))
}
