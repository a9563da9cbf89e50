//! The events of training, which the caller gets and the log records.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

/// Something that happened in training. In JSON each event is an object on its own line, with its kind under `event`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The training has begun or been resumed.
    Started(Started),
    /// A step whose numbers are logged is done.
    Step(StepEvent),
    /// The loss was estimated.
    Eval(EvalEvent),
    /// The model has generated a sample.
    Sample {
        /// Updates done.
        step: u64,
        /// The text, with its prompt.
        text: String,
    },
    /// A checkpoint is on the disk.
    Checkpoint {
        /// Updates done.
        step: u64,
        /// The folder of the checkpoint.
        path: PathBuf,
    },
    /// A problem that does not stop the training.
    Warning {
        /// The message.
        message: String,
    },
    /// The training has ended.
    Done(Summary),
}

impl Event {
    /// The event as a JSON object.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// The beginning of training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Started {
    /// Number of trained weights.
    pub parameters: usize,
    /// Updates of the whole run.
    pub steps: u64,
    /// Tokens in a step, over all its micro-batches.
    pub tokens_per_step: usize,
    /// Tokens of the training split.
    pub train_tokens: usize,
    /// Tokens of the validation split.
    pub validation_tokens: usize,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Number of worker threads.
    pub threads: usize,
    /// Name of the instruction set.
    pub isa: String,
    /// Bytes of weights, gradients, moments and working memory.
    pub memory_bytes: usize,
    /// Step of the checkpoint from which training was resumed; `None` for a new run.
    pub resumed_from: Option<u64>,
}

/// The numbers of a logged step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepEvent {
    /// Updates done.
    pub step: u64,
    /// Updates of the whole run.
    pub steps: u64,
    /// Mean loss of the step's tokens before its update, in nats.
    pub loss: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f32,
    /// Tokens per second since the step event before.
    pub tokens_per_second: f64,
    /// Floating-point operations of matrix products and attention per second, since the step event before.
    pub flops_per_second: f64,
    /// Seconds of training so far, over all sessions of the run.
    pub seconds: f64,
    /// Estimated seconds to the last step, at the rate since the step event before.
    pub remaining_seconds: f64,
}

/// An estimate of the losses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalEvent {
    /// Updates done.
    pub step: u64,
    /// Mean loss of random batches of the training split, in nats.
    pub train_loss: f64,
    /// Mean loss of random batches of the validation split, in nats.
    pub val_loss: f64,
    /// `val_loss` in bits per byte of text; `None` if the bytes of the text are not known.
    pub bits_per_byte: Option<f64>,
    /// Whether `val_loss` is the lowest so far, or equal to it.
    pub best: bool,
}

/// Why training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// All steps are done.
    Completed,
    /// The caller asked it to stop; the last step has a checkpoint.
    Interrupted,
}

/// The end of training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Updates done.
    pub steps: u64,
    /// Why the training ended.
    pub finish: Finish,
    /// Last estimate of the training loss, in nats.
    pub train_loss: Option<f64>,
    /// Last estimate of the validation loss on random batches (nanoGPT's estimator), in nats.
    pub val_loss: Option<f64>,
    /// Lowest estimate of the validation loss, in nats.
    pub best_val_loss: Option<f64>,
    /// Mean loss over the whole validation split, in nats; `None` if training was interrupted.
    pub full_val_loss: Option<f64>,
    /// `full_val_loss` in bits per byte of text.
    pub bits_per_byte: Option<f64>,
    /// Seconds of training, over all sessions of the run.
    pub seconds: f64,
    /// Tokens trained on per second of training.
    pub tokens_per_second: f64,
    /// Folder of the last checkpoint.
    pub checkpoint: PathBuf,
}
