//! The report of a profile: what was measured, what it means, and what would be gained.
//!
//! [`Report`] is data with a stable schema ([`SCHEMA_VERSION`]); each of its forms is a file: [`terminal`], [`markdown`], [`html`],
//! [`folded`]. All times are seconds and all work is a token's, unless a field says otherwise.

mod escape;
pub mod folded;
pub mod html;
mod html_table;
pub mod join;
pub mod markdown;
mod plot;
pub mod terminal;
pub mod trace;
pub mod units;
mod what_if;
mod words;

use serde::{Deserialize, Serialize};

use crate::system::SystemUse;
use crate::traffic::{Class, Traffic};
use crate::{Beat, Events, Roofs};

/// Version of a report's JSON. A field that changes its meaning or goes raises it; a field that is added does not.
pub const SCHEMA_VERSION: u32 = 1;

/// A whole profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What ran where.
    pub subject: Subject,
    /// What the machine can do, measured in the same process on the same threads.
    pub roofs: RoofTable,
    /// What the operating system counted during the measurement.
    pub system: SystemUse,
    /// The executive summary, a sentence each.
    pub summary: Vec<String>,
    /// What makes the figures doubtful; empty on a quiet machine.
    pub warnings: Vec<String>,
    /// Prefill and decode, or a training's step.
    pub phases: Vec<Phase>,
    /// The name of the report that the baseline columns are from.
    pub baseline: Option<String>,
    /// What differs between the two beyond their times; empty where they may be compared.
    #[serde(default)]
    pub baseline_mismatches: Vec<String>,
}

impl Report {
    /// A report with its summary and its warnings.
    pub fn new(subject: Subject, roofs: RoofTable, system: SystemUse, phases: Vec<Phase>) -> Self {
        let mut report = Self {
            schema_version: SCHEMA_VERSION,
            subject,
            roofs,
            system,
            summary: vec![],
            warnings: vec![],
            phases,
            baseline: None,
            baseline_mismatches: vec![],
        };
        words::summarize(&mut report);
        report
    }

    /// Sets the times of `old` beside this report's: a column of the tables. Whether the two may be compared is the caller's to decide
    /// ([`crate::diff::mismatches`]); what differs is said with the column.
    pub fn set_beside(&mut self, old: &Report, name: &str) {
        self.baseline = Some(name.to_owned());
        self.baseline_mismatches = crate::diff::mismatches(old, self);
        for phase in &mut self.phases {
            let Some(before) = old.phase(&phase.name) else { continue };
            for operation in &mut phase.operations {
                let same = before.operations.iter().find(|o| o.key() == operation.key());
                operation.baseline = same.map(|o| o.seconds);
            }
        }
    }

    /// What the column of ratios means and how the baseline differs, where there is one.
    pub(crate) fn beside(&self) -> Option<String> {
        let name = self.baseline.as_ref()?;
        let mut text = format!(
            "ratio: an operation's time now over its time in the baseline {name}; 0.900 is 10 % faster, new is not in the baseline."
        );
        if !self.baseline_mismatches.is_empty() {
            text += &format!(" Not the same as there: {}.", self.baseline_mismatches.join("; "));
        }
        Some(text)
    }

    /// The phase of that name.
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}

/// What ran where. Reports of different subjects are not compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// `generate` or `train`.
    pub verb: String,
    /// The model's folder or preset.
    pub model: String,
    /// Its shape in a line.
    pub shape: String,
    /// Parameters.
    pub parameters: u64,
    /// Format of the weights in memory.
    pub format: String,
    /// Bits that a weight takes there.
    pub bits_per_weight: f64,
    /// Worker threads.
    pub threads: usize,
    /// The instruction set.
    pub isa: String,
    /// The CPU's name.
    pub cpu: String,
    /// Of the program.
    pub version: String,
}

/// The roofs, as far as a report needs them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoofTable {
    /// Multiply-adds of `f32`: GFLOP/s.
    pub f32_gflops: f64,
    /// Products of bytes, with sums in `i32`: 1e9 multiplications and additions a second; none where there is no such dot product.
    #[serde(default)]
    pub int8_gops: Option<f64>,
    /// Exponentials of `f32`: 1e9 a second.
    #[serde(default)]
    pub exp_gops: f64,
    /// Memory by size, in rising order.
    pub levels: Vec<RoofLevel>,
    /// Entering and leaving the pool: nanoseconds.
    pub entry_ns: f64,
    /// A barrier: nanoseconds.
    pub barrier_ns: f64,
}

