//! Byte-pair encoding of a word: pairs of neighbouring tokens are merged, the lowest rank first, of equals the
//! leftmost.
//!
//! ```text
//! symbols := the tokens of the characters
//! while a pair of neighbours has a rank: merge the pair with the lowest (rank, position)
//! ```
//!
//! In a `tokenizer.json` each pair has a rank of its own. In SentencePiece's vocabularies a pair has the rank of the
//! token that it makes: tokens with a higher score come first, tokens of one score have one rank. Then two pairs may
//! make the same token, and the leftmost is merged first, which no list of merges can say.
//!
//! Words of up to [`SCANNED`] symbols are searched for the lowest rank anew after each merge, longer ones have a heap.
//! Both give the same: an entry of the heap that no longer holds is recognised by the token that it would make.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::model_entry::{BpeEntry, MergeList, Vocab};

/// The most symbols that are searched without a heap.
const SCANNED: usize = 32;
/// No pair.
const NONE: u32 = u32::MAX;
/// Ids from here on stand for characters that occur in tokens and are no tokens.
const CHARACTER_IDS: u32 = 1 << 31;

/// Merges of pairs, ready to be applied.
#[derive(Debug)]
pub(super) struct Merges {
    /// The entry without its merges.
    entry: BpeEntry,
    order: Order,
    /// Rank and id of the token that a pair makes.
    pairs: HashMap<u64, (u32, u32), BuildHasherDefault<PairHasher>>,
    characters: HashMap<char, u32, BuildHasherDefault<PairHasher>>,
    /// The token of each byte, if there is byte fallback.
    bytes: Option<Box<[Option<u32>; 256]>>,
    unknown: Option<u32>,
    /// Bytes of the characters with ids from [`CHARACTER_IDS`] on.
    loose: Vec<char>,
}

/// What the ranks come from.
#[derive(Debug)]
enum Order {
    /// The merges of the file, by the ids of their parts.
    Listed(Vec<(u32, u32)>),
    /// The scores of the tokens, by id.
    Scores(Vec<f32>),
}

/// Buffers that one thread uses for all words.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    symbols: Vec<u32>,
    /// Rank and merged id of each symbol with the next.
    ranks: Vec<(u32, u32)>,
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    id: u32,
    previous: u32,
    next: u32,
}

/// The most work, in bytes that are hashed, that it may take to divide all tokens of a vocabulary into two.
pub(super) const MAX_DIVISION_WORK: u64 = 1 << 30;

/// Bytes that are hashed to look up both parts of every division of the tokens.
pub(super) fn division_work<'t>(tokens: impl IntoIterator<Item = &'t str>) -> u64 {
    tokens.into_iter().map(|token| (token.len() as u64).pow(2)).sum()
}

