//! From logits to the next token.
//!
//! [`Sampler::sample`] is a chain of logit processors, each a method, in the order of Hugging Face's `generate`:
//!
//! * `repetition_penalty` penalises each distinct token of the window by θ: `l / θ` where `l > 0`, else `l · θ` (Keskar
//!   et al., "CTRL", 2019, section 4.1, in the form that also works for negative logits);
//! * `top_k` keeps the k largest logits (Fan et al., "Hierarchical Neural Story Generation", 2018);
//! * `temperature` gives weights `exp((l − max) / T)`; `T = 0` takes the largest logit instead and ends the chain;
//! * `top_p` keeps the fewest likeliest tokens that together have at least the probability p (Holtzman et al., "The
//!   Curious Case of Neural Text Degeneration", 2019);
//! * `min_p` keeps the tokens at least `min_p` times as likely as the likeliest (Nguyen et al., "Turning Up the Heat",
//!   2024);
//! * `draw` draws one of the remaining tokens, with probabilities in proportion to the weights.
//!
//! The temperature doesn't change ranks, so `top_k` comes before it: only the kept tokens need an exponential.
//!
//! Equal logits rank by token id, the lower first. The same seed and the same logits give the same tokens.
//!
//! Unusual logits have defined results. Any NaN is an error that names its index. A token at −∞ is never drawn; if all
//! are, that is an error. Tokens at +∞ share the whole probability equally.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Top-p without top-k first ranks this many tokens, then four times as many, and so on. Usually a few tokens suffice,
/// and ranking the whole vocabulary would cost more than the rest of the sampler.
const FIRST_RANKED: usize = 64;

/// The longest window of the repetition penalty.
pub const MAX_REPETITION_WINDOW: usize = 1 << 20;

/// How the next token is chosen. The defaults sample from the model's own distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the likeliest token. In `[0, ∞)`.
    pub temperature: f32,
    /// Only the k likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this share of the probability; 1 for all. In `(0, 1]`.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the likeliest; 0 for all. In `[0, 1]`.
    pub min_p: f32,
    /// Makes tokens of the window less likely (above 1) or more likely (below 1); 1 changes nothing. In `(0, ∞)`.
    pub repetition_penalty: f32,
    /// How many of the latest tokens the penalty looks at. In `[0, 2²⁰]`.
    pub repetition_window: usize,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl SamplerConfig {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`SamplerError::Setting`] for the first one outside its range.
    pub fn check(&self) -> Result<(), SamplerError> {
        let setting = |field, value: &dyn ToString, allowed| {
            Err(SamplerError::Setting { field, value: value.to_string(), allowed })
        };
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return setting("temperature", &self.temperature, "a finite number, 0 or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return setting("top_p", &self.top_p, "above 0 and at most 1");
        }
        if !(self.min_p >= 0.0 && self.min_p <= 1.0) {
            return setting("min_p", &self.min_p, "from 0 to 1");
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return setting("repetition_penalty", &self.repetition_penalty, "a finite number above 0");
        }
        if self.repetition_window > MAX_REPETITION_WINDOW {
            return setting("repetition_window", &self.repetition_window, "from 0 to 1048576");
        }
        Ok(())
    }
}

/// Why a sampler cannot be made or cannot choose.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SamplerError {
    /// A setting is outside of its range.
    #[error("{field} is {value}; allowed: {allowed}")]
    Setting {
        /// Name of the field of [`SamplerConfig`].
        field: &'static str,
        /// The value.
        value: String,
        /// The allowed values.
        allowed: &'static str,
    },
    /// A vocabulary without tokens has no next token.
    #[error("the vocabulary is empty")]
    EmptyVocabulary,
    /// The logits do not belong to this vocabulary.
    #[error("{found} logits for a vocabulary of {expected} tokens")]
    Length {
        /// Size of the vocabulary.
        expected: usize,
        /// Number of logits.
        found: usize,
    },
    /// A logit is not a number.
    #[error("the logit of token {index} is not a number")]
    NotANumber {
        /// The first such token.
        index: usize,
    },
    /// Every logit is −∞.
    #[error("every token is excluded: all {vocabulary} logits are minus infinity")]
    NothingLeft {
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A saved state cannot be one that [`Sampler::state`] returned.
    #[error("the saved sampler state is damaged: {problem}")]
    State {
        /// What is wrong with the state.
        problem: &'static str,
    },
}

