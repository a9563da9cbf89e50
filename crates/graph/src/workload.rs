//! Work that is repeated to be measured.

use crate::{Batch, GraphError, Plan, Probe};

/// Something that runs plans again and again in the same way, so that a profiler can take samples of it.
pub trait Workload: Sized {
    /// The error of a run.
    type Error: From<GraphError>;

    /// What one sample is, in words.
    fn about(&self) -> String;

    /// Tokens of a sample.
    fn tokens(&self) -> usize;

    /// The plans that a sample runs, with what each is for. Never empty.
    fn plans(&self) -> Vec<(&'static str, &Plan)>;

    /// Reserves memory for `samples` pairs of samples; the next call of [`Workload::prepare`] is for the first. Returns
    /// for each plan the batches on which a sample runs it, in order. If samples differ, those of a typical one.
    ///
    /// # Errors
    /// The batches can't be made.
    fn start(&mut self, samples: usize) -> Result<Vec<Vec<Batch>>, Self::Error>;

    /// Brings the workload to the state in which a sample begins. It is not timed.
    ///
    /// # Errors
    /// A run fails.
    fn prepare(&mut self) -> Result<(), Self::Error>;

    /// Runs one sample. `probes`: one for each plan, in their order; fewer may panic.
    ///
    /// # Errors
    /// A run fails.
    fn sample<P: Probe>(&mut self, probes: &[P]) -> Result<(), Self::Error>;

    /// The same workload on another number of threads.
    ///
    /// # Errors
    /// Too little memory.
    fn with_threads(&self, threads: usize) -> Result<Self, Self::Error>;
}
