//! Going on with a run: bit for bit, from the newest checkpoint that is whole, and never by overwriting.

mod common;
#[path = "resume/damage.rs"]
mod damage;
#[path = "resume/initial.rs"]
mod initial;

use std::fs;
use std::path::{Path, PathBuf};

use common::{
    Losses, begin, begin_with, checkpoint, copy, finish, losses, overlays, resume, resumed_from, state, stop_after,
    text_file, tiny, warnings,
};
use smallmind_checkpoint::{TOKENIZER_FILE, WEIGHTS_FILE};
use smallmind_graph::Precision;
use smallmind_model::Model;
use smallmind_simd::IsaKind;
use smallmind_train::{
    ErrorClass, Event, Existing, Finish, Found, Overlay, RunDir, Source, TrainConfig, TrainError, Trainer, prepare,
};

/// Everything that a step depends on is on: dropout, accumulation, clipping, a rate that changes.
const FULL: &[&str] =
    &["train.steps=100", "train.total_tokens=32", "model.dropout=0.1", "eval.interval=20", "checkpoint.interval=25"];
const GPT: &[&str] = &["model.biases=true"];
const IN_BF16: &[&str] = &["model.biases=true", "train.precision=bf16"];
const LLAMA: &[&str] = &["model.family=llama", "model.heads=4", "model.kv_heads=2", "model.tied=false"];

fn full(family: &[&str]) -> TrainConfig {
    tiny(&[FULL, family].concat())
}

/// The result of a run that nothing interrupts.
fn uninterrupted(dir: &Path, config: &TrainConfig) -> ([Vec<u32>; 3], Losses) {
    let mut trainer = begin(dir, "uninterrupted", config, 2).unwrap();
    let (_, events) = finish(&mut trainer);
    (state(&trainer), losses(&events))
}

#[test]
fn a_stop_changes_no_bit() {
    // Step 50 has a checkpoint of its own, 37 has not; the threads before and after differ.
    let of_gpt = [(50, 2, 2), (50, 1, 3), (37, 2, 1)];
    let of_llama = [(37, 1, 2)];
    let mut families = vec![(GPT, &of_gpt[..]), (LLAMA, &of_llama)];
    if Precision::Bf16.is_available(IsaKind::best()) {
        families.push((IN_BF16, &of_llama));
    }
    let mut of_families = vec![];
    for (family, stops) in families {
        let dir = tempfile::tempdir().unwrap();
        let config = full(family);
        let (expected_state, expected_losses) = uninterrupted(dir.path(), &config);
        for &(stop, before, after) in stops {
            let name = format!("stopped-{stop}-{before}");
            let mut trainer = begin(dir.path(), &name, &config, before).unwrap();
            let (summary, mut events) = stop_after(&mut trainer, stop);
            assert_eq!((summary.finish, summary.steps), (Finish::Interrupted, stop));
            assert_eq!(summary.checkpoint, checkpoint(&dir.path().join(&name), stop));
            drop(trainer);

            let run = dir.path().join(&name);
            let mut trainer = resume(&run, after);
            let (summary, later) = finish(&mut trainer);
            assert_eq!((summary.finish, summary.steps, resumed_from(&later)), (Finish::Completed, 100, Some(stop)));
            events.extend(later);
            assert_eq!(losses(&events), expected_losses, "{family:?} {name}");
            assert!(state(&trainer) == expected_state, "{family:?} {name}: other weights or moments");
            for file in [WEIGHTS_FILE, "trainer.safetensors"] {
                let of = |name: &str| fs::read(checkpoint(&dir.path().join(name), 100).join(file)).unwrap();
                assert!(of(&name) == of("uninterrupted"), "{family:?} {name}: another {file}");
            }
        }
        assert_eq!(expected_losses.steps.len(), 100);
        assert_eq!(expected_losses.estimates.iter().map(|e| e.0).collect::<Vec<_>>(), [20, 40, 60, 80, 100]);
        of_families.push(expected_state);
    }
    assert!(of_families.get(2).is_none_or(|in_bf16| *in_bf16 != of_families[0]), "the precision changes nothing");
}

