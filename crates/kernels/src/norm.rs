//! LayerNorm and RMSNorm over the features of a token, forward and backward, with the residual addition fused.
//!
//! LayerNorm (Ba, Kiros, Hinton, *Layer Normalization*, 2016), with `n` features:
//!
//! ```text
//! mean = Σ x / n      rstd = 1 / √(Σ (x − mean)² / n + eps)      x̂ = (x − mean) · rstd      y = x̂ · weight + bias
//! g = dy · weight     dx = rstd · (g − Σ g / n − x̂ · Σ (g x̂) / n)
//! dweight = Σ_tokens dy · x̂      dbias = Σ_tokens dy
//! ```
//!
//! RMSNorm (Zhang, Sennrich, *Root Mean Square Layer Normalization*, 2019) leaves out the mean and the bias:
//!
//! ```text
//! rstd = 1 / √(Σ x² / n + eps)      x̂ = x · rstd      y = x̂ · weight      dx = rstd · (g − x̂ · Σ (g x̂) / n)
//! ```
//!
//! Forward and `dx` are cut by rows, the gradients of the parameters by columns.
//!
//! Where `X` is the greatest `|x|` of a row and `G` its greatest `|g|`, the error is at most about `(16 + n / 32) · ε`
//! times `X · rstd · |weight|` for an element of `y`, and times `rstd · G · (1 + X · rstd)²` for one of `dx`: small
//! unless the mean of a row dwarfs its spread. Elements are squared in `f32`: they must stay below 1e17.

use smallmind_simd::Isa;

use crate::elementwise::{ROW_BLOCK, add_rows, column_sum};
use crate::{Mat, MatMut, sweep};

/// An addition in front of a norm.
pub struct Residual<'a> {
    /// What is added to `x`, `[tokens, d_model]`.
    pub add: Mat<'a>,
    /// Where the sum is kept for the next residual and the backward, `[tokens, d_model]`.
    pub sum: MatMut<'a>,
}

/// The arguments of [`layer_norm`].
pub struct LayerNorm<'a> {
    /// The input, `[tokens, d_model]`.
    pub x: Mat<'a>,
    /// What is added to `x` first: then the sum is normalised in its place.
    pub residual: Option<Residual<'a>>,
    /// `[d_model]`
    pub weight: &'a [f32],
    /// `[d_model]`
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
    /// The result, `[tokens, d_model]`.
    pub out: MatMut<'a>,
    /// Mean and rstd for the backward, `[tokens, 2]`.
    pub stats: Option<MatMut<'a>>,
}

/// The arguments of [`layer_norm_backward`].
pub struct LayerNormBackward<'a> {
    /// The gradient of the result, `[tokens, d_model]`.
    pub dy: Mat<'a>,
    /// What was normalised (the sum, if a residual was added), `[tokens, d_model]`.
    pub x: Mat<'a>,
    /// `[d_model]`
    pub weight: &'a [f32],
    /// Mean and rstd of the forward, `[tokens, 2]`.
    pub stats: Mat<'a>,
    /// A gradient that reaches `x` on another way and is added to `dx`, `[tokens, d_model]`.
    pub add: Option<Mat<'a>>,
    /// The gradient of `x`, `[tokens, d_model]`.
    pub dx: MatMut<'a>,
}

/// The arguments of [`layer_norm_param_backward`]. All but `stats` may be windows of columns.
pub struct NormParamBackward<'a> {
    /// The gradient of the result, `[tokens, d_model]`.
    pub dy: Mat<'a>,
    /// What was normalised, `[tokens, d_model]`.
    pub x: Mat<'a>,
    /// Mean and rstd of the forward, `[tokens, 2]`.
    pub stats: Mat<'a>,
    /// What the gradient of the weight is added to, `[d_model]`.
    pub dweight: &'a mut [f32],
    /// What the gradient of the bias is added to, `[d_model]`.
    pub dbias: Option<&'a mut [f32]>,
}

/// The arguments of [`rms_norm`].
pub struct RmsNorm<'a> {
    /// The input, `[tokens, d_model]`.
    pub x: Mat<'a>,
    /// What is added to `x` first: then the sum is normalised in its place.
    pub residual: Option<Residual<'a>>,
    /// `[d_model]`
    pub weight: &'a [f32],
    /// Added to the mean of squares.
    pub eps: f32,
    /// The result, `[tokens, d_model]`.
    pub out: MatMut<'a>,
    /// rstd for the backward, `[tokens, 1]`.
    pub stats: Option<MatMut<'a>>,
}

