//! How long drafts are: what they cost, what they are worth, and what they may lose.
//!
//! Before a run:
//!
//! ```text
//! for each length k of the drafts:
//!     tokens of the run   n(k) = texts + Σ min(k, what there is to draft)
//!     tokens gained       g(k) = texts + Σ over texts, Σ i = 1..k of the chance that the first i are accepted
//!     worth it            if g(k) / cost(n(k)) is the largest, and more than texts / cost(texts)
//!     permitted           if cost(n(k)) - cost(texts) <= allowance, since nothing at all may be accepted
//! ```
//!
//! Costs are measured as runs come: a run of few tokens costs about as much as one of one token, up to where the plan
//! or the arithmetic needs more. Chances are counted too, for matches of different lengths, from every token after a
//! match, whether it was drafted or not: so nothing need be drafted to find out that it does not pay.
//!
//! The allowance bounds the loss whatever comes. It is counted in runs without a draft: each token earns a share of
//! one, half of what drafts gain is added and what they lose is taken away.
//!
//! Times decide how long drafts are, and nothing else: never which token is chosen.

/// The most tokens of a run with a draft.
pub(crate) const MOST_TOKENS: usize = 16;

/// What drafts may lose of the time without them. What is measured is uncertain: a loss is the small difference of two
/// times, each of which may be some percent off, so that the real one may be twice as much.
const LOSS: f64 = 0.0075;
/// What they may lose of a text before they have gained something, in runs without a draft.
const FIRST_LOSS: f64 = 1.0;
/// The most that is saved up for losses, in runs without a draft: as much as the longest draft may cost.
const MOST_LOSS: f64 = 5.0;
/// What a run with drafts must gain on one without, as a factor: less may be the noise of what is measured.
const WORTH: f64 = 1.1;
/// The most that each further token of a run is thought to cost before it has been measured, in runs of one token.
/// Fitted to models of 1 M and of 135 M parameters on a Zen 4.
const TOKEN: f64 = 0.5;
/// The least that each further token costs, as far as losses are concerned: less is not told from what is measured by
/// chance.
const LEAST_TOKEN: f64 = 0.03;
/// The runs without drafts that come first: one alone may have been interrupted, and all is compared with their cost.
const BASE_SAMPLES: u32 = 3;
/// The runs for which the cost of a run without drafts is believed.
const BASE_LIFETIME: u64 = 64;
/// The runs for which the cost of other runs is believed after no sample; each of the first samples doubles it.
const FIRST_LIFETIME: u64 = 16;
/// The same after many samples.
const MOST_LIFETIME: u64 = 512;
/// The runs that are like this one: an older one counts for less in costs.
const COST_WINDOW: f64 = 16.0;
/// The same for the mean of all runs, by which gains and losses are told.
const MEAN_WINDOW: f64 = 64.0;
/// The most times the mean that one run counts for.
const MOST_SPIKE: f64 = 4.0;
/// The most that has to be earned before there is another draft, in runs without a draft: one run that was interrupted
/// for long does not end drafts for good.
const MOST_DEBT: f64 = 2.0;
/// The tokens that are like this one: an older one counts for less in chances.
const CHANCE_WINDOW: f64 = 32.0;
/// The kinds of matches by length: 1, 2, 3, 4, 5, up to 7, 11, 15, and longer.
const LENGTHS: usize = 9;

/// What one text could draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Tokens of the match.
    pub(crate) length: usize,
    /// Whether the match is in the corpus.
    pub(crate) in_corpus: bool,
    /// The most tokens.
    pub(crate) most: usize,
}

/// The time of runs with one number of tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Of a run that is not interrupted.
    seconds: f64,
    /// Of all runs.
    mean: f64,
    samples: u32,
    /// The number of the latest run.
    latest: u64,
}

impl Cost {
    /// Whether it is still believed at run number `run`.
    fn is_known(&self, run: u64) -> bool {
        self.samples > 0 && run - self.latest <= (FIRST_LIFETIME << self.samples.min(5)).min(MOST_LIFETIME)
    }

    fn learn(&mut self, seconds: f64, run: u64) {
        if !self.is_known(run) {
            self.seconds = seconds;
        } else if self.samples == 1 {
            // The first run of a plan finds nothing in the caches.
            self.seconds = self.seconds.min(seconds);
        } else {
            // Something else may have had the CPU.
            let change = seconds.min(1.5 * self.seconds) - self.seconds;
            self.seconds += change / COST_WINDOW.min(f64::from(self.samples));
        }
        self.samples = self.samples.saturating_add(1);
        self.latest = run;
        if self.samples <= BASE_SAMPLES {
            self.mean = self.seconds;
        }
        let change = seconds.min(MOST_SPIKE * self.mean) - self.mean;
        self.mean += change / f64::from(self.samples).clamp(f64::from(BASE_SAMPLES), MEAN_WINDOW);
    }
}

/// How often the token after a match was the expected one.
#[derive(Clone, Copy, Debug, Default)]
struct Chance {
    hits: f64,
    trials: f64,
}

impl Chance {
    fn learn(&mut self, hit: bool) {
        self.hits += f64::from(u8::from(hit)) - self.hits / CHANCE_WINDOW;
        self.trials += 1.0 - self.trials / CHANCE_WINDOW;
    }

    /// Between 0 and 1; ½ before anything is known (the rule of succession).
    fn share(&self) -> f64 {
        (self.hits + 1.0) / (self.trials + 2.0)
    }
}

