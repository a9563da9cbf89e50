//! A model in training: its plans, gradients and moments.

use smallmind_graph::op::AdamWSpec;
use smallmind_graph::{
    Batch, Bindings, Buffer, Executor, Limits, NoProbe, ParamMemory, Plan, PlanOptions, Pool, Precision, Probe,
    Scalars, update_graph,
};
use smallmind_model::{LOSS, Model, ModelConfig, ModelError, Purpose, architecture};
use smallmind_simd::IsaKind;

/// Constants of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimizer {
    /// Constants of AdamW.
    pub adamw: AdamWSpec,
    /// Gradients are clipped to this global norm; infinite for no clipping.
    pub max_norm: f64,
}

/// Sizes of a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Number of sequences.
    pub sequences: usize,
    /// Tokens of each sequence.
    pub context: usize,
}

impl BatchShape {
    /// Tokens in a micro-batch.
    pub fn tokens(&self) -> usize {
        self.sequences * self.context
    }

    /// Limits of a plan for batches of up to this size.
    pub fn limits(&self) -> Limits {
        Limits { tokens: self.tokens(), outputs: 0, spans: self.tokens(), context: self.context, pages: 0 }
    }
}

/// Figures of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateStats {
    /// Global norm of the gradients, before clipping.
    pub grad_norm: f32,
    /// The factor that clipped the gradients, at most 1.
    pub clip: f32,
}

/// Which dropout masks a run draws: they depend only on these two numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropoutDraw {
    /// The seed of the run.
    pub seed: u64,
    /// How many micro-batches of the run came before this one.
    pub step: u32,
}

/// AdamW's moments, each laid out like the weights.
#[derive(Clone, Copy, Debug)]
pub struct Moments<T> {
    /// Means of gradients.
    pub first: T,
    /// Means of squared gradients.
    pub second: T,
}

/// A model in training. Its steps allocate nothing.
pub struct Learner {
    model: Model,
    grads: Buffer,
    moments: Moments<Buffer>,
    pool: Pool,
    gradient: Executor,
    evaluation: Executor,
    update: Executor,
    /// Updates done so far.
    steps: u64,
}

impl Learner {
    /// Plans `model` for training. Evaluations are in `f32` with any `precision`.
    ///
    /// # Errors
    /// A context beyond the model's, a precision that the CPU lacks, or too little memory.
    pub fn new(
        model: Model,
        shape: BatchShape,
        optimizer: Optimizer,
        precision: Precision,
        threads: usize,
        isa: IsaKind,
    ) -> Result<Self, ModelError> {
        model.config().check_context(shape.context)?;
        let training = architecture::graph(model.config(), Purpose::Training)?;
        let evaluation = architecture::graph(model.config(), Purpose::Evaluation)?;
        let update = update_graph(model.params().clone(), optimizer.adamw, optimizer.max_norm)?;
        let options = PlanOptions::flat(shape.limits(), threads, isa);
        let none = Limits { tokens: 0, outputs: 0, spans: 0, context: 1, pages: 0 };
        let len = model.layout().len();
        Ok(Self {
            grads: Buffer::zeroed(len)?,
            moments: Moments { first: Buffer::zeroed(len)?, second: Buffer::zeroed(len)? },
            pool: Pool::new(threads)?,
            gradient: Executor::new(Plan::new(training, PlanOptions { precision, ..options.clone() })?)?,
            evaluation: Executor::new(Plan::new(evaluation, options)?)?,
            update: Executor::new(Plan::new(update, PlanOptions::flat(none, threads, isa))?)?,
            model,
            steps: 0,
        })
    }

    /// Runs forward and backward of `batch`; returns the sum of its losses, in nats. Adds the gradients of (sum of
    /// losses) / `targets` to those accumulated so far, where `targets` is the number of targets of all micro-batches
    /// of the step.
    ///
    /// # Errors
    /// A batch beyond the shape or the vocabulary.
    pub fn accumulate<P: Probe>(
        &mut self,
        batch: &Batch,
        targets: usize,
        dropout: DropoutDraw,
        probe: &P,
    ) -> Result<f64, ModelError> {
        let scalars = Scalars {
            loss_scale: 1.0 / targets.max(1) as f32,
            dropout_seed: dropout.seed,
            dropout_step: dropout.step,
            ..Scalars::default()
        };
        let bindings = Bindings { grads: Some(&mut self.grads), ..Bindings::inference(self.model.weights()) };
        self.gradient.run(&mut self.pool, batch, &scalars, bindings, probe)?;
        Ok(sum(self.gradient.result_slice(LOSS)))
    }

