//! From recorded times, costs and roofs to a phase of the report.

use std::ops::Range;

use smallmind_graph::{Batch, Node, Phase as Pass, Plan};
use smallmind_kernels::Format;

use super::{Arena, ArenaValue, Bound, Latency, Operation, Phase, RoofTable, Slice, what_if, words};
use crate::statistics::{mean, median, quantile, spread};
use crate::summary::folded;
use crate::traffic::{Class, Traffic, kernel, shape, traffic, weight_format};
use crate::{Beat, Events, Recorder, RunTimes};

/// Runs of one plan within a sample.
pub struct Part<'a> {
    /// What the plan is for.
    pub name: &'a str,
    /// The plan.
    pub plan: &'a Plan,
    /// What saw its runs; it has kept those of all samples.
    pub recorder: &'a Recorder,
    /// The batches of a sample's runs, in order.
    pub batches: &'a [Batch],
}

/// Samples of an activity, with the profiler and without it in turn.
pub struct Measurement<'a> {
    /// `prefill`, `decode` or `step`.
    pub name: &'a str,
    /// What a sample was, in words.
    pub about: String,
    /// Tokens of a sample.
    pub tokens: f64,
    /// Into how many repeats the samples fall; they divide the number of samples.
    pub repeats: usize,
    /// The plans that ran.
    pub parts: Vec<Part<'a>>,
    /// Seconds of the samples that were recorded, in order.
    pub on: Vec<f64>,
    /// Seconds of those that were not.
    pub off: Vec<f64>,
    /// Calls of the allocator in a sample, where they are counted.
    pub allocations: Option<f64>,
    /// Seconds a token at other depths.
    pub drift: Vec<(usize, f64)>,
    /// Seconds a token with other numbers of threads.
    pub threads: Vec<(usize, f64)>,
    /// Seconds by name, see [`Phase::stages`]: for `prefill` the way to the first token, which is no part of a sample.
    pub stages: Vec<(String, f64)>,
    /// What was counted in a sample.
    pub events: Events,
    /// The machine's speed before each repeat; may be empty.
    pub beats: Vec<Beat>,
}

/// A sample that took so many times the median had to share its CPUs.
const DISTURBED: f64 = 1.5;
/// The share of a repeat's samples below the one that stands for it.
const UNDISTURBED: f64 = 0.1;
/// Samples in a report at most.
const LISTED: usize = 2000;
/// How much of its time an operation waits when waiting is what bounds it.
const WAITING: f64 = 0.5;
/// Below this share of its roof an operation that is short is bound by its beginning and end.
const FAR: f64 = 0.35;
/// A call is short when it takes no longer than so many barriers.
const SHORT_BARRIERS: f64 = 20.0;

