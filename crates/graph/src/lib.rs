//! A model as a short graph of transformer-sized operations, and everything that is done with it: it is differentiated,
//! fused, laid out in one arena, and run by one executor on a pool of workers.
//!
//! # From a graph to a training
//!
//! The model of this example embeds a token, adds one layer to it, and uses the embedding's table again as its output
//! head.
//!
//! ```
//! use smallmind_graph::op::{AdamWSpec, Gelu, Index};
//! use smallmind_graph::{
//!     Batch, Bindings, Buffer, Decay, Executor, GraphBuilder, Init, Limits, NoProbe, Op, ParamMemory, ParamSpec, Plan,
//!     PlanOptions, Pool, Scalars, fuse, grad, update_graph,
//! };
//! use smallmind_simd::IsaKind;
//!
//! # fn main() -> Result<(), smallmind_graph::GraphError> {
//! // 1. The graph. Values are matrices with a row for each token; each operation's shape rule is checked as it comes.
//! let matrix = |rows, cols| {
//!     let init = Init::Normal { std: 0.02 };
//!     ParamSpec { name: String::new(), rows, cols, init, decay: Decay::Yes }
//! };
//! let mut b = GraphBuilder::new();
//! let table = b.param("embed.weight", matrix(5, 8))?;
//! let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
//! let hidden = b.scope("mlp", |b| {
//!     let weight = b.param("weight", matrix(8, 8))?;
//!     let y = b.value_of(Op::Linear { weight, bias: None }, &[x])?;
//!     let y = b.value_of(Op::Gelu(Gelu::Exact), &[y])?;
//!     b.value_of(Op::Add, &[x, y])
//! })?;
//! let loss = b.value_of(Op::LinearCrossEntropy { weight: table, cap: None }, &[hidden])?;
//! b.result("loss", loss);
//!
//! // 2. The graph of the loss and of all gradients, with fewer passes over memory; and the graph of the optimizer.
//! let training = fuse(&grad(&b.finish(), "loss")?);
//! let adamw = AdamWSpec { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 };
//! let optimizer = update_graph(training.params().clone(), adamw, 1.0)?;
//! println!("{training}");
//!
//! // 3. Plans, made for the largest batch. These are the last allocations.
//! let limits = Limits { tokens: 8, outputs: 0, spans: 2, context: 4, pages: 0 };
//! let (threads, isa) = (2, IsaKind::best());
//! let len = training.params().layout().len();
//! let mut step = Executor::new(Plan::new(training, PlanOptions::flat(limits, threads, isa))?)?;
//! let mut update = Executor::new(Plan::new(optimizer, PlanOptions::flat(limits, threads, isa))?)?;
//! let mut pool = Pool::new(threads)?;
//! println!("{}", step.plan());
//!
//! // 4. Memory that outlives a run is the caller's. The initial values are too: here just some numbers.
//! let (mut weights, mut grads) = (Buffer::zeroed(len)?, Buffer::zeroed(len)?);
//! let (mut m, mut v) = (Buffer::zeroed(len)?, Buffer::zeroed(len)?);
//! weights.iter_mut().enumerate().for_each(|(i, w)| *w = (i * 7 % 11) as f32 * 0.02 - 0.1);
//!
//! // 5. A batch holds sequences end to end, however long each of them is.
//! let mut batch = Batch::with_capacity(&limits);
//! batch.push_with_targets(&[0, 1, 2], &[1, 2, 3]);
//! batch.push_with_targets(&[3, 4], &[4, 0]);
//!
//! let mut losses = Vec::new();
//! for count in 1..=60 {
//!     let scalars = Scalars { loss_scale: 1.0 / 5.0, learning_rate: 0.05, step: count, ..Scalars::default() };
//!     let bindings = Bindings { grads: Some(&mut grads), ..Bindings::inference(&weights) };
//!     step.run(&mut pool, &batch, &scalars, bindings, &NoProbe)?;
//!     losses.push(step.result_slice("loss").map_or(f32::NAN, |loss| loss.iter().sum()));
//!
//!     let params = ParamMemory::Exclusive(&mut weights);
//!     let bindings = Bindings { params, grads: Some(&mut grads), moments: Some((&mut m, &mut v)), cache: None };
//!     update.run(&mut pool, &Batch::default(), &scalars, bindings, &NoProbe)?;
//! }
//! assert!(losses[59] < 0.1 * losses[0], "{losses:?}");
//! # Ok(()) }
//! ```
//!
//! # What to look for where
//!
//! | subject | items |
//! |---|---|
//! | what there is to compute | [`Op`] with its facts ([`Op::info`]) and its [`cost`](fn@cost) |
//! | building, changing graphs | [`GraphBuilder`], [`Graph`], [`grad`](fn@grad), [`fuse`](fn@fuse), [`update_graph`] |
//! | planning | [`Plan`]: liveness and places in the arena, steps, barriers; [`Limits`] |
//! | weights that are only read, in several formats | [`Storage`], [`ParamStore`], [`PlanOptions`] |
//! | products of `bf16` in training | [`Precision`] |
//! | running | [`Executor`], [`Pool`], [`Batch`] with its [`Span`]s, [`Bindings`], [`Probe`] |
//! | measuring | [`Workload`]: work that a profiler repeats |
//! | checking | [`interpret`](mod@interpret): the same graph on the reference kernels, in `f64` |
//!
//! Two dimensions are symbolic: `tokens`, and `outputs`, the tokens whose output rows the batch asks for. Context
//! length never enters a shape. All errors ([`GraphError`]) come before a run; a run that has begun can't fail and
//! allocates nothing.
//!
//! Not here: the names and shapes of models, files, and initial values.
//!
//! # The order in which to read the files
//!
//! Each file uses only those before it.
//!
//! 1. Words: `shape`, `error`, `params`, `limits`, `batch`.
//! 2. Graphs: `op/` (the operations and their facts), `graph`; then the passes `grad`, `fuse` and `update`.
//! 3. Memory: `buffer`, `cache`, `storage`, `store`; `cost`, which counts operations and bytes.
//! 4. Steps: `access` (what a step declares), `watch`, `frame` (how a worker reaches the memory), `step`, `barriers`.
//! 5. Planning: `place`, `lower/` (a function for each operation), `plan`.
//! 6. Running: `cpus`, `pool`, `probe`, `executor`.
//! 7. Checking: `interpret`.

