//! A line of a record.

use serde::{Deserialize, Serialize};
use smallmind_profile::Roofs;

use crate::case::{Case, Cost};

/// Version of the records.
pub const SCHEMA_VERSION: u32 = 1;

/// Which of the machine's roofs is the lowest for a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Moving bytes.
    Memory,
    /// A barrier takes longer than either.
    Latency,
}

impl Bound {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Memory => "memory",
            Self::Latency => "latency",
        }
    }
}

/// One contender at one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Version of this layout.
    pub schema_version: u32,
    /// The kernel, or `roof`.
    pub kernel: String,
    /// The format of a packed weight, or else of all that the kernel reads.
    pub dtype: String,
    /// Its shape.
    pub shape: String,
    /// Words that say where the shape comes from.
    pub tags: String,
    /// Workers.
    pub threads: usize,
    /// The instruction set; `-` for a rival's own.
    pub isa: String,
    /// Who computed it: `smallmind`, one of its routes, or a rival.
    pub contender: String,
    /// The contender's version.
    pub version: String,
    /// Samples.
    pub runs: usize,
    /// Microseconds of an iteration, the median of the samples.
    pub median_us: Option<f64>,
    /// Microseconds of an iteration, the least of the samples.
    pub min_us: Option<f64>,
    /// 1e9 operations per second, at the median.
    pub gflops: Option<f64>,
    /// 1e9 bytes of the operands per second, at the median.
    pub gbps: Option<f64>,
    /// The least time that the machine's roofs allow, divided by the median.
    pub peak_fraction: Option<f64>,
    /// Which roof is the lowest.
    pub bound: Option<Bound>,
    /// The median divided by that of an earlier record.
    pub ratio: Option<f64>,
    /// The median divided by SmallMind's, which was measured alternately.
    pub vs_smallmind: Option<f64>,
    /// If all candidates are measured: whether this is the one that the engine chooses.
    pub chosen: Option<bool>,
    /// Why there is no time; `null` if there is one.
    pub error: Option<String>,
}

/// Which contender a row is about.
#[derive(Clone, Debug)]
pub struct Who {
    /// `smallmind`, one of its routes, or a rival.
    pub contender: String,
    /// The contender's version.
    pub version: String,
    /// The instruction set; `-` for a rival's own.
    pub isa: String,
}

impl Row {
    /// A row without times.
    pub fn new(case: &Case, threads: usize, who: &Who) -> Self {
        Self::named(case.problem.kernel(), case.format.name(), case.problem.shape(), case.tags.join(" "), threads, who)
    }

    fn named(kernel: &str, dtype: &str, shape: String, tags: String, threads: usize, who: &Who) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            kernel: kernel.to_owned(),
            dtype: dtype.to_owned(),
            shape,
            tags,
            threads,
            isa: who.isa.clone(),
            contender: who.contender.clone(),
            version: who.version.clone(),
            runs: 0,
            median_us: None,
            min_us: None,
            gflops: None,
            gbps: None,
            peak_fraction: None,
            bound: None,
            ratio: None,
            vs_smallmind: None,
            chosen: None,
            error: None,
        }
    }

    /// Enters the samples: seconds of an iteration each.
    pub fn enter(&mut self, samples: &[f64], case: &Case, roofs: &Roofs) {
        let Some(median) = median(samples) else { return };
        let cost = case.cost();
        let (least, bound) = least_seconds(&cost, case.peak(roofs), roofs);
        self.runs = samples.len();
        self.median_us = Some(1e6 * median);
        self.min_us = samples.iter().copied().min_by(f64::total_cmp).map(|s| 1e6 * s);
        self.gflops = Some(cost.flops / median / 1e9);
        self.gbps = Some((cost.read + cost.written) / median / 1e9);
        self.peak_fraction = Some(least / median);
        self.bound = Some(bound);
    }

    /// What identifies a row in different records.
    pub fn key(&self) -> (&str, &str, &str, usize, &str, &str) {
        (&self.kernel, &self.dtype, &self.shape, self.threads, &self.isa, &self.contender)
    }
}

/// The middle sample, or the mean of the two in the middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (upper + sorted[middle - 1]) / 2.0 })
}

/// The least seconds that the roofs allow, and which roof is the lowest. `peak` is the roof of the kernel's arithmetic,
/// in 1e9 operations per second.
fn least_seconds(cost: &Cost, peak: f64, roofs: &Roofs) -> (f64, Bound) {
    let compute = cost.flops / peak / 1e9;
    let moved = cost.read + cost.written;
    let level = roofs.level(if cost.in_place { cost.read.max(cost.written) } else { moved });
    // If less than a tenth of the traffic is of the other kind, the case counts as reading or as writing, not as a
    // copy.
    let bandwidth = if cost.in_place {
        level.update
    } else if cost.written <= 0.1 * cost.read {
        level.read
    } else if cost.read <= 0.1 * cost.written {
        level.write
    } else {
        level.copy
    };
    let memory = moved / bandwidth / 1e9;
    let least = compute.max(memory);
    let bound = if roofs.threads > 1 && 1e9 * least < roofs.barrier_ns {
        Bound::Latency
    } else if compute >= memory {
        Bound::Compute
    } else {
        Bound::Memory
    };
    (least, bound)
}

