//! Problems with their memory: what the engine's workers do, and how a result is checked.

mod attention;
mod decode;
mod elements;
mod matmul;
mod narrow;
mod norm;
mod optimizer;
mod packed;
mod tables;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use smallmind_graph::{Buffer, GraphError, Pool, SHARED_ELEMENTS, Team};
use smallmind_kernels::matmul::{COL_GRANULE, ROW_GRANULE};
use smallmind_kernels::reference::Matrix;
use smallmind_kernels::{MatMut, Part};
use smallmind_simd::IsaKind;

use crate::case::{Case, Dtype, Problem, Product};

/// What one worker does in each iteration; a share with a barrier needs as many shares as workers.
pub type Share<'a> = Box<dyn FnMut(&Team<'_>) + Send + 'a>;

/// A problem ready to be run.
pub trait Work {
    /// The ways to compute it on `threads` threads; the engine's own choice comes first.
    fn routes(&self, threads: usize) -> Vec<&'static str> {
        let _ = threads;
        vec!["smallmind"]
    }

    /// Makes the outputs what they have to be before a result is checked: NaN where a kernel overwrites.
    fn reset(&mut self);

    /// The shares of the workers, at most `threads` of them, by the route of that index.
    ///
    /// # Errors
    /// An instruction set that this CPU lacks, or memory that can't be had.
    fn shares(&mut self, isa: IsaKind, route: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError>;

    /// Holds the outputs of one iteration after [`Work::reset`] against the `f64` reference, large ones in samples.
    ///
    /// # Errors
    /// The first element that is wrong.
    fn check(&self) -> Result<(), Wrong>;
}

/// A wrong element.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{what} is {got}, the reference says {want} ± {bound:.1e}")]
pub struct Wrong {
    /// Which element.
    pub what: String,
    /// What the kernel made of it.
    pub got: f32,
    /// What it should be.
    pub want: f64,
    /// How far it may be off.
    pub bound: f64,
}

impl Wrong {
    /// An error unless `got` is within `bound` of `want`.
    fn unless_close(what: impl FnOnce() -> String, got: f32, want: f64, bound: f64) -> Result<(), Self> {
        let close = (f64::from(got) - want).abs() <= bound;
        if close { Ok(()) } else { Err(Self { what: what(), got, want, bound }) }
    }

    /// An error unless all of `values` are finite.
    fn unless_finite(what: &str, values: &[f32]) -> Result<(), Self> {
        match values.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(i) => Err(Self { what: format!("{what}[{i}]"), got: values[i], want: 0.0, bound: f64::INFINITY }),
        }
    }
}

/// The memory of a case, filled; `None` for a kernel that has no such number format, or not on that instruction set.
///
/// # Errors
/// Memory that can't be had.
pub fn prepare(case: &Case, isa: IsaKind) -> Result<Option<Box<dyn Work>>, GraphError> {
    if case.dtype == Dtype::Bf16 {
        return match case.problem {
            Problem::Matmul(product) if narrow::has_bf16(isa) => {
                Ok(Some(Box::new(narrow::NarrowMatmul::new(product)?)))
            }
            _ => Ok(None),
        };
    }
    Ok(Some(match case.problem {
        Problem::Matmul(product) => Box::new(matmul::Matmul::new(product)?),
        Problem::PackedMatmul { m, n, k } => Box::new(packed::PackedMatmul::new(m, n, k)?),
        Problem::Gemv { n, k } => Box::new(matmul::Matmul::new(Product::nt(1, n, k))?),
        Problem::Attention(shape) if shape.len == shape.context => Box::new(attention::Attention::new(shape)?),
        Problem::Attention(shape) if shape.len == 1 => Box::new(decode::Decode::new(shape)?),
        Problem::Attention(_) => return Ok(None),
        Problem::Norm { kind, rows, cols, pass } => Box::new(norm::Norm::new(kind, rows, cols, pass)?),
        Problem::Gelu { elements, kind, pass } => Box::new(elements::Elements::gelu(elements, kind, pass)?),
        Problem::SwiGlu { rows, cols, pass } => Box::new(elements::Elements::swiglu(rows, cols, pass)?),
        Problem::Softmax { rows, cols } => Box::new(elements::Elements::softmax(rows, cols)?),
        Problem::Rope { rows, heads, head_dim } => Box::new(elements::Elements::rope(rows, heads, head_dim)?),
        Problem::Embedding { rows, vocab, cols, pass } => Box::new(tables::Embedding::new(rows, vocab, cols, pass)?),
        Problem::CrossEntropy { rows, vocab, pass } => Box::new(tables::CrossEntropy::new(rows, vocab, pass)?),
        Problem::AdamW { elements } => Box::new(optimizer::Update::new(elements)?),
        Problem::SumOfSquares { elements } => Box::new(optimizer::Squares::new(elements)?),
    }))
}

/// A number in `-0.5..0.5` that is a function of the seed and the index.
pub(crate) fn noise(seed: u64, index: usize) -> f32 {
    let mixed = (seed << 40 ^ index as u64).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
}