impl Measurement<'_> {
    /// The samples that nothing disturbed.
    pub fn quiet(seconds: &[f64]) -> Vec<usize> {
        let limit = DISTURBED * median(seconds);
        (0..seconds.len()).filter(|i| seconds[*i] <= limit).collect()
    }

    /// The phase of the report.
    pub fn phase(&self, roofs: &RoofTable) -> Phase {
        let (on, off) = (Self::quiet(&self.on), Self::quiet(&self.off));
        let of = |all: &[f64], kept: &[usize]| mean(&kept.iter().map(|i| all[*i]).collect::<Vec<_>>());
        let (profiled, plain) = (of(&self.on, &on) / self.tokens, of(&self.off, &off) / self.tokens);
        let ratios: Vec<f64> = self.on.iter().zip(&self.off).map(|(on, off)| on / off).collect();
        let repeats = self.by_repeat(|i| self.off[i] / self.tokens);
        let (rows, runs) = (self.rows(roofs), self.run_times());
        let (mut inside, mut walls) = (0.0, 0.0);
        for run in on.iter().flat_map(|i| runs.iter().flat_map(move |(times, per)| &times[i * per..(i + 1) * per])) {
            inside += run.inside();
            walls += run.wall;
        }
        let per_token = 1.0 / (on.len().max(1) as f64 * self.tokens);
        let mut phase = Phase {
            name: self.name.to_owned(),
            about: self.about.clone(),
            tokens: self.tokens,
            samples: on.len(),
            left_out: self.on.len() - on.len(),
            seconds: plain,
            tokens_per_second: 1.0 / plain,
            profiled_seconds: profiled,
            ceiling: 0.0,
            share_of_ceiling: 0.0,
            coverage: inside * per_token / profiled,
            overhead: median(&ratios) - 1.0,
            noise: spread(&repeats) / mean(&repeats),
            allocations: self.allocations.map(|calls| calls / self.tokens),
            traffic: Traffic::default(),
            entering: (walls - inside) * per_token,
            between: profiled - walls * per_token,
            waiting: 0.0,
            operations: rows.into_iter().map(|row| row.operation).collect(),
            what_ifs: vec![],
            roadmap: vec![],
            latency: latency(&self.off),
            drift: self.drift.clone(),
            stages: self.stages.clone(),
            checkpoint: None,
            events: self.events.per(self.tokens),
            arenas: self.parts.iter().map(arena).collect(),
            timeline: vec![],
            repeats,
            barrier_ns: 0.0,
            beats: self.beats.clone(),
        };
        self.fill_times(&mut phase, &on, &runs);
        finish(&mut phase, roofs);
        phase.what_ifs = what_if::all(&phase, &self.threads, self.parts.first().map_or(1, |p| p.plan.threads()));
        phase.roadmap = what_if::roadmap(&phase);
        words::explain(&mut phase);
        let middle = on.iter().min_by(|a, b| {
            let away = |i: usize| (self.on[i] - profiled * self.tokens).abs();
            away(**a).total_cmp(&away(**b))
        });
        phase.timeline = middle.map(|i| self.slices(*i, &phase.operations)).unwrap_or_default();
        phase
    }

    /// The times of each part's runs, with the number of runs in a sample.
    fn run_times(&self) -> Vec<(Vec<RunTimes>, usize)> {
        self.parts.iter().map(|part| (RunTimes::of(part.plan, part.recorder), part.batches.len())).collect()
    }

    /// For each repeat what nine of ten of its samples exceed.
    ///
    /// On a machine that others use too, means of repeats differ by several percent and medians now and then by more, as whole repeats are
    /// disturbed; the quick samples of each differ by less than a percent, so that two reports can be told apart.
    fn by_repeat(&self, value: impl Fn(usize) -> f64) -> Vec<f64> {
        let size = (self.on.len() / self.repeats.max(1)).max(1);
        let repeat = |r: usize| (r * size..((r + 1) * size).min(self.on.len())).map(&value).collect::<Vec<_>>();
        (0..self.repeats).map(repeat).filter(|all| !all.is_empty()).map(|all| quantile(&all, UNDISTURBED)).collect()
    }

    /// The rows of the table with their work, still without times.
    fn rows(&self, roofs: &RoofTable) -> Vec<Row> {
        let mut rows: Vec<Row> = vec![];
        for (index, part) in self.parts.iter().enumerate() {
            for (place, node) in part.plan.graph().nodes().iter().enumerate() {
                let at = row_of(&mut rows, self, part, node, roofs);
                let row = &mut rows[at];
                row.nodes.push((index, place));
                row.operation.members.push((node.path.clone(), 0.0));
                for batch in part.batches {
                    row.operation.calls += 1.0 / self.tokens;
                    row.operation.traffic += traffic(part.plan.graph(), node, batch, part.plan.storage().map(|s| &**s))
                        .times(1.0 / self.tokens);
                }
            }
        }
        rows
    }

    /// Adds the times of the samples `on` to the operations.
    fn fill_times(&self, phase: &mut Phase, on: &[usize], runs: &[(Vec<RunTimes>, usize)]) {
        let owners = self.owners(&phase.operations);
        let mut by_sample = vec![vec![0.0; self.on.len()]; phase.operations.len()];
        let mut slowest = vec![0.0; phase.operations.len()];
        let scale = 1.0 / (on.len().max(1) as f64 * self.tokens);
        for ((times, per), (part, owners)) in runs.iter().zip(self.parts.iter().zip(&owners)) {
            for (step, one) in part.plan.steps().iter().enumerate() {
                let (row, member) = owners[one.node().index()];
                let operation = &mut phase.operations[row];
                for (sample, kept) in (0..self.on.len()).map(|i| (i, on.binary_search(&i).is_ok())) {
                    for run in &times[sample * per..(sample + 1) * per] {
                        let seconds = run.work[step] + run.wait[step];
                        by_sample[row][sample] += seconds / self.tokens;
                        if !kept {
                            continue;
                        }
                        operation.seconds += seconds * scale;
                        operation.wait += run.wait[step] * scale;
                        operation.members[member].1 += seconds * scale;
                        slowest[row] += run.slowest[step] * scale;
                    }
                }
                if let Some(allocated) = part.recorder.allocated(step) {
                    let all = self.on.len().max(1) as f64 * self.tokens;
                    let (calls, bytes) = operation.allocations.get_or_insert((0.0, 0.0));
                    *calls += allocated.calls as f64 / all;
                    *bytes += allocated.bytes as f64 / all;
                }
            }
        }
        for ((operation, samples), slowest) in phase.operations.iter_mut().zip(&by_sample).zip(&slowest) {
            operation.repeats = self.by_repeat(|i| samples[i]);
            operation.imbalance = slowest / (operation.seconds - operation.wait).max(f64::MIN_POSITIVE);
        }
    }

    /// For each part and node, the operation that it belongs to, and its place among that one's members.
    fn owners(&self, operations: &[Operation]) -> Vec<Vec<(usize, usize)>> {
        let mut counts = vec![0; operations.len()];
        let mut owner = |node: &Node| {
            let path = folded(&node.path);
            let key = (pass(node), node.op.name(), path.as_str());
            let row = operations.iter().position(|o| o.key() == key).unwrap_or(0);
            counts[row] += 1;
            (row, counts[row] - 1)
        };
        self.parts.iter().map(|part| part.plan.graph().nodes().iter().map(&mut owner).collect()).collect()
    }

    /// Seconds that each recorded sample spent at work in each of `operations`, those of the phase: `[samples][operations]`.
    pub fn work_by_sample(&self, operations: &[Operation]) -> Vec<Vec<f64>> {
        let mut work = vec![vec![0.0; operations.len()]; self.on.len()];
        for ((times, per), (part, owners)) in
            self.run_times().iter().zip(self.parts.iter().zip(self.owners(operations)))
        {
            for (run, times) in times.iter().enumerate() {
                for (step, seconds) in part.plan.steps().iter().zip(&times.work) {
                    work[run / per][owners[step.node().index()].0] += seconds;
                }
            }
        }
        work
    }

    /// The stretches of time of one sample on all workers; `operations` are those of the phase.
    pub fn slices(&self, sample: usize, operations: &[Operation]) -> Vec<Slice> {
        let owners = self.owners(operations);
        let runs = |part: &Part<'_>| -> Range<usize> {
            let (first, per) = (part.recorder.kept().start, part.batches.len());
            first + sample * per..first + (sample + 1) * per
        };
        let begins = self.parts.iter().filter_map(|part| runs(part).next().map(|run| part.recorder.span(run).0));
        let origin = begins.fold(f64::MAX, f64::min);
        let mut slices = vec![];
        for (part, owners) in self.parts.iter().zip(&owners) {
            for run in runs(part) {
                for worker in 0..part.plan.threads() {
                    run_slices(part, owners, run, worker, origin, &mut slices);
                }
            }
        }
        slices
    }
}

