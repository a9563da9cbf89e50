//! The settings of a sampler, and their ranges.

use serde::{Deserialize, Serialize};

use super::SamplerError;
use super::order::{self, HUGGING_FACE_ORDER, Processor};

/// The longest window of the penalties and of DRY.
pub const MAX_REPETITION_WINDOW: usize = 1 << 20;

/// The largest frequency or presence penalty, and the smallest with the other sign.
const MAX_PENALTY: f32 = 1000.0;

/// The largest `tau` and `eta` of mirostat.
const MAX_MIROSTAT: f32 = 100.0;

/// How the next token is chosen. The defaults sample from the model's own distribution.
///
/// The documentation of the [module](super) has the formulas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// The processors that run, first to last; one that is absent is off, whatever its settings say. Penalties and DRY
    /// come first; none stands twice. [`HUGGING_FACE_ORDER`] by default.
    pub order: Vec<Processor>,
    /// Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the likeliest token. In `[0, ∞)`.
    pub temperature: f32,
    /// Lets the temperature follow the entropy; off by default.
    pub dynamic_temperature: DynamicTemperature,
    /// Only the k likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together carry this share of the probability; 1 for all. In `(0, 1]`.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the likeliest; 0 for all. In `[0, 1]`.
    pub min_p: f32,
    /// Only the most typical tokens that together carry this share of the probability; 1 for all. In `(0, 1]`.
    pub typical_p: f32,
    /// Only tokens whose logit is at most this many standard deviations below the largest; 0 for all. In `[0, ∞)`.
    pub top_n_sigma: f32,
    /// Top-p, min-p, typical-p and XTC leave at least this many tokens, if so many are there.
    pub min_keep: usize,
    /// Excludes top choices now and then; off by default.
    pub xtc: Xtc,
    /// Makes tokens of the window less likely (above 1) or more likely (below 1); 1 changes nothing. In `(0, ∞)`.
    pub repetition_penalty: f32,
    /// Is taken from a token's logit for each time that the token stands in the window. In `[-1000, 1000]`.
    pub frequency_penalty: f32,
    /// Is taken from the logits of the tokens in the window. In `[-1000, 1000]`.
    pub presence_penalty: f32,
    /// How many of the latest tokens these three penalties look at. In `[0, 2²⁰]`.
    pub repetition_window: usize,
    /// The penalty of repeated sequences; off by default.
    pub dry: Dry,
    /// What is added to the logits of tokens, before all processors. Several of one token add up. Tokens outside the
    /// vocabulary are passed over.
    pub logit_bias: Vec<LogitBias>,
    /// Chooses by surprise: then the order's truncating processors (top-n-sigma, top-k, typical-p, top-p, min-p, XTC)
    /// are off.
    pub mirostat: Option<Mirostat>,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// What is added to the logit of a token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogitBias {
    /// The token.
    pub token: u32,
    /// A finite number, or −∞, which forbids the token; in files, `false` forbids it.
    #[serde(with = "number_or_false")]
    pub bias: f32,
}

impl LogitBias {
    /// Forbids a token.
    pub fn forbid(token: u32) -> Self {
        Self { token, bias: f32::NEG_INFINITY }
    }
}

/// A temperature between `temperature − range` and `temperature + range` that follows the entropy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicTemperature {
    /// 0 leaves the temperature as it is. In `[0, ∞)`.
    pub range: f32,
    /// Power of the relative entropy. In `[0, ∞)`.
    pub exponent: f32,
}

impl Default for DynamicTemperature {
    fn default() -> Self {
        Self { range: 0.0, exponent: 1.0 }
    }
}

/// Excludes top choices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Xtc {
    /// How often; 0 never. In `[0, 1]`.
    pub probability: f32,
    /// Of the tokens at least this likely, only the least likely stays. Above 0.5 nothing changes. In `[0, 1]`.
    pub threshold: f32,
}

impl Default for Xtc {
    fn default() -> Self {
        Self { probability: 0.0, threshold: 0.1 }
    }
}

/// The penalty of tokens that would continue a repetition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dry {
    /// The penalty of a repetition that is just too long; 0 for none. In `[0, ∞)`.
    pub multiplier: f32,
    /// The penalty's growth with each further token. In `[1, ∞)`.
    pub base: f32,
    /// Up to this many tokens may be repeated, and one more without a penalty.
    pub allowed_length: usize,
    /// How many of the latest tokens are looked at. In `[0, 2²⁰]`.
    pub window: usize,
    /// Sequences of tokens that no repetition reaches across; [`dry_breakers`](super::dry_breakers) makes them from
    /// strings. None is empty.
    pub breakers: Vec<Vec<u32>>,
}

impl Default for Dry {
    fn default() -> Self {
        Self { multiplier: 0.0, base: 1.75, allowed_length: 2, window: 4096, breakers: vec![] }
    }
}

/// Mirostat 2: cuts off surprising tokens so that the mean surprise becomes `tau`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mirostat {
    /// Target surprise in bits. In `[0, 100]`.
    pub tau: f32,
    /// Learning rate. In `[0, 100]`.
    pub eta: f32,
}

