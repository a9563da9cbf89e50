//! Logits over the key-value cache are those of the whole sequence at once.

mod common;

use common::batches::Conversation;
use common::memory::{Memory, Runner};
use common::model::{Family, Head, Model};
use common::rng::Rng;
use smallmind_graph::{Batch, Limits, Scalars, fuse};
use smallmind_simd::IsaKind;

/// Of the largest logit of a sequence: the two ways add up in another order, as products of few rows and of many do.
const TOLERANCE: f32 = 2e-5;

/// The logits of every token of each sequence, `[len, vocab]`, without a cache.
fn at_once(model: &Model, sequences: &[Vec<u32>], isa: IsaKind) -> Vec<Vec<f32>> {
    let graph = fuse(&model.graph(Head::Logits).unwrap());
    let tokens = sequences.iter().map(Vec::len).sum();
    let limits = Limits { tokens, outputs: tokens, spans: sequences.len(), context: model.context, slots: 0 };
    let mut runner = Runner::new(graph, limits, 2, isa);
    let mut memory = Memory::new(runner.plan().graph().params(), model.seed);
    let mut batch = Batch::default();
    sequences.iter().for_each(|s| batch.push(s, 0, 0));
    batch.want_all();
    runner.run(&batch, &Scalars::default(), &mut memory);
    let mut logits = runner.result("logits").into_iter();
    sequences.iter().map(|s| logits.by_ref().take(s.len() * model.vocab).collect()).collect()
}

/// The same, by random chunks of random sequences in one batch after the other.
fn by_chunks(
    model: &Model,
    mut conversation: Conversation,
    limits: Limits,
    rng: &mut Rng,
    isa: IsaKind,
) -> Vec<Vec<f32>> {
    let graph = fuse(&model.graph(Head::Cached).unwrap());
    let mut runner = Runner::new(graph, limits, 2, isa);
    let mut memory = Memory::new(runner.plan().graph().params(), model.seed).with_cache(runner.plan());
    let mut logits = vec![vec![]; conversation.sequences.len()];
    while let Some((mut batch, members)) = conversation.next(rng, &limits) {
        batch.want_all();
        runner.run(&batch, &Scalars::default(), &mut memory);
        let rows = runner.result("logits");
        for (span, member) in batch.spans().iter().zip(members) {
            logits[member].extend_from_slice(&rows[span.start * model.vocab..(span.start + span.len) * model.vocab]);
        }
    }
    logits
}

#[test]
fn chunks_give_the_logits_of_the_whole() {
    let mut with_attention = 0;
    for case in 0..30 {
        let model = Model::random([Family::Gpt2, Family::Llama, Family::Odd][case % 3], 900 + case as u64);
        with_attention += usize::from(model.has_attention());
        let isa = IsaKind::available()[case % IsaKind::available().len()];
        let rng = &mut Rng::new(case as u64);
        let spans = rng.range(1..=5);
        // Chunks beyond a block of queries among them.
        let tokens = rng.pick(&[1, 3, 8, 40, 160, 160]);
        let limits = Limits { tokens, outputs: tokens, spans, context: model.context, slots: spans + rng.below(4) };
        let conversation = Conversation::random(rng, model.vocab, &limits, [5, 20, 160][case / 3 % 3]);
        let want = at_once(&model, &conversation.sequences, isa);
        let got = by_chunks(&model, conversation, limits, rng, isa);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.len(), want.len());
            let allowed = TOLERANCE * want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for (j, (g, w)) in got.iter().zip(want).enumerate() {
                let (row, col) = (j / model.vocab, j % model.vocab);
                let off = (g - w).abs();
                assert!(off <= allowed, "sequence {i}, row {row}, logit {col}: {g} for {w}; {limits:?}, {model:?}");
            }
        }
    }
    assert!(with_attention > 20, "{with_attention} models read the cache");
}
