//! A whole model, from the hub into the cache.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::api::{self, Remote};
use crate::cache::{MAX_INDEX_BYTES, MAX_SHARDS, Repository, shards};
use crate::client::{Client, answer_error};
use crate::download::{Talk, create_parent, download, is_there, persist};
use crate::error::{HubError, SelectionFault};
use crate::name::{ModelName, is_commit};
use crate::select::{INDEX_FILE, Selection, select};

/// What happens during a download.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The files are known.
    Planned {
        /// The commit that they are of.
        commit: &'a str,
        /// How many there are.
        files: usize,
        /// Bytes of all of them.
        bytes: u64,
        /// Bytes of those that are in the cache.
        present: u64,
    },
    /// Another process downloads this file; it is waited for.
    Waiting {
        /// The file's name.
        file: &'a str,
    },
    /// An earlier download of a file is continued.
    Resuming {
        /// The file's name.
        file: &'a str,
        /// Bytes that are there.
        at: u64,
    },
    /// A content that is in the cache is read, to compare its checksum.
    Checking {
        /// The file's name.
        file: &'a str,
        /// Its bytes.
        bytes: u64,
    },
    /// A content that was in the cache is not that of the file: it is downloaded again.
    Damaged {
        /// The file's name.
        file: &'a str,
    },
    /// Bytes have arrived.
    Received {
        /// Bytes of all files that are in the cache now.
        bytes: u64,
    },
    /// A request failed and is repeated after a pause.
    Retrying {
        /// The address.
        what: &'a str,
        /// What happened.
        why: &'a str,
        /// The pause.
        pause: Duration,
    },
    /// A file is complete and verified.
    Completed {
        /// The file's name.
        file: &'a str,
        /// Its bytes.
        bytes: u64,
    },
}

/// A model that was downloaded, or was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Its folder, or its GGUF file (the first one of several).
    pub path: PathBuf,
    /// The commit that it is of.
    pub commit: String,
    /// How many files it has.
    pub files: usize,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// Downloads a model into a cache of Hugging Face's tools. What is there is not downloaded again, and what an
/// interrupted download has left is continued. `stop` is looked at all the time.
///
/// The branch or tag leads to the new files only when they are all there and verified.
///
/// # Errors
/// [`HubError::Name`] for a name without an owner, before anything is asked. See [`HubError`]. Files that are complete
/// stay in the cache, and so do the beginnings of others.
pub fn pull(
    client: &Client,
    cache: &Path,
    name: &ModelName,
    stop: &AtomicBool,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Pulled, HubError> {
    if !name.repository().contains('/') {
        let why = "the owner is missing: a model to download is named hf:OWNER/NAME".to_owned();
        return Err(HubError::Name { text: name.to_string(), why });
    }
    let mut talk = Talk { client, stop, report, received: 0 };
    let url = api::listing_url(client, name)?;
    let listing = persist(&mut talk, &url, |talk| api::listing(talk.client, name, &url, talk.stop))?;
    let repository = Repository::new(cache, name.repository());
    let mut plan = Plan { name, commit: &listing.commit, repository: &repository, files: vec![], verified: None };
    let fault = |fault| HubError::Selection { name: name.to_string(), fault };
    let path = match select(&listing.files, name.choice()).map_err(fault)? {
        Selection::Gguf(parts) => {
            if parts.len() > MAX_SHARDS {
                return Err(fault(SelectionFault::TooManyParts { parts: parts.len(), max: MAX_SHARDS }));
            }
            let path = plan.link(&parts[0]);
            plan.describe(&mut talk, parts)?;
            path
        }
        Selection::Folder { companions, weights } => {
            let is_index = weights == INDEX_FILE;
            plan.describe(&mut talk, companions.into_iter().chain([weights]))?;
            if is_index {
                plan.add_shards(&mut talk, &listing.files)?;
            }
            repository.snapshot(&listing.commit)
        }
    };
    plan.fetch(&mut talk)?;
    if !is_commit(name.revision()) {
        write_reference(&repository.reference(name.revision()), &listing.commit)?;
    }
    Ok(Pulled { path, files: plan.files.len(), bytes: plan.bytes(), commit: listing.commit })
}

/// The files to download.
struct Plan<'a> {
    name: &'a ModelName,
    commit: &'a str,
    repository: &'a Repository,
    files: Vec<Remote>,
    /// The place among the files of the index of weights, whose content is in the cache and has been compared.
    verified: Option<usize>,
}

