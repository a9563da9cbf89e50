//! The tokens that can still be drawn, and their weights.

use std::cmp::Ordering;

/// The first part of the candidates that [`rank_head`] ranks, then four times as many and so on: usually a few tokens
/// carry the share, and ranking a whole vocabulary for them would cost more than the rest of the sampler.
const FIRST_RANKED: usize = 64;

/// A token that can still be drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// More than −∞ and no NaN.
    pub(super) logit: f32,
    /// `exp((logit − max) / temperature)`, in `[0, 1]`: the probability, up to a common factor. Holds only after
    /// [`Candidates::weigh`].
    pub(super) weight: f32,
    pub(super) id: u32,
}

impl Candidate {
    /// Likelier first; of equals (0 and −0 are), the lower id first. Logits are never NaN here.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// The order of the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// By token id, or any other.
    Any,
    /// The likeliest first.
    Rank,
}

/// The candidates of one choice, at least one, and what their weights depend on.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    list: &'a mut Vec<Candidate>,
    order: Order,
    /// The largest logit, whose weight is 1.
    max: f32,
    temperature: f32,
    /// Whether the weights are those of `max` and `temperature`.
    is_weighed: bool,
}

impl<'a> Candidates<'a> {
    /// Makes a candidate of each token that is possible at all, by id. `max`: the largest logit.
    pub(super) fn gather(list: &'a mut Vec<Candidate>, logits: &[f32], max: f32) -> Self {
        list.clear();
        let possible = logits.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        list.extend(possible.map(|(id, &logit)| Candidate { logit, weight: 0.0, id: id as u32 }));
        Self { list, order: Order::Any, max, temperature: 1.0, is_weighed: false }
    }

    pub(super) fn list(&self) -> &[Candidate] {
        self.list
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn max(&self) -> f32 {
        self.max
    }

    /// The logarithm of a candidate's weight.
    pub(super) fn log_weight(&self) -> impl Fn(&Candidate) -> f32 + use<> {
        let (max, temperature) = (self.max, self.temperature);
        // The largest logit may be +∞, and ∞ − ∞ is no number.
        move |candidate| if candidate.logit == max { 0.0 } else { (candidate.logit - max) / temperature }
    }

    /// Gives the candidates their weights.
    pub(super) fn weigh(&mut self) {
        if self.is_weighed {
            return;
        }
        let log_weight = self.log_weight();
        for candidate in self.list.iter_mut() {
            candidate.weight = log_weight(candidate).exp();
        }
        self.is_weighed = true;
    }

    /// The sum of all weights.
    pub(super) fn total(&mut self) -> f64 {
        self.weigh();
        total_weight(self.list)
    }

    /// The entropy of the candidates, in nats: `ln Z − Σ w · ln w / Z` with the weights w and their sum Z.
    pub(super) fn entropy(&mut self) -> f64 {
        let (total, log_weight) = (self.total(), self.log_weight());
        // The limit of w · ln w is 0 where a weight is.
        let likely = self.list.iter().filter(|candidate| candidate.weight > 0.0);
        let terms = likely.map(|candidate| f64::from(candidate.weight) * f64::from(log_weight(candidate)));
        total.ln() - terms.sum::<f64>() / total
    }

    pub(super) fn set_temperature(&mut self, temperature: f32) {
        self.temperature = temperature;
        self.is_weighed = false;
    }

    /// Keeps the `count` likeliest, ranked; all, in the order that they have, if they are no more.
    pub(super) fn keep_top(&mut self, count: usize) {
        if count >= self.list.len() {
            return;
        }
        if self.order != Order::Rank {
            self.list.select_nth_unstable_by(count - 1, Candidate::rank);
            self.list.truncate(count);
            self.list.sort_unstable_by(Candidate::rank);
            self.order = Order::Rank;
        }
        self.list.truncate(count);
    }

    /// Keeps the likeliest that together carry at least the share `share` of all weights, and at least `least` of them.
    pub(super) fn keep_likeliest(&mut self, share: f64, least: usize) {
        let mass = share * self.total();
        let kept = match self.order {
            Order::Rank => shortest_head(self.list, mass, least),
            Order::Any => rank_head(self.list, mass, least, Candidate::rank),
        };
        self.list.truncate(kept);
        self.order = Order::Rank;
    }

    /// Keeps those that come first in `compare` and together carry at least the share `share` of all weights, and at
    /// least `least` of them. The likeliest may go.
    pub(super) fn keep_first(
        &mut self,
        share: f64,
        least: usize,
        compare: impl Fn(&Candidate, &Candidate) -> Ordering,
    ) {
        let mass = share * self.total();
        let kept = rank_head(self.list, mass, least, compare);
        self.list.truncate(kept);
        self.order = Order::Any;
        self.lead();
    }

    /// Keeps those that `is_kept` says, or the `least` likeliest if these are more. The likeliest must be kept.
    pub(super) fn keep_if(&mut self, least: usize, is_kept: impl Fn(&Candidate) -> bool) {
        if least > 1 && self.list.iter().filter(|candidate| is_kept(candidate)).count() < least {
            self.keep_top(least);
        } else {
            self.list.retain(is_kept);
        }
    }

    /// Removes those that `is_removed` says, among them the likeliest.
    pub(super) fn remove_likeliest(&mut self, is_removed: impl Fn(&Candidate) -> bool) {
        self.list.retain(|candidate| !is_removed(candidate));
        self.lead();
    }

    /// After the likeliest may have gone: the largest logit that is left is the maximum.
    fn lead(&mut self) {
        self.max = self.list.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max);
        self.is_weighed = false;
    }
}

pub(super) fn total_weight(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// How many ranked candidates, at least `least`, are needed to carry `mass`; all of them if rounding leaves it out of
/// reach.
fn shortest_head(ranked: &[Candidate], mass: f64, least: usize) -> usize {
    let mut sum = 0.0;
    for (index, candidate) in ranked.iter().enumerate() {
        sum += f64::from(candidate.weight);
        if sum >= mass && index + 1 >= least {
            return index + 1;
        }
    }
    ranked.len()
}

/// Like [`shortest_head`] for candidates that are not in the order `compare` yet: sorts only as much of the front as it
/// needs.
fn rank_head(
    candidates: &mut [Candidate],
    mass: f64,
    least: usize,
    compare: impl Fn(&Candidate, &Candidate) -> Ordering,
) -> usize {
    let mut ranked = 0;
    let mut sum = 0.0;
    let mut count = FIRST_RANKED;
    while ranked < candidates.len() {
        let rest = &mut candidates[ranked..];
        let count_here = count.min(rest.len());
        if count_here < rest.len() {
            rest.select_nth_unstable_by(count_here - 1, &compare);
        }
        let head = &mut rest[..count_here];
        head.sort_unstable_by(&compare);
        for candidate in head {
            sum += f64::from(candidate.weight);
            ranked += 1;
            if sum >= mass && ranked >= least {
                return ranked;
            }
        }
        count *= 4;
    }
    ranked
}
