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
//! Outputs are divided by rows. The backward reads `dy` and `x` once: besides `dx` it writes partial sums of `dweight`
//! and `dbias` over blocks of [`PARTIAL_ROWS`] rows, so its windows must start at multiples of `PARTIAL_ROWS`. The sum
//! over the blocks ([`column_sum`](crate::elementwise::column_sum)), divided by columns, is the gradient of the
//! parameters.
//!
//! Where `X` is the greatest `|x|` of a row and `G` its greatest `|g|`, the error of an element of `y` is at most about
//! `(16 + n / 32) · ε · X · rstd · |weight|`, that of an element of `dx` at most about `(16 + n / 32) · ε · rstd · G ·
//! (1 + X · rstd)²`: small unless the mean of a row is much larger than its spread. Elements are squared in `f32`: they
//! must stay below 1e17.

use smallmind_simd::Isa;

use crate::compiled::compiled;
use crate::row_ops::{self, Destination, each};
use crate::{Mat, MatMut};

/// Rows of the input that make one row of the partial sums of a norm's backward.
pub const PARTIAL_ROWS: usize = 32;

/// Rows that are computed together: their sums over lanes overlap, and the backward loads the weight and updates the
/// partial sums once for both. With more rows memory would idle for longer during the sums over lanes, even though the
/// next rows are prefetched.
const PAIR: usize = 2;

/// An addition before a norm: the norm is that of `sum = x + add`.
pub struct Residual<'a> {
    /// The other addend, `[tokens, d_model]`.
    pub add: Mat<'a>,
    /// Receives the sum, `[tokens, d_model]`, which the next residual addition and the backward read.
    pub sum: MatMut<'a>,
}

/// The arguments of [`layer_norm`].
pub struct LayerNorm<'a> {
    /// The input, `[tokens, d_model]`.
    pub x: Mat<'a>,
    /// An addition whose sum is normalised instead of `x`.
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

/// The arguments of [`layer_norm_backward`] and of [`rms_norm_backward`].
pub struct NormBackward<'a> {
    /// The gradient of the result, `[tokens, d_model]`.
    pub dy: Mat<'a>,
    /// The input of the norm, or the sum with the residual, `[tokens, d_model]`.
    pub x: Mat<'a>,
    /// `[d_model]`
    pub weight: &'a [f32],
    /// The statistics that the forward stored: mean and rstd, `[tokens, 2]`, or rstd alone, `[tokens, 1]`.
    pub stats: Mat<'a>,
    /// Another gradient of `x`, `[tokens, d_model]`, which is added to `dx`.
    pub add: Option<Mat<'a>>,
    /// The gradient of `x`, `[tokens, d_model]`.
    pub dx: MatMut<'a>,
    /// Receives sums over each block of [`PARTIAL_ROWS`] rows: of `dy · x̂` for `dweight` and then, if there is a bias,
    /// of `dy` for `dbias`. `[⌈tokens / PARTIAL_ROWS⌉, d_model]`, or `[…, 2 · d_model]` with a bias.
    pub partials: MatMut<'a>,
}

/// The arguments of [`rms_norm`].
pub struct RmsNorm<'a> {
    /// The input, `[tokens, d_model]`.
    pub x: Mat<'a>,
    /// An addition whose sum is normalised instead of `x`.
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

/// LayerNorm of every row of `x`, or of `x + residual.add`.
///
/// # Panics
/// If shapes disagree.
pub fn layer_norm<I: Isa>(isa: I, args: LayerNorm) {
    fn body<I: Isa>(isa: I, mut args: LayerNorm) {
        let (rows, cols) = (args.x.rows(), args.x.cols());
        check_forward(args.x, &args.residual, args.weight, &args.out);
        check_stats(args.stats.as_ref().map(MatMut::as_mat), rows, 2);
        assert!(args.bias.is_none_or(|bias| bias.len() == cols), "one bias for each feature");
        let destination = Destination::of(&args.out);
        isa.vectorize(
            #[inline(always)]
            || {
                let whole = rows - rows % PAIR;
                for r in (0..whole).step_by(PAIR) {
                    layer_norm_rows::<I, PAIR>(isa, &mut args, r, destination);
                }
                for r in whole..rows {
                    layer_norm_rows::<I, 1>(isa, &mut args, r, destination);
                }
                destination.finish(isa);
            },
        );
    }
    compiled!(isa: I, body(args: LayerNorm));
}

