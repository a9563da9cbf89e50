//! The content of one file, from the hub into the cache.
//!
//! ```text
//! lock the content's lock file
//! return if the content is there and its checksum is right
//! add up what `ETAG.incomplete` holds
//! until it has the announced length: ask for the rest, append it
//! compare the checksum; rename `ETAG.incomplete` to `ETAG`
//! ```
//!
//! If a content that an earlier download began is damaged, it is downloaded once more from its beginning.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::Uri;

use crate::Event;
use crate::api::{Remote, accepted};
use crate::cache::Repository;
use crate::checksum::{Checksum, Sum};
use crate::client::{Answer, Client, Failure, Patience, answer_error, pause, shown};
use crate::error::{HubError, quote};

/// Bytes beyond all that arrived before, after which earlier failures do not count any more.
const PROGRESS: u64 = 64 << 10;
/// How often a lock is tried.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// A conversation with the hub, and with the caller.
pub(crate) struct Talk<'a> {
    pub client: &'a Client,
    pub stop: &'a AtomicBool,
    pub report: &'a mut dyn FnMut(Event<'_>),
    /// Bytes of the model's files that are in the cache.
    pub received: u64,
}

/// Counts failed attempts, and pauses after each.
pub(crate) struct Attempts {
    failures: u32,
}

impl Attempts {
    pub fn new() -> Self {
        Self { failures: 0 }
    }

    /// Pauses, unless that was the last attempt, or one that need not be repeated.
    pub fn failed(&mut self, talk: &mut Talk<'_>, url: &Uri, failure: Failure) -> Result<(), HubError> {
        let (why, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { why, pause } => (why, pause),
        };
        let Patience { attempts, first_pause, longest_pause, .. } = *talk.client.patience();
        self.failures += 1;
        if self.failures >= attempts {
            return Err(HubError::Request { url: shown(url), why: format!("{why}, {attempts} times") });
        }
        let doubled = first_pause.saturating_mul(1 << (self.failures - 1).min(16)).min(longest_pause);
        let time = asked.unwrap_or(doubled);
        if time > longest_pause {
            let why = format!("{why}; the server asks to wait for {} s", time.as_secs());
            return Err(HubError::Request { url: shown(url), why });
        }
        (talk.report)(Event::Retrying { what: &shown(url), why: &why, pause: time });
        pause(time, talk.stop)
    }

    /// What failed before does not count any more.
    fn progressed(&mut self) {
        self.failures = 0;
    }
}

/// Tries a request until it succeeds or is given up.
pub(crate) fn persist<T>(
    talk: &mut Talk<'_>,
    url: &Uri,
    mut request: impl FnMut(&Talk<'_>) -> Result<T, Failure>,
) -> Result<T, HubError> {
    let mut attempts = Attempts::new();
    loop {
        match request(talk) {
            Ok(value) => return Ok(value),
            Err(failure) => attempts.failed(talk, url, failure)?,
        }
    }
}

/// Whether the content of a file is in the cache, by its length.
pub(crate) fn is_there(repository: &Repository, remote: &Remote) -> bool {
    let blob = fs::metadata(repository.blob(remote.checksum.hex()));
    blob.is_ok_and(|blob| blob.is_file() && blob.len() == remote.size)
}

/// Brings the content of a file into the cache, unless it is there, which its checksum tells. One that is damaged is
/// removed, and [`Talk::received`] becomes less by its length; else that is as before afterwards. Returns whether the
/// content was downloaded.
pub(crate) fn download(talk: &mut Talk<'_>, repository: &Repository, remote: &Remote) -> Result<bool, HubError> {
    let etag = remote.checksum.hex();
    let (blob, incomplete) = (repository.blob(etag), repository.incomplete(etag));
    create_parent(&blob)?;
    let _lock = lock(talk, &repository.lock(etag), &remote.file)?;
    if is_there(repository, remote) {
        (talk.report)(Event::Checking { file: &remote.file, bytes: remote.size });
        if checksum_of(&blob, remote, talk.stop)? == remote.checksum {
            return Ok(false);
        }
        (talk.report)(Event::Damaged { file: &remote.file });
        fs::remove_file(&blob).map_err(HubError::io(&blob, "remove"))?;
        talk.received = talk.received.saturating_sub(remote.size);
    }
    let mut part = Part::open(&incomplete, remote, talk)?;
    let mut is_resumed = part.length > 0;
    loop {
        let before = talk.received;
        part.complete(talk, remote)?;
        talk.received = before;
        let found = part.checksum(remote);
        if found == remote.checksum {
            break;
        }
        if !is_resumed {
            fs::remove_file(&incomplete).map_err(HubError::io(&incomplete, "remove"))?;
            return Err(damaged(remote, remote.checksum.to_string(), found.to_string()));
        }
        is_resumed = false;
        part.restart(remote)?;
    }
    part.file.sync_all().map_err(HubError::io(&incomplete, "write"))?;
    fs::rename(&incomplete, &blob).map_err(HubError::io(&blob, "rename the downloaded file to"))?;
    Ok(true)
}

/// The checksum of a content in the cache.
fn checksum_of(blob: &Path, remote: &Remote, stop: &AtomicBool) -> Result<Checksum, HubError> {
    let mut file = File::open(blob).map_err(HubError::io(blob, "open"))?;
    let mut sum = remote.checksum.begin(remote.size);
    each_piece(&mut file, blob, stop, |data| sum.add(data))?;
    Ok(sum.finish())
}

/// Reads a file to its end, unless the caller asks to stop.
fn each_piece(file: &mut File, path: &Path, stop: &AtomicBool, mut take: impl FnMut(&[u8])) -> Result<(), HubError> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        if stop.load(Ordering::SeqCst) {
            return Err(HubError::Stopped);
        }
        match file.read(&mut buffer).map_err(HubError::io(path, "read"))? {
            0 => return Ok(()),
            read => take(&buffer[..read]),
        }
    }
}

