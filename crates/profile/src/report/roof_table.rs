//! The measured limits of the machine, as a report holds them.

use serde::{Deserialize, Serialize};
use smallmind_graph::{GraphError, Pool};
use smallmind_kernels::matmul::are_bf16_pairs;
use smallmind_kernels::{Format, FormatKind};
use smallmind_simd::IsaKind;

use crate::Roofs;
use crate::roofs::{Bandwidth, Effort};

/// The roofs that a report needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoofTable {
    /// Multiply-adds of `f32`: GFLOP/s.
    pub f32_gflops: f64,
    /// Multiply-adds of `bf16` by the CPU's dot product, with sums in `f32`: GFLOP/s. None if the CPU has no such
    /// instruction.
    #[serde(default)]
    pub bf16_gflops: Option<f64>,
    /// Products of bytes with sums in `i32`: 1e9 multiplications and additions per second. None if the CPU has no such
    /// dot product.
    #[serde(default)]
    pub int8_gops: Option<f64>,
    /// Exponentials of `f32`: 1e9 per second.
    #[serde(default)]
    pub exp_gops: f64,
    /// Bandwidths of memory, by rising size.
    pub levels: Vec<RoofLevel>,
    /// Entering and leaving the pool: nanoseconds.
    pub entry_ns: f64,
    /// A barrier: nanoseconds.
    pub barrier_ns: f64,
}

/// Bandwidth of memory of one size, all threads together: GB/s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoofLevel {
    /// Name of the size, such as `L2/2`.
    pub name: String,
    /// Bytes that all threads together accessed.
    pub bytes: f64,
    /// Reading.
    pub read: f64,
    /// Reading, changing and writing back.
    pub update: f64,
    /// For operations on values: reading, or reading in one place and writing in another, whichever is faster.
    #[serde(default)]
    pub values: f64,
}

impl From<&Roofs> for RoofTable {
    fn from(roofs: &Roofs) -> Self {
        let level = |b: &Bandwidth| RoofLevel {
            name: b.name.to_owned(),
            bytes: b.bytes as f64,
            read: b.read,
            update: b.update,
            values: b.read.max(b.copy),
        };
        Self {
            f32_gflops: roofs.f32_gflops,
            bf16_gflops: roofs.bf16_gflops,
            int8_gops: roofs.int8_gops,
            exp_gops: roofs.exp_gops,
            levels: roofs.levels.iter().map(level).collect(),
            entry_ns: roofs.entry_ns,
            barrier_ns: roofs.barrier_ns,
        }
    }
}

impl RoofTable {
    /// Measures the machine twice, each time for less than a second, and keeps the better of each roof.
    ///
    /// # Errors
    /// Threads that can't be started, an instruction set that this CPU lacks, too little memory.
    pub fn measure(threads: usize, isa: IsaKind) -> Result<Self, GraphError> {
        let mut pool = Pool::new(threads)?;
        let mut measure = || Roofs::measure(&mut pool, isa, Effort::QUICK).map(|roofs| Self::from(&roofs));
        let mut roofs = measure()?;
        roofs.raise(&measure()?);
        Ok(roofs)
    }

    /// Keeps the better of each roof here and in `other`, which the same process measured at another time: a roof that
    /// was measured while another program had a CPU is too low.
    pub fn raise(&mut self, other: &Self) {
        let up = |a: &mut f64, b: f64| *a = a.max(b);
        up(&mut self.f32_gflops, other.f32_gflops);
        up(&mut self.exp_gops, other.exp_gops);
        for (mine, other) in [(&mut self.bf16_gflops, other.bf16_gflops), (&mut self.int8_gops, other.int8_gops)] {
            if let (Some(mine), Some(other)) = (mine, other) {
                up(mine, other);
            }
        }
        for (level, other) in self.levels.iter_mut().zip(&other.levels) {
            up(&mut level.read, other.read);
            up(&mut level.update, other.update);
            up(&mut level.values, other.values);
        }
        self.entry_ns = self.entry_ns.min(other.entry_ns);
        self.barrier_ns = self.barrier_ns.min(other.barrier_ns);
    }

    /// The peak of products with rows of `k` weights in `format`: GFLOP/s.
    pub(super) fn peak_of(&self, format: Format, k: usize) -> f64 {
        let peak = match format.kind() {
            FormatKind::Blocks => self.int8_gops,
            FormatKind::Single | FormatKind::Half(_) if are_bf16_pairs(format, k) => self.bf16_gflops,
            FormatKind::Single | FormatKind::Half(_) => None,
        };
        peak.unwrap_or(self.f32_gflops)
    }

    /// The bandwidth of a working set of `bytes`, interpolated between the two levels nearest in size: GB/s. `rate`
    /// chooses one of a level's rates.
    pub fn gbps(&self, bytes: f64, rate: impl Fn(&RoofLevel) -> f64) -> f64 {
        let above = self.levels.iter().position(|level| level.bytes >= bytes);
        match above {
            Some(0) => rate(&self.levels[0]),
            Some(i) => {
                let (a, b) = (&self.levels[i - 1], &self.levels[i]);
                let along = (bytes / a.bytes).ln() / (b.bytes / a.bytes).ln();
                // Times are interpolated, not rates: a working set between two levels takes some of its bytes from
                // each.
                1.0 / ((1.0 - along) / rate(a) + along / rate(b))
            }
            None => self.levels.last().map_or(f64::INFINITY, rate),
        }
    }
}
