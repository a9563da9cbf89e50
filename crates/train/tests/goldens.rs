//! Whole models against PyTorch: logits, loss, every gradient, ten steps of AdamW. `benchmarks/goldens` made the
//! tensors.

use std::path::PathBuf;
use std::sync::Arc;

use smallmind_checkpoint::TensorFile;
use smallmind_graph::op::AdamWSpec;
use smallmind_graph::{Batch, Bindings, Executor, Limits, NoProbe, Plan, PlanOptions, Pool, Precision, Scalars};
use smallmind_kernels::loss::IGNORE;
use smallmind_model::chat::ChatTemplates;
use smallmind_model::export::{ExportOptions, GgufExport, WeightMix};
use smallmind_model::{
    ConfigError, LOGITS, LoadOptions, Model, ModelConfig, ModelError, ModelFiles, PackedModel, Purpose, Session,
    SessionOptions, architecture,
};
use smallmind_simd::IsaKind;
use smallmind_train::{BatchShape, DropoutDraw, Learner, Optimizer};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

struct Golden {
    file: TensorFile,
    model: Model,
    /// Sequences, tokens in each.
    shape: (usize, usize),
    tokens: Vec<u32>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let file = TensorFile::open(folder(name).join("golden.safetensors")).unwrap();
        let shape = file.info("tokens").unwrap().shape.clone();
        let mut tokens = vec![0i64; shape[0] * shape[1]];
        file.read_i64("tokens", &mut tokens).unwrap();
        let tokens = tokens.into_iter().map(|t| t as u32).collect();
        let model = Model::load(folder(name)).unwrap();
        Self { file, model, shape: (shape[0], shape[1]), tokens }
    }

    fn read(&self, name: &str) -> Vec<f32> {
        let mut data = vec![0.0; self.file.info(name).unwrap().elements()];
        self.file.read_f32(name, &mut data).unwrap();
        data
    }

    fn targets(&self) -> Vec<u32> {
        let mut targets = vec![0i64; self.tokens.len()];
        self.file.read_i64("targets", &mut targets).unwrap();
        targets.into_iter().map(|t| u32::try_from(t).unwrap_or(IGNORE)).collect()
    }
}

fn worst(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    got.iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |m: f32, d| if d.is_nan() { f32::NAN } else { m.max(d) })
}

const MODELS: [&str; 24] = [
    "tiny-gpt2",
    "tiny-llama",
    "tiny-qwen2",
    "tiny-llama3",
    "tiny-qwen3",
    "tiny-olmo2",
    "tiny-granite",
    "tiny-smollm3",
    "tiny-stablelm",
    "tiny-stablelm-parallel",
    "tiny-phi3",
    "tiny-phi3-long",
    "tiny-gpt-neox",
    "tiny-yarn",
    "tiny-mistral-whole",
    "tiny-mistral",
    "tiny-qwen2-local",
    "tiny-gemma",
    "tiny-gemma2",
    "tiny-gemma3",
    "tiny-qwen3-moe",
    "tiny-olmoe",
    "tiny-granite-moe",
    "tiny-mixtral",
];

/// Those whose gradients are stored.
const WITH_GRADIENTS: [&str; 11] = [
    "tiny-gpt2",
    "tiny-llama",
    "tiny-qwen3",
    "tiny-olmo2",
    "tiny-granite",
    "tiny-gpt-neox",
    "tiny-gemma",
    "tiny-gemma2",
    "tiny-gemma3",
    "tiny-mistral",
    "tiny-qwen2-local",
];

