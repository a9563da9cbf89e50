//! The memory of a training does not grow: resident bytes from step 10 to step 500, in processes of their own so that
//! nothing else is in them, with everything on the way that may happen on the way.
#![cfg(target_os = "linux")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use common::{begin, tiny};
use smallmind_train::Event;

/// Names the folder to the process that trains.
const FOLDER: &str = "SMALLMIND_TEST_MEMORY_FOLDER";
/// Names the shape to it, an index of [`SHAPES`].
const SHAPE: &str = "SMALLMIND_TEST_MEMORY_SHAPE";

/// Where activations are most of the memory, and where the weights are.
const SHAPES: [&[&str]; 2] = [
    &["model.d_model=128", "model.layers=2", "model.context=64", "train.batch=16"],
    &["model.d_model=256", "model.layers=4", "model.context=32", "train.batch=1"],
];

/// Not a test: trains, and tells the resident bytes every ten steps.
#[test]
#[ignore = "the role of the process that is measured"]
fn child() {
    let (Some(dir), Ok(shape)) = (std::env::var_os(FOLDER), std::env::var(SHAPE)) else { return };
    // Everything that happens on the way happens: lines of the log, estimates, samples, checkpoints, a model that is
    // published.
    let common =
        ["train.steps=500", "model.dropout=0.1", "eval.interval=100", "sample.interval=150", "sample.tokens=80"];
    let shape = SHAPES[shape.parse::<usize>().unwrap()];
    let config = tiny(&[&common, shape, &["checkpoint.interval=100"]].concat());
    let mut trainer = begin(Path::new(&dir), "run", &config, 2).unwrap();
    trainer
        .run(&AtomicBool::new(false), &mut |event| {
            if let Event::Step(s) = event
                && s.step.is_multiple_of(10)
            {
                println!("\n@ {} {}", s.step, resident_bytes());
            }
        })
        .unwrap();
}

/// The bytes that this process has written to and that are in memory. Pages of the program's file are left out: they are
/// read when they are first used, half a megabyte of them for the first sample.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    1024 * line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap()
}

#[test]
fn memory_is_flat_from_step_ten_on() {
    for (shape, settings) in SHAPES.iter().enumerate() {
        let told = measure(shape);
        let (step, at_ten) = told[0];
        assert_eq!(step, 10);
        for (step, bytes) in &told {
            let growth = *bytes as f64 / at_ten as f64 - 1.0;
            let change = 100.0 * growth;
            assert!(growth.abs() <= 0.01, "{settings:?}, step {step}: {change:+.2} %; {told:?}");
        }
    }
}

/// Steps, and the resident bytes after them.
fn measure(shape: usize) -> Vec<(u64, u64)> {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(FOLDER, dir.path())
        .env(SHAPE, shape.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told: Vec<(u64, u64)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("@ ")?.split_once(' '))
        .map(|(step, bytes)| (step.parse().unwrap(), bytes.parse().unwrap()))
        .collect();
    assert_eq!(told.len(), 50, "{text} {}", String::from_utf8_lossy(&output.stderr));
    told
}
