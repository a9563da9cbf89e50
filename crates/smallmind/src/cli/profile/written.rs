//! Where a report goes: standard output, a folder, the shelf of baselines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use smallmind::checkpoint::json_problem;
use smallmind::profile::Report;
use smallmind::profile::diff::{mismatches, mismatches_before};
use smallmind::profile::report::Subject;
use smallmind::profile::report::terminal::{self, Extent};
use smallmind::profile::report::trace::Trace;
use smallmind::profile::report::{folded, html, markdown};

use super::super::failure::{Outcome, bad_file, usage};
use super::super::output_files::{OutputFile, OutputFolder, Overwrite};
use super::super::settings::{Settings, variable};
use super::super::{note, output};

/// How a report is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub struct Written {
    /// Print all of the report, not one screen of it
    #[arg(long)]
    full: bool,
    /// Write report.md, report.json, report.html, trace.json and stacks.folded into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Keep the report under this name
    #[arg(long, value_name = "NAME")]
    save_baseline: Option<String>,
    /// Set a kept report, or a report.json, beside this one
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// Set a baseline beside this report also where it isn't of the same machine, model or number of threads
    #[arg(long, requires = "baseline")]
    force: bool,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// The forms of a report in a folder.
const FORMS: [&str; 5] = ["report.md", "report.json", "report.html", "trace.json", "stacks.folded"];

/// The places of a report, claimed before anything is measured.
#[derive(Debug)]
pub struct Places {
    folder: Option<OutputFolder>,
    shelf: Option<OutputFile>,
}

/// The folder of baselines, unless SMALLMIND_BASELINES names another.
const SHELF: &str = "smallmind/baselines";

impl Written {
    /// What can be wrong is wrong before anything is measured.
    pub fn claim(&self) -> anyhow::Result<Places> {
        if let Some(name) = &self.baseline {
            kept(name)?;
        }
        let shelf = match &self.save_baseline {
            Some(name) => {
                let path = place_of(name)?;
                if let Some(folder) = path.parent() {
                    let made = fs::create_dir_all(folder);
                    made.with_context(|| format!("{}: the folder can't be made", folder.display()))?;
                }
                Some(OutputFile::claim(&path, self.overwrite)?)
            }
            None => None,
        };
        let folder = self.out.as_ref().map(|out| OutputFolder::claim(out, &FORMS, self.overwrite)).transpose()?;
        Ok(Places { folder, shelf })
    }

    /// Refuses a baseline that isn't comparable with what is about to be measured: `phases` by name and by what a sample of them is.
    pub fn check_baseline(&self, subject: &Subject, phases: &[(&str, &str)]) -> Outcome {
        match &self.baseline {
            Some(name) if !self.force => comparable(
                &format!("baseline {name} and this profile"),
                &mismatches_before(&kept(name)?, subject, phases),
            ),
            _ => Ok(()),
        }
    }

    /// Sets the baseline beside the report. Where the measurement itself shows that the two can't be compared, the report goes without.
    fn set_baseline_beside(&self, report: &mut Report) -> Outcome {
        let Some(name) = &self.baseline else { return Ok(()) };
        let old = kept(name)?;
        match comparable(&format!("baseline {name} and this profile"), &mismatches(&old, report)) {
            Err(error) if !self.force => report.warnings.push(error.to_string()),
            _ => report.set_beside(&old, name),
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
    pub fn write(&self, places: Places, mut report: Report, trace: Option<&Trace>, settings: &Settings) -> Outcome {
        self.set_baseline_beside(&mut report)?;
        if let (Some(out), Some(mut folder)) = (&self.out, places.folder) {
            let trace = trace.map(Trace::render).unwrap_or_default();
            let json = serde_json::to_string_pretty(&report)?;
            let texts = [markdown::render(&report), json, html::render(&report), trace, folded::render(&report)];
            for (name, text) in FORMS.iter().zip(texts) {
                folder.write(name, |out| out.write_all(text.as_bytes()))?;
            }
            folder.publish()?;
            note!("written to {}: report.html opens in a browser, trace.json in Perfetto", out.display());
        }
        if let (Some(name), Some(file)) = (&self.save_baseline, places.shelf) {
            let text = serde_json::to_string(&report)?;
            file.write(|out| out.write_all(text.as_bytes()))?;
            note!("kept as baseline {name}");
        }
        if settings.is_json() {
            return output::document(serde_json::to_value(&report)?);
        }
        output::print(&terminal::render(&report, if self.full { Extent::Full } else { Extent::Screen }))
    }
}

/// The one rule for `--baseline` and `profile diff`: what differs in more than its times is no comparison, unless `--force` asks for it.
pub fn comparable(what: &str, mismatches: &[String]) -> Outcome {
    if mismatches.is_empty() {
        return Ok(());
    }
    let differs = mismatches.join("; ");
    Err(usage(format!("{what} can't be compared ({differs}); --force does it all the same")))
}

/// Where the baseline of that name lies.
fn place_of(name: &str) -> anyhow::Result<PathBuf> {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(usage(format!("a baseline is named by letters, digits, -, _ and dots, not {name:?}")));
    }
    let variable = |name: &str| variable(name).map(PathBuf::from);
    let named = variable("SMALLMIND_BASELINES");
    if let Some(file) = named.as_ref().filter(|path| path.exists() && !path.is_dir()) {
        return Err(usage(format!("SMALLMIND_BASELINES={}: this is a file; name a folder", file.display())));
    }
    let shelf = named
        .or_else(|| Some(variable("XDG_DATA_HOME")?.join(SHELF)))
        .or_else(|| Some(variable("HOME")?.join(".local/share").join(SHELF)));
    let shelf = shelf.ok_or_else(|| usage("there is no home folder for baselines; set SMALLMIND_BASELINES"))?;
    Ok(shelf.join(format!("{name}.json")))
}

/// The report of a baseline or of a file.
pub fn kept(name: &str) -> anyhow::Result<Report> {
    let file = Path::new(name);
    let path = if file.exists() { file.to_owned() } else { place_of(name)? };
    if !path.exists() {
        return Err(bad_file(format!("{name}: no such file, and no baseline of that name at {}", path.display())));
    }
    let path = if path.is_dir() { path.join("report.json") } else { path };
    let say = |why: &dyn std::fmt::Display| bad_file(format!("{}: no report of a profile: {why}", path.display()));
    let text = fs::read_to_string(&path).map_err(|error| say(&error))?;
    let version = serde_json::from_str::<serde_json::Value>(&text).map_err(|error| say(&json_problem(&error)))?;
    let version = version["schema_version"].as_u64();
    if version != Some(u64::from(smallmind::profile::report::SCHEMA_VERSION)) {
        let ours = smallmind::profile::report::SCHEMA_VERSION;
        return Err(say(&format!("its schema_version is {version:?}, this program reads {ours}")));
    }
    serde_json::from_str(&text).map_err(|error| say(&json_problem(&error)))
}
