//! Strips of `f32`: windows of them, and which of their cache lines each tile prefetches.
//!
//! ```text
//! a factor [depth, 3·LANES]          in memory
//!
//!      strip 0  strip 1  strip 2     strip 0: p = 0, LANES columns │ p = 1 │ … │ p = depth−1
//! p=0 ├────────┼────────┼────────┤   strip 1: the same
//! p=1 ├────────┼────────┼────────┤   strip 2: the same
//!  …
//! ```

use std::marker::PhantomData;
use std::ops::Range;

use smallmind_simd::Isa;

use super::tile::{LINE, Tile, UNROLL};

/// A factor `[depth, cols]` in strips `[depth, lanes]`, each one vector wide; or a window of such a factor.
#[derive(Clone, Copy)]
pub(super) struct Strips<'a> {
    /// The first element.
    start: *const f32,
    /// Elements from strip to strip.
    strip: usize,
    /// Columns of a strip.
    lanes: usize,
    depth: usize,
    cols: usize,
    borrow: PhantomData<&'a [f32]>,
}

impl<'a> Strips<'a> {
    /// The strips in `data`, as wide as a vector of `I`.
    ///
    /// # Panics
    /// If `data` has another length or `cols` are not whole strips.
    pub fn new<I: Isa>(_isa: I, data: &'a [f32], depth: usize, cols: usize) -> Self {
        assert!(cols.is_multiple_of(I::LANES) && data.len() == depth * cols, "strips [{depth}, {cols}]");
        Self { start: data.as_ptr(), strip: I::LANES * depth, lanes: I::LANES, depth, cols, borrow: PhantomData }
    }

    /// A window of rows and of columns.
    ///
    /// # Panics
    /// If it leaves the factor or cuts a strip.
    pub fn window(self, depth: &Range<usize>, cols: &Range<usize>) -> Self {
        let lanes = self.lanes;
        assert!(depth.start <= depth.end && depth.end <= self.depth, "steps {depth:?} of {}", self.depth);
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?} of {}", self.cols);
        assert!(cols.start.is_multiple_of(lanes) && cols.end.is_multiple_of(lanes), "columns {cols:?} cut a strip");
        let start = self.start.wrapping_add(cols.start / lanes * self.strip + depth.start * lanes);
        Self { start, depth: depth.len(), cols: cols.len(), ..self }
    }

    /// Depth and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.depth, self.cols]
    }

    /// `base` with a panel of these strips as its B.
    pub fn tile<E>(&self, base: Tile<E>) -> Tile<E> {
        Tile { b: self.start.cast(), b_stride: self.lanes, b_vector: self.strip, ..base }
    }
}

/// Prefetch distance of a panel's only tile, in elements. Fitted to weights beyond the caches on a Zen 4.
const PREFETCH_DISTANCE: usize = 512;

/// Up to this many rows a core overlaps the loads of many steps by itself, and prefetches don't help. Fitted as
/// [`PREFETCH_DISTANCE`].
const FEW_ROWS: usize = 4;

/// Which cache lines each tile of a panel prefetches while it multiplies.
///
/// While the tiles of a panel multiply it, each prefetches an equal part of the next panel's lines, since memory needs
/// about the time of all tiles for them. The only tile of a panel prefetches its own strips, [`PREFETCH_DISTANCE`]
/// ahead.
pub(super) struct PrefetchSchedule {
    /// Elements from the panel's first vector to the first line that the next tile prefetches.
    distance: usize,
    /// Lines of each strip that a tile prefetches with every [`UNROLL`] steps.
    lines: usize,
    /// Lines of each strip that no tile has prefetched yet.
    left: usize,
    /// Lines of each strip that a tile prefetches.
    of_tile: usize,
}

impl PrefetchSchedule {
    /// The schedule of a panel `[depth, vectors]` for `m` rows, at most `rows` in a tile. Strips are `apart` elements
    /// apart.
    pub fn new([m, rows]: [usize; 2], [depth, vectors]: [usize; 2], lanes: usize, apart: usize) -> Self {
        if m <= FEW_ROWS {
            return Self { distance: 0, lines: 0, left: 0, of_tile: 0 };
        }
        let tiles = m.div_ceil(rows);
        let distance = if tiles == 1 { PREFETCH_DISTANCE } else { vectors * apart };
        let lines = (UNROLL * lanes / LINE).div_ceil(tiles);
        Self { distance, lines, left: (depth * lanes).div_ceil(LINE), of_tile: depth / UNROLL * lines }
    }

    /// `tile` with the lines that it prefetches: the next ones of the schedule.
    pub fn next<T>(&mut self, tile: &Tile<T>) -> Tile<T> {
        match self.take() {
            Some(distance) => Tile { prefetch: tile.b.wrapping_add(distance), prefetch_lines: self.lines, ..*tile },
            None => *tile,
        }
    }

    /// Elements from the panel's first vector to the first line of the next tile; none if no line is left.
    fn take(&mut self) -> Option<usize> {
        if self.left == 0 || self.of_tile == 0 {
            return None;
        }
        let distance = self.distance;
        self.distance += self.of_tile * LINE;
        self.left = self.left.saturating_sub(self.of_tile);
        Some(distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many lines of each strip the tiles of a panel prefetch, from the first on without a gap.
    fn prefetched(m: usize, rows: usize, depth: usize, lanes: usize) -> usize {
        const APART: usize = 10_000;
        let mut schedule = PrefetchSchedule::new([m, rows], [depth, 3], lanes, APART);
        let of_tile = depth / UNROLL * schedule.lines;
        let first = if m <= rows { PREFETCH_DISTANCE } else { 3 * APART };
        let mut tiles = 0;
        while let Some(distance) = schedule.take() {
            assert_eq!(distance, first + tiles * of_tile * LINE, "tile {tiles} of {m} rows");
            tiles += 1;
        }
        assert!(tiles <= m.div_ceil(rows), "{tiles} tiles prefetch, of {m} rows");
        tiles * of_tile
    }

    #[test]
    fn tiles_prefetch_a_panel_once() {
        for lanes in [8, 16] {
            for (m, rows) in [(5, 8), (8, 8), (12, 6), (24, 8), (64, 8), (300, 6)] {
                for depth in [4, 64, 256, 384] {
                    let (lines, all) = (prefetched(m, rows, depth, lanes), depth * lanes / LINE);
                    assert!((all..2 * all.max(2)).contains(&lines), "{m} rows, depth {depth}: {lines} lines of {all}");
                }
            }
        }
    }

    #[test]
    fn few_rows_prefetch_nothing() {
        assert_eq!(prefetched(FEW_ROWS, 8, 384, 16), 0);
    }
}
