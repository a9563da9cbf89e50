//! The pages of a key-value cache: how keys and values lie in them in each format, and how tokens are appended.
//!
//! A page of a key/value head holds [`PAGE`] tokens: their keys, then their values. Keys are transposed, a row for each
//! feature, so that a vector holds a feature of as many keys as there are lanes.
//!
//! ```text
//! F32    keys    [head_dim, PAGE]      f32      values  [PAGE, head_dim]       f32
//! F16    keys    [head_dim, PAGE]      f16      values  [PAGE, head_dim]       f16
//! Q8_0   scales  [blocks, PAGE]        f16      scales  [PAGE, blocks]         f16
//!        codes   [32 · blocks, PAGE]   i8       codes   [PAGE, 32 · blocks]    i8
//! Q4_0   scales  as Q8_0                        scales  as Q8_0
//!        codes   [16 · blocks, PAGE]   2 · u4   codes   [PAGE, 16 · blocks]    2 · u4
//! ```
//!
//! The last two are formats of GGML, with a scale for each 32 features of a token, and are rounded as
//! [`blocks`](crate::blocks) says. A token's block of 32 features has the bytes of a block in a GGUF file: of `Q4_0`,
//! byte `j` of 16 holds feature `j` in bits 3 to 0 and feature `j + 16` in bits 7 to 4. Bytes of keys lie a row apart,
//! those of values side by side. The last of the `⌈head_dim / 32⌉` blocks is filled up with zeros.
//!
//! **What a format can't hold is NaN**, so that logits show it: a number that is not finite or that `f16` would round
//! to an infinity, and all 32 features of a block with such a number or such a scale.

use std::fmt;

use half::f16;
use half::slice::HalfBitsSliceExt;
use smallmind_simd::{CacheLevel, Isa, MAX_LANES, prefetch};

use crate::blocks::{Layout, Q4_0, Q8_0};
use crate::compiled::compiled;
use crate::matmul::transpose_rows;
use crate::{Format, Mat};

/// Keys of a page of the cache: a multiple of the lanes of every instruction set.
pub const PAGE: usize = 64;

/// Features of a block.
pub(super) const BLOCK: usize = 32;

/// Bytes of a block besides its scale.
pub(super) const Q8_0_CODES: usize = Format::Q8_0.block().bytes - size_of::<f16>();
pub(super) const Q4_0_CODES: usize = Format::Q4_0.block().bytes - size_of::<f16>();

/// How the keys and values of a key-value cache are stored. All arithmetic on them is in `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheFormat {
    /// 32-bit floats: keys and values as they were computed.
    #[default]
    F32,
    /// 16-bit floats.
    F16,
    /// For each 32 features of a token signed bytes and a scale.
    Q8_0,
    /// For each 32 features of a token codes of 4 bits and a scale.
    Q4_0,
}

impl CacheFormat {
    /// Every format, the largest first.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q8_0, Self::Q4_0];

    /// The format of weights that rounds in the same way.
    pub const fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::Q8_0 => Format::Q8_0,
            Self::Q4_0 => Format::Q4_0,
        }
    }

    /// The name in command lines and reports: GGML's, in lower case.
    pub const fn name(self) -> &'static str {
        self.format().name()
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Bytes of the keys and values of a token in a head of `head_dim` columns.
    pub const fn token_bytes(self, head_dim: usize) -> usize {
        let block = self.format().block();
        2 * head_dim.div_ceil(block.elements) * block.bytes
    }
}

impl fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Words of a page of one key/value head, each of the size of an `f32`.
pub const fn page_len(format: CacheFormat, head_dim: usize) -> usize {
    PAGE * format.token_bytes(head_dim) / size_of::<f32>()
}

/// A page of one key/value head, to write.
#[derive(Debug)]
pub struct PageMut<'a> {
    /// How keys and values are stored.
    pub format: CacheFormat,
    /// As many as [`page_len`] says.
    pub words: &'a mut [f32],
}

/// Writes `keys` `[n, head_dim]` to the places `first..first + n` of a page, and `values` `[n, head_dim]` likewise. What
/// the places behind them hold is lost.
///
/// # Panics
/// If the page has another length than [`page_len`], if shapes disagree, or if the page has no such places.
pub fn append_to_page<I: Isa>(isa: I, page: PageMut, first: usize, keys: Mat, values: Mat) {
    fn body<I: Isa>(isa: I, page: PageMut, first: usize, keys: Mat, values: Mat) {
        let PageMut { format, words } = page;
        let (n, head_dim) = (keys.rows(), keys.cols());
        assert_eq!(words.len(), page_len(format, head_dim), "a page in {format} for heads of {head_dim} columns");
        assert_eq!((values.rows(), values.cols()), (n, head_dim), "a value for each key");
        assert!(first + n <= PAGE, "places {first}..{} of a page of {PAGE}", first + n);
        if n == 1 {
            prefetch_key(format, words, first);
        }
        let parts = words.split_at_mut(words.len() / 2).into();
        match format {
            CacheFormat::F32 => append_singles(isa, parts, first, keys, values),
            CacheFormat::F16 => append_halves(isa, parts, first, keys, values),
            CacheFormat::Q8_0 => append_blocks::<_, _, Q8_0>(parts, first, keys, values),
            CacheFormat::Q4_0 => append_blocks::<_, _, Q4_0>(parts, first, keys, values),
        }
    }
    compiled!(isa: I, body(page: PageMut, first: usize, keys: Mat, values: Mat));
}

