//! What a step declares: which memory it reads and writes, and how workers share it.

use std::ops::Range;

use crate::Rows;

/// The buffers that a plan can touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    /// Values and temporaries, owned by the executor.
    Arena,
    /// All parameters in one flat buffer of `f32`.
    FlatParams,
    /// The segment of this number in a [`crate::ParamStore`], in its own format and order.
    Stored(u32),
    /// Gradients, laid out as flat parameters.
    Grads,
    /// AdamW's means of gradients, laid out as flat parameters.
    Moment1,
    /// AdamW's means of squared gradients, laid out as flat parameters.
    Moment2,
    /// The key-value cache.
    Cache,
}

/// Adjacent tokens of the batch: `max` of them from `first` on, or fewer if the batch ends before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) first: usize,
    pub(crate) max: usize,
}

/// The rows of a view that a run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All that [`Rows`] gives.
    All,
    /// The rows of a chunk of the batch. A view with a fixed number of rows holds one chunk at a time, from row 0 on.
    Chunk(Chunk),
    /// From row 0 on, so many rows for each row of `of`.
    Times {
        /// The rows that are counted.
        of: Rows,
        /// Rows for each of them.
        times: usize,
    },
    /// From row 0 on, one row for each block of `size` rows of `of`.
    Blocks {
        /// The rows that are counted in blocks.
        of: Rows,
        /// Rows of a block.
        size: usize,
    },
}

/// Where a dense matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) space: Space,
    /// Its first element within the space.
    pub(crate) offset: usize,
    pub(crate) rows: Rows,
    pub(crate) cols: usize,
    pub(crate) extent: Extent,
}

impl View {
    pub(crate) fn new(space: Space, offset: usize, rows: Rows, cols: usize) -> Self {
        Self { space, offset, rows, cols, extent: Extent::All }
    }

    /// The rows that a run of `tokens` tokens and `outputs` output rows uses.
    #[inline(always)]
    pub(crate) fn rows_in(&self, tokens: usize, outputs: usize) -> Range<usize> {
        match self.extent {
            Extent::All => 0..self.rows.resolve(tokens, outputs),
            Extent::Chunk(Chunk { first, max }) => {
                let rows = first.min(tokens)..(first + max).min(tokens);
                match self.rows {
                    Rows::Fixed(_) => 0..rows.len(),
                    Rows::Tokens | Rows::Outputs => rows,
                }
            }
            Extent::Times { of, times } => 0..of.resolve(tokens, outputs) * times,
            Extent::Blocks { of, size } => 0..of.resolve(tokens, outputs).div_ceil(size),
        }
    }
}

/// How the workers of a step share what it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Each worker touches only its part of the rows, divided at multiples of `granule`.
    OwnRows {
        /// Rows that stay together.
        granule: usize,
    },
    /// Each worker touches only its part of the columns, divided at multiples of `granule`.
    OwnCols {
        /// Columns that stay together.
        granule: usize,
    },
    /// Worker 0 does everything.
    First,
    /// Any worker may read any element. Each written element belongs to one worker; the step chooses which.
    Unpartitioned,
}

/// What a step does with a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) view: View,
    /// Elements of the space that it can touch in the largest batch.
    pub(crate) elements: Range<usize>,
    pub(crate) sharing: Sharing,
    pub(crate) writes: bool,
}

impl Access {
    /// Whether each worker has its own part.
    #[inline(always)]
    pub(crate) fn is_partitioned(&self) -> bool {
        match self.sharing {
            Sharing::OwnRows { .. } | Sharing::OwnCols { .. } => true,
            Sharing::First | Sharing::Unpartitioned => false,
        }
    }

    /// Whether both can touch the same element and one of them writes it, no matter which workers run them.
    pub(crate) fn collides_with(&self, other: &Access) -> bool {
        let (a, b) = (&self.elements, &other.elements);
        self.view.space == other.view.space && a.start < b.end && b.start < a.end && (self.writes || other.writes)
    }

    /// Whether two different workers can touch the same element through these accesses and one of them writes it.
    pub(crate) fn conflicts(&self, other: &Access) -> bool {
        let by_one_worker = self.sharing == other.sharing
            && match self.sharing {
                Sharing::First => true,
                Sharing::OwnRows { .. } => self.view == other.view,
                Sharing::OwnCols { .. } | Sharing::Unpartitioned => false,
            };
        self.collides_with(other) && !by_one_worker
    }
}

/// A declared read of the step for which it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read(pub(crate) usize);

/// A declared write of the step for which it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write(pub(crate) usize);

impl From<Read> for usize {
    fn from(read: Read) -> Self {
        read.0
    }
}

impl From<Write> for usize {
    fn from(write: Write) -> Self {
        write.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(offset: usize, sharing: Sharing, writes: bool) -> Access {
        let view = View::new(Space::Arena, offset, Rows::Tokens, 4);
        Access { view, elements: offset..offset + 40, sharing, writes }
    }

    #[test]
    fn conflicts_are_writes_to_shared_elements() {
        let own = Sharing::OwnRows { granule: 4 };
        let coarse = Sharing::OwnRows { granule: 8 };
        let chunk = |access: Access| {
            let extent = Extent::Chunk(Chunk { first: 0, max: 5 });
            Access { view: View { extent, ..access.view }, elements: 0..20, ..access }
        };
        let columns = Sharing::OwnCols { granule: 4 };
        let any = Sharing::Unpartitioned;
        assert!(!access(0, own, true).conflicts(&access(0, own, false)), "own rows after own rows");
        assert!(access(0, own, true).conflicts(&access(8, own, false)), "rows of different views");
        assert!(access(0, own, true).conflicts(&chunk(access(0, own, false))), "different cuts");
        assert!(access(0, own, true).conflicts(&access(0, coarse, false)), "cuts at other multiples");
        assert!(access(0, own, true).conflicts(&access(0, any, false)), "read by all");
        assert!(access(0, own, true).conflicts(&access(0, columns, false)), "columns after rows");
        assert!(!access(0, own, true).conflicts(&access(40, any, true)), "elsewhere");
        assert!(!access(0, any, false).conflicts(&access(0, any, false)), "reads only");
        assert!(access(0, Sharing::First, true).conflicts(&access(0, own, false)));
        assert!(!access(0, Sharing::First, true).conflicts(&access(0, Sharing::First, true)));
    }

    #[test]
    fn extents_are_the_rows_of_a_run() {
        let rows = |rows, extent, tokens| View { extent, ..View::new(Space::Arena, 0, rows, 4) }.rows_in(tokens, 3);
        let chunk = Extent::Chunk(Chunk { first: 8, max: 8 });
        let times = Extent::Times { of: Rows::Tokens, times: 3 };
        let blocks = Extent::Blocks { of: Rows::Tokens, size: 4 };
        assert_eq!(rows(Rows::Tokens, Extent::All, 9), 0..9);
        assert_eq!(rows(Rows::Outputs, Extent::All, 9), 0..3);
        assert_eq!([5, 9, 30].map(|tokens| rows(Rows::Tokens, chunk, tokens)), [5..5, 8..9, 8..16]);
        assert_eq!([5, 9, 30].map(|tokens| rows(Rows::Fixed(8), chunk, tokens)), [0..0, 0..1, 0..8]);
        assert_eq!([0, 2].map(|tokens| rows(Rows::Fixed(9), times, tokens)), [0..0, 0..6]);
        assert_eq!([0, 8, 9].map(|tokens| rows(Rows::Fixed(9), blocks, tokens)), [0..0, 0..2, 0..3]);
    }
}
