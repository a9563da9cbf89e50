//! Kernels that treat every element alone, against their `f64` twins: every instruction set, strided windows, outputs that
//! hold NaN before, and windows cut anywhere.

mod activation;
mod dropout;
mod optimizer;
mod support;
