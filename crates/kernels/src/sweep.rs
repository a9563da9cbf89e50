//! Sweeps over the columns of rows of equal length: the loops that the row-wise kernels share.
//!
//! Every sweep takes whole vectors first and the remaining columns as one partial vector, so rows may have any length.
//! What is computed for a column never depends on which other columns the sweep covers; only [`sums`] and [`max`] join
//! columns, in an order fixed by the length of the row.

use smallmind_simd::Isa;

/// Independent accumulators of a sum: enough to hide the latency of an addition.
const ACCUMULATORS: usize = 4;

/// Lanes of the widest instruction set.
const MAX_LANES: usize = 16;

/// The vectors that start at column `at` of each row.
#[inline(always)]
fn load<I: Isa, const K: usize>(isa: I, rows: &[&[f32]; K], at: usize) -> [I::F32; K] {
    let mut v = [isa.zero(); K];
    for (v, row) in v.iter_mut().zip(rows) {
        *v = isa.load(&row[at..]);
    }
    v
}

/// The columns from `at` on, fewer than a vector, of each row; then zeros.
#[inline(always)]
fn load_tail<I: Isa, const K: usize>(isa: I, rows: &[&[f32]; K], at: usize) -> [I::F32; K] {
    let mut v = [isa.zero(); K];
    for (v, row) in v.iter_mut().zip(rows) {
        *v = isa.load_partial(&row[at..]);
    }
    v
}

/// `1.0` in the first `len` lanes, `0.0` in the others.
#[inline(always)]
pub(crate) fn live_lanes<I: Isa>(isa: I, len: usize) -> I::F32 {
    const ONES: [f32; MAX_LANES] = [1.0; MAX_LANES];
    isa.load_partial(&ONES[..len])
}

#[inline(always)]
fn check_lengths<const K: usize>(rows: &[&[f32]; K], len: usize) {
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
    let n = out.len();
    check_lengths(&rows, n);
    let mut at = 0;
    while n - at >= I::LANES {
        isa.store(f(load(isa, &rows, at)), &mut out[at..]);
        at += I::LANES;
    }
    if at < n {
        isa.store_partial(f(load_tail(isa, &rows, at)), &mut out[at..]);
    }
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
    let mut at = 0;
    while n - at >= I::LANES {
        let old = isa.load(&out[at..]);
        isa.store(f(old, load(isa, &rows, at)), &mut out[at..]);
        at += I::LANES;
    }
    if at < n {
        let old = isa.load_partial(&out[at..]);
        isa.store_partial(f(old, load_tail(isa, &rows, at)), &mut out[at..]);
    }
}

/// `N` sums over the columns of `K` rows.
///
/// `step(sums, columns, live)` adds the terms of a vector of columns to the sums; `live` is `1.0` in lanes that hold a
/// column and `0.0` beyond the end of the rows, where the columns read as zero: a term that isn't zero there must be
/// multiplied with it.
#[inline(always)]
pub(crate) fn sums<I: Isa, const K: usize, const N: usize>(
    isa: I,
    rows: [&[f32]; K],
    step: impl Fn([I::F32; N], [I::F32; K], I::F32) -> [I::F32; N],
) -> [f32; N] {
    let n = rows[0].len();
    check_lengths(&rows, n);
    let all = isa.splat(1.0);
    let mut acc = [[isa.zero(); N]; ACCUMULATORS];
    let mut at = 0;
    while n - at >= ACCUMULATORS * I::LANES {
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = step(*acc, load(isa, &rows, at + i * I::LANES), all);
        }
        at += ACCUMULATORS * I::LANES;
    }
    while n - at >= I::LANES {
        acc[0] = step(acc[0], load(isa, &rows, at), all);
        at += I::LANES;
    }
    if at < n {
        acc[1] = step(acc[1], load_tail(isa, &rows, at), live_lanes(isa, n - at));
    }
    let mut total = [0.0; N];
    for (i, total) in total.iter_mut().enumerate() {
        *total = isa.sum(isa.add(isa.add(acc[0][i], acc[1][i]), isa.add(acc[2][i], acc[3][i])));
    }
    total
}

/// The greatest element of `row`, not counting NaN; `-∞` if there is none.
#[inline(always)]
pub(crate) fn max<I: Isa>(isa: I, row: &[f32]) -> f32 {
    let n = row.len();
    if n < I::LANES {
        return row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    }
    let mut acc = [isa.splat(f32::NEG_INFINITY); ACCUMULATORS];
    let mut at = 0;
    while n - at >= ACCUMULATORS * I::LANES {
        for (i, acc) in acc.iter_mut().enumerate() {
            *acc = isa.max(isa.load(&row[at + i * I::LANES..]), *acc);
        }
        at += ACCUMULATORS * I::LANES;
    }
    while n - at >= I::LANES {
        acc[0] = isa.max(isa.load(&row[at..]), acc[0]);
        at += I::LANES;
    }
    // The last vector may overlap the one before: counting an element twice does not change the maximum.
    acc[1] = isa.max(isa.load(&row[n - I::LANES..]), acc[1]);
    isa.max_lane(isa.max(isa.max(acc[0], acc[1]), isa.max(acc[2], acc[3])))
}

#[cfg(test)]
mod tests {
    use smallmind_simd::{IsaKind, WithIsa};

    use super::*;

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
