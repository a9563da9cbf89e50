//! Plans: a graph lowered to steps over one arena, made for the largest batch and run on any smaller one.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use smallmind_kernels::attention::CacheFormat;
use smallmind_kernels::matmul::has_bf16_dots;
use smallmind_simd::{Isa, IsaKind, WithIsa};

use crate::access::{Sharing, Space, View};
use crate::batch::Needs;
use crate::graph::{Graph, NodeId};
use crate::lower::{self, Lowering, RopeTables, Stored};
use crate::op::{Effects, Heads, Index, Op};
use crate::place::{self, Placement};
use crate::step::{Step, Workers};
use crate::{CacheLayer, CacheShape, GraphError, Limits, Storage, ValueId, barriers};

/// A graph that is ready to run. It is made once for a model and its largest batch; a run allocates nothing.
pub struct Plan {
    pub(crate) graph: Arc<Graph>,
    pub(crate) limits: Limits,
    pub(crate) isa: IsaKind,
    pub(crate) precision: Precision,
    pub(crate) steps: Vec<Step>,
    pub(crate) placements: Vec<Placement>,
    pub(crate) views: Vec<Option<View>>,
    pub(crate) arena_len: usize,
    pub(crate) scratch: Range<usize>,
    pub(crate) threads: usize,
    pub(crate) needs: Needs,
    pub(crate) cache: Option<CacheShape>,
    /// Elements of the parameters, and of every buffer laid out like them.
    pub(crate) params_len: usize,
    /// What the nodes touch besides their values.
    pub(crate) effects: Effects,
    /// The layout of the parameters, unless they are flat.
    pub(crate) storage: Option<Arc<Storage>>,
}

/// What a plan is made for.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The largest batch.
    pub limits: Limits,
    /// Workers, at least one.
    pub threads: usize,
    /// The instruction set.
    pub isa: IsaKind,
    /// The layout of parameters that are only read. Without it they are in one flat buffer, in rows of `f32`.
    pub storage: Option<Arc<Storage>>,
    /// How the key-value cache stores keys and values, if the graph has one.
    pub cache_format: CacheFormat,
    /// The format in which the factors of linear layers and of their gradients are multiplied, where parameters are flat.
    pub precision: Precision,
}

/// The format in which the factors of a product are multiplied. Sums are in `f32` either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to `bf16`, to nearest, ties to even, and multiplied by the CPU's dot products of `bf16`.
    Bf16,
}

impl Precision {
    /// Both.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// Its name: `f32`, `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// The precision of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name)
    }

    /// Whether this CPU can multiply so with the instruction set.
    pub fn is_available(self, isa: IsaKind) -> bool {
        self == Self::F32 || has_bf16_dots(isa)
    }
}

impl PlanOptions {
    /// For parameters in one flat buffer, a cache in `f32` and products of `f32`.
    pub fn flat(limits: Limits, threads: usize, isa: IsaKind) -> Self {
        Self { limits, threads, isa, storage: None, cache_format: CacheFormat::F32, precision: Precision::F32 }
    }

    /// For parameters in the layout of `storage`, its instruction set, and a cache in `f32`.
    pub fn stored(limits: Limits, threads: usize, storage: Arc<Storage>) -> Self {
        let isa = storage.isa();
        Self { storage: Some(storage), ..Self::flat(limits, threads, isa) }
    }
}

impl Plan {
    /// Plans `graph` for what `options` say.
    ///
    /// # Errors
    /// The CPU lacks the instruction set; a size is beyond memory; the layers of a cache have different heads.
    pub fn new(graph: impl Into<Arc<Graph>>, options: PlanOptions) -> Result<Plan, GraphError> {
        Self::with_ropes(&graph.into(), options, &mut vec![])
    }

