//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use smallmind_checkpoint::{
    CONFIG_FILE, Rolling, TOKENIZER_FILE, WEIGHTS_FILE, WeightFiles, read_config, write_file_atomic,
};
use smallmind_graph::{Batch, NoProbe, Probe};
use smallmind_model::tokenizer::{SpecialText, Tokenizer};
use smallmind_model::{Model, ModelConfig, ModelError};
use smallmind_simd::IsaKind;

use crate::batches::Batches;
use crate::config::{ScheduleKind, TrainConfig};
use crate::data::{Dataset, Draw, Split};
use crate::evaluate::WholeSet;
use crate::event::{EvalEvent, Event, Finish, Started, StepEvent, Summary};
use crate::overlay::Overlay;
use crate::prepare::{self, Prepared};
use crate::run_dir::RunDir;
use crate::run_files::{self, RunFiles, STATE_VERSION, TrainerState};
use crate::sample::{self, Samples};
use crate::schedule::{Cosine, Schedule, Warmup, WarmupFrom, WarmupStableDecay};
use crate::stepper::{StepSettings, Stepper};
use crate::{Learner, TrainError};

/// Combined with the seed, so that estimates draw other windows than training.
const EVAL_TRAIN: u64 = 0x6576_616c_0001;
const EVAL_VALIDATION: u64 = 0x6576_616c_0002;
/// Share of the steps over which a warm-up-stable-decay schedule decays.
const DECAY_FRACTION: f64 = 0.2;

/// A training run: a learner, its data, its folder.
pub struct Trainer {
    state: TrainerState,
    stepper: Stepper,
    samples: Option<Samples>,
    tokenizer_json: Vec<u8>,
    validation: Dataset,
    folder: RunFiles,
    rolling: Rolling,
    validation_batches: Batches,
    threads: usize,
    isa: IsaKind,
    resumed_from: Option<u64>,
    /// Folder of the first checkpoint of a new run, until its event is emitted.
    first_checkpoint: Option<PathBuf>,
    warnings: Vec<String>,
    last_checkpoint: Option<u64>,
}

/// The parts of a trainer.
struct Parts {
    state: TrainerState,
    model: Model,
    prepared: Prepared,
    folder: RunFiles,
}

/// Figures of a step.
struct StepStats {
    /// Mean loss of its tokens, before the update.
    loss: f64,
    /// Learning rate of the update.
    lr: f64,
    /// Global norm of the gradients, before clipping.
    grad_norm: f32,
}

/// The beginning of the interval for the rates of the next step event.
struct Lap {
    started: Instant,
    step: u64,
    /// Seconds of estimates, samples and checkpoints before this, which don't count as training.
    paused: f64,
}

impl Trainer {
    /// Begins a run with the data that [`prepare::prepare`] put into the staging folder of `dir`. Writes the first
    /// checkpoint and publishes the run: from then on it can be resumed even if the process is killed.
    ///
    /// # Errors
    /// Settings that don't make a valid run, text shorter than a window, too little memory, a disk that is full. Then
    /// `dir` is as before the claim.
    pub fn create(
        dir: RunDir,
        config: TrainConfig,
        prepared: Prepared,
        threads: usize,
        isa: IsaKind,
    ) -> Result<Self, TrainError> {
        let model = Model::random(model_config(&config, &prepared.tokenizer)?, config.train.seed)?;
        Self::begin(dir, config, (model, prepared), threads, isa)
    }

    /// As [`Trainer::create`], but training begins with `model`, from which [`TrainConfig::with_initial`] made the
    /// settings and [`prepare_initial`](crate::prepare_initial) the data.
    ///
    /// # Errors
    /// As [`Trainer::create`]; a model that can't be trained with these settings or doesn't fit the tokenizer.
    pub fn create_from(
        dir: RunDir,
        config: TrainConfig,
        (model, prepared): (Model, Prepared),
        threads: usize,
        isa: IsaKind,
    ) -> Result<Self, TrainError> {
        let model = config.continued(model, &prepared.tokenizer)?;
        Self::begin(dir, config, (model, prepared), threads, isa)
    }

