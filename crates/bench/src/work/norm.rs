//! LayerNorm and RMSNorm.

use smallmind_graph::op::Norm as Kind;
use smallmind_graph::{GraphError, Op};
use smallmind_kernels::reference::norm as reference;

use super::engine::{Engine, OneOp, Writes};
use super::values::Values;
use super::{EPSILON, Found, ROWS_CHECKED, Target, Wrong, checked_rows, sampled};
use crate::case::{NormKind, Pass};

/// Added to the variance.
const EPS: f32 = 1e-5;

/// A norm and its operands.
#[derive(Clone, Copy)]
struct Norm {
    kind: NormKind,
    rows: usize,
    x: Values,
    weight: Values,
    bias: Values,
}

/// A norm, or its gradients.
pub(super) fn norm(kind: NormKind, rows: usize, cols: usize, pass: Pass, on: Target) -> Result<Engine, GraphError> {
    let writes = if pass == Pass::Backward { Writes::Gradients } else { Writes::Values };
    let mut op = OneOp::new(rows).writing(writes);
    let (x, values) = op.input(1, 0.5, cols)?;
    let vector = |seed| Values::new(seed, 0.5, 1, cols);
    let norm = Norm { kind, rows, x: values, weight: vector(3), bias: vector(4) };
    let (weight, bias) = (op.param(norm.weight)?, op.param(norm.bias)?);
    let kind = match kind {
        NormKind::Layer => Kind::Layer { weight, bias: Some(bias), eps: EPS },
        NormKind::Rms => Kind::Rms { weight, eps: EPS },
    };
    if pass == Pass::Forward {
        let y = op.timed(Op::Norm(kind), &[x])?;
        op.result("y", y[0]);
        return op.ready(None, on, Box::new(move |found| norm.compare_forward(found)));
    }
    let y = op.before(Op::Norm(kind), &[x])?;
    let (dy, gradient) = op.input(2, 0.5, cols)?;
    let dx = op.timed(Op::NormGrad(kind), &[dy, x, y[1]])?;
    op.result("dx", dx[0]);
    op.gradient("dweight", weight);
    if norm.kind == NormKind::Layer {
        op.gradient("dbias", bias);
    }
    op.ready(None, on, Box::new(move |found| norm.compare_backward(gradient, found)))
}

fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |most, x| most.max(x.abs()))
}

impl Norm {
    /// What is subtracted from a row, and the factor after that.
    fn moments(&self, row: usize) -> (f64, f64) {
        let x = self.x.row(row);
        let n = x.len() as f64;
        let mean = match self.kind {
            NormKind::Layer => x.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
            NormKind::Rms => 0.0,
        };
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        (mean, 1.0 / (variance + f64::from(EPS)).sqrt())
    }

    /// How many roundings of a row's sums the kernels' bounds allow.
    fn steps(&self) -> f64 {
        16.0 + self.x.cols as f64 / 32.0
    }

    fn compare_forward(&self, found: &Found<'_>) -> Result<(), Wrong> {
        let (cols, eps) = (self.x.cols, f64::from(EPS));
        let [weight, bias] = [self.weight, self.bias].map(|vector| vector.matrix(0..1, 0..cols).data);
        for row in checked_rows(self.rows, cols) {
            let x = self.x.matrix(row..row + 1, 0..cols);
            let want = match self.kind {
                NormKind::Layer => reference::layer_norm(&x, &weight, Some(&bias), eps).0,
                NormKind::Rms => reference::rms_norm(&x, &weight, eps).0,
            };
            let reach = greatest(x.data.iter().copied()) * self.moments(row).1;
            for (col, want) in want.data.into_iter().enumerate() {
                let bound = EPSILON * (self.steps() * reach * weight[col].abs() + want.abs());
                found.close(0, (row, col), want, bound)?;
            }
        }
        Ok(())
    }

    fn compare_backward(&self, dy: Values, found: &Found<'_>) -> Result<(), Wrong> {
        let (cols, eps) = (self.x.cols, f64::from(EPS));
        let weight = self.weight.matrix(0..1, 0..cols).data;
        for row in checked_rows(self.rows, cols) {
            let [x, dy] = [self.x, dy].map(|values| values.matrix(row..row + 1, 0..cols));
            let want = match self.kind {
                NormKind::Layer => reference::layer_norm_backward(&dy, &x, &weight, eps).0,
                NormKind::Rms => reference::rms_norm_backward(&dy, &x, &weight, eps).0,
            };
            let rstd = self.moments(row).1;
            let reach = 1.0 + greatest(x.data.iter().copied()) * rstd;
            let size = rstd * greatest(dy.data.iter().zip(&weight).map(|(dy, w)| dy * w)) * reach * reach;
            for (col, want) in want.data.into_iter().enumerate() {
                found.close(0, (row, col), want, EPSILON * (self.steps() * size + want.abs()))?;
            }
        }
        self.compare_params(dy, found)
    }

    /// The gradients of scale and shift in some columns: sums over all rows.
    fn compare_params(&self, dy: Values, found: &Found<'_>) -> Result<(), Wrong> {
        let cols = self.x.cols;
        let moments: Vec<(f64, f64)> = (0..self.rows).map(|row| self.moments(row)).collect();
        let all = self.rows * cols <= super::ALL_CHECKED;
        let relative = EPSILON * (24 + self.rows / 256) as f64;
        for col in sampled(cols, if all { cols } else { ROWS_CHECKED }) {
            let [mut weight, mut bias] = [self.weight, self.bias].map(|vector| vector.other(1).wide(0, col));
            let [mut size, mut bias_size] = [weight.abs(), bias.abs()];
            for (row, (mean, rstd)) in moments.iter().enumerate() {
                let (x, dy) = (self.x.wide(row, col), dy.wide(row, col));
                weight += dy * (x - mean) * rstd;
                size += dy.abs() * (x.abs() + mean.abs()) * rstd;
                bias += dy;
                bias_size += dy.abs();
            }
            found.close(1, (0, col), weight, relative * size)?;
            if self.kind == NormKind::Layer {
                found.close(2, (0, col), bias, relative * bias_size)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use super::*;
    use crate::case::Problem;

    #[test]
    fn norms_hold() {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for pass in [Pass::Forward, Pass::Backward] {
                for (rows, cols) in [(1, 40), (13, 40), (300, 65)] {
                    holds(Problem::Norm { kind, rows, cols, pass });
                }
            }
        }
    }

    /// More rows than a sequence has, so that inputs repeat, and too many to check them all.
    #[test]
    fn a_norm_of_many_rows_holds() {
        let (kind, rows, cols) = (NormKind::Layer, 5000, 40);
        for pass in [Pass::Forward, Pass::Backward] {
            let on = Target { isa: smallmind_simd::IsaKind::best(), threads: 2 };
            let mut work = norm(kind, rows, cols, pass, on).unwrap();
            super::super::Work::reset(&mut work);
            let mut pool = smallmind_graph::Pool::new(2).unwrap();
            super::super::Work::run(&mut work, &mut pool, 0, 1).unwrap();
            assert_eq!(super::super::Work::check(&work), Ok(()));
        }
    }
}
