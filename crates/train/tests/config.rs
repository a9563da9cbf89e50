//! Settings: their layers, their names, and what each refuses.

use std::fs;

use smallmind_graph::op::Gelu;
use smallmind_model::{Biases, Family, Head};
use smallmind_train::config::ScheduleKind;
use smallmind_train::{BatchShape, ErrorClass, Layer, TrainConfig, TrainError};

fn layers(assignments: &[&str]) -> Vec<Layer> {
    assignments.iter().map(|text| Layer::assignment(text).unwrap()).collect()
}

fn with(preset: Option<&str>, assignments: &[&str]) -> TrainConfig {
    TrainConfig::layered(preset, &layers(assignments)).unwrap()
}

/// A TOML text as a layer.
fn file_layer(text: &str) -> Result<Layer, TrainError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, text).unwrap();
    Layer::file(&path)
}

#[test]
fn later_layers_win() {
    let file = file_layer("[train]\nlr = 0.5\nsteps = 7\nbatch = 3\n[model]\npreset = \"nanogpt-gpu\"\n").unwrap();
    let environment = Layer { origin: "SMALLMIND_TRAIN_STEPS".into(), ..Layer::assignment("train.steps=8").unwrap() };
    let line = Layer::assignment("train.batch=4").unwrap();
    let layers = [file.clone(), environment, line];
    let config = TrainConfig::layered(None, &layers).unwrap();
    assert_eq!((config.train.lr, config.train.steps, config.train.batch), (0.5, 8, 4));
    // The preset of a layer is what everything else lies on, wherever it stands, and one that is named beside them wins.
    assert_eq!(config.model.preset.as_deref(), Some("nanogpt-gpu"));
    assert_eq!(config.model_config(65).unwrap().d_model, 384);
    let quick = TrainConfig::layered(Some("quickstart"), &layers).unwrap();
    assert_eq!(quick.model.preset.as_deref(), Some("quickstart"));
    assert_eq!(quick.model_config(65).unwrap().family, Family::Llama);
    // In the other order, the other value.
    let reversed = [Layer::assignment("train.steps=9").unwrap(), file];
    assert_eq!(TrainConfig::layered(None, &reversed).unwrap().train.steps, 7);
}

#[test]
fn the_environment_is_a_layer() {
    let name = "SMALLMIND_SAMPLE_PROMPT";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shows_the_environment", "--ignored", "--nocapture"])
        .env(name, "42")
        .env("SMALLMIND_TRAIN_LR", "0.25")
        .env("SMALLMIND_MODEL_LAYERS", "")
        .env("SMALLMIND_DATA_TOKENIZER", "")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("prompt \"42\" lr 0.25"), "{text}");
    assert!(text.contains("from [\"SMALLMIND_TRAIN_LR\", \"SMALLMIND_SAMPLE_PROMPT\"]"), "{text}");
}

/// Not a test: runs in a process whose environment is set.
#[test]
#[ignore = "a part of `the_environment_is_a_layer`"]
fn shows_the_environment() {
    let layers = Layer::environment().unwrap();
    let config = TrainConfig::layered(None, &layers).unwrap();
    println!("\nprompt {:?} lr {}", config.sample.prompt, config.train.lr);
    println!("from {:?}", layers.iter().map(|l| l.origin.as_str()).collect::<Vec<_>>());
}

#[test]
fn values_have_types() {
    let config = with(None, &["train.lr=1", "model.dropout=0"]);
    assert_eq!((config.train.lr, config.model.dropout), (1.0, Some(0.0)));
    let config = with(None, &["sample.prompt=42", "data.tokenizer=true.json", "train.schedule='wsd'"]);
    assert_eq!((config.sample.prompt.as_str(), config.data.tokenizer.as_str()), ("42", "true.json"));
    assert_eq!(config.train.schedule, ScheduleKind::Wsd);
    let prompts = [("sample.prompt= Once \"", " Once \""), ("sample.prompt=\"a=b\"", "a=b"), ("sample.prompt=", "")];
    for (assignment, prompt) in prompts {
        assert_eq!(with(None, &[assignment]).sample.prompt, prompt);
    }
    for truth in ["true", "True"] {
        assert_eq!(with(None, &[&format!("model.biases={truth}")]).model.biases, Some(true));
    }
}

