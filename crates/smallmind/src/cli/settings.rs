//! Options and variables of every verb.

use std::ffi::OsString;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::builder::Resettable;
use clap::{Args, Command};
use smallmind::graph::available_threads;
use smallmind::simd::{IsaError, IsaKind};
use smallmind::train::{Overlay, TrainError};

use super::failure::usage;

/// The variable of `--threads`.
pub const THREADS_VARIABLE: &str = "SMALLMIND_THREADS";
/// The variable of `--seed`.
const SEED_VARIABLE: &str = "SMALLMIND_SEED";
/// The variable of `--model`.
pub const MODEL_VARIABLE: &str = "SMALLMIND_MODEL";

/// The variable that forces an instruction set: `scalar`, `avx2` or `avx512`.
pub const ISA_VARIABLE: &str = "SMALLMIND_ISA";

/// The most worker threads: more than any machine has CPUs.
const MOST_THREADS: u16 = 1024;

/// A variable of the environment; `None` if it is unset or empty. Both mean the same for every variable of this
/// program.
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The same command, changed so that it ignores empty variables of the environment and takes `-1` for a number.
pub fn prepared(command: Command) -> Command {
    let unset = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| variable(name).is_none());
    let command = command.mut_args(|argument| {
        if argument.get_env().is_some_and(unset) { argument.env(Resettable::Reset) } else { argument }
    });
    command.allow_negative_numbers(true).mut_subcommands(prepared)
}

/// An error about the model at `path`, with the name of the variable if a variable set the path.
pub fn of_model(path: &Path, error: anyhow::Error) -> anyhow::Error {
    if variable(MODEL_VARIABLE).is_some_and(|value| value == path) { error.context(MODEL_VARIABLE) } else { error }
}

fn threads(text: &str) -> Result<u16, String> {
    let count = text.parse().ok().filter(|count| (1..=MOST_THREADS).contains(count));
    count.ok_or_else(|| format!("it must be a whole number from 1 to {MOST_THREADS}"))
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("it must be a whole number from 0 to {}", u64::MAX))
}

/// The value of a variable, if it is set.
fn read<T>(name: &str, parse: fn(&str) -> Result<T, String>) -> anyhow::Result<Option<T>> {
    let Some(value) = variable(name) else { return Ok(None) };
    let text = value.to_string_lossy();
    parse(&text).map(Some).map_err(|why| usage(format!("{name}={text}: {why}")))
}

/// Options of every verb.
#[derive(Clone, Copy, Debug, Args)]
pub struct Global {
    /// Print JSON: one document, or one line an event
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Worker threads [default: the CPUs that this process may use] [env: SMALLMIND_THREADS]
    #[arg(long, global = true, value_name = "N", help_heading = "Global options", value_parser = threads)]
    threads: Option<u16>,
    /// Where random numbers start [env: SMALLMIND_SEED]
    #[arg(long, global = true, value_name = "N", help_heading = "Global options", value_parser = seed)]
    seed: Option<u64>,
}

/// The format of an answer.
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
    /// Format of the answer.
    pub format: Format,
    /// Worker threads by option or variable; `None` for one per CPU.
    pub threads_asked: Option<usize>,
    /// The seed, by option or variable.
    pub seed: Option<u64>,
    /// The name of the option or variable that set the seed.
    seed_named: &'static str,
}

impl Settings {
    /// Settings from options, or else from variables of the environment.
    ///
    /// # Errors
    /// A variable has a value that its option would refuse, and the option is not given.
    pub fn new(global: Global) -> anyhow::Result<Self> {
        let threads = global.threads.map_or_else(|| read(THREADS_VARIABLE, threads), |given| Ok(Some(given)))?;
        let (seed, seed_named) = match global.seed {
            Some(seed) => (Some(seed), "--seed"),
            None => (read(SEED_VARIABLE, seed)?, SEED_VARIABLE),
        };
        let format = if global.json { Format::Json } else { Format::Text };
        Ok(Self { format, threads_asked: threads.map(usize::from), seed, seed_named })
    }

    /// The seed as a setting of training; its origin is the option or variable.
    pub fn seed_overlay(&self) -> Result<Option<Overlay>, TrainError> {
        let Some(seed) = self.seed else { return Ok(None) };
        Overlay::of_text("train.seed", &seed.to_string(), format!("{}={seed}", self.seed_named)).map(Some)
    }

    /// Whether `--seed` was given.
    pub fn seed_is_flag(&self) -> bool {
        self.seed.is_some() && self.seed_named != SEED_VARIABLE
    }

    /// Whether the answer is JSON.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Number of worker threads.
    pub fn threads(&self) -> usize {
        self.threads_asked.unwrap_or_else(available_threads)
    }

    /// The instruction set that the variable names, or the best.
    pub fn isa(&self) -> anyhow::Result<IsaKind> {
        let Some(value) = variable(ISA_VARIABLE) else { return Ok(IsaKind::best()) };
        let name = value.to_string_lossy();
        IsaKind::named(&name).map_err(|error| {
            let advice = match error {
                IsaError::Unavailable(_) => format!("; unset {ISA_VARIABLE} to use the best"),
                IsaError::Unknown(_) => String::new(),
            };
            usage(format!("{ISA_VARIABLE}={name}: {error}{advice}"))
        })
    }

    /// The seed, or one from the time.
    pub fn seed_or_any(&self) -> u64 {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64 % 1_000_000_007);
        self.seed.unwrap_or_else(now)
    }
}
