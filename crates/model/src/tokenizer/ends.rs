//! Tokens that end a generated text, known by their text alone.
//!
//! Many files name one token that ends a text, while the model ends its turns with another. llama.cpp therefore ends a
//! text at every token of a list, and at the tokens that separate or pad files in code (`llama-vocab.cpp`, the end of
//! `impl::load`). The lists here are the same. Unlike there, an ordinary token of the vocabulary with such a text is
//! not one of them: text may hold it.

use super::error::TokenizerError;
use super::file::AddedEntry;

/// Tokens that end a turn or a text.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<turn|>",
    "<|tool_response>",
];
/// For each role in completing code after which nothing follows: the end of its key in GGUF files, and its usual texts,
/// which count in a file without the key.
const OF_CODE: &[(&str, &[&str])] = &[
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep", &["<|file_sep|>"]),
];

/// The tokens among the added ones, which are found whole in a text, that end a text. `of_role` is the token that the
/// file names for a role (`fim_pad`, `fim_rep`, `fim_sep`).
///
/// # Errors
/// Those of `of_role`.
pub(super) fn of_entries(
    added: &[AddedEntry],
    of_role: impl Fn(&str) -> Result<Option<u32>, TokenizerError>,
) -> Result<Vec<u32>, TokenizerError> {
    let id_of = |text: &str| added.iter().find(|token| token.content == text).map(|token| token.id);
    let has = |text: &str| id_of(text).is_some();
    let has_calls = has("<|call|>") || has("<|calls|>");
    // In these vocabularies the token ends a message within a turn.
    let goes_on = has_calls && (has("<|return|>") || has("<|flush|>"));
    // Gemma 4 has `</s>` as a part of text.
    let is_text = has("<|tool_response>");
    let counts = |text: &&&str| !(goes_on && **text == "<|end|>" || is_text && **text == "</s>");
    let mut ids: Vec<u32> = ENDS.iter().filter(counts).filter_map(|text| id_of(text)).collect();
    for (role, texts) in OF_CODE {
        let id = of_role(role)?.or_else(|| texts.iter().find_map(|text| id_of(text)));
        ids.extend(id.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(added: &[&str]) -> Vec<AddedEntry> {
        let entry = |(content, id): (&&str, u32)| AddedEntry {
            id,
            content: (*content).to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        };
        added.iter().zip(0..).map(entry).collect()
    }

    fn of(added: &[&str]) -> Vec<u32> {
        of_entries(&entries(added), |_| Ok(None)).unwrap()
    }

    #[test]
    fn texts_of_the_list_end_a_text() {
        assert_eq!(of(&["<s>", "<|im_start|>", "<|im_end|>", "<think>", "<|endoftext|>"]), [2, 4]);
        assert_eq!(of(&["<|eom_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"]), [1, 0]);
        assert_eq!(of(&["<|fim_prefix|>", "<|file_sep|>", "<|repo_name|>", "<|fim_pad|>"]), [3, 2, 1]);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn a_message_within_a_turn_does_not_end_it() {
        assert_eq!(of(&["<|end|>", "<|return|>"]), [0, 1]);
        assert_eq!(of(&["<|end|>", "<|return|>", "<|call|>"]), [1, 2]);
        assert_eq!(of(&["<|end|>", "<|flush|>", "<|calls|>"]), [1, 2]);
        assert_eq!(of(&["</s>", "<eos>"]), [0, 1]);
        assert_eq!(of(&["</s>", "<eos>", "<|tool_response>"]), [1, 2]);
    }

    #[test]
    fn a_key_counts_more_than_a_text() {
        let added = entries(&["<|file_sep|>", "<|fim_pad|>"]);
        assert_eq!(of_entries(&added, |role| Ok((role == "fim_sep").then_some(9))).unwrap(), [1, 9]);
    }
}
