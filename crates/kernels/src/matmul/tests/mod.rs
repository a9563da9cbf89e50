//! The products against their `f64` twin, in every layout and instruction set, and against themselves in windows.

use std::ops::Range;

use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::nest::KEPT_COLUMNS;
use super::tables::Kernels;
use super::*;
use crate::reference::Matrix;
use crate::reference::matmul::matmul;

fn kernels<I: Isa>() -> &'static Kernels<Single<I>> {
    Single::<I>::kernels()
}

/// What no kernel may write.
const SENTINEL: f32 = -7.5e20;

/// Numbers from a seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// In `-1..1`.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// A matrix in a larger buffer: misaligned, rows apart, the gaps filled.
struct Buffer {
    data: Vec<f32>,
    offset: usize,
    rows: usize,
    cols: usize,
    stride: usize,
    gap: f32,
}

impl Buffer {
    fn new(noise: &mut Noise, rows: usize, cols: usize, gap: f32) -> Self {
        let stride = cols + noise.below(4);
        Self::with_stride(noise, rows, cols, stride, gap)
    }

    fn with_stride(noise: &mut Noise, rows: usize, cols: usize, stride: usize, gap: f32) -> Self {
        let offset = noise.below(5);
        let mut buffer = Self { data: vec![gap; offset + rows * stride + 3], offset, rows, cols, stride, gap };
        buffer.fill(|| noise.float());
        buffer
    }

    fn fill(&mut self, mut value: impl FnMut() -> f32) {
        for r in 0..self.rows {
            let start = self.offset + r * self.stride;
            self.data[start..start + self.cols].fill_with(&mut value);
        }
    }

    fn mat(&self) -> Mat<'_> {
        self.shaped(&self.data)
    }

    /// The matrix of that shape in other data of the same length.
    fn shaped<'a, T>(&self, data: &'a [T]) -> Mat<'a, T> {
        Mat::with_stride(&data[self.offset..], self.rows, self.cols, self.stride)
    }

    fn mat_mut(&mut self) -> MatMut<'_> {
        MatMut::with_stride(&mut self.data[self.offset..], self.rows, self.cols, self.stride)
    }

    fn check_gaps(&self) {
        for (i, &x) in self.data.iter().enumerate() {
            let inside = i >= self.offset && {
                let (r, c) = ((i - self.offset) / self.stride.max(1), (i - self.offset) % self.stride.max(1));
                r < self.rows && c < self.cols
            };
            assert!(
                inside || x.to_bits() == self.gap.to_bits(),
                "element {i} lies outside of the matrix and was written"
            );
        }
    }
}

/// A problem with all its data.
struct Problem {
    a: Buffer,
    b: Buffer,
    c: Buffer,
    layouts: [Layout; 2],
    scale: f32,
    update: Update,
    bias: Option<Vec<f32>>,
    residual: Option<Buffer>,
}

/// Which parts an epilogue has, from the bits of a number below 16.
fn problem(noise: &mut Noise, [m, n, k]: [usize; 3], layouts: [Layout; 2], epilogue: usize) -> Problem {
    let shape = |layout, rows, cols| if layout == Layout::Normal { (rows, cols) } else { (cols, rows) };
    let ((a_rows, a_cols), (b_rows, b_cols)) = (shape(layouts[0], m, k), shape(layouts[1], k, n));
    let update = if epilogue & 1 == 0 { Update::Overwrite } else { Update::Accumulate };
    let mut c = Buffer::new(noise, m, n, SENTINEL);
    if update == Update::Overwrite {
        c.fill(|| f32::NAN);
    }
    Problem {
        a: Buffer::new(noise, a_rows, a_cols, f32::NAN),
        b: Buffer::new(noise, b_rows, b_cols, f32::NAN),
        c,
        layouts,
        scale: if epilogue & 2 == 0 { 1.0 } else { noise.float() },
        update,
        bias: (epilogue & 4 != 0).then(|| (0..n).map(|_| noise.float()).collect()),
        residual: (epilogue & 8 != 0).then(|| Buffer::new(noise, m, n, f32::NAN)),
    }
}

