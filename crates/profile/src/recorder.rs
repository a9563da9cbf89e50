//! Records the times of steps.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use smallmind_graph::{Plan, Probe};

use crate::clock::Clock;

/// What a thread has allocated so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// Calls of the allocator.
    pub calls: u64,
    /// Bytes allocated.
    pub bytes: u64,
}

/// Returns what the calling thread has allocated so far. A program that counts allocations passes such a function to
/// [`Recorder::counting`].
pub type AllocationCounter = fn() -> Allocated;

/// A probe that records when each worker begins and ends each step: the times of the latest runs, and their sums over
/// all runs.
///
/// A recorder allocates only when it is made. If there is no barrier between two steps of a worker, the second begins
/// when the first ends, so the clock is read once for both.
#[derive(Debug)]
pub struct Recorder {
    clock: Clock,
    steps: usize,
    kept: usize,
    /// For each step, the number of barriers before it.
    segments: Vec<u32>,
    /// Number of runs recorded.
    runs: AtomicUsize,
    /// Index of the current run's first entry among the kept times.
    row: AtomicUsize,
    /// Begin and end of each run that is kept, in counts of the clock.
    spans: Vec<(AtomicU64, AtomicU64)>,
    workers: Vec<Worker>,
    counter: Option<AllocationCounter>,
}

/// The records of one worker, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Worker {
    /// The last step that it ended; [`usize::MAX`] before its first.
    ended: AtomicUsize,
    /// When it ended that step.
    at: AtomicU64,
    /// Counts of the clock in each step, over all runs.
    spent: Vec<AtomicU64>,
    /// Begin and end of each step: `[runs kept, steps]`.
    times: Vec<(AtomicU64, AtomicU64)>,
    /// Calls and bytes of its thread when its last step ended.
    before: (AtomicU64, AtomicU64),
    /// Calls and bytes of each step, over all runs.
    allocated: Vec<(AtomicU64, AtomicU64)>,
}

fn zeros(n: usize) -> Vec<AtomicU64> {
    (0..n).map(|_| AtomicU64::new(0)).collect()
}

fn pairs(n: usize) -> Vec<(AtomicU64, AtomicU64)> {
    (0..n).map(|_| Default::default()).collect()
}

fn load(pair: &(AtomicU64, AtomicU64)) -> (u64, u64) {
    (pair.0.load(Ordering::Relaxed), pair.1.load(Ordering::Relaxed))
}

