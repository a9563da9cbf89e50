//! GGUF files: written by `convert` and `quantize`, and read by every verb that takes a model.

use std::fs;

use serde_json::json;
use smallmind::checkpoint::{GgufData, GgufFile, GgufStrings, GgufValue, GgufWriter, TensorSource};
use smallmind::model::{AttentionWindows, Model, ModelConfig, preset};

use crate::support::Bench;

/// A folder `model` with random weights, tokenizer included.
fn bench() -> Bench {
    let bench = Bench::with_text();
    bench.random_model();
    bench
}

const GENERATE: &str = "-p the -n 12 --threads 1 --seed 1 --temp 0";

#[test]
fn a_model_says_the_same_as_a_folder_and_as_a_file() {
    let bench = bench();
    let told = bench.run("convert -m model --out model.gguf").ok();
    assert!(told.starts_with("model.gguf: F32: 32.00 bits a weight"), "{told}");
    let text = bench.run(&format!("generate -m model {GENERATE}")).ok();
    assert_eq!(bench.run(&format!("generate -m model.gguf {GENERATE}")).ok(), text);
    // And back, into a folder that is as the first.
    bench.run("convert -m model.gguf --out again").ok();
    assert_eq!(bench.run(&format!("generate -m again {GENERATE}")).ok(), text);
    assert_eq!(
        fs::read(bench.path("again/model.safetensors")).unwrap(),
        fs::read(bench.path("model/model.safetensors")).unwrap()
    );
    bench.write("text.txt", "the cat sat on the mat");
    let ids = bench.run("tokenize -m model.gguf text.txt").ok();
    assert_eq!(ids, bench.run("tokenize -m model text.txt").ok());
    let [file, folder] = ["model.gguf", "model"].map(|model| {
        bench.run(&format!("eval -m {model} --data text.txt --threads 1 --json")).json()["loss"].as_f64().unwrap()
    });
    assert_eq!(file, folder);
}

#[test]
fn a_model_without_a_tokenizer_goes_both_ways() {
    let bench = bench();
    fs::remove_file(bench.path("model/tokenizer.json")).unwrap();
    bench.run("convert -m model --out model.gguf").ok();
    bench.run("convert -m model.gguf --out again").ok();
    assert_eq!(
        fs::read(bench.path("again/model.safetensors")).unwrap(),
        fs::read(bench.path("model/model.safetensors")).unwrap()
    );
    assert!(!bench.path("again/tokenizer.json").exists());
}

#[test]
fn nothing_is_replaced_unless_a_flag_says_so() {
    let bench = bench();
    bench.run("convert -m model --out model.gguf --format f16").ok();
    let before = fs::read(bench.path("model.gguf")).unwrap();
    for verb in ["convert -m model --out model.gguf", "quantize -m model --format q8_0 --out model.gguf"] {
        bench.run(verb).fails(2, &["model.gguf", "--overwrite"]);
        assert_eq!(fs::read(bench.path("model.gguf")).unwrap(), before);
    }
    bench.run("convert -m model --out model.gguf --overwrite").ok();
    assert_ne!(fs::read(bench.path("model.gguf")).unwrap(), before);
    bench.run("convert -m model.gguf --out model").fails(2, &["model.safetensors", "--overwrite"]);
    // Nor with the flag, if it is the file that is read, or belongs to another model.
    let before = fs::read(bench.path("model.gguf")).unwrap();
    for verb in ["convert -m model.gguf --out", "quantize -m model.gguf --format q8_0 --out"] {
        bench.run(&format!("{verb} model.gguf --overwrite")).fails(2, &["model.gguf", "is read"]);
        assert_eq!(fs::read(bench.path("model.gguf")).unwrap(), before);
    }
    bench.run("convert -m model.gguf --out taken").ok();
    bench.write("taken/chat_template.jinja", "{{ messages }}");
    bench.run("convert -m model.gguf --out taken --overwrite").fails(2, &["chat_template.jinja", "another model"]);
    bench.run("convert -m nothing.gguf --out other.gguf").fails(3, &["nothing.gguf", "no such file"]);
    bench.run("convert -m model --out folder --format f16").fails(2, &["--format", "GGUF"]);
    assert!(!bench.path("other.gguf").exists());
}