/// Pseudo-random numbers: xoshiro256++ (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", ACM TOMS
/// 47(4), 2021), seeded by SplitMix64 as its authors advise.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Xoshiro256 {
    state: [u64; 4],
}

impl Xoshiro256 {
    fn new(seed: u64) -> Self {
        let mut counter = seed;
        // SplitMix64 visits each 64-bit value once, so the state is never all zero.
        let state = std::array::from_fn(|_| {
            counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = counter;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self { state }
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    fn next_unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// The state of a sampler between two tokens, which can be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerState {
    /// State of the random numbers.
    rng: [u64; 4],
    /// The tokens in the window of the repetition penalty, oldest first.
    recent: Vec<u32>,
}

/// A token that can still be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    logit: f32,
    /// `exp((logit − max) / temperature)`, in `[0, 1]`: the probability, up to a common factor. 0 until the
    /// temperature.
    weight: f32,
    id: u32,
}

/// The order of the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// By token id.
    Id,
    /// The likeliest first.
    Rank,
}

impl Candidate {
    /// The likelier first; of equal logits (0 equals −0) the lower id first. Logits are never NaN here.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// Working memory for samplers of one vocabulary, one at a time. It is allocated once; choosing a token allocates
/// nothing.
#[derive(Debug, Clone)]
pub struct SamplerScratch {
    /// `[vocabulary]`: for each token the last round in which it was penalised, so that it is penalised once per round.
    penalised: Vec<u64>,
    round: u64,
    /// `[vocabulary]`: the logits after the penalty.
    logits: Vec<f32>,
    /// At most `[vocabulary]`.
    candidates: Vec<Candidate>,
}

impl SamplerScratch {
    /// Memory for a vocabulary of this many tokens.
    ///
    /// # Errors
    /// [`SamplerError::EmptyVocabulary`] for no tokens.
    pub fn new(vocabulary: usize) -> Result<Self, SamplerError> {
        if vocabulary == 0 {
            return Err(SamplerError::EmptyVocabulary);
        }
        Ok(Self {
            penalised: vec![0; vocabulary],
            round: 0,
            logits: vec![0.0; vocabulary],
            candidates: Vec::with_capacity(vocabulary),
        })
    }

    /// Makes a candidate for each token with a logit above −∞, by id.
    fn gather(&mut self) {
        self.candidates.clear();
        let possible = self.logits.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        self.candidates.extend(possible.map(|(id, &logit)| Candidate { logit, weight: 0.0, id: id as u32 }));
    }
}

/// Chooses the tokens of one text: settings, random numbers, and the latest tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplerConfig,
    rng: Xoshiro256,
    /// The latest tokens, in a ring buffer: once it is full, `recent[oldest]` is overwritten next.
    recent: Vec<u32>,
    oldest: usize,
}

impl Sampler {
    /// A sampler with these settings.
    ///
    /// # Errors
    /// [`SamplerError::Setting`] for a setting out of its range.
    pub fn new(config: SamplerConfig) -> Result<Self, SamplerError> {
        config.check()?;
        let window = if config.repetition_penalty == 1.0 { 0 } else { config.repetition_window };
        let rng = Xoshiro256::new(config.seed);
        Ok(Self { rng, recent: Vec::with_capacity(window), oldest: 0, config })
    }

    /// The settings.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// Tells the sampler about tokens that it did not choose, such as those of the prompt, oldest first: the repetition
    /// penalty includes them.
    pub fn observe(&mut self, tokens: &[u32]) {
        let window = self.window();
        for &token in &tokens[tokens.len().saturating_sub(window)..] {
            if self.recent.len() < window {
                self.recent.push(token);
            } else {
                self.recent[self.oldest] = token;
                self.oldest = (self.oldest + 1) % window;
            }
        }
    }

