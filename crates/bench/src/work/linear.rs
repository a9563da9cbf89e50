//! Linear layers and their gradients, with weights in rows or stored as sessions have them.

use smallmind_graph::{GraphError, Op};
use smallmind_kernels::Format;
use smallmind_kernels::matmul::Layout;
use smallmind_kernels::reference::formats::{quantized, stored};

use super::engine::{Engine, OneOp, Writes};
use super::values::Values;
use super::{EPSILON, Found, Target, Wrong, sampled};
use crate::case::Product;

/// Seeds of the factors, and of what a product is added to.
pub(super) const SEED_A: u64 = 1;
pub(super) const SEED_B: u64 = 2;

/// Terms of a product up to which all of its elements are checked.
const ALL_CHECKED: usize = 1 << 19;
/// Rows and columns of a larger one of which a check takes the elements.
const CHECKED: (usize, usize) = (12, 24);

/// A product that an op computes with weights in rows of `f32`, if one does.
pub(super) fn flat(product: Product, on: Target) -> Result<Option<Engine>, GraphError> {
    let Product { m, n, k, .. } = product;
    let engine = match (product.a, product.b, product.accumulate) {
        (Layout::Normal, Layout::Transposed, false) => return linear(product, None, on).map(Some),
        (Layout::Normal, Layout::Normal, false) => {
            let mut op = OneOp::new(m);
            let (dy, a) = op.input(SEED_A, 0.5, k)?;
            let b = Values::new(SEED_B, 0.5, k, n);
            let weight = op.param(b)?;
            let dx = op.timed(Op::LinearGradInput { weight }, &[dy])?;
            op.result("C", dx[0]);
            op.ready(None, on, Box::new(move |found| compare(product, found, Factors::of(product, a, b), None)))?
        }
        (Layout::Transposed, Layout::Normal, true) => {
            let mut op = OneOp::new(k).writing(Writes::Gradients);
            let ((dy, a), (x, b)) = (op.input(SEED_A, 0.5, m)?, op.input(SEED_B, 0.5, n)?);
            let c = Values::new(SEED_B + 1, 0.5, m, n);
            let weight = op.param(c)?;
            op.timed(Op::LinearGradWeight { weight }, &[dy, x])?;
            op.gradient("C", weight);
            let before = Some(c.other(1));
            op.ready(None, on, Box::new(move |found| compare(product, found, Factors::of(product, a, b), before)))?
        }
        _ => return Ok(None),
    };
    Ok(Some(engine))
}

/// A linear layer of a session: its weight is stored in `format`, packed as products read it.
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
    let row = move |i: usize| match format {
        Format::Q8_0 => quantized(&a.row(i)),
        Format::F32 | Format::F16 | Format::Bf16 => stored(Format::F32, &a.row(i)),
    };
    let factors = move || Factors { row: Box::new(row), col: Box::new(move |j| stored(format, &b.row(j))) };
    op.ready(weights, on, Box::new(move |found| compare(product, found, factors(), None)))
}

/// The factors of a product as they are multiplied: a row of the left one, a column of the right one.
pub(super) struct Factors {
    pub(super) row: Box<dyn Fn(usize) -> Vec<f64>>,
    pub(super) col: Box<dyn Fn(usize) -> Vec<f64>>,
}

impl Factors {
    /// Factors in `f32`, which lie in the product's layouts.
    pub(super) fn of(product: Product, a: Values, b: Values) -> Self {
        let row = move |i| match product.a {
            Layout::Normal => (0..product.k).map(|t| a.wide(i, t)).collect(),
            Layout::Transposed => (0..product.k).map(|t| a.wide(t, i)).collect(),
        };
        let col = move |j| match product.b {
            Layout::Normal => (0..product.k).map(|t| b.wide(t, j)).collect(),
            Layout::Transposed => (0..product.k).map(|t| b.wide(j, t)).collect(),
        };
        Self { row: Box::new(row), col: Box::new(col) }
    }
}

/// Holds a product, the one output of its case, against sums in `f64`; `before` is what it was added to.
pub(super) fn compare(
    product: Product,
    found: &Found<'_>,
    factors: Factors,
    before: Option<Values>,
) -> Result<(), Wrong> {
    let Product { m, n, k, .. } = product;
    let all = m * n * k <= ALL_CHECKED;
    let (rows, cols) = (sampled(m, if all { m } else { CHECKED.0 }), sampled(n, if all { n } else { CHECKED.1 }));
    let cols: Vec<_> = cols.into_iter().map(|col| (col, (factors.col)(col))).collect();
    // The kernels' bound is k + 4 roundings of the sum of magnitudes. They add up like a random walk: far below that, while a term that is
    // missing or wrong lies far above.
    let relative = EPSILON * (8.0 + 2.0 * (k as f64).sqrt()).min(k as f64 + 4.0);
    for row in rows {
        let left = (factors.row)(row);
        for (col, right) in &cols {
            let old = before.map_or(0.0, |before| before.wide(row, *col));
            let terms = || left.iter().zip(right).map(|(a, b)| a * b);
            let size = terms().map(f64::abs).sum::<f64>() + old.abs();
            found.close(0, (row, *col), terms().sum::<f64>() + old, relative * size)?;
        }
    }
    Ok(())
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
            for (m, n, k) in [(1, 1, 32), (1, 100, 512), (5, 70, 64), (20, 48, 320), (70, 5, 32)] {
                holds_in(Problem::PackedMatmul { m, n, k }, format);
            }
        }
        holds(Problem::PackedMatmul { m: 5, n: 70, k: 33 });
    }
}
