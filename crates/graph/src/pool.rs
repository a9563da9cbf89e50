//! The worker pool: entered once for a run of a whole plan, in which the workers meet at barriers.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::GraphError;
use crate::cpus::WorkerCpus;

/// Polls of a waiting worker before it sleeps: about 1 ms. An idle CPU of a virtual machine takes up to that long to
/// wake, so workers that slept sooner would wait for each other's CPUs at every barrier. (Miri takes a
/// thousand times as long.)
const SPINS: u32 = if cfg!(miri) { 20 } else { 50_000 };
/// Polls of an impatient worker, about 20 µs: one of its last [`IMPATIENT_WAITS`] waits ended in sleep. Probably
/// another process has taken a CPU, and the worker that ran on it needs this worker's CPU. A worker that has just woken
/// others is patient.
const IMPATIENT_SPINS: u32 = 1_000;
/// Waits for which a worker is impatient after one that ended in sleep.
const IMPATIENT_WAITS: u32 = 64;
/// Polls where there are more workers than CPUs: the worker that is waited for may need this CPU.
const CROWDED_SPINS: u32 = 20;

/// The number of CPUs that this process may use, by its affinity and its cgroup's quota.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// A value on cache lines of its own, so that spinning on one word does not slow writers of another.
#[repr(align(128))]
struct Line<T>(T);

/// A job: a borrowed closure with its lifetime erased.
type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts jobs; a change starts the workers.
    epoch: Line<AtomicUsize>,
    /// The job of this epoch.
    job: UnsafeCell<Option<Job>>,
    /// How many workers, the calling one not counted, still run the job.
    running: Line<AtomicUsize>,
    barrier: Barrier,
    waiters: Waiters,
    threads: usize,
    shutdown: AtomicBool,
    /// Whether a worker's job has panicked.
    poisoned: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the owner of the pool while no worker runs, and read by workers after they have seen the
// new epoch.
unsafe impl Sync for Shared {}
// SAFETY: the job pointer is only dereferenced within `Pool::run`, while its target lives.
unsafe impl Send for Shared {}

/// Where workers meet.
struct Barrier {
    arrived: Line<AtomicUsize>,
    generation: Line<AtomicUsize>,
}

/// Lets threads wait for each other.
///
/// A waiting thread polls at first and then sleeps, which frees its CPU. If another process has taken a CPU, the worker
/// that ran there moves to the freed one, and the others don't wait for that process.
struct Waiters {
    sleepers: Line<AtomicUsize>,
    lock: Mutex<()>,
    woken: Condvar,
    cpus: WorkerCpus,
    /// The patience of each worker.
    patience: Vec<Line<Patience>>,
    /// Polls before sleep.
    spins: u32,
}

/// What decides how long a worker waits before it sleeps.
#[derive(Default)]
struct Patience {
    /// Waits for which it is still impatient.
    impatient: AtomicU32,
    /// Whether it has woken others since it last waited: they come late to the next barrier, so it waits patiently.
    has_woken: AtomicBool,
}

