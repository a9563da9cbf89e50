//! The steps of training: draw batches, accumulate gradients over micro-batches, update.
//!
//! [`Trainer`](crate::Trainer) adds the schedule of the learning rate, estimates, checkpoints and logs. The profiler
//! and the quick start time steps without those.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use smallmind_graph::{Batch, Precision, Probe};
use smallmind_model::{Model, ModelError};
use smallmind_simd::IsaKind;

use crate::batches::Batches;
use crate::config::{TrainConfig, check_precision};
use crate::data::{DataError, Dataset, Draw};
use crate::run_files::{self, STATE_VERSION, TrainerState};
use crate::{BatchShape, DropoutDraw, Learner, Moments, Optimizer, TrainError, UpdateStats, Windows, prepare};

/// The settings of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// Sizes of a micro-batch.
    pub shape: BatchShape,
    /// Number of micro-batches in a step.
    pub micro_batches: usize,
    /// Where windows begin.
    pub windows: Windows,
    /// Constants of the optimizer.
    pub optimizer: Optimizer,
    /// The format in which the factors of products are multiplied.
    pub precision: Precision,
    /// Seed of batches and dropout.
    pub seed: u64,
}

impl StepSettings {
    /// The settings of a step in `config`.
    ///
    /// # Errors
    /// Settings that aren't a valid model.
    pub fn of(config: &TrainConfig) -> Result<Self, TrainError> {
        Ok(Self {
            shape: config.batch_shape()?,
            micro_batches: config.micro_batches()?,
            windows: config.data.windows,
            optimizer: config.optimizer(),
            precision: config.train.precision,
            seed: config.train.seed,
        })
    }

    /// The same step over micro-batches of another shape, with `total` tokens in all; if `total` is 0, over one
    /// micro-batch.
    ///
    /// # Errors
    /// [`StepSizeError`].
    pub fn over(self, shape: BatchShape, total: usize) -> Result<Self, StepSizeError> {
        let BatchShape { sequences, context } = shape;
        let each = sequences.saturating_mul(context);
        if each > StepSizeError::MOST || total > StepSizeError::MOST {
            return Err(StepSizeError::TooLarge { sequences, context });
        }
        if each == 0 || !total.is_multiple_of(each) {
            return Err(StepSizeError::Indivisible { total, sequences, context });
        }
        Ok(Self { shape, micro_batches: (total / each).max(1), ..self })
    }

    /// Tokens in a step.
    pub fn tokens(&self) -> usize {
        self.micro_batches * self.shape.tokens()
    }
}

/// Why micro-batches of a shape can't make a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepSizeError {
    /// More than [`StepSizeError::MOST`] tokens.
    #[error("{sequences} sequences of {context} tokens are more than a step should have")]
    TooLarge {
        /// Sequences of a micro-batch.
        sequences: usize,
        /// Tokens of each.
        context: usize,
    },
    /// The tokens of the step aren't a multiple of those of a micro-batch.
    #[error(
        "a step of {total} tokens can't be gathered over micro-batches of {sequences} sequences of {context} tokens"
    )]
    Indivisible {
        /// Tokens of the step.
        total: usize,
        /// Sequences of a micro-batch.
        sequences: usize,
        /// Tokens of each.
        context: usize,
    },
}

impl StepSizeError {
    /// The most tokens of a step.
    pub const MOST: usize = 1 << 20;
}

/// A checkpoint that was written to be timed.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedCheckpoint {
    /// Seconds to check, write and sync it and to remove the one before.
    pub seconds: f64,
    /// The warning that training would give, if any.
    pub warning: Option<String>,
}

/// A learner and its data. Steps and micro-batches are counted from 0.
pub struct Stepper {
    pub(crate) learner: Learner,
    pub(crate) data: Arc<Dataset>,
    /// The token that ends documents.
    end: Option<u32>,
    pub(crate) batches: Batches,
    pub(crate) batch: Batch,
    pub(crate) settings: StepSettings,
}

impl Stepper {
    /// Plans the steps of `model` on `data`, whose documents end with the token `end` if there is one.
    ///
    /// # Errors
    /// Less text than a window, a context beyond the model's, a precision that the CPU lacks, or too little memory.
    pub fn new(
        model: Model,
        settings: StepSettings,
        (data, end): (Arc<Dataset>, Option<u32>),
        threads: usize,
        isa: IsaKind,
    ) -> Result<Self, TrainError> {
        let batches = Batches::new(settings.windows, &data, end, settings.shape)?;
        check_precision(settings.precision, isa)?;
        let learner = Learner::new(model, settings.shape, settings.optimizer, settings.precision, threads, isa)?;
        Ok(Self { learner, data, end, batches, batch: Batch::default(), settings })
    }

    /// The same steps with tokens before each window: [`Batches::with_prefix`].
    ///
    /// # Errors
    /// As [`Batches::with_prefix`].
    pub fn with_prefix(mut self, prefix: &[u32]) -> Result<Self, DataError> {
        self.batches = self.batches.with_prefix(prefix)?;
        Ok(self)
    }

    /// A copy of the model on the same data, with another number of threads and moments of zero.
    ///
    /// # Errors
    /// Too little memory.
    pub fn with_threads(&self, threads: usize) -> Result<Self, TrainError> {
        let (model, isa) = (self.learner.model().try_clone()?, self.learner.gradient_plan().isa());
        let copy = Self::new(model, self.settings, (self.data.clone(), self.end), threads, isa)?;
        Ok(copy.with_prefix(self.batches.prefix())?)
    }

