//! Random models, random batches and the memories that they run on.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod batches;
pub mod build;
pub mod close;
pub mod memory;
pub mod model;
pub mod rng;
