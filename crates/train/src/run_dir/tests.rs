//! Claims and replacements, and that they change nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};

use smallmind_checkpoint::SystemFile;

use super::*;

fn write(folder: &Path, names: &[&str]) {
    for name in names {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "old").unwrap();
    }
}

fn names(folder: &Path) -> Vec<String> {
    names_in(folder).unwrap()
}

fn refusal(path: &Path, existing: Existing) -> TrainError {
    let before = if path.is_dir() { names(path) } else { vec![] };
    let error = RunDir::claim(path, existing).unwrap_err();
    let after = if path.is_dir() { names(path) } else { vec![] };
    assert_eq!(after.into_iter().filter(|name| name != LOCK_FILE).collect::<Vec<_>>(), before, "{error}");
    error
}

#[test]
fn what_would_be_lost_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let all: [(&[&str], Found); 6] = [
        (&["checkpoints/step-00000001/config.json"], Found::Run),
        (&["train.toml", "model.safetensors", "notes.txt"], Found::Run),
        (&["config.json", "tokenizer.json", "model.safetensors"], Found::Model),
        (&["model.safetensors"], Found::Model),
        (&["tokenizer.json"], Found::Files(vec!["tokenizer.json".into()])),
        (&["data/train-00000.bin", "log.csv"], Found::Files(vec!["data".into(), "log.csv".into()])),
    ];
    for (i, (files, expected)) in all.into_iter().enumerate() {
        let run = dir.path().join(i.to_string());
        write(&run, files);
        let TrainError::Exists { found, .. } = refusal(&run, Existing::Refuse) else { panic!("{files:?}") };
        assert_eq!(found, expected);
        // A claim that is dropped changes nothing.
        drop(RunDir::claim(&run, Existing::Replace).unwrap());
        for file in files {
            assert_eq!(fs::read(run.join(file)).unwrap(), b"old");
        }
    }
}

#[test]
fn other_peoples_files_are_refused_and_hidden_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = [
        "notes.txt",
        "data/my-corpus.txt",
        "checkpoints/mine.bin",
        "checkpoints/step-by-step.txt",
        "model-00001-of-00002.safetensors",
    ];
    for (i, name) in foreign.into_iter().enumerate() {
        let run = dir.path().join(i.to_string());
        write(&run, &["tokenizer.json", name]);
        for existing in [Existing::Refuse, Existing::Replace] {
            let error = refusal(&run, existing);
            assert!(matches!(&error, TrainError::Foreign { name: told, .. } if told == name), "{error}");
        }
    }
    let run = dir.path().join("hidden");
    write(&run, &[".gitignore", "lost+found/x"]);
    drop(RunDir::claim(&run, Existing::Refuse).unwrap());
    assert_eq!(names(&run), [".gitignore", "lost+found"]);
}

#[test]
fn a_claim_that_comes_to_nothing_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a/b/run");
    drop(RunDir::claim(&run, Existing::Refuse).unwrap());
    assert_eq!(names(dir.path()), Vec::<String>::new());
    fs::create_dir(dir.path().join("empty")).unwrap();
    drop(RunDir::claim(&dir.path().join("empty"), Existing::Refuse).unwrap());
    assert_eq!(names(dir.path()), ["empty"]);
    assert_eq!(names(&dir.path().join("empty")), Vec::<String>::new());
}

#[test]
fn one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let first = RunDir::claim(&run, Existing::Refuse).unwrap();
    for existing in [Existing::Refuse, Existing::Replace] {
        assert!(matches!(RunDir::claim(&run, existing), Err(TrainError::Busy(_))));
    }
    assert!(first.staging().is_dir(), "the second claim touched the first one's files");
    drop(first);
    RunDir::claim(&run, Existing::Refuse).unwrap();
}

