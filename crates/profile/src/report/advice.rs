//! What would change the rate of a phase, computed from the measured times and the roofs, and what a reader should do
//! next.
//!
//! An operation whose work changes is assumed to keep its share of its roof.

use serde::{Deserialize, Serialize};
use smallmind_kernels::Format;
use smallmind_kernels::attention::CacheFormat;

use super::operation::{Bound, Operation, Pass};
use super::phase::Phase;
use super::roof_table::RoofTable;
use crate::Class;
use crate::traffic::Traffic;

/// The format of [`Alternative::QuantizedCache`].
const QUANTIZED: CacheFormat = CacheFormat::Q8_0;
/// The least change of the rate, as a share, of a step of the roadmap.
const MILESTONE: f64 = 0.005;
/// Rows of this many weights are whole pairs, as those of nearly all models are.
const PAIR: usize = 2;
/// The most steps of the roadmap.
const MILESTONES: usize = 8;
/// The least change of the rate, as a share, that is advice.
const ADVISED: f64 = 0.01;
/// The least share of an operation's time spent waiting that makes balance an alternative.
const UNBALANCED: f64 = 0.02;

/// Something that would change the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alternative {
    /// Weights that take more bytes now would be `bf16`.
    Bf16Weights,
    /// Weights that take more bytes now would be `q8_0`.
    Q8_0Weights,
    /// Weights that take more bytes now would be `q4_0`.
    Q4_0Weights,
    /// Keys and values that take more bytes now would be `q8_0`.
    QuantizedCache,
    /// The sequence is twice as long.
    TwiceTheContext,
    /// No worker waits for another.
    Balance,
    /// Another number of threads.
    Threads {
        /// Threads that the profile ran on.
        now: usize,
        /// Threads instead.
        then: usize,
    },
    /// Every operation runs at its roof.
    Roofs,
}

/// How the rate of an alternative is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// It was measured.
    Measured,
    /// It was computed from times and roofs.
    Computed,
}

impl Evidence {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Computed => "computed",
        }
    }
}

/// An alternative and the rate that it would give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhatIf {
    /// What would be different; `kind` in JSON.
    #[serde(rename = "kind")]
    pub alternative: Alternative,
    /// Tokens per second with it.
    pub tokens_per_second: f64,
    /// The new rate divided by the present one, less 1.
    pub change: f64,
    /// How the rate is known.
    pub by: Evidence,
}

/// A step of the roadmap: an operation brought to its roof.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Milestone {
    /// The operation's rank.
    pub rank: usize,
    /// Tokens per second after this step and all earlier ones.
    pub tokens_per_second: f64,
    /// The new rate divided by the present one, less 1.
    pub change: f64,
}

/// What a reader should do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Advice {
    /// Make the operation with this rank faster. If it reached its roof, the rate would change by `change`.
    Improve {
        /// The operation's rank.
        rank: usize,
        /// The new rate divided by the present one, less 1.
        change: f64,
    },
    /// Reduce the work: every operation is near its roof.
    WorkLess,
    /// Run on another number of threads: it was measured to be faster.
    ChangeThreads(WhatIf),
    /// Keep the number of threads. This is the best other number that was measured.
    KeepThreads(WhatIf),
    /// Store weights, or keys and values, in another format: these alternatives would be faster.
    ChangeFormats(Vec<WhatIf>),
    /// Change the model or the engine: these alternatives would be faster, and no setting gives them.
    Redesign(Vec<WhatIf>),
}

impl Phase {
    /// What its reader should do next.
    pub fn advice(&self) -> Vec<Advice> {
        let Some(first) = self.operations.first() else { return vec![] };
        let change = first.roof.gain * self.rate.profiled_seconds;
        let code = if change < ADVISED { Advice::WorkLess } else { Advice::Improve { rank: first.rank, change } };
        let what_ifs = || self.outlook.what_ifs.iter().copied();
        let measured = what_ifs().filter(|w| w.by == Evidence::Measured);
        let threads = measured
            .max_by(|a, b| a.change.total_cmp(&b.change))
            .map(|best| if best.change > ADVISED { Advice::ChangeThreads(best) } else { Advice::KeepThreads(best) });
        let worth = |of: fn(Alternative) -> bool| -> Vec<WhatIf> {
            what_ifs().filter(|w| w.change > ADVISED && of(w.alternative)).collect()
        };
        let (formats, design) = (worth(is_format), worth(is_design));
        let formats = (!formats.is_empty()).then_some(Advice::ChangeFormats(formats));
        let design = (!design.is_empty()).then_some(Advice::Redesign(design));
        [Some(code), threads, formats, design].into_iter().flatten().collect()
    }
}

