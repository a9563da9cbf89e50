//! One row times strips of floats: the product of a single token.
//!
//! ```text
//! for strips of the weight, V at a time
//!   for depth in the pieces of `nest`
//!     sums[V] = Σ_p a[p] · strips[V][p]                  prefetches strips that are beyond the caches
//!     C[V strips] = epilogue(sums)
//! ```
//!
//! Each element is the chain of multiply-adds that it is in `nest`. One call goes over all strips: where weights come
//! from a cache, what `nest` does around each call of a micro-kernel takes a tenth of the time that the call takes.
#![allow(unsafe_code)]

use std::ptr::{null, null_mut};

use smallmind_simd::{CacheLevel, Isa, prefetch};

use super::arithmetic::{Arithmetic, Sums};
use super::half_strips::LINE;
use super::nest::{DEPTH_GRANULE, pieces};
use super::tile::{AlongColumns, Source, Step, Tile, UNROLL, Walk, write};

/// How far ahead strips are prefetched, in bytes: farther than the latency of memory, nearer than the prefetchers of
/// the CPU go by themselves. Measured on a Zen 4.
pub(super) const AHEAD: usize = 2048;

/// The most words of depth that are added up before an element of C is written, and whether the strips are beyond the
/// caches.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    pub max_depth: usize,
    pub beyond_caches: bool,
}

/// Multiplies a row by strips. The tile is the whole output, which may be wider than any other tile.
///
/// # Safety
/// As [`KernelFn`](super::tile::KernelFn) for one row, with any number of columns and whole strips for them.
pub(super) type OneRowFn<P> = unsafe fn(P, &Tile<<P as Arithmetic>::Element>, Reading);

/// [`OneRowFn`] with `V` strips at a time.
///
/// # Safety
/// As [`OneRowFn`].
pub(super) unsafe fn one_row<P: Arithmetic, S: Source<P>, const V: usize>(
    p: P,
    output: &Tile<P::Element>,
    reading: Reading,
) {
    p.vectorize(
        #[inline(always)]
        || {
            let (lanes, mut first) = (P::Isa::LANES, 0);
            // SAFETY: the strips from `first` on are those of the columns from `first` on, of which there are enough.
            unsafe {
                while output.cols - first >= V * lanes {
                    some_strips::<P, S, V>(p, output, first, reading);
                    first += V * lanes;
                }
                if output.cols - first > lanes {
                    some_strips::<P, S, 2>(p, output, first, reading);
                    first += 2 * lanes;
                }
                while first < output.cols {
                    some_strips::<P, S, 1>(p, output, first, reading);
                    first += lanes;
                }
            }
        },
    );
}

/// The columns from `first` on, at most `V` strips of them.
///
/// # Safety
/// As [`OneRowFn`], if there are `V` strips from column `first` on.
#[inline(always)]
unsafe fn some_strips<P: Arithmetic, S: Source<P>, const V: usize>(
    p: P,
    output: &Tile<P::Element>,
    first: usize,
    reading: Reading,
) {
    let lanes = P::Isa::LANES;
    let at = |start: *const f32| if start.is_null() { start } else { start.wrapping_add(first) };
    let mut tile = Tile {
        b: output.b.wrapping_add(first / lanes * output.b_vector),
        c: output.c.wrapping_add(first),
        cols: (output.cols - first).min(V * lanes),
        addend: at(output.addend),
        bias: at(output.bias),
        residual: at(output.residual),
        ..*output
    };
    for depth in pieces(output.k, reading.max_depth, DEPTH_GRANULE) {
        // SAFETY: the depth is a part of the tile's, whose pointers the caller keeps valid.
        unsafe {
            let sums = multiply::<P, S, V>(p, &tile, depth, reading.beyond_caches);
            write(p.isa(), &tile, &[sums]);
        }
        // Bias and residual are in the output already.
        tile = Tile { addend: tile.c, bias: null(), residual: null(), ..tile };
    }
}

/// The sums of a tile over a part of its depth, in words. Prefetches the strips, and near their end those of the next
/// tile, which follow them.
///
/// # Safety
/// As [`OneRowFn`].
#[inline(always)]
unsafe fn multiply<P: Arithmetic, S: Source<P>, const V: usize>(
    p: P,
    tile: &Tile<P::Element>,
    depth: std::ops::Range<usize>,
    prefetches: bool,
) -> [Sums<P>; V] {
    let source = S::start(tile.b_vector);
    let a: AlongColumns<P::Element> = Walk::<P>::start(tile.a.wrapping_add(depth.start * P::STEP), P::STEP);
    let b = tile.b.wrapping_add(depth.start * tile.b_stride);
    let mut step: Step<P, AlongColumns<P::Element>> = Step { a, b, packed: null_mut() };
    let mut sums = [[p.isa().zero(); V]; 1];
    let near_end = tile.k.saturating_sub(AHEAD / S::VECTOR_BYTES);
    // SAFETY: at each step the pointers are those of a word of A and of V vectors of B, which the caller keeps valid.
    unsafe {
        for unrolled in 0..depth.len() / UNROLL {
            if prefetches {
                let is_near_end = depth.start + unrolled * UNROLL >= near_end;
                let others = if is_near_end { (V - 1) * tile.b_vector } else { 0 };
                for v in 0..V {
                    let ahead = step.b.wrapping_add(others + source.vector(v)).cast::<u8>().wrapping_add(AHEAD);
                    for line in (0..UNROLL * S::VECTOR_BYTES).step_by(LINE) {
                        prefetch(ahead.wrapping_add(line), CacheLevel::Second);
                    }
                }
            }
            for _ in 0..UNROLL {
                step = step.multiply_add::<S, 1, V>(p, tile.b_stride, source, &mut sums);
            }
        }
        for _ in 0..depth.len() % UNROLL {
            step = step.multiply_add::<S, 1, V>(p, tile.b_stride, source, &mut sums);
        }
    }
    let [sums] = sums;
    sums
}
