//! Errors of vocabularies and of encoding.

use std::path::PathBuf;

use smallmind_checkpoint::{CheckpointError, json_problem};
use thiserror::Error;

use crate::ErrorClass;

/// The most bytes of a message, which may quote a file.
const MAX_MESSAGE_BYTES: usize = 240;

/// Why a tokenizer cannot be made, read, written or applied.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file was read and something in it is wrong.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<TokenizerError>,
    },
    /// More bytes than a vocabulary may have.
    #[error("a tokenizer.json of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// How many bytes it has.
        bytes: u64,
        /// How many bytes it may have.
        limit: u64,
    },
    /// Not JSON, or JSON whose fields have other types than tokenizer.json has; names the field, line and column.
    #[error("not a valid tokenizer.json: {problem}")]
    Json {
        /// The field and what is wrong with it.
        problem: String,
    },
    /// A field that contradicts itself or another one.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field, such as `model.merges[3]`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A kind of part that other tools know and this one does not.
    #[error("{field}: {found} is not supported (supported: {supported})")]
    Unsupported {
        /// Path of the field.
        field: String,
        /// The kind in the file.
        found: String,
        /// The supported kinds.
        supported: &'static str,
    },
    /// A pre-tokenizer of a GGUF file that is not known.
    #[error("tokenizer.ggml.pre: {name:?} is not supported (supported: {known})")]
    UnknownPreTokenizer {
        /// The name in the file.
        name: String,
        /// The supported names.
        known: String,
    },
    /// A part of a vocabulary that the metadata of a GGUF file can't express.
    #[error("{part}: a GGUF file can't express {found}")]
    NotInGguf {
        /// The part.
        part: String,
        /// What it has.
        found: String,
    },
    /// The metadata of a GGUF file lacks a key, has a value of another type, or can't hold what is written.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// A character vocabulary needs at least one character.
    #[error("the text is empty: there are no characters to make a vocabulary of")]
    EmptyText,
    /// A vocabulary that is too small for the tokens that every vocabulary of its kind has, or too large.
    #[error("a vocabulary of {asked} tokens was asked for; {allowed}")]
    VocabularySize {
        /// The size asked for.
        asked: usize,
        /// The allowed sizes.
        allowed: &'static str,
    },
    /// A character that the vocabulary has no token for.
    #[error("{character:?} (U+{:04X}) at byte {offset} is not in the vocabulary", u32::from(*character))]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Where in the text, in bytes.
        offset: usize,
    },
    /// A text that must be plain was encoded with a special token in it.
    #[error("plain text would be encoded to the special token {token:?}")]
    SpecialInText {
        /// The token.
        token: String,
    },
    /// An id without a token.
    #[error("token id {id} at position {index} is not in the vocabulary of {vocabulary} tokens")]
    UnknownId {
        /// Position in the list of ids.
        index: usize,
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// The tokenizers library refuses a file that has passed our own checks.
    #[error("{part}: {problem}")]
    Library {
        /// The part it refuses.
        part: &'static str,
        /// The message of the library.
        problem: String,
    },
}

impl TokenizerError {
    /// The kind of the error. Most mean a bad file. But a wrong size of a vocabulary is wrong usage, and writing may
    /// fail.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::VocabularySize { .. } => ErrorClass::Usage,
            Self::Write { .. } => ErrorClass::Failed,
            Self::Checkpoint(error) => (&**error).into(),
            Self::Read { .. }
            | Self::InFile { .. }
            | Self::TooLarge { .. }
            | Self::Json { .. }
            | Self::Field { .. }
            | Self::Unsupported { .. }
            | Self::UnknownPreTokenizer { .. }
            | Self::NotInGguf { .. }
            | Self::EmptyText
            | Self::UnknownCharacter { .. }
            | Self::SpecialInText { .. }
            | Self::UnknownId { .. }
            | Self::Library { .. } => ErrorClass::BadFile,
        }
    }

    /// A [`TokenizerError::Field`].
    pub(super) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: clipped(field.into()), problem: clipped(problem.into()) }
    }

    /// A [`TokenizerError::Unsupported`].
    pub(super) fn unsupported(field: impl Into<String>, found: impl Into<String>, supported: &'static str) -> Self {
        Self::Unsupported { field: clipped(field.into()), found: clipped(found.into()), supported }
    }

    /// A [`TokenizerError::Json`].
    pub(super) fn json(error: serde_json::Error) -> Self {
        Self::Json { problem: clipped(json_problem(&error)) }
    }

    /// Turns the library's boxed error into a [`TokenizerError::Library`].
    pub(super) fn library(part: &'static str) -> impl Fn(tokenizers::Error) -> Self {
        move |error| Self::Library { part, problem: clipped(error.to_string()) }
    }
}

/// A message, without its middle if text from a file makes it too long.
pub(super) fn clipped(message: String) -> String {
    if message.len() <= MAX_MESSAGE_BYTES {
        return message;
    }
    let mut head = MAX_MESSAGE_BYTES / 2;
    let mut tail = message.len() - MAX_MESSAGE_BYTES / 2;
    while !message.is_char_boundary(head) {
        head -= 1;
    }
    while !message.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{} … {}", &message[..head], &message[tail..])
}