impl Problem {
    /// `C` and, for each element, the sum of the magnitudes that went into it.
    fn expected(&self) -> [Matrix; 2] {
        [|x: f64| x, f64::abs].map(|part| {
            let [a, b] = [&self.a, &self.b].map(|buffer| Matrix::from_f32(buffer.mat()).map(part));
            let mut c = matmul(&a, self.layouts[0], &b, self.layouts[1]).map(|x| x * part(f64::from(self.scale)));
            for i in 0..c.rows {
                for j in 0..c.cols {
                    let bias = self.bias.as_ref().map_or(0.0, |bias| bias[j]);
                    let residual = self.residual.as_ref().map_or(0.0, |residual| residual.mat().row(i)[j]);
                    let before = if self.update == Update::Accumulate { self.c.mat().row(i)[j] } else { 0.0 };
                    *c.at_mut(i, j) += [bias, residual, before].map(|x| part(f64::from(x))).iter().sum::<f64>();
                }
            }
            c
        })
    }

    fn epilogue(&self, rows: Range<usize>, columns: Range<usize>) -> Epilogue<'_> {
        Epilogue {
            scale: self.scale,
            update: self.update,
            bias: self.bias.as_ref().map(|bias| &bias[columns.clone()]),
            residual: self.residual.as_ref().map(|r| r.mat().rows_range(rows.clone()).cols_range(columns.clone())),
        }
    }

    /// `C` after the product, `[m, n]`, computed window by window.
    fn run<I: Isa>(&self, isa: I, windows: &[(Range<usize>, Range<usize>)]) -> Buffer {
        let mut c = Buffer { data: self.c.data.clone(), ..self.c };
        let k = if self.layouts[0] == Layout::Normal { self.a.cols } else { self.a.rows };
        let end = 3 + gemm_scratch_len(isa, c.rows, c.cols, k);
        let mut scratch = vec![f32::NAN; end];
        scratch.resize(end + 64, SENTINEL);
        let [a, b] = [
            Operand { mat: self.a.mat(), layout: self.layouts[0] },
            Operand { mat: self.b.mat(), layout: self.layouts[1] },
        ];
        for (rows, columns) in windows {
            let (a, b) = (part(a, rows.clone(), 0..k), part(b, 0..k, columns.clone()));
            let window = c.mat_mut().rows_range(rows.clone()).cols_range(columns.clone());
            gemm(isa, a, b, window, self.epilogue(rows.clone(), columns.clone()), &mut scratch[3..end]);
        }
        assert!(scratch[end..].iter().all(|&x| x == SENTINEL), "wrote past the scratch");
        c
    }

    fn whole(&self) -> (Range<usize>, Range<usize>) {
        (0..self.c.rows, 0..self.c.cols)
    }

    /// Compares with the reference: each term is rounded a few times, and carried through at most `k` additions.
    fn check(&self, c: &Buffer, k: usize, what: &str) {
        let [expected, magnitude] = self.expected();
        c.check_gaps();
        for i in 0..c.rows {
            for (j, &got) in c.mat().row(i).iter().enumerate() {
                let (want, bound) = (expected.at(i, j), magnitude.at(i, j) * (k + 4) as f64 * f64::from(f32::EPSILON));
                let error = (f64::from(got) - want).abs();
                assert!(error <= bound, "{what}: C[{i}, {j}] = {got}, not {want}: off by {error:e}, allowed {bound:e}");
            }
        }
    }
}

/// A window of an operand, written apart from the one under test.
fn part<'a>(operand: Operand<'a>, rows: Range<usize>, cols: Range<usize>) -> Operand<'a> {
    match operand.layout {
        Layout::Normal => Operand::normal(operand.mat.rows_range(rows).cols_range(cols)),
        Layout::Transposed => Operand::transposed(operand.mat.rows_range(cols).cols_range(rows)),
    }
}

