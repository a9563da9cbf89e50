//! Hostile files take no more memory than their size and 64 MiB. Each is opened by a process of its own, which measures
//! itself.

#![cfg(target_os = "linux")]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::{Scratch, safetensors, this_program};
use smallmind_checkpoint::{CheckpointError, TensorFile, WeightFiles, read_json};

const SPARE: u64 = 64 << 20;

/// A field of `/proc/self/status` in bytes: `VmHWM` is the most memory the process had, `VmRSS` what it has.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

fn open(kind: &str, path: &Path) -> Result<usize, CheckpointError> {
    match kind {
        "tensors" => TensorFile::open(path).map(|file| file.tensors().len()),
        "index" => WeightFiles::open_index(path).map(|weights| weights.tensors().len()),
        _ => read_json(path).map(|value| value.as_array().map_or(0, Vec::len)),
    }
}

#[test]
#[ignore = "the child process of hostile_files_take_bounded_memory"]
fn child_opens_a_file_and_measures_itself() {
    let Ok(path) = std::env::var("CHECKPOINT_TEST_FILE") else { return };
    let before = memory("VmRSS");
    let result = open(&std::env::var("CHECKPOINT_TEST_KIND").unwrap(), Path::new(&path));
    let most = memory("VmHWM") - before;
    let len = std::fs::metadata(&path).unwrap().len();
    println!("{most} bytes of memory for a file of {len}: {:?}", result.as_ref().map_err(ToString::to_string));
    assert!(most <= len + SPARE, "{most} bytes of memory for a file of {len}");
    let expected = std::env::var("CHECKPOINT_TEST_EXPECTED").unwrap();
    match result {
        Ok(count) => assert_eq!(count.to_string(), expected),
        Err(error) => assert!(error.to_string().contains(&expected), "{error}"),
    }
}

/// As many tensors, dimensions, bytes of names and of metadata as are accepted.
fn most_tensors() -> Vec<u8> {
    let shape = [0u64; 16];
    let mut header = String::from("{\"__metadata__\":{");
    for i in 0..65_000 {
        let _ = write!(header, "{}\"{i}\":\"{}\"", if i > 0 { "," } else { "" }, "m".repeat(100));
    }
    header.push('}');
    for i in 0..65_536 {
        let _ = write!(header, ",\"{i:0>256}\":{{\"dtype\":\"U8\",\"shape\":{shape:?},\"data_offsets\":[0,0]}}");
    }
    safetensors(header + "}", 0)
}

#[test]
fn hostile_files_take_bounded_memory() {
    let scratch = Scratch::on_disk();
    let cut = |start: &str, unit: &str, n: usize| safetensors(format!("{start}{}", unit.repeat(n)), 0);
    let list = |unit: &str, n: usize| format!("[{}0]", unit.repeat(n)).into_bytes();
    let full = |unit: &str| list(unit, (16 << 20) / unit.len() - 2);
    let long_key = format!("{{\"weight_map\":{{\"{}\":0}}}}", "\\n".repeat(8_000_000)).into_bytes();
    let texts = |n: usize, rest: &str| format!("[\"{}\"{rest}]", "\\n".repeat(n)).into_bytes();
    let cases: [(&str, &str, Vec<u8>, &str); 14] = [
        ("most of all", "tensors", most_tensors(), "65536"),
        ("escapes", "tensors", cut("{\"", "\\n", 47_000_000), "a string of more than"),
        ("a name", "tensors", cut("{\"", "n", 90_000_000), "a string of more than"),
        ("a shape", "tensors", cut("{\"t\":{\"shape\":[", "0,", 40_000_000), "dimensions"),
        ("nesting", "tensors", cut("{\"t\":", "[", 90_000_000), "expected an object"),
        ("metadata", "tensors", cut("{\"__metadata__\":{", "\"k\":\"v\",", 10_000_000), "twice"),
        ("blanks", "tensors", cut("{}", " ", 99_000_000), "0"),
        ("numbers", "json", full("0,"), "more values"),
        ("lists", "json", full("[],"), "more values"),
        ("lists of one", "json", full("[0],"), "more values"),
        ("objects of one", "json", full("{\"\":0},"), "more values"),
        ("as many numbers as accepted", "json", list("0,", 600_000), "600001"),
        ("a text as long as accepted", "json", texts(8_000_000, &",0".repeat(300_000)), "300001"),
        ("a key", "index", long_key, "not a string"),
    ];
    for (name, kind, content, expected) in cases {
        let path = scratch.file("hostile", &content);
        let output = this_program()
            .args(["child_opens_a_file_and_measures_itself", "--exact", "--ignored", "--nocapture"])
            .envs([("CHECKPOINT_TEST_KIND", kind), ("CHECKPOINT_TEST_EXPECTED", expected)])
            .env("CHECKPOINT_TEST_FILE", &path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 passed"), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
        println!("{name}: {}", text.lines().find(|line| line.contains("bytes of memory")).unwrap());
    }
}
