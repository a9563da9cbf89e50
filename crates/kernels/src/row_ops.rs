//! Row operations: loops over the columns of rows of equal length, shared by the row-wise kernels.
//!
//! Each takes whole vectors of columns first and the remaining columns as one partial vector, so rows may have any
//! length. Maps and updates compute each column independently; sums and [`max`] combine columns in an order that
//! depends only on the length of the row.
//!
//! The rows of one call have the same length, which each function asserts once; loads and stores of whole vectors rely
//! on it and are not checked again.

#![allow(unsafe_code)]

use smallmind_simd::{CacheLevel, Isa, MAX_LANES, prefetch};

use crate::MatMut;

/// Independent accumulators of a sum or a maximum: enough to hide the latency of an operation.
const ACCUMULATORS: usize = 4;

/// Where a kernel writes its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Through the caches, from which the next kernel reads them.
    Caches,
    /// Past the caches: there are so many results that the first would be evicted before the last are written. The
    /// kernel must call [`Destination::finish`] before it returns.
    Memory,
}

impl Destination {
    /// From this size on, in bytes, the results of a worker go past the caches: it is more than the caches of most CPUs
    /// hold.
    const MEMORY_FROM: usize = 64 << 20;

    /// The destination of all results of a worker.
    pub fn of(out: &MatMut) -> Self {
        let bytes = out.rows() * out.cols() * size_of::<f32>();
        if bytes >= Self::MEMORY_FROM { Self::Memory } else { Self::Caches }
    }

    /// Makes results that went past the caches visible to other threads. A kernel calls it after its last result.
    #[inline(always)]
    pub fn finish<I: Isa>(self, isa: I) {
        if self == Self::Memory {
            isa.fence();
        }
    }

    /// Whether whole vectors of this row are written past the caches: only if they are aligned.
    #[inline(always)]
    fn passes<I: Isa>(self, row: &[f32]) -> bool {
        self == Self::Memory && row.as_ptr().addr().is_multiple_of(I::LANES * size_of::<f32>())
    }
}

/// A vector of columns.
#[derive(Clone, Copy)]
struct Columns {
    /// The first column.
    at: usize,
    /// Whether there is a column for every lane.
    whole: bool,
}

impl Columns {
    /// Prefetches these columns of the rows that start at `next`.
    #[inline(always)]
    fn prefetch<const P: usize>(self, next: &[*const f32; P]) {
        for row in next {
            prefetch(row.wrapping_add(self.at), CacheLevel::Second);
        }
    }

    /// These columns of `row`; zeros beyond its end.
    ///
    /// # Safety
    /// `row` must have these columns.
    #[inline(always)]
    unsafe fn load<I: Isa>(self, isa: I, row: &[f32]) -> I::F32 {
        debug_assert!(self.fits::<I>(row), "columns from {} on of a row of {}", self.at, row.len());
        if self.whole {
            // SAFETY: the row has LANES columns from `at` on.
            unsafe { isa.load_ptr(row.as_ptr().add(self.at)) }
        } else {
            isa.load_partial(&row[self.at..])
        }
    }

    /// Whether `row` has these columns, and ends with them if they are not whole.
    #[inline(always)]
    fn fits<I: Isa>(self, row: &[f32]) -> bool {
        if self.whole {
            self.at + I::LANES <= row.len()
        } else {
            (self.at + 1..self.at + I::LANES).contains(&row.len())
        }
    }

    /// Writes these columns of `row`.
    ///
    /// # Safety
    /// `row` must have these columns.
    #[inline(always)]
    unsafe fn store<I: Isa>(self, isa: I, v: I::F32, row: &mut [f32]) {
        debug_assert!(self.fits::<I>(row), "columns from {} on of a row of {}", self.at, row.len());
        if self.whole {
            // SAFETY: the row has LANES columns from `at` on.
            unsafe { isa.store_ptr(v, row.as_mut_ptr().add(self.at)) }
        } else {
            isa.store_partial(v, &mut row[self.at..])
        }
    }