const LAYOUTS: [[Layout; 2]; 4] = [
    [Layout::Normal, Layout::Normal],
    [Layout::Normal, Layout::Transposed],
    [Layout::Transposed, Layout::Normal],
    [Layout::Transposed, Layout::Transposed],
];

/// Runs a generic function for every instruction set of this CPU.
macro_rules! on_every_isa {
    ($test:ident, $body:ident) => {
        #[test]
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

mod formats;
mod packed;

on_every_isa!(awkward_sizes_in_every_layout, awkward_sizes);
fn awkward_sizes<I: Isa>(isa: I) {
    let (mr, nr, depth, lanes) = (kernels::<I>().rows(), kernels::<I>().width(), kernels::<I>().max_depth, I::LANES);
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
    let depth = kernels::<I>().max_depth;
    let (width, max_block) = (kernels::<I>().width(), kernels::<I>().max_block);
    let (wide, many) = (3 * width + 70, max_block / 150 + 5);
    assert!(KEPT_COLUMNS.is_multiple_of(width), "kept panels are whole");
    for seed in 0..120 {
        let mut noise = Noise(seed);
        let shape = match seed {
            0..2 => [14, wide, depth + 20],
            2..4 => [many, 70, 150],
            // Several blocks of rows, of depth and of kept columns.
            4..8 => [max_block / depth + 5, KEPT_COLUMNS + width + 3, depth + 200],
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
            let same = cut.data.iter().zip(&whole.data).all(|(x, y)| x.to_bits() == y.to_bits());
            assert!(same, "{} seed {seed}: windows change the bits", I::KIND);
        }
    }
}

on_every_isa!(rows_of_a_transposed_factor_whole_pages_apart, pages_apart);
fn pages_apart<I: Isa>(isa: I) {
    let (mr, nr, depth) = (kernels::<I>().rows(), kernels::<I>().width(), kernels::<I>().max_depth);
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
        let same = far.data.iter().zip(&near.data).all(|(x, y)| x.to_bits() == y.to_bits());
        assert!(same, "{} k {k}: packing A changes the bits", I::KIND);
    }
}

on_every_isa!(a_batch_is_its_products, batch);
fn batch<I: Isa>(isa: I) {
    let mut noise = Noise(5);
    let shapes = [[5, 9, 7], [33, 20, 40], [1, 1, 0], [13, 64, 31]];
    let problems: Vec<_> = (0..4).map(|i| problem(&mut noise, shapes[i], LAYOUTS[i], 4 * i)).collect();
    let mut outputs: Vec<_> = problems.iter().map(|p| Buffer { data: p.c.data.clone(), ..p.c }).collect();
    let batch = problems.iter().zip(&mut outputs).map(|(p, c)| Gemm {
        a: Operand { mat: p.a.mat(), layout: p.layouts[0] },
        b: Operand { mat: p.b.mat(), layout: p.layouts[1] },
        c: c.mat_mut(),
        epilogue: p.epilogue(0..p.c.rows, 0..p.c.cols),
    });
    let mut scratch = vec![f32::NAN; gemm_scratch_len(isa, 33, 64, 40)];
    batched_gemm(isa, batch, &mut scratch);
    for ((problem, c), shape) in problems.iter().zip(&outputs).zip(shapes) {
        problem.check(c, shape[2], "batch");
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
                let (x, w) = (problem.a.mat().rows_range(rows.clone()), problem.b.mat().rows_range(columns.clone()));
                let out = c.mat_mut().rows_range(rows.clone()).cols_range(columns.clone());
                gemv_nt(isa, x, w, out, problem.epilogue(rows.clone(), columns.clone()));
            }
            c
        };
        let whole = run(&[problem.whole()]);
        problem.check(&whole, k, &format!("{} gemv seed {seed}", I::KIND));
        let (row, column) = (noise.below(m + 1), noise.below(n + 1));
        let cut = run(&[(0..row, 0..column), (0..row, column..n), (row..m, 0..n)]);
        let same = cut.data.iter().zip(&whole.data).all(|(x, y)| x.to_bits() == y.to_bits());
        assert!(same, "{} gemv seed {seed}: windows change the bits", I::KIND);
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
    assert!(gemm_scratch_len(isa, 100_000, 100_000, 100_000) < 1 << 20);
}

