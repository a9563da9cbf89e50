//! Products as calls of their kernels: products that no op computes, products of `bf16`, and the kernels between which
//! the engine chooses.

use std::ops::Range;

use half::bf16;
use smallmind_graph::{Buffer, GraphError, Pool};
use smallmind_kernels::matmul::{
    Epilogue, GEMV_MAX_ROWS, KernelChoice, Layout, Operand, PackedWeight, Partition, RightFactor, Update, gemm,
    gemm_bf16, gemm_bf16_scratch_len, gemm_scratch_len, pack_weight, pack_weight_scratch_len,
};
use smallmind_kernels::{Format, Mat, MatMut};
use smallmind_simd::{Bf16Dot, Isa, IsaError, IsaKind, Scalar, WithIsa};

use super::kernel::{Share, parts, seconds, split};
use super::linear::{Reference, SEED_A, SEED_B};
use super::values::Values;
use super::{Found, Output, Target, Work, Wrong};
use crate::case::Product;

/// Up to this many rows of a product, the other route is measured too.
const FEW_ROWS: usize = 24;

/// A product, its operands and the ways to compute it.
pub(super) struct Products {
    product: Product,
    on: Target,
    routes: Vec<(KernelChoice, &'static str)>,
    stored: Stored,
    reference: Reference,
    c: Buffer,
    scratch: Vec<Buffer>,
}

/// The factors in the form that kernels read.
enum Stored {
    Flat { a: Buffer, b: Buffer },
    Packed { x: Buffer, weight: Buffer },
    Bf16 { a: Vec<bf16>, b: Vec<bf16> },
}

impl Products {
    /// A product of `f32`.
    pub(super) fn flat(product: Product, on: Target) -> Result<Self, GraphError> {
        let [a, b] = factors(product);
        let (a, b) = (filled(a)?, filled(b)?);
        Self::new(product, on, flat_routes(product, on.threads), Stored::Flat { a, b })
    }

    /// A product `x·Wᵀ` whose weight has been packed.
    pub(super) fn packed(m: usize, n: usize, k: usize, on: Target) -> Result<Self, GraphError> {
        let product = Product::nt(m, n, k);
        let [x, weight] = factors(product);
        let (x, mut weight) = (filled(x)?, filled(weight)?);
        on.isa.with(Pack { weight: &mut weight, n, k })??;
        Self::new(product, on, packed_routes(m, n, k, on.threads), Stored::Packed { x, weight })
    }

    /// A product of `bf16`.
    pub(super) fn bf16(product: Product, on: Target) -> Result<Self, GraphError> {
        let rounded = |values: Values| -> Vec<bf16> {
            (0..values.rows).flat_map(|row| values.row(row)).map(bf16::from_f32).collect()
        };
        let routes = vec![(KernelChoice::Gemm(Partition::choose(product.m, product.n)), crate::OWN)];
        let [a, b] = factors(product).map(rounded);
        let mut all = Self::new(product, on, routes, Stored::Bf16 { a, b })?;
        all.reference.formats = [Format::Bf16; 2];
        Ok(all)
    }

    fn new(
        product: Product,
        on: Target,
        routes: Vec<(KernelChoice, &'static str)>,
        stored: Stored,
    ) -> Result<Self, GraphError> {
        let Product { m, n, .. } = product;
        let [a, b] = factors(product);
        let mut reference = Reference::new(product, a, b);
        reference.before = product.accumulate.then(|| Values::new(SEED_B + 1, 0.5, m, n));
        Ok(Self { product, on, routes, stored, reference, c: Buffer::zeroed(m * n)?, scratch: vec![] })
    }

    /// The share of each worker under a partition: it calls `call` with the operands, its rows and columns, its window
    /// of the output, and `scratch` elements of scratch.
    fn shares<'a>(
        &'a mut self,
        partition: Partition,
        scratch: usize,
        call: impl Fn(&'a Stored, Window, MatMut<'_>, &mut [f32]) + Clone + Send + 'a,
    ) -> Result<Vec<Share<'a>>, GraphError> {
        let Self { product: Product { m, n, .. }, on, stored, c, scratch: buffers, .. } = self;
        while buffers.len() < on.threads {
            buffers.push(Buffer::zeroed(scratch)?);
        }
        // Another route may have needed less scratch.
        for buffer in buffers.iter_mut().filter(|buffer| buffer.len() < scratch) {
            *buffer = Buffer::zeroed(scratch)?;
        }
        let windows: Vec<Window> = parts(on.threads).map(|part| partition.window(*m, *n, part)).collect();
        let c = MatMut::new(c, *m, *n);
        let outputs = match partition {
            Partition::Rows => split(c, windows.iter().map(|window| window.0.len()), MatMut::split_at_row),
            Partition::Columns => split(c, windows.iter().map(|window| window.1.len()), MatMut::split_at_col),
        };
        let stored: &'a Stored = stored;
        let share = |((window, mut c), scratch): ((Window, MatMut<'a>), &'a mut Buffer)| -> Share<'a> {
            let call = call.clone();
            Box::new(move || call(stored, window.clone(), c.reborrow(), scratch))
        };
        Ok(windows.into_iter().zip(outputs).zip(buffers).map(share).collect())
    }