/// A row with the nodes that it is made of, each as part and place.
struct Row {
    operation: Operation,
    nodes: Vec<(usize, usize)>,
}

/// The row that `node` belongs to, made where it is the first.
fn row_of(rows: &mut Vec<Row>, m: &Measurement<'_>, part: &Part<'_>, node: &Node, roofs: &RoofTable) -> usize {
    let path = folded(&node.path);
    let key = (pass(node), node.op.name(), path.as_str());
    if let Some(at) = rows.iter().position(|row| row.operation.key() == key) {
        return at;
    }
    let graph = part.plan.graph();
    let none = Batch::default();
    let batch = largest(part.batches).unwrap_or(&none);
    let one = traffic(graph, node, batch, part.plan.storage().map(|s| &**s));
    let writes = node.op.effects().gradients || node.op.effects().parameters;
    let held = roofs.gbps(held_bytes(part, batch), |level| if writes { level.update } else { level.read });
    let class = Class::of(&node.op);
    let operation = Operation {
        rank: 0,
        class,
        pass: pass(node).to_owned(),
        operation: node.op.name().to_owned(),
        kernel: kernel(part.plan, node, batch),
        weights: weight_format(part.plan, node).map(|format| format.name().to_owned()),
        shape: shape(graph, node, batch),
        path,
        calls: 0.0,
        seconds: 0.0,
        share: 0.0,
        cumulative: 0.0,
        traffic: Traffic::default(),
        held_gbps: held,
        near_gbps: roofs.gbps(one.activations.max(1.0), |level| level.values),
        peak_gflops: match weight_format(part.plan, node) {
            Some(Format::Q8_0) if class == Class::Product => roofs.int8_gops.unwrap_or(roofs.f32_gflops),
            _ => roofs.f32_gflops,
        },
        exp_gops: roofs.exp_gops,
        roof_seconds: 0.0,
        share_of_roof: 0.0,
        bound: Bound::Latency,
        wait: 0.0,
        imbalance: 1.0,
        allocations: None,
        gain: 0.0,
        members: vec![],
        repeats: Vec::with_capacity(m.repeats),
        why: String::new(),
        baseline: None,
    };
    rows.push(Row { operation, nodes: vec![] });
    rows.len() - 1
}

