//! GELU, SwiGLU and GeGLU.

use smallmind_kernels::activation::{Gelu, geglu, geglu_backward, gelu, gelu_backward, swiglu, swiglu_backward};
use smallmind_kernels::reference::{Matrix, activation as reference};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::support::{Buffer, Rng, shapes};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernel {
    Gelu(Gelu),
    GeluBackward(Gelu),
    Swiglu,
    SwigluBackward,
    Geglu(Gelu),
    GegluBackward(Gelu),
}

const KERNELS: [Kernel; 10] = [
    Kernel::Gelu(Gelu::Exact),
    Kernel::Gelu(Gelu::Tanh),
    Kernel::GeluBackward(Gelu::Exact),
    Kernel::GeluBackward(Gelu::Tanh),
    Kernel::Swiglu,
    Kernel::SwigluBackward,
    Kernel::Geglu(Gelu::Exact),
    Kernel::Geglu(Gelu::Tanh),
    Kernel::GegluBackward(Gelu::Exact),
    Kernel::GegluBackward(Gelu::Tanh),
];

impl Kernel {
    /// Columns of `x`, `dy` and the result, for activations `f` wide; a forward kernel ignores `dy`.
    fn cols(self, f: usize) -> [usize; 3] {
        match self {
            Self::Gelu(_) | Self::GeluBackward(_) => [f, f, f],
            Self::Swiglu | Self::Geglu(_) => [2 * f, f, f],
            Self::SwigluBackward | Self::GegluBackward(_) => [2 * f, f, 2 * f],
        }
    }

    fn exact(self, x: &Matrix, dy: &Matrix) -> Matrix {
        match self {
            Self::Gelu(kind) => reference::gelu(kind, x),
            Self::GeluBackward(kind) => reference::gelu_backward(kind, x, dy),
            Self::Swiglu => reference::swiglu(x),
            Self::SwigluBackward => reference::swiglu_backward(x, dy),
            Self::Geglu(kind) => reference::geglu(kind, x),
            Self::GegluBackward(kind) => reference::geglu_backward(kind, x, dy),
        }
    }

    /// The error allowed for each element: some units in the last place of the largest term.
    fn allowed(self, x: &Matrix, dy: &Matrix) -> Matrix {
        let f = dy.cols;
        match self {
            Self::Gelu(_) => x.map(|x| 2e-7 * x.abs()),
            Self::GeluBackward(_) => dy.map(|dy| 4e-7 * dy.abs()),
            Self::Swiglu => reference::swiglu(x).map(|y| 5e-7 * y.abs()),
            Self::Geglu(_) => Matrix::from_fn(x.rows, f, |r, c| 4e-7 * (x.at(r, c) * x.at(r, f + c)).abs()),
            Self::GegluBackward(_) => Matrix::from_fn(x.rows, 2 * f, |r, c| {
                let (gate, up, dy) = (x.at(r, c % f), x.at(r, f + c % f), dy.at(r, c % f));
                if c < f { 7e-7 * (dy * up).abs() } else { 5e-7 * (dy * gate).abs() }
            }),
            Self::SwigluBackward => Matrix::from_fn(x.rows, 2 * f, |r, c| {
                let (gate, up, dy) = (x.at(r, c % f), x.at(r, f + c % f), dy.at(r, c % f));
                let (s, rest) = (1.0 / (1.0 + (-gate).exp()), 1.0 / (1.0 + gate.exp()));
                // 1 - s is rounded to 2^-24 and then multiplied by the gate; at 17.4 it has reached 0.
                let slope = 1.0 + gate.abs().min(17.4) + gate.abs() * rest;
                1e-6 * (dy * s).abs() * if c < f { up.abs() * slope } else { gate.abs() }
            }),
        }
    }
}

struct Run<'a> {
    kernel: Kernel,
    x: Mat<'a>,
    dy: Mat<'a>,
    out: MatMut<'a>,
}

impl WithIsa for Run<'_> {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        match self.kernel {
            Kernel::Gelu(kind) => gelu(isa, kind, self.x, self.out),
            Kernel::GeluBackward(kind) => gelu_backward(isa, kind, self.x, self.dy, self.out),
            Kernel::Swiglu => swiglu(isa, self.x, self.out),
            Kernel::SwigluBackward => swiglu_backward(isa, self.x, self.dy, self.out),
            Kernel::Geglu(kind) => geglu(isa, kind, self.x, self.out),
            Kernel::GegluBackward(kind) => geglu_backward(isa, kind, self.x, self.dy, self.out),
        }
    }
}

