//! What a folder holds beside the tensors of its configuration: unused tensors, `generation_config.json`.

use std::fs;

use serde_json::{Value, json};
use smallmind_checkpoint::{GENERATION_FILE, INDEX_FILE, WEIGHTS_FILE};
use smallmind_model::sampler::{LogitBias, SamplerConfig};
use smallmind_model::{
    ConfigError, Head, LoadOptions, Model, ModelConfig, ModelError, ModelFiles, UnusedTensors, unused_tensors,
};

use super::{bare_gpt2, edit_config, folder, gpt2, llama, qwen2, rewrite};

type Tensor = (String, Vec<usize>, Vec<f32>);

fn tensor(name: &str, shape: &[usize], value: f32) -> Tensor {
    (name.to_owned(), shape.to_vec(), vec![value; shape.iter().product()])
}

/// The folder of a model whose file has more tensors.
fn folder_with(config: ModelConfig, more: &[Tensor]) -> tempfile::TempDir {
    let dir = folder(config);
    rewrite(dir.path(), |tensors| tensors.extend(more.iter().cloned()));
    dir
}

const ALLOWED: UnusedTensors = UnusedTensors::Allow;

#[test]
fn tensors_without_use_are_named() {
    for (config, name) in [
        (llama(), "model.layers.0.self_attn.q_proj.bias"),
        (llama(), "model.layers.1.self_attn.q_norm.weight"),
        (llama(), "model.layers.2.self_attn.rotary_emb.inv_freq"),
        (llama(), "model.layers.0.attn.bias"),
        (qwen2(), "model.layers.0.self_attn.o_proj.bias"),
        (gpt2(), "transformer.h.0.crossattention.c_attn.weight"),
        (gpt2(), "transformer.h.2.ln_1.weight"),
        (gpt2(), "transformer.h.2.attn.bias"),
        (gpt2(), "score.weight"),
        // The prefix decides which of two is read; the other is left over.
        (gpt2(), "h.0.ln_1.weight"),
    ] {
        let dir = folder_with(config.clone(), &[tensor(name, &[3], 1.0)]);
        let error = Model::load(dir.path()).unwrap_err();
        let ModelError::UnusedTensors { path, names } = &error else { panic!("{name}: {error}") };
        assert_eq!((path, &names[..]), (&dir.path().join(WEIGHTS_FILE), &[name.to_owned()][..]));
        assert!(error.to_string().contains(name) && error.to_string().contains(WEIGHTS_FILE), "{error}");
        let open = ModelFiles::open(dir.path()).unwrap();
        let allowed = Model::from_files(&open, LoadOptions { unused_tensors: ALLOWED, ..LoadOptions::default() });
        assert!(allowed.unwrap().weights() == Model::load(folder(config).path()).unwrap().weights());
    }
    // A whole layer more than the configuration has.
    let dir = folder(llama());
    edit_config(dir.path(), "num_hidden_layers", json!(1));
    let message = Model::load(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("9 tensors (`model.layers.1.input_layernorm.weight`, ") && message.contains(", …)"),
        "{message}"
    );
}

#[test]
fn buffers_that_follow_from_the_configuration_are_no_weights() {
    let masks = [tensor("h.1.attn.bias", &[1, 1, 12, 12], 1.0), tensor("transformer.h.0.attn.masked_bias", &[], -1e4)];
    assert!(Model::load(folder_with(gpt2(), &masks).path()).is_ok());
    let frequencies = [
        tensor("model.layers.0.self_attn.rotary_emb.inv_freq", &[3], 1.0),
        tensor("model.rotary_emb.inv_freq", &[3], 1.0),
    ];
    assert!(Model::load(folder_with(llama(), &frequencies).path()).is_ok());
}

