//! Plots as inline SVG: roofline, arena, timeline, latency.

use std::fmt::Write as _;

use super::escape::html as escaped;
use super::phase::{Arena, Latency};
use super::units::{bytes, number, percent, seconds};
use super::{Operation, Phase, RoofTable};
use crate::summary::folded;

/// Width and height of a plot.
const W: f64 = 1100.0;
const H: f64 = 420.0;
/// Margins around the axes.
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 18.0;
const RIGHT: f64 = 16.0;
/// Width of a letter and height of a line of text.
const LETTER: f64 = 7.0;
const LINE: f64 = 14.0;
/// The most shapes of a plot: browsers slow down with more.
const MOST: usize = 6000;

fn svg(name: &str, height: f64, body: &str) -> String {
    format!("<svg class=\"{name}\" viewBox=\"0 0 {W} {height}\" role=\"img\" aria-label=\"{name}\">{body}</svg>\n")
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(words))
}

/// The colour of the operation with this rank, from 1. Neighbours in rank have different hues.
pub(super) fn color(rank: usize) -> String {
    let lightness = [50, 62, 42][rank % 3];
    format!("hsl({:.0} 62% {lightness}%)", (205.0 + rank as f64 * 137.508) % 360.0)
}

/// Round numbers from 0 to `end`, four to ten of them after the 0.
fn ticks(end: f64) -> Vec<f64> {
    if !(end.is_finite() && end > 0.0) {
        return vec![];
    }
    let ten = 10_f64.powf((end / 4.0).log10().floor());
    let step = [5.0, 2.0, 1.0].map(|n| n * ten).into_iter().find(|step| *step <= end / 4.0).unwrap_or(ten);
    (0..).map(|i| f64::from(i) * step).take_while(|at| *at <= end * 1.0001).collect()
}

/// A logarithmic axis.
struct Axis {
    /// The least and the largest value.
    values: (f64, f64),
    /// The positions at which these are drawn.
    places: (f64, f64),
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        let along = (value.clamp(low, high) / low).ln() / (high / low).ln();
        self.places.0 + along * (self.places.1 - self.places.0)
    }

    fn decades(&self) -> impl Iterator<Item = f64> + '_ {
        let first = self.values.0.log10().ceil() as i32;
        (first..).map(|n| 10_f64.powi(n)).take_while(|value| *value <= self.values.1)
    }
}

/// The roofline: a dot for each operation at its arithmetic intensity and its GFLOP/s, both logarithmic; the area is
/// its time.
pub(super) fn roofline(phase: &Phase, roofs: &RoofTable) -> String {
    let drawn: Vec<&Operation> =
        phase.operations.iter().filter(|o| o.traffic.flops > 0.0 && o.time.seconds > 0.0).collect();
    let intensity = |o: &Operation| o.traffic.flops / o.traffic.bytes().max(1.0);
    let least = |of: &dyn Fn(&Operation) -> f64, floor: f64| drawn.iter().map(|o| of(o)).fold(floor, f64::min);
    let peak = roofs.f32_gflops;
    let slowest = roofs.levels.iter().map(|level| level.read).fold(peak, f64::min);
    let far = drawn.iter().map(|o| intensity(o)).fold(4.0 * peak / slowest, f64::max);
    let x = Axis { values: (least(&intensity, 0.1).max(1e-3) / 2.0, 2.0 * far), places: (LEFT, W - RIGHT) };
    let y = Axis { values: (least(&Operation::gflops, 1.0).max(1e-3) / 2.0, 2.0 * peak), places: (H - BOTTOM, TOP) };
    let mut body = grid(&x, &y);
    body += &roof_lines(&x, &y, roofs);
    let mut taken: Vec<[f64; 4]> = vec![];
    for o in &drawn {
        body += &dot(o, x.at(intensity(o)), y.at(o.gflops()));
    }
    for o in drawn.iter().filter(|o| o.time.share > 0.003) {
        body += &rank(o, (x.at(intensity(o)), y.at(o.gflops())), &mut taken);
    }
    svg("roofline", H, &body)
}