/// Multiplies and folds: for keys that come from a vocabulary, not from a text.
#[derive(Debug, Default)]
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Merges {
    /// From a checked entry without prefix and suffix. `scores`, by id, replace the ranks of its merges.
    pub fn new(mut entry: BpeEntry, scores: Option<Vec<f32>>) -> Self {
        let list = std::mem::take(&mut entry.merges);
        let id = |token: &str| entry.vocab.get(token).copied();
        let byte = |byte: u8| id(&format!("<0x{byte:02X}>"));
        let bytes = entry.byte_fallback.then(|| Box::new(std::array::from_fn(|value| byte(value as u8))));
        let mut one = HashMap::with_hasher(BuildHasherDefault::default());
        for (token, &id) in &entry.vocab {
            let mut characters = token.chars();
            if let (Some(character), None) = (characters.next(), characters.next()) {
                one.insert(character, id);
            }
        }
        let unknown = entry.unk_token.as_deref().and_then(id);
        let order = Order::Listed(Vec::with_capacity(list.len()));
        let pairs = HashMap::with_capacity_and_hasher(list.len(), BuildHasherDefault::default());
        let mut merges = Self { entry, order, pairs, characters: one, bytes, unknown, loose: Vec::new() };
        match scores {
            Some(scores) => {
                merges.rank_by_scores(&scores);
                merges.order = Order::Scores(scores);
            }
            None => merges.order = Order::Listed(merges.rank_by_order(&list)),
        }
        merges
    }

    fn rank_by_order(&mut self, list: &MergeList) -> Vec<(u32, u32)> {
        let mut order = Vec::with_capacity(list.len());
        let mut joined = String::new();
        for ((left, right), rank) in list.iter().zip(0..) {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = |token: &str| self.entry.vocab.get(token).copied();
            if let (Some(left), Some(right), Some(merged)) = (id(left), id(right), id(&joined)) {
                self.pairs.insert(pair_key(left, right), (rank, merged));
                order.push((left, right));
            }
        }
        order
    }

    /// Every division of a token into two tokens is a merge.
    fn rank_by_scores(&mut self, scores: &[f32]) {
        let mut order: Vec<f32> = scores.to_vec();
        order.sort_unstable_by(|a, b| b.total_cmp(a));
        order.dedup();
        let entry = std::mem::take(&mut self.entry);
        for (token, &merged) in &entry.vocab {
            let score = scores.get(merged as usize).copied().unwrap_or_default();
            let rank = order.partition_point(|other| other.total_cmp(&score).is_gt()) as u32;
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(left), Some(right)) = (self.symbol(&entry, left), self.symbol(&entry, right)) {
                    self.pairs.insert(pair_key(left, right), (rank, merged));
                }
            }
        }
        self.entry = entry;
    }

    /// The id of a token, or of a single character that is none.
    fn symbol(&mut self, entry: &BpeEntry, text: &str) -> Option<u32> {
        if let Some(&id) = entry.vocab.get(text) {
            return Some(id);
        }
        let mut characters = text.chars();
        let character = characters.next().filter(|_| characters.as_str().is_empty())?;
        let next = CHARACTER_IDS + self.loose.len() as u32;
        Some(*self.characters.entry(character).or_insert_with(|| {
            self.loose.push(character);
            next
        }))
    }

    /// The id of a token.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.entry.vocab.get(token).copied()
    }

    /// The vocabulary, without its merges.
    pub fn entry(&self) -> &BpeEntry {
        &self.entry
    }

    /// The scores by id, if ranks come from them.
    pub fn scores(&self) -> Option<&[f32]> {
        match &self.order {
            Order::Listed(_) => None,
            Order::Scores(scores) => Some(scores),
        }
    }

    /// The tokens by id, empty for ids without a token.
    pub fn texts(&self) -> Vec<&str> {
        let count = self.entry.vocab.values().max().map_or(0, |id| *id as usize + 1);
        let mut texts = vec![""; count];
        self.entry.vocab.iter().for_each(|(text, &id)| texts[id as usize] = text);
        texts
    }

    /// The merges as pairs of tokens, the first to apply first. With scores these are all pairs that make a token, the
    /// highest score first, of equals the shortest left part.
    pub fn list(&self) -> Vec<(&str, &str)> {
        let texts = self.texts();
        let scores = match &self.order {
            Order::Listed(order) => {
                return order.iter().map(|&(left, right)| (texts[left as usize], texts[right as usize])).collect();
            }
            Order::Scores(scores) => scores,
        };
        let mut merges = Vec::new();
        for (&text, &score) in texts.iter().zip(scores) {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if self.entry.vocab.contains_key(left) && self.entry.vocab.contains_key(right) {
                    merges.push((score, left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (a.1.len(), a.2.len()).cmp(&(b.1.len(), b.2.len()))));
        merges.into_iter().map(|(_, left, right)| (left, right)).collect()
    }

    /// Appends the ids of a word; false if a character is not in the vocabulary and there is no unknown token.
    pub fn encode(&self, word: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) -> bool {
        if self.entry.ignore_merges
            && let Some(id) = self.id_of(word)
        {
            ids.push(id);
            return true;
        }
        scratch.symbols.clear();
        if !self.symbols(word, &mut scratch.symbols) {
            return false;
        }
        if scratch.symbols.len() <= SCANNED {
            self.merge_scanning(scratch);
        } else {
            self.merge_with_heap(scratch);
        }
        if self.loose.is_empty() {
            ids.extend_from_slice(&scratch.symbols);
            return true;
        }
        scratch.symbols.iter().all(|&id| match id.checked_sub(CHARACTER_IDS) {
            None => {
                ids.push(id);
                true
            }
            Some(index) => self.spell(self.loose[index as usize], ids),
        })
    }

    /// The first symbols of a word, one for each character that is a token.
    fn symbols(&self, word: &str, symbols: &mut Vec<u32>) -> bool {
        // The unknown token for the characters before, which stands in the way of no byte.
        let mut pending = false;
        for character in word.chars() {
            if let Some(&id) = self.characters.get(&character) {
                if std::mem::take(&mut pending) {
                    symbols.extend(self.unknown);
                }
                symbols.push(id);
            } else if !self.spell_as_bytes(character, symbols) {
                if self.unknown.is_none() {
                    return false;
                }
                if pending && !self.entry.fuse_unk {
                    symbols.extend(self.unknown);
                }
                pending = true;
            }
        }
        if pending {
            symbols.extend(self.unknown);
        }
        true
    }

    fn spell(&self, character: char, ids: &mut Vec<u32>) -> bool {
        if !self.spell_as_bytes(character, ids) {
            ids.extend(self.unknown);
            return self.unknown.is_some();
        }
        true
    }

    /// Appends the tokens of a character's bytes, if all of them are there.
    fn spell_as_bytes(&self, character: char, ids: &mut Vec<u32>) -> bool {
        let Some(bytes) = &self.bytes else { return false };
        let mut utf8 = [0; 4];
        let spelled = character.encode_utf8(&mut utf8).as_bytes();
        if spelled.iter().any(|byte| bytes[*byte as usize].is_none()) {
            return false;
        }
        ids.extend(spelled.iter().filter_map(|byte| bytes[*byte as usize]));
        true
    }

    fn pair(&self, left: u32, right: u32) -> (u32, u32) {
        self.pairs.get(&pair_key(left, right)).copied().unwrap_or((NONE, 0))
    }

    fn merge_scanning(&self, scratch: &mut Scratch) {
        let Scratch { symbols, ranks, .. } = scratch;
        ranks.clear();
        ranks.extend(symbols.windows(2).map(|pair| self.pair(pair[0], pair[1])));
        loop {
            let mut lowest = (NONE, 0, 0);
            for (at, &(rank, id)) in ranks.iter().enumerate() {
                if rank < lowest.0 {
                    lowest = (rank, at, id);
                }
            }
            let (rank, at, id) = lowest;
            if rank == NONE {
                return;
            }
            symbols[at] = id;
            symbols.remove(at + 1);
            ranks.remove(at);
            if at > 0 {
                ranks[at - 1] = self.pair(symbols[at - 1], id);
            }
            if let Some(&next) = symbols.get(at + 1) {
                ranks[at] = self.pair(id, next);
            }
        }
    }

    fn merge_with_heap(&self, scratch: &mut Scratch) {
        let Scratch { symbols, links, heap, .. } = scratch;
        let count = symbols.len() as u32;
        links.clear();
        links.extend(symbols.iter().zip(0u32..).map(|(&id, at)| Link {
            id,
            previous: at.wrapping_sub(1),
            next: if at + 1 < count { at + 1 } else { NONE },
        }));
        heap.clear();
        let push = |heap: &mut BinaryHeap<_>, at: u32, left: u32, right: u32| {
            let (rank, id) = self.pair(left, right);
            if rank != NONE {
                heap.push(Reverse((rank, at, id)));
            }
        };
        for (pair, at) in symbols.windows(2).zip(0..) {
            push(heap, at, pair[0], pair[1]);
        }
        while let Some(Reverse((_, at, id))) = heap.pop() {
            let left = links[at as usize];
            // A symbol that was merged into the one before it has no id.
            if left.id == NONE || left.next == NONE {
                continue;
            }
            let right = links[left.next as usize];
            let (rank, merged) = self.pair(left.id, right.id);
            if rank == NONE || merged != id {
                continue;
            }
            links[left.next as usize].id = NONE;
            links[at as usize] = Link { id, next: right.next, ..left };
            if right.next != NONE {
                links[right.next as usize].previous = at;
                push(heap, at, id, links[right.next as usize].id);
            }
            if left.previous != NONE {
                push(heap, left.previous, links[left.previous as usize].id, id);
            }
        }
        symbols.clear();
        symbols.extend(links.iter().map(|link| link.id).filter(|id| *id != NONE));
    }
}

/// As the library writes a model of the kind BPE.
impl Serialize for Merges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let BpeEntry { unk_token, continuing_subword_prefix, end_of_word_suffix, fuse_unk, .. } = &self.entry;
        let mut model = serializer.serialize_struct("BPE", 10)?;
        model.serialize_field("type", "BPE")?;
        model.serialize_field("dropout", &None::<f32>)?;
        model.serialize_field("unk_token", unk_token)?;
        model.serialize_field("continuing_subword_prefix", continuing_subword_prefix)?;
        model.serialize_field("end_of_word_suffix", end_of_word_suffix)?;
        model.serialize_field("fuse_unk", fuse_unk)?;
        model.serialize_field("byte_fallback", &self.entry.byte_fallback)?;
        model.serialize_field("ignore_merges", &self.entry.ignore_merges)?;
        model.serialize_field("vocab", &ById(&self.entry.vocab))?;
        model.serialize_field("merges", &self.list())?;
        model.end()
    }
}

/// A vocabulary in the order of its ids.
struct ById<'v>(&'v Vocab);

impl Serialize for ById<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tokens: Vec<(&String, u32)> = self.0.iter().map(|(token, &id)| (token, id)).collect();
        tokens.sort_unstable_by_key(|(_, id)| *id);
        serializer.collect_map(tokens)
    }
}
