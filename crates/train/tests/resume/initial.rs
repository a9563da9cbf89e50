//! Training that begins with a model: of several families, from folders and GGUF files, and resumed without it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use smallmind_graph::{Batch, ParamMemory, PlanOptions};
use smallmind_kernels::attention::CacheFormat;
use smallmind_kernels::loss::IGNORE;
use smallmind_model::chat::ChatTemplates;
use smallmind_model::export::{ExportOptions, GgufExport, WeightMix};
use smallmind_model::tokenizer::Tokenizer;
use smallmind_model::{LoadOptions, Model, ModelError, ModelFiles, UnknownKeys};
use smallmind_train::data::{Corpus, DataError};
use smallmind_train::{
    Batches, Draw, EvaluateSettings, Evaluator, Initial, RunParts, StepSettings, evaluate_text, prepare_initial,
};

use super::common::text_file;
use super::*;

/// The settings of a short run; a row is shorter than the context of each model.
const SHORT: &[&str] = &[
    "model.context=16",
    "data.validation=0.2",
    "train.batch=2",
    "train.warmup=2",
    "train.steps=20",
    "train.lr=1e-2",
    "eval.interval=0",
    "eval.batches=2",
    "sample.interval=0",
    "checkpoint.interval=0",
    "log.interval=1",
];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// A vocabulary of the characters of the text.
fn characters(dir: &Path) -> Tokenizer {
    Tokenizer::characters(&fs::read_to_string(text_file(dir)).unwrap()).unwrap()
}

fn settings(source: &Path, changed: &[&str]) -> Result<TrainConfig, TrainError> {
    let files = ModelFiles::open(source)?;
    let (shape, _) = files.configs(UnknownKeys::Refuse)?;
    let named = format!("model.init_from={}", source.display());
    let all: Vec<&str> = [named.as_str()].iter().chain(SHORT).chain(changed).copied().collect();
    TrainConfig::with_initial(None, &shape, &overlays(&all))
}

/// A new run in `dir/name` that begins with the model `source`.
fn begin_with(
    dir: &Path,
    name: &str,
    (source, tokenizer): (&Path, Tokenizer),
    changed: &[&str],
    threads: usize,
) -> Result<Trainer, TrainError> {
    let config = settings(source, changed)?;
    let run = RunDir::claim(&dir.join(name), Existing::Refuse)?;
    let initial = Initial { model: Model::load(source)?, tokenizer, templates: ChatTemplates::new() };
    let text = Source::Files(&[text_file(dir)]);
    let prepared = prepare_initial(&run.staging(), &config, &initial, text, &mut |_| {})?;
    Trainer::create_from(run, config, (initial.model, prepared), threads, IsaKind::best())
}

/// `model` as a GGUF file.
fn gguf(model: &Path, mix: WeightMix, path: &Path) {
    let files = ModelFiles::open(model).unwrap();
    let options = ExportOptions { mix, overrides: vec![], importance: None, threads: 1 };
    let export = GgufExport::new(&files, LoadOptions::default(), options).unwrap();
    export.write("golden", None, &ChatTemplates::new(), &mut fs::File::create(path).unwrap(), &|_| {}).unwrap();
}

/// The mean loss of a model on the first batch of a run, by the graph that `eval` runs.
fn first_loss(model: Model, run: &Path) -> f64 {
    let RunParts { config, prepared, .. } = RunParts::open(run).unwrap();
    let steps = StepSettings::of(&config).unwrap();
    let mut batches = Batches::new(steps.windows, &prepared.train, None, steps.shape).unwrap();
    let mut batch = Batch::default();
    batches.fill(&prepared.train, Draw { seed: steps.seed, step: 0, first_row: 0 }, &mut batch).unwrap();
    let model = model.pack(IsaKind::best()).unwrap();
    let options = PlanOptions::stored(steps.shape.limits(), 1, model.storage().clone());
    let mut evaluator = Evaluator::new(model.config(), options).unwrap();
    evaluator.run(ParamMemory::Stored(model.weights()), &batch).unwrap() / steps.shape.tokens() as f64
}

