//! The loops around the micro-kernels: blocks for the caches, and who is packed when.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::null;

use smallmind_simd::Isa;

use super::tile::{Kernels, Tile, kernels};
use super::{Epilogue, Gemm, Layout, Operand, Update};
use crate::MatMut;

/// Rows of A a multiple of this apart lie in the same few sets of the caches, which don't hold a block of them: pages of 4 KiB.
const CONFLICTING_STRIDE: usize = 1024;

/// Room to start the packed blocks on a cache line.
const ALIGNMENT_SLACK: usize = 15;

/// Elements in a cache line.
const LINE: usize = 16;

/// The depth of a block of k but for the last is a multiple of this, whole blocks for the transposing packers.
const DEPTH_GRANULE: usize = 16;

/// A block of rows of the output and what it is made of.
struct Rows<'a> {
    /// `op(A)`, `[at most the micro-kernels' rows, depth]`.
    a: Operand<'a>,
    /// Packed panels of `op(B)`, `[depth, n]`.
    b: *const f32,
    /// `[rows, n]`.
    c: MatMut<'a>,
    /// Its windows on these rows and columns.
    epilogue: Epilogue<'a>,
}

/// Scratch for any `m`: the greatest block of B, and one of A.
pub(super) fn scratch_len<I: Isa>(kernels: &Kernels<I>, n: usize, k: usize) -> usize {
    let depth = k.min(kernels.max_depth);
    let a = (depth * width_a(kernels)).next_multiple_of(LINE);
    ALIGNMENT_SLACK + a + (depth * n.next_multiple_of(I::LANES)).min(kernels.max_block)
}

/// Elements from step to step in the widest packed block of A.
fn width_a<I: Isa>(kernels: &Kernels<I>) -> usize {
    kernels.rows().next_multiple_of(I::LANES)
}

/// Columns of B packed at a time: as many whole panels as a block of that depth holds.
fn block_columns<I: Isa>(kernels: &Kernels<I>, depth: usize) -> usize {
    kernels.max_block / (depth.max(1) * kernels.width()) * kernels.width()
}

/// `0..len` cut into the fewest pieces of at most `most`, nearly equal, all but the last a multiple of `granule`; one empty piece for 0.
///
/// `most` must be a multiple of `granule`.
fn pieces(len: usize, most: usize, granule: usize) -> impl Iterator<Item = Range<usize>> {
    let count = len.div_ceil(most).max(1);
    let piece = len.div_ceil(count).next_multiple_of(granule);
    (0..count).map(move |i| (i * piece).min(len)..((i + 1) * piece).min(len))
}

/// The product `problem`, whose shapes agree; neither `m` nor `n` is zero.
pub(super) fn run<I: Isa>(isa: I, problem: Gemm, scratch: &mut [f32]) {
    let kernels = kernels::<I>();
    let Gemm { a, b, mut c, epilogue } = problem;
    let (m, n, k) = (c.rows(), c.cols(), a.cols());
    let need = scratch_len(kernels, n, k);
    assert!(scratch.len() >= need, "a product with n = {n}, k = {k} needs {need} of scratch, got {}", scratch.len());
    let deepest = k.min(kernels.max_depth);
    let skip = scratch.as_ptr().align_offset(64).min(ALIGNMENT_SLACK);
    let packed_a = scratch[skip..].as_mut_ptr();
    let packed_b = packed_a.wrapping_add((deepest * width_a(kernels)).next_multiple_of(LINE));
    let block = block_columns(kernels, deepest);

    for columns in (0..n).step_by(block).map(|j| j..(j + block).min(n)) {
        let mut epilogue = columns_of(&epilogue, &columns);
        let mut c = c.reborrow().cols_range(columns.clone());
        for depth in pieces(k, kernels.max_depth, DEPTH_GRANULE) {
            let b = part(b, depth.clone(), columns.clone());
            // SAFETY: at most `deepest` deep and `block` wide, as `scratch_len` has it.
            unsafe { pack_block(isa, kernels, b, packed_b) };
            for rows in pieces(m, kernels.rows(), 1) {
                let a = part(a, rows.clone(), depth.clone());
                let c = c.reborrow().rows_range(rows.clone());
                // SAFETY: `packed_b` holds that block of B, and `scratch_len` leaves room for a block of A before it.
                unsafe {
                    multiply_rows(
                        isa,
                        kernels,
                        Rows { a, b: packed_b, c, epilogue: rows_of(&epilogue, &rows) },
                        packed_a,
                    )
                };
            }
            epilogue = Epilogue { scale: epilogue.scale, ..Epilogue::ACCUMULATE };
        }
    }
}

