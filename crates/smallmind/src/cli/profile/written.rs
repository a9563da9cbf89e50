//! Where a report goes.

use clap::Args;
use smallmind::profile::Report;
use smallmind::profile::report::terminal::{self, Extent};

use super::super::failure::Outcome;
use super::super::output;
use super::super::settings::Settings;

/// How a report is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub struct Written {
    /// Print all of the report, not one screen of it
    #[arg(long)]
    full: bool,
}

impl Written {
    /// Prints the report and writes what was asked for.
    pub fn write(&self, report: &Report, settings: &Settings) -> Outcome {
        if settings.is_json() {
            return output::document(serde_json::to_value(report)?);
        }
        output::print(&terminal::render(report, if self.full { Extent::Full } else { Extent::Screen }))
    }
}
