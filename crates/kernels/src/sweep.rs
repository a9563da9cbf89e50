//! Sweeps over the columns of rows of equal length: the loops that the row-wise kernels share.
//!
//! Every sweep takes whole vectors first and the remaining columns as one partial vector, so rows may have any length.
//! What is computed for a column never depends on which other columns the sweep covers; only [`sums`] and [`max`] join
//! columns, in an order fixed by the length of the row.

#![allow(unsafe_code)]

use smallmind_simd::{CacheLevel, Isa, MAX_LANES, prefetch};

use crate::MatMut;

/// Independent accumulators of a sum or a maximum: enough to hide the latency of an operation.
const ACCUMULATORS: usize = 4;

/// Where the results of a kernel go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The caches, from where the next kernel reads them.
    Caches,
    /// Memory: they are so many that the first would be gone from the caches before the last are there. Who chooses this calls
    /// [`Destination::finish`] before anybody may look at them.
    Memory,
}

impl Destination {
    /// Bytes from which on the results of one worker go to memory: more than the caches of most CPUs hold.
    const MEMORY_FROM: usize = 64 << 20;

    /// That of all that a worker writes.
    pub fn of(out: &MatMut) -> Self {
        let bytes = out.rows() * out.cols() * size_of::<f32>();
        if bytes >= Self::MEMORY_FROM { Self::Memory } else { Self::Caches }
    }

    /// To be called after the last result, by the kernel that asked for [`Destination::of`].
    #[inline(always)]
    pub fn finish<I: Isa>(self, isa: I) {
        if self == Self::Memory {
            isa.fence();
        }
    }

    /// Whether whole vectors of this row go past the caches.
    #[inline(always)]
    fn passes<I: Isa>(self, row: &[f32]) -> bool {
        self == Self::Memory && row.as_ptr().addr().is_multiple_of(I::LANES * size_of::<f32>())
    }
}

/// A vector of columns of rows of one length.
#[derive(Clone, Copy)]
struct Columns {
    at: usize,
    /// Whether all lanes hold columns.
    whole: bool,
}

impl Columns {
    /// Asks for these columns of the rows that start at `ahead`.
    #[inline(always)]
    fn prefetch<const P: usize>(self, ahead: &[*const f32; P]) {
        for row in ahead {
            prefetch(row.wrapping_add(self.at), CacheLevel::Second);
        }
    }

    /// These columns of `row`; zeros beyond its end.
    ///
    /// # Safety
    /// `row` has at least the length that the columns are of.
    #[inline(always)]
    unsafe fn load<I: Isa>(self, isa: I, row: &[f32]) -> I::F32 {
        if self.whole {
            // SAFETY: whole columns end within the row.
            unsafe { isa.load_ptr(row.as_ptr().add(self.at)) }
        } else {
            isa.load_partial(&row[self.at..])
        }
    }

    /// Writes these columns of `row`.
    ///
    /// # Safety
    /// As for [`Columns::load`].
    #[inline(always)]
    unsafe fn store<I: Isa>(self, isa: I, v: I::F32, row: &mut [f32]) {
        if self.whole {
            // SAFETY: whole columns end within the row.
            unsafe { isa.store_ptr(v, row.as_mut_ptr().add(self.at)) }
        } else {
            isa.store_partial(v, &mut row[self.at..])
        }
    }

    /// [`Columns::store`], past the caches if asked for.
    ///
    /// # Safety
    /// As for [`Columns::load`]; to go past the caches the row must begin at a whole vector, and nobody may look at it before a fence.
    #[inline(always)]
    unsafe fn store_to<I: Isa>(self, isa: I, v: I::F32, row: &mut [f32], past_caches: bool) {
        if past_caches && self.whole {
            // SAFETY: whole columns end within the row, and begin whole vectors after its aligned start; the fence is the caller's.
            unsafe { isa.store_past_caches_ptr(v, row.as_mut_ptr().add(self.at)) }
        } else {
            // SAFETY: the caller's guarantee.
            unsafe { self.store(isa, v, row) }
        }
    }

