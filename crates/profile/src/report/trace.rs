//! Chrome's trace events, which Perfetto opens: a process a phase, a thread a worker, a slice a step, with waiting as slices of its own.

use serde_json::{Value, json};

use super::join::Measurement;
use super::{Phase, Slice};

/// Slices of a phase at most, so that a trace stays small enough for a browser.
const MOST: usize = 30_000;

/// A trace that grows by phases.
#[derive(Debug, Default)]
pub struct Trace {
    events: Vec<Value>,
    processes: usize,
}

impl Trace {
    /// Adds the samples of `measured`, of which `phase` was made: all that nothing disturbed, or evenly chosen ones where those are too
    /// many.
    pub fn add(&mut self, measured: &Measurement<'_>, phase: &Phase) {
        self.processes += 1;
        let process = self.processes;
        let kept = Measurement::quiet(&measured.on);
        let of_one = kept.first().map_or(1, |i| measured.slices(*i, &phase.operations).len().max(1));
        let every = (kept.len() * of_one).div_ceil(MOST).max(1);
        let name = |what: &str, worker: usize, name: String| json!({ "ph": "M", "name": what, "pid": process, "tid": worker, "args": { "name": name } });
        self.events.push(name("process_name", 0, phase.name.clone()));
        let workers = measured.parts.iter().map(|part| part.plan.threads()).max().unwrap_or(1);
        self.events.extend((0..workers).map(|w| name("thread_name", w, format!("worker {w}"))));
        let mut begin = 0.0;
        for sample in kept.iter().step_by(every) {
            let slices = measured.slices(*sample, &phase.operations);
            let length = slices.iter().map(|s| s.begin + s.seconds).fold(0.0, f64::max);
            self.events.extend(slices.iter().map(|slice| event(process, begin, *sample, slice, phase)));
            begin += length * 1.05;
        }
    }

    /// The trace as a document.
    pub fn render(&self) -> String {
        json!({ "displayTimeUnit": "ns", "traceEvents": self.events }).to_string()
    }
}

/// A slice as a complete event: times in microseconds.
fn event(process: usize, begin: f64, sample: usize, slice: &Slice, phase: &Phase) -> Value {
    let operation = slice.operation.and_then(|i| phase.operations.get(i));
    let name = operation.map_or_else(|| "waiting".to_owned(), |o| o.operation.clone());
    let category = operation.map_or("waiting", |o| &o.pass);
    json!({
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": process,
        "tid": slice.worker,
        "ts": (begin + slice.begin) * 1e6,
        "dur": slice.seconds * 1e6,
        "args": { "path": slice.path, "sample": sample },
    })
}
