//! Writing a vocabulary into metadata.

use std::collections::{HashMap, HashSet};

use smallmind_checkpoint::{GgufArray, GgufValue, GgufWriter};
use tokenizers::ModelWrapper;

use super::super::charsmap;
use super::super::engine::Engine;
use super::super::error::TokenizerError;
use super::super::file::{AddedEntry, Part, PatternEntry};
use super::super::merges::{MAX_DIVISION_WORK, Merges, division_work};
use super::{MANY_SPACES, OUTER_SPACES, SPACE, TokenType, Tokenizer, TokenizerKind, key, name, pre};

type Result<T> = std::result::Result<T, TokenizerError>;

/// What is written, key by key.
struct Keys<'w, 'f> {
    writer: &'w mut GgufWriter<'f>,
    /// Tokens that are written.
    count: usize,
}

impl Keys<'_, '_> {
    fn set(&mut self, name: &str, value: GgufValue) -> Result<()> {
        self.writer.set(&key(name), value)?;
        Ok(())
    }

    fn text(&mut self, name: &str, text: &str) -> Result<()> {
        self.set(name, GgufValue::String(text.to_owned()))
    }

    fn flag(&mut self, name: &str, flag: bool) -> Result<()> {
        self.set(name, GgufValue::Bool(flag))
    }

    fn id(&mut self, name: &str, id: Option<u32>) -> Result<()> {
        id.map_or(Ok(()), |id| self.set(name, GgufValue::U32(id)))
    }

    fn texts<S: AsRef<str>>(&mut self, name: &str, texts: impl IntoIterator<Item = S>) -> Result<()> {
        self.set(name, GgufValue::Array(GgufArray::Strings(texts.into_iter().collect())))
    }
}

pub(super) fn write(
    tokenizer: &Tokenizer,
    model_name: &str,
    rows: usize,
    writer: &mut GgufWriter<'_>,
) -> Result<Vec<String>> {
    let added = &tokenizer.parts.added_tokens;
    writer.set(name::KEY, GgufValue::String(model_name.to_owned()))?;
    let mut keys = Keys { writer, count: tokenizer.vocab_size().max(rows) };
    let mut notes = Vec::new();
    match (&tokenizer.model, tokenizer.kind) {
        (Engine::Merges(merges), TokenizerKind::ByteLevelBpe) => gpt2(tokenizer, merges, &mut keys, &mut notes)?,
        (Engine::Merges(merges), TokenizerKind::Characters) => characters(tokenizer, merges, &mut keys)?,
        (Engine::Merges(merges), TokenizerKind::CharacterBpe) => llama(tokenizer, merges, &mut keys, &mut notes)?,
        (Engine::Library(model), _) => match &**model {
            ModelWrapper::Unigram(model) => t5(tokenizer, model, &mut keys)?,
            ModelWrapper::WordPiece(model) => bert(tokenizer, model, &mut keys)?,
            ModelWrapper::BPE(_) => return Err(refused("model", "BPE with prefixes or suffixes of words")),
            ModelWrapper::WordLevel(_) => return Err(refused("model", "a vocabulary of whole words")),
        },
        (Engine::Merges(_), kind) => return Err(refused("model", &kind.to_string())),
    }
    let other = |token: &&AddedEntry| {
        let rstrip = name::strips(model_name) && name::is_stripped(&token.content);
        (token.lstrip, token.rstrip, token.single_word) != (false, rstrip, false)
    };
    if let Some(token) = added.iter().find(other) {
        notes.push(format!("the handling of blanks beside {:?} and tokens like it", token.content));
    }
    Ok(notes)
}

fn refused(part: &str, found: &str) -> TokenizerError {
    TokenizerError::NotInGguf { part: part.to_owned(), found: found.to_owned() }
}

