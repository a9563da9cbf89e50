//! The sentences that all output formats of a report share, made from its data when it is written.

use super::advice::{Alternative, Evidence, Milestone, WhatIf, of_operation};
use super::phase::{Checkpointing, Phase, PhaseKind};
use super::units::{bytes, change, count, flops, number, percent, seconds};
use super::{Bound, Doubt, Operation, Report, Subject, Warning};

/// The least change of the rate, as a share, that is mentioned.
const WORTH: f64 = 0.005;
/// The least share of an operation's time spent waiting that is mentioned.
const WAITS: f64 = 0.05;
/// The least share of a phase's time spent idle that is mentioned.
const IDLE: f64 = 0.1;
/// Up to this distance from the ceiling, as a share, an implementation is as good as its algorithm.
const NEAR: f64 = 0.1;

/// Why an operation takes its time, and what would change that; none if it ranks too low to be explained.
pub(super) fn why(operation: &Operation, phase: &Phase) -> Option<String> {
    if !operation.is_explained() {
        return None;
    }
    let (total, rate) = (phase.rate.profiled_seconds, 1.0 / phase.rate.profiled_seconds);
    let mut text = cause(operation);
    text += &format!(
        " At its roof it would take {} instead of {}: {} tokens/s.",
        seconds(operation.roof.seconds),
        seconds(operation.time.seconds),
        change(operation.roof.gain / rate)
    );
    let mut alternatives = of_operation(operation, total);
    alternatives.retain(|(_, then)| (then / rate - 1.0).abs() >= WORTH);
    if !alternatives.is_empty() {
        let one = |(alternative, then): &(Alternative, f64)| {
            format!("{} {}", of_one_operation(*alternative), change(then / rate - 1.0))
        };
        text += &format!(" Computed: {}.", alternatives.iter().map(one).collect::<Vec<_>>().join(", "));
    }
    Some(text)
}

/// What an operation's time is spent on.
pub(super) fn cause(operation: &Operation) -> String {
    let mut text = bound(operation);
    if operation.time.wait > WAITS * operation.time.seconds {
        text += &format!(
            " Workers wait {} of its time; the slowest takes {:.2} times the mean.",
            percent(operation.time.waiting_share()),
            operation.time.imbalance
        );
    }
    if let Some((calls, _)) = operation.allocations.filter(|(calls, _)| *calls > 0.0) {
        text += &format!(" It allocates {} times a token.", number(calls));
    }
    text
}

fn bound(operation: &Operation) -> String {
    let (work, roof) = (&operation.traffic, &operation.roof);
    match roof.bound {
        Bound::Memory => format!(
            "Bound by memory: {} a token at {} GB/s, {} of what the memory under it has.",
            bytes(work.bytes()),
            number(operation.gbps()),
            percent(roof.share)
        ),
        Bound::Compute if operation.is_mostly_exponentials() => format!(
            "Bound by arithmetic: {} exponentials a token, most of its work, at {} of what the vector units have.",
            count(work.exponentials),
            percent(roof.share)
        ),
        Bound::Compute => format!(
            "Bound by arithmetic: {} a token at {} GFLOP/s, {} of the {} that the vector units have.",
            flops(work.flops),
            number(operation.gflops()),
            percent(roof.share),
            number(roof.peak_gflops)
        ),
        Bound::Latency => format!(
            "Too short for its roof: a call takes {} and moves {}; its beginning, its end and the barrier are what it \
             costs.",
            seconds(operation.call_seconds()),
            bytes(work.bytes() / operation.calls.max(f64::MIN_POSITIVE))
        ),
        Bound::Waiting => format!(
            "Bound by waiting: of {} a call, workers wait most for one another.",
            seconds(operation.call_seconds())
        ),
    }
}

/// How keys and values are stored, to follow the format of the weights.
pub(super) fn cache_format(subject: &Subject) -> String {
    subject.cache_format.as_ref().map_or(String::new(), |format| format!(", KV in {format}"))
}

