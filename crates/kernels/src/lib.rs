//! kernels

pub mod activation;
pub mod attention;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod loss;
pub mod matmul;
mod matrix;
pub mod norm;
pub mod optimizer;
mod part;
pub mod reference;
pub mod rope;
pub mod softmax;
mod sweep;

pub use matrix::{Mat, MatMut};
pub use part::Part;
