//! What can go wrong with a measurement.

use std::path::PathBuf;

use smallmind_graph::GraphError;

/// A measurement that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Threads, memory, or an instruction set.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// No case meets the filters.
    #[error("no case matches {filters}; `--list --all` shows all")]
    NoCase {
        /// The filters.
        filters: String,
    },
    /// A rival that doesn't start, dies, falls silent or talks nonsense.
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
