//! Probabilities of tokens.

/// ln Σ exp(logits).
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(max) + logits.iter().map(|x| f64::from(x - max).exp()).sum::<f64>().ln()
}

/// ln of the probability of a token.
pub(crate) fn log_probability(logits: &[f32], token: usize) -> f64 {
    f64::from(logits[token]) - log_sum_exp(logits)
}
