//! Elementary functions over the vector language.
//!
//! The bounds are in units in the last place of the exact result. They hold on every instruction set over the whole
//! range of `f32`, and the tests assert them. A NaN gives a NaN; results too small for a normal number are rounded to
//! subnormal numbers, not flushed to zero. The polynomials are minimax fits made for this project; their coefficients
//! were rounded one after the other, the lowest first.
//!
//! All functions use one reduction: `e^x = 2^n · e^r` with a whole `n` and `|r| ≤ ln 2 / 2`.

use std::f32::consts::{LN_2, LOG2_E};

use crate::Isa;

/// The leading 9 bits of ln 2, so that its product with a whole number below 2^15 is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
/// ln 2 − [`LN_2_HIGH`].
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `q` of `e^r = 1 + r + r²·q(r)`; the relative error of `e^r - 1` is below 1.5e-8 for `|r| ≤ ln 2 / 2`.
const EXPM1: [f32; 5] = [0.5, 0.166_665_48, 0.041_666_854, 0.008_366_148, 0.001_389_838];

/// `q` of `2^r = 1 + r·q(r)`; the relative error of `2^r` is below 2e-9 for `|r| ≤ 1/2`.
const EXP2: [f32; 6] = [LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_436, 0.001_339_885_2, 1.535_36e-4];

/// `2/√π`, the constant term to which [`ERF_EXPONENT`] is added.
const TWO_OVER_SQRT_PI: f32 = std::f32::consts::FRAC_2_SQRT_PI;
/// `p` of `erf(t) = 1 - exp(-t·(2/√π + p(t)))`; relative error in erf below 5e-9 for `0 ≤ t ≤ 4`.
const ERF_EXPONENT: [f32; 9] = [
    -5.863_538_3e-8,
    0.636_619_5,
    0.102_776_88,
    -0.019_149_985,
    -1.654_674_9e-4,
    0.001_671_599_5,
    -6.351_057_7e-4,
    1.182_192_8e-4,
    -9.314_952e-6,
];

/// `c[0] + c[1]·x + c[2]·x² + …` by Horner's rule.
#[inline(always)]
fn polynomial<I: Isa, const N: usize>(isa: I, x: I::F32, c: &[f32; N]) -> I::F32 {
    let mut sum = isa.splat(c[N - 1]);
    for &c in c[..N - 1].iter().rev() {
        sum = isa.mul_add(sum, x, isa.splat(c));
    }
    sum
}

/// The whole number `n` and `p = e^r - 1` with `e^x = 2^n · (1 + p)`, for `|x| ≤ 104`.
#[inline(always)]
fn reduce<I: Isa>(isa: I, x: I::F32) -> (I::F32, I::F32) {
    let n = isa.round(isa.mul(x, isa.splat(LOG2_E)));
    let r = isa.neg_mul_add(n, isa.splat(LN_2_HIGH), x);
    let r = isa.neg_mul_add(n, isa.splat(LN_2_LOW), r);
    let q = polynomial(isa, r, &EXPM1);
    (n, isa.mul_add(isa.mul(r, r), q, r))
}

/// `1 - e^(-y)` for `0 ≤ y ≤ 80`, with a relative error of about one unit in the last place, even for small `y`.
#[inline(always)]
fn one_minus_exp_neg<I: Isa>(isa: I, y: I::F32) -> I::F32 {
    let (n, p) = reduce(isa, isa.neg(y));
    let one = isa.splat(1.0);
    // 2^n is normal here: build it from its exponent field. A NaN in `n` makes it arbitrary, but then `p` is NaN too.
    let scale = isa.from_bits(isa.shl_i32::<23>(isa.add_i32(isa.to_i32(n), isa.splat_i32(127))));
    isa.neg_mul_add(scale, p, isa.sub(one, scale))
}

