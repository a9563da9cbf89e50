//! Random numbers, strided matrices between sentinels, shapes, and runs on every instruction set, whole and in windows.

use std::ops::Range;

use smallmind_kernels::reference::Matrix;
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

/// Lengths around the lanes of every instruction set.
pub const AWKWARD: [usize; 16] = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130];

/// The spacing of `f32` at 1.
pub const EPSILON: f64 = f32::EPSILON as f64;

/// The bits of elements that were never written: a NaN that no kernel computes.
const UNTOUCHED: u32 = 0x7fc0_dead;

/// Random numbers (splitmix64), the same in every run.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    /// From −1 to 1.
    pub fn signed(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// From −1 to 1, in 24 bits.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }

    /// Mostly of magnitude 1 to 8, now and then very large, very small or 0.
    pub fn value(&mut self) -> f32 {
        let size = [1.0, 3.0, 8.0, 3.0, 1.0, 40.0, 1e-5, 1e-30, 1e15, 0.0][self.below(10)];
        size * self.unit()
    }

    pub fn values(&mut self, n: usize, scale: f64) -> Vec<f32> {
        (0..n).map(|_| (scale * self.signed()) as f32).collect()
    }

    pub fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        Matrix::from_fn(rows, cols, |_, _| self.signed())
    }

    pub fn ids(&mut self, n: usize, below: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(below) as u32).collect()
    }

    /// Up to four consecutive ranges that cover `0..len`.
    fn cuts(&mut self, len: usize) -> Vec<Range<usize>> {
        let mut ends = [0, self.below(len + 1), self.below(len + 1), self.below(len + 1), len];
        ends.sort_unstable();
        ends.windows(2).map(|ends| ends[0]..ends[1]).collect()
    }
}

/// A matrix somewhere in a longer buffer: misaligned, with gaps between its rows that hold [`UNTOUCHED`].
#[derive(Clone)]
pub struct Buffer {
    data: Vec<f32>,
    offset: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Buffer {
    /// An output, not yet written.
    pub fn empty(rng: &mut Rng, rows: usize, cols: usize) -> Self {
        let (offset, stride) = (rng.below(4), cols + rng.below(4));
        let data = vec![f32::from_bits(UNTOUCHED); offset + rows * stride + rng.below(4)];
        Self { data, offset, rows, cols, stride }
    }

    /// The matrix of `f(row, column)`.
    pub fn from_fn(rng: &mut Rng, rows: usize, cols: usize, mut f: impl FnMut(&mut Rng, usize, usize) -> f64) -> Self {
        let mut buffer = Self::empty(rng, rows, cols);
        for r in 0..rows {
            for c in 0..cols {
                let value = f(rng, r, c) as f32;
                buffer.mat_mut().row_mut(r)[c] = value;
            }
        }
        buffer
    }

    /// Random elements from −1 to 1.
    pub fn random(rng: &mut Rng, rows: usize, cols: usize) -> Self {
        Self::from_fn(rng, rows, cols, |rng, _, _| rng.signed())
    }

    /// Random elements of many magnitudes.
    pub fn of_values(rng: &mut Rng, rows: usize, cols: usize) -> Self {
        Self::from_fn(rng, rows, cols, |rng, _, _| f64::from(rng.value()))
    }

    pub fn mat(&self) -> Mat<'_> {
        Mat::with_stride(&self.data[self.offset..], self.rows, self.cols, self.stride)
    }

