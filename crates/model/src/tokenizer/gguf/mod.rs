//! Vocabularies in the metadata of GGUF files (`tokenizer.ggml.*`), read and written.
//!
//! | `tokenizer.ggml.model` | what it is | how it is applied |
//! |---|---|---|
//! | `gpt2` | byte-level BPE with merges; `tokenizer.ggml.pre` names the pre-tokenizer | [`pre`], our merges |
//! | `llama` | SentencePiece's BPE with scores and byte fallback | our merges, ranked by score |
//! | `bert` | WordPiece | the library |
//! | `t5` | Unigram with a character map | the library |
//!
//! Each is read as the parts of a `tokenizer.json` that give the same tokens, so that it can be written as one.

mod keys;
mod name;
mod pre;
mod read;
mod read_back;
mod write;

use smallmind_checkpoint::{CheckpointError, GgufMetadata, GgufWriter};

use super::{Tokenizer, TokenizerError, TokenizerKind};

/// Kinds of tokens, by their numbers in `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    /// The types and their numbers, for messages.
    const KNOWN: &'static str = "0 undefined, 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte";

    /// The type of a number. llama.cpp writes 0, undefined, for tokens that it can't classify when it saves a model:
    /// they are normal here.
    fn from_number(number: i32) -> Option<Self> {
        if number == 0 {
            return Some(Self::Normal);
        }
        [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte]
            .into_iter()
            .find(|kind| *kind as i32 == number)
    }
}

/// The space in the spelling of SentencePiece.
const SPACE: &str = "\u{2581}";
/// Spaces at the ends of a text. `^` and `$` would also match at the ends of its lines.
const OUTER_SPACES: &str = r"\A +| +\z";
const MANY_SPACES: &str = " {2,}";
const KEYS: &str = "tokenizer.ggml.";

/// The full name of a key.
fn key(name: &str) -> String {
    format!("{KEYS}{name}")
}

impl Tokenizer {
    /// Reads the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// [`TokenizerError::Checkpoint`] for missing keys and values of other types, [`TokenizerError::Field`] for
    /// contradictions, [`TokenizerError::Unsupported`] for kinds of vocabularies, pre-tokenizers and types of tokens
    /// that are not known here, with the list of those that are, and for a spelling of spaces that the kind doesn't
    /// have.
    pub fn from_gguf(metadata: &GgufMetadata) -> Result<Self, TokenizerError> {
        read::read(metadata)
    }

    /// Writes the vocabulary into the metadata of a GGUF file, as llama.cpp reads it: a token for each of the `rows` of
    /// the model's embeddings, of which some may have none. `name`, the model's, is written as `general.name`: readers
    /// tell from it how blanks after special tokens are handled, so it is changed if it would tell the wrong thing.
    ///
    /// Then it is read back and compared, so `writer` must hold no tensor yet. Returns in words, if there is such a
    /// thing: what llama.cpp does not apply; a token that is decoded otherwise, or a text that becomes other tokens, when
    /// the vocabulary is read from the file; that the name is written otherwise.
    ///
    /// # Errors
    /// [`TokenizerError::NotInGguf`] names the part that a GGUF file can't express.
    pub fn write_gguf(
        &self,
        name: &str,
        rows: usize,
        writer: &mut GgufWriter<'_>,
    ) -> Result<Option<String>, TokenizerError> {
        let written = name::fitting(name, &self.parts.added_tokens);
        let unapplied = write::write(self, &written, rows, writer)?;
        let mut notes = vec![];
        if !unapplied.is_empty() {
            notes.push(format!("llama.cpp does not apply {}", unapplied.join("; nor ")));
        }
        let differences = read_back::differences(self, writer)?;
        notes.extend(differences.into_iter().map(|difference| format!("read from the file, {difference}")));
        if written != name {
            notes.push(format!(
                "the name is written as {written:?}: llama.cpp would treat blanks after special tokens otherwise"
            ));
        }
        Ok((!notes.is_empty()).then(|| notes.join("; ")))
    }
}

impl From<CheckpointError> for TokenizerError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}
