//! The report as one HTML file that needs no network: plots, sentences, and a table that can be sorted and unfolded.

use std::fmt::Write as _;

use super::escape::html as escaped;
use super::html_table;
use super::plot::{self, color};
use super::units::{bytes, change, count, flops, number, percent, seconds};
use super::{Operation, Phase, Report, words};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// The document.
pub fn render(report: &Report) -> String {
    let s = &report.subject;
    let title = escaped(&format!("Profile of {} ({})", s.model, s.verb));
    let links: String = report.phases.iter().map(|phase| link(phase.kind.name())).chain([link("machine")]).collect();
    let mut body =
        format!("<header><h1>{title}</h1>\n<p>{}</p>\n<nav>{links}</nav></header>\n<main>\n", subject(report));
    body += &list("Summary", "summary", &words::summary(report));
    body += &list("Doubtful", "doubtful", &words::warnings(report));
    report.phases.iter().for_each(|phase| body += &of_phase(phase, report));
    body += &machine(report);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><link rel=\"icon\" href=\"data:,\">\
         <title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n{body}</main>\n\
         <script>{SCRIPT}</script>\n</body></html>\n"
    )
}

fn link(name: &str) -> String {
    format!("<a href=\"#{0}\">{0}</a> ", escaped(name))
}

fn subject(report: &Report) -> String {
    let s = &report.subject;
    let line = format!(
        "{}; {} parameters in {}, {} bits each{}. {}, {} threads, {}. smallmind {}.",
        s.shape,
        count(s.parameters as f64),
        s.format,
        s.bits_per_weight,
        words::cache_format(s),
        s.cpu,
        s.threads,
        s.isa,
        s.version
    );
    let beside = words::baseline(report).map(|baseline| format!(" Beside a baseline: {baseline}")).unwrap_or_default();
    escaped(&(line + &beside))
}

/// A sentence whose percentages are not split at the end of a line.
fn sentence(text: &str) -> String {
    escaped(text).replace(" %", "\u{a0}%")
}

fn list(title: &str, class: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let items: String = lines.iter().map(|line| format!("<li>{}</li>", sentence(line))).collect();
    format!("<section class=\"{class}\"><h2>{title}</h2><ul>{items}</ul></section>\n")
}

fn of_phase(phase: &Phase, report: &Report) -> String {
    let name = phase.kind.name();
    let mut text = format!(
        "<section class=\"phase\" id=\"{name}\"><h2>{name}: {}</h2>\n{}",
        escaped(&phase.about),
        figures(phase)
    );
    text += &heading(name, "roofline", "Roofline");
    text += &note(
        "A dot is an operation, its area the time, its number the rank in the table. Up to the slopes memory and \
         caches allow, up to the plain the vector units. Point at a dot for its figures.",
    );
    text += &plot::roofline(phase, &report.roofs);
    text += &without_arithmetic(phase);
    text += &heading(name, "operations", "Operations, ranked by what would be gained");
    text += &html_table::render(phase);
    text += &sentences(phase);
    text += &heading(name, "timeline", "One sample, worker by worker");
    text += &note("The sample in the middle of all. Grey is waiting: for another worker, or to be woken.");
    text += "<p class=\"tools\"><label>zoom <input type=\"range\" class=\"zoom\" min=\"1\" max=\"40\" value=\"1\" \
     step=\"0.5\"></label></p>\n";
    text += &plot::timeline(phase);
    text += &legend(phase);
    text += &heading(name, "latency", "Latency of a sample");
    text += &latency(phase);
    text += &heading(name, "arena", "Arena: which value lies where, and when");
    for arena in &phase.arenas {
        text += &note(&format!(
            "Plan of {}: {} for {} values; one buffer a value would take {}. A rectangle is a value, from the \
             operation that makes it to the last that reads it.",
            arena.plan,
            bytes(arena.bytes as f64),
            arena.values.len(),
            bytes(arena.unplanned_bytes as f64)
        ));
        text += &plot::arena(arena, phase);
    }
    text + "</section>\n"
}

