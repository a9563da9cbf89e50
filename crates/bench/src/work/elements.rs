//! What is computed element by element or row by row: activations, softmax, rope. All are cut by rows.

use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::activation::{Gelu, gelu, gelu_backward, swiglu, swiglu_backward};
use smallmind_kernels::reference::{self, Matrix};
use smallmind_kernels::rope::{Direction, Rope, RopeTable, rope};
use smallmind_kernels::softmax::causal_softmax;
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Share, Work, Wrong, noise, noisy_within, row_parts, sampled, split_rows};
use crate::case::Pass;

/// Rows that a check looks at.
const SAMPLES: usize = 9;
/// The base of rope's wavelengths.
const THETA: f64 = 10_000.0;
/// Seed of the input's noise.
const SEED: u64 = 1;

/// What is computed.
enum Operation {
    Gelu(Gelu, Pass),
    SwiGlu(Pass),
    /// In place, over whole rows.
    Softmax,
    Rope {
        table: RopeTable,
        positions: Vec<u32>,
        heads: usize,
    },
}

/// The memory of an operation by rows.
pub(super) struct Elements {
    operation: Operation,
    rows: usize,
    /// Columns of the input.
    width: usize,
    /// Columns of the output.
    cols: usize,
    x: Buffer,
    dy: Buffer,
    out: Buffer,
}

impl Elements {
    fn new(operation: Operation, rows: usize, width: usize, cols: usize) -> Result<Self, GraphError> {
        let dy_len = match operation {
            Operation::Gelu(_, Pass::Backward) => rows * width,
            Operation::SwiGlu(Pass::Backward) => rows * width / 2,
            _ => 0,
        };
        let x_len = if matches!(operation, Operation::Softmax) { 0 } else { rows * width };
        let (x, dy) = (noisy_within(4.0, SEED, x_len)?, noisy_within(0.5, SEED + 1, dy_len)?);
        Ok(Self { operation, rows, width, cols, x, dy, out: Buffer::zeroed(rows * cols)? })
    }

    pub(super) fn gelu(elements: usize, kind: Gelu, pass: Pass) -> Result<Self, GraphError> {
        let cols = [1024, 64, 8].into_iter().find(|cols| elements.is_multiple_of(*cols)).unwrap_or(1);
        Self::new(Operation::Gelu(kind, pass), elements / cols, cols, cols)
    }

    pub(super) fn swiglu(rows: usize, cols: usize, pass: Pass) -> Result<Self, GraphError> {
        Self::new(Operation::SwiGlu(pass), rows, 2 * cols, if pass == Pass::Forward { cols } else { 2 * cols })
    }

    pub(super) fn softmax(rows: usize, cols: usize) -> Result<Self, GraphError> {
        Self::new(Operation::Softmax, rows, cols, cols)
    }

    pub(super) fn rope(rows: usize, heads: usize, head_dim: usize) -> Result<Self, GraphError> {
        let table = RopeTable::new(head_dim, THETA, None, rows);
        let positions = (0..rows).map(|r| r as u32).collect();
        Self::new(Operation::Rope { table, positions, heads }, rows, heads * head_dim, heads * head_dim)
    }

    /// Row `r` of the input and of the gradient.
    fn inputs(&self, r: usize) -> (Matrix, Matrix) {
        let row = |data: &[f32], cols: usize| match data.get(r * cols..(r + 1) * cols) {
            Some(row) => Matrix::new(1, cols, row.iter().map(|x| f64::from(*x)).collect()),
            None => Matrix::zeros(1, 0),
        };
        let dy_cols = self.dy.len() / self.rows.max(1);
        if let Operation::Softmax = self.operation {
            let scores = Matrix::from_fn(1, self.cols, |_, c| f64::from(8.0 * noise(SEED, r * self.cols + c)));
            return (scores, Matrix::zeros(1, 0));
        }
        (row(&self.x, self.width), row(&self.dy, dy_cols))
    }

