//! The loops around the micro-kernels: blocks for the caches, and who is packed when.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::{null, null_mut};

use smallmind_simd::Isa;

use super::arithmetic::Arithmetic;
use super::half_strips::{DIRECT_ROWS, HalfStrips};
use super::pack::WordRows;
use super::strips::{Ahead, Strips};
use super::tables::{Kernels, WalkKernels};
use super::tile::{LINE, Tile};
use super::{Epilogue, Layout, Operand, Update};
use crate::{Format, MatMut};

/// Words by which to start the packed blocks on a cache line.
const ALIGNMENT_SLACK: usize = 15;

/// The depth of a block of k but for the last is a multiple of so many words, whole blocks for the transposing packers.
const DEPTH_GRANULE: usize = 16;

/// Panels of B from which on packing A can pay: each of them reads A once more.
const PACK_FROM_PANELS: usize = 8;

/// The most columns whose transposed panels of B are kept until all blocks of rows have passed by, so that none is packed twice: a multiple
/// of every kernel's width, and with the deepest block 1.5 MiB, which a third-level cache holds.
pub(super) const KEPT_COLUMNS: usize = 1008;

/// A panel of B that lies within so many elements is read where it lies, by any number of tiles: it stays in the first-level cache as well.
const NEAR_ELEMENTS: usize = 8192;

/// Rows of an A in normal layout this many words apart, or farther, lie on pages of their own.
const PAGE_STRIDE: usize = 1024;

/// Words of a transposed A beyond which it does not stay in a second-level cache of 1 MiB while it is read a part of a line at a time.
const RESIDENT_WORDS: usize = 320 * 1024;

/// The right factor of a product.
#[derive(Clone, Copy)]
pub(super) enum Right<'a, T> {
    /// As it lies.
    Operand(Operand<'a, T>),
    /// Packed beforehand; only `f32` is.
    Strips(Strips<'a, T>),
    /// Packed beforehand in elements of 16 bits, for products of `f32`.
    Half(HalfStrips<'a>),
}

impl<T: Copy> Right<'_, T> {
    /// The window of this depth, in elements, and these columns, which cut no strip.
    fn window<P: Arithmetic<Element = T>>(self, depth: &Range<usize>, columns: &Range<usize>) -> Self {
        match self {
            Self::Operand(b) => Self::Operand(b.rows_range(depth.clone()).cols_range(columns.clone())),
            Self::Strips(b) => Self::Strips(b.window::<P>(depth, columns)),
            Self::Half(b) => Self::Half(b.window(depth, columns)),
        }
    }
}

/// The output of a product or a block of it, `[rows, cols]`, and what it is made of.
pub(super) struct Block<'a, T> {
    /// `op(A)`, `[rows, depth]`.
    pub a: Operand<'a, T>,
    /// `op(B)`, `[depth, cols]`.
    pub b: Right<'a, T>,
    /// `[rows, cols]`.
    pub c: MatMut<'a>,
    /// Its windows on these rows and columns.
    pub epilogue: Epilogue<'a>,
}

/// The packed operands of a block.
#[derive(Clone, Copy)]
struct Packed {
    /// Panels of A, one behind another; null where A is read where it lies.
    a: *mut f32,
    /// The panels of B.
    b: *mut f32,
    /// Whether they lie one behind another, and not each in the place of the one before.
    keeps_b: bool,
    /// Whether they have been packed with an earlier block.
    has_b: bool,
}

/// Scratch for any problem of at most these sizes.
pub(super) fn scratch_len<P: Arithmetic>(kernels: &Kernels<P>, m: usize, n: usize, k: usize) -> usize {
    if m == 0 || n == 0 {
        return 0;
    }
    let depth = k.div_ceil(P::STEP).min(kernels.max_depth);
    let columns = if m > block_rows(kernels, depth) { KEPT_COLUMNS } else { kernels.width() };
    ALIGNMENT_SLACK + packed_a_len(kernels, m, k) + n.next_multiple_of(P::Isa::LANES).min(columns) * depth
}

