//! Products of few rows with the pages of a key-value cache.
//!
//! Each element is added up as [`crate::matmul::gemm`] does: a chain of multiply-adds in rising depth, from zero, and
//! then a sum over pages in their order. Many chains, of neighbouring columns and of several pages, run at the same
//! time.

use smallmind_simd::Isa;

use super::cached::PAGE;
use crate::{Mat, MatMut};

/// Up to this many rows the products here are faster than the loops around the micro-kernels.
pub(super) const FEW_ROWS: usize = 8;

/// Up to this depth a sum is one chain in [`crate::matmul::gemm`] too, on every instruction set.
pub(super) const FEW_DEPTH: usize = 256;

/// Rows for which a page is read once.
const ROWS_AT_ONCE: usize = 4;

/// How many vectors of sums the registers hold, next to the operands.
const fn register_sums<I: Isa>() -> usize {
    if I::LANES == 16 { 16 } else { 8 }
}

/// `N` slices. (`std::array::from_fn` might not be inlined, and then would be compiled without the instruction set.)
#[inline(always)]
fn slices<'a, const N: usize>(slice: impl Fn(usize) -> &'a [f32]) -> [&'a [f32]; N] {
    let mut all: [&[f32]; N] = [&[]; N];
    for (i, one) in all.iter_mut().enumerate() {
        *one = slice(i);
    }
    all
}

/// `scores[.., 0..keys] = q·K`: `q` `[rows, head_dim]`, `page(i)` the keys of page `i`, `[head_dim, PAGE]`. Columns
/// beyond `keys` up to a whole page are overwritten too.
pub(super) fn scores<'p, I: Isa>(isa: I, q: Mat, keys: usize, page: impl Fn(usize) -> &'p [f32], mut scores: MatMut) {
    isa.vectorize(
        #[inline(always)]
        || {
            for first in (0..q.rows()).step_by(ROWS_AT_ONCE) {
                let rows = first..(first + ROWS_AT_ONCE).min(q.rows());
                let (q, scores) = (q.rows_range(rows.clone()), scores.reborrow().rows_range(rows));
                // A constant, so that the kernels of the other case are not compiled.
                if const { register_sums::<I>() == 16 } {
                    match q.rows() {
                        1 => scores_of::<I, 1, 4, 2>(isa, q, keys, &page, scores),
                        2 => scores_of::<I, 2, 4, 2>(isa, q, keys, &page, scores),
                        3 => scores_of::<I, 3, 4, 1>(isa, q, keys, &page, scores),
                        _ => scores_of::<I, 4, 4, 1>(isa, q, keys, &page, scores),
                    }
                } else {
                    match q.rows() {
                        1 => scores_of::<I, 1, 8, 1>(isa, q, keys, &page, scores),
                        2 => scores_of::<I, 2, 4, 1>(isa, q, keys, &page, scores),
                        3 => scores_of::<I, 3, 2, 1>(isa, q, keys, &page, scores),
                        _ => scores_of::<I, 4, 2, 1>(isa, q, keys, &page, scores),
                    }
                }
            }
        },
    );
}

/// [`scores`] of `R` rows: `N` vectors of keys at a time, of each of `P` pages.
#[inline(always)]
fn scores_of<'p, I: Isa, const R: usize, const N: usize, const P: usize>(
    isa: I,
    q: Mat,
    keys: usize,
    page: &impl Fn(usize) -> &'p [f32],
    mut scores: MatMut,
) {
    let q = slices::<R>(
        #[inline(always)]
        |r| q.row(r),
    );
    let (mut first, pages) = (0, keys.div_ceil(PAGE));
    while first + P <= pages {
        let of_pages = slices::<P>(
            #[inline(always)]
            |p| page(first + p),
        );
        for column in (0..PAGE).step_by(N * I::LANES) {
            score_vectors::<I, R, N, P>(isa, q, of_pages, (first, column), &mut scores);
        }
        first += P;
    }
    while first < pages {
        for column in (0..PAGE).step_by(N * I::LANES) {
            score_vectors::<I, R, N, 1>(isa, q, [page(first)], (first, column), &mut scores);
        }
        first += 1;
    }
}

