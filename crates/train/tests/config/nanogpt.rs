//! nanoGPT's command line, name by name.

use smallmind_train::config::ScheduleKind;
use smallmind_train::nanogpt::{Meaning, meaning};
use smallmind_train::{ErrorClass, Overlay, TrainConfig};

use super::messages::plain;
use super::{file_overlay, overlays, refused, with};

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
    assert_eq!(TrainConfig::implied_min_lr(None, &overlays(&["learning_rate=3e-5"])).unwrap(), Some(3e-5 / 10.0));
    assert_eq!(TrainConfig::implied_min_lr(None, &overlays(&["learning_rate=3e-4"])).unwrap(), None);
    // What is said holds, and is refused where it makes no sense.
    assert_eq!(of(&["learning_rate=3e-5", "min_lr=1e-5"]), (3e-5, 1e-5));
    refused(&["learning_rate=3e-5", "min_lr=1e-4"]);
}

#[test]
fn each_name_of_nanogpt_is_obeyed_passed_over_or_refused() {
    // Every setting of nanoGPT's train.py, with its default there or what its own lines give.
    let names = "out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from wandb_log \
                 wandb_project wandb_run_name dataset gradient_accumulation_steps batch_size block_size n_layer n_head n_embd \
                 dropout bias learning_rate max_iters weight_decay beta1 beta2 grad_clip decay_lr warmup_iters lr_decay_iters \
                 min_lr backend device dtype compile";
    for name in names.split_whitespace() {
        assert!(Overlay::is_known(name) && meaning(name, "1").is_some(), "{name}");
        assert!(TrainConfig::aliases().contains(&name), "{name}");
        // In a file each is named, with the key or the reason.
        let overlay = file_overlay(&format!("{name} = 1\n")).unwrap();
        let error = TrainConfig::with_overlays(None, &[overlay]).unwrap_err();
        let (class, message) = (error.class(), error.to_string());
        assert!(class == ErrorClass::Usage && message.contains(&format!("`{name}`")), "{message}");
        let helps = message.contains("did you mean") || message.contains("nanoGPT's");
        assert!(helps, "{message}");
    }
    let of = |name: &str, value: &str| meaning(name, value).unwrap();
    for (name, value) in
        [("wandb_log", "False"), ("eval_only", "False"), ("device", "cpu"), ("dtype", "float32"), ("compile", "False")]
    {
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
    for (value, resumes) in [("scratch", false), ("'scratch'", false), ("resume", true)] {
        assert_eq!(of("init_from", value).unwrap(), Meaning::Resume(resumes));
    }
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
    let out = Overlay::assignment("out_dir=x").unwrap_err();
    assert!(out.to_string().contains("option of the command line"), "{out}");
}