    /// Chooses the next token from `logits`, `[vocabulary]`, and remembers it.
    ///
    /// # Errors
    /// [`SamplerError::Length`] if the number of logits is not the size of the vocabulary of `scratch`;
    /// [`SamplerError::NotANumber`]; [`SamplerError::NothingLeft`]. After an error the sampler is unchanged.
    pub fn sample(&mut self, logits: &[f32], scratch: &mut SamplerScratch) -> Result<u32, SamplerError> {
        if logits.len() != scratch.logits.len() {
            return Err(SamplerError::Length { expected: scratch.logits.len(), found: logits.len() });
        }
        if let Some(index) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(SamplerError::NotANumber { index });
        }
        scratch.logits.copy_from_slice(logits);
        self.repetition_penalty(scratch);
        let (likeliest, max) = largest(&scratch.logits);
        if max == f32::NEG_INFINITY {
            return Err(SamplerError::NothingLeft { vocabulary: logits.len() });
        }
        let token = if self.config.temperature == 0.0 {
            likeliest
        } else {
            scratch.gather();
            let candidates = &mut scratch.candidates;
            let order = self.top_k(candidates);
            self.temperature(candidates, max);
            self.top_p(candidates, order);
            self.min_p(candidates);
            self.draw(candidates)
        };
        self.observe(&[token]);
        Ok(token)
    }

    /// The state from which [`restore`](Self::restore) continues exactly.
    pub fn state(&self) -> SamplerState {
        let (newer, older) = self.recent.split_at(self.oldest);
        SamplerState { rng: self.rng.state, recent: [older, newer].concat() }
    }

    /// Continues from a saved state, with the settings of this sampler.
    ///
    /// # Errors
    /// [`SamplerError::State`] if the state cannot be a saved one.
    pub fn restore(&mut self, state: &SamplerState) -> Result<(), SamplerError> {
        if state.rng == [0; 4] {
            return Err(SamplerError::State { problem: "the random state is all zero" });
        }
        self.rng.state = state.rng;
        self.recent.clear();
        self.oldest = 0;
        self.observe(&state.recent);
        Ok(())
    }

    /// How many tokens the penalty looks at; 0 if it would change nothing.
    fn window(&self) -> usize {
        if self.config.repetition_penalty == 1.0 { 0 } else { self.config.repetition_window }
    }

