//! Chrome's trace events, which Perfetto opens: a process for each phase, a thread for each worker, a slice for each
//! step and each wait.

use std::fmt::Write as _;

use super::measurement::Measurement;
use super::phase::{Phase, Slice};

/// The most slices of a phase: a trace must be small enough for a browser.
const MOST: usize = 50_000;
/// The fewest samples of a phase, even if these have more slices.
const LEAST: usize = 16;

/// A trace, to which phases are added.
#[derive(Debug, Default)]
pub struct Trace {
    /// Events, each a line of JSON.
    events: Vec<String>,
    processes: usize,
}

impl Trace {
    /// Adds the undisturbed samples of `measured`, from which `phase` was made. If these are too many, adds some of
    /// them, chosen so that the mean of each operation is near that of all.
    pub fn add(&mut self, measured: &Measurement<'_>, phase: &Phase) {
        self.processes += 1;
        let process = self.processes;
        let quiet = Measurement::quiet(&measured.samples.on);
        let of_one = quiet.first().map_or(1, |i| measured.slices(*i, &phase.operations).len().max(1));
        let mut name = |what: &str, worker: usize, name: &str| {
            let name = quoted(name);
            self.events.push(format!(
                r#"{{"ph":"M","name":"{what}","pid":{process},"tid":{},"args":{{"name":{name}}}}}"#,
                thread(worker)
            ));
        };
        name("process_name", 0, phase.kind.name());
        let workers = measured.plans.iter().map(|runs| runs.plan.threads()).max().unwrap_or(1);
        (0..workers).for_each(|w| name("thread_name", w, &format!("worker {w}")));
        let mut begin = 0.0;
        for sample in representative(&measured.work_by_sample(&phase.operations), &quiet, (MOST / of_one).max(LEAST)) {
            let slices = measured.slices(sample, &phase.operations);
            let length = slices.iter().map(|s| s.begin + s.seconds).fold(0.0, f64::max);
            self.events.extend(slices.iter().filter_map(|slice| event(process, begin, sample, slice, phase)));
            begin += length * 1.05;
        }
    }

    /// The trace as a document.
    pub fn render(&self) -> String {
        format!("{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n{}\n]}}\n", self.events.join(",\n"))
    }
}

/// The number of a worker's thread in the trace: not 0, which viewers take for the idle thread of the system.
fn thread(worker: usize) -> usize {
    worker + 1
}

/// `text` as a string of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Chooses at most `most` of the samples `kept`, in order, such that their mean of `work`, `[samples][operations]`, is
/// near the mean of all of `kept`.
///
/// The choice is greedy: the next sample is the one with which the sum of the n chosen samples is nearest to n times
/// the mean, with all operations weighted equally. The error of the mean then falls as 1 / n; with random samples it
/// would fall as 1 / √n.
fn representative(work: &[Vec<f64>], kept: &[usize], most: usize) -> Vec<usize> {
    if kept.len() <= most {
        return kept.to_vec();
    }
    let operations = work.first().map_or(0, Vec::len);
    let mean = |o: usize| kept.iter().map(|i| work[*i][o]).sum::<f64>() / kept.len() as f64;
    let means: Vec<f64> = (0..operations).map(|o| mean(o).max(f64::MIN_POSITIVE)).collect();
    let mut left = kept.to_vec();
    let (mut excess, mut chosen) = (vec![0.0; operations], Vec::with_capacity(most));
    while chosen.len() < most {
        let away = |sample: usize| -> f64 {
            let one = |o: usize| (excess[o] + work[sample][o] / means[o] - 1.0).powi(2);
            (0..operations).map(one).sum()
        };
        let nearest = (0..left.len()).min_by(|a, b| away(left[*a]).total_cmp(&away(left[*b])));
        let Some(sample) = nearest.map(|at| left.swap_remove(at)) else { break };
        for (o, excess) in excess.iter_mut().enumerate() {
            *excess += work[sample][o] / means[o] - 1.0;
        }
        chosen.push(sample);
    }
    chosen.sort_unstable();
    chosen
}

/// A slice as a complete event; none for a slice of less than a nanosecond, which a reader would nest in its neighbour.
///
/// Times are microseconds with one digit more than nanoseconds need. This digit is always 1, so that readers that round
/// and readers that truncate get the same nanoseconds. Otherwise a slice could overlap the next one, which Perfetto
/// would drop.
fn event(process: usize, begin: f64, sample: usize, slice: &Slice, phase: &Phase) -> Option<String> {
    let operation = slice.operation.and_then(|i| phase.operations.get(i));
    let name = quoted(operation.map_or("waiting", |o| &o.id.operation));
    let pass = quoted(operation.map_or("waiting", |o| o.id.pass.name()));
    let nanoseconds = |seconds: f64| (seconds * 1e9).round().max(0.0) as u64;
    let (from, to) = (nanoseconds(begin + slice.begin), nanoseconds(begin + slice.begin + slice.seconds));
    if from == to {
        return None;
    }
    let micros = |ns: u64| format!("{}.{:03}1", ns / 1000, ns % 1000);
    let mut text = format!(
        r#"{{"ph":"X","name":{name},"cat":{pass},"pid":{process},"tid":{},"ts":{},"dur":{},"args":{{"sample":{sample}"#,
        thread(slice.worker),
        micros(from),
        micros(to.saturating_sub(from)),
    );
    if !slice.path.is_empty() {
        let _ = write!(text, r#","path":{}"#, quoted(&slice.path));
    }
    Some(text + "}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_samples_have_the_mean_of_all() {
        let mut state = 7_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1 << 24) as f64
        };
        let work: Vec<Vec<f64>> =
            (0..400).map(|_| (0..6).map(|o| (1.0 + o as f64) * (1.0 + random())).collect()).collect();
        let kept: Vec<usize> = (0..400).filter(|i| i % 7 != 0).collect();
        let chosen = representative(&work, &kept, 40);
        assert_eq!(chosen.len(), 40);
        assert!(chosen.is_sorted_by(|a, b| a < b) && chosen.iter().all(|i| i % 7 != 0), "{chosen:?}");
        let means = |of: &[usize]| -> Vec<f64> {
            (0..6).map(|o| of.iter().map(|i| work[*i][o]).sum::<f64>() / of.len() as f64).collect()
        };
        for (some, all) in means(&chosen).into_iter().zip(means(&kept)) {
            assert!((some / all - 1.0).abs() < 0.005, "{some} {all}");
        }
        assert_eq!(representative(&work, &kept, 1000), kept);
    }
}
