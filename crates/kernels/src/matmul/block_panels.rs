//! Panels of bytes: weights in blocks, unpacked once for many rows of activations.
//!
//! ```text
//! for each tile of STRIPS strips, for each ROWS rows, for each DEPTH elements of the depth
//!   unpack the codes of the strips to bytes, their scales and drops to f32          once
//!   for each R of the rows
//!     for each sub-block
//!       for each pair of quads: w[V] = the bytes of V strips; for r in R: dots[r][V] += w[V] · x[r, pair]
//!       sums[r][V] += scales · dots[r][V] − drops · sum of x
//! C[rows, V vectors] = epilogue(sums)
//! ```
//!
//! A sum goes on in memory from one part of the depth to the next, so its chain of operations is that of one row in
//! `block_dots`. The loop over pairs has a length that the compiler doesn't know: it would unroll the loop, add up all
//! pairs of one row before those of the next and so spill the weights of a whole sub-block.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::null;

use half::f16;
use smallmind_simd::{CacheLevel, Int8Dot, Isa, prefetch};

use super::block_strips::strip_words;
use super::byte_sums::{Adder, In16Bits, In32Bits};
use super::half_strips::LINE;
use super::one_row::AHEAD;
use super::operand::Epilogue;
use super::quantized::{MOST_ACTIVATION, RowLayout};
use super::tile::{Tile, write};
use crate::MatMut;
use crate::blocks::strip::{GROUP, QUADS, Strip, scale_bytes, vectors};

/// Strips of a tile, side by side.
pub(super) const STRIPS: usize = 2;
/// Elements of the depth that a panel holds: whole blocks of every format. With vectors of 512 bits its bytes take
/// 32 KiB.
const DEPTH: usize = 1024;
/// Rows that share an unpacked panel.
const ROWS: usize = 128;
/// Elements of the shortest sub-block.
const SHORTEST: usize = 16;

/// The vectors of floats of a token of dot products.
type F32<D> = <<D as Int8Dot>::Isa as Isa>::F32;

/// The strips of a tile, `V` of them side by side.
#[derive(Clone, Copy)]
pub(super) struct Strips<const V: usize = STRIPS> {
    /// Where each begins.
    pub at: [*const u8; V],
    /// Depth in elements, whole blocks.
    pub k: usize,
}

impl<const V: usize> Strips<V> {
    /// Bytes from the strips of this tile to those of the next, which follow them.
    #[inline(always)]
    pub fn next<S: Strip>(&self, lanes: usize) -> usize {
        V * strip_words(S::FORMAT, lanes, self.k) * size_of::<f32>()
    }

    /// Prefetches the group that is [`AHEAD`] bytes behind this one, in each strip. Behind the last group of these
    /// strips are those of the next tile.
    #[inline(always)]
    pub fn prefetch_ahead<S: Strip>(&self, group: usize, lanes: usize) {
        let bytes = vectors::<S>() * 4 * lanes;
        let (groups, ahead) = (self.k / GROUP, group + (AHEAD / bytes).max(1));
        let to_next = if ahead < groups { 0 } else { self.next::<S>(lanes) - groups * bytes };
        for strip in self.at {
            for at in (0..bytes).step_by(LINE) {
                prefetch(strip.wrapping_add(to_next + ahead * bytes + at), CacheLevel::Second);
            }
        }
    }

    /// Prefetches a line of the scales of a later block, as group `in_block` of a block is multiplied.
    #[inline(always)]
    pub fn prefetch_scales<S: Strip>(&self, scales: [*const u8; V], block: usize, in_block: usize, lanes: usize) {
        let per_block = S::FORMAT.block().elements / GROUP;
        let (bytes, blocks) = (scale_bytes::<S>() * lanes, self.k / GROUP / per_block);
        let later = (AHEAD / (per_block * vectors::<S>() * 4 * lanes)).max(1);
        let to_next = if block + later < blocks { 0 } else { self.next::<S>(lanes) - blocks * bytes };
        if in_block * LINE < bytes {
            for scales in scales {
                prefetch(scales.wrapping_add(to_next + later * bytes + in_block * LINE), CacheLevel::Second);
            }
        }
    }

    /// Prefetches a group of each strip of the next tile.
    #[inline(always)]
    pub fn prefetch_group<S: Strip>(&self, next: usize, group: usize, lanes: usize) {
        let bytes = vectors::<S>() * 4 * lanes;
        for strip in self.at {
            for at in (0..bytes).step_by(LINE) {
                prefetch(strip.wrapping_add(next + group * bytes + at), CacheLevel::Second);
            }
        }
    }

