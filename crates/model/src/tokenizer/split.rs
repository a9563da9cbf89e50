//! Where a text may be divided: into pieces of bounded size, and these into words, which are encoded independently.

use tokenizers::utils::SysRegex;

use super::error::TokenizerError;
use super::file::{AddedEntry, Part, PatternEntry, TokenizerFile};
use super::model_entry::ModelEntry;
use super::pattern;
use super::words::Words;

/// The words of GPT-2 (Radford et al., 2019, `encoder.py`): contractions, a run of letters, digits or other characters
/// with the space before it, and white space.
pub(super) const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The words of Llama 3 and, with one digit at a time, of Qwen 2: here newlines may follow other characters in one
/// word.
pub(super) const NEWLINE_WORDS: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// A piece ends at the first allowed position from this many bytes on: large enough that dividing costs nothing, small
/// enough that the library's data about each byte of a piece stays in cache.
const PIECE_BYTES: usize = 32 << 10;
/// The same where a piece of ASCII needs no normalizer: the shorter the pieces, the fewer need one.
const NORMALIZED_PIECE_BYTES: usize = 256;

/// The space in the spelling of SentencePiece.
pub(super) const SPACE: char = '\u{2581}';

/// How a text is split into words.
#[derive(Debug)]
pub(super) enum Splitter {
    /// Each character is a token.
    Characters,
    /// Words by an expression that we know, with bytes spelled as characters.
    Known(Words),
    /// Matches of a regular expression and the text between them, with bytes spelled as characters.
    Matches(Box<SysRegex>),
    /// Words with the spaces before them, which are spelled as [`SPACE`].
    Spaced(Spaced),
    /// The library's normalizer and pre-tokenizer.
    Library,
}

/// Which texts between added tokens get a space before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    None,
    /// All, as the normalizer Prepend does.
    All,
    /// Those that don't begin with one, as the pre-tokenizer Metaspace does; perhaps only at the beginning of the whole.
    Unspaced {
        first_only: bool,
    },
}

/// Words of SentencePiece's vocabularies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spaced {
    pub prefix: Prefix,
    /// Whether a text may be divided before spaces: no token has a space behind another character.
    pub divided: bool,
}

impl Splitter {
    /// The fastest splitter that gives the results of the file's pre-tokenizer.
    pub fn new(file: &TokenizerFile<ModelEntry>) -> Result<Self, TokenizerError> {
        if is_character_vocabulary(file) {
            return Ok(Self::Characters);
        }
        if let Some(spaced) = spaced(file) {
            return Ok(Self::Spaced(spaced));
        }
        let plain_byte_level = |part: &Part| part.kind == "ByteLevel" && part.add_prefix_space == Some(false);
        let Some(pre_tokenizer) = &file.pre_tokenizer else {
            return Ok(Self::Library);
        };
        if plain_byte_level(pre_tokenizer) && pre_tokenizer.use_regex != Some(false) {
            return Ok(Self::Known(Words::Gpt2));
        }
        match pre_tokenizer.pretokenizers.as_deref() {
            Some([digits, bytes])
                if digits.kind == "Digits"
                    && digits.individual_digits == Some(true)
                    && plain_byte_level(bytes)
                    && bytes.use_regex != Some(false) =>
            {
                Ok(Self::Known(Words::DigitsGpt2))
            }
            Some([split, bytes]) if plain_byte_level(bytes) && bytes.use_regex == Some(false) => match isolating(split)
            {
                Some(GPT2_WORDS) => Ok(Self::Known(Words::Gpt2)),
                Some(regex) if regex == NEWLINE_WORDS[0] => Ok(Self::Known(Words::Newline { digits: 3 })),
                Some(regex) if regex == NEWLINE_WORDS[1] => Ok(Self::Known(Words::Newline { digits: 1 })),
                Some(regex) => {
                    let regex = SysRegex::new(&pattern::translate("pre_tokenizer.pattern", regex)?);
                    Ok(Self::Matches(Box::new(regex.map_err(TokenizerError::library("pre_tokenizer"))?)))
                }
                None => Ok(Self::Library),
            },
            _ => Ok(Self::Library),
        }
    }
}

