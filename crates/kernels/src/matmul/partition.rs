//! Which kernel computes a product, and how workers share its output: one definition for everybody who runs products on several threads.

use std::ops::Range;

use super::gemv::GEMV_MAX_ROWS;
use super::operand::{Layout, Update};
use crate::Part;

/// Rows that go to one worker together, so that cuts fall between the kernels' row blocks more often than not.
pub const ROW_GRANULE: usize = 4;
/// Columns that go to one worker together: a cache line.
pub const COL_GRANULE: usize = 16;

/// Rows that make up for a panel of B that every worker packs for itself, in an output that is no wider.
const MANY_ROWS: usize = 256;
/// Rows that make up for it at any width: fitted to `bench kernels --assert-choice` with two workers on a Zen 4.
const MANY_ROWS_OF_WIDE: usize = 512;
// What follows is fitted with two workers on a Zen 4: to `bench kernels --assert-choice`, and what is resident to the prefill of whole models.

/// Elements of a packed B that come from a second-level cache of 1 MiB as fast as they are multiplied.
const RESIDENT: usize = 256 * 1024;
/// Rows that make up for reading all of such a B.
const ROWS_OF_RESIDENT: usize = 64;
/// Rows that make up for reading all of a larger one.
const ROWS_OF_LARGE: usize = 512;
/// Columns below which an output is narrow.
const NARROW: usize = 128;
/// Rows from which on a narrow output is cut by rows.
const ROWS_OF_NARROW: usize = 8;
/// Depth from which on the sums across lanes at the end of a row of weights cost little beside the row.
const DEEP: usize = 256;
/// The most rows that stream shallower weights: fitted to `bench kernels --assert-choice`.
const FEW_SHALLOW_ROWS: usize = 8;

/// Along which dimension of the output workers share a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Each has rows of its own, and reads all of B, packing it unless it is packed.
    Rows,
    /// Each has columns of its own, and reads all of A.
    Columns,
}

impl Cut {
    /// The cut of an output `[m, n]`. One by rows needs no barrier between row-wise neighbours but packs B once a worker, one by columns
    /// the other way round: few rows don't make up for packing.
    pub fn choose(m: usize, n: usize) -> Self {
        if m >= n.clamp(MANY_ROWS, MANY_ROWS_OF_WIDE) || n < 2 * COL_GRANULE { Self::Rows } else { Self::Columns }
    }

    /// The cut of an output of at most `m` rows and of `n` columns where a B of depth `k` is packed: by rows, which then stay with their
    /// worker from product to product, as soon as these make up for reading all of B. Of a narrow output a vector of columns more or
    /// less is much, so that it is cut by rows early.
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

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// With [`Streamed`](super::RightFactor::Streamed) rows, of which each worker has its own.
    FewRows,
    /// By tiles.
    Tiles(Cut),
}

impl Route {
    /// The route for `[m, k] · [k, n]`, where `layouts` are those of A and B.
    pub fn choose(layouts: (Layout, Layout), update: Update, [m, n, k]: [usize; 3]) -> Self {
        let streams = (layouts, update) == ((Layout::Normal, Layout::Transposed), Update::Overwrite);
        let few = if k < DEEP { FEW_SHALLOW_ROWS } else { GEMV_MAX_ROWS };
        if streams && m <= few { Self::FewRows } else { Self::Tiles(Cut::choose(m, n)) }
    }

    /// How the output is cut.
    pub fn cut(self) -> Cut {
        match self {
            Self::FewRows => Cut::Columns,
            Self::Tiles(cut) => cut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_output_once() {
        for (m, n) in [(1, 1), (3, 40), (40, 3), (64, 64), (0, 5)] {
            for cut in [Cut::Rows, Cut::Columns] {
                for count in 1..5 {
                    let areas = (0..count).map(|index| {
                        let (rows, cols) = cut.window(m, n, Part { index, count });
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
        assert_eq!(Route::choose(nt, Update::Overwrite, [GEMV_MAX_ROWS, 7, DEEP]), Route::FewRows);
        assert_eq!(Route::choose(nt, Update::Overwrite, [GEMV_MAX_ROWS, 7, DEEP - 1]), Route::Tiles(Cut::Rows));
        assert_eq!(Route::choose(nt, Update::Overwrite, [FEW_SHALLOW_ROWS, 7, 1]), Route::FewRows);
        assert_eq!(Route::choose(nt, Update::Overwrite, [GEMV_MAX_ROWS + 1, 7, DEEP]), Route::Tiles(Cut::Rows));
        assert_eq!(Route::choose(nt, Update::Accumulate, [1, 70, DEEP]), Route::Tiles(Cut::Columns));
        assert_eq!(
            Route::choose((Layout::Normal, Layout::Normal), Update::Overwrite, [1, 70, DEEP]),
            Route::Tiles(Cut::Columns)
        );
    }

    #[test]
    fn narrow_outputs_of_packed_weights_are_cut_by_rows() {
        assert_eq!(Cut::choose_packed(ROWS_OF_NARROW, NARROW - 1, 4096), Cut::Rows);
        assert_eq!(Cut::choose_packed(ROWS_OF_NARROW - 1, NARROW - 1, 4096), Cut::Columns);
    }

    #[test]
    fn a_packed_factor_that_stays_in_the_cache_is_cut_by_rows() {
        assert_eq!(Cut::choose_packed(ROWS_OF_RESIDENT, 1024, 256), Cut::Rows);
        assert_eq!(Cut::choose_packed(ROWS_OF_RESIDENT - 1, 1024, 256), Cut::Columns);
        assert_eq!(Cut::choose_packed(ROWS_OF_RESIDENT, 1024, 257), Cut::Columns);
        assert_eq!(Cut::choose_packed(ROWS_OF_LARGE, 1024, 257), Cut::Rows);
    }
}
