//! [`TransposeFn`](super::pack::TransposeFn) in registers, which the vector language can't express: one file for each
//! instruction set, with the same items in the same order; AVX-512 also has
//! [`RoundTransposeFn`](super::pack::RoundTransposeFn).
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use smallmind_simd::{Avx2, Avx512, Avx512Bf16};

    use super::super::pack::tests::{check_round_transpose, check_transpose};
    use super::{avx2, avx512};

    #[test]
    fn rows_are_transposed_in_registers() {
        if let Some(isa) = Avx2::detect() {
            check_transpose(isa, avx2::transpose);
        }
        if let Some(isa) = Avx512::detect() {
            check_transpose(isa, avx512::transpose);
        }
        if let Some(dot) = Avx512Bf16::detect() {
            check_round_transpose(dot, avx512::round_transpose);
        }
    }
}
