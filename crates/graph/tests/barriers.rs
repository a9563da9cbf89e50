//! Barriers stand wherever workers depend on each other.
//!
//! What a step declares to touch decides where barriers go, and a step that touches more than it declares makes a race.
//! Between two barriers workers may run in any order; so here a probe makes them run in the worst ones, one after the
//! other.

mod common;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::batches::{self, Conversation};
use common::build::{MANY, chunked};
use common::close::bits;
use common::memory::{Memory, Runner};
use common::model::{Family, Head, Model};
use common::rng::Rng;
use smallmind_graph::{Batch, Graph, Limits, Plan, PlanOptions, Probe, Scalars, Workers, fuse, grad, update_graph};
use smallmind_kernels::Format;
use smallmind_simd::IsaKind;

/// Makes workers take turns: within each stretch of steps between two barriers, one worker does all its work, then the
/// next.
struct Turns {
    /// For each step, its stretch.
    stretch: Vec<usize>,
    /// For each stretch and worker, its place in the order, its first step and its last.
    turns: Vec<Vec<Option<Turn>>>,
    /// For each stretch, how many workers are done.
    done: Vec<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct Turn {
    place: usize,
    first: usize,
    last: usize,
}

/// In which order the workers of a stretch take turns.
#[derive(Clone, Copy, Debug)]
enum Order {
    Ascending,
    Descending,
    Random(u64),
}

impl Turns {
    fn new(plan: &Plan, order: Order) -> Self {
        let mut rng = Rng::new(if let Order::Random(seed) = order { seed } else { 0 });
        let mut stretch = vec![];
        let mut turns: Vec<Vec<Option<Turn>>> = vec![vec![None; plan.threads()]];
        for (i, step) in plan.steps().iter().enumerate() {
            if step.has_barrier() {
                turns.push(vec![None; plan.threads()]);
            }
            stretch.push(turns.len() - 1);
            let workers = match step.workers() {
                Workers::First => 0..1,
                Workers::All => 0..plan.threads(),
            };
            for turn in &mut turns[stretch[i]][workers] {
                turn.get_or_insert(Turn { place: 0, first: i, last: i }).last = i;
            }
        }
        for workers in &mut turns {
            let mut present: Vec<&mut Turn> = workers.iter_mut().flatten().collect();
            match order {
                Order::Ascending => {}
                Order::Descending => present.reverse(),
                Order::Random(_) => rng.shuffle(&mut present),
            }
            present.into_iter().enumerate().for_each(|(place, turn)| turn.place = place);
        }
        Self { done: turns.iter().map(|_| AtomicUsize::new(0)).collect(), stretch, turns }
    }

    fn turn(&self, worker: usize, step: usize) -> (Turn, &AtomicUsize) {
        let stretch = self.stretch[step];
        (self.turns[stretch][worker].expect("a worker runs its steps only"), &self.done[stretch])
    }
}

impl Probe for Turns {
    fn start(&self, worker: usize, step: usize) {
        let (turn, done) = self.turn(worker, step);
        let since = Instant::now();
        while turn.first == step && done.load(Ordering::Acquire) != turn.place {
            assert!(since.elapsed() < Duration::from_secs(30), "worker {worker} waits in vain for step {step}");
            std::thread::yield_now();
        }
    }

    fn end(&self, worker: usize, step: usize) {
        let (turn, done) = self.turn(worker, step);
        if turn.last == step {
            done.fetch_add(1, Ordering::Release);
        }
    }
}

/// Lets workers sleep at random before their steps.
struct Sleeps(AtomicU64);

impl Probe for Sleeps {
    fn start(&self, worker: usize, step: usize) {
        let word =
            Rng::new(self.0.fetch_add(1, Ordering::Relaxed) ^ (worker as u64) << 32 ^ (step as u64) << 40).word();
        if word.is_multiple_of(8) {
            std::thread::sleep(Duration::from_micros(word >> 32 & 63));
        }
    }

