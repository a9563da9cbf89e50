//! The search for scales and minima: one pair (`Q4_1`, `Q5_1`), and those of super-blocks (`Q2_K`, `Q4_K`, `Q5_K`).
//!
//! A sub-block is stored as `scale · codeᵢ − drop`, codes from 0 to `high`. For given codes the best pair solves two
//! linear equations (weighted least squares), so one pair is found as one scale is (see `search`): trial scales around
//! the one that spreads the codes from the least to the greatest element, then refinements. In a super-block scale and
//! drop are integers, `stepⱼ` and `fallⱼ`, times `d` and `dmin` in `f16`:
//!
//! ```text
//! (scaleⱼ, dropⱼ) ← fit of each sub-block by itself
//! for several multiples that the greatest scale and drop may become:
//!     (d, dmin) ← greatest / multiple
//!     twice:
//!         (d, dmin) ← nearest f16
//!         (stepⱼ, fallⱼ) ← of the pairs of integers around (scaleⱼ / d, dropⱼ / dmin), that of the least error
//!         (d, dmin) ← least squares for all sub-blocks at once
//! for the neighbours of the best d in f16, then of the best dmin: stepⱼ, fallⱼ ← as above
//! the best of all
//! ```
//!
//! GGML rounds scales and minima by themselves and stops there.

use half::f16;

use super::search::{Integers, Lanes, NEIGHBOURS, Scaled, Values, inverse, sums};
use super::symmetric::subs;

/// A line from codes to elements: `scale · code − drop`.
#[derive(Clone, Copy)]
pub struct Line {
    /// From 0.
    pub scale: f32,
    /// How far code 0 lies below zero.
    pub drop: f32,
}

/// Where code 0 may lie.
#[derive(Clone, Copy, PartialEq)]
pub enum Minimum {
    /// Anywhere.
    Any,
    /// At zero or below.
    NotPositive,
}

/// The scales of a super-block with `SUBS` sub-blocks.
pub struct Lines<const SUBS: usize> {
    /// The scale of the scales.
    pub d: f16,
    /// The scale of the drops.
    pub dmin: f16,
    /// The multiple of `d` that is each sub-block's scale.
    pub steps: [f32; SUBS],
    /// The multiple of `dmin` that is each sub-block's drop.
    pub falls: [f32; SUBS],
    /// Each sub-block's line, for the scaled block.
    pub lines: [Line; SUBS],
}

/// How a format stores codes and scales.
#[derive(Clone, Copy)]
pub struct Storage {
    /// The greatest code.
    pub codes: f32,
    /// The greatest multiple of `d` and of `dmin`.
    pub steps: f32,
    /// How many integers on either side of a scale and of a drop are tried.
    pub reach: i32,
}

/// Sums over a sub-block with codes `q`, from which a line follows.
#[derive(Clone, Copy, Default)]
struct Moments {
    w: f32,
    wx: f32,
    wq: f32,
    wqq: f32,
    wqx: f32,
}

impl Moments {
    #[inline(always)]
    fn new<const N: usize>(x: &[f32; N], w: &[f32; N], code: impl Fn(Lanes) -> Lanes) -> Self {
        let [w, wx, wq, wqq, wqx] = sums(
            x,
            w,
            #[inline(always)]
            |x, w| {
                let q = code(x);
                let wq = w * q;
                [w, w * x, wq, wq * q, wq * x]
            },
        );
        Self { w, wx, wq, wqq, wqx }
    }

    /// The line with the least weighted squared error, if the codes say one.
    fn line(&self, minimum: Minimum) -> Option<Line> {
        let determinant = self.w * self.wqq - self.wq * self.wq;
        if determinant > 1e-5 * self.w * self.wqq {
            let line = Line {
                scale: (self.w * self.wqx - self.wx * self.wq) / determinant,
                drop: (self.wq * self.wqx - self.wqq * self.wx) / determinant,
            };
            if line.scale > 0.0 && (line.drop >= 0.0 || minimum == Minimum::Any) {
                return Some(line);
            }
        }
        // All codes alike, or code 0 would lie above zero: a line through zero.
        let scale = self.wqx / self.wqq;
        (self.wqq > 0.0 && scale > 0.0).then_some(Line { scale, drop: 0.0 })
    }
}

/// The codes nearest to an element under a line.
#[inline(always)]
fn nearest(codes: Integers, line: Line) -> impl Fn(Lanes) -> Lanes {
    let (inverse, drop) = (Lanes::all(inverse(line.scale)), Lanes::all(line.drop));
    #[inline(always)]
    move |x| codes.nearest((x + drop) * inverse)
}