/// A precision that the CPU lacks is refused by the name of its setting, before a step.
#[test]
fn products_that_the_cpu_lacks_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&["train.precision=bf16"]);
    let lacking = IsaKind::available().iter().find(|isa| !Precision::Bf16.is_available(**isa)).unwrap();
    for error in
        [config.check_cpu(*lacking).unwrap_err(), begin_with(dir.path(), "run", &config, (1, *lacking)).err().unwrap()]
    {
        let message = error.to_string();
        assert!(message.contains("train.precision = bf16") && message.contains(lacking.name()), "{message}");
        assert_eq!(error.class(), ErrorClass::Usage, "{message}");
    }
    assert!(tiny(&[]).check_cpu(*lacking).is_ok());
}

/// Windows that begin with stories are functions of seed and step as well, whatever the number of micro-batches.
#[test]
fn documents_go_on_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["data.windows=documents", "data.tokenizer=bpe", "data.vocab_size=300", "model.context=64"];
    let begin = |name: &str, changed: &[&str]| {
        let run = dir.path().join(name);
        let config = tiny(&[&settings, changed].concat());
        let source = Source::Stories { seed: 1, bytes: 60_000 };
        let claim = RunDir::claim(&run, Existing::Refuse).unwrap();
        let prepared = prepare(&claim.staging(), &config, source, &mut |_| {}).unwrap();
        (Trainer::create(claim, config, prepared, 1, IsaKind::best()).unwrap(), run)
    };
    let (mut whole, _) = begin("whole", &["eval.interval=8"]);
    let (summary, events) = finish(&mut whole);
    assert!(summary.full_val_loss.unwrap().is_finite());

    let (mut half, run) = begin("half", &["eval.interval=8"]);
    let (_, mut in_parts) = stop_after(&mut half, 9);
    drop(half);
    let mut half = resume(&run, 2);
    in_parts.extend(finish(&mut half).1);
    assert_eq!(losses(&in_parts), losses(&events));
    assert!(state(&half) == state(&whole), "other weights or moments");

    // The same rows in two micro-batches: sums of the same losses, in another order.
    let (mut cut, _) = begin("cut", &["train.batch=1", "train.total_tokens=128"]);
    let first = |events: &[Event]| f64::from_bits(losses(events).steps[0].1);
    let (_, cut) = finish(&mut cut);
    assert!((first(&cut) - first(&events)).abs() < 1e-5, "{} {}", first(&cut), first(&events));
}

#[test]
fn a_text_of_one_document_has_no_beginnings() {
    let dir = tempfile::tempdir().unwrap();
    let error = begin(dir.path(), "run", &tiny(&["data.windows=documents"]), 1).err().unwrap();
    assert_eq!(error.class(), ErrorClass::BadFile, "{error}");
    assert!(error.to_string().contains("data.windows=uniform"), "{error}");
}

#[test]
fn dropout_and_accumulation_take_part() {
    // What the test before compares would also agree if nothing of this had any effect.
    let dir = tempfile::tempdir().unwrap();
    let weights = |name: &str, changed: &[&str]| {
        let mut trainer = begin(dir.path(), name, &tiny(&[LLAMA, changed].concat()), 2).unwrap();
        finish(&mut trainer);
        state(&trainer)
    };
    let plain = weights("plain", &[]);
    assert!(plain == weights("again", &[]));
    assert!(plain != weights("dropout", &["model.dropout=0.1"]));
    assert!(plain != weights("accumulation", &["train.total_tokens=32"]));
    assert!(plain != weights("seed", &["train.seed=1338"]));
}