/// The elements `[rows, cols]` of `op(mat)`.
fn part<'a>(operand: Operand<'a>, rows: Range<usize>, cols: Range<usize>) -> Operand<'a> {
    let (rows, cols) = match operand.layout {
        Layout::Normal => (rows, cols),
        Layout::Transposed => (cols, rows),
    };
    Operand { mat: operand.mat.rows_range(rows).cols_range(cols), ..operand }
}

/// The epilogue of some columns of the output.
fn columns_of<'a>(whole: &Epilogue<'a>, columns: &Range<usize>) -> Epilogue<'a> {
    Epilogue {
        bias: whole.bias.map(|bias| &bias[columns.clone()]),
        residual: whole.residual.map(|residual| residual.cols_range(columns.clone())),
        ..*whole
    }
}

/// The epilogue of some rows of the output.
fn rows_of<'a>(whole: &Epilogue<'a>, rows: &Range<usize>) -> Epilogue<'a> {
    Epilogue { residual: whole.residual.map(|residual| residual.rows_range(rows.clone())), ..*whole }
}

/// Packs `op(B)` `[depth, n]` into panels, one behind another.
///
/// # Safety
/// `panels` must be writable over `depth * n` elements, `n` rounded up to whole vectors.
unsafe fn pack_block<I: Isa>(isa: I, kernels: &Kernels<I>, b: Operand, panels: *mut f32) {
    let (depth, n) = (b.rows(), b.cols());
    if let Layout::Normal = b.layout {
        // SAFETY: the caller's guarantee.
        return unsafe { (kernels.copy)(isa, b.mat, panels) };
    }
    for j in (0..n).step_by(kernels.width()) {
        let columns = j..(j + kernels.width()).min(n);
        let width = columns.len().next_multiple_of(I::LANES);
        // SAFETY: the caller's guarantee, and the panels before this one hold j * depth elements.
        unsafe { (kernels.transpose)(isa, b.mat.rows_range(columns), panels.wrapping_add(j * depth), width) };
    }
}

/// A block of rows of the output, tile by tile.
///
/// # Safety
/// `rows.b` must be what [`pack_block`] made of `[depth, n]`; `packed_a` writable over the depth times [`width_a`] elements.
unsafe fn multiply_rows<I: Isa>(isa: I, kernels: &Kernels<I>, rows: Rows, packed_a: *mut f32) {
    let Rows { a, b, mut c, epilogue } = rows;
    let (m, n, k, width) = (c.rows(), c.cols(), a.cols(), kernels.width());
    let (a_start, a_stride) = (a.mat.as_ptr(), a.mat.stride());
    let (a_start, a_stride, kernels) = match a.layout {
        Layout::Normal => (a_start, a_stride, &kernels.along_rows[m - 1]),
        Layout::Transposed if a_stride.is_multiple_of(CONFLICTING_STRIDE) && n / width >= kernels.pack_a_from => {
            // SAFETY: the caller's guarantee; a block of A is a single panel, at most `width_a` wide.
            unsafe { (kernels.copy)(isa, a.mat, packed_a) };
            (packed_a.cast_const(), m.next_multiple_of(I::LANES), &kernels.along_columns[m - 1])
        }
        Layout::Transposed => (a_start, a_stride, &kernels.along_columns[m - 1]),
    };
    let (c_stride, c) = (c.stride(), c.as_mut_ptr());
    let residual = epilogue.residual.map_or((null(), 0), |r| (r.as_ptr(), r.stride()));
    let (addend, residual) = match epilogue.update {
        Update::Overwrite => (residual, (null(), 0)),
        Update::Accumulate => ((c.cast_const(), c_stride), residual),
    };
    let bias = epilogue.bias.map_or(null(), <[f32]>::as_ptr);
    let at = |start: *const f32, j: usize| if start.is_null() { start } else { start.wrapping_add(j) };
    for j in (0..n).step_by(width) {
        let cols = (n - j).min(width);
        let vectors = cols.div_ceil(I::LANES);
        let tile = Tile {
            k,
            a: a_start,
            a_stride,
            b: b.wrapping_add(j * k),
            b_stride: vectors * I::LANES,
            c: c.wrapping_add(j),
            c_stride,
            cols,
            scale: epilogue.scale,
            addend: at(addend.0, j),
            addend_stride: addend.1,
            bias: at(bias, j),
            residual: at(residual.0, j),
            residual_stride: residual.1,
        };
        // SAFETY: A and the panel of B hold k steps of this many rows and vectors; C, the addend, the residual and the bias hold these
        // rows and columns, as their matrices have been cut to them.
        unsafe { kernels[vectors - 1](isa, &tile) };
    }
}
