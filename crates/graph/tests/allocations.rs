//! A run allocates nothing: counted by this binary's own allocator, over the workers of the pools.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::batches;
use common::build::{MANY, chunked};
use common::memory::{Memory, Runner};
use common::model::{Family, Head, Model};
use common::rng::Rng;
use smallmind_graph::op::AdamWSpec;
use smallmind_graph::{Batch, Limits, Scalars, fuse, grad, update_graph};
use smallmind_kernels::Format;
use smallmind_simd::IsaKind;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread's allocations count: those of the test harness's own threads do not.
    static WORKER: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if WORKER.try_with(Cell::get).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of all workers while `work` runs.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// A runner whose workers' allocations count.
fn counted(mut runner: Runner) -> Runner {
    runner.pool.run(|_, _| WORKER.set(true));
    runner
}

/// All in one test: the count is one for the whole process.
#[test]
fn runs_allocate_nothing() {
    for threads in [1, 2, 3] {
        for family in [Family::Gpt2, Family::Llama] {
            training(&Model::random(family, 12), threads);
            for format in Format::ALL {
                decoding(&Model::random(family, 12), format, threads);
            }
        }
        for format in [Format::Bf16, Format::Q8_0] {
            evaluating(format, threads);
        }
        let mut runner = counted(Runner::new(
            Model::random(Family::Odd, 1).graph(Head::Loss).unwrap(),
            TRAINING,
            threads,
            IsaKind::best(),
        ));
        let count = allocations(|| runner.pool.run(|_, _| drop(std::hint::black_box(vec![1u8; 100]))));
        assert_eq!(count, threads, "the counter counts every worker");
    }
}

const TRAINING: Limits = Limits { tokens: 150, outputs: 0, spans: 4, context: 160, pages: 0 };

fn training(model: &Model, threads: usize) {
    let rng = &mut Rng::new(1);
    let graph = fuse(&grad(&model.graph(Head::Loss).unwrap(), "loss").unwrap());
    let batch = batches::training(rng, model.vocab, &TRAINING);
    let smaller = batches::training(rng, model.vocab, &Limits { tokens: 9, ..TRAINING });
    let mut memory = Memory::new(graph.params(), 1);
    let adamw = AdamWSpec { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
    let update = update_graph(graph.params().clone(), adamw, 1.0).unwrap();
    let mut step = counted(Runner::new(graph, TRAINING, threads, IsaKind::best()));
    let mut update = counted(Runner::new(update, TRAINING, threads, IsaKind::best()));
    let none = Batch::default();
    let scalars = Scalars { loss_scale: 0.01, learning_rate: 0.01, ..Scalars::default() };
    step.run(&batch, &scalars, &mut memory);
    update.run(&none, &scalars, &mut memory);
    let count = allocations(|| {
        for batch in [&batch, &smaller, &batch] {
            step.run(batch, &scalars, &mut memory);
            update.run(&none, &scalars, &mut memory);
        }
    });
    assert_eq!(count, 0, "three training steps on {threads} threads of {model:?}");
}

fn decoding(model: &Model, format: Format, threads: usize) {
    // Of more keys than a block.
    let model = &Model { context: 1100, ..model.clone() };
    let graph = fuse(&model.graph(Head::Cached).unwrap());
    let limits = Limits { tokens: 8, outputs: 2, spans: 2, context: 1100, pages: batches::pages_for(2, 1100) };
    let mut runner = counted(Runner::stored(graph, limits, threads, IsaKind::best(), format));
    let mut memory = Memory::new(runner.plan().graph().params(), 1).for_plan(runner.plan());
    let mut batch = Batch::with_capacity(&limits);
    let pages = [0, 1].map(|i| batches::pages(&limits, i));
    let mut decode = |batch: &mut Batch, past: usize| {
        batch.clear();
        for i in [1, 0] {
            batch.push_cached(&[i as u32], past, &pages[i]);
            batch.want_last();
        }
        runner.run(batch, &Scalars::default(), &mut memory);
    };
    decode(&mut batch, 0);
    let count = allocations(|| (1..20).for_each(|past| decode(&mut batch, past)));
    assert_eq!(count, 0, "nineteen tokens in {format} on {threads} threads of {model:?}");
}

/// The loss in several chunks.
fn evaluating(format: Format, threads: usize) {
    let graph = chunked(MANY, 64).unwrap();
    let limits = Limits { tokens: 300, outputs: 0, spans: 4, context: 100, pages: 0 };
    let batch = batches::training(&mut Rng::new(6), MANY, &limits);
    let mut runner = counted(Runner::stored(graph, limits, threads, IsaKind::best(), format));
    let mut memory = Memory::new(runner.plan().graph().params(), 1).for_plan(runner.plan());
    runner.run(&batch, &Scalars::default(), &mut memory);
    let count = allocations(|| runner.run(&batch, &Scalars::default(), &mut memory));
    assert_eq!(count, 0, "losses in {format} on {threads} threads");
}
