//! Tokenizers: text to ids and back.

use std::fs;

use serde_json::{Value, json};

use crate::support::Bench;

#[test]
fn text_comes_back() {
    let bench = Bench::with_text();
    for kind in ["bpe --vocab-size 300", "characters --overwrite"] {
        let told = bench.run(&format!("tokenizer train --data text.txt --kind {kind} --out t.json --json")).json();
        let vocab = told["vocab_size"].as_u64().unwrap();
        let ids = bench.run("tokenize -m t.json text.txt").ok();
        assert_eq!(ids.lines().count(), 1);
        assert!(ids.split_whitespace().all(|id| id.parse::<u64>().unwrap() < vocab));
        let text = std::fs::read_to_string(bench.path("text.txt")).unwrap();
        assert_eq!(bench.run_with_input("tokenize -m t.json --decode", ids.as_bytes()).ok(), text);

        let json = bench.run("tokenize -m t.json --json text.txt");
        let document = json.stdout.clone();
        let list: Vec<String> = json.json()["ids"].as_array().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(list.join(" "), ids.trim_end());
        assert_eq!(bench.run_with_input("tokenize -m t.json --decode -", document.as_bytes()).ok(), text);
        let decoded = bench.run_with_input("tokenize -m t.json --decode --json", list.join(",").as_bytes()).json();
        assert_eq!(decoded["text"], text);
    }
}

#[test]
fn special_tokens_can_be_text() {
    let bench = Bench::with_text();
    bench.run("tokenizer train --data text.txt --vocab-size 257 --out t.json").ok();
    let text = b"the cat<|endoftext|>";
    let special = bench.run_with_input("tokenize -m t.json --json", text).json();
    assert_eq!(special["ids"].as_array().unwrap().len(), 8);
    let plain = bench.run_with_input("tokenize -m t.json --json --no-special", text).json();
    assert_eq!(plain["ids"].as_array().unwrap().len(), text.len());
    assert_eq!(bench.run_with_input("tokenize -m t.json --decode", b"[85, 0]").ok().len(), 1 + "<|endoftext|>".len());
    assert_eq!(bench.run_with_input("tokenize -m t.json --decode --no-special", b"[85, 0]").ok().len(), 1);
}

#[test]
fn nothing_gives_nothing() {
    let bench = Bench::with_text();
    bench.run("tokenizer train --data text.txt --kind characters --out t.json").ok();
    assert_eq!(bench.run("tokenize -m t.json").ok(), "\n");
    assert_eq!(bench.run("tokenize -m t.json --decode").ok(), "");
}

#[test]
fn bad_text_and_bad_ids_are_named() {
    let bench = Bench::with_text();
    bench.run("tokenizer train --data text.txt --kind characters --out t.json").ok();
    for (input, words) in [
        (b"1 2 three" as &[u8], &["three", "place 2"] as &[&str]),
        (b"1 -2", &["-2"]),
        (b"4294967296", &["4294967296"]),
        (b"999", &["999", "position 0"]),
        (b"[1, 2.5]", &["2.5"]),
        (b"[1, 2", &["JSON"]),
        (b"{\"x\": 1}", &["ids"]),
        (b"\xff", &["offset 0"]),
    ] {
        bench.run_with_input("tokenize -m t.json --decode", input).fails(3, words);
    }
    bench.run_with_input("tokenize -m t.json", "the \u{1F3A9}".as_bytes()).fails(3, &["U+1F3A9", "4"]);
    bench.run("tokenize -m t.json missing.txt").fails(3, &["missing.txt"]);
    bench.run("tokenize -m missing.json").fails(3, &["missing.json"]);
    bench.write("broken.json", "{\"model\": ");
    bench.run("tokenize -m broken.json text.txt").fails(3, &["broken.json"]);
}

#[test]
fn vocabularies_have_their_limits() {
    let bench = Bench::with_text();
    bench.run("tokenizer train --data text.txt --vocab-size 5 --out t.json").fails(2, &["257"]);
    bench
        .run("tokenizer train --data text.txt --kind characters --vocab-size 5 --out t.json")
        .fails(2, &["--vocab-size"]);
    bench.run("tokenizer train --data text.txt --out no/such/folder/t.json").fails(2, &["no/such/folder"]);
    bench.run("tokenizer train --data text.txt --kind characters --out t.json").ok();
    bench.run("new --preset seed-deep --out model --tokenizer t.json").ok();
    bench.write("wide.txt", (0..600).filter_map(|i| char::from_u32(0x4e00 + i)).collect::<String>());
    bench.run("tokenizer train --data wide.txt --kind characters --out wide.json").ok();
    bench.run("new --preset seed-deep --out wide --tokenizer wide.json").fails(3, &["600", "512"]);
    assert!(!bench.path("wide").exists());
}

#[test]
fn a_token_that_ends_texts_is_shown_but_does_not_end_a_prompt() {
    let bench = Bench::with_text();
    bench.train("run", "").ok();
    let path = bench.path("run/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let token = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    for (pieces, ids, prompt) in [
        (json!([text, token("end")]), &[4u64, 0] as &[u64], 1),
        (json!([token("end"), text, token("end"), text]), &[0, 4, 0, 4], 4),
    ] {
        tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "single": pieces, "pair": [],
            "special_tokens": {"end": {"id": "end", "ids": [0], "tokens": ["\n"]}}});
        fs::write(&path, tokenizer.to_string()).unwrap();
        let told = bench.run_with_input("tokenize -m run --json -", b"a").json();
        assert_eq!(told["ids"], json!(ids));
        let ran = bench.run("generate -m run -p a -n 2 --json");
        assert_eq!(ran.stderr.contains("\"\\n\" behind a text; it is left out"), ids.last() == Some(&0), "{ran:#?}");
        assert_eq!(ran.json()["prompt_tokens"], prompt);
    }
}
