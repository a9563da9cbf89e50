//! The optimised plan does what the naive interpreter does: random models, random batches, every instruction set,
//! several numbers of threads; and the number of threads changes no bit.

mod common;
#[path = "plan_equals_interpret/experts.rs"]
mod experts;

use common::batches::{self, Conversation};
use common::build::{MANY, chunked, matrix};
use common::close::{Bound, Tensors, assert_close, assert_close_wide, bits, wide};
use common::memory::{Memory, Runner, interpreted_grads, named};
use common::model::{Family, Head, Model};
use common::rng::Rng;
use smallmind_graph::interpret::Interpreter;
use smallmind_graph::op::{AdamWSpec, Index};
use smallmind_graph::{
    Batch, CLIP, Graph, GraphBuilder, Limits, Op, ParamSpec, Params, Scalars, Storage, fuse, grad, update_graph,
};
use smallmind_kernels::attention::CacheFormat;
use smallmind_kernels::matmul::rounds_to_bf16;
use smallmind_kernels::reference::formats::quantized;
use smallmind_kernels::{Format, FormatKind};
use smallmind_simd::IsaKind;

/// Losses, hidden values and logits in `f32` against the interpreter's `f64`.
const VALUES: Bound = Bound { relative: 2e-5, of_all: 2e-5 };
/// Accumulated gradients in `f32` against the interpreter's `f64`.
const GRADIENTS: Bound = Bound { relative: 3e-4, of_all: 1e-4 };
/// One AdamW step from the same parameters, gradients and moments.
const UPDATE: Bound = Bound { relative: 2e-6, of_all: 0.0 };
/// The interpreter on the fused graph against the unfused one: both in `f64`.
const FUSED: Bound = Bound { relative: 1e-9, of_all: 1e-9 };

/// Numbers of threads to compare. Eight are far more than a test machine may have, and slow there: only one instruction
/// set takes them.
fn threads(isa: IsaKind) -> &'static [usize] {
    if isa == IsaKind::best() { &[1, 2, 3, 8] } else { &[1, 2, 3] }
}

const ADAMW: AdamWSpec = AdamWSpec { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };

/// A graph with a loss, and what it is run on: two micro-batches whose gradients add up.
struct Training {
    what: String,
    graph: Graph,
    limits: Limits,
    batches: Vec<Batch>,
    scalars: Vec<Scalars>,
    start: Memory,
}

/// What a training leaves behind.
struct Outcome {
    values: Tensors<f32>,
    memory: Memory,
}

impl Training {
    fn new(what: String, graph: &Graph, limits: Limits, vocab: usize, rng: &mut Rng) -> Self {
        let graph = grad(graph, "loss").unwrap();
        let batches: Vec<Batch> = (0..2).map(|_| batches::training(rng, vocab, &limits)).collect();
        let loss_scale = 1.0 / batches::counted(&batches).max(1) as f32;
        let dropout_seed = rng.word();
        let scalars = |dropout_step| Scalars { loss_scale, dropout_seed, dropout_step, ..Scalars::default() };
        let start = Memory::new(graph.params(), rng.word());
        Self { what, limits, scalars: vec![scalars(0), scalars(1)], batches, start, graph }
    }

    fn random(case: u64) -> Self {
        let family = [Family::Gpt2, Family::Llama, Family::Odd, Family::Odd][case as usize % 4];
        let model = Model::random(family, case);
        let rng = &mut Rng::new(1000 + case);
        let tokens = rng.pick(&[1, 5, 17, 40, 140, 400]);
        let limits = Limits { tokens, outputs: 0, spans: rng.range(1..=8), context: model.context, pages: 0 };
        let graph = model.graph(Head::Loss).unwrap();
        Self::new(format!("case {case}, {limits:?}, {model:?}"), &graph, limits, model.vocab, rng)
    }

    fn interpret(&self, graph: &Graph) -> (Tensors<f64>, Tensors<f64>) {
        let mut interpreter = Interpreter::new(graph, &self.start.params).unwrap();
        let mut values = vec![];
        for (i, (batch, scalars)) in self.batches.iter().zip(&self.scalars).enumerate() {
            interpreter.run(graph, batch, scalars);
            for (name, value) in graph.results() {
                let matrix = interpreter.result(graph, name).unwrap();
                assert_eq!((matrix.rows, matrix.cols), (batch.len(), graph.shape(*value).cols));
                values.push((format!("{name} {i}"), matrix.data.clone()));
            }
        }
        (values, interpreted_grads(graph, &interpreter))
    }