    fn end(&self, _: usize, _: usize) {}
}

/// A graph, and batches that it runs on one after the other.
struct Case {
    what: String,
    graph: Graph,
    limits: Limits,
    /// The format in which its plans read weights packed; none where they read parameters flat.
    packed: Option<Format>,
    batches: Vec<Batch>,
}

impl Case {
    fn runner(&self, threads: usize) -> Runner {
        let (graph, limits, isa) = (self.graph.clone(), self.limits, IsaKind::best());
        match self.packed {
            Some(format) => Runner::stored(graph, limits, threads, isa, format),
            None => Runner::new(graph, limits, threads, isa),
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for case in 0..12 {
        let model = Model::random([Family::Gpt2, Family::Llama, Family::Odd][case % 3], 700 + case as u64);
        let rng = &mut Rng::new(case as u64);
        // Many tokens: row-wise steps are shared among workers only above some thousand elements.
        let tokens = rng.pick(&[20, 300, 600]);
        let limits = Limits {
            tokens,
            outputs: tokens,
            spans: 5,
            context: model.context,
            pages: batches::pages_for(5, model.context),
        };
        let training = grad(&model.graph(Head::Loss).unwrap(), "loss").unwrap();
        let graph = if case % 2 == 0 { fuse(&training) } else { training };
        let batch = batches::training(rng, model.vocab, &limits);
        cases.push(Case { what: format!("training {model:?}"), graph, limits, packed: None, batches: vec![batch] });

        let graph = fuse(&model.graph(Head::Cached).unwrap());
        // A batch that fills the plan first: in a smaller one values may lie apart that touch in a large one.
        let mut full = Batch::with_capacity(&limits);
        for slot in 0..limits.spans {
            let len = (tokens - full.len()).min(limits.context);
            batches::push(&mut full, &limits, &batches::tokens(rng, len, model.vocab), 0, slot);
        }
        full.want_all();
        let mut conversation = Conversation::random(rng, model.vocab, &limits, 100);
        let mut chunks = vec![full];
        while let Some((mut batch, _)) = conversation.next(rng, &limits).filter(|_| chunks.len() < 4) {
            batch.want_all();
            chunks.push(batch);
        }
        cases.push(Case {
            what: format!("inference {model:?}"),
            graph,
            limits,
            packed: Some(Format::F32),
            batches: chunks,
        });
    }
    cases.extend([None, Some(520)].map(long_caches));
    // Gradients made by chunks of rows, read by workers' shares of all rows.
    let limits = Limits { tokens: 300, outputs: 0, spans: 3, context: 120, pages: 0 };
    let graph = fuse(&grad(&chunked(MANY, 33).unwrap(), "loss").unwrap());
    let batch = batches::training(&mut Rng::new(8), MANY, &limits);
    cases.push(Case { what: "chunks".into(), graph, limits, packed: None, batches: vec![batch] });

    // Rows enough for workers to quantize their own, in several chunks of the loss.
    let graph = chunked(MANY, 64).unwrap();
    let limits = Limits { tokens: 300, outputs: 0, spans: 4, context: 100, pages: 0 };
    let batch = batches::training(&mut Rng::new(6), MANY, &limits);
    cases.push(Case { what: "bytes".into(), graph, limits, packed: Some(Format::Q8_0), batches: vec![batch] });

    let model = Model::random(Family::Gpt2, 4);
    let params = model.graph(Head::Loss).unwrap().params().clone();
    let adamw = smallmind_graph::op::AdamWSpec { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
    let limits = Limits { tokens: 0, outputs: 0, spans: 0, context: 0, pages: 0 };
    let graph = update_graph(params, adamw, 0.1).unwrap();
    cases.push(Case { what: "update".into(), graph, limits, packed: None, batches: vec![Batch::default(); 2] });
    cases
}

/// Tokens after more keys than a block, whose outputs are added up in a second step.
fn long_caches(window: Option<usize>) -> Case {
    let model = Model { context: 1100, ..Model::random(Family::Llama, 2).with_scoring(window, None) };
    let rng = &mut Rng::new(9);
    let limits = Limits { tokens: 1100, outputs: 4, spans: 3, context: 1100, pages: batches::pages_for(3, 1100) };
    let mut sequence = |len: usize, past: usize, slot: usize, mut batch: Batch| {
        batches::push(&mut batch, &limits, &batches::tokens(rng, len, model.vocab), past, slot);
        batch.want_last();
        batch
    };
    let mut chunks = vec![sequence(1050, 0, 0, Batch::default()), sequence(600, 0, 1, Batch::default())];
    let decode = sequence(1, 1050, 0, Batch::default());
    let decode = sequence(1, 600, 1, decode);
    chunks.push(sequence(2, 0, 2, decode));
    let graph = fuse(&model.graph(Head::Cached).unwrap());
    Case { what: format!("long caches {model:?}"), graph, limits, packed: Some(Format::F32), batches: chunks }
}

/// All that a run writes, as bits: results and memories.
fn outcome<P: Probe>(case: &Case, runner: &mut Runner, probe: impl Fn(&Plan) -> P) -> Vec<Vec<u32>> {
    let mut memory = Memory::new(case.graph.params(), 5).for_plan(runner.plan());
    memory.grads.iter_mut().enumerate().for_each(|(i, g)| *g = (i % 7) as f32);
    let scalars = Scalars { loss_scale: 0.1, learning_rate: 0.01, ..Scalars::default() };
    let mut outcome = vec![];
    for batch in &case.batches {
        let probe = probe(runner.plan());
        runner.run_with(batch, &scalars, &mut memory, &probe);
        outcome.extend(case.graph.results().iter().map(|(name, _)| bits(&runner.result(name))));
    }
    let Memory { params, grads, moments, cache, .. } = memory;
    outcome.extend([params, grads, moments.0, moments.1].iter().map(|m| bits(m)));
    outcome.extend(cache.map(|cache| bits(cache.words())));
    outcome
}

#[test]
fn workers_may_take_any_order_between_barriers() {
    for case in cases() {
        let mut alone = case.runner(1);
        let want = outcome(&case, &mut alone, |plan| Turns::new(plan, Order::Ascending));
        for threads in [2, 4] {
            let mut runner = case.runner(threads);
            for order in [Order::Ascending, Order::Descending, Order::Random(1)] {
                let got = outcome(&case, &mut runner, |plan| Turns::new(plan, order));
                assert!(got == want, "{threads} workers, {order:?}: {}", case.what);
            }
        }
    }
}

#[test]
fn workers_may_sleep_anywhere() {
    for case in cases().into_iter().step_by(4) {
        let mut alone = case.runner(1);
        let want = outcome(&case, &mut alone, |plan| Turns::new(plan, Order::Ascending));
        let mut runner = case.runner(8);
        for round in 0..3u64 {
            let got = outcome(&case, &mut runner, |_| Sleeps(AtomicU64::new(round << 20)));
            assert!(got == want, "round {round}: {}", case.what);
        }
    }
}

/// One worker alone never waits.
#[test]
fn one_thread_has_no_barrier() {
    for case in cases() {
        let plan = Plan::new(case.graph.clone(), PlanOptions::flat(case.limits, 1, IsaKind::best())).unwrap();
        assert_eq!(plan.barriers(), 0);
        let plan = Plan::new(case.graph, PlanOptions::flat(case.limits, 2, IsaKind::best())).unwrap();
        assert!(plan.barriers() > 0 && plan.barriers() < plan.steps().len(), "{}", case.what);
    }
}
