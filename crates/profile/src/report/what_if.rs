//! What would be if: each from the measured times and the roofs.
//!
//! An operation whose work changes is taken to keep its share of its roof; what it waits shrinks or grows with it.

use smallmind_kernels::Format;

use super::{Bound, Milestone, Operation, Phase, WhatIf};
use crate::traffic::{Class, Traffic};

/// Bits of a quantized key or value with its share of the scale: 8 and a half.
const QUANTIZED: f64 = 8.5 / 32.0;
/// A step of the roadmap brings at least this share of the rate.
const WORTH: f64 = 0.005;
/// Steps of the roadmap.
const STEPS: usize = 8;

/// Seconds of `operation` when its work is `traffic`.
fn seconds_with(operation: &Operation, traffic: &Traffic) -> f64 {
    let (memory, compute) = operation.roof(traffic);
    let roof = operation.roof_seconds.max(f64::MIN_POSITIVE);
    // What has next to no roof is not changed by its work.
    if operation.roof_seconds <= 0.0 { operation.seconds } else { operation.seconds * memory.max(compute) / roof }
}

/// The change of `operation`'s work by an alternative; none where it has no part in that.
type Change = fn(&Operation) -> Option<Traffic>;

/// Half as many bytes of weights, where they are `f32`, only read, and of a kind that may be stored in another format.
fn half_weights(operation: &Operation) -> Option<Traffic> {
    let is_f32 = operation.weights.as_deref() == Some(Format::F32.name());
    let reads = operation.pass == "forward" && is_f32 && operation.class.has_narrow_weights();
    reads.then(|| Traffic { weights: operation.traffic.weights / 2.0, ..operation.traffic })
}

fn quantized_cache(operation: &Operation) -> Option<Traffic> {
    let t = operation.traffic;
    let cached = t.kv_read + t.kv_write > 0.0;
    cached.then_some(Traffic { kv_read: t.kv_read * QUANTIZED, kv_write: t.kv_write * QUANTIZED, ..t })
}

fn twice_the_context(operation: &Operation) -> Option<Traffic> {
    let t = operation.traffic;
    let attends = operation.class == Class::Attention;
    let twice = Traffic { flops: 2.0 * t.flops, exponentials: 2.0 * t.exponentials, kv_read: 2.0 * t.kv_read, ..t };
    attends.then_some(twice)
}

/// The alternatives of work, by name.
const CHANGES: [(&str, Change); 3] = [
    ("weights in bf16 instead of f32", half_weights),
    ("key-value cache in 8 bits", quantized_cache),
    ("twice the context", twice_the_context),
];

/// The alternatives that `operation` has a part in: name, and the phase's tokens a second then.
pub(super) fn of_operation(operation: &Operation, total: f64) -> Vec<(&'static str, f64)> {
    let changed = CHANGES.iter().filter_map(|(name, change)| {
        let seconds = seconds_with(operation, &change(operation)?);
        Some((*name, 1.0 / (total - operation.seconds + seconds)))
    });
    let balance = (operation.wait > 0.02 * operation.seconds)
        .then(|| ("perfect balance", 1.0 / (total - operation.wait).max(f64::MIN_POSITIVE)));
    changed.chain(balance).collect()
}

/// The phase's alternatives. `threads`: measured seconds a token with other numbers of threads than `now`.
pub(super) fn all(phase: &Phase, threads: &[(usize, f64)], now: usize) -> Vec<WhatIf> {
    let total = phase.profiled_seconds;
    let of = |what: String, seconds: f64, base: f64, by: &str| WhatIf {
        what,
        tokens_per_second: phase.tokens_per_second * base / seconds.max(f64::MIN_POSITIVE),
        change: base / seconds.max(f64::MIN_POSITIVE) - 1.0,
        by: by.to_owned(),
    };
    let mut found = vec![];
    for (name, change) in CHANGES {
        let changed = |operation: &Operation| Some(seconds_with(operation, &change(operation)?) - operation.seconds);
        let differences: Vec<f64> = phase.operations.iter().filter_map(changed).collect();
        if !differences.is_empty() {
            found.push(of(name.to_owned(), total + differences.iter().sum::<f64>(), total, "computed"));
        }
    }
    if phase.waiting > 0.0 {
        found.push(of("perfect balance: no worker waits".to_owned(), total - phase.waiting, total, "computed"));
    }
    let count = |n: usize| if n == 1 { "1 thread".to_owned() } else { format!("{n} threads") };
    for (n, seconds) in threads {
        found.push(of(format!("{} instead of {now}", count(*n)), *seconds, phase.seconds, "measured"));
    }
    if threads.iter().all(|(n, _)| *n <= now) {
        found.push(of(
            format!("{} instead of {now}, had it a CPU of its own", count(now + 1)),
            with_a_thread(phase, now),
            total,
            "computed",
        ));
    }
    let roof: f64 = phase.operations.iter().map(|o| (o.seconds - o.roof_seconds).max(0.0)).sum();
    found.push(of("every operation at its roof".to_owned(), total - roof, total, "computed"));
    found
}

/// Seconds with one more thread on a CPU of its own: arithmetic and short operations that are shared shrink, what memory bounds does not.
fn with_a_thread(phase: &Phase, now: usize) -> f64 {
    let shrink = now as f64 / (now + 1) as f64;
    let seconds = |operation: &Operation| {
        let work = operation.seconds - operation.wait;
        match operation.bound {
            Bound::Compute => operation.wait + work * shrink,
            Bound::Memory | Bound::Latency | Bound::Waiting => operation.seconds,
        }
    };
    let inside: f64 = phase.operations.iter().map(|o| o.seconds).sum();
    phase.profiled_seconds - inside + phase.operations.iter().map(seconds).sum::<f64>()
}

/// What to fix, in order, and the rate after each step.
pub(super) fn roadmap(phase: &Phase) -> Vec<Milestone> {
    let total = phase.profiled_seconds;
    let mut left = total;
    let mut steps = vec![];
    for operation in phase.operations.iter().take(STEPS) {
        let saved = (operation.seconds - operation.roof_seconds).max(0.0);
        if saved < WORTH * total {
            continue;
        }
        left -= saved;
        steps.push(Milestone {
            what: format!("{} @ {}: {}", operation.kernel, operation.path, remedy(operation)),
            tokens_per_second: phase.tokens_per_second * total / left,
            change: total / left - 1.0,
        });
    }
    steps
}

/// What brings an operation nearer to its roof.
fn remedy(operation: &Operation) -> &'static str {
    match operation.bound {
        Bound::Memory => "read its bytes at the rate that the memory has",
        Bound::Compute => "compute at the rate that the vector units have",
        Bound::Latency => "fuse it into a neighbour, or do without its barrier",
        Bound::Waiting => "share its work out evenly",
    }
}
