//! Words in a file of another format. A model's folder, a CPU or a baseline may be called anything, and the report shows it as it is
//! called: neither as markup nor as an instruction to a terminal.

use std::fmt::Write as _;

/// Words of HTML: its text and the values of its attributes.
pub(super) fn html(text: &str) -> String {
    one_line(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Words of Markdown: in a heading, a sentence or the cell of a table. What has a meaning there gets a backslash, or is spelled as an entity
/// where programs that know no backslash would take it for HTML.
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

/// The text with a space for each line feed and tab, and U+FFFD for other control characters and those that turn the direction of text.
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
    use serde_json::json;

    use super::super::Report;
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

    /// A report in which every word that may come from outside, and every other, is wild.
    fn report() -> Report {
        let work = json!({ "flops": 1.0, "weights": 1.0, "kv_read": 0.0, "kv_write": 0.0, "activations": 1.0 });
        let operation = json!({
            "rank": 1, "pass": "forward", "operation": WILD, "path": WILD, "kernel": WILD, "shape": WILD, "calls": 1.0,
            "seconds": 1.0, "share": 1.0, "cumulative": 1.0, "traffic": work, "held_gbps": 1.0, "near_gbps": 1.0,
            "peak_gflops": 1.0, "roof_seconds": 0.1, "share_of_roof": 0.1, "bound": "memory", "wait": 0.0,
            "imbalance": 1.0, "gain": 0.0, "members": [[WILD, 0.5], [WILD, 0.5]], "repeats": [1.0], "why": WILD,
        });
        let phase = json!({
            "name": "decode", "about": WILD, "tokens": 1.0, "samples": 1, "left_out": 0, "seconds": 1.0,
            "tokens_per_second": 1.0, "profiled_seconds": 1.0, "ceiling": 2.0, "share_of_ceiling": 0.5, "coverage": 1.0,
            "overhead": 0.0, "noise": 0.0, "traffic": work, "entering": 0.0, "between": 0.0, "waiting": 0.0,
            "operations": [operation], "drift": [], "stages": [[WILD, 1.0]], "repeats": [1.0], "arenas": [],
            "what_ifs": [{ "kind": "twice_the_context", "tokens_per_second": 1.0, "change": 0.1, "by": "computed" }],
            "roadmap": [{ "rank": 1, "tokens_per_second": 1.0, "change": 0.1 }],
            "latency": { "p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0, "all": [1.0] },
            "timeline": [{ "worker": 0, "operation": 0, "path": WILD, "begin": 0.0, "seconds": 1.0 }],
        });
        let level = json!({ "name": WILD, "bytes": 1.0, "read": 1.0, "update": 1.0 });
        let report = json!({
            "schema_version": 1, "system": {}, "phases": [phase],
            "baseline": WILD, "baseline_refused": WILD, "baseline_mismatches": [WILD],
            "subject": {
                "verb": WILD, "model": WILD, "shape": WILD, "parameters": 1, "format": WILD, "bits_per_weight": 32.0,
                "threads": 1, "isa": WILD, "cpu": WILD, "version": WILD,
            },
            "roofs": { "f32_gflops": 1.0, "levels": [level], "entry_ns": 1.0, "barrier_ns": 1.0 },
        });
        serde_json::from_value(report).expect("a report")
    }

    #[test]
    fn a_report_shows_wild_names_as_words() {
        let (page, text) = (super::super::html::render(&report()), super::super::markdown::render(&report()));
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
