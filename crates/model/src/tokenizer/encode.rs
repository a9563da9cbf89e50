//! Text to ids.
//!
//! A text is divided into pieces (see [`Cut`](super::split::Cut)), a piece into words. Each word is encoded once and
//! remembered, since text repeats its words and merging takes most of the time. Everything runs on the calling thread.

use std::collections::HashMap;

use tokenizers::{OffsetReferential, OffsetType, PreTokenizer};

use super::error::TokenizerError;
use super::merges::Scratch;
use super::split::{SPACE, Splitter, each_match};
use super::table::{byte_character, character_byte};
use super::{AddedTokens, SpecialTokens, Tokenizer, TokenizerKind};

/// The most words in the cache: enough for the frequent words of any language.
const REMEMBERED_WORDS: usize = 1 << 16;
const REMEMBERED_BYTES: usize = 64;

/// Encodes many texts with one cache of words. [`Tokenizer::encoder`] makes it.
#[derive(Debug)]
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    special: SpecialTokens,
    words: WordCache,
}

/// Ids of the words seen so far.
#[derive(Debug, Default)]
struct WordCache {
    /// The range of each word in `ids`.
    stretches: HashMap<Box<str>, (u32, u32)>,
    ids: Vec<u32>,
    /// The word in the spelling of the vocabulary.
    spelled: String,
    scratch: Scratch,
}

/// The spelling of a word for the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// As in the text: its bytes must be written as characters.
    Text,
    /// As in the text, but for spaces.
    Spaced,
    /// As in the vocabulary.
    Vocabulary,
}

impl<'t> Encoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, special: SpecialTokens) -> Self {
        Self { tokenizer, special, words: WordCache::default() }
    }

    /// Appends the ids of `text` to `ids`.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownCharacter`] if the vocabulary cannot express the text; then `ids` may have got the ids
    /// of its beginning.
    pub fn encode(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut rest = text;
        while !rest.is_empty() {
            let offset = text.len() - rest.len();
            let piece = self.tokenizer.next_piece(&mut rest);
            self.encode_piece(piece, offset, ids)?;
        }
        Ok(())
    }

    /// Like [`encode`](Self::encode), but passes the ids to `sink` piece by piece, so that the ids of a corpus need not
    /// be in memory; returns their number.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and the errors of `sink`.
    pub fn encode_pieces<E: From<TokenizerError>>(
        &mut self,
        text: &str,
        mut sink: impl FnMut(&[u32]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut ids = Vec::new();
        let mut total = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let offset = text.len() - rest.len();
            let piece = self.tokenizer.next_piece(&mut rest);
            ids.clear();
            self.encode_piece(piece, offset, &mut ids)?;
            total += ids.len();
            sink(&ids)?;
        }
        Ok(total)
    }

    /// `offset` is the position of the piece in the text, for messages.
    fn encode_piece(&mut self, piece: &str, offset: usize, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let before = ids.len();
        match &self.tokenizer.splitter {
            Splitter::Characters => self.encode_characters(piece, ids),
            _ => self.encode_with_added(piece, ids),
        }
        .map_err(|error| moved(error, offset))?;
        if self.special == SpecialTokens::AsText {
            self.refuse_special(&ids[before..])?;
        }
        Ok(())
    }

    /// The added tokens that are searched in this text.
    fn added(&self) -> &'t AddedTokens {
        match self.special {
            SpecialTokens::Parse => &self.tokenizer.added,
            SpecialTokens::AsText => &self.tokenizer.added_plain,
        }
    }

    /// Encodes a piece that may have added tokens in it.
    fn encode_with_added(&mut self, piece: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let added = self.added();
        let Some(finder) = &added.finder else {
            let hidden = added.normalized && !self.keeps(piece);
            let is_plain = !hidden && !added.needles.iter().any(|needle| piece.contains(needle));
            return if is_plain { self.encode_plain(piece, true, ids) } else { self.encode_by_library(piece, ids) };
        };
        let mut done = 0;
        loop {
            let found = finder.first(&piece[done..]);
            let end = found.map_or(piece.len(), |(start, ..)| done + start);
            if end > done {
                self.encode_plain(&piece[done..end], done == 0, ids).map_err(|error| moved(error, done))?;
            }
            let Some((_, stop, id)) = found else { return Ok(()) };
            ids.push(id);
            done += stop;
        }
    }

    /// Whether the normalizer does not change a text.
    fn keeps(&self, text: &str) -> bool {
        self.tokenizer.normalizer.is_none() || (self.tokenizer.normalizer_keeps_ascii && text.is_ascii())
    }

    /// Encodes a text without added tokens; `is_first` if there is none before it either. A vocabulary to which that
    /// matters has pieces that are whole texts.
    fn encode_plain(&mut self, text: &str, is_first: bool, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let tokenizer = self.tokenizer;
        match &tokenizer.splitter {
            Splitter::Known(words) if self.keeps(text) => {
                words.each(text, |word, at| self.words.encode(tokenizer, word, at, Spelling::Text, ids))
            }
            Splitter::Matches(regex) if self.keeps(text) => {
                each_match(regex, text, |word, at| self.words.encode(tokenizer, word, at, Spelling::Text, ids))
            }
            Splitter::Spaced(spaced) => spaced.each(text, |word, at| {
                if at > 0 || !spaced.begins_with_space(text, is_first) {
                    return self.words.encode(tokenizer, word, at, Spelling::Spaced, ids);
                }
                let first = [" ", word].concat();
                self.words.encode(tokenizer, &first, at, Spelling::Spaced, ids)
            }),
            _ => self.encode_by_library(text, ids),
        }
    }

    fn encode_characters(&self, piece: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        ids.reserve(piece.len());
        let mut utf8 = [0; 4];
        for (offset, character) in piece.char_indices() {
            match self.tokenizer.model.id_of(character.encode_utf8(&mut utf8)) {
                Some(id) => ids.push(id),
                None => return Err(TokenizerError::UnknownCharacter { character, offset }),
            }
        }
        Ok(())
    }

    fn encode_by_library(&mut self, piece: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let tokenizer = self.tokenizer;
        let mut text = self.added().vocabulary.extract_and_normalize(tokenizer.normalizer.as_ref(), piece);
        let spelling = match &tokenizer.splitter {
            Splitter::Known(_) | Splitter::Matches(_) => Spelling::Text,
            _ => Spelling::Vocabulary,
        };
        if let (Some(pre_tokenizer), Spelling::Vocabulary) = (&tokenizer.pre_tokenizer, spelling) {
            pre_tokenizer.pre_tokenize(&mut text).map_err(TokenizerError::library("pre_tokenizer"))?;
        }
        for (part, (start, _), tokens) in text.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            let result = match (tokens, &tokenizer.splitter) {
                (Some(tokens), _) => {
                    ids.extend(tokens.iter().map(|token| token.id));
                    Ok(())
                }
                (None, Splitter::Known(words)) => {
                    words.each(part, |word, at| self.words.encode(tokenizer, word, at, spelling, ids))
                }
                (None, Splitter::Matches(regex)) => {
                    each_match(regex, part, |word, at| self.words.encode(tokenizer, word, at, spelling, ids))
                }
                (None, _) => self.words.encode(tokenizer, part, 0, spelling, ids),
            };
            result.map_err(|error| moved(error, start))?;
        }
        Ok(())
    }

    /// Refuses special tokens: merges of a vocabulary could make one from plain text.
    fn refuse_special(&self, ids: &[u32]) -> Result<(), TokenizerError> {
        let tokenizer = self.tokenizer;
        match ids.iter().find(|id| tokenizer.is_special(**id) && Some(**id) != tokenizer.unknown) {
            None => Ok(()),
            Some(&id) => Err(TokenizerError::SpecialInText {
                token: String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned(),
            }),
        }
    }
}

