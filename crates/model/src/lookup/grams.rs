//! Where n-grams stand in a list of tokens.

/// The lengths of the n-grams that are looked up, the longest first. Fitted to source files and stories, so that their
/// tokens come in little time where a run of 16 tokens takes as long as 2 to 4 of one.
const LENGTHS: [usize; 4] = [6, 4, 2, 1];

/// The longest match that is told from longer ones.
const LONGEST: usize = 32;

/// The fewest entries of an index.
const FEWEST_ENTRIES: usize = 1 << 10;

/// For n-grams of a list of tokens, the place after their latest occurrence.
///
/// A hash table with one place in each entry: a later n-gram takes the entry of an earlier one. What an entry says is
/// compared with the tokens, so a collision costs a match and nothing else. Only the list may grow; the table does not.
#[derive(Debug)]
pub(super) struct Grams {
    /// Index of the token after the n-gram; 0 if there is none. `[a power of two]`
    places: Box<[u32]>,
    /// As many tokens are known as continuations.
    indexed: usize,
}

/// Where the latest tokens stood before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    /// Index of the token after them.
    pub(super) place: usize,
    /// How many tokens are equal, at most [`LONGEST`].
    pub(super) length: usize,
}

impl Grams {
    /// An index for about so many tokens, with at most `most_entries`, a power of two.
    pub(super) fn for_tokens(tokens: usize, most_entries: usize) -> Self {
        let wanted = tokens.saturating_mul(LENGTHS.len()).min(most_entries).max(FEWEST_ENTRIES);
        Self { places: vec![0; wanted.next_power_of_two()].into(), indexed: 0 }
    }

    /// Adds the n-grams of `text` that are followed by a token. All tokens that were there in the call before must be
    /// the same.
    pub(super) fn extend(&mut self, text: &[u32]) {
        for place in self.indexed..text.len().min(u32::MAX as usize) {
            for length in LENGTHS.into_iter().filter(|length| *length <= place) {
                let slot = self.slot(&text[place - length..place]);
                self.places[slot] = place as u32;
            }
        }
        self.indexed = self.indexed.max(text.len());
    }

    /// Forgets all tokens.
    pub(super) fn clear(&mut self) {
        self.places.fill(0);
        self.indexed = 0;
    }

    /// Where in `text`, which the index is of, the last tokens of `latest` stood, by the longest n-gram of them that is
    /// there.
    pub(super) fn find(&self, text: &[u32], latest: &[u32]) -> Option<Match> {
        LENGTHS.into_iter().filter(|length| *length <= latest.len()).find_map(|length| {
            let place = self.places[self.slot(&latest[latest.len() - length..])] as usize;
            let before = text.get(..place).filter(|_| place < text.len())?;
            let pairs = before.iter().rev().zip(latest.iter().rev());
            let equal = pairs.take(LONGEST).take_while(|(a, b)| a == b).count();
            (equal >= length).then_some(Match { place, length: equal })
        })
    }

    fn slot(&self, gram: &[u32]) -> usize {
        // Fibonacci hashing: the upper bits of a product with the golden ratio depend on all bits below.
        const RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |hash: u64, token: &u32| (hash.rotate_left(29) ^ u64::from(*token)).wrapping_mul(RATIO);
        let hash = gram.iter().fold(gram.len() as u64, mix);
        (hash >> (u64::BITS - self.places.len().trailing_zeros())) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest n-gram in a match of that length.
    fn gram(length: usize) -> usize {
        LENGTHS.into_iter().find(|gram| *gram <= length).unwrap_or(0)
    }

    /// The longest n-gram that is found by trying all places, and the latest of these.
    fn naive(text: &[u32], latest: &[u32]) -> Option<(usize, usize)> {
        let equal =
            |place: usize| text[..place].iter().rev().zip(latest.iter().rev()).take_while(|(a, b)| a == b).count();
        (1..text.len()).map(|place| (gram(equal(place)), place)).max().filter(|(length, _)| *length > 0)
    }

    /// As found by trying all places, but for the few n-grams whose entry another has taken.
    #[test]
    fn the_latest_place_of_the_longest_gram_is_found() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % below) as u32
        };
        for letters in [2, 3, 8, 40] {
            let text: Vec<u32> = (0..300).map(|_| random(letters)).collect();
            let mut grams = Grams::for_tokens(1 << 16, 1 << 18);
            let mut others = 0;
            for len in 1..text.len() {
                grams.extend(&text[..len]);
                // The latest tokens of the list, and those of another.
                let other: Vec<u32> = (0..5).map(|_| random(letters)).collect();
                for latest in [&text[..len], &other] {
                    let found = grams.find(&text[..len], latest);
                    let found = found.map(|found| (gram(found.length), found.place));
                    others += usize::from(found != naive(&text[..len], latest));
                }
            }
            assert!(others < 6, "{others} of {letters} letters");
            grams.clear();
            assert_eq!(grams.find(&text, &text), None);
        }
    }

    #[test]
    fn a_match_is_as_long_as_what_is_equal() {
        let text: Vec<u32> = (0..100).chain(0..100).collect();
        let mut grams = Grams::for_tokens(text.len(), 1 << 18);
        for (len, length) in [(102, 2), (107, 7), (131, 31), (132, 32), (150, 32)] {
            grams.extend(&text[..len]);
            assert_eq!(grams.find(&text[..len], &text[..len]), Some(Match { place: len - 100, length }));
        }
    }

    /// What a table is too small for is forgotten, and never found at a wrong place.
    #[test]
    fn a_small_table_has_the_later_ones() {
        let text: Vec<u32> = (0..100_000).collect();
        let mut grams = Grams::for_tokens(text.len(), 1 << 10);
        grams.extend(&text);
        let found = |at: usize| grams.find(&text, &text[at - 4..at]);
        assert_eq!(found(99_999), Some(Match { place: 99_999, length: 4 }));
        let known = (10..100_000).filter(|at| found(*at).is_some()).count();
        assert!((100..1100).contains(&known), "{known}");
        (10..100_000).filter_map(|at| Some((at, found(at)?))).for_each(|(at, found)| assert_eq!(found.place, at));
    }
}
