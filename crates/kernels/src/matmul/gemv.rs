//! Few rows times the transpose of an unpacked weight, each of whose rows is read once.
//!
//! ```text
//! for rows of w, as many as stay in the cache                    (1: one chunk, if x takes one pass)
//!   for rows of x, at most PASS_ROWS                             a pass
//!     for depth, at most DEPTH elements at a time
//!       interleave the rows of x                                 (2)
//!       for rows of w, N at a time
//!         for p in depth, a vector at a time
//!           sums[M][N] += x[M][p] · w[N][p]                      lane by lane; prefetches w
//!         out[M][N] = epilogue(sum over lanes)
//! ```
//!
//! 1. With more than PASS_ROWS rows of x, a chunk of w stays in the second-level cache from one pass to the next.
//! 2. Vectors of the M rows of x are stored interleaved, in the order in which they are read.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512};
use smallmind_simd::{CacheLevel, Isa, Scalar, prefetch};

use super::operand::{Epilogue, Update};
use crate::compiled::table_of;
use crate::{Mat, MatMut};

/// The most rows of the left factor of a product that streams the weight. With more rows, tiles are faster.
pub const GEMV_MAX_ROWS: usize = 16;

/// The most rows of x in a pass over w: their sums stay in registers.
const PASS_ROWS: usize = 8;

/// Elements of a chunk of w, which stays in a second-level cache of 1 MiB from one pass to the next.
const RESIDENT: usize = 64 * 1024;

/// Depth of a block, in elements. Eight rows of it are 32 KiB, which the first two levels of cache hold together with
/// the rows of w. It is a constant, since it decides the order of sums.
const DEPTH: usize = 1024;

/// Prefetch distance in a row of w, in elements: farther than the latency of memory, nearer than the size of the
/// second-level cache.
const PREFETCH_DISTANCE: usize = 512;

/// `out = [out +] scale · x · wᵀ [+ bias] [+ residual]`: `x` `[m, k]`, `w` `[n, k]`, `out` `[m, n]`, whose shapes
/// agree.
///
/// An element of the output is the sum over its blocks of [`DEPTH`] elements. In a block, lane `l` of a vector adds up
/// the terms `l`, `l + LANES`, … in rising order; then the lanes are added up. This order depends only on the depth, so
/// a window of the output has the same bits as in the whole. They differ from the bits of a product by tiles.
///
/// # Panics
/// If `m` is larger than [`GEMV_MAX_ROWS`].
pub(super) fn gemv<I: Isa>(isa: I, x: Mat, w: Mat, mut out: MatMut, epilogue: &Epilogue) {
    let (m, n, k) = (x.rows(), w.rows(), x.cols());
    debug_assert_eq!((w.cols(), out.rows(), out.cols()), (k, m, n), "shapes that agree");
    assert!(m <= GEMV_MAX_ROWS, "{m} rows times streamed rows, which at most {GEMV_MAX_ROWS} can be");
    if m == 0 {
        return;
    }
    let passes = m.div_ceil(PASS_ROWS);
    let (pass, chunk) = (m.div_ceil(passes), if passes == 1 { n } else { RESIDENT / k.max(1) }.max(PASS_ROWS));
    for j in (0..n).step_by(chunk) {
        let columns = j..(j + chunk).min(n);
        for i in (0..m).step_by(pass) {
            let rows = i..(i + pass).min(m);
            let window = out.reborrow().rows_range(rows.clone()).cols_range(columns.clone());
            let epilogue = epilogue.window(&rows, &columns);
            let kernel = instances_of::<I>()[rows.len() - 1];
            kernel(isa, x.rows_range(rows), w.rows_range(columns.clone()), window, &epilogue);
        }
    }
}

/// [`gemv`] for one number of rows of `x`.
type GemvFn<I> = fn(I, x: Mat, w: Mat, out: MatMut, epilogue: &Epilogue);

/// [`gemv`] of `M` rows of x, `N` rows of w at a time.
fn rows<I: Isa, const M: usize, const N: usize>(isa: I, x: Mat, w: Mat, mut out: MatMut, epilogue: &Epilogue) {
    let mut interleaved = MaybeUninit::<[f32; PASS_ROWS * DEPTH]>::uninit();
    // How many rows of w are multiplied by each block of x. A single row of x needs no interleaving, so rows of w are
    // read from end to end.
    let at_once = if M == 1 && x.cols() > DEPTH { N } else { w.rows().max(1) };
    isa.vectorize(
        #[inline(always)]
        || {
            for first in (0..w.rows()).step_by(at_once) {
                let last = (first + at_once).min(w.rows());
                let mut epilogue = *epilogue;
                // For k = 0, one empty block.
                for p in (0..x.cols().max(1)).step_by(DEPTH) {
                    let depth = p..(p + DEPTH).min(x.cols());
                    let w = w.cols_range(depth.clone());
                    let x = Interleaved::<M>::new(isa, x.cols_range(depth), &mut interleaved);
                    let mut j = first;
                    while j + N <= last {
                        some_rows::<I, M, N>(isa, x, w, j, &mut out, &epilogue);
                        j += N;
                    }
                    for j in j..last {
                        some_rows::<I, M, 1>(isa, x, w, j, &mut out, &epilogue);
                    }
                    epilogue = epilogue.accumulate();
                }
            }
        },
    );
}

/// A block of `M` rows of x, interleaved: the first vector of each row, then the second of each, …; the last ones
/// padded with zeros.
#[derive(Clone, Copy)]
struct Interleaved<'a, const M: usize> {
    vectors: &'a [f32],
    /// Elements of a row, without padding.
    depth: usize,
}

