//! Language models: configurations, weights, tokenizers, and generation of text.
//!
//! # Several sequences at once
//!
//! A [`Model`] is a configuration and weights. A [`PackedModel`] has the weights packed for an instruction set. A
//! [`Session`] runs it: it has plans, workers, and a key-value cache in pages. Tokens are appended to sequences; the
//! logits are for the token after the last one.
//!
//! ```
//! use std::sync::Arc;
//!
//! use smallmind_model::{Job, Model, ModelConfig, Session, SessionOptions, preset};
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
//! let options = SessionOptions { sequences: 3, chunk: 4, ..SessionOptions::single(32, 2) };
//! let mut session = Session::new(model, options)?;
//!
//! // Two prompts, each read in chunks of four tokens.
//! let (a, b) = (session.open()?, session.open()?);
//! session.append(a, &[1, 2, 3, 4, 5, 6])?;
//! let logits = session.append(b, &[40, 41, 42])?;
//! assert_eq!(logits.len(), 50);
//!
//! // A third sequence goes on from the first, whose pages it shares.
//! let c = session.fork(a)?;
//!
//! // One more token for one and two for another, in one run over the weights: a row of logits each.
//! let logits = session.run(&[Job::last(a, &[7]), Job::last(b, &[43, 44])])?;
//! let (of_a, of_b) = (logits.job(0)?.to_vec(), logits.job(1)?.to_vec());
//! assert_eq!((of_a.len(), of_b.len()), (50, 50));
//! assert_eq!([a, b, c].map(|sequence| session.len(sequence)), [7, 5, 6]);
//!
//! // The same tokens read at once have the same logits, bit for bit.
//! session.truncate(c, 0);
//! assert_eq!(session.append(c, &[1, 2, 3, 4, 5, 6, 7])?, of_a);
//! # Ok(()) }
//! ```
//!
//! # The parts
//!
//! | subject | items |
//! |---|---|
//! | configurations | [`ModelConfig`]: sizes and features |
//! | keys of Hugging Face's `config.json` | [`config_keys`] |
//! | configurations by name | [`preset`](mod@preset) |
//! | graphs | [`architecture`](mod@architecture): one builder for all models, one graph for each [`Purpose`] |
//! | text and tokens | [`tokenizer`](mod@tokenizer): characters, byte-level BPE, `tokenizer.json` |
//! | from logits to a token | [`sampler`](mod@sampler) |
//! | from tokens to a stream of text | [`stream`](mod@stream): UTF-8 is never split, stop strings never leak |
//! | from messages to a prompt, and conversations | [`chat`](mod@chat): Jinja templates as transformers renders them |
//! | all of it together | [`Generator`], [`Sequence`] |
//! | several tokens a run, where a text repeats itself | [`Lookup`] |
//!
//! Not here: training, and anything that listens on a network.

pub mod architecture;
pub mod chat;
mod config;
mod error;
pub mod export;
mod files;
mod generation_config;
mod generator;
mod load;
mod lookup;
mod model;
mod packed;
mod pages;
mod param_reader;
pub mod preset;
mod prompt;
pub mod sampler;
mod sequence;
mod session;
pub mod stream;
mod tensor_names;
pub mod tokenizer;
mod unused;
mod workload;

pub use architecture::{LOGITS, LOSS, Purpose};
pub use config::{
    AttentionWindows, Biases, ConfigError, DropoutConfig, ExpertsConfig, Family, Head, KeyRule, Mlp, ModelConfig,
    NormKind, NormPlacement, Positions, QkNorm, Residual, RopeConfig, Supported, UnknownKeys, config_keys,
};
pub use error::{ErrorClass, ModelError, OverrideFault};
pub use files::{ModelFiles, companions, is_gguf, is_gguf_name};
pub use generation_config::GenerationConfig;
pub use generator::Generator;
pub use load::{LoadOptions, UnusedTensors};
pub use lookup::{Lookup, LookupCounts};
pub use model::{Model, NamedTensor};
pub use packed::PackedModel;
pub use prompt::{begin_token, default_prompt};
pub use sequence::{Finish, GenerateOptions, Generation, Sequence};
pub use session::{Job, JobLogits, Logits, SequenceId, Session, SessionOptions};
pub use unused::unused_tensors;
pub use workload::{Activity, SessionWorkload, batches_of, random_tokens};
