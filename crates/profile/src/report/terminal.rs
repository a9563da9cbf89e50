//! The report on a terminal: one screen, or all of it.

use std::fmt::Write as _;

use super::units::{bytes, change, count, flops, number, percent, seconds};
use super::{Bound, Operation, Phase, Report};

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What fits on a screen.
    Screen,
    /// Everything that fits in text.
    Full,
}

/// Rows of a table on one screen, where there is one phase, and where there are two.
const ROWS: [usize; 2] = [12, 6];
/// Columns of a line at most.
const WIDTH: usize = 100;
/// Units that stay with their numbers.
const UNITS: [&str; 9] = ["%", "µs", "ms", "kB", "MB", "GB", "kFLOP", "MFLOP", "GFLOP"];
/// Changes smaller than this are no advice.
const WORTH: f64 = 0.01;
/// The last lines of a screen: what its words mean, and where more is.
const LEGEND: &str = "
roof: the least time that the memory and the vector units measured here allow for the work.
gain: tokens/s more if that operation alone ran at its roof. Ceiling: all of them at their roofs.
More: --full for all rows and what-ifs, --out FOLDER for HTML and a trace to open in Perfetto.
";

/// The report as text of at most `WIDTH` columns; the table of everything is wider.
pub fn render(report: &Report, extent: Extent) -> String {
    let mut text = header(report);
    text += &report.beside().map(|beside| wrapped(&beside, "", "  ")).unwrap_or_default();
    let rows = match extent {
        Extent::Full => usize::MAX,
        Extent::Screen => ROWS[usize::from(report.phases.len() > 1)],
    };
    for phase in &report.phases {
        text += &figures(phase);
        text += &table(phase, rows);
        if extent == Extent::Full {
            text += &details(phase);
        }
    }
    if extent == Extent::Full {
        text += &format!("\nsummary\n{}", list(&report.summary));
    }
    if !report.warnings.is_empty() {
        text += &format!("\ndoubtful\n{}", list(&report.warnings));
    }
    if extent == Extent::Screen {
        let said: Vec<String> = report.phases.iter().filter_map(next).collect();
        let again = if report.warnings.is_empty() { "" } else { "  first measure again, when the machine is quiet\n" };
        text += &format!("\nwhat to do next\n{again}{}{LEGEND}", said.concat());
    }
    text
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| wrapped(line, "  · ", "    ")).collect()
}

/// `text` in lines of at most [`WIDTH`] columns, a number and its unit in one piece.
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
        "{}: {}; {} parameters in {}\n{}, {} threads, {}; measured: {} GFLOP/s, memory {} GB/s, a barrier {} ns\n",
        s.model,
        s.shape,
        count(s.parameters as f64),
        s.format,
        s.cpu,
        s.threads,
        s.isa,
        number(r.f32_gflops),
        number(memory),
        number(r.barrier_ns),
    )
}

/// The figures of a phase, four lines and one for its stages.
fn figures(phase: &Phase) -> String {
    let t = &phase.traffic;
    let cache = if t.kv_read + t.kv_write > 0.0 {
        format!(" KV read {}, written {},", bytes(t.kv_read), bytes(t.kv_write))
    } else {
        String::new()
    };
    let allocations = match phase.allocations {
        Some(0.0) => ", no allocations".to_owned(),
        Some(n) => format!(", {} allocations a token", number(n)),
        None => String::new(),
    };
    let counted = phase.counted().0.map_or_else(String::new, |line| format!("  counted a token: {line}\n"));
    let stages = phase.staged().map_or_else(String::new, |line| wrapped(&line, "  ", "    "));
    format!(
        "\n{}: {}\n  {} tokens/s of a ceiling of {} tokens/s = {}; {} a token\n  \
         a token: {}; weights {},{cache} values {}\n  \
         a sample: p50 {}, p99 {}; waiting {}, entering {}, between runs {}\n  \
         coverage {}, the profiler's overhead {}, spread of repeats {}{allocations}\n{counted}{stages}",
        phase.name,
        phase.about,
        number(phase.tokens_per_second),
        number(phase.ceiling),
        percent(phase.share_of_ceiling),
        seconds(phase.seconds),
        flops(t.flops),
        bytes(t.weights),
        bytes(t.activations),
        seconds(phase.latency.p50),
        seconds(phase.latency.p99),
        percent(phase.waiting / phase.profiled_seconds),
        percent(phase.entering / phase.profiled_seconds),
        percent(phase.between / phase.profiled_seconds),
        percent(phase.coverage),
        change(phase.overhead),
        percent(phase.noise),
    )
}

