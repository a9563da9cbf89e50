//! What text files mean: documents, special tokens in them, byte-order marks, and the same tokens in every verb.

use std::fs;

use serde_json::{Value, json};
use smallmind::graph::{Batch, ParamMemory, PlanOptions};
use smallmind::kernels::loss::IGNORE;
use smallmind::train::{BatchShape, Evaluator};
use smallmind::{IsaKind, Model};

use crate::support::Bench;

const BPE: &str = "--threads 1 --data.tokenizer=bpe --data.vocab_size=270 --n_layer=1 --n_head=2 --n_embd=16 --block_size=8 \
                   --batch_size=2 --eval_iters=1 --max_iters=2 --train.warmup=1 --sample.interval=0 --json";
const END: &str = "<|endoftext|>";

/// Some documents of different lengths.
fn documents() -> Vec<String> {
    (0..30).map(|n| format!("story {n}: the cat sat on the mat{}\n", " and sat".repeat(n % 4))).collect()
}

/// Trains on `data` and gives the events.
fn train(bench: &Bench, data: &str, more: &str) -> Vec<Value> {
    bench.run(&format!("train --data {data} --out run --overwrite {BPE} {more}")).events()
}

/// The tokens of both parts of the run.
fn tokens(bench: &Bench) -> [Vec<u16>; 2] {
    ["train", "validation"].map(|part| {
        let bytes = fs::read(bench.path(format!("run/data/{part}-00000.bin"))).unwrap();
        bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
    })
}

fn joined(bench: &Bench) -> Vec<u16> {
    tokens(bench).concat()
}

#[test]
fn the_same_documents_come_of_separators_lines_and_files() {
    let bench = Bench::new();
    let documents = documents();
    bench.write("joined.txt", documents.join(END));
    bench.write("tail.txt", documents.join(END) + END);
    bench.write("other.txt", documents.join("\n%%\n"));
    let lines = documents.iter().enumerate().map(|(n, text)| match n % 3 {
        0 => json!(text).to_string() + "\n",
        1 => json!({"id": n, "text": text}).to_string() + "\r\n",
        _ => json!({"text": text, "more": [1]}).to_string() + "\n\n",
    });
    bench.write("lines.jsonl", lines.collect::<String>());
    let mut files = String::new();
    for (n, text) in documents.iter().enumerate() {
        bench.write(&format!("part-{n}.txt"), text);
        files += &format!("part-{n}.txt ");
    }
    let events = train(&bench, "joined.txt", "--data.windows=documents");
    assert!(events.last().unwrap()["full_val_loss"].is_f64());
    let expected = joined(&bench);
    assert_eq!(expected.iter().filter(|token| **token == 0).count(), documents.len());
    let [first, second] = tokens(&bench);
    assert_eq!((first.last(), second.last()), (Some(&0), Some(&0)), "validation begins with a document");
    let config = "--config separator.toml";
    bench.write("separator.toml", "[data]\nseparator = \"\\n%%\\n\"\n");
    for (data, more) in
        [("tail.txt", ""), ("other.txt", config), ("lines.jsonl", ""), (&files, "--data.documents=files")]
    {
        train(&bench, data, &format!("{more} --data.windows=documents"));
        assert_eq!(joined(&bench), expected, "{data}");
    }
    // A separator that is switched off is text.
    train(&bench, "joined.txt", "--data.separator=");
    assert!(!joined(&bench).contains(&0));
    // So is another one that stands in a document, and the usual one in a line.
    bench.write(
        "lines.jsonl",
        (0..40).map(|n| json!({"text": format!("{n} a {END} b")}).to_string() + "\n").collect::<String>(),
    );
    train(&bench, "lines.jsonl", "");
    assert_eq!(joined(&bench).iter().filter(|token| **token == 0).count(), 40);
}

