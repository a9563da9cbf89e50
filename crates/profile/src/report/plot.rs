//! Pictures as inline SVG: roofline, arena, timeline, latency.

use std::fmt::Write as _;

use super::units::{bytes, number, percent, seconds};
use super::{Arena, Latency, Operation, Phase, RoofTable};

/// Width and height of a picture.
const W: f64 = 960.0;
const H: f64 = 380.0;
/// Left and bottom margin.
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 40.0;
/// Shapes in a picture at most: browsers slow down beyond.
const MOST: usize = 4000;

/// Text that may stand in HTML and in attributes.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn svg(height: f64, body: &str) -> String {
    format!("<svg viewBox=\"0 0 {W} {height}\" role=\"img\">{body}</svg>\n")
}

/// A hue for a name, the same in all pictures.
fn hue(name: &str) -> u32 {
    name.bytes().fold(7_u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b))) % 360
}

/// One dot an operation: arithmetic intensity against GFLOP/s, both logarithmic, area as time.
pub(super) fn roofline(phase: &Phase, roofs: &RoofTable) -> String {
    let memory = roofs.levels.last().map_or(1.0, |level| level.read);
    let near = roofs.levels.first().map_or(1.0, |level| level.best);
    let (x0, x1) = (0.02_f64, 400.0_f64);
    let (y0, y1) = (0.02_f64.min(roofs.f32_gflops / 10.0), 2.0 * roofs.f32_gflops);
    let along = |v: f64, a: f64, b: f64| (v.clamp(a, b) / a).ln() / (b / a).ln();
    let x = |v: f64| LEFT + along(v, x0, x1) * (W - LEFT - 20.0);
    let y = |v: f64| (H - BOTTOM) - along(v, y0, y1) * (H - BOTTOM - 15.0);
    let mut body = String::new();
    for (rate, name) in [(near, "fastest cache"), (memory, "memory")] {
        let knee = roofs.f32_gflops / rate;
        let _ = write!(
            body,
            "<path class=\"roof\" d=\"M{:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}\"><title>{name}: {} GB/s, {} GFLOP/s</title></path>",
            x(x0),
            y(x0 * rate),
            x(knee),
            y(roofs.f32_gflops),
            x(x1),
            y(roofs.f32_gflops),
            number(rate),
            number(roofs.f32_gflops)
        );
    }
    for decade in [0.1, 1.0, 10.0, 100.0] {
        let _ = write!(body, "<text x=\"{:.1}\" y=\"{}\">{decade}</text>", x(decade), H - BOTTOM + 16.0);
        let _ = write!(body, "<text x=\"8\" y=\"{:.1}\">{decade}</text>", y(decade) + 4.0);
    }
    let _ = write!(body, "<text x=\"{}\" y=\"{}\">FLOP a byte</text>", W / 2.0, H - 8.0);
    let _ = write!(body, "<text x=\"8\" y=\"12\">GFLOP/s</text>");
    for o in &phase.operations {
        body += &dot(o, x(o.traffic.flops / o.traffic.bytes().max(1.0)), y(o.gflops()));
    }
    svg(H, &body)
}

fn dot(o: &Operation, x: f64, y: f64) -> String {
    let radius = (60.0 * o.share.max(0.0).sqrt()).max(2.0);
    format!(
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"hsl({} 60% 55% / .55)\"><title>{} @ {}: {} of the time, {} of its roof</title></circle>",
        hue(&o.operation),
        escaped(&o.kernel),
        escaped(&o.path),
        percent(o.share),
        percent(o.share_of_roof)
    )
}

