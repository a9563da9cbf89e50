//! The arena: what lies where, and that no run sees what another left there; and what a run refuses before it starts.

#[path = "memory/blocks.rs"]
mod blocks;
mod common;
#[path = "memory/storages.rs"]
mod storages;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use blocks::{layer_of_blocks, output};
use common::batches::{self, Conversation};
use common::build::{Layer, matrix};
use common::close::bits;
use common::memory::{Memory, Runner, pack};
use common::model::{Family, Head, Model};
use common::rng::Rng;
use smallmind_graph::op::{Heads, Index};
use smallmind_graph::{
    Batch, Bindings, Buffer, Cache, CacheShape, Graph, GraphBuilder, GraphError, Limits, Op, ParamMemory, ParamSpec,
    ParamStore, Plan, PlanOptions, Pool, Probe, Scalars, Storage, fuse, grad, update_graph,
};
use smallmind_kernels::Format;
use smallmind_kernels::attention::CacheFormat;
use smallmind_kernels::loss::IGNORE;
use smallmind_simd::IsaKind;

/// From the node that makes a value to the last that reads it, computed from the nodes alone; a result lives to the
/// end.
fn alive(graph: &Graph, value: usize) -> Option<Range<usize>> {
    let of = |list: &[smallmind_graph::ValueId]| list.iter().any(|v| v.index() == value);
    let made = graph.nodes().iter().position(|n| of(&n.outputs))?;
    let read = graph.nodes().iter().rposition(|n| of(&n.inputs)).unwrap_or(made);
    let kept = graph.results().iter().any(|(_, v)| v.index() == value);
    Some(made..if kept { graph.nodes().len() } else { read + 1 })
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Every placement as memory and lifetime, the latter not taken from the plan except for memory that no value owns.
fn check_placements(what: &str, plan: &Plan) {
    let graph = plan.graph();
    let mut seen = vec![0; graph.value_count()];
    let mut stretches: Vec<(Range<usize>, Range<usize>)> = vec![];
    for placement in plan.placements() {
        let life = match placement.value {
            Some(value) => {
                seen[value.index()] += 1;
                let shape = graph.shape(value);
                let rows = shape.rows.resolve(plan.limits().tokens, plan.limits().outputs);
                assert!(placement.elements.len() >= rows * shape.cols, "{what}: {placement:?} has room");
                alive(graph, value.index()).expect("only values that are made have a place")
            }
            None => {
                assert_eq!(placement.alive.len(), 1, "{what}: a temporary belongs to one node");
                placement.alive.clone()
            }
        };
        assert_eq!(placement.elements.start % 16, 0, "{what}: {placement:?} starts a cache line");
        assert!(placement.elements.end * 4 <= plan.arena_bytes());
        for (elements, other_life) in &stretches {
            assert!(
                !(overlap(elements, &placement.elements) && overlap(other_life, &life)),
                "{what}: {placement:?} shares {elements:?}, alive {other_life:?}"
            );
        }
        stretches.push((placement.elements.clone(), life));
    }
    for (value, count) in seen.iter().enumerate() {
        assert_eq!(*count, usize::from(alive(graph, value).is_some()), "{what}: places of value {value}");
    }
}

/// The most elements that are alive at one node: no arena can be smaller.
fn peak(plan: &Plan) -> usize {
    let at = |node| plan.placements().iter().filter(|p| p.alive.contains(&node)).map(|p| p.elements.len()).sum();
    (0..plan.graph().nodes().len()).map(at).max().unwrap_or(0)
}

#[test]
fn live_values_share_no_element() {
    for case in 0..60 {
        let model = Model::random([Family::Gpt2, Family::Llama, Family::Odd][case % 3], 300 + case as u64);
        let training = grad(&model.graph(Head::Loss).unwrap(), "loss").unwrap();
        let graphs = [
            training.clone(),
            fuse(&training),
            model.graph(Head::Loss).unwrap(),
            fuse(&model.graph(Head::Cached).unwrap()),
            update_graph(training.params().clone(), ADAMW, 1.0).unwrap(),
        ];
        let mut rng = Rng::new(case as u64);
        let tokens = rng.pick(&[0, 1, 17, 300]);
        let limits =
            Limits { tokens, outputs: tokens.min(5), spans: 4, context: 160, pages: batches::pages_for(4, 160) };
        for (i, graph) in graphs.into_iter().enumerate() {
            let what = format!("graph {i} of {limits:?}, {model:?}");
            let plan = Plan::new(graph, PlanOptions::flat(limits, rng.range(1..=3), IsaKind::best())).unwrap();
            check_placements(&what, &plan);
            let values = plan.placements().iter().map(|p| p.elements.end).max().unwrap_or(0);
            assert!(values <= peak(&plan) * 3 / 2, "{what}: {values} elements where {} would do", peak(&plan));
            if i < 4 && tokens > 1 {
                assert!(plan.arena_bytes() < plan.unplanned_bytes(), "{what}");
            }
        }
    }
}

const ADAMW: smallmind_graph::op::AdamWSpec =
    smallmind_graph::op::AdamWSpec { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };

/// What earlier, larger batches leave in the arena is never seen.
#[test]
fn a_small_batch_after_a_large_one() {
    for case in 0..12 {
        let model = Model::random([Family::Gpt2, Family::Llama, Family::Odd][case % 3], 60 + case as u64);
        let graph = fuse(&grad(&model.graph(Head::Loss).unwrap(), "loss").unwrap());
        let rng = &mut Rng::new(case as u64);
        let limits = Limits { tokens: rng.pick(&[40, 140]), outputs: 0, spans: 5, context: model.context, pages: 0 };
        let less = |tokens| Limits { tokens, ..limits };
        let batches =
            [limits, less(7), less(1), less(0), less(30), limits].map(|l| batches::training(rng, model.vocab, &l));
        let start = Memory::new(graph.params(), case as u64);
        let mut used = Runner::new(graph.clone(), limits, 2, IsaKind::best());
        for batch in &batches {
            let mut fresh = Runner::new(graph.clone(), limits, 2, IsaKind::best());
            let (mut a, mut b) = (start.clone(), start.clone());
            used.run(batch, &Scalars::default(), &mut a);
            fresh.run(batch, &Scalars::default(), &mut b);
            for name in ["loss", "hidden"] {
                assert_eq!(bits(&used.result(name)), bits(&fresh.result(name)), "{name} of {model:?}");
            }
            assert_eq!(bits(&a.grads), bits(&b.grads), "gradients of {model:?}");
            assert_eq!(used.executor.result("loss").unwrap().rows(), batch.len());
        }
    }
}

/// A slot that held a longer sequence serves a new one as if it were new.
#[test]
fn a_slot_is_used_again() {
    let model = Model::random(Family::Llama, 3);
    let graph = fuse(&model.graph(Head::Cached).unwrap());
    let rng = &mut Rng::new(9);
    let limits = Limits { tokens: 12, outputs: 12, spans: 3, context: 40, pages: 3 };
    let start = Memory::new(graph.params(), 1);
    let mut used = Runner::new(graph.clone(), limits, 2, IsaKind::best());
    let mut memory = start.clone().for_plan(used.plan());
    for _ in 0..4 {
        let mut conversation = Conversation::random(rng, model.vocab, &limits, 30);
        let mut fresh = Runner::new(graph.clone(), limits, 2, IsaKind::best());
        let mut clean = start.clone().for_plan(fresh.plan());
        while let Some((mut batch, _)) = conversation.next(rng, &limits) {
            batch.want_all();
            used.run(&batch, &Scalars::default(), &mut memory);
            fresh.run(&batch, &Scalars::default(), &mut clean);
            assert_eq!(bits(&used.result("logits")), bits(&fresh.result("logits")));
        }
    }
}

/// Counts the steps that ran.
#[derive(Default)]
struct Count(AtomicUsize);

impl Probe for Count {
    fn start(&self, _: usize, _: usize) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, _: usize, _: usize) {}
}

