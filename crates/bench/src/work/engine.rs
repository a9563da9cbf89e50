//! A graph of one op, planned and run as the engine runs every graph.
//!
//! ```text
//! inputs    rows of tables of noise, looked up by position: values in the arena, as other ops would leave them
//! the op    its steps are timed
//! results   in the arena or among the gradients, kept for the check
//! ```
//!
//! **What a time includes.** The executor runs the whole graph, with a [`Recorder`] as its probe, as `smallmind
//! profile` does. The time of a run is from when the first worker begins the op to when the last worker ends it. It
//! includes the steps of the op and the barriers between them. It excludes the inputs, the barrier before the op and
//! the entry into the pool.

use std::ops::Range;
use std::sync::Arc;

use smallmind_graph::op::Index;
use smallmind_graph::{
    Batch, Bindings, Buffer, Cache, CacheShape, Decay, Executor, GraphBuilder, GraphError, Init, Limits, Op,
    PAGE_TOKENS, ParamId, ParamMemory, ParamSpec, ParamStore, Plan, PlanOptions, Pool, Scalars, Storage, ValueId,
};
use smallmind_kernels::attention::{PageMut, append_to_page, page_len};
use smallmind_kernels::{Format, Mat};
use smallmind_profile::Recorder;
use smallmind_simd::{Isa, WithIsa};

use super::values::Values;
use super::{Found, Output, Target, Work, Wrong};

/// The most tokens of a sequence. Longer batches are several sequences, so that the tables of inputs stay small.
const SEQUENCE: usize = 4096;

/// Compares what has been computed with the reference.
pub(super) type Compare = Box<dyn Fn(&Found<'_>) -> Result<(), Wrong>>;

/// What an op writes besides values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum Writes {
    Values,
    /// Adds to gradients, or reads them.
    Gradients,
    /// Updates parameters, gradients and moments.
    Parameters,
}

/// Where a result is.
enum Place {
    Value,
    Gradient(ParamId),
    Parameter(ParamId),
    Moment(usize, ParamId),
}

/// A graph of one op under construction.
pub(super) struct OneOp {
    b: GraphBuilder,
    tokens: Vec<u32>,
    past: usize,
    writes: Writes,
    params: Vec<(ParamId, Values)>,
    cache: Option<Values>,
    results: Vec<(&'static str, usize, Place)>,
    /// Which node is timed.
    node: usize,
}

impl OneOp {
    /// An op on batches of `rows` tokens.
    pub(super) fn new(rows: usize) -> Self {
        Self::of_tokens(vec![0; rows])
    }

    /// An op on a batch of these tokens.
    pub(super) fn of_tokens(tokens: Vec<u32>) -> Self {
        let (b, writes) = (GraphBuilder::new(), Writes::Values);
        Self { b, tokens, past: 0, writes, params: vec![], cache: None, results: vec![], node: 0 }
    }

    /// An op on one token that follows `past` others. `cache` holds their keys and values for the one layer of the
    /// graph.
    pub(super) fn cached(past: usize, cache: Values) -> Self {
        Self { past, cache: Some(cache), ..Self::new(1) }
    }

    pub(super) fn writing(self, writes: Writes) -> Self {
        Self { writes, ..self }
    }

    /// A parameter.
    pub(super) fn param(&mut self, values: Values) -> Result<ParamId, GraphError> {
        let (init, decay) = (Init::Constant(0.0), Decay::Yes);
        let spec = ParamSpec { name: String::new(), rows: values.rows, cols: values.cols, init, decay };
        let id = self.b.param(&format!("param {}", self.params.len()), spec)?;
        self.params.push((id, values));
        Ok(id)
    }

    /// Adds a value of `cols` columns; returns it and its elements.
    pub(super) fn input(&mut self, seed: u64, limit: f32, cols: usize) -> Result<(ValueId, Values), GraphError> {
        let values = Values::new(seed, limit, self.tokens.len().min(SEQUENCE), cols);
        let table = self.param(values)?;
        // Indexed by position, the table would need a row for each past token. The id of the one token of such a batch
        // serves as well.
        let index = if self.past > 0 { Index::Tokens } else { Index::Positions };
        Ok((self.b.value_of(Op::Embedding { table, index }, &[])?, values))
    }

    /// Adds an op that the timed one needs.
    pub(super) fn before(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        self.b.apply(op, inputs)
    }

    /// Adds the op that is timed.
    pub(super) fn timed(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        self.node = self.b.graph().nodes().len();
        self.b.apply(op, inputs)
    }

    /// Marks a value to be checked.
    pub(super) fn result(&mut self, name: &'static str, value: ValueId) {
        self.b.result(name, value);
        self.results.push((name, self.b.graph().shape(value).cols, Place::Value));
    }

