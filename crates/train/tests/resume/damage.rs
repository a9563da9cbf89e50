//! Checkpoints and files of the model that are damaged, forged or missing.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use serde_json::{Value, json};
use smallmind_checkpoint::{CONFIG_FILE, Rolling, TOKENIZER_FILE, TensorData, TensorWriter, WEIGHTS_FILE};
use smallmind_model::Model;
use smallmind_simd::IsaKind;
use smallmind_train::{ErrorClass, TrainError, Trainer};

use super::common::{begin, checkpoint, copy, finish, losses, resume, resumed_from, state, tiny, warnings};
use super::{DAMAGES, logged, stopped};

/// The files of a checkpoint.
const FILES: [&str; 6] =
    [CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, "trainer.json", "trainer.safetensors", "manifest.json"];

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let (stopped, expected_state, expected_losses) = stopped(dir.path());
    for file in FILES {
        for (how, damage) in DAMAGES {
            let run = dir.path().join("damaged");
            copy(&stopped, &run);
            damage(&checkpoint(&run, 10).join(file));
            let mut trainer = resume(&run, 1);
            let (_, events) = finish(&mut trainer);
            assert_eq!(resumed_from(&events), Some(8), "{file} {how}");
            let warnings = warnings(&events);
            assert_eq!(warnings.len(), 1, "{file} {how}: {warnings:?}");
            // A digit of a checksum that is flipped in the manifest speaks against another file.
            let names = if how == "a bit flipped" && file == "manifest.json" { "" } else { file };
            assert!(warnings[0].contains("step-00000010") && warnings[0].contains(names), "{file} {how}: {warnings:?}");
            assert!(state(&trainer) == expected_state, "{file} {how}");
            assert_eq!(losses(&events).steps, expected_losses.steps[8..], "{file} {how}");
            assert_eq!(logged(&run)[0][0], (1..=12).collect::<Vec<_>>(), "{file} {how}");
            fs::remove_dir_all(&run).unwrap();
        }
    }
}

/// The shape of a run is that of its checkpoints: another one in its `config.json` is neither taken nor passed over.
#[test]
fn another_shape_in_the_folder_of_a_run_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (run, ..) = stopped(dir.path());
    let path = run.join(CONFIG_FILE);
    let text = fs::read_to_string(&path).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let key = "layer_norm_epsilon";
    assert!(config[key].is_number(), "{text}");
    // A key of other programs, and another order, change nothing.
    config["transformers_version"] = json!("4.0");
    // Nor does what is no shape.
    for (key, value) in [("eos_token_id", 3), ("bos_token_id", 2), ("initializer_range", 1)] {
        config[key] = json!(value);
    }
    fs::write(&path, config.to_string()).unwrap();
    drop(resume(&run, 1));
    config[key] = json!(0.25);
    fs::write(&path, config.to_string()).unwrap();
    // Nothing is written before.
    let tokenizer = fs::read(run.join(TOKENIZER_FILE)).unwrap();
    fs::remove_file(run.join(TOKENIZER_FILE)).unwrap();
    let error = Trainer::resume(&run, &[], 1, IsaKind::best()).err().unwrap();
    assert!(!run.join(TOKENIZER_FILE).exists());
    fs::write(run.join(TOKENIZER_FILE), tokenizer).unwrap();
    assert!(matches!(error, TrainError::Shape { .. }) && error.class() == ErrorClass::BadFile, "{error}");
    let message = error.to_string();
    assert!(message.contains("config.json: it says `layer_norm_epsilon` 0.25, the checkpoint 0.00001;"), "{message}");
    fs::write(&path, text).unwrap();
    drop(resume(&run, 1));
}

