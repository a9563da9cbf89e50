//! The report as text for a terminal: one screen, or everything.

use std::fmt::Write as _;

use super::advice::{Advice, WhatIf};
use super::units::{bytes, change, count, flops, number, percent, seconds};
use super::{Bound, Operation, Phase, Report, words};

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent<'a> {
    /// What fits on a screen, with what to do next.
    Screen(Usage<'a>),
    /// Everything that fits in text.
    Full,
}

/// How a reader can follow the advice in the program that prints the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage<'a> {
    /// How to change the number of threads, as an instruction: `change --threads`.
    pub change_threads: &'a str,
    /// How to keep the number of threads, as an instruction.
    pub keep_threads: &'a str,
    /// Where the rest of the report is, as a sentence.
    pub more: &'a str,
}

/// Rows of a table on one screen: for a report of one phase, and of two.
const ROWS: [usize; 2] = [12, 6];
/// The most columns of a line.
const WIDTH: usize = 100;
/// Units that stay on the same line as their numbers.
const UNITS: [&str; 9] = ["%", "µs", "ms", "kB", "MB", "GB", "kFLOP", "MFLOP", "GFLOP"];
/// The legend of a screen.
const LEGEND: &str = "
roof: the least time that the memory and the vector units measured here allow for the work.
gain: tokens/s more if that operation alone ran at its roof. Ceiling: all of them at their roofs.
";

/// The report as text of at most `WIDTH` columns; the table of everything is wider.
pub fn render(report: &Report, extent: Extent<'_>) -> String {
    let mut text = header(report);
    text += &words::baseline(report).map(|baseline| wrapped(&baseline, "", "  ")).unwrap_or_default();
    let rows = match extent {
        Extent::Full => usize::MAX,
        Extent::Screen(_) => ROWS[usize::from(report.phases.len() > 1)],
    };
    for phase in &report.phases {
        text += &figures(phase);
        text += &table(phase, rows);
        if extent == Extent::Full {
            text += &details(phase);
        }
    }
    if extent == Extent::Full {
        text += &format!("\nsummary\n{}", list(&words::summary(report)));
    }
    let warnings = words::warnings(report);
    if !warnings.is_empty() {
        text += &format!("\ndoubtful\n{}", list(&warnings));
    }
    if let Extent::Screen(usage) = extent {
        let advice: String = report.phases.iter().map(|phase| next(phase, &usage)).collect();
        let again = if warnings.is_empty() { "" } else { "  first measure again, when the machine is quiet\n" };
        text += &format!("\nwhat to do next\n{again}{advice}{LEGEND}{}\n", usage.more);
    }
    text
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| wrapped(line, "  · ", "    ")).collect()
}

