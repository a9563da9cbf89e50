//! Runs a plan.
#![allow(unsafe_code)]

use std::sync::Arc;

use smallmind_kernels::{Mat, Part};

use crate::access::Space;
use crate::error::StorageUse;
use crate::frame::{Frame, Worker};
use crate::pool::Team;
use crate::step::{Step, Workers};
use crate::watch::Watch;
use crate::{Batch, Buffer, Cache, GraphError, Limits, ParamStore, Plan, Pool, Probe, Scalars, Storage};

/// The memory of all parameters.
#[derive(Debug)]
pub enum ParamMemory<'a> {
    /// Flat `f32`, read only: inference and gradients.
    Shared(&'a [f32]),
    /// In a store, as the storage of the plan says, read only: inference.
    Stored(&'a ParamStore),
    /// Flat `f32`, written by an optimizer's update.
    Exclusive(&'a mut [f32]),
}

/// The buffers besides the arena that a run touches. All but the cache and stored parameters are laid out as
/// [`crate::FlatLayout`] says.
#[derive(Debug)]
pub struct Bindings<'a> {
    /// The parameters.
    pub params: ParamMemory<'a>,
    /// Their gradients, for training.
    pub grads: Option<&'a mut [f32]>,
    /// AdamW's moments: means of gradients and of their squares.
    pub moments: Option<(&'a mut [f32], &'a mut [f32])>,
    /// The key-value cache, of the plan's [`Plan::cache`] shape.
    pub cache: Option<&'a mut Cache>,
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
    /// Sorted by their limits on tokens, the largest last.
    plans: Vec<Plan>,
    arena: Buffer,
    watch: Watch,
    /// The index of the plan of the last run.
    latest: usize,
    /// How many tokens the batch of the last run had.
    tokens: usize,
    /// How many output rows the batch of the last run had.
    outputs: usize,
    /// Memory for [`Batch::check`]: bit `i` is set if the batch writes page `i` of the cache.
    written: Vec<u64>,
}

impl Executor {
    /// Allocates the arena of `plan`. Runs allocate nothing.
    ///
    /// # Errors
    /// [`GraphError::OutOfMemory`].
    pub fn new(plan: Plan) -> Result<Self, GraphError> {
        Self::of_ladder(vec![plan])
    }

    /// An executor that runs each batch with the smallest plan that is large enough; the `plans`, a [`Plan::ladder`],
    /// share one arena.
    ///
    /// # Errors
    /// [`GraphError::NoPlan`]; [`GraphError::OutOfMemory`].
    pub fn of_ladder(plans: Vec<Plan>) -> Result<Self, GraphError> {
        if plans.is_empty() {
            return Err(GraphError::NoPlan);
        }
        let arena = Buffer::zeroed(plans.iter().map(|plan| plan.arena_len).max().unwrap_or(0))?;
        let pages = plans.iter().map(|plan| plan.limits.pages).max().unwrap_or(0);
        let (latest, written) = (plans.len() - 1, vec![0; pages.div_ceil(64)]);
        Ok(Self { plans, arena, watch: Watch::new(), latest, tokens: 0, outputs: 0, written })
    }

    /// The largest plan.
    pub fn plan(&self) -> &Plan {
        &self.plans[self.plans.len() - 1]
    }

    /// The plan that runs a batch of this many tokens: the smallest that is large enough, or else the largest.
    pub fn plan_for(&self, tokens: usize) -> &Plan {
        &self.plans[self.plan_index(tokens, 0, 0)]
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len() * 4
    }

    fn plan_index(&self, tokens: usize, outputs: usize, spans: usize) -> usize {
        let fits =
            |Limits { tokens: t, outputs: o, spans: s, .. }: &Limits| tokens <= *t && outputs <= *o && spans <= *s;
        self.plans.iter().position(|plan| fits(&plan.limits)).unwrap_or(self.plans.len() - 1)
    }

    /// Fills the arena with NaN, so that an element that the next run does not write shows in its results. Builds with
    /// debug assertions do so before each run.
    pub fn spoil(&mut self) {
        self.arena.fill(f32::NAN);
    }

    /// Runs all steps on `batch`.
    ///
    /// # Errors
    /// A batch beyond the plan's limits, or buffers that are missing or of another size; then nothing has run.
    pub fn run<P: Probe>(
        &mut self,
        pool: &mut Pool,
        batch: &Batch,
        scalars: &Scalars,
        bindings: Bindings<'_>,
        probe: &P,
    ) -> Result<(), GraphError> {
        let index = self.plan_index(batch.len(), batch.outputs().len(), batch.spans().len());
        let plan = &self.plans[index];
        batch.check(&plan.limits, &plan.needs, &mut self.written)?;
        if pool.threads() != plan.threads {
            return Err(GraphError::Threads { plan: plan.threads, pool: pool.threads() });
        }
        check(plan, &bindings)?;
        if cfg!(debug_assertions) {
            self.arena.fill(f32::NAN);
        }
        self.watch.reset();
        let inputs = (batch, scalars);
        let mut frame =
            Frame::new(&mut self.arena[..plan.arena_len], plan.scratch.start, plan.threads, inputs, &self.watch);
        bind(&mut frame, bindings);
        probe.enter();
        pool.run(|worker, team| work(&plan.steps, &frame, Part { index: worker, count: plan.threads }, team, probe));
        probe.leave();
        self.latest = index;
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

/// What one worker does in a run: its part of every step, with a barrier before those that the plan marks.
#[inline(always)]
fn work<P: Probe>(steps: &[Step], frame: &Frame<'_>, part: Part, team: &Team<'_>, probe: &P) {
    let mut barriers = 0;
    for (index, step) in steps.iter().enumerate() {
        if step.barrier {
            team.barrier();
            barriers += 1;
        }
        let part = match step.workers {
            Workers::All => part,
            Workers::First if part.index == 0 => Part::WHOLE,
            Workers::First => continue,
        };
        if P::ENABLED {
            probe.start(part.index, index);
        }
        // SAFETY: `Step::new` checked the accesses. Each worker of the pool has a part of its own, and between this
        // step and those whose accesses conflict with its own the plan has put a barrier, at which all workers drop
        // their `Worker`.
        let worker = unsafe { Worker::new(frame, &step.accesses, part, [index, barriers]) };
        (step.run)(&worker);
        if P::ENABLED {
            probe.end(part.index, index);
        }
    }
}

/// Checks that every buffer that the plan touches is given, with the right size.
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
        let layout = |storage: Option<&Arc<Storage>>| match storage {
            Some(storage) => storage.to_string(),
            None => "flat, in rows of f32".to_owned(),
        };
        let (need, mut got) = (layout(plan.storage.as_ref()), layout(storage));
        if need == got {
            got.push_str(", for another graph");
        }
        return Err(GraphError::Storage { doing: StorageUse::Run, need, got });
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
        let got = bindings.cache.as_ref().map(|cache| cache.shape());
        if got != Some(shape) {
            let got = got.map_or("none".to_owned(), |got| got.to_string());
            return Err(GraphError::CacheShape { need: shape.to_string(), got });
        }
    }
    Ok(())
}

/// Binds the buffers of a run, which [`check`] has checked.
fn bind<'a>(frame: &mut Frame<'a>, bindings: Bindings<'a>) {
    match bindings.params {
        ParamMemory::Shared(params) => frame.bind(Space::FlatParams, params),
        ParamMemory::Stored(params) => frame.bind_store(params),
        ParamMemory::Exclusive(params) => frame.bind_mut(Space::FlatParams, params),
    }
    if let Some(grads) = bindings.grads {
        frame.bind_mut(Space::Grads, grads);
    }
    if let Some((m, v)) = bindings.moments {
        frame.bind_mut(Space::Moment1, m);
        frame.bind_mut(Space::Moment2, v);
    }
    if let Some(cache) = bindings.cache {
        frame.bind_mut(Space::Cache, cache.words_mut());
    }
}

