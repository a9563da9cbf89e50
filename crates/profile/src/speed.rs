//! The speed of the machine itself, measured before each repeat: two reports of the same program differ if the speed of
//! the machine differed.

use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use smallmind_graph::{Buffer, GraphError};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::roofs::CacheSizes;

/// Seconds that two fixed pieces of work take on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineSpeed {
    /// Multiply-adds in registers.
    pub arithmetic: f64,
    /// Reading memory that no cache holds.
    pub memory: f64,
}

/// Measures the machine's speed.
pub struct SpeedProbe {
    isa: IsaKind,
    memory: Buffer,
    /// Element at which the next reading begins.
    at: usize,
}

/// How often each piece of work is done; the shortest time counts. At least one should run undisturbed, and all should
/// end before the workers of a pool fall asleep.
const TRIES: usize = 3;
/// Elements that are read.
const READ: usize = 1 << 18;
/// Number of dependent multiply-adds in a chain.
const LINKS: usize = 10_000;
/// Number of independent chains.
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

impl SpeedProbe {
    /// A probe that reads memory twice as large as the last cache.
    ///
    /// # Errors
    /// Too little memory, or an instruction set that this CPU lacks.
    pub fn new(isa: IsaKind) -> Result<Self, GraphError> {
        let elements = (2 * CacheSizes::read().l3 / size_of::<f32>()).max(READ);
        let mut memory = Buffer::zeroed(elements)?;
        // Otherwise all untouched pages would be the same page of zeros, which a cache would hold.
        memory.fill(1.0);
        isa.with(Work(&memory[..READ]))?;
        Ok(Self { isa, memory, at: 0 })
    }

    /// The speed now.
    pub fn measure(&mut self) -> MachineSpeed {
        let mut speed = MachineSpeed { arithmetic: f64::MAX, memory: f64::MAX };
        for _ in 0..TRIES {
            speed.arithmetic = speed.arithmetic.min(self.seconds(&[]));
            self.at = if self.at + 2 * READ > self.memory.len() { 0 } else { self.at + READ };
            speed.memory = speed.memory.min(self.seconds(&self.memory[self.at..self.at + READ]));
        }
        speed
    }

    fn seconds(&self, memory: &[f32]) -> f64 {
        let begin = Instant::now();
        // It can't fail: `new` has run the same work.
        let _ = self.isa.with(Work(memory));
        begin.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_the_times_of_their_work() {
        let mut probe = SpeedProbe::new(IsaKind::best()).unwrap();
        let speeds: Vec<MachineSpeed> = (0..20).map(|_| probe.measure()).collect();
        let least = |of: fn(&MachineSpeed) -> f64| speeds.iter().map(of).fold(f64::MAX, f64::min);
        // A core does fewer than 16 multiply-adds of a vector each nanosecond, and reads less than a terabyte a second.
        assert!(least(|b| b.arithmetic) > (LINKS * CHAINS) as f64 / 16e9, "{speeds:?}");
        assert!(least(|b| b.memory) > (READ * 4) as f64 / 1e12, "{speeds:?}");
        assert!(speeds.iter().all(|b| b.arithmetic < 0.1 && b.memory < 0.1), "{speeds:?}");
    }
}
