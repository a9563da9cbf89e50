//! Strips of 16-bit floats, which products read like strips of `f32`, with half the bytes.
//!
//! A strip is `[depth, lanes]` elements; the last one is padded with zeros. The rows of a single tile read the strips
//! in place. Each vector becomes one of words on its way into the multiply-adds: of `f32`, or of pairs of `bf16`. For
//! more rows this is done once, into a panel in scratch. Either way an element of the output is the same chain of
//! multiply-adds.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};
use smallmind_simd::{CacheLevel, Isa, MAX_LANES, prefetch};

use super::arithmetic::{Arithmetic, HalfFloat};
use super::tile::Tile;
use crate::Mat;
use crate::format::HalfKind;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// A factor `[depth, cols]` in strips of 16-bit floats, or a window of one.
#[derive(Clone, Copy)]
pub(super) struct HalfStrips<'a> {
    /// The first element.
    start: *const u16,
    /// Elements from strip to strip.
    strip: usize,
    depth: usize,
    cols: usize,
    /// Columns of a strip.
    lanes: usize,
    kind: HalfKind,
    borrow: PhantomData<&'a [f32]>,
}

impl<'a> HalfStrips<'a> {
    /// The strips in `words`, each of `lanes` columns: `cols` columns, then padding of the last strip.
    ///
    /// # Panics
    /// If `words` has another length.
    pub fn new(words: &'a [f32], kind: HalfKind, lanes: usize, depth: usize, cols: usize) -> Self {
        let len = cols.next_multiple_of(lanes) * depth / 2;
        assert!(words.len() == len, "strips [{depth}, {cols}] in {} words", words.len());
        Self { start: words.as_ptr().cast(), strip: lanes * depth, depth, cols, lanes, kind, borrow: PhantomData }
    }

    /// The format of the elements.
    pub fn kind(&self) -> HalfKind {
        self.kind
    }