    fn execute(&self, graph: &Graph, threads: usize, isa: IsaKind) -> Outcome {
        let mut memory = self.start.clone();
        let mut runner = Runner::new(graph.clone(), self.limits, threads, isa);
        let mut values = vec![];
        for (i, (batch, scalars)) in self.batches.iter().zip(&self.scalars).enumerate() {
            runner.run(batch, scalars, &mut memory);
            values.extend(graph.results().iter().map(|(name, _)| (format!("{name} {i}"), runner.result(name))));
        }
        Outcome { values, memory }
    }

    /// Runs `graph` on one thread and on several, against `values` and `grads`.
    fn check(&self, graph: &Graph, isa: IsaKind, values: &Tensors<f64>, grads: &Tensors<f64>) -> Outcome {
        let what = format!("{isa}, {}", self.what);
        let outcome = self.execute(graph, 1, isa);
        assert_close(&what, &outcome.values, values, VALUES);
        assert_close(&what, &outcome.memory.named_grads(graph.params()), grads, GRADIENTS);
        for &threads in &threads(isa)[1..] {
            let other = self.execute(graph, threads, isa);
            assert_same_bits(&format!("{threads} threads, {what}"), &outcome, &other);
        }
        outcome
    }
}

fn assert_same_bits(what: &str, one: &Outcome, other: &Outcome) {
    for ((name, a), (_, b)) in one.values.iter().zip(&other.values) {
        assert_eq!(bits(a), bits(b), "{what}: {name}");
    }
    assert_same_memory(what, &one.memory, &other.memory);
}

fn assert_same_memory(what: &str, a: &Memory, b: &Memory) {
    assert_eq!(bits(&a.grads), bits(&b.grads), "{what}: gradients");
    assert_eq!(bits(&a.params), bits(&b.params), "{what}: parameters");
    assert_eq!(bits(&a.moments.0), bits(&b.moments.0), "{what}: first moments");
    assert_eq!(bits(&a.moments.1), bits(&b.moments.1), "{what}: second moments");
}

fn check_training(training: &Training) -> Vec<Outcome> {
    let (values, grads) = training.interpret(&training.graph);
    let fused = fuse(&training.graph);
    let (fused_values, fused_grads) = training.interpret(&fused);
    for (got, want) in [(&fused_values, &values), (&fused_grads, &grads)] {
        assert_close_wide(&training.what, got, want, FUSED);
    }
    training.check(&training.graph, IsaKind::Scalar, &values, &grads);
    let outcomes: Vec<Outcome> =
        IsaKind::available().iter().map(|isa| training.check(&fused, *isa, &values, &grads)).collect();
    for outcome in &outcomes[1..] {
        let scalar: Tensors<f64> = outcomes[0].values.iter().map(|(n, x)| (n.clone(), wide(x))).collect();
        assert_close(&format!("against scalar, {}", training.what), &outcome.values, &scalar, VALUES);
    }
    outcomes
}

/// Two steps of AdamW on the gradients in `memory` for every number of threads, each against the interpreter's from the
/// same memory.
fn check_update(what: &str, params: &Params, isa: IsaKind, start: &Memory, max_norm: f64) {
    let graph = update_graph(params.clone(), ADAMW, max_norm).unwrap();
    let limits = Limits { tokens: 0, outputs: 0, spans: 0, context: 0, pages: 0 };
    let mut outcomes = vec![];
    for &threads in threads(isa) {
        let mut memory = start.clone();
        let mut runner = Runner::new(graph.clone(), limits, threads, isa);
        for step in 1..=2 {
            let scalars = Scalars { learning_rate: 0.01, step, ..Scalars::default() };
            memory.grads.copy_from_slice(&start.grads);
            let before = memory.clone();
            runner.run(&Batch::default(), &scalars, &mut memory);
            assert!(memory.grads.iter().all(|g| *g == 0.0), "{what}: gradients are zero after an update");
            if threads == 1 {
                let interpreter = interpret_update(&graph, &before, &scalars);
                let norm = wide(&runner.result(CLIP));
                let want = interpreter.result(&graph, CLIP).unwrap();
                assert!(norm.iter().zip(&want.data).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()), "{norm:?} {want:?}");
                for (flat, want) in [
                    (&memory.params, &interpreter.params),
                    (&memory.moments.0, &interpreter.moments.0),
                    (&memory.moments.1, &interpreter.moments.1),
                ] {
                    let got = named(params, flat);
                    let want: Tensors<f64> =
                        got.iter().zip(want).map(|((name, _), m)| (name.clone(), m.data.clone())).collect();
                    assert_close(&format!("update {step}, {what}"), &got, &want, UPDATE);
                }
            }
        }
        outcomes.push(memory);
    }
    for (threads, other) in threads(isa).iter().zip(&outcomes) {
        assert_same_memory(&format!("update on {threads} threads, {what}"), &outcomes[0], other);
    }
}

