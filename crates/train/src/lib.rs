//! train

pub mod data;
mod random;
pub mod schedule;
mod step;
pub mod stories;

pub use step::{BatchShape, Learner, Optimizer, Update};
