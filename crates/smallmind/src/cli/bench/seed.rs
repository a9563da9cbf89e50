//! `smallmind bench seed`: the workload of the first SmallMind then and now, and the improvements in between, one after
//! the other.

use std::time::Duration;

use clap::Args;
use smallmind::bench::{Sampling, SeedBench, SeedWriter, Workload};

use super::{Form, record_format};
use crate::allocations;
use crate::cli::failure::Outcome;
use crate::cli::settings::Settings;
use crate::cli::{output, units};

/// Options of `bench seed`.
#[derive(Debug, Args)]
pub(super) struct Seed {
    /// A tiny model and few samples, to see that it works: its figures compare with nothing
    #[arg(long)]
    quick: bool,
    /// How often the text is generated at least [default: 3]
    #[arg(long, value_name = "N", value_parser = units::within::<u32>(1..))]
    runs: Option<u32>,
    /// How the record is written [default: tables; json with --json]
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT")]
    output: Option<Form>,
}

impl Seed {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let (workload, runs, sampling) = if self.quick {
            (Workload::tiny()?, 1, Sampling { runs: 3, sample: Duration::from_micros(300) })
        } else {
            (Workload::seed_deep()?, 3, Sampling { runs: 15, sample: Duration::from_millis(2) })
        };
        let Workload { name, prompt, generated, .. } = workload;
        crate::cli::note!("{name}: {prompt} random tokens, then {generated} generated");
        let bench = SeedBench {
            workload,
            seed: settings.seed.unwrap_or(1),
            isa: settings.isa()?,
            threads: settings.threads(),
            runs: self.runs.map_or(runs, |n| n as usize),
            sampling,
            allocated: allocations::bytes,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut writer = SeedWriter::new(record_format(self.output, settings));
        output::print(&writer.begin())?;
        let wrong = bench.run(|row| output::print(&writer.row(row)))?;
        output::print(writer.end())?;
        if wrong.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{}", wrong.join("\n  "))) }
    }
}
