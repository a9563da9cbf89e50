//! Steps of a training as a workload of the profiler.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use smallmind::graph::{Batch, NoProbe, Plan, Probe};
use smallmind::profile::report::Checkpointing;
use smallmind::profile::statistics::median;
use smallmind::profile::{Recorder, Workload};
use smallmind::train::{Stepper, TrainConfig, TrainError};

use super::super::failure::{Failure, Outcome};
use super::super::note;

/// A learning rate that changes the weights little, so that all samples train the same model.
const RATE: f64 = 1e-5;
/// The most checkpoints that are timed.
const CHECKPOINTS: usize = 5;
/// Seconds of checkpoints after which no other one is timed.
const ENOUGH: f64 = 1.0;

/// Steps that are sampled, each with the profiler and without it.
pub struct StepWorkload {
    stepper: Stepper,
    /// Number of samples begun since the last [`Workload::start`].
    begun: u64,
    /// Seconds of drawing batches, by sample.
    drawing: Vec<f64>,
    /// Set by Ctrl-C.
    stop: &'static AtomicBool,
}

impl StepWorkload {
    /// Steps of `stepper`, until `stop` is set.
    pub fn new(stepper: Stepper, stop: &'static AtomicBool) -> Self {
        Self { stepper, begun: 0, drawing: vec![], stop }
    }

    /// The steps.
    pub fn stepper(&self) -> &Stepper {
        &self.stepper
    }

    /// Median seconds of drawing a sample's batches.
    pub fn drawing_seconds(&self) -> f64 {
        median(&self.drawing)
    }

    /// Ends the profile if Ctrl-C was pressed.
    pub fn go_on(&self) -> Outcome {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted("interrupted".to_owned()).into());
        }
        Ok(())
    }

    /// What the trainer does in a step: seconds of drawing.
    fn step<P: Probe>(&mut self, step: u64, gradient: &P, update: &P) -> anyhow::Result<f64> {
        let mut drawing = 0.0;
        for micro_batch in 0..self.stepper.settings().micro_batches {
            let begin = Instant::now();
            self.stepper.draw(step, micro_batch)?;
            drawing += begin.elapsed().as_secs_f64();
            self.stepper.accumulate(step, micro_batch, gradient)?;
        }
        self.stepper.update(RATE, update)?;
        Ok(drawing)
    }

    /// The cost of checkpoints that are written into the folder `run`, each in place of the one before.
    pub fn checkpointing(
        &self,
        run: &Path,
        config: &TrainConfig,
        tokenizer: &[u8],
    ) -> Result<Checkpointing, TrainError> {
        let mut seconds = Vec::with_capacity(CHECKPOINTS);
        while seconds.len() < CHECKPOINTS && seconds.iter().sum::<f64>() < ENOUGH && self.go_on().is_ok() {
            let timed = self.stepper.time_checkpoint(run, seconds.len() as u64, config, tokenizer)?;
            seconds.push(timed.seconds);
            if let Some(warning) = timed.warning {
                note!("warning: {warning}");
            }
        }
        let (interval, all) = (config.checkpoint.interval, config.train.steps);
        Ok(Checkpointing {
            seconds: median(&seconds),
            bytes: (3 * 4 * self.stepper.learner().model().params().elements()) as f64,
            // A training always has a checkpoint at its end.
            interval: if interval == 0 { all } else { interval.min(all) },
        })
    }
}

impl Workload for StepWorkload {
    type Error = anyhow::Error;

    fn about(&self) -> String {
        let settings = self.stepper.settings();
        let each = format!("{} sequences of {} tokens", settings.shape.sequences, settings.shape.context);
        match settings.micro_batches {
            1 => each,
            n => format!("{n} micro-batches, {each} each,"),
        }
    }

    fn tokens(&self) -> usize {
        self.stepper.settings().tokens()
    }

    fn plans(&self) -> Vec<(&'static str, &Plan)> {
        let (gradient, update) = self.stepper.learner().plans();
        vec![("forward and backward", gradient), ("update", update)]
    }

    fn start(&mut self, samples: usize) -> anyhow::Result<Vec<Vec<Batch>>> {
        self.begun = 0;
        self.drawing = Vec::with_capacity(2 * samples);
        self.go_on()?;
        Ok(vec![self.stepper.typical_batches(samples as u64)?, vec![Batch::default()]])
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.begun += 1;
        self.go_on()
    }

    fn sample(&mut self, recorders: Option<&[Recorder]>) -> anyhow::Result<()> {
        // Both samples of a pair are the same step.
        let step = self.begun.saturating_sub(1) / 2;
        let drawing = match recorders {
            Some([gradient, update]) => self.step(step, gradient, update)?,
            _ => self.step(step, &NoProbe, &NoProbe)?,
        };
        self.drawing.push(drawing);
        Ok(())
    }

    fn with_threads(&self, threads: usize) -> anyhow::Result<Self> {
        Ok(Self::new(self.stepper.with_threads(threads)?, self.stop))
    }
}
