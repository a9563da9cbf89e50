//! What a profile says is true: bytes and operations as closed formulas have them, a planted delay and a planted
//! allocation found, by name.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallmind::graph::{Batch, Graph, NoProbe, Plan, Pool, Probe};
use smallmind::model::{Mlp, Model, ModelConfig, Purpose, Session, SessionOptions, architecture, preset};
use smallmind::profile::report::join::{Measurement, Part};
use smallmind::profile::report::{Bound, Phase, RoofLevel, RoofTable};
use smallmind::profile::roofs::Effort;
use smallmind::profile::traffic::{Traffic, traffic};
use smallmind::profile::{Allocated, Events, Recorder, Roofs, RunTimes};
use smallmind::simd::IsaKind;
use smallmind::train::{BatchShape, DropoutDraw, Learner, TrainConfig};

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
    graph.nodes().iter().for_each(|node| sum += traffic(graph, node, batch, None));
    sum
}

fn close(found: f64, expected: f64, within: f64, what: &str) {
    assert!((found / expected - 1.0).abs() <= within, "{what}: {found} is not {expected}");
}

/// Weights that a token is multiplied by in the blocks and in the head, as papers count them.
fn product_weights(c: &ModelConfig) -> (f64, f64) {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mlp = match c.mlp {
        // Up and down.
        Mlp::Gelu(_) => 2,
        // Gate as well.
        Mlp::SwiGlu => 3,
    };
    let block = c.d_model * (q + 2 * kv) + q * c.d_model + mlp * c.d_model * c.d_ff;
    ((c.layers * block) as f64, (c.d_model * c.vocab_size) as f64)
}

/// Operations of attention in all layers, for one token that sees `keys`: two products of each head with all keys.
fn attention(c: &ModelConfig, keys: f64) -> f64 {
    (4 * c.layers * c.heads * c.head_dim) as f64 * keys
}

#[test]
fn bytes_are_the_weights_and_operations_the_formulas() {
    for name in ["quickstart", "nanogpt-cpu", "gpt2-124m", "smollm2-135m"] {
        let config = preset::find(name).unwrap().config();
        let graph = architecture::graph(&config, Purpose::Generation).unwrap();
        let depth = config.context / 2;
        let mut batch = Batch::default();
        batch.push(&[1], depth);
        batch.want_last();
        let token = all(&graph, &batch);
        // Of tables that are not the head too, one row is read: the head is tied, so only positions are such a table.
        let unread: usize =
            graph.params().iter().filter(|(_, p)| p.name.contains("position")).map(|(_, p)| p.len()).sum();
        close(token.weights, 4.0 * (graph.params().elements() - unread) as f64, 0.001, name);
        let kv = config.kv_heads * config.head_dim;
        close(token.kv_read, (4 * config.layers * 2 * kv * (depth + 1)) as f64, 1e-9, name);
        close(token.kv_write, (4 * config.layers * 2 * kv) as f64, 1e-9, name);
    }
}

/// Forward within 3 %: norms, activations and softmaxes are what the formulas leave out. Training within 8 %:
/// attention's backward computes the scores once more, five products for the forward's two where the formula has four,
/// and the elementwise operations' backward is dearer.
#[test]
fn operations_are_those_of_the_formulas() {
    for name in ["quickstart", "nanogpt-cpu", "gpt2-124m", "smollm2-135m"] {
        let config = preset::find(name).unwrap().config();
        let (blocks, head) = product_weights(&config);
        let graph = architecture::graph(&config, Purpose::Generation).unwrap();
        let depth = config.context / 2;
        let mut batch = Batch::default();
        batch.push(&[1], depth);
        batch.want_last();
        let expected = 2.0 * (blocks + head) + attention(&config, depth as f64 + 1.0);
        close(all(&graph, &batch).flops, expected, 0.03, &format!("{name}, decode"));

        // A prompt's tokens see half of it, and the last one alone has logits.
        let prompt = vec![1; config.context.min(512)];
        let tokens = prompt.len() as f64;
        batch.clear();
        batch.push(&prompt, 0);
        batch.want_last();
        let keys = (tokens + 1.0) / 2.0;
        let expected = tokens * (2.0 * blocks + attention(&config, keys)) + 2.0 * head;
        close(all(&graph, &batch).flops, expected, 0.03, &format!("{name}, prefill"));

        // Backward is twice forward.
        let graph = architecture::graph(&config, Purpose::Training).unwrap();
        batch.clear();
        batch.push_with_targets(&prompt, &prompt);
        let expected = 3.0 * tokens * (2.0 * (blocks + head) + attention(&config, keys));
        close(all(&graph, &batch).flops, expected, 0.08, &format!("{name}, training"));
        let told = config.training_flops_per_token(prompt.len());
        close(told, expected / tokens, 1e-9, &format!("{name}, what a training's log counts"));
    }
}

