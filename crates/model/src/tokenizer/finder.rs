//! Finds added tokens in a text: the leftmost first, of those at one place the longest.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::merges::PairHasher;

/// A trie over the bytes of tokens.
#[derive(Debug)]
pub(super) struct Finder {
    /// The node behind a node and a byte.
    edges: HashMap<u64, u32, BuildHasherDefault<PairHasher>>,
    /// The token that ends at a node.
    ends: Vec<Option<u32>>,
    /// Whether a token begins with a byte.
    begins: Box<[bool; 256]>,
}

impl Finder {
    /// From texts, none of them empty, and their ids.
    pub fn new<'t>(tokens: impl IntoIterator<Item = (&'t str, u32)>) -> Self {
        let mut finder = Self { edges: HashMap::default(), ends: vec![None], begins: Box::new([false; 256]) };
        for (text, id) in tokens {
            finder.begins[usize::from(text.as_bytes()[0])] = true;
            let mut node = 0;
            for &byte in text.as_bytes() {
                let next = finder.ends.len() as u32;
                node = *finder.edges.entry(edge(node, byte)).or_insert(next);
                if node == next {
                    finder.ends.push(None);
                }
            }
            finder.ends[node as usize] = Some(id);
        }
        finder
    }

    /// The first token in `text`: where it begins and ends, and its id.
    pub fn first(&self, text: &str) -> Option<(usize, usize, u32)> {
        let bytes = text.as_bytes();
        for (start, byte) in bytes.iter().enumerate() {
            if !self.begins[usize::from(*byte)] {
                continue;
            }
            let mut found = None;
            let mut node = 0;
            for (at, &byte) in bytes.iter().enumerate().skip(start) {
                let Some(&next) = self.edges.get(&edge(node, byte)) else { break };
                node = next;
                if let Some(id) = self.ends[node as usize] {
                    found = Some((start, at + 1, id));
                }
            }
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

fn edge(node: u32, byte: u8) -> u64 {
    u64::from(node) << 8 | u64::from(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leftmost_and_longest_is_found() {
        let finder = Finder::new([("<a>", 1), ("<a><b>", 2), ("\n", 3), ("\n\n", 4), ("é", 5), ("<b>", 6)]);
        for (text, found) in [
            ("", None),
            ("x<a", None),
            ("x<a>", Some((1, 4, 1))),
            ("<a><b", Some((0, 3, 1))),
            ("<a><b>", Some((0, 6, 2))),
            ("\n\n\n", Some((0, 2, 4))),
            ("ãé", Some((2, 4, 5))),
            ("<<b>", Some((1, 4, 6))),
        ] {
            assert_eq!(finder.first(text), found, "{text:?}");
        }
    }
}
