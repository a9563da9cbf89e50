//! The numbers that cases compute with.

use smallmind_kernels::reference::Matrix;

/// A number in `-0.5..0.5` that depends only on the seed and the index.
pub(crate) fn noise(seed: u64, index: usize) -> f32 {
    let mixed = (seed << 40 ^ index as u64).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
}

/// A matrix `[rows, cols]` of noise. Elements are computed on demand, so that a check needs no copy of the operands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values {
    pub(super) seed: u64,
    /// Elements are in `-limit..limit`.
    pub(super) limit: f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Values {
    pub(super) fn new(seed: u64, limit: f32, rows: usize, cols: usize) -> Self {
        Self { seed, limit, rows, cols }
    }

    /// A matrix of the same shape and limit with other elements, which depend on `number`.
    pub(super) fn other(self, number: u64) -> Self {
        Self { seed: self.seed + 16 * number, ..self }
    }

    /// An element; rows beyond the last begin again with the first.
    pub(super) fn at(self, row: usize, col: usize) -> f32 {
        2.0 * self.limit * noise(self.seed, row % self.rows * self.cols + col)
    }

    /// All of a row.
    pub(super) fn row(self, row: usize) -> Vec<f32> {
        (0..self.cols).map(|col| self.at(row, col)).collect()
    }

    /// An element in `f64`, for a reference.
    pub(super) fn wide(self, row: usize, col: usize) -> f64 {
        f64::from(self.at(row, col))
    }

    /// The rows `rows` and the columns `cols` in `f64`, for a reference.
    pub(super) fn matrix(self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) -> Matrix {
        Matrix::from_fn(rows.len(), cols.len(), |r, c| self.wide(rows.start + r, cols.start + c))
    }

    /// Writes all elements, row by row.
    pub(super) fn fill(self, data: &mut [f32]) {
        data.iter_mut().enumerate().for_each(|(i, x)| *x = 2.0 * self.limit * noise(self.seed, i));
    }
}

/// Ids below `vocab`, in no particular order.
pub(super) fn ids(rows: usize, vocab: usize) -> Vec<u32> {
    (0..rows).map(|r| ((f64::from(noise(5, r)) + 0.5) * vocab as f64) as u32 % vocab.max(1) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_spread() {
        let mean = (0..10_000).map(|i| f64::from(noise(3, i))).sum::<f64>() / 1e4;
        assert!(mean.abs() < 0.02 && (0..1000).all(|i| (-0.5..0.5).contains(&noise(9, i))), "{mean}");
    }

    #[test]
    fn elements_are_those_that_fill_memory() {
        let values = Values::new(3, 2.0, 5, 7);
        let mut data = [0.0; 35];
        values.fill(&mut data);
        assert_eq!(values.row(4), data[28..]);
        assert_eq!(values.matrix(1..3, 2..4).data, [(1, 2), (1, 3), (2, 2), (2, 3)].map(|(r, c)| values.wide(r, c)));
        assert!(data.iter().any(|x| x.abs() > 1.0) && data.iter().all(|x| x.abs() <= 2.0));
    }
}
