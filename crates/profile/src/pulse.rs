//! The machine's own speed, felt before each repeat of a measurement: two reports of one program differ where the machine did.

use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use smallmind_graph::{Buffer, GraphError};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::roofs::CacheSizes;

/// Seconds of two pieces of work that are the same in every process on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Multiply-adds in registers.
    pub arithmetic: f64,
    /// Reading memory that no cache holds.
    pub memory: f64,
}

/// What beats are made of.
pub struct Pulse {
    isa: IsaKind,
    memory: Buffer,
    /// Where the next reading begins.
    at: usize,
}

/// Of each beat the quickest of so many counts: short enough for one to run undisturbed, few enough for workers not to fall asleep.
const TRIES: usize = 3;
/// Elements of a reading.
const READ: usize = 1 << 18;
/// Links of a chain of multiply-adds, and independent chains.
const LINKS: usize = 10_000;
const CHAINS: usize = 8;

struct Work<'a>(&'a [f32]);

impl WithIsa for Work<'_> {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let Self(memory) = self;
        isa.vectorize(
            #[inline(always)]
            || {
                let mut sums = [isa.zero(); CHAINS];
                let (a, b) = (isa.splat(black_box(0.999)), isa.splat(black_box(0.001)));
                if memory.is_empty() {
                    for _ in 0..LINKS {
                        for sum in &mut sums {
                            *sum = isa.mul_add(*sum, a, b);
                        }
                    }
                }
                for part in memory.chunks_exact(CHAINS * I::LANES) {
                    for (sum, lanes) in sums.iter_mut().zip(part.chunks_exact(I::LANES)) {
                        *sum = isa.add(*sum, isa.load(lanes));
                    }
                }
                let total = sums.into_iter().fold(isa.zero(), |total, sum| isa.add(total, sum));
                black_box(isa.sum(total));
            },
        );
    }
}

impl Pulse {
    /// Takes memory that is twice as large as the last cache.
    ///
    /// # Errors
    /// Memory that can't be had, or an instruction set that this CPU lacks.
    pub fn new(isa: IsaKind) -> Result<Self, GraphError> {
        let elements = (2 * CacheSizes::read().l3 / size_of::<f32>()).max(READ);
        let mut memory = Buffer::zeroed(elements)?;
        // Pages that were never written are all the same one.
        memory.fill(1.0);
        isa.with(Work(&memory[..READ]))?;
        Ok(Self { isa, memory, at: 0 })
    }

    /// Does the work once more.
    pub fn beat(&mut self) -> Beat {
        let mut beat = Beat { arithmetic: f64::MAX, memory: f64::MAX };
        for _ in 0..TRIES {
            beat.arithmetic = beat.arithmetic.min(self.seconds(&[]));
            self.at = if self.at + 2 * READ > self.memory.len() { 0 } else { self.at + READ };
            beat.memory = beat.memory.min(self.seconds(&self.memory[self.at..self.at + READ]));
        }
        beat
    }

    fn seconds(&self, memory: &[f32]) -> f64 {
        let begin = Instant::now();
        // That the set is there was seen when the pulse was made.
        let _ = self.isa.with(Work(memory));
        begin.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_take_the_time_of_their_work() {
        let mut pulse = Pulse::new(IsaKind::best()).unwrap();
        let beats: Vec<Beat> = (0..20).map(|_| pulse.beat()).collect();
        let least = |of: fn(&Beat) -> f64| beats.iter().map(of).fold(f64::MAX, f64::min);
        // A core does fewer than 16 multiply-adds of a vector each nanosecond, and reads less than a terabyte a second.
        assert!(least(|b| b.arithmetic) > (LINKS * CHAINS) as f64 / 16e9, "{beats:?}");
        assert!(least(|b| b.memory) > (READ * 4) as f64 / 1e12, "{beats:?}");
        assert!(beats.iter().all(|b| b.arithmetic < 0.1 && b.memory < 0.1), "{beats:?}");
    }
}
