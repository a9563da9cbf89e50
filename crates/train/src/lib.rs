//! Training small language models: from text to a model that talks.

pub mod config;
pub mod data;
mod error;
mod evaluate;
mod event;
pub mod prepare;
mod random;
mod run_folder;
pub mod schedule;
mod step;
pub mod stories;
mod trainer;

pub use config::{Layer, TrainConfig};
pub use error::{ErrorClass, TrainError, model_class, tokenizer_class};
pub use evaluate::{EvaluateSettings, Evaluation, evaluate_text};
pub use event::{EvalEvent, Event, Finish, Started, StepEvent, Summary};
pub use prepare::{Prepared, Progress, Source, prepare};
pub use run_folder::{TrainerState, is_run};
pub use step::{BatchShape, Evaluator, Learner, Optimizer, Update};
pub use trainer::Trainer;
