//! The system's allocator, with counters.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// How often any thread of this process has asked for memory so far, growing included.
pub fn count() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// How many bytes any thread of this process has asked for so far; a block that grows counts anew with its new size.
pub fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// [`System`], counting.
pub struct Counting;

fn one_more(bytes: usize) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

// SAFETY: every call goes to `System` unchanged, which keeps the contract of `GlobalAlloc`; counting touches two statics and allocates
// nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        one_more(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        one_more(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is that of `System`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        one_more(size);
        // SAFETY: `block` came from one of these functions, so from `System`, and the caller keeps the rest of the contract.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from one of these functions, so from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}