    /// Makes each distinct token of the window less likely, or more likely for a penalty below 1.
    fn repetition_penalty(&self, scratch: &mut SamplerScratch) {
        scratch.round += 1;
        for &token in &self.recent {
            let token = token as usize;
            // A token beyond the vocabulary, which only a prompt of another vocabulary has, has no logit.
            let Some(logit) = scratch.logits.get_mut(token) else { continue };
            if std::mem::replace(&mut scratch.penalised[token], scratch.round) != scratch.round {
                let penalty = self.config.repetition_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Keeps the `top_k` largest logits, ranked. If `top_k` is 0 or there are no more candidates, keeps all, unranked.
    fn top_k(&self, candidates: &mut Vec<Candidate>) -> Order {
        let top_k = self.config.top_k;
        if top_k == 0 || top_k >= candidates.len() {
            return Order::Id;
        }
        candidates.select_nth_unstable_by(top_k - 1, Candidate::rank);
        candidates.truncate(top_k);
        candidates.sort_unstable_by(Candidate::rank);
        Order::Rank
    }

    /// Computes the weights of the candidates; `max` is the largest logit, whose weight is 1.
    fn temperature(&self, candidates: &mut [Candidate], max: f32) {
        let temperature = self.config.temperature;
        for candidate in candidates {
            // The largest logit may be +∞, and ∞ − ∞ is NaN.
            candidate.weight = if candidate.logit == max { 1.0 } else { ((candidate.logit - max) / temperature).exp() };
        }
    }

    /// Keeps the likeliest candidates that together have the share `top_p` of all weights, at least one.
    fn top_p(&self, candidates: &mut Vec<Candidate>, order: Order) {
        if self.config.top_p >= 1.0 {
            return;
        }
        let share = f64::from(self.config.top_p) * total_weight(candidates);
        let kept = match order {
            Order::Rank => shortest_head(candidates, share),
            Order::Id => rank_head(candidates, share),
        };
        candidates.truncate(kept);
    }

    /// Keeps the candidates at least `min_p` times as likely as the likeliest, whose weight is 1.
    fn min_p(&self, candidates: &mut Vec<Candidate>) {
        let least = self.config.min_p;
        if least > 0.0 {
            candidates.retain(|candidate| candidate.weight >= least);
        }
    }

    /// Draws a candidate: a uniform number falls into its interval of the cumulated weights.
    fn draw(&mut self, candidates: &[Candidate]) -> u32 {
        let mut left = self.rng.next_unit() * total_weight(candidates);
        let mut chosen = candidates[0].id;
        for candidate in candidates.iter().filter(|candidate| candidate.weight > 0.0) {
            chosen = candidate.id;
            if left < f64::from(candidate.weight) {
                break;
            }
            left -= f64::from(candidate.weight);
        }
        chosen
    }
}

/// The largest logit and the lowest id that has it. `logits` holds no NaN and is not empty.
fn largest(logits: &[f32]) -> (u32, f32) {
    let mut best = (0, logits[0]);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (id as u32, logit);
        }
    }
    best
}

fn total_weight(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// The fewest candidates from the front whose weights reach `share`; all of them if rounding keeps the sum below it.
fn shortest_head(ranked: &[Candidate], share: f64) -> usize {
    let mut sum = 0.0;
    for (index, candidate) in ranked.iter().enumerate() {
        sum += f64::from(candidate.weight);
        if sum >= share {
            return index + 1;
        }
    }
    ranked.len()
}

/// [`shortest_head`] for unranked candidates: ranks only as many as it needs.
fn rank_head(candidates: &mut [Candidate], share: f64) -> usize {
    let mut ranked = 0;
    let mut sum = 0.0;
    let mut count = FIRST_RANKED;
    while ranked < candidates.len() {
        let rest = &mut candidates[ranked..];
        let count_here = count.min(rest.len());
        if count_here < rest.len() {
            rest.select_nth_unstable_by(count_here - 1, Candidate::rank);
        }
        let head = &mut rest[..count_here];
        head.sort_unstable_by(Candidate::rank);
        for candidate in head {
            sum += f64::from(candidate.weight);
            ranked += 1;
            if sum >= share {
                return ranked;
            }
        }
        count *= 4;
    }
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs from the state 1, 2, 3, 4, worked out by hand from the recurrence of the paper.
    #[test]
    fn xoshiro_follows_its_definition() {
        let mut rng = Xoshiro256 { state: [1, 2, 3, 4] };
        assert_eq!(rng.next(), 41_943_041);
        assert_eq!(rng.state, [7, 0, (2 << 17) | 2, 6 << 45]);
        assert_eq!(rng.next(), 58_720_359);
        assert_eq!(rng.next(), 3_588_806_011_781_223);
    }

    #[test]
    fn neighbouring_seeds_differ_and_units_are_uniform() {
        let mut means = [0.0; 4];
        for (seed, mean) in means.iter_mut().enumerate() {
            let mut rng = Xoshiro256::new(seed as u64);
            let sum: f64 = (0..10_000).map(|_| rng.next_unit()).inspect(|u| assert!((0.0..1.0).contains(u))).sum();
            *mean = sum / 10_000.0;
            assert!((*mean - 0.5).abs() < 0.015, "mean {mean} for seed {seed}");
        }
        assert!(means.windows(2).all(|pair| pair[0] != pair[1]));
    }

    /// Buffers stay at their addresses: nothing is allocated after construction.
    #[test]
    fn sampling_keeps_its_buffers() {
        let config = SamplerConfig { top_p: 0.9, repetition_penalty: 1.2, min_p: 0.01, ..SamplerConfig::default() };
        let (mut sampler, mut scratch) = (Sampler::new(config).unwrap(), SamplerScratch::new(1000).unwrap());
        let places = |sampler: &Sampler, scratch: &SamplerScratch| {
            let (recent, candidates) = (&sampler.recent, &scratch.candidates);
            (candidates.as_ptr() as usize, candidates.capacity(), recent.as_ptr() as usize, recent.capacity())
        };
        let before = places(&sampler, &scratch);
        for round in 0..200 {
            let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919 + round * 31) % 997) as f32 / 100.0).collect();
            sampler.sample(&logits, &mut scratch).unwrap();
        }
        assert_eq!(before, places(&sampler, &scratch));
    }
}
