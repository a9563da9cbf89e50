//! No key of a `config.json` that may change what the model computes is passed over.

use serde_json::{Map, Value, json};
use smallmind_graph::op::{Llama3Scaling, RopeScaling};
use smallmind_model::{
    AttentionWindows, ConfigError, Family, KeyRule, ModelConfig, RopeConfig, Supported, UnknownKeys, config_keys,
};

use super::{gpt2, key, llama};

const FAMILIES: [Family; 18] = Family::ALL;

fn base(family: Family) -> Value {
    let mut base = if family == Family::Gpt2 { gpt2() } else { llama() };
    base["model_type"] = json!(family.name());
    let (drop, more): (&[&str], Value) = match family {
        Family::Gpt2 | Family::Llama | Family::Qwen2 | Family::Granite | Family::SmolLm3 => (&[], json!({})),
        Family::Qwen3 | Family::Olmo2 => (&["mlp_bias"], json!({})),
        Family::Gemma => (&["mlp_bias"], json!({"hidden_act": "gelu"})),
        Family::Gemma2 => (&["mlp_bias"], json!({"hidden_act": "gelu", "sliding_window": 4})),
        Family::Gemma3 => (&["mlp_bias", "rope_scaling"], json!({"hidden_act": "gelu_pytorch_tanh"})),
        Family::Qwen3Moe | Family::GraniteMoe => (&["mlp_bias"], json!({})),
        Family::Olmoe => (&["mlp_bias", "head_dim"], json!({})),
        Family::Mixtral => (&["attention_bias", "mlp_bias"], json!({})),
        Family::Mistral => (&["attention_bias", "mlp_bias"], json!({"sliding_window": null})),
        Family::StableLm => {
            (&["attention_bias", "mlp_bias", "head_dim", "rms_norm_eps"], json!({"partial_rotary_factor": 0.5}))
        }
        Family::Phi3 => (&["rope_scaling"], json!({"original_max_position_embeddings": 16})),
        Family::GptNeoX => (
            &["mlp_bias", "head_dim", "rms_norm_eps", "num_key_value_heads", "rope_theta"],
            json!({"hidden_act": "gelu", "rotary_pct": 0.25, "rotary_emb_base": 5e5}),
        ),
    };
    let map = base.as_object_mut().unwrap();
    map.retain(|key, _| !drop.contains(&key.as_str()));
    map.extend(more.as_object().unwrap().clone());
    base
}

/// The base with one more key, or another value of one; the path may lead into an object.
fn with(base: Value, path: &str, value: Value) -> Value {
    let mut changed = base;
    let mut object = changed.as_object_mut().unwrap();
    let mut last = path;
    while let Some((outer, inner)) = last.split_once('.').filter(|_| path.starts_with("rope_")) {
        object = object.entry(outer).or_insert_with(|| json!({})).as_object_mut().unwrap();
        last = inner;
    }
    object.insert(last.to_owned(), value);
    changed
}

fn refused(config: &Value) -> ConfigError {
    ModelConfig::from_json(config).expect_err("it has to be refused")
}

/// What a file could hold under any key.
fn values() -> Vec<Value> {
    vec![
        json!(true),
        json!(false),
        json!(0),
        json!(1.5),
        json!("text"),
        json!([]),
        json!(["x"]),
        json!({}),
        json!({"a": 1}),
    ]
}

