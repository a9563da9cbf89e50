//! `smallmind train --data FILE... --out DIR`.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args;
use smallmind::model::chat::ChatTemplates;
use smallmind::train::{
    Event, Existing, Finish, Initial, Overlay, RunDir, Source, Summary, TrainConfig, TrainError, Trainer, prepare,
    prepare_initial,
};

use super::failure::{Failure, Outcome, usage};
use super::progress::Reporter;
use super::reads::Reads;
use super::settings::Settings;
use super::{environment, hints, interrupt, models, nanogpt, note, output, units};

/// The setting that `--seed` sets.
const SEED_KEY: &str = "train.seed";

/// The message of the first Ctrl-C.
pub const STOPPING: &str = "stopping; a training that has begun ends with a checkpoint (Ctrl-C again ends at once)";

/// Options of `train`.
#[derive(Debug, Args)]
#[command(after_help = settings_help())]
pub struct Train {
    /// Text files, - for standard input, joined end to end and divided into documents at data.separator; each line of a
    /// .jsonl file is a document. The last tenth is for validation
    #[arg(long, num_args = 1.., value_name = "FILE", required_unless_present = "resume")]
    data: Vec<PathBuf>,
    /// The folder of the run
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Shape and settings to begin with
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Begin with the weights, shape and tokenizer of a model: a run folder, a Hugging Face folder, a GGUF file,
    /// or hf:OWNER/NAME for one that was downloaded. Quantized weights are trained in f32. Without other settings the
    /// rate is 5e-5, a batch has 4 sequences, and a sequence has at most 1024 tokens
    #[arg(long, value_name = "MODEL")]
    init_from: Option<String>,
    #[command(flatten)]
    allowed: models::Allowed,
    /// A TOML file of settings; may be given several times, later ones win
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Continue the run in FOLDER
    #[arg(long)]
    resume: bool,
    /// Replace the run or the model in FOLDER, once the new run has its first checkpoint
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
}

/// The names of all settings, and nanoGPT's, as part of the help.
fn settings_help() -> String {
    let wrapped = |names: Vec<&str>| {
        let mut text = String::new();
        let mut width = usize::MAX;
        for name in names {
            if width.saturating_add(name.len()) > 96 {
                text.push_str("\n ");
                width = 1;
            }
            text.push(' ');
            text.push_str(name);
            width += name.len() + 1;
        }
        text
    };
    let presets = super::new::presets();
    format!(
        "Settings, as --section.key=value, in a file as [section] key = value, or in the environment as \
         SMALLMIND_SECTION_KEY (a flag beats the environment, which beats the file, which beats the preset; an empty \
         variable counts as unset):{}\n\n\
         nanoGPT's names are understood too, as --n_layer=4; what has no counterpart is passed over or refused, with \
         the reason:{}\n\n{presets}",
        wrapped(TrainConfig::keys()),
        wrapped(nanogpt::names().collect()),
    )
}

/// Where a training reports to, and from where it is stopped.
struct Console {
    reporter: Reporter,
    /// Set by a signal.
    stop: &'static AtomicBool,
}

impl Train {
    pub(super) fn run(self, settings: &Settings, assignments: Vec<Overlay>) -> Outcome {
        let isa = settings.isa()?;
        let overlays = self.overlays(settings, assignments)?;
        let stop = interrupt::watch(STOPPING)?;
        let mut console = Console { reporter: Reporter::new(settings, stop), stop };
        let mut trainer = if self.resume {
            if !self.data.is_empty() {
                note!("note: the run has its own copy of its data; --data is passed over");
            }
            Trainer::resume(&self.out, &overlays, settings.threads(), isa)?
        } else {
            match TrainConfig::initial_model(&overlays)? {
                Some(model) => self.begin_with(Path::new(model), &overlays, settings, &mut console)?,
                None => self.begin(&overlays, settings, &mut console)?,
            }
        };
        let Console { mut reporter, .. } = console;
        let ended = trainer.run(stop, &mut |event: &Event| reporter.event(event));
        let told = reporter.finish();
        let summary = ended?;
        told?;
        if !settings.is_json() {
            output::print(&describe(&summary, &self.out))?;
        }
        if summary.finish == Finish::Interrupted {
            return Err(interrupted(&summary, &self.out));
        }
        hints::after_training(&self.out, trainer.first_words().as_deref());
        Ok(())
    }

    /// A new training, from random weights.
    fn begin(&self, overlays: &[Overlay], settings: &Settings, console: &mut Console) -> anyhow::Result<Trainer> {
        let config = TrainConfig::with_overlays(self.preset.as_deref(), overlays)?;
        config.check_cpu(settings.isa()?)?;
        let dir = self.claim(&self.reads(), console.stop)?;
        let source = Source::Files(&self.data);
        let prepared = prepare(&dir.staging(), &config, source, &mut |p| console.reporter.prepare(p))?;
        let isa = settings.isa()?;
        unless_stopped(dir, |dir| Trainer::create(dir, config, prepared, settings.threads(), isa))
    }

