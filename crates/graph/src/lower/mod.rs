//! Lowering: from nodes to steps.
//!
//! For each operation there is a function. It declares what its steps read and write and how workers share that
//! ([`Lowering::read`], [`Lowering::write`]). Then it passes on the work of one worker, which reaches memory only
//! through the handles of these declarations ([`Worker`]):
//!
//! ```text
//! let x = self.read(x, OWN_ROWS);                      declares
//! let y = self.write(y, OWN_ROWS);
//! self.push_rows(move |w| gelu(isa, w.own(x), w.own_mut(y)));
//! ```

mod attention;
mod backward;
mod cache;
mod experts;
mod forward;
mod linear;
mod loss;
mod update;

pub use update::UPDATE_GRANULE;

use std::sync::Arc;

use smallmind_kernels::Format;
use smallmind_kernels::matmul::{COL_GRANULE, ROW_GRANULE, quantized_words};
use smallmind_kernels::norm::PARTIAL_ROWS;
use smallmind_kernels::rope::RopeTable;
use smallmind_simd::Isa;

use crate::access::{Access, Chunk, Extent, Read, Sharing, Space, View, Write};
use crate::frame::Worker;
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::{Op, RopeSpec};
use crate::params::FlatLayout;
use crate::place::Placed;
use crate::step::{Step, Workers};
use crate::{CacheShape, Limits, ParamId, Precision, Rows, Storage};

/// Worker 0 alone runs a row-wise step that reads and writes fewer elements than this: a barrier costs as much as some
/// thousand elements.
pub const SHARED_ELEMENTS: usize = 8192;

/// Each worker its own rows.
const OWN_ROWS: Sharing = Sharing::OwnRows { granule: ROW_GRANULE };
/// Each worker its own columns.
const OWN_COLS: Sharing = Sharing::OwnCols { granule: COL_GRANULE };

/// The temporary memory that `node` needs while it runs, as rows and columns. Operations that aren't named here need
/// none.
pub(crate) fn temporary(
    graph: &Graph,
    node: &Node,
    limits: &Limits,
    storage: Option<&Storage>,
) -> Option<(usize, usize)> {
    let has_blocks = |id| storage.is_some_and(|storage| linear::has_blocks(&storage.get(id).segments));
    let rows = |value: ValueId| graph.shape(value).rows.resolve(limits.tokens, limits.outputs);
    if let Op::Linear { weight, .. } = node.op {
        let x = node.inputs[0];
        has_blocks(weight).then(|| (rows(x), quantized_words(graph.shape(x).cols)))
    } else if let Op::LinearCrossEntropy { weight, .. } | Op::LinearCrossEntropyGrad { weight, .. } = node.op {
        let table = graph.params.get(weight)?;
        let keeps_capped = matches!(node.op, Op::LinearCrossEntropyGrad { cap: Some(_), .. });
        Some(loss::temporary([table.rows, table.cols], limits.tokens, has_blocks(weight), keeps_capped))
    } else if let Op::Experts(experts) = node.op {
        Some(experts::temporary(graph, experts, limits.tokens, storage))
    } else if let Op::CachedAttention { heads, .. } = node.op {
        cache::partials(heads, limits)
    } else if let Op::NormGrad(norm) = node.op {
        let x = node.inputs[1];
        Some((rows(x).div_ceil(PARTIAL_ROWS), norm.params().count() * graph.shape(x).cols))
    } else if let Op::QkNormGrad(norm) = node.op {
        let [q, k] = [norm.q, norm.k].map(|id| graph.params.get(id).map_or(0, crate::ParamSpec::len));
        Some((rows(node.inputs[1]).div_ceil(PARTIAL_ROWS), norm.cols(q, k)))
    } else {
        None
    }
}

/// The tables of angles that plans of one graph share.
pub(crate) type RopeTables = Vec<(RopeSpec, Arc<RopeTable>)>;

/// Where values, keys and parameters are.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'g> {
    pub placed: &'g Placed,
    pub cache: Option<&'g CacheShape>,
    pub storage: Option<&'g Storage>,
}

