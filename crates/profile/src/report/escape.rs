//! Escapes text for HTML and Markdown. The names of folders, CPUs and baselines may hold any characters: a report shows
//! them as text, not as markup, and without control characters.

use std::fmt::Write as _;

/// Escapes text for HTML, between tags or in an attribute's value.
pub(super) fn html(text: &str) -> String {
    one_line(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Escapes text for Markdown, in a heading, a sentence or a table's cell. Markup gets a backslash; characters of HTML
/// become entities, since some readers don't know a backslash before them.
pub(super) fn markdown(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '<' => words.push_str("&lt;"),
            '>' => words.push_str("&gt;"),
            '&' => words.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' => {
                let _ = write!(words, "\\{c}");
            }
            _ => words.push(c),
        }
    }
    words
}

/// The text in one line: line feeds and tabs become spaces, other control characters, and those that change the
/// direction of text, become U+FFFD.
fn one_line(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => ' ',
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        _ if c.is_control() => '\u{fffd}',
        _ => c,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Report, example};
    use super::*;

    const WILD: &str = "a|b`c`\n# <script>alert('x')</script>\u{1b}]0;t\u{7}\u{202e}&\"*_[d](e)\\";

    #[test]
    fn words_are_no_markup() {
        assert_eq!(
            html(WILD),
            "a|b`c` # &lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\u{fffd}]0;t\u{fffd}\u{fffd}&amp;&quot;*_[d](e)\\"
        );
        assert_eq!(
            markdown(WILD),
            "a\\|b\\`c\\` # &lt;script&gt;alert('x')&lt;/script&gt;\u{fffd}\\]0;t\u{fffd}\u{fffd}&amp;\"\\*\\_\\[d\\](e)\\\\"
        );
        assert_eq!(markdown("decode, 2 threads: 3.0 µs"), "decode, 2 threads: 3.0 µs");
    }

    #[test]
    fn a_report_shows_wild_names_as_words() {
        let report: Report = serde_json::from_value(example(WILD)).expect("a report");
        let (page, text) = (super::super::html::render(&report), super::super::markdown::render(&report));
        for (form, written) in [("HTML", &page), ("Markdown", &text)] {
            assert!(!written.contains("<script>alert") && written.contains("&lt;script&gt;alert"), "{form}: {written}");
            assert!(!written.contains(|c: char| c != '\n' && c.is_control() || c == '\u{202e}'), "{form}: {written}");
        }
        assert_eq!(page.matches("<script").count(), 1, "its own");
        assert!(!page.contains("alert('x')"), "{page}");
        assert!(!text.contains("\n# <") && text.matches("\n# ").count() == 0, "one heading: {text}");
        // Every row of a table has as many cells as the head of that table.
        let cells = |line: &str| line.replace("\\\\", "").replace("\\|", "").matches('|').count();
        let mut head = None;
        for line in text.lines() {
            head = line.starts_with('|').then(|| head.unwrap_or_else(|| cells(line)));
            assert_eq!(head.unwrap_or_default(), if head.is_some() { cells(line) } else { 0 }, "{line}");
        }
    }
}
