//! What is in a folder that a user names is never lost, unless `--overwrite` said so.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::profile::QUICK;
use crate::support::{Bench, Ran, TINY, interrupt};

/// Every file below a folder with its content; links as their targets.
pub fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_owned();
            if path.is_symlink() {
                files.insert(name, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
            } else if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_none_or(|name| name != "train.lock") {
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

impl Bench {
    /// Runs the program in another folder.
    fn run_in(&self, folder: &str, line: &str) -> Ran {
        Ran::of(self.command(line).current_dir(self.path(folder)).output().expect("the program starts"))
    }

    /// A finished run in `run`.
    fn with_run() -> Self {
        let bench = Self::with_text();
        bench.train("run", "").ok();
        bench
    }
}

#[test]
fn the_current_folder_can_be_the_run() {
    let bench = Bench::with_run();
    let before = tree(&bench.path("run"));
    // Without the flag nothing changes, with it the folder is used in place.
    bench.run_in("run", &format!("train --data ../text.txt --out . {TINY}")).fails(2, &["--overwrite"]);
    assert_eq!(tree(&bench.path("run")), before);
    bench.run_in("run", &format!("train --data ../text.txt --out . --overwrite --seed 9 {TINY}")).ok();
    assert_ne!(tree(&bench.path("run"))[Path::new("model.safetensors")], before[Path::new("model.safetensors")]);
    bench.run("generate -m run -n 3").ok();

    fs::create_dir(bench.path("empty")).unwrap();
    bench.run_in("empty", &format!("train --data ../missing.txt --out . {TINY}")).fails(3, &["missing.txt"]);
    assert!(bench.path("empty").is_dir() && tree(&bench.path("empty")).is_empty());
    bench.run_in("empty", &format!("train --data ../text.txt --out ./ {TINY}")).ok();
    // A variation: the folder's name, from above and from within.
    bench.run_in("empty", &format!("train --data ../text.txt --out ../empty --overwrite {TINY}")).ok();
    assert!(!fs::read_dir(bench.path("")).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().contains("old")));
}

#[test]
fn a_model_without_checkpoints_is_not_left_over() {
    let bench = Bench::with_run();
    fs::remove_dir_all(bench.path("run/checkpoints")).unwrap();
    fs::create_dir(bench.path("run/checkpoints")).unwrap();
    bench.random_model();
    for folder in ["run", "model"] {
        let before = tree(&bench.path(folder));
        bench.train(folder, "").fails(2, &[folder, "already", "--overwrite"]);
        bench.run(&format!("quickstart --steps 1 --out {folder}")).fails(2, &[folder, "--overwrite"]);
        assert_eq!(tree(&bench.path(folder)), before);
    }
    // Going on is not possible, and the error doesn't send anybody to remove the model.
    let ran = bench.run("train --out run --resume");
    assert!(!ran.stderr.contains("remove"), "{ran:#?}");
    ran.fails(3, &["checkpoints", "empty"]);
    let ran = bench.train("model", "--overwrite");
    assert!(ran.stderr.contains("replace a model"), "{ran:#?}");
    ran.ok();
}

#[cfg(unix)]
#[test]
fn links_are_used_in_place() {
    let bench = Bench::with_text();
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, bench.path(name)).unwrap();
    fs::create_dir(bench.path("real")).unwrap();
    link("real", "link");
    bench.train("link", "").ok();
    bench.train("link", "").fails(2, &["link", "already"]);
    bench.train("link", "--overwrite --seed 5").ok();
    bench.run("train --out link --resume --train.steps=8 --threads 1").ok();
    assert!(bench.path("link").is_symlink() && bench.path("real/model.safetensors").is_file());
    // A variation: a link to a link, by an absolute path.
    link("link", "second");
    let out = bench.path("second");
    bench.train(out.to_str().unwrap(), "--overwrite").ok();
    assert!(bench.path("second").is_symlink() && bench.path("link").is_symlink());

    link("nowhere", "dangling");
    bench.train("dangling", "").fails(2, &["dangling", "link to nowhere"]);
    assert!(bench.path("dangling").is_symlink() && !bench.path("nowhere").exists());
}