#[test]
fn kernels_match_their_twins_in_any_window() {
    let mut rng = Rng::new(1);
    for [rows, f] in shapes(&mut rng) {
        for kernel in KERNELS {
            let [x_cols, dy_cols, out_cols] = kernel.cols(f);
            let (x, dy) = (Buffer::of_values(&mut rng, rows, x_cols), Buffer::of_values(&mut rng, rows, dy_cols));
            let (exact, allowed) = (kernel.exact(&x.matrix(), &dy.matrix()), kernel.allowed(&x.matrix(), &dy.matrix()));
            for &kind in IsaKind::available() {
                let mut out = Buffer::empty(&mut rng, rows, out_cols);
                kind.with(Run { kernel, x: x.mat(), dy: dy.mat(), out: out.mat_mut() }).unwrap();
                out.assert_near(&exact, &allowed, &format!("{kernel:?} on {kind}"));
                out.assert_gaps_untouched();
                let cut = cut_in_four(kind, kernel, &x, &dy, [rows, out_cols], &mut rng);
                cut.assert_same(&out, &format!("{kernel:?} on {kind}, cut in windows"));
            }
        }
    }
}

/// The result, computed in two windows of rows, each in two windows of columns where the kernel allows it.
fn cut_in_four(kind: IsaKind, kernel: Kernel, x: &Buffer, dy: &Buffer, shape: [usize; 2], rng: &mut Rng) -> Buffer {
    let [rows, cols] = shape;
    let mut out = Buffer::empty(rng, rows, cols);
    let row = rng.below(rows + 1);
    let by_columns = matches!(kernel, Kernel::Gelu(_) | Kernel::GeluBackward(_));
    let col = if by_columns { rng.below(cols + 1) } else { cols };
    let (top, bottom) = out.mat_mut().split_at_row(row);
    for (range, half) in [(0..row, top), (row..rows, bottom)] {
        let (x, dy) = (x.mat().rows_range(range.clone()), dy.mat().rows_range(range));
        if by_columns {
            let (left, right) = half.split_at_col(col);
            for (range, out) in [(0..col, left), (col..cols, right)] {
                let (x, dy) = (x.cols_range(range.clone()), dy.cols_range(range));
                kind.with(Run { kernel, x, dy, out }).unwrap();
            }
        } else {
            kind.with(Run { kernel, x, dy, out: half }).unwrap();
        }
    }
    out
}

#[test]
fn twins_give_published_values() {
    let x = Matrix::new(1, 3, vec![1.0, -1.0, 2.5]);
    let close = |got: Matrix, expected: [f64; 3]| {
        for (got, expected) in got.data.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12, "{got} instead of {expected}");
        }
    };
    // Φ(1), Φ(2.5) from tables of the normal distribution; the tanh form evaluated with 20 digits.
    close(
        reference::gelu(Gelu::Exact, &x),
        [0.841_344_746_068_542_9, -0.158_655_253_931_457_05, 2.484_475_836_685_559_7],
    );
    close(
        reference::gelu(Gelu::Tanh, &x),
        [0.841_191_990_608_276_7, -0.158_808_009_391_723_3, 2.484_915_733_910_001_5],
    );
    let silu = reference::swiglu(&Matrix::new(1, 2, vec![1.0, 2.0])).data[0];
    assert!((silu - 2.0 * 0.731_058_578_630_004_9).abs() < 1e-12, "{silu}");
    for (x, erf) in [(0.5, 0.520_499_877_813_046_5), (2.0, 0.995_322_265_018_952_7), (-4.0, -0.999_999_984_582_742_1)] {
        assert!((reference::erf(x) - erf).abs() < 1e-15, "erf({x})");
    }
    assert!(reference::erf(f64::NAN).is_nan());
}

