//! `config.json`: what is written is read again, and what makes no model is refused by name.

#[path = "config/families.rs"]
mod families;
#[path = "config/keys.rs"]
mod keys;

use serde_json::{Value, json};
use smallmind_graph::op::{Gelu, RopeScaling};
use smallmind_model::preset::{self, PRESETS};
use smallmind_model::{
    AttentionWindows, Biases, ConfigError, DropoutConfig, Family, Head, Mlp, Model, ModelConfig, ModelError, NormKind,
    Positions, QkNorm, RopeConfig,
};

fn read_again(config: &ModelConfig) -> ModelConfig {
    ModelConfig::from_json(&config.to_json().unwrap()).unwrap()
}

#[test]
fn presets_are_read_as_they_were_written() {
    for preset in PRESETS {
        let config = preset.config();
        config.check().unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        assert_eq!(read_again(&config), config, "{}", preset.name);
        // Through the text of a file as well.
        let text = format!("{:#}", config.to_json().unwrap());
        assert_eq!(ModelConfig::from_json(&serde_json::from_str(&text).unwrap()).unwrap(), config, "{}", preset.name);
        assert_eq!(preset::find(preset.name).unwrap().config(), config);
    }
    let error = preset::find("quikstart").unwrap_err().to_string();
    assert!(error.contains("did you mean `quickstart`") && error.contains("nanogpt-gpu"), "{error}");
}

#[test]
fn everything_that_can_be_set_survives() {
    let base = preset::find("llama-3.2-1b").unwrap().config();
    let rope = |scaling| Positions::Rope(RopeConfig { theta: 12_345.5, dim: None, scaling: Some(scaling) });
    let dropout = DropoutConfig { embedding: 0.1, attention: 0.2, residual: 0.3 };
    let common = ModelConfig { vocab_size: 300, norm_eps: 3e-6, init_std: 0.013, dropout, bos: Some(7), ..base };
    let variants = [
        ModelConfig { eos: vec![], ..common.clone() },
        ModelConfig { eos: vec![1, 2, 299], bos: None, ..common.clone() },
        ModelConfig { eos: vec![0], head: Head::Untied, ..common.clone() },
        ModelConfig { eos: vec![0], head_dim: 6, heads: 10, kv_heads: 5, d_model: 33, d_ff: 17, ..common.clone() },
        ModelConfig { eos: vec![0], biases: Biases::QKV, ..common.clone() },
    ];
    let local = [&[true][..], &[true, false], &[false, true, true], &[true, true, true, true, true, false]];
    let windows = local.map(|local| AttentionWindows::of_layers(77, local));
    let with_windows =
        |attention_windows| ModelConfig { eos: vec![0], attention_windows, biases: Biases::QKV, ..common.clone() };
    let variants = variants.into_iter().chain(windows.map(with_windows));
    for config in variants {
        assert_eq!(read_again(&config), config);
    }
    for scaling in families::scalings(common.head_dim, common.context) {
        let config = ModelConfig { eos: vec![0], positions: rope(scaling), ..common.clone() };
        assert_eq!(read_again(&config), config);
    }
    let base = preset::find("nanogpt-gpu").unwrap().config();
    for (biases, bias) in [(Biases::ALL, true), (Biases::NONE, false)] {
        for gelu in [Gelu::Exact, Gelu::Tanh] {
            for head in [Head::Tied, Head::Untied] {
                let (norm, mlp) = (NormKind::LayerNorm { bias }, Mlp::Gelu(gelu));
                let config = ModelConfig { biases, norm, mlp, head, d_ff: 100, bos: Some(3), ..base.clone() };
                assert_eq!(read_again(&config), config);
            }
        }
    }
}

