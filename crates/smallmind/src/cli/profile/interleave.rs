//! Samples with the profiler and without it, in turn.

use std::time::Instant;

use smallmind::profile::statistics::median;
use smallmind::profile::{Beat, Counters, Events, Pulse};

use crate::allocations;

/// Whether a sample is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profiler {
    /// It is.
    On,
    /// It isn't.
    Off,
}

/// How much is sampled.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Samples of each kind.
    pub samples: usize,
    /// Into how many repeats they fall.
    pub repeats: usize,
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
    /// What the kernel and the CPU counted in a sample that was not recorded.
    pub events: Events,
    /// The machine's speed before each repeat.
    pub beats: Vec<Beat>,
}

/// What is watched beside times.
pub struct Watched {
    /// Of the kernel and the CPU.
    pub counters: Counters,
    /// Of the machine.
    pub pulse: Pulse,
}

/// Seconds over which events are counted.
const COUNTED: f64 = 0.2;

/// Seconds that all samples of an activity should take together, recorded ones and others.
const SECONDS: f64 = 2.0;

/// How many samples a repeat has: as many as fit into the time, but at least `least`, and no more than a report can hold.
pub fn samples_of_a_repeat(seconds: f64, repeats: usize, least: usize) -> usize {
    let fit = SECONDS / (2.0 * repeats as f64 * seconds.max(1e-9));
    (fit as usize).clamp(least, 2000)
}

/// Takes samples of both kinds; which of a pair comes first changes from pair to pair. What `prepare` does is not timed. Some more
/// samples follow for what is counted, so that reading the counters disturbs no time.
pub fn interleave<S>(
    Count { samples: count, repeats }: Count,
    watched: &mut Watched,
    state: &mut S,
    mut prepare: impl FnMut(&mut S) -> anyhow::Result<()>,
    mut sample: impl FnMut(&mut S, Profiler) -> anyhow::Result<()>,
) -> anyhow::Result<Samples> {
    let list = || Vec::with_capacity(count);
    let mut samples = Samples { on: list(), off: list(), beats: Vec::with_capacity(repeats), ..Samples::default() };
    for pair in 0..count {
        if pair.is_multiple_of((count / repeats.max(1)).max(1)) && samples.beats.len() < repeats {
            samples.beats.push(watched.pulse.beat());
        }
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
    let before = watched.counters.read();
    if before != Events::default() {
        let more = ((COUNTED / median(&samples.off).max(1e-9)) as usize).clamp(1, count.max(1));
        for _ in 0..more {
            prepare(state)?;
            sample(state, Profiler::Off)?;
        }
        samples.events = watched.counters.read().since(before).per(more as f64);
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
    Ok(median(&all))
}