/// The steps in a log, each kind by itself: updates, estimates.
fn logged(run: &Path) -> [[Vec<u64>; 2]; 2] {
    let mut json = [vec![], vec![]];
    for line in fs::read_to_string(run.join("log.jsonl")).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let kind = usize::from(event["event"] == "eval");
        json[kind].push(event["step"].as_u64().unwrap());
    }
    let mut csv = [vec![], vec![]];
    let text = fs::read_to_string(run.join("log.csv")).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    assert_eq!(header, "step,loss,lr,grad_norm,tokens_per_second,seconds,train_loss,val_loss,bits_per_byte");
    for row in rows.lines() {
        let cells: Vec<&str> = row.split(',').collect();
        assert_eq!(cells.len(), 9, "{row}");
        csv[usize::from(cells[1].is_empty())].push(cells[0].parse().unwrap());
    }
    [json, csv]
}

#[test]
fn logs_have_each_step_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&["train.steps=24", "eval.interval=8", "checkpoint.interval=8"]);
    let run = dir.path().join("run");
    stop_after(&mut begin(dir.path(), "run", &config, 1).unwrap(), 19);
    // As after a kill: lines beyond the checkpoint of step 16, the last of them cut short.
    fs::remove_dir_all(checkpoint(&run, 19)).unwrap();
    for (log, cut) in
        [("log.jsonl", &b"{\"event\":\"step\",\"step\":2"[..]), ("log.csv", b"2"), ("log.csv", b"\xe2\x82")]
    {
        let mut text = fs::read(run.join(log)).unwrap();
        text.extend_from_slice(cut);
        fs::write(run.join(log), text).unwrap();
    }
    let expected = |end: u64, estimates: &[u64]| [(); 2].map(|()| [(1..=end).collect::<Vec<_>>(), estimates.to_vec()]);

    let (_, events) = finish(&mut resume(&run, 1));
    assert_eq!(resumed_from(&events), Some(16));
    assert_eq!(logged(&run), expected(24, &[8, 16, 24]));

    // A run that is complete, once more: its last estimates are made again, not written twice.
    let before = fs::read(checkpoint(&run, 24).join(WEIGHTS_FILE)).unwrap();
    let (summary, events) = finish(&mut resume(&run, 1));
    assert_eq!((summary.steps, summary.finish, resumed_from(&events)), (24, Finish::Completed, Some(24)));
    assert_eq!(logged(&run), expected(24, &[8, 16, 24]));
    assert!(fs::read(checkpoint(&run, 24).join(WEIGHTS_FILE)).unwrap() == before);

    // Lines that are none of ours stay.
    for (log, line) in [("log.jsonl", &b"a remark\xff\n"[..]), ("log.csv", b"# a remark\n")] {
        let text = [&fs::read(run.join(log)).unwrap()[..], line].concat();
        fs::write(run.join(log), &text).unwrap();
        finish(&mut resume(&run, 1));
        assert!(fs::read(run.join(log)).unwrap().windows(line.len()).any(|part| part == line), "{log}");
    }

    // And with more to do, although the logs are gone.
    fs::remove_file(run.join("log.jsonl")).unwrap();
    fs::remove_file(run.join("log.csv")).unwrap();
    let mut trainer = Trainer::resume(&run, &overlays(&["train.steps=26"]), 1, IsaKind::best()).unwrap();
    finish(&mut trainer);
    assert_eq!(logged(&run), [(); 2].map(|()| [vec![25, 26], vec![26]]));
}

