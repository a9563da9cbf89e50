//! The times of steps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use smallmind_graph::{Plan, Probe};

/// Adds up the time of each step on each worker. Nothing is allocated once it is made.
#[derive(Debug)]
pub struct Recorder {
    origin: Instant,
    steps: usize,
    workers: Vec<Worker>,
}

/// What one worker writes; on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Worker {
    /// When its current step began, in nanoseconds since the origin.
    began: AtomicU64,
    /// Nanoseconds spent, by step.
    spent: Vec<AtomicU64>,
}

impl Recorder {
    /// A recorder for runs of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let steps = plan.steps().len();
        let worker = || Worker { began: AtomicU64::new(0), spent: (0..steps).map(|_| AtomicU64::new(0)).collect() };
        Self { origin: Instant::now(), steps, workers: (0..plan.threads()).map(|_| worker()).collect() }
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Seconds that `worker` has spent in `step` so far; 0 for one that does not exist.
    pub fn seconds(&self, worker: usize, step: usize) -> f64 {
        let nanoseconds = self.workers.get(worker).and_then(|w| w.spent.get(step));
        nanoseconds.map_or(0.0, |ns| ns.load(Ordering::Relaxed) as f64 * 1e-9)
    }

    /// Workers and steps.
    pub fn size(&self) -> (usize, usize) {
        (self.workers.len(), self.steps)
    }
}

impl Probe for Recorder {
    fn start(&self, worker: usize, _: usize) {
        self.workers[worker].began.store(self.now(), Ordering::Relaxed);
    }

    fn end(&self, worker: usize, step: usize) {
        let worker = &self.workers[worker];
        let spent = self.now() - worker.began.load(Ordering::Relaxed);
        // Only this worker writes here: a load and a store do.
        let sum = worker.spent[step].load(Ordering::Relaxed) + spent;
        worker.spent[step].store(sum, Ordering::Relaxed);
    }
}