/// [`layer_norm`] of the `R` rows from row `first` on.
#[inline(always)]
fn layer_norm_rows<I: Isa, const R: usize>(isa: I, args: &mut LayerNorm, first: usize, destination: Destination) {
    let LayerNorm { x, residual, weight, bias, eps, out, stats } = args;
    let (inverse_n, stride) = (1.0 / x.cols().max(1) as f32, x.stride());
    let (x, means): ([&[f32]; R], [f32; R]) = rows_and_means(isa, *x, residual, first);
    // The variance needs a second pass: computed from Σ x² and Σ x it would suffer from cancellation.
    let squares: [_; R] = each(
        #[inline(always)]
        |r| {
            let mean = isa.splat(means[r]);
            let [squares] = row_ops::sums(
                isa,
                [x[r]],
                [],
                #[inline(always)]
                |[sum], [x], live| {
                    let deviation = isa.neg_mul_add(mean, live, x);
                    [isa.mul_add(deviation, deviation, sum)]
                },
            );
            squares
        },
    );
    let rstds = rstd_of_rows(isa, squares, inverse_n, *eps);
    each::<(), R>(
        #[inline(always)]
        |r| {
            if let Some(stats) = stats {
                stats.row_mut(first + r).copy_from_slice(&[means[r], rstds[r]]);
            }
            let (mean, rstd) = (isa.splat(means[r]), isa.splat(rstds[r]));
            let out = (out.row_mut(first + r), destination);
            let next = [x[r].as_ptr().wrapping_add(R * stride)];
            match bias {
                None => row_ops::map_prefetching(
                    isa,
                    [x[r], *weight],
                    out,
                    next,
                    #[inline(always)]
                    |[x, weight]| isa.mul(isa.mul(isa.sub(x, mean), rstd), weight),
                ),
                Some(bias) => row_ops::map_prefetching(
                    isa,
                    [x[r], *weight, *bias],
                    out,
                    next,
                    #[inline(always)]
                    |[x, weight, bias]| isa.mul_add(isa.mul(isa.sub(x, mean), rstd), weight, bias),
                ),
            }
        },
    );
}

/// The gradient of the input of [`layer_norm`], plus `add`, and the partial sums of the gradients of weight and bias.
///
/// The sums over all rows have an error of at most about `(24 + tokens / 256) · ε` times
/// `Σ_r |dy[r]| · (|x[r]| + |mean_r|) · rstd_r` for the weight and `Σ_r |dy[r]|` for the bias.
///
/// # Panics
/// If shapes disagree.
pub fn layer_norm_backward<I: Isa>(isa: I, args: NormBackward) {
    fn body<I: Isa>(isa: I, args: NormBackward) {
        check_backward(&args, 2);
        if args.partials.cols() == 2 * args.x.cols() {
            backward::<I, true, 2>(isa, args, halves);
        } else {
            backward::<I, true, 1>(isa, args, whole);
        }
    }
    compiled!(isa: I, body(args: NormBackward));
}

/// RMSNorm of every row of `x`, or of `x + residual.add`.
///
/// # Panics
/// If shapes disagree.
pub fn rms_norm<I: Isa>(isa: I, args: RmsNorm) {
    fn body<I: Isa>(isa: I, mut args: RmsNorm) {
        let rows = args.x.rows();
        check_forward(args.x, &args.residual, args.weight, &args.out);
        check_stats(args.stats.as_ref().map(MatMut::as_mat), rows, 1);
        let destination = Destination::of(&args.out);
        isa.vectorize(
            #[inline(always)]
            || {
                let whole = rows - rows % PAIR;
                for r in (0..whole).step_by(PAIR) {
                    rms_norm_rows::<I, PAIR>(isa, &mut args, r, destination);
                }
                for r in whole..rows {
                    rms_norm_rows::<I, 1>(isa, &mut args, r, destination);
                }
                destination.finish(isa);
            },
        );
    }
    compiled!(isa: I, body(args: RmsNorm));
}