fn damaged(remote: &Remote, expected: String, found: String) -> HubError {
    HubError::Damaged { file: quote(&remote.file), expected, found }
}

pub(crate) fn create_parent(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(HubError::io(folder, "make the folder"))
}

/// Locks the lock file of a content, as other tools do. It is unlocked when the file is closed.
fn lock(talk: &mut Talk<'_>, path: &Path, file: &str) -> Result<File, HubError> {
    create_parent(path)?;
    let mut is_first = true;
    loop {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let opened = opened.map_err(HubError::io(path, "open"))?;
        match opened.try_lock() {
            // Other tools remove their lock files: the locked file must still be the one with this name.
            Ok(()) if is_same(&opened, path) => return Ok(opened),
            Ok(()) => continue,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(HubError::io(path, "lock")(error)),
        }
        if std::mem::take(&mut is_first) {
            (talk.report)(Event::Waiting { file });
        }
        pause(LOCK_POLL, talk.stop)?;
    }
}

#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().ok().map(id) == fs::metadata(path).ok().map(id)
}

#[cfg(not(unix))]
fn is_same(_: &File, _: &Path) -> bool {
    // An open file can't be removed.
    true
}

/// A content that is not complete.
struct Part<'a> {
    path: &'a Path,
    file: File,
    length: u64,
    sum: Sum,
}