    fn begin(
        dir: RunDir,
        config: TrainConfig,
        (model, prepared): (Model, Prepared),
        threads: usize,
        isa: IsaKind,
    ) -> Result<Self, TrainError> {
        let folder = RunFiles::create(dir, &config)?;
        let state = TrainerState {
            schema_version: STATE_VERSION,
            step: 0,
            config,
            best_val_loss: None,
            last_losses: None,
            seconds: 0.0,
        };
        let mut trainer = Self::assemble(Parts { state, model, prepared, folder }, threads, isa)?;
        trainer.check_finite()?;
        let first = run_files::checkpoints(&trainer.folder.staging(), 1);
        let (learner, state) = (&trainer.stepper.learner, &trainer.state);
        let _ = run_files::write_checkpoint(&first, learner, state, &trainer.tokenizer_json)?;
        if let Some(error) = trainer.folder.publish()? {
            trainer.warnings.push(format!("some of the run that was replaced could not be removed: {error}"));
        }
        trainer.last_checkpoint = Some(0);
        trainer.first_checkpoint = Some(trainer.rolling.path_of(0));
        Ok(trainer)
    }

    /// Resumes the run in the folder `run` from its newest whole checkpoint, bit for bit, with any number of threads.
    ///
    /// `train.toml` in the folder, and then `overlays`, may change the number of steps and every setting on which no
    /// step depends. Files of the model that are missing or damaged are written again.
    ///
    /// # Errors
    /// No run; another training run that locks the folder; no whole checkpoint; data of another run; a change of a
    /// fixed setting; fewer steps than are done; [`TrainError::Shape`] for a `config.json` in the folder that states
    /// another model than the checkpoint.
    pub fn resume(run: &Path, overlays: &[Overlay], threads: usize, isa: IsaKind) -> Result<Self, TrainError> {
        let dir = RunDir::open(run)?;
        // A process that was killed while it replaced a checkpoint leaves the old one under another name.
        run_files::checkpoints(run, 1).clean()?;
        let (checkpoint, mut state, mut warnings) = run_files::latest(run)?;
        run_files::check_shape(run, &checkpoint.path)?;
        state.config = resumed_config(run, &state.config, overlays, &mut warnings)?;
        if state.config.train.steps < state.step {
            return Err(TrainError::StepsDone { asked: state.config.train.steps, done: state.step });
        }
        if run_files::restore_tokenizer(run, &checkpoint.path)? {
            warnings.push(restored(TOKENIZER_FILE, state.step));
        }
        let prepared = prepare::open(run)?;
        let mut model = run_files::read_model(&checkpoint.path)?;
        if state.config.model.init_from.is_some() {
            model = state.config.continued(model, &prepared.tokenizer)?;
        } else if *model.config() != model_config(&state.config, &prepared.tokenizer)? {
            let why = "its model has another shape than its settings and its tokenizer say".to_owned();
            return Err(TrainError::NoRun { path: checkpoint.path, why });
        }
        let folder = RunFiles::reopen(dir, &state.config, state.step)?;
        let step = state.step;
        if state.best_val_loss.is_some() {
            mend_model(&folder, &model, &mut state, &mut warnings)?;
        }
        let mut trainer = Self::assemble(Parts { state, model, prepared, folder }, threads, isa)?;
        trainer.stepper.learner.restore(step, |moments| run_files::read_moments(&checkpoint.path, moments))?;
        trainer.resumed_from = Some(step);
        trainer.last_checkpoint = Some(step);
        trainer.warnings.extend(warnings);
        Ok(trainer)
    }

