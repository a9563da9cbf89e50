//! A run from the outside: its folder, its events, its logs, and that they are the same for any number of threads.

mod common;

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::{begin, checkpoint, finish, losses, state, text_file, tiny};
use smallmind_checkpoint::{ModelFolder, TOKENIZER_FILE, WEIGHTS_FILE};
use smallmind_kernels::Format;
use smallmind_kernels::attention::CacheFormat;
use smallmind_model::sampler::SamplerConfig;
use smallmind_model::tokenizer::{SpecialText, SpecialTokens, Tokenizer};
use smallmind_model::{GenerateOptions, Generator, Model, Session, SessionOptions};
use smallmind_simd::IsaKind;
use smallmind_train::data::{Corpus, Dataset, OpenOptions, Split};
use smallmind_train::{
    ErrorClass, EvaluateSettings, Event, Existing, Finish, RunDir, Source, TextWindows, TrainError, Trainer,
    divergence, evaluate_text, prepare,
};

const GPT: &[&str] = &["model.family=gpt2", "model.biases=false"];
const GPT_WITH_BIASES: &[&str] = &["model.biases=true", "model.gelu=tanh", "model.tied=false"];
const LLAMA: &[&str] = &["model.family=llama", "model.heads=4", "model.kv_heads=2", "model.tied=false"];
const QWEN: &[&str] = &["model.family=qwen2", "model.kv_heads=1"];

fn logits(model: Model) -> Vec<u32> {
    let options = SessionOptions::single(model.config().context, 1);
    let mut session = Session::new(Arc::new(model.pack(IsaKind::best()).unwrap()), options).unwrap();
    let sequence = session.open().unwrap();
    session.append(sequence, &[1, 2, 3, 5, 8, 13]).unwrap().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_folder_is_a_hugging_face_folder() {
    let names: [(&[&str], &str, &str); 4] = [
        (GPT, "gpt2", "transformer.h.0.attn.c_attn.weight"),
        (GPT_WITH_BIASES, "gpt2", "transformer.h.0.mlp.c_fc.bias"),
        (LLAMA, "llama", "model.layers.0.self_attn.k_proj.weight"),
        (QWEN, "qwen2", "model.layers.0.self_attn.q_proj.bias"),
    ];
    for (family, kind, tensor) in names {
        let dir = tempfile::tempdir().unwrap();
        let mut trainer = begin(dir.path(), "run", &tiny(family), 2).unwrap();
        finish(&mut trainer);
        let trained = trainer.learner().model();
        let expected = logits(trained.try_clone().unwrap());
        // The model is the best by its one estimate, which is the last: the folder of the run and its checkpoint hold
        // the same.
        for folder in [dir.path().join("run"), checkpoint(&dir.path().join("run"), 20)] {
            let open = ModelFolder::open(&folder).unwrap();
            assert_eq!(open.config()["model_type"], kind);
            assert_eq!(open.config()["vocab_size"], trained.config().vocab_size);
            assert!(open.weights().contains(tensor), "{tensor}");
            let model = Model::load(&folder).unwrap();
            assert_eq!(model.config(), trained.config());
            assert!(model.weights() == trained.weights());
            assert!(logits(model) == expected, "{family:?}");
            let tokenizer = Tokenizer::from_file(folder.join(TOKENIZER_FILE)).unwrap();
            assert_eq!(tokenizer.vocab_size(), trained.config().vocab_size);
        }
    }
}

#[test]
fn the_model_of_the_run_is_the_best_so_far() {
    let dir = tempfile::tempdir().unwrap();
    // A rate that rises from one that learns to one at which the loss leaps up.
    let leaps = ["train.steps=60", "train.lr=10", "train.schedule=constant", "train.warmup=60", "train.clip=0"];
    let kept = ["eval.interval=3", "checkpoint.interval=3", "checkpoint.keep=99"];
    let (summary, events) = finish(&mut begin(dir.path(), "run", &tiny(&[&leaps[..], &kept].concat()), 1).unwrap());
    let mut lowest: Option<(u64, f64)> = None;
    for event in &events {
        let Event::Eval(e) = event else { continue };
        let is_lower = lowest.is_none_or(|(_, loss)| e.val_loss < loss);
        assert_eq!(e.best, is_lower, "step {}", e.step);
        if is_lower {
            lowest = Some((e.step, e.val_loss));
        }
    }
    let (step, loss) = lowest.unwrap();
    assert!(step < 60, "the last estimate is the lowest, so that nothing is shown");
    assert_eq!(summary.best_val_loss, Some(loss));
    let of = |folder: &Path| fs::read(folder.join(WEIGHTS_FILE)).unwrap();
    let run = dir.path().join("run");
    assert!(of(&run) == of(&checkpoint(&run, step)));
    assert!(of(&run) != of(&checkpoint(&run, 60)));
}

#[test]
fn bit_equal_for_any_number_of_threads() {
    for family in [GPT_WITH_BIASES, LLAMA] {
        let dir = tempfile::tempdir().unwrap();
        let settings = ["train.steps=8", "model.dropout=0.1", "eval.interval=4", "train.total_tokens=32"];
        let config = tiny(&[family, &settings].concat());
        let results = [1, 2, 3, 8].map(|threads| {
            let mut trainer = begin(dir.path(), &format!("{threads}"), &config, threads).unwrap();
            let (summary, events) = finish(&mut trainer);
            (losses(&events), state(&trainer), summary.full_val_loss.unwrap().to_bits())
        });
        assert_eq!((results[0].0.steps.len(), results[0].0.estimates.len()), (8, 2));
        for result in &results[1..] {
            assert_eq!(result.0, results[0].0, "{family:?}");
            assert!(*result == results[0], "{family:?}");
        }
    }
}

#[test]
fn it_learns() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&["train.steps=300", "train.batch=8", "train.lr=1e-2"]);
    let (summary, events) = finish(&mut begin(dir.path(), "run", &config, 1).unwrap());
    let losses: Vec<f64> =
        events.iter().filter_map(|e| if let Event::Step(s) = e { Some(s.loss) } else { None }).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..10]), mean(&losses[290..]));
    assert!(last < first - 0.5, "from {first} to {last}");
    assert!(summary.full_val_loss.unwrap() < first - 0.3);
}

