//! Temporary files of outputs, which a signal removes when it ends the program, and the files that have their names.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyhow::Context;
use smallmind::checkpoint::{CheckpointError, Earlier, PendingFile};

use super::failure::Outcome;

/// Files and folders of this process.
#[derive(Debug)]
struct Outputs {
    /// Temporary files, and folders that were made for them, each after the folder around it. What is dropped is no
    /// longer listed.
    temporary: Vec<Weak<PathBuf>>,
    /// Published files, by the names that a user knows.
    published: Vec<PathBuf>,
}

/// The path of a file or folder that a signal removes until this is dropped.
#[derive(Debug)]
struct Listed(Arc<PathBuf>);

static OUTPUTS: Mutex<Outputs> = Mutex::new(Outputs { temporary: vec![], published: vec![] });

/// While this is held a signal removes nothing and does not end the program.
fn outputs() -> MutexGuard<'static, Outputs> {
    OUTPUTS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outputs {
    fn list(&mut self, path: &Path) -> Listed {
        self.temporary.retain(|listed| listed.strong_count() > 0);
        let path = Arc::new(path.to_owned());
        self.temporary.push(Arc::downgrade(&path));
        Listed(path)
    }
}

/// A file under a temporary name.
#[derive(Debug)]
pub struct TemporaryFile {
    file: PendingFile<'static>,
    target: PathBuf,
    earlier: Earlier,
    /// Dropped after the file, which removes it.
    _listed: Listed,
}

impl TemporaryFile {
    /// Makes a temporary file beside `target`.
    ///
    /// # Errors
    /// As [`PendingFile::create`].
    pub fn create(target: &Path, earlier: Earlier) -> Result<Self, CheckpointError> {
        let mut outputs = outputs();
        let file = PendingFile::create(target)?;
        let _listed = outputs.list(file.temporary());
        Ok(Self { file, target: target.to_owned(), earlier, _listed })
    }

    /// Writes the content.
    ///
    /// # Errors
    /// As [`PendingFile::fill`].
    pub fn fill(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CheckpointError> {
        self.file.fill(write)
    }

    fn publish(self) -> Outcome {
        let Self { file, target, earlier, _listed } = self;
        file.publish(earlier).map_err(|error| {
            if earlier == Earlier::Keep && target.symlink_metadata().is_ok() {
                let target = target.display();
                anyhow::anyhow!("{target}: another program has made this file in the meantime; it was not replaced")
            } else {
                error.into()
            }
        })
    }
}

/// Gives files their names, one after the other; a signal waits for all of them. A user knows them as `name`.
///
/// # Errors
/// As [`PendingFile::publish`]; a file that another program has made. Files before the refused one are published.
pub fn publish(name: &Path, files: Vec<TemporaryFile>) -> Outcome {
    publish_each(name, files).map_err(|(_, error)| error)
}

/// As [`publish`]; an error comes with the number of files that are published.
fn publish_each(name: &Path, files: Vec<TemporaryFile>) -> Result<(), (usize, anyhow::Error)> {
    let mut outputs = outputs();
    let before = outputs.published.len();
    for (count, file) in files.into_iter().enumerate() {
        let target = file.target.clone();
        file.publish().map_err(|error| (count, error))?;
        outputs.published.push(target);
    }
    outputs.published.truncate(before);
    outputs.published.push(name.to_owned());
    Ok(())
}

/// As [`publish`], for files of the folder `name` that is no model without the last of them. An earlier last file is
/// set aside before the others are replaced: a folder of which only a part has been replaced can't be read as a model
/// that nobody wrote. Processes that write to one folder do so one after the other.
///
/// # Errors
/// As [`publish`]. If no file has been replaced, the earlier last file is there again.
pub fn publish_folder(name: &Path, files: Vec<TemporaryFile>) -> Outcome {
    // Not every system opens folders, and not every file system locks them: there two writers may mix their files.
    let folder = File::open(name);
    let _lock = folder.as_ref().map(File::lock);
    let aside = match &files[..] {
        [_, .., last] => set_aside(last)?,
        _ => None,
    };
    publish_each(name, files).map_err(|(count, error)| match aside {
        Some(aside) if count == 0 => match aside.publish() {
            Ok(()) => error,
            Err(other) => error.context(format!("{other:#}")),
        },
        Some(_) => error.context(format!("{}: a part of the files has been replaced; write it again", name.display())),
        None => error,
    })
}

/// Moves the earlier file of a name to a temporary one, which is removed when the result is dropped. `None` if there is
/// no earlier file to be replaced.
fn set_aside(file: &TemporaryFile) -> anyhow::Result<Option<TemporaryFile>> {
    if file.earlier == Earlier::Keep || !file.target.is_file() {
        return Ok(None);
    }
    let aside = TemporaryFile::create(&file.target, Earlier::Keep)?;
    let moved = fs::rename(&file.target, aside.file.temporary());
    moved.with_context(|| format!("{}: can't be replaced", file.target.display()))?;
    Ok(Some(aside))
}

/// Folders that were made for files. Those that are still empty are removed when this is dropped.
#[derive(Debug)]
pub struct MadeFolders(Vec<Listed>);

impl MadeFolders {
    /// Makes `folder` and the missing folders above it.
    ///
    /// # Errors
    /// A disk that refuses it.
    pub fn make(folder: &Path) -> io::Result<Self> {
        let new = folder.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists());
        let mut new: Vec<_> = new.collect();
        new.reverse();
        let mut outputs = outputs();
        let made = Self(new.into_iter().map(|folder| outputs.list(folder)).collect());
        fs::create_dir_all(folder).map(|()| made)
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for Listed(folder) in self.0.iter().rev() {
            // This fails for a folder with files in it, which must stay.
            let _ = fs::remove_dir(&**folder);
        }
    }
}

