//! Where a report goes: standard output, a folder, the baselines that are kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use smallmind::checkpoint::json_problem;
use smallmind::profile::Report;
use smallmind::profile::diff::mismatches_before;
use smallmind::profile::report::terminal::{self, Extent, Usage};
use smallmind::profile::report::trace::Trace;
use smallmind::profile::report::{IfMismatched, PhaseKind, ReportError, Subject, folded, html, markdown};

use super::super::failure::{Outcome, bad_file, usage};
use super::super::interrupt::Makes;
use super::super::output_files::{OutputFile, OutputFolder, Overwrite};
use super::super::reads::Reads;
use super::super::settings::{Settings, variable};
use super::super::{note, output};

/// Options for where a report goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub struct ReportOutput {
    /// Print all of the report, not one screen of it
    #[arg(long)]
    full: bool,
    /// Write report.md, report.json, report.html, trace.json and stacks.folded into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Keep the report under this name
    #[arg(long, value_name = "NAME")]
    save_baseline: Option<String>,
    /// Compare with a kept report, or with a report.json
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// Compare with a baseline even if it isn't of the same machine, model or number of threads
    #[arg(long, requires = "baseline")]
    force: bool,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// The forms of a report in a folder.
const FORMS: [&str; 5] = ["report.md", "report.json", "report.html", "trace.json", "stacks.folded"];

/// The files of a report, checked before anything is measured.
#[derive(Debug)]
pub struct ReportFiles {
    folder: Option<OutputFolder>,
    baseline: Option<OutputFile>,
}

/// How a user of this program follows the advice of a report.
const USAGE: Usage<'_> = Usage {
    change_threads: "change --threads",
    keep_threads: "leave --threads as it is",
    more: "More: --full for all rows and what-ifs, --out FOLDER for HTML and a trace to open in Perfetto.",
};

/// The report in one screen, for somebody who has no options at hand.
pub fn on_screen(report: &Report) -> String {
    let usage = Usage { more: "More: smallmind profile generate --full.", ..USAGE };
    terminal::render(report, Extent::Screen(usage))
}

/// The folder of baselines under the home folder, unless SMALLMIND_BASELINES names another.
const BASELINES: &str = "smallmind/baselines";

impl ReportOutput {
    /// Whether files are written.
    pub fn makes(&self) -> Makes {
        if self.out.is_some() || self.save_baseline.is_some() { Makes::Files } else { Makes::Text }
    }

    /// Checks all files, so that one that can't be written is refused before anything is measured. `reads`: what else
    /// is read, where files are written.
    pub fn check(&self, reads: impl FnOnce() -> anyhow::Result<Reads>) -> anyhow::Result<ReportFiles> {
        let mut reads = if self.makes() == Makes::Files { reads()? } else { Reads::nothing() };
        if let Some(name) = &self.baseline {
            kept(name)?;
            reads = reads.and([kept_file(name)?]);
        }
        let baseline = match &self.save_baseline {
            Some(name) => {
                let path = baseline_file(name)?;
                if let Some(folder) = path.parent() {
                    let made = fs::create_dir_all(folder);
                    made.with_context(|| format!("{}: the folder can't be made", folder.display()))?;
                }
                Some(OutputFile::check(&path, self.overwrite, &reads)?)
            }
            None => None,
        };
        let folder = self.out.as_ref().map(|out| OutputFolder::check(out, &FORMS, self.overwrite, &reads));
        let folder = folder.transpose()?;
        Ok(ReportFiles { folder, baseline })
    }

    /// Refuses a baseline that can't be compared with what is about to be measured. `phases`: each with a description
    /// of one sample.
    pub fn check_baseline(&self, subject: &Subject, phases: &[(PhaseKind, &str)]) -> Outcome {
        match &self.baseline {
            Some(name) if !self.force => comparable(
                &format!("baseline {name} and this profile"),
                &mismatches_before(&kept(name)?, subject, phases),
            ),
            _ => Ok(()),
        }
    }

