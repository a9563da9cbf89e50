//! The loops around the micro-kernels: blocks for the caches, and what is packed when.
//!
//! ```text
//! run
//!   for depth in pieces of k, at most max_depth words       a function of k alone: it decides the order of sums
//!     for columns in pieces of n                            (1: one piece, unless panels of B are kept)
//!       for rows in pieces of m, at most max_block / depth
//!         multiply_block
//!           pack A[rows, depth], or read it in place        (2)
//!           for panel in panels of columns, a tile wide
//!             multiply_panel
//!               pack B[depth, panel], or read it in place   (3)
//!               for tile in tiles of rows
//!                 C[tile, panel] += A[tile, depth] · B[depth, panel]      one call of a micro-kernel
//!
//!                    panel                                                      panel
//!         ┌──────────┬───┬──────┐           depth                ┌──────────┬───┬──────┐
//!         │          │   │      │         ┌───────┐              │          │▓▓▓│      │
//!  rows   ├──────────┼───┼──────┤   rows  ├───────┤        depth │          │▓▓▓│      │
//!  of a   │   tile   │▓▓▓│      │   of a  │▓▓▓▓▓▓▓│ tile         │          │▓▓▓│      │
//!  block  │          │   │      │   block │       │              └──────────┴───┴──────┘
//!         ├──────────┼───┼──────┤         ├───────┤                         B
//!         └──────────┴───┴──────┘         └───────┘
//!                    C                        A
//! ```
//!
//! A block of A stays in the second-level cache while all panels of B pass by, a panel of B in the first-level cache
//! while all tiles of rows do.
//!
//! 1. Panels of a transposed B are kept for all blocks of rows, at most [`KEPT_COLUMNS`] columns at a time: to
//!    transpose a panel again costs more than to fetch it from farther away. Panels of a normal B are packed again for
//!    each block of rows: to copy a panel costs less than to fetch it.
//! 2. A is packed only where many panels read it and its rows are so far apart that caches and address translation
//!    suffer ([`packs_a`]), where it is rounded, or where the elements of a word are not adjacent or the last word is not
//!    whole (`bf16`).
//! 3. See [`panel_of`]: a B that is rounded is packed, strips are read in place, those of 16-bit floats turned into words
//!    first unless A has few rows in normal layout. A B in normal layout is packed, or in whole vectors of `f32` read in
//!    place by a single tile or if it is near; from two full tiles on the first tile packs it as it multiplies. A
//!    transposed B is transposed.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::null_mut;

use smallmind_simd::Isa;

use super::arithmetic::Arithmetic;
use super::half_strips::HalfStrips;
use super::operand::{Epilogue, Layout, Operand};
use super::pack::WordRows;
use super::strips::{PrefetchSchedule, Strips};
use super::tables::{HasKernels, Kernels, WalkKernels};
use super::tile::{LINE, Tile};
use crate::MatMut;
use crate::format::HalfKind;

/// The most words that are skipped so that the packed blocks start on a cache line.
const ALIGNMENT_SLACK: usize = 15;

/// Blocks of the depth are multiples of this many words, so that the packers that transpose work on whole squares; the
/// last one may be shorter.
pub(super) const DEPTH_GRANULE: usize = 16;

/// From this many panels of B on, packing A can pay: each panel reads all of A again.
const PACK_FROM_PANELS: usize = 8;

/// The most columns whose transposed panels of B are kept until all blocks of rows have passed by. It is a multiple of
/// every kernel's width; with the deepest block these are 1.5 MiB, which a third-level cache holds.
pub(super) const KEPT_COLUMNS: usize = 1008;

/// A panel of B that spans at most this many elements is read in place by any number of tiles: the first-level cache
/// holds it.
const NEAR_ELEMENTS: usize = 8192;

/// From this stride on, in words, each row of an A in normal layout is on a page of its own.
const PAGE_STRIDE: usize = 1024;

/// A transposed A of more words than this does not stay in a second-level cache of 1 MiB: only parts of its cache lines
/// are read at a time.
const RESIDENT_WORDS: usize = 320 * 1024;

