//! LayerNorm and RMSNorm: the result and the input's gradient by rows, the parameters' gradients from partial sums, by columns.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::elementwise::column_sum;
use smallmind_kernels::norm::{
    LayerNorm, NormBackward, PARTIAL_ROWS, RmsNorm, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward,
};
use smallmind_kernels::reference::{Matrix, norm};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Share, Work, Wrong, col_parts, noisy, parts, row_parts, sampled, split_cols, split_rows};
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
    /// Sums over blocks of rows, which the gradients of the parameters add up.
    partials: Buffer,
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
            partials: Buffer::zeroed(if backward {
                rows.div_ceil(PARTIAL_ROWS) * Self::gradients(kind) * cols
            } else {
                0
            })?,
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

    /// How many parameters of a column have a gradient: the scale, and the shift if there is one.
    fn gradients(kind: NormKind) -> usize {
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
            Box::new(move |_| {
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
        let Norm { kind, rows, cols, x, dy, weight, out, stats, partials, dweight, dbias, .. } = self.norm;
        let (kind, rows, cols) = (*kind, *rows, *cols);
        let (x, dy, weight): (_, _, &'a [f32]) = (Mat::new(x, rows, cols), Mat::new(dy, rows, cols), weight);
        let stats = Mat::new(stats, rows, Norm::stats_cols(kind));
        let rows_of: Vec<_> = parts(self.threads).map(|part| part.range(rows, PARTIAL_ROWS)).collect();
        let blocks_of: Vec<_> =
            rows_of.iter().map(|r| r.start.div_ceil(PARTIAL_ROWS)..r.end.div_ceil(PARTIAL_ROWS)).collect();
        let partials = MatMut::new(partials, rows.div_ceil(PARTIAL_ROWS), Norm::gradients(kind) * cols);
        let partials: Arc<Vec<RwLock<MatMut<'a>>>> =
            Arc::new(split_rows(partials, &blocks_of).into_iter().map(RwLock::new).collect());
        let outs = split_rows(MatMut::new(out, rows, cols), &rows_of);
        let cols_of = col_parts(cols, self.threads);
        let dweights = split_cols(MatMut::new(dweight, 1, cols), &cols_of);
        let dbiases = split_cols(MatMut::new(dbias, 1, cols), &cols_of);
        let shares = rows_of.into_iter().zip(outs).zip(cols_of).zip(dweights.into_iter().zip(dbiases)).enumerate();
        type Own<'a> = (((Range<usize>, MatMut<'a>), Range<usize>), (MatMut<'a>, MatMut<'a>));
        let share = |(worker, own): (usize, Own<'a>)| -> Share<'a> {
            let (((own_rows, mut dx), own_cols), (mut dweight, mut dbias)) = own;
            let partials = Arc::clone(&partials);
            Box::new(move |team| {
                {
                    let mut own = partials[worker].write().unwrap_or_else(PoisonError::into_inner);
                    let read = |mat: Mat<'a>| mat.rows_range(own_rows.clone());
                    let (dy, x, stats, dx, partials) = (read(dy), read(x), read(stats), dx.reborrow(), own.reborrow());
                    let args = NormBackward { dy, x, weight, stats, add: None, dx, partials };
                    match kind {
                        NormKind::Layer => layer_norm_backward(isa, args),
                        NormKind::Rms => rms_norm_backward(isa, args),
                    }
                }
                team.barrier();
                for block in partials.iter() {
                    let block = block.read().unwrap_or_else(PoisonError::into_inner);
                    let terms =
                        |i: usize| block.as_mat().cols_range(i * cols + own_cols.start..i * cols + own_cols.end);
                    column_sum(isa, terms(0), dweight.row_mut(0));
                    if kind == NormKind::Layer {
                        column_sum(isa, terms(1), dbias.row_mut(0));
                    }
                }
            })
        };
        shares.map(share).collect()
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
