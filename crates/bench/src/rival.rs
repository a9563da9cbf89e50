//! The client's side of the rivals' protocol: JSON lines over a process's standard input and output.
//!
//! ```text
//! rival → {"rival":"pytorch","version":"2.9.0","contenders":[{"name":"pytorch","kernels":["matmul/f32"]}]}
//! here  → {"id":1,"op":"prepare","contender":"pytorch","kernel":"matmul","dtype":"f32","params":{…},"threads":2}
//! rival → {"id":1,"ok":true}                       or {"id":1,"ok":false,"why":"…"}: no such case
//! here  → {"id":2,"op":"sample","iterations":10}
//! rival → {"id":2,"seconds":[0.00123]}             of all iterations together, by the rival's own clock
//! here  → {"id":3,"op":"release"}
//! rival → {"id":3,"ok":true}
//! here  → {"op":"quit"}
//! ```
//!
//! A process has one case prepared at a time. Its lines are not trusted: a line that does not answer the request is an
//! error, after which no further request is sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use smallmind_kernels::Format;

use crate::case::{Case, Problem};
use crate::error::BenchError;

/// How long a rival may take for an answer: starting an interpreter and compiling a kernel take their time.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How long a rival that is told to quit may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// The most bytes of a line.
const MAX_LINE: u64 = 1 << 20;

/// The first line of a rival.
#[derive(Clone, Debug, Deserialize)]
struct Hello {
    rival: String,
    version: String,
    contenders: Vec<Contender>,
}

/// A library, or a variant of one, to compare with.
#[derive(Clone, Debug, Deserialize)]
pub struct Contender {
    /// Its name.
    pub name: String,
    /// Its version, if it differs from the rival's.
    version: Option<String>,
    /// What it computes, each as `kernel/dtype`, such as `matmul/f32`.
    kernels: Vec<String>,
}

/// What the reading thread passes on.
enum Heard {
    Line(String),
    End,
    Broken(String),
}

/// A running process that speaks the protocol.
#[derive(Debug)]
pub struct Rival {
    command: String,
    child: Child,
    input: Option<ChildStdin>,
    heard: Receiver<Heard>,
    patience: Duration,
    hello: Hello,
    last_id: u64,
    broken: bool,
}

impl Rival {
    /// Starts `command` through the shell and reads which contenders it has. Every answer may take [`PATIENCE`].
    ///
    /// # Errors
    /// [`BenchError::Rival`] if it doesn't start, or doesn't introduce itself.
    pub fn start(command: &str) -> Result<Self, BenchError> {
        Self::start_patiently(command, PATIENCE)
    }