/// The left factor, `op(A)`.
#[derive(Clone, Copy)]
pub(super) enum LeftFactor<'a, T> {
    /// A matrix or its transpose.
    Operand(Operand<'a, T>),
    /// One that is rounded to `bf16` while it is packed; only products of `bf16` get it.
    Rounded(Operand<'a>),
}

impl<T: Copy> LeftFactor<'_, T> {
    fn layout(self) -> Layout {
        match self {
            Self::Operand(a) => a.layout,
            Self::Rounded(a) => a.layout,
        }
    }

    fn rows(self) -> usize {
        match self {
            Self::Operand(a) => a.rows(),
            Self::Rounded(a) => a.rows(),
        }
    }

    fn cols(self) -> usize {
        match self {
            Self::Operand(a) => a.cols(),
            Self::Rounded(a) => a.cols(),
        }
    }

    fn window(self, rows: &Range<usize>, depth: &Range<usize>) -> Self {
        match self {
            Self::Operand(a) => Self::Operand(a.rows_range(rows.clone()).cols_range(depth.clone())),
            Self::Rounded(a) => Self::Rounded(a.rows_range(rows.clone()).cols_range(depth.clone())),
        }
    }
}

/// Where the panels of B come from.
#[derive(Clone, Copy)]
pub(super) enum PanelSource<'a, T> {
    /// A matrix or its transpose.
    Operand(Operand<'a, T>),
    /// One that is rounded to `bf16` while it is packed; only products of `bf16` get it.
    Rounded(Operand<'a>),
    /// Strips of `f32`; only products of `f32` get them.
    Strips(Strips<'a>),
    /// Strips of 16-bit floats: products of `bf16` get those of `bf16`, with an even depth.
    Half(HalfStrips<'a>),
}

impl<T: Copy> PanelSource<'_, T> {
    /// The part of B in a range of the depth, in elements, and of columns, which must not cut a strip.
    fn window(self, depth: &Range<usize>, columns: &Range<usize>) -> Self {
        match self {
            Self::Operand(b) => Self::Operand(b.rows_range(depth.clone()).cols_range(columns.clone())),
            Self::Rounded(b) => Self::Rounded(b.rows_range(depth.clone()).cols_range(columns.clone())),
            Self::Strips(b) => Self::Strips(b.window(depth, columns)),
            Self::Half(b) => Self::Half(b.window(depth, columns)),
        }
    }

    /// Whether it is the transpose of a matrix.
    fn is_transposed(self) -> bool {
        match self {
            Self::Operand(b) => b.layout == Layout::Transposed,
            Self::Rounded(b) => b.layout == Layout::Transposed,
            Self::Strips(_) | Self::Half(_) => false,
        }
    }
}

/// A product, or a block of one. The shapes agree.
pub(super) struct Block<'a, T> {
    /// `op(A)`, `[rows, depth]`.
    pub a: LeftFactor<'a, T>,
    /// `op(B)`, `[depth, cols]`.
    pub b: PanelSource<'a, T>,
    /// `[rows, cols]`.
    pub c: MatMut<'a>,
    /// The epilogue of these rows and columns.
    pub epilogue: Epilogue<'a>,
}

/// The scratch of a block.
#[derive(Clone, Copy)]
struct BlockScratch {
    /// Panels of A, one after another; null if A is read in place.
    a: *mut f32,
    /// Panels of B.
    b: *mut f32,
    /// Whether the panels of B are kept one after another. If not, each replaces the one before.
    keeps_b: bool,
    /// Whether the panels of B are there already, packed for an earlier block of rows.
    has_b: bool,
}

/// The sizes of the tiles, panels and blocks in which products are computed, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmSizes {
    /// The most rows of a tile.
    pub tile_rows: usize,
    /// The most columns of a tile, and the columns of a full panel of B.
    pub tile_cols: usize,
    /// Rows of a full panel of A.
    pub panel_rows: usize,
    /// The most products that are added up before an element of C is written.
    pub depth: usize,
    /// The most elements of a block of A.
    pub block: usize,
    /// The most columns whose panels of a transposed B are kept for all blocks of A.
    pub kept_cols: usize,
}

impl GemmSizes {
    pub(super) fn of<P: Arithmetic>(kernels: &Kernels<P>) -> Self {
        Self {
            tile_rows: kernels.rows(),
            tile_cols: kernels.width(),
            panel_rows: kernels.a_panel(),
            depth: kernels.max_depth * P::STEP,
            block: kernels.max_block * P::STEP,
            kept_cols: KEPT_COLUMNS,
        }
    }
}

