//! A training step and a decoded token allocate nothing: counted by this binary's own allocator, over all threads,
//! which is why the file holds one test only.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{begin, tiny};
use smallmind_graph::Probe;
use smallmind_kernels::attention::CacheFormat;
use smallmind_model::sampler::SamplerConfig;
use smallmind_model::tokenizer::Tokenizer;
use smallmind_model::{
    Finish, GenerateOptions, Generator, Job, Logits, Lookup, Model, PackedModel, Session, SessionOptions,
};
use smallmind_simd::IsaKind;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller frees what `alloc`, and so the system, has given.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations so far.
fn count() -> usize {
    ALLOCATIONS.load(Ordering::Relaxed)
}

#[test]
fn steps_and_tokens_allocate_nothing() {
    let before = count();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(count() > before, "the counter counts");
    for threads in [1, 2, 3] {
        for family in ["model.family=gpt2", "model.family=llama"] {
            training(threads, family);
            decoding(threads, family);
            sequences(threads, family);
        }
    }
}

/// The number of allocations at each beginning of a plan: of the forward and backward of a micro-batch, and of an
/// update.
struct Watch {
    counts: Vec<AtomicUsize>,
    next: AtomicUsize,
}

impl Probe for Watch {
    fn start(&self, worker: usize, step: usize) {
        if (worker, step) == (0, 0) {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            self.counts[at].store(count(), Ordering::Relaxed);
        }
    }

    fn end(&self, _: usize, _: usize) {}
}

/// The trainer's own loop, with accumulation, dropout, clipping and a line of the log at every step.
fn training(threads: usize, family: &str) {
    const STEPS: usize = 40;
    const RUNS_A_STEP: usize = 4;
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&[family, "train.steps=40", "train.total_tokens=48", "model.dropout=0.1"]);
    let mut trainer = begin(dir.path(), "run", &config, threads).unwrap();
    let counts = (0..STEPS * RUNS_A_STEP).map(|_| AtomicUsize::new(0)).collect();
    let watch = Watch { counts, next: AtomicUsize::new(0) };
    trainer.run_probed(&AtomicBool::new(false), &mut |_| {}, &watch).unwrap();
    assert_eq!(watch.next.into_inner(), STEPS * RUNS_A_STEP, "three micro-batches and an update at each step");
    let counts: Vec<usize> = watch.counts.into_iter().map(AtomicUsize::into_inner).collect();
    // From the beginning of the tenth step to the beginning of the last one's update, behind which the run ends.
    let steady = &counts[9 * RUNS_A_STEP..];
    assert_eq!(steady.last().unwrap() - steady[0], 0, "{family} on {threads} threads: {steady:?}");
}

/// Runs of a session on several sequences that come, fork, go on and end.
fn sequences(threads: usize, family: &str) {
    let config = tiny(&[family]).model_config(30).unwrap();
    let model = Arc::new(Model::random(config, 1).unwrap().pack(IsaKind::best()).unwrap());
    CacheFormat::ALL.into_iter().for_each(|format| sequences_over(&model, format, threads, family));
}

fn sequences_over(model: &Arc<PackedModel>, cache_format: CacheFormat, threads: usize, family: &str) {
    let options = SessionOptions { sequences: 4, chunk: 5, cache_format, ..SessionOptions::single(8, threads) };
    let mut session = Session::new(model.clone(), options).unwrap();
    let round = |session: &mut Session| {
        let (a, b) = (session.open().unwrap(), session.open().unwrap());
        let all = Job { sequence: b, tokens: &[4, 5], logits: Logits::All };
        session.run(&[Job::last(a, &[1, 2, 3, 4, 5, 6]), all]).unwrap();
        let c = session.fork(a).unwrap();
        session.run(&[Job::last(c, &[7]), Job::last(a, &[8, 9]), Job::last(b, &[1])]).unwrap();
        session.truncate(a, 2);
        session.append(a, &[3, 3]).unwrap();
        [a, b, c].into_iter().for_each(|sequence| session.close(sequence));
    };
    round(&mut session);
    let before = count();
    (0..20).for_each(|_| round(&mut session));
    assert_eq!(count() - before, 0, "twenty rounds of {family} on {threads} threads over {cache_format}");
}

/// Tokens of a text that grows far beyond the context, so that it slides; with all filters of the sampler.
fn decoding(threads: usize, family: &str) {
    const TOKENS: usize = 60;
    let tokenizer = Tokenizer::characters("abcdefghijklmnopqrstuvwxyz é").unwrap();
    let config = tiny(&[family]).model_config(tokenizer.vocab_size()).unwrap();
    let model = Arc::new(Model::random(config, 1).unwrap().pack(IsaKind::best()).unwrap());
    let session = Session::new(model, SessionOptions { chunk: 3, ..SessionOptions::single(8, threads) });
    let mut generator = Generator::new(session.unwrap(), Arc::new(tokenizer)).unwrap();
    let filters =
        SamplerConfig { top_k: 20, top_p: 0.9, min_p: 0.01, repetition_penalty: 1.1, ..SamplerConfig::default() };
    let samplers = [SamplerConfig::greedy(), SamplerConfig::default(), filters];
    let corpus = Lookup::in_corpus((0..28).flat_map(|a| (0..28).flat_map(move |b| [a, b])).collect());
    let mut drafted = 0;
    let lookups = [None, Some(Lookup::in_text()), Some(Lookup::in_text().always(2)), Some(corpus.always(2))];
    for (sampler, lookup) in samplers.iter().flat_map(|sampler| lookups.iter().map(move |lookup| (sampler, lookup))) {
        generator.set_lookup(lookup.clone());
        let options = GenerateOptions { max_tokens: TOKENS, sampler: sampler.clone(), stops: vec!["qqqq".into()] };
        let mut counts = Vec::with_capacity(TOKENS);
        let generation = generator.generate(&[1, 2, 3], &options, |_| {
            counts.push(count());
            ControlFlow::Continue(())
        });
        let generation = generation.unwrap();
        assert_eq!(generation.finish, Finish::Length);
        // What may become a stop string is held back: then a piece has several letters.
        assert!(counts.len() > TOKENS / 2, "{counts:?}");
        let first = counts[0];
        assert!(counts.iter().all(|c| *c == first), "{family} on {threads} threads: {counts:?}");
        drafted += generation.lookup.drafted;
    }
    assert!(drafted > TOKENS, "runs with drafts are among them: {drafted}");
}
