//! Every operation of a publication made to fail in turn: the earlier checkpoint stays whole.

mod common;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::Scratch;
use smallmind_checkpoint::{
    AtomicFolder, CheckpointError, Disk, FileSystem, Rolling, SystemFile, clean_stale, verify_folder,
    write_file_atomic, write_file_atomic_on,
};

/// What happens from the chosen operation on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It fails, the later ones work: a disk that was full for a moment.
    Once,
    /// It is not carried out, nor is any after it: the process was killed.
    Killed,
    /// If it is a write, half of it is taken; then no operation is carried out any more.
    TornWrite,
    /// If it is a write, it answers that it took nothing.
    NothingTaken,
}

/// The disk, with one operation that fails.
#[derive(Clone)]
struct Faulty(Arc<FaultyState>);

struct FaultyState {
    fault: Fault,
    at: usize,
    done: AtomicUsize,
}

impl Faulty {
    fn new(fault: Fault, at: usize) -> Self {
        Self(Arc::new(FaultyState { fault, at, done: AtomicUsize::new(0) }))
    }

    /// Whether the chosen operation was reached.
    fn reached(&self) -> bool {
        self.0.done.load(Ordering::Relaxed) > self.0.at
    }

    fn step(&self) -> Result<(), io::Error> {
        let number = self.0.done.fetch_add(1, Ordering::Relaxed);
        let lasting = self.0.fault != Fault::Once && self.0.fault != Fault::NothingTaken;
        if number == self.0.at || (number > self.0.at && lasting) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl FileSystem for Faulty {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn SystemFile>> {
        self.step()?;
        Ok(Box::new(FaultyFile { inner: Disk.create_file(path)?, faults: self.clone() }))
    }
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| Disk.create_folder(path))
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| Disk.sync_folder(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step().and_then(|()| Disk.rename(from, to))
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| Disk.remove_file(path))
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        if let Err(error) = self.step() {
            // A removal that was interrupted leaves some of the files.
            if let Some(Ok(first)) = std::fs::read_dir(path)?.next() {
                std::fs::remove_file(first.path())?;
            }
            return Err(error);
        }
        Disk.remove_folder(path)
    }
}

struct FaultyFile {
    inner: Box<dyn SystemFile>,
    faults: Faulty,
}

impl Write for FaultyFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match (self.faults.step(), self.faults.0.fault) {
            (Ok(()), _) => self.inner.write(data),
            (Err(_), Fault::NothingTaken) => Ok(0),
            (Err(error), Fault::TornWrite) => {
                self.inner.write_all(&data[..data.len() / 2])?;
                Err(error)
            }
            (Err(error), _) => Err(error),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl SystemFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        self.faults.step().and_then(|()| self.inner.sync())
    }
}

const FAULTS: [Fault; 4] = [Fault::Once, Fault::Killed, Fault::TornWrite, Fault::NothingTaken];

/// Calls `trial` with the fault at operation 0, 1, 2, … until it is no longer reached; answers how many there were.
fn for_each_fault(mut trial: impl FnMut(Faulty, &str)) -> usize {
    let mut operations = 0;
    for fault in FAULTS {
        for at in 0.. {
            assert!(at < 1000, "a publication takes a bounded number of operations");
            let file_system = Faulty::new(fault, at);
            trial(file_system.clone(), &format!("{fault:?} at operation {at}"));
            if !file_system.reached() {
                operations = at;
                break;
            }
        }
    }
    operations
}

fn keep(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// A checkpoint of two files whose content tells the generation; one of them goes through several writes.
fn fill(folder: &mut AtomicFolder, generation: u8) -> Result<(), CheckpointError> {
    folder.write("weights.bin", |out| {
        out.write_all(&vec![generation; 100_000])?;
        out.write_all(&[generation; 300])
    })?;
    folder.write("state.json", |out| write!(out, "{{\"generation\":{generation}}}"))
}

/// The generation that a whole folder holds.
fn generation(folder: &Path) -> u8 {
    verify_folder(folder).unwrap();
    let weights = std::fs::read(folder.join("weights.bin")).unwrap();
    assert_eq!(weights.len(), 100_300);
    assert!(weights.iter().all(|byte| *byte == weights[0]));
    let state = std::fs::read_to_string(folder.join("state.json")).unwrap();
    assert_eq!(state, format!("{{\"generation\":{}}}", weights[0]));
    weights[0]
}

fn temporary_names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".tmp-")).collect()
}

#[test]
fn a_file_is_the_old_or_the_new_one_whatever_fails() {
    let operations = for_each_fault(|file_system, place| {
        let scratch = Scratch::new();
        let path = scratch.file("state.bin", [1; 5000]);
        let result = write_file_atomic_on(&file_system, &path, |out| out.write_all(&[2; 200_000]));
        let content = std::fs::read(&path).unwrap();
        let (old, new) = (content == [1; 5000], content == [2; 200_000]);
        assert!(old || new, "{place}: {} bytes", content.len());
        assert!(new || result.is_err(), "{place}: reported as written");
        clean_stale(scratch.path()).unwrap();
        assert_eq!(temporary_names(scratch.path()), [""; 0], "{place}");
        assert_eq!(std::fs::read(&path).unwrap(), content, "{place}");
        if let Err(error) = result {
            assert!(
                error.to_string().contains("state.bin") || error.to_string().contains("sync the folder"),
                "{error}"
            );
        }
    });
    assert_eq!(operations, 5, "create, write, sync, rename, sync the folder");
}

