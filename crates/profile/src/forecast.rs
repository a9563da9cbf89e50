//! How fast a plan can be at most on this machine: from its work and measured roofs, without a run.

use smallmind_graph::{Batch, Plan};

use crate::report::RoofTable;
use crate::report::operation::{OperationRoof, traffic_in};
use crate::traffic::Traffic;

/// The work of a token, and the least time that it can take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Work of a token, on average over the batches.
    pub traffic: Traffic,
    /// Seconds of a token if every operation runs at its roof: moves bytes at the measured bandwidth or computes at the
    /// measured peak, whichever takes longer.
    pub seconds: f64,
}

impl Forecast {
    /// The forecast for runs of `plan` on `batches`, one after the other.
    pub fn new(plan: &Plan, batches: &[Batch], roofs: &RoofTable) -> Self {
        let mut sum = Self { traffic: Traffic::default(), seconds: 0.0 };
        for batch in batches {
            for node in plan.graph().nodes() {
                let traffic = traffic_in(plan, node, batch);
                let (memory, compute) = OperationRoof::of(plan, node, batch, roofs).bounds(&traffic);
                sum.traffic += traffic;
                sum.seconds += memory.max(compute);
            }
        }
        let share = 1.0 / batches.iter().map(Batch::len).sum::<usize>().max(1) as f64;
        Self { traffic: sum.traffic.times(share), seconds: sum.seconds * share }
    }

    /// Tokens per second, at most.
    pub fn tokens_per_second(&self) -> f64 {
        1.0 / self.seconds.max(f64::MIN_POSITIVE)
    }
}
