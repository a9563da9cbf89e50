//! The latest tokens of a text, and counts of tokens.

/// The latest tokens of a text, a ring of fixed size.
#[derive(Debug, Clone)]
pub(super) struct History {
    /// At most `size`; `tokens[oldest]` is the next to be overwritten once they are that many.
    tokens: Vec<u32>,
    oldest: usize,
    size: usize,
}

impl History {
    /// Memory for the latest `size` tokens.
    pub(super) fn new(size: usize) -> Self {
        Self { tokens: Vec::with_capacity(size), oldest: 0, size }
    }

    /// Adds tokens, oldest first.
    pub(super) fn extend(&mut self, tokens: &[u32]) {
        for &token in &tokens[tokens.len().saturating_sub(self.size)..] {
            if self.tokens.len() < self.size {
                self.tokens.push(token);
            } else {
                self.tokens[self.oldest] = token;
                self.oldest = (self.oldest + 1) % self.size;
            }
        }
    }

    /// The latest `count` tokens, or as many as there are, the newest first.
    pub(super) fn latest(&self, count: usize) -> impl Iterator<Item = u32> + '_ {
        let (newer, older) = self.tokens.split_at(self.oldest);
        newer.iter().rev().chain(older.iter().rev()).take(count).copied()
    }

    /// All tokens, oldest first.
    pub(super) fn to_vec(&self) -> Vec<u32> {
        let (newer, older) = self.tokens.split_at(self.oldest);
        [older, newer].concat()
    }

    /// Forgets all tokens.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.oldest = 0;
    }

    #[cfg(test)]
    pub(super) fn place(&self) -> (usize, usize) {
        (self.tokens.as_ptr() as usize, self.tokens.capacity())
    }
}

/// A number for each token of the vocabulary, all set to 0 in constant time.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    /// `[vocabulary]`: a number and the round in which it holds; in other rounds it is 0.
    counts: Vec<(u32, u32)>,
    round: u32,
}

impl Counts {
    pub(super) fn new(vocabulary: usize) -> Self {
        Self { counts: vec![(0, 0); vocabulary], round: 0 }
    }

    /// Sets all to 0.
    pub(super) fn reset(&mut self) {
        if self.round == u32::MAX {
            self.counts.fill((0, 0));
            self.round = 0;
        }
        self.round += 1;
    }

    /// The number of a token; `None` for tokens outside the vocabulary, which a prompt may hold.
    pub(super) fn of(&mut self, token: u32) -> Option<&mut u32> {
        let (count, round) = self.counts.get_mut(token as usize)?;
        if *round != self.round {
            (*count, *round) = (0, self.round);
        }
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_keeps_the_latest() {
        let mut history = History::new(3);
        history.extend(&[1, 2]);
        assert_eq!(history.latest(9).collect::<Vec<_>>(), [2, 1]);
        history.extend(&[3, 4]);
        assert_eq!(history.latest(9).collect::<Vec<_>>(), [4, 3, 2]);
        assert_eq!(history.latest(2).collect::<Vec<_>>(), [4, 3]);
        history.extend(&[5, 6, 7, 8, 9]);
        assert_eq!(history.to_vec(), [7, 8, 9]);
        history.clear();
        assert_eq!(history.latest(1).next(), None);
        let mut none = History::new(0);
        none.extend(&[1, 2]);
        assert_eq!(none.latest(9).next(), None);
    }

    #[test]
    fn counts_are_reset_also_when_the_rounds_run_out() {
        let mut counts = Counts::new(2);
        for round in [0, u32::MAX - 2] {
            counts.round = round;
            for _ in 0..4 {
                counts.reset();
                assert_eq!(counts.of(1), Some(&mut 0));
                *counts.of(1).unwrap() += 5;
                assert_eq!(counts.of(1), Some(&mut 5));
            }
        }
        assert_eq!(counts.of(2), None);
    }
}
