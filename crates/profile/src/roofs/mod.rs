//! The measured limits of this machine, called roofs as in a roofline model: no kernel can be faster.
//!
//! All threads of a pool work at the same time, each on its own memory. A roof is a limit, so it is the best of several
//! samples: another program on the machine makes a sample slower, never faster.

mod bandwidth;
mod caches;
mod compute;
mod latency;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use smallmind_graph::{GraphError, Pool, Team};
use smallmind_simd::IsaKind;

pub use bandwidth::Bandwidth;
pub use caches::CacheSizes;

/// How much time to spend on roofs.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Number of samples of each roof; fewer where one takes several times as long as [`sample`](Self::sample), as a
    /// pass over a large buffer does, which other programs disturb less.
    pub samples: usize,
    /// The least time of a sample. Short samples fit between the time slices of other programs.
    pub sample: Duration,
    /// The least bytes of the largest buffer, which is never smaller than four times the third-level cache.
    pub memory_bytes: usize,
}

impl Effort {
    /// Takes a few seconds.
    pub const THOROUGH: Self = Self { samples: 40, sample: Duration::from_millis(1), memory_bytes: 256 << 20 };
    /// Takes well below a second.
    pub const QUICK: Self = Self { samples: 6, sample: Duration::from_micros(500), memory_bytes: 0 };
}

/// The limits of a machine for a number of threads and an instruction set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roofs {
    /// The instruction set.
    pub isa: &'static str,
    /// Number of threads.
    pub threads: usize,
    /// Multiply-adds of `f32` in registers, two operations each: GFLOP/s.
    pub f32_gflops: f64,
    /// Multiply-adds of `bf16` by the CPU's dot product: GFLOP/s. None without such an instruction.
    pub bf16_gflops: Option<f64>,
    /// Multiply-adds of bytes by the fastest of the dot products that products use: GOP/s. None without vectors.
    pub int8_gops: Option<f64>,
    /// Exponentials of `f32` by the cheapest function of the vector language: 1e9 per second.
    pub exp_gops: f64,
    /// Bandwidths of memory by rising size: inside the second-level caches, around the size of the third-level cache,
    /// beyond all caches.
    pub levels: Vec<Bandwidth>,
    /// Entering the pool without work, and leaving it: nanoseconds.
    pub entry_ns: f64,
    /// A barrier of all threads: nanoseconds.
    pub barrier_ns: f64,
}

