//! Training that begins with a model.

use std::fs;

use serde_json::Value;

use crate::support::Bench;

const BRIEF: &str = "--threads 1 --batch_size=2 --eval_iters=1 --max_iters=4 --warmup_iters=1 --log_interval=1";

/// A folder with `text.txt` and a trained model `first`.
fn bench() -> Bench {
    let bench = Bench::with_text();
    // In a GGUF file each GPT-2 has biases.
    bench.train("first", "--bias=True").ok();
    bench
}

fn losses(events: &[Value]) -> Vec<f64> {
    let steps = events.iter().filter(|event| event["event"] == "step");
    steps.map(|step| step["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_run_begins_with_a_model_and_needs_it_no_more() {
    let bench = bench();
    bench.run("convert -m first --out first.gguf").ok();
    let line = |model: &str, out: &str| format!("train --init-from {model} --data text.txt --out {out} {BRIEF} --json");
    let of_run = losses(&bench.run(&line("first", "second")).events());
    assert_eq!(losses(&bench.run(&line("first.gguf", "third")).events()), of_run);
    // It has learnt something already: random weights have a loss of more than 2.8.
    assert!(of_run[0] < 2.8, "{of_run:?}");
    for name in ["first", "first.gguf"] {
        let path = bench.path(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    let config: Value = serde_json::from_slice(&fs::read(bench.path("second/config.json")).unwrap()).unwrap();
    assert_eq!((&config["n_embd"], &config["n_positions"]), (&16.into(), &16.into()));
    for (name, model) in [("second", "first"), ("third", "first.gguf")] {
        // The command that began it goes on with it, too.
        let events = bench.run(&format!("{} --resume --max_iters=6", line(model, name))).events();
        assert_eq!(losses(&events).len(), 2);
        assert_eq!(bench.run(&format!("generate -m {name} -n 7 --json")).json()["tokens"], 7);
        assert!(bench.run(&format!("eval -m {name} --data text.txt --json")).json()["loss"].is_f64());
        bench.run(&format!("convert -m {name} --out {name}.again.gguf")).ok();
        bench.run(&format!("train --out {name} --resume --init-from other")).fails(2, &["--init-from=other", "fixed"]);
    }
}

#[test]
fn a_file_may_name_the_model_and_sequences_may_be_shorter() {
    let bench = bench();
    bench.write("settings.toml", "[model]\ninit_from = \"first\"\ncontext = 8\n");
    let line = format!("train --config settings.toml --data text.txt --out second {BRIEF} --json");
    assert_eq!(bench.run(&line).events()[0]["tokens_per_step"], 16);
    assert!(bench.run("inspect second --json").json()["config"]["n_positions"] == 16);
}

#[test]
fn models_that_can_not_be_begun_with_are_refused() {
    let bench = bench();
    let with = |more: &str| bench.run(&format!("train --data text.txt --out second {BRIEF} {more}"));
    with("--init-from nothing").fails(3, &["nothing", "no such folder"]);
    with("--init-from nothing.gguf").fails(3, &["nothing.gguf", "no such file"]);
    with("--init-from hf:nobody/nothing").fails(3, &["nobody/nothing", "pull"]);
    with("--init-from first --n_layer=1").fails(2, &["--n_layer=1", "`model.layers`", "of its own"]);
    with("--init-from first --preset quickstart").fails(2, &["model.preset", "of its own"]);
    with("--init-from first --block_size=17").fails(2, &["--block_size=17", "at most 16"]);
    let ran = with("--init_from=gpt2-xl");
    assert!(ran.stderr.contains("the model hf:openai-community/gpt2-xl is read") && !ran.stderr.contains('…'));
    ran.fails(3, &["hf:openai-community/gpt2-xl", "pull"]);
    bench.write("foreign.txt", "é".repeat(3000));
    bench.run(&format!("train --init-from first --data foreign.txt --out second {BRIEF}")).fails(3, &["é"]);
    fs::create_dir(bench.path("bare")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(bench.path("first").join(file), bench.path("bare").join(file)).unwrap();
    }
    with("--init-from bare").fails(3, &["bare", "tokenizer"]);
    let experts = format!("{}/../train/tests/goldens/tiny-mixtral", env!("CARGO_MANIFEST_DIR"));
    with(&format!("--init-from {experts}")).fails(2, &["mixtures of experts can't be trained", "llama"]);
    assert!(!bench.path("second").exists());
    bench.run(&format!("train --init-from first --data text.txt --out first {BRIEF}")).fails(2, &["a run"]);
    fs::create_dir(bench.path("taken")).unwrap();
    bench.write("taken/notes.txt", "mine");
    bench.run(&format!("train --init-from first --data text.txt --out taken {BRIEF}")).fails(2, &["notes.txt"]);
}