/// The weighted squared error of a line, with the nearest codes.
#[inline(always)]
fn squared_error<const N: usize>(x: &[f32; N], w: &[f32; N], codes: Integers, line: Line) -> f32 {
    let (code, scale, drop) = (nearest(codes, line), Lanes::all(line.scale), Lanes::all(line.drop));
    let [error] = sums(
        x,
        w,
        #[inline(always)]
        |x, w| {
            let e = x - (scale * code(x) - drop);
            [w * e * e]
        },
    );
    error
}

/// The line with about the least weighted squared error once `round` has rounded it, for codes from 0 to `high`.
pub fn fit<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    (high, minimum): (f32, Minimum),
    round: impl Fn(Line) -> Line,
) -> Line {
    /// Trials on each side of the scale that spreads the codes over all elements.
    const TRIALS: i32 = 4;
    /// Where the least element lies in trials, in codes.
    const SHIFTS: [f32; 3] = [0.0, -0.3, 0.3];
    /// Most refinements.
    const REFINEMENTS: usize = 8;

    let codes = Integers { low: 0.0, high };
    let (mut least, most) = x.iter().fold((f32::MAX, f32::MIN), |(least, most), x| (least.min(*x), most.max(*x)));
    if minimum == Minimum::NotPositive {
        least = least.min(0.0);
    }
    // All alike: code 0 says it all.
    let all_alike = round(Line { scale: 0.0, drop: -least });
    let mut best = (squared_error(x, w, codes, all_alike), all_alike);
    if most <= least {
        return best.1;
    }
    // Less than this is rounding: sub-blocks of equal elements then get equal lines.
    let margin = 1e-12 * squared_error(x, w, codes, Line { scale: 0.0, drop: 0.0 });
    // Whether the codes under `line` lead to a better one.
    let improve = |line: Line, best: &mut (f32, Line)| {
        let solution = Moments::new(x, w, nearest(codes, line)).line(minimum);
        let trial = solution.map(&round).map(|line| (squared_error(x, w, codes, line), line));
        let better = trial.filter(|trial| trial.0 < best.0 - margin);
        *best = better.unwrap_or(*best);
        better.is_some()
    };
    for trial in -TRIALS..=TRIALS {
        let scale = (most - least) / (high + 0.9 * trial as f32 / TRIALS as f32);
        for shift in SHIFTS {
            improve(Line { scale, drop: shift * scale - least }, &mut best);
        }
    }
    for _ in 0..REFINEMENTS {
        if !improve(best.1, &mut best) {
            break;
        }
    }
    best.1
}

/// A super-block that scales and drops are searched for.
struct Problem<'a, const SUBS: usize, const N: usize> {
    x: &'a [[f32; N]; SUBS],
    w: &'a [[f32; N]; SUBS],
    storage: Storage,
    /// The line of each sub-block by itself.
    fits: [Line; SUBS],
}

/// A trial: lines, their error, and what `d` and `dmin` would be best for the codes that they lead to.
struct Trial<const SUBS: usize> {
    lines: Lines<SUBS>,
    error: f32,
    better: Option<Line>,
}

/// A scale or drop as it is stored, and what it is for the scaled block.
type Rounded = (f16, f32);

impl<const SUBS: usize, const N: usize> Problem<'_, SUBS, N> {
    /// The best multiples for a scale and a drop of the super-block.
    fn solve(&self, (d, scale): Rounded, (dmin, drop): Rounded) -> Trial<SUBS> {
        let (codes, unit) = (Integers { low: 0.0, high: self.storage.codes }, Line { scale, drop });
        let mut lines = Lines { d, dmin, steps: [0.0; SUBS], falls: [0.0; SUBS], lines: [unit; SUBS] };
        let (mut error, mut equations) = (0.0, Equations::default());
        for j in 0..SUBS {
            let (x, w) = (&self.x[j], &self.w[j]);
            let pair = best_pair(x, w, self.storage, self.fits[j], unit);
            error += pair.error;
            (lines.steps[j], lines.falls[j], lines.lines[j]) = (pair.step, pair.fall, pair.line);
            equations.add(Moments::new(x, w, nearest(codes, pair.line)), pair.step, pair.fall);
        }
        Trial { lines, error, better: equations.solve(unit) }
    }
}

