//! [`TransposeFn`](super::pack::TransposeFn) in registers, which the vector language can't express: one file for each
//! instruction set, with the same items in the same order.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
