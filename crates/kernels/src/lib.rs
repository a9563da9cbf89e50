//! The arithmetic of a transformer, forward and backward, on matrices of `f32`.
//!
//! Every kernel is a pure function: it takes borrowed matrices, computes the window of the output that it is given, and
//! returns. It allocates nothing, starts no thread, reads no global. The caller decides where values are stored, which
//! instruction set runs and how many workers share an output.
//!
//! # A norm and a linear layer
//!
//! Two tokens of three features pass through an RMSNorm and a linear layer with four outputs. A matrix is a [`Mat`] to
//! read or a [`MatMut`] to write: rows some stride apart, the elements of a row adjacent, so that a window of a matrix
//! is a matrix too.
//!
//! ```
//! use smallmind_kernels::matmul::{Epilogue, Operand, gemm, gemm_scratch_len};
//! use smallmind_kernels::norm::{RmsNorm, rms_norm};
//! use smallmind_kernels::{Mat, MatMut, Part};
//! use smallmind_simd::{Isa, IsaKind, WithIsa};
//!
//! /// The inputs of the layer: `x` [tokens, 3], `gain` [3], `weight` [4, 3].
//! struct Layer<'a> {
//!     x: Mat<'a>,
//!     gain: &'a [f32],
//!     weight: Mat<'a>,
//! }
//!
//! // A kernel is generic over the instruction set, and so is what calls it.
//! impl WithIsa for &Layer<'_> {
//!     type Output = Vec<f32>;
//!
//!     fn call<I: Isa>(self, isa: I) -> Vec<f32> {
//!         let tokens = self.x.rows();
//!         let mut normed = vec![f32::NAN; tokens * 3];
//!         let mut y = vec![f32::NAN; tokens * 4];
//!
//!         // Two workers would each take the rows of their part; here one does after the other, with the same result.
//!         for index in 0..2 {
//!             let rows = Part { index, count: 2 }.range(tokens, 1);
//!             rms_norm(
//!                 isa,
//!                 RmsNorm {
//!                     x: self.x.rows_range(rows.clone()),
//!                     residual: None,
//!                     weight: self.gain,
//!                     eps: 0.0,
//!                     out: MatMut::new(&mut normed, tokens, 3).rows_range(rows),
//!                     stats: None,
//!                 },
//!             );
//!         }
//!
//!         // y = normed · weightᵀ. A kernel allocates nothing: the caller lends it scratch of a stated length.
//!         let mut scratch = vec![0.0; gemm_scratch_len(isa, tokens, 4, 3)];
//!         gemm(
//!             isa,
//!             Operand::normal(Mat::new(&normed, tokens, 3)),
//!             Operand::transposed(self.weight),
//!             MatMut::new(&mut y, tokens, 4),
//!             Epilogue::default(),
//!             &mut scratch,
//!         );
//!         y
//!     }
//! }
//!
//! let x = [2.0, -2.0, 2.0, /* the second token: */ 0.0, 3.0, 0.0];
//! let weight = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
//! let layer = Layer { x: Mat::new(&x, 2, 3), gain: &[1.0, 1.0, 0.5], weight: Mat::new(&weight, 4, 3) };
//!
//! let root_3 = 3.0_f32.sqrt();
//! for kind in IsaKind::available() {
//!     let y = kind.with(&layer)?;
//!     for (y, want) in y.into_iter().zip([1.0, -1.0, 0.5, 0.5, 0.0, root_3, 0.0, root_3]) {
//!         assert!((y - want).abs() < 1e-6);
//!     }
//! }
//! # Ok::<(), smallmind_simd::IsaError>(())
//! ```
//!
//! # What holds for every kernel
//!
//! * **The window doesn't change the result.** Each element is computed in an order that depends on neither the rows
//!   nor the columns of the window, so an output divided among any number of workers has the same bits. The outputs of
//!   row-wise kernels (a norm, rope, the loss) are divided by rows; those of sums over rows (the gradients of weights,
//!   biases and tables) by columns.
//! * **Shapes are preconditions.** Shapes that disagree, and ids, targets or positions out of range, are bugs of the
//!   caller and panic; input from outside is checked before it reaches a kernel.
//! * **Outputs are written, never read**, unless the documentation says that the kernel adds to them.
//! * **Forward and backward are neighbours**, with the formula, its source and the bound of the error;
//!   [`reference`](mod@reference) holds the naive `f64` twin of each, which the tests compare with.
//!
//! | module | kernels |
//! |---|---|
//! | [`matmul`] | matrix products in all layouts, with scale, bias and residual |
//! | [`blocks`] | GGML's block formats: unpacking and packing of rows |
//! | [`attention`], [`softmax`] | causal attention over grouped heads, and its masked softmax |
//! | [`norm`] | LayerNorm and RMSNorm, the residual addition fused |
//! | [`qk_norm`](mod@qk_norm) | RMSNorm of queries and keys, by heads or whole |
//! | [`rope`] | rotary position embedding |
//! | [`activation`] | GELU, SwiGLU, GeGLU |
//! | [`embedding`] | looking up rows, and adding their gradients back |
//! | [`loss`] | softmax cross-entropy |
//! | [`soft_cap`](mod@soft_cap) | logits between two bounds |
//! | [`dropout`] | masks from a counter-based generator |
//! | [`optimizer`] | AdamW, the sum of squares |
//! | [`elementwise`] | sums, copies, multiples, sums over rows |
//!
//! # Reading order
//!
//! `matrix`, `part`, `format`; `row_ops` and the row-wise kernels over it ([`elementwise`], [`norm`],
//! [`qk_norm`](mod@qk_norm), [`rope`], [`activation`], [`loss`],
//! [`soft_cap`](mod@soft_cap), [`optimizer`], [`dropout`]); [`matmul`], which states
//! an order of its own; [`embedding`], [`softmax`], [`attention`]; [`reference`](mod@reference). Each uses only those
//! before it.

pub mod activation;
pub mod attention;
pub mod blocks;
mod compiled;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod experts;
mod format;
pub mod loss;
pub mod matmul;
mod matrix;
pub mod norm;
pub mod optimizer;
mod part;
pub mod qk_norm;
pub mod reference;
pub mod rope;
mod row_ops;
pub mod soft_cap;
pub mod softmax;

pub use format::{Block, Format, FormatKind, HalfKind};
pub use matrix::{Mat, MatMut};
pub use part::Part;
