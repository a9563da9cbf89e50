//! The softmax of a block of queries and its gradient, on transposed scores: a row for each key, a column for each
//! query.
//!
//! A vector holds one key's scores for as many queries as there are lanes, so that maxima and sums over keys need no
//! sum across lanes. Each query of a block sees one key more than the query before it. So the last keys of a block are
//! hidden from its first queries, whose lanes get weight 0.
//!
//! Exponentials are powers of two: `exp(scale · s − max)` is `2^(c · s − m)` with `c = scale · log₂e` and `m` the
//! greatest `c · s`.

use std::f32::consts::{LN_2, LOG2_E};

use smallmind_simd::{Isa, math};

use super::{HeadDropout, QUERY_BLOCK};

/// Keys whose maxima and sums are independent: enough to hide the latency of an addition.
const CHAINS: usize = 4;

/// The shape of a block of transposed scores `[limit, stride]`. Only its first `queries` columns are used, those of the
/// last positions before `limit`.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    /// How many keys.
    pub limit: usize,
    /// How many queries.
    pub queries: usize,
    /// Elements from row to row: a multiple of a vector.
    pub stride: usize,
    /// Factor of the scores.
    pub scale: f32,
}

impl Columns {
    /// Keys that every query sees.
    #[inline(always)]
    fn common(&self) -> usize {
        self.limit + 1 - self.queries
    }

    /// Keys that some query of the vector at column `at` sees.
    #[inline(always)]
    fn seen<I: Isa>(&self, at: usize) -> usize {
        (self.limit - self.queries + at + I::LANES).min(self.limit)
    }

    /// Factor that turns scores into exponents of 2.
    #[inline(always)]
    fn factor<I: Isa>(&self, isa: I) -> I::F32 {
        isa.splat(self.scale * LOG2_E)
    }

    /// `v` in the lanes at column `at` whose queries see `key`, `other` in the rest.
    #[inline(always)]
    fn visible<I: Isa>(&self, isa: I, key: usize, at: usize, v: I::F32, other: I::F32) -> I::F32 {
        const INDICES: [f32; 16] =
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
        // The query at the key's own position is the first that sees it.
        let first = (key + self.queries) as f32 - (self.limit + at) as f32;
        isa.select(isa.le(isa.splat(first), isa.load(&INDICES)), v, other)
    }
}

/// The maxima that [`exp_columns`] subtracted and the sums that it left undivided; entries beyond `queries` are
/// arbitrary.
pub(super) struct Totals {
    /// `max(scale · s) · log₂e`.
    max: [f32; QUERY_BLOCK],
    /// `Σ exp(scale · s − max)`.
    pub sum: [f32; QUERY_BLOCK],
}

impl Totals {
    /// `log Σ exp(scale · s)` of a query.
    pub fn log_sum_exp(&self, query: usize) -> f32 {
        (self.max[query] + self.sum[query].log2()) * LN_2
    }
}

/// Overwrites scores with `exp(scale · s − max)`, not yet divided by the sum, and those that a query doesn't see with
/// 0.
///
/// The maximum ignores NaNs; they get into the sum through the exponential.
#[inline(always)]
pub(super) fn exp_columns<I: Isa>(isa: I, columns: Columns, scores: &mut [f32]) -> Totals {
    let mut totals = Totals { max: [0.0; QUERY_BLOCK], sum: [0.0; QUERY_BLOCK] };
    for at in (0..columns.queries).step_by(I::LANES) {
        let max = scaled_max(isa, columns, scores, at);
        let sum = exp_vector(isa, columns, scores, at, max);
        isa.store(max, &mut totals.max[at..]);
        isa.store(sum, &mut totals.sum[at..]);
    }
    totals
}

/// The greatest exponent over the keys that each query of a vector sees.
#[inline(always)]
fn scaled_max<I: Isa>(isa: I, columns: Columns, scores: &[f32], at: usize) -> I::F32 {
    let Columns { stride, .. } = columns;
    let factor = columns.factor(isa);
    let lowest = isa.splat(f32::NEG_INFINITY);
    let (common, rest) = scores.split_at(columns.common() * stride);
    let mut max = [lowest; CHAINS];
    let mut quads = common.chunks_exact(CHAINS * stride);
    for quad in &mut quads {
        for (i, max) in max.iter_mut().enumerate() {
            *max = isa.max(isa.mul(isa.load(&quad[i * stride + at..]), factor), *max);
        }
    }
    for row in quads.remainder().chunks_exact(stride) {
        max[0] = isa.max(isa.mul(isa.load(&row[at..]), factor), max[0]);
    }
    for (key, row) in (columns.common()..columns.seen::<I>(at)).zip(rest.chunks_exact(stride)) {
        let s = isa.mul(isa.load(&row[at..]), factor);
        max[1] = isa.max(columns.visible(isa, key, at, s, lowest), max[1]);
    }
    isa.max(isa.max(max[0], max[1]), isa.max(max[2], max[3]))
}

/// `2^(s · factor + shift)`.
struct Exponential<I: Isa> {
    factor: I::F32,
    shift: I::F32,
}

impl<I: Isa> Exponential<I> {
    #[inline(always)]
    fn of(&self, isa: I, s: I::F32) -> I::F32 {
        math::exp2(isa, isa.mul_add(s, self.factor, self.shift))
    }
}

