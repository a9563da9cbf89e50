//! Looking up rows of a table: the twin of [`crate::embedding`].

use super::Matrix;

/// Row `ids[r]` of `table` `[vocab, d_model]` in row `r`: `[tokens, d_model]`.
pub fn embedding(table: &Matrix, ids: &[u32]) -> Matrix {
    Matrix::from_fn(ids.len(), table.cols, |r, c| table.at(ids[r] as usize, c))
}

/// The gradient of the table, `[vocab, d_model]`: row `i` is the sum of the rows of `dy` `[tokens, d_model]` whose id
/// is `i`.
pub fn embedding_backward(dy: &Matrix, ids: &[u32], vocab: usize) -> Matrix {
    assert_eq!(dy.rows, ids.len(), "one id for each row");
    let mut dtable = Matrix::zeros(vocab, dy.cols);
    for (r, &id) in ids.iter().enumerate() {
        for (sum, dy) in dtable.row_mut(id as usize).iter_mut().zip(dy.row(r)) {
            *sum += dy;
        }
    }
    dtable
}