    /// Where the scales of a block begin in each strip, and its floats.
    ///
    /// # Safety
    /// The strips are readable, packed for vectors of the token, and `block` is one of theirs.
    #[inline(always)]
    pub unsafe fn block<I: Isa, S: Strip>(&self, isa: I, block: usize) -> ([*const u8; V], [[I::F32; 2]; V]) {
        let mut scales = self.at;
        let mut halves = [[isa.zero(); 2]; V];
        for (scales, halves) in scales.iter_mut().zip(&mut halves) {
            // SAFETY: a strip has the codes of all groups, then the scales of all blocks. The scales of a block begin
            // with HALVES floats for each lane, at an even address.
            unsafe {
                *scales = scales.add((self.k / GROUP * vectors::<S>() * 4 + block * scale_bytes::<S>()) * I::LANES);
                for (i, half) in halves[..S::HALVES].iter_mut().enumerate() {
                    let floats = std::slice::from_raw_parts(scales.cast::<f16>().add(i * I::LANES), I::LANES);
                    *half = isa.load_f16(floats);
                }
            }
        }
        (scales, halves)
    }

    /// Pair `pair` of the quads of a group of strip `v`, as the adder takes them.
    ///
    /// # Safety
    /// As for [`block`](Self::block); the group is one of the depth's.
    #[inline(always)]
    pub unsafe fn pair<D, S, A>(&self, dot: D, v: usize, group: usize, pair: usize) -> [D::Bytes; 2]
    where
        D: Int8Dot,
        S: Strip,
        A: Adder<D>,
    {
        let bytes = 4 * <D::Isa as Isa>::LANES;
        let of_group = self.at[v].wrapping_add(group * vectors::<S>() * bytes);
        let first = S::quad(
            dot,
            #[inline(always)]
            // SAFETY: a strip has as many vectors of each group.
            |vector| unsafe { dot.load_bytes(of_group.add(vector * bytes)) },
            2 * pair,
        );
        let second = S::quad(
            dot,
            #[inline(always)]
            // SAFETY: as above.
            |vector| unsafe { dot.load_bytes(of_group.add(vector * bytes)) },
            2 * pair + 1,
        );
        [A::weights(dot, first), A::weights(dot, second)]
    }

    /// Pair `pair` of the quads of a group of all strips, as the adder takes them.
    ///
    /// # Safety
    /// As for [`pair`](Self::pair).
    #[inline(always)]
    unsafe fn unpack_pair<D, S, A>(&self, dot: D, group: usize, pair: usize, to: &mut [[D::Bytes; V]; 2])
    where
        D: Int8Dot,
        S: Strip,
        A: Adder<D>,
    {
        let [first, second] = to;
        for (v, (first, second)) in first.iter_mut().zip(second).enumerate() {
            // SAFETY: as the caller guarantees.
            [*first, *second] = unsafe { self.pair::<D, S, A>(dot, v, group, pair) };
        }
    }
}

/// Scale and drop of sub-block `sub` of a block, whose scales begin at `scales`.
///
/// # Safety
/// `scales` is that of [`Strips::block`] for this token and format.
#[inline(always)]
pub(super) unsafe fn line<I: Isa, S: Strip>(isa: I, scales: *const u8, halves: [I::F32; 2], sub: usize) -> [I::F32; 2] {
    S::line(
        isa,
        halves,
        #[inline(always)]
        // SAFETY: the scales of a block have INTEGERS integers for each lane, after their floats.
        |i| unsafe {
            isa.load_i8(std::slice::from_raw_parts(scales.add((2 * S::HALVES + i) * I::LANES).cast(), I::LANES))
        },
        sub,
    )
}

/// A part of the depth of a tile's weights: their bytes, and the scale and drop of each sub-block.
pub(super) struct Panel<D: Int8Dot> {
    /// Pairs of quads.
    pairs: [[[D::Bytes; STRIPS]; 2]; DEPTH / 8],
    scales: [[F32<D>; STRIPS]; DEPTH / SHORTEST],
    drops: [[F32<D>; STRIPS]; DEPTH / SHORTEST],
}

/// Unpacks groups of the strips into the beginning of a panel.
///
/// # Safety
/// The strips are readable, and packed for vectors of the token; the groups are whole blocks of their depth, at most
/// [`DEPTH`] elements.
type UnpackFn<D> = unsafe fn(D, &Strips, Range<usize>, &mut Panel<D>);

