//! Activations: GELU in both forms and SwiGLU, each forward and backward.
//!
//! Every element is computed alone, so the results do not depend on how the output is cut into windows.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use smallmind_simd::{Isa, math};

use crate::{Mat, MatMut};

/// Which formula for the Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gelu {
    /// `x·Φ(x)` with the normal distribution function `Φ(x) = ½(1 + erf(x/√2))`: PyTorch's `approximate="none"`.
    Exact,
    /// `½x(1 + tanh u)`, `u = √(2/π)(x + 0.044715·x³)`: PyTorch's `approximate="tanh"`, the form of GPT-2.
    Tanh,
}

/// The weight of the cube in [`Gelu::Tanh`].
const TANH_CUBE: f32 = 0.044_715;

/// `2√(2/π)`.
const TWO_SQRT_2_OVER_PI: f32 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

/// Beyond this magnitude the derivatives of the activations have reached their limits; squares and cubes of it are finite.
const DERIVATIVE_FLAT: f32 = 30.0;

/// `out = gelu(x)`; `x` and `out` are the same window `[rows, cols]`.
///
/// # Panics
/// If the shapes differ.
pub fn gelu<I: Isa>(isa: I, kind: Gelu, x: Mat, out: MatMut) {
    isa.vectorize(
        #[inline(always)]
        || match kind {
            Gelu::Exact => map(
                isa,
                x,
                out,
                #[inline(always)]
                |x| isa.mul(x, normal_cdf(isa, x)),
            ),
            // ½(1 + tanh u) = sigmoid(2u), which costs less and keeps small results accurate.
            Gelu::Tanh => map(
                isa,
                x,
                out,
                #[inline(always)]
                |x| isa.mul(x, math::sigmoid(isa, twice_tanh_argument(isa, x))),
            ),
        },
    );
}

/// `dx = dy·gelu'(x)`; `x`, `dy` and `dx` are the same window `[rows, cols]`.
///
/// With the normal density `φ(x) = e^(-x²/2)/√(2π)` the derivatives are `Φ(x) + x·φ(x)` for [`Gelu::Exact`], and
/// `s + x·s(1 - s)·2u'`, `s = sigmoid(2u)`, `u' = √(2/π)(1 + 3·0.044715·x²)` for [`Gelu::Tanh`].
///
/// # Panics
/// If the shapes differ.
pub fn gelu_backward<I: Isa>(isa: I, kind: Gelu, x: Mat, dy: Mat, dx: MatMut) {
    isa.vectorize(
        #[inline(always)]
        || match kind {
            Gelu::Exact => zip(
                isa,
                x,
                dy,
                dx,
                #[inline(always)]
                |x, dy| isa.mul(dy, exact_derivative(isa, x)),
            ),
            Gelu::Tanh => zip(
                isa,
                x,
                dy,
                dx,
                #[inline(always)]
                |x, dy| isa.mul(dy, tanh_derivative(isa, x)),
            ),
        },
    );
}

/// `out = silu(gate)·up`, `silu(g) = g·sigmoid(g)` (Shazeer 2020, arXiv:2002.05202).
///
/// `gate_up` is `[rows, 2·f]`, the gate in the first `f` columns and up in the rest; `out` is `[rows, f]`. Windows of the
/// output are cut by rows only.
///
/// # Panics
/// If the shapes don't fit.
pub fn swiglu<I: Isa>(isa: I, gate_up: Mat, mut out: MatMut) {
    let f = out.cols();
    assert_eq!((gate_up.rows(), gate_up.cols()), (out.rows(), 2 * f), "gate_up is [rows, 2·f], out [rows, f]");
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..gate_up.rows() {
                let (gate, up) = gate_up.row(r).split_at(f);
                zip_row(
                    isa,
                    gate,
                    up,
                    out.row_mut(r),
                    #[inline(always)]
                    |gate, up| isa.mul(isa.mul(gate, math::sigmoid(isa, gate)), up),
                );
            }
        },
    );
}

/// The gradient of [`swiglu`]: with `s = sigmoid(gate)`, `d_gate = dy·up·s(1 + gate·(1 - s))` and `d_up = dy·gate·s`.
///
/// `gate_up` and `d_gate_up` are `[rows, 2·f]`, laid out alike; `dy` is `[rows, f]`.
///
/// # Panics
/// If the shapes don't fit.
pub fn swiglu_backward<I: Isa>(isa: I, gate_up: Mat, dy: Mat, mut d_gate_up: MatMut) {
    let (rows, f) = (dy.rows(), dy.cols());
    assert_eq!((gate_up.rows(), gate_up.cols()), (rows, 2 * f), "gate_up is [rows, 2·f], dy [rows, f]");
    assert_eq!((d_gate_up.rows(), d_gate_up.cols()), (rows, 2 * f), "d_gate_up is [rows, 2·f], dy [rows, f]");
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..rows {
                swiglu_backward_row(isa, gate_up.row(r), dy.row(r), d_gate_up.row_mut(r));
            }
        },
    );
}

