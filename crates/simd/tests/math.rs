//! Elementary functions against `f64` references: the error bounds of their documentation, over the whole range of
//! `f32`.

use smallmind_simd::{Isa, IsaKind, WithIsa, math};

/// An elementary function, its exact values and the greatest error its documentation allows.
trait Function: Copy {
    const NAME: &'static str;
    const MAX_ULP: f64;
    fn vector<I: Isa>(isa: I, v: I::F32) -> I::F32;
    fn exact(x: f64) -> f64;
}

#[derive(Clone, Copy)]
struct Exp;
#[derive(Clone, Copy)]
struct Exp2;
#[derive(Clone, Copy)]
struct Tanh;
#[derive(Clone, Copy)]
struct Erf;
#[derive(Clone, Copy)]
struct Rsqrt;
#[derive(Clone, Copy)]
struct Sigmoid;

impl Function for Exp {
    const NAME: &'static str = "exp";
    const MAX_ULP: f64 = 1.25;
    #[inline(always)]
    fn vector<I: Isa>(isa: I, v: I::F32) -> I::F32 {
        math::exp(isa, v)
    }
    fn exact(x: f64) -> f64 {
        libm::exp(x)
    }
}

impl Function for Exp2 {
    const NAME: &'static str = "exp2";
    const MAX_ULP: f64 = 1.25;
    #[inline(always)]
    fn vector<I: Isa>(isa: I, v: I::F32) -> I::F32 {
        math::exp2(isa, v)
    }
    fn exact(x: f64) -> f64 {
        libm::exp2(x)
    }
}

impl Function for Tanh {
    const NAME: &'static str = "tanh";
    const MAX_ULP: f64 = 3.0;
    #[inline(always)]
    fn vector<I: Isa>(isa: I, v: I::F32) -> I::F32 {
        math::tanh(isa, v)
    }
    fn exact(x: f64) -> f64 {
        libm::tanh(x)
    }
}

impl Function for Erf {
    const NAME: &'static str = "erf";
    const MAX_ULP: f64 = 3.0;
    #[inline(always)]
    fn vector<I: Isa>(isa: I, v: I::F32) -> I::F32 {
        math::erf(isa, v)
    }
    fn exact(x: f64) -> f64 {
        libm::erf(x)
    }
}

impl Function for Rsqrt {
    const NAME: &'static str = "rsqrt";
    const MAX_ULP: f64 = 2.0;
    #[inline(always)]
    fn vector<I: Isa>(isa: I, v: I::F32) -> I::F32 {
        math::rsqrt(isa, v)
    }
    fn exact(x: f64) -> f64 {
        1.0 / x.sqrt()
    }
}

impl Function for Sigmoid {
    const NAME: &'static str = "sigmoid";
    const MAX_ULP: f64 = 3.0;
    #[inline(always)]
    fn vector<I: Isa>(isa: I, v: I::F32) -> I::F32 {
        math::sigmoid(isa, v)
    }
    fn exact(x: f64) -> f64 {
        if x < 0.0 { libm::exp(x) / (1.0 + libm::exp(x)) } else { 1.0 / (1.0 + libm::exp(-x)) }
    }
}

/// `function` of every element of `xs`, on one instruction set.
struct Apply<'a, F> {
    function: F,
    xs: &'a [f32],
    ys: &'a mut [f32],
}

impl<F: Function> WithIsa for Apply<'_, F> {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let _: F = self.function;
        isa.vectorize(
            #[inline(always)]
            || {
                for (x, y) in self.xs.chunks(I::LANES).zip(self.ys.chunks_mut(I::LANES)) {
                    isa.store_partial(F::vector(isa, isa.load_partial(x)), y);
                }
            },
        );
    }
}

fn apply<F: Function>(kind: IsaKind, function: F, xs: &[f32]) -> Vec<f32> {
    let mut ys = vec![f32::NAN; xs.len()];
    kind.with(Apply { function, xs, ys: &mut ys }).unwrap();
    ys
}

/// The distance from `got` to `exact` in units in the last place that a float of the size of `exact` has.
fn ulp_error(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if got == rounded || (got.is_nan() && exact.is_nan()) {
        return 0.0;
    }
    if !got.is_finite() || !rounded.is_finite() {
        return f64::INFINITY;
    }
    let exponent = libm::ilogb(exact).clamp(-126, 127);
    (f64::from(got) - exact).abs() / libm::exp2(f64::from(exponent - 23))
}

/// Every `step`th of the 2^32 bit patterns.
fn sweep<F: Function>(function: F, step: usize) {
    const CHUNK: usize = 1 << 14;
    let mut worst = vec![(0.0, 0.0f32); IsaKind::available().len()];
    let patterns: Vec<u32> = (0..=u32::MAX).step_by(step).collect();
    for chunk in patterns.chunks(CHUNK) {
        let xs: Vec<f32> = chunk.iter().map(|&b| f32::from_bits(b)).collect();
        let exact: Vec<f64> = xs.iter().map(|&x| F::exact(f64::from(x))).collect();
        for (&kind, worst) in IsaKind::available().iter().zip(&mut worst) {
            for ((got, &exact), &x) in apply(kind, function, &xs).into_iter().zip(&exact).zip(&xs) {
                let error = ulp_error(got, exact);
                if error > worst.0 {
                    *worst = (error, x);
                }
            }
        }
    }
    for (kind, (error, x)) in IsaKind::available().iter().zip(worst) {
        println!("{} on {kind}: {error:.3} ULP at {x:e}", F::NAME);
        assert!(error <= F::MAX_ULP, "{} on {kind}: {error:.3} ULP at {x:e}", F::NAME);
    }
}

