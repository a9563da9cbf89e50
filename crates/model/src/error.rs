//! What can go wrong with a model.

use std::path::PathBuf;

use smallmind_checkpoint::CheckpointError;
use smallmind_graph::GraphError;

use crate::ConfigError;
use crate::sampler::SamplerError;
use crate::stream::StopStringError;
use crate::tokenizer::TokenizerError;

/// A model that can't be made, read, written or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its graph, its plan, or a run of it.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// How tokens are chosen.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// Where text stops.
    #[error(transparent)]
    Stop(#[from] StopStringError),
    /// A tensor of another shape than the configuration says.
    #[error("{path}: tensor `{name}` has the shape {got:?}, but the configuration asks for {expected:?}", path = .path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that it must have.
        expected: Vec<usize>,
    },
    /// Tensors that the configuration has no use for.
    #[error("{path}: {}, so the model would compute something else than the one that was stored", unused(.names), path = .path.display())]
    UnusedTensors {
        /// The file, or the index.
        path: PathBuf,
        /// Their names; there is at least one.
        names: Vec<String>,
    },
    /// More token ids than the model has entries for.
    #[error("the tokenizer has {tokenizer} tokens, the model's vocabulary {model}: they don't belong together")]
    Vocabulary {
        /// Of the tokenizer.
        tokenizer: usize,
        /// Of the model.
        model: usize,
    },
    /// A sequence that does not fit.
    #[error("{tokens} tokens don't fit into the context of {context}")]
    TooLong {
        /// What was asked for.
        tokens: usize,
        /// What there is room for.
        context: usize,
        /// What the model could be given room for.
        max: usize,
    },
    /// Room for fewer tokens than one, or for more than the model has positions.
    #[error("there can't be a context of {asked} tokens: the model's is {max}")]
    Context {
        /// What was asked for.
        asked: usize,
        /// The model's.
        max: usize,
    },
    /// Nothing to go on from.
    #[error("the prompt is empty and the model has no token that begins a text")]
    EmptyPrompt,
    /// A result that is not a number.
    #[error(
        "the model's logits are not finite at token {position} of sequence {slot}: its weights are damaged or have diverged"
    )]
    NonFinite {
        /// The sequence's slot.
        slot: usize,
        /// Where in the sequence.
        position: usize,
    },
    /// No such preset.
    #[error("there is no preset `{name}`{}; there are {known}", hint(.suggestion))]
    Preset {
        /// What was asked for.
        name: String,
        /// The nearest name.
        suggestion: Option<String>,
        /// All names.
        known: String,
    },
    /// The model folder has no tokenizer.
    #[error("{path}: there is no tokenizer.json, so text can't be turned into tokens", path = .0.display())]
    NoTokenizer(PathBuf),
}

/// The kind of an error: who or what has to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request: a setting or an argument that makes no sense.
    Usage,
    /// A model or data file.
    BadFile,
    /// Memory, or another limit, is exceeded.
    Limit,
    /// Anything else.
    Failed,
}

impl From<&CheckpointError> for ErrorClass {
    fn from(error: &CheckpointError) -> Self {
        if error.is_bad_file() { Self::BadFile } else { Self::Failed }
    }
}

impl From<&GraphError> for ErrorClass {
    fn from(error: &GraphError) -> Self {
        if matches!(error, GraphError::OutOfMemory { .. }) { Self::Limit } else { Self::Failed }
    }
}

impl ModelError {
    /// The kind of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Config(error) => error.class(),
            Self::Checkpoint(error) => error.into(),
            Self::Tokenizer(error) => error.class(),
            Self::Graph(error) => error.into(),
            Self::Context { asked: 0, .. } => ErrorClass::Usage,
            Self::Context { .. } | Self::TooLong { .. } => ErrorClass::Limit,
            Self::NonFinite { .. } => ErrorClass::Failed,
            Self::TensorShape { .. } | Self::UnusedTensors { .. } | Self::Vocabulary { .. } | Self::NoTokenizer(_) => {
                ErrorClass::BadFile
            }
            Self::Sampler(_) | Self::Stop(_) | Self::Preset { .. } | Self::EmptyPrompt => ErrorClass::Usage,
        }
    }
}

/// The first few of some tensors and their number.
fn unused(names: &[String]) -> String {
    const SHOWN: usize = 3;
    const MAX_SHOWN: usize = 80;
    let short = |name: &String| format!("`{}`", name.chars().take(MAX_SHOWN).collect::<String>());
    let shown = names.iter().take(SHOWN).map(short).collect::<Vec<_>>().join(", ");
    match names.len() {
        1 => format!("config.json has no use for the tensor {shown}"),
        n if n > SHOWN => format!("config.json has no use for {n} tensors ({shown}, …)"),
        n => format!("config.json has no use for {n} tensors ({shown})"),
    }
}

fn hint(name: &Option<String>) -> String {
    name.as_ref().map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
}
