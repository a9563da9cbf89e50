//! Settings and variables: nanoGPT's command line, seeds, what errors call them; text from standard input.

use std::fs;

use crate::support::{Bench, Ran, TINY};

/// The program with one variable set.
fn with_variable(bench: &Bench, line: &str, name: &str, value: &str) -> Ran {
    Ran::of(bench.command(line).env(name, value).output().expect("the program starts"))
}

/// Every name of nanoGPT's `train.py`, with values for a model that trains in no time.
const NANOGPT: &str = "--out_dir=run --eval_interval=0 --log_interval=1 --eval_iters=1 --eval_only=False --always_save_checkpoint=False \
    --init_from=scratch --wandb_log=True --wandb_project=owt --wandb_run_name=gpt2 --dataset=shakespeare_char \
    --gradient_accumulation_steps=1 --batch_size=2 --block_size=16 --n_layer=1 --n_head=2 --n_embd=16 --dropout=0.0 \
    --bias=False \
    --learning_rate=3e-5 --max_iters=2 --weight_decay=1e-1 --beta1=0.9 --beta2=0.95 --grad_clip=1.0 --decay_lr=True \
    --warmup_iters=1 --lr_decay_iters=2 --backend=nccl --device=cpu --dtype=float32 --compile=False";

#[test]
fn every_name_of_nanogpt_is_obeyed_or_told() {
    let bench = Bench::with_text();
    let ran = bench.run(&format!("train --data text.txt --threads 1 --data.tokenizer=characters {NANOGPT}"));
    let told = [
        "--always_save_checkpoint=False",
        "--wandb_log=True",
        "--wandb_project=owt",
        "--wandb_run_name=gpt2",
        "--dataset=shakespeare_char",
        "--backend=nccl",
    ];
    for name in NANOGPT.split_whitespace() {
        let note = format!("note: {name} is passed over: ");
        assert_eq!(ran.stderr.contains(&note), told.contains(&name), "{name}: {}", ran.stderr);
    }
    assert!(ran.stderr.contains("note: train.min_lr is"), "{}", ran.stderr);
    ran.ok();
    let written = fs::read_to_string(bench.path("run/train.toml")).unwrap();
    for line in ["schedule = \"cosine\"", "warmup = 1", "beta2 = 0.95", "steps = 2", "decay_steps = 2", "lr = 0.00003"]
    {
        assert!(written.contains(line), "{line} in {written}");
    }
    let min_lr: f64 = written.lines().find_map(|l| l.strip_prefix("min_lr = ")).unwrap().parse().unwrap();
    assert!((min_lr / 3e-6 - 1.0).abs() < 1e-12, "{min_lr}");
    // The same line goes on with it.
    let line = NANOGPT.replace("scratch", "resume").replace("max_iters=2", "max_iters=3");
    bench.run(&format!("train --threads 1 {line}")).ok();
}

#[test]
fn a_constant_rate_is_what_decay_lr_false_asks_for() {
    let bench = Bench::with_text();
    let ran = bench.train("run", "--decay_lr=False --learning_rate=2e-3 --warmup_iters=0 --log_interval=1 --json");
    assert!(ran.stderr.contains("--warmup_iters=0"), "{}", ran.stderr);
    let events = ran.events();
    let rates: Vec<_> = events.iter().filter(|event| event["event"] == "step").map(|event| &event["lr"]).collect();
    assert!(rates.len() == 6 && rates.iter().all(|lr| **lr == 2e-3), "{rates:?}");
}

#[test]
fn what_nanogpt_does_and_this_does_not_is_refused() {
    let bench = Bench::with_text();
    for (setting, words) in [
        ("--init_from=llama", &["--init_from=llama", "--init-from MODEL"] as &[&str]),
        ("--eval_only=True", &["smallmind eval"]),
        ("--decay_lr=maybe", &["--decay_lr=maybe", "True or False"]),
    ] {
        bench.train("run", setting).fails(2, words);
        assert!(!bench.path("run").exists(), "{setting}");
    }
    bench.run("train --dataset=openwebtext --out_dir=run").fails(2, &["--dataset=openwebtext", "--data FILE"]);
    bench.run("train config/train_gpt2.py --wandb_log=True").fails(2, &["config/train_gpt2.py", "--config FILE"]);
    bench.write("nanogpt.toml", "wandb_log = false\n");
    bench.train("run", "--config nanogpt.toml").fails(2, &["nanogpt.toml", "`wandb_log`", "log.jsonl"]);
}

