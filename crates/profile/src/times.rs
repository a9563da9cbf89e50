//! The time of a run divided among its steps.

use smallmind_graph::Plan;

use crate::Recorder;

/// Seconds of one run, each the mean over the workers. `work`, `wait` and `outside` add up to `wall`.
#[derive(Clone, Debug, PartialEq)]
pub struct RunTimes {
    /// From the beginning of the run to its end.
    pub wall: f64,
    /// Before the first step and after the last: waking workers and joining them.
    pub outside: f64,
    /// Work in each step.
    pub work: Vec<f64>,
    /// Waiting for other workers to end their part of each step.
    pub wait: Vec<f64>,
    /// The slowest worker's work in each step.
    pub slowest: Vec<f64>,
}

impl RunTimes {
    /// The times of all runs of `plan` that `recorder` has kept.
    pub fn of(plan: &Plan, recorder: &Recorder) -> Vec<Self> {
        recorder.kept().map(|run| Self::of_run(plan, recorder, run)).collect()
    }

    /// Divides each worker's time completely:
    ///
    /// 1. The time inside a step is work of that step.
    /// 2. A gap between two of its steps is waiting. It is divided among the steps since the worker's last barrier in
    ///    proportion to how much longer the slowest worker took for each; if none took longer, the gap is the cost of
    ///    the barrier itself and belongs to the step before it.
    /// 3. The time before its first step and after its last is waiting up to the time by which the slowest workers took
    ///    longer; the rest is outside of steps.
    fn of_run(plan: &Plan, recorder: &Recorder, run: usize) -> Self {
        let (workers, steps) = recorder.size();
        let (begin, end) = recorder.span(run);
        let seconds = |from: f64, to: f64| (to - from).max(0.0);
        let work_of = |worker, step| recorder.times(run, worker, step).map_or(0.0, |(from, to)| seconds(from, to));
        let slowest: Vec<f64> =
            (0..steps).map(|step| (0..workers).map(|w| work_of(w, step)).fold(0.0, f64::max)).collect();
        let mut found =
            Self { wall: seconds(begin, end), outside: 0.0, work: vec![0.0; steps], wait: vec![0.0; steps], slowest };
        let share = 1.0 / workers.max(1) as f64;
        for worker in 0..workers {
            let deficit = |step: usize, found: &Self| found.slowest[step] - work_of(worker, step);
            // The first step since the last barrier, the end of what is divided so far, and whether the worker has had
            // a step.
            let (mut first, mut at, mut begun) = (0, begin, false);
            for step in 0..steps {
                let Some((from, to)) = recorder.times(run, worker, step) else { continue };
                let gap = seconds(at, from);
                found.divide(first..step, gap * share, share, &deficit, if begun { Edge::Within } else { Edge::Outer });
                if (first..=step).any(|s| plan.steps()[s].has_barrier()) {
                    first = (first..=step).rev().find(|s| plan.steps()[*s].has_barrier()).unwrap_or(step);
                }
                found.work[step] += seconds(from, to) * share;
                (at, begun) = (to, true);
            }
            found.divide(first..steps, seconds(at, end) * share, share, &deficit, Edge::Outer);
        }
        found
    }

    /// Divides `gap` among the steps in which this worker did less than the slowest one.
    fn divide(
        &mut self,
        steps: std::ops::Range<usize>,
        gap: f64,
        share: f64,
        deficit: &dyn Fn(usize, &Self) -> f64,
        edge: Edge,
    ) {
        if gap <= 0.0 {
            return;
        }
        let missing: f64 = steps.clone().map(|step| deficit(step, self)).sum::<f64>() * share;
        let waited = match edge {
            Edge::Outer => gap.min(missing),
            Edge::Within => gap,
        };
        self.outside += gap - waited;
        if missing > 0.0 {
            for step in steps {
                self.wait[step] += waited * deficit(step, self) * share / missing;
            }
        } else if let Some(last) = steps.last() {
            self.wait[last] += waited;
        } else {
            self.outside += waited;
        }
    }

    /// Seconds inside steps, waiting included.
    pub fn inside(&self) -> f64 {
        self.work.iter().chain(&self.wait).sum()
    }
}

/// The place of a gap in a worker's time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// Between two steps.
    Within,
    /// Before the first step or after the last.
    Outer,
}
