//! Standard output for answers, standard error for everything else.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::failure::{Failure, Outcome};

/// Version of every JSON document that the command line prints.
pub const SCHEMA_VERSION: u32 = 1;

/// A line on standard error. Unlike `eprintln!` it survives a standard error that can't be written.
macro_rules! note {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use note;

/// Prints `text` as it is, and at once.
pub fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::Output(error).into())
}

/// Prints text that a model wrote. What would steer a terminal is shown there as a replacement character; a file or pipe gets all.
pub fn model_text(text: &str) -> Outcome {
    if io::stdout().is_terminal() { print(&harmless(text)) } else { print(text) }
}

/// The text without control characters but line feeds and tabs.
fn harmless(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(steers) { text.replace(steers, "\u{fffd}").into() } else { text.into() }
}

/// Prints a line.
pub fn line(text: &str) -> Outcome {
    print(&format!("{text}\n"))
}

/// Prints a JSON document, with its `schema_version`.
pub fn document(value: Value) -> Outcome {
    line(&format!("{:#}", versioned(value)))
}

/// Prints a JSON document of a stream on one line.
pub fn event(value: Value) -> Outcome {
    line(&versioned(value).to_string())
}

/// The object with a `schema_version`.
fn versioned(mut value: Value) -> Value {
    if let Value::Object(object) = &mut value {
        object.insert("schema_version".into(), SCHEMA_VERSION.into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_does_not_steer_a_terminal() {
        assert_eq!(harmless("a\tb\n\u{1b}[2J\r\u{9b}c"), "a\tb\n\u{fffd}[2J\u{fffd}\u{fffd}c");
        assert!(matches!(harmless("plain\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn every_document_has_a_version() {
        let value = versioned(serde_json::json!({"ids": [1, 2]}));
        assert_eq!(value, serde_json::json!({"schema_version": 1, "ids": [1, 2]}));
    }
}
