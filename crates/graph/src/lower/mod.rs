//! Lowering: from nodes to steps.
//!
//! Each function here says, for one operation, what its steps read and write, how workers share that, and which kernel does it. What a
//! step touches must be what it declares: the barriers, and with them the soundness of the arena, rest on it.

mod attention;
mod backward;
mod cache;
mod forward;
mod linear;
mod loss;
mod update;

pub use update::UPDATE_GRANULE;

use std::ops::Range;
use std::sync::Arc;

use smallmind_kernels::matmul::{COL_GRANULE, ROW_GRANULE, quantized_words};
use smallmind_kernels::norm::PARTIAL_ROWS;
use smallmind_kernels::rope::RopeTable;
use smallmind_kernels::{Format, Part};
use smallmind_simd::Isa;

use crate::arena::{Access, Frame, Sharing, Space, View};
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::{Op, RopeSpec};
use crate::params::Layout;
use crate::plan::{Limits, Placed, Step, StepFn, Workers};
use crate::{CacheShape, Order, ParamId, Rows, Storage};

/// Elements that a row-wise step reads and writes below which sharing it costs more than it saves: a barrier is worth some thousand elements.
pub const SHARED_ELEMENTS: usize = 8192;

/// Memory beside its values that `node` needs while it runs, as rows and columns. Operations that aren't named here need none.
pub(crate) fn temporary(
    graph: &Graph,
    node: &Node,
    limits: &Limits,
    storage: Option<&Storage>,
) -> Option<(usize, usize)> {
    let is_q8 = |id| storage.is_some_and(|storage| storage.get(id).format == Format::Q8_0);
    let rows = |value: ValueId| graph.shape(value).rows.resolve(limits.tokens, limits.outputs);
    if let Op::Linear { weight, .. } = node.op {
        let x = node.inputs[0];
        is_q8(weight).then(|| (rows(x), quantized_words(graph.shape(x).cols)))
    } else if let Op::LinearCrossEntropy { weight } | Op::LinearCrossEntropyGrad { weight } = node.op {
        let table = graph.params.get(weight)?;
        Some(loss::room(table.rows, table.cols, limits.tokens, is_q8(weight)))
    } else if let Op::CachedAttention { heads, .. } = node.op {
        cache::partials(heads, limits)
    } else if let Op::NormGrad(norm) = node.op {
        let x = node.inputs[1];
        Some((rows(x).div_ceil(PARTIAL_ROWS), norm.params().count() * graph.shape(x).cols))
    } else {
        None
    }
}

pub(crate) struct Lowering<'g, I: Isa> {
    isa: I,
    graph: &'g Graph,
    limits: Limits,
    placed: &'g Placed,
    cache: Option<&'g CacheShape>,
    storage: Option<&'g Storage>,
    layout: Layout,
    ropes: Vec<(RopeSpec, Arc<RopeTable>)>,
    steps: Vec<Step>,
    scratch: usize,
    at: NodeId,
}

impl<'g, I: Isa> Lowering<'g, I> {
    pub(crate) fn new(
        isa: I,
        graph: &'g Graph,
        limits: Limits,
        placed: &'g Placed,
        cache: Option<&'g CacheShape>,
        storage: Option<&'g Storage>,
    ) -> Self {
        let layout = graph.params.layout();
        Self {
            isa,
            graph,
            limits,
            placed,
            cache,
            storage,
            layout,
            ropes: vec![],
            steps: vec![],
            scratch: 0,
            at: NodeId(0),
        }
    }

    /// The steps, and the scratch that each worker needs.
    pub(crate) fn finish(self) -> (Vec<Step>, usize) {
        (self.steps, self.scratch)
    }

    /// Lowers one node.
    pub(crate) fn node(&mut self, id: NodeId) {
        self.at = id;
        let graph = self.graph;
        let node = &graph.nodes[id.index()];
        match node.op {
            Op::Embedding { table, index } => self.embedding(node, table, index),
            Op::EmbeddingGrad { table, index } => self.embedding_grad(node, table, index),
            Op::Add => self.add(node),
            Op::Dropout(spec) => self.dropout(node, spec),
            Op::Norm(norm) | Op::AddNorm(norm) => self.norm(node, norm),
            Op::NormGrad(norm) => self.norm_grad(node, norm),
            Op::Linear { weight, bias } => self.linear(node, weight, bias),
            Op::LinearGradInput { weight } => self.linear_grad_input(node, weight),
            Op::LinearGradWeight { weight } => self.linear_grad_weight(node, weight),
            Op::BiasGrad { bias } => self.bias_grad(node, bias),
            Op::Rope { rope, heads, direction } => self.rope(node, rope, heads, direction),
            Op::Gelu(kind) => self.gelu(node, kind),
            Op::GeluGrad(kind) => self.gelu_grad(node, kind),
            Op::SwiGlu => self.swiglu(node),
            Op::SwiGluGrad => self.swiglu_grad(node),
            Op::Attention { heads, dropout } => self.attention(node, heads, dropout),
            Op::AttentionGrad { heads, dropout } => self.attention_grad(node, heads, dropout),
            Op::CacheAppend { layer, heads } => self.cache_append(node, layer, heads),
            Op::CachedAttention { layer, heads } => self.cached_attention(node, layer, heads),
            Op::SelectRows => self.select_rows(node),
            Op::LinearCrossEntropy { weight } => self.linear_cross_entropy(node, weight, loss::Mode::Loss),
            Op::LinearCrossEntropyGrad { weight } => {
                self.linear_cross_entropy(node, weight, loss::Mode::LossAndGradient)
            }
            Op::GradSquares => self.grad_squares(node),
            Op::ClipFactor { max_norm } => self.clip_factor(node, max_norm),
            Op::AdamW(spec) => self.adamw(node, spec),
        }
    }

