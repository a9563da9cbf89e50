//! The hub's paths: what a repository holds, and what a file of it is.

use std::fmt::Write;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Uri;

use crate::checksum::Checksum;
use crate::client::{Answer, Client, Failure, answer_error};
use crate::error::{HubError, quote};
use crate::name::{ModelName, check_file, is_commit};

/// The longest list of a repository's files, in bytes of JSON.
const MAX_LISTING_BYTES: usize = 16 << 20;
/// The most files of a repository.
const MAX_FILES: usize = 100_000;

/// The files of a repository at a commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// What the hub announces of a file.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    /// Its name in the repository.
    pub file: String,
    /// Where its content is.
    pub url: Uri,
    /// Bytes.
    pub size: u64,
    /// What its content adds up to.
    pub checksum: Checksum,
}

#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The address of the list of files.
pub(crate) fn listing_url(client: &Client, name: &ModelName) -> Result<Uri, HubError> {
    client.url(&format!("/api/models/{}/revision/{}", name.repository(), encoded(name.revision(), "")))
}

/// Asks for the files of a repository.
pub(crate) fn listing(client: &Client, name: &ModelName, url: &Uri, stop: &AtomicBool) -> Result<Listing, Failure> {
    let answer = accepted(client, client.get(url, 0, stop)?, &format!("{}@{}", name.repository(), name.revision()))?;
    let mut text = Vec::new();
    let url = answer.url.clone();
    answer.read(stop, |data| {
        if text.len() + data.len() > MAX_LISTING_BYTES {
            return Err(
                answer_error(&url, &format!("the list of files has more than {MAX_LISTING_BYTES} bytes")).into()
            );
        }
        text.extend_from_slice(data);
        Ok(())
    })?;
    let info: ModelInfo = serde_json::from_slice(&text)
        .map_err(|error| answer_error(&url, &format!("no list of files: {}", quote(&error.to_string()))))?;
    if !is_commit(&info.sha) {
        return Err(answer_error(&url, &format!("{} is no commit", quote(&info.sha))).into());
    }
    if info.siblings.len() > MAX_FILES {
        return Err(answer_error(&url, &format!("it lists more than {MAX_FILES} files")).into());
    }
    let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    for file in &files {
        check_file(file).map_err(|why| answer_error(&url, &format!("file name {}: {why}", quote(file))))?;
    }
    // A colon leads to other places on Windows, and no file of a model has one.
    let files = files.into_iter().filter(|file| !file.contains(':')).collect();
    Ok(Listing { commit: info.sha, files })
}

/// The address of a file at a commit.
pub(crate) fn file_url(client: &Client, name: &ModelName, commit: &str, file: &str) -> Result<Uri, HubError> {
    client.url(&format!("/{}/resolve/{commit}/{}", name.repository(), encoded(file, "/")))
}

/// Asks for length and checksum of a file.
pub(crate) fn describe(
    client: &Client,
    commit: &str,
    file: &str,
    url: &Uri,
    stop: &AtomicBool,
) -> Result<Remote, Failure> {
    let answer = accepted(client, client.head(url, stop)?, file)?;
    let wrong = |why: &str| Failure::from(answer_error(url, why));
    if answer.text("x-repo-commit").is_some_and(|of| of != commit) {
        return Err(wrong("the file is of another commit than the list of files"));
    }
    let etag = answer.text("x-linked-etag").or(answer.text("etag")).ok_or_else(|| wrong("it has no ETag"))?;
    let checksum = Checksum::of_etag(etag).ok_or_else(|| {
        wrong(&format!("the ETag {} is neither a SHA-256 nor the id of a git blob: nothing to check by", quote(etag)))
    })?;
    // The length of a redirect's own text is not that of the file.
    let length = if answer.status.is_success() { answer.number("content-length") } else { None };
    let size = answer.number("x-linked-size").or(length).ok_or_else(|| wrong("it has no length"))?;
    Ok(Remote { file: file.to_owned(), url: url.clone(), size, checksum })
}

/// The answer, if the server does what was asked. `what` was asked for.
pub(crate) fn accepted(client: &Client, answer: Answer, what: &str) -> Result<Answer, Failure> {
    let status = answer.status.as_u16();
    let code = answer.text("x-error-code").unwrap_or_default();
    let what = || quote(what);
    match status {
        // A redirect that was not followed describes a file on another server.
        200..=299 | 301 | 302 | 303 | 307 | 308 => Ok(answer),
        404 | 401 if status == 404 || code == "RepoNotFound" => {
            let may_be_private = !matches!(code, "RevisionNotFound" | "EntryNotFound");
            Err(HubError::NotFound { what: what(), host: client.host(), may_be_private }.into())
        }
        401 | 403 => Err(HubError::Denied {
            what: what(),
            host: client.host(),
            status,
            gated: code == "GatedRepo",
            with_token: client.has_token(),
        }
        .into()),
        408 | 425 | 429 | 500..=599 => {
            let pause = answer.number("retry-after").map(Duration::from_secs);
            Err(Failure::Passing { why: format!("HTTP {status}"), pause })
        }
        _ => Err(answer_error(&answer.url, &format!("HTTP {status}")).into()),
    }
}

/// A text percent-encoded for the path of an address; `kept` are further characters that stay.
fn encoded(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a `String` doesn't fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encoded("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b/c#d?%ü.gguf", "/"), "a%20b/c%23d%3F%25%C3%BC.gguf");
    }
}