/// The arguments of [`rms_norm_backward`].
pub struct RmsNormBackward<'a> {
    /// The gradient of the result, `[tokens, d_model]`.
    pub dy: Mat<'a>,
    /// What was normalised (the sum, if a residual was added), `[tokens, d_model]`.
    pub x: Mat<'a>,
    /// `[d_model]`
    pub weight: &'a [f32],
    /// rstd of the forward, `[tokens, 1]`.
    pub stats: Mat<'a>,
    /// A gradient that reaches `x` on another way and is added to `dx`, `[tokens, d_model]`.
    pub add: Option<Mat<'a>>,
    /// The gradient of `x`, `[tokens, d_model]`.
    pub dx: MatMut<'a>,
}

/// The arguments of [`rms_norm_param_backward`]. All but `stats` may be windows of columns.
pub struct RmsNormParamBackward<'a> {
    /// The gradient of the result, `[tokens, d_model]`.
    pub dy: Mat<'a>,
    /// What was normalised, `[tokens, d_model]`.
    pub x: Mat<'a>,
    /// rstd of the forward, `[tokens, 1]`.
    pub stats: Mat<'a>,
    /// What the gradient of the weight is added to, `[d_model]`.
    pub dweight: &'a mut [f32],
}

/// LayerNorm of every row of `x`, or of `x + residual.add`.
///
/// # Panics
/// If shapes disagree.
pub fn layer_norm<I: Isa>(isa: I, args: LayerNorm) {
    let LayerNorm { x, mut residual, weight, bias, eps, mut out, mut stats } = args;
    check_forward(x, &residual, weight, &out);
    check_stats(stats.as_ref().map(MatMut::as_mat), x.rows(), 2);
    assert!(bias.is_none_or(|bias| bias.len() == x.cols()), "one bias for each feature");
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..x.rows() {
                let x = add_residual(isa, x.row(r), &mut residual, r);
                let moments = mean_and_rstd(isa, x, eps);
                if let Some(stats) = &mut stats {
                    stats.row_mut(r).copy_from_slice(&[moments.0, moments.1]);
                }
                let row = Centred::new(isa, moments);
                match bias {
                    None => sweep::map(
                        isa,
                        [x, weight],
                        out.row_mut(r),
                        #[inline(always)]
                        |[x, weight]| isa.mul(row.normalised(isa, x), weight),
                    ),
                    Some(bias) => sweep::map(
                        isa,
                        [x, weight, bias],
                        out.row_mut(r),
                        #[inline(always)]
                        |[x, weight, bias]| isa.mul_add(row.normalised(isa, x), weight, bias),
                    ),
                }
            }
        },
    );
}

/// The gradient of the input of [`layer_norm`], plus `add`.
///
/// # Panics
/// If shapes disagree.
pub fn layer_norm_backward<I: Isa>(isa: I, args: LayerNormBackward) {
    let LayerNormBackward { dy, x, weight, stats, add, mut dx } = args;
    check_backward(&[Some(dy), Some(x), add], weight, &dx);
    check_stats(Some(stats), x.rows(), 2);
    let inverse_n = 1.0 / x.cols().max(1) as f32;
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..x.rows() {
                let row = Centred::new(isa, (stats.row(r)[0], stats.row(r)[1]));
                let [g_sum, gx_sum] = sweep::sums(
                    isa,
                    [dy.row(r), x.row(r), weight],
                    #[inline(always)]
                    |[g_sum, gx_sum], [dy, x, weight], _| {
                        let g = isa.mul(dy, weight);
                        [isa.add(g_sum, g), isa.mul_add(g, row.normalised(isa, x), gx_sum)]
                    },
                );
                let (g_mean, gx_mean) = (isa.splat(g_sum * inverse_n), isa.splat(gx_sum * inverse_n));
                store_gradient(
                    isa,
                    [dy.row(r), x.row(r), weight],
                    add.map(|add| add.row(r)),
                    dx.row_mut(r),
                    #[inline(always)]
                    |[dy, x, weight], add| {
                        let g = isa.sub(isa.mul(dy, weight), g_mean);
                        isa.mul_add(row.rstd, isa.neg_mul_add(row.normalised(isa, x), gx_mean, g), add)
                    },
                );
            }
        },
    );
}

/// Adds the gradients of the weight and the bias of [`layer_norm`].
///
/// The tokens are summed in blocks of eight, the blocks in order: the result does not depend on the window of columns.
/// Its error is at most about `(16 + tokens / 8) · ε` times `Σ_r |dy[r]| · (|x[r]| + |mean_r|) · rstd_r`.
///
/// # Panics
/// If shapes disagree.
pub fn layer_norm_param_backward<I: Isa>(isa: I, args: NormParamBackward) {
    let NormParamBackward { dy, x, stats, dweight, dbias } = args;
    check_stats(Some(stats), x.rows(), 2);
    weight_backward(
        isa,
        dy,
        x,
        dweight,
        #[inline(always)]
        |r| (stats.row(r)[0], stats.row(r)[1]),
    );
    if let Some(dbias) = dbias {
        column_sum(isa, dy, dbias);
    }
}