    /// A window of rows and of columns.
    ///
    /// # Panics
    /// If it leaves the factor or begins within a strip.
    pub fn window(self, depth: &Range<usize>, cols: &Range<usize>) -> Self {
        assert!(depth.start <= depth.end && depth.end <= self.depth, "steps {depth:?} of {}", self.depth);
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?} of {}", self.cols);
        assert!(cols.start.is_multiple_of(self.lanes), "columns {cols:?} cut a strip");
        let start = self.start.wrapping_add(cols.start / self.lanes * self.strip + depth.start * self.lanes);
        Self { start, depth: depth.len(), cols: cols.len(), ..self }
    }

    /// `base` with a panel of these strips as its B.
    pub fn tile<P: Arithmetic>(&self, base: Tile<P::Element>) -> Tile<P::Element> {
        debug_assert_eq!([self.depth, self.cols], [base.k * P::STEP, base.cols], "a panel of strips");
        // Offsets count elements of the other factor, which may have another size.
        let offset = |elements: usize| elements * size_of::<u16>() / size_of::<P::Element>();
        Tile { b: self.start.cast(), b_stride: offset(self.lanes * P::STEP), b_vector: offset(self.strip), ..base }
    }

    /// Prefetches one of `parts` equal parts of the strips that follow these, over the same rows.
    pub fn prefetch_next(&self, part: usize, parts: usize) {
        let strips = self.cols.div_ceil(self.lanes);
        let lines = (self.depth * self.lanes * size_of::<u16>()).div_ceil(LINE);
        let of_part = lines.div_ceil(parts);
        for v in strips..2 * strips {
            let strip = self.start.wrapping_add(v * self.strip).cast::<u8>();
            for line in part * of_part..((part + 1) * of_part).min(lines) {
                prefetch(strip.wrapping_add(line * LINE), CacheLevel::Second);
            }
        }
    }

    /// Writes the words of the strips into `panel` `[depth in words, columns rounded up to whole vectors]`.
    ///
    /// # Safety
    /// `panel` must be valid for writes over this size.
    pub unsafe fn write_panel<P: Arithmetic>(&self, p: P, panel: *mut P::Element) {
        // SAFETY: the caller keeps the panel writable, which is all that both demand.
        unsafe {
            match self.kind {
                HalfKind::F16 => self.write_panel_as::<P, f16>(p, panel),
                HalfKind::Bf16 => self.write_panel_as::<P, bf16>(p, panel),
            }
        }
    }

    /// # Safety
    /// As [`HalfStrips::write_panel`].
    unsafe fn write_panel_as<P: Arithmetic, H: HalfFloat>(&self, p: P, panel: *mut P::Element) {
        let lanes = P::Isa::LANES;
        assert!(self.lanes == lanes, "strips of {} columns, vectors of {lanes}", self.lanes);
        assert!(self.depth.is_multiple_of(P::STEP), "{} rows in words of {}", self.depth, P::STEP);
        let vectors = self.cols.div_ceil(lanes);
        p.vectorize(
            #[inline(always)]
            || {
                for word in 0..self.depth / P::STEP {
                    for v in 0..vectors {
                        // SAFETY: these rows of strip v are within the strips, as `new` and `window` have checked; a
                        // row of the panel has `vectors` vectors, which the caller keeps writable.
                        unsafe {
                            let x = p.load_half::<H>(self.start.add(v * self.strip + word * P::STEP * lanes));
                            p.store(x, panel.add((word * vectors + v) * lanes * P::STEP));
                        }
                    }
                }
            },
        );
    }

    /// Copies column `j`, widened, to `out` `[depth]`.
    ///
    /// # Panics
    /// If there is no such column or `out` has another length.
    pub fn copy_column(&self, j: usize, out: &mut [f32]) {
        assert!(j < self.cols && out.len() == self.depth, "column {j} of {} to {} elements", self.cols, out.len());
        let widen = match self.kind {
            HalfKind::F16 => f16::widen,
            HalfKind::Bf16 => bf16::widen,
        };
        for (p, x) in out.iter_mut().enumerate() {
            // SAFETY: column j is one of the factor's and p is below its depth, as asserted above.
            *x = widen(unsafe { *self.start.add(j / self.lanes * self.strip + p * self.lanes + j % self.lanes) });
        }
    }
}

/// Writes the rows of a weight `[n, k]` as strips of 16-bit floats, rounded to nearest even.
///
/// # Panics
/// If `words` has another length than [`super::packed_len`].
pub(super) fn pack<I: Isa>(isa: I, kind: HalfKind, weight: Mat, words: &mut [f32]) {
    match kind {
        HalfKind::F16 => pack_as::<I, f16>(isa, weight, words),
        HalfKind::Bf16 => pack_as::<I, bf16>(isa, weight, words),
    }
}

fn pack_as<I: Isa, H: HalfFloat>(isa: I, weight: Mat, words: &mut [f32]) {
    let (n, k) = (weight.rows(), weight.cols());
    assert!(words.len() == n.next_multiple_of(I::LANES) * k / 2, "a weight [{n}, {k}] in {} words", words.len());
    isa.vectorize(
        #[inline(always)]
        || {
            let mut column = [0.0; MAX_LANES];
            let mut elements = [0_u16; MAX_LANES];
            for (s, strip) in words.chunks_exact_mut((I::LANES * k / 2).max(1)).enumerate() {
                for (p, step) in strip.chunks_exact_mut(I::LANES / 2).enumerate() {
                    for (lane, x) in column[..I::LANES].iter_mut().enumerate() {
                        let row = s * I::LANES + lane;
                        *x = if row < n { weight.row(row)[p] } else { 0.0 };
                    }
                    H::store(isa, isa.load(&column), &mut elements);
                    for (word, pair) in step.iter_mut().zip(elements.chunks_exact(2)) {
                        let ([a, b], [c, d]) = (pair[0].to_ne_bytes(), pair[1].to_ne_bytes());
                        *word = f32::from_ne_bytes([a, b, c, d]);
                    }
                }
            }
        },
    );
}