/// The interpreter after an update that starts from `memory`.
fn interpret_update(graph: &Graph, memory: &Memory, scalars: &Scalars) -> Interpreter {
    let mut interpreter = Interpreter::new(graph, &memory.params).unwrap();
    let load = |to: &mut Vec<smallmind_kernels::reference::Matrix>, from: &[f32]| {
        for (matrix, (_, values)) in to.iter_mut().zip(named(graph.params(), from)) {
            matrix.data = wide(&values);
        }
    };
    load(&mut interpreter.grads, &memory.grads);
    load(&mut interpreter.moments.0, &memory.moments.0);
    load(&mut interpreter.moments.1, &memory.moments.1);
    interpreter.run(graph, &Batch::default(), scalars);
    interpreter
}

#[test]
fn training() {
    for case in 0..40 {
        let training = Training::random(case);
        let outcomes = check_training(&training);
        for (isa, outcome) in IsaKind::available().iter().zip(&outcomes) {
            let max_norm = if case % 2 == 0 { f64::INFINITY } else { 0.05 };
            let what = format!("{isa}, {}", training.what);
            check_update(&what, training.graph.params(), *isa, &outcome.memory, max_norm);
        }
    }
}

/// A vocabulary whose logits do not fit into one chunk of rows.
#[test]
fn the_loss_by_several_chunks() {
    let (vocab, d) = (MANY, 5);
    let graph = chunked(vocab, d).unwrap();
    let limits = Limits { tokens: 150, outputs: 0, spans: 4, context: 100, pages: 0 };
    let training = Training::new("chunks".into(), &graph, limits, vocab, &mut Rng::new(5));
    let plan = Runner::new(training.graph.clone(), limits, 1, IsaKind::Scalar);
    let steps = plan
        .plan()
        .steps()
        .iter()
        .filter(|s| matches!(plan.plan().graph().nodes()[s.node().index()].op, Op::LinearCrossEntropyGrad { .. }));
    assert!(steps.count() >= 8, "two chunks of four steps");
    check_training(&training);
}

/// A gradient that is not a number must not reach the parameters.
#[test]
fn an_update_without_a_finite_norm_changes_nothing() {
    let model = Model::random(Family::Gpt2, 1);
    let graph = model.graph(Head::Loss).unwrap();
    let update = update_graph(graph.params().clone(), ADAMW, 1.0).unwrap();
    let limits = Limits { tokens: 0, outputs: 0, spans: 0, context: 0, pages: 0 };
    for bad in [f32::NAN, f32::INFINITY] {
        let mut memory = Memory::new(graph.params(), 3);
        memory.grads.fill(0.5);
        memory.grads[graph.params().layout().len() / 2] = bad;
        let before = memory.clone();
        let mut runner = Runner::new(update.clone(), limits, 2, IsaKind::best());
        let scalars = Scalars { learning_rate: 0.1, ..Scalars::default() };
        runner.run(&Batch::default(), &scalars, &mut memory);
        assert_same_memory("a bad gradient", &before, &memory);
        assert!(!runner.result(CLIP)[0].is_finite());
    }
}

/// Chunks of several sequences over the cache, batch after batch.
struct Inference {
    what: String,
    graph: Graph,
    limits: Limits,
    batches: Vec<Batch>,
    start: Memory,
}

