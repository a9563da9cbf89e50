//! Under a pseudo-terminal: what comes from a file or from the command line never steers the terminal.
#![cfg(unix)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use crate::support::{Bench, TINY};

/// Sequences that a terminal obeys, most of them from reports about other programs.
const CORPUS: [&str; 20] = [
    "\u{1b}]0;title\u{7}",
    "\u{1b}]2;title\u{1b}\\",
    "\u{1b}]52;c;tttt\u{7}",
    "\u{1b}]8;;title:\u{7}title\u{1b}]8;;\u{7}",
    "\u{1b}[2J\u{1b}[H",
    "\u{1b}[31mtitle",
    "\u{1b}[?1049l",
    "\u{1b}[6i",
    "\u{1b}c",
    "\u{1b}Pq0\u{1b}\\",
    "\u{1b}_title\u{1b}\\",
    "\u{9b}2J",
    "\u{9d}0;title\u{9c}",
    "\u{90}q\u{9c}",
    "title\rlie",
    "e\u{8}title",
    "\u{7f}\u{7}\u{b}\u{c}\u{e}\u{f}\u{5}",
    "\u{85}\u{84}",
    "\u{202e}eltit\u{202c}",
    "\u{2067}title\u{2069}",
];

/// All of them in one text.
fn corpus() -> String {
    CORPUS.concat()
}