/// Values in the arena: time to the right, addresses upwards.
pub(super) fn arena(arena: &Arena) -> String {
    let x = |node: usize| LEFT + node as f64 / arena.nodes.max(1) as f64 * (W - LEFT - 10.0);
    let y = |byte: u64| (H - BOTTOM) - byte as f64 / arena.bytes.max(1) as f64 * (H - BOTTOM - 15.0);
    let mut body = String::new();
    for value in arena.values.iter().take(MOST) {
        let _ = write!(
            body,
            "<rect x=\"{:.1}\" y=\"{:.2}\" width=\"{:.1}\" height=\"{:.2}\" fill=\"hsl({} 55% 60% / .8)\"><title>{}: {} at {}, operations {} to {}</title></rect>",
            x(value.from),
            y(value.offset + value.bytes),
            (x(value.to) - x(value.from)).max(0.5),
            (y(value.offset) - y(value.offset + value.bytes)).max(0.3),
            hue(&value.path),
            escaped(&value.path),
            bytes(value.bytes as f64),
            value.offset,
            value.from,
            value.to.saturating_sub(1)
        );
    }
    let _ = write!(body, "<text x=\"8\" y=\"12\">{}</text>", bytes(arena.bytes as f64));
    let _ = write!(body, "<text x=\"{}\" y=\"{}\">operations in order of time</text>", W / 2.0, H - 12.0);
    svg(H, &body)
}

/// One sample, a lane a worker.
pub(super) fn timeline(phase: &Phase) -> String {
    let end = phase.timeline.iter().map(|s| s.begin + s.seconds).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let lanes = phase.timeline.iter().map(|s| s.worker + 1).max().unwrap_or(1);
    let (lane, height) = (34.0, 34.0 * lanes as f64 + 30.0);
    let x = |t: f64| LEFT + t / end * (W - LEFT - 10.0);
    let mut body = String::new();
    for worker in 0..lanes {
        let _ = write!(body, "<text x=\"4\" y=\"{:.1}\">worker {worker}</text>", worker as f64 * lane + 20.0);
    }
    for slice in phase.timeline.iter().take(MOST) {
        let operation = slice.operation.and_then(|i| phase.operations.get(i));
        let fill = operation.map_or_else(|| "#8884".to_owned(), |o| format!("hsl({} 60% 55%)", hue(&o.operation)));
        let name = operation.map_or("waiting", |o| &o.operation);
        let _ = write!(
            body,
            "<rect x=\"{:.2}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{}\" fill=\"{fill}\"><title>{name} {}: {}</title></rect>",
            x(slice.begin),
            slice.worker as f64 * lane + 2.0,
            (x(slice.begin + slice.seconds) - x(slice.begin)).max(0.1),
            lane - 6.0,
            escaped(&slice.path),
            seconds(slice.seconds)
        );
    }
    let _ = write!(body, "<text x=\"{}\" y=\"{:.1}\">{}</text>", W - 90.0, height - 8.0, seconds(end));
    svg(height, &body)
}

/// How many samples took how long.
pub(super) fn histogram(latency: &Latency) -> String {
    const BARS: usize = 60;
    let (low, high) = (latency.all.iter().copied().fold(f64::MAX, f64::min), latency.p99.max(latency.p50 * 1.05));
    let mut counts = [0_usize; BARS];
    for sample in &latency.all {
        let at = (sample - low) / (high - low).max(f64::MIN_POSITIVE) * BARS as f64;
        counts[(at.max(0.0) as usize).min(BARS - 1)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let width = (W - LEFT - 10.0) / BARS as f64;
    let mut body = String::new();
    for (i, count) in counts.iter().enumerate() {
        let tall = *count as f64 / most * 130.0;
        let _ = write!(
            body,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"#58a\"><title>{count} of {}</title></rect>",
            LEFT + i as f64 * width,
            145.0 - tall,
            width - 1.0,
            latency.all.len()
        );
    }
    let _ = write!(body, "<text x=\"{LEFT}\" y=\"165\">{}</text>", seconds(low));
    let _ = write!(body, "<text x=\"{}\" y=\"165\">{} and more</text>", W - 150.0, seconds(high));
    svg(175.0, &body)
}
