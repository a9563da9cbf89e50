//! `smallmind bench`. Here `bench kernels`: every kernel, compared with the machine's roofs, with rivals and with an
//! earlier record.

mod inference;
mod seed;
mod table_output;
mod training;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use smallmind::bench::{
    Baseline, Bench as Measurement, Cases, Extent, Findings, RecordFormat, Rival, Routes, Sampling,
};
use smallmind::kernels::Format;
use smallmind::profile::roofs::Effort;

use super::failure::{Failure, Outcome, usage};
use super::models::format_parser;
use super::settings::Settings;
use super::{interrupt, output, units};

/// How much slower than the best candidate the engine's choice of a kernel may be, in percent.
const TOLERATED_LAG: f64 = 10.0;

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Time every kernel and compare it with what this machine can do
    Kernels(Kernels),
    /// Time prompts and generated tokens of models, with llama-bench's options and columns
    Inference(inference::Inference),
    /// Time several sequences at once, with llama-batched-bench's options and columns
    Batched(inference::Batched),
    /// Time steps of training
    Train(training::Training),
    /// Run the first SmallMind's workload as it ran then and as it runs now, with one improvement after the other
    Seed(seed::Seed),
}

/// Options of `bench kernels`.
#[derive(Debug, Args)]
struct Kernels {
    /// Only cases with this word in the kernel's name, the shape or a tag; commas separate alternatives, all filters
    /// must be met
    #[arg(long = "filter", value_name = "WORD")]
    filters: Vec<String>,
    /// The layers of all presets too
    #[arg(long)]
    all: bool,
    /// The format of packed weights, whose cases are called `packed`
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = format_parser(), ignore_case = true)]
    weights: Format,
    /// Few and short samples
    #[arg(long)]
    quick: bool,
    /// Samples of each contender
    #[arg(long, value_name = "N", value_parser = units::within::<u32>(1..))]
    runs: Option<u32>,
    /// Measure with each of these numbers of threads
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = units::within::<u16>(1..=1024))]
    threads_list: Vec<u16>,
    /// A program to compare with, which speaks JSON lines (benchmarks/README.md)
    #[arg(long = "rival", value_name = "COMMAND")]
    rivals: Vec<String>,
    /// An earlier record, JSON or CSV: adds the ratio to it
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// How much slower than the earlier record is too slow
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, requires = "against")]
    fail_on: f64,
    /// Time all candidates where the engine chooses between kernels
    #[arg(long)]
    assert_choice: bool,
    /// Show the cases and measure nothing
    #[arg(long)]
    list: bool,
    /// How the record is written [default: a table; json with --json]
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT")]
    output: Option<Form>,
}

/// Forms of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A Markdown table
    Md,
    /// An array of objects
    Json,
    /// An object a line
    Jsonl,
    /// Comma-separated values
    Csv,
}

/// The format of the record: a table by default.
fn record_format(asked: Option<Form>, settings: &Settings) -> RecordFormat {
    match asked {
        Some(Form::Md) => RecordFormat::Markdown,
        Some(Form::Json) => RecordFormat::Json,
        Some(Form::Jsonl) => RecordFormat::JsonLines,
        Some(Form::Csv) => RecordFormat::Csv,
        None if settings.is_json() => RecordFormat::Json,
        None => RecordFormat::Text,
    }
}

impl Bench {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        interrupt::end_on_signal(interrupt::Makes::Text)?;
        match self.what {
            What::Kernels(kernels) => kernels.run(settings),
            What::Inference(inference) => inference.run(settings),
            What::Batched(batched) => batched.run(settings),
            What::Train(training) => training.run(settings),
            What::Seed(seed) => seed.run(settings),
        }
    }
}

impl Kernels {
    fn run(self, settings: &Settings) -> Outcome {
        let cases = self.cases()?;
        if self.list {
            return list(&cases, settings);
        }
        let format = record_format(self.output, settings);
        let mut rivals = self.rivals.iter().map(|command| Rival::start(command)).collect::<Result<Vec<_>, _>>()?;
        let fail_on = self.fail_on;
        let bench = self.measurement(cases, settings)?;
        output::print(&format.begin())?;
        let mut index = 0;
        let measured = bench.run(&mut rivals, |row| {
            let text = format.row(index, row);
            index += 1;
            output::print(&text)
        })?;
        output::print(format.end())?;
        verdict(&measured, fail_on)
    }

