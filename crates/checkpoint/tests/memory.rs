//! Hostile files take no more memory than their size and 64 MiB. Each is opened by a process of its own, which measures
//! itself.

#![cfg(target_os = "linux")]

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use common::gguf::{Raw, array, entry, tensor, text};
use common::{Scratch, safetensors, this_program};
use smallmind_checkpoint::{CheckpointError, GgufFile, TensorFile, WeightFiles, read_json};

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
        "gguf" => GgufFile::open(path).map(|file| file.tensors().len() + file.metadata().len()),
        "index" => WeightFiles::open_index(path).map(|weights| weights.tensors().len()),
        _ => read_json(path).map(|value| value.as_array().map_or(0, Vec::len)),
    }
}

#[test]
#[ignore = "the child process of hostile_files_take_bounded_memory"]
fn child_opens_a_file_and_measures_itself() {
    let Ok(path) = std::env::var("CHECKPOINT_TEST_FILE") else { return };
    let before = memory("VmRSS");
    let start = Instant::now();
    let result = open(&std::env::var("CHECKPOINT_TEST_KIND").unwrap(), Path::new(&path));
    let time = start.elapsed();
    let most = memory("VmHWM") - before;
    let len = std::fs::metadata(&path).unwrap().len();
    println!(
        "{time:?} and {most} bytes of memory for a file of {len}: {:?}",
        result.as_ref().map_err(ToString::to_string)
    );
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
    let scratch = Scratch::on_disk();
    for (name, kind, content, expected) in &cases {
        check_in_child(&scratch, name, kind, content, expected);
    }
}

/// As many entries, tensors and bytes of names as are accepted.
fn most_of_gguf() -> Vec<u8> {
    let entries: Vec<_> = (0..65_536).map(|i| entry(&format!("{i:0>200}"), 8, text(i.to_string()))).collect();
    let tensors: Vec<_> = (0..65_536).map(|i| tensor(format!("{i:0>63}"), &[1, 1, 1, 1], 24, 32 * i)).collect();
    Raw::new(&entries, &tensors, 32 * 65_536).build()
}

#[test]
fn hostile_gguf_files_take_bounded_memory() {
    let of = |element: u32, count: usize, elements: Vec<u8>| {
        Raw::new(&[entry("k", 9, array(element, count as u64, elements))], &[], 0).build()
    };
    // Claims a little more than the file holds.
    let claims = |value: Vec<u8>| [Raw::new(&[value], &[], 0).header(), vec![0; 100 << 20]].concat();
    let strings = |n: usize, each: &str| of(8, n, text(each).repeat(n));
    let last_is_bad = |element: u32, count: usize, mut elements: Vec<u8>| {
        *elements.last_mut().unwrap() = 0xff;
        of(element, count, elements)
    };
    let inner = array(9, 16_000, array(0, 0, []).repeat(16_000));
    let long = [&(100u64 << 20).to_le_bytes()[..], &vec![b'x'; 100 << 20]].concat();
    let scratch = Scratch::on_disk();
    let check = |name, content: Vec<u8>, expected| check_in_child(&scratch, name, "gguf", &content, expected);
    check("most of all", most_of_gguf(), "131072");
    check("a text", Raw::new(&[entry("k", 8, &long)], &[], 0).build(), "1");
    check("texts", strings(6_000_000, "0123456789"), "1");
    check("empty texts", strings(12_000_000, ""), "1");
    check("bytes", of(0, 100 << 20, vec![1; 100 << 20]), "1");
    check("bools", of(7, 100 << 20, vec![1; 100 << 20]), "1");
    check("a bad bool at the end", last_is_bad(7, 100 << 20, vec![1; 100 << 20]), "a bool holds 255");
    let bad = [text(vec![b'x'; 50 << 20]), text(vec![b'x'; 50 << 20])].concat();
    check("bad UTF-8 at the end", last_is_bad(8, 2, bad), "not UTF-8");
    check("f64", of(12, 12 << 20, vec![0; 96 << 20]), "1");
    check("nested arrays", of(9, 4, inner.repeat(4)), "1");
    check("a count over the file", claims(entry("k", 9, array(12, (100 << 20) / 8 + 2, []))), "are claimed");
    check("a text over the file", claims(entry("k", 8, u64::to_le_bytes((100 << 20) + 1))), "are needed");
    let long = [Raw::new(&[entry("k", 9, array(0, 300 << 20, []))], &[], 0).header(), vec![0; 300 << 20]].concat();
    check("a header over the limit", long, "take more than 268435456 bytes");
}

/// Opens a file of this content in a process of its own, which expects a number of entries or a text of an error.
fn check_in_child(scratch: &Scratch, name: &str, kind: &str, content: &[u8], expected: &str) {
    let path = scratch.file("hostile", content);
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