/// Words of scratch for any product of at most these sizes, whatever B's source.
pub(super) fn scratch_len<P: Arithmetic>(kernels: &Kernels<P>, m: usize, n: usize, k: usize) -> usize {
    if m == 0 || n == 0 {
        return 0;
    }
    let depth = k.div_ceil(P::STEP).min(kernels.max_depth);
    let columns = if m > block_rows(kernels, depth) { KEPT_COLUMNS } else { kernels.width() };
    ALIGNMENT_SLACK + packed_a_len(kernels, m, k) + n.next_multiple_of(P::Isa::LANES).min(columns) * depth
}

/// Words of scratch for a packed block of A, at most `max_block`, rounded up to a cache line.
fn packed_a_len<P: Arithmetic>(kernels: &Kernels<P>, m: usize, k: usize) -> usize {
    let whole = m.next_multiple_of(kernels.a_panel()).saturating_mul(k.div_ceil(P::STEP).min(kernels.max_depth));
    whole.min(kernels.max_block).next_multiple_of(LINE)
}

/// The most rows of a block of A that is `depth` words deep: a multiple of a panel's rows.
fn block_rows<P: Arithmetic>(kernels: &Kernels<P>, depth: usize) -> usize {
    (kernels.max_block / depth.max(1) / kernels.a_panel()).max(1) * kernels.a_panel()
}

/// Cuts `0..len` into the fewest pieces of at most `most`: nearly equal, all but the last a multiple of `granule`. One
/// empty piece for 0.
pub(super) fn pieces(len: usize, most: usize, granule: usize) -> impl Iterator<Item = Range<usize>> {
    debug_assert!(most.is_multiple_of(granule), "pieces of {most} in granules of {granule}");
    // Small products are one piece each way, and a division takes a while.
    let (count, piece) = if len <= most {
        (1, len)
    } else {
        let count = len.div_ceil(most);
        (count, len.div_ceil(count).next_multiple_of(granule))
    };
    (0..count).map(move |i| (i * piece).min(len)..((i + 1) * piece).min(len))
}

/// Cuts `n` columns into panels of `kernels.vectors` vectors; the last one may be narrower.
fn panels<P: Arithmetic>(kernels: &Kernels<P>, n: usize) -> impl Iterator<Item = Range<usize>> {
    let most = kernels.vectors;
    let mut start = 0;
    std::iter::from_fn(move || {
        let panel = start..(start + most * P::Isa::LANES).min(n);
        start = panel.end;
        (!panel.is_empty()).then_some(panel)
    })
}

/// Computes a product with at least one row and one column.
///
/// # Panics
/// If `scratch` has fewer words than [`scratch_len`].
pub(super) fn run<P: HasKernels>(arithmetic: P, product: Block<P::Element>, scratch: &mut [f32]) {
    let kernels = P::kernels();
    let Block { a, b, mut c, mut epilogue } = product;
    let (m, n, k) = (c.rows(), c.cols(), a.cols());
    let need = scratch_len(kernels, m, n, k);
    assert!(scratch.len() >= need, "a product of {m} × {n} × {k} needs {need} words of scratch, got {}", scratch.len());
    let skip = scratch.as_ptr().align_offset(64).min(ALIGNMENT_SLACK);
    let panel_a = scratch[skip..].as_mut_ptr();
    let packed_b = panel_a.wrapping_add(packed_a_len(kernels, m, k));
    for depth in pieces(k, kernels.max_depth * P::STEP, DEPTH_GRANULE * P::STEP) {
        let packs = packs_a(kernels, a, n) && !reads_half(kernels, &b, a, m)
            || !depth.len().is_multiple_of(P::STEP)
            || !words_are_contiguous::<P>(a.layout());
        let words = depth.len().div_ceil(P::STEP);
        let most_rows = block_rows(kernels, words);
        let keeps_b = m > most_rows && b.is_transposed();
        let most_columns = if keeps_b { KEPT_COLUMNS } else { n.next_multiple_of(kernels.width()) };
        for columns in pieces(n, most_columns, kernels.width()) {
            for rows in pieces(m, most_rows, kernels.a_panel()) {
                let block = Block {
                    a: a.window(&rows, &depth),
                    b: b.window(&depth, &columns),
                    c: c.reborrow().rows_range(rows.clone()).cols_range(columns.clone()),
                    epilogue: epilogue.window(&rows, &columns),
                };
                let a = if packs { panel_a } else { null_mut() };
                let packed = BlockScratch { a, b: packed_b, keeps_b, has_b: keeps_b && rows.start > 0 };
                // SAFETY: the scratch has `scratch_len` words: enough for the panels of A of a block, and after these
                // for a panel of B or, if panels are kept, for those of KEPT_COLUMNS columns. `has_b` holds only after
                // the first block of rows has packed the same panels.
                unsafe { multiply_block(arithmetic, kernels, block, packed) };
            }
        }
        epilogue = epilogue.accumulate();
    }
}

