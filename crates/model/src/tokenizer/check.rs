//! Checks that the fields of a file agree with each other. The tokenizers library trusts its input: it unwraps while it
//! reads, renumbers added tokens, and accepts ids that contradict each other. So it gets only files that have passed
//! these checks.

use std::collections::HashSet;

use ahash::RandomState;

use super::error::TokenizerError;
use super::file::{AddedEntry, MAX_TOKENS, Part, PatternEntry, TokenizerFile};
use super::model_entry::{BpeEntry, ModelEntry, UnigramEntry, Vocab, WordPieceEntry};
use super::{charsmap, pattern, template};

/// The longest token, in bytes; real ones stay in the hundreds.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// The longest regular expression; those of real pre-tokenizers stay in the hundreds.
const MAX_REGEX_BYTES: usize = 4 << 10;
/// The longest replacement text in bytes, so that a text can't grow without bound.
const MAX_AFFIX_BYTES: usize = 64;
/// The longest word that WordPiece divides, in characters: its time grows with the square. Real files have 100.
const MAX_WORD_PIECE_CHARS: u64 = 512;
/// How deep sequences may be nested; real ones are not nested at all.
const MAX_DEPTH: usize = 4;
/// The most parts within a sequence, however they are nested; real ones have fewer than ten.
const MAX_PARTS_WITHIN: usize = 64;
/// The most ids without a token, in addition to one such id for each token.
const SPARE_IDS: usize = 256;

/// The token of an id.
#[derive(Debug, Clone)]
pub(super) struct TokenEntry {
    /// The token in the spelling of the file.
    pub text: String,
    pub added: bool,
    pub special: bool,
}

/// Checks everything; returns the tokens by id.
pub(super) fn check(file: &TokenizerFile<ModelEntry>) -> Result<Vec<Option<TokenEntry>>, TokenizerError> {
    if file.version != "1.0" {
        return Err(TokenizerError::unsupported("version", format!("{:?}", file.version), "\"1.0\""));
    }
    check_model(&file.model)?;
    if let Some(unknown) = file.model.unknown().filter(|unknown| !file.model.ids().contains_key(*unknown)) {
        return Err(TokenizerError::field("model.unk_token", format!("{unknown:?} is not in the vocabulary")));
    }
    for (path, part, rule) in [
        ("normalizer", &file.normalizer, check_normalizer as Rule),
        ("pre_tokenizer", &file.pre_tokenizer, check_pre_tokenizer),
        ("post_processor", &file.post_processor, check_post_processor),
        ("decoder", &file.decoder, check_decoder),
    ] {
        if let Some(part) = part {
            let count = parts_within(part);
            if count > MAX_PARTS_WITHIN {
                let problem = format!("{count} parts are over the limit of {MAX_PARTS_WITHIN}");
                return Err(TokenizerError::field(path, problem));
            }
            check_part(path, part, rule, MAX_DEPTH)?;
        }
    }
    let length = check_ids(file.model.ids(), &file.added_tokens)?;
    if let Some(model) = file.model.bpe() {
        check_merges(model)?;
    }
    Ok(tokens_by_id(file.model.ids(), &file.added_tokens, length))
}

fn check_model(model: &ModelEntry) -> Result<(), TokenizerError> {
    if model.ids().is_empty() {
        return Err(TokenizerError::field("model.vocab", "the vocabulary is empty"));
    }
    match model {
        ModelEntry::Bpe(model) => check_bpe(model),
        ModelEntry::Unigram(model) => check_unigram(model),
        ModelEntry::WordPiece(model) => check_word_piece(model),
        ModelEntry::WordLevel(_) => Ok(()),
    }
}

fn check_bpe(model: &BpeEntry) -> Result<(), TokenizerError> {
    if let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0) {
        let supported = "none: the same text always gives the same tokens";
        return Err(TokenizerError::unsupported("model.dropout", dropout.to_string(), supported));
    }
    for (field, affix) in [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(affix) = affix {
            check_length(field, "text", affix, MAX_AFFIX_BYTES)?;
        }
    }
    Ok(())
}

