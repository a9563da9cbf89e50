//! The batches of training: windows of the text as sequences with targets.

use serde::{Deserialize, Serialize};
use smallmind_graph::Batch;

use crate::BatchShape;
use crate::data::{DataError, Dataset, DocumentWindows, Draw, RandomWindows, SequentialWindows, Window};
use crate::prepare::WINDOWS_WITHOUT_END;

/// Where the windows of training begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Windows {
    /// Anywhere, with the same probability. A window is one sequence, even if it spans documents.
    #[default]
    Uniform,
    /// At beginnings of documents. Each document in a window is a sequence of its own, so that it does not see the one
    /// before. A text of a single document is refused.
    Documents,
}

/// Fills batches from a data set. A batch depends only on its [`Draw`]: a resumed run needs only its step number, and
/// the rows of a batch may be divided among micro-batches.
#[derive(Debug)]
pub struct Batches {
    starts: Starts,
    context: usize,
    /// Inputs and targets, both `[sequences, context]`.
    x: Vec<u32>,
    y: Vec<u32>,
}

#[derive(Debug)]
enum Starts {
    Uniform { tokens: usize },
    Documents(DocumentWindows),
}

impl Batches {
    /// Batches of `shape` from `data`, whose documents end with the token `end`.
    ///
    /// # Errors
    /// Less text than a window; windows at documents without a token `end`, or without a document at which a window can
    /// begin.
    pub fn new(windows: Windows, data: &Dataset, end: Option<u32>, shape: BatchShape) -> Result<Self, DataError> {
        let context = shape.context;
        let starts = match windows {
            Windows::Uniform => {
                // This is only for its error if the text is too short.
                RandomWindows::new(data.tokens(), context, 0)?;
                Starts::Uniform { tokens: data.tokens() }
            }
            Windows::Documents => {
                let end = end.ok_or(WINDOWS_WITHOUT_END)?;
                Starts::Documents(DocumentWindows::new(data, end, context)?)
            }
        };
        Ok(Self { starts, context, x: vec![0; shape.tokens()], y: vec![0; shape.tokens()] })
    }

    /// Fills `batch` with rows of a step, from `draw.first_row` on.
    ///
    /// # Errors
    /// Files that can't be read.
    pub fn fill(&mut self, data: &Dataset, draw: Draw, batch: &mut Batch) -> Result<(), DataError> {
        let Draw { seed, step, first_row } = draw;
        let (x, y) = (&mut self.x, &mut self.y);
        batch.clear();
        match &self.starts {
            Starts::Uniform { tokens } => {
                RandomWindows::new(*tokens, self.context, seed)?.fill(data, step, first_row, x, y)?;
                for (x, y) in x.chunks_exact(self.context).zip(y.chunks_exact(self.context)) {
                    batch.push_with_targets(x, y);
                }
            }
            Starts::Documents(windows) => {
                windows.fill(data, draw, x, y)?;
                for (x, y) in x.chunks_exact(self.context).zip(y.chunks_exact(self.context)) {
                    for range in windows.sequences(x) {
                        batch.push_with_targets(&x[range.clone()], &y[range]);
                    }
                }
            }
        }
        Ok(())
    }

    /// Windows that cover a whole data set: every token but the first is a target exactly once.
    ///
    /// # Errors
    /// A data set of fewer than two tokens.
    pub fn sequential(&self, data: &Dataset) -> Result<Vec<Window>, DataError> {
        Ok(match &self.starts {
            Starts::Uniform { .. } => SequentialWindows::new(data.tokens(), self.context)?.iter().collect(),
            Starts::Documents(windows) => windows.sequential().collect(),
        })
    }
}
