//! Sums and copies of matrices: the twin of [`crate::elementwise`].

use super::Matrix;

/// `a + b`, all `[rows, cols]`.
pub fn add(a: &Matrix, b: &Matrix) -> Matrix {
    assert_eq!((a.rows, a.cols), (b.rows, b.cols), "the sum of matrices of different shapes");
    Matrix::from_fn(a.rows, a.cols, |r, c| a.at(r, c) + b.at(r, c))
}

/// `factor · x`.
pub fn scale(x: &Matrix, factor: f64) -> Matrix {
    x.map(|x| factor * x)
}

/// The sum over the rows of `x` `[rows, cols]`: `[cols]`.
pub fn column_sum(x: &Matrix) -> Vec<f64> {
    let mut out = vec![0.0; x.cols];
    for r in 0..x.rows {
        for (out, x) in out.iter_mut().zip(x.row(r)) {
            *out += x;
        }
    }
    out
}

/// The rows of `x` `[_, cols]` that `rows` names, in that order: `[rows.len(), cols]`.
pub fn gather_rows(x: &Matrix, rows: &[u32]) -> Matrix {
    Matrix::from_fn(rows.len(), x.cols, |r, c| x.at(rows[r] as usize, c))
}
