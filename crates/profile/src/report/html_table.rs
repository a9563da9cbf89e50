//! The table of operations in HTML. Each operation is a `tbody`, so that the rows of its layers move with it when the
//! table is sorted.

use std::fmt::Write as _;

use super::escape::html as escaped;
use super::plot::color;
use super::units::{change, count, number, percent};
use super::{Operation, Phase};

/// A column of numbers.
struct Column {
    /// Heading.
    name: &'static str,
    /// What it means.
    means: &'static str,
    /// The number to sort by and the text to show.
    value: fn(&Operation, &Phase) -> (f64, String),
    /// The text in the row of a single layer, from the layer's seconds.
    of_layer: Option<fn(f64, &Phase) -> String>,
}

impl Column {
    const fn new(name: &'static str, means: &'static str, value: fn(&Operation, &Phase) -> (f64, String)) -> Self {
        Self { name, means, value, of_layer: None }
    }
}

const COLUMNS: [Column; 13] = [
    Column::new("calls", "calls a sample", |o, phase| {
        (o.calls * phase.samples.tokens, count((o.calls * phase.samples.tokens).round()))
    }),
    Column {
        of_layer: Some(|seconds, _| number(seconds * 1e6)),
        ..Column::new("µs", "microseconds a token, waiting included", |o, _| {
            (o.time.seconds, number(o.time.seconds * 1e6))
        })
    },
    Column {
        of_layer: Some(|seconds, phase| percent(phase.share_of_time(seconds))),
        ..Column::new("time", "share of the phase's time", |o, _| (o.time.share, percent(o.time.share)))
    },
    Column::new("sum", "share of the time of this operation and of all that rank before it", |o, _| {
        (o.time.cumulative, percent(o.time.cumulative))
    }),
    Column::new("kB", "bytes read and written a token: weights, key-value cache and values", |o, _| {
        (o.traffic.bytes(), number(o.traffic.bytes() * 1e-3))
    }),
    Column::new("kFLOP", "floating-point operations a token", |o, _| (o.traffic.flops, number(o.traffic.flops * 1e-3))),
    Column::new("GB/s", "the bytes over the time", |o, _| (o.gbps(), number(o.gbps()))),
    Column::new("GFLOP/s", "the floating-point operations over the time", |o, _| (o.gflops(), number(o.gflops()))),
    Column::new("of roof", "the least time that memory and vector units allow, over the time that it takes", |o, _| {
        (o.roof.share, percent(o.roof.share))
    }),
    Column::new("wait", "share of its time in which workers wait for others' parts of it", |o, _| {
        (o.time.waiting_share(), percent(o.time.waiting_share()))
    }),
    Column::new("slowest", "the slowest worker's time over the mean; 1.00 is balance", |o, _| {
        (o.time.imbalance, format!("{:.2}", o.time.imbalance))
    }),
    Column::new("allocs", "calls of the allocator a token", |o, _| {
        o.allocations.map_or((0.0, "-".to_owned()), |(calls, _)| (calls, number(calls)))
    }),
    Column::new("gain", "tokens/s more if this operation alone ran at its roof", |o, phase| {
        (o.roof.gain, change(o.roof.gain * phase.rate.profiled_seconds))
    }),
];

/// The column of a report with a baseline.
const RATIO: Column = Column::new("ratio", "the time over that of the baseline", |o, _| {
    o.time.ratio().map_or((0.0, "new".to_owned()), |ratio| (ratio, format!("{ratio:.3}")))
});

/// Headings of the columns of words and what they mean.
const BOUND: (&str, &str) =
    ("bound by", "memory: bytes; compute: arithmetic; latency: too short for either; waiting: other workers");
const PASS: (&str, &str) = ("pass", "forward, backward, clip or update");
const SHAPE: (&str, &str) = ("shape", "rows x columns of what goes in and comes out");

/// The columns of numbers of a phase.
fn columns(phase: &Phase) -> impl Iterator<Item = &'static Column> {
    COLUMNS.iter().chain(phase.has_baseline().then_some(&RATIO))
}

/// The columns of words of a phase.
fn words(phase: &Phase) -> impl Iterator<Item = (&'static str, &'static str)> {
    let pass = phase.has_passes().then_some(PASS);
    std::iter::once(BOUND).chain(pass).chain(std::iter::once(SHAPE))
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
        "<p class=\"tools\"><button type=\"button\" class=\"unfold\" aria-expanded=\"false\">unfold all \
         layers</button> \
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
    let fold = if o.time.members.len() > 1 {
        format!(
            "<button type=\"button\" class=\"fold\" aria-expanded=\"false\" aria-label=\"{} layers\">▸</button>",
            o.time.members.len()
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
        escaped(&o.kind.kernel),
        escaped(&o.id.path)
    );
    for column in columns(phase) {
        let (sort, shown) = (column.value)(o, phase);
        let _ = write!(text, "<td class=\"number\" data-v=\"{sort:e}\">{shown}</td>");
    }
    let bound = o.roof.bound.name();
    let _ = write!(text, "<td class=\"word\"><b class=\"bound {bound}\">{bound}</b></td>");
    if phase.has_passes() {
        let _ = write!(text, "<td class=\"word\">{}</td>", o.id.pass.name());
    }
    let _ = write!(text, "<td class=\"word\">{}</td></tr>", escaped(&o.kind.shape));
    if o.time.members.len() > 1 {
        o.time.members.iter().for_each(|(path, seconds)| text += &member(path, *seconds, phase));
    }
    text + "</tbody>\n"
}

/// The row of a layer: its path and its time.
fn member(path: &str, seconds: f64, phase: &Phase) -> String {
    let mut text = format!("<tr class=\"member\" hidden><td></td><td class=\"word name\">{}</td>", escaped(path));
    for column in columns(phase) {
        let shown = column.of_layer.map_or_else(String::new, |text| text(seconds, phase));
        let _ = write!(text, "<td class=\"number\">{shown}</td>");
    }
    text + &"<td></td>".repeat(words(phase).count()) + "</tr>"
}