#[test]
fn what_no_file_can_state_is_named() {
    let gpt2 = || preset::find("nanogpt-cpu").unwrap().config();
    let llama = || preset::find("quickstart").unwrap().config();
    let qwen2 = || ModelConfig { biases: Biases::QKV, ..llama() };
    let (rope, shift) = (Positions::Rope(RopeConfig::default()), NormKind::LayerNorm { bias: true });
    let attn_out = Biases { attn_out: true, ..Biases::NONE };
    let by_layer = Positions::RopeByLayer(vec![None; llama().layers]);
    for (config, model_type, key, takes) in [
        (ModelConfig { kv_heads: 2, ..gpt2() }, "gpt2", "kv_heads", "as many as query heads, 4"),
        (ModelConfig { head_dim: 16, ..gpt2() }, "gpt2", "head_dim", "128 / 4"),
        (ModelConfig { positions: rope, ..gpt2() }, "gpt2", "positions", "Learned"),
        (ModelConfig { biases: Biases::QKV, ..gpt2() }, "gpt2", "biases", "all of them or none"),
        (ModelConfig { norm: shift, ..gpt2() }, "gpt2", "biases", "all of them or none"),
        (ModelConfig { attention_scale: Some(1.0), ..gpt2() }, "gpt2", "attention_scale", "1/√head_dim"),
        (ModelConfig { norm: NormKind::RmsNorm, ..gpt2() }, "gpt2", "norm", "LayerNorm"),
        (ModelConfig { norm: NormKind::LayerNorm { bias: false }, ..llama() }, "llama", "norm", "RmsNorm"),
        (ModelConfig { qk_norm: Some(QkNorm::Rows), ..llama() }, "llama", "qk_norm", "None"),
        (ModelConfig { residual_scale: Some(0.5), ..qwen2() }, "qwen2", "residual_scale", "None"),
        (ModelConfig { positions: by_layer, ..qwen2() }, "qwen2", "positions", "the same in all layers"),
        (ModelConfig { positions: Positions::Learned, ..llama() }, "llama", "positions", "Rope"),
        (ModelConfig { mlp: Mlp::Gelu(Gelu::Exact), ..qwen2() }, "qwen2", "mlp", "SwiGlu"),
        (ModelConfig { biases: attn_out, ..llama() }, "llama", "biases", "qkv and attn_out together"),
        (ModelConfig { attention_scale: Some(0.1), ..qwen2() }, "qwen2", "attention_scale", "1/√head_dim"),
        (ModelConfig { attention_softcap: Some(50.0), ..qwen2() }, "qwen2", "attention_softcap", "None"),
        (ModelConfig { attention_windows: AttentionWindows::All(9), ..gpt2() }, "gpt2", "attention_windows", "None"),
    ] {
        config.check().unwrap();
        let error = config.to_json().unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&format!("`{key}` = ")) && message.contains(takes), "{message}");
        let ConfigError::NotStorable { key: named, model_type: nearest, .. } = error else { panic!("{error}") };
        assert_eq!((named, nearest), (key, model_type));
    }
    // The scale that is the usual one needs no word.
    let usual = ModelConfig { attention_scale: Some(1.0 / (32.0f32).sqrt()), ..gpt2() };
    assert_eq!(usual.to_json().unwrap(), gpt2().to_json().unwrap());
    // Such a model runs, and nothing of it is written.
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(ModelConfig { layers: 1, vocab_size: 9, kv_heads: 2, ..gpt2() }, 1).unwrap();
    let error = model.save(dir.path()).unwrap_err();
    assert!(matches!(error, ModelError::Config(ConfigError::NotStorable { .. })), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = ModelConfig { attention_scale: Some(scale), ..llama() }.check().unwrap_err();
        assert_eq!(key(&error), "attention_scale");
        let error = ModelConfig { attention_softcap: Some(scale), ..llama() }.check().unwrap_err();
        assert_eq!(key(&error), "attention_softcap");
    }
    let pattern = |window, local| AttentionWindows::Pattern { window, local };
    for attention_windows in
        [AttentionWindows::All(0), AttentionWindows::All(usize::MAX), pattern(0, vec![true]), pattern(5, vec![])]
    {
        let error = ModelConfig { attention_windows, ..llama() }.check().unwrap_err();
        assert_eq!(key(&error), "attention_windows");
    }
    assert_eq!(key(&ModelConfig::default().check().unwrap_err()), "vocab_size");
}

