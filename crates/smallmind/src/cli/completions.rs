//! `smallmind completions SHELL`.

use clap::{Arg, Args, CommandFactory};
use clap_complete::Shell;
use smallmind::train::TrainConfig;

use super::failure::Outcome;
use super::{Cli, output};

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Outcome {
        // Settings aren't options of clap, but a shell can complete them.
        let mut command = Cli::command().mut_subcommand("train", |train| {
            train.args(TrainConfig::keys().into_iter().map(|key| Arg::new(key).long(key).value_name("VALUE")))
        });
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "smallmind", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}