impl<'a, const M: usize> Interleaved<'a, M> {
    #[inline(always)]
    fn new<I: Isa>(isa: I, x: Mat<'a>, buffer: &'a mut MaybeUninit<[f32; PASS_ROWS * DEPTH]>) -> Self {
        let depth = x.cols();
        if M == 1 && depth.is_multiple_of(I::LANES) {
            return Self { vectors: x.row(0), depth };
        }
        let start = buffer.as_mut_ptr().cast::<f32>();
        for p in (0..depth).step_by(I::LANES) {
            for i in 0..M {
                let row = x.row(i);
                let vector = isa.load_partial(&row[p..(p + I::LANES).min(depth)]);
                // SAFETY: the buffer holds M ≤ PASS_ROWS rows of DEPTH elements, a multiple of the lanes, and p is
                // below DEPTH.
                unsafe { isa.store_ptr(vector, start.add(p * M + i * I::LANES)) };
            }
        }
        let len = depth.next_multiple_of(I::LANES) * M;
        // SAFETY: the loop has written every vector of `len` elements.
        Self { vectors: unsafe { std::slice::from_raw_parts(start, len) }, depth }
    }
}

/// Computes the outputs of rows `j..j + N` of w.
#[inline(always)]
fn some_rows<I: Isa, const M: usize, const N: usize>(
    isa: I,
    x: Interleaved<M>,
    w: Mat,
    j: usize,
    out: &mut MatMut,
    epilogue: &Epilogue,
) {
    let sums = dot::<I, M, N>(isa, x, w.rows_range(j..j + N));
    for (i, sums) in sums.iter().enumerate() {
        for (r, &sum) in sums.iter().enumerate() {
            finish(out, epilogue, i, j + r, isa.sum(sum));
        }
    }
}

/// For all pairs of rows a vector whose lanes add up to `x[i] · w[j]`. Prefetches the next elements of w.
#[inline(always)]
fn dot<I: Isa, const M: usize, const N: usize>(isa: I, x: Interleaved<M>, w: Mat) -> [[I::F32; N]; M] {
    let (depth, stride) = (x.depth, w.stride());
    let whole = depth - depth % I::LANES;
    // Near the end of these rows, prefetches go to the next N rows.
    let near_end = (depth.saturating_sub(PREFETCH_DISTANCE) / I::LANES * I::LANES).min(whole);
    let mut sums = [[isa.zero(); N]; M];
    let beyond = (N * stride + PREFETCH_DISTANCE).wrapping_sub(depth);
    for (range, distance) in [(0..near_end, PREFETCH_DISTANCE), (near_end..whole, beyond)] {
        for p in range.step_by(I::LANES) {
            let mut vectors = [isa.zero(); N];
            for (r, vector) in vectors.iter_mut().enumerate() {
                let at = w.as_ptr().wrapping_add(r * stride + p);
                prefetch(at.wrapping_add(distance), CacheLevel::Second);
                // SAFETY: p + LANES ≤ depth, the columns of w, and r < N, its rows.
                *vector = unsafe { isa.load_ptr(at) };
            }
            multiply_add(isa, x, p, &vectors, &mut sums);
        }
    }
    if whole < depth {
        let mut vectors = [isa.zero(); N];
        for (r, vector) in vectors.iter_mut().enumerate() {
            *vector = isa.load_partial(&w.row(r)[whole..]);
        }
        multiply_add(isa, x, whole, &vectors, &mut sums);
    }
    sums
}

/// Adds the products of the vectors of x at element `p` with a vector of each row of w to the sums.
#[inline(always)]
fn multiply_add<I: Isa, const M: usize, const N: usize>(
    isa: I,
    x: Interleaved<M>,
    p: usize,
    w: &[I::F32; N],
    sums: &mut [[I::F32; N]; M],
) {
    let x = &x.vectors[p * M..(p + I::LANES) * M];
    for (x, sums) in x.chunks_exact(I::LANES).zip(sums) {
        let x = isa.load(x);
        for (sum, &w) in sums.iter_mut().zip(w) {
            *sum = isa.mul_add(x, w, *sum);
        }
    }
}

/// Writes one element through the epilogue.
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

/// The kernels of one instruction set: pairs of a number of rows of x and the number of rows of w that are read at a
/// time.
macro_rules! instances {
    ($isa:ty, $($m:literal $n:literal),*) => {
        [$(rows::<$isa, $m, $n>),*]
    };
}

/// The kernels by the number of rows of x, less one.
type Instances<I> = [GemvFn<I>; PASS_ROWS];

// Each table comes from a function that is never inlined; see `crate::compiled`.

#[inline(never)]
fn scalar() -> &'static Instances<Scalar> {
    const { &instances!(Scalar, 1 4, 2 2, 3 2, 4 2, 5 1, 6 1, 7 1, 8 1) }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx2() -> &'static Instances<Avx2> {
    const { &instances!(Avx2, 1 4, 2 4, 3 3, 4 2, 5 2, 6 2, 7 1, 8 1) }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx512() -> &'static Instances<Avx512> {
    const { &instances!(Avx512, 1 4, 2 6, 3 6, 4 5, 5 4, 6 4, 7 3, 8 3) }
}

/// The kernels of `I`.
fn instances_of<I: Isa>() -> &'static Instances<I> {
    table_of!(I, scalar, avx2, avx512)
}
