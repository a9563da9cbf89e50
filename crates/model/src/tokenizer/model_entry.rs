//! The `model` of a `tokenizer.json`: one of the four kinds that Hugging Face's tokenizers write.
//!
//! The visitor takes the keys of all kinds, since `type` need not come first; then the kind decides which of them may
//! be there. Unknown keys, keys of another kind, and keys given twice are refused.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use ahash::RandomState;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::file::{Capped, MAX_TOKENS, named, once};

/// The most merges; the largest vocabularies have 514,906.
const MAX_MERGES: usize = 5 << 17;
/// The longest word that WordPiece divides, in characters, unless the file says otherwise.
const WORD_PIECE_CHARS: u64 = 100;

/// The ids of tokens. It is looked up once or more for every merge of a file, where the standard library's hasher takes
/// most of the time; this one is seeded as well, so that no file can choose tokens that collide.
pub(super) type Vocab = HashMap<String, u32, RandomState>;

/// The `model` of a file.
#[derive(Debug, Clone)]
pub(super) enum ModelEntry {
    Bpe(BpeEntry),
    Unigram(UnigramEntry),
    WordPiece(WordPieceEntry),
    WordLevel(WordLevelEntry),
}

/// Merges of pairs of tokens (Sennrich et al., 2016).
#[derive(Debug, Clone, Default)]
pub(super) struct BpeEntry {
    pub dropout: Option<f64>,
    pub unk_token: Option<String>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
    pub vocab: Vocab,
    pub merges: MergeList,
}

/// Pairs of tokens, the first to apply first.
#[derive(Debug, Clone, Default)]
pub(super) struct MergeList {
    /// All tokens, end to end: there are millions of them in the file of a large vocabulary.
    text: String,
    /// Where the left and the right token of each pair end in the text.
    ends: Vec<(u32, u32)>,
}

impl MergeList {
    pub fn push(&mut self, left: &str, right: &str) {
        self.text.push_str(left);
        // No file that is read has 2^32 bytes.
        let middle = self.text.len() as u32;
        self.text.push_str(right);
        self.ends.push((middle, self.text.len() as u32));
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        let part = |from: u32, to: u32| &self.text[from as usize..to as usize];
        starts.zip(&self.ends).map(move |(start, &(middle, end))| (part(start, middle), part(middle, end)))
    }
}

impl Extend<MergeEntry> for MergeList {
    fn extend<I: IntoIterator<Item = MergeEntry>>(&mut self, merges: I) {
        for MergeEntry { text, middle } in merges {
            let (left, right) = text.split_at(middle);
            self.push(left, right);
        }
    }
}

/// Pieces with their log probabilities; the most probable division of a text is taken (Kudo, 2018).
#[derive(Debug, Clone, Default)]
pub(super) struct UnigramEntry {
    /// Piece and score of each id.
    pub pieces: Vec<(String, f64)>,
    /// The ids of the pieces.
    pub ids: Vocab,
    pub unk_id: Option<u32>,
    pub byte_fallback: bool,
}

/// The longest piece first, from the left (Devlin et al., 2018).
#[derive(Debug, Clone, Default)]
pub(super) struct WordPieceEntry {
    pub unk_token: String,
    pub continuing_subword_prefix: String,
    pub max_input_chars_per_word: u64,
    pub vocab: Vocab,
}

/// A token for each word.
#[derive(Debug, Clone, Default)]
pub(super) struct WordLevelEntry {
    pub unk_token: String,
    pub vocab: Vocab,
}

impl ModelEntry {
    /// The entry if it is of the kind BPE.
    pub fn bpe(&self) -> Option<&BpeEntry> {
        match self {
            Self::Bpe(entry) => Some(entry),
            _ => None,
        }
    }

    /// The ids of the tokens.
    pub fn ids(&self) -> &Vocab {
        match self {
            Self::Bpe(entry) => &entry.vocab,
            Self::Unigram(entry) => &entry.ids,
            Self::WordPiece(entry) => &entry.vocab,
            Self::WordLevel(entry) => &entry.vocab,
        }
    }

    /// The token for what the vocabulary cannot express, by its text.
    pub fn unknown(&self) -> Option<&str> {
        match self {
            Self::Bpe(entry) => entry.unk_token.as_deref(),
            Self::Unigram(entry) => {
                entry.unk_id.and_then(|id| entry.pieces.get(id as usize)).map(|(piece, _)| piece.as_str())
            }
            Self::WordPiece(entry) => Some(&entry.unk_token),
            Self::WordLevel(entry) => Some(&entry.unk_token),
        }
    }
}