/// Costs, chances and the allowance of a generator.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// By tokens of the run.
    costs: [Cost; MOST_TOKENS + 1],
    /// By length of the match; in the text, then in the corpus.
    chances: [[Chance; LENGTHS]; 2],
    /// What drafts may lose, in runs without a draft.
    allowance: f64,
    runs: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            costs: [Cost::default(); MOST_TOKENS + 1],
            chances: [[Chance::default(); LENGTHS]; 2],
            allowance: FIRST_LOSS,
            runs: 0,
        }
    }
}

impl Pace {
    /// A text begins: it has no use of what drafts of others have gained.
    pub(crate) fn begin(&mut self) {
        self.allowance = self.allowance.min(FIRST_LOSS);
    }

    /// How many tokens each of `texts` texts should draft, where some of them offer drafts and the run may have `most`
    /// tokens.
    pub(crate) fn draft_len(&self, texts: usize, offers: &[Offer], most: usize) -> usize {
        let most = most.min(MOST_TOKENS);
        let base = self.costs.get(texts).filter(|base| self.is_base_known(base));
        let Some(base) = base.filter(|_| offers.len() <= texts && texts < most) else { return 0 };
        let mut chances = [1.0; MOST_TOKENS];
        let (mut tokens, mut gained) = (texts, texts as f64);
        let (mut best, mut best_rate) = (0, WORTH * gained / base.seconds);
        for len in 1..=most - texts {
            for (offer, chance) in offers.iter().zip(&mut chances).filter(|(offer, _)| offer.most >= len) {
                *chance *= self.chance(offer.length + len - 1, offer.in_corpus).share();
                gained += *chance;
                tokens += 1;
            }
            if tokens > most {
                break;
            }
            let (cost, at_most) = self.cost(tokens, texts, base.seconds);
            let is_permitted = at_most - base.seconds <= self.allowance * base.seconds;
            if is_permitted && gained / cost > best_rate {
                (best, best_rate) = (len, gained / cost);
            }
        }
        best
    }

    fn is_base_known(&self, base: &Cost) -> bool {
        base.samples >= BASE_SAMPLES && self.runs - base.latest <= BASE_LIFETIME
    }

    /// The expected cost of a run, and the most that it should cost, where a run of `texts` tokens costs `base`.
    fn cost(&self, tokens: usize, texts: usize, base: f64) -> (f64, f64) {
        let known = |tokens: &usize| self.costs[*tokens].is_known(self.runs);
        let seconds = |tokens: usize| self.costs[tokens].seconds;
        if known(&tokens) {
            return (seconds(tokens), seconds(tokens));
        }
        let (below, cost) =
            (texts + 1..tokens).rev().find(known).map_or((texts, base), |below| (below, seconds(below)));
        match (tokens + 1..=MOST_TOKENS).find(known) {
            Some(above) => {
                let share = (tokens - below) as f64 / (above - below) as f64;
                (cost + (seconds(above) - cost) * share, cost.max(seconds(above)))
            }
            None => {
                let most = TOKEN * base / texts as f64;
                let slope = if below == texts { most } else { (cost - base) / (below - texts) as f64 };
                // From what is known next, or from the start: a run of two tokens may cost as much as one of four.
                let (further, all) = ((tokens - below) as f64, (tokens - texts) as f64);
                let at = |slope: f64| (base + slope * all).clamp(cost, cost + slope * further);
                (at(slope.clamp(0.1 * most, most)), at(most))
            }
        }
    }

    fn chance(&self, length: usize, in_corpus: bool) -> &Chance {
        &self.chances[usize::from(in_corpus)][kind(length)]
    }

    /// A token came after a match of that many tokens: whether it was the expected one.
    pub(crate) fn compared(&mut self, length: usize, in_corpus: bool, hit: bool) {
        self.chances[usize::from(in_corpus)][kind(length)].learn(hit);
    }

    /// A run of `tokens` tokens for `texts` texts, drafts included, took `seconds`, and `chosen` tokens came of it.
    pub(crate) fn ran(&mut self, texts: usize, tokens: usize, chosen: usize, seconds: f64) {
        self.runs += 1;
        if let Some(cost) = self.costs.get_mut(tokens) {
            cost.learn(seconds, self.runs);
        }
        let base = self.costs.get(texts).map_or(0.0, |base| base.mean);
        if texts > 0 && base > 0.0 {
            let without = chosen as f64 / texts as f64;
            let drafted = tokens.saturating_sub(texts) as f64 / texts as f64;
            // The time itself, interruptions included: a longer run has more of them.
            let spent = (seconds / base).min(MOST_SPIKE).max(1.0 + LEAST_TOKEN * drafted);
            let gained = if drafted > 0.0 { without - spent } else { 0.0 };
            // Half of a gain is kept: a part of it may be the noise of what is measured.
            let gained = if gained > 0.0 { gained / 2.0 } else { gained };
            self.allowance = (self.allowance + LOSS * without + gained).clamp(-MOST_DEBT, MOST_LOSS);
        }
    }
}

/// The kind of a match with that many tokens.
fn kind(length: usize) -> usize {
    match length {
        ..=5 => length.max(1) - 1,
        6..=7 => 5,
        8..=11 => 6,
        12..=15 => 7,
        16.. => 8,
    }
}

#[cfg(test)]
#[path = "pace/tests.rs"]
mod tests;
