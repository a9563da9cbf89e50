//! What distinguishes products of `f32` from products of `bf16`: the word.
//!
//! A *word* is 32 bits of a factor, one `f32` or two `bf16` that follow each other in depth. The loops and the micro-kernels count depth in
//! words; how words are multiplied, loaded and gathered is said here.
#![allow(unsafe_code)]

use half::bf16;
use smallmind_simd::{Bf16Dot, Isa};

use super::tables::{self, Kernels};

/// The `f32` vectors of an arithmetic.
pub(super) type F32<P> = <<P as Arithmetic>::Isa as Isa>::F32;

/// How the elements of factors become sums of `f32`.
pub(super) trait Arithmetic: Copy + Send + Sync + 'static {
    /// The operations on sums.
    type Isa: Isa;
    /// An element of a factor.
    type Element: Copy;
    /// A vector of words, one for each lane of a sum.
    type Words: Copy;
    /// Elements in a word.
    const STEP: usize;

    /// The token of the operations on sums.
    fn isa(self) -> Self::Isa;
    /// Runs `f` compiled for this arithmetic.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;
    /// The product of the words of each lane, added to its sum.
    fn multiply_add(self, a: Self::Words, b: Self::Words, sum: F32<Self>) -> F32<Self>;
    /// No words.
    fn zero(self) -> Self::Words;
    /// The word at `at` in every lane.
    ///
    /// # Safety
    /// A word must be readable there.
    unsafe fn splat(self, at: *const Self::Element) -> Self::Words;
    /// A vector of adjacent words.
    ///
    /// # Safety
    /// They must be readable at `at`.
    unsafe fn load(self, at: *const Self::Element) -> Self::Words;
    /// Writes a vector of words.
    ///
    /// # Safety
    /// They must be writable at `at`.
    unsafe fn store(self, words: Self::Words, at: *mut Self::Element);
    /// The words of adjacent columns of [`Arithmetic::STEP`] rows, `stride` apart.
    ///
    /// # Safety
    /// A vector's lanes of elements must be readable in each row.
    unsafe fn gather(self, at: *const Self::Element, stride: usize) -> Self::Words;
    /// The same of the first `rows` rows and `cols` columns, at least one and at most as many as [`Arithmetic::gather`] takes; zeros beyond.
    ///
    /// # Safety
    /// These elements must be readable.
    unsafe fn gather_part(self, at: *const Self::Element, stride: usize, rows: usize, cols: usize) -> Self::Words;
    /// The micro-kernels and what feeds them.
    fn kernels() -> &'static Kernels<Self>;
}

/// `f32` factors: a word is an element.
#[derive(Clone, Copy)]
pub(super) struct Single<I>(pub I);

impl<I: Isa> Arithmetic for Single<I> {
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
        // SAFETY: the caller's guarantee.
        self.0.splat(unsafe { *at })
    }

    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> I::F32 {
        // SAFETY: the caller's guarantee.
        unsafe { self.0.load_ptr(at) }
    }

    #[inline(always)]
    unsafe fn store(self, words: I::F32, at: *mut f32) {
        // SAFETY: the caller's guarantee.
        unsafe { self.0.store_ptr(words, at) }
    }

    #[inline(always)]
    unsafe fn gather(self, at: *const f32, _: usize) -> I::F32 {
        // SAFETY: the caller's guarantee.
        unsafe { self.0.load_ptr(at) }
    }

    #[inline(always)]
    unsafe fn gather_part(self, at: *const f32, _: usize, _: usize, cols: usize) -> I::F32 {
        // SAFETY: the caller's guarantee for a row of `cols` elements.
        self.0.load_partial(unsafe { std::slice::from_raw_parts(at, cols) })
    }

    fn kernels() -> &'static Kernels<Self> {
        tables::single::<I>()
    }
}

/// `bf16` factors: a word is two elements, whose products are added to one sum.
#[derive(Clone, Copy)]
pub(super) struct Pairs<D>(pub D);

/// The most lanes of a vector of sums.
const MAX_LANES: usize = 16;

impl<D: Bf16Dot> Arithmetic for Pairs<D> {
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
    fn multiply_add(self, a: D::Pairs, b: D::Pairs, sum: D::F32) -> D::F32 {
        self.0.dot(sum, a, b)
    }

    #[inline(always)]
    fn zero(self) -> D::Pairs {
        self.0.splat_pair(0)
    }

    #[inline(always)]
    unsafe fn splat(self, at: *const bf16) -> D::Pairs {
        // SAFETY: the caller's guarantee.
        unsafe { self.0.splat_pair_ptr(at) }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const bf16) -> D::Pairs {
        // SAFETY: the caller's guarantee.
        unsafe { self.0.load_pairs(at) }
    }

    #[inline(always)]
    unsafe fn store(self, words: D::Pairs, at: *mut bf16) {
        // SAFETY: the caller's guarantee.
        unsafe { self.0.store_pairs(words, at) }
    }

    #[inline(always)]
    unsafe fn gather(self, at: *const bf16, stride: usize) -> D::Pairs {
        // SAFETY: the caller's guarantee.
        unsafe { self.0.load_zip(at, at.add(stride)) }
    }

    #[inline(always)]
    unsafe fn gather_part(self, at: *const bf16, stride: usize, rows: usize, cols: usize) -> D::Pairs {
        let mut whole = [[bf16::ZERO; MAX_LANES]; 2];
        for (r, row) in whole.iter_mut().enumerate().take(rows) {
            // SAFETY: the caller's guarantee for `rows` rows of `cols` elements.
            row[..cols].copy_from_slice(unsafe { std::slice::from_raw_parts(at.add(r * stride), cols) });
        }
        // SAFETY: the arrays have at least a vector's lanes.
        unsafe { self.0.load_zip(whole[0].as_ptr(), whole[1].as_ptr()) }
    }

    fn kernels() -> &'static Kernels<Self> {
        tables::pairs::<D>()
    }
}
