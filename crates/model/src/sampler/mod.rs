//! From logits to the next token.
//!
//! [`Sampler::sample`] adds the biases of [`SamplerConfig::logit_bias`], runs a chain of processors in the order of
//! [`SamplerConfig::order`], and draws one of the tokens that are left, by weight. A processor whose settings are
//! neutral does nothing.
//!
//! | processor | what it does |
//! |---|---|
//! | [`Penalties`](Processor::Penalties) | `l / θ` or `l · θ`, then `l − n · frequency − presence`, for tokens that stand n times in the window (Keskar et al., 2019; OpenAI) |
//! | [`Dry`](Processor::Dry) | `l − multiplier · base ^ (n − allowed_length)` for tokens that continue a repetition of n tokens (p-e-w, 2024) |
//! | [`TopNSigma`](Processor::TopNSigma) | keeps `l ≥ max − n · σ` (Tang et al., 2024) |
//! | [`TopK`](Processor::TopK) | keeps the k largest logits (Fan et al., 2018) |
//! | [`TypicalP`](Processor::TypicalP) | keeps the smallest set with the share p, by `∣−ln p(t) − H∣` (Meister et al., 2022) |
//! | [`TopP`](Processor::TopP) | keeps the smallest set with the share p, from the top (Holtzman et al., 2019) |
//! | [`MinP`](Processor::MinP) | keeps the tokens at least `min_p` times as likely as the likeliest (Nguyen et al., 2024) |
//! | [`Xtc`](Processor::Xtc) | with a probability, removes the tokens above a threshold but the least likely (p-e-w, 2024) |
//! | [`Temperature`](Processor::Temperature) | `l / T`; T may follow the entropy (kalomaze, 2024); T = 0 keeps the likeliest |
//!
//! [`SamplerConfig::mirostat`] replaces the processors from top-n-sigma to XTC: the chain is then penalties, DRY,
//! temperature, mirostat 2 (Basu et al., 2021). llama.cpp leaves out penalties and DRY too.
//!
//! The order is a setting of its own, and no other setting changes it: the same settings always give the same chain.
//! [`HUGGING_FACE_ORDER`] is the default, since the defaults in a model's `generation_config.json` are meant for it.
//! [`LLAMA_CPP_ORDER`] gives what llama.cpp gives by default. They differ in what the temperature does to the
//! truncations after it, and in typical-p before or after top-p and min-p.
//!
//! Equal logits rank by token id, the lower first. The same seed and the same logits give the same tokens.
//!
//! Unusual logits have defined answers: NaN anywhere is an error that names the index; −∞ is never drawn, and when
//! nothing else is there, an error; tokens at +∞ share the whole probability equally.

mod breakers;
mod candidates;
mod config;
mod dry;
mod error;
mod history;
mod mirostat;
mod order;
mod penalties;
mod random;
mod temperature;
mod truncation;

use serde::{Deserialize, Serialize};

pub use breakers::dry_breakers;
use candidates::{Candidate, Candidates, total_weight};
pub use config::{Dry, DynamicTemperature, LogitBias, MAX_REPETITION_WINDOW, Mirostat, SamplerConfig, Xtc};
use dry::Repetitions;
pub use error::SamplerError;
use history::{Counts, History};
use mirostat::MaxSurprise;
pub use order::{HUGGING_FACE_ORDER, LLAMA_CPP_ORDER, Processor};
use random::Xoshiro256;

/// The state of a sampler between two tokens, which can be saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplerState {
    /// State of the random numbers.
    rng: [u64; 4],
    /// The tokens that penalties and DRY look at, oldest first.
    recent: Vec<u32>,
    /// With mirostat: the largest surprise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mu: Option<f32>,
}

/// Memory that samplers of one vocabulary share, one at a time. It is made once; choosing a token allocates nothing.
#[derive(Debug, Clone)]
pub struct SamplerScratch {
    /// `[vocabulary]`.
    counts: Counts,
    /// `[vocabulary]`: the logits after biases and penalties.
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
            counts: Counts::new(vocabulary),
            logits: vec![0.0; vocabulary],
            candidates: Vec::with_capacity(vocabulary),
        })
    }

    /// The tokens of the vocabulary.
    pub(crate) fn vocabulary(&self) -> usize {
        self.logits.len()
    }
}

/// Chooses the tokens of one text: settings, random numbers, and the latest tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplerConfig,
    rng: Xoshiro256,
    /// The latest tokens, as many as the penalties need.
    history: History,
    repetitions: Repetitions,
    max_surprise: Option<MaxSurprise>,
    is_greedy: bool,
}

