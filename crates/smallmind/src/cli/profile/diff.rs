//! `smallmind profile diff`.

use clap::Args;
use serde_json::json;
use smallmind::profile::Diff as Differences;

use super::super::failure::{Failure, Outcome};
use super::super::output;
use super::super::settings::Settings;
use super::report_output::{comparable, kept};

/// Options of `profile diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The report before: a folder of --out, a report.json or the name of a baseline
    old: String,
    /// The report now
    new: String,
    /// End with 5 when a phase is slower for certain and perhaps by as much as this
    #[arg(long, value_name = "PERCENT", value_parser = share)]
    fail_on: Option<f64>,
    /// Compare also what isn't the same machine, model or number of threads
    #[arg(long)]
    force: bool,
}

/// A share from `3%` or `3`.
fn share(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim().parse::<f64>();
    number
        .ok()
        .filter(|x| x.is_finite() && *x >= 0.0)
        .map(|x| x / 100.0)
        .ok_or_else(|| "a percentage like 3%".to_owned())
}

impl Diff {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let differences = Differences::between(&kept(&self.old)?, &kept(&self.new)?);
        if !self.force {
            comparable("these reports", &differences.mismatches)?;
        }
        if settings.is_json() {
            output::document(json!({ "mismatches": differences.mismatches, "phases": differences.phases }))?;
        } else {
            output::print(&differences.render())?;
        }
        let slower = self.fail_on.map(|limit| differences.slower(limit)).unwrap_or_default();
        if slower.is_empty() {
            return Ok(());
        }
        let one = |phase: &&smallmind::profile::diff::PhaseDiff| {
            format!("{} by {:.1} %", phase.name.name(), 100.0 * phase.total.estimate)
        };
        Err(Failure::Regression(format!("slower: {}", slower.iter().map(one).collect::<Vec<_>>().join(", "))).into())
    }
}
