//! How the output of a kernel is divided among workers.

use std::ops::Range;

/// Worker `index` of `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The worker, below `count`.
    pub index: usize,
    /// Number of workers that share the output.
    pub count: usize,
}

impl Part {
    /// The whole output.
    pub const WHOLE: Part = Part { index: 0, count: 1 };

    /// This worker's share of `0..len`, which begins and ends at multiples of `granule` or at `len`.
    ///
    /// The shares of all workers are disjoint, in order, and cover `0..len`.
    pub fn range(self, len: usize, granule: usize) -> Range<usize> {
        let granule = granule.max(1);
        let blocks = len.div_ceil(granule);
        let cut = |i: usize| (blocks * i / self.count * granule).min(len);
        cut(self.index)..cut(self.index + 1)
    }

    /// The units `index, index + count, …` below `units`: units of unequal cost are dealt round robin.
    pub fn interleaved(self, units: usize) -> impl Iterator<Item = usize> {
        (self.index..units).step_by(self.count.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_and_cover() {
        for len in [0, 1, 5, 16, 17, 100] {
            for granule in [1, 4, 16] {
                for count in 1..9 {
                    let mut end = 0;
                    for index in 0..count {
                        let r = Part { index, count }.range(len, granule);
                        assert_eq!(r.start, end);
                        assert!(r.start.is_multiple_of(granule) || r.start == len);
                        end = r.end;
                    }
                    assert_eq!(end, len);
                }
            }
        }
    }

    #[test]
    fn interleaved_units_cover() {
        let mut seen = [0; 11];
        for index in 0..3 {
            Part { index, count: 3 }.interleaved(11).for_each(|u| seen[u] += 1);
        }
        assert_eq!(seen, [1; 11]);
    }
}