/// The parts of SentencePiece's BPE, if that is all that a file has: spaces are spelled as [`SPACE`], perhaps with one
/// more before the text.
fn spaced(file: &TokenizerFile<ModelEntry>) -> Option<Spaced> {
    let model = file.model.bpe()?;
    let spelled = SPACE.to_string();
    let space = PatternEntry::String(" ".to_owned());
    let normalizer = file.normalizer.as_ref();
    let parts = normalizer.map(|part| part.normalizers.as_deref().unwrap_or(std::slice::from_ref(part)));
    let replaces = |part: &Part| part.pattern.as_ref() == Some(&space) && part.content.as_ref() == Some(&spelled);
    // As in Gemma: there are no spaces to split at.
    let idle = |part: &Part| part.kind == "Split" && part.pattern == Some(space.clone()) && part.invert == Some(false);
    let prefix = match (parts.unwrap_or_default(), &file.pre_tokenizer) {
        ([], Some(part)) if part.kind == "Metaspace" && part.split == Some(false) => metaspace_prefix(part)?,
        ([replace], part) if replaces(replace) && part.as_ref().is_none_or(idle) => Prefix::None,
        ([prepend, replace], part)
            if prepend.prepend.as_ref() == Some(&spelled) && replaces(replace) && part.as_ref().is_none_or(idle) =>
        {
            Prefix::All
        }
        _ => return None,
    };
    let is_plain = [&model.continuing_subword_prefix, &model.end_of_word_suffix]
        .iter()
        .all(|affix| affix.as_deref().unwrap_or_default().is_empty())
        && !model.ignore_merges
        && model.vocab.contains_key(&spelled);
    let inside = |token: &String| token.chars().skip_while(|c| *c == SPACE).any(|c| c == SPACE);
    is_plain.then(|| Spaced { prefix, divided: !model.vocab.keys().any(inside) })
}

/// The prefix of a pre-tokenizer that writes spaces as [`SPACE`].
fn metaspace_prefix(part: &Part) -> Option<Prefix> {
    if part.replacement.as_deref().is_none_or(|replacement| !replacement.chars().eq([SPACE])) {
        return None;
    }
    match (part.prepend_scheme.as_deref(), part.add_prefix_space) {
        (Some("never"), _) => Some(Prefix::None),
        (Some("first"), None | Some(true)) => Some(Prefix::Unspaced { first_only: true }),
        (None | Some("always"), None | Some(true)) => Some(Prefix::Unspaced { first_only: false }),
        _ => None,
    }
}

impl Spaced {
    /// Whether a text gets a space before it; `is_first` if no added token is before it.
    pub fn begins_with_space(self, text: &str, is_first: bool) -> bool {
        match self.prefix {
            Prefix::None => false,
            Prefix::All => true,
            Prefix::Unspaced { first_only } => !text.starts_with([' ', SPACE]) && (is_first || !first_only),
        }
    }

    /// Calls `word` with every word of `text` and its offset, in order. The words cover the text.
    pub fn each<'t, E>(self, text: &'t str, mut word: impl FnMut(&'t str, usize) -> Result<(), E>) -> Result<(), E> {
        let mut done = 0;
        let mut in_spaces = true;
        for (at, character) in text.char_indices() {
            let is_space = character == ' ' || character == SPACE;
            if is_space && !in_spaces && self.divided {
                word(&text[done..at], done)?;
                done = at;
            }
            in_spaces = is_space;
        }
        if done < text.len() { word(&text[done..], done) } else { Ok(()) }
    }
}

/// The regular expression of a split that makes every match a separate word.
fn isolating(part: &Part) -> Option<&str> {
    match &part.pattern {
        Some(PatternEntry::Regex(regex))
            if part.kind == "Split" && part.behavior.as_deref() == Some("Isolated") && part.invert == Some(false) =>
        {
            Some(regex)
        }
        _ => None,
    }
}