    /// Marks a parameter's gradient to be checked. After a reset it is [`Values::other`] of the parameter, number 1.
    pub(super) fn gradient(&mut self, name: &'static str, id: ParamId) {
        self.results.push((name, self.cols(id), Place::Gradient(id)));
    }

    /// Marks a parameter to be checked, with its moments. After a reset these are [`Values::other`] of the parameter,
    /// number 2, and [`second_moment`] of number 3.
    pub(super) fn updated(&mut self, name: &'static str, moments: [&'static str; 2], id: ParamId) {
        self.results.push((name, self.cols(id), Place::Parameter(id)));
        for (which, name) in moments.into_iter().enumerate() {
            self.results.push((name, self.cols(id), Place::Moment(which, id)));
        }
    }

    fn cols(&self, id: ParamId) -> usize {
        self.params.iter().find(|(known, _)| *known == id).map_or(1, |(_, values)| values.cols)
    }

    /// Plans the graph, with parameters in one flat buffer, or with weights stored in a format as in a session.
    pub(super) fn ready(self, weights: Option<Format>, on: Target, compare: Compare) -> Result<Engine, GraphError> {
        let Self { b, tokens, past, writes, params, cache, results, node } = self;
        let graph = b.finish();
        let layout = graph.params().layout();
        let places = |(id, values): &(ParamId, Values)| {
            let start = layout.offset(*id);
            (*id, start..start + values.rows * values.cols, *values)
        };
        let params: Vec<_> = params.iter().map(places).collect();
        let spans = tokens.chunks(SEQUENCE);
        let context = past + tokens.len().min(SEQUENCE);
        let pages = if cache.is_some() { CacheShape::pages_for(context) } else { 0 };
        let limits = Limits { tokens: tokens.len(), outputs: 0, spans: spans.len(), context, pages };
        let mut batch = Batch::with_capacity(&limits);
        let pages: Vec<u32> = (0..pages as u32).collect();
        spans.for_each(|span| batch.push_cached(span, past, &pages));

        let len = |wanted: bool| if wanted { layout.len() } else { 0 };
        let mut flat = Buffer::zeroed(layout.len())?;
        let (memory, options) = match weights {
            None => (Parameters::Flat(flat), PlanOptions::flat(limits, on.threads, on.isa)),
            Some(format) => {
                params.iter().for_each(|(_, range, values)| values.fill(&mut flat[range.clone()]));
                let storage = Arc::new(Storage::of(&graph, on.isa, format)?);
                let store = ParamStore::new(graph.params(), storage.clone(), flat)?;
                (Parameters::Stored(store), PlanOptions::stored(limits, on.threads, storage))
            }
        };
        let grads = Buffer::zeroed(len(writes >= Writes::Gradients))?;
        let moment = || Buffer::zeroed(len(writes >= Writes::Parameters));
        let moments = [moment()?, moment()?];
        let plan = Plan::new(graph, options)?;
        let of_node = |step: &smallmind_graph::Step| step.node().index() == node;
        let steps = plan.steps().iter().enumerate().filter(|(_, step)| of_node(step)).map(|(i, _)| i).collect();
        let cache = match cache.zip(plan.cache().cloned()) {
            Some((values, shape)) => Some((values, Cache::new(shape)?)),
            None => None,
        };
        let recorder = Recorder::new(&plan);
        let executor = Executor::new(plan)?;
        Ok(Engine { executor, recorder, steps, batch, memory, grads, moments, cache, params, results, compare })
    }
}

/// Writes keys and values, `[2 · kv_heads · context, head_dim]` with the keys of all heads first, to the pages of a
/// cache of one layer.
struct FillPages<'a> {
    values: Values,
    context: usize,
    cache: &'a mut Cache,
}

impl WithIsa for FillPages<'_> {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let Self { values, context, cache } = self;
        let (head_dim, parts) = (values.cols, values.rows / context);
        let rows: Vec<f32> = (0..values.rows).flat_map(|row| values.row(row)).collect();
        let rows = Mat::new(&rows, values.rows, head_dim);
        let format = cache.shape().format;
        for (unit, words) in cache.words_mut().chunks_exact_mut(page_len(format, head_dim)).enumerate() {
            let (first, kv_head) = (unit / (parts / 2) * PAGE_TOKENS, unit % (parts / 2));
            let tokens = first..(first + PAGE_TOKENS).min(context);
            let part = |part: usize| rows.rows_range(part * context + tokens.start..part * context + tokens.end);
            append_to_page(isa, PageMut { format, words }, 0, part(kv_head), part(parts / 2 + kv_head));
        }
    }
}