/// A claim of an old run, with a new one written.
fn replacing(run: &Path) -> RunDir {
    write(run, &["train.toml", "config.json", "model.safetensors", "checkpoints/step-00000009/x", "notes.txt"]);
    let claim = RunDir::claim(run, Existing::Replace).unwrap();
    for name in ["train.toml", "tokenizer.json", "data/train-00000.bin", "checkpoints/step-00000000/x"] {
        let path = claim.staging().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "new").unwrap();
    }
    claim
}

fn is_replaced(run: &Path) {
    let expected = ["checkpoints", "data", "notes.txt", "tokenizer.json", "train.lock", "train.toml"];
    assert_eq!(names(run), expected);
    assert_eq!(names(&run.join("checkpoints")), ["step-00000000"]);
    assert_eq!(fs::read(run.join("train.toml")).unwrap(), b"new");
    assert_eq!(fs::read(run.join("notes.txt")).unwrap(), b"old");
}

#[test]
fn a_new_run_takes_the_place_of_an_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut claim = replacing(&run);
    assert_eq!(fs::read(run.join("model.safetensors")).unwrap(), b"old");
    claim.publish().unwrap();
    drop(claim);
    is_replaced(&run);
}

/// The state after a process was killed between any two of the renames.
#[test]
fn a_replacement_that_was_interrupted_is_completed() {
    let moves = RUN_NAMES.len() * 2;
    for done in 0..=moves {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let claim = replacing(&run);
        fs::rename(claim.staging(), run.join(NEXT)).unwrap();
        std::mem::forget(claim);
        fs::create_dir(run.join(OLD)).unwrap();
        for i in 0..done {
            let name = RUN_NAMES[i / 2];
            let arrives = run.join(NEXT).join(name).exists();
            if i % 2 == 0 && (arrives || matches!(name, CONFIG_FILE | WEIGHTS_FILE)) && run.join(name).exists() {
                fs::rename(run.join(name), run.join(OLD).join(name)).unwrap();
            } else if i % 2 == 1 && arrives {
                fs::rename(run.join(NEXT).join(name), run.join(name)).unwrap();
            }
        }
        // The forgotten claim still holds the lock on its file; a new file has a new lock.
        fs::remove_file(run.join(LOCK_FILE)).unwrap();
        fs::write(run.join(LOCK_FILE), "").unwrap();
        drop(RunDir::open(&run).unwrap());
        is_replaced(&run);
    }
}

#[test]
fn what_comes_after_the_claim_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut claim = RunDir::claim(&run, Existing::Refuse).unwrap();
    write(&run, &["model.safetensors", "config.json"]);
    assert!(matches!(claim.publish(), Err(TrainError::Exists { found: Found::Model, .. })));
    drop(claim);
    assert_eq!(names(&run), ["config.json", "model.safetensors"]);
}

#[test]
fn a_run_that_is_stopped_is_not_published() {
    use std::sync::atomic::AtomicBool;
    static STOP: AtomicBool = AtomicBool::new(false);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut claim = replacing(&run);
    claim.stop_with(&STOP);
    let before = names(&run);
    STOP.store(true, Ordering::SeqCst);
    assert!(matches!(claim.publish(), Err(TrainError::Stopped)));
    assert_eq!(names(&run), before);
    STOP.store(false, Ordering::SeqCst);
    claim.publish().unwrap();
    is_replaced(&run);
}

#[test]
fn a_folder_that_no_training_used_keeps_its_hidden_files() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    write(&run, &[".next-run/mine", ".tmp-old-run/mine", ".tmp-new-1.2-mine", "train.lock/mine"]);
    assert!(matches!(RunDir::claim(&run, Existing::Replace), Err(TrainError::NoFolder { .. })));
    fs::rename(run.join("train.lock"), run.join(".lock")).unwrap();
    drop(RunDir::claim(&run, Existing::Refuse).unwrap());
    assert_eq!(names(&run), [".lock", ".next-run", ".tmp-new-1.2-mine", ".tmp-old-run"]);
    write(&run, &[".tmp-new-run/mine"]);
    assert!(matches!(RunDir::claim(&run, Existing::Refuse), Err(TrainError::Foreign { .. })));
    assert_eq!(names(&run.join(".tmp-new-run")), ["mine"]);
    // A lock file that was there stays, with its content.
    write(&run, &["train.lock"]);
    fs::remove_dir_all(run.join(".next-run")).unwrap();
    drop(RunDir::claim(&run, Existing::Refuse).unwrap());
    assert_eq!(fs::read(run.join("train.lock")).unwrap(), b"old");
}

