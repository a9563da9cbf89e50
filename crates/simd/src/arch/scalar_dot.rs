//! The dot products of narrow numbers in portable Rust, with which tests compare the other tokens' operations.
#![allow(unsafe_code)]

use half::bf16;

use crate::{Bf16Dot, Int8Dot, Isa, Scalar};

const LANES: usize = <Scalar as Isa>::LANES;

/// The lanes `f(0)`, `f(1)`, ….
#[inline(always)]
fn lanes<T>(f: impl FnMut(usize) -> T) -> [T; LANES] {
    std::array::from_fn(f)
}

impl Bf16Dot for Scalar {
    type Isa = Scalar;
    type Pairs = [[bf16; 2]; LANES];

    #[inline(always)]
    fn isa(self) -> Scalar {
        self
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        Isa::vectorize(self, f)
    }

    #[inline(always)]
    fn dot(self, acc: [f32; LANES], a: Self::Pairs, b: Self::Pairs) -> [f32; LANES] {
        lanes(
            #[inline(always)]
            |i| {
                let product = |j: usize| a[i][j].to_f32() * b[i][j].to_f32();
                acc[i] + product(1) + product(0)
            },
        )
    }

    #[inline(always)]
    fn splat_pair(self, bits: u32) -> Self::Pairs {
        [[bf16::from_bits(bits as u16), bf16::from_bits((bits >> 16) as u16)]; LANES]
    }

    #[inline(always)]
    unsafe fn splat_pair_ptr(self, src: *const bf16) -> Self::Pairs {
        // SAFETY: the caller guarantees two elements.
        [unsafe { [*src, *src.add(1)] }; LANES]
    }

    #[inline(always)]
    unsafe fn load_pairs(self, src: *const bf16) -> Self::Pairs {
        // SAFETY: the caller guarantees two elements a lane.
        lanes(|i| unsafe { [*src.add(2 * i), *src.add(2 * i + 1)] })
    }

    #[inline(always)]
    unsafe fn store_pairs(self, v: Self::Pairs, dst: *mut bf16) {
        // SAFETY: the caller guarantees 2 · LANES writable elements; the write needs no alignment.
        unsafe { dst.cast::<Self::Pairs>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn load_zip(self, even: *const bf16, odd: *const bf16) -> Self::Pairs {
        // SAFETY: the caller guarantees an element a lane in both.
        lanes(|i| unsafe { [*even.add(i), *odd.add(i)] })
    }

    #[inline(always)]
    fn round_zip(self, even: [f32; LANES], odd: [f32; LANES]) -> Self::Pairs {
        lanes(
            #[inline(always)]
            |i| [bf16::from_f32(even[i]), bf16::from_f32(odd[i])],
        )
    }
}

impl Int8Dot for Scalar {
    type Isa = Scalar;
    type Bytes = [[u8; 4]; LANES];

    #[inline(always)]
    fn isa(self) -> Scalar {
        self
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        Isa::vectorize(self, f)
    }

    #[inline(always)]
    fn dot(self, acc: [i32; LANES], a: Self::Bytes, b: Self::Bytes) -> [i32; LANES] {
        lanes(
            #[inline(always)]
            |i| {
                let products = (0..4).map(|j| i32::from(a[i][j]) * i32::from(b[i][j] as i8));
                acc[i].wrapping_add(products.sum())
            },
        )
    }

    type Few = [i32; LANES];

    #[inline(always)]
    fn few(self, start: [i32; LANES]) -> [i32; LANES] {
        start
    }

    #[inline(always)]
    fn dot_few(self, few: [i32; LANES], a: Self::Bytes, b: Self::Bytes) -> [i32; LANES] {
        Int8Dot::dot(self, few, a, b)
    }

    #[inline(always)]
    fn sum_few(self, few: [i32; LANES], _start: [i32; LANES]) -> [i32; LANES] {
        few
    }

    #[inline(always)]
    fn shr_and<const N: i32, const MASK: u8>(self, a: Self::Bytes) -> Self::Bytes {
        const { assert!((MASK as u32) < 1 << (8 - N), "bits of the byte above") };
        a.map(|quad| quad.map(|byte| (byte >> N) & MASK))
    }

    #[inline(always)]
    fn shl_and<const N: i32, const MASK: u8>(self, a: Self::Bytes) -> Self::Bytes {
        const { assert!(MASK.trailing_zeros() as i32 >= N, "bits of the byte below") };
        a.map(|quad| quad.map(|byte| (byte << N) & MASK))
    }

    #[inline(always)]
    fn or_bytes(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        lanes(
            #[inline(always)]
            |i| std::array::from_fn(|j| a[i][j] | b[i][j]),
        )
    }

    #[inline(always)]
    fn lookup_bytes(self, table: &[u8; 16], index: Self::Bytes) -> Self::Bytes {
        index.map(|quad| quad.map(|byte| table[usize::from(byte % 16)]))
    }

    #[inline(always)]
    fn splat_quad(self, bits: u32) -> Self::Bytes {
        [bits.to_le_bytes(); LANES]
    }

    #[inline(always)]
    unsafe fn splat_quad_ptr(self, src: *const u8) -> Self::Bytes {
        // SAFETY: the caller guarantees four bytes, and an array of bytes has no alignment.
        [unsafe { *src.cast() }; LANES]
    }

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> Self::Bytes {
        // SAFETY: the caller guarantees 4 · LANES bytes, and an array of bytes has no alignment.
        unsafe { *src.cast() }
    }
}
