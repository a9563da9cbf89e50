//! What a training tells while it runs.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

/// Something that happened. As JSON, one object a line with its kind under `event`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// It has begun, or goes on.
    Started(Started),
    /// Some steps are done.
    Step(StepEvent),
    /// The loss was estimated.
    Eval(EvalEvent),
    /// The model wrote something.
    Sample {
        /// After so many steps.
        step: u64,
        /// What it wrote.
        text: String,
    },
    /// A checkpoint is on the disk.
    Checkpoint {
        /// After so many steps.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
    /// Something is not as it should be, but the training goes on.
    Warning {
        /// What.
        message: String,
    },
    /// It has ended.
    Done(Summary),
}

impl Event {
    /// The event as a JSON object.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// How a training begins.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Started {
    /// Elements of all parameters.
    pub parameters: usize,
    /// Updates in all.
    pub steps: u64,
    /// Tokens in each.
    pub tokens_per_step: usize,
    /// Tokens to train on.
    pub train_tokens: usize,
    /// Tokens to be measured on.
    pub validation_tokens: usize,
    /// The vocabulary.
    pub vocab_size: usize,
    /// Worker threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: String,
    /// Bytes of weights, gradients, moments and working memory.
    pub memory_bytes: usize,
    /// The step of the checkpoint that it goes on from.
    pub resumed_from: Option<u64>,
}

/// After a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepEvent {
    /// Updates done.
    pub step: u64,
    /// Updates in all.
    pub steps: u64,
    /// Mean loss of the step's tokens, before its update.
    pub loss: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f32,
    /// Since the line before.
    pub tokens_per_second: f64,
    /// Floating-point operations of the matrix products and attention, a second, since the line before.
    pub flops_per_second: f64,
    /// Of training so far, earlier sessions counted.
    pub seconds: f64,
    /// To go, at the present rate.
    pub remaining_seconds: f64,
}

/// After an estimate of the loss.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalEvent {
    /// Updates done.
    pub step: u64,
    /// Estimated on random batches of the training part.
    pub train_loss: f64,
    /// Estimated on random batches of the validation part.
    pub val_loss: f64,
    /// Of the validation part's text.
    pub bits_per_byte: Option<f64>,
    /// Whether no estimate before was as low.
    pub best: bool,
}

/// Why a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// All steps are done.
    Completed,
    /// It was asked to stop; a checkpoint is on the disk.
    Interrupted,
}

/// How a training ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Updates done.
    pub steps: u64,
    /// Why it ended.
    pub finish: Finish,
    /// The last estimate on the training part.
    pub train_loss: Option<f64>,
    /// The last estimate on random batches of the validation part: nanoGPT's estimator.
    pub val_loss: Option<f64>,
    /// The lowest of these estimates.
    pub best_val_loss: Option<f64>,
    /// Over the whole validation part.
    pub full_val_loss: Option<f64>,
    /// Over the whole validation part.
    pub bits_per_byte: Option<f64>,
    /// Of training, earlier sessions counted.
    pub seconds: f64,
    /// Tokens trained on a second of training.
    pub tokens_per_second: f64,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
}
