//! Products of matrices, shared out as the engine shares them.

use std::ops::Range;

use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::matmul::{
    Epilogue, GEMV_MAX_ROWS, KernelChoice, Layout, Operand, Partition, RightFactor, Update, gemm, gemm_scratch_len,
};
use smallmind_kernels::reference::{Matrix, matmul};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Share, Work, Wrong, magnitudes, noise, noisy, parts, sampled, split_cols, split_rows};
use crate::case::Product;

/// Rows of a product up to which its other route is worth a look.
const FEW_ROWS: usize = 24;
/// Rows and columns of which a check takes the elements.
const SAMPLES: (usize, usize) = (12, 24);

/// The operands of a product.
pub(super) struct Matmul {
    product: Product,
    a: Buffer,
    b: Buffer,
    c: Buffer,
    scratch: Vec<Buffer>,
}

/// Seeds of the operands' noise.
pub(super) const SEED_A: u64 = 1;
pub(super) const SEED_B: u64 = 2;
const SEED_C: u64 = 3;

impl Matmul {
    pub(super) fn new(product: Product) -> Result<Self, GraphError> {
        let Product { m, n, k, .. } = product;
        let (a, b) = (noisy(SEED_A, m * k)?, noisy(SEED_B, k * n)?);
        Ok(Self { product, a, b, c: Buffer::zeroed(m * n)?, scratch: vec![] })
    }

    /// The engine's route, then the others that are to be had.
    fn candidates(&self, threads: usize) -> Vec<(KernelChoice, &'static str)> {
        let Product { a, b, m, n, k, .. } = self.product;
        let chosen = KernelChoice::choose((a, b), update_of(self.product), [m, n, k]);
        let streams = (a, b, update_of(self.product)) == (Layout::Normal, Layout::Transposed, Update::Overwrite);
        let mut all = vec![];
        if streams && m <= GEMV_MAX_ROWS {
            all.push((KernelChoice::Gemv, "gemv"));
        }
        match threads {
            // Alone, a worker has the whole output either way.
            1 => all.push((KernelChoice::Gemm(Partition::choose(m, n)), "gemm")),
            _ => all.extend([
                (KernelChoice::Gemm(Partition::Rows), "gemm by rows"),
                (KernelChoice::Gemm(Partition::Columns), "gemm by columns"),
            ]),
        }
        if streams && (GEMV_MAX_ROWS + 1..=FEW_ROWS).contains(&m) {
            all.push((KernelChoice::Gemv, "gemv in passes"));
        }
        all.sort_by_key(|(route, _)| *route != chosen);
        all
    }
}

/// Rows `rows` and columns `cols` of the factor of that size that lies in `data`.
fn factor<T: Copy + Into<f64>>(
    data: &[T],
    layout: Layout,
    size: (usize, usize),
    rows: &[usize],
    cols: &[usize],
) -> Matrix {
    Matrix::from_fn(rows.len(), cols.len(), |r, c| {
        let (r, c) = (rows[r], cols[c]);
        match layout {
            Layout::Normal => data[r * size.1 + c].into(),
            Layout::Transposed => data[c * size.0 + r].into(),
        }
    })
}

/// Holds samples of `c` against the reference.
pub(super) fn check_product<T: Copy + Into<f64>>(product: Product, a: &[T], b: &[T], c: &[f32]) -> Result<(), Wrong> {
    Wrong::unless_finite("C", c)?;
    let Product { m, n, k, accumulate, .. } = product;
    let (rows, cols, depth) = (sampled(m, SAMPLES.0), sampled(n, SAMPLES.1), (0..k).collect::<Vec<_>>());
    let left = factor(a, product.a, (m, k), &rows, &depth);
    let right = factor(b, product.b, (k, n), &depth, &cols);
    let want = matmul::matmul(&left, Layout::Normal, &right, Layout::Normal);
    let size = matmul::matmul(&magnitudes(&left), Layout::Normal, &magnitudes(&right), Layout::Normal);
    // Errors of a sum add up like a random walk: far below this, while a term that is missing or wrong lies far above.
    let relative = f64::from(f32::EPSILON) * (8.0 + 2.0 * (k as f64).sqrt());
    for (r, &row) in rows.iter().enumerate() {
        for (j, &col) in cols.iter().enumerate() {
            let index = row * n + col;
            let old = if accumulate { f64::from(noise(SEED_C, index)) } else { 0.0 };
            let bound = relative * (size.at(r, j) + old.abs());
            Wrong::unless_close(|| format!("C[{row}, {col}]"), c[index], want.at(r, j) + old, bound)?;
        }
    }
    Ok(())
}

/// The output before a product: NaN, or what it is added to.
pub(super) fn reset_output(product: Product, c: &mut [f32]) {
    let before = |i| if product.accumulate { noise(SEED_C, i) } else { f32::NAN };
    c.iter_mut().enumerate().for_each(|(i, c)| *c = before(i));
}

/// What becomes of the output's earlier contents.
pub(super) fn update_of(product: Product) -> Update {
    if product.accumulate { Update::Accumulate } else { Update::Overwrite }
}

