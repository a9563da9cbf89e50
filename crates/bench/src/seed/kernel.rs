//! The engine's kernels as single calls, each of which chooses its instruction set.

use smallmind_kernels::activation::{Gelu, gelu};
use smallmind_kernels::elementwise::add;
use smallmind_kernels::matmul::{Epilogue, Operand, gemm, gemm_scratch_len};
use smallmind_kernels::norm::{LayerNorm, layer_norm};
use smallmind_kernels::softmax::causal_softmax;
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::BenchError;

/// A call of a kernel.
pub(super) enum Kernel<'a> {
    /// `c = a·b (+ bias)`; the scratch grows if it is too short.
    Product { a: Operand<'a>, b: Operand<'a>, bias: Option<&'a [f32]>, c: MatMut<'a>, scratch: &'a mut Vec<f32> },
    /// LayerNorm.
    Norm(LayerNorm<'a>),
    /// GELU.
    Gelu { kind: Gelu, x: Mat<'a>, out: MatMut<'a> },
    /// A sum.
    Add { a: Mat<'a>, b: Mat<'a>, out: MatMut<'a> },
    /// Softmax over the keys that a query sees.
    Softmax { scores: MatMut<'a>, scale: f32 },
}

impl Kernel<'_> {
    /// Calls the kernel.
    pub(super) fn run(self, isa: IsaKind) -> Result<(), BenchError> {
        Ok(isa.with(self).map_err(smallmind_graph::GraphError::from)?)
    }
}

impl WithIsa for Kernel<'_> {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        match self {
            Self::Product { a, b, bias, c, scratch } => {
                let need = gemm_scratch_len(isa, c.rows(), c.cols(), a.cols());
                if scratch.len() < need {
                    scratch.resize(need, 0.0);
                }
                gemm(isa, a, b, c, Epilogue { bias, ..Epilogue::default() }, scratch);
            }
            Self::Norm(norm) => layer_norm(isa, norm),
            Self::Gelu { kind, x, out } => gelu(isa, kind, x, out),
            Self::Add { a, b, out } => add(isa, a, b, out),
            Self::Softmax { scores, scale } => causal_softmax(isa, scores, 0, scale, None),
        }
    }
}
