//! Text to token ids and back.
//!
//! A [`Tokenizer`] is made from a text ([`Tokenizer::characters`], [`Tokenizer::train_bpe`]), from a `tokenizer.json`
//! of Hugging Face's tokenizers, or from a GGUF file ([`Tokenizer::from_gguf`]), and can be written as either:
//!
//! ```
//! use smallmind_model::tokenizer::{BpeTraining, SpecialTokens, SpecialText, Tokenizer};
//!
//! let stories = ["A hen sat on the hill.", "The hen saw the sea."];
//! let tokenizer = Tokenizer::train_bpe(stories, &BpeTraining { vocab_size: 270, ..BpeTraining::default() })?;
//! let ids = tokenizer.encode("The hen.<|endoftext|>", SpecialTokens::Parse)?;
//! assert_eq!(ids.last().copied(), tokenizer.eos());
//! assert_eq!(tokenizer.decode(&ids, SpecialText::Skip)?, "The hen.");
//! # Ok::<(), smallmind_model::tokenizer::TokenizerError>(())
//! ```
//!
//! There are two engines. Ours merges pairs (BPE) and finds the words of the most common pre-tokenizers; the crate
//! `tokenizers` does everything else that a file may ask for: Unigram, WordPiece, normalizers, other pre-tokenizers.
//! Ids and texts are the same as with that crate alone. Our own code also checks the file (so that no file causes a panic,
//! and no part of a text is silently left out), knows the exact bytes of every token, divides long texts, and trains
//! vocabularies, which depend only on the texts. No thread is started.
//!
//! Not here: chat templates. Which tokens end a text is said by a model's own configuration, and by [`Tokenizer::ends`]
//! where that leaves some out.

mod charsmap;
mod check;
mod encode;
mod ends;
mod engine;
mod error;
mod file;
mod finder;
mod gguf;
mod merges;
mod model_entry;
mod pattern;
mod properties;
mod section_limits;
mod split;
mod table;
mod template;
mod train;
mod words;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use smallmind_checkpoint::{CheckpointError, GgufFile, json_problem, write_file_atomic};
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::{AddedToken, AddedVocabulary, Decoder, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper};

pub use encode::Encoder;
pub use error::TokenizerError;
pub use file::{MAX_FILE_BYTES, MAX_TOKENS};
pub use train::{BpeTraining, END_OF_TEXT};

use check::TokenEntry;
use engine::Engine;
use error::clipped;
use file::{AddedEntry, Part, PatternEntry, TokenizerFile};
use finder::Finder;
use model_entry::{BpeEntry, ModelEntry};
use split::{Cut, Splitter};
use table::{Decoding, TokenTable};
use template::Template;

/// Names of the token that ends a text, the most specific first.
const END_NAMES: [&str; 5] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"];
/// Names of the token that begins a text.
const BEGIN_NAMES: [&str; 5] = ["<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>", END_OF_TEXT];

/// The most keys that are named among those that are not applied for one reason.
const MAX_NAMED_KEYS: usize = 16;

/// The first bytes of a GGUF file.
const GGUF_MAGIC: &[u8] = b"GGUF";

/// How names of special tokens in a text are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// As special tokens: for trusted text, such as corpora and filled-in templates.
    Parse,
    /// As plain characters: for text from outside, which must not act as part of a template.
    AsText,
}

/// How special tokens are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// They are left out.
    Skip,
    /// They are written by name.
    Show,
}

/// How a vocabulary spells text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerKind {
    /// One token per character.
    Characters,
    /// Merged bytes, as in GPT-2.
    ByteLevelBpe,
    /// Merged characters, as in SentencePiece's vocabularies, often with tokens for single bytes.
    CharacterBpe,
    /// The most probable pieces, as in T5.
    Unigram,
    /// The longest pieces first, as in BERT.
    WordPiece,
    /// One token per word.
    Words,
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Characters => "characters",
            Self::ByteLevelBpe => "byte-level BPE",
            Self::CharacterBpe => "character BPE",
            Self::Unigram => "Unigram",
            Self::WordPiece => "WordPiece",
            Self::Words => "words",
        })
    }
}

/// A vocabulary and the rules that apply it.
pub struct Tokenizer {
    kind: TokenizerKind,
    model: Engine,
    normalizer: Option<NormalizerWrapper>,
    /// Whether the normalizer leaves ASCII unchanged, as Unicode forms do.
    normalizer_keeps_ascii: bool,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    /// All added tokens, and those that are not special.
    added: AddedTokens,
    added_plain: AddedTokens,
    splitter: Splitter,
    cut: Cut,
    table: TokenTable,
    /// Decodes whole texts, where the text of a token depends on its place.
    decoder: Option<PlacedDecoder>,
    leading_space: bool,
    unknown: Option<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: Vec<u32>,
    template: Template,
    /// The file without its model, for saving.
    parts: TokenizerFile<()>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Tokenizer").field("kind", &self.kind).field("vocab_size", &self.vocab_size()).finish()
    }
}

