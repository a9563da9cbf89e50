//! Random sequences of what people do to a run: train, resume, overwrite, kill, interrupt, two at once, links, the current folder, mounts, a
//! full disk, a folder that can't be written. After each act nothing that was there is gone, unless `--overwrite` said so, and what is left can
//! be gone on with, or the program says why not.
//!
//! The seed is printed. The ordinary test makes 50 sequences; the long one 500:
//!
//! ```text
//! cargo test -p smallmind --test cli -- --ignored five_hundred
//! SMALLMIND_TEST_SEED=7 SMALLMIND_TEST_SEQUENCES=1 cargo test -p smallmind --test cli -- --nocapture fifty_sequences
//! ```
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::folders::tree;
use crate::support::{Bench, Ran};

/// A user who is refused what root is not.
const NOBODY: u32 = 65534;

/// Settings of a model that trains in milliseconds, with checkpoints and estimates on the way.
const TINY: &str = "--preset nanogpt-cpu --threads 1 --model.layers=1 --model.heads=2 --model.d_model=16 --model.context=16 --train.batch=2 \
                    --train.warmup=2 --eval.interval=2 --eval.batches=1 --sample.interval=0 --checkpoint.interval=2";

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % n
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

/// What is done to the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Train,
    Resume,
    Overwrite,
    /// A training or its continuation, ended by SIGKILL after a moment.
    Kill,
    /// The same, ended by SIGINT.
    Interrupt,
    TwoAtOnce,
    /// From now on the run is behind a link.
    Link,
    /// From within its folder, as `.`.
    Here,
    /// In a mount of its folder.
    Mount,
    FullDisk,
    ReadOnly,
    /// Somebody empties `checkpoints`.
    LoseCheckpoints,
    /// Somebody removes the model.
    LoseModel,
    /// A file of the user's in the folder.
    OwnFile,
}

const ACTS: [Act; 14] = [
    Act::Train,
    Act::Resume,
    Act::Overwrite,
    Act::Kill,
    Act::Interrupt,
    Act::TwoAtOnce,
    Act::Link,
    Act::Here,
    Act::Mount,
    Act::FullDisk,
    Act::ReadOnly,
    Act::LoseCheckpoints,
    Act::LoseModel,
    Act::OwnFile,
];

/// A run's folder and who acts on it.
struct Sequence {
    bench: Bench,
    /// Where the folder of the run really is.
    real: PathBuf,
    steps: u64,
    /// Whether children are to be somebody else, since root may write everything.
    as_nobody: bool,
    can_mount: bool,
    log: Vec<String>,
}

/// What must not get lost.
#[derive(Debug)]
struct Worth {
    /// Steps of the newest checkpoint, with a training that can be gone on with.
    step: Option<u64>,
    /// Files that are nobody's but the user's, and the model where there is no checkpoint.
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Sequence {
    fn new(can_mount: bool) -> Self {
        let bench = Bench::with_text();
        let as_nobody =
            fs::metadata(bench.path("")).is_ok_and(|folder| std::os::unix::fs::MetadataExt::uid(&folder) == 0);
        let real = bench.path("run");
        if as_nobody {
            fs::set_permissions(bench.path(""), fs::Permissions::from_mode(0o777)).unwrap();
        }
        Self { bench, real, steps: 6, as_nobody, can_mount, log: vec![] }
    }

    /// The program, as a user who is refused something.
    fn command(&self, folder: &Path, wrap: &str, line: &str) -> Command {
        let program = self.bench.command(line);
        let mut shell = Command::new(if wrap.contains("mount") { "unshare" } else { "sh" });
        if wrap.contains("mount") {
            shell.args(["-m", "sh"]);
        }
        shell.args(["-c", &format!("{wrap} exec \"$0\" \"$@\"")]).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            if value.is_none() {
                shell.env_remove(name);
            }
        }
        if self.as_nobody && !wrap.contains("mount") {
            shell.uid(NOBODY).gid(NOBODY);
        }
        shell.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    }

    /// Runs it. It may fail, but not panic, and what fails says why.
    fn run(&mut self, wrap: &str, line: &str) -> Ran {
        let here = self.bench.path("");
        self.run_in(&here, wrap, line)
    }