/// Tokens with their types, by id. `spell` gives the token of the model in the spelling of GGUF.
fn tokens(
    tokenizer: &Tokenizer,
    keys: &mut Keys<'_, '_>,
    model: impl IntoIterator<Item = (String, u32)>,
    byte_fallback: bool,
) -> Result<()> {
    let count = keys.count;
    let mut texts: Vec<Option<String>> = vec![None; count];
    let mut types = vec![TokenType::Unused; count];
    for (text, id) in model {
        let is_byte = byte_fallback && super::super::table::fallback_byte(&text).is_some();
        types[id as usize] = if is_byte { TokenType::Byte } else { TokenType::Normal };
        texts[id as usize] = Some(text);
    }
    for added in &tokenizer.parts.added_tokens {
        types[added.id as usize] = match added.special {
            _ if tokenizer.unknown == Some(added.id) => TokenType::Unknown,
            true => TokenType::Control,
            false => TokenType::UserDefined,
        };
        texts[added.id as usize] = Some(added.content.clone());
    }
    if let Some(unknown) = tokenizer.unknown {
        types[unknown as usize] = TokenType::Unknown;
    }
    let taken: HashSet<&String> = texts.iter().flatten().collect();
    if taken.len() < texts.iter().flatten().count() {
        return Err(refused("model.vocab", "two tokens that GGUF spells alike"));
    }
    let spare = |id: usize| format!("[PAD{id}]");
    if let Some(id) = (0..count).find(|id| texts[*id].is_none() && taken.contains(&spare(*id))) {
        return Err(refused("model.vocab", &format!("the token {:?} beside id {id} without a token", spare(id))));
    }
    keys.texts("tokens", texts.into_iter().enumerate().map(|(id, text)| text.unwrap_or_else(|| spare(id))))?;
    let types = types.into_iter().map(|kind| kind as i32).collect();
    keys.set("token_type", GgufValue::Array(GgufArray::I32(types)))
}

/// The tokens around a text.
fn ends(tokenizer: &Tokenizer, keys: &mut Keys<'_, '_>) -> Result<()> {
    let template = &tokenizer.template;
    let (bos, eos) = (tokenizer.bos, tokenizer.eos);
    let before = template.prefix.as_slice();
    let after = template.suffix.as_slice();
    if before.len() > 1 || after.len() > 1 || template.repeats() {
        return Err(refused("post_processor", "more than one token before and one after a text"));
    }
    keys.id("bos_token_id", before.first().copied().or(bos))?;
    keys.id("eos_token_id", after.first().copied().or(eos))?;
    keys.flag("add_bos_token", !before.is_empty())?;
    keys.flag("add_eos_token", !after.is_empty())
}

fn gpt2(tokenizer: &Tokenizer, merges: &Merges, keys: &mut Keys<'_, '_>, notes: &mut Vec<String>) -> Result<()> {
    match tokenizer.parts.normalizer.as_ref() {
        None => {}
        Some(part) if part.kind == "NFC" => notes.push("the normalizer NFC".to_owned()),
        Some(part) => return Err(refused("normalizer", &part.kind)),
    }
    let entry = merges.entry();
    if entry.unk_token.is_some() || entry.byte_fallback {
        return Err(refused("model.unk_token", "an unknown token of byte-level BPE"));
    }
    let Some(patterns) = tokenizer.parts.pre_tokenizer.as_ref().and_then(pre::patterns) else {
        let found = "anything but splits by regular expressions before ByteLevel";
        return Err(refused("pre_tokenizer", found));
    };
    let same = |row: &&pre::Pre| row.patterns == patterns && row.ignore_merges == entry.ignore_merges;
    let Some(row) = pre::TABLE.iter().find(same) else {
        let problem = format!("expressions that have no name in GGUF: {}", patterns.join(" then "));
        return Err(refused("pre_tokenizer", &problem));
    };
    keys.text("model", "gpt2")?;
    keys.text("pre", row.names[0])?;
    tokens(tokenizer, keys, entry.vocab.iter().map(|(text, &id)| (text.clone(), id)), false)?;
    keys.texts("merges", merges.list().into_iter().map(|(left, right)| format!("{left} {right}")))?;
    ends(tokenizer, keys)
}

