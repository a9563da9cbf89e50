//! Activations: GELU in both forms, SwiGLU and GeGLU, each forward and backward.
//!
//! Every element is computed independently, so a window of the output has the same bits as in the whole.

mod tables;

use smallmind_simd::{Isa, math};

use self::tables::Tail;
use crate::compiled::compiled;
use crate::{Mat, MatMut, row_ops};

/// The formula of the Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gelu {
    /// `x·Φ(x)` with the normal distribution function `Φ(x) = ½(1 + erf(x/√2))`: PyTorch's `approximate="none"`.
    Exact,
    /// `½x(1 + tanh u)`, `u = √(2/π)(x + 0.044715·x³)`: PyTorch's `approximate="tanh"`, the form of GPT-2.
    Tanh,
}

/// `out = gelu(x)`; `x` and `out` are the same window `[rows, cols]`.
///
/// The error is at most `2e-7·|x|`; where `gelu(x)` is smaller than that, it may be 0.
///
/// # Panics
/// If the shapes differ.
pub fn gelu<I: Isa>(isa: I, kind: Gelu, x: Mat, out: MatMut) {
    fn body<I: Isa>(isa: I, kind: Gelu, x: Mat, out: MatMut) {
        isa.vectorize(
            #[inline(always)]
            || match kind {
                Gelu::Exact => gelu_of_tail(isa, &tables::EXACT, x, out),
                Gelu::Tanh => gelu_of_tail(isa, &tables::TANH, x, out),
            },
        );
    }
    compiled!(isa: I, body(kind: Gelu, x: Mat, out: MatMut));
}

#[inline(always)]
fn gelu_of_tail<I: Isa>(isa: I, tail: &Tail, x: Mat, mut out: MatMut) {
    assert_eq!((x.rows(), x.cols()), (out.rows(), out.cols()), "shapes of x and out");
    for r in 0..x.rows() {
        row_ops::map(
            isa,
            [x.row(r)],
            out.row_mut(r),
            #[inline(always)]
            |[x]| gelu_at(isa, tail, x),
        );
    }
}

/// GELU of every lane, whose tail is `tail`.
#[inline(always)]
fn gelu_at<I: Isa>(isa: I, tail: &Tail, x: I::F32) -> I::F32 {
    let magnitude = tail.magnitude(isa, x);
    isa.neg_mul_add(magnitude, tail.at(isa, magnitude), isa.max(isa.zero(), x))
}

/// The derivative of GELU at every lane, whose tail is `tail`.
#[inline(always)]
fn gelu_slope_at<I: Isa>(isa: I, tail: &Tail, x: I::F32) -> I::F32 {
    let slope = tail.at(isa, tail.magnitude(isa, x));
    isa.select(isa.lt(x, isa.zero()), slope, isa.sub(isa.splat(1.0), slope))
}

/// `dx = dy·gelu'(x)`; `x`, `dy` and `dx` are the same window `[rows, cols]`.
///
/// With the normal density `φ(x) = e^(-x²/2)/√(2π)` the derivatives are `Φ(x) + x·φ(x)` for [`Gelu::Exact`], and
/// `s + x·s(1 - s)·2u'`, `s = sigmoid(2u)`, `u' = √(2/π)(1 + 3·0.044715·x²)` for [`Gelu::Tanh`]. The error is at most
/// `4e-7·|dy|`.
///
/// # Panics
/// If the shapes differ.
pub fn gelu_backward<I: Isa>(isa: I, kind: Gelu, x: Mat, dy: Mat, dx: MatMut) {
    fn body<I: Isa>(isa: I, kind: Gelu, x: Mat, dy: Mat, dx: MatMut) {
        isa.vectorize(
            #[inline(always)]
            || match kind {
                Gelu::Exact => gelu_backward_of_tail(isa, &tables::EXACT_SLOPE, x, dy, dx),
                Gelu::Tanh => gelu_backward_of_tail(isa, &tables::TANH_SLOPE, x, dy, dx),
            },
        );
    }
    compiled!(isa: I, body(kind: Gelu, x: Mat, dy: Mat, dx: MatMut));
}