fn check_unigram(model: &UnigramEntry) -> Result<(), TokenizerError> {
    if let Some((piece, score)) = model.pieces.iter().find(|(_, score)| !score.is_finite()) {
        return Err(TokenizerError::field("model.vocab", format!("the score of {piece:?} is {score}")));
    }
    match model.unk_id.filter(|id| *id as usize >= model.pieces.len()) {
        Some(id) => Err(TokenizerError::field("model.unk_id", format!("the id {id} is not in the vocabulary"))),
        None => Ok(()),
    }
}

fn check_word_piece(model: &WordPieceEntry) -> Result<(), TokenizerError> {
    let limit = MAX_WORD_PIECE_CHARS;
    if model.max_input_chars_per_word > limit {
        let problem = format!("{} characters are over the limit of {limit}", model.max_input_chars_per_word);
        return Err(TokenizerError::field("model.max_input_chars_per_word", problem));
    }
    let prefix = &model.continuing_subword_prefix;
    check_length("model.continuing_subword_prefix", "text", prefix, MAX_AFFIX_BYTES)
}

/// Checks that every id belongs to one token, and that the ids are dense enough to index a table; gives the length of
/// that table.
fn check_ids(vocab: &Vocab, added: &[AddedEntry]) -> Result<usize, TokenizerError> {
    let count = vocab.len() + added.iter().filter(|token| !vocab.contains_key(&token.content)).count();
    let vocab_ids = vocab.iter().map(|(text, &id)| (id, text));
    let largest = vocab_ids.chain(added.iter().map(|token| (token.id, &token.content))).max();
    let room = (2 * count + SPARE_IDS).min(MAX_TOKENS);
    match largest {
        Some((id, text)) if id as usize >= room => {
            return Err(TokenizerError::field(
                if vocab.get(text) == Some(&id) { format!("model.vocab[{text:?}]") } else { "added_tokens".to_owned() },
                format!("the id {id} is too large for {count} tokens: most ids would be without a token"),
            ));
        }
        _ => {}
    }
    let mut taken = vec![false; largest.map_or(0, |(id, _)| id as usize + 1)];
    check_vocab_ids(vocab, &mut taken)?;
    check_added_ids(vocab, added, &mut taken)?;
    Ok(taken.len())
}

/// `taken` tells of each id whether a token has it.
fn check_vocab_ids(vocab: &Vocab, taken: &mut [bool]) -> Result<(), TokenizerError> {
    for (text, &id) in vocab {
        if text.is_empty() {
            return Err(TokenizerError::field("model.vocab", "a token is empty"));
        }
        check_length("model.vocab", "token", text, MAX_TOKEN_BYTES)?;
        if std::mem::replace(&mut taken[id as usize], true) {
            // The map has no fixed order, and the message must not depend on it.
            let mut of_id: Vec<_> = vocab.iter().filter(|(_, other)| **other == id).map(|(text, _)| text).collect();
            of_id.sort_unstable();
            let problem = format!("{:?} and {:?} have the same id {id}", of_id[0], of_id[1]);
            return Err(TokenizerError::field("model.vocab", problem));
        }
    }
    Ok(())
}

fn check_added_ids(vocab: &Vocab, added: &[AddedEntry], taken: &mut [bool]) -> Result<(), TokenizerError> {
    let mut contents = HashSet::new();
    // Other readers give the tokens that the vocabulary lacks the next ids after it, no matter which ids are declared.
    let mut next = vocab.len() as u32;
    for (index, token) in added.iter().enumerate() {
        let field = || format!("added_tokens[{index}]");
        if token.content.is_empty() {
            return Err(TokenizerError::field(field(), "the token is empty"));
        }
        check_length(&field(), "token", &token.content, MAX_TOKEN_BYTES)?;
        if !contents.insert(&token.content) {
            return Err(TokenizerError::field(field(), format!("{:?} appears twice", token.content)));
        }
        if let Some(id) = vocab.get(&token.content) {
            if *id != token.id {
                let problem = format!("{:?} has the id {} here and {id} in model.vocab", token.content, token.id);
                return Err(TokenizerError::field(field(), problem));
            }
            continue;
        }
        if token.id != next {
            let problem = format!(
                "{:?} has the id {}, where other readers give it {next}, the next after the tokens before it",
                token.content, token.id
            );
            return Err(TokenizerError::field(field(), problem));
        }
        next += 1;
        // Ids that grow are not those of added tokens before this one.
        if std::mem::replace(&mut taken[token.id as usize], true) {
            let other = vocab.iter().find(|(_, id)| **id == token.id).map(|(text, _)| text.as_str());
            let problem = format!("{:?} has the id {} of {:?}", token.content, token.id, other.unwrap_or_default());
            return Err(TokenizerError::field(field(), problem));
        }
    }
    Ok(())
}

