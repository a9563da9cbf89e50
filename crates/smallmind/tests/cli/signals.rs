//! Ctrl-C and worse.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Bench, Ran, TINY, interrupt, is_received};

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Starts a training that would take hours, and waits until it has logged a step.
fn endless_training(bench: &Bench, more: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let line = format!("train --data text.txt --out run {TINY} --max_iters=100000000 --log.interval=1 --json {more}");
    let mut child = bench.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    next_step(&mut lines);
    (child, lines)
}

/// Reads the next event of a step; its number.
fn next_step(lines: &mut BufReader<std::process::ChildStdout>) -> u64 {
    let mut line = String::new();
    while !line.contains("\"step\"") || !line.contains("loss") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the training ended");
    }
    serde_json::from_str::<Value>(&line).unwrap()["step"].as_u64().unwrap()
}

/// Waits for the end, reading what is left of standard output meanwhile.
fn end(child: Child, mut lines: BufReader<std::process::ChildStdout>) -> Ran {
    let mut stdout = Vec::new();
    lines.read_to_end(&mut stdout).unwrap();
    Ran::of(Output { stdout, ..child.wait_with_output().unwrap() })
}

#[test]
fn an_interrupted_training_writes_a_checkpoint_and_goes_on() {
    for name in ["INT", "TERM", "HUP"].into_iter().filter(|name| is_received(name)) {
        let bench = Bench::with_text();
        let (child, lines) = endless_training(&bench, "--checkpoint.interval=0");
        signal(&child, name);
        let ran = end(child, lines);
        assert_eq!(ran.code, Some(130), "{}", ran.stderr);
        assert!(ran.stderr.contains("--resume") && !ran.stderr.contains("error"), "{}", ran.stderr);
        let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        assert_eq!((&last["event"], &last["finish"]), (&"done".into(), &"interrupted".into()));
        let step = last["steps"].as_u64().unwrap();
        let events =
            bench.run(&format!("train --out run --resume --json --threads 1 --max_iters={}", step + 2)).events();
        assert_eq!(events[0]["resumed_from"], step);
        assert_eq!(events.last().unwrap()["steps"], step + 2);
    }
}

/// Starts an endless training by a shell's script, in which `"$@"` is its command.
fn training_by_a_script(bench: &Bench, script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let line = format!("train --data text.txt --out run {TINY} --max_iters=100000000 --log.interval=1 --json");
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_smallmind")]).args(line.split_whitespace());
    shell.current_dir(bench.path("")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    next_step(&mut lines);
    (child, lines)
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    for (script, ignored) in [
        ("trap '' HUP; exec \"$@\"", &["HUP"] as &[&str]),
        ("exec nohup \"$@\"", &["HUP"]),
        ("trap '' HUP INT TERM; exec \"$@\"", &["HUP", "INT", "TERM"]),
    ] {
        let bench = Bench::with_text();
        let (mut child, mut lines) = training_by_a_script(&bench, script);
        for name in ignored {
            signal(&child, name);
        }
        let sent = Instant::now();
        while sent.elapsed() < Duration::from_millis(100) {
            next_step(&mut lines);
        }
        // What isn't ignored still ends it well.
        if !ignored.contains(&"TERM") {
            signal(&child, "TERM");
            let ran = end(child, lines);
            assert_eq!(ran.code, Some(130), "{script}: {}", ran.stderr);
            assert!(ran.stdout.contains("\"interrupted\""), "{script}: {}", ran.stderr);
        } else {
            child.kill().unwrap();
            let ran = end(child, lines);
            assert!(!ran.stderr.contains("stopping"), "{script}: {}", ran.stderr);
        }
    }
}

#[test]
fn the_second_interrupt_ends_at_once() {
    let bench = Bench::with_text();
    // A step of so many micro-batches never ends.
    let line = format!("train --data text.txt --out run {TINY} --gradient_accumulation_steps=100000000 --json");
    let mut child = bench.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    while !first.contains("\"checkpoint\"") {
        first.clear();
        assert!(lines.read_line(&mut first).unwrap() > 0, "the training ended");
    }
    // Time to begin the step.
    std::thread::sleep(Duration::from_secs(1));
    // The loss of a terminal, of which the system and the shell both tell, is no first Ctrl-C and no second one.
    signal(&child, "HUP");
    signal(&child, interrupt());
    signal(&child, "HUP");
    std::thread::sleep(Duration::from_millis(200));
    if child.try_wait().unwrap().is_some() {
        panic!("the first interrupt waits for the step: {:#?}", end(child, lines));
    }
    let started = Instant::now();
    signal(&child, interrupt());
    let ran = end(child, lines);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("Ctrl-C again"), "{}", ran.stderr);
}

