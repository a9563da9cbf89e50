//! An operation in the report: one place in the model, all layers together. Figures are those of one token.

use serde::{Deserialize, Serialize};
use smallmind_graph::{Batch, Node, Op, Phase, Plan, Precision};
use smallmind_kernels::Format;

use super::RoofTable;
use crate::Class;
use crate::summary::folded;
use crate::traffic::{Traffic, traffic};

/// Number of operations that reports explain.
const EXPLAINED: usize = 10;

/// The pass of a run that an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// From tokens to logits or losses.
    Forward,
    /// From losses to gradients.
    Backward,
    /// The norm of all gradients, and the factor that limits it.
    Clip,
    /// From gradients to new weights.
    Update,
}

impl Pass {
    /// Every pass, in order of time.
    pub const ALL: [Self; 4] = [Self::Forward, Self::Backward, Self::Clip, Self::Update];

    /// The pass of a node.
    pub fn of(node: &Node) -> Self {
        match node.phase {
            Phase::Forward => Self::Forward,
            Phase::Backward => Self::Backward,
            Phase::Update if node.op.effects().parameters => Self::Update,
            Phase::Update => Self::Clip,
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Clip => "clip",
            Self::Update => "update",
        }
    }
}

/// What identifies an operation within its phase, in every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationId {
    /// The pass.
    pub pass: Pass,
    /// Name of the operation, such as `linear`.
    pub operation: String,
    /// Path in the model with layer numbers as stars, such as `blocks.*.attn.qkv`.
    pub path: String,
}

impl OperationId {
    /// The operation that a node is part of.
    pub fn of(node: &Node) -> Self {
        Self { pass: Pass::of(node), operation: node.op.name().to_owned(), path: folded(&node.path) }
    }
}

/// An operation at one place of the model, all layers together. In JSON the fields of its parts are at the same level
/// as its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Rank by gain, from 1.
    pub rank: usize,
    /// Which operation it is.
    #[serde(flatten)]
    pub id: OperationId,
    /// What it computes, and how.
    #[serde(flatten)]
    pub kind: Kind,
    /// Number of calls.
    pub calls: f64,
    /// Work.
    pub traffic: Traffic,
    /// Measured times.
    #[serde(flatten)]
    pub time: OperationTime,
    /// What the machine allows.
    #[serde(flatten)]
    pub roof: OperationRoof,
    /// Calls of the allocator and bytes allocated; none if the program doesn't count them.
    pub allocations: Option<(f64, f64)>,
}

/// What an operation computes, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kind {
    /// Kind of work; [`Class::Other`] in reports of earlier versions, which lack it.
    #[serde(default)]
    pub class: Class,
    /// The kernel, in words.
    pub kernel: String,
    /// Format of the weights that it reads; none if it reads none.
    #[serde(default)]
    pub weights: Option<String>,
    /// Format of the key-value cache that it reads or writes; none if it does neither, and in reports of earlier
    /// versions, in which that is `f32`.
    #[serde(default)]
    pub cache: Option<String>,
    /// Rows and columns of input and output: `64x128 → 64x384`.
    pub shape: String,
}

/// Measured times of an operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationTime {
    /// Seconds, waiting included.
    pub seconds: f64,
    /// Share of the phase's time.
    pub share: f64,
    /// Sum of the shares of this operation and of those that rank before it.
    pub cumulative: f64,
    /// Seconds in which workers wait for others that are still working on it.
    pub wait: f64,
    /// Time of the slowest worker divided by the mean of all workers; 1 is perfect balance.
    pub imbalance: f64,
    /// Path, with layer numbers, and seconds of each of its nodes.
    pub members: Vec<(String, f64)>,
    /// For each repeat the 10 % quantile of its samples, in seconds.
    pub repeats: Vec<f64>,
    /// Seconds in the baseline; none without a baseline, or if the baseline has no such operation.
    pub baseline: Option<f64>,
}

impl OperationTime {
    /// Share of its time in which workers wait for one another.
    pub fn waiting_share(&self) -> f64 {
        self.wait / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Its time divided by that in the baseline.
    pub fn ratio(&self) -> Option<f64> {
        self.baseline.map(|before| self.seconds / before.max(f64::MIN_POSITIVE))
    }
}

/// What the machine allows an operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationRoof {
    /// Bandwidth of the memory that holds weights and cache: GB/s.
    pub held_gbps: f64,
    /// Bandwidth of the memory that holds values: GB/s.
    pub near_gbps: f64,
    /// Peak of the arithmetic that it uses: GFLOP/s.
    pub peak_gflops: f64,
    /// Peak of exponentials: 1e9 per second.
    #[serde(default)]
    pub exp_gops: f64,
    /// The least seconds that the machine allows: the greater of those of memory and those of arithmetic;
    /// `roof_seconds` in JSON.
    #[serde(rename = "roof_seconds")]
    pub seconds: f64,
    /// The least seconds divided by the measured seconds; `share_of_roof` in JSON.
    #[serde(rename = "share_of_roof")]
    pub share: f64,
    /// What bounds it.
    pub bound: Bound,
    /// Tokens per second that the phase would gain if only this operation ran at its roof.
    pub gain: f64,
}

