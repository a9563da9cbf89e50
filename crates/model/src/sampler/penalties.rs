//! Processors that change the logits of single tokens: bias, and the penalties of tokens that were there.

use super::config::{LogitBias, SamplerConfig};
use super::history::{Counts, History};

/// Adds the biases to `logits`, `[vocabulary]`.
pub(super) fn add_bias(biases: &[LogitBias], logits: &mut [f32]) {
    for &LogitBias { token, bias } in biases {
        let Some(logit) = logits.get_mut(token as usize) else { continue };
        // ∞ − ∞ is no number, and what is forbidden stays so.
        let is_forbidden = bias == f32::NEG_INFINITY || *logit == f32::NEG_INFINITY;
        *logit = if is_forbidden { f32::NEG_INFINITY } else { *logit + bias };
    }
}

/// Penalises each distinct token of the window, which stands there n times: first by the factor θ, `l / θ` where
/// `l > 0`, else `l · θ` (Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation",
/// 2019, section 4.1, in the form that also works for negative logits), then by `n · frequency + presence`, which is
/// taken from the logit (the formula of OpenAI's API). `logits`: `[vocabulary]`.
pub(super) fn penalise(config: &SamplerConfig, history: &History, logits: &mut [f32], counts: &mut Counts) {
    counts.reset();
    for token in history.latest(config.repetition_window) {
        if let Some(count) = counts.of(token) {
            *count += 1;
        }
    }
    for token in history.latest(config.repetition_window) {
        // Each token once, though it stands there several times.
        let count = counts.of(token).map_or(0, std::mem::take);
        if count == 0 {
            continue;
        }
        let (logit, factor) = (&mut logits[token as usize], config.repetition_penalty);
        *logit = if *logit > 0.0 { *logit / factor } else { *logit * factor };
        *logit -= count as f32 * config.frequency_penalty + config.presence_penalty;
    }
}
