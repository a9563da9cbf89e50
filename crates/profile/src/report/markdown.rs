//! The report as Markdown: everything but the pictures.

use std::fmt::Write as _;

use super::escape::markdown as plain;
use super::units::{bytes, change, count, flops, number, percent, seconds};
use super::{Phase, Report};

/// The document.
pub fn render(report: &Report) -> String {
    let s = &report.subject;
    let r = &report.roofs;
    let mut text = format!("# Profile of {} ({})\n\n", plain(&s.model), plain(&s.verb));
    let _ = writeln!(
        text,
        "{}; {} parameters in {}, {} bits each. {}, {} threads of {}, smallmind {}.\n",
        plain(&s.shape),
        count(s.parameters as f64),
        plain(&s.format),
        s.bits_per_weight,
        plain(&s.cpu),
        s.threads,
        plain(&s.isa),
        plain(&s.version)
    );
    if let Some(beside) = report.beside() {
        let _ = writeln!(text, "Beside a baseline: {}\n", plain(&beside));
    }
    text += "## Summary\n\n";
    text += &list(&report.summary);
    if !report.warnings.is_empty() {
        text += "\nDoubtful:\n\n";
        text += &list(&report.warnings);
    }
    let _ = writeln!(text, "\n## What this machine can do\n\n| roof | measured |\n|---|---:|");
    let _ = writeln!(text, "| f32 | {} GFLOP/s |", number(r.f32_gflops));
    let _ = writeln!(text, "| exponentials of f32 | {} G/s |", number(r.exp_gops));
    for level in &r.levels {
        let _ = writeln!(text, "| {}, {} | {} GB/s read |", plain(&level.name), bytes(level.bytes), number(level.read));
    }
    let _ =
        writeln!(text, "| barrier | {} ns |\n| entering the pool | {} ns |", number(r.barrier_ns), number(r.entry_ns));
    text += &system(report);
    for phase in &report.phases {
        text += &of_phase(phase);
    }
    text
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("* {}\n", plain(line))).collect()
}

fn system(report: &Report) -> String {
    let u = &report.system;
    let mut found = vec![];
    let mut say = |name: &str, value: Option<f64>| found.extend(value.map(|n| format!("{name} {}", number(n))));
    say("CPU seconds", u.cpu_seconds);
    say("page faults", u.minor_faults);
    say("… from disk", u.major_faults);
    say("switches", u.voluntary_switches);
    say("… forced", u.involuntary_switches);
    say("stolen by the host, %", u.steal.map(|s| 100.0 * s));
    say("MHz", u.mhz.map(|m| m.1));
    if found.is_empty() { String::new() } else { format!("\nThe system counted: {}.\n", found.join(", ")) }
}

