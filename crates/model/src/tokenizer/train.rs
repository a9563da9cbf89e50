//! Learns the merges of a byte-level BPE vocabulary (Sennrich, Haddow and Birch, "Neural Machine Translation of Rare
//! Words with Subword Units", 2016, algorithm 1; on bytes as in GPT-2, Radford et al., 2019).
//!
//! ```text
//! count the words of all texts; a word is a list of bytes
//! repeat until the vocabulary is large enough:
//!     take the most frequent pair of neighbouring tokens; of equals, the one with the lower ids
//!     make the pair a token, and replace it in every word that has it            (1) (2)
//! ```
//!
//! 1. Each pair has a list of the words in which it occurs, so a merge visits only those.
//! 2. The frequencies are in a heap. An entry is compared with the exact count when it is taken (3), not updated
//!    whenever the count changes.
//! 3. Counts fall when neighbours are merged: an entry that is too high is put back with the current count. Counts rise
//!    only for pairs with the new token, which get new entries.
//!
//! The texts determine counts, the order of words and ties, so the same texts give the same vocabulary. Words are
//! counted in 64 bits, and only the calling thread works.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::error::TokenizerError;
use super::file::{AddedEntry, MAX_TOKENS, Part, TokenizerFile};
use super::model_entry::{BpeEntry, MergeList, ModelEntry};
use super::table::byte_character;
use super::words::Words;

/// The token between documents, which also begins a text without a prompt.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Longer words are counted in parts of this many bytes: every merge rewrites the words in which it occurs, and with a
/// word as long as a file the time would be quadratic.
const MAX_WORD_BYTES: usize = 512;

/// How a byte-level vocabulary is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpeTraining {
    /// Number of tokens: 256 bytes, [`END_OF_TEXT`] and merges. From 257 to [`MAX_TOKENS`].
    pub vocab_size: usize,
    /// A pair that occurs less often doesn't become a token, so small texts may give fewer tokens than asked for.
    pub min_frequency: u64,
}

impl Default for BpeTraining {
    fn default() -> Self {
        Self { vocab_size: 4096, min_frequency: 2 }
    }
}

/// Two neighbouring tokens.
type Pair = (u32, u32);

/// A word after the merges so far, and how often it occurs in the texts.
struct Word {
    tokens: Vec<u32>,
    count: u64,
}

/// Where a pair occurs.
#[derive(Default)]
struct Occurrences {
    /// The exact number of occurrences.
    count: u64,
    /// Indices of words; some may no longer have the pair.
    words: Vec<u32>,
}

/// Trains on texts; [`END_OF_TEXT`] inside them separates documents.
pub(super) fn train<S: AsRef<str>>(
    texts: impl IntoIterator<Item = S>,
    training: &BpeTraining,
) -> Result<TokenizerFile<ModelEntry>, TokenizerError> {
    if !(257..=MAX_TOKENS).contains(&training.vocab_size) {
        return Err(TokenizerError::VocabularySize {
            asked: training.vocab_size,
            allowed: "a byte-level vocabulary has from 257 (the bytes and the end of a text) to 393216 tokens",
        });
    }
    let mut tokens = vec![END_OF_TEXT.to_owned()];
    let mut ids = [0; 256];
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.sort_unstable_by_key(|&byte| byte_character(byte));
    for byte in bytes {
        ids[byte as usize] = tokens.len() as u32;
        tokens.push(byte_character(byte).to_string());
    }
    let words = count_words(texts, &ids)?;
    let merges = Learner::new(words, tokens).learn(training);
    Ok(file(merges))
}

/// The result of the training.
struct Learned {
    /// The tokens by id.
    tokens: Vec<String>,
    merges: Vec<Pair>,
}

fn file(learned: Learned) -> TokenizerFile<ModelEntry> {
    let Learned { tokens, merges } = learned;
    let mut list = MergeList::default();
    merges.into_iter().for_each(|(left, right)| list.push(&tokens[left as usize], &tokens[right as usize]));
    let end = AddedEntry {
        id: 0,
        content: END_OF_TEXT.to_owned(),
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
    };
    let vocab = tokens.into_iter().zip(0..).collect();
    TokenizerFile {
        added_tokens: vec![end],
        pre_tokenizer: Some(Part::byte_level()),
        decoder: Some(Part::byte_level()),
        ..TokenizerFile::new(ModelEntry::Bpe(BpeEntry { vocab, merges: list, ..BpeEntry::default() }))
    }
}

