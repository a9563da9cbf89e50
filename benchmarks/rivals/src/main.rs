//! The crates `gemm` and `matrixmultiply` as rivals of `smallmind bench kernels`: lines of JSON over standard input and output.
//!
//! `matrixmultiply` reads its number of threads once in the life of a process. So this process computes nothing itself: it
//! hands every request to a worker, a child of the same program that serves one number of threads.

mod contenders;
mod matmul;
mod protocol;
mod worker;

use std::collections::btree_map::{BTreeMap, Entry};
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use protocol::{Answer, Operation, Request};

/// The variable that `matrixmultiply` reads before its first product.
const THREADS: &str = "MATMUL_NUM_THREADS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Relay::default().serve(),
        ["--worker", threads] => match threads.parse() {
            Ok(threads) => worker::serve(threads),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rivals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: rivals\nIt takes no options; `smallmind bench kernels --rival COMMAND` starts it.");
    ExitCode::from(2)
}

/// The workers by their number of threads, and which of them holds the prepared case.
#[derive(Default)]
struct Relay {
    workers: BTreeMap<usize, Worker>,
    current: Option<usize>,
}

impl Relay {
    /// Greets and answers requests until `quit` or the end of the input.
    fn serve(mut self) -> io::Result<()> {
        protocol::send(&contenders::greeting())?;
        for line in io::stdin().lock().lines() {
            let line = line?;
            let request: Request = match serde_json::from_str(&line) {
                Ok(request) => request,
                Err(error) => {
                    protocol::send(&Answer::refused(protocol::id_of(&line), format!("not a request: {error}")))?;
                    continue;
                }
            };
            match request.operation {
                Operation::Quit => break,
                Operation::Prepare(ref case) => self.current = Some(case.threads),
                Operation::Release if self.current.is_none() => {
                    protocol::send(&Answer::done(request.id))?;
                    continue;
                }
                Operation::Sample { .. } | Operation::Release => {}
            }
            match self.hand_on(&line) {
                Ok(answer) => protocol::send_line(answer.trim_end())?,
                Err(why) => protocol::send(&Answer::refused(request.id, why))?,
            }
        }
        Ok(())
    }

    /// The answer of the worker that the current case belongs to. One that died is forgotten, so that the next case starts afresh.
    fn hand_on(&mut self, line: &str) -> Result<String, String> {
        let threads = self.current.ok_or("nothing is prepared")?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        if !(1..=processors).contains(&threads) {
            self.current = None;
            return Err(format!("{threads} threads, but this process may use {processors}"));
        }
        let worker = match self.workers.entry(threads) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry
                .insert(Worker::start(threads).map_err(|error| format!("no worker of {threads} threads: {error}"))?),
        };
        worker.ask(line).map_err(|error| {
            self.workers.remove(&threads);
            self.current = None;
            format!("error: the worker of {threads} threads ended: {error}")
        })
    }
}

/// A child that computes with one number of threads.
struct Worker {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(threads: usize) -> io::Result<Self> {
        let count = threads.to_string();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--worker", &count])
            .env(THREADS, &count)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(requests), Some(answers)) => {
                Ok(Self { child, requests: Some(requests), answers: BufReader::new(answers) })
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Sends one line and waits for the line that answers it.
    fn ask(&mut self, line: &str) -> io::Result<String> {
        let requests = self.requests.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(requests, "{line}")?;
        let mut answer = String::new();
        match self.answers.read_line(&mut answer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer),
        }
    }
}

impl Drop for Worker {
    /// Ends the child by the end of its input and waits for it.
    fn drop(&mut self) {
        self.requests = None;
        // There is nobody left to tell.
        let _ = self.child.wait();
    }
}