/// The kinds of events with their steps.
fn outline(events: &[Event]) -> Vec<(&'static str, u64)> {
    let kind = |event: &Event| match event {
        Event::Started(started) => ("started", started.resumed_from.unwrap_or(0)),
        Event::Step(s) => ("step", s.step),
        Event::Eval(e) => ("eval", e.step),
        Event::Sample { step, .. } => ("sample", *step),
        Event::Checkpoint { step, .. } => ("checkpoint", *step),
        Event::Warning { .. } => ("warning", 0),
        Event::Done(summary) => ("done", summary.steps),
    };
    events.iter().map(kind).collect()
}

#[test]
fn events_come_at_their_intervals() {
    let dir = tempfile::tempdir().unwrap();
    let intervals =
        ["log.interval=3", "eval.interval=4", "sample.interval=5", "sample.tokens=3", "checkpoint.interval=6"];
    let config = tiny(&[&["train.steps=10"], &intervals[..]].concat());
    let (summary, events) = finish(&mut begin(dir.path(), "run", &config, 1).unwrap());
    let expected = [
        ("started", 0),
        ("checkpoint", 0),
        ("step", 3),
        ("eval", 4),
        ("sample", 5),
        ("step", 6),
        ("checkpoint", 6),
        ("eval", 8),
        ("step", 9),
        ("step", 10),
        ("sample", 10),
        // First what has been trained is safe; then once more, with the last estimates.
        ("checkpoint", 10),
        ("eval", 10),
        ("checkpoint", 10),
        ("done", 10),
    ];
    assert_eq!(outline(&events), expected);
    assert_eq!(events.last(), Some(&Event::Done(summary.clone())));
    // The log holds the steps and the estimates as they were told.
    let text = fs::read_to_string(dir.path().join("run/log.jsonl")).unwrap();
    let told: Vec<String> = events
        .iter()
        .filter(|e| matches!(e, Event::Step(_) | Event::Eval(_)))
        .map(|e| serde_json::to_string(e).unwrap())
        .collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), told);
    let Event::Step(step) = &events[2] else { unreachable!() };
    assert_eq!((step.steps, step.lr), (10, 1e-3 * 3.0 / 6.0));
    assert!(step.tokens_per_second > 0.0 && step.flops_per_second > step.tokens_per_second);
    assert!(step.seconds > 0.0 && step.remaining_seconds > 0.0 && step.grad_norm > 0.0);
    let Event::Started(started) = &events[0] else { unreachable!() };
    assert_eq!((started.tokens_per_step, started.steps, started.threads), (16, 10, 1));
    let model = Model::load(dir.path().join("run")).unwrap();
    assert_eq!(started.parameters, model.params().elements());
    assert_eq!((summary.finish, summary.checkpoint), (Finish::Completed, checkpoint(&dir.path().join("run"), 10)));
}