#[test]
fn nanogpts_command_line_is_understood() {
    // As its README has it, for a CPU.
    let line = "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 \
                --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0";
    let arguments: Vec<&str> = line.split_whitespace().map(|a| a.strip_prefix("--").unwrap()).collect();
    assert!(arguments.iter().all(|a| Layer::is_known(a.split('=').next().unwrap())));
    let config = with(Some("nanogpt-cpu"), &arguments);
    assert_eq!((config.eval.batches, config.log.interval), (20, 1));
    assert_eq!((config.train.steps, config.train.decay_steps), (2000, 2000));
    assert_eq!(config.batch_shape().unwrap(), BatchShape { sequences: 12, context: 64 });
    let model = config.model_config(65).unwrap();
    assert_eq!((model.layers, model.heads, model.kv_heads, model.d_model, model.d_ff), (4, 4, 4, 128, 512));
    assert_eq!((model.dropout.embedding, model.dropout.attention, model.dropout.residual), (0.0, 0.0, 0.0));
    // The preset is that very training, so that the line changes no step of it.
    let alone = with(Some("nanogpt-cpu"), &[]);
    assert_eq!(model, alone.model_config(65).unwrap());
    let written_out = smallmind_train::config::TrainSection { decay_steps: 2000, ..alone.train.clone() };
    assert_eq!((&config.train, &config.data), (&written_out, &alone.data));
    assert_eq!(
        (model.family, model.biases, model.head, model.gelu),
        (Family::Gpt2, Biases::Absent, Head::Tied, Gelu::Exact)
    );

    let others = ["learning_rate=1e-3", "min_lr=1e-4", "beta1=0.8", "beta2=0.95", "weight_decay=0.2", "grad_clip=0.5"];
    let more = ["warmup_iters=7", "eval_interval=11", "seed=9", "bias=True", "wandb_log=False", "dtype=float32"];
    let config = with(None, &[others, more].concat());
    let t = &config.train;
    assert_eq!((t.lr, t.min_lr, t.beta1, t.beta2, t.weight_decay, t.clip), (1e-3, 1e-4, 0.8, 0.95, 0.2, 0.5));
    assert_eq!((t.warmup, config.eval.interval, t.seed, config.model.biases), (7, 11, 9, Some(true)));
}

#[test]
fn every_alias_and_key_is_known() {
    for name in TrainConfig::keys().into_iter().chain(TrainConfig::aliases()) {
        assert!(Layer::is_known(name), "{name}");
    }
    // Every field has a key.
    let config = with(
        Some("quickstart"),
        &["dropout=0.1", "bias=False", "n_layer=1", "n_head=2", "model.kv_heads=1", "n_embd=8"],
    );
    let table = toml::Table::try_from(&config).unwrap();
    for (section, keys) in &table {
        for key in keys.as_table().unwrap().keys() {
            assert!(TrainConfig::keys().contains(&format!("{section}.{key}").as_str()), "{section}.{key}");
        }
    }
    assert!(!Layer::is_known("train.stepss") && !Layer::is_known("steps") && !Layer::is_known(""));
}

#[test]
fn accumulation_is_tokens() {
    for (assignments, micro_batches, tokens) in [
        (&["gradient_accumulation_steps=5"][..], 5, 5 * 12 * 64),
        (&["gradient_accumulation_steps=5", "batch_size=2", "block_size=8"], 5, 5 * 2 * 8),
        (&["gradient_accumulation_steps=1"], 1, 12 * 64),
        (&["train.total_tokens=7680"], 10, 7680),
        (&[], 1, 0),
    ] {
        let config = with(None, assignments);
        assert_eq!(
            (config.micro_batches().unwrap(), config.train.total_tokens),
            (micro_batches, tokens),
            "{assignments:?}"
        );
    }
}

