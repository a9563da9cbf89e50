//! Reading a vocabulary from metadata.

use std::collections::BTreeMap;

use smallmind_checkpoint::{GgufMetadata, GgufStrings};

use super::super::charsmap;
use super::super::ends;
use super::super::error::TokenizerError;
use super::super::file::{AddedEntry, MAX_TOKENS, Part, PatternEntry, TemplatePiece, TemplateToken, TokenizerFile};
use super::super::merges::{MAX_DIVISION_WORK, division_work};
use super::super::model_entry::{BpeEntry, MergeList, ModelEntry, UnigramEntry, Vocab, WordPieceEntry};
use super::{KEYS, MANY_SPACES, OUTER_SPACES, SPACE, TokenType, Tokenizer, key, keys, name, pre};

type Result<T> = std::result::Result<T, TokenizerError>;

/// What all kinds of vocabularies have.
struct Common<'m> {
    metadata: &'m GgufMetadata,
    /// The kind, as `tokenizer.ggml.model` names it.
    model: &'m str,
    tokens: Vec<String>,
    types: Vec<TokenType>,
}

pub(super) fn read(metadata: &GgufMetadata) -> Result<Tokenizer> {
    let model: &str = metadata.required(&key("model"))?;
    let common = Common::new(metadata, model)?;
    let (file, scores) = match model {
        "gpt2" => (gpt2(&common)?, None),
        "llama" => llama(&common)?,
        "bert" => (bert(&common)?, None),
        "t5" => (t5(&common)?, None),
        other => {
            return Err(TokenizerError::unsupported(key("model"), format!("{other:?}"), "gpt2, llama, bert, t5"));
        }
    };
    let mut tokenizer = Tokenizer::assemble(file, scores)?;
    tokenizer.ends =
        ends::of_entries(&tokenizer.parts.added_tokens, |role| common.id(&format!("{role}_token_id"), None))?;
    let (bos, eos) = (common.id("bos_token_id", None)?, common.id("eos_token_id", None)?);
    tokenizer.bos = bos.or(tokenizer.bos);
    tokenizer.eos = eos.or(tokenizer.eos);
    Ok(tokenizer)
}