#[test]
fn a_run_that_is_to_stop_at_once_can_be_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = begin(dir.path(), "run", &tiny(&["sample.interval=0"]), 1).unwrap();
    let mut events = Vec::new();
    let summary = trainer.run(&AtomicBool::new(true), &mut |event| events.push(event.clone())).unwrap();
    assert_eq!((summary.steps, summary.finish, summary.val_loss), (0, Finish::Interrupted, None));
    assert_eq!(outline(&events), [("started", 0), ("checkpoint", 0), ("done", 0)]);
    assert_eq!(summary.checkpoint, checkpoint(&dir.path().join("run"), 0));
    assert!(Model::load(dir.path().join("run")).is_ok(), "the run's folder holds a model in any case");
    drop(trainer);
    assert_eq!(finish(&mut common::resume(&dir.path().join("run"), 1)).0.steps, 20);
}

#[test]
fn the_loss_over_the_whole_validation_part() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, _) = finish(&mut begin(dir.path(), "run", &tiny(&[]), 1).unwrap());
    let text = fs::read_to_string(text_file(dir.path())).unwrap();
    let characters: Vec<char> = text.chars().collect();
    let validation: String = characters[(characters.len() as f64 * 0.8) as usize..].iter().collect();
    let tokenizer = Tokenizer::from_file(dir.path().join("run").join(TOKENIZER_FILE)).unwrap();
    let model = Model::load(dir.path().join("run")).unwrap().pack(IsaKind::best()).unwrap();
    let settings = EvaluateSettings { threads: 1, max_context: 8, cache_format: CacheFormat::F32 };
    let corpus = Corpus::of_text(validation.clone(), None);
    let whole = evaluate_text(&model, &tokenizer, &corpus, settings, &mut |_, _| {}).unwrap();
    assert!((whole.loss - summary.full_val_loss.unwrap()).abs() < 1e-6, "{whole:?} {summary:?}");
    assert_eq!(whole.tokens, validation.chars().count() - 1);
    // The same beside another model, whose loss is its own.
    let other = Model::load(dir.path().join("run")).unwrap().pack_as(IsaKind::best(), Format::Q4_0).unwrap();
    let of_other = evaluate_text(&other, &tokenizer, &corpus, settings, &mut |_, _| {}).unwrap();
    let [model, other] = [model, other].map(Arc::new);
    let text = TextWindows::new(&corpus, &tokenizer, model.config().vocab_size).unwrap();
    let beside = divergence(&model, &other, &text, settings, &mut |_, _| {}).unwrap();
    assert_eq!(beside.tokens, whole.tokens);
    assert!((beside.loss - whole.loss).abs() < 1e-6, "{beside:?} {whole:?}");
    assert!((beside.reference_loss - of_other.loss).abs() < 1e-6, "{beside:?} {of_other:?}");
    assert!(beside.mean > 0.0 && beside.loss != beside.reference_loss, "{beside:?}");
    let bits = whole.loss / std::f64::consts::LN_2 * validation.chars().count() as f64 / validation.len() as f64;
    assert!((summary.bits_per_byte.unwrap() - bits).abs() < 1e-6);
}

