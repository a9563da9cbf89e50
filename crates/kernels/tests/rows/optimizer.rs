//! AdamW and the sum of squares.

use smallmind_kernels::optimizer::{AdamW, SUM_BLOCK, adamw, sum_of_squares};
use smallmind_kernels::reference::optimizer as reference;
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::support::{AWKWARD, Rng};

struct Step<'a> {
    config: AdamW,
    state: &'a mut [Vec<f32>; 4],
    range: std::ops::Range<usize>,
}

impl WithIsa for Step<'_> {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let [param, grad, m, v] = self.state.each_mut().map(|x| &mut x[self.range.clone()]);
        adamw(isa, &self.config, param, grad, m, v);
    }
}

struct Sum<'a>(&'a [f32]);

impl WithIsa for Sum<'_> {
    type Output = f64;
    fn call<I: Isa>(self, isa: I) -> f64 {
        sum_of_squares(isa, self.0)
    }
}

fn config(step: i32, grad_scale: f64) -> AdamW {
    let (beta1, beta2) = (0.9, 0.999);
    AdamW {
        lr: 1e-3,
        beta1,
        beta2,
        eps: 1e-8,
        weight_decay: 0.1,
        grad_scale,
        bias_correction1: 1.0 - beta1.powi(step),
        bias_correction2: 1.0 - beta2.powi(step),
    }
}

/// Several steps from zero moments, against the twin; `cut` makes two windows of each step.
#[test]
fn steps_match_the_twin_in_any_window() {
    let mut rng = Rng::new(31);
    let lengths: Vec<usize> = AWKWARD.into_iter().chain((0..10_000).map(|_| rng.below(100))).collect();
    for n in lengths {
        let cut = rng.below(n + 1);
        let start: Vec<f32> = (0..n).map(|_| rng.unit()).collect();
        let sizes: Vec<f32> = (0..n).map(|_| [1.0, 1e-3, 1e-7, 1e4, 0.0][rng.below(5)]).collect();
        for &kind in IsaKind::available() {
            let mut exact = [start.iter().copied().map(f64::from).collect(), vec![0.0; n], vec![0.0; n], vec![0.0; n]];
            let mut whole = [start.clone(), vec![0.0; n], vec![0.0; n], vec![0.0; n]];
            let mut halves = whole.clone();
            for step in 1..4 {
                let config = config(step, 0.5);
                for i in 0..n {
                    let g = sizes[i] * rng.unit();
                    (whole[1][i], halves[1][i], exact[1][i]) = (g, g, f64::from(g));
                }
                let [p, g, m, v] = exact.each_mut();
                reference::adamw(&config, p, g, m, v);
                kind.with(Step { config, state: &mut whole, range: 0..n }).unwrap();
                kind.with(Step { config, state: &mut halves, range: 0..cut }).unwrap();
                kind.with(Step { config, state: &mut halves, range: cut..n }).unwrap();
            }
            assert_eq!(whole, halves, "n = {n} cut at {cut} on {kind}");
            assert_eq!(whole[1], vec![0.0; n], "gradients are zeroed");
            for i in 0..n {
                let got = whole.each_ref().map(|x| f64::from(x[i]));
                let want = exact.each_ref().map(|x: &Vec<f64>| x[i]);
                // The parameter to its own last places and those of three updates of at most lr each; the moments to
                // theirs, where the first may cancel.
                let allowed = [1e-6 * (want[0].abs() + 3e-3), 0.0, 1e-6 * f64::from(sizes[i]), 2e-6 * want[3]];
                for k in 0..4 {
                    let close = (got[k] - want[k]).abs() <= allowed[k] + 1e-37;
                    assert!(close, "{k} of element {i}: {} instead of {} on {kind}", got[k], want[k]);
                }
            }
        }
    }
}

#[test]
fn one_step_by_hand() {
    // From 1 with gradient ½ and zero moments: m̂ = ½ and v̂ = ¼, so the update is lr, after a decay by
    // lr·weight_decay.
    let config = AdamW { lr: 0.1, weight_decay: 0.01, ..config(1, 1.0) };
    for &kind in IsaKind::available() {
        let mut state = [vec![1.0], vec![0.5], vec![0.0], vec![0.0]];
        kind.with(Step { config, state: &mut state, range: 0..1 }).unwrap();
        let expected = [0.899, 0.0, 0.05, 0.000_25];
        for (got, expected) in state.iter().zip(expected) {
            assert!((got[0] - expected).abs() <= 1e-7 * expected.abs(), "{} instead of {expected} on {kind}", got[0]);
        }
        // A gradient that was always 0 leaves only the decay.
        let mut state = [vec![1.0], vec![0.0], vec![0.0], vec![0.0]];
        kind.with(Step { config, state: &mut state, range: 0..1 }).unwrap();
        assert!((state[0][0] - 0.999).abs() < 1e-7, "{} on {kind}", state[0][0]);
    }
}

#[test]
fn sums_are_exact_to_double_precision() {
    let mut rng = Rng::new(32);
    let lengths = [SUM_BLOCK - 1, SUM_BLOCK, SUM_BLOCK + 1, 3 * SUM_BLOCK + 17, 100_003];
    for n in AWKWARD.into_iter().chain(lengths).chain((0..10_000).map(|i| i * 7 % 1009)) {
        let x: Vec<f32> = (0..n).map(|_| rng.value()).collect();
        let wide: Vec<f64> = x.iter().copied().map(f64::from).collect();
        let exact = reference::sum_of_squares(&wide);
        for kind in IsaKind::available() {
            let sum = kind.with(Sum(&x)).unwrap();
            assert!((sum - exact).abs() <= 1e-12 * exact, "{sum} instead of {exact} for {n} elements on {kind}");
            let blocks = x.chunks(SUM_BLOCK).fold(0.0, |total, block| total + kind.with(Sum(block)).unwrap());
            assert_eq!(sum.to_bits(), blocks.to_bits(), "{n} elements block by block on {kind}");
            assert_eq!(Ok(sum), IsaKind::Scalar.with(Sum(&x)), "{n} elements on {kind}");
        }
    }
}

#[test]
fn sums_neither_overflow_nor_underflow() {
    for kind in IsaKind::available() {
        let big = f64::from(1e30f32);
        assert_eq!(kind.with(Sum(&[1e30; 64])), Ok(64.0 * (big * big)), "{kind}");
        let tiny = f64::from(f32::from_bits(1));
        assert_eq!(kind.with(Sum(&[f32::from_bits(1); 64])), Ok(64.0 * tiny * tiny), "{kind}");
        assert!(kind.with(Sum(&[1.0, f32::NAN])).unwrap().is_nan(), "{kind}");
    }
}
