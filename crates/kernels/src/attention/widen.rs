//! Vectors of keys and values, widened to `f32` on their way out of a page.
//!
//! A stored number stands for the same `f32` whichever kernel reads it: a half float is exact in `f32`, and so is a code
//! of at most 8 bits times a scale of 11 significant bits. So attention over a page in any format gives the bits of
//! attention over a page in `f32` that holds the widened numbers.

use half::f16;
use half::slice::HalfBitsSliceExt;
use smallmind_simd::{Isa, MAX_LANES};

use super::page::{BLOCK, PAGE, Q4_0_CODES, Q8_0_CODES};

/// The keys of a page, or its values, as they lie; `page.rs` draws it.
#[derive(Clone, Copy)]
pub(super) struct Part<'p, C> {
    /// A row for each feature of the keys, or for each token of the values.
    codes: &'p [C],
    /// Codes of a row.
    stride: usize,
    /// None in formats without blocks.
    scales: &'p [f16],
}

/// How vectors of keys and values are read from a page in one format.
pub(super) trait PageFormat: Copy + 'static {
    /// What is stored: a number, or one or two codes.
    type Code: Copy + 'static;
    /// What [`SHARED`](Self::SHARED) adjacent features of `N` vectors of keys have in common.
    type Scales<I: Isa, const N: usize>: Copy;
    /// From each multiple of this number on, as many features of a key share [`Scales`](Self::Scales).
    const SHARED: usize;
    /// Bits of a code; scales come on top.
    const BITS: usize;

    /// The keys and the values of a page.
    fn split(page: &[f32], head_dim: usize) -> [Part<'_, Self::Code>; 2];

    /// What `N` vectors of keys from key `first` on need for the features from `feature` on.
    fn key_scales<I: Isa, const N: usize>(
        isa: I,
        keys: Part<Self::Code>,
        feature: usize,
        first: usize,
    ) -> Self::Scales<I, N>;

    /// A feature of `N` vectors of keys from key `first` on.
    fn keys<I: Isa, const N: usize>(
        isa: I,
        keys: Part<Self::Code>,
        scales: Self::Scales<I, N>,
        feature: usize,
        first: usize,
    ) -> [I::F32; N];

    /// `N` vectors of features of the value of a token from `feature` on, which is a multiple of `N` vectors. `N` is a
    /// power of two.
    fn values<I: Isa, const N: usize>(isa: I, values: Part<Self::Code>, token: usize, feature: usize) -> [I::F32; N];

    /// The last `count` features of the value of a token, fewer than a vector, from `feature` on; any numbers in the
    /// other lanes.
    fn last_values<I: Isa>(isa: I, values: Part<Self::Code>, token: usize, feature: usize, count: usize) -> I::F32;

    /// The keys of a page as `[head_dim, PAGE]`: those of the page itself, or else in `room`, which has that size.
    #[inline(always)]
    fn wide_keys<'a, I: Isa>(isa: I, keys: Part<'a, Self::Code>, room: &'a mut [f32]) -> &'a [f32] {
        isa.vectorize(
            #[inline(always)]
            || {
                for (feature, row) in room.chunks_exact_mut(PAGE).enumerate() {
                    for (i, to) in row.chunks_exact_mut(VECTORS * I::LANES).enumerate() {
                        let first = i * VECTORS * I::LANES;
                        let scales = Self::key_scales(isa, keys, feature - feature % Self::SHARED, first);
                        store::<I, VECTORS>(isa, Self::keys(isa, keys, scales, feature, first), to);
                    }
                }
            },
        );
        room
    }

    /// The first `tokens` values of a page as `[tokens, head_dim]`: those of the page itself, or else in `room`, which
    /// has at least that size.
    #[inline(always)]
    fn wide_values<'a, I: Isa>(
        isa: I,
        values: Part<'a, Self::Code>,
        [tokens, head_dim]: [usize; 2],
        room: &'a mut [f32],
    ) -> &'a [f32] {
        isa.vectorize(
            #[inline(always)]
            || {
                for (token, row) in room.chunks_exact_mut(head_dim).take(tokens).enumerate() {
                    let mut quads = row.chunks_exact_mut(VECTORS * I::LANES);
                    let mut feature = 0;
                    for to in quads.by_ref() {
                        store::<I, VECTORS>(isa, Self::values(isa, values, token, feature), to);
                        feature += VECTORS * I::LANES;
                    }
                    let mut vectors = quads.into_remainder().chunks_exact_mut(I::LANES);
                    for to in vectors.by_ref() {
                        store::<I, 1>(isa, Self::values(isa, values, token, feature), to);
                        feature += I::LANES;
                    }
                    let to = vectors.into_remainder();
                    if !to.is_empty() {
                        isa.store_partial(Self::last_values(isa, values, token, feature, to.len()), to);
                    }
                }
            },
        );
        room
    }
}