    fn assemble(parts: Parts, threads: usize, isa: IsaKind) -> Result<Self, TrainError> {
        let Parts { state, model, prepared, folder } = parts;
        let config = &state.config;
        let settings = StepSettings::of(config)?;
        prepare::check_length(Split::Train, prepared.train.tokens(), settings.shape.context)?;
        prepare::check_length(Split::Validation, prepared.validation.tokens(), settings.shape.context)?;
        let samples = Samples::new(config, &model, &prepared, threads, isa)?;
        let Prepared { tokenizer, train, validation } = prepared;
        let end = tokenizer.eos();
        let prefix = if config.model.init_from.is_some() { tokenizer.prompt_prefix() } else { &[] };
        let rolling = run_files::checkpoints(folder.path(), config.checkpoint.keep);
        let mut warnings = vec![];
        if !folder.is_locked() {
            let path = folder.path().display();
            warnings.push(format!("{path}: its file system has no locks, so nothing keeps a second training out"));
        }
        Ok(Self {
            samples,
            validation_batches: Batches::new(settings.windows, &validation, end, settings.shape)?
                .with_prefix(prefix)?,
            stepper: Stepper::new(model, settings, (train, end), threads, isa)?.with_prefix(prefix)?,
            tokenizer_json: tokenizer.to_json()?.into_bytes(),
            state,
            validation,
            folder,
            rolling,
            threads,
            isa,
            resumed_from: None,
            first_checkpoint: None,
            warnings,
            last_checkpoint: None,
        })
    }

    /// A few words of the validation text as the beginning of a text, for a model that can't begin one: it has a token
    /// that begins texts, but its training text doesn't. `None` for other models.
    pub fn first_words(&self) -> Option<String> {
        const TOKENS: usize = 32;
        let tokenizer = Tokenizer::from_bytes(&self.tokenizer_json).ok()?;
        let has_token = tokenizer.bos().or(tokenizer.eos()).is_some();
        if !has_token || sample::begins_texts(&tokenizer, &self.stepper.data).ok()? {
            return None;
        }
        let mut ids = vec![0; self.validation.tokens().min(TOKENS)];
        self.validation.copy(0, &mut ids).ok()?;
        let text = tokenizer.decode(&ids, SpecialText::Skip).ok()?;
        // The text may begin inside of a word, and the tokens may end inside of one.
        let words: Vec<&str> = text.split_whitespace().skip(1).take(3).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }

    /// The last batch that the learner ran.
    pub fn batch(&self) -> &Batch {
        self.stepper.batch()
    }

    /// The learner.
    pub fn learner(&self) -> &Learner {
        self.stepper.learner()
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig {
        &self.state.config
    }

    /// Trains until all steps are done or `stop` is set, and passes each event to `on_event`. In both cases it ends
    /// with a checkpoint.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, or a disk that is full; the last checkpoint stays.
    pub fn run(&mut self, stop: &AtomicBool, on_event: &mut dyn FnMut(&Event)) -> Result<Summary, TrainError> {
        self.run_probed(stop, on_event, &NoProbe)
    }

    /// [`Trainer::run`] with a probe on all forward and backward runs.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn run_probed<P: Probe>(
        &mut self,
        stop: &AtomicBool,
        on_event: &mut dyn FnMut(&Event),
        probe: &P,
    ) -> Result<Summary, TrainError> {
        for message in std::mem::take(&mut self.warnings) {
            on_event(&Event::Warning { message });
        }
        on_event(&Event::Started(self.started()));
        let steps = self.state.config.train.steps;
        let schedule = schedule(&self.state.config);
        if let Some(path) = self.first_checkpoint.take() {
            self.emit(Event::Checkpoint { step: 0, path }, on_event)?;
        }
        let before = self.state.seconds;
        let started = Instant::now();
        let mut paused = 0.0;
        let mut lap = Lap { started, step: self.state.step, paused: 0.0 };
        while self.state.step < steps && !stop.load(Ordering::Relaxed) {
            let lr = schedule.lr(self.state.step);
            let done = self.step(lr, probe)?;
            self.state.seconds = before + started.elapsed().as_secs_f64() - paused;
            if self.due(self.state.config.log.interval) || self.state.step == steps {
                let event = self.step_event(done, &lap, paused);
                lap = Lap { started: Instant::now(), step: self.state.step, paused };
                self.emit(Event::Step(event), on_event)?;
            }
            let pause = Instant::now();
            if self.due_on_the_way(self.state.config.eval.interval) {
                self.estimate(on_event)?;
            }
            if self.due(self.state.config.sample.interval) {
                self.sample(on_event)?;
            }
            if self.due_on_the_way(self.state.config.checkpoint.interval) {
                self.checkpoint(on_event)?;
            }
            paused += pause.elapsed().as_secs_f64();
        }
        self.finish(on_event)
    }

