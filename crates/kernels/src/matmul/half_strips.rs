//! Weights in `f16` and `bf16`, in strips: as the packed weights of `f32`, with half the bytes.
//!
//! A strip is `[depth, lanes]` elements of 16 bits. The last strip is padded with zeros. Up to [`DIRECT_ROWS`] rows of an output read the strips in
//! place, each vector widened on its way into the multiply-adds; for more rows a panel is widened once into scratch, and multiplied as a panel of
//! `f32`. Either way an element of the output is the same chain of multiply-adds.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};
use smallmind_simd::Isa;

use super::tile::Tile;
use crate::{Format, Mat};

/// Up to this many rows of an output read strips in place: widening a panel takes about as long as multiplying two rows by it.
pub(super) const DIRECT_ROWS: usize = 4;

/// An element of 16 bits.
pub(super) trait Half: Copy + 'static {
    /// The first [`Isa::LANES`] elements at `at`, widened.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load<I: Isa>(isa: I, at: *const u16) -> I::F32;
    /// Writes a vector's elements, rounded to nearest even.
    fn store<I: Isa>(isa: I, v: I::F32, to: &mut [u16]);
    /// One element, widened.
    fn widen(bits: u16) -> f32;
}

impl Half for f16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, at: *const u16) -> I::F32 {
        // SAFETY: the caller's guarantee; an `f16` is its 16 bits.
        isa.load_f16(unsafe { std::slice::from_raw_parts(at.cast(), I::LANES) })
    }

    #[inline(always)]
    fn store<I: Isa>(isa: I, v: I::F32, to: &mut [u16]) {
        let mut values = [f16::ZERO; MAX_LANES];
        isa.store_f16(v, &mut values[..I::LANES]);
        to.iter_mut().zip(values).for_each(|(to, x)| *to = x.to_bits());
    }

    fn widen(bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }
}

impl Half for bf16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, at: *const u16) -> I::F32 {
        // SAFETY: the caller's guarantee; a `bf16` is its 16 bits.
        isa.load_bf16(unsafe { std::slice::from_raw_parts(at.cast(), I::LANES) })
    }

    #[inline(always)]
    fn store<I: Isa>(isa: I, v: I::F32, to: &mut [u16]) {
        let mut values = [bf16::ZERO; MAX_LANES];
        isa.store_bf16(v, &mut values[..I::LANES]);
        to.iter_mut().zip(values).for_each(|(to, x)| *to = x.to_bits());
    }

    fn widen(bits: u16) -> f32 {
        bf16::from_bits(bits).to_f32()
    }
}

/// The most lanes of a vector.
const MAX_LANES: usize = 16;

/// A factor `[depth, cols]` in strips of 16-bit elements.
#[derive(Clone, Copy)]
pub(super) struct HalfStrips<'a> {
    start: *const u16,
    /// Elements from strip to strip.
    strip: usize,
    depth: usize,
    cols: usize,
    /// Columns of a strip.
    lanes: usize,
    /// [`Format::F16`] or [`Format::Bf16`].
    format: Format,
    borrow: PhantomData<&'a [f32]>,
}

impl<'a> HalfStrips<'a> {
    /// The strips of `lanes` columns in `words`, for `cols` columns and those that fill the last strip.
    ///
    /// # Panics
    /// If they have another length, or another format.
    pub fn new(words: &'a [f32], format: Format, lanes: usize, depth: usize, cols: usize) -> Self {
        assert!(matches!(format, Format::F16 | Format::Bf16), "{format} has no elements of 16 bits");
        let len = cols.next_multiple_of(lanes) * depth / 2;
        assert!(words.len() == len, "strips [{depth}, {cols}] in {} words", words.len());
        Self { start: words.as_ptr().cast(), strip: lanes * depth, depth, cols, lanes, format, borrow: PhantomData }
    }

    /// The format of the elements.
    pub fn format(&self) -> Format {
        self.format
    }

    /// A window of steps in depth and of columns, which begin with a strip.
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

    /// `base` with these strips, a panel of them, as its B. Its offsets count words of two elements.
    pub fn tile<E>(&self, base: Tile<E>) -> Tile<E> {
        debug_assert_eq!([self.depth, self.cols], [base.k, base.cols], "a panel of strips");
        Tile { b: self.start.cast(), b_stride: self.lanes / 2, b_vector: self.strip / 2, ..base }
    }

    /// Widens a panel of strips into `panel` `[depth, columns rounded up to whole vectors]`.
    ///
    /// # Safety
    /// `panel` must be writable over it.
    pub unsafe fn widen<I: Isa>(&self, isa: I, panel: *mut f32) {
        // SAFETY: the caller's guarantee, handed on.
        unsafe {
            if self.format == Format::F16 {
                self.widen_as::<I, f16>(isa, panel);
            } else {
                self.widen_as::<I, bf16>(isa, panel);
            }
        }
    }

    /// # Safety
    /// As [`HalfStrips::widen`].
    unsafe fn widen_as<I: Isa, H: Half>(&self, isa: I, panel: *mut f32) {
        assert!(self.lanes == I::LANES, "strips of {} columns, vectors of {}", self.lanes, I::LANES);
        let vectors = self.cols.div_ceil(I::LANES);
        isa.vectorize(
            #[inline(always)]
            || {
                for p in 0..self.depth {
                    for v in 0..vectors {
                        // SAFETY: step p of strip v lies within the strips, by `new` and `window`; the panel's vector by the caller's
                        // guarantee.
                        unsafe {
                            let x = H::load(isa, self.start.add(v * self.strip + p * I::LANES));
                            isa.store_ptr(x, panel.add((p * vectors + v) * I::LANES));
                        }
                    }
                }
            },
        );
    }

    /// Copies column `j` to `out` `[depth]`.
    pub fn copy_column(&self, j: usize, out: &mut [f32]) {
        assert!(j < self.cols && out.len() == self.depth, "column {j} of {} to {} elements", self.cols, out.len());
        let widen = if self.format == Format::F16 { f16::widen } else { bf16::widen };
        for (p, x) in out.iter_mut().enumerate() {
            // SAFETY: step p of the strip of column j, which is one of the factor's.
            *x = widen(unsafe { *self.start.add(j / self.lanes * self.strip + p * self.lanes + j % self.lanes) });
        }
    }
}

/// Writes the rows of a weight `[n, k]` as strips of 16-bit elements.
///
/// # Panics
/// If `words` are not as many as [`super::packed_len`] says, or `format` has no elements of 16 bits.
pub(super) fn pack<I: Isa>(isa: I, format: Format, weight: Mat, words: &mut [f32]) {
    match format {
        Format::F16 => pack_as::<I, f16>(isa, weight, words),
        Format::Bf16 => pack_as::<I, bf16>(isa, weight, words),
        Format::F32 | Format::Q8_0 => panic!("{format} has no elements of 16 bits"),
    }
}

fn pack_as<I: Isa, H: Half>(isa: I, weight: Mat, words: &mut [f32]) {
    let (n, k) = (weight.rows(), weight.cols());
    const { assert!(I::LANES <= MAX_LANES) };
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
