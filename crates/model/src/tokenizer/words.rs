//! Splits a text into words by the expressions of the most common pre-tokenizers, without a regular expression engine.
//!
//! Each function finds the end of the word at the beginning of a text, alternative by alternative in the order of the
//! expression. The classes of characters are those of `regex-syntax`, the tables of the engine that other expressions
//! are applied with; a test compares the words with that engine's.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// What the expressions distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    Other,
}

/// Ranges of characters that are not `Other`, in rising order.
static RANGES: LazyLock<Vec<(char, char, Kind)>> = LazyLock::new(|| {
    let mut ranges = Vec::new();
    for (pattern, kind) in [("\\p{L}", Kind::Letter), ("\\p{N}", Kind::Number), ("\\s", Kind::Space)] {
        if let Ok(hir) = regex_syntax::parse(pattern)
            && let HirKind::Class(Class::Unicode(class)) = hir.kind()
        {
            ranges.extend(class.iter().map(|range| (range.start(), range.end(), kind)));
        }
    }
    ranges.sort_unstable_by_key(|range| range.0);
    ranges
});

/// Kinds of the characters of the Basic Multilingual Plane, which nearly all text consists of.
static PLANE: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let mut kinds = vec![Kind::Other; 0x10000];
    for &(first, last, kind) in RANGES.iter() {
        let end = (last as usize + 1).min(kinds.len());
        if let Some(range) = kinds.get_mut(first as usize..end) {
            range.fill(kind);
        }
    }
    kinds
});

/// The kinds of characters; a copy of references saves the check whether the tables are made.
#[derive(Clone, Copy)]
struct Kinds {
    plane: &'static [Kind],
}

impl Kinds {
    fn of(self, character: char) -> Kind {
        match self.plane.get(character as usize) {
            Some(kind) => *kind,
            None => {
                let at = RANGES.partition_point(|range| range.0 <= character);
                match at.checked_sub(1).map(|at| RANGES[at]) {
                    Some((_, last, kind)) if character <= last => kind,
                    _ => Kind::Other,
                }
            }
        }
    }

    /// Bytes of the characters of a kind at the beginning of `text`.
    fn run(self, text: &str, kind: Kind) -> usize {
        text.char_indices().find(|(_, character)| self.of(*character) != kind).map_or(text.len(), |(at, _)| at)
    }
}

/// A pre-tokenizer's expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// GPT-2's.
    Gpt2,
    /// Each numeric character by itself, GPT-2's expression for what is between them.
    DigitsGpt2,
    /// Llama 3's and Qwen 2's: words of at most this many numeric characters.
    Newline {
        /// 3 in Llama 3, 1 in Qwen 2.
        digits: usize,
    },
}

impl Words {
    /// Calls `word` with every word of `text` and its offset, in order. The words cover the text.
    pub fn each<'t, E>(self, text: &'t str, mut word: impl FnMut(&'t str, usize) -> Result<(), E>) -> Result<(), E> {
        let kinds = Kinds { plane: &PLANE };
        if self != Self::DigitsGpt2 {
            return self.each_of(kinds, text, 0, &mut word);
        }
        let mut done = 0;
        for (at, character) in text.char_indices().filter(|(_, character)| character.is_numeric()) {
            Self::Gpt2.each_of(kinds, &text[done..at], done, &mut word)?;
            done = at + character.len_utf8();
            word(&text[at..done], at)?;
        }
        Self::Gpt2.each_of(kinds, &text[done..], done, &mut word)
    }

