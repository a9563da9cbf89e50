use smallmind::graph::Precision;
use smallmind::graph::op::Gelu;
use smallmind::model::{Biases, ErrorClass, Head, Mlp, NormKind, Positions};
use smallmind::train::config::{ScheduleKind, TrainSection};
use smallmind::train::{BatchShape, TrainConfig};

use super::*;

/// The settings among some assignments.
fn overlays(assignments: &[&str]) -> Result<Vec<Overlay>, TrainError> {
    let mut overlays = vec![];
    for assignment in assignments {
        let (name, value) = assignment.split_once('=').unwrap();
        match meaning(name, value) {
            Some(Ok(Meaning::Setting(overlay, _))) => overlays.push(overlay),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => overlays.push(Overlay::of_text(name, value, format!("--{assignment}"))?),
        }
    }
    Ok(overlays)
}

fn with(preset: Option<&str>, assignments: &[&str]) -> TrainConfig {
    TrainConfig::with_overlays(preset, &overlays(assignments).unwrap()).unwrap()
}

/// The error of settings that are refused; it begins with what was typed.
#[track_caller]
fn refused(assignments: &[&str], typed: &str) -> TrainError {
    let error = overlays(assignments).and_then(|overlays| TrainConfig::with_overlays(None, &overlays)).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Usage, "{error}");
    assert!(error.to_string().starts_with(&format!("--{typed}: ")), "{typed}: {error}");
    error
}

#[test]
fn its_command_line_is_understood() {
    // The command of nanoGPT's README for a CPU.
    let line = "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 \
                --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0";
    let arguments: Vec<&str> = line.split_whitespace().map(|a| a.strip_prefix("--").unwrap()).collect();
    assert!(arguments.iter().all(|a| is_name(a.split('=').next().unwrap())));
    let config = with(Some("nanogpt-cpu"), &arguments);
    assert_eq!((config.eval.batches, config.log.interval), (20, 1));
    assert_eq!((config.train.steps, config.train.decay_steps), (2000, 2000));
    assert_eq!(config.batch_shape().unwrap(), BatchShape { sequences: 12, context: 64 });
    let model = config.model_config(65).unwrap();
    assert_eq!((model.layers, model.heads, model.kv_heads, model.d_model, model.d_ff), (4, 4, 4, 128, 512));
    assert_eq!((model.dropout.embedding, model.dropout.attention, model.dropout.residual), (0.0, 0.0, 0.0));
    // The preset is the same training, so the command doesn't change a step.
    let alone = with(Some("nanogpt-cpu"), &[]);
    assert_eq!(model, alone.model_config(65).unwrap());
    let written_out = TrainSection { decay_steps: 2000, ..alone.train.clone() };
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
    assert_eq!(t.precision, Precision::F32);
    assert_eq!(with(None, &["dtype='bfloat16'"]).train.precision, Precision::Bf16);
    // Settings whose lowest rate follows from the highest.
    let train = with(Some("nanogpt-cpu"), &["learning_rate=3e-5"]).train;
    assert_eq!((train.lr, train.min_lr), (3e-5, 3e-5 / 10.0));
    let config = with(None, &["gradient_accumulation_steps=5", "batch_size=2", "block_size=8"]);
    assert_eq!((config.micro_batches().unwrap(), config.train.total_tokens), (5, 80));
}

/// Every setting of nanoGPT's `train.py`.
const OF_TRAIN: &str = "out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from \
    wandb_log wandb_project wandb_run_name dataset gradient_accumulation_steps batch_size block_size n_layer n_head \
    n_embd dropout bias learning_rate max_iters weight_decay beta1 beta2 grad_clip decay_lr warmup_iters \
    lr_decay_iters min_lr backend device dtype compile";