#[test]
fn quantized_files_are_planned_written_and_read() {
    let bench = bench();
    let planned = bench.run("quantize -m model --format Q8_0 --dry-run --json").json();
    assert_eq!(planned["file"], json!(null));
    let written = bench.run("quantize -m model --format q8_0 --out small.gguf --json").json();
    assert_eq!(planned["tensors"], written["tensors"]);
    let (size, bytes) = (fs::metadata(bench.path("small.gguf")).unwrap().len(), written["bytes"].as_u64().unwrap());
    assert!(size > bytes && bytes * 2 < fs::metadata(bench.path("model/model.safetensors")).unwrap().len());
    bench.run(&format!("generate -m small.gguf {GENERATE}")).ok();
    let shown = bench.run("inspect small.gguf --tensors").ok();
    assert!(shown.contains("q8_0") && shown.contains("blk.0.attn_norm.weight"), "{shown}");
    // Rows of 128 elements; the head's table is Q6_K in every such mix.
    let ran = bench.run("quantize -m model --format q4_k_s --dry-run");
    let told = "note: 13 tensors have rows of 128 elements, which are not whole blocks of ";
    assert!(
        ran.stderr.contains(told)
            && ran.stderr.contains("q6_k (of 256)")
            && ran.stderr.contains("taken instead: q8_0 (1), q5_0 (8)"),
        "{ran:#?}"
    );
    ran.ok();
    assert!(!bench.run("quantize -m model --format q8_0 --dry-run").stderr.contains("note"));
    // Twice is once too often, unless a flag says so.
    let again = "quantize -m small.gguf --format q4_0 --out smaller.gguf";
    bench.run(again).fails(2, &["quantized already (q8_0)", "--allow-requantize"]);
    bench.run(&format!("{again} --allow-requantize")).ok();
    let with = "quantize -m model --format q8_0 --dry-run --json --tensor";
    let overridden = bench.run(&format!("{with} ffn_down=f16")).json();
    let formats = |part: &str| -> Vec<String> {
        let tensors = overridden["tensors"].as_array().unwrap().iter();
        let of_part = tensors.filter(|tensor| tensor["name"].as_str().unwrap().contains(part));
        let formats: Vec<String> = of_part.map(|tensor| tensor["format"].as_str().unwrap().to_owned()).collect();
        assert!(!formats.is_empty(), "tensors with {part}");
        formats
    };
    assert!(formats("ffn_down.weight").iter().all(|format| format == "f16"));
    assert!(formats("attn_output.weight").iter().all(|format| format == "q8_0"));
    bench.run(&format!("{with} nothing=f16")).fails(2, &["`nothing`", "no tensor"]);
    bench.run(&format!("{with} ffn_norm=f16")).fails(2, &["`ffn_norm`", "blk.0.ffn_norm.weight", "f32"]);
    bench.run(&format!("{with} ffn_down=q7")).fails(2, &["q8_0"]);
}

/// Copies a GGUF file, with more metadata.
fn copy_with(bench: &Bench, from: &str, to: &str, more: &[(&str, GgufValue)]) {
    let file = GgufFile::open(bench.path(from)).unwrap();
    let mut writer = GgufWriter::new();
    let all = file.metadata().iter().map(|(key, value)| (key, value.clone()));
    for (key, value) in all.chain(more.iter().map(|(key, value)| (*key, value.clone()))) {
        writer.set(key, value).unwrap();
    }
    let tensors: Vec<_> = file.tensors().map(|tensor| (tensor, file.read_bytes(&tensor.name).unwrap())).collect();
    for (tensor, bytes) in &tensors {
        writer.add(&tensor.name, &tensor.shape, GgufData::Stored(tensor.ggml_type, bytes)).unwrap();
    }
    writer.write_file(bench.path(to)).unwrap();
}

#[test]
fn a_file_that_no_config_json_can_state_is_shown_and_copied() {
    let bench = bench();
    bench.run("convert -m model --out model.gguf --format f16").ok();
    // Another factor of scores than a GPT-2's.
    copy_with(&bench, "model.gguf", "odd.gguf", &[("gpt2.attention.scale", GgufValue::F32(0.5))]);
    let told = bench.run("inspect odd.gguf --tensors").ok();
    assert!(told.contains("no config.json") && told.contains("blk.0.attn_norm.weight"), "{told}");
    let shown = bench.run("inspect odd.gguf --json").json();
    assert_eq!((&shown["config"], shown["parameters"].is_u64()), (&json!(null), true), "{shown}");
    bench.run("quantize -m odd.gguf --format q8_0 --out small.gguf").ok();
    let kept = GgufFile::open(bench.path("small.gguf")).unwrap();
    assert_eq!(kept.metadata().get("gpt2.attention.scale"), Some(&GgufValue::F32(0.5)));
    bench.run(&format!("generate -m small.gguf {GENERATE}")).ok();
    bench.run("convert -m odd.gguf --out folder").fails(3, &["attention_scale"]);
    assert!(!bench.path("folder").exists());
}

