//! Samples with the profiler and without it, in turn.

use std::time::Instant;

use crate::allocations;

/// Whether a sample is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profiler {
    /// It is.
    On,
    /// It isn't.
    Off,
}

/// Seconds of samples.
#[derive(Debug, Default)]
pub struct Samples {
    /// Recorded.
    pub on: Vec<f64>,
    /// Not recorded.
    pub off: Vec<f64>,
    /// Calls of the allocator in the samples that were not recorded, a sample.
    pub allocations: f64,
}

/// Seconds that all samples of an activity should take together, recorded ones and others.
const SECONDS: f64 = 2.0;

/// How many samples a repeat has: as many as fit into the time, but at least `least`, and no more than a report can hold.
pub fn samples_of_a_repeat(seconds: f64, repeats: usize, least: usize) -> usize {
    let fit = SECONDS / (2.0 * repeats as f64 * seconds.max(1e-9));
    (fit as usize).clamp(least, 2000)
}

/// Takes `count` samples of each kind; which of a pair comes first changes from pair to pair. What `prepare` does is not timed.
pub fn interleave<S>(
    count: usize,
    state: &mut S,
    mut prepare: impl FnMut(&mut S) -> anyhow::Result<()>,
    mut sample: impl FnMut(&mut S, Profiler) -> anyhow::Result<()>,
) -> anyhow::Result<Samples> {
    let mut samples = Samples { on: Vec::with_capacity(count), off: Vec::with_capacity(count), allocations: 0.0 };
    for pair in 0..count {
        let order = if pair % 2 == 0 { [Profiler::On, Profiler::Off] } else { [Profiler::Off, Profiler::On] };
        for profiler in order {
            prepare(state)?;
            let before = allocations::count();
            let begin = Instant::now();
            sample(state, profiler)?;
            let seconds = begin.elapsed().as_secs_f64();
            match profiler {
                Profiler::On => samples.on.push(seconds),
                Profiler::Off => {
                    samples.off.push(seconds);
                    samples.allocations += (allocations::count() - before) as f64 / count as f64;
                }
            }
        }
    }
    Ok(samples)
}

/// Seconds of a sample: the median of a few, after one that warms up.
pub fn seconds_of(mut sample: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    sample()?;
    let mut all = Vec::with_capacity(64);
    let started = Instant::now();
    while all.len() < 3 || (all.len() < 64 && started.elapsed().as_secs_f64() < 0.3) {
        let begin = Instant::now();
        sample()?;
        all.push(begin.elapsed().as_secs_f64());
    }
    Ok(smallmind::profile::statistics::median(&all))
}
