//! What is computed element by element or row by row: activations, rope, embeddings.

use smallmind_graph::op::{Index, RopeSpec};
use smallmind_graph::{GraphError, Op};
use smallmind_kernels::activation::Gelu;
use smallmind_kernels::reference::{Matrix, activation, rope as rope_reference};
use smallmind_kernels::rope::{Direction, RopeTable};

use super::engine::{Engine, OneOp, Writes};
use super::values::{Values, ids};
use super::{EPSILON, Found, Target, Wrong, checked_rows};
use crate::case::Pass;

/// The base of rope's wavelengths.
const THETA: f64 = 10_000.0;
/// Largest magnitude of the inputs of activations and of rope.
const LIMIT: f32 = 4.0;

/// Compares rows of the one output with `want`, which returns a row and the error allowed for each of its elements.
fn compare_rows(
    found: &Found<'_>,
    rows: impl IntoIterator<Item = usize>,
    want: impl Fn(usize) -> (Matrix, Matrix),
) -> Result<(), Wrong> {
    for row in rows {
        let (want, bound) = want(row);
        for col in 0..want.cols {
            found.close(0, (row, col), want.at(0, col), bound.at(0, col))?;
        }
    }
    Ok(())
}

/// One row, for a reference.
fn row_of(values: Values, row: usize) -> Matrix {
    values.matrix(row..row + 1, 0..values.cols)
}

/// GELU of `elements`, in rows of up to 1024, or its gradient.
pub(super) fn gelu(elements: usize, kind: Gelu, pass: Pass, on: Target) -> Result<Engine, GraphError> {
    let cols = [1024, 64, 8].into_iter().find(|cols| elements.is_multiple_of(*cols)).unwrap_or(1);
    let rows = elements / cols;
    let mut op = OneOp::new(rows);
    let (x, values) = op.input(1, LIMIT, cols)?;
    if pass == Pass::Forward {
        let y = op.timed(Op::Gelu(kind), &[x])?;
        op.result("y", y[0]);
        let want = move |row| {
            let x = row_of(values, row);
            (activation::gelu(kind, &x), x.map(|x| 2e-7 * x.abs()))
        };
        return op.ready(None, on, Box::new(move |found| compare_rows(found, checked_rows(rows, cols), want)));
    }
    let (dy, gradient) = op.input(2, 0.5, cols)?;
    let dx = op.timed(Op::GeluGrad(kind), &[x, dy])?;
    op.result("dx", dx[0]);
    let want = move |row| {
        let dy = row_of(gradient, row);
        (activation::gelu_backward(kind, &row_of(values, row), &dy), dy.map(|dy| 4e-7 * dy.abs()))
    };
    op.ready(None, on, Box::new(move |found| compare_rows(found, checked_rows(rows, cols), want)))
}

/// SwiGLU from `2·cols` columns to `cols`, or its gradient.
pub(super) fn swiglu(rows: usize, cols: usize, pass: Pass, on: Target) -> Result<Engine, GraphError> {
    let mut op = OneOp::new(rows);
    let (x, values) = op.input(1, LIMIT, 2 * cols)?;
    if pass == Pass::Forward {
        let y = op.timed(Op::SwiGlu, &[x])?;
        op.result("y", y[0]);
        let want = move |row| {
            let y = activation::swiglu(&row_of(values, row));
            let bound = y.map(|y| 5e-7 * y.abs());
            (y, bound)
        };
        return op.ready(None, on, Box::new(move |found| compare_rows(found, checked_rows(rows, cols), want)));
    }
    let (dy, gradient) = op.input(2, 0.5, cols)?;
    let dx = op.timed(Op::SwiGluGrad, &[x, dy])?;
    op.result("dx", dx[0]);
    let want = move |row| {
        let (x, dy) = (row_of(values, row), row_of(gradient, row));
        let bound = Matrix::from_fn(1, 2 * cols, |_, c| {
            let (gate, up, dy) = (x.at(0, c % cols), x.at(0, cols + c % cols), dy.at(0, c % cols));
            let (s, rest) = (1.0 / (1.0 + (-gate).exp()), 1.0 / (1.0 + gate.exp()));
            let slope = 1.0 + gate.abs() + gate.abs() * rest;
            1e-6 * (dy * s).abs() * if c < cols { up.abs() * slope } else { gate.abs() }
        });
        (activation::swiglu_backward(&x, &dy), bound)
    };
    op.ready(None, on, Box::new(move |found| compare_rows(found, checked_rows(rows, 2 * cols), want)))
}

