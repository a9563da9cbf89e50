//! Errors of the sampler.

use thiserror::Error;

/// Why a sampler cannot be made or cannot choose.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SamplerError {
    /// A setting lies outside its range.
    #[error("{field} is {value}; allowed: {allowed}")]
    Setting {
        /// Name of the field of [`SamplerConfig`](super::SamplerConfig).
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
    /// A saved state cannot be one that [`Sampler::state`](super::Sampler::state) returned.
    #[error("the saved sampler state is damaged: {problem}")]
    State {
        /// What is wrong with the state.
        problem: &'static str,
    },
}