/// Whether the micro-kernels read a B in strips of 16-bit floats in place, for `m` rows of `a`: those of one tile. For
/// more rows a panel is widened first.
fn reads_half<P: Arithmetic>(
    kernels: &Kernels<P>,
    b: &PanelSource<'_, P::Element>,
    a: LeftFactor<P::Element>,
    m: usize,
) -> bool {
    matches!(b, PanelSource::Half(_)) && m <= kernels.rows() && a.layout() == Layout::Normal
}

/// Whether the elements of a word of A are adjacent in that layout.
fn words_are_contiguous<P: Arithmetic>(layout: Layout) -> bool {
    P::STEP == 1 || layout == Layout::Normal
}

/// Whether A is packed: it is rounded, or many panels read it and it is so scattered that the caches don't hold it.
fn packs_a<P: Arithmetic>(kernels: &Kernels<P>, a: LeftFactor<P::Element>, n: usize) -> bool {
    let LeftFactor::Operand(a) = a else { return true };
    let often = n >= PACK_FROM_PANELS * kernels.width();
    let scattered = match a.layout {
        Layout::Normal => a.mat.stride() >= PAGE_STRIDE * P::STEP,
        Layout::Transposed => a.mat.rows() * a.mat.stride() > RESIDENT_WORDS * P::STEP,
    };
    often && scattered
}

/// Multiplies a block, panel by panel of B.
///
/// # Safety
/// `packed.a`, unless null, must be valid for writes of the panels of A. `packed.b`, unless B is in strips of `f32`,
/// must be valid for writes of a panel of B or, if they are kept, of all panels of the block, and must hold them if
/// `packed.has_b`.
unsafe fn multiply_block<P: Arithmetic>(
    arithmetic: P,
    kernels: &'static Kernels<P>,
    block: Block<P::Element>,
    packed: BlockScratch,
) {
    let Block { a, b, mut c, epilogue } = block;
    debug_assert!([a.rows(), c.cols()].iter().all(|len| *len > 0), "an empty block");
    let m = c.rows();
    if !packed.a.is_null() {
        // SAFETY: `packed.a` isn't null, so that the caller keeps it writable over the panels of A.
        unsafe { pack_a(arithmetic, kernels, a, packed.a) };
    }
    for columns in panels(kernels, c.cols()) {
        let panel = b.window(&(0..a.cols()), &columns);
        let c = c.reborrow().cols_range(columns.clone());
        let epilogue = epilogue.window(&(0..m), &columns);
        let before = if packed.keeps_b { columns.start * a.cols().div_ceil(P::STEP) } else { 0 };
        let packed = BlockScratch { b: packed.b.wrapping_add(before), ..packed };
        // SAFETY: A has been packed above if `packed.a` isn't null. Kept panels follow each other: all panels before
        // this one are whole vectors, so they end where this one begins.
        unsafe { multiply_panel(arithmetic, kernels, Block { a, b: panel, c, epilogue }, packed) };
    }
}

/// Packs `op(A)` into panels of [`Kernels::a_panel`] rows, each `[depth in words, rows rounded up to whole vectors]`.
///
/// # Safety
/// `panels` must be valid for writes of all of them.
unsafe fn pack_a<P: Arithmetic>(arithmetic: P, kernels: &Kernels<P>, a: LeftFactor<P::Element>, panels: *mut f32) {
    let (m, depth) = (a.rows(), a.cols().div_ceil(P::STEP));
    if let Layout::Transposed = a.layout() {
        // SAFETY: the caller keeps all panels writable.
        return unsafe {
            match a {
                LeftFactor::Operand(a) => (kernels.copy_a)(arithmetic, a.mat, panels),
                LeftFactor::Rounded(a) => (kernels.rounding().copy_a)(arithmetic, a.mat, panels),
            }
        };
    }
    for first in (0..m).step_by(kernels.a_panel()) {
        let rows = first..(first + kernels.a_panel()).min(m);
        let (width, panel) = (rows.len().next_multiple_of(P::Isa::LANES), panels.wrapping_add(first * depth));
        // SAFETY: the rows are borrowed; the panels before this one are full and take `first * depth` words, and the
        // caller keeps all writable.
        unsafe {
            match a {
                LeftFactor::Operand(a) => {
                    (kernels.transpose)(arithmetic.isa(), WordRows::of(a.mat.rows_range(rows)), panel, width);
                }
                LeftFactor::Rounded(a) => {
                    (kernels.rounding().transpose)(arithmetic, a.mat.rows_range(rows), panel, width);
                }
            }
        }
    }
}

