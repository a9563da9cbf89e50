//! Files that a subcommand writes, checked before its work begins.
//!
//! The check finds out whether the file can be written and whether that would replace another; it leaves no file. Each
//! file appears complete under its name when it is published. (`train` and `quickstart` claim the folder of a run with
//! `smallmind::train::RunDir`.)

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use smallmind::checkpoint::{Earlier, clean_stale_files_of};

use super::failure::{Outcome, usage};
use super::output;
use super::reads::Reads;
use super::temporaries::{self, MadeFolders, TemporaryFile};

/// `--overwrite`.
#[derive(Clone, Copy, Debug, Args)]
pub struct Overwrite {
    /// Replace files that are there already
    #[arg(long)]
    pub overwrite: bool,
}

/// A file that will be written.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// A file that exists: its path with links resolved.
    Replace(PathBuf),
    /// A file that does not exist.
    Create,
    /// A terminal, a pipe or `/dev/null`, which can't be replaced.
    Device(File),
}

impl OutputFile {
    /// Checks that `path` can be written, and replaced only if `overwrite` says so and it is none of `reads`. A link is
    /// followed. Removes what killed programs left of a file of that name.
    ///
    /// # Errors
    /// Those of [`check_name`](Self::check_name); a path that can't be written.
    pub fn check(path: &Path, overwrite: Overwrite, reads: &Reads) -> anyhow::Result<Self> {
        let file = Self::check_name(path, overwrite, reads)?;
        match &file.sink {
            Sink::Replace(target) => try_place(target)?,
            Sink::Create => try_place(path)?,
            Sink::Device(_) => {}
        }
        Ok(file)
    }

    /// The same check, which neither makes nor removes a file.
    ///
    /// # Errors
    /// A file that exists, without `--overwrite`, or that is read; a folder; a link to nothing; a folder around it that
    /// does not exist.
    pub fn check_name(path: &Path, overwrite: Overwrite, reads: &Reads) -> anyhow::Result<Self> {
        let name = path.display();
        reads.check(path)?;
        check_parent(path)?;
        let metadata = path.metadata();
        let sink = match &metadata {
            Ok(there) if there.is_dir() => return Err(usage(format!("{name}: this is a folder; name a file"))),
            Ok(there) if there.is_file() => {
                if !overwrite.overwrite {
                    return Err(usage(format!("{name}: this file is there already; --overwrite replaces it")));
                }
                Sink::Replace(path.canonicalize().with_context(|| format!("{name}"))?)
            }
            Ok(_) => {
                let file = OpenOptions::new().write(true).open(path);
                Sink::Device(file.with_context(|| format!("{name}: can't be written"))?)
            }
            Err(_) if path.is_symlink() => {
                let target = fs::read_link(path).unwrap_or_default();
                let target = target.display();
                return Err(usage(format!("{name}: this is a link to {target}, which is not there; remove the link")));
            }
            Err(_) => Sink::Create,
        };
        Ok(Self { path: path.to_owned(), sink })
    }

