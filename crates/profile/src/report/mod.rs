//! The report of a profile: what was measured, what it means, and which changes would help.
//!
//! A [`Report`] is data. It is put into words when it is written, by [`terminal`], [`markdown`], [`html`] and
//! `json.rs`, which share the sentences of `words.rs`; [`folded`] and [`trace`] write files for other programs. The
//! JSON has a stable schema ([`SCHEMA_VERSION`]). All times are seconds and all work is that of one token, unless a
//! field says otherwise.

pub mod advice;
mod escape;
pub mod folded;
pub mod html;
mod html_table;
mod json;
pub mod markdown;
pub mod measurement;
pub mod operation;
pub mod phase;
mod plot;
mod roof_table;
pub mod terminal;
pub mod trace;
pub mod units;
mod warning;
mod words;

use serde::{Deserialize, Serialize};
use smallmind_graph::{Params, Storage};
use smallmind_kernels::Format;

use crate::system::SystemUse;

pub use json::ReportError;
pub use operation::{Bound, Operation, Pass};
pub use phase::{Checkpointing, Phase, PhaseKind};
pub use roof_table::{RoofLevel, RoofTable};
pub use warning::{Doubt, Warning};

/// Version of a report's JSON. It is raised if a field changes its meaning or is removed, not if a field is added.
pub const SCHEMA_VERSION: u32 = 1;

/// A whole profile. In JSON it also has its summary and its warnings, in words.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What ran where.
    pub subject: Subject,
    /// What the machine can do, measured in the same process on the same threads.
    pub roofs: RoofTable,
    /// What the operating system counted during the measurement.
    pub system: SystemUse,
    /// Prefill and decode, or a step of training.
    pub phases: Vec<Phase>,
    /// Name of the report with which this one is compared.
    pub baseline: Option<String>,
    /// Name of a report with which this one isn't compared because of `baseline_mismatches`.
    #[serde(default)]
    pub baseline_refused: Option<String>,
    /// How this report and the baseline differ, except in times; empty if they can be compared.
    #[serde(default)]
    pub baseline_mismatches: Vec<String>,
}

/// What happens to a baseline that isn't of the same machine, model or number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMismatched {
    /// It is not compared, and a warning says why.
    Refuse,
    /// It is compared, and the report says what differs.
    Compare,
}

impl Report {
    /// A report without a baseline.
    pub fn new(subject: Subject, roofs: RoofTable, system: SystemUse, phases: Vec<Phase>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            subject,
            roofs,
            system,
            phases,
            baseline: None,
            baseline_refused: None,
            baseline_mismatches: vec![],
        }
    }

    /// Adds the times of `old` to this report, as a column of the tables.
    pub fn set_beside(&mut self, old: &Report, name: &str, if_mismatched: IfMismatched) {
        self.baseline_mismatches = crate::diff::mismatches(old, self);
        if if_mismatched == IfMismatched::Refuse && !self.baseline_mismatches.is_empty() {
            self.baseline_refused = Some(name.to_owned());
            return;
        }
        self.baseline = Some(name.to_owned());
        for phase in &mut self.phases {
            let Some(before) = old.phase(phase.kind) else { continue };
            for operation in &mut phase.operations {
                let same = before.operations.iter().find(|o| o.id == operation.id);
                operation.time.baseline = same.map(|o| o.time.seconds);
            }
        }
    }

    /// The phase of that kind.
    pub fn phase(&self, kind: PhaseKind) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.kind == kind)
    }
}

/// What ran where. Reports of different subjects are not compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// `generate` or `train`.
    pub verb: String,
    /// The model's folder or preset.
    pub model: String,
    /// The model's shape in one line.
    pub shape: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Formats of the parameters in memory, that of the most bytes first: `q8_0 and f32`.
    pub format: String,
    /// Mean number of bits of a parameter in memory.
    pub bits_per_weight: f64,
    /// Format of the key-value cache; none without a cache, and in reports of earlier versions.
    #[serde(default)]
    pub cache_format: Option<String>,
    /// Worker threads.
    pub threads: usize,
    /// Name of the instruction set.
    pub isa: String,
    /// Name of the CPU.
    pub cpu: String,
    /// Version of the program.
    pub version: String,
}

impl Subject {
    /// The subject with the number of parameters and their formats: those of `storage`, or flat `f32` without it.
    #[must_use]
    pub fn with_parameters(self, params: &Params, storage: Option<&Storage>) -> Self {
        let elements = params.elements();
        let (bytes, format) = match storage {
            Some(storage) => {
                let mut formats = storage.bytes_by_format();
                formats.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
                let names: Vec<&str> = formats.iter().map(|(format, _)| format.name()).collect();
                (storage.bytes(), names.join(" and "))
            }
            None => (4 * elements, Format::F32.to_string()),
        };
        let bits_per_weight = 8.0 * bytes as f64 / elements.max(1) as f64;
        Self { parameters: elements as u64, format, bits_per_weight, ..self }
    }
}

/// The JSON of a report that has `word` for every text from outside, and every optional part.
#[cfg(test)]
fn example(word: &str) -> serde_json::Value {
    use serde_json::json;
    let work = json!({ "flops": 1.0, "weights": 1.0, "kv_read": 0.0, "kv_write": 0.0, "activations": 1.0 });
    let operation = json!({
        "rank": 1, "pass": "forward", "operation": word, "path": word, "kernel": word, "shape": word, "calls": 1.0,
        "seconds": 1.0, "share": 1.0, "cumulative": 1.0, "traffic": work, "held_gbps": 1.0, "near_gbps": 1.0,
        "peak_gflops": 1.0, "roof_seconds": 0.1, "share_of_roof": 0.1, "bound": "memory", "wait": 0.0,
        "imbalance": 1.0, "gain": 0.0, "members": [[word, 0.5], [word, 0.5]], "repeats": [1.0], "why": word,
    });
    let phase = json!({
        "name": "decode", "about": word, "tokens": 1.0, "samples": 1, "left_out": 0, "seconds": 1.0,
        "tokens_per_second": 1.0, "profiled_seconds": 1.0, "ceiling": 2.0, "share_of_ceiling": 0.5, "coverage": 1.0,
        "overhead": 0.0, "noise": 0.0, "traffic": work, "entering": 0.0, "between": 0.0, "waiting": 0.0,
        "operations": [operation], "drift": [], "stages": [[word, 1.0]], "repeats": [1.0], "arenas": [],
        "what_ifs": [{ "kind": "twice_the_context", "tokens_per_second": 1.0, "change": 0.1, "by": "computed" }],
        "roadmap": [{ "rank": 1, "tokens_per_second": 1.0, "change": 0.1 }],
        "latency": { "p50": 1.0, "p90": 1.0, "p99": 1.0, "max": 1.0, "all": [1.0] },
        "timeline": [{ "worker": 0, "operation": 0, "path": word, "begin": 0.0, "seconds": 1.0 }],
    });
    let level = json!({ "name": word, "bytes": 1.0, "read": 1.0, "update": 1.0 });
    json!({
        "schema_version": 1, "system": {}, "phases": [phase],
        "baseline": word, "baseline_refused": word, "baseline_mismatches": [word],
        "subject": {
            "verb": word, "model": word, "shape": word, "parameters": 1, "format": word, "bits_per_weight": 32.0,
            "cache_format": word,
            "threads": 1, "isa": word, "cpu": word, "version": word,
        },
        "roofs": { "f32_gflops": 1.0, "levels": [level], "entry_ns": 1.0, "barrier_ns": 1.0 },
    })
}
