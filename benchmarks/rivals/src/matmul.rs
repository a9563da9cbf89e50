//! The operands of a product, and the check of what a library made of them.

use crate::protocol::{Layout, Params};

/// Elements of the result that are compared.
const CHECKED: usize = 64;

/// Row and column strides of a matrix, in elements.
#[derive(Clone, Copy)]
pub struct Strides {
    pub row: isize,
    pub column: isize,
}

/// The matrices of one case. `a` is `op(A)[m, k]`, `b` is `op(B)[k, n]`, both through their strides; `c` is `[m, n]`, row by row.
pub struct Operands {
    pub params: Params,
    pub a: Floats,
    pub a_strides: Strides,
    pub b: Floats,
    pub b_strides: Strides,
    pub c: Floats,
}

impl Operands {
    /// Random operands in [-1, 1). Errs where the sizes don't fit into memory.
    pub fn new(params: Params) -> Result<Self, String> {
        let Params { layout, m, n, k, .. } = params;
        let count = |rows: usize, columns: usize| {
            let fits = rows.checked_mul(columns).filter(|&count| count <= 1 << 34);
            fits.ok_or_else(|| format!("a matrix of {rows} x {columns} is too large"))
        };
        if m == 0 || n == 0 || k == 0 {
            return Err(format!("an empty product: m {m}, n {n}, k {k}"));
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let lies = |rows: usize| Strides { row: rows as isize, column: 1 };
        let turned = |rows: usize| Strides { row: 1, column: rows as isize };
        Ok(Self {
            params,
            a: Floats::random(count(m, k)?, &mut random),
            a_strides: if layout == Layout::Tn { turned(m) } else { lies(k) },
            b: Floats::random(count(k, n)?, &mut random),
            b_strides: if layout == Layout::Nt { turned(k) } else { lies(n) },
            c: Floats::random(count(m, n)?, &mut random),
        })
    }

    /// Runs `product` once and compares elements all over `c` with sums in `f64`. Errs with the first one that is wrong.
    pub fn check(&mut self, product: impl FnOnce(&mut Self)) -> Result<(), String> {
        let Params { m, n, k, accumulate, .. } = self.params;
        let mut random = Random(7);
        let mut places = vec![(0, 0), (m - 1, n - 1), (0, n - 1), (m - 1, 0)];
        places.extend((0..CHECKED).map(|_| (random.below(m), random.below(n))));
        let before: Vec<f32> = places.iter().map(|&(i, j)| self.c.get()[i * n + j]).collect();
        if !accumulate {
            self.c.get_mut().fill(f32::NAN);
        }
        product(self);
        let at = |strides: Strides, i: usize, j: usize| i * strides.row as usize + j * strides.column as usize;
        for (&(i, j), &before) in places.iter().zip(&before) {
            let start = if accumulate { f64::from(before) } else { 0.0 };
            let (mut want, mut magnitude) = (start, start.abs());
            for p in 0..k {
                let a = self.a.get()[at(self.a_strides, i, p)];
                let b = self.b.get()[at(self.b_strides, p, j)];
                want += f64::from(a) * f64::from(b);
                magnitude += (f64::from(a) * f64::from(b)).abs();
            }
            let got = f64::from(self.c.get()[i * n + j]);
            let bound = (k + 1) as f64 * f64::from(f32::EPSILON) * magnitude;
            if got.is_nan() || (got - want).abs() > bound {
                return Err(format!("wrong: c[{i}, {j}] is {got}, not {want}"));
            }
        }
        Ok(())
    }
}

/// A buffer that begins at a cache line.
pub struct Floats {
    lines: Vec<Line>,
    count: usize,
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; 16]);

impl Floats {
    fn random(count: usize, random: &mut Random) -> Self {
        let lines = (0..count.div_ceil(16)).map(|_| Line(std::array::from_fn(|_| random.float()))).collect();
        Self { lines, count }
    }

    pub fn get(&self) -> &[f32] {
        // SAFETY: `Line` is sixteen floats without padding, and there are at least `count / 16` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.count) }
    }

    pub fn get_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `get`; the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.count) }
    }
}

/// Marsaglia's xorshift: any numbers that are not special will do.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
