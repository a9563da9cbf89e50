//! The naive product of two matrices.

use super::Matrix;
use crate::matmul::Layout;

/// `op(a) · op(b)`, where `op` transposes a factor in [`Layout::Transposed`].
///
/// `op(a)` is `[m, k]`, `op(b)` is `[k, n]`; the result is `[m, n]`, zero for `k = 0`.
///
/// # Panics
/// If the inner dimensions disagree.
pub fn matmul(a: &Matrix, a_layout: Layout, b: &Matrix, b_layout: Layout) -> Matrix {
    let (m, k) = shape(a, a_layout);
    let (inner, n) = shape(b, b_layout);
    assert_eq!(k, inner, "a [{m}, {k}] matrix times a [{inner}, {n}] matrix");
    Matrix::from_fn(m, n, |i, j| (0..k).map(|p| at(a, a_layout, i, p) * at(b, b_layout, p, j)).sum())
}

fn shape(m: &Matrix, layout: Layout) -> (usize, usize) {
    match layout {
        Layout::Normal => (m.rows, m.cols),
        Layout::Transposed => (m.cols, m.rows),
    }
}

fn at(m: &Matrix, layout: Layout, row: usize, col: usize) -> f64 {
    match layout {
        Layout::Normal => m.data[row * m.cols + col],
        Layout::Transposed => m.data[col * m.cols + row],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_layouts_of_a_product_done_by_hand() {
        let a = Matrix::new(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let at = Matrix::new(3, 2, vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let b = Matrix::new(3, 2, vec![7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
        let bt = Matrix::new(2, 3, vec![7.0, 9.0, 11.0, 8.0, 10.0, 12.0]);
        let expected = Matrix::new(2, 2, vec![58.0, 64.0, 139.0, 154.0]);
        use Layout::{Normal, Transposed};
        assert_eq!(matmul(&a, Normal, &b, Normal), expected);
        assert_eq!(matmul(&a, Normal, &bt, Transposed), expected);
        assert_eq!(matmul(&at, Transposed, &b, Normal), expected);
        assert_eq!(matmul(&at, Transposed, &bt, Transposed), expected);
    }

    #[test]
    fn a_product_over_nothing_is_zero() {
        let product = matmul(&Matrix::zeros(2, 0), Layout::Normal, &Matrix::zeros(0, 3), Layout::Normal);
        assert_eq!(product, Matrix::zeros(2, 3));
    }
}
