//! Training small language models: from text to a model that talks.
//!
//! # A run and its continuation
//!
//! A training is told what to do by layers of settings, prepares its text in the folder of its run, and tells what happens as
//! [`Event`]s. The folder is at every moment one that can be gone on with.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use smallmind_model::Model;
//! use smallmind_simd::IsaKind;
//! use smallmind_train::{Event, Existing, Layer, RunDir, Source, TrainConfig, Trainer, prepare};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let run = dir.path().join("run");
//!
//! // A preset and some settings over it, by their own names or by nanoGPT's. A layer can also be a TOML file.
//! let settings = ["model.d_model=32", "n_layer=1", "n_head=2", "block_size=32", "data.vocab_size=300", "max_iters=30"];
//! let mut layers = settings.map(Layer::assignment).into_iter().collect::<Result<Vec<_>, _>>()?;
//! layers.push(Layer::assignment("eval.interval=15")?);
//! let config = TrainConfig::layered(Some("quickstart"), &layers)?;
//!
//! // The folder is this training's alone from here on. The built-in stories need no file.
//! let dir = RunDir::claim(&run, Existing::Refuse)?;
//! let prepared = prepare(&dir.staging(), &config, Source::Stories { seed: 1337, bytes: 60_000 }, &mut |_| {})?;
//! let mut trainer = Trainer::create(dir, config, prepared, 2, IsaKind::best())?;
//!
//! let never = AtomicBool::new(false);
//! let mut losses = Vec::new();
//! let summary = trainer.run(&never, &mut |event| {
//!     if let Event::Eval(eval) = event {
//!         losses.push(eval.val_loss);
//!     }
//! })?;
//! assert_eq!((summary.steps, losses.len()), (30, 2));
//! assert!(losses[1] < losses[0]);
//!
//! // Twenty steps more, from the last checkpoint, with another number of threads. A folder has one trainer at a time.
//! drop(trainer);
//! let more = [Layer::assignment("train.steps=50")?];
//! let mut trainer = Trainer::resume(&run, &more, 1, IsaKind::best())?;
//! assert_eq!(trainer.run(&never, &mut |_| {})?.steps, 50);
//!
//! // The folder is a model like any other.
//! let model = Model::load(&run)?;
//! assert_eq!(model.config().layers, 1);
//! # Ok(()) }
//! ```
//!
//! # The parts
//!
//! | subject | items |
//! |---|---|
//! | settings | [`TrainConfig`], [`Layer`] |
//! | nanoGPT's names for them | [`nanogpt`](mod@nanogpt) |
//! | text to token shards to windows | [`prepare`](fn@prepare), [`data`](mod@data) |
//! | text without a file | [`stories`](mod@stories) |
//! | windows to batches | [`Batches`] |
//! | forward, backward, clip, update | [`Learner`] |
//! | batches and micro-batches of a step | [`Stepper`] |
//! | the folder of a run and its lock | [`RunDir`] |
//! | the loop around it, checkpoints, logs | [`Trainer`] |
//! | the loss of a model over a whole text | [`evaluate_text`] |
//! | the course of the learning rate | [`schedule`](mod@schedule) |
//!
//! Batches, dropout masks and samples are functions of the seed and the step, so a checkpoint holds no random state; results are the
//! same bit for bit for any number of threads, and across a stop and a continuation.

mod batches;
pub mod config;
pub mod data;
mod error;
mod evaluate;
mod event;
mod keys;
mod layer;
pub mod nanogpt;
pub mod prepare;
mod random;
mod run_dir;
mod run_folder;
mod sample;
pub mod schedule;
mod step;
mod stepper;
pub mod stories;
mod trainer;
mod workload;

pub use batches::{Batches, Draw, Windows};
pub use config::{DataSection, TrainConfig};
pub use error::{ErrorClass, TrainError, model_class, tokenizer_class};
pub use evaluate::{EvaluateSettings, Evaluation, evaluate_text};
pub use event::{EvalEvent, Event, Finish, Started, StepEvent, Summary};
pub use layer::Layer;
pub use prepare::{Prepared, Progress, Source, prepare, read_corpus};
pub use run_dir::{Existing, Found, RunDir, is_run};
pub use run_folder::{TrainerState, data_settings};
pub use step::{BatchShape, Evaluator, Learner, Optimizer, Update};
pub use stepper::{RunParts, StepSettings, StepSizeError, Stepper, TimedCheckpoint};
pub use trainer::Trainer;
pub use workload::{StepError, StepWorkload};