/// The tokens whose ids [`check_ids`] has passed, in a table of the length that it gave.
fn tokens_by_id(vocab: &Vocab, added: &[AddedEntry], length: usize) -> Vec<Option<TokenEntry>> {
    let mut tokens = vec![None; length];
    for (text, &id) in vocab {
        tokens[id as usize] = Some(TokenEntry { text: text.clone(), added: false, special: false });
    }
    for token in added {
        let entry = TokenEntry { text: token.content.clone(), added: true, special: token.special };
        tokens[token.id as usize] = Some(entry);
    }
    tokens
}

/// Checks that every merge joins two tokens to a third, and that none is listed twice. The ids must be unique.
fn check_merges(model: &BpeEntry) -> Result<(), TokenizerError> {
    let mut seen = HashSet::with_capacity_and_hasher(model.merges.len(), RandomState::new());
    let mut joined = String::new();
    let prefix = model.continuing_subword_prefix.as_deref().unwrap_or_default();
    for (index, (left, right)) in model.merges.iter().enumerate() {
        let Some(continued) = right.strip_prefix(prefix) else {
            let problem = format!("{right:?} does not begin with the prefix {prefix:?} of what continues a word");
            return Err(TokenizerError::field(format!("model.merges[{index}]"), problem));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(continued);
        let id = |token: &str| {
            let found = model.vocab.get(token).filter(|_| !token.is_empty());
            found.ok_or_else(|| {
                let problem = format!("{left:?} + {right:?}: {token:?} is not in the vocabulary");
                TokenizerError::field(format!("model.merges[{index}]"), problem)
            })
        };
        let pair = (*id(left)?, *id(right)?);
        id(&joined)?;
        if !seen.insert(pair) {
            let problem = format!("{left:?} + {right:?} appears twice");
            return Err(TokenizerError::field(format!("model.merges[{index}]"), problem));
        }
    }
    Ok(())
}

/// What a part must satisfy at its position in the file.
type Rule = fn(&str, &Part) -> Result<(), TokenizerError>;

/// How many parts a part has within, on all levels and in the lists of all kinds of sequences.
fn parts_within(part: &Part) -> usize {
    let lists = [&part.normalizers, &part.pretokenizers, &part.decoders, &part.processors];
    lists.into_iter().flatten().flatten().map(|child| 1 + parts_within(child)).sum()
}

/// Applies the rule of a position to a part and to the parts of a sequence.
fn check_part(path: &str, part: &Part, rule: Rule, depth: usize) -> Result<(), TokenizerError> {
    if part.kind != "Sequence" {
        rule(path, part)?;
        return check_keys(path, part, keys_of(path, &part.kind));
    }
    let (list, children) = sequence(path, part);
    check_keys(path, part, &[list])?;
    let Some(children) = children else {
        return Err(TokenizerError::field(format!("{path}.{list}"), "the key is missing"));
    };
    if depth == 0 {
        return Err(TokenizerError::field(path, format!("sequences are nested more than {MAX_DEPTH} deep")));
    }
    for (index, child) in children.iter().enumerate() {
        check_part(&format!("{path}.{list}[{index}]"), child, rule, depth - 1)?;
    }
    Ok(())
}

/// The parts of a sequence; each position has its own name for them.
fn sequence<'a>(path: &str, part: &'a Part) -> (&'static str, Option<&'a Vec<Part>>) {
    match path.split('.').next() {
        Some("normalizer") => ("normalizers", part.normalizers.as_ref()),
        Some("pre_tokenizer") => ("pretokenizers", part.pretokenizers.as_ref()),
        Some("decoder") => ("decoders", part.decoders.as_ref()),
        _ => ("processors", part.processors.as_ref()),
    }
}

