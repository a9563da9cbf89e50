//! A phase of the report: prefill, decode or a step of training. Figures are those of one token unless a field says
//! otherwise.

use serde::{Deserialize, Deserializer, Serialize};

use super::advice::{Milestone, WhatIf};
use super::operation::{Operation, Pass};
use crate::traffic::Traffic;
use crate::{Events, MachineSpeed};

/// What a phase measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseKind {
    /// Reading a prompt.
    Prefill,
    /// Generating one token after another.
    Decode,
    /// A step of training.
    Step,
}

impl PhaseKind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Step => "step",
        }
    }
}

/// One measured activity. In JSON the fields of its parts are at the same level as its own (`json.rs`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Phase {
    /// What was measured; `name` in JSON.
    #[serde(rename = "name")]
    pub kind: PhaseKind,
    /// What one sample is, in words.
    pub about: String,
    /// The samples and how they differ.
    #[serde(flatten)]
    pub samples: SampleStats,
    /// How fast it is, and how fast it could be.
    #[serde(flatten)]
    pub rate: Rate,
    /// How the time is spent besides the work of the operations.
    #[serde(flatten)]
    pub time: TimeSplit,
    /// What program, CPU and kernel counted.
    #[serde(flatten)]
    pub counted: Counted,
    /// Operations and bytes of all steps.
    pub traffic: Traffic,
    /// The operations, ranked by gain.
    pub operations: Vec<Operation>,
    /// What would change the rate.
    #[serde(flatten)]
    pub outlook: Outlook,
    /// Times by stage and by depth of the context.
    #[serde(flatten)]
    pub breakdown: Breakdown,
    /// The machine during the samples.
    #[serde(flatten)]
    pub machine: MachineState,
    /// Memory of the plans.
    pub arenas: Vec<Arena>,
    /// The sample whose time is nearest to the mean, worker by worker.
    pub timeline: Vec<Slice>,
}

/// The samples of a phase and how they differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleStats {
    /// Tokens in a sample.
    pub tokens: f64,
    /// Number of samples that the figures are means of; `samples` in JSON.
    #[serde(rename = "samples")]
    pub count: usize,
    /// Number of samples that are left out because they took far longer than the median: another program had a CPU.
    pub left_out: usize,
    /// Standard deviation of the repeats divided by their mean.
    pub noise: f64,
    /// For each repeat the 10 % quantile of its samples without the profiler, in seconds.
    pub repeats: Vec<f64>,
    /// Percentiles of the samples, without the profiler.
    pub latency: Latency,
}

/// How fast a phase is, and how fast it could be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Seconds without the profiler.
    pub seconds: f64,
    /// `1 / seconds`.
    pub tokens_per_second: f64,
    /// Seconds with the profiler; the operations' seconds are parts of it.
    pub profiled_seconds: f64,
    /// Tokens per second if every operation ran at its roof.
    pub ceiling: f64,
    /// `tokens_per_second / ceiling`.
    pub share_of_ceiling: f64,
}

/// How the time of a phase is spent besides the work of the operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeSplit {
    /// Time inside steps divided by wall time.
    pub coverage: f64,
    /// What the profiler adds to the time, as a share: the median over pairs of samples with it and without it.
    pub overhead: f64,
    /// Seconds inside runs but outside steps: waking the workers and joining them.
    pub entering: f64,
    /// Seconds outside runs: batches, checks, data.
    pub between: f64,
    /// Seconds inside steps in which workers wait for one another.
    pub waiting: f64,
}

/// What program, CPU and kernel counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Calls of the allocator; none if the program doesn't count them.
    pub allocations: Option<f64>,
    /// Events of the CPU and the kernel; those that can't be counted here are absent.
    #[serde(default)]
    pub events: Events,
}

/// What would change the rate. Entries without a kind, which earlier versions wrote, are left out when a report is
/// read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Outlook {
    /// Alternatives, computed and measured.
    #[serde(deserialize_with = "those_with_a_kind")]
    pub what_ifs: Vec<WhatIf>,
    /// What to make faster, in order.
    #[serde(deserialize_with = "those_with_a_kind")]
    pub roadmap: Vec<Milestone>,
}