    /// Where a value lies. Every value of a node has a place, since nodes come after those that make their inputs.
    fn view(&self, value: ValueId) -> View {
        self.placed.views[value.index()].unwrap_or_else(|| unreachable!("{value:?} is read before it is made"))
    }

    /// The views of a node's inputs and outputs.
    fn views(&self, node: &Node) -> (Vec<View>, Vec<View>) {
        let views = |values: &[ValueId]| values.iter().map(|v| self.view(*v)).collect();
        (views(&node.inputs), views(&node.outputs))
    }

    fn param_in(&self, space: Space, id: ParamId) -> View {
        let spec = self.graph.params.get(id).unwrap_or_else(|| unreachable!("the shape rule checked {id:?}"));
        View { space, offset: self.layout.offset(id), rows: Rows::Fixed(spec.rows), cols: spec.cols }
    }

    fn param(&self, id: ParamId) -> View {
        let flat = self.param_in(Space::Params, id);
        match self.storage {
            Some(_) => View { space: Space::Stored(id.index() as u32), offset: 0, ..flat },
            None => flat,
        }
    }

    fn grad(&self, id: ParamId) -> View {
        self.param_in(Space::Grads, id)
    }

    /// The format of a parameter that is packed.
    fn packed(&self, id: ParamId) -> Option<Format> {
        let stored = self.storage?.get(id);
        (stored.order == Order::Strips).then_some(stored.format)
    }

    /// The parameter as one row: a vector, whatever shape it was declared with.
    fn vector(&self, view: View) -> View {
        View { rows: Rows::Fixed(1), cols: self.max_rows(&view) * view.cols, ..view }
    }

    /// A view's rows at the plan's limits.
    fn max_rows(&self, view: &View) -> usize {
        view.rows.resolve(self.limits.tokens, self.limits.outputs)
    }

    fn access(&self, view: View, sharing: Sharing, writes: bool) -> Access {
        Access { view, len: self.max_rows(&view) * view.cols, sharing, writes }
    }

    fn rope_table(&mut self, spec: RopeSpec) -> Arc<RopeTable> {
        if let Some((_, table)) = self.ropes.iter().find(|(s, _)| *s == spec) {
            return table.clone();
        }
        let table = Arc::new(RopeTable::new(spec.head_dim, spec.theta, spec.scaling, self.limits.context));
        self.ropes.push((spec, table.clone()));
        table
    }

    fn push(&mut self, workers: Workers, accesses: Vec<Access>, scratch: usize, run: StepFn) {
        self.scratch = self.scratch.max(scratch);
        self.steps.push(Step { node: self.at, workers, barrier: false, accesses, run });
    }

    /// A step in which each worker computes its own rows of `writes` from the same rows of `reads`; `shared` is read by all.
    fn rowwise(
        &mut self,
        reads: &[View],
        shared: &[View],
        writes: &[View],
        run: impl Fn(&Frame<'_>, Range<usize>) + Send + Sync + 'static,
    ) {
        self.rowwise_by(ROW_GRANULE, reads, shared, writes, &[], run);
    }

    /// [`Lowering::rowwise`] with rows cut at multiples of `granule`, where a worker also writes what belongs to its rows in
    /// `partials`.
    fn rowwise_by(
        &mut self,
        granule: usize,
        reads: &[View],
        shared: &[View],
        writes: &[View],
        partials: &[View],
        run: impl Fn(&Frame<'_>, Range<usize>) + Send + Sync + 'static,
    ) {
        let rows = writes.first().map_or(0, |v| self.max_rows(v));
        let elements: usize = reads.iter().chain(writes).map(|v| self.max_rows(v) * v.cols).sum();
        let tokens = writes.first().map_or(Rows::Fixed(0), |v| v.rows);
        let (workers, sharing) = if elements < SHARED_ELEMENTS {
            (Workers::First, Sharing::First)
        } else {
            (Workers::All, Sharing::OwnRows { first: 0, max: rows, granule })
        };
        let mut accesses: Vec<Access> = reads.iter().map(|v| self.access(*v, sharing, false)).collect();
        let shared_sharing = if workers == Workers::First { Sharing::First } else { Sharing::Mixed };
        accesses.extend(shared.iter().map(|v| self.access(*v, shared_sharing, false)));
        accesses.extend(writes.iter().map(|v| self.access(*v, sharing, true)));
        accesses.extend(partials.iter().map(|v| self.access(*v, shared_sharing, true)));
        self.push(
            workers,
            accesses,
            0,
            Box::new(move |frame, part| {
                let rows = tokens.resolve(frame.batch.len(), frame.batch.outputs().len());
                run(frame, part.range(rows, granule));
            }),
        );
    }

    /// A step in which each worker accumulates its own columns of gradients of `width` columns, from whole columns of `reads`.
    fn columnwise(
        &mut self,
        reads: &[View],
        width: usize,
        accumulates: &[View],
        run: impl Fn(&Frame<'_>, Range<usize>) + Send + Sync + 'static,
    ) {
        let mut accesses: Vec<Access> = reads.iter().map(|v| self.access(*v, Sharing::Mixed, false)).collect();
        accesses.extend(accumulates.iter().map(|v| self.access(*v, Sharing::Mixed, true)));
        self.push(
            Workers::All,
            accesses,
            0,
            Box::new(move |frame: &Frame<'_>, part: Part| run(frame, part.range(width, COL_GRANULE))),
        );
    }
}