/// GB/s of memory of a size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoofLevel {
    /// In words.
    pub name: String,
    /// Bytes that all threads went over.
    pub bytes: f64,
    /// Reading.
    pub read: f64,
    /// Reading, changing and writing back.
    pub update: f64,
    /// Reading, or reading one place and writing another, whichever is faster: what operations on values do.
    #[serde(default)]
    pub values: f64,
}

impl From<&Roofs> for RoofTable {
    fn from(roofs: &Roofs) -> Self {
        let level = |b: &crate::roofs::Bandwidth| RoofLevel {
            name: b.name.to_owned(),
            bytes: b.bytes as f64,
            read: b.read,
            update: b.update,
            values: b.read.max(b.copy),
        };
        Self {
            f32_gflops: roofs.f32_gflops,
            int8_gops: roofs.int8_gops,
            exp_gops: roofs.exp_gops,
            levels: roofs.levels.iter().map(level).collect(),
            entry_ns: roofs.entry_ns,
            barrier_ns: roofs.barrier_ns,
        }
    }
}

impl RoofTable {
    /// Takes from `other`, measured at another moment in the same process, what is better there: something else may have had a CPU.
    pub fn raise(&mut self, other: &Self) {
        let up = |a: &mut f64, b: f64| *a = a.max(b);
        up(&mut self.f32_gflops, other.f32_gflops);
        up(&mut self.exp_gops, other.exp_gops);
        if let (Some(mine), Some(other)) = (&mut self.int8_gops, other.int8_gops) {
            up(mine, other);
        }
        for (level, other) in self.levels.iter_mut().zip(&other.levels) {
            up(&mut level.read, other.read);
            up(&mut level.update, other.update);
            up(&mut level.values, other.values);
        }
        self.entry_ns = self.entry_ns.min(other.entry_ns);
        self.barrier_ns = self.barrier_ns.min(other.barrier_ns);
    }

    /// GB/s of a working set of `bytes`, between the two levels that are nearest in size; `rate` says which of a level's rates.
    pub fn gbps(&self, bytes: f64, rate: impl Fn(&RoofLevel) -> f64) -> f64 {
        let above = self.levels.iter().position(|level| level.bytes >= bytes);
        match above {
            Some(0) => rate(&self.levels[0]),
            Some(i) => {
                let (a, b) = (&self.levels[i - 1], &self.levels[i]);
                let along = (bytes / a.bytes).ln() / (b.bytes / a.bytes).ln();
                // Rates of neighbours are blended as times are.
                1.0 / ((1.0 - along) / rate(a) + along / rate(b))
            }
            None => self.levels.last().map_or(f64::INFINITY, rate),
        }
    }
}

/// One measured activity, such as decode: everything about it, a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `prefill`, `decode` or `step`.
    pub name: String,
    /// What a sample of it was.
    pub about: String,
    /// Tokens of a sample.
    pub tokens: f64,
    /// Samples that the figures are means of.
    pub samples: usize,
    /// Samples left out because something else had the CPU.
    pub left_out: usize,
    /// Without the profiler.
    pub seconds: f64,
    /// `1 / seconds`.
    pub tokens_per_second: f64,
    /// With the profiler: what the table adds up to.
    pub profiled_seconds: f64,
    /// Tokens a second if every operation ran at its roof.
    pub ceiling: f64,
    /// Of the ceiling, what was reached.
    pub share_of_ceiling: f64,
    /// Time inside steps over wall time.
    pub coverage: f64,
    /// What the profiler adds to the time, from interleaved runs on and off.
    pub overhead: f64,
    /// The spread of repeated measurements, a share of their mean.
    pub noise: f64,
    /// Calls of the allocator, where the program counts them.
    pub allocations: Option<f64>,
    /// Work.
    pub traffic: Traffic,
    /// Seconds in runs but outside steps: waking the workers, joining them.
    pub entering: f64,
    /// Seconds outside runs: batches, checks, data.
    pub between: f64,
    /// Waiting inside steps, seconds.
    pub waiting: f64,
    /// Ranked by gain.
    pub operations: Vec<Operation>,
    /// Computed and measured alternatives.
    pub what_ifs: Vec<WhatIf>,
    /// What to fix, in order.
    pub roadmap: Vec<Milestone>,
    /// Of single samples without the profiler.
    pub latency: Latency,
    /// Seconds at other depths of the context.
    pub drift: Vec<(usize, f64)>,
    /// Seconds by name. Of a training: parts of a step. Of `prefill`: what the first token waited for when everything was done for the first
    /// time, from reading the model on; its own prefill is none of the samples.
    pub stages: Vec<(String, f64)>,
    /// What keeping a training's state costs; its share of a step is a stage.
    #[serde(default)]
    pub checkpoint: Option<Checkpointing>,
    /// What the CPU and the kernel counted; what they don't count is absent.
    #[serde(default)]
    pub events: Events,
    /// Memory of the plans.
    pub arenas: Vec<Arena>,
    /// One sample, the one in the middle of all, worker by worker.
    pub timeline: Vec<Slice>,
    /// Seconds a token of each repeat, without the profiler: of the sample that nine of ten exceed.
    pub repeats: Vec<f64>,
    /// A barrier right behind the samples: nanoseconds; 0 where it wasn't measured.
    #[serde(default)]
    pub barrier_ns: f64,
    /// The machine's own speed before each repeat.
    #[serde(default)]
    pub beats: Vec<Beat>,
}