/// The texts of a split, as they were before they were encoded.
fn decoded(run: &Path, split: Split) -> String {
    let data = Dataset::open(run.join("data"), split, OpenOptions::default()).unwrap();
    let mut ids = vec![0; data.tokens()];
    data.copy(0, &mut ids).unwrap();
    let tokenizer = Tokenizer::from_file(run.join(TOKENIZER_FILE)).unwrap();
    tokenizer.decode(&ids, SpecialText::Show).unwrap()
}

#[test]
fn a_text_is_divided_at_its_share() {
    let dir = tempfile::tempdir().unwrap();
    // Characters of one to four bytes.
    let text: String = "año, 語 and 🦉 in a tree; ".chars().cycle().take(1003).collect();
    let (first, second) = (dir.path().join("first.txt"), dir.path().join("second.txt"));
    let cut = text.char_indices().nth(400).unwrap().0;
    fs::write(&first, &text[..cut]).unwrap();
    fs::write(&second, &text[cut..]).unwrap();
    for tokenizer in ["data.tokenizer=characters", "data.tokenizer=bpe"] {
        let run = dir.path().join(tokenizer);
        let config = tiny(&[tokenizer, "data.vocab_size=270", "data.validation=0.25"]);
        let prepared = prepare(&run, &config, Source::Files(&[first.clone(), second.clone()]), &mut |_| {}).unwrap();
        let (train, validation) = (decoded(&run, Split::Train), decoded(&run, Split::Validation));
        assert_eq!(train.chars().count(), 752);
        assert_eq!([train.as_str(), validation.as_str()].concat(), text);
        assert_eq!(prepared.train.source_bytes(), train.len() as u64);
        assert_eq!(prepared.validation.source_bytes(), validation.len() as u64);
    }
}

#[test]
fn stories_of_the_two_parts_are_others() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let config = tiny(&["data.tokenizer=bpe", "data.vocab_size=400"]);
    prepare(&run, &config, Source::Stories { seed: 3, bytes: 200_000 }, &mut |_| {}).unwrap();
    let (train, validation) = (decoded(&run, Split::Train), decoded(&run, Split::Validation));
    let end = "<|endoftext|>";
    let (train, validation): (HashSet<&str>, HashSet<&str>) =
        (train.split_terminator(end).collect(), validation.split_terminator(end).collect());
    assert!(train.len() > 100 && validation.len() > 20, "{} and {}", train.len(), validation.len());
    assert!(train.is_disjoint(&validation));
    let bytes = |stories: &HashSet<&str>| stories.iter().map(|s| s.len()).sum::<usize>();
    assert!((190_000..205_000).contains(&bytes(&train)) && (35_000..45_000).contains(&bytes(&validation)));
}

#[test]
fn samples_begin_with_their_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let samples = |name: &str, changed: &[&str], threads| -> Vec<String> {
        let config = tiny(&[&["sample.interval=5", "sample.tokens=30", "train.steps=20"], changed].concat());
        let (_, events) = finish(&mut begin(dir.path(), name, &config, threads).unwrap());
        let text = |event: &Event| if let Event::Sample { text, .. } = event { Some(text.clone()) } else { None };
        events.iter().filter_map(text).collect()
    };
    let first = samples("first", &["sample.prompt=One day"], 1);
    assert_eq!(first.len(), 4);
    // Seven characters of a prompt and thirty more, far beyond the context of eight.
    assert!(first.iter().all(|s| s.starts_with("One day") && s.chars().count() == 37), "{first:?}");
    assert!(first[0] != first[1]);
    assert_eq!(first, samples("again", &["sample.prompt=One day"], 2));
    assert_ne!(first, samples("hot", &["sample.prompt=One day", "sample.temperature=1.5"], 1));
    assert!(samples("without", &[], 1).iter().all(|s| s.chars().count() == 30));
}

