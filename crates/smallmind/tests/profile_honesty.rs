//! What a profile says is true: bytes and operations as closed formulas have them, a planted delay and a planted allocation found, by name.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallmind::graph::{Batch, Graph, NoProbe, Plan, Pool, Probe};
use smallmind::model::{Model, ModelConfig, Purpose, Session, SessionOptions, architecture, preset};
use smallmind::profile::report::join::{Measurement, Part};
use smallmind::profile::report::{Phase, RoofTable};
use smallmind::profile::roofs::Effort;
use smallmind::profile::traffic::{Traffic, traffic};
use smallmind::profile::{Allocated, Recorder, Roofs, RunTimes};
use smallmind::simd::IsaKind;

thread_local! {
    static OWN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = OWN.try_with(|own| own.set((own.get().0 + 1, own.get().1 + layout.size() as u64)));
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn own() -> Allocated {
    let (calls, bytes) = OWN.get();
    Allocated { calls, bytes }
}

/// The work of all nodes on a batch.
fn all(graph: &Graph, batch: &Batch) -> Traffic {
    let mut sum = Traffic::default();
    graph.nodes().iter().for_each(|node| sum += traffic(graph, node, batch));
    sum
}

fn close(found: f64, expected: f64, within: f64, what: &str) {
    assert!((found / expected - 1.0).abs() <= within, "{what}: {found} is not {expected}");
}

/// Weights of the products of a token.
fn product_weights(c: &ModelConfig) -> f64 {
    let attention = 3.0 * c.training_flops_per_token(0);
    // At context 0 the formula still counts half a token of attention a layer.
    let half_token = 6.0 * (c.layers * 2 * c.heads * c.head_dim / 2) as f64;
    (attention / 3.0 - half_token) / 6.0
}

#[test]
fn bytes_are_the_weights_and_operations_the_formulas() {
    for name in ["quickstart", "nanogpt-cpu", "gpt2-124m", "smollm2-135m"] {
        let config = preset::find(name).unwrap().config();
        let graph = architecture::graph(&config, Purpose::Generation).unwrap();
        let depth = config.context / 2;
        let mut batch = Batch::default();
        batch.push(&[1], depth, 0);
        batch.want_last();
        let token = all(&graph, &batch);
        // Of tables that are not the head too, one row is read: the head is tied, so only positions are such a table.
        let unread: usize =
            graph.params().iter().filter(|(_, p)| p.name.contains("position")).map(|(_, p)| p.len()).sum();
        close(token.weights, 4.0 * (graph.params().elements() - unread) as f64, 0.001, name);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        close(token.kv_read, (4 * config.layers * 2 * kv * (depth + 1)) as f64, 1e-9, name);
        close(token.kv_write, (4 * config.layers * 2 * kv) as f64, 1e-9, name);
        let attention = (config.layers * 4 * q * (depth + 1)) as f64;
        close(token.flops, 2.0 * product_weights(&config) + attention, 0.03, name);
    }
    let config = preset::find("gpt2-124m").unwrap().config();
    let graph = architecture::graph(&config, Purpose::Training).unwrap();
    let mut batch = Batch::default();
    batch.push_with_targets(&[1; 256], &[2; 256]);
    let step = all(&graph, &batch);
    close(step.flops / 256.0, config.training_flops_per_token(256), 0.08, "training");
}

/// A recorder, and what happens in each step of an operation beside its work.
struct Planted<'a> {
    recorder: &'a Recorder,
    steps: Vec<bool>,
    plant: fn(),
}

impl Probe for Planted<'_> {
    fn enter(&self) {
        self.recorder.enter();
    }
    fn leave(&self) {
        self.recorder.leave();
    }
    fn start(&self, worker: usize, step: usize) {
        self.recorder.start(worker, step);
        if self.steps[step] {
            (self.plant)();
        }
    }
    fn end(&self, worker: usize, step: usize) {
        self.recorder.end(worker, step);
    }
}

/// The last norm: an operation that takes next to no time of its own.
const VICTIM: (&str, &str) = ("rms_norm", "norm");

fn steps_of(plan: &Plan, operation: &str, path: &str) -> Vec<bool> {
    let nodes = plan.graph().nodes();
    let found: Vec<bool> = plan
        .steps()
        .iter()
        .map(|step| &nodes[step.node().index()])
        .map(|node| node.op.name() == operation && node.path == path)
        .collect();
    assert!(found.iter().any(|f| *f), "{}", plan.graph());
    found
}