/// Removes the temporary files and the empty folders, and calls `then` with the names of published files. Nothing is
/// made or published meanwhile.
pub fn remove_all(then: impl FnOnce(&[PathBuf])) {
    let mut outputs = outputs();
    for path in outputs.temporary.drain(..).rev().filter_map(|listed| listed.upgrade()) {
        // Errors are ignored: the next run to the same name removes a file that is left.
        let _ = if path.is_dir() { fs::remove_dir(&*path) } else { fs::remove_file(&*path) };
    }
    then(&outputs.published);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_or_published_is_no_longer_listed() {
        let dir = tempfile::tempdir().unwrap();
        let is_listed = |path: &Path| {
            let outputs = outputs();
            outputs.temporary.iter().filter_map(Weak::upgrade).any(|listed| listed.starts_with(path))
        };
        let folder = dir.path().join("a/b");
        let made = MadeFolders::make(&folder).unwrap();
        assert!(is_listed(&dir.path().join("a")) && is_listed(&folder));
        let begin = |name: &str| TemporaryFile::create(&folder.join(name), Earlier::Keep).unwrap();
        let (dropped, mut first, mut second) = (begin("dropped"), begin("first"), begin("second"));
        let temporary = [&dropped, &first, &second].map(|file| file.file.temporary().to_owned());
        assert!(temporary.iter().all(|path| is_listed(path)));
        drop(dropped);
        assert_eq!(
            [0, 1, 2].map(|i| (is_listed(&temporary[i]), temporary[i].exists())),
            [(false, false), (true, true), (true, true)]
        );
        // Of a folder that is published in part, the part is.
        first.fill(|out| out.write_all(b"1")).unwrap();
        second.fill(|out| out.write_all(b"2")).unwrap();
        fs::write(folder.join("second"), "mine").unwrap();
        assert!(publish(&folder, vec![first, second]).unwrap_err().to_string().contains("not replaced"));
        assert!(temporary.iter().all(|path| !is_listed(path) && !path.exists()));
        let published = |path: &Path| outputs().published.iter().any(|published| published == path);
        assert!(published(&folder.join("first")) && !published(&folder.join("second")) && !published(&folder));
        drop(made);
        assert!(folder.join("first").exists() && !is_listed(dir.path()));
    }

    /// Files `a` and `z` of a folder, to be replaced.
    fn pair(folder: &Path, content: &str) -> Vec<TemporaryFile> {
        let begin = |name: &&str| {
            let mut file = TemporaryFile::create(&folder.join(name), Earlier::Replace).unwrap();
            file.fill(|out| out.write_all(content.as_bytes())).unwrap();
            file
        };
        ["a", "z"].iter().map(begin).collect()
    }

    #[test]
    fn a_folder_that_is_replaced_in_part_lacks_its_last_file() {
        let dir = tempfile::tempdir().unwrap();
        let [a, z] = ["a", "z"].map(|name| dir.path().join(name));
        let names = || fs::read_dir(dir.path()).unwrap().count();
        publish_folder(dir.path(), pair(dir.path(), "old")).unwrap();
        publish_folder(dir.path(), pair(dir.path(), "new")).unwrap();
        assert_eq!((fs::read(&a).unwrap(), fs::read(&z).unwrap(), names()), (b"new".to_vec(), b"new".to_vec(), 2));

        // Nothing can take the place of a folder. The first file is refused: all is as before.
        fs::remove_file(&a).unwrap();
        fs::create_dir(&a).unwrap();
        publish_folder(dir.path(), pair(dir.path(), "later")).unwrap_err();
        assert_eq!((fs::read(&z).unwrap(), names()), (b"new".to_vec(), 2));

        // The second of three is refused: the last is gone.
        let mut three = pair(dir.path(), "later");
        three.insert(0, TemporaryFile::create(&dir.path().join("0"), Earlier::Replace).unwrap());
        let error = publish_folder(dir.path(), three).unwrap_err();
        assert!(format!("{error:#}").contains("a part of the files has been replaced"), "{error:#}");
        assert!(dir.path().join("0").exists() && !z.exists() && names() == 2, "{}", names());
    }
}
