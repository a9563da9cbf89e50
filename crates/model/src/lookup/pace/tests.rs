//! Simulated decoding: the policy sees costs with noise, what is counted are the costs without.

use super::*;

/// The cost of a run by its tokens, in runs of one token.
type Costs = fn(usize) -> f64;

/// Runs that cost the same up to the next plan of a ladder, that are bound by memory, by arithmetic, and dear at once.
const COSTS: [(&str, Costs); 5] = [
    ("steps", |tokens| [1.0, 1.3, 2.6][usize::from(tokens > 1) + usize::from(tokens > 4)]),
    ("memory", |tokens| 0.98 + 0.02 * tokens as f64),
    ("slope", |tokens| 0.8 + 0.2 * tokens as f64),
    ("arithmetic", |tokens| tokens as f64),
    ("dear", |tokens| if tokens == 1 { 1.0 } else { 0.1 + tokens as f64 }),
];

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Runs differ by a tenth, and some are interrupted.
    fn noise(&mut self) -> f64 {
        let usual = 0.95 + 0.1 * self.next();
        if self.next() < 0.02 { 6.0 * usual } else { usual }
    }
}

/// What the text does: whether the next token is the expected one, where so many tokens came before it, and this is the
/// token number `at` of a draft, or 0 without a draft.
type Text<'a> = &'a mut dyn FnMut(usize, usize, &mut Rng) -> bool;

/// Decodes with `pace`. Returns the time after each token.
fn decode(pace: &mut Pace, costs: Costs, tokens: usize, seed: u64, text: Text<'_>) -> Vec<f64> {
    let (mut rng, mut time, mut times, mut length) = (Rng(seed), 0.0, vec![], 3);
    pace.begin();
    while times.len() < tokens {
        let most = 15.min(tokens - times.len() - 1);
        let offer = Offer { length, in_corpus: false, most };
        let draft = if most > 0 { pace.draft_len(1, &[offer], 16) } else { 0 };
        assert!(draft <= most);
        time += costs(1 + draft);
        let mut chosen = 0;
        while chosen <= draft {
            chosen += 1;
            times.push(time);
            let at = if draft == 0 { 0 } else { chosen };
            // The last token of a run has not been drafted, but is compared as well.
            let at = if chosen > draft { 0 } else { at };
            let hit = text(times.len(), at, &mut rng);
            pace.compared(length, false, hit);
            length = if hit { length + 1 } else { 1 + (rng.next() * 4.0) as usize };
            if !hit {
                break;
            }
        }
        pace.ran(1, 1 + draft, chosen, 1e-3 * costs(1 + draft) * rng.noise());
    }
    times
}

