//! The worker pool: entered once for a whole plan, with a barrier between its steps.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::GraphError;

/// How often a worker looks for the next job before it parks: some tens of microseconds, longer than the pause between two tokens.
const SPINS_BEFORE_PARK: u32 = 20_000;
/// How often a worker looks at a barrier before it offers its CPU to another thread: the others may be waiting for that CPU.
const SPINS_BEFORE_YIELD: u32 = 1_000;
/// The same where there are more workers than CPUs: then they are.
const CROWDED_SPINS_BEFORE_YIELD: u32 = 20;

/// The CPUs that this process may use: its affinity and its cgroup's quota count.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// On a cache line of its own, so that spinning on one word does not slow writers of another.
#[repr(align(128))]
struct Line<T>(T);

/// A job: a borrowed closure with its lifetime erased.
type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts jobs; a change wakes the workers.
    epoch: Line<AtomicUsize>,
    /// The job of this epoch.
    job: UnsafeCell<Option<Job>>,
    /// Workers that still run the job.
    running: Line<AtomicUsize>,
    /// Which workers are parked.
    parked: Vec<Line<AtomicBool>>,
    barrier: SpinBarrier,
    shutdown: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the owner of the pool while no worker runs, and read by workers after they have seen the new epoch.
unsafe impl Sync for Shared {}
// SAFETY: the job pointer is only dereferenced within `Pool::run`, while its target lives.
unsafe impl Send for Shared {}

/// A barrier that spins.
struct SpinBarrier {
    arrived: Line<AtomicUsize>,
    generation: Line<AtomicUsize>,
    poisoned: AtomicBool,
    count: usize,
    /// How often to look before the CPU is offered to another thread.
    patience: u32,
}

impl SpinBarrier {
    fn wait(&self) {
        let generation = self.generation.0.load(Ordering::Acquire);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.generation.0.store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.generation.0.load(Ordering::Acquire) == generation {
            assert!(!self.poisoned.load(Ordering::Acquire), "another worker panicked");
            spin(&mut spins, self.patience);
        }
    }
}

fn spin(spins: &mut u32, patience: u32) {
    *spins += 1;
    if *spins < patience { std::hint::spin_loop() } else { std::thread::yield_now() }
}

/// Threads that run one closure together. The calling thread is worker 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What a worker sees of its companions while a job runs.
pub struct Team<'a> {
    barrier: Option<&'a SpinBarrier>,
}

impl Team<'_> {
    /// Waits until every worker has come here; what each wrote before is then visible to all.
    #[inline(always)]
    pub fn barrier(&self) {
        if let Some(barrier) = self.barrier {
            barrier.wait();
        }
    }
}

impl Pool {
    /// A pool of `threads` workers, at least one, the calling thread among them.
    ///
    /// # Errors
    /// [`GraphError::Thread`] if the system refuses a thread.
    pub fn new(threads: usize) -> Result<Self, GraphError> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            epoch: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            running: Line(AtomicUsize::new(0)),
            parked: (0..threads).map(|_| Line(AtomicBool::new(false))).collect(),
            barrier: SpinBarrier {
                arrived: Line(AtomicUsize::new(0)),
                generation: Line(AtomicUsize::new(0)),
                poisoned: AtomicBool::new(false),
                count: threads,
                patience: if threads > available_threads() { CROWDED_SPINS_BEFORE_YIELD } else { SPINS_BEFORE_YIELD },
            },
            shutdown: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, workers: Vec::with_capacity(threads - 1) };
        for index in 1..threads {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("smallmind-{index}"));
            let handle = thread.spawn(move || worker(&shared, index));
            pool.workers.push(handle.map_err(|source| GraphError::Thread { index, source })?);
        }
        Ok(pool)
    }

    /// How many workers.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work(worker, team)` on every worker and returns when all have returned.
    ///
    /// # Panics
    /// If `work` panics on any worker; the pool can be used again.
    pub fn run(&mut self, work: impl Fn(usize, &Team<'_>) + Sync) {
        if self.workers.is_empty() {
            return work(0, &Team { barrier: None });
        }
        let shared = &*self.shared;
        let job = |index: usize| {
            let team = Team { barrier: Some(&shared.barrier) };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(index, &team))) {
                // The first panic is kept before others can come of it.
                if let Ok(mut first) = shared.panic.lock() {
                    first.get_or_insert(panic);
                }
                shared.barrier.poisoned.store(true, Ordering::Release);
            }
        };
        self.start(&job);
        job(0);
        let mut spins = 0;
        while shared.running.0.load(Ordering::Acquire) != 0 {
            spin(&mut spins, shared.barrier.patience);
        }
        if shared.barrier.poisoned.swap(false, Ordering::Relaxed) {
            shared.barrier.arrived.0.store(0, Ordering::Relaxed);
            let panic = shared.panic.lock().ok().and_then(|mut p| p.take());
            resume_unwind(panic.unwrap_or_else(|| Box::new("a worker panicked")));
        }
    }

    /// Hands `job` to the other workers.
    fn start(&self, job: &(dyn Fn(usize) + Sync)) {
        let job: *const (dyn Fn(usize) + Sync + '_) = job;
        // SAFETY: only the lifetime changes. `run` does not return before `running` is 0 again, after which no worker uses the
        // pointer; and the workers read it only after they have seen the epoch that is published below.
        unsafe { *self.shared.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job)) };
        self.shared.running.0.store(self.workers.len(), Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        for (i, handle) in self.workers.iter().enumerate() {
            if self.shared.parked[i + 1].0.swap(false, Ordering::SeqCst) {
                handle.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        self.wake();
        for handle in self.workers.drain(..) {
            // A worker catches the panics of its jobs, so joining can't fail for a reason that matters here.
            let _ = handle.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

/// The life of a worker: wait for an epoch, run its job, say so.
fn worker(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = next_epoch(shared, index, seen);
        if shared.shutdown.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch was published after the job was written, and the owner waits for `running` before it writes again.
        if let Some(job) = unsafe { *shared.job.get() } {
            // SAFETY: `Pool::run` keeps the closure alive until `running` is 0.
            unsafe { (*job)(index) };
        }
        shared.running.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Spins, then parks, until the epoch is another than `seen`.
fn next_epoch(shared: &Shared, index: usize, seen: usize) -> usize {
    let mut spins = 0;
    loop {
        let epoch = shared.epoch.0.load(Ordering::SeqCst);
        if epoch != seen {
            shared.parked[index].0.store(false, Ordering::SeqCst);
            return epoch;
        }
        spins += 1;
        if spins < SPINS_BEFORE_PARK {
            std::hint::spin_loop();
            continue;
        }
        // The flag goes up before the epoch is looked at again: whoever changes the epoch afterwards sees the flag and unparks.
        shared.parked[index].0.store(true, Ordering::SeqCst);
        if shared.epoch.0.load(Ordering::SeqCst) == seen {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_every_job() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 0..200 {
                pool.run(|i, _| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                if round % 50 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(3));
                }
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 200));
        }
    }

    #[test]
    fn barriers_order_writes() {
        let mut pool = Pool::new(3).unwrap();
        let cells: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
        pool.run(|i, team| {
            for round in 1..500 {
                cells[i].store(round, Ordering::Relaxed);
                team.barrier();
                assert!(cells.iter().all(|c| c.load(Ordering::Relaxed) == round));
                team.barrier();
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(|i, team| {
                assert!(i != 1, "worker 1 gives up");
                team.barrier();
            });
        }));
        assert!(caught.is_err());
        let runs = AtomicUsize::new(0);
        pool.run(|_, team| {
            team.barrier();
            runs.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }
}
