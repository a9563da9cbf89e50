//! AVX-512 with dot products of bytes: four multiply-adds per lane and instruction.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::isa::sealed::Sealed;
use crate::{Avx512, Int8Dot};

/// A CPU with AVX-512 VNNI in addition to all that [`Avx512`] needs.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Vnni(Avx512);

impl Avx512Vnni {
    /// The token, if this CPU and operating system have the features.
    pub fn detect() -> Option<Self> {
        let base = Avx512::detect()?;
        is_x86_feature_detected!("avx512vnni").then_some(Self(base))
    }
}

/// Calls intrinsics that touch registers only.
macro_rules! compute {
    ($calls:expr) => {
        // SAFETY: the intrinsics require nothing but the CPU features, and `self`, an `Avx512Vnni`, exists only after
        // `detect` found them all.
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

impl Sealed for Avx512Vnni {}

impl Int8Dot for Avx512Vnni {
    type Isa = Avx512;
    type Bytes = __m512i;

    #[inline(always)]
    fn isa(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi1,bmi2")]
        fn enter<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        compute!(enter(f))
    }

    #[inline(always)]
    fn dot(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        compute!(_mm512_dpbusd_epi32(acc, a, b))
    }

    type Few = __m512i;

    #[inline(always)]
    fn few(self, start: __m512i) -> __m512i {
        start
    }

    #[inline(always)]
    fn dot_few(self, few: __m512i, a: __m512i, b: __m512i) -> __m512i {
        self.dot(few, a, b)
    }

    #[inline(always)]
    fn sum_few(self, few: __m512i, _start: __m512i) -> __m512i {
        few
    }

    #[inline(always)]
    fn shr_and<const N: i32, const MASK: u8>(self, a: __m512i) -> __m512i {
        const { assert!((MASK as u32) < 1 << (8 - N), "bits of the byte above") };
        compute!({
            // 16 bits are shifted at a time; the mask removes the bits of the byte above.
            let shifted = _mm512_srlv_epi16(a, _mm512_set1_epi16(N as i16));
            _mm512_and_si512(shifted, _mm512_set1_epi8(MASK as i8))
        })
    }

    #[inline(always)]
    fn shl_and<const N: i32, const MASK: u8>(self, a: __m512i) -> __m512i {
        const { assert!(MASK.trailing_zeros() as i32 >= N, "bits of the byte below") };
        compute!({
            // 16 bits are shifted at a time; the mask removes the bits of the byte below.
            let shifted = _mm512_sllv_epi16(a, _mm512_set1_epi16(N as i16));
            _mm512_and_si512(shifted, _mm512_set1_epi8(MASK as i8))
        })
    }

    #[inline(always)]
    fn or_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        compute!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn lookup_bytes(self, table: &[u8; 16], index: __m512i) -> __m512i {
        // SAFETY: the table has 16 bytes; the features as in `compute`.
        let table = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())) };
        compute!(_mm512_shuffle_epi8(table, index))
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
