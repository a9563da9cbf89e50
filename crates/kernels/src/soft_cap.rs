//! Soft caps: `y = cap · tanh(x / cap)`, which keeps numbers between `−cap` and `cap` (Gemma Team, *Gemma 2: Improving
//! Open Language Models at a Practical Size*, 2024).
//!
//! Every element is computed by itself, so windows of the output have the bits of the whole.

use smallmind_simd::{Isa, math};

use crate::compiled::compiled;
use crate::{Mat, MatMut, row_ops};

/// `out = cap · tanh(x / cap)`, both `[rows, cols]`; within `5 · ε · |out|`.
///
/// # Panics
/// If the shapes differ.
pub fn soft_cap<I: Isa>(isa: I, cap: f32, x: Mat, out: MatMut) {
    fn body<I: Isa>(isa: I, cap: f32, x: Mat, mut out: MatMut) {
        assert_eq!((x.rows(), x.cols()), (out.rows(), out.cols()), "the shape of what is capped");
        isa.vectorize(
            #[inline(always)]
            || {
                for r in 0..x.rows() {
                    row_ops::map(
                        isa,
                        [x.row(r)],
                        out.row_mut(r),
                        #[inline(always)]
                        |[x]| capped(isa, cap, x),
                    );
                }
            },
        );
    }
    compiled!(isa: I, body(cap: f32, x: Mat, out: MatMut));
}

/// [`soft_cap`] of `x` `[rows, cols]` in its place.
pub fn soft_cap_in_place<I: Isa>(isa: I, cap: f32, x: MatMut) {
    fn body<I: Isa>(isa: I, cap: f32, mut x: MatMut) {
        isa.vectorize(
            #[inline(always)]
            || {
                for r in 0..x.rows() {
                    row_ops::update(
                        isa,
                        [],
                        x.row_mut(r),
                        #[inline(always)]
                        |x, []| capped(isa, cap, x),
                    );
                }
            },
        );
    }
    compiled!(isa: I, body(cap: f32, x: MatMut));
}

#[inline(always)]
fn capped<I: Isa>(isa: I, cap: f32, x: I::F32) -> I::F32 {
    capped_scaled(isa, cap, 1.0 / cap, x)
}

/// `cap · tanh(factor · x)`.
#[inline(always)]
fn capped_scaled<I: Isa>(isa: I, cap: f32, factor: f32, x: I::F32) -> I::F32 {
    isa.mul(isa.splat(cap), math::tanh(isa, isa.mul(x, isa.splat(factor))))
}

/// `cap · tanh(scale · s / cap)` of each raw score `s`, in its place.
#[inline(always)]
pub(crate) fn cap_scores<I: Isa>(isa: I, scores: &mut [f32], scale: f32, cap: f32) {
    row_ops::update(
        isa,
        [],
        scores,
        #[inline(always)]
        |s, []| capped_scaled(isa, cap, scale / cap, s),
    );
}

/// The gradient of [`soft_cap`] in the place of that of its result: `d = d · (1 − (y / cap)²)` for the result `y`, both
/// `[rows, cols]`; within `4 · ε · |d|` of the old `d`.
///
/// # Panics
/// If the shapes differ.
pub fn soft_cap_backward<I: Isa>(isa: I, cap: f32, y: Mat, d: MatMut) {
    fn body<I: Isa>(isa: I, cap: f32, y: Mat, mut d: MatMut) {
        assert_eq!((y.rows(), y.cols()), (d.rows(), d.cols()), "the shape of what was capped");
        isa.vectorize(
            #[inline(always)]
            || {
                for r in 0..y.rows() {
                    row_ops::update(
                        isa,
                        [y.row(r)],
                        d.row_mut(r),
                        #[inline(always)]
                        |d, [y]| {
                            let tanh = isa.mul(y, isa.splat(1.0 / cap));
                            isa.mul(d, isa.neg_mul_add(tanh, tanh, isa.splat(1.0)))
                        },
                    );
                }
            },
        );
    }
    compiled!(isa: I, body(cap: f32, y: Mat, d: MatMut));
}
