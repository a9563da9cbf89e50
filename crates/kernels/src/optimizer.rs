//! AdamW, and the sum of squares from which the clip factor of the gradients is computed.

use smallmind_simd::Isa;

use crate::compiled::compiled;

/// The numbers of one AdamW step (Loshchilov and Hutter 2019, arXiv:1711.05101), in double precision, since small
/// differences such as `1 - β₂` enter the moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The learning rate of this step.
    pub lr: f64,
    /// The decay of the first moment.
    pub beta1: f64,
    /// The decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// The decoupled weight decay; 0 for biases and norms.
    pub weight_decay: f64,
    /// Factor of every gradient: 1, or the clip factor.
    pub grad_scale: f64,
    /// `1 - β₁^t` in step `t`, counted from 1.
    pub bias_correction1: f64,
    /// `1 - β₂^t` in step `t`, counted from 1.
    pub bias_correction2: f64,
}

/// One step of AdamW on `param`, with the moments `m` and `v`; `grad` is set to 0. All are `[n]`.
///
/// It takes one pass, in PyTorch's order of operations: with `g = grad_scale·grad`,
///
/// ```text
/// param ← (1 - lr·weight_decay)·param
/// m     ← m + (1 - β₁)(g - m)
/// v     ← β₂·v + (1 - β₂)·g²
/// param ← param - lr/bias_correction1 · m / (√v/√bias_correction2 + eps)
/// ```
///
/// # Panics
/// If the lengths differ.
pub fn adamw<I: Isa>(isa: I, config: &AdamW, param: &mut [f32], grad: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    fn body<I: Isa>(isa: I, config: &AdamW, param: &mut [f32], grad: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        let n = param.len();
        assert!(grad.len() == n && m.len() == n && v.len() == n, "lengths of param, grad, m and v");
        isa.vectorize(
            #[inline(always)]
            || {
                let step = Step::new(isa, config);
                let whole = n - n % I::LANES;
                for i in (0..whole).step_by(I::LANES) {
                    let (p, g, m, v) = (&mut param[i..], &mut grad[i..], &mut m[i..], &mut v[i..]);
                    let new = step.advance(isa, [isa.load(p), isa.load(g), isa.load(m), isa.load(v)]);
                    isa.store(new[0], p);
                    isa.store(isa.zero(), g);
                    isa.store(new[1], m);
                    isa.store(new[2], v);
                }
                if whole < n {
                    let (p, g, m, v) = (&mut param[whole..], &mut grad[whole..], &mut m[whole..], &mut v[whole..]);
                    let old = [isa.load_partial(p), isa.load_partial(g), isa.load_partial(m), isa.load_partial(v)];
                    let new = step.advance(isa, old);
                    isa.store_partial(new[0], p);
                    g.fill(0.0);
                    isa.store_partial(new[1], m);
                    isa.store_partial(new[2], v);
                }
            },
        );
    }
    compiled!(isa: I, body(config: &AdamW, param: &mut [f32], grad: &mut [f32], m: &mut [f32], v: &mut [f32]));
}

/// The numbers of [`AdamW`] as vectors.
struct Step<I: Isa> {
    grad_scale: I::F32,
    decay: I::F32,
    rest1: I::F32,
    beta2: I::F32,
    rest2: I::F32,
    eps: I::F32,
    /// `1/√bias_correction2`.
    root_correction: I::F32,
    /// `lr/bias_correction1`.
    step_size: I::F32,
}

impl<I: Isa> Step<I> {
    #[inline(always)]
    fn new(isa: I, c: &AdamW) -> Self {
        Self {
            grad_scale: splat(isa, c.grad_scale),
            decay: splat(isa, 1.0 - c.lr * c.weight_decay),
            rest1: splat(isa, 1.0 - c.beta1),
            beta2: splat(isa, c.beta2),
            rest2: splat(isa, 1.0 - c.beta2),
            eps: splat(isa, c.eps),
            root_correction: splat(isa, 1.0 / c.bias_correction2.sqrt()),
            step_size: splat(isa, c.lr / c.bias_correction1),
        }
    }

    /// The new parameters and moments from `[param, grad, m, v]`.
    #[inline(always)]
    fn advance(&self, isa: I, [p, g, m, v]: [I::F32; 4]) -> [I::F32; 3] {
        let g = isa.mul(g, self.grad_scale);
        let m = isa.mul_add(self.rest1, isa.sub(g, m), m);
        let v = isa.mul_add(isa.mul(self.rest2, g), g, isa.mul(self.beta2, v));
        let denominator = isa.mul_add(isa.sqrt(v), self.root_correction, self.eps);
        let p = isa.mul(p, self.decay);
        [isa.neg_mul_add(self.step_size, isa.div(m, denominator), p), m, v]
    }
}

#[inline(always)]
fn splat<I: Isa>(isa: I, x: f64) -> I::F32 {
    isa.splat(x as f32)
}

/// Elements of a block of [`sum_of_squares`].
pub const SUM_BLOCK: usize = 4096;

/// Independent sums within a block: enough to hide the latency of an addition.
const SUM_LANES: usize = 32;

/// Vectors of the narrowest instruction set that hold the sums of a block.
const SUM_VECTORS: usize = 4;

/// `Σ xᵢ²` in double precision, so that it neither overflows nor loses digits; the same bits on every instruction set.
///
/// Each block of [`SUM_BLOCK`] elements is summed in a fixed order, then the blocks from first to last. To get the same
/// bits with any number of workers, call it for every block (or any fixed number of blocks) and add the results in
/// order.
pub fn sum_of_squares<I: Isa>(isa: I, x: &[f32]) -> f64 {
    fn body<I: Isa>(isa: I, x: &[f32]) -> f64 {
        isa.vectorize(
            #[inline(always)]
            || {
                let mut total = 0.0;
                for block in x.chunks(SUM_BLOCK) {
                    total += block_sum_of_squares(isa, block);
                }
                total
            },
        )
    }
    compiled!(isa: I, body(x: &[f32]) -> f64)
}

/// `Σ xᵢ²` over one block.
#[inline(always)]
fn block_sum_of_squares<I: Isa>(isa: I, block: &[f32]) -> f64 {
    const { assert!(SUM_LANES.is_multiple_of(I::LANES) && SUM_LANES / I::LANES <= SUM_VECTORS) };
    let mut vectors = [isa.zero_f64(); SUM_VECTORS];
    let (whole, rest) = block.as_chunks::<SUM_LANES>();
    for x in whole {
        add_squares(isa, x, &mut vectors);
    }
    if !rest.is_empty() {
        let mut last = [0.0; SUM_LANES];
        last[..rest.len()].copy_from_slice(rest);
        add_squares(isa, &last, &mut vectors);
    }
    let mut sums = [0.0; SUM_LANES];
    for (vector, sums) in vectors.into_iter().zip(sums.chunks_exact_mut(I::LANES)) {
        isa.store_f64(vector, sums);
    }
    let mut half = SUM_LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Adds the squares of `x` to the sums, lane by lane.
#[inline(always)]
fn add_squares<I: Isa>(isa: I, x: &[f32; SUM_LANES], vectors: &mut [I::F64; SUM_VECTORS]) {
    for (x, vector) in x.chunks_exact(I::LANES).zip(vectors) {
        *vector = isa.add_squares(x, *vector);
    }
}