/// A description such as `byte-level BPE, 4096 tokens`.
impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}, {} tokens", self.kind, self.vocab_size())
    }
}

/// Making, reading and writing.
impl Tokenizer {
    /// One token for each character that occurs in `text`, numbered in the order of their code points.
    ///
    /// # Errors
    /// [`TokenizerError::EmptyText`].
    pub fn characters(text: &str) -> Result<Self, TokenizerError> {
        let characters: std::collections::BTreeSet<char> = text.chars().collect();
        if characters.is_empty() {
            return Err(TokenizerError::EmptyText);
        }
        let vocab = characters.into_iter().map(String::from).zip(0..).collect();
        let model = ModelEntry::Bpe(BpeEntry { vocab, ..BpeEntry::default() });
        Self::assemble(TokenizerFile { decoder: Some(Part::new("Fuse")), ..TokenizerFile::new(model) }, None)
    }

    /// A byte-level vocabulary learned from texts: every text can be expressed in it, and the frequent words of these
    /// texts are single tokens. Id 0 is [`END_OF_TEXT`], which also separates documents inside a text.
    ///
    /// # Errors
    /// [`TokenizerError::VocabularySize`].
    pub fn train_bpe<S: AsRef<str>>(
        texts: impl IntoIterator<Item = S>,
        training: &BpeTraining,
    ) -> Result<Self, TokenizerError> {
        Self::assemble(train::train(texts, training)?, None)
    }