#[test]
fn text_without_documents_is_refused_where_they_are_asked_for() {
    let bench = Bench::with_text();
    for (more, words) in [
        ("--data.windows=documents", &["<|endoftext|>", "data.separator", ".jsonl"] as &[&str]),
        ("--data.separator=%%", &["%%", "does not occur"]),
        ("--data.tokenizer=characters --data.separator=cat", &["data.separator needs a token for the end", "=bpe"]),
        ("--data.tokenizer=characters --data.documents=files", &["data.documents=files needs a token", "=bpe"]),
        (
            "--data.tokenizer=characters --data.windows=documents",
            &["data.windows=documents needs a token for the end", "data.tokenizer=bpe", "data.windows=uniform"],
        ),
    ] {
        bench.run(&format!("train --data text.txt --out run {BPE} {more}")).fails(3, words);
        assert!(!bench.path("run/train.toml").exists());
    }
    let both = "--data.documents=files --data.separator=%%";
    bench.run(&format!("train --data text.txt --out run {BPE} {both}")).fails(2, &["data.separator", "data.documents"]);
    bench
        .run(&format!("train --data text.txt --out run {BPE} --data.documents=lines"))
        .fails(2, &["data.documents", "files"]);
    let long = "the cat sat ".repeat(20);
    for (line, words) in [
        ("{\"text\": 7}", &["lines.jsonl", "line 3", "`text` is no string"] as &[&str]),
        ("{\"txt\": \"a\"}", &["line 3", "`text` is missing"]),
        ("{\"text\": \"a\", \"n\": 1, \"te\\u0078t\": \"b\"}", &["line 3", "`text` is there twice"]),
        ("{\"text\": 7, \"text\": \"b\"}", &["line 3", "`text` is there twice"]),
        ("[\"a\"]", &["line 3", "neither an object"]),
        ("{\"text\": \"a\"", &["line 3", "not JSON", "column 12"]),
        ("the cat", &["line 3", "not JSON"]),
    ] {
        bench.write("lines.jsonl", format!("{}\n\n{line}\n", json!(long)));
        bench.run(&format!("train --data lines.jsonl --out run {BPE}")).fails(3, words);
    }
}

#[test]
fn eval_measures_the_tokens_that_training_measures() {
    let bench = Bench::new();
    let documents = documents();
    // The last part of the text, as training cuts it off.
    let validation = documents[27..].join("%%") + "%%";
    bench.write("text.txt", documents.join("%%"));
    bench.write("validation.txt", &validation);
    let events = train(&bench, "text.txt", "--data.separator=%%");
    let [_, tokens] = tokens(&bench);
    let told = bench.run("eval -m run --data validation.txt --json --threads 1").json();
    assert_eq!(told["tokens"], tokens.len() - 1);
    assert_eq!(told["bytes"], validation.len() - 3 * 2);
    let done = events.last().unwrap();
    for (of_eval, of_training) in [("loss", "full_val_loss"), ("bits_per_byte", "bits_per_byte")] {
        let difference = told[of_eval].as_f64().unwrap() - done[of_training].as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{told} {done}");
    }
    let undivided = bench.run("eval -m run --data validation.txt --separator= --json").json();
    assert!(undivided["tokens"].as_u64() > told["tokens"].as_u64());
    assert_eq!(undivided["bytes"], validation.len());
    // A text without a separator is one document.
    bench.write("plain.txt", &documents[0]);
    assert_eq!(bench.run("eval -m run --data plain.txt --json").json()["bytes"], documents[0].len());
}

/// How a run divided its text is read from its checkpoint, whatever became of `train.toml` and of the files that it
/// names.
#[test]
fn eval_divides_as_the_run_was_trained() {
    let bench = Bench::new();
    bench.write("docs.txt", documents().join("|"));
    let line = "--data.tokenizer=bpe --data.vocab_size=270 --data.separator=|";
    bench.run("tokenizer train --data docs.txt --vocab-size 270 --out vocab.json").ok();
    train(&bench, "docs.txt", &line.replace("bpe --data.vocab_size=270", "vocab.json"));
    let loss = || bench.run("eval -m run --data docs.txt --json").json()["loss"].as_f64();
    let expected = loss();
    assert_ne!(bench.run("eval -m run --data docs.txt --json --separator=").json()["loss"].as_f64(), expected);
    for (name, change) in
        [("vocab.json", None), ("run/train.toml", Some("[data]\nseparator = \"the\"\n")), ("run/train.toml", None)]
    {
        match change {
            Some(text) => bench.write(name, text),
            None => std::fs::remove_file(bench.path(name)).unwrap(),
        }
        assert_eq!(loss(), expected, "{name}");
    }
}