#[test]
fn logits_of_whole_sequences() {
    for name in MODELS {
        let golden = Golden::open(name);
        let expected = golden.read("logits");
        let (sequences, len) = golden.shape;
        for isa in IsaKind::available() {
            let graph = architecture::graph(golden.model.config(), Purpose::Logits).unwrap();
            let tokens = sequences * len;
            let limits = Limits { tokens, outputs: tokens, spans: sequences, context: len, pages: 0 };
            let mut executor = Executor::new(Plan::new(graph, PlanOptions::flat(limits, 2, *isa)).unwrap()).unwrap();
            let mut batch = Batch::with_capacity(&limits);
            golden.tokens.chunks(len).for_each(|t| batch.push(t, 0));
            batch.want_all();
            let bindings = Bindings::inference(golden.model.weights());
            let mut pool = Pool::new(2).unwrap();
            executor.run(&mut pool, &batch, &Scalars::default(), bindings, &NoProbe).unwrap();
            let error = worst(executor.result_slice(LOGITS).unwrap(), &expected);
            assert!(error < 1e-5, "{name} {isa}: {error}");
        }
    }
}

#[test]
fn logits_from_the_cache() {
    for name in MODELS {
        let golden = Golden::open(name);
        let expected = golden.read("logits");
        let (_, len) = golden.shape;
        let vocab = golden.model.config().vocab_size;
        let tokens = &golden.tokens;
        for isa in IsaKind::available() {
            let options = SessionOptions { chunk: 5, ..SessionOptions::single(len, 2) };
            let model = Arc::new(golden.model.try_clone().unwrap().pack(*isa).unwrap());
            let mut session = Session::new(model, options).unwrap();
            let sequence = session.open().unwrap();
            let first = session.append(sequence, &tokens[..13]).unwrap();
            assert!(worst(first, &expected[12 * vocab..13 * vocab]) < 1e-5, "{name} {isa}");
            // Chunks beyond the windows too.
            let second = session.append(sequence, &tokens[13..20]).unwrap();
            assert!(worst(second, &expected[19 * vocab..20 * vocab]) < 1e-5, "{name} {isa}");
            for i in 20..len {
                let next = session.append(sequence, &tokens[i..=i]).unwrap();
                let error = worst(next, &expected[i * vocab..(i + 1) * vocab]);
                assert!(error < 1e-5, "{name} {isa} token {i}: {error}");
            }
        }
    }
}

/// What is written is read again, in the words of the same family where another one can't state the model.
#[test]
fn goldens_are_written_as_they_were_read() {
    for name in MODELS {
        let golden = Golden::open(name);
        let dir = tempfile::tempdir().unwrap();
        golden.model.save(dir.path()).unwrap();
        let again = Model::load(dir.path()).unwrap();
        assert_eq!(again.config(), golden.model.config(), "{name}");
        assert!(again.weights() == golden.model.weights(), "{name}");
        let named = |folder: std::path::PathBuf| TensorFile::open(folder.join("model.safetensors")).unwrap();
        let names = |file: &TensorFile| file.tensors().map(|t| t.name.clone()).collect::<Vec<_>>();
        // Phi-3 with a rotation of whole heads, and Mistral, are LLaMA by their features.
        if name != "tiny-mistral-whole" {
            assert_eq!(names(&named(dir.path().to_owned())), names(&named(folder(name))), "{name}");
        }
    }
}

