//! How the elements of two factors become sums of `f32`: [`F32Gemm`] multiplies `f32`, [`Bf16Gemm`] pairs of `bf16`.
//!
//! The loops and the micro-kernels are generic over an [`Arithmetic`] and count depth in *words* of 32 bits: one `f32`,
//! or two `bf16` that are adjacent in depth.
#![allow(unsafe_code)]

use half::{bf16, f16};
use smallmind_simd::{Bf16Dot, Isa, MAX_LANES};

use crate::format::HalfKind;

/// A vector of sums.
pub(super) type Sums<P> = <<P as Arithmetic>::Isa as Isa>::F32;

/// How the elements of factors become sums of `f32`.
pub(super) trait Arithmetic: Copy + Send + Sync + 'static {
    /// The operations on sums.
    type Isa: Isa;
    /// An element of a factor.
    type Element: Gathered<Self>;
    /// A vector of words, one for each lane of a sum.
    type Words: Copy;
    /// Elements in a word.
    const STEP: usize;

    /// The token of the operations on sums.
    fn isa(self) -> Self::Isa;
    /// Runs `f` compiled for this arithmetic.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;
    /// `sum + a · b` in each lane, over the elements of the words.
    fn multiply_add(self, a: Self::Words, b: Self::Words, sum: Sums<Self>) -> Sums<Self>;
    /// A vector of zeros.
    fn zero(self) -> Self::Words;
    /// The word at `at` in every lane.
    ///
    /// # Safety
    /// `at` must be valid for reads of a word.
    unsafe fn splat(self, at: *const Self::Element) -> Self::Words;
    /// The vector of adjacent words at `at`.
    ///
    /// # Safety
    /// `at` must be valid for reads of a vector of words.
    unsafe fn load(self, at: *const Self::Element) -> Self::Words;
    /// Writes a vector of words to `at`.
    ///
    /// # Safety
    /// `at` must be valid for writes of a vector of words.
    unsafe fn store(self, words: Self::Words, at: *mut Self::Element);
    /// [`Gathered::gather`] of adjacent rows of a strip, which has as many columns as a vector has lanes. Products of
    /// `bf16` get strips of `bf16` only.
    ///
    /// # Safety
    /// `at` must be valid for reads of these rows.
    unsafe fn load_half<H: HalfFloat>(self, at: *const u16) -> Self::Words;
}

/// An element of a matrix whose rows run across the depth, and from which words of an arithmetic are made.
pub(super) trait Gathered<P: Arithmetic>: Copy {
    /// A vector of words, each from one column of [`Arithmetic::STEP`] rows; the columns are adjacent, the rows
    /// `stride` elements apart.
    ///
    /// # Safety
    /// Each row must be valid for reads of as many elements as a vector has lanes.
    unsafe fn gather(arithmetic: P, at: *const Self, stride: usize) -> P::Words;
    /// [`Gathered::gather`] of the first `rows` rows and `cols` columns; zeros beyond. Both are at least 1 and at most
    /// what [`Gathered::gather`] reads.
    ///
    /// # Safety
    /// These rows must be valid for reads of `cols` elements.
    unsafe fn gather_part(arithmetic: P, at: *const Self, stride: usize, rows: usize, cols: usize) -> P::Words;
}

/// Products of `f32`: a word is an element.
#[derive(Clone, Copy)]
pub(super) struct F32Gemm<I>(pub I);

impl<I: Isa> Arithmetic for F32Gemm<I> {
    type Isa = I;
    type Element = f32;
    type Words = I::F32;
    const STEP: usize = 1;

    #[inline(always)]
    fn isa(self) -> I {
        self.0
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        self.0.vectorize(f)
    }

    #[inline(always)]
    fn multiply_add(self, a: I::F32, b: I::F32, sum: I::F32) -> I::F32 {
        self.0.mul_add(a, b, sum)
    }

    #[inline(always)]
    fn zero(self) -> I::F32 {
        self.0.zero()
    }

