//! The folder of a run: a Hugging Face folder with the trainer's state.
//!
//! ```text
//! RUN/config.json, tokenizer.json, model.safetensors   the model: the best so far by validation loss
//! RUN/train.toml                                       the settings of the training
//! RUN/log.jsonl, log.csv                               a line for each logged step and estimate
//! RUN/train.lock                                       empty; locked while a training writes here: see `run_dir`
//! RUN/data/                                            token shards
//! RUN/checkpoints/step-00000250/                       a model, trainer.json, trainer.safetensors, manifest.json
//! ```

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smallmind_checkpoint::{
    CONFIG_FILE, CheckpointError, Rolling, TOKENIZER_FILE, TensorData, TensorFile, TensorWriter, ValidCheckpoint,
    WEIGHTS_FILE, json_problem, read_config, write_file_atomic,
};
use smallmind_model::{Model, ModelConfig, ModelError, UnknownKeys};

use crate::config::{DataSection, TrainConfig};
use crate::event::{EvalEvent, Event, StepEvent};
use crate::overlay::Overlay;
use crate::run_dir::{RunDir, is_run};
use crate::{Learner, Moments, TrainError};

pub(crate) const CHECKPOINTS: &str = "checkpoints";
const STATE_FILE: &str = "trainer.json";
const MOMENTS_FILE: &str = "trainer.safetensors";
/// The tensor of the weights that a model's file rounds: see [`Model::shifted`].
const SHIFTED: &str = "shifted_weights";
/// The most differences that an error lists.
const MOST_TOLD: usize = 5;
pub(crate) const CONFIG_COPY: &str = "train.toml";
pub(crate) const LOG_FILE: &str = "log.jsonl";
pub(crate) const CSV_FILE: &str = "log.csv";
const CSV_HEADER: &str = "step,loss,lr,grad_norm,tokens_per_second,seconds,train_loss,val_loss,bits_per_byte";

/// The state of training except weights and moments. It has no random state: batches and dropout masks depend only on
/// seed and step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The version of this format in the program that wrote it.
    pub schema_version: u32,
    /// Updates done.
    pub step: u64,
    /// The settings.
    pub config: TrainConfig,
    /// Lowest estimate of the validation loss, in nats; `None` before the first.
    pub best_val_loss: Option<f64>,
    /// Last estimates of the training loss and of the validation loss, in nats.
    pub last_losses: Option<(f64, f64)>,
    /// Seconds of training, over all sessions.
    pub seconds: f64,
}

/// Version of the layout of [`TrainerState`] in `trainer.json`.
pub const STATE_VERSION: u32 = 1;

/// The files of a run: model, settings and logs.
#[derive(Debug)]
pub struct RunFiles {
    dir: RunDir,
    log: File,
    csv: File,
    /// Buffer for a line. It is kept, so that logging a step allocates nothing.
    line: Vec<u8>,
}

