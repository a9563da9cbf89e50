//! Requests to the hub: one at a time, each with limits of time and size.
//!
//! A request runs on a thread of its own, which hands over the answer piece by piece. So the caller can stop at any
//! time, and a server that says nothing, or too little, is given up. Redirects are followed here: the token goes to the
//! hub only, and from `https` no redirect leads to `http`.

use std::fmt;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use ureq::{Agent, Proxy};

use crate::error::{HubError, quote};

/// The hub's own address.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// The longest header of an answer, in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Bytes read at a time.
const CHUNK: usize = 128 << 10;
/// Chunks that wait to be taken.
const WAITING_CHUNKS: usize = 8;
/// How often the caller's wish to stop is looked at.
const POLL: Duration = Duration::from_millis(50);

/// How to reach the hub.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// The hub's address: [`DEFAULT_ENDPOINT`], or that of a mirror.
    pub endpoint: String,
    /// The token that identifies the user, if any.
    pub token: Option<Token>,
    /// Whether to use a proxy.
    pub proxies: Proxies,
    /// How long to wait, and how often to try.
    pub patience: Patience,
}

/// A secret that identifies a user of the hub. It isn't printed.
#[derive(Clone)]
pub struct Token(HeaderValue);

/// Whether to use a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxies {
    /// The proxy that the environment names, as `ureq` reads it: `ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`.
    FromEnvironment,
    /// None.
    None,
}

/// How long to wait for a server, and how often to try.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    /// The longest time from a request to the end of the answer's header.
    pub answer: Duration,
    /// The time within which [`Patience::least_bytes`] of an answer must arrive.
    pub stall: Duration,
    /// Bytes that must arrive within [`Patience::stall`].
    pub least_bytes: u64,
    /// How often a request is tried without progress in between.
    pub attempts: u32,
    /// The pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause. A server that asks for a longer one is given up.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            least_bytes: 16 << 10,
            attempts: 5,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(120),
        }
    }
}

impl Token {
    /// A token.
    ///
    /// # Errors
    /// [`HubError::Setting`] for a text that can't be sent in a header.
    pub fn new(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Setting {
            what: "the token for the hub",
            why: "it must be of visible ASCII characters, without blanks".to_owned(),
        };
        if text.is_empty() || !text.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(wrong());
        }
        let mut value = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| wrong())?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Trying again would not help.
    Final(HubError),
    /// Trying again may help.
    Passing {
        /// What happened.
        why: String,
        /// The pause that the server asks for.
        pause: Option<Duration>,
    },
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    pub(crate) fn passing(why: impl Into<String>) -> Self {
        Self::Passing { why: why.into(), pause: None }
    }
}

/// A connection to the hub.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    endpoint: Uri,
    /// The path of the endpoint, without a `/` at its end.
    base: String,
    token: Option<Token>,
    patience: Patience,
    /// Whether a server has answered: then one that can't be reached is a failure that may pass.
    was_reached: AtomicBool,
}

