//! A split of a data set: tokens in memory, or read from files when they are needed.

use super::error::DataError;
use super::manifest::{Dtype, Manifest, ShardManifest, Split, hex};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Where the tokens of an open data set are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residence {
    /// In memory, two or four bytes per token.
    #[default]
    Memory,
    /// In the files: each [`Dataset::copy`] reads what it needs and allocates nothing.
    Files,
}

/// What is checked when a data set is opened, besides the manifest and the sizes of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// The checksums and every token.
    #[default]
    Checksums,
    /// Every token when it is read: at opening with [`Residence::Memory`], later with [`Residence::Files`].
    Sizes,
}

/// How a data set is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Where the tokens are.
    pub residence: Residence,
    /// What is checked at opening.
    pub verify: Verify,
}

/// The tokens of one split.
#[derive(Debug)]
pub struct Dataset {
    tokens: usize,
    vocab_size: u32,
    source_bytes: u64,
    tokenizer_sha256: Option<String>,
    store: Store,
}

#[derive(Debug)]
enum Store {
    U16(Vec<u16>),
    U32(Vec<u32>),
    Files { dtype: Dtype, shards: Vec<ShardFile> },
}

/// An open shard.
#[derive(Debug)]
struct ShardFile {
    file: File,
    path: PathBuf,
    /// Index of its first token in the split.
    start: usize,
    tokens: usize,
}

impl Dataset {
    /// A data set of tokens in memory. `source_bytes`: bytes of the text that they stand for.
    pub fn from_tokens(tokens: &[u32], vocab_size: u32, source_bytes: u64) -> Result<Self, DataError> {
        if let Some(at) = tokens.iter().position(|&token| token >= vocab_size) {
            return Err(DataError::Token { position: at as u64, token: tokens[at], vocab_size });
        }
        let store = match Dtype::for_vocab(vocab_size) {
            // Tokens are below the vocabulary's size, hence below 2^16.
            Dtype::U16 => Store::U16(tokens.iter().map(|&token| token as u16).collect()),
            Dtype::U32 => Store::U32(tokens.to_vec()),
        };
        Ok(Self { tokens: tokens.len(), vocab_size, source_bytes, tokenizer_sha256: None, store })
    }

