//! Downloads from a hub on loopback, good and bad.

mod hostile;
mod interrupted;
mod loopback;
mod whole;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::{Caches, Client, HubError, HubSettings, ModelName, Patience, Proxies, Pulled, Token, pull};
use loopback::{COMMIT, LoopbackHub, Served};

/// A cache in a temporary folder, and a hub.
struct Place {
    dir: tempfile::TempDir,
    hub: LoopbackHub,
    patience: Patience,
}

/// Short times, so that what is late is late soon.
const IMPATIENT: Patience = Patience {
    answer: Duration::from_millis(500),
    stall: Duration::from_millis(500),
    least_bytes: 16 << 10,
    attempts: 2,
    first_pause: Duration::ZERO,
    longest_pause: Duration::from_secs(2),
};

impl Place {
    fn new(files: Vec<Served>) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), hub: LoopbackHub::start(files), patience: IMPATIENT }
    }

    fn caches(&self) -> Caches {
        Caches { hugging_face: self.dir.path().join("hub"), llama_cpp: self.dir.path().join("llama.cpp") }
    }

    fn client(&self) -> Client {
        let settings = HubSettings {
            endpoint: self.hub.endpoint.clone(),
            token: Some(Token::new("secret").unwrap()),
            proxies: Proxies::None,
            patience: self.patience,
        };
        Client::new(settings).unwrap()
    }

    fn pull(&self, name: &str) -> Result<Pulled, HubError> {
        self.pull_until(name, &AtomicBool::new(false))
    }

    fn pull_until(&self, name: &str, stop: &AtomicBool) -> Result<Pulled, HubError> {
        pull(&self.client(), &self.caches().hugging_face, &name.parse().unwrap(), stop, &mut |_| ())
    }

    fn find(&self, name: &str) -> Result<PathBuf, HubError> {
        self.caches().find(&name.parse::<ModelName>().unwrap())
    }

    fn repository(&self) -> PathBuf {
        self.caches().hugging_face.join("models--owner--name")
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.repository().join("blobs").join(etag)
    }

    fn link(&self, file: &str) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT).join(file)
    }

    fn reference(&self) -> PathBuf {
        self.repository().join("refs/main")
    }

    /// No file of that content can be found under a final name.
    fn assert_absent(&self, file: &Served) {
        assert!(!self.blob(&file.etag).exists() && !self.link(&file.name).exists());
        assert!(!self.reference().exists());
        assert!(self.find("hf:owner/name").is_err());
    }
}

/// Bytes that look random, the same for the same seed.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..length).map(|_| random.below(256) as u8).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    fs::read(path).unwrap()
}