/// The rows of roofs give the time of this many floating-point operations, or bytes.
const ROOF_UNIT: f64 = 1e9;

/// The roofs as rows: `median_us` is the time of 1e9 operations or bytes, or that of one entry or barrier.
pub fn roof_rows(roofs: &Roofs, version: &str) -> Vec<Row> {
    let who = Who { contender: "smallmind".into(), version: version.to_owned(), isa: roofs.isa.to_owned() };
    let row = |dtype: &str, shape: String, us: f64, gflops: f64, gbps: f64, bound| Row {
        runs: 1,
        median_us: Some(us),
        min_us: Some(us),
        gflops: Some(gflops),
        gbps: Some(gbps),
        peak_fraction: Some(1.0),
        bound: Some(bound),
        ..Row::named("roof", dtype, shape, "roof".into(), roofs.threads, &who)
    };
    let compute = |dtype: &str, rate: f64| {
        row(dtype, "multiply-add".into(), 1e6 * ROOF_UNIT / 1e9 / rate, rate, 0.0, Bound::Compute)
    };
    let mut rows = vec![compute("f32", roofs.f32_gflops)];
    rows.extend(roofs.bf16_gflops.map(|rate| compute("bf16", rate)));
    rows.extend(roofs.int8_gops.map(|rate| compute("int8", rate)));
    for level in &roofs.levels {
        for (access, rate) in
            [("read", level.read), ("write", level.write), ("copy", level.copy), ("update", level.update)]
        {
            let shape = format!("{access} {} {} KiB", level.name, level.bytes >> 10);
            rows.push(row("f32", shape, 1e6 * ROOF_UNIT / 1e9 / rate, 0.0, rate, Bound::Memory));
        }
    }
    for (name, ns) in [("entry", roofs.entry_ns), ("barrier", roofs.barrier_ns)] {
        rows.push(row("-", name.into(), ns / 1e3, 0.0, 0.0, Bound::Latency));
    }
    rows
}

#[cfg(test)]
pub(crate) mod tests {
    use smallmind_kernels::Format;
    use smallmind_profile::roofs::Bandwidth;

    use super::*;
    use crate::case::{Problem, Product};

    pub(crate) fn roofs() -> Roofs {
        let level = |name, bytes, rate| Bandwidth {
            name,
            bytes,
            read: rate,
            write: rate / 2.0,
            copy: rate,
            update: 1.5 * rate,
        };
        Roofs {
            isa: "avx2",
            threads: 2,
            f32_gflops: 100.0,
            bf16_gflops: Some(200.0),
            int8_gops: Some(400.0),
            exp_gops: 10.0,
            levels: vec![
                level("L2/2", 1 << 20, 100.0),
                level("L3/2", 16 << 20, 50.0),
                level("memory", 256 << 20, 10.0),
            ],
            entry_ns: 1000.0,
            barrier_ns: 100.0,
        }
    }

    #[test]
    fn the_lowest_roof_counts() {
        let least = |problem: Problem, format| {
            let case = Case { problem, format, tags: vec![] };
            least_seconds(&case.cost(), case.peak(&roofs()), &roofs())
        };
        let square = Problem::Matmul(Product::nn(512, 512, 512));
        let (seconds, bound) = least(square, Format::F32);
        assert!((seconds - 2.0 * 512f64.powi(3) / 1e11).abs() < 1e-12 && bound == Bound::Compute);
        assert_eq!(least(square, Format::Bf16).0, seconds / 2.0);
        let stream = Problem::Gemv { n: 8192, k: 8192 };
        let (seconds, bound) = least(stream, Format::F32);
        assert!((seconds / (4.0 * 8192.0 * 8192.0 / 1e10) - 1.0).abs() < 1e-3 && bound == Bound::Memory);
        // A packed weight takes the bytes of its format; f16 is multiplied in f32.
        let packed = |m, format| least(Problem::PackedMatmul { m, n: 8192, k: 8192 }, format);
        assert!((packed(1, Format::Bf16).0 / seconds - 0.5).abs() < 1e-3);
        assert!((packed(1, Format::Q8_0).0 / seconds - 17.0 / 64.0).abs() < 1e-3);
        assert_eq!(packed(512, Format::F16), packed(512, Format::F32));
        assert_eq!(packed(512, Format::Bf16), (packed(512, Format::F32).0 / 2.0, Bound::Compute));
        assert_eq!(packed(512, Format::Q8_0), (packed(512, Format::F32).0 / 4.0, Bound::Compute));
        let update = least(Problem::AdamW { elements: 1 << 26 }, Format::F32).0;
        assert!((update - 32.0 * f64::from(1 << 26) / 15e9).abs() < 1e-9);
        assert_eq!(least(Problem::Matmul(Product::nn(2, 2, 2)), Format::F32).1, Bound::Latency);
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn roofs_are_rows_like_others() {
        let rows = roof_rows(&roofs(), "1");
        assert_eq!(rows.len(), 3 + 12 + 2);
        assert!(rows.iter().all(|row| row.median_us.is_some() && row.kernel == "roof"));
        assert_eq!(rows[0].median_us, Some(1e4));
    }
}