    /// Writes the file and publishes it.
    ///
    /// # Errors
    /// A disk that is full or fails; a new file of that name since the check. An earlier file is unchanged.
    pub fn write(self, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Outcome {
        let name = self.path.clone();
        match self.fill(write)? {
            Some(filled) => temporaries::publish(&name, vec![filled]),
            None => Ok(()),
        }
    }

    /// Writes the content to a device (`None`), or to a temporary file that must be published.
    fn fill(self, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> anyhow::Result<Option<TemporaryFile>> {
        let (target, earlier) = match self.sink {
            Sink::Replace(target) => (target, Earlier::Replace),
            Sink::Create => (self.path.clone(), Earlier::Keep),
            Sink::Device(file) => return write_device(file, &self.path, write).map(|()| None),
        };
        let mut file = TemporaryFile::create(&target, earlier)?;
        file.fill(write)?;
        Ok(Some(file))
    }
}

/// Refuses a file in a folder that does not exist.
fn check_parent(path: &Path) -> Outcome {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if matches!(parent.try_exists(), Ok(false)) => {
            let (path, parent) = (path.display(), parent.display());
            Err(usage(format!("{path}: the folder {parent} does not exist; make it first")))
        }
        _ => Ok(()),
    }
}

/// Tries whether a file can be made beside `path`, and removes what killed programs left there.
fn try_place(path: &Path) -> Outcome {
    drop(TemporaryFile::create(path, Earlier::Keep)?);
    clean_stale_files_of(path);
    Ok(())
}

/// Writes to a device as the content comes, since it may be larger than memory.
fn write_device(file: File, path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Outcome {
    let written = if file.is_terminal() { write_terminal(file, write) } else { write_stream(file, write) };
    written.with_context(|| format!("{}: can't be written", path.display()))
}

fn write_stream(file: File, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    out.flush()
}

/// Content for a terminal may hold control characters. Only text is short enough to be shown.
fn write_terminal(mut file: File, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut text = Text(Vec::new());
    write(&mut text)?;
    file.write_all(output::harmless(&String::from_utf8_lossy(&text.0)).as_bytes())?;
    file.flush()
}

/// The most bytes that are shown on a terminal.
const MAX_SHOWN: usize = 64 << 20;

/// Text for a terminal.
struct Text(Vec<u8>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_SHOWN {
            return Err(std::io::Error::other(format!("more than {MAX_SHOWN} bytes for a terminal")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Files of one folder that will be written and published together.
#[derive(Debug)]
pub struct OutputFolder {
    folder: PathBuf,
    checked: Vec<(&'static str, OutputFile)>,
    filled: Vec<TemporaryFile>,
    /// Dropped after the files in them.
    made: Option<MadeFolders>,
}

impl OutputFolder {
    /// Checks that the files `names` can be written in `folder`, which is made when the first of them is written.
    ///
    /// # Errors
    /// As [`OutputFile::check`]; a file where the folder should be.
    pub fn check(folder: &Path, names: &[&'static str], overwrite: Overwrite, reads: &Reads) -> anyhow::Result<Self> {
        if folder.exists() && !folder.is_dir() {
            return Err(usage(format!("{}: this is a file; name a folder", folder.display())));
        }
        let _made = make_folders(folder)?;
        let check = |name: &&'static str| Ok((*name, OutputFile::check(&folder.join(name), overwrite, reads)?));
        let checked = names.iter().map(check).collect::<anyhow::Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), checked, filled: vec![], made: None })
    }

    /// Writes one of the files.
    ///
    /// # Errors
    /// As [`OutputFile::write`]; a name that was not checked.
    pub fn write(&mut self, name: &str, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Outcome {
        let at = self.checked.iter().position(|(checked, _)| *checked == name);
        let at = at.ok_or_else(|| anyhow::anyhow!("{name} was not checked"))?;
        if self.made.is_none() {
            self.made = Some(make_folders(&self.folder)?);
        }
        self.filled.extend(self.checked.swap_remove(at).1.fill(write)?);
        Ok(())
    }

    /// Moves the written files to their names, in the order in which they were written. Without the last one the folder
    /// is no model: see [`temporaries::publish_folder`].
    ///
    /// # Errors
    /// As [`OutputFile::write`]; files before the refused one are published.
    pub fn publish(self) -> Outcome {
        temporaries::publish_folder(&self.folder, self.filled)
    }
}

fn make_folders(folder: &Path) -> anyhow::Result<MadeFolders> {
    MadeFolders::make(folder).with_context(|| format!("{}: the folder can't be made", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSE: Overwrite = Overwrite { overwrite: false };
    const REPLACE: Overwrite = Overwrite { overwrite: true };

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_there_stays_until_it_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "old").unwrap();
        let error = OutputFile::check(&path, REFUSE, &Reads::nothing()).unwrap_err().to_string();
        assert!(error.contains("a.json") && error.contains("--overwrite"), "{error}");
        drop(OutputFile::check(&path, REPLACE, &Reads::nothing()).unwrap());
        let failed = OutputFile::check(&path, REPLACE, &Reads::nothing()).unwrap().write(|out| {
            out.write_all(b"half")?;
            Err(std::io::ErrorKind::StorageFull.into())
        });
        assert!(failed.is_err());
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"old".to_vec(), vec!["a.json".to_owned()]));
        OutputFile::check(&path, REPLACE, &Reads::nothing()).unwrap().write(|out| out.write_all(b"new")).unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"new".to_vec(), vec!["a.json".to_owned()]));
    }

    #[test]
    fn a_file_that_comes_after_the_check_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let file = OutputFile::check(&path, REFUSE, &Reads::nothing()).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(file.write(|out| out.write_all(b"new")).unwrap_err().to_string().contains("not replaced"));
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"mine".to_vec(), vec!["a.json".to_owned()]));
    }

    #[test]
    fn places_that_take_no_file_are_found_before() {
        let dir = tempfile::tempdir().unwrap();
        assert!(OutputFile::check(dir.path(), REPLACE, &Reads::nothing()).unwrap_err().to_string().contains("folder"));
        assert!(OutputFile::check(&dir.path().join("none/a.json"), REFUSE, &Reads::nothing()).is_err());
        fs::write(dir.path().join("file"), "x").unwrap();
        assert!(OutputFolder::check(&dir.path().join("file"), &["a"], REPLACE, &Reads::nothing()).is_err());
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        OutputFile::check(&path, REPLACE, &Reads::nothing()).unwrap().write(|out| out.write_all(b"new")).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::os::unix::fs::symlink("real", &link).unwrap();
        let error = OutputFile::check(&link, REPLACE, &Reads::nothing()).unwrap_err().to_string();
        assert!(error.contains("link to real"), "{error}");
        // Nobody can say whether there is a folder.
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        let error = OutputFile::check(&dir.path().join("loop/a.json"), REFUSE, &Reads::nothing()).unwrap_err();
        assert!(!error.to_string().contains("does not exist"), "{error}");
        fs::write(&real, "old").unwrap();
        OutputFile::check(&link, REPLACE, &Reads::nothing()).unwrap().write(|out| out.write_all(b"new")).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
        // Writing to /dev/null must not put a file in its place.
        OutputFile::check(Path::new("/dev/null"), REFUSE, &Reads::nothing())
            .unwrap()
            .write(|out| out.write_all(b"x"))
            .unwrap();
        assert!(!Path::new("/dev/null").is_file());
    }

    /// A device gets the content as it comes, not when it is complete.
    #[cfg(unix)]
    #[test]
    fn what_is_written_to_a_device_is_not_held_in_memory() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let path = PathBuf::from("pipe");
        let file = OutputFile { path, sink: Sink::Device(std::os::fd::OwnedFd::from(writer).into()) };
        let (told, seen) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut first = [0; 1];
            std::io::Read::read_exact(&mut reader, &mut first).unwrap();
            told.send(first[0]).unwrap();
            std::io::copy(&mut reader, &mut std::io::sink()).unwrap() + 1
        });
        file.write(|out| {
            out.write_all(&[7; 1 << 20])?;
            assert_eq!(seen.recv_timeout(std::time::Duration::from_secs(20)), Ok(7));
            out.write_all(b"end")
        })
        .unwrap();
        assert_eq!(thread.join().unwrap(), (1 << 20) + 3);
    }

    #[test]
    fn a_folder_is_made_for_its_files_and_goes_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        drop(OutputFolder::check(&folder, &["x", "y"], REFUSE, &Reads::nothing()).unwrap());
        assert_eq!(names(dir.path()), Vec::<String>::new());
        let mut files = OutputFolder::check(&folder, &["x", "y"], REFUSE, &Reads::nothing()).unwrap();
        assert_eq!(names(dir.path()), Vec::<String>::new(), "an interrupt would leave it");
        files.write("x", |out| out.write_all(b"1")).unwrap();
        assert!(files.write("z", |_| Ok(())).is_err());
        assert!(!folder.join("x").exists(), "files appear together");
        files.publish().unwrap();
        assert_eq!(names(&folder), ["x"]);
        assert!(OutputFolder::check(&folder, &["y", "x"], REFUSE, &Reads::nothing()).is_err());
        assert_eq!(names(&folder), ["x"]);
    }
}
