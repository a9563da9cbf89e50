//! The report as one HTML file that needs no network: pictures, a table that sorts and unfolds, and the sentences.

use std::fmt::Write as _;

use super::plot::{self, escaped};
use super::units::{bytes, change, count, flops, number, percent, seconds};
use super::{Operation, Phase, Report};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// The document.
pub fn render(report: &Report) -> String {
    let s = &report.subject;
    let title = escaped(&format!("Profile of {} ({})", s.model, s.verb));
    let mut body = format!("<h1>{title}</h1>\n<p>{}</p>\n", escaped(&subject(report)));
    body += &list("Summary", &report.summary);
    body += &list("Doubtful", &report.warnings);
    for phase in &report.phases {
        body += &of_phase(phase, report);
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n{body}<script>{SCRIPT}</script>\n</body></html>\n"
    )
}

fn subject(report: &Report) -> String {
    let (s, r) = (&report.subject, &report.roofs);
    let memory = r.levels.last().map_or(0.0, |level| level.read);
    format!(
        "{}; {} parameters in {}, {} bits each. {}, {} threads of {}, smallmind {}. Measured here: {} GFLOP/s, memory {} GB/s, a barrier {} ns.",
        s.shape,
        count(s.parameters as f64),
        s.format,
        s.bits_per_weight,
        s.cpu,
        s.threads,
        s.isa,
        s.version,
        number(r.f32_gflops),
        number(memory),
        number(r.barrier_ns)
    )
}

fn list(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let items: String = lines.iter().map(|line| format!("<li>{}</li>", escaped(line))).collect();
    format!("<h2>{title}</h2><ul>{items}</ul>\n")
}

fn of_phase(phase: &Phase, report: &Report) -> String {
    let name = escaped(&phase.name);
    let mut text = format!("<section id=\"{name}\"><h2>{name}: {}</h2>\n{}", escaped(&phase.about), figures(phase));
    text += &format!("<h3>Roofline: a dot an operation, area as time</h3>\n{}", plot::roofline(phase, &report.roofs));
    text += "<h3>Operations, by what would be gained</h3>\n<p>A click on a heading sorts, a click on a row unfolds its layers.</p>\n";
    text += &table(phase);
    text += "<h3>Why</h3><ol>";
    for o in phase.operations.iter().filter(|o| !o.why.is_empty()) {
        let _ = write!(text, "<li><b>{} @ {}</b> {}</li>", escaped(&o.kernel), escaped(&o.path), escaped(&o.why));
    }
    text += "</ol>\n<h3>What if</h3><table><tr><th>what</th><th>tokens/s</th><th>change</th><th>by</th></tr>";
    for w in &phase.what_ifs {
        text += &cells(&[&w.what, &number(w.tokens_per_second), &change(w.change), &w.by]);
    }
    text += "</table>\n<h3>Roadmap</h3><table><tr><th>step</th><th>then tokens/s</th><th>change</th></tr>";
    for m in &phase.roadmap {
        text += &cells(&[&m.what, &number(m.tokens_per_second), &change(m.change)]);
    }
    let _ = write!(text, "</table>\n<h3>One sample, worker by worker</h3>\n{}", plot::timeline(phase));
    let _ = write!(text, "<h3>Latency of a sample</h3>\n{}", plot::histogram(&phase.latency));
    for arena in &phase.arenas {
        let _ = write!(
            text,
            "<h3>Arena of {}: {} where one buffer a value would take {}</h3>\n{}",
            escaped(&arena.plan),
            bytes(arena.bytes as f64),
            bytes(arena.unplanned_bytes as f64),
            plot::arena(arena)
        );
    }
    text + "</section>\n"
}

fn cells(all: &[&str]) -> String {
    let one: String = all.iter().map(|text| format!("<td>{}</td>", escaped(text))).collect();
    format!("<tr>{one}</tr>")
}