#[inline(always)]
fn gelu_backward_of_tail<I: Isa>(isa: I, tail: &Tail, x: Mat, dy: Mat, mut dx: MatMut) {
    assert_eq!((x.rows(), x.cols()), (dx.rows(), dx.cols()), "shapes of the input and its gradient");
    assert_eq!((dy.rows(), dy.cols()), (dx.rows(), dx.cols()), "shapes of the gradients");
    for r in 0..x.rows() {
        row_ops::map(
            isa,
            [x.row(r), dy.row(r)],
            dx.row_mut(r),
            #[inline(always)]
            |[x, dy]| isa.mul(dy, gelu_slope_at(isa, tail, x)),
        );
    }
}

/// `out = silu(gate)·up`, `silu(g) = g·sigmoid(g)` (Shazeer 2020, arXiv:2002.05202).
///
/// `gate_up` is `[rows, 2·f]`, the gate in the first `f` columns and up in the rest; `out` is `[rows, f]`. The output
/// can be divided by rows only.
///
/// # Panics
/// If the shapes don't fit.
pub fn swiglu<I: Isa>(isa: I, gate_up: Mat, out: MatMut) {
    fn body<I: Isa>(isa: I, gate_up: Mat, mut out: MatMut) {
        let f = out.cols();
        assert_eq!((gate_up.rows(), gate_up.cols()), (out.rows(), 2 * f), "gate_up is [rows, 2·f], out [rows, f]");
        isa.vectorize(
            #[inline(always)]
            || {
                for r in 0..gate_up.rows() {
                    let (gate, up) = gate_up.row(r).split_at(f);
                    row_ops::map(
                        isa,
                        [gate, up],
                        out.row_mut(r),
                        #[inline(always)]
                        |[gate, up]| isa.mul(isa.mul(gate, math::sigmoid(isa, gate)), up),
                    );
                }
            },
        );
    }
    compiled!(isa: I, body(gate_up: Mat, out: MatMut));
}

