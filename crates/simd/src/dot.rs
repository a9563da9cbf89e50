//! Dot products of narrow numbers: vectors of short dot products, each added to a lane of a wide accumulator.
//!
//! A token of [`Bf16Dot`] or [`Int8Dot`] is proof of detection as a token of [`Isa`] is, and its features include those of
//! the set that [`Bf16Dot::isa`] returns: inside of [`Bf16Dot::vectorize`] both may be used side by side.
//! [`Scalar`](crate::Scalar) has both on every CPU, as the twin that tests compare with.

use std::fmt::Debug;

use half::bf16;

use crate::Isa;

/// Products of pairs of `bf16`, added up in `f32`.
///
/// A vector of pairs holds `2 · LANES` numbers; pair `i` belongs to lane `i` of the accumulator.
pub trait Bf16Dot: Copy + Debug + Send + Sync + 'static {
    /// `f32` lanes of an accumulator, and pairs in a vector: [`Isa::LANES`] of [`Bf16Dot::Isa`].
    const LANES: usize;
    /// The `f32` operations that go with it.
    type Isa: Isa<F32 = Self::F32>;
    /// `LANES` values of `f32`.
    type F32: Copy;
    /// `LANES` pairs of `bf16`.
    type Pairs: Copy;

    /// The token of the `f32` operations.
    fn isa(self) -> Self::Isa;
    /// Runs `f` compiled for this instruction set.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// `0.0` in every lane.
    fn zero(self) -> Self::F32;
    /// `acc + a[0] · b[0] + a[1] · b[1]` in each lane.
    ///
    /// Products are exact; the order and the roundings of the two additions are the CPU's. `vdpbf16ps` rounds to nearest whatever the
    /// rounding mode, takes subnormal inputs as zero and gives zero for subnormal results; the scalar twin keeps both. For inputs
    /// that aren't subnormal, tokens differ by at most `2^-22 · (|acc| + |a[0] · b[0]| + |a[1] · b[1]|) + 2^-125`. One token always gives
    /// the same bits.
    fn dot(self, acc: Self::F32, a: Self::Pairs, b: Self::Pairs) -> Self::F32;

    /// Both numbers of the pair that `bits` holds, the first in the lower half, in every lane.
    fn splat_pair(self, bits: u32) -> Self::Pairs;
    /// The two numbers at `src` in every lane.
    ///
    /// # Safety
    /// `src` must be valid for reads of two elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn splat_pair_ptr(self, src: *const bf16) -> Self::Pairs;
    /// `2 · LANES` adjacent numbers.
    ///
    /// # Safety
    /// `src` must be valid for reads of `2 · LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_pairs(self, src: *const bf16) -> Self::Pairs;
    /// The first `min(len, 2 · LANES)` adjacent numbers, then zeros.
    ///
    /// # Safety
    /// `src` must be valid for reads of `min(len, 2 · LANES)` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_pairs_first(self, src: *const bf16, len: usize) -> Self::Pairs;
    /// Writes `2 · LANES` adjacent numbers.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `2 · LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn store_pairs(self, v: Self::Pairs, dst: *mut bf16);
    /// Writes the first `min(len, 2 · LANES)` numbers.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `min(len, 2 · LANES)` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn store_pairs_first(self, v: Self::Pairs, dst: *mut bf16, len: usize);

    /// `low` then `high`, rounded to nearest even: the `2 · LANES` numbers as they lie in memory.
    ///
    /// A NaN stays a NaN. The CPU's instruction takes subnormal numbers as zero; the scalar twin rounds them.
    fn narrow(self, low: Self::F32, high: Self::F32) -> Self::Pairs;
    /// Pair `i` is `(even[i], odd[i])`, rounded as by [`Bf16Dot::narrow`]: two rows of a matrix become one row of pairs.
    fn narrow_zip(self, even: Self::F32, odd: Self::F32) -> Self::Pairs;
    /// Pair `i` is `(even[i], odd[i])` of two rows of `LANES` numbers.
    ///
    /// # Safety
    /// `even` and `odd` must be valid for reads of `LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_zip(self, even: *const bf16, odd: *const bf16) -> Self::Pairs;

    /// `LANES` numbers at `src`, which need not be aligned.
    ///
    /// # Safety
    /// `src` must be valid for reads of `LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_ptr(self, src: *const f32) -> Self::F32;
    /// The first `min(len, LANES)` numbers at `src`, then zeros.
    ///
    /// # Safety
    /// `src` must be valid for reads of `min(len, LANES)` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_first(self, src: *const f32, len: usize) -> Self::F32;
    /// Writes all lanes to `dst`, which need not be aligned.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn store_ptr(self, v: Self::F32, dst: *mut f32);
    /// Writes the first `min(len, LANES)` lanes to `dst`.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `min(len, LANES)` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn store_first(self, v: Self::F32, dst: *mut f32, len: usize);
    /// Writes the lanes rounded as by [`Bf16Dot::narrow`], the first `min(len, LANES)` of them.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `min(len, LANES)` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn store_narrow_first(self, v: Self::F32, dst: *mut bf16, len: usize);
}

/// Products of four unsigned and four signed bytes, added up in `i32`.
///
/// A vector of bytes holds `4 · LANES` of them; four adjacent ones belong to a lane of the accumulator. All of it is exact: sums wrap
/// and never saturate, and all tokens agree to the bit.
pub trait Int8Dot: Copy + Debug + Send + Sync + 'static {
    /// `i32` lanes of an accumulator: [`Isa::LANES`] of [`Int8Dot::Isa`].
    const LANES: usize;
    /// The operations on `f32` and `i32` that go with it.
    type Isa: Isa<I32 = Self::I32>;
    /// `LANES` values of `i32`.
    type I32: Copy;
    /// `4 · LANES` bytes.
    type Bytes: Copy;

    /// The token of the operations on `f32` and `i32`.
    fn isa(self) -> Self::Isa;
    /// Runs `f` compiled for this instruction set.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// `0` in every lane.
    fn zero(self) -> Self::I32;
    /// `acc + Σ a[j] · b[j]` over the four bytes of each lane, those of `a` read as `u8`, those of `b` as `i8`.
    fn dot(self, acc: Self::I32, a: Self::Bytes, b: Self::Bytes) -> Self::I32;
    /// Four bytes, the first in the lowest bits, in every lane.
    fn splat_quad(self, bits: u32) -> Self::Bytes;
    /// The four bytes at `src` in every lane.
    ///
    /// # Safety
    /// `src` must be valid for reads of four bytes.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn splat_quad_ptr(self, src: *const u8) -> Self::Bytes;
    /// `4 · LANES` adjacent bytes.
    ///
    /// # Safety
    /// `src` must be valid for reads of `4 · LANES` bytes.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_bytes(self, src: *const u8) -> Self::Bytes;
    /// The first `min(len, 4 · LANES)` bytes, then zeros.
    ///
    /// # Safety
    /// `src` must be valid for reads of `min(len, 4 · LANES)` bytes.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_bytes_first(self, src: *const u8, len: usize) -> Self::Bytes;
    /// `LANES` integers at `src`, which need not be aligned.
    ///
    /// # Safety
    /// `src` must be valid for reads of `LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_ptr(self, src: *const i32) -> Self::I32;
    /// Writes the first `min(len, LANES)` lanes to `dst`.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `min(len, LANES)` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn store_first(self, v: Self::I32, dst: *mut i32, len: usize);
}
