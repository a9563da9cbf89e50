//! Errors of training.

use std::path::PathBuf;

use smallmind_checkpoint::CheckpointError;
use smallmind_graph::GraphError;
use smallmind_model::tokenizer::TokenizerError;
use smallmind_model::{ErrorClass, ModelError};

use crate::data::DataError;
use crate::run_dir::Found;

/// A training run that can't begin, continue or end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// An error of the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An error of a file of the run.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An error of the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file that can't be read.
    #[error("{path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file that can't be written.
    #[error("{path}: can't be written: {source}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A question of a multiple choice that can't be read.
    #[error("{path}, line {line}: {why}", path = .path.display())]
    Question {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Two models of other vocabularies.
    #[error("the model has {model} tokens and the reference {reference}: their predictions can't be compared")]
    Vocabularies {
        /// Tokens of the model.
        model: usize,
        /// Tokens of the reference.
        reference: usize,
    },
    /// A configuration file that isn't TOML.
    #[error("{path}: not valid TOML: {why}", path = .path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        why: String,
    },
    /// A setting without a value.
    #[error("`{text}` sets nothing; write it as section.key=value")]
    Assignment {
        /// The assignment.
        text: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting `{name}`{}", hint(.suggestion))]
    UnknownKey {
        /// The unknown name.
        name: String,
        /// Origin of the overlay.
        origin: String,
        /// The nearest key or section.
        suggestion: Option<String>,
    },
    /// A setting of the wrong type or out of range.
    #[error("{origin}: the value of `{key}` is not allowed: {why}")]
    Value {
        /// The setting.
        key: String,
        /// Origin of the overlay, or the setting with its value.
        origin: String,
        /// What the value must be.
        why: String,
    },
    /// A setting that is fixed once a run has begun.
    #[error("{origin}: `{key}` is fixed once a training has begun; start a new run to change it")]
    NotResumable {
        /// The setting.
        key: String,
        /// Origin of the overlay.
        origin: String,
    },
    /// A folder that holds what a new run would replace.
    #[error("{path}: there is already {found}", path = .path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
        /// What the folder holds.
        found: Found,
    },
    /// A folder with a file that no run writes.
    #[error(
        "{path}: there is something else in it ({name}); choose a folder for the run alone",
        path = .path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The first such file.
        name: String,
    },
    /// A path that can't be the folder of a run.
    #[error("{path}: this can't be the folder of a run: {why}", path = .path.display())]
    NoFolder {
        /// The path.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A folder that can't be made.
    #[error("{path}: the folder can't be made: {source}", path = .path.display())]
    MakeFolder {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// Fewer steps than the run has done already.
    #[error(
        "train.steps = {asked}, but the run has done {done} steps; ask for {done} or more, or train anew in another \
         folder"
    )]
    StepsDone {
        /// Steps in all that were asked for.
        asked: u64,
        /// Steps of the checkpoint.
        done: u64,
    },
    /// The caller has stopped a new run before its first step.
    #[error("stopped before the first step; no run was written")]
    Stopped,
    /// A folder that another training run has locked.
    #[error(
        "{path}: another training is at work here; wait for it, stop it, or choose another folder",
        path = .0.display()
    )]
    Busy(PathBuf),
    /// A folder without a run that can be resumed.
    #[error("{path}: this is not a run that can be resumed: {why}", path = .path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A run whose model was given another shape than its checkpoint has.
    #[error("{path}: {differences}; a run keeps its shape", path = .path.display())]
    Shape {
        /// The configuration of the run's model.
        path: PathBuf,
        /// Its keys that differ, with both values.
        differences: String,
    },
    /// A run whose checkpoints are all damaged.
    #[error("{path}: no checkpoint is whole: {why}", path = .path.display())]
    Damaged {
        /// The folder of checkpoints.
        path: PathBuf,
        /// What is wrong with each checkpoint.
        why: String,
    },
    /// A loss, gradient or weight that is not finite.
    #[error(
        "step {step}: {what} is not finite; the last checkpoint is from step {checkpoint}. Lower train.lr, raise \
         train.warmup, or look for damage in the data"
    )]
    NonFinite {
        /// The step, counted from 1.
        step: u64,
        /// What is not finite, such as the loss or the gradient of a parameter.
        what: String,
        /// The step of the last checkpoint.
        checkpoint: u64,
    },
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run => f.write_str("a run"),
            Self::Model => f.write_str("a model"),
            Self::Files(names) => f.write_str(&names.join(", ")),
        }
    }
}

fn hint(name: &Option<String>) -> String {
    name.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default()
}

impl TrainError {
    /// The kind of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Model(error) => error.class(),
            Self::Checkpoint(error) => error.into(),
            Self::Data(error) => error.class(),
            Self::Write { .. } | Self::MakeFolder { .. } | Self::NonFinite { .. } | Self::Stopped => ErrorClass::Failed,
            Self::Read { .. }
            | Self::NoRun { .. }
            | Self::Shape { .. }
            | Self::Damaged { .. }
            | Self::Question { .. } => ErrorClass::BadFile,
            Self::Toml { .. }
            | Self::Vocabularies { .. }
            | Self::Assignment { .. }
            | Self::UnknownKey { .. }
            | Self::Value { .. }
            | Self::NotResumable { .. }
            | Self::Exists { .. }
            | Self::Foreign { .. }
            | Self::NoFolder { .. }
            | Self::StepsDone { .. }
            | Self::Busy(_) => ErrorClass::Usage,
        }
    }
}

impl From<TokenizerError> for TrainError {
    fn from(e: TokenizerError) -> Self {
        Self::Model(e.into())
    }
}

impl From<GraphError> for TrainError {
    fn from(e: GraphError) -> Self {
        Self::Model(e.into())
    }
}
