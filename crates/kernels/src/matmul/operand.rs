//! The inputs of a product except packed weights: operands stored as matrices, and the epilogue.

use std::ops::Range;

use crate::Mat;

/// How an operand is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As it enters the product.
    Normal,
    /// As the transpose of the matrix that enters the product.
    Transposed,
}

/// Whether a product replaces the output or is added to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Update {
    /// Replaces it; its earlier contents are never read.
    #[default]
    Overwrite,
    /// Adds to it.
    Accumulate,
}

/// `op(mat)`: a factor of a product that is a matrix or the transpose of one.
pub struct Operand<'a, T = f32> {
    /// The elements as they are stored.
    pub mat: Mat<'a, T>,
    /// Whether the factor is the matrix or its transpose.
    pub layout: Layout,
}

// A derived `Clone` or `Copy` would require that the elements are `Clone` or `Copy`.
impl<T> Clone for Operand<'_, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Operand<'_, T> {}

impl<'a, T> Operand<'a, T> {
    /// The matrix itself.
    #[inline(always)]
    pub fn normal(mat: Mat<'a, T>) -> Self {
        Self { mat, layout: Layout::Normal }
    }

    /// The transpose of the matrix.
    #[inline(always)]
    pub fn transposed(mat: Mat<'a, T>) -> Self {
        Self { mat, layout: Layout::Transposed }
    }

    /// Number of rows of the factor.
    #[inline(always)]
    pub fn rows(self) -> usize {
        match self.layout {
            Layout::Normal => self.mat.rows(),
            Layout::Transposed => self.mat.cols(),
        }
    }

    /// Number of columns of the factor.
    #[inline(always)]
    pub fn cols(self) -> usize {
        match self.layout {
            Layout::Normal => self.mat.cols(),
            Layout::Transposed => self.mat.rows(),
        }
    }

    /// A window of the factor's rows.
    ///
    /// # Panics
    /// If it leaves the factor.
    #[inline(always)]
    pub fn rows_range(self, range: Range<usize>) -> Self {
        let mat = match self.layout {
            Layout::Normal => self.mat.rows_range(range),
            Layout::Transposed => self.mat.cols_range(range),
        };
        Self { mat, ..self }
    }

    /// A window of the factor's columns.
    ///
    /// # Panics
    /// If it leaves the factor.
    #[inline(always)]
    pub fn cols_range(self, range: Range<usize>) -> Self {
        let mat = match self.layout {
            Layout::Normal => self.mat.cols_range(range),
            Layout::Transposed => self.mat.rows_range(range),
        };
        Self { mat, ..self }
    }
}

/// The operations on a product before it is written: `[C +] scale · product [+ bias] [+ residual]`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Factor of the product alone, without the addends.
    pub scale: f32,
    /// Whether the output is replaced or added to.
    pub update: Update,
    /// Added to every row, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Added element by element, `[m, n]`.
    pub residual: Option<Mat<'a>>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { scale: 1.0, update: Update::Overwrite, bias: None, residual: None }
    }
}

impl<'a> Epilogue<'a> {
    /// The epilogue of a window of the output.
    ///
    /// # Panics
    /// If the bias or the residual has no such rows or columns.
    #[inline(always)]
    pub fn window(&self, rows: &Range<usize>, cols: &Range<usize>) -> Self {
        Self {
            bias: self.bias.map(|bias| &bias[cols.clone()]),
            residual: self.residual.map(|residual| residual.rows_range(rows.clone()).cols_range(cols.clone())),
            ..*self
        }
    }

    /// The epilogue of all blocks of the depth but the first: bias and residual are in the output already.
    #[inline(always)]
    pub(super) fn accumulate(&self) -> Self {
        Self { update: Update::Accumulate, bias: None, residual: None, ..*self }
    }

    /// Asserts that bias and residual fit an output `[m, n]`.
    pub(super) fn check(&self, m: usize, n: usize) {
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), n, "a bias for {} columns on an output of {n}", bias.len());
        }
        if let Some(residual) = self.residual {
            let (rows, cols) = (residual.rows(), residual.cols());
            assert!((rows, cols) == (m, n), "a residual [{rows}, {cols}] on an output [{m}, {n}]");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_a_factor_follow_its_layout() {
        let data: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let mat = Mat::new(&data, 2, 3);
        assert_eq!(Operand::normal(mat).rows_range(1..2).mat.row(0), [3.0, 4.0, 5.0]);
        assert_eq!(Operand::transposed(mat).rows_range(1..2).mat.row(1), [4.0]);
        assert_eq!(Operand::normal(mat).cols_range(1..2).mat.row(1), [4.0]);
        assert_eq!(Operand::transposed(mat).cols_range(1..2).mat.row(0), [3.0, 4.0, 5.0]);
    }
}
