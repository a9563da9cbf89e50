//! What a run works on: sequences end to end, described by spans.

use crate::cache::{CacheShape, PAGE_TOKENS};
use crate::{GraphError, Limits};

/// Adjacent tokens of one sequence within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Index of its first token in the batch.
    pub start: usize,
    /// How many tokens.
    pub len: usize,
    /// How many tokens of the sequence came before: the cache holds their keys and values.
    pub past: usize,
    /// Index of the sequence's first page in the batch's list of pages, if it has pages.
    pub first_page: usize,
}

impl Span {
    /// The indices of the span's tokens in the batch.
    pub fn rows(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }

    /// The pages of `table`, the span's pages, to which its tokens are appended.
    fn written<'t>(&self, table: &'t [u32]) -> &'t [u32] {
        if self.len == 0 { &[] } else { &table[self.past / PAGE_TOKENS..] }
    }
}

/// Tokens of several sequences, end to end, no padding: eight users' decode is eight spans of length 1, a chunk of a
/// prompt one span of 64, a training batch B spans of T.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    pub(crate) spans: Vec<Span>,
    pub(crate) outputs: Vec<u32>,
    /// The pages of the cache that hold the sequences, span after span.
    pub(crate) pages: Vec<u32>,
}

impl Batch {
    /// An empty batch, with memory allocated for all that `limits` permit.
    pub fn with_capacity(limits: &Limits) -> Self {
        Self {
            tokens: Vec::with_capacity(limits.tokens),
            positions: Vec::with_capacity(limits.tokens),
            targets: Vec::with_capacity(limits.tokens),
            spans: Vec::with_capacity(limits.spans),
            outputs: Vec::with_capacity(limits.outputs),
            pages: Vec::with_capacity(if limits.pages == 0 {
                0
            } else {
                limits.spans * CacheShape::pages_for(limits.context)
            }),
        }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.targets.clear();
        self.spans.clear();
        self.outputs.clear();
        self.pages.clear();
    }

    /// Appends tokens of a sequence that follow `past` earlier ones. No cache holds the sequence: for a plan with a
    /// cache use [`Batch::push_cached`].
    pub fn push(&mut self, tokens: &[u32], past: usize) {
        self.push_cached(tokens, past, &[]);
    }

