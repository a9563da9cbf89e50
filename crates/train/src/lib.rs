//! train

mod step;

pub use step::{BatchShape, Learner, Optimizer, Update};