    /// Reads a `tokenizer.json`, or the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// [`TokenizerError::Read`] if the file cannot be read; [`TokenizerError::InFile`] with the error of
    /// [`from_bytes`](Self::from_bytes) or [`from_gguf`](Self::from_gguf).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let unreadable = |source| TokenizerError::Read { path: path.to_owned(), source };
        let in_file = |source| match source {
            // It names the file already.
            TokenizerError::Checkpoint(_) => source,
            source => TokenizerError::InFile { path: path.to_owned(), source: Box::new(source) },
        };
        // Checked before it is opened, as opening a pipe would wait.
        let kind = path.metadata().map_err(unreadable)?;
        if !kind.is_file() && !kind.is_dir() {
            return Err(unreadable(std::io::Error::other("not a file")));
        }
        let mut file = File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        (&mut file).take(GGUF_MAGIC.len() as u64).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes == GGUF_MAGIC {
            return Self::from_gguf(GgufFile::open(path)?.metadata()).map_err(in_file);
        }
        // One byte over the limit is enough to know that the file is too large.
        file.take(MAX_FILE_BYTES + 1 - bytes.len() as u64).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::from_bytes(&bytes).map_err(in_file)
    }

    /// Reads the text of a `tokenizer.json`. Its `truncation` and `padding` are not applied, see
    /// [`not_applied`](Self::not_applied).
    ///
    /// # Errors
    /// [`TokenizerError::TooLarge`] beyond [`MAX_FILE_BYTES`], [`TokenizerError::Json`] for other content,
    /// [`TokenizerError::Field`] for contradictions and for more parts than any real file has,
    /// [`TokenizerError::Unsupported`] for kinds of vocabularies that are not for language models of the GPT and LLaMA
    /// families.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        Self::assemble(TokenizerFile::parse(bytes)?, None)
    }

    /// The settings of the file that are not applied, in words: `truncation` and `padding` that are not null, which
    /// shorten and fill up the texts of a batch; keys of a GGUF file that are not known, or that other kinds of
    /// vocabularies have. [`to_json`](Self::to_json) leaves them out.
    pub fn not_applied(&self) -> Option<String> {
        let entries = &self.parts.not_applied;
        // Entries with one reason stand together.
        let clauses: Vec<String> = entries
            .chunk_by(|one, next| one.why == next.why)
            .map(|entries| {
                let named =
                    entries.iter().take(MAX_NAMED_KEYS).map(|entry| format!("`{}`", clipped(entry.key.clone())));
                let more = entries.len().checked_sub(MAX_NAMED_KEYS).filter(|more| *more > 0);
                let keys: Vec<String> = named.chain(more.map(|more| format!("{more} more keys"))).collect();
                let verb = if entries.len() == 1 { "is" } else { "are" };
                format!("{} {verb} not applied: {}", keys.join(" and "), entries[0].why)
            })
            .collect();
        (!clauses.is_empty()).then(|| clauses.join("; "))
    }

    /// The text of a `tokenizer.json` that any reader of the format understands. The same vocabulary gives the same
    /// text.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] if the model cannot be written.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        let TokenizerFile { normalizer, pre_tokenizer, post_processor, decoder, .. } = self.parts.clone();
        let file = TokenizerFile {
            added_tokens: self.parts.added_tokens.clone(),
            normalizer,
            pre_tokenizer,
            post_processor,
            decoder,
            ..TokenizerFile::new(&self.model)
        };
        serde_json::to_string_pretty(&file).map_err(|error| TokenizerError::library("model")(error.into()))
    }

    /// Writes [`to_json`](Self::to_json) to a file, which replaces an earlier one when it is complete.
    ///
    /// # Errors
    /// [`TokenizerError::Write`]; an earlier file is unchanged.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), TokenizerError> {
        let path = path.as_ref();
        let json = self.to_json()?;
        write_file_atomic(path, |out| out.write_all(json.as_bytes())).map_err(|error| {
            let source = match error {
                CheckpointError::Io { source, .. } => source,
                other => std::io::Error::other(other),
            };
            TokenizerError::Write { path: path.to_owned(), source }
        })
    }

    /// Checks a file and prepares everything for applying it. `scores`, by id, replace the ranks of merges.
    fn assemble(file: TokenizerFile<ModelEntry>, scores: Option<Vec<f32>>) -> Result<Self, TokenizerError> {
        let tokens = check::check(&file)?;
        let splitter = Splitter::new(&file)?;
        let cut = Cut::new(&file);
        let decoding = Decoding::new(file.decoder.as_ref())?;
        let kind = match (&file.model, &splitter) {
            (ModelEntry::Unigram(_), _) => TokenizerKind::Unigram,
            (ModelEntry::WordPiece(_), _) => TokenizerKind::WordPiece,
            (ModelEntry::WordLevel(_), _) => TokenizerKind::Words,
            (ModelEntry::Bpe(_), Splitter::Characters) => TokenizerKind::Characters,
            (ModelEntry::Bpe(_), _) if decoding.byte_level => TokenizerKind::ByteLevelBpe,
            (ModelEntry::Bpe(_), _) => TokenizerKind::CharacterBpe,
        };
        let normalizer = file.normalizer.clone().map(translated).transpose()?;
        let normalizer: Option<NormalizerWrapper> = library_part("normalizer", normalizer.as_ref())?;
        let decoder = file.decoder.clone().filter(|_| decoding.by_library).map(translated).transpose()?;
        let decoder: Option<DecoderWrapper> = library_part("decoder", decoder.as_ref())?;
        let pre_tokenizer = file.pre_tokenizer.clone().map(translated).transpose()?;
        let pre_tokenizer = library_part("pre_tokenizer", pre_tokenizer.as_ref())?;
        let ids = declared_ids(&tokens)?;
        let added = AddedTokens::new(file.added_tokens.iter(), &ids, normalizer.as_ref())?;
        let plain = file.added_tokens.iter().filter(|token| !token.special);
        let added_plain = AddedTokens::new(plain, &ids, normalizer.as_ref())?;
        let table = TokenTable::new(&tokens, &decoding, |id| added.vocabulary.simple_id_to_token(id))?;
        let decoder = decoder.map(|decoder| PlacedDecoder::new(decoder, &tokens, &added));
        let template = Template::new(file.post_processor.as_ref(), table.len())?;
        let special = |name: &&str| file.added_tokens.iter().find(|token| token.special && token.content == *name);
        let named = |names: &[&str]| names.iter().find_map(special).map(|token| token.id);
        let ends = ends::of_entries(&file.added_tokens, |_| Ok(None))?;
        let unknown = file.model.unknown().and_then(|unknown| file.model.ids().get(unknown)).copied();
        let normalizer_keeps_ascii =
            file.normalizer.as_ref().is_some_and(|part| matches!(part.kind.as_str(), "NFC" | "NFD" | "NFKC" | "NFKD"));
        Ok(Self {
            kind,
            normalizer,
            normalizer_keeps_ascii,
            pre_tokenizer,
            added,
            added_plain,
            splitter,
            cut,
            table,
            decoder,
            leading_space: decoding.leading_space,
            unknown,
            bos: template.prefix.first().copied().or_else(|| named(&BEGIN_NAMES)),
            eos: named(&END_NAMES),
            ends,
            template,
            parts: TokenizerFile {
                not_applied: file.not_applied,
                added_tokens: file.added_tokens,
                normalizer: file.normalizer,
                pre_tokenizer: file.pre_tokenizer,
                post_processor: file.post_processor,
                decoder: file.decoder,
                ..TokenizerFile::new(())
            },
            model: Engine::new(file.model, scores)?,
        })
    }
}

