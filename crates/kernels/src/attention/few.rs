//! Products of few rows with the pages of a key-value cache.
//!
//! They read pages in place and widen each vector on its way into the multiply-adds. Each element is added up as
//! [`crate::matmul::gemm`] does: a chain of multiply-adds in rising depth, from zero, and then a sum over pages in their
//! order. Many chains, of neighbouring columns and of several pages, run at the same time.

use std::marker::PhantomData;

use smallmind_simd::{CacheLevel, Isa, prefetch};

use super::page::PAGE;
use super::widen::{PageFormat, Part};
use crate::{Mat, MatMut};

/// Up to this many rows the products here are faster than the loops around the micro-kernels.
pub(super) const FEW_ROWS: usize = 8;

/// Up to this depth a sum is one chain in [`crate::matmul::gemm`] too, on every instruction set.
pub(super) const FEW_DEPTH: usize = 256;

/// Rows for which a page is read once.
const ROWS_AT_ONCE: usize = 4;

/// Words of a cache line.
pub(super) const LINE: usize = 16;

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

/// `P` pages.
#[inline(always)]
fn each<C: Copy, const P: usize>(page: impl Fn(usize) -> C) -> [C; P] {
    let mut all = [page(0); P];
    for (p, one) in all.iter_mut().enumerate().skip(1) {
        *one = page(p);
    }
    all
}

/// `scores[.., 0..keys] = q·K`: `q` `[rows, head_dim]`, `page(i)` the keys of page `i`. Columns beyond `keys` up to a
/// whole page are overwritten too.
///
/// While the keys of page `i` are multiplied, as many words from both addresses of `ahead(i)` on are prefetched as the
/// keys of a page take: a page is read in columns, whose lines lie too far apart for the CPU's own prefetchers.
pub(super) fn scores<'p, I: Isa, F: PageFormat>(
    isa: I,
    q: Mat,
    keys: usize,
    (page, ahead): (impl Fn(usize) -> Part<'p, F::Code>, impl Fn(usize) -> [*const f32; 2]),
    mut scores: MatMut,
) {
    let page = |i: usize| (page(i), ahead(i));
    isa.vectorize(
        #[inline(always)]
        || {
            for first in (0..q.rows()).step_by(ROWS_AT_ONCE) {
                let rows = first..(first + ROWS_AT_ONCE).min(q.rows());
                let (q, scores) = (q.rows_range(rows.clone()), scores.reborrow().rows_range(rows));
                // A constant, so that the kernels of the other case are not compiled.
                if const { register_sums::<I>() == 16 } {
                    match q.rows() {
                        1 => scores_of::<I, F, 1, 4, 2>(isa, q, keys, &page, scores),
                        2 => scores_of::<I, F, 2, 4, 2>(isa, q, keys, &page, scores),
                        3 => scores_of::<I, F, 3, 4, 1>(isa, q, keys, &page, scores),
                        _ => scores_of::<I, F, 4, 4, 1>(isa, q, keys, &page, scores),
                    }
                } else {
                    match q.rows() {
                        1 => scores_of::<I, F, 1, 8, 1>(isa, q, keys, &page, scores),
                        2 => scores_of::<I, F, 2, 4, 1>(isa, q, keys, &page, scores),
                        3 => scores_of::<I, F, 3, 2, 1>(isa, q, keys, &page, scores),
                        _ => scores_of::<I, F, 4, 2, 1>(isa, q, keys, &page, scores),
                    }
                }
            }
        },
    );
}

/// [`scores`] of `R` rows: `N` vectors of keys at a time, of each of `P` pages.
#[inline(always)]
fn scores_of<'p, I: Isa, F: PageFormat, const R: usize, const N: usize, const P: usize>(
    isa: I,
    q: Mat,
    keys: usize,
    page: &impl Fn(usize) -> (Part<'p, F::Code>, [*const f32; 2]),
    mut scores: MatMut,
) {
    let q = slices::<R>(
        #[inline(always)]
        |r| q.row(r),
    );
    let (mut first, pages) = (0, keys.div_ceil(PAGE));
    while first + P <= pages {
        let of_pages = each::<_, P>(
            #[inline(always)]
            |p| page(first + p),
        );
        for column in (0..PAGE).step_by(N * I::LANES) {
            score_vectors::<I, F, R, N, P>(isa, q, of_pages, (first, column), &mut scores);
        }
        first += P;
    }
    while first < pages {
        let of_page = [page(first)];
        for column in (0..PAGE).step_by(N * I::LANES) {
            score_vectors::<I, F, R, N, 1>(isa, q, of_page, (first, column), &mut scores);
        }
        first += 1;
    }
}

