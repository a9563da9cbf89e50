//! Products with all their data, run through every kernel and compared with the `f64` reference.

use std::ops::Range;

use smallmind_kernels::matmul::{Epilogue, Layout, Operand, Update, gemm, gemm_scratch_len};
use smallmind_kernels::reference::Matrix;
use smallmind_kernels::reference::matmul::matmul;
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::Isa;

/// Fills memory that no kernel may write.
pub const SENTINEL: f32 = -7.5e20;

/// Numbers from a seed.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// A number in `-1..1`.
    pub fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// A matrix in a larger buffer: misaligned, with gaps between the rows that are filled with a sentinel.
pub struct Buffer {
    pub data: Vec<f32>,
    pub offset: usize,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
    pub gap: f32,
}

impl Buffer {
    pub fn new(noise: &mut Noise, rows: usize, cols: usize, gap: f32) -> Self {
        let stride = cols + noise.below(4);
        Self::with_stride(noise, rows, cols, stride, gap)
    }

    pub fn with_stride(noise: &mut Noise, rows: usize, cols: usize, stride: usize, gap: f32) -> Self {
        let offset = noise.below(5);
        let mut buffer = Self { data: vec![gap; offset + rows * stride + 3], offset, rows, cols, stride, gap };
        buffer.fill(|| noise.float());
        buffer
    }

    pub fn fill(&mut self, mut value: impl FnMut() -> f32) {
        for r in 0..self.rows {
            let start = self.offset + r * self.stride;
            self.data[start..start + self.cols].fill_with(&mut value);
        }
    }

    pub fn mat(&self) -> Mat<'_> {
        self.shaped(&self.data)
    }

    /// The matrix of that shape in other data of the same length.
    pub fn shaped<'a, T>(&self, data: &'a [T]) -> Mat<'a, T> {
        Mat::with_stride(&data[self.offset..], self.rows, self.cols, self.stride)
    }

    pub fn mat_mut(&mut self) -> MatMut<'_> {
        MatMut::with_stride(&mut self.data[self.offset..], self.rows, self.cols, self.stride)
    }

    pub fn check_gaps(&self) {
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
pub struct Problem {
    pub a: Buffer,
    pub b: Buffer,
    pub c: Buffer,
    pub layouts: [Layout; 2],
    pub scale: f32,
    pub update: Update,
    pub bias: Option<Vec<f32>>,
    pub residual: Option<Buffer>,
}

/// A random problem; the bits of `epilogue`, below 16, say which parts its epilogue has.
pub fn problem(noise: &mut Noise, [m, n, k]: [usize; 3], layouts: [Layout; 2], epilogue: usize) -> Problem {
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
    /// `C` and, for each element, the sum of the magnitudes of its terms.
    pub fn expected(&self) -> [Matrix; 2] {
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

    pub fn epilogue(&self, rows: Range<usize>, columns: Range<usize>) -> Epilogue<'_> {
        Epilogue {
            scale: self.scale,
            update: self.update,
            bias: self.bias.as_ref().map(|bias| &bias[columns.clone()]),
            residual: self.residual.as_ref().map(|r| r.mat().rows_range(rows.clone()).cols_range(columns.clone())),
        }
    }

    /// `C` after the product, `[m, n]`, computed window by window.
    pub fn run<I: Isa>(&self, isa: I, windows: &[(Range<usize>, Range<usize>)]) -> Buffer {
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

    pub fn whole(&self) -> (Range<usize>, Range<usize>) {
        (0..self.c.rows, 0..self.c.cols)
    }

    /// Compares with the reference. The bound: each term is rounded a few times and goes through at most `k` additions.
    pub fn check(&self, c: &Buffer, k: usize, what: &str) {
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
pub fn part<'a>(operand: Operand<'a>, rows: Range<usize>, cols: Range<usize>) -> Operand<'a> {
    match operand.layout {
        Layout::Normal => Operand::normal(operand.mat.rows_range(rows).cols_range(cols)),
        Layout::Transposed => Operand::transposed(operand.mat.rows_range(cols).cols_range(rows)),
    }
}

pub const LAYOUTS: [[Layout; 2]; 4] = [
    [Layout::Normal, Layout::Normal],
    [Layout::Normal, Layout::Transposed],
    [Layout::Transposed, Layout::Normal],
    [Layout::Transposed, Layout::Transposed],
];

/// Whether two buffers hold the same bits.
pub fn same_bits(x: &Buffer, y: &Buffer) -> bool {
    x.data.iter().zip(&y.data).all(|(x, y)| x.to_bits() == y.to_bits())
}
