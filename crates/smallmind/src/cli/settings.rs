//! What every verb takes.

use std::ffi::OsString;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::builder::Resettable;
use clap::{Args, Command};
use smallmind::graph::available_threads;
use smallmind::simd::{IsaError, IsaKind};
use smallmind::train::{Overlay, TrainError};

use super::failure::usage;

/// The variable behind `--threads`.
pub const THREADS_VARIABLE: &str = "SMALLMIND_THREADS";
/// The variable behind `--seed`.
const SEED_VARIABLE: &str = "SMALLMIND_SEED";
/// The variable behind `--model`.
pub const MODEL_VARIABLE: &str = "SMALLMIND_MODEL";

/// The variable that forces an instruction set: `scalar`, `avx2` or `avx512`.
pub const ISA_VARIABLE: &str = "SMALLMIND_ISA";

/// More workers than any machine of today has CPUs are a slip of the finger.
const MOST_THREADS: u16 = 1024;

/// A variable of the environment, if it is set; an empty one counts as unset, for every variable of this program.
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The same command, to which empty variables of the environment say nothing, and to which `-1` is a number and no option.
pub fn prepared(command: Command) -> Command {
    let unset = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| variable(name).is_none());
    let command = command.mut_args(|argument| {
        if argument.get_env().is_some_and(unset) { argument.env(Resettable::Reset) } else { argument }
    });
    command.allow_negative_numbers(true).mut_subcommands(prepared)
}

/// An error about the model at `path`; where the environment names that, so does the error.
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

/// The value of a variable, where it is set.
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
    /// What said so.
    seed_named: &'static str,
}

impl Settings {
    /// From the options given, or else from variables of the environment.
    ///
    /// # Errors
    /// A variable that is neither empty nor a number as its option takes it, and whose option isn't given.
    pub fn new(global: Global) -> anyhow::Result<Self> {
        let threads = global.threads.map_or_else(|| read(THREADS_VARIABLE, threads), |given| Ok(Some(given)))?;
        let (seed, seed_named) = match global.seed {
            Some(seed) => (Some(seed), "--seed"),
            None => (read(SEED_VARIABLE, seed)?, SEED_VARIABLE),
        };
        let format = if global.json { Format::Json } else { Format::Text };
        Ok(Self { format, threads_asked: threads.map(usize::from), seed, seed_named })
    }

    /// The seed as a setting of a training, by the name of what set it.
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

    /// Workers.
    pub fn threads(&self) -> usize {
        self.threads_asked.unwrap_or_else(available_threads)
    }

    /// The instruction set: the one that the environment asks for, or the best.
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

    /// The seed, or one that differs from run to run.
    pub fn seed_or_any(&self) -> u64 {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64 % 1_000_000_007);
        self.seed.unwrap_or_else(now)
    }
}