/// Turns the scores of a vector of queries into exponentials; returns their sums.
#[inline(always)]
fn exp_vector<I: Isa>(isa: I, columns: Columns, scores: &mut [f32], at: usize, max: I::F32) -> I::F32 {
    let Columns { stride, .. } = columns;
    let exp = Exponential { factor: columns.factor(isa), shift: isa.neg(max) };
    let (common, rest) = scores.split_at_mut(columns.common() * stride);
    let mut sum = [isa.zero(); CHAINS];
    let mut quads = common.chunks_exact_mut(CHAINS * stride);
    for quad in &mut quads {
        for (i, sum) in sum.iter_mut().enumerate() {
            let row = &mut quad[i * stride..];
            let e = exp.of(isa, isa.load(&row[at..]));
            isa.store(e, &mut row[at..]);
            *sum = isa.add(*sum, e);
        }
    }
    for row in quads.into_remainder().chunks_exact_mut(stride) {
        let e = exp.of(isa, isa.load(&row[at..]));
        isa.store(e, &mut row[at..]);
        sum[0] = isa.add(sum[0], e);
    }
    let seen = columns.seen::<I>(at);
    for (key, row) in (columns.common()..columns.limit).zip(rest.chunks_exact_mut(stride)) {
        let e = if key < seen {
            columns.visible(isa, key, at, exp.of(isa, isa.load(&row[at..])), isa.zero())
        } else {
            isa.zero()
        };
        isa.store(e, &mut row[at..]);
        sum[1] = isa.add(sum[1], e);
    }
    isa.add(isa.add(sum[0], sum[1]), isa.add(sum[2], sum[3]))
}

/// What the gradient of the scores needs besides the scores. Entries beyond `queries` are arbitrary.
pub(super) struct GradientTerms {
    /// The log-sum-exp of each query's scores.
    pub lse: [f32; QUERY_BLOCK],
    /// `D = dO·O` of each query.
    pub delta: [f32; QUERY_BLOCK],
}

/// Turns `scores` into `P`, and `grads`, which holds `dP`, into `dS = scale·P ∘ (dP − D)`, all transposed; both 0 where
/// a query does not see the key.
#[inline(always)]
pub(super) fn gradient_columns<I: Isa>(
    isa: I,
    columns: Columns,
    scores: &mut [f32],
    grads: &mut [f32],
    terms: &GradientTerms,
) {
    let Columns { stride, .. } = columns;
    for at in (0..columns.queries).step_by(I::LANES) {
        let terms = VectorTerms {
            exp: Exponential {
                factor: columns.factor(isa),
                shift: isa.mul(isa.load(&terms.lse[at..]), isa.splat(-LOG2_E)),
            },
            scale: isa.splat(columns.scale),
            delta: isa.load(&terms.delta[at..]),
        };
        let (common, rest) = scores.split_at_mut(columns.common() * stride);
        let (common_grads, rest_grads) = grads.split_at_mut(columns.common() * stride);
        for (s, g) in common.chunks_exact_mut(stride).zip(common_grads.chunks_exact_mut(stride)) {
            let (p, ds) = terms.gradient(isa, isa.load(&s[at..]), isa.load(&g[at..]));
            isa.store(p, &mut s[at..]);
            isa.store(ds, &mut g[at..]);
        }
        let seen = columns.seen::<I>(at);
        let rest = rest.chunks_exact_mut(stride).zip(rest_grads.chunks_exact_mut(stride));
        for (key, (s, g)) in (columns.common()..columns.limit).zip(rest) {
            let (mut p, mut ds) = (isa.zero(), isa.zero());
            if key < seen {
                (p, ds) = terms.gradient(isa, isa.load(&s[at..]), isa.load(&g[at..]));
                p = columns.visible(isa, key, at, p, isa.zero());
                ds = columns.visible(isa, key, at, ds, isa.zero());
            }
            isa.store(p, &mut s[at..]);
            isa.store(ds, &mut g[at..]);
        }
    }
}

/// The terms of a vector of queries.
struct VectorTerms<I: Isa> {
    exp: Exponential<I>,
    scale: I::F32,
    delta: I::F32,
}

impl<I: Isa> VectorTerms<I> {
    /// `P` and `dS`.
    #[inline(always)]
    fn gradient(&self, isa: I, s: I::F32, dp: I::F32) -> (I::F32, I::F32) {
        let p = self.exp.of(isa, s);
        (p, isa.mul(isa.mul(p, self.scale), isa.sub(dp, self.delta)))
    }
}

/// Multiplies each key's row by the mask of a block of queries. The first of these queries is row `first` of the call.
#[inline(always)]
pub(super) fn mask_columns<I: Isa>(isa: I, columns: Columns, dropout: HeadDropout, first: usize, matrix: &mut [f32]) {
    let mut mask = [0.0; QUERY_BLOCK];
    for (key, row) in matrix.chunks_exact_mut(columns.stride).enumerate() {
        dropout.mask_queries(isa, first, key, &mut mask[..columns.queries]);
        for at in (0..columns.queries).step_by(I::LANES) {
            isa.store(isa.mul(isa.load(&row[at..]), isa.load(&mask[at..])), &mut row[at..]);
        }
    }
}
