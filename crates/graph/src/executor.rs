//! Runs a plan.

use std::sync::Arc;

use smallmind_kernels::{Mat, Part};

use crate::arena::{Buffer, Frame, Space};
use crate::plan::{Plan, Step, Workers};
use crate::pool::Team;
use crate::{Batch, GraphError, ParamStore, Pool, Probe, Scalars, Storage};

/// The memory of parameters, to read or also to write.
#[derive(Debug)]
pub enum ParamMemory<'a> {
    /// Flat `f32`, read only: inference and gradients.
    Shared(&'a [f32]),
    /// As the storage of the plan says, read only: inference.
    Stored(&'a ParamStore),
    /// An optimizer's update writes them.
    Exclusive(&'a mut [f32]),
}

/// The memories beside the arena that a run touches; each laid out as [`crate::Layout`] says.
#[derive(Debug)]
pub struct Bindings<'a> {
    /// The parameters.
    pub params: ParamMemory<'a>,
    /// Their gradients, for training.
    pub grads: Option<&'a mut [f32]>,
    /// AdamW's moments: means of gradients and of their squares.
    pub moments: Option<(&'a mut [f32], &'a mut [f32])>,
    /// The key-value cache, of the plan's [`Plan::cache`] shape.
    pub cache: Option<&'a mut [f32]>,
}

impl<'a> Bindings<'a> {
    /// Parameters to read, nothing else.
    pub fn inference(params: &'a [f32]) -> Self {
        Self { params: ParamMemory::Shared(params), grads: None, moments: None, cache: None }
    }

    /// Stored parameters to read, nothing else.
    pub fn stored(params: &'a ParamStore) -> Self {
        Self { params: ParamMemory::Stored(params), grads: None, moments: None, cache: None }
    }
}

/// Plans with the arena that they share.
pub struct Executor {
    /// Rising in tokens.
    plans: Vec<Plan>,
    arena: Buffer,
    /// The plan of the last run, and its batch's tokens and outputs.
    latest: usize,
    tokens: usize,
    outputs: usize,
    /// A bit for each page of the cache: those that a batch writes.
    written: Vec<u64>,
}

impl Executor {
    /// Allocates the arena of `plan`: the last allocation.
    ///
    /// # Errors
    /// [`GraphError::OutOfMemory`].
    pub fn new(plan: Plan) -> Result<Self, GraphError> {
        Self::of_ladder(vec![plan])
    }

    /// An executor that runs each batch by the smallest of the `plans` of a [`Plan::ladder`] that it fits, all over one arena.
    ///
    /// # Errors
    /// No plan; too little memory.
    pub fn of_ladder(plans: Vec<Plan>) -> Result<Self, GraphError> {
        if plans.is_empty() {
            return Err(GraphError::Batch("no plan to run a batch by".to_owned()));
        }
        let arena = Buffer::zeroed(plans.iter().map(|plan| plan.arena_len).max().unwrap_or(0))?;
        let pages = plans.iter().map(|plan| plan.limits.pages).max().unwrap_or(0);
        Ok(Self { latest: plans.len() - 1, plans, arena, tokens: 0, outputs: 0, written: vec![0; pages.div_ceil(64)] })
    }

    /// The largest plan.
    pub fn plan(&self) -> &Plan {
        &self.plans[self.plans.len() - 1]
    }

    /// The plan that runs a batch of so many tokens: the smallest that it fits, else the largest.
    pub fn plan_for(&self, tokens: usize) -> &Plan {
        &self.plans[self.rung(tokens)]
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len() * 4
    }

    fn rung(&self, tokens: usize) -> usize {
        self.plans.iter().position(|plan| tokens <= plan.limits.tokens).unwrap_or(self.plans.len() - 1)
    }

    /// Fills the arena with NaN, so that an element which the next run does not write is seen in its results. Builds with
    /// debug assertions do so before each run.
    pub fn spoil(&mut self) {
        self.arena.fill(f32::NAN);
    }

    /// Runs all steps on `batch`.
    ///
    /// # Errors
    /// A batch beyond the plan's limits, or memories that are missing or of another size; then nothing has run.
    pub fn run<P: Probe>(
        &mut self,
        pool: &mut Pool,
        batch: &Batch,
        scalars: &Scalars,
        bindings: Bindings<'_>,
        probe: &P,
    ) -> Result<(), GraphError> {
        let rung = self.rung(batch.len());
        let plan = &self.plans[rung];
        batch.check(&plan.limits, &plan.needs, &mut self.written)?;
        if pool.threads() != plan.threads {
            return Err(GraphError::Threads { plan: plan.threads, pool: pool.threads() });
        }
        check(plan, &bindings)?;
        if cfg!(debug_assertions) {
            self.arena.fill(f32::NAN);
        }
        let mut frame = Frame::new(&mut self.arena, plan.scratch.clone(), plan.threads, batch, scalars);
        bind(&mut frame, bindings);
        probe.enter();
        pool.run(|worker, team| work(&plan.steps, &frame, Part { index: worker, count: plan.threads }, team, probe));
        probe.leave();
        self.latest = rung;
        self.tokens = batch.len();
        self.outputs = batch.outputs().len();
        Ok(())
    }

    /// A result of the last run, with as many rows as its batch had; none for a name that the graph lacks.
    pub fn result(&self, name: &str) -> Option<Mat<'_>> {
        let plan = &self.plans[self.latest];
        let view = plan.view(plan.graph.result(name)?)?;
        let rows = view.rows.resolve(self.tokens, self.outputs);
        Some(Mat::new(&self.arena[view.offset..], rows, view.cols))
    }

    /// A result of the last run as one slice, row after row; none for a name that the graph lacks.
    pub fn result_slice(&self, name: &str) -> Option<&[f32]> {
        let plan = &self.plans[self.latest];
        let view = plan.view(plan.graph.result(name)?)?;
        let rows = view.rows.resolve(self.tokens, self.outputs);
        Some(&self.arena[view.offset..view.offset + rows * view.cols])
    }
}

