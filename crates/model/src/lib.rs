//! model

pub mod architecture;
mod config;
mod error;
mod generator;
mod model;
pub mod preset;
pub mod sampler;
mod session;
pub mod stream;
pub mod tokenizer;

pub use architecture::{LOGITS, LOSS, Purpose};
pub use config::{Biases, ConfigError, DropoutConfig, Family, Head, ModelConfig, RopeConfig};
pub use error::ModelError;
pub use generator::{Finish, GenerateOptions, Generation, Generator};
pub use model::Model;
pub use session::{Session, SessionOptions};
