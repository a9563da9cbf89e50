//! Every kernel, measured beside what this machine can do and beside rivals.
//!
//! A [`Case`] is a kernel with its shape. A [`Bench`] first measures the machine's [`Roofs`], then, for each case, holds the kernel's result
//! against its `f64` reference, times it on all workers the way in which the engine shares it out, and times rivals in turn with it. A
//! [`Row`] says how long it took, and which share of the lowest roof that is.
//!
//! ```
//! use std::time::Duration;
//!
//! use smallmind_bench::{Bench, BenchError, Cases, Extent, Routes, Sampling};
//! use smallmind_profile::roofs::Effort;
//! use smallmind_simd::IsaKind;
//!
//! let filters = vec!["matmul/f32".to_owned(), "nn 64x64x64".to_owned()];
//! let bench = Bench {
//!     isa: IsaKind::best(),
//!     threads: vec![1],
//!     cases: Cases::of(Extent::Default)?.filtered(&filters),
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
//! | how a kernel is shared out and checked | [`Work`] |
//! | rivals | [`Rival`], with the protocol in its module |
//! | what comes of it | [`Row`], [`Format`], [`Baseline`] |
//! | the first SmallMind's workload, and what each remedy is worth | [`SeedBench`] |
//!
//! Not here: training as a whole, and the rivals themselves.
//!
//! [`Roofs`]: smallmind_profile::Roofs

mod against;
mod case;
mod cases;
mod error;
mod format;
pub mod rival;
mod row;
mod run;
mod sample;
mod seed;
mod work;

pub use against::Baseline;
pub use case::{Attention, Case, Cost, Dtype, NormKind, Pass, Problem, Product};
pub use cases::{Cases, Extent};
pub use error::BenchError;
pub use format::{CSV_HEADER, Format};
pub use rival::Rival;
pub use row::{Bound, Row, SCHEMA_VERSION, Who, median, roof_rows};
pub use run::{Bench, OWN, Outcome, Routes};
pub use sample::Sampling;
pub use seed::{SEED_CSV_HEADER, SeedBench, SeedPart, SeedRow, SeedWriter, TOLERANCE, Workload};
pub use work::{Share, Work, Wrong};