impl UnigramEntry {
    /// From pieces, each of which appears once; gives the first that appears twice.
    pub fn new(pieces: Vec<(String, f64)>, unk_id: Option<u32>, byte_fallback: bool) -> Result<Self, String> {
        let mut ids = Vocab::with_capacity_and_hasher(pieces.len(), Default::default());
        for ((piece, _), id) in pieces.iter().zip(0..) {
            if ids.insert(piece.clone(), id).is_some() {
                return Err(piece.clone());
            }
        }
        Ok(Self { pieces, ids, unk_id, byte_fallback })
    }
}

impl<'de> Deserialize<'de> for ModelEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ModelVisitor)
    }
}

struct ModelVisitor;

/// The keys of a model of any kind.
#[derive(Default)]
struct Keys {
    kind: Option<Option<String>>,
    dropout: Option<Option<f64>>,
    unk_token: Option<Option<String>>,
    prefix: Option<Option<String>>,
    suffix: Option<Option<String>>,
    fuse_unk: Option<Option<bool>>,
    byte_fallback: Option<Option<bool>>,
    ignore_merges: Option<Option<bool>>,
    unk_id: Option<Option<u32>>,
    max_chars: Option<u64>,
    vocab: Option<VocabEntry>,
    merges: Option<Capped<MergeEntry, MAX_MERGES, MergeList>>,
}

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = ModelEntry;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with the keys type, vocab and so on")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut keys = Keys::default();
        let mut given = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => once(&mut map, &key, &mut keys.kind)?,
                "dropout" => once(&mut map, &key, &mut keys.dropout)?,
                "unk_token" => once(&mut map, &key, &mut keys.unk_token)?,
                "continuing_subword_prefix" => once(&mut map, &key, &mut keys.prefix)?,
                "end_of_word_suffix" => once(&mut map, &key, &mut keys.suffix)?,
                "fuse_unk" => once(&mut map, &key, &mut keys.fuse_unk)?,
                "byte_fallback" => once(&mut map, &key, &mut keys.byte_fallback)?,
                "ignore_merges" => once(&mut map, &key, &mut keys.ignore_merges)?,
                "unk_id" => once(&mut map, &key, &mut keys.unk_id)?,
                "max_input_chars_per_word" => once(&mut map, &key, &mut keys.max_chars)?,
                "vocab" => once(&mut map, &key, &mut keys.vocab)?,
                "merges" => once(&mut map, &key, &mut keys.merges)?,
                _ => {
                    named(&key, map.next_value::<IgnoredAny>())?;
                }
            }
            if given.len() < 16 {
                given.push(key);
            }
        }
        keys.entry(&given)
    }
}

impl Keys {
    /// The model of the kind that `type` says; without it a list of pieces is Unigram, anything else BPE.
    fn entry<E: serde::de::Error>(self, given: &[String]) -> Result<ModelEntry, E> {
        let is_list = matches!(self.vocab, Some(VocabEntry::List(_)));
        let kind = match &self.kind {
            Some(Some(kind)) => kind.as_str(),
            _ if is_list => "Unigram",
            _ => "BPE",
        };
        let known: &[&str] = match kind {
            "BPE" => &[
                "dropout",
                "unk_token",
                "continuing_subword_prefix",
                "end_of_word_suffix",
                "fuse_unk",
                "byte_fallback",
                "ignore_merges",
                "vocab",
                "merges",
            ],
            "Unigram" => &["unk_id", "vocab", "byte_fallback"],
            "WordPiece" => &["unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"],
            "WordLevel" => &["unk_token", "vocab"],
            other => {
                return Err(E::custom(format_args!(
                    "type: {other:?} is not supported (supported: BPE, Unigram, WordPiece, WordLevel)"
                )));
            }
        };
        if let Some(key) = given.iter().find(|key| *key != "type" && !known.contains(&key.as_str())) {
            return Err(E::custom(format_args!("{key}: there is no such key in a model of type {kind}")));
        }
        match kind {
            "Unigram" => self.unigram(),
            "WordPiece" => self.word_piece(),
            "WordLevel" => self.word_level(),
            _ => self.bpe(),
        }
    }

    fn bpe<E: serde::de::Error>(self) -> Result<ModelEntry, E> {
        Ok(ModelEntry::Bpe(BpeEntry {
            dropout: self.dropout.flatten(),
            unk_token: self.unk_token.flatten(),
            continuing_subword_prefix: self.prefix.flatten(),
            end_of_word_suffix: self.suffix.flatten(),
            fuse_unk: self.fuse_unk.flatten().unwrap_or(false),
            byte_fallback: self.byte_fallback.flatten().unwrap_or(false),
            ignore_merges: self.ignore_merges.flatten().unwrap_or(false),
            vocab: map(self.vocab)?,
            merges: self.merges.ok_or_else(|| missing("merges"))?.0,
        }))
    }