    fn run_in(&mut self, folder: &Path, wrap: &str, line: &str) -> Ran {
        let ran = Ran::of(self.command(folder, wrap, line).output().unwrap());
        self.log.push(format!("{wrap} {line}: {:?} {}", ran.code, last_line(&ran.stderr)));
        assert!(!ran.stderr.contains("panicked") && ran.code.is_some(), "{:#?} {ran:#?}", self.log);
        assert!(ran.code == Some(0) || ran.stderr.contains("error: "), "{:#?} {ran:#?}", self.log);
        ran
    }

    fn train(&mut self, wrap: &str, out: &str, more: &str) -> Ran {
        let line = format!("train --data {} --out {out} {TINY} --train.steps={} {more}", self.text(), self.steps);
        self.run(wrap, &line)
    }

    fn text(&self) -> String {
        self.bench.path("text.txt").to_str().unwrap().to_owned()
    }

    fn newest(&self) -> Option<u64> {
        // A replacement that was interrupted is completed by whoever comes next.
        let next = self.real.join(".next-run/checkpoints");
        let place = if next.is_dir() { next } else { self.real.join("checkpoints") };
        let names = fs::read_dir(place).ok()?;
        names.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).max()
    }

    fn worth(&self) -> Worth {
        let step = self.newest();
        let mut files = tree(&self.real);
        let a_model =
            |name: &Path| ["config.json", "tokenizer.json", "model.safetensors"].iter().any(|own| name == *own);
        files.retain(|name, _| name.starts_with("mine.txt") || (step.is_none() && a_model(name)));
        Worth { step, files }
    }

    /// Nothing of `before` is lost.
    fn check(&mut self, before: &Worth, overwritten: bool) {
        let after = self.worth();
        let log = &self.log;
        for (name, content) in &before.files {
            if overwritten && name != Path::new("mine.txt") {
                continue;
            }
            assert_eq!(after.files.get(name).or(tree(&self.real).get(name)), Some(content), "{name:?} {log:#?}");
        }
        if !overwritten {
            assert!(after.step >= before.step, "{before:?} {after:?} {log:#?}");
        }
        assert_eq!(fs::read_to_string(self.bench.path("text.txt")).unwrap(), Bench::TEXT.repeat(60), "{log:#?}");
        let beside: Vec<_> = fs::read_dir(self.bench.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        let known = ["text.txt", "real", "run", "mounted"];
        assert!(beside.iter().all(|name| known.iter().any(|known| name == known)), "{beside:?} {log:#?}");
        self.goes_on();
    }

    /// What is left can be gone on with, or it is said why not. It is only looked at: a copy is resumed.
    fn goes_on(&mut self) {
        if self.newest().is_none() {
            return;
        }
        let copied = Command::new("cp").args(["-a"]).arg(&self.real).arg(self.bench.path("mounted")).status().unwrap();
        assert!(copied.success());
        let line = format!(
            "train --out mounted --resume --threads 1 --train.steps={}",
            self.newest().unwrap_or(0).max(self.steps) + 1
        );
        let ran = self.run("", &line);
        assert_eq!(ran.code, Some(0), "{:#?} {ran:#?}", self.log);
        fs::remove_dir_all(self.bench.path("mounted")).unwrap();
    }

    fn act(&mut self, act: Act, random: &mut Random) {
        let before = self.worth();
        let exists = before.step.is_some() || !before.files.is_empty();
        self.log.push(format!("{act:?}"));
        let mut overwritten = false;
        match act {
            Act::Train => {
                let ran = self.train("", "run", "");
                assert!(ran.code == Some(0) || exists, "{:#?} {ran:#?}", self.log);
                assert!(!exists || ran.code == Some(2), "{:#?} {ran:#?}", self.log);
            }
            Act::Resume => {
                self.steps = self.steps.max(before.step.unwrap_or(0)) + random.below(4);
                let line = format!("train --out run --resume --threads 1 --train.steps={}", self.steps);
                let ran = self.run("", &line);
                assert_eq!(ran.code == Some(0), before.step.is_some(), "{:#?} {ran:#?}", self.log);
            }
            Act::Overwrite => {
                overwritten = true;
                let ran = self.train("", "run", "--overwrite");
                assert_eq!(ran.code, Some(0), "{:#?} {ran:#?}", self.log);
            }
            Act::Kill | Act::Interrupt => overwritten = self.end_early(act, random),
            Act::TwoAtOnce => {
                let flag = *random.one(&["", "--overwrite"]);
                overwritten = !flag.is_empty();
                let line = format!("train --data {} --out run {TINY} --train.steps={} {flag}", self.text(), self.steps);
                let here = self.bench.path("");
                let children = [(); 2].map(|()| self.command(&here, "", &line).spawn().unwrap());
                let ended = children.map(|child| Ran::of(child.wait_with_output().unwrap()));
                self.log.push(format!("{line}: {ended:?}"));
                let good = ended.iter().filter(|ran| ran.code == Some(0)).count();
                // With the flag the second may begin when the first has ended.
                let expected = if overwritten {
                    1..=2
                } else if exists {
                    0..=0
                } else {
                    1..=1
                };
                assert!(expected.contains(&good), "{:#?}", self.log);
            }
            Act::Link => self.put_behind_a_link(),
            Act::Here => {
                if self.real.is_dir() {
                    let flag = *random.one(&["", "--overwrite"]);
                    overwritten = !flag.is_empty();
                    let line =
                        format!("train --data {} --out . {TINY} --train.steps={} {flag}", self.text(), self.steps);
                    let real = self.real.clone();
                    let ran = self.run_in(&real, "", &line);
                    assert!(real.is_dir());
                    assert_eq!(ran.code == Some(0), overwritten || !exists, "{:#?} {ran:#?}", self.log);
                }
            }
            Act::Mount => {
                if self.can_mount && self.real.is_dir() {
                    let flag = *random.one(&["", "--overwrite"]);
                    overwritten = !flag.is_empty();
                    fs::create_dir(self.bench.path("mounted")).unwrap();
                    let wrap = format!("mount --bind {} mounted &&", self.real.display());
                    let ran = self.train(&wrap, "mounted", flag);
                    assert_eq!(ran.code == Some(0), overwritten || !exists, "{:#?} {ran:#?}", self.log);
                    fs::remove_dir(self.bench.path("mounted")).unwrap();
                    self.give_to_nobody();
                }
            }
            Act::FullDisk => {
                let wrap = format!("trap '' XFSZ; ulimit -f {};", random.below(24));
                let flag = *random.one(&["", "--overwrite", "--resume"]);
                // Where it all fits, the old run is replaced.
                let ran = self.train(&wrap, "run", flag);
                overwritten = flag == "--overwrite" && (ran.code == Some(0) || self.newest() != before.step);
            }
            Act::ReadOnly => {
                if self.real.is_dir() {
                    let mode = |mode| fs::set_permissions(&self.real, fs::Permissions::from_mode(mode)).unwrap();
                    mode(0o555);
                    let files = tree(&self.real);
                    let locked = self.real.join("train.lock").exists();
                    for flag in ["", "--overwrite", "--resume"] {
                        let ran = self.train("", "run", flag);
                        // Root and a lock that is there already let it begin; then the folder does not take the new run.
                        assert!(ran.code != Some(0) || !self.as_nobody || (locked && flag == "--resume"), "{ran:#?}");
                    }
                    fs::set_permissions(&self.real, fs::Permissions::from_mode(0o755)).unwrap();
                    let after = tree(&self.real);
                    // What a killed process left unfinished may be cleaned up.
                    let is_worth = |name: &&PathBuf| !name.to_string_lossy().contains(".tmp-");
                    assert!(files.keys().filter(is_worth).all(|name| after.contains_key(name)), "{:#?}", self.log);
                }
            }
            Act::LoseCheckpoints => {
                let folder = self.real.join("checkpoints");
                if folder.is_dir() && self.real.join("model.safetensors").exists() {
                    fs::remove_dir_all(&folder).unwrap();
                    fs::create_dir(&folder).unwrap();
                    self.give_to_nobody();
                    return;
                }
            }
            Act::LoseModel => {
                let _ = fs::remove_file(self.real.join("model.safetensors"));
                if before.step.is_some() {
                    let steps = self.steps.max(before.step.unwrap_or(0));
                    let line = format!("train --out run --resume --threads 1 --train.steps={steps}");
                    let ran = self.run("", &line);
                    assert_eq!(ran.code, Some(0), "{:#?} {ran:#?}", self.log);
                    assert!(self.real.join("model.safetensors").exists(), "{:#?}", self.log);
                }
                return;
            }
            Act::OwnFile => {
                if exists && self.real.join("train.toml").exists() {
                    fs::write(self.real.join("mine.txt"), "mine").unwrap();
                }
            }
        }
        self.check(&before, overwritten);
    }

    /// A training or a continuation that is ended after a moment; whether it was one that overwrites.
    fn end_early(&mut self, act: Act, random: &mut Random) -> bool {
        let flag = *random.one(&["", "--overwrite", "--resume"]);
        let steps = self.steps.max(self.newest().unwrap_or(0)) + 100_000;
        let data = if flag == "--resume" { "--threads 1".to_owned() } else { format!("--data {} {TINY}", self.text()) };
        let line = format!("train {data} --out run {flag} --train.steps={steps} --checkpoint.interval=2");
        let here = self.bench.path("");
        let mut child = self.command(&here, "", &line).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        if act == Act::Kill {
            child.kill().unwrap();
        } else {
            // It may have ended by itself.
            let _ = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).stderr(Stdio::null()).status();
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        self.log.push(format!("{line}: {:?} {}", output.status, last_line(&stderr)));
        assert!(!stderr.contains("panicked"), "{:#?} {stderr}", self.log);
        // Settings of the continuation are in train.toml, and hold for the next one.
        let toml = fs::read_to_string(self.real.join("train.toml")).unwrap_or_default();
        let told = toml.lines().find_map(|line| line.strip_prefix("steps = ")?.parse::<u64>().ok());
        if let (Some(told), Some(newest)) = (told.filter(|told| *told > 10_000), self.newest()) {
            // So that the next one ends.
            let fewer = toml.replace(&format!("steps = {told}"), &format!("steps = {}", newest + 2));
            fs::write(self.real.join("train.toml"), fewer).unwrap();
            self.steps = newest + 2;
        }
        flag == "--overwrite"
    }

    /// The folder is the target of a link from now on.
    fn put_behind_a_link(&mut self) {
        let run = self.bench.path("run");
        if !run.is_symlink() {
            assert!(self.real == run, "{:#?}", self.log);
            if run.is_dir() {
                fs::rename(&run, self.bench.path("real")).unwrap();
            } else {
                fs::create_dir(self.bench.path("real")).unwrap();
            }
            self.real = self.bench.path("real");
            std::os::unix::fs::symlink("real", &run).unwrap();
            self.give_to_nobody();
        }
        assert!(run.is_symlink() && self.real.is_dir());
    }

    /// What root made is given to the user that the program runs as.
    fn give_to_nobody(&self) {
        if self.as_nobody {
            let _ = Command::new("chown").args(["-R", "65534:65534"]).arg(&self.real).status();
        }
    }
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

/// Whether this process may mount folders in a name space of its own.
fn can_mount() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&a).and_then(|()| fs::create_dir(&b)).unwrap();
    let tried = Command::new("unshare").args(["-m", "mount", "--bind"]).args([&a, &b]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

fn sequences(count: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("SMALLMIND_TEST_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let count = number("SMALLMIND_TEST_SEQUENCES").unwrap_or(count);
    println!("seed {seed}, {count} sequences");
    let can_mount = can_mount();
    let told = number("SMALLMIND_TEST_SEED").is_some();
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            let mut random = Random(seed.wrapping_add(i).wrapping_mul(0x9e37_79b9));
            let mut sequence = Sequence::new(can_mount);
            sequence.log.push(format!("seed {}", seed.wrapping_add(i)));
            for _ in 0..4 + random.below(5) {
                let act = *random.one(&ACTS);
                sequence.act(act, &mut random);
            }
            if told {
                println!("{:#?}", sequence.log);
            }
        }
    };
    // Most of the time is spent in waiting for the disk.
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
}

#[test]
fn fifty_sequences() {
    sequences(50);
}

#[test]
#[ignore = "takes minutes; the ordinary test makes 50"]
fn five_hundred_sequences() {
    sequences(500);
}