/// The batch that stands for all of a sample's: chunks of a prompt are equal but for the last, and micro-batches of documents hold as many
/// tokens in other spans. The one with most tokens; of those, with most pairs of a token and one that it sees; of those, the last, as that is
/// the one whose outputs are asked for.
fn largest(batches: &[Batch]) -> Option<&Batch> {
    let seen = |span: &smallmind_graph::Span| span.len * (2 * span.past + span.len);
    batches.iter().max_by_key(|batch| (batch.len(), batch.spans().iter().map(seen).sum::<usize>()))
}

/// Bytes that a run goes over again and again: weights with what is laid out like them, the cache's tokens, the arena.
fn held_bytes(part: &Part<'_>, batch: &Batch) -> f64 {
    let graph = part.plan.graph();
    let effects = |test: fn(&smallmind_graph::Node) -> bool| graph.nodes().iter().any(test);
    let gradients = effects(|node| node.op.effects().gradients);
    let parameters = effects(|node| node.op.effects().parameters);
    let copies = 1 + usize::from(gradients) + 2 * usize::from(parameters);
    let all: Vec<Traffic> =
        graph.nodes().iter().map(|node| traffic(graph, node, batch, part.plan.storage().map(|s| &**s))).collect();
    let values: f64 = all.iter().map(|t| t.activations).sum();
    let cache: f64 = all.iter().map(|t| t.kv_read).sum();
    let flat = 4 * copies * graph.params().layout().len();
    let params = part.plan.storage().map_or(flat, |storage| storage.bytes());
    params as f64 + cache + values.min(part.plan.arena_bytes() as f64)
}

/// Forward, backward, clip or update.
fn pass(node: &Node) -> &'static str {
    match node.phase {
        Pass::Forward => "forward",
        Pass::Backward => "backward",
        Pass::Update if node.op.effects().parameters => "update",
        Pass::Update => "clip",
    }
}

