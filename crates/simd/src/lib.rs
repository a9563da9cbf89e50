//! One vector language over the instruction sets that SmallMind runs on.
//!
//! A kernel is written once, generic over [`Isa`], and runs on every instruction set: [`Scalar`] everywhere, `Avx2` (8
//! lanes) and `Avx512` (16 lanes) where an x86-64 CPU has them. This page builds a dot product in four steps.
//!
//! # 1. The arithmetic
//!
//! An implementation of [`Isa`] is a zero-sized *token*. A program gets one only by detection, so a token proves that
//! the CPU has the instructions, and its methods need no `unsafe`. Vectors have the type `I::F32` and [`Isa::LANES`]
//! elements. Everything is `#[inline(always)]`, closures too: code that is not inlined into the entry of step 2 is not
//! compiled for the instruction set.
//!
//! ```
//! use smallmind_simd::Isa;
//!
//! /// `Σ aᵢ·bᵢ`; `a` and `b` are `[n]`.
//! #[inline(always)]
//! fn dot_lanes<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
//!     let (a, a_tail) = a.split_at(a.len() - a.len() % I::LANES);
//!     let (b, b_tail) = b.split_at(a.len());
//!     let mut sum = isa.zero();
//!     for (a, b) in a.chunks_exact(I::LANES).zip(b.chunks_exact(I::LANES)) {
//!         sum = isa.mul_add(isa.load(a), isa.load(b), sum);
//!     }
//!     // Partial loads put zeros into the lanes beyond the end, which add nothing here.
//!     sum = isa.mul_add(isa.load_partial(a_tail), isa.load_partial(b_tail), sum);
//!     isa.sum(sum)
//! }
//! ```
//!
//! # 2. The entry
//!
//! [`Isa::vectorize`] is the one function that is compiled with the instruction set enabled. A public kernel calls it
//! once.
//!
//! ```
//! # use smallmind_simd::{Isa, Scalar};
//! # #[inline(always)]
//! # fn dot_lanes<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
//! #     assert!(a.len() <= I::LANES);
//! #     isa.sum(isa.mul(isa.load_partial(a), isa.load_partial(b)))
//! # }
//! pub fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
//!     assert_eq!(a.len(), b.len());
//!     isa.vectorize(
//!         #[inline(always)]
//!         || dot_lanes(isa, a, b),
//!     )
//! }
//!
//! assert_eq!(dot(Scalar::new(), &[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
//! ```
//!
//! # 3. The choice
//!
//! [`IsaKind`] names an instruction set at run time; [`IsaKind::with`] turns the name into a token. As closures can't
//! be generic, the work is a value that implements [`WithIsa`]. [`IsaKind::best`] is the widest kind of this CPU,
//! [`IsaKind::named`] the kind with a given name.
//!
//! ```
//! # use smallmind_simd::Isa;
//! # fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
//! #     isa.sum(isa.mul(isa.load_partial(a), isa.load_partial(b)))
//! # }
//! use smallmind_simd::{IsaKind, WithIsa};
//!
//! struct Dot<'a>(&'a [f32], &'a [f32]);
//!
//! impl WithIsa for Dot<'_> {
//!     type Output = f32;
//!     fn call<I: Isa>(self, isa: I) -> f32 {
//!         dot(isa, self.0, self.1)
//!     }
//! }
//!
//! assert_eq!(IsaKind::best().with(Dot(&[1.0, 2.0], &[3.0, 4.0])), Ok(11.0));
//! ```
//!
//! # 4. The test
//!
//! Tests run on all of [`IsaKind::available`], so that a machine checks every kind that it has.
//!
//! ```
//! # use smallmind_simd::{Isa, IsaKind, WithIsa};
//! # struct Dot<'a>(&'a [f32], &'a [f32]);
//! # impl WithIsa for Dot<'_> {
//! #     type Output = f32;
//! #     fn call<I: Isa>(self, isa: I) -> f32 {
//! #         isa.sum(isa.mul(isa.load_partial(self.0), isa.load_partial(self.1)))
//! #     }
//! # }
//! for kind in IsaKind::available() {
//!     for n in 0..8 {
//!         let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
//!         let expected: f32 = x.iter().map(|x| x * x).sum();
//!         assert_eq!(kind.with(Dot(&x, &x)), Ok(expected), "{kind}, n = {n}");
//!     }
//! }
//! ```
//!
//! [`math`] holds the elementary functions over this language, each with its error bound. [`Bf16Dot`] and [`Int8Dot`]
//! are dot products of narrow numbers, for which some CPUs have further instructions; they have their own tokens. The
//! crate knows nothing about matrices and makes no choices: the code that holds a token decides what runs.
//!
//! Read it in this order: `kind` (names), `isa` (the traits), `arch` (their implementations; begin with
//! `arch/scalar.rs`), [`math`], `dispatch` (from a name to a token).

mod arch;
mod dispatch;
mod isa;
mod kind;
pub mod math;

pub use arch::prefetch::{CacheLevel, prefetch};
pub use arch::scalar::Scalar;
pub use arch::ticks::ticks;
#[cfg(target_arch = "x86_64")]
pub use arch::{avx2::Avx2, avx512::Avx512, avx512_bf16::Avx512Bf16, avx512_vnni::Avx512Vnni};
pub use dispatch::{IsaError, WithIsa};
pub use isa::{Bf16Dot, Int8Dot, Isa, MAX_LANES, WithBf16, WithInt8};
pub use kind::IsaKind;
