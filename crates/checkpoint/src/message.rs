//! The parts that error messages are made of.

use std::fmt;
use std::io;

/// Text from a file, escaped and shortened for a message.
pub(crate) fn quote(text: &str) -> impl fmt::Display {
    const SHOWN: usize = 80;
    let shown: String = text.chars().take(SHOWN).collect();
    let rest = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{rest}")
}

/// The remark that a file seems to be of another format.
pub(crate) fn describe(looks_like: &Option<&'static str>) -> String {
    looks_like.map_or(String::new(), |what| format!(" (it looks like {what})"))
}

/// The remark that another name exists.
pub(crate) fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or(String::new(), |name| format!("; did you mean {}?", quote(name)))
}

/// What to do about an error of the operating system.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check who owns it and what its permissions are",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and try again, what was there before is untouched"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; choose a folder that can be written to",
        io::ErrorKind::WriteZero => "; the disk took no more bytes, what was there before is untouched",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_out_of_a_file_is_escaped_and_cut() {
        assert_eq!(quote("wte.weight").to_string(), "\"wte.weight\"");
        assert_eq!(quote("\u{1b}[2J\n").to_string(), "\"\\u{1b}[2J\\n\"");
        let long = quote(&"ü".repeat(1000)).to_string();
        assert_eq!(long.chars().count(), 83);
        assert!(long.ends_with("\"…"));
    }
}