#[test]
fn seeds_are_of_64_bits_all_the_way() {
    let bench = Bench::with_text();
    let most = u64::MAX.to_string();
    bench.train("run", &format!("--seed {most} --eval.interval=0")).ok();
    assert!(fs::read_to_string(bench.path("run/train.toml")).unwrap().contains(&most));
    let model = |run: &str| fs::read(bench.path(run).join("model.safetensors")).unwrap();
    bench.train("same", &format!("--train.seed={most} --eval.interval=0")).ok();
    assert!(model("same") == model("run"));
    bench.train("other", "--seed 9223372036854775808 --eval.interval=0").ok();
    assert!(model("other") != model("run"));
    bench.run(&format!("train --out run --resume --max_iters=8 --threads 1 --seed {most}")).ok();
    bench.run("train --out run --resume --max_iters=8 --seed 7").fails(2, &["--seed=7: `train.seed`", "fixed"]);
    let ran = with_variable(&bench, "train --out run --resume", "SMALLMIND_SEED", "7");
    ran.fails(2, &["SMALLMIND_SEED=7: `train.seed`", "fixed"]);
    for seed in ["18446744073709551616", "-1", "1.5"] {
        bench.train("no", &format!("--seed {seed}")).fails(2, &["--seed", "whole number", &most]);
        bench.train("no", &format!("--train.seed={seed}")).fails(2, &[&format!("--train.seed={seed}"), &most]);
        with_variable(&bench, "doctor", "SMALLMIND_SEED", seed).fails(2, &["SMALLMIND_SEED=", seed, &most]);
    }
}