    /// Whether an interval of this many steps ends with the last step.
    fn due(&self, interval: u64) -> bool {
        interval > 0 && self.state.step.is_multiple_of(interval)
    }

    /// [`Trainer::due`], but false at the end of the run, where `finish` does what is due.
    fn due_on_the_way(&self, interval: u64) -> bool {
        self.state.step < self.state.config.train.steps && self.due(interval)
    }

    /// Runs one step.
    fn step<P: Probe>(&mut self, lr: f64, probe: &P) -> Result<StepStats, TrainError> {
        let step = self.state.step;
        let loss = self.stepper.gather(step, probe)? / self.stepper.targets() as f64;
        if !loss.is_finite() {
            return Err(self.non_finite(step + 1, "the loss".into()));
        }
        let update = self.stepper.update(lr, probe)?;
        if !update.grad_norm.is_finite() {
            let learner = self.stepper.learner();
            let name = learner.model().first_non_finite(learner.grads());
            let what = name.map_or_else(|| "the norm of the gradients".into(), |n| format!("the gradient of `{n}`"));
            return Err(self.non_finite(step + 1, what));
        }
        self.state.step += 1;
        Ok(StepStats { loss, lr, grad_norm: update.grad_norm })
    }

    fn non_finite(&self, step: u64, what: String) -> TrainError {
        TrainError::NonFinite { step, what, checkpoint: self.last_checkpoint.unwrap_or(0) }
    }

    /// Checks that the weights and moments can be loaded again, before they replace a good checkpoint.
    fn check_finite(&self) -> Result<(), TrainError> {
        self.stepper.first_non_finite().map_or(Ok(()), |what| Err(self.non_finite(self.state.step, what)))
    }