#[test]
fn twins_of_the_gradients_match_finite_differences() {
    const STEP: f64 = 1e-5;
    let mut rng = Rng::new(2);
    let [x, gate_up, dy] = [9, 18, 9].map(|cols| rng.matrix(4, cols).map(|x| 4.0 * x));
    let check = |x: &Matrix, gradient: Matrix, forward: &dyn Fn(&Matrix) -> Matrix| {
        let loss = |x: &Matrix| forward(x).data.iter().zip(&dy.data).map(|(y, dy)| y * dy).sum::<f64>();
        for i in 0..x.data.len() {
            let (mut above, mut below) = (x.clone(), x.clone());
            above.data[i] += STEP;
            below.data[i] -= STEP;
            let slope = (loss(&above) - loss(&below)) / (2.0 * STEP);
            assert!((slope - gradient.data[i]).abs() < 1e-7, "{slope} by differences, {} derived", gradient.data[i]);
        }
    };
    for kind in [Gelu::Exact, Gelu::Tanh] {
        check(&x, reference::gelu_backward(kind, &x, &dy), &|x| reference::gelu(kind, x));
        check(&gate_up, reference::geglu_backward(kind, &gate_up, &dy), &|x| reference::geglu(kind, x));
    }
    check(&gate_up, reference::swiglu_backward(&gate_up, &dy), &reference::swiglu);
}

/// The stated bounds over the range where the curves bend, and beyond it.
#[test]
fn gelu_is_within_its_bounds_everywhere() {
    let xs: Vec<f32> = (-80_000..=80_000).map(|i| i as f32 * 1.001e-4).collect();
    let (x, dy) = (Mat::new(&xs, 1, xs.len()), vec![1.0; xs.len()]);
    let dy = Mat::new(&dy, 1, xs.len());
    for kernel in KERNELS.into_iter().filter(|k| matches!(k, Kernel::Gelu(_) | Kernel::GeluBackward(_))) {
        let (x64, dy64) = (Matrix::from_f32(x), Matrix::from_f32(dy));
        let (exact, allowed) = (kernel.exact(&x64, &dy64), kernel.allowed(&x64, &dy64));
        for &kind in IsaKind::available() {
            let mut out = Buffer::empty(&mut Rng::new(3), 1, xs.len());
            kind.with(Run { kernel, x, dy, out: out.mat_mut() }).unwrap();
            out.assert_near(&exact, &allowed, &format!("{kernel:?} on {kind}"));
        }
    }
}

#[test]
fn values_keep_to_their_limits_far_out() {
    let xs = [0.0, -0.0, 6.5, -6.5, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    for &kind in IsaKind::available() {
        for gelu in [Gelu::Exact, Gelu::Tanh] {
            let mut y = [f32::NAN; 9];
            let (x, out) = (Mat::new(&xs, 1, 9), MatMut::new(&mut y, 1, 9));
            kind.with(Run { kernel: Kernel::Gelu(gelu), x, dy: x, out }).unwrap();
            assert_eq!(y[..8], [0.0, 0.0, 6.5, 0.0, 1e30, 0.0, f32::INFINITY, 0.0], "{gelu:?} on {kind}");
            assert!(y[8].is_nan(), "{gelu:?} on {kind}");
        }
    }
}

#[test]
fn derivatives_stay_finite_far_out() {
    let xs = [1e4, -1e4, 1e25, -1e25, f32::MAX, f32::MIN];
    for &kind in IsaKind::available() {
        for gelu in [Gelu::Exact, Gelu::Tanh] {
            let mut dx = [f32::NAN; 6];
            let (x, dy) = (Mat::new(&xs, 1, 6), Mat::new(&[2.0; 6], 1, 6));
            let kernel = Kernel::GeluBackward(gelu);
            kind.with(Run { kernel, x, dy, out: MatMut::new(&mut dx, 1, 6) }).unwrap();
            assert_eq!(dx, [2.0, 0.0, 2.0, 0.0, 2.0, 0.0], "{gelu:?} on {kind}");
        }
    }
}

#[test]
#[should_panic(expected = "gate_up is [rows, 2·f]")]
fn a_gate_without_up_is_refused() {
    let mut out = [0.0; 6];
    let (x, dy, out) = (Mat::new(&[0.0; 6], 2, 3), Mat::new(&[], 0, 0), MatMut::new(&mut out, 2, 3));
    IsaKind::best().with(Run { kernel: Kernel::Swiglu, x, dy, out }).unwrap();
}