impl Inference {
    fn random(case: u64) -> Self {
        let family = [Family::Gpt2, Family::Llama, Family::Odd][case as usize % 3];
        let model = Model::random(family, 500 + case);
        let graph = model.graph(Head::Cached).unwrap();
        let rng = &mut Rng::new(2000 + case);
        let spans = rng.range(1..=4);
        let tokens = rng.pick(&[1, 4, 9, 33, 70]);
        let limits =
            Limits { tokens, outputs: tokens, spans, context: 90, pages: batches::pages_for(spans + rng.below(3), 90) };
        let mut conversation = Conversation::random(rng, model.vocab, &limits, 2 * tokens + 5);
        let mut batches = vec![];
        while let Some((mut batch, _)) = conversation.next(rng, &limits).filter(|_| batches.len() < 8) {
            match rng.below(3) {
                0 => batch.want_all(),
                1 => batch.want_last(),
                _ => {}
            }
            batches.push(batch);
        }
        let start = Memory::new(graph.params(), case);
        Self { what: format!("case {case}, {limits:?}, {model:?}"), graph, limits, batches, start }
    }

    /// The logits of all batches, computed with parameters laid out flat like these, over a cache in a format.
    fn interpret(&self, params: &[f32], cache_format: CacheFormat) -> Tensors<f64> {
        let mut interpreter = Interpreter::new(&self.graph, params).unwrap();
        interpreter.cache_format = cache_format;
        let interpret = |(i, batch)| {
            interpreter.run(&self.graph, batch, &Scalars::default());
            (format!("logits {i}"), interpreter.result(&self.graph, "logits").unwrap().data.clone())
        };
        self.batches.iter().enumerate().map(interpret).collect()
    }

    fn execute(&self, mut runner: Runner, start: &Memory) -> Tensors<f32> {
        let mut memory = start.clone().for_plan(runner.plan());
        let logits = |(i, batch)| {
            runner.run(batch, &Scalars::default(), &mut memory);
            (format!("logits {i}"), runner.result("logits"))
        };
        self.batches.iter().enumerate().map(logits).collect()
    }

    /// The logits of `runner` with any number of threads, which changes no bit.
    fn on_all_threads(&self, isa: IsaKind, runner: impl Fn(usize) -> Runner, start: &Memory) -> Tensors<f32> {
        let first = self.execute(runner(1), start);
        for &threads in &threads(isa)[1..] {
            let other = self.execute(runner(threads), start);
            same_bits(&first, &other, &format!("{threads} threads, {isa}, {}", self.what));
        }
        first
    }
}

fn same_bits(one: &Tensors<f32>, other: &Tensors<f32>, what: &str) {
    for ((name, a), (_, b)) in one.iter().zip(other) {
        assert_eq!(bits(a), bits(b), "{name}, {what}");
    }
}

#[test]
fn inference_over_the_cache() {
    for case in 0..24 {
        let inference = Inference::random(case);
        let (limits, what) = (inference.limits, &inference.what);
        let want = inference.interpret(&inference.start.params, CacheFormat::F32);
        for &isa in IsaKind::available() {
            // Fused or not: both meet every instruction set in some case.
            let is_fused = (case + isa as u64).is_multiple_of(2);
            let graph = if is_fused { fuse(&inference.graph) } else { inference.graph.clone() };
            for new in [Runner::new, Runner::packed] {
                let runner = |threads| new(graph.clone(), limits, threads, isa);
                let logits = inference.on_all_threads(isa, runner, &inference.start);
                assert_close(&format!("{isa}, {what}"), &logits, &want, VALUES);
            }
        }
    }
}

/// Plans round keys and values as the interpreter does, and then compute in `f32`.
#[test]
fn inference_over_a_rounded_cache() {
    // Where rounding has another outcome in `f64`, a key or a value is off by a step of its format.
    const ROUNDED: Bound = Bound { relative: 0.02, of_all: 0.02 };
    for case in 0..24 {
        let inference = Inference::random(case);
        let graph = fuse(&inference.graph);
        for cache_format in [CacheFormat::F16, CacheFormat::Q8_0, CacheFormat::Q4_0] {
            let want = inference.interpret(&inference.start.params, cache_format);
            for &isa in IsaKind::available() {
                let runner = |threads| Runner::cached(graph.clone(), inference.limits, threads, (isa, cache_format));
                let logits = inference.on_all_threads(isa, runner, &inference.start);
                assert_close(&format!("{cache_format}, {isa}, {}", inference.what), &logits, &want, ROUNDED);
            }
        }
    }
}