/// Plants defects into plans. Builds with debug assertions find each of them, in whichever order workers run.
#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use smallmind_kernels::MatMut;
    use smallmind_simd::{IsaKind, Scalar, WithIsa};

    use super::*;
    use crate::access::{Access, Chunk, Extent, Read, Sharing, View, Write};
    use crate::op::{Heads, Index, Norm, Op};
    use crate::plan::Planner;
    use crate::{Decay, Graph, GraphBuilder, Init, NoProbe, NodeId, ParamSpec, PlanOptions, fuse, grad};

    /// Tokens of each of two sequences. Miri takes a thousand times as long.
    const SEQUENCE: usize = if cfg!(miri) { 6 } else { 120 };
    const VOCABULARY: usize = if cfg!(miri) { 8 } else { 320 };
    const TOKENS: usize = 2 * SEQUENCE;
    const LIMITS: Limits = Limits { tokens: TOKENS, outputs: TOKENS, spans: 2, context: SEQUENCE, pages: 4 };
    const THREADS: usize = 3;

    /// A layer with attention, over the cache or with a loss.
    fn model(is_cached: bool) -> Graph {
        let build = || {
            let mut b = GraphBuilder::new();
            let (init, decay) = (Init::Constant(0.0), Decay::No);
            let param = |b: &mut GraphBuilder, name: &str, rows, cols| {
                b.param(name, ParamSpec { name: String::new(), rows, cols, init, decay })
            };
            let (d, heads) = if cfg!(miri) { (8, Heads::new(2, 1, 4)) } else { (48, Heads::new(4, 2, 12)) };
            let table = param(&mut b, "table", VOCABULARY, d)?;
            let weight = param(&mut b, "norm", 1, d)?;
            let qkv = param(&mut b, "qkv", heads.qkv_cols(), d)?;
            let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
            let y = b.value_of(Op::Norm(Norm::Rms { weight, eps: 1e-5 }), &[x])?;
            let qkv = b.value_of(Op::Linear { weight: qkv, bias: None }, &[y])?;
            let out = if is_cached {
                b.apply(Op::CacheAppend { layer: 0, heads }, &[qkv])?;
                b.value_of(Op::CachedAttention { layer: 0, heads }, &[qkv])?
            } else {
                b.value_of(Op::Attention { heads, dropout: None }, &[qkv])?
            };
            let x = b.value_of(Op::Add, &[x, out])?;
            if is_cached {
                let rows = b.value_of(Op::SelectRows, &[x])?;
                let logits = b.value_of(Op::Linear { weight: table, bias: None }, &[rows])?;
                b.result("logits", logits);
                return Ok(fuse(&b.finish()));
            }
            let loss = b.value_of(Op::LinearCrossEntropy { weight: table, cap: None }, &[x])?;
            b.result("loss", loss);
            Ok::<Graph, GraphError>(fuse(&grad(&b.finish(), "loss")?))
        };
        build().unwrap()
    }

    /// Portable code alone, so that the kernels of other instruction sets are not compiled again for these tests.
    fn plan(is_cached: bool) -> Plan {
        let graph = Arc::new(model(is_cached));
        let options = PlanOptions::flat(LIMITS, THREADS, IsaKind::Scalar);
        let planner = Planner { graph, options, ropes: &mut vec![] };
        planner.call(Scalar::new()).unwrap()
    }

    /// Runs a plan on a batch that fills it; returns the message if it panics.
    fn run(plan: Plan) -> Result<(), String> {
        let mut batch = Batch::with_capacity(&LIMITS);
        for pages in [[0, 1], [2, 3]] {
            let tokens: Vec<u32> = (0..SEQUENCE as u32).collect();
            match plan.cache {
                Some(_) => batch.push_cached(&tokens, 0, &pages),
                None => batch.push_with_targets(&tokens, &tokens),
            }
        }
        batch.want_all();
        let flat = || Buffer::zeroed(plan.params_len).unwrap();
        let (params, mut grads) = (flat(), flat());
        let mut cache = plan.cache.clone().map(|shape| Cache::new(shape).unwrap());
        let mut executor = Executor::new(plan).unwrap();
        let mut pool = Pool::new(THREADS).unwrap();
        let bindings = Bindings { grads: Some(&mut grads), cache: cache.as_mut(), ..Bindings::inference(&params) };
        let run = AssertUnwindSafe(|| executor.run(&mut pool, &batch, &Scalars::default(), bindings, &NoProbe));
        match catch_unwind(run) {
            Ok(result) => {
                result.unwrap();
                Ok(())
            }
            Err(panic) => match panic.downcast::<String>() {
                Ok(formatted) => Err(*formatted),
                Err(panic) => Err(panic.downcast_ref::<&str>().copied().unwrap_or_default().to_owned()),
            },
        }
    }

    #[test]
    fn an_executor_without_plans_is_refused() {
        assert!(matches!(Executor::of_ladder(vec![]), Err(GraphError::NoPlan)));
    }

    #[test]
    fn a_missing_barrier_is_found() {
        for is_cached in [false, true] {
            assert_eq!(run(plan(is_cached)), Ok(()));
            let places: Vec<usize> =
                (0..).zip(plan(is_cached).steps()).filter(|(_, s)| s.barrier).map(|(i, _)| i).collect();
            assert!(places.len() > 3 || cfg!(miri), "{} barriers", places.len());
            // Miri would end the process at the race.
            for place in places.into_iter().filter(|_| !cfg!(miri)) {
                let mut plan = plan(is_cached);
                plan.steps[place].barrier = false;
                let found = run(plan);
                let is_race =
                    found.as_ref().is_err_and(|panic| panic.ends_with("race") || panic == "another worker panicked");
                assert!(is_race, "cached: {is_cached}, without the barrier before step {place}: {found:?}");
            }
        }
    }

    fn taken(_: MatMut<'_>) {}

    /// The panic of a plan of one step, whose workers do `work`. The step declares one access, as given by the other
    /// arguments, to a value of [`TOKENS`] rows.
    fn planted(
        extent: Extent,
        sharing: Sharing,
        writes: bool,
        work: impl Fn(&Worker<'_>) + Send + Sync + 'static,
    ) -> String {
        let mut plan = plan(false);
        let value = plan.views.iter().flatten().find(|view| view.rows == crate::Rows::Tokens).unwrap();
        let view = View { extent, ..*value };
        let elements = view.offset..view.offset + TOKENS * view.cols;
        let accesses = vec![Access { view, elements, sharing, writes }];
        let mut step = Step::new(NodeId(0), Workers::All, accesses, work);
        step.barrier = true;
        plan.steps = vec![step];
        run(plan).expect_err("the defect is found")
    }

    #[test]
    fn an_undeclared_access_is_found() {
        let (any, own) = (Sharing::Unpartitioned, Sharing::OwnRows { granule: 4 });
        let panic = planted(Extent::All, any, true, |w| taken(w.own_mut(Write(1))));
        assert!(panic.contains("out of bounds"), "{panic}");
        let panic = planted(Extent::All, own, false, |w| taken(w.own_mut(Write(0))));
        assert!(panic.contains("declared as a read"), "{panic}");
        let panic = planted(Extent::All, own, true, |w| {
            let _ = w.own(Read(0));
        });
        assert!(panic.contains("declared as a write"), "{panic}");
        let panic = planted(Extent::All, own, false, |w| {
            let _ = w.all(Read(0));
        });
        assert!(panic.contains("is partitioned among the workers"), "{panic}");
        let panic = planted(Extent::All, any, false, |w| {
            let _ = w.own(Read(0));
        });
        assert!(panic.contains("no part of"), "{panic}");
        let panic = planted(Extent::All, own, true, |w| {
            let _both = (w.own_mut(Write(0)), w.own_mut(Write(0)));
        });
        assert!(panic.contains("twice in one step"), "{panic}");
    }

    #[test]
    fn a_wrong_window_is_found() {
        let any = Sharing::Unpartitioned;
        let part = TOKENS / 6;
        let chunk = Extent::Chunk(Chunk { first: 0, max: 2 * part });
        let beyond = format!("of which this run has 0..{}", 2 * part);
        let panic = planted(chunk, any, true, move |w| {
            let first = part * w.part().index;
            let rows = first..first + part + 1;
            // SAFETY: the last window leaves the chunk, which is refused; the others overlap in a row, which is too,
            // and nothing is written.
            taken(unsafe { w.window_mut(Write(0), rows, 0..1) });
        });
        assert!(panic.contains(&beyond) || panic.ends_with("race"), "{panic}");
        let panic = planted(Extent::All, any, true, |w| {
            let index = w.part().index;
            // SAFETY: windows overlap in a column, which is refused; nothing is written.
            taken(unsafe { w.window_mut(Write(0), 0..TOKENS, 2 * index..2 * index + 3) });
        });
        assert!(panic.ends_with("race"), "{panic}");
        let panic = planted(chunk, any, true, move |w| {
            // SAFETY: the window leaves the chunk, which is refused.
            taken(unsafe { w.window_mut(Write(0), 2 * part..2 * part + 1, 0..1) });
        });
        assert!(panic.contains(&beyond), "{panic}");
    }

    #[test]
    #[should_panic(expected = "a step writes what it has declared twice")]
    fn accesses_of_a_step_that_overlap_are_found() {
        let view = View::new(Space::Arena, 0, crate::Rows::Tokens, 4);
        let access = |offset: usize, writes| Access {
            view: View { offset, ..view },
            elements: offset..offset + 40,
            sharing: Sharing::Unpartitioned,
            writes,
        };
        Step::new(NodeId(0), Workers::All, vec![access(0, false), access(36, true)], |_| {});
    }
}