#[test]
fn a_family_gives_a_model_its_features_and_keeps_the_rest() {
    for preset in PRESETS {
        for family in Family::ALL {
            let (before, config) = (preset.config(), family.applied_to(preset.config()));
            let sizes = |c: &ModelConfig| (c.d_model, c.layers, c.heads, c.kv_heads, c.d_ff, c.head, c.eos.clone());
            assert_eq!(sizes(&config), sizes(&before));
            if matches!(family, Family::Gpt2 | Family::GptNeoX) && config.kv_heads != config.heads {
                assert!(config.model_type().is_err());
                continue;
            }
            // What only these can state, no preset has.
            let like_llama = [Family::Granite, Family::SmolLm3, Family::Phi3, Family::Mistral].contains(&family);
            let expected = match family {
                Family::GraniteMoe => Family::Mixtral,
                _ if like_llama => Family::Llama,
                _ => family,
            };
            assert_eq!(config.model_type().unwrap(), expected.name(), "{}", preset.name);
            if before.model_type().unwrap() == family.name() {
                assert_eq!(config, before);
            }
        }
    }
    let from_gpt2 = Family::Qwen2.applied_to(preset::find("gpt2-124m").unwrap().config());
    assert_eq!(from_gpt2.positions, Positions::Rope(RopeConfig::default()));
    let from_llama = Family::Gpt2.applied_to(preset::find("quickstart").unwrap().config());
    assert_eq!(
        (from_llama.norm, from_llama.mlp, from_llama.biases),
        (NormKind::LayerNorm { bias: false }, Mlp::Gelu(Gelu::Exact), Biases::NONE)
    );
}

/// The `config.json` of a published GPT-2, but smaller.
fn gpt2() -> Value {
    json!({
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "bos_token_id": 96,
        "embd_pdrop": 0.1,
        "eos_token_id": 96,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 64,
        "n_embd": 32,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 64,
        "resid_pdrop": 0.1,
        "vocab_size": 97
    })
}

/// Of a published Llama 3, but smaller.
fn llama() -> Value {
    json!({
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 80,
        "max_position_embeddings": 64,
        "mlp_bias": false,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 16,
            "rope_type": "llama3"
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "vocab_size": 101
    })
}

#[test]
fn published_files_are_understood() {
    let config = ModelConfig::from_json(&gpt2()).unwrap();
    assert_eq!(
        (config.positions, config.norm, config.biases, config.mlp, config.head),
        (Positions::Learned, NormKind::LayerNorm { bias: true }, Biases::ALL, Mlp::Gelu(Gelu::Tanh), Head::Tied)
    );
    assert_eq!((config.d_ff, config.kv_heads, config.head_dim, config.context), (128, 4, 8, 64));
    assert_eq!((config.dropout.embedding, config.bos, config.eos), (0.1, Some(96), vec![96]));

    let config = ModelConfig::from_json(&llama()).unwrap();
    assert_eq!(
        (config.norm, config.biases, config.mlp, config.head),
        (NormKind::RmsNorm, Biases::NONE, Mlp::SwiGlu, Head::Tied)
    );
    let rope = config.positions.rope().unwrap();
    assert_eq!((config.heads, config.kv_heads, &config.eos[..], rope.theta), (4, 2, &[2, 3][..], 500_000.0));
    assert_eq!(rope.scaling.as_ref().unwrap().original_max_position(), Some(16));

    // As transformers 5 writes it: `dtype`, and everything about positions in one object.
    let mut newer = llama();
    let map = newer.as_object_mut().unwrap();
    map.remove("rope_theta");
    map.remove("torch_dtype");
    let mut scaling = map.remove("rope_scaling").unwrap();
    scaling["rope_theta"] = json!(250_000.0);
    map.insert("rope_parameters".into(), scaling);
    map.insert("dtype".into(), json!("float32"));
    let config = ModelConfig::from_json(&newer).unwrap();
    let rope = config.positions.rope().unwrap();
    let Some(RopeScaling::Llama3(llama3)) = rope.scaling else { panic!("{rope:?}") };
    assert_eq!((rope.theta, llama3.factor), (250_000.0, 32.0));

    // What may be absent, is: then the defaults of transformers hold.
    let mut bare = llama();
    for key in [
        "head_dim",
        "num_key_value_heads",
        "rope_theta",
        "rope_scaling",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "rms_norm_eps",
    ] {
        bare.as_object_mut().unwrap().remove(key);
    }
    let config = ModelConfig::from_json(&bare).unwrap();
    assert_eq!((config.head_dim, config.kv_heads, config.head, config.norm_eps), (8, 4, Head::Untied, 1e-6));
    let plain = Positions::Rope(RopeConfig::default());
    assert_eq!((config.positions, config.bos, config.eos), (plain, None, vec![]));
    // And so it is where it is null.
    let mut null = llama();
    for key in ["head_dim", "num_key_value_heads", "rope_scaling", "bos_token_id", "eos_token_id"] {
        null[key] = Value::Null;
    }
    assert_eq!(ModelConfig::from_json(&null).unwrap().kv_heads, 4);
}

