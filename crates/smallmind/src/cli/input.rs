//! Text that a verb reads: a file, or standard input.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use smallmind::checkpoint::without_byte_order_mark;
use smallmind::train::data::{Corpus, Division, Documents};

use super::failure::bad_file;
use super::note;

/// The name that stands for standard input.
pub const STDIN: &str = "-";

/// The most bytes of a text that is read at once. Some files never end.
const MOST_BYTES: u64 = 1 << 30;

/// The text of a file, or of standard input if `path` is `-`, without a byte-order mark. It may be empty and must be
/// UTF-8.
pub fn read(path: &Path) -> anyhow::Result<String> {
    let (name, mut bytes) = read_bytes(path, "text")?;
    let mark = bytes.len() - without_byte_order_mark(&bytes).len();
    bytes.drain(..mark);
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let offset = mark + at;
        let byte = error.as_bytes().get(at).copied().unwrap_or_default();
        bad_file(format!("{name}: not UTF-8 text: byte 0x{byte:02x} at offset {offset}; convert it to UTF-8"))
    })
}

/// A file of 16-bit tokens, the lower byte first.
pub fn tokens(path: &Path) -> anyhow::Result<Vec<u32>> {
    let (name, bytes) = read_bytes(path, "token")?;
    match bytes.as_chunks() {
        ([], _) => Err(bad_file(format!("{name}: there is no token in it"))),
        (pairs, []) => Ok(pairs.iter().map(|&pair| u16::from_le_bytes(pair).into()).collect()),
        _ => Err(bad_file(format!("{name}: {} bytes, which are not tokens of two bytes each", bytes.len()))),
    }
}

/// The name and the bytes of a file, such as a `text` file, or of standard input.
fn read_bytes(path: &Path, what: &str) -> anyhow::Result<(String, Vec<u8>)> {
    if path.is_dir() {
        return Err(bad_file(format!("{}: this is a folder: name a {what} file in it", path.display())));
    }
    let mut bytes = Vec::new();
    let (name, read) = if path.as_os_str() == STDIN {
        ("standard input".to_owned(), std::io::stdin().lock().take(MOST_BYTES + 1).read_to_end(&mut bytes))
    } else {
        let read = File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
        (path.display().to_string(), read)
    };
    read.map_err(|error| bad_file(format!("{name}: can't be read: {error}")))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(bad_file(format!("{name}: more than {MOST_BYTES} bytes; give a part of it")));
    }
    Ok((name, bytes))
}

/// The text of the files. Each is a document, so no word spans two of them; so is each line of a `.jsonl` file.
pub fn documents(files: &[PathBuf]) -> anyhow::Result<Corpus> {
    let corpus = Corpus::read(files, Division { documents: Documents::Files, separator: None })?;
    for file in corpus.marks() {
        note!("note: {file}: a byte-order mark at the beginning is left out");
    }
    Ok(corpus)
}
