//! Training small language models: from text to a model that talks.
//!
//! # A run and its continuation
//!
//! A training run takes its settings from overlays, prepares its text in its folder, and reports its progress as
//! [`Event`]s. The run can be resumed at any moment.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use smallmind_model::Model;
//! use smallmind_simd::IsaKind;
//! use smallmind_train::{Event, Existing, Overlay, RunDir, Source, TrainConfig, Trainer, prepare};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let run = dir.path().join("run");
//!
//! // A preset and some settings over it. An overlay can also be a TOML file.
//! let model = ["model.d_model=32", "model.layers=1", "model.heads=2", "model.context=32", "data.vocab_size=300"];
//! let course = ["train.steps=30", "eval.interval=15"];
//! let overlays = model.iter().chain(&course).map(|text| Overlay::assignment(text)).collect::<Result<Vec<_>, _>>()?;
//! let config = TrainConfig::with_overlays(Some("quickstart"), &overlays)?;
//!
//! // From here on the folder is locked for this training. The built-in stories need no file.
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
//! let more = [Overlay::assignment("train.steps=50")?];
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
//! | settings | [`TrainConfig`], [`Overlay`] |
//! | text to token shards to windows | [`prepare`](fn@prepare), [`data`](mod@data) |
//! | a first training, in a given time | [`quickstart`](mod@quickstart) |
//! | text without a file | [`stories`](mod@stories) |
//! | windows to batches | [`Batches`] |
//! | forward, backward, clip, update | [`Learner`] |
//! | batches and micro-batches of a step | [`Stepper`] |
//! | the folder of a run and its lock | [`RunDir`] |
//! | the loop around it, checkpoints, logs | [`Trainer`] |
//! | a model with which training begins | [`Initial`], [`TrainConfig::with_initial`], [`Trainer::create_from`] |
//! | the loss of a model over a whole text | [`evaluate_text`] |
//! | two models over a text | [`divergence`](fn@divergence) |
//! | multiple choice | [`answer`] |
//! | schedules of the learning rate | [`schedule`](mod@schedule) |
//!
//! Batches, dropout masks and samples depend only on the seed and the step, so a checkpoint has no random state.
//! Results are the same, bit for bit, with any number of threads, and across a stop and a resume.

mod batches;
mod choices;
pub mod config;
pub mod data;
mod divergence;
mod error;
mod evaluate;
mod event;
mod initial;
mod keys;
mod learner;
mod logits;
mod overlay;
pub mod prepare;
pub mod quickstart;
mod random;
mod run_dir;
mod run_files;
mod sample;
pub mod schedule;
mod stepper;
pub mod stories;
mod text_windows;
mod trainer;
mod workload;

pub use batches::{Batches, Windows};
pub use choices::{Choices, Question, answer, read_questions};
pub use config::{DataSection, TrainConfig};
pub use data::Draw;
pub use divergence::{Divergence, divergence};
pub use error::TrainError;
pub use evaluate::{EvaluateSettings, Evaluation, PositionLoss, evaluate_text};
pub use event::{EvalEvent, Event, Finish, Started, StepEvent, Summary};
pub use initial::Initial;
pub use learner::{BatchShape, DropoutDraw, Evaluator, Learner, Moments, Optimizer, UpdateStats};
pub use overlay::Overlay;
pub use prepare::{Prepared, Progress, Source, prepare, prepare_initial, read_corpus};
pub use run_dir::{Existing, Found, RunDir, is_run};
pub use run_files::{TrainerState, data_settings, latest_checkpoint};
pub use stepper::{RunParts, StepSettings, StepSizeError, Stepper, TimedCheckpoint};
pub use text_windows::TextWindows;
pub use trainer::Trainer;
pub use workload::{StepError, StepWorkload};

pub use smallmind_model::ErrorClass;