/// [`scratch_len`] where B is packed in elements of 16 bits: one panel of it is widened at a time.
pub(super) fn half_scratch_len<P: Arithmetic>(kernels: &Kernels<P>, m: usize, k: usize) -> usize {
    let depth = k.div_ceil(P::STEP).min(kernels.max_depth);
    ALIGNMENT_SLACK + packed_a_len(kernels, m, k) + kernels.width() * depth
}

/// Words of the panels of a block of A: no more than a block holds, whatever its depth.
fn packed_a_len<P: Arithmetic>(kernels: &Kernels<P>, m: usize, k: usize) -> usize {
    let whole = m.next_multiple_of(kernels.a_panel()).saturating_mul(k.div_ceil(P::STEP).min(kernels.max_depth));
    whole.min(kernels.max_block).next_multiple_of(LINE)
}

/// Most rows of a block of A of that depth in words, in whole panels.
fn block_rows<P: Arithmetic>(kernels: &Kernels<P>, depth: usize) -> usize {
    (kernels.max_block / depth.max(1) / kernels.a_panel()).max(1) * kernels.a_panel()
}

/// `0..len` cut into the fewest pieces of at most `most`, nearly equal, all but the last a multiple of `granule`; one empty piece for 0.
///
/// `most` must be a multiple of `granule`.
fn pieces(len: usize, most: usize, granule: usize) -> impl Iterator<Item = Range<usize>> {
    let count = len.div_ceil(most).max(1);
    let piece = len.div_ceil(count).next_multiple_of(granule);
    (0..count).map(move |i| (i * piece).min(len)..((i + 1) * piece).min(len))
}

/// The panels of `n` columns: as many vectors as a tile has at most.
fn panels<P: Arithmetic>(kernels: &Kernels<P>, n: usize) -> impl Iterator<Item = Range<usize>> {
    let most = kernels.vectors;
    let mut start = 0;
    std::iter::from_fn(move || {
        let panel = start..(start + most * P::Isa::LANES).min(n);
        start = panel.end;
        (!panel.is_empty()).then_some(panel)
    })
}

/// The product that `whole` is the output of. The shapes agree; neither `m` nor `n` is zero.
pub(super) fn run<P: Arithmetic>(arithmetic: P, whole: Block<P::Element>, scratch: &mut [f32]) {
    let kernels = P::kernels();
    let Block { a, b, mut c, mut epilogue } = whole;
    let (m, n, k) = (c.rows(), c.cols(), a.cols());
    let need = match b {
        Right::Operand(_) => scratch_len(kernels, m, n, k),
        Right::Strips(_) => ALIGNMENT_SLACK + packed_a_len(kernels, m, k),
        Right::Half(_) => half_scratch_len(kernels, m, k),
    };
    assert!(scratch.len() >= need, "a product of {m} × {n} × {k} needs {need} of scratch, got {}", scratch.len());
    let skip = scratch.as_ptr().align_offset(64).min(ALIGNMENT_SLACK);
    let panel_a = scratch[skip..].as_mut_ptr();
    let packed_b = panel_a.wrapping_add(packed_a_len(kernels, m, k));
    for depth in pieces(k, kernels.max_depth * P::STEP, DEPTH_GRANULE * P::STEP) {
        let packs = packs_a(kernels, a, n) && !reads_half(&b, a, m)
            || !depth.len().is_multiple_of(P::STEP)
            || !in_words::<P>(a.layout);
        let words = depth.len().div_ceil(P::STEP);
        let most_rows = block_rows(kernels, words);
        // To copy a panel again costs less than to fetch it from farther away; to transpose it again costs more.
        let transposed = matches!(b, Right::Operand(Operand { layout: Layout::Transposed, .. }));
        let keeps_b = m > most_rows && transposed;
        let most_columns = if keeps_b { KEPT_COLUMNS } else { n.next_multiple_of(kernels.width()) };
        for columns in pieces(n, most_columns, kernels.width()) {
            for rows in pieces(m, most_rows, kernels.a_panel()) {
                let block = Block {
                    a: a.rows_range(rows.clone()).cols_range(depth.clone()),
                    b: b.window::<P>(&depth, &columns),
                    c: c.reborrow().rows_range(rows.clone()).cols_range(columns.clone()),
                    epilogue: epilogue_of(&epilogue, &rows, &columns),
                };
                let a = if packs { panel_a } else { null_mut() };
                let packed = Packed { a, b: packed_b, keeps_b, has_b: keeps_b && rows.start > 0 };
                // SAFETY: the scratch has room for panels of A of at most `max_block` elements, and behind them for those of an operand B;
                // of strips of `f32` nothing is packed, those of 16 bits are widened where B's panels are.
                unsafe { multiply_block(arithmetic, kernels, block, packed) };
            }
        }
        epilogue = Epilogue { scale: epilogue.scale, ..Epilogue::ACCUMULATE };
    }
}

