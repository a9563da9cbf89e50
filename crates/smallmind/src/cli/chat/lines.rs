//! What somebody types, or a pipe brings: a line, or several as one text.

use std::io::{BufRead, IsTerminal, Read, stdin};

use super::super::output;

/// The longest text, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// The mark before and behind a text of several lines.
const BLOCK: &str = "\"\"\"";

/// The texts of standard input. A line that ends with `\` goes on in the next; a text between two `"""` may have any
/// lines. Empty lines are passed over.
pub struct Lines {
    terminal: bool,
}

impl Lines {
    pub fn new() -> Self {
        Self { terminal: stdin().is_terminal() }
    }

    /// Whether somebody types.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The next text; `None` at the end.
    ///
    /// # Errors
    /// A line that can't be read, is no UTF-8 or too long; a block without an end.
    pub fn read(&mut self) -> Result<Option<String>, String> {
        loop {
            let Some(line) = self.line("> ")? else { return Ok(None) };
            let text = match line.trim_start().strip_prefix(BLOCK) {
                Some(rest) => self.block(rest)?,
                None => self.continued(line)?,
            };
            if !text.trim().is_empty() {
                return Ok(Some(text));
            }
        }
    }

    /// The lines up to the next mark.
    fn block(&self, first: &str) -> Result<String, String> {
        let mut text = first.to_owned();
        loop {
            if let Some(end) = text.trim_end().strip_suffix(BLOCK) {
                let end = end.strip_prefix('\n').unwrap_or(end);
                return Ok(end.strip_suffix('\n').unwrap_or(end).to_owned());
            }
            let next = self.line("… ")?.ok_or_else(|| format!("the text that begins with {BLOCK} has no end"))?;
            text = checked(text + "\n" + &next)?;
        }
    }

    /// The line with those that it goes on in.
    fn continued(&self, mut text: String) -> Result<String, String> {
        while let Some(open) = text.strip_suffix('\\') {
            let next = self.line("… ")?.unwrap_or_default();
            text = checked(format!("{open}\n{next}"))?;
        }
        Ok(text)
    }

    /// A line without its end; `None` at the end.
    fn line(&self, prompt: &str) -> Result<Option<String>, String> {
        if self.terminal {
            output::write_prompt(prompt);
        }
        let mut bytes = Vec::new();
        let mut input = stdin().lock().take(MAX_BYTES as u64 + 1);
        let read = input.read_until(b'\n', &mut bytes);
        read.map_err(|error| format!("standard input: can't be read: {error}"))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            format!("standard input: not UTF-8 text: byte offset {} of a line", error.utf8_error().valid_up_to())
        })?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        checked(line.strip_suffix('\r').unwrap_or(line).to_owned()).map(Some)
    }
}

fn checked(text: String) -> Result<String, String> {
    if text.len() <= MAX_BYTES { Ok(text) } else { Err(format!("a text of more than {MAX_BYTES} bytes")) }
}