impl WordCache {
    fn encode(
        &mut self,
        tokenizer: &Tokenizer,
        word: &str,
        offset: usize,
        spelling: Spelling,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        if let Some(&(start, end)) = self.stretches.get(word) {
            ids.extend_from_slice(&self.ids[start as usize..end as usize]);
            return Ok(());
        }
        let before = ids.len();
        self.spelled.clear();
        match spelling {
            Spelling::Text => self.spelled.extend(word.bytes().map(byte_character)),
            Spelling::Spaced => self.spelled.extend(word.chars().map(|c| if c == ' ' { SPACE } else { c })),
            Spelling::Vocabulary => self.spelled.push_str(word),
        }
        if !tokenizer.model.encode(&self.spelled, &mut self.scratch, ids)? {
            ids.truncate(before);
            return Err(unknown(tokenizer, word, &self.spelled, offset, spelling));
        }
        if word.len() <= REMEMBERED_BYTES && self.stretches.len() < REMEMBERED_WORDS {
            let start = self.ids.len() as u32;
            self.ids.extend_from_slice(&ids[before..]);
            self.stretches.insert(word.into(), (start, self.ids.len() as u32));
        }
        Ok(())
    }
}

/// Names the first character of a word that the vocabulary cannot express.
fn unknown(tokenizer: &Tokenizer, word: &str, spelled: &str, offset: usize, spelling: Spelling) -> TokenizerError {
    let missing = |character: char| tokenizer.model.id_of(character.encode_utf8(&mut [0; 4])).is_none();
    let index = spelled.chars().position(missing).unwrap_or(0);
    match spelling {
        // One spelled character for each byte of the word.
        Spelling::Text => {
            let start = (0..=index).rev().find(|at| word.is_char_boundary(*at)).unwrap_or(0);
            let character = word[start..].chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
            TokenizerError::UnknownCharacter { character, offset: offset + start }
        }
        // The library has rewritten the text, so only the position of the word is known.
        Spelling::Spaced | Spelling::Vocabulary => {
            let spelled = spelled.chars().nth(index).unwrap_or(char::REPLACEMENT_CHARACTER);
            let byte =
                character_byte(spelled).filter(|byte| tokenizer.kind == TokenizerKind::ByteLevelBpe && byte.is_ascii());
            TokenizerError::UnknownCharacter { character: byte.map_or(spelled, char::from), offset }
        }
    }
}

/// The error with its position in a part of a text changed to the position in the text.
fn moved(error: TokenizerError, by: usize) -> TokenizerError {
    match error {
        TokenizerError::UnknownCharacter { character, offset } => {
            TokenizerError::UnknownCharacter { character, offset: offset + by }
        }
        other => other,
    }
}