/// RMSNorm of every row of `x`, or of `x + residual.add`.
///
/// # Panics
/// If shapes disagree.
pub fn rms_norm<I: Isa>(isa: I, args: RmsNorm) {
    let RmsNorm { x, mut residual, weight, eps, mut out, mut stats } = args;
    check_forward(x, &residual, weight, &out);
    check_stats(stats.as_ref().map(MatMut::as_mat), x.rows(), 1);
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..x.rows() {
                let x = add_residual(isa, x.row(r), &mut residual, r);
                let rstd = rms_rstd(isa, x, eps);
                if let Some(stats) = &mut stats {
                    stats.row_mut(r)[0] = rstd;
                }
                let rstd = isa.splat(rstd);
                sweep::map(
                    isa,
                    [x, weight],
                    out.row_mut(r),
                    #[inline(always)]
                    |[x, weight]| isa.mul(isa.mul(x, rstd), weight),
                );
            }
        },
    );
}

/// The gradient of the input of [`rms_norm`], plus `add`.
///
/// # Panics
/// If shapes disagree.
pub fn rms_norm_backward<I: Isa>(isa: I, args: RmsNormBackward) {
    let RmsNormBackward { dy, x, weight, stats, add, mut dx } = args;
    check_backward(&[Some(dy), Some(x), add], weight, &dx);
    check_stats(Some(stats), x.rows(), 1);
    let inverse_n = 1.0 / x.cols().max(1) as f32;
    isa.vectorize(
        #[inline(always)]
        || {
            for r in 0..x.rows() {
                let rstd = isa.splat(stats.row(r)[0]);
                let [gx_sum] = sweep::sums(
                    isa,
                    [dy.row(r), x.row(r), weight],
                    #[inline(always)]
                    |[sum], [dy, x, weight], _| [isa.mul_add(isa.mul(dy, weight), isa.mul(x, rstd), sum)],
                );
                let gx_mean = isa.splat(gx_sum * inverse_n);
                store_gradient(
                    isa,
                    [dy.row(r), x.row(r), weight],
                    add.map(|add| add.row(r)),
                    dx.row_mut(r),
                    #[inline(always)]
                    |[dy, x, weight], add| {
                        let inner = isa.neg_mul_add(isa.mul(x, rstd), gx_mean, isa.mul(dy, weight));
                        isa.mul_add(rstd, inner, add)
                    },
                );
            }
        },
    );
}

/// Adds the gradient of the weight of [`rms_norm`]; order and error as in [`layer_norm_param_backward`].
///
/// # Panics
/// If shapes disagree.
pub fn rms_norm_param_backward<I: Isa>(isa: I, args: RmsNormParamBackward) {
    let RmsNormParamBackward { dy, x, stats, dweight } = args;
    check_stats(Some(stats), x.rows(), 1);
    weight_backward(
        isa,
        dy,
        x,
        dweight,
        #[inline(always)]
        |r| (0.0, stats.row(r)[0]),
    );
}

fn check_forward(x: Mat, residual: &Option<Residual>, weight: &[f32], out: &MatMut) {
    let shape = (x.rows(), x.cols());
    assert_eq!((out.rows(), out.cols()), shape, "the shape of the result");
    assert_eq!(weight.len(), x.cols(), "one weight for each feature");
    if let Some(Residual { add, sum }) = residual {
        assert_eq!((add.rows(), add.cols()), shape, "the shape of the residual");
        assert_eq!((sum.rows(), sum.cols()), shape, "the shape of the sum");
    }
}

fn check_backward(inputs: &[Option<Mat>], weight: &[f32], dx: &MatMut) {
    for input in inputs.iter().flatten() {
        assert_eq!((input.rows(), input.cols()), (dx.rows(), dx.cols()), "the shape of an input of a norm's backward");
    }
    assert_eq!(weight.len(), dx.cols(), "one weight for each feature");
}

fn check_stats(stats: Option<Mat>, rows: usize, cols: usize) {
    let fits = stats.is_none_or(|stats| (stats.rows(), stats.cols()) == (rows, cols));
    assert!(fits, "the statistics of a norm of {rows} rows are [{rows}, {cols}]");
}

/// Mean and rstd of a row, in every lane.
#[derive(Clone, Copy)]
struct Centred<I: Isa> {
    mean: I::F32,
    rstd: I::F32,
}

impl<I: Isa> Centred<I> {
    #[inline(always)]
    fn new(isa: I, (mean, rstd): (f32, f32)) -> Self {
        Self { mean: isa.splat(mean), rstd: isa.splat(rstd) }
    }

    /// `(x − mean) · rstd`.
    #[inline(always)]
    fn normalised(self, isa: I, x: I::F32) -> I::F32 {
        isa.mul(isa.sub(x, self.mean), self.rstd)
    }
}

