//! All output to the terminal goes through this file: answers to standard output, everything else to standard error.
//!
//! Names, values and texts from files may contain control characters that *steer* a terminal: they move its cursor, set
//! its title, fill its clipboard. All output for people goes through [`harmless`]: standard error always, standard
//! output if it is a terminal. A file or a pipe gets the answer unchanged. `clippy.toml` forbids other ways to these
//! streams.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;

use serde_json::Value;

use super::failure::{Failure, Outcome};

/// Version of every JSON document that the command line prints.
pub const SCHEMA_VERSION: u32 = 1;

/// A line on standard error, see [`write_note`].
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::output::write_note(format_args!($($text)*)) };
}
pub(crate) use note;

/// Writes a line to standard error. Unlike `eprintln!` it does not panic if standard error can't be written.
#[allow(clippy::disallowed_methods)]
pub fn write_note(text: fmt::Arguments<'_>) {
    let line = format!("{text}\n");
    let _ = io::stderr().write_all(harmless(&line).as_bytes());
}

/// Writes text to standard error without a line feed, for somebody who is to type behind it.
#[allow(clippy::disallowed_methods)]
pub fn write_prompt(text: &str) {
    let _ = io::stderr().write_all(harmless(text).as_bytes());
}

/// Prints text and flushes it. On a terminal it goes through [`harmless`].
#[allow(clippy::disallowed_methods)]
pub fn print(text: &str) -> Outcome {
    static TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());
    let text = if *TERMINAL { harmless(text) } else { text.into() };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::Output(error).into())
}

/// Prints a message of the command line's parser: help and version are answers, anything else is an error. `plain` is
/// the same message without colours. If `plain` has characters that steer a terminal, the user has typed them, and the
/// filtered `plain` is printed instead.
#[allow(clippy::disallowed_methods)]
pub fn parser_message(message: &clap::Error, plain: &clap::Error) -> Outcome {
    let text = plain.render().ansi().to_string();
    match (harmless(&text), message.use_stderr()) {
        (Cow::Borrowed(_), true) => message.print().unwrap_or_default(),
        (Cow::Borrowed(_), false) => message.print().map_err(Failure::Output)?,
        (Cow::Owned(_), true) => write_note(format_args!("{}", text.trim_end())),
        (Cow::Owned(_), false) => print(&text)?,
    }
    Ok(())
}

/// The text with U+FFFD in place of every character that steers a terminal.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if text.contains(steers) { text.replace(steers, "\u{fffd}").into() } else { text.into() }
}

/// Whether a character steers a terminal: control characters (C0, DEL, C1) except line feed and tab, and those that
/// change the direction of the text after them.
pub fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() && !matches!(c, '\n' | '\t')
}

/// Prints a line.
pub fn line(text: &str) -> Outcome {
    print(&format!("{text}\n"))
}

/// Prints a JSON document, with its `schema_version`.
pub fn document(value: Value) -> Outcome {
    line(&format!("{:#}", versioned(value)))
}

/// Prints a JSON document on one line, as one event of a stream.
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
        assert_eq!(harmless("\u{202e}x\u{2069}\u{7f}\0"), "\u{fffd}x\u{fffd}\u{fffd}\u{fffd}");
        assert!(matches!(harmless("plain\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn every_document_has_a_version() {
        let value = versioned(serde_json::json!({"ids": [1, 2]}));
        assert_eq!(value, serde_json::json!({"schema_version": 1, "ids": [1, 2]}));
    }
}
