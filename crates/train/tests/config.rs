//! Settings: their overlays, their names, and what each refuses.

#[path = "config/messages.rs"]
mod messages;
#[path = "config/nanogpt.rs"]
mod nanogpt;

use std::fs;

use smallmind_graph::op::Gelu;
use smallmind_model::{Biases, Head, Mlp, NormKind, Positions};
use smallmind_train::config::ScheduleKind;
use smallmind_train::{BatchShape, ErrorClass, Overlay, TrainConfig, TrainError};

fn overlays(assignments: &[&str]) -> Vec<Overlay> {
    assignments.iter().map(|text| Overlay::assignment(text).unwrap()).collect()
}

fn with(preset: Option<&str>, assignments: &[&str]) -> TrainConfig {
    TrainConfig::with_overlays(preset, &overlays(assignments)).unwrap()
}

/// A TOML text as an overlay.
fn file_overlay(text: &str) -> Result<Overlay, TrainError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, text).unwrap();
    Overlay::file(&path)
}

#[test]
fn later_layers_win() {
    let file = file_overlay("[train]\nlr = 0.5\nsteps = 7\nbatch = 3\n[model]\npreset = \"nanogpt-gpu\"\n").unwrap();
    let environment =
        Overlay { origin: "SMALLMIND_TRAIN_STEPS".into(), ..Overlay::assignment("train.steps=8").unwrap() };
    let line = Overlay::assignment("train.batch=4").unwrap();
    let overlays = [file.clone(), environment, line];
    let config = TrainConfig::with_overlays(None, &overlays).unwrap();
    assert_eq!((config.train.lr, config.train.steps, config.train.batch), (0.5, 8, 4));
    // The preset of an overlay is what everything else lies on, wherever it stands, and one that is named beside them wins.
    assert_eq!(config.model.preset.as_deref(), Some("nanogpt-gpu"));
    assert_eq!(config.model_config(65).unwrap().d_model, 384);
    let quick = TrainConfig::with_overlays(Some("quickstart"), &overlays).unwrap();
    assert_eq!(quick.model.preset.as_deref(), Some("quickstart"));
    assert_eq!(quick.model_config(65).unwrap().mlp, Mlp::SwiGlu);
    // In the other order, the other value.
    let reversed = [Overlay::assignment("train.steps=9").unwrap(), file];
    assert_eq!(TrainConfig::with_overlays(None, &reversed).unwrap().train.steps, 7);
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
    let overlays = Overlay::environment().unwrap();
    let config = TrainConfig::with_overlays(None, &overlays).unwrap();
    println!("\nprompt {:?} lr {}", config.sample.prompt, config.train.lr);
    println!("from {:?}", overlays.iter().map(|l| l.origin.as_str()).collect::<Vec<_>>());
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
    assert!(arguments.iter().all(|a| Overlay::is_known(a.split('=').next().unwrap())));
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
        (model.positions, model.norm, model.biases, model.mlp, model.head),
        (Positions::Learned, NormKind::LayerNorm { bias: false }, Biases::NONE, Mlp::Gelu(Gelu::Exact), Head::Tied)
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
        assert!(Overlay::is_known(name), "{name}");
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
    assert!(!Overlay::is_known("train.stepss") && !Overlay::is_known("steps") && !Overlay::is_known(""));
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
    let overlays: Result<Vec<_>, _> = assignments.iter().map(|text| Overlay::assignment(text)).collect();
    let error = match overlays.and_then(|overlays| TrainConfig::with_overlays(None, &overlays)) {
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
    let error = TrainConfig::with_overlays(Some("nanogpt-cpo"), &[]).unwrap_err();
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
        let error = Overlay::file(&path).and_then(|overlay| TrainConfig::with_overlays(None, &[overlay])).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Usage, "{text}: {error}");
        let message = error.to_string();
        assert!(message.starts_with(path.to_str().unwrap()) && message.contains(says), "{text}: {message}");
    }
    let dir = tempfile::tempdir().unwrap();
    let latin = dir.path().join("latin.toml");
    fs::write(&latin, b"# caf\xe9\n").unwrap();
    for path in [dir.path().join("missing.toml"), dir.path().to_owned(), latin] {
        let error = Overlay::file(&path).unwrap_err();
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
            // A file of it, as an overlay over nothing, makes the same training.
            let again = TrainConfig::with_overlays(None, &[file_overlay(&text).unwrap()]).unwrap();
            assert_eq!(again, config, "{preset:?}");
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<TrainConfig>(&json).unwrap(), config);
        }
    }
    let model = with(Some("nanogpt-cpu"), &changed).model_config(70).unwrap();
    assert_eq!((model.layers, model.heads, model.kv_heads, model.head_dim), (3, 4, 2, 12));
    assert_eq!((model.d_ff, model.context, model.vocab_size, model.head), (100, 33, 70, Head::Untied));
    assert_eq!((model.positions.rope().unwrap().theta, model.model_type().unwrap()), (5e5, "llama"));
}