#[test]
fn rolling_checkpoints_survive_whatever_fails() {
    let operations = for_each_fault(|file_system, place| {
        let scratch = Scratch::new();
        let disk = Rolling::new(scratch.path(), "step-", keep(2));
        for step in [1, 2] {
            assert!(disk.publish(step, |folder| fill(folder, step as u8)).unwrap().not_removed.is_none());
        }
        let faulty = Rolling::on(Arc::new(file_system), scratch.path(), "step-", keep(2));
        let result = faulty.publish(3, |folder| fill(folder, 3));

        let check = |when: &str| {
            let latest = disk.latest_valid().unwrap();
            let found = latest.checkpoint.unwrap_or_else(|| panic!("{place}, {when}: nothing left"));
            assert!(latest.damaged.is_empty(), "{place}, {when}: {:?}", latest.damaged);
            assert_eq!(u64::from(generation(&found.path)), found.step, "{place}, {when}");
            assert!(found.step == 3 || (found.step == 2 && result.is_err()), "{place}, {when}: {result:?}");
        };
        check("right after");
        disk.clean().unwrap();
        check("cleaned");
        assert_eq!(temporary_names(scratch.path()), [""; 0], "{place}");
        // Life goes on.
        assert!(disk.publish(4, |folder| fill(folder, 4)).unwrap().not_removed.is_none(), "{place}");
        assert_eq!(generation(&disk.path_of(4)), 4);
        assert_eq!(disk.steps().unwrap().len(), 2, "{place}");
    });
    assert!((15..40).contains(&operations), "{operations} operations");
}

#[test]
fn a_checkpoint_replaced_under_its_name_survives_whatever_fails() {
    for_each_fault(|file_system, place| {
        let scratch = Scratch::new();
        let disk = Rolling::new(scratch.path(), "step-", keep(3));
        for (step, content) in [(1, 1), (2, 2)] {
            assert!(disk.publish(step, |folder| fill(folder, content)).unwrap().not_removed.is_none());
        }
        let faulty = Rolling::on(Arc::new(file_system.clone()), scratch.path(), "step-", keep(3));
        let result = faulty.publish(2, |folder| fill(folder, 9));
        // Killed between the two renames, step 2 has no name until the cleaning puts it back.
        let before = disk.latest_valid().unwrap();
        assert!(before.checkpoint.is_some() && before.damaged.is_empty(), "{place}");
        if file_system.0.fault == Fault::Once {
            assert_eq!(before.checkpoint.unwrap().step, 2, "{place}: a process that lives on puts it back at once");
        }
        disk.clean().unwrap();
        let latest = disk.latest_valid().unwrap().checkpoint.unwrap();
        assert_eq!(latest.step, 2, "{place}");
        let found = generation(&latest.path);
        assert!(found == 9 || (found == 2 && result.is_err()), "{place}: generation {found}, {result:?}");
        assert_eq!(temporary_names(scratch.path()), [""; 0], "{place}");
    });
}

#[test]
fn a_full_disk_says_what_to_do() {
    let scratch = Scratch::new();
    let file_system = Faulty::new(Fault::Killed, 2);
    let error = Rolling::on(Arc::new(file_system), scratch.path(), "step-", keep(2))
        .publish(7, |folder| fill(folder, 7))
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("step-00000007") && text.contains("could not write"), "{text}");
    assert!(text.contains("free some space and try again, what was there before is untouched"), "{text}");
    assert!(!error.is_bad_file());
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_really_full() {
    // A link to the device that takes nothing stands in for a full disk.
    struct Full;
    impl FileSystem for Full {
        fn create_file(&self, _path: &Path) -> io::Result<Box<dyn SystemFile>> {
            Ok(Box::new(std::fs::OpenOptions::new().write(true).open("/dev/full")?))
        }
        fn create_folder(&self, path: &Path) -> io::Result<()> {
            Disk.create_folder(path)
        }
        fn sync_folder(&self, path: &Path) -> io::Result<()> {
            Disk.sync_folder(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            Disk.rename(from, to)
        }
        fn remove_file(&self, path: &Path) -> io::Result<()> {
            Disk.remove_file(path)
        }
        fn remove_folder(&self, path: &Path) -> io::Result<()> {
            Disk.remove_folder(path)
        }
    }
    let scratch = Scratch::new();
    let error =
        Rolling::on(Arc::new(Full), scratch.path(), "step-", keep(2)).publish(1, |folder| fill(folder, 1)).unwrap_err();
    assert!(error.to_string().contains("free some space"), "{error}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_folder_after_a_failed_write_is_not_published() {
    let scratch = Scratch::new();
    let target = scratch.path().join("model");
    let mut folder = AtomicFolder::create(&target).unwrap();
    folder.write("a", |out| out.write_all(b"a")).unwrap();
    folder.write("b", |_| Err(io::Error::other("the tensor is gone"))).unwrap_err();
    let error = folder.publish().unwrap_err();
    assert!(error.to_string().contains("an earlier write into it failed"), "{error}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);

    let path = scratch.file("state.json", "old");
    let error = write_file_atomic(&path, |out| {
        out.write_all(b"new")?;
        Err(io::Error::other("stop"))
    });
    assert!(error.unwrap_err().to_string().contains("state.json: could not write: stop"));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(temporary_names(scratch.path()), [""; 0]);
}