/// Whether the micro-kernels read a B in elements of 16 bits where it lies, for `m` rows of `a`.
fn reads_half<T>(b: &Right<'_, T>, a: Operand<T>, m: usize) -> bool {
    matches!(b, Right::Half(_)) && m <= DIRECT_ROWS && a.layout == Layout::Normal
}

/// Whether whole words of a factor A of that layout are adjacent in memory.
fn in_words<P: Arithmetic>(layout: Layout) -> bool {
    P::STEP == 1 || layout == Layout::Normal
}

/// Whether it pays to pack A: where it is read often and lies so that the caches don't hold it.
fn packs_a<P: Arithmetic>(kernels: &Kernels<P>, a: Operand<P::Element>, n: usize) -> bool {
    let often = n >= PACK_FROM_PANELS * kernels.width();
    let scattered = match a.layout {
        Layout::Normal => a.mat.stride() >= PAGE_STRIDE * P::STEP,
        Layout::Transposed => a.mat.rows() * a.mat.stride() > RESIDENT_WORDS * P::STEP,
    };
    often && scattered
}

/// The epilogue of a window of the output.
pub(super) fn epilogue_of<'a>(whole: &Epilogue<'a>, rows: &Range<usize>, cols: &Range<usize>) -> Epilogue<'a> {
    Epilogue {
        bias: whole.bias.map(|bias| &bias[cols.clone()]),
        residual: whole.residual.map(|residual| residual.rows_range(rows.clone()).cols_range(cols.clone())),
        ..*whole
    }
}

/// A block of the output, panel by panel of B.
///
/// # Safety
/// `packed.b`, unless B is strips, must be writable over a panel of B, or over all of the block's if they are kept, and hold them where it
/// says so; `packed.a`, unless null, over the panels of A.
unsafe fn multiply_block<P: Arithmetic>(
    arithmetic: P,
    kernels: &'static Kernels<P>,
    block: Block<P::Element>,
    packed: Packed,
) {
    let Block { a, b, mut c, epilogue } = block;
    let m = c.rows();
    if !packed.a.is_null() {
        // SAFETY: the caller's guarantee.
        unsafe { pack_a(arithmetic, kernels, a, packed.a) };
    }
    for columns in panels(kernels, c.cols()) {
        let panel = b.window::<P>(&(0..a.cols()), &columns);
        let c = c.reborrow().cols_range(columns.clone());
        let epilogue = epilogue_of(&epilogue, &(0..m), &columns);
        let before = if packed.keeps_b { columns.start * a.cols().div_ceil(P::STEP) } else { 0 };
        let packed = Packed { b: packed.b.wrapping_add(before), ..packed };
        // SAFETY: the caller's guarantee, and A is packed as asked for; panels are whole vectors but for the last, so that this one begins
        // behind those before it.
        unsafe { multiply_panel(arithmetic, kernels, Block { a, b: panel, c, epilogue }, packed) };
    }
}