/// The error of settings that are refused, of whom it is known that it is the user's.
fn refused(assignments: &[&str]) -> TrainError {
    let layers: Result<Vec<_>, _> = assignments.iter().map(|text| Layer::assignment(text)).collect();
    let error = match layers.and_then(|layers| TrainConfig::layered(None, &layers)) {
        Ok(config) => panic!("{assignments:?} was accepted: {config:?}"),
        Err(error) => error,
    };
    assert_eq!(error.class(), ErrorClass::Usage, "{assignments:?}: {error}");
    error
}

#[test]
fn values_that_make_no_training_are_refused() {
    let huge = "99999999999999999999";
    let cases: &[(&[&str], &str)] = &[
        (&["n_head=3"], "model.heads"),
        (&["n_head=0"], "model.heads"),
        (&["n_embd=130"], "model.heads"),
        (&["model.heads=-4"], "model.heads"),
        (&["model.kv_heads=3"], "model.kv_heads"),
        (&["model.kv_heads=0"], "model.kv_heads"),
        (&["n_layer=0"], "model.layers"),
        (&["n_layer=-1"], "model.layers"),
        (&["n_layer=2.5"], "model.layers"),
        (&["n_layer=four"], "model.layers"),
        (&["n_layer=1000000"], "model.layers"),
        (&["n_embd=0", "n_head=1"], "model.d_model"),
        (&["n_embd=4611686018427387904", "n_head=1"], "model.d_model"),
        (&["n_embd=16777216", "model.d_ff=1", "n_head=1", "n_layer=1000"], "model.d_model"),
        (&["model.d_ff=0"], "model.d_ff"),
        (&["block_size=0"], "model.context"),
        (&["block_size=4611686018427387904"], "model.context"),
        (&["dropout=1"], "model.dropout"),
        (&["dropout=-0.1"], "model.dropout"),
        (&["dropout=+nan"], "model.dropout"),
        (&["dropout=a lot"], "model.dropout"),
        (&["model.rope_theta=0"], "model.rope_theta"),
        (&["model.rope_theta=+inf"], "model.rope_theta"),
        (&["model.family=gpt5"], "model.family"),
        (&["model.gelu=relu"], "model.gelu"),
        (&["model.family=llama", "n_embd=12", "n_head=4"], "model.heads"),
        (&["model.tied=maybe"], "model.tied"),
        (&["bias=2"], "model.biases"),
        (&["batch_size=0"], "train.batch"),
        (&["batch_size=-1"], "train.batch"),
        (&["batch_size=4611686018427387904"], "train.batch"),
        (&["batch_size=4611686018427387904", "gradient_accumulation_steps=2"], "train.batch"),
        (&["batch_size=", "max_iters=1"], "train.batch"),
        (&["max_iters=0"], "train.steps"),
        (&["max_iters=1e3"], "train.steps"),
        (&["max_iters=true"], "train.steps"),
        (&[&format!("max_iters={huge}")], "train.steps"),
        (&["learning_rate=+nan"], "train.lr"),
        (&["learning_rate=nan"], "train.lr"),
        (&["learning_rate=-1e-3"], "train.lr"),
        (&["learning_rate=1e999"], "train.lr"),
        (&["learning_rate=fast"], "train.lr"),
        (&["min_lr=-1"], "train.min_lr"),
        (&["learning_rate=1e-5", "min_lr=1e-4"], "train.min_lr"),
        (&["warmup_iters=-1"], "train.warmup"),
        (&["train.schedule=linear"], "train.schedule"),
        (&["beta1=1"], "train.beta1"),
        (&["beta1=-0.1"], "train.beta1"),
        (&["beta2=1.5"], "train.beta2"),
        (&["beta2=+nan"], "train.beta2"),
        (&["train.eps=0"], "train.eps"),
        (&["train.eps=+inf"], "train.eps"),
        (&["weight_decay=-0.1"], "train.weight_decay"),
        (&["grad_clip=-1"], "train.clip"),
        (&["grad_clip=+inf"], "train.clip"),
        (&["seed=-1"], "train.seed"),
        (&["train.total_tokens=100"], "train.total_tokens"),
        (&["train.total_tokens=-768"], "train.total_tokens"),
        (&["train.total_tokens=769"], "train.total_tokens"),
        (&["gradient_accumulation_steps=0"], "gradient_accumulation_steps"),
        (&["gradient_accumulation_steps=-2"], "gradient_accumulation_steps"),
        (&["gradient_accumulation_steps=many"], "gradient_accumulation_steps"),
        (&["gradient_accumulation_steps=9223372036854775807"], "train.total_tokens"),
        (&["data.validation=0"], "data.validation"),
        (&["data.validation=1"], "data.validation"),
        (&["data.validation=+nan"], "data.validation"),
        (&["data.vocab_size=256"], "data.vocab_size"),
        (&["data.vocab_size=0"], "data.vocab_size"),
        (&["data.vocab_size=1048577"], "data.vocab_size"),
        (&["eval_iters=0"], "eval.batches"),
        (&["eval_interval=-1"], "eval.interval"),
        (&["checkpoint.keep=0"], "checkpoint.keep"),
        (&["checkpoint.interval=often"], "checkpoint.interval"),
        (&["log_interval=0"], "log.interval"),
        (&["sample.temperature=-1"], "sample.temperature"),
        (&["sample.temperature=+inf"], "sample.temperature"),
        (&["sample.tokens=-1"], "sample.tokens"),
    ];
    for (assignments, key) in cases {
        let error = refused(assignments);
        let TrainError::Value { key: named, .. } = &error else { panic!("{assignments:?}: {error}") };
        assert_eq!(named, key, "{assignments:?}: {error}");
        assert!(error.to_string().contains(key), "{error}");
    }
}

