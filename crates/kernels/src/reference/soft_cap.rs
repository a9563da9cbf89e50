//! Soft caps: the twin of [`crate::soft_cap`].

use super::Matrix;

/// `cap · tanh(x / cap)`.
pub fn soft_cap(cap: f64, x: &Matrix) -> Matrix {
    x.map(|x| cap * (x / cap).tanh())
}

/// The gradient of [`soft_cap`] for its result `y` and the gradient `dy` of that.
pub fn soft_cap_backward(cap: f64, y: &Matrix, dy: &Matrix) -> Matrix {
    Matrix::from_fn(y.rows, y.cols, |r, c| dy.at(r, c) * (1.0 - (y.at(r, c) / cap).powi(2)))
}