/// The parameters as a storage holds them, flat.
fn as_stored(graph: &Graph, storage: &Storage, flat: &[f32]) -> Vec<f32> {
    let (mut rounded, layout) = (flat.to_vec(), graph.params().layout());
    for (id, spec) in graph.params().iter() {
        let mut rows = rounded[layout.offset(id)..][..spec.len()].chunks_exact_mut(spec.cols);
        for segment in &storage.get(id).segments {
            for row in rows.by_ref().take(segment.rows.len()) {
                let mut bytes = vec![0; segment.format.row_bytes(row.len()).unwrap()];
                segment.format.pack(row, None, &mut bytes);
                segment.format.unpack(&bytes, row);
            }
        }
    }
    rounded
}

/// Formats with codes and scales.
fn blocks() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| format.kind() == FormatKind::Blocks)
}

/// Whether products with a weight in this storage round activations, to bytes or to `bf16`. (Rows of an odd width are
/// not, which this passes over.)
fn rounds_activations(storage: &Storage, isa: IsaKind) -> bool {
    storage
        .segments()
        .any(|segment| segment.format.kind() == FormatKind::Blocks || rounds_to_bf16(isa, segment.format, 2))
}

/// How far results may be off with weights in a format: by `bytes` if activations are rounded to bytes.
fn bound_of(format: Format, isa: IsaKind, bytes: Bound) -> Bound {
    // A rounding of 2^-9, which norms of three columns amplify.
    const PAIRS: Bound = Bound { relative: 0.02, of_all: 0.02 };
    match format.kind() {
        FormatKind::Blocks => bytes,
        FormatKind::Single | FormatKind::Half(_) if rounds_to_bf16(isa, format, 2) => PAIRS,
        FormatKind::Single | FormatKind::Half(_) => VALUES,
    }
}

/// Plans on weights in other formats do what the interpreter does with the weights as they are stored.
#[test]
fn inference_with_stored_weights() {
    // Activations are rounded to bytes too: half a step of 1/127 of the greatest of 32, in each of some layers.
    const BYTES: Bound = Bound { relative: 0.05, of_all: 0.05 };
    for case in 0..24 {
        let inference = Inference::random(case);
        let limits = inference.limits;
        let graphs = [inference.graph.clone(), fuse(&inference.graph)];
        for &isa in IsaKind::available() {
            // Each case has floats and some formats of blocks.
            let some_blocks =
                blocks().enumerate().filter(|(i, _)| i % 4 == case as usize % 4).map(|(_, format)| format);
            for (i, format) in [Format::F16, Format::Bf16].into_iter().chain(some_blocks).enumerate() {
                // Fused or not: both meet every format on every instruction set in some case.
                let graph = &graphs[(case as usize + isa as usize + i) % 2];
                let what = format!("{format}, {isa}, {}", inference.what);
                let runner = |threads| Runner::stored(graph.clone(), limits, threads, isa, format);
                let logits = inference.on_all_threads(isa, runner, &inference.start);
                let storage = Storage::of(graph, isa, format).unwrap();
                let rounded = as_stored(graph, &storage, &inference.start.params);
                if rounds_activations(&storage, isa) {
                    let want = inference.interpret(&rounded, CacheFormat::F32);
                    assert_close(&what, &logits, &want, bound_of(format, isa, BYTES));
                    continue;
                }
                // Otherwise the arithmetic is that of `f32` with the rounded weights.
                let start = Memory { params: rounded, ..inference.start.clone() };
                let expected = inference.execute(Runner::packed(graph.clone(), limits, 1, isa), &start);
                same_bits(&expected, &logits, &what);
            }
        }
    }
}