/// How the micro-kernels read a panel of B.
#[derive(Clone, Copy)]
enum PanelRead {
    /// Adjacent vectors, in the scratch or in place.
    Plain,
    /// Strips in place.
    Strips,
    /// Strips of 16-bit floats in place.
    Half(HalfKind),
    /// The first tile reads B in place and packs it; the others read what it has packed.
    PackedByFirst,
}

/// Multiplies a block one panel wide, tile by tile.
///
/// # Safety
/// As [`multiply_block`]; `packed.a`, unless null, must hold the panels of A.
unsafe fn multiply_panel<P: Arithmetic>(
    arithmetic: P,
    kernels: &'static Kernels<P>,
    block: Block<P::Element>,
    packed: BlockScratch,
) {
    let Block { a, b, c, epilogue } = block;
    let (m, k, vectors) = (c.rows(), a.cols().div_ceil(P::STEP), c.cols().div_ceil(P::Isa::LANES));
    debug_assert!((1..=kernels.vectors).contains(&vectors), "a panel of {vectors} vectors");
    let base = Tile::of_output(&c, &epilogue, k);
    let in_place = packed.a.is_null() && reads_half(kernels, &b, a, m);
    // SAFETY: the caller keeps `packed.b` writable over a panel.
    let (read, first) = unsafe { panel_of(arithmetic, kernels, (b, in_place), packed, m, base) };
    let packed_b = Tile { b: first.packed.cast_const(), b_stride: vectors * P::Isa::LANES * P::STEP, ..first };
    let mut prefetches = PrefetchSchedule::new([m, kernels.rows()], [k, vectors], P::Isa::LANES, first.b_vector);
    // While the tiles multiply a panel that was made of 16-bit floats, each prefetches a part of those of the next.
    let next = if let (PanelSource::Half(next), PanelRead::Plain) = (b, read) { Some(next) } else { None };
    let tiles = m.div_ceil(kernels.rows());
    for rows in tile_rows(m, kernels.rows(), !packed.a.is_null()) {
        let (a, a_stride, walk) = rows_of_a(kernels, a, packed.a, &rows);
        if let Some(next) = next {
            next.prefetch_next(rows.start / kernels.rows(), tiles);
        }
        let (tile, kernels) = match (read, walk.packing, walk.strips) {
            (PanelRead::Strips, _, Some(strips)) => (prefetches.next(&first), strips[rows.len() - 1]),
            (PanelRead::PackedByFirst, Some(packing), _) if rows.start == 0 => (first, packing),
            (PanelRead::PackedByFirst, Some(_), _) => (packed_b, walk.plain[rows.len() - 1]),
            (PanelRead::Half(kind), ..) => (first, kernels.of_half(kind)[rows.len() - 1]),
            (PanelRead::Plain, ..) => (first, walk.plain[rows.len() - 1]),
            (PanelRead::Strips, _, None) | (PanelRead::PackedByFirst, None, _) => {
                unreachable!("only products of f32 read B in strips or in place")
            }
        };
        // SAFETY: the kernel is made for this many rows and vectors. A, B, C and the epilogue are windows of these rows
        // and columns; A and B have k words of depth; a packing kernel writes a panel into the scratch, which the
        // caller keeps writable.
        unsafe { kernels[vectors - 1](arithmetic, &tile.at_rows(&rows, a, a_stride)) };
    }
}