    /// [`Columns::store`], past the caches if `past_caches`.
    ///
    /// # Safety
    /// `row` must have these columns. With `past_caches` it must be aligned to a vector, and no thread may read or
    /// write it before [`Destination::finish`].
    #[inline(always)]
    unsafe fn store_to<I: Isa>(self, isa: I, v: I::F32, row: &mut [f32], past_caches: bool) {
        if past_caches && self.whole {
            // SAFETY: the row has LANES columns from `at` on, a multiple of LANES, so that they are aligned as the row
            // is. The caller calls the fence.
            unsafe { isa.store_past_caches_ptr(v, row.as_mut_ptr().add(self.at)) }
        } else {
            // SAFETY: the row has these columns.
            unsafe { self.store(isa, v, row) }
        }
    }

    /// These columns of each of `rows`.
    ///
    /// # Safety
    /// Each row must have these columns.
    #[inline(always)]
    unsafe fn load_all<I: Isa, const K: usize>(self, isa: I, rows: &[&[f32]; K]) -> [I::F32; K] {
        let mut v = [isa.zero(); K];
        for (v, row) in v.iter_mut().zip(rows) {
            // SAFETY: each row has these columns.
            *v = unsafe { self.load(isa, row) };
        }
        v
    }
}

/// Calls `f` for the columns `0..n`, a vector at a time.
#[inline(always)]
fn for_columns<I: Isa>(n: usize, mut f: impl FnMut(Columns)) {
    let mut at = 0;
    while n - at >= I::LANES {
        f(Columns { at, whole: true });
        at += I::LANES;
    }
    if at < n {
        f(Columns { at, whole: false });
    }
}

/// `1.0` in the first `len` lanes, `0.0` in the others.
#[inline(always)]
pub(crate) fn live_lanes<I: Isa>(isa: I, len: usize) -> I::F32 {
    const ONES: [f32; MAX_LANES] = [1.0; MAX_LANES];
    isa.load_partial(&ONES[..len])
}

/// `[f(0), f(1)]`, or `[f(0)]`. It has no loop, since an array that a loop fills stays in memory, and a load of what
/// was stored in parts stalls.
#[inline(always)]
pub(crate) fn each<T: Copy, const R: usize>(mut f: impl FnMut(usize) -> T) -> [T; R] {
    const { assert!(R == 1 || R == 2) };
    let first = f(0);
    let second = if R == 2 { f(1) } else { first };
    match [first, second].first_chunk() {
        Some(all) => *all,
        None => unreachable!("an array of one or two"),
    }
}

/// Asserts that all rows have `len` columns, on which the unchecked loads and stores rely.
#[inline(always)]
fn check_lengths<const K: usize>(rows: &[&[f32]; K], len: usize) {
    for row in rows {
        assert_eq!(row.len(), len, "rows of different lengths");
    }
}

/// [`check_lengths`] of rows to be written.
#[inline(always)]
fn check_lengths_mut<const K: usize>(rows: &[&mut [f32]; K], len: usize) {
    for row in rows {
        assert_eq!(row.len(), len, "rows of different lengths");
    }
}

/// `out[c] = f(rows[..][c])` for every column `c`.
#[inline(always)]
pub(crate) fn map<I: Isa, const K: usize>(
    isa: I,
    rows: [&[f32]; K],
    out: &mut [f32],
    f: impl Fn([I::F32; K]) -> I::F32,
) {
    map_prefetching(isa, rows, (out, Destination::Caches), [], f);
}

/// [`map`] to a [`Destination`], which prefetches the rows that start at `next`.
#[inline(always)]
pub(crate) fn map_prefetching<I: Isa, const K: usize, const P: usize>(
    isa: I,
    rows: [&[f32]; K],
    (out, destination): (&mut [f32], Destination),
    next: [*const f32; P],
    f: impl Fn([I::F32; K]) -> I::F32,
) {
    let (n, past_caches) = (out.len(), destination.passes::<I>(out));
    check_lengths(&rows, n);
    for_columns::<I>(
        n,
        #[inline(always)]
        |columns| {
            columns.prefetch(&next);
            // SAFETY: the rows and `out` have n columns; `out` goes past the caches only if it is aligned, and then the
            // kernel calls `Destination::finish`.
            unsafe { columns.store_to(isa, f(columns.load_all(isa, &rows)), out, past_caches) }
        },
    );
}