/// A profile of decode at depth 32 with `plant` in the last norm.
fn decode(repeats: usize, plant: Option<fn()>) -> Phase {
    let config = preset::find("quickstart").unwrap().config();
    let model = Arc::new(Model::random(config, 1).unwrap());
    let mut session = Session::new(model, SessionOptions::single(64, 1, IsaKind::best())).unwrap();
    let roofs = Roofs::measure(&mut Pool::new(1).unwrap(), IsaKind::best(), Effort::QUICK).unwrap();
    session.append(0, &[3; 32]).unwrap();
    let samples = repeats * 20;
    let recorder = Recorder::keeping(session.plans().1, samples).counting(Some(own));
    let steps = steps_of(session.plans().1, VICTIM.0, VICTIM.1);
    let probe = Planted { recorder: &recorder, steps, plant: plant.unwrap_or(|| ()) };
    let (mut on, mut off) = (vec![], vec![]);
    for _ in 0..samples {
        for planted in [true, false] {
            session.truncate(0, 32);
            let begin = Instant::now();
            if planted {
                session.decode_probed(&[(0, 5)], &probe).unwrap();
                on.push(begin.elapsed().as_secs_f64());
            } else {
                session.decode_probed(&[(0, 5)], &NoProbe).unwrap();
                off.push(begin.elapsed().as_secs_f64());
            }
        }
    }
    let mut batch = Batch::default();
    batch.push(&[5], 32, 0);
    batch.want_last();
    let batches = [batch];
    let part = Part { name: "decode", plan: session.plans().1, recorder: &recorder, batches: &batches };
    Measurement {
        name: "decode",
        about: String::new(),
        tokens: 1.0,
        repeats,
        parts: vec![part],
        on,
        off,
        allocations: None,
        drift: vec![],
        threads: vec![],
        stages: vec![],
    }
    .phase(&RoofTable::from(&roofs))
}

/// A busy wait is found, named, ranked first, and its predicted gain is the one that taking it away brings.
#[test]
fn a_planted_wait_is_found_and_its_gain_predicted() {
    fn wait() {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_micros(400) {
            std::hint::spin_loop();
        }
    }
    let mut last = String::new();
    // On a machine that others use too, one of some tries has to be quiet.
    for _ in 0..6 {
        let phase = decode(5, Some(wait));
        let first = &phase.operations[0];
        assert_eq!((first.operation.as_str(), first.path.as_str()), VICTIM);
        let real = phase.tokens_per_second - 1.0 / phase.profiled_seconds;
        if (first.gain / real - 1.0).abs() < 0.1 {
            return;
        }
        last = format!("predicted {}, real {real}", first.gain);
    }
    panic!("{last}");
}

#[test]
fn a_planted_allocation_is_found_and_there_are_no_others() {
    fn allocate() {
        drop(std::hint::black_box(vec![1_u8; 100]));
    }
    let phase = decode(2, None);
    assert!(phase.operations.iter().all(|o| o.allocations == Some((0.0, 0.0))), "{:#?}", phase.operations);
    let phase = decode(2, Some(allocate));
    for operation in &phase.operations {
        let planted = (operation.operation.as_str(), operation.path.as_str()) == VICTIM;
        assert_eq!(operation.allocations, Some(if planted { (1.0, 100.0) } else { (0.0, 0.0) }), "{operation:#?}");
    }
}

/// Work, waiting and what lies outside of steps are a run's time, with any number of threads.
#[test]
fn a_runs_time_is_divided_completely() {
    let config = preset::find("quickstart").unwrap().config();
    let model = Arc::new(Model::random(config, 1).unwrap());
    for threads in [1, 2, 3] {
        let options = SessionOptions::single(64, threads, IsaKind::best());
        let mut session = Session::new(model.clone(), options).unwrap();
        let recorder = Recorder::keeping(session.plans().1, 5);
        for _ in 0..8 {
            session.decode_probed(&[(0, 5)], &recorder).unwrap();
        }
        let runs = RunTimes::of(session.plans().1, &recorder);
        assert_eq!((recorder.runs(), runs.len()), (8, 5));
        for run in &runs {
            assert!((run.inside() + run.outside - run.wall).abs() < 1e-6 * run.wall, "{threads}: {run:?}");
            assert!(run.work.iter().chain(&run.wait).all(|seconds| *seconds >= 0.0), "{threads}: {run:?}");
            assert!(threads > 1 || run.wait.iter().all(|seconds| *seconds == 0.0), "{run:?}");
        }
    }
}
