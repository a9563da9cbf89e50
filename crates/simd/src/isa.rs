//! The vector language: [`Isa`], what every instruction set can do, and [`Bf16Dot`] and [`Int8Dot`], dot products of
//! narrow numbers, for which some CPUs have further instructions.
//!
//! All three are implemented in `arch` and nowhere else.

use std::fmt::Debug;

use half::{bf16, f16};

use crate::IsaKind;

/// The most lanes of a vector of `f32` on any instruction set.
pub const MAX_LANES: usize = 16;

/// Keeps [`Isa`], [`Bf16Dot`] and [`Int8Dot`] from being implemented by other crates.
pub(crate) mod sealed {
    /// A token of this crate.
    pub trait Sealed {}
}

/// A zero-sized proof that this CPU has an instruction set, and the operations of that set.
///
/// A value of an implementing type exists only after detection (see [`IsaKind::with`]), so the
/// arithmetic below needs no `unsafe` where it is used. Kernels are written once, generic over `I: Isa`,
/// with `#[inline(always)]` on every function and closure below the one call of [`Isa::vectorize`]: only code that
/// is inlined into it is compiled for the instruction set.
///
/// The trait is sealed: unsafe code relies on [`Isa::LANES`], at most [`MAX_LANES`] and a power of two, and on how many
/// elements loads and stores touch.
///
/// Loads and stores of whole vectors panic if the slice has fewer than [`Isa::LANES`] elements. Over
/// `chunks_exact(I::LANES)` the compiler removes the check.
pub trait Isa: sealed::Sealed + Copy + Debug + Send + Sync + 'static {
    /// Which instruction set this is.
    const KIND: IsaKind;
    /// `f32` lanes in a vector.
    const LANES: usize;

    /// `LANES` values of `f32`.
    type F32: Copy;
    /// `LANES` values of `f64`.
    type F64: Copy;
    /// `LANES` values of `i32`.
    type I32: Copy;
    /// One truth value for each lane.
    type Mask: Copy;

    /// Runs `f`, compiled for this instruction set. This is its only `#[target_feature]` function.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// Runs `work` on the token of the CPU's fastest dot products of bytes: this one, or one that extends it.
    fn with_int8<W: WithInt8<Self>>(self, work: W) -> W::Output;
    /// Runs `work` on the token of the CPU's dot products of `bf16` that extends this one; gives it back if there are
    /// none.
    #[inline(always)]
    fn with_bf16<W: WithBf16<Self>>(self, work: W) -> Result<W::Output, W> {
        Err(work)
    }

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F32;
    /// `0.0` in every lane.
    #[inline(always)]
    fn zero(self) -> Self::F32 {
        self.splat(0.0)
    }
    /// The first [`Isa::LANES`] elements of `src`.
    fn load(self, src: &[f32]) -> Self::F32;
    /// The first `min(src.len(), LANES)` elements of `src`, then zeros.
    fn load_partial(self, src: &[f32]) -> Self::F32;
    /// Writes all lanes to the front of `dst`.
    fn store(self, v: Self::F32, dst: &mut [f32]);
    /// Writes the first `min(dst.len(), LANES)` lanes to the front of `dst`.
    fn store_partial(self, v: Self::F32, dst: &mut [f32]);
    /// Reads [`Isa::LANES`] elements at `src`, which need not be aligned.
    ///
    /// # Safety
    /// `src` must be valid for reads of `LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_ptr(self, src: *const f32) -> Self::F32;
    /// Writes [`Isa::LANES`] elements at `dst`, which need not be aligned.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn store_ptr(self, v: Self::F32, dst: *mut f32);

    /// [`Isa::store_ptr`] past the caches, if the CPU has such an instruction: the cache line is not read before it is
    /// overwritten, and no other line is evicted for it.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `LANES` elements, and aligned to their size in bytes. Nobody, this thread
    /// included, may read or write these elements again before this thread has called [`Isa::fence`].
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn store_past_caches_ptr(self, v: Self::F32, dst: *mut f32);
    /// Orders stores past the caches before all later stores, as other threads see them.
    fn fence(self);

    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`, correctly rounded.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`; rounded once where the CPU fuses, twice on [`crate::Scalar`].
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `c - a * b`; rounded as [`Isa::mul_add`].
    fn neg_mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The lesser of `a` and `b`; `b` where either is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The greater of `a` and `b`; `b` where either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `-a`.
    fn neg(self, a: Self::F32) -> Self::F32;
    /// `|a|`.
    fn abs(self, a: Self::F32) -> Self::F32;
    /// The square root, correctly rounded.
    fn sqrt(self, a: Self::F32) -> Self::F32;
    /// The nearest integer, ties to even, as a float.
    fn round(self, a: Self::F32) -> Self::F32;
    /// `a · 2^n` for whole numbers `n` with `|n| ≤ 160`. For `0.5 ≤ |a| ≤ 2` it is rounded once, even if the result is
    /// subnormal; other `a` may be rounded more often.
    fn mul_pow2(self, a: Self::F32, n: Self::F32) -> Self::F32;

    /// `a < b`.
    fn lt(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    /// `a <= b`.
    fn le(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    /// `a` where the mask is true, else `b`.
    fn select(self, mask: Self::Mask, a: Self::F32, b: Self::F32) -> Self::F32;

    /// `table[index % 16]` for each lane.
    fn lookup(self, table: &[f32; 16], index: Self::I32) -> Self::F32;

    /// `x` in every lane.
    fn splat_i32(self, x: i32) -> Self::I32;
    /// The nearest integer, ties to even; unspecified outside the range of `i32`.
    fn to_i32(self, a: Self::F32) -> Self::I32;
    /// The integers as floats.
    fn to_f32(self, a: Self::I32) -> Self::F32;
    /// The bits of the floats.
    fn bits(self, a: Self::F32) -> Self::I32;
    /// The floats with those bits.
    #[allow(clippy::wrong_self_convention)] // `self` is the token; `f32::from_bits` gives the name.
    fn from_bits(self, a: Self::I32) -> Self::F32;
    /// `a + b`, wrapping.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// The lower and the upper halves of the 64-bit products `a * b`, all of them unsigned.
    fn widening_mul_u32(self, a: Self::I32, b: Self::I32) -> (Self::I32, Self::I32);
    /// `a & b`.
    fn and_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a | b`.
    fn or_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a ^ b`.
    fn xor_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a << N`.
    fn shl_i32<const N: i32>(self, a: Self::I32) -> Self::I32;
    /// `a >> N`, zeros shifted in.
    fn shr_i32<const N: i32>(self, a: Self::I32) -> Self::I32;

    /// The first [`Isa::LANES`] elements of `src`, widened.
    fn load_i8(self, src: &[i8]) -> Self::I32;
    /// Writes the lowest eight bits of all lanes to the front of `dst`.
    fn store_i8(self, v: Self::I32, dst: &mut [i8]);

    /// The sum over lanes, in an order fixed for the instruction set.
    fn sum(self, v: Self::F32) -> f32;
    /// The greatest lane; unspecified if one is NaN.
    fn max_lane(self, v: Self::F32) -> f32;

    /// `0.0` in every lane.
    fn zero_f64(self) -> Self::F64;
    /// `sums + x²` for the first [`Isa::LANES`] elements `x` of `src`: the squares are exact, the sums rounded to
    /// `f64`.
    fn add_squares(self, src: &[f32], sums: Self::F64) -> Self::F64;
    /// Writes all lanes to the front of `dst`.
    fn store_f64(self, v: Self::F64, dst: &mut [f64]);

    /// The first [`Isa::LANES`] elements of `src`, widened.
    fn load_f16(self, src: &[f16]) -> Self::F32;
    /// `x` in every lane, widened.
    fn splat_f16(self, x: f16) -> Self::F32;
    /// Writes all lanes, rounded to nearest even.
    fn store_f16(self, v: Self::F32, dst: &mut [f16]);
    /// The first [`Isa::LANES`] elements of `src`, widened.
    fn load_bf16(self, src: &[bf16]) -> Self::F32;
    /// Writes all lanes, rounded to nearest even; a NaN stays a NaN.
    fn store_bf16(self, v: Self::F32, dst: &mut [bf16]);
}

/// A computation that is generic over the token of dot products of bytes; see [`Isa::with_int8`]. A closure can't be
/// generic.
pub trait WithInt8<I: Isa> {
    /// The result.
    type Output;

    /// Runs it on `dot`.
    fn call<D: Int8Dot<Isa = I>>(self, dot: D) -> Self::Output;
}

/// A computation that is generic over the token of dot products of `bf16`; see [`Isa::with_bf16`].
pub trait WithBf16<I: Isa> {
    /// The result.
    type Output;

    /// Runs it on `dot`.
    fn call<D: Bf16Dot<Isa = I>>(self, dot: D) -> Self::Output;
}

/// A zero-sized proof that this CPU has dot products of pairs of `bf16`, added up in `f32`, and these operations.
///
/// A vector of pairs holds `2 · LANES` numbers, where `LANES` is [`Isa::LANES`] of [`Bf16Dot::Isa`]; pair `i` belongs
/// to lane `i` of the sum. The token's features include those of [`Bf16Dot::Isa`]: inside of [`Bf16Dot::vectorize`] the
/// operations of both may be used.
pub trait Bf16Dot: sealed::Sealed + Copy + Debug + Send + Sync + 'static {
    /// The instruction set whose vectors hold the sums.
    type Isa: Isa;
    /// `LANES` pairs of `bf16`.
    type Pairs: Copy;

    /// The token of the operations on sums.
    fn isa(self) -> Self::Isa;
    /// Runs `f`, compiled for this token. This is its only `#[target_feature]` function.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// `acc + a[0] · b[0] + a[1] · b[1]` in each lane.
    ///
    /// Products are exact; the order and the roundings of the two additions are the CPU's. `vdpbf16ps` rounds to
    /// nearest whatever the rounding mode, takes subnormal inputs as zero and gives zero for subnormal results; the
    /// scalar twin keeps subnormal numbers. For inputs that aren't subnormal, tokens differ by at most
    /// `2^-22 · (|acc| + |a[0] · b[0]| + |a[1] · b[1]|) + 2^-125`. One token always gives the same bits.
    fn dot(self, acc: <Self::Isa as Isa>::F32, a: Self::Pairs, b: Self::Pairs) -> <Self::Isa as Isa>::F32;

    /// The pair that `bits` holds, its first number in the lower half, in every lane.
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
    /// Writes `2 · LANES` adjacent numbers.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `2 · LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn store_pairs(self, v: Self::Pairs, dst: *mut bf16);
    /// Pair `i` is `(even[i], odd[i])` of two rows of `LANES` numbers.
    ///
    /// # Safety
    /// `even` and `odd` must be valid for reads of `LANES` elements.
    #[allow(unsafe_code)] // The declaration only; the bodies are in arch.
    unsafe fn load_zip(self, even: *const bf16, odd: *const bf16) -> Self::Pairs;
    /// Pair `i` is `(even[i], odd[i])`, each rounded to nearest, ties to even. A subnormal number may become zero, as
    /// which [`Bf16Dot::dot`] may take it; a NaN stays one.
    fn round_zip(self, even: <Self::Isa as Isa>::F32, odd: <Self::Isa as Isa>::F32) -> Self::Pairs;
}

/// A zero-sized proof that this CPU has dot products of four unsigned and four signed bytes, added up in `i32`, and
/// these operations.
///
/// A vector holds `4 · LANES` bytes, where `LANES` is [`Isa::LANES`] of [`Int8Dot::Isa`]; four adjacent bytes belong to
/// a lane of the sum. The arithmetic is exact: sums wrap and never saturate, and all tokens give the same bits. As for
/// [`Bf16Dot`], the features include those of [`Int8Dot::Isa`].
pub trait Int8Dot: sealed::Sealed + Copy + Debug + Send + Sync + 'static {
    /// The instruction set whose vectors hold the sums.
    type Isa: Isa;
    /// `4 · LANES` bytes.
    type Bytes: Copy;

    /// The token of the operations on sums.
    fn isa(self) -> Self::Isa;
    /// Runs `f`, compiled for this token. This is its only `#[target_feature]` function.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// `acc + Σ a[j] · b[j]` over the four bytes of each lane, those of `a` read as `u8`, those of `b` as `i8`.
    fn dot(self, acc: <Self::Isa as Isa>::I32, a: Self::Bytes, b: Self::Bytes) -> <Self::Isa as Isa>::I32;

    /// `acc + Σ a[0][j] · b[0][j] + Σ a[1][j] · b[1][j]`, as two of [`Int8Dot::dot`], for bytes of `a` below 64: with
    /// fewer instructions on some CPUs. Other bytes make the sums unspecified.
    #[inline(always)]
    fn dot_pair_below_64(
        self,
        acc: <Self::Isa as Isa>::I32,
        a: [Self::Bytes; 2],
        b: [Self::Bytes; 2],
    ) -> <Self::Isa as Isa>::I32 {
        self.dot(self.dot(acc, a[0], b[0]), a[1], b[1])
    }

    /// What [`Int8Dot::shifted`] takes from each byte.
    const SHIFT: i32 = 0;

    /// `a − SHIFT` for each byte: as `i8` if the shift is 128, as `u8` if it is 0.
    #[inline(always)]
    fn shifted(self, a: Self::Bytes) -> Self::Bytes {
        a
    }

    /// `acc + Σ a[j] · b[j]` over the four bytes of each lane, where `a` comes from [`Int8Dot::shifted`]:
    /// [`Int8Dot::dot`] with the shift that takes the fewest instructions. A byte -128 of `b` makes the sums
    /// unspecified.
    #[inline(always)]
    fn dot_shifted(self, acc: <Self::Isa as Isa>::I32, a: Self::Bytes, b: Self::Bytes) -> <Self::Isa as Isa>::I32 {
        self.dot(acc, a, b)
    }

    /// A sum of few dot products, which may be narrower than [`Isa::I32`].
    type Few: Copy;

    /// The sum of none of them, to be added to `start`.
    fn few(self, start: <Self::Isa as Isa>::I32) -> Self::Few;
    /// Adds a dot product. The sums are unspecified if the magnitudes `|a[j] · b[j]|` of bytes 0 and 1, or of bytes 2
    /// and 3, of all products of a lane add up to more than 32767.
    fn dot_few(self, few: Self::Few, a: Self::Bytes, b: Self::Bytes) -> Self::Few;
    /// `start`, which must be the one that the sum began with, and the products.
    fn sum_few(self, few: Self::Few, start: <Self::Isa as Isa>::I32) -> <Self::Isa as Isa>::I32;

    /// `(a >> N) & MASK` for each byte; `MASK` has at most the lowest `8 - N` bits.
    fn shr_and<const N: i32, const MASK: u8>(self, a: Self::Bytes) -> Self::Bytes;
    /// `(a << N) & MASK` for each byte; `MASK` has none of the lowest `N` bits.
    fn shl_and<const N: i32, const MASK: u8>(self, a: Self::Bytes) -> Self::Bytes;
    /// `a | b`.
    fn or_bytes(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `table[index]` for each byte; unspecified where the index is 16 or more.
    fn lookup_bytes(self, table: &[u8; 16], index: Self::Bytes) -> Self::Bytes;

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
}
