//! The table of operations in HTML: one body of rows an operation, so that its layers move along when it is sorted.

use std::fmt::Write as _;

use super::escape::html as escaped;
use super::plot::color;
use super::units::{change, count, number, percent};
use super::{Operation, Phase};

/// A column: heading, what it means, and the value to sort by with its text.
struct Column {
    name: &'static str,
    means: &'static str,
    value: fn(&Operation, &Phase) -> (f64, String),
}

const COLUMNS: [Column; 14] = [
    Column {
        name: "calls",
        means: "calls a sample",
        value: |o, phase| (o.calls * phase.tokens, count((o.calls * phase.tokens).round())),
    },
    Column {
        name: "µs",
        means: "microseconds a token, waiting included",
        value: |o, _| (o.seconds, number(o.seconds * 1e6)),
    },
    Column { name: "time", means: "share of the phase's time", value: |o, _| (o.share, percent(o.share)) },
    Column {
        name: "sum",
        means: "share of the time of this operation and of all that rank before it",
        value: |o, _| (o.cumulative, percent(o.cumulative)),
    },
    Column {
        name: "kB",
        means: "bytes read and written a token: weights, key-value cache and values",
        value: |o, _| (o.traffic.bytes(), number(o.traffic.bytes() * 1e-3)),
    },
    Column {
        name: "kFLOP",
        means: "floating-point operations a token",
        value: |o, _| (o.traffic.flops, number(o.traffic.flops * 1e-3)),
    },
    Column { name: "GB/s", means: "the bytes over the time", value: |o, _| (o.gbps(), number(o.gbps())) },
    Column {
        name: "GFLOP/s",
        means: "the floating-point operations over the time",
        value: |o, _| (o.gflops(), number(o.gflops())),
    },
    Column {
        name: "of roof",
        means: "the least time that memory and vector units allow, over the time that it takes",
        value: |o, _| (o.share_of_roof, percent(o.share_of_roof)),
    },
    Column {
        name: "wait",
        means: "share of its time in which workers wait for others' parts of it",
        value: |o, _| (waits(o), percent(waits(o))),
    },
    Column {
        name: "slowest",
        means: "the slowest worker's time over the mean; 1.00 is balance",
        value: |o, _| (o.imbalance, format!("{:.2}", o.imbalance)),
    },
    Column {
        name: "allocs",
        means: "calls of the allocator a token",
        value: |o, _| o.allocations.map_or((0.0, "-".to_owned()), |(calls, _)| (calls, number(calls))),
    },
    Column {
        name: "gain",
        means: "tokens/s more if this operation alone ran at its roof",
        value: |o, phase| (o.gain, change(o.gain * phase.profiled_seconds)),
    },
    Column {
        name: "ratio",
        means: "the time over that of the baseline",
        value: |o, _| match o.baseline {
            Some(before) => {
                let ratio = o.seconds / before.max(f64::MIN_POSITIVE);
                (ratio, format!("{ratio:.3}"))
            }
            None => (0.0, "new".to_owned()),
        },
    },
];

/// The columns that are words.
const WORDS: [(&str, &str); 3] = [
    ("bound by", "memory: bytes; compute: arithmetic; latency: too short for either; waiting: other workers"),
    ("pass", "forward, backward, clip or update"),
    ("shape", "rows x columns of what goes in and comes out"),
];

fn waits(o: &Operation) -> f64 {
    o.wait / o.seconds.max(f64::MIN_POSITIVE)
}

/// The columns of numbers that this phase has.
fn columns(phase: &Phase) -> impl Iterator<Item = &'static Column> {
    let based = phase.operations.iter().any(|o| o.baseline.is_some());
    COLUMNS.iter().filter(move |column| based || column.name != "ratio")
}

/// The columns of words that it has.
fn words(phase: &Phase) -> impl Iterator<Item = (&'static str, &'static str)> {
    let passes = has_passes(phase);
    WORDS.into_iter().filter(move |(name, _)| passes || *name != "pass")
}

/// Whether it does more than go forward.
fn has_passes(phase: &Phase) -> bool {
    phase.operations.iter().any(|o| o.pass != "forward")
}

fn heading(name: &str, means: &str, class: &str) -> String {
    format!(
        "<th class=\"{class}\" scope=\"col\" title=\"{}\"><button type=\"button\">{name}</button></th>",
        escaped(means)
    )
}

/// The table, and what its columns mean.
pub(super) fn render(phase: &Phase) -> String {
    let mut text = String::from(
        "<p class=\"tools\"><button type=\"button\" class=\"unfold\" aria-expanded=\"false\">unfold all layers</button> \
         A click on a heading sorts, a second one turns the order; ▸ unfolds an operation's layers.</p>\n\
         <div class=\"scroll\"><table class=\"operations\"><thead><tr>",
    );
    text += &heading("#", "rank by gain", "number").replace("<th ", "<th aria-sort=\"ascending\" ");
    text += &heading("operation", "what computes, and where in the model", "word");
    columns(phase).for_each(|column| text += &heading(column.name, column.means, "number"));
    words(phase).for_each(|(name, means)| text += &heading(name, means, "word"));
    text += "</tr></thead>\n";
    phase.operations.iter().for_each(|o| text += &operation(o, phase));
    text += "</table></div>\n<details><summary>What the columns mean</summary><dl>";
    let all = columns(phase).map(|column| (column.name, column.means)).chain(words(phase));
    all.for_each(|(name, means)| {
        let _ = write!(text, "<dt>{name}</dt><dd>{}</dd>", escaped(means));
    });
    text + "</dl></details>\n"
}

/// An operation's row, and one for each of its layers.
fn operation(o: &Operation, phase: &Phase) -> String {
    let fold = if o.members.len() > 1 {
        format!(
            "<button type=\"button\" class=\"fold\" aria-expanded=\"false\" aria-label=\"{} layers\">▸</button>",
            o.members.len()
        )
    } else {
        "<span class=\"fold\"></span>".to_owned()
    };
    let mut text = format!(
        "<tbody><tr class=\"row\"><td class=\"number\" data-v=\"{}\">{}</td><td class=\"word name\">{fold}\
         <i style=\"background:{}\"></i>{} <span class=\"path\">@ {}</span></td>",
        o.rank,
        o.rank,
        color(o.rank),
        escaped(&o.kernel),
        escaped(&o.path)
    );
    for column in columns(phase) {
        let (sort, shown) = (column.value)(o, phase);
        let _ = write!(text, "<td class=\"number\" data-v=\"{sort:e}\">{shown}</td>");
    }
    let bound = o.bound.name();
    let _ = write!(text, "<td class=\"word\"><b class=\"bound {bound}\">{bound}</b></td>");
    if has_passes(phase) {
        let _ = write!(text, "<td class=\"word\">{}</td>", escaped(&o.pass));
    }
    let _ = write!(text, "<td class=\"word\">{}</td></tr>", escaped(&o.shape));
    if o.members.len() > 1 {
        o.members.iter().for_each(|(path, seconds)| text += &member(path, *seconds, phase));
    }
    text + "</tbody>\n"
}

/// A layer: its place and its time.
fn member(path: &str, seconds: f64, phase: &Phase) -> String {
    let mut text = format!("<tr class=\"member\" hidden><td></td><td class=\"word name\">{}</td>", escaped(path));
    for column in columns(phase) {
        let shown = match column.name {
            "µs" => number(seconds * 1e6),
            "time" => percent(seconds / phase.profiled_seconds),
            _ => String::new(),
        };
        let _ = write!(text, "<td class=\"number\">{shown}</td>");
    }
    text + &"<td></td>".repeat(words(phase).count()) + "</tr>"
}