    /// Opens a split of a folder that [`ShardWriter`] wrote.
    ///
    /// [`ShardWriter`]: super::ShardWriter
    pub fn open(dir: impl AsRef<Path>, split: Split, options: OpenOptions) -> Result<Self, DataError> {
        let dir = dir.as_ref();
        let manifest = Manifest::read(dir)?;
        let entry = manifest.split(split);
        if entry.tokens == 0 {
            return Err(DataError::NoSplit { path: dir.join(super::MANIFEST_FILE), split: split.name() });
        }
        let too_many = || DataError::Memory { path: dir.into(), tokens: entry.tokens };
        let tokens = usize::try_from(entry.tokens).map_err(|_| too_many())?;
        let opener = Opener { dir, dtype: manifest.dtype, vocab_size: manifest.vocab_size, verify: options.verify };
        let shards = opener.open(&entry.shards)?;
        let store = match (options.residence, manifest.dtype) {
            (Residence::Files, dtype) => {
                if options.verify == Verify::Checksums {
                    opener.scan(&shards, &entry.shards, |_| {})?;
                }
                Store::Files { dtype, shards }
            }
            // The sizes of the files were compared with the manifest, so a wrong manifest can't reserve too much
            // memory.
            (Residence::Memory, Dtype::U16) => {
                let mut held = Vec::new();
                held.try_reserve_exact(tokens).map_err(|_| too_many())?;
                opener.scan(&shards, &entry.shards, |token| held.push(token as u16))?;
                Store::U16(held)
            }
            (Residence::Memory, Dtype::U32) => {
                let mut held = Vec::new();
                held.try_reserve_exact(tokens).map_err(|_| too_many())?;
                opener.scan(&shards, &entry.shards, |token| held.push(token))?;
                Store::U32(held)
            }
        };
        let (vocab_size, source_bytes) = (manifest.vocab_size, entry.source_bytes);
        Ok(Self { tokens, vocab_size, source_bytes, tokenizer_sha256: manifest.tokenizer_sha256, store })
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Number of tokens in the vocabulary: every token is below it.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes of the text that the tokens stand for.
    #[must_use]
    pub fn source_bytes(&self) -> u64 {
        self.source_bytes
    }

    /// SHA-256 of the tokenizer that made the tokens; `None` if the manifest has none.
    #[must_use]
    pub fn tokenizer_sha256(&self) -> Option<&str> {
        self.tokenizer_sha256.as_deref()
    }

    /// Refuses shards of another tokenizer than the one with the hash `expected`.
    pub fn check_tokenizer(&self, expected: &str) -> Result<(), DataError> {
        match self.tokenizer_sha256() {
            Some(found) if found == expected => Ok(()),
            found => Err(DataError::Tokenizer { found: found.unwrap_or("none").into(), expected: expected.into() }),
        }
    }

    /// Bits per byte of source text for a mean loss in nats per token: `loss / ln 2 · tokens / bytes`, comparable
    /// across tokenizers. The first token, which nothing predicts, counts with the mean loss. `None` without source
    /// bytes.
    #[must_use]
    pub fn bits_per_byte(&self, mean_loss: f64) -> Option<f64> {
        (self.source_bytes > 0)
            .then(|| mean_loss / std::f64::consts::LN_2 * self.tokens as f64 / self.source_bytes as f64)
    }

    /// Whether `token` is among the tokens.
    ///
    /// # Errors
    /// A shard can't be read any more.
    pub fn contains(&self, token: u32) -> Result<bool, DataError> {
        let mut some = [0; 1024];
        for start in (0..self.tokens).step_by(some.len()) {
            let some = &mut some[..(self.tokens - start).min(1024)];
            self.copy(start, some)?;
            if some.contains(&token) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fills `out` with the tokens from index `start` on.
    pub fn copy(&self, start: usize, out: &mut [u32]) -> Result<(), DataError> {
        let end = start.saturating_add(out.len());
        if end > self.tokens {
            return Err(DataError::Range { start, end, tokens: self.tokens });
        }
        match &self.store {
            Store::U16(held) => {
                for (place, &token) in out.iter_mut().zip(&held[start..end]) {
                    *place = u32::from(token);
                }
                Ok(())
            }
            Store::U32(held) => {
                out.copy_from_slice(&held[start..end]);
                Ok(())
            }
            Store::Files { dtype, shards } => self.read(*dtype, shards, start, out),
        }
    }

    /// [`Dataset::copy`] from files; a range may span several.
    fn read(&self, dtype: Dtype, shards: &[ShardFile], start: usize, out: &mut [u32]) -> Result<(), DataError> {
        let width = dtype.bytes();
        let first = shards.partition_point(|shard| shard.start + shard.tokens <= start);
        let (mut at, mut rest) = (start, out);
        // A buffer on the stack: reading a batch must not allocate.
        let mut bytes = [0_u8; 4096];
        for shard in shards.get(first..).unwrap_or_default() {
            let in_shard = rest.len().min(shard.start + shard.tokens - at);
            let (now, later) = rest.split_at_mut(in_shard);
            for some in now.chunks_mut(bytes.len() / width) {
                let offset = ((at - shard.start) * width) as u64;
                let raw = &mut bytes[..some.len() * width];
                read_exact_at(&shard.file, raw, offset).map_err(DataError::io("read the shard", &shard.path))?;
                for (place, token) in some.iter_mut().zip(decode(raw, dtype)) {
                    *place = token;
                }
                check_tokens(some, self.vocab_size, &shard.path, offset, width)?;
                at += some.len();
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// The parameters for opening a split.
struct Opener<'a> {
    dir: &'a Path,
    dtype: Dtype,
    vocab_size: u32,
    verify: Verify,
}

impl Opener<'_> {
    /// Opens the files and compares their sizes.
    fn open(&self, entries: &[ShardManifest]) -> Result<Vec<ShardFile>, DataError> {
        let mut start = 0;
        let mut shards = Vec::with_capacity(entries.len());
        for entry in entries {
            let path = self.dir.join(&entry.file);
            let file = File::open(&path).map_err(DataError::io("read the shard", &path))?;
            let found = file.metadata().map_err(DataError::io("read the shard", &path))?.len();
            // The check of the manifest has made sure that the product and the sum don't overflow.
            let expected = entry.tokens * self.dtype.bytes() as u64;
            if found != expected {
                return Err(DataError::ShardSize { path, found, expected });
            }
            let tokens = usize::try_from(entry.tokens)
                .map_err(|_| DataError::Memory { path: path.clone(), tokens: entry.tokens })?;
            shards.push(ShardFile { file, path, start, tokens });
            start += tokens;
        }
        Ok(shards)
    }

    /// Reads and checks all tokens in order, and the checksums if `verify` asks for that.
    fn scan(
        &self,
        shards: &[ShardFile],
        entries: &[ShardManifest],
        mut each: impl FnMut(u32),
    ) -> Result<(), DataError> {
        let width = self.dtype.bytes();
        let mut bytes = vec![0_u8; 1 << 18];
        let mut tokens = vec![0_u32; bytes.len() / width];
        for (shard, entry) in shards.iter().zip(entries) {
            let mut hash = (self.verify == Verify::Checksums).then(Sha256::new);
            let (mut file, mut done) = (&shard.file, 0);
            // A wrong checksum explains a wrong token, so it is reported first and the token is kept until then.
            let mut wrong = Ok(());
            while done < shard.tokens {
                let count = tokens.len().min(shard.tokens - done);
                let (raw, some) = (&mut bytes[..count * width], &mut tokens[..count]);
                file.read_exact(raw).map_err(DataError::io("read the shard", &shard.path))?;
                if let Some(hash) = &mut hash {
                    hash.update(&*raw);
                }
                for (place, token) in some.iter_mut().zip(decode(raw, self.dtype)) {
                    *place = token;
                }
                if wrong.is_ok() {
                    wrong = check_tokens(some, self.vocab_size, &shard.path, (done * width) as u64, width);
                }
                some.iter().copied().for_each(&mut each);
                done += count;
            }
            if let Some(found) = hash.map(hex).filter(|found| *found != entry.sha256) {
                let expected = entry.sha256.clone();
                return Err(DataError::Checksum { path: shard.path.clone(), found, expected });
            }
            wrong?;
        }
        Ok(())
    }
}

/// Tokens from little-endian bytes.
fn decode(bytes: &[u8], dtype: Dtype) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(dtype.bytes()).map(|chunk| {
        let mut wide = [0_u8; 4];
        wide[..chunk.len()].copy_from_slice(chunk);
        u32::from_le_bytes(wide)
    })
}

/// Refuses tokens outside the vocabulary. `offset`: position of the first token in the file, in bytes.
fn check_tokens(tokens: &[u32], vocab_size: u32, path: &Path, offset: u64, width: usize) -> Result<(), DataError> {
    match tokens.iter().position(|&token| token >= vocab_size) {
        None => Ok(()),
        Some(at) => Err(DataError::ShardToken {
            path: path.into(),
            offset: offset + (at * width) as u64,
            token: tokens[at],
            vocab_size,
        }),
    }
}

/// Reads at a position without moving the file's cursor, so that several readers may share a file.
#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Reads at a position. This moves the file's cursor, which nothing here relies on.
#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        offset += read as u64;
    }
    Ok(())
}

#[cfg(not(any(unix, windows)))]
fn read_exact_at(_: &File, _: &mut [u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
