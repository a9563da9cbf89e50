//! What the searches for scales share: blocks brought to unit size, weights, values that codes stand for, and the fit
//! of one scale.
//!
//! A search minimises the weighted squared error `Σ wᵢ (xᵢ − s·q(xᵢ/s))²` over the scale `s`, `q` being the nearest
//! value that a code stands for. The error jumps where an element changes its code and is a parabola between, so:
//!
//! ```text
//! for trial scales around the one that brings the most extreme element to the end of the codes:
//!     q ← nearest(x / trial)
//!     s ← Σ w x q / Σ w q²              the best scale for these codes (least squares);
//!                                       its error is Σ w x² − (Σ w x q)² / Σ w q²
//! from the best of them: q ← nearest(x / s), s ← as above, while the error falls
//! ```
//!
//! This is the search of GGML's k-quants with more trials, in both directions, and with the last step.

use std::ops::{Add, Mul, Sub};

use half::f16;

use super::bits::widen;

/// Lanes in which sums are kept, so that the compiler can use vectors; every sub-block is a multiple.
const LANES: usize = 8;

/// A block over a power of two, so that its most extreme element is between 1 and 2. Squares and products of sums then
/// neither overflow nor vanish, whatever the magnitude of the block.
pub struct Scaled<const E: usize> {
    /// The elements over `unit`.
    pub x: [f32; E],
    unit: f32,
}

impl<const E: usize> Scaled<E> {
    /// Scales a block. Zeros stay zeros.
    pub fn new(x: &[f32; E]) -> Self {
        let most = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let unit = f32::from_bits(most.to_bits() & 0x7f80_0000).max(f32::MIN_POSITIVE);
        Self { x: x.map(|x| x / unit), unit }
    }

    /// A root of a mean square of the unscaled row, scaled as the block is.
    pub fn rms(&self, rms: f32) -> f32 {
        // A row far greater than this block: all elements of the block then count alike.
        (rms / self.unit).min(1e6)
    }

    /// The `f16` nearest to a scale of the scaled block, once scaled back, and what it is for the scaled block. Only 0
    /// becomes 0, and nothing becomes infinite.
    pub fn round(&self, scale: f32) -> (f16, f32) {
        let most = f16::MAX.to_f32();
        let mut stored = f16::from_f32((scale * self.unit).clamp(-most, most));
        if stored == f16::ZERO && scale != 0.0 {
            stored = f16::from_f32(f16::MIN_POSITIVE_SUBNORMAL.to_f32().copysign(scale));
        }
        (stored, widen(stored) / self.unit)
    }

    /// The `f16` that is `offset` places away from a scale, farther from zero or nearer, and what it is for the scaled
    /// block; `None` if it is zero, infinite or past them.
    pub fn neighbour(&self, stored: f16, offset: i32) -> Option<(f16, f32)> {
        let (sign, magnitude) = (stored.to_bits() & 0x8000, i32::from(stored.to_bits() & 0x7fff) + offset);
        if stored == f16::ZERO || magnitude <= 0 || magnitude > i32::from(f16::MAX.to_bits()) {
            return None;
        }
        let stored = f16::from_bits(sign | magnitude as u16);
        Some((stored, widen(stored) / self.unit))
    }
}

/// How far from the rounded scale other scales in `f16` are tried at last, in places. The nearest one is not always the
/// best, since codes and multiples are rounded too.
pub const NEIGHBOURS: [i32; 4] = [-2, -1, 1, 2];

/// The reciprocal of a scale, 0 where there is none.
#[inline]
pub fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The first element of the greatest magnitude; 0 if there is none.
pub fn most_extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most: f32, x| if x.abs() > most.abs() { *x } else { most })
}

/// GGML's weights of squared errors under an importance matrix: `importance · √(σ² + x²)`.
///
/// Elements without importance keep a millionth of the block's mean: they must not become arbitrary.
pub fn weights<const E: usize>(importance: &[f32; E], sigma: f32, x: &[f32; E]) -> [f32; E] {
    let floored = floored(importance);
    std::array::from_fn(|i| floored[i] * (sigma * sigma + x[i] * x[i]).sqrt())
}

/// The importance of a block's elements, each at least a millionth of the mean; all 1 if the mean is 0.
pub fn floored<const E: usize>(importance: &[f32; E]) -> [f32; E] {
    let mean = importance.iter().sum::<f32>() / E as f32;
    if mean > 0.0 && mean.is_finite() { importance.map(|w| w.max(1e-6 * mean) / mean) } else { [1.0; E] }
}

