//! Random sequences of what people do to a run: train, resume, overwrite, kill, interrupt, two at once, links, the
//! current folder, mounts, a full disk, a folder that can't be written. After each act nothing that was there is gone,
//! unless `--overwrite` said so, and what is left can be gone on with, or the program says why not. Each training has a
//! seed of its own, which tells one run from another.
//!
//! The seed is printed. The ordinary test makes 50 sequences; the long one 500:
//!
//! ```text
//! cargo test -p smallmind --test cli -- --ignored five_hundred
//! SMALLMIND_TEST_SEED=7 SMALLMIND_TEST_SEQUENCES=1 cargo test -p smallmind --test cli -- --nocapture fifty_sequences
//! ```
#![cfg(unix)]

mod worth;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Bench, Ran, interrupt};
use worth::Worth;

/// A user who is refused what root is not.
const NOBODY: u32 = 65534;

/// Settings of a model that trains in milliseconds, with checkpoints and estimates on the way.
const TINY: &str = "--preset nanogpt-cpu --threads 1 --model.layers=1 --model.heads=2 --model.d_model=16 --model.context=16 --train.batch=2 \
                    --train.warmup=2 --eval.interval=2 --eval.batches=1 --sample.interval=0 --checkpoint.interval=2";

/// Steps of a training that is ended early.
const ENDLESS: u64 = 1_000_000;

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
    /// Seeds of trainings that were begun; the next one is one more.
    seeds: u64,
    /// Whether children are to be somebody else, since root may write everything.
    as_nobody: bool,
    can_mount: bool,
    log: Vec<String>,
}

