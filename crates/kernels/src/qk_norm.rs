//! RMSNorm of queries and keys that lie beside values in a row, forward and backward.
//!
//! A row is `[queries | keys | rest]`. Queries are groups of as many columns as their weight has elements, and so are
//! keys. Each group is normalised by itself ([`rms_norm`]) and multiplied by the weight that all
//! groups of queries, or of keys, share; the rest is copied. With groups of a head's width this is the norm of each
//! head (Henry et al., "Query-Key Normalization for Transformers", 2020, with RMSNorm, as Qwen3 and Gemma 3 have it);
//! with one group each it is the norm of all queries and of all keys together, as OLMo 2 has it.
//!
//! Windows are cut by rows, those of the backward at multiples of [`PARTIAL_ROWS`](crate::norm::PARTIAL_ROWS). Errors
//! are those of the norm, with a group's columns for its features.

use std::ops::Range;

use smallmind_simd::Isa;

use crate::elementwise::copy;
use crate::norm::{NormBackward, RmsNorm, rms_norm, rms_norm_backward};
use crate::{Mat, MatMut};

/// The weights of queries and keys, and how many groups of each there are.
#[derive(Clone, Copy)]
pub struct QkWeights<'a> {
    /// Weight of queries, as long as one group.
    pub q: &'a [f32],
    /// Weight of keys, as long as one group.
    pub k: &'a [f32],
    /// Groups of queries.
    pub q_groups: usize,
    /// Groups of keys.
    pub k_groups: usize,
}

impl<'a> QkWeights<'a> {
    /// Groups of queries and keys.
    fn groups(self) -> usize {
        self.q_groups + self.k_groups
    }

    /// Columns that are normalised.
    fn cols(self) -> usize {
        self.q_groups * self.q.len() + self.k_groups * self.k.len()
    }

    /// The columns of each group, and its weight.
    fn each(self) -> impl Iterator<Item = (Range<usize>, &'a [f32])> {
        let of = move |group: usize| {
            let (weight, start) = match group.checked_sub(self.q_groups) {
                None => (self.q, group * self.q.len()),
                Some(key) => (self.k, self.q_groups * self.q.len() + key * self.k.len()),
            };
            (start..start + weight.len(), weight)
        };
        (0..self.groups()).map(of)
    }
}

/// The arguments of [`qk_norm`].
pub struct QkNorm<'a> {
    /// Queries, keys and the rest side by side, `[rows, width]`.
    pub x: Mat<'a>,
    /// The weights.
    pub weights: QkWeights<'a>,
    /// Added to the mean of squares.
    pub eps: f32,
    /// The result, `[rows, width]`.
    pub out: MatMut<'a>,
    /// rstd of each group for the backward, `[rows, q_groups + k_groups]`.
    pub stats: MatMut<'a>,
}

/// RMSNorm of each group of every row.
///
/// # Panics
/// If shapes disagree.
pub fn qk_norm<I: Isa>(isa: I, args: QkNorm) {
    let QkNorm { x, weights, eps, mut out, mut stats } = args;
    let (rows, cols) = (x.rows(), x.cols());
    assert!(weights.cols() <= cols, "groups of {} columns in rows of {cols}", weights.cols());
    assert_eq!((stats.rows(), stats.cols()), (rows, weights.groups()), "a statistic for each row and group");
    assert_eq!((out.rows(), out.cols()), (rows, cols), "the shape of the result");
    for (group, (columns, weight)) in weights.each().enumerate() {
        let call = RmsNorm {
            x: x.cols_range(columns.clone()),
            residual: None,
            weight,
            eps,
            out: out.reborrow().cols_range(columns),
            stats: Some(stats.reborrow().cols_range(group..group + 1)),
        };
        rms_norm(isa, call);
    }
    let rest = weights.cols()..cols;
    copy(isa, x.cols_range(rest.clone()), out.cols_range(rest));
}

/// The arguments of [`qk_norm_backward`].
pub struct QkNormBackward<'a> {
    /// The gradient of the result, `[rows, width]`.
    pub dy: Mat<'a>,
    /// The input of the norm, `[rows, width]`.
    pub x: Mat<'a>,
    /// The weights.
    pub weights: QkWeights<'a>,
    /// The statistics that the forward stored, `[rows, q_groups + k_groups]`.
    pub stats: Mat<'a>,
    /// The gradient of `x`, `[rows, width]`.
    pub dx: MatMut<'a>,
    /// Sums of `dy · x̂` over each block of [`PARTIAL_ROWS`](crate::norm::PARTIAL_ROWS) rows, for each column of each
    /// group: `[⌈rows / PARTIAL_ROWS⌉, normalised columns]`. The gradient of a weight is the sum over blocks and over
    /// the groups that share it.
    pub partials: MatMut<'a>,
}

/// The gradient of the input of [`qk_norm`], and the partial sums of the gradients of the weights.
///
/// # Panics
/// If shapes disagree.
pub fn qk_norm_backward<I: Isa>(isa: I, args: QkNormBackward) {
    let QkNormBackward { dy, x, weights, stats, mut dx, mut partials } = args;
    let cols = x.cols();
    assert_eq!((stats.rows(), stats.cols()), (x.rows(), weights.groups()), "a statistic for each row and group");
    assert_eq!(partials.cols(), weights.cols(), "a partial sum for each column of a group");
    for (group, (columns, weight)) in weights.each().enumerate() {
        let call = NormBackward {
            dy: dy.cols_range(columns.clone()),
            x: x.cols_range(columns.clone()),
            weight,
            stats: stats.cols_range(group..group + 1),
            add: None,
            dx: dx.reborrow().cols_range(columns.clone()),
            partials: partials.reborrow().cols_range(columns),
        };
        rms_norm_backward(isa, call);
    }
    let rest = weights.cols()..cols;
    copy(isa, dy.cols_range(rest.clone()), dx.cols_range(rest));
}
