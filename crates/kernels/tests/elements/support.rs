//! Random numbers, shapes and strided windows.

use smallmind_kernels::reference::Matrix;
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::IsaKind;

/// Lengths around the lanes of every instruction set.
pub const AWKWARD: [usize; 16] = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130];

/// A sequence of random words (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In `[-1, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Mostly of size 1 to 8, now and then very large, very small or 0.
    pub fn value(&mut self) -> f32 {
        let size = [1.0, 3.0, 8.0, 3.0, 1.0, 40.0, 1e-5, 1e-30, 1e15, 0.0][self.below(10)];
        size * self.unit()
    }
}

/// A window `[rows, cols]` with NaN between its rows.
pub struct Window {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Window {
    pub fn nan(rows: usize, cols: usize, gap: usize) -> Self {
        let stride = cols + gap;
        Self { data: vec![f32::NAN; rows * stride], rows, cols, stride }
    }

    pub fn random(rows: usize, cols: usize, gap: usize, random: &mut Random) -> Self {
        let mut window = Self::nan(rows, cols, gap);
        for r in 0..rows {
            window.mat_mut().row_mut(r).fill_with(|| random.value());
        }
        window
    }

    pub fn mat(&self) -> Mat<'_> {
        Mat::with_stride(&self.data, self.rows, self.cols, self.stride)
    }

    pub fn mat_mut(&mut self) -> MatMut<'_> {
        MatMut::with_stride(&mut self.data, self.rows, self.cols, self.stride)
    }

    pub fn widened(&self) -> Matrix {
        Matrix::from_f32(self.mat())
    }

    pub fn bits(&self) -> Vec<u32> {
        (0..self.rows).flat_map(|r| self.mat().row(r).to_vec()).map(f32::to_bits).collect()
    }

    /// That nothing was written between the rows.
    pub fn assert_gaps_untouched(&self) {
        for row in self.data.chunks(self.stride.max(1)) {
            assert!(row[self.cols..].iter().all(|x| x.is_nan()), "an element beyond the row was written");
        }
    }
}

/// Shapes `[rows, cols]`: every awkward length with a few rows, then `count` random ones.
pub fn shapes(count: usize, random: &mut Random) -> Vec<[usize; 2]> {
    let mut shapes: Vec<_> = AWKWARD.iter().flat_map(|&cols| [0, 1, 3].map(|rows| [rows, cols])).collect();
    shapes.extend((0..count).map(|_| [random.below(6), random.below(150)]));
    shapes
}

/// Fails where `got` lies further than `allowed` from `expected`, element by element.
pub fn assert_close(what: &str, kind: IsaKind, got: &Window, expected: &Matrix, allowed: &Matrix) {
    let got = got.widened();
    assert_eq!((got.rows, got.cols), (expected.rows, expected.cols));
    for ((i, &got), (&expected, &allowed)) in got.data.iter().enumerate().zip(expected.data.iter().zip(&allowed.data)) {
        // Results below the normal range have fewer digits.
        let close = (got - expected).abs() <= allowed + f64::from(f32::MIN_POSITIVE);
        assert!(close, "{what} on {kind}, element {i}: {got:e} instead of {expected:e}, allowed {allowed:e}");
    }
}
