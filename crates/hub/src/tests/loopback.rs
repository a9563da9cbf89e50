//! A hub on loopback that speaks the hub's paths, with a second port as the servers that it redirects to. It can be
//! told to misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The only repository, and its commit.
pub const REPOSITORY: &str = "owner/name";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of the repository.
#[derive(Clone, Debug)]
pub struct Served {
    pub name: String,
    pub content: Vec<u8>,
    /// Whether the hub stores it in LFS and redirects to it.
    pub is_large: bool,
    /// What the hub announces.
    pub etag: String,
    pub size: u64,
}

impl Served {
    /// A file that the hub holds itself.
    pub fn small(name: &str, content: impl Into<Vec<u8>>) -> Self {
        let content = content.into();
        let sum = Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(&content).finalize();
        Self { name: name.to_owned(), etag: hex(&sum), size: content.len() as u64, is_large: false, content }
    }

    /// A file that the hub redirects to.
    pub fn large(name: &str, content: impl Into<Vec<u8>>) -> Self {
        let content = content.into();
        let etag = hex(&Sha256::digest(&content));
        Self { name: name.to_owned(), etag, size: content.len() as u64, is_large: true, content }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whether it came to the second port.
    pub is_second: bool,
    pub method: String,
    pub path: String,
    pub token: Option<String>,
    pub range: Option<String>,
}

/// How a server misbehaves.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Closes the connection after so many bytes of the answer's content.
    Cut(usize),
    /// Sends these bytes and closes.
    Raw(Vec<u8>),
    /// Sends these bytes again and again.
    Endless(Vec<u8>, Vec<u8>),
    /// Sends the right answer, its content in pieces with a pause after each.
    Slow(usize, Duration),
    /// Sends nothing.
    Silent,
}

impl Fault {
    /// An answer without content.
    pub fn status(status: u16, headers: &str) -> Self {
        Self::Raw(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n").into())
    }
}

type Faults = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;

struct State {
    files: Mutex<Vec<Served>>,
    seen: Mutex<Vec<Seen>>,
    faults: Mutex<Faults>,
    second: String,
}

/// The server. Its threads end with the process.
pub struct LoopbackHub {
    pub endpoint: String,
    state: Arc<State>,
}

impl LoopbackHub {
    pub fn start(files: Vec<Served>) -> Self {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let endpoint = url(&first);
        let state = State {
            files: Mutex::new(files),
            seen: Mutex::default(),
            faults: Mutex::new(Box::new(|_| None)),
            second: url(&second),
        };
        let state = Arc::new(state);
        for (listener, is_second) in [(first, false), (second, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    // A client that goes away is no failure of the server.
                    std::thread::spawn(move || answer(&state, stream, is_second).ok());
                }
            });
        }
        Self { endpoint, state }
    }

    /// Asks `faults` for each request how to misbehave.
    pub fn misbehave(&self, faults: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) {
        *self.state.faults.lock().unwrap() = Box::new(faults);
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }
}

fn answer(state: &State, mut stream: TcpStream, is_second: bool) -> std::io::Result<()> {
    let Some(seen) = read_request(&stream, is_second)? else { return Ok(()) };
    state.seen.lock().unwrap().push(seen.clone());
    let fault = (state.faults.lock().unwrap())(&seen);
    let (header, content) = match fault {
        Some(Fault::Raw(bytes)) => return stream.write_all(&bytes),
        Some(Fault::Endless(start, again)) => {
            stream.write_all(&start)?;
            loop {
                stream.write_all(&again)?;
            }
        }
        Some(Fault::Silent) => {
            // Until the client goes.
            let mut byte = [0];
            return stream.read(&mut byte).map(drop);
        }
        _ => right_answer(state, &seen),
    };
    let content = if seen.method == "HEAD" { vec![] } else { content };
    stream.write_all(header.as_bytes())?;
    match fault {
        Some(Fault::Cut(bytes)) => stream.write_all(&content[..bytes.min(content.len())]),
        Some(Fault::Slow(piece, pause)) => content.chunks(piece).try_for_each(|piece| {
            std::thread::sleep(pause);
            stream.write_all(piece)
        }),
        _ => stream.write_all(&content),
    }
}

fn read_request(stream: &TcpStream, is_second: bool) -> std::io::Result<Option<Seen>> {
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut seen = Seen { is_second, method, path, token: None, range: None };
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => seen.token = Some(value.to_owned()),
            "range" => seen.range = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(Some(seen))
}

fn right_answer(state: &State, seen: &Seen) -> (String, Vec<u8>) {
    let files = state.files.lock().unwrap();
    let path = seen.path.split('?').next().unwrap();
    let plain = |status: &str, headers: String, content: Vec<u8>| {
        let length = content.len();
        (format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"), content)
    };
    if seen.is_second {
        let found = files.iter().find(|file| path == format!("/blobs/{}", file.etag));
        return match found {
            Some(file) => part(file, seen.range.as_deref()),
            None => plain("404 Not Found", String::new(), vec![]),
        };
    }
    if path.starts_with(&format!("/api/models/{REPOSITORY}/revision/")) {
        let siblings: Vec<_> = files.iter().map(|file| serde_json::json!({ "rfilename": file.name })).collect();
        let text = serde_json::json!({ "id": REPOSITORY, "sha": COMMIT, "siblings": siblings }).to_string();
        return plain("200 OK", "Content-Type: application/json\r\n".to_owned(), text.into());
    }
    let name = path.strip_prefix(&format!("/{REPOSITORY}/resolve/{COMMIT}/"));
    let Some(file) = files.iter().find(|file| Some(file.name.as_str()) == name) else {
        let code = if path.contains(&format!("/{REPOSITORY}/")) { "EntryNotFound" } else { "RepoNotFound" };
        return plain("404 Not Found", format!("X-Error-Code: {code}\r\n"), vec![]);
    };
    if file.is_large {
        let headers = format!(
            "Location: {}/blobs/{}?signature=x\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{}\"\r\nX-Linked-Size: {}\r\n",
            state.second, file.etag, file.etag, file.size
        );
        return plain("302 Found", headers, b"elsewhere".to_vec());
    }
    let (header, content) = part(file, seen.range.as_deref());
    let headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{}\"\r\n\r\n", file.etag);
    (header.replacen("\r\n\r\n", &format!("\r\n{headers}"), 1), content)
}

/// A file, or the part of it that a range asks for.
fn part(file: &Served, range: Option<&str>) -> (String, Vec<u8>) {
    let length = file.content.len();
    let start: usize =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    if range.is_some() && start >= length {
        let header = format!(
            "HTTP/1.1 416 x\r\nContent-Range: bytes */{length}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return (header, vec![]);
    }
    let status = match range {
        Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{length}", length - 1),
        None => "200 OK".to_owned(),
    };
    let content = file.content[start..].to_vec();
    (format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len()), content)
}