#[test]
fn keys_in_no_line_of_the_table_are_refused_by_name() {
    for family in FAMILIES {
        for unknown in ["logit_scale", "attn_logit_softcap", "q_norm", "Bias", "", "sliding_windows"] {
            for value in values() {
                let config = with(base(family), unknown, value);
                let error = refused(&config).in_file("some/config.json");
                assert!(matches!(error, ConfigError::Unknown { .. }), "{error}");
                assert_eq!(key(&error), unknown);
                let message = error.to_string();
                assert!(message.starts_with("some/config.json: the key `") && message.contains(unknown), "{message}");
                // Nothing else stands in the way of those who want to go on.
                let allowed = ModelConfig::from_json_with(&config, UnknownKeys::Allow).unwrap();
                assert_eq!(allowed, ModelConfig::from_json(&base(family)).unwrap());
                assert_eq!(ModelConfig::unknown_keys(&config).unwrap(), [unknown]);
            }
            assert!(ModelConfig::from_json(&with(base(family), unknown, Value::Null)).is_ok(), "null sets nothing");
        }
        // A key of another family means nothing here.
        let foreign = if family == Family::Gpt2 { "rope_theta" } else { "n_embd" };
        assert_eq!(key(&refused(&with(base(family), foreign, json!(8)))), foreign);
    }
    let nested = with(llama(), "rope_scaling.attention_scale", json!(2.0));
    assert_eq!(key(&refused(&nested)), "rope_scaling.attention_scale");
    // Many at once: the first few and their number.
    let mut many = gpt2();
    (0..20).for_each(|i| many[format!("x{i:02}")] = json!(i));
    let message = refused(&many).to_string();
    assert!(message.contains("20 keys (`x00`, `x01`, ") && !message.contains("x09"), "{message}");
    let long = refused(&with(gpt2(), &"k".repeat(100_000), json!(1))).to_string();
    assert!(long.len() < 300, "{} bytes", long.len());
}

#[test]
fn every_line_of_the_table_does_what_it_says() {
    for family in FAMILIES {
        let plain = ModelConfig::from_json(&base(family)).unwrap();
        for (path, rule) in config_keys(family) {
            for value in values().into_iter().chain([Value::Null, json!(1.0), json!(1)]) {
                let read = ModelConfig::from_json(&with(base(family), &path, value.clone()));
                let same = read.as_ref().is_ok_and(|config| *config == plain);
                match rule {
                    KeyRule::NoMatter(why) => assert!(same && !why.is_empty(), "{path} = {value}: {read:?}"),
                    KeyRule::Only(supported) => {
                        let is = |supported: &Supported| match supported {
                            Supported::Null => value.is_null(),
                            Supported::Is(flag) => value == json!(flag),
                            Supported::Number(number) => value.as_f64() == Some(*number),
                            Supported::Empty => value == json!({}) || value == json!([]),
                        };
                        if supported.iter().any(is) {
                            assert!(same || path.starts_with("rope_parameters."), "{path} = {value}: {read:?}");
                        } else {
                            assert_eq!(key(&read.unwrap_err()), path, "{value}");
                        }
                    }
                    KeyRule::Same(other) => {
                        assert_eq!(same, base(family)[other] == value, "{path} = {value}: {read:?}");
                    }
                    // Such an object is no value of any of them; `rope_parameters` doesn't count beside `rope_scaling`.
                    KeyRule::Read
                        if value == json!({"a": 1})
                            && (!path.starts_with("rope_parameters.") || path.ends_with("_attention")) =>
                    {
                        assert!(read.is_err(), "{path}");
                    }
                    KeyRule::Read => assert!(!matches!(read, Err(ConfigError::Unknown { .. })), "{path} = {value}"),
                }
            }
        }
    }
    for family in FAMILIES {
        for (n, name) in [("n_embd", "hidden_size"), ("n_positions", "max_position_embeddings")] {
            let expected = if family == Family::Gpt2 { n } else { name };
            assert!(config_keys(family).any(|(key, _)| key == expected), "{expected}");
        }
    }
}

