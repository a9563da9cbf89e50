//! Errors of chat templates and conversations.

use std::path::PathBuf;
use std::time::Duration;

use smallmind_checkpoint::CheckpointError;

use crate::{ErrorClass, ModelError};

/// The most characters that a message repeats of what a template or a file says.
const MAX_QUOTED: usize = 500;

/// Why a conversation can't be turned into a prompt, or goes on no further.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A file of the model can't be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model can't answer.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A template file can't be read.
    #[error("{path}: can't be read: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A template file that is not UTF-8.
    #[error("{path}: not UTF-8 text: byte offset {offset}", path = .path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first byte that is none.
        offset: usize,
    },
    /// A template of more bytes than are read.
    #[error("{origin}: the chat template has {bytes} bytes; at most {max} are read")]
    TooLarge {
        /// Where it stands.
        origin: String,
        /// How many there are, or one more than may be.
        bytes: usize,
        /// How many there may be.
        max: usize,
    },
    /// More templates than a model may have.
    #[error("{place}: more than {max} chat templates")]
    TooMany {
        /// The file, the folder or the keys that hold them.
        place: String,
        /// How many there may be.
        max: usize,
    },
    /// A field of a file of another kind than it must be.
    #[error("{path}: `{field}` must be {expected}", path = .path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The model has no chat template.
    #[error("the model has no chat template: it continues texts and was not trained to answer")]
    NoTemplate,
    /// The model has no template of that name.
    #[error("there is no chat template {name:?}; there are {known}")]
    Name {
        /// The name asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// The model has several templates, none of which is the default.
    #[error("the model has several chat templates and no default; there are {known}")]
    NoDefault {
        /// All names.
        known: String,
    },
    /// A template that is no Jinja, has a block with more code than the engine gets, or too many `elif`.
    #[error("{origin}: line {line}: {problem}")]
    Syntax {
        /// Where the template stands.
        origin: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The template refuses the conversation by `raise_exception`.
    #[error("the chat template refuses this conversation: {}", quoted(.0))]
    Raised(String),
    /// The template failed.
    #[error("{origin}: line {line}: {problem}")]
    Render {
        /// Where the template stands.
        origin: String,
        /// The line, from 1; 0 if it is not known.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The template takes more steps than it may: it probably never ends.
    #[error("{origin}: the chat template was stopped after {fuel} steps")]
    Fuel {
        /// Where the template stands.
        origin: String,
        /// Steps that it may take.
        fuel: u64,
    },
    /// The template writes more than it may.
    #[error("{origin}: the chat template was stopped after {max} bytes of text")]
    Output {
        /// Where the template stands.
        origin: String,
        /// Bytes that it may write.
        max: usize,
    },
    /// The template takes more time than it may. The thread that runs it is left behind; see
    /// [`TIME_LIMIT`](super::TIME_LIMIT).
    #[error("{origin}: the chat template ran longer than {} s", .limit.as_secs_f64())]
    Time {
        /// Where the template stands.
        origin: String,
        /// How long it may run.
        limit: Duration,
    },
    /// The engine can't run the template: it panics, or the system has no thread for it.
    #[error("{origin}: the chat template can't be run: {problem}")]
    Engine {
        /// Where the template stands.
        origin: String,
        /// What is wrong.
        problem: String,
    },
    /// Text that is not JSON.
    #[error("not valid JSON: {problem}")]
    Json {
        /// What is wrong, with line and column.
        problem: String,
    },
    /// A conversation that is none.
    #[error("message {index}: {problem}")]
    Message {
        /// The message, from 0.
        index: usize,
        /// What is wrong.
        problem: String,
    },
    /// A message with an image or a sound.
    #[error("message {index}: a part of type {kind:?} can't be read: this program takes text only")]
    Media {
        /// The message, from 0.
        index: usize,
        /// The type of the part.
        kind: String,
    },
    /// The latest turn alone does not fit into the context.
    #[error(
        "the system prompt and the latest turn have {tokens} tokens, which leaves no room in a context of {context}"
    )]
    TurnTooLong {
        /// Tokens of both.
        tokens: usize,
        /// Context of the session.
        context: usize,
    },
}

impl ChatError {
    /// The kind of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Checkpoint(error) => error.into(),
            Self::Model(error) => error.class(),
            Self::NoTemplate | Self::Name { .. } | Self::NoDefault { .. } | Self::Raised(_) => ErrorClass::Usage,
            Self::Message { .. } | Self::Media { .. } => ErrorClass::Usage,
            Self::Engine { .. } => ErrorClass::Failed,
            Self::Read { .. }
            | Self::NotUtf8 { .. }
            | Self::Field { .. }
            | Self::Syntax { .. }
            | Self::Render { .. }
            | Self::Json { .. } => ErrorClass::BadFile,
            Self::TooLarge { .. }
            | Self::TooMany { .. }
            | Self::Fuel { .. }
            | Self::Output { .. }
            | Self::Time { .. }
            | Self::TurnTooLong { .. } => ErrorClass::Limit,
        }
    }
}

/// The beginning of a text.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