/// A folder that can't be written, for everybody or for a user that isn't root, who is refused nothing.
#[cfg(target_os = "linux")]
#[test]
fn a_place_that_can_not_be_written_is_found_before_the_work() {
    let bench = Bench::with_text();
    for line in [
        format!("train --data text.txt --out /proc/run {TINY}"),
        "tokenizer train --data text.txt --out /proc/t.json".to_owned(),
        "new --preset nanogpt-cpu --out /proc/model".to_owned(),
        "profile generate --preset nanogpt-cpu --threads 1 --out /proc/report".to_owned(),
    ] {
        let ran = bench.run(&line);
        assert!(!ran.stderr.contains("vocabulary") && !ran.stderr.contains("profiling"), "{ran:#?}");
        ran.fails(1, &["/proc/"]);
    }
}

/// A child that ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_run_that_is_being_trained_is_left_alone() {
    let bench = Bench::with_run();
    let mut endless = bench.command(&format!("train --data text.txt --out busy {TINY} --max_iters=100000000"));
    let mut child = Running(endless.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    while !bench.path("busy/checkpoints").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let toml = fs::read(bench.path("busy/train.toml")).unwrap();
    for more in ["--overwrite", ""] {
        bench.train("busy", more).fails(2, &["another training"]);
    }
    bench.run("train --out busy --resume").fails(2, &["another training"]);
    assert!(child.0.try_wait().unwrap().is_none(), "the training ended");
    drop(child);
    assert_eq!(fs::read(bench.path("busy/train.toml")).unwrap(), toml);
    let ran = bench.run("profile train -m busy --threads 1 --runs 1 -n 1");
    assert_eq!(ran.code, Some(0), "the run is whole: {ran:#?}");
}

#[test]
fn of_two_that_start_at_once_one_trains() {
    let bench = Bench::with_text();
    for round in 0..6 {
        let out = format!("new/run{round}");
        let line = format!("train --data text.txt --out {out} {TINY}");
        let start = || bench.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let children = [start(), start(), start()];
        let ended: Vec<Ran> = children.map(|child| Ran::of(child.wait_with_output().unwrap())).into();
        let won = ended.iter().filter(|ran| ran.code == Some(0)).count();
        assert_eq!(won, 1, "{ended:#?}");
        for ran in ended.iter().filter(|ran| ran.code != Some(0)) {
            assert!(ran.code == Some(2) && (ran.stderr.contains("another training") || ran.stderr.contains("already")));
        }
        bench.run(&format!("train --out {out} --resume --threads 1 --train.steps=7")).ok();
    }
}

#[test]
fn what_the_old_run_holds_serves_the_new_one() {
    let bench = Bench::with_run();
    let tokenizer = fs::read(bench.path("run/tokenizer.json")).unwrap();
    bench.train("run", "--overwrite --data.tokenizer=run/tokenizer.json").ok();
    assert_eq!(fs::read(bench.path("run/tokenizer.json")).unwrap(), tokenizer);
    // A variation: the settings of the old run, and text that lies in its folder.
    fs::copy(bench.path("text.txt"), bench.path("run/notes.txt")).unwrap();
    bench.run(&format!("train --data run/notes.txt --out run --overwrite --config run/train.toml {TINY}")).ok();
    assert!(bench.path("run/notes.txt").is_file());
}

