//! LayerNorm and RMSNorm.

use std::ops::Range;

use smallmind_kernels::MatMut;
use smallmind_kernels::elementwise::column_sum;
use smallmind_kernels::norm::{
    LayerNorm, NormBackward, PARTIAL_ROWS, Residual, RmsNorm, layer_norm, layer_norm_backward, rms_norm,
    rms_norm_backward,
};
use smallmind_kernels::reference::Matrix;
use smallmind_kernels::reference::elementwise::add;
use smallmind_kernels::reference::norm as naive;
use smallmind_simd::Isa;

use crate::support::{Buffer, Case, EPSILON, Rng, for_shapes, greatest, on_every_isa, widen};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Layer,
    Rms,
}

/// Rows around a random offset, in one of several orders of magnitude; every fifth row is constant.
fn input(rng: &mut Rng, rows: usize, cols: usize) -> Buffer {
    let spread = [1e-3, 1.0, 1e3][rng.below(3)];
    let offset = spread * [0.0, 1.0, -30.0][rng.below(3)];
    Buffer::from_fn(rng, rows, cols, |rng, r, _| if r % 5 == 4 { spread } else { offset + spread * rng.signed() })
}

/// The norm of `x`, and the error allowed for each element.
struct Forward {
    y: Matrix,
    stats: Matrix,
    y_bound: Matrix,
}

impl Forward {
    fn new(kind: Kind, x: &Matrix, weight: &[f32], bias: Option<&[f32]>, eps: f32) -> Self {
        let (weight, bias) = (widen(weight), bias.map(widen));
        let (y, stats) = match kind {
            Kind::Layer => naive::layer_norm(x, &weight, bias.as_deref(), f64::from(eps)),
            Kind::Rms => naive::rms_norm(x, &weight, f64::from(eps)),
        };
        let steps = 16.0 + x.cols as f64 / 32.0;
        let greatest = greatest(x);
        let y_bound = Matrix::from_fn(x.rows, x.cols, |r, c| {
            let reach = greatest[r] * stats.at(r, stats.cols - 1);
            EPSILON * (steps * reach * weight[c].abs() + y.at(r, c).abs())
        });
        Self { y, stats, y_bound }
    }

    /// rstd within the relative error that the sum of squares has; the mean within that of the sum.
    fn check(&self, x: &Matrix, y: &Buffer, stats: Option<&Buffer>) {
        y.assert_close(&self.y, "y", |r, c| self.y_bound.at(r, c));
        let steps = 16.0 + x.cols as f64 / 32.0;
        let Some(stats) = stats else { return };
        let greatest = greatest(x);
        stats.assert_close(&self.stats, "statistics", |r, c| {
            let rstd = self.stats.at(r, self.stats.cols - 1);
            let reach = greatest[r];
            EPSILON
                * steps
                * if c + 1 == self.stats.cols { rstd * (1.0 + EPSILON * (reach * rstd).powi(2)) } else { reach }
        });
    }
}

struct ForwardCase {
    kind: Kind,
    x: Buffer,
    add: Option<Buffer>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f32,
    out: Buffer,
    sum: Buffer,
    stats: Option<Buffer>,
}

impl ForwardCase {
    fn new(rng: &mut Rng, kind: Kind, rows: usize, cols: usize) -> Self {
        let with_bias = kind == Kind::Layer && rng.flip();
        let stats_cols = if kind == Kind::Layer { 2 } else { 1 };
        Self {
            kind,
            x: input(rng, rows, cols),
            add: rng.flip().then(|| Buffer::random(rng, rows, cols)),
            weight: rng.values(cols, 2.0),
            bias: with_bias.then(|| rng.values(cols, 1.0)),
            eps: [1e-5, 1e-6][rng.below(2)],
            out: Buffer::empty(rng, rows, cols),
            sum: Buffer::empty(rng, rows, cols),
            stats: rng.flip().then(|| Buffer::empty(rng, rows, stats_cols)),
        }
    }
}