/// Words of Rust's that mean nothing to whoever trains a model.
const RUST_WORDS: &[&str] = &[
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
    "i64",
    "f32",
    "f64",
    "String",
    "bool",
    "boolean",
    "Option",
    "invalid type",
    "expected",
    "sequence",
    "target type",
    "TOML",
];

#[track_caller]
fn plain(message: &str, typed: &str) {
    assert!(message.starts_with(&format!("{typed}: ")), "{typed} in {message}");
    let words: Vec<&str> = message.split(|c: char| !c.is_alphanumeric()).collect();
    for word in RUST_WORDS {
        let found = if word.contains(' ') { message.contains(word) } else { words.contains(word) };
        assert!(!found, "{word:?} in {message}");
    }
    assert!(!message.contains("000000149"), "digits that nobody wrote: {message}");
}

#[test]
fn errors_name_the_setting_as_it_was_typed() {
    // Whatever a setting does not take, by its own name, by nanoGPT's, and from a file.
    let values =
        ["banana", "", "-1", "-0.1", "2.5", "nan", "+nan", "+inf", "True", "1e999", "99999999999999999999", "[1]"];
    let nanogpt = [
        ("model.layers", "n_layer"),
        ("model.dropout", "dropout"),
        ("model.biases", "bias"),
        ("train.lr", "learning_rate"),
        ("train.steps", "max_iters"),
        ("train.seed", "seed"),
        ("log.interval", "log_interval"),
    ];
    let mut refusals = 0;
    for key in TrainConfig::keys() {
        let mut names = vec![key];
        names.extend(nanogpt.iter().filter(|(k, _)| *k == key).map(|(_, alias)| *alias));
        let mut refused_values = 0;
        for (name, value) in names.iter().flat_map(|name| values.map(|value| (*name, value))) {
            let layer = Layer::assignment(&format!("{name}={value}")).unwrap();
            let Err(error) = TrainConfig::layered(None, std::slice::from_ref(&layer)) else { continue };
            plain(&error.to_string(), &format!("--{name}={value}"));
            let variable = Layer { origin: "SMALLMIND_X".into(), ..layer };
            let error = TrainConfig::layered(None, &[variable]).unwrap_err();
            plain(&error.to_string(), "SMALLMIND_X");
            refused_values += 1;
        }
        let (section, name) = key.split_once('.').unwrap();
        for value in ["[1]", "{ a = 1 }", "1979-05-27"] {
            let layer = file_layer(&format!("[{section}]\n{name} = {value}\n")).unwrap();
            let error = TrainConfig::layered(None, std::slice::from_ref(&layer)).unwrap_err();
            plain(&error.to_string(), &layer.origin);
        }
        assert!(refused_values > 0 || key == "sample.prompt", "{key} takes anything");
        refusals += refused_values;
    }
    assert!(refusals > 300, "{refusals}");
}

