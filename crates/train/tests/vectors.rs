//! Single formulas against PyTorch's numbers: optimizer, schedules, activation, norms, loss, attention. `benchmarks/goldens`
//! made
//! the vectors.

#[path = "vectors/attention.rs"]
mod attention;

use serde_json::Value;
use smallmind_kernels::activation::{Gelu, gelu, gelu_backward};
use smallmind_kernels::loss::{IGNORE, cross_entropy, cross_entropy_backward};
use smallmind_kernels::norm::{
    LayerNorm, NormBackward, PARTIAL_ROWS, RmsNorm, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward,
};
use smallmind_kernels::optimizer::{AdamW, adamw};
use smallmind_kernels::rope::RopeTable;
use smallmind_kernels::{Mat, MatMut};
use smallmind_model::ModelConfig;
use smallmind_simd::{Isa, IsaKind, WithIsa};
use smallmind_train::schedule::{Cosine, Schedule, Warmup, WarmupFrom};

const EPSILON: f64 = f32::EPSILON as f64;

/// A section of the file.
fn section(name: &str) -> Value {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/vectors.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    assert!(file[name].is_object(), "{name}");
    file[name].clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

/// A list, or a list of lists end to end.
fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap_or_else(|| panic!("{value} is no list"));
    list.iter().flat_map(|x| if x.is_array() { numbers(x) } else { vec![number(x)] }).collect()
}

/// Inputs, which are exact in `f32`.
fn inputs(value: &Value) -> Vec<f32> {
    let exact = |x: f64| {
        assert_eq!(f64::from(x as f32), x, "an input is exact in f32");
        x as f32
    };
    numbers(value).into_iter().map(exact).collect()
}

/// That each element is within `allowed` of what is expected.
fn close(what: &str, got: &[f32], expected: &[f64], allowed: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        // Not `error > allowed`, which NaN would pass.
        assert!(error <= allowed(i), "{what}[{i}]: {got:e}, {expected:e} expected, allowed {:e}", allowed(i));
    }
}

fn cosine(section: &Value, end: &str, from: WarmupFrom) -> Schedule {
    let warmup = Warmup { steps: whole(&section["warmup"]), from };
    let (max, min) = (number(&section["maximum"]), number(&section["minimum"]));
    Schedule::Cosine(Cosine { max, min, warmup, decay_steps: whole(&section[end]) })
}

#[test]
fn cosine_of_cs336() {
    let section = section("cosine_cs336");
    let schedule = cosine(&section, "cycle", WarmupFrom::Zero);
    let expected = numbers(&section["lr"]);
    assert_eq!(expected.len(), 25);
    for (step, expected) in (0..).zip(expected) {
        let lr = schedule.lr(step);
        assert!((lr - expected).abs() <= 1e-12, "step {step}: {lr}, {expected} expected");
    }
}

#[test]
fn cosine_of_nanogpt() {
    let section = section("cosine_nanogpt");
    let schedule = cosine(&section, "decay", WarmupFrom::FirstStep);
    let steps = section["steps"].as_array().unwrap();
    for (step, expected) in steps.iter().zip(numbers(&section["lr"])) {
        let lr = schedule.lr(whole(step));
        assert!((lr - expected).abs() <= 1e-12 * expected, "step {step}: {lr}, {expected} expected");
    }
}

struct Update<'a> {
    config: AdamW,
    /// Parameters, gradients, first moments, second moments.
    state: &'a mut [Vec<f32>; 4],
}

impl WithIsa for Update<'_> {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let [param, grad, m, v] = self.state;
        adamw(isa, &self.config, param, grad, m, v);
    }
}