    /// Several plans for one [`crate::Executor`], which runs the smallest that is large enough for a batch: one for
    /// each limit in `tokens` below that of `options`, then one for `options` itself. How workers share a product
    /// follows from a plan's limits: few rows in a plan for many would leave workers idle. For a graph without a loss
    /// and with stored parameters the plans differ only in how workers share products: they have the same steps in the
    /// same order, and give the same bits.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn ladder(
        graph: impl Into<Arc<Graph>>,
        options: &PlanOptions,
        tokens: &[usize],
    ) -> Result<Vec<Plan>, GraphError> {
        let (graph, mut ropes) = (graph.into(), vec![]);
        let most = options.limits.tokens;
        let rungs = tokens.iter().copied().filter(|tokens| *tokens < most).chain([most]);
        let limits = |tokens: usize| Limits {
            tokens,
            outputs: options.limits.outputs.min(tokens),
            spans: options.limits.spans.min(tokens),
            ..options.limits
        };
        rungs
            .map(|tokens| PlanOptions { limits: limits(tokens), ..options.clone() })
            .map(|options| Self::with_ropes(&graph, options, &mut ropes))
            .collect()
    }

    fn with_ropes(graph: &Arc<Graph>, options: PlanOptions, ropes: &mut RopeTables) -> Result<Plan, GraphError> {
        options.storage.as_ref().map_or(Ok(()), |storage| storage.check(graph, options.isa))?;
        if !options.precision.is_available(options.isa) {
            return Err(GraphError::Precision { precision: options.precision, isa: options.isa });
        }
        options.isa.with(Planner { graph: graph.clone(), options, ropes })?
    }

    /// The graph that runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The largest batch.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The instruction set chosen.
    pub fn isa(&self) -> IsaKind {
        self.isa
    }

    /// The format in which the factors of products are multiplied, where parameters are flat.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The layout of its parameters, unless they are flat.
    pub fn storage(&self) -> Option<&Arc<Storage>> {
        self.storage.as_ref()
    }

    /// The number of workers it was made for.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The steps in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Where values are stored.
    pub fn placements(&self) -> &[Placement] {
        &self.placements
    }

    /// Bytes of the arena: values, then scratch.
    pub fn arena_bytes(&self) -> usize {
        self.arena_len * 4
    }

    /// Bytes that one buffer for each value would take instead.
    pub fn unplanned_bytes(&self) -> usize {
        (self.placements.iter().map(|p| p.elements.len()).sum::<usize>() + self.scratch.len()) * 4
    }

    /// The number of barriers in a run.
    pub fn barriers(&self) -> usize {
        self.steps.iter().filter(|s| s.barrier).count()
    }

    /// The key-value cache that a run needs.
    pub fn cache(&self) -> Option<&CacheShape> {
        self.cache.as_ref()
    }

    /// How that cache stores keys and values.
    pub fn cache_format(&self) -> CacheFormat {
        self.cache.as_ref().map_or(CacheFormat::F32, |cache| cache.format)
    }

    pub(crate) fn view(&self, value: ValueId) -> Option<&View> {
        self.views.get(value.index())?.as_ref()
    }
}

pub(crate) struct Planner<'r> {
    pub graph: Arc<Graph>,
    pub options: PlanOptions,
    pub ropes: &'r mut RopeTables,
}

impl WithIsa for Planner<'_> {
    type Output = Result<Plan, GraphError>;

    fn call<I: Isa>(self, isa: I) -> Result<Plan, GraphError> {
        let Self { graph, options, ropes } = self;
        let PlanOptions { limits, threads, storage, cache_format, precision, .. } = options;
        let threads = threads.max(1);
        let cache = cache_shape(&graph, &limits, cache_format)?;
        let temporary = |node| lower::temporary(&graph, node, &limits, storage.as_deref());
        let temporaries: Vec<_> = graph.nodes.iter().map(temporary).collect();
        let placed = place::place(&graph, &limits, &temporaries)?;
        let stored = Stored { placed: &placed, cache: cache.as_ref(), storage: storage.as_deref() };
        let mut lowering = Lowering::new(isa, &graph, (limits, precision), stored, ropes);
        for i in 0..graph.nodes.len() {
            lowering.node(NodeId(i as u32));
        }
        let (mut steps, scratch_each) = lowering.finish();
        if threads == 1 {
            steps.iter_mut().for_each(|s| s.workers = Workers::First);
        } else {
            barriers::insert(&mut steps);
        }
        let scratch_each = scratch_each.next_multiple_of(place::ALIGN);
        let too_large = GraphError::OutOfMemory { bytes: usize::MAX };
        let scratch_len = scratch_each.checked_mul(threads).ok_or(too_large)?;
        let scratch = placed.len..placed.len + scratch_len;
        let needs = needs(&graph);
        let effects = graph.nodes.iter().fold(Effects::default(), |all, node| all.union(node.op.effects()));
        Ok(Plan {
            params_len: graph.params.layout().len(),
            effects,
            isa: I::KIND,
            precision,
            arena_len: scratch.end,
            views: placed.views,
            placements: placed.placements,
            graph,
            limits,
            steps,
            scratch,
            threads,
            needs,
            cache,
            storage,
        })
    }
}

