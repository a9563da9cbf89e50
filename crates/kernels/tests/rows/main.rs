//! The kernels that work element by element, row by row or column by column (activations, dropout, the optimizer,
//! norms, rope, embedding, loss, sums) on every instruction set, against their naive twins; and the twins' gradients
//! against finite differences.

mod activation;
mod dropout;
mod elementwise;
mod embedding;
mod gradients;
mod loss;
mod norm;
mod optimizer;
mod past_caches;
mod qk_norm;
mod rope;
mod soft_cap;
mod stored_numbers;
mod support;
