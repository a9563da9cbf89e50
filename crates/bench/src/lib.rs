//! Every kernel, measured and compared with what this machine can do and with rivals.
//!
//! A [`Case`] is a kernel with its shape. A [`Bench`] first measures the machine's [`Roofs`]. For each case it then
//! compares the result with an `f64` reference, times the case on all workers, and times rivals alternately with it. A
//! [`Row`] holds the time, and the fraction of the lowest roof that the case reaches.
//!
//! A case that an op of the engine computes is run as a graph of that op, planned and executed as in a model. Its time
//! is that of the op's steps. No op computes softmax, cross-entropy on logits or products of `bf16`: these are timed as
//! calls of their kernels.
//!
//! ```
//! use std::time::Duration;
//!
//! use smallmind_bench::{Bench, BenchError, Cases, Extent, Routes, Sampling};
//! use smallmind_kernels::Format;
//! use smallmind_profile::roofs::Effort;
//! use smallmind_simd::IsaKind;
//!
//! let filters = vec!["matmul/f32".to_owned(), "nn 64x64x64".to_owned()];
//! let bench = Bench {
//!     isa: IsaKind::best(),
//!     threads: vec![1],
//!     cases: Cases::of(Extent::Default, Format::F32)?.filtered(&filters),
//!     filters,
//!     sampling: Sampling { runs: 3, sample: Duration::from_micros(100) },
//!     effort: Effort::QUICK,
//!     routes: Routes::Chosen,
//!     baseline: None,
//!     version: "0".into(),
//! };
//! let mut rows = vec![];
//! let outcome = bench.run(&mut [], |row| {
//!     rows.push(row.clone());
//!     Ok::<_, BenchError>(())
//! })?;
//! assert!(outcome.errors.is_empty());
//! assert_eq!((rows.len(), rows[0].kernel.as_str()), (1, "matmul"));
//! assert!(rows[0].gflops > Some(0.0));
//! # Ok::<(), BenchError>(())
//! ```
//!
//! | subject | items |
//! |---|---|
//! | what is measured | [`Case`], [`Problem`], [`Cases`] |
//! | rivals | [`Rival`], with the protocol in its module |
//! | what comes of it | [`Row`], [`RecordFormat`], [`Baseline`] |
//! | prompts read and tokens generated with a whole model | [`InferenceBench`], [`InferenceTest`], [`BatchedTest`] |
//! | steps of training | [`TrainingBench`] |
//! | the first SmallMind's workload, and the speed-up of each remedy | [`SeedBench`] |
//!
//! Not here: the rivals themselves.
//!
//! [`Roofs`]: smallmind_profile::Roofs

mod against;
mod case;
mod cases;
mod error;
mod facts;
mod format;
mod inference;
pub mod rival;
mod row;
mod run;
mod sample;
mod seed;
mod table;
mod training;
mod work;

pub use against::Baseline;
pub use case::{Attention, Case, Cost, NormKind, Pass, Problem, Product};
pub use cases::{Cases, Extent};
pub use error::BenchError;
pub use format::{CSV_HEADER, RecordFormat};
pub use inference::{BatchedRow, BatchedTest, FIRST_PROMPT, FirstToken, InferenceBench, InferenceRow, InferenceTest};
pub use rival::Rival;
pub use row::{Bound, Row, SCHEMA_VERSION, Who, median, roof_rows};
pub use run::{Bench, Findings, OWN, Routes};
pub use sample::Sampling;
pub use seed::{SEED_CSV_HEADER, SeedBench, SeedPart, SeedRow, SeedWriter, TOLERANCE, Workload};
pub use table::{TableFormat, TableWriter, Tabled};
pub use training::{TrainingBench, TrainingRow};