#[test]
fn a_sample_is_of_the_model_as_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let samples = ["sample.interval=5", "sample.tokens=20", "sample.prompt=One", "sample.temperature=0"];
    let rest = ["train.lr=1e-2", "checkpoint.interval=5", "checkpoint.keep=9"];
    let (_, events) = finish(&mut begin(dir.path(), "run", &tiny(&[&samples[..], &rest].concat()), 1).unwrap());
    let run = dir.path().join("run");
    let tokenizer = Arc::new(Tokenizer::from_file(run.join(TOKENIZER_FILE)).unwrap());
    let written = |step: u64| {
        let model = Model::load(checkpoint(&run, step)).unwrap().pack(IsaKind::best()).unwrap();
        let session = Session::new(Arc::new(model), SessionOptions::single(8, 1)).unwrap();
        let options = GenerateOptions { max_tokens: 20, sampler: SamplerConfig::greedy(), stops: vec![] };
        let mut text = String::from("One");
        let prompt = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
        let mut generator = Generator::new(session, tokenizer.clone()).unwrap();
        let generated = generator.generate(&prompt, &options, |piece| {
            text.push_str(piece);
            ControlFlow::Continue(())
        });
        generated.map(|_| text).unwrap()
    };
    let mut steps = Vec::new();
    for event in &events {
        let Event::Sample { step, text } = event else { continue };
        assert_eq!(*text, written(*step), "step {step}");
        steps.push(*step);
    }
    assert_eq!(steps, [5, 10, 15, 20]);
    assert!(written(15) != written(0), "nothing was learnt, so that nothing is shown");
}

#[test]
fn a_prompt_that_can_not_be_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for (prompt, says) in [("語", "語"), ("A story that is longer than the window", "38 tokens")] {
        let setting = format!("sample.prompt={prompt}");
        let error = begin(dir.path(), prompt, &tiny(&["sample.interval=5", &setting]), 1).err().unwrap();
        assert_eq!(error.class(), ErrorClass::Usage);
        assert!(matches!(&error, TrainError::Value { key, .. } if key == "sample.prompt"), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        // Nothing is sampled, nothing is wrong.
        assert!(begin(dir.path(), &format!("{prompt} unused"), &tiny(&[&setting]), 1).is_ok());
    }
}

#[test]
fn a_context_or_a_tokenizer_that_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let claim = RunDir::claim(&run, Existing::Refuse).unwrap();
    let source = [text_file(dir.path())];
    let prepared = prepare(&claim.staging(), &tiny(&[]), Source::Files(&source), &mut |_| {}).unwrap();
    // Prepared for a context of 8, trained with one that the validation part is too short for.
    let error = Trainer::create(claim, tiny(&["model.context=800"]), prepared, 1, IsaKind::best()).err().unwrap();
    assert_eq!(error.class(), ErrorClass::BadFile);
    assert!(error.to_string().contains("validation part") && error.to_string().contains("800"), "{error}");

    let missing = dir.path().join("tokenizer-of-mine.json");
    let setting = format!("data.tokenizer={}", missing.display());
    let error = begin(dir.path(), "other", &tiny(&[&setting]), 1).err().unwrap();
    assert_eq!(error.class(), ErrorClass::BadFile);
    assert!(error.to_string().contains("tokenizer-of-mine.json"), "{error}");
    // The tokenizer of one run serves the next.
    begin(dir.path(), "run", &tiny(&[]), 1).unwrap();
    let setting = format!("data.tokenizer={}", run.join(TOKENIZER_FILE).display());
    let mut trainer = begin(dir.path(), "third", &tiny(&[&setting]), 1).unwrap();
    finish(&mut trainer);
    let tokenizer = |name: &str| fs::read(dir.path().join(name).join(TOKENIZER_FILE)).unwrap();
    assert!(tokenizer("run") == tokenizer("third"));
}
