//! The key-value cache: its layout and its memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use smallmind_kernels::attention::{CacheFormat, PAGE, page_len};

use crate::{Buffer, GraphError};

/// Tokens whose keys and values a page of the cache holds.
pub const PAGE_TOKENS: usize = PAGE;

/// The heads of a layer of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayer {
    /// How many key/value heads.
    pub kv_heads: usize,
    /// Columns of a head's keys, and of its values.
    pub head_dim: usize,
}

/// The sizes of a key-value cache: for one layer after another its pages, each with the keys and values of
/// [`PAGE_TOKENS`] tokens of one sequence, head by head. Each [`crate::Batch`] says which pages hold its sequences, in
/// the order of their tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// How keys and values are stored.
    pub format: CacheFormat,
    /// The layers.
    pub layers: Arc<[CacheLayer]>,
    /// Pages of each layer. A sequence has the same page numbers in all layers.
    pub pages: usize,
}

impl CacheShape {
    /// How many pages hold `tokens` tokens of a sequence.
    pub fn pages_for(tokens: usize) -> usize {
        tokens.div_ceil(PAGE_TOKENS)
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.len() * size_of::<f32>()
    }

    /// Words in all, each of the size of an `f32`.
    pub(crate) fn len(&self) -> usize {
        self.offset(self.layers.len())
    }

    /// The words of a page of a layer.
    fn page(&self, layer: usize, page: u32) -> Range<usize> {
        let len = self.page_len(layer);
        let start = self.offset(layer) + page as usize * len;
        start..start + len
    }

    /// Words of a page of a layer.
    fn page_len(&self, layer: usize) -> usize {
        let CacheLayer { kv_heads, head_dim } = self.layers[layer];
        kv_heads * page_len(self.format, head_dim)
    }

    /// Words before those of `layer`.
    pub(crate) fn offset(&self, layer: usize) -> usize {
        (0..layer).map(|layer| self.page_len(layer)).sum::<usize>() * self.pages
    }

    /// [`CacheShape::len`], or an error if it is beyond memory.
    pub(crate) fn checked_len(&self) -> Result<usize, GraphError> {
        let token = |layer: &CacheLayer| layer.kv_heads as u128 * self.format.token_bytes(layer.head_dim) as u128;
        let tokens = PAGE_TOKENS as u128 * self.pages as u128;
        let bytes = self.layers.iter().map(token).sum::<u128>().saturating_mul(tokens);
        let is_possible = bytes < isize::MAX as u128 / 4;
        is_possible.then(|| self.len()).ok_or(GraphError::OutOfMemory { bytes: usize::MAX })
    }
}

impl fmt::Display for CacheShape {
    /// `8 pages in q8_0 of 30 layers, 3 heads of 64 columns in each`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, layers, pages } = self;
        write!(f, "{pages} pages in {format} of {} layers", layers.len())?;
        for (i, alike) in layers.chunk_by(|a, b| a == b).enumerate() {
            let CacheLayer { kv_heads, head_dim } = alike[0];
            let separator = if i == 0 { "," } else { ", then" };
            write!(f, "{separator} {kv_heads} heads of {head_dim} columns in {}", alike.len())?;
        }
        Ok(())
    }
}

/// The memory of a key-value cache.
#[derive(Debug)]
pub struct Cache {
    shape: CacheShape,
    words: Buffer,
}

impl Cache {
    /// An empty cache.
    ///
    /// # Errors
    /// [`GraphError::OutOfMemory`].
    pub fn new(shape: CacheShape) -> Result<Self, GraphError> {
        Ok(Self { words: Buffer::zeroed(shape.checked_len()?)?, shape })
    }

    /// How it is laid out.
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// All pages: for each layer, page after page, the words of one head after the other, as
    /// [`page_len`] says.
    pub fn words(&self) -> &[f32] {
        &self.words
    }

    /// [`Cache::words`], to write.
    pub fn words_mut(&mut self) -> &mut [f32] {
        &mut self.words
    }

    /// Copies page `from` to page `to`, in all layers.
    ///
    /// # Panics
    /// If it has no such pages.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let pages = self.shape.pages;
        assert!((from.max(to) as usize) < pages, "pages {from} and {to} of a cache of {pages}");
        for layer in 0..self.shape.layers.len() {
            let (from, to) = (self.shape.page(layer, from), self.shape.page(layer, to));
            self.words.copy_within(from, to.start);
        }
    }
}