impl<'m> Common<'m> {
    fn new(metadata: &'m GgufMetadata, model: &'m str) -> Result<Self> {
        let tokens: &GgufStrings = metadata.required(&key("tokens"))?;
        if tokens.len() > MAX_TOKENS {
            let problem = format!("{} tokens are over the limit of {MAX_TOKENS}", tokens.len());
            return Err(TokenizerError::field(key("tokens"), problem));
        }
        if tokens.is_empty() {
            return Err(TokenizerError::field(key("tokens"), "the vocabulary is empty"));
        }
        let named = |(index, token): (usize, &str)| match token {
            // As llama.cpp calls them.
            "" => format!("[EMPTY_{index}]"),
            token => token.to_owned(),
        };
        let tokens: Vec<String> = tokens.iter().enumerate().map(named).collect();
        let types: Option<Vec<i32>> = metadata.value(&key("token_type"))?;
        let types = match types {
            None => vec![TokenType::Normal; tokens.len()],
            Some(types) if types.len() < tokens.len() => {
                let problem = format!("{} types for {} tokens", types.len(), tokens.len());
                return Err(TokenizerError::field(key("token_type"), problem));
            }
            Some(types) => {
                let read = |(at, number): (usize, i32)| {
                    TokenType::from_number(number).ok_or_else(|| {
                        let field = format!("{}[{at}]", key("token_type"));
                        TokenizerError::unsupported(field, format!("the type {number}"), TokenType::KNOWN)
                    })
                };
                types.into_iter().take(tokens.len()).enumerate().map(read).collect::<Result<_>>()?
            }
        };
        Ok(Self { metadata, model, tokens, types })
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.metadata.value(&key(name))?.unwrap_or(default))
    }

    /// The id of a special token, if the file or the kind of vocabulary gives it.
    fn id(&self, name: &str, default: Option<u32>) -> Result<Option<u32>> {
        let given: Option<u32> = self.metadata.value(&key(name))?;
        match given {
            // Some converters write the largest number for a token that is not there.
            Some(u32::MAX) => Ok(None),
            Some(id) if id as usize >= self.tokens.len() => {
                let problem = format!("the id {id} is not in the vocabulary of {} tokens", self.tokens.len());
                Err(TokenizerError::field(key(name), problem))
            }
            Some(id) => Ok(Some(id)),
            None => Ok(default.filter(|id| (*id as usize) < self.tokens.len())),
        }
    }

    fn scores(&self) -> Result<Vec<f32>> {
        let name = key("scores");
        let scores: Vec<f32> = match self.metadata.value(&name) {
            Ok(Some(scores)) => scores,
            // Older converters write whole numbers.
            other => match self.metadata.value::<Vec<i32>>(&name) {
                Ok(Some(scores)) => scores.into_iter().map(|score| score as f32).collect(),
                _ => {
                    other?;
                    self.metadata.required(&name)?
                }
            },
        };
        if scores.len() < self.tokens.len() {
            let problem = format!("{} scores for {} tokens", scores.len(), self.tokens.len());
            return Err(TokenizerError::field(name, problem));
        }
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            return Err(TokenizerError::field(name, format!("the score of token {at} is {}", scores[at])));
        }
        Ok(scores)
    }

    /// The ids of the tokens that are found in a text before all other processing.
    fn added(&self) -> Vec<usize> {
        let is_added =
            |at: &usize| matches!(self.types[*at], TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
        (0..self.tokens.len()).filter(is_added).collect()
    }

    fn added_entries(&self) -> Result<Vec<AddedEntry>> {
        let name = self.metadata.value::<&str>(name::KEY)?.unwrap_or_default();
        let strips = name::strips(name);
        let entry = |at: usize| AddedEntry {
            id: at as u32,
            content: self.tokens[at].clone(),
            single_word: false,
            lstrip: false,
            rstrip: strips && name::is_stripped(&self.tokens[at]),
            normalized: false,
            special: self.types[at] != TokenType::UserDefined,
        };
        Ok(self.added().into_iter().map(entry).collect())
    }

    /// Tokens and ids of the model: all, but for added tokens behind all others, which a `tokenizer.json` lists apart.
    fn vocab(&self) -> Result<Vocab> {
        let added = self.added();
        let behind = added.len();
        let are_last = added.iter().zip(self.tokens.len() - behind..).all(|(&at, place)| at == place);
        let kept = if are_last { self.tokens.len() - behind } else { self.tokens.len() };
        ids_of(&self.tokens[..kept])
    }

    /// A file with the tokens that are put around a text.
    fn file(&self, model: ModelEntry, begins: Option<u32>, ends: Option<u32>) -> Result<TokenizerFile<ModelEntry>> {
        Ok(TokenizerFile {
            not_applied: keys::not_applied(self.metadata, self.model)?,
            added_tokens: self.added_entries()?,
            post_processor: self.template(begins, ends),
            ..TokenizerFile::new(model)
        })
    }

    fn template(&self, begins: Option<u32>, ends: Option<u32>) -> Option<Part> {
        if begins.is_none() && ends.is_none() {
            return None;
        }
        let text = |id: u32| self.tokens[id as usize].clone();
        let special = |id: u32| TemplatePiece::SpecialToken { id: text(id), type_id: 0 };
        let sequence = TemplatePiece::Sequence { id: "A".to_owned(), type_id: 0 };
        let second = TemplatePiece::Sequence { id: "B".to_owned(), type_id: 1 };
        let (first, last) = (begins.map(special), ends.map(special));
        let known = begins
            .into_iter()
            .chain(ends)
            .map(|id| (text(id), TemplateToken { id: text(id), ids: vec![id], tokens: vec![text(id)] }));
        Some(Part {
            single: Some(first.clone().into_iter().chain([sequence.clone()]).chain(last.clone()).collect()),
            pair: Some(first.into_iter().chain([sequence, second]).chain(last).collect()),
            special_tokens: Some(known.collect::<BTreeMap<_, _>>()),
            ..Part::new("TemplateProcessing")
        })
    }

    /// The tokens before and after a text.
    fn ends(&self, begins: bool, ends: bool, bos: Option<u32>, eos: Option<u32>) -> Result<[Option<u32>; 2]> {
        let (bos, eos) = (self.id("bos_token_id", bos)?, self.id("eos_token_id", eos)?);
        let begins = self.flag("add_bos_token", begins)?;
        let ends = self.flag("add_eos_token", ends)?;
        for (wanted, id, flag, name) in
            [(begins, bos, "add_bos_token", "bos_token_id"), (ends, eos, "add_eos_token", "eos_token_id")]
        {
            if wanted && id.is_none() {
                return Err(no_such_token(flag, name));
            }
        }
        Ok([bos.filter(|_| begins), eos.filter(|_| ends)])
    }
}

