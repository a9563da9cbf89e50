//! Dropout with a mask that is never stored: it is computed from the element's index.
//!
//! The random numbers are Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011): a function from a counter and a key to four words, without state. Element `i` of a matrix gets the same
//! word in every window and on every worker, so for the backward pass [`dropout`] is applied to the gradient with the
//! same key.
//!
//! Words are assigned in groups, so that lanes need not be permuted: the 64 elements of group `g` take the words of the
//! 16 counters `16g … 16g + 15`, first all first words, then all second words, and so on.

use smallmind_simd::Isa;

use crate::compiled::compiled;
use crate::{Mat, MatMut};

/// Elements that share 16 counters.
const GROUP: usize = 64;
/// Counters of a group: a multiple of the lanes of every instruction set.
const COUNTERS: usize = 16;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Words are compared with the probability in 24 bits, which `f32` represents exactly.
const WORD_RANGE: f32 = (1 << 24) as f32;

/// The key of a mask: with the element's index it determines the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropoutKey {
    /// The seed of the run.
    pub seed: u64,
    /// The training step: each has masks of its own.
    pub step: u32,
    /// The number of the dropout in the model.
    pub salt: u32,
}

/// The arguments of [`dropout`]: a window of a matrix that is `width` columns wide.
pub struct Dropout<'a> {
    /// The key of the mask.
    pub key: DropoutKey,
    /// The probability with which an element becomes 0, from 0 to 1.
    pub p: f32,
    /// Columns of the whole matrix, whose element `(row, col)` has the index `row·width + col`.
    pub width: usize,
    /// The row of the whole matrix where the window begins.
    pub first_row: usize,
    /// The column of the whole matrix where the window begins.
    pub first_col: usize,
    /// The window `[rows, cols]` of the input, or of the gradient.
    pub x: Mat<'a>,
    /// The same window of the result.
    pub out: MatMut<'a>,
}

/// `out = x·mask`, where the mask is 0 with probability `p`, else `1/(1 - p)`.
///
/// It is its own backward: `dx = dropout(dy)` with the same key.
///
/// # Panics
/// If the shapes differ or `p` is not a probability.
pub fn dropout<I: Isa>(isa: I, args: Dropout) {
    fn body<I: Isa>(isa: I, args: Dropout) {
        let Dropout { key, p, width, first_row, first_col, x, mut out } = args;
        assert_eq!((x.rows(), x.cols()), (out.rows(), out.cols()), "shapes of x and out");
        let mask = Mask::new(key, p);
        isa.vectorize(
            #[inline(always)]
            || {
                for r in 0..x.rows() {
                    let first = (first_row + r) as u64 * width as u64 + first_col as u64;
                    multiply_row(isa, mask, first, x.row(r), out.row_mut(r));
                }
            },
        );
    }
    compiled!(isa: I, body(args: Dropout));
}

/// Writes the mask of the elements `first..first + out.len()` to `out`: 0 or `1/(1 - p)`.
///
/// For kernels that multiply by the mask themselves, such as attention: it must be called within [`Isa::vectorize`].
///
/// # Panics
/// If `p` is not a probability.
#[inline(always)]
pub fn scaled_mask_row<I: Isa>(isa: I, key: DropoutKey, p: f32, first: u64, out: &mut [f32]) {
    let mask = Mask::new(key, p);
    let mut buffer = [0.0; GROUP];
    for_each_group(
        first,
        out.len(),
        #[inline(always)]
        |group, range, part| {
            mask.group(isa, group, &mut buffer);
            out[range].copy_from_slice(&buffer[part]);
        },
    );
}

/// The mask of element `index`: 0 with probability `p`, else `1/(1 - p)`.
///
/// It computes four words and uses one: for more than a few elements use [`scaled_mask_row`].
///
/// # Panics
/// If `p` is not a probability.
pub fn scaled_mask(key: DropoutKey, p: f32, index: u64) -> f32 {
    let mask = Mask::new(key, p);
    let within = index as usize % GROUP;
    let counter = index / GROUP as u64 * COUNTERS as u64 + (within % COUNTERS) as u64;
    let words = philox4x32([counter as u32, (counter >> 32) as u32, key.step, key.salt], split(key.seed));
    let word = words[within / COUNTERS];
    if ((word >> 8) as f32) < mask.threshold { 0.0 } else { mask.scale }
}

