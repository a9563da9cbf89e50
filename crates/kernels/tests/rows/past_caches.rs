//! Norms of matrices so large that their results go past the caches: the same bits as window by window, each of which is small.

use smallmind_kernels::norm::{
    LayerNorm, NormBackward, PARTIAL_ROWS, RmsNorm, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward,
};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::case::Rng;

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

/// The results of all four kernels, one behind another, computed in windows of so many rows; the first elements of the buffer are left out.
struct Norms<'a> {
    inputs: &'a Inputs,
    window: usize,
    skip: usize,
}

impl Norms<'_> {
    fn run<I: Isa>(&self, isa: I, kernel: usize, out: &mut [f32]) {
        let Inputs { x, dy, weight, bias, stats } = self.inputs;
        let (x, dy, stats) = (Mat::new(x, ROWS, COLS), Mat::new(dy, ROWS, COLS), Mat::new(stats, ROWS, 2));
        let mut partials = vec![f32::NAN; ROWS.div_ceil(PARTIAL_ROWS) * 2 * COLS];
        let mut partials = MatMut::new(&mut partials, ROWS.div_ceil(PARTIAL_ROWS), 2 * COLS);
        let mut out = MatMut::with_stride(out, ROWS, COLS, STRIDE);
        for first in (0..ROWS).step_by(self.window) {
            let rows = first..(first + self.window).min(ROWS);
            let sums = first / PARTIAL_ROWS..rows.end.div_ceil(PARTIAL_ROWS);
            let (x, dy, stats) =
                (x.rows_range(rows.clone()), dy.rows_range(rows.clone()), stats.rows_range(rows.clone()));
            let out = out.reborrow().rows_range(rows);
            let partials = partials.reborrow().rows_range(sums);
            let backward = |partials, stats, dx| NormBackward { dy, x, weight, stats, add: None, dx, partials };
            match kernel {
                0 => {
                    let bias = Some(&bias[..]);
                    layer_norm(isa, LayerNorm { x, residual: None, weight, bias, eps: 1e-5, out, stats: None });
                }
                1 => rms_norm(isa, RmsNorm { x, residual: None, weight, eps: 1e-5, out, stats: None }),
                2 => layer_norm_backward(isa, backward(partials, stats, out)),
                _ => rms_norm_backward(isa, backward(partials.cols_range(0..COLS), stats.cols_range(1..2), out)),
            }
        }
    }
}

impl WithIsa for Norms<'_> {
    type Output = Vec<Vec<f32>>;

    fn call<I: Isa>(self, isa: I) -> Vec<Vec<f32>> {
        let one = |kernel| {
            let mut out = vec![f32::NAN; ROWS * STRIDE + 32];
            // From a cache line on, or a few elements behind one.
            let start = out.as_ptr().align_offset(64) + self.skip;
            self.run(isa, kernel, &mut out[start..]);
            (0..ROWS).flat_map(|r| out[start + r * STRIDE..][..COLS].to_vec()).collect()
        };
        (0..4).map(one).collect()
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
        let of = |window, skip| kind.with(Norms { inputs: &inputs, window, skip }).unwrap();
        let want = of(WINDOW, 0);
        for skip in [0, 3] {
            for (kernel, (found, want)) in of(ROWS, skip).iter().zip(&want).enumerate() {
                let wrong = found.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(
                    wrong.map(|i| (i / COLS, i % COLS)),
                    None,
                    "{kind}: kernel {kernel}, {skip} elements behind a line"
                );
            }
        }
    }
}