/// The error for a flag that puts a token around a text, where the key `name` gives none.
fn no_such_token(flag: &str, name: &str) -> TokenizerError {
    TokenizerError::field(key(flag), format!("it is true, but there is no {KEYS}{name}"))
}

/// The ids of tokens, each of which appears once.
fn ids_of(tokens: &[String]) -> Result<Vocab> {
    let mut ids = Vocab::with_capacity_and_hasher(tokens.len(), Default::default());
    for (token, id) in tokens.iter().zip(0..) {
        if let Some(other) = ids.insert(token.clone(), id) {
            return Err(TokenizerError::field(key("tokens"), format!("{token:?} is at {other} and at {id}")));
        }
    }
    Ok(ids)
}

/// Byte-level BPE.
fn gpt2(common: &Common<'_>) -> Result<TokenizerFile<ModelEntry>> {
    let metadata = common.metadata;
    let name = metadata.value::<&str>(&key("pre"))?.unwrap_or("default");
    let row = pre::find(name)
        .ok_or_else(|| TokenizerError::UnknownPreTokenizer { name: name.to_owned(), known: pre::names() })?;
    let list: &GgufStrings = metadata.required(&key("merges"))?;
    let mut merges = MergeList::default();
    for (index, merge) in list.iter().enumerate() {
        // The first part has at least one character, which may be a space.
        let space = merge.char_indices().skip(1).find(|(_, character)| *character == ' ');
        let Some((at, _)) = space else {
            let problem = format!("{merge:?} is not two tokens with a space between them");
            return Err(TokenizerError::field(format!("{}[{index}]", key("merges")), problem));
        };
        merges.push(&merge[..at], &merge[at + 1..]);
    }
    let model = BpeEntry { ignore_merges: row.ignore_merges, vocab: common.vocab()?, merges, ..BpeEntry::default() };
    let [begins, ends] = common.ends(row.begins, false, None, None)?;
    Ok(TokenizerFile {
        pre_tokenizer: Some(pre::part(row.patterns)),
        decoder: Some(Part::byte_level()),
        ..common.file(ModelEntry::Bpe(model), begins, ends)?
    })
}

fn replace(pattern: &str, content: &str) -> Part {
    Part {
        pattern: Some(PatternEntry::String(pattern.to_owned())),
        content: Some(content.to_owned()),
        ..Part::new("Replace")
    }
}

fn replace_regex(pattern: &str, content: &str) -> Part {
    Part { pattern: Some(PatternEntry::Regex(pattern.to_owned())), ..replace("", content) }
}

fn normalizers(parts: Vec<Part>) -> Option<Part> {
    Some(Part { normalizers: Some(parts), ..Part::new("Sequence") })
}

/// SentencePiece's BPE.
fn llama(common: &Common<'_>) -> Result<(TokenizerFile<ModelEntry>, Option<Vec<f32>>)> {
    let scores = common.scores()?;
    let work = division_work(common.tokens.iter().map(String::as_str));
    if work > MAX_DIVISION_WORK {
        return Err(TokenizerError::field(key("tokens"), "the tokens are too long to be divided into all their parts"));
    }
    let unknown = common.id("unknown_token_id", Some(0))?;
    // All tokens are in the vocabulary, as in the file of SentencePiece.
    let vocab = ids_of(&common.tokens)?;
    let model = BpeEntry {
        unk_token: unknown.map(|id| common.tokens[id as usize].clone()),
        fuse_unk: true,
        byte_fallback: true,
        vocab,
        ..BpeEntry::default()
    };
    let [begins, ends] = common.ends(true, false, Some(1), Some(2))?;
    let prefix = common.flag("add_space_prefix", true)?;
    let prepend = Part { prepend: Some(SPACE.to_owned()), ..Part::new("Prepend") };
    let spaces = replace(" ", SPACE);
    let normalizer = if prefix { normalizers(vec![prepend, spaces]) } else { Some(spaces) };
    let mut decoders = vec![replace(SPACE, " "), Part::new("ByteFallback"), Part::new("Fuse")];
    if prefix {
        let content = Some(" ".to_owned());
        decoders.push(Part { content, start: Some(1), stop: Some(0), ..Part::new("Strip") });
    }
    let file = TokenizerFile {
        normalizer,
        decoder: Some(Part { decoders: Some(decoders), ..Part::new("Sequence") }),
        ..common.file(ModelEntry::Bpe(model), begins, ends)?
    };
    Ok((file, Some(scores)))
}

