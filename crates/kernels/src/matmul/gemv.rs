//! Few rows times a transposed weight matrix: the weights stream by once, unpacked.
#![allow(unsafe_code)]

use std::any::Any;

#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512};
use smallmind_simd::{Isa, IsaKind, Scalar};

use super::arch::prefetch;
use super::{Epilogue, Update};
use crate::{Mat, MatMut};

/// The most rows that [`gemv_nt`] takes.
pub const GEMV_MAX_ROWS: usize = 8;

/// Depth of a block: that much of eight rows of x stays in a first-level cache of 48 KiB beside the rows of w.
const DEPTH: usize = 1024;

/// Rows of w that use a block of x before the next one takes its place.
const REUSE: usize = 64;

/// `out = [out +] scale · x · wᵀ [+ bias] [+ residual]` for few rows: `x` `[m, k]` with `m` at most [`GEMV_MAX_ROWS`], `w` `[n, k]`,
/// `out` `[m, n]`.
///
/// It reads `w` once and packs nothing, as fits a decoding step, whose time is that of reading the weights. For each block of 1024 steps
/// in depth, an element grows by the sum over the lanes of one vector of partial sums, lane `l` adding up the terms `l`, `l + LANES`, … in
/// rising order: it depends on its row of `x` and its row of `w` alone, so windows of the output, and other rows beside it, leave its bits
/// unchanged. They differ from those of [`super::gemm`]; so choose by the rows of the whole problem, not of a window.
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
    if let Some(index) = m.checked_sub(1) {
        instances_of::<I>()[index](isa, x, w, out, &epilogue);
    }
}

/// [`gemv_nt`] for one number of rows of `x`.
type GemvFn<I> = fn(I, x: Mat, w: Mat, out: MatMut, epilogue: &Epilogue);

/// `M` rows of x, `N` rows of w at a time.
fn rows<I: Isa, const M: usize, const N: usize>(isa: I, x: Mat, w: Mat, mut out: MatMut, epilogue: &Epilogue) {
    isa.vectorize(
        #[inline(always)]
        || {
            for first in (0..w.rows()).step_by(REUSE) {
                let last = (first + REUSE).min(w.rows());
                let mut epilogue = *epilogue;
                // For k = 0, one empty block.
                for p in (0..x.cols().max(1)).step_by(DEPTH) {
                    let depth = p..(p + DEPTH).min(x.cols());
                    let (x, w) = (x.cols_range(depth.clone()), w.cols_range(depth));
                    let mut x_rows: [&[f32]; M] = [&[]; M];
                    for (i, row) in x_rows.iter_mut().enumerate() {
                        *row = x.row(i);
                    }
                    let mut j = first;
                    while j + N <= last {
                        some_rows::<I, M, N>(isa, &x_rows, w, j, &mut out, &epilogue);
                        j += N;
                    }
                    for j in j..last {
                        some_rows::<I, M, 1>(isa, &x_rows, w, j, &mut out, &epilogue);
                    }
                    epilogue = Epilogue { scale: epilogue.scale, ..Epilogue::ACCUMULATE };
                }
            }
        },
    );
}

/// Rows `j..j + N` of w against all of x.
#[inline(always)]
fn some_rows<I: Isa, const M: usize, const N: usize>(
    isa: I,
    x: &[&[f32]; M],
    w: Mat,
    j: usize,
    out: &mut MatMut,
    epilogue: &Epilogue,
) {
    let mut w_rows: [&[f32]; N] = [&[]; N];
    for (r, row) in w_rows.iter_mut().enumerate() {
        *row = w.row(j + r);
    }
    let sums = dot(isa, x, &w_rows, N * w.stride());
    for (i, sums) in sums.iter().enumerate() {
        for (r, &sum) in sums.iter().enumerate() {
            finish(out, epilogue, i, j + r, sum);
        }
    }
}

/// `x[i] · w[j]` for all pairs; all slices have one length. Meanwhile asks for what lies `ahead` elements behind the rows of w.
#[inline(always)]
fn dot<I: Isa, const M: usize, const N: usize>(
    isa: I,
    x: &[&[f32]; M],
    w: &[&[f32]; N],
    ahead: usize,
) -> [[f32; N]; M] {
    let k = x.iter().chain(w).map(|row| row.len()).min().unwrap_or(0);
    let whole = k - k % I::LANES;
    let mut sums = [[isa.zero(); N]; M];
    for p in (0..whole).step_by(I::LANES) {
        // With a single row of x the loads themselves run far enough ahead.
        if M > 1 {
            for row in w {
                prefetch(row.as_ptr().wrapping_add(p + ahead));
            }
        }
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
    let mut totals = [[0.0; N]; M];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = isa.sum(sum);
        }
    }
    totals
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
    let mut w_vectors = [isa.zero(); N];
    for (vector, row) in w_vectors.iter_mut().zip(w) {
        *vector = load(row);
    }
    for (x, sums) in x.iter().zip(sums) {
        let x = load(x);
        for (sum, &w) in sums.iter_mut().zip(&w_vectors) {
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

/// The kernels of one instruction set: for 1, 2, … rows of x, with as many rows of w as given.
macro_rules! instances {
    ($isa:ty, $($m:literal $n:literal),*) => {
        [$(rows::<$isa, $m, $n>),*]
    };
}

/// `[rows of x - 1]`.
type Instances<I> = [GemvFn<I>; GEMV_MAX_ROWS];

static SCALAR: Instances<Scalar> = instances!(Scalar, 1 4, 2 2, 3 2, 4 2, 5 1, 6 1, 7 1, 8 1);
#[cfg(target_arch = "x86_64")]
static AVX2: Instances<Avx2> = instances!(Avx2, 1 8, 2 4, 3 3, 4 2, 5 2, 6 2, 7 1, 8 1);
#[cfg(target_arch = "x86_64")]
static AVX512: Instances<Avx512> = instances!(Avx512, 1 8, 2 8, 3 6, 4 5, 5 4, 6 4, 7 3, 8 3);

/// The kernels of `I`.
fn instances_of<I: Isa>() -> &'static Instances<I> {
    let table: &'static dyn Any = match I::KIND {
        IsaKind::Scalar => &SCALAR,
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx2 => &AVX2,
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx512 => &AVX512,
        #[cfg(not(target_arch = "x86_64"))]
        IsaKind::Avx2 | IsaKind::Avx512 => &SCALAR,
    };
    table.downcast_ref().expect("each instruction set has one token")
}