/// An alternative of the whole phase.
pub(super) fn what_if(what_if: &WhatIf) -> String {
    match what_if.alternative {
        Alternative::Bf16Weights => "weights in bf16".to_owned(),
        Alternative::Q8_0Weights => "weights in q8_0".to_owned(),
        Alternative::Q4_0Weights => "weights in q4_0".to_owned(),
        Alternative::QuantizedCache => "key-value cache in q8_0".to_owned(),
        Alternative::TwiceTheContext => "twice the context".to_owned(),
        Alternative::Balance => "perfect balance: no worker waits".to_owned(),
        Alternative::Threads { now, then } => {
            let threads = if then == 1 { "1 thread".to_owned() } else { format!("{then} threads") };
            let condition = match what_if.by {
                Evidence::Measured => "",
                Evidence::Computed => ", had it a CPU of its own",
            };
            format!("{threads} instead of {now}{condition}")
        }
        Alternative::Roofs => "every operation at its roof".to_owned(),
    }
}

/// The effect of an alternative on one operation.
fn of_one_operation(alternative: Alternative) -> String {
    match alternative {
        Alternative::Balance => "perfect balance".to_owned(),
        Alternative::Bf16Weights
        | Alternative::Q8_0Weights
        | Alternative::Q4_0Weights
        | Alternative::QuantizedCache
        | Alternative::TwiceTheContext
        | Alternative::Threads { .. }
        | Alternative::Roofs => {
            what_if(&WhatIf { alternative, tokens_per_second: 0.0, change: 0.0, by: Evidence::Computed })
        }
    }
}

/// A step of the roadmap: the operation, and how to bring it nearer to its roof.
pub(super) fn milestone(milestone: &Milestone, phase: &Phase) -> String {
    let Some(operation) = phase.operations.iter().find(|o| o.rank == milestone.rank) else { return String::new() };
    let remedy = match operation.roof.bound {
        Bound::Memory => "read its bytes at the rate that the memory has",
        Bound::Compute => "compute at the rate that the vector units have",
        Bound::Latency => "fuse it into a neighbour, or do without its barrier",
        Bound::Waiting => "share its work out evenly",
    };
    format!("{}: {remedy}", operation.place())
}

/// The summary, as sentences.
pub(super) fn summary(report: &Report) -> Vec<String> {
    report.phases.iter().flat_map(of_phase).collect()
}

fn of_phase(phase: &Phase) -> Vec<String> {
    let name = match phase.kind {
        PhaseKind::Step => "Training",
        PhaseKind::Prefill => "Prefill",
        PhaseKind::Decode => "Decode",
    };
    let rate = &phase.rate;
    let reached = format!(
        "{name} reaches {} tokens/s, {} of the {} that this machine could do: a token moves {} and takes {}.",
        number(rate.tokens_per_second),
        percent(rate.share_of_ceiling),
        number(rate.ceiling),
        bytes(phase.traffic.bytes()),
        flops(phase.traffic.flops)
    );
    let mut said = vec![reached];
    if let Some(first) = phase.operations.first() {
        let advice = if 1.0 - rate.share_of_ceiling < NEAR {
            "there is little left but to move or compute less".to_owned()
        } else {
            let gain = change(first.roof.gain * rate.profiled_seconds);
            format!("{} promises most, {gain} at its roof", first.place())
        };
        let timed = phase.operations.iter().filter(|o| o.time.share > 0.0).count();
        said.push(format!("{} of its {timed} operations take 80 % of the time; {advice}.", most_of_the_time(phase)));
    }
    let idle = phase.share_of_time(phase.time.waiting + phase.time.entering);
    if idle > IDLE {
        said.push(format!("Workers wait {} of the time, for one another or to be woken.", percent(idle)));
    }
    said
}