#[test]
fn settings_that_are_fixed_stay() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    finish(&mut begin(dir.path(), "run", &tiny(&["train.steps=3"]), 1).unwrap());
    let fixed = [
        ("train.lr=1e-4", "train.lr"),
        ("train.seed=1", "train.seed"),
        ("train.batch=3", "train.batch"),
        ("train.total_tokens=32", "train.total_tokens"),
        ("train.decay_steps=7", "train.decay_steps"),
        ("train.schedule=wsd", "train.schedule"),
        ("model.layers=2", "model.layers"),
        ("model.d_model=32", "model.d_model"),
        ("model.dropout=0.1", "model.dropout"),
        ("model.preset=quickstart", "model.preset"),
        ("data.validation=0.1", "data.validation"),
        ("data.tokenizer=bpe", "data.tokenizer"),
    ];
    for (assignment, key) in fixed {
        let error = Trainer::resume(&run, &overlays(&[assignment]), 1, IsaKind::best()).err().unwrap();
        let TrainError::NotResumable { key: named, origin } = &error else { panic!("{assignment}: {error}") };
        assert_eq!((named.as_str(), origin.as_str()), (key, assignment));
        assert_eq!(error.class(), ErrorClass::Usage);
    }
    let five = Overlay::of_micro_batches(5, "five of them");
    let error = Trainer::resume(&run, &[five], 1, IsaKind::best()).err().unwrap();
    let TrainError::NotResumable { key, origin } = &error else { panic!("{error}") };
    assert_eq!((key.as_str(), origin.as_str()), ("train.total_tokens", "five of them"));
    // What is no setting, or no value, is that first of all.
    for assignment in ["train.stps=5", "train.steps=many", "train.steps=0", "log.interval=0"] {
        let resumed = Overlay::assignment(assignment);
        let resumed = resumed.and_then(|overlay| Trainer::resume(&run, &[overlay], 1, IsaKind::best()).map(|_| ()));
        assert_eq!(resumed.err().map(|e| e.class()), Some(ErrorClass::Usage), "{assignment}");
    }
    // The same values again are no change.
    let mut same = overlays(&["train.batch=2", "model.layers=1", "model.preset=nanogpt-cpu"]);
    same.push(Overlay::of_micro_batches(1, "one of them"));
    let mut trainer = Trainer::resume(&run, &same, 1, IsaKind::best()).unwrap();
    assert_eq!(finish(&mut trainer).0.steps, 3);
}

#[test]
fn more_steps_are_as_if_asked_for_at_first() {
    let dir = tempfile::tempdir().unwrap();
    let of_steps = |steps: &str| tiny(&["train.schedule=constant", "checkpoint.keep=3", steps]);
    let (expected_state, expected_losses) = uninterrupted(dir.path(), &of_steps("train.steps=30"));

    let (_, mut events) = finish(&mut begin(dir.path(), "run", &of_steps("train.steps=20"), 1).unwrap());
    let changes = overlays(&[
        "train.steps=30",
        "eval.interval=0",
        "checkpoint.interval=5",
        "checkpoint.keep=1",
        "log.interval=1",
    ]);
    let mut trainer = Trainer::resume(&dir.path().join("run"), &changes, 1, IsaKind::best()).unwrap();
    let (summary, later) = finish(&mut trainer);
    assert_eq!((summary.steps, resumed_from(&later)), (30, Some(20)));
    events.extend(later);
    assert!(state(&trainer) == expected_state);
    assert_eq!(losses(&events).steps, expected_losses.steps);
    // The new settings hold, and are the ones to go on with.
    let kept = fs::read_dir(dir.path().join("run/checkpoints")).unwrap().count();
    assert_eq!(kept, 1);
    let error = Trainer::resume(&dir.path().join("run"), &[], 1, IsaKind::best()).err().unwrap();
    assert!(matches!(&error, TrainError::Busy(path) if path.ends_with("run")), "{error}");
    drop(trainer);
    assert_eq!(resume(&dir.path().join("run"), 1).config().train.steps, 30);
}

/// A run that was stopped at step 10, with checkpoints of steps 8 and 10, and how it ends at 12 if nothing happens to
/// it.
fn stopped(dir: &Path) -> (PathBuf, [Vec<u32>; 3], Losses) {
    let config = tiny(&["train.steps=12", "checkpoint.interval=4", "model.dropout=0.2"]);
    let (state, losses) = uninterrupted(dir, &config);
    stop_after(&mut begin(dir, "stopped", &config, 1).unwrap(), 10);
    (dir.join("stopped"), state, losses)
}