impl Client {
    /// A connection; none is opened yet.
    ///
    /// # Errors
    /// [`HubError::Setting`] for an endpoint that is no address of a server.
    pub fn new(settings: HubSettings) -> Result<Self, HubError> {
        let wrong = |why: &str| HubError::Setting { what: "the hub's address", why: why.to_owned() };
        let endpoint: Uri = settings.endpoint.parse().map_err(|_| wrong("it must begin with https:// or http://"))?;
        let authority = endpoint.authority().ok_or_else(|| wrong("it must begin with https:// or http://"))?;
        if !matches!(endpoint.scheme_str(), Some("https" | "http")) {
            return Err(wrong("it must begin with https:// or http://"));
        }
        if authority.as_str().contains('@') || endpoint.query().is_some() {
            return Err(wrong("it must have no user and no query"));
        }
        let patience = settings.patience;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .https_only(endpoint.scheme_str() == Some("https"))
            .max_response_header_size(MAX_HEADER_BYTES)
            .user_agent(concat!("smallmind/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(patience.answer))
            .timeout_recv_response(Some(patience.answer))
            .timeout_per_read(Some(patience.stall));
        if settings.proxies == Proxies::None {
            config = config.proxy(None::<Proxy>);
        }
        let base = endpoint.path().trim_end_matches('/').to_owned();
        let (agent, token) = (config.build().new_agent(), settings.token);
        Ok(Self { agent, endpoint, base, token, patience, was_reached: AtomicBool::new(false) })
    }

    /// The server's name, for messages.
    pub(crate) fn host(&self) -> String {
        self.endpoint.host().unwrap_or_default().to_owned()
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// The address of a path on the hub. The path is percent-encoded already.
    pub(crate) fn url(&self, path: &str) -> Result<Uri, HubError> {
        let wrong = |_| HubError::Answer { url: quote(path), why: "this is no path on a server".to_owned() };
        let mut parts = self.endpoint.clone().into_parts();
        parts.path_and_query = Some(format!("{}{path}", self.base).parse().map_err(wrong)?);
        Uri::from_parts(parts)
            .map_err(|_| HubError::Answer { url: quote(path), why: "this is no path on a server".to_owned() })
    }

    /// Asks for the headers of `url`. Redirects to other servers are not followed: the hub's own headers describe the
    /// file.
    pub(crate) fn head(&self, url: &Uri, stop: &AtomicBool) -> Result<Answer, Failure> {
        self.follow(Method::HEAD, url, None, stop)
    }

    /// Asks for the content of `url`, from byte `from` on if that is not 0.
    pub(crate) fn get(&self, url: &Uri, from: u64, stop: &AtomicBool) -> Result<Answer, Failure> {
        self.follow(Method::GET, url, (from > 0).then(|| format!("bytes={from}-")), stop)
    }

    fn follow(&self, method: Method, url: &Uri, range: Option<String>, stop: &AtomicBool) -> Result<Answer, Failure> {
        let mut url = url.clone();
        let mut linked = HeaderMap::new();
        for _ in 0..=MAX_REDIRECTS {
            let mut answer = self.exchange(&method, &url, range.as_deref(), stop)?;
            let Some(target) = redirect_of(&answer, &url)? else {
                complete(&mut answer.headers, linked);
                return Ok(answer);
            };
            if method == Method::HEAD && !self.is_hub(&target) {
                complete(&mut answer.headers, linked);
                return Ok(answer);
            }
            if self.endpoint.scheme_str() == Some("https") && target.scheme_str() != Some("https") {
                return Err(answer_error(&url, "it redirects to an address without https").into());
            }
            linked.extend(
                answer
                    .headers
                    .into_iter()
                    .filter(|(name, _)| name.as_ref().is_some_and(|name| LINKED.contains(&name.as_str()))),
            );
            url = target;
        }
        Err(answer_error(&url, &format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    /// Whether an address is on the hub itself, which may see the token.
    fn is_hub(&self, url: &Uri) -> bool {
        url.scheme() == self.endpoint.scheme()
            && url.host().zip(self.endpoint.host()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
            && port(url) == port(&self.endpoint)
    }

    fn exchange(&self, method: &Method, url: &Uri, range: Option<&str>, stop: &AtomicBool) -> Result<Answer, Failure> {
        let mut request = Request::builder().method(method).uri(url);
        // A compressed content would have another length, and would be another content.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        if let Some(Token(token)) = self.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.header(header::AUTHORIZATION, token);
        }
        let request = request.body(()).map_err(|error| answer_error(url, &error.to_string()))?;
        let (sender, receiver) = sync_channel(WAITING_CHUNKS);
        let agent = self.agent.clone();
        let spawned =
            std::thread::Builder::new().name("hub".to_owned()).spawn(move || exchange(&agent, request, &sender));
        spawned.map_err(|error| Failure::passing(format!("no thread for a request: {error}")))?;
        let mut pieces = Pieces { receiver, deadline: Instant::now() + self.patience.answer };
        match pieces.next(stop, "the server did not answer in time")? {
            Some(Piece::Header { status, headers }) => {
                self.was_reached.store(true, Ordering::Relaxed);
                Ok(Answer { url: url.clone(), status, headers, pieces, patience: self.patience })
            }
            Some(Piece::Failed { why, kind: FailureKind::Unreachable })
                if !self.was_reached.load(Ordering::Relaxed) =>
            {
                let proxy = self.agent.config().proxy();
                let proxy = proxy.map(|proxy| format!(", by way of the proxy {}:{}", proxy.host(), proxy.port()));
                let (host, why) = (url.host().unwrap_or_default().to_owned(), why + &proxy.unwrap_or_default());
                Err(HubError::NoConnection { host, why }.into())
            }
            Some(Piece::Failed { why, kind: FailureKind::Final }) => {
                Err(HubError::Request { url: shown(url), why }.into())
            }
            Some(Piece::Failed { why, .. }) => Err(Failure::passing(why)),
            _ => Err(Failure::passing("the connection ended before the answer")),
        }
    }
}

/// The headers of the hub that describe the file behind a redirect.
const LINKED: [&str; 4] = ["x-repo-commit", "x-linked-etag", "x-linked-size", "x-error-code"];

/// Adds headers of earlier answers that `headers` doesn't have.
fn complete(headers: &mut HeaderMap, earlier: HeaderMap) {
    for (name, value) in earlier {
        if let Some(name) = name {
            headers.entry(name).or_insert(value);
        }
    }
}

fn port(url: &Uri) -> Option<u16> {
    url.port_u16().or(match url.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    })
}

/// An error about an answer, with the address without its query: that may hold a signature.
pub(crate) fn answer_error(url: &Uri, why: &str) -> HubError {
    HubError::Answer { url: shown(url), why: why.to_owned() }
}

/// The address without its query.
pub(crate) fn shown(url: &Uri) -> String {
    let (scheme, authority) = (url.scheme_str().unwrap_or_default(), url.authority().map_or("", |a| a.as_str()));
    quote(&format!("{scheme}://{authority}{}", url.path()))
}

/// Where an answer redirects to.
fn redirect_of(answer: &Answer, url: &Uri) -> Result<Option<Uri>, HubError> {
    if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let wrong = || answer_error(url, "it redirects to something that is no address");
    let target = answer.text(header::LOCATION.as_str()).ok_or_else(wrong)?;
    let scheme = url.scheme_str().unwrap_or_default();
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let absolute = if target.starts_with("//") {
        format!("{scheme}:{target}")
    } else if target.starts_with('/') {
        format!("{scheme}://{authority}{target}")
    } else {
        target.to_owned()
    };
    let target: Uri = absolute.parse().map_err(|_| wrong())?;
    let is_web = matches!(target.scheme_str(), Some("http" | "https")) && target.host().is_some();
    if is_web { Ok(Some(target)) } else { Err(wrong()) }
}

/// A piece of an answer.
enum Piece {
    Header { status: StatusCode, headers: HeaderMap },
    Data(Vec<u8>),
    End,
    Failed { why: String, kind: FailureKind },
}

/// What a failure of a request means for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    /// It may succeed.
    Passing,
    /// It would fail again.
    Final,
    /// The server's name is not found, or nothing listens at its address. Where a server was reached before, that may
    /// pass.
    Unreachable,
}

/// What a failed request means, and why it failed. It would fail again if the server has no certificate that can be
/// trusted, or speaks no TLS, or the proxy's address is wrong.
fn failed(error: &ureq::Error) -> Piece {
    use std::io::ErrorKind::{ConnectionRefused, InvalidData};
    use ureq::Error::{BadUri, HostNotFound, InvalidProxyUrl, Io, Rustls, Tls};
    // The standard library has no kind of its own for this.
    let is_lookup = |error: &std::io::Error| error.to_string().starts_with("failed to lookup address");
    let named = |why: &str, kind| Piece::Failed { why: why.to_owned(), kind };
    match error {
        HostNotFound => named("name not found", FailureKind::Unreachable),
        Io(error) if is_lookup(error) => named("name not found", FailureKind::Unreachable),
        Io(error) if error.kind() == ConnectionRefused => named("connection refused", FailureKind::Unreachable),
        Io(error) if error.kind() == InvalidData => named(&error.to_string(), FailureKind::Final),
        Tls(_) | Rustls(_) | InvalidProxyUrl | BadUri(_) => named(&error.to_string(), FailureKind::Final),
        other => named(&other.to_string(), FailureKind::Passing),
    }
}

/// Runs a request and hands over its answer. Ends when nobody takes it any more.
fn exchange(agent: &Agent, request: Request<()>, sender: &SyncSender<Piece>) {
    let response = match agent.run(request) {
        Ok(response) => response,
        Err(error) => {
            let _ = sender.send(failed(&error));
            return;
        }
    };
    let (parts, body) = response.into_parts();
    if sender.send(Piece::Header { status: parts.status, headers: parts.headers }).is_err() {
        return;
    }
    let mut reader = body.into_reader();
    let mut buffer = vec![0; CHUNK];
    loop {
        let piece = match reader.read(&mut buffer) {
            Ok(0) => Piece::End,
            Ok(read) => Piece::Data(buffer[..read].to_vec()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Piece::Failed { why: error.to_string(), kind: FailureKind::Passing },
        };
        let is_last = !matches!(piece, Piece::Data(_));
        if sender.send(piece).is_err() || is_last {
            return;
        }
    }
}

/// The pieces of an answer, as they come.
struct Pieces {
    receiver: Receiver<Piece>,
    deadline: Instant,
}

impl Pieces {
    /// The next piece, or none if the other side has ended.
    fn next(&mut self, stop: &AtomicBool, late: &str) -> Result<Option<Piece>, Failure> {
        loop {
            if stop.load(Ordering::SeqCst) {
                return Err(HubError::Stopped.into());
            }
            match self.receiver.recv_timeout(POLL) {
                Ok(piece) => return Ok(Some(piece)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= self.deadline => {
                    return Err(Failure::passing(late));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// An answer whose header has arrived.
pub(crate) struct Answer {
    pub url: Uri,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pieces: Pieces,
    patience: Patience,
}

impl Answer {
    /// A header as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A header as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name).and_then(|text| text.trim().parse().ok())
    }

    /// Hands the content to `take`, piece by piece. The connection is given up if `take` fails, if the caller asks to
    /// stop, and if too little arrives.
    pub fn read(
        mut self,
        stop: &AtomicBool,
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut in_time = 0;
        self.pieces.deadline = Instant::now() + self.patience.stall;
        loop {
            match self.pieces.next(stop, "the server sends too slowly, or nothing more")? {
                Some(Piece::Data(data)) => {
                    take(&data)?;
                    in_time += data.len() as u64;
                }
                Some(Piece::End) => return Ok(()),
                Some(Piece::Failed { why, .. }) => return Err(Failure::passing(why)),
                Some(Piece::Header { .. }) | None => return Err(Failure::passing("the connection ended")),
            }
            if in_time >= self.patience.least_bytes {
                in_time = 0;
                self.pieces.deadline = Instant::now() + self.patience.stall;
            } else if Instant::now() >= self.pieces.deadline {
                return Err(Failure::passing("the server sends too slowly"));
            }
        }
    }
}

/// Sleeps, unless the caller asks to stop.
pub(crate) fn pause(time: Duration, stop: &AtomicBool) -> Result<(), HubError> {
    let end = Instant::now() + time;
    loop {
        if stop.load(Ordering::SeqCst) {
            return Err(HubError::Stopped);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL));
    }
}
