//! The format of `tokenizer.json`: Hugging Face's tokenizers, version 1.0.
//!
//! Reading refuses files that are ambiguous or need unbounded memory: a key twice, a list longer than any real one, more
//! parts than any real file has (`section_limits.rs`), an id that is not a small whole number, an unknown key. Which
//! keys a part of some kind may have, and what the values mean together, is checked in `check.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use smallmind_checkpoint::without_byte_order_mark;

use super::error::TokenizerError;
use super::model_entry::ModelEntry;
use super::section_limits;

/// The most bytes of a `tokenizer.json`.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// The most tokens a vocabulary may have. The largest of language models have 262,208; with more than this the memory
/// for a file that is refused at its last token would exceed its size by 64 MiB.
pub const MAX_TOKENS: usize = 3 << 17;
const MAX_ADDED: usize = 1 << 16;
/// The most parts of a sequence, or pieces of a template.
const MAX_PARTS: usize = 64;

/// A whole file. `truncation` and `padding` are not applied: with them the model would see another text than the given
/// one.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TokenizerFile<M> {
    #[serde(skip)]
    pub not_applied: Vec<NotApplied>,
    pub version: String,
    pub truncation: (),
    pub padding: (),
    pub added_tokens: Vec<AddedEntry>,
    pub normalizer: Option<Part>,
    pub pre_tokenizer: Option<Part>,
    pub post_processor: Option<Part>,
    pub decoder: Option<Part>,
    pub model: M,
}

/// A key of a file whose value is not applied.
#[derive(Debug, Clone)]
pub(super) struct NotApplied {
    pub key: String,
    /// Completes the sentence "the key is not applied: ...".
    pub why: &'static str,
}

/// A token that is not part of the model: it is found in the text before all other processing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddedEntry {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub normalized: bool,
    #[serde(default)]
    pub special: bool,
}

/// A normalizer, pre-tokenizer, post-processor or decoder: all fields that any supported one has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Part {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "parts")]
    pub normalizers: Option<Vec<Part>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "parts")]
    pub pretokenizers: Option<Vec<Part>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "parts")]
    pub decoders: Option<Vec<Part>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "parts")]
    pub processors: Option<Vec<Part>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<PatternEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strip_left: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strip_right: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_prefix_space: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trim_offsets: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_regex: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub individual_digits: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepend_scheme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_text: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle_chinese_chars: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strip_accents: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lowercase: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precompiled_charsmap: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sep: Option<(String, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cls: Option<(String, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "parts")]
    pub single: Option<Vec<TemplatePiece>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "parts")]
    pub pair: Option<Vec<TemplatePiece>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "names")]
    pub special_tokens: Option<BTreeMap<String, TemplateToken>>,
    /// The keys that no part has.
    #[serde(flatten, skip_serializing)]
    pub other: BTreeMap<String, IgnoredAny>,
}

/// The pattern of a replacement or a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum PatternEntry {
    String(String),
    Regex(String),
}

/// A piece of a post-processor's template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum TemplatePiece {
    SpecialToken { id: String, type_id: u32 },
    Sequence { id: String, type_id: u32 },
}

/// The tokens that a name in a template stands for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TemplateToken {
    pub id: String,
    #[serde(deserialize_with = "few")]
    pub ids: Vec<u32>,
    #[serde(deserialize_with = "few")]
    pub tokens: Vec<String>,
}

impl Part {
    /// A part without settings, or one whose settings the caller fills in.
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..Self::default() }
    }

    /// The byte-level part of GPT-2: no space before the text, split by its regular expression.
    pub fn byte_level() -> Self {
        Self {
            add_prefix_space: Some(false),
            trim_offsets: Some(true),
            use_regex: Some(true),
            ..Self::new("ByteLevel")
        }
    }
}

impl<M> TokenizerFile<M> {
    /// A file with a model and no other part.
    pub fn new(model: M) -> Self {
        Self {
            not_applied: Vec::new(),
            version: "1.0".to_owned(),
            truncation: (),
            padding: (),
            added_tokens: Vec::new(),
            normalizer: None,
            pre_tokenizer: None,
            post_processor: None,
            decoder: None,
            model,
        }
    }
}

impl TokenizerFile<ModelEntry> {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`TokenizerError::TooLarge`], [`TokenizerError::Json`], or [`TokenizerError::Field`] for a section with more
    /// parts than any real one.
    pub fn parse(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let length = bytes.len() as u64;
        if length > MAX_FILE_BYTES {
            return Err(TokenizerError::TooLarge { bytes: length, limit: MAX_FILE_BYTES });
        }
        let text = without_byte_order_mark(bytes);
        section_limits::check(text)?;
        serde_json::from_slice(text).map_err(TokenizerError::json)
    }
}