#[test]
fn a_tied_model_uses_an_output_head_that_its_file_has() {
    for config in [gpt2(), llama(), qwen2()] {
        let config = ModelConfig { head: Head::Tied, ..config };
        let dir = folder(config.clone());
        let head = |change: f32| {
            rewrite(dir.path(), |tensors| {
                tensors.retain(|tensor| tensor.0 != "lm_head.weight");
                let mut head = tensors[0].clone();
                assert!(head.0.ends_with("wte.weight") || head.0.ends_with("embed_tokens.weight"));
                head.0 = "lm_head.weight".into();
                *head.2.last_mut().unwrap() += change;
                tensors.push(head);
            });
        };
        head(0.0);
        let tied = Model::load(dir.path()).unwrap();
        assert_eq!(tied.config().head, Head::Tied);
        head(0.5);
        let model = Model::load(dir.path()).unwrap();
        assert_eq!(model.config(), &ModelConfig { head: Head::Untied, ..config });
        let table = |model: &Model, name: &str| model.param(model.params().find(name).unwrap()).to_vec();
        let mut expected = table(&tied, "embed.tokens.weight");
        assert_eq!(table(&model, "embed.tokens.weight"), expected);
        *expected.last_mut().unwrap() += 0.5;
        assert_eq!(table(&model, "head.weight"), expected);
        // The same model as one whose configuration says that it is untied, also when it is written.
        edit_config(dir.path(), "tie_word_embeddings", json!(false));
        assert!(Model::load(dir.path()).unwrap().weights() == model.weights());
        let copy = tempfile::tempdir().unwrap();
        model.save(copy.path()).unwrap();
        assert!(Model::load(copy.path()).unwrap().weights() == model.weights());
        // A head of another shape is no head of this model.
        edit_config(dir.path(), "tie_word_embeddings", json!(true));
        rewrite(dir.path(), |tensors| *tensors.last_mut().unwrap() = tensor("lm_head.weight", &[3], 1.0));
        let error = Model::load(dir.path()).unwrap_err();
        assert!(matches!(&error, ModelError::TensorShape { name, .. } if name == "lm_head.weight"), "{error}");
    }
}

#[test]
fn biases_that_the_configuration_denies_must_be_zero() {
    let dir = folder(gpt2());
    edit_config(dir.path(), "bias", json!(false));
    let ModelError::UnusedTensors { names, .. } = Model::load(dir.path()).unwrap_err() else { panic!() };
    assert_eq!(names.len(), 13);
    // One that is not zero is enough, and so is a shape that is none of a bias.
    let bare = bare_gpt2();
    for bias in [tensor("transformer.ln_f.bias", &[16], 1e-30), tensor("h.1.mlp.c_fc.bias", &[39], 0.0)] {
        let dir = folder_with(bare.clone(), std::slice::from_ref(&bias));
        let ModelError::UnusedTensors { names, .. } = Model::load(dir.path()).unwrap_err() else { panic!() };
        assert_eq!(names, [bias.0]);
    }
    let zero = folder_with(bare, &[tensor("h.1.mlp.c_fc.bias", &[40], 0.0), tensor("ln_f.bias", &[16], -0.0)]);
    assert!(Model::load(zero.path()).is_ok());
}

#[test]
fn what_an_index_leaves_out_of_its_shards_is_unused_too() {
    let dir = folder_with(llama(), &[tensor("model.layers.0.self_attn.q_proj.bias", &[24], 1.0)]);
    fs::rename(dir.path().join(WEIGHTS_FILE), dir.path().join("one.safetensors")).unwrap();
    let tensors = Model::random(llama(), 1).unwrap();
    let names = tensors
        .named_tensors(tensors.weights())
        .unwrap()
        .into_iter()
        .map(|tensor| (tensor.0, json!("one.safetensors")));
    // Without `metadata`: that is no reason to refuse.
    let index = json!({ "weight_map": Value::Object(names.collect()) });
    fs::write(dir.path().join(INDEX_FILE), index.to_string()).unwrap();
    let open = ModelFiles::open(dir.path()).unwrap();
    let unused = unused_tensors(&llama(), &open).unwrap();
    assert_eq!(unused, ["model.layers.0.self_attn.q_proj.bias"]);
    assert!(Model::from_files(&open, LoadOptions { unused_tensors: ALLOWED, ..LoadOptions::default() }).is_ok());
}

fn with_generation(config: ModelConfig, generation: &Value) -> Result<Model, ModelError> {
    let dir = folder(config);
    fs::write(dir.path().join(GENERATION_FILE), generation.to_string()).unwrap();
    Model::load(dir.path())
}

#[test]
fn the_tokens_that_end_a_text_come_from_the_file_for_generation() {
    let config = ModelConfig { bos: Some(3), eos: vec![4], ..llama() };
    for (generation, bos, eos) in [
        (json!({}), 3, vec![4]),
        (json!({"eos_token_id": 7}), 3, vec![7]),
        (json!({"eos_token_id": [7, 8, 9], "bos_token_id": 5}), 5, vec![7, 8, 9]),
        (json!({"eos_token_id": null, "bos_token_id": null}), 3, vec![4]),
        (json!({"_from_model_config": true, "bos_token_id": 6, "transformers_version": "5.24.0"}), 6, vec![4]),
    ] {
        let model = with_generation(config.clone(), &generation).unwrap();
        assert_eq!((model.config().bos, &model.config().eos), (Some(bos), &eos), "{generation}");
    }
    let without = with_generation(llama(), &json!({"eos_token_id": [1, 2]})).unwrap();
    assert_eq!(without.config().eos, [1, 2]);
    assert_eq!(without.try_clone().unwrap().generation(), without.generation());
}

