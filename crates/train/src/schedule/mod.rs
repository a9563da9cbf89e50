//! Learning-rate schedules: pure functions of the step number, so that a resumed run needs nothing but its step.
//!
//! Steps count from 0: `lr(0)` is the rate of the first update.

use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;

/// The learning rate as a function of the step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Schedule {
    /// The same rate at every step.
    Constant {
        /// The rate.
        lr: f64,
    },
    /// Linear warm-up, then half a cosine down to the minimum.
    Cosine(Cosine),
    /// Linear warm-up, a plateau, then a linear decay to the minimum.
    WarmupStableDecay(WarmupStableDecay),
}

/// The first steps, over which the rate grows linearly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmup {
    /// Number of steps below the full rate; 0 for none.
    pub steps: u64,
    /// The convention for the rate of the first step.
    pub from: WarmupFrom,
}

/// The two conventions for a linear warm-up of `w` steps to the rate `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WarmupFrom {
    /// `max · (t + 1) / (w + 1)`: the first step has a rate above 0. nanoGPT, `train.py`, `get_lr`.
    #[default]
    FirstStep,
    /// `max · t / w`: the first step has rate 0. Stanford CS336, assignment 1, "learning rate scheduling"
    /// (`run_get_lr_cosine_schedule`).
    Zero,
}

/// Warm-up and cosine: with `r = (t − w) / (decay_steps − w)`, `lr = min + (max − min) · (1 + cos πr) / 2` for
/// `w ≤ t ≤ decay_steps`, and `min` afterwards (Loshchilov and Hutter, "SGDR", arXiv:1608.03983, without restarts).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cosine {
    /// Rate at the end of the warm-up.
    pub max: f64,
    /// Rate from `decay_steps` on.
    pub min: f64,
    /// The warm-up.
    pub warmup: Warmup,
    /// Step at which the cosine reaches `min` (nanoGPT's `lr_decay_iters`). If it is within the warm-up, the rate is
    /// `min` right after the warm-up.
    pub decay_steps: u64,
}

/// Warm-up, stable, decay (Hu et al., "MiniCPM", arXiv:2404.06395) with a linear decay over the last fraction of the
/// steps (Hägele et al., arXiv:2405.18392): over the last `d` of `T` steps, `lr = max − (max − min) · (t − (T − d)) /
/// d`, and `min` from `T` on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmupStableDecay {
    /// Rate of the plateau.
    pub max: f64,
    /// Rate from `total_steps` on.
    pub min: f64,
    /// The warm-up; it wins if it overlaps the decay.
    pub warmup: Warmup,
    /// `T`: all steps of the run.
    pub total_steps: u64,
    /// `d / T`, in `0..=1`; `d` is rounded to whole steps.
    pub decay_fraction: f64,
}

/// Numbers that aren't a valid schedule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// A rate that is negative, infinite or not a number.
    #[error("the learning rate `{name}` is {value}: it must be a finite number of at least 0")]
    Rate {
        /// `lr`, `max` or `min`.
        name: &'static str,
        /// The given value.
        value: f64,
    },
    /// The minimum is above the maximum.
    #[error("the minimal learning rate {min} is above the maximal {max}: exchange them or lower the minimum")]
    MinAboveMax {
        /// The minimum given.
        min: f64,
        /// The maximum given.
        max: f64,
    },
    /// A decay fraction outside `0..=1`.
    #[error("the decay fraction is {0}: it must be from 0 to 1, 0.2 for a decay over the last fifth of the steps")]
    DecayFraction(f64),
}

impl Schedule {
    /// The learning rate of step `step`, counted from 0.
    #[must_use]
    pub fn lr(&self, step: u64) -> f64 {
        match self {
            Self::Constant { lr } => *lr,
            Self::Cosine(cosine) => cosine.lr(step),
            Self::WarmupStableDecay(decay) => decay.lr(step),
        }
    }

    /// Checks the numbers of the schedule.
    pub fn validate(&self) -> Result<(), ScheduleError> {
        match *self {
            Self::Constant { lr } => rate("lr", lr),
            Self::Cosine(Cosine { max, min, .. }) => rates(max, min),
            Self::WarmupStableDecay(WarmupStableDecay { max, min, decay_fraction, .. }) => {
                rates(max, min)?;
                if (0.0..=1.0).contains(&decay_fraction) {
                    Ok(())
                } else {
                    Err(ScheduleError::DecayFraction(decay_fraction))
                }
            }
        }
    }
}

fn rate(name: &'static str, value: f64) -> Result<(), ScheduleError> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(ScheduleError::Rate { name, value }) }
}

fn rates(max: f64, min: f64) -> Result<(), ScheduleError> {
    rate("max", max)?;
    rate("min", min)?;
    if min <= max { Ok(()) } else { Err(ScheduleError::MinAboveMax { min, max }) }
}

impl Warmup {
    /// The rate of `step`, if that is in the warm-up to `max`.
    fn lr(self, max: f64, step: u64) -> Option<f64> {
        let (t, w) = (step as f64, self.steps as f64);
        (step < self.steps).then(|| match self.from {
            WarmupFrom::FirstStep => max * (t + 1.0) / (w + 1.0),
            WarmupFrom::Zero => max * t / w,
        })
    }
}

impl Cosine {
    /// The learning rate of step `step`, counted from 0.
    #[must_use]
    pub fn lr(&self, step: u64) -> f64 {
        let Self { max, min, warmup, decay_steps } = *self;
        if let Some(lr) = warmup.lr(max, step) {
            return lr;
        }
        if step >= decay_steps {
            return min;
        }
        let r = (step - warmup.steps) as f64 / (decay_steps - warmup.steps) as f64;
        // (1 + cos πr) / 2 = cos²(πr / 2), which falls to 0 without cancellation.
        min + (max - min) * (FRAC_PI_2 * r).cos().powi(2)
    }
}

impl WarmupStableDecay {
    /// The learning rate of step `step`, counted from 0.
    #[must_use]
    pub fn lr(&self, step: u64) -> f64 {
        let Self { max, min, warmup, total_steps, decay_fraction } = *self;
        if let Some(lr) = warmup.lr(max, step) {
            return lr;
        }
        if step >= total_steps {
            return min;
        }
        // A float beyond the integers saturates, and a NaN becomes 0.
        let decay = ((total_steps as f64 * decay_fraction).round() as u64).min(total_steps);
        match step.checked_sub(total_steps - decay) {
            Some(into) if decay > 0 => max - (max - min) * into as f64 / decay as f64,
            _ => max,
        }
    }
}

#[cfg(test)]
mod tests;