/// Encoding and decoding.
impl Tokenizer {
    /// The ids of a text, without tokens around it; see [`completed`](Self::completed) and [`prompt`](Self::prompt).
    ///
    /// # Errors
    /// [`TokenizerError::UnknownCharacter`] if the vocabulary cannot express the text;
    /// [`TokenizerError::SpecialInText`] if plain text would become a special token.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        self.encoder(special).encode(text, &mut ids)?;
        Ok(ids)
    }

    /// An encoder for many texts, which remembers the words that it has seen.
    pub fn encoder(&self, special: SpecialTokens) -> Encoder<'_> {
        Encoder::new(self, special)
    }

    /// The text of ids. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] names the first id without a token.
    pub fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        let mut texts = Vec::new();
        for (index, &id) in ids.iter().enumerate() {
            let token = self.visible_bytes(id, special);
            let unknown = || TokenizerError::UnknownId { index, id, vocabulary: self.vocab_size() };
            bytes.extend_from_slice(token.ok_or_else(unknown)?);
            if let Some(decoder) =
                self.decoder.as_ref().filter(|_| special == SpecialText::Show || !self.is_special(id))
            {
                texts.extend(decoder.texts.get(id as usize).cloned());
            }
        }
        // The library's decoder for BPE fails on no token at all.
        if let Some(decoder) = self.decoder.as_ref().filter(|_| !texts.is_empty()) {
            return decoder.part.decode(texts).map_err(TokenizerError::library("decoder"));
        }
        let text = String::from_utf8_lossy(&bytes);
        let text = if self.leading_space { text.strip_prefix(' ').unwrap_or(&text) } else { &text };
        Ok(text.to_owned())
    }

    /// The exact bytes of a token in the middle of a text; `None` for an id without a token. These need not be whole
    /// characters; [`TextStream`](crate::stream::TextStream) puts them together.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.table.bytes(id)
    }

    /// [`token_bytes`](Self::token_bytes), empty for special tokens if they are left out.
    pub fn visible_bytes(&self, id: u32, special: SpecialText) -> Option<&[u8]> {
        let bytes = self.table.bytes(id)?;
        Some(if special == SpecialText::Skip && self.is_special(id) { &[] } else { bytes })
    }

    /// Removes the next piece that is encoded by itself from the front of `text`.
    fn next_piece<'t>(&self, text: &mut &'t str) -> &'t str {
        self.cut.next_piece(text, self.normalizer_keeps_ascii)
    }

    /// Whether a token is a sign for the model, not a part of the text.
    pub fn is_special(&self, id: u32) -> bool {
        self.table.is_special(id)
    }

    /// One more than the largest id, which is the number of rows that an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.table.len()
    }

    /// The token that ends a text, found by its usual names. A model's configuration takes precedence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The tokens that end a generated text, besides those that a model's configuration names: [`eos`](Self::eos), and
    /// the added tokens at whose text llama.cpp ends a text, such as `<|im_end|>`, `<|eot_id|>` and `<end_of_turn>`.
    pub fn ends(&self) -> impl Iterator<Item = u32> {
        self.eos.into_iter().chain(self.ends.iter().copied())
    }

    /// The token that begins a text: the one that the file puts before a prompt, or by its usual names. Vocabularies
    /// with [`END_OF_TEXT`] use that.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that the file's post-processor puts before a text, often none.
    pub fn prompt_prefix(&self) -> &[u32] {
        &self.template.prefix
    }

    /// The tokens that the file's post-processor puts after a text, mostly none.
    pub fn suffix(&self) -> &[u32] {
        &self.template.suffix
    }

    /// The ids of a text with the tokens that the file's post-processor adds. The text may occur in them several times.
    pub fn completed(&self, text: &[u32]) -> Vec<u32> {
        let mut ids = self.template.open(text);
        ids.extend_from_slice(&self.template.suffix);
        ids
    }

    /// [`completed`](Self::completed) without the [`suffix`](Self::suffix): for a text that a model shall continue.
    pub fn prompt(&self, text: &[u32]) -> Vec<u32> {
        self.template.open(text)
    }

    /// The id of a token in the spelling of the file, in which a byte-level vocabulary writes a space as `Ġ`.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        let added = self.parts.added_tokens.iter().find(|added| added.content == token).map(|added| added.id);
        added.or_else(|| self.model.id_of(token))
    }

    /// How this vocabulary spells text.
    pub fn kind(&self) -> TokenizerKind {
        self.kind
    }

    /// Whether a whole text is spelled with a space before its first word. [`decode`](Self::decode) drops it; a stream
    /// must drop it too, unless it continues a text.
    pub fn has_leading_space(&self) -> bool {
        self.leading_space
    }
}

