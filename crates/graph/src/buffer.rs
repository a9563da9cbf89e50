//! Aligned memory.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::GraphError;

/// Bytes to which buffers are aligned: a cache line, and the widest vector.
const ALIGN: usize = 64;

/// A heap buffer of `f32`, aligned to 64 bytes, zero at first.
#[derive(Debug)]
pub struct Buffer {
    ptr: NonNull<f32>,
    len: usize,
}

// SAFETY: a Buffer owns its elements as a Vec does.
unsafe impl Send for Buffer {}
// SAFETY: &Buffer gives only &[f32], and f32 is Sync.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn layout(len: usize) -> Result<Layout, GraphError> {
        let error = || GraphError::OutOfMemory { bytes: len.saturating_mul(4) };
        let bytes = len.max(1).checked_mul(4).ok_or_else(error)?;
        Layout::from_size_align(bytes, ALIGN).map_err(|_| error())
    }

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// [`GraphError::OutOfMemory`] if the allocator refuses.
    pub fn zeroed(len: usize) -> Result<Self, GraphError> {
        let layout = Self::layout(len)?;
        // SAFETY: the layout has at least four bytes.
        let ptr = unsafe { alloc_zeroed(layout) };
        match NonNull::new(ptr.cast::<f32>()) {
            Some(ptr) => Ok(Self { ptr, len }),
            None => Err(GraphError::OutOfMemory { bytes: layout.size() }),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.len) {
            // SAFETY: `zeroed` allocated the pointer with this very layout.
            unsafe { dealloc(self.ptr.as_ptr().cast(), layout) };
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `zeroed` allocated and initialised `len` elements, which live as long as self.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: `zeroed` allocated and initialised `len` elements, which live as long as self; &mut self makes the
        // borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for len in [0, 1, 1000] {
            let b = Buffer::zeroed(len).unwrap();
            assert_eq!(b.as_ptr() as usize % ALIGN, 0);
            assert_eq!(b.len(), len);
            assert!(b.iter().all(|x| *x == 0.0));
        }
        assert!(matches!(Buffer::zeroed(usize::MAX / 8), Err(GraphError::OutOfMemory { .. })));
    }
}
