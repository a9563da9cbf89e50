//! Sequence breakers of DRY, from strings to tokens.

use super::SamplerError;
use super::config::require;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// The longest breaker, in bytes. As in llama.cpp.
const MAX_BREAKER: usize = 40;

/// The sequences of tokens in which these strings stand, for [`Dry::breakers`](super::Dry::breakers): each token that
/// contains the string, and each token that ends with the string's beginning, followed by the tokens of the rest. The
/// rest is encoded as a text of its own; where that is not possible, there is no such sequence.
///
/// # Errors
/// [`SamplerError::Setting`] for an empty string, or one of more than 40 bytes.
pub fn dry_breakers<S: AsRef<str>>(tokenizer: &Tokenizer, strings: &[S]) -> Result<Vec<Vec<u32>>, SamplerError> {
    let mut breakers = vec![];
    for string in strings.iter().map(AsRef::as_ref) {
        let is_allowed = (1..=MAX_BREAKER).contains(&string.len());
        require(is_allowed, "dry.breakers", format!("{string:?}"), "strings of 1 to 40 bytes")?;
        // By the byte at which the rest begins.
        let rests: Vec<_> = (0..=string.len()).map(|begin| rest(tokenizer, string, begin)).collect();
        for id in 0..tokenizer.vocab_size() as u32 {
            let Some(token) = tokenizer.token_bytes(id) else { continue };
            let lengths = overlaps(token, string.as_bytes());
            let sequence = |rest: &Vec<u32>| [&[id], rest.as_slice()].concat();
            breakers.extend(lengths.filter_map(|length| rests[length].as_ref().map(sequence)));
        }
    }
    breakers.sort_unstable();
    breakers.dedup();
    Ok(breakers)
}

/// The tokens of a string from byte `begin` on; `None` within a character, and for text that is not in the vocabulary.
fn rest(tokenizer: &Tokenizer, string: &str, begin: usize) -> Option<Vec<u32>> {
    tokenizer.encode(string.get(begin..)?, SpecialTokens::AsText).ok()
}

/// How many bytes of `string` a text has after `token`: all of them if the token contains the string, else each number
/// of first bytes with which the token ends.
fn overlaps<'a>(token: &'a [u8], string: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let is_whole = token.windows(string.len()).any(|window| window == string);
    let lengths = if is_whole { string.len()..string.len() + 1 } else { 1..string.len().min(token.len() + 1) };
    lengths.filter(move |length| is_whole || token.ends_with(&string[..*length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_the_string_or_its_beginnings() {
        let of = |token: &str, string: &str| overlaps(token.as_bytes(), string.as_bytes()).collect::<Vec<_>>();
        assert_eq!(of("a\nb", "\n"), [1]);
        assert_eq!(of("b", "\n"), [0usize; 0]);
        assert_eq!(of("", "\n"), [0usize; 0]);
        assert_eq!(of("xaa", "aab"), [1, 2]);
        assert_eq!(of("xaab", "aab"), [3]);
        assert_eq!(of("aa", "aaaa"), [1, 2]);
    }

    #[test]
    fn breakers_are_tokens_and_sequences_of_tokens() {
        let tokenizer = Tokenizer::characters("ab\né").unwrap();
        let ids = |text: &str| tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert_eq!(dry_breakers(&tokenizer, &["\n"]).unwrap(), [ids("\n")]);
        assert_eq!(dry_breakers(&tokenizer, &["ab", "ab", "é"]).unwrap(), [ids("ab"), ids("é")]);
        // No text of this vocabulary has these.
        assert_eq!(dry_breakers(&tokenizer, &["*", "a*"]).unwrap(), Vec::<Vec<u32>>::new());
        for wrong in ["", &"a".repeat(41)] {
            let error = dry_breakers(&tokenizer, &[wrong]).unwrap_err();
            assert!(matches!(error, SamplerError::Setting { field: "dry.breakers", .. }), "{error}");
        }
    }
}
