//! Options, variables, files of settings, and mistakes in them.

use crate::support::Bench;

#[test]
fn help_and_version_are_answers() {
    let bench = Bench::new();
    for verb in [
        "",
        "quickstart",
        "train",
        "eval",
        "generate",
        "tokenize",
        "tokenizer",
        "new",
        "inspect",
        "pull",
        "models",
        "doctor",
        "profile",
    ] {
        let help = bench.run(&format!("{verb} --help")).ok();
        assert!(help.contains("Usage: smallmind"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
    }
    assert!(bench.run("--version").ok().starts_with("smallmind "));
    let help = bench.run("train --help").ok();
    for name in ["train.lr", "n_layer", "nanogpt-cpu", "--resume"] {
        assert!(help.contains(name), "{name} in {help}");
    }
}

#[test]
fn wrong_usage_ends_with_two_and_suggests() {
    let bench = Bench::new();
    let ran = bench.run("");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    bench.run("generat").fails(2, &["'generate'"]);
    bench.run("generate --modle x").fails(2, &["--model"]);
    bench.run("doctor --threads 0").fails(2, &["--threads"]);
    bench.run("doctor --threads many").fails(2, &["--threads"]);
    for (line, flag, range) in [
        ("generate -m x -n -1", "--tokens", "0 or more"),
        ("generate -m x --context abc", "--context", "0 or more"),
        ("quickstart --seconds 0", "--seconds", "from 1 to 86400"),
        ("quickstart --steps -3", "--steps", "from 1 up"),
        ("quickstart --text 1e6", "--text", "0 or more"),
        ("bench kernels --threads -1", "--threads", "from 1 to 1024"),
    ] {
        bench.run(line).fails(2, &[flag, "it must be a whole number", range]);
    }
    bench.run("generate -m x --stop=").fails(2, &["--stop", "at least one character"]);
    bench.run("train --data x --out y --seed 3 --train.seed=4").fails(2, &["--seed and --train.seed"]);
    bench.run("eval -m x").fails(2, &["--data"]);
    bench.run("train --out x").fails(2, &["--data"]);
    bench.run("train --data x").fails(2, &["--out"]);
}

#[test]
fn mistakes_in_settings_are_named_with_the_nearest_name() {
    let bench = Bench::with_text();
    for (mistake, near) in [
        ("--n_layers=4", "--n_layer"),
        ("--train.lrr=1", "train.lr"),
        ("--max_iter=4", "--max_iters"),
        ("--outt=y", "--out"),
        ("--trian.lr=1", "train.lr"),
    ] {
        bench.run(&format!("train --data text.txt --out run {mistake}")).fails(2, &[near]);
    }
    bench.run("train --data text.txt --out run --n_layer").fails(2, &["--n_layer=VALUE"]);
    assert!(!bench.path("run").exists());
}

#[test]
fn settings_that_make_no_model_are_refused() {
    let bench = Bench::with_text();
    for (setting, word) in [
        ("--n_head=3", "evenly"),
        ("--n_layer=0", "layers"),
        ("--n_embd=0", "d_model"),
        ("--block_size=0", "context"),
        ("--batch_size=0", "train.batch"),
        ("--max_iters=0", "train.steps"),
        ("--learning_rate=fast", "train.lr"),
        ("--dropout=1.5", "dropout"),
        ("--train.schedule=zigzag", "train.schedule"),
        ("--train.total_tokens=33", "train.total_tokens"),
        ("--data.validation=1", "data.validation"),
        ("--model.family=gpt5", "model.family"),
    ] {
        bench.train("run", setting).fails(2, &[word]);
    }
    bench.run("train --data text.txt --out run --preset nanogtp-cpu").fails(2, &["nanogpt-cpu"]);
    assert!(!bench.path("run").exists());
}

#[test]
fn files_of_settings_are_checked() {
    let bench = Bench::with_text();
    for (toml, code, words) in [
        ("[train]\nlearning_rat = 1.0\n", 2, &["settings.toml", "learning_rat"] as &[&str]),
        ("[trian]\nlr = 1.0\n", 2, &["settings.toml", "trian"]),
        ("[train]\nsteps = 1\nstps = 2\n", 2, &["train.stps", "train.steps"]),
        ("[train]\nsteps = \"many\"\n", 2, &["settings.toml", "train.steps"]),
        ("[train\nsteps = 1\n", 2, &["settings.toml", "line 1"]),
        ("steps = 1\n", 2, &["settings.toml", "steps"]),
    ] {
        bench.write("settings.toml", toml);
        bench.train("run", "--config settings.toml").fails(code, words);
    }
    bench.train("run", "--config missing.toml").fails(3, &["missing.toml"]);
}

#[test]
fn a_flag_beats_a_variable_beats_a_file() {
    let bench = Bench::with_text();
    let threads = |line: &str, variable: &str| {
        let output = bench.command(line).env("SMALLMIND_THREADS", variable).output().unwrap();
        crate::support::Ran::of(output).json()["threads"]["chosen"].as_u64()
    };
    assert_eq!(threads("doctor --json", "3"), Some(3));
    assert_eq!(threads("doctor --json --threads 2", "3"), Some(2));
    assert_eq!(threads("--threads 2 --json doctor", "3"), Some(2));

    bench.write("settings.toml", "[train]\nsteps = 3\n[log]\ninterval = 1\n");
    let line = "train --data text.txt --out run --json --threads 1 --data.tokenizer=characters --n_layer=1 --n_head=2 --n_embd=16 \
                --block_size=16 --batch_size=2 --eval_iters=1 --config settings.toml";
    let steps = |line: &str, variable: Option<&str>| {
        let mut command = bench.command(line);
        variable.map(|steps| command.env("SMALLMIND_TRAIN_STEPS", steps));
        let events = crate::support::Ran::of(command.output().unwrap()).events();
        events.last().unwrap()["steps"].as_u64().unwrap()
    };
    assert_eq!(steps(line, None), 3);
    assert_eq!(steps(&format!("{line} --overwrite"), Some("4")), 4);
    assert_eq!(steps(&format!("{line} --overwrite --train.steps=5"), Some("4")), 5);
}

#[test]
fn instruction_sets_are_chosen_by_name() {
    let bench = Bench::new();
    let run = |name: &str| {
        crate::support::Ran::of(bench.command("doctor --json").env("SMALLMIND_ISA", name).output().unwrap())
    };
    assert_eq!(run("scalar").json()["isa"]["chosen"], "scalar");
    run("sse9").fails(2, &["sse9", "scalar"]);
}

#[test]
fn doctor_tells_of_the_machine() {
    let bench = Bench::new();
    let report = bench.run("doctor --json").json();
    assert!(report["threads"]["chosen"].as_u64() >= Some(1));
    assert!(report["cpus_usable"].as_u64() >= Some(1));
    assert!(report["isa"]["available"].as_array().unwrap().contains(&"scalar".into()));
    assert_eq!(report["machine"]["architecture"], std::env::consts::ARCH);
    let text = bench.run("doctor").ok();
    assert!(["CPU", "instructions", "memory", "threads"].iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn shells_get_completions() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = bench.run(&format!("completions {shell}")).ok();
        assert!(script.contains("quickstart") && script.contains("train.lr"), "{shell}");
    }
    bench.run("completions csh").fails(2, &["bash"]);
}

#[test]
fn tips_for_what_is_nearly_right() {
    let bench = Bench::with_text();
    bench.random_model();
    for line in ["generate model -p x", "eval model --data text.txt", "quantize model --format q8_0 --out x.gguf"] {
        bench.run(line).fails(2, &["unexpected argument 'model'", "a model is named by '-m model'"]);
    }
    let ran = bench.run("generate -m model extra -p x");
    assert!(!ran.stderr.contains("a model is named"), "{ran:#?}");
    assert_eq!(bench.run("inspect -m model").ok(), bench.run("inspect model").ok());
    bench.run("inspect -m model model").fails(2, &["cannot be used with"]);
    let help = bench.run("inspect --help").ok();
    assert!(!help.contains("--model"), "{help}");
    bench.run("generate -m model -p the -n 2 --weights Q8_0 --threads 1").ok();
    let mix = "Q4_K_M is a mix of formats for a file, which 'quantize --format Q4_K_M' writes";
    bench.run("generate -m model -p the --weights q4_k_m").fails(2, &["q4_k_m", mix]);
}