    /// Appends tokens of a sequence that follow `past` earlier ones. `pages` of the cache hold it, in the order of its
    /// tokens, the new ones included: at least `(past + tokens) / PAGE_TOKENS` of them, rounded up.
    pub fn push_cached(&mut self, tokens: &[u32], past: usize, pages: &[u32]) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        // Positions saturate at `u32::MAX` instead of overflowing; `check` refuses them.
        let position = |i: usize| u32::try_from(past.saturating_add(i)).unwrap_or(u32::MAX);
        self.positions.extend((0..tokens.len()).map(position));
        self.spans.push(Span { start, len: tokens.len(), past, first_page: self.pages.len() });
        let needed = CacheShape::pages_for(past.saturating_add(tokens.len())).min(pages.len());
        self.pages.extend_from_slice(&pages[..needed]);
    }

    /// Appends a whole sequence for training or evaluation: `targets[i]` should follow `tokens[i]`.
    pub fn push_with_targets(&mut self, tokens: &[u32], targets: &[u32]) {
        self.push(tokens, 0);
        self.targets.extend_from_slice(targets);
    }

    /// Asks for the output row of the last token pushed.
    pub fn want_last(&mut self) {
        if let Some(last) = self.tokens.len().checked_sub(1) {
            self.outputs.push(last as u32);
        }
    }

    /// Asks for the output rows of all tokens of the last span.
    pub fn want_span(&mut self) {
        if let Some(span) = self.spans.last() {
            self.outputs.extend(span.rows().map(|row| row as u32));
        }
    }

    /// Asks for the output rows of all tokens.
    pub fn want_all(&mut self) {
        self.outputs.clear();
        self.outputs.extend(0..self.tokens.len() as u32);
    }

    /// How many tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The spans.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The pages of the cache that hold the sequence of one of the spans, in the order of its tokens.
    pub fn pages(&self, span: &Span) -> &[u32] {
        let len = CacheShape::pages_for(span.past.saturating_add(span.len));
        self.pages.get(span.first_page..span.first_page + len).unwrap_or_default()
    }

    /// The token ids.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Each token's position within its sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The token that should follow each token; empty if nothing is trained or evaluated.
    pub fn targets(&self) -> &[u32] {
        &self.targets
    }

    /// The tokens whose output row is asked for.
    pub fn outputs(&self) -> &[u32] {
        &self.outputs
    }

    /// Checks the batch against what a plan was made for. `written` is memory with a bit for each page of the cache.
    pub(crate) fn check(&self, limits: &Limits, needs: &Needs, written: &mut [u64]) -> Result<(), GraphError> {
        let within = |what, got, limit| if got <= limit { Ok(()) } else { Err(GraphError::Limit { what, got, limit }) };
        within("tokens", self.tokens.len(), limits.tokens)?;
        within("outputs", self.outputs.len(), limits.outputs)?;
        within("spans", self.spans.len(), limits.spans)?;
        for span in &self.spans {
            within("past + len", span.past.saturating_add(span.len), limits.context)?;
        }
        let largest = |ids: &[u32]| ids.iter().copied().max().map_or(0, |id| id as usize);
        within("token id", largest(&self.tokens), needs.token_entries.saturating_sub(1))?;
        within("position", largest(&self.positions), needs.position_entries.saturating_sub(1))?;
        if needs.targets {
            if self.targets.len() != self.tokens.len() {
                let (targets, tokens) = (self.targets.len(), self.tokens.len());
                return Err(GraphError::Batch(format!("{targets} targets for {tokens} tokens")));
            }
            let real = |t: &&u32| **t != smallmind_kernels::loss::IGNORE;
            let largest = self.targets.iter().filter(real).max().map_or(0, |id| *id as usize);
            within("target id", largest, needs.target_entries.saturating_sub(1))?;
        }
        if let Some(row) = self.outputs.iter().find(|r| **r as usize >= self.tokens.len()) {
            return Err(GraphError::Batch(format!("output row {row} of a batch of {} tokens", self.tokens.len())));
        }
        if needs.cache {
            self.check_pages(limits.pages, written)?;
        }
        Ok(())
    }

    /// Refuses spans with too few or unknown pages, and spans that would race: two write the same page, or one reads a
    /// page that another writes.
    fn check_pages(&self, pages: usize, written: &mut [u64]) -> Result<(), GraphError> {
        let refuse = |why: String| Err(GraphError::Batch(why));
        written.fill(0);
        for (i, span) in self.spans.iter().enumerate() {
            let table = self.pages(span);
            if table.len() < CacheShape::pages_for(span.past.saturating_add(span.len)) {
                return refuse(format!(
                    "span {i} has {} tokens, past ones included, and too few pages of the cache for them",
                    span.past + span.len
                ));
            }
            if let Some(page) = table.iter().find(|page| **page as usize >= pages) {
                return refuse(format!("page {page} of a cache of {pages}"));
            }
            for page in span.written(table) {
                let (word, bit) = (*page as usize / 64, 1 << (*page % 64));
                if written[word] & bit != 0 {
                    return refuse(format!("page {page} of the cache written for two spans, or twice for one"));
                }
                written[word] |= bit;
            }
        }
        for span in &self.spans {
            let table = self.pages(span);
            let read = &table[..table.len() - span.written(table).len()];
            if let Some(page) = read.iter().find(|page| written[**page as usize / 64] & (1 << (**page % 64)) != 0) {
                return refuse(format!("page {page} of the cache read for one span and written for another"));
            }
        }
        Ok(())
    }
}

/// What the operations of a plan ask of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) token_entries: usize,
    pub(crate) position_entries: usize,
    pub(crate) target_entries: usize,
    pub(crate) targets: bool,
    pub(crate) cache: bool,
}

/// The scalar inputs of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalars {
    /// Factor of the gradients of the summed loss: 1 / (number of targets in the whole accumulated batch).
    pub loss_scale: f32,
    /// Seed of the dropout masks of a training run.
    pub dropout_seed: u64,
    /// How many micro-batches of the training came before: each has masks of its own.
    pub dropout_step: u32,
    /// AdamW's learning rate.
    pub learning_rate: f64,
    /// AdamW's step, counted from 1.
    pub step: u64,
}

impl Default for Scalars {
    fn default() -> Self {
        Self { loss_scale: 1.0, dropout_seed: 0, dropout_step: 0, learning_rate: 0.0, step: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No public function makes such a batch; the check protects the kernels nevertheless.
    #[test]
    fn an_output_row_beyond_the_batch_is_refused() {
        let limits = Limits { tokens: 4, outputs: 4, spans: 1, context: 4, pages: 1 };
        let needs = Needs { token_entries: 9, position_entries: 9, target_entries: 9, targets: false, cache: false };
        let mut batch = Batch::with_capacity(&limits);
        batch.push(&[1, 2, 3], 0);
        batch.want_last();
        assert!(batch.check(&limits, &needs, &mut []).is_ok());
        batch.outputs.push(3);
        let error = batch.check(&limits, &needs, &mut []);
        assert!(matches!(&error, Err(GraphError::Batch(why)) if why == "output row 3 of a batch of 3 tokens"));
    }
}
