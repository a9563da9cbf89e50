//! Files made by hand, and what tests need to run under an emulator.
#![allow(dead_code)]

pub mod gguf;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

/// A safetensors file of a header and `data` zero bytes, with the length that belongs to the header.
pub fn safetensors(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.resize(file.len() + data, 0);
    file
}

/// Two tensors: `a` of F32 `[2, 3]`, `b` of BF16 `[4]`; 32 bytes of data.
pub const SMALL: &str = concat!(
    r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"#,
    r#""b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#
);

/// A folder of its own for a test.
pub struct Scratch(TempDir);

impl Scratch {
    /// In memory where the system offers that: thousands of files are made and synced.
    pub fn new() -> Self {
        tempfile::tempdir_in("/dev/shm").map_or_else(|_| Self::on_disk(), Self)
    }

    /// For large files, and where the disk is meant.
    pub fn on_disk() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into the folder and answers its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }
}

/// The emulator that runs these tests and its arguments, separated by blanks; unset or empty where a processor runs
/// them. A program can't see it, and the system may be unable to start a program for another processor by its name
/// alone.
fn emulator() -> Option<String> {
    std::env::var("SMALLMIND_TEST_EMULATOR").ok().filter(|command| !command.trim().is_empty())
}

/// The command that starts this test program anew.
pub fn this_program() -> Command {
    let program = std::env::current_exe().unwrap();
    let mut words: Vec<OsString> = emulator().iter().flat_map(|e| e.split_whitespace()).map(OsString::from).collect();
    words.push(program.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// A stretch of time on a processor; ten times as long under an emulator, which takes about so much longer.
pub fn on_processor(time: Duration) -> Duration {
    if emulator().is_some() { 10 * time } else { time }
}
