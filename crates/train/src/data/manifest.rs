//! The manifest of a folder of token shards: sizes, checksums and vocabulary of its files.

use super::error::DataError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smallmind_checkpoint::json_problem;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Name of the manifest in its folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The version of the format that this program writes and reads.
pub const SCHEMA_VERSION: u64 = 1;

/// The most bytes of a manifest; larger files are refused.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// The two splits of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The text that a model is trained on.
    Train,
    /// The text that a model is evaluated on.
    Validation,
}

impl Split {
    /// `train` or `validation`; names of shards begin with it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// How a token is stored, always little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Two bytes, for vocabularies of at most 65,536 tokens.
    U16,
    /// Four bytes.
    U32,
}

impl Dtype {
    /// The smallest type for ids below `vocab_size`.
    #[must_use]
    pub fn for_vocab(vocab_size: u32) -> Self {
        if vocab_size <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// Bytes of one token.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u64,
    /// Type of a stored token; follows from `vocab_size`.
    pub dtype: Dtype,
    /// Number of tokens in the vocabulary: every token is below it.
    pub vocab_size: u32,
    /// SHA-256 of the tokenizer's file; `None` if it was not known.
    pub tokenizer_sha256: Option<String>,
    /// The training split.
    pub train: SplitManifest,
    /// The validation split.
    pub validation: SplitManifest,
}

/// One split in the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitManifest {
    /// Number of tokens in all shards.
    pub tokens: u64,
    /// Bytes of the text that the tokens stand for, needed for bits per byte.
    pub source_bytes: u64,
    /// The shards, in the order of their tokens.
    pub shards: Vec<ShardManifest>,
}

/// One file of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardManifest {
    /// Name in the folder of the manifest.
    pub file: String,
    /// Number of tokens in the file.
    pub tokens: u64,
    /// SHA-256 of the file, 64 hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// The entry of a split.
    #[must_use]
    pub fn split(&self, split: Split) -> &SplitManifest {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }

    /// Reads and checks the manifest of a folder.
    pub fn read(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(MANIFEST_FILE);
        let wrong = |reason: String| DataError::Manifest { path: path.clone(), reason: shortened(&reason) };
        let metadata = fs::metadata(&path).map_err(|error| match DataError::io("read the manifest", &path)(error) {
            // For a missing folder the error names the folder and not the manifest.
            DataError::Missing { .. } if dir.is_dir() => DataError::NoManifest { dir: dir.into() },
            DataError::Missing { .. } => DataError::Missing { path: dir.into() },
            other => other,
        })?;
        if metadata.len() > MAX_MANIFEST_BYTES {
            return Err(wrong(format!("{} bytes are too many for a manifest", metadata.len())));
        }
        let text = fs::read(&path).map_err(DataError::io("read the manifest", &path))?;
        // The version is checked first: a manifest of another version may have other keys.
        let version: Version = serde_json::from_slice(&text).map_err(|error| wrong(json_problem(&error)))?;
        if version.schema_version != SCHEMA_VERSION {
            let (found, expected) = (version.schema_version, SCHEMA_VERSION);
            return Err(DataError::SchemaVersion { path, found, expected });
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| wrong(json_problem(&error)))?;
        manifest.check().map_err(wrong)?;
        Ok(manifest)
    }

    /// Checks that the entries agree with each other; the files are not read.
    fn check(&self) -> Result<(), String> {
        if self.vocab_size == 0 {
            return Err(String::from("vocab_size is 0"));
        }
        let dtype = Dtype::for_vocab(self.vocab_size);
        if self.dtype != dtype {
            return Err(format!(
                "dtype {:?} for a vocabulary of {}, which takes {dtype:?}",
                self.dtype, self.vocab_size
            ));
        }
        let mut names = HashSet::new();
        for split in [Split::Train, Split::Validation] {
            let entry = self.split(split);
            let mut total = 0_u64;
            for shard in &entry.shards {
                if !is_file_name(&shard.file) {
                    return Err(format!("{} is not a plain file name", quoted(&shard.file)));
                }
                if !names.insert(&shard.file) {
                    return Err(format!("{} is named twice", quoted(&shard.file)));
                }
                if !is_sha256(&shard.sha256) {
                    return Err(format!("{} is not the SHA-256 of {}", quoted(&shard.sha256), quoted(&shard.file)));
                }
                if shard.tokens.checked_mul(self.dtype.bytes() as u64).is_none() {
                    return Err(format!("{} tokens in {} are too many", shard.tokens, quoted(&shard.file)));
                }
                total = total.checked_add(shard.tokens).ok_or("too many tokens")?;
            }
            if total != entry.tokens {
                return Err(format!("{} has {} tokens, but its shards have {total}", split.name(), entry.tokens));
            }
        }
        Ok(())
    }
}

/// The part of a manifest that every version has.
#[derive(Deserialize)]
struct Version {
    schema_version: u64,
}

/// Text from the file, escaped for a terminal.
fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

/// The first 200 characters: text from a file must not fill a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

/// Whether a name stands for a file in the folder on every platform.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The hexadecimal digits of a hash.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
