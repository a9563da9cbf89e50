//! Profiles are true: bytes and operations are those of closed formulas; a planted delay and a planted allocation are
//! found in the right operation.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallmind::graph::{
    Batch, Bindings, Executor, Graph, NoProbe, Plan, PlanOptions, Pool, Precision, Probe, Scalars, Storage,
};
use smallmind::kernels::Format;
use smallmind::kernels::attention::CacheFormat;
use smallmind::model::{Mlp, Model, ModelConfig, Purpose, Session, SessionOptions, architecture, preset};
use smallmind::profile::report::advice::Alternative;
use smallmind::profile::report::measurement::{Measurement, PlanRuns};
use smallmind::profile::report::{Bound, Phase, PhaseKind, RoofLevel, RoofTable};
use smallmind::profile::roofs::Effort;
use smallmind::profile::sampling::Samples;
use smallmind::profile::traffic::{Traffic, traffic};
use smallmind::profile::{Allocated, Class, Recorder, Roofs, RunTimes};
use smallmind::simd::IsaKind;
use smallmind::train::{BatchShape, DropoutDraw, Learner, TrainConfig};

thread_local! {
    static OWN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

struct Counting;

// SAFETY: every call goes to `System` unchanged, which keeps the contract of `GlobalAlloc`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = OWN.try_with(|own| own.set((own.get().0 + 1, own.get().1 + layout.size() as u64)));
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System`, and the caller keeps the rest of the contract.
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
    graph.nodes().iter().for_each(|node| sum += traffic(graph, node, batch, None, CacheFormat::F32));
    sum
}

fn close(found: f64, expected: f64, within: f64, what: &str) {
    assert!((found / expected - 1.0).abs() <= within, "{what}: {found} is not {expected}");
}

/// Number of weights that a token is multiplied by, in the blocks and in the head, by the formula of papers.
fn product_weights(c: &ModelConfig) -> (f64, f64) {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mlp = match c.mlp {
        // Up and down projections.
        Mlp::Gelu(_) => 2,
        // Gate, up and down projections.
        Mlp::SwiGlu | Mlp::GeGlu(_) => 3,
    };
    let block = c.d_model * (q + 2 * kv) + q * c.d_model + mlp * c.d_model * c.d_ff;
    ((c.layers * block) as f64, (c.d_model * c.vocab_size) as f64)
}

/// Operations of attention in all layers for one token that sees `keys` tokens: two products for each head and key.
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
        // A token reads one row of the table of positions. The table of tokens is the head too, which is read whole.
        let unread: usize =
            graph.params().iter().filter(|(_, p)| p.name.contains("position")).map(|(_, p)| p.len()).sum();
        close(token.weights, 4.0 * (graph.params().elements() - unread) as f64, 0.001, name);
        let kv = config.kv_heads * config.head_dim;
        close(token.kv_read, (4 * config.layers * 2 * kv * (depth + 1)) as f64, 1e-9, name);
        close(token.kv_write, (4 * config.layers * 2 * kv) as f64, 1e-9, name);
    }
}

/// In every format of weights the operations of a token read as many bytes of parameters as the storage holds, less the
/// rows of positions that it doesn't look up; and these are the bytes of the format's blocks.
#[test]
fn bytes_of_weights_are_those_of_the_storage() {
    for name in ["quickstart", "nanogpt-cpu", "gpt2-124m", "smollm2-135m"] {
        let config = preset::find(name).unwrap().config();
        let graph = architecture::graph(&config, Purpose::Generation).unwrap();
        let mut batch = Batch::default();
        batch.push(&[1], 5);
        batch.want_last();
        for format in Format::ALL {
            let storage = Storage::of(&graph, IsaKind::best(), format).unwrap();
            let read: f64 = graph
                .nodes()
                .iter()
                .map(|node| traffic(&graph, node, &batch, Some(&storage), CacheFormat::F32).weights)
                .sum();
            let (mut held, mut blocks) = (storage.bytes() as f64, 0.0);
            for (id, param) in graph.params().iter() {
                // A token reads one row of the table of positions. The table of tokens is the head too.
                if param.name.contains("position") {
                    held -= 4.0 * (param.len() - param.cols) as f64;
                    continue;
                }
                let of_rows = if param.rows > 1 { format.for_rows_of(param.cols) } else { Format::F32 };
                assert_eq!(storage.get(id).formats(), [of_rows], "{}", param.name);
                let block = of_rows.packed_block();
                blocks += (param.len() * block.bytes) as f64 / block.elements as f64;
            }
            close(read, held, 0.001, &format!("{name} in {format}"));
            // Packed panels are padded to whole vectors of rows.
            close(read, blocks, 0.01, &format!("{name} in {format}, by blocks"));
        }
    }
}

/// Forward agrees within 3 %: the formulas leave out norms, activations and softmaxes. Training agrees within 8 %: the
/// backward of attention computes the scores again, so it has five products where the formula counts four, and the
/// backward of elementwise operations costs more than twice their forward.
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

        // On average a token of a prompt sees half of it. Only the last token has logits.
        let prompt = vec![1; config.context.min(512)];
        let tokens = prompt.len() as f64;
        batch.clear();
        batch.push(&prompt, 0);
        batch.want_last();
        let keys = (tokens + 1.0) / 2.0;
        let expected = tokens * (2.0 * blocks + attention(&config, keys)) + 2.0 * head;
        close(all(&graph, &batch).flops, expected, 0.03, &format!("{name}, prefill"));

        // The formula counts backward as twice forward.
        let graph = architecture::graph(&config, Purpose::Training).unwrap();
        batch.clear();
        batch.push_with_targets(&prompt, &prompt);
        let expected = 3.0 * tokens * (2.0 * (blocks + head) + attention(&config, keys));
        close(all(&graph, &batch).flops, expected, 0.08, &format!("{name}, training"));
        let told = config.training_flops_per_token(prompt.len());
        close(told, expected / tokens, 1e-9, &format!("{name}, what a training's log counts"));
    }
}

/// The work of a report is the work of all operations of the graph, each once a token.
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
    // One for each element of the feed-forward (sigmoid), and for each head and key (softmax).
    let (layers, keys) = (config.layers as f64, 33.0);
    close(expected.exponentials, layers * (config.d_ff as f64 + config.heads as f64 * keys), 1e-9, "exponentials");
}

/// Elementwise operations with little arithmetic are bound by memory; exponentials and products are bound by
/// arithmetic.
#[test]
fn elementwise_operations_are_bound_by_what_they_do() {
    // Roofs of two AVX-512 cores, so that the result does not depend on this machine.
    let level = |name: &str, bytes: f64, read: f64, values: f64| RoofLevel {
        name: name.to_owned(),
        bytes,
        read,
        update: 1.5 * values,
        values,
    };
    let roofs = RoofTable {
        bf16_gflops: None,
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
        let mut learner = Learner::new(model, shape, optimizer, Precision::F32, 1, IsaKind::best()).unwrap();
        let mut batch = Batch::default();
        (0..4).for_each(|_| batch.push_with_targets(&vec![1; tokens], &vec![2; tokens]));
        let recorder = Recorder::keeping(learner.gradient_plan(), 1);
        let begin = Instant::now();
        learner.accumulate(&batch, shape.tokens(), DropoutDraw { seed: 1, step: 0 }, &recorder).unwrap();
        let seconds = begin.elapsed().as_secs_f64();
        let batches = [batch];
        let runs = PlanRuns { name: "gradient", plan: learner.gradient_plan(), recorder: &recorder, batches: &batches };
        let samples = Samples { on: vec![seconds], off: vec![seconds], ..Samples::default() };
        let phase = measurement(PhaseKind::Step, shape.tokens() as f64, 1, runs, &samples).phase(&roofs);
        let mut found = phase.operations.into_iter().filter(|o| o.id.operation == operation);
        let first = found.next().unwrap_or_else(|| panic!("{preset} has {operation}"));
        let (memory, compute) = first.roof.bounds(&first.traffic);
        assert_eq!(first.roof.bound, if memory >= compute { Bound::Memory } else { Bound::Compute });
        first.roof.bound
    };
    for operation in ["rms_norm", "rms_norm_grad", "rope", "rope_grad"] {
        assert_eq!(bound("quickstart", operation), Bound::Memory, "{operation}");
    }
    for operation in ["swiglu", "linear", "attention"] {
        assert_eq!(bound("quickstart", operation), Bound::Compute, "{operation}");
    }
}

/// Products with weights in Q8_0 and BF16, the loss among them, have the roofs of those dot products. Norms stay `f32`
/// in every format and are no reason for a what-if of narrower weights; one is computed for each format that takes fewer
/// bytes.
#[test]
fn narrow_products_stand_under_roofs_of_their_own() {
    let config = ModelConfig { layers: 1, ..preset::find("quickstart").unwrap().config() };
    let model = Model::random(config, 1).unwrap();
    let flat = RoofLevel { name: "memory".to_owned(), bytes: 1e8, read: 3e3, update: 4e3, values: 4e3 };
    let roofs = RoofTable {
        f32_gflops: 200.0,
        bf16_gflops: Some(400.0),
        int8_gops: Some(800.0),
        exp_gops: 12.0,
        levels: vec![flat],
        entry_ns: 100.0,
        barrier_ns: 70.0,
    };
    let isa = IsaKind::best();
    let shape = BatchShape { sequences: 1, context: 16 };
    let mut batch = Batch::default();
    batch.push_with_targets(&[1; 16], &[2; 16]);
    let [bf16, q8_0, q4_0] = [Alternative::Bf16Weights, Alternative::Q8_0Weights, Alternative::Q4_0Weights];
    for (format, peak, narrower) in [
        (Format::F32, 200.0, &[bf16, q8_0, q4_0][..]),
        (Format::Bf16, 400.0, &[q8_0, q4_0]),
        (Format::Q8_0, 800.0, &[q4_0]),
        (Format::Q4_0, 800.0, &[]),
    ] {
        let packed = model.try_clone().unwrap().pack_as(isa, format).unwrap();
        let weights = packed.weights();
        let graph = architecture::graph(model.config(), Purpose::Evaluation).unwrap();
        let plan = Plan::new(graph, PlanOptions::stored(shape.limits(), 1, weights.storage().clone())).unwrap();
        let mut executor = Executor::new(plan).unwrap();
        let recorder = Recorder::keeping(executor.plan(), 1);
        let mut pool = Pool::new(1).unwrap();
        let begin = Instant::now();
        executor.run(&mut pool, &batch, &Scalars::default(), Bindings::stored(weights), &recorder).unwrap();
        let seconds = begin.elapsed().as_secs_f64();
        let batches = [batch.clone()];
        let runs = PlanRuns { name: "loss", plan: executor.plan(), recorder: &recorder, batches: &batches };
        let samples = Samples { on: vec![seconds], off: vec![seconds], ..Samples::default() };
        let phase = measurement(PhaseKind::Step, 16.0, 1, runs, &samples).phase(&roofs);
        for operation in ["linear", "linear_cross_entropy"] {
            let found = phase.operations.iter().find(|o| o.id.operation == operation).unwrap();
            let weights = found.kind.weights.as_deref();
            assert_eq!((weights, found.roof.peak_gflops), (Some(format.name()), peak), "{operation}");
        }
        let norm = phase.operations.iter().find(|o| o.id.operation == "rms_norm").unwrap();
        assert_eq!((norm.kind.weights.as_deref(), norm.roof.peak_gflops), (Some("f32"), 200.0));
        let of_weights = phase.outlook.what_ifs.iter().filter(|w| [bf16, q8_0, q4_0].contains(&w.alternative));
        let found: Vec<Alternative> = of_weights.clone().map(|w| w.alternative).collect();
        assert_eq!(found, narrower, "{format}");
        // An operation with weights keeps its share of its roof, which those of the other format stand under.
        for what_if in of_weights {
            let (then, peak_then) = match what_if.alternative {
                Alternative::Bf16Weights => (Format::Bf16, 400.0),
                Alternative::Q8_0Weights => (Format::Q8_0, 800.0),
                _ => (Format::Q4_0, 800.0),
            };
            let bytes = |format: Format| format.block().bytes as f64 / format.block().elements as f64;
            let saved = phase.operations.iter().filter(|o| o.kind.class.has_narrow_weights()).map(|o| {
                let weights = o.traffic.weights * bytes(then) / bytes(format);
                let flops = o.traffic.flops * if o.kind.class == Class::Product { peak / peak_then } else { 1.0 };
                let (memory, compute) = o.roof.bounds(&Traffic { weights, flops, ..o.traffic });
                o.time.seconds * (1.0 - memory.max(compute) / o.roof.seconds)
            });
            let total = phase.rate.profiled_seconds;
            let change = total / (total - saved.sum::<f64>()) - 1.0;
            assert!((what_if.change - change).abs() < 1e-9, "{format}: {what_if:?}, not {change}");
        }
    }
}

/// A recorder that also calls `plant` at the beginning of some steps.
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

/// The last norm: an operation that takes little time itself.
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

/// A measurement of samples of one plan.
fn measurement<'a>(
    kind: PhaseKind,
    tokens: f64,
    repeats: usize,
    runs: PlanRuns<'a>,
    samples: &'a Samples,
) -> Measurement<'a> {
    Measurement {
        kind,
        about: String::new(),
        tokens,
        repeats,
        plans: vec![runs],
        samples,
        drift: vec![],
        threads: vec![],
        stages: vec![],
        barrier_ns: 0.0,
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
    let runs = PlanRuns { name: "decode", plan: session.plan(1), recorder: &recorder, batches: &batches };
    let samples = Samples { on, off, ..Samples::default() };
    measurement(PhaseKind::Decode, 1.0, repeats, runs, &samples).phase(&RoofTable::from(&roofs))
}

/// A busy wait is found in the right operation, which ranks first, and the predicted gain is what its removal brings.
#[test]
fn a_planted_wait_is_found_and_its_gain_predicted() {
    fn wait() {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_micros(400) {
            std::hint::spin_loop();
        }
    }
    let mut last = String::new();
    // Other programs may use the machine: one of a few tries has to be quiet.
    for _ in 0..6 {
        let phase = decode(5, Some(wait));
        let first = &phase.operations[0];
        assert_eq!((first.id.operation.as_str(), first.id.path.as_str()), VICTIM);
        let real = phase.rate.tokens_per_second - 1.0 / phase.rate.profiled_seconds;
        if (first.roof.gain / real - 1.0).abs() < 0.1 {
            return;
        }
        last = format!("predicted {}, real {real}", first.roof.gain);
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
        let planted = (operation.id.operation.as_str(), operation.id.path.as_str()) == VICTIM;
        assert_eq!(operation.allocations, Some(if planted { (1.0, 100.0) } else { (0.0, 0.0) }), "{operation:#?}");
    }
}

/// Work, waiting and time outside of steps add up to the time of a run, for any number of threads.
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