on_every_isa!(transposing_in_registers_copies_what_portable_code_copies, transposes);
fn transposes<I: Isa>(isa: I) {
    let mut noise = Noise(9);
    for depth in 0..40 {
        for cols in 1..=kernels::<I>().width() {
            let source = Buffer::new(&mut noise, cols, depth, f32::NAN);
            let width = cols.next_multiple_of(I::LANES);
            let [fast, portable] = [kernels::<I>().transpose, pack::transpose].map(|transpose| {
                let mut panel = vec![SENTINEL; depth * width + 1];
                // SAFETY: the panel holds depth * width elements, and width is a multiple of the lanes.
                unsafe { transpose(isa, pack::WordRows::of(source.mat()), panel.as_mut_ptr(), width) };
                panel
            });
            assert_eq!(fast, portable, "{} [{cols}, {depth}]", I::KIND);
            let expected = (0..depth * width).map(|i| (i / width, i % width));
            let expected = expected.map(|(p, j)| if j < cols { source.mat().row(j)[p] } else { 0.0 });
            assert!(portable.iter().copied().eq(expected.chain([SENTINEL])), "{} [{cols}, {depth}]", I::KIND);
        }
    }
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

/// Factors in `bf16`: a problem, and its factors rounded, with the same values in `f32` in the problem.
struct NarrowProblem {
    problem: Problem,
    a: Vec<bf16>,
    b: Vec<bf16>,
}

impl NarrowProblem {
    fn new(noise: &mut Noise, shape: [usize; 3], layouts: [Layout; 2], epilogue: usize) -> Self {
        let mut problem = problem(noise, shape, layouts, epilogue);
        let [a, b] = [&mut problem.a, &mut problem.b].map(|buffer| {
            let narrow: Vec<bf16> = buffer.data.iter().copied().map(bf16::from_f32).collect();
            buffer.data = narrow.iter().map(|x| x.to_f32()).collect();
            narrow
        });
        Self { problem, a, b }
    }

    fn run<D: Bf16Dot>(&self, dot: D, windows: &[(Range<usize>, Range<usize>)]) -> Buffer {
        let p = &self.problem;
        let mut c = Buffer { data: p.c.data.clone(), ..p.c };
        let k = if p.layouts[0] == Layout::Normal { p.a.cols } else { p.a.rows };
        let end = 3 + gemm_bf16_scratch_len(dot, c.rows, c.cols, k);
        let mut scratch = vec![f32::NAN; end];
        scratch.resize(end + 64, SENTINEL);
        let (a, b) = (p.a.shaped(&self.a), p.b.shaped(&self.b));
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
            gemm_bf16(dot, a, b, window, p.epilogue(rows.clone(), columns.clone()), &mut scratch[3..end]);
        }
        assert!(scratch[end..].iter().all(|&x| x == SENTINEL), "wrote past the scratch");
        c
    }
}

on_every_dot!(bf16_of_awkward_sizes_in_every_layout, narrow_sizes);
fn narrow_sizes<D: Bf16Dot>(dot: D) {
    let kernels = Pairs::<D>::kernels();
    let (mr, nr, depth, lanes) = (kernels.rows(), kernels.width(), 2 * kernels.max_depth, D::LANES);
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
        let same = cut.data.iter().zip(&whole.data).all(|(x, y)| x.to_bits() == y.to_bits());
        assert!(same, "{dot:?} seed {seed}: windows change the bits");
    }
}