/// The gradient of [`swiglu`]: with `s = sigmoid(gate)`, `d_gate = dy·up·s(1 + gate·(1 - s))` and `d_up = dy·gate·s`.
///
/// `gate_up` and `d_gate_up` are `[rows, 2·f]`, laid out alike; `dy` is `[rows, f]`.
///
/// # Panics
/// If the shapes don't fit.
pub fn swiglu_backward<I: Isa>(isa: I, gate_up: Mat, dy: Mat, d_gate_up: MatMut) {
    fn body<I: Isa>(isa: I, gate_up: Mat, dy: Mat, mut d_gate_up: MatMut) {
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
    compiled!(isa: I, body(gate_up: Mat, dy: Mat, d_gate_up: MatMut));
}

#[inline(always)]
fn swiglu_backward_row<I: Isa>(isa: I, gate_up: &[f32], dy: &[f32], d_gate_up: &mut [f32]) {
    let (gate, up) = gate_up.split_at(dy.len());
    row_ops::map_to(
        isa,
        [gate, up, dy],
        d_gate_up.split_at_mut(dy.len()).into(),
        #[inline(always)]
        |[gate, up, dy]| swiglu_derivatives(isa, gate, up, dy).into(),
    );
}

/// The gradients of `silu(gate)·up` with respect to `gate` and to `up`.
#[inline(always)]
fn swiglu_derivatives<I: Isa>(isa: I, gate: I::F32, up: I::F32, dy: I::F32) -> (I::F32, I::F32) {
    let one = isa.splat(1.0);
    let s = math::sigmoid(isa, gate);
    let slope = isa.mul(s, isa.mul_add(gate, isa.sub(one, s), one));
    (isa.mul(isa.mul(dy, up), slope), isa.mul(isa.mul(dy, gate), s))
}

/// `out = gelu(gate)·up` (Shazeer 2020, arXiv:2002.05202); shapes and windows are those of [`swiglu`].
///
/// The error is at most `4e-7·|gate·up|`.
///
/// # Panics
/// If the shapes don't fit.
pub fn geglu<I: Isa>(isa: I, kind: Gelu, gate_up: Mat, out: MatMut) {
    fn body<I: Isa>(isa: I, kind: Gelu, gate_up: Mat, out: MatMut) {
        isa.vectorize(
            #[inline(always)]
            || match kind {
                Gelu::Exact => geglu_of_tail(isa, &tables::EXACT, gate_up, out),
                Gelu::Tanh => geglu_of_tail(isa, &tables::TANH, gate_up, out),
            },
        );
    }
    compiled!(isa: I, body(kind: Gelu, gate_up: Mat, out: MatMut));
}

#[inline(always)]
fn geglu_of_tail<I: Isa>(isa: I, tail: &Tail, gate_up: Mat, mut out: MatMut) {
    let f = out.cols();
    assert_eq!((gate_up.rows(), gate_up.cols()), (out.rows(), 2 * f), "gate_up is [rows, 2·f], out [rows, f]");
    for r in 0..gate_up.rows() {
        let (gate, up) = gate_up.row(r).split_at(f);
        row_ops::map(
            isa,
            [gate, up],
            out.row_mut(r),
            #[inline(always)]
            |[gate, up]| isa.mul(gelu_at(isa, tail, gate), up),
        );
    }
}

/// The gradient of [`geglu`]: `d_gate = dy·up·gelu'(gate)` and `d_up = dy·gelu(gate)`; shapes are those of
/// [`swiglu_backward`].
///
/// The error is at most `7e-7·|dy·up|` for the gate and `5e-7·|dy·gate|` for up.
///
/// # Panics
/// If the shapes don't fit.
pub fn geglu_backward<I: Isa>(isa: I, kind: Gelu, gate_up: Mat, dy: Mat, d_gate_up: MatMut) {
    fn body<I: Isa>(isa: I, kind: Gelu, gate_up: Mat, dy: Mat, d_gate_up: MatMut) {
        isa.vectorize(
            #[inline(always)]
            || match kind {
                Gelu::Exact => {
                    geglu_backward_of_tails(isa, [&tables::EXACT, &tables::EXACT_SLOPE], gate_up, dy, d_gate_up)
                }
                Gelu::Tanh => {
                    geglu_backward_of_tails(isa, [&tables::TANH, &tables::TANH_SLOPE], gate_up, dy, d_gate_up)
                }
            },
        );
    }
    compiled!(isa: I, body(kind: Gelu, gate_up: Mat, dy: Mat, d_gate_up: MatMut));
}

/// `tails`: of the function and of its derivative.
#[inline(always)]
fn geglu_backward_of_tails<I: Isa>(isa: I, tails: [&Tail; 2], gate_up: Mat, dy: Mat, mut d_gate_up: MatMut) {
    let (rows, f) = (dy.rows(), dy.cols());
    assert_eq!((gate_up.rows(), gate_up.cols()), (rows, 2 * f), "gate_up is [rows, 2·f], dy [rows, f]");
    assert_eq!((d_gate_up.rows(), d_gate_up.cols()), (rows, 2 * f), "d_gate_up is [rows, 2·f], dy [rows, f]");
    for r in 0..rows {
        let (gate, up) = gate_up.row(r).split_at(f);
        row_ops::map_to(
            isa,
            [gate, up, dy.row(r)],
            d_gate_up.row_mut(r).split_at_mut(f).into(),
            #[inline(always)]
            |[gate, up, dy]| {
                let slope = gelu_slope_at(isa, tails[1], gate);
                [isa.mul(isa.mul(dy, up), slope), isa.mul(dy, gelu_at(isa, tails[0], gate))]
            },
        );
    }
}
