//! The steps of a training: batches drawn, gradients gathered over micro-batches, one update.
//!
//! [`Trainer`](crate::Trainer) adds the course of the learning rate, estimates, checkpoints and logs; who only wants to know what a step
//! takes does without those.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use smallmind_graph::{Batch, Probe};
use smallmind_model::{Model, ModelError};
use smallmind_simd::IsaKind;

use crate::batches::{Batches, Draw};
use crate::config::TrainConfig;
use crate::data::{DataError, Dataset};
use crate::run_folder::{self, STATE_VERSION, TrainerState};
use crate::{BatchShape, Learner, Optimizer, TrainError, Update, Windows, prepare};

/// What a step of a training is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// Of a micro-batch.
    pub shape: BatchShape,
    /// Micro-batches in a step.
    pub micro_batches: usize,
    /// Where their windows begin.
    pub windows: Windows,
    /// What the gradients are turned into steps by.
    pub optimizer: Optimizer,
    /// Of batches and dropout.
    pub seed: u64,
}

impl StepSettings {
    /// What a training that is told `config` does in a step.
    ///
    /// # Errors
    /// Numbers that make no model.
    pub fn of(config: &TrainConfig) -> Result<Self, TrainError> {
        Ok(Self {
            shape: config.batch_shape()?,
            micro_batches: config.micro_batches()?,
            windows: config.data.windows,
            optimizer: config.optimizer(),
            seed: config.train.seed,
        })
    }

    /// The same step over micro-batches of another shape, as many as have `total` tokens together; 0 is one
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

/// Why micro-batches of a shape make no step.
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
    /// No number of micro-batches has as many tokens as the step.
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

/// A checkpoint that was written to see how long that takes.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedCheckpoint {
    /// Seconds of checking, writing and syncing it and of removing the one before.
    pub seconds: f64,
    /// What a training would warn of.
    pub warning: Option<String>,
}

/// A learner with the data that it learns from. Step and micro-batch are counted from 0.
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
    /// Plans the steps of `model` on `data`, whose documents end with the token `end`.
    ///
    /// # Errors
    /// Less text than a window, a context beyond the model's, or too little memory.
    pub fn new(
        model: Model,
        settings: StepSettings,
        (data, end): (impl Into<Arc<Dataset>>, Option<u32>),
        threads: usize,
        isa: IsaKind,
    ) -> Result<Self, TrainError> {
        let data = data.into();
        let batches = Batches::new(settings.windows, &data, end, settings.shape)?;
        let learner = Learner::new(model, settings.shape, settings.optimizer, threads, isa)?;
        Ok(Self { learner, data, end, batches, batch: Batch::default(), settings })
    }

    /// The same model and data on another number of threads, with moments of zero.
    ///
    /// # Errors
    /// Too little memory.
    pub fn with_threads(&self, threads: usize) -> Result<Self, TrainError> {
        let (model, isa) = (self.learner.model().try_clone()?, self.learner.plans().0.isa());
        Self::new(model, self.settings, (self.data.clone(), self.end), threads, isa)
    }

    /// Draws the sequences of a micro-batch.
    ///
    /// # Errors
    /// Files that can't be read.
    pub fn draw(&mut self, step: u64, micro_batch: usize) -> Result<(), DataError> {
        let first_row = (micro_batch * self.settings.shape.sequences) as u64;
        self.batches.fill(&self.data, Draw { seed: self.settings.seed, step, first_row }, &mut self.batch)
    }

    /// The micro-batches of a typical one of the first `steps` steps: the one whose number of pairs of a token and
    /// another of its sequence is the median, as that differs from step to step where windows are documents. All of
    /// those steps are drawn, so that later draws need no memory.
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

    /// Forward and backward of the micro-batch that was drawn: the sum of its losses.
    ///
    /// # Errors
    /// Tokens beyond the model's vocabulary.
    pub fn accumulate<P: Probe>(&mut self, step: u64, micro_batch: usize, probe: &P) -> Result<f64, ModelError> {
        let all = self.settings.micro_batches;
        // After 2³² micro-batches of a training its masks repeat.
        let dropout_step = (step as u32).wrapping_mul(all as u32).wrapping_add(micro_batch as u32);
        self.learner.accumulate(&self.batch, self.settings.tokens(), (self.settings.seed, dropout_step), probe)
    }

    /// Clips what has been gathered and updates the weights by it.
    ///
    /// # Errors
    /// None that a learner's own shapes could cause.
    pub fn update<P: Probe>(&mut self, learning_rate: f64, probe: &P) -> Result<Update, ModelError> {
        self.learner.update(learning_rate, probe)
    }

    /// The learner.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// The micro-batch that was drawn last.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// What a step is made of.
    pub fn settings(&self) -> &StepSettings {
        &self.settings
    }

    /// Writes a checkpoint as a training writes it after `step` steps into the folder `run`, in the place of the one
    /// before, and times it.
    ///
    /// # Errors
    /// A disk that is full or failing, or weights that are not finite.
    pub fn time_checkpoint(
        &self,
        run: &Path,
        step: u64,
        config: &TrainConfig,
        tokenizer: &[u8],
    ) -> Result<TimedCheckpoint, TrainError> {
        let rolling = run_folder::checkpoints(run, 1);
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
        let published = run_folder::write_checkpoint(&rolling, &self.learner, &state, tokenizer)?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok(TimedCheckpoint { seconds, warning: published.not_removed.as_ref().map(run_folder::not_removed) })
    }

    /// What of weights and moments is not finite: a checkpoint of it could not be loaded again.
    pub(crate) fn first_non_finite(&self) -> Option<String> {
        let model = self.learner.model();
        let (m, v) = self.learner.moments();
        let all = [("", model.weights()), ("the first moment of ", m), ("the second moment of ", v)];
        all.into_iter().find_map(|(kind, values)| Some(format!("{kind}`{}`", model.first_non_finite(values)?)))
    }
}

/// What the run in a folder goes on with: its model as of its newest whole checkpoint, its settings, its data. The run
/// is read and not locked, and what a killed process left in it stays there: a training may be at work.
pub struct RunParts {
    /// The model.
    pub model: Model,
    /// What the training was told.
    pub config: TrainConfig,
    /// Its text.
    pub prepared: crate::Prepared,
    /// Newer checkpoints that are damaged.
    pub warnings: Vec<String>,
}

impl RunParts {
    /// Reads them.
    ///
    /// # Errors
    /// No run, no whole checkpoint, or data that are missing or damaged.
    pub fn open(run: &Path) -> Result<Self, TrainError> {
        let (checkpoint, state, warnings) = run_folder::latest(run)?;
        let model = Model::load(&checkpoint.path)?;
        Ok(Self { model, config: state.config, prepared: prepare::open(run)?, warnings })
    }
}