/// The scores of `N` vectors of keys from a column on, in each of `P` pages from the first on.
#[inline(always)]
fn score_vectors<I: Isa, const R: usize, const N: usize, const P: usize>(
    isa: I,
    q: [&[f32]; R],
    pages: [&[f32]; P],
    (first, column): (usize, usize),
    scores: &mut MatMut,
) {
    let mut sums = [[[isa.zero(); N]; R]; P];
    for d in 0..q[0].len() {
        let mut x = [isa.zero(); R];
        for (x, q) in x.iter_mut().zip(q) {
            *x = isa.splat(q[d]);
        }
        for (sums, page) in sums.iter_mut().zip(pages) {
            let keys = &page[d * PAGE + column..][..N * I::LANES];
            multiply_add(isa, x, keys, sums);
        }
    }
    for (p, sums) in sums.iter().enumerate() {
        for (r, sums) in sums.iter().enumerate() {
            let to = &mut scores.row_mut(r)[(first + p) * PAGE + column..][..N * I::LANES];
            for (sum, to) in sums.iter().zip(to.chunks_exact_mut(I::LANES)) {
                isa.store(*sum, to);
            }
        }
    }
}

/// `sums[r][n] += x[r] · vectors[n]`.
#[inline(always)]
fn multiply_add<I: Isa, const R: usize, const N: usize>(
    isa: I,
    x: [I::F32; R],
    vectors: &[f32],
    sums: &mut [[I::F32; N]; R],
) {
    let mut loaded = [isa.zero(); N];
    for (n, vector) in loaded.iter_mut().enumerate() {
        *vector = isa.load(&vectors[n * I::LANES..]);
    }
    for (sums, x) in sums.iter_mut().zip(x) {
        for (sum, vector) in sums.iter_mut().zip(loaded) {
            *sum = isa.mul_add(x, vector, *sum);
        }
    }
}

/// `out = weights[.., 0..keys]·V`: `page(i)` the values of page `i`, `[PAGE, head_dim]`; `out` `[rows, head_dim]`.
pub(super) fn outputs<'p, I: Isa>(
    isa: I,
    weights: Mat,
    keys: usize,
    page: impl Fn(usize) -> &'p [f32],
    mut out: MatMut,
) {
    isa.vectorize(
        #[inline(always)]
        || {
            for first in (0..out.rows()).step_by(ROWS_AT_ONCE) {
                let rows = first..(first + ROWS_AT_ONCE).min(out.rows());
                let (weights, out) = (weights.rows_range(rows.clone()), out.reborrow().rows_range(rows));
                match out.rows() {
                    1 => outputs_of::<I, 1>(isa, weights, keys, &page, out),
                    2 => outputs_of::<I, 2>(isa, weights, keys, &page, out),
                    3 => outputs_of::<I, 3>(isa, weights, keys, &page, out),
                    _ => outputs_of::<I, 4>(isa, weights, keys, &page, out),
                }
            }
        },
    );
}

/// [`outputs`] of `R` rows.
#[inline(always)]
fn outputs_of<'p, I: Isa, const R: usize>(
    isa: I,
    weights: Mat,
    keys: usize,
    page: impl Fn(usize) -> &'p [f32],
    mut out: MatMut,
) {
    let vectors = out.cols() / I::LANES;
    let weights = slices::<R>(
        #[inline(always)]
        |r| &weights.row(r)[..keys],
    );
    let mut product = Outputs::<R, _> { weights, page, out: &mut out };
    let mut at = 0;
    while at < vectors {
        // Constants, so that the kernels of the other cases are not compiled.
        at += if const { register_sums::<I>() / R >= 8 } {
            match vectors - at {
                8.. => product.vectors::<I, 8, 1>(isa, at),
                4.. => product.vectors::<I, 4, 2>(isa, at),
                2.. => product.vectors::<I, 2, 4>(isa, at),
                _ => product.vectors::<I, 1, 2>(isa, at),
            }
        } else if const { register_sums::<I>() / R >= 4 } {
            match vectors - at {
                4.. => product.vectors::<I, 4, 1>(isa, at),
                2.. => product.vectors::<I, 2, 2>(isa, at),
                _ => product.vectors::<I, 1, 2>(isa, at),
            }
        } else {
            match vectors - at {
                2.. => product.vectors::<I, 2, 1>(isa, at),
                _ => product.vectors::<I, 1, 2>(isa, at),
            }
        };
    }
    product.last_columns(isa, vectors * I::LANES);
}

