//! The report as Markdown: everything except the plots.

use std::fmt::Write as _;

use super::escape::markdown as plain;
use super::units::{bytes, change, count, flops, number, percent, seconds};
use super::{Phase, Report, words};

/// The document.
pub fn render(report: &Report) -> String {
    let s = &report.subject;
    let r = &report.roofs;
    let mut text = format!("# Profile of {} ({})\n\n", plain(&s.model), plain(&s.verb));
    let _ = writeln!(
        text,
        "{}; {} parameters in {}, {} bits each{}. {}, {} threads of {}, smallmind {}.\n",
        plain(&s.shape),
        count(s.parameters as f64),
        plain(&s.format),
        s.bits_per_weight,
        plain(&words::cache_format(s)),
        plain(&s.cpu),
        s.threads,
        plain(&s.isa),
        plain(&s.version)
    );
    if let Some(baseline) = words::baseline(report) {
        let _ = writeln!(text, "Beside a baseline: {}\n", plain(&baseline));
    }
    text += "## Summary\n\n";
    text += &list(&words::summary(report));
    let warnings = words::warnings(report);
    if !warnings.is_empty() {
        text += "\nDoubtful:\n\n";
        text += &list(&warnings);
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
    let (t, rate, time) = (&phase.traffic, &phase.rate, &phase.time);
    let mut text =
        format!("\n## {}: {}\n\n| figure | value |\n|---|---:|\n", capital(phase.kind.name()), plain(&phase.about));
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "| {name} | {value} |");
    };
    row("reached", format!("{} tokens/s", number(rate.tokens_per_second)));
    row("ceiling", format!("{} tokens/s", number(rate.ceiling)));
    row("share of the ceiling", percent(rate.share_of_ceiling));
    row("a token", seconds(rate.seconds));
    row("work a token", flops(t.flops));
    row("weights a token", bytes(t.weights));
    row("KV read, written a token", format!("{}, {}", bytes(t.kv_read), bytes(t.kv_write)));
    row("values a token", bytes(t.activations));
    row("coverage", percent(time.coverage));
    row("the profiler's overhead", change(time.overhead));
    row("waiting, entering, between runs", {
        let of = |x: f64| percent(phase.share_of_time(x));
        format!("{}, {}, {}", of(time.waiting), of(time.entering), of(time.between))
    });
    if let Some(n) = phase.counted.allocations {
        row("allocations a token", number(n));
    }
    let counted: Vec<String> = <[_; 2]>::from(words::counted(phase)).into_iter().flatten().collect();
    if !counted.is_empty() {
        row("counted a token", counted.join("; "));
    }
    row("samples, left out", format!("{}, {}", phase.samples.count, phase.samples.left_out));
    row("spread of repeats", percent(phase.samples.noise));
    text += &table(phase);
    text += "\n### Why\n\n";
    for o in &phase.operations {
        let Some(why) = words::why(o, phase) else { continue };
        let _ = writeln!(text, "{}. **{}** ({}). {}", o.rank, plain(&o.place()), plain(&o.kind.shape), plain(&why));
    }
    text += "\n### What if\n\n| what | tokens/s | change | by |\n|---|---:|---:|---|\n";
    for w in &phase.outlook.what_ifs {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            plain(&words::what_if(w)),
            number(w.tokens_per_second),
            change(w.change),
            w.by.name()
        );
    }
    text += "\n### Roadmap\n\n| step | then tokens/s | change |\n|---|---:|---:|\n";
    for m in &phase.outlook.roadmap {
        let what = plain(&words::milestone(m, phase));
        let _ = writeln!(text, "| {what} | {} | {} |", number(m.tokens_per_second), change(m.change));
    }
    text + &rest(phase)
}

fn table(phase: &Phase) -> String {
    let based = phase.has_baseline();
    let (head, line) = if based { (" baseline µs | ratio |", "---:|---:|") } else { ("", "") };
    let mut text = format!(
        "\n| # | pass | operation | shape | calls a sample | µs/token | time | cumulative | kB | kFLOP | GB/s | \
         GFLOP/s | of roof | bound | wait | imbalance | allocations | gain |{head}\n\
         |---:|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|{line}\n"
    );
    for o in &phase.operations {
        let columns = [
            o.rank.to_string(),
            o.id.pass.name().to_owned(),
            plain(&o.place()),
            plain(&o.kind.shape),
            count((o.calls * phase.samples.tokens).round()),
            number(o.time.seconds * 1e6),
            percent(o.time.share),
            percent(o.time.cumulative),
            number(o.traffic.bytes() * 1e-3),
            number(o.traffic.flops * 1e-3),
            number(o.gbps()),
            number(o.gflops()),
            percent(o.roof.share),
            o.roof.bound.name().to_owned(),
            percent(o.time.waiting_share()),
            format!("{:.2}", o.time.imbalance),
            o.allocations.map_or_else(|| "-".to_owned(), |(calls, _)| number(calls)),
            change(o.roof.gain * phase.rate.profiled_seconds),
        ];
        text += &format!("| {} |", columns.join(" | "));
        if based {
            let before = o.time.baseline.zip(o.time.ratio());
            text += &before.map_or_else(
                || " new | - |".to_owned(),
                |(before, ratio)| format!(" {} | {ratio:.3} |", number(before * 1e6)),
            );
        }
        text.push('\n');
    }
    text
}

fn rest(phase: &Phase) -> String {
    let l = &phase.samples.latency;
    let mut text = format!(
        "\n### Latency\n\nA sample: p50 {}, p90 {}, p99 {}, most {}.\n",
        seconds(l.p50),
        seconds(l.p90),
        seconds(l.p99),
        seconds(l.max)
    );
    for (depth, at) in &phase.breakdown.drift {
        let _ = writeln!(text, "* {} a token behind {depth} tokens", seconds(*at));
    }
    for (name, at) in &phase.breakdown.stages {
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
