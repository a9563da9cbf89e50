//! Reading prompts and generating tokens with a whole model: the tests of llama-bench and llama-batched-bench, and how
//! near they come to what the machine can do.

mod row;
mod run;
mod test;

pub use row::{BatchedRow, FirstToken, InferenceRow};
pub use run::{BatchedTest, FIRST_PROMPT, InferenceBench};
pub use test::InferenceTest;
