//! The kernels that take longest to compile, through a table of each instruction set.
//!
//! A function that is generic over the instruction set is compiled again in every crate that calls it. These are
//! compiled here, and nowhere else, because the functions that give the tables are never inlined. (A `static` would be
//! compiled for a test of this crate too, whatever the test calls.)

#[cfg(target_arch = "x86_64")]
use smallmind_simd::{Avx2, Avx512};
use smallmind_simd::{Isa, Scalar};

use crate::MatMut;
use crate::attention::{self, AttentionBackward, AttentionForward, BlockQueries};
use crate::matmul::{self, Epilogue, Operand, RightFactor};

/// The table of the instruction set `$isa`, one of those that the three functions return.
macro_rules! table_of {
    ($isa:ty, $scalar:ident, $avx2:ident, $avx512:ident) => {{
        use smallmind_simd::IsaKind;
        let table: &'static dyn std::any::Any = match <$isa as smallmind_simd::Isa>::KIND {
            IsaKind::Scalar => $scalar(),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => $avx2(),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => $avx512(),
            #[cfg(not(target_arch = "x86_64"))]
            IsaKind::Avx2 | IsaKind::Avx512 => $scalar(),
        };
        table.downcast_ref().expect("each instruction set has one token")
    }};
}
pub(crate) use table_of;

/// The pages of a key-value cache, by their number.
pub(crate) type Pages<'a, 'p> = &'a dyn Fn(usize) -> &'p [f32];

pub(crate) struct Compiled<I: Isa> {
    pub gemm: fn(I, Operand, RightFactor, MatMut, Epilogue, &mut [f32]),
    pub attention_forward_head: fn(I, AttentionForward, &mut [f32]),
    pub attention_backward_group: fn(I, AttentionBackward, &mut [f32]),
    pub attend_block: fn(I, BlockQueries, usize, Pages, MatMut, &mut [f32]),
}

impl<I: Isa> Compiled<I> {
    const fn new() -> Self {
        Self {
            gemm: matmul::multiply,
            attention_forward_head: attention::forward_head,
            attention_backward_group: attention::backward_group,
            attend_block: attention::attend,
        }
    }

    /// The kernels of this instruction set.
    #[inline(always)]
    pub fn kernels() -> &'static Self {
        table_of!(I, scalar, avx2, avx512)
    }
}

#[inline(never)]
fn scalar() -> &'static Compiled<Scalar> {
    const { &Compiled::new() }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx2() -> &'static Compiled<Avx2> {
    const { &Compiled::new() }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn avx512() -> &'static Compiled<Avx512> {
    const { &Compiled::new() }
}
