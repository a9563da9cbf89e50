//! The memory of the key-value cache.

use crate::{Buffer, GraphError};

/// The sizes of a key-value cache: for each layer and slot, the keys and the values of `context` tokens, head by head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers of the model.
    pub layers: usize,
    /// Sequences held at once.
    pub slots: usize,
    /// Tokens of each.
    pub context: usize,
    /// Columns of the keys, and of the values.
    pub kv_cols: usize,
}

impl CacheShape {
    /// Elements in all.
    pub fn len(&self) -> usize {
        self.layers * self.slots * self.context * 2 * self.kv_cols
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

    /// [`CacheShape::len`], or the error that no memory is as large.
    pub(crate) fn checked_len(&self) -> Result<usize, GraphError> {
        let rows = self.slots.checked_mul(self.context).and_then(|n| n.checked_mul(self.layers));
        let len = rows.and_then(|n| n.checked_mul(2)).and_then(|n| n.checked_mul(self.kv_cols));
        len.filter(|n| *n < isize::MAX as usize / 16).ok_or(GraphError::OutOfMemory { bytes: usize::MAX })
    }
}