impl Sampler {
    /// A sampler with these settings.
    ///
    /// # Errors
    /// [`SamplerError::Setting`] for a setting out of its range.
    pub fn new(config: SamplerConfig) -> Result<Self, SamplerError> {
        config.check()?;
        let penalties = if config.runs(Processor::Penalties) { config.repetition_window } else { 0 };
        let (dry, repetitions) = if config.runs(Processor::Dry) {
            (config.dry.window, Repetitions::new(&config.dry))
        } else {
            (0, Repetitions::default())
        };
        Ok(Self {
            rng: Xoshiro256::new(config.seed),
            history: History::new(penalties.max(dry)),
            repetitions,
            max_surprise: config.mirostat.clone().map(MaxSurprise::new),
            is_greedy: config.is_greedy(),
            config,
        })
    }

    /// The settings.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// Shows the sampler tokens that it did not choose, oldest first, such as those of the prompt: penalties and DRY
    /// count them.
    pub fn observe(&mut self, tokens: &[u32]) {
        self.history.extend(tokens);
    }

    /// Chooses the next token from `logits`, `[vocabulary]`, and remembers it.
    ///
    /// # Errors
    /// [`SamplerError::Length`] for other logits than those of the vocabulary of `scratch`;
    /// [`SamplerError::NotANumber`]; [`SamplerError::NothingLeft`]. The sampler is then as it was.
    pub fn sample(&mut self, logits: &[f32], scratch: &mut SamplerScratch) -> Result<u32, SamplerError> {
        self.run(logits, scratch)?;
        let candidates = &scratch.candidates;
        // A certain choice uses no random number.
        let chosen = if self.is_greedy { candidates[0] } else { draw(candidates, &mut self.rng) };
        if let Some(max_surprise) = &mut self.max_surprise {
            max_surprise.learn(f64::from(chosen.weight) / total_weight(candidates));
        }
        self.observe(&[chosen.id]);
        Ok(chosen.id)
    }

    /// The tokens among which [`sample`](Self::sample) would draw for these logits, with their probabilities, in no
    /// particular order. A token that is not there has none. The sampler stays as it was.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn distribution<'s>(
        &mut self,
        logits: &[f32],
        scratch: &'s mut SamplerScratch,
    ) -> Result<impl Iterator<Item = (u32, f64)> + use<'s>, SamplerError> {
        let rng = self.rng.clone();
        let outcome = self.run(logits, scratch);
        self.rng = rng;
        outcome?;
        let total = total_weight(&scratch.candidates);
        Ok(scratch.candidates.iter().map(move |candidate| (candidate.id, f64::from(candidate.weight) / total)))
    }

    /// The state from which [`restore`](Self::restore) continues exactly.
    pub fn state(&self) -> SamplerState {
        let mu = self.max_surprise.as_ref().map(MaxSurprise::mu);
        SamplerState { rng: self.rng.state, recent: self.history.to_vec(), mu }
    }

    /// Continues from a saved state, with the settings of this sampler.
    ///
    /// # Errors
    /// [`SamplerError::State`] when the state cannot be a saved one.
    pub fn restore(&mut self, state: &SamplerState) -> Result<(), SamplerError> {
        if state.rng == [0; 4] {
            return Err(SamplerError::State { problem: "the random state is all zero" });
        }
        if state.mu.is_some_and(|mu| !mu.is_finite()) {
            return Err(SamplerError::State { problem: "the largest surprise is not finite" });
        }
        self.rng.state = state.rng;
        self.history.clear();
        self.observe(&state.recent);
        if let (Some(max_surprise), Some(mu)) = (&mut self.max_surprise, state.mu) {
            max_surprise.restore(mu);
        }
        Ok(())
    }

    /// Runs the chain: then the candidates of `scratch`, at least one, are what can be drawn, with their weights.
    fn run(&mut self, logits: &[f32], scratch: &mut SamplerScratch) -> Result<(), SamplerError> {
        if logits.len() != scratch.logits.len() {
            return Err(SamplerError::Length { expected: scratch.logits.len(), found: logits.len() });
        }
        if let Some(index) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(SamplerError::NotANumber { index });
        }
        scratch.logits.copy_from_slice(logits);
        penalties::add_bias(&self.config.logit_bias, &mut scratch.logits);
        let penalties = self.config.order.iter().take_while(|processor| processor.is_penalty()).count();
        for index in 0..penalties {
            self.penalise(self.config.order[index], scratch);
        }
        let (likeliest, max) = largest(&scratch.logits);
        if max == f32::NEG_INFINITY {
            return Err(SamplerError::NothingLeft { vocabulary: logits.len() });
        }
        if self.is_greedy {
            scratch.candidates.clear();
            scratch.candidates.push(Candidate { logit: max, weight: 1.0, id: likeliest });
            return Ok(());
        }
        let mut candidates = Candidates::gather(&mut scratch.candidates, &scratch.logits, max);
        for index in penalties..self.config.order.len() {
            self.process(self.config.order[index], &mut candidates);
        }
        if let Some(max_surprise) = &self.max_surprise {
            max_surprise.truncate(&mut candidates);
        }
        candidates.weigh();
        Ok(())
    }

    /// Runs a processor that changes single logits.
    fn penalise(&mut self, processor: Processor, scratch: &mut SamplerScratch) {
        let (config, history) = (&self.config, &self.history);
        let SamplerScratch { counts, logits, .. } = scratch;
        if !config.runs(processor) {
            return;
        }
        if processor == Processor::Dry {
            self.repetitions.penalise(&config.dry, history, logits, counts);
        } else {
            penalties::penalise(config, history, logits, counts);
        }
    }

    /// Runs a processor that needs all candidates.
    fn process(&mut self, processor: Processor, candidates: &mut Candidates<'_>) {
        let config = &self.config;
        if !config.runs(processor) {
            return;
        }
        match processor {
            Processor::Penalties | Processor::Dry => {}
            Processor::TopNSigma => truncation::top_n_sigma(candidates, config.top_n_sigma),
            Processor::TopK => truncation::top_k(candidates, config.top_k),
            Processor::TypicalP => truncation::typical_p(candidates, config.typical_p, config.min_keep),
            Processor::TopP => truncation::top_p(candidates, config.top_p, config.min_keep),
            Processor::MinP => truncation::min_p(candidates, config.min_p, config.min_keep),
            Processor::Xtc => truncation::xtc(candidates, &config.xtc, config.min_keep, &mut self.rng),
            Processor::Temperature => temperature::temperature(candidates, config),
        }
    }
}