/// Polls `may_go_on` up to `spins` times. Returns whether it became true.
#[inline(always)]
fn spin(spins: u32, may_go_on: &dyn Fn() -> bool) -> bool {
    for _ in 0..spins {
        if may_go_on() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

impl Waiters {
    /// Blocks `worker` until another has made `may_go_on` true. `may_go_on` loads with [`Ordering::SeqCst`].
    #[inline(always)]
    fn wait(&self, worker: usize, may_go_on: impl Fn() -> bool) {
        if !may_go_on() {
            self.wait_long(worker, &may_go_on);
        }
    }

    #[inline(never)]
    fn wait_long(&self, worker: usize, may_go_on: &dyn Fn() -> bool) {
        let Patience { impatient, has_woken } = &self.patience[worker].0;
        let left = impatient.load(Ordering::Relaxed);
        impatient.store(left.saturating_sub(1), Ordering::Relaxed);
        let patient = has_woken.swap(false, Ordering::Relaxed) || left == 0;
        if !spin(if patient { self.spins } else { IMPATIENT_SPINS.min(self.spins) }, may_go_on) {
            if left == 0 {
                impatient.store(IMPATIENT_WAITS, Ordering::Relaxed);
            }
            self.sleep(worker, may_go_on);
        }
    }

    /// [`Waiters::wait`] of a worker without a job: always patient.
    fn wait_idle(&self, worker: usize, may_go_on: impl Fn() -> bool) {
        if !spin(self.spins, &may_go_on) {
            self.sleep(worker, &may_go_on);
        }
    }

    fn sleep(&self, worker: usize, may_go_on: &dyn Fn() -> bool) {
        // The increment here, the loads of `may_go_on`, the store before `wake_all` and the load in `wake_all` are all
        // `SeqCst`: either this thread sees that store, or `wake_all` sees the sleeper.
        self.sleepers.0.fetch_add(1, Ordering::SeqCst);
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !may_go_on() {
            lock = self.woken.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
        drop(lock);
        self.sleepers.0.fetch_sub(1, Ordering::Relaxed);
        self.cpus.leave_shared_cpu(worker);
    }

    /// `worker` wakes all sleepers. What they wait for must have been written before, with [`Ordering::SeqCst`].
    #[inline(always)]
    fn wake_all(&self, worker: usize) {
        if self.sleepers.0.load(Ordering::SeqCst) != 0 {
            self.wake_sleepers(worker);
        }
    }

    #[cold]
    fn wake_sleepers(&self, worker: usize) {
        self.cpus.note(worker);
        self.patience[worker].0.has_woken.store(true, Ordering::Relaxed);
        // While this thread holds the lock, no other is between its last poll and its sleep.
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.woken.notify_all();
    }
}

impl Shared {
    fn barrier(&self, worker: usize) {
        let Barrier { arrived: Line(arrived), generation: Line(generation) } = &self.barrier;
        let current = generation.load(Ordering::Acquire);
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            arrived.store(0, Ordering::Relaxed);
            generation.store(current.wrapping_add(1), Ordering::SeqCst);
            self.waiters.wake_all(worker);
            return;
        }
        let passed = || generation.load(Ordering::SeqCst) != current;
        self.waiters.wait(worker, || passed() || self.poisoned.load(Ordering::SeqCst));
        assert!(passed(), "another worker panicked");
    }
}

/// Threads that run one closure together. The calling thread is worker 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// A worker's handle to all workers of a job.
pub struct Team<'a> {
    worker: usize,
    /// None in a pool of one worker.
    shared: Option<&'a Shared>,
}

impl Team<'_> {
    /// Waits until every worker has come here; what each wrote before is then visible to all.
    #[inline(always)]
    pub fn barrier(&self) {
        if let Some(shared) = self.shared {
            shared.barrier(self.worker);
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
        let crowded = threads > available_threads();
        let shared = Arc::new(Shared {
            epoch: Line(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            running: Line(AtomicUsize::new(0)),
            barrier: Barrier { arrived: Line(AtomicUsize::new(0)), generation: Line(AtomicUsize::new(0)) },
            waiters: Waiters {
                sleepers: Line(AtomicUsize::new(0)),
                lock: Mutex::new(()),
                woken: Condvar::new(),
                cpus: WorkerCpus::new(if crowded { 0 } else { threads }),
                patience: (0..threads).map(|_| Line(Patience::default())).collect(),
                spins: if crowded { CROWDED_SPINS } else { SPINS },
            },
            threads,
            shutdown: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
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
            return work(0, &Team { worker: 0, shared: None });
        }
        let shared = &*self.shared;
        let job = |index: usize| {
            let team = Team { worker: index, shared: Some(shared) };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(index, &team))) {
                // The first panic is stored before it makes other workers panic.
                if let Ok(mut first) = shared.panic.lock() {
                    first.get_or_insert(panic);
                }
                shared.poisoned.store(true, Ordering::SeqCst);
                shared.waiters.wake_all(index);
            }
        };
        self.start(&job);
        job(0);
        shared.waiters.wait(0, || shared.running.0.load(Ordering::SeqCst) == 0);
        if shared.poisoned.swap(false, Ordering::Relaxed) {
            shared.barrier.arrived.0.store(0, Ordering::Relaxed);
            let panic = shared.panic.lock().ok().and_then(|mut p| p.take());
            resume_unwind(panic.unwrap_or_else(|| Box::new("a worker panicked")));
        }
    }

    /// Hands `job` to the other workers.
    fn start(&self, job: &(dyn Fn(usize) + Sync)) {
        let job: *const (dyn Fn(usize) + Sync + '_) = job;
        // SAFETY: only the lifetime changes. `run` does not return before `running` is 0 again, after which no worker
        // uses the pointer; and the workers read it only after they have seen the epoch that is published below.
        unsafe { *self.shared.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job)) };
        self.shared.running.0.store(self.workers.len(), Ordering::Relaxed);
        self.call_workers();
    }

    fn call_workers(&self) {
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        self.shared.waiters.wake_all(0);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::Relaxed);
        self.call_workers();
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

/// The loop of a worker: wait for an epoch, run its job, report it done.
fn worker(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        shared.waiters.wait_idle(index, || shared.epoch.0.load(Ordering::SeqCst) != seen);
        // Every worker runs every job, so no epoch is missed.
        seen += 1;
        if shared.shutdown.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: the epoch was published after the job was written, and the owner waits for `running` before it writes
        // again.
        if let Some(job) = unsafe { *shared.job.get() } {
            // SAFETY: `Pool::run` keeps the closure alive until `running` is 0.
            unsafe { (*job)(index) };
        }
        if shared.running.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            shared.waiters.wake_all(index);
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
        for threads in [2, 3, 8] {
            let mut pool = Pool::new(threads).unwrap();
            let cells: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            pool.run(|i, team| {
                for round in 1..500 {
                    cells[i].store(round, Ordering::Relaxed);
                    team.barrier();
                    assert!(cells.iter().all(|c| c.load(Ordering::Relaxed) == round));
                    team.barrier();
                }
            });
        }
    }

    /// A worker that comes late finds the others asleep, and they wake.
    #[test]
    fn sleepers_are_woken() {
        let mut pool = Pool::new(3).unwrap();
        let passed = AtomicUsize::new(0);
        pool.run(|i, team| {
            for round in 0..6 {
                if i == round % 3 {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                team.barrier();
                passed.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(passed.load(Ordering::Relaxed), 18);
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
