//! Causal attention of one sequence, head by head, with grouped key/value heads.
//!
//! `O = softmax(scale · Q·Kᵀ)·V`, where a query sees its own position and those before it (Vaswani et al. 2017,
//! "Attention Is All You Need", section 3.2.1). Besides the output only the log-sum-exp of each query's scores is kept,
//! and the backward recomputes the probabilities from it block by block (Dao et al. 2022, "FlashAttention", section
//! 3.1), so that no `[len, context]` matrix is ever stored.
//!
//! ```text
//! forward, for each block of QUERY_BLOCK queries, with the keys that some query of it sees:
//!   S = K·Q_bᵀ                       gemm into the scratch, [keys, block]
//!   S = cap·tanh(scale·S / cap)      only with a soft cap; scale is 1 from here on
//!   E = exp(scale·S − max)           on the visible scores of each column, 0 on the others; lse = max + log ΣE
//!   O_b = (E ∘ M)ᵀ·V / ΣE            gemm; M is the dropout mask
//! backward, for each query head of a group, for each block, the last block first:
//!   D = rowsum(dO_b ∘ O_b)           = rowsum(P ∘ dP)
//!   S = K·Q_bᵀ,  G = V·dO_bᵀ         two gemms, [keys, block]
//!   P = exp(scale·S − lse),  dS = scale·P ∘ (M ∘ G − D)
//!   with a soft cap: S' = cap·tanh(scale·S / cap),  P = exp(S' − lse),  dS = scale·(1 − (S'/cap)²)·P ∘ (M ∘ G − D)
//!   dQ_b = dSᵀ·K,  dK += dS·Q_b,  dV += (P ∘ M)·dO_b
//! over the pages of a key-value cache, for each block b of KEY_BLOCK keys of which a query of a call sees any:
//!   S   = scale · Q·K_bᵀ                           a product for each page of PAGE keys; capped, with a soft cap
//!   m_b = max S,  E = exp(S − m_b),  l_b = Σ E     row by row, over the keys that the row sees; 0 on the others
//!   O_b = E·V_b                                    a product for each page, added up in the order of the keys
//! fold over b, row by row, from m = m_b, l = l_b, O = O_b of the first block b that the row sees
//!   M = max(m, m_b),  O = e^(m − M)·O + e^(m_b − M)·O_b,  l likewise,  m = M;  at the end O / l
//! ```
//!
//! The scores of a block of queries are stored transposed, a row for each key: so keys and values enter every product
//! as they are stored, only the few queries of a block must be transposed, and the softmax needs no sums across lanes.
//!
//! 1. The last block overwrites the rows of `dK` and `dV` that it sees and the others add. Without a window these are all
//!    rows, so neither needs to be cleared; with one, the rows before them are.
//! 2. A block's output depends on its own queries and the keys up to its end alone: a caller may cut the queries at
//!    multiples of [`QUERY_BLOCK`] and get the same bits.
//! 3. A block of one query, such as the last of `QUERY_BLOCK·n + 1` queries, takes a path that streams keys and values
//!    once, without a gemm. The choice falls by block, never by how the queries were cut.
//! 4. Unseen keys within a block count with weight 0, so the values there must be finite: they belong to other queries
//!    of the same block.
//! 5. Keys that lie before the windows of all queries of a block are not read: a product begins at the first key that the
//!    block's first query sees, over pages at the first page with such a key.

mod blocks;
mod cached;
mod columns;
mod few;
mod page;
mod single;
mod widen;

pub use blocks::{AttentionBackward, AttentionForward, attention_backward_group, attention_forward_head};
pub use cached::{
    BlockQueries, KEY_BLOCK, Pages, attend_block, attend_block_scratch_len, fold, fold_end, partial_cols,
};
pub use page::{CacheFormat, PAGE, PageMut, append_to_page, page_len};
use smallmind_simd::Isa;

use crate::dropout::{DropoutKey, scaled_mask, scaled_mask_row};
use crate::matmul::gemm_scratch_len;
use crate::soft_cap::cap_scores;

/// Queries are worked on in blocks of this many rows, so callers must divide them at multiples of it.
///
/// Fitted to contexts from 64 to 4,096: larger blocks compute more scores that no query sees, smaller ones read keys
/// and values more often.
pub const QUERY_BLOCK: usize = 32;

/// How a query scores the keys of its sequence, and which of them it sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scoring {
    /// What the product of a query and a key is multiplied by, mostly `1/√head_dim`.
    pub scale: f32,
    /// Soft cap, above 0: the scaled score `s` becomes `cap · tanh(s / cap)` before the softmax (Gemma Team 2024, "Gemma
    /// 2", section 2).
    pub cap: Option<f32>,
    /// Sliding window, at least 1 key: the query at position `p` sees the keys `p − window + 1` to `p`, as many as there
    /// are (Beltagy et al. 2020, "Longformer", section 3.1). `None`: the keys `0` to `p`.
    pub window: Option<usize>,
}

impl Scoring {
    /// Scores multiplied by `scale`, without cap and window.
    pub fn new(scale: f32) -> Self {
        Self { scale, cap: None, window: None }
    }

    /// The first key that the query at `position` sees.
    #[inline(always)]
    pub fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The position of the first query that sees no key before `key`, which is above 0.
    pub fn first_behind(&self, key: usize) -> usize {
        self.window.map_or(usize::MAX, |window| key.saturating_add(window - 1))
    }