/// [`rms_norm`] of the `R` rows from row `first` on.
#[inline(always)]
fn rms_norm_rows<I: Isa, const R: usize>(isa: I, args: &mut RmsNorm, first: usize, destination: Destination) {
    let RmsNorm { x, residual, weight, eps, out, stats } = args;
    let (inverse_n, stride) = (1.0 / x.cols().max(1) as f32, x.stride());
    let x: [&[f32]; R] = match residual {
        None => rows_of(*x, first),
        Some(_) => rows_and_means(isa, *x, residual, first).0,
    };
    let squares: [_; R] = each(
        #[inline(always)]
        |r| {
            let [squares] = row_ops::sums(
                isa,
                [x[r]],
                [],
                #[inline(always)]
                |[sum], [x], _| [isa.mul_add(x, x, sum)],
            );
            squares
        },
    );
    let rstds = rstd_of_rows(isa, squares, inverse_n, *eps);
    each::<(), R>(
        #[inline(always)]
        |r| {
            if let Some(stats) = stats {
                stats.row_mut(first + r)[0] = rstds[r];
            }
            let rstd = isa.splat(rstds[r]);
            row_ops::map_prefetching(
                isa,
                [x[r], *weight],
                (out.row_mut(first + r), destination),
                [x[r].as_ptr().wrapping_add(R * stride)],
                #[inline(always)]
                |[x, weight]| isa.mul(isa.mul(x, rstd), weight),
            );
        },
    );
}