#[test]
fn errors_use_the_names_that_were_typed() {
    let bench = Bench::with_text();
    for setting in [
        "--n_layer=four",
        "--train.lr=-0.1",
        "--dropout=-0.1",
        "--sample.temperature=-0.1",
        "--max_iters=1e3",
        "--n_head=3",
    ] {
        let ran = bench.train("run", setting);
        for word in ["usize", "u64", "f32", "invalid type", "expected", "000000149"] {
            assert!(!ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
        ran.fails(2, &[setting]);
    }
    let line = "--data.tokenizer=character";
    bench.train("run", line).fails(2, &[line, "characters", "bpe", "tokenizer.json"]);
    let ran = with_variable(&bench, "train --data text.txt --out run", "SMALLMIND_TRAIN_LR", "fast");
    ran.fails(2, &["SMALLMIND_TRAIN_LR: ", "a finite number", "\"fast\""]);
    assert!(!bench.path("run").exists());
}

#[test]
fn an_empty_variable_is_unset_and_a_bad_one_is_named() {
    let bench = Bench::with_text();
    bench.random_model();
    let variables = ["THREADS", "SEED", "MODEL", "ISA", "BASELINES", "TRAIN_LR", "MODEL_LAYERS", "SAMPLE_PROMPT"];
    let empty = |line: &str| {
        let mut command = bench.command(line);
        for name in variables {
            command.env(format!("SMALLMIND_{name}"), "");
        }
        Ran::of(command.output().unwrap())
    };
    for verb in [
        "doctor",
        "tokenize -m model text.txt",
        "eval -m model --data text.txt",
        "generate -m model -n 1 -p the",
        "inspect model",
        "new --preset nanogpt-cpu --out new",
        "tokenizer train --data text.txt --kind characters --out t.json",
        "bench kernels --list",
        &format!("train --data text.txt --out run {TINY}"),
    ] {
        empty(verb).ok();
    }
    for verb in ["eval --data text.txt", "generate -p the", "tokenize text.txt"] {
        empty(verb).fails(2, &["--model"]);
    }

    for (line, name, value) in [
        ("doctor", "SMALLMIND_THREADS", "many"),
        ("inspect model", "SMALLMIND_THREADS", "0"),
        ("--json tokenize -m model text.txt", "SMALLMIND_THREADS", "-1"),
        ("generate -m model", "SMALLMIND_SEED", "x"),
        ("doctor", "SMALLMIND_ISA", "sse9"),
        ("generate -m model -p the", "SMALLMIND_ISA", " avx2"),
    ] {
        with_variable(&bench, line, name, value).fails(2, &[&format!("{name}={value}: ")]);
    }
    for line in ["eval --data text.txt", "generate -p the", "tokenize text.txt", "profile generate -n 1"] {
        with_variable(&bench, line, "SMALLMIND_MODEL", "nowhere").fails(3, &["SMALLMIND_MODEL: ", "nowhere"]);
    }
    bench.run("eval -m nowhere --data text.txt").fails(3, &["error: nowhere"]);
    let line = "profile diff a b";
    with_variable(&bench, line, "SMALLMIND_BASELINES", "text.txt").fails(2, &["SMALLMIND_BASELINES=text.txt"]);
    // A flag beats a variable, a bad one too, on either side of the verb.
    for line in ["doctor --threads 1 --seed 1", "--threads 1 --seed 1 doctor"] {
        let mut command = bench.command(line);
        command.env("SMALLMIND_THREADS", "many").env("SMALLMIND_SEED", "x");
        Ran::of(command.output().unwrap()).ok();
    }
}

#[test]
fn text_comes_from_standard_input_too() {
    let bench = Bench::with_text();
    let text = fs::read(bench.path("text.txt")).unwrap();
    let train = |data: &str, out: &str| format!("train --data {data} --out {out} {TINY} --eval.interval=0");
    bench.run(&train("text.txt", "file")).ok();
    bench.run_with_input(&train("-", "piped"), &text).ok();
    let model = |run: &str| fs::read(bench.path(run).join("model.safetensors")).unwrap();
    assert!(model("piped") == model("file"));
    let eval =
        |data: &str| bench.run_with_input(&format!("eval -m file --data {data} --json"), &text).json()["loss"].clone();
    assert_eq!(eval("-"), eval("text.txt"));
    for kind in ["characters", "bpe --vocab-size 270"] {
        let learn = |data: &str, out: &str| {
            bench
                .run_with_input(&format!("tokenizer train --kind {kind} --data {data} --out {out} --overwrite"), &text)
                .ok();
            fs::read(bench.path(out)).unwrap()
        };
        assert!(learn("-", "a.json") == learn("text.txt", "b.json"), "{kind}");
    }

    for line in [&train("- text.txt -", "no"), "eval -m file --data - -", "tokenizer train --data - - --out no.json"] {
        bench.run_with_input(line, &text).fails(2, &["standard input", "once"]);
    }
    bench.run_with_input(&train("-", "no"), b"").fails(3, &["standard input"]);
    bench.run_with_input(&train("-", "no"), b"caf\xe9").fails(3, &["standard input", "offset 3"]);
    assert!(!bench.path("no").exists() && !bench.path("no.json").exists());
    // A file of that name has a path.
    bench.write("-", &text);
    bench.run_with_input("tokenizer train --kind characters --data ./- --out c.json", b"").ok();
}

#[test]
fn variables_are_settings() {
    let bench = Bench::with_text();
    let mut command = bench.command(&format!("train --data text.txt --out run {TINY}"));
    command.env("SMALLMIND_SAMPLE_PROMPT", "the").env("SMALLMIND_TRAIN_LR", "0.25").env("SMALLMIND_DATA_TOKENIZER", "");
    Ran::of(command.output().unwrap()).ok();
    let written = fs::read_to_string(bench.path("run/train.toml")).unwrap();
    for line in ["prompt = \"the\"", "\nlr = 0.25"] {
        assert!(written.contains(line), "{line} in {written}");
    }
}

#[test]
fn a_variable_that_is_no_setting_is_named() {
    let bench = Bench::with_text();
    let mut command = bench.command(&format!("train --data text.txt --out run {TINY}"));
    let ran = Ran::of(command.env("SMALLMIND_TRAIN_LRR", "1").output().unwrap());
    assert!(ran.stderr.contains("SMALLMIND_TRAIN_LRR; did you mean SMALLMIND_TRAIN_LR?"), "{ran:#?}");
    ran.ok();
}