#[test]
fn a_file_that_is_there_is_not_replaced_unless_asked() {
    let bench = Bench::with_run();
    bench.random_model();
    let before = tree(&bench.path(""));
    for (line, names) in [
        ("tokenizer train --data text.txt --out tokenizer.json", "tokenizer.json"),
        ("tokenizer train --data text.txt --out run/tokenizer.json", "run/tokenizer.json"),
        ("new --preset quickstart --out model", "model"),
        ("new --preset quickstart --out model --tokenizer tokenizer.json", "model"),
    ] {
        bench.run(line).fails(2, &[names, "already", "--overwrite"]);
    }
    // A run has a tokenizer, checkpoints and perhaps a training at work: no place for another model.
    bench.run("new --preset quickstart --out run --overwrite").fails(2, &["run", "a training"]);
    assert_eq!(tree(&bench.path("")), before);
    bench.write("other.txt", "0123456789".repeat(20));
    bench.run("tokenizer train --kind characters --data other.txt --out tokenizer.json --overwrite").ok();
    bench.run("new --preset nanogpt-cpu --out model --tokenizer tokenizer.json --overwrite --seed 3").ok();
    // A tokenizer that is there already is one for the new model if it fits, and it is said.
    let ran = bench.run("new --preset nanogpt-cpu --out model --overwrite --seed 3");
    assert!(ran.stderr.contains("tokenizer.json is kept"), "{ran:#?}");
    ran.ok();
    // Each file that was asked for is another one, and all others are as they were.
    let mut after = tree(&bench.path(""));
    after.remove(Path::new("other.txt"));
    let changed: Vec<_> = before.keys().filter(|name| after.remove(*name).as_ref() != before.get(*name)).collect();
    let expected = ["model/model.safetensors", "model/tokenizer.json", "tokenizer.json"].map(PathBuf::from);
    assert_eq!(changed, expected.iter().collect::<Vec<_>>());
    assert!(after.is_empty(), "{:?}", after.keys());
    assert_eq!(fs::read(bench.path("model/tokenizer.json")).unwrap(), fs::read(bench.path("tokenizer.json")).unwrap());
    // Nothing is lost in what keeps nothing.
    #[cfg(unix)]
    bench.run("tokenizer train --kind characters --data text.txt --out /dev/null").ok();
}

/// A disk that takes no more: files of this process may have so many blocks of 512 bytes. A process that does not catch
/// the signal of this limit would be killed by it.
#[cfg(unix)]
fn with_small_disk(bench: &Bench, blocks: u32, line: &str) -> Ran {
    let program = bench.command(line);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("ulimit -f {blocks}; exec \"$0\" \"$@\"")]).arg(program.get_program());
    shell.args(program.get_args()).current_dir(bench.path("")).stdin(Stdio::null());
    Ran::of(shell.output().unwrap())
}

/// Two processes that replace the files of one folder at the same time: it has the files of one of them.
#[test]
fn writers_of_a_folder_take_turns() {
    let bench = Bench::new();
    let line = |seed: usize, out: &str| {
        let tokenizer = format!("--tokenizer {seed}.json");
        format!("new --preset nanogpt-cpu --out {out} --overwrite --threads 1 --seed {seed} {tokenizer}")
    };
    let read =
        |out: &str| ["model.safetensors", "tokenizer.json"].map(|name| fs::read(bench.path(out).join(name)).unwrap());
    let alone = [1, 2].map(|seed| {
        bench.write("text.txt", "ab".repeat(seed) + &seed.to_string());
        bench.run(&format!("tokenizer train --kind characters --data text.txt --out {seed}.json")).ok();
        let out = format!("alone{seed}");
        bench.run(&line(seed, &out)).ok();
        read(&out)
    });
    bench.run(&line(1, "both")).ok();
    for round in 0..30 {
        let writers = [1, 2].map(|seed| bench.command(&line(seed, "both")).stdout(Stdio::null()).spawn().unwrap());
        for mut writer in writers {
            assert!(writer.wait().unwrap().success(), "round {round}");
        }
        assert!(alone.contains(&read("both")), "round {round}: files of both");
    }
}