    /// [`Rival::start`] with another time for answers.
    ///
    /// # Errors
    /// As [`Rival::start`].
    pub fn start_patiently(command: &str, patience: Duration) -> Result<Self, BenchError> {
        let failed = |why: String| BenchError::Rival { command: command.to_owned(), why };
        let mut child = shell(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("can't be started: {error}")))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = output.ok_or_else(|| failed("has no standard output".into()))?;
        let heard = listen(output);
        let hello = Hello { rival: String::new(), version: String::new(), contenders: vec![] };
        let mut rival =
            Self { command: command.to_owned(), child, input, heard, patience, hello, last_id: 0, broken: false };
        let line = rival.hear("introducing itself")?;
        rival.hello = serde_json::from_str(&line)
            .map_err(|error| rival.fail(&format!("introduces itself by {}: {error}", cut(&line))))?;
        if rival.hello.contenders.is_empty() {
            return Err(rival.fail("has no contenders"));
        }
        Ok(rival)
    }

    /// Its contenders that compute `kernel/dtype`; none once it has failed. None for products with weights in a format
    /// other than `f32`: no rival has them.
    pub fn contenders(&self, case: &Case) -> Vec<Contender> {
        if matches!(case.problem, Problem::PackedMatmul { .. }) && case.format != Format::F32 {
            return vec![];
        }
        let kernel = format!("{}/{}", case.problem.kernel(), case.format);
        let computes = |c: &&Contender| !self.broken && c.kernels.contains(&kernel);
        self.hello.contenders.iter().filter(computes).cloned().collect()
    }

    /// The version of a contender.
    pub fn version(&self, contender: &Contender) -> String {
        contender.version.clone().unwrap_or_else(|| {
            if contender.name == self.hello.rival || self.hello.rival.is_empty() {
                self.hello.version.clone()
            } else {
                format!("{} {}", self.hello.rival, self.hello.version)
            }
        })
    }

    /// Prepares a case; `false` if the rival can't compute it.
    ///
    /// # Errors
    /// [`BenchError::Rival`]
    pub fn prepare(&mut self, contender: &str, case: &Case, threads: usize) -> Result<bool, BenchError> {
        let answer = self.ask(json!({
            "op": "prepare",
            "contender": contender,
            "kernel": case.problem.kernel(),
            "dtype": case.format.to_string(),
            "params": case.problem.params(),
            "threads": threads,
        }))?;
        match answer["ok"].as_bool() {
            Some(ok) => Ok(ok),
            None => Err(self.fail(&format!("answers `prepare` with {}", cut(&answer.to_string())))),
        }
    }

    /// The seconds of `iterations` iterations of the prepared case.
    ///
    /// # Errors
    /// [`BenchError::Rival`]
    pub fn sample(&mut self, iterations: usize) -> Result<f64, BenchError> {
        let answer = self.ask(json!({ "op": "sample", "iterations": iterations }))?;
        let seconds = match answer["seconds"].as_array().map(Vec::as_slice) {
            Some([seconds]) => seconds.as_f64(),
            _ => None,
        };
        match seconds.filter(|s| s.is_finite() && *s > 0.0) {
            Some(seconds) => Ok(seconds),
            None => Err(self.fail(&format!("answers `sample` with {}", cut(&answer.to_string())))),
        }
    }

    /// Releases the prepared case.
    ///
    /// # Errors
    /// [`BenchError::Rival`]
    pub fn release(&mut self) -> Result<(), BenchError> {
        self.ask(json!({ "op": "release" })).map(|_| ())
    }

    /// Sends a request with the next id and returns its answer.
    fn ask(&mut self, mut request: Value) -> Result<Value, BenchError> {
        self.last_id += 1;
        let (id, op) = (self.last_id, request["op"].as_str().unwrap_or_default().to_owned());
        request["id"] = id.into();
        let line = format!("{request}\n");
        let sent = self.input.as_mut().map(|input| input.write_all(line.as_bytes()).and_then(|()| input.flush()));
        if !matches!(sent, Some(Ok(()))) {
            // The process has closed its input. If it gave a reason, it did so on standard error.
            return Err(self.gone(&op));
        }
        let line = self.hear(&op)?;
        let answer: Value = serde_json::from_str(&line)
            .map_err(|error| self.fail(&format!("answers `{op}` with {}: {error}", cut(&line))))?;
        if answer["id"].as_u64() != Some(id) {
            return Err(self.fail(&format!("answers `{op}` number {id} with {}", cut(&line))));
        }
        Ok(answer)
    }

    fn hear(&mut self, doing: &str) -> Result<String, BenchError> {
        match self.heard.recv_timeout(self.patience) {
            Ok(Heard::Line(line)) => Ok(line),
            Ok(Heard::Broken(why)) => Err(self.fail(&format!("can't be understood at `{doing}`: {why}"))),
            Ok(Heard::End) | Err(RecvTimeoutError::Disconnected) => Err(self.gone(doing)),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.fail(&format!("is silent for {} s at `{doing}`", self.patience.as_secs_f64())))
            }
        }
    }

    /// Fails, since the process has ended or closed its output.
    fn gone(&mut self, doing: &str) -> BenchError {
        let how = match wait(&mut self.child, FAREWELL) {
            Some(status) => format!("ended at `{doing}` ({status})"),
            None => format!("closed its standard output at `{doing}`"),
        };
        self.fail(&how)
    }

    /// Ends the process and returns an error that says why.
    fn fail(&mut self, why: &str) -> BenchError {
        self.broken = true;
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        BenchError::Rival { command: self.command.clone(), why: why.to_owned() }
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        if let Some(mut input) = self.input.take() {
            // Even if this fails, closing its input tells the process to end.
            let _ = input.write_all(b"{\"op\":\"quit\"}\n").and_then(|()| input.flush());
        }
        if wait(&mut self.child, FAREWELL).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The exit status of a process, if it ends within `patience`.
fn wait(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if begin.elapsed() < patience => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => return None,
        }
    }
}

#[cfg(not(windows))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]);
    shell
}

#[cfg(windows)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.args(["/C", command]);
    shell
}

/// Reads lines on a thread, so that a wait for one can time out. The thread ends with the output.
fn listen(output: ChildStdout) -> Receiver<Heard> {
    let (send, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        loop {
            let mut line = Vec::new();
            let heard = match output.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                Ok(0) => Heard::End,
                Ok(_) if line.last() != Some(&b'\n') && line.len() as u64 == MAX_LINE => {
                    Heard::Broken(format!("a line of more than {MAX_LINE} bytes"))
                }
                Ok(_) => match String::from_utf8(line) {
                    Ok(line) => Heard::Line(line.trim_end().to_owned()),
                    Err(error) => Heard::Broken(error.to_string()),
                },
                Err(error) => Heard::Broken(error.to_string()),
            };
            let last = !matches!(heard, Heard::Line(_));
            if send.send(heard).is_err() || last {
                return;
            }
        }
    });
    heard
}

/// The beginning of a line of a rival, for a message.
fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(120).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{short}`")
}
