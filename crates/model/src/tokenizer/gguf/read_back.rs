//! Whether a tokenizer that was written is read back as the same one.

use smallmind_checkpoint::{GgufMetadata, GgufWriter, parse_gguf_header};
use tokenizers::{Model, ModelWrapper};

use super::super::engine::Engine;
use super::super::error::TokenizerError;
use super::super::{SpecialTokens, Tokenizer, TokenizerKind};
use super::SPACE;

/// Texts that every kind of vocabulary treats in its own way.
const TEXTS: [&str; 6] = [
    "The hen sat on the hill.",
    "  two  spaces and a tab\t, then\n\n  lines\r\n",
    "it's 1234567 + 89, isn't it? (No!)",
    "caf\u{e9}, \u{65e5}\u{672c}\u{8a9e}, \u{1f980}, e\u{301}",
    "x",
    " ",
];
/// The most special tokens that are tried.
const MAX_TOKENS: usize = 64;

/// Reads `tokenizer` back from the metadata of `writer`. Returns what differs: a token that is decoded otherwise, and a
/// text that becomes other tokens.
///
/// # Errors
/// Metadata that can't be read back; other tokens around a text, or other ids.
pub(super) fn differences(tokenizer: &Tokenizer, writer: &GgufWriter<'_>) -> Result<Vec<String>, TokenizerError> {
    let read = Tokenizer::from_gguf(&metadata(writer)?)?;
    let refused = |part: &str, found: String| TokenizerError::NotInGguf { part: part.to_owned(), found };
    for (part, written, read) in
        [("before", tokenizer.prompt_prefix(), read.prompt_prefix()), ("after", tokenizer.suffix(), read.suffix())]
    {
        if written != read {
            return Err(refused("post_processor", format!("{written:?} {part} a text, which reads back as {read:?}")));
        }
    }
    if let Some((text, id)) = moved(tokenizer, &read) {
        return Err(refused("model.vocab", format!("the token {id}, {text:?}, which reads back as another one")));
    }
    let mut differences = vec![];
    if let Some(id) = (0..tokenizer.vocab_size() as u32).find(|id| is_decoded_otherwise(tokenizer, &read, *id)) {
        let bytes =
            |tokenizer: &Tokenizer| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
        let (written, read) = (bytes(tokenizer), bytes(&read));
        // In a vocabulary of characters the spelling of a token is its text.
        if tokenizer.kind() == TokenizerKind::Characters {
            return Err(refused("model.vocab", format!("the token {id}, {written:?}, which reads back as {read:?}")));
        }
        differences.push(format!("token {id} is decoded as {read:?} instead of {written:?}"));
    }
    let beside =
        tokenizer.parts.added_tokens.iter().take(MAX_TOKENS).map(|token| format!("a{0}   b {0}c", token.content));
    let differs = |text: &String| {
        // Texts that the vocabulary can't express prove nothing.
        let in_way =
            |special| tokenizer.encode(text, special).is_ok_and(|ids| read.encode(text, special).ok() != Some(ids));
        [SpecialTokens::Parse, SpecialTokens::AsText].into_iter().any(in_way)
    };
    let text = TEXTS.map(str::to_owned).into_iter().chain(beside).find(differs);
    differences.extend(text.map(|text| format!("{text:?} becomes other tokens")));
    Ok(differences)
}

/// Whether the bytes of a token are others. A token without bytes has no text that could change.
fn is_decoded_otherwise(tokenizer: &Tokenizer, read: &Tokenizer, id: u32) -> bool {
    let bytes = tokenizer.token_bytes(id);
    bytes.is_some_and(|bytes| !bytes.is_empty()) && bytes != read.token_bytes(id)
}

/// The first token whose spelling has another id in `read`.
fn moved(tokenizer: &Tokenizer, read: &Tokenizer) -> Option<(String, u32)> {
    let of_model: Vec<(String, u32)> = match &tokenizer.model {
        Engine::Merges(merges) => merges.entry().vocab.iter().map(|(text, &id)| (text.clone(), id)).collect(),
        Engine::Library(model) => model.get_vocab().into_iter().collect(),
    };
    let prefix = match &tokenizer.model {
        Engine::Library(model) => match &**model {
            ModelWrapper::WordPiece(model) => Some(model.continuing_subword_prefix.as_str()),
            _ => None,
        },
        Engine::Merges(_) => None,
    };
    // The spelling of the readers of GGUF files.
    let spelled = |text: String| match prefix.and_then(|prefix| text.strip_prefix(prefix)) {
        Some(rest) => format!("##{rest}"),
        None if tokenizer.kind() == TokenizerKind::Characters && text == " " => SPACE.to_owned(),
        None => text,
    };
    let of_model = of_model.into_iter().map(|(text, id)| (spelled(text), id));
    let added = tokenizer.parts.added_tokens.iter().map(|token| (token.content.clone(), token.id));
    let is_moved = |(text, id): &(String, u32)| !text.is_empty() && read.id_of(text) != Some(*id);
    of_model.chain(added).filter(is_moved).min_by_key(|(_, id)| *id)
}

fn metadata(writer: &GgufWriter<'_>) -> Result<GgufMetadata, TokenizerError> {
    let mut bytes = Vec::new();
    let path = std::path::Path::new("the new file");
    writer.write_to(&mut bytes).map_err(|source| TokenizerError::Write { path: path.to_owned(), source })?;
    Ok(parse_gguf_header(path, &bytes)?.metadata)
}