#[test]
fn settings_that_disagree_name_the_one_that_was_typed() {
    let cases: &[(&[&str], &str)] = &[
        (&["n_head=3"], "--n_head=3"),
        (&["n_embd=130"], "--n_embd=130"),
        (&["model.family=llama", "model.kv_heads=3"], "--model.kv_heads=3"),
        (&["model.family=llama", "n_embd=12"], "--n_embd=12"),
        (&["batch_size=5", "train.total_tokens=64"], "--train.total_tokens=64"),
        (&["train.total_tokens=64"], "--train.total_tokens=64"),
        (&["gradient_accumulation_steps=9223372036854775807"], "--gradient_accumulation_steps=9223372036854775807"),
        (&["gradient_accumulation_steps=72057594037927936"], "--gradient_accumulation_steps=72057594037927936"),
        (&["min_lr=0.5"], "--min_lr=0.5"),
        (&["data.vocab_size=100"], "--data.vocab_size=100"),
        (&["data.tokenizer=character"], "--data.tokenizer=character"),
        (&["model.preset=nanogpt-cpo"], "--model.preset=nanogpt-cpo"),
    ];
    for (assignments, typed) in cases {
        plain(&refused(assignments).to_string(), typed);
    }
    // In a file, the value stands beside it.
    let layer = file_layer("[model]\nheads = 3\n").unwrap();
    let message = TrainConfig::layered(None, std::slice::from_ref(&layer)).unwrap_err().to_string();
    plain(&message, &layer.origin);
    assert!(message.contains("(model.heads = 3)"), "{message}");
}

#[test]
fn a_tokenizer_is_one_of_the_kinds_or_a_file() {
    for (word, says) in
        [("character", "did you mean characters"), ("words", "characters, bpe, or the path"), ("", "bpe")]
    {
        let message = refused(&[&format!("data.tokenizer={word}")]).to_string();
        assert!(message.contains(says) && message.contains("tokenizer.json"), "{message}");
    }
    // What looks like a path is one, and is looked for when it is read.
    for path in ["tok.json", "folder/tokenizer", "./x"] {
        assert_eq!(with(None, &[&format!("data.tokenizer={path}")]).data.tokenizer, path);
    }
}

#[test]
fn seeds_have_64_bits() {
    for seed in ["0", "9223372036854775807", "9223372036854775808", "18446744073709551615"] {
        let config = with(None, &[&format!("train.seed={seed}"), "n_layer=2", "model.dropout=0.1"]);
        assert_eq!(config.train.seed.to_string(), seed);
        let text = toml::to_string_pretty(&config).unwrap();
        assert_eq!(TrainConfig::layered(None, &[file_layer(&text).unwrap()]).unwrap(), config, "{text}");
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), config);
        assert_eq!(config.resumed(&layers(&[&format!("seed={seed}")])).unwrap(), config);
    }
    for seed in ["18446744073709551616", "-1", "1.5", "many"] {
        plain(&refused(&[&format!("seed={seed}")]).to_string(), &format!("--seed={seed}"));
    }
    // What a file of a run holds may be anything.
    let mut config = with(None, &[]);
    config.train.steps = u64::MAX;
    let message = config.resumed(&layers(&["log.interval=3"])).unwrap_err().to_string();
    assert!(message.contains("2^63") && !message.contains("u64"), "{message}");
    for number in ["9223372036854775808", "-9223372036854775809", "999999999999999999999999999999999999999999"] {
        let error = file_layer(&format!("[train]\nseed = {number}\n")).unwrap_err().to_string();
        assert!(error.contains("seed = \"18446744073709551615\"") && !error.contains("u64"), "{error}");
    }
}

