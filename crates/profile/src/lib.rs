//! How the time of a run is spent, operation by operation.
//!
//! A [`Recorder`] is a [`Probe`] of the executor: it records when each worker begins and ends each step. A [`Summary`]
//! shows these times next to the costs that the graph counts, all layers together.
//!
//! ```
//! use smallmind_profile::{Recorder, Summary};
//! use smallmind_graph::{
//!     Batch, Bindings, Buffer, Decay, Executor, GraphBuilder, Init, Limits, Op, ParamSpec, Plan, PlanOptions, Pool,
//!     Scalars, op::Index,
//! };
//! use smallmind_simd::IsaKind;
//!
//! # fn main() -> Result<(), smallmind_graph::GraphError> {
//! let mut b = GraphBuilder::new();
//! let spec = ParamSpec { name: String::new(), rows: 16, cols: 8, init: Init::Constant(1.0), decay: Decay::No };
//! let table = b.param("table", spec)?;
//! let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
//! let y = b.value_of(Op::Linear { weight: table, bias: None }, &[x])?;
//! b.result("y", y);
//! let limits = Limits { tokens: 4, outputs: 0, spans: 1, context: 4, pages: 0 };
//! let plan = Plan::new(b.finish(), PlanOptions::flat(limits, 1, IsaKind::Scalar))?;
//! let recorder = Recorder::new(&plan);
//! let weights = Buffer::zeroed(plan.graph().params().layout().len())?;
//! let (mut executor, mut pool, mut batch) = (Executor::new(plan)?, Pool::new(1)?, Batch::default());
//! batch.push(&[1, 2, 3], 0);
//! executor.run(&mut pool, &batch, &Scalars::default(), Bindings::inference(&weights), &recorder)?;
//!
//! let summary = Summary::new(executor.plan(), &batch, &recorder, 1);
//! assert_eq!(summary.lines.len(), 2);
//! assert!(summary.lines.iter().any(|l| l.operation == "linear" && l.flops > 0.0));
//! # Ok(()) }
//! ```
//!
//! [`Roofs`] are the machine's limits, as in a roofline model, measured on a pool: arithmetic, memory, and the cost of
//! working together. A [`Report`] compares the time of each operation with them. [`sampling`] runs a
//! [`Workload`](smallmind_graph::Workload) alternately with a recorder and without it. Its samples become a
//! [`Measurement`](report::measurement::Measurement), and that becomes a phase of the report. [`Diff`] compares two
//! reports.
//!
//! Not here: models and training. The crates that have these implement `Workload`.
//!
//! [`Probe`]: smallmind_graph::Probe

mod class;
mod clock;
mod counters;
pub mod diff;
mod forecast;
mod recorder;
pub mod report;
pub mod roofs;
pub mod sampling;
mod speed;
pub mod statistics;
mod summary;
mod system;
mod times;
pub mod traffic;

pub use class::Class;
pub use counters::{Counters, Events};
pub use diff::Diff;
pub use forecast::Forecast;
pub use recorder::{Allocated, AllocationCounter, Recorder};
pub use report::Report;
pub use roofs::Roofs;
pub use speed::{MachineSpeed, SpeedProbe};
pub use summary::{Line, Summary};
pub use system::{SystemCounters, SystemUse};
pub use times::RunTimes;
