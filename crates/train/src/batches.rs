//! The batches of training: windows of the text as sequences with targets.

use serde::{Deserialize, Serialize};
use smallmind_graph::Batch;
use smallmind_kernels::loss::IGNORE;

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
    shape: BatchShape,
    /// Tokens before each window, which aren't targets.
    prefix: Vec<u32>,
    /// Inputs and targets of the windows, both `[sequences, context - prefix]`.
    x: Vec<u32>,
    y: Vec<u32>,
    /// A window with its prefix, and its targets.
    row: [Vec<u32>; 2],
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
        let zeros = || vec![0; shape.tokens()];
        Ok(Self { starts, shape, prefix: vec![], x: zeros(), y: zeros(), row: [vec![], vec![]] })
    }

    /// The same with tokens before each window that begins anywhere, as a tokenizer puts them before a prompt. They
    /// take the place of tokens of the window. Windows at documents begin with what the text has there.
    ///
    /// # Errors
    /// A context that the prefix fills.
    pub fn with_prefix(mut self, prefix: &[u32]) -> Result<Self, DataError> {
        let Starts::Uniform { tokens } = self.starts else { return Ok(self) };
        let context = self.shape.context.saturating_sub(prefix.len());
        RandomWindows::new(tokens, context, 0)?;
        self.x = vec![0; self.shape.sequences * context];
        self.y = self.x.clone();
        self.row = [prefix.to_vec(), vec![IGNORE; prefix.len()]];
        self.row.iter_mut().for_each(|row| row.resize(self.shape.context, 0));
        self.prefix = prefix.to_vec();
        Ok(self)
    }

    /// The tokens before each window.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// Tokens of a window, without those before it.
    fn context(&self) -> usize {
        self.shape.context - self.prefix.len()
    }

    /// Targets of a batch.
    pub fn targets(&self) -> usize {
        self.shape.sequences * self.context()
    }

    /// Fills `batch` with rows of a step, from `draw.first_row` on.
    ///
    /// # Errors
    /// Files that can't be read.
    pub fn fill(&mut self, data: &Dataset, draw: Draw, batch: &mut Batch) -> Result<(), DataError> {
        let Draw { seed, step, first_row } = draw;
        let (context, before) = (self.context(), self.prefix.len());
        let (x, y) = (&mut self.x, &mut self.y);
        batch.clear();
        match &self.starts {
            Starts::Uniform { tokens } => {
                RandomWindows::new(*tokens, context, seed)?.fill(data, step, first_row, x, y)?;
                for (x, y) in x.chunks_exact(context).zip(y.chunks_exact(context)) {
                    if before == 0 {
                        batch.push_with_targets(x, y);
                        continue;
                    }
                    let [tokens, targets] = &mut self.row;
                    tokens[before..].copy_from_slice(x);
                    targets[before..].copy_from_slice(y);
                    batch.push_with_targets(tokens, targets);
                }
            }
            Starts::Documents(windows) => {
                windows.fill(data, draw, x, y)?;
                for (x, y) in x.chunks_exact(context).zip(y.chunks_exact(context)) {
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
            Starts::Uniform { .. } => SequentialWindows::new(data.tokens(), self.context())?.iter().collect(),
            Starts::Documents(windows) => windows.sequential().collect(),
        })
    }
}
