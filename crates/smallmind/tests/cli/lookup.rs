//! `--lookup`, `--lookup-file` and `--lookup-draft`: the same text, and what is said of drafts.

use std::fs;

use serde_json::Value;

use crate::chat;
use crate::support::{Bench, Ran};

/// Drafts of a text with so many tokens that ended because it had as many as it may have.
#[track_caller]
fn is_consistent(told: &Value) {
    let of = |name: &str| told["lookup"][name].as_u64().unwrap_or_else(|| panic!("{name} in {told}"));
    let tokens = told["tokens"].as_u64().unwrap();
    assert_eq!(of("runs") + of("accepted"), tokens, "{told}");
    assert!(of("accepted") <= of("drafted"), "{told}");
    let share = of("accepted") as f64 / of("drafted").max(1) as f64;
    assert_eq!(told["lookup"]["accepted_share"], share);
    assert_eq!(told["lookup"]["tokens_per_run"], tokens as f64 / of("runs") as f64);
}

#[test]
fn the_text_is_the_same_with_lookup() {
    let bench = Bench::with_text();
    bench.random_model();
    bench.write("more.txt", "the dog sat on the cat.\n".repeat(20));
    for sampling in ["--temp 0", "--seed 5 --temp 0.7 --repeat-penalty 1.1"] {
        let generate = |more: &str| {
            let line =
                format!("generate -m model -n 200 --threads 1 --context 48 -p the,cat,the,cat {sampling} {more}");
            bench.run(&line)
        };
        let plain = generate("--json").json();
        assert_eq!(plain["lookup"], Value::Null);
        for flags in
            ["--lookup", "--lookup-file text.txt", "--lookup-draft 15", "--lookup-file text.txt --lookup-file more.txt"]
        {
            let told = generate(&format!("{flags} --json")).json();
            for name in ["text", "finish", "tokens", "context_shifts"] {
                assert_eq!(told[name], plain[name], "{sampling} {flags}");
            }
            is_consistent(&told);
        }
        // A text of one letter is as expected: three tokens of each run are drafted.
        let letter = |flags: &str| generate(&format!("-l 5+1000 --json {flags}")).json();
        let (told, plain) = (letter("--lookup-draft 3"), letter(""));
        assert_eq!(told["text"], plain["text"]);
        assert!(told["lookup"]["runs"].as_u64() < Some(60), "{told}");
        is_consistent(&told);
        let ran = generate("--lookup");
        assert!(ran.stderr.contains("look-up: ") && ran.stderr.contains(" tokens a run; seed"), "{ran:#?}");
        let without = generate("");
        assert!(!without.stderr.contains("look-up"), "{without:#?}");
        assert_eq!(ran.ok(), without.ok());
    }
}

#[test]
fn answers_are_the_same_with_lookup() {
    let bench = chat::bench();
    let questions = "hello\nhello\n/regen\n/stats\n";
    let chat = |more: &str| -> Ran {
        bench.run_with_input(&format!("chat -m model --threads 1 --seed 3 -n 60 {more}"), questions.as_bytes())
    };
    let of = |events: &[Value], name: &str| -> Vec<Value> {
        events.iter().filter(|event| event["event"] == "answer").map(|event| event[name].clone()).collect()
    };
    let plain = chat("--json").events();
    assert_eq!(of(&plain, "lookup"), [Value::Null, Value::Null, Value::Null]);
    for flags in ["--lookup", "--lookup-file text.txt --lookup-draft 3"] {
        let events = chat(&format!("--json {flags}")).events();
        assert_eq!(of(&events, "text"), of(&plain, "text"));
        let drafted = |event: &&Value| event["lookup"]["drafted"].as_u64() > Some(0);
        assert!(flags == "--lookup" || events.iter().filter(drafted).count() == 4, "{events:?}");
        events
            .iter()
            .filter(|event| matches!(event["event"].as_str(), Some("answer" | "stats")))
            .for_each(is_consistent);
        let ran = chat(&format!("--speed {flags}"));
        assert_eq!(ran.stderr.matches("look-up: ").count(), 4, "three answers and /stats: {ran:#?}");
        assert_eq!(ran.ok(), chat("").ok());
    }
    // What is read is not written.
    let ran = bench.run_with_input("chat -m model --lookup-file text.txt --overwrite", b"/save text.txt\n");
    ran.fails(2, &["text.txt", "is read"]);
}

#[test]
fn files_that_nothing_can_be_looked_up_in_are_refused() {
    let bench = Bench::with_text();
    bench.random_model();
    bench.write("empty.txt", "");
    bench.write("latin.txt", b"caf\xe9");
    bench.write("hat.txt", "the \u{1F3A9}");
    fs::create_dir(bench.path("folder")).unwrap();
    for (file, code, words) in [
        ("missing.txt", 3, &["missing.txt", "can't be read"] as &[&str]),
        ("empty.txt", 3, &["empty.txt", "no text"]),
        ("latin.txt", 3, &["latin.txt", "not UTF-8", "offset 3"]),
        ("hat.txt", 3, &["hat.txt", "U+1F3A9"]),
        ("folder", 3, &["folder: this is a folder", "name a text file"]),
        ("-", 2, &["--lookup-file", "standard input"]),
        ("text.txt --lookup-draft 16", 2, &["--lookup-draft", "from 1 to 15"]),
    ] {
        bench.run(&format!("generate -m model -p the --lookup-file text.txt --lookup-file {file}")).fails(code, words);
    }
    // Before the model is read, which may take a while.
    bench.run("generate -m nowhere -p the --lookup-file missing.txt").fails(3, &["missing.txt"]);
}
