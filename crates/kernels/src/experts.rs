//! Mixtures of experts: which experts a token uses, the order in which experts see tokens, and the sum of their outputs.
//!
//! ```text
//! p     = softmax(logits)                        over all experts
//! E     = the `per_token` experts of the largest p, the lower index first among equal ones
//! w_e   = p_e,  or  p_e / Σ_{i ∈ E} p_i          for e in E
//! y     = Σ_{e ∈ E} w_e · mlp_e(x)               from the largest p to the smallest
//! ```
//!
//! Shazeer et al., "Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer" (2017); Jiang et
//! al., "Mixtral of Experts" (2024). With weights that sum to 1 it makes no difference whether the softmax is taken
//! before or after the choice.
//!
//! A *choice* is a token and one of its experts. A *slot* is the place of a choice among all, ordered by expert and then
//! by token: so each expert computes adjacent rows, and reads its weights once. Indices are kept as the bits of `f32`
//! words, next to numbers.

use smallmind_simd::Isa;

use crate::compiled::compiled;
use crate::{Mat, MatMut, row_ops};

/// How tokens choose experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// How many experts there are, at least one.
    pub experts: usize,
    /// How many of them a token uses, from 1 to `experts`.
    pub per_token: usize,
    /// Whether the weights of a token's experts sum to 1; otherwise they are those of the softmax over all experts.
    pub sums_to_one: bool,
}

/// The choices of `tokens` tokens.
pub struct Choices<'a> {
    /// Weights of a token's experts, the largest first, `[tokens, per_token]`.
    pub weights: MatMut<'a>,
    /// Slots of a token's choices in the same order, `[tokens, per_token]`.
    pub slots: MatMut<'a>,
    /// Token of each slot, `[tokens · per_token, 1]`.
    pub tokens: MatMut<'a>,
    /// For each expert the end of its slots, `[1, experts]`; they begin where those of the expert before end.
    pub ends: MatMut<'a>,
}

/// The index in a word.
#[inline(always)]
pub fn index(word: f32) -> usize {
    word.to_bits() as usize
}

/// A word with an index.
fn word(index: usize) -> f32 {
    f32::from_bits(index as u32)
}

/// Chooses experts by `logits` `[tokens, experts]`.
///
/// # Panics
/// If a shape isn't the one that `routing` says.
pub fn route(routing: Routing, logits: Mat, choices: Choices<'_>) {
    let Routing { experts, per_token, .. } = routing;
    let Choices { mut weights, mut slots, mut tokens, mut ends } = choices;
    assert_eq!(logits.cols(), experts, "a logit for each expert");
    for of_token in [&weights, &slots] {
        assert_eq!((of_token.rows(), of_token.cols()), (logits.rows(), per_token), "choices of each token");
    }
    assert_eq!((tokens.rows(), ends.cols()), (logits.rows() * per_token, experts), "slots of all choices");
    ends.row_mut(0).fill(word(0));
    for t in 0..logits.rows() {
        let (logits, chosen) = (logits.row(t), slots.row_mut(t));
        choose(logits, chosen);
        weigh(routing, logits, chosen, weights.row_mut(t));
        for expert in chosen {
            let count = &mut ends.row_mut(0)[index(*expert)];
            *count = word(index(*count) + 1);
        }
    }
    let mut start = 0;
    for count in ends.row_mut(0) {
        let len = index(*count);
        *count = word(start);
        start += len;
    }
    for t in 0..logits.rows() {
        for choice in slots.row_mut(t) {
            let next = &mut ends.row_mut(0)[index(*choice)];
            *choice = *next;
            tokens.row_mut(index(*next))[0] = word(t);
            *next = word(index(*next) + 1);
        }
    }
}

/// Writes the experts of the largest logits to `chosen`, the largest first, as words that [`index`] reads.
pub fn choose(logits: &[f32], chosen: &mut [f32]) {
    for expert in 0..logits.len() {
        let known = expert.min(chosen.len());
        let smaller = |other: &f32| logits[expert] > logits[index(*other)];
        let at = known - chosen[..known].iter().rev().take_while(|other| smaller(other)).count();
        if at < chosen.len() {
            let last = known.min(chosen.len() - 1);
            chosen.copy_within(at..last, at + 1);
            chosen[at] = word(expert);
        }
    }
}

