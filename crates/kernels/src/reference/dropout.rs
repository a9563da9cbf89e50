//! Twin of dropout.

use crate::dropout::{DropoutKey, scaled_mask};

use super::Matrix;

/// `x·mask` for a whole matrix; its own backward.
pub fn dropout(key: DropoutKey, p: f32, x: &Matrix) -> Matrix {
    let index = |r: usize, c: usize| (r * x.cols + c) as u64;
    Matrix::from_fn(x.rows, x.cols, |r, c| x.at(r, c) * f64::from(scaled_mask(key, p, index(r, c))))
}