impl Case for ForwardCase {
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let (mut out, mut sum, mut stats) = (self.out.clone(), self.sum.clone(), self.stats.clone());
        for rows in windows {
            let x = self.x.mat().rows_range(rows.clone());
            let add = self.add.as_ref().map(|add| add.mat().rows_range(rows.clone()));
            let residual = add.map(|add| Residual { add, sum: sum.mat_mut().rows_range(rows.clone()) });
            let stats: Option<MatMut> = stats.as_mut().map(|stats| stats.mat_mut().rows_range(rows.clone()));
            let out = out.mat_mut().rows_range(rows.clone());
            let (weight, bias, eps) = (&self.weight[..], self.bias.as_deref(), self.eps);
            match self.kind {
                Kind::Layer => layer_norm(isa, LayerNorm { x, residual, weight, bias, eps, out, stats }),
                Kind::Rms => rms_norm(isa, RmsNorm { x, residual, weight, eps, out, stats }),
            }
        }
        [Some(out), Some(sum), stats].into_iter().flatten().collect()
    }
}

fn check_forward(kind: Kind, seed: u64) {
    for_shapes(seed, |rng, rows, cols| {
        let case = ForwardCase::new(rng, kind, rows, cols);
        let x = case.x.matrix();
        let sum = case.add.as_ref().map(|b| add(&x, &b.matrix()).to_f32());
        let sum = sum.map(|sum| Matrix::new(rows, cols, widen(&sum)));
        let normalised = sum.as_ref().unwrap_or(&x);
        let want = Forward::new(kind, normalised, &case.weight, case.bias.as_deref(), case.eps);
        on_every_isa(rng, &case, rows, |out| {
            want.check(normalised, &out[0], out.get(2));
            if let Some(sum) = &sum {
                out[1].assert_close(sum, "sum", |_, _| 0.0);
            }
        });
    });
}

#[test]
fn layer_norm_forward() {
    check_forward(Kind::Layer, 40);
}

#[test]
fn rms_norm_forward() {
    check_forward(Kind::Rms, 41);
}

/// The statistics of `x`, as the forward stores them.
fn stored_stats(rng: &mut Rng, kind: Kind, x: &Matrix, eps: f32) -> (Matrix, Buffer) {
    let stats = Forward::new(kind, x, &vec![1.0; x.cols], None, eps).stats;
    let stored = Buffer::from_fn(rng, x.rows, stats.cols, |_, r, c| stats.at(r, c));
    (stats, stored)
}

struct BackwardCase {
    kind: Kind,
    dy: Buffer,
    x: Buffer,
    weight: Vec<f32>,
    stats: Buffer,
    add: Option<Buffer>,
    dx: Buffer,
    partials: Buffer,
    /// The gradients of weight and bias so far, one row.
    gradients: Buffer,
}

impl BackwardCase {
    fn new(rng: &mut Rng, kind: Kind, rows: usize, cols: usize, x: Buffer, stats: Buffer) -> Self {
        let sums = if kind == Kind::Layer && rng.flip() { 2 * cols } else { cols };
        Self {
            kind,
            dy: Buffer::random(rng, rows, cols),
            x,
            weight: rng.values(cols, 2.0),
            stats,
            add: rng.flip().then(|| Buffer::random(rng, rows, cols)),
            dx: Buffer::empty(rng, rows, cols),
            partials: Buffer::empty(rng, rows.div_ceil(PARTIAL_ROWS), sums),
            gradients: Buffer::random(rng, 1, sums),
        }
    }
}