/// Whether an alternative is another format of what is stored.
fn is_format(alternative: Alternative) -> bool {
    match alternative {
        Alternative::Bf16Weights | Alternative::Q8_0Weights | Alternative::Q4_0Weights => true,
        Alternative::QuantizedCache => true,
        Alternative::TwiceTheContext | Alternative::Balance => false,
        Alternative::Threads { .. } | Alternative::Roofs => false,
    }
}

/// Whether an alternative is a change of model or engine: formats and threads are settings, and all roofs at once are a
/// limit.
fn is_design(alternative: Alternative) -> bool {
    match alternative {
        Alternative::TwiceTheContext | Alternative::Balance => true,
        Alternative::Bf16Weights | Alternative::Q8_0Weights | Alternative::Q4_0Weights => false,
        Alternative::QuantizedCache => false,
        Alternative::Threads { .. } | Alternative::Roofs => false,
    }
}

/// Seconds of `operation` if its work were `traffic`.
fn seconds_with(operation: &Operation, traffic: &Traffic) -> f64 {
    let (memory, compute) = operation.roof.bounds(traffic);
    let (now, roof) = (operation.time.seconds, operation.roof.seconds);
    // Without work that a roof limits there is nothing to scale.
    if roof <= 0.0 { now } else { now * memory.max(compute) / roof }
}

/// Alternatives that change the work of operations.
const CHANGES: [Alternative; 2] = [Alternative::QuantizedCache, Alternative::TwiceTheContext];

/// Formats of weights that are an alternative to those that take more bytes.
const FORMATS: [(Alternative, Format); 3] = [
    (Alternative::Bf16Weights, Format::Bf16),
    (Alternative::Q8_0Weights, Format::Q8_0),
    (Alternative::Q4_0Weights, Format::Q4_0),
];

/// The work of `operation` with its weight in another format; none if it has no weight, or one that takes no more bytes
/// or has rows of several formats. Where the arithmetic of that format has another peak, operations are counted as so
/// many at the present peak as take the same time.
fn with_weights(operation: &Operation, then: Format, roofs: &RoofTable) -> Option<Traffic> {
    let (t, kind) = (operation.traffic, &operation.kind);
    let now = kind.weights.as_deref().and_then(Format::from_name)?;
    let bytes = |format: Format| format.block().bytes as f64 / format.block().elements as f64;
    let is_read = operation.id.pass == Pass::Forward && kind.class.has_narrow_weights();
    if !is_read || bytes(then) >= bytes(now) {
        return None;
    }
    let slowness =
        if kind.class == Class::Product { operation.roof.peak_gflops / roofs.peak_of(then, PAIR) } else { 1.0 };
    Some(Traffic { weights: t.weights * bytes(then) / bytes(now), flops: t.flops * slowness, ..t })
}

/// The work of `operation` under one of [`CHANGES`]; none if it stays the same.
fn changed(operation: &Operation, alternative: Alternative) -> Option<Traffic> {
    let t = operation.traffic;
    let kind = &operation.kind;
    match alternative {
        Alternative::QuantizedCache => {
            let now = kind.cache.as_deref().map_or(Some(CacheFormat::F32), CacheFormat::from_name)?;
            // The bytes of as many columns as make a block.
            let share = QUANTIZED.token_bytes(32) as f64 / now.token_bytes(32) as f64;
            let (kv_read, kv_write) = (t.kv_read * share, t.kv_write * share);
            (t.kv_read + t.kv_write > 0.0 && share < 1.0).then_some(Traffic { kv_read, kv_write, ..t })
        }
        Alternative::TwiceTheContext => (kind.class == Class::Attention).then_some(Traffic {
            flops: 2.0 * t.flops,
            exponentials: 2.0 * t.exponentials,
            kv_read: 2.0 * t.kv_read,
            ..t
        }),
        Alternative::Bf16Weights | Alternative::Q8_0Weights | Alternative::Q4_0Weights => None,
        Alternative::Balance | Alternative::Threads { .. } | Alternative::Roofs => None,
    }
}