impl RunFiles {
    /// Writes settings and empty logs of a new run into the staging folder of `dir`.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn create(dir: RunDir, config: &TrainConfig) -> Result<Self, TrainError> {
        let staging = dir.staging();
        write_config(&staging, config)?;
        let mut run = Self::open_logs(dir, &staging)?;
        run.csv_line(format_args!("{CSV_HEADER}"))?;
        Ok(run)
    }

    /// Opens the run in `dir` to resume it after `step` updates. Removes later lines of the logs, and the estimates at
    /// the end of the run, which are made again.
    ///
    /// # Errors
    /// Logs that can't be read or written.
    pub fn reopen(dir: RunDir, config: &TrainConfig, step: u64) -> Result<Self, TrainError> {
        let path = dir.path().to_owned();
        let stays = |s: u64, estimate: bool| s <= step && !(estimate && s >= config.train.steps);
        truncate(&path.join(LOG_FILE), None, |line| {
            let event = serde_json::from_slice::<Value>(line).ok()?;
            let step = event.get("step").and_then(Value::as_u64)?;
            Some(stays(step, event.get("event").is_some_and(|kind| kind == "eval")))
        })?;
        let columns = CSV_HEADER.split(',').count();
        truncate(&path.join(CSV_FILE), Some(CSV_HEADER), |row| {
            let cells: Vec<&str> = std::str::from_utf8(row).ok()?.split(',').collect();
            let step = cells[0].parse().ok().filter(|_| cells.len() == columns)?;
            Some(stays(step, cells[1].is_empty()))
        })?;
        // A file with the same settings is not rewritten, since it may have comments.
        let told = edited_settings(&path)?.map(|told| config.resumed(&[told])).transpose();
        if !told.is_ok_and(|told| told.as_ref() == Some(config)) {
            write_config(&path, config)?;
        }
        Self::open_logs(dir, &path)
    }

    fn open_logs(dir: RunDir, place: &Path) -> Result<Self, TrainError> {
        let open = |name: &str| {
            let file = place.join(name);
            let opened = OpenOptions::new().create(true).append(true).open(&file);
            opened.map_err(|source| TrainError::Write { path: file, source })
        };
        let (log, csv) = (open(LOG_FILE)?, open(CSV_FILE)?);
        Ok(Self { dir, log, csv, line: Vec::with_capacity(512) })
    }

    /// Moves the new run from the staging folder into its folder: [`RunDir::publish`].
    ///
    /// # Errors
    /// As [`RunDir::publish`].
    pub fn publish(&mut self) -> Result<Option<TrainError>, TrainError> {
        self.dir.publish()
    }

    /// The folder that a new run is written into before it is published.
    pub fn staging(&self) -> PathBuf {
        self.dir.staging()
    }

    /// Whether a lock keeps other training runs out.
    pub fn is_locked(&self) -> bool {
        self.dir.is_locked()
    }

    /// The folder of the run.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Appends a step or an estimate to the logs; other events are not logged. Allocates nothing for a step.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn log(&mut self, event: &Event) -> Result<(), TrainError> {
        match event {
            Event::Step(StepEvent { step, loss, lr, grad_norm, tokens_per_second, seconds, .. }) => {
                self.csv_line(format_args!("{step},{loss},{lr},{grad_norm},{tokens_per_second:.0},{seconds:.2},,,"))?;
            }
            Event::Eval(EvalEvent { step, train_loss, val_loss, bits_per_byte, .. }) => {
                let bits = bits_per_byte.map(|b| b.to_string()).unwrap_or_default();
                self.csv_line(format_args!("{step},,,,,,{train_loss},{val_loss},{bits}"))?;
            }
            Event::Started(_)
            | Event::Sample { .. }
            | Event::Checkpoint { .. }
            | Event::Warning { .. }
            | Event::Done(_) => return Ok(()),
        }
        self.line.clear();
        let put = serde_json::to_writer(&mut self.line, event).map_err(std::io::Error::other);
        self.line.push(b'\n');
        // A line is one write, so that a killed process leaves whole lines.
        let written = put.and_then(|()| self.log.write_all(&self.line));
        written.map_err(|source| TrainError::Write { path: self.path().join(LOG_FILE), source })
    }

    fn csv_line(&mut self, line: std::fmt::Arguments<'_>) -> Result<(), TrainError> {
        self.line.clear();
        let written = writeln!(self.line, "{line}").and_then(|()| self.csv.write_all(&self.line));
        written.map_err(|source| TrainError::Write { path: self.path().join(CSV_FILE), source })
    }

    /// Writes `model` as the run's model.
    ///
    /// # Errors
    /// A disk that is full; the earlier model is untouched.
    pub fn publish_model(&self, model: &Model) -> Result<(), TrainError> {
        Ok(model.save(self.path())?)
    }
}

fn write_config(folder: &Path, config: &TrainConfig) -> Result<(), TrainError> {
    let path = folder.join(CONFIG_COPY);
    // A link to another file stays a link.
    let path = path.canonicalize().unwrap_or(path);
    let text =
        toml::to_string_pretty(config).map_err(|e| TrainError::Toml { path: path.clone(), why: e.to_string() })?;
    Ok(write_file_atomic(path, |out| out.write_all(text.as_bytes()))?)
}

/// The settings in `RUN/train.toml`, which the user may have edited since the last checkpoint; `None` if there is no
/// such file.
///
/// # Errors
/// A file that can't be read or isn't TOML.
pub fn edited_settings(run: &Path) -> Result<Option<Overlay>, TrainError> {
    let path = run.join(CONFIG_COPY);
    if path.symlink_metadata().is_err() { Ok(None) } else { Overlay::file(&path).map(Some) }
}

/// The settings with which a run divided its text: those of its newest whole checkpoint, or else of its `train.toml`.
///
/// # Errors
/// No whole checkpoint, and a `train.toml` that can't be read.
pub fn data_settings(run: &Path) -> Result<DataSection, TrainError> {
    match latest(run) {
        Ok((_, state, _)) => Ok(state.config.data),
        Err(_) => TrainConfig::data_of(edited_settings(run)?.as_slice()),
    }
}

