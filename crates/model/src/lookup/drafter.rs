//! The draft of one text.

use super::grams::{Grams, Match};
use super::pace::{MOST_TOKENS, Offer, Pace};
use super::{Corpus, Lookup};

/// The largest index of a text, in entries of 4 bytes.
const MOST_ENTRIES: usize = 1 << 18;

/// What a text has looked up: where its latest tokens stood before, and the draft that follows from it.
///
/// A match is followed token by token for as long as it says what comes, also in runs without a draft: so it is known
/// what drafts would be worth.
#[derive(Debug)]
pub(crate) struct Drafter {
    lookup: Lookup,
    grams: Grams,
    found: Option<Found>,
    /// The latest token of the text and the draft, if there is one.
    run: Vec<u32>,
}

/// A match and where it is.
#[derive(Clone, Copy, Debug)]
struct Found {
    at: Match,
    in_corpus: bool,
}

impl Drafter {
    /// Of a text that may have so many tokens.
    pub(crate) fn new(lookup: Lookup, tokens: usize) -> Self {
        let grams = Grams::for_tokens(tokens, MOST_ENTRIES);
        Self { lookup, grams, found: None, run: Vec::with_capacity(MOST_TOKENS) }
    }

    /// The text has other tokens than before.
    pub(crate) fn restart(&mut self) {
        self.grams.clear();
        self.found = None;
        self.run.clear();
    }

    /// What it could draft after `text`, at most `most` tokens; `None` if nothing.
    pub(crate) fn offer(&mut self, text: &[u32], most: usize) -> Option<Offer> {
        self.run.clear();
        if self.found.is_none() {
            self.found = self.find(text);
        }
        let Found { at, in_corpus } = self.found?;
        (most > 0).then_some(Offer { length: at.length, in_corpus, most })
    }

    /// The longest match; of equal ones that in the text.
    fn find(&mut self, text: &[u32]) -> Option<Found> {
        self.grams.extend(text);
        let here = self.grams.find(text, text).map(|at| Found { at, in_corpus: false });
        let there = self.corpus().and_then(|corpus| corpus.grams.find(&corpus.tokens, text));
        let there = there.map(|at| Found { at, in_corpus: true });
        match (here, there) {
            (Some(here), Some(there)) if here.at.length >= there.at.length => Some(here),
            (here, there) => there.or(here),
        }
    }

    fn corpus(&self) -> Option<&Corpus> {
        self.lookup.corpus.as_deref()
    }

    /// The token that the match expects `ahead` tokens after the end of `text`.
    fn expected(&self, text: &[u32], ahead: usize) -> Option<u32> {
        let Found { at, in_corpus } = self.found?;
        let place = at.place + ahead;
        if in_corpus {
            return self.corpus()?.tokens.get(place).copied();
        }
        // A match that overlaps the end of the text has a period; the draft goes on in it.
        let period = text.len() - at.place;
        text.get(at.place + ahead % period).copied()
    }

    /// Drafts so many tokens, or as many as there are below `vocab`.
    pub(crate) fn draft(&mut self, text: &[u32], count: usize, vocab: usize) {
        self.run.clear();
        let Some(latest) = text.last() else { return };
        self.run.push(*latest);
        for ahead in 0..count {
            let Some(token) = self.expected(text, ahead).filter(|token| (*token as usize) < vocab) else { break };
            self.run.push(token);
        }
        if self.run.len() == 1 {
            self.run.clear();
        }
    }

    /// Gives the draft up.
    pub(crate) fn drop_draft(&mut self) {
        self.run.clear();
    }

    /// The latest token of the text and the draft after it; empty without a draft.
    pub(crate) fn run(&self) -> &[u32] {
        &self.run
    }

    /// The latest token of `text` was chosen: whether it is the expected one tells what later drafts are worth.
    pub(crate) fn was_chosen(&mut self, text: &[u32], pace: &mut Pace) {
        let (Some(found), Some((token, before))) = (self.found, text.split_last()) else { return };
        let Some(expected) = self.expected(before, 0) else {
            self.found = None;
            return;
        };
        pace.compared(found.at.length, found.in_corpus, expected == *token);
        self.found = (expected == *token).then(|| {
            let at = Match { place: found.at.place + 1, length: found.at.length + 1 };
            Found { at, ..found }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafted(drafter: &mut Drafter, text: &[u32], count: usize) -> Vec<u32> {
        drafter.offer(text, count);
        drafter.draft(text, count, 1000);
        drafter.run().to_vec()
    }

    #[test]
    fn a_draft_is_what_followed_and_goes_on_in_a_period() {
        let mut drafter = Drafter::new(Lookup::in_text(), 100);
        assert_eq!(drafted(&mut drafter, &[1, 2, 3, 4, 5, 1, 2], 3), [2, 3, 4, 5]);
        drafter.restart();
        assert_eq!(drafted(&mut drafter, &[7, 1, 2, 3, 1, 2, 3], 7), [3, 1, 2, 3, 1, 2, 3, 1]);
        drafter.restart();
        assert_eq!(drafted(&mut drafter, &[9, 9, 9], 3), [9, 9, 9, 9]);
        drafter.restart();
        assert_eq!(drafted(&mut drafter, &[1, 2, 3], 3), [] as [u32; 0]);
        assert_eq!(drafted(&mut drafter, &[], 3), [] as [u32; 0]);
    }

    #[test]
    fn the_longer_match_counts_and_the_text_before_the_corpus() {
        let corpus = Lookup::in_corpus(vec![1, 2, 3, 60, 70, 5, 6, 80]);
        let mut drafter = Drafter::new(corpus.clone(), 100);
        // Two tokens in the text, three in the corpus, at whose end the draft ends.
        assert_eq!(drafted(&mut drafter, &[9, 2, 3, 4, 1, 2, 3], 9), [3, 60, 70, 5, 6, 80]);
        assert!(drafter.offer(&[9, 2, 3, 4, 1, 2, 3], 9).is_some_and(|offer| offer.in_corpus && offer.length == 3));
        let mut drafter = Drafter::new(corpus, 100);
        assert_eq!(drafted(&mut drafter, &[5, 6, 7, 8, 5, 6], 2), [6, 7, 8]);
    }

    #[test]
    fn a_match_is_followed_while_it_is_right() {
        let (mut pace, mut text) = (Pace::default(), vec![1, 2, 3, 4, 5, 1, 2]);
        let mut drafter = Drafter::new(Lookup::in_text(), 100);
        for (length, token) in [(2, 3), (3, 4), (4, 5), (5, 1), (6, 2), (7, 9)] {
            assert_eq!(drafter.offer(&text, 4), Some(Offer { length, in_corpus: false, most: 4 }));
            text.push(token);
            drafter.was_chosen(&text, &mut pace);
        }
        assert_eq!(drafter.offer(&text, 4), None, "nothing ends with 2, 9");
    }

    /// What no run could take ends a draft.
    #[test]
    fn tokens_beyond_the_vocabulary_are_not_drafted() {
        let mut drafter = Drafter::new(Lookup::in_corpus(vec![1, 2, 3, 1000, 4]), 100);
        assert_eq!(drafted(&mut drafter, &[1, 2], 3), [2, 3]);
        let mut drafter = Drafter::new(Lookup::in_corpus(vec![1, 2, 1000, 4]), 100);
        assert_eq!(drafted(&mut drafter, &[1, 2], 3), [] as [u32; 0]);
    }
}
