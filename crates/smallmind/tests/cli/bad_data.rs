//! Text files that can't be trained on: refused in one message, and no folder is left behind.

use crate::support::{Bench, TINY};

#[track_caller]
fn refused(content: Option<&[u8]>, code: i32, words: &[&str]) {
    let bench = Bench::new();
    if let Some(content) = content {
        bench.write("text.txt", content);
    }
    bench.train("run", "").fails(code, words);
    assert!(!bench.path("run").exists());
    bench.run("tokenizer train --kind bpe --data text.txt --out t.json").ok_or_fails_with(code);
}

trait OkOr {
    fn ok_or_fails_with(self, code: i32);
}

impl OkOr for crate::support::Ran {
    /// Short texts are good enough for a vocabulary; the others are refused with the same code.
    #[track_caller]
    fn ok_or_fails_with(self, code: i32) {
        assert!(self.code == Some(0) || self.code == Some(code), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
    }
}

#[test]
fn a_missing_file() {
    refused(None, 3, &["text.txt", "no such file"]);
    for line in ["train --data x --out y --config none", "eval -m none --data x", "profile diff none none"] {
        let ran = Bench::new().run(line);
        assert!(!ran.stderr.contains("os error"), "{}", ran.stderr);
        assert!(ran.stderr.contains("none: ") && ran.stderr.contains("no such f"), "{}", ran.stderr);
    }
}

#[test]
fn an_empty_file() {
    refused(Some(b""), 3, &["text.txt", "empty"]);
}

#[test]
fn a_file_that_is_not_utf8() {
    let mut bytes = b"good text ".repeat(100);
    bytes[700] = 0xe9;
    refused(Some(&bytes), 3, &["text.txt", "UTF-8", "offset 700", "0xe9"]);
}

#[test]
fn one_character() {
    refused(Some(b"a"), 3, &["token"]);
}

#[test]
fn a_text_shorter_than_the_context() {
    refused(Some(b"a short text"), 3, &["context 16", "17"]);
}

#[test]
fn a_text_whose_validation_part_is_shorter_than_the_context() {
    refused(Some("a longer text. ".repeat(8).as_bytes()), 3, &["context 16"]);
}

#[test]
fn a_folder_instead_of_a_file() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("text.txt")).unwrap();
    bench.train("run", "").fails(3, &["text.txt", "folder"]);
}

#[test]
fn one_bad_file_among_good_ones() {
    let bench = Bench::with_text();
    bench.write("bad.txt", [0xff, 0xfe, 0x00]);
    bench.run(&format!("train --data text.txt bad.txt --out run {TINY}")).fails(3, &["bad.txt", "UTF-16"]);
    assert!(!bench.path("run").exists());
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let bench = Bench::with_text();
    std::fs::create_dir_all(bench.path("home/data")).unwrap();
    bench.write("home/data/diary.txt", "dear diary");
    for more in ["", "--overwrite"] {
        bench.train("home", more).fails(2, &["home", "diary.txt"]);
    }
    assert_eq!(std::fs::read(bench.path("home/data/diary.txt")).unwrap(), b"dear diary");
    bench.train("text.txt", "").fails(2, &["text.txt", "file"]);
}

#[test]
fn eval_names_what_it_cannot_read() {
    let bench = Bench::with_text();
    bench.random_model();
    bench.write("empty.txt", "");
    bench.write("latin1.txt", b"caf\xe9 noir");
    bench.write("one.txt", "t");
    bench.write("none.jsonl", "\"\"\n");
    bench.write("other.txt", "the cat sat on the \u{1F3A9}");
    for (file, words) in [
        ("missing.txt", &["missing.txt"] as &[&str]),
        ("empty.txt", &["empty"]),
        ("latin1.txt", &["offset 3"]),
        ("one.txt", &["the text has 1 token,", "nothing to predict", "two tokens or more"]),
        ("none.jsonl", &["the text has 0 tokens,", "nothing to predict"]),
        ("other.txt", &["U+1F3A9", "19"]),
    ] {
        bench.run(&format!("eval -m model --threads 1 --data {file}")).fails(3, words);
    }
}
