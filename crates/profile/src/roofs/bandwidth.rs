//! Bandwidth of memory by the size of the working set.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use smallmind_graph::{Buffer, GraphError, Pool};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Effort, best, seconds_together};

/// Bandwidths of memory of one size, all threads together: GB/s. The bytes that the program reads and writes are
/// counted, not those that the hardware moves for them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Name of the size: `L2/2` is half of the second-level caches.
    pub name: &'static str,
    /// Bytes that all threads together accessed.
    pub bytes: usize,
    /// Reading.
    pub read: f64,
    /// Writing, without reading before.
    pub write: f64,
    /// Reading one place and writing another; both are counted.
    pub copy: f64,
    /// Reading, changing and writing back; both are counted.
    pub update: f64,
}

/// What a pass does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Copy,
    Update,
}

impl Access {
    /// How often a pass counts each byte of its memory.
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
    // 1 stays 1: x / 2 + 1 / 2.
    let half = isa.splat(black_box(0.5));
    for block in memory.chunks_exact_mut(UNROLL * I::LANES) {
        for x in block.chunks_exact_mut(I::LANES) {
            isa.store(isa.mul_add(isa.load(x), half, half), x);
        }
    }
}

/// A buffer that is divided among the workers.
pub(super) struct Memory {
    buffer: Buffer,
}

/// Floats of a page: no two workers share a page.
const PAGE: usize = 1024;

impl Memory {
    /// A buffer of `bytes` bytes in all. Each worker is the first to write its part, so that the system puts the part
    /// near the worker's CPU.
    pub(super) fn new(pool: &mut Pool, bytes: usize) -> Result<Self, GraphError> {
        let mut memory = Self { buffer: Buffer::zeroed(bytes.div_ceil(4).next_multiple_of(PAGE * pool.threads()))? };
        memory.on_each(pool, bytes, |part| part.fill(1.0));
        Ok(memory)
    }

    /// Calls `work` once on every worker with its share of `bytes`; returns the bytes of all shares and the seconds.
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

    /// The bandwidths of all accesses to `bytes`, divided among the workers.
    pub(super) fn bandwidth(
        &mut self,
        pool: &mut Pool,
        isa: IsaKind,
        effort: Effort,
        name: &'static str,
        bytes: usize,
    ) -> Result<Bandwidth, GraphError> {
        // This fails if the CPU lacks the instruction set, so that the passes below can't fail.
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
