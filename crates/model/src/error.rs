//! Errors of models.

use std::path::PathBuf;

use smallmind_checkpoint::CheckpointError;
use smallmind_graph::GraphError;
use smallmind_kernels::Format;
use smallmind_kernels::attention::CacheFormat;

use crate::ConfigError;
use crate::sampler::SamplerError;
use crate::stream::StopStringError;
use crate::tokenizer::TokenizerError;

/// A model that can't be made, read, written or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// An error of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An error of a file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An error of the tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// An error of the graph, the plan or a run.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// An error of the sampler.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// An error of a stop string.
    #[error(transparent)]
    Stop(#[from] StopStringError),
    /// A tensor of another shape than the configuration says.
    #[error(
        "{path}: tensor `{name}` has the shape {got:?}, but the configuration asks for {expected:?}",
        path = .path.display()
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Shape of the tensor.
        got: Vec<usize>,
        /// Shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor whose format can't be read.
    #[error("{path}: tensor `{name}` is stored as {format}, which is not supported", path = .path.display())]
    TensorFormat {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The format.
        format: String,
    },
    /// A value that the format of a tensor can't hold.
    #[error("{path}: tensor `{tensor}` has the value {value}, which {format} can't hold", path = .path.display())]
    BeyondFormat {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
        /// The format.
        format: Format,
    },
    /// A format for tensors that changes none of them.
    #[error("the format for tensors named `{part}` changes nothing: {fault}")]
    Override {
        /// The part of a name.
        part: String,
        /// Why it changes nothing.
        fault: OverrideFault,
    },
    /// An importance matrix of another model.
    #[error(
        "the importance matrix has {} × {} numbers for the tensor `{tensor}`, which has {} × {} (matrices × columns)",
        .got.0, .got.1, .expected.0, .expected.1
    )]
    Importance {
        /// The tensor.
        tensor: String,
        /// Matrices and their columns in the importance matrix.
        got: (usize, usize),
        /// Matrices and their columns in the tensor: one, or one for each expert.
        expected: (usize, usize),
    },
    /// An importance matrix without a tensor of the model.
    #[error("the importance matrix has no tensor of the model")]
    ForeignImportance,
    /// A file that can't be written.
    #[error("the file can't be written: {0}")]
    Write(#[source] std::io::Error),
    /// Tensors that the configuration doesn't use.
    #[error(
        "{path}: {}, so the model would compute something else than the one that was stored",
        unused(.names), path = .path.display()
    )]
    UnusedTensors {
        /// The file, or the index.
        path: PathBuf,
        /// Names of the tensors; at least one.
        names: Vec<String>,
    },
    /// A tokenizer with more tokens than the model.
    #[error("the tokenizer has {tokenizer} tokens, the model's vocabulary {model}: they don't belong together")]
    Vocabulary {
        /// Number of tokens of the tokenizer.
        tokenizer: usize,
        /// Number of tokens in the model's vocabulary.
        model: usize,
    },
    /// A sequence that does not fit into the context.
    #[error("{tokens} tokens don't fit into the context of {context}")]
    TooLong {
        /// Tokens of the sequence.
        tokens: usize,
        /// Context of the session.
        context: usize,
        /// Context of the model: the most that a session can have.
        max: usize,
    },
    /// A context of 0, or of more tokens than the model's.
    #[error("there can't be a context of {asked} tokens: the model's is {max}")]
    Context {
        /// The context asked for.
        asked: usize,
        /// Context of the model.
        max: usize,
    },
    /// A session already has as many open sequences as it can hold.
    #[error("there is no room for another sequence: {max} are open")]
    Sequences {
        /// How many sequences the session can hold.
        max: usize,
    },
    /// A sequence that was closed, or that belongs to another session.
    #[error("the sequence is not open")]
    ClosedSequence,
    /// A sequence in two jobs of one run.
    #[error("a sequence stands in two jobs of one run")]
    RepeatedSequence,
    /// Too few free pages of the key-value cache.
    #[error(
        "the key-value cache has {free} free pages of {} tokens, and {need} are needed",
        smallmind_graph::PAGE_TOKENS
    )]
    CacheFull {
        /// Pages that are needed.
        need: usize,
        /// Free pages.
        free: usize,
    },
    /// An empty prompt for a model without a token that begins texts.
    #[error("the prompt is empty and the model has no token that begins a text")]
    EmptyPrompt,
    /// Logits that are not finite.
    #[error(
        "the model's logits are not finite at token {position} of sequence {sequence}: its weights are damaged or have \
         diverged{}",
        beyond_cache(*.cache_format)
    )]
    NonFinite {
        /// Number of the sequence within its session, from 0.
        sequence: usize,
        /// Position of the token in the sequence, counted from 1.
        position: usize,
        /// How the key-value cache stores keys and values.
        cache_format: CacheFormat,
    },
    /// No such preset.
    #[error("there is no preset `{name}`{}; there are {known}", hint(.suggestion))]
    Preset {
        /// The unknown name.
        name: String,
        /// The nearest name.
        suggestion: Option<String>,
        /// All names.
        known: String,
    },
    /// The model folder has no tokenizer.
    #[error("{path}: there is no tokenizer (tokenizer.json), so text can't be turned into tokens", path = .0.display())]
    NoTokenizer(PathBuf),
    /// The GGUF file has no tokenizer.
    #[error("{path}: there is no tokenizer in this GGUF file, so text can't be turned into tokens", path = .0.display())]
    NoTokenizerInGguf(PathBuf),
}

