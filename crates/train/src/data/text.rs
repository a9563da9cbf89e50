//! Reading text files.

use super::error::DataError;
use smallmind_checkpoint::without_byte_order_mark;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// The path that stands for standard input, and its name in errors.
const STDIN: (&str, &str) = ("-", "standard input");

/// Reads a text file, or standard input if `path` is `-`. A byte-order mark at its beginning is left out.
///
/// # Errors
/// A file that is missing, empty or not UTF-8.
pub fn read_text(path: impl AsRef<Path>) -> Result<String, DataError> {
    Ok(read_marked(path.as_ref())?.0)
}

/// [`read_text`], and whether the file begins with a byte-order mark.
pub(super) fn read_marked(path: &Path) -> Result<(String, bool), DataError> {
    let is_stdin = path.as_os_str() == STDIN.0;
    let path = if is_stdin { Path::new(STDIN.1) } else { path };
    if !is_stdin && path.is_dir() {
        return Err(DataError::Folder { path: path.into() });
    }
    let read = if is_stdin { read_stdin() } else { fs::read(path) };
    let mut bytes = read.map_err(DataError::io("read the file", path))?;
    let mark = bytes.len() - without_byte_order_mark(&bytes).len();
    bytes.drain(..mark);
    if bytes.is_empty() {
        return Err(DataError::Empty { path: path.into() });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let byte = bytes.get(at).copied().unwrap_or_default();
        let hint = hint(bytes, error.utf8_error().error_len());
        DataError::NotUtf8 { path: path.into(), offset: mark + at, byte, hint }
    })?;
    Ok((text, mark > 0))
}

/// Refuses paths that name standard input more than once.
pub(super) fn check_stdin<P: AsRef<Path>>(paths: &[P]) -> Result<(), DataError> {
    let times = paths.iter().filter(|path| path.as_ref().as_os_str() == STDIN.0).count();
    if times > 1 { Err(DataError::StdinAgain) } else { Ok(()) }
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A guess at the encoding of a file that isn't UTF-8. `bad`: length of the invalid sequence, `None` at an unexpected
/// end.
fn hint(bytes: &[u8], bad: Option<usize>) -> &'static str {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        "it looks like UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`"
    } else if bytes.starts_with(&[0x1f, 0x8b]) {
        "it looks like a gzip archive; unpack it first"
    } else if bytes.contains(&0) {
        "it looks like a binary file; training needs plain text"
    } else if bad.is_none() {
        "the file ends inside a character; it may have been cut short"
    } else {
        "if it is Latin-1, convert it with `iconv -f ISO-8859-1 -t UTF-8`"
    }
}
