//! Few rows times a transposed weight matrix: the weights stream by once, unpacked.
#![allow(unsafe_code)]

use std::array::from_fn;

use smallmind_simd::Isa;

use super::{Epilogue, Update};
use crate::{Mat, MatMut};

/// The most rows that [`gemv_nt`] takes.
pub const GEMV_MAX_ROWS: usize = 8;

/// `out = [out +] scale · x · wᵀ [+ bias] [+ residual]` for few rows: `x` `[m, k]` with `m` at most [`GEMV_MAX_ROWS`], `w` `[n, k]`,
/// `out` `[m, n]`.
///
/// It reads `w` once and packs nothing, as fits a decoding step, whose time is that of reading the weights. An element is the sum over
/// the lanes of one vector of partial sums, lane `l` adding up the terms `l`, `l + LANES`, … in rising order: it depends on its row of `x`
/// and its row of `w` alone, so windows of columns, and other rows beside it, leave its bits unchanged. They differ from those of
/// [`super::gemm`]; so choose by the rows of the whole problem, not of a window.
///
/// # Panics
/// If the shapes disagree or `m` is too large.
pub fn gemv_nt<I: Isa>(isa: I, x: Mat, w: Mat, out: MatMut, epilogue: Epilogue) {
    let (m, n, k) = (x.rows(), w.rows(), x.cols());
    assert!(m <= GEMV_MAX_ROWS, "{m} rows, gemv takes at most {GEMV_MAX_ROWS}");
    assert!(w.cols() == k, "x has {k} columns, w has {}", w.cols());
    let shape = (out.rows(), out.cols());
    assert!(shape == (m, n), "an output [{}, {}] for x [{m}, {k}] and w [{n}, {k}]", shape.0, shape.1);
    epilogue.check(m, n);
    // Rows of w at a time: enough sums to hide the latency of an addition and, with few rows of x, enough streams to saturate memory.
    match m {
        0 => {}
        1 => rows::<I, 1, 8>(isa, x, w, out, &epilogue),
        2 => rows::<I, 2, 4>(isa, x, w, out, &epilogue),
        3 => rows::<I, 3, 4>(isa, x, w, out, &epilogue),
        4 => rows::<I, 4, 4>(isa, x, w, out, &epilogue),
        5 => rows::<I, 5, 2>(isa, x, w, out, &epilogue),
        6 => rows::<I, 6, 2>(isa, x, w, out, &epilogue),
        7 => rows::<I, 7, 2>(isa, x, w, out, &epilogue),
        _ => rows::<I, 8, 2>(isa, x, w, out, &epilogue),
    }
}

/// `M` rows of x, `N` rows of w at a time.
fn rows<I: Isa, const M: usize, const N: usize>(isa: I, x: Mat, w: Mat, mut out: MatMut, epilogue: &Epilogue) {
    isa.vectorize(
        #[inline(always)]
        || {
            let n = w.rows();
            let x: [&[f32]; M] = from_fn(
                #[inline(always)]
                |i| x.row(i),
            );
            let mut j = 0;
            while j + N <= n {
                let w: [&[f32]; N] = from_fn(
                    #[inline(always)]
                    |r| w.row(j + r),
                );
                let sums = dot(isa, &x, &w);
                for (i, sums) in sums.iter().enumerate() {
                    for (r, &sum) in sums.iter().enumerate() {
                        finish(&mut out, epilogue, i, j + r, sum);
                    }
                }
                j += N;
            }
            for j in j..n {
                let sums = dot(isa, &x, &[w.row(j)]);
                for (i, &[sum]) in sums.iter().enumerate() {
                    finish(&mut out, epilogue, i, j, sum);
                }
            }
        },
    );
}

/// `x[i] · w[j]` for all pairs; all slices have one length.
#[inline(always)]
fn dot<I: Isa, const M: usize, const N: usize>(isa: I, x: &[&[f32]; M], w: &[&[f32]; N]) -> [[f32; N]; M] {
    let k = x.iter().chain(w).map(|row| row.len()).min().unwrap_or(0);
    let whole = k - k % I::LANES;
    let mut sums = [[isa.zero(); N]; M];
    for p in (0..whole).step_by(I::LANES) {
        multiply_add(
            isa,
            x,
            w,
            &mut sums,
            #[inline(always)]
            // SAFETY: p + LANES ≤ k, at most the length of each row.
            |row| unsafe { isa.load_ptr(row.as_ptr().add(p)) },
        );
    }
    if whole < k {
        multiply_add(
            isa,
            x,
            w,
            &mut sums,
            #[inline(always)]
            |row| isa.load_partial(&row[whole..k]),
        );
    }
    from_fn(
        #[inline(always)]
        |i| from_fn(#[inline(always)]
        |j| isa.sum(sums[i][j])),
    )
}

/// One vector of each row into the sums.
#[inline(always)]
fn multiply_add<I: Isa, const M: usize, const N: usize>(
    isa: I,
    x: &[&[f32]; M],
    w: &[&[f32]; N],
    sums: &mut [[I::F32; N]; M],
    load: impl Fn(&[f32]) -> I::F32,
) {
    let w: [I::F32; N] = from_fn(
        #[inline(always)]
        |j| load(w[j]),
    );
    for (x, sums) in x.iter().zip(sums) {
        let x = load(x);
        for (sum, &w) in sums.iter_mut().zip(&w) {
            *sum = isa.mul_add(x, w, *sum);
        }
    }
}

/// The epilogue of one element.
#[inline(always)]
fn finish(out: &mut MatMut, epilogue: &Epilogue, i: usize, j: usize, sum: f32) {
    let mut y = sum * epilogue.scale;
    if let Update::Accumulate = epilogue.update {
        y += out.row(i)[j];
    }
    if let Some(bias) = epilogue.bias {
        y += bias[j];
    }
    if let Some(residual) = epilogue.residual {
        y += residual.row(i)[j];
    }
    out.row_mut(i)[j] = y;
}
