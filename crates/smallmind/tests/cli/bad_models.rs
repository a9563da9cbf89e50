//! Folders and files that are no models, or damaged ones.

use std::fs;
use std::path::PathBuf;

use crate::support::{Bench, Ran, TINY};

/// A run with two checkpoints, after 3 and 6 steps.
fn run_with_two_checkpoints() -> Bench {
    let bench = Bench::with_text();
    bench.train("run", "--checkpoint.interval=3").ok();
    bench
}

fn checkpoint(bench: &Bench, step: u32, file: &str) -> PathBuf {
    bench.path(format!("run/checkpoints/step-{step:08}/{file}"))
}

fn cut_short(path: PathBuf) {
    let bytes = fs::read(&path).unwrap();
    fs::write(path, &bytes[..bytes.len() * 2 / 3]).unwrap();
}

fn flip_a_byte(path: PathBuf) {
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 5;
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The run goes on after step 3, saying that the checkpoint after step 6 is damaged.
#[track_caller]
fn falls_back(bench: &Bench) {
    let ran: Ran = bench.run("train --out run --resume --json --threads 1");
    assert!(ran.stderr.contains("warning: ") && ran.stderr.contains("step-00000006"), "{ran:#?}");
    let events = ran.events();
    let started = events.iter().find(|event| event["event"] == "started").unwrap();
    assert_eq!(started["resumed_from"], 3);
    assert_eq!(events.last().unwrap()["steps"], 6);
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    for file in ["model.safetensors", "trainer.safetensors", "trainer.json", "config.json"] {
        let bench = run_with_two_checkpoints();
        cut_short(checkpoint(&bench, 6, file));
        falls_back(&bench);
        flip_a_byte(checkpoint(&bench, 6, file));
        falls_back(&bench);
        fs::remove_file(checkpoint(&bench, 6, file)).unwrap();
        falls_back(&bench);
    }
}

#[test]
fn no_whole_checkpoint_is_an_error() {
    let bench = run_with_two_checkpoints();
    flip_a_byte(checkpoint(&bench, 3, "model.safetensors"));
    flip_a_byte(checkpoint(&bench, 6, "model.safetensors"));
    bench.run("train --out run --resume").fails(3, &["step-00000003", "step-00000006", "damaged"]);
}

#[test]
fn what_is_no_run_cannot_go_on() {
    let bench = Bench::with_text();
    bench.run("train --out nothing --resume").fails(3, &["nothing", "no such folder"]);
    fs::create_dir_all(bench.path("empty")).unwrap();
    bench.run("train --out empty --resume").fails(3, &["empty", "checkpoints"]);
    fs::create_dir_all(bench.path("empty/checkpoints")).unwrap();
    bench.run("train --out empty --resume").fails(3, &["empty", "checkpoint"]);
    bench.run("train --out text.txt --resume").fails(3, &["text.txt"]);
    bench.train("run", "").ok();
    fs::remove_file(bench.path("run/data/manifest.json")).unwrap();
    let missing = "put them back from a copy, or train a new run";
    bench.run("train --out run --resume").fails(3, &["run/data/manifest.json", "token shards", missing]);
    fs::remove_dir_all(bench.path("run/data")).unwrap();
    bench.run("train --out run --resume").fails(3, &["run/data: ", "token shards", missing]);
}

#[test]
fn data_of_another_run_is_refused() {
    let bench = run_with_two_checkpoints();
    let shard = bench.path("run/data/train-00000.bin");
    flip_a_byte(shard.clone());
    bench.run("train --out run --resume").fails(3, &["train-00000.bin"]);
    cut_short(shard.clone());
    bench.run("train --out run --resume").fails(3, &["train-00000.bin"]);
    fs::remove_file(shard).unwrap();
    bench.run("train --out run --resume").fails(3, &["train-00000.bin", "put them back from a copy"]);
}

#[test]
fn folders_without_a_model_are_named() {
    let bench = Bench::with_text();
    fs::create_dir_all(bench.path("empty")).unwrap();
    for verb in ["generate", "eval --data text.txt", "tokenize"] {
        bench.run(&format!("{verb} -m missing")).fails(3, &["missing"]);
        bench.run(&format!("{verb} -m empty")).fails(3, &["empty"]);
        bench.run(&format!("{verb} -m model.gguf")).fails(3, &["model.gguf", "there is no such"]);
    }
    bench.run("inspect missing").fails(3, &["missing"]);
    bench.run("inspect text.txt").fails(3, &["text.txt"]);
    bench.run("new --preset quickstart --out x.gguf").fails(2, &["GGUF"]);
    bench.run("new --preset quickstat --out x").fails(2, &["quickstart"]);
}

#[test]
fn files_that_are_no_models_say_what_a_model_is() {
    let bench = Bench::with_text();
    bench.random_model();
    bench.run("convert -m model --out model.gguf").ok();
    bench.write("empty.txt", "");
    bench.write("empty.gguf", "");
    bench.write("other.gguf", "text that is none");
    let what = "a folder with config.json and model.safetensors, a GGUF file, or hf:OWNER/NAME";
    for (path, words) in [
        ("text.txt", [what, "this is no model"]),
        ("missing", [what, "there is no such folder"]),
        ("empty.txt", [what, "the file is empty"]),
        ("empty.gguf", [what, "the file is empty"]),
        ("other.gguf", ["this is not a GGUF file", "starts with \"text\""]),
        ("model/model.safetensors", ["a file of a model", "name its folder, model"]),
        ("model/config.json", ["a file of a model", "name its folder, model"]),
    ] {
        for verb in ["generate -m", "eval --data text.txt -m", "inspect", "convert --out x.gguf -m"] {
            bench.run(&format!("{verb} {path}")).fails(3, &[&[path, words[0]], &words[1..]].concat());
        }
    }
    // A GGUF file is known by its content, too.
    fs::copy(bench.path("model.gguf"), bench.path("blob")).unwrap();
    let text = bench.run("generate -m model -p the -n 4 --temp 0 --threads 1").ok();
    assert_eq!(bench.run("generate -m blob -p the -n 4 --temp 0 --threads 1").ok(), text);
    bench.run("inspect blob").ok();
    // And says that it has no tokenizer, without a word about files that it can't have.
    fs::remove_file(bench.path("model/tokenizer.json")).unwrap();
    bench.run("convert -m model --out bare.gguf").ok();
    let ran = bench.run("generate -m bare.gguf -p the");
    assert!(!ran.stderr.contains("tokenizer.json"), "{ran:#?}");
    ran.fails(3, &["bare.gguf", "no tokenizer in this GGUF file"]);
}

/// A file and a folder that only their owner may read. The user who runs these tests may be root, who may read them.
#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_not_said_to_be_missing() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::with_text();
    bench.random_model();
    bench.run("convert -m model --out model.gguf").ok();
    for path in ["model.gguf", "model"] {
        fs::set_permissions(bench.path(path), fs::Permissions::from_mode(0o0)).unwrap();
        if fs::read_dir(bench.path(path)).is_err() && fs::read(bench.path(path)).is_err() {
            bench.run(&format!("generate -m {path} -p the")).fails(3, &[path, "ermission denied"]);
        }
        fs::set_permissions(bench.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn damaged_models_are_named() {
    let bench = Bench::with_text();
    bench.random_model();
    let weights = bench.path("model/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let generate = |bench: &Bench| bench.run("generate -m model -n 5");

    fs::write(&weights, &whole[..whole.len() - 100]).unwrap();
    generate(&bench).fails(3, &["model.safetensors"]);
    let mut flipped = whole.clone();
    flipped[20] ^= 0x80;
    fs::write(&weights, &flipped).unwrap();
    generate(&bench).fails(3, &["model.safetensors"]);
    let mut infinite = whole.clone();
    let end = infinite.len();
    infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&weights, &infinite).unwrap();
    generate(&bench).fails(3, &["model.safetensors", "tensor"]);
    fs::write(&weights, &whole).unwrap();

    let config = bench.path("model/config.json");
    let text = fs::read_to_string(&config).unwrap();
    for (from, to, words) in [
        ("\"n_embd\": 128", "\"n_embd\": 64", &["shape", "transformer"] as &[&str]),
        ("\"n_head\": 4", "\"n_head\": 3", &["config.json", "evenly"]),
        ("\"n_layer\": 4", "\"n_layer\": 0", &["config.json", "n_layer"]),
        ("\"n_layer\": 4", "\"n_layer\": 5", &["transformer.h.4"]),
        ("\"n_layer\": 4", "\"n_layer\": \"four\"", &["config.json", "n_layer"]),
        ("\"gpt2\"", "\"gpt5\"", &["config.json", "gpt5"]),
        ("{", "", &["config.json", "line"]),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&config, text.replacen(from, to, 1)).unwrap();
        generate(&bench).fails(3, words);
    }
    fs::write(&config, &text).unwrap();
    fs::write(bench.path("model/tokenizer.json"), "{}").unwrap();
    generate(&bench).fails(3, &["tokenizer.json"]);
    fs::remove_file(bench.path("model/tokenizer.json")).unwrap();
    generate(&bench).fails(3, &["tokenizer.json"]);
}

#[test]
fn a_run_without_a_model_of_its_own_has_checkpoints() {
    let bench = run_with_two_checkpoints();
    for file in ["config.json", "model.safetensors"] {
        fs::remove_file(bench.path("run").join(file)).unwrap();
    }
    let ran = bench.run("generate -m run -n 5 --json");
    assert!(ran.stderr.contains("checkpoint"), "{ran:#?}");
    assert_eq!(ran.json()["tokens"], 5);
}

#[test]
fn the_leavings_of_a_training_that_never_began_make_room() {
    let bench = Bench::with_text();
    for name in ["run/train.lock", "run/.tmp-new-run/tokenizer.json", "run/.tmp-new-run/data/train-00000.bin"] {
        fs::create_dir_all(bench.path(name).parent().unwrap()).unwrap();
        bench.write(name, "");
    }
    bench.run("train --out run --resume").fails(3, &["run"]);
    bench.run(&format!("train --data text.txt --out run {TINY}")).ok();
    assert!(!bench.path("run/.tmp-new-run").exists());
}