/// The keys of a supported part besides its type, as this or an earlier version of the tokenizers library writes them.
#[rustfmt::skip]
fn keys_of(path: &str, kind: &str) -> &'static [&'static str] {
    match kind {
        "ByteLevel" if path.starts_with("normalizer") => &[],
        "ByteLevel" => &["add_prefix_space", "trim_offsets", "use_regex"],
        "Digits" => &["individual_digits"],
        "Metaspace" => &["replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"],
        "Prepend" => &["prepend"],
        "Punctuation" => &["behavior"],
        "Replace" => &["pattern", "content"],
        "Split" => &["pattern", "behavior", "invert"],
        "Strip" if path.starts_with("decoder") => &["content", "start", "stop"],
        "BPEDecoder" => &["suffix"],
        "BertNormalizer" => &["clean_text", "handle_chinese_chars", "strip_accents", "lowercase"],
        "BertProcessing" => &["sep", "cls"],
        "CharDelimiterSplit" => &["delimiter"],
        "FixedLength" => &["length"],
        "Precompiled" => &["precompiled_charsmap"],
        "RobertaProcessing" => &["sep", "cls", "trim_offsets", "add_prefix_space"],
        "WordPiece" => &["prefix", "cleanup"],
        "Strip" => &["strip_left", "strip_right"],
        "TemplateProcessing" => &["single", "pair", "special_tokens"],
        _ => &[],
    }
}

/// Refuses keys that parts of this kind don't have, which would be ignored.
fn check_keys(path: &str, part: &Part, known: &[&str]) -> Result<(), TokenizerError> {
    let given = serde_json::to_value(part).map_err(|error| TokenizerError::library("tokenizer")(error.into()))?;
    let given = given.as_object().into_iter().flat_map(|fields| fields.keys()).chain(part.other.keys());
    match given.filter(|key| *key != "type").find(|key| !known.contains(&key.as_str())) {
        Some(key) => {
            let problem = format!("there is no such key in a part of type {}", part.kind);
            Err(TokenizerError::field(format!("{path}.{key}"), problem))
        }
        None => Ok(()),
    }
}

fn check_normalizer(path: &str, part: &Part) -> Result<(), TokenizerError> {
    match part.kind.as_str() {
        "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents" | "Nmt" | "ByteLevel" => Ok(()),
        "BertNormalizer" => require(path, "clean_text", &part.clean_text)
            .and_then(|_| require(path, "handle_chinese_chars", &part.handle_chinese_chars))
            .and_then(|_| require(path, "lowercase", &part.lowercase))
            .map(drop),
        "Precompiled" => {
            let map = require(path, "precompiled_charsmap", &part.precompiled_charsmap)?;
            charsmap::check(&format!("{path}.precompiled_charsmap"), map)
        }
        "Prepend" => check_affix(path, "prepend", &part.prepend),
        "Replace" => check_replace(path, part),
        "Strip" => require(path, "strip_left", &part.strip_left)
            .and_then(|_| require(path, "strip_right", &part.strip_right))
            .map(drop),
        _ => unsupported(
            path,
            part,
            "Sequence, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Nmt, ByteLevel, BertNormalizer, Precompiled, \
             Prepend, Replace, Strip",
        ),
    }
}

fn check_pre_tokenizer(path: &str, part: &Part) -> Result<(), TokenizerError> {
    match part.kind.as_str() {
        "ByteLevel" => require(path, "add_prefix_space", &part.add_prefix_space)
            .and_then(|_| require(path, "trim_offsets", &part.trim_offsets))
            .map(drop),
        "Digits" => require(path, "individual_digits", &part.individual_digits).map(drop),
        "Punctuation" | "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" | "UnicodeScripts" => Ok(()),
        "Metaspace" => check_metaspace(path, part),
        "CharDelimiterSplit" => require(path, "delimiter", &part.delimiter).map(drop),
        "FixedLength" => match require(path, "length", &part.length)? {
            0 => Err(TokenizerError::field(format!("{path}.length"), "words of 0 characters")),
            _ => Ok(()),
        },
        "Split" => {
            let field = format!("{path}.pattern");
            let pattern = match require(path, "pattern", &part.pattern)? {
                PatternEntry::Regex(regex) => {
                    pattern::translate(&field, regex)?;
                    regex
                }
                PatternEntry::String(text) => text,
            };
            if pattern.is_empty() {
                return Err(TokenizerError::field(field, "the pattern is empty"));
            }
            check_length(&field, "pattern", pattern, MAX_REGEX_BYTES)
        }
        _ => unsupported(
            path,
            part,
            "Sequence, ByteLevel, Split, Digits, Metaspace, Punctuation, BertPreTokenizer, Whitespace, \
             WhitespaceSplit, CharDelimiterSplit, FixedLength, UnicodeScripts",
        ),
    }
}