/// `out[0][c], out[1][c], … = f(rows[..][c])` for every column `c`.
#[inline(always)]
pub(crate) fn map_to<I: Isa, const K: usize, const N: usize>(
    isa: I,
    rows: [&[f32]; K],
    mut out: [&mut [f32]; N],
    f: impl Fn([I::F32; K]) -> [I::F32; N],
) {
    let n = out[0].len();
    check_lengths(&rows, n);
    check_lengths_mut(&out, n);
    for_columns::<I>(
        n,
        #[inline(always)]
        |columns| {
            // SAFETY: all rows have n columns.
            let v = f(unsafe { columns.load_all(isa, &rows) });
            for (v, out) in v.into_iter().zip(&mut out) {
                // SAFETY: all outputs have n columns.
                unsafe { columns.store(isa, v, out) };
            }
        },
    );
}

/// `(out[..][c], totals[..][c]) = f(rows[..][..][c], shared[..][c], totals[..][c])` for every column `c` of `R` rows.
/// The rows share one load of `shared` and one update of `totals`. Prefetches the rows that start at `next`.
#[inline(always)]
pub(crate) fn map_rows_and_total<
    I: Isa,
    const R: usize,
    const K: usize,
    const S: usize,
    const T: usize,
    const P: usize,
>(
    isa: I,
    rows: [[&[f32]; K]; R],
    shared: [&[f32]; S],
    (mut out, destination): ([&mut [f32]; R], Destination),
    mut totals: [&mut [f32]; T],
    next: [[*const f32; P]; R],
    f: impl Fn([[I::F32; K]; R], [I::F32; S], [I::F32; T]) -> ([I::F32; R], [I::F32; T]),
) {
    let (n, past_caches) = (out[0].len(), out.iter().all(|out| destination.passes::<I>(out)));
    for rows in &rows {
        check_lengths(rows, n);
    }
    check_lengths(&shared, n);
    check_lengths_mut(&out, n);
    check_lengths_mut(&totals, n);
    for_columns::<I>(
        n,
        #[inline(always)]
        |columns| {
            for next in &next {
                columns.prefetch(next);
            }
            let (mut v, mut old) = ([[isa.zero(); K]; R], [isa.zero(); T]);
            for (v, rows) in v.iter_mut().zip(&rows) {
                // SAFETY: all rows have n columns.
                *v = unsafe { columns.load_all(isa, rows) };
            }
            for (old, total) in old.iter_mut().zip(&totals) {
                // SAFETY: all totals have n columns.
                *old = unsafe { columns.load(isa, total) };
            }
            // SAFETY: all shared rows have n columns.
            let (v, new) = f(v, unsafe { columns.load_all(isa, &shared) }, old);
            for (v, out) in v.into_iter().zip(&mut out) {
                // SAFETY: all outputs have n columns; they go past the caches only if all are aligned, and then the
                // kernel calls `Destination::finish`.
                unsafe { columns.store_to(isa, v, out, past_caches) };
            }
            for (new, total) in new.into_iter().zip(&mut totals) {
                // SAFETY: all totals have n columns.
                unsafe { columns.store(isa, new, total) };
            }
        },
    );
}

/// `out[c] = f(out[c], rows[..][c])` for every column `c`.
#[inline(always)]
pub(crate) fn update<I: Isa, const K: usize>(
    isa: I,
    rows: [&[f32]; K],
    out: &mut [f32],
    f: impl Fn(I::F32, [I::F32; K]) -> I::F32,
) {
    let n = out.len();
    check_lengths(&rows, n);
    for_columns::<I>(
        n,
        #[inline(always)]
        |columns| {
            // SAFETY: the rows and `out` have n columns.
            unsafe { columns.store(isa, f(columns.load(isa, out), columns.load_all(isa, &rows)), out) }
        },
    );
}

