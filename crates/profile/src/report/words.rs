//! Sentences made from the numbers.

use super::units::{bytes, change, count, flops, number, percent, seconds};
use super::{Bound, Operation, Phase, Report, what_if};

/// How many operations are explained.
const EXPLAINED: usize = 10;
/// A spread of repeats above this makes a report doubtful.
const NOISY: f64 = 0.05;
/// A share of time that the host gave to others above which that is said.
const STOLEN: f64 = 0.01;
/// A change of the rate that is worth a word.
const WORTH: f64 = 0.005;
/// A share of the ceiling that only a roof measured too low explains.
const ABOVE: f64 = 1.02;
/// The profiler's own bounds.
const COVERED: f64 = 0.97;
const OVERHEAD: f64 = 0.02;

/// Says of the first operations why they take their time and what would change it.
pub(super) fn explain(phase: &mut Phase) {
    let (total, rate) = (phase.profiled_seconds, 1.0 / phase.profiled_seconds);
    for operation in phase.operations.iter_mut().take(EXPLAINED) {
        operation.why = why(operation, total, rate);
    }
}

fn why(operation: &Operation, total: f64, rate: f64) -> String {
    let mut text = bound(operation);
    if operation.wait > 0.05 * operation.seconds {
        text += &format!(
            " Workers wait {} of its time; the slowest takes {:.2} times the mean.",
            percent(operation.wait / operation.seconds),
            operation.imbalance
        );
    }
    if let Some((calls, _)) = operation.allocations.filter(|(calls, _)| *calls > 0.0) {
        text += &format!(" It allocates {} times a token.", number(calls));
    }
    text += &format!(
        " At its roof it would take {} instead of {}: {} tokens/s.",
        seconds(operation.roof_seconds),
        seconds(operation.seconds),
        change(operation.gain / rate)
    );
    let mut alternatives = what_if::of_operation(operation, total);
    alternatives.retain(|(_, then)| (then / rate - 1.0).abs() >= WORTH);
    if !alternatives.is_empty() {
        let one = |(name, then): &(&str, f64)| format!("{name} {}", change(then / rate - 1.0));
        text += &format!(" Computed: {}.", alternatives.iter().map(one).collect::<Vec<_>>().join(", "));
    }
    text
}

fn bound(operation: &Operation) -> String {
    let work = &operation.traffic;
    let call = operation.seconds / operation.calls.max(f64::MIN_POSITIVE);
    match operation.bound {
        Bound::Memory => format!(
            "Bound by memory: {} a token at {} GB/s, {} of what the memory under it has.",
            bytes(work.bytes()),
            number(operation.gbps()),
            percent(operation.share_of_roof)
        ),
        Bound::Compute if work.exponentials * operation.peak_gflops > work.flops * operation.exp_gops => format!(
            "Bound by arithmetic: {} exponentials a token, most of its work, at {} of what the vector units have.",
            count(work.exponentials),
            percent(operation.share_of_roof)
        ),
        Bound::Compute => format!(
            "Bound by arithmetic: {} a token at {} GFLOP/s, {} of the {} that the vector units have.",
            flops(work.flops),
            number(operation.gflops()),
            percent(operation.share_of_roof),
            number(operation.peak_gflops)
        ),
        Bound::Latency => format!(
            "Too short for its roof: a call takes {} and moves {}; its beginning, its end and the barrier are what it costs.",
            seconds(call),
            bytes(work.bytes() / operation.calls.max(f64::MIN_POSITIVE))
        ),
        Bound::Waiting => {
            format!("Bound by waiting: of {} a call, workers wait most for one another.", seconds(call))
        }
    }
}

/// The executive summary and the warnings of a report.
pub(super) fn summarize(report: &mut Report) {
    report.summary = report.phases.iter().flat_map(summary).collect();
    report.warnings = warnings(report);
}

fn summary(phase: &Phase) -> Vec<String> {
    let mut said = vec![];
    let name = match phase.name.as_str() {
        "step" => "Training",
        "prefill" => "Prefill",
        _ => "Decode",
    };
    let short = 1.0 - phase.share_of_ceiling;
    said.push(format!(
        "{name} reaches {} tokens/s, {} of the {} that this machine could do: a token moves {} and takes {}.",
        number(phase.tokens_per_second),
        percent(phase.share_of_ceiling),
        number(phase.ceiling),
        bytes(phase.traffic.bytes()),
        flops(phase.traffic.flops)
    ));
    let rate = 1.0 / phase.profiled_seconds;
    if let Some(first) = phase.operations.first() {
        let advice = if short < 0.1 {
            "there is little left but to move or compute less".to_owned()
        } else {
            format!("{} @ {} promises most, {} at its roof", first.kernel, first.path, change(first.gain / rate))
        };
        let half = phase.operations.iter().filter(|o| o.share > 0.0).count();
        let mut by_time: Vec<f64> = phase.operations.iter().map(|o| o.share).collect();
        by_time.sort_by(|a, b| b.total_cmp(a));
        let before = by_time.iter().scan(0.0, |sum, share| Some(std::mem::replace(sum, *sum + share)));
        let needed = before.take_while(|sum| *sum < 0.8).count();
        said.push(format!("{needed} of its {half} operations take 80 % of the time; {advice}."));
    }
    let idle = (phase.waiting + phase.entering) / phase.profiled_seconds;
    if idle > 0.1 {
        said.push(format!("Workers wait {} of the time, for one another or to be woken.", percent(idle)));
    }
    said
}

fn warnings(report: &Report) -> Vec<String> {
    let mut said = vec![];
    if let Some(steal) = report.system.steal.filter(|steal| *steal > STOLEN) {
        said.push(format!("the host gave {} of the machine's time to others: measure again", percent(steal)));
    }
    for phase in &report.phases {
        let name = &phase.name;
        if phase.noise > NOISY {
            said.push(format!(
                "{name}: repeats differ by {}: this machine is not quiet, differences smaller than that mean nothing",
                percent(phase.noise)
            ));
        }
        if 10 * phase.left_out > phase.left_out + phase.samples {
            said.push(format!("{name}: {} samples were disturbed and left out", phase.left_out));
        }
        if phase.share_of_ceiling > ABOVE {
            said.push(format!(
                "{name}: faster than its ceiling ({}): a roof was measured too low, so that gains and ranks are too; measure again",
                percent(phase.share_of_ceiling)
            ));
        }
        if phase.coverage < COVERED {
            said.push(format!("{name}: only {} of the time lies within operations", percent(phase.coverage)));
        }
        if phase.overhead > OVERHEAD {
            said.push(format!("{name}: the profiler slows it by {}", percent(phase.overhead)));
        }
    }
    said
}