/// Root of the mean square.
pub fn rms(x: &[f32]) -> f32 {
    (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt()
}

/// Numbers that are computed side by side. Plain arrays: the compiler makes vectors of them, with the same results on
/// every CPU.
#[derive(Clone, Copy)]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    pub const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    pub fn all(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    /// The nearest integers from `low` to `high`, ties to even.
    #[inline(always)]
    pub fn round(self, low: f32, high: f32) -> Self {
        /// 1.5 · 2²³: adding it rounds small numbers to integers, with one instruction on any CPU.
        const ROUND: f32 = 12_582_912.0;
        // Comparisons rather than `max` and `min`: these treat NaN in a way that costs instructions.
        let above = self.with(Self::all(low), |x, low| if x > low { x } else { low });
        let within = above.with(Self::all(high), |x, high| if x < high { x } else { high });
        within + Self::all(ROUND) - Self::all(ROUND)
    }
}

impl Add for Lanes {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }
}

impl Sub for Lanes {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }
}

impl Mul for Lanes {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.with(other, |a, b| a * b)
    }
}

/// The values that codes stand for, before the scale.
pub trait Values: Copy {
    /// The lowest and the highest value; the lowest is negative.
    fn ends(self) -> [f32; 2];

    /// The values nearest to `y`.
    fn nearest(self, y: Lanes) -> Lanes;

    /// How far trial scales go from those that bring the most extreme element to an end, as a share.
    fn reach(self) -> f32;
}

/// The integers from `low` to `high`, fewer than 256; the code of `low` is 0.
#[derive(Clone, Copy)]
pub struct Integers {
    /// The least one.
    pub low: f32,
    /// The greatest one.
    pub high: f32,
}

impl Integers {
    /// The nearest integer to `y`.
    #[inline(always)]
    pub fn round(self, y: f32) -> f32 {
        y.clamp(self.low, self.high).round_ties_even()
    }

    /// The code of the integer nearest to `y`.
    #[inline(always)]
    pub fn code(self, y: f32) -> u8 {
        (self.round(y) - self.low) as u8
    }
}

impl Values for Integers {
    #[inline(always)]
    fn ends(self) -> [f32; 2] {
        [self.low, self.high]
    }

    #[inline(always)]
    fn nearest(self, y: Lanes) -> Lanes {
        y.round(self.low, self.high)
    }

    #[inline(always)]
    fn reach(self) -> f32 {
        // One step of the greatest magnitude.
        1.0 / self.low.abs().max(self.high)
    }
}