/// Vectors that are widened together.
const VECTORS: usize = 4;
const _: () = assert!(PAGE.is_multiple_of(VECTORS * MAX_LANES));

#[inline(always)]
fn store<I: Isa, const N: usize>(isa: I, vectors: [I::F32; N], to: &mut [f32]) {
    for (vector, to) in vectors.into_iter().zip(to.chunks_exact_mut(I::LANES)) {
        isa.store(vector, to);
    }
}

/// `vector(n)` for each of `N` vectors. (`std::array::from_fn` might not be inlined, and then would be compiled without
/// the instruction set.)
#[inline(always)]
fn vectors<I: Isa, const N: usize>(isa: I, mut vector: impl FnMut(usize) -> I::F32) -> [I::F32; N] {
    let mut all = [isa.zero(); N];
    for (n, one) in all.iter_mut().enumerate() {
        *one = vector(n);
    }
    all
}

/// `F32`.
#[derive(Clone, Copy)]
pub(super) struct Singles;

impl PageFormat for Singles {
    type Code = f32;
    type Scales<I: Isa, const N: usize> = ();
    const SHARED: usize = usize::MAX;
    const BITS: usize = 32;

    fn split(page: &[f32], head_dim: usize) -> [Part<'_, f32>; 2] {
        split_numbers(page, head_dim)
    }

    #[inline(always)]
    fn key_scales<I: Isa, const N: usize>(_isa: I, _keys: Part<f32>, _feature: usize, _first: usize) {}

    #[inline(always)]
    fn keys<I: Isa, const N: usize>(isa: I, keys: Part<f32>, _: (), feature: usize, first: usize) -> [I::F32; N] {
        let row = &keys.codes[feature * PAGE + first..][..N * I::LANES];
        vectors(
            isa,
            #[inline(always)]
            |n| isa.load(&row[n * I::LANES..]),
        )
    }

    #[inline(always)]
    fn values<I: Isa, const N: usize>(isa: I, values: Part<f32>, token: usize, feature: usize) -> [I::F32; N] {
        let row = &values.codes[token * values.stride + feature..][..N * I::LANES];
        vectors(
            isa,
            #[inline(always)]
            |n| isa.load(&row[n * I::LANES..]),
        )
    }

    #[inline(always)]
    fn last_values<I: Isa>(isa: I, values: Part<f32>, token: usize, feature: usize, count: usize) -> I::F32 {
        isa.load_partial(&values.codes[token * values.stride + feature..][..count])
    }

    #[inline(always)]
    fn wide_keys<'a, I: Isa>(_isa: I, keys: Part<'a, f32>, _room: &'a mut [f32]) -> &'a [f32] {
        keys.codes
    }

    #[inline(always)]
    fn wide_values<'a, I: Isa>(
        _isa: I,
        values: Part<'a, f32>,
        [tokens, head_dim]: [usize; 2],
        _room: &'a mut [f32],
    ) -> &'a [f32] {
        &values.codes[..tokens * head_dim]
    }
}

/// `F16`.
#[derive(Clone, Copy)]
pub(super) struct Halves;

impl PageFormat for Halves {
    type Code = f16;
    type Scales<I: Isa, const N: usize> = ();
    const SHARED: usize = usize::MAX;
    const BITS: usize = 16;

    fn split(page: &[f32], head_dim: usize) -> [Part<'_, f16>; 2] {
        split_numbers(halves(page), head_dim)
    }