#[test]
fn the_first_loss_is_the_models_and_then_it_falls() {
    let dir = tempfile::tempdir().unwrap();
    let of_llama = |mix, name: &str| {
        let path = dir.path().join(name);
        gguf(&golden("tiny-llama"), mix, &path);
        path
    };
    let sources = [
        (golden("tiny-gpt2"), "gpt2"),
        (golden("tiny-llama"), "llama"),
        (golden("tiny-gemma"), "gemma"),
        (golden("tiny-gemma3"), "gemma3_text"),
        (golden("tiny-qwen3"), "qwen3"),
        (golden("tiny-gpt-neox"), "gpt_neox"),
        (golden("tiny-phi3-long"), "phi3"),
        (of_llama(WeightMix::F32, "f32.gguf"), "llama"),
        (of_llama(WeightMix::Q8_0, "q8_0.gguf"), "llama"),
    ];
    for (i, (source, family)) in sources.iter().enumerate() {
        let name = format!("run-{i}");
        let mut trainer = begin_with(dir.path(), &name, (source, characters(dir.path())), &[], 2).unwrap();
        let run = dir.path().join(&name);
        let model = Model::load(source).unwrap();
        assert_eq!(trainer.learner().model().config(), model.config(), "{family}");
        assert!(trainer.learner().model().weights() == model.weights(), "{family}");
        let (_, events) = finish(&mut trainer);
        let steps: Vec<f64> = losses(&events).steps.iter().map(|step| f64::from_bits(step.1)).collect();
        let expected = first_loss(model, &run);
        assert!((steps[0] - expected).abs() < 1e-6 * expected, "{family}: {} instead of {expected}", steps[0]);
        let mean = |steps: &[f64]| steps.iter().sum::<f64>() / steps.len() as f64;
        assert!(mean(&steps[15..]) < mean(&steps[..5]) - 0.1, "{family}: {steps:?}");
        // The folder is a model of the same family, with all of its context.
        let config: Value = serde_json::from_slice(&fs::read(run.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["model_type"], *family);
        assert_eq!(Model::load(&run).unwrap().config(), trainer.learner().model().config());
        assert!(run.join(TOKENIZER_FILE).is_file());
    }
}

/// A model of the family of `name` in `dir/source`, with norms whose scales files of Gemma round.
fn with_small_norms(dir: &Path, name: &str) -> PathBuf {
    let source = dir.join("source");
    fs::create_dir(&source).unwrap();
    let mut model = Model::load(golden(name)).unwrap();
    for range in model.shifted().unwrap() {
        model.weights_mut()[range].fill(0.25);
    }
    model.save(&source).unwrap();
    source
}

#[test]
fn a_stop_changes_no_bit_and_needs_no_model() {
    let changed =
        ["train.steps=100", "train.lr=1e-3", "train.total_tokens=64", "model.dropout=0.1", "eval.interval=40"];
    for name in ["tiny-gpt2", "tiny-llama", "tiny-gemma3"] {
        let dir = tempfile::tempdir().unwrap();
        let source = with_small_norms(dir.path(), name);
        let begin = |run: &str| begin_with(dir.path(), run, (&source, characters(dir.path())), &changed, 2).unwrap();
        let mut whole = begin("whole");
        let (_, expected) = finish(&mut whole);
        let mut stopped = begin("stopped");
        let (_, mut events) = stop_after(&mut stopped, 50);
        drop(stopped);
        fs::remove_dir_all(&source).unwrap();
        let mut resumed = resume(&dir.path().join("stopped"), 1);
        events.extend(finish(&mut resumed).1);
        assert_eq!(losses(&events), losses(&expected), "{name}");
        assert!(state(&resumed) == state(&whole), "{name}: other weights or moments");
    }
}

#[test]
fn a_run_keeps_what_it_began_with() {
    let dir = tempfile::tempdir().unwrap();
    let source = golden("tiny-llama");
    let few = &["train.steps=2"];
    stop_after(&mut begin_with(dir.path(), "run", (&source, characters(dir.path())), few, 1).unwrap(), 1);
    let run = dir.path().join("run");
    let resumed = |assignment: &str| Trainer::resume(&run, &overlays(&[assignment]), 1, IsaKind::best());
    for (assignment, key) in [
        ("model.init_from=other", "model.init_from"),
        ("model.context=8", "model.context"),
        ("model.layers=2", "model.layers"),
        ("model.dropout=0.5", "model.dropout"),
    ] {
        let error = resumed(assignment).err().unwrap();
        assert!(matches!(&error, TrainError::NotResumable { key: named, .. } if named == key), "{error}");
    }
    // The same name again is no change.
    assert!(resumed(&format!("model.init_from={}", source.display())).is_ok());
}

#[test]
fn settings_that_the_model_has_are_refused() {
    let source = golden("tiny-llama");
    for (assignment, words) in [
        ("model.preset=quickstart", ["model.preset", "a shape of its own"]),
        ("model.family=gpt2", ["model.family", "a shape of its own"]),
        ("model.layers=2", ["model.layers", "a shape of its own"]),
        ("model.heads=4", ["model.heads", "a shape of its own"]),
        ("model.kv_heads=4", ["model.kv_heads", "a shape of its own"]),
        ("model.d_model=32", ["model.d_model", "a shape of its own"]),
        ("model.d_ff=32", ["model.d_ff", "a shape of its own"]),
        ("model.biases=true", ["model.biases", "a shape of its own"]),
        ("model.tied=true", ["model.tied", "a shape of its own"]),
        ("model.gelu=tanh", ["model.gelu", "a shape of its own"]),
        ("model.rope_theta=1", ["model.rope_theta", "a shape of its own"]),
        ("data.tokenizer=bpe", ["data.tokenizer", "a tokenizer of its own"]),
        ("data.vocab_size=300", ["data.vocab_size", "a tokenizer of its own"]),
        ("model.context=33", ["model.context", "at most 32 tokens"]),
    ] {
        let error = settings(&source, &[assignment]).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.class(), ErrorClass::Usage, "{message}");
        assert!(message.starts_with(assignment), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    let experts = settings(&golden("tiny-mixtral"), &[]).unwrap_err();
    assert_eq!(experts.class(), ErrorClass::Usage);
    assert!(experts.to_string().contains("mixtures of experts can't be trained"), "{experts}");
    assert!(experts.to_string().contains("gemma3_text"), "{experts}");
    let alone = TrainConfig::with_overlays(None, &overlays(&["data.tokenizer=model"])).unwrap_err();
    assert!(alone.to_string().contains("model.init_from"), "{alone}");
}

#[test]
fn what_does_not_fit_the_model_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = golden("tiny-gemma");
    let begin = |tokenizer| begin_with(dir.path(), "run", (&source, tokenizer), &[], 1).err().unwrap();
    let many: String = (0..62u8).map(|i| char::from(b'!' + i)).chain(['~', '\n', ' ']).collect();
    let many = Tokenizer::characters(&(many + &fs::read_to_string(text_file(dir.path())).unwrap())).unwrap();
    let error = begin(many);
    assert!(matches!(error, TrainError::Model(ModelError::Vocabulary { model: 61, .. })), "{error}");
    // Text with characters that the vocabulary lacks.
    let error = begin(Tokenizer::characters("abc").unwrap());
    assert!(matches!(error, TrainError::Model(ModelError::Tokenizer(_))), "{error}");
    let error = begin_with(dir.path(), "run", (&source, characters(dir.path())), &["data.validation=0.001"], 1);
    let error = error.err().unwrap();
    assert!(matches!(error, TrainError::Data(DataError::PartTooShort { .. })), "{error}");
    assert!(!dir.path().join("run").exists());
    finish(&mut begin_with(dir.path(), "run", (&source, characters(dir.path())), &["train.steps=1"], 1).unwrap());
    let error = begin(characters(dir.path()));
    assert!(matches!(error, TrainError::Exists { found: Found::Run, .. }), "{error}");
}

/// A vocabulary of 61 tokens at most that puts a token before each prompt.
fn with_prefix(dir: &Path) -> (Tokenizer, u32) {
    let characters: Value = serde_json::from_str(&characters(dir).to_json().unwrap()).unwrap();
    let mut json = characters;
    let id = json["model"]["vocab"].as_object().unwrap().len();
    json["model"]["vocab"]["<s>"] = json!(id);
    json["added_tokens"] = json!([{
        "id": id, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    }]);
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [id], "tokens": ["<s>"]}},
    });
    (Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap(), id as u32)
}