/// Tries to run with bindings.
type Run<'a> = &'a mut dyn FnMut(Bindings<'_>) -> Result<(), GraphError>;

/// A runner after one good run, and what must stay as it is when a bad one is refused.
struct Refusals {
    runner: Runner,
    memory: Memory,
    result: &'static str,
}

impl Refusals {
    fn new(graph: Graph, limits: Limits, good: &Batch, result: &'static str) -> Self {
        Self::of(Runner::new(graph, limits, 2, IsaKind::best()), good, result)
    }

    fn of(mut runner: Runner, good: &Batch, result: &'static str) -> Self {
        let mut memory = Memory::new(runner.plan().graph().params(), 1).for_plan(runner.plan());
        let count = Count::default();
        runner.run_with(good, &Scalars::default(), &mut memory, &count);
        assert!(count.0.into_inner() > 0, "a good run has steps");
        Self { runner, memory, result }
    }

    /// The error that `batch` gives; nothing has run and nothing has changed.
    fn refuse(&mut self, batch: &Batch) -> GraphError {
        self.refuse_with(batch, |memory, run| run(memory.bindings()))
    }

    fn refuse_with(
        &mut self,
        batch: &Batch,
        bind: impl FnOnce(&mut Memory, Run<'_>) -> Result<(), GraphError>,
    ) -> GraphError {
        let count = Count::default();
        let (before, result) = (self.memory.clone(), self.runner.result(self.result));
        let Runner { executor, pool } = &mut self.runner;
        let mut run = |bindings: Bindings<'_>| executor.run(pool, batch, &Scalars::default(), bindings, &count);
        let error = bind(&mut self.memory, &mut run).expect_err("the run is refused");
        assert_eq!(count.0.into_inner(), 0, "{error}: no step ran");
        assert_eq!(bits(&self.runner.result(self.result)), bits(&result), "{error}: the last result stands");
        assert_eq!(bits(&before.grads), bits(&self.memory.grads), "{error}");
        assert_eq!(bits(&before.params), bits(&self.memory.params), "{error}");
        let of_cache = |memory: &Memory| memory.cache.as_ref().map(|cache| bits(cache.words()));
        assert_eq!(of_cache(&before), of_cache(&self.memory), "{error}");
        error
    }
}

/// Asserts that the error is a limit on `what`, with the numbers given.
#[track_caller]
fn assert_limit(error: GraphError, want: (&str, usize, usize)) {
    match error {
        GraphError::Limit { what, got, limit } => assert_eq!((what, got, limit), want),
        other => panic!("{other} is not a limit on {}", want.0),
    }
}

/// An embedding of tokens and of positions below 8, attention, a head.
fn small(head: Head) -> Graph {
    let build = || {
        let (mut b, vocab, d) = (GraphBuilder::new(), 5, 4);
        let table = matrix(&mut b, "wte", vocab, d, 1.0)?;
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
        let positions = matrix(&mut b, "wpe", 8, d, 1.0)?;
        let p = b.value_of(Op::Embedding { table: positions, index: Index::Positions }, &[])?;
        let x = b.value_of(Op::Add, &[x, p])?;
        let heads = Heads::new(2, 1, 2);
        let qkv = Layer::new("qkv", x, heads.qkv_cols()).apply(&mut b)?;
        if head == Head::Cached {
            b.apply(Op::CacheAppend { layer: 0, heads }, &[qkv])?;
            let y = b.value_of(Op::CachedAttention { layer: 0, heads }, &[qkv])?;
            let y = b.value_of(Op::SelectRows, &[y])?;
            let logits = Layer::new("head", y, vocab).apply(&mut b)?;
            b.result("logits", logits);
        } else {
            let y = b.value_of(Op::Attention { heads, dropout: None }, &[qkv])?;
            let loss = b.value_of(Op::LinearCrossEntropy { weight: table, cap: None }, &[y])?;
            b.result("loss", loss);
        }
        Ok::<Graph, GraphError>(b.finish())
    };
    build().unwrap()
}

/// Tokens of a sequence in one page of the cache.
fn sequence(tokens: &[u32], past: usize, page: u32) -> Batch {
    let mut batch = Batch::default();
    batch.push_cached(tokens, past, &[page]);
    batch
}

#[test]
fn bad_batches_for_training_are_refused() {
    let graph = grad(&small(Head::Loss), "loss").unwrap();
    let limits = Limits { tokens: 12, outputs: 0, spans: 2, context: 10, pages: 0 };
    let trained = |tokens: &[u32], targets: &[u32]| {
        let mut batch = Batch::default();
        batch.push_with_targets(tokens, targets);
        batch
    };
    let mut refusals = Refusals::new(graph, limits, &trained(&[0, 4, 2], &[1, IGNORE, 4]), "loss");

    assert_limit(refusals.refuse(&trained(&[0; 13], &[0; 13])), ("tokens", 13, 12));
    assert_limit(refusals.refuse(&trained(&[0; 11], &[0; 11])), ("past + len", 11, 10));
    assert_limit(refusals.refuse(&trained(&[0; 9], &[0; 9])), ("position", 8, 7));
    assert_limit(refusals.refuse(&trained(&[1, 5], &[0, 0])), ("token id", 5, 4));
    assert_limit(refusals.refuse(&trained(&[u32::MAX], &[0])), ("token id", u32::MAX as usize, 4));
    assert_limit(refusals.refuse(&trained(&[1, 2], &[IGNORE, 5])), ("target id", 5, 4));
    assert_limit(refusals.refuse(&trained(&[1], &[u32::MAX - 1])), ("target id", u32::MAX as usize - 1, 4));

    let mut wanting = trained(&[1, 2], &[0, 0]);
    wanting.want_last();
    assert_limit(refusals.refuse(&wanting), ("outputs", 1, 0));
    let mut three = trained(&[1], &[0]);
    three.push_with_targets(&[1], &[0]);
    three.push_with_targets(&[1], &[0]);
    assert_limit(refusals.refuse(&three), ("spans", 3, 2));

    for untargeted in [sequence(&[1, 2], 0, 0), trained(&[1, 2], &[0])] {
        let error = refusals.refuse(&untargeted);
        assert!(matches!(&error, GraphError::Batch(why) if why.contains("for 2 tokens")), "{error}");
    }
}

#[test]
fn bad_batches_for_a_cache_are_refused() {
    let limits = Limits { tokens: 4, outputs: 2, spans: 3, context: 8, pages: 2 };
    let mut good = sequence(&[0, 1], 0, 1);
    good.want_last();
    let mut refusals = Refusals::new(small(Head::Cached), limits, &good, "logits");

    assert_limit(refusals.refuse(&sequence(&[0, 1], 7, 0)), ("past + len", 9, 8));
    assert_limit(refusals.refuse(&sequence(&[0, 1], usize::MAX, 0)), ("past + len", usize::MAX, 8));
    assert_limit(refusals.refuse(&sequence(&[0, 1, 2], usize::MAX - 1, 0)), ("past + len", usize::MAX, 8));
    let mut all = sequence(&[0, 1, 2], 0, 0);
    all.want_all();
    assert_limit(refusals.refuse(&all), ("outputs", 3, 2));
    let mut refuse = |spans: &[(usize, &[u32])], words: &str| {
        let mut batch = Batch::default();
        spans.iter().for_each(|(past, pages)| batch.push_cached(&[0], *past, pages));
        let error = refusals.refuse(&batch);
        assert!(matches!(&error, GraphError::Batch(why) if why == words), "{error}");
    };
    refuse(&[(0, &[2])], "page 2 of a cache of 2");
    refuse(&[(0, &[u32::MAX])], "page 4294967295 of a cache of 2");
    refuse(&[(3, &[])], "span 0 has 4 tokens, past ones included, and too few pages of the cache for them");
    refuse(&[(0, &[1]), (1, &[1])], "page 1 of the cache written for two spans, or twice for one");

    let limits = Limits { context: 80, ..limits };
    let mut long = Batch::default();
    long.push_cached(&[0], 0, &[0]);
    let mut refusals = Refusals::new(small(Head::Cached), limits, &long, "logits");
    long.push_cached(&[1], 7, &[1]);
    long.push_cached(&[], 70, &[0, 1]);
    let error = refusals.refuse(&long);
    assert!(matches!(&error, GraphError::Batch(why) if why.contains("read for one span and written for another")));
}

#[test]
fn missing_memories_are_refused() {
    let graph = grad(&small(Head::Loss), "loss").unwrap();
    let limits = Limits { tokens: 4, outputs: 4, spans: 2, context: 8, pages: 2 };
    let mut batch = Batch::default();
    batch.push_with_targets(&[1, 2], &[2, 3]);
    let need = graph.params().layout().len();
    let mut refusals = Refusals::new(graph.clone(), limits, &batch, "loss");
    let binding = |error, want: (&str, usize, usize)| match error {
        GraphError::Binding { what, need, got } => assert_eq!((what, need, got), want),
        other => panic!("{other} is not about {}", want.0),
    };

    let error = refusals.refuse_with(&batch, |m, run| run(Bindings::inference(&m.params)));
    binding(error, ("gradients", need, 0));
    let error = refusals.refuse_with(&batch, |m, run| {
        run(Bindings { grads: Some(&mut m.grads[1..]), ..Bindings::inference(&m.params) })
    });
    binding(error, ("gradients", need, need - 1));
    let error = refusals.refuse_with(&batch, |m, run| {
        run(Bindings { grads: Some(&mut m.grads), ..Bindings::inference(&m.params[1..]) })
    });
    binding(error, ("parameters", need, need - 1));

    let mut cached = Refusals::new(small(Head::Cached), limits, &sequence(&[1], 0, 0), "logits");
    let params = cached.memory.params.len();
    let shape = cached.runner.plan().cache().unwrap().clone();
    let mut others = vec![CacheShape { pages: 3, ..shape.clone() }];
    let formats = [CacheFormat::F16, CacheFormat::Q8_0, CacheFormat::Q4_0];
    others.extend(formats.map(|format| CacheShape { format, ..shape.clone() }));
    for other in std::iter::once(None).chain(others.into_iter().map(Some)) {
        let got = other.as_ref().map_or("none".to_owned(), CacheShape::to_string);
        let mut cache = other.map(|shape| Cache::new(shape).unwrap());
        let error = cached.refuse_with(&sequence(&[1], 0, 0), |m, run| {
            run(Bindings { cache: cache.as_mut(), ..Bindings::inference(&m.params) })
        });
        assert_eq!(error.to_string(), format!("the plan needs a key-value cache of {shape}, the run was given {got}"));
    }
    assert_ne!(params, need, "the two graphs differ");

    let update = update_graph(graph.params().clone(), ADAMW, 1.0).unwrap();
    let mut updates = Refusals::new(update, limits, &Batch::default(), smallmind_graph::CLIP);
    let none = Batch::default();
    let error = updates.refuse_with(&none, |m, run| {
        let moments = Some((&mut m.moments.0[..], &mut m.moments.1[..]));
        run(Bindings { grads: Some(&mut m.grads), moments, ..Bindings::inference(&m.params) })
    });
    binding(error, ("writable parameters", need, 0));
    let error = updates.refuse_with(&none, |m, run| {
        let params = ParamMemory::Exclusive(&mut m.params);
        run(Bindings { params, grads: Some(&mut m.grads), moments: None, cache: None })
    });
    binding(error, ("first moments", need, 0));
    let error = updates.refuse_with(&none, |m, run| {
        let moments = Some((&mut m.moments.0[..], &mut m.moments.1[..need - 1]));
        run(Bindings { params: ParamMemory::Exclusive(&mut m.params), grads: Some(&mut m.grads), moments, cache: None })
    });
    binding(error, ("second moments", need, need - 1));
}

#[test]
fn a_pool_of_another_size_is_refused() {
    let limits = Limits { tokens: 4, outputs: 2, spans: 3, context: 8, pages: 2 };
    let batch = sequence(&[0, 1], 0, 1);
    let mut refusals = Refusals::new(small(Head::Cached), limits, &batch, "logits");
    refusals.runner.pool = Pool::new(3).unwrap();
    let error = refusals.refuse(&batch);
    assert_eq!(error.to_string(), "the plan was made for 2 threads and runs on a pool of 3 threads");
}

#[test]
fn impossible_plans_are_errors() {
    let plan = |head, limits| Plan::new(small(head), PlanOptions::flat(limits, 2, IsaKind::best())).map(|_| ());
    let limits = Limits { tokens: 4, outputs: 2, spans: 3, context: 8, pages: 2 };
    assert!(plan(Head::Loss, limits).is_ok() && plan(Head::Cached, limits).is_ok());
    for tokens in [usize::MAX / 2, 1 << 58] {
        let error = plan(Head::Loss, Limits { tokens, ..limits });
        assert!(matches!(error, Err(GraphError::OutOfMemory { .. })), "{error:?}");
    }
    for pages in [usize::MAX, 1 << 58] {
        let error = plan(Head::Cached, Limits { pages, ..limits });
        assert!(matches!(error, Err(GraphError::OutOfMemory { .. })), "{error:?}");
    }

    // One layer divided into different heads, of another width and of the same; layers that no operation has, of which
    // one is vast.
    let (wide, narrow) = ((2, 2, 2), (1, 1, 2));
    for (layers, heads) in [
        ([0, 0], [wide, narrow]),
        ([0, 0], [wide, (1, 1, 4)]),
        ([0, 2], [wide, narrow]),
        ([1, 2], [wide, narrow]),
        ([0, usize::MAX], [wide, narrow]),
    ] {
        let mut b = GraphBuilder::new();
        let table = matrix(&mut b, "wte", 5, 6, 1.0).unwrap();
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
        for (i, (layer, (heads, kv_heads, head_dim))) in layers.into_iter().zip(heads).enumerate() {
            let heads = Heads::new(heads, kv_heads, head_dim);
            let qkv = Layer::new(&format!("qkv{i}"), x, heads.qkv_cols()).apply(&mut b).unwrap();
            b.apply(Op::CacheAppend { layer, heads }, &[qkv]).unwrap();
        }
        let error = Plan::new(b.finish(), PlanOptions::flat(limits, 1, IsaKind::best())).map(|_| ());
        assert!(matches!(error, Err(GraphError::Cache(_))), "{layers:?}: {error:?}");
    }
}
