//! The libraries: how each of them is called.

use crate::matmul::Operands;
use crate::protocol::{Greeting, Introduction, Params};

/// What Cargo has built: `cargo build --locked` takes these versions and no others.
const LOCK: &str = include_str!("../Cargo.lock");

/// A library that multiplies matrices.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    Gemm,
    MatrixMultiply,
}

impl Contender {
    pub const ALL: [Self; 2] = [Self::Gemm, Self::MatrixMultiply];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gemm => "gemm",
            Self::MatrixMultiply => "matrixmultiply",
        }
    }

    /// The version that this program was built with.
    pub fn version(self) -> &'static str {
        let entry = format!("\nname = \"{}\"\nversion = \"", self.name());
        LOCK.split_once(&entry).and_then(|(_, rest)| rest.split('"').next()).unwrap_or("unknown")
    }

    /// Whether the library can work with so many threads, as its process is set up.
    pub fn takes(self, threads: usize) -> Result<(), String> {
        match self {
            Self::Gemm => Ok(()),
            Self::MatrixMultiply if matches!(threads, 1 | 2 | 4) => Ok(()),
            Self::MatrixMultiply => Err(format!("matrixmultiply works with 1, 2 or 4 threads, not with {threads}")),
        }
    }

    /// One product, inside the pool of threads that it is to use.
    pub fn product(self, operands: &mut Operands, threads: usize) {
        let Params { m, n, k, accumulate, .. } = operands.params;
        let (a, a_strides) = (operands.a.get().as_ptr(), operands.a_strides);
        let (b, b_strides) = (operands.b.get().as_ptr(), operands.b_strides);
        let c = operands.c.get_mut().as_mut_ptr();
        let keep = if accumulate { 1.0 } else { 0.0 };
        match self {
            Self::Gemm => {
                let parallelism = match threads {
                    1 => gemm::Parallelism::None,
                    _ => gemm::Parallelism::Rayon(threads),
                };
                // SAFETY: `Operands::new` makes the buffers of the sizes that m, n, k and the strides reach, and c overlaps neither.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        c,
                        1,
                        n as isize,
                        accumulate,
                        a,
                        a_strides.column,
                        a_strides.row,
                        b,
                        b_strides.column,
                        b_strides.row,
                        keep,
                        1.0,
                        false,
                        false,
                        false,
                        parallelism,
                    );
                }
            }
            Self::MatrixMultiply => {
                let (ra, ca) = (a_strides.row, a_strides.column);
                let (rb, cb) = (b_strides.row, b_strides.column);
                // SAFETY: as above.
                unsafe { matrixmultiply::sgemm(m, k, n, 1.0, a, ra, ca, b, rb, cb, keep, c, n as isize, 1) }
            }
        }
    }
}

/// Who is here.
pub fn greeting() -> Greeting {
    let introduce = |contender: Contender| Introduction {
        name: contender.name(),
        version: contender.version(),
        kernels: vec!["matmul/f32", "gemv/f32"],
    };
    Greeting {
        rival: "rust",
        version: Contender::ALL.map(|contender| format!("{} {}", contender.name(), contender.version())).join(", "),
        contenders: Contender::ALL.map(introduce).into(),
    }
}
