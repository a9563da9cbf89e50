//! Random batches: ragged sequences, for training and in chunks over the cache.

use smallmind_graph::{Batch, CacheShape, Limits};
use smallmind_kernels::loss::IGNORE;

use super::rng::Rng;

pub fn tokens(rng: &mut Rng, len: usize, vocab: usize) -> Vec<u32> {
    (0..len).map(|_| rng.below(vocab) as u32).collect()
}

/// Sequences for training, some empty, of at most `limits.tokens` tokens in all; a fifth of the targets is ignored.
pub fn training(rng: &mut Rng, vocab: usize, limits: &Limits) -> Batch {
    let mut batch = Batch::with_capacity(limits);
    let mut left = limits.tokens;
    while left > 0 && batch.spans().len() < limits.spans {
        let len = if rng.chance(10) { 0 } else { rng.range(1..=left.min(limits.context)) };
        let ids = tokens(rng, len, vocab);
        let target = |rng: &mut Rng| if rng.chance(20) { IGNORE } else { rng.below(vocab) as u32 };
        let targets: Vec<u32> = (0..len).map(|_| target(rng)).collect();
        batch.push_with_targets(&ids, &targets);
        left -= len;
    }
    batch
}

/// Pages of a cache for so many sequences of up to `context` tokens.
pub fn pages_for(sequences: usize, context: usize) -> usize {
    sequences * CacheShape::pages_for(context)
}

/// The pages of sequence number `i`: far apart, and those of its last tokens first.
pub fn pages(limits: &Limits, i: usize) -> Vec<u32> {
    let each = CacheShape::pages_for(limits.context);
    let sequences = limits.pages / each;
    (0..each).rev().map(|page| (page * sequences + i) as u32).collect()
}

/// Appends tokens of sequence number `i`.
pub fn push(batch: &mut Batch, limits: &Limits, tokens: &[u32], past: usize, i: usize) {
    batch.push_cached(tokens, past, &pages(limits, i));
}

/// How many targets count.
pub fn counted(batches: &[Batch]) -> usize {
    batches.iter().flat_map(|b| b.targets()).filter(|t| **t != IGNORE).count()
}

/// Sequences that grow by random chunks, each in pages of its own.
pub struct Conversation {
    /// For each sequence, its tokens.
    pub sequences: Vec<Vec<u32>>,
    /// For each sequence, whose pages it has.
    pub slots: Vec<usize>,
    /// For each sequence, how many tokens the cache holds.
    pub past: Vec<usize>,
}

impl Conversation {
    /// As many sequences as `limits.spans`, in pages of any order.
    pub fn random(rng: &mut Rng, vocab: usize, limits: &Limits, longest: usize) -> Self {
        let sequences: Vec<Vec<u32>> = (0..limits.spans)
            .map(|_| {
                let len = rng.range(1..=longest.min(limits.context));
                tokens(rng, len, vocab)
            })
            .collect();
        let mut slots: Vec<usize> = (0..limits.pages / CacheShape::pages_for(limits.context)).collect();
        rng.shuffle(&mut slots);
        slots.truncate(sequences.len());
        Self { past: vec![0; sequences.len()], slots, sequences }
    }

    /// A batch with the next chunks of some of the sequences, in any order, or none when all are done. The second value
    /// names the sequence of each span.
    pub fn next(&mut self, rng: &mut Rng, limits: &Limits) -> Option<(Batch, Vec<usize>)> {
        let open = |s: &Self, i: usize| s.past[i] < s.sequences[i].len();
        let mut order: Vec<usize> = (0..self.sequences.len()).filter(|i| open(self, *i)).collect();
        if order.is_empty() {
            return None;
        }
        rng.shuffle(&mut order);
        order.truncate(rng.range(1..=order.len()));
        let mut batch = Batch::with_capacity(limits);
        let mut members = Vec::new();
        let largest = if rng.chance(50) { 1 } else { limits.tokens };
        for i in order {
            let left = limits.tokens - batch.len();
            let most = left.min(self.sequences[i].len() - self.past[i]).min(largest);
            if most == 0 {
                continue;
            }
            let len = rng.range(1..=most);
            let past = self.past[i];
            push(&mut batch, limits, &self.sequences[i][past..past + len], past, self.slots[i]);
            self.past[i] += len;
            members.push(i);
        }
        Some((batch, members))
    }
}