/// Packs `op(A)` into panels of [`Kernels::a_panel`] rows, `[depth in words, rows rounded up to whole vectors]`.
///
/// # Safety
/// `panels` must be writable over them.
unsafe fn pack_a<P: Arithmetic>(arithmetic: P, kernels: &Kernels<P>, a: Operand<P::Element>, panels: *mut f32) {
    let (m, depth) = (a.rows(), a.cols().div_ceil(P::STEP));
    if let Layout::Transposed = a.layout {
        // SAFETY: the caller's guarantee.
        return unsafe { (kernels.copy_a)(arithmetic, a.mat, panels) };
    }
    for first in (0..m).step_by(kernels.a_panel()) {
        let rows = first..(first + kernels.a_panel()).min(m);
        let width = rows.len().next_multiple_of(P::Isa::LANES);
        // SAFETY: the caller's guarantee; the panels before this one hold `first * depth` elements.
        unsafe {
            let rows = WordRows::of(a.mat.rows_range(rows));
            (kernels.transpose)(arithmetic.isa(), rows, panels.wrapping_add(first * depth), width);
        };
    }
}

/// How the micro-kernels get at a panel of B.
#[derive(Clone, Copy)]
enum Panel {
    /// It is read where it is: in the scratch, or where it lies, once.
    Read,
    /// It is read where it lies, in strips.
    Strips,
    /// It is read where it lies, in strips of elements in this format.
    Half(Format),
    /// The first block of rows reads it where it lies and packs it on the way.
    PackedByFirst,
}

/// A block of the output one panel wide, tile by tile.
///
/// # Safety
/// As [`multiply_block`]; `packed.a`, unless null, must hold the panels of `block.a`.
unsafe fn multiply_panel<P: Arithmetic>(
    arithmetic: P,
    kernels: &'static Kernels<P>,
    block: Block<P::Element>,
    packed: Packed,
) {
    let Block { a, b, c, epilogue } = block;
    let (m, k, vectors) = (c.rows(), a.cols().div_ceil(P::STEP), c.cols().div_ceil(P::Isa::LANES));
    let base = base_tile(&c, &epilogue, k);
    // SAFETY: the caller's guarantee.
    let (panel, first) =
        unsafe { panel_of(arithmetic, kernels, (b, packed.a.is_null() && reads_half(&b, a, m)), packed, m, base) };
    let packed_b = Tile { b: first.packed.cast_const(), b_stride: vectors * P::Isa::LANES * P::STEP, ..first };
    let mut ahead = Ahead::new([m, kernels.rows()], [k, vectors], P::Isa::LANES, first.b_vector);
    for rows in row_blocks(m, kernels.rows(), !packed.a.is_null()) {
        let (a, a_stride, walk) = a_of(kernels, a, packed.a, &rows);
        let (tile, kernels) = match (panel, walk.packing, walk.strips) {
            (Panel::Strips, _, Some(strips)) => (ahead.next(&first), &strips[rows.len() - 1]),
            (Panel::PackedByFirst, Some(packing), _) if rows.start == 0 => (first, packing),
            (Panel::PackedByFirst, Some(_), _) => (packed_b, &walk.plain[rows.len() - 1]),
            (Panel::Half(format), ..) => (first, &kernels.of_half(format)[rows.len() - 1]),
            (Panel::Read, ..) => (first, &walk.plain[rows.len() - 1]),
            (Panel::Strips, _, None) | (Panel::PackedByFirst, None, _) => unreachable!("only `f32` is read so"),
        };
        // SAFETY: A and B hold k steps of this many rows and vectors; C, the addend, the residual and the bias hold these rows and
        // columns, as their matrices, and the strips, have been cut to them.
        unsafe { kernels[vectors - 1](arithmetic, &tile.at_rows(&rows, a, a_stride)) };
    }
}