/// Damages a file.
type Damage = fn(&Path);

/// The ways in which a file is damaged.
const DAMAGES: [(&str, Damage); 4] = [
    ("cut short", |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    }),
    ("empty", |path| fs::write(path, b"").unwrap()),
    ("a bit flipped", |path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x04;
        fs::write(path, bytes).unwrap();
    }),
    ("missing", |path| fs::remove_file(path).unwrap()),
];

#[test]
fn a_folder_that_is_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let file = text_file(dir.path());
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    Model::random(tiny(&[]).model_config(9).unwrap(), 1).unwrap().save(&model).unwrap();
    let unborn = dir.path().join("unborn");
    fs::create_dir_all(unborn.join("checkpoints")).unwrap();
    let cases = [
        (missing, "there is no such folder"),
        (empty, "no folder `checkpoints`"),
        (file, "it is a file"),
        (model, "no folder `checkpoints`"),
        (unborn, "`checkpoints` is empty"),
    ];
    for (path, why) in cases {
        let error = Trainer::resume(&path, &[], 1, IsaKind::best()).err().unwrap();
        assert!(matches!(error, TrainError::NoRun { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::BadFile);
        let message = error.to_string();
        assert!(message.contains(why) && message.contains(path.to_str().unwrap()), "{message}");
    }
}

#[test]
fn data_that_is_not_the_runs_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (stopped, ..) = stopped(dir.path());
    let refused = |change: &dyn Fn(&Path), names: &str| {
        let run = dir.path().join("changed");
        copy(&stopped, &run);
        change(&run);
        let error = Trainer::resume(&run, &[], 1, IsaKind::best()).err().unwrap();
        assert_eq!(error.class(), ErrorClass::BadFile, "{error}");
        assert!(error.to_string().contains(names), "{error}");
        fs::remove_dir_all(&run).unwrap();
    };
    let (_, cut) = DAMAGES[0];
    let (_, flip) = DAMAGES[2];
    refused(&|run| flip(&run.join("data/train-00000.bin")), "train-00000.bin");
    refused(&|run| cut(&run.join("data/validation-00000.bin")), "validation-00000.bin");
    refused(&|run| fs::remove_file(run.join("data/manifest.json")).unwrap(), "manifest.json");
    refused(&|run| fs::remove_dir_all(run.join("data")).unwrap(), "token shards that it began with");
    refused(&|run| fs::write(run.join(TOKENIZER_FILE), b"{}").unwrap(), TOKENIZER_FILE);
    let other = smallmind_model::tokenizer::Tokenizer::characters("another alphabet").unwrap();
    refused(&|run| other.save(run.join(TOKENIZER_FILE)).unwrap(), "another tokenizer");
}

#[test]
fn a_run_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (run, expected_state, _) = stopped(dir.path());
    let files = ["tokenizer.json", "train.toml", "log.jsonl", "log.csv", "data/manifest.json", "data/train-00000.bin"];
    let read = || files.map(|file| fs::read(run.join(file)).unwrap());
    let before = read();
    let error = RunDir::claim(&run, Existing::Refuse).err().unwrap();
    assert!(matches!(&error, TrainError::Exists { path, found: Found::Run } if *path == run), "{error}");
    assert_eq!(error.class(), ErrorClass::Usage);
    // A new run that comes to nothing leaves the old one as it was, though that was to be replaced.
    let claim = RunDir::claim(&run, Existing::Replace).unwrap();
    let config = tiny(&["data.tokenizer=bpe", "data.vocab_size=300"]);
    let prepared = prepare(&claim.staging(), &config, Source::Stories { seed: 1, bytes: 9000 }, &mut |_| {}).unwrap();
    let error = Trainer::create(claim, tiny(&["model.context=8000"]), prepared, 1, IsaKind::best()).err().unwrap();
    assert_eq!(error.class(), ErrorClass::BadFile, "{error}");
    assert!(read() == before);
    let mut trainer = resume(&run, 1);
    finish(&mut trainer);
    assert!(state(&trainer) == expected_state);

    // Shards without a run beside them are not overwritten either, and keep their tokenizer.
    let shards = dir.path().join("shards");
    prepare(&shards, &tiny(&[]), Source::Stories { seed: 1, bytes: 9000 }, &mut |_| {}).unwrap();
    let tokenizer = fs::read(shards.join(TOKENIZER_FILE)).unwrap();
    let again = prepare(&shards, &tiny(&["data.tokenizer=bpe"]), Source::Stories { seed: 2, bytes: 9000 }, &mut |_| {});
    assert_eq!(again.err().map(|e| e.class()), Some(ErrorClass::BadFile));
    assert!(fs::read(shards.join(TOKENIZER_FILE)).unwrap() == tokenizer);
}

