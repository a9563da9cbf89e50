//! Hints about memory that is read soon.
#![allow(unsafe_code)]

/// The cache level that a line is fetched into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLevel {
    /// For memory that is read within some tens of instructions.
    First,
    /// For memory that is read so much later that the first level would evict it.
    Second,
}

/// Prefetches the cache line at `address`, which need not be valid, into `level` and those below. Does nothing if the
/// CPU has no such instruction. It never changes a result.
#[inline(always)]
pub fn prefetch<T>(address: *const T, level: CacheLevel) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: SSE is part of x86-64, and a prefetch of any address neither faults nor changes memory.
        unsafe {
            match level {
                CacheLevel::First => _mm_prefetch::<_MM_HINT_T0>(address.cast()),
                CacheLevel::Second => _mm_prefetch::<_MM_HINT_T1>(address.cast()),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, level);
}
