//! SIGKILL at any moment: what was reported as a checkpoint is what the run goes on from.
//!
//! The test starts itself again as a child that trains with a checkpoint every three steps, and kills it at random
//! moments: while it starts, between checkpoints, and within their writing, where most of its time goes. The ordinary
//! test kills 40 times; the long one 200 times:
//!
//! ```text
//! cargo test -p smallmind-train --test kill -- --ignored two_hundred
//! ```
#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{begin, finish, overlays, resume, resumed_from, state, tiny};
use smallmind_simd::IsaKind;
use smallmind_train::{Event, Trainer};

/// Names the folder to a process that is the child.
const FOLDER: &str = "SMALLMIND_TEST_KILL_FOLDER";

/// A line of the child's standard output that is meant for the parent begins with it.
const MARK: &str = "@ ";

/// Steps between checkpoints.
const INTERVAL: u64 = 3;

/// A training without end. The rate is constant, so that the number of steps does not change what they compute.
const SETTINGS: &[&str] = &[
    "train.steps=1000000000",
    "train.schedule=constant",
    "model.dropout=0.1",
    "checkpoint.interval=3",
    "log.interval=1",
];

/// Not a test: the role of the child. It tells of each checkpoint.
#[test]
#[ignore = "the role of the child that is killed"]
fn child() {
    let Some(dir) = std::env::var_os(FOLDER) else { return };
    let dir = Path::new(&dir);
    let mut trainer = if smallmind_train::is_run(&dir.join("run")) {
        resume(&dir.join("run"), 1)
    } else {
        begin(dir, "run", &tiny(SETTINGS), 1).unwrap()
    };
    let report = |step: u64| {
        // In one piece and past the test harness: what has been written is a checkpoint that was there before.
        let line = format!("\n{MARK}{step}\n");
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    };
    let told = trainer.run(&AtomicBool::new(false), &mut |event| {
        if let Event::Checkpoint { step, .. } = event {
            report(*step);
        }
    });
    panic!("the training ended: {told:?}");
}

/// When a child is killed.
enum Moment {
    /// So long after its start.
    Start(Duration),
    /// So long after its first report.
    Report(Duration),
}

/// Starts a child, kills it, and answers the steps that it reported.
fn killed(dir: &Path, moment: Moment) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (send, reports) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in stdout.split(b'\n') {
            let line = String::from_utf8(line.unwrap()).unwrap();
            if let Some(step) = line.strip_prefix(MARK) {
                // The receiver may have seen enough; the pipe is drained all the same.
                let _ = send.send(step.parse::<u64>().unwrap());
            }
        }
    });
    let mut steps = Vec::new();
    let delay = match moment {
        Moment::Start(delay) => delay,
        Moment::Report(delay) => {
            let first = reports.recv_timeout(Duration::from_secs(60));
            if first.is_err() {
                child.kill().unwrap();
                let output = child.wait_with_output().unwrap();
                panic!("no checkpoint from the child: {}", String::from_utf8_lossy(&output.stderr));
            }
            steps.extend(first);
            delay
        }
    };
    std::thread::sleep(delay);
    // `kill` sends SIGKILL. A child that has ended by itself has failed.
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(ended.is_none(), "the child ended by itself: {}", String::from_utf8_lossy(&output.stderr));
    reader.join().unwrap();
    steps.extend(reports.iter());
    steps
}

/// Kills `count` times, and resumes after each.
fn kill(count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut random = Random(0x006b_696c_6c73 ^ u64::from(std::process::id()));
    let started = Instant::now();
    let (mut reported, mut resumed, mut unborn) = (None, 0, 0);
    for round in 0..count {
        let delay = Duration::from_micros(random.below(60_000));
        // Every fourth is killed without regard to how far it is.
        let moment = if round % 4 == 0 { Moment::Start(delay) } else { Moment::Report(delay) };
        let steps = killed(dir.path(), moment);
        assert!(steps.is_sorted(), "{steps:?}");
        reported = steps.last().copied().or(reported);
        if reported.is_none() && begin_anew(&run) {
            unborn += 1;
            continue;
        }
        let known = reported.unwrap_or(0).max(resumed);

        // To resume and to stop at once writes nothing: the next child begins where this one was killed.
        let mut trainer = Trainer::resume(&run, &[], 1, IsaKind::best())
            .unwrap_or_else(|error| panic!("kill {round} after step {known}: {error}"));
        let mut events = Vec::new();
        trainer.run(&AtomicBool::new(true), &mut |event| events.push(event.clone())).unwrap();
        let from = resumed_from(&events).unwrap();
        // A checkpoint that is not reported yet may be complete already.
        let newest = known..=known + INTERVAL;
        assert!(newest.contains(&from), "kill {round}: from step {from}, but there was a checkpoint of step {known}");
        assert!(common::warnings(&events).is_empty(), "kill {round}: {events:?}");
        resumed = from;
    }
    println!(
        "{count} kills in {:.1} s, {unborn} before the first checkpoint, step {resumed}",
        started.elapsed().as_secs_f64()
    );
    assert!(unborn < count / 2 && resumed >= count as u64, "the run got to step {resumed} only");
    as_if_nothing_had_happened(dir.path(), resumed + 2);
}

/// Removes what a child left that was killed before its first checkpoint, if so; there is nothing to go on from then.
fn begin_anew(run: &Path) -> bool {
    let unborn = Trainer::resume(run, &[], 1, IsaKind::best()).is_err();
    if unborn && run.exists() {
        std::fs::remove_dir_all(run).unwrap();
    }
    unborn
}

/// The run that was killed again and again ends as one that was not, bit for bit, and its log has every step once.
fn as_if_nothing_had_happened(dir: &Path, steps: u64) {
    let end = format!("train.steps={steps}");
    let mut killed = Trainer::resume(&dir.join("run"), &overlays(&[end.as_str()]), 1, IsaKind::best()).unwrap();
    finish(&mut killed);
    let config = tiny(&[SETTINGS, &[end.as_str(), "checkpoint.interval=0"]].concat());
    let mut whole = begin(dir, "whole", &config, 1).unwrap();
    finish(&mut whole);
    assert!(state(&killed) == state(&whole), "other weights or moments after {steps} steps");
    let steps_of = |name: &str| -> Vec<(u64, String)> {
        let text = std::fs::read_to_string(dir.join(name).join("log.jsonl")).unwrap();
        let step = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            (event["step"].as_u64().unwrap(), event["loss"].to_string())
        };
        text.lines().map(step).collect()
    };
    assert_eq!(steps_of("run"), steps_of("whole"));
}

/// SplitMix64: moments that differ from run to run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % n
    }
}

#[test]
fn forty_kills() {
    kill(40);
}

#[test]
#[ignore = "takes half a minute and more; the ordinary test does the same 40 times"]
fn two_hundred_kills() {
    kill(200);
}