#[test]
fn without_a_whole_checkpoint_there_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let (run, ..) = stopped(dir.path());
    let (_, flip) = DAMAGES[2];
    flip(&checkpoint(&run, 10).join(WEIGHTS_FILE));
    flip(&checkpoint(&run, 8).join("trainer.safetensors"));
    let before = fs::read(run.join("log.jsonl")).unwrap();
    let error = Trainer::resume(&run, &[], 1, IsaKind::best()).err().unwrap();
    assert!(matches!(error, TrainError::Damaged { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::BadFile);
    let message = error.to_string();
    for part in ["step-00000010/model.safetensors", "step-00000008/trainer.safetensors", "no checkpoint is whole"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(fs::read(run.join("log.jsonl")).unwrap() == before, "nothing is touched");
    // Nor may a new run take its place.
    let error = begin(dir.path(), "stopped", &tiny(&[]), 1).err().unwrap();
    assert!(matches!(error, TrainError::Exists { .. }), "{error}");
}

#[test]
fn a_checkpoint_that_was_set_aside_is_found() {
    // As after a kill in the middle of the replacement of a checkpoint by one of the same step.
    let dir = tempfile::tempdir().unwrap();
    let (run, expected_state, _) = stopped(dir.path());
    fs::remove_dir_all(checkpoint(&run, 8)).unwrap();
    fs::rename(checkpoint(&run, 10), run.join("checkpoints/.tmp-old-1.0-step-00000010")).unwrap();
    fs::create_dir(run.join("checkpoints/.tmp-new-1.1-step-00000010")).unwrap();
    let mut trainer = resume(&run, 1);
    let (_, events) = finish(&mut trainer);
    assert_eq!(resumed_from(&events), Some(10));
    assert!(state(&trainer) == expected_state);
    assert!(
        fs::read_dir(run.join("checkpoints")).unwrap().all(|e| !e
            .unwrap()
            .file_name()
            .as_encoded_bytes()
            .starts_with(b"."))
    );
}

/// The name of a file and its other content.
type Replaced = (&'static str, Vec<u8>);

/// Publishes a checkpoint of step 11, whole by its manifest, from the files of step 10 with some replaced.
fn forge(run: &Path, replaced: &[Replaced]) {
    let rolling = Rolling::new(run.join("checkpoints"), "step-", NonZeroUsize::new(9).unwrap());
    let published = rolling.publish(11, |folder| {
        for file in &FILES[..5] {
            let bytes = replaced.iter().find(|(name, _)| name == file).map(|(_, bytes)| bytes.clone());
            let bytes = bytes.unwrap_or_else(|| fs::read(checkpoint(run, 10).join(file)).unwrap());
            folder.write(file, |out| out.write_all(&bytes))?;
        }
        Ok(())
    });
    assert!(published.unwrap().not_removed.is_none());
}

fn tensors(named: &[(&str, &[f32])]) -> Vec<u8> {
    let mut writer = TensorWriter::new();
    for (name, data) in named {
        writer.add(name, &[data.len()], TensorData::F32(data)).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_checkpoint_of_another_shape_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (stopped, ..) = stopped(dir.path());
    let model = Model::load(checkpoint(&stopped, 10)).unwrap();
    let len = model.layout().len();
    let other = smallmind_model::ModelConfig { d_model: 32, head_dim: 16, d_ff: 64, ..model.config().clone() };
    let other = Model::random(other, 1).unwrap();
    let other_weights = || {
        let mut bytes = Vec::new();
        other
            .with_writer(|writer| {
                writer.write_to(&mut bytes).unwrap();
                Ok(())
            })
            .unwrap();
        bytes
    };
    let state = fs::read_to_string(checkpoint(&stopped, 10).join("trainer.json")).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(state.contains(from), "{from} in {state}");
        state.replacen(from, to, 1).into_bytes()
    };
    let (short, nan) = (vec![0.0; len - 1], vec![f32::NAN; len]);
    let zero = vec![0.0; len];
    let cases: Vec<(&str, Vec<Replaced>, &str)> = vec![
        ("weights", vec![(WEIGHTS_FILE, other_weights())], "shape"),
        (
            "weights and their config",
            vec![(WEIGHTS_FILE, other_weights()), (CONFIG_FILE, other.config_bytes().unwrap())],
            "shape",
        ),
        ("settings", vec![("trainer.json", changed("\"d_model\": 16", "\"d_model\": 32"))], "shape"),
        (
            "short moments",
            vec![("trainer.safetensors", tensors(&[("moment1", &short), ("moment2", &zero)]))],
            "moment1",
        ),
        ("one moment", vec![("trainer.safetensors", tensors(&[("moment1", &zero)]))], "moment2"),
        ("NaN moments", vec![("trainer.safetensors", tensors(&[("moment1", &zero), ("moment2", &nan)]))], "moment2"),
        ("no tensors", vec![("trainer.safetensors", b"nonsense".to_vec())], "trainer.safetensors"),
        ("no JSON", vec![("trainer.json", b"nonsense".to_vec())], "trainer.json"),
        (
            "a version to come",
            vec![("trainer.json", changed("\"schema_version\": 1", "\"schema_version\": 2"))],
            "version",
        ),
        ("a setting that is none", vec![("trainer.json", changed("\"batch\": 2", "\"batch\": -2"))], "trainer.json"),
    ];
    for (what, replaced, names) in cases {
        let run = dir.path().join("forged");
        copy(&stopped, &run);
        forge(&run, &replaced);
        // What is beside the checkpoint would be found to differ first.
        fs::remove_file(run.join("train.toml")).unwrap();
        fs::remove_file(run.join("config.json")).unwrap();
        let error =
            Trainer::resume(&run, &[], 1, IsaKind::best()).err().unwrap_or_else(|| panic!("{what} was accepted"));
        assert_eq!(error.class(), ErrorClass::BadFile, "{what}: {error}");
        let message = error.to_string();
        assert!(message.contains(names) && message.contains("step-00000011"), "{what}: {message}");
        fs::remove_dir_all(&run).unwrap();
    }
}

#[test]
fn files_of_the_model_that_are_missing_are_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = tiny(&["train.steps=12", "eval.interval=4"]);
    let run = dir.path().join("run");
    finish(&mut begin(dir.path(), "run", &config, 1).unwrap());
    let all = [WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE];
    let read = || all.map(|name| fs::read(run.join(name)).unwrap());
    let before = read();
    for name in all {
        fs::remove_file(run.join(name)).unwrap();
        let (_, events) = finish(&mut resume(&run, 1));
        assert!(warnings(&events).iter().any(|w| w.contains(name) && w.contains("step 12")), "{events:?}");
        // The last model was the best one.
        assert!(read() == before, "{name}");
    }
}

/// The model in a run's folder is the best one, which no checkpoint may hold any more.
#[test]
fn weights_that_are_whole_stay_whatever_became_of_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    finish(
        &mut begin(dir.path(), "run", &tiny(&["train.steps=12", "eval.interval=4", "checkpoint.interval=4"]), 1)
            .unwrap(),
    );
    let best = fs::read(checkpoint(&run, 8).join(WEIGHTS_FILE)).unwrap();
    let config = fs::read(run.join(CONFIG_FILE)).unwrap();
    fs::write(run.join(WEIGHTS_FILE), &best).unwrap();
    let damages: [&dyn Fn(); 3] = [
        &|| fs::write(run.join("generation_config.json"), "{").unwrap(),
        &|| fs::remove_file(run.join(CONFIG_FILE)).unwrap(),
        &|| fs::write(run.join(CONFIG_FILE), "{\"model_type\"").unwrap(),
    ];
    for damage in damages {
        damage();
        let (_, events) = finish(&mut resume(&run, 1));
        assert!(fs::read(run.join(WEIGHTS_FILE)).unwrap() == best, "{events:?}");
        assert!(fs::read(run.join(CONFIG_FILE)).unwrap() == config);
        assert!(warnings(&events).iter().all(|w| w.contains(CONFIG_FILE)), "{events:?}");
    }
    // Of other weights it is told that the best are lost.
    let others: [&dyn Fn(); 2] = [&|| fs::write(run.join(WEIGHTS_FILE), &best[..best.len() - 1]).unwrap(), &|| {
        fs::write(run.join(WEIGHTS_FILE), tensors(&[("other", &[1.0])])).unwrap()
    }];
    for damage in others {
        damage();
        let (_, events) = finish(&mut resume(&run, 1));
        assert!(warnings(&events).iter().any(|w| w.contains(WEIGHTS_FILE) && w.contains("is lost")), "{events:?}");
        let last = fs::read(checkpoint(&run, 12).join(WEIGHTS_FILE)).unwrap();
        assert!(fs::read(run.join(WEIGHTS_FILE)).unwrap() == last);
    }
}