    fn bf16_shares<D: Bf16Dot>(&mut self, dot: D, partition: Partition) -> Result<Vec<Share<'_>>, GraphError> {
        let (product, epilogue) = (self.product, epilogue_of(self.product));
        let Product { m, n, k, .. } = product;
        self.shares(partition, gemm_bf16_scratch_len(dot, m, n, k), move |stored, (rows, cols), c, scratch| {
            let Stored::Bf16 { a, b } = stored else { return };
            let (a, b) = (operand(a, product.a, m, k), operand(b, product.b, k, n));
            gemm_bf16(dot, a.rows_range(rows), b.cols_range(cols), c, epilogue, scratch);
        })
    }
}

/// Rows and columns of a worker.
type Window = (Range<usize>, Range<usize>);

/// The factors before they are stored.
fn factors(product: Product) -> [Values; 2] {
    let Product { m, n, k, .. } = product;
    let values = |seed, layout, rows, cols| match layout {
        Layout::Normal => Values::new(seed, 0.5, rows, cols),
        Layout::Transposed => Values::new(seed, 0.5, cols, rows),
    };
    [values(SEED_A, product.a, m, k), values(SEED_B, product.b, k, n)]
}

/// A matrix in memory.
fn filled(values: Values) -> Result<Buffer, GraphError> {
    let mut buffer = Buffer::zeroed(values.rows * values.cols)?;
    values.fill(&mut buffer);
    Ok(buffer)
}

/// A factor `[rows, cols]`, stored in `data` in a layout.
fn operand<T>(data: &[T], layout: Layout, rows: usize, cols: usize) -> Operand<'_, T> {
    let mat = match layout {
        Layout::Normal => Mat::new(data, rows, cols),
        Layout::Transposed => Mat::new(data, cols, rows),
    };
    Operand { mat, layout }
}

fn epilogue_of(product: Product) -> Epilogue<'static> {
    let update = if product.accumulate { Update::Accumulate } else { Update::Overwrite };
    Epilogue { update, ..Epilogue::default() }
}

/// The engine's route for a product of `f32`, then the other possible ones.
fn flat_routes(product: Product, threads: usize) -> Vec<(KernelChoice, &'static str)> {
    let Product { a, b, m, n, k, .. } = product;
    let update = epilogue_of(product).update;
    let chosen = KernelChoice::choose((a, b), update, [m, n, k]);
    let streams = (a, b, update) == (Layout::Normal, Layout::Transposed, Update::Overwrite);
    let mut all = vec![];
    if streams && m <= GEMV_MAX_ROWS {
        all.push((KernelChoice::Gemv, "gemv"));
    }
    match threads {
        // A single worker has the whole output under either partition.
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

/// The engine's partition of a product with a packed weight, then the other one if several workers share the output.
fn packed_routes(m: usize, n: usize, k: usize, threads: usize) -> Vec<(KernelChoice, &'static str)> {
    let chosen = Partition::choose_packed(m, n, k);
    let mut all = vec![(Partition::Rows, "packed by rows"), (Partition::Columns, "packed by columns")];
    all.sort_by_key(|(partition, _)| *partition != chosen);
    all.truncate(if threads == 1 { 1 } else { 2 });
    all.into_iter().map(|(partition, name)| (KernelChoice::Gemm(partition), name)).collect()
}

impl Work for Products {
    fn routes(&self) -> Vec<&'static str> {
        self.routes.iter().map(|(_, name)| *name).collect()
    }

    fn reset(&mut self) {
        match self.reference.before {
            Some(before) => before.fill(&mut self.c),
            None => self.c.fill(f32::NAN),
        }
    }

    fn run(&mut self, pool: &mut Pool, route: usize, iterations: usize) -> Result<f64, GraphError> {
        let (route, isa) = (self.routes[route].0, self.on.isa);
        let shares = match self.stored {
            Stored::Flat { .. } | Stored::Packed { .. } => isa.with(Shares { work: self, route })??,
            Stored::Bf16 { .. } if isa == IsaKind::Scalar => self.bf16_shares(Scalar::new(), route.partition())?,
            #[cfg(target_arch = "x86_64")]
            Stored::Bf16 { .. } if isa == IsaKind::Avx512 => {
                let dot = smallmind_simd::Avx512Bf16::detect().ok_or(IsaError::Unavailable(isa))?;
                self.bf16_shares(dot, route.partition())?
            }
            Stored::Bf16 { .. } => return Err(IsaError::Unavailable(isa).into()),
        };
        Ok(seconds(pool, shares, iterations))
    }

    fn outputs(&self) -> Vec<Output<'_>> {
        vec![Output { name: "C", cols: self.product.n, data: &self.c }]
    }

    fn compare(&self, found: &Found<'_>) -> Result<(), Wrong> {
        self.reference.compare(found)
    }
}