/// Prefetches where the key at a place of a page lies: a line for each row. The stores would wait for these lines one
/// after another.
fn prefetch_key(format: CacheFormat, page: &[f32], place: usize) {
    let row = match format {
        CacheFormat::F32 => PAGE,
        CacheFormat::F16 => PAGE / 2,
        CacheFormat::Q8_0 | CacheFormat::Q4_0 => PAGE / 4,
    };
    for word in page[..page.len() / 2].iter().skip(place * row / PAGE).step_by(row) {
        prefetch(word, CacheLevel::First);
    }
}

fn append_singles<I: Isa>(isa: I, [key_page, value_page]: [&mut [f32]; 2], first: usize, keys: Mat, values: Mat) {
    let (n, head_dim) = (keys.rows(), keys.cols());
    if first == 0 && n > 1 {
        // No token has the places behind these.
        transpose_rows(isa, keys, key_page, PAGE);
    } else {
        for i in 0..n {
            for (row, &x) in key_page.chunks_exact_mut(PAGE).zip(keys.row(i)) {
                row[first + i] = x;
            }
        }
    }
    for i in 0..n {
        value_page[(first + i) * head_dim..][..head_dim].copy_from_slice(values.row(i));
    }
}

fn append_halves<I: Isa>(isa: I, parts: [&mut [f32]; 2], first: usize, keys: Mat, values: Mat) {
    let head_dim = keys.cols();
    let [key_page, value_page] = parts.map(halves_mut);
    isa.vectorize(
        #[inline(always)]
        || {
            let mut narrow = [f16::ZERO; MAX_LANES];
            for i in 0..keys.rows() {
                let rows = key_page.chunks_mut(I::LANES * PAGE).zip(keys.row(i).chunks(I::LANES));
                for (rows, x) in rows {
                    isa.store_f16(in_range(isa, isa.load_partial(x)), &mut narrow);
                    for (row, x) in rows.chunks_exact_mut(PAGE).zip(narrow) {
                        row[first + i] = x;
                    }
                }
                let row = &mut value_page[(first + i) * head_dim..][..head_dim];
                for (to, x) in row.chunks_mut(I::LANES).zip(values.row(i).chunks(I::LANES)) {
                    isa.store_f16(in_range(isa, isa.load_partial(x)), &mut narrow);
                    to.copy_from_slice(&narrow[..to.len()]);
                }
            }
        },
    );
}

/// `x` where an `f16` can hold it, else NaN.
#[inline(always)]
fn in_range<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    /// The least magnitude that is rounded to an infinity.
    const BEYOND: f32 = 65_520.0;
    isa.select(isa.lt(isa.abs(x), isa.splat(BEYOND)), x, isa.splat(f32::NAN))
}

fn append_blocks<const BYTES: usize, const CODES: usize, L: Codes<BYTES, CODES>>(
    [key_page, value_page]: [&mut [f32]; 2],
    first: usize,
    keys: Mat,
    values: Mat,
) {
    let blocks = keys.cols().div_ceil(BLOCK);
    let [(key_scales, key_codes), (value_scales, value_codes)] =
        [key_page, value_page].map(|part| part.split_at_mut(blocks * PAGE / 2));
    let [key_scales, value_scales] = [key_scales, value_scales].map(halves_mut);
    let [key_codes, value_codes] = [key_codes, value_codes].map(bytemuck::cast_slice_mut::<f32, u8>);
    for (i, place) in (first..first + keys.rows()).enumerate() {
        for (b, x) in keys.row(i).chunks(BLOCK).enumerate() {
            let (scale, codes) = L::of(x);
            key_scales[b * PAGE + place] = scale;
            for (row, code) in key_codes[b * CODES * PAGE..].chunks_exact_mut(PAGE).zip(codes) {
                row[place] = code;
            }
        }
        for (b, x) in values.row(i).chunks(BLOCK).enumerate() {
            let (scale, codes) = L::of(x);
            value_scales[place * blocks + b] = scale;
            value_codes[(place * blocks + b) * CODES..][..CODES].copy_from_slice(&codes);
        }
    }
}

/// A format of blocks of [`BLOCK`] features in `BYTES` bytes, of which `CODES` hold codes.
trait Codes<const BYTES: usize, const CODES: usize>: Layout<BYTES, BLOCK> {
    /// The scale and the bytes of up to [`BLOCK`] features; the scale is NaN if the block can't hold one of them.
    fn of(x: &[f32]) -> (f16, [u8; CODES]) {
        let mut whole = [0.0; BLOCK];
        whole[..x.len()].copy_from_slice(x);
        let mut bytes = [0; BYTES];
        Self::quantize(&whole, None).write(&mut bytes);
        let (scale, codes) = bytes.split_at(size_of::<f16>());
        let scale = f16::from_le_bytes([scale[0], scale[1]]);
        let is_finite = scale.is_finite() && !x.iter().fold(false, |bad, x| bad | !x.is_finite());
        (if is_finite { scale } else { f16::NAN }, codes.try_into().expect("the bytes after the scale are codes"))
    }
}

impl Codes<{ Format::Q8_0.block().bytes }, Q8_0_CODES> for Q8_0 {}
impl Codes<{ Format::Q4_0.block().bytes }, Q4_0_CODES> for Q4_0 {}

fn halves_mut(words: &mut [f32]) -> &mut [f16] {
    bytemuck::cast_slice_mut::<f32, u16>(words).reinterpret_cast_mut()
}