/// Searches for the scales and drops of a super-block of `E` elements in `SUBS` sub-blocks of `N`.
pub fn search<const E: usize, const SUBS: usize, const N: usize>(
    block: &Scaled<E>,
    w: &[f32; E],
    storage: Storage,
) -> Lines<SUBS> {
    /// How much less than the greatest multiple the greatest scale and the greatest drop become.
    const STARTS: [(f32, f32); 2] = [(0.0, 0.0), (1.0, 1.0)];
    /// Least squares for `d` and `dmin` between the rounds; more of them gain little.
    const ROUNDS: usize = 2;

    let (x, w) = (subs::<E, SUBS, N>(&block.x), subs::<E, SUBS, N>(w));
    let fits: [Line; SUBS] =
        std::array::from_fn(|j| fit(&x[j], &w[j], (storage.codes, Minimum::NotPositive), |line| line));
    let greatest = |of: fn(&Line) -> f32| fits.iter().map(of).fold(0.0, f32::max);
    let (scale, drop) = (greatest(|line| line.scale), greatest(|line| line.drop));
    let problem = Problem { x, w, storage, fits };
    let zero = (f16::ZERO, 0.0);
    let mut best = problem.solve(zero, zero);
    for (less_scale, less_drop) in STARTS {
        let (steps, falls) = (storage.steps - less_scale, storage.steps - less_drop);
        let mut d = Line { scale: scale / steps, drop: drop / falls };
        for _ in 0..ROUNDS {
            let trial = problem.solve(block.round(d.scale), block.round(d.drop));
            d = trial.better.unwrap_or(d);
            if trial.error < best.error {
                best = trial;
            }
        }
    }
    let rounded = |stored: f16| block.neighbour(stored, 0).unwrap_or(zero);
    let (d, dmin) = (rounded(best.lines.d), rounded(best.lines.dmin));
    let of_d = NEIGHBOURS.into_iter().filter_map(|offset| Some((block.neighbour(d.0, offset)?, dmin)));
    let of_dmin = NEIGHBOURS.into_iter().filter_map(|offset| Some((d, block.neighbour(dmin.0, offset)?)));
    for (d, dmin) in of_d.chain(of_dmin) {
        let trial = problem.solve(d, dmin);
        if trial.error < best.error {
            best = trial;
        }
    }
    best.lines
}

/// A sub-block's multiples, the line that they make and its error.
struct Pair {
    step: f32,
    fall: f32,
    line: Line,
    error: f32,
}

/// The multiples of `unit` with the least error for a sub-block whose own line is `fit`.
fn best_pair<const N: usize>(x: &[f32; N], w: &[f32; N], storage: Storage, fit: Line, unit: Line) -> Pair {
    let (codes, steps) = (Integers { low: 0.0, high: storage.codes }, Integers { low: 0.0, high: storage.steps });
    let centre = [fit.scale * inverse(unit.scale), fit.drop * inverse(unit.drop)].map(|step| steps.round(step));
    let mut best = Pair { step: 0.0, fall: 0.0, line: Line { scale: 0.0, drop: 0.0 }, error: f32::INFINITY };
    for of_step in -storage.reach..=storage.reach {
        for of_fall in -storage.reach..=storage.reach {
            let step = steps.round(centre[0] + of_step as f32);
            let fall = steps.round(centre[1] + of_fall as f32);
            let line = Line { scale: unit.scale * step, drop: unit.drop * fall };
            let error = squared_error(x, w, codes, line);
            if error < best.error {
                best = Pair { step, fall, line, error };
            }
        }
    }
    best
}

/// The normal equations for `d` and `dmin`, of `x ≈ d · (step·q) − dmin · fall` over all sub-blocks.
#[derive(Default)]
struct Equations {
    aa: f64,
    ab: f64,
    bb: f64,
    ax: f64,
    bx: f64,
}

impl Equations {
    fn add(&mut self, moments: Moments, step: f32, fall: f32) {
        let (step, fall) = (f64::from(step), f64::from(fall));
        self.aa += step * step * f64::from(moments.wqq);
        self.ab += step * fall * f64::from(moments.wq);
        self.bb += fall * fall * f64::from(moments.w);
        self.ax += step * f64::from(moments.wqx);
        self.bx += fall * f64::from(moments.wx);
    }

    /// The solution with both from 0. Where the equations don't say both, `dmin` stays that of `unit`.
    fn solve(&self, unit: Line) -> Option<Line> {
        let determinant = self.aa * self.bb - self.ab * self.ab;
        let (scale, drop) = if determinant > 1e-9 * self.aa * self.bb {
            (
                (self.bb * self.ax - self.ab * self.bx) / determinant,
                (self.ab * self.ax - self.aa * self.bx) / determinant,
            )
        } else if self.aa > 0.0 {
            let drop = f64::from(unit.drop);
            ((self.ax + drop * self.ab) / self.aa, drop)
        } else {
            return None;
        };
        (scale > 0.0 && drop >= 0.0).then_some(Line { scale: scale as f32, drop: drop as f32 })
    }
}
