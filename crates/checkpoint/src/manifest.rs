//! The list of a folder's files with their sizes and checksums.
//!
//! ```json
//! {"format": "smallmind-manifest", "version": 1, "files": {"model.safetensors": {"bytes": 128, "sha256": "9f86…"}}}
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{CheckpointError, DamageFault};
use crate::json::read_json;

/// The manifest's name in its folder.
pub const MANIFEST_FILE: &str = "manifest.json";

const FORMAT: &str = "smallmind-manifest";
const VERSION: u64 = 1;
/// Digits of a SHA-256.
const DIGITS: usize = 64;

/// The files of a published folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The files by name, without the manifest itself.
    pub files: BTreeMap<String, FileRecord>,
}

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest of a folder, without checking the files.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = dir.as_ref().join(MANIFEST_FILE);
        let damaged = |fault| CheckpointError::Damaged { path: path.clone(), fault };
        let value = match read_json(&path) {
            Ok(value) => value,
            Err(CheckpointError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(DamageFault::Missing));
            }
            Err(CheckpointError::Json { line, column, fault, .. }) => {
                let text = format!("line {line}, column {column}: {fault}");
                return Err(damaged(DamageFault::Manifest(text)));
            }
            Err(other) => return Err(other),
        };
        Self::from_json(&value).map_err(|text| damaged(DamageFault::Manifest(text.to_owned())))
    }

    /// The manifest as the text of its file.
    pub(crate) fn to_text(&self) -> String {
        let record = |record: &FileRecord| json!({"bytes": record.bytes, "sha256": record.sha256});
        let files: BTreeMap<&str, Value> =
            self.files.iter().map(|(name, file)| (name.as_str(), record(file))).collect();
        format!("{:#}\n", json!({"format": FORMAT, "version": VERSION, "files": files}))
    }

    fn from_json(value: &Value) -> Result<Self, &'static str> {
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err("`format` is not \"smallmind-manifest\"");
        }
        if value.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return Err("`version` is not 1; a newer version of this program may have written it");
        }
        let files = value.get("files").and_then(Value::as_object).ok_or("`files` is not an object")?;
        let mut manifest = Self::default();
        for (name, record) in files {
            if !is_plain_name(name) {
                return Err("a name in `files` is not a plain file name");
            }
            let bytes = record.get("bytes").and_then(Value::as_u64).ok_or("`bytes` of a file is not a size")?;
            let sha256 = record.get("sha256").and_then(Value::as_str).filter(|text| is_digest(text));
            let sha256 = sha256.ok_or("`sha256` of a file is not 64 lower-case hexadecimal digits")?.to_owned();
            manifest.files.insert(name.clone(), FileRecord { bytes, sha256 });
        }
        Ok(manifest)
    }
}

/// Checks that every file of a manifest exists and has its size and content.
///
/// The error names the damaged file. Files that the manifest does not name are ignored.
pub fn verify_folder(dir: impl AsRef<Path>) -> Result<Manifest, CheckpointError> {
    let dir = dir.as_ref();
    let manifest = verify_sizes(dir)?;
    for (name, record) in &manifest.files {
        let path = dir.join(name);
        if sha256_of(&path)? != record.sha256 {
            return Err(CheckpointError::Damaged { path, fault: DamageFault::Checksum });
        }
    }
    Ok(manifest)
}

/// As [`verify_folder`], but checks only that the files exist and have their sizes.
pub(crate) fn verify_sizes(dir: &Path) -> Result<Manifest, CheckpointError> {
    let manifest = Manifest::read(dir)?;
    for (name, record) in &manifest.files {
        let path = dir.join(name);
        let fault = match fs::metadata(&path) {
            Ok(kind) if !kind.is_file() => DamageFault::Missing,
            Ok(kind) if kind.len() == record.bytes => continue,
            Ok(kind) => DamageFault::Size { expected: record.bytes, found: kind.len() },
            Err(error) if error.kind() == io::ErrorKind::NotFound => DamageFault::Missing,
            Err(error) => return Err(CheckpointError::io(&path, "read the size of")(error)),
        };
        return Err(CheckpointError::Damaged { path, fault });
    }
    Ok(manifest)
}

fn sha256_of(path: &Path) -> Result<String, CheckpointError> {
    let mut file = File::open(path).map_err(CheckpointError::io(path, "open"))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(hasher)),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CheckpointError::io(path, "read")(error)),
        }
    }
}

/// The digest in hexadecimal digits.
pub(crate) fn hex(hasher: Sha256) -> String {
    let mut text = String::with_capacity(DIGITS);
    for byte in hasher.finalize() {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn is_digest(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a name stands for a file directly in its folder, on any system.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let foreign = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !name.is_empty() && name != "." && name != ".." && !name.contains(foreign)
}