/// Each worker's rows, columns and window of the output under a cut.
pub(super) fn windows<'a>(
    cut: Partition,
    product: Product,
    threads: usize,
    c: &'a mut [f32],
) -> impl Iterator<Item = (Range<usize>, Range<usize>, MatMut<'a>)> {
    let Product { m, n, .. } = product;
    let windows: Vec<_> = parts(threads).map(|part| cut.window(m, n, part)).collect();
    let c = MatMut::new(c, m, n);
    let outputs = match cut {
        Partition::Rows => split_rows(c, &windows.iter().map(|w| w.0.clone()).collect::<Vec<_>>()),
        Partition::Columns => split_cols(c, &windows.iter().map(|w| w.1.clone()).collect::<Vec<_>>()),
    };
    windows.into_iter().zip(outputs).map(|((rows, cols), c)| (rows, cols, c))
}

/// As many buffers as workers, each of at least `len` elements.
pub(super) fn scratch_of(buffers: &mut Vec<Buffer>, threads: usize, len: usize) -> Result<(), GraphError> {
    while buffers.len() < threads {
        buffers.push(Buffer::zeroed(0)?);
    }
    for buffer in buffers.iter_mut().filter(|buffer| buffer.len() < len) {
        *buffer = Buffer::zeroed(len)?;
    }
    Ok(())
}

/// A factor `[rows, cols]` that lies in `data` in a layout.
pub(super) fn operand<T>(data: &[T], layout: Layout, rows: usize, cols: usize) -> Operand<'_, T> {
    let mat = match layout {
        Layout::Normal => Mat::new(data, rows, cols),
        Layout::Transposed => Mat::new(data, cols, rows),
    };
    Operand { mat, layout }
}

impl Work for Matmul {
    fn routes(&self, threads: usize) -> Vec<&'static str> {
        self.candidates(threads).into_iter().map(|(_, name)| name).collect()
    }

    fn reset(&mut self) {
        reset_output(self.product, &mut self.c);
    }

    fn shares(&mut self, isa: IsaKind, route: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        let candidates = self.candidates(threads);
        let route = candidates.get(route).unwrap_or(&candidates[0]).0;
        isa.with(Shares { work: self, route, threads })?
    }

    fn check(&self) -> Result<(), Wrong> {
        check_product(self.product, &self.a, &self.b, &self.c)
    }
}

struct Shares<'a> {
    work: &'a mut Matmul,
    route: KernelChoice,
    threads: usize,
}

impl<'a> WithIsa for Shares<'a> {
    type Output = Result<Vec<Share<'a>>, GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { work, route, threads } = self;
        let product = work.product;
        let Product { m, n, k, .. } = product;
        scratch_of(&mut work.scratch, threads, gemm_scratch_len(isa, m, n, k))?;
        let a = operand(&work.a, product.a, m, k);
        let b = operand(&work.b, product.b, k, n);
        let epilogue = Epilogue { update: update_of(product), ..Epilogue::default() };
        let share = |((rows, cols, mut c), scratch): ((_, _, MatMut<'a>), &'a mut Buffer)| -> Share<'a> {
            let (a, b) = (a.rows_range(rows), b.cols_range(cols));
            match route {
                KernelChoice::Gemv => Box::new(move |_| {
                    for first in (0..m).step_by(GEMV_MAX_ROWS) {
                        let rows = first..(first + GEMV_MAX_ROWS).min(m);
                        let (x, out) = (a.rows_range(rows.clone()), c.reborrow().rows_range(rows));
                        gemm(isa, x, RightFactor::Streamed(b.mat), out, epilogue, &mut []);
                    }
                }),
                KernelChoice::Gemm(_) => Box::new(move |_| gemm(isa, a, b, c.reborrow(), epilogue, scratch)),
            }
        };
        Ok(windows(route.partition(), product, threads, &mut work.c).zip(&mut work.scratch).map(share).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{run_once, tests::holds};
    use super::*;
    use crate::case::Problem;

    #[test]
    fn products_of_all_forms_hold() {
        for (m, n, k) in [(1, 1, 1), (5, 70, 33), (70, 5, 33), (16, 48, 300), (40, 40, 40)] {
            for product in [Product::nn, Product::nt, Product::tn] {
                holds(Problem::Matmul(product(m, n, k)));
                holds(Problem::Matmul(Product { accumulate: true, ..product(m, n, k) }));
            }
        }
        holds(Problem::Gemv { n: 100, k: 77 });
    }

    #[test]
    fn a_wrong_element_is_found() {
        let mut work = Matmul::new(Product::nn(4, 4, 300)).unwrap();
        work.reset();
        run_once(work.shares(IsaKind::Scalar, 0, 1).unwrap(), 1).unwrap();
        assert_eq!(work.check(), Ok(()));
        work.c[5] += 1e-4;
        let wrong = work.check().unwrap_err();
        assert!(wrong.to_string().contains("C[1, 1]"), "{wrong}");
    }

    #[test]
    fn the_engines_route_comes_first() {
        let routes = |product: Product, threads| Matmul::new(product).unwrap().routes(threads);
        assert_eq!(routes(Product::nt(4, 64, 8), 1), ["gemv", "gemm"]);
        assert_eq!(routes(Product::nt(20, 64, 8), 2), ["gemm by columns", "gemm by rows", "gemv in passes"]);
        assert_eq!(routes(Product::nn(64, 12, 8), 2)[0], "gemm by rows");
        assert_eq!(routes(Product::tn(64, 12, 8), 1), ["gemm"]);
    }
}