/// Row `r` of what is to be normalised: `x` itself, or its sum with the residual, which is stored.
#[inline(always)]
fn add_residual<'s, I: Isa>(isa: I, x: &'s [f32], residual: &'s mut Option<Residual>, r: usize) -> &'s [f32] {
    let Some(Residual { add, sum }) = residual else { return x };
    add_rows(isa, x, add.row(r), sum.row_mut(r));
    sum.row(r)
}

/// Mean and `1 / √(variance + eps)`. The variance takes a sweep of its own: from `Σ x²` and `Σ x` alone it would cancel.
#[inline(always)]
fn mean_and_rstd<I: Isa>(isa: I, x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len().max(1) as f32;
    let [sum] = sweep::sums(
        isa,
        [x],
        #[inline(always)]
        |[sum], [x], _| [isa.add(sum, x)],
    );
    let mean = isa.splat(sum / n);
    let [squares] = sweep::sums(
        isa,
        [x],
        #[inline(always)]
        |[sum], [x], live| {
            let deviation = isa.neg_mul_add(mean, live, x);
            [isa.mul_add(deviation, deviation, sum)]
        },
    );
    (sum / n, 1.0 / (squares / n + eps).sqrt())
}

/// `1 / √(mean of squares + eps)`.
#[inline(always)]
fn rms_rstd<I: Isa>(isa: I, x: &[f32], eps: f32) -> f32 {
    let [squares] = sweep::sums(
        isa,
        [x],
        #[inline(always)]
        |[sum], [x], _| [isa.mul_add(x, x, sum)],
    );
    1.0 / (squares / x.len().max(1) as f32 + eps).sqrt()
}

/// `dx = f(columns of dy, x and weight; columns of add, or zero)`.
#[inline(always)]
fn store_gradient<I: Isa>(
    isa: I,
    [dy, x, weight]: [&[f32]; 3],
    add: Option<&[f32]>,
    dx: &mut [f32],
    f: impl Fn([I::F32; 3], I::F32) -> I::F32,
) {
    match add {
        None => sweep::map(
            isa,
            [dy, x, weight],
            dx,
            #[inline(always)]
            |columns| f(columns, isa.zero()),
        ),
        Some(add) => sweep::map(
            isa,
            [dy, x, weight, add],
            dx,
            #[inline(always)]
            |[dy, x, weight, add]| f([dy, x, weight], add),
        ),
    }
}

/// `dweight += Σ_r dy[r] · (x[r] − mean_r) · rstd_r`, where `moments(r)` is mean and rstd of row `r`.
#[inline(always)]
fn weight_backward<I: Isa>(isa: I, dy: Mat, x: Mat, dweight: &mut [f32], moments: impl Fn(usize) -> (f32, f32)) {
    assert_eq!((dy.rows(), dy.cols()), (x.rows(), x.cols()), "the shape of the gradient of a norm");
    assert_eq!(dweight.len(), x.cols(), "one weight for each feature");
    isa.vectorize(
        #[inline(always)]
        || {
            let blocks = x.rows() / ROW_BLOCK;
            for first in (0..blocks).map(|block| block * ROW_BLOCK) {
                add_block_of_terms(isa, [dy, x], first, dweight, &moments);
            }
            for r in blocks * ROW_BLOCK..x.rows() {
                let row = Centred::new(isa, moments(r));
                sweep::update(
                    isa,
                    [dy.row(r), x.row(r)],
                    dweight,
                    #[inline(always)]
                    |total, [dy, x]| isa.mul_add(dy, row.normalised(isa, x), total),
                );
            }
        },
    );
}

/// The part of [`weight_backward`] for the block of rows that starts at `first`: their sum, then added to `dweight`.
#[inline(always)]
fn add_block_of_terms<I: Isa>(
    isa: I,
    [dy, x]: [Mat; 2],
    first: usize,
    dweight: &mut [f32],
    moments: impl Fn(usize) -> (f32, f32),
) {
    // dy of the block's rows, then x of them.
    let rows: [&[f32]; 2 * ROW_BLOCK] = std::array::from_fn(|i| match i.checked_sub(ROW_BLOCK) {
        None => dy.row(first + i),
        Some(i) => x.row(first + i),
    });
    let mut centred = [Centred::new(isa, (0.0, 0.0)); ROW_BLOCK];
    for (i, centred) in centred.iter_mut().enumerate() {
        *centred = Centred::new(isa, moments(first + i));
    }
    sweep::update(
        isa,
        rows,
        dweight,
        #[inline(always)]
        |total, v| {
            let mut sum = isa.zero();
            for (i, row) in centred.iter().enumerate() {
                sum = isa.mul_add(v[i], row.normalised(isa, v[ROW_BLOCK + i]), sum);
            }
            isa.add(total, sum)
        },
    );
}