fn table(phase: &Phase, rows: usize) -> String {
    let based = phase.operations.iter().any(|o| o.baseline.is_some());
    // Where all is printed there is room for the pass; on a screen the operation's name says it.
    let passes = rows == usize::MAX && phase.operations.iter().any(|o| o.pass != "forward");
    let beside = if based { "ratio" } else { "wait" };
    let mut text = format!(
        "{:>3}{:>8} {:>5} {:>11} {:>6} {:<7} {beside:>5} {:>6}  operation @ where, by gain\n",
        "#", "µs", "time", "rate", "roof", "bound", "gain"
    );
    for operation in phase.operations.iter().take(rows) {
        text += &row(operation, phase, passes, based);
    }
    let rest = phase.operations.iter().skip(rows);
    let (left, time) = rest.fold((0, 0.0), |(n, sum), o| (n + 1, sum + o.seconds));
    if left > 0 {
        let share = whole(time / phase.profiled_seconds);
        let _ = writeln!(text, "   {:>8} {share:>5} in {left} more", number(time * 1e6));
    }
    text
}

fn whole(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn row(o: &Operation, phase: &Phase, passes: bool, based: bool) -> String {
    let pass = if passes { format!("{} ", o.pass) } else { String::new() };
    let beside = match o.baseline {
        Some(before) => format!("{:.3}", o.seconds / before.max(f64::MIN_POSITIVE)),
        None if based => "new".to_owned(),
        None => format!("{:.0}%", 100.0 * o.wait / o.seconds.max(f64::MIN_POSITIVE)),
    };
    let rate = match o.bound {
        Bound::Compute => format!("{} GFLOP/s", number(o.gflops())),
        Bound::Memory | Bound::Latency | Bound::Waiting => format!("{} GB/s", number(o.gbps())),
    };
    format!(
        "{:>3}{:>8} {:>5} {rate:>11} {:>6} {:<7} {beside:>5} {:>6}  {pass}{} @ {}\n",
        o.rank,
        number(o.seconds * 1e6),
        whole(o.share),
        whole(o.share_of_roof),
        o.bound.name(),
        format!("+{}", whole(o.gain * phase.profiled_seconds)),
        o.kernel,
        o.path,
    )
}

/// What a phase's reader should do next: the operation to work on, then what can be had without work on it.
fn next(phase: &Phase) -> Option<String> {
    let first = phase.operations.first()?;
    let gain = first.gain * phase.profiled_seconds;
    let mut text = format!("  {}\n", phase.name);
    let mut say = |line: &str| text += &wrapped(line, "    ", "      ");
    if gain < WORTH {
        say("code: every operation is near its roof; only moving or computing less is faster");
    } else {
        let cause = first.why.split(" At its roof").next().unwrap_or_default();
        say(&format!("code: make {} @ {} faster, {} at most. {cause}", first.kernel, first.path, change(gain)));
    }
    let measured = phase.what_ifs.iter().filter(|w| w.by == "measured");
    if let Some(best) = measured.max_by(|a, b| a.change.total_cmp(&b.change)) {
        let gives = format!("{} gives {} (measured)", best.what, change(best.change));
        let verdict = if best.change > WORTH { "change --threads" } else { "leave --threads as it is" };
        say(&format!("settings: {verdict}; {gives}"));
    }
    let computed = phase.what_ifs.iter().filter(|w| w.by == "computed" && w.change > WORTH && advises(w));
    let all: Vec<String> = computed.map(|w| format!("{} {}", w.what, change(w.change))).collect();
    if !all.is_empty() {
        say(&format!("design (computed; no setting does it): {}", all.join("; ")));
    }
    Some(text)
}

/// Whether an alternative is advice: the sum of all gains isn't, nor are threads for which there is no CPU.
fn advises(what: &super::WhatIf) -> bool {
    !what.what.starts_with("every") && !what.what.contains("thread")
}

fn details(phase: &Phase) -> String {
    let mut text = String::from("\n  why\n");
    for operation in phase.operations.iter().filter(|o| !o.why.is_empty()) {
        let line = format!("{} @ {} ({}). {}", operation.kernel, operation.path, operation.shape, operation.why);
        text += &wrapped(&line, &format!("  {:>3} ", operation.rank), "      ");
    }
    text += "\n  what if\n";
    for what in &phase.what_ifs {
        let rate = number(what.tokens_per_second);
        let _ = writeln!(text, "    {:>9} tokens/s {:>8}  {} ({})", rate, change(what.change), what.what, what.by);
    }
    text += "\n  roadmap: the rate after each step\n";
    for (i, step) in phase.roadmap.iter().enumerate() {
        let rate = number(step.tokens_per_second);
        let _ = writeln!(text, "    {}. {rate:>9} tokens/s {:>8}  {}", i + 1, change(step.change), step.what);
    }
    let l = &phase.latency;
    let points = [("p50", l.p50), ("p90", l.p90), ("p99", l.p99), ("most", l.max)];
    let points: Vec<String> = points.iter().map(|(name, at)| format!("{name} {}", seconds(*at))).collect();
    let _ = writeln!(text, "\n  latency of a sample: {}", points.join(", "));
    for (depth, at) in &phase.drift {
        let _ = writeln!(text, "    {} a token behind {depth} tokens", seconds(*at));
    }
    let (hardware, kernel) = phase.counted();
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