    /// The cases to measure. Filters that match no default case are applied to all cases.
    fn cases(&self) -> anyhow::Result<Cases> {
        let find = |extent| Ok::<_, anyhow::Error>(Cases::of(extent, self.weights)?.filtered(&self.filters));
        let mut cases = find(if self.all { Extent::All } else { Extent::Default })?;
        if cases.cases.is_empty() && !self.all {
            cases = find(Extent::All)?;
        }
        let roofs = self.filters.iter().any(|filter| filter.split(',').any(|word| word == "roof"));
        if cases.cases.is_empty() && !roofs {
            let words = self.filters.join(" and ");
            return Err(usage(format!("no case matches {words}; `smallmind bench kernels --list --all` shows all")));
        }
        Ok(cases)
    }

    fn measurement(self, cases: Cases, settings: &Settings) -> anyhow::Result<Measurement> {
        let threads = match self.threads_list[..] {
            [] => vec![settings.threads()],
            [..] => self.threads_list.iter().map(|n| usize::from(*n)).collect(),
        };
        let (runs, sample, effort) = if self.quick {
            (5, Duration::from_micros(300), Effort::QUICK)
        } else {
            (15, Duration::from_millis(2), Effort::THOROUGH)
        };
        Ok(Measurement {
            isa: settings.isa()?,
            threads,
            cases,
            filters: self.filters,
            sampling: Sampling { runs: self.runs.map_or(runs, |n| n as usize), sample },
            effort,
            routes: if self.assert_choice { Routes::All } else { Routes::Chosen },
            baseline: self.against.as_deref().map(Baseline::read).transpose()?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

fn list(cases: &Cases, settings: &Settings) -> Outcome {
    if settings.is_json() {
        let case = |case: &smallmind::bench::Case| {
            serde_json::json!({
                "kernel": case.problem.kernel(),
                "dtype": case.format.name(),
                "shape": case.problem.shape(),
                "tags": case.tags,
                "params": case.problem.params(),
            })
        };
        let all: Vec<_> = cases.cases.iter().map(case).collect();
        return output::document(serde_json::json!({ "cases": all, "left_out": cases.left_out }));
    }
    let line = |case: &smallmind::bench::Case| {
        let name = format!("{}/{}", case.problem.kernel(), case.format);
        format!("{}\n", format!("{name:<20} {:<36} {}", case.problem.shape(), case.tags.join(" ")).trim_end())
    };
    output::print(&cases.cases.iter().map(line).collect::<String>())?;
    for text in &cases.left_out {
        super::note!("left out: {text}");
    }
    Ok(())
}

/// Reports the measurement: errors, regressions and wrong choices of kernels fail.
fn verdict(measured: &Findings, fail_on: f64) -> Outcome {
    for text in &measured.left_out {
        super::note!("left out: {text}");
    }
    if !measured.errors.is_empty() {
        return Err(anyhow::anyhow!("{}", measured.errors.join("\n  ")));
    }
    let lines = |found: Vec<&(String, f64)>| {
        found.into_iter().map(|(name, ratio)| format!("\n  {name}: {ratio:.3} times")).collect::<String>()
    };
    let slower = measured.regressions(fail_on);
    if !slower.is_empty() {
        let (rows, are) = (units::plural(slower.len(), "row"), if slower.len() == 1 { "is" } else { "are" });
        let text = format!("{rows} {are} slower than before by more than {fail_on} %{}", lines(slower));
        return Err(Failure::Regression(text).into());
    }
    let wrong = measured.wrong_choices(TOLERATED_LAG);
    if !wrong.is_empty() {
        let cases = units::plural(wrong.len(), "case");
        let text = format!("in {cases} the engine's choice is slower than the best by more than {TOLERATED_LAG} %");
        return Err(Failure::Regression(text + &lines(wrong)).into());
    }
    Ok(())
}