/// Philox4x32-10: four random words for a counter and a key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let wide = |m: u32, c: u32| u64::from(m) * u64::from(c);
        let (a, b) = (wide(MULTIPLIERS[0], counter[0]), wide(MULTIPLIERS[1], counter[2]));
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// The lower and the upper half.
fn split(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// A key and a probability, converted for the comparison with words.
#[derive(Clone, Copy)]
struct Mask {
    key: DropoutKey,
    /// An element is dropped if its word, as 24 bits, is below this.
    threshold: f32,
    /// Factor of an element that is kept.
    scale: f32,
}

impl Mask {
    #[inline(always)]
    fn new(key: DropoutKey, p: f32) -> Self {
        assert!((0.0..=1.0).contains(&p), "dropout with probability {p}");
        let threshold = (p * WORD_RANGE).round();
        Self { key, threshold, scale: if p < 1.0 { 1.0 / (1.0 - p) } else { 0.0 } }
    }

    /// The mask of the elements of `group`.
    #[inline(always)]
    fn group<I: Isa>(self, isa: I, group: u64, out: &mut [f32; GROUP]) {
        const { assert!(COUNTERS.is_multiple_of(I::LANES)) };
        if self.threshold == 0.0 {
            *out = [self.scale; GROUP];
            return;
        }
        const IOTA: [f32; COUNTERS] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
        let first = split(group * COUNTERS as u64);
        let (threshold, scale) = (isa.splat(self.threshold), isa.splat(self.scale));
        for at in (0..COUNTERS).step_by(I::LANES) {
            // The low word of a group's first counter is a multiple of 16, so adding the lane never carries.
            let lanes = isa.add_i32(isa.splat_i32(first[0] as i32), isa.to_i32(isa.load(&IOTA[at..])));
            let rest = [first[1], self.key.step, self.key.salt].map(|word| isa.splat_i32(word as i32));
            let words = philox4x32_lanes(isa, [lanes, rest[0], rest[1], rest[2]], split(self.key.seed));
            for (i, word) in words.into_iter().enumerate() {
                let keep = isa.le(threshold, isa.to_f32(isa.shr_i32::<8>(word)));
                isa.store(isa.select(keep, scale, isa.zero()), &mut out[i * COUNTERS + at..]);
            }
        }
    }
}

/// [`philox4x32`] of one counter in each lane.
#[inline(always)]
fn philox4x32_lanes<I: Isa>(isa: I, mut counter: [I::I32; 4], mut key: [u32; 2]) -> [I::I32; 4] {
    let m = [isa.splat_i32(MULTIPLIERS[0] as i32), isa.splat_i32(MULTIPLIERS[1] as i32)];
    for _ in 0..ROUNDS {
        let (a_low, a_high) = isa.widening_mul_u32(m[0], counter[0]);
        let (b_low, b_high) = isa.widening_mul_u32(m[1], counter[2]);
        let (k0, k1) = (isa.splat_i32(key[0] as i32), isa.splat_i32(key[1] as i32));
        counter = [
            isa.xor_i32(isa.xor_i32(b_high, counter[1]), k0),
            b_low,
            isa.xor_i32(isa.xor_i32(a_high, counter[3]), k1),
            a_low,
        ];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// Calls `f(group, range, part)` for each group that holds some of the elements `first..first + len`: `range` of the
/// elements, counted from `first`, is `part` of the group.
#[inline(always)]
fn for_each_group(first: u64, len: usize, mut f: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let index = first + done as u64;
        let from = (index % GROUP as u64) as usize;
        let n = (GROUP - from).min(len - done);
        f(index / GROUP as u64, done..done + n, from..from + n);
        done += n;
    }
}

/// `out = x·mask` for the elements from index `first` on.
#[inline(always)]
fn multiply_row<I: Isa>(isa: I, mask: Mask, first: u64, x: &[f32], out: &mut [f32]) {
    let mut buffer = [0.0; GROUP];
    for_each_group(
        first,
        x.len(),
        #[inline(always)]
        |group, range, part| {
            mask.group(isa, group, &mut buffer);
            let (x, out, factors) = (&x[range.clone()], &mut out[range], &buffer[part]);
            for ((x, out), factor) in x.chunks(I::LANES).zip(out.chunks_mut(I::LANES)).zip(factors.chunks(I::LANES)) {
                isa.store_partial(isa.mul(isa.load_partial(x), isa.load_partial(factor)), out);
            }
        },
    );
}