#[test]
fn what_transformers_refuses_or_computes_otherwise_is_refused() {
    for (base, path, value) in [
        (gpt2(), "is_causal", json!(false)),
        (gpt2(), "is_causal", Value::Null),
        (llama(), "is_causal", json!(false)),
        (llama(), "quantization_config", json!({"quant_method": "gptq", "bits": 4})),
        (gpt2(), "quantization_config", json!({"load_in_8bit": true})),
        (gpt2(), "quantization_config", json!({})),
        (gpt2(), "tie_word_embeddings", Value::Null),
        (llama(), "tie_word_embeddings", Value::Null),
        (llama(), "rms_norm_eps", Value::Null),
        (gpt2(), "scale_attn_weights", Value::Null),
        (llama(), "layer_types", json!(["full_attention", "sliding_attention"])),
        (base(Family::Qwen2), "layer_types", json!(["sliding_attention", "sliding_attention"])),
        (base(Family::Qwen2), "layer_types", json!(["full_attention"])),
        (base(Family::Qwen2), "use_sliding_window", Value::Null),
        (base(Family::Qwen2), "layer_types", json!(["full_attention", "chunked_attention"])),
        (llama(), "partial_rotary_factor", json!(0.5)),
        (llama(), "rope_scaling.partial_rotary_factor", json!(0.5)),
        (llama(), "original_max_position_embeddings", json!(8)),
        (gpt2(), "hidden_size", json!(64)),
        (gpt2(), "add_cross_attention", json!(true)),
        // Keys of a scaling that another one has.
        (llama(), "rope_scaling.attention_factor", json!(2.0)),
        (llama(), "rope_scaling.beta_fast", json!(2.0)),
        (base(Family::Qwen2), "attention_bias", json!(true)),
        (base(Family::Phi3), "rope_scaling.rope_type", json!("linear")),
        (base(Family::Phi3), "full_attn_mod", json!(2)),
        (base(Family::StableLm), "qk_layernorm", json!(true)),
        (base(Family::StableLm), "partial_rotary_factor", json!(0.4)),
        (base(Family::StableLm), "head_dim", json!(16)),
        (base(Family::SmolLm3), "use_sliding_window", json!(true)),
        (base(Family::SmolLm3), "no_rope_layers", json!([1])),
        (base(Family::SmolLm3), "no_rope_layers", json!([1, 2])),
        (base(Family::SmolLm3), "no_rope_layer_interval", json!(0)),
        (base(Family::GptNeoX), "rotary_pct", json!(0.4)),
        (base(Family::GptNeoX), "partial_rotary_factor", json!(0.5)),
        (base(Family::GptNeoX), "hidden_act", json!("relu")),
        (base(Family::Granite), "logits_scaling", json!(-1)),
        (base(Family::Gemma), "hidden_act", json!("silu")),
        (base(Family::Gemma), "hidden_activation", json!("gelu")),
        (base(Family::Qwen3Moe), "num_experts", json!(0)),
        (base(Family::Qwen3Moe), "num_experts_per_tok", json!(129)),
        (base(Family::Qwen3Moe), "moe_intermediate_size", json!(0)),
        (base(Family::Qwen3Moe), "decoder_sparse_step", json!(2)),
        (base(Family::Qwen3Moe), "mlp_only_layers", json!([0])),
        (base(Family::Mixtral), "num_local_experts", json!(0)),
        (base(Family::Mixtral), "output_router_logits", json!(true)),
        (base(Family::Olmoe), "clip_qkv", json!(8.0)),
        (base(Family::Gemma2), "sliding_window", Value::Null),
        (base(Family::Gemma2), "sliding_window_size", json!(5)),
        (base(Family::Gemma2), "query_pre_attn_scalar", json!(0)),
        (base(Family::Gemma2), "attn_logit_softcapping", json!(0.0)),
        (base(Family::Gemma2), "final_logit_softcapping", json!(-1.0)),
        (base(Family::Gemma3), "sliding_window_pattern", json!(0)),
        (base(Family::Gemma3), "attn_logit_softcapping", json!(50.0)),
        (base(Family::Gemma3), "rope_local_base_freq", json!("x")),
        (base(Family::Gemma3), "rope_parameters.rope_theta", json!(5.0)),
        (base(Family::Gemma3), "rope_parameters.sliding_attention.scale", json!(5.0)),
        (base(Family::Gemma3), "rope_parameters.sliding_attention.rope_theta", json!(-5.0)),
        (
            base(Family::Gemma3),
            "rope_parameters.sliding_attention",
            json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}),
        ),
    ] {
        let error = refused(&with(base, path, value.clone()));
        // The kind of a rotation is named within its object.
        let named = key(&error);
        assert!(named == path || named == format!("{path}.rope_type"), "{value}: {error}");
    }
    let full = with(base(Family::Qwen2), "layer_types", json!(["full_attention", "attention"]));
    assert!(ModelConfig::from_json(&full).is_ok());
}