/// The least number of operations that take 80 % of the time.
fn most_of_the_time(phase: &Phase) -> usize {
    let mut by_time: Vec<f64> = phase.operations.iter().map(|o| o.time.share).collect();
    by_time.sort_by(|a, b| b.total_cmp(a));
    let before = by_time.iter().scan(0.0, |sum, share| Some(std::mem::replace(sum, *sum + share)));
    before.take_while(|sum| *sum < 0.8).count()
}

/// The warnings, each a sentence.
pub(super) fn warnings(report: &Report) -> Vec<String> {
    let one = |warning| match warning {
        Warning::Stolen(share) => {
            format!("the host gave {} of the machine's time to others: measure again", percent(share))
        }
        Warning::Phase(kind, doubt) => format!("{}: {}", kind.name(), self::doubt(doubt)),
        Warning::Baseline { name, mismatches } => {
            format!("baseline {name} and this profile can't be compared ({})", mismatches.join("; "))
        }
    };
    report.warnings().into_iter().map(one).collect()
}

fn doubt(doubt: Doubt) -> String {
    match doubt {
        Doubt::Noise(spread) => format!(
            "repeats differ by {}: this machine is not quiet, differences smaller than that mean nothing",
            percent(spread)
        ),
        Doubt::LeftOut(samples) => format!("{samples} samples were disturbed and left out"),
        Doubt::AboveCeiling(share) => format!(
            "faster than its ceiling ({}): a roof was measured too low, so that gains and ranks are too; measure again",
            percent(share)
        ),
        Doubt::Coverage(share) => format!("only {} of the time lies within operations", percent(share)),
        Doubt::Overhead(share) => format!("the profiler slows it by {}", percent(share)),
    }
}

/// What the column of ratios means and how the baseline differs; none without a baseline.
pub(super) fn baseline(report: &Report) -> Option<String> {
    let name = report.baseline.as_ref()?;
    let mut text = format!(
        "ratio: an operation's time now over its time in the baseline {name}; 0.900 is 10 % faster, new is not in the \
         baseline."
    );
    if !report.baseline_mismatches.is_empty() {
        text += &format!(" Not the same as there: {}.", report.baseline_mismatches.join("; "));
    }
    Some(text)
}

/// What was counted per token: by the CPU, and by the kernel.
pub(super) fn counted(phase: &Phase) -> (Option<String>, Option<String>) {
    let e = &phase.counted.events;
    let said = |all: [Option<String>; 3]| {
        let all: Vec<String> = all.into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join(", "))
    };
    let rate = e.instructions.zip(e.cycles).map(|(n, cycles)| n / cycles.max(1.0));
    let hardware = [
        e.instructions.map(|n| format!("{} instructions", count(n))),
        rate.map(|n| format!("{} a cycle", number(n))),
        e.cache_misses.map(|n| format!("{} cache misses", count(n))),
    ];
    let kernel = [
        e.cpu_seconds.map(|s| format!("{} CPUs at work", number(s / phase.rate.seconds))),
        e.page_faults.map(|n| format!("{} page faults", number(n))),
        e.switches.map(|n| format!("{} switches", number(n))),
    ];
    (said(hardware), said(kernel))
}

/// The stages in one line; none without stages.
pub(super) fn stages(phase: &Phase) -> Option<String> {
    let all = &phase.breakdown.stages;
    if all.is_empty() {
        return None;
    }
    let one = |(name, at): &(String, f64)| format!("{name} {}", seconds(*at));
    let line = all.iter().map(one).collect::<Vec<_>>().join(" · ");
    let each = |c: &Checkpointing| format!(" ({} each {} steps)", seconds(c.seconds), number(c.interval as f64));
    Some(match phase.kind {
        PhaseKind::Prefill | PhaseKind::Decode => {
            format!("first token after {}: {line}", seconds(all.iter().map(|(_, at)| at).sum()))
        }
        PhaseKind::Step => {
            format!("a step: {line}{}", phase.breakdown.checkpoint.as_ref().map(each).unwrap_or_default())
        }
    })
}