/// No text costs more than 3 % of the time without drafts; at its beginning six tokens more, as it takes some drafts to
/// see what runs cost, of which some are interrupted.
#[test]
fn nothing_that_a_text_does_makes_it_slower() {
    for (name, costs) in COSTS {
        for seed in 0..5 {
            let share = seed as f64 / 5.0;
            let texts: [(&str, Text<'_>); 7] = [
                ("never", &mut |_, _, _| false),
                ("by chance", &mut |_, _, rng| rng.next() < share),
                ("all but drafts", &mut |_, at, _| at == 0),
                ("the first of a draft", &mut |_, at, _| at <= 1),
                ("in turn", &mut |n, at, _| (n / 50) % 2 == 0 || at == 0),
                ("until it is fast", &mut |n, at, _| n < 40 || at == 0),
                ("seldom", &mut |n, at, rng| at == 0 || n % 200 < 10 || rng.next() < 0.1),
            ];
            for (what, text) in texts {
                let times = decode(&mut Pace::default(), costs, 2000, seed, text);
                // The tokens of a run come together, at its end.
                let is_end = |i: &usize| times.get(i + 1) != times.get(*i);
                for (i, time) in (0..times.len()).filter(is_end).map(|i| (i, times[i])) {
                    let (without, most) = ((i + 1) as f64, 6.0 + 1.03 * (i + 1) as f64);
                    assert!(time <= most, "{name}, {what}, {seed}: {time} for {without}");
                }
            }
        }
    }
}

/// A text that is all as expected is nearly as fast as with the longest draft in each run.
#[test]
fn a_text_that_is_all_as_expected_is_fast() {
    for (name, costs) in COSTS {
        for seed in 0..20 {
            let times = decode(&mut Pace::default(), costs, 1000, seed, &mut |_, _, _| true);
            let ideal = (1..=16).map(|tokens| costs(tokens) / tokens as f64).fold(f64::MAX, f64::min);
            let time = times[999] - times[99];
            assert!(time <= 1.25 * 900.0 * ideal + 4.0, "{name}, {seed}: {time} for {}", 900.0 * ideal);
        }
    }
}

/// Where half of the tokens are as expected, a short draft pays if runs of few tokens cost little more than one.
#[test]
fn drafts_are_as_long_as_they_pay() {
    let mean = |costs: Costs, share: f64| {
        let times = decode(&mut Pace::default(), costs, 4000, 3, &mut |_, _, rng| rng.next() < share);
        times[3999] / 4000.0
    };
    let [steps, memory, _, arithmetic, dear] = COSTS.map(|(_, costs)| costs);
    // Of the step of four tokens, 1 + ½ + ¼ + ⅛ come for 1.3.
    assert!(mean(steps, 0.5) < 0.8, "{}", mean(steps, 0.5));
    assert!(mean(memory, 0.5) < 0.65, "{}", mean(memory, 0.5));
    for costs in [arithmetic, dear] {
        assert!((0.99..1.02).contains(&mean(costs, 0.5)), "{}", mean(costs, 0.5));
    }
}

#[test]
fn what_is_not_known_is_not_drafted() {
    let mut pace = Pace::default();
    let offer = |most| Offer { length: 20, in_corpus: false, most };
    assert_eq!(pace.draft_len(1, &[offer(15)], 16), 0, "no run has been measured");
    (0..200).for_each(|_| pace.compared(20, false, true));
    pace.ran(1, 1, 1, 1e-3);
    assert_eq!(pace.draft_len(1, &[offer(15)], 16), 0, "one run is not enough");
    (0..2).for_each(|_| pace.ran(1, 1, 1, 1e-3));
    assert_eq!(pace.draft_len(1, &[offer(15)], 16), 2, "as long as the first loss permits");
    pace.ran(1, 3, 3, 1.2e-3);
    assert!((3..=8).contains(&pace.draft_len(1, &[offer(15)], 16)), "{pace:?}");
    (0..20).for_each(|_| pace.ran(1, 16, 16, 3e-3));
    assert_eq!(pace.draft_len(1, &[offer(15)], 16), 15);
    assert_eq!(pace.draft_len(1, &[offer(7)], 16), 7);
    assert_eq!(pace.draft_len(1, &[offer(15)], 8), 7);
    assert_eq!(pace.draft_len(1, &[offer(15)], 1), 0);
    assert_eq!(pace.draft_len(1, &[], 16), 0);
    // Other matches have chances of their own.
    (0..20).for_each(|_| pace.compared(2, true, false));
    assert_eq!(pace.draft_len(1, &[Offer { length: 2, in_corpus: true, most: 15 }], 16), 0);
    // A new text begins anew with what may be lost.
    pace.begin();
    assert_eq!(pace.draft_len(1, &[offer(15)], 16), 2);
    // The cost of a run without a draft is measured from time to time.
    (0..BASE_LIFETIME).for_each(|_| pace.ran(1, 16, 16, 3e-3));
    assert_eq!(pace.draft_len(1, &[offer(15)], 16), 0);
    pace.ran(1, 1, 1, 1e-3);
    assert_eq!(pace.draft_len(1, &[offer(15)], 16), 15);
}

/// Several texts share the tokens of a run; those without a match take one each.
#[test]
fn several_texts_share_a_run() {
    let mut pace = Pace::default();
    (0..20).for_each(|_| pace.compared(20, false, true));
    let offers = [Offer { length: 20, in_corpus: false, most: 15 }; 3];
    (0..3).for_each(|_| pace.ran(4, 4, 4, 1e-3));
    (0..20).for_each(|_| pace.ran(4, 16, 16, 1.1e-3));
    pace.ran(4, 4, 4, 1e-3);
    assert_eq!(pace.draft_len(4, &offers, 16), 4, "4 + 3 · 4 tokens");
    assert_eq!(pace.draft_len(4, &offers[..1], 16), 12);
    assert_eq!(pace.draft_len(16, &offers, 16), 0);
    assert_eq!(pace.draft_len(40, &offers, 64), 0);
    assert_eq!(pace.draft_len(2, &offers, 16), 0, "more offers than texts");
}

/// A plan that was measured in a bad moment is measured again.
#[test]
fn one_slow_run_is_forgotten() {
    let mut pace = Pace::default();
    (0..20).for_each(|_| pace.compared(20, false, true));
    (0..3).for_each(|_| pace.ran(1, 1, 1, 1e-3));
    pace.ran(1, 2, 2, 30e-3);
    let offer = [Offer { length: 20, in_corpus: false, most: 1 }];
    assert_eq!(pace.draft_len(1, &offer, 16), 0);
    let plain = (0..10_000).take_while(|_| {
        pace.ran(1, 1, 1, 1e-3);
        pace.draft_len(1, &offer, 16) == 0
    });
    // What it has lost is earned first.
    assert!((100..600).contains(&plain.count()));
}
