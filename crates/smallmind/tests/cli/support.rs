//! A folder of its own for each test, and the program run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a run of the program came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It ended well; its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self.stdout
    }

    /// It ended with `code`, said each of `words` in one message, and gave no answer.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stdout, "", "no answer: {self:#?}");
        assert_eq!(self.stderr.matches("error: ").count(), 1, "one message: {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} in {self:#?}");
        }
    }

    /// Its one JSON document.
    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(value["schema_version"], 1, "{value}");
        value
    }

    /// Its JSON documents, one a line.
    #[track_caller]
    pub fn events(self) -> Vec<Value> {
        let events: Vec<Value> = self
            .ok()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect();
        assert!(events.iter().all(|event| event["schema_version"] == 1), "{events:?}");
        events
    }
}

/// A folder in which the program runs.
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// The line that `text.txt` is made of.
    pub const TEXT: &str = "the cat sat on the mat, and the dog sat by the cat.\n";

    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    /// The same with `text.txt`, a text that is long enough for the tiny model.
    pub fn with_text() -> Self {
        let bench = Self::new();
        bench.write("text.txt", Self::TEXT.repeat(60));
        bench
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("written");
    }

    /// The program with arguments parted by blanks; `SMALLMIND_…` variables of the caller don't reach it.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smallmind"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SMALLMIND_") {
                command.env_remove(name);
            }
        }
        command.args(line.split_whitespace()).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs it.
    pub fn run(&self, line: &str) -> Ran {
        Ran::of(self.command(line).output().expect("the program starts"))
    }

    /// Runs it with a text on standard input.
    pub fn run_with_input(&self, line: &str, input: &[u8]) -> Ran {
        self.write(".stdin", input);
        let file = fs::File::open(self.path(".stdin")).expect("readable");
        Ran::of(self.command(line).stdin(file).output().expect("the program starts"))
    }

    /// Trains a tiny model into the folder `out`, with more arguments.
    pub fn train(&self, out: &str, more: &str) -> Ran {
        self.run(&format!("train --data text.txt --out {out} {TINY} {more}"))
    }

    /// A folder `model` with random weights and a tokenizer of the characters of `text.txt`.
    pub fn random_model(&self) {
        self.run("tokenizer train --kind characters --data text.txt --out tokenizer.json").ok();
        self.run("new --preset nanogpt-cpu --out model --tokenizer tokenizer.json").ok();
    }
}

/// Settings of a model that trains in no time, in nanoGPT's words and in ours.
pub const TINY: &str = "--threads 1 --data.tokenizer=characters --n_layer=1 --n_head=2 --n_embd=16 --block_size=16 \
                        --batch_size=2 --eval_iters=1 --max_iters=6 --train.warmup=2";

/// Whether a process of these tests gets the signal: `nohup cargo test` has all of them ignore some.
#[cfg(unix)]
pub fn is_received(name: &str) -> bool {
    let script = format!("kill -s {name} $$");
    let received = Command::new("sh").args(["-c", &script]).status().unwrap().code().is_none();
    if !received {
        eprintln!("skipped: SIG{name} is ignored here");
    }
    received
}

/// The signal that interrupts: that of Ctrl-C, or where these tests ignore it, as in the background of a script, a
/// request to terminate.
#[cfg(unix)]
pub fn interrupt() -> &'static str {
    if is_received("INT") { "INT" } else { "TERM" }
}