impl Phase {
    /// The passes in order of time, with the seconds of a sample that each takes, waiting included.
    pub fn passes(&self) -> Vec<(String, f64)> {
        let one = |name: &&str| {
            let of_pass = self.operations.iter().filter(|o| o.pass == *name);
            (name.to_string(), self.tokens * of_pass.map(|o| o.seconds).sum::<f64>())
        };
        let all = ["forward", "backward", "clip", "update"].iter().map(one);
        all.filter(|(_, seconds)| *seconds > 0.0).collect()
    }

    /// What was counted a token, in words: by the CPU, and by the kernel.
    pub(crate) fn counted(&self) -> (Option<String>, Option<String>) {
        let e = &self.events;
        let said = |all: [Option<String>; 3]| {
            let all: Vec<String> = all.into_iter().flatten().collect();
            (!all.is_empty()).then(|| all.join(", "))
        };
        let rate = e.instructions.zip(e.cycles).map(|(n, cycles)| n / cycles.max(1.0));
        let hardware = [
            e.instructions.map(|n| format!("{} instructions", units::count(n))),
            rate.map(|n| format!("{} a cycle", units::number(n))),
            e.cache_misses.map(|n| format!("{} cache misses", units::count(n))),
        ];
        let kernel = [
            e.cpu_seconds.map(|s| format!("{} CPUs at work", units::number(s / self.seconds))),
            e.page_faults.map(|n| format!("{} page faults", units::number(n))),
            e.switches.map(|n| format!("{} switches", units::number(n))),
        ];
        (said(hardware), said(kernel))
    }

    /// The stages in a line: those of a prompt end with the first token.
    pub(crate) fn staged(&self) -> Option<String> {
        if self.stages.is_empty() {
            return None;
        }
        let one = |(name, at): &(String, f64)| format!("{name} {}", units::seconds(*at));
        let stages = self.stages.iter().map(one).collect::<Vec<_>>().join(" · ");
        let all = units::seconds(self.stages.iter().map(|(_, at)| at).sum());
        if self.name == "prefill" {
            return Some(format!("first token after {all}: {stages}"));
        }
        let one = |c: &Checkpointing| {
            format!(" ({} each {} steps)", units::seconds(c.seconds), units::number(c.interval as f64))
        };
        Some(format!("a step: {stages}{}", self.checkpoint.as_ref().map(one).unwrap_or_default()))
    }
}

/// A training's checkpoints: weights, moments and state, written and synced.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpointing {
    /// Seconds of one.
    pub seconds: f64,
    /// Bytes of weights and moments in it.
    pub bytes: f64,
    /// Steps between two.
    pub interval: u64,
}