/// Draws a candidate: the one in whose interval of the summed weights a uniform number falls.
fn draw(candidates: &[Candidate], rng: &mut Xoshiro256) -> Candidate {
    let mut left = rng.next_unit() * total_weight(candidates);
    let mut chosen = candidates[0];
    for candidate in candidates.iter().filter(|candidate| candidate.weight > 0.0) {
        chosen = *candidate;
        if left < f64::from(candidate.weight) {
            break;
        }
        left -= f64::from(candidate.weight);
    }
    chosen
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers keep their place in memory: nothing is allocated after construction.
    #[test]
    fn sampling_keeps_its_buffers() {
        let usual = SamplerConfig { top_p: 0.9, repetition_penalty: 1.2, min_p: 0.01, ..SamplerConfig::default() };
        let dry = Dry { multiplier: 0.5, window: 50, allowed_length: 0, breakers: vec![vec![3, 4]], ..Dry::default() };
        let all = SamplerConfig {
            typical_p: 0.9,
            top_n_sigma: 2.0,
            frequency_penalty: 0.1,
            xtc: Xtc { probability: 0.5, threshold: 0.05 },
            dynamic_temperature: DynamicTemperature { range: 0.5, exponent: 1.0 },
            dry,
            logit_bias: vec![LogitBias::forbid(5)],
            ..usual.clone()
        };
        let mirostat = SamplerConfig { mirostat: Some(Mirostat::default()), ..all.clone() };
        for config in [usual, all, mirostat] {
            let (mut sampler, mut scratch) = (Sampler::new(config).unwrap(), SamplerScratch::new(1000).unwrap());
            let places = |sampler: &Sampler, scratch: &SamplerScratch| {
                let candidates = (scratch.candidates.as_ptr() as usize, scratch.candidates.capacity());
                (candidates, sampler.history.place(), sampler.repetitions.places())
            };
            let before = places(&sampler, &scratch);
            for round in 0..200 {
                let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919 + round * 31) % 997) as f32 / 100.0).collect();
                sampler.sample(&logits, &mut scratch).unwrap();
            }
            assert_eq!(before, places(&sampler, &scratch));
        }
    }
}
