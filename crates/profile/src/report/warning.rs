//! What makes the figures of a report doubtful.

use super::Report;
use super::phase::{Phase, PhaseKind};

/// The largest spread of repeats on a quiet machine.
const QUIET: f64 = 0.05;
/// The largest share of the machine's time that its host may give to others.
const STOLEN: f64 = 0.01;
/// The largest share of the ceiling that noise can explain; more means that a roof was measured too low.
const ABOVE: f64 = 1.02;
/// The least share of time inside operations.
const COVERED: f64 = 0.97;
/// The largest share of time that the profiler may add.
const OVERHEAD: f64 = 0.02;

/// A reason to doubt a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Warning {
    /// The host gave this share of the machine's time to others.
    Stolen(f64),
    /// Figures of a phase are doubtful.
    Phase(PhaseKind, Doubt),
    /// A baseline can't be compared with the report: its name, and what differs.
    Baseline {
        /// Name of the baseline.
        name: String,
        /// What differs.
        mismatches: Vec<String>,
    },
}

/// A reason to doubt the figures of a phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Doubt {
    /// Repeats differ by this share.
    Noise(f64),
    /// This many samples were disturbed and left out.
    LeftOut(usize),
    /// It reaches this share of its ceiling, more than is possible.
    AboveCeiling(f64),
    /// Only this share of its time is inside operations.
    Coverage(f64),
    /// The profiler adds this share of time.
    Overhead(f64),
}

impl Report {
    /// What makes the figures of the report doubtful; empty on a quiet machine.
    pub fn warnings(&self) -> Vec<Warning> {
        let stolen = self.system.steal.filter(|steal| *steal > STOLEN).map(Warning::Stolen);
        let of_phase =
            |phase: &Phase| doubts(phase).into_iter().map(|doubt| Warning::Phase(phase.kind, doubt)).collect();
        let phases = self.phases.iter().flat_map(|phase| -> Vec<Warning> { of_phase(phase) });
        let refused = self.baseline_refused.clone();
        let baseline = refused.map(|name| Warning::Baseline { name, mismatches: self.baseline_mismatches.clone() });
        stolen.into_iter().chain(phases).chain(baseline).collect()
    }
}

fn doubts(phase: &Phase) -> Vec<Doubt> {
    let (samples, rate, time) = (&phase.samples, &phase.rate, &phase.time);
    let all = [
        (samples.noise > QUIET, Doubt::Noise(samples.noise)),
        (10 * samples.left_out > samples.left_out + samples.count, Doubt::LeftOut(samples.left_out)),
        (rate.share_of_ceiling > ABOVE, Doubt::AboveCeiling(rate.share_of_ceiling)),
        (time.coverage < COVERED, Doubt::Coverage(time.coverage)),
        (time.overhead > OVERHEAD, Doubt::Overhead(time.overhead)),
    ];
    all.into_iter().filter(|(applies, _)| *applies).map(|(_, doubt)| doubt).collect()
}