    /// Caps raw scores, if there is a cap. Gives what they are still to be multiplied by.
    #[inline(always)]
    fn cap_scores<I: Isa>(&self, isa: I, scores: &mut [f32]) -> f32 {
        let Some(cap) = self.cap else { return self.scale };
        cap_scores(isa, scores, self.scale, cap);
        1.0
    }
}

/// The heads of an attention layer and how they score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// How many query heads.
    pub heads: usize,
    /// How many key/value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// How they score.
    pub scoring: Scoring,
    /// Dropout of the probabilities.
    pub dropout: Option<AttentionDropout>,
}

/// Dropout of attention probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionDropout {
    /// The key of the random numbers, which differs by layer and step.
    pub key: DropoutKey,
    /// The probability of dropping.
    pub p: f32,
    /// The row of the sequence's first query in the batch, so that sequences of one batch draw different masks.
    pub first_row: usize,
}

/// Dropout of the probabilities of one query head, or of a group of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadDropout {
    /// The key of the random numbers.
    pub key: DropoutKey,
    /// The probability of dropping.
    pub p: f32,
    /// How many query heads the layer has.
    pub heads: usize,
    /// The query head; the first one of a group.
    pub head: usize,
    /// The row of the call's first query in the batch.
    pub first_row: usize,
}

impl AttentionShape {
    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The dropout of query head `head`.
    pub fn head_dropout(&self, head: usize) -> Option<HeadDropout> {
        let of_head =
            |d: AttentionDropout| HeadDropout { key: d.key, p: d.p, heads: self.heads, head, first_row: d.first_row };
        self.dropout.map(of_head)
    }

    /// Asserts that `kv_heads` divides `heads`.
    ///
    /// # Panics
    /// If `kv_heads` is 0 or does not divide `heads`.
    pub fn check(&self) {
        let whole = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        assert!(whole, "{} query heads can't share {} key/value heads", self.heads, self.kv_heads);
    }
}

impl HeadDropout {
    /// The mask of query `row` of the call and key position `key`: 0, or `1/(1 − p)`.
    ///
    /// It depends only on the dropout key, the head, the query's row in the batch and the key's position.
    pub fn mask(&self, row: usize, key: usize) -> f32 {
        scaled_mask(self.key, self.p, self.index(row, key))
    }

    /// The index of a random number. The low 32 bits hold the row, the high 32 bits the key position and the head: the
    /// queries of a block get adjacent indices.
    #[inline(always)]
    fn index(&self, row: usize, key: usize) -> u64 {
        (((key * self.heads + self.head) as u64) << 32) + (self.first_row + row) as u64
    }

    /// Writes to `out` `[queries]` the masks of key position `key` for the queries of the call from `row` on.
    #[inline(always)]
    fn mask_queries<I: Isa>(&self, isa: I, row: usize, key: usize, out: &mut [f32]) {
        scaled_mask_row(isa, self.key, self.p, self.index(row, key), out);
    }

    /// The dropout of the query head that comes `offset` heads later.
    fn for_head_after(self, offset: usize) -> Self {
        Self { head: self.head + offset, ..self }
    }
}

/// Elements of scratch that [`attention_forward_head`] needs for up to `len` queries over up to `context` keys (`past +
/// len`) of `head_dim` columns.
pub fn attention_forward_scratch_len<I: Isa>(isa: I, len: usize, context: usize, head_dim: usize) -> usize {
    let rows = len.min(QUERY_BLOCK);
    let scores = gemm_scratch_len(isa, context, rows, head_dim);
    let out = gemm_scratch_len(isa, rows, head_dim, context);
    context * score_stride(rows) + scores.max(out)
}

/// Elements of scratch that [`attention_backward_group`] needs for up to `len` queries of `head_dim` columns.
pub fn attention_backward_scratch_len<I: Isa>(isa: I, len: usize, head_dim: usize) -> usize {
    let rows = len.min(QUERY_BLOCK);
    let scores = gemm_scratch_len(isa, len, rows, head_dim);
    let d_query = gemm_scratch_len(isa, rows, head_dim, len);
    let d_key = gemm_scratch_len(isa, len, head_dim, rows);
    2 * len * score_stride(rows) + scores.max(d_query).max(d_key)
}

/// Elements between rows of a block of scores for `queries` queries: a multiple of a cache line, and so of the vectors
/// of every instruction set.
fn score_stride(queries: usize) -> usize {
    const LINE: usize = 16;
    queries.next_multiple_of(LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_differ_by_head_row_and_key_alone() {
        let key = DropoutKey { seed: 1, step: 2, salt: 3 };
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            scoring: Scoring::new(1.0),
            dropout: Some(AttentionDropout { key, p: 0.5, first_row: 10 }),
        };
        let keys = |dropout: HeadDropout, row| (0..64).map(|key| dropout.mask(row, key)).collect::<Vec<_>>();
        let mut seen = Vec::new();
        for head in 0..4 {
            let dropout = shape.head_dropout(head).unwrap();
            for row in 0..8 {
                seen.push(keys(dropout, row));
                let later = HeadDropout { first_row: 10 + row, ..dropout };
                assert_eq!(keys(later, 0), seen[seen.len() - 1], "a call that starts at row {row}");
                assert_eq!(keys(shape.head_dropout(0).unwrap().for_head_after(head), row), seen[seen.len() - 1]);
            }
        }
        for (i, mask) in seen.iter().enumerate() {
            assert!(mask.contains(&0.0) && mask.contains(&2.0), "{mask:?}");
            assert!(!seen[..i].contains(mask), "mask {i} was drawn before");
        }
    }
}