#[test]
fn a_finished_run_that_is_resumed_tells_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (_, first) = finish(&mut begin(dir.path(), "run", &tiny(&["train.steps=12"]), 1).unwrap());
    let (_, again) = finish(&mut resume(&dir.path().join("run"), 1));
    let last = |events: &[Event]| {
        events.iter().rev().find_map(|e| if let Event::Eval(e) = e { Some(e.clone()) } else { None })
    };
    assert_eq!(last(&again), last(&first));
    assert!(last(&again).unwrap().best);
}

#[test]
fn fewer_steps_than_are_done_are_refused_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    finish(&mut begin(dir.path(), "run", &tiny(&["train.steps=12", "eval.interval=3"]), 1).unwrap());
    let files = ["train.toml", "log.jsonl", "log.csv"];
    let read = || files.map(|name| fs::read(run.join(name)).unwrap());
    let before = read();
    for asked in ["train.steps=11", "train.steps=1"] {
        let error = Trainer::resume(&run, &overlays(&[asked]), 1, IsaKind::best()).err().unwrap();
        assert!(matches!(error, TrainError::StepsDone { done: 12, .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Usage);
        assert!(read() == before);
    }
    assert!(Trainer::resume(&run, &overlays(&["train.steps=12"]), 1, IsaKind::best()).is_ok());
}

#[test]
fn settings_that_were_edited_by_hand_are_obeyed_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    finish(&mut begin(dir.path(), "run", &tiny(&["train.steps=12"]), 1).unwrap());
    let path = run.join("train.toml");
    let text = fs::read_to_string(&path).unwrap();
    let edit = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).unwrap();
    };
    edit("steps = 12", "steps = 15 # longer");
    let (summary, events) = finish(&mut resume(&run, 1));
    assert_eq!(summary.steps, 15);
    assert!(fs::read_to_string(&path).unwrap().contains("# longer"), "the file was written over");
    let told = warnings(&events);
    assert!(told.iter().any(|w| w.contains("train.steps = 15 instead of 12") && w.contains("train.toml")), "{told:?}");
    // A flag is over it.
    edit("steps = 12", "steps = 20");
    let (summary, _) = finish(&mut Trainer::resume(&run, &overlays(&["train.steps=16"]), 1, IsaKind::best()).unwrap());
    assert_eq!(summary.steps, 16);

    for (from, to, class, word) in [
        ("d_model = 16", "d_model = 32", ErrorClass::Usage, "model.d_model"),
        ("[eval]", "[evaluation]", ErrorClass::Usage, "evaluation"),
        ("[eval]", "[eval", ErrorClass::Usage, "TOML"),
    ] {
        edit(from, to);
        let error = Trainer::resume(&run, &[], 1, IsaKind::best()).err().unwrap();
        let message = error.to_string();
        assert_eq!(error.class(), class, "{message}");
        assert!(message.contains("train.toml") && message.contains(word), "{message}");
        assert!(fs::read_to_string(&path).unwrap().contains(to), "the file was written over");
    }
}
