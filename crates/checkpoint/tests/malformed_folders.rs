//! Malformed configs, indexes and model folders.

mod common;

use std::time::{Duration, Instant};

use common::{SMALL, Scratch, on_processor, safetensors};
use smallmind_checkpoint::{
    CheckpointError, IndexFault, JsonFault, MAX_JSON_BYTES, ModelFolder, WeightFiles, read_config,
};

macro_rules! cases {
    ($open:expr; $($name:literal: $content:expr => $variant:ident($fault:pat), $text:literal;)*) => {{
        let mut count = 0;
        $(
            count += 1;
            let start = Instant::now();
            let error: CheckpointError = $open($content.as_ref());
            assert!(start.elapsed() < on_processor(Duration::from_secs(1)), "{}: {:?}", $name, start.elapsed());
            let right = matches!(&error, CheckpointError::$variant { fault: $fault, .. });
            assert!(right, "{}: {error:?}", $name);
            assert!(error.to_string().contains($text), "{}: {error}", $name);
            assert!(error.is_bad_file());
        )*
        count
    }};
}

#[test]
fn configs() {
    let scratch = Scratch::new();
    let refused = |content: &[u8]| read_config(scratch.file("config.json", content)).expect_err("has to be refused");
    let count = cases! { refused;
        "empty": "" => Json(JsonFault::Syntax(_)), "line 1, column 1: not JSON: EOF";
        "blank": " \n " => Json(JsonFault::Syntax(_)), "not JSON";
        "cut short": "{\"a\": 1,\n" => Json(JsonFault::Syntax(_)), "EOF";
        "missing comma": "{\"a\": 1\n\"b\": 2}" => Json(JsonFault::Syntax(_)), "line 2, column 1";
        "not UTF-8": b"{\"a\":\n \"\xff\"}" => Json(JsonFault::NotUtf8 { offset: 8 }), "line 2, column 3: not UTF-8 (at byte 8";
        "NaN": r#"{"eps": NaN}"# => Json(JsonFault::Syntax(_)), "expected value";
        "Infinity": r#"{"eps": Infinity}"#=> Json(JsonFault::Syntax(_)), "expected value";
        "1e999": r#"{"eps": 1e999}"# => Json(JsonFault::Syntax(_)), "number out of range";
        "comment": "{} // comment" => Json(JsonFault::Syntax(_)), "trailing characters";
        "two documents": "{}{}" => Json(JsonFault::Syntax(_)), "trailing characters";
        "key twice": "{\"d\": 1,\n \"d\": 2}" => Json(JsonFault::DuplicateKey(_)), "line 2, column 4: key \"d\" stands twice";
        "nested key twice": r#"{"a": [{"b": {"c": 1, "c": 1}}]}"# => Json(JsonFault::DuplicateKey(_)), "key \"c\"";
        "key twice by escape": r#"{"d": 1, "\u0064": 2}"# => Json(JsonFault::DuplicateKey(_)), "remove one";
        "list": "[]" => Json(JsonFault::WrongKind { .. }), "the config has to be an object";
        "number": "12" => Json(JsonFault::WrongKind { .. }), "an object";
        "null": "null" => Json(JsonFault::WrongKind { .. }), "an object";
        "too deep": format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200)) => Json(JsonFault::Syntax(_)), "recursion limit";
        "far too deep": "[".repeat(1 << 20) => Json(JsonFault::Syntax(_)), "recursion limit";
        "a million empty lists": format!("[{}[]]", "[],".repeat(1_000_000)) => Json(JsonFault::TooManyValues), "more values";
        "a million numbers": format!("[{}0]", "0,".repeat(1_000_000)) => Json(JsonFault::TooManyValues), "more values";
        "a million objects": format!("[{}{{}}]", "{},".repeat(1_000_000)) => Json(JsonFault::TooManyValues), "more values";
        "too large": vec![b' '; MAX_JSON_BYTES as usize + 1] => Json(JsonFault::TooLarge { len: 16_777_217 }), "16777217 bytes, at most 16777216";
        "lone surrogate": r#"{"a": "\udc00"}"# => Json(JsonFault::Syntax(_)), "surrogate";
    };
    assert_eq!(count, 23);
    let config =
        read_config(scratch.file("config.json", r#"{"eps": 1e-5, "n": -3, "x": null, "y": [true, "z"]}"#)).unwrap();
    assert_eq!(config, serde_json::json!({"eps": 1e-5, "n": -3, "x": null, "y": [true, "z"]}));
}

#[test]
fn indexes() {
    let scratch = Scratch::new();
    scratch.file("one.safetensors", safetensors(SMALL, 32));
    scratch.file("bad.safetensors", safetensors("{", 0));
    std::fs::create_dir(scratch.path().join("folder.safetensors")).unwrap();
    let refused = |content: &[u8]| {
        let path = scratch.file("model.safetensors.index.json", content);
        WeightFiles::open_index(path).expect_err("has to be refused")
    };
    let map = |tensor: &str, shard: &str| format!(r#"{{"weight_map":{{"{tensor}":"{shard}"}}}}"#);
    let many = |n: usize, shard: &dyn Fn(usize) -> String| {
        let list: Vec<String> = (0..n).map(|i| format!(r#""t{i}":"{}""#, shard(i))).collect();
        format!(r#"{{"weight_map":{{{}}}}}"#, list.join(","))
    };
    let count = cases! { refused;
        "list": "[]" => Index(IndexFault::NoWeightMap), "model.safetensors.index.json: `weight_map` is missing";
        "no map": r#"{"metadata":{}}"# => Index(IndexFault::NoWeightMap), "is missing";
        "map is a list": r#"{"weight_map":[]}"# => Index(IndexFault::NoWeightMap), "not an object";
        "empty map": r#"{"weight_map":{}}"# => Index(IndexFault::Empty), "names no tensor";
        "tensor twice": r#"{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}"# => Json(JsonFault::DuplicateKey(_)), "key \"a\"";
        "empty tensor": map("", "one.safetensors") => Index(IndexFault::EmptyName), "empty tensor name";
        "file is a number": r#"{"weight_map":{"a":1}}"# => Index(IndexFault::ShardNotText(_)), "tensor \"a\" is not a string";
        "empty file": map("a", "") => Index(IndexFault::UnsafeShard { .. }), "not a plain path";
        "parent": map("a", "../one.safetensors") => Index(IndexFault::UnsafeShard { .. }), "\"../one.safetensors\"";
        "parent within": map("a", "x/../../one.safetensors") => Index(IndexFault::UnsafeShard { .. }), "inside the folder";
        "absolute": map("a", "/etc/passwd") => Index(IndexFault::UnsafeShard { .. }), "/etc/passwd";
        "drive": map("a", "C:one.safetensors") => Index(IndexFault::UnsafeShard { .. }), "plain path";
        "backslash": map("a", r"..\\one.safetensors") => Index(IndexFault::UnsafeShard { .. }), "plain path";
        "NUL": map("a", r"one.safetensors\u0000") => Index(IndexFault::UnsafeShard { .. }), "plain path";
        "this folder": map("a", ".") => Index(IndexFault::UnsafeShard { .. }), "plain path";
        "absent file": map("a", "two.safetensors") => Index(IndexFault::MissingShard(_)), "\"two.safetensors\" is missing";
        "absent tensor": map("c", "one.safetensors") => Index(IndexFault::NotInShard { .. }), "tensor \"c\" is not in \"one.safetensors\"";
        "bad file": map("a", "bad.safetensors") => Header(_), "bad.safetensors: safetensors header, byte 8";
        "513 files": many(513, &|i| format!("{i}.safetensors")) => Index(IndexFault::TooManyShards), "512 files";
        "65,537 tensors": many(65_537, &|_| "one.safetensors".into()) => Index(IndexFault::TooManyTensors), "65536 tensors";
        "not JSON": "weight_map: {}" => Json(JsonFault::Syntax(_)), "not JSON";
    };
    assert_eq!(count, 21);
    let error = refused(map("a", "folder.safetensors").as_bytes());
    assert!(matches!(error, CheckpointError::Missing { .. }), "{error}");
}

/// A tensor in two files: the index could name either.
#[test]
fn a_tensor_in_two_files_is_the_same_in_both() {
    let scratch = Scratch::new();
    let file = |name: &str, change: usize| {
        let mut bytes = safetensors(SMALL, 32);
        let end = bytes.len();
        bytes[end - 1] ^= change as u8;
        scratch.file(name, bytes)
    };
    let index = r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
    let index = scratch.file("model.safetensors.index.json", index);
    file("one.safetensors", 0);
    file("two.safetensors", 0);
    assert_eq!(WeightFiles::open_index(&index).unwrap().tensors().len(), 2);
    file("two.safetensors", 1);
    let error = WeightFiles::open_index(&index).unwrap_err();
    assert!(matches!(&error, CheckpointError::Index { fault: IndexFault::TwoContents { .. }, .. }), "{error}");
    let told = r#"tensor "b" stands in "two.safetensors" and in "one.safetensors", and they differ"#;
    assert!(error.to_string().ends_with(told), "{error}");
}

#[test]
fn folders() {
    let scratch = Scratch::new();
    let missing = |text: &str| {
        let error = ModelFolder::open(scratch.path()).expect_err("has to be refused");
        assert!(matches!(error, CheckpointError::Missing { .. }), "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
    };
    missing("config.json: not there");
    let config = scratch.file("config.json", r#"{"model_type":"gpt2"}"#);
    missing("model.safetensors: not there, nor");
    scratch.file("pytorch_model.bin", "x");
    missing("only pytorch_model.bin");

    let error = ModelFolder::open(&config).unwrap_err();
    assert!(error.to_string().contains("not a folder"), "{error}");
    let error = ModelFolder::open(scratch.path().join("absent")).unwrap_err();
    assert!(matches!(error, CheckpointError::Io { .. }), "{error}");

    scratch.file("shard.safetensors", safetensors(SMALL, 32));
    scratch.file("model.safetensors.index.json", r#"{"weight_map":{"b":"shard.safetensors"}}"#);
    let folder = ModelFolder::open(scratch.path()).unwrap();
    assert_eq!(folder.tokenizer(), None);
    // The index names `b` only, so `a` of the same file is not part of the weights.
    assert!(folder.weights().contains("b") && !folder.weights().contains("a"));

    let tokenizer = scratch.file("tokenizer.json", "{}");
    scratch.file("model.safetensors", safetensors(SMALL, 32));
    let folder = ModelFolder::open(scratch.path()).unwrap();
    assert_eq!(folder.tokenizer(), Some(tokenizer.as_path()));
    assert_eq!(folder.weights().tensors().len(), 2);
    assert_eq!(folder.config()["model_type"], "gpt2");
    assert_eq!(folder.weights().metadata()["format"], "pt");
}
