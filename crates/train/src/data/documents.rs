//! Windows that begin where documents begin.

use std::ops::Range;

use super::dataset::Dataset;
use super::error::DataError;
use super::windows::{Draw, RandomWindows, Window, fill_window};

/// Random windows that begin at documents. Each begins with the token that ends the document before, as in a text that
/// a model begins. All documents are equally likely, except the first, and the last ones if fewer tokens than a window
/// follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentWindows {
    context: usize,
    end: u32,
    tokens: usize,
    /// Indices of the tokens that end documents, except the last token of the text.
    ends: Vec<usize>,
    /// A window may begin at this many of the first `ends`.
    starts: usize,
}

impl DocumentWindows {
    /// Windows of `context` tokens of `data`, in which the token `end` follows each document.
    ///
    /// # Errors
    /// [`DataError::NoDocuments`] if no `end` is followed by `context` tokens.
    pub fn new(data: &Dataset, end: u32, context: usize) -> Result<Self, DataError> {
        // This checks the context and the length of the text before the text is read.
        RandomWindows::new(data.tokens(), context, 0)?;
        let tokens = data.tokens();
        let mut ends = Vec::new();
        let mut part = [0; 4096];
        for first in (0..tokens - 1).step_by(part.len()) {
            let part = &mut part[..(tokens - 1 - first).min(4096)];
            data.copy(first, part)?;
            ends.extend((first..).zip(part.iter()).filter(|(_, token)| **token == end).map(|(at, _)| at));
        }
        let starts = ends.partition_point(|at| at + context < tokens);
        if starts == 0 {
            return Err(DataError::NoDocuments { context });
        }
        Ok(Self { context, end, tokens, ends, starts })
    }

    /// Index of the first token of row `row` of step `step`; [`RandomWindows`] draws it.
    #[must_use]
    pub fn start(&self, seed: u64, step: u64, row: u64) -> usize {
        self.ends[RandomWindows::draw(seed, step, row, self.starts as u64)]
    }

    /// Fills rows of a batch, from `draw.first_row` on: inputs `x` and targets `y`, both `[rows, context]`. Allocates
    /// nothing.
    ///
    /// # Panics
    /// If `x` and `y` aren't of the same whole number of rows.
    ///
    /// # Errors
    /// Files that can't be read.
    pub fn fill(&self, data: &Dataset, draw: Draw, x: &mut [u32], y: &mut [u32]) -> Result<(), DataError> {
        assert_eq!(x.len(), y.len(), "x and y are both [rows, context]");
        assert_eq!(x.len() % self.context, 0, "x is [rows, context] with a context of {}", self.context);
        let rows = x.chunks_exact_mut(self.context).zip(y.chunks_exact_mut(self.context));
        for ((x, y), row) in rows.zip(0_u64..) {
            fill_window(data, self.start(draw.seed, draw.step, draw.first_row.wrapping_add(row)), x, y)?;
        }
        Ok(())
    }

    /// The sequences of a window: each begins with a token that ends a document and extends to the next such token.
    pub fn sequences<'a>(&self, window: &'a [u32]) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let end = self.end;
        let mut start = 0;
        std::iter::from_fn(move || {
            let rest = window.get(start + 1..);
            let len = rest.map_or(window.len() - start, |rest| {
                1 + rest.iter().position(|&token| token == end).unwrap_or(rest.len())
            });
            let range = start..start + len;
            start = range.end;
            (!range.is_empty()).then_some(range)
        })
    }

    /// Windows of at most the context that cover all documents in order. None spans two documents; every token but the
    /// first is a target exactly once.
    pub fn sequential(&self) -> impl Iterator<Item = Window> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied().filter(|&at| at > 0));
        let ends = self.ends.iter().copied().filter(|&at| at > 0).chain([self.tokens - 1]);
        starts.zip(ends).flat_map(move |(from, to)| {
            (from..to).step_by(self.context).map(move |start| Window { start, len: self.context.min(to - start) })
        })
    }
}