/// [`UnpackFn`] of a format.
///
/// # Safety
/// As [`UnpackFn`].
unsafe fn unpack<D: Int8Dot, S: Strip, A: Adder<D>>(
    dot: D,
    strips: &Strips,
    groups: Range<usize>,
    panel: &mut Panel<D>,
) {
    dot.vectorize(
        #[inline(always)]
        || {
            let (isa, lanes) = (dot.isa(), <D::Isa as Isa>::LANES);
            let (per_block, next) = (const { S::FORMAT.block().elements / GROUP }, strips.next::<S>(lanes));
            let first = groups.start / per_block;
            for block in first..groups.end / per_block {
                // SAFETY: the block is one of the strips'.
                let (scales, halves) = unsafe { strips.block::<_, S>(isa, block) };
                scales.iter().for_each(|scales| prefetch(scales.wrapping_add(next), CacheLevel::Second));
                let at = (block - first) * per_block;
                for group in 0..per_block {
                    strips.prefetch_group::<S>(next, block * per_block + group, lanes);
                    let pairs = &mut panel.pairs[(at + group) * QUADS / 2..][..QUADS / 2];
                    let group = block * per_block + group;
                    // The pairs are called one by one: which shifts unpack one must be known when this is compiled.
                    // SAFETY: the group is one of the strips'.
                    unsafe {
                        strips.unpack_pair::<D, S, A>(dot, group, 0, &mut pairs[0]);
                        strips.unpack_pair::<D, S, A>(dot, group, 1, &mut pairs[1]);
                        strips.unpack_pair::<D, S, A>(dot, group, 2, &mut pairs[2]);
                        strips.unpack_pair::<D, S, A>(dot, group, 3, &mut pairs[3]);
                    }
                }
                let subs = const { S::FORMAT.block().elements / S::SUB };
                let at = (block - first) * subs;
                for sub in 0..subs {
                    for v in 0..STRIPS {
                        // SAFETY: these are the scales of the block.
                        let [scale, drop] = unsafe { line::<_, S>(isa, scales[v], halves[v], sub) };
                        panel.scales[at + sub][v] = scale;
                        if S::HAS_DROP {
                            panel.drops[at + sub][v] = drop;
                        }
                    }
                }
            }
        },
    );
}

/// A panel and some rows of quantized activations.
struct Factors<'a, D: Int8Dot> {
    panel: &'a Panel<D>,
    /// The first row, in words.
    x: *const f32,
    /// Words from row to row.
    stride: usize,
    /// Where the quads, the scales and the sums of the panel's depth begin in a row.
    at: RowParts,
    /// How the panel is divided into sub-blocks.
    subs: Subs,
    /// What takes the offset of the panel's bytes back, times the sum of a row's bytes.
    offset: i32,
}

/// Where the parts of a row that belong to a panel begin, in words.
#[derive(Clone, Copy)]
struct RowParts {
    quads: usize,
    scales: usize,
    /// The sums of sub-blocks.
    sums: usize,
}

/// The sub-blocks of a panel.
#[derive(Clone, Copy)]
struct Subs {
    /// How many.
    count: usize,
    /// Pairs of quads of each: 4, or 2 in formats whose sub-blocks are half a group.
    pairs: usize,
}

/// A micro-kernel of some number of rows: adds the products of a panel to the sums, a vector for each row and strip,
/// and writes these to a tile if there is one.
///
/// # Safety
/// The kernel's rows of activations must be readable over the panel's depth; the tile's pointers must be valid as for
/// [`KernelFn`](super::tile::KernelFn).
type KernelFn<D> = unsafe fn(D, &Factors<D>, &mut [[F32<D>; STRIPS]], Option<&Tile<f32>>);

/// The micro-kernel of `R` rows.
///
/// # Safety
/// As [`KernelFn`].
unsafe fn kernel<D: Int8Dot, A: Adder<D>, const HAS_DROP: bool, const R: usize>(
    dot: D,
    factors: &Factors<D>,
    sums: &mut [[F32<D>; STRIPS]],
    tile: Option<&Tile<f32>>,
) {
    let sums = sums.first_chunk_mut::<R>().expect("sums of all rows");
    dot.vectorize(
        #[inline(always)]
        || {
            // SAFETY: the rows are readable over the panel's depth; the tile is valid for R rows.
            unsafe {
                multiply::<D, A, HAS_DROP, R>(dot, factors, sums);
                tile.into_iter().for_each(
                    #[inline(always)]
                    |tile| write(dot.isa(), tile, sums),
                );
            }
        },
    );
}