#[test]
fn eval_gives_the_model_what_stands_before_a_prompt() {
    let bench = Bench::with_text();
    bench.train("run", "").ok();
    let path = bench.path("run/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let text = "the cat sat";
    bench.write("text.txt", text);
    bench.write("longer.txt", format!("\n{text}"));
    let told =
        |file: &str, more: &str| bench.run(&format!("eval -m run --data {file} --json --threads 1 {more}")).json();
    let longer = told("longer.txt", "");
    let token = json!({"SpecialToken": {"id": "\n", "type_id": 0}});
    tokenizer["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [token, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"\n": {"id": "\n", "ids": [0], "tokens": ["\n"]}}});
    fs::write(&path, tokenizer.to_string()).unwrap();
    let with_prefix = told("text.txt", "");
    // The new line is what the first letter is predicted from, and counts neither as token nor as byte.
    assert_eq!((&with_prefix["loss"], &with_prefix["tokens"]), (&longer["loss"], &json!(text.len())));
    assert_eq!(with_prefix["bytes"], text.len());
    let bits = with_prefix["loss"].as_f64().unwrap() / std::f64::consts::LN_2;
    assert!((with_prefix["bits_per_byte"].as_f64().unwrap() - bits).abs() < 1e-9);
    let ids = bench.run("tokenize -m run --json text.txt").json();
    assert_eq!((ids["ids"].as_array().unwrap().len(), &ids["ids"][0]), (text.len() + 1, &json!(0)));
}

/// The mean loss of `text` in windows of `context` tokens, each of them a sequence by itself that begins with `prefix`.
fn loss_of_windows(model: &Model, prefix: &[u32], text: &[u32], context: usize) -> f64 {
    let shape = BatchShape { sequences: 1, context: model.config().context };
    let mut evaluator = Evaluator::new(model.config(), PlanOptions::flat(shape.limits(), 1, IsaKind::best())).unwrap();
    let mut batch = Batch::default();
    let targets = context.saturating_sub(prefix.len()).max(1);
    let mut total = 0.0;
    for start in (0..text.len()).step_by(targets) {
        let end = text.len().min(start + targets);
        // A window after the first begins with the last token of the one before.
        let tokens = [prefix, &text[start.saturating_sub(1)..end]].concat();
        let counts = end - start;
        let (inputs, nexts) = (&tokens[..tokens.len() - 1], &tokens[1..]);
        let unpredicted = nexts.len() - counts;
        batch.clear();
        batch.push_with_targets(inputs, &[&vec![IGNORE; unpredicted], &nexts[unpredicted..]].concat());
        total += evaluator.run(ParamMemory::Shared(model.weights()), &batch).unwrap();
    }
    total / text.len() as f64
}

#[test]
fn every_window_of_eval_begins_with_what_stands_before_a_prompt() {
    let bench = Bench::with_text();
    // Steps enough that the beginning of a window tells.
    bench.train("run", "--max_iters=40 --train.lr=0.02").ok();
    let path = bench.path("run/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let text = "the cat sat";
    bench.write("text.txt", text);
    let ids = |text: &str| -> Vec<u32> {
        text.chars().map(|c| tokenizer["model"]["vocab"][c.to_string()].as_u64().unwrap() as u32).collect()
    };
    let (text, prefixes) = (ids(text), ["\n", "\n."].map(|prefix| (prefix, ids(prefix))));
    let model = Model::load(bench.path("run")).unwrap();
    for (letters, prefix) in prefixes {
        let letters: Vec<_> = letters.chars().map(|c| c.to_string()).collect();
        let token = |c: &String| json!({"SpecialToken": {"id": c, "type_id": 0}});
        let mut single: Vec<_> = letters.iter().map(token).collect();
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        let special = |(c, id): (&String, &u32)| (c.clone(), json!({"id": c, "ids": [id], "tokens": [c]}));
        let special: serde_json::Map<_, _> = letters.iter().zip(&prefix).map(special).collect();
        tokenizer["post_processor"] =
            json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special});
        fs::write(&path, tokenizer.to_string()).unwrap();
        for context in [1, 2, 3, 4, 5, 16] {
            let line = format!("eval -m run --data text.txt --json --threads 1 --context {context}");
            let told = bench.run(&line).json();
            let expected = loss_of_windows(&model, &prefix, &text, context);
            let difference = told["loss"].as_f64().unwrap() - expected;
            assert!(difference.abs() < 1e-5, "{letters:?} --context {context}: {told} {expected}");
            assert_eq!(told["tokens"], text.len());
        }
    }
}

#[test]
fn byte_order_marks_are_skipped() {
    let bench = Bench::with_text();
    let marked = |name: &str| [b"\xef\xbb\xbf", fs::read(bench.path(name)).unwrap().as_slice()].concat();
    bench.write("marked.txt", marked("text.txt"));
    bench.train("plain", "").ok();
    bench.write("settings.toml", "[train]\nseed = 1337\n");
    bench.write("settings.toml", marked("settings.toml"));
    let line = format!("train --data marked.txt --out run {} --config settings.toml", crate::support::TINY);
    let ran = bench.run(&line);
    assert!(ran.stderr.contains("marked.txt: a byte-order mark"), "{ran:#?}");
    ran.ok();
    let read = |name: &str| fs::read(bench.path(name)).unwrap();
    assert_eq!(read("run/tokenizer.json"), read("plain/tokenizer.json"));
    assert_eq!(read("run/model.safetensors"), read("plain/model.safetensors"));

    let told = |file: &str| bench.run(&format!("eval -m run --data {file} --json"));
    let with_mark = told("marked.txt");
    assert!(with_mark.stderr.contains("marked.txt: a byte-order mark"), "{with_mark:#?}");
    let with_mark = with_mark.json();
    for name in ["run/tokenizer.json", "run/config.json"] {
        bench.write(name, marked(name));
    }
    assert_eq!(with_mark, told("text.txt").json());
    let ids = bench.run("tokenize -m run text.txt").ok();
    assert_eq!(bench.run("tokenize -m run marked.txt").ok(), ids);
    assert_eq!(bench.run_with_input("tokenize -m run -", &read("marked.txt")).ok(), ids);
    bench.write("ids", [b"\xef\xbb\xbf", ids.as_bytes()].concat());
    assert_eq!(bench.run("tokenize -m run --decode ids").ok().as_bytes(), read("text.txt"));
    bench.write("prompt.txt", b"\xef\xbb\xbfthe cat");
    let told = bench.run("generate -m run --prompt-file prompt.txt -n 1 --json").json();
    assert_eq!(told["prompt_tokens"], "the cat".len());
    // Only at the beginning, and only one.
    bench.write("twice.txt", [b"\xef\xbb\xbf", read("marked.txt").as_slice()].concat());
    bench.run("tokenize -m run twice.txt").fails(3, &["U+FEFF", "byte 0"]);
    bench.write("bad.txt", b"\xef\xbb\xbfab\xff");
    bench.run("tokenize -m run bad.txt").fails(3, &["offset 5"]);
    bench.run(&format!("train --data bad.txt --out no {}", crate::support::TINY)).fails(3, &["offset 5"]);
}

#[test]
fn a_run_on_documents_goes_on_and_comes_to_the_same() {
    let bench = Bench::new();
    bench.write("text.txt", documents().join(END));
    let losses = |events: &[Value]| {
        events.iter().filter(|e| e["event"] == "step").map(|e| e["loss"].clone()).collect::<Vec<_>>()
    };
    let more = "--data.windows=documents --log.interval=1 --train.decay_steps=4";
    let whole = losses(&train(&bench, "text.txt", &format!("{more} --max_iters=4")));
    let mut parts = losses(&train(&bench, "text.txt", more));
    parts.extend(losses(&bench.run("train --out run --resume --max_iters=4 --json --threads 1").events()));
    assert_eq!(parts, whole);
    bench.run("train --out run --resume --data.separator=x").fails(2, &["data.separator", "fixed"]);
}
