//! Whether a tokenizer that was written is read back as the same one.

use smallmind_checkpoint::{GgufMetadata, GgufWriter, parse_gguf_header};

use super::super::error::TokenizerError;
use super::super::{SpecialTokens, Tokenizer};

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

/// Reads `tokenizer` back from the metadata of `writer`. Returns a text that becomes other tokens, if one is found.
///
/// # Errors
/// Metadata that can't be read back; other tokens around a text, or other ids.
pub(super) fn difference(tokenizer: &Tokenizer, writer: &GgufWriter<'_>) -> Result<Option<String>, TokenizerError> {
    let read = Tokenizer::from_gguf(&metadata(writer)?)?;
    let refused = |part: &str, found: String| TokenizerError::NotInGguf { part: part.to_owned(), found };
    for (part, written, read) in
        [("before", tokenizer.prompt_prefix(), read.prompt_prefix()), ("after", tokenizer.suffix(), read.suffix())]
    {
        if written != read {
            return Err(refused("post_processor", format!("{written:?} {part} a text, which reads back as {read:?}")));
        }
    }
    let ids = 0..tokenizer.vocab_size() as u32;
    if let Some(id) = ids
        .into_iter()
        .find(|id| tokenizer.token_bytes(*id).is_some() && tokenizer.token_bytes(*id) != read.token_bytes(*id))
    {
        let bytes =
            |tokenizer: &Tokenizer| tokenizer.token_bytes(id).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let (written, read) = (bytes(tokenizer).unwrap_or_default(), bytes(&read).unwrap_or_default());
        return Err(refused("model.vocab", format!("the token {id}, {written:?}, which reads back as {read:?}")));
    }
    let beside =
        tokenizer.parts.added_tokens.iter().take(MAX_TOKENS).map(|token| format!("a{0}   b {0}c", token.content));
    let differs = |text: &String| {
        // Texts that the vocabulary can't express prove nothing.
        let in_way =
            |special| tokenizer.encode(text, special).is_ok_and(|ids| read.encode(text, special).ok() != Some(ids));
        [SpecialTokens::Parse, SpecialTokens::AsText].into_iter().any(in_way)
    };
    Ok(TEXTS.map(str::to_owned).into_iter().chain(beside).find(differs))
}

fn metadata(writer: &GgufWriter<'_>) -> Result<GgufMetadata, TokenizerError> {
    let mut bytes = Vec::new();
    let path = std::path::Path::new("the new file");
    writer.write_to(&mut bytes).map_err(|source| TokenizerError::Write { path: path.to_owned(), source })?;
    Ok(parse_gguf_header(path, &bytes)?.metadata)
}