/// Rotary position embedding of one sequence.
pub(super) fn rope(rows: usize, heads: usize, head_dim: usize, on: Target) -> Result<Engine, GraphError> {
    let cols = heads * head_dim;
    let mut op = OneOp::new(rows);
    let (x, values) = op.input(1, LIMIT, cols)?;
    let y = op.timed(Op::Rope { rope: RopeSpec::new(head_dim, THETA), heads, direction: Direction::Forward }, &[x])?;
    op.result("y", y[0]);
    let table = RopeTable::new(head_dim, THETA, None, rows);
    let want = move |row: usize| {
        let x = row_of(values, row);
        // Each element is computed from two: itself, and the one half a head away.
        let partner = |c: usize| if (2 * c / head_dim).is_multiple_of(2) { c + head_dim / 2 } else { c - head_dim / 2 };
        let bound = Matrix::from_fn(1, cols, |_, c| 2.0 * EPSILON * x.at(0, c).hypot(x.at(0, partner(c))));
        (rope_reference::rope(&x, &[row as u32], &table, heads, Direction::Forward), bound)
    };
    op.ready(None, on, Box::new(move |found| compare_rows(found, checked_rows(rows, cols), &want)))
}

/// Rows of a table, or their gradients added to it.
pub(super) fn embedding(rows: usize, vocab: usize, cols: usize, pass: Pass, on: Target) -> Result<Engine, GraphError> {
    let tokens = ids(rows, vocab);
    let entries = Values::new(1, 0.5, vocab, cols);
    let writes = if pass == Pass::Backward { Writes::Gradients } else { Writes::Values };
    let mut op = OneOp::of_tokens(tokens.clone()).writing(writes);
    let table = op.param(entries)?;
    if pass == Pass::Forward {
        let y = op.timed(Op::Embedding { table, index: Index::Tokens }, &[])?;
        op.result("y", y[0]);
        let want = move |row: usize| (row_of(entries, tokens[row] as usize), Matrix::zeros(1, cols));
        return op.ready(None, on, Box::new(move |found| compare_rows(found, checked_rows(rows, cols), &want)));
    }
    let (dy, gradient) = op.input(2, 0.5, cols)?;
    op.timed(Op::EmbeddingGrad { table, index: Index::Tokens }, &[dy])?;
    op.gradient("dtable", table);
    // Only the rows of some tokens are checked in a large table.
    let checked: Vec<usize> = match checked_rows(vocab, cols) {
        all if all.len() == vocab => all,
        _ => checked_rows(rows, cols).into_iter().map(|row| tokens[row] as usize).collect(),
    };
    // A row of the table gets the sum of the gradients of all tokens with its id.
    let want = move |row: usize| {
        let same: Vec<usize> = (0..rows).filter(|r| tokens[*r] as usize == row).collect();
        let terms = |of: &dyn Fn(f64) -> f64| {
            let before = entries.other(1);
            Matrix::from_fn(1, cols, |_, c| {
                of(before.wide(row, c)) + same.iter().map(|r| of(gradient.wide(*r, c))).sum::<f64>()
            })
        };
        (terms(&|x| x), terms(&|x| EPSILON * same.len() as f64 * x.abs()))
    };
    op.ready(None, on, Box::new(move |found| compare_rows(found, checked.iter().copied(), &want)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use super::*;
    use crate::case::Problem;

    #[test]
    fn activations_hold() {
        for pass in [Pass::Forward, Pass::Backward] {
            for elements in [7, 128, 20_480] {
                for kind in [Gelu::Exact, Gelu::Tanh] {
                    holds(Problem::Gelu { elements, kind, pass });
                }
            }
            holds(Problem::SwiGlu { rows: 5, cols: 33, pass });
            holds(Problem::SwiGlu { rows: 200, cols: 64, pass });
        }
    }

    #[test]
    fn rope_and_embeddings_hold() {
        holds(Problem::Rope { rows: 9, heads: 3, head_dim: 8 });
        holds(Problem::Rope { rows: 90, heads: 3, head_dim: 64 });
        for pass in [Pass::Forward, Pass::Backward] {
            holds(Problem::Embedding { rows: 50, vocab: 20, cols: 33, pass });
            holds(Problem::Embedding { rows: 500, vocab: 20, cols: 64, pass });
        }
    }
}
