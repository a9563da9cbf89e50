//! Dot products of bytes with AVX2: both factors are widened to 16 bits, and pairs of their products are added exactly.
//!
//! The instruction that multiplies unsigned by signed bytes (`vpmaddubsw`) saturates sums of two products to 16 bits;
//! the instructions here don't saturate.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::{Avx2, Int8Dot};

/// Calls intrinsics that touch registers only.
macro_rules! compute {
    ($calls:expr) => {
        // SAFETY: the intrinsics require nothing but AVX2, and `self`, an `Avx2`, exists only after `detect` found it.
        unsafe { $calls }
    };
}

/// Reads or writes memory as the caller of the enclosing function guarantees.
macro_rules! memory {
    ($calls:expr) => {
        // SAFETY: the caller guarantees the elements that are read or written; the features as in `compute`.
        unsafe { $calls }
    };
}

impl Int8Dot for Avx2 {
    type Isa = Avx2;
    type Bytes = __m256i;

    #[inline(always)]
    fn isa(self) -> Avx2 {
        self
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        crate::Isa::vectorize(self, f)
    }

    #[inline(always)]
    fn dot(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        compute!({
            // Bytes 0 and 2 of each lane, and bytes 1 and 3, as numbers of 16 bits: `a` with zeros above, `b` with its
            // sign.
            let (a_even, a_odd) = (_mm256_and_si256(a, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(a));
            let (b_even, b_odd) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)), _mm256_srai_epi16::<8>(b));
            let sum = _mm256_add_epi32(_mm256_madd_epi16(a_even, b_even), _mm256_madd_epi16(a_odd, b_odd));
            _mm256_add_epi32(acc, sum)
        })
    }

    #[inline(always)]
    fn splat_quad(self, bits: u32) -> __m256i {
        compute!(_mm256_set1_epi32(bits as i32))
    }

    #[inline(always)]
    unsafe fn splat_quad_ptr(self, src: *const u8) -> __m256i {
        self.splat_quad(memory!(src.cast::<u32>().read_unaligned()))
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> __m256i {
        memory!(_mm256_loadu_si256(src.cast()))
    }
}