#[test]
fn windows_begin_as_prompts_do() {
    let dir = tempfile::tempdir().unwrap();
    let source = golden("tiny-llama");
    let (tokenizer, first) = with_prefix(dir.path());
    assert_eq!(tokenizer.prompt_prefix(), [first]);
    let text = fs::read_to_string(text_file(dir.path())).unwrap();
    let corpus = Corpus::of_text(text, None);
    let (_, validation) = corpus.split(0.8);
    let validation = Corpus::of_text(validation.iter().map(|(text, _)| text).collect(), None);
    for (name, tokenizer) in [("with", tokenizer), ("without", characters(dir.path()))] {
        let prefix = tokenizer.prompt_prefix().len();
        let model = Model::load(&source).unwrap().pack(IsaKind::best()).unwrap();
        let how = EvaluateSettings { threads: 1, max_context: 16, cache_format: CacheFormat::F32 };
        let evaluated = evaluate_text(&model, &tokenizer, &validation, how, &mut |_, _| {}).unwrap();
        // The model stays as it is.
        let changed = ["train.lr=0", "train.min_lr=0", "train.steps=1"];
        let mut trainer = begin_with(dir.path(), name, (&source, tokenizer), &changed, 1).unwrap();
        let (summary, _) = finish(&mut trainer);
        let whole = summary.full_val_loss.unwrap();
        assert!((whole - evaluated.loss).abs() < 1e-6, "{name}: {whole} instead of {}", evaluated.loss);
        drop(trainer);
        let RunParts { config, prepared, .. } = RunParts::open(&dir.path().join(name)).unwrap();
        let steps = StepSettings::of(&config).unwrap();
        let batches = Batches::new(steps.windows, &prepared.train, None, steps.shape).unwrap();
        let mut batches = batches.with_prefix(prepared.tokenizer.prompt_prefix()).unwrap();
        let mut batch = Batch::default();
        batches.fill(&prepared.train, Draw { seed: 1, step: 0, first_row: 0 }, &mut batch).unwrap();
        assert_eq!((batches.targets(), batch.len()), (2 * (16 - prefix), 32));
        for span in batch.spans() {
            let (tokens, targets) = (&batch.tokens()[span.rows()], &batch.targets()[span.rows()]);
            assert!(tokens[..prefix].iter().all(|token| *token == first) && tokens[prefix] != first, "{tokens:?}");
            assert!(targets[..prefix].iter().all(|target| *target == IGNORE), "{targets:?}");
            assert_eq!(tokens[prefix + 1..], targets[prefix..15]);
        }
    }
}