#[test]
fn the_lowest_rate_follows_where_it_would_lie_above() {
    let of = |assignments: &[&str]| {
        let train = with(Some("nanogpt-cpu"), assignments).train;
        (train.lr, train.min_lr)
    };
    assert_eq!(of(&["learning_rate=3e-5"]), (3e-5, 3e-5 / 10.0));
    assert_eq!(of(&["train.lr=0"]), (0.0, 0.0));
    // Everything that made a training before makes the same.
    assert_eq!(of(&["learning_rate=3e-4"]), (3e-4, 1e-4));
    assert_eq!(of(&["learning_rate=3e-2"]), (3e-2, 1e-4));
    assert_eq!(of(&["learning_rate=3e-5", "decay_lr=False"]), (3e-5, 1e-4));
    assert_eq!(of(&[]), (1e-3, 1e-4));
    assert_eq!(TrainConfig::implied_min_lr(None, &layers(&["learning_rate=3e-5"])).unwrap(), Some(3e-5 / 10.0));
    assert_eq!(TrainConfig::implied_min_lr(None, &layers(&["learning_rate=3e-4"])).unwrap(), None);
    // What is said holds, and is refused where it makes no sense.
    assert_eq!(of(&["learning_rate=3e-5", "min_lr=1e-5"]), (3e-5, 1e-5));
    refused(&["learning_rate=3e-5", "min_lr=1e-4"]);
}

#[test]
fn each_name_of_nanogpt_is_obeyed_passed_over_or_refused() {
    use smallmind_train::nanogpt::{Meaning, meaning};
    // Every setting of nanoGPT's train.py, with its default there or what its own lines give.
    let names = "out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from wandb_log \
                 wandb_project wandb_run_name dataset gradient_accumulation_steps batch_size block_size n_layer n_head n_embd \
                 dropout bias learning_rate max_iters weight_decay beta1 beta2 grad_clip decay_lr warmup_iters lr_decay_iters \
                 min_lr backend device dtype compile";
    for name in names.split_whitespace() {
        assert!(Layer::is_known(name) && meaning(name, "1").is_some(), "{name}");
        assert!(TrainConfig::aliases().contains(&name), "{name}");
        // In a file each is named, with the key or the reason.
        let layer = file_layer(&format!("{name} = 1\n")).unwrap();
        let error = TrainConfig::layered(None, &[layer]).unwrap_err();
        let (class, message) = (error.class(), error.to_string());
        assert!(class == ErrorClass::Usage && message.contains(&format!("`{name}`")), "{message}");
        let helps = message.contains("did you mean") || message.contains("nanoGPT's");
        assert!(helps, "{message}");
    }
    let of = |name: &str, value: &str| meaning(name, value).unwrap();
    for (name, value) in [
        ("init_from", "scratch"),
        ("init_from", "'scratch'"),
        ("wandb_log", "False"),
        ("eval_only", "False"),
        ("device", "cpu"),
        ("dtype", "float32"),
        ("compile", "False"),
    ] {
        assert_eq!(of(name, value).unwrap(), Meaning::Usual, "{name}={value}");
    }
    for (name, value, word) in [
        ("wandb_log", "True", "log.jsonl"),
        ("wandb_project", "owt", "sent"),
        ("wandb_run_name", "gpt2", "--out"),
        ("dataset", "shakespeare_char", "--data FILE"),
        ("backend", "nccl", "--threads"),
        ("device", "cuda", "CPU"),
        ("dtype", "bfloat16", "float32"),
        ("compile", "True", "compile"),
        ("always_save_checkpoint", "False", "always"),
    ] {
        let Meaning::PassedOver(why) = of(name, value).unwrap() else { panic!("{name}={value}") };
        assert!(why.contains(word), "{name}: {why}");
    }
    assert_eq!(of("out_dir", "out-x").unwrap(), Meaning::Out("out-x".into()));
    assert_eq!(of("init_from", "resume").unwrap(), Meaning::Resume);
    for (name, value, word) in [
        ("init_from", "gpt2", "generate"),
        ("init_from", "gpt2-medium", "--preset"),
        ("init_from", "llama", "scratch"),
        ("eval_only", "True", "smallmind eval"),
        ("eval_only", "maybe", "True or False"),
        ("decay_lr", "2", "True or False"),
    ] {
        let error = of(name, value).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Usage);
        let message = error.to_string();
        plain(&message, &format!("--{name}={value}"));
        assert!(message.contains(word), "{message}");
    }
    assert!(meaning("train.lr", "1").is_none() && meaning("banana", "1").is_none());
    let schedule = |value: &str| with(None, &[&format!("decay_lr={value}")]).train.schedule;
    assert_eq!((schedule("False"), schedule("True")), (ScheduleKind::Constant, ScheduleKind::Cosine));
    let Meaning::Setting(_, Some(differs)) = of("decay_lr", "False").unwrap() else { panic!() };
    assert!(differs.contains("--warmup_iters=0"), "{differs}");
    let out = Layer::assignment("out_dir=x").unwrap_err();
    assert!(out.to_string().contains("option of the command line"), "{out}");
}