/// What one worker does in a run: its part of every step, meeting the others where the plan says so.
#[inline(always)]
fn work<P: Probe>(steps: &[Step], frame: &Frame<'_>, part: Part, team: &Team<'_>, probe: &P) {
    for (index, step) in steps.iter().enumerate() {
        if step.barrier {
            team.barrier();
        }
        let part = match step.workers {
            Workers::All => part,
            Workers::First if part.index == 0 => Part::WHOLE,
            Workers::First => continue,
        };
        if P::ENABLED {
            probe.start(part.index, index);
        }
        (step.run)(frame, part);
        if P::ENABLED {
            probe.end(part.index, index);
        }
    }
}

/// Checks that what the plan touches is there in the right size.
fn check(plan: &Plan, bindings: &Bindings<'_>) -> Result<(), GraphError> {
    let need = plan.params_len;
    let sized = |what, got: usize, need: usize| {
        if got == need { Ok(()) } else { Err(GraphError::Binding { what, need, got }) }
    };
    let (storage, writable) = match &bindings.params {
        ParamMemory::Shared(params) => {
            sized("parameters", params.len(), need)?;
            (None, 0)
        }
        ParamMemory::Stored(params) => (Some(params.storage()), 0),
        ParamMemory::Exclusive(params) => {
            sized("parameters", params.len(), need)?;
            (None, params.len())
        }
    };
    if storage != plan.storage.as_ref() {
        let words = |storage: Option<&Arc<Storage>>| match storage {
            Some(storage) => storage.to_string(),
            None => "flat, in rows of f32".to_owned(),
        };
        let (need, mut got) = (words(plan.storage.as_ref()), words(storage));
        if need == got {
            got.push_str(", for another graph");
        }
        return Err(GraphError::Storage { need, got });
    }
    if plan.effects.parameters {
        sized("writable parameters", writable, need)?;
        let (m, v) = bindings.moments.as_ref().map_or((0, 0), |(m, v)| (m.len(), v.len()));
        sized("first moments", m, need)?;
        sized("second moments", v, need)?;
    }
    if plan.effects.gradients {
        sized("gradients", bindings.grads.as_ref().map_or(0, |g| g.len()), need)?;
    }
    if let Some(shape) = &plan.cache {
        sized("key-value cache", bindings.cache.as_ref().map_or(0, |c| c.len()), shape.len())?;
    }
    Ok(())
}

/// Lets the steps reach what was given; steps touch only what [`check`] has seen.
fn bind<'a>(frame: &mut Frame<'a>, bindings: Bindings<'a>) {
    match bindings.params {
        ParamMemory::Shared(params) => frame.bind(Space::Params, params),
        ParamMemory::Stored(params) => frame.store = Some(params),
        ParamMemory::Exclusive(params) => frame.bind_mut(Space::Params, params),
    }
    if let Some(grads) = bindings.grads {
        frame.bind_mut(Space::Grads, grads);
    }
    if let Some((m, v)) = bindings.moments {
        frame.bind_mut(Space::Moment1, m);
        frame.bind_mut(Space::Moment2, v);
    }
    if let Some(cache) = bindings.cache {
        frame.bind_mut(Space::Cache, cache);
    }
}