#[test]
fn windows_are_those_of_transformers() {
    let pattern = |window, local: &[bool]| AttentionWindows::Pattern { window, local: local.to_vec() };
    let layers = |types: [&str; 2]| json!(types.map(|name| format!("{name}_attention")));
    for (keys, expected) in [
        (json!({"sliding_window": 4}), AttentionWindows::None),
        (json!({"sliding_window": 4, "use_sliding_window": false, "max_window_layers": 0}), AttentionWindows::None),
        // From layer 28 on.
        (json!({"sliding_window": 4, "use_sliding_window": true}), AttentionWindows::None),
        (json!({"use_sliding_window": true, "max_window_layers": 0}), AttentionWindows::All(4096)),
        (json!({"use_sliding_window": true, "max_window_layers": 0, "sliding_window": null}), AttentionWindows::None),
        (json!({"sliding_window": 4, "use_sliding_window": true, "max_window_layers": 1}), pattern(4, &[false, true])),
        (
            json!({"sliding_window": 4, "use_sliding_window": true, "max_window_layers": 0,
                   "layer_types": layers(["sliding", "full"])}),
            pattern(4, &[true, false]),
        ),
        (
            json!({"sliding_window": 4, "use_sliding_window": true, "layer_types": layers(["sliding", "sliding"])}),
            AttentionWindows::All(4),
        ),
    ] {
        let mut config = base(Family::Qwen2);
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        assert_eq!(ModelConfig::from_json(&config).unwrap().attention_windows, expected, "{keys}");
    }
    for (family, value, expected) in [
        (Family::Mistral, json!(63), AttentionWindows::All(63)),
        (Family::Mistral, json!(64), AttentionWindows::None),
        (Family::Mistral, Value::Null, AttentionWindows::None),
        (Family::Phi3, json!(8), AttentionWindows::All(8)),
    ] {
        let config = with(base(family), "sliding_window", value.clone());
        assert_eq!(ModelConfig::from_json(&config).unwrap().attention_windows, expected, "{family} {value}");
    }
    // Each second layer, or each sixth, has none.
    let read = |config: &Value| ModelConfig::from_json(config).unwrap().attention_windows;
    assert_eq!(read(&base(Family::Gemma2)), pattern(4, &[true, false]));
    assert_eq!(read(&base(Family::Gemma3)), AttentionWindows::All(4096));
    let seven = with(base(Family::Gemma3), "num_hidden_layers", json!(7));
    assert_eq!(read(&seven), pattern(4096, &[true, true, true, true, true, false]));
    assert_eq!(read(&with(seven.clone(), "sliding_window_pattern", json!(3))), pattern(4096, &[true, true, false]));
    assert_eq!(read(&with(seven, "sliding_window_pattern", json!(1))), AttentionWindows::None);
    let listed = with(base(Family::Gemma3), "layer_types", layers(["full", "sliding"]));
    assert_eq!(read(&listed), pattern(4096, &[false, true]));
    for (key_of, value) in
        [("sliding_window", json!(0)), ("sliding_window", json!(1 << 25)), ("sliding_window", json!("a"))]
    {
        let config = with(with(base(Family::Qwen2), "use_sliding_window", json!(true)), "max_window_layers", json!(0));
        assert_eq!(key(&refused(&with(config, key_of, value))), key_of);
    }
}

#[test]
fn layers_with_a_window_have_a_rotation_of_their_own() {
    let plain = |theta| RopeConfig { theta, ..RopeConfig::default() };
    let linear = |theta, factor| RopeConfig { scaling: Some(RopeScaling::Linear { factor }), ..plain(theta) };
    let scaling = json!({"rope_type": "linear", "factor": 8.0});
    for (keys, local, global) in [
        (json!({}), plain(1e4), plain(1e6)),
        (json!({"rope_theta": 5e5, "rope_local_base_freq": 30}), plain(30.0), plain(5e5)),
        (json!({"rope_theta": 5e5, "rope_scaling": scaling}), plain(1e4), linear(5e5, 8.0)),
        // As newer files hold them, with defaults from beside the objects.
        (
            json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 3e3},
                                       "sliding_attention": {"rope_type": "default", "rope_theta": 70.0}},
                   "rope_theta": 9.0, "rope_local_base_freq": 9.0}),
            plain(70.0),
            linear(3e3, 2.0),
        ),
        (
            json!({"rope_parameters": {"full_attention": scaling, "sliding_attention": null}, "rope_theta": 5e5,
                   "rope_local_base_freq": 30.0, "rope_scaling": {}}),
            plain(30.0),
            linear(5e5, 8.0),
        ),
    ] {
        let mut config = with(base(Family::Gemma3), "sliding_window_pattern", json!(2));
        let map = config.as_object_mut().unwrap();
        map.remove("rope_theta");
        map.extend(keys.as_object().unwrap().clone());
        let positions = ModelConfig::from_json(&config).unwrap().positions;
        assert_eq!(positions.rope_of(0), Some(&local), "{keys}");
        assert_eq!(positions.rope_of(1), Some(&global), "{keys}");
    }
    let both = with(base(Family::Gemma3), "rope_scaling", scaling.clone());
    let both = with(both, "rope_parameters", json!({"full_attention": scaling}));
    assert_eq!(key(&refused(&both)), "rope_scaling");
}

