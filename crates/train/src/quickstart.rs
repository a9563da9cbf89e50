//! A first training run: on the built-in stories, for as many steps as fit into a given time.
//!
//! [`config`] and [`prepare`](crate::prepare()) come first. [`seconds_of_a_step`] and [`steps_within`] compute the
//! number of steps, and [`of_steps`] adapts the settings to it.
//!
//! The model keeps names to the end of a story: windows begin with stories, the corpus has few names and things, a hero
//! has the same friend and the same elder in all stories, "he" and "she" always mean the hero, and weights begin with a
//! standard deviation of about 1 / √d_model. [`stories::inconsistencies`](crate::stories::inconsistencies) lists the
//! names and pronouns of a story that contradict it; a test checks that the corpus has none.

use std::time::{Duration, Instant};

use smallmind_graph::NoProbe;
use smallmind_model::sampler::SamplerConfig;
use smallmind_model::{GenerateOptions, Model};
use smallmind_simd::IsaKind;

use crate::{Overlay, Prepared, StepSettings, Stepper, TrainConfig, TrainError, Windows};

/// The preset that is trained.
const PRESET: &str = "quickstart";
/// The most steps that are timed, and the time after which timing ends.
const TIMED_STEPS: usize = 60;
const TIMING: Duration = Duration::from_secs(2);
/// The least share of the whole time for training, even if the preparations took longer.
const LEAST_TRAINING: f64 = 0.5;
/// The fewest and the most steps of a run.
const STEPS: std::ops::RangeInclusive<u64> = 20..=50_000;
/// The most tokens of a story.
const STORY_TOKENS: usize = 320;

/// The settings of the preset for the built-in stories, overridden by `overlays`.
///
/// # Errors
/// As [`TrainConfig::with_overlays`].
pub fn config(overlays: &[Overlay]) -> Result<TrainConfig, TrainError> {
    let mut config = TrainConfig::with_overlays(Some(PRESET), overlays)?;
    // The preset can be used with other files too, which need not have documents; the built-in stories do.
    config.data.windows = Windows::Documents;
    Ok(config)
}

/// Seconds of a step, measured with a few steps of a model that is then discarded.
///
/// # Errors
/// Settings that don't make a valid run, text shorter than a window, or too little memory.
pub fn seconds_of_a_step(
    config: &TrainConfig,
    prepared: &Prepared,
    threads: usize,
    isa: IsaKind,
) -> Result<f64, TrainError> {
    let model = Model::random(config.model_config(prepared.tokenizer.vocab_size())?, config.train.seed)?;
    let data = (prepared.train.clone(), prepared.tokenizer.eos());
    let mut stepper = Stepper::new(model, StepSettings::of(config)?, data, threads, isa)?;
    let mut laps = Vec::with_capacity(TIMED_STEPS);
    let started = Instant::now();
    for step in 0..TIMED_STEPS {
        let lap = Instant::now();
        stepper.gather(step as u64, &NoProbe)?;
        stepper.update(0.0, &NoProbe)?;
        laps.push(lap.elapsed().as_secs_f64());
        if started.elapsed() >= TIMING && laps.len() > 1 {
            break;
        }
    }
    // The first step is not timed: it touches all memory for the first time.
    let rest = &mut laps[1..];
    rest.sort_by(f64::total_cmp);
    // Another process that is busy for a moment makes steps seem too slow, and the run too short. The fast quarter is
    // nearer to the usual time.
    Ok(rest[rest.len() / 4].max(1e-9))
}

/// The number of steps that fit into `total`, of which `spent` has passed. Training gets at least half of `total`.
#[must_use]
pub fn steps_within(total: Duration, spent: Duration, seconds_of_a_step: f64) -> u64 {
    let left = total.saturating_sub(spent).max(total.mul_f64(LEAST_TRAINING));
    ((left.as_secs_f64() / seconds_of_a_step) as u64).clamp(*STEPS.start(), *STEPS.end())
}

/// `config` for a run of `steps` steps, with warm-up and intervals in proportion.
#[must_use]
pub fn of_steps(mut config: TrainConfig, steps: u64) -> TrainConfig {
    config.train.steps = steps;
    config.train.warmup = config.train.warmup.min(steps / 10);
    config.eval.interval = (steps / 4).max(1);
    config.eval.batches = config.eval.batches.min(5);
    config.checkpoint.interval = (steps / 4).max(1);
    config.log.interval = (steps / 200).max(1);
    config
}

/// Options to generate a story from an empty prompt, which stands for the token that ends the story before.
#[must_use]
pub fn story_options(seed: u64) -> GenerateOptions {
    let sampler = SamplerConfig { temperature: 0.6, top_k: 40, min_p: 0.2, seed, ..SamplerConfig::default() };
    GenerateOptions { max_tokens: STORY_TOKENS, sampler, stops: vec![] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_fit_into_the_time() {
        let steps = |total, spent, step| steps_within(Duration::from_secs(total), Duration::from_secs(spent), step);
        assert_eq!(steps(60, 10, 0.5), 100);
        // Even if the preparations took long, half of the time is for training.
        assert_eq!(steps(60, 50, 0.5), 60);
        assert_eq!(steps(60, 100, 0.5), 60);
        assert_eq!((steps(1, 0, 10.0), steps(86_400, 0, 1e-9)), (20, 50_000));
    }

    #[test]
    fn settings_follow_the_number_of_steps() {
        let usual = config(&[]).unwrap();
        assert_eq!(usual.data.windows, Windows::Documents);
        for (steps, warmup, quarter, line) in [(1, 0, 1, 1), (400, 40, 100, 2), (4000, 100, 1000, 20)] {
            let config = of_steps(usual.clone(), steps);
            assert_eq!((config.train.steps, config.train.warmup), (steps, warmup));
            let intervals = (config.eval.interval, config.checkpoint.interval, config.log.interval);
            assert_eq!(intervals, (quarter, quarter, line));
            assert!(config.check().is_ok());
        }
    }
}
