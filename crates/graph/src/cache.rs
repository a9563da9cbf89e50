//! The memory of the key-value cache.

use std::sync::Arc;

use crate::{Buffer, GraphError};

/// The sizes of a key-value cache: layer after layer, for each slot the keys and the values of `context` tokens, head by head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// For each layer, the columns of its keys, which are those of its values too: `kv_heads · head_dim`.
    pub layers: Arc<[usize]>,
    /// Sequences held at once.
    pub slots: usize,
    /// Tokens of each.
    pub context: usize,
}

impl CacheShape {
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

    /// Elements before those of `layer`.
    pub(crate) fn offset(&self, layer: usize) -> usize {
        self.layers.iter().take(layer).sum::<usize>() * self.slots * self.context * 2
    }

    /// [`CacheShape::len`], or the error that no memory is as large.
    pub(crate) fn checked_len(&self) -> Result<usize, GraphError> {
        let cols = self.layers.iter().try_fold(0, |sum: usize, cols| sum.checked_add(*cols));
        let rows = self.slots.checked_mul(self.context).and_then(|n| n.checked_mul(2));
        let len = rows.zip(cols).and_then(|(rows, cols)| rows.checked_mul(cols));
        len.filter(|n| *n < isize::MAX as usize / 16).ok_or(GraphError::OutOfMemory { bytes: usize::MAX })
    }
}