/// Copies the tokenizer of a checkpoint to `run` if that has none; returns whether it did.
///
/// # Errors
/// A disk that is full.
pub fn restore_tokenizer(run: &Path, checkpoint: &Path) -> Result<bool, TrainError> {
    let path = run.join(TOKENIZER_FILE);
    if path.exists() {
        return Ok(false);
    }
    let from = checkpoint.join(TOKENIZER_FILE);
    let bytes = std::fs::read(&from).map_err(|source| TrainError::Read { path: from, source })?;
    write_file_atomic(path, |out| out.write_all(&bytes))?;
    Ok(true)
}

/// Rewrites a log: `header`, then the lines for which `stays` is true. Lines that this program did not write (`None`)
/// stay, except a last line without a line feed, which a killed process left unfinished.
fn truncate(path: &Path, header: Option<&str>, stays: impl Fn(&[u8]) -> Option<bool>) -> Result<(), TrainError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => vec![],
        Err(source) => return Err(TrainError::Read { path: path.to_owned(), source }),
    };
    let mut kept = header.map(|header| format!("{header}\n").into_bytes()).unwrap_or_default();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n");
        let is_header = header.is_some_and(|header| text == Some(header.as_bytes()));
        if !is_header && stays(text.unwrap_or(line)).unwrap_or(text.is_some()) {
            kept.extend_from_slice(text.unwrap_or(line));
            kept.push(b'\n');
        }
    }
    Ok(write_file_atomic(path, |out| out.write_all(&kept))?)
}

/// The checkpoints of a run.
pub fn checkpoints(run: &Path, keep: usize) -> Rolling {
    Rolling::new(run.join(CHECKPOINTS), "step-", NonZeroUsize::new(keep).unwrap_or(NonZeroUsize::MIN))
}

/// Publishes a checkpoint of `learner`: a model, and everything that resuming bit for bit needs.
///
/// # Errors
/// A disk that is full or fails; the earlier checkpoints are untouched.
pub fn write_checkpoint(
    rolling: &Rolling,
    learner: &Learner,
    state: &TrainerState,
    tokenizer: &[u8],
) -> Result<smallmind_checkpoint::Published, TrainError> {
    let Moments { first, second } = learner.moments();
    let mut moments = TensorWriter::new();
    moments.add("moment1", &[first.len()], TensorData::F32(first))?;
    moments.add("moment2", &[second.len()], TensorData::F32(second))?;
    let model = learner.model();
    let shifted: Vec<f32> = model.shifted()?.into_iter().flat_map(|range| &model.weights()[range]).copied().collect();
    if !shifted.is_empty() {
        moments.add(SHIFTED, &[shifted.len()], TensorData::F32(&shifted))?;
    }
    let config = learner.model().config_bytes()?;
    let json = serde_json::to_vec_pretty(state).map_err(|e| TrainError::Write {
        path: rolling.path_of(state.step).join(STATE_FILE),
        source: std::io::Error::other(e),
    })?;
    let published = learner.model().with_writer(|weights| {
        rolling.publish(state.step, |folder| {
            folder.write(CONFIG_FILE, |out| out.write_all(&config))?;
            folder.write(TOKENIZER_FILE, |out| out.write_all(tokenizer))?;
            folder.write(WEIGHTS_FILE, |out| weights.write_to(out))?;
            folder.write(MOMENTS_FILE, |out| moments.write_to(out))?;
            folder.write(STATE_FILE, |out| out.write_all(&json))
        })
    })?;
    Ok(published)
}

/// The warning about an old checkpoint that could not be removed.
pub fn not_removed(error: &CheckpointError) -> String {
    format!("an old checkpoint could not be removed: {error}")
}

/// The newest whole checkpoint of a run, its state, and messages about newer ones that are damaged.
///
/// # Errors
/// No run, or none of its checkpoints is whole.
pub fn latest(run: &Path) -> Result<(ValidCheckpoint, TrainerState, Vec<String>), TrainError> {
    let rolling = checkpoints(run, 1);
    if !is_run(run) {
        let why = if run.is_dir() { "it has no folder `checkpoints`" } else { "there is no such folder" };
        return Err(TrainError::NoRun { path: run.to_owned(), why: why.into() });
    }
    let found = rolling.latest_valid()?;
    let warnings: Vec<String> = found.damaged.iter().map(|(_, e)| e.to_string()).collect();
    let Some(checkpoint) = found.checkpoint else {
        return Err(match warnings.len() {
            0 => TrainError::NoRun {
                path: run.to_owned(),
                why: "its folder `checkpoints` is empty, so that weights and moments to go on from are lost".into(),
            },
            _ => TrainError::Damaged { path: rolling.dir().to_owned(), why: warnings.join("; ") },
        });
    };
    let path = checkpoint.path.join(STATE_FILE);
    let bytes = std::fs::read(&path).map_err(|source| TrainError::Read { path: path.clone(), source })?;
    let bad = |why: String| TrainError::NoRun { path: path.clone(), why };
    // The version is checked first, since another version may have other fields.
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(json_problem(&e)))?;
    match value.get("schema_version").and_then(Value::as_u64) {
        Some(version) if version == u64::from(STATE_VERSION) => {}
        version => {
            let version = version.map_or_else(|| "missing".to_owned(), |v| v.to_string());
            return Err(bad(format!("its version is {version}, this program reads {STATE_VERSION}")));
        }
    }
    let state: TrainerState = serde_json::from_value(value).map_err(|e| bad(json_problem(&e)))?;
    Ok((checkpoint, state, warnings))
}

