//! The memories that a plan runs on, and short ways to run one.

use std::sync::Arc;

use smallmind_graph::interpret::Interpreter;
use smallmind_graph::{
    Batch, Bindings, Buffer, Cache, Executor, Graph, GraphError, Init, Limits, NoProbe, ParamMemory, ParamStore,
    Params, Plan, PlanOptions, Pool, Probe, Scalars, Storage,
};
use smallmind_kernels::Format;
use smallmind_kernels::attention::CacheFormat;
use smallmind_simd::IsaKind;

use super::close::Tensors;
use super::rng::Rng;

/// Parameters with random values; gaps of the layout are zero.
pub fn random_params(params: &Params, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    let layout = params.layout();
    let mut flat = vec![0.0; layout.len()];
    for (id, spec) in params.iter() {
        for x in &mut flat[layout.offset(id)..layout.offset(id) + spec.len()] {
            *x = match spec.init {
                Init::Normal { std } => std * rng.normal(),
                Init::Constant(value) => value + 0.2 * rng.normal(),
            };
        }
    }
    flat
}

/// The parameters of a graph, packed.
pub fn pack(graph: &Graph, isa: IsaKind, params: &[f32]) -> ParamStore {
    store(graph, Arc::new(Storage::of(graph, isa, Format::F32).expect("a storage")), params)
}

/// The parameters of a graph, as a storage says.
pub fn store(graph: &Graph, storage: Arc<Storage>, params: &[f32]) -> ParamStore {
    let mut values = Buffer::zeroed(params.len()).expect("memory for parameters");
    values.copy_from_slice(params);
    ParamStore::new(graph.params(), storage, values).expect("parameters of the graph")
}

/// Everything beside the arena.
pub struct Memory {
    pub params: Vec<f32>,
    pub grads: Vec<f32>,
    pub moments: (Vec<f32>, Vec<f32>),
    pub cache: Option<Cache>,
    /// Instead of `params`, where a plan reads them packed.
    pub packed: Option<Arc<ParamStore>>,
}

/// NaN in every format of a cache: as a float, as two floats of 16 bits, and as a scale.
const NAN: f32 = f32::from_bits(u32::MAX);

impl Clone for Memory {
    fn clone(&self) -> Self {
        let cache = self.cache.as_ref().map(|cache| {
            let mut copy = Cache::new(cache.shape().clone()).expect("memory for a cache");
            copy.words_mut().copy_from_slice(cache.words());
            copy
        });
        let Self { params, grads, moments, packed, .. } = self;
        let (params, grads, moments) = (params.clone(), grads.clone(), moments.clone());
        Self { params, grads, moments, cache, packed: packed.clone() }
    }
}

impl Memory {
    /// Random parameters, zero gradients and moments, no cache.
    pub fn new(params: &Params, seed: u64) -> Self {
        let params = random_params(params, seed);
        let zeros = vec![0.0; params.len()];
        Self { params, grads: zeros.clone(), moments: (zeros.clone(), zeros), cache: None, packed: None }
    }

    /// With a cache for `plan`, full of NaN: nothing may be read before it is written. The parameters are packed if
    /// `plan` reads them so.
    pub fn for_plan(mut self, plan: &Plan) -> Self {
        self.cache = plan.cache().cloned().map(|shape| Cache::new(shape).expect("memory for a cache"));
        self.cache.iter_mut().for_each(|cache| cache.words_mut().fill(NAN));
        self.packed = plan.storage().map(|storage| Arc::new(store(plan.graph(), storage.clone(), &self.params)));
        self
    }

    pub fn bindings(&mut self) -> Bindings<'_> {
        Bindings {
            params: match &self.packed {
                Some(packed) => ParamMemory::Stored(packed),
                None => ParamMemory::Exclusive(&mut self.params),
            },
            grads: Some(&mut self.grads),
            moments: Some((&mut self.moments.0, &mut self.moments.1)),
            cache: self.cache.as_mut(),
        }
    }

    /// The gradients by name.
    pub fn named_grads(&self, params: &Params) -> Tensors<f32> {
        named(params, &self.grads)
    }
}

/// The parts of a flat buffer by name of parameter.
pub fn named(params: &Params, flat: &[f32]) -> Tensors<f32> {
    let layout = params.layout();
    params
        .iter()
        .map(|(id, spec)| (spec.name.clone(), flat[layout.offset(id)..layout.offset(id) + spec.len()].to_vec()))
        .collect()
}

/// The interpreter's gradients by name.
pub fn interpreted_grads(graph: &Graph, interpreter: &Interpreter) -> Tensors<f64> {
    let grads = graph.params().iter().map(|(id, spec)| (spec.name.clone(), interpreter.grads[id.index()].data.clone()));
    grads.collect()
}

/// An executor with the pool that it needs.
pub struct Runner {
    pub executor: Executor,
    pub pool: Pool,
}

impl Runner {
    pub fn new(graph: Graph, limits: Limits, threads: usize, isa: IsaKind) -> Self {
        Self::of(Plan::new(graph, PlanOptions::flat(limits, threads, isa)).expect("a plan"))
    }

    /// With a plan that reads its parameters packed.
    pub fn packed(graph: Graph, limits: Limits, threads: usize, isa: IsaKind) -> Self {
        Self::stored(graph, limits, threads, isa, Format::F32)
    }

    /// With a plan that reads its weights in this format.
    pub fn stored(graph: Graph, limits: Limits, threads: usize, isa: IsaKind, weights: Format) -> Self {
        let storage = Storage::of(&graph, isa, weights).expect("a storage");
        Self::on(graph, limits, threads, storage)
    }

    /// With a plan that reads its parameters as `storage` says.
    pub fn on(graph: Graph, limits: Limits, threads: usize, storage: Storage) -> Self {
        Self::of(Plan::new(graph, PlanOptions::stored(limits, threads, Arc::new(storage))).expect("a plan"))
    }

    /// With a plan that reads its parameters packed, and whose cache is in this format.
    pub fn cached(graph: Graph, limits: Limits, threads: usize, (isa, cache_format): (IsaKind, CacheFormat)) -> Self {
        let storage = Storage::of(&graph, isa, Format::F32).expect("a storage");
        let options = PlanOptions::stored(limits, threads, Arc::new(storage));
        Self::of(Plan::new(graph, PlanOptions { cache_format, ..options }).expect("a plan"))
    }

    fn of(plan: Plan) -> Self {
        let threads = plan.threads();
        Self { executor: Executor::new(plan).expect("memory for an arena"), pool: Pool::new(threads).expect("threads") }
    }

    pub fn plan(&self) -> &Plan {
        self.executor.plan()
    }

    pub fn try_run(&mut self, batch: &Batch, scalars: &Scalars, bindings: Bindings<'_>) -> Result<(), GraphError> {
        self.executor.run(&mut self.pool, batch, scalars, bindings, &NoProbe)
    }

    pub fn run(&mut self, batch: &Batch, scalars: &Scalars, memory: &mut Memory) {
        self.try_run(batch, scalars, memory.bindings()).expect("a run");
    }

    pub fn run_with<P: Probe>(&mut self, batch: &Batch, scalars: &Scalars, memory: &mut Memory, probe: &P) {
        self.executor.run(&mut self.pool, batch, scalars, memory.bindings(), probe).expect("a run");
    }

    /// A result of the last run, row after row.
    pub fn result(&self, name: &str) -> Vec<f32> {
        self.executor.result_slice(name).expect("a result of that name").to_vec()
    }
}
