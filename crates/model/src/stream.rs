//! From the bytes of tokens to printable text: characters are never split, and no part of a stop string is shown.
//!
//! A token of a byte-level vocabulary may end in the middle of a character, and a stop string may begin in one token
//! and end three tokens later. [`TextStream`] returns text only once it is decided: whole characters, and none that may
//! still belong to a stop string. The pieces, joined, do not depend on how the bytes were divided into tokens.
//!
//! ```
//! use smallmind_model::stream::{StopStrings, TextStream};
//!
//! let mut stream = TextStream::new(StopStrings::new(["The end"]).unwrap());
//! assert_eq!(stream.push(b"caf\xc3"), "caf"); // half an é waits for its second byte
//! assert_eq!(stream.push(b"\xa9. Th"), "é. "); // "Th" may become a stop string
//! assert_eq!(stream.push(b"ey sang. The"), "They sang. "); // it did not
//! assert_eq!(stream.push(b" end of it"), "");
//! assert_eq!(stream.stopped(), Some("The end"));
//! ```
//!
//! Not here: end-of-text *tokens*. The code that chooses tokens sees these before they have bytes.

use thiserror::Error;

/// Capacity for the text of one token, so that an ordinary stream allocates only when it is made.
const TEXT_CAPACITY: usize = 1024;

/// Why a list of stop strings is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StopStringError {
    /// An empty stop string would stop every text before its first character.
    #[error("stop string {index} is empty; a stop string has at least one character")]
    Empty {
        /// Position in the list.
        index: usize,
    },
}

/// Stop strings and how far each has been matched.
///
/// The text stops where the first stop string *ends*; of two that end at the same position the longer one counts. Both
/// depend only on the text, not on how it is divided.
///
/// Each string runs its own Knuth–Morris–Pratt automaton (Knuth, Morris and Pratt, "Fast Pattern Matching in Strings",
/// SIAM J. Comput. 6(2), 1977): `matched` is the length of its longest prefix that ends the text so far. The longest of
/// these over all strings must be held back.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
}

/// One stop string with its automaton.
#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    /// `border[n]`: the length of the longest proper prefix of `text[..n]` that is also its suffix. `[len + 1]`
    border: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut border = vec![0; bytes.len() + 1];
        let mut length = 0;
        for n in 1..bytes.len() {
            while length > 0 && bytes[n] != bytes[length] {
                length = border[length];
            }
            if bytes[n] == bytes[length] {
                length += 1;
            }
            border[n + 1] = length;
        }
        Self { text, border, matched: 0 }
    }

    /// Takes the next byte of the text; returns whether the text now ends with the string.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        if self.matched == bytes.len() {
            self.matched = self.border[self.matched];
        }
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.border[self.matched];
        }
        if bytes[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == bytes.len()
    }
}

impl StopStrings {
    /// Prepares the given strings.
    ///
    /// # Errors
    /// [`StopStringError::Empty`] if one of them is empty.
    pub fn new<S: Into<String>>(strings: impl IntoIterator<Item = S>) -> Result<Self, StopStringError> {
        let mut patterns = Vec::new();
        for (index, text) in strings.into_iter().enumerate() {
            let text = text.into();
            if text.is_empty() {
                return Err(StopStringError::Empty { index });
            }
            patterns.push(Pattern::new(text));
        }
        Ok(Self { patterns })
    }

    /// No stop string: text passes through unchanged.
    pub fn none() -> Self {
        Self::default()
    }

    /// The strings, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|pattern| pattern.text.as_str())
    }

    /// Takes the next byte; returns the index of the longest string that ends with it, if there is one.
    fn step(&mut self, byte: u8) -> Option<usize> {
        let mut found: Option<usize> = None;
        for index in 0..self.patterns.len() {
            if self.patterns[index].step(byte) {
                let longest = found.map_or(0, |f| self.patterns[f].text.len());
                if self.patterns[index].text.len() > longest {
                    found = Some(index);
                }
            }
        }
        found
    }

    /// How many bytes at the end of the text so far may be the beginning of a stop string.
    fn undecided(&self) -> usize {
        self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0)
    }
}

/// Turns bytes into characters, a piece at a time.
///
/// Invalid sequences become U+FFFD by the rule of [`String::from_utf8_lossy`] (one for each maximal subpart, Unicode
/// 15.0, section 3.9), so that the pieces joined equal the lossy decoding of all bytes at once.
#[derive(Debug, Clone, Default)]
struct Utf8Decoder {
    /// The beginning of a character that is not complete yet.
    partial: [u8; 4],
    partial_len: usize,
}