/// Shares, roofs, bounds, gains and ranks, from times and work.
fn finish(phase: &mut Phase, roofs: &RoofTable) {
    let total = phase.profiled_seconds;
    let short = SHORT_BARRIERS * roofs.barrier_ns.max(100.0) * 1e-9;
    let mut at_roof = 0.0;
    for operation in &mut phase.operations {
        let (memory, compute) = operation.roof(&operation.traffic);
        let roof = memory.max(compute);
        at_roof += roof;
        operation.roof_seconds = roof;
        operation.share = operation.seconds / total;
        operation.share_of_roof = roof / operation.seconds.max(f64::MIN_POSITIVE);
        let saved = (operation.seconds - roof).max(0.0);
        operation.gain = 1.0 / (total - saved).max(f64::MIN_POSITIVE) - 1.0 / total;
        let call = operation.seconds / operation.calls.max(f64::MIN_POSITIVE);
        operation.bound = if operation.wait > WAITING * operation.seconds {
            Bound::Waiting
        } else if operation.share_of_roof < FAR && call < short {
            Bound::Latency
        } else if memory >= compute {
            Bound::Memory
        } else {
            Bound::Compute
        };
        phase.traffic += operation.traffic;
        phase.waiting += operation.wait;
    }
    phase.operations.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    let mut cumulative = 0.0;
    for (i, operation) in phase.operations.iter_mut().enumerate() {
        operation.rank = i + 1;
        cumulative += operation.share;
        operation.cumulative = cumulative;
    }
    phase.ceiling = 1.0 / at_roof.max(f64::MIN_POSITIVE);
    phase.share_of_ceiling = phase.tokens_per_second / phase.ceiling;
}

fn latency(samples: &[f64]) -> Latency {
    let at = |q| quantile(samples, q);
    let all = samples.iter().copied().step_by(samples.len().div_ceil(LISTED).max(1)).collect();
    Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0), all }
}

fn arena(part: &Part<'_>) -> Arena {
    let nodes = part.plan.graph().nodes();
    let value = |placement: &smallmind_graph::Placement| ArenaValue {
        path: nodes.get(placement.alive.start).map_or_else(String::new, |n| format!("{} {}", n.path, n.op.name())),
        offset: 4 * placement.elements.start as u64,
        bytes: 4 * placement.elements.len() as u64,
        from: placement.alive.start,
        to: placement.alive.end,
    };
    Arena {
        plan: part.name.to_owned(),
        bytes: part.plan.arena_bytes() as u64,
        unplanned_bytes: part.plan.unplanned_bytes() as u64,
        nodes: nodes.len(),
        values: part.plan.placements().iter().map(value).collect(),
    }
}

/// What `worker` did in a run: its steps, and waiting between them.
fn run_slices(
    part: &Part<'_>,
    owners: &[(usize, usize)],
    run: usize,
    worker: usize,
    origin: f64,
    slices: &mut Vec<Slice>,
) {
    let (begin, end) = part.recorder.span(run);
    let seconds = |from: f64, to: f64| (to - from).max(0.0);
    let wait = |from: f64, to: f64| Slice {
        worker,
        operation: None,
        path: String::new(),
        begin: seconds(origin, from),
        seconds: seconds(from, to),
    };
    let mut at = begin;
    for (index, step) in part.plan.steps().iter().enumerate() {
        let Some((from, to)) = part.recorder.times(run, worker, index) else { continue };
        if from > at {
            slices.push(wait(at, from));
        }
        slices.push(Slice {
            worker,
            operation: Some(owners[step.node().index()].0),
            path: part.plan.graph().nodes()[step.node().index()].path.clone(),
            begin: seconds(origin, from),
            seconds: seconds(from, to),
        });
        at = to;
    }
    if end > at {
        slices.push(wait(at, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_batch_stands_for_all() {
        let of = |spans: &[usize]| {
            let mut batch = Batch::default();
            spans.iter().for_each(|len| batch.push(&vec![0; *len], 0, 0));
            batch
        };
        let micro_batches = [of(&[4, 4]), of(&[1, 7]), of(&[5, 3])];
        assert_eq!(largest(&micro_batches).unwrap().spans()[1].len, 7, "as many tokens, most pairs");
        let chunks = [of(&[8]), of(&[3])];
        assert_eq!(largest(&chunks).unwrap().len(), 8);
        let mut equal = [of(&[8]), of(&[8])];
        equal[1].want_last();
        assert_eq!(largest(&equal).unwrap().outputs().len(), 1, "the last of equal ones");
        assert!(largest(&[]).is_none());
    }
}