/// Writes the weights of the `chosen` experts.
fn weigh(routing: Routing, logits: &[f32], chosen: &[f32], weights: &mut [f32]) {
    let largest = logits[index(chosen[0])];
    let exp = |logit: f32| (logit - largest).exp();
    weights.iter_mut().zip(chosen).for_each(|(weight, expert)| *weight = exp(logits[index(*expert)]));
    let sum: f32 = match routing.sums_to_one {
        true => weights.iter().sum(),
        false => logits.iter().map(|logit| exp(*logit)).sum(),
    };
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

/// `out[t] = Σ_r weights[t, r] · rows[slots[t, r]]`, in rising `r`: `weights` and `slots` `[tokens, per_token]`, `rows`
/// `[slots, cols]`, `out` `[tokens, cols]`.
///
/// # Panics
/// If the shapes disagree, or a slot has no row.
pub fn combine<I: Isa>(isa: I, weights: Mat, slots: Mat, rows: Mat, out: MatMut) {
    fn body<I: Isa>(isa: I, weights: Mat, slots: Mat, rows: Mat, mut out: MatMut) {
        assert_eq!((weights.rows(), weights.cols()), (slots.rows(), slots.cols()), "a weight for each slot");
        assert_eq!((weights.rows(), rows.cols()), (out.rows(), out.cols()), "the shape of the sum");
        out.fill(0.0);
        isa.vectorize(
            #[inline(always)]
            || {
                for t in 0..out.rows() {
                    for (weight, slot) in weights.row(t).iter().zip(slots.row(t)) {
                        let weight = isa.splat(*weight);
                        row_ops::update(
                            isa,
                            [rows.row(index(*slot))],
                            out.row_mut(t),
                            #[inline(always)]
                            |sum, [x]| isa.mul_add(weight, x, sum),
                        );
                    }
                }
            },
        );
    }
    compiled!(isa: I, body(weights: Mat, slots: Mat, rows: Mat, out: MatMut));
}

#[cfg(test)]
mod tests {
    use smallmind_simd::{IsaKind, WithIsa};

    use super::*;
    use crate::reference::{Matrix, experts};

    /// Numbers between −1 and 1.
    fn numbers(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    struct Found {
        weights: Vec<f32>,
        slots: Vec<usize>,
        tokens: Vec<usize>,
        ends: Vec<usize>,
    }

    fn routed(routing: Routing, logits: &[f32]) -> Found {
        let (experts, k) = (routing.experts, routing.per_token);
        let n = logits.len() / experts;
        let [mut weights, mut slots, mut tokens] = [(); 3].map(|()| vec![f32::NAN; n * k]);
        let mut ends = vec![f32::NAN; experts];
        let choices = Choices {
            weights: MatMut::new(&mut weights, n, k),
            slots: MatMut::new(&mut slots, n, k),
            tokens: MatMut::new(&mut tokens, n * k, 1),
            ends: MatMut::new(&mut ends, 1, experts),
        };
        route(routing, Mat::new(logits, n, experts), choices);
        let indices = |words: Vec<f32>| words.into_iter().map(index).collect();
        Found { weights, slots: indices(slots), tokens: indices(tokens), ends: indices(ends) }
    }

    #[test]
    fn slots_are_ordered_by_expert_and_token() {
        for (experts, per_token, n) in [(1, 1, 3), (4, 2, 0), (4, 2, 7), (5, 5, 3), (128, 8, 33)] {
            for sums_to_one in [true, false] {
                let routing = Routing { experts, per_token, sums_to_one };
                let logits = numbers(n * experts, 3 + n as u64);
                let found = routed(routing, &logits);
                let matrix = Matrix::from_f32(Mat::new(&logits, n, experts));
                let mut seen = vec![false; n * per_token];
                for t in 0..n {
                    let wanted = experts::choices(matrix.row(t), routing);
                    for (r, (expert, weight)) in wanted.into_iter().enumerate() {
                        let (slot, got) = (found.slots[t * per_token + r], found.weights[t * per_token + r]);
                        assert!((f64::from(got) - weight).abs() < 1e-6, "{routing:?}: {got}, {weight} expected");
                        let start = if expert == 0 { 0 } else { found.ends[expert - 1] };
                        assert!((start..found.ends[expert]).contains(&slot), "a slot of expert {expert}");
                        assert_eq!(found.tokens[slot], t);
                        assert!(!std::mem::replace(&mut seen[slot], true), "slot {slot} twice");
                    }
                }
                assert!(seen.into_iter().all(|seen| seen), "every slot is taken");
            }
        }
    }

    #[test]
    fn among_equal_experts_the_first_is_chosen() {
        let routing = Routing { experts: 4, per_token: 2, sums_to_one: true };
        let found = routed(routing, &[1.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!((found.weights, found.ends), (vec![0.5; 4], vec![1, 3, 4, 4]));
        assert_eq!((found.slots, found.tokens), (vec![1, 3, 0, 2], vec![1, 0, 1, 0]));
        // Whatever numbers the logits are, choices are made.
        let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        assert_eq!(routed(routing, &strange).ends[3], 2);
    }

    struct Combine<'a>(Mat<'a>, Mat<'a>, Mat<'a>, MatMut<'a>);

    impl WithIsa for Combine<'_> {
        type Output = ();

        fn call<I: Isa>(self, isa: I) {
            combine(isa, self.0, self.1, self.2, self.3);
        }
    }

    #[test]
    fn outputs_are_summed_in_the_order_of_the_choices() {
        let (n, k) = (5, 3);
        let weights = numbers(n * k, 7);
        let slots: Vec<f32> = (0..n * k).map(|i| word((i * 7) % (n * k))).collect();
        for cols in [1, 7, 16, 33] {
            let rows = numbers(n * k * cols, 8);
            for isa in IsaKind::available() {
                let mut out = vec![f32::NAN; n * cols];
                let mats = [(&weights, n, k), (&slots, n, k), (&rows, n * k, cols)];
                let [w, s, r] = mats.map(|(data, rows, cols)| Mat::new(data, rows, cols));
                isa.with(Combine(w, s, r, MatMut::new(&mut out, n, cols))).unwrap();
                for (i, got) in out.iter().enumerate() {
                    let term = |r: usize| {
                        let at = i / cols * k + r;
                        f64::from(weights[at]) * f64::from(rows[index(slots[at]) * cols + i % cols])
                    };
                    let wanted: f64 = (0..k).map(term).sum();
                    assert!((f64::from(*got) - wanted).abs() < 1e-6, "{isa}: {got}, {wanted} expected");
                }
            }
        }
    }
}