#[inline(always)]
fn swiglu_backward_row<I: Isa>(isa: I, gate_up: &[f32], dy: &[f32], d_gate_up: &mut [f32]) {
    let f = dy.len();
    let (gate, up) = gate_up.split_at(f);
    let (d_gate, d_up) = d_gate_up.split_at_mut(f);
    let whole = f - f % I::LANES;
    for i in (0..whole).step_by(I::LANES) {
        let (dg, du) = swiglu_derivatives(isa, isa.load(&gate[i..]), isa.load(&up[i..]), isa.load(&dy[i..]));
        isa.store(dg, &mut d_gate[i..]);
        isa.store(du, &mut d_up[i..]);
    }
    if whole < f {
        let (gate, up, dy) = (&gate[whole..], &up[whole..], &dy[whole..]);
        let (dg, du) = swiglu_derivatives(isa, isa.load_partial(gate), isa.load_partial(up), isa.load_partial(dy));
        isa.store_partial(dg, &mut d_gate[whole..]);
        isa.store_partial(du, &mut d_up[whole..]);
    }
}

/// The gradients of `silu(gate)·up` with respect to `gate` and to `up`.
#[inline(always)]
fn swiglu_derivatives<I: Isa>(isa: I, gate: I::F32, up: I::F32, dy: I::F32) -> (I::F32, I::F32) {
    let one = isa.splat(1.0);
    let s = math::sigmoid(isa, gate);
    let slope = isa.mul(s, isa.mul_add(gate, isa.sub(one, s), one));
    (isa.mul(isa.mul(dy, up), slope), isa.mul(isa.mul(dy, gate), s))
}

/// `Φ(x) = ½(1 + erf(x/√2))`.
#[inline(always)]
fn normal_cdf<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let half = isa.splat(0.5);
    isa.mul_add(half, math::erf(isa, isa.mul(x, isa.splat(FRAC_1_SQRT_2))), half)
}

/// `Φ(x) + x·φ(x)`.
#[inline(always)]
fn exact_derivative<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let x = clamp(isa, x);
    let density = math::exp(isa, isa.mul(isa.mul(x, x), isa.splat(-0.5)));
    let density = isa.mul(density, isa.splat(0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2));
    isa.mul_add(x, density, normal_cdf(isa, x))
}

/// `2u = 2√(2/π)(x + 0.044715·x³)`.
#[inline(always)]
fn twice_tanh_argument<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let cubic = isa.mul_add(isa.mul(x, x), isa.splat(TANH_CUBE), isa.splat(1.0));
    isa.mul(isa.mul(x, isa.splat(TWO_SQRT_2_OVER_PI)), cubic)
}

/// `s + x·s(1 - s)·2u'`, `s = sigmoid(2u)`.
#[inline(always)]
fn tanh_derivative<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let x = clamp(isa, x);
    let one = isa.splat(1.0);
    let s = math::sigmoid(isa, twice_tanh_argument(isa, x));
    let slope = isa.mul_add(isa.mul(x, x), isa.splat(3.0 * TANH_CUBE), one);
    let slope = isa.mul(isa.mul(x, isa.splat(TWO_SQRT_2_OVER_PI)), slope);
    isa.mul_add(isa.mul(s, isa.sub(one, s)), slope, s)
}

/// `x` within ± [`DERIVATIVE_FLAT`]; NaN stays NaN.
#[inline(always)]
fn clamp<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    isa.max(isa.splat(-DERIVATIVE_FLAT), isa.min(isa.splat(DERIVATIVE_FLAT), x))
}

/// `out = f(x)` for every element.
#[inline(always)]
fn map<I: Isa>(isa: I, x: Mat, mut out: MatMut, f: impl Fn(I::F32) -> I::F32) {
    assert_eq!((x.rows(), x.cols()), (out.rows(), out.cols()), "shapes of x and out");
    for r in 0..x.rows() {
        let (x, out) = (x.row(r), out.row_mut(r));
        let whole = x.len() - x.len() % I::LANES;
        for i in (0..whole).step_by(I::LANES) {
            isa.store(f(isa.load(&x[i..])), &mut out[i..]);
        }
        if whole < x.len() {
            isa.store_partial(f(isa.load_partial(&x[whole..])), &mut out[whole..]);
        }
    }
}

/// `out = f(a, b)` for every element. `f` is passed on by value: a call through a reference to it would not be inlined.
#[inline(always)]
fn zip<I: Isa>(isa: I, a: Mat, b: Mat, mut out: MatMut, f: impl Fn(I::F32, I::F32) -> I::F32 + Copy) {
    assert_eq!((a.rows(), a.cols()), (out.rows(), out.cols()), "shapes of the input and the output");
    assert_eq!((b.rows(), b.cols()), (out.rows(), out.cols()), "shapes of the gradients");
    for r in 0..a.rows() {
        zip_row(isa, a.row(r), b.row(r), out.row_mut(r), f);
    }
}

#[inline(always)]
fn zip_row<I: Isa>(isa: I, a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(I::F32, I::F32) -> I::F32) {
    let whole = out.len() - out.len() % I::LANES;
    for i in (0..whole).step_by(I::LANES) {
        isa.store(f(isa.load(&a[i..]), isa.load(&b[i..])), &mut out[i..]);
    }
    if whole < out.len() {
        let v = f(isa.load_partial(&a[whole..]), isa.load_partial(&b[whole..]));
        isa.store_partial(v, &mut out[whole..]);
    }
}
