//! What to say about a path that is no model.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use smallmind::checkpoint::CONFIG_FILE;
use smallmind::model::{ModelFiles, is_gguf, is_gguf_name};

use super::failure::{Outcome, bad_file};
use super::hints;

/// What a model is.
const MODELS: &str = "a folder with config.json and model.safetensors, a GGUF file, or hf:OWNER/NAME";

/// Refuses a path that can't be a model: nothing there, nothing that may be read, another file.
///
/// # Errors
/// A bad file.
pub fn check(path: &Path) -> Outcome {
    let shown = path.display();
    let what = if is_gguf_name(path) { "file" } else { "folder" };
    let there = check_there(path, what, &format!("name {MODELS}"))?;
    if there.is_dir() {
        return match path.join(CONFIG_FILE).metadata() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(unreadable(path, &error)),
            _ => Ok(()),
        };
    }
    if !there.is_file() {
        return Err(bad_file(format!("{shown}: this is neither a folder nor a file; name {MODELS}")));
    }
    File::open(path).and_then(|mut file| file.read(&mut [0])).map_err(|error| unreadable(path, &error))?;
    if there.len() == 0 {
        return Err(bad_file(format!("{shown}: the file is empty; name {MODELS}")));
    }
    if is_gguf(path) { Ok(()) } else { Err(bad_file(other_file(path))) }
}

/// Refuses a path where nothing is, and one that may not be looked at. `what` should be there; `advice` says what to
/// name instead.
///
/// # Errors
/// A bad file.
pub fn check_there(path: &Path, what: &str, advice: &str) -> anyhow::Result<Metadata> {
    path.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let path = path.display();
            bad_file(format!("{path}: there is no such {what}; {advice}"))
        }
        _ => unreadable(path, &error),
    })
}

fn unreadable(path: &Path, error: &io::Error) -> anyhow::Error {
    bad_file(format!("{}: can't be read: {error}", path.display()))
}

/// About a file that is no GGUF file.
fn other_file(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shown = path.display();
    if folder.join(CONFIG_FILE).is_file() {
        return format!("{shown}: this is a file of a model; name its folder, {}", hints::quoted(folder));
    }
    format!("{shown}: this is no model; name {MODELS}")
}

/// Refuses a GGUF file that holds something else than a model.
///
/// # Errors
/// A bad file.
pub fn check_gguf(files: &ModelFiles) -> Outcome {
    let ModelFiles::Gguf(file) = files else { return Ok(()) };
    if file.metadata().value::<&str>("general.type").ok().flatten() == Some("imatrix") {
        let path = files.path().display();
        return Err(bad_file(format!(
            "{path}: this is an importance matrix, not a model; quantize takes it as --imatrix"
        )));
    }
    Ok(())
}