/// The gradient of the input of [`rms_norm`], plus `add`, and the partial sums of the gradient of the weight, whose
/// error is that of [`layer_norm_backward`].
///
/// # Panics
/// If shapes disagree.
pub fn rms_norm_backward<I: Isa>(isa: I, args: NormBackward) {
    fn body<I: Isa>(isa: I, args: NormBackward) {
        check_backward(&args, 1);
        assert_eq!(args.partials.cols(), args.x.cols(), "RMSNorm has no bias");
        backward::<I, false, 1>(isa, args, whole);
    }
    compiled!(isa: I, body(args: NormBackward));
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

fn check_backward(args: &NormBackward, stats_cols: usize) {
    let (rows, cols) = (args.dx.rows(), args.dx.cols());
    for input in [Some(args.dy), Some(args.x), args.add].iter().flatten() {
        assert_eq!((input.rows(), input.cols()), (rows, cols), "the shape of an input of a norm's backward");
    }
    assert_eq!(args.weight.len(), cols, "one weight for each feature");
    check_stats(Some(args.stats), rows, stats_cols);
    assert_eq!(args.partials.rows(), rows.div_ceil(PARTIAL_ROWS), "one row of partial sums for each block of rows");
    let sums = args.partials.cols();
    assert!(sums == cols || sums == 2 * cols, "partial sums of the weight, or of weight and bias");
}

fn check_stats(stats: Option<Mat>, rows: usize, cols: usize) {
    let fits = stats.is_none_or(|stats| (stats.rows(), stats.cols()) == (rows, cols));
    assert!(fits, "the statistics of a norm of {rows} rows are [{rows}, {cols}]");
}

/// The `R` rows from row `first` on.
#[inline(always)]
fn rows_of<const R: usize>(x: Mat<'_>, first: usize) -> [&[f32]; R] {
    each(
        #[inline(always)]
        |r| x.row(first + r),
    )
}

/// `1 / √(mean of squares + eps)` of rows whose sums of squares are spread over lanes.
#[inline(always)]
fn rstd_of_rows<I: Isa, const R: usize>(isa: I, squares: [I::F32; R], inverse_n: f32, eps: f32) -> [f32; R] {
    each(
        #[inline(always)]
        |r| 1.0 / (isa.sum(squares[r]) * inverse_n + eps).sqrt(),
    )
}

/// The `R` rows from row `first` on that are normalised, and their means. They are rows of `x`, or of its sum with the
/// residual, which this function writes.
#[inline(always)]
fn rows_and_means<'s, I: Isa, const R: usize>(
    isa: I,
    x: Mat<'s>,
    residual: &'s mut Option<Residual>,
    first: usize,
) -> ([&'s [f32]; R], [f32; R]) {
    let inverse_n = 1.0 / x.cols().max(1) as f32;
    let sums: [_; R] = each(
        #[inline(always)]
        |r| match residual {
            None => {
                let [sum] = row_ops::sums(
                    isa,
                    [x.row(first + r)],
                    [],
                    #[inline(always)]
                    |[sum], [x], _| [isa.add(sum, x)],
                );
                sum
            }
            Some(Residual { add, sum }) => row_ops::map_and_sum(
                isa,
                [x.row(first + r), add.row(first + r)],
                sum.row_mut(first + r),
                #[inline(always)]
                |[x, add]| isa.add(x, add),
            ),
        },
    );
    let rows = residual.as_ref().map_or(x, |residual| residual.sum.as_mat());
    let means = each(
        #[inline(always)]
        |r| isa.sum(sums[r]) * inverse_n,
    );
    (rows_of(rows, first), means)
}

/// The backward of LayerNorm if `MEAN`, else of RMSNorm. `split` divides a row of partial sums between the `T`
/// parameters.
#[inline(always)]
fn backward<I: Isa, const MEAN: bool, const T: usize>(
    isa: I,
    mut args: NormBackward,
    split: impl Fn(&mut [f32]) -> [&mut [f32]; T],
) {
    let rows = args.x.rows();
    let destination = Destination::of(&args.dx);
    let inputs = Inputs { dy: args.dy, x: args.x, weight: args.weight, add: args.add };
    isa.vectorize(
        #[inline(always)]
        || {
            for block in 0..args.partials.rows() {
                let (mut r, end) = (block * PARTIAL_ROWS, ((block + 1) * PARTIAL_ROWS).min(rows));
                args.partials.row_mut(block).fill(0.0);
                while end - r >= PAIR {
                    let slopes = Slopes::of_rows::<MEAN, PAIR>(isa, &args, r, destination);
                    let (dx, totals) = (args.dx.pair_mut(r), split(args.partials.row_mut(block)));
                    let outputs = Outputs { dx, destination, totals };
                    gradient_rows::<I, MEAN, T, PAIR>(isa, inputs, r, slopes, outputs);
                    r += PAIR;
                }
                while r < end {
                    let slopes = Slopes::of_rows::<MEAN, 1>(isa, &args, r, destination);
                    let (dx, totals) = ([args.dx.row_mut(r)], split(args.partials.row_mut(block)));
                    let outputs = Outputs { dx, destination, totals };
                    gradient_rows::<I, MEAN, T, 1>(isa, inputs, r, slopes, outputs);
                    r += 1;
                }
            }
            destination.finish(isa);
        },
    );
}

/// The numbers of a row, each in every lane, for its gradient `dx = dy · rstd · weight − (x − mean) · slope − level`.
#[derive(Clone, Copy)]
struct Slopes<I: Isa> {
    mean: I::F32,
    rstd: I::F32,
    /// `rstd² · Σ (g x̂) / n`.
    slope: I::F32,
    /// `rstd · Σ g / n`.
    level: I::F32,
}

impl<I: Isa> Slopes<I> {
    /// The numbers of the `R` rows from row `first` on.
    #[inline(always)]
    fn of_rows<const MEAN: bool, const R: usize>(
        isa: I,
        args: &NormBackward,
        first: usize,
        destination: Destination,
    ) -> [Self; R] {
        let inverse_n = 1.0 / args.x.cols().max(1) as f32;
        let sums: [_; R] = each(
            #[inline(always)]
            |r| Self::sums_of_row::<MEAN>(isa, args, first + r, destination),
        );
        each(
            #[inline(always)]
            |r| {
                let stats = args.stats.row(first + r);
                let rstd = stats[usize::from(MEAN)];
                let [g_mean, gx_mean] = [isa.sum(sums[r][0]) * inverse_n, isa.sum(sums[r][1]) * inverse_n];
                Self {
                    mean: isa.splat(if MEAN { stats[0] } else { 0.0 }),
                    rstd: isa.splat(rstd),
                    slope: isa.splat(rstd * rstd * (rstd * gx_mean)),
                    level: isa.splat(rstd * g_mean),
                }
            },
        )
    }

    /// `Σ g` and `Σ g (x − mean)` of row `r`, still spread over lanes. RMSNorm doesn't need `Σ g`.
    #[inline(always)]
    fn sums_of_row<const MEAN: bool>(isa: I, args: &NormBackward, r: usize, destination: Destination) -> [I::F32; 2] {
        let mean = isa.splat(if MEAN { args.stats.row(r)[0] } else { 0.0 });
        row_ops::sums(
            isa,
            [args.dy.row(r), args.x.row(r), args.weight],
            [match destination {
                // These lines are written next.
                Destination::Caches => args.dx.row(r).as_ptr(),
                // This pass prefetches half of the next rows, the other pass the other half.
                Destination::Memory => args.dy.as_ptr().wrapping_add((r + PAIR) * args.dy.stride()),
            }],
            #[inline(always)]
            |[g_sum, gx_sum], [dy, x, weight], _| {
                let g = isa.mul(dy, weight);
                if MEAN {
                    [isa.add(g_sum, g), isa.mul_add(g, isa.sub(x, mean), gx_sum)]
                } else {
                    [g_sum, isa.mul_add(g, x, gx_sum)]
                }
            },
        )
    }
}

/// The inputs of [`NormBackward`].
#[derive(Clone, Copy)]
struct Inputs<'a> {
    dy: Mat<'a>,
    x: Mat<'a>,
    weight: &'a [f32],
    add: Option<Mat<'a>>,
}