fn grid(x: &Axis, y: &Axis) -> String {
    let mut body = String::new();
    for decade in x.decades() {
        let at = x.at(decade);
        let _ = write!(body, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{:.1}\"/>", H - BOTTOM);
        body += &text(at, H - BOTTOM + 16.0, "middle", &decade.to_string());
    }
    for decade in y.decades() {
        let at = y.at(decade);
        let _ = write!(body, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/>", W - RIGHT);
        body += &text(LEFT - 6.0, at + 4.0, "end", &decade.to_string());
    }
    body += &text((W + LEFT) / 2.0, H - 8.0, "middle", "arithmetic intensity, FLOP a byte");
    body + &text(4.0, 12.0, "start", "GFLOP/s")
}

/// The roofs: a slope for each level of memory, and a horizontal line for the peak of arithmetic.
fn roof_lines(x: &Axis, y: &Axis, roofs: &RoofTable) -> String {
    let peak = roofs.f32_gflops;
    let (first, last) = (0, roofs.levels.len().saturating_sub(1));
    let mut body = String::new();
    for (i, level) in roofs.levels.iter().enumerate() {
        let knee = (peak / level.read).max(x.values.0);
        // A slope begins where it crosses the left or the lower edge of the plot.
        let begin = x.values.0.max(y.values.0 / level.read).min(knee);
        let outer = i == first || i == last;
        let class = if outer { "roof" } else { "roof inner" };
        let _ = write!(
            body,
            "<path class=\"{class}\" d=\"M{:.1} {:.1}L{:.1} {:.1}H{:.1}\"><title>{}: {} GB/s read, {} \
             GFLOP/s</title></path>",
            x.at(begin),
            y.at(begin * level.read),
            x.at(knee),
            y.at(peak),
            x.at(x.values.1),
            escaped(&level.name),
            number(level.read),
            number(peak)
        );
        if outer {
            let (at, below) = ((begin * knee).sqrt(), i == last);
            let words = format!("{} {} GB/s", level.name, number(level.read));
            let (dx, dy, anchor) = if below { (8.0, 16.0, "start") } else { (-8.0, -8.0, "end") };
            body += &text(x.at(at) + dx, y.at(at * level.read) + dy, anchor, &words);
        }
    }
    let knee = roofs.levels.first().map_or(1.0, |level| peak / level.read);
    body + &text(x.at(knee) + 10.0, y.at(peak) - 6.0, "start", &format!("f32 {} GFLOP/s", number(peak)))
}

fn dot(o: &Operation, x: f64, y: f64) -> String {
    let radius = (48.0 * o.time.share.max(0.0).sqrt()).max(2.5);
    format!(
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{}\"><title>#{} {} ({}): {} a token, {} of the \
         time, {} of its roof</title></circle>",
        color(o.rank),
        o.rank,
        escaped(&o.place()),
        o.id.pass.name(),
        seconds(o.time.seconds),
        percent(o.time.share),
        percent(o.roof.share)
    )
}

/// The operation's rank at the free position nearest to its dot, with a line to the dot if it is not beside it.
fn rank(o: &Operation, (x, y): (f64, f64), taken: &mut Vec<[f64; 4]>) -> String {
    let words = o.rank.to_string();
    let (w, h) = (LETTER * words.len() as f64 + 4.0, LINE);
    let free = |[left, top]: [f64; 2], taken: &[[f64; 4]]| {
        let inside = left > LEFT && left + w < W && top > 0.0 && top + h < H - BOTTOM;
        inside && taken.iter().all(|[l, t, r, b]| left >= *r || left + w <= *l || top >= *b || top + h <= *t)
    };
    let around = (0..9).flat_map(|ring| {
        let away = 17.0 * f64::from(ring);
        (0..12).map(move |turn| {
            let angle = f64::from(turn) * std::f64::consts::TAU / 12.0;
            [x + away * angle.cos() - w / 2.0, y - away * angle.sin() - h / 2.0]
        })
    });
    let Some([left, top]) = around.into_iter().find(|place| free(*place, taken)) else { return String::new() };
    taken.push([left, top, left + w, top + h]);
    let (cx, cy) = (left + w / 2.0, top + h / 2.0);
    let leader = if (cx - x).hypot(cy - y) > 4.0 {
        format!("<path class=\"leader\" d=\"M{x:.1} {y:.1}L{cx:.1} {cy:.1}\"/>")
    } else {
        String::new()
    };
    format!(
        "{leader}<rect class=\"label\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"3\"/>{}",
        text(cx, cy + 4.0, "middle", &words)
    )
}

/// The arena: a rectangle for each value, time to the right, addresses upwards.
pub(super) fn arena(arena: &Arena, phase: &Phase) -> String {
    let x = |node: usize| LEFT + node as f64 / arena.nodes.max(1) as f64 * (W - LEFT - RIGHT);
    let y = |byte: f64| (H - BOTTOM) - byte / (arena.bytes.max(1) as f64) * (H - BOTTOM - TOP);
    let mut body = String::new();
    for at in ticks(arena.bytes as f64) {
        let _ = write!(body, "<path class=\"grid\" d=\"M{LEFT} {:.1}H{:.1}\"/>", y(at), W - RIGHT);
        body += &text(LEFT - 6.0, y(at) + 4.0, "end", &bytes(at));
    }
    for at in ticks(arena.nodes as f64).into_iter().map(|at| at as usize) {
        body += &text(x(at), H - BOTTOM + 16.0, "middle", &at.to_string());
    }
    for value in arena.values.iter().take(MOST) {
        let (top, low) = (y((value.offset + value.bytes) as f64), y(value.offset as f64));
        let maker =
            phase.operations.iter().find(|o| folded(&value.path) == format!("{} {}", o.id.path, o.id.operation));
        let _ = write!(
            body,
            "<rect class=\"value\" x=\"{:.1}\" y=\"{top:.2}\" width=\"{:.1}\" height=\"{:.2}\" fill=\"{}\"><title>{}: \
             {} from byte {}, operations {} to {}</title></rect>",
            x(value.from),
            (x(value.to) - x(value.from)).max(0.5),
            (low - top).max(0.3),
            maker.map_or_else(|| "#888".to_owned(), |o| color(o.rank)),
            escaped(&value.path),
            bytes(value.bytes as f64),
            value.offset,
            value.from,
            value.to.saturating_sub(1)
        );
    }
    let top = arena.values.iter().map(|value| value.offset + value.bytes).max().unwrap_or(0);
    if top < arena.bytes {
        let (high, low) = (y(arena.bytes as f64), y(top as f64));
        let _ = write!(
            body,
            "<rect class=\"scratch\" x=\"{LEFT}\" y=\"{high:.2}\" width=\"{:.1}\" height=\"{:.2}\"><title>scratch of \
             the kernels: {}</title></rect>",
            W - LEFT - RIGHT,
            low - high,
            bytes((arena.bytes - top) as f64)
        );
        if low - high > LINE {
            let words = format!("scratch of the kernels, {}", bytes((arena.bytes - top) as f64));
            body += &text((W + LEFT) / 2.0, (low + high) / 2.0 + 4.0, "middle", &words);
        }
    }
    body += &text((W + LEFT) / 2.0, H - 8.0, "middle", "the plan's operations, in the order in which they run");
    svg("arena", H, &body)
}

/// The timeline of one sample, a lane for each worker. The plot can be stretched to any width, so its labels are
/// outside of it.
pub(super) fn timeline(phase: &Phase) -> String {
    const LANE: f64 = 30.0;
    let end = phase.timeline.iter().map(|s| s.begin + s.seconds).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let lanes = phase.timeline.iter().map(|s| s.worker + 1).max().unwrap_or(1);
    let x = |t: f64| t / end * W;
    // If there are very many slices, those too thin to be seen at the largest zoom are left out.
    let thin = if phase.timeline.len() > MOST { end / W / 20.0 } else { 0.0 };
    let mut body = String::new();
    for slice in phase.timeline.iter().filter(|slice| slice.seconds >= thin).take(2 * MOST) {
        let operation = slice.operation.and_then(|i| phase.operations.get(i));
        let fill = operation.map_or_else(|| "#8884".to_owned(), |o| color(o.rank));
        let name = operation.map_or_else(|| "waiting".to_owned(), |o| format!("#{} {} @ ", o.rank, o.kind.kernel));
        let _ = write!(
            body,
            "<rect x=\"{:.3}\" y=\"{:.1}\" width=\"{:.3}\" height=\"{}\" fill=\"{fill}\"><title>{}{}: {} at \
             {}</title></rect>",
            x(slice.begin),
            slice.worker as f64 * LANE + 1.0,
            x(slice.seconds).max(0.02),
            LANE - 2.0,
            escaped(&name),
            escaped(&slice.path),
            seconds(slice.seconds),
            seconds(slice.begin)
        );
    }
    let height = LANE * lanes as f64;
    let names: String = (0..lanes).map(|worker| format!("<div>worker {worker}</div>")).collect();
    let marks: String = ticks(end)
        .into_iter()
        // A label at the end would be cut off.
        .filter(|at| *at < 0.95 * end)
        .map(|at| format!("<span style=\"left:{:.3}%\">{}</span>", 100.0 * at / end, seconds(at)))
        .collect();
    format!(
        "<div class=\"timeline\"><div class=\"lanes\">{names}</div><div class=\"scroll\"><div class=\"wide\">\
         <svg viewBox=\"0 0 {W} {height}\" preserveAspectRatio=\"none\" style=\"height:{height}px\" \
         role=\"img\" aria-label=\"timeline\">{body}</svg>\
         <div class=\"ticks\">{marks}</div></div></div></div>\n"
    )
}

/// The histogram of latency.
pub(super) fn histogram(latency: &Latency) -> String {
    const BARS: usize = 80;
    const HEIGHT: f64 = 220.0;
    let low = latency.all.iter().copied().fold(f64::MAX, f64::min).min(latency.p50);
    let high = (1.1 * latency.p99).max(low * 1.02).max(f64::MIN_POSITIVE);
    let mut counts = [0_usize; BARS];
    for sample in &latency.all {
        let at = (sample - low) / (high - low) * BARS as f64;
        counts[(at.max(0.0) as usize).min(BARS - 1)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let x = |t: f64| LEFT + (t - low) / (high - low) * (W - LEFT - RIGHT);
    let y = |n: f64| (HEIGHT - BOTTOM) - n / most * (HEIGHT - BOTTOM - 2.0 * TOP);
    let width = (W - LEFT - RIGHT) / BARS as f64;
    let mut body = String::new();
    for n in ticks(most).into_iter().filter(|n| n.fract() == 0.0) {
        let _ = write!(body, "<path class=\"grid\" d=\"M{LEFT} {:.1}H{:.1}\"/>", y(n), W - RIGHT);
        body += &text(LEFT - 6.0, y(n) + 4.0, "end", &n.to_string());
    }
    for (i, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let from = low + (high - low) * i as f64 / BARS as f64;
        let more = if i + 1 == BARS { " and more" } else { "" };
        let _ = write!(
            body,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{count} of {} \
             samples: {}{more}</title></rect>",
            LEFT + i as f64 * width,
            y(*count as f64),
            width - 1.0,
            HEIGHT - BOTTOM - y(*count as f64),
            latency.all.len(),
            seconds(from)
        );
    }
    for i in 0..=5 {
        let at = low + (high - low) * f64::from(i) / 5.0;
        let anchor = if i == 5 { "end" } else { "middle" };
        let more = if i == 5 { " and more" } else { "" };
        body += &text(x(at), HEIGHT - BOTTOM + 16.0, anchor, &format!("{}{more}", seconds(at)));
    }
    for (i, (name, at)) in [("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99)].iter().enumerate() {
        let _ = write!(body, "<path class=\"mark\" d=\"M{:.1} 4V{:.1}\"/>", x(*at), HEIGHT - BOTTOM);
        body += &text(x(*at) + 4.0, 14.0 + 13.0 * i as f64, "start", name);
    }
    body += &text((W + LEFT) / 2.0, HEIGHT - 8.0, "middle", "time of a sample; upwards: samples");
    svg("latency", HEIGHT, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_end() {
        assert_eq!(ticks(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(0.0), Vec::<f64>::new());
        for end in [0.0013, 0.99, 7.0, 43.0, 1e9] {
            let found = ticks(end);
            assert!((5..=10).contains(&found.len()) && found[found.len() - 1] <= end * 1.001, "{end}: {found:?}");
        }
    }

    #[test]
    fn decades_lie_on_their_axis() {
        let axis = Axis { values: (0.05, 400.0), places: (0.0, 100.0) };
        assert_eq!(axis.decades().count(), 4);
        assert!((axis.at(0.05), axis.at(400.0)) == (0.0, 100.0) && axis.at(1e9) == 100.0);
    }
}
