//! Hostile vocabularies take no more memory than their size and 64 MiB. Each is opened by a process of its own, which
//! measures itself.

use std::time::Duration;

use smallmind_model::tokenizer::{MAX_TOKENS, Tokenizer};

use super::trees::{section, tree};

#[path = "../../../checkpoint/tests/common/mod.rs"]
mod common;
use common::{Scratch, this_program};

const FILE: &str = "TOKENIZER_TEST_FILE";
/// The most time that a file may take, in times that it takes to read the same bytes as JSON of any kind. This build,
/// which is little optimised, takes 3 to 5 times as long for the slowest of these files.
const MOST_TIMES: f64 = 8.0;

/// A field of `/proc/self/status` in bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// The time that this process has run, which other processes don't change.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = &stat[stat.rfind(')').unwrap() + 2..];
    // In hundredths of a second: in user mode, and in the system.
    let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

#[test]
#[ignore = "the child process of hostile_vocabularies_take_bounded_memory"]
fn child_opens_a_vocabulary_and_measures_itself() {
    let Ok(path) = std::env::var(FILE) else { return };
    let (before, start) = (memory("VmRSS"), processor_time());
    let error = Tokenizer::from_file(&path).unwrap_err();
    let (time, most) = (processor_time() - start, memory("VmHWM") - before);
    let bytes = std::fs::read(&path).unwrap();
    let start = processor_time();
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let (as_json, len) = (processor_time() - start, bytes.len() as u64);
    drop(json);
    println!("{time:?} ({as_json:?} as JSON) and {most} bytes of memory for a file of {len}: {error}");
    assert!(most <= len + (64 << 20), "{most} bytes of memory for a file of {len}");
    assert!(time < as_json.mul_f64(MOST_TIMES), "{time:?}, {as_json:?} as JSON");
}

/// A file of about the most tokens that there may be, letters and pairs of letters, and the merges that make the pairs.
/// It ends so.
fn large(last_token: &str, last_merge: &str) -> String {
    const LETTERS: usize = 626;
    const { assert!(LETTERS * (LETTERS + 1) < MAX_TOKENS) };
    let letters: Vec<char> = ('\u{4e00}'..).take(LETTERS).collect();
    let pairs = || letters.iter().flat_map(|left| letters.iter().map(move |right| (left, right)));
    let texts = letters.iter().map(char::to_string).chain(pairs().map(|(left, right)| format!("{left}{right}")));
    let tokens: String = texts.zip(0..).map(|(text, id)| format!("\"{text}\":{id},")).collect();
    let merges: Vec<String> = pairs().map(|(left, right)| format!("\"{left} {right}\"")).collect();
    let merges = merges.join(",");
    format!(
        "{{\"version\":\"1.0\",\"model\":{{\"type\":\"BPE\",\"vocab\":{{{tokens}{last_token}}},\
         \"merges\":[{merges}{last_merge}]}}}}"
    )
}

#[test]
fn hostile_vocabularies_take_bounded_memory() {
    let scratch = Scratch::new();
    for (said, text) in [
        ("[\"x\"]: invalid value: integer `-1`", large("\"x\":-1", "")),
        ("model.merges[391876]", large("\"x\":392502", ",\"x x\"")),
        ("have the same id 0", large("\"x\":0", "")),
        ("normalizer: more than 1024 objects", section("normalizer", &tree("normalizers", 60, 3, "Lowercase"))),
        (
            "pre_tokenizer: more than 1024 objects",
            section("pre_tokenizer", &tree("pretokenizers", 60, 3, "Punctuation")),
        ),
        ("decoder: more than 1024 objects", section("d\\u0065coder", &tree("decoders", 2, 18, "Fuse"))),
        (
            "normalizer: more than 16384 values",
            section("normalizer", &format!("{{\"x\":[{}1]}}", "1,".repeat(4 << 20))),
        ),
    ] {
        let path = scratch.file("tokenizer.json", text);
        let output = this_program()
            .args(["memory::child_opens_a_vocabulary_and_measures_itself", "--exact", "--ignored", "--nocapture"])
            .env(FILE, &path)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("1 passed") && told.contains(said), "{told}{}", String::from_utf8_lossy(&output.stderr));
        println!("{}", told.lines().find(|line| line.contains("bytes of memory")).unwrap());
    }
}