/// The scores of `N` vectors of keys from a column on, in each of `P` pages from the first on.
#[inline(always)]
fn score_vectors<I: Isa, F: PageFormat, const R: usize, const N: usize, const P: usize>(
    isa: I,
    q: [&[f32]; R],
    pages: [(Part<F::Code>, [*const f32; 2]); P],
    (first, column): (usize, usize),
    scores: &mut MatMut,
) {
    let mut sums = [[[isa.zero(); N]; R]; P];
    let (mut start, depth) = (0, q[0].len());
    // Words that `N` vectors of a feature take.
    let step = const { N * I::LANES * F::BITS / 32 };
    let steps_before = column / (N * I::LANES) * depth;
    while start < depth {
        let end = depth.min(start.saturating_add(F::SHARED));
        let mut scales = [F::key_scales::<I, N>(isa, pages[0].0, start, column); P];
        for (scales, (page, _)) in scales.iter_mut().zip(pages).skip(1) {
            *scales = F::key_scales(isa, page, start, column);
        }
        for d in start..end {
            let mut x = [isa.zero(); R];
            for (x, q) in x.iter_mut().zip(q) {
                *x = isa.splat(q[d]);
            }
            for ((sums, (page, ahead)), scales) in sums.iter_mut().zip(pages).zip(scales) {
                for address in ahead {
                    for line in 0..const { (N * I::LANES * F::BITS / 32).div_ceil(LINE) } {
                        let at = (steps_before + d) * step + line * LINE;
                        prefetch(address.wrapping_add(at), CacheLevel::Second);
                    }
                }
                multiply_add(isa, x, F::keys(isa, page, scales, d, column), sums);
            }
        }
        start = end;
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
    vectors: [I::F32; N],
    sums: &mut [[I::F32; N]; R],
) {
    for (sums, x) in sums.iter_mut().zip(x) {
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            *sum = isa.mul_add(x, vector, *sum);
        }
    }
}

/// `out = weights[.., 0..keys]·V`: `page(i)` the values of page `i`; `out` `[rows, head_dim]`.
pub(super) fn outputs<'p, I: Isa, F: PageFormat>(
    isa: I,
    weights: Mat,
    keys: usize,
    page: impl Fn(usize) -> Part<'p, F::Code>,
    mut out: MatMut,
) {
    isa.vectorize(
        #[inline(always)]
        || {
            for first in (0..out.rows()).step_by(ROWS_AT_ONCE) {
                let rows = first..(first + ROWS_AT_ONCE).min(out.rows());
                let (weights, out) = (weights.rows_range(rows.clone()), out.reborrow().rows_range(rows));
                match out.rows() {
                    1 => outputs_of::<I, F, 1>(isa, weights, keys, &page, out),
                    2 => outputs_of::<I, F, 2>(isa, weights, keys, &page, out),
                    3 => outputs_of::<I, F, 3>(isa, weights, keys, &page, out),
                    _ => outputs_of::<I, F, 4>(isa, weights, keys, &page, out),
                }
            }
        },
    );
}

/// [`outputs`] of `R` rows.
#[inline(always)]
fn outputs_of<'p, I: Isa, F: PageFormat, const R: usize>(
    isa: I,
    weights: Mat,
    keys: usize,
    page: impl Fn(usize) -> Part<'p, F::Code>,
    mut out: MatMut,
) {
    let vectors = out.cols() / I::LANES;
    let weights = slices::<R>(
        #[inline(always)]
        |r| &weights.row(r)[..keys],
    );
    let mut product = Outputs::<F, R, _> { weights, page, out: &mut out, format: PhantomData };
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
struct Outputs<'a, 'o, F, const R: usize, P> {
    /// Each `[keys]`.
    weights: [&'a [f32]; R],
    page: P,
    /// `[R, head_dim]`.
    out: &'a mut MatMut<'o>,
    format: PhantomData<F>,
}

impl<'p, F: PageFormat, const R: usize, Page: Fn(usize) -> Part<'p, F::Code>> Outputs<'_, '_, F, R, Page> {
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
        let column = at * I::LANES;
        let keys = (self.weights[0].len() - first).min(PAGE);
        let pages = each::<_, P>(
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
                multiply_add(isa, x, F::values(isa, pages[p], key, column), sums);
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
                let (mut sum, page) = (isa.zero(), (self.page)(i));
                for (token, x) in weights.iter().enumerate() {
                    let values = F::last_values(isa, page, token, column, head_dim - column);
                    sum = isa.mul_add(isa.splat(*x), values, sum);
                }
                total = if i > 0 { isa.add(sum, total) } else { sum };
            }
            isa.store_partial(total, &mut self.out.row_mut(r)[column..]);
        }
    }
}
