//! How text begins.

/// U+FEFF in UTF-8. Editors on Windows put it before a text to mark its encoding; it is no part of the text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The bytes of a text without the byte-order mark at their beginning. Every text and every JSON or TOML file that a user gives goes
/// through here; one mark is left out, and none further on.
#[must_use]
pub fn without_byte_order_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
