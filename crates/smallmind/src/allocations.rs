//! The system's allocator, with counters.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use smallmind::profile::Allocated;
use smallmind::profile::sampling::AllocationCounters;

static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Calls and bytes of this thread. An allocator may use this variable, since it needs neither memory nor a
    /// destructor.
    static OWN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Number of allocations and reallocations of all threads so far.
pub fn count() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// Bytes that all threads have allocated so far; a reallocation counts its new size.
pub fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// Calls and bytes of the calling thread so far.
pub fn of_this_thread() -> Allocated {
    let (calls, bytes) = OWN.try_with(Cell::get).unwrap_or_default();
    Allocated { calls, bytes }
}

/// The functions by which a profile reads the counts of allocations.
pub const COUNTERS: AllocationCounters = AllocationCounters { calls: count, of_this_thread };

/// [`System`] with counters.
pub struct Counting;

fn one_more(bytes: usize) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    let _ = OWN.try_with(|own| own.set((own.get().0 + 1, own.get().1 + bytes as u64)));
}

// SAFETY: every call goes to `System` unchanged, which keeps the contract of `GlobalAlloc`; counting touches statics
// and allocates nothing.
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
        // SAFETY: `block` came from one of these functions, so from `System`, and the caller keeps the rest of the
        // contract.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from one of these functions, so from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}
