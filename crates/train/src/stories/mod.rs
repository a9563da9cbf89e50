//! The built-in corpus: simple children's stories from a grammar, so that a first model needs no download.
//!
//! A story is made from a **plot** (a quarrel, a wish, a broken toy …), a **frame** (a thing, a trouble and a remedy
//! that fit together), a **cast** (hero, friend, elder, place; names, pronouns and places stay the same to the end) and
//! chosen wordings. It has about a hundred words in ASCII, in the past tense, with dialogue. There are few names and
//! things, so that a model learns in a minute of training to keep them throughout a story; plots and wordings vary.
//! [`inconsistencies`] finds where a text does not keep them.
//!
//! ```
//! use smallmind_train::stories::{Split, Stories, write_corpus};
//!
//! for story in Stories::new(1337).take(2) {
//!     println!("{story}\n");
//! }
//! let train = write_corpus(1337, 100_000, Split::Train);
//! let validation = write_corpus(1337, 10_000, Split::Validation);
//! assert!(train.len() >= 100_000 && validation.len() >= 10_000);
//! ```
//!
//! * **Documents.** Single line feeds separate the paragraphs of a story, and a blank line separates stories.
//!   [`documents`] divides such a text again. The text has no marker such as `<|endoftext|>`: the end-of-text *token*
//!   is added when it is tokenized, if the vocabulary has one.
//! * **Deterministic.** Story `index` of `seed` depends only on these two numbers and is computed with integers: it is
//!   the same on every platform and with every compiler.
//! * **The splits never share a story**, whatever their seeds: the split depends only on the story's text
//!   ([`split_of`]). About one story in twenty is for validation.

mod cast;
mod consistency;
mod grammar;
mod outline;
#[cfg(test)]
mod tests;

pub use consistency::{Inconsistency, inconsistencies};

pub use crate::data::Split;
use crate::random::{self, SplitMix64};
use grammar::Grammar;
use outline::Outline;
use std::sync::OnceLock;

/// One story in this many belongs to [`Split::Validation`].
const VALIDATION_ONE_IN: u64 = 20;

/// The text between two stories of a corpus.
const BETWEEN: &str = "\n\n";

/// The split of a story, which depends only on its text. About 95 % of stories are for training.
#[must_use]
pub fn split_of(story: &str) -> Split {
    if random::hash(story).is_multiple_of(VALIDATION_ONE_IN) { Split::Validation } else { Split::Train }
}

/// An endless iterator over stories.
#[derive(Clone, Debug)]
pub struct Stories {
    seed: u64,
    next: u64,
    split: Option<Split>,
}

impl Stories {
    /// All stories of a seed, of both splits.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, next: 0, split: None }
    }

    /// The stories of a seed that belong to `split`.
    #[must_use]
    pub fn of(seed: u64, split: Split) -> Self {
        Self { seed, next: 0, split: Some(split) }
    }
}

impl Iterator for Stories {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            let text = story(self.seed, self.next);
            self.next = self.next.wrapping_add(1);
            if self.split.is_none_or(|split| split == split_of(&text)) {
                return Some(text);
            }
        }
    }
}

/// Story `index` of `seed`.
#[must_use]
pub fn story(seed: u64, index: u64) -> String {
    let grammar = built_in();
    let mut rng = SplitMix64::of_item(seed, index);
    Outline::draw(grammar, &mut rng).map(|outline| outline.text(grammar, &mut rng)).unwrap_or_default()
}

/// The corpus of a seed: whole stories of `split`, separated by blank lines, until there are at least `bytes` bytes.
/// Empty if `bytes` is 0.
///
/// A longer corpus of the same seed and split begins with the same stories.
#[must_use]
pub fn write_corpus(seed: u64, bytes: usize, split: Split) -> String {
    /// The most bytes that are reserved at once, so that a wrong `bytes` doesn't reserve all memory.
    const RESERVE: usize = 64 << 20;
    let mut text = String::with_capacity(bytes.min(RESERVE) + 2048);
    let mut stories = Stories::of(seed, split);
    while text.len() < bytes {
        if !text.is_empty() {
            // The previous story ends with the first of the two line feeds.
            text.push_str(&BETWEEN[1..]);
        }
        text.extend(stories.next());
        text.push('\n');
    }
    text
}

/// The documents of a text, separated by blank lines; empty documents are left out.
pub fn documents(text: &str) -> impl Iterator<Item = &str> {
    text.split(BETWEEN).map(|document| document.trim_matches('\n')).filter(|document| !document.is_empty())
}

/// The titles of all plots.
pub fn plots() -> impl Iterator<Item = &'static str> {
    built_in().plots.iter().map(|plot| plot.title)
}

/// The grammar of the built-in stories.
fn built_in() -> &'static Grammar {
    static GRAMMAR: OnceLock<Grammar> = OnceLock::new();
    GRAMMAR.get_or_init(|| {
        let files = [
            ("shared.txt", include_str!("plots/shared.txt")),
            ("friends.txt", include_str!("plots/friends.txt")),
            ("home.txt", include_str!("plots/home.txt")),
            ("adventures.txt", include_str!("plots/adventures.txt")),
        ];
        // The files are part of the program, so every test finds a mistake in them.
        grammar::parse(&files).unwrap_or_else(|error| panic!("built-in stories: {error}"))
    })
}