pub(crate) struct Lowering<'g, I: Isa> {
    isa: I,
    graph: &'g Graph,
    limits: Limits,
    precision: Precision,
    placed: &'g Placed,
    cache: Option<&'g CacheShape>,
    storage: Option<&'g Storage>,
    layout: FlatLayout,
    ropes: &'g mut RopeTables,
    steps: Vec<Step>,
    /// The accesses that the next step has declared so far.
    accesses: Vec<Access>,
    /// The most scratch elements that a step needs for each worker.
    scratch: usize,
    /// The node that is being lowered.
    at: NodeId,
}

impl<'g, I: Isa> Lowering<'g, I> {
    pub(crate) fn new(
        isa: I,
        graph: &'g Graph,
        (limits, precision): (Limits, Precision),
        stored: Stored<'g>,
        ropes: &'g mut RopeTables,
    ) -> Self {
        let layout = graph.params.layout();
        let Stored { placed, cache, storage } = stored;
        Self {
            isa,
            graph,
            limits,
            precision,
            placed,
            cache,
            storage,
            layout,
            ropes,
            steps: vec![],
            accesses: vec![],
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
            Op::Scale { factor } => self.scale(node, factor),
            Op::Dropout(spec) => self.dropout(node, spec),
            Op::Norm(norm) | Op::AddNorm(norm) => self.norm(node, norm),
            Op::NormGrad(norm) => self.norm_grad(node, norm),
            Op::QkNorm(norm) => self.qk_norm(node, norm),
            Op::QkNormGrad(norm) => self.qk_norm_grad(node, norm),
            Op::Linear { weight, bias } => self.linear(node, weight, bias),
            Op::LinearGradInput { weight } => self.linear_grad_input(node, weight),
            Op::LinearGradWeight { weight } => self.linear_grad_weight(node, weight),
            Op::BiasGrad { bias } => self.bias_grad(node, bias),
            Op::Rope { ref rope, heads, direction } => self.rope(node, rope, heads, direction),
            Op::Gelu(kind) => self.gelu(node, kind),
            Op::GeluGrad(kind) => self.gelu_grad(node, kind),
            Op::SwiGlu => self.swiglu(node),
            Op::SwiGluGrad => self.swiglu_grad(node),
            Op::GeGlu(kind) => self.geglu(node, kind),
            Op::GeGluGrad(kind) => self.geglu_grad(node, kind),
            Op::Experts(experts) => self.experts(node, experts),
            Op::Attention { heads, dropout } => self.attention(node, heads, dropout),
            Op::AttentionGrad { heads, dropout } => self.attention_grad(node, heads, dropout),
            Op::CacheAppend { layer, heads } => self.cache_append(node, layer, heads),
            Op::CachedAttention { layer, heads } => self.cached_attention(node, layer, heads),
            Op::SelectRows => self.select_rows(node),
            Op::SoftCap { cap } => self.soft_cap(node, cap),
            Op::LinearCrossEntropy { weight, cap } => self.linear_cross_entropy(node, weight, cap, loss::Mode::Loss),
            Op::LinearCrossEntropyGrad { weight, cap } => {
                self.linear_cross_entropy(node, weight, cap, loss::Mode::LossAndGradient)
            }
            Op::GradSquares => self.grad_squares(node),
            Op::ClipFactor { max_norm } => self.clip_factor(node, max_norm),
            Op::AdamW(spec) => self.adamw(node, spec),
        }
    }

    /// The view of a value. Every value that a node reads or writes has one, since nodes come after those that make
    /// their inputs.
    fn view(&self, value: ValueId) -> View {
        self.placed.views[value.index()].unwrap_or_else(|| unreachable!("{value:?} is read before it is made"))
    }

    fn flat_param(&self, space: Space, id: ParamId) -> View {
        let spec = self.graph.params.get(id).unwrap_or_else(|| unreachable!("the shape rule checked {id:?}"));
        View::new(space, self.layout.offset(id), Rows::Fixed(spec.rows), spec.cols)
    }

