//! Observing the runs of an executor.

/// Is called when a run, and each worker's part of each step, begins and ends.
///
/// All workers call it concurrently. [`NoProbe`] is compiled away.
pub trait Probe: Sync {
    /// Whether the executor calls it at all.
    const ENABLED: bool = true;
    /// A run begins. The calling thread calls it once, before any step.
    fn enter(&self) {}
    /// All workers have ended the run.
    fn leave(&self) {}
    /// Worker `worker` begins its part of step `step` of the plan.
    fn start(&self, worker: usize, step: usize);
    /// Worker `worker` has ended its part of step `step`.
    fn end(&self, worker: usize, step: usize);
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProbe;

impl Probe for NoProbe {
    const ENABLED: bool = false;
    fn start(&self, _: usize, _: usize) {}
    fn end(&self, _: usize, _: usize) {}
}
