//! Language models: their shapes and weights, their tokenizers, and the way from a prompt to text.
//!
//! # Several sequences at once
//!
//! A [`Model`] is a shape and weights, a [`PackedModel`] the same laid out to be run, a [`Session`] a model at work: its plans, its
//! workers, and a cache of keys and values with a slot for each sequence. What is appended to a sequence follows what its slot holds;
//! logits say what comes next.
//!
//! ```
//! use std::sync::Arc;
//!
//! use smallmind_model::{Model, ModelConfig, Session, SessionOptions, preset};
//! use smallmind_simd::IsaKind;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ModelConfig { vocab_size: 50, context: 32, layers: 2, ..preset::find("nanogpt-cpu")?.config() };
//! let model = Model::random(config, 1337)?;
//!
//! // A folder in the layout of Hugging Face holds a model.
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! model.save(folder)?;
//! assert_eq!(Model::load(folder)?.weights(), model.weights());
//!
//! let model = Arc::new(model.pack(IsaKind::best())?);
//! let options = SessionOptions { threads: 2, slots: 2, context: 32, chunk: 4 };
//! let mut session = Session::new(model, options)?;
//!
//! // Two prompts, each read in chunks of four tokens.
//! session.append(0, &[1, 2, 3, 4, 5, 6])?;
//! let logits = session.append(1, &[40, 41, 42])?;
//! assert_eq!(logits.len(), 50);
//!
//! // One more token for each of them, in one run over the weights: a row of logits each.
//! let both = session.decode(&[(0, 7), (1, 43)])?.to_vec();
//! assert_eq!(both.len(), 2 * 50);
//! assert_eq!((session.len(0), session.len(1)), (7, 4));
//!
//! // The same sequence read at once has the same logits, up to the order of sums.
//! session.truncate(0, 0);
//! let again = session.append(0, &[1, 2, 3, 4, 5, 6, 7])?;
//! assert!(both.iter().zip(again).all(|(a, b)| (a - b).abs() < 1e-5));
//! # Ok(()) }
//! ```
//!
//! # The parts
//!
//! | subject | items |
//! |---|---|
//! | shapes | [`ModelConfig`]: sizes and features, in Hugging Face's `config.json`, of which [`config_keys`] says what each key means; [`preset`](mod@preset) has some by name |
//! | graphs of a shape | [`architecture`](mod@architecture): one builder for all models, one graph for each [`Purpose`] |
//! | text and tokens | [`tokenizer`](mod@tokenizer): characters, byte-level BPE, `tokenizer.json` |
//! | from logits to a token | [`sampler`](mod@sampler) |
//! | from tokens to a stream of text | [`stream`](mod@stream): UTF-8 is never split, stop strings never leak |
//! | all of it together | [`Generator`] |
//!
//! Not here: training, chat templates, and anything that listens on a network.

pub mod architecture;
mod config;
mod error;
mod generation_config;
mod generator;
mod load;
mod model;
mod packed;
pub mod preset;
pub mod sampler;
mod session;
pub mod stream;
mod tensor_names;
pub mod tokenizer;
mod unused;
mod workload;

pub use architecture::{LOGITS, LOSS, Purpose};
pub use config::{
    Biases, ConfigError, DropoutConfig, Family, Head, KeyRule, Mlp, ModelConfig, NormKind, Positions, RopeConfig,
    Supported, UnknownKeys, config_keys,
};
pub use error::ModelError;
pub use generation_config::GenerationConfig;
pub use generator::{Finish, GenerateOptions, Generation, Generator};
pub use load::{LoadOptions, UnusedTensors};
pub use model::{Model, NamedTensor};
pub use packed::PackedModel;
pub use session::{Session, SessionOptions};
pub use unused::unused_tensors;
pub use workload::{Activity, SessionWorkload};