    /// A parameter that is stored in one piece: flat, or as one segment of a store.
    fn param(&self, id: ParamId) -> View {
        let flat = self.flat_param(Space::FlatParams, id);
        let Some(storage) = self.storage else { return flat };
        let numbers = storage.numbers(id);
        assert!(numbers.len() == 1, "{id:?} has {} segments, and who reads it takes one", numbers.len());
        View { space: Space::Stored(numbers.start as u32), offset: 0, ..flat }
    }

    fn grad(&self, id: ParamId) -> View {
        self.flat_param(Space::Grads, id)
    }

    /// Whether a parameter is packed.
    fn is_packed(&self, id: ParamId) -> bool {
        self.storage.is_some_and(|storage| storage.get(id).is_packed())
    }

    /// The format of a packed parameter of one segment; none if the parameter is stored in rows.
    fn packed(&self, id: ParamId) -> Option<Format> {
        let layout = self.storage?.get(id);
        layout.is_packed().then(|| layout.segments[0].format)
    }

    /// The parameter as one row: a vector, no matter with which shape it was declared.
    fn vector(&self, view: View) -> View {
        View { rows: Rows::Fixed(1), cols: self.max_rows(&view) * view.cols, ..view }
    }

    /// The rows of a view that hold a chunk of the batch.
    fn chunk(&self, view: View, chunk: Chunk) -> View {
        let holds_batch = !matches!(view.rows, Rows::Fixed(_));
        if holds_batch && chunk.first == 0 && chunk.max >= self.limits.tokens {
            return view;
        }
        View { extent: Extent::Chunk(chunk), ..view }
    }

    /// The number of rows of a view in the largest batch, or of a full chunk.
    fn max_rows(&self, view: &View) -> usize {
        match view.extent {
            Extent::Chunk(chunk) => chunk.max,
            Extent::All | Extent::Times { .. } | Extent::Blocks { .. } => {
                view.rows_in(self.limits.tokens, self.limits.outputs).len()
            }
        }
    }

    fn rope_table(&mut self, spec: &RopeSpec) -> Arc<RopeTable> {
        if let Some((_, table)) = self.ropes.iter().find(|(s, _)| s == spec) {
            return table.clone();
        }
        let table = Arc::new(spec.table(self.limits.context));
        self.ropes.push((spec.clone(), table.clone()));
        table
    }

    /// Declares that the next step reads a view.
    fn read(&mut self, view: View, sharing: Sharing) -> Read {
        Read(self.declare(view, sharing, false))
    }

    /// Declares that the next step writes a view.
    fn write(&mut self, view: View, sharing: Sharing) -> Write {
        Write(self.declare(view, sharing, true))
    }

    fn declare(&mut self, view: View, sharing: Sharing, writes: bool) -> usize {
        let rows = view.rows_in(self.limits.tokens, self.limits.outputs);
        let elements = view.offset + rows.start * view.cols..view.offset + rows.end * view.cols;
        self.accesses.push(Access { view, elements, sharing, writes });
        self.accesses.len() - 1
    }

    /// Adds a step with what was declared since the last one. Each worker needs `scratch` elements.
    fn push(&mut self, workers: Workers, scratch: usize, run: impl Fn(&Worker<'_>) + Send + Sync + 'static) {
        self.scratch = self.scratch.max(scratch);
        let accesses = std::mem::take(&mut self.accesses);
        self.steps.push(Step::new(self.at, workers, accesses, run));
    }

    /// Adds a step in which each worker computes its own rows, or worker 0 all rows if they have few elements.
    fn push_rows(&mut self, run: impl Fn(&Worker<'_>) + Send + Sync + 'static) {
        let is_rows = |a: &&Access| {
            matches!(a.sharing, Sharing::OwnRows { .. }) && !matches!(a.view.extent, Extent::Blocks { .. })
        };
        let elements: usize = self.accesses.iter().filter(is_rows).map(|a| self.max_rows(&a.view) * a.view.cols).sum();
        let workers = if elements < SHARED_ELEMENTS { Workers::First } else { Workers::All };
        self.push(workers, 0, run);
    }
}