/// The distinct words of the texts, in the order of their bytes, and how often each occurs.
///
/// `ids` numbers the bytes.
fn count_words<S: AsRef<str>>(
    texts: impl IntoIterator<Item = S>,
    ids: &[u32; 256],
) -> Result<Vec<Word>, TokenizerError> {
    let mut counts: HashMap<Box<[u8]>, u64> = HashMap::new();
    for text in texts {
        for document in text.as_ref().split(END_OF_TEXT) {
            Words::Gpt2.each(document, |word, _| {
                for part in word.as_bytes().chunks(MAX_WORD_BYTES) {
                    match counts.get_mut(part) {
                        Some(count) => *count += 1,
                        None => drop(counts.insert(part.into(), 1)),
                    }
                }
                Ok::<(), TokenizerError>(())
            })?;
        }
    }
    let mut words: Vec<_> = counts.into_iter().collect();
    words.sort_unstable();
    let in_ids = |word: &[u8]| word.iter().map(|&byte| ids[byte as usize]).collect();
    Ok(words.into_iter().map(|(word, count)| Word { tokens: in_ids(&word), count }).collect())
}

/// The state of the training.
struct Learner {
    words: Vec<Word>,
    pairs: HashMap<Pair, Occurrences>,
    /// `(count, pair)`, where the count was right at some time. Each pair has an entry that is not below its current
    /// count.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
    merges: Vec<Pair>,
    merged: HashSet<Pair>,
}

impl Learner {
    fn new(words: Vec<Word>, tokens: Vec<String>) -> Self {
        let ids = tokens.iter().cloned().zip(0..).collect();
        let mut pairs: HashMap<Pair, Occurrences> = HashMap::new();
        for (index, word) in words.iter().enumerate() {
            for pair in word.tokens.windows(2) {
                let occurrences = pairs.entry((pair[0], pair[1])).or_default();
                occurrences.count += word.count;
                if occurrences.words.last() != Some(&(index as u32)) {
                    occurrences.words.push(index as u32);
                }
            }
        }
        let queue = pairs.iter().map(|(&pair, occurrences)| (occurrences.count, Reverse(pair))).collect();
        Self { words, pairs, queue, tokens, ids, merges: Vec::new(), merged: HashSet::new() }
    }

    fn learn(mut self, training: &BpeTraining) -> Learned {
        while self.tokens.len() < training.vocab_size {
            let Some((count, Reverse(pair))) = self.queue.pop() else { break };
            let current = self.pairs.get(&pair).map_or(0, |occurrences| occurrences.count);
            if count != current {
                if current > 0 && current < count {
                    self.queue.push((current, Reverse(pair)));
                }
                continue;
            }
            if count < training.min_frequency.max(1) {
                break;
            }
            self.merge(pair);
        }
        Learned { tokens: self.tokens, merges: self.merges }
    }

    /// Makes `pair` a token and replaces it everywhere.
    fn merge(&mut self, pair: Pair) {
        let joined = [self.tokens[pair.0 as usize].as_str(), &self.tokens[pair.1 as usize]].concat();
        // Two pairs that give the same bytes are one token, since a file names tokens by their spelling.
        let new = *self.ids.entry(joined).or_insert_with_key(|joined| {
            self.tokens.push(joined.clone());
            self.tokens.len() as u32 - 1
        });
        // A pair can occur again if one of its tokens is made from a second pair. Its merge exists already.
        if self.merged.insert(pair) {
            self.merges.push(pair);
        }
        let words = self.pairs.remove(&pair).unwrap_or_default().words;
        let mut risen = HashSet::new();
        for index in words {
            let word = &mut self.words[index as usize];
            if !word.tokens.windows(2).any(|tokens| (tokens[0], tokens[1]) == pair) {
                continue;
            }
            for old in word.tokens.windows(2) {
                if let Some(occurrences) = self.pairs.get_mut(&(old[0], old[1])) {
                    occurrences.count -= word.count;
                }
            }
            replace(&mut word.tokens, pair, new);
            for now in word.tokens.windows(2) {
                let now = (now[0], now[1]);
                let occurrences = self.pairs.entry(now).or_default();
                occurrences.count += word.count;
                if now.0 == new || now.1 == new {
                    if occurrences.words.last() != Some(&index) {
                        occurrences.words.push(index);
                    }
                    risen.insert(now);
                }
            }
        }
        for pair in risen {
            let count = self.pairs.get(&pair).map_or(0, |occurrences| occurrences.count);
            self.queue.push((count, Reverse(pair)));
        }
    }
}

/// Replaces `pair` by `new`, from left to right.
fn replace(tokens: &mut Vec<u32>, pair: Pair, new: u32) {
    let (mut read, mut write) = (0, 0);
    while read < tokens.len() {
        let found = read + 1 < tokens.len() && (tokens[read], tokens[read + 1]) == pair;
        tokens[write] = if found { new } else { tokens[read] };
        read += if found { 2 } else { 1 };
        write += 1;
    }
    tokens.truncate(write);
}