/// A token for each character, as a vocabulary of SentencePiece in which nothing is merged.
fn characters(tokenizer: &Tokenizer, merges: &Merges, keys: &mut Keys<'_, '_>) -> Result<()> {
    let spelled = |text: &String| if text == " " { SPACE.to_owned() } else { text.clone() };
    keys.text("model", "llama")?;
    keys.text("pre", "default")?;
    tokens(tokenizer, keys, merges.entry().vocab.iter().map(|(text, &id)| (spelled(text), id)), false)?;
    keys.set("scores", GgufValue::Array(GgufArray::F32(vec![0.0; keys.count])))?;
    keys.flag("add_space_prefix", false)?;
    ends(tokenizer, keys)
}

/// SentencePiece's BPE.
fn llama(tokenizer: &Tokenizer, merges: &Merges, keys: &mut Keys<'_, '_>, notes: &mut Vec<String>) -> Result<()> {
    let prefix = space_prefix(tokenizer, notes)?;
    let entry = merges.entry();
    if !entry.byte_fallback || entry.ignore_merges {
        return Err(refused("model.byte_fallback", "BPE of characters without byte fallback"));
    }
    let scores = match merges.scores() {
        Some(scores) => scores.to_vec(),
        None => scores_of(merges, keys.count, notes)?,
    };
    keys.text("model", "llama")?;
    keys.text("pre", "default")?;
    tokens(tokenizer, keys, entry.vocab.iter().map(|(text, &id)| (text.clone(), id)), true)?;
    let mut scores = scores;
    scores.resize(keys.count, 0.0);
    keys.set("scores", GgufValue::Array(GgufArray::F32(scores)))?;
    keys.id("unknown_token_id", tokenizer.unknown)?;
    keys.flag("add_space_prefix", prefix)?;
    ends(tokenizer, keys)
}

/// Scores that give the order of a list of merges: the higher, the earlier a token is made.
fn scores_of(merges: &Merges, count: usize, notes: &mut Vec<String>) -> Result<Vec<f32>> {
    let list = merges.list();
    let entry = merges.entry();
    if division_work(entry.vocab.keys().map(String::as_str)) > MAX_DIVISION_WORK {
        return Err(refused("model.vocab", "tokens that are too long to be divided into all their parts"));
    }
    let listed: HashSet<(&str, &str)> = list.iter().copied().collect();
    for text in entry.vocab.keys() {
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            let both = entry.vocab.contains_key(left) && entry.vocab.contains_key(right);
            if both && !listed.contains(&(left, right)) {
                let problem =
                    format!("{text:?} not made of {left:?} and {right:?}: scores merge whatever makes a token");
                return Err(refused("model.merges", &problem));
            }
        }
    }
    let mut first: HashMap<u32, (usize, usize)> = HashMap::new();
    let mut scattered = None;
    let mut made = 0;
    let mut last = None;
    for (left, right) in list {
        let Some(id) = entry.vocab.get(&format!("{left}{right}")).copied() else { continue };
        if last != Some(id) {
            made += 1;
        }
        match first.get(&id) {
            Some((_, run)) if *run != made => scattered = Some(id),
            Some(_) => {}
            None => {
                first.insert(id, (made, made));
            }
        }
        last = Some(id);
    }
    if let Some(id) = scattered {
        let text = merges.texts()[id as usize];
        notes.push(format!("the ranks of merges one by one: {text:?} and tokens like it are made at several ranks"));
    }
    let mut scores = vec![0.0; count];
    for (id, (made, _)) in first {
        scores[id as usize] = -(made as f32);
    }
    // What is never made comes last.
    for (text, &id) in &entry.vocab {
        if text.chars().count() == 1 {
            scores[id as usize] = -(made as f32 + 1.0);
        }
    }
    Ok(scores)
}