const STEP: usize = 401;

#[test]
fn exp_keeps_its_bound() {
    sweep(Exp, STEP);
}

#[test]
fn exp2_keeps_its_bound() {
    sweep(Exp2, STEP);
}

#[test]
fn tanh_keeps_its_bound() {
    sweep(Tanh, STEP);
}

#[test]
fn erf_keeps_its_bound() {
    sweep(Erf, STEP);
}

#[test]
fn rsqrt_keeps_its_bound() {
    sweep(Rsqrt, STEP);
}

#[test]
fn sigmoid_keeps_its_bound() {
    sweep(Sigmoid, STEP);
}

#[test]
fn exp_at_its_edges() {
    const LARGEST: f32 = 88.722_83; // exp is 3.40279…e38, the last finite result
    const SMALLEST: f32 = -103.972_08; // exp is just above half the least subnormal number
    let xs = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        LARGEST,
        LARGEST.next_up(),
        SMALLEST,
        SMALLEST.next_down(),
        f32::MIN_POSITIVE,
        f32::NAN,
    ];
    for &kind in IsaKind::available() {
        let ys = apply(kind, Exp, &xs);
        assert_eq!(ys[..6], [1.0, 1.0, f32::INFINITY, 0.0, f32::INFINITY, 0.0], "{kind}");
        assert!(ys[6].is_finite() && ys[7] == f32::INFINITY, "{kind}: {ys:?}");
        assert_eq!(ys[8..11], [f32::from_bits(1), 0.0, 1.0], "{kind}");
        assert!(ys[11].is_nan(), "{kind}");
        // Subnormal results are not flushed.
        assert!((apply(kind, Exp, &[-95.0])[0] / 5.520_8e-42 - 1.0).abs() < 1e-3, "{kind}");
    }
}

#[test]
fn exp2_is_exact_at_whole_numbers() {
    let powers: Vec<f32> = (-149..128).map(|n| n as f32).collect();
    let edges = [128.0, f32::INFINITY, -150.1, f32::NEG_INFINITY];
    for &kind in IsaKind::available() {
        for (x, y) in powers.iter().zip(apply(kind, Exp2, &powers)) {
            assert_eq!(f64::from(y), libm::exp2(f64::from(*x)), "{kind}: 2^{x}");
        }
        assert_eq!(apply(kind, Exp2, &edges), [f32::INFINITY, f32::INFINITY, 0.0, 0.0], "{kind}");
    }
}

#[test]
fn saturating_functions_at_their_edges() {
    let xs = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::from_bits(1), -f32::from_bits(77)];
    for &kind in IsaKind::available() {
        let odd = |ys: Vec<f32>| {
            let bits: Vec<u32> = ys[..6].iter().map(|y| y.to_bits()).collect();
            assert_eq!(bits, [0.0f32, -0.0, 1.0, -1.0, 1.0, -1.0].map(f32::to_bits), "{kind}");
            ys
        };
        let tanh = odd(apply(kind, Tanh, &xs));
        assert_eq!(tanh[6..], xs[6..], "{kind}: tanh x = x for subnormal x");
        odd(apply(kind, Erf, &xs));
        let sigmoid = apply(kind, Sigmoid, &xs);
        assert_eq!(sigmoid, [0.5, 0.5, 1.0, 0.0, 1.0, 0.0, 0.5, 0.5], "{kind}");
        let rsqrt = apply(kind, Rsqrt, &[0.0, -0.0, f32::INFINITY, 4.0]);
        assert_eq!(rsqrt, [f32::INFINITY, f32::NEG_INFINITY, 0.0, 0.5], "{kind}");
        assert!(apply(kind, Rsqrt, &[-1.0, f32::NEG_INFINITY]).iter().all(|y| y.is_nan()), "{kind}");
    }
}

#[test]
fn odd_functions_are_odd_to_the_bit() {
    let xs: Vec<f32> = (0..1000).map(|i| i as f32 * 0.0127).collect();
    let negative: Vec<f32> = xs.iter().map(|x| -x).collect();
    for &kind in IsaKind::available() {
        for (a, b) in [
            (apply(kind, Tanh, &xs), apply(kind, Tanh, &negative)),
            (apply(kind, Erf, &xs), apply(kind, Erf, &negative)),
        ] {
            assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == (-b).to_bits()), "{kind}");
        }
    }
}

#[test]
fn nan_stays_nan() {
    let xs = [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)];
    for &kind in IsaKind::available() {
        for ys in [
            apply(kind, Exp, &xs),
            apply(kind, Exp2, &xs),
            apply(kind, Tanh, &xs),
            apply(kind, Erf, &xs),
            apply(kind, Rsqrt, &xs),
            apply(kind, Sigmoid, &xs),
        ] {
            assert!(ys.iter().all(|y| y.is_nan()), "{kind}: {ys:?}");
        }
    }
}
