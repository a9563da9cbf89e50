//! Mirostat 2: a truncation that steers the mean surprise of a text (Basu et al., "Mirostat: A Neural Text Decoding
//! Algorithm that Directly Controls Perplexity", 2021, algorithm 2).

use super::candidates::{Candidate, Candidates};
use super::config::Mirostat;

/// The state between two tokens: the largest surprise, in bits, that a token may have.
#[derive(Debug, Clone)]
pub(super) struct MaxSurprise {
    mirostat: Mirostat,
    mu: f32,
}

impl MaxSurprise {
    /// Begins with `μ = 2τ`.
    pub(super) fn new(mirostat: Mirostat) -> Self {
        Self { mu: 2.0 * mirostat.tau, mirostat }
    }

    pub(super) fn mu(&self) -> f32 {
        self.mu
    }

    /// Continues from a saved `μ`.
    pub(super) fn restore(&mut self, mu: f32) {
        self.mu = mu;
    }

    /// Keeps the tokens with a surprise `−log₂ p ≤ μ`; the likeliest if there is none.
    pub(super) fn truncate(&self, candidates: &mut Candidates<'_>) {
        let least = candidates.total() * f64::from(-self.mu).exp2();
        let is_kept = |candidate: &Candidate| f64::from(candidate.weight) >= least;
        if candidates.list().iter().any(is_kept) { candidates.keep_if(0, is_kept) } else { candidates.keep_top(1) }
    }

    /// Learns from the token that was drawn with this probability among the kept ones: `μ −= η · (−log₂ p − τ)`. As in
    /// llama.cpp, p is that of the normalised, truncated distribution.
    pub(super) fn learn(&mut self, probability: f64) {
        let error = -probability.log2() as f32 - self.mirostat.tau;
        self.mu -= self.mirostat.eta * error;
    }
}