fn of_phase(phase: &Phase) -> String {
    let t = &phase.traffic;
    let mut text =
        format!("\n## {}: {}\n\n| figure | value |\n|---|---:|\n", capital(&plain(&phase.name)), plain(&phase.about));
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "| {name} | {value} |");
    };
    row("reached", format!("{} tokens/s", number(phase.tokens_per_second)));
    row("ceiling", format!("{} tokens/s", number(phase.ceiling)));
    row("share of the ceiling", percent(phase.share_of_ceiling));
    row("a token", seconds(phase.seconds));
    row("work a token", flops(t.flops));
    row("weights a token", bytes(t.weights));
    row("KV read, written a token", format!("{}, {}", bytes(t.kv_read), bytes(t.kv_write)));
    row("values a token", bytes(t.activations));
    row("coverage", percent(phase.coverage));
    row("the profiler's overhead", change(phase.overhead));
    row("waiting, entering, between runs", {
        let of = |x: f64| percent(x / phase.profiled_seconds);
        format!("{}, {}, {}", of(phase.waiting), of(phase.entering), of(phase.between))
    });
    if let Some(n) = phase.allocations {
        row("allocations a token", number(n));
    }
    let counted: Vec<String> = <[_; 2]>::from(phase.counted()).into_iter().flatten().collect();
    if !counted.is_empty() {
        row("counted a token", counted.join("; "));
    }
    row("samples, left out", format!("{}, {}", phase.samples, phase.left_out));
    row("spread of repeats", percent(phase.noise));
    text += &table(phase);
    text += "\n### Why\n\n";
    for o in phase.operations.iter().filter(|o| !o.why.is_empty()) {
        let _ = writeln!(
            text,
            "{}. **{} @ {}** ({}). {}",
            o.rank,
            plain(&o.kernel),
            plain(&o.path),
            plain(&o.shape),
            plain(&o.why)
        );
    }
    text += "\n### What if\n\n| what | tokens/s | change | by |\n|---|---:|---:|---|\n";
    for w in &phase.what_ifs {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            plain(&w.what),
            number(w.tokens_per_second),
            change(w.change),
            plain(&w.by)
        );
    }
    text += "\n### Roadmap\n\n| step | then tokens/s | change |\n|---|---:|---:|\n";
    for m in &phase.roadmap {
        let _ = writeln!(text, "| {} | {} | {} |", plain(&m.what), number(m.tokens_per_second), change(m.change));
    }
    text + &rest(phase)
}

fn table(phase: &Phase) -> String {
    let based = phase.operations.iter().any(|o| o.baseline.is_some());
    let (head, line) = if based { (" baseline µs | ratio |", "---:|---:|") } else { ("", "") };
    let mut text = format!(
        "\n| # | pass | operation | shape | calls a sample | µs/token | time | cumulative | kB | kFLOP | GB/s | GFLOP/s | of roof | bound | wait | imbalance | allocations | gain |{head}\n\
         |---:|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|{line}\n"
    );
    for o in &phase.operations {
        let columns = [
            o.rank.to_string(),
            plain(&o.pass),
            plain(&format!("{} @ {}", o.kernel, o.path)),
            plain(&o.shape),
            count((o.calls * phase.tokens).round()),
            number(o.seconds * 1e6),
            percent(o.share),
            percent(o.cumulative),
            number(o.traffic.bytes() * 1e-3),
            number(o.traffic.flops * 1e-3),
            number(o.gbps()),
            number(o.gflops()),
            percent(o.share_of_roof),
            o.bound.name().to_owned(),
            percent(o.wait / o.seconds.max(f64::MIN_POSITIVE)),
            format!("{:.2}", o.imbalance),
            o.allocations.map_or_else(|| "-".to_owned(), |(calls, _)| number(calls)),
            change(o.gain * phase.profiled_seconds),
        ];
        text += &format!("| {} |", columns.join(" | "));
        if based {
            let before = o.baseline.map_or_else(
                || " new | - |".to_owned(),
                |b| format!(" {} | {:.3} |", number(b * 1e6), o.seconds / b.max(f64::MIN_POSITIVE)),
            );
            text += &before;
        }
        text.push('\n');
    }
    text
}

fn rest(phase: &Phase) -> String {
    let l = &phase.latency;
    let mut text = format!(
        "\n### Latency\n\nA sample: p50 {}, p90 {}, p99 {}, most {}.\n",
        seconds(l.p50),
        seconds(l.p90),
        seconds(l.p99),
        seconds(l.max)
    );
    for (depth, at) in &phase.drift {
        let _ = writeln!(text, "* {} a token behind {depth} tokens", seconds(*at));
    }
    for (name, at) in &phase.stages {
        let _ = writeln!(text, "* {}: {}", plain(name), seconds(*at));
    }
    text += "\n### Memory\n\n";
    for arena in &phase.arenas {
        let _ = writeln!(
            text,
            "* {}: {} for {} values; one buffer a value would take {}",
            plain(&arena.plan),
            bytes(arena.bytes as f64),
            arena.values.len(),
            bytes(arena.unplanned_bytes as f64)
        );
    }
    text
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