#[test]
fn a_thousand_steps_of_adamw() {
    let section = section("adamw");
    let schedule = cosine(&section["lr"], "cycle", WarmupFrom::Zero);
    let (scale, start, betas) = (numbers(&section["scale"]), inputs(&section["start"]), numbers(&section["betas"]));
    let snapshots = section["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.iter().map(|s| whole(&s["step"])).collect::<Vec<_>>(), [1, 10, 100, 1000]);
    for kind in IsaKind::available() {
        let n = start.len();
        let mut state = [start.clone(), vec![f32::NAN; n], vec![0.0; n], vec![0.0; n]];
        for t in 1..=1000i32 {
            for i in 0..n {
                let p = f64::from(state[0][i]);
                state[1][i] = (scale[i] * (0.5 * p + (0.013 * (i + 1) as f64 * f64::from(t)).cos() + 0.25)) as f32;
            }
            let config = AdamW {
                lr: schedule.lr(t as u64),
                beta1: betas[0],
                beta2: betas[1],
                eps: number(&section["eps"]),
                weight_decay: number(&section["weight_decay"]),
                grad_scale: 1.0,
                bias_correction1: 1.0 - betas[0].powi(t),
                bias_correction2: 1.0 - betas[1].powi(t),
            };
            kind.with(Update { config, state: &mut state }).unwrap();
            let Some(expected) = snapshots.iter().find(|s| whole(&s["step"]) == t as u64) else { continue };
            let (lr, schedule_lr) = (number(&expected["lr"]), config.lr);
            assert!((lr - schedule_lr).abs() <= 1e-15, "step {t}: lr {schedule_lr}, {lr} expected");
            let name = |what: &str| format!("{what} after step {t} on {kind}");
            close(&name("params"), &state[0], &numbers(&expected["params"]), |_| 1e-6);
            // Moments are of the size of the gradients, and of their squares.
            close(&name("m"), &state[2], &numbers(&expected["m"]), |i| 1e-6 * scale[i]);
            // β₂ is rounded to `f32`, here as in PyTorch: by at most ε/4, which a moment that remembers 1 / (1 − β₂)
            // steps gathers.
            let v = numbers(&expected["v"]);
            close(&name("v"), &state[3], &v, |i| (EPSILON / 4.0 / (1.0 - betas[1]) + 1e-6) * v[i]);
        }
    }
}

struct Activate<'a> {
    kind: Gelu,
    x: Mat<'a>,
    out: MatMut<'a>,
    derivative: MatMut<'a>,
}

impl WithIsa for Activate<'_> {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let ones = vec![1.0; self.x.cols()];
        gelu(isa, self.kind, self.x, self.out);
        gelu_backward(isa, self.kind, self.x, Mat::new(&ones, 1, ones.len()), self.derivative);
    }
}

#[test]
fn gelu_and_its_derivative() {
    let section = section("gelu");
    let x = inputs(&section["x"]);
    let n = x.len();
    assert_eq!(n, 41);
    for isa in IsaKind::available() {
        for (kind, name) in [(Gelu::Exact, "exact"), (Gelu::Tanh, "tanh")] {
            let (mut out, mut derivative) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            let (x_mat, out_mat) = (Mat::new(&x, 1, n), MatMut::new(&mut out, 1, n));
            let work = Activate { kind, x: x_mat, out: out_mat, derivative: MatMut::new(&mut derivative, 1, n) };
            isa.with(work).unwrap();
            // The error of the second factor, which lies between 0 and 1, times x.
            let allowed = |i: usize| 4e-7 * f64::from(x[i].abs());
            close(&format!("{name} on {isa}"), &out, &numbers(&section[name]), allowed);
            let expected = numbers(&section[format!("{name}_derivative").as_str()]);
            // In the tanh form 1 − s, s near 1, is rounded to ε / 2 and multiplied by up to 25.
            close(&format!("{name}' on {isa}"), &derivative, &expected, |_| 2e-6);
        }
    }
}

/// Tokens and features of the norms' vectors.
const NORM: (usize, usize) = (5, 8);

/// The results of a norm, forward and backward, each NaN at first.
struct NormResult {
    y: Vec<f32>,
    stats: Vec<f32>,
    dx: Vec<f32>,
    dweight: Vec<f32>,
    dbias: Vec<f32>,
}

impl NormResult {
    fn new(stats: usize) -> Self {
        let (rows, cols) = NORM;
        let nan = |n| vec![f32::NAN; n];
        // The gradients of parameters are added to.
        let (dweight, dbias) = (vec![0.0; cols], vec![0.0; cols]);
        Self { y: nan(rows * cols), stats: nan(rows * stats), dx: nan(rows * cols), dweight, dbias }
    }
}

struct NormInput {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    dy: Vec<f32>,
    eps: f32,
}

impl NormInput {
    fn of(section: &Value) -> Self {
        let bias = section.get("bias").map(inputs);
        let read = |key: &str| inputs(&section[key]);
        Self { x: read("x"), weight: read("weight"), bias, dy: read("dy"), eps: number(&section["eps"]) as f32 }
    }

    fn mat<'a>(&self, data: &'a [f32]) -> Mat<'a> {
        Mat::new(data, NORM.0, NORM.1)
    }

    /// The documented bounds of `y` and `dx`, element by element, without the factor of epsilon. `centre` is what the
    /// forward subtracts.
    fn scales(&self, rstd: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (mut y, mut dx) = (Vec::new(), Vec::new());
        for (r, rstd) in rstd.iter().enumerate() {
            let row =
                |data: &[f32]| -> Vec<f64> { data[r * NORM.1..][..NORM.1].iter().map(|x| f64::from(*x)).collect() };
            let largest = |data: &[f64]| data.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let x = largest(&row(&self.x));
            let g: Vec<f64> = row(&self.dy).iter().zip(&self.weight).map(|(dy, w)| dy * f64::from(*w)).collect();
            for i in 0..NORM.1 {
                let bias = self.bias.as_ref().map_or(0.0, |b| f64::from(b[i].abs()));
                y.push(x * rstd * f64::from(self.weight[i].abs()) + bias);
                dx.push(rstd * largest(&g) * (1.0 + x * rstd).powi(2));
            }
        }
        (y, dx)
    }

    /// The documented bound of the gradient of the weight, without the factor of epsilon.
    fn weight_scale(&self, rstd: &[f64], mean: &[f64]) -> Vec<f64> {
        let of = |i: usize| -> f64 {
            let term = |r: usize| {
                let at = r * NORM.1 + i;
                f64::from(self.dy[at].abs()) * (f64::from(self.x[at].abs()) + mean[r].abs()) * rstd[r]
            };
            (0..NORM.0).map(term).sum()
        };
        (0..NORM.1).map(of).collect()
    }
}