impl Roofs {
    /// Measures the roofs on the threads of `pool`.
    ///
    /// # Errors
    /// Too little memory, or an instruction set that this CPU lacks.
    pub fn measure(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Result<Self, GraphError> {
        let caches = CacheSizes::read();
        let threads = pool.threads();
        let largest = effort.memory_bytes.max(4 * caches.l3);
        let mut buffer = bandwidth::Memory::new(pool, largest)?;
        let mut levels: Vec<Bandwidth> = vec![];
        for (name, bytes) in [
            ("L2/2", caches.l2 / 2 * threads),
            ("L3/8", caches.l3 / 8),
            ("L3/2", caches.l3 / 2),
            ("L3", caches.l3),
            ("2 L3", 2 * caches.l3),
            ("memory", largest),
        ] {
            // Levels must rise in size: the second-level caches of many cores together may be larger than the
            // third-level cache.
            if levels.last().is_none_or(|level| level.bytes < bytes) {
                levels.push(buffer.bandwidth(pool, isa, effort, name, bytes)?);
            }
        }
        Ok(Self {
            isa: isa.name(),
            threads,
            f32_gflops: compute::f32_gflops(pool, isa, effort)?,
            bf16_gflops: compute::bf16_gflops(pool, isa, effort),
            int8_gops: compute::int8_gops(pool, isa, effort),
            exp_gops: compute::exp_gops(pool, isa, effort)?,
            levels,
            entry_ns: latency::entry_ns(pool, effort),
            barrier_ns: latency::barrier_ns(pool, effort),
        })
    }

    /// The measured level that is nearest in size to a working set of `bytes`, divided among the threads.
    ///
    /// # Panics
    /// If there are no levels; [`Roofs::measure`] gives several.
    pub fn level(&self, bytes: f64) -> &Bandwidth {
        let distance = |level: &Bandwidth| (bytes.max(1.0) / level.bytes as f64).ln().abs();
        let nearest = self.levels.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.unwrap_or_else(|| panic!("roofs without levels of memory"))
    }
}

/// Runs `work` on all workers of `pool`, which are awake when it begins. Returns the seconds from when the first worker
/// begins to when the last one ends.
pub fn seconds_together(pool: &mut Pool, work: impl Fn(usize, &Team<'_>) + Sync) -> f64 {
    let begin = Instant::now();
    let span = Mutex::new((Duration::MAX, Duration::ZERO));
    pool.run(|worker, team| {
        team.barrier();
        let start = begin.elapsed();
        work(worker, team);
        let end = begin.elapsed();
        let mut span = span.lock().unwrap_or_else(PoisonError::into_inner);
        *span = (span.0.min(start), span.1.max(end));
    });
    let (start, end) = span.into_inner().unwrap_or_else(PoisonError::into_inner);
    end.saturating_sub(start).as_secs_f64()
}

/// Seconds of an iteration in the best of several samples. `run` takes a number of iterations and returns their
/// seconds.
fn best(effort: Effort, mut run: impl FnMut(usize) -> f64) -> f64 {
    // The shortest sample counts: another program may disturb a sample.
    let mut least = |iterations: usize, samples: usize| (0..samples).map(|_| run(iterations)).fold(f64::MAX, f64::min);
    let mut iterations = 1;
    // The first run touches the memory.
    least(iterations, 1);
    let mut seconds = least(iterations, 2);
    while seconds < effort.sample.as_secs_f64() && iterations < 1 << 30 {
        let wanted = 1.2 * effort.sample.as_secs_f64() / seconds.max(1e-9);
        iterations = (iterations as f64 * wanted.clamp(1.1, 1000.0)).ceil() as usize;
        seconds = least(iterations, 2);
    }
    // As long as four times the samples that were asked for.
    let fit = 4.0 * effort.samples as f64 * effort.sample.as_secs_f64() / seconds;
    least(iterations, effort.samples.min(fit as usize)).min(seconds) / iterations as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: Effort = Effort { samples: 2, sample: Duration::from_micros(200), memory_bytes: 0 };

    #[test]
    fn roofs_are_positive_and_fast_memory_is_small() {
        for threads in [1, 2] {
            let mut pool = Pool::new(threads).unwrap();
            let roofs = Roofs::measure(&mut pool, IsaKind::best(), TINY).unwrap();
            assert_eq!((roofs.threads, roofs.isa), (threads, IsaKind::best().name()));
            let rates = [
                roofs.f32_gflops,
                roofs.exp_gops,
                roofs.entry_ns,
                roofs.bf16_gflops.unwrap_or(1.0),
                roofs.int8_gops.unwrap_or(1.0),
            ];
            assert!(rates.iter().all(|x| x.is_finite() && *x > 0.0), "{roofs:?}");
            // An exponential takes several multiply-adds. A roof is too low if another program has the CPUs, so one of
            // a few tries must be undisturbed.
            let quiet = (0..20).any(|_| {
                let exp_gops = compute::exp_gops(&mut pool, IsaKind::best(), TINY).unwrap();
                4.0 * exp_gops < compute::f32_gflops(&mut pool, IsaKind::best(), TINY).unwrap()
            });
            assert!(quiet, "{roofs:?}");
            for level in &roofs.levels {
                let rates = [level.read, level.write, level.copy, level.update];
                assert!(rates.iter().all(|x| x.is_finite() && *x > 0.0), "{roofs:?}");
                assert_eq!(roofs.level(1.1 * level.bytes as f64), level);
            }
            assert!(roofs.levels.len() >= 2 && roofs.levels.is_sorted_by(|a, b| a.bytes < b.bytes), "{roofs:?}");
            assert_eq!((roofs.level(1.0).name, roofs.level(1e12).name), ("L2/2", "memory"));
        }
    }

    #[test]
    fn the_scalar_set_has_no_dot_products() {
        let mut pool = Pool::new(1).unwrap();
        assert_eq!(compute::bf16_gflops(&mut pool, IsaKind::Scalar, TINY), None);
        assert_eq!(compute::int8_gops(&mut pool, IsaKind::Scalar, TINY), None);
        assert!(compute::f32_gflops(&mut pool, IsaKind::Scalar, TINY).unwrap() > 0.0);
    }

    #[test]
    fn the_best_sample_is_an_iterations_time() {
        let pause = Duration::from_micros(300);
        let mut pool = Pool::new(2).unwrap();
        let seconds =
            best(TINY, |n| seconds_together(&mut pool, |_, _| (0..n).for_each(|_| std::thread::sleep(pause))));
        assert!((3e-4..3e-2).contains(&seconds), "{seconds}");
    }
}