/// The folder of the newest whole checkpoint of a run, which is a model; `None` if no checkpoint is whole.
///
/// # Errors
/// A folder that can't be read.
pub fn latest_checkpoint(run: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(checkpoints(run, 1).latest_valid()?.checkpoint.map(|checkpoint| checkpoint.path))
}

/// The model of a checkpoint, bit for bit as it was trained.
///
/// # Errors
/// Files that are missing, damaged, or of another model.
pub fn read_model(checkpoint: &Path) -> Result<Model, TrainError> {
    let mut model = Model::load(checkpoint)?;
    let ranges = model.shifted()?;
    if !ranges.is_empty() {
        let mut shifted = vec![0.0; ranges.iter().map(ExactSizeIterator::len).sum()];
        TensorFile::open(checkpoint.join(MOMENTS_FILE))?.read_finite_f32(SHIFTED, &mut shifted)?;
        let mut rest = &shifted[..];
        for range in ranges {
            let (values, after) = rest.split_at(range.len());
            model.weights_mut()[range].copy_from_slice(values);
            rest = after;
        }
    }
    Ok(model)
}

/// Checks that the run's own `config.json`, if it can be read, states the model of the checkpoint. Dropout, which a
/// resumed run may change, does not count, nor does what is no shape: the tokens around a text, and how weights begin.
///
/// # Errors
/// [`TrainError::Shape`].
pub fn check_shape(run: &Path, checkpoint: &Path) -> Result<(), TrainError> {
    let path = run.join(CONFIG_FILE);
    let Ok(of_run) = read_config(&path) else { return Ok(()) };
    let of_checkpoint = read_config(checkpoint.join(CONFIG_FILE))?;
    let parsed = |value: &Value| {
        let config = ModelConfig::from_json_with(value, UnknownKeys::Allow);
        let ModelConfig { dropout, init_std, bos, eos, .. } = ModelConfig::default();
        config.map(|config| ModelConfig { dropout, init_std, bos, eos, ..config })
    };
    let checkpoint = parsed(&of_checkpoint).map_err(ModelError::from)?;
    if parsed(&of_run).is_ok_and(|run| run == checkpoint) {
        return Ok(());
    }
    let keys = [&of_run, &of_checkpoint].into_iter().filter_map(Value::as_object).flat_map(Map::keys);
    // Keys of other programs change nothing.
    let matters = |key: &&String| {
        let mut changed = of_checkpoint.clone();
        changed[key.as_str()] = of_run.get(*key).cloned().unwrap_or_default();
        !parsed(&changed).is_ok_and(|changed| changed == checkpoint)
    };
    let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    let told = |key: &String| {
        format!("it says `{key}` {}, the checkpoint {}", shown(of_run.get(key)), shown(of_checkpoint.get(key)))
    };
    let differing: BTreeSet<&String> =
        keys.filter(|key| of_run.get(*key) != of_checkpoint.get(*key)).filter(matters).collect();
    let mut differences = differing.into_iter().take(MOST_TOLD).map(told).collect::<Vec<_>>().join("; ");
    if differences.is_empty() {
        differences = "it states another model than the checkpoint".to_owned();
    }
    Err(TrainError::Shape { path, differences })
}

/// Reads AdamW's moments from a checkpoint.
///
/// # Errors
/// A file that is missing, damaged, or of another model.
pub fn read_moments(checkpoint: &Path, moments: Moments<&mut [f32]>) -> Result<(), TrainError> {
    let file = TensorFile::open(checkpoint.join(MOMENTS_FILE))?;
    file.read_finite_f32("moment1", moments.first)?;
    file.read_finite_f32("moment2", moments.second)?;
    Ok(())
}