    #[inline(always)]
    fn key_scales<I: Isa, const N: usize>(_isa: I, _keys: Part<f16>, _feature: usize, _first: usize) {}

    #[inline(always)]
    fn keys<I: Isa, const N: usize>(isa: I, keys: Part<f16>, _: (), feature: usize, first: usize) -> [I::F32; N] {
        let row = &keys.codes[feature * PAGE + first..][..N * I::LANES];
        vectors(
            isa,
            #[inline(always)]
            |n| isa.load_f16(&row[n * I::LANES..]),
        )
    }

    #[inline(always)]
    fn values<I: Isa, const N: usize>(isa: I, values: Part<f16>, token: usize, feature: usize) -> [I::F32; N] {
        let row = &values.codes[token * values.stride + feature..][..N * I::LANES];
        vectors(
            isa,
            #[inline(always)]
            |n| isa.load_f16(&row[n * I::LANES..]),
        )
    }

    #[inline(always)]
    fn last_values<I: Isa>(isa: I, values: Part<f16>, token: usize, feature: usize, count: usize) -> I::F32 {
        // A whole vector might leave the page.
        let mut row = [f16::ZERO; MAX_LANES];
        row[..count].copy_from_slice(&values.codes[token * values.stride + feature..][..count]);
        isa.load_f16(&row)
    }
}

/// `Q8_0`.
#[derive(Clone, Copy)]
pub(super) struct Bytes;

impl PageFormat for Bytes {
    type Code = i8;
    /// A scale for each key.
    type Scales<I: Isa, const N: usize> = [I::F32; N];
    const SHARED: usize = BLOCK;
    const BITS: usize = 8;

    fn split(page: &[f32], head_dim: usize) -> [Part<'_, i8>; 2] {
        split_blocks(page, head_dim, Q8_0_CODES)
    }

    #[inline(always)]
    fn key_scales<I: Isa, const N: usize>(isa: I, keys: Part<i8>, feature: usize, first: usize) -> [I::F32; N] {
        scales_of_keys(isa, keys, feature, first)
    }

    #[inline(always)]
    fn keys<I: Isa, const N: usize>(
        isa: I,
        keys: Part<i8>,
        scales: [I::F32; N],
        feature: usize,
        first: usize,
    ) -> [I::F32; N] {
        let row = &keys.codes[feature * PAGE + first..][..N * I::LANES];
        vectors(
            isa,
            #[inline(always)]
            |n| isa.mul(isa.to_f32(isa.load_i8(&row[n * I::LANES..])), scales[n]),
        )
    }

    #[inline(always)]
    fn values<I: Isa, const N: usize>(isa: I, values: Part<i8>, token: usize, feature: usize) -> [I::F32; N] {
        let row = &values.codes[token * values.stride + feature..][..N * I::LANES];
        let scales = &values.scales[token * values.stride / Q8_0_CODES + feature / BLOCK..];
        let mut scale = isa.zero();
        vectors(
            isa,
            #[inline(always)]
            |n| {
                // Either all vectors lie in one block, or the first begins one.
                if (n * I::LANES).is_multiple_of(BLOCK) {
                    scale = isa.splat_f16(scales[n * I::LANES / BLOCK]);
                }
                isa.mul(isa.to_f32(isa.load_i8(&row[n * I::LANES..])), scale)
            },
        )
    }

    #[inline(always)]
    fn last_values<I: Isa>(isa: I, values: Part<i8>, token: usize, feature: usize, _count: usize) -> I::F32 {
        // Blocks are whole, so a vector lies in its row.
        Self::values::<I, 1>(isa, values, token, feature)[0]
    }
}

/// `Q4_0`.
#[derive(Clone, Copy)]
pub(super) struct Nibbles;

impl PageFormat for Nibbles {
    /// Two codes, of features 16 apart.
    type Code = i8;
    /// A scale for each key, and whether the codes are in the upper halves of their bytes.
    type Scales<I: Isa, const N: usize> = ([I::F32; N], bool);
    const SHARED: usize = BLOCK / 2;
    const BITS: usize = 4;

    fn split(page: &[f32], head_dim: usize) -> [Part<'_, i8>; 2] {
        split_blocks(page, head_dim, Q4_0_CODES)
    }

