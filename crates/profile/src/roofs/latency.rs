//! The cost of entering the pool and of a barrier.

use std::time::Instant;

use smallmind_graph::Pool;

use super::{Effort, best, seconds_together};

/// Nanoseconds to enter the pool without work and to leave it, with workers awake.
pub(super) fn entry_ns(pool: &mut Pool, effort: Effort) -> f64 {
    let seconds = best(effort, |iterations| {
        let begin = Instant::now();
        for _ in 0..iterations {
            pool.run(|worker, _| {
                std::hint::black_box(worker);
            });
        }
        begin.elapsed().as_secs_f64()
    });
    1e9 * seconds
}

/// Nanoseconds of a barrier that all workers reach at the same time.
pub(super) fn barrier_ns(pool: &mut Pool, effort: Effort) -> f64 {
    let seconds = best(effort, |iterations| {
        seconds_together(pool, |_, team| {
            for _ in 0..iterations {
                team.barrier();
                std::hint::black_box(team);
            }
        })
    });
    1e9 * seconds
}