impl OperationRoof {
    /// The roofs of a node of `plan` on `batch`, without what follows from measured times.
    pub(crate) fn of(plan: &Plan, node: &Node, batch: &Batch, roofs: &RoofTable) -> Self {
        let writes = node.op.effects().gradients || node.op.effects().parameters;
        Self {
            held_gbps: roofs.gbps(held_bytes(plan, batch), |level| if writes { level.update } else { level.read }),
            near_gbps: roofs.gbps(traffic_in(plan, node, batch).activations.max(1.0), |level| level.values),
            peak_gflops: peak_gflops(plan, node, roofs),
            exp_gops: roofs.exp_gops,
            seconds: 0.0,
            share: 0.0,
            bound: Bound::Latency,
            gain: 0.0,
        }
    }

    /// The least seconds that `traffic` could take here, by memory and by arithmetic.
    pub fn bounds(&self, traffic: &Traffic) -> (f64, f64) {
        let held = traffic.weights + traffic.kv_read + traffic.kv_write;
        let memory = held / self.held_gbps + traffic.activations / self.near_gbps;
        let products = traffic.flops / self.peak_gflops;
        // The same units of the CPU do both, one after the other.
        let exponentials = if traffic.exponentials > 0.0 { traffic.exponentials / self.exp_gops } else { 0.0 };
        (memory * 1e-9, (products + exponentials) * 1e-9)
    }
}

impl Operation {
    /// GB/s reached.
    pub fn gbps(&self) -> f64 {
        self.traffic.bytes() / self.time.seconds.max(f64::MIN_POSITIVE) * 1e-9
    }

    /// GFLOP/s reached.
    pub fn gflops(&self) -> f64 {
        self.traffic.flops / self.time.seconds.max(f64::MIN_POSITIVE) * 1e-9
    }

    /// Seconds of one call.
    pub fn call_seconds(&self) -> f64 {
        self.time.seconds / self.calls.max(f64::MIN_POSITIVE)
    }

    /// Seconds that it would save at its roof.
    pub fn saved_at_roof(&self) -> f64 {
        (self.time.seconds - self.roof.seconds).max(0.0)
    }

    /// Whether most of its arithmetic is exponentials.
    pub fn is_mostly_exponentials(&self) -> bool {
        self.traffic.exponentials * self.roof.peak_gflops > self.traffic.flops * self.roof.exp_gops
    }

    /// Kernel and path: `linear (packed) @ head`.
    pub fn place(&self) -> String {
        format!("{} @ {}", self.kind.kernel, self.id.path)
    }

    /// Whether reports explain it: only the first ranks are explained.
    pub fn is_explained(&self) -> bool {
        self.rank <= EXPLAINED
    }
}

/// The work of a node on a batch, with parameters and keys and values as the plan stores them.
pub(crate) fn traffic_in(plan: &Plan, node: &Node, batch: &Batch) -> Traffic {
    traffic(plan.graph(), node, batch, plan.storage().map(|storage| &**storage), plan.cache_format())
}

/// The peak of an operation in GFLOP/s. Rows of a weight in a format of blocks are multiplied as bytes, and pairs of
/// `bf16` by the dot product of the CPU, if it has one.
fn peak_gflops(plan: &Plan, node: &Node, roofs: &RoofTable) -> f64 {
    let Some(storage) = plan.storage() else {
        let rounds = plan.precision() == Precision::Bf16 && is_product(&node.op);
        return roofs.bf16_gflops.filter(|_| rounds).unwrap_or(roofs.f32_gflops);
    };
    let weight = node.op.params().into_iter().next().filter(|_| Class::of(&node.op) == Class::Product);
    let Some(layout) = weight.map(|id| storage.get(id)) else { return roofs.f32_gflops };
    // How many times slower each row is than one of `f32`.
    let slowness = |format: Format| roofs.f32_gflops / roofs.peak_of(format, layout.shape[1]);
    let all = layout.segments.iter().map(|segment| segment.rows.len() as f64 * slowness(segment.format)).sum::<f64>();
    roofs.f32_gflops / (all / layout.shape[0].max(1) as f64)
}

/// Whether it is a product of a linear layer or of its gradients, with or without a loss.
fn is_product(op: &Op) -> bool {
    let is_gradient = matches!(op, Op::LinearGradInput { .. } | Op::LinearGradWeight { .. });
    is_gradient || matches!(op, Op::Linear { .. } | Op::LinearCrossEntropy { .. } | Op::LinearCrossEntropyGrad { .. })
}

/// Bytes that every run reads or writes: parameters, also gradients and moments if these are written, the tokens in the
/// cache, and the arena.
fn held_bytes(plan: &Plan, batch: &Batch) -> f64 {
    let graph = plan.graph();
    let effects = |test: fn(&Node) -> bool| graph.nodes().iter().any(test);
    let gradients = effects(|node| node.op.effects().gradients);
    let parameters = effects(|node| node.op.effects().parameters);
    let copies = 1 + usize::from(gradients) + 2 * usize::from(parameters);
    let all: Vec<Traffic> = graph.nodes().iter().map(|node| traffic_in(plan, node, batch)).collect();
    let values: f64 = all.iter().map(|t| t.activations).sum();
    let cache: f64 = all.iter().map(|t| t.kv_read).sum();
    let flat = 4 * copies * graph.params().layout().len();
    let params = plan.storage().map_or(flat, |storage| storage.bytes());
    params as f64 + cache + values.min(plan.arena_bytes() as f64)
}

/// What bounds an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Moving bytes.
    Memory,
    /// Arithmetic.
    Compute,
    /// Latency: it is too short for either.
    Latency,
    /// Waiting for other workers.
    Waiting,
}

impl Bound {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Compute => "compute",
            Self::Latency => "latency",
            Self::Waiting => "waiting",
        }
    }
}