#[test]
fn a_chat_template_and_settings_of_sampling_stay_with_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    copy(&golden("tiny-llama"), &source);
    fs::write(source.join("generation_config.json"), json!({"temperature": 0.5, "eos_token_id": [2, 3]}).to_string())
        .unwrap();
    let mut templates = ChatTemplates::new();
    templates.add("default", "a test", "{{ messages }}");
    let config = settings(&source, &["train.steps=1"]).unwrap();
    let run = dir.path().join("run");
    let claim = RunDir::claim(&run, Existing::Refuse).unwrap();
    let initial = Initial { model: Model::load(&source).unwrap(), tokenizer: characters(dir.path()), templates };
    let text = Source::Files(&[text_file(dir.path())]);
    let prepared = prepare_initial(&claim.staging(), &config, &initial, text, &mut |_| {}).unwrap();
    let mut trainer = Trainer::create_from(claim, config, (initial.model, prepared), 1, IsaKind::best()).unwrap();
    finish(&mut trainer);
    drop(trainer);
    let model = Model::load(&run).unwrap();
    assert_eq!((model.generation().temperature, &model.config().eos[..]), (Some(0.5), &[2, 3][..]));
    assert_eq!(ChatTemplates::from_folder(&run).unwrap().default_source(), Some("{{ messages }}"));
    // They don't outlast the run.
    let claim = RunDir::claim(&run, Existing::Replace).unwrap();
    let config = tiny(&["train.steps=1"]);
    let prepared = prepare(&claim.staging(), &config, Source::Files(&[text_file(dir.path())]), &mut |_| {}).unwrap();
    finish(&mut Trainer::create(claim, config, prepared, 1, IsaKind::best()).unwrap());
    assert!(!run.join("generation_config.json").exists() && !run.join("tokenizer_config.json").exists());
}
