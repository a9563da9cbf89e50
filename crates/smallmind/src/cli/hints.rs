//! Hints at the next commands, on standard error.

use std::path::Path;

use super::{note, output};

/// This program as it was called, so that hints can be pasted into the shell.
pub fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    if called.is_empty() { "smallmind".to_owned() } else { quoted(Path::new(&called)) }
}

/// A path quoted for a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else if text.contains(output::steers) {
        format!("$'{}'", text.chars().map(escaped).collect::<String>())
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A character between `$'` and `'`, for bash and zsh. Control characters are written as their bytes in hexadecimal.
fn escaped(c: char) -> String {
    match c {
        '\'' | '\\' => format!("\\{c}"),
        _ if output::steers(c) => c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\x{byte:02x}")).collect(),
        _ => c.to_string(),
    }
}

/// Hints after training. `first_words`: a prompt, if the model can't begin a text.
pub fn after_training(run: &Path, first_words: Option<&str>) {
    let (program, run) = (program(), quoted(run));
    let prompt = first_words.map(|words| format!(" -p {}", quoted(Path::new(words)))).unwrap_or_default();
    note!("\nnext:");
    note!("  {program} generate -m {run}{prompt} -n 200");
    note!("  {program} eval -m {run} --data FILE");
    note!("  {program} train --out {run} --resume --train.steps=MORE");
    note!("  {program} inspect {run}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_needs_it() {
        for (path, expected) in
            [("a/b-1.0", "a/b-1.0"), ("my run", "'my run'"), ("it's", r"'it'\''s'"), ("", "''"), ("$x", "'$x'")]
        {
            assert_eq!(quoted(Path::new(path)), expected);
        }
        assert_eq!(quoted(Path::new("a\u{1b}[2J'\u{9b}")), r"$'a\x1b[2J\'\xc2\x9b'");
    }
}