/// What the nodes ask of a batch: the smallest table that each kind of id indexes, and which inputs are needed.
fn needs(graph: &Graph) -> Needs {
    let rows = |id| graph.params.get(id).map_or(0, |p| p.rows);
    let mut needs = Needs {
        token_entries: usize::MAX,
        position_entries: usize::MAX,
        target_entries: usize::MAX,
        targets: false,
        cache: false,
    };
    for node in &graph.nodes {
        if let Op::Embedding { table, index } = node.op {
            let entries = match index {
                Index::Tokens => &mut needs.token_entries,
                Index::Positions => &mut needs.position_entries,
            };
            *entries = (*entries).min(rows(table));
        }
        if let Op::LinearCrossEntropy { weight, .. } | Op::LinearCrossEntropyGrad { weight, .. } = node.op {
            needs.target_entries = needs.target_entries.min(rows(weight));
            needs.targets = true;
        }
        needs.cache |= node.op.effects().cache;
    }
    needs
}

/// The one cache that all layers share.
fn cache_shape(graph: &Graph, limits: &Limits, format: CacheFormat) -> Result<Option<CacheShape>, GraphError> {
    let mut layers: BTreeMap<usize, Heads> = BTreeMap::new();
    for node in &graph.nodes {
        if let Op::CacheAppend { layer, heads } | Op::CachedAttention { layer, heads } = node.op {
            let known = *layers.entry(layer).or_insert(heads);
            // A head's keys are adjacent, so the op that reads a layer must divide it into the same heads as the one
            // that writes it.
            if (known.kv_heads, known.head_dim) != (heads.kv_heads, heads.head_dim) {
                return Err(GraphError::Cache(format!("layer {layer} of the cache is divided into different heads")));
            }
        }
    }
    if layers.is_empty() {
        return Ok(None);
    }
    if let Some((missing, layer)) = (0..).zip(layers.keys()).find(|(i, layer)| i != *layer) {
        return Err(GraphError::Cache(format!("the cache has a layer {layer} but no layer {missing}")));
    }
    let layer = |heads: &Heads| CacheLayer { kv_heads: heads.kv_heads, head_dim: heads.head_dim };
    let shape = CacheShape { format, layers: layers.values().map(layer).collect(), pages: limits.pages };
    shape.checked_len()?;
    Ok(Some(shape))
}

impl fmt::Display for Plan {
    /// The arena, then one line per step: barrier, workers, operation, memory touched, path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let l = &self.limits;
        writeln!(
            f,
            "plan: {} tokens, {} outputs, {} spans, context {}, {} pages; {} on {} threads; {} steps, {} barriers; \
             arena {} bytes, unplanned {} bytes",
            l.tokens,
            l.outputs,
            l.spans,
            l.context,
            l.pages,
            self.isa,
            self.threads,
            self.steps.len(),
            self.barriers(),
            self.arena_bytes(),
            self.unplanned_bytes()
        )?;
        for (i, step) in self.steps.iter().enumerate() {
            let node = &self.graph.nodes[step.node.index()];
            let bar = if step.barrier { "|" } else { " " };
            let workers = match step.workers {
                Workers::First => "one",
                Workers::All => "all",
            };
            write!(f, "{i:>4} {bar} {workers} {:<26}", node.op.name())?;
            for a in &step.accesses {
                let arrow = if a.writes { "→" } else { "←" };
                let sharing = match a.sharing {
                    Sharing::OwnRows { .. } => "rows",
                    Sharing::OwnCols { .. } => "columns",
                    Sharing::First => "first",
                    Sharing::Unpartitioned => "unpartitioned",
                };
                let space = match a.view.space {
                    Space::Arena => "",
                    Space::FlatParams | Space::Stored(_) => "param ",
                    Space::Grads => "grad ",
                    Space::Moment1 => "m ",
                    Space::Moment2 => "v ",
                    Space::Cache => "cache ",
                };
                write!(f, " {arrow}{space}{}+{} {sharing};", a.elements.start, a.elements.len())?;
            }
            writeln!(f, " @ {}", node.path)?;
        }
        Ok(())
    }
}
