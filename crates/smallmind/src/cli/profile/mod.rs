//! `smallmind profile`: how time is spent, operation by operation, compared with what this machine can do.

mod diff;
mod generate;
mod report_output;
mod subject;
mod train;
mod training;

use clap::{Args, Subcommand};

pub use generate::of_session;
pub use report_output::on_screen;
pub use subject::{PRESET, SEED, name_of};

use super::failure::Outcome;
use super::settings::Settings;

/// Options of `profile`.
#[derive(Debug, Args)]
pub struct Profile {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Prefill and decode of a model, or of a preset's shape with random weights
    Generate(generate::Generate),
    /// A step of training: data, forward, backward, clip, update, checkpoint
    Train(train::Train),
    /// What has become slower or faster from one report to another
    Diff(diff::Diff),
}

impl Profile {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        match self.what {
            What::Generate(verb) => verb.run(settings),
            What::Train(verb) => verb.run(settings),
            What::Diff(verb) => verb.run(settings),
        }
    }
}
