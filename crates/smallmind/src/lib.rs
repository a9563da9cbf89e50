//! SmallMind trains, runs and profiles small language models on an ordinary CPU.
//!
//! This crate re-exports the crates that do the work, each under its own name ([`model`], [`train`], [`graph`],
//! [`checkpoint`], [`hub`], [`kernels`], [`simd`], [`profile`], [`bench`](mod@bench)), and the types that most programs
//! need. The command line `smallmind` uses only these.
//!
//! # From text to a model to text
//!
//! A model is a configuration and weights. A session runs a model, with a cache and threads. A generator makes text
//! with a session and a tokenizer.
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! use smallmind::model::{Head, preset, tokenizer::SpecialTokens};
//! use smallmind::{GenerateOptions, Generator, IsaKind, Model, ModelConfig, SamplerConfig};
//! use smallmind::{Session, SessionOptions, Tokenizer};
//!
//! // A vocabulary of the characters of a text, and a tiny model for it with random weights.
//! let tokenizer = Arc::new(Tokenizer::characters("the cat sat on the mat")?);
//! let config = ModelConfig {
//!     vocab_size: tokenizer.vocab_size(),
//!     context: 64,
//!     layers: 2,
//!     ..preset::find("nanogpt-cpu")?.config()
//! };
//! assert_eq!(config.head, Head::Tied);
//! let model = Model::random(config, 1337)?;
//! println!("{} parameters", model.params().elements());
//!
//! // A session with the best instruction set of this CPU and two threads. Results don't depend on their number.
//! let model = Arc::new(model.pack(IsaKind::best())?);
//! let session = Session::new(model, SessionOptions::single(64, 2))?;
//! let mut generator = Generator::new(session, tokenizer.clone())?;
//!
//! // Pieces of text come as soon as they are certain.
//! let prompt = tokenizer.encode("the cat", SpecialTokens::AsText)?;
//! let sampler = SamplerConfig { seed: 7, ..SamplerConfig::default() };
//! let options = GenerateOptions { max_tokens: 20, sampler, stops: vec![] };
//! let mut text = String::new();
//! let generation = generator.generate(&prompt, &options, |piece| {
//!     text.push_str(piece);
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(generation.tokens, 20);
//! assert_eq!(text.chars().count(), 20);
//!
//! // The same seed gives the same text.
//! let mut again = String::new();
//! generator.generate(&prompt, &options, |piece| {
//!     again.push_str(piece);
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(text, again);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A model is saved with [`Model::save`] in the layout of Hugging Face and read with [`Model::load`]. For training,
//! from text files to such a folder, see [`train`].

pub use smallmind_bench as bench;
pub use smallmind_checkpoint as checkpoint;
pub use smallmind_graph as graph;
pub use smallmind_hub as hub;
pub use smallmind_kernels as kernels;
pub use smallmind_model as model;
pub use smallmind_profile as profile;
pub use smallmind_simd as simd;
pub use smallmind_train as train;

pub use smallmind_graph::available_threads;
pub use smallmind_model::sampler::SamplerConfig;
pub use smallmind_model::tokenizer::Tokenizer;
pub use smallmind_model::{
    GenerateOptions, Generation, Generator, Model, ModelConfig, ModelError, PackedModel, Session, SessionOptions,
};
pub use smallmind_simd::IsaKind;