    fn check_row(&self, r: usize) -> Result<(), Wrong> {
        let (x, dy) = self.inputs(r);
        // Errors are some units in the last place of the factors, which are at most `size`.
        let (want, size) = match &self.operation {
            Operation::Gelu(kind, Pass::Forward) => (reference::activation::gelu(*kind, &x), 4.0),
            Operation::Gelu(kind, Pass::Backward) => (reference::activation::gelu_backward(*kind, &x, &dy), 4.0),
            Operation::SwiGlu(Pass::Forward) => (reference::activation::swiglu(&x), 16.0),
            Operation::SwiGlu(Pass::Backward) => (reference::activation::swiglu_backward(&x, &dy), 16.0),
            Operation::Softmax => {
                let sum: f64 = x.data.iter().map(|x| x.exp()).sum();
                (x.map(|x| x.exp() / sum), 55.0 / sum)
            }
            Operation::Rope { table, positions, heads } => {
                (reference::rope::rope(&x, &positions[r..=r], table, *heads, Direction::Forward), 6.0)
            }
        };
        let bound = 16.0 * f64::from(f32::EPSILON) * size;
        for c in 0..self.cols {
            let got = self.out[r * self.cols + c];
            Wrong::unless_close(|| format!("row {r}, column {c}"), got, want.at(0, c), bound)?;
        }
        Ok(())
    }
}

impl Work for Elements {
    fn reset(&mut self) {
        match self.operation {
            Operation::Softmax => self.out.iter_mut().enumerate().for_each(|(i, x)| *x = 8.0 * noise(SEED, i)),
            _ => self.out.fill(f32::NAN),
        }
    }

    fn shares(&mut self, isa: IsaKind, _: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        Ok(isa.with(Shares { elements: self, threads })?)
    }

    fn check(&self) -> Result<(), Wrong> {
        Wrong::unless_finite("the output", &self.out)?;
        sampled(self.rows, SAMPLES).into_iter().try_for_each(|r| self.check_row(r))
    }
}

struct Shares<'a> {
    elements: &'a mut Elements,
    threads: usize,
}

impl<'a> WithIsa for Shares<'a> {
    type Output = Vec<Share<'a>>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Elements { operation, rows, width, cols, x, dy, out } = self.elements;
        let (rows, width, cols) = (*rows, *width, *cols);
        let ranges = row_parts(rows, x.len() + dy.len() + out.len(), self.threads);
        let outs = split_rows(MatMut::new(out, rows, cols), &ranges);
        let (x_cols, dy_cols) = (if x.is_empty() { 0 } else { width }, dy.len() / rows.max(1));
        let (x, dy) = (Mat::new(x, rows, x_cols), Mat::new(dy, rows, dy_cols));
        let operation: &'a Operation = operation;
        let share = |(range, mut out): (std::ops::Range<usize>, MatMut<'a>)| -> Share<'a> {
            let (x, dy) = (x.rows_range(range.clone()), dy.rows_range(range.clone()));
            match operation {
                Operation::Gelu(kind, Pass::Forward) => Box::new(move |_| gelu(isa, *kind, x, out.reborrow())),
                Operation::Gelu(kind, Pass::Backward) => {
                    Box::new(move |_| gelu_backward(isa, *kind, x, dy, out.reborrow()))
                }
                Operation::SwiGlu(Pass::Forward) => Box::new(move |_| swiglu(isa, x, out.reborrow())),
                Operation::SwiGlu(Pass::Backward) => Box::new(move |_| swiglu_backward(isa, x, dy, out.reborrow())),
                Operation::Softmax => Box::new(move |_| {
                    // A row of a causal softmax that stands behind all others sees every column.
                    for r in 0..out.rows() {
                        causal_softmax(isa, out.reborrow().rows_range(r..r + 1), cols.saturating_sub(1), 1.0, None);
                    }
                }),
                Operation::Rope { table, positions, heads } => {
                    let positions = &positions[range];
                    Box::new(move |_| {
                        let (heads, direction, out) = (*heads, Direction::Forward, out.reborrow());
                        rope(isa, Rope { x, positions, table, heads, direction, out });
                    })
                }
            }
        };
        ranges.iter().cloned().zip(outs).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use super::*;
    use crate::case::Problem;

    #[test]
    fn activations_softmax_and_rope_hold() {
        for pass in [Pass::Forward, Pass::Backward] {
            for elements in [7, 128, 20_480] {
                for kind in [Gelu::Exact, Gelu::Tanh] {
                    holds(Problem::Gelu { elements, kind, pass });
                }
            }
            holds(Problem::SwiGlu { rows: 5, cols: 33, pass });
            holds(Problem::SwiGlu { rows: 200, cols: 64, pass });
        }
        holds(Problem::Softmax { rows: 3, cols: 50 });
        holds(Problem::Softmax { rows: 100, cols: 100 });
        holds(Problem::Rope { rows: 9, heads: 3, head_dim: 8 });
        holds(Problem::Rope { rows: 90, heads: 3, head_dim: 64 });
    }
}
