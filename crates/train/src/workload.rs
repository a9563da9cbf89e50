//! Steps of training, repeated to be measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use smallmind_graph::{Batch, GraphError, Plan, Probe, Workload};
use smallmind_model::ModelError;

use crate::data::DataError;
use crate::{Stepper, TrainError};

/// A learning rate that changes the weights little, so that all samples train the same model.
const RATE: f64 = 1e-5;

/// Why a measured step was not done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The workload's `stop` was set.
    #[error("stopped")]
    Stopped,
    /// The step failed.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl From<GraphError> for StepError {
    fn from(error: GraphError) -> Self {
        Self::Train(ModelError::from(error).into())
    }
}

impl From<ModelError> for StepError {
    fn from(error: ModelError) -> Self {
        Self::Train(error.into())
    }
}

impl From<DataError> for StepError {
    fn from(error: DataError) -> Self {
        Self::Train(error.into())
    }
}

/// The steps of a stepper. Both samples of a pair are the same step.
pub struct StepWorkload<'a> {
    stepper: Stepper,
    /// Number of samples since the last [`Workload::start`], the current one included.
    begun: u64,
    /// Seconds of drawing batches, by sample.
    drawing: Vec<f64>,
    stop: &'a AtomicBool,
}

impl<'a> StepWorkload<'a> {
    /// Steps of `stepper`. Once `stop` is set, samples fail with [`StepError::Stopped`].
    pub fn new(stepper: Stepper, stop: &'a AtomicBool) -> Self {
        Self { stepper, begun: 0, drawing: vec![], stop }
    }

    /// The steps.
    pub fn stepper(&self) -> &Stepper {
        &self.stepper
    }

    /// Seconds of drawing batches for each sample since the last [`Workload::start`].
    pub fn drawing(&self) -> &[f64] {
        &self.drawing
    }

    /// Checks whether to continue.
    ///
    /// # Errors
    /// [`StepError::Stopped`].
    pub fn go_on(&self) -> Result<(), StepError> {
        if self.stop.load(Ordering::Relaxed) { Err(StepError::Stopped) } else { Ok(()) }
    }

    /// Does what the trainer does in a step; returns the seconds of drawing.
    fn step<P: Probe>(&mut self, step: u64, gradient: &P, update: &P) -> Result<f64, StepError> {
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
}

impl Workload for StepWorkload<'_> {
    type Error = StepError;

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
        let learner = self.stepper.learner();
        vec![("forward and backward", learner.gradient_plan()), ("update", learner.update_plan())]
    }

    fn start(&mut self, samples: usize) -> Result<Vec<Vec<Batch>>, StepError> {
        self.begun = 0;
        self.drawing = Vec::with_capacity(2 * samples);
        self.go_on()?;
        Ok(vec![self.stepper.typical_batches(samples as u64)?, vec![Batch::default()]])
    }

    fn prepare(&mut self) -> Result<(), StepError> {
        self.begun += 1;
        self.go_on()
    }

    fn sample<P: Probe>(&mut self, probes: &[P]) -> Result<(), StepError> {
        let step = self.begun.saturating_sub(1) / 2;
        let drawing = self.step(step, &probes[0], &probes[1])?;
        self.drawing.push(drawing);
        Ok(())
    }

    fn with_threads(&self, threads: usize) -> Result<Self, StepError> {
        Ok(Self::new(self.stepper.with_threads(threads)?, self.stop))
    }
}
