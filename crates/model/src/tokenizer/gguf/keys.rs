//! Which keys of the metadata are obeyed, and what becomes of the others.
//!
//! A value that asks for something is obeyed, refused by name, or reported: see [`Tokenizer::not_applied`]. Which keys
//! there are, and which kinds of vocabularies they are for, is taken from llama.cpp (`llama-vocab.cpp`, `impl::load`).
//!
//! [`Tokenizer::not_applied`]: super::Tokenizer::not_applied

use smallmind_checkpoint::{GgufMetadata, GgufValue};

use super::super::error::TokenizerError;
use super::super::file::NotApplied;
use super::{KEYS, key};

/// Keys that say nothing about how a text is encoded, and those of other readers.
const OTHER_KEYS: &[&str] = &[
    "token_type_count",
    "eot_token_id",
    "eom_token_id",
    "padding_token_id",
    "cls_token_id",
    "mask_token_id",
    "prefix_token_id",
    "suffix_token_id",
    "middle_token_id",
    "fim_pre_token_id",
    "fim_suf_token_id",
    "fim_mid_token_id",
];
/// Keys that are read. In a vocabulary of a kind that has no use for them, those that only describe the vocabulary ask
/// for nothing: converters write scores, merges and a pre-tokenizer into files of all kinds.
const READ_KEYS: &[&str] = &[
    "model",
    "pre",
    "tokens",
    "token_type",
    "scores",
    "merges",
    "bos_token_id",
    "eos_token_id",
    "unknown_token_id",
    "seperator_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
    "add_bos_token",
];
/// Keys that are obeyed in vocabularies of these kinds only. In others a value other than `false` or an empty list is
/// reported.
const KEYS_OF_KINDS: &[(&str, &[&str])] = &[
    ("add_eos_token", &["gpt2", "llama", "t5"]),
    ("add_sep_token", &["bert"]),
    ("add_space_prefix", &["llama", "t5"]),
    ("remove_extra_whitespaces", &["t5"]),
    ("precompiled_charsmap", &["t5"]),
    ("normalizer.lowercase", &["bert"]),
    ("normalizer.strip_accents", &["bert"]),
];
/// Keys of other tools for what follows from the kind of a vocabulary: whether a space is spelled `▁`, and whether that
/// ends a word instead of beginning it. With another value than this every text would have other tokens, so it is
/// refused.
const FIXED_KEYS: &[(&str, &[&str], bool)] = &[
    ("escape_whitespaces", &["llama", "t5"], true),
    ("escape_whitespaces", &["gpt2"], false),
    ("treat_whitespace_as_suffix", &["gpt2", "llama", "t5"], false),
];

const NOT_KNOWN: &str = "not known";
const OF_OTHER_KINDS: &str = "not for this kind of vocabulary";

/// The keys that a vocabulary of the kind `model` does not apply, those with one reason together.
///
/// # Errors
/// [`TokenizerError::Unsupported`] for a value that would change every text; [`TokenizerError::Checkpoint`] for such a
/// key with a value of another type.
pub(super) fn not_applied(metadata: &GgufMetadata, model: &str) -> Result<Vec<NotApplied>, TokenizerError> {
    let (mut unknown, mut of_others) = (Vec::new(), Vec::new());
    for (full, value) in metadata.iter() {
        let Some(name) = full.strip_prefix(KEYS) else { continue };
        if READ_KEYS.contains(&name) || OTHER_KEYS.contains(&name) || is_fixed(metadata, name, model)? {
            continue;
        }
        match KEYS_OF_KINDS.iter().find(|(key, _)| *key == name) {
            None => unknown.push(NotApplied { key: full.to_owned(), why: NOT_KNOWN }),
            Some((_, kinds)) if kinds.contains(&model) || asks_for_nothing(value) => {}
            Some(_) => of_others.push(NotApplied { key: full.to_owned(), why: OF_OTHER_KINDS }),
        }
    }
    unknown.append(&mut of_others);
    Ok(unknown)
}

/// Whether the kind of a vocabulary decides what the key `name` says; if so, its value must agree.
fn is_fixed(metadata: &GgufMetadata, name: &str, model: &str) -> Result<bool, TokenizerError> {
    let Some((.., fixed)) = FIXED_KEYS.iter().find(|(key, kinds, _)| *key == name && kinds.contains(&model)) else {
        return Ok(false);
    };
    let given: bool = metadata.required(&key(name))?;
    if given != *fixed {
        let supported = if *fixed { "true" } else { "false" };
        let found = format!("{given} in a vocabulary of the kind {model}");
        return Err(TokenizerError::unsupported(key(name), found, supported));
    }
    Ok(true)
}

fn asks_for_nothing(value: &GgufValue) -> bool {
    match value {
        GgufValue::Bool(flag) => !flag,
        GgufValue::Array(list) => list.is_empty(),
        _ => false,
    }
}