fn learner(golden: Golden, precision: Precision, threads: usize, isa: IsaKind) -> (Learner, Batch, usize) {
    let (sequences, len) = golden.shape;
    let targets = golden.targets();
    let counted = targets.iter().filter(|t| **t != IGNORE).count();
    let mut batch = Batch::default();
    for (tokens, targets) in golden.tokens.chunks(len).zip(targets.chunks(len)) {
        batch.push_with_targets(tokens, targets);
    }
    let adamw = AdamWSpec { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let optimizer = Optimizer { adamw, max_norm: 1.0 };
    let shape = BatchShape { sequences, context: len };
    (Learner::new(golden.model, shape, optimizer, precision, threads, isa).unwrap(), batch, counted)
}

/// The keys' bias does not change attention: its true gradient is zero, and rounding noise in its place becomes full
/// steps under AdamW.
fn key_bias(name: &str, len: usize) -> std::ops::Range<usize> {
    if name.ends_with("attn.c_attn.bias") { len / 3..2 * len / 3 } else { 0..0 }
}

#[test]
fn loss_and_every_gradient() {
    for name in WITH_GRADIENTS {
        for isa in IsaKind::available() {
            let golden = Golden::open(name);
            let expected_loss = golden.read("loss")[0];
            let names = golden.model.try_clone().unwrap();
            let file = TensorFile::open(folder(name).join("golden.safetensors")).unwrap();
            let (mut learner, batch, counted) = learner(golden, Precision::F32, 2, *isa);
            let loss = learner.accumulate(&batch, counted, DropoutDraw::default(), &NoProbe).unwrap() / counted as f64;
            assert!(
                (loss - f64::from(expected_loss)).abs() < 1e-5,
                "{name} {isa}: loss {loss}, {expected_loss} expected"
            );
            let mut compared = 0;
            for (tensor, shape, gradient) in names.named_tensors(learner.grads()).unwrap() {
                let mut expected = vec![0.0; gradient.len()];
                assert_eq!(file.info(&format!("grad.{tensor}")).unwrap().shape, shape);
                file.read_f32(&format!("grad.{tensor}"), &mut expected).unwrap();
                let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let error = worst(&gradient, &expected);
                assert!(error <= 1e-4 * largest, "{name} {isa} {tensor}: {error} of {largest}");
                compared += 1;
            }
            assert_eq!(compared, file.tensors().filter(|t| t.name.starts_with("grad.")).count(), "{name}");
        }
    }
}

/// Rounding the factors of all products to `bf16`, by at most one part in 512, moves each gradient by at most this part
/// of its length: the norms of queries and keys of `tiny-gemma3`, small differences of large numbers, by 0.08.
const BF16_BAND: f64 = 0.1;
/// The same for the mean over a model's gradients.
const BF16_MEAN_BAND: f64 = 0.04;
/// The same for the loss.
const BF16_LOSS_BAND: f64 = 1e-3;

/// On CPUs that have such products; the bits are those of any number of threads.
#[test]
fn loss_and_every_gradient_in_bf16() {
    for isa in IsaKind::available().iter().filter(|isa| Precision::Bf16.is_available(**isa)) {
        for name in WITH_GRADIENTS {
            let names = Golden::open(name);
            let expected_loss = f64::from(names.read("loss")[0]);
            let run = |threads: usize| {
                let (mut learner, batch, counted) = learner(Golden::open(name), Precision::Bf16, threads, *isa);
                let sum = learner.accumulate(&batch, counted, DropoutDraw::default(), &NoProbe).unwrap();
                (sum / counted as f64, learner.grads().to_vec())
            };
            let (loss, grads) = run(1);
            let moved = (loss / expected_loss - 1.0).abs();
            assert!(moved < BF16_LOSS_BAND, "{name} {isa}: loss {loss}, not {expected_loss}");
            let in_f32 = {
                let (mut learner, batch, counted) = learner(Golden::open(name), Precision::F32, 1, *isa);
                learner.accumulate(&batch, counted, DropoutDraw::default(), &NoProbe).unwrap();
                learner.grads().to_vec()
            };
            assert!(grads != in_f32, "{name} {isa}: the products are those of f32");
            let mut parts = vec![];
            for (tensor, _, gradient) in names.model.named_tensors(&grads).unwrap() {
                let undefined = key_bias(&tensor, gradient.len());
                let expected = names.read(&format!("grad.{tensor}"));
                let places = (0..expected.len()).filter(|place| !undefined.contains(place));
                let (mut of_error, mut whole) = (0.0, 0.0);
                for place in places {
                    of_error += f64::from(gradient[place] - expected[place]).powi(2);
                    whole += f64::from(expected[place]).powi(2);
                }
                let part = (of_error / whole).sqrt();
                assert!(part < BF16_BAND, "{name} {isa} {tensor}: {part}");
                parts.push(part);
            }
            let mean = parts.iter().sum::<f64>() / parts.len() as f64;
            assert!(mean < BF16_MEAN_BAND, "{name} {isa}: {mean} on average");
            for threads in [2, 3] {
                assert!(run(threads) == (loss, grads.clone()), "{name} {isa}: {threads} threads");
            }
        }
    }
}

#[test]
fn ten_steps_of_adamw_with_clip() {
    for name in ["tiny-gpt2", "tiny-llama"] {
        for isa in IsaKind::available() {
            let golden = Golden::open(name);
            let (losses, norms) = (golden.read("losses"), golden.read("grad_norms"));
            let file = TensorFile::open(folder(name).join("golden.safetensors")).unwrap();
            let (mut learner, batch, counted) = learner(golden, Precision::F32, 2, *isa);
            for step in 0..10 {
                let loss =
                    learner.accumulate(&batch, counted, DropoutDraw::default(), &NoProbe).unwrap() / counted as f64;
                let update = learner.update(1e-3, &NoProbe).unwrap();
                assert!((loss - f64::from(losses[step])).abs() < 1e-5, "{name} {isa} step {step}: loss {loss}");
                let norm = update.grad_norm;
                assert!((norm - norms[step]).abs() < 1e-4 * norms[step], "{name} {isa} step {step}: norm {norm}");
            }
            for (tensor, _, mut weights) in learner.model().named_tensors(learner.model().weights()).unwrap() {
                let mut expected = vec![0.0; weights.len()];
                file.read_f32(&format!("step10.{tensor}"), &mut expected).unwrap();
                let undefined = key_bias(&tensor, weights.len());
                weights[undefined.clone()].copy_from_slice(&expected[undefined]);
                let error = worst(&weights, &expected);
                assert!(error < 1e-5, "{name} {isa} {tensor}: {error}");
            }
        }
    }
}

/// Those that no GGUF file can express, and the field that is in the way.
const NOT_IN_GGUF: [(&str, &str); 6] = [
    ("tiny-mistral", "attention_windows"),
    ("tiny-qwen2-local", "attention_windows"),
    ("tiny-smollm3", "positions"),
    ("tiny-gemma2", "attention_scale"),
    ("tiny-gemma3", "attention_windows"),
    ("tiny-olmoe", "kv_heads"),
];

#[test]
fn models_pass_through_gguf_files_bit_for_bit() {
    for name in MODELS {
        let files = ModelFiles::open(folder(name)).unwrap();
        let options = ExportOptions { mix: WeightMix::F32, overrides: vec![], importance: None, threads: 2 };
        let export = GgufExport::new(&files, LoadOptions::default(), options);
        if let Some((_, field)) = NOT_IN_GGUF.iter().find(|(refused, _)| *refused == name) {
            assert!(matches!(export, Err(ModelError::Config(ConfigError::NotStorable { key, .. })) if key == *field));
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let mut file = std::fs::File::create(&path).unwrap();
        export.unwrap().write(name, None, &ChatTemplates::new(), &mut file, &|_| {}).unwrap();
        let (original, read) = (Model::load(folder(name)).unwrap(), Model::load(&path).unwrap());
        // Training's settings are not in the file.
        let (dropout, init_std) = (original.config().dropout, original.config().init_std);
        let mut config = ModelConfig { dropout, init_std, ..read.config().clone() };
        if name.starts_with("tiny-phi3") {
            // Its factors are rounded to `f32`.
            config.positions = original.config().positions.clone();
        }
        assert_eq!(&config, original.config(), "{name}");
        assert_eq!(read.weights(), original.weights(), "{name}");
        // As it is in the file, and as a session reads it.
        let files = ModelFiles::open(&path).unwrap();
        let packed = PackedModel::from_files(&files, LoadOptions::default(), IsaKind::best(), None).unwrap();
        let of_rows = read.pack(IsaKind::best()).unwrap();
        let logits = |model: PackedModel| {
            let mut session = Session::new(Arc::new(model), SessionOptions::single(16, 1)).unwrap();
            let sequence = session.open().unwrap();
            session.append(sequence, &[3, 1, 4, 1, 5]).unwrap().to_vec()
        };
        assert_eq!(logits(packed), logits(of_rows), "{name}");
    }
}