/// The alternatives that change `operation`, each with the phase's rate in tokens per second if only this operation
/// changes. `total` is the phase's seconds.
pub(super) fn of_operation(operation: &Operation, total: f64) -> Vec<(Alternative, f64)> {
    let time = &operation.time;
    let changes = CHANGES.into_iter().filter_map(|alternative| {
        let seconds = seconds_with(operation, &changed(operation, alternative)?);
        Some((alternative, 1.0 / (total - time.seconds + seconds)))
    });
    let balance = (time.wait > UNBALANCED * time.seconds)
        .then(|| (Alternative::Balance, 1.0 / (total - time.wait).max(f64::MIN_POSITIVE)));
    changes.chain(balance).collect()
}

/// The phase's alternatives. `threads` holds other numbers of threads than `now`, each with its measured seconds per
/// token.
pub(super) fn what_ifs(phase: &Phase, roofs: &RoofTable, threads: &[(usize, f64)], now: usize) -> Vec<WhatIf> {
    let total = phase.rate.profiled_seconds;
    let of = |alternative: Alternative, seconds: f64, base: f64, by: Evidence| WhatIf {
        alternative,
        tokens_per_second: phase.rate.tokens_per_second * base / seconds.max(f64::MIN_POSITIVE),
        change: base / seconds.max(f64::MIN_POSITIVE) - 1.0,
        by,
    };
    let computed = |alternative: Alternative, seconds: f64| of(alternative, seconds, total, Evidence::Computed);
    let mut found = vec![];
    let mut change = |alternative, work: &dyn Fn(&Operation) -> Option<Traffic>| {
        let difference = |o: &Operation| Some(seconds_with(o, &work(o)?) - o.time.seconds);
        let differences: Vec<f64> = phase.operations.iter().filter_map(difference).collect();
        if !differences.is_empty() {
            found.push(computed(alternative, total + differences.iter().sum::<f64>()));
        }
    };
    // Weights that are trained are `f32`: no setting changes them.
    if phase.operations.iter().all(|operation| operation.id.pass == Pass::Forward) {
        FORMATS.iter().for_each(|(alternative, format)| change(*alternative, &|o| with_weights(o, *format, roofs)));
    }
    CHANGES.iter().for_each(|alternative| change(*alternative, &|o| changed(o, *alternative)));
    if phase.time.waiting > 0.0 {
        found.push(computed(Alternative::Balance, total - phase.time.waiting));
    }
    let run_on = |then: usize| Alternative::Threads { now, then };
    for (n, seconds) in threads {
        found.push(of(run_on(*n), *seconds, phase.rate.seconds, Evidence::Measured));
    }
    if threads.iter().all(|(n, _)| *n <= now) {
        found.push(computed(run_on(now + 1), with_a_thread(phase, now)));
    }
    let saved: f64 = phase.operations.iter().map(Operation::saved_at_roof).sum();
    found.push(computed(Alternative::Roofs, total - saved));
    found
}

/// Seconds with one more thread on a CPU of its own: operations bound by arithmetic take less time, others the same.
fn with_a_thread(phase: &Phase, now: usize) -> f64 {
    let shrink = now as f64 / (now + 1) as f64;
    let seconds = |operation: &Operation| {
        let time = &operation.time;
        match operation.roof.bound {
            Bound::Compute => time.wait + (time.seconds - time.wait) * shrink,
            Bound::Memory | Bound::Latency | Bound::Waiting => time.seconds,
        }
    };
    let inside: f64 = phase.operations.iter().map(|o| o.time.seconds).sum();
    phase.rate.profiled_seconds - inside + phase.operations.iter().map(seconds).sum::<f64>()
}

/// The operations that should be brought to their roofs, in order, and the rate after each.
pub(super) fn roadmap(phase: &Phase) -> Vec<Milestone> {
    let total = phase.rate.profiled_seconds;
    let mut left = total;
    let mut steps = vec![];
    for operation in phase.operations.iter().take(MILESTONES) {
        let saved = operation.saved_at_roof();
        if saved < MILESTONE * total {
            continue;
        }
        left -= saved;
        steps.push(Milestone {
            rank: operation.rank,
            tokens_per_second: phase.rate.tokens_per_second * total / left,
            change: total / left - 1.0,
        });
    }
    steps
}