/// `text` in lines of at most [`WIDTH`] columns. No line ends between a number and its unit.
fn wrapped(text: &str, first: &str, next: &str) -> String {
    let (mut out, mut line) = (String::new(), first.to_owned());
    let mut empty = true;
    let glued =
        UNITS.iter().fold(text.to_owned(), |text, unit| text.replace(&format!(" {unit}"), &format!("\u{a0}{unit}")));
    for word in glued.split(' ').filter(|word| !word.is_empty()) {
        if !empty && line.chars().count() + word.chars().count() + 1 > WIDTH {
            out += &format!("{line}\n");
            (line, empty) = (next.to_owned(), true);
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    (out + &line + "\n").replace('\u{a0}', " ")
}

fn header(report: &Report) -> String {
    let s = &report.subject;
    let r = &report.roofs;
    let memory = r.levels.last().map_or(0.0, |level| level.read);
    format!(
        "{}: {}; {} parameters in {}{}\n{}, {} threads, {}; measured: {} GFLOP/s, memory {} GB/s, a barrier {} ns\n",
        s.model,
        s.shape,
        count(s.parameters as f64),
        s.format,
        words::cache_format(s),
        s.cpu,
        s.threads,
        s.isa,
        number(r.f32_gflops),
        number(memory),
        number(r.barrier_ns),
    )
}

/// The figures of a phase: five lines, and up to two more for counts and for stages.
fn figures(phase: &Phase) -> String {
    let (t, rate, time, samples) = (&phase.traffic, &phase.rate, &phase.time, &phase.samples);
    let cache = if t.kv_read + t.kv_write > 0.0 {
        format!(" KV read {}, written {},", bytes(t.kv_read), bytes(t.kv_write))
    } else {
        String::new()
    };
    let allocations = match phase.counted.allocations {
        Some(0.0) => ", no allocations".to_owned(),
        Some(n) => format!(", {} allocations a token", number(n)),
        None => String::new(),
    };
    let counted = words::counted(phase).0.map_or_else(String::new, |line| format!("  counted a token: {line}\n"));
    let stages = words::stages(phase).map_or_else(String::new, |line| wrapped(&line, "  ", "    "));
    format!(
        "\n{}: {}\n  {} tokens/s of a ceiling of {} tokens/s = {}; {} a token\n  \
         a token: {}; weights {},{cache} values {}\n  \
         a sample: p50 {}, p99 {}; waiting {}, entering {}, between runs {}\n  \
         coverage {}, the profiler's overhead {}, spread of repeats {}{allocations}\n{counted}{stages}",
        phase.kind.name(),
        phase.about,
        number(rate.tokens_per_second),
        number(rate.ceiling),
        percent(rate.share_of_ceiling),
        seconds(rate.seconds),
        flops(t.flops),
        bytes(t.weights),
        bytes(t.activations),
        seconds(samples.latency.p50),
        seconds(samples.latency.p99),
        percent(phase.share_of_time(time.waiting)),
        percent(phase.share_of_time(time.entering)),
        percent(phase.share_of_time(time.between)),
        percent(time.coverage),
        change(time.overhead),
        percent(samples.noise),
    )
}

fn table(phase: &Phase, rows: usize) -> String {
    let based = phase.has_baseline();
    // A screen is too narrow for the pass, which the operation's name shows as well.
    let passes = rows == usize::MAX && phase.has_passes();
    let beside = if based { "ratio" } else { "wait" };
    let mut text = format!(
        "{:>3}{:>8} {:>5} {:>11} {:>6} {:<7} {beside:>5} {:>6}  operation @ where, by gain\n",
        "#", "µs", "time", "rate", "roof", "bound", "gain"
    );
    for operation in phase.operations.iter().take(rows) {
        text += &row(operation, phase, passes, based);
    }
    let rest = phase.operations.iter().skip(rows);
    let (left, time) = rest.fold((0, 0.0), |(n, sum), o| (n + 1, sum + o.time.seconds));
    if left > 0 {
        let share = whole(phase.share_of_time(time));
        let _ = writeln!(text, "   {:>8} {share:>5} in {left} more", number(time * 1e6));
    }
    text
}

fn whole(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn row(o: &Operation, phase: &Phase, passes: bool, based: bool) -> String {
    let pass = if passes { format!("{} ", o.id.pass.name()) } else { String::new() };
    let beside = match o.time.ratio() {
        Some(ratio) => format!("{ratio:.3}"),
        None if based => "new".to_owned(),
        None => format!("{:.0}%", 100.0 * o.time.waiting_share()),
    };
    let rate = match o.roof.bound {
        Bound::Compute => format!("{} GFLOP/s", number(o.gflops())),
        Bound::Memory | Bound::Latency | Bound::Waiting => format!("{} GB/s", number(o.gbps())),
    };
    format!(
        "{:>3}{:>8} {:>5} {rate:>11} {:>6} {:<7} {beside:>5} {:>6}  {pass}{}\n",
        o.rank,
        number(o.time.seconds * 1e6),
        whole(o.time.share),
        whole(o.roof.share),
        o.roof.bound.name(),
        format!("+{}", whole(o.roof.gain * phase.rate.profiled_seconds)),
        o.place(),
    )
}

/// What the reader of a phase should do next; nothing if it has no operations.
fn next(phase: &Phase, usage: &Usage<'_>) -> String {
    let advice = phase.advice();
    if advice.is_empty() {
        return String::new();
    }
    let line = |one: &Advice| match one {
        Advice::Improve { rank, change: gain } => {
            let operation = phase.operations.iter().find(|o| o.rank == *rank);
            let about = |o: &Operation| (o.place(), words::cause(o));
            let (place, cause) = operation.map(about).unwrap_or_default();
            format!("code: make {place} faster, {} at most. {cause}", change(*gain))
        }
        Advice::WorkLess => {
            "code: every operation is near its roof; only moving or computing less is faster".to_owned()
        }
        Advice::ChangeThreads(best) => settings(usage.change_threads, best),
        Advice::KeepThreads(best) => settings(usage.keep_threads, best),
        Advice::ChangeFormats(all) => format!("formats (computed): {}", changes(all)),
        Advice::Redesign(all) => format!("design (computed; no setting does it): {}", changes(all)),
    };
    let lines: String = advice.iter().map(|one| wrapped(&line(one), "    ", "      ")).collect();
    format!("  {}\n{lines}", phase.kind.name())
}

/// Alternatives, each with the change of the rate.
fn changes(all: &[WhatIf]) -> String {
    let one = |w: &WhatIf| format!("{} {}", words::what_if(w), change(w.change));
    all.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn settings(order: &str, best: &WhatIf) -> String {
    format!("settings: {order}; {} gives {} ({})", words::what_if(best), change(best.change), best.by.name())
}

fn details(phase: &Phase) -> String {
    let mut text = String::from("\n  why\n");
    for operation in &phase.operations {
        let Some(why) = words::why(operation, phase) else { continue };
        let line = format!("{} ({}). {why}", operation.place(), operation.kind.shape);
        text += &wrapped(&line, &format!("  {:>3} ", operation.rank), "      ");
    }
    text += "\n  what if\n";
    for what_if in &phase.outlook.what_ifs {
        let (rate, by) = (number(what_if.tokens_per_second), what_if.by.name());
        let what = words::what_if(what_if);
        let _ = writeln!(text, "    {rate:>9} tokens/s {:>8}  {what} ({by})", change(what_if.change));
    }
    text += "\n  roadmap: the rate after each step\n";
    for (i, step) in phase.outlook.roadmap.iter().enumerate() {
        let (rate, what) = (number(step.tokens_per_second), words::milestone(step, phase));
        let _ = writeln!(text, "    {}. {rate:>9} tokens/s {:>8}  {what}", i + 1, change(step.change));
    }
    let l = &phase.samples.latency;
    let points = [("p50", l.p50), ("p90", l.p90), ("p99", l.p99), ("most", l.max)];
    let points: Vec<String> = points.iter().map(|(name, at)| format!("{name} {}", seconds(*at))).collect();
    let _ = writeln!(text, "\n  latency of a sample: {}", points.join(", "));
    for (depth, at) in &phase.breakdown.drift {
        let _ = writeln!(text, "    {} a token behind {depth} tokens", seconds(*at));
    }
    let (hardware, kernel) = words::counted(phase);
    let hardware = hardware.unwrap_or_else(|| "the CPU's counters are not open here".to_owned());
    let counted: Vec<String> = [Some(hardware), kernel].into_iter().flatten().collect();
    let _ = writeln!(text, "  counted a token: {}", counted.join("; "));
    for arena in &phase.arenas {
        let _ = writeln!(
            text,
            "  arena of {}: {} where one buffer a value would take {}",
            arena.plan,
            bytes(arena.bytes as f64),
            bytes(arena.unplanned_bytes as f64)
        );
    }
    text
}
