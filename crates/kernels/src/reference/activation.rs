//! The activations: the reference of [`crate::activation`].

use crate::activation::Gelu;

use super::Matrix;

/// The coefficient of the cube in [`Gelu::Tanh`].
const CUBE: f64 = 0.044_715;

/// The error function by its series `2/√π · e^(-x²) Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1))`, all of whose terms have one sign.
pub fn erf(x: f64) -> f64 {
    // 1 - erf(6) is below 2.2e-17, less than half a unit in the last place of 1.
    if x.abs() >= 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, 0.0_f64, 0.0);
    while term.abs() > 1e-17 * sum.abs() {
        sum += term;
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `Φ(x)`, the normal distribution function.
fn normal_cdf(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// The logistic function.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `√(2/π)`.
fn root_2_over_pi() -> f64 {
    (2.0 / std::f64::consts::PI).sqrt()
}

/// `gelu(x)` for every element.
pub fn gelu(kind: Gelu, x: &Matrix) -> Matrix {
    x.map(|x| match kind {
        Gelu::Exact => x * normal_cdf(x),
        Gelu::Tanh => 0.5 * x * (1.0 + (root_2_over_pi() * (x + CUBE * x.powi(3))).tanh()),
    })
}

/// `dy·gelu'(x)` for every element.
pub fn gelu_backward(kind: Gelu, x: &Matrix, dy: &Matrix) -> Matrix {
    let derivative = |x: f64| match kind {
        Gelu::Exact => normal_cdf(x) + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt(),
        Gelu::Tanh => {
            let tanh = (root_2_over_pi() * (x + CUBE * x.powi(3))).tanh();
            let inner = root_2_over_pi() * (1.0 + 3.0 * CUBE * x * x);
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner
        }
    };
    Matrix::from_fn(x.rows, x.cols, |r, c| dy.at(r, c) * derivative(x.at(r, c)))
}

/// `silu(gate)·up` for `gate_up` `[rows, 2·f]`; the result is `[rows, f]`.
pub fn swiglu(gate_up: &Matrix) -> Matrix {
    let f = gate_up.cols / 2;
    Matrix::from_fn(gate_up.rows, f, |r, c| {
        let (gate, up) = (gate_up.at(r, c), gate_up.at(r, f + c));
        gate * sigmoid(gate) * up
    })
}

/// The gradient of [`swiglu`] for `gate_up` `[rows, 2·f]` and `dy` `[rows, f]`, laid out as `gate_up`.
pub fn swiglu_backward(gate_up: &Matrix, dy: &Matrix) -> Matrix {
    let f = dy.cols;
    Matrix::from_fn(gate_up.rows, 2 * f, |r, c| {
        let (gate, up) = (gate_up.at(r, c % f), gate_up.at(r, f + c % f));
        let s = sigmoid(gate);
        let derivative = if c < f { up * s * (1.0 + gate * (1.0 - s)) } else { gate * s };
        dy.at(r, c % f) * derivative
    })
}

/// `gelu(gate)·up` for `gate_up` `[rows, 2·f]`; the result is `[rows, f]`.
pub fn geglu(kind: Gelu, gate_up: &Matrix) -> Matrix {
    let f = gate_up.cols / 2;
    let gate = gelu(kind, &gate_up.columns(0..f));
    Matrix::from_fn(gate_up.rows, f, |r, c| gate.at(r, c) * gate_up.at(r, f + c))
}

/// The gradient of [`geglu`] for `gate_up` `[rows, 2·f]` and `dy` `[rows, f]`, laid out as `gate_up`.
pub fn geglu_backward(kind: Gelu, gate_up: &Matrix, dy: &Matrix) -> Matrix {
    let f = dy.cols;
    let (gate, up) = (gate_up.columns(0..f), gate_up.columns(f..2 * f));
    let mut d = Matrix::zeros(gate_up.rows, 2 * f);
    let dy_up = Matrix::from_fn(dy.rows, f, |r, c| dy.at(r, c) * up.at(r, c));
    d.set_columns(0, &gelu_backward(kind, &gate, &dy_up));
    let value = gelu(kind, &gate);
    d.set_columns(f, &Matrix::from_fn(dy.rows, f, |r, c| dy.at(r, c) * value.at(r, c)));
    d
}
