//! What is measured: numbers of tokens.

use std::fmt;

/// Tokens to read and tokens to generate, behind others. Displayed as llama-bench names its tests: `pp512`, `tg64`,
/// `pp512+tg64`, `tg64 @ d2048`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InferenceTest {
    /// Tokens that are read as a prompt.
    pub prompt: usize,
    /// Tokens that are generated, one by one.
    pub generated: usize,
    /// Tokens that the sequence has before. Their time does not count.
    pub depth: usize,
}

impl InferenceTest {
    /// The most tokens of the sequence.
    pub fn context(&self) -> usize {
        self.depth.saturating_add(self.prompt).saturating_add(self.generated)
    }

    /// Tokens whose time counts.
    pub fn tokens(&self) -> usize {
        self.prompt + self.generated
    }
}

impl fmt::Display for InferenceTest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.prompt, self.generated) {
            (prompt, 0) => write!(f, "pp{prompt}")?,
            (0, generated) => write!(f, "tg{generated}")?,
            (prompt, generated) => write!(f, "pp{prompt}+tg{generated}")?,
        }
        if self.depth > 0 { write!(f, " @ d{}", self.depth) } else { Ok(()) }
    }
}