/// Adds the products of a panel to the sums.
///
/// # Safety
/// As [`KernelFn`].
#[inline(always)]
unsafe fn multiply<D: Int8Dot, A: Adder<D>, const HAS_DROP: bool, const R: usize>(
    dot: D,
    factors: &Factors<D>,
    sums: &mut [[F32<D>; STRIPS]; R],
) {
    // Copies, which the compiler keeps in registers while sums are written.
    let &Factors { panel, x, stride, at, subs, offset } = factors;
    let isa = dot.isa();
    let rows: [*const f32; R] = std::array::from_fn(
        #[inline(always)]
        |r| x.wrapping_add(r * stride),
    );
    let is_halved = usize::from(2 * subs.pairs < QUADS);
    for sub in 0..subs.count {
        // A row begins with what takes the weights' offset back.
        let factor = if const { !HAS_DROP && A::SHIFT == 0 } { offset } else { 0 };
        let (mut sums_x, mut starts) = ([0; R], [0; R]);
        let mut dots = [[A::begin(dot, isa.splat_i32(0)); STRIPS]; R];
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: a row has the sums of the panel's sub-blocks.
            sums_x[r] = unsafe { *row.add(at.sums + sub) }.to_bits() as i32;
            starts[r] = factor.wrapping_mul(sums_x[r]);
            dots[r] = [A::begin(dot, isa.splat_i32(starts[r])); STRIPS];
        }
        for pair in sub * subs.pairs..(sub + 1) * subs.pairs {
            let w = panel.pairs[pair];
            for (row, dots) in rows.iter().zip(&mut dots) {
                // SAFETY: a row has the quads of the panel's depth.
                let x = unsafe {
                    let quad = row.add(at.quads + 2 * pair).cast::<u8>();
                    [dot.splat_quad_ptr(quad), dot.splat_quad_ptr(quad.add(4))]
                };
                for (v, sum) in dots.iter_mut().enumerate() {
                    *sum = A::add(dot, *sum, [w[0][v], w[1][v]], x);
                }
            }
        }
        let (scales, drops) = (panel.scales[sub], panel.drops[sub]);
        for (r, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
            // SAFETY: a row has the scales of the panel's groups.
            let scale_x = isa.splat(unsafe { *rows[r].add(at.scales + (sub >> is_halved)) });
            let start = isa.splat_i32(starts[r]);
            let drop = isa.mul(scale_x, isa.to_f32(isa.splat_i32(sums_x[r])));
            for v in 0..STRIPS {
                let dots = isa.to_f32(A::end(dot, dots[v], start));
                sums[v] = isa.mul_add(dots, isa.mul(scales[v], scale_x), sums[v]);
                if HAS_DROP {
                    sums[v] = isa.neg_mul_add(drop, drops[v], sums[v]);
                }
            }
        }
    }
}

/// Whether the products of a sub-block can be added in 16 bits.
pub(super) const fn fits_16_bits<S: Strip>() -> bool {
    S::MOST as usize * MOST_ACTIVATION * 2 * S::SUB / 4 <= i16::MAX as usize
}

/// Numbers of rows and the kernels for them, the most rows first.
type ByRows<D> = [(usize, KernelFn<D>); 4];

/// How a format is multiplied by way of panels.
pub(super) struct PanelKernels<D: Int8Dot> {
    unpack: UnpackFn<D>,
    by_rows: ByRows<D>,
    /// Pairs of quads of a sub-block.
    pairs: usize,
    /// What the bytes of a panel are more than the numbers that they stand for.
    offset: i32,
}

impl<D: Int8Dot> PanelKernels<D> {
    /// The kernels for up to `most` rows: 1, 4 or 8.
    pub const fn of<S: Strip>(most: usize) -> Self {
        assert!(!S::HAS_DROP || S::OFFSET == 0, "an offset and a drop");
        if fits_16_bits::<S>() {
            let by_rows =
                if S::HAS_DROP { by_rows::<D, In16Bits, true>(most) } else { by_rows::<D, In16Bits, false>(most) };
            Self::new::<S, In16Bits>(by_rows)
        } else if S::MOST < 64 {
            let by_rows = if S::HAS_DROP {
                by_rows::<D, In32Bits<true>, true>(most)
            } else {
                by_rows::<D, In32Bits<true>, false>(most)
            };
            Self::new::<S, In32Bits<true>>(by_rows)
        } else {
            assert!(
                !S::HAS_DROP && (D::SHIFT == 0 || D::SHIFT == S::OFFSET),
                "bytes whose offset the shift takes back"
            );
            // Two more registers hold the magnitudes of the weights.
            let most = if most == 4 && D::SHIFT != 0 { 3 } else { most };
            Self::new::<S, In32Bits<false>>(by_rows::<D, In32Bits<false>, false>(most))
        }
    }