/// Adds without an atomic addition: only one thread writes here at a time.
fn add(sum: &AtomicU64, more: u64) {
    sum.store(sum.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

impl Recorder {
    /// A recorder for runs of `plan` that keeps the times of the latest run.
    pub fn new(plan: &Plan) -> Self {
        Self::keeping(plan, 1)
    }

    /// A recorder for runs of `plan` that keeps the times of the latest `runs` runs, at least one.
    pub fn keeping(plan: &Plan, runs: usize) -> Self {
        let (steps, kept) = (plan.steps().len(), runs.max(1));
        let mut barriers = 0;
        let segment = |step: &smallmind_graph::Step| {
            barriers += u32::from(step.has_barrier());
            barriers
        };
        let worker = |_| Worker {
            ended: AtomicUsize::new(usize::MAX),
            at: AtomicU64::new(0),
            spent: zeros(steps),
            times: pairs(steps * kept),
            before: Default::default(),
            allocated: pairs(steps),
        };
        Self {
            clock: Clock::get(),
            steps,
            kept,
            segments: plan.steps().iter().map(segment).collect(),
            runs: AtomicUsize::new(0),
            row: AtomicUsize::new(0),
            spans: pairs(kept),
            workers: (0..plan.threads()).map(worker).collect(),
            counter: None,
        }
    }

    /// The same recorder, which also counts the allocations of each step.
    #[must_use]
    pub fn counting(self, counter: Option<AllocationCounter>) -> Self {
        Self { counter, ..self }
    }

    /// Forgets all runs.
    pub fn reset(&mut self) {
        self.runs.store(0, Ordering::Relaxed);
        for worker in &mut self.workers {
            worker.spent.iter().for_each(|sum| sum.store(0, Ordering::Relaxed));
            worker.times.iter().chain(&worker.allocated).for_each(|pair| {
                pair.0.store(0, Ordering::Relaxed);
                pair.1.store(0, Ordering::Relaxed);
            });
        }
    }

    /// Seconds of `worker` in `step` over all runs; 0 if there is no such worker or step.
    pub fn seconds(&self, worker: usize, step: usize) -> f64 {
        let counts = self.workers.get(worker).and_then(|w| w.spent.get(step));
        counts.map_or(0.0, |counts| self.clock.seconds(counts.load(Ordering::Relaxed)))
    }

    /// Number of workers and of steps.
    pub fn size(&self) -> (usize, usize) {
        (self.workers.len(), self.steps)
    }

    /// Number of runs recorded. The times of the latest are kept.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    /// The indices of the runs whose times are kept.
    pub fn kept(&self) -> Range<usize> {
        let runs = self.runs();
        runs.saturating_sub(self.kept)..runs
    }

    /// Begin and end of a run that is kept: seconds on a clock that all recorders of this process share.
    pub fn span(&self, run: usize) -> (f64, f64) {
        self.seconds_of(load(&self.spans[run % self.kept]))
    }

    fn seconds_of(&self, (begin, end): (u64, u64)) -> (f64, f64) {
        (self.clock.seconds(begin), self.clock.seconds(end))
    }

    /// When `worker` began and ended `step` in a run that is kept; none if it had no part in the step.
    pub fn times(&self, run: usize, worker: usize, step: usize) -> Option<(f64, f64)> {
        let (begin, end) = load(&self.workers[worker].times[run % self.kept * self.steps + step]);
        (end != 0).then(|| self.seconds_of((begin, end)))
    }

    /// What all workers have allocated in `step` in all runs; none if allocations aren't counted.
    pub fn allocated(&self, step: usize) -> Option<Allocated> {
        self.counter?;
        let sum = |all: Allocated, worker: &Worker| {
            let (calls, bytes) = load(&worker.allocated[step]);
            Allocated { calls: all.calls + calls, bytes: all.bytes + bytes }
        };
        Some(self.workers.iter().fold(Allocated::default(), sum))
    }
}

impl Probe for Recorder {
    fn enter(&self) {
        let run = self.runs.load(Ordering::Relaxed);
        self.row.store(run % self.kept * self.steps, Ordering::Relaxed);
        self.workers.iter().for_each(|worker| worker.ended.store(usize::MAX, Ordering::Relaxed));
        self.spans[run % self.kept].0.store(self.clock.now(), Ordering::Relaxed);
    }

    fn leave(&self) {
        let run = self.runs.load(Ordering::Relaxed);
        self.spans[run % self.kept].1.store(self.clock.now(), Ordering::Relaxed);
        self.runs.store(run + 1, Ordering::Relaxed);
    }

    fn start(&self, worker: usize, step: usize) {
        let row = self.row.load(Ordering::Relaxed);
        let worker = &self.workers[worker];
        let ended = worker.ended.load(Ordering::Relaxed);
        let follows = self.segments.get(ended) == Some(&self.segments[step]);
        let now = if follows { worker.at.load(Ordering::Relaxed) } else { self.clock.now() };
        worker.times[row + step].0.store(now, Ordering::Relaxed);
        // A later step begins with the count at the end of the step before: nothing allocates between steps.
        if let Some(counter) = self.counter.filter(|_| ended == usize::MAX) {
            let Allocated { calls, bytes } = counter();
            worker.before.0.store(calls, Ordering::Relaxed);
            worker.before.1.store(bytes, Ordering::Relaxed);
        }
    }

    fn end(&self, worker: usize, step: usize) {
        let row = self.row.load(Ordering::Relaxed);
        let worker = &self.workers[worker];
        let now = self.clock.now();
        let (begin, end) = &worker.times[row + step];
        end.store(now, Ordering::Relaxed);
        add(&worker.spent[step], now - begin.load(Ordering::Relaxed));
        worker.at.store(now, Ordering::Relaxed);
        worker.ended.store(step, Ordering::Relaxed);
        if let Some(counter) = self.counter {
            let Allocated { calls, bytes } = counter();
            if calls != worker.before.0.load(Ordering::Relaxed) {
                add(&worker.allocated[step].0, calls - worker.before.0.swap(calls, Ordering::Relaxed));
                add(&worker.allocated[step].1, bytes - worker.before.1.swap(bytes, Ordering::Relaxed));
            }
        }
    }
}