/// Whether a text gets a space before it; an error if spaces are not spelled as in SentencePiece.
fn space_prefix(tokenizer: &Tokenizer, notes: &mut Vec<String>) -> Result<bool> {
    let parts = tokenizer.parts.normalizer.as_ref();
    let list = parts.map(|part| part.normalizers.as_deref().unwrap_or(std::slice::from_ref(part))).unwrap_or_default();
    let is_prepend = |part: &Part| part.kind == "Prepend" && part.prepend.as_deref() == Some(SPACE);
    let is_replace = |part: &Part| {
        part.kind == "Replace"
            && part.pattern == Some(PatternEntry::String(" ".to_owned()))
            && part.content.as_deref() == Some(SPACE)
    };
    // A split at spaces after they have been replaced does nothing.
    let idle = |part: &Part| part.kind == "Split" && part.pattern == Some(PatternEntry::String(" ".to_owned()));
    let pre_tokenizer = tokenizer.parts.pre_tokenizer.as_ref();
    match (list, pre_tokenizer) {
        ([prepend, replace], None) if is_prepend(prepend) && is_replace(replace) => Ok(true),
        ([replace], None) if is_replace(replace) => Ok(false),
        ([replace], Some(part)) if is_replace(replace) && idle(part) => Ok(false),
        ([], Some(part)) if part.kind == "Metaspace" && part.replacement.as_deref() == Some(SPACE) => {
            match part.prepend_scheme.as_deref() {
                Some("never") => Ok(false),
                Some("first") => {
                    notes.push(
                        "that only the first text gets a space: so does a text behind a special token".to_owned(),
                    );
                    Ok(true)
                }
                _ => Ok(part.add_prefix_space != Some(false)),
            }
        }
        ([], Some(part)) => Err(refused("pre_tokenizer", &part.kind)),
        ([], None) => Err(refused("normalizer", "none that writes spaces as \u{2581}")),
        ([part, ..], _) => Err(refused("normalizer", &part.kind)),
    }
}

/// WordPiece.
fn bert(
    tokenizer: &Tokenizer,
    model: &tokenizers::models::wordpiece::WordPiece,
    keys: &mut Keys<'_, '_>,
) -> Result<()> {
    let Some(normalizer) = tokenizer.parts.normalizer.as_ref().filter(|part| part.kind == "BertNormalizer") else {
        return Err(refused("normalizer", "anything but BertNormalizer for WordPiece"));
    };
    if normalizer.clean_text != Some(true) || normalizer.handle_chinese_chars != Some(true) {
        return Err(refused("normalizer", "BertNormalizer that leaves control or Chinese characters as they are"));
    }
    if tokenizer.parts.pre_tokenizer.as_ref().is_none_or(|part| part.kind != "BertPreTokenizer") {
        return Err(refused("pre_tokenizer", "anything but BertPreTokenizer for WordPiece"));
    }
    let prefix = &model.continuing_subword_prefix;
    if prefix.is_empty() {
        return Err(refused("model.continuing_subword_prefix", "none"));
    }
    let template = &tokenizer.template;
    let ([cls], [sep], false) = (template.prefix.as_slice(), template.suffix.as_slice(), template.repeats()) else {
        return Err(refused("post_processor", "anything but one token before and one after a text"));
    };
    let spelled = |text: String| match text.strip_prefix(prefix.as_str()) {
        Some(continues) => continues.to_owned(),
        None if text.starts_with('[') && text.ends_with(']') => text,
        None => format!("{SPACE}{text}"),
    };
    keys.text("model", "bert")?;
    let vocab = tokenizers::Model::get_vocab(model).into_iter().map(|(text, id)| (spelled(text), id));
    tokens(tokenizer, keys, vocab, false)?;
    keys.id("unknown_token_id", tokenizer.unknown)?;
    for name in ["bos_token_id", "cls_token_id"] {
        keys.id(name, Some(*cls))?;
    }
    keys.id("seperator_token_id", Some(*sep))?;
    let lowercase = normalizer.lowercase.unwrap_or(true);
    keys.flag("normalizer.lowercase", lowercase)?;
    keys.flag("normalizer.strip_accents", normalizer.strip_accents.unwrap_or(lowercase))
}

