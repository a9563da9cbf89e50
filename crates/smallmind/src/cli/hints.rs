//! What to type next, on standard error.

use std::path::Path;

use super::note;

/// This program as it was called, so that a hint can be pasted.
pub fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    if called.is_empty() { "smallmind".to_owned() } else { quoted(Path::new(&called)) }
}

/// A path as a shell wants it.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// After a training.
pub fn after_training(run: &Path) {
    let (program, run) = (program(), quoted(run));
    note!("\nnext:");
    note!("  {program} generate -m {run} -n 200");
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
    }
}
