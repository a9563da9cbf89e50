//! Runs a plan.

use smallmind_kernels::{Mat, Part};

use crate::arena::{Buffer, Frame, Space};
use crate::graph::Phase;
use crate::plan::{Plan, Step, Workers};
use crate::pool::Team;
use crate::{Batch, GraphError, Pool, Probe, Scalars};

/// Parameters, to read or also to write.
#[derive(Debug)]
pub enum Weights<'a> {
    /// Inference and gradients: read only.
    Shared(&'a [f32]),
    /// An optimizer's update writes them.
    Exclusive(&'a mut [f32]),
}

/// The memories beside the arena that a run touches; each laid out as [`crate::Layout`] says.
#[derive(Debug)]
pub struct Bindings<'a> {
    /// The parameters.
    pub params: Weights<'a>,
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
        Self { params: Weights::Shared(params), grads: None, moments: None, cache: None }
    }
}

/// A plan with its arena.
pub struct Executor {
    plan: Plan,
    arena: Buffer,
    tokens: usize,
    outputs: usize,
}

impl Executor {
    /// Allocates the arena of `plan`: the last allocation.
    ///
    /// # Errors
    /// [`GraphError::OutOfMemory`].
    pub fn new(plan: Plan) -> Result<Self, GraphError> {
        let arena = Buffer::zeroed(plan.arena_len)?;
        Ok(Self { plan, arena, tokens: 0, outputs: 0 })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
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
        let plan = &self.plan;
        batch.check(&plan.limits, &plan.needs)?;
        if pool.threads() != plan.threads {
            return Err(GraphError::Limit { what: "threads", got: pool.threads(), limit: plan.threads });
        }
        if cfg!(debug_assertions) {
            self.arena.fill(f32::NAN);
        }
        let mut frame = Frame::new(&mut self.arena, plan.scratch.clone(), plan.threads, batch, scalars);
        bind(&mut frame, plan, bindings)?;
        pool.run(|worker, team| work(&plan.steps, &frame, Part { index: worker, count: plan.threads }, team, probe));
        self.tokens = batch.len();
        self.outputs = batch.outputs().len();
        Ok(())
    }

    /// A result of the last run, with as many rows as its batch had; none for a name that the graph lacks.
    pub fn result(&self, name: &str) -> Option<Mat<'_>> {
        let value = self.plan.graph.result(name)?;
        let view = self.plan.view(value)?;
        let rows = view.rows.resolve(self.tokens, self.outputs);
        Some(Mat::new(&self.arena[view.offset..], rows, view.cols))
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

/// Binds what the plan touches and checks that it is there in the right size.
fn bind<'a>(frame: &mut Frame<'a>, plan: &Plan, bindings: Bindings<'a>) -> Result<(), GraphError> {
    let need = plan.graph.params.layout().len();
    let sized = |what, got: usize, need: usize| {
        if got == need { Ok(()) } else { Err(GraphError::Binding { what, need, got }) }
    };
    let updates = plan.graph.nodes.iter().any(|n| n.phase == Phase::Update && n.op.effects().parameters);
    match bindings.params {
        Weights::Shared(params) => {
            sized("parameters", params.len(), need)?;
            sized("writable parameters", if updates { 0 } else { need }, need)?;
            frame.bind(Space::Params, params);
        }
        Weights::Exclusive(params) => {
            sized("parameters", params.len(), need)?;
            frame.bind_mut(Space::Params, params);
        }
    }
    if plan.graph.nodes.iter().any(|n| n.op.effects().gradients) {
        let grads = bindings.grads.unwrap_or_default();
        sized("gradients", grads.len(), need)?;
        frame.bind_mut(Space::Grads, grads);
    }
    if updates {
        let (m, v) = bindings.moments.unwrap_or_default();
        sized("first moments", m.len(), need)?;
        sized("second moments", v.len(), need)?;
        frame.bind_mut(Space::Moment1, m);
        frame.bind_mut(Space::Moment2, v);
    }
    if let Some(shape) = plan.cache {
        let cache = bindings.cache.unwrap_or_default();
        sized("key-value cache", cache.len(), shape.len())?;
        frame.bind_mut(Space::Cache, cache);
    }
    Ok(())
}