/// A disk that refuses one of the calls that publish a run, or refuses to remove any folder.
struct Refusing {
    /// How many calls succeed before the one that is refused.
    left: AtomicUsize,
    removals: bool,
}

impl Refusing {
    fn refuse<T>(&self, done: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let refused = self.left.fetch_sub(1, Ordering::Relaxed) == 0;
        if refused { Err(io::ErrorKind::ResourceBusy.into()) } else { done() }
    }
}

impl FileSystem for Refusing {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn SystemFile>> {
        Disk.create_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.refuse(|| Disk.create_folder(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.refuse(|| Disk.sync_folder(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.refuse(|| Disk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        Disk.remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.refuse(
            || if self.removals { Err(io::ErrorKind::PermissionDenied.into()) } else { Disk.remove_folder(path) },
        )
    }
}

/// This happens if one of the folders is a mount point, or the disk fails.
#[test]
fn a_replacement_that_is_refused_is_undone() {
    let mut calls = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut claim = replacing(&run);
        claim.file_system = Arc::new(Refusing { left: AtomicUsize::new(calls), removals: false });
        match claim.publish() {
            Ok(None) => break,
            // The old run could not be removed: the new one is in its place.
            Ok(Some(_)) => {
                drop(claim);
                drop(RunDir::open(&run).unwrap());
                is_replaced(&run);
            }
            Err(_) => {
                drop(claim);
                let hidden = |name: &String| name.starts_with(OLD) || name == STAGING;
                assert_eq!(names(&run).into_iter().filter(|name| !hidden(name)).count(), 5, "after {calls} calls");
                drop(RunDir::open(&run).unwrap());
                fs::remove_file(run.join(LOCK_FILE)).unwrap();
                let expected = ["checkpoints", "config.json", "model.safetensors", "notes.txt", "train.toml"];
                assert_eq!(names(&run), expected, "after {calls} calls");
                assert_eq!(names(&run.join("checkpoints")), ["step-00000009"]);
                assert_eq!(fs::read(run.join("train.toml")).unwrap(), b"old");
            }
        }
        calls += 1;
    }
    assert!(calls > 10, "{calls}");
}

#[test]
fn an_old_run_that_can_not_be_removed_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    for _ in 0..3 {
        let mut claim = replacing(&run);
        claim.file_system = Arc::new(Refusing { left: AtomicUsize::new(usize::MAX), removals: true });
        assert!(matches!(claim.publish(), Ok(Some(TrainError::Write { .. }))));
        drop(claim);
        let visible: Vec<String> = names(&run).into_iter().filter(|name| !name.starts_with('.')).collect();
        assert_eq!(visible, ["checkpoints", "data", "notes.txt", "tokenizer.json", "train.lock", "train.toml"]);
        assert_eq!(names(&run.join("checkpoints")), ["step-00000000"]);
    }
    fs::write(run.join(WEIGHTS_FILE), "best").unwrap();
    drop(RunDir::open(&run).unwrap());
    assert_eq!(fs::read(run.join(WEIGHTS_FILE)).unwrap(), b"best");
    fs::remove_file(run.join(WEIGHTS_FILE)).unwrap();
    is_replaced(&run);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let error = refusal(&link, Existing::Replace);
    assert!(matches!(error, TrainError::NoFolder { .. }) && error.to_string().contains("real"), "{error}");
    fs::create_dir(&real).unwrap();
    let mut claim = replacing(&link);
    claim.publish().unwrap();
    drop(claim);
    is_replaced(&real);
    assert!(link.is_symlink());
}
