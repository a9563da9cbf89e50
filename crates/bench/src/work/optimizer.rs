//! The optimizer's step and the sum of squares before it.

use smallmind_graph::{Buffer, GraphError, UPDATE_GRANULE};
use smallmind_kernels::optimizer::{AdamW, SUM_BLOCK, adamw, sum_of_squares};
use smallmind_kernels::{MatMut, reference};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Share, Work, Wrong, noise, noisy, parts, sampled, split_cols};

/// Elements that a check looks at.
const SAMPLES: usize = 999;

/// Late in a training. With such betas the moments don't become subnormal, however many steps without gradient are timed.
const CONFIG: AdamW = AdamW {
    lr: 1e-3,
    beta1: 0.99,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.1,
    grad_scale: 0.5,
    bias_correction1: 1.0,
    bias_correction2: 1.0,
};

/// The memory of AdamW: parameters, gradients, first and second moments.
pub(super) struct Update {
    state: [Buffer; 4],
}

impl Update {
    pub(super) fn new(elements: usize) -> Result<Self, GraphError> {
        let buffer = || Buffer::zeroed(elements);
        let mut work = Self { state: [buffer()?, buffer()?, buffer()?, buffer()?] };
        work.reset();
        Ok(work)
    }

    /// Element `i` of buffer `which` before the step.
    fn initial(which: usize, i: usize) -> f32 {
        let x = noise(which as u64, i);
        // Second moments are positive.
        if which == 3 { x.abs() + 0.01 } else { x }
    }
}

impl Work for Update {
    fn reset(&mut self) {
        for (which, buffer) in self.state.iter_mut().enumerate() {
            buffer.iter_mut().enumerate().for_each(|(i, x)| *x = Self::initial(which, i));
        }
    }

    fn shares(&mut self, isa: IsaKind, _: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        Ok(isa.with(UpdateShares { state: &mut self.state, threads })?)
    }

    fn check(&self) -> Result<(), Wrong> {
        for i in sampled(self.state[0].len(), SAMPLES) {
            let [mut p, mut g, mut m, mut v] = [0, 1, 2, 3].map(|which| [f64::from(Self::initial(which, i))]);
            reference::optimizer::adamw(&CONFIG, &mut p, &mut g, &mut m, &mut v);
            for (which, want) in [p, g, m, v].into_iter().enumerate() {
                let bound = 8.0 * f64::from(f32::EPSILON) * (want[0].abs() + 0.02);
                let got = self.state[which][i];
                Wrong::unless_close(
                    || format!("{} {i}", ["parameter", "gradient", "m", "v"][which]),
                    got,
                    want[0],
                    bound,
                )?;
            }
        }
        Ok(())
    }
}

struct UpdateShares<'a> {
    state: &'a mut [Buffer; 4],
    threads: usize,
}

impl<'a> WithIsa for UpdateShares<'a> {
    type Output = Vec<Share<'a>>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let len = self.state[0].len();
        let ranges: Vec<_> = parts(self.threads).map(|part| part.range(len, UPDATE_GRANULE)).collect();
        let [p, g, m, v] = self.state.each_mut().map(|buffer| split_cols(MatMut::new(buffer, 1, len), &ranges));
        let share =
            |(((mut p, mut g), mut m), mut v): (((MatMut<'a>, MatMut<'a>), MatMut<'a>), MatMut<'a>)| -> Share<'a> {
                Box::new(move |_| adamw(isa, &CONFIG, p.row_mut(0), g.row_mut(0), m.row_mut(0), v.row_mut(0)))
            };
        p.into_iter().zip(g).zip(m).zip(v).map(share).collect()
    }
}

/// The memory of a sum of squares: what is summed, and a sum for each block.
pub(super) struct Squares {
    x: Buffer,
    sums: Buffer,
}

impl Squares {
    pub(super) fn new(elements: usize) -> Result<Self, GraphError> {
        Ok(Self { x: noisy(1, elements)?, sums: Buffer::zeroed(elements.div_ceil(SUM_BLOCK))? })
    }
}

impl Work for Squares {
    fn reset(&mut self) {
        self.sums.fill(f32::NAN);
    }

    fn shares(&mut self, isa: IsaKind, _: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        Ok(isa.with(SquaresShares { x: &self.x, sums: &mut self.sums, threads })?)
    }

    fn check(&self) -> Result<(), Wrong> {
        Wrong::unless_finite("sums", &self.sums)?;
        let wide: Vec<f64> = self.x.iter().map(|x| f64::from(*x)).collect();
        let want = reference::optimizer::sum_of_squares(&wide);
        let got = self.sums.iter().map(|x| f64::from(*x)).sum::<f64>();
        Wrong::unless_close(|| "the sum".into(), got as f32, want, f64::from(f32::EPSILON) * want)
    }
}

struct SquaresShares<'a> {
    x: &'a [f32],
    sums: &'a mut [f32],
    threads: usize,
}

impl<'a> WithIsa for SquaresShares<'a> {
    type Output = Vec<Share<'a>>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Self { x, sums, threads } = self;
        let count = sums.len();
        let ranges: Vec<_> = parts(threads).map(|part| part.range(count, 1)).collect();
        let sums = split_cols(MatMut::new(sums, 1, count), &ranges);
        let share = |(range, mut sums): (std::ops::Range<usize>, MatMut<'a>)| -> Share<'a> {
            Box::new(move |_| {
                for (block, sum) in range.clone().zip(sums.row_mut(0)) {
                    let end = ((block + 1) * SUM_BLOCK).min(x.len());
                    *sum = sum_of_squares(isa, &x[block * SUM_BLOCK..end]) as f32;
                }
            })
        };
        ranges.iter().cloned().zip(sums).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use crate::case::Problem;

    #[test]
    fn steps_and_sums_hold() {
        for elements in [1, 100, 5000, 20_000] {
            holds(Problem::AdamW { elements });
            holds(Problem::SumOfSquares { elements });
        }
    }
}
