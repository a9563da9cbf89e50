//! The sizes that a plan is made for.

/// The largest batch that a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in a batch.
    pub tokens: usize,
    /// Rows of output in a batch.
    pub outputs: usize,
    /// Sequences in a batch.
    pub spans: usize,
    /// Tokens of a sequence, past ones included.
    pub context: usize,
    /// Pages of the key-value cache; 0 if there is none.
    pub pages: usize,
}
