//! Products of `bf16`: timed where the CPU has their dot product, tested on the scalar twin everywhere.

use half::bf16;
use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::matmul::{Epilogue, Partition, gemm_bf16, gemm_bf16_scratch_len};
use smallmind_simd::{Bf16Dot, IsaError, IsaKind, Scalar};

use super::matmul::{check_product, operand, reset_output, scratch_of, update_of, windows};
use super::{Share, Work, Wrong, noise};
use crate::case::Product;

/// Seeds of the operands' noise.
const SEED_A: u64 = 1;
const SEED_B: u64 = 2;

/// The operands of a product.
pub(super) struct NarrowMatmul {
    product: Product,
    a: Vec<bf16>,
    b: Vec<bf16>,
    c: Buffer,
    scratch: Vec<Buffer>,
}

impl NarrowMatmul {
    pub(super) fn new(product: Product) -> Result<Self, GraphError> {
        let Product { m, n, k, .. } = product;
        let noisy = |seed, len| (0..len).map(|i| bf16::from_f32(noise(seed, i))).collect();
        Ok(Self {
            product,
            a: noisy(SEED_A, m * k),
            b: noisy(SEED_B, k * n),
            c: Buffer::zeroed(m * n)?,
            scratch: vec![],
        })
    }

    fn shares_on<D: Bf16Dot>(&mut self, dot: D, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        let product = self.product;
        let Product { m, n, k, .. } = product;
        scratch_of(&mut self.scratch, threads, gemm_bf16_scratch_len(dot, m, n, k))?;
        let (a, b) = (operand(&self.a, product.a, m, k), operand(&self.b, product.b, k, n));
        let epilogue = Epilogue { update: update_of(product), ..Epilogue::default() };
        let all = windows(Partition::choose(m, n), product, threads, &mut self.c).zip(&mut self.scratch);
        let shares = all.map(|((rows, cols, mut c), scratch)| -> Share<'_> {
            let (a, b) = (a.rows_range(rows), b.cols_range(cols));
            Box::new(move |_| gemm_bf16(dot, a, b, c.reborrow(), epilogue, scratch))
        });
        Ok(shares.collect())
    }
}

impl Work for NarrowMatmul {
    fn reset(&mut self) {
        reset_output(self.product, &mut self.c);
    }

    fn shares(&mut self, isa: IsaKind, _: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        if isa == IsaKind::Scalar {
            return self.shares_on(Scalar::new(), threads);
        }
        #[cfg(target_arch = "x86_64")]
        if let (IsaKind::Avx512, Some(dot)) = (isa, smallmind_simd::Avx512Bf16::detect()) {
            return self.shares_on(dot, threads);
        }
        Err(IsaError::Unavailable(isa).into())
    }

    fn check(&self) -> Result<(), Wrong> {
        check_product(self.product, &self.a, &self.b, &self.c)
    }
}

/// Whether an instruction set has the dot product of `bf16` in hardware, so that a time of it says something.
pub(crate) fn has_bf16(isa: IsaKind) -> bool {
    #[cfg(target_arch = "x86_64")]
    let detected = smallmind_simd::Avx512Bf16::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    let detected = false;
    detected && isa == IsaKind::Avx512
}

#[cfg(test)]
mod tests {
    use super::super::run_once;
    use super::*;

    #[test]
    fn products_of_all_forms_hold() {
        for isa in IsaKind::available().iter().copied().filter(|&isa| isa == IsaKind::Scalar || has_bf16(isa)) {
            for (m, n, k) in [(1, 1, 1), (5, 70, 33), (70, 5, 33), (16, 48, 301), (40, 40, 40)] {
                for product in [Product::nn, Product::nt, Product::tn] {
                    for accumulate in [false, true] {
                        check(isa, Product { accumulate, ..product(m, n, k) });
                    }
                }
            }
        }
    }

    fn check(isa: IsaKind, product: Product) {
        let mut work = NarrowMatmul::new(product).unwrap();
        for threads in [1, 2, 3] {
            work.reset();
            run_once(work.shares(isa, 0, threads).unwrap(), threads).unwrap();
            work.check().unwrap_or_else(|wrong| panic!("{product:?} on {isa}, {threads} threads: {wrong}"));
        }
        work.c[0] += 0.25;
        assert!(work.check().is_err());
    }
}
