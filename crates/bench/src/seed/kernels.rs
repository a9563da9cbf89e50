//! The kernels of the first SmallMind's profile.

use smallmind_kernels::Format;
use smallmind_kernels::activation::Gelu;
use smallmind_profile::roofs::Effort;

use super::SeedBench;
use super::row::{SeedPart, SeedRow};
use crate::case::{Case, NormKind, Pass, Problem, Product};
use crate::{Bench, BenchError, Cases, Routes, Row};

/// What a kernel's rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rate {
    Flops,
    Bytes,
    /// 1e9 elements per second, for a kernel of this many elements.
    Elements(usize),
}

impl Rate {
    fn unit(self) -> &'static str {
        match self {
            Self::Flops => "GFLOP/s",
            Self::Bytes => "GB/s",
            Self::Elements(_) => "G params/s",
        }
    }

    fn of(self, row: &Row) -> Option<f64> {
        match self {
            Self::Flops => row.gflops,
            Self::Bytes => row.gbps,
            Self::Elements(n) => row.median_us.map(|us| n as f64 / us / 1e3),
        }
    }
}

/// The kernels, what the rate of each counts, and the first SmallMind's figure if its profile has one.
fn list() -> [(Problem, Rate, Option<f64>); 7] {
    let square = |n| Problem::Matmul(Product::nn(n, n, n));
    let (rows, cols, pass) = (16 * 64, 512, Pass::Forward);
    let params = 2_359_296;
    [
        (square(128), Rate::Flops, Some(4.5)),
        (square(256), Rate::Flops, Some(10.2)),
        (square(512), Rate::Flops, Some(16.3)),
        (Problem::Norm { kind: NormKind::Layer, rows, cols, pass }, Rate::Bytes, Some(2.7)),
        (Problem::Softmax { rows: 1000, cols: 1000 }, Rate::Bytes, None),
        (Problem::Gelu { elements: 1_000_000, kind: Gelu::Exact, pass }, Rate::Bytes, None),
        (Problem::AdamW { elements: params }, Rate::Elements(params), Some(1.48)),
    ]
}

/// Measures the kernels; returns a sentence for each error.
pub(super) fn measure<E: From<BenchError>>(
    seed: &SeedBench,
    on_row: &mut impl FnMut(&SeedRow) -> Result<(), E>,
) -> Result<Vec<String>, E> {
    let list = list();
    let case =
        |(problem, ..): &(Problem, Rate, Option<f64>)| Case { problem: *problem, format: Format::F32, tags: vec![] };
    let bench = Bench {
        isa: seed.isa,
        threads: vec![seed.threads],
        cases: Cases { cases: list.iter().map(case).collect(), left_out: vec![] },
        // This leaves out the rows of roofs.
        filters: vec!["seed".into()],
        sampling: seed.sampling,
        effort: Effort::QUICK,
        routes: Routes::Chosen,
        baseline: None,
        version: seed.version.clone(),
    };
    let mut kernels = list.iter();
    let outcome = bench.run(&mut [], |measured| {
        // A row for each case, in their order.
        let Some((_, rate, then)) = kernels.next() else { return Ok(()) };
        let name = format!("{} {}", measured.kernel, measured.shape);
        let mut row = SeedRow::new(SeedPart::Kernel, &name, measured.threads, seed.isa.name(), rate.unit());
        row.runs = measured.runs;
        row.now = rate.of(measured);
        row.then = *then;
        row.error = measured.error.clone();
        on_row(&row)
    })?;
    Ok(outcome.errors)
}