/// A heading within a phase, with an id for links.
fn heading(phase: &str, id: &str, title: &str) -> String {
    format!("<h3 id=\"{phase}-{id}\">{title}</h3>\n")
}

fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escaped(text))
}

/// The operations without arithmetic, which a roofline can't show.
fn without_arithmetic(phase: &Phase) -> String {
    let name = |o: &Operation| format!("#{} {}", o.rank, o.kind.kernel);
    let moving: Vec<String> = phase.operations.iter().filter(|o| o.traffic.flops <= 0.0).map(name).collect();
    if moving.is_empty() {
        String::new()
    } else {
        note(&format!("Not drawn, as they only move bytes: {}.", moving.join(", ")))
    }
}

/// The colours of the operations that are large enough to be seen.
fn legend(phase: &Phase) -> String {
    let mut shown: Vec<&Operation> = phase.operations.iter().filter(|o| o.time.share > 0.005).collect();
    shown.sort_by(|a, b| b.time.share.total_cmp(&a.time.share));
    let one = |o: &&Operation| {
        let place = escaped(&o.place());
        format!("<span><i style=\"background:{}\"></i>#{} {place}</span>", color(o.rank), o.rank)
    };
    let waiting = "<span><i style=\"background:#8884\"></i>waiting</span>";
    format!("<p class=\"legend\">{}{waiting}</p>\n", shown.iter().map(one).collect::<String>())
}

/// The explanations, the alternatives and the roadmap.
fn sentences(phase: &Phase) -> String {
    let name = phase.kind.name();
    let mut text = heading(name, "why", "Why they take their time") + "<ol>";
    for o in &phase.operations {
        let Some(why) = words::why(o, phase) else { continue };
        let _ = write!(text, "<li><b>{}</b> {}</li>", escaped(&o.place()), sentence(&why));
    }
    text += "</ol>\n<div class=\"columns\"><div>";
    text += &heading(name, "what-if", "What if");
    text += "<table><thead><tr><th class=\"word\">what</th><th>tokens/s</th><th>change</th><th \
     class=\"word\">by</th></tr></thead>";
    for w in &phase.outlook.what_ifs {
        text += &row(&[&words::what_if(w), &number(w.tokens_per_second), &change(w.change), w.by.name()]);
    }
    text += "</table></div><div>";
    text += &heading(name, "roadmap", "Roadmap: what to fix, in order");
    text += "<table><thead><tr><th class=\"word\">step</th><th>then tokens/s</th><th>change</th></tr></thead>";
    for (i, m) in phase.outlook.roadmap.iter().enumerate() {
        text += &row(&[
            &format!("{}. {}", i + 1, words::milestone(m, phase)),
            &number(m.tokens_per_second),
            &change(m.change),
        ]);
    }
    text + "</table></div></div>\n"
}

/// A row of a table: the first and the fourth cell are words, the others numbers.
fn row(cells: &[&str]) -> String {
    let class = |i: usize| if i == 0 || i == 3 { "word" } else { "number" };
    let one = |(i, text): (usize, &&str)| format!("<td class=\"{}\">{}</td>", class(i), escaped(text));
    format!("<tr>{}</tr>", cells.iter().enumerate().map(one).collect::<String>())
}

fn latency(phase: &Phase) -> String {
    let l = &phase.samples.latency;
    let points = [("p50", l.p50), ("p90", l.p90), ("p99", l.p99), ("slowest", l.max)];
    let mut text = plot::histogram(l);
    text += "<div class=\"columns\"><table><thead><tr><th class=\"word\">of a sample</th><th>time</th></tr></thead>";
    points.iter().for_each(|(name, at)| text += &row(&[name, &seconds(*at)]));
    text += "</table>";
    if !phase.breakdown.drift.is_empty() {
        text += "<table><thead><tr><th class=\"word\">tokens before it</th><th>a token</th></tr></thead>";
        phase.breakdown.drift.iter().for_each(|(depth, at)| text += &row(&[&depth.to_string(), &seconds(*at)]));
        text += "</table>";
    }
    if !phase.breakdown.stages.is_empty() {
        text += "<table><thead><tr><th class=\"word\">part</th><th>time</th></tr></thead>";
        phase.breakdown.stages.iter().for_each(|(name, at)| text += &row(&[name, &seconds(*at)]));
        text += "</table>";
    }
    text + "</div>\n"
}

