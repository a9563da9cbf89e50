//! The kernels that work row by row or column by column (norms, rope, embedding, loss, sums) on every instruction set,
//! against their naive twins; and the twins' gradients against finite differences.

mod case;
mod elementwise;
mod embedding;
mod gradients;
mod loss;
mod norm;
mod past_caches;
mod rope;