/// The magnitude of `x`, at most `limit`; NaN stays NaN.
#[inline(always)]
fn clamped_abs<I: Isa>(isa: I, x: I::F32, limit: f32) -> I::F32 {
    isa.min(isa.splat(limit), isa.abs(x))
}

/// `magnitude`, which is not negative, with the sign of `x`.
#[inline(always)]
fn with_sign_of<I: Isa>(isa: I, magnitude: I::F32, x: I::F32) -> I::F32 {
    let sign = isa.and_i32(isa.bits(x), isa.splat_i32(i32::MIN));
    isa.from_bits(isa.or_i32(isa.bits(magnitude), sign))
}

/// The exponential, within 1.25 ULP.
///
/// From 88.7228… up it is `+inf`; below −103.97… it is 0.
///
/// ```
/// use smallmind_simd::{Isa, Scalar, math};
///
/// let isa = Scalar::new();
/// let e = math::exp(isa, isa.splat(1.0));
/// assert!((isa.sum(e) / Scalar::LANES as f32 - std::f32::consts::E).abs() < 1e-6);
/// ```
#[inline(always)]
pub fn exp<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    // Beyond these limits the result is constant. With this order of arguments a NaN stays a NaN.
    let x = isa.max(isa.splat(-104.0), isa.min(isa.splat(89.0), x));
    let (n, p) = reduce(isa, x);
    isa.mul_pow2(isa.add(isa.splat(1.0), p), n)
}

/// `2^x`, within 1.25 ULP.
///
/// From 128 up it is `+inf`; below −150 it is 0. Cheaper than [`exp`]: a softmax uses it, with log₂e in the factor of
/// its scores. Rounding `x` costs a relative error of `|x| · 2^-24`, which is largest where the result is smallest.
#[inline(always)]
pub fn exp2<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    // As in `exp`.
    let x = isa.max(isa.splat(-151.0), isa.min(isa.splat(129.0), x));
    let n = isa.round(x);
    let r = isa.sub(x, n);
    isa.mul_pow2(isa.mul_add(r, polynomial(isa, r, &EXP2), isa.splat(1.0)), n)
}

/// The hyperbolic tangent, within 3 ULP; odd to the bit, exact for subnormal arguments.
#[inline(always)]
pub fn tanh<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    // With u = 1 - e^(-2|x|): tanh |x| = u / (2 - u). From 9.02 up it rounds to 1.
    let a = clamped_abs(isa, x, 10.0);
    let u = one_minus_exp_neg(isa, isa.add(a, a));
    with_sign_of(isa, isa.div(u, isa.sub(isa.splat(2.0), u)), x)
}

/// The error function `2/√π ∫₀ˣ e^(-t²) dt`, within 3 ULP; odd to the bit.
#[inline(always)]
pub fn erf<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    // -ln(1 - erf t) / t is smooth enough for one polynomial, and 1 - e^(-y) keeps small values accurate. From 3.92 up
    // the result rounds to 1.
    let t = clamped_abs(isa, x, 4.0);
    let p = polynomial(isa, t, &ERF_EXPONENT);
    let exponent = isa.mul_add(t, isa.splat(TWO_OVER_SQRT_PI), isa.mul(t, p));
    with_sign_of(isa, one_minus_exp_neg(isa, exponent), x)
}

/// `1/√x`, within 2 ULP: `inf` at 0, `-inf` at −0, 0 at `inf`, NaN below 0.
#[inline(always)]
pub fn rsqrt<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    isa.div(isa.splat(1.0), isa.sqrt(x))
}

/// The logistic function `1 / (1 + e^(-x))`, within 3 ULP.
#[inline(always)]
pub fn sigmoid<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    // The exponential of a negative number can't overflow; e / (1 + e) keeps the small results accurate.
    let one = isa.splat(1.0);
    let e = exp(isa, isa.neg(isa.abs(x)));
    let numerator = isa.select(isa.lt(x, isa.zero()), e, one);
    isa.div(numerator, isa.add(one, e))
}