    /// These columns of each of `rows`.
    ///
    /// # Safety
    /// As for [`Columns::load`], for each row.
    #[inline(always)]
    unsafe fn load_all<I: Isa, const K: usize>(self, isa: I, rows: &[&[f32]; K]) -> [I::F32; K] {
        let mut v = [isa.zero(); K];
        for (v, row) in v.iter_mut().zip(rows) {
            // SAFETY: the caller's guarantee.
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
fn live_lanes<I: Isa>(isa: I, len: usize) -> I::F32 {
    const ONES: [f32; MAX_LANES] = [1.0; MAX_LANES];
    isa.load_partial(&ONES[..len])
}

/// `[f(0), f(1)]`, or `[f(0)]`: written out, as the elements of an array that a loop fills stay in memory, where what is stored in
/// parts and loaded as one makes the processor wait.
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

/// That all rows have `len` columns, on which the unchecked loads and stores rest.
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
    map_ahead(isa, rows, (out, Destination::Caches), [], f);
}

/// [`map`] that asks for the rows that start at `ahead` on its way: those that come next.
#[inline(always)]
pub(crate) fn map_ahead<I: Isa, const K: usize, const P: usize>(
    isa: I,
    rows: [&[f32]; K],
    (out, destination): (&mut [f32], Destination),
    ahead: [*const f32; P],
    f: impl Fn([I::F32; K]) -> I::F32,
) {
    let (n, past_caches) = (out.len(), destination.passes::<I>(out));
    check_lengths(&rows, n);
    for_columns::<I>(
        n,
        #[inline(always)]
        |columns| {
            columns.prefetch(&ahead);
            // SAFETY: the rows were checked to have n columns, as `out` has, whose start was looked at; `Destination::finish` is the fence.
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
            // SAFETY: all rows were checked to have n columns.
            let v = f(unsafe { columns.load_all(isa, &rows) });
            for (v, out) in v.into_iter().zip(&mut out) {
                // SAFETY: as above.
                unsafe { columns.store(isa, v, out) };
            }
        },
    );
}

/// `(out[..][c], totals[..][c]) = f(rows[..][..][c], shared[..][c], totals[..][c])` for every column `c` of `R` rows: what the
/// rows share is loaded, and what they are added to is updated, once. On its way it asks for the rows that start
/// at `ahead`.
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
    ahead: [[*const f32; P]; R],
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
            for ahead in &ahead {
                columns.prefetch(ahead);
            }
            let (mut v, mut old) = ([[isa.zero(); K]; R], [isa.zero(); T]);
            for (v, rows) in v.iter_mut().zip(&rows) {
                // SAFETY: all rows were checked to have n columns.
                *v = unsafe { columns.load_all(isa, rows) };
            }
            for (old, total) in old.iter_mut().zip(&totals) {
                // SAFETY: as above.
                *old = unsafe { columns.load(isa, total) };
            }
            // SAFETY: as above.
            let (v, new) = f(v, unsafe { columns.load_all(isa, &shared) }, old);
            for (v, out) in v.into_iter().zip(&mut out) {
                // SAFETY: as above; their starts were looked at, and `Destination::finish` is the fence.
                unsafe { columns.store_to(isa, v, out, past_caches) };
            }
            for (new, total) in new.into_iter().zip(&mut totals) {
                // SAFETY: as above.
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
            // SAFETY: the rows were checked to have n columns, as `out` has.
            unsafe { columns.store(isa, f(columns.load(isa, out), columns.load_all(isa, &rows)), out) }
        },
    );
}

/// Calls `step(accumulator, columns, live)` for the columns `0..n`: vectors go to the accumulators in turn as long as there is
/// one for each, the remaining ones to the first, what is less than a vector to the last. `live` is `1.0` in lanes that hold a
/// column and `0.0` beyond the end of the rows.
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

/// `N` sums over the columns of `K` rows, still spread over the lanes of vectors: [`Isa::sum`] of each is to follow. Between the
/// sweeps of several rows and their sums over lanes, the latter hide each other's latency.
///
/// `step(sums, columns, live)` adds the terms of a vector of columns to the sums; `live` is `1.0` in lanes that hold a
/// column and `0.0` beyond the end of the rows, where the columns read as zero: a term that isn't zero there must be
/// multiplied with it. On its way the sweep asks for the rows that start at `ahead`.
#[inline(always)]
pub(crate) fn sums<I: Isa, const K: usize, const N: usize, const P: usize>(
    isa: I,
    rows: [&[f32]; K],
    ahead: [*const f32; P],
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
            columns.prefetch(&ahead);
            // SAFETY: all rows were checked to have n columns.
            acc[i] = step(acc[i], unsafe { columns.load_all(isa, &rows) }, live);
        },
    );
    let mut total = [isa.zero(); N];
    for (i, total) in total.iter_mut().enumerate() {
        *total = join(isa, [acc[0][i], acc[1][i], acc[2][i], acc[3][i]]);
    }
    total
}

/// `out[c] = f(rows[..][c])`, and the sum over the columns of `out`, spread over lanes as that of [`sums`].
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
            // SAFETY: all rows were checked to have n columns.
            let v = f(unsafe { columns.load_all(isa, &rows) });
            // SAFETY: as above.
            unsafe { columns.store(isa, v, out) };
            acc[i] = isa.add(acc[i], if columns.whole { v } else { isa.mul(v, live) });
        },
    );
    join(isa, acc)
}

/// `row[c] = f(row[c], live)`, and the sum over the columns of what was written, spread over lanes as that of [`sums`].
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
            // SAFETY: as above.
            unsafe { columns.store(isa, v, row) };
            acc[i] = isa.add(acc[i], if columns.whole { v } else { isa.mul(v, live) });
        },
    );
    join(isa, acc)
}

/// The greatest element of `row`, not counting NaN; `-∞` if there is none.
#[inline(always)]
pub(crate) fn max<I: Isa>(isa: I, row: &[f32]) -> f32 {
    let n = row.len();
    if n < I::LANES {
        return row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    }
    let mut acc = [isa.splat(f32::NEG_INFINITY); ACCUMULATORS];
    accumulate::<I>(
        isa,
        n - n % I::LANES,
        #[inline(always)]
        |i, columns, _| {
            // SAFETY: the whole columns of `row` are below n.
            acc[i] = isa.max(unsafe { columns.load(isa, row) }, acc[i]);
        },
    );
    // The last vector may overlap the one before: counting an element twice does not change the maximum.
    acc[1] = isa.max(isa.load(&row[n - I::LANES..]), acc[1]);
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
            max(isa, self.0)
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
