//! Softmax cross-entropy.

use std::ops::Range;

use smallmind_kernels::loss::{IGNORE, cross_entropy, cross_entropy_backward};
use smallmind_kernels::reference::Matrix;
use smallmind_kernels::reference::loss as naive;
use smallmind_simd::{Isa, Scalar};

use crate::support::{Buffer, Case, EPSILON, Rng, for_shapes, on_every_isa};

struct Loss {
    logits: Buffer,
    targets: Vec<u32>,
    scale: f32,
    losses: Buffer,
}

impl Loss {
    fn new(rng: &mut Rng, rows: usize, vocab: usize, scale: f32, logit: impl Fn(&mut Rng, usize) -> f64) -> Self {
        let target = |rng: &mut Rng| if vocab == 0 || rng.below(5) == 0 { IGNORE } else { rng.below(vocab) as u32 };
        Self {
            logits: Buffer::from_fn(rng, rows, vocab, |rng, _, c| logit(rng, c)),
            targets: (0..rows).map(|_| target(rng)).collect(),
            scale,
            losses: Buffer::empty(rng, rows, 1),
        }
    }

    /// Compares losses and gradients with the naive ones.
    fn check(&self, rng: &mut Rng) {
        let (logits, rows) = (self.logits.matrix(), self.targets.len());
        let steps = 16.0 + logits.cols as f64 / 32.0;
        let losses = Matrix::new(rows, 1, naive::cross_entropy(&logits, &self.targets));
        let grad = naive::cross_entropy_backward(&logits, &self.targets, f64::from(self.scale));
        on_every_isa(rng, self, rows, |out| {
            out[0].assert_close(&losses, "loss", |r, _| EPSILON * (steps + losses.at(r, 0).abs()));
            out[1].assert_close(&grad, "gradient", |_, _| EPSILON * steps * f64::from(self.scale));
            out[2].assert_same(&out[0], "the loss that the backward gives");
        });
    }
}

impl Case for Loss {
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer> {
        let (mut losses, mut twice, mut grad) = (self.losses.clone(), self.losses.clone(), self.logits.clone());
        for rows in windows {
            let (logits, targets) = (self.logits.mat().rows_range(rows.clone()), &self.targets[rows.clone()]);
            cross_entropy(isa, logits, targets, losses.mat_mut().rows_range(rows.clone()));
            let grad = grad.mat_mut().rows_range(rows.clone());
            cross_entropy_backward(isa, grad, targets, self.scale, twice.mat_mut().rows_range(rows.clone()));
        }
        vec![losses, grad, twice]
    }
}

#[test]
fn losses_and_gradients() {
    for_shapes(30, |rng, rows, vocab| {
        let spread = [0.1, 1.0, 10.0, 100.0][rng.below(4)];
        let offset = [0.0, -500.0, 500.0][rng.below(3)];
        let scale = [1.0, 1.0 / 768.0][rng.below(2)];
        Loss::new(rng, rows, vocab, scale, |rng, _| offset + spread * rng.signed()).check(rng);
    });
}

#[test]
fn extreme_logits_stay_finite() {
    for_shapes(31, |rng, rows, vocab| {
        let logit = |rng: &mut Rng, _| [1e30, -1e30, 0.0, 88.0, -104.0, 3e4][rng.below(6)];
        let case = Loss::new(rng, rows, vocab, 1.0, logit);
        let losses = naive::cross_entropy(&case.logits.matrix(), &case.targets);
        assert!(losses.iter().all(|loss| loss.is_finite()));
        case.check(rng);
    });
}

/// The last columns lie in a partial vector, whose dead lanes hold zeros: they must neither raise the maximum nor the
/// sum.
#[test]
fn dead_lanes_do_not_count() {
    for vocab in 1..70 {
        let mut rng = Rng::new(vocab as u64);
        Loss::new(&mut rng, 3, vocab, 1.0, |rng, _| -3000.0 + rng.signed()).check(&mut rng);
    }
}

#[test]
fn a_nan_is_not_hidden() {
    for vocab in 1..40 {
        let mut rng = Rng::new(vocab as u64);
        let mut case = Loss::new(&mut rng, 1, vocab, 1.0, |rng, _| rng.signed());
        case.targets = vec![0];
        let at = rng.below(vocab);
        case.logits.mat_mut().row_mut(0)[at] = f32::NAN;
        on_every_isa(&mut rng, &case, 1, |out| assert!(out[0].mat().row(0)[0].is_nan()));
    }
}

#[test]
#[should_panic(expected = "target 4 of 4 classes")]
fn a_target_beyond_the_vocabulary_panics() {
    let mut rng = Rng::new(32);
    let (logits, mut losses) = (Buffer::random(&mut rng, 1, 4), Buffer::empty(&mut rng, 1, 1));
    cross_entropy(Scalar::new(), logits.mat(), &[4], losses.mat_mut());
}