/// How a field is made wrong.
enum Wrong {
    Missing,
    Is(Value),
}

/// The error of a base with one field made wrong.
fn error(base: Value, path: &str, wrong: Wrong) -> ConfigError {
    let mut value = base;
    let mut object = &mut value;
    let mut keys: Vec<&str> = path.split('.').collect();
    let last = keys.pop().unwrap();
    for key in keys {
        object = &mut object[key];
    }
    match wrong {
        Wrong::Missing => drop(object.as_object_mut().unwrap().remove(last).unwrap()),
        Wrong::Is(wrong) => object[last] = wrong,
    }
    match ModelConfig::from_json(&value) {
        Ok(config) => panic!("{path}: {value:#} was accepted: {config:?}"),
        Err(error) => error,
    }
}

fn key(error: &ConfigError) -> &str {
    match error {
        ConfigError::Unknown { keys, .. } => &keys[0],
        ConfigError::NotStorable { key, .. } => key,
        ConfigError::Missing { key, .. } | ConfigError::Type { key, .. } | ConfigError::Invalid { key, .. } => key,
    }
}

#[test]
fn fields_that_are_missing_or_of_the_wrong_type_are_named() {
    let needed = [
        (gpt2(), vec!["model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head"]),
        (
            llama(),
            vec![
                "model_type",
                "vocab_size",
                "max_position_embeddings",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "rope_scaling.factor",
                "rope_scaling.low_freq_factor",
                "rope_scaling.high_freq_factor",
                "rope_scaling.original_max_position_embeddings",
            ],
        ),
    ];
    for (base, fields) in needed {
        for field in fields {
            let name = field;
            for wrong in [Wrong::Missing, Wrong::Is(Value::Null)] {
                let error = error(base.clone(), field, wrong);
                assert!(matches!(error, ConfigError::Missing { .. }), "{error}");
                assert_eq!(key(&error), name);
            }
            let other = if field == "model_type" { json!(7) } else { json!("7") };
            for wrong in [json!([]), json!({"a": 1}), json!(true), other] {
                let error = error(base.clone(), field, Wrong::Is(wrong));
                assert!(matches!(error, ConfigError::Type { .. }), "{error}");
                assert_eq!(key(&error), name);
                assert!(error.to_string().contains(name) && error.to_string().contains("must be"), "{error}");
            }
        }
    }
    let optional = [
        (gpt2(), "activation_function", json!(1)),
        (gpt2(), "attn_pdrop", json!("0.1")),
        (gpt2(), "bias", json!("yes")),
        (gpt2(), "tie_word_embeddings", json!(1)),
        (gpt2(), "n_inner", json!(-1)),
        (gpt2(), "bos_token_id", json!(-1)),
        (gpt2(), "bos_token_id", json!(4_294_967_296_u64)),
        (gpt2(), "eos_token_id", json!([1, "2"])),
        (gpt2(), "eos_token_id", json!([1, [2]])),
        (gpt2(), "eos_token_id", json!({})),
        (gpt2(), "scale_attn_weights", json!(0)),
        (llama(), "rope_theta", json!("1e4")),
        (llama(), "rope_scaling", json!(8.0)),
        (llama(), "rope_scaling", json!([])),
        (llama(), "rope_parameters", json!(1)),
        (llama(), "rope_scaling.rope_type", json!(3)),
        (llama(), "num_key_value_heads", json!(1.5)),
        (llama(), "head_dim", json!("8")),
        (llama(), "hidden_act", json!(["silu"])),
        (llama(), "attention_bias", json!("false")),
        (llama(), "rms_norm_eps", json!([1e-5])),
    ];
    for (base, field, wrong) in optional {
        let error = error(base, field, Wrong::Is(wrong));
        assert!(matches!(error, ConfigError::Type { .. }), "{field}: {error}");
        assert_eq!(key(&error), field);
    }
}

