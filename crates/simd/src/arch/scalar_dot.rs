//! The dot products of narrow numbers in portable Rust: the twins of the other tokens' operations.
#![allow(unsafe_code)]

use half::bf16;

use crate::{Bf16Dot, Int8Dot, Isa, Scalar};

const LANES: usize = 8;

/// The lanes `f(0)`, `f(1)`, ….
#[inline(always)]
fn lanes<T>(f: impl FnMut(usize) -> T) -> [T; LANES] {
    std::array::from_fn(f)
}

impl Bf16Dot for Scalar {
    const LANES: usize = LANES;
    type Isa = Scalar;
    type F32 = [f32; LANES];
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
    fn zero(self) -> [f32; LANES] {
        [0.0; LANES]
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
    unsafe fn load_pairs_first(self, src: *const bf16, len: usize) -> Self::Pairs {
        // SAFETY: only elements below `len` are read, as the caller guarantees.
        let at = |i: usize| if i < len { unsafe { *src.add(i) } } else { bf16::ZERO };
        lanes(|i| [at(2 * i), at(2 * i + 1)])
    }

    #[inline(always)]
    unsafe fn store_pairs(self, v: Self::Pairs, dst: *mut bf16) {
        // SAFETY: the caller guarantees all 2 · LANES elements.
        unsafe { self.store_pairs_first(v, dst, 2 * LANES) }
    }

    #[inline(always)]
    unsafe fn store_pairs_first(self, v: Self::Pairs, dst: *mut bf16, len: usize) {
        for (i, &x) in v.as_flattened().iter().take(len).enumerate() {
            // SAFETY: only elements below `len` are written, as the caller guarantees.
            unsafe { *dst.add(i) = x }
        }
    }

    #[inline(always)]
    fn narrow(self, low: [f32; LANES], high: [f32; LANES]) -> Self::Pairs {
        let at = |i: usize| bf16::from_f32(if i < LANES { low[i] } else { high[i - LANES] });
        lanes(|i| [at(2 * i), at(2 * i + 1)])
    }

    #[inline(always)]
    fn narrow_zip(self, even: [f32; LANES], odd: [f32; LANES]) -> Self::Pairs {
        lanes(|i| [bf16::from_f32(even[i]), bf16::from_f32(odd[i])])
    }

    #[inline(always)]
    unsafe fn load_zip(self, even: *const bf16, odd: *const bf16) -> Self::Pairs {
        // SAFETY: the caller guarantees an element a lane in both.
        lanes(|i| unsafe { [*even.add(i), *odd.add(i)] })
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const f32) -> [f32; LANES] {
        // SAFETY: the caller guarantees LANES elements.
        unsafe { Isa::load_ptr(self, src) }
    }

    #[inline(always)]
    unsafe fn load_first(self, src: *const f32, len: usize) -> [f32; LANES] {
        // SAFETY: only elements below `len` are read, as the caller guarantees.
        lanes(|i| if i < len { unsafe { *src.add(i) } } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn store_ptr(self, v: [f32; LANES], dst: *mut f32) {
        // SAFETY: the caller guarantees LANES elements.
        unsafe { Isa::store_ptr(self, v, dst) }
    }

    #[inline(always)]
    unsafe fn store_first(self, v: [f32; LANES], dst: *mut f32, len: usize) {
        for (i, &x) in v.iter().take(len).enumerate() {
            // SAFETY: only elements below `len` are written, as the caller guarantees.
            unsafe { *dst.add(i) = x }
        }
    }

    #[inline(always)]
    unsafe fn store_narrow_first(self, v: [f32; LANES], dst: *mut bf16, len: usize) {
        for (i, &x) in v.iter().take(len).enumerate() {
            // SAFETY: only elements below `len` are written, as the caller guarantees.
            unsafe { *dst.add(i) = bf16::from_f32(x) }
        }
    }
}

impl Int8Dot for Scalar {
    const LANES: usize = LANES;
    type Isa = Scalar;
    type I32 = [i32; LANES];
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
    fn zero(self) -> [i32; LANES] {
        [0; LANES]
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

    #[inline(always)]
    unsafe fn load_bytes_first(self, src: *const u8, len: usize) -> Self::Bytes {
        // SAFETY: only bytes below `len` are read, as the caller guarantees.
        let at = |i: usize| if i < len { unsafe { *src.add(i) } } else { 0 };
        lanes(|i| [at(4 * i), at(4 * i + 1), at(4 * i + 2), at(4 * i + 3)])
    }

    #[inline(always)]
    unsafe fn load_ptr(self, src: *const i32) -> [i32; LANES] {
        // SAFETY: the caller guarantees LANES elements.
        lanes(|i| unsafe { *src.add(i) })
    }

    #[inline(always)]
    unsafe fn store_first(self, v: [i32; LANES], dst: *mut i32, len: usize) {
        for (i, &x) in v.iter().take(len).enumerate() {
            // SAFETY: only elements below `len` are written, as the caller guarantees.
            unsafe { *dst.add(i) = x }
        }
    }
}
