//! The character map of SentencePiece's normalizer (`precompiled_charsmap`), and Base64, in which a `tokenizer.json`
//! has it.
//!
//! ```text
//! u32 bytes of the trie, the trie, replacements that end with a zero byte each
//! ```
//!
//! The trie is a double array (darts-clone): 32-bit units. Bits 0 to 7 and 31 are the label, bit 8 says that a value
//! follows, bits 10 to 30 are the offset to the children, times 256 if bit 9 is set. The library follows offsets
//! without checks, so a map must pass [`check`] first: every offset that any text can reach stays inside of the array.

use super::error::TokenizerError;

/// The largest map; those of published models have about 240,000 bytes.
const MAX_MAP_BYTES: usize = 4 << 20;
const LEAF: u32 = 1 << 8;
const WIDE: u32 = 1 << 9;
const LABEL: u32 = 1 << 31 | 0xff;
const VALUE: u32 = (1 << 31) - 1;

/// Checks a map in Base64; `field` is its path in the file.
pub(super) fn check(field: &str, base64: &str) -> Result<(), TokenizerError> {
    let bytes = decode(base64).ok_or_else(|| TokenizerError::field(field, "the text is not Base64"))?;
    check_bytes(&bytes).map_err(|problem| TokenizerError::field(field, problem))
}

/// Checks the bytes of a map.
pub(super) fn check_bytes(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() > MAX_MAP_BYTES {
        return Err(format!("a map of {} bytes is over the limit of {MAX_MAP_BYTES}", bytes.len()));
    }
    let (size, rest) = bytes.split_first_chunk::<4>().ok_or("the map ends before the size of its trie")?;
    let size = u32::from_le_bytes(*size) as usize;
    if size > rest.len() || !size.is_multiple_of(4) || size == 0 {
        return Err(format!("a trie of {size} bytes does not fit into a map of {} bytes", bytes.len()));
    }
    let (trie, replacements) = rest.split_at(size);
    let replacements =
        std::str::from_utf8(replacements).map_err(|error| format!("the replacements are not UTF-8: {error}"))?;
    let units: Vec<u32> =
        trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
    check_trie(&units, replacements)
}

/// Visits every node that a text can reach.
fn check_trie(units: &[u32], replacements: &str) -> Result<(), String> {
    let offset = |unit: u32| ((unit >> 10) << ((unit & WIDE) >> 6)) as usize;
    let mut seen = vec![false; units.len()];
    // Bases: where the children of a node begin.
    let mut open = vec![offset(units[0])];
    while let Some(base) = open.pop() {
        match seen.get_mut(base) {
            Some(true) => continue,
            Some(seen) => *seen = true,
            None => return Err(format!("a node of the trie points to unit {base} of {}", units.len())),
        }
        for label in 1..=255 {
            let node = base ^ label as usize;
            let unit = *units.get(node).ok_or_else(|| format!("the trie ends inside of the block of unit {base}"))?;
            if unit & LABEL != label {
                continue;
            }
            let children = node ^ offset(unit);
            if unit & LEAF != 0 {
                let value = units.get(children).ok_or_else(|| format!("unit {node} of the trie has no value"))? & VALUE;
                if !replacements.is_char_boundary(value as usize) {
                    return Err(format!("the trie points to byte {value} of {} of replacements", replacements.len()));
                }
            }
            open.push(children);
        }
    }
    Ok(())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648, section 4).
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}

/// The bytes of a text in Base64 with padding.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut bits = 0u32;
        for &digit in chunk {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let kept = chunk.len() * 6 / 8;
        let spare = chunk.len() * 6 % 8;
        // The library asks for unused bits of 0.
        if kept == 0 || bits & ((1 << spare) - 1) != 0 {
            return None;
        }
        bytes.extend_from_slice(&(bits >> spare).to_be_bytes()[4 - kept..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!((encode(bytes.as_bytes()).as_str(), decode(text).as_deref()), (text, Some(bytes.as_bytes())));
        }
        for text in ["Z", "Zg", "Zg=", "Zh==", "Zm9=v", "Z===", "Zm 9", "===="] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    /// A map that replaces `a` with `bc`.
    fn map() -> Vec<u8> {
        let mut units = vec![0u32; 512];
        // The children of the root begin at 0, the value of `a` is at 256.
        units[0] = 0;
        let node = usize::from(b'a');
        units[node] = u32::from(b'a') | LEAF | (((256 ^ node) as u32) << 10);
        units[256] = 1 << 31;
        let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(trie.len() as u32).to_le_bytes()[..], &trie, b"bc\0"].concat()
    }

    #[test]
    fn maps_that_point_outside_are_refused() {
        let good = map();
        assert_eq!(check_bytes(&good), Ok(()));
        check("f", &encode(&good)).unwrap();
        for end in 0..good.len() - 4 {
            assert!(check_bytes(&good[..end]).is_err(), "prefix of {end} bytes");
        }
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if check_bytes(&bytes).is_ok() {
                let part = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": encode(&bytes)});
                let library: tokenizers::NormalizerWrapper = serde_json::from_value(part).unwrap();
                let all: String = (0u8..128).map(char::from).chain("äöü日".chars()).collect();
                let mut text = tokenizers::NormalizedString::from(all);
                tokenizers::Normalizer::normalize(&library, &mut text).unwrap();
            }
        }
    }
}
