//! Settings: their overlays, their names, and what each refuses.

#[path = "config/messages.rs"]
mod messages;

use std::fs;

use smallmind_model::{Head, Mlp};
use smallmind_train::config::ScheduleKind;
use smallmind_train::{ErrorClass, Overlay, TrainConfig, TrainError};

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
    // The preset of an overlay is what everything else lies on, wherever it stands, and one that is named beside them
    // wins.
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
fn presets_train_with_settings_of_their_own() {
    let usual = with(None, &[]);
    for preset in smallmind_model::preset::PRESETS {
        let config = with(Some(preset.name), &[]);
        let assignments: Vec<String> = preset.training.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let assignments: Vec<&str> = assignments.iter().map(String::as_str).collect();
        let written_out = with(None, &assignments);
        assert_eq!(
            (&config.train, &config.data, &config.sample),
            (&written_out.train, &written_out.data, &written_out.sample)
        );
    }
    let quick = with(Some("quickstart"), &[]);
    assert_eq!((quick.data.vocab_size, quick.train.batch, quick.sample.interval), (2048, 4, 0));
    assert_eq!((quick.train.lr, quick.train.min_lr, quick.train.steps), (1.5e-3, 5e-5, usual.train.steps));
    let gpu = with(Some("nanogpt-gpu"), &[]);
    assert_eq!((gpu.train.steps, gpu.train.batch, gpu.data.tokenizer.as_str()), (5000, 64, "characters"));
    assert_eq!(with(Some("nanogpt-cpu"), &[]).data.tokenizer, "characters");
    assert_eq!((with(Some("gpt2-124m"), &[]).train, usual.data.tokenizer.as_str()), (usual.train, "bpe"));
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

/// A rate that is set and a lowest rate that is not: the preset's, or a tenth of the rate where that lies above it.
#[test]
fn the_lowest_rate_follows_where_it_would_lie_above() {
    let of = |assignments: &[&str]| {
        let train = with(Some("nanogpt-cpu"), assignments).train;
        (train.lr, train.min_lr)
    };
    assert_eq!(of(&["train.lr=3e-5"]), (3e-5, 3e-5 / 10.0));
    assert_eq!(of(&["train.lr=0"]), (0.0, 0.0));
    // Everything that made a training before makes the same.
    assert_eq!(of(&["train.lr=3e-4"]), (3e-4, 1e-4));
    assert_eq!(of(&["train.lr=3e-2"]), (3e-2, 1e-4));
    assert_eq!(of(&["train.lr=3e-5", "train.schedule=constant"]), (3e-5, 1e-4));
    assert_eq!(of(&[]), (1e-3, 1e-4));
    assert_eq!(TrainConfig::implied_min_lr(None, &overlays(&["train.lr=3e-5"])).unwrap(), Some(3e-5 / 10.0));
    assert_eq!(TrainConfig::implied_min_lr(None, &overlays(&["train.lr=3e-4"])).unwrap(), None);
    // What is said holds, and is refused where it makes no sense.
    assert_eq!(of(&["train.lr=3e-5", "train.min_lr=1e-5"]), (3e-5, 1e-5));
    refused(&["train.lr=3e-5", "train.min_lr=1e-4"]);
}

#[test]
fn every_field_has_a_key() {
    let config = with(
        Some("quickstart"),
        &[
            "model.dropout=0.1",
            "model.biases=False",
            "model.layers=1",
            "model.heads=2",
            "model.kv_heads=1",
            "model.d_model=8",
        ],
    );
    let table = toml::Table::try_from(&config).unwrap();
    for (section, keys) in &table {
        for key in keys.as_table().unwrap().keys() {
            assert!(TrainConfig::keys().contains(&format!("{section}.{key}").as_str()), "{section}.{key}");
        }
    }
}

#[test]
fn accumulation_is_tokens() {
    let count = |count| vec![Overlay::of_micro_batches(count, "somewhere")];
    for (overlays, micro_batches, tokens) in [
        (count(5), 5, 5 * 12 * 64),
        ([count(5), overlays(&["train.batch=2", "model.context=8"])].concat(), 5, 5 * 2 * 8),
        (count(1), 1, 12 * 64),
        (overlays(&["train.total_tokens=7680"]), 10, 7680),
        // The last word counts.
        ([count(5), overlays(&["train.total_tokens=7680"])].concat(), 10, 7680),
        ([overlays(&["train.total_tokens=7680"]), count(5)].concat(), 5, 5 * 12 * 64),
        (vec![], 1, 0),
    ] {
        let config = TrainConfig::with_overlays(None, &overlays).unwrap();
        let found = (config.micro_batches().unwrap(), config.train.total_tokens);
        assert_eq!(found, (micro_batches, tokens), "{overlays:?}");
    }
    for (overlays, key) in [
        (count(9_223_372_036_854_775_807), "train.total_tokens"),
        (count(72_057_594_037_927_936), "train.total_tokens"),
        ([count(2), overlays(&["train.batch=4611686018427387904"])].concat(), "train.batch"),
    ] {
        let error = TrainConfig::with_overlays(None, &overlays).unwrap_err();
        let TrainError::Value { key: named, origin, .. } = &error else { panic!("{error}") };
        assert_eq!((named.as_str(), origin.as_str()), (key, overlays.last().unwrap().origin.as_str()), "{error}");
    }
}

/// The error of settings that are refused; its class is always `Usage`.
fn refused(assignments: &[&str]) -> TrainError {
    let overlays: Result<Vec<_>, _> = assignments.iter().map(|text| Overlay::assignment(text)).collect();
    let error = match overlays.and_then(|overlays| TrainConfig::with_overlays(None, &overlays)) {
        Ok(config) => panic!("{assignments:?} was accepted: {config:?}"),
        Err(error) => error,
    };
    assert_eq!(error.class(), ErrorClass::Usage, "{assignments:?}: {error}");
    error
}

/// Settings that make no training, and the key that the error names.
const REFUSED: &[(&[&str], &str)] = &[
    (&["model.heads=3"], "model.heads"),
    (&["model.heads=0"], "model.heads"),
    (&["model.d_model=130"], "model.heads"),
    (&["model.heads=-4"], "model.heads"),
    (&["model.kv_heads=3"], "model.kv_heads"),
    (&["model.kv_heads=0"], "model.kv_heads"),
    (&["model.layers=0"], "model.layers"),
    (&["model.layers=-1"], "model.layers"),
    (&["model.layers=2.5"], "model.layers"),
    (&["model.layers=four"], "model.layers"),
    (&["model.layers=1000000"], "model.layers"),
    (&["model.d_model=0", "model.heads=1"], "model.d_model"),
    (&["model.d_model=4611686018427387904", "model.heads=1"], "model.d_model"),
    (&["model.d_model=16777216", "model.d_ff=1", "model.heads=1", "model.layers=1000"], "model.d_model"),
    (&["model.d_ff=0"], "model.d_ff"),
    (&["model.context=0"], "model.context"),
    (&["model.context=4611686018427387904"], "model.context"),
    (&["model.dropout=1"], "model.dropout"),
    (&["model.dropout=-0.1"], "model.dropout"),
    (&["model.dropout=+nan"], "model.dropout"),
    (&["model.dropout=a lot"], "model.dropout"),
    (&["model.rope_theta=0"], "model.rope_theta"),
    (&["model.rope_theta=+inf"], "model.rope_theta"),
    (&["model.family=gpt5"], "model.family"),
    (&["model.gelu=relu"], "model.gelu"),
    (&["model.family=llama", "model.d_model=12", "model.heads=4"], "model.heads"),
    (&["model.tied=maybe"], "model.tied"),
    (&["model.biases=2"], "model.biases"),
    (&["train.batch=0"], "train.batch"),
    (&["train.batch=-1"], "train.batch"),
    (&["train.batch=4611686018427387904"], "train.batch"),
    (&["train.batch=", "train.steps=1"], "train.batch"),
    (&["train.steps=0"], "train.steps"),
    (&["train.steps=1e3"], "train.steps"),
    (&["train.steps=true"], "train.steps"),
    (&["train.steps=99999999999999999999"], "train.steps"),
    (&["train.lr=+nan"], "train.lr"),
    (&["train.lr=nan"], "train.lr"),
    (&["train.lr=-1e-3"], "train.lr"),
    (&["train.lr=1e999"], "train.lr"),
    (&["train.lr=fast"], "train.lr"),
    (&["train.min_lr=-1"], "train.min_lr"),
    (&["train.lr=1e-5", "train.min_lr=1e-4"], "train.min_lr"),
    (&["train.warmup=-1"], "train.warmup"),
    (&["train.schedule=linear"], "train.schedule"),
    (&["train.beta1=1"], "train.beta1"),
    (&["train.beta1=-0.1"], "train.beta1"),
    (&["train.beta2=1.5"], "train.beta2"),
    (&["train.beta2=+nan"], "train.beta2"),
    (&["train.eps=0"], "train.eps"),
    (&["train.eps=+inf"], "train.eps"),
    (&["train.weight_decay=-0.1"], "train.weight_decay"),
    (&["train.clip=-1"], "train.clip"),
    (&["train.clip=+inf"], "train.clip"),
    (&["train.seed=-1"], "train.seed"),
    (&["train.total_tokens=100"], "train.total_tokens"),
    (&["train.total_tokens=-768"], "train.total_tokens"),
    (&["train.total_tokens=769"], "train.total_tokens"),
    (&["data.validation=0"], "data.validation"),
    (&["data.validation=1"], "data.validation"),
    (&["data.validation=+nan"], "data.validation"),
    (&["data.vocab_size=256"], "data.vocab_size"),
    (&["data.vocab_size=0"], "data.vocab_size"),
    (&["data.vocab_size=1048577"], "data.vocab_size"),
    (&["eval.batches=0"], "eval.batches"),
    (&["eval.interval=-1"], "eval.interval"),
    (&["checkpoint.keep=0"], "checkpoint.keep"),
    (&["checkpoint.interval=often"], "checkpoint.interval"),
    (&["log.interval=0"], "log.interval"),
    (&["sample.temperature=-1"], "sample.temperature"),
    (&["sample.temperature=+inf"], "sample.temperature"),
    (&["sample.tokens=-1"], "sample.tokens"),
];

#[test]
fn values_that_make_no_training_are_refused() {
    for (assignments, key) in REFUSED {
        let error = refused(assignments);
        let TrainError::Value { key: named, .. } = &error else { panic!("{assignments:?}: {error}") };
        assert_eq!(named, key, "{assignments:?}: {error}");
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn limits_themselves_are_accepted() {
    let fine: &[&[&str]] = &[
        &["model.dropout=0.99"],
        &["train.lr=0", "train.min_lr=0"],
        &["train.lr=1e-5", "train.schedule=constant"],
        &["train.beta1=0", "train.beta2=0"],
        &["train.clip=0"],
        &["train.warmup=100000"],
        &["data.vocab_size=257"],
        &["data.vocab_size=1", "data.tokenizer=characters"],
        &["eval.interval=0", "sample.interval=0", "checkpoint.interval=0"],
        &["train.total_tokens=768"],
        &["sample.temperature=0"],
        &["model.heads=1", "model.d_model=1", "model.d_ff=1", "model.layers=1", "model.context=1", "train.batch=1"],
    ];
    for assignments in fine {
        let config = with(None, assignments);
        assert!(config.optimizer().max_norm > 0.0, "{assignments:?}");
    }
}

#[test]
fn unknown_names_come_with_the_nearest() {
    let cases = [
        ("model.layerss=4", "model.layerss", Some("model.layers")),
        ("train.stepss=4", "train.stepss", Some("train.steps")),
        ("steps=4", "steps", Some("train.steps")),
        ("model.layer=4", "model.layer", Some("model.layers")),
        ("banana=4", "banana", None),
        ("=4", "", None),
    ];
    for (assignment, name, suggestion) in cases {
        let error = refused(&[assignment]);
        let TrainError::UnknownKey { name: named, origin, suggestion: suggested } = &error else { panic!("{error}") };
        assert_eq!((named.as_str(), suggested.as_deref()), (name, suggestion), "{error}");
        assert_eq!(origin, assignment);
        assert_eq!(error.to_string().contains("did you mean"), suggestion.is_some(), "{error}");
    }
    let error = refused(&["train.steps"]);
    assert!(matches!(error, TrainError::Assignment { .. }) && error.to_string().contains("`train.steps`"), "{error}");
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
        ("layers = 4\n", "did you mean `model.layers`"),
        ("[model]\nlayer = 4\n", "did you mean `model.layers`"),
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
        "model.layers=3",
        "model.heads=4",
        "model.kv_heads=2",
        "model.d_model=48",
        "model.d_ff=100",
        "model.context=33",
        "model.dropout=0.1",
        "model.tied=false",
        "model.biases=false",
        "model.gelu=tanh",
        "model.rope_theta=5e5",
        "data.tokenizer=characters",
        "data.validation=0.05",
        "train.schedule=wsd",
        "train.lr=3e-4",
        "train.beta2=0.999",
        "train.seed=9007199254740993",
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