fn figures(phase: &Phase) -> String {
    let t = &phase.traffic;
    let of = |x: f64| percent(x / phase.profiled_seconds);
    let mut rows = vec![
        ("reached", format!("{} tokens/s", number(phase.tokens_per_second))),
        ("ceiling", format!("{} tokens/s", number(phase.ceiling))),
        ("share of the ceiling", percent(phase.share_of_ceiling)),
        ("a token", seconds(phase.seconds)),
        ("work", flops(t.flops)),
        ("weights", bytes(t.weights)),
        ("KV read", bytes(t.kv_read)),
        ("KV written", bytes(t.kv_write)),
        ("values", bytes(t.activations)),
        ("coverage", percent(phase.coverage)),
        ("profiler", change(phase.overhead)),
        ("waiting", of(phase.waiting)),
        ("entering", of(phase.entering)),
        ("between runs", of(phase.between)),
    ];
    rows.extend(phase.allocations.map(|n| ("allocations", number(n))));
    let (hardware, kernel) = phase.counted();
    rows.extend(hardware.map(|counted| ("counted by the CPU", counted)));
    rows.extend(kernel.map(|counted| ("counted by the kernel", counted)));
    rows.extend(phase.stages.iter().map(|(name, at)| (name.as_str(), seconds(*at))));
    let one =
        |(name, value): &(&str, String)| format!("<div><b>{}</b><span>{}</span></div>", escaped(value), escaped(name));
    format!("<div class=\"figures\">{}</div>\n", rows.iter().map(one).collect::<String>())
}

/// The columns: heading, and the value to sort by with its text.
type Column = (&'static str, fn(&Operation, f64) -> (f64, String));

const COLUMNS: [Column; 15] = [
    ("#", |o, _| (o.rank as f64, o.rank.to_string())),
    ("calls", |o, _| (o.calls, number(o.calls))),
    ("µs/token", |o, _| (o.seconds, number(o.seconds * 1e6))),
    ("time", |o, _| (o.share, percent(o.share))),
    ("cumulative", |o, _| (o.cumulative, percent(o.cumulative))),
    ("kB", |o, _| (o.traffic.bytes(), number(o.traffic.bytes() * 1e-3))),
    ("kFLOP", |o, _| (o.traffic.flops, number(o.traffic.flops * 1e-3))),
    ("GB/s", |o, _| (o.gbps(), number(o.gbps()))),
    ("GFLOP/s", |o, _| (o.gflops(), number(o.gflops()))),
    ("of roof", |o, _| (o.share_of_roof, percent(o.share_of_roof))),
    ("wait", |o, _| (o.wait / o.seconds.max(f64::MIN_POSITIVE), percent(o.wait / o.seconds.max(f64::MIN_POSITIVE)))),
    ("imbalance", |o, _| (o.imbalance, format!("{:.2}", o.imbalance))),
    ("allocations", |o, _| o.allocations.map_or((0.0, "-".to_owned()), |(calls, _)| (calls, number(calls)))),
    ("gain", |o, total| (o.gain, change(o.gain * total))),
    ("ratio", |o, _| match o.baseline {
        Some(before) => {
            (o.seconds / before.max(f64::MIN_POSITIVE), format!("{:.3}", o.seconds / before.max(f64::MIN_POSITIVE)))
        }
        None => (0.0, "-".to_owned()),
    }),
];

fn table(phase: &Phase) -> String {
    let mut text = "<table class=\"operations\"><thead><tr>".to_owned();
    for (name, _) in &COLUMNS {
        let _ = write!(text, "<th>{name}</th>");
    }
    text += "<th>bound</th><th>pass</th><th>operation</th><th>shape</th></tr></thead><tbody>";
    for o in &phase.operations {
        text += "<tr class=\"row\">";
        for (_, value) in &COLUMNS {
            let (sort, shown) = value(o, phase.profiled_seconds);
            let _ = write!(text, "<td data-v=\"{sort:e}\">{shown}</td>");
        }
        let name = escaped(&format!("{} @ {}", o.kernel, o.path));
        let _ = write!(
            text,
            "<td>{}</td><td>{}</td><td>{name}</td><td>{}</td></tr>",
            o.bound.name(),
            escaped(&o.pass),
            escaped(&o.shape)
        );
        let members: String = o
            .members
            .iter()
            .map(|(path, at)| format!("<tr><td>{}</td><td>{}</td></tr>", escaped(path), seconds(*at)))
            .collect();
        let columns = COLUMNS.len() + 4;
        let _ =
            write!(text, "<tr class=\"members\" hidden><td colspan=\"{columns}\"><table>{members}</table></td></tr>");
    }
    text + "</tbody></table>\n"
}
