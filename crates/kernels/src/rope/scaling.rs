//! How the frequencies of rotary positions are changed for contexts longer than those of the first training.
//!
//! The names are those of `rope_type` in `config.json`; the formulas are those of Hugging Face transformers'
//! `modeling_rope_utils.py`. `d` is the number of rotated features of a head and pair `i` of them has the plain
//! frequency `f = theta^(−2i / d)`.

use std::f64::consts::TAU;
use std::sync::Arc;

/// A change of the frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// `linear`: `f / factor`. Chen et al., "Extending Context Window of Large Language Models via Positional
    /// Interpolation" (2023).
    Linear {
        /// Divisor of all frequencies, above 0.
        factor: f64,
    },
    /// `dynamic`: a table of `n > original_max_position` positions has the frequencies of the base
    /// `theta · (factor · n / original_max_position − (factor − 1))^(d / (d − 2))`; a shorter one has the plain ones.
    Dynamic {
        /// How much the context grows, at least 1.
        factor: f64,
        /// Positions up to which nothing is changed.
        original_max_position: usize,
    },
    /// `llama3`.
    Llama3(Llama3Scaling),
    /// `yarn`.
    Yarn(YarnScaling),
    /// `longrope`.
    LongRope(Arc<LongRopeScaling>),
}

/// The scaling of low frequencies with which Llama 3.1 and later reach long contexts.
///
/// With the wavelength `λ = 2π / f` and `L = original_max_position`: a frequency with `λ < L / high_freq_factor` is
/// kept; one with `λ > L / low_freq_factor` is divided by `factor`; between both, `f' = (1 − s) · f / factor + s · f`
/// with `s = (L / λ − low_freq_factor) / (high_freq_factor − low_freq_factor)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Divisor of the lowest frequencies.
    pub factor: f64,
    /// Wavelengths above `original_max_position / low_freq_factor` are multiplied by `factor`.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// The context length that the model was first trained with.
    pub original_max_position: usize,
}

/// YaRN: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (2023).
///
/// With `b(r) = d · ln(original_max_position / (2π r)) / (2 ln theta)`, the pair that turns `r` times within the
/// original context: pairs below `b(beta_fast)` keep their frequency, those above `b(beta_slow)` have it divided by
/// `factor`, and in between the two are mixed linearly by `i`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnScaling {
    /// Divisor of the lowest frequencies.
    pub factor: f64,
    /// Factor of cosines and sines, so of queries and keys alike.
    pub attention_factor: f64,
    /// Turns within the original context from which on a frequency is kept.
    pub beta_fast: f64,
    /// Turns up to which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// The context length that the model was first trained with.
    pub original_max_position: usize,
    /// Whether the bounds between which frequencies are mixed are whole pairs: the lower one is rounded down, the
    /// upper one up.
    pub truncate: bool,
}

impl YarnScaling {
    /// The attention factor that the paper gives for a factor: `0.1 · ln(factor) + 1`, and 1 up to 1.
    pub fn usual_attention_factor(factor: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
    }
}

/// LongRoPE: Ding et al., "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens" (2024).
///
/// Each frequency is divided by a factor of its own. A table of up to `original_max_position` positions takes the short
/// factors, a longer one the long factors.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRopeScaling {
    /// `[d / 2]`
    pub short: Vec<f64>,
    /// `[d / 2]`
    pub long: Vec<f64>,
    /// Factor of cosines and sines, so of queries and keys alike, in short tables as in long ones.
    pub attention_factor: f64,
    /// The context length that the model was first trained with.
    pub original_max_position: usize,
}

impl LongRopeScaling {
    /// The attention factor that the paper gives where the context grows by `factor`: `√(1 + ln(factor) /
    /// ln(original_max_position))`, and 1 up to 1.
    pub fn usual_attention_factor(factor: f64, original_max_position: usize) -> f64 {
        if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_max_position as f64).ln()).sqrt() }
    }
}

impl RopeScaling {
    /// Factor of cosines and sines.
    pub fn attention_factor(&self) -> f64 {
        match self {
            Self::Linear { .. } | Self::Dynamic { .. } | Self::Llama3(_) => 1.0,
            Self::Yarn(yarn) => yarn.attention_factor,
            Self::LongRope(long) => long.attention_factor,
        }
    }

    /// The context length that the model was first trained with, for the kinds that depend on it.
    pub fn original_max_position(&self) -> Option<usize> {
        match self {
            Self::Linear { .. } => None,
            Self::Dynamic { original_max_position, .. } => Some(*original_max_position),
            Self::Llama3(llama3) => Some(llama3.original_max_position),
            Self::Yarn(yarn) => Some(yarn.original_max_position),
            Self::LongRope(long) => Some(long.original_max_position),
        }
    }

    /// Changes the frequencies `[d / 2]` of the base `theta` for a table of so many positions.
    ///
    /// # Panics
    /// If LongRoPE has another number of factors.
    pub(super) fn apply(&self, frequencies: &mut [f64], theta: f64, positions: usize) {
        match self {
            Self::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            Self::Dynamic { factor, original_max_position } => {
                let growth = positions as f64 / *original_max_position as f64;
                if growth > 1.0 {
                    let d = 2.0 * frequencies.len() as f64;
                    let theta = theta * (factor * growth - (factor - 1.0)).powf(d / (d - 2.0));
                    (0..).zip(frequencies).for_each(|(i, f)| *f = theta.powf(-f64::from(2 * i) / d));
                }
            }
            Self::Llama3(llama3) => frequencies.iter_mut().for_each(|f| *f = llama3.scaled(*f)),
            Self::Yarn(yarn) => yarn.apply(frequencies, theta),
            Self::LongRope(long) => {
                let factors = if positions > long.original_max_position { &long.long } else { &long.short };
                assert_eq!(factors.len(), frequencies.len(), "one factor for each frequency");
                frequencies.iter_mut().zip(factors).for_each(|(f, factor)| *f /= factor);
            }
        }
    }
}

impl Llama3Scaling {
    fn scaled(&self, frequency: f64) -> f64 {
        let periods = self.original_max_position as f64 * frequency / TAU;
        if periods > self.high_freq_factor {
            frequency
        } else if periods < self.low_freq_factor {
            frequency / self.factor
        } else {
            let s = (periods - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - s) * frequency / self.factor + s * frequency
        }
    }
}

impl YarnScaling {
    fn apply(&self, frequencies: &mut [f64], theta: f64) {
        let d = 2.0 * frequencies.len() as f64;
        let pair_of = |turns: f64| {
            let turns_of_first = self.original_max_position as f64 / TAU;
            d * (turns_of_first / turns).ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (pair_of(self.beta_fast), pair_of(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(d - 1.0));
        // The reference's guard against a division by zero.
        let width = if high == low { 0.001 } else { high - low };
        for (i, f) in (0..).zip(frequencies) {
            let divided = ((f64::from(i) - low) / width).clamp(0.0, 1.0);
            *f = *f / self.factor * divided + *f * (1.0 - divided);
        }
    }
}