/// The loss of an evaluation with stored weights, its head in several chunks.
#[test]
fn losses_with_stored_weights() {
    const BYTES: Bound = Bound { relative: 0.02, of_all: 0.02 };
    // Rows enough for workers to quantize their own, of several blocks.
    let (vocab, d) = (MANY, 96);
    let graph = chunked(vocab, d).unwrap();
    let limits = Limits { tokens: 300, outputs: 0, spans: 4, context: 100, pages: 0 };
    let batch = batches::training(&mut Rng::new(5), vocab, &limits);
    let start = Memory::new(graph.params(), 7);
    for &isa in IsaKind::available() {
        for format in [Format::F32, Format::F16, Format::Bf16, Format::Q8_0, Format::Q4_1] {
            let losses = |threads, start: &Memory, format| {
                let mut runner = Runner::stored(graph.clone(), limits, threads, isa, format);
                let mut memory = start.clone().for_plan(runner.plan());
                runner.run(&batch, &Scalars::default(), &mut memory);
                vec![("loss".to_owned(), runner.result("loss"))]
            };
            let what = format!("{format}, {isa}");
            let found = losses(1, &start, format);
            same_bits(&found, &losses(3, &start, format), &what);
            let rounded = as_stored(&graph, &Storage::of(&graph, isa, format).unwrap(), &start.params);
            let mut interpreter = Interpreter::new(&graph, &rounded).unwrap();
            interpreter.run(&graph, &batch, &Scalars::default());
            let want = vec![("loss".to_owned(), interpreter.result(&graph, "loss").unwrap().data.clone())];
            assert_close(&what, &found, &want, bound_of(format, isa, BYTES));
        }
    }
}

/// Products with bytes against their exact twin: what rows and weights are quantized to, multiplied in `f64`. Rows that
/// one worker quantizes and rows that all do, with a residual in the product.
#[test]
fn products_of_bytes_are_those_of_what_is_stored() {
    let shapes = [(Format::Q8_0, 160), (Format::Q5_1, 96)];
    for (format, d) in blocks().map(|format| (format, 256)).chain(shapes) {
        products_are_those_of_what_is_stored(format, d);
    }
}

fn products_are_those_of_what_is_stored(format: Format, d: usize) {
    const EXACT: Bound = Bound { relative: 2e-6, of_all: 2e-6 };
    let (vocab, n) = (50, 75);
    let mut b = GraphBuilder::new();
    let table = matrix(&mut b, "wte", vocab, d, 1.0).unwrap();
    let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
    let residual = matrix(&mut b, "residual", vocab, n, 1.0).unwrap();
    let residual = b.value_of(Op::Embedding { table: residual, index: Index::Tokens }, &[]).unwrap();
    let weight = matrix(&mut b, "weight", n, d, 1.0).unwrap();
    let y = b.value_of(Op::Linear { weight, bias: None }, &[x, residual]).unwrap();
    b.result("y", y);
    let graph = b.finish();
    let limits = Limits { tokens: 130, outputs: 0, spans: 1, context: 130, pages: 0 };
    let start = Memory::new(graph.params(), 11);
    for tokens in [1, 3, 130] {
        let ids = batches::tokens(&mut Rng::new(tokens as u64), tokens, vocab);
        let mut batch = Batch::with_capacity(&limits);
        batch.push(&ids, 0);
        for &isa in IsaKind::available() {
            let storage = Storage::of(&graph, isa, format).unwrap();
            let formats: Vec<Format> = graph.params().iter().flat_map(|(id, _)| storage.get(id).formats()).collect();
            assert_eq!(formats, [format, Format::F16, format], "rows of 75 are not whole blocks");
            let rounded = as_stored(&graph, &storage, &start.params);
            let values = named(graph.params(), &rounded);
            let row = |param: usize, i: usize, len: usize| &values[param].1[i * len..(i + 1) * len];
            let element = |(token, j): (u32, usize)| {
                let x = quantized(row(0, token as usize, d));
                let w = row(2, j, d).iter().map(|w| f64::from(*w));
                x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + f64::from(row(1, token as usize, n)[j])
            };
            let want: Vec<f64> = ids.iter().flat_map(|id| (0..n).map(move |j| (*id, j))).map(element).collect();
            let run = |threads| {
                let mut runner = Runner::stored(graph.clone(), limits, threads, isa, format);
                let mut memory = start.clone().for_plan(runner.plan());
                runner.run(&batch, &Scalars::default(), &mut memory);
                vec![("y".to_owned(), runner.result("y"))]
            };
            let found = run(1);
            assert_close(&format!("{format}, {tokens} tokens, {isa}"), &found, &vec![("y".to_owned(), want)], EXACT);
            for threads in [2, 3] {
                same_bits(&found, &run(threads), &format!("{format}, {tokens} tokens, {threads} threads, {isa}"));
            }
        }
    }
}