impl Default for Mirostat {
    fn default() -> Self {
        Self { tau: 5.0, eta: 0.1 }
    }
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            order: HUGGING_FACE_ORDER.to_vec(),
            temperature: 1.0,
            dynamic_temperature: DynamicTemperature::default(),
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            min_keep: 0,
            xtc: Xtc::default(),
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_window: 64,
            dry: Dry::default(),
            logit_bias: vec![],
            mirostat: None,
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
        not_negative("temperature", self.temperature)?;
        not_negative("dynamic_temperature.range", self.dynamic_temperature.range)?;
        not_negative("dynamic_temperature.exponent", self.dynamic_temperature.exponent)?;
        share("top_p", self.top_p)?;
        unit("min_p", self.min_p)?;
        share("typical_p", self.typical_p)?;
        not_negative("top_n_sigma", self.top_n_sigma)?;
        unit("xtc.probability", self.xtc.probability)?;
        unit("xtc.threshold", self.xtc.threshold)?;
        let mirostat = self.mirostat.clone().unwrap_or_default();
        for (field, value) in [("mirostat.tau", mirostat.tau), ("mirostat.eta", mirostat.eta)] {
            require((0.0..=MAX_MIROSTAT).contains(&value), field, value, "from 0 to 100")?;
        }
        self.check_penalties()?;
        order::check(&self.order)
    }

    fn check_penalties(&self) -> Result<(), SamplerError> {
        let penalty = self.repetition_penalty;
        require(penalty.is_finite() && penalty > 0.0, "repetition_penalty", penalty, "a finite number above 0")?;
        for (field, value) in
            [("frequency_penalty", self.frequency_penalty), ("presence_penalty", self.presence_penalty)]
        {
            require(value.abs() <= MAX_PENALTY, field, value, "from -1000 to 1000")?;
        }
        window("repetition_window", self.repetition_window)?;
        not_negative("dry.multiplier", self.dry.multiplier)?;
        let base = self.dry.base;
        require(base.is_finite() && base >= 1.0, "dry.base", base, "a finite number, 1 or more")?;
        window("dry.window", self.dry.window)?;
        for breaker in &self.dry.breakers {
            require(!breaker.is_empty(), "dry.breakers", "an empty sequence", "sequences of at least one token")?;
        }
        for LogitBias { bias, .. } in &self.logit_bias {
            let is_allowed = bias.is_finite() || *bias == f32::NEG_INFINITY;
            require(is_allowed, "logit_bias", bias, "a finite number, or -inf, which forbids the token")?;
        }
        Ok(())
    }

    /// Whether a processor runs.
    pub(super) fn runs(&self, processor: Processor) -> bool {
        let is_on = match processor {
            Processor::Penalties => self.has_penalties(),
            Processor::Dry => self.dry.multiplier > 0.0 && self.dry.window > 0,
            Processor::TopNSigma => self.top_n_sigma > 0.0,
            Processor::TopK => self.top_k > 0,
            Processor::TypicalP => self.typical_p < 1.0,
            Processor::TopP => self.top_p < 1.0,
            Processor::MinP => self.min_p > 0.0,
            Processor::Xtc => self.xtc.probability > 0.0 && self.xtc.threshold <= 0.5,
            Processor::Temperature => true,
        };
        let is_replaced = self.mirostat.is_some() && !processor.is_penalty() && processor != Processor::Temperature;
        is_on && !is_replaced && self.order.contains(&processor)
    }

    fn has_penalties(&self) -> bool {
        let changes = self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0;
        changes && self.repetition_window > 0
    }

    /// Whether the likeliest token is always taken: temperature 0, and nothing before it that may exclude that token.
    pub(super) fn is_greedy(&self) -> bool {
        let mut before = self.order.iter().take_while(|processor| **processor != Processor::Temperature);
        let may_exclude = |processor| matches!(processor, Processor::Xtc | Processor::TypicalP) && self.runs(processor);
        self.temperature == 0.0
            && self.dynamic_temperature.range == 0.0
            && self.order.contains(&Processor::Temperature)
            && !before.any(|processor| may_exclude(*processor))
    }
}

/// An error that names `field`, unless its value is allowed.
pub(super) fn require(
    is_allowed: bool,
    field: &'static str,
    value: impl ToString,
    allowed: &'static str,
) -> Result<(), SamplerError> {
    if is_allowed { Ok(()) } else { Err(SamplerError::Setting { field, value: value.to_string(), allowed }) }
}

fn not_negative(field: &'static str, value: f32) -> Result<(), SamplerError> {
    require(value.is_finite() && value >= 0.0, field, value, "a finite number, 0 or more")
}

fn share(field: &'static str, value: f32) -> Result<(), SamplerError> {
    require(value > 0.0 && value <= 1.0, field, value, "above 0 and at most 1")
}

fn unit(field: &'static str, value: f32) -> Result<(), SamplerError> {
    require((0.0..=1.0).contains(&value), field, value, "from 0 to 1")
}

fn window(field: &'static str, value: usize) -> Result<(), SamplerError> {
    require(value <= MAX_REPETITION_WINDOW, field, value, "from 0 to 1048576")
}

/// −∞ as `false`, since JSON and TOML share no infinity.
mod number_or_false {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Bias {
        Number(f32),
        Flag(bool),
    }

    pub(super) fn serialize<S: Serializer>(bias: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        if *bias == f32::NEG_INFINITY { serializer.serialize_bool(false) } else { serializer.serialize_f32(*bias) }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        match Bias::deserialize(deserializer)? {
            Bias::Number(bias) => Ok(bias),
            Bias::Flag(false) => Ok(f32::NEG_INFINITY),
            Bias::Flag(true) => Err(D::Error::custom("a bias is a number, or false, which forbids the token")),
        }
    }
}