/// A buffer of noise.
fn noisy(seed: u64, len: usize) -> Result<Buffer, GraphError> {
    let mut buffer = Buffer::zeroed(len)?;
    buffer.iter_mut().enumerate().for_each(|(i, x)| *x = noise(seed, i));
    Ok(buffer)
}

/// A buffer of noise in `-limit..limit`.
fn noisy_within(limit: f32, seed: u64, len: usize) -> Result<Buffer, GraphError> {
    let mut buffer = noisy(seed, len)?;
    buffer.iter_mut().for_each(|x| *x *= 2.0 * limit);
    Ok(buffer)
}

/// Up to `count` indices below `len`: the ends, and others between them.
fn sampled(len: usize, count: usize) -> Vec<usize> {
    if len <= count {
        return (0..len).collect();
    }
    let last = count - 1;
    // Odd steps of rounding, so that samples don't all fall on multiples of a vector.
    (0..count)
        .map(|i| if i == last { len - 1 } else { i * (len - 1) / last + i % 2 * (i * 5 % 7) }.min(len - 1))
        .collect()
}

/// The matrix cut at the ends of `ranges`, which follow each other and cover its rows.
fn split_rows<'a>(mat: MatMut<'a>, ranges: &[Range<usize>]) -> Vec<MatMut<'a>> {
    let mut rest = Some(mat);
    ranges
        .iter()
        .filter_map(|range| {
            let (part, after) = rest.take()?.split_at_row(range.len());
            rest = Some(after);
            Some(part)
        })
        .collect()
}

/// The matrix cut at the ends of `ranges`, which follow each other and cover its columns.
fn split_cols<'a>(mat: MatMut<'a>, ranges: &[Range<usize>]) -> Vec<MatMut<'a>> {
    let mut rest = Some(mat);
    ranges
        .iter()
        .filter_map(|range| {
            let (part, after) = rest.take()?.split_at_col(range.len());
            rest = Some(after);
            Some(part)
        })
        .collect()
}

/// One iteration of the shares of `threads` workers, on threads of their own.
fn run_once(shares: Vec<Share<'_>>, threads: usize) -> Result<(), GraphError> {
    let shares: Vec<_> = shares.into_iter().map(Mutex::new).collect();
    Pool::new(threads)?.run(|worker, team| {
        if let Some(share) = shares.get(worker) {
            share.lock().unwrap_or_else(PoisonError::into_inner)(team);
        }
    });
    Ok(())
}

/// All parts of `threads` workers.
fn parts(threads: usize) -> impl Iterator<Item = Part> {
    (0..threads).map(move |index| Part { index, count: threads })
}

/// The rows of each worker in a step by rows that reads and writes `elements`, as the engine cuts them: a small step is worker 0's.
fn row_parts(rows: usize, elements: usize, threads: usize) -> Vec<Range<usize>> {
    let workers = if elements < SHARED_ELEMENTS { 1 } else { threads };
    parts(workers).map(|part| part.range(rows, ROW_GRANULE)).collect()
}

/// The columns of each worker in a step that adds up rows.
fn col_parts(cols: usize, threads: usize) -> Vec<Range<usize>> {
    parts(threads).map(|part| part.range(cols, COL_GRANULE)).collect()
}

/// The magnitudes of a matrix.
fn magnitudes(m: &Matrix) -> Matrix {
    m.map(f64::abs)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs every route of a case on every instruction set and on several numbers of threads, and checks; then spoils `spoil` elements
    /// one after another and sees the check fail.
    pub(crate) fn holds(problem: Problem) {
        let case = Case { problem, dtype: Dtype::F32, tags: vec![] };
        let mut work = prepare(&case, IsaKind::best()).unwrap().unwrap_or_else(|| panic!("{case} has no kernel"));
        for isa in IsaKind::available() {
            for threads in [1, 2, 3] {
                for route in 0..work.routes(threads).len() {
                    work.reset();
                    assert!(work.check().is_err(), "{case}: nothing has been computed yet");
                    let shares = work.shares(*isa, route, threads).unwrap();
                    assert!(shares.len() <= threads, "{case}");
                    run_once(shares, threads).unwrap();
                    work.check().unwrap_or_else(|wrong| panic!("{case} on {isa}, {threads} threads: {wrong}"));
                }
            }
        }
    }

    #[test]
    fn samples_are_in_range_and_hold_the_ends() {
        for len in [0, 1, 7, 8, 9, 1000] {
            let all = sampled(len, 8);
            assert!(all.iter().all(|i| *i < len) && all.len() == len.min(8), "{all:?}");
            assert!(len == 0 || (all[0] == 0 && all.contains(&(len - 1))), "{all:?}");
        }
    }

    #[test]
    fn noise_is_spread() {
        let mean = (0..10_000).map(|i| f64::from(noise(3, i))).sum::<f64>() / 1e4;
        assert!(mean.abs() < 0.02 && (0..1000).all(|i| (-0.5..0.5).contains(&noise(9, i))), "{mean}");
    }
}
