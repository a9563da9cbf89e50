//! `chat` under a pseudo-terminal, and Ctrl-C.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::chat::bench;
use crate::support::{Ran, is_received};
use crate::terminal::{on_terminal_typing, steers};

#[test]
fn a_conversation_on_a_terminal() {
    let bench = bench();
    let typed = "hello\n/nothing\n\"\"\"a\nb\"\"\"\n/set tokens 3\nc\\\nd\n/quit\n";
    let command = bench.command("chat -m model --threads 1 --seed 3 -n 200");
    let Some(written) = on_terminal_typing(command, typed) else { return };
    assert!(!written.contains(steers), "{written:?}");
    assert!(written.contains('\u{fffd}'), "nothing would have steered: {written:?}");
    for words in ["> ", "… ", "/help lists commands", "there is no command /nothing", "tokens is 3"] {
        assert!(written.contains(words), "no {words:?} in {written:?}");
    }
}

#[test]
fn an_interrupt_stops_the_answer_and_between_answers_it_ends() {
    if !is_received("INT") {
        return;
    }
    let bench = bench();
    // Room for an answer that takes seconds.
    let config = std::fs::read_to_string(bench.path("model/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = 50_000.into();
    bench.write("model/config.json", config.to_string());
    for end in ["signal", "end of input", "/quit"] {
        let mut child = bench
            .command("chat -m model --threads 1 --seed 3 --context 20000 --json")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take();
        let mut events = BufReader::new(child.stdout.take().unwrap());
        let mut next = |kind: &str| {
            let mut line = String::new();
            loop {
                line.clear();
                assert!(events.read_line(&mut line).unwrap() > 0, "the conversation ended before {kind}");
                let event: Value = serde_json::from_str(&line).unwrap();
                if event["event"] == kind {
                    return event;
                }
            }
        };
        let signal = || {
            let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
            assert!(sent.success());
        };
        writeln!(input.as_ref().unwrap(), "hello").unwrap();
        next("text");
        signal();
        let stopped = next("answer");
        assert_eq!(stopped["finish"], "interrupted", "{stopped}");
        assert!(stopped["tokens"].as_u64() < Some(19_000), "{stopped}");
        writeln!(input.as_ref().unwrap(), "/set tokens 5\nand now?").unwrap();
        assert_eq!(next("answer")["finish"], "length");
        writeln!(input.as_ref().unwrap(), "/save {}.json", end.trim_start_matches('/')).unwrap();
        next("saved");
        std::thread::sleep(Duration::from_millis(100));
        match end {
            "signal" => signal(),
            "/quit" => writeln!(input.as_ref().unwrap(), "/quit").unwrap(),
            _ => drop(input.take()),
        }
        let ran = Ran::of(child.wait_with_output().unwrap());
        // Nobody takes a conversation with a stopped answer for a whole one.
        assert_eq!((ran.code, ran.stderr.lines().last()), (Some(130), Some("interrupted")), "{end}: {ran:#?}");
    }
}
