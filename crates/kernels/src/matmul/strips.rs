//! Strips as the loops over a product reach them, and what the tiles of a panel of strips ask for ahead of its turn.

use std::marker::PhantomData;
use std::ops::Range;

use smallmind_simd::Isa;

use super::arithmetic::Arithmetic;
use super::tile::{LINE, Tile, UNROLL};

/// A factor `[depth, cols]` packed into strips: each `[depth, lanes]`, for as many columns as a vector has lanes.
pub(super) struct Strips<'a, T> {
    /// The first element of the window.
    start: *const T,
    /// Elements from strip to strip.
    strip: usize,
    depth: usize,
    cols: usize,
    borrow: PhantomData<&'a [T]>,
}

// Not derived, which would ask it of the elements too.
impl<T> Clone for Strips<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Strips<'_, T> {}

impl<'a> Strips<'a, f32> {
    /// The strips of `I` that fill `data`.
    ///
    /// # Panics
    /// If they don't.
    pub fn new<I: Isa>(_isa: I, data: &'a [f32], depth: usize, cols: usize) -> Self {
        assert!(cols.is_multiple_of(I::LANES) && data.len() == depth * cols, "strips [{depth}, {cols}]");
        Self { start: data.as_ptr(), strip: I::LANES * depth, depth, cols, borrow: PhantomData }
    }
}

impl<T> Strips<'_, T> {
    /// A window of steps in depth and of columns that begin and end with strips.
    ///
    /// # Panics
    /// If it leaves the factor or cuts a strip.
    pub fn window<P: Arithmetic<Element = T>>(self, depth: &Range<usize>, cols: &Range<usize>) -> Self {
        let lanes = P::Isa::LANES;
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

    /// `base` with these strips, a panel of them, as its B.
    pub fn tile(&self, lanes: usize, base: Tile<T>) -> Tile<T> {
        Tile { b: self.start, b_stride: lanes, b_vector: self.strip, ..base }
    }
}

/// How many elements ahead of their use the strips are asked for that pass by one tile, and the most rows of which a core overlaps so many
/// steps that it needs nobody to ask: fitted to weights out of cache on a Zen 4.
const AHEAD: usize = 512;
const FEW_ROWS: usize = 4;

/// What the tiles of a panel ask for while they multiply: the next panel, each a part of it, since together they take the time that memory
/// needs. A lone tile asks for its own strips a little ahead.
pub(super) struct Ahead {
    /// Elements from the panel's first vector to what the next tile asks for.
    distance: usize,
    /// Lines of each strip that a tile asks for with every [`UNROLL`] steps.
    lines: usize,
    /// Lines of each strip that nobody has asked for.
    left: usize,
    /// Lines of each strip that a tile asks for.
    of_tile: usize,
}

impl Ahead {
    /// For the tiles of `m` rows, `rows` at a time, of a panel `[depth, vectors]` with strips `apart` from one another.
    pub fn new([m, rows]: [usize; 2], [depth, vectors]: [usize; 2], lanes: usize, apart: usize) -> Self {
        if m <= FEW_ROWS {
            return Self { distance: 0, lines: 0, left: 0, of_tile: 0 };
        }
        let tiles = m.div_ceil(rows);
        let distance = if tiles == 1 { AHEAD } else { vectors * apart };
        let lines = (UNROLL * lanes / LINE).div_ceil(tiles);
        Self { distance, lines, left: (depth * lanes).div_ceil(LINE), of_tile: depth / UNROLL * lines }
    }

    /// `tile` with what it is to ask for.
    pub fn next<T>(&mut self, tile: &Tile<T>) -> Tile<T> {
        match self.take() {
            Some(distance) => Tile { ahead: tile.b.wrapping_add(distance), ahead_lines: self.lines, ..*tile },
            None => *tile,
        }
    }

    /// The distance at which the next tile begins to ask; none if nothing is left for it.
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

    /// Of each strip, how many lines the tiles of a panel ask for, from the first on without a gap.
    fn asked(m: usize, rows: usize, depth: usize, lanes: usize) -> usize {
        const APART: usize = 10_000;
        let mut ahead = Ahead::new([m, rows], [depth, 3], lanes, APART);
        let of_tile = depth / UNROLL * ahead.lines;
        let first = if m <= rows { AHEAD } else { 3 * APART };
        let mut tiles = 0;
        while let Some(distance) = ahead.take() {
            assert_eq!(distance, first + tiles * of_tile * LINE, "tile {tiles} of {m} rows");
            tiles += 1;
        }
        assert!(tiles <= m.div_ceil(rows), "{tiles} tiles ask, of {m} rows");
        tiles * of_tile
    }

    #[test]
    fn tiles_ask_for_a_panel_once() {
        for lanes in [8, 16] {
            for (m, rows) in [(5, 8), (8, 8), (12, 6), (24, 8), (64, 8), (300, 6)] {
                for depth in [4, 64, 256, 384] {
                    let (lines, all) = (asked(m, rows, depth, lanes), depth * lanes / LINE);
                    assert!((all..2 * all.max(2)).contains(&lines), "{m} rows, depth {depth}: {lines} lines of {all}");
                }
            }
        }
    }

    #[test]
    fn few_rows_ask_for_nothing() {
        assert_eq!(asked(FEW_ROWS, 8, 384, 16), 0);
    }
}
