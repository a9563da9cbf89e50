//! Which kernels compute a product and how workers share its output. Code that runs products on several threads chooses
//! both once for each product.

use std::ops::Range;

use super::gemv::GEMV_MAX_ROWS;
use super::operand::{Layout, Update};
use crate::Part;

/// Rows of an output are divided among workers in multiples of this, so that most boundaries are also boundaries of
/// tiles.
pub const ROW_GRANULE: usize = 4;
/// Columns of an output are divided among workers in multiples of this: a cache line.
pub const COL_GRANULE: usize = 16;

// The constants below are fitted on a Zen 4 with 1 MiB of second-level cache per core and two workers: RESIDENT and
// ROWS_OF_RESIDENT to the prefill of whole models, the others to `bench kernels --assert-choice`. On another CPU they
// may cost speed, but change no result.

/// From this many rows on, an output with at most as many columns as rows is partitioned by rows, though every worker
/// then packs all of B.
const MANY_ROWS: usize = 256;
/// From this many rows on, an output of any width is partitioned by rows.
const MANY_ROWS_OF_WIDE: usize = 512;

/// A packed B of at most this many elements comes from the second-level cache as fast as it is multiplied.
const RESIDENT: usize = 256 * 1024;
/// From this many rows on, a product with such a B is partitioned by rows.
const ROWS_OF_RESIDENT: usize = 64;
/// From this many rows on, a product with a larger packed B is partitioned by rows.
const ROWS_OF_LARGE: usize = 512;
/// An output of fewer columns is narrow: one vector of columns more makes a worker's part much larger.
const NARROW: usize = 128;
/// From this many rows on, a narrow output is partitioned by rows.
const ROWS_OF_NARROW: usize = 8;

/// From this depth on, the sums across lanes at the end of a streamed row cost little compared with the row.
const DEEP: usize = 256;
/// The most rows of A with which a weight shallower than [`DEEP`] is streamed.
const FEW_SHALLOW_ROWS: usize = 8;

/// The dimension of an output that is divided among workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// Each worker has rows of its own. It reads all of B, and packs it unless it is packed.
    Rows,
    /// Each worker has columns of its own. It reads all of A.
    Columns,
}

impl Partition {
    /// The partition of an output `[m, n]` where B is not packed. A partition by rows needs no barriers between the
    /// product and row-wise steps before and after it, but each worker packs all of B, which pays only for many rows.
    pub fn choose(m: usize, n: usize) -> Self {
        if m >= n.clamp(MANY_ROWS, MANY_ROWS_OF_WIDE) || n < 2 * COL_GRANULE { Self::Rows } else { Self::Columns }
    }

    /// The partition of an output of at most `m` rows and of `n` columns where a B of depth `k` is packed. By rows if
    /// there are enough of them: then rows stay with their worker from product to product, which makes up for reading
    /// all of B.
    pub fn choose_packed(m: usize, n: usize, k: usize) -> Self {
        let rows = if n < NARROW {
            ROWS_OF_NARROW
        } else if n * k <= RESIDENT {
            ROWS_OF_RESIDENT
        } else {
            ROWS_OF_LARGE
        };
        if m >= rows { Self::Rows } else { Self::Columns }
    }

    /// The rows and columns of an output `[m, n]` that are `part`'s.
    pub fn window(self, m: usize, n: usize, part: Part) -> (Range<usize>, Range<usize>) {
        match self {
            Self::Rows => (part.range(m, ROW_GRANULE), 0..n),
            Self::Columns => (0..m, part.range(n, COL_GRANULE)),
        }
    }
}

/// The kernels of a product whose B is not packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelChoice {
    /// Sums across lanes, with the rows of the weight [streamed](super::RightFactor::Streamed); each worker has rows of
    /// the weight.
    Gemv,
    /// Tiles.
    Gemm(Partition),
}

impl KernelChoice {
    /// The kernels for `[m, k] · [k, n]`, where `layouts` are those of A and B.
    pub fn choose(layouts: (Layout, Layout), update: Update, [m, n, k]: [usize; 3]) -> Self {
        let streams = (layouts, update) == ((Layout::Normal, Layout::Transposed), Update::Overwrite);
        let few = if k < DEEP { FEW_SHALLOW_ROWS } else { GEMV_MAX_ROWS };
        if streams && m <= few { Self::Gemv } else { Self::Gemm(Partition::choose(m, n)) }
    }

    /// The partition of the output.
    pub fn partition(self) -> Partition {
        match self {
            Self::Gemv => Partition::Columns,
            Self::Gemm(partition) => partition,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_output_once() {
        for (m, n) in [(1, 1), (3, 40), (40, 3), (64, 64), (0, 5)] {
            for partition in [Partition::Rows, Partition::Columns] {
                for count in 1..5 {
                    let areas = (0..count).map(|index| {
                        let (rows, cols) = partition.window(m, n, Part { index, count });
                        rows.len() * cols.len()
                    });
                    assert_eq!(areas.sum::<usize>(), m * n);
                }
            }
        }
    }

    #[test]
    fn few_rows_stream_the_weights_where_nothing_is_added() {
        let nt = (Layout::Normal, Layout::Transposed);
        assert_eq!(KernelChoice::choose(nt, Update::Overwrite, [GEMV_MAX_ROWS, 7, DEEP]), KernelChoice::Gemv);
        assert_eq!(
            KernelChoice::choose(nt, Update::Overwrite, [GEMV_MAX_ROWS, 7, DEEP - 1]),
            KernelChoice::Gemm(Partition::Rows)
        );
        assert_eq!(KernelChoice::choose(nt, Update::Overwrite, [FEW_SHALLOW_ROWS, 7, 1]), KernelChoice::Gemv);
        assert_eq!(
            KernelChoice::choose(nt, Update::Overwrite, [GEMV_MAX_ROWS + 1, 7, DEEP]),
            KernelChoice::Gemm(Partition::Rows)
        );
        assert_eq!(KernelChoice::choose(nt, Update::Accumulate, [1, 70, DEEP]), KernelChoice::Gemm(Partition::Columns));
        assert_eq!(
            KernelChoice::choose((Layout::Normal, Layout::Normal), Update::Overwrite, [1, 70, DEEP]),
            KernelChoice::Gemm(Partition::Columns)
        );
    }

    #[test]
    fn narrow_outputs_of_packed_weights_are_cut_by_rows() {
        assert_eq!(Partition::choose_packed(ROWS_OF_NARROW, NARROW - 1, 4096), Partition::Rows);
        assert_eq!(Partition::choose_packed(ROWS_OF_NARROW - 1, NARROW - 1, 4096), Partition::Columns);
    }

    #[test]
    fn a_packed_factor_that_stays_in_the_cache_is_cut_by_rows() {
        assert_eq!(Partition::choose_packed(ROWS_OF_RESIDENT, 1024, 256), Partition::Rows);
        assert_eq!(Partition::choose_packed(ROWS_OF_RESIDENT - 1, 1024, 256), Partition::Columns);
        assert_eq!(Partition::choose_packed(ROWS_OF_RESIDENT, 1024, 257), Partition::Columns);
        assert_eq!(Partition::choose_packed(ROWS_OF_LARGE, 1024, 257), Partition::Rows);
    }
}