/// What an act may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    /// Nothing; where there was nothing, it may begin a run.
    Begin,
    /// The run is trained further, or stays.
    GoOn,
    /// A new run is in the place of what was there, or all of that stays.
    Replace,
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
        Self { bench, real, steps: 6, seeds: 0, as_nobody, can_mount, log: vec![] }
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

    /// The line of a training that is new, with a seed that no other has.
    fn begin(&mut self, out: &str, flag: &str) -> String {
        self.seeds += 1;
        let (text, steps, seed) = (self.bench.path("text.txt"), self.steps, self.seeds);
        format!("train --data {} --out {out} {TINY} --train.steps={steps} --train.seed={seed} {flag}", text.display())
    }

    /// The same, or the line of a continuation; and what it may change.
    fn begin_or_go_on(&mut self, out: &str, flag: &str) -> (String, May) {
        match flag {
            "--resume" => {
                self.steps = self.steps.max(Worth::of(&self.real).step.unwrap_or(0));
                (format!("train --out {out} --resume --threads 1 --train.steps={}", self.steps), May::GoOn)
            }
            "--overwrite" => (self.begin(out, flag), May::Replace),
            _ => (self.begin(out, flag), May::Begin),
        }
    }

    /// Nothing of `before` is lost, and nothing but what the act may change is changed. `seeds` is how many there were
    /// before the act.
    fn check(&mut self, before: &Worth, act: Act, may: May, seeds: u64) {
        let after = Worth::of(&self.real);
        let log = &self.log;
        let is_new = after.seed().is_some_and(|seed| seed > seeds && seed <= self.seeds);
        let name = Path::new("mine.txt");
        assert!(before.files.get(name).is_none_or(|mine| after.files.get(name) == Some(mine)), "{log:#?}");
        if is_new {
            assert!(may == May::Replace || (may == May::Begin && !before.exists()), "{may:?} {log:#?}");
            before.is_gone_from(&after, log);
        } else if may == May::GoOn {
            before.goes_on_in(&after, log);
            // A process that is killed may leave a better model that its log does not tell of yet.
            if act != Act::Kill {
                before.keeps_its_model(&after, log);
            }
        } else {
            before.is_same(&after, log);
        }
        assert_eq!(fs::read_to_string(self.bench.path("text.txt")).unwrap(), Bench::TEXT.repeat(60), "{log:#?}");
        let beside: Vec<_> = fs::read_dir(self.bench.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        let known = ["text.txt", "real", "run", "mounted"];
        assert!(beside.iter().all(|name| known.iter().any(|known| name == known)), "{beside:?} {log:#?}");
        self.check_copy(&after);
    }

    /// What is left can be gone on with, without a file that had to be restored. It is only looked at: a copy is
    /// resumed.
    fn check_copy(&mut self, left: &Worth) {
        let Some(newest) = left.step else { return };
        let copy = self.bench.path("mounted");
        let copied = Command::new("cp").args(["-a"]).arg(&self.real).arg(&copy).status().unwrap();
        assert!(copied.success());
        let steps = newest.max(self.steps) + 1;
        let ran = self.run("", &format!("train --out mounted --resume --threads 1 --train.steps={steps}"));
        assert_eq!(ran.code, Some(0), "{:#?} {ran:#?}", self.log);
        assert!(!ran.stderr.contains("written again"), "{:#?} {ran:#?}", self.log);
        let trained = Worth::of(&copy);
        assert_eq!(trained.step, Some(steps), "{:#?}", self.log);
        left.goes_on_in(&trained, &self.log);
        left.keeps_its_model(&trained, &self.log);
        fs::remove_dir_all(copy).unwrap();
    }

    fn act(&mut self, act: Act, random: &mut Random) {
        let mut before = Worth::of(&self.real);
        let (exists, seeds) = (before.exists(), self.seeds);
        self.log.push(format!("{act:?}"));
        let mut may = May::Begin;
        match act {
            Act::Train => {
                let line = self.begin("run", "");
                let ran = self.run("", &line);
                assert_eq!(ran.code, Some(if exists { 2 } else { 0 }), "{:#?} {ran:#?}", self.log);
            }
            Act::Resume => {
                may = May::GoOn;
                self.steps = self.steps.max(before.step.unwrap_or(0)) + random.below(4);
                let line = format!("train --out run --resume --threads 1 --train.steps={}", self.steps);
                let ran = self.run("", &line);
                assert_eq!(ran.code == Some(0), before.step.is_some(), "{:#?} {ran:#?}", self.log);
                assert!(ran.code != Some(0) || Worth::of(&self.real).step == Some(self.steps), "{:#?}", self.log);
            }
            Act::Overwrite => {
                may = May::Replace;
                let line = self.begin("run", "--overwrite");
                let ran = self.run("", &line);
                assert_eq!(ran.code, Some(0), "{:#?} {ran:#?}", self.log);
                self.is_replaced();
            }
            Act::Kill | Act::Interrupt => may = self.end_early(act, random),
            Act::TwoAtOnce => may = self.two_at_once(&before, random),
            Act::Link => self.put_behind_a_link(),
            Act::Here | Act::Mount => {
                if self.real.is_dir() && (act == Act::Here || self.can_mount) {
                    may = self.within_its_folder(act, exists, random);
                }
            }
            Act::FullDisk => {
                // From a disk that takes nothing to one where it all fits.
                let wrap = format!("trap '' XFSZ; ulimit -f {};", random.below(70));
                let flag = *random.one(&["", "--overwrite", "--resume"]);
                self.steps += random.below(4);
                let line;
                (line, may) = self.begin_or_go_on("run", flag);
                let ran = self.run(&wrap, &line);
                if may == May::Replace && ran.code == Some(0) {
                    self.is_replaced();
                }
            }
            Act::ReadOnly => self.without_permission(random),
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
                may = May::GoOn;
                self.lose_model(&mut before, random);
            }
            Act::OwnFile => {
                if exists && self.real.join("train.toml").exists() {
                    fs::write(self.real.join("mine.txt"), "mine").unwrap();
                    before = Worth::of(&self.real);
                }
            }
        }
        self.check(&before, act, may, seeds);
        self.make_it_end();
    }

    /// The weights of the best model are lost, or only what stands beside them.
    fn lose_model(&mut self, before: &mut Worth, random: &mut Random) {
        if random.below(2) == 0 {
            let _ = fs::remove_file(self.real.join("model.safetensors"));
            before.lose_model();
        } else {
            let _ = fs::remove_file(self.real.join("config.json"));
            if before.step.is_none() {
                // There is no checkpoint to restore it from.
                before.files.remove(Path::new("config.json"));
            }
        }
        if before.step.is_some() {
            let (line, _) = self.begin_or_go_on("run", "--resume");
            let ran = self.run("", &line);
            assert_eq!(ran.code, Some(0), "{:#?} {ran:#?}", self.log);
            assert!(self.real.join("model.safetensors").exists(), "{:#?}", self.log);
        }
    }

    /// The folder, or one in it, can't be written for a while.
    fn without_permission(&mut self, random: &mut Random) {
        let inside = *random.one(&["", "", "data", "checkpoints"]);
        let place = self.real.join(inside);
        if !place.is_dir() {
            return;
        }
        let set = |mode| fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        set(0o555);
        // A folder that can't be written can't be moved away either, which is found in the middle of a replacement.
        let flags: &[_] = if inside.is_empty() { &["", "--overwrite", "--resume"] } else { &["--overwrite"] };
        for flag in flags {
            let (line, _) = self.begin_or_go_on("run", flag);
            // The user that the program runs as is not root, so nothing new gets into the folder.
            let ran = self.run("", &line);
            assert_ne!(ran.code, Some(0), "{:#?} {ran:#?}", self.log);
        }
        set(0o755);
    }

    /// The run in the folder is the one that was begun last.
    fn is_replaced(&self) {
        let seed = Worth::of(&self.real).seed();
        assert_eq!(seed, Some(self.seeds), "{:#?}", self.log);
    }

    /// A training in the folder as `.`, or in a mount of the folder; what it may change.
    fn within_its_folder(&mut self, act: Act, exists: bool, random: &mut Random) -> May {
        let flag = *random.one(&["", "--overwrite"]);
        let real = self.real.clone();
        let ran;
        let may;
        if act == Act::Here {
            let line;
            (line, may) = self.begin_or_go_on(".", flag);
            ran = self.run_in(&real, "", &line);
        } else {
            let line;
            (line, may) = self.begin_or_go_on("mounted", flag);
            fs::create_dir(self.bench.path("mounted")).unwrap();
            ran = self.run(&format!("mount --bind {} mounted &&", real.display()), &line);
            fs::remove_dir(self.bench.path("mounted")).unwrap();
            self.give_to_nobody();
        }
        assert!(real.is_dir());
        let trains = may == May::Replace || !exists;
        assert_eq!(ran.code == Some(0), trains, "{:#?} {ran:#?}", self.log);
        if trains {
            self.is_replaced();
        }
        may
    }

    /// Two trainings, or two continuations, in the same folder; what they may change.
    fn two_at_once(&mut self, before: &Worth, random: &mut Random) -> May {
        let flag = *random.one(&["", "--overwrite", "--resume"]);
        let here = self.bench.path("");
        let (lines, may) = {
            let ((first, may), (second, _)) = (self.begin_or_go_on("run", flag), self.begin_or_go_on("run", flag));
            ([first, second], may)
        };
        let children = lines.each_ref().map(|line| self.command(&here, "", line).spawn().unwrap());
        let ended = children.map(|child| Ran::of(child.wait_with_output().unwrap()));
        self.log.push(format!("{lines:?}: {ended:?}"));
        let good = ended.iter().filter(|ran| ran.code == Some(0)).count();
        let expected = match may {
            // The second may begin when the first has ended.
            May::Replace => 1..=2,
            May::GoOn if before.step.is_some() => 1..=2,
            May::Begin if !before.exists() => 1..=1,
            _ => 0..=0,
        };
        assert!(expected.contains(&good), "{:#?}", self.log);
        let seed = Worth::of(&self.real).seed();
        assert!(may == May::GoOn || good == 0 || seed.is_some_and(|seed| seed + 1 >= self.seeds), "{:#?}", self.log);
        may
    }

    /// A training or a continuation that is ended after a moment; what it may change.
    fn end_early(&mut self, act: Act, random: &mut Random) -> May {
        let begins = if Worth::of(&self.real).step.is_none() { "" } else { "--resume" };
        let flag = *random.one(&[begins, "--overwrite"]);
        let (line, may) = self.begin_or_go_on("run", flag);
        let line = format!("{line} --train.steps={ENDLESS} --checkpoint.interval=2");
        let here = self.bench.path("");
        let mut child = self.command(&here, "", &line).spawn().unwrap();
        // At any moment, or while the new run replaces the old one.
        if random.below(2) == 0 {
            std::thread::sleep(Duration::from_micros(random.below(60_000)));
        } else {
            let started = Instant::now();
            while !self.real.join(".next-run").exists() && started.elapsed() < Duration::from_millis(60) {
                std::thread::sleep(Duration::from_micros(20));
            }
            std::thread::sleep(Duration::from_micros(random.below(1_000)));
        }
        if act == Act::Kill {
            child.kill().unwrap();
        } else {
            // It may have ended by itself.
            let _ =
                Command::new("kill").args(["-s", interrupt(), &child.id().to_string()]).stderr(Stdio::null()).status();
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        self.log.push(format!("{line}: {:?} {}", output.status, last_line(&stderr)));
        assert!(!stderr.contains("panicked"), "{:#?} {stderr}", self.log);
        may
    }

    /// Somebody writes fewer steps into `train.toml` where a training that was ended early left many, so that the next
    /// one ends.
    fn make_it_end(&mut self) {
        let path = self.real.join("train.toml");
        let toml = fs::read_to_string(&path).unwrap_or_default();
        let many = format!("steps = {ENDLESS}");
        if let Some(newest) = Worth::of(&self.real).step.filter(|_| toml.contains(&many)) {
            self.steps = newest + 2;
            fs::write(path, toml.replace(&many, &format!("steps = {}", self.steps))).unwrap();
        }
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
