//! How fast memory of some size is read and written.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use smallmind_graph::{Buffer, GraphError, Pool};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Effort, best, seconds_together};

/// GB/s of a level of memory, all threads together: bytes that the program reads and writes, not what the hardware moves for them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Its size in words: `L2/2` is half of the second-level caches.
    pub name: &'static str,
    /// Bytes that all threads together went over.
    pub bytes: usize,
    /// Reading.
    pub read: f64,
    /// Writing what is not read before.
    pub write: f64,
    /// Reading from one place and writing to another; both are counted.
    pub copy: f64,
    /// Reading, changing and writing back; both are counted.
    pub update: f64,
}

/// What is done to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Copy,
    Update,
}

impl Access {
    /// How often a pass counts the bytes it goes over.
    fn counted(self) -> f64 {
        match self {
            // A copy reads one half and writes the other.
            Self::Read | Self::Write | Self::Copy => 1.0,
            Self::Update => 2.0,
        }
    }
}

/// Independent streams of vectors within a loop.
const UNROLL: usize = 8;

/// One pass over a worker's memory.
struct Pass<'a> {
    access: Access,
    memory: &'a mut [f32],
}

impl WithIsa for Pass<'_> {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let Self { access, memory } = self;
        isa.vectorize(
            #[inline(always)]
            || match access {
                Access::Read => read(isa, memory),
                Access::Write => write(isa, memory),
                Access::Copy => {
                    let (from, to) = memory.split_at_mut(memory.len() / 2);
                    copy(isa, from, to);
                }
                Access::Update => update(isa, memory),
            },
        );
    }
}

#[inline(always)]
fn read<I: Isa>(isa: I, memory: &[f32]) {
    let mut sums = [isa.zero(); UNROLL];
    for block in memory.chunks_exact(UNROLL * I::LANES) {
        for (sum, x) in sums.iter_mut().zip(block.chunks_exact(I::LANES)) {
            *sum = isa.add(*sum, isa.load(x));
        }
    }
    for sum in sums {
        black_box(isa.sum(sum));
    }
}

#[inline(always)]
fn write<I: Isa>(isa: I, memory: &mut [f32]) {
    let one = isa.splat(black_box(1.0));
    for block in memory.chunks_exact_mut(UNROLL * I::LANES) {
        for x in block.chunks_exact_mut(I::LANES) {
            isa.store(one, x);
        }
    }
}

#[inline(always)]
fn copy<I: Isa>(isa: I, from: &[f32], to: &mut [f32]) {
    let blocks = from.chunks_exact(UNROLL * I::LANES).zip(to.chunks_exact_mut(UNROLL * I::LANES));
    for (from, to) in blocks {
        for (from, to) in from.chunks_exact(I::LANES).zip(to.chunks_exact_mut(I::LANES)) {
            isa.store(isa.load(from), to);
        }
    }
}

#[inline(always)]
fn update<I: Isa>(isa: I, memory: &mut [f32]) {
    // What is 1 stays 1.
    let half = isa.splat(black_box(0.5));
    for block in memory.chunks_exact_mut(UNROLL * I::LANES) {
        for x in block.chunks_exact_mut(I::LANES) {
            isa.store(isa.mul_add(isa.load(x), half, half), x);
        }
    }
}

/// A buffer of which every worker owns a part.
pub(super) struct Memory {
    buffer: Buffer,
}

/// Floats of a worker's granule: a page, so that no two workers share one.
const PAGE: usize = 1024;

impl Memory {
    /// `bytes` in all, each part written first by the worker that owns it.
    pub(super) fn new(pool: &mut Pool, bytes: usize) -> Result<Self, GraphError> {
        let mut memory = Self { buffer: Buffer::zeroed(bytes.div_ceil(4).next_multiple_of(PAGE * pool.threads()))? };
        memory.on_each(pool, bytes, |part| part.fill(1.0));
        Ok(memory)
    }

    /// Calls `work` once on every worker with its share of `bytes`: the bytes of all shares, and the seconds that it took.
    fn on_each(&mut self, pool: &mut Pool, bytes: usize, work: impl Fn(&mut [f32]) + Sync) -> (usize, f64) {
        let threads = pool.threads();
        let whole = self.buffer.len() / threads;
        let share = (bytes / 4 / threads).clamp(PAGE.min(whole), whole);
        let parts: Vec<Mutex<&mut [f32]>> =
            self.buffer.chunks_exact_mut(whole).map(|part| Mutex::new(&mut part[..share])).collect();
        let seconds = seconds_together(pool, |worker, _| {
            let mut part = parts[worker].lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut part);
        });
        (4 * share * threads, seconds)
    }

    /// The rates of all accesses to `bytes`, shared out.
    pub(super) fn bandwidth(
        &mut self,
        pool: &mut Pool,
        isa: IsaKind,
        effort: Effort,
        name: &'static str,
        bytes: usize,
    ) -> Result<Bandwidth, GraphError> {
        // Shows that the set is there, so that the passes below can't fail.
        isa.with(Pass { access: Access::Read, memory: &mut [] })?;
        let (bytes, _) = self.on_each(pool, bytes, |_| {});
        let mut rate = |access: Access| {
            let seconds = best(effort, |iterations| {
                let passes = |memory: &mut [f32]| {
                    for _ in 0..iterations {
                        let _ = isa.with(Pass { access, memory: black_box(&mut *memory) });
                    }
                };
                self.on_each(pool, bytes, passes).1
            });
            access.counted() * bytes as f64 / seconds / 1e9
        };
        Ok(Bandwidth {
            name,
            bytes,
            read: rate(Access::Read),
            write: rate(Access::Write),
            copy: rate(Access::Copy),
            update: rate(Access::Update),
        })
    }
}