#[test]
fn the_rope_that_counts_is_the_one_that_counts_in_transformers() {
    let rope = |keys: Value| {
        let mut config = llama();
        let map = config.as_object_mut().unwrap();
        map.retain(|key, _| key != "rope_theta" && key != "rope_scaling");
        map.extend(keys.as_object().unwrap().clone());
        ModelConfig::from_json(&config).map(|config| config.positions.rope().unwrap().clone())
    };
    let plain = |theta| RopeConfig { theta, ..RopeConfig::default() };
    let llama3 = |theta, factor| RopeConfig {
        scaling: Some(RopeScaling::Llama3(Llama3Scaling {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 16,
        })),
        ..plain(theta)
    };
    let scaled = |factor: f64, theta: Value| {
        let mut object = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 16});
        if !theta.is_null() {
            object["rope_theta"] = theta;
        }
        object
    };
    for (keys, expected) in [
        (json!({}), plain(1e4)),
        (json!({"rope_theta": 5e5}), plain(5e5)),
        // A theta within the object.
        (json!({"rope_scaling": {"rope_theta": 5e5}}), plain(5e5)),
        (json!({"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}}), plain(5e5)),
        (json!({"rope_scaling": scaled(8.0, json!(5e5))}), llama3(5e5, 8.0)),
        (json!({"rope_scaling": scaled(8.0, json!(5e5)), "rope_theta": 7e5}), llama3(5e5, 8.0)),
        (json!({"rope_scaling": scaled(8.0, json!(null)), "rope_theta": 7e5}), llama3(7e5, 8.0)),
        // Both objects: the older key counts, whole, unless it is empty.
        (
            json!({"rope_scaling": scaled(8.0, json!(null)), "rope_parameters": scaled(2.0, json!(5e5))}),
            llama3(1e4, 8.0),
        ),
        (json!({"rope_scaling": {"rope_theta": 3e3}, "rope_parameters": scaled(2.0, json!(5e5))}), plain(3e3)),
        (json!({"rope_scaling": {}, "rope_parameters": scaled(2.0, json!(5e5))}), llama3(5e5, 2.0)),
        (json!({"rope_scaling": null, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}), plain(5e5)),
        // The older name of the type.
        (json!({"rope_scaling": {"type": "default"}, "rope_theta": 7e5}), plain(7e5)),
    ] {
        assert_eq!(rope(keys.clone()).unwrap(), expected, "{keys}");
    }
    for (keys, named) in [
        (json!({"rope_scaling": {"factor": 8}}), "rope_scaling.rope_type"),
        (json!({"rope_parameters": {"factor": 8, "rope_theta": 1e4}}), "rope_parameters.rope_type"),
        (json!({"rope_scaling": {"rope_type": "default", "factor": 8}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "proportional", "factor": 8}}), "rope_scaling.rope_type"),
        (json!({"rope_scaling": {"rope_theta": 0}}), "rope_scaling.rope_theta"),
        (json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}), "rope_parameters.full_attention"),
        // The object that doesn't count is checked too.
        (json!({"rope_scaling": {"rope_theta": 3e3}, "rope_parameters": {"mscale": 32}}), "rope_parameters.mscale"),
    ] {
        assert_eq!(key(&rope(keys.clone()).unwrap_err()), named, "{keys}");
    }
}