/// The factor of the documented bounds: `16 + n / 32` epsilons.
const ROW: f64 = (16.0 + NORM.1 as f64 / 32.0) * EPSILON;
const COLUMN: f64 = (16.0 + NORM.0 as f64 / 8.0) * EPSILON;

struct RunLayerNorm<'a>(&'a NormInput);

impl WithIsa for RunLayerNorm<'_> {
    type Output = NormResult;
    fn call<I: Isa>(self, isa: I) -> NormResult {
        let (input, (rows, cols)) = (self.0, NORM);
        let mut result = NormResult::new(2);
        let NormResult { y, stats, dx, dweight, dbias } = &mut result;
        let (x, dy) = (input.mat(&input.x), input.mat(&input.dy));
        let out = MatMut::new(y, rows, cols);
        let (weight, bias, eps) = (input.weight.as_slice(), input.bias.as_deref(), input.eps);
        layer_norm(
            isa,
            LayerNorm { x, residual: None, weight, bias, eps, out, stats: Some(MatMut::new(stats, rows, 2)) },
        );
        let stats = Mat::new(stats, rows, 2);
        let dx = MatMut::new(dx, rows, cols);
        const { assert!(NORM.0 <= PARTIAL_ROWS) };
        let mut sums = vec![0.0; 2 * cols];
        let partials = MatMut::new(&mut sums, 1, 2 * cols);
        layer_norm_backward(isa, NormBackward { dy, x, weight, stats, add: None, dx, partials });
        dweight.copy_from_slice(&sums[..cols]);
        dbias.copy_from_slice(&sums[cols..]);
        result
    }
}

struct RunRmsNorm<'a>(&'a NormInput);

impl WithIsa for RunRmsNorm<'_> {
    type Output = NormResult;
    fn call<I: Isa>(self, isa: I) -> NormResult {
        let (input, (rows, cols)) = (self.0, NORM);
        let mut result = NormResult::new(1);
        let NormResult { y, stats, dx, dweight, .. } = &mut result;
        let (x, dy) = (input.mat(&input.x), input.mat(&input.dy));
        let out = MatMut::new(y, rows, cols);
        let (weight, eps) = (input.weight.as_slice(), input.eps);
        rms_norm(isa, RmsNorm { x, residual: None, weight, eps, out, stats: Some(MatMut::new(stats, rows, 1)) });
        let stats = Mat::new(stats, rows, 1);
        let dx = MatMut::new(dx, rows, cols);
        let partials = MatMut::new(dweight, 1, cols);
        rms_norm_backward(isa, NormBackward { dy, x, weight, stats, add: None, dx, partials });
        result
    }
}

#[test]
fn layer_norm_forward_and_backward() {
    let section = section("layer_norm");
    let input = NormInput::of(&section);
    let (mean, rstd) = (numbers(&section["mean"]), numbers(&section["rstd"]));
    let (y_scale, dx_scale) = input.scales(&rstd);
    let weight_scale = input.weight_scale(&rstd, &mean);
    let expected = |key: &str| numbers(&section[key]);
    for kind in IsaKind::available() {
        let got = kind.with(RunLayerNorm(&input)).unwrap();
        let name = |what: &str| format!("{what} on {kind}");
        close(&name("y"), &got.y, &expected("y"), |i| ROW * y_scale[i]);
        let (means, rstds): (Vec<f32>, Vec<f32>) = got.stats.chunks(2).map(|s| (s[0], s[1])).unzip();
        let largest = |r: usize| input.x[r * NORM.1..][..NORM.1].iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        close(&name("mean"), &means, &mean, |r| ROW * f64::from(largest(r)));
        close(&name("rstd"), &rstds, &rstd, |r| ROW * rstd[r] * (1.0 + f64::from(largest(r)) * rstd[r]));
        close(&name("dx"), &got.dx, &expected("dx"), |i| ROW * dx_scale[i]);
        close(&name("dweight"), &got.dweight, &expected("dweight"), |i| COLUMN * weight_scale[i]);
        // Sums of five short fractions are exact.
        close(&name("dbias"), &got.dbias, &expected("dbias"), |_| 0.0);
    }
}