/// A graph of one linear layer with bias and residual, its rows looked up by tokens: `y` is `[tokens, n]`.
fn one_layer(vocab: usize, d: usize, n: usize) -> Graph {
    let mut b = GraphBuilder::new();
    let table = matrix(&mut b, "wte", vocab, d, 1.0).unwrap();
    let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
    let residual = matrix(&mut b, "residual", vocab, n, 1.0).unwrap();
    let residual = b.value_of(Op::Embedding { table: residual, index: Index::Tokens }, &[]).unwrap();
    let weight = matrix(&mut b, "weight", n, d, 1.0).unwrap();
    let bias = matrix(&mut b, "bias", 1, n, 1.0).unwrap();
    let y = b.value_of(Op::Linear { weight, bias: Some(bias) }, &[x, residual]).unwrap();
    b.result("y", y);
    b.finish()
}

/// The rows of a weight in several formats: each has the bits that it has in a weight of its format alone, on any
/// number of threads, whether workers share a product by rows or by columns.
#[test]
fn each_segment_of_a_weight_is_multiplied_in_its_format() {
    let (vocab, limits) = (50, Limits { tokens: 130, outputs: 0, spans: 1, context: 130, pages: 0 });
    let of = |rows: &[(usize, Format)]| rows.to_vec();
    let cases = [
        of(&[(64, Format::Q8_0), (16, Format::F32), (16, Format::Q8_0)]),
        of(&[(16, Format::Bf16), (128, Format::Q8_0), (48, Format::F16), (27, Format::F32)]),
        of(&[(32, Format::F32), (5, Format::F32)]),
        of(&[(16, Format::Q8_0), (240, Format::Q8_0)]),
        of(&[(48, Format::Q4K), (32, Format::Q6K), (16, Format::Q5_0), (43, Format::Iq4Xs)]),
    ];
    for (case, d) in (0..).zip([160, 96, 75, 64, 256]) {
        let segments = &cases[case];
        let n = segments.iter().map(|(rows, _)| rows).sum();
        let graph = one_layer(vocab, d, n);
        let start = Memory::new(graph.params(), 11 + case as u64);
        for &isa in IsaKind::available() {
            for tokens in [1, 3, 130] {
                let ids = batches::tokens(&mut Rng::new(tokens as u64), tokens, vocab);
                let mut batch = Batch::with_capacity(&limits);
                batch.push(&ids, 0);
                let limits = Limits { tokens, ..limits };
                let y = |mut runner: Runner| {
                    let mut memory = start.clone().for_plan(runner.plan());
                    runner.run(&batch, &Scalars::default(), &mut memory);
                    bits(&runner.result("y"))
                };
                // The other weights are the same in all plans.
                let mixed = |spec: &ParamSpec, of_weight: &[(usize, Format)]| match spec.name.as_str() {
                    "weight" => of_weight.to_vec(),
                    _ => vec![(spec.rows, Format::F32)],
                };
                let storage =
                    |formats: &[(usize, Format)]| Storage::by_rows(&graph, isa, |spec| mixed(spec, formats)).unwrap();
                let alone = |format| y(Runner::on(graph.clone(), limits, 1, storage(&[(n, format)])));
                let formats = Format::ALL.into_iter().filter(|format| segments.iter().any(|(_, of)| of == format));
                let alone: Vec<_> = formats.map(|format| (format, alone(format))).collect();
                for threads in [1, 2, 3] {
                    let found = y(Runner::on(graph.clone(), limits, threads, storage(segments)));
                    let mut first = 0;
                    for (rows, format) in segments {
                        let (_, want) = alone.iter().find(|(known, _)| known == format).unwrap();
                        let part = |all: &[u32]| -> Vec<u32> {
                            all.chunks_exact(n).flat_map(|row| row[first..first + rows].to_vec()).collect()
                        };
                        let what = format!("{format} rows from {first} of {segments:?}, {tokens}, {threads}, {isa}");
                        assert!(part(&found) == part(want), "{what}");
                        first += rows;
                    }
                }
            }
        }
    }
}