fn check_post_processor(path: &str, part: &Part) -> Result<(), TokenizerError> {
    match part.kind.as_str() {
        "ByteLevel" => Ok(()),
        "TemplateProcessing" => template::check(path, part),
        "BertProcessing" | "RobertaProcessing" => {
            require(path, "sep", &part.sep).and_then(|_| require(path, "cls", &part.cls)).map(drop)
        }
        _ => unsupported(path, part, "Sequence, ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing"),
    }
}

fn check_decoder(path: &str, part: &Part) -> Result<(), TokenizerError> {
    match part.kind.as_str() {
        "ByteLevel" | "ByteFallback" | "Fuse" => Ok(()),
        "Replace" => check_replace(path, part),
        "Metaspace" => check_metaspace(path, part),
        "WordPiece" => {
            require(path, "cleanup", &part.cleanup)?;
            check_length(&format!("{path}.prefix"), "text", require(path, "prefix", &part.prefix)?, MAX_AFFIX_BYTES)
        }
        "BPEDecoder" => check_affix(path, "suffix", &part.suffix),
        "Strip" if (part.content.as_deref(), part.start, part.stop) == (Some(" "), Some(1), Some(0)) => Ok(()),
        "Strip" => Err(TokenizerError::unsupported(
            path,
            format!("stripping {:?} {:?} and {:?} times", part.content, part.start, part.stop),
            "one space at the start",
        )),
        _ => unsupported(
            path,
            part,
            "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Metaspace, Strip, WordPiece, BPEDecoder",
        ),
    }
}

fn check_replace(path: &str, part: &Part) -> Result<(), TokenizerError> {
    let field = format!("{path}.pattern");
    match require(path, "pattern", &part.pattern)? {
        PatternEntry::String(pattern) => check_affix(path, "pattern", &Some(pattern.clone()))?,
        PatternEntry::Regex(regex) => {
            check_length(&field, "pattern", regex, MAX_REGEX_BYTES)?;
            pattern::translate(&field, regex)?;
        }
    }
    check_length(&format!("{path}.content"), "text", require(path, "content", &part.content)?, MAX_AFFIX_BYTES)
}

fn check_metaspace(path: &str, part: &Part) -> Result<(), TokenizerError> {
    let replacement = require(path, "replacement", &part.replacement)?;
    if replacement.chars().count() != 1 {
        return Err(TokenizerError::field(format!("{path}.replacement"), "it is not one character"));
    }
    Ok(())
}

/// Checks a text that must be present, not empty, and short.
fn check_affix(path: &str, key: &str, text: &Option<String>) -> Result<(), TokenizerError> {
    let text = require(path, key, text)?;
    if text.is_empty() {
        return Err(TokenizerError::field(format!("{path}.{key}"), "the text is empty"));
    }
    check_length(&format!("{path}.{key}"), "text", text, MAX_AFFIX_BYTES)
}

fn check_length(field: &str, what: &str, text: &str, limit: usize) -> Result<(), TokenizerError> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(TokenizerError::field(field, format!("a {what} of {} bytes is over the limit of {limit}", text.len())))
}

pub(super) fn require<'a, T>(path: &str, key: &str, value: &'a Option<T>) -> Result<&'a T, TokenizerError> {
    value.as_ref().ok_or_else(|| TokenizerError::field(format!("{path}.{key}"), "the key is missing"))
}

fn unsupported(path: &str, part: &Part, supported: &'static str) -> Result<(), TokenizerError> {
    Err(TokenizerError::unsupported(format!("{path}.type"), format!("{:?}", part.kind), supported))
}