/// A report's total is the work of all its operations, each once a token.
#[test]
fn a_reports_total_is_the_graphs() {
    let phase = decode(1, None);
    let config = preset::find("quickstart").unwrap().config();
    let graph = architecture::graph(&config, Purpose::Generation).unwrap();
    let mut batch = Batch::default();
    batch.push(&[5], 32);
    batch.want_last();
    let expected = all(&graph, &batch);
    close(phase.traffic.flops, expected.flops, 1e-9, "operations");
    close(phase.traffic.exponentials, expected.exponentials, 1e-9, "exponentials");
    close(phase.traffic.bytes(), expected.bytes(), 1e-9, "bytes");
    // A sigmoid for each element of the feed-forward, a softmax's term for each head and key.
    let (layers, keys) = (config.layers as f64, 33.0);
    close(expected.exponentials, layers * (config.d_ff as f64 + config.heads as f64 * keys), 1e-9, "exponentials");
}

/// What moves values without computing much is not said to be bound by arithmetic; what makes exponentials, and
/// products, is.
#[test]
fn elementwise_operations_are_bound_by_what_they_do() {
    // Of an AVX-512 core pair: what is decided here does not depend on this machine.
    let level = |name: &str, bytes: f64, read: f64, values: f64| RoofLevel {
        name: name.to_owned(),
        bytes,
        read,
        update: 1.5 * values,
        values,
    };
    let roofs = RoofTable {
        int8_gops: None,
        f32_gflops: 236.0,
        exp_gops: 12.0,
        levels: vec![level("L2/2", 1e6, 195.0, 195.0), level("L3", 3e7, 60.0, 90.0), level("memory", 1e8, 30.0, 40.0)],
        entry_ns: 100.0,
        barrier_ns: 70.0,
    };
    let bound = |preset: &str, operation: &str| {
        let config = preset::find(preset).unwrap().config();
        let tokens = 512.min(config.context);
        let model = Model::random(config, 1).unwrap();
        let shape = BatchShape { sequences: 4, context: tokens };
        let optimizer = TrainConfig::with_overlays(Some(preset), &[]).unwrap().optimizer();
        let mut learner = Learner::new(model, shape, optimizer, 1, IsaKind::best()).unwrap();
        let mut batch = Batch::default();
        (0..4).for_each(|_| batch.push_with_targets(&vec![1; tokens], &vec![2; tokens]));
        let recorder = Recorder::keeping(learner.gradient_plan(), 1);
        let begin = Instant::now();
        learner.accumulate(&batch, shape.tokens(), DropoutDraw { seed: 1, step: 0 }, &recorder).unwrap();
        let seconds = begin.elapsed().as_secs_f64();
        let batches = [batch];
        let part = Part { name: "gradient", plan: learner.gradient_plan(), recorder: &recorder, batches: &batches };
        let phase = measurement("step", shape.tokens() as f64, 1, part, (vec![seconds], vec![seconds])).phase(&roofs);
        let mut found = phase.operations.into_iter().filter(|o| o.operation == operation);
        let first = found.next().unwrap_or_else(|| panic!("{preset} has {operation}"));
        let (memory, compute) = first.roof(&first.traffic);
        assert_eq!(first.bound, if memory >= compute { Bound::Memory } else { Bound::Compute });
        first.bound
    };
    for operation in ["rms_norm", "rms_norm_grad", "rope", "rope_grad"] {
        assert_eq!(bound("quickstart", operation), Bound::Memory, "{operation}");
    }
    for operation in ["swiglu", "linear", "attention"] {
        assert_eq!(bound("quickstart", operation), Bound::Compute, "{operation}");
    }
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

/// Samples of a plan and nothing else.
fn measurement<'a>(
    name: &'a str,
    tokens: f64,
    repeats: usize,
    part: Part<'a>,
    (on, off): (Vec<f64>, Vec<f64>),
) -> Measurement<'a> {
    Measurement {
        name,
        about: String::new(),
        tokens,
        repeats,
        parts: vec![part],
        on,
        off,
        allocations: None,
        drift: vec![],
        threads: vec![],
        stages: vec![],
        events: Events::default(),
        beats: vec![],
    }
}