#[test]
fn rms_norm_forward_and_backward() {
    let section = section("rms_norm");
    let input = NormInput::of(&section);
    let rstd = numbers(&section["rstd"]);
    let (y_scale, dx_scale) = input.scales(&rstd);
    let weight_scale = input.weight_scale(&rstd, &[0.0; NORM.0]);
    let expected = |key: &str| numbers(&section[key]);
    for kind in IsaKind::available() {
        let got = kind.with(RunRmsNorm(&input)).unwrap();
        let name = |what: &str| format!("{what} on {kind}");
        close(&name("y"), &got.y, &expected("y"), |i| ROW * y_scale[i]);
        close(&name("rstd"), &got.stats, &rstd, |r| 4.0 * EPSILON * rstd[r]);
        close(&name("dx"), &got.dx, &expected("dx"), |i| ROW * dx_scale[i]);
        close(&name("dweight"), &got.dweight, &expected("dweight"), |i| COLUMN * weight_scale[i]);
    }
}

struct Loss<'a> {
    logits: &'a [f32],
    targets: &'a [u32],
    scale: f32,
}

impl WithIsa for Loss<'_> {
    /// The losses of the forward, those of the backward, the gradients.
    type Output = [Vec<f32>; 3];
    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let rows = self.targets.len();
        let vocab = self.logits.len() / rows;
        let (mut forward, mut backward, mut gradient) =
            (vec![f32::NAN; rows], vec![f32::NAN; rows], self.logits.to_vec());
        cross_entropy(isa, Mat::new(self.logits, rows, vocab), self.targets, MatMut::new(&mut forward, rows, 1));
        let gradients = MatMut::new(&mut gradient, rows, vocab);
        cross_entropy_backward(isa, gradients, self.targets, self.scale, MatMut::new(&mut backward, rows, 1));
        [forward, backward, gradient]
    }
}

#[test]
fn cross_entropy_and_its_gradient() {
    let section = section("cross_entropy");
    let logits = inputs(&section["logits"]);
    let targets: Vec<u32> =
        numbers(&section["targets"]).iter().map(|t| if *t < 0.0 { IGNORE } else { *t as u32 }).collect();
    let counted = targets.iter().filter(|t| **t != IGNORE).count();
    assert_eq!((targets.len(), counted), (5, 4));
    let scale = 1.0 / counted as f32;
    let losses = numbers(&section["losses"]);
    // What the documentation of the kernels allows, for a vocabulary of seven.
    let bound = (16.0 + 7.0 / 32.0) * EPSILON;
    for kind in IsaKind::available() {
        let [forward, backward, gradient] = kind.with(Loss { logits: &logits, targets: &targets, scale }).unwrap();
        close(&format!("losses on {kind}"), &forward, &losses, |i| bound + EPSILON * losses[i]);
        assert_eq!(forward, backward, "both ways give the same loss on {kind}");
        let mean = forward.iter().map(|x| f64::from(*x)).sum::<f64>() / counted as f64;
        let expected = number(&section["mean"]);
        assert!((mean - expected).abs() <= bound + EPSILON * expected, "mean {mean}, {expected} expected, on {kind}");
        let expected = numbers(&section["dlogits_of_mean"]);
        close(&format!("gradient on {kind}"), &gradient, &expected, |_| bound * f64::from(scale));
    }
}

/// Frequencies and attention factors of every kind of scaling, through the keys of `config.json` and the table.
#[test]
fn rope_is_scaled_as_the_keys_say() {
    let cases = section("rope");
    for (name, case) in cases.as_object().unwrap() {
        let config = ModelConfig::from_json(&case["config"]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let rope = config.positions.rope().unwrap();
        let dim = rope.dim.unwrap_or(config.head_dim);
        let length = whole(&case["length"]) as usize;
        let table = RopeTable::partial(config.head_dim, dim, rope.theta, rope.scaling.as_ref(), length);
        let (frequencies, factor) = (numbers(&case["frequencies"]), number(&case["attention_factor"]));
        assert_eq!(frequencies.len(), dim / 2, "{name}");
        for position in [0, 1, 5, length - 1] {
            for (i, frequency) in frequencies.iter().enumerate() {
                let angle = position as f64 * frequency;
                let near = |found: f32, want: f64| (f64::from(found) - want).abs() <= EPSILON * factor;
                let (cos, sin) = (table.cos(position)[i], table.sin(position)[i]);
                let good = near(cos, angle.cos() * factor) && near(sin, angle.sin() * factor);
                assert!(good, "{name}, pair {i} at {position}: {cos}, {sin}, frequency {frequency}");
            }
        }
    }
    assert_eq!(cases.as_object().unwrap().len(), 9);
}
