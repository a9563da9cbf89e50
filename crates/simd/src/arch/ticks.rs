//! The CPU's time stamp counter.
#![allow(unsafe_code)]

/// The value of a counter that runs at a fixed rate and takes a few nanoseconds to read; `None` if there is none. The
/// caller must measure the rate. Values of two CPUs may be compared only if the system uses the counter as its clock.
#[inline(always)]
pub fn ticks() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 CPU has the instruction; it reads a counter and touches no memory.
        Some(unsafe { std::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}
