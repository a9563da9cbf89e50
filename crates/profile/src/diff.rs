//! The comparison of two reports of one subject: what became slower or faster, and how certain that is.

use std::fmt::Write as _;

use serde::Serialize;
use smallmind_kernels::attention::CacheFormat;

use crate::report::operation::OperationId;
use crate::report::units::{change, number, percent, seconds};
use crate::report::{Bound, Operation, Phase, PhaseKind, Subject};
use crate::statistics::{Change, mean};
use crate::{MachineSpeed, Report};

/// The differences between two reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Why the reports can't be compared; empty if they can.
    pub mismatches: Vec<String>,
    /// The phases that both reports have.
    pub phases: Vec<PhaseDiff>,
}

/// The differences of a phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseDiff {
    /// Which phase it is.
    pub name: PhaseKind,
    /// Seconds per token, before and now.
    pub seconds: (f64, f64),
    /// Change of the machine's own speed: of arithmetic, and of reading memory.
    pub machine: (Change, Change),
    /// Change of the time without the profiler.
    pub total: Change,
    /// Operations that both reports have in the same shape, the largest change of time first.
    pub operations: Vec<OperationDiff>,
    /// Operations that only the new report has.
    pub new: Vec<String>,
    /// Operations that only the old report has.
    pub gone: Vec<String>,
    /// Operations whose shape changed: name, shape before, shape now.
    pub reshaped: Vec<(String, String, String)>,
}

/// The difference of an operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationDiff {
    /// Pass, operation and path.
    pub name: String,
    /// Seconds per token, before and now.
    pub seconds: (f64, f64),
    /// Change of its time.
    pub change: Change,
}

/// What the intervals cover and what they don't.
const LIMITS: &str = "The intervals hold what differs from repeat to repeat and what the machine's own speed \
                      explains, with 99 % confidence (*: certain).\nWhere a process's memory happens to lie is in \
                      neither: a small change wants several reports on each side.\n";

impl Diff {
    /// Compares `new` with `old`.
    pub fn between(old: &Report, new: &Report) -> Self {
        let phases = new.phases.iter().filter_map(|phase| Some(PhaseDiff::between(old.phase(phase.kind)?, phase)));
        Self { mismatches: mismatches(old, new), phases: phases.collect() }
    }

    /// The phases that are certainly slower, and perhaps by the share `limit` or more.
    pub fn slower(&self, limit: f64) -> Vec<&PhaseDiff> {
        self.phases.iter().filter(|phase| phase.total.low > 0.0 && phase.total.high >= limit).collect()
    }

    /// The comparison as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for what in &self.mismatches {
            let _ = writeln!(text, "not the same: {what}");
        }
        for phase in &self.phases {
            text += &phase.render();
        }
        text += LIMITS;
        text
    }
}

/// If the barriers of two reports differ by more than this factor, the host has moved the CPUs of the virtual machine
/// to other cores, and communication between them takes another time.
const NEIGHBOURS: f64 = 1.6;

/// Why `old` can't be compared with a report of `subject` that is not measured yet; empty if it can. `phases` has a
/// description of one sample for each phase.
pub fn mismatches_before(old: &Report, subject: &Subject, phases: &[(PhaseKind, &str)]) -> Vec<String> {
    let (a, b) = (&old.subject, subject);
    let pairs = [
        ("verb", a.verb.clone(), b.verb.clone()),
        ("CPU", a.cpu.clone(), b.cpu.clone()),
        ("threads", a.threads.to_string(), b.threads.to_string()),
        ("instruction set", a.isa.clone(), b.isa.clone()),
        ("model", a.shape.clone(), b.shape.clone()),
        ("parameters", a.parameters.to_string(), b.parameters.to_string()),
        ("weight format", a.format.clone(), b.format.clone()),
        ("cache format", cache_format(a), cache_format(b)),
    ];
    let differ = pairs.into_iter().filter(|(_, a, b)| a != b);
    let mut found: Vec<String> = differ.map(|(what, a, b)| format!("{what}: {a}, now {b}")).collect();
    for (kind, about) in phases {
        if let Some(before) = old.phase(*kind).filter(|before| before.about != *about) {
            found.push(format!("{}: {}, now {about}", kind.name(), before.about));
        }
    }
    found
}

/// Earlier versions had caches in `f32` only.
fn cache_format(subject: &Subject) -> String {
    subject.cache_format.clone().unwrap_or_else(|| CacheFormat::F32.to_string())
}