/// Passes a checked part to the library.
fn library_part<T: DeserializeOwned>(name: &'static str, part: Option<&Part>) -> Result<Option<T>, TokenizerError> {
    let Some(part) = part else { return Ok(None) };
    let refused = |error: serde_json::Error| TokenizerError::library(name)(json_problem(&error).into());
    let value = serde_json::to_value(part).map_err(refused)?;
    serde_json::from_value(value).map(Some).map_err(refused)
}

/// A model of the library that only knows the ids of the file.
fn declared_ids(tokens: &[Option<TokenEntry>]) -> Result<WordLevel, TokenizerError> {
    let added = tokens.iter().zip(0..).filter_map(|(token, id)| token.as_ref().filter(|t| t.added).map(|t| (t, id)));
    let vocab = added.map(|(token, id)| (token.text.clone(), id)).collect();
    WordLevel::builder().vocab(vocab).build().map_err(TokenizerError::library("added_tokens"))
}

/// A decoder of the library, and the tokens in the spelling of the file, by id.
struct PlacedDecoder {
    part: DecoderWrapper,
    texts: Vec<String>,
}

impl PlacedDecoder {
    fn new(part: DecoderWrapper, tokens: &[Option<TokenEntry>], added: &AddedTokens) -> Self {
        let text = |(token, id): (&Option<TokenEntry>, u32)| {
            let found = added.vocabulary.simple_id_to_token(id);
            found.or_else(|| token.as_ref().map(|token| token.text.clone())).unwrap_or_default()
        };
        Self { part, texts: tokens.iter().zip(0..).map(text).collect() }
    }
}

/// Added tokens, which are found in the text before it is split.
struct AddedTokens {
    vocabulary: AddedVocabulary,
    /// Texts of the tokens, normalised if the token is declared so.
    needles: Vec<String>,
    /// Finds the tokens where neither the normalizer nor blanks beside them matter.
    finder: Option<Finder>,
    /// Whether some token is found only in the normalised text.
    normalized: bool,
}

impl AddedTokens {
    /// The tokens in the library's form, with the ids of the file. Otherwise the library would give them ids after the
    /// model's.
    fn new<'a>(
        tokens: impl Iterator<Item = &'a AddedEntry>,
        ids: &WordLevel,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Self, TokenizerError> {
        let list: Vec<&AddedEntry> = tokens.collect();
        let normalized = normalizer.is_some() && list.iter().any(|token| token.normalized);
        let alone = |token: &&AddedEntry| !token.single_word && !token.lstrip && !token.rstrip;
        // The library looks for the tokens that are not to be normalized first.
        let alike = list.windows(2).all(|pair| pair[0].normalized == pair[1].normalized);
        let found = list.iter().all(alone) && alike && !normalized;
        let finder = found.then(|| Finder::new(list.iter().map(|token| (token.content.as_str(), token.id))));
        let tokens = list.into_iter().map(|token| {
            AddedToken::from(token.content.as_str(), token.special)
                .single_word(token.single_word)
                .lstrip(token.lstrip)
                .rstrip(token.rstrip)
                .normalized(token.normalized)
        });
        let mut vocabulary = AddedVocabulary::new();
        vocabulary.add_tokens(tokens, ids, normalizer).map_err(TokenizerError::library("added_tokens"))?;
        let ids = vocabulary.get_added_tokens_decoder().keys();
        let needles = ids.filter_map(|id| vocabulary.simple_id_to_token(*id)).collect();
        Ok(Self { vocabulary, needles, finder, normalized })
    }
}

/// A checked part with its regular expressions in the syntax of our engine.
fn translated(mut part: Part) -> Result<Part, TokenizerError> {
    if let Some(PatternEntry::Regex(regex)) = &mut part.pattern {
        *regex = pattern::translate("pattern", regex)?;
    }
    for parts in [&mut part.normalizers, &mut part.pretokenizers, &mut part.decoders] {
        *parts = parts.take().map(|parts| parts.into_iter().map(translated).collect()).transpose()?;
    }
    Ok(part)
}