    #[inline(always)]
    unsafe fn splat(self, at: *const f32) -> I::F32 {
        // SAFETY: a word is one `f32`, which the caller keeps readable.
        self.0.splat(unsafe { *at })
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> I::F32 {
        // SAFETY: a vector of words is LANES elements, which the caller keeps readable.
        unsafe { self.0.load_ptr(at) }
    }

    #[inline(always)]
    unsafe fn store(self, words: I::F32, at: *mut f32) {
        // SAFETY: a vector of words is LANES elements, which the caller keeps writable.
        unsafe { self.0.store_ptr(words, at) }
    }

    #[inline(always)]
    unsafe fn load_half<H: HalfFloat>(self, at: *const u16) -> I::F32 {
        // SAFETY: the caller keeps a row readable, LANES elements.
        unsafe { H::load(self.0, at) }
    }
}

/// Products of `bf16`: a word is two elements, whose products are added to the same sum.
#[derive(Clone, Copy)]
pub(super) struct Bf16Gemm<D>(pub D);

impl<D: Bf16Dot> Arithmetic for Bf16Gemm<D> {
    type Isa = D::Isa;
    type Element = bf16;
    type Words = D::Pairs;
    const STEP: usize = 2;

    #[inline(always)]
    fn isa(self) -> D::Isa {
        self.0.isa()
    }

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        self.0.vectorize(f)
    }

    #[inline(always)]
    fn multiply_add(self, a: D::Pairs, b: D::Pairs, sum: Sums<Self>) -> Sums<Self> {
        self.0.dot(sum, a, b)
    }

    #[inline(always)]
    fn zero(self) -> D::Pairs {
        self.0.splat_pair(0)
    }

    #[inline(always)]
    unsafe fn splat(self, at: *const bf16) -> D::Pairs {
        // SAFETY: a word is two elements, which the caller keeps readable.
        unsafe { self.0.splat_pair_ptr(at) }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const bf16) -> D::Pairs {
        // SAFETY: a vector of words is 2 · LANES elements, which the caller keeps readable.
        unsafe { self.0.load_pairs(at) }
    }

    #[inline(always)]
    unsafe fn store(self, words: D::Pairs, at: *mut bf16) {
        // SAFETY: a vector of words is 2 · LANES elements, which the caller keeps writable.
        unsafe { self.0.store_pairs(words, at) }
    }

    #[inline(always)]
    unsafe fn load_half<H: HalfFloat>(self, at: *const u16) -> D::Pairs {
        debug_assert!(H::KIND == HalfKind::Bf16, "a strip of `bf16`");
        // SAFETY: the caller keeps both rows readable; a `bf16` is its 16 bits.
        unsafe { Gathered::gather(self, at.cast::<bf16>(), D::Isa::LANES) }
    }
}

impl<I: Isa> Gathered<F32Gemm<I>> for f32 {
    #[inline(always)]
    unsafe fn gather(F32Gemm(isa): F32Gemm<I>, at: *const f32, _: usize) -> I::F32 {
        // SAFETY: the caller keeps LANES elements of the only row readable.
        unsafe { isa.load_ptr(at) }
    }

    #[inline(always)]
    unsafe fn gather_part(F32Gemm(isa): F32Gemm<I>, at: *const f32, _: usize, rows: usize, cols: usize) -> I::F32 {
        debug_assert!(rows == 1 && (1..=I::LANES).contains(&cols), "{rows} rows of {cols} columns");
        // SAFETY: the caller keeps `cols` elements of the only row readable.
        isa.load_partial(unsafe { std::slice::from_raw_parts(at, cols) })
    }
}

impl<D: Bf16Dot> Gathered<Bf16Gemm<D>> for bf16 {
    #[inline(always)]
    unsafe fn gather(Bf16Gemm(dot): Bf16Gemm<D>, at: *const bf16, stride: usize) -> D::Pairs {
        // SAFETY: the caller keeps LANES elements of both rows readable.
        unsafe { dot.load_zip(at, at.add(stride)) }
    }

