//! Processors that keep some of the candidates. Each leaves at least one.

use super::candidates::{Candidate, Candidates};
use super::config::Xtc;
use super::random::Xoshiro256;

/// Keeps the tokens whose logit is at least `max − n · σ`, with the standard deviation σ of the candidates' logits
/// (Tang et al., "Top-nσ: Not All Logits Are You Need", 2024). A temperature scales both sides, so it changes nothing.
pub(super) fn top_n_sigma(candidates: &mut Candidates<'_>, n: f32) {
    let max = candidates.max();
    if max == f32::INFINITY {
        // There is no finite deviation.
        return candidates.keep_if(0, |candidate| candidate.logit == max);
    }
    let logits = || candidates.list().iter().map(|candidate| f64::from(candidate.logit));
    let count = candidates.len() as f64;
    let mean = logits().sum::<f64>() / count;
    let deviation = (logits().map(|logit| (logit - mean).powi(2)).sum::<f64>() / count).sqrt();
    let least = f64::from(max) - f64::from(n) * deviation;
    candidates.keep_if(0, |candidate| f64::from(candidate.logit) >= least);
}

/// Keeps the k likeliest tokens (Fan et al., "Hierarchical Neural Story Generation", 2018).
pub(super) fn top_k(candidates: &mut Candidates<'_>, k: usize) {
    candidates.keep_top(k);
}

/// Keeps the smallest set, from the top, that carries at least the share p (Holtzman et al., "The Curious Case of Neural
/// Text Degeneration", 2019).
pub(super) fn top_p(candidates: &mut Candidates<'_>, p: f32, min_keep: usize) {
    candidates.keep_likeliest(f64::from(p), min_keep);
}

/// Keeps the tokens at least `min_p` times as likely as the likeliest, whose weight is 1 (Nguyen et al., "Turning Up the
/// Heat: Min-p Sampling for Creative and Coherent LLM Outputs", 2024).
pub(super) fn min_p(candidates: &mut Candidates<'_>, min_p: f32, min_keep: usize) {
    candidates.weigh();
    candidates.keep_if(min_keep, |candidate| candidate.weight >= min_p);
}

/// Keeps the smallest set of tokens that carries at least the share p, in the order of `|−ln p(t) − H|`, how far a
/// token's surprise is from the entropy H (Meister et al., "Locally Typical Sampling", 2022). Of equals the likelier
/// comes first.
pub(super) fn typical_p(candidates: &mut Candidates<'_>, p: f32, min_keep: usize) {
    let log_total = candidates.total().ln();
    let entropy = candidates.entropy();
    let log_weight = candidates.log_weight();
    let distance = |candidate: &Candidate| (log_total - f64::from(log_weight(candidate)) - entropy).abs();
    let compare = |a: &Candidate, b: &Candidate| distance(a).total_cmp(&distance(b)).then(a.rank(b));
    candidates.keep_first(f64::from(p), min_keep, compare);
}

/// Excludes top choices: with the given probability, removes all tokens that are at least as likely as the threshold,
/// except the least likely of them (p-e-w, "Exclude Top Choices (XTC): A sampler that boosts creativity",
/// text-generation-webui pull request 6335, 2024). Draws one random number if there is a choice at all.
pub(super) fn xtc(candidates: &mut Candidates<'_>, xtc: &Xtc, min_keep: usize, random: &mut Xoshiro256) {
    if candidates.len() < 2 || random.next_unit() >= f64::from(xtc.probability) {
        return;
    }
    let least = f64::from(xtc.threshold) * candidates.total();
    let is_top = |candidate: &Candidate| f64::from(candidate.weight) >= least;
    let tops = candidates.list().iter().filter(|candidate| is_top(candidate));
    let count = tops.clone().count();
    let Some(kept) = tops.max_by(|a, b| a.rank(b)).map(|candidate| candidate.id) else { return };
    if count > 1 && candidates.len() - (count - 1) >= min_keep {
        candidates.remove_likeliest(|candidate| is_top(candidate) && candidate.id != kept);
    }
}
