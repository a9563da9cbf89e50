//! The exact bytes of every token id.
//!
//! Vocabularies spell tokens in their own ways: byte-level ones write each byte as a printable character (`Ġthe` is `"
//! the"`), those in the manner of SentencePiece write a space as `▁` and a single byte as `<0x0A>`. The file's decoder
//! says which; the table holds the result, so that text can be put together token by token without allocating.

use std::sync::LazyLock;

use tokenizers::Decoder;
use tokenizers::decoders::wordpiece;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};

use super::check::TokenEntry;
use super::error::TokenizerError;
use super::file::{Part, PatternEntry};
use super::pattern;

/// The most bytes that all tokens together may have after decoding.
const MAX_TABLE_BYTES: usize = 64 << 20;

/// The printable character of every byte: printable Latin-1 stands for itself, the other bytes follow in order from
/// U+0100 (`bytes_to_unicode` of GPT-2's `encoder.py`, Radford et al., 2019).
static BYTE_CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => byte as u8 as char,
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
});

/// The printable character that stands for a byte.
pub(super) fn byte_character(byte: u8) -> char {
    BYTE_CHARACTERS[byte as usize]
}

/// The byte that a printable character stands for.
pub(super) fn character_byte(character: char) -> Option<u8> {
    match u32::from(character) {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(character as u8),
        0x100..=0x143 => BYTE_CHARACTERS.iter().position(|c| *c == character).map(|byte| byte as u8),
        _ => None,
    }
}

/// How the spelling of a token becomes bytes: the decoder of a file, as steps for one token.
#[derive(Debug, Clone, Default)]
pub(super) struct Decoding {
    steps: Vec<Step>,
    /// A space at the start of a whole text belongs to the spelling, not to the text.
    pub leading_space: bool,
    pub byte_level: bool,
    /// The text of a token depends on its place: the library decodes whole texts.
    pub by_library: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Replace(String, String),
    /// A replacement by a regular expression.
    Pattern(Replace),
    /// A space before each token.
    Spaced,
    /// As `Spaced`, but for tokens that begin with this prefix, which is removed.
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    ByteFallback,
    ByteLevel,
}

impl Decoding {
    /// Reads a checked decoder; without one, tokens are joined by spaces.
    ///
    /// # Errors
    /// [`TokenizerError::Unsupported`] if decoding each token separately would differ from decoding the whole text.
    pub fn new(decoder: Option<&Part>) -> Result<Self, TokenizerError> {
        let Some(decoder) = decoder else {
            return Ok(Self { steps: vec![Step::Spaced], leading_space: true, ..Self::default() });
        };
        let mut decoding = Self::default();
        let mut fused = false;
        decoding.add(decoder, &mut fused)?;
        Ok(decoding)
    }

    fn add(&mut self, part: &Part, fused: &mut bool) -> Result<(), TokenizerError> {
        match (part.kind.as_str(), &part.pattern) {
            ("Sequence", _) => {
                for child in part.decoders.iter().flatten() {
                    self.add(child, fused)?;
                }
            }
            ("Replace", Some(PatternEntry::String(pattern))) => {
                self.steps.push(Step::Replace(pattern.clone(), part.content.clone().unwrap_or_default()));
            }
            ("Replace", Some(PatternEntry::Regex(regex))) => {
                let regex = pattern::translate("decoder.pattern", regex)?;
                let content = part.content.as_deref().unwrap_or_default();
                let replace = Replace::new(ReplacePattern::Regex(regex), content);
                self.steps.push(Step::Pattern(replace.map_err(TokenizerError::library("decoder"))?));
            }
            ("WordPiece", _) => {
                let prefix = part.prefix.clone().unwrap_or_default();
                self.steps.push(Step::WordPiece { prefix, cleanup: part.cleanup.unwrap_or(true) });
                (self.leading_space, self.by_library) = (true, true);
            }
            ("BPEDecoder", _) => {
                self.steps.push(Step::Replace(part.suffix.clone().unwrap_or_default(), " ".to_owned()));
                self.by_library = true;
            }
            ("Metaspace", _) => {
                self.steps.push(Step::Replace(part.replacement.clone().unwrap_or_default(), " ".to_owned()));
                let never = part.prepend_scheme.as_deref() == Some("never") || part.add_prefix_space == Some(false);
                self.leading_space = !never;
            }
            ("ByteLevel", _) => {
                self.steps.push(Step::ByteLevel);
                self.byte_level = true;
            }
            ("ByteFallback", _) => self.steps.push(Step::ByteFallback),
            ("Fuse", _) => *fused = true,
            ("Strip", _) if *fused => self.leading_space = true,
            (kind, _) => {
                return Err(TokenizerError::unsupported(
                    "decoder",
                    format!("{kind:?} before \"Fuse\""),
                    "Strip after Fuse",
                ));
            }
        }
        Ok(())
    }

