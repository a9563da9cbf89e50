//! Calls of kernels that no op of the engine computes: each worker calls the kernel on its own window of the output.
//! Two such kernels are here: softmax of whole rows, and cross-entropy on logits. The engine computes them within
//! attention and within its output head.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use smallmind_graph::{Buffer, GraphError, Pool};
use smallmind_kernels::loss::{cross_entropy, cross_entropy_backward};
use smallmind_kernels::matmul::ROW_GRANULE;
use smallmind_kernels::reference::loss as reference;
use smallmind_kernels::softmax::causal_softmax;
use smallmind_kernels::{MatMut, Part};
use smallmind_profile::roofs::seconds_together;
use smallmind_simd::{Isa, WithIsa};

use super::values::{Values, ids};
use super::{EPSILON, Found, Output, Target, Work, Wrong, checked_rows};
use crate::case::Pass;

/// What one worker does in each iteration.
pub(super) type Share<'a> = Box<dyn FnMut() + Send + 'a>;

/// Runs `iterations` iterations of the shares, one share for each worker, with a barrier after each iteration; returns
/// the seconds.
pub(super) fn seconds(pool: &mut Pool, shares: Vec<Share<'_>>, iterations: usize) -> f64 {
    let shares: Vec<_> = shares.into_iter().map(Mutex::new).collect();
    seconds_together(pool, |worker, team| {
        let mut share = shares.get(worker).map(|share| share.lock().unwrap_or_else(PoisonError::into_inner));
        for _ in 0..iterations {
            if let Some(share) = &mut share {
                share();
            }
            team.barrier();
        }
    })
}

/// All parts of `threads` workers.
pub(super) fn parts(threads: usize) -> impl Iterator<Item = Part> {
    (0..threads).map(move |index| Part { index, count: threads })
}

/// Splits the matrix into windows of these many rows or columns; `at` splits it in two along that dimension.
pub(super) fn split<'a>(
    mat: MatMut<'a>,
    sizes: impl Iterator<Item = usize>,
    at: fn(MatMut<'a>, usize) -> (MatMut<'a>, MatMut<'a>),
) -> Vec<MatMut<'a>> {
    let mut rest = Some(mat);
    let window = |size| {
        let (window, after) = at(rest.take()?, size);
        rest = Some(after);
        Some(window)
    };
    sizes.filter_map(window).collect()
}

/// What is computed from each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// In place.
    Softmax,
    CrossEntropy(Pass),
}

/// A kernel that goes over the rows of logits, or of scores.
pub(super) struct RowKernel {
    kind: Kind,
    on: Target,
    values: Values,
    targets: Vec<u32>,
    logits: Buffer,
    losses: Buffer,
}

impl RowKernel {
    pub(super) fn softmax(rows: usize, cols: usize, on: Target) -> Result<Self, GraphError> {
        Self::new(Kind::Softmax, rows, cols, on)
    }

    pub(super) fn cross_entropy(rows: usize, vocab: usize, pass: Pass, on: Target) -> Result<Self, GraphError> {
        Self::new(Kind::CrossEntropy(pass), rows, vocab, on)
    }

    fn new(kind: Kind, rows: usize, cols: usize, on: Target) -> Result<Self, GraphError> {
        let (logits, losses) = (Buffer::zeroed(rows * cols)?, Buffer::zeroed(rows)?);
        Ok(Self { kind, on, values: Values::new(1, 4.0, rows, cols), targets: ids(rows, cols), logits, losses })
    }

    /// Factor that makes the sum over rows their mean.
    fn scale(&self) -> f32 {
        1.0 / self.values.rows.max(1) as f32
    }
}

impl Work for RowKernel {
    fn reset(&mut self) {
        self.values.fill(&mut self.logits);
        self.losses.fill(f32::NAN);
    }