#[test]
fn each_name_is_known_and_named_in_a_file() {
    for name in OF_TRAIN.split_whitespace() {
        assert!(is_name(name) && meaning(name, "1").is_some() && names().any(|known| known == name), "{name}");
        // In a file each setting is named, with its key or the reason.
        for key in [name.to_owned(), format!("model.{name}")] {
            let error = TrainError::UnknownKey { name: key.clone(), origin: "run.toml".into(), suggestion: None };
            let message = unknown_setting(&error).unwrap();
            assert!(message.starts_with("run.toml: ") && message.contains(&format!("`{key}`")), "{message}");
            assert!(message.contains("did you mean") || message.contains("nanoGPT's"), "{message}");
        }
    }
    let layers = TrainError::UnknownKey { name: "n_layer".into(), origin: "run.toml".into(), suggestion: None };
    assert!(unknown_setting(&layers).unwrap().contains("did you mean `model.layers`?"));
    let other = TrainError::UnknownKey { name: "train.banana".into(), origin: "run.toml".into(), suggestion: None };
    assert_eq!(unknown_setting(&other), None);
    assert!(meaning("train.lr", "1").is_none() && meaning("banana", "1").is_none());
    // Every name that is a setting is one of ours.
    for (name, rule) in NAMES {
        if let Rule::Key(key) = rule {
            assert!(TrainConfig::keys().contains(key), "{name} is {key}");
        }
    }
}

#[test]
fn each_name_is_obeyed_passed_over_or_refused() {
    let of = |name: &str, value: &str| meaning(name, value).unwrap();
    for (name, value) in [("wandb_log", "False"), ("eval_only", "False"), ("device", "cpu"), ("compile", "False")] {
        assert_eq!(of(name, value).unwrap(), Meaning::Usual, "{name}={value}");
    }
    for (name, value, word) in [
        ("wandb_log", "True", "log.jsonl"),
        ("wandb_project", "owt", "sent"),
        ("wandb_run_name", "gpt2", "--out"),
        ("dataset", "shakespeare_char", "--data FILE"),
        ("backend", "nccl", "--threads"),
        ("device", "cuda", "CPU"),
        ("dtype", "float16", "bfloat16"),
        ("compile", "True", "compile"),
        ("always_save_checkpoint", "False", "always"),
    ] {
        let Meaning::PassedOver(why) = of(name, value).unwrap() else { panic!("{name}={value}") };
        assert!(why.contains(word), "{name}: {why}");
    }
    assert_eq!(of("out_dir", "out-x").unwrap(), Meaning::Out("out-x".into()));
    for (value, resumes) in [("scratch", false), ("'scratch'", false), ("resume", true)] {
        assert_eq!(of("init_from", value).unwrap(), Meaning::Resume(resumes));
    }
    let schedule = |value: &str| with(None, &[&format!("decay_lr={value}")]).train.schedule;
    assert_eq!((schedule("False"), schedule("True")), (ScheduleKind::Constant, ScheduleKind::Cosine));
    let Meaning::Setting(_, Some(differs)) = of("decay_lr", "False").unwrap() else { panic!() };
    assert!(differs.contains("--warmup_iters=0"), "{differs}");
}

#[test]
fn what_is_refused_is_named_as_it_was_typed() {
    for (typed, word) in [
        ("init_from=llama", "--init-from MODEL"),
        ("eval_only=True", "smallmind eval"),
        ("eval_only=maybe", "True or False"),
        ("decay_lr=2", "True or False"),
        ("n_layer=0", "model.layers"),
        ("n_layer=2.5", "model.layers"),
        ("n_head=3", "model.heads"),
        ("n_embd=130", "model.heads"),
        ("block_size=0", "model.context"),
        ("dropout=1", "model.dropout"),
        ("bias=2", "model.biases"),
        ("batch_size=-1", "train.batch"),
        ("max_iters=1e3", "train.steps"),
        ("learning_rate=1e999", "train.lr"),
        ("min_lr=0.5", "train.min_lr"),
        ("beta2=+nan", "train.beta2"),
        ("seed=-1", "train.seed"),
        ("log_interval=0", "log.interval"),
        ("gradient_accumulation_steps=0", "gradient_accumulation_steps"),
        ("gradient_accumulation_steps=-2", "gradient_accumulation_steps"),
        ("gradient_accumulation_steps=many", "gradient_accumulation_steps"),
        ("gradient_accumulation_steps=9223372036854775807", "train.total_tokens"),
        ("gradient_accumulation_steps=72057594037927936", "train.total_tokens"),
    ] {
        let message = refused(&[typed], typed).to_string();
        assert!(message.contains(word), "{message}");
    }
}
