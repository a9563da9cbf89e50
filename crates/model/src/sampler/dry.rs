//! DRY, "don't repeat yourself": a penalty of tokens that would continue a repetition (p-e-w, "DRY: A modern repetition
//! penalty that reliably prevents looping", text-generation-webui pull request 5677, 2024; sequence breakers as in
//! llama.cpp).
//!
//! ```text
//! L      = the tokens since the latest sequence breaker, at most the window
//! n(t)   = the longest repetition that t would continue: the most tokens, at most L, at the end of the text that also
//!          stand elsewhere in the window, followed by t
//! l(t)  −= multiplier · base ^ (n(t) − allowed_length)     where n(t) ≥ allowed_length and t is no breaker by itself
//! ```
//!
//! n comes from the Z-algorithm on the reversed window (Gusfield, "Algorithms on Strings, Trees, and Sequences", 1997,
//! section 1.3): linear in the window.

use super::config::Dry;
use super::history::{Counts, History};

/// Memory of DRY for one text.
#[derive(Debug, Clone, Default)]
pub(super) struct Repetitions {
    /// At most `[window]`: the latest tokens, the newest first.
    newest: Vec<u32>,
    /// At most `[window]`: how many tokens from here on, backwards, are equal to those from the end on.
    lengths: Vec<u32>,
    /// The first token of each breaker and the tokens that follow it, sorted.
    breakers: Vec<(u32, Vec<u32>)>,
}

impl Repetitions {
    /// Memory for these settings.
    pub(super) fn new(dry: &Dry) -> Self {
        let split = dry.breakers.iter().filter_map(|breaker| breaker.split_first());
        let mut breakers: Vec<_> = split.map(|(head, tail)| (*head, tail.to_vec())).collect();
        breakers.sort_unstable();
        breakers.dedup();
        Self { newest: Vec::with_capacity(dry.window), lengths: Vec::with_capacity(dry.window), breakers }
    }

    /// Penalises `logits`, `[vocabulary]`, for the repetitions in `history`.
    pub(super) fn penalise(&mut self, dry: &Dry, history: &History, logits: &mut [f32], counts: &mut Counts) {
        self.newest.clear();
        self.newest.extend(history.latest(dry.window));
        let limit = self.since_breaker();
        if self.newest.len() <= dry.allowed_length || limit < dry.allowed_length {
            return;
        }
        self.measure();
        counts.reset();
        // The token before the end of an equal sequence, read backwards, is the one that followed it.
        let followed = || self.lengths.iter().skip(1).zip(&self.newest);
        for (&length, &token) in followed() {
            let length = (length as usize).min(limit);
            if length >= dry.allowed_length
                && let Some(longest) = counts.of(token)
            {
                // 0 stands for a token that continues nothing.
                *longest = (*longest).max(length as u32 + 1);
            }
        }
        for (_, &token) in followed() {
            // Each token once, though it may continue several repetitions.
            let Some(length) = counts.of(token).map_or(0, std::mem::take).checked_sub(1) else { continue };
            if self.tails(token).any(<[u32]>::is_empty) {
                continue;
            }
            let penalty =
                f64::from(dry.multiplier) * f64::from(dry.base).powf(length as f64 - dry.allowed_length as f64);
            let logit = &mut logits[token as usize];
            if *logit > f32::NEG_INFINITY {
                // A penalty, however large, forbids nothing.
                *logit = (*logit - penalty.min(f64::from(f32::MAX)) as f32).max(f32::MIN);
            }
        }
    }

    /// The number of tokens since the latest breaker; all if there is none.
    fn since_breaker(&self) -> usize {
        for (index, &token) in self.newest.iter().enumerate() {
            let newer = &self.newest[..index];
            let follows = |tail: &&[u32]| tail.iter().eq(newer.iter().rev().take(tail.len()));
            if let Some(tail) = self.tails(token).filter(follows).max_by_key(|tail| tail.len()) {
                return index - tail.len();
            }
        }
        self.newest.len()
    }

    /// What follows `head` in each breaker that begins with it.
    fn tails(&self, head: u32) -> impl Iterator<Item = &[u32]> {
        let first = self.breakers.partition_point(|(token, _)| *token < head);
        self.breakers[first..].iter().take_while(move |(token, _)| *token == head).map(|(_, tail)| tail.as_slice())
    }

    /// Fills `lengths` by the Z-algorithm.
    fn measure(&mut self) {
        let tokens = &self.newest;
        self.lengths.clear();
        self.lengths.resize(tokens.len(), 0);
        // `tokens[begin..end]` is equal to the first tokens, and no such range found so far ends later.
        let (mut begin, mut end) = (0, 0);
        for start in 1..tokens.len() {
            let mut length = 0;
            if start < end {
                length = (self.lengths[start - begin] as usize).min(end - start);
            }
            while start + length < tokens.len() && tokens[length] == tokens[start + length] {
                length += 1;
            }
            if start + length > end {
                (begin, end) = (start, start + length);
            }
            self.lengths[start] = length as u32;
        }
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> [usize; 4] {
        let (newest, lengths) = (&self.newest, &self.lengths);
        [newest.as_ptr() as usize, newest.capacity(), lengths.as_ptr() as usize, lengths.capacity()]
    }
}