impl Utf8Decoder {
    /// Appends the characters that `bytes` completes to `text`.
    fn push(&mut self, mut bytes: &[u8], text: &mut String) {
        while self.partial_len > 0 && !bytes.is_empty() {
            self.partial[self.partial_len] = bytes[0];
            match std::str::from_utf8(&self.partial[..self.partial_len + 1]) {
                Ok(character) => {
                    text.push_str(character);
                    self.partial_len = 0;
                    bytes = &bytes[1..];
                }
                Err(error) if error.error_len().is_none() => {
                    self.partial_len += 1;
                    bytes = &bytes[1..];
                }
                // The new byte cannot continue the character: what is held is invalid, and the byte begins a new
                // character.
                Err(_) => self.finish(text),
            }
        }
        while !bytes.is_empty() {
            match std::str::from_utf8(bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    bytes = &[];
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            bytes = &rest[length..];
                        }
                        None => {
                            self.partial[..rest.len()].copy_from_slice(rest);
                            self.partial_len = rest.len();
                            bytes = &[];
                        }
                    }
                }
            }
        }
    }

    /// Replaces an incomplete character at the end.
    fn finish(&mut self, text: &mut String) {
        if self.partial_len > 0 {
            text.push(char::REPLACEMENT_CHARACTER);
            self.partial_len = 0;
        }
    }
}

/// Takes a text as the bytes of tokens, and returns it in pieces that can be shown.
///
/// The pieces that [`push`](Self::push) and [`finish`](Self::finish) return, joined, are the lossy UTF-8 decoding of
/// all bytes, up to the stop string that ends first. Holds back at most three bytes plus the longest stop string, and
/// allocates only for a token or stop string that is longer than any before it.
#[derive(Debug, Clone)]
pub struct TextStream {
    decoder: Utf8Decoder,
    stops: StopStrings,
    stopped: Option<usize>,
    drop_leading_space: bool,
    /// Characters of the current call that have not been compared with the stop strings yet.
    decoded: String,
    /// Characters that may be the beginning of a stop string.
    held: String,
    /// What the current call returns.
    ready: String,
}

impl TextStream {
    /// A stream that ends at the given stop strings.
    pub fn new(stops: StopStrings) -> Self {
        let longest = stops.iter().map(str::len).max().unwrap_or(0);
        Self {
            decoder: Utf8Decoder::default(),
            stops,
            stopped: None,
            drop_leading_space: false,
            decoded: String::with_capacity(TEXT_CAPACITY),
            held: String::with_capacity(TEXT_CAPACITY + longest),
            ready: String::with_capacity(TEXT_CAPACITY + longest),
        }
    }

    /// Drops one space at the very beginning of the text.
    ///
    /// Vocabularies in the manner of SentencePiece write the first word of a text with a space before it. It is dropped
    /// when the stream is a whole text, and kept when it continues one.
    pub fn without_leading_space(mut self) -> Self {
        self.drop_leading_space = true;
        self
    }

    /// Takes the bytes of the next token; returns the text that is decided by now, often an empty piece.
    ///
    /// Once a stop string is complete, everything after it is ignored and the result is empty.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.ready.clear();
        if self.stopped.is_none() {
            self.decoded.clear();
            self.decoder.push(bytes, &mut self.decoded);
            self.decide();
        }
        &self.ready
    }

    /// What the latest [`push`](Self::push) or [`finish`](Self::finish) returned.
    pub fn piece(&self) -> &str {
        &self.ready
    }

    /// Ends the text: returns what was held back. An incomplete character becomes U+FFFD.
    pub fn finish(&mut self) -> &str {
        self.ready.clear();
        if self.stopped.is_none() {
            self.decoded.clear();
            self.decoder.finish(&mut self.decoded);
            self.decide();
            self.ready.push_str(&self.held);
            self.held.clear();
        }
        &self.ready
    }

    /// The stop string that ended the text, if one has.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.map(|index| self.stops.patterns[index].text.as_str())
    }

    /// Moves the decided characters from `decoded` to `ready`, the others to `held`.
    fn decide(&mut self) {
        let mut text = self.decoded.as_str();
        if self.drop_leading_space && !text.is_empty() {
            text = text.strip_prefix(' ').unwrap_or(text);
            self.drop_leading_space = false;
        }
        for character in text.chars() {
            self.held.push(character);
            let mut utf8 = [0; 4];
            for &byte in character.encode_utf8(&mut utf8).as_bytes() {
                // A stop string ends with a character, so no byte of this character remains.
                if let Some(index) = self.stops.step(byte) {
                    let kept = self.held.len() - self.stops.patterns[index].text.len();
                    self.ready.push_str(&self.held[..kept]);
                    self.held.clear();
                    self.stopped = Some(index);
                    return;
                }
            }
        }
        // A stop string begins with a character, so the text is divided between characters.
        let decided = self.held.len() - self.stops.undecided();
        self.ready.push_str(&self.held[..decided]);
        self.held.drain(..decided);
    }
}