#[test]
fn a_tokenizer_of_more_tokens_than_the_model_is_found_before_anything_is_written() {
    let bench = bench();
    bench.write("more.txt", "0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz!?.,;:-");
    bench.run("tokenizer train --kind characters --data more.txt --out more.json").ok();
    fs::copy(bench.path("more.json"), bench.path("model/tokenizer.json")).unwrap();
    for verb in ["convert", "quantize --format q8_0"] {
        bench.run(&format!("{verb} -m model --out model.gguf")).fails(3, &["tokens", "65"]);
    }
    bench.run("convert -m model --out folder").fails(3, &["tokens", "65"]);
    assert!(!bench.path("model.gguf").exists() && !bench.path("folder").exists());
}

#[test]
fn all_chat_templates_go_both_ways() {
    let bench = bench();
    let templates = |folder: &str| -> serde_json::Value {
        let text = fs::read_to_string(bench.path(folder).join("tokenizer_config.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["chat_template"].clone()
    };
    let named = json!([{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]);
    bench.write("model/tokenizer_config.json", json!({ "chat_template": named }).to_string());
    bench.run("convert -m model --out model.gguf").ok();
    let file = GgufFile::open(bench.path("model.gguf")).unwrap();
    let text = |key: &str| file.metadata().required::<&str>(key).unwrap().to_owned();
    assert_eq!(text("tokenizer.chat_template"), "d");
    assert_eq!(text("tokenizer.chat_template.tool_use"), "t");
    let names: &GgufStrings = file.metadata().required("tokenizer.chat_templates").unwrap();
    assert_eq!(names.iter().collect::<Vec<_>>(), ["tool_use"]);
    for (from, to) in [("model.gguf", "again"), ("model", "folder")] {
        bench.run(&format!("convert -m {from} --out {to}")).ok();
        assert_eq!(templates(to), named, "{from}");
    }
    // One template needs no list.
    bench.write("model/tokenizer_config.json", json!({ "chat_template": "d" }).to_string());
    bench.run("convert -m model --out one.gguf").ok();
    bench.run("convert -m one.gguf --out one").ok();
    assert_eq!(templates("one"), "d");
}

/// What other readers of a folder can't know by the texts of tokens is written into it, and from there into a GGUF file
/// as far as it has keys.
#[test]
fn tokens_that_end_a_text_are_named_in_a_folder() {
    let bench = Bench::with_text();
    bench.train("model", "--data.tokenizer=bpe --data.vocab_size=300").ok();
    bench.run("convert -m model --out model.gguf").ok();
    let more = [
        ("tokenizer.ggml.eos_token_id", GgufValue::U32(5)),
        ("general.license", GgufValue::String("mit".into())),
        ("general.author", GgufValue::String("nobody".into())),
    ];
    copy_with(&bench, "model.gguf", "five.gguf", &more);
    let ran = bench.run("convert -m five.gguf --out folder");
    assert!(ran.stderr.contains("no place for general.license, general.author of the file"), "{ran:#?}");
    ran.ok();
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("folder/config.json")).unwrap()).unwrap();
    assert_eq!(config["eos_token_id"], json!([5, 0]), "the token 0 is <|endoftext|>");
    bench.run("convert -m folder --out again.gguf").ok();
    let of_tokenizer = |name: &str| {
        let file = GgufFile::open(bench.path(name)).unwrap();
        let all = file.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer."));
        let mut all: Vec<_> = all.map(|(key, value)| (key.to_owned(), value.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let mut expected = of_tokenizer("five.gguf");
    let at = expected.partition_point(|(key, _)| key.as_str() < "tokenizer.ggml.eot_token_id");
    expected.insert(at, ("tokenizer.ggml.eot_token_id".to_owned(), GgufValue::U32(0)));
    assert_eq!(of_tokenizer("again.gguf"), expected);
    bench.run("convert -m again.gguf --out folder-2").ok();
    bench.run("convert -m folder-2 --out third.gguf").ok();
    assert_eq!(of_tokenizer("third.gguf"), expected);
}

/// Wrong settings of sampling are found when the file is read, whatever is asked of it.
#[test]
fn settings_of_sampling_in_a_file_are_checked() {
    let bench = bench();
    bench.run("convert -m model --out model.gguf").ok();
    copy_with(&bench, "model.gguf", "all.gguf", &[("general.sampling.top_k", GgufValue::I32(-1))]);
    bench.run("generate -m all.gguf -p the -n 4 --threads 1 --seed 1").ok();
    copy_with(&bench, "model.gguf", "wrong.gguf", &[("general.sampling.top_p", GgufValue::F32(1.5))]);
    for verb in ["inspect wrong.gguf", "generate -m wrong.gguf -p the -n 4"] {
        bench.run(verb).fails(3, &["wrong.gguf", "general.sampling.top_p", "1.5", "at most 1"]);
    }
}

#[test]
fn a_quantized_file_is_compared_with_its_source() {
    let bench = bench();
    bench.write("short.txt", "the cat sat on the mat, and the dog sat by the cat.");
    let quantize = "quantize -m model --threads 1 --data short.txt --format";
    let compared = bench.run(&format!("{quantize} q4_0 --out small.gguf --json")).json()["comparison"].clone();
    let eval = bench.run("eval -m small.gguf --threads 1 --data short.txt --against model --json").json();
    let against = &eval["against"];
    for key in ["kl_mean", "kl_99", "kl_max", "same_top", "tokens"] {
        assert!(compared[key].is_number() && compared[key] == against[key], "{key}: {compared} {against}");
    }
    assert_eq!(compared["source_loss"], against["loss"]);
    let near = |a: &serde_json::Value, b: &serde_json::Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-4;
    assert!(near(&compared["perplexity"], &eval["perplexity"]), "{compared} {eval}");
    assert!(!near(&compared["perplexity"], &compared["source_perplexity"]), "{compared}");
    let same = bench.run(&format!("{quantize} f32 --out same.gguf --context 16")).ok();
    assert!(same.contains("KL divergence  mean 0.000000") && same.contains("same top       100.00 %"), "{same}");
    assert!(same.contains("perplexity     "), "{same}");
    // Before anything is written.
    for (more, code, words) in [
        ("q8_0 --out other.gguf --context 65", 4, ["65", "64"]),
        ("q8_0 --out other.bin", 2, ["other.bin", ".gguf"]),
        ("q8_0 --out other.gguf --dry-run", 2, ["--data", "--dry-run"]),
    ] {
        bench.run(&format!("{quantize} {more}")).fails(code, &words);
    }
    bench.run("quantize -m model --format q8_0 --out other.gguf --data nothing.txt").fails(3, &["nothing.txt"]);
    fs::remove_file(bench.path("model/tokenizer.json")).unwrap();
    bench.run(&format!("{quantize} q8_0 --out other.gguf")).fails(3, &["tokenizer"]);
    assert!(!bench.path("other.gguf").exists() && !bench.path("other.bin").exists());
}

#[test]
fn importance_is_measured_and_used() {
    let bench = bench();
    let told =
        bench.run("imatrix -m model --data text.txt --out imatrix.gguf --context 16 --chunks 3 --threads 1").ok();
    assert!(told.starts_with("imatrix.gguf: importance by"), "{told}");
    bench.run("quantize -m model --format q4_0 --out plain.gguf").ok();
    bench.run("quantize -m model --format q4_0 --out weighted.gguf --imatrix imatrix.gguf").ok();
    assert_ne!(fs::read(bench.path("plain.gguf")).unwrap(), fs::read(bench.path("weighted.gguf")).unwrap());
    bench
        .run("quantize -m model --format q4_0 --out other.gguf --imatrix plain.gguf")
        .fails(3, &["general.type", "imatrix"]);
    for verb in ["inspect", "generate -m"] {
        bench.run(&format!("{verb} imatrix.gguf")).fails(3, &["imatrix.gguf", "an importance matrix", "--imatrix"]);
    }
    bench.train("other", "").ok();
    bench
        .run("quantize -m other --format q4_0 --out other.gguf --imatrix imatrix.gguf")
        .fails(3, &["imatrix.gguf: it was made for another model: ", "`token_embd.weight`"]);
}

#[test]
fn evaluations_beside_another_model_by_position_and_by_choices() {
    let bench = bench();
    bench.write("short.txt", "the cat sat on the mat");
    let eval = "eval -m model --threads 1 --json";
    let same = bench.run(&format!("{eval} --data short.txt --against model --by-position")).json();
    let against = &same["against"];
    assert_eq!((against["kl_max"].as_f64(), against["same_top"].as_f64()), (Some(0.0), Some(1.0)), "{same}");
    let tokens: u64 = same["by_position"].as_array().unwrap().iter().map(|p| p["tokens"].as_u64().unwrap()).sum();
    assert_eq!(Some(tokens), same["tokens"].as_u64());
    bench.run("quantize -m model --format q4_0 --out small.gguf").ok();
    // Windows of four tokens.
    let short = "--data short.txt --context 4";
    let other = bench.run(&format!("{eval} {short} --against small.gguf")).json();
    let against = |key: &str| other["against"][key].as_f64().unwrap();
    assert!(against("kl_mean") > 0.0, "{other}");
    let of = |model: &str| {
        bench.run(&format!("eval -m {model} --threads 1 --json {short}")).json()["loss"].as_f64().unwrap()
    };
    let losses = [of("model"), of("small.gguf")];
    assert!((other["loss"].as_f64().unwrap() - losses[0]).abs() < 1e-6, "{other} {losses:?}");
    assert!((against("loss") - losses[1]).abs() < 1e-6, "{other} {losses:?}");
    assert!((against("loss_difference") - (losses[0] - losses[1])).abs() < 1e-6, "{other} {losses:?}");
    assert!((against("perplexity_ratio") - (losses[0] - losses[1]).exp()).abs() < 1e-6, "{other} {losses:?}");
    let told = bench.run(&format!("eval -m model --threads 1 {short} --against small.gguf")).ok();
    assert!(told.contains("difference     loss "), "{told}");
    let question = |label: usize| json!({"context": "the cat", "endings": ["sat", "mat"], "label": label}).to_string();
    bench.write("questions.jsonl", format!("{}\n{}\n", question(0), question(1)));
    let answered = bench.run(&format!("{eval} --choices questions.jsonl")).json();
    assert_eq!((&answered["questions"], &answered["right"]), (&json!(2), &json!(1)), "{answered}");
    bench.write("questions.jsonl", question(2));
    bench.run(&format!("{eval} --choices questions.jsonl")).fails(3, &["questions.jsonl, line 1", "`label` is 2"]);
    bench.run(&format!("{eval} --data short.txt --against nothing")).fails(3, &["nothing"]);
    for flag in ["--context 4", "--separator x"] {
        bench.run(&format!("{eval} --choices questions.jsonl {flag}")).fails(2, &["--choices", "cannot be used with"]);
    }
}

#[test]
fn texts_for_importance_are_checked() {
    let bench = bench();
    let imatrix = "imatrix -m model --threads 1 --out matrix.gguf --context 16";
    bench.run(&format!("{imatrix} --data text.txt --chunks 0")).fails(2, &["--chunks", "from 1 up"]);
    bench.write("empty.txt", "");
    bench.run(&format!("{imatrix} --data text.txt empty.txt")).fails(3, &["empty.txt: the file is empty"]);
    bench.write("short.txt", "the cat");
    let ran = bench.run(&format!("{imatrix} --data short.txt"));
    assert!(ran.stderr.contains("fewer than 512 tokens"), "{ran:#?}");
    assert_eq!(ran.ok(), "matrix.gguf: importance by 7 tokens in 1 piece\n");
    let ran = bench.run(&format!("{imatrix} --data text.txt short.txt --overwrite"));
    assert!(ran.stderr.is_empty(), "{ran:#?}");
    let (all, text) = (60 * Bench::TEXT.len() + 7, ran.ok());
    assert_eq!(text, format!("matrix.gguf: importance by 3,{} tokens in {} pieces\n", all - 3000, all.div_ceil(16)));
}

#[test]
fn a_line_that_is_no_question_is_named_once() {
    let bench = bench();
    let ran = bench.run("eval -m model --choices text.txt");
    assert_eq!((ran.stderr.matches("text.txt").count(), ran.stderr.matches("line").count()), (1, 2), "{ran:#?}");
    ran.fails(3, &["text.txt, line 1: ", "each line must be {\"context\": text, \"endings\": [texts]"]);
    bench.write("q.jsonl", "{\"context\": \"a\", \"endings\": [\"b\", 1], \"label\": 0}");
    bench.write("none.jsonl", "\n");
    bench.run("eval -m model --choices none.jsonl").fails(3, &["none.jsonl", "no question"]);
    bench.run("eval -m model --choices q.jsonl").fails(3, &["q.jsonl, line 1: invalid type", "at column 35"]);
}

#[test]
fn a_model_that_the_other_form_can_not_state_is_a_bad_model() {
    let bench = Bench::new();
    let shape = preset::find("quickstart").unwrap().config();
    let config = ModelConfig { attention_windows: AttentionWindows::All(16), vocab_size: 300, ..shape };
    fs::create_dir(bench.path("model")).unwrap();
    Model::random(config, 7).unwrap().save(bench.path("model")).unwrap();
    bench.run("convert -m model --out model.gguf").fails(3, &["attention_windows", "in a GGUF file"]);
    assert!(!bench.path("model.gguf").exists());
}