    fn each_of<'t, E>(
        self,
        kinds: Kinds,
        text: &'t str,
        offset: usize,
        word: &mut impl FnMut(&'t str, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut done = 0;
        while let Some(first) = text[done..].chars().next() {
            let rest = &text[done..];
            let end = match self {
                Self::Newline { digits } => newline_word(kinds, rest, first, digits),
                _ => gpt2_word(kinds, rest, first),
            };
            word(&rest[..end], offset + done)?;
            done += end;
        }
        Ok(())
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2_word(kinds: Kinds, text: &str, first: char) -> usize {
    if first == '\'' {
        let contractions = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
        if let Some(found) = contractions.iter().find(|contraction| text.starts_with(**contraction)) {
            return found.len();
        }
    }
    let begin = usize::from(first == ' ');
    let kind = match text[begin..].chars().next() {
        Some(character) => kinds.of(character),
        None => Kind::Space,
    };
    if kind != Kind::Space {
        return begin + kinds.run(&text[begin..], kind);
    }
    spaces(kinds, text)
}

/// [`NEWLINE_WORDS`](super::split::NEWLINE_WORDS), one alternative after the other.
fn newline_word(kinds: Kinds, text: &str, first: char, digits: usize) -> usize {
    if first == '\''
        && let Some(length) = contraction(&text[1..])
    {
        return 1 + length;
    }
    let kind = kinds.of(first);
    let behind = &text[first.len_utf8()..];
    let next = behind.chars().next().map(|character| kinds.of(character));
    match kind {
        Kind::Letter => return kinds.run(text, Kind::Letter),
        Kind::Number => {
            let numbers = text.chars().take(digits).take_while(|character| kinds.of(*character) == Kind::Number);
            return numbers.map(char::len_utf8).sum();
        }
        _ if next == Some(Kind::Letter) && !matches!(first, '\r' | '\n') => {
            return first.len_utf8() + kinds.run(behind, Kind::Letter);
        }
        _ => {}
    }
    let begin = usize::from(first == ' ');
    if kind == Kind::Other || (first == ' ' && next == Some(Kind::Other)) {
        let end = begin + kinds.run(&text[begin..], Kind::Other);
        return end + text[end..].bytes().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    }
    let run = kinds.run(text, Kind::Space);
    match text[..run].rfind(['\r', '\n']) {
        Some(last) => last + 1,
        None => spaces(kinds, text),
    }
}

/// What follows the apostrophe of a contraction in any case; the long s folds to s.
fn contraction(text: &str) -> Option<usize> {
    let mut characters = text.chars();
    let first = characters.next()?;
    match first.to_ascii_lowercase() {
        's' | 't' | 'm' | 'd' => Some(1),
        '\u{17f}' => Some(first.len_utf8()),
        'r' | 'v' if characters.next()?.eq_ignore_ascii_case(&'e') => Some(2),
        'l' if characters.next()?.eq_ignore_ascii_case(&'l') => Some(2),
        _ => None,
    }
}

/// `\s+(?!\S)|\s+`: the last of several blanks belongs to what follows.
fn spaces(kinds: Kinds, text: &str) -> usize {
    let run = kinds.run(text, Kind::Space);
    if run == text.len() {
        return run;
    }
    let last = text[..run].chars().next_back().map_or(0, char::len_utf8);
    if last == run { run } else { run - last }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::utils::SysRegex;

    use super::super::pattern;
    use super::super::split::{GPT2_WORDS, NEWLINE_WORDS, each_match};
    use super::*;

    fn collect<'t>(text: &'t str, each: impl Fn(&'t str, &mut dyn FnMut(&'t str, usize))) -> Vec<&'t str> {
        let mut words = Vec::new();
        each(text, &mut |word, offset| {
            assert_eq!(&text[offset..offset + word.len()], word);
            words.push(word);
        });
        words
    }

    static CASES: LazyLock<Vec<(Words, SysRegex)>> = LazyLock::new(|| {
        let compiled = |pattern: &str| SysRegex::new(&pattern::translate("pattern", pattern).unwrap()).unwrap();
        vec![
            (Words::Gpt2, compiled(GPT2_WORDS)),
            (Words::Newline { digits: 3 }, compiled(NEWLINE_WORDS[0])),
            (Words::Newline { digits: 1 }, compiled(NEWLINE_WORDS[1])),
        ]
    });

    fn same(text: &str) {
        for (words, regex) in CASES.iter() {
            let ours = collect(text, |text, word| {
                let all: Result<(), ()> = words.each(text, |found, offset| {
                    word(found, offset);
                    Ok(())
                });
                all.unwrap();
            });
            let theirs = collect(text, |text, word| {
                let all: Result<(), ()> = each_match(regex, text, |found, offset| {
                    word(found, offset);
                    Ok(())
                });
                all.unwrap();
            });
            assert_eq!(ours, theirs, "{words:?} of {text:?}");
        }
    }

    #[test]
    fn every_character_is_of_the_kind_that_the_engine_sees() {
        let check = |part: u32| {
            for first in (64 * part..=0x10ffff).step_by(4 * 64) {
                let characters = (first..first + 64).filter_map(char::from_u32);
                // Between letters, numbers and blanks each kind makes another word.
                same(&characters.flat_map(|c| ['a', c, c, '1', c, ' ', c, '.', c, '\n', c]).collect::<String>());
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|part| {
                scope.spawn(move || check(part));
            });
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn words_are_those_of_the_expressions(
            parts in prop::collection::vec(
                prop_oneof![
                    prop::sample::select(vec![
                        " ", "  ", "\n", "\r\n", "\t", "\u{2003}", "\u{85}", "a", "Z", "'s", "'S", "'ſ", "'", "'ll", "'Re",
                        "7", "1234", "½", ".", "!?", "é", "日", "e\u{301}", "\u{0}", "👩\u{200d}👧", "٣",
                    ]).prop_map(String::from),
                    any::<char>().prop_map(String::from),
                ],
                0..24,
            )
        ) {
            same(&parts.concat());
        }
    }

    #[test]
    fn digits_stand_alone() {
        let words = collect(" a12  3b½ '4's", |text, word| {
            let all: Result<(), ()> = Words::DigitsGpt2.each(text, |found, offset| {
                word(found, offset);
                Ok(())
            });
            all.unwrap();
        });
        assert_eq!(words, [" a", "1", "2", "  ", "3", "b", "½", " '", "4", "'s"]);
    }
}
