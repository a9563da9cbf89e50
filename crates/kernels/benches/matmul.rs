//! Speed of the matrix products on one thread, best of many runs: `cargo bench -p smallmind-kernels --bench matmul [-- FILTER]`.
//!
//! Prints one line for each instruction set and shape: GFLOP/s, and that as a share of the multiply-adds of registers alone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use smallmind_kernels::matmul::{Epilogue, GEMV_MAX_ROWS, Operand, gemm, gemm_scratch_len, gemv_nt};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

/// Time spent on each shape.
const BUDGET: Duration = Duration::from_millis(120);

/// Least time between two looks at the clock.
const SAMPLE: Duration = Duration::from_micros(50);

/// Which product, by the layouts of its factors.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// `A · B`: the gradient of a linear layer's input.
    Nn,
    /// `A · Bᵀ`: a linear layer.
    Nt,
    /// `Aᵀ · B`: the gradient of its weights.
    Tn,
    /// `A · Bᵀ`, unpacked, for few rows.
    Gemv,
}

struct Case {
    form: Form,
    m: usize,
    n: usize,
    k: usize,
}

/// Squares, then the layers of a small GPT over 768 tokens forward and backward, one head of its attention, and single tokens.
fn cases() -> Vec<Case> {
    use Form::{Gemv, Nn, Nt, Tn};
    let squares = [64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048]
        .into_iter()
        .flat_map(|s| [(Nn, s, s, s), (Nt, s, s, s), (Tn, s, s, s)]);
    let layers =
        [384, 128, 512, 65].into_iter().flat_map(|out| [(Nt, 768, out, 128), (Nn, 768, 128, out), (Tn, out, 128, 768)]);
    let wide = [(Nt, 768, 128, 512), (Nn, 768, 512, 128), (Tn, 128, 512, 768)];
    let heads = [(Nt, 64, 64, 32), (Nn, 64, 32, 64), (Tn, 64, 32, 64)];
    let tokens = [1, 2, 4, GEMV_MAX_ROWS]
        .into_iter()
        .flat_map(|m| [(Gemv, m, 512, 128), (Gemv, m, 768, 768), (Gemv, m, 2048, 2048)]);
    let all = squares.chain(layers).chain(wide).chain(heads).chain(tokens);
    all.map(|(form, m, n, k)| Case { form, m, n, k }).collect()
}

/// Numbers in `-0.5..0.5`.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// The least time of `work`, in seconds; short work is repeated between two looks at the clock.
fn best(mut work: impl FnMut()) -> f64 {
    let begin = Instant::now();
    work();
    let repeats = (SAMPLE.as_secs_f64() / begin.elapsed().as_secs_f64()).ceil().max(1.0) as u32;
    let mut best = Duration::MAX;
    let start = Instant::now();
    while start.elapsed() < BUDGET {
        let begin = Instant::now();
        for _ in 0..repeats {
            work();
        }
        best = best.min(begin.elapsed());
    }
    best.as_secs_f64() / f64::from(repeats)
}

/// Multiply-adds a second of independent chains in registers, times two.
fn peak<I: Isa>(isa: I) -> f64 {
    const CHAINS: usize = 10;
    const STEPS: usize = 10_000;
    let seconds = best(|| {
        isa.vectorize(
            #[inline(always)]
            || {
                let (a, b) = (isa.splat(black_box(0.999)), isa.splat(black_box(0.001)));
                let mut sums = [isa.splat(1.0); CHAINS];
                for _ in 0..STEPS {
                    for sum in &mut sums {
                        *sum = isa.mul_add(*sum, a, b);
                    }
                }
                for sum in sums {
                    black_box(isa.sum(sum));
                }
            },
        );
    });
    (2 * CHAINS * STEPS * I::LANES) as f64 / seconds
}

struct Run<'a> {
    filter: &'a [String],
}

impl WithIsa for Run<'_> {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let name = |case: &Case| format!("{} {:?} {}x{}x{}", I::KIND, case.form, case.m, case.n, case.k).to_lowercase();
        let wanted = |case: &Case| self.filter.iter().all(|word| name(case).contains(word.as_str()));
        let cases: Vec<Case> = cases().into_iter().filter(wanted).collect();
        if cases.is_empty() {
            return;
        }
        let peak = peak(isa);
        println!("{} peak {:.1} GFLOP/s", I::KIND, peak / 1e9);
        for case in cases {
            let Case { form, m, n, k } = case;
            let (a, b) = (noise(m * k), noise(k * n));
            let mut c = vec![0.0; m * n];
            let mut scratch = vec![0.0; gemm_scratch_len(isa, m, n, k)];
            let a = if form == Form::Tn { Mat::new(&a, k, m) } else { Mat::new(&a, m, k) };
            let b = if matches!(form, Form::Nt | Form::Gemv) { Mat::new(&b, n, k) } else { Mat::new(&b, k, n) };
            let (left, right) = match form {
                Form::Nn => (Operand::normal(a), Operand::normal(b)),
                Form::Nt | Form::Gemv => (Operand::normal(a), Operand::transposed(b)),
                Form::Tn => (Operand::transposed(a), Operand::normal(b)),
            };
            let seconds = best(|| {
                let c = MatMut::new(black_box(&mut c), m, n);
                match form {
                    Form::Gemv => gemv_nt(isa, a, b, c, Epilogue::default()),
                    _ => gemm(isa, left, right, c, Epilogue::default(), &mut scratch),
                }
            });
            let rate = (2 * m * n * k) as f64 / seconds;
            println!(
                "{:<28} {:>9.1} us {:>7.1} GFLOP/s {:>5.1} %",
                name(&case),
                seconds * 1e6,
                rate / 1e9,
                100.0 * rate / peak
            );
        }
    }
}

fn bf16(filter: &[String]) {
    use smallmind_kernels::matmul::{gemm_bf16, gemm_bf16_scratch_len};
    let Some(dot) = smallmind_simd::Avx512Bf16::detect() else { return };
    let narrow = |x: &[f32]| x.iter().map(|x| half::bf16::from_f32(*x)).collect::<Vec<_>>();
    for case in cases() {
        let Case { form, m, n, k } = case;
        let name = format!("bf16 {form:?} {m}x{n}x{k}").to_lowercase();
        if form == Form::Gemv || !filter.iter().all(|w| name.contains(w.as_str())) {
            continue;
        }
        let (a, b) = (narrow(&noise(m * k)), narrow(&noise(k * n)));
        let mut c = vec![0.0; m * n];
        let mut scratch = vec![0.0; gemm_bf16_scratch_len(dot, m, n, k)];
        let a = if form == Form::Tn {
            Operand::transposed(Mat::new(&a, k, m))
        } else {
            Operand::normal(Mat::new(&a, m, k))
        };
        let b = if form == Form::Nt {
            Operand::transposed(Mat::new(&b, n, k))
        } else {
            Operand::normal(Mat::new(&b, k, n))
        };
        let seconds =
            best(|| gemm_bf16(dot, a, b, MatMut::new(black_box(&mut c), m, n), Epilogue::default(), &mut scratch));
        println!("{name:<28} {:>9.1} us {:>7.1} GFLOP/s", seconds * 1e6, (2 * m * n * k) as f64 / seconds / 1e9);
    }
}

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    bf16(&filter);
    for kind in IsaKind::available() {
        if kind.with(Run { filter: &filter }).is_err() {
            println!("{kind} is not available");
        }
    }
}