/// Packs a panel of B unless it can be read in place. Returns how tiles read it, and `base` with the pointers to B of
/// the first tile. `m` is the number of rows of the block.
///
/// # Safety
/// `packed.b` must be as [`multiply_block`] demands.
unsafe fn panel_of<P: Arithmetic>(
    arithmetic: P,
    kernels: &Kernels<P>,
    (b, half_in_place): (PanelSource<P::Element>, bool),
    packed: BlockScratch,
    m: usize,
    base: Tile<P::Element>,
) -> (PanelRead, Tile<P::Element>) {
    let width = base.cols.next_multiple_of(P::Isa::LANES);
    let whole = P::STEP == 1 && base.cols == width;
    let scratch = packed.b.cast::<P::Element>();
    let in_scratch =
        Tile { b: scratch, b_stride: width * P::STEP, b_vector: P::Isa::LANES * P::STEP, packed: scratch, ..base };
    let b = match b {
        PanelSource::Strips(b) => {
            debug_assert_eq!(b.shape(), [base.k, base.cols], "a panel of strips");
            return (PanelRead::Strips, b.tile(base));
        }
        PanelSource::Half(b) if half_in_place => return (PanelRead::Half(b.kind()), b.tile::<P>(base)),
        PanelSource::Half(b) => {
            // SAFETY: the caller keeps `packed.b` writable over a panel.
            unsafe { b.write_panel(arithmetic, scratch) };
            return (PanelRead::Plain, in_scratch);
        }
        PanelSource::Operand(_) | PanelSource::Rounded(_) if packed.has_b => return (PanelRead::Plain, in_scratch),
        PanelSource::Operand(b) => b,
        PanelSource::Rounded(b) => {
            let packers = kernels.rounding();
            // SAFETY: the caller keeps `packed.b` writable over a panel, and B is at most as wide as the panels that
            // `copy` makes.
            unsafe {
                match b.layout {
                    Layout::Normal => (packers.copy)(arithmetic, b.mat, packed.b),
                    Layout::Transposed => (packers.transpose)(arithmetic, b.mat, packed.b, width),
                }
            }
            return (PanelRead::Plain, in_scratch);
        }
    };
    let in_place = Tile { b: b.mat.as_ptr(), b_stride: b.mat.stride(), ..in_scratch };
    match b.layout {
        Layout::Normal if whole && (m <= kernels.rows() || base.k * b.mat.stride() <= NEAR_ELEMENTS) => {
            return (PanelRead::Plain, in_place);
        }
        Layout::Normal if whole && m >= 2 * kernels.rows() => return (PanelRead::PackedByFirst, in_place),
        // SAFETY: the caller keeps `packed.b` writable over a panel, and B is at most as wide as the panels that `copy`
        // makes.
        Layout::Normal => unsafe { (kernels.copy)(arithmetic, b.mat, packed.b) },
        // SAFETY: the rows are borrowed, and the caller keeps `packed.b` writable over a panel.
        Layout::Transposed => unsafe {
            (kernels.transpose)(arithmetic.isa(), WordRows::of(b.mat), packed.b, width);
        },
    }
    (PanelRead::Plain, in_scratch)
}

/// Cuts the `m` rows of a block into tiles of `most` rows. The last two tiles are nearly equal, since tiles of few rows
/// are slow, unless A is packed: a tile must not straddle two panels of A.
fn tile_rows(m: usize, most: usize, packed: bool) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = m - start;
        let rows = if !packed && left > most && left < 2 * most { left.div_ceil(2) } else { left.min(most) };
        let block = start..start + rows;
        start = block.end;
        (rows > 0).then_some(block)
    })
}

/// Where the rows of a tile begin in A, the value of [`Tile::a_stride`], and the kernels for this walk through A.
fn rows_of_a<P: Arithmetic>(
    kernels: &'static Kernels<P>,
    a: LeftFactor<P::Element>,
    packed: *const f32,
    rows: &Range<usize>,
) -> (*const P::Element, usize, &'static WalkKernels<P>) {
    if !packed.is_null() {
        let (panel, row) = (rows.start / kernels.a_panel(), rows.start % kernels.a_panel());
        let first = panel * kernels.a_panel();
        let width = (a.rows() - first).min(kernels.a_panel()).next_multiple_of(P::Isa::LANES);
        let start = packed.wrapping_add(first * a.cols().div_ceil(P::STEP) + row);
        return (start.cast(), width * P::STEP, &kernels.along_columns);
    }
    let LeftFactor::Operand(a) = a else { unreachable!("rounded rows are packed") };
    let (start, stride) = (a.mat.as_ptr(), a.mat.stride());
    match a.layout {
        Layout::Normal => (start.wrapping_add(rows.start * stride), stride, &kernels.along_rows),
        Layout::Transposed => (start.wrapping_add(rows.start), stride, &kernels.along_columns),
    }
}