/// A second moment made from an element of noise: it is positive.
pub(super) fn second_moment(noise: f32) -> f32 {
    noise.abs() + 0.01
}

enum Parameters {
    Flat(Buffer),
    Stored(ParamStore),
}

/// A graph of one op with its memory.
pub(super) struct Engine {
    executor: Executor,
    recorder: Recorder,
    /// The op's steps.
    steps: Vec<usize>,
    batch: Batch,
    memory: Parameters,
    grads: Buffer,
    moments: [Buffer; 2],
    /// What its pages hold, and they.
    cache: Option<(Values, Cache)>,
    params: Vec<(ParamId, Range<usize>, Values)>,
    results: Vec<(&'static str, usize, Place)>,
    compare: Compare,
}

impl Engine {
    /// The seconds of the op in the last run.
    fn last(&self) -> f64 {
        let workers = self.recorder.size().0;
        let run = self.recorder.runs().saturating_sub(1);
        let times = self.steps.iter().flat_map(|step| (0..workers).map(move |worker| (worker, *step)));
        let times = times.filter_map(|(worker, step)| self.recorder.times(run, worker, step));
        let (begin, end) = times.fold((f64::INFINITY, 0.0_f64), |all, (from, to)| (all.0.min(from), all.1.max(to)));
        (end - begin).max(0.0)
    }

    fn place(&self, id: ParamId) -> Range<usize> {
        self.params.iter().find(|(known, ..)| *known == id).map_or(0..0, |(_, range, _)| range.clone())
    }
}

impl Work for Engine {
    fn reset(&mut self) {
        self.executor.spoil();
        if let Some((values, cache)) = &mut self.cache {
            let fill = FillPages { values: *values, context: self.batch.spans()[0].past + 1, cache };
            // The plan runs on this instruction set, so the CPU has it.
            let _ = self.executor.plan().isa().with(fill);
        }
        for (_, range, values) in &self.params {
            if let Parameters::Flat(params) = &mut self.memory {
                values.fill(&mut params[range.clone()]);
            }
            if !self.grads.is_empty() {
                values.other(1).fill(&mut self.grads[range.clone()]);
            }
            if let [m, v] = &mut self.moments
                && !m.is_empty()
            {
                values.other(2).fill(&mut m[range.clone()]);
                values.other(3).fill(&mut v[range.clone()]);
                v[range.clone()].iter_mut().for_each(|x| *x = second_moment(*x));
            }
        }
    }

    fn run(&mut self, pool: &mut Pool, _: usize, iterations: usize) -> Result<f64, GraphError> {
        let mut seconds = 0.0;
        for _ in 0..iterations {
            let params = match &mut self.memory {
                Parameters::Flat(params) => ParamMemory::Exclusive(params),
                Parameters::Stored(params) => ParamMemory::Stored(params),
            };
            let [m, v] = &mut self.moments;
            let (grads, moments) = (Some(&mut self.grads[..]), Some((&mut m[..], &mut v[..])));
            let cache = self.cache.as_mut().map(|(_, cache)| cache);
            let bindings = Bindings { params, grads, moments, cache };
            self.executor.run(pool, &self.batch, &SCALARS, bindings, &self.recorder)?;
            seconds += self.last();
        }
        Ok(seconds)
    }

    fn outputs(&self) -> Vec<Output<'_>> {
        let output = |(name, cols, place): &(&'static str, usize, Place)| {
            let data = match place {
                Place::Value => self.executor.result_slice(name).unwrap_or_default(),
                Place::Gradient(id) => &self.grads[self.place(*id)],
                Place::Moment(which, id) => &self.moments[*which][self.place(*id)],
                Place::Parameter(id) => match &self.memory {
                    Parameters::Flat(params) => &params[self.place(*id)],
                    Parameters::Stored(_) => &[],
                },
            };
            Output { name, cols: *cols, data }
        };
        self.results.iter().map(output).collect()
    }

    fn compare(&self, found: &Found<'_>) -> Result<(), Wrong> {
        (self.compare)(found)
    }

    #[cfg(test)]
    fn op_cost(&self) -> Option<smallmind_graph::Cost> {
        let plan = self.executor.plan();
        let node = &plan.graph().nodes()[plan.steps()[self.steps[0]].node().index()];
        let storage = plan.storage().map(|storage| &**storage);
        Some(smallmind_graph::cost(plan.graph(), node, &self.batch, storage, plan.cache_format()))
    }
}

/// The scalars of every run: as late in training, when moments need no bias correction.
pub(super) const SCALARS: Scalars =
    Scalars { loss_scale: 1.0, dropout_seed: 0, dropout_step: 0, learning_rate: 1e-3, step: 100_000 };
