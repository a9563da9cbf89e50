//! Weights in strips of blocks: written from the bytes of a file or from `f32`, and read row by row. How they lie is
//! drawn in `blocks/strip.rs`, their products are in `block_dots`.
#![allow(unsafe_code)]

use half::f16;

use crate::blocks::strip::{self, GROUP, Parts, Strip};
use crate::blocks::{Layout, with_strip};
use crate::{Format, Mat};

/// Words of a strip of `lanes` rows of `k` elements, which are whole blocks.
pub(super) fn strip_words(format: Format, lanes: usize, k: usize) -> usize {
    let block = format.packed_block();
    k / block.elements * block.bytes * lanes / 4
}

/// Quantizes the rows of a weight `[n, k]` as [`Format::pack`] does and writes them as strips.
///
/// # Panics
/// If `words` has another length than [`super::packed_len`], or `k` is not whole blocks.
pub(super) fn pack(format: Format, lanes: usize, weight: Mat, words: &mut [f32]) {
    let (n, k) = (weight.rows(), weight.cols());
    assert!(format.divides(k), "rows of {k} elements are not whole blocks of {format}");
    let len = n.div_ceil(lanes) * strip_words(format, lanes, k);
    assert!(words.len() == len, "a weight [{n}, {k}] in {} words", words.len());
    if !n.is_multiple_of(lanes) {
        // Rows that pad the last strip are zeros.
        words[n / lanes * strip_words(format, lanes, k)..].fill(0.0);
    }
    with_strip!(format, pack_floats(lanes, weight, words), unreachable!("{format} has no blocks"));
}

fn pack_floats<const BYTES: usize, const ELEMENTS: usize, S: Strip + Layout<BYTES, ELEMENTS>>(
    lanes: usize,
    weight: Mat,
    words: &mut [f32],
) {
    let mut strips = Strips::<S>::new(words, lanes, weight.cols());
    for j in 0..weight.rows() {
        let row = strips.places.of_row(j);
        for (b, x) in weight.row(j).as_chunks::<ELEMENTS>().0.iter().enumerate() {
            strips.write::<ELEMENTS>(row, b, &S::quantize(x, None).parts());
        }
    }
}

/// Writes rows of a weight `[n, k]`, from row `first` on, whose blocks are in `bytes`, as GGML lays them out.
///
/// # Panics
/// If `words` has another length than [`super::packed_len`], the rows leave the weight, `bytes` are not whole rows, or
/// `k` is not whole blocks.
pub(super) fn pack_bytes(
    format: Format,
    lanes: usize,
    [n, k]: [usize; 2],
    words: &mut [f32],
    first: usize,
    bytes: &[u8],
) {
    let row = format.row_bytes(k).unwrap_or_else(|| panic!("rows of {k} elements are not whole blocks of {format}"));
    let len = n.div_ceil(lanes) * strip_words(format, lanes, k);
    assert!(words.len() == len, "a weight [{n}, {k}] in {} words", words.len());
    if row == 0 {
        return;
    }
    let rows = bytes.len() / row;
    assert!(bytes.len().is_multiple_of(row) && first <= n && rows <= n - first, "{rows} rows from {first} on of {n}");
    with_strip!(format, pack_blocks(lanes, k, words, first, bytes), unreachable!("{format} has no blocks"));
}

fn pack_blocks<const BYTES: usize, const ELEMENTS: usize, S: Strip + Layout<BYTES, ELEMENTS>>(
    lanes: usize,
    k: usize,
    words: &mut [f32],
    first: usize,
    bytes: &[u8],
) {
    let (blocks, per_row) = (bytes.as_chunks::<BYTES>().0, k / ELEMENTS);
    let end = first + blocks.len() / per_row;
    let mut strips = Strips::<S>::new(words, lanes, k);
    let mut start = first;
    while start < end {
        // The rows of one strip, block by block: what they write lies together.
        let stop = end.min((start / lanes + 1) * lanes);
        let (row, count) = (strips.places.of_row(start), stop - start);
        let blocks = &blocks[(start - first) * per_row..][..count * per_row];
        for b in 0..per_row {
            for (i, block) in blocks[b..].iter().step_by(per_row).enumerate() {
                let row = Row { lane: row.lane + i, ..row };
                strips.write::<ELEMENTS>(row, b, &S::read(block).parts());
            }
        }
        start = stop;
    }
}

/// Copies row `j` of a weight in strips to `out` `[k]`: the values of [`Format::unpack`].
pub(super) fn copy_row(format: Format, words: &[f32], lanes: usize, j: usize, out: &mut [f32]) {
    with_strip!(format, copy_blocks(words, lanes, j, out), unreachable!("{format} has no blocks"));
}

fn copy_blocks<const BYTES: usize, const ELEMENTS: usize, S: Strip + Layout<BYTES, ELEMENTS>>(
    words: &[f32],
    lanes: usize,
    j: usize,
    out: &mut [f32],
) {
    let places = Places::<S>::new(lanes, out.len());
    // SAFETY: the bytes are those of the borrowed words, and every pattern of bytes is valid for `u8`.
    let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * 4) };
    for (b, out) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().enumerate() {
        S::of_parts(&places.read::<ELEMENTS>(bytes, places.of_row(j), b)).values(out);
    }
}

