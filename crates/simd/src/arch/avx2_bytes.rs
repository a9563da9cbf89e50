//! Dot products of bytes with AVX2: both factors are widened to 16 bits, and pairs of their products are added exactly.
//!
//! The instruction that multiplies unsigned by signed bytes (`vpmaddubsw`) saturates sums of two products to 16 bits.
//! It is used only where no such sum can saturate.
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
    fn dot_pair_below_64(self, acc: __m256i, a: [__m256i; 2], b: [__m256i; 2]) -> __m256i {
        compute!({
            // A sum of four products is at most 4 · 63 · 128, so that nothing saturates.
            let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(a[0], b[0]), _mm256_maddubs_epi16(a[1], b[1]));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }

    const SHIFT: i32 = 128;

    #[inline(always)]
    fn shifted(self, a: __m256i) -> __m256i {
        compute!(_mm256_xor_si256(a, _mm256_set1_epi8(i8::MIN)))
    }

    #[inline(always)]
    fn dot_shifted(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        compute!({
            // The sign of `a` goes to `b`. A sum of two products is at most 2 · 128 · 127, so that nothing saturates.
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        })
    }

    /// Sums of pairs of products in 16 bits.
    type Few = __m256i;

    #[inline(always)]
    fn few(self, _start: __m256i) -> __m256i {
        compute!(_mm256_setzero_si256())
    }

    #[inline(always)]
    fn dot_few(self, few: __m256i, a: __m256i, b: __m256i) -> __m256i {
        compute!(_mm256_add_epi16(few, _mm256_maddubs_epi16(a, b)))
    }

    #[inline(always)]
    fn sum_few(self, few: __m256i, start: __m256i) -> __m256i {
        compute!(_mm256_add_epi32(start, _mm256_madd_epi16(few, _mm256_set1_epi16(1))))
    }

    #[inline(always)]
    fn shr_and<const N: i32, const MASK: u8>(self, a: __m256i) -> __m256i {
        const { assert!((MASK as u32) < 1 << (8 - N), "bits of the byte above") };
        // 16 bits are shifted at a time; the mask removes the bits of the byte above.
        compute!(_mm256_and_si256(_mm256_srli_epi16::<N>(a), _mm256_set1_epi8(MASK as i8)))
    }

    #[inline(always)]
    fn shl_and<const N: i32, const MASK: u8>(self, a: __m256i) -> __m256i {
        const { assert!(MASK.trailing_zeros() as i32 >= N, "bits of the byte below") };
        // 16 bits are shifted at a time; the mask removes the bits of the byte below.
        compute!(_mm256_and_si256(_mm256_slli_epi16::<N>(a), _mm256_set1_epi8(MASK as i8)))
    }

    #[inline(always)]
    fn or_bytes(self, a: __m256i, b: __m256i) -> __m256i {
        compute!(_mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn lookup_bytes(self, table: &[u8; 16], index: __m256i) -> __m256i {
        // SAFETY: the table has 16 bytes; the features as in `compute`.
        let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) };
        compute!(_mm256_shuffle_epi8(table, index))
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