/// The outputs of `R` rows of the gradient.
struct Outputs<'a, const R: usize, const T: usize> {
    dx: [&'a mut [f32]; R],
    destination: Destination,
    /// The partial sums: of the weight, or of weight and bias.
    totals: [&'a mut [f32]; T],
}

/// Writes `dx` of the `R` rows from row `first` on, and adds their terms of the gradients of the parameters, in the
/// order of the rows, to the `T` partial sums.
#[inline(always)]
fn gradient_rows<I: Isa, const MEAN: bool, const T: usize, const R: usize>(
    isa: I,
    Inputs { dy, x, weight, add }: Inputs,
    first: usize,
    slopes: [Slopes<I>; R],
    Outputs { dx, destination, totals }: Outputs<R, T>,
) {
    let next_rows: [_; R] = each(
        #[inline(always)]
        |r| {
            let next = |mat: Mat| mat.as_ptr().wrapping_add((first + R + r) * mat.stride());
            match destination {
                Destination::Caches => [next(dy), next(x)],
                // The pass that summed these rows has prefetched dy.
                Destination::Memory => [next(x), add.map_or_else(|| next(x), next)],
            }
        },
    );
    match add {
        None => row_ops::map_rows_and_total(
            isa,
            each::<_, R>(
                #[inline(always)]
                |r| [dy.row(first + r), x.row(first + r)],
            ),
            [weight],
            (dx, destination),
            totals,
            next_rows,
            #[inline(always)]
            |rows, [weight], totals| {
                let rows = each(
                    #[inline(always)]
                    |r: usize| [rows[r][0], rows[r][1], isa.zero()],
                );
                gradients::<I, MEAN, T, R>(isa, slopes, rows, weight, totals)
            },
        ),
        Some(add) => row_ops::map_rows_and_total(
            isa,
            each::<_, R>(
                #[inline(always)]
                |r| [dy.row(first + r), x.row(first + r), add.row(first + r)],
            ),
            [weight],
            (dx, destination),
            totals,
            next_rows,
            #[inline(always)]
            |rows, [weight], totals| gradients::<I, MEAN, T, R>(isa, slopes, rows, weight, totals),
        ),
    }
}

/// Splits a row of partial sums: all are of the weight.
#[inline(always)]
fn whole(sums: &mut [f32]) -> [&mut [f32]; 1] {
    [sums]
}

/// Splits a row of partial sums into those of the weight and those of the bias.
#[inline(always)]
fn halves(sums: &mut [f32]) -> [&mut [f32]; 2] {
    sums.split_at_mut(sums.len() / 2).into()
}

/// Computes `dx` and the new totals from a vector of columns of `[dy, x, add]`, for `R` rows.
#[inline(always)]
fn gradients<I: Isa, const MEAN: bool, const T: usize, const R: usize>(
    isa: I,
    slopes: [Slopes<I>; R],
    rows: [[I::F32; 3]; R],
    weight: I::F32,
    mut totals: [I::F32; T],
) -> ([I::F32; R], [I::F32; T]) {
    let (mut weight_sum, mut bias_sum) = (isa.zero(), isa.zero());
    let mut dx = [isa.zero(); R];
    for r in 0..R {
        let (Slopes { mean, rstd, slope, level }, [dy, x, add]) = (slopes[r], rows[r]);
        let scaled = isa.mul(dy, rstd);
        let (centred, rest) = if MEAN { (isa.sub(x, mean), isa.sub(add, level)) } else { (x, add) };
        weight_sum = isa.mul_add(scaled, centred, weight_sum);
        bias_sum = isa.add(bias_sum, dy);
        dx[r] = isa.mul_add(scaled, weight, isa.neg_mul_add(centred, slope, rest));
    }
    for (total, sum) in totals.iter_mut().zip([weight_sum, bias_sum]) {
        *total = isa.add(*total, sum);
    }
    (dx, totals)
}
