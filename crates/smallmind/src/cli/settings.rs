//! What every verb takes.

use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use smallmind::graph::available_threads;
use smallmind::simd::{IsaError, IsaKind};

/// The variable behind `--threads`.
pub const THREADS_VARIABLE: &str = "SMALLMIND_THREADS";

/// More workers than any machine of today has CPUs are a slip of the finger.
const THREADS: RangeInclusive<i64> = 1..=1024;

/// Options of every verb.
#[derive(Clone, Copy, Debug, Args)]
pub struct Global {
    /// Print JSON: one document, or one line an event
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Worker threads [default: the CPUs that this process may use]
    #[arg(long, global = true, env = THREADS_VARIABLE, value_name = "N", help_heading = "Global options",
          value_parser = clap::value_parser!(u16).range(THREADS))]
    threads: Option<u16>,
    /// Where random numbers start
    #[arg(long, global = true, env = "SMALLMIND_SEED", value_name = "N", help_heading = "Global options")]
    seed: Option<u64>,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The options of every verb, with their defaults.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How the answer is printed.
    pub format: Format,
    /// Workers asked for.
    pub threads_asked: Option<usize>,
    /// Where random numbers start, if somebody said so.
    pub seed: Option<u64>,
}

impl Settings {
    /// From the options given.
    pub fn new(global: Global) -> Self {
        Self {
            format: if global.json { Format::Json } else { Format::Text },
            threads_asked: global.threads.map(usize::from),
            seed: global.seed,
        }
    }

    /// Whether the answer is JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Workers.
    pub fn threads(&self) -> usize {
        self.threads_asked.unwrap_or_else(available_threads)
    }

    /// The instruction set: the one that the environment asks for, or the best.
    pub fn isa(&self) -> Result<IsaKind, IsaError> {
        IsaKind::from_environment()
    }

    /// The seed, or one that differs from run to run.
    pub fn seed_or_any(&self) -> u64 {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64 % 1_000_000_007);
        self.seed.unwrap_or_else(now)
    }
}