/// A profile of decode at depth 32 with `plant` in the last norm.
fn decode(repeats: usize, plant: Option<fn()>) -> Phase {
    let config = preset::find("quickstart").unwrap().config();
    let model = Arc::new(Model::random(config, 1).unwrap().pack(IsaKind::best()).unwrap());
    let mut session = Session::new(model, SessionOptions::single(64, 1)).unwrap();
    let sequence = session.open().unwrap();
    let roofs = Roofs::measure(&mut Pool::new(1).unwrap(), IsaKind::best(), Effort::QUICK).unwrap();
    session.append(sequence, &[3; 32]).unwrap();
    let samples = repeats * 20;
    let recorder = Recorder::keeping(session.plan(1), samples).counting(Some(own));
    let steps = steps_of(session.plan(1), VICTIM.0, VICTIM.1);
    let probe = Planted { recorder: &recorder, steps, plant: plant.unwrap_or(|| ()) };
    let (mut on, mut off) = (vec![], vec![]);
    for _ in 0..samples {
        for planted in [true, false] {
            session.truncate(sequence, 32);
            let begin = Instant::now();
            if planted {
                session.append_probed(sequence, &[5], &probe).unwrap();
                on.push(begin.elapsed().as_secs_f64());
            } else {
                session.append_probed(sequence, &[5], &NoProbe).unwrap();
                off.push(begin.elapsed().as_secs_f64());
            }
        }
    }
    let mut batch = Batch::default();
    batch.push(&[5], 32);
    batch.want_last();
    let batches = [batch];
    let part = Part { name: "decode", plan: session.plan(1), recorder: &recorder, batches: &batches };
    measurement("decode", 1.0, repeats, part, (on, off)).phase(&RoofTable::from(&roofs))
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
    let model = Arc::new(Model::random(config, 1).unwrap().pack(IsaKind::best()).unwrap());
    for threads in [1, 2, 3] {
        let options = SessionOptions::single(64, threads);
        let mut session = Session::new(model.clone(), options).unwrap();
        let sequence = session.open().unwrap();
        let recorder = Recorder::keeping(session.plan(1), 5);
        for _ in 0..8 {
            session.append_probed(sequence, &[5], &recorder).unwrap();
        }
        let runs = RunTimes::of(session.plan(1), &recorder);
        assert_eq!((recorder.runs(), runs.len()), (8, 5));
        for run in &runs {
            assert!((run.inside() + run.outside - run.wall).abs() < 1e-6 * run.wall, "{threads}: {run:?}");
            assert!(run.work.iter().chain(&run.wait).all(|seconds| *seconds >= 0.0), "{threads}: {run:?}");
            assert!(threads > 1 || run.wait.iter().all(|seconds| *seconds == 0.0), "{run:?}");
        }
    }
}