/// What transformers 4.57 and 5.24 write for every model (`Config().to_dict()`), with their defaults.
fn written_by_transformers() -> [Map<String, Value>; 2] {
    let older = r#"{
        "return_dict": true, "output_hidden_states": false, "torchscript": false, "dtype": null, "pruned_heads": {},
        "chunk_size_feed_forward": 0, "is_encoder_decoder": false, "is_decoder": false,
        "cross_attention_hidden_size": null, "add_cross_attention": false, "tie_encoder_decoder": false,
        "architectures": null, "finetuning_task": null, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "task_specific_params": null, "problem_type": null,
        "tokenizer_class": null, "prefix": null, "pad_token_id": null, "sep_token_id": null,
        "decoder_start_token_id": null, "max_length": 20, "min_length": 0, "do_sample": false, "early_stopping": false,
        "num_beams": 1, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0,
        "length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "bad_words_ids": null,
        "num_return_sequences": 1, "output_scores": false, "return_dict_in_generate": false,
        "forced_bos_token_id": null, "forced_eos_token_id": null, "remove_invalid_values": false,
        "exponential_decay_length_penalty": null, "suppress_tokens": null, "begin_suppress_tokens": null,
        "num_beam_groups": 1, "diversity_penalty": 0.0, "_name_or_path": "", "transformers_version": "4.57.6",
        "tf_legacy_loss": false, "use_bfloat16": false, "output_attentions": false, "use_cache": true
    }"#;
    let newer = r#"{
        "transformers_version": "5.24.0", "architectures": null, "output_hidden_states": false, "return_dict": true,
        "dtype": null, "chunk_size_feed_forward": 0, "is_encoder_decoder": false,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "problem_type": null,
        "use_cache": true, "pad_token_id": null, "_name_or_path": "", "output_attentions": false
    }"#;
    [older, newer].map(|text| serde_json::from_str(text).unwrap())
}

/// What they write for a family beside that.
fn own_keys(family: Family, newer: bool) -> Map<String, Value> {
    let mut own = match family {
        Family::Gpt2 => json!({
            "n_inner": null, "summary_type": "cls_index", "summary_use_proj": true, "summary_activation": null,
            "summary_first_dropout": 0.1, "summary_proj_to_labels": true, "scale_attn_weights": true,
            "scale_attn_by_inverse_layer_idx": false, "reorder_and_upcast_attn": false, "add_cross_attention": false,
            "tie_word_embeddings": true
        }),
        Family::Llama => json!({"pretraining_tp": 1, "attention_bias": false, "mlp_bias": false}),
        Family::Qwen2 => json!({
            "use_sliding_window": false, "sliding_window": null, "max_window_layers": 28,
            "layer_types": ["full_attention", "full_attention"]
        }),
        Family::Qwen3 => json!({
            "use_sliding_window": false, "sliding_window": null, "max_window_layers": 28, "attention_bias": false,
            "layer_types": ["full_attention", "full_attention"]
        }),
        Family::Olmo2 => json!({"attention_bias": false}),
        Family::Granite => json!({
            "attention_bias": false, "mlp_bias": false, "embedding_multiplier": 1.0, "logits_scaling": 1.0,
            "residual_multiplier": 1.0, "attention_multiplier": 1.0
        }),
        Family::SmolLm3 => json!({
            "use_sliding_window": false, "sliding_window": null, "no_rope_layers": [1, 1], "attention_bias": false,
            "no_rope_layer_interval": 4, "layer_types": ["full_attention", "full_attention"], "mlp_bias": false
        }),
        Family::StableLm => json!({
            "use_qkv_bias": false, "qk_layernorm": false, "use_parallel_residual": false, "hidden_dropout": 0.0,
            "layer_norm_eps": 1e-5
        }),
        Family::Phi3 => json!({
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "original_max_position_embeddings": 4096, "sliding_window": null
        }),
        Family::GptNeoX => json!({
            "hidden_dropout": 0.0, "classifier_dropout": 0.1, "layer_norm_eps": 1e-5, "use_parallel_residual": true,
            "attention_bias": true
        }),
        Family::Gemma => json!({"attention_bias": false, "use_bidirectional_attention": null}),
        Family::Gemma2 => json!({
            "attention_bias": false, "use_bidirectional_attention": null, "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
            "hidden_activation": "gelu_pytorch_tanh"
        }),
        Family::Gemma3 => json!({
            "attention_bias": false, "use_bidirectional_attention": false, "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "layer_types": ["sliding_attention", "sliding_attention"],
            "final_logit_softcapping": null, "attn_logit_softcapping": null, "_sliding_window_pattern": 6,
            "hidden_activation": "gelu_pytorch_tanh"
        }),
        Family::Qwen3Moe => json!({
            "use_sliding_window": false, "sliding_window": null, "attention_bias": false, "decoder_sparse_step": 1,
            "moe_intermediate_size": 768, "num_experts_per_tok": 8, "num_local_experts": 128, "norm_topk_prob": true,
            "output_router_logits": false, "router_aux_loss_coef": 0.001, "mlp_only_layers": [], "intermediate_size": 9
        }),
        Family::Olmoe => json!({
            "attention_bias": false, "clip_qkv": null, "num_experts_per_tok": 8, "num_experts": 64,
            "norm_topk_prob": false, "output_router_logits": false, "router_aux_loss_coef": 0.01
        }),
        Family::GraniteMoe => json!({
            "attention_bias": false, "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0,
            "attention_multiplier": 1.0, "num_local_experts": 8, "num_experts_per_tok": 2,
            "output_router_logits": false, "router_aux_loss_coef": 0.001
        }),
        Family::Mixtral => json!({
            "sliding_window": null, "num_local_experts": 8, "num_experts_per_tok": 2, "output_router_logits": false,
            "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0
        }),
        Family::Mistral => json!({"sliding_window": null}),
    };
    if family == Family::Gemma3 && newer {
        own["rope_parameters"] = json!({
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0}
        });
    } else if family != Family::Gpt2 {
        let rope = json!({"rope_theta": 10_000.0, "rope_type": "default"});
        let (key, value) = if newer { ("rope_parameters", rope) } else { ("rope_scaling", Value::Null) };
        own[key] = value;
    }
    own.as_object().unwrap().clone()
}