/// Each case: a field, a value that makes no model, and the field that the error names.
fn refuses(base: fn() -> Value, cases: Vec<(&str, Value, &str)>) {
    for (field, wrong, named) in cases {
        let error = error(base(), field, Wrong::Is(wrong.clone()));
        assert!(matches!(error, ConfigError::Invalid { .. }), "{field} = {wrong}: {error}");
        assert_eq!(key(&error), named, "{field} = {wrong}: {error}");
        // The message says the field, and ends in what would do.
        let message = error.to_string();
        assert!(message.contains(&format!("`{named}` = ")) && message.contains(": "), "{message}");
        let path = std::path::Path::new("models/some/config.json");
        assert!(error.in_file(path).to_string().starts_with("models/some/config.json: "), "{message}");
    }
}

#[test]
fn values_that_make_no_gpt2_are_named() {
    let max = json!(u64::MAX);
    let cases = vec![
        ("model_type", json!("gpt5"), "model_type"),
        ("model_type", json!(""), "model_type"),
        ("vocab_size", json!(0), "vocab_size"),
        ("vocab_size", max.clone(), "vocab_size"),
        ("vocab_size", json!(96), "bos_token_id"),
        ("n_positions", json!(0), "n_positions"),
        ("n_positions", max.clone(), "n_positions"),
        ("n_embd", json!(0), "n_embd"),
        ("n_embd", json!(33), "n_head"),
        ("n_embd", json!(1_u64 << 63), "n_embd"),
        ("n_embd", json!(1 << 24), "n_inner"),
        ("n_head", json!(0), "n_head"),
        ("n_head", json!(3), "n_head"),
        ("n_head", max.clone(), "n_head"),
        ("n_layer", json!(0), "n_layer"),
        ("n_layer", json!(1 << 24), "n_layer"),
        ("n_layer", max.clone(), "n_layer"),
        ("n_inner", json!(0), "n_inner"),
        ("n_inner", max.clone(), "n_inner"),
        ("activation_function", json!("relu"), "activation_function"),
        ("layer_norm_epsilon", json!(0), "layer_norm_epsilon"),
        ("layer_norm_epsilon", json!(-1e-5), "layer_norm_epsilon"),
        ("layer_norm_epsilon", json!(1e-60), "layer_norm_epsilon"),
        ("layer_norm_epsilon", json!(2.0), "layer_norm_epsilon"),
        ("initializer_range", json!(-0.1), "initializer_range"),
        ("initializer_range", json!(1e300), "initializer_range"),
        ("embd_pdrop", json!(1.0), "embd_pdrop"),
        ("attn_pdrop", json!(-0.5), "attn_pdrop"),
        ("resid_pdrop", json!(0.999_999_999_999), "resid_pdrop"),
        ("bos_token_id", json!(97), "bos_token_id"),
        ("eos_token_id", json!([0, 97]), "eos_token_id"),
        ("scale_attn_weights", json!(false), "scale_attn_weights"),
        ("scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx"),
    ];
    refuses(gpt2, cases);
}

#[test]
fn values_that_make_no_llama_are_named() {
    let max = json!(u64::MAX);
    let cases = vec![
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_attention_heads", json!(5), "num_key_value_heads"),
        ("num_key_value_heads", json!(0), "num_key_value_heads"),
        ("num_key_value_heads", json!(3), "num_key_value_heads"),
        ("num_key_value_heads", json!(8), "num_key_value_heads"),
        ("num_key_value_heads", max.clone(), "num_key_value_heads"),
        ("head_dim", json!(0), "head_dim"),
        ("head_dim", json!(7), "head_dim"),
        ("head_dim", max.clone(), "head_dim"),
        ("hidden_size", json!(0), "hidden_size"),
        ("hidden_size", max.clone(), "hidden_size"),
        ("intermediate_size", json!(0), "intermediate_size"),
        ("num_hidden_layers", json!(1025), "num_hidden_layers"),
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("use_sliding_window", json!(true), "use_sliding_window"),
        ("rope_theta", json!(0), "rope_theta"),
        ("rope_theta", json!(-1e4), "rope_theta"),
        ("rope_scaling.rope_type", json!("ntk"), "rope_scaling.rope_type"),
        ("rope_scaling.rope_type", json!("yarn"), "rope_scaling.high_freq_factor"),
        ("rope_scaling.factor", json!(0), "rope_scaling.factor"),
        ("rope_scaling.factor", json!(-8), "rope_scaling.factor"),
        ("rope_scaling.low_freq_factor", json!(4.0), "rope_scaling.high_freq_factor"),
        ("rope_scaling.high_freq_factor", json!(0.5), "rope_scaling.high_freq_factor"),
        ("rms_norm_eps", json!(1.0), "rms_norm_eps"),
        ("attention_dropout", json!(1.5), "attention_dropout"),
        ("vocab_size", json!(3), "eos_token_id"),
        ("max_position_embeddings", json!((1 << 24) + 1), "max_position_embeddings"),
    ];
    refuses(llama, cases);
}

