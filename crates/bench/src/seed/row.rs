//! A line of the record.

use serde::Serialize;

use crate::row::SCHEMA_VERSION;

/// Which table a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SeedPart {
    /// A kernel, next to the first SmallMind's.
    Kernel,
    /// A rung of the ladder.
    Ladder,
    /// The plain way with every remedy but one.
    Without,
    /// The workload then and now.
    Workload,
}

/// One measurement. The first SmallMind's figures are from its own profile, on four cores of another machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeedRow {
    /// Version of this layout.
    pub schema_version: u32,
    /// Which table it belongs to.
    pub part: SeedPart,
    /// The kernel with its shape, the rung, the remedy that is missing, or the way of generating.
    pub name: String,
    /// Workers.
    pub threads: usize,
    /// The instruction set; for the ladder that of its products.
    pub isa: &'static str,
    /// Number of samples; the figures are their medians.
    pub runs: usize,
    /// Tokens generated in a run.
    pub tokens: Option<usize>,
    /// What `now` and `then` count.
    pub unit: &'static str,
    /// The rate measured.
    pub now: Option<f64>,
    /// Milliseconds of a forward pass.
    pub ms_per_forward: Option<f64>,
    /// Bytes allocated for a token.
    pub bytes_per_token: Option<f64>,
    /// The rate divided by that of the rung before; if a remedy is left out, the rate with it divided by the rate
    /// without.
    pub factor: Option<f64>,
    /// The rate divided by that of the first rung.
    pub over_naive: Option<f64>,
    /// The first SmallMind's rate.
    pub then: Option<f64>,
    /// The first SmallMind's bytes for a token.
    pub then_bytes_per_token: Option<f64>,
    /// The rate that is aimed at.
    pub target: Option<f64>,
    /// A note for the reader.
    pub note: String,
    /// Why there is no rate.
    pub error: Option<String>,
}

impl SeedRow {
    pub(super) fn new(part: SeedPart, name: &str, threads: usize, isa: &'static str, unit: &'static str) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            part,
            name: name.to_owned(),
            threads,
            isa,
            runs: 0,
            tokens: None,
            unit,
            now: None,
            ms_per_forward: None,
            bytes_per_token: None,
            factor: None,
            over_naive: None,
            then: None,
            then_bytes_per_token: None,
            target: None,
            note: String::new(),
            error: None,
        }
    }
}