#[test]
fn defaults_of_the_sampler_come_from_the_file_for_generation() {
    let usual = SamplerConfig { temperature: 0.8, top_k: 40, min_p: 0.05, seed: 9, ..SamplerConfig::default() };
    let without = |tokens: &[u32]| {
        let logit_bias = tokens.iter().copied().map(LogitBias::forbid).collect();
        SamplerConfig { logit_bias, ..usual.clone() }
    };
    for (generation, expected) in [
        (json!({}), usual.clone()),
        (json!({"temperature": 0.6, "top_p": 0.9}), SamplerConfig { temperature: 0.6, top_p: 0.9, ..usual.clone() }),
        (json!({"do_sample": true, "top_k": 0, "min_p": 0.1}), SamplerConfig { top_k: 0, min_p: 0.1, ..usual.clone() }),
        (json!({"do_sample": false}), SamplerConfig { temperature: 0.0, ..usual.clone() }),
        (json!({"do_sample": false, "temperature": 0.7}), SamplerConfig { temperature: 0.0, ..usual.clone() }),
        (json!({"repetition_penalty": 1.1}), SamplerConfig { repetition_penalty: 1.1, ..usual.clone() }),
        (json!({"typical_p": 0.9}), SamplerConfig { typical_p: 0.9, ..usual.clone() }),
        (json!({"suppress_tokens": [7, 2], "bad_words_ids": [[5], [2]]}), without(&[2, 5, 7])),
        (json!({"suppress_tokens": 3, "bad_words_ids": [], "eos_token_id": 5}), without(&[3])),
        // A text may end, though a bad word says that it must not.
        (json!({"bad_words_ids": [[5], [6]], "eos_token_id": [5, 9]}), without(&[6])),
        (json!({"temperature": null, "top_k": null}), usual.clone()),
    ] {
        let model = with_generation(gpt2(), &generation).unwrap();
        assert_eq!(model.generation().sampler(&usual), expected, "{generation}");
        assert!(model.generation().not_obeyed.is_empty());
    }
}

#[test]
fn what_is_not_obeyed_is_listed() {
    let neutral = json!({
        "num_beams": 1, "num_beam_groups": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0, "length_penalty": 1.0,
        "suppress_tokens": null, "bad_words_ids": [], "max_length": 4096, "max_new_tokens": 100, "pad_token_id": 0,
        "forced_bos_token_id": null, "sequence_bias": null, "guidance_scale": 1.0, "use_cache": true, "later_key": null
    });
    assert!(with_generation(gpt2(), &neutral).unwrap().generation().not_obeyed.is_empty());
    for (key, value) in [
        ("num_beams", json!(4)),
        ("bad_words_ids", json!([[3], [4, 5]])),
        ("bad_words_ids", json!([3])),
        ("begin_suppress_tokens", json!([3])),
        ("forced_bos_token_id", json!(3)),
        ("no_repeat_ngram_size", json!(3)),
        ("epsilon_cutoff", json!(0.1)),
        ("stop_strings", json!(["x"])),
        ("min_new_tokens", json!(5)),
        ("sampler_of_tomorrow", json!(true)),
    ] {
        let model = with_generation(gpt2(), &json!({ key: value })).unwrap();
        assert_eq!(model.generation().not_obeyed, [key]);
    }
}

#[test]
fn malformed_values_name_the_file_and_the_key() {
    for (key, value) in [
        ("eos_token_id", json!("</s>")),
        ("eos_token_id", json!([1, -2])),
        ("eos_token_id", json!(31)),
        ("eos_token_id", json!([0, 99])),
        ("bos_token_id", json!(1.5)),
        ("bos_token_id", json!(1000)),
        ("temperature", json!("warm")),
        ("temperature", json!(-1)),
        ("top_k", json!(-1)),
        ("top_k", json!(2.5)),
        ("top_p", json!(0)),
        ("top_p", json!(1.5)),
        ("min_p", json!(2)),
        ("repetition_penalty", json!(0)),
        ("typical_p", json!(0)),
        ("suppress_tokens", json!([1, "a"])),
        ("suppress_tokens", json!([1, 1000])),
        ("bad_words_ids", json!([[1000]])),
        ("repetition_penalty", json!([1.1])),
        ("do_sample", json!("no")),
    ] {
        let error = with_generation(gpt2(), &json!({ key: value })).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(GENERATION_FILE) && message.contains(&format!("`{key}`")), "{key} {value}: {message}");
        assert!(matches!(error, ModelError::Config(ConfigError::Type { .. } | ConfigError::Invalid { .. })));
    }
    for text in ["", "[]", "{\"top_k\": 1, \"top_k\": 2}"] {
        let dir = folder(gpt2());
        fs::write(dir.path().join(GENERATION_FILE), text).unwrap();
        let error = Model::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains(GENERATION_FILE), "{error}");
    }
}