/// An operation at one place of the model, all layers together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// From 1.
    pub rank: usize,
    /// `forward`, `backward`, `clip` or `update`.
    pub pass: String,
    /// Such as `linear`.
    pub operation: String,
    /// What kind of work it is; [`Class::Other`] in reports of earlier versions.
    #[serde(default)]
    pub class: Class,
    /// Such as `blocks.*.attn.qkv`.
    pub path: String,
    /// What computes it.
    pub kernel: String,
    /// The format of the weights that it reads; none where it reads none.
    #[serde(default)]
    pub weights: Option<String>,
    /// What goes in and comes out.
    pub shape: String,
    /// Calls a token.
    pub calls: f64,
    /// Seconds, waiting included.
    pub seconds: f64,
    /// Of the phase's time.
    pub share: f64,
    /// Of this and all before it.
    pub cumulative: f64,
    /// Work.
    pub traffic: Traffic,
    /// GB/s of the memory that weights and cache are in; what comes from there counts so.
    pub held_gbps: f64,
    /// GB/s of the memory that values are in.
    pub near_gbps: f64,
    /// GFLOP/s of the arithmetic.
    pub peak_gflops: f64,
    /// Exponentials of the arithmetic: 1e9 a second.
    #[serde(default)]
    pub exp_gops: f64,
    /// Seconds at the roof: the larger of bytes over bandwidth and arithmetic over peak.
    pub roof_seconds: f64,
    /// `roof_seconds / seconds`.
    pub share_of_roof: f64,
    /// What bounds it.
    pub bound: Bound,
    /// Seconds that workers waited for others' parts.
    pub wait: f64,
    /// The slowest worker's time over the mean; 1 is balance.
    pub imbalance: f64,
    /// Calls of the allocator and bytes asked for, where the program counts them.
    pub allocations: Option<(f64, f64)>,
    /// Tokens a second gained if it ran at its roof.
    pub gain: f64,
    /// Where it happens: path and seconds of each.
    pub members: Vec<(String, f64)>,
    /// Seconds of each repeat, as the phase has them.
    pub repeats: Vec<f64>,
    /// Why it takes its time, for the first ones.
    pub why: String,
    /// Seconds in the report that this one is set beside.
    pub baseline: Option<f64>,
}

impl Operation {
    /// GB/s reached.
    pub fn gbps(&self) -> f64 {
        self.traffic.bytes() / self.seconds.max(f64::MIN_POSITIVE) * 1e-9
    }

    /// GFLOP/s reached.
    pub fn gflops(&self) -> f64 {
        self.traffic.flops / self.seconds.max(f64::MIN_POSITIVE) * 1e-9
    }

    /// What tells it from the others of its phase, in every report: pass, operation, path.
    pub fn key(&self) -> (&str, &str, &str) {
        (&self.pass, &self.operation, &self.path)
    }

    /// The least seconds that `traffic` could take here, by memory and by arithmetic.
    pub fn roof(&self, traffic: &Traffic) -> (f64, f64) {
        let held = traffic.weights + traffic.kv_read + traffic.kv_write;
        let memory = held / self.held_gbps + traffic.activations / self.near_gbps;
        let products = traffic.flops / self.peak_gflops;
        // The same units do both, one after the other.
        let exponentials = if traffic.exponentials > 0.0 { traffic.exponentials / self.exp_gops } else { 0.0 };
        (memory * 1e-9, (products + exponentials) * 1e-9)
    }
}

/// What bounds an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Bytes.
    Memory,
    /// Arithmetic.
    Compute,
    /// Its own beginning and end: it is too short for either.
    Latency,
    /// Other workers.
    Waiting,
}

impl Bound {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Compute => "compute",
            Self::Latency => "latency",
            Self::Waiting => "waiting",
        }
    }
}

/// An alternative and the rate that it would bring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhatIf {
    /// What would be different.
    pub what: String,
    /// Tokens a second then.
    pub tokens_per_second: f64,
    /// Of the rate as it is, less 1.
    pub change: f64,
    /// `measured` or `computed`.
    pub by: String,
}

/// A step of the roadmap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Milestone {
    /// What to do.
    pub what: String,
    /// Tokens a second after it and all before.
    pub tokens_per_second: f64,
    /// Of the rate as it is, less 1.
    pub change: f64,
}

/// Percentiles of single samples, seconds a sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// 90 of 100 are faster.
    pub p90: f64,
    /// 99 of 100 are faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
    /// All of them in order of time, or evenly chosen ones where there are many.
    pub all: Vec<f64>,
}

/// The memory of a plan's values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arena {
    /// Which plan.
    pub plan: String,
    /// Bytes of the arena, scratch included.
    pub bytes: u64,
    /// Bytes that one buffer a value would take.
    pub unplanned_bytes: u64,
    /// Operations of the plan: the extent of time.
    pub nodes: usize,
    /// Where values lie and when they live.
    pub values: Vec<ArenaValue>,
}

/// A value in the arena.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArenaValue {
    /// The place in the model that makes it.
    pub path: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// The first operation that touches it.
    pub from: usize,
    /// The one behind the last.
    pub to: usize,
}

/// A stretch of a worker's time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The worker.
    pub worker: usize,
    /// What it did: an index into the phase's operations, or none for waiting.
    pub operation: Option<usize>,
    /// The place in the model.
    pub path: String,
    /// Seconds since the sample began.
    pub begin: f64,
    /// How long.
    pub seconds: f64,
}
