//! `smallmind profile train`.

use std::path::Path;

use clap::Args;
use smallmind::graph::Workload;
use smallmind::profile::SystemCounters;
use smallmind::profile::report::{Checkpointing, PhaseKind, Report};
use smallmind::profile::sampling::{Instruments, PerRepeat, RoofMeter, SampleCount, Sampled};
use smallmind::profile::statistics::median;
use smallmind::train::{StepError, StepWorkload, TrainConfig, TrainError};

use super::super::failure::{self, Failure, Outcome};
use super::super::settings::Settings;
use super::super::{interrupt, note, units};
use super::report_output::ReportOutput;
use super::subject;
use super::training::{Training, TrainingArg};
use crate::allocations;

/// The most checkpoints that are timed.
const CHECKPOINTS: usize = 5;
/// After this many seconds of checkpoints, no further one is timed.
const ENOUGH: f64 = 1.0;

/// Options of `profile train`.
#[derive(Debug, Args)]
pub struct Train {
    #[command(flatten)]
    training: TrainingArg,
    /// Repeats; how much they differ shows how certain the figures are
    #[arg(short, long, default_value_t = 16, value_name = "N", value_parser = units::within::<u16>(1..=100))]
    runs: u16,
    /// Steps in each repeat [default: what fits into about two seconds]
    #[arg(short = 'n', long, value_name = "N", value_parser = units::within::<u32>(1..=10_000))]
    steps: Option<u32>,
    #[command(flatten)]
    output: ReportOutput,
}

impl Train {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let (isa, threads) = (settings.isa()?, settings.threads());
        let files = self.output.check(|| self.training.reads())?;
        let stop = interrupt::watch("stopping without a report (Ctrl-C again ends at once)")?;
        // The instruments are opened before training starts its workers, so that these are counted too.
        let mut instruments = Instruments::open(isa, Some(allocations::COUNTERS))?;
        let training = self.training.open(settings, self.output.folder(), (threads, isa))?;
        let Training { stepper, config, name, text, tokenizer, folder } = training;
        let mut workload = StepWorkload::new(stepper, stop);
        let about = format!("{} of {text}", workload.about());
        note!("profiling steps of {name}: {about}, on {threads} threads");
        let model = workload.stepper().learner().model();
        let subject =
            subject::subject("train", name, model.config(), (threads, isa)).with_parameters(model.params(), None);
        self.output.check_baseline(&subject, &[(PhaseKind::Step, &about)])?;

        let mut roofs = RoofMeter::new(threads, isa)?;
        let counters = SystemCounters::read();
        let sampled = Sampled::take(&mut workload, self.count(), &mut instruments, &mut roofs).map_err(failed)?;
        let mut trace = self.output.trace();
        let mut phase = sampled.phase(PhaseKind::Step, &workload, roofs.table(), trace.as_mut());
        phase.about = about;
        let mut stages = vec![("data".to_owned(), median(workload.drawing()))];
        stages.extend(phase.passes().into_iter().map(|(pass, seconds)| (pass.name().to_owned(), seconds)));
        // If the disk can't take checkpoints, only their figures are missing from the report.
        match checkpointing(&workload, folder.path(), &config, &tokenizer) {
            Ok(checkpoint) => {
                stages.push(("checkpoint".to_owned(), checkpoint.seconds / checkpoint.interval as f64));
                phase.breakdown.checkpoint = Some(checkpoint);
            }
            Err(error) => note!("warning: checkpoints can't be timed: {}", failure::message(&error.into())),
        }
        workload.go_on().map_err(failed)?;
        phase.breakdown.stages = stages;
        let report = Report::new(subject, roofs.table().clone(), counters.since(), vec![phase]);
        self.output.write(files, report, trace.as_ref(), settings)
    }

    /// How many steps are sampled.
    fn count(&self) -> SampleCount {
        let fit = PerRepeat::Fit { least: 1, most: usize::MAX };
        let per_repeat = self.steps.map_or(fit, |n| PerRepeat::Exactly(n as usize));
        SampleCount { repeats: usize::from(self.runs), per_repeat }
    }
}

fn failed(error: StepError) -> anyhow::Error {
    match error {
        StepError::Stopped => Failure::Interrupted(interrupt::INTERRUPTED.to_owned()).into(),
        StepError::Train(error) => error.into(),
    }
}

/// The cost of checkpoints that are written into the folder `run`, each in place of the one before.
fn checkpointing(
    workload: &StepWorkload<'_>,
    run: &Path,
    config: &TrainConfig,
    tokenizer: &[u8],
) -> Result<Checkpointing, TrainError> {
    let stepper = workload.stepper();
    let mut seconds = Vec::with_capacity(CHECKPOINTS);
    while seconds.len() < CHECKPOINTS && seconds.iter().sum::<f64>() < ENOUGH && workload.go_on().is_ok() {
        let timed = stepper.time_checkpoint(run, seconds.len() as u64, config, tokenizer)?;
        seconds.push(timed.seconds);
        if let Some(warning) = timed.warning {
            note!("warning: {warning}");
        }
    }
    let (interval, all) = (config.checkpoint.interval, config.train.steps);
    Ok(Checkpointing {
        seconds: median(&seconds),
        bytes: (3 * 4 * stepper.learner().model().params().elements()) as f64,
        // Training always ends with a checkpoint.
        interval: if interval == 0 { all } else { interval.min(all) },
    })
}