/// A table of 16 values, ascending.
#[derive(Clone, Copy)]
pub struct Table(pub &'static [i8; 16]);

impl Table {
    /// The code of the value nearest to `y`.
    #[inline(always)]
    pub fn code(self, y: f32) -> u8 {
        self.0.windows(2).map(|pair| u8::from(y >= (f32::from(pair[0]) + f32::from(pair[1])) / 2.0)).sum()
    }
}

impl Values for Table {
    #[inline(always)]
    fn ends(self) -> [f32; 2] {
        [f32::from(self.0[0]), f32::from(self.0[15])]
    }

    #[inline(always)]
    fn nearest(self, y: Lanes) -> Lanes {
        // A step up at every middle between two values that y reaches: no branch, no look-up.
        let mut value = Lanes::all(f32::from(self.0[0]));
        for k in 1..16 {
            let (low, high) = (f32::from(self.0[k - 1]), f32::from(self.0[k]));
            value =
                value + y.with(Lanes::all((low + high) / 2.0), |y, middle| if y >= middle { high - low } else { 0.0 });
        }
        value
    }

    #[inline(always)]
    fn reach(self) -> f32 {
        0.12
    }
}

/// `K` sums over `N` elements and their weights, in lanes and in a fixed order.
#[inline(always)]
pub fn sums<const N: usize, const K: usize>(
    x: &[f32; N],
    w: &[f32; N],
    terms: impl Fn(Lanes, Lanes) -> [Lanes; K],
) -> [f32; K] {
    const { assert!(N.is_multiple_of(LANES), "sub-blocks are whole lanes") };
    let mut sums = [Lanes::ZERO; K];
    for (x, w) in x.as_chunks::<LANES>().0.iter().zip(w.as_chunks::<LANES>().0) {
        let terms = terms(Lanes(*x), Lanes(*w));
        for k in 0..K {
            sums[k] = sums[k] + terms[k];
        }
    }
    sums.map(|Lanes([a, b, c, d, e, f, g, h])| ((a + e) + (c + g)) + ((b + f) + (d + h)))
}

/// `Σ w x q` and `Σ w q²` for `q` nearest to `x · inverse`.
#[inline(always)]
pub fn moments<const N: usize>(x: &[f32; N], w: &[f32; N], values: impl Values, inverse: f32) -> [f32; 2] {
    sums(
        x,
        w,
        #[inline(always)]
        |x, w| {
            let q = values.nearest(x * Lanes::all(inverse));
            let wq = w * q;
            [wq * x, wq * q]
        },
    )
}

/// The weighted squared error of a scale.
#[inline(always)]
pub fn squared_error<const N: usize>(x: &[f32; N], w: &[f32; N], values: impl Values, scale: f32) -> f32 {
    let (inverse, scale) = (Lanes::all(inverse(scale)), Lanes::all(scale));
    let [error] = sums(
        x,
        w,
        #[inline(always)]
        |x, w| {
            let e = x - scale * values.nearest(x * inverse);
            [w * e * e]
        },
    );
    error
}

/// Most refinements of a fit.
const REFINEMENTS: usize = 8;

/// The reciprocals of trial scales, for a block with this most extreme element.
#[inline(always)]
fn trial_inverses(most: f32, values: impl Values) -> impl Iterator<Item = f32> {
    /// Trials on each side of an end.
    const TRIALS: i32 = 10;
    let of_end = move |end: f32| {
        let share = move |trial: i32| 1.0 + values.reach() * trial as f32 / TRIALS as f32;
        std::iter::once(0).chain((1..=TRIALS).flat_map(|trial| [trial, -trial])).map(move |t| end * share(t) / most)
    };
    values.ends().into_iter().flat_map(of_end)
}

/// By how much a trial has to be better: more than rounding makes of equal ones. Sub-blocks of equal elements then get
/// equal scales.
const MARGIN: f32 = 1.0 + 3e-7;

/// The scale with about the least weighted squared error, of either sign; 0 for zeros.
pub fn fit<const N: usize>(x: &[f32; N], w: &[f32; N], values: impl Values) -> f32 {
    let most = most_extreme(x);
    if most == 0.0 {
        return 0.0;
    }
    // (Σ w x q)² / Σ w q², by which the error falls, and the scale.
    let mut best = (0.0, 0.0);
    let improve = |inverse: f32, best: &mut (f32, f32)| {
        let [xq, qq] = moments(x, w, values, inverse);
        let better = qq > 0.0 && xq * xq > best.0 * qq * MARGIN;
        if better {
            *best = (xq * xq / qq, xq / qq);
        }
        better
    };
    for inverse in trial_inverses(most, values) {
        improve(inverse, &mut best);
    }
    for _ in 0..REFINEMENTS {
        if !improve(inverse(best.1), &mut best) {
            break;
        }
    }
    best.1
}

/// [`fit`] for a scale in `f16`: each trial is judged by its error once rounded, and so are 0 and the neighbours of the
/// best.
pub fn fit_rounded<const N: usize>(block: &Scaled<N>, w: &[f32; N], values: impl Values) -> (f16, f32) {
    let x = &block.x;
    let mut best = ((f16::ZERO, 0.0), squared_error(x, w, values, 0.0));
    let try_scale = |scale: (f16, f32), best: &mut ((f16, f32), f32)| {
        let error = squared_error(x, w, values, scale.1);
        let better = error < best.1;
        if better {
            *best = (scale, error);
        }
        better
    };
    let most = most_extreme(x);
    if most == 0.0 {
        return best.0;
    }
    let solve = |inverse: f32| {
        let [xq, qq] = moments(x, w, values, inverse);
        if qq > 0.0 { block.round(xq / qq) } else { (f16::ZERO, 0.0) }
    };
    for inverse in trial_inverses(most, values) {
        try_scale(solve(inverse), &mut best);
    }
    for _ in 0..REFINEMENTS {
        if !try_scale(solve(inverse(best.0.1)), &mut best) {
            break;
        }
    }
    let middle = best.0.0;
    for scale in NEIGHBOURS.into_iter().filter_map(|offset| block.neighbour(middle, offset)) {
        try_scale(scale, &mut best);
    }
    best.0
}