impl Case for BackwardCase {
    /// `windows` are of blocks of rows.
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let (mut dx, mut partials, mut gradients) = (self.dx.clone(), self.partials.clone(), self.gradients.clone());
        let all = self.dy.mat().rows();
        for blocks in windows {
            let rows = (blocks.start * PARTIAL_ROWS).min(all)..(blocks.end * PARTIAL_ROWS).min(all);
            let [dy, x, stats] = [&self.dy, &self.x, &self.stats].map(|b| b.mat().rows_range(rows.clone()));
            let args = NormBackward {
                dy,
                x,
                weight: &self.weight,
                stats,
                add: self.add.as_ref().map(|add| add.mat().rows_range(rows.clone())),
                dx: dx.mat_mut().rows_range(rows.clone()),
                partials: partials.mat_mut().rows_range(blocks.clone()),
            };
            match self.kind {
                Kind::Layer => layer_norm_backward(isa, args),
                Kind::Rms => rms_norm_backward(isa, args),
            }
        }
        column_sum(isa, partials.mat(), gradients.mat_mut().row_mut(0));
        vec![dx, partials, gradients]
    }
}

fn check_backward(kind: Kind, seed: u64) {
    for_shapes(seed, |rng, rows, cols| check_backward_of_shape(kind, rng, rows, cols));
    // Several blocks of partial sums, the last of them cut short.
    let mut rng = Rng::new(seed);
    for rows in [PARTIAL_ROWS - 1, PARTIAL_ROWS, PARTIAL_ROWS + 1, 3 * PARTIAL_ROWS, 9 * PARTIAL_ROWS + 7] {
        for cols in [1, 31, 64, 129] {
            check_backward_of_shape(kind, &mut rng, rows, cols);
        }
    }
}

fn check_backward_of_shape(kind: Kind, rng: &mut Rng, rows: usize, cols: usize) {
    let eps = 1e-5;
    let x = input(rng, rows, cols);
    let (stats, stored) = stored_stats(rng, kind, &x.matrix(), eps);
    let case = BackwardCase::new(rng, kind, rows, cols, x, stored);
    let (dy, x, weight) = (case.dy.matrix(), case.x.matrix(), widen(&case.weight));
    let (dx, dweight, dbias) = match kind {
        Kind::Layer => naive::layer_norm_backward(&dy, &x, &weight, f64::from(eps)),
        Kind::Rms => {
            let (dx, dweight) = naive::rms_norm_backward(&dy, &x, &weight, f64::from(eps));
            (dx, dweight, vec![])
        }
    };
    let dx = case.add.as_ref().map_or(dx.clone(), |b| add(&dx, &b.matrix()));
    let before = |c| f64::from(case.gradients.mat().row(0)[c]);
    let gradients: Vec<f64> = dweight.into_iter().chain(dbias).collect();
    let gradients = Matrix::from_fn(1, case.gradients.mat().cols(), |_, c| gradients[c] + before(c));

    let steps = 16.0 + cols as f64 / 32.0;
    let (x_reach, g) = (greatest(&x), greatest(&Matrix::from_fn(rows, cols, |r, c| dy.at(r, c) * weight[c])));
    let rstd = |r| stats.at(r, stats.cols - 1);
    let x_size = |r, c| (x.at(r, c).abs() + if stats.cols == 2 { stats.at(r, 0).abs() } else { 0.0 }) * rstd(r);
    on_every_isa(rng, &case, rows.div_ceil(PARTIAL_ROWS), |out| {
        out[0].assert_close(&dx, "dx", |r, c| {
            let reach = 1.0 + x_reach[r] * rstd(r);
            EPSILON * (steps * rstd(r) * g[r] * reach * reach + dx.at(r, c).abs())
        });
        out[2].assert_close(&gradients, "gradients of the parameters", |_, c| {
            let size = |r| if c < cols { x_size(r, c) } else { 1.0 };
            let terms: f64 = (0..rows).map(|r| dy.at(r, c % cols).abs() * size(r)).sum();
            EPSILON * (24 + rows / 256) as f64 * (terms + before(c).abs())
        });
    });
}

#[test]
fn layer_norm_gradients() {
    check_backward(Kind::Layer, 42);
}

#[test]
fn rms_norm_gradients() {
    check_backward(Kind::Rms, 43);
}
