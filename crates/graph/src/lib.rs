//! graph

mod arena;
mod batch;
mod cache;
mod cost;
mod error;
mod executor;
mod fuse;
mod grad;
mod graph;
pub mod interpret;
mod lower;
pub mod op;
mod params;
mod plan;
mod pool;
mod probe;
mod shape;
mod update;

pub use arena::Buffer;
pub use batch::{Batch, Scalars, Span};
pub use cache::CacheShape;
pub use cost::{Cost, cost};
pub use error::GraphError;
pub use executor::{Bindings, Executor, Weights};
pub use fuse::fuse;
pub use grad::grad;
pub use graph::{Graph, GraphBuilder, Node, NodeId, Phase, ValueId};
pub use op::Op;
pub use params::{Decay, Init, Layout, ParamId, ParamSpec, Params};
pub use plan::{Limits, Placement, Plan, Step, Workers};
pub use pool::{Pool, Team, available_threads};
pub use probe::{NoProbe, Probe};
pub use shape::{Rows, Shape, ShapeContext};
pub use update::{CLIP, update_graph};
