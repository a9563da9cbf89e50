//! Training from text to a model, going on with it, and the quick start.

use serde_json::Value;

use crate::support::Bench;

/// The events of one kind.
fn of_kind<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

#[test]
fn events_are_lines_of_json() {
    let bench = Bench::with_text();
    let events =
        bench.train("run", "--json --log.interval=2 --eval.interval=3 --sample.interval=3 --sample.tokens=5").events();
    assert_eq!(events[0]["event"], "started");
    assert_eq!(events[0]["steps"], 6);
    let steps = of_kind(&events, "step");
    assert_eq!(steps.iter().map(|step| step["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4, 6]);
    for step in steps {
        for field in ["loss", "lr", "grad_norm", "tokens_per_second"] {
            assert!(step[field].as_f64().is_some_and(|x| x > 0.0), "{field} in {step}");
        }
    }
    let evals = of_kind(&events, "eval");
    assert_eq!(evals.iter().map(|eval| eval["step"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 6]);
    assert!(evals.iter().all(|eval| eval["val_loss"].is_f64() && eval["bits_per_byte"].is_f64()));
    let samples = of_kind(&events, "sample");
    assert_eq!(samples.iter().map(|sample| sample["step"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 6]);
    let done = events.last().unwrap();
    assert_eq!((&done["event"], &done["steps"], &done["finish"]), (&"done".into(), &6.into(), &"completed".into()));
    assert!(done["val_loss"].is_f64() && done["full_val_loss"].is_f64() && done["seconds"].is_f64());
    assert!(bench.path(done["checkpoint"].as_str().unwrap()).join("manifest.json").is_file());
}

#[test]
fn a_run_is_a_model_for_every_verb() {
    let bench = Bench::with_text();
    let ran = bench.train("run", "--eval.interval=0 --compile=True --device=cuda");
    assert!(ran.stderr.contains("--compile=True") && ran.stderr.contains("--device=cuda"), "{ran:#?}");
    assert!(ran.stderr.contains("step") && ran.stderr.contains("next:"), "{ran:#?}");
    let summary = ran.ok();
    for word in ["validation loss", "bits a byte", "tokens/s", "run/checkpoints/step-"] {
        assert!(summary.contains(word), "{word} in {summary}");
    }
    for file in ["config.json", "tokenizer.json", "model.safetensors", "train.toml", "log.jsonl", "log.csv"] {
        assert!(bench.path("run").join(file).is_file(), "{file}");
    }
    assert!(bench.run("inspect run").ok().contains("characters"));
    assert_eq!(bench.run("generate -m run -n 7 --json").json()["tokens"], 7);
    let told = bench.run("eval -m run --data text.txt --json").json();
    assert!(told["loss"].as_f64().unwrap() < 4.0);
    assert!(!bench.run("tokenize -m run text.txt").ok().is_empty());
}

#[test]
fn a_run_is_not_overwritten_unless_asked() {
    let bench = Bench::with_text();
    bench.train("run", "").ok();
    let model = || std::fs::read(bench.path("run/model.safetensors")).unwrap();
    let before = model();
    bench.train("run", "--seed 3").fails(2, &["run", "--resume"]);
    assert_eq!(model(), before);
    bench.run("quickstart --out run").fails(2, &["run", "--resume"]);
    // What fails must not cost the old run.
    bench.train("run", "--overwrite --block_size=4096").fails(3, &["context 4096"]);
    assert_eq!(model(), before);
    bench.train("run", "--overwrite --seed 3").ok();
    assert_ne!(model(), before);
    let left: Vec<_> = std::fs::read_dir(bench.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| ["run", "text.txt"].iter().any(|known| name == known)), "{left:?}");
}

#[test]
fn a_run_goes_on_and_comes_to_the_same() {
    let bench = Bench::with_text();
    let losses = |events: &[Value]| of_kind(events, "step").iter().map(|step| step["loss"].clone()).collect::<Vec<_>>();
    let whole = "--json --log.interval=1 --train.decay_steps=9 --max_iters=9";
    let at_once = losses(&bench.train("once", whole).events());

    let half = "--json --log.interval=1 --train.decay_steps=9 --max_iters=5";
    let mut in_parts = losses(&bench.train("parts", half).events());
    let events = bench.run("train --out parts --resume --json --threads 2 --max_iters=9").events();
    assert_eq!(of_kind(&events, "started")[0]["resumed_from"], 5);
    in_parts.extend(losses(&events));
    assert_eq!(in_parts, at_once);
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    for file in ["model.safetensors", "trainer.safetensors"] {
        let name = |run: &str| format!("{run}/checkpoints/step-00000009/{file}");
        assert_eq!(read(&name("parts")), read(&name("once")), "{file}");
    }
    // The command that began it goes on with it, too.
    let again = bench.train("parts", "--resume --train.decay_steps=9 --max_iters=10");
    assert!(again.stderr.contains("--data"), "{again:#?}");
    again.ok();
}

#[test]
fn what_is_fixed_stays_fixed() {
    let bench = Bench::with_text();
    bench.train("run", "").ok();
    for (setting, name) in
        [("--n_layer=2", "model.layers"), ("--learning_rate=1", "train.lr"), ("--seed 4", "train.seed")]
    {
        bench.run(&format!("train --out run --resume {setting}")).fails(2, &[name, "fixed"]);
    }
    bench.run("train --out run --resume --overwrite").fails(2, &["--overwrite"]);
}

#[test]
fn bytes_pairs_and_ready_tokenizers() {
    let bench = Bench::with_text();
    let trained = bench.train("pairs", "--data.tokenizer=bpe --data.vocab_size=270");
    // The token that begins texts stands nowhere in one undivided text.
    let hint = trained.stderr.lines().find(|line| line.contains("generate -m pairs -p '")).unwrap();
    assert!(hint.ends_with("' -n 200"), "{hint}");
    trained.ok();
    assert!(bench.run("inspect pairs").ok().contains("byte-level BPE"));
    bench.train("ready", "--data.tokenizer=pairs/tokenizer.json").ok();
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("ready/tokenizer.json"), read("pairs/tokenizer.json"));
    bench.train("no", "--data.tokenizer=missing.json").fails(3, &["missing.json"]);
    bench.train("no", "--data.tokenizer=bpe --data.vocab_size=20").fails(2, &["257"]);
    assert!(!bench.path("no").exists());
}

#[test]
fn nanogpts_command_line_ports_by_copying() {
    let bench = Bench::with_text();
    let line = "train --preset nanogpt-cpu --data text.txt --threads 1 --out_dir=run --device=cpu --compile=False --eval_iters=1 \
                --log_interval=1 --block_size=16 --batch_size=2 --n_layer=1 --n_head=2 --n_embd=16 --max_iters=3 \
                --lr_decay_iters=3 --dropout=0.0 --gradient_accumulation_steps=2 --bias=True --json";
    let events = bench.run(line).events();
    let started = of_kind(&events, "started")[0];
    assert_eq!((&started["tokens_per_step"], &started["steps"]), (&64.into(), &3.into()));
    bench.run("train --init_from=resume --out_dir=run --eval_only=True").fails(2, &["smallmind eval"]);
}

#[test]
fn the_quick_start_tells_three_stories() {
    let bench = Bench::new();
    let ran = bench.run("quickstart --steps 3 --text 60000");
    assert!(ran.stderr.contains("next:") && ran.stderr.contains("generate -m smallmind-quickstart"), "{ran:#?}");
    assert!(!ran.ok().is_empty());
    assert!(bench.path("smallmind-quickstart/model.safetensors").is_file());
}