#[test]
fn a_new_model_takes_no_templates_of_another() {
    let bench = Bench::with_text();
    bench.random_model();
    for name in ["tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
        bench.write(&format!("model/{name}"), "{}");
        let before = tree(&bench.path(""));
        bench.run("new --preset nanogpt-cpu --out model --overwrite").fails(2, &["model", name, "another model"]);
        assert_eq!(tree(&bench.path("")), before);
        fs::remove_file(bench.path("model").join(name)).unwrap();
    }
    // One that can't be read does not stay beside the new model.
    bench.write("model/tokenizer.json", "{}");
    bench.run("new --preset nanogpt-cpu --out model --overwrite").fails(3, &["tokenizer.json"]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_costs_nothing_that_was_there() {
    let bench = Bench::with_run();
    bench.random_model();
    let before = tree(&bench.path(""));
    for line in [
        "tokenizer train --data text.txt --out tokenizer.json --overwrite",
        "new --preset nanogpt-cpu --out model --overwrite",
        &format!("train --data text.txt --out run --overwrite {TINY}"),
        &format!("train --data text.txt --out another/run {TINY}"),
    ] {
        with_small_disk(&bench, 1, line).fails(1, &["large"]);
        assert_eq!(tree(&bench.path("")), before, "{line}");
    }
    assert!(!bench.path("another").exists());
}

#[test]
fn a_model_that_was_deleted_is_written_again() {
    let bench = Bench::with_run();
    let before = tree(&bench.path("run"));
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        fs::remove_file(bench.path("run").join(name)).unwrap();
        let ran = bench.run("train --out run --resume --threads 1");
        assert!(ran.stderr.contains(name) && ran.stderr.contains("missing"), "{ran:#?}");
        ran.ok();
        assert_eq!(tree(&bench.path("run"))[Path::new(name)], before[Path::new(name)]);
    }
    bench.write("run/model.safetensors", "cut");
    let ran = bench.run("train --out run --resume --threads 1");
    assert!(ran.stderr.contains("model.safetensors") && ran.stderr.contains("written again"), "{ran:#?}");
    ran.ok();
    assert_eq!(tree(&bench.path("run"))[Path::new("model.safetensors")], before[Path::new("model.safetensors")]);
}

#[test]
fn fewer_steps_than_are_done_are_refused() {
    let bench = Bench::with_run();
    let before = tree(&bench.path("run"));
    bench.run("train --out run --resume --train.steps=3").fails(2, &["train.steps = 3", "6 steps"]);
    bench.run("train --out run --resume --max_iters=5").fails(2, &["train.steps = 5", "6 steps"]);
    assert_eq!(tree(&bench.path("run")), before);
    let ran = bench.run("train --out run --resume --threads 1");
    assert!(!ran.stderr.contains("an earlier one was better"), "{ran:#?}");
    ran.ok();
}

#[test]
fn an_earlier_report_stays_unless_asked() {
    let bench = Bench::with_text();
    bench.random_model();
    fs::create_dir_all(bench.path("report")).unwrap();
    bench.write("report/report.md", "mine");
    let before = tree(&bench.path(""));
    let line = format!("profile generate -m model {QUICK} --depth 8 --prompt-tokens 20 --out report");
    bench.run(&line).fails(2, &["report/report.md", "already", "--overwrite"]);
    assert_eq!(tree(&bench.path("")), before);
    #[cfg(unix)]
    {
        with_small_disk(&bench, 0, &format!("{line} --overwrite")).fails(1, &["report", "large"]);
        assert_eq!(tree(&bench.path("")), before);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_during_preparation_changes_nothing() {
    use std::io::{BufRead, BufReader};
    let bench = Bench::with_run();
    let words: String = (0..200_000_u64).map(|i| format!("{} ", i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)).collect();
    bench.write("long.txt", words);
    let before = tree(&bench.path(""));
    for times in [1, 2] {
        let line =
            format!("train --data long.txt --out run --overwrite {TINY} --data.tokenizer=bpe --data.vocab_size=2000");
        let mut child = bench.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("vocabulary") {
            assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
        }
        for _ in 0..times {
            let kill = std::process::Command::new("kill").args(["-s", interrupt(), &child.id().to_string()]).status();
            assert!(kill.unwrap().success());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        std::io::Read::read_to_string(&mut lines, &mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
        assert!(times == 2 || said.contains("nothing was replaced"), "{said}");
        let mut after = tree(&bench.path(""));
        // What the second interrupt leaves is hidden, and goes with the next training.
        after.retain(|name, _| !name.starts_with("run/.tmp-new-run"));
        assert_eq!(after, before);
    }
    bench.train("run", "--overwrite").ok();
    assert!(!bench.path("run/.tmp-new-run").exists());
}