/// A row of a weight in strips.
#[derive(Clone, Copy)]
struct Row {
    /// Where its strip begins, in bytes.
    strip: usize,
    lane: usize,
}

/// Where the parts of blocks lie, in bytes.
struct Places<S> {
    lanes: usize,
    /// Elements of a row.
    k: usize,
    /// Bytes of a strip.
    strip: usize,
    format: std::marker::PhantomData<S>,
}

impl<S: Strip> Places<S> {
    fn new(lanes: usize, k: usize) -> Self {
        Self { lanes, k, strip: 4 * strip_words(S::FORMAT, lanes, k), format: std::marker::PhantomData }
    }

    /// Row `row`: where its strip begins, and its lane.
    #[inline(always)]
    fn of_row(&self, row: usize) -> Row {
        Row { strip: row / self.lanes * self.strip, lane: row % self.lanes }
    }

    /// The word of vector `v` of group `g` that is `row`'s.
    #[inline(always)]
    fn word(&self, row: Row, g: usize, v: usize) -> usize {
        row.strip + ((g * strip::vectors::<S>() + v) * self.lanes + row.lane) * 4
    }

    /// The scales of block `b` of the strip of `row`.
    #[inline(always)]
    fn scales(&self, row: Row, b: usize) -> usize {
        let codes = self.k / GROUP * strip::vectors::<S>() * 4 * self.lanes;
        row.strip + codes + b * strip::scale_bytes::<S>() * self.lanes
    }

    /// Float `i` of those scales that is `row`'s.
    #[inline(always)]
    fn half(&self, row: Row, b: usize, i: usize) -> usize {
        self.scales(row, b) + 2 * (i * self.lanes + row.lane)
    }

    /// Integer `i` of those scales that is `row`'s.
    #[inline(always)]
    fn integer(&self, row: Row, b: usize, i: usize) -> usize {
        self.scales(row, b) + (2 * S::HALVES + i) * self.lanes + row.lane
    }

    /// Block `b` of `row`.
    fn read<const ELEMENTS: usize>(&self, bytes: &[u8], row: Row, b: usize) -> Parts {
        let mut parts = Parts::of_codes(&[]);
        for (g, codes) in parts.codes.as_chunks_mut::<GROUP>().0[..ELEMENTS / GROUP].iter_mut().enumerate() {
            let mut words = [0; strip::MOST_VECTORS];
            for (v, word) in words[..strip::vectors::<S>()].iter_mut().enumerate() {
                let at = self.word(row, b * (ELEMENTS / GROUP) + g, v);
                *word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            }
            *codes = strip::unpack_group::<S>(&words);
        }
        for (i, half) in parts.halves[..S::HALVES].iter_mut().enumerate() {
            let at = self.half(row, b, i);
            *half = f16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        }
        for (i, integer) in parts.integers[..S::INTEGERS].iter_mut().enumerate() {
            *integer = bytes[self.integer(row, b, i)] as i8;
        }
        parts
    }
}

/// The strips of a weight, to be written.
struct Strips<'a, S> {
    bytes: &'a mut [u8],
    places: Places<S>,
}

impl<'a, S: Strip> Strips<'a, S> {
    fn new(words: &'a mut [f32], lanes: usize, k: usize) -> Self {
        // SAFETY: the bytes are those of the borrowed words, and every pattern of bytes is valid for both types.
        let bytes = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), words.len() * 4) };
        Self { bytes, places: Places::new(lanes, k) }
    }

    /// Writes block `b` of `row`.
    #[inline(always)]
    fn write<const ELEMENTS: usize>(&mut self, row: Row, b: usize, parts: &Parts) {
        let Self { bytes, places } = self;
        let (lanes, groups, vectors) = (places.lanes, ELEMENTS / GROUP, strip::vectors::<S>());
        let start = places.word(Row { lane: 0, ..row }, b * groups, 0);
        let codes = &mut bytes[start..start + groups * vectors * 4 * lanes];
        assert!(row.lane < lanes, "a row of a strip");
        for (g, group) in parts.codes.as_chunks::<GROUP>().0[..groups].iter().enumerate() {
            let words = strip::pack_group::<S>(group);
            for (v, word) in words[..vectors].iter().enumerate() {
                let at = ((g * vectors + v) * lanes + row.lane) * 4;
                // SAFETY: g is less than `groups`, v than `vectors`, and the lane than `lanes`: `codes` has the word.
                unsafe { codes.as_mut_ptr().add(at).cast::<u32>().write_unaligned(word.to_le()) };
            }
        }
        for (i, half) in parts.halves[..S::HALVES].iter().enumerate() {
            let at = places.half(row, b, i);
            bytes[at..at + 2].copy_from_slice(&half.to_ne_bytes());
        }
        for (i, integer) in parts.integers[..S::INTEGERS].iter().enumerate() {
            bytes[places.integer(row, b, i)] = *integer as u8;
        }
    }
}
