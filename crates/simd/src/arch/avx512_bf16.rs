//! AVX-512 with dot products of `bf16`: two multiply-adds a lane and instruction.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::bf16;

use crate::{Avx512, Bf16Dot};

const LANES: usize = 16;

/// A CPU with AVX-512 BF16 beside all that [`Avx512`] needs.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Bf16(Avx512);

impl Avx512Bf16 {
    /// The token, where this CPU and operating system have the features.
    pub fn detect() -> Option<Self> {
        let base = Avx512::detect()?;
        is_x86_feature_detected!("avx512bf16").then_some(Self(base))
    }
}

/// Calls intrinsics that touch registers only.
macro_rules! compute {
    ($calls:expr) => {
        // SAFETY: the intrinsics ask for nothing but the CPU features, and `self`, an `Avx512Bf16`, exists only after `detect`
        // found them all.
        unsafe { $calls }
    };
}

/// Reads or writes memory as the caller of the enclosing function guarantees.
macro_rules! memory {
    ($calls:expr) => {
        // SAFETY: the caller guarantees the elements that the mask, or the whole vector, covers; the features as in `compute`.
        unsafe { $calls }
    };
}

/// True in the first `min(n, 16)` lanes.
#[inline(always)]
fn first_lanes(n: usize) -> __mmask16 {
    ((1u32 << n.min(LANES)) - 1) as __mmask16
}

/// True in the first `min(n, 32)` lanes.
#[inline(always)]
fn first_numbers(n: usize) -> __mmask32 {
    ((1u64 << n.min(2 * LANES)) - 1) as __mmask32
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

/// [`as_integers`] for the numbers of half a vector.
#[inline(always)]
fn as_half_integers(v: __m256bh) -> __m256i {
    // SAFETY: both are 256 bits without invalid patterns.
    unsafe { std::mem::transmute(v) }
}

impl Bf16Dot for Avx512Bf16 {
    const LANES: usize = LANES;
    type Isa = Avx512;
    type F32 = __m512;
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
    fn zero(self) -> __m512 {
        compute!(_mm512_setzero_ps())
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
    unsafe fn load_pairs_first(self, src: *const bf16, len: usize) -> __m512bh {
        as_pairs(memory!(_mm512_maskz_loadu_epi16(first_numbers(len), src.cast())))
    }

    #[inline(always)]
    unsafe fn store_pairs(self, v: __m512bh, dst: *mut bf16) {
        memory!(_mm512_storeu_si512(dst.cast(), as_integers(v)))
    }

    #[inline(always)]
    unsafe fn store_pairs_first(self, v: __m512bh, dst: *mut bf16, len: usize) {
        memory!(_mm512_mask_storeu_epi16(dst.cast(), first_numbers(len), as_integers(v)))
    }

    #[inline(always)]
    fn narrow(self, low: __m512, high: __m512) -> __m512bh {
        compute!(_mm512_cvtne2ps_pbh(high, low))
    }

    #[inline(always)]
    fn narrow_zip(self, even: __m512, odd: __m512) -> __m512bh {
        let (even, odd) = compute!((_mm512_cvtneps_pbh(even), _mm512_cvtneps_pbh(odd)));
        self.zip(as_half_integers(even), as_half_integers(odd))
    }

    #[inline(always)]
    unsafe fn load_zip(self, even: *const bf16, odd: *const bf16) -> __m512bh {
        let (even, odd) = memory!((_mm256_loadu_si256(even.cast()), _mm256_loadu_si256(odd.cast())));
        self.zip(even, odd)
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> __m512 {
        memory!(_mm512_loadu_ps(src))
    }

    #[inline(always)]
    unsafe fn load_first(self, src: *const f32, len: usize) -> __m512 {
        memory!(_mm512_maskz_loadu_ps(first_lanes(len), src))
    }

    #[inline(always)]
    unsafe fn store_ptr(self, v: __m512, dst: *mut f32) {
        memory!(_mm512_storeu_ps(dst, v))
    }

    #[inline(always)]
    unsafe fn store_first(self, v: __m512, dst: *mut f32, len: usize) {
        memory!(_mm512_mask_storeu_ps(dst, first_lanes(len), v))
    }

    #[inline(always)]
    unsafe fn store_narrow_first(self, v: __m512, dst: *mut bf16, len: usize) {
        let narrow = as_half_integers(compute!(_mm512_cvtneps_pbh(v)));
        memory!(_mm256_mask_storeu_epi16(dst.cast(), first_lanes(len), narrow))
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