/// Calls `step(accumulator, columns, live)` for the columns `0..n`. Each round gives one vector to each accumulator.
/// After the last full round, remaining vectors go to the first accumulator, and columns that don't fill a vector to
/// the last. `live` is `1.0` in lanes that hold a column, `0.0` beyond.
#[inline(always)]
fn accumulate<I: Isa>(isa: I, n: usize, mut step: impl FnMut(usize, Columns, I::F32)) {
    let all = isa.splat(1.0);
    let mut at = 0;
    while n - at >= ACCUMULATORS * I::LANES {
        for i in 0..ACCUMULATORS {
            step(i, Columns { at: at + i * I::LANES, whole: true }, all);
        }
        at += ACCUMULATORS * I::LANES;
    }
    while n - at >= I::LANES {
        step(0, Columns { at, whole: true }, all);
        at += I::LANES;
    }
    if at < n {
        step(ACCUMULATORS - 1, Columns { at, whole: false }, live_lanes(isa, n - at));
    }
}

/// The sum of all accumulators, lane by lane.
#[inline(always)]
fn join<I: Isa>(isa: I, [a, b, c, d]: [I::F32; ACCUMULATORS]) -> I::F32 {
    isa.add(isa.add(a, b), isa.add(c, d))
}

/// `N` sums over the columns of `K` rows, still spread over lanes. The caller adds up the lanes of each with
/// [`Isa::sum`], after the loops of several rows, so that the latencies overlap.
///
/// `step(sums, columns, live)` adds the terms of a vector of columns to the sums. `live` is `1.0` in lanes that hold a
/// column, `0.0` beyond, where the columns read as zero: a term that isn't zero there must be multiplied by `live`.
/// Prefetches the rows that start at `next`.
#[inline(always)]
pub(crate) fn sums<I: Isa, const K: usize, const N: usize, const P: usize>(
    isa: I,
    rows: [&[f32]; K],
    next: [*const f32; P],
    step: impl Fn([I::F32; N], [I::F32; K], I::F32) -> [I::F32; N],
) -> [I::F32; N] {
    let n = rows[0].len();
    check_lengths(&rows, n);
    let mut acc = [[isa.zero(); N]; ACCUMULATORS];
    accumulate::<I>(
        isa,
        n,
        #[inline(always)]
        |i, columns, live| {
            columns.prefetch(&next);
            // SAFETY: all rows have n columns.
            acc[i] = step(acc[i], unsafe { columns.load_all(isa, &rows) }, live);
        },
    );
    let mut total = [isa.zero(); N];
    for (i, total) in total.iter_mut().enumerate() {
        *total = join(isa, [acc[0][i], acc[1][i], acc[2][i], acc[3][i]]);
    }
    total
}

/// `out[c] = f(rows[..][c])`; returns the sum over the columns of `out`, spread over lanes as by [`sums`].
#[inline(always)]
pub(crate) fn map_and_sum<I: Isa, const K: usize>(
    isa: I,
    rows: [&[f32]; K],
    out: &mut [f32],
    f: impl Fn([I::F32; K]) -> I::F32,
) -> I::F32 {
    let n = out.len();
    check_lengths(&rows, n);
    let mut acc = [isa.zero(); ACCUMULATORS];
    accumulate::<I>(
        isa,
        n,
        #[inline(always)]
        |i, columns, live| {
            // SAFETY: all rows have n columns.
            let v = f(unsafe { columns.load_all(isa, &rows) });
            // SAFETY: `out` has n columns.
            unsafe { columns.store(isa, v, out) };
            acc[i] = isa.add(acc[i], if columns.whole { v } else { isa.mul(v, live) });
        },
    );
    join(isa, acc)
}