    #[inline(always)]
    unsafe fn gather_part(
        Bf16Gemm(dot): Bf16Gemm<D>,
        at: *const bf16,
        stride: usize,
        rows: usize,
        cols: usize,
    ) -> D::Pairs {
        debug_assert!(rows <= 2 && (1..=MAX_LANES).contains(&cols), "{rows} rows of {cols} columns");
        let mut whole = [[bf16::ZERO; MAX_LANES]; 2];
        for (r, row) in whole.iter_mut().enumerate().take(rows) {
            // SAFETY: the caller keeps `cols` elements of each of `rows` rows readable.
            row[..cols].copy_from_slice(unsafe { std::slice::from_raw_parts(at.add(r * stride), cols) });
        }
        // SAFETY: each array has MAX_LANES elements, at least LANES.
        unsafe { dot.load_zip(whole[0].as_ptr(), whole[1].as_ptr()) }
    }
}

/// Rounds to nearest, ties to even.
impl<D: Bf16Dot> Gathered<Bf16Gemm<D>> for f32 {
    #[inline(always)]
    unsafe fn gather(Bf16Gemm(dot): Bf16Gemm<D>, at: *const f32, stride: usize) -> D::Pairs {
        // SAFETY: the caller keeps LANES elements of both rows readable.
        let [even, odd] = unsafe { [dot.isa().load_ptr(at), dot.isa().load_ptr(at.add(stride))] };
        dot.round_zip(even, odd)
    }

    #[inline(always)]
    unsafe fn gather_part(
        Bf16Gemm(dot): Bf16Gemm<D>,
        at: *const f32,
        stride: usize,
        rows: usize,
        cols: usize,
    ) -> D::Pairs {
        debug_assert!(rows <= 2 && (1..=MAX_LANES).contains(&cols), "{rows} rows of {cols} columns");
        // SAFETY: the caller keeps `cols` elements of each of `rows` rows readable.
        let row = |r: usize| dot.isa().load_partial(unsafe { std::slice::from_raw_parts(at.add(r * stride), cols) });
        let odd = if rows == 2 { row(1) } else { dot.isa().zero() };
        dot.round_zip(row(0), odd)
    }
}

/// A float of 16 bits. Products of `f32` widen it on its way into the multiply-adds.
pub(super) trait HalfFloat: Copy + 'static {
    /// Which one.
    const KIND: HalfKind;
    /// The vector of adjacent elements at `at`, widened.
    ///
    /// # Safety
    /// `at` must be valid for reads of [`Isa::LANES`] elements.
    unsafe fn load<I: Isa>(isa: I, at: *const u16) -> I::F32;
    /// Writes a vector to the front of `to`, rounded to nearest even.
    fn store<I: Isa>(isa: I, v: I::F32, to: &mut [u16]);
    /// One element, widened.
    fn widen(bits: u16) -> f32;
}

impl HalfFloat for f16 {
    const KIND: HalfKind = HalfKind::F16;

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, at: *const u16) -> I::F32 {
        // SAFETY: the caller keeps LANES elements readable; an `f16` is its 16 bits.
        isa.load_f16(unsafe { std::slice::from_raw_parts(at.cast(), I::LANES) })
    }

    #[inline(always)]
    fn store<I: Isa>(isa: I, v: I::F32, to: &mut [u16]) {
        let mut values = [f16::ZERO; MAX_LANES];
        isa.store_f16(v, &mut values[..I::LANES]);
        to.iter_mut().zip(values).for_each(|(to, x)| *to = x.to_bits());
    }

    fn widen(bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }
}

impl HalfFloat for bf16 {
    const KIND: HalfKind = HalfKind::Bf16;

    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, at: *const u16) -> I::F32 {
        // SAFETY: the caller keeps LANES elements readable; a `bf16` is its 16 bits.
        isa.load_bf16(unsafe { std::slice::from_raw_parts(at.cast(), I::LANES) })
    }

    #[inline(always)]
    fn store<I: Isa>(isa: I, v: I::F32, to: &mut [u16]) {
        let mut values = [bf16::ZERO; MAX_LANES];
        isa.store_bf16(v, &mut values[..I::LANES]);
        to.iter_mut().zip(values).for_each(|(to, x)| *to = x.to_bits());
    }

    fn widen(bits: u16) -> f32 {
        bf16::from_bits(bits).to_f32()
    }
}