    /// The bytes of one token.
    fn bytes(&self, spelling: &str) -> Vec<u8> {
        let mut text = spelling.to_owned();
        for step in &self.steps {
            match step {
                Step::Replace(pattern, content) => text = text.replace(pattern, content),
                Step::Pattern(replace) => {
                    // The library fails only where its regular expression does; then the text stays as it is.
                    text = replace.decode_chain(vec![text.clone()]).map_or(text, |texts| texts.concat());
                }
                Step::Spaced => text.insert(0, ' '),
                Step::WordPiece { prefix, cleanup } => {
                    text = match text.strip_prefix(prefix) {
                        Some(continued) => continued.to_owned(),
                        None => format!(" {text}"),
                    };
                    if *cleanup {
                        text = wordpiece::cleanup(&text);
                    }
                }
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        return vec![byte];
                    }
                }
                Step::ByteLevel => {
                    if let Some(bytes) = text.chars().map(character_byte).collect() {
                        return bytes;
                    }
                }
            }
        }
        text.into_bytes()
    }
}

/// The byte of a token like `<0x0A>`.
pub(super) fn fallback_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_byte { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Bytes and kind of every id.
#[derive(Debug, Clone, Default)]
pub(super) struct TokenTable {
    /// The bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Where a token's bytes begin. `[ids + 1]`
    starts: Vec<u32>,
    natures: Vec<Nature>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// No token has this id.
    Missing,
    Text,
    Special,
}

impl TokenTable {
    /// `added` gives, by id, an added token as it is found in a text. Decoders treat it like any other token.
    pub fn new(
        tokens: &[Option<TokenEntry>],
        decoding: &Decoding,
        added: impl Fn(u32) -> Option<String>,
    ) -> Result<Self, TokenizerError> {
        let mut table = Self { starts: vec![0], ..Self::default() };
        for (token, id) in tokens.iter().zip(0..) {
            let nature = match token {
                None => Nature::Missing,
                Some(token) => {
                    let found = if token.added { added(id) } else { None };
                    table.bytes.extend(decoding.bytes(found.as_deref().unwrap_or(&token.text)));
                    if token.special { Nature::Special } else { Nature::Text }
                }
            };
            if table.bytes.len() > MAX_TABLE_BYTES {
                let problem = format!("the tokens have more than {MAX_TABLE_BYTES} bytes in all");
                return Err(TokenizerError::field("decoder", problem));
            }
            table.natures.push(nature);
            table.starts.push(table.bytes.len() as u32);
        }
        Ok(table)
    }

    /// One more than the largest id.
    pub fn len(&self) -> usize {
        self.natures.len()
    }

    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        match self.natures.get(id)? {
            Nature::Missing => None,
            _ => Some(&self.bytes[self.starts[id] as usize..self.starts[id + 1] as usize]),
        }
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.natures.get(id as usize) == Some(&Nature::Special)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255 {
            let character = byte_character(byte);
            assert!(seen.insert(character));
            assert_eq!(character_byte(character), Some(byte));
        }
        assert_eq!((byte_character(b' '), byte_character(b'\n'), byte_character(b'a')), ('Ġ', 'Ċ', 'a'));
        for character in [' ', '\u{ad}', '\u{7f}', '\u{144}', '▁', '日'] {
            assert_eq!(character_byte(character), None, "{character:?}");
        }
    }

    #[test]
    fn only_two_hex_digits_are_a_fallback_byte() {
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
        assert_eq!(fallback_byte("<0xff>"), Some(255));
        for text in ["<0x-1>", "<0xZZ>", "<0x0>", "<0x0A0>", "<0x+A>", "0x0A", "<0xé>"] {
            assert_eq!(fallback_byte(text), None, "{text}");
        }
    }
}
