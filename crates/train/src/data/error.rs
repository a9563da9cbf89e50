//! Errors of text and token shards.

use std::io;
use std::path::{Path, PathBuf};

use smallmind_model::ErrorClass;

/// An error of the data of training. Messages say where, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No file was named.
    #[error("no text file was given: name at least one")]
    NoFiles,
    /// Standard input named twice.
    #[error("standard input (-) is named more than once, but can be read only once")]
    StdinAgain,
    /// A missing file or folder.
    #[error("{path}: no such file: check the path")]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// A folder in place of a text file.
    #[error("{path}: this is a folder: name the text files in it")]
    Folder {
        /// The path given.
        path: PathBuf,
    },
    /// An empty file.
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
        /// Position of the first invalid byte in the file, in bytes.
        offset: usize,
        /// The invalid byte.
        byte: u8,
        /// What the file may be and how to convert it.
        hint: &'static str,
    },
    /// A line of a `.jsonl` file that isn't a document.
    #[error("{path}: line {line}: {why}: each line is a document, as {{\"text\": \"...\"}} or as \"...\"")]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, counted from 1.
        line: usize,
        /// What is wrong with the line.
        why: String,
    },
    /// A separator that does not occur in the text.
    #[error(
        "{separator:?} does not occur in the text, so the text is one document: name what stands between its documents \
         as data.separator, give a .jsonl file, or set data.documents=files"
    )]
    NoSeparator {
        /// The separator.
        separator: String,
    },
    /// Documents for a vocabulary without a token that ends them.
    #[error(
        "{why} needs a token for the end of a document, and this vocabulary has none; one of characters never has: use \
         a BPE vocabulary (data.tokenizer=bpe), or {instead}"
    )]
    NoEndToken {
        /// The setting or the file that asks for documents.
        why: &'static str,
        /// How to do without such a token.
        instead: &'static str,
    },
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operation, as in "cannot …".
        action: &'static str,
        /// The error of the system.
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
    /// The shards of a run are missing.
    #[error(
        "{path}: there is no such file or folder, but a run goes on with the token shards that it began with: put them \
         back from a copy, or train a new run on the text"
    )]
    NoShards {
        /// The missing file.
        path: PathBuf,
    },
    /// A folder that already holds shards.
    #[error("{dir}: token shards are here already: choose another folder or remove this one")]
    AlreadyWritten {
        /// The folder.
        dir: PathBuf,
    },
    /// A manifest that can't be understood.
    #[error("{path}: {reason}: write the shards again")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with the manifest.
        reason: String,
    },
    /// A manifest of another version of the format.
    #[error("{path}: schema version {found}, but this program reads version {expected}: write the shards again")]
    SchemaVersion {
        /// The manifest.
        path: PathBuf,
        /// The version of the manifest.
        found: u64,
        /// The version that this program reads.
        expected: u64,
    },
    /// A manifest without shards of a split.
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
        /// Bytes in the file.
        found: u64,
        /// Bytes by the manifest.
        expected: u64,
    },
    /// A shard with another checksum than in the manifest.
    #[error("{path}: SHA-256 {found} instead of {expected}: the file is damaged; write the shards again")]
    Checksum {
        /// The shard.
        path: PathBuf,
        /// Checksum of the file.
        found: String,
        /// Checksum in the manifest.
        expected: String,
    },
    /// A token of a shard that is outside the vocabulary.
    #[error(
        "{path}: token {token} at byte {offset} is outside of the vocabulary of {vocab_size}: the file is damaged; \
         write the shards again"
    )]
    ShardToken {
        /// The shard.
        path: PathBuf,
        /// Position of the token in the file, in bytes.
        offset: u64,
        /// The token.
        token: u32,
        /// Number of tokens in the vocabulary.
        vocab_size: u32,
    },
    /// A token to write that is outside the vocabulary.
    #[error(
        "token {token} at position {position} is outside of the vocabulary of {vocab_size}: use the tokenizer of this \
         model"
    )]
    Token {
        /// Index among the tokens given.
        position: u64,
        /// The token.
        token: u32,
        /// Number of tokens in the vocabulary.
        vocab_size: u32,
    },
    /// Shards of another tokenizer than the model's.
    #[error(
        "these token shards were made with another tokenizer (SHA-256 {found} instead of {expected}): write them again \
         with the tokenizer of this model"
    )]
    Tokenizer {
        /// Hash in the manifest, or "none".
        found: String,
        /// Hash of the model's tokenizer.
        expected: String,
    },
    /// An option outside its range.
    #[error("{name} is {value}: {remedy}")]
    Option {
        /// The option.
        name: &'static str,
        /// The value.
        value: u64,
        /// The allowed values.
        remedy: &'static str,
    },
    /// A split that is shorter than a window.
    #[error(
        "the {part} part of the text has {tokens} tokens, but a window of context {context} needs {needed}: use a \
         longer text or a smaller context, or divide the text otherwise (data.validation)"
    )]
    PartTooShort {
        /// "train" or "validation".
        part: &'static str,
        /// Number of tokens.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
        /// Fewest tokens that are enough.
        needed: usize,
    },
    /// A text that is shorter than a window.
    #[error(
        "the text has {tokens} tokens, but a window of context {context} needs {needed}: use a longer text or a \
         smaller context ({remedy})"
    )]
    TooShort {
        /// Number of tokens.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
        /// Fewest tokens that are enough.
        needed: usize,
        /// Largest context that is possible, in words.
        remedy: String,
    },
    /// A text too short to evaluate: it has no target.
    #[error(
        "the text has {tokens} token{}, and nothing comes before the first: there is nothing to predict; give a text \
         of two tokens or more",
        if *tokens == 1 { "" } else { "s" }
    )]
    NothingToPredict {
        /// Number of tokens: 0 or 1.
        tokens: usize,
    },
    /// A text without a document at which a window can begin.
    #[error(
        "too little text: no document but the first begins {context} tokens or more before the end of the training or \
         validation part"
    )]
    NoDocuments {
        /// Tokens of a window.
        context: usize,
    },
    /// A range of tokens beyond the end.
    #[error("tokens {start} to {end} were asked for, but there are only {tokens}")]
    Range {
        /// First token of the range.
        start: usize,
        /// One past the last token of the range.
        end: usize,
        /// Number of tokens.
        tokens: usize,
    },
    /// More tokens than fit into memory.
    #[error("{path}: no memory for {tokens} tokens: read them from the file instead of holding them")]
    Memory {
        /// The folder of shards.
        path: PathBuf,
        /// Number of tokens of the split.
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
