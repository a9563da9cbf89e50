//! LayerNorm and RMSNorm: the result and the input's gradient by rows, the parameters' gradients by columns.

use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::norm::{
    LayerNorm, LayerNormBackward, NormParamBackward, RmsNorm, RmsNormBackward, RmsNormParamBackward, layer_norm,
    layer_norm_backward, layer_norm_param_backward, rms_norm, rms_norm_backward, rms_norm_param_backward,
};
use smallmind_kernels::reference::{Matrix, norm};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Share, Work, Wrong, col_parts, noisy, row_parts, sampled, split_cols, split_rows};
use crate::case::{NormKind, Pass};

/// Added to the variance.
const EPS: f32 = 1e-5;
/// Rows and columns that a check looks at.
const SAMPLES: usize = 9;

/// The memory of a norm.
pub(super) struct Norm {
    kind: NormKind,
    pass: Pass,
    rows: usize,
    cols: usize,
    x: Buffer,
    dy: Buffer,
    weight: Buffer,
    bias: Buffer,
    /// The result, or the gradient of the input.
    out: Buffer,
    /// Mean and rstd of each row, or rstd alone.
    stats: Buffer,
    dweight: Buffer,
    dbias: Buffer,
}

impl Norm {
    pub(super) fn new(kind: NormKind, rows: usize, cols: usize, pass: Pass) -> Result<Self, GraphError> {
        let backward = pass == Pass::Backward;
        let mut norm = Self {
            kind,
            pass,
            rows,
            cols,
            x: noisy(1, rows * cols)?,
            dy: if backward { noisy(2, rows * cols)? } else { Buffer::zeroed(0)? },
            weight: noisy(3, cols)?,
            bias: noisy(4, cols)?,
            out: Buffer::zeroed(rows * cols)?,
            stats: Buffer::zeroed(rows * Self::stats_cols(kind))?,
            dweight: Buffer::zeroed(cols)?,
            dbias: Buffer::zeroed(cols)?,
        };
        if backward {
            for r in 0..rows {
                let (mean, rstd) = norm.moments(r);
                match kind {
                    NormKind::Layer => norm.stats[2 * r..2 * r + 2].copy_from_slice(&[mean as f32, rstd as f32]),
                    NormKind::Rms => norm.stats[r] = rstd as f32,
                }
            }
        }
        Ok(norm)
    }

    fn stats_cols(kind: NormKind) -> usize {
        match kind {
            NormKind::Layer => 2,
            NormKind::Rms => 1,
        }
    }

    fn row(&self, data: &[f32], r: usize) -> Vec<f64> {
        data[r * self.cols..(r + 1) * self.cols].iter().map(|x| f64::from(*x)).collect()
    }

    /// What is subtracted from row `r`, and what it is then multiplied by.
    fn moments(&self, r: usize) -> (f64, f64) {
        let row = &self.x[r * self.cols..(r + 1) * self.cols];
        let n = self.cols as f64;
        let mean = match self.kind {
            NormKind::Layer => row.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
            NormKind::Rms => 0.0,
        };
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        (mean, 1.0 / (variance + f64::from(EPS)).sqrt())
    }

    /// One row of the output against its twin, with the bound that the kernel states.
    fn check_row(&self, r: usize) -> Result<(), Wrong> {
        let wide = |data: &[f32]| data.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (weight, bias) = (wide(&self.weight), wide(&self.bias));
        let x = Matrix::new(1, self.cols, self.row(&self.x, r));
        let eps = f64::from(EPS);
        let want = match (self.pass, self.kind) {
            (Pass::Forward, NormKind::Layer) => norm::layer_norm(&x, &weight, Some(&bias), eps).0,
            (Pass::Forward, NormKind::Rms) => norm::rms_norm(&x, &weight, eps).0,
            (Pass::Backward, kind) => {
                let dy = Matrix::new(1, self.cols, self.row(&self.dy, r));
                match kind {
                    NormKind::Layer => norm::layer_norm_backward(&dy, &x, &weight, eps).0,
                    NormKind::Rms => norm::rms_norm_backward(&dy, &x, &weight, eps).0,
                }
            }
        };
        let rstd = self.moments(r).1;
        let most = |v: &[f64]| v.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let size = match self.pass {
            Pass::Forward => most(&x.data) * rstd * most(&weight) + 0.5,
            Pass::Backward => rstd * 0.5 * most(&weight) * (1.0 + most(&x.data) * rstd).powi(2),
        };
        let bound = (16.0 + self.cols as f64 / 32.0) * f64::from(f32::EPSILON) * size;
        for c in 0..self.cols {
            let got = self.out[r * self.cols + c];
            Wrong::unless_close(|| format!("row {r}, column {c}"), got, want.at(0, c), bound)?;
        }
        Ok(())
    }

    /// The gradients of the parameters in some columns: sums over all rows.
    fn check_params(&self) -> Result<(), Wrong> {
        let moments: Vec<(f64, f64)> = (0..self.rows).map(|r| self.moments(r)).collect();
        for c in sampled(self.cols, SAMPLES) {
            let (mut weight, mut bias, mut size, mut bias_size) = (0.0, 0.0, 0.0, 0.0);
            for (r, (mean, rstd)) in moments.iter().enumerate() {
                let (x, dy) = (f64::from(self.x[r * self.cols + c]), f64::from(self.dy[r * self.cols + c]));
                weight += dy * (x - mean) * rstd;
                size += dy.abs() * (x.abs() + mean.abs()) * rstd;
                bias += dy;
                bias_size += dy.abs();
            }
            let factor = (16.0 + 4.0 * (self.rows as f64).sqrt()) * f64::from(f32::EPSILON);
            Wrong::unless_close(|| format!("dweight[{c}]"), self.dweight[c], weight, factor * size)?;
            if self.kind == NormKind::Layer {
                Wrong::unless_close(|| format!("dbias[{c}]"), self.dbias[c], bias, factor * bias_size)?;
            }
        }
        Ok(())
    }
}