impl<'a> Part<'a> {
    /// Opens what earlier downloads have left, and adds it up.
    fn open(path: &'a Path, remote: &Remote, talk: &Talk<'_>) -> Result<Self, HubError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(HubError::io(path, "open"))?;
        let mut part = Self { path, file, length: 0, sum: remote.checksum.begin(remote.size) };
        let there = part.file.metadata().map_err(HubError::io(path, "open"))?.len();
        if there > remote.size {
            part.restart(remote)?;
            return Ok(part);
        }
        let Self { file, length, sum, .. } = &mut part;
        each_piece(file, path, talk.stop, |data| {
            *length += data.len() as u64;
            sum.add(data);
        })?;
        Ok(part)
    }

    fn count(&mut self, data: &[u8]) {
        self.length += data.len() as u64;
        self.sum.add(data);
    }

    /// Forgets what is there.
    fn restart(&mut self, remote: &Remote) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::io(self.path, "shorten"))?;
        self.file.seek(SeekFrom::Start(0)).map_err(HubError::io(self.path, "shorten"))?;
        self.length = 0;
        self.sum = remote.checksum.begin(remote.size);
        Ok(())
    }

    /// The checksum of what was added up so far.
    fn checksum(&mut self, remote: &Remote) -> Checksum {
        std::mem::replace(&mut self.sum, remote.checksum.begin(remote.size)).finish()
    }

    /// Asks for what is missing until nothing is. What arrived stays, whatever the end.
    fn complete(&mut self, talk: &mut Talk<'_>, remote: &Remote) -> Result<(), HubError> {
        let before = talk.received;
        if self.length > 0 {
            (talk.report)(Event::Resuming { file: &remote.file, at: self.length });
        }
        let mut attempts = Attempts::new();
        let mut furthest = self.length;
        let mut has_restarted = false;
        while self.length < remote.size {
            let start = self.length;
            let result = self.request(talk, remote, before);
            // What arrives a second time, since a server sends no parts of files, is no progress. After one restart it
            // is: a server that sends parts again may go on from there.
            if self.length < start && !has_restarted {
                has_restarted = true;
                furthest = self.length;
            }
            if self.length >= furthest + PROGRESS {
                furthest = self.length;
                attempts.progressed();
            }
            let failure = match result {
                Ok(()) if self.length == remote.size => break,
                Ok(()) => Failure::passing(format!("the answer ended after {} of {} bytes", self.length, remote.size)),
                Err(failure) => failure,
            };
            attempts.failed(talk, &remote.url, failure)?;
        }
        Ok(())
    }

    /// One request for what is missing.
    fn request(&mut self, talk: &mut Talk<'_>, remote: &Remote, before: u64) -> Result<(), Failure> {
        let answer = talk.client.get(&remote.url, self.length, talk.stop)?;
        if answer.status.as_u16() == 416 {
            self.restart(remote)?;
            return Err(Failure::passing("HTTP 416: the server knows no such part of the file"));
        }
        let answer = accepted(talk.client, answer, &remote.file)?;
        self.place(&answer, remote)?;
        let stop = talk.stop;
        answer.read(stop, |data| {
            if self.length + data.len() as u64 > remote.size {
                self.restart(remote)?;
                let (expected, found) = (format!("{} bytes", remote.size), "more".to_owned());
                return Err(damaged(remote, expected, found).into());
            }
            self.file.write_all(data).map_err(HubError::io(self.path, "write"))?;
            self.count(data);
            talk.received = before + self.length;
            (talk.report)(Event::Received { bytes: talk.received });
            Ok(())
        })
    }

    /// Sees to it that the answer continues what is there.
    fn place(&mut self, answer: &Answer, remote: &Remote) -> Result<(), Failure> {
        match answer.status.as_u16() {
            200 => {
                if self.length > 0 {
                    self.restart(remote)?;
                }
            }
            206 => {
                let range = answer.text("content-range").unwrap_or_default();
                if range_start(range, remote.size) != Some(self.length) {
                    self.restart(remote)?;
                    return Err(Failure::passing("the server sent another part of the file than was asked for"));
                }
            }
            status => return Err(answer_error(&answer.url, &format!("HTTP {status} instead of the file")).into()),
        }
        let expected = remote.size - self.length;
        match answer.number("content-length") {
            Some(length) if length != expected => {
                let found = format!("{} bytes", self.length + length);
                Err(damaged(remote, format!("{} bytes", remote.size), found).into())
            }
            _ => Ok(()),
        }
    }
}

/// Where the part begins that `bytes START-END/SIZE` describes, if it is of a file of `size` bytes.
fn range_start(range: &str, size: u64) -> Option<u64> {
    let (part, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = part.split_once('-')?;
    let is_of_file = total == "*" || total.parse() == Ok(size);
    start.parse().ok().filter(|_| is_of_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (range, start) in [
            ("bytes 5-9/10", Some(5)),
            ("bytes 5-9/*", Some(5)),
            ("bytes 5-9/11", None),
            ("bytes */10", None),
            ("bytes -1-9/10", None),
            ("5-9/10", None),
            ("", None),
        ] {
            assert_eq!(range_start(range, 10), start, "{range}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_known_again_unless_another_took_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = File::create(&path).unwrap();
        assert!(is_same(&first, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_same(&first, &path));
        let _second = File::create(&path).unwrap();
        assert!(!is_same(&first, &path));
    }
}