fn those_with_a_kind<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(d: D) -> Result<Vec<T>, D::Error> {
    let all = Vec::<serde_json::Value>::deserialize(d)?;
    Ok(all.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect())
}

/// Times by stage and by depth of the context.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Breakdown {
    /// Other lengths of context, each with its seconds per token.
    pub drift: Vec<(usize, f64)>,
    /// Seconds of each stage, by name. For training: the parts of a step. For prefill: the stages up to the first
    /// token, beginning with reading the model. Everything in them is done for the first time, and they are not part of
    /// a sample.
    pub stages: Vec<(String, f64)>,
    /// The cost of checkpoints in training; their share of a step is one of the stages.
    #[serde(default)]
    pub checkpoint: Option<Checkpointing>,
}

/// The machine during the samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineState {
    /// A barrier, measured right after the samples: nanoseconds; 0 if it wasn't measured.
    #[serde(default)]
    pub barrier_ns: f64,
    /// The speed of the machine before each repeat; `beats` in JSON.
    #[serde(default, rename = "beats")]
    pub speeds: Vec<MachineSpeed>,
}

impl Phase {
    /// Seconds of a sample in each pass, waiting included; passes that take no time are left out.
    pub fn passes(&self) -> Vec<(Pass, f64)> {
        let one = |pass: Pass| {
            let of_pass = self.operations.iter().filter(|o| o.id.pass == pass);
            (pass, self.samples.tokens * of_pass.map(|o| o.time.seconds).sum::<f64>())
        };
        Pass::ALL.into_iter().map(one).filter(|(_, seconds)| *seconds > 0.0).collect()
    }

    /// A share of the profiled time.
    pub fn share_of_time(&self, seconds: f64) -> f64 {
        seconds / self.rate.profiled_seconds
    }

    /// Whether it has the times of a baseline.
    pub fn has_baseline(&self) -> bool {
        self.operations.iter().any(|o| o.time.baseline.is_some())
    }

    /// Whether it has passes other than the forward pass.
    pub fn has_passes(&self) -> bool {
        self.operations.iter().any(|o| o.id.pass != Pass::Forward)
    }
}

/// Checkpoints in training: weights, moments and state, written and synced.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpointing {
    /// Seconds of one checkpoint.
    pub seconds: f64,
    /// Bytes of its weights and moments.
    pub bytes: f64,
    /// Steps between two checkpoints.
    pub interval: u64,
}

/// Percentiles of single samples: seconds per sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// 50 of 100 samples are faster.
    pub p50: f64,
    /// 90 of 100 samples are faster.
    pub p90: f64,
    /// 99 of 100 samples are faster.
    pub p99: f64,
    /// The slowest sample.
    pub max: f64,
    /// All samples in the order in which they ran, or evenly chosen ones if there are many.
    pub all: Vec<f64>,
}

/// The memory of a plan's values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arena {
    /// What the plan is for.
    pub plan: String,
    /// Bytes of the arena, scratch included.
    pub bytes: u64,
    /// Bytes if every value had a buffer of its own.
    pub unplanned_bytes: u64,
    /// Number of operations of the plan: the length of the time axis.
    pub nodes: usize,
    /// Where values are stored, and when they are alive.
    pub values: Vec<ArenaValue>,
}

/// A value in the arena.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArenaValue {
    /// Path and name of the operation that makes it.
    pub path: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// Index of the first operation that touches it.
    pub from: usize,
    /// One more than the index of the last operation that touches it.
    pub to: usize,
}

/// A piece of a worker's time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The worker.
    pub worker: usize,
    /// Index of the operation among the phase's; none for waiting.
    pub operation: Option<usize>,
    /// Path of the operation in the model, layer numbers included.
    pub path: String,
    /// When it begins: seconds since the sample began.
    pub begin: f64,
    /// How long it takes: seconds.
    pub seconds: f64,
}