/// How the first of `m` rows get at a panel of B, which is packed if it can't be read where it lies: their tile, made of `base`.
///
/// # Safety
/// As [`multiply_block`].
unsafe fn panel_of<P: Arithmetic>(
    arithmetic: P,
    kernels: &Kernels<P>,
    (b, reads_half): (Right<P::Element>, bool),
    packed: Packed,
    m: usize,
    base: Tile<P::Element>,
) -> (Panel, Tile<P::Element>) {
    let width = base.cols.next_multiple_of(P::Isa::LANES);
    let whole = P::STEP == 1 && base.cols == width;
    let scratch = packed.b.cast::<P::Element>();
    let in_scratch =
        Tile { b: scratch, b_stride: width * P::STEP, b_vector: P::Isa::LANES * P::STEP, packed: scratch, ..base };
    let b = match b {
        Right::Strips(b) => {
            debug_assert_eq!(b.shape(), [base.k, base.cols], "a panel of strips");
            return (Panel::Strips, b.tile(P::Isa::LANES, base));
        }
        Right::Half(b) if reads_half => return (Panel::Half(b.format()), b.tile(base)),
        Right::Half(b) => {
            // SAFETY: the caller's guarantee.
            unsafe { b.widen(arithmetic.isa(), packed.b) };
            return (Panel::Read, in_scratch);
        }
        Right::Operand(_) if packed.has_b => return (Panel::Read, in_scratch),
        Right::Operand(b) => b,
    };
    let in_place = Tile { b: b.mat.as_ptr(), b_stride: b.mat.stride(), ..in_scratch };
    match b.layout {
        Layout::Normal if whole && (m <= kernels.rows() || base.k * b.mat.stride() <= NEAR_ELEMENTS) => {
            return (Panel::Read, in_place);
        }
        Layout::Normal if whole && m >= 2 * kernels.rows() => return (Panel::PackedByFirst, in_place),
        // SAFETY: the caller's guarantee; a panel is the widest that is copied as one.
        Layout::Normal => unsafe { (kernels.copy)(arithmetic, b.mat, packed.b) },
        // SAFETY: the caller's guarantee.
        Layout::Transposed => unsafe {
            (kernels.transpose)(arithmetic.isa(), WordRows::of(b.mat), packed.b, width);
        },
    }
    (Panel::Read, in_scratch)
}

/// The blocks of rows of a panel of the output: of `most` rows. Where A isn't packed into panels, which blocks must not straddle, the last
/// two are nearly equal, as low tiles are slow.
fn row_blocks(m: usize, most: usize, packed: bool) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = m - start;
        let rows = if !packed && left > most && left < 2 * most { left.div_ceil(2) } else { left.min(most) };
        let block = start..start + rows;
        start = block.end;
        (rows > 0).then_some(block)
    })
}

/// Where a block of rows of A begins, its stride, and who reads it.
fn a_of<P: Arithmetic>(
    kernels: &'static Kernels<P>,
    a: Operand<P::Element>,
    packed: *const f32,
    rows: &Range<usize>,
) -> (*const P::Element, usize, &'static WalkKernels<P>) {
    let (start, stride) = (a.mat.as_ptr(), a.mat.stride());
    if !packed.is_null() {
        let (panel, row) = (rows.start / kernels.a_panel(), rows.start % kernels.a_panel());
        let first = panel * kernels.a_panel();
        let width = (a.rows() - first).min(kernels.a_panel()).next_multiple_of(P::Isa::LANES);
        let start = packed.wrapping_add(first * a.cols().div_ceil(P::STEP) + row);
        return (start.cast(), width * P::STEP, &kernels.along_columns);
    }
    match a.layout {
        Layout::Normal => (start.wrapping_add(rows.start * stride), stride, &kernels.along_rows),
        Layout::Transposed => (start.wrapping_add(rows.start), stride, &kernels.along_columns),
    }
}

/// The tile at the top of a panel, without A and B.
pub(super) fn base_tile<E>(c: &MatMut, epilogue: &Epilogue, k: usize) -> Tile<E> {
    let residual = epilogue.residual.map_or((null(), 0), |r| (r.as_ptr(), r.stride()));
    let start = c.as_mat().as_ptr();
    let (addend, residual) = match epilogue.update {
        Update::Overwrite => (residual, (null(), 0)),
        Update::Accumulate => ((start, c.stride()), residual),
    };
    Tile {
        k,
        a: null(),
        a_stride: 0,
        b: null(),
        b_stride: 0,
        b_vector: 0,
        ahead: null(),
        ahead_lines: 0,
        packed: null_mut(),
        c: start.cast_mut(),
        c_stride: c.stride(),
        cols: c.cols(),
        scale: epilogue.scale,
        addend: addend.0,
        addend_stride: addend.1,
        bias: epilogue.bias.map_or(null(), <[f32]>::as_ptr),
        residual: residual.0,
        residual_stride: residual.1,
    }
}