impl Work for Norm {
    fn reset(&mut self) {
        self.out.fill(f32::NAN);
        self.dweight.fill(0.0);
        self.dbias.fill(0.0);
    }

    fn shares(&mut self, isa: IsaKind, _: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        Ok(match self.pass {
            Pass::Forward => isa.with(Forward { norm: self, threads })?,
            Pass::Backward => isa.with(Backward { norm: self, threads })?,
        })
    }

    fn check(&self) -> Result<(), Wrong> {
        Wrong::unless_finite("the output", &self.out)?;
        sampled(self.rows, SAMPLES).into_iter().try_for_each(|r| self.check_row(r))?;
        if self.pass == Pass::Backward { self.check_params() } else { Ok(()) }
    }
}

struct Forward<'a> {
    norm: &'a mut Norm,
    threads: usize,
}

impl<'a> WithIsa for Forward<'a> {
    type Output = Vec<Share<'a>>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Norm { kind, rows, cols, x, weight, bias, out, stats, .. } = self.norm;
        let (kind, rows, cols) = (*kind, *rows, *cols);
        let (x, weight, bias): (_, &'a [f32], &'a [f32]) = (Mat::new(x, rows, cols), weight, bias);
        let stats_cols = Norm::stats_cols(kind);
        let ranges = row_parts(rows, rows * (2 * cols + stats_cols), self.threads);
        let outs = split_rows(MatMut::new(out, rows, cols), &ranges);
        let stats = split_rows(MatMut::new(stats, rows, stats_cols), &ranges);
        let share = |((range, mut out), mut stats): ((_, MatMut<'a>), MatMut<'a>)| -> Share<'a> {
            let x = x.rows_range(range);
            Box::new(move || {
                let (out, stats, residual) = (out.reborrow(), Some(stats.reborrow()), None);
                match kind {
                    NormKind::Layer => {
                        layer_norm(isa, LayerNorm { x, residual, weight, bias: Some(bias), eps: EPS, out, stats });
                    }
                    NormKind::Rms => rms_norm(isa, RmsNorm { x, residual, weight, eps: EPS, out, stats }),
                }
            })
        };
        ranges.iter().cloned().zip(outs).zip(stats).map(share).collect()
    }
}

struct Backward<'a> {
    norm: &'a mut Norm,
    threads: usize,
}

impl<'a> WithIsa for Backward<'a> {
    type Output = Vec<Share<'a>>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Norm { kind, rows, cols, x, dy, weight, out, stats, dweight, dbias, .. } = self.norm;
        let (kind, rows, cols) = (*kind, *rows, *cols);
        let (x, dy, weight): (_, _, &'a [f32]) = (Mat::new(x, rows, cols), Mat::new(dy, rows, cols), weight);
        let stats = Mat::new(stats, rows, Norm::stats_cols(kind));
        // The engine's two steps touch nothing in common, so no barrier stands between them.
        let row_ranges = row_parts(rows, 3 * rows * cols, self.threads);
        let mut outs = split_rows(MatMut::new(out, rows, cols), &row_ranges).into_iter();
        let col_ranges = col_parts(cols, self.threads);
        let dweights = split_cols(MatMut::new(dweight, 1, cols), &col_ranges);
        let dbiases = split_cols(MatMut::new(dbias, 1, cols), &col_ranges);
        let mut row_ranges = row_ranges.into_iter();
        let share =
            |((range, mut dweight), mut dbias): ((std::ops::Range<usize>, MatMut<'a>), MatMut<'a>)| -> Share<'a> {
                let mut own_rows = row_ranges.next().zip(outs.next());
                let (dy_cols, x_cols) = (dy.cols_range(range.clone()), x.cols_range(range));
                Box::new(move || {
                    if let Some((range, dx)) = &mut own_rows {
                        let read = |mat: Mat<'a>| mat.rows_range(range.clone());
                        let (dy, x, stats, add, dx) = (read(dy), read(x), read(stats), None, dx.reborrow());
                        match kind {
                            NormKind::Layer => {
                                layer_norm_backward(isa, LayerNormBackward { dy, x, weight, stats, add, dx });
                            }
                            NormKind::Rms => rms_norm_backward(isa, RmsNormBackward { dy, x, weight, stats, add, dx }),
                        }
                    }
                    let (dy, x, dweight) = (dy_cols, x_cols, dweight.row_mut(0));
                    match kind {
                        NormKind::Layer => {
                            let dbias = Some(dbias.row_mut(0));
                            layer_norm_param_backward(isa, NormParamBackward { dy, x, stats, dweight, dbias });
                        }
                        NormKind::Rms => rms_norm_param_backward(isa, RmsNormParamBackward { dy, x, stats, dweight }),
                    }
                })
            };
        col_ranges.iter().cloned().zip(dweights).zip(dbiases).map(share).collect()
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
}
