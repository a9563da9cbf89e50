//! What the content of a file adds up to, as the hub states it in a file's ETag.

use std::fmt;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::name::is_hex;

/// A checksum of a file's content, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256, of files that the hub stores in LFS.
    Sha256(String),
    /// The id of the file's blob in git: SHA-1 of `blob LENGTH\0` and the content.
    GitBlob(String),
}

impl Checksum {
    /// The checksum in an ETag: `"…"` or `W/"…"`.
    pub fn of_etag(etag: &str) -> Option<Self> {
        let text = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        match text.len() {
            64 if is_hex(text) => Some(Self::Sha256(text.to_owned())),
            40 if is_hex(text) => Some(Self::GitBlob(text.to_owned())),
            _ => None,
        }
    }

    /// The checksum in hexadecimal: the name of the content in the cache.
    pub fn hex(&self) -> &str {
        let (Self::Sha256(hex) | Self::GitBlob(hex)) = self;
        hex
    }

    /// Begins to add up a content of `size` bytes.
    pub fn begin(&self, size: u64) -> Sum {
        match self {
            Self::Sha256(_) => Sum::Sha256(Sha256::new()),
            Self::GitBlob(_) => Sum::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitBlob(_) => "the git blob id",
        };
        write!(f, "{name} {}", self.hex())
    }
}

/// A content that is being added up.
pub(crate) enum Sum {
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Sum {
    pub fn add(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(data),
            Self::GitBlob(sum) => sum.update(data),
        }
    }

    /// The checksum of what was added.
    pub fn finish(self) -> Checksum {
        match self {
            Self::Sha256(sum) => Checksum::Sha256(hex(&sum.finalize())),
            Self::GitBlob(sum) => Checksum::GitBlob(hex(&sum.finalize())),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'hello\n' | sha256sum` and `printf 'hello\n' | git hash-object --stdin`.
    #[test]
    fn checksums_are_those_of_other_tools() {
        for hex in [
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            "ce013625030ba8dba906f756967f9e9ca394464a",
        ] {
            for etag in [format!("\"{hex}\""), format!("W/\"{hex}\""), hex.to_owned()] {
                let checksum = Checksum::of_etag(&etag).unwrap();
                let mut sum = checksum.begin(6);
                sum.add(b"hel");
                sum.add(b"lo\n");
                assert_eq!(sum.finish(), checksum);
                assert_eq!(checksum.hex(), hex);
            }
        }
    }

    #[test]
    fn other_etags_are_no_checksums() {
        for etag in
            ["", "\"\"", "\"abc\"", "../../../../../../../../../../../../etc/passwd", &"G".repeat(64), &"A".repeat(40)]
        {
            assert_eq!(Checksum::of_etag(etag), None, "{etag}");
        }
    }
}