/// Whether each token is a character and nothing else is done with the text.
pub(super) fn is_character_vocabulary(file: &TokenizerFile<ModelEntry>) -> bool {
    let Some(model) = file.model.bpe() else { return false };
    file.added_tokens.is_empty()
        && file.normalizer.is_none()
        && file.pre_tokenizer.is_none()
        && file.decoder.as_ref().is_some_and(|decoder| decoder.kind == "Fuse")
        && model.merges.is_empty()
        && model.unk_token.is_none()
        && !model.byte_fallback
        && model.vocab.keys().all(|token| token.chars().count() == 1)
}

/// Calls `word` with every word of `text` and its offset, in order. The words cover the text.
pub(super) fn each_match<'t, E>(
    regex: &SysRegex,
    text: &'t str,
    mut word: impl FnMut(&'t str, usize) -> Result<(), E>,
) -> Result<(), E> {
    let mut done = 0;
    for (start, end) in regex.find_iter(text) {
        if start > done {
            word(&text[done..start], done)?;
        }
        if end > start {
            word(&text[start..end], start)?;
        }
        done = end;
    }
    if done < text.len() {
        word(&text[done..], done)?;
    }
    Ok(())
}

/// Where a text may be divided so that its pieces, encoded one after the other, give the ids of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Between any two characters.
    Anywhere,
    /// Between white space and the other character before it. No match of [`GPT2_WORDS`] continues across such a
    /// position. None looks ahead across it, since only a match that ends in white space looks ahead. None looks back.
    BeforeSpace,
    /// Between an ASCII letter or digit and a newline: the same holds for [`NEWLINE_WORDS`], in which a word may have a
    /// newline after punctuation.
    BeforeNewline,
    /// Nowhere: the whole text is one piece.
    Never,
}

impl Cut {
    /// The cuts that the parts of a file allow.
    pub fn new(file: &TokenizerFile<ModelEntry>) -> Self {
        if is_character_vocabulary(file) {
            return Self::Anywhere;
        }
        let cut = Self::of_parts(file);
        if file.added_tokens.iter().all(|token| cut.keeps_whole(token)) { cut } else { Self::Never }
    }

    fn of_parts(file: &TokenizerFile<ModelEntry>) -> Self {
        let byte_level = |part: &Part| part.kind == "ByteLevel" && part.add_prefix_space == Some(false);
        let gpt2 = |part: &Part| byte_level(part) && part.use_regex != Some(false);
        let Some(pre_tokenizer) = &file.pre_tokenizer else { return Self::Never };
        let parts = match &pre_tokenizer.pretokenizers {
            Some(parts) => parts.as_slice(),
            None => std::slice::from_ref(pre_tokenizer),
        };
        let normalizer = file.normalizer.as_ref().map(|part| part.kind.as_str());
        match (normalizer, parts) {
            (None, [part]) if gpt2(part) => Self::BeforeSpace,
            // Digits are split off first, which only adds boundaries.
            (None, [digits, part]) if digits.kind == "Digits" && gpt2(part) => Self::BeforeSpace,
            // A composed form never joins a newline with anything.
            (None | Some("NFC"), [split, bytes]) if byte_level(bytes) && bytes.use_regex == Some(false) => {
                match isolating(split) {
                    Some(regex) if NEWLINE_WORDS.contains(&regex) => Self::BeforeNewline,
                    _ => Self::Never,
                }
            }
            _ => Self::Never,
        }
    }

    /// Whether no match of an added token can span a cut, or include white space from the other side of it.
    fn keeps_whole(self, token: &AddedEntry) -> bool {
        // NFC, the only normalizer with which texts are divided, doesn't change ASCII.
        let changed = token.normalized && !token.content.is_ascii();
        let spaced = token.lstrip || token.rstrip || token.single_word || changed;
        let mut pairs = token.content.chars().zip(token.content.chars().skip(1));
        self == Self::Never || (!spaced && !pairs.any(|(before, after)| self.allows(before, after)))
    }

    /// Whether a text may be divided between these neighbours.
    fn allows(self, before: char, after: char) -> bool {
        match self {
            Self::Anywhere => true,
            Self::BeforeSpace => !before.is_whitespace() && after.is_whitespace(),
            Self::BeforeNewline => before.is_ascii_alphanumeric() && after == '\n',
            Self::Never => false,
        }
    }

