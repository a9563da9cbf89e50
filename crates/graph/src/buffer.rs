//! Aligned memory.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::GraphError;

/// Bytes to which buffers are aligned: a cache line, and the widest vector.
const ALIGN: usize = 64;

/// From this many bytes on, the system is asked for large pages: there are fewer page faults, and translations of
/// addresses that fit into the processor's tables.
const LARGE: usize = 4 << 20;

/// A heap buffer of `f32`, aligned to 64 bytes, zero at first.
#[derive(Debug)]
pub struct Buffer {
    /// The elements, in the allocation that begins at `base`.
    ptr: NonNull<f32>,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a Buffer owns its elements as a Vec does.
unsafe impl Send for Buffer {}
// SAFETY: &Buffer gives only &[f32], and f32 is Sync.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// The allocation. An allocator that was asked for 64 bytes of alignment would write the zeros itself.
    fn layout(len: usize) -> Result<Layout, GraphError> {
        let error = || GraphError::OutOfMemory { bytes: len.saturating_mul(4) };
        let bytes = len.checked_mul(4).and_then(|bytes| bytes.checked_add(ALIGN)).ok_or_else(error)?;
        Layout::from_size_align(bytes, align_of::<f32>()).map_err(|_| error())
    }

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// [`GraphError::OutOfMemory`] if the allocator refuses.
    pub fn zeroed(len: usize) -> Result<Self, GraphError> {
        let mut buffer = Self::untouched(len)?;
        buffer.fill(0.0);
        Ok(buffer)
    }

    /// A buffer of `len` zeros to which the system gives memory page by page, when each is used for the first time:
    /// for what several threads are going to fill.
    ///
    /// # Errors
    /// As [`Buffer::zeroed`].
    pub(crate) fn untouched(len: usize) -> Result<Self, GraphError> {
        let layout = Self::layout(len)?;
        // SAFETY: the layout has at least 64 bytes.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            return Err(GraphError::OutOfMemory { bytes: layout.size() });
        };
        // SAFETY: the offset is less than 64, and the allocation has 64 bytes more than the elements.
        let ptr = unsafe { base.add(base.align_offset(ALIGN)) }.cast::<f32>();
        if layout.size() >= LARGE {
            large_pages(base, layout.size());
        }
        Ok(Self { ptr, base, len })
    }
}

/// Asks the system for large pages in an allocation. A system that has none is no error.
#[cfg(all(target_os = "linux", not(miri)))]
fn large_pages(base: NonNull<u8>, bytes: usize) {
    use rustix::mm::{Advice, madvise};
    let page = rustix::param::page_size();
    let skipped = base.align_offset(page);
    let whole = bytes.saturating_sub(skipped) / page * page;
    // SAFETY: the pages lie in the allocation, and the advice changes no byte of them.
    let _ = unsafe { madvise(base.as_ptr().wrapping_add(skipped).cast(), whole, Advice::LinuxHugepage) };
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn large_pages(_base: NonNull<u8>, _bytes: usize) {}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.len) {
            // SAFETY: `untouched` allocated the memory with this very layout.
            unsafe { dealloc(self.base.as_ptr(), layout) };
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `untouched` allocated and initialised `len` elements, which live as long as self.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: `untouched` allocated and initialised `len` elements, which live as long as self; &mut self makes the
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