/// Why two reports can't be compared: their subjects differ, or the machine does; empty if they can.
pub fn mismatches(old: &Report, new: &Report) -> Vec<String> {
    let phases: Vec<(PhaseKind, &str)> = new.phases.iter().map(|phase| (phase.kind, &phase.about[..])).collect();
    let mut found = mismatches_before(old, &new.subject, &phases);
    for (before, now) in new.phases.iter().filter_map(|now| Some((old.phase(now.kind)?, now))) {
        let (then, today) = (before.machine.barrier_ns, now.machine.barrier_ns);
        if old.subject.threads > 1 && then.min(today) > 0.0 && then.max(today) > NEIGHBOURS * then.min(today) {
            found.push(format!(
                "{}: a barrier took {} ns, now {}, so that the CPUs lie otherwise to one another; measure again",
                now.kind.name(),
                number(then),
                number(today)
            ));
        }
    }
    found
}

/// How the machine's own speed changed: arithmetic and memory. No change if it wasn't measured.
fn machine(old: &Phase, new: &Phase) -> (Change, Change) {
    let of = |one: fn(&MachineSpeed) -> f64| {
        let speeds = |phase: &Phase| phase.machine.speeds.iter().map(one).collect::<Vec<_>>();
        let (old, new) = (speeds(old), speeds(new));
        if old.is_empty() || new.is_empty() { Change::NONE } else { Change::between(&old, &new) }
    };
    (of(|speed| speed.arithmetic), of(|speed| speed.memory))
}

/// The operation of that phase.
fn operation<'a>(phase: &'a Phase, id: &OperationId) -> Option<&'a Operation> {
    phase.operations.iter().find(|o| o.id == *id)
}

fn name(operation: &Operation) -> String {
    let id = &operation.id;
    format!("{} {} @ {}", id.pass.name(), id.operation, id.path)
}

impl PhaseDiff {
    fn between(old: &Phase, new: &Phase) -> Self {
        let (mut operations, mut arrived, mut reshaped) = (vec![], vec![], vec![]);
        let machine = machine(old, new);
        for now in &new.operations {
            let Some(before) = operation(old, &now.id) else {
                arrived.push(name(now));
                continue;
            };
            if before.kind.shape != now.kind.shape {
                reshaped.push((name(now), before.kind.shape.clone(), now.kind.shape.clone()));
                continue;
            }
            let (then, today) = (&before.time.repeats, &now.time.repeats);
            let felt = if now.roof.bound == Bound::Memory { &machine.1 } else { &machine.0 };
            let change = Change::between(then, today).allowing(felt);
            operations.push(OperationDiff { name: name(now), seconds: (mean(then), mean(today)), change });
        }
        operations.sort_by(|a, b| {
            let size = |d: &OperationDiff| (d.seconds.1 - d.seconds.0).abs();
            size(b).total_cmp(&size(a))
        });
        let by_memory = new.operations.iter().filter(|o| o.roof.bound == Bound::Memory);
        // Each part of the time depends on one of the two speeds, so that a change of the machine is counted once.
        let by_memory = by_memory.map(|o| o.time.share).sum::<f64>().clamp(0.0, 1.0);
        let (of_arithmetic, of_memory) = (machine.0.times(1.0 - by_memory), machine.1.times(by_memory));
        let gone = old.operations.iter().filter(|o| operation(new, &o.id).is_none()).map(name).collect();
        let (then, today) = (&old.samples.repeats, &new.samples.repeats);
        Self {
            name: new.kind,
            seconds: (mean(then), mean(today)),
            machine,
            total: Change::between(then, today).allowing(&of_arithmetic).allowing(&of_memory),
            operations,
            new: arrived,
            gone,
            reshaped,
        }
    }

    fn render(&self) -> String {
        let (before, now) = self.seconds;
        let mut text = format!(
            "{}: {} a token, now {}: {} {}\n",
            self.name.name(),
            seconds(before),
            seconds(now),
            change(self.total.estimate),
            interval(&self.total)
        );
        let (arithmetic, memory) = self.machine;
        if arithmetic.is_certain() || memory.is_certain() {
            let _ = writeln!(
                text,
                "  the machine itself: arithmetic {}, reading memory {}; what that explains is not held for certain",
                change(arithmetic.estimate),
                change(memory.estimate)
            );
        }
        for one in self.operations.iter().filter(|one| one.seconds.0 > 0.0) {
            let mark = if one.change.is_certain() { "*" } else { " " };
            let _ = writeln!(
                text,
                "  {mark} {:>9} → {:>9} {:>9} {:<22} {}",
                seconds(one.seconds.0),
                seconds(one.seconds.1),
                change(one.change.estimate),
                interval(&one.change),
                one.name
            );
        }
        for (what, names) in [("new", &self.new), ("gone", &self.gone)] {
            names.iter().for_each(|name| text += &format!("  {what}: {name}\n"));
        }
        for (name, before, now) in &self.reshaped {
            let _ = writeln!(text, "  another shape: {name}: {before}, now {now}");
        }
        text
    }
}

/// The 99 % interval as text.
fn interval(change: &Change) -> String {
    if change.low.is_finite() {
        format!("({} to {})", percent(change.low), percent(change.high))
    } else {
        "(too few repeats)".to_owned()
    }
}