    #[inline(always)]
    fn key_scales<I: Isa, const N: usize>(isa: I, keys: Part<i8>, feature: usize, first: usize) -> ([I::F32; N], bool) {
        (scales_of_keys(isa, keys, feature, first), feature % BLOCK >= BLOCK / 2)
    }

    #[inline(always)]
    fn keys<I: Isa, const N: usize>(
        isa: I,
        keys: Part<i8>,
        (scales, is_upper): ([I::F32; N], bool),
        feature: usize,
        first: usize,
    ) -> [I::F32; N] {
        let row = feature / BLOCK * Q4_0_CODES + feature % Q4_0_CODES;
        let row = &keys.codes[row * PAGE + first..][..N * I::LANES];
        vectors(
            isa,
            #[inline(always)]
            |n| isa.mul(code(isa, &row[n * I::LANES..], is_upper), scales[n]),
        )
    }

    #[inline(always)]
    fn values<I: Isa, const N: usize>(isa: I, values: Part<i8>, token: usize, feature: usize) -> [I::F32; N] {
        let row = &values.codes[token * values.stride + feature / BLOCK * Q4_0_CODES..];
        let scales = &values.scales[token * values.stride / Q4_0_CODES + feature / BLOCK..];
        // Either all vectors lie in one block, or the first begins one.
        let start = if const { N * I::LANES >= BLOCK } { 0 } else { feature % BLOCK };
        let mut scale = isa.zero();
        vectors(
            isa,
            #[inline(always)]
            |n| {
                if (n * I::LANES).is_multiple_of(BLOCK) {
                    scale = isa.splat_f16(scales[n * I::LANES / BLOCK]);
                }
                let feature = start + n * I::LANES;
                let bytes = &row[feature / BLOCK * Q4_0_CODES + feature % Q4_0_CODES..];
                isa.mul(code(isa, bytes, feature % BLOCK >= BLOCK / 2), scale)
            },
        )
    }

    #[inline(always)]
    fn last_values<I: Isa>(isa: I, values: Part<i8>, token: usize, feature: usize, _count: usize) -> I::F32 {
        // Blocks are whole, so a vector lies in its row.
        Self::values::<I, 1>(isa, values, token, feature)[0]
    }
}

/// What a vector of codes of `Q4_0` stands for, over the scale.
#[inline(always)]
fn code<I: Isa>(isa: I, bytes: &[i8], is_upper: bool) -> I::F32 {
    let bytes = isa.load_i8(bytes);
    let codes = if is_upper { isa.shr_i32::<4>(bytes) } else { bytes };
    isa.to_f32(isa.add_i32(isa.and_i32(codes, isa.splat_i32(15)), isa.splat_i32(-8)))
}

/// The scales of `N` vectors of keys from key `first` on, for the block of `feature`.
#[inline(always)]
fn scales_of_keys<I: Isa, const N: usize>(isa: I, keys: Part<i8>, feature: usize, first: usize) -> [I::F32; N] {
    let row = &keys.scales[feature / BLOCK * PAGE + first..][..N * I::LANES];
    vectors(
        isa,
        #[inline(always)]
        |n| isa.load_f16(&row[n * I::LANES..]),
    )
}

fn split_numbers<C>(page: &[C], head_dim: usize) -> [Part<'_, C>; 2] {
    let (keys, values) = page.split_at(page.len() / 2);
    let part = |codes, stride| Part { codes, stride, scales: &[] };
    [part(keys, PAGE), part(values, head_dim)]
}

/// The keys and values of a page with `codes` bytes of codes for each block.
fn split_blocks(page: &[f32], head_dim: usize, codes: usize) -> [Part<'_, i8>; 2] {
    let blocks = head_dim.div_ceil(BLOCK);
    let (keys, values) = page.split_at(page.len() / 2);
    [(keys, PAGE), (values, blocks * codes)].map(|(words, stride)| {
        let (scales, codes) = words.split_at(blocks * PAGE / 2);
        Part { codes: bytemuck::cast_slice(codes), stride, scales: halves(scales) }
    })
}

fn halves(words: &[f32]) -> &[f16] {
    bytemuck::cast_slice::<f32, u16>(words).reinterpret_cast()
}