#[test]
fn interrupted_generation_keeps_what_it_has_said() {
    let bench = Bench::with_text();
    bench.random_model();
    let line = "generate -m model -n 100000000 --threads 1";
    let mut child = bench.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut first = [0; 10];
    lines.read_exact(&mut first).unwrap();
    signal(&child, interrupt());
    let ran = end(child, lines);
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    // What was read before may have been all: not every token of this model has a text.
    let last = ran.stdout.bytes().next_back().unwrap_or(first[9]);
    assert!(last == b'\n' && ran.stderr.contains("tokens/s"), "{}", ran.stderr);
}

/// Waits until a program handles the signal; where that can't be seen, for a while.
fn wait_for_handler(child: &Child) {
    let number = if interrupt() == "INT" { 2 } else { 15 };
    for _ in 0..1000 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        match mask.map(|mask| u64::from_str_radix(mask.trim(), 16).unwrap()) {
            Some(mask) if mask >> (number - 1) & 1 == 1 => return,
            Some(_) => std::thread::sleep(Duration::from_millis(2)),
            None => return std::thread::sleep(Duration::from_millis(500)),
        }
    }
    panic!("the program doesn't handle signals");
}

#[test]
fn commands_that_wait_or_measure_end_at_once() {
    let bench = Bench::with_text();
    bench.random_model();
    let before = crate::folders::tree(&bench.path(""));
    let nothing = "interrupted; nothing was written";
    for (line, said) in [
        ("imatrix -m model --data - --out matrix.gguf", nothing),
        ("quantize -m model --format q8_0 --data - --out small.gguf", nothing),
        ("tokenizer train --data - --out t.json", nothing),
        ("eval -m model --data -", "interrupted"),
        ("generate -m model -p -", "interrupted"),
        // Measures for a while.
        ("profile generate -m model --out report --runs 100 --threads 1", nothing),
        ("profile generate -m model --runs 100 --threads 1", "interrupted"),
    ] {
        let mut child = bench.command(line);
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_handler(&child);
        signal(&child, interrupt());
        let mut child = child;
        let stdin = child.stdin.take();
        let ran = Ran::of(child.wait_with_output().unwrap());
        drop(stdin);
        let told = (ran.code, ran.stdout.as_str(), ran.stderr.lines().last());
        assert_eq!(told, (Some(130), "", Some(said)), "{line}: {}", ran.stderr);
    }
    assert_eq!(crate::folders::tree(&bench.path("")), before);
}

#[test]
fn an_interrupted_conversion_leaves_no_temporary_file() {
    use smallmind::model::{Model, ModelConfig, preset};
    let bench = Bench::new();
    // Large enough to be written for a while.
    let shape = preset::find("quickstart").unwrap().config();
    let config = ModelConfig { vocab_size: 20_000, d_model: 256, heads: 4, kv_heads: 4, d_ff: 1024, ..shape };
    std::fs::create_dir(bench.path("model")).unwrap();
    Model::random(config, 7).unwrap().save(bench.path("model")).unwrap();
    let lines = [
        ("quantize -m model --format q4_k_m --out small.gguf --threads 1", "", "small.gguf"),
        ("convert -m model --out folder", "folder", "folder"),
    ];
    let names = ["INT", "TERM"].into_iter().filter(|name| is_received(name));
    for (name, (line, place, out)) in names.flat_map(|name| lines.map(|line| (name, line))) {
        let mut child = bench.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let temporary = || {
            let mut names = std::fs::read_dir(bench.path(place)).ok()?.map(|entry| entry.unwrap());
            names.find(|entry| entry.file_name().to_string_lossy().starts_with(".tmp-new-"))
        };
        while temporary().and_then(|file| file.metadata().ok()).is_none_or(|file| file.len() == 0) {
            assert_eq!(child.try_wait().unwrap(), None, "the model is too small for this test");
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(&child, name);
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""), "{line}: {}", ran.stderr);
        assert!(ran.stderr.ends_with("interrupted; nothing was written\n"), "{}", ran.stderr);
        assert!(temporary().is_none() && !bench.path(out).exists(), "{line}");
    }
}

