//! Byte-order marks, and plain words for errors of JSON.

/// U+FEFF in UTF-8. Editors on Windows put it before a text to mark its encoding; it is not part of the text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The bytes of a text without a byte-order mark at their beginning. Every text, JSON and TOML file of a user is read
/// through this function.
#[must_use]
pub fn without_byte_order_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// The message of a JSON parser in plain words, without types of Rust such as `u64`.
#[must_use]
pub fn json_problem(error: &serde_json::Error) -> String {
    const EXPECTED: &str = ", expected ";
    let text = error.to_string();
    // The last occurrence counts: text before it may quote the file.
    let Some(at) = text.rfind(EXPECTED) else { return text };
    let (before, wanted) = text.split_at(at + EXPECTED.len());
    let end = wanted.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(wanted.len());
    let word = match &wanted[..end] {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        other => other,
    };
    format!("{before}{word}{}", &wanted[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_rust_are_no_words_for_users() {
        let error = serde_json::from_str::<(u64, f32)>("[1, \", expected u64\"]").unwrap_err();
        let said = json_problem(&error);
        assert!(said.starts_with("invalid type: string \", expected u64\", expected a number at"), "{said}");
        let error = serde_json::from_str::<usize>("-1").unwrap_err();
        assert!(json_problem(&error).contains("expected a whole number, 0 or more at line 1"));
    }

    #[test]
    fn one_mark_at_the_beginning_is_left_out() {
        for (bytes, rest) in [
            (b"\xef\xbb\xbftext" as &[u8], b"text" as &[u8]),
            (b"\xef\xbb\xbf", b""),
            (b"\xef\xbb\xbf\xef\xbb\xbfx", b"\xef\xbb\xbfx"),
            (b"a\xef\xbb\xbf", b"a\xef\xbb\xbf"),
            (b"\xef\xbb", b"\xef\xbb"),
            (b"", b""),
        ] {
            assert_eq!(without_byte_order_mark(bytes), rest);
        }
    }
}
