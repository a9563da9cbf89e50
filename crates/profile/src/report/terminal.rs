//! The report on a terminal: one screen, or all of it.

use std::fmt::Write as _;

use super::units::{bytes, change, count, flops, number, percent, seconds};
use super::{Operation, Phase, Report};

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

/// The report as text of at most 120 columns.
pub fn render(report: &Report, extent: Extent) -> String {
    let mut text = header(report);
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
    if extent == Extent::Screen {
        let said: Vec<String> = report.phases.iter().filter_map(next).collect();
        text += &format!("\nwhat to do\n{}", said.concat());
    } else {
        text += &format!("\nsummary\n{}", list(&report.summary));
    }
    if !report.warnings.is_empty() {
        text += &format!("\ndoubtful\n{}", list(&report.warnings));
    }
    text
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| wrapped(line, "  · ", "    ")).collect()
}

/// `text` in lines of at most 110 columns.
fn wrapped(text: &str, first: &str, next: &str) -> String {
    let (mut out, mut line) = (String::new(), first.to_owned());
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + word.chars().count() + 1 > 110 {
            out += &format!("{line}\n");
            (line, empty) = (next.to_owned(), true);
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    out + &line + "\n"
}

fn header(report: &Report) -> String {
    let s = &report.subject;
    let r = &report.roofs;
    let memory = r.levels.last().map_or(0.0, |level| level.read);
    format!(
        "{} · {} · {} parameters in {}, {} bits each\n{} · {} threads of {} · measured: {} GFLOP/s, memory {} GB/s, barrier {} ns\n",
        s.model,
        s.shape,
        count(s.parameters as f64),
        s.format,
        s.bits_per_weight,
        s.cpu,
        s.threads,
        s.isa,
        number(r.f32_gflops),
        number(memory),
        number(r.barrier_ns),
    )
}

/// The figures of a phase, and what its samples are made of.
fn figures(phase: &Phase) -> String {
    let t = &phase.traffic;
    let allocations = phase.allocations.map_or_else(String::new, |n| format!(" · allocations {}", number(n)));
    let counted = phase.counted().0.map_or_else(String::new, |line| format!("  counted a token: {line}\n"));
    let stages = phase.staged().map_or_else(String::new, |line| wrapped(&line, "  ", "    "));
    format!(
        "\n{}: {}\n  {} tokens/s of a ceiling of {} = {} · {} a token, p99 of a sample {}{allocations}\n  \
         a token: {}; weights {}, KV read {}, KV write {}, values {}\n  \
         coverage {} · profiler {} · waiting {} · entering {} · between runs {}\n{counted}{stages}",
        phase.name,
        phase.about,
        number(phase.tokens_per_second),
        number(phase.ceiling),
        percent(phase.share_of_ceiling),
        seconds(phase.seconds),
        seconds(phase.latency.p99),
        flops(t.flops),
        bytes(t.weights),
        bytes(t.kv_read),
        bytes(t.kv_write),
        bytes(t.activations),
        percent(phase.coverage),
        change(phase.overhead),
        percent(phase.waiting / phase.profiled_seconds),
        percent(phase.entering / phase.profiled_seconds),
        percent(phase.between / phase.profiled_seconds),
    )
}

fn table(phase: &Phase, rows: usize) -> String {
    let training = phase.operations.iter().any(|o| o.pass != "forward");
    let based = phase.operations.iter().any(|o| o.baseline.is_some());
    let ratio = if based { "  ratio" } else { "" };
    let mut text = format!(
        "\n  {:>2} {:>8} {:>6} {:>7} {:>8} {:>6} {:<8} {:>6} {:>7}{ratio}  operation\n",
        "#", "µs/token", "time", "GB/s", "GFLOP/s", "roof", "bound", "wait", "gain"
    );
    for operation in phase.operations.iter().take(rows) {
        text += &row(operation, phase, training, based);
    }
    let rest = phase.operations.iter().skip(rows);
    let (left, time) = rest.fold((0, 0.0), |(n, sum), o| (n + 1, sum + o.seconds));
    if left > 0 {
        let share = percent(time / phase.profiled_seconds);
        let _ = writeln!(text, "     {:>8} {share:>6} in {left} more", number(time * 1e6));
    }
    text
}

fn row(o: &Operation, phase: &Phase, training: bool, based: bool) -> String {
    let pass = if training { format!("{} ", o.pass) } else { String::new() };
    let ratio = match o.baseline {
        Some(before) => format!(" {:>6.3}", o.seconds / before.max(f64::MIN_POSITIVE)),
        None if based => "    new".to_owned(),
        None => String::new(),
    };
    let whole = |x: f64| format!("{:.1}%", 100.0 * x);
    format!(
        "  {:>2} {:>8} {:>6} {:>7} {:>8} {:>6} {:<8} {:>6} {:>7}{ratio}  {pass}{} @ {}\n",
        o.rank,
        number(o.seconds * 1e6),
        whole(o.share),
        number(o.gbps()),
        number(o.gflops()),
        whole(o.share_of_roof),
        o.bound.name(),
        whole(o.wait / o.seconds.max(f64::MIN_POSITIVE)),
        format!("+{}", whole(o.gain * phase.profiled_seconds)),
        o.kernel,
        o.path,
    )
}

/// What a phase's reader should do next, in a line or two.
fn next(phase: &Phase) -> Option<String> {
    let first = phase.operations.first()?;
    let best = phase.what_ifs.iter().filter(|w| advises(w)).max_by(|a, b| a.change.total_cmp(&b.change));
    let best = best.filter(|w| w.change > 0.01);
    let other = best.map_or_else(String::new, |w| format!(" Or: {} {} ({}).", w.what, change(w.change), w.by));
    let text = format!("{}: {} @ {}. {}{other}", phase.name, first.kernel, first.path, first.why);
    Some(wrapped(&text, "  · ", "    "))
}

/// Whether an alternative is advice: the sum of all gains isn't, nor are threads for which there is no CPU.
fn advises(what: &super::WhatIf) -> bool {
    let sum_of_all = what.what.starts_with("every");
    let no_cpu = what.what.contains("thread") && what.by == "computed";
    !sum_of_all && !no_cpu
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