    /// Draws the sequences of a micro-batch into [`batch`](Self::batch).
    ///
    /// # Errors
    /// Files that can't be read.
    pub fn draw(&mut self, step: u64, micro_batch: usize) -> Result<(), DataError> {
        let first_row = (micro_batch * self.settings.shape.sequences) as u64;
        self.batches.fill(&self.data, Draw { seed: self.settings.seed, step, first_row }, &mut self.batch)
    }

    /// The micro-batches of a typical step among the first `steps`. If windows are documents, steps differ in the
    /// number of pairs of tokens of the same sequence; the typical step has the median of these numbers. All of these
    /// steps are drawn, so that later draws allocate nothing.
    ///
    /// # Errors
    /// Files that can't be read.
    pub fn typical_batches(&mut self, steps: u64) -> Result<Vec<Batch>, DataError> {
        let micro_batches = self.settings.micro_batches;
        let mut pairs = vec![];
        for step in 0..steps {
            let mut sum = 0;
            for micro_batch in 0..micro_batches {
                self.draw(step, micro_batch)?;
                sum += self.batch.spans().iter().map(|span| span.len * span.len).sum::<usize>();
            }
            pairs.push((sum, step));
        }
        pairs.sort_unstable();
        let step = pairs.get(pairs.len() / 2).map_or(0, |(_, step)| *step);
        let mut batches = Vec::with_capacity(micro_batches);
        for micro_batch in 0..micro_batches {
            self.draw(step, micro_batch)?;
            batches.push(self.batch.clone());
        }
        Ok(batches)
    }

    /// Runs forward and backward of the drawn micro-batch and adds its gradients; returns the sum of its losses.
    ///
    /// # Errors
    /// Tokens beyond the model's vocabulary.
    pub fn accumulate<P: Probe>(&mut self, step: u64, micro_batch: usize, probe: &P) -> Result<f64, ModelError> {
        let all = self.settings.micro_batches;
        // The number wraps around: masks repeat after 2³² micro-batches.
        let dropout_step = (step as u32).wrapping_mul(all as u32).wrapping_add(micro_batch as u32);
        let dropout = DropoutDraw { seed: self.settings.seed, step: dropout_step };
        self.learner.accumulate(&self.batch, self.targets(), dropout, probe)
    }

    /// Targets of a step, over all its micro-batches.
    pub fn targets(&self) -> usize {
        self.settings.micro_batches * self.batches.targets()
    }

    /// Draws and runs all micro-batches of a step and adds their gradients; returns the sum of their losses.
    ///
    /// # Errors
    /// Files that can't be read, or tokens beyond the model's vocabulary.
    pub fn gather<P: Probe>(&mut self, step: u64, probe: &P) -> Result<f64, TrainError> {
        let mut sum = 0.0;
        for micro_batch in 0..self.settings.micro_batches {
            self.draw(step, micro_batch)?;
            sum += self.accumulate(step, micro_batch, probe)?;
        }
        Ok(sum)
    }

    /// Clips the accumulated gradients and updates the weights.
    ///
    /// # Errors
    /// None should happen: the plan was made for this model.
    pub fn update<P: Probe>(&mut self, learning_rate: f64, probe: &P) -> Result<UpdateStats, ModelError> {
        self.learner.update(learning_rate, probe)
    }

    /// The learner.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// The last drawn micro-batch.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The settings of a step.
    pub fn settings(&self) -> &StepSettings {
        &self.settings
    }

    /// Times a checkpoint: writes into the folder `run` what training writes after `step` steps, and removes the
    /// checkpoint before.
    ///
    /// # Errors
    /// A disk that is full or fails, or weights that are not finite.
    pub fn time_checkpoint(
        &self,
        run: &Path,
        step: u64,
        config: &TrainConfig,
        tokenizer: &[u8],
    ) -> Result<TimedCheckpoint, TrainError> {
        let rolling = run_files::checkpoints(run, 1);
        let state = TrainerState {
            schema_version: STATE_VERSION,
            step,
            config: config.clone(),
            best_val_loss: None,
            last_losses: None,
            seconds: 0.0,
        };
        let begin = Instant::now();
        if let Some(what) = self.first_non_finite() {
            return Err(TrainError::NonFinite { step, what, checkpoint: 0 });
        }
        let published = run_files::write_checkpoint(&rolling, &self.learner, &state, tokenizer)?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok(TimedCheckpoint { seconds, warning: published.not_removed.as_ref().map(run_files::not_removed) })
    }

    /// The first parameter with a weight or moment that is not finite. A checkpoint with such values can't be loaded.
    pub(crate) fn first_non_finite(&self) -> Option<String> {
        let model = self.learner.model();
        let Moments { first, second } = self.learner.moments();
        let all = [("", model.weights()), ("the first moment of ", first), ("the second moment of ", second)];
        all.into_iter().find_map(|(kind, values)| Some(format!("{kind}`{}`", model.first_non_finite(values)?)))
    }
}

/// The parts of a run from which training is resumed: model and settings of the newest whole checkpoint, and the data.
///
/// Reading them neither locks nor changes the folder, to which a training run may be writing.
pub struct RunParts {
    /// The model of the checkpoint.
    pub model: Model,
    /// The settings of the checkpoint.
    pub config: TrainConfig,
    /// Tokenizer and tokens of the run.
    pub prepared: crate::Prepared,
    /// Messages about newer checkpoints that are damaged.
    pub warnings: Vec<String>,
}

impl RunParts {
    /// Reads the parts from the folder `run`.
    ///
    /// # Errors
    /// No run, no whole checkpoint, or data that are missing or damaged.
    pub fn open(run: &Path) -> Result<Self, TrainError> {
        let (checkpoint, state, warnings) = run_files::latest(run)?;
        let model = run_files::read_model(&checkpoint.path)?;
        Ok(Self { model, config: state.config, prepared: prepare::open(run)?, warnings })
    }
}
