//! Dot products of bytes with AVX-512 on CPUs without VNNI: both factors are widened to 16 bits, and pairs of their
//! products are added exactly.
//!
//! The instruction that multiplies unsigned by signed bytes (`vpmaddubsw`) saturates sums of two products to 16 bits;
//! the instructions here don't saturate.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::{Avx512, Int8Dot};

/// Calls intrinsics that touch registers only.
macro_rules! compute {
    ($calls:expr) => {
        // SAFETY: the intrinsics require nothing but AVX-512 F and BW, and `self`, an `Avx512`, exists only after
        // `detect` found them.
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

impl Int8Dot for Avx512 {
    type Isa = Avx512;
    type Bytes = __m512i;

    #[inline(always)]
    fn isa(self) -> Avx512 {
        self
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        crate::Isa::vectorize(self, f)
    }

    #[inline(always)]
    fn dot(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        compute!({
            // Bytes 0 and 2 of each lane, and bytes 1 and 3, as numbers of 16 bits: `a` with zeros above, `b` with its
            // sign.
            let (a_even, a_odd) = (_mm512_and_si512(a, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(a));
            let (b_even, b_odd) = (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b)), _mm512_srai_epi16::<8>(b));
            let sum = _mm512_add_epi32(_mm512_madd_epi16(a_even, b_even), _mm512_madd_epi16(a_odd, b_odd));
            _mm512_add_epi32(acc, sum)
        })
    }

    #[inline(always)]
    fn splat_quad(self, bits: u32) -> __m512i {
        compute!(_mm512_set1_epi32(bits as i32))
    }

    #[inline(always)]
    unsafe fn splat_quad_ptr(self, src: *const u8) -> __m512i {
        self.splat_quad(memory!(src.cast::<u32>().read_unaligned()))
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> __m512i {
        memory!(_mm512_loadu_si512(src.cast()))
    }
}