/// Unigram.
fn t5(tokenizer: &Tokenizer, model: &tokenizers::models::unigram::Unigram, keys: &mut Keys<'_, '_>) -> Result<()> {
    let T5Normalizer { charsmap, merges_spaces, spelled } = t5_normalizer(tokenizer.parts.normalizer.as_ref())?;
    let pre_tokenizer = tokenizer.parts.pre_tokenizer.as_ref();
    let list = pre_tokenizer.map(|part| part.pretokenizers.as_deref().unwrap_or(std::slice::from_ref(part)));
    let (splits, metaspace) = match list.unwrap_or_default() {
        [] if spelled.is_some() => (false, None),
        [metaspace] if metaspace.kind == "Metaspace" => (false, Some(metaspace)),
        [split, metaspace] if split.kind == "WhitespaceSplit" && metaspace.kind == "Metaspace" => {
            (true, Some(metaspace))
        }
        _ => return Err(refused("pre_tokenizer", "anything but WhitespaceSplit and Metaspace for Unigram")),
    };
    if metaspace.is_some_and(|part| part.replacement.as_deref() != Some(SPACE)) {
        return Err(refused("pre_tokenizer.replacement", "a character other than \u{2581}"));
    }
    let of_metaspace =
        |part: &Part| part.prepend_scheme.as_deref() != Some("never") && part.add_prefix_space != Some(false);
    let prefix = metaspace.map_or(spelled == Some(Prefix::Space), of_metaspace);
    keys.text("model", "t5")?;
    keys.text("pre", "default")?;
    let pieces: Vec<(String, f64)> = model.iter().cloned().collect();
    tokens(tokenizer, keys, pieces.iter().map(|(text, _)| text.clone()).zip(0..), model.byte_fallback())?;
    let mut scores: Vec<f32> = pieces.iter().map(|(_, score)| *score as f32).collect();
    scores.resize(keys.count, 0.0);
    keys.set("scores", GgufValue::Array(GgufArray::F32(scores)))?;
    keys.id("unknown_token_id", tokenizer.unknown)?;
    if let Some(map) = charsmap {
        keys.set("precompiled_charsmap", GgufValue::Array(GgufArray::U8(map)))?;
    }
    keys.flag("add_space_prefix", prefix)?;
    keys.flag("remove_extra_whitespaces", splits || merges_spaces)?;
    ends(tokenizer, keys)
}

/// What a text gets before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    None,
    Space,
}

/// What the normalizer of a Unigram does.
#[derive(Debug, Default)]
struct T5Normalizer {
    charsmap: Option<Vec<u8>>,
    merges_spaces: bool,
    /// If it spells spaces as `▁`: what it puts before a text.
    spelled: Option<Prefix>,
}

fn t5_normalizer(normalizer: Option<&Part>) -> Result<T5Normalizer> {
    let mut found = T5Normalizer::default();
    let Some(normalizer) = normalizer else { return Ok(found) };
    let mut prefix = Prefix::None;
    for part in normalizer.normalizers.as_deref().unwrap_or(std::slice::from_ref(normalizer)) {
        if found.spelled.is_some() {
            return Err(refused("normalizer", &part.kind));
        }
        match (part.kind.as_str(), &part.pattern) {
            ("Precompiled", _) if found.charsmap.is_none() && !found.merges_spaces => {
                found.charsmap = part.precompiled_charsmap.as_deref().and_then(charsmap::decode);
            }
            ("Replace", Some(PatternEntry::Regex(regex))) if regex == MANY_SPACES => found.merges_spaces = true,
            ("Replace", Some(PatternEntry::Regex(regex))) if regex == OUTER_SPACES => {}
            ("Replace", Some(PatternEntry::String(space)))
                if space == " " && part.content.as_deref() == Some(SPACE) =>
            {
                found.spelled = Some(prefix);
            }
            ("Prepend", _) if part.prepend.as_deref() == Some(SPACE) => prefix = Prefix::Space,
            ("Strip", _) => {}
            (kind, _) => return Err(refused("normalizer", kind)),
        }
    }
    if prefix == Prefix::Space && found.spelled.is_none() {
        return Err(refused("normalizer", "Prepend without a Replace of spaces"));
    }
    Ok(found)
}