/// The same as a person is to see it.
fn shown(text: &str) -> String {
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

pub fn steers(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Runs a command on a terminal that passes all bytes on as they are; what it wrote there. None where there are no
/// pseudo-terminals.
fn on_terminal(command: Command) -> Option<String> {
    on_terminal_typing(command, "")
}

/// The same, with somebody who types.
pub fn on_terminal_typing(mut command: Command, typed: &str) -> Option<String> {
    let size = Winsize { ws_row: 50, ws_col: 1000, ws_xpixel: 0, ws_ypixel: 0 };
    let Ok(OpenptyResult { master, slave }) = openpty(&size, None) else {
        eprintln!("skipped: there are no pseudo-terminals");
        return None;
    };
    let mut mode = tcgetattr(&slave).unwrap();
    cfmakeraw(&mut mode);
    tcsetattr(&slave, SetArg::TCSANOW, &mode).unwrap();
    let stream = || Stdio::from(slave.try_clone().unwrap());
    command.stdin(stream()).stdout(stream()).stderr(stream());
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let mut child = command.spawn().unwrap();
    drop((command, slave));
    let mut master = File::from(master);
    master.write_all(typed.as_bytes()).unwrap();
    let mut written = Vec::new();
    // Ends with an error where the other side is closed.
    let _ = master.read_to_end(&mut written);
    child.wait().unwrap();
    Some(String::from_utf8(written).unwrap())
}

/// No control character was written but line feed and tab, and `words` were.
#[track_caller]
fn is_harmless(command: Command, words: &[&str]) {
    let call = format!("{command:?}");
    let Some(written) = on_terminal(command) else { return };
    assert!(!written.contains(steers), "{call} wrote {written:?}");
    for word in words {
        assert!(written.contains(word), "no {word:?} in {written:?} of {call}");
    }
}

/// A folder with a tokenizer of the characters of the corpus, and a model with random weights.
fn corpus_model() -> Bench {
    let bench = Bench::new();
    bench.write("text.txt", (corpus() + "\t\n").repeat(10));
    bench.random_model();
    bench
}

#[test]
fn text_on_a_terminal_is_harmless_and_in_a_pipe_exact() {
    let bench = corpus_model();
    let ids = bench.run_with_input("tokenize -m model", corpus().as_bytes()).ok();
    bench.write("ids", &ids);
    let decode = "tokenize -m model --decode ids";
    assert_eq!(bench.run(decode).ok(), corpus());
    is_harmless(bench.command(decode), &[&shown(&corpus())]);
    is_harmless(bench.command(&format!("{decode} --json")), &["\\u001b]0;title\\u0007"]);

    for prompt in CORPUS {
        let mut command = bench.command("generate -m model -n 20 --temp 0 --threads 1");
        command.args(["-p", prompt]);
        is_harmless(command, &[&shown(prompt), "tokens/s"]);
    }
    // Once more into a pipe: prompt and text are those of the JSON, which escapes both.
    let generate =
        |more: &str| bench.run(&format!("generate -m model -n 40 --temp 0 --threads 1 -p e\u{8}title {more}"));
    let (piped, text) = (generate("").ok(), generate("--json").json()["text"].clone());
    assert_eq!(piped.trim_end(), format!("e\u{8}title{}", text.as_str().unwrap()).trim_end());
    assert!(piped.contains(steers));
}

#[test]
fn samples_of_a_training_are_harmless() {
    let bench = corpus_model();
    let line = format!("train --data text.txt --out run {TINY} --sample.interval=2 --sample.tokens=60");
    let Some(written) = on_terminal(bench.command(&line)) else { return };
    // The sequences of the bar: the beginning of the line, its end, a line up.
    let text = ["\r", "\u{1b}[2K", "\u{1b}[1A"].iter().fold(written.clone(), |text, bar| text.replace(bar, ""));
    assert!(text.contains("a sample after step 2") && text.contains('\u{fffd}'), "{written:?}");
    assert!(!text.contains(steers), "{written:?}");
}

/// Adds a tensor of no values to a safetensors file.
fn add_tensor(bench: &Bench, file: &str, name: &str) {
    let bytes = std::fs::read(bench.path(file)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let end = bytes.len() - 8 - length;
    header[name] = json!({ "dtype": "F32", "shape": [1], "data_offsets": [end, end + 4] });
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let all = [&(header.len() as u64).to_le_bytes(), &header[..], &bytes[8 + length..], &[0; 4]].concat();
    bench.write(file, all);
}

#[test]
fn names_and_values_of_a_model_are_harmless() {
    let bench = corpus_model();
    add_tensor(&bench, "model/model.safetensors", &corpus());
    is_harmless(bench.command("inspect model --tensors"), &[&shown(&corpus()), "F32"]);
    is_harmless(bench.command("inspect model --tensors --json"), &["\\u001b]0;title\\u0007"]);

    let change = |file: &str, place: &str, key: &str, value: Value| {
        let text = std::fs::read_to_string(bench.path("model").join(file)).unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        let object = if place.is_empty() { &mut json } else { &mut json[place] };
        object[key] = value;
        bench.write(&format!("model/{file}"), json.to_string());
        text
    };
    for (file, place, key, verb) in [
        ("config.json", "", "model_type", "inspect model"),
        ("config.json", "", "activation_function", "generate -m model"),
        ("tokenizer.json", "model", "type", "tokenize -m model"),
        ("tokenizer.json", "model", "type", "inspect model"),
    ] {
        let before = change(file, place, key, corpus().into());
        is_harmless(bench.command(verb), &["title"]);
        bench.write(&format!("model/{file}"), before);
    }
    // Not JSON at all: the message shows where.
    bench.write("model/config.json", corpus());
    is_harmless(bench.command("inspect model"), &["config.json"]);
}

#[test]
fn file_names_are_harmless() {
    let bench = corpus_model();
    let name = corpus().replace('/', "");
    let with = |line: &str, more: &[&str]| {
        let mut command = bench.command(line);
        command.args(more);
        command
    };
    is_harmless(with("eval -m model --data", &[&name]), &["title"]);
    is_harmless(with("generate -m", &[&name]), &["title"]);
    is_harmless(with("train --data text.txt --out run --config", &[&name]), &["title"]);
    is_harmless(with("new --preset nanogpt-cpu --out", &["b\u{1b}[2J"]), &["b\u{fffd}[2J"]);
    is_harmless(with("inspect", &["b\u{1b}[2J"]), &["b\u{fffd}[2J"]);
    is_harmless(with("tokenizer train --kind characters --data text.txt --out", &["t\u{9b}2J"]), &["t\u{fffd}2J"]);
    // A name that is no UTF-8: a bare byte is a control character to some terminals.
    let mut command = bench.command("eval -m model --data");
    command.arg(std::ffi::OsStr::from_bytes(b"a\x9b2J"));
    is_harmless(command, &["a\u{fffd}2J"]);
}

#[test]
fn settings_and_options_are_harmless() {
    let bench = corpus_model();
    let quoted = serde_json::to_string(&CORPUS[..12].concat()).unwrap();
    for toml in [
        format!("[train]\n{quoted} = 1\n"),
        format!("[train]\nschedule = {quoted}\n"),
        format!("[train]\nschedule = \"{}\"\n", corpus()),
        format!("{} = 1\n", corpus()),
    ] {
        bench.write("settings.toml", toml);
        is_harmless(
            bench.command(&format!("train --data text.txt --out run {TINY} --config settings.toml")),
            &["title"],
        );
    }
    for (line, more) in [
        ("train --data text.txt --out run", format!("--train.schedule={}", corpus())),
        ("train --data text.txt --out run", format!("--{}=1", corpus())),
        ("train --data text.txt --out run --preset", corpus()),
        ("generate -m model", format!("--{}", corpus())),
        ("doctor --threads", corpus()),
        ("bench kernels --list", corpus()),
        ("profile generate --preset nanogpt-cpu --save-baseline", corpus()),
        ("generate -m model --prompt-file", corpus()),
        ("", corpus()),
    ] {
        let mut command = bench.command(line);
        command.arg(&more);
        is_harmless(command, &["title"]);
    }
    let mut command = bench.command("profile diff");
    command.args([&corpus(), "now"]);
    is_harmless(command, &["title"]);
    let mut command = bench.command("doctor");
    command.env("SMALLMIND_THREADS", corpus());
    is_harmless(command, &["title"]);
    let mut command = bench.command("doctor --help");
    command.env("SMALLMIND_THREADS", corpus());
    if let Some(written) = on_terminal(command) {
        assert!(!written.contains("\u{1b}]") && !written.contains('\u{7}'), "{written:?}");
    }
    bench.write("ids", corpus().replace(char::is_whitespace, ""));
    is_harmless(bench.command("tokenize -m model --decode ids"), &["title"]);
}

#[test]
fn help_has_its_colours_only_where_nothing_steers() {
    let bench = Bench::new();
    let Some(written) = on_terminal(bench.command("--help")) else { return };
    assert!(written.contains("\u{1b}["), "{written:?}");
    assert!(written.contains("Usage:"), "{written:?}");
    assert!(!bench.run("--help").ok().contains('\u{1b}'));
}
