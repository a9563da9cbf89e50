//! What a model's files say is obeyed or told: unknown keys, unused tensors, `generation_config.json`.

use std::fs;

use serde_json::{Value, json};
use smallmind::checkpoint::{TensorData, TensorWriter};
use smallmind::model::Model;

use crate::support::{Bench, TINY};

/// A folder `model` with random weights, tokenizer included.
fn bench() -> Bench {
    let bench = Bench::with_text();
    bench.random_model();
    bench.write("short.txt", "the cat sat");
    bench
}

/// Every verb that reads a model; the last takes a while unless it fails.
const VERBS: [&str; 4] = [
    "inspect model",
    "generate -m model -n 2 --threads 1 --seed 1 --temp 0",
    "eval -m model --data short.txt --threads 1",
    "profile generate -m model --threads 1 -n 2 --out profiled",
];

fn set_keys(bench: &Bench, keys: &Value) {
    let path = bench.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    fs::write(path, config.to_string()).unwrap();
}

/// Writes the weights again with one more tensor.
fn add_tensor(bench: &Bench, name: &str, shape: &[usize], values: &[f32]) {
    let model = Model::load(bench.path("model")).unwrap();
    let tensors = model.named_tensors(model.weights()).unwrap();
    let mut writer = TensorWriter::new();
    for (name, shape, data) in &tensors {
        writer.add(name, shape, TensorData::F32(data)).unwrap();
    }
    writer.add(name, shape, TensorData::F32(values)).unwrap();
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes).unwrap();
    fs::write(bench.path("model/model.safetensors"), bytes).unwrap();
}

#[test]
fn unknown_keys_need_a_flag() {
    let bench = bench();
    set_keys(&bench, &json!({ "logit_scale": 2.0 }));
    for verb in VERBS {
        bench.run(verb).fails(3, &["model/config.json", "`logit_scale`", "--allow-unknown-keys"]);
    }
    for verb in &VERBS[..3] {
        let ran = bench.run(&format!("{verb} --allow-unknown-keys"));
        assert!(ran.stderr.contains("passed over unknown keys of config.json: logit_scale"), "{ran:#?}");
        ran.ok();
    }
    // A value that is known to be another model has no flag.
    set_keys(&bench, &json!({ "logit_scale": null, "is_causal": false }));
    for verb in VERBS {
        bench.run(&format!("{verb} --allow-unknown-keys")).fails(3, &["config.json", "`is_causal` = false"]);
    }
}

#[test]
fn unused_tensors_need_a_flag_and_are_shown() {
    let bench = bench();
    assert_eq!(bench.run("inspect model --json").json()["unused_tensors"], json!([]));
    assert!(!bench.run("inspect model").ok().contains("unused"));
    add_tensor(&bench, "transformer.h.0.q_norm.weight", &[2], &[1.0, 2.0]);
    for verb in &VERBS[1..] {
        bench.run(verb).fails(3, &["model.safetensors", "`transformer.h.0.q_norm.weight`", "--allow-unused"]);
    }
    for verb in &VERBS[1..3] {
        let ran = bench.run(&format!("{verb} --allow-unused"));
        assert!(ran.stderr.contains("passed over tensors without use: transformer.h.0.q_norm.weight"), "{ran:#?}");
        ran.ok();
    }
    let shown = bench.run("inspect model").ok();
    assert!(shown.contains("unused       transformer.h.0.q_norm.weight\n"), "{shown}");
    let shown = bench.run("inspect model --json").json();
    assert_eq!(shown["unused_tensors"], json!(["transformer.h.0.q_norm.weight"]));
}