/// WordPiece. GGUF spells what begins a word with `▁` before it; other readers, what continues one with `##`.
fn bert(common: &Common<'_>) -> Result<TokenizerFile<ModelEntry>> {
    let respelled = |token: &String| match token.strip_prefix(SPACE) {
        // The sign by itself continues a word.
        Some(begins) if !begins.is_empty() => begins.to_owned(),
        None if token.starts_with('[') && token.ends_with(']') => token.clone(),
        _ => format!("##{token}"),
    };
    let unknown = common.id("unknown_token_id", Some(100))?;
    let tokens = common.tokens.iter().zip(&common.types);
    let tokens: Vec<String> = tokens
        .map(|(token, kind)| if matches!(kind, TokenType::Normal) { respelled(token) } else { token.clone() })
        .collect();
    let Some(unknown) = unknown else {
        return Err(TokenizerError::field(key("unknown_token_id"), "there is no token for unknown words"));
    };
    let common = &Common { tokens, types: common.types.clone(), ..*common };
    let vocab = ids_of(&common.tokens)?;
    let model = WordPieceEntry {
        unk_token: common.tokens[unknown as usize].clone(),
        continuing_subword_prefix: "##".to_owned(),
        max_input_chars_per_word: 100,
        vocab,
    };
    let around = |flag: &str, name: &str, default: u32| {
        let (asked, id) = (common.metadata.value::<bool>(&key(flag))?, common.id(name, Some(default))?);
        match asked {
            Some(true) if id.is_none() => Err(no_such_token(flag, name)),
            asked => Ok(id.filter(|_| asked.unwrap_or(true))),
        }
    };
    let begins = around("add_bos_token", "bos_token_id", 101)?;
    let ends = around("add_sep_token", "seperator_token_id", 102)?;
    let lowercase = common.flag("normalizer.lowercase", true)?;
    let normalizer = Part {
        clean_text: Some(true),
        handle_chinese_chars: Some(true),
        strip_accents: Some(common.flag("normalizer.strip_accents", lowercase)?),
        lowercase: Some(lowercase),
        ..Part::new("BertNormalizer")
    };
    Ok(TokenizerFile {
        normalizer: Some(normalizer),
        pre_tokenizer: Some(Part::new("BertPreTokenizer")),
        decoder: Some(Part { prefix: Some("##".to_owned()), cleanup: Some(true), ..Part::new("WordPiece") }),
        ..common.file(ModelEntry::WordPiece(model), begins, ends)?
    })
}

/// Unigram.
fn t5(common: &Common<'_>) -> Result<TokenizerFile<ModelEntry>> {
    let scores = common.scores()?;
    let pieces = common.tokens.iter().cloned().zip(scores.iter().map(|score| f64::from(*score))).collect();
    let unknown = common.id("unknown_token_id", Some(2))?;
    let model = UnigramEntry::new(pieces, unknown, false)
        .map_err(|piece| TokenizerError::field(key("tokens"), format!("{piece:?} appears twice")))?;
    let [begins, ends] = common.ends(false, true, None, Some(1))?;
    let mut parts = Vec::new();
    if let Some(map) = common.metadata.value::<Vec<u8>>(&key("precompiled_charsmap"))?.filter(|map| !map.is_empty()) {
        charsmap::check_bytes(&map).map_err(|problem| TokenizerError::field(key("precompiled_charsmap"), problem))?;
        parts.push(Part { precompiled_charsmap: Some(charsmap::encode(&map)), ..Part::new("Precompiled") });
    }
    let merges_spaces = common.flag("remove_extra_whitespaces", false)?;
    let prefix = common.flag("add_space_prefix", false)? || merges_spaces;
    if merges_spaces {
        parts.extend([replace_regex(OUTER_SPACES, ""), replace_regex(MANY_SPACES, " ")]);
    }
    if prefix {
        // Before every text; `Metaspace` leaves those alone that begin with the sign.
        parts.push(Part { prepend: Some(SPACE.to_owned()), ..Part::new("Prepend") });
    }
    parts.push(replace(" ", SPACE));
    let scheme = if prefix { "always" } else { "never" };
    let metaspace = Part {
        replacement: Some(SPACE.to_owned()),
        prepend_scheme: Some(scheme.to_owned()),
        split: Some(true),
        ..Part::new("Metaspace")
    };
    Ok(TokenizerFile {
        normalizer: normalizers(parts),
        decoder: Some(metaspace),
        ..common.file(ModelEntry::Unigram(model), begins, ends)?
    })
}
