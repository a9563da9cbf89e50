//! What this machine can do, measured: the roofs under which every kernel works.
//!
//! All threads of a pool work at once, each on memory of its own. A roof is the best of several samples, since it is a limit: what a
//! neighbour on the machine takes away makes a sample slower and never faster.

mod bandwidth;
mod caches;
mod compute;
mod latency;

use std::time::{Duration, Instant};

use serde::Serialize;
use smallmind_graph::{GraphError, Pool};
use smallmind_simd::IsaKind;

pub use bandwidth::Bandwidth;
pub use caches::CacheSizes;

/// How much time to spend on roofs.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Samples of each roof.
    pub samples: usize,
    /// The least time of a sample: short, so that some samples run between the turns of other programs.
    pub sample: Duration,
    /// Bytes of the buffer that no cache holds, at least; four times the third-level cache if that is more.
    pub memory_bytes: usize,
}

impl Effort {
    /// A few seconds.
    pub const THOROUGH: Self = Self { samples: 40, sample: Duration::from_millis(1), memory_bytes: 256 << 20 };
    /// Well below a second.
    pub const QUICK: Self = Self { samples: 6, sample: Duration::from_micros(500), memory_bytes: 0 };
}

/// What a machine can do with a number of threads and an instruction set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roofs {
    /// The instruction set.
    pub isa: &'static str,
    /// Threads at work.
    pub threads: usize,
    /// Multiply-adds of `f32` in registers, two operations each: GFLOP/s.
    pub f32_gflops: f64,
    /// Multiply-adds of `bf16` by the CPU's dot product, where it has one: GFLOP/s.
    pub bf16_gflops: Option<f64>,
    /// Multiply-adds of bytes by the CPU's dot product, where it has one: GOP/s.
    pub int8_gops: Option<f64>,
    /// Within the second-level caches, half of each filled.
    pub l2: Bandwidth,
    /// Within the third-level cache, half of it filled.
    pub l3: Bandwidth,
    /// Beyond all caches.
    pub memory: Bandwidth,
    /// Entering the pool with nothing to do, and leaving it: nanoseconds.
    pub entry_ns: f64,
    /// A barrier of all threads: nanoseconds.
    pub barrier_ns: f64,
}

impl Roofs {
    /// Measures them on the threads of `pool`.
    ///
    /// # Errors
    /// Memory that can't be had, or an instruction set that this CPU lacks.
    pub fn measure(pool: &mut Pool, isa: IsaKind, effort: Effort) -> Result<Self, GraphError> {
        let caches = CacheSizes::read();
        let threads = pool.threads();
        let l2_bytes = caches.l2 / 2 * threads;
        let l3_bytes = (caches.l3 / 2).max(2 * l2_bytes);
        let memory_bytes = effort.memory_bytes.max(4 * caches.l3);
        let mut buffer = bandwidth::Memory::new(pool, memory_bytes)?;
        let mut level = |bytes| buffer.bandwidth(pool, isa, effort, bytes);
        let (l2, l3, memory) = (level(l2_bytes)?, level(l3_bytes)?, level(memory_bytes)?);
        Ok(Self {
            isa: isa.name(),
            threads,
            f32_gflops: compute::f32_gflops(pool, isa, effort)?,
            bf16_gflops: compute::bf16_gflops(pool, isa, effort),
            int8_gops: compute::int8_gops(pool, isa, effort),
            l2,
            l3,
            memory,
            entry_ns: latency::entry_ns(pool, effort),
            barrier_ns: latency::barrier_ns(pool, effort),
        })
    }

    /// The level of memory that a working set of `bytes`, shared out among the threads, fits into.
    pub fn level(&self, bytes: f64) -> &Bandwidth {
        // Each cache was measured half full.
        let fits = |level: &Bandwidth| bytes <= 2.0 * level.bytes as f64;
        if fits(&self.l2) {
            &self.l2
        } else if fits(&self.l3) {
            &self.l3
        } else {
            &self.memory
        }
    }
}

/// Seconds an iteration in the best of several samples; `run` does some iterations.
fn best(effort: Effort, mut run: impl FnMut(usize)) -> f64 {
    let mut timed = |iterations: usize| {
        let begin = Instant::now();
        run(iterations);
        begin.elapsed().as_secs_f64()
    };
    let mut iterations = 1;
    // The first call touches memory and wakes threads, so it says little about the number of iterations.
    timed(iterations);
    let mut seconds = timed(iterations);
    while seconds < effort.sample.as_secs_f64() && iterations < 1 << 30 {
        let wanted = 1.2 * effort.sample.as_secs_f64() / seconds.max(1e-9);
        iterations = (iterations as f64 * wanted.clamp(1.1, 1000.0)).ceil() as usize;
        seconds = timed(iterations);
    }
    let samples = (1..effort.samples).map(|_| timed(iterations));
    samples.fold(seconds, f64::min) / iterations as f64
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
            let rates =
                [roofs.f32_gflops, roofs.entry_ns, roofs.bf16_gflops.unwrap_or(1.0), roofs.int8_gops.unwrap_or(1.0)];
            assert!(rates.iter().all(|x| x.is_finite() && *x > 0.0), "{roofs:?}");
            for level in [&roofs.l2, &roofs.l3, &roofs.memory] {
                let rates = [level.read, level.write, level.copy, level.update];
                assert!(rates.iter().all(|x| x.is_finite() && *x > 0.0), "{roofs:?}");
            }
            assert!(roofs.l2.bytes < roofs.l3.bytes && roofs.l3.bytes < roofs.memory.bytes, "{roofs:?}");
            assert_eq!(roofs.level(1.0), &roofs.l2);
            assert_eq!(roofs.level(roofs.l3.bytes as f64), &roofs.l3);
            assert_eq!(roofs.level(1e12), &roofs.memory);
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
        let seconds = best(TINY, |n| (0..n).for_each(|_| std::thread::sleep(pause)));
        assert!((3e-4..3e-2).contains(&seconds), "{seconds}");
    }
}