#[test]
fn what_is_too_vast_or_no_object_is_named() {
    // Each number by itself is possible, all together are beyond any memory.
    let mut vast = llama();
    for (field, n) in
        [("hidden_size", 1 << 24), ("intermediate_size", 1 << 24), ("vocab_size", 1 << 24), ("num_hidden_layers", 1024)]
    {
        vast[field] = json!(n);
    }
    let error = ModelConfig::from_json(&vast).unwrap_err();
    assert_eq!(key(&error), "hidden_size");
    assert!(error.to_string().contains("parameters"), "{error}");
    // What is no object at all.
    for wrong in [json!(null), json!([]), json!("gpt2"), json!(7), json!(true)] {
        assert_eq!(key(&ModelConfig::from_json(&wrong).unwrap_err()), "config");
    }
    assert_eq!(key(&ModelConfig::from_json(&json!({})).unwrap_err()), "model_type");
}

#[test]
fn long_text_from_a_file_does_not_flood_a_message() {
    let mut config = gpt2();
    config["n_layer"] = json!("x".repeat(100_000));
    let error = ModelConfig::from_json(&config).unwrap_err();
    assert!(error.to_string().len() < 300);
    for key in ["model_type", "activation_function"] {
        let mut config = gpt2();
        config[key] = json!("x".repeat(100_000));
        let error = ModelConfig::from_json(&config).unwrap_err();
        assert!(error.to_string().len() < 500, "{key}: {} bytes", error.to_string().len());
    }
}

#[test]
fn flops_are_those_of_the_closed_formula() {
    // nanoGPT's: 6 N + 12 L H Q T for a token of a full-length sequence; here the causal half of attention, and the
    // head's matrix once.
    let config = preset::find("nanogpt-cpu").unwrap().config();
    let matrices = 4 * 12 * 128 * 128 + 65 * 128;
    let attention = 4 * 4 * 128 * 65 / 4;
    assert_eq!(config.training_flops_per_token(64), 6.0 * f64::from(matrices + attention));
    // Of 64 queries, 8 see 1 to 8 keys and the others 8, in every second of the four layers.
    let local = ModelConfig { attention_windows: AttentionWindows::of_layers(8, &[true, false]), ..config };
    let attention = 2.0 * 4.0 * 128.0 * (32.5 + (36.0 + 56.0 * 8.0) / 64.0) / 2.0;
    assert_eq!(local.training_flops_per_token(64), 6.0 * (f64::from(matrices) + attention));
}

#[test]
fn a_pattern_of_windows_is_as_short_as_it_can_be() {
    let of = |local: &[bool]| AttentionWindows::of_layers(7, local);
    let pattern = |local: &[bool]| AttentionWindows::Pattern { window: 7, local: local.to_vec() };
    assert_eq!(of(&[]), AttentionWindows::None);
    assert_eq!(of(&[false; 3]), AttentionWindows::None);
    assert_eq!(of(&[true; 3]), AttentionWindows::All(7));
    assert_eq!(of(&[true, false, true, false, true]), pattern(&[true, false]));
    assert_eq!(of(&[false, false, true]), pattern(&[false, false, true]));
    let seen: Vec<Option<usize>> = (0..5).map(|layer| pattern(&[false, true, true]).of(layer)).collect();
    assert_eq!(seen, [None, Some(7), Some(7), None, Some(7)]);
}
