//! The naive `f64` twin of every kernel: plain loops that can be compared with the formula by eye.
//!
//! Tests compare the vectorised kernels with them, and the interpreter of graphs runs them. They allocate, take whole
//! matrices instead of windows, and are slow.

pub mod activation;
pub mod attention;
pub mod blocks;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod experts;
pub mod formats;
pub mod loss;
pub mod matmul;
pub mod norm;
pub mod optimizer;
pub mod rope;
pub mod soft_cap;

use std::ops::Range;

use crate::Mat;

/// An owned dense matrix `[rows, cols]` of `f64`, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// The elements `[rows, cols]`.
    pub data: Vec<f64>,
}

impl Matrix {
    /// The matrix `[rows, cols]` with the elements of `data`, row by row.
    ///
    /// # Panics
    /// If `data` does not hold `rows * cols` elements.
    pub fn new(rows: usize, cols: usize, data: Vec<f64>) -> Self {
        assert_eq!(data.len(), rows * cols, "a [{rows}, {cols}] matrix of {} elements", data.len());
        Self { rows, cols, data }
    }

    /// The matrix `[rows, cols]` of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// The matrix `[rows, cols]` whose element in row `r` and column `c` is `f(r, c)`.
    pub fn from_fn(rows: usize, cols: usize, mut f: impl FnMut(usize, usize) -> f64) -> Self {
        let data = (0..rows * cols).map(|i| f(i / cols, i % cols)).collect();
        Self { rows, cols, data }
    }

    /// The elements of `mat`, widened.
    pub fn from_f32(mat: Mat) -> Self {
        let data = (0..mat.rows()).flat_map(|r| mat.row(r)).map(|&x| f64::from(x)).collect();
        Self { rows: mat.rows(), cols: mat.cols(), data }
    }

    /// The elements rounded to `f32`, row by row.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&x| x as f32).collect()
    }

    /// Row `r`, `[cols]`.
    pub fn row(&self, r: usize) -> &[f64] {
        &self.data[r * self.cols..(r + 1) * self.cols]
    }

    /// Row `r`, `[cols]`.
    pub fn row_mut(&mut self, r: usize) -> &mut [f64] {
        &mut self.data[r * self.cols..(r + 1) * self.cols]
    }

    /// The element in row `r` and column `c`.
    pub fn at(&self, r: usize, c: usize) -> f64 {
        self.row(r)[c]
    }

    /// The element in row `r` and column `c`.
    pub fn at_mut(&mut self, r: usize, c: usize) -> &mut f64 {
        &mut self.row_mut(r)[c]
    }

    /// A copy of the rows of `range`.
    pub fn rows_range(&self, range: Range<usize>) -> Matrix {
        Self {
            rows: range.len(),
            cols: self.cols,
            data: self.data[range.start * self.cols..range.end * self.cols].to_vec(),
        }
    }

    /// A copy of the columns of `range`.
    pub fn columns(&self, range: Range<usize>) -> Matrix {
        Self::from_fn(self.rows, range.len(), |r, c| self.at(r, range.start + c))
    }

    /// Overwrites the columns from `start` on with those of `part`, which has as many rows.
    pub fn set_columns(&mut self, start: usize, part: &Matrix) {
        assert_eq!(self.rows, part.rows, "columns of {} rows into a matrix of {}", part.rows, self.rows);
        for r in 0..self.rows {
            self.row_mut(r)[start..start + part.cols].copy_from_slice(part.row(r));
        }
    }

    /// The matrix with rows and columns exchanged.
    pub fn transposed(&self) -> Matrix {
        Self::from_fn(self.cols, self.rows, |r, c| self.at(c, r))
    }

    /// The matrix of `f(element)`.
    pub fn map(&self, f: impl FnMut(f64) -> f64) -> Matrix {
        Self { rows: self.rows, cols: self.cols, data: self.data.iter().copied().map(f).collect() }
    }
}