#[test]
fn limits_themselves_are_accepted() {
    let fine: &[&[&str]] = &[
        &["dropout=0.99"],
        &["learning_rate=0", "min_lr=0"],
        &["learning_rate=1e-5", "train.schedule=constant"],
        &["beta1=0", "beta2=0"],
        &["grad_clip=0"],
        &["warmup_iters=100000"],
        &["data.vocab_size=257"],
        &["data.vocab_size=1", "data.tokenizer=characters"],
        &["eval_interval=0", "sample.interval=0", "checkpoint.interval=0"],
        &["train.total_tokens=768"],
        &["sample.temperature=0"],
        &["n_head=1", "n_embd=1", "model.d_ff=1", "n_layer=1", "block_size=1", "batch_size=1"],
    ];
    for assignments in fine {
        let config = with(None, assignments);
        assert!(config.optimizer().max_norm > 0.0, "{assignments:?}");
    }
}

#[test]
fn unknown_names_come_with_the_nearest() {
    let cases = [
        ("n_layers=4", "n_layers", Some("n_layer")),
        ("train.stepss=4", "train.stepss", Some("train.steps")),
        ("steps=4", "steps", Some("train.steps")),
        ("model.layer=4", "model.layer", Some("model.layers")),
        ("max_iter=4", "max_iter", Some("max_iters")),
        ("banana=4", "banana", None),
        ("=4", "", None),
    ];
    for (assignment, name, suggestion) in cases {
        let error = refused(&[assignment]);
        let TrainError::UnknownKey { name: named, origin, suggestion: suggested } = &error else { panic!("{error}") };
        assert_eq!((named.as_str(), suggested.as_deref()), (name, suggestion), "{error}");
        assert_eq!(*origin, format!("--{assignment}"));
        assert_eq!(error.to_string().contains("did you mean"), suggestion.is_some(), "{error}");
    }
    let error = refused(&["train.steps"]);
    assert!(matches!(error, TrainError::Assignment { .. }) && error.to_string().contains("--train.steps"), "{error}");
    let error = TrainConfig::layered(Some("nanogpt-cpo"), &[]).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Usage);
    assert!(error.to_string().contains("did you mean `nanogpt-cpu`"), "{error}");
    let error = refused(&["model.preset=nanogptcpu"]);
    assert!(error.to_string().contains("did you mean `nanogpt-cpu`"), "{error}");
}

