//! The layout of the key-value cache.

use std::ops::Range;
use std::sync::Arc;

use smallmind_kernels::attention::PAGE;

use crate::{Buffer, GraphError};

/// Tokens whose keys and values a page of the cache holds.
pub const PAGE_TOKENS: usize = PAGE;

/// The sizes of a key-value cache: for one layer after another its pages, each with the keys and values of
/// [`PAGE_TOKENS`] tokens of one sequence, head by head. Each [`crate::Batch`] says which pages hold its sequences, in
/// the order of their tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// For each layer the number of columns of its keys, and of its values: `kv_heads · head_dim`.
    pub layers: Arc<[usize]>,
    /// Pages of each layer. A sequence has the same page numbers in all layers.
    pub pages: usize,
}

impl CacheShape {
    /// How many pages hold `tokens` tokens of a sequence.
    pub fn pages_for(tokens: usize) -> usize {
        tokens.div_ceil(PAGE_TOKENS)
    }

    /// Elements in all.
    pub fn len(&self) -> usize {
        self.offset(self.layers.len())
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory for a cache of this shape.
    ///
    /// # Errors
    /// [`GraphError::OutOfMemory`].
    pub fn allocate(&self) -> Result<Buffer, GraphError> {
        Buffer::zeroed(self.checked_len()?)
    }

    /// Copies page `from` of a cache of this shape to page `to`, in all layers.
    ///
    /// # Panics
    /// If the cache has no such pages.
    pub fn copy_page(&self, cache: &mut [f32], from: u32, to: u32) {
        assert!((from.max(to) as usize) < self.pages, "pages {from} and {to} of a cache of {}", self.pages);
        for layer in 0..self.layers.len() {
            let (from, to) = (self.page(layer, from), self.page(layer, to));
            cache.copy_within(from, to.start);
        }
    }

    /// The elements of a page of a layer.
    fn page(&self, layer: usize, page: u32) -> Range<usize> {
        let len = self.page_len(layer);
        let start = self.offset(layer) + page as usize * len;
        start..start + len
    }

    /// Elements of a page of a layer.
    fn page_len(&self, layer: usize) -> usize {
        self.layers[layer] * PAGE_TOKENS * 2
    }

    /// Elements before those of `layer`.
    pub(crate) fn offset(&self, layer: usize) -> usize {
        self.layers.iter().take(layer).sum::<usize>() * self.pages * PAGE_TOKENS * 2
    }

    /// [`CacheShape::len`], or an error if it is beyond memory.
    pub(crate) fn checked_len(&self) -> Result<usize, GraphError> {
        let cols = self.layers.iter().try_fold(0, |sum: usize, cols| sum.checked_add(*cols));
        let rows = self.pages.checked_mul(PAGE_TOKENS * 2);
        let len = rows.zip(cols).and_then(|(rows, cols)| rows.checked_mul(cols));
        len.filter(|n| *n < isize::MAX as usize / 16).ok_or(GraphError::OutOfMemory { bytes: usize::MAX })
    }
}