/// `row[c] = f(row[c], live)`; returns the sum over the columns of what was written, spread over lanes as by [`sums`].
#[inline(always)]
pub(crate) fn update_and_sum<I: Isa>(isa: I, row: &mut [f32], f: impl Fn(I::F32, I::F32) -> I::F32) -> I::F32 {
    let mut acc = [isa.zero(); ACCUMULATORS];
    accumulate::<I>(
        isa,
        row.len(),
        #[inline(always)]
        |i, columns, live| {
            // SAFETY: the columns are those of `row`.
            let v = f(unsafe { columns.load(isa, row) }, live);
            // SAFETY: the columns are those of `row`.
            unsafe { columns.store(isa, v, row) };
            acc[i] = isa.add(acc[i], if columns.whole { v } else { isa.mul(v, live) });
        },
    );
    join(isa, acc)
}

/// The greatest `f(row[c])`, not counting NaN; `-∞` if there is none.
#[inline(always)]
pub(crate) fn max<I: Isa>(isa: I, row: &[f32], f: impl Fn(I::F32) -> I::F32) -> f32 {
    let lowest = isa.splat(f32::NEG_INFINITY);
    let mut acc = [lowest; ACCUMULATORS];
    accumulate::<I>(
        isa,
        row.len(),
        #[inline(always)]
        |i, columns, live| {
            // SAFETY: the columns are those of `row`.
            let v = f(unsafe { columns.load(isa, row) });
            let v = if columns.whole { v } else { isa.select(isa.lt(isa.zero(), live), v, lowest) };
            // If one argument is NaN, `Isa::max` returns the second.
            acc[i] = isa.max(v, acc[i]);
        },
    );
    isa.max_lane(isa.max(isa.max(acc[0], acc[1]), isa.max(acc[2], acc[3])))
}

#[cfg(test)]
mod tests {
    use smallmind_simd::{IsaKind, WithIsa};

    use super::*;

    #[test]
    fn results_go_to_memory_from_64_mib_on() {
        let cols = 1024;
        for (rows, destination) in
            [(1, Destination::Caches), (16_383, Destination::Caches), (16_384, Destination::Memory)]
        {
            let mut out = vec![0.0; rows * cols];
            assert_eq!(Destination::of(&MatMut::new(&mut out, rows, cols)), destination, "{rows} rows of 4 KiB");
        }
    }

    struct Passes<'a>(Destination, &'a [f32]);

    impl WithIsa for Passes<'_> {
        type Output = bool;

        fn call<I: Isa>(self, _isa: I) -> bool {
            self.0.passes::<I>(self.1)
        }
    }

    #[test]
    fn only_rows_that_begin_at_a_vector_pass_the_caches() {
        let buffer = vec![0.0; 64];
        let start = buffer.as_ptr().align_offset(64);
        for kind in IsaKind::available() {
            for (destination, skip, passes) in
                [(Destination::Memory, 0, true), (Destination::Memory, 1, false), (Destination::Caches, 0, false)]
            {
                assert_eq!(kind.with(Passes(destination, &buffer[start + skip..])), Ok(passes), "{kind} {skip}");
            }
        }
    }

    struct Max<'a>(&'a [f32]);

    impl WithIsa for Max<'_> {
        type Output = f32;

        fn call<I: Isa>(self, isa: I) -> f32 {
            max(isa, self.0, |v| v)
        }
    }

    /// The greatest element at every place, among lesser ones, with a NaN somewhere.
    #[test]
    fn the_maximum_is_found_beside_a_nan() {
        for n in 2..150 {
            for at in 0..n {
                let mut row: Vec<f32> = (0..n).map(|i| -100.0 - i as f32).collect();
                row[at] = -3.0;
                row[(at + n / 2) % n] = f32::NAN;
                for kind in IsaKind::available() {
                    assert_eq!(kind.with(Max(&row)), Ok(-3.0), "{kind}: {n} elements, the greatest at {at}");
                }
            }
        }
        for kind in IsaKind::available() {
            assert_eq!(kind.with(Max(&[])), Ok(f32::NEG_INFINITY));
        }
    }
}
