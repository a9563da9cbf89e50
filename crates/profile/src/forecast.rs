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

#[cfg(test)]
mod tests {
    use smallmind_graph::op::Index;
    use smallmind_graph::{Decay, GraphBuilder, Init, Limits, Op, ParamSpec, PlanOptions};
    use smallmind_simd::IsaKind;

    use super::*;
    use crate::report::RoofLevel;

    /// A machine with one bandwidth and one peak.
    fn machine(gbps: f64, gflops: f64) -> RoofTable {
        let level = RoofLevel { name: "memory".into(), bytes: 1e9, read: gbps, update: gbps, values: gbps };
        let (bf16_gflops, int8_gops, exp_gops) = (None, None, 1.0);
        RoofTable {
            f32_gflops: gflops,
            bf16_gflops,
            int8_gops,
            exp_gops,
            levels: vec![level],
            entry_ns: 0.0,
            barrier_ns: 0.0,
        }
    }

    #[test]
    fn the_slower_of_memory_and_arithmetic_decides() {
        let mut b = GraphBuilder::new();
        let spec = ParamSpec { name: String::new(), rows: 16, cols: 8, init: Init::Constant(1.0), decay: Decay::No };
        let table = b.param("table", spec).unwrap();
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
        let y = b.value_of(Op::Linear { weight: table, bias: None }, &[x]).unwrap();
        b.result("y", y);
        let limits = Limits { tokens: 4, outputs: 0, spans: 1, context: 4, pages: 0 };
        let plan = Plan::new(b.finish(), PlanOptions::flat(limits, 1, IsaKind::Scalar)).unwrap();
        let mut batch = Batch::default();
        batch.push(&[1, 2, 3], 0);
        let batches = [batch.clone(), batch];
        let slow_memory = Forecast::new(&plan, &batches, &machine(1e-6, 1e9));
        let work = slow_memory.traffic;
        // Two operations for each weight and one for each output; the matrix is read once for three tokens.
        assert_eq!(work.flops, 2.0 * 16.0 * 8.0 + 16.0);
        assert!(work.weights >= 4.0 * 16.0 * 8.0 / 3.0 && work.weights < 4.0 * 16.0 * 8.0, "{work:?}");
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-6;
        assert!(near(slow_memory.seconds, work.bytes() / 1e3), "{slow_memory:?}");
        let slow_arithmetic = Forecast::new(&plan, &batches, &machine(1e9, 1e-6));
        assert!(near(slow_arithmetic.seconds, work.flops / 1e3), "{slow_arithmetic:?}");
        assert!(near(slow_arithmetic.tokens_per_second(), 1e3 / work.flops));
    }
}