/// The kind of an error: what the user can change about it.
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
            Self::Context { .. } | Self::TooLong { .. } | Self::Sequences { .. } | Self::CacheFull { .. } => {
                ErrorClass::Limit
            }
            Self::Write(_) | Self::NonFinite { .. } | Self::ClosedSequence | Self::RepeatedSequence => {
                ErrorClass::Failed
            }
            Self::TensorShape { .. }
            | Self::TensorFormat { .. }
            | Self::BeyondFormat { .. }
            | Self::Importance { .. }
            | Self::ForeignImportance
            | Self::UnusedTensors { .. }
            | Self::Vocabulary { .. }
            | Self::NoTokenizer(_)
            | Self::NoTokenizerInGguf(_) => ErrorClass::BadFile,
            Self::Override { .. } | Self::Sampler(_) | Self::Stop(_) | Self::Preset { .. } | Self::EmptyPrompt => {
                ErrorClass::Usage
            }
        }
    }
}

/// Why a format for tensors changes none of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideFault {
    /// The model has no such tensor.
    #[error("no tensor of the model has a name with that")]
    NoTensor,
    /// All such tensors are vectors, or others that products don't read in blocks.
    #[error("`{tensor}` and all others named so are always f32")]
    StaysF32 {
        /// The first of them.
        tensor: String,
    },
    /// A later format counts for each of them.
    #[error("a later one counts for all tensors named so")]
    Overridden,
}

/// The first few names, and the number of names.
fn unused(names: &[String]) -> String {
    const SHOWN: usize = 3;
    const MAX_SHOWN: usize = 80;
    let short = |name: &String| format!("`{}`", name.chars().take(MAX_SHOWN).collect::<String>());
    let shown = names.iter().take(SHOWN).map(short).collect::<Vec<_>>().join(", ");
    match names.len() {
        1 => format!("the configuration has no use for the tensor {shown}"),
        n if n > SHOWN => format!("the configuration has no use for {n} tensors ({shown}, …)"),
        n => format!("the configuration has no use for {n} tensors ({shown})"),
    }
}

/// Another cause of logits that are not finite.
fn beyond_cache(format: CacheFormat) -> String {
    match format {
        CacheFormat::F32 => String::new(),
        _ => format!(", or its keys or values are beyond what its cache in {format} holds"),
    }
}

fn hint(name: &Option<String>) -> String {
    name.as_ref().map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
}