#[test]
fn errors_of_a_file_name_it() {
    let cases = [
        ("[train]\nstepss = 1\n", "did you mean `train.steps`"),
        ("[trai]\nsteps = 1\n", "did you mean `train`"),
        ("[train.more]\nsteps = 1\n", "`train.more`"),
        ("n_layer = 4\n", "did you mean `model.layers`"),
        ("[model]\nn_layer = 4\n", "did you mean `model.layers`"),
        ("steps = 4\n", "did you mean `train.steps`"),
        ("[[train]]\nsteps = 4\n", "`train`"),
        ("train = 4\n", "`train`"),
        ("[train]\nlr = \"fast\"\n", "`train.lr`"),
        ("[train]\nsteps = 1.5\n", "`train.steps`"),
        ("[train]\nsteps = [1]\n", "`train.steps`"),
        ("[model]\npreset = 7\n", "`model.preset`"),
        ("[sample]\nprompt = 42\n", "`sample.prompt`"),
        ("[train\nsteps = 1\n", "not valid TOML"),
        ("[train]\nsteps = 1\nsteps = 2\n", "not valid TOML"),
        ("[train]\nlr = 1e\n", "not valid TOML"),
    ];
    for (text, says) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        fs::write(&path, text).unwrap();
        let error = Layer::file(&path).and_then(|layer| TrainConfig::layered(None, &[layer])).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Usage, "{text}: {error}");
        let message = error.to_string();
        assert!(message.starts_with(path.to_str().unwrap()) && message.contains(says), "{text}: {message}");
    }
    let dir = tempfile::tempdir().unwrap();
    let latin = dir.path().join("latin.toml");
    fs::write(&latin, b"# caf\xe9\n").unwrap();
    for path in [dir.path().join("missing.toml"), dir.path().to_owned(), latin] {
        let error = Layer::file(&path).unwrap_err();
        assert!(matches!(error, TrainError::Read { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_file_says_what_the_settings_say() {
    let changed = [
        "model.family=llama",
        "n_layer=3",
        "n_head=4",
        "model.kv_heads=2",
        "n_embd=48",
        "model.d_ff=100",
        "block_size=33",
        "dropout=0.1",
        "model.tied=false",
        "bias=false",
        "model.gelu=tanh",
        "model.rope_theta=5e5",
        "data.tokenizer=characters",
        "data.validation=0.05",
        "train.schedule=wsd",
        "learning_rate=3e-4",
        "beta2=0.999",
        "seed=9007199254740993",
        "sample.prompt=Once \"upon\" a\\n time: é",
        "sample.temperature=0.7",
        "checkpoint.keep=5",
    ];
    let presets =
        [None, Some("quickstart"), Some("nanogpt-cpu"), Some("nanogpt-gpu"), Some("gpt2-124m"), Some("stories-15m")];
    for preset in presets {
        for assignments in [&[][..], &changed] {
            let config = with(preset, assignments);
            let text = toml::to_string_pretty(&config).unwrap();
            assert_eq!(toml::from_str::<TrainConfig>(&text).unwrap(), config);
            // A file of it, as a layer over nothing, makes the same training.
            let again = TrainConfig::layered(None, &[file_layer(&text).unwrap()]).unwrap();
            assert_eq!(again, config, "{preset:?}");
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), config);
        }
    }
    let model = with(Some("nanogpt-cpu"), &changed).model_config(70).unwrap();
    assert_eq!((model.family, model.layers, model.heads, model.kv_heads, model.head_dim), (Family::Llama, 3, 4, 2, 12));
    assert_eq!(
        (model.d_ff, model.context, model.vocab_size, model.head, model.rope.theta),
        (100, 33, 70, Head::Untied, 5e5)
    );
}
