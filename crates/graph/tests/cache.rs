//! Logits over the key-value cache, with packed weights, are those of the whole sequence at once, with weights in rows.

mod common;

use common::batches::{self, Conversation};
use common::close::bits;
use common::memory::{Memory, Runner};
use common::model::{Family, Head, Model};
use common::rng::Rng;
use smallmind_graph::{Batch, CacheShape, Limits, Scalars, fuse};
use smallmind_kernels::attention::CacheFormat;
use smallmind_simd::IsaKind;

/// Of the largest logit of a sequence: the two ways add up in another order, as products of few rows and of many do.
const TOLERANCE: f32 = 2e-5;

/// The logits of every token of each sequence, `[len, vocab]`, without a cache.
fn at_once(model: &Model, sequences: &[Vec<u32>], isa: IsaKind) -> Vec<Vec<f32>> {
    let graph = fuse(&model.graph(Head::Logits).unwrap());
    let tokens = sequences.iter().map(Vec::len).sum();
    let limits = Limits { tokens, outputs: tokens, spans: sequences.len(), context: model.context, pages: 0 };
    let mut runner = Runner::new(graph, limits, 2, isa);
    let mut memory = Memory::new(runner.plan().graph().params(), model.seed);
    let mut batch = Batch::default();
    sequences.iter().for_each(|s| batch.push(s, 0));
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
    let mut runner = Runner::packed(graph, limits, 2, isa);
    let mut memory = Memory::new(runner.plan().graph().params(), model.seed).for_plan(runner.plan());
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
        let limits = Limits {
            tokens,
            outputs: tokens,
            spans,
            context: model.context,
            pages: batches::pages_for(spans + rng.below(4), model.context),
        };
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

/// Lengths on both sides of one and of two blocks of keys.
const LENGTHS: [usize; 8] = [1, 2, 512, 513, 514, 700, 1025, 1299];

/// Models: a family, a seed, and the window and the cap of all attentions. Windows within a block of keys, and across one
/// and two bounds of blocks.
const MODELS: [(Family, u64, Option<usize>, Option<f32>); 6] = [
    (Family::Gpt2, 1, None, None),
    (Family::Llama, 2, None, None),
    (Family::Llama, 2, Some(1), None),
    (Family::Llama, 2, Some(100), Some(2.0)),
    (Family::Gpt2, 1, Some(512), None),
    (Family::Llama, 2, Some(700), Some(2.0)),
];

/// A model with a context of several blocks of keys, and sequences of [`LENGTHS`].
fn long((family, seed, window, cap): (Family, u64, Option<usize>, Option<f32>)) -> (Model, Vec<Vec<u32>>) {
    let model = Model { context: 1300, ..Model::random(family, seed).with_scoring(window, cap) };
    assert!(model.has_attention(), "{model:?}");
    let rng = &mut Rng::new(seed);
    let sequences = LENGTHS.map(|len| batches::tokens(rng, len, model.vocab)).to_vec();
    (model, sequences)
}

/// The logits of the last token of each sequence, decoded in one batch after the tokens before it were read, each in a
/// batch of its own, over a cache in a format.
fn last(
    model: &Model,
    sequences: &[&[u32]],
    limits: Limits,
    threads: usize,
    (isa, format): (IsaKind, CacheFormat),
) -> Vec<Vec<f32>> {
    let graph = fuse(&model.graph(Head::Cached).unwrap());
    let mut runner = Runner::cached(graph, limits, threads, (isa, format));
    let mut memory = Memory::new(runner.plan().graph().params(), model.seed).for_plan(runner.plan());
    let (mut before, mut decode) = (Batch::default(), Batch::default());
    for (i, sequence) in sequences.iter().enumerate() {
        let (last, earlier) = sequence.split_last().unwrap();
        let slot = limits.pages / CacheShape::pages_for(limits.context) - 1 - i;
        before.clear();
        batches::push(&mut before, &limits, earlier, 0, slot);
        runner.run(&before, &Scalars::default(), &mut memory);
        batches::push(&mut decode, &limits, &[*last], earlier.len(), slot);
        decode.want_last();
    }
    runner.run(&decode, &Scalars::default(), &mut memory);
    runner.result("logits").chunks(model.vocab).map(<[f32]>::to_vec).collect()
}

const LONG: Limits = Limits { tokens: 1300, outputs: 8, spans: 8, context: 1300, pages: 8 * 21 };

#[test]
fn a_token_after_many_gives_the_logits_of_the_whole() {
    for &isa in IsaKind::available() {
        for of_model in MODELS {
            let (model, sequences) = long(of_model);
            let want = at_once(&model, &sequences, isa);
            let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
            let got = last(&model, &sequences, LONG, 2, (isa, CacheFormat::F32));
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let allowed = TOLERANCE * want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let want = &want[want.len() - model.vocab..];
                for (g, w) in got.iter().zip(want) {
                    assert!((g - w).abs() <= allowed, "{isa}, sequence {i}: {g} for {w}; {model:?}");
                }
            }
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_any_batch() {
    for &isa in IsaKind::available() {
        for of_model in MODELS {
            same_bits_alone_and_in_any_batch(of_model, (isa, CacheFormat::F32), &[2, 3, 5]);
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_over_a_cache_in_any_format() {
    for format in [CacheFormat::F16, CacheFormat::Q8_0, CacheFormat::Q4_0] {
        for of_model in [MODELS[1], MODELS[3]] {
            same_bits_alone_and_in_any_batch(of_model, (IsaKind::best(), format), &[2, 3, 8]);
        }
    }
}

fn same_bits_alone_and_in_any_batch(
    of_model: (Family, u64, Option<usize>, Option<f32>),
    (isa, format): (IsaKind, CacheFormat),
    threads: &[usize],
) {
    let (model, sequences) = long(of_model);
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let want = last(&model, &sequences, LONG, 1, (isa, format));
    let same = |got: Vec<Vec<f32>>, first: usize, what: &str| {
        for (i, (got, want)) in got.iter().zip(&want[first..]).enumerate() {
            assert!(bits(got) == bits(want), "{isa}, {format}, sequence {} {what}: {model:?}", first + i);
        }
    };
    for &threads in threads {
        same(last(&model, &sequences, LONG, threads, (isa, format)), 0, &format!("on {threads} threads"));
    }
    for (i, sequence) in sequences.iter().enumerate() {
        let limits = Limits { spans: 2, pages: 3 * 21, ..LONG };
        same(last(&model, &[sequence], limits, 2, (isa, format)), i, "alone");
    }
    // Plans whose sequences fit one block of keys have no second step.
    let limits = Limits { context: 512, ..LONG };
    same(last(&model, &sequences[..3], limits, 2, (isa, format)), 0, "in a plan of one block");
}
