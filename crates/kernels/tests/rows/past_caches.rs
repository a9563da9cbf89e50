//! Norms of matrices so large that their results are written past the caches have the bits of small windows, whose
//! results are not. From which size on is tested in `row_ops`.

use smallmind_kernels::norm::{
    LayerNorm, NormBackward, PARTIAL_ROWS, Residual, RmsNorm, layer_norm, layer_norm_backward, rms_norm,
    rms_norm_backward,
};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::support::Rng;

const COLS: usize = 1027;
/// With `COLS` just above 64 MiB, and no whole number of pairs.
const ROWS: usize = 16 * 1024 + 1;
/// Rows of a window: a multiple of `PARTIAL_ROWS`.
const WINDOW: usize = 160 * PARTIAL_ROWS;
/// Elements from row to row: whole cache lines.
const STRIDE: usize = 1040;

struct Inputs {
    x: Vec<f32>,
    dy: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    stats: Vec<f32>,
}

/// A norm to be computed.
#[derive(Clone, Copy, Debug)]
enum Norm {
    Layer,
    LayerOfSum,
    Rms,
    LayerBackward,
    LayerBackwardOfSum,
    RmsBackward,
}

const NORMS: [Norm; 6] =
    [Norm::Layer, Norm::LayerOfSum, Norm::Rms, Norm::LayerBackward, Norm::LayerBackwardOfSum, Norm::RmsBackward];

/// The result of a norm, computed in windows of so many rows.
struct Run<'a> {
    inputs: &'a Inputs,
    norm: Norm,
    window: usize,
    /// Elements between a cache line and the start of the result.
    skip: usize,
}

impl Run<'_> {
    fn compute<I: Isa>(&self, isa: I, out: &mut [f32]) {
        let Inputs { x, dy, weight, bias, stats } = self.inputs;
        let (x, dy, stats) = (Mat::new(x, ROWS, COLS), Mat::new(dy, ROWS, COLS), Mat::new(stats, ROWS, 2));
        let mut partials = vec![f32::NAN; ROWS.div_ceil(PARTIAL_ROWS) * 2 * COLS];
        let mut partials = MatMut::new(&mut partials, ROWS.div_ceil(PARTIAL_ROWS), 2 * COLS);
        let mut out = MatMut::with_stride(out, ROWS, COLS, STRIDE);
        let (bias, eps) = (Some(&bias[..]), 1e-5);
        for first in (0..ROWS).step_by(self.window) {
            let rows = first..(first + self.window).min(ROWS);
            let sums = first / PARTIAL_ROWS..rows.end.div_ceil(PARTIAL_ROWS);
            let [x, dy, stats] = [x, dy, stats].map(|mat| mat.rows_range(rows.clone()));
            let out = out.reborrow().rows_range(rows.clone());
            let partials = partials.reborrow().rows_range(sums);
            let layer = |residual, out| LayerNorm { x, residual, weight, bias, eps, out, stats: None };
            let backward = |add, partials, stats, dx| NormBackward { dy, x, weight, stats, add, dx, partials };
            match self.norm {
                Norm::Layer => layer_norm(isa, layer(None, out)),
                Norm::LayerOfSum => {
                    let mut sum = vec![f32::NAN; rows.len() * COLS];
                    let residual = Residual { add: dy, sum: MatMut::new(&mut sum, rows.len(), COLS) };
                    layer_norm(isa, layer(Some(residual), out));
                }
                Norm::Rms => rms_norm(isa, RmsNorm { x, residual: None, weight, eps, out, stats: None }),
                Norm::LayerBackward => layer_norm_backward(isa, backward(None, partials, stats, out)),
                Norm::LayerBackwardOfSum => layer_norm_backward(isa, backward(Some(x), partials, stats, out)),
                Norm::RmsBackward => {
                    rms_norm_backward(isa, backward(None, partials.cols_range(0..COLS), stats.cols_range(1..2), out));
                }
            }
        }
    }
}

impl WithIsa for Run<'_> {
    type Output = Vec<f32>;

    fn call<I: Isa>(self, isa: I) -> Vec<f32> {
        let mut out = vec![f32::NAN; ROWS * STRIDE + 32];
        let start = out.as_ptr().align_offset(64) + self.skip;
        self.compute(isa, &mut out[start..]);
        out.drain(..start);
        out
    }
}

#[test]
fn large_norms_are_those_of_their_windows() {
    let mut rng = Rng::new(11);
    let mut values = |n: usize| -> Vec<f32> {
        let some = rng.values(4099, 1.0);
        (0..n).map(|i| some[i % some.len()]).collect()
    };
    let inputs = Inputs {
        x: values(ROWS * COLS),
        dy: values(ROWS * COLS),
        weight: values(COLS),
        bias: values(COLS),
        stats: values(ROWS * 2),
    };
    for kind in IsaKind::available() {
        for norm in NORMS {
            let of = |window, skip| kind.with(Run { inputs: &inputs, norm, window, skip }).unwrap();
            let want = of(WINDOW, 0);
            for skip in [0, 3] {
                let found = of(ROWS, skip);
                for r in 0..ROWS {
                    let [found, want] = [&found, &want].map(|all| &all[r * STRIDE..][..COLS]);
                    let wrong = found.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
                    assert_eq!(wrong, None, "{kind}: {norm:?}, row {r}, {skip} elements behind a line");
                }
            }
        }
    }
}
