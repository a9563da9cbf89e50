//! Portable Rust on arrays of fixed width, which the compiler vectorises as far as the target allows.
#![allow(unsafe_code)]

use half::{bf16, f16};

use crate::isa::sealed::Sealed;
use crate::{Isa, IsaKind, WithInt8};

const LANES: usize = 8;

/// Any CPU: arrays of eight lanes.
#[derive(Clone, Copy, Debug)]
pub struct Scalar(());

impl Scalar {
    /// The token; every CPU has this instruction set.
    pub const fn new() -> Self {
        Self(())
    }
}

impl Default for Scalar {
    fn default() -> Self {
        Self::new()
    }
}

#[inline(always)]
fn map<A: Copy, R>(a: [A; LANES], f: impl Fn(A) -> R) -> [R; LANES] {
    std::array::from_fn(
        #[inline(always)]
        |i| f(a[i]),
    )
}

#[inline(always)]
fn zip<A: Copy, B: Copy, R>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> R) -> [R; LANES] {
    std::array::from_fn(
        #[inline(always)]
        |i| f(a[i], b[i]),
    )
}

impl Sealed for Scalar {}

impl Isa for Scalar {
    const KIND: IsaKind = IsaKind::Scalar;
    const LANES: usize = LANES;

    type F32 = [f32; LANES];
    type F64 = [f64; LANES];
    type I32 = [i32; LANES];
    type Mask = [bool; LANES];

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline(always)]
    fn with_int8<W: WithInt8<Self>>(self, work: W) -> W::Output {
        work.call(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, src: &[f32]) -> Self::F32 {
        let src = &src[..LANES];
        std::array::from_fn(
            #[inline(always)]
            |i| src[i],
        )
    }

    #[inline(always)]
    fn load_partial(self, src: &[f32]) -> Self::F32 {
        let mut v = [0.0; LANES];
        let n = src.len().min(LANES);
        v[..n].copy_from_slice(&src[..n]);
        v
    }

    #[inline(always)]
    fn store(self, v: Self::F32, dst: &mut [f32]) {
        dst[..LANES].copy_from_slice(&v);
    }

    #[inline(always)]
    fn store_partial(self, v: Self::F32, dst: &mut [f32]) {
        let n = dst.len().min(LANES);
        dst[..n].copy_from_slice(&v[..n]);
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> Self::F32 {
        // SAFETY: the caller guarantees LANES readable elements; read_unaligned requires no alignment.
        unsafe { src.cast::<Self::F32>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, v: Self::F32, dst: *mut f32) {
        // SAFETY: the caller guarantees LANES writable elements.
        unsafe { dst.cast::<Self::F32>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn store_past_caches_ptr(self, v: Self::F32, dst: *mut f32) {
        // SAFETY: the caller guarantees LANES writable elements.
        unsafe { self.store_ptr(v, dst) }
    }

    #[inline(always)]
    fn fence(self) {}

    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a / b)
    }

    // Unfused: `f32::mul_add` is a library call on targets without the instruction.
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        self.sub(c, self.mul(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn neg(self, a: Self::F32) -> Self::F32 {
        map(a, |a| -a)
    }

    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        map(a, f32::abs)
    }

    #[inline(always)]
    fn sqrt(self, a: Self::F32) -> Self::F32 {
        map(a, f32::sqrt)
    }

    // `f32::round_ties_even` is a library call on targets without the instruction. From 2^23 up all floats are whole,
    // and adding 2^23 to a smaller one rounds its fraction away.
    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::F32 {
        const WHOLE: f32 = 8_388_608.0;
        map(a, |a| {
            let magnitude = a.abs();
            let rounded = if magnitude < WHOLE { (magnitude + WHOLE) - WHOLE } else { magnitude };
            rounded.copysign(a)
        })
    }

    #[inline(always)]
    fn mul_pow2(self, a: Self::F32, n: Self::F32) -> Self::F32 {
        // The multiplication has two steps, because 2^n itself may be subnormal or infinite.
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
        zip(a, n, |a, n| {
            let n = n as i32;
            a * power(n >> 1) * power(n.wrapping_sub(n >> 1))
        })
    }

    #[inline(always)]
    fn lt(self, a: Self::F32, b: Self::F32) -> Self::Mask {
        zip(a, b, |a, b| a < b)
    }

    #[inline(always)]
    fn le(self, a: Self::F32, b: Self::F32) -> Self::Mask {
        zip(a, b, |a, b| a <= b)
    }

    #[inline(always)]
    fn select(self, mask: Self::Mask, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(
            #[inline(always)]
            |i| if mask[i] { a[i] } else { b[i] },
        )
    }

    #[inline(always)]
    fn lookup(self, table: &[f32; 16], index: Self::I32) -> Self::F32 {
        map(index, |i| table[i as usize % 16])
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        [x; LANES]
    }

    #[inline(always)]
    fn to_i32(self, a: Self::F32) -> Self::I32 {
        map(self.round(a), |a| a as i32)
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        map(a, |a| a as f32)
    }

    #[inline(always)]
    fn bits(self, a: Self::F32) -> Self::I32 {
        map(a, |a| a.to_bits() as i32)
    }

    #[inline(always)]
    fn from_bits(self, a: Self::I32) -> Self::F32 {
        map(a, |a| f32::from_bits(a as u32))
    }

    #[inline(always)]
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        zip(a, b, i32::wrapping_add)
    }

    #[inline(always)]
    fn widening_mul_u32(self, a: Self::I32, b: Self::I32) -> (Self::I32, Self::I32) {
        let wide = zip(a, b, |a, b| u64::from(a as u32) * u64::from(b as u32));
        (map(wide, |w| w as i32), map(wide, |w| (w >> 32) as i32))
    }

    #[inline(always)]
    fn and_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        zip(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn or_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        zip(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn xor_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        zip(a, b, |a, b| a ^ b)
    }

    #[inline(always)]
    fn shl_i32<const N: i32>(self, a: Self::I32) -> Self::I32 {
        map(a, |a| a << N)
    }

    #[inline(always)]
    fn shr_i32<const N: i32>(self, a: Self::I32) -> Self::I32 {
        map(a, |a| ((a as u32) >> N) as i32)
    }

    #[inline(always)]
    fn load_i8(self, src: &[i8]) -> Self::I32 {
        let src = &src[..LANES];
        std::array::from_fn(
            #[inline(always)]
            |i| i32::from(src[i]),
        )
    }

    #[inline(always)]
    fn store_i8(self, v: Self::I32, dst: &mut [i8]) {
        for (d, x) in dst[..LANES].iter_mut().zip(v) {
            *d = x as i8;
        }
    }

    #[inline(always)]
    fn sum(self, v: Self::F32) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    #[inline(always)]
    fn max_lane(self, v: Self::F32) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn zero_f64(self) -> Self::F64 {
        [0.0; LANES]
    }

    #[inline(always)]
    fn add_squares(self, src: &[f32], mut sums: Self::F64) -> Self::F64 {
        for (x, sum) in src[..LANES].iter().zip(&mut sums) {
            *sum += f64::from(*x) * f64::from(*x);
        }
        sums
    }

    #[inline(always)]
    fn store_f64(self, v: Self::F64, dst: &mut [f64]) {
        dst[..LANES].copy_from_slice(&v);
    }

    #[inline(always)]
    fn load_f16(self, src: &[f16]) -> Self::F32 {
        let src = &src[..LANES];
        std::array::from_fn(
            #[inline(always)]
            |i| src[i].to_f32(),
        )
    }

    #[inline(always)]
    fn splat_f16(self, x: f16) -> Self::F32 {
        [x.to_f32(); LANES]
    }

    #[inline(always)]
    fn store_f16(self, v: Self::F32, dst: &mut [f16]) {
        for (d, x) in dst[..LANES].iter_mut().zip(v) {
            *d = f16::from_f32(x);
        }
    }

    #[inline(always)]
    fn load_bf16(self, src: &[bf16]) -> Self::F32 {
        let src = &src[..LANES];
        std::array::from_fn(
            #[inline(always)]
            |i| src[i].to_f32(),
        )
    }

    #[inline(always)]
    fn store_bf16(self, v: Self::F32, dst: &mut [bf16]) {
        for (d, x) in dst[..LANES].iter_mut().zip(v) {
            *d = bf16::from_f32(x);
        }
    }
}
