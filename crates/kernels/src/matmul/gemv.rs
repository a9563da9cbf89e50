//! Few rows times a transposed weight matrix: the weights stream by once, unpacked.
#![allow(unsafe_code)]

use std::any::Any;
use std::mem::MaybeUninit;

#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512};
use smallmind_simd::{Isa, IsaKind, Scalar};

use super::arch::prefetch_early;
use super::{Epilogue, Update};
use crate::{Mat, MatMut};

/// The most rows that [`gemv_nt`] takes: with more, a product by tiles is the faster one.
pub const GEMV_MAX_ROWS: usize = 16;

/// The most rows that pass by w at a time: their sums stay in registers.
const PASS_ROWS: usize = 8;

/// Elements of w that stay in a second-level cache of 1 MiB from one pass to the next.
const RESIDENT: usize = 64 * 1024;

/// Depth of a block: that much of eight rows of x stays between the first two levels of cache beside the rows of w.
const DEPTH: usize = 1024;

/// How many elements ahead of their use the rows of w are asked for: far enough for the latency of memory, near enough for the second level
/// of cache.
const AHEAD: usize = 512;

/// `out = [out +] scale · x · wᵀ [+ bias] [+ residual]` for few rows: `x` `[m, k]` with `m` at most [`GEMV_MAX_ROWS`], `w` `[n, k]`,
/// `out` `[m, n]`.
///
/// It reads `w` once from memory and packs nothing, as fits few rows of a weight that changes; one that doesn't is for [`super::gemm_packed`]. For each block of 1024 steps
/// in depth, an element grows by the sum over the lanes of one vector of partial sums, lane `l` adding up the terms `l`, `l + LANES`, … in
/// rising order: it depends on its row of `x` and its row of `w` alone, so windows of the output, and other rows beside it, leave its bits
/// unchanged. They differ from those of [`super::gemm`]; so choose by the rows of the whole problem, not of a window.
///
/// # Panics
/// If the shapes disagree or `m` is too large.
pub fn gemv_nt<I: Isa>(isa: I, x: Mat, w: Mat, mut out: MatMut, epilogue: Epilogue) {
    let (m, n, k) = (x.rows(), w.rows(), x.cols());
    assert!(m <= GEMV_MAX_ROWS, "{m} rows, gemv takes at most {GEMV_MAX_ROWS}");
    assert!(w.cols() == k, "x has {k} columns, w has {}", w.cols());
    let shape = (out.rows(), out.cols());
    assert!(shape == (m, n), "an output [{}, {}] for x [{m}, {k}] and w [{n}, {k}]", shape.0, shape.1);
    epilogue.check(m, n);
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
            let epilogue = Epilogue {
                bias: epilogue.bias.map(|bias| &bias[columns.clone()]),
                residual: epilogue.residual.map(|r| r.rows_range(rows.clone()).cols_range(columns.clone())),
                ..epilogue
            };
            let kernel = instances_of::<I>()[rows.len() - 1];
            kernel(isa, x.rows_range(rows), w.rows_range(columns.clone()), window, &epilogue);
        }
    }
}

/// [`gemv_nt`] for one number of rows of `x`.
type GemvFn<I> = fn(I, x: Mat, w: Mat, out: MatMut, epilogue: &Epilogue);

/// `M` rows of x, `N` rows of w at a time.
fn rows<I: Isa, const M: usize, const N: usize>(isa: I, x: Mat, w: Mat, mut out: MatMut, epilogue: &Epilogue) {
    let mut interleaved = MaybeUninit::<[f32; PASS_ROWS * DEPTH]>::uninit();
    // Rows of w that pass by each block of x: one row of x need not be interleaved, so rows of w are read from end to end.
    let passing = if M == 1 && x.cols() > DEPTH { N } else { w.rows().max(1) };
    isa.vectorize(
        #[inline(always)]
        || {
            for first in (0..w.rows()).step_by(passing) {
                let last = (first + passing).min(w.rows());
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
                    epilogue = Epilogue { scale: epilogue.scale, ..Epilogue::ACCUMULATE };
                }
            }
        },
    );
}

/// A block of `M` rows of x, vector by vector: the first vector of each row, then the second of each, the last filled up with zeros. So they are read in
/// the order in which they lie, wherever the rows lie.
#[derive(Clone, Copy)]
struct Interleaved<'a, const M: usize> {
    vectors: &'a [f32],
    /// Elements of a row.
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
                // SAFETY: vector p / LANES of M rows is within M rows of whole vectors of at most DEPTH, a multiple of the lanes.
                unsafe { isa.store_ptr(vector, start.add(p * M + i * I::LANES)) };
            }
        }
        let len = depth.next_multiple_of(I::LANES) * M;
        // SAFETY: so many elements have been written.
        Self { vectors: unsafe { std::slice::from_raw_parts(start, len) }, depth }
    }
}

/// Rows `j..j + N` of w against all of x.
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

/// For all pairs of rows the sums, lane by lane, whose sum is `x[i] · w[j]`. Meanwhile asks for what follows.
#[inline(always)]
fn dot<I: Isa, const M: usize, const N: usize>(isa: I, x: Interleaved<M>, w: Mat) -> [[I::F32; N]; M] {
    let (depth, stride) = (x.depth, w.stride());
    let whole = depth - depth % I::LANES;
    // At the end of these rows the next ones follow.
    let turn = (depth.saturating_sub(AHEAD) / I::LANES * I::LANES).min(whole);
    let mut sums = [[isa.zero(); N]; M];
    for (range, ahead) in [(0..turn, AHEAD), (turn..whole, (N * stride + AHEAD).wrapping_sub(depth))] {
        for p in range.step_by(I::LANES) {
            let mut vectors = [isa.zero(); N];
            for (r, vector) in vectors.iter_mut().enumerate() {
                let at = w.as_ptr().wrapping_add(r * stride + p);
                prefetch_early(at.wrapping_add(ahead));
                // SAFETY: p + LANES ≤ depth, and r is one of w's rows.
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

/// The vectors of x at step `p` times a vector of each row of w into the sums.
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
type Instances<I> = [GemvFn<I>; PASS_ROWS];

static SCALAR: Instances<Scalar> = instances!(Scalar, 1 4, 2 2, 3 2, 4 2, 5 1, 6 1, 7 1, 8 1);
#[cfg(target_arch = "x86_64")]
static AVX2: Instances<Avx2> = instances!(Avx2, 1 4, 2 4, 3 3, 4 2, 5 2, 6 2, 7 1, 8 1);
#[cfg(target_arch = "x86_64")]
static AVX512: Instances<Avx512> = instances!(Avx512, 1 4, 2 6, 3 6, 4 5, 5 4, 6 4, 7 3, 8 3);

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