    const fn new<S: Strip, A: Adder<D>>(by_rows: ByRows<D>) -> Self {
        Self { unpack: unpack::<D, S, A>, by_rows, pairs: S::SUB / 8, offset: S::OFFSET - A::SHIFT }
    }

    /// Writes the product of rows of activations and the strips of a tile to `c`, as wide as the tile or narrower.
    ///
    /// # Safety
    /// `x` are the rows of `c`, `stride` words apart, each of `quantized_words(k)` words; the strips are readable, in
    /// this format, and packed for vectors of the token.
    pub unsafe fn multiply(
        &self,
        dot: D,
        (x, stride): (*const f32, usize),
        strips: &Strips,
        (c, epilogue): (MatMut, &Epilogue),
        panel: &mut Panel<D>,
    ) {
        let (m, groups) = (c.rows(), strips.k / GROUP);
        let base = Tile::<f32>::of_output(&c, epilogue, 0);
        for start in (0..m).step_by(ROWS) {
            let rows = (m - start).min(ROWS);
            let mut sums = [[dot.isa().zero(); STRIPS]; ROWS];
            for first in (0..groups).step_by(DEPTH / GROUP) {
                let in_panel = (groups - first).min(DEPTH / GROUP);
                // SAFETY: the groups are some of the depth's, and whole blocks, as every panel's but the last are
                // DEPTH elements.
                unsafe { (self.unpack)(dot, strips, first..first + in_panel, panel) };
                let subs = Subs { count: in_panel * QUADS / (2 * self.pairs), pairs: self.pairs };
                let layout = RowLayout::of(strips.k);
                let is_halved = 2 * self.pairs < QUADS;
                let row = RowParts {
                    quads: first * QUADS,
                    scales: layout.scales + first,
                    sums: if is_halved { layout.half_sums + 2 * first } else { layout.sums + first },
                };
                let mut done = 0;
                while done < rows {
                    let fitting = self.by_rows.iter().find(|(count, _)| *count <= rows - done);
                    let (count, kernel) = *fitting.expect("there is a kernel for one row");
                    let at = start + done;
                    let x = x.wrapping_add(at * stride);
                    let factors = Factors { panel, x, stride, at: row, subs, offset: -self.offset };
                    let tile = (first + in_panel == groups).then(|| base.at_rows(&(at..at + count), null(), 0));
                    // SAFETY: these are `count` rows of `x` and of `c`, and the panel's groups are some of the depth's.
                    unsafe { kernel(dot, &factors, &mut sums[done..done + count], tile.as_ref()) };
                    done += count;
                }
            }
        }
    }
}

impl<D: Int8Dot> Panel<D> {
    /// A panel, to be unpacked into.
    #[inline(always)]
    pub fn new(dot: D) -> Self {
        let floats = [[dot.isa().zero(); STRIPS]; DEPTH / SHORTEST];
        Self { pairs: [[[dot.splat_quad(0); STRIPS]; 2]; DEPTH / 8], scales: floats, drops: floats }
    }
}

/// The micro-kernels for up to `most` rows.
const fn by_rows<D: Int8Dot, A: Adder<D>, const HAS_DROP: bool>(most: usize) -> ByRows<D> {
    let one = (1, kernel::<D, A, HAS_DROP, 1> as KernelFn<D>);
    match most {
        8 => {
            let two = (2, kernel::<D, A, HAS_DROP, 2> as KernelFn<D>);
            let four = (4, kernel::<D, A, HAS_DROP, 4> as KernelFn<D>);
            [(8, kernel::<D, A, HAS_DROP, 8>), four, two, one]
        }
        4 => {
            let two = (2, kernel::<D, A, HAS_DROP, 2> as KernelFn<D>);
            let three = (3, kernel::<D, A, HAS_DROP, 3> as KernelFn<D>);
            [(4, kernel::<D, A, HAS_DROP, 4>), three, two, one]
        }
        3 => {
            let two = (2, kernel::<D, A, HAS_DROP, 2> as KernelFn<D>);
            [(3, kernel::<D, A, HAS_DROP, 3>), two, one, one]
        }
        _ => [one, one, one, one],
    }
}