impl Plan<'_> {
    fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, remote| sum.saturating_add(remote.size))
    }

    /// Where a file appears in the cache.
    fn link(&self, file: &str) -> PathBuf {
        self.repository.snapshot(self.commit).join(file)
    }

    /// Asks the hub what the files are.
    fn describe(&mut self, talk: &mut Talk<'_>, files: impl IntoIterator<Item = String>) -> Result<(), HubError> {
        for file in files {
            let url = api::file_url(talk.client, self.name, self.commit, &file)?;
            let describe = |talk: &Talk<'_>| api::describe(talk.client, self.commit, &file, &url, talk.stop);
            let remote = persist(talk, &url, describe)?;
            self.files.push(remote);
        }
        Ok(())
    }

    /// Downloads the index of weights, the last file of the plan, and adds the files that it names.
    fn add_shards(&mut self, talk: &mut Talk<'_>, there: &[String]) -> Result<(), HubError> {
        let Some(index) = self.files.last() else { return Ok(()) };
        if index.size > MAX_INDEX_BYTES {
            return Err(answer_error(&index.url, &format!("the index has more than {MAX_INDEX_BYTES} bytes")));
        }
        download(talk, self.repository, index)?;
        self.verified = Some(self.files.len() - 1);
        let names = shards(&self.repository.blob(index.checksum.hex()))?;
        if let Some(missing) = names.iter().find(|name| !there.contains(name)) {
            let fault = SelectionFault::MissingPart(missing.clone());
            return Err(HubError::Selection { name: self.name.to_string(), fault });
        }
        self.describe(talk, names)
    }

    /// Downloads all files.
    fn fetch(&self, talk: &mut Talk<'_>) -> Result<(), HubError> {
        let there: Vec<bool> = self.files.iter().map(|remote| is_there(self.repository, remote)).collect();
        let of_there = self.files.iter().zip(&there).filter(|(_, is_there)| **is_there);
        let present = of_there.fold(0, |sum: u64, (remote, _)| sum.saturating_add(remote.size));
        let bytes = self.bytes();
        (talk.report)(Event::Planned { commit: self.commit, files: self.files.len(), bytes, present });
        self.check_space(bytes.saturating_sub(present))?;
        talk.received = present;
        for (at, (remote, was_there)) in self.files.iter().zip(there).enumerate() {
            let is_new = self.verified != Some(at) && download(talk, self.repository, remote)?;
            let path = self.link(&remote.file);
            publish(&path, remote, &self.repository.blob(remote.checksum.hex()), link)?;
            talk.received += if was_there && !is_new { 0 } else { remote.size };
            (talk.report)(Event::Received { bytes: talk.received });
            (talk.report)(Event::Completed { file: &remote.file, bytes: remote.size });
        }
        Ok(())
    }

    /// Checks that the disk has room. What incomplete files hold is counted as free.
    fn check_space(&self, needed: u64) -> Result<(), HubError> {
        let begun = |remote: &Remote| fs::metadata(self.repository.incomplete(remote.checksum.hex()));
        let begun =
            self.files.iter().filter_map(|remote| begun(remote).ok()).fold(0, |sum: u64, file| sum + file.len());
        let needed = needed.saturating_sub(begun);
        let there = self.repository.dir.ancestors().find(|folder| folder.is_dir());
        match there.and_then(free_space) {
            Some(free) if free < needed => Err(HubError::Space { path: self.repository.dir.clone(), needed, free }),
            _ => Ok(()),
        }
    }
}

/// Makes a complete content appear as a file of its commit: as a link, or where `link` fails as a copy.
fn publish(
    path: &Path,
    remote: &Remote,
    blob: &Path,
    link: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<(), HubError> {
    create_parent(path)?;
    let etag = remote.checksum.hex();
    let depth = remote.file.matches('/').count();
    let target = PathBuf::from(format!("../../{}blobs/{etag}", "../".repeat(depth)));
    if fs::read_link(path).is_ok_and(|there| there == target) {
        return Ok(());
    }
    // The process's number keeps two downloads apart.
    let temporary = path.with_file_name(format!(".{etag}.{}.tmp", std::process::id()));
    if link(&target, &temporary).is_err() {
        fs::copy(blob, &temporary).map_err(HubError::io(path, "copy the downloaded file to"))?;
    }
    fs::rename(&temporary, path).map_err(HubError::io(path, "make"))
}

#[cfg(unix)]
fn link(target: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

#[cfg(windows)]
fn link(target: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, at)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Bytes that this user may still write to the disk of a folder, where the system says so.
#[cfg(unix)]
fn free_space(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free_space(_: &Path) -> Option<u64> {
    None
}

/// Lets a branch or tag lead to a commit.
fn write_reference(path: &Path, commit: &str) -> Result<(), HubError> {
    create_parent(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(commit.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(HubError::io(path, "write"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Checksum;

    /// Where links are impossible, files are copied.
    #[test]
    fn a_copy_takes_the_place_of_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, blob) = (dir.path().join("snapshots/c/sub/a.json"), dir.path().join("blob"));
        fs::write(&blob, "content").unwrap();
        let checksum = Checksum::of_etag(&"a".repeat(40)).unwrap();
        let url = "http://h/".parse().unwrap();
        let remote = Remote { file: "sub/a.json".to_owned(), url, size: 7, checksum };
        for earlier in [None, Some("an earlier content")] {
            if let Some(text) = earlier {
                fs::write(&path, text).unwrap();
            }
            publish(&path, &remote, &blob, |_, _| Err(io::ErrorKind::PermissionDenied.into())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "content");
            assert!(!path.is_symlink());
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        }
    }
}
