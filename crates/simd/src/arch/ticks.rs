//! The CPU's counter of time.
#![allow(unsafe_code)]

/// The counter that runs at a fixed rate, where there is one that takes a few nanoseconds to read; its rate has to be measured. Reads of
/// two CPUs may be compared only where the system trusts it as a clock.
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