    pub fn mat_mut(&mut self) -> MatMut<'_> {
        MatMut::with_stride(&mut self.data[self.offset..], self.rows, self.cols, self.stride)
    }

    pub fn matrix(&self) -> Matrix {
        Matrix::from_f32(self.mat())
    }

    fn bits(&self) -> Vec<u32> {
        self.data.iter().map(|x| x.to_bits()).collect()
    }

    pub fn assert_gaps_untouched(&self) {
        for (i, bits) in self.bits().into_iter().enumerate() {
            let inside = i >= self.offset && (i - self.offset) % self.stride.max(1) < self.cols;
            let inside = inside && (i - self.offset) / self.stride.max(1) < self.rows;
            assert!(inside || bits == UNTOUCHED, "a kernel wrote outside its matrix, at {i}");
        }
    }

    /// Every element within `bound(row, column)` of `want`.
    pub fn assert_close(&self, want: &Matrix, what: &str, bound: impl Fn(usize, usize) -> f64) {
        assert_eq!((self.rows, self.cols), (want.rows, want.cols), "{what}: shape");
        for r in 0..self.rows {
            for c in 0..self.cols {
                let (got, want, bound) = (f64::from(self.mat().row(r)[c]), want.at(r, c), bound(r, c));
                let near = (got - want).abs() <= bound;
                assert!(near, "{what} of [{}, {}] at ({r}, {c}): {got}, not {want} ± {bound}", self.rows, self.cols);
            }
        }
    }

    /// Every element within `allowed` of `want`. Results below the normal range have fewer digits.
    pub fn assert_near(&self, want: &Matrix, allowed: &Matrix, what: &str) {
        self.assert_close(want, what, |r, c| allowed.at(r, c) + f64::from(f32::MIN_POSITIVE));
    }

    /// Every element is that of `want`, bit for bit.
    pub fn assert_same(&self, want: &Buffer, what: &str) {
        for r in 0..self.rows {
            let same = self.mat().row(r).iter().zip(want.mat().row(r)).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{what} of [{}, {}]: row {r} differs", self.rows, self.cols);
        }
    }
}

/// One problem for a kernel, and how to run it in windows.
pub trait Case {
    /// Fresh outputs, computed window by window: each range is of rows or of columns, whichever the kernel's output is
    /// cut by.
    fn run<I: Isa>(&self, isa: I, windows: &[Range<usize>]) -> Vec<Buffer>;
}

struct Run<'a, C>(&'a C, &'a [Range<usize>]);

impl<C: Case> WithIsa for Run<'_, C> {
    type Output = Vec<Buffer>;

    fn call<I: Isa>(self, isa: I) -> Vec<Buffer> {
        self.0.run(isa, self.1)
    }
}

/// Runs `case` on every instruction set: `check` judges its outputs, which must be bit-equal however `0..len` is cut
/// into windows.
pub fn on_every_isa(rng: &mut Rng, case: &impl Case, len: usize, check: impl Fn(&[Buffer])) {
    for kind in IsaKind::available() {
        let run = |windows: &[Range<usize>]| kind.with(Run(case, windows)).expect("an available instruction set");
        let whole = run(std::slice::from_ref(&(0..len)));
        whole.iter().for_each(Buffer::assert_gaps_untouched);
        check(&whole);
        let parts = run(&rng.cuts(len));
        for (whole, part) in whole.iter().zip(&parts) {
            part.assert_gaps_untouched();
            part.assert_same(whole, &format!("{kind}: an output computed in windows"));
        }
    }
}

/// Shapes `[rows, cols]`: every awkward length with a few rows, then ten thousand random ones.
pub fn shapes(rng: &mut Rng) -> Vec<[usize; 2]> {
    let mut shapes: Vec<_> = AWKWARD.iter().flat_map(|&cols| [0, 1, 3].map(|rows| [rows, cols])).collect();
    shapes.extend((0..10_000).map(|_| [rng.below(6), rng.below(150)]));
    shapes
}

/// Calls `test(rng, rows, cols)` for awkward shapes, then for ten thousand random ones.
pub fn for_shapes(seed: u64, mut test: impl FnMut(&mut Rng, usize, usize)) {
    let mut rng = Rng::new(seed);
    for rows in [0, 1, 2, 7, 8, 9, 17] {
        for cols in [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129] {
            test(&mut rng, rows, cols);
        }
    }
    for _ in 0..10_000 {
        let (rows, cols) = (1 + rng.below(20), 1 + rng.below(200));
        test(&mut rng, rows, cols);
    }
    test(&mut rng, 300, 5);
    test(&mut rng, 3, 5000);
}

/// The greatest magnitude in each row.
pub fn greatest(x: &Matrix) -> Vec<f64> {
    (0..x.rows).map(|r| x.row(r).iter().fold(0.0, |max, x| x.abs().max(max))).collect()
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