#[test]
fn an_interrupted_comparison_keeps_the_file_that_it_is_about() {
    let bench = Bench::new();
    bench.write("text.txt", Bench::TEXT.repeat(4000));
    bench.random_model();
    let line = "quantize -m model --format q8_0 --out small.gguf --data text.txt --threads 1";
    let mut child = bench.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !bench.path("small.gguf").exists() {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&child, interrupt());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("interrupted; small.gguf is complete\n"), "{}", ran.stderr);
    bench.run("inspect small.gguf").ok();
}

#[test]
fn a_training_that_is_interrupted_while_it_reads_replaces_nothing() {
    use std::io::Write;
    let bench = Bench::with_text();
    bench.train("run", "").ok();
    let before = crate::folders::tree(&bench.path("run"));
    for (line, said) in [
        (format!("train --data - --out run --overwrite {TINY}"), "nothing was replaced"),
        (format!("train --data - --out new {TINY}"), "no run was written"),
    ] {
        let mut command = bench.command(&line);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        while !told.contains("reading text") {
            assert!(lines.read_line(&mut told).unwrap() > 0, "{told}");
        }
        signal(&child, interrupt());
        while !told.contains("stopping") {
            assert!(lines.read_line(&mut told).unwrap() > 0, "{told}");
        }
        child.stdin.take().unwrap().write_all(Bench::TEXT.repeat(60).as_bytes()).unwrap();
        lines.read_to_string(&mut told).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{told}");
        assert!(told.contains(&format!("interrupted before the first step; {said}")), "{told}");
    }
    assert_eq!(crate::folders::tree(&bench.path("run")), before);
    assert!(!bench.path("new").exists());
}

#[test]
fn an_interrupted_profile_leaves_nothing_behind() {
    for name in ["INT", "TERM"].into_iter().filter(|name| is_received(name)) {
        let bench = Bench::new();
        let left = || {
            let names = std::fs::read_dir(bench.path("")).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().starts_with("smallmind-profile-")).count()
        };
        // Minutes of samples.
        let line = "profile train --preset nanogpt-cpu --batch 1 --threads 1 --runs 100 -n 100";
        let mut child = bench.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("profiling steps of") {
            assert!(lines.read_line(&mut said).unwrap() > 0, "the profile ended: {said}");
        }
        assert_eq!(left(), 1);
        signal(&child, name);
        lines.read_to_string(&mut said).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(130), vec![]), "{said}");
        assert!(said.contains("stopping without a report") && !said.contains("error"), "{said}");
        assert_eq!(left(), 0);
    }
}

#[test]
fn a_killed_training_goes_on_from_its_last_checkpoint() {
    let bench = Bench::with_text();
    let (mut child, mut lines) = endless_training(&bench, "--checkpoint.interval=2");
    let mut line = String::new();
    while !line.contains("step-0000001") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let events = bench.run("train --out run --resume --json --threads 1 --max_iters=60").events();
    assert!(events[0]["resumed_from"].as_u64() >= Some(10));
}

#[test]
fn a_training_that_nobody_reads_stops_with_a_checkpoint() {
    let bench = Bench::with_text();
    let (child, lines) = endless_training(&bench, "");
    drop(lines);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("error") && !stderr.contains("panicked"), "{stderr}");
    let names = std::fs::read_dir(bench.path("run/checkpoints")).unwrap();
    let steps =
        names.filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_prefix("step-")?.parse::<u64>().ok());
    let last = steps.max().unwrap();
    assert!(last > 0);
    let events = bench.run(&format!("train --out run --resume --json --threads 1 --max_iters={}", last + 1)).events();
    assert_eq!(events[0]["resumed_from"], last);
}
