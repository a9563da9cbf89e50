//! Shapes of values.

use std::fmt;

/// How many rows a value has. This never depends on the context length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One for each token of the batch.
    Tokens,
    /// One for each token whose row the batch asks for.
    Outputs,
    /// A number that does not depend on the batch.
    Fixed(usize),
}

impl Rows {
    /// The number of rows in a batch of `tokens` tokens with `outputs` output rows.
    #[inline(always)]
    pub fn resolve(self, tokens: usize, outputs: usize) -> usize {
        match self {
            Rows::Tokens => tokens,
            Rows::Outputs => outputs,
            Rows::Fixed(n) => n,
        }
    }
}

/// The shape of a value: a matrix of `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// How many rows.
    pub rows: Rows,
    /// How many columns.
    pub cols: usize,
}

impl Shape {
    /// `[tokens, cols]`.
    pub fn tokens(cols: usize) -> Self {
        Self { rows: Rows::Tokens, cols }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows {
            Rows::Tokens => write!(f, "[tokens, {}]", self.cols),
            Rows::Outputs => write!(f, "[outputs, {}]", self.cols),
            Rows::Fixed(n) => write!(f, "[{n}, {}]", self.cols),
        }
    }
}
