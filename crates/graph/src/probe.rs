//! The hook of the executor.

/// What an executor tells of a run, from every worker: the steps' beginnings and ends.
///
/// Calls come from all workers at once. A probe that is [`NoProbe`] is compiled away.
pub trait Probe: Sync {
    /// Whether the executor calls it at all.
    const ENABLED: bool = true;
    /// A run begins: told once, by the thread that calls for it, before any step.
    fn enter(&self) {}
    /// All workers have ended the run.
    fn leave(&self) {}
    /// Worker `worker` starts with step `step` of the plan.
    fn start(&self, worker: usize, step: usize);
    /// Worker `worker` has done its part of step `step`.
    fn end(&self, worker: usize, step: usize);
}

/// Nothing is observed.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProbe;

impl Probe for NoProbe {
    const ENABLED: bool = false;
    fn start(&self, _: usize, _: usize) {}
    fn end(&self, _: usize, _: usize) {}
}