struct Pack<'a> {
    weight: &'a mut [f32],
    n: usize,
    k: usize,
}

impl WithIsa for Pack<'_> {
    type Output = Result<(), GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let mut scratch = Buffer::zeroed(pack_weight_scratch_len(isa, self.k))?;
        pack_weight(isa, self.weight, self.n, self.k, &mut scratch);
        Ok(())
    }
}

struct Shares<'a> {
    work: &'a mut Products,
    route: KernelChoice,
}

impl<'a> WithIsa for Shares<'a> {
    type Output = Result<Vec<Share<'a>>, GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { work, route } = self;
        let (product, epilogue) = (work.product, epilogue_of(work.product));
        let Product { m, n, k, .. } = product;
        let scratch = gemm_scratch_len(isa, m, n, k);
        work.shares(route.partition(), scratch, move |stored, (rows, cols), mut c, scratch| match stored {
            Stored::Flat { a, b } => {
                let (a, b) =
                    (operand(a, product.a, m, k).rows_range(rows), operand(b, product.b, k, n).cols_range(cols));
                match route {
                    KernelChoice::Gemv => {
                        for first in (0..m).step_by(GEMV_MAX_ROWS) {
                            let rows = first..(first + GEMV_MAX_ROWS).min(m);
                            let c = c.reborrow().rows_range(rows.clone());
                            gemm(isa, a.rows_range(rows), RightFactor::Streamed(b.mat), c, epilogue, scratch);
                        }
                    }
                    KernelChoice::Gemm(_) => gemm(isa, a, b, c, epilogue, scratch),
                }
            }
            Stored::Packed { x, weight } => {
                let x = Operand::normal(Mat::new(x, m, k)).rows_range(rows);
                let weight = PackedWeight::new(isa, Format::F32, weight, n, k).cols_range(cols);
                gemm(isa, x, weight, c, epilogue, scratch);
            }
            Stored::Bf16 { .. } => {}
        })
    }
}

/// Whether an instruction set has the dot product of `bf16` in hardware, so that its time is worth measuring.
pub(super) fn has_bf16(isa: IsaKind) -> bool {
    #[cfg(target_arch = "x86_64")]
    let detected = smallmind_simd::Avx512Bf16::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let detected = false;
    detected && isa == IsaKind::Avx512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_bf16_hold() {
        for isa in IsaKind::available().iter().copied().filter(|&isa| isa == IsaKind::Scalar || has_bf16(isa)) {
            for (m, n, k) in [(1, 1, 1), (5, 70, 33), (70, 5, 33), (16, 48, 301), (40, 40, 40), (3, 900, 768)] {
                for product in [Product::nn, Product::nt, Product::tn] {
                    for accumulate in [false, true] {
                        check(isa, Product { accumulate, ..product(m, n, k) });
                    }
                }
            }
        }
    }

    fn check(isa: IsaKind, product: Product) {
        for threads in [1, 2, 3] {
            let (mut pool, on) = (Pool::new(threads).unwrap(), Target { isa, threads });
            let mut work = Products::bf16(product, on).unwrap();
            work.reset();
            assert!(work.check().is_err());
            work.run(&mut pool, 0, 1).unwrap();
            work.check().unwrap_or_else(|wrong| panic!("{product:?} on {isa}, {threads} threads: {wrong}"));
            work.c[0] += 0.01;
            assert!(work.check().is_err());
        }
    }

    #[test]
    fn the_engines_route_comes_first() {
        let names =
            |routes: Vec<(KernelChoice, &'static str)>| routes.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        let flat = |product: Product, threads| names(flat_routes(product, threads));
        assert_eq!(flat(Product::nt(4, 64, 8), 1), ["gemv", "gemm"]);
        assert_eq!(flat(Product::nt(20, 64, 8), 2), ["gemm by columns", "gemm by rows", "gemv in passes"]);
        assert_eq!(flat(Product::nn(64, 12, 8), 2)[0], "gemm by rows");
        assert_eq!(flat(Product::tn(64, 12, 8), 1), ["gemm"]);
        assert_eq!(names(packed_routes(1, 64, 8, 2)), ["packed by columns", "packed by rows"]);
        assert_eq!(names(packed_routes(1, 64, 8, 1)), ["packed by columns"]);
    }
}
