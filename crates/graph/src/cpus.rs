//! A CPU of its own for each worker.
//!
//! The scheduler of the system wakes a thread on a CPU near its waker, or where it ran before; after a busy time it
//! doesn't search for an idle one. Then two workers share a CPU while another CPU is idle. Workers that poll share it
//! for some 10 ms, until the scheduler balances its load. Workers that sleep share it without end, because the
//! scheduler seldom sees both of them ready to run.

use std::sync::atomic::{AtomicUsize, Ordering};

/// No CPU.
const UNKNOWN: usize = usize::MAX;

/// Where workers were last seen when one of them woke another.
pub(crate) struct WorkerCpus {
    cpus: Vec<AtomicUsize>,
}

impl WorkerCpus {
    /// For this number of workers. With 0 it does nothing.
    pub(crate) fn new(workers: usize) -> Self {
        Self { cpus: (0..workers).map(|_| AtomicUsize::new(UNKNOWN)).collect() }
    }

    /// Notes where `worker`, the calling thread, runs.
    pub(crate) fn note(&self, worker: usize) {
        if let Some(cpu) = self.cpus.get(worker) {
            cpu.store(system::current_cpu().unwrap_or(UNKNOWN), Ordering::Relaxed);
        }
    }

    /// If another worker was seen on the CPU of `worker`, the calling thread, moves it to a CPU that it may use and on
    /// which no worker was seen.
    pub(crate) fn leave_shared_cpu(&self, worker: usize) {
        self.note(worker);
        let Some(here) = self.cpus.get(worker).map(|cpu| cpu.load(Ordering::Relaxed)) else { return };
        let taken = |cpu: usize| {
            self.cpus.iter().enumerate().any(|(other, c)| other != worker && c.load(Ordering::Relaxed) == cpu)
        };
        if here != UNKNOWN
            && taken(here)
            && let Some(cpu) = system::move_to(|cpu| !taken(cpu))
        {
            self.cpus[worker].store(cpu, Ordering::Relaxed);
        }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod system {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

    pub(super) fn current_cpu() -> Option<usize> {
        Some(sched_getcpu())
    }

    /// Moves the calling thread to the first CPU that it may use and that is `free`, and returns that CPU. Its affinity
    /// stays as it was.
    pub(super) fn move_to(free: impl Fn(usize) -> bool) -> Option<usize> {
        let allowed = sched_getaffinity(None).ok()?;
        let cpu = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu) && free(*cpu))?;
        let mut alone = CpuSet::new();
        alone.set(cpu);
        sched_setaffinity(None, &alone).ok()?;
        // This fails only if the affinity was changed from outside in the meantime.
        sched_setaffinity(None, &allowed).ok()?;
        Some(cpu)
    }
}

#[cfg(any(not(target_os = "linux"), miri))]
mod system {
    pub(super) fn current_cpu() -> Option<usize> {
        None
    }

    pub(super) fn move_to(_: impl Fn(usize) -> bool) -> Option<usize> {
        None
    }
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    #[test]
    fn a_worker_leaves_a_shared_cpu_and_keeps_its_affinity() {
        let before = sched_getaffinity(None).unwrap();
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu)).take(2).collect();
        let [first, second] = cpus[..] else { return };
        let mut alone = CpuSet::new();
        alone.set(first);
        sched_setaffinity(None, &alone).unwrap();
        sched_setaffinity(None, &before).unwrap();
        let workers = WorkerCpus::new(2);
        workers.cpus[1].store(first, Ordering::Relaxed);
        workers.leave_shared_cpu(0);
        // The scheduler may have moved the thread before, so that it need not move.
        assert_ne!(workers.cpus[0].load(Ordering::Relaxed), first);
        assert!(cpus.len() > 2 || workers.cpus[0].load(Ordering::Relaxed) == second);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn a_thread_with_one_cpu_stays() {
        let before = sched_getaffinity(None).unwrap();
        let mut alone = CpuSet::new();
        alone.set((0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap());
        sched_setaffinity(None, &alone).unwrap();
        let workers = WorkerCpus::new(2);
        workers.note(1);
        workers.leave_shared_cpu(0);
        let places = workers.cpus.iter().map(|cpu| cpu.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!((places[0], sched_getaffinity(None).unwrap()), (places[1], alone));
        sched_setaffinity(None, &before).unwrap();
    }
}
