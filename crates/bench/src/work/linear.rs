//! Linear layers and their gradients, with weights in rows or stored as sessions have them.

use smallmind_graph::{GraphError, Op};
use smallmind_kernels::matmul::{Layout, rounds_to_bf16};
use smallmind_kernels::reference::formats::{quantized, stored};
use smallmind_kernels::{Format, FormatKind};

use super::engine::{Engine, OneOp, Writes};
use super::values::Values;
use super::{EPSILON, Found, Target, Wrong, sampled};
use crate::case::Product;

/// Seeds of the factors and of the matrix to which a product is added.
pub(super) const SEED_A: u64 = 1;
pub(super) const SEED_B: u64 = 2;

/// Up to this many terms, all elements of a product are checked.
const ALL_CHECKED: usize = 1 << 19;
/// How many rows and columns of a larger product are checked.
const CHECKED: (usize, usize) = (12, 24);

/// A product that an op computes with weights in rows of `f32`, if one does.
pub(super) fn flat(product: Product, on: Target) -> Result<Option<Engine>, GraphError> {
    let Product { m, n, k, .. } = product;
    match (product.a, product.b, product.accumulate) {
        (Layout::Normal, Layout::Transposed, false) => linear(product, None, on).map(Some),
        (Layout::Normal, Layout::Normal, false) => {
            let mut op = OneOp::new(m);
            let (dy, a) = op.input(SEED_A, 0.5, k)?;
            let b = Values::new(SEED_B, 0.5, k, n);
            let weight = op.param(b)?;
            let dx = op.timed(Op::LinearGradInput { weight }, &[dy])?;
            op.result("C", dx[0]);
            let reference = Reference::new(product, a, b);
            op.ready(None, on, Box::new(move |found| reference.compare(found))).map(Some)
        }
        (Layout::Transposed, Layout::Normal, true) => {
            let mut op = OneOp::new(k).writing(Writes::Gradients);
            let ((dy, a), (x, b)) = (op.input(SEED_A, 0.5, m)?, op.input(SEED_B, 0.5, n)?);
            let c = Values::new(SEED_B + 1, 0.5, m, n);
            let weight = op.param(c)?;
            op.timed(Op::LinearGradWeight { weight }, &[dy, x])?;
            op.gradient("C", weight);
            let reference = Reference { before: Some(c.other(1)), ..Reference::new(product, a, b) };
            op.ready(None, on, Box::new(move |found| reference.compare(found))).map(Some)
        }
        _ => Ok(None),
    }
}

/// A linear layer of a session: its weight is stored in `format`, packed for products.
pub(super) fn packed(m: usize, n: usize, k: usize, format: Format, on: Target) -> Result<Engine, GraphError> {
    linear(Product::nt(m, n, k), Some(format), on)
}

fn linear(product: Product, weights: Option<Format>, on: Target) -> Result<Engine, GraphError> {
    let Product { m, n, k, .. } = product;
    let mut op = OneOp::new(m);
    let (x, a) = op.input(SEED_A, 0.5, k)?;
    let b = Values::new(SEED_B, 0.5, n, k);
    let weight = op.param(b)?;
    let y = op.timed(Op::Linear { weight, bias: None }, &[x])?;
    op.result("C", y[0]);
    let format = weights.unwrap_or(Format::F32);
    // Rows that are multiplied by blocks are rounded to bytes, some to bf16; others stay f32.
    let is_narrow = format.kind() == FormatKind::Blocks || rounds_to_bf16(on.isa, format, k);
    let of_rows = if is_narrow { format } else { Format::F32 };
    let reference = Reference { formats: [of_rows, format], ..Reference::new(product, a, b) };
    op.ready(weights, on, Box::new(move |found| reference.compare(found)))
}

/// The expected answer of a product.
#[derive(Clone, Copy)]
pub(super) struct Reference {
    product: Product,
    a: Values,
    b: Values,
    /// What the factors are rounded to before they are multiplied.
    pub(super) formats: [Format; 2],
    /// What the product is added to.
    pub(super) before: Option<Values>,
}

impl Reference {
    /// The reference for factors in `f32`, in the product's layouts.
    pub(super) fn new(product: Product, a: Values, b: Values) -> Self {
        Self { product, a, b, formats: [Format::F32; 2], before: None }
    }

    fn row(&self, i: usize) -> Vec<f64> {
        let at = |t| if self.product.a == Layout::Normal { self.a.at(i, t) } else { self.a.at(t, i) };
        let row: Vec<f32> = (0..self.product.k).map(at).collect();
        if self.formats[0].kind() == FormatKind::Blocks { quantized(&row) } else { stored(self.formats[0], &row) }
    }

    fn col(&self, j: usize) -> Vec<f64> {
        let at = |t| if self.product.b == Layout::Normal { self.b.at(t, j) } else { self.b.at(j, t) };
        let col: Vec<f32> = (0..self.product.k).map(at).collect();
        stored(self.formats[1], &col)
    }

    /// Compares the one output of a case with sums in `f64`.
    pub(super) fn compare(&self, found: &Found<'_>) -> Result<(), Wrong> {
        let Product { m, n, k, .. } = self.product;
        let all = m * n * k <= ALL_CHECKED;
        let (rows, cols) = (sampled(m, if all { m } else { CHECKED.0 }), sampled(n, if all { n } else { CHECKED.1 }));
        let cols: Vec<_> = cols.into_iter().map(|col| (col, self.col(col))).collect();
        // The kernels' bound is k + 4 roundings of the sum of magnitudes. Actual roundings add up to far less, like a
        // random walk; a missing or wrong term is far more.
        let relative = EPSILON * (8.0 + 2.0 * (k as f64).sqrt()).min(k as f64 + 4.0);
        for row in rows {
            let left = self.row(row);
            for (col, right) in &cols {
                let old = self.before.map_or(0.0, |before| before.wide(row, *col));
                let terms = || left.iter().zip(right).map(|(a, b)| a * b);
                let size = terms().map(f64::abs).sum::<f64>() + old.abs();
                found.close(0, (row, *col), terms().sum::<f64>() + old, relative * size)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{holds, holds_in};
    use crate::case::{Problem, Product};
    use smallmind_kernels::Format;

    #[test]
    fn products_of_all_forms_hold() {
        for (m, n, k) in [(1, 1, 1), (5, 70, 33), (70, 5, 33), (16, 48, 300), (40, 40, 40)] {
            for product in [Product::nn, Product::nt, Product::tn] {
                holds(Problem::Matmul(product(m, n, k)));
                holds(Problem::Matmul(Product { accumulate: true, ..product(m, n, k) }));
            }
        }
        holds(Problem::Gemv { n: 100, k: 77 });
    }

    #[test]
    fn products_with_stored_weights_hold_in_every_format() {
        for format in Format::ALL {
            // Weights of deep blocks have rows enough that what pads the last strip counts little.
            let deep = [(1, 100, 512), (5, 70, 256), (20, 48, 256)];
            let shallow = [(1, 1, 32), (1, 100, 512), (5, 70, 64), (20, 48, 320), (70, 5, 32)];
            let shapes = if format.divides(32) { &shallow[..] } else { &deep[..] };
            for &(m, n, k) in shapes {
                holds_in(Problem::PackedMatmul { m, n, k }, format);
            }
        }
        holds(Problem::PackedMatmul { m: 5, n: 70, k: 33 });
    }
}