    /// Compares the report with the baseline. If the measurement shows that the two can't be compared, the report has a
    /// warning instead.
    fn set_baseline_beside(&self, report: &mut Report) -> Outcome {
        let Some(name) = &self.baseline else { return Ok(()) };
        report.set_beside(&kept(name)?, name, if self.force { IfMismatched::Compare } else { IfMismatched::Refuse });
        if report.baseline_refused.is_some() {
            note!("note: the baseline isn't set beside this report, as the two can't be compared; {ANYWAY}");
        }
        Ok(())
    }

    /// The folder that the report's forms are written into.
    pub fn folder(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// A trace, where one will be written.
    pub fn trace(&self) -> Option<Trace> {
        self.out.as_ref().map(|_| Trace::default())
    }

    /// Prints the report and writes what was asked for.
    pub fn write(&self, files: ReportFiles, mut report: Report, trace: Option<&Trace>, settings: &Settings) -> Outcome {
        self.set_baseline_beside(&mut report)?;
        if let (Some(out), Some(mut folder)) = (&self.out, files.folder) {
            let trace = trace.map(Trace::render).unwrap_or_default();
            let json = serde_json::to_string_pretty(&report)?;
            let texts = [markdown::render(&report), json, html::render(&report), trace, folded::render(&report)];
            for (name, text) in FORMS.iter().zip(texts) {
                folder.write(name, |out| out.write_all(text.as_bytes()))?;
            }
            folder.publish()?;
            note!("written to {}: report.html opens in a browser, trace.json in Perfetto", out.display());
        }
        if let (Some(name), Some(file)) = (&self.save_baseline, files.baseline) {
            let text = serde_json::to_string(&report)?;
            file.write(|out| out.write_all(text.as_bytes()))?;
            note!("kept as baseline {name}");
        }
        if settings.is_json() {
            return output::document(serde_json::to_value(&report)?);
        }
        output::print(&terminal::render(&report, if self.full { Extent::Full } else { Extent::Screen(USAGE) }))
    }
}

/// What compares reports that differ in more than their times.
const ANYWAY: &str = "--force does it all the same";

/// The rule for `--baseline` and `profile diff`: reports that differ in more than their times are not compared without
/// `--force`.
pub fn comparable(what: &str, mismatches: &[String]) -> Outcome {
    if mismatches.is_empty() {
        return Ok(());
    }
    let differs = mismatches.join("; ");
    Err(usage(format!("{what} can't be compared ({differs}); {ANYWAY}")))
}

/// The file of the baseline of that name.
fn baseline_file(name: &str) -> anyhow::Result<PathBuf> {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(usage(format!("a baseline is named by letters, digits, -, _ and dots, not {name:?}")));
    }
    let variable = |name: &str| variable(name).map(PathBuf::from);
    let named = variable("SMALLMIND_BASELINES");
    if let Some(file) = named.as_ref().filter(|path| path.exists() && !path.is_dir()) {
        return Err(usage(format!("SMALLMIND_BASELINES={}: this is a file; name a folder", file.display())));
    }
    let folder = named
        .or_else(|| Some(variable("XDG_DATA_HOME")?.join(BASELINES)))
        .or_else(|| Some(variable("HOME")?.join(".local/share").join(BASELINES)));
    let folder = folder.ok_or_else(|| usage("there is no home folder for baselines; set SMALLMIND_BASELINES"))?;
    Ok(folder.join(format!("{name}.json")))
}

/// The file of the report of a baseline, of a file, or of a folder of `--out`.
fn kept_file(name: &str) -> anyhow::Result<PathBuf> {
    let file = Path::new(name);
    let path = if file.exists() { file.to_owned() } else { baseline_file(name)? };
    if !path.exists() {
        return Err(bad_file(format!("{name}: no such file, and no baseline of that name at {}", path.display())));
    }
    Ok(if path.is_dir() { path.join("report.json") } else { path })
}

/// The report of a baseline, of a file, or of a folder of `--out`.
pub fn kept(name: &str) -> anyhow::Result<Report> {
    let path = kept_file(name)?;
    let bad = |why: String| bad_file(format!("{}: no report of a profile: {why}", path.display()));
    let text = fs::read_to_string(&path).map_err(|error| bad(error.to_string()))?;
    Report::from_json(&text).map_err(|error| {
        bad(match &error {
            ReportError::Json(error) => json_problem(error),
            ReportError::Version(_) => error.to_string(),
        })
    })
}
