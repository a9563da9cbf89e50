//! The search for the scales of super-blocks without minima: `Q3_K`, `Q6_K`, `IQ4_XS`.
//!
//! Element `i` of sub-block `j` is stored as `d · stepⱼ · qᵢ`, with `d` in `f16`, an integer `stepⱼ`, and a value `qᵢ`
//! that a code stands for:
//!
//! ```text
//! sⱼ ← fit of each sub-block by itself
//! for several multiples that the greatest sⱼ may become:
//!     d ← greatest sⱼ / multiple
//!     twice:
//!         d ← nearest f16
//!         stepⱼ ← of the integers around sⱼ / d, that of the least error
//!         d ← Σ w x step·q / Σ w (step·q)²          least squares for all sub-blocks at once
//! for the neighbours of the best d in f16: stepⱼ ← as above
//! the best d and steps of all
//! ```
//!
//! GGML rounds `sⱼ / d` and stops there. Trying the neighbours, with the codes that each leads to, makes good for what
//! the rounding of the scales costs.

use half::f16;

use super::search::{Integers, NEIGHBOURS, Scaled, Values, fit, inverse, moments, most_extreme, squared_error};

/// The scales of a super-block with `SUBS` sub-blocks.
pub struct Scales<const SUBS: usize> {
    /// The scale of the super-block.
    pub d: f16,
    /// The multiple of it that is each sub-block's scale.
    pub steps: [f32; SUBS],
    /// `d · step` of each sub-block, for the scaled block.
    pub effective: [f32; SUBS],
}

/// How a format stores scales.
#[derive(Clone, Copy)]
pub struct Storage {
    /// The multiples of the super-block's scale.
    pub steps: Integers,
    /// How many integers on either side of a scale are tried.
    pub reach: i32,
}

/// A super-block that scales are searched for.
struct Problem<'a, V, const SUBS: usize, const N: usize> {
    x: &'a [[f32; N]; SUBS],
    w: &'a [[f32; N]; SUBS],
    values: V,
    storage: Storage,
    /// The scale of each sub-block by itself.
    fits: [f32; SUBS],
}

/// A trial: scales, their error, and the `d` that would be best for the codes they lead to.
struct Trial<const SUBS: usize> {
    scales: Scales<SUBS>,
    error: f32,
    better_d: f32,
}

impl<V: Values, const SUBS: usize, const N: usize> Problem<'_, V, SUBS, N> {
    /// The best steps for a scale of the super-block, which is `unit` for the scaled block.
    fn solve(&self, (d, unit): (f16, f32)) -> Trial<SUBS> {
        let mut scales = Scales { d, steps: [0.0; SUBS], effective: [0.0; SUBS] };
        let (mut error, mut xq, mut qq) = (0.0, 0.0, 0.0);
        for j in 0..SUBS {
            let (x, w) = (&self.x[j], &self.w[j]);
            let (sub_error, step) = best_step(x, w, self.values, self.storage, (self.fits[j], unit));
            error += sub_error;
            scales.steps[j] = step;
            scales.effective[j] = unit * step;
            let [sub_xq, sub_qq] = moments(x, w, self.values, inverse(unit * step));
            xq += step * sub_xq;
            qq += step * step * sub_qq;
        }
        Trial { scales, error, better_d: if qq > 0.0 { xq / qq } else { 0.0 } }
    }
}

/// Searches for the scales of a super-block of `E` elements in `SUBS` sub-blocks of `N`.
pub fn search<const E: usize, const SUBS: usize, const N: usize>(
    block: &Scaled<E>,
    w: &[f32; E],
    values: impl Values,
    storage: Storage,
) -> Scales<SUBS> {
    /// How many multiples, from the lowest one on, the greatest scale becomes.
    const STARTS: u8 = 4;
    /// Least squares for `d` between the rounds; more of them gain nothing.
    const ROUNDS: usize = 2;

    let (x, w) = (subs::<E, SUBS, N>(&block.x), subs::<E, SUBS, N>(w));
    let fits: [f32; SUBS] = std::array::from_fn(|j| fit(&x[j], &w[j], values));
    let problem = Problem { x, w, values, storage, fits };
    let mut best = problem.solve((f16::ZERO, 0.0));
    let greatest = most_extreme(&fits);
    if greatest == 0.0 {
        return best.scales;
    }
    for less in 0..STARTS {
        let mut d = greatest / (storage.steps.low + f32::from(less));
        for _ in 0..ROUNDS {
            let trial = problem.solve(block.round(d));
            d = trial.better_d;
            if trial.error < best.error {
                best = trial;
            }
        }
    }
    let middle = best.scales.d;
    for d in NEIGHBOURS.into_iter().filter_map(|offset| block.neighbour(middle, offset)) {
        let trial = problem.solve(d);
        if trial.error < best.error {
            best = trial;
        }
    }
    best.scales
}

/// The multiple of `unit` with the least error for a sub-block whose own scale is `fit`, and the error.
fn best_step<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    values: impl Values,
    storage: Storage,
    (fit, unit): (f32, f32),
) -> (f32, f32) {
    let steps = storage.steps;
    let centre = steps.round(fit * inverse(unit));
    let mut best = (squared_error(x, w, values, 0.0), 0.0);
    for offset in -storage.reach..=storage.reach {
        let step = steps.round(centre + offset as f32);
        let error = squared_error(x, w, values, unit * step);
        if error < best.0 {
            best = (error, step);
        }
    }
    best
}

/// A super-block as its sub-blocks.
pub fn subs<const E: usize, const SUBS: usize, const N: usize>(x: &[f32; E]) -> &[[f32; N]; SUBS] {
    const { assert!(E == SUBS * N, "a super-block is whole sub-blocks") };
    x.as_chunks::<N>().0.try_into().expect("a super-block has that many sub-blocks")
}