fn figures(phase: &Phase) -> String {
    let (t, rate, time) = (&phase.traffic, &phase.rate, &phase.time);
    let of = |x: f64| percent(phase.share_of_time(x));
    let mut rows = vec![
        ("reached", format!("{} tokens/s", number(rate.tokens_per_second))),
        ("ceiling", format!("{} tokens/s", number(rate.ceiling))),
        ("share of the ceiling", percent(rate.share_of_ceiling)),
        ("a token", seconds(rate.seconds)),
        ("work a token", flops(t.flops)),
        ("weights a token", bytes(t.weights)),
        ("KV read a token", bytes(t.kv_read)),
        ("KV written a token", bytes(t.kv_write)),
        ("values a token", bytes(t.activations)),
        ("coverage", percent(time.coverage)),
        ("the profiler's overhead", change(time.overhead)),
        ("waiting", of(time.waiting)),
        ("entering the pool", of(time.entering)),
        ("between runs", of(time.between)),
    ];
    rows.extend(phase.counted.allocations.map(|n| ("allocations a token", number(n))));
    rows.push(("samples", format!("{} and {} left out", phase.samples.count, phase.samples.left_out)));
    rows.push(("spread of repeats", percent(phase.samples.noise)));
    let (hardware, kernel) = words::counted(phase);
    rows.extend(hardware.map(|counted| ("counted by the CPU", counted)));
    rows.extend(kernel.map(|counted| ("counted by the kernel", counted)));
    rows.extend(phase.breakdown.stages.iter().map(|(name, at)| (name.as_str(), seconds(*at))));
    let one =
        |(name, value): &(&str, String)| format!("<div><b>{}</b><span>{}</span></div>", escaped(value), escaped(name));
    format!("<div class=\"figures\">{}</div>\n", rows.iter().map(one).collect::<String>())
}

/// The roofs, and what the operating system counted.
fn machine(report: &Report) -> String {
    let (r, u) = (&report.roofs, &report.system);
    let mut text = String::from(
        "<section id=\"machine\"><h2>machine: what it can do, measured in the same process</h2>\n<div \
         class=\"columns\">",
    );
    text += "<table><thead><tr><th class=\"word\">roof</th><th>measured</th></tr></thead>";
    text += &row(&["f32 multiply-adds", &format!("{} GFLOP/s", number(r.f32_gflops))]);
    text += &row(&["a barrier", &format!("{} ns", number(r.barrier_ns))]);
    text += &row(&["entering the pool", &format!("{} ns", number(r.entry_ns))]);
    text += "</table><table><thead><tr><th class=\"word\">memory</th><th>size</th><th>read</th></tr></thead>";
    for level in &r.levels {
        text += &row(&[&level.name, &bytes(level.bytes), &format!("{} GB/s", number(level.read))]);
    }
    text += "</table><table><thead><tr><th class=\"word\">the system counted</th><th></th></tr></thead>";
    let counted = [
        ("CPU seconds", u.cpu_seconds),
        ("page faults", u.minor_faults),
        ("page faults from disk", u.major_faults),
        ("switches of threads", u.voluntary_switches),
        ("switches that were forced", u.involuntary_switches),
    ];
    for (name, value) in counted {
        text += &value.map_or_else(String::new, |n| row(&[name, &number(n)]));
    }
    text += &u.steal.map_or_else(String::new, |share| row(&["stolen by the host", &percent(share)]));
    text +=
        &u.mhz.map_or_else(String::new, |(low, high)| row(&["MHz", &format!("{} to {}", number(low), number(high))]));
    text + "</table></div></section>\n"
}