/// The factors of [`outputs`], and its result.
struct Outputs<'a, 'o, const R: usize, F> {
    /// Each `[keys]`.
    weights: [&'a [f32]; R],
    page: F,
    /// `[R, head_dim]`.
    out: &'a mut MatMut<'o>,
}

impl<'p, const R: usize, F: Fn(usize) -> &'p [f32]> Outputs<'_, '_, R, F> {
    /// Computes `N` vectors of columns from vector `at` on, `P` pages at a time. Returns `N`.
    #[inline(always)]
    fn vectors<I: Isa, const N: usize, const P: usize>(&mut self, isa: I, at: usize) -> usize {
        let (mut first, keys) = (0, self.weights[0].len());
        while first + P * PAGE <= keys {
            self.pages::<I, N, P>(isa, at, first);
            first += P * PAGE;
        }
        while first < keys {
            self.pages::<I, N, 1>(isa, at, first);
            first += PAGE;
        }
        N
    }

    /// Adds the keys of `P` pages from key `first` on to `N` vectors of columns. One page may be filled only in part.
    #[inline(always)]
    fn pages<I: Isa, const N: usize, const P: usize>(&mut self, isa: I, at: usize, first: usize) {
        let (column, head_dim) = (at * I::LANES, self.out.cols());
        let keys = (self.weights[0].len() - first).min(PAGE);
        let pages = slices::<P>(
            #[inline(always)]
            |p| (self.page)(first / PAGE + p),
        );
        let mut sums = [[[isa.zero(); N]; R]; P];
        for key in 0..keys {
            for (p, sums) in sums.iter_mut().enumerate() {
                let mut x = [isa.zero(); R];
                for (x, weights) in x.iter_mut().zip(self.weights) {
                    *x = isa.splat(weights[first + p * PAGE + key]);
                }
                let values = &pages[p][key * head_dim + column..][..N * I::LANES];
                multiply_add(isa, x, values, sums);
            }
        }
        for r in 0..R {
            let to = &mut self.out.row_mut(r)[column..][..N * I::LANES];
            for (n, to) in to.chunks_exact_mut(I::LANES).enumerate() {
                let mut sum = if first > 0 { isa.add(sums[0][r][n], isa.load(to)) } else { sums[0][r][n] };
                for sums in &sums[1..] {
                    sum = isa.add(sums[r][n], sum);
                }
                isa.store(sum, to);
            }
        }
    }

    /// Computes the columns from `column` on, fewer than a vector.
    #[inline(always)]
    fn last_columns<I: Isa>(&mut self, isa: I, column: usize) {
        let head_dim = self.out.cols();
        if column == head_dim {
            return;
        }
        for r in 0..R {
            let mut total = isa.zero();
            for (i, weights) in self.weights[r].chunks(PAGE).enumerate() {
                let mut sum = isa.zero();
                for (x, values) in weights.iter().zip((self.page)(i).chunks_exact(head_dim)) {
                    sum = isa.mul_add(isa.splat(*x), isa.load_partial(&values[column..]), sum);
                }
                total = if i > 0 { isa.add(sum, total) } else { sum };
            }
            isa.store_partial(total, &mut self.out.row_mut(r)[column..]);
        }
    }
}