#[test]
fn defaults_of_generation_come_from_the_model() {
    let bench = bench();
    let generate =
        |flags: &str| bench.run(&format!("generate -m model -n 30 --seed 5 --threads 1 --json -p c {flags}"));
    let text = |flags: &str| generate(flags).json()["text"].as_str().unwrap().to_owned();
    let (usual, greedy) = (text(""), text("--temp 0"));
    let penalised = text("--temp 0 --repeat-penalty 1.5 --repeat-window 31");
    let cold = text("--temp 0.3 --top-k 3");
    assert!(usual != greedy && penalised != greedy && cold != usual && cold != greedy);

    let file = |value: Value| bench.write("model/generation_config.json", value.to_string());
    file(json!({ "do_sample": false }));
    assert_eq!(text(""), greedy);
    assert_eq!(text("--temp 0.8"), usual, "a flag beats the file");
    file(json!({ "temperature": 0.3, "top_k": 3, "max_new_tokens": 5 }));
    let ran = generate("");
    assert!(ran.stderr.contains("defaults from generation_config.json: --temp 0.3, --top-k 3\n"), "{ran:#?}");
    assert_eq!(ran.json()["text"], cold);
    let ran = generate("--top-k 2");
    assert!(ran.stderr.contains("generation_config.json: --temp 0.3\n"), "{ran:#?}");
    // The penalty of the file is for the whole text.
    file(json!({ "do_sample": false, "repetition_penalty": 1.5 }));
    assert_eq!(text(""), penalised);
    file(json!({ "num_beams": 4, "epsilon_cutoff": 0.1, "use_cache": true }));
    let ran = generate("");
    assert!(ran.stderr.contains("not obeyed in generation_config.json: epsilon_cutoff, num_beams\n"), "{ran:#?}");
    assert_eq!(ran.json()["text"], usual);
    file(json!({ "typical_p": 0.5, "suppress_tokens": [1, 2] }));
    let ran = generate("");
    assert!(ran.stderr.contains("generation_config.json: --typical 0.5, --logit-bias 1-inf and 1 more\n"), "{ran:#?}");
    assert_eq!(ran.json()["text"], text("--typical 0.5 --logit-bias 1-inf -l 2-inf"));
    file(json!({ "top_p": 7 }));
    generate("").fails(3, &["generation_config.json", "`top_p` = 7"]);
}

#[test]
fn a_text_ends_with_the_token_that_only_generation_config_names() {
    let bench = bench();
    let whole = bench.run("generate -m model -n 30 --temp 0 --threads 1 --json -p c").json();
    let whole = whole["text"].as_str().unwrap();
    let last = whole.chars().nth(9).unwrap();
    let tokenizer: Value = serde_json::from_slice(&fs::read(bench.path("model/tokenizer.json")).unwrap()).unwrap();
    let id = &tokenizer["model"]["vocab"][last.to_string()];
    assert!(id.is_u64(), "{tokenizer}");
    for ids in [id.clone(), json!([64, id])] {
        bench.write("model/generation_config.json", json!({ "eos_token_id": ids }).to_string());
        let ran = bench.run("generate -m model -n 30 --temp 0 --threads 1 --json -p c").json();
        assert_eq!((&ran["finish"], &ran["text"]), (&json!("end_of_text"), &json!(whole.split(last).next().unwrap())));
    }
}

#[test]
fn keys_of_a_tokenizer_that_are_not_applied_are_told() {
    let bench = bench();
    let path = bench.path("model/tokenizer.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    file["padding"] = json!({"strategy": {"Fixed": 512}, "pad_id": 0});
    fs::write(&path, file.to_string()).unwrap();
    bench.write("some.json", file.to_string());
    for verb in [
        "tokenize -m model short.txt",
        "tokenize -m some.json short.txt",
        "generate -m model -n 2 --threads 1",
        "eval -m model --data short.txt --threads 1",
        "inspect model",
        "new --preset nanogpt-cpu --out new --tokenizer some.json",
        &format!("train --data text.txt --out run {TINY} --data.tokenizer=some.json"),
    ] {
        let ran = bench.run(verb);
        assert_eq!(ran.stderr.matches("`padding` is not applied").count(), 1, "{verb}: {ran:#?}");
        ran.ok();
    }
    file["model"]["alpha"] = json!(1);
    fs::write(&path, file.to_string()).unwrap();
    bench.run("generate -m model -n 2").fails(3, &["model/tokenizer.json", "alpha"]);
}

#[test]
fn a_second_output_head_is_used_and_told() {
    let bench = bench();
    let model = Model::load(bench.path("model")).unwrap();
    let shape = [model.config().vocab_size, model.config().d_model];
    add_tensor(&bench, "lm_head.weight", &shape, &vec![0.0; shape[0] * shape[1]]);
    for verb in &VERBS[..3] {
        let ran = bench.run(verb);
        assert_eq!(ran.stderr.matches("note: lm_head.weight differs").count(), 1, "{verb}: {ran:#?}");
        ran.ok();
    }
    // Each token is as likely as any other.
    let told = bench.run("eval -m model --data short.txt --threads 1 --json").json();
    assert!((told["loss"].as_f64().unwrap() - (shape[0] as f64).ln()).abs() < 1e-5, "{told}");
    assert_eq!(bench.run("inspect model --json").json()["config"]["tie_word_embeddings"], false);
}