    fn run(&mut self, pool: &mut Pool, _: usize, iterations: usize) -> Result<f64, GraphError> {
        let shares = self.on.isa.with(Shares(self))?;
        Ok(seconds(pool, shares, iterations))
    }

    fn outputs(&self) -> Vec<Output<'_>> {
        let logits = Output { name: "row", cols: self.values.cols, data: &self.logits };
        let losses = Output { name: "loss", cols: 1, data: &self.losses };
        match self.kind {
            Kind::Softmax => vec![logits],
            Kind::CrossEntropy(Pass::Forward) => vec![losses],
            Kind::CrossEntropy(Pass::Backward) => vec![losses, logits],
        }
    }

    fn compare(&self, found: &Found<'_>) -> Result<(), Wrong> {
        let Values { rows, cols, .. } = self.values;
        let relative = (16.0 + cols as f64 / 32.0) * EPSILON;
        for row in checked_rows(rows, cols) {
            let logits = self.values.matrix(row..row + 1, 0..cols);
            let Kind::CrossEntropy(pass) = self.kind else {
                let sum: f64 = logits.data.iter().map(|x| x.exp()).sum();
                for (col, x) in logits.data.into_iter().enumerate() {
                    found.close(0, (row, col), x.exp() / sum, 4e-6 * x.exp() / sum)?;
                }
                continue;
            };
            let target = &self.targets[row..=row];
            let loss = reference::cross_entropy(&logits, target)[0];
            found.close(0, (row, 0), loss, relative + EPSILON * loss)?;
            if pass == Pass::Backward {
                let scale = f64::from(self.scale());
                let want = reference::cross_entropy_backward(&logits, target, scale);
                for (col, want) in want.data.into_iter().enumerate() {
                    found.close(1, (row, col), want, relative * scale)?;
                }
            }
        }
        Ok(())
    }
}

struct Shares<'a>(&'a mut RowKernel);

impl<'a> WithIsa for Shares<'a> {
    type Output = Vec<Share<'a>>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let scale = self.0.scale();
        let RowKernel { kind, on, values: Values { rows, cols, .. }, targets, logits, losses } = self.0;
        let (kind, cols, targets): (_, _, &'a [u32]) = (*kind, *cols, targets);
        let ranges: Vec<_> = parts(on.threads).map(|part| part.range(*rows, ROW_GRANULE)).collect();
        let split = |mat| split(mat, ranges.iter().map(Range::len), MatMut::split_at_row);
        let (logits, losses) = (split(MatMut::new(logits, *rows, cols)), split(MatMut::new(losses, *rows, 1)));
        let share = |((range, mut logits), mut losses): ((Range<usize>, MatMut<'a>), MatMut<'a>)| -> Share<'a> {
            let targets = &targets[range];
            match kind {
                Kind::Softmax => Box::new(move || {
                    // The last row of a causal softmax sees every column.
                    for r in 0..logits.rows() {
                        causal_softmax(isa, logits.reborrow().rows_range(r..r + 1), cols.saturating_sub(1), 1.0, None);
                    }
                }),
                Kind::CrossEntropy(Pass::Forward) => {
                    Box::new(move || cross_entropy(isa, logits.reborrow().as_mat(), targets, losses.reborrow()))
                }
                Kind::CrossEntropy(Pass::Backward) => Box::new(move || {
                    cross_entropy_backward(isa, logits.reborrow(), targets, scale, losses.reborrow());
                }),
            }
        };
        ranges.iter().cloned().zip(logits).zip(losses).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use super::*;
    use crate::case::Problem;

    #[test]
    fn softmax_and_losses_hold() {
        holds(Problem::Softmax { rows: 3, cols: 50 });
        holds(Problem::Softmax { rows: 100, cols: 100 });
        for pass in [Pass::Forward, Pass::Backward] {
            holds(Problem::CrossEntropy { rows: 5, vocab: 33, pass });
            holds(Problem::CrossEntropy { rows: 40, vocab: 1000, pass });
        }
    }
}
