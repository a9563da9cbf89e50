//! A table of the operations of training or of a session, without roofs: recorded times and counted costs, all layers
//! together.

use std::fmt;

use serde::Serialize;
use smallmind_graph::{Batch, Plan, cost};

use crate::Recorder;
use crate::report::Pass;

/// One operation at one place of the model, all layers together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The operation, such as `linear`.
    pub operation: &'static str,
    /// Its path with layer numbers as stars, such as `blocks.*.attn.qkv`.
    pub path: String,
    /// The pass of the run.
    pub pass: Pass,
    /// Number of nodes that the line stands for.
    pub calls: usize,
    /// Seconds per run: the sum over steps of the slowest worker's time.
    pub seconds: f64,
    /// Share of the seconds of all lines.
    pub share: f64,
    /// Floating-point operations per run.
    pub flops: f64,
    /// Bytes read and written per run.
    pub bytes: f64,
}

/// How the time of some runs of a plan is spent, the slowest operation first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Number of runs that the times are means of.
    pub runs: usize,
    /// Seconds per run inside steps.
    pub seconds: f64,
    /// The operations.
    pub lines: Vec<Line>,
}

impl Summary {
    /// Combines the times that `recorder` recorded in `runs` runs of `plan` with the costs of the operations. All runs
    /// had batches of the shape of `batch`.
    pub fn new(plan: &Plan, batch: &Batch, recorder: &Recorder, runs: usize) -> Self {
        let mut seconds = vec![0.0; plan.graph().nodes().len()];
        for (i, step) in plan.steps().iter().enumerate() {
            let slowest = (0..plan.threads()).map(|w| recorder.seconds(w, i)).fold(0.0, f64::max);
            seconds[step.node().index()] += slowest / runs.max(1) as f64;
        }
        let mut lines: Vec<Line> = Vec::new();
        for (node, seconds) in plan.graph().nodes().iter().zip(&seconds) {
            let work = cost(plan.graph(), node, batch, plan.storage().map(|storage| &**storage), plan.cache_format());
            let (operation, path, pass) = (node.op.name(), folded(&node.path), Pass::of(node));
            let same = |l: &&mut Line| l.operation == operation && l.path == path && l.pass == pass;
            let line = match lines.iter_mut().find(same) {
                Some(line) => line,
                None => {
                    lines.push(Line {
                        operation,
                        path,
                        pass,
                        calls: 0,
                        seconds: 0.0,
                        share: 0.0,
                        flops: 0.0,
                        bytes: 0.0,
                    });
                    let last = lines.len() - 1;
                    &mut lines[last]
                }
            };
            line.calls += 1;
            line.seconds += seconds;
            line.flops += work.flops;
            line.bytes += work.bytes().all();
        }
        let total: f64 = lines.iter().map(|l| l.seconds).sum();
        lines.iter_mut().for_each(|l| l.share = l.seconds / total.max(f64::MIN_POSITIVE));
        lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Self { runs, seconds: total, lines }
    }
}

/// The most lines of the printed table.
const SHOWN: usize = 10;

impl fmt::Display for Summary {
    /// A table of the operations that take most time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>6}  {:>9}  {:>9}  {:>7}  operation", "share", "µs a run", "GFLOP/s", "GB/s")?;
        let mut shown = 0.0;
        for line in self.lines.iter().take(SHOWN) {
            shown += line.share;
            let seconds = line.seconds.max(f64::MIN_POSITIVE);
            writeln!(
                f,
                "{:>5.1}%  {:>9.1}  {:>9.1}  {:>7.1}  {} @ {}",
                line.share * 100.0,
                line.seconds * 1e6,
                line.flops / seconds * 1e-9,
                line.bytes / seconds * 1e-9,
                line.operation,
                line.path,
            )?;
        }
        writeln!(
            f,
            "{:>5.1}%  {:>9.1}  in the rest",
            (1.0 - shown).max(0.0) * 100.0,
            self.seconds * (1.0 - shown).max(0.0) * 1e6
        )
    }
}

/// A path with its layer numbers replaced by stars.
pub(crate) fn folded(path: &str) -> String {
    let star = |part| if str::parse::<usize>(part).is_ok() { "*" } else { part };
    path.split('.').map(star).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_fold() {
        assert_eq!(folded("blocks.12.attn.qkv"), "blocks.*.attn.qkv");
        assert_eq!(folded("head"), "head");
    }
}