    /// A new training that begins with a model.
    fn begin_with(
        &self,
        model: &Path,
        overlays: &[Overlay],
        settings: &Settings,
        console: &mut Console,
    ) -> anyhow::Result<Trainer> {
        let files = models::open_files(model)?;
        let (shape, _) = files.configs(self.allowed.unknown_keys()).map_err(models::with_flag)?;
        let config = TrainConfig::with_initial(self.preset.as_deref(), &shape, overlays)?;
        config.check_cpu(settings.isa()?)?;
        let context = config.context()?;
        if context < shape.context && !overlays.iter().any(|overlay| overlay.sets("model.context")) {
            let most = shape.context;
            note!("note: sequences of {context} tokens are trained; --model.context takes up to the model's {most}");
        }
        let dir = self.claim(&self.reads().and_open_model(model, &files)?, console.stop)?;
        let tokenizer = models::tokenizer_in(model, &files)?;
        let templates = ChatTemplates::of_files(&files)?;
        let initial = Initial { model: self.allowed.load(&files)?, tokenizer, templates };
        let source = Source::Files(&self.data);
        let prepared =
            prepare_initial(&dir.staging(), &config, &initial, source, &mut |p| console.reporter.prepare(p))?;
        let (parts, isa) = ((initial.model, prepared), settings.isa()?);
        unless_stopped(dir, |dir| Trainer::create_from(dir, config, parts, settings.threads(), isa))
    }

    /// The text files. Not `--config`: a new run may begin with the settings of the run that it replaces.
    fn reads(&self) -> Reads {
        Reads::nothing().and(&self.data)
    }

    /// Claims the folder, in which none of `reads` may be replaced. Nothing is once `stop` is set.
    fn claim(&self, reads: &Reads, stop: &'static AtomicBool) -> anyhow::Result<RunDir> {
        let lost = RunDir::replaceable(&self.out);
        if let Some(file) = lost.iter().find_map(|out| reads.within(out)).filter(|_| self.overwrite) {
            let (file, out) = (file.display(), self.out.display());
            return Err(usage(format!(
                "{file}: this file is read for the new run, which would replace it; choose another folder than {out}"
            )));
        }
        let mut dir = RunDir::claim(&self.out, if self.overwrite { Existing::Replace } else { Existing::Refuse })?;
        if let Some(found) = dir.replaces() {
            note!("note: in {} the new run will replace {found}", self.out.display());
        }
        dir.stop_with(stop);
        Ok(dir)
    }

    /// The overlays of settings; each overrides the ones before it.
    fn overlays(&self, settings: &Settings, assignments: Vec<Overlay>) -> anyhow::Result<Vec<Overlay>> {
        let mut overlays = Vec::new();
        if let Some(name) = self.preset.as_ref().filter(|_| self.resume) {
            overlays.push(Overlay::of_text("model.preset", name, format!("--preset={name}"))?);
        }
        for path in &self.config {
            overlays.push(Overlay::file(path)?);
        }
        overlays.extend(environment::overlays()?);
        environment::note_unknown_variables();
        if let Some(seed) = settings.seed_overlay()? {
            if settings.seed_is_flag() && assignments.iter().any(|overlay| overlay.sets(SEED_KEY)) {
                return Err(usage(format!("--seed and --{SEED_KEY} are one setting: give one of them")));
            }
            overlays.push(seed);
        }
        if let Some(model) = &self.init_from {
            overlays.push(Overlay::of_text("model.init_from", model, format!("--init-from={model}"))?);
        }
        overlays.extend(assignments);
        self.tell_min_lr(&overlays)?;
        Ok(overlays)
    }

    /// Notes if the lowest learning rate follows from the highest.
    fn tell_min_lr(&self, overlays: &[Overlay]) -> anyhow::Result<()> {
        if !self.resume
            && let Some(min_lr) = TrainConfig::implied_min_lr(self.preset.as_deref(), overlays)?
        {
            note!("note: train.min_lr is {min_lr}, a tenth of train.lr, as the preset's lies above that");
        }
        Ok(())
    }
}

/// Begins a run in a claimed folder, unless the user has stopped it.
///
/// # Errors
/// Those of `create`; a signal that came before the first step.
pub fn unless_stopped(
    dir: RunDir,
    create: impl FnOnce(RunDir) -> Result<Trainer, TrainError>,
) -> anyhow::Result<Trainer> {
    let replaces = dir.replaces().is_some();
    interrupt::check_before_training(replaces)?;
    create(dir).map_err(|error| match error {
        TrainError::Stopped => interrupt::before_training(replaces),
        error => error.into(),
    })
}

/// The failure of an interrupted run, with the command that resumes it.
pub fn interrupted(summary: &Summary, run: &Path) -> anyhow::Error {
    let resume = format!("{} train --out {} --resume", hints::program(), hints::quoted(run));
    Failure::Interrupted(format!("interrupted after step {}; go on with: {resume}", summary.steps)).into()
}

/// A summary for people.
pub fn describe(summary: &Summary, run: &Path) -> String {
    let loss = |loss: Option<f64>| loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"));
    let bits = summary.bits_per_byte.map(|bits| format!(", {bits:.3} bits a byte")).unwrap_or_default();
    let earlier = summary.best_val_loss < summary.val_loss && summary.full_val_loss.is_some();
    let of_last = if earlier { ", of the last weights; the folder keeps the best" } else { "" };
    let rows = [
        ("training loss", loss(summary.train_loss)),
        (
            "validation loss",
            format!("{} on random batches, at best {}", loss(summary.val_loss), loss(summary.best_val_loss)),
        ),
        ("whole validation", format!("{}{bits}{of_last}", loss(summary.full_val_loss))),
        ("steps", format!("{} in {}", units::grouped(summary.steps), units::seconds(summary.seconds))),
        ("speed", format!("{} tokens/s", units::rate(summary.tokens_per_second))),
        ("model", run.display().to_string()),
        ("checkpoint", summary.checkpoint.display().to_string()),
    ];
    rows.iter().map(|(name, value)| format!("{name:<17} {value}\n")).collect()
}