    /// Removes the next piece from the front of `text` and returns it.
    pub fn next_piece<'t>(self, text: &mut &'t str, keeps_ascii: bool) -> &'t str {
        let whole: &'t str = text;
        let least = if keeps_ascii { NORMALIZED_PIECE_BYTES } else { PIECE_BYTES };
        let mut from = least.min(whole.len());
        while !whole.is_char_boundary(from) {
            from += 1;
        }
        let mut before = whole[..from].chars().next_back();
        let mut end = whole.len();
        if self != Self::Never {
            for (offset, after) in whole[from..].char_indices() {
                if before.is_some_and(|before| self.allows(before, after)) {
                    end = from + offset;
                    break;
                }
                before = Some(after);
            }
        }
        let (piece, rest) = whole.split_at(end);
        *text = rest;
        piece
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn words<'t>(regex: &SysRegex, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        let all: Result<(), ()> = each_match(regex, text, |word, offset| {
            assert_eq!(&text[offset..offset + word.len()], word);
            words.push(word);
            Ok(())
        });
        all.unwrap();
        words
    }

    fn any_text() -> impl Strategy<Value = String> {
        let snippets = [
            " ", "  ", "\n", "\r", "\t", "\u{2003}", "\u{85}", "a", "Z", "'s", "'", "7", "12", ".", "!?", "é", "日",
            "e\u{301}", "\u{0}",
        ];
        prop::collection::vec(prop::sample::select(snippets.to_vec()), 0..24).prop_map(|parts| parts.concat())
    }

    static CUTS: LazyLock<[(Cut, Vec<SysRegex>); 2]> = LazyLock::new(|| {
        let compiled = |patterns: &[&str]| patterns.iter().map(|pattern| SysRegex::new(pattern).unwrap()).collect();
        [(Cut::BeforeSpace, compiled(&[GPT2_WORDS])), (Cut::BeforeNewline, compiled(&NEWLINE_WORDS))]
    });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The words of both sides of a cut are the words of the whole.
        #[test]
        fn cuts_never_change_the_words(text in any_text()) {
            for (cut, patterns) in CUTS.iter() {
                for regex in patterns {
                    let whole = words(regex, &text);
                    prop_assert_eq!(whole.concat(), text.as_str());
                    for (at, after) in text.char_indices().skip(1) {
                        let before = text[..at].chars().next_back().unwrap();
                        if cut.allows(before, after) {
                            let (left, right) = text.split_at(at);
                            prop_assert_eq!([words(regex, left), words(regex, right)].concat(), whole.clone(), "cut at {}", at);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn pieces_end_at_the_first_allowed_place() {
        let text = "x".repeat(PIECE_BYTES - 1) + "éy \nz" + &"é".repeat(PIECE_BYTES);
        for (cut, first) in [
            (Cut::Anywhere, PIECE_BYTES + 1),
            (Cut::BeforeSpace, PIECE_BYTES + 2),
            (Cut::BeforeNewline, text.len()),
            (Cut::Never, text.len()),
        ] {
            let mut rest = text.as_str();
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                pieces.push(cut.next_piece(&mut rest, false));
            }
            assert_eq!((pieces[0].len(), pieces.concat() == text), (first, true), "{cut:?}");
        }
    }

    #[test]
    fn added_tokens_that_reach_across_a_cut_forbid_it() {
        let token = |content: &str| AddedEntry {
            id: 0,
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        };
        assert!(Cut::BeforeSpace.keeps_whole(&token("<|endoftext|>")) && Cut::BeforeSpace.keeps_whole(&token("\n\n")));
        assert!(!Cut::BeforeSpace.keeps_whole(&token("<end of text>")));
        assert!(!Cut::BeforeSpace.keeps_whole(&AddedEntry { rstrip: true, ..token("<x>") }));
        assert!(
            Cut::BeforeNewline.keeps_whole(&token("<end of text>")) && !Cut::BeforeNewline.keeps_whole(&token("a\n"))
        );
    }
}