#[test]
fn what_transformers_writes_loads() {
    for family in FAMILIES {
        for (i, common) in written_by_transformers().into_iter().enumerate() {
            let mut config = base(family);
            let map = config.as_object_mut().unwrap();
            if i == 1 {
                map.retain(|key, _| key != "rope_theta" && key != "rope_scaling");
            }
            map.extend(common);
            map.extend(own_keys(family, i == 1));
            if let Err(error) = ModelConfig::from_json(&config) {
                panic!("{family}, {}: {error}", config["transformers_version"]);
            }
        }
    }
}

/// Keys of published files that no newer transformers writes.
#[test]
fn what_was_published_loads() {
    for (family, keys) in [
        // GPT-2 in its four sizes, DistilGPT2.
        (
            Family::Gpt2,
            json!({"n_ctx": 64, "n_special": 0, "predict_special_tokens": true, "output_past": true,
            "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}, "_num_labels": 1,
            "gradient_checkpointing": false, "resid_pdrop": 0.1, "hidden_size": 32}),
        ),
        // Llama 1 and 2, TinyLlama.
        (
            Family::Llama,
            json!({"_name_or_path": "x", "max_sequence_length": 2048, "pad_token_id": -1, "pretraining_tp": 1,
            "rope_scaling": null, "torch_dtype": "float16", "transformers_version": "4.31.0", "use_cache": true}),
        ),
        // SmolLM and SmolLM2.
        (
            Family::Llama,
            json!({"is_llama_config": true, "rope_interleaved": false, "initializer_range": 0.041_666,
            "transformers.js_config": {"dtype": "q4", "kv_cache_dtype": {"q4f16": "float16"}}, "rope_theta": 100_000}),
        ),
        // Qwen2 and Qwen2.5.
        (
            Family::Qwen2,
            json!({"max_window_layers": 21, "sliding_window": 131_072, "use_sliding_window": false,
            "use_mrope": false, "rope_scaling": null, "rope_theta": 1_000_000.0}),
        ),
        // Gemma 2 and 3.
        (
            Family::Gemma2,
            json!({"cache_implementation": "hybrid", "sliding_window": 4096, "sliding_window_size": 4096,
            "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256}),
        ),
        (
            Family::Gemma3,
            json!({"cache_implementation": "hybrid", "sliding_window": 512, "sliding_window_pattern": 6,
            "rope_local_base_freq": 10_000, "rope_scaling": null, "rope_theta": 1_000_000, "eos_token_id": [1, 10]}),
        ),
    ] {
        let mut config = base(family);
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        if let Err(error) = ModelConfig::from_json(&config) {
            panic!("{family}: {error}");
        }
    }
}
