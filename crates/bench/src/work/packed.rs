//! Products with packed weights, as sessions run them.

use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::matmul::{
    Epilogue, Operand, PackedWeight, Partition, gemm, gemm_scratch_len, pack_weight, pack_weight_scratch_len,
};
use smallmind_kernels::{Format, Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::matmul::{SEED_A, SEED_B, check_product, reset_output, scratch_of, windows};
use super::{Share, Work, Wrong, noisy};
use crate::case::Product;

/// The operands of a product `x·Wᵀ`.
pub(super) struct PackedMatmul {
    product: Product,
    x: Buffer,
    weight: Buffer,
    /// The weight as an instruction set reads it.
    packed: Option<(IsaKind, Buffer)>,
    out: Buffer,
    scratch: Vec<Buffer>,
}

impl PackedMatmul {
    pub(super) fn new(m: usize, n: usize, k: usize) -> Result<Self, GraphError> {
        let (x, weight) = (noisy(SEED_A, m * k)?, noisy(SEED_B, n * k)?);
        let product = Product::nt(m, n, k);
        Ok(Self { product, x, weight, packed: None, out: Buffer::zeroed(m * n)?, scratch: vec![] })
    }

    /// The engine's cut, then the other one where workers share the output.
    fn candidates(&self, threads: usize) -> Vec<(Partition, &'static str)> {
        let Product { m, n, k, .. } = self.product;
        let chosen = Partition::choose_packed(m, n, k);
        let mut all = vec![(Partition::Rows, "packed by rows"), (Partition::Columns, "packed by columns")];
        all.sort_by_key(|(cut, _)| *cut != chosen);
        all.truncate(if threads == 1 { 1 } else { 2 });
        all
    }

    fn pack<I: Isa>(&mut self, isa: I) -> Result<(), GraphError> {
        if self.packed.as_ref().is_some_and(|(kind, _)| *kind == I::KIND) {
            return Ok(());
        }
        let Product { n, k, .. } = self.product;
        let mut packed = Buffer::zeroed(n * k)?;
        packed.copy_from_slice(&self.weight);
        pack_weight(isa, &mut packed, n, k, &mut Buffer::zeroed(pack_weight_scratch_len(isa, k))?);
        self.packed = Some((I::KIND, packed));
        Ok(())
    }
}

impl Work for PackedMatmul {
    fn routes(&self, threads: usize) -> Vec<&'static str> {
        self.candidates(threads).into_iter().map(|(_, name)| name).collect()
    }

    fn reset(&mut self) {
        reset_output(self.product, &mut self.out);
    }

    fn shares(&mut self, isa: IsaKind, route: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        let candidates = self.candidates(threads);
        let cut = candidates.get(route).unwrap_or(&candidates[0]).0;
        isa.with(Shares { work: self, cut, threads })?
    }

    fn check(&self) -> Result<(), Wrong> {
        check_product(self.product, &self.x, &self.weight, &self.out)
    }
}

struct Shares<'a> {
    work: &'a mut PackedMatmul,
    cut: Partition,
    threads: usize,
}

impl<'a> WithIsa for Shares<'a> {
    type Output = Result<Vec<Share<'a>>, GraphError>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { work, cut, threads } = self;
        work.pack(isa)?;
        let Product { m, n, k, .. } = work.product;
        scratch_of(&mut work.scratch, threads, gemm_scratch_len(isa, m, n, k))?;
        let x = Operand::normal(Mat::new(&work.x, m, k));
        let weight = work.packed.as_ref().map_or(&[][..], |(_, packed)| packed);
        let weight = PackedWeight::new(isa, Format::F32, weight, n, k);
        let share = |((rows, cols, mut out), scratch): ((_, _, MatMut<'a>), &'a mut Buffer)| -> Share<'a> {
            let (x, weight) = (x.rows_range(rows), weight.cols_range(cols));
            Box::new(move |_| gemm(isa, x, weight, out.reborrow(), Epilogue::default(), scratch))
        };
        Ok(windows(cut, work.product, threads, &mut work.out).zip(&mut work.scratch).map(share).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{run_once, tests::holds};
    use super::*;
    use crate::case::Problem;

    #[test]
    fn products_with_packed_weights_hold() {
        for (m, n, k) in [(1, 1, 1), (1, 100, 500), (5, 70, 33), (20, 48, 300), (70, 5, 33)] {
            holds(Problem::PackedMatmul { m, n, k });
        }
    }

    #[test]
    fn a_wrong_element_is_found() {
        let mut work = PackedMatmul::new(4, 20, 30).unwrap();
        work.reset();
        run_once(work.shares(IsaKind::best(), 0, 1).unwrap(), 1).unwrap();
        assert_eq!(work.check(), Ok(()));
        work.out[0] += 1e-4;
        assert!(work.check().is_err());
    }

    #[test]
    fn the_engines_cut_comes_first() {
        assert_eq!(PackedMatmul::new(1, 64, 8).unwrap().routes(2), ["packed by columns", "packed by rows"]);
        assert_eq!(PackedMatmul::new(1, 64, 8).unwrap().routes(1), ["packed by columns"]);
    }
}