mod access;
mod barriers;
mod batch;
mod buffer;
mod cache;
mod cost;
mod cpus;
mod error;
mod executor;
mod frame;
mod fuse;
mod grad;
mod graph;
pub mod interpret;
mod limits;
mod lower;
pub mod op;
mod params;
mod place;
mod plan;
mod pool;
mod probe;
mod shape;
mod step;
mod storage;
mod store;
mod store_rows;
mod update;
mod watch;
mod workload;

pub use batch::{Batch, Scalars, Span};
pub use buffer::Buffer;
pub use cache::{Cache, CacheLayer, CacheShape, PAGE_TOKENS};
pub use cost::cost;
pub use error::{GraphError, StorageUse};
pub use executor::{Bindings, Executor, ParamMemory};
pub use fuse::fuse;
pub use grad::grad;
pub use graph::{Graph, GraphBuilder, Node, NodeId, Phase, ValueId};
pub use limits::Limits;
pub use lower::{SHARED_ELEMENTS, UPDATE_GRANULE};
pub use op::{Cost, Op};
pub use params::{Decay, FlatLayout, Init, ParamId, ParamSpec, Params};
pub use place::Placement;
pub use plan::{Plan, PlanOptions, Precision};
pub use pool::{Pool, Team, available_threads};
pub use probe::{NoProbe, Probe};
pub use shape::{Rows, Shape};
pub use step::{Step, Workers};
pub use storage::{Order, ParamLayout, Segment, Storage};
pub use store::ParamStore;
pub use store_rows::RowsMut;
pub use update::{CLIP, update_graph};
pub use workload::Workload;
