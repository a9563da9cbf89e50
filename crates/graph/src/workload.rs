//! Work that is repeated to be measured.

use crate::{Batch, GraphError, Plan, Probe};

/// Something that runs plans over and over, each time in the same way: what a profiler samples.
pub trait Workload: Sized {
    /// What a run can fail with.
    type Error: From<GraphError>;

    /// What one sample is, in words.
    fn about(&self) -> String;

    /// Tokens of a sample.
    fn tokens(&self) -> usize;

    /// The plans that a sample runs, with what each is for. Never empty.
    fn plans(&self) -> Vec<(&'static str, &Plan)>;

    /// Makes room for `samples` pairs of samples, of which the next [`Workload::prepare`] begins the first. The batches
    /// on which a sample runs each of the plans, in order; where samples differ, those of a typical one.
    ///
    /// # Errors
    /// Batches that can't be made.
    fn start(&mut self, samples: usize) -> Result<Vec<Vec<Batch>>, Self::Error>;

    /// Brings the workload to where a sample begins. Not timed.
    ///
    /// # Errors
    /// Runs that fail.
    fn prepare(&mut self) -> Result<(), Self::Error>;

    /// Runs one sample. `probes`: one for each plan, in their order; fewer may panic.
    ///
    /// # Errors
    /// Runs that fail.
    fn sample<P: Probe>(&mut self, probes: &[P]) -> Result<(), Self::Error>;

    /// The same workload on another number of threads.
    ///
    /// # Errors
    /// Too little memory.
    fn with_threads(&self, threads: usize) -> Result<Self, Self::Error>;
}
