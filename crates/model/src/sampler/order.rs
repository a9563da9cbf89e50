//! The processors of the chain by name, and the orders in which they run.

use serde::{Deserialize, Serialize};

use super::SamplerError;
use super::config::require;

/// A step of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Processor {
    /// Repetition, frequency and presence penalty.
    Penalties,
    /// DRY, a penalty of repeated sequences.
    Dry,
    /// Top-n-sigma.
    TopNSigma,
    /// Top-k.
    TopK,
    /// Locally typical sampling.
    #[serde(alias = "typ_p")]
    TypicalP,
    /// Top-p.
    TopP,
    /// Min-p.
    MinP,
    /// XTC, exclude top choices.
    Xtc,
    /// The temperature, fixed or dynamic.
    Temperature,
}

use Processor::{Dry, MinP, Penalties, Temperature, TopK, TopNSigma, TopP, TypicalP, Xtc};

/// The default: the order of Hugging Face's `generate`, for which the defaults in a `generation_config.json` are meant.
/// Processors that `generate` lacks stand where llama.cpp has them. Top-k ranks logits, which a temperature does not
/// reorder, so it goes first: only the kept tokens need an exponential.
pub const HUGGING_FACE_ORDER: [Processor; 9] =
    [Penalties, Dry, TopNSigma, TopK, Temperature, TopP, MinP, TypicalP, Xtc];

/// The default order of llama.cpp: the temperature comes last, so that it does not change which tokens are kept.
pub const LLAMA_CPP_ORDER: [Processor; 9] = [Penalties, Dry, TopNSigma, TopK, TypicalP, TopP, MinP, Xtc, Temperature];

impl Processor {
    /// Its name, as in llama.cpp and in files.
    pub fn name(self) -> &'static str {
        match self {
            Penalties => "penalties",
            Dry => "dry",
            TopNSigma => "top_n_sigma",
            TopK => "top_k",
            TypicalP => "typical_p",
            TopP => "top_p",
            MinP => "min_p",
            Xtc => "xtc",
            Temperature => "temperature",
        }
    }

    /// The processor of a name, with `-` or `_`, or of llama.cpp's other names for it: `typ_p`, `typical`, `temp`.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.replace('-', "_");
        match name.as_str() {
            "typ_p" | "typical" => Some(TypicalP),
            "temp" => Some(Temperature),
            name => LLAMA_CPP_ORDER.into_iter().find(|processor| processor.name() == name),
        }
    }

    /// Whether it changes the logits of single tokens; the others need all candidates.
    pub(super) fn is_penalty(self) -> bool {
        matches!(self, Penalties | Dry)
    }
}

/// Checks that no processor stands twice, and that penalties come first: they change the logits that all others rank.
pub(super) fn check(order: &[Processor]) -> Result<(), SamplerError> {
    for (index, processor) in order.iter().enumerate() {
        let before = &order[..index];
        require(!before.contains(processor), "order", processor.name(), "each processor once")?;
        let is_late = processor.is_penalty() && before.iter().any(|before| !before.is_penalty());
        require(!is_late, "order", processor.name(), "penalties and dry before all other processors")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files_and_lead_back() {
        for processor in LLAMA_CPP_ORDER {
            assert_eq!(serde_json::to_value(processor).unwrap(), processor.name());
            assert_eq!(Processor::named(processor.name()), Some(processor));
            assert!(HUGGING_FACE_ORDER.contains(&processor));
        }
        for (name, processor) in [("typ_p", TypicalP), ("typical", TypicalP), ("temp", Temperature), ("top-k", TopK)] {
            assert_eq!(Processor::named(name), Some(processor));
        }
        assert_eq!(serde_json::from_str::<Processor>(r#""typ_p""#).unwrap(), TypicalP);
        assert_eq!(Processor::named("top"), None);
    }
}
