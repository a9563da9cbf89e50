//! What can go wrong with a measurement.

use std::path::PathBuf;

use smallmind_graph::GraphError;
use smallmind_model::{ErrorClass, ModelError};

/// A measurement that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Threads, memory, or an instruction set.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A model that can't be made or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The workload's model lacks a parameter that a GPT-2 with biases and an untied output head has.
    #[error("the workload's model has no parameter `{name}`")]
    Parameter {
        /// The parameter.
        name: String,
    },
    /// Training without a token.
    #[error("there are no tokens to train on")]
    NoTokens,
    /// A rival that doesn't start, ends early, doesn't answer, or answers something else.
    #[error("rival `{command}`: {why}")]
    Rival {
        /// The command that started it.
        command: String,
        /// What it did.
        why: String,
    },
    /// An earlier record that can't be read.
    #[error("{}: {why}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl BenchError {
    /// The kind of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Graph(error) => error.into(),
            Self::Model(error) => error.class(),
            Self::Record { .. } | Self::NoTokens => ErrorClass::BadFile,
            Self::Parameter { .. } | Self::Rival { .. } => ErrorClass::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_kind_of_their_cause() {
        let memory = || GraphError::OutOfMemory { bytes: 1 << 50 };
        assert_eq!(BenchError::from(memory()).class(), ErrorClass::Limit);
        assert_eq!(BenchError::from(ModelError::from(memory())).class(), ErrorClass::Limit);
        assert_eq!(BenchError::NoTokens.class(), ErrorClass::BadFile);
        let rival = BenchError::Rival { command: "rival".into(), why: "it ended".into() };
        assert_eq!(rival.class(), ErrorClass::Failed);
    }
}
