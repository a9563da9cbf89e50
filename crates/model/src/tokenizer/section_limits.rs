//! Limits on the sections of a `tokenizer.json` that hold parts, checked before the file is parsed.
//!
//! A part takes far more memory than its text, and its lists may be nested: without these limits a tree of sequences
//! would cost many times the size of its file. So a scan over the bytes counts what each section holds. It takes no
//! memory.
//!
//! ```text
//! pass over strings as a whole; of all other bytes
//!     "{" and "["           begin a level and count as one value, "{" as one object too
//!     "}" and "]"           end a level
//!     ","                   counts as one value, and ends a section on the top level
//!     ":" on the top level  begins the section that the string before it names
//! ```
//!
//! This is not a parser. Text that is no JSON passes, and the parser names the fault: up to there both see the same
//! strings and levels.

use super::error::TokenizerError;

/// The sections with limits. All other lists of a file are bounded while they are parsed.
const SECTIONS: [&str; 4] = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];
/// The most objects of a section. The largest template that is read has 321: itself, two lists of 64 pieces of two
/// objects each, and 64 special tokens.
const MAX_OBJECTS: usize = 1 << 10;
/// The most values of a section. The largest template that is read has about 9,000: 64 special tokens of up to 64 ids.
const MAX_VALUES: usize = 1 << 14;
/// The most bytes of a section. The largest character map that is read has 5.6 MB in Base64.
const MAX_BYTES: usize = 8 << 20;
/// The longest spelling of a section's name: in quotes, with each character as `\u` and four digits.
const MAX_NAME_BYTES: usize = 2 + 6 * "post_processor".len();

/// A section that is being scanned.
struct Section {
    name: &'static str,
    /// Where its value begins, in bytes.
    start: usize,
    objects: usize,
    values: usize,
}

impl Section {
    fn count(&mut self, byte: u8) {
        self.objects += usize::from(byte == b'{');
        self.values += usize::from(matches!(byte, b'{' | b'[' | b','));
    }

    /// Checks what has been scanned up to the byte `end`.
    fn check(&self, end: usize) -> Result<(), TokenizerError> {
        for (found, limit, what) in [
            (self.objects, MAX_OBJECTS, "objects"),
            (self.values, MAX_VALUES, "values"),
            (end - self.start, MAX_BYTES, "bytes"),
        ] {
            if found > limit {
                return Err(TokenizerError::field(self.name, format!("more than {limit} {what}")));
            }
        }
        Ok(())
    }
}

/// Checks that no section of a file's text has more objects, values or bytes than any that is read.
///
/// # Errors
/// [`TokenizerError::Field`] names the section.
pub(super) fn check(json: &[u8]) -> Result<(), TokenizerError> {
    let mut depth = 0_usize;
    // The last string on the top level, in quotes.
    let mut string: &[u8] = &[];
    let mut section: Option<Section> = None;
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        let start = at;
        at = if byte == b'"' { end_of_string(json, start) } else { start + 1 };
        match byte {
            b'"' if depth == 1 => string = &json[start..at],
            b':' if depth == 1 => {
                section = section_name(string).map(|name| Section { name, start: at, objects: 0, values: 0 });
            }
            b',' if depth == 1 => section = None,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            section = None;
        }
        if let Some(section) = &mut section {
            section.count(byte);
            section.check(at)?;
        }
    }
    Ok(())
}

/// Where the string whose opening quote is at `start` ends, behind its closing quote.
fn end_of_string(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

/// The section that a key in quotes names, which may be spelled with escapes.
fn section_name(key: &[u8]) -> Option<&'static str> {
    if key.len() > MAX_NAME_BYTES {
        return None;
    }
    let key: String = serde_json::from_slice(key).ok()?;
    SECTIONS.into_iter().find(|name| *name == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> Option<String> {
        check(json.as_bytes()).err().map(|error| error.to_string())
    }

    fn list(entry: &str, count: usize) -> String {
        format!("[{}]", vec![entry; count].join(","))
    }

    #[test]
    fn each_section_is_counted_by_itself() {
        let full = list("{}", MAX_OBJECTS);
        let all: Vec<String> = SECTIONS.iter().map(|name| format!("\"{name}\" : {full}")).collect();
        assert_eq!(refusal(&format!("{{{}}}", all.join(" ,\n"))), None);
        for name in SECTIONS {
            let over = list("{}", MAX_OBJECTS + 1);
            let objects = format!("{name}: more than 1024 objects");
            assert_eq!(refusal(&format!("{{\"a\":1,\"{name}\"\t:{over}}}")), Some(objects));
            let values = format!("{name}: more than 16384 values");
            // One for the list, and one for each comma.
            assert_eq!(refusal(&format!("{{\"{name}\":{}}}", list("1", MAX_VALUES))), None);
            assert_eq!(refusal(&format!("{{\"{name}\":{}}}", list("1", MAX_VALUES + 1))), Some(values.clone()));
            assert_eq!(refusal(&format!("{{\"{name}\":{}", "[".repeat(MAX_VALUES + 1))), Some(values));
            let bytes = format!("{name}: more than 8388608 bytes");
            assert_eq!(refusal(&format!("{{\"{name}\":\"{}\"}}", "x".repeat(MAX_BYTES - 2))), None);
            assert_eq!(refusal(&format!("{{\"{name}\":\"{}\"}}", "x".repeat(MAX_BYTES - 1))), Some(bytes));
        }
    }

    #[test]
    fn keys_are_known_in_any_spelling_and_only_at_the_top() {
        let over = list("{}", MAX_OBJECTS + 1);
        let escaped: String = "post_processor".bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        for name in ["decod\\u0065r", "d\\u0065coder", escaped.as_str()] {
            assert!(refusal(&format!("{{\"{name}\":{over}}}")).is_some(), "{name}");
        }
        for text in [
            format!("{{\"model\":{{\"decoder\":{over}}}}}"),
            format!("{{\"model\":[\"decoder\",{over}]}}"),
            format!("{{\"version\":\"decoder\",\"model\":{over}}}"),
            format!("{{\"decoder\":null,\"model\":{over}}}"),
            format!("{{\"decoder\":{{\"type\":\"Fuse\"}},\"model\":{over}}}"),
            format!("{{\"decoders\":{over}}}"),
            format!("{{\"{}decoder\":{over}}}", "x".repeat(1000)),
        ] {
            assert_eq!(refusal(&text), None, "{text:.60}");
        }
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        let braces = "{[,:".repeat(MAX_VALUES);
        for text in [
            format!("{{\"decoder\":\"{braces}\"}}"),
            format!("{{\"decoder\":\"\\\"{braces}\"}}"),
            format!("{{\"decoder\":{{\"{braces}\\\\\":\"\\\\\\\"{braces}\"}}}}"),
        ] {
            assert_eq!(refusal(&text), None, "{text:.60}");
        }
        // A string that ends where it should: its last character is a backslash.
        let over = list("{}", MAX_OBJECTS + 1);
        assert!(refusal(&format!("{{\"version\":\"\\\\\",\"decoder\":{over}}}")).is_some());
    }

    #[test]
    fn text_that_is_no_json_passes() {
        for text in
            ["", "}", "]]]]", "{\"", "{\"decoder\":\"\\", "{\"decoder\"", ":{:,:}", "{\"decoder\":}", "\u{feff}"]
        {
            assert_eq!(refusal(text), None, "{text:?}");
        }
    }
}