    /// Clips the accumulated gradients, updates the weights with them and sets them to 0. Changes nothing if their norm
    /// is not finite.
    ///
    /// # Errors
    /// None should happen: the plan was made for this model.
    pub fn update<P: Probe>(&mut self, learning_rate: f64, probe: &P) -> Result<UpdateStats, ModelError> {
        let scalars = Scalars { learning_rate, step: self.steps + 1, ..Scalars::default() };
        let bindings = Bindings {
            params: ParamMemory::Exclusive(self.model.weights_mut()),
            grads: Some(&mut self.grads),
            moments: Some((&mut self.moments.first, &mut self.moments.second)),
            cache: None,
        };
        self.update.run(&mut self.pool, &Batch::default(), &scalars, bindings, probe)?;
        let clip = self.update.result_slice(smallmind_graph::CLIP).unwrap_or(&[f32::NAN, 0.0]);
        let update = UpdateStats { grad_norm: clip[0], clip: clip[1] };
        self.steps += u64::from(update.grad_norm.is_finite());
        Ok(update)
    }

    /// The sum of the losses of a batch, in nats, without dropout and gradients.
    ///
    /// # Errors
    /// A batch beyond the shape or the vocabulary.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<f64, ModelError> {
        losses(&mut self.evaluation, &mut self.pool, ParamMemory::Shared(self.model.weights()), batch)
    }

    /// The model with its current weights.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The gradients accumulated so far, laid out like the weights.
    pub fn grads(&self) -> &[f32] {
        &self.grads
    }

    /// The plan of a micro-batch: forward and backward.
    pub fn gradient_plan(&self) -> &Plan {
        self.gradient.plan()
    }

    /// The plan of an update.
    pub fn update_plan(&self) -> &Plan {
        self.update.plan()
    }

    /// AdamW's moments.
    pub fn moments(&self) -> Moments<&[f32]> {
        Moments { first: &self.moments.first, second: &self.moments.second }
    }

    /// Updates done so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Continues after `steps` updates: `read` fills in the moments after these.
    ///
    /// # Errors
    /// The errors of `read`.
    pub fn restore<E>(&mut self, steps: u64, read: impl FnOnce(Moments<&mut [f32]>) -> Result<(), E>) -> Result<(), E> {
        read(Moments { first: &mut self.moments.first, second: &mut self.moments.second })?;
        self.steps = steps;
        Ok(())
    }
}

/// Computes the loss of models of one shape, without memory for gradients and moments.
pub struct Evaluator {
    evaluation: Executor,
    pool: Pool,
}

impl Evaluator {
    /// Plans the evaluation of models of a shape.
    ///
    /// # Errors
    /// A context beyond the model's, or too little memory.
    pub fn new(config: &ModelConfig, options: PlanOptions) -> Result<Self, ModelError> {
        config.check_context(options.limits.context)?;
        let graph = architecture::graph(config, Purpose::Evaluation)?;
        let pool = Pool::new(options.threads)?;
        Ok(Self { evaluation: Executor::new(Plan::new(graph, options)?)?, pool })
    }

    /// The sum of the losses of a batch, in nats.
    ///
    /// # Errors
    /// A batch beyond the limits or the vocabulary; weights of another model, or in another layout than planned.
    pub fn run(&mut self, weights: ParamMemory<'_>, batch: &Batch) -> Result<f64, ModelError> {
        losses(&mut self.evaluation, &mut self.pool, weights, batch)
    }

    /// The loss of each token of the batch of the last run, in nats; 0 for tokens without a target.
    pub fn losses(&self) -> &[f32] {
        self.evaluation.result_slice(LOSS).unwrap_or_default()
    }
}

/// The sum of the losses of a batch, without dropout.
fn losses(
    evaluation: &mut Executor,
    pool: &mut Pool,
    params: ParamMemory<'_>,
    batch: &Batch,
) -> Result<f64, ModelError> {
    let bindings = Bindings { params, grads: None, moments: None, cache: None };
    evaluation.run(pool, batch, &Scalars::default(), bindings, &NoProbe)?;
    Ok(sum(evaluation.result_slice(LOSS)))
}

/// The sum in double precision, in order.
fn sum(losses: Option<&[f32]>) -> f64 {
    losses.unwrap_or_default().iter().map(|x| f64::from(*x)).sum()
}
