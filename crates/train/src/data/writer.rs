//! Writing token shards.

use super::error::DataError;
use super::manifest::{Dtype, MANIFEST_FILE, Manifest, SCHEMA_VERSION, ShardManifest, Split, SplitManifest, hex};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Options of a [`ShardWriter`].
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Number of tokens in the vocabulary: every token must be below it.
    pub vocab_size: u32,
    /// SHA-256 of the tokenizer's file in hexadecimal, if it is known: see [`Dataset::check_tokenizer`].
    ///
    /// [`Dataset::check_tokenizer`]: super::Dataset::check_tokenizer
    pub tokenizer_sha256: Option<String>,
    /// The most tokens of a file.
    pub tokens_per_shard: u64,
}

impl ShardOptions {
    /// Options for a vocabulary, without a tokenizer's hash, with at most 2^26 tokens per file.
    #[must_use]
    pub fn new(vocab_size: u32) -> Self {
        Self { vocab_size, tokenizer_sha256: None, tokens_per_shard: 1 << 26 }
    }
}

/// Writes a folder of token shards: `train-00000.bin` …, `validation-00000.bin` …, and, when all else is on the disk,
/// `manifest.json`. If a folder has no manifest, its writing was interrupted, and it may be written again.
#[derive(Debug)]
pub struct ShardWriter {
    dir: PathBuf,
    dtype: Dtype,
    options: ShardOptions,
    train: SplitWriter,
    validation: SplitWriter,
}

#[derive(Debug, Default)]
struct SplitWriter {
    done: SplitManifest,
    open: Option<OpenShard>,
}

#[derive(Debug)]
struct OpenShard {
    path: PathBuf,
    name: String,
    file: BufWriter<File>,
    hash: Sha256,
    tokens: u64,
}

impl ShardWriter {
    /// Makes the folder if it is missing. Refuses a folder with a manifest, so that nothing is lost.
    pub fn create(dir: impl Into<PathBuf>, options: ShardOptions) -> Result<Self, DataError> {
        let dir = dir.into();
        if options.vocab_size == 0 {
            return Err(DataError::Option { name: "vocab_size", value: 0, remedy: "it must be at least 1" });
        }
        if options.tokens_per_shard == 0 {
            return Err(DataError::Option { name: "tokens_per_shard", value: 0, remedy: "it must be at least 1" });
        }
        fs::create_dir_all(&dir).map_err(DataError::io("make the folder", &dir))?;
        if dir.join(MANIFEST_FILE).exists() {
            return Err(DataError::AlreadyWritten { dir });
        }
        let dtype = Dtype::for_vocab(options.vocab_size);
        Ok(Self { dir, dtype, options, train: SplitWriter::default(), validation: SplitWriter::default() })
    }

    /// Appends tokens to a split. `source_bytes`: bytes of the text that they stand for. If one of the tokens is
    /// outside of the vocabulary, none is written.
    pub fn push(&mut self, split: Split, tokens: &[u32], source_bytes: u64) -> Result<(), DataError> {
        let vocab_size = self.options.vocab_size;
        let writer = match split {
            Split::Train => &mut self.train,
            Split::Validation => &mut self.validation,
        };
        if let Some(at) = tokens.iter().position(|&token| token >= vocab_size) {
            let position = writer.done.tokens.saturating_add(at as u64);
            return Err(DataError::Token { position, token: tokens[at], vocab_size });
        }
        let mut rest = tokens;
        while !rest.is_empty() {
            let shard = match &mut writer.open {
                Some(shard) => shard,
                none => none.insert(OpenShard::create(&self.dir, split, writer.done.shards.len())?),
            };
            let room = usize::try_from(self.options.tokens_per_shard - shard.tokens).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()));
            shard.write(now, self.dtype)?;
            writer.done.tokens += now.len() as u64;
            rest = later;
            if now.len() == room {
                writer.close()?;
            }
        }
        writer.done.source_bytes = writer.done.source_bytes.saturating_add(source_bytes);
        Ok(())
    }

    /// Syncs the shards to the disk and writes the manifest.
    pub fn finish(mut self) -> Result<Manifest, DataError> {
        self.train.close()?;
        self.validation.close()?;
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION,
            dtype: self.dtype,
            vocab_size: self.options.vocab_size,
            tokenizer_sha256: self.options.tokenizer_sha256,
            train: self.train.done,
            validation: self.validation.done,
        };
        let path = self.dir.join(MANIFEST_FILE);
        let partial = self.dir.join("manifest.json.partial");
        let text = serde_json::to_string_pretty(&manifest)
            .map_err(|error| DataError::Manifest { path: path.clone(), reason: error.to_string() })?;
        let mut file = File::create(&partial).map_err(DataError::io("write the manifest", &partial))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.sync_all())
            .map_err(DataError::io("write the manifest", &partial))?;
        fs::rename(&partial, &path).map_err(DataError::io("rename the manifest", &path))?;
        sync_folder(&self.dir)?;
        Ok(manifest)
    }
}

impl SplitWriter {
    /// Closes the open shard, if there is one.
    fn close(&mut self) -> Result<(), DataError> {
        let Some(OpenShard { path, name, mut file, hash, tokens }) = self.open.take() else { return Ok(()) };
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(DataError::io("write the shard", &path))?;
        self.done.shards.push(ShardManifest { file: name, tokens, sha256: hex(hash) });
        Ok(())
    }
}

impl OpenShard {
    fn create(dir: &Path, split: Split, index: usize) -> Result<Self, DataError> {
        let name = format!("{}-{index:05}.bin", split.name());
        let path = dir.join(&name);
        let file = File::create(&path).map_err(DataError::io("make the shard", &path))?;
        Ok(Self { path, name, file: BufWriter::with_capacity(1 << 18, file), hash: Sha256::new(), tokens: 0 })
    }

    fn write(&mut self, tokens: &[u32], dtype: Dtype) -> Result<(), DataError> {
        let mut bytes = [0_u8; 4096];
        let width = dtype.bytes();
        for some in tokens.chunks(bytes.len() / width) {
            for (token, place) in some.iter().zip(bytes.chunks_exact_mut(width)) {
                place.copy_from_slice(&token.to_le_bytes()[..width]);
            }
            let filled = &bytes[..some.len() * width];
            self.hash.update(filled);
            self.file.write_all(filled).map_err(DataError::io("write the shard", &self.path))?;
        }
        self.tokens += tokens.len() as u64;
        Ok(())
    }
}

/// Whether [`ShardWriter`] writes files of that name.
pub(crate) fn is_shard_name(name: &str) -> bool {
    let is_shard = |part: &str| name.starts_with(part) && name.ends_with(".bin");
    name.starts_with(MANIFEST_FILE) || ["train-", "validation-"].into_iter().any(is_shard)
}

/// Syncs a folder, so that a rename in it survives a power cut, if the system can.
fn sync_folder(dir: &Path) -> Result<(), DataError> {
    #[cfg(unix)]
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(DataError::io("write the folder", dir))?;
    let _ = dir;
    Ok(())
}
