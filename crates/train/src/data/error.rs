//! What can be wrong with text and token shards.

use std::io;
use std::path::{Path, PathBuf};

use smallmind_model::ErrorClass;

/// An error in the data of a training run. Each says where, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No file was named.
    #[error("no text file was given: name at least one")]
    NoFiles,
    /// Standard input named twice.
    #[error("standard input (-) is named more than once, but can be read only once")]
    StdinAgain,
    /// A file or folder isn't there.
    #[error("{path}: no such file: check the path")]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// A folder stands where a text file is wanted.
    #[error("{path}: this is a folder: name the text files in it")]
    Folder {
        /// The path given.
        path: PathBuf,
    },
    /// A file without a byte.
    #[error("{path}: the file is empty: name one with text in it")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file that isn't UTF-8.
    #[error("{path}: not UTF-8 text: byte 0x{byte:02x} at offset {offset}: {hint}")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Where the first bad byte stands, from the beginning of the file.
        offset: usize,
        /// That byte.
        byte: u8,
        /// What the file may be and how to convert it.
        hint: &'static str,
    },
    /// A line of a `.jsonl` file that is no document.
    #[error("{path}: line {line}: {why}: each line is a document, as {{\"text\": \"...\"}} or as \"...\"")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// A separator that divides nothing.
    #[error(
        "{separator:?} does not occur in the text, so the text is one document: name what stands between its documents as data.separator, give a \
         .jsonl file, or set data.documents=files"
    )]
    NoSeparator {
        /// What was looked for.
        separator: String,
    },
    /// Documents for a vocabulary that can't tell where one ends.
    #[error(
        "{why} needs a token for the end of a document, and this vocabulary has none; one of characters never has: use a BPE vocabulary \
         (data.tokenizer=bpe), or {instead}"
    )]
    NoEndToken {
        /// The setting or the file that asks for documents.
        why: &'static str,
        /// What does without.
        instead: &'static str,
    },
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as in "cannot …".
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A folder without a finished manifest.
    #[error(
        "{dir}: no manifest.json: this is no folder of token shards, or writing them was interrupted; write them again"
    )]
    NoManifest {
        /// The folder.
        dir: PathBuf,
    },
    /// A run without its shards.
    #[error(
        "{path}: there is no such file or folder, but a run goes on with the token shards that it began with: put them back from a copy, or \
         train a new run on the text"
    )]
    NoShards {
        /// What is missing.
        path: PathBuf,
    },
    /// A folder that already holds shards.
    #[error("{dir}: token shards are here already: choose another folder or remove this one")]
    AlreadyWritten {
        /// The folder.
        dir: PathBuf,
    },
    /// A manifest that isn't one.
    #[error("{path}: {reason}: write the shards again")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest of another version of the format.
    #[error("{path}: schema version {found}, but this program reads version {expected}: write the shards again")]
    SchemaVersion {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version of this program.
        expected: u64,
    },
    /// The manifest has no shard of this split.
    #[error("{path}: there is no {split} split")]
    NoSplit {
        /// The manifest.
        path: PathBuf,
        /// "train" or "validation".
        split: &'static str,
    },
    /// A shard of the wrong length.
    #[error("{path}: {found} bytes instead of {expected}: the file was cut short or replaced; write the shards again")]
    ShardSize {
        /// The shard.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length that the manifest gives.
        expected: u64,
    },
    /// A shard with other bytes than were written.
    #[error("{path}: SHA-256 {found} instead of {expected}: the file is damaged; write the shards again")]
    Checksum {
        /// The shard.
        path: PathBuf,
        /// Of the bytes in the file.
        found: String,
        /// Of the manifest.
        expected: String,
    },
    /// A token in a shard that the vocabulary lacks.
    #[error(
        "{path}: token {token} at byte {offset} is outside of the vocabulary of {vocab_size}: the file is damaged; write the shards again"
    )]
    ShardToken {
        /// The shard.
        path: PathBuf,
        /// Where the token stands in the file.
        offset: u64,
        /// The token.
        token: u32,
        /// Tokens are below this.
        vocab_size: u32,
    },
    /// A token that the vocabulary lacks, before it was written.
    #[error(
        "token {token} at position {position} is outside of the vocabulary of {vocab_size}: use the tokenizer of this model"
    )]
    Token {
        /// Index among the tokens given.
        position: u64,
        /// The token.
        token: u32,
        /// Tokens are below this.
        vocab_size: u32,
    },
    /// Shards of another tokenizer than the model's.
    #[error(
        "these token shards were made with another tokenizer (SHA-256 {found} instead of {expected}): write them again with the tokenizer of this model"
    )]
    Tokenizer {
        /// Of the manifest; "none" where it has none.
        found: String,
        /// Of the model's tokenizer.
        expected: String,
    },
    /// An option that makes no sense.
    #[error("{name} is {value}: {remedy}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        remedy: &'static str,
    },
    /// A part of the text that is shorter than one window.
    #[error(
        "the {part} part of the text has {tokens} tokens, but a window of context {context} needs {needed}: use a longer text or a smaller context, or divide the text otherwise (data.validation)"
    )]
    PartTooShort {
        /// "train" or "validation".
        part: &'static str,
        /// Tokens there are.
        tokens: usize,
        /// The context asked for.
        context: usize,
        /// Tokens that would do.
        needed: usize,
    },
    /// Less text than one window.
    #[error(
        "the text has {tokens} tokens, but a window of context {context} needs {needed}: use a longer text or a smaller context ({remedy})"
    )]
    TooShort {
        /// Tokens there are.
        tokens: usize,
        /// The context asked for.
        context: usize,
        /// Tokens that would do.
        needed: usize,
        /// Which context would do.
        remedy: String,
    },
    /// An evaluation of no target.
    #[error(
        "the text has {tokens} token{}, and nothing comes before the first: there is nothing to predict; give a text of two tokens or more",
        if *tokens == 1 { "" } else { "s" }
    )]
    NothingToPredict {
        /// Tokens there are: 0 or 1.
        tokens: usize,
    },
    /// A text in which no window can begin at the beginning of a document.
    #[error(
        "no document but the first begins {context} tokens or more before the end of the training or validation part: use more text, data.windows=uniform or a smaller context"
    )]
    NoDocuments {
        /// The context asked for.
        context: usize,
    },
    /// Tokens asked for beyond the end.
    #[error("tokens {start} to {end} were asked for, but there are only {tokens}")]
    Range {
        /// The first token asked for.
        start: usize,
        /// One past the last.
        end: usize,
        /// Tokens there are.
        tokens: usize,
    },
    /// More tokens than memory.
    #[error("{path}: no memory for {tokens} tokens: read them from the file instead of holding them")]
    Memory {
        /// The folder of shards.
        path: PathBuf,
        /// Tokens of the split.
        tokens: u64,
    },
}

impl DataError {
    /// The kind of the error.
    pub fn class(&self) -> ErrorClass {
        if matches!(self, Self::StdinAgain) { ErrorClass::Usage } else { ErrorClass::BadFile }
    }

    /// Turns an error of the system into one that names the file: `map_err(DataError::io("read", path))`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: path.into() },
            _ => Self::Io { path: path.into(), action, source },
        }
    }
}