    /// nanoGPT's estimates: the mean losses of random batches of the training split and of the validation split.
    fn estimate(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<(), TrainError> {
        let seed = self.state.config.train.seed;
        let train_loss = self.estimate_on(Set::Train, seed ^ EVAL_TRAIN)?;
        let val_loss = self.estimate_on(Set::Validation, seed ^ EVAL_VALIDATION)?;
        let best = self.state.best_val_loss.is_none_or(|b| val_loss <= b);
        self.state.last_losses = Some((train_loss, val_loss));
        // An equal loss is that of a finished run that was resumed, whose model is already published.
        if self.state.best_val_loss != Some(val_loss) && best {
            self.check_finite()?;
            self.state.best_val_loss = Some(val_loss);
            self.folder.publish_model(self.stepper.learner.model())?;
        }
        let bits_per_byte = self.validation.bits_per_byte(val_loss);
        self.emit(Event::Eval(EvalEvent { step: self.state.step, train_loss, val_loss, bits_per_byte, best }), on_event)
    }

    fn estimate_on(&mut self, set: Set, seed: u64) -> Result<f64, TrainError> {
        let batches = self.state.config.eval.batches as u64;
        let (mut total, mut targets) = (0.0, 0);
        for i in 0..batches {
            let stepper = &mut self.stepper;
            let (windows, data) = match set {
                Set::Train => (&mut stepper.batches, &*stepper.data),
                Set::Validation => (&mut self.validation_batches, &self.validation),
            };
            targets += windows.targets();
            let step = self.state.step.wrapping_mul(batches).wrapping_add(i);
            windows.fill(data, Draw { seed, step, first_row: 0 }, &mut stepper.batch)?;
            total += stepper.learner.evaluate(&stepper.batch)?;
        }
        let mean = total / targets as f64;
        if mean.is_finite() { Ok(mean) } else { Err(self.non_finite(self.state.step, "the estimated loss".into())) }
    }

    fn sample(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<(), TrainError> {
        let Some(samples) = &mut self.samples else { return Ok(()) };
        let step = self.state.step;
        let text = samples.text(self.stepper.learner.model().weights(), step)?;
        self.emit(Event::Sample { step, text }, on_event)
    }

    fn checkpoint(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<(), TrainError> {
        self.check_finite()?;
        let published =
            run_files::write_checkpoint(&self.rolling, &self.stepper.learner, &self.state, &self.tokenizer_json)?;
        self.last_checkpoint = Some(self.state.step);
        if let Some(error) = &published.not_removed {
            on_event(&Event::Warning { message: run_files::not_removed(error) });
        }
        self.emit(Event::Checkpoint { step: self.state.step, path: published.path }, on_event)
    }

    /// Makes the last estimates, the last checkpoint and the summary.
    fn finish(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<Summary, TrainError> {
        let completed = self.state.step >= self.state.config.train.steps;
        if self.last_checkpoint != Some(self.state.step) {
            // The checkpoint comes before the estimates, which may take a while.
            self.checkpoint(on_event)?;
        }
        let mut whole = None;
        if completed {
            self.estimate(on_event)?;
            let (shape, batches) = (self.stepper.settings.shape, &self.validation_batches);
            let windows = batches.sequential(&self.validation)?;
            let learner = &mut self.stepper.learner;
            let sum = &mut |batch: &Batch| learner.evaluate(batch);
            let set = WholeSet { data: &self.validation, windows: &windows, prefix: batches.prefix(), shape };
            whole = Some(set.losses(sum, &mut |_, _| {})?);
        }
        if completed {
            // The checkpoint is written again, with the last estimates in its state.
            self.checkpoint(on_event)?;
        }
        if self.state.best_val_loss.is_none() {
            self.folder.publish_model(self.stepper.learner.model())?;
        }
        let summary = Summary {
            steps: self.state.step,
            finish: if completed { Finish::Completed } else { Finish::Interrupted },
            train_loss: self.state.last_losses.map(|l| l.0),
            val_loss: self.state.last_losses.map(|l| l.1),
            best_val_loss: self.state.best_val_loss,
            full_val_loss: whole.as_ref().map(|w| w.loss),
            bits_per_byte: whole.and_then(|w| w.bits_per_byte),
            seconds: self.state.seconds,
            tokens_per_second: (self.state.step * self.tokens_per_step() as u64) as f64 / self.state.seconds.max(1e-9),
            checkpoint: self.last_checkpoint.map_or_else(PathBuf::new, |step| self.rolling.path_of(step)),
        };
        self.emit(Event::Done(summary.clone()), on_event)?;
        Ok(summary)
    }

    fn emit(&mut self, event: Event, on_event: &mut dyn FnMut(&Event)) -> Result<(), TrainError> {
        self.folder.log(&event)?;
        on_event(&event);
        Ok(())
    }

    fn tokens_per_step(&self) -> usize {
        self.stepper.settings.tokens()
    }

    fn started(&self) -> Started {
        let model = self.stepper.learner.model();
        let (gradient, update) = (self.stepper.learner.gradient_plan(), self.stepper.learner.update_plan());
        Started {
            parameters: model.params().elements(),
            steps: self.state.config.train.steps,
            tokens_per_step: self.tokens_per_step(),
            train_tokens: self.stepper.data.tokens(),
            validation_tokens: self.validation.tokens(),
            vocab_size: model.config().vocab_size,
            threads: self.threads,
            isa: self.isa.to_string(),
            memory_bytes: model.layout().len() * 16 + gradient.arena_bytes() + update.arena_bytes(),
            resumed_from: self.resumed_from,
        }
    }

    fn step_event(&self, done: StepStats, lap: &Lap, paused: f64) -> StepEvent {
        let StepStats { loss, lr, grad_norm } = done;
        let step = self.state.step;
        let steps = self.state.config.train.steps;
        let seconds = (lap.started.elapsed().as_secs_f64() - (paused - lap.paused)).max(1e-9);
        let per_second = (step - lap.step) as f64 / seconds;
        let tokens = self.tokens_per_step() as f64;
        StepEvent {
            step,
            steps,
            loss,
            lr,
            grad_norm,
            tokens_per_second: per_second * tokens,
            flops_per_second: per_second
                * tokens
                * self.stepper.learner.model().config().training_flops_per_token(self.stepper.settings.shape.context),
            seconds: self.state.seconds,
            remaining_seconds: (steps - step) as f64 / per_second,
        }
    }
}

/// The settings of a resumed run: those of its checkpoint, overridden by its `train.toml`, then by `overlays`.
fn resumed_config(
    run: &Path,
    before: &TrainConfig,
    overlays: &[Overlay],
    warnings: &mut Vec<String>,
) -> Result<TrainConfig, TrainError> {
    let mut config = before.clone();
    if let Some(told) = run_files::edited_settings(run)? {
        config = before.resumed(std::slice::from_ref(&told))?;
        if config != *before {
            let changes = before.differences(&config).join(", ");
            warnings.push(format!("{} is obeyed where it differs from the last checkpoint: {changes}", told.origin));
        }
    }
    config.resumed(overlays)
}

/// Rewrites missing or damaged files of the best model from `last`, the model of the last checkpoint. Weights that are
/// whole are kept.
///
/// # Errors
/// A disk that is full.
fn mend_model(
    folder: &RunFiles,
    last: &Model,
    state: &mut TrainerState,
    warnings: &mut Vec<String>,
) -> Result<(), TrainError> {
    let (run, step) = (folder.path(), state.step);
    let damage = |name: &str, error: String| {
        let missing = run.join(name).symlink_metadata().is_err();
        if missing { restored(name, step) } else { format!("{error}; {name} is written again from step {step}") }
    };
    let config = run.join(CONFIG_FILE);
    if let Err(error) = read_config(&config) {
        warnings.push(damage(CONFIG_FILE, error.to_string()));
        let bytes = last.config_bytes()?;
        write_file_atomic(config, |out| out.write_all(&bytes))?;
    }
    let weights = WeightFiles::open_file(run.join(WEIGHTS_FILE)).map_err(ModelError::from);
    if let Err(error) = weights.and_then(|weights| last.config().check_tensors(&weights)) {
        let lost = state.best_val_loss.map(|loss| format!(" (validation loss {loss:.4})")).unwrap_or_default();
        warnings.push(format!("{}; the best model{lost} is lost", damage(WEIGHTS_FILE, error.to_string())));
        // The last model stands in for the best one until the next estimate.
        folder.publish_model(last)?;
        state.best_val_loss = None;
    }
    Ok(())
}

/// The warning about a missing file that was restored from a checkpoint.
fn restored(name: &str, step: u64) -> String {
    format!("{name} was missing in the run's folder; it is written again from the checkpoint of step {step}")
}

/// The configuration of the model for a tokenizer.
fn model_config(config: &TrainConfig, tokenizer: &Tokenizer) -> Result<ModelConfig, TrainError> {
    let mut shape = config.model_config(tokenizer.vocab_size())?;
    shape.bos = tokenizer.bos();
    shape.eos = tokenizer.eos().into_iter().collect();
    Ok(shape)
}

#[derive(Clone, Copy)]
enum Set {
    Train,
    Validation,
}

/// The schedule of the learning rate.
fn schedule(config: &TrainConfig) -> Schedule {
    let t = &config.train;
    let end = if t.decay_steps == 0 { t.steps } else { t.decay_steps };
    let warmup = Warmup { steps: t.warmup, from: WarmupFrom::FirstStep };
    match t.schedule {
        ScheduleKind::Cosine => Schedule::Cosine(Cosine { max: t.lr, min: t.min_lr, warmup, decay_steps: end }),
        // A cosine from `lr` to `lr`, which is constant.
        ScheduleKind::Constant => Schedule::Cosine(Cosine { max: t.lr, min: t.lr, warmup, decay_steps: end }),
        ScheduleKind::Wsd => Schedule::WarmupStableDecay(WarmupStableDecay {
            max: t.lr,
            min: t.min_lr,
            warmup,
            total_steps: end,
            decay_fraction: DECAY_FRACTION,
        }),
    }
}