/// Puts the field's name before the error about its value.
pub(super) fn named<T, E: serde::de::Error>(name: impl fmt::Display, value: Result<T, E>) -> Result<T, E> {
    value.map_err(|error| E::custom(format_args!("{name}: {error}")))
}

/// Takes the value of the key `name` into `slot`, once.
pub(super) fn once<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    name: &str,
    slot: &mut Option<T>,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::custom(format_args!("{name}: the key appears twice")));
    }
    *slot = Some(named(name, map.next_value())?);
    Ok(())
}

impl<'de> Deserialize<'de> for TokenizerFile<ModelEntry> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FileVisitor)
    }
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = TokenizerFile<ModelEntry>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with the keys version, added_tokens, model and so on")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut version, mut added, mut model) = (None::<Option<String>>, None::<Capped<AddedEntry, MAX_ADDED>>, None);
        let (mut normalizer, mut pre_tokenizer, mut post_processor, mut decoder) = (None, None, None, None);
        let (mut truncation, mut padding) = (None::<Option<IgnoredAny>>, None::<Option<IgnoredAny>>);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => once(&mut map, "version", &mut version)?,
                "added_tokens" => once(&mut map, "added_tokens", &mut added)?,
                "normalizer" => once(&mut map, "normalizer", &mut normalizer)?,
                "pre_tokenizer" => once(&mut map, "pre_tokenizer", &mut pre_tokenizer)?,
                "post_processor" => once(&mut map, "post_processor", &mut post_processor)?,
                "decoder" => once(&mut map, "decoder", &mut decoder)?,
                "model" => once(&mut map, "model", &mut model)?,
                "truncation" => once(&mut map, "truncation", &mut truncation)?,
                "padding" => once(&mut map, "padding", &mut padding)?,
                _ => return Err(A::Error::custom(format_args!("{key}: there is no such key in a tokenizer"))),
            }
        }
        let Some(model) = model else {
            return Err(A::Error::custom("model: the key is missing"));
        };
        let given = [("truncation", truncation.flatten()), ("padding", padding.flatten())];
        let entry = |key: &str| NotApplied { key: key.to_owned(), why: "no text is cut or filled up" };
        Ok(TokenizerFile {
            not_applied: given.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| entry(key)).collect(),
            version: version.flatten().unwrap_or_else(|| "1.0".to_owned()),
            added_tokens: added.map(|list| list.0).unwrap_or_default(),
            normalizer: normalizer.flatten(),
            pre_tokenizer: pre_tokenizer.flatten(),
            post_processor: post_processor.flatten(),
            decoder: decoder.flatten(),
            ..TokenizerFile::new(model)
        })
    }
}

/// A list of at most `N` elements; a longer one is refused before it takes memory.
pub(super) struct Capped<T, const N: usize, L = Vec<T>>(pub L, PhantomData<T>);

impl<'de, T: DeserializeOwned, const N: usize, L: Default + Extend<T>> Deserialize<'de> for Capped<T, N, L> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CappedVisitor<T, const N: usize, L>(PhantomData<(T, L)>);
        impl<'de, T: DeserializeOwned, const N: usize, L: Default + Extend<T>> Visitor<'de> for CappedVisitor<T, N, L> {
            type Value = Capped<T, N, L>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a list of at most {N} entries")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let (mut entries, mut count) = (L::default(), 0);
                while let Some(entry) = named(format_args!("[{count}]"), list.next_element::<T>())? {
                    if count == N {
                        return Err(A::Error::custom(format_args!("more than {N} entries")));
                    }
                    entries.extend([entry]);
                    count += 1;
                }
                Ok(Capped(entries, PhantomData))
            }
        }
        deserializer.deserialize_seq(CappedVisitor(PhantomData))
    }
}

fn parts<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    Ok(Option::<Capped<T, MAX_PARTS>>::deserialize(deserializer)?.map(|list| list.0))
}

fn few<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Capped::<T, MAX_PARTS>::deserialize(deserializer)?.0)
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, TemplateToken>>, D::Error> {
    struct NamesVisitor;
    impl<'de> Visitor<'de> for NamesVisitor {
        type Value = BTreeMap<String, TemplateToken>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "an object of at most {MAX_PARTS} special tokens")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut names = BTreeMap::new();
            while let Some((name, token)) = map.next_entry::<String, TemplateToken>()? {
                if names.len() == MAX_PARTS {
                    return Err(A::Error::custom(format_args!("more than {MAX_PARTS} special tokens")));
                }
                if names.insert(name.clone(), token).is_some() {
                    return Err(A::Error::custom(format_args!("[{name:?}]: the name appears twice")));
                }
            }
            Ok(names)
        }
    }
    deserializer.deserialize_map(NamesVisitor).map(Some)
}
