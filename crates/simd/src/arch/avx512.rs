//! AVX-512: vectors of 512 bits, masks in registers of their own.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::isa::sealed::Sealed;
use crate::{Avx512Bf16, Avx512Vnni, Isa, IsaKind, WithBf16, WithInt8};

const LANES: usize = 16;

/// A CPU with AVX-512 F, BW, DQ and VL: sixteen lanes.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The token, if this CPU and operating system have the features.
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        found.then_some(Self(()))
    }
}

/// Calls intrinsics that touch registers only.
macro_rules! compute {
    ($calls:expr) => {
        // SAFETY: the intrinsics require nothing but the CPU features, and `self`, an `Avx512`, exists only after
        // `detect` found them all.
        unsafe { $calls }
    };
}

/// True in the first `min(n, LANES)` lanes.
#[inline(always)]
fn first_lanes(n: usize) -> __mmask16 {
    ((1u32 << n.min(LANES)) - 1) as __mmask16
}

impl Sealed for Avx512 {}

impl Isa for Avx512 {
    const KIND: IsaKind = IsaKind::Avx512;
    const LANES: usize = LANES;

    type F32 = __m512;
    type F64 = [__m256d; 4];
    type I32 = __m512i;
    type Mask = __mmask16;

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2")]
        fn enter<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        compute!(enter(f))
    }

    #[inline(always)]
    fn with_int8<W: WithInt8<Self>>(self, work: W) -> W::Output {
        match Avx512Vnni::detect() {
            Some(dot) => work.call(dot),
            None => work.call(self),
        }
    }

    #[inline(always)]
    fn with_bf16<W: WithBf16<Self>>(self, work: W) -> Result<W::Output, W> {
        match Avx512Bf16::detect() {
            Some(dot) => Ok(work.call(dot)),
            None => Err(work),
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        compute!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, src: &[f32]) -> Self::F32 {
        // SAFETY: the slice has LANES elements; the features as in `compute`.
        unsafe { _mm512_loadu_ps(src[..LANES].as_ptr()) }
    }

    #[inline(always)]
    fn load_partial(self, src: &[f32]) -> Self::F32 {
        // SAFETY: only lanes below src.len() are read; the features as in `compute`.
        unsafe { _mm512_maskz_loadu_ps(first_lanes(src.len()), src.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: Self::F32, dst: &mut [f32]) {
        // SAFETY: the slice has LANES elements; the features as in `compute`.
        unsafe { _mm512_storeu_ps(dst[..LANES].as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store_partial(self, v: Self::F32, dst: &mut [f32]) {
        // SAFETY: only lanes below dst.len() are written; the features as in `compute`.
        unsafe { _mm512_mask_storeu_ps(dst.as_mut_ptr(), first_lanes(dst.len()), v) }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> Self::F32 {
        // SAFETY: the caller guarantees LANES readable elements; the features as in `compute`.
        unsafe { _mm512_loadu_ps(src) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, v: Self::F32, dst: *mut f32) {
        // SAFETY: the caller guarantees LANES writable elements; the features as in `compute`.
        unsafe { _mm512_storeu_ps(dst, v) }
    }

    #[inline(always)]
    unsafe fn store_past_caches_ptr(self, v: Self::F32, dst: *mut f32) {
        // SAFETY: the caller guarantees LANES writable elements, aligned to a vector; the features as in `compute`.
        unsafe { _mm512_stream_ps(dst, v) }
    }

    #[inline(always)]
    fn fence(self) {
        compute!(_mm_sfence())
    }

    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        compute!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        compute!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        compute!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        compute!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        compute!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        compute!(_mm512_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        compute!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        compute!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn neg(self, a: Self::F32) -> Self::F32 {
        compute!(_mm512_xor_ps(a, _mm512_set1_ps(-0.0)))
    }

    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        compute!(_mm512_abs_ps(a))
    }

    #[inline(always)]
    fn sqrt(self, a: Self::F32) -> Self::F32 {
        compute!(_mm512_sqrt_ps(a))
    }

    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::F32 {
        compute!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn mul_pow2(self, a: Self::F32, n: Self::F32) -> Self::F32 {
        compute!(_mm512_scalef_ps(a, n))
    }

    #[inline(always)]
    fn lt(self, a: Self::F32, b: Self::F32) -> Self::Mask {
        compute!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }

    #[inline(always)]
    fn le(self, a: Self::F32, b: Self::F32) -> Self::Mask {
        compute!(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b))
    }

    #[inline(always)]
    fn select(self, mask: Self::Mask, a: Self::F32, b: Self::F32) -> Self::F32 {
        compute!(_mm512_mask_blend_ps(mask, b, a))
    }

    #[inline(always)]
    fn lookup(self, table: &[f32; 16], index: Self::I32) -> Self::F32 {
        compute!(_mm512_permutexvar_ps(index, self.load(table)))
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        compute!(_mm512_set1_epi32(x))
    }

    #[inline(always)]
    fn to_i32(self, a: Self::F32) -> Self::I32 {
        compute!(_mm512_cvtps_epi32(a))
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        compute!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn bits(self, a: Self::F32) -> Self::I32 {
        compute!(_mm512_castps_si512(a))
    }

    #[inline(always)]
    fn from_bits(self, a: Self::I32) -> Self::F32 {
        compute!(_mm512_castsi512_ps(a))
    }

    #[inline(always)]
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        compute!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn widening_mul_u32(self, a: Self::I32, b: Self::I32) -> (Self::I32, Self::I32) {
        const ODD: __mmask16 = 0b1010_1010_1010_1010;
        compute!({
            let even = _mm512_mul_epu32(a, b);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            let low = _mm512_mask_blend_epi32(ODD, even, _mm512_slli_epi64::<32>(odd));
            let high = _mm512_mask_blend_epi32(ODD, _mm512_srli_epi64::<32>(even), odd);
            (low, high)
        })
    }

    #[inline(always)]
    fn and_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        compute!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn or_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        compute!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn xor_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        compute!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn shl_i32<const N: i32>(self, a: Self::I32) -> Self::I32 {
        compute!(_mm512_sllv_epi32(a, _mm512_set1_epi32(N)))
    }

    #[inline(always)]
    fn shr_i32<const N: i32>(self, a: Self::I32) -> Self::I32 {
        compute!(_mm512_srlv_epi32(a, _mm512_set1_epi32(N)))
    }

    #[inline(always)]
    fn load_i8(self, src: &[i8]) -> Self::I32 {
        // SAFETY: the slice has LANES bytes; the features as in `compute`.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(src[..LANES].as_ptr().cast())) }
    }

    #[inline(always)]
    fn store_i8(self, v: Self::I32, dst: &mut [i8]) {
        let bytes = compute!(_mm512_cvtepi32_epi8(v));
        // SAFETY: the slice has LANES bytes; the features as in `compute`.
        unsafe { _mm_storeu_si128(dst[..LANES].as_mut_ptr().cast(), bytes) }
    }

    #[inline(always)]
    fn sum(self, v: Self::F32) -> f32 {
        compute!({
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn max_lane(self, v: Self::F32) -> f32 {
        compute!({
            let eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn zero_f64(self) -> Self::F64 {
        compute!([_mm256_setzero_pd(); 4])
    }

    #[inline(always)]
    fn add_squares(self, src: &[f32], mut sums: Self::F64) -> Self::F64 {
        // Four at a time: a conversion of twice the width takes more than twice as long.
        for (x, sum) in src[..LANES].chunks_exact(4).zip(&mut sums) {
            // SAFETY: a chunk has four elements; the features as in `compute`.
            let x = unsafe { _mm256_cvtps_pd(_mm_loadu_ps(x.as_ptr())) };
            *sum = compute!(_mm256_fmadd_pd(x, x, *sum));
        }
        sums
    }

    #[inline(always)]
    fn store_f64(self, v: Self::F64, dst: &mut [f64]) {
        for (v, dst) in v.into_iter().zip(dst[..LANES].chunks_exact_mut(4)) {
            // SAFETY: a chunk has four elements; the features as in `compute`.
            unsafe { _mm256_storeu_pd(dst.as_mut_ptr(), v) }
        }
    }

    #[inline(always)]
    fn load_f16(self, src: &[f16]) -> Self::F32 {
        // SAFETY: the slice has LANES elements of 16 bits; the features as in `compute`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(src[..LANES].as_ptr().cast())) }
    }

    #[inline(always)]
    fn splat_f16(self, x: f16) -> Self::F32 {
        compute!(_mm512_cvtph_ps(_mm256_set1_epi16(x.to_bits().cast_signed())))
    }

    #[inline(always)]
    fn store_f16(self, v: Self::F32, dst: &mut [f16]) {
        let half = compute!(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
        // SAFETY: the slice has LANES elements of 16 bits; the features as in `compute`.
        unsafe { _mm256_storeu_si256(dst[..LANES].as_mut_ptr().cast(), half) }
    }

    #[inline(always)]
    fn load_bf16(self, src: &[bf16]) -> Self::F32 {
        // SAFETY: the slice has LANES elements of 16 bits; the features as in `compute`.
        let half = unsafe { _mm256_loadu_si256(src[..LANES].as_ptr().cast()) };
        compute!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))))
    }

    #[inline(always)]
    fn store_bf16(self, v: Self::F32, dst: &mut [bf16]) {
        let half = compute!({
            let bits = _mm512_castps_si512(v);
            // Half a unit of the kept part, less one if that part is even, so that ties go to even.
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            // Rounding could carry a NaN to infinity: keep its upper half instead, made quiet.
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let upper = _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet));
            _mm512_cvtepi32_epi16(upper)
        });
        // SAFETY: the slice has LANES elements of 16 bits; the features as in `compute`.
        unsafe { _mm256_storeu_si256(dst[..LANES].as_mut_ptr().cast(), half) }
    }
}
