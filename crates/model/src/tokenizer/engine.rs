//! The model that turns a word into ids: our merges for byte-pair encoding, the tokenizers library for the others.

use serde::ser::{Serialize, Serializer};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{Model, ModelWrapper};

use super::error::TokenizerError;
use super::merges::{Merges, Scratch};
use super::model_entry::{BpeEntry, ModelEntry};

/// A model, ready to be applied.
#[derive(Debug)]
pub(super) enum Engine {
    Merges(Box<Merges>),
    Library(Box<ModelWrapper>),
}

impl Engine {
    /// The engine of a checked model. `scores`, by id, replace the ranks of merges.
    pub fn new(entry: ModelEntry, scores: Option<Vec<f32>>) -> Result<Self, TokenizerError> {
        let refused = TokenizerError::library("model");
        let model: ModelWrapper = match entry {
            ModelEntry::Bpe(entry)
                if entry.continuing_subword_prefix.as_deref().unwrap_or_default().is_empty()
                    && entry.end_of_word_suffix.as_deref().unwrap_or_default().is_empty() =>
            {
                return Ok(Self::Merges(Box::new(Merges::new(entry, scores))));
            }
            ModelEntry::Bpe(entry) => affixed(entry)?.into(),
            ModelEntry::Unigram(entry) => {
                let unknown = entry.unk_id.map(|id| id as usize);
                let mut model = Unigram::from(entry.pieces, unknown, entry.byte_fallback).map_err(refused)?;
                // The cache of the library would never be freed.
                model.resize_cache(0);
                model.into()
            }
            ModelEntry::WordPiece(entry) => WordPiece::builder()
                .vocab(entry.vocab)
                .unk_token(entry.unk_token)
                .continuing_subword_prefix(entry.continuing_subword_prefix)
                .max_input_chars_per_word(entry.max_input_chars_per_word as usize)
                .build()
                .map_err(refused)?
                .into(),
            ModelEntry::WordLevel(entry) => WordLevel::builder()
                .vocab(entry.vocab.into())
                .unk_token(entry.unk_token)
                .build()
                .map_err(refused)?
                .into(),
        };
        Ok(Self::Library(Box::new(model)))
    }

    /// The id of a token.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        match self {
            Self::Merges(merges) => merges.id_of(token),
            Self::Library(model) => model.token_to_id(token),
        }
    }

    /// Appends the ids of a word; false if the vocabulary cannot express it.
    pub fn encode(&self, word: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) -> Result<bool, TokenizerError> {
        let model = match self {
            Self::Merges(merges) => return Ok(merges.encode(word, scratch, ids)),
            Self::Library(model) => model,
        };
        let tokens = match model.tokenize(word) {
            Ok(tokens) => tokens,
            // Without an unknown token.
            Err(_) if matches!(**model, ModelWrapper::Unigram(_)) => return Ok(false),
            Err(error) => return Err(TokenizerError::library("model")(error)),
        };
        // The library silently leaves out characters that the vocabulary lacks.
        let whole = tokens.last().map_or(0, |token| token.offsets.1) >= word.len();
        ids.extend(tokens.iter().map(|token| token.id));
        Ok(whole)
    }
}

/// A model of the library with prefix or suffix.
fn affixed(entry: BpeEntry) -> Result<BPE, TokenizerError> {
    let merges = entry.merges.iter().map(|(left, right)| (left.to_owned(), right.to_owned())).collect::<Vec<_>>();
    let mut builder = BPE::builder()
        .vocab_and_merges(entry.vocab, merges)
        .cache_capacity(0)
        .fuse_unk(entry.fuse_unk)
        .byte_fallback(entry.byte_fallback)
        .ignore_merges(entry.ignore_merges);
    if let Some(unknown) = entry.unk_token {
        builder = builder.unk_token(unknown);
    }
    if let Some(prefix) = entry.continuing_subword_prefix.filter(|prefix| !prefix.is_empty()) {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = entry.end_of_word_suffix.filter(|suffix| !suffix.is_empty()) {
        builder = builder.end_of_word_suffix(suffix);
    }
    builder.build().map_err(TokenizerError::library("model"))
}

impl Serialize for Engine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Merges(merges) => merges.serialize(serializer),
            Self::Library(model) => model.serialize(serializer),
        }
    }
}
