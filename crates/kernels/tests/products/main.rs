//! Matrix products compared with their `f64` reference, in every layout and instruction set, and with themselves in
//! windows.

use std::ops::Range;

use half::bf16;
use smallmind_kernels::matmul::{
    Epilogue, GEMV_MAX_ROWS, GemmSizes, Layout, Operand, PackedWeight, RightFactor, gemm, gemm_bf16,
    gemm_bf16_scratch_len, gemm_bf16_sizes, gemm_int8, gemm_packed_bf16, gemm_packed_bf16_scratch_len, gemm_rounded,
    gemm_scratch_len, gemm_sizes, pack_rows, pack_weight, pack_weight_as, pack_weight_scratch_len, packed_len,
    quantize_rows, quantized_words,
};
use smallmind_kernels::{Format, FormatKind, Mat, MatMut};
use smallmind_simd::{Bf16Dot, Isa, IsaKind, WithBf16, WithIsa};

use self::problem::*;

/// Runs a generic function for every instruction set of this CPU.
macro_rules! on_every_isa {
    ($(#[$attribute:meta])? $test:ident, $body:ident) => {
        #[test]
        $(#[$attribute])?
        fn $test() {
            struct Run;
            impl WithIsa for Run {
                type Output = ();
                fn call<I: Isa>(self, isa: I) {
                    $body(isa);
                }
            }
            for kind in IsaKind::available() {
                kind.with(Run).unwrap();
            }
        }
    };
}

/// Runs a generic function for every token of `bf16` dot products of this CPU.
macro_rules! on_every_dot {
    ($test:ident, $body:ident) => {
        #[test]
        fn $test() {
            $body(smallmind_simd::Scalar::new());
            #[cfg(target_arch = "x86_64")]
            if let Some(dot) = smallmind_simd::Avx512Bf16::detect() {
                $body(dot);
            }
        }
    };
}

mod formats;
mod packed;
mod problem;

on_every_isa!(awkward_sizes_in_every_layout, awkward_sizes);
fn awkward_sizes<I: Isa>(isa: I) {
    let GemmSizes { tile_rows: mr, tile_cols: nr, depth, .. } = gemm_sizes(isa);
    let lanes = I::LANES;
    let mut noise = Noise(1);
    for layouts in LAYOUTS {
        for m in [0, 1, 2, mr - 1, mr, mr + 1, 2 * mr + 1] {
            for n in [0, 1, lanes - 1, lanes, lanes + 1, nr - 1, nr, nr + 1, 2 * nr + 3] {
                for k in [0, 1, 3, 4, 5, 15, 16, 17, 33] {
                    let problem = problem(&mut noise, [m, n, k], layouts, 0);
                    problem.check(
                        &problem.run(isa, &[problem.whole()]),
                        k,
                        &format!("{} {layouts:?} {m}x{n}x{k}", I::KIND),
                    );
                }
            }
        }
        for k in [depth - 1, depth, depth + 1, 2 * depth + 1] {
            for epilogue in 0..16 {
                let problem = problem(&mut noise, [mr + 1, nr + 1, k], layouts, epilogue);
                problem.check(
                    &problem.run(isa, &[problem.whole()]),
                    k,
                    &format!("{} {layouts:?} k {k} {epilogue}", I::KIND),
                );
            }
        }
    }
}

on_every_isa!(random_problems, random);
fn random<I: Isa>(isa: I) {
    for seed in 0..10_000 {
        let mut noise = Noise(seed);
        let most = [8, 16, 40, 80][noise.below(4)];
        let [m, n, k] = [0; 3].map(|_| noise.below(most));
        let (layouts, epilogue) = (LAYOUTS[noise.below(4)], noise.below(16));
        let problem = problem(&mut noise, [m, n, k], layouts, epilogue);
        problem.check(&problem.run(isa, &[problem.whole()]), k, &format!("{} seed {seed}", I::KIND));
    }
}

on_every_isa!(windows_are_bit_equal_to_the_whole, windows);
fn windows<I: Isa>(isa: I) {
    let GemmSizes { tile_cols: width, depth, block, kept_cols, .. } = gemm_sizes(isa);
    let (wide, many) = (3 * width + 70, block / 150 + 5);
    assert!(kept_cols.is_multiple_of(width), "kept panels are whole");
    for seed in 0..120 {
        let mut noise = Noise(seed);
        let shape = match seed {
            0..2 => [14, wide, depth + 20],
            2..4 => [many, 70, 150],
            // Several blocks of rows, of depth and of kept columns.
            4..8 => [block / depth + 5, kept_cols + width + 3, depth + 200],
            8..16 => [40, 90, 2 * depth + 1],
            _ => [1 + noise.below(50), 1 + noise.below(100), noise.below(150)],
        };
        let epilogue = noise.below(16);
        let problem = problem(&mut noise, shape, LAYOUTS[seed as usize % 4], epilogue);
        let whole = problem.run(isa, &[problem.whole()]);
        let [m, n, _] = shape;
        let (row, column) = (noise.below(m + 1), noise.below(n + 1));
        let halves = [(0..row, 0..n), (row..m, 0..column), (row..m, column..n)];
        let slices: Vec<_> = (0..m).map(|i| (i..i + 1, 0..n)).collect();
        let strips: Vec<_> = (0..n).step_by(7).map(|j| (0..m, j..(j + 7).min(n))).collect();
        for windows in [&halves[..], &slices, &strips] {
            let cut = problem.run(isa, windows);
            assert!(same_bits(&cut, &whole), "{} seed {seed}: windows change the bits", I::KIND);
        }
    }
}

on_every_isa!(rows_of_a_transposed_factor_whole_pages_apart, pages_apart);
fn pages_apart<I: Isa>(isa: I) {
    let GemmSizes { tile_rows: mr, tile_cols: nr, depth, .. } = gemm_sizes(isa);
    for (k, n, layout) in
        [(33, 3 * nr, Layout::Normal), (depth + 19, 4 * nr + 1, Layout::Transposed), (5, nr, Layout::Normal)]
    {
        let mut noise = Noise(k as u64);
        let mut problem = problem(&mut noise, [2 * mr + 1, n, k], [Layout::Transposed, layout], 0);
        let near = problem.run(isa, &[problem.whole()]);
        let mut far = Buffer::with_stride(&mut noise, k, 2 * mr + 1, 1024, f32::NAN);
        let rows: Vec<_> = (0..k).flat_map(|p| problem.a.mat().row(p)).copied().collect();
        let mut rows = rows.into_iter();
        far.fill(|| rows.next().unwrap());
        problem.a = far;
        let far = problem.run(isa, &[problem.whole()]);
        problem.check(&far, k, "pages apart");
        assert!(same_bits(&far, &near), "{} k {k}: packing A changes the bits", I::KIND);
    }
}

on_every_isa!(gemv_of_any_rows_and_windows, gemv_problems);
fn gemv_problems<I: Isa>(isa: I) {
    for seed in 0..800 {
        let mut noise = Noise(seed);
        let lanes = I::LANES;
        let k = [0, 1, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, noise.below(300), 900 + noise.below(1400)]
            [noise.below(8)];
        let (m, n) = (noise.below(GEMV_MAX_ROWS + 1), [0, 1, 7, 8, 9, 64, noise.below(150)][noise.below(7)]);
        let problem = problem(&mut noise, [m, n, k], LAYOUTS[1], seed as usize % 16);
        let run = |windows: &[(Range<usize>, Range<usize>)]| {
            let mut c = Buffer { data: problem.c.data.clone(), ..problem.c };
            for (rows, columns) in windows {
                let x = Operand::normal(problem.a.mat()).rows_range(rows.clone());
                let w = RightFactor::Streamed(problem.b.mat()).cols_range(columns.clone());
                let out = c.mat_mut().rows_range(rows.clone()).cols_range(columns.clone());
                gemm(isa, x, w, out, problem.epilogue(rows.clone(), columns.clone()), &mut []);
            }
            c
        };
        let whole = run(&[problem.whole()]);
        problem.check(&whole, k, &format!("{} gemv seed {seed}", I::KIND));
        let (row, column) = (noise.below(m + 1), noise.below(n + 1));
        let cut = run(&[(0..row, 0..column), (0..row, column..n), (row..m, 0..n)]);
        assert!(same_bits(&cut, &whole), "{} gemv seed {seed}: windows change the bits", I::KIND);
    }
}

on_every_isa!(scratch_grows_with_the_problem, scratch_len);
fn scratch_len<I: Isa>(isa: I) {
    let sizes = [0, 1, 7, 16, 31, 64, 255, 256, 257, 384, 511, 513, 1000, 5000, 100_000];
    for m in sizes {
        for n in sizes {
            for pair in sizes.windows(2) {
                let len = |m, n, k| gemm_scratch_len(isa, m, n, k);
                assert!(len(m, n, pair[0]) <= len(m, n, pair[1]), "k at {m}, {n}, {pair:?}");
                assert!(len(m, pair[0], n) <= len(m, pair[1], n), "n at {m}, {pair:?}, {n}");
                assert!(len(pair[0], m, n) <= len(pair[1], m, n), "m at {pair:?}, {m}, {n}");
            }
        }
    }
    assert!(gemm_scratch_len(isa, 100_000, 100_000, 100_000) < 5 << 18, "more than 5 MiB");
}

#[test]
#[should_panic(expected = "of scratch")]
fn too_little_scratch_is_refused() {
    let data = [1.0; 64];
    let (a, mut c) = (Operand::normal(Mat::new(&data, 8, 8)), [0.0; 64]);
    gemm(smallmind_simd::Scalar::new(), a, a, MatMut::new(&mut c, 8, 8), Epilogue::default(), &mut [0.0; 70]);
}

#[test]
#[should_panic(expected = "A has 8 columns, B has 4 rows")]
fn shapes_that_disagree_are_refused() {
    let data = [1.0; 64];
    let [a, b] = [Mat::new(&data, 8, 8), Mat::new(&data, 4, 8)].map(Operand::normal);
    gemm(smallmind_simd::Scalar::new(), a, b, MatMut::new(&mut [0.0; 64], 8, 8), Epilogue::default(), &mut [0.0; 999]);
}

/// Factors in `bf16`: a problem, and its factors rounded, with the same values in `f32` in the problem.
struct NarrowProblem {
    problem: Problem,
    a: Vec<bf16>,
    b: Vec<bf16>,
    /// The factors before they were rounded.
    unrounded: [Buffer; 2],
}

impl NarrowProblem {
    fn new(noise: &mut Noise, shape: [usize; 3], layouts: [Layout; 2], epilogue: usize) -> Self {
        let mut problem = problem(noise, shape, layouts, epilogue);
        let unrounded = [&problem.a, &problem.b].map(|buffer| Buffer { data: buffer.data.clone(), ..*buffer });
        let [a, b] = [&mut problem.a, &mut problem.b].map(|buffer| {
            let narrow: Vec<bf16> = buffer.data.iter().copied().map(bf16::from_f32).collect();
            buffer.data = narrow.iter().map(|x| x.to_f32()).collect();
            narrow
        });
        Self { problem, a, b, unrounded }
    }

    fn run<D: Bf16Dot>(&self, dot: D, windows: &[(Range<usize>, Range<usize>)]) -> Buffer {
        run_narrow(dot, &self.problem, [&self.a, &self.b], windows, gemm_bf16)
    }

    /// The same product of the factors before they were rounded, which the product rounds.
    fn run_rounding<D: Bf16Dot>(&self, dot: D, windows: &[(Range<usize>, Range<usize>)]) -> Buffer {
        let [a, b] = &self.unrounded;
        run_narrow(dot, &self.problem, [&a.data, &b.data], windows, gemm_rounded)
    }
}

/// The products of a problem, window by window, with these factors in place of its own.
fn run_narrow<D: Bf16Dot, T: Copy>(
    dot: D,
    p: &Problem,
    [a, b]: [&[T]; 2],
    windows: &[(Range<usize>, Range<usize>)],
    multiply: impl Fn(D, Operand<T>, Operand<T>, MatMut, Epilogue, &mut [f32]),
) -> Buffer {
    let mut c = Buffer { data: p.c.data.clone(), ..p.c };
    let k = if p.layouts[0] == Layout::Normal { p.a.cols } else { p.a.rows };
    let end = 3 + gemm_bf16_scratch_len(dot, c.rows, c.cols, k);
    let mut scratch = vec![f32::NAN; end];
    scratch.resize(end + 64, SENTINEL);
    let (a, b) = (p.a.shaped(a), p.b.shaped(b));
    for (rows, columns) in windows {
        let a = match p.layouts[0] {
            Layout::Normal => Operand::normal(a.rows_range(rows.clone())),
            Layout::Transposed => Operand::transposed(a.cols_range(rows.clone())),
        };
        let b = match p.layouts[1] {
            Layout::Normal => Operand::normal(b.cols_range(columns.clone())),
            Layout::Transposed => Operand::transposed(b.rows_range(columns.clone())),
        };
        let window = c.mat_mut().rows_range(rows.clone()).cols_range(columns.clone());
        multiply(dot, a, b, window, p.epilogue(rows.clone(), columns.clone()), &mut scratch[3..end]);
    }
    assert!(scratch[end..].iter().all(|&x| x == SENTINEL), "wrote past the scratch");
    c
}

on_every_dot!(bf16_of_awkward_sizes_in_every_layout, narrow_sizes);
fn narrow_sizes<D: Bf16Dot>(dot: D) {
    let GemmSizes { tile_rows: mr, tile_cols: nr, depth, .. } = gemm_bf16_sizes(dot);
    let lanes = <D::Isa as Isa>::LANES;
    let mut noise = Noise(2);
    for layouts in LAYOUTS {
        for m in [0, 1, 2, mr - 1, mr, mr + 1, 2 * mr + 1] {
            for n in [0, 1, lanes - 1, lanes, lanes + 1, nr, nr + 1, 2 * nr + 3] {
                for k in [0, 1, 2, 3, 8, 15, 31, 32, 33, 34, 67] {
                    let narrow = NarrowProblem::new(&mut noise, [m, n, k], layouts, (m + n + k) % 16);
                    let c = narrow.run(dot, &[narrow.problem.whole()]);
                    narrow.problem.check(&c, k, &format!("{dot:?} {layouts:?} {m}x{n}x{k}"));
                }
            }
        }
        for k in [depth - 1, depth, depth + 1, 2 * depth + 1] {
            let narrow = NarrowProblem::new(&mut noise, [3 * mr + 1, nr + 1, k], layouts, k % 16);
            let c = narrow.run(dot, &[narrow.problem.whole()]);
            narrow.problem.check(&c, k, &format!("{dot:?} {layouts:?} k {k}"));
        }
    }
}

on_every_dot!(random_bf16_problems, random_narrow);
fn random_narrow<D: Bf16Dot>(dot: D) {
    for seed in 0..10_000 {
        let mut noise = Noise(seed);
        let most = [8, 16, 40, 80][noise.below(4)];
        let [m, n, k] = [0; 3].map(|_| noise.below(most));
        let (layouts, epilogue) = (LAYOUTS[noise.below(4)], noise.below(16));
        let narrow = NarrowProblem::new(&mut noise, [m, n, k], layouts, epilogue);
        let whole = narrow.run(dot, &[narrow.problem.whole()]);
        narrow.problem.check(&whole, k, &format!("{dot:?} seed {seed}"));
        let (row, column) = (noise.below(m + 1), noise.below(n + 1));
        let cut = narrow.run(dot, &[(0..row, 0..n), (row..m, 0..column), (row..m, column..n)]);
        assert!(same_bits(&cut, &whole), "{dot:?} seed {seed}: windows change the bits");
        let rounded = narrow.run_rounding(dot, &[(0..m, 0..column), (0..m, column..n)]);
        assert!(same_bits(&rounded, &whole), "{dot:?} seed {seed}: factors rounded by the product");
    }
}
