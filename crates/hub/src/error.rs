//! What can go wrong with a name, a cache or a download, as values.
//!
//! Text that comes from a server or a file is quoted and shortened before it is shown.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model was not found in the caches, or could not be downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A text is no name of a model.
    #[error("{}: no name of a model: {why}", quote(text))]
    Name {
        /// The text.
        text: String,
        /// What is expected.
        why: String,
    },
    /// The model is in none of the caches.
    #[error("{name} is not on this machine; looked in {}", list_paths(searched))]
    Absent {
        /// The model's name.
        name: String,
        /// The folders where it would be.
        searched: Vec<PathBuf>,
    },
    /// Some of the model's files are not there.
    #[error("{name} is incomplete: {}: {missing} is missing", path.display())]
    Incomplete {
        /// The model's name.
        name: String,
        /// The folder of its files.
        path: PathBuf,
        /// The first file that is missing.
        missing: String,
    },
    /// A repository has no model, or several, for the name.
    #[error("{name}: {fault}")]
    Selection {
        /// The model's name.
        name: String,
        /// Why no model could be selected.
        fault: SelectionFault,
    },
    /// The operating system refused an operation.
    #[error("{path}: could not {action}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A setting of the connection can't be used.
    #[error("{what}: {why}")]
    Setting {
        /// Which setting; never its value if that is secret.
        what: &'static str,
        /// What is expected.
        why: String,
    },
    /// There is no such repository, revision or file on the hub.
    #[error("{what} is not on {host}{}", if *may_be_private { ", or is private" } else { "" })]
    NotFound {
        /// What was asked for.
        what: String,
        /// The server.
        host: String,
        /// Whether it may be there for users with another token.
        may_be_private: bool,
    },
    /// The hub does not give the file without a token that may read it.
    #[error(
        "{host} refuses {what} (HTTP {status}){}", if *gated { ": its owner asks to accept terms first" } else { "" }
    )]
    Denied {
        /// What was asked for.
        what: String,
        /// The server.
        host: String,
        /// 401 or 403.
        status: u16,
        /// Whether the owner of the repository grants access on request only.
        gated: bool,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The server can't be reached.
    #[error("no connection to {host}: {why}")]
    NoConnection {
        /// The server.
        host: String,
        /// The reason.
        why: String,
    },
    /// A request failed in a way that trying again did not help.
    #[error("{url}: {why}")]
    Request {
        /// The address, without its query.
        url: String,
        /// What happened.
        why: String,
    },
    /// The server's answer is not what the hub would send.
    #[error("{url}: {why}")]
    Answer {
        /// The address, without its query.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// A downloaded file is not the one that the hub announced.
    #[error("{file}: the downloaded file has {found}, the hub announced {expected}; it was not kept")]
    Damaged {
        /// The file's name in the repository.
        file: String,
        /// The announced length or checksum.
        expected: String,
        /// That of the downloaded file.
        found: String,
    },
    /// The disk has not enough room.
    #[error("{path}: {} are needed, {} are free on this disk", size(*needed), size(*free))]
    Space {
        /// The folder of the cache.
        path: PathBuf,
        /// Bytes still to download.
        needed: u64,
        /// Bytes that this user may write.
        free: u64,
    },
    /// The caller asked to stop. What was downloaded so far stays and is continued by the next download.
    #[error("stopped")]
    Stopped,
}

/// Why no model of a repository could be selected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionFault {
    /// There are neither safetensors nor GGUF files.
    #[error("there are no .safetensors and no .gguf files{}", found(.0))]
    NoWeights(Vec<String>),
    /// There is no GGUF file of that name or format.
    #[error("there is no .gguf file {}{}", quote(.0), choices(.1))]
    NoSuch(String, Vec<String>),
    /// Several GGUF files would do.
    #[error("several .gguf files would do; name one{}", choices(.0))]
    Several(Vec<String>),
    /// There are safetensors, but not under the names that weights have.
    #[error("the weights are not in model.safetensors or the files of model.safetensors.index.json{}", found(.0))]
    OtherWeights(Vec<String>),
    /// A GGUF file in more parts than any model has.
    #[error("the model is in {parts} parts; at most {max} are downloaded")]
    TooManyParts {
        /// How many there are.
        parts: usize,
        /// The limit.
        max: usize,
    },
    /// A file that belongs to the model is missing: a part of several, or the configuration.
    #[error("{} is missing", quote(.0))]
    MissingPart(String),
}

impl HubError {
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_path_buf(), action, source }
    }
}

/// Most names that a message lists.
const LISTED: usize = 30;

fn choices(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; there are: {}", list(names)) }
}

fn found(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; there are only: {}", list(names)) }
}

fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| quote(name)).collect();
    let more = if names.len() > LISTED { format!(" and {} more", names.len() - LISTED) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn list_paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
}

fn size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    let mib = bytes as f64 / MIB as f64;
    if bytes < 1024 * MIB { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

/// A text from elsewhere, with control characters escaped and shortened.
pub(crate) fn quote(text: &str) -> String {
    const SHOWN: usize = 120;
    let escaped: String = text.chars().take(SHOWN).collect::<String>().escape_debug().collect();
    if text.chars().nth(SHOWN).is_some() { format!("{escaped}…") } else { escaped }
}
