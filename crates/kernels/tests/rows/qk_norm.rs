//! RMSNorm of groups of queries and keys.

use std::ops::Range;

use smallmind_kernels::elementwise::column_sum;
use smallmind_kernels::norm::PARTIAL_ROWS;
use smallmind_kernels::qk_norm::{QkNorm, QkNormBackward, QkWeights, qk_norm, qk_norm_backward};
use smallmind_kernels::reference::norm as naive;
use smallmind_simd::{Isa, Scalar};

use crate::support::{Buffer, Case, EPSILON, Rng, on_every_isa, widen};

const EPS: f32 = 1e-5;

/// Groups of queries and keys, the columns of each, and the columns behind them.
#[derive(Clone, Copy)]
struct Shape {
    groups: [usize; 2],
    widths: [usize; 2],
    rest: usize,
}

impl Shape {
    fn random(rng: &mut Rng) -> Self {
        let width = 1 + rng.below(40);
        // As with heads: of one width; as with whole rows: one group each, of two widths.
        if rng.flip() {
            let groups = [rng.below(5), rng.below(3)];
            return Self { groups, widths: [width, width], rest: rng.below(30) };
        }
        Self { groups: [1, 1], widths: [width, 1 + rng.below(40)], rest: rng.below(30) }
    }

    fn normed(self) -> usize {
        self.groups[0] * self.widths[0] + self.groups[1] * self.widths[1]
    }

    fn cols(self) -> usize {
        self.normed() + self.rest
    }

    /// The greatest number of columns of a group.
    fn widest(self) -> f64 {
        self.widths[0].max(self.widths[1]) as f64
    }
}

struct Norms {
    shape: Shape,
    x: Buffer,
    dy: Buffer,
    q: Vec<f32>,
    k: Vec<f32>,
    out: Buffer,
    stats: Buffer,
    partials: Buffer,
}

impl Norms {
    fn new(rng: &mut Rng, shape: Shape, rows: usize) -> Self {
        Self {
            x: Buffer::random(rng, rows, shape.cols()),
            dy: Buffer::random(rng, rows, shape.cols()),
            q: rng.values(shape.widths[0], 2.0),
            k: rng.values(shape.widths[1], 2.0),
            out: Buffer::empty(rng, rows, shape.cols()),
            stats: Buffer::empty(rng, rows, shape.groups[0] + shape.groups[1]),
            partials: Buffer::empty(rng, rows.div_ceil(PARTIAL_ROWS), shape.normed()),
            shape,
        }
    }

    fn weights(&self) -> QkWeights<'_> {
        let [q_groups, k_groups] = self.shape.groups;
        QkWeights { q: &self.q, k: &self.k, q_groups, k_groups }
    }
}

impl Case for Norms {
    /// The norm, its statistics, the gradient of its input and the partial sums; windows are of blocks of rows.
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let (mut out, mut dx) = (self.out.clone(), self.out.clone());
        let (mut stats, mut partials) = (self.stats.clone(), self.partials.clone());
        let all = self.x.mat().rows();
        for blocks in windows {
            let rows = (blocks.start * PARTIAL_ROWS).min(all)..(blocks.end * PARTIAL_ROWS).min(all);
            let (x, dy) = (self.x.mat().rows_range(rows.clone()), self.dy.mat().rows_range(rows.clone()));
            let forward = QkNorm {
                x,
                weights: self.weights(),
                eps: EPS,
                out: out.mat_mut().rows_range(rows.clone()),
                stats: stats.mat_mut().rows_range(rows.clone()),
            };
            qk_norm(isa, forward);
            let backward = QkNormBackward {
                dy,
                x,
                weights: self.weights(),
                stats: stats.mat().rows_range(rows.clone()),
                dx: dx.mat_mut().rows_range(rows.clone()),
                partials: partials.mat_mut().rows_range(blocks.clone()),
            };
            qk_norm_backward(isa, backward);
        }
        vec![out, stats, dx, partials]
    }
}

/// The gradients of both weights from the partial sums of all groups.
fn gradients(shape: Shape, partials: &Buffer) -> [Vec<f32>; 2] {
    let mut start = 0;
    [0, 1].map(|kind| {
        let mut total = vec![0.0; shape.widths[kind]];
        for _ in 0..shape.groups[kind] {
            let columns = start..start + shape.widths[kind];
            column_sum(Scalar::new(), partials.mat().cols_range(columns.clone()), &mut total);
            start = columns.end;
        }
        total
    })
}

#[test]
fn groups_are_normalised_and_the_rest_copied() {
    let mut rng = Rng::new(61);
    for round in 0..1000 {
        let shape = Shape::random(&mut rng);
        let rows = if round % 50 == 0 { 2 * PARTIAL_ROWS + rng.below(40) } else { rng.below(9) };
        let case = Norms::new(&mut rng, shape, rows);
        let (x, dy) = (case.x.matrix(), case.dy.matrix());
        let (q, k) = (widen(&case.q), widen(&case.k));
        let (y, stats) = naive::qk_norm(&x, &q, &k, shape.groups, f64::from(EPS));
        let (dx, dq, dk) = naive::qk_norm_backward(&dy, &x, &q, &k, shape.groups, f64::from(EPS));
        // Groups of next to nothing have a large rstd, and in proportion to it larger errors.
        let steps = EPSILON * (24.0 + shape.widest() / 32.0);
        let reach: Vec<f64> = (0..rows).map(|r| stats.row(r).iter().fold(1.0, |m, s| s.max(m))).collect();
        on_every_isa(&mut rng, &case, rows.div_ceil(PARTIAL_ROWS), |out| {
            out[0].assert_close(&y, "y", |r, c| if c < shape.normed() { 2.0 * steps * reach[r] } else { 0.0 });
            out[1].assert_close(&stats, "statistics", |r, c| steps * stats.at(r, c));
            let bound = |r: usize| 2.0 * steps * reach[r] * (1.0 + reach[r]).powi(2);
            out[2].assert_close(&dx, "dx", |r, c| if c < shape.normed() { bound(r) } else { 0.0 });
            for (found, want) in gradients(shape, &out[3]).iter().zip([&dq, &dk]) {
                let allowed = steps * reach.iter().sum::<f64>() * shape.groups.iter().sum::<usize>() as f64;
                let near = |(found, want): (&f32, &f64)| (f64::from(*found) - want).abs() <= allowed;
                assert!(found.iter().zip(want).all(near), "{found:?}, not {want:?} ± {allowed}");
            }
        });
    }
}

#[test]
#[should_panic(expected = "groups of 9 columns in rows of 8")]
fn groups_wider_than_a_row_are_refused() {
    let mut rng = Rng::new(62);
    let shape = Shape { groups: [2, 1], widths: [3, 3], rest: 0 };
    let case = Norms { x: Buffer::random(&mut rng, 1, 8), ..Norms::new(&mut rng, shape, 1) };
    case.run(Scalar::new(), std::slice::from_ref(&(0..1)));
}