    fn unigram<E: serde::de::Error>(self) -> Result<ModelEntry, E> {
        let pieces = match self.vocab.ok_or_else(|| missing("vocab"))? {
            VocabEntry::List(pieces) => pieces,
            VocabEntry::Map(_) => return Err(E::custom("vocab: a list of pieces with their scores is expected")),
        };
        UnigramEntry::new(pieces, self.unk_id.flatten(), self.byte_fallback.flatten().unwrap_or(false))
            .map(ModelEntry::Unigram)
            .map_err(|piece| E::custom(format_args!("vocab: [{piece:?}]: the piece appears twice")))
    }

    fn word_piece<E: serde::de::Error>(self) -> Result<ModelEntry, E> {
        Ok(ModelEntry::WordPiece(WordPieceEntry {
            unk_token: self.unk_token.flatten().ok_or_else(|| missing("unk_token"))?,
            continuing_subword_prefix: self.prefix.flatten().ok_or_else(|| missing("continuing_subword_prefix"))?,
            max_input_chars_per_word: self.max_chars.unwrap_or(WORD_PIECE_CHARS),
            vocab: map(self.vocab)?,
        }))
    }

    fn word_level<E: serde::de::Error>(self) -> Result<ModelEntry, E> {
        let unk_token = self.unk_token.flatten().ok_or_else(|| missing("unk_token"))?;
        Ok(ModelEntry::WordLevel(WordLevelEntry { unk_token, vocab: map(self.vocab)? }))
    }
}

fn missing<E: serde::de::Error>(key: &str) -> E {
    E::custom(format_args!("{key}: the key is missing"))
}

fn map<E: serde::de::Error>(vocab: Option<VocabEntry>) -> Result<Vocab, E> {
    match vocab.ok_or_else(|| missing("vocab"))? {
        VocabEntry::Map(vocab) => Ok(vocab),
        VocabEntry::List(_) => Err(E::custom("vocab: an object that gives every token its id is expected")),
    }
}

/// A map from token to id without duplicate tokens, or a list of pieces with their scores.
enum VocabEntry {
    Map(Vocab),
    List(Vec<(String, f64)>),
}

impl<'de> Deserialize<'de> for VocabEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabVisitor;
        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = VocabEntry;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object that gives every token its id, or a list of pieces with their scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabEntry, A::Error> {
                let mut vocab = Vocab::default();
                while let Some(token) = map.next_key::<String>()? {
                    let id = named(format_args!("[{token:?}]"), map.next_value::<u64>())?;
                    if id > i32::MAX as u64 {
                        return Err(A::Error::custom(format_args!("[{token:?}]: the id {id} is not below 2^31")));
                    }
                    if vocab.len() == MAX_TOKENS {
                        return Err(A::Error::custom(format_args!("more than {MAX_TOKENS} tokens")));
                    }
                    match vocab.entry(token) {
                        Entry::Vacant(place) => place.insert(id as u32),
                        Entry::Occupied(place) => {
                            let token = place.key();
                            return Err(A::Error::custom(format_args!("[{token:?}]: the token appears twice")));
                        }
                    };
                }
                Ok(VocabEntry::Map(vocab))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<VocabEntry, A::Error> {
                let mut pieces = Vec::new();
                while let Some(piece) = named(format_args!("[{}]", pieces.len()), list.next_element::<(String, f64)>())?
                {
                    if pieces.len() == MAX_TOKENS {
                        return Err(A::Error::custom(format_args!("more than {MAX_TOKENS} pieces")));
                    }
                    pieces.push(piece);
                }
                Ok(VocabEntry::List(pieces))
            }
        }
        deserializer.deserialize_any(VocabVisitor)
    }
}

/// A merge: `["a", "b"]`, or `"a b"` in older files.
pub(super) struct MergeEntry {
    /// Both tokens, end to end.
    text: String,
    /// Where the right token begins.
    middle: usize,
}

impl<'de> Deserialize<'de> for MergeEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = MergeEntry;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("two tokens, as a list of two strings or as one string with a space between them")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MergeEntry, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => {
                        Ok(MergeEntry { text: [left, right].concat(), middle: left.len() })
                    }
                    _ => Err(E::custom(format_args!("{text:?} is not two tokens with a space between them"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<MergeEntry, A::Error> {
                let mut text: String = list.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let middle = text.len();
                let right: String = list.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
                text.push_str(&right);
                match list.next_element::<IgnoredAny>()? {
                    None => Ok(MergeEntry { text, middle }),
                    Some(_) => Err(A::Error::invalid_length(3, &self)),
                }
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}
