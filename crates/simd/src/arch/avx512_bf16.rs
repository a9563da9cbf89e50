//! AVX-512 with dot products of `bf16`: two multiply-adds per lane and instruction.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::bf16;

use crate::isa::sealed::Sealed;
use crate::{Avx512, Bf16Dot};

/// A CPU with AVX-512 BF16 in addition to all that [`Avx512`] needs.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Bf16(Avx512);

impl Avx512Bf16 {
    /// The token, if this CPU and operating system have the features.
    pub fn detect() -> Option<Self> {
        let base = Avx512::detect()?;
        is_x86_feature_detected!("avx512bf16").then_some(Self(base))
    }
}

/// Calls intrinsics that touch registers only.
macro_rules! compute {
    ($calls:expr) => {
        // SAFETY: the intrinsics require nothing but the CPU features, and `self`, an `Avx512Bf16`, exists only after
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

/// The numbers of a vector, as the integers they are loaded as.
#[inline(always)]
fn as_pairs(v: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(v) }
}

/// The reverse of [`as_pairs`].
#[inline(always)]
fn as_integers(v: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(v) }
}

impl Sealed for Avx512Bf16 {}

impl Bf16Dot for Avx512Bf16 {
    type Isa = Avx512;
    type Pairs = __m512bh;

    #[inline(always)]
    fn isa(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,bmi1,bmi2")]
        fn enter<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        compute!(enter(f))
    }

    #[inline(always)]
    fn dot(self, acc: __m512, a: __m512bh, b: __m512bh) -> __m512 {
        compute!(_mm512_dpbf16_ps(acc, a, b))
    }

    #[inline(always)]
    fn splat_pair(self, bits: u32) -> __m512bh {
        as_pairs(compute!(_mm512_set1_epi32(bits as i32)))
    }

    #[inline(always)]
    unsafe fn splat_pair_ptr(self, src: *const bf16) -> __m512bh {
        self.splat_pair(memory!(src.cast::<u32>().read_unaligned()))
    }

    #[inline(always)]
    unsafe fn load_pairs(self, src: *const bf16) -> __m512bh {
        as_pairs(memory!(_mm512_loadu_si512(src.cast())))
    }

    #[inline(always)]
    unsafe fn store_pairs(self, v: __m512bh, dst: *mut bf16) {
        memory!(_mm512_storeu_si512(dst.cast(), as_integers(v)))
    }

    #[inline(always)]
    unsafe fn load_zip(self, even: *const bf16, odd: *const bf16) -> __m512bh {
        let (even, odd) = memory!((_mm256_loadu_si256(even.cast()), _mm256_loadu_si256(odd.cast())));
        self.zip(even, odd)
    }

    #[inline(always)]
    fn round_zip(self, even: __m512, odd: __m512) -> __m512bh {
        // Rounded they lie one after the other; element 2i comes from place i, element 2i + 1 from place 16 + i.
        const PLACES: [u16; 32] = {
            let mut places = [0; 32];
            let mut i = 0;
            while i < 32 {
                places[i] = (i / 2 + i % 2 * 16) as u16;
                i += 1;
            }
            places
        };
        let places = memory!(_mm512_loadu_si512(PLACES.as_ptr().cast()));
        as_pairs(compute!(_mm512_permutexvar_epi16(places, as_integers(_mm512_cvtne2ps_pbh(odd, even)))))
    }
}

impl Avx512Bf16 {
    /// Sixteen pairs `(even[i], odd[i])`.
    #[inline(always)]
    fn zip(self, even: __m256i, odd: __m256i) -> __m512bh {
        as_pairs(compute!({
            let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
            _mm512_or_si512(_mm512_cvtepu16_epi32(even), odd)
        }))
    }
}
